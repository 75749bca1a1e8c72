"""Inflate a request body while it comes, counting what comes out. No socket, no clock."""

from collections.abc import Iterator
from typing import Final

from dragoman.core.errors import InvalidRequest, RequestTooLarge
from dragoman.server.transport.content_coding import CodingError, decoder_for

_MAX_CODINGS: Final = 4


class Inflater:
    """
    Undo the content codings of one body.

    Args:
        content_encoding: The field's value: codings in the order in which they were applied.
        max_bytes: Of the inflated body, and of what comes out of each of several codings.

    Raises:
        InvalidRequest: A coding is unknown.
    """

    def __init__(self, content_encoding: bytes, max_bytes: int) -> None:
        names = content_encoding.split(b",")
        try:
            decoders = [decoder_for(name) for name in reversed(names[: _MAX_CODINGS + 1])]
        except CodingError as error:
            raise _unsupported(content_encoding) from error
        if len(names) > _MAX_CODINGS:
            raise _unsupported(content_encoding)
        self._decoders = [decoder for decoder in decoders if decoder is not None]
        self._max_bytes = max_bytes
        self._n_bytes = [0] * len(self._decoders)
        self._body = bytearray()

    def feed(self, data: bytes) -> None:
        """
        Take the next bytes as they were sent.

        Raises:
            RequestTooLarge: There is more than *max_bytes* in them.
            InvalidRequest: They are broken.
        """
        try:
            for piece in self._run(data, 0):
                self._body += piece
        except CodingError as error:
            raise _broken(str(error)) from error

    def close(self) -> bytes:
        """
        Return the whole body.

        Raises:
            InvalidRequest: The compressed data is cut short.
        """
        if not all(decoder.is_complete for decoder in self._decoders):
            raise _broken("is cut short")
        return bytes(self._body)

    def _run(self, data: bytes, number: int) -> Iterator[bytes]:
        """Send *data* through the decoder of this number and all that follow it."""
        if number == len(self._decoders):
            yield data
            return
        for piece in self._decoders[number].feed(data):
            self._n_bytes[number] += len(piece)
            if self._n_bytes[number] > self._max_bytes:
                raise _too_large(self._max_bytes)
            yield from self._run(piece, number + 1)


def _unsupported(content_encoding: bytes) -> InvalidRequest:
    shown = content_encoding[:100].decode("ascii", "replace")
    return InvalidRequest(
        "content-encoding",
        f"{shown!r} is not supported; send gzip, deflate, zstd or no compression",
        details={"error_code": "request_body_encoding_unsupported"},
    )


def _broken(reason: str) -> InvalidRequest:
    return InvalidRequest(
        "content-encoding",
        f"the body {reason}",
        details={"error_code": "request_body_encoding_invalid"},
    )


def _too_large(max_bytes: int) -> RequestTooLarge:
    return RequestTooLarge(
        f"The request body inflates to more than {max_bytes} bytes.",
        details={"error_code": "request_body_too_large_after_decoding"},
    )
