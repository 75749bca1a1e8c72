"""The head of a reply as bytes."""

from http import HTTPStatus
from typing import Final

from dragoman.server.transport.seams import HeaderList

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
CHUNKED: Final = b"transfer-encoding: chunked\r\n"
CLOSE: Final = b"connection: close\r\n"
_STATUS_LINES: Final = {
    **{
        status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode()
        for status in HTTPStatus
    },
    529: b"HTTP/1.1 529 Overloaded\r\n",
}


def render_head(status: int, headers: HeaderList, *, extra: bytes) -> bytes:
    """
    Return the head of a reply.

    Args:
        status: Any; the reason phrase of an unknown one is empty.
        headers: Names in lower case.
        extra: Whole lines to go with them.

    Raises:
        ValueError: A header would break out of its line: a bug of ours.
    """
    line = _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status
    fields = b"".join([b"%b: %b\r\n" % field for field in headers])
    n_fields = len(headers)
    if fields.count(b"\n") != n_fields or fields.count(b"\r") != n_fields or b"\0" in fields:
        raise ValueError("a header of the reply holds a line break or NUL")
    return b"%b%b%b\r\n" % (line, fields, extra)


def length_in(headers: HeaderList) -> int | None:
    """Return what the headers say of the body's length, if they do."""
    for name, value in headers:
        if name == b"content-length":
            return int(value)
    return None


def with_length(headers: HeaderList, body: bytes) -> HeaderList:
    """Return *headers* with the length of *body*, unless they have one."""
    if length_in(headers) is not None:
        return headers
    return [*headers, (b"content-length", b"%d" % len(body))]
