"""
Heads of replies that hold nothing rare: taken apart at once, or not at all if they came before.

The parser of the body reads them, too, and is the judge of their syntax; in here is only what it
would have to call Python for, once for each field.
"""

import re
from typing import Final

from dragoman.server.transport.seams import Headers

_BEGIN: Final = b"HTTP/1.1 "
END: Final = b"\r\n\r\n"
_MAX_KNOWN_BYTES: Final = 2 * 2**10
_MAX_KNOWN: Final = 16
_KEEP_ALIVE_TIMEOUT: Final = re.compile(rb"timeout\s*=\s*([0-9]{1,6})")


class ReplyHead:
    """
    The head of a final reply.

    Attributes:
        is_lasting: Another reply can follow on the connection; the parser says so.
        has_length: Its framing says where the body ends; else only the end of the connection does.
        keep_alive_s: For how long the server promises to keep an idle connection; None: not said.
    """

    __slots__ = ("has_length", "headers", "is_lasting", "keep_alive_s", "status")

    def __init__(self, status: int, headers: Headers, *, is_lasting: bool = False) -> None:
        self.status, self.headers, self.is_lasting = status, headers, is_lasting
        self.has_length = b"transfer-encoding" in headers or b"content-length" in headers
        self.keep_alive_s = _keep_alive_in(headers)


class PlainHeads(dict[bytes, ReplyHead]):
    """
    Those of one server that came lately: engines send the same head all the time.

    Attributes:
        last: The one that came last.
        last_raw: Its bytes.
    """

    __slots__ = ("last", "last_raw")

    def __init__(self) -> None:
        super().__init__()
        self.last: ReplyHead | None = None
        self.last_raw = END

    def find(self, data: bytes) -> ReplyHead | None:
        """Return the head that *data* begins with, if it has come lately; it is the last then."""
        raw = data[: data.find(END) + len(END)]
        head = self.get(raw)
        if head is not None:
            self.last, self.last_raw = head, raw
        return head

    def keep(self, raw: bytes, head: ReplyHead) -> None:
        """Remember a head that the parser has accepted; it came last."""
        if len(raw) <= _MAX_KNOWN_BYTES:
            if len(self) >= _MAX_KNOWN:
                self.clear()
            self[raw] = self.last = head
            self.last_raw = raw


def _keep_alive_in(headers: Headers) -> int | None:
    """Return what the server promises by its Keep-Alive field."""
    value = headers.get(b"keep-alive")
    if value is None:
        return None
    match = _KEEP_ALIVE_TIMEOUT.search(value)
    return int(match[1]) if match else None


def take_apart(raw: bytes) -> ReplyHead | None:
    """Return the head that *raw* is; None: it has not come whole, or is not plain."""
    first, *lines = raw.split(b"\r\n")
    status = first[9:12]
    if not (raw.endswith(END) and first.startswith(_BEGIN) and status.isdigit()):
        return None
    headers: dict[bytes, bytes] = {}
    for line in lines[:-2]:  # behind the last one are two empty ones
        name, colon, value = line.partition(b":")
        if not colon or line[:1] <= b" ":  # as in a folded line
            return None
        name, value = name.lower(), value.strip()
        headers[name] = headers[name] + b", " + value if name in headers else value
    coding = headers.get(b"transfer-encoding", b"chunked")
    if status < b"200" or b"content-encoding" in headers or coding.lower() != b"chunked":
        return None
    return ReplyHead(int(status), headers)
