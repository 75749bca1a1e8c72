"""
Undo a content coding piece by piece, so that a few bytes cannot become gigabytes unseen.

Sources: RFC 9110, 8.4.1 (codings); RFC 1950 to 1952; RFC 8878 and 9659 (zstd and its window).
"""

import zlib
from collections.abc import Callable, Iterator
from typing import Final, Protocol

import zstandard

_PIECE_BYTES: Final = 256 * 2**10
# Four bytes of zstd can stand for 128 KiB of equal bytes, and its decoder takes no limit: fed in
# slices of this size it makes 8 MiB at most before the caller sees the sum.
_ZSTD_SLICE_BYTES: Final = 256
_ZSTD_WINDOW_BYTES: Final = 8 * 2**20  # RFC 9659: more must not be needed for HTTP
# Members or frames that follow each other: each costs a new decoder, however few bytes it has.
_MAX_PARTS: Final = 1_000


class CodingError(Exception):
    """The coding is unknown, or the data is not what it says. The message completes "the body"."""


class BodyDecoder(Protocol):
    """Undoes one coding."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """
        Take the next bytes, cut anywhere; yield what they stand for in bounded pieces.

        Raises:
            CodingError: The data is broken.
        """
        ...

    @property
    def is_complete(self) -> bool:
        """Tell whether the body may end here; one without any bytes may."""
        ...


def decoder_for(codings: bytes) -> BodyDecoder | None:
    """
    Return what undoes *codings*, the value of a content-encoding header; None: nothing to undo.

    Raises:
        CodingError: A coding that is not known here, or several of them.
    """
    names = [name.strip().lower() for name in codings.split(b",")]
    wanted = [name for name in names if name not in {b"", b"identity"}]
    if not wanted:
        return None
    make = _DECODERS.get(wanted[0])
    if make is None or len(wanted) > 1:
        raise CodingError("has a content-encoding that is not supported")
    return make()


class _Zlib:
    """gzip, with any number of members; or deflate, with or without the zlib head."""

    def __init__(self, wbits: int | None) -> None:
        self._wbits = wbits  # None: read it off the first two bytes
        self._member = None if wbits is None else zlib.decompressobj(wbits)
        self._start = b""
        self._is_empty = True
        self._n_parts = 1

    @property
    def is_complete(self) -> bool:
        return self._is_empty or (self._member is not None and self._member.eof)

    def feed(self, data: bytes) -> Iterator[bytes]:
        self._is_empty = self._is_empty and not data
        if self._member is None:
            data = self._start = self._start + data
            if len(data) < 2:
                return
            self._member = zlib.decompressobj(_deflate_wbits(data))
            self._start = b""
        while data:
            if self._member.eof:
                self._member = self._next_member()
            yield from _pieces(self._member, data)
            data = self._member.unused_data

    def _next_member(self) -> "zlib._Decompress":
        if self._wbits is None:
            raise CodingError("goes on after its compressed data ends")
        self._n_parts = _count_part(self._n_parts)
        return zlib.decompressobj(self._wbits)


class _Zstd:
    """zstd, with any number of frames."""

    def __init__(self) -> None:
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES)
        self._frame = self._decompressor.decompressobj()
        self._is_empty = True
        self._n_parts = 1

    @property
    def is_complete(self) -> bool:
        return self._is_empty or self._frame.eof

    def feed(self, data: bytes) -> Iterator[bytes]:
        self._is_empty = self._is_empty and not data
        try:
            for start in range(0, len(data), _ZSTD_SLICE_BYTES):
                yield from self._slice(data[start : start + _ZSTD_SLICE_BYTES])
        except zstandard.ZstdError as error:
            raise CodingError("holds broken compressed data") from error

    def _slice(self, data: bytes) -> Iterator[bytes]:
        while data:
            if self._frame.eof:
                self._n_parts = _count_part(self._n_parts)
                self._frame = self._decompressor.decompressobj()
            if piece := self._frame.decompress(data):
                yield piece
            data = self._frame.unused_data if self._frame.eof else b""


def _pieces(member: "zlib._Decompress", data: bytes) -> Iterator[bytes]:
    try:
        while True:
            piece = member.decompress(data, _PIECE_BYTES)
            if piece:
                yield piece
            data = member.unconsumed_tail
            if len(piece) < _PIECE_BYTES:
                return
    except zlib.error as error:
        raise CodingError("holds broken compressed data") from error


def _count_part(n_parts: int) -> int:
    if n_parts >= _MAX_PARTS:
        raise CodingError("is compressed in too many parts")
    return n_parts + 1


def _deflate_wbits(start: bytes) -> int:
    """Tell zlib's head (RFC 1950, 2.2) from raw deflate, which many servers send instead."""
    is_zlib = start[0] & 0x0F == 8 and (start[0] << 8 | start[1]) % 31 == 0
    return zlib.MAX_WBITS if is_zlib else -zlib.MAX_WBITS


_DECODERS: Final[dict[bytes, Callable[[], BodyDecoder]]] = {
    b"gzip": lambda: _Zlib(16 + zlib.MAX_WBITS),
    b"x-gzip": lambda: _Zlib(16 + zlib.MAX_WBITS),
    b"deflate": lambda: _Zlib(None),
    b"zstd": _Zstd,
}
