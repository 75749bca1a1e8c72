"""
Where a request body ends: counted by Content-Length, or chunked. No socket, no clock.

Source: RFC 9112, sections 6.3 and 7.1. Chunks are read here and not by the parser of heads because
that cannot tell where in the bytes a body ended, and what follows is another request.
"""

import re
from typing import Final

from dragoman.core.errors import InvalidRequest

# A size of up to 4 GiB, extensions that nobody reads, and the CR before the LF.
_SIZE_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,8})(?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?\r")
_TRAILER_LINE: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*\r")
_MAX_LINE_BYTES: Final = 4 * 2**10
_MAX_TRAILER_BYTES: Final = 16 * 2**10
# Sizes and extensions come on top of the body; a body cut into single bytes is an attack.
_FREE_FRAMING_BYTES: Final = 256 * 2**10

_SIZE, _DATA, _AFTER_DATA, _TRAILER, _END = range(5)


class LengthFraming:
    """A body of *length* bytes."""

    has_trailers = False

    def __init__(self, length: int) -> None:
        self.length = length
        self.n_left: int | None = length

    def take(self, data: bytes) -> tuple[bytes, bytes]:
        """Return which of *data* belongs to the body, and what follows it."""
        n_left = self.n_left or 0
        if len(data) <= n_left:
            self.n_left = n_left - len(data)
            return data, b""
        self.n_left = 0
        return data[:n_left], data[n_left:]


class ChunkedFraming:
    """
    A body in chunks.

    Attributes:
        n_left: None until its end was read, which is when it is 0.
        has_trailers: Fields stood behind the last chunk.
    """

    length = 0  # unknown

    def __init__(self) -> None:
        self.n_left: int | None = None
        self._state = _SIZE
        self._line = b""  # the beginning of a line whose end has not come
        self._chunk_left = 0
        self._n_body = self._n_framing = self._n_trailer = 0

    @property
    def has_trailers(self) -> bool:
        return self._n_trailer > 0

    def take(self, data: bytes) -> tuple[bytes, bytes]:
        """
        Return what of the body is in *data*, and what follows the body.

        Raises:
            InvalidRequest: This is no chunked body, or one that is nearly all framing.
        """
        data, self._line = self._line + data, b""
        pieces: list[bytes] = []
        start = 0
        while start < len(data) and self._state != _END:
            if self._state == _DATA:
                piece = data[start : start + self._chunk_left]
                start += self._take_piece(piece)
                pieces.append(piece)
                continue
            end = data.find(b"\n", start) + 1
            if not end:
                self._keep_line(data[start:])
                return b"".join(pieces), b""
            self._take_line(data[start : end - 1])
            start = end
        return b"".join(pieces), data[start:]

    def _take_piece(self, piece: bytes) -> int:
        n_bytes = len(piece)
        self._n_body += n_bytes
        self._chunk_left -= n_bytes
        if not self._chunk_left:
            self._state = _AFTER_DATA
        return n_bytes

    def _keep_line(self, line: bytes) -> None:
        is_wrong = self._state == _AFTER_DATA and line != b"\r"
        if is_wrong or len(line) > _MAX_LINE_BYTES:
            raise _bad_chunk()
        self._line = line

    def _take_line(self, line: bytes) -> None:
        self._n_framing += len(line) + 1
        if self._n_framing > self._n_body + _FREE_FRAMING_BYTES:
            raise InvalidRequest("", "The request body is cut into too many chunks.")
        if self._state == _AFTER_DATA:
            if line != b"\r":
                raise _bad_chunk()
            self._state = _SIZE
        elif self._state == _SIZE:
            self._take_size(line)
        else:
            self._take_trailer(line)

    def _take_size(self, line: bytes) -> None:
        match = _SIZE_LINE.fullmatch(line)
        if match is None or len(line) > _MAX_LINE_BYTES:
            raise _bad_chunk()
        self._chunk_left = int(match[1], 16)
        self._state = _DATA if self._chunk_left else _TRAILER

    def _take_trailer(self, line: bytes) -> None:
        """Drop a trailer field: nothing that we serve has a use for one."""
        if line == b"\r":
            self._state, self.n_left = _END, 0
            return
        self._n_trailer += len(line)
        if _TRAILER_LINE.fullmatch(line) is None or self._n_trailer > _MAX_TRAILER_BYTES:
            raise _bad_chunk()


def _bad_chunk() -> InvalidRequest:
    return InvalidRequest("", "The request is not valid HTTP/1.1: its chunks are malformed.")
