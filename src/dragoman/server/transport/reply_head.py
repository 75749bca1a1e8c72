"""The head of a reply as bytes."""

from http import HTTPStatus
from typing import Final

from dragoman.server.transport.seams import HeaderList

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
CHUNKED: Final = b"transfer-encoding: chunked\r\n"
CLOSE: Final = b"connection: close\r\n"
_STATUS_LINES: Final = {
    **{status.value: f"HTTP/1.1 {status.value} {status.phrase}".encode() for status in HTTPStatus},
    529: b"HTTP/1.1 529 Overloaded",
}
_join_field: Final = b": ".join


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
    line = _STATUS_LINES.get(status) or b"HTTP/1.1 %d " % status
    head = b"\r\n".join((line, *map(_join_field, headers), extra + b"\r\n"))
    n_breaks = len(headers) + 2 + (extra.count(b"\n") if extra else 0)
    if len(head) - len(head.translate(None, b"\r\n\0")) != 2 * n_breaks:
        raise ValueError("a header of the reply holds a line break or NUL")
    return head


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
