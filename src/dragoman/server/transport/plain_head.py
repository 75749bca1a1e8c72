"""
Heads of replies that hold nothing rare: taken apart at once, or not at all if they came before.

The parser of the body reads them, too, and is the judge of their syntax; in here is only what it
would have to call Python for, once for each field.
"""

import re
from typing import Final

from dragoman.server.transport.seams import Headers

_BEGIN: Final = b"HTTP/1.1 "
_END: Final = b"\r\n\r\n"
_MAX_KNOWN_BYTES: Final = 2 * 2**10
_MAX_KNOWN: Final = 16
_KEEP_ALIVE_TIMEOUT: Final = re.compile(rb"timeout\s*=\s*([0-9]{1,6})")


class PlainHead:
    """
    A final reply, of HTTP/1.1, whose body has no content coding.

    Attributes:
        has_length: Its framing says where the body ends; else only the end of the connection does.
        keep_alive_s: For how long the server promises to keep an idle connection; None: not said.
    """

    __slots__ = ("has_length", "headers", "keep_alive_s", "status")

    def __init__(self, status: int, headers: Headers) -> None:
        self.status, self.headers = status, headers
        self.has_length = b"transfer-encoding" in headers or b"content-length" in headers
        self.keep_alive_s = keep_alive_in(headers)


class PlainHeads:
    """
    Those of one server that came lately: engines send the same head all the time.

    Args:
        max_header_bytes: Longer ones are not plain.
    """

    def __init__(self, max_header_bytes: int) -> None:
        self._max_bytes = max_header_bytes
        self._known: dict[bytes, PlainHead] = {}

    def find(self, data: bytes) -> tuple[bytes, PlainHead] | None:
        """Return the head that *data* begins with, as bytes, too; None: not a whole plain one."""
        end = data.find(_END) + len(_END)
        raw = data[:end]
        head = self._known.get(raw)
        if head is None and end <= self._max_bytes:
            head = _take_apart(raw)
        return None if head is None else (raw, head)

    def keep(self, raw: bytes, head: PlainHead) -> None:
        """Remember a head that the parser has accepted."""
        known = self._known
        if raw not in known and len(raw) <= _MAX_KNOWN_BYTES:
            if len(known) >= _MAX_KNOWN:
                known.clear()
            known[raw] = head


def keep_alive_in(headers: Headers) -> int | None:
    """Return what the server promises by its Keep-Alive field."""
    value = headers.get(b"keep-alive")
    if value is None:
        return None
    match = _KEEP_ALIVE_TIMEOUT.search(value)
    return int(match[1]) if match else None


def _take_apart(raw: bytes) -> PlainHead | None:
    """Return the head that *raw* is, if it is one."""
    first, *lines = raw.split(b"\r\n")
    status = first[9:12]
    if not first.startswith(_BEGIN) or not status.isdigit() or status < b"200":
        return None
    headers: dict[bytes, bytes] = {}
    for line in lines[:-2]:  # behind the last one are two empty ones
        name, colon, value = line.partition(b":")
        if not colon or line[:1] <= b" ":  # as in a folded line
            return None
        name, value = name.lower(), value.strip()
        headers[name] = headers[name] + b", " + value if name in headers else value
    coding = headers.get(b"transfer-encoding", b"chunked")
    if b"content-encoding" in headers or coding.lower() != b"chunked":
        return None
    return PlainHead(int(status), headers)
