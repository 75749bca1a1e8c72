"""
One request head: bytes cut anywhere in, typed fields out. No socket, no clock.

llhttp, inside httptools, judges the syntax and is strict: no bare CR or LF, no folded lines, no
space before a colon, no second Content-Length, none beside Transfer-Encoding. What it leaves to
its caller is checked here: RFC 9112, "Message Syntax", sections 3 and 6.
"""

from typing import Final
from urllib.parse import unquote_to_bytes

import httptools

from dragoman.core.errors import HeadersTooLarge, InvalidRequest
from dragoman.server.transport.seams import SentHeaders

MAX_FIELDS: Final = 200
_END: Final = b"\r\n\r\n"
_SLASH: Final = ord("/")


class RequestHead:
    """
    The head of one request: ``feed`` until it returns, then ``finish``, then read the fields.

    Attributes:
        path: Percent-decoded, without query; what is not UTF-8 in it is replaced.
        headers: Without Content-Length, so that they are the same for requests of any length.
        coding: Of the body, by the Content-Encoding; empty: none.
        content_length: Zero without a body and where the body is chunked.
        is_http11: Otherwise it is 1.0, which knows neither chunks nor interim replies.
        is_plain: Only its length says where the body ends, and it has no coding.
        keeps_alive: The client will send another request on this connection, perhaps.
    """

    __slots__ = (
        "_fields",
        "_has_repeated_host",
        "_is_complete",
        "_max_bytes",
        "_n_bytes",
        "_n_repeated",
        "_parser",
        "_tail",
        "_target",
        "coding",
        "content_length",
        "headers",
        "is_chunked",
        "is_http11",
        "is_plain",
        "keeps_alive",
        "method",
        "path",
        "query",
    )

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._n_bytes = self._n_repeated = 0
        self._is_complete = self._has_repeated_host = False
        self._target = self._tail = b""
        self._fields: dict[bytes, bytes] = {}
        self._parser = httptools.HttpRequestParser(self)

    def feed(self, data: bytes) -> bytes | None:
        """
        Take the next bytes; return those after the head, or None while it has not ended.

        Args:
            data: Any slice. The first may not begin with the empty lines that clients may send
                between requests.

        Raises:
            InvalidRequest: This is not HTTP.
            HeadersTooLarge: Over the limit of bytes.
        """
        tail = self._tail
        end = data.find(_END) if not tail else (tail + data).find(_END)
        if end < 0:
            self._tail = (tail + data)[-3:]
            self._parse(data)
            return None
        end += len(_END) - len(tail)
        self._parse(data[:end])
        return data[end:]

    def finish(self) -> None:
        """
        Check what was read, and fill in the fields.

        Raises:
            InvalidRequest: It is no HTTP/1 request that can be answered.
            HeadersTooLarge: Over the limit of fields.
        """
        parser, fields = self._parser, self._fields
        del self._parser  # they refer to each other
        if not self._is_complete:
            raise _malformed("the head ends too early")
        if len(fields) + self._n_repeated > MAX_FIELDS:
            raise HeadersTooLarge(f"The request has more than {MAX_FIELDS} header fields.")
        self.method = parser.get_method().decode("ascii")
        self._take_version(parser.get_http_version())
        self._take_target(self._target)
        self.content_length = int(fields.pop(b"content-length", 0))
        self.is_chunked = b"transfer-encoding" in fields
        if self.is_chunked:
            self._check_coding(fields[b"transfer-encoding"])
        self.coding = fields.get(b"content-encoding", b"")
        self.is_plain = not (self.is_chunked or self.coding)
        self.headers = SentHeaders(fields)

    def _parse(self, data: bytes) -> None:
        self._n_bytes += len(data)
        if self._n_bytes > self._max_bytes:
            raise HeadersTooLarge(f"The request head is larger than {self._max_bytes} bytes.")
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            return  # we stay with HTTP/1.1, and CONNECT is refused with the method
        except httptools.HttpParserError as error:
            raise _malformed(str(error)) from error

    def _take_version(self, version: str) -> None:
        fields = self._fields
        self.is_http11 = self.keeps_alive = version == "1.1"
        if not self.is_http11 and version != "1.0":
            raise _malformed("only versions 1.1 and 1.0 are spoken here")
        if b"connection" in fields and b"close" in _tokens(fields[b"connection"]):
            self.keeps_alive = False
        if self._has_repeated_host or (self.is_http11 and b"host" not in fields):
            raise _malformed("there must be one Host field")

    def _take_target(self, target: bytes) -> None:
        if target[0] != _SLASH and target != b"*":
            target = self._take_authority(target)
        path, _, query = target.partition(b"?")
        if b"%" in path:
            path = unquote_to_bytes(path)
        self.path = path.decode("utf-8", "replace")
        self.query = query.decode("latin-1")

    def _take_authority(self, target: bytes) -> bytes:
        """Cut the authority off the absolute form; it then counts instead of the Host field."""
        scheme, found, rest = target.partition(b"://")
        end = min((n for n in (rest.find(b"/"), rest.find(b"?")) if n >= 0), default=len(rest))
        authority = rest[:end]
        is_usable = found and scheme.lower() in (b"http", b"https") and authority
        if not is_usable or b"@" in authority or self.method == "CONNECT":
            raise _malformed("the target must be a path or an http URL")
        self._fields[b"host"] = authority
        rest = rest[end:]
        return rest if rest[:1] == b"/" else b"/" + rest

    def _check_coding(self, coding: bytes) -> None:
        if not self.is_http11 or coding.lower() != b"chunked":
            raise _malformed("chunked is the one transfer coding, and of HTTP/1.1")

    # -- called by the parser

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name in self._fields:
            self._repeat(name, value)
        else:
            self._fields[name] = value.rstrip()

    def on_headers_complete(self) -> None:
        self._is_complete = True

    def _repeat(self, name: bytes, value: bytes) -> None:
        self._n_repeated += 1
        if name == b"host":
            self._has_repeated_host = True
        elif self._n_repeated <= MAX_FIELDS:  # joining many would take the square of their time
            self._fields[name] += b", " + value.rstrip()


def _tokens(value: bytes) -> list[bytes]:
    return [token.strip() for token in value.lower().split(b",")]


def _malformed(reason: str) -> InvalidRequest:
    return InvalidRequest("", f"The request is not valid HTTP/1.1: {reason}.")
