"""The head of a reply as bytes."""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Final

from dragoman.server.transport.seams import HeaderList

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
CHUNKED: Final = b"transfer-encoding: chunked\r\n"
BODILESS: Final = frozenset({204, 304})
CLOSE: Final = b"connection: close\r\n"
CLOSE_FIELD: Final = (b"connection", b"close")
_STATUS_LINES: Final = {
    **{status.value: f"HTTP/1.1 {status.value} {status.phrase}".encode() for status in HTTPStatus},
    529: b"HTTP/1.1 529 Overloaded",
}
_WHOLE_BEGINS: Final = {
    status: line + b"\r\ncontent-length: %d" for status, line in _STATUS_LINES.items()
}
_OTHER_BEGIN: Final = b"HTTP/1.1 %d \r\ncontent-length: %%d"
_CR, _LF, _NUL = b"\r\n\0"
_join_field: Final = b": ".join


def render_whole(
    status: int, headers: HeaderList, n_bytes: int, body: bytes, lines: bytes = b""
) -> bytes:
    """
    Return a whole reply.

    Args:
        status: Any; the reason phrase of an unknown one is empty.
        headers: Names in lower case, without content-length.
        n_bytes: What that says; of a reply to HEAD it is not the length of the body.
        body: As it is sent.
        lines: Further headers, as whole lines.

    Raises:
        ValueError: A header would break out of its line: a bug of ours.
    """
    fields = [*map(_join_field, headers)]
    _check(fields)
    begin = _WHOLE_BEGINS.get(status) or _OTHER_BEGIN % status
    return b"\r\n".join((begin % n_bytes, *fields, lines, body))


def render_head(status: int, headers: HeaderList, *, lines: bytes) -> bytes:
    """
    Return the head of a reply.

    Args:
        status: Any; the reason phrase of an unknown one is empty.
        headers: Names in lower case.
        lines: Further ones, as whole lines.

    Raises:
        ValueError: A header would break out of its line: a bug of ours.
    """
    line = _STATUS_LINES.get(status) or b"HTTP/1.1 %d " % status
    fields = [*map(_join_field, headers)]
    _check(fields)
    return b"\r\n".join((line, *fields, lines, b""))


def _check(fields: Sequence[bytes]) -> None:
    """Look at all of them at once, for each byte by its number: others cost several times that."""
    together = b"".join(fields)
    if _LF in together or _CR in together or _NUL in together:
        raise ValueError("a header of the reply holds a line break or NUL")


def length_in(headers: HeaderList) -> int | None:
    """Return what the headers say of the body's length, if they do."""
    for name, value in headers:
        if name == b"content-length":
            return int(value)
    return None


def with_length(headers: HeaderList, body: bytes) -> HeaderList:
    """Return *headers* with the length of *body*."""
    return [*headers, (b"content-length", b"%d" % len(body))]
