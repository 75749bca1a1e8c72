"""Read one HTTP/1.1 reply off bytes, cut anywhere. No socket, no clock."""

import re
import sys
from typing import Final

import httptools

from dragoman.core.errors import UpstreamProtocolError
from dragoman.server.transport.content_coding import BodyDecoder, CodingError, decoder_for

# What one read may become by inflating; an honest reply shrinks to a tenth, not to a thousandth.
_MAX_INFLATED_BYTES: Final = 64 * 2**20
_INTERIM: Final = frozenset({100, 102, 103})  # 101 would be another protocol from there on
_BODILESS: Final = frozenset({204, 304})
_KEEP_ALIVE_TIMEOUT: Final = re.compile(rb"timeout\s*=\s*([0-9]{1,6})")
_NOT_HTTP: Final = "The model's server sent a reply that is not valid HTTP."


class ReplyReader:
    """
    The reply to one request: ``feed`` what was read until ``is_done``, then ``close``.

    Interim (1xx) replies and trailers are read over. The part of a body before an error is
    returned all the same.

    Attributes:
        has_head: ``status`` and ``headers`` are there.
        is_done: Nothing more is to be fed: the body is complete, or there is an ``error``.
        is_reusable: The connection may carry another request; known when done.
        keep_alive_s: For how long the server promises to keep an idle connection; None: not said.
    """

    __slots__ = (
        "_barren_bytes",
        "_body_bytes",
        "_decoder",
        "_head_bytes",
        "_is_head_request",
        "_is_until_eof",
        "_max_body_bytes",
        "_max_header_bytes",
        "_n_pieces",
        "_parser",
        "_pieces",
        "error",
        "has_head",
        "headers",
        "is_done",
        "is_reusable",
        "keep_alive_s",
        "on_body",
        "status",
    )

    def __init__(self, method: str, *, max_header_bytes: int, max_body_bytes: int) -> None:
        self._is_head_request = method == "HEAD"
        self._max_header_bytes = max_header_bytes
        self._max_body_bytes = max_body_bytes or sys.maxsize
        self._pieces: list[bytes] = []
        self._n_pieces = 0  # that were there when the reply was done
        # The parser calls this once per chunk: a method of C, so that no Python runs there.
        self.on_body = self._pieces.append
        self._parser = httptools.HttpResponseParser(self)
        self._decoder: BodyDecoder | None = None
        self._is_until_eof = False
        self._head_bytes = self._body_bytes = 0
        # Read since the last byte of a body: heads, chunk extensions, trailers. Bounded together.
        self._barren_bytes = 0
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.has_head = self.is_done = self.is_reusable = False
        self.keep_alive_s: int | None = None
        self.error: UpstreamProtocolError | None = None

    def feed(self, data: bytes) -> bytes:
        """Take what was read, return what it holds of the body."""
        self._barren_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._stop_parsing(error)
        pieces = self._pieces
        if self.is_done:
            self._drop_surplus()
        elif self._barren_bytes > self._max_header_bytes and not pieces:
            self._fail("The model's server sent oversized headers.")
        if pieces:
            self._barren_bytes = 0
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        if self._decoder is not None:
            body = self._decode(self._decoder, body)
        self._body_bytes += len(body)
        if self._body_bytes > self._max_body_bytes:
            self._fail_size()
            return b""
        return body

    def feed_eof(self) -> None:
        """Take note that the connection has ended."""
        if self.is_done:
            return
        if not (self.has_head and self._is_until_eof):
            self._fail("The model's server closed the connection in the middle of its reply.")
            return
        self._complete()
        if self._decoder is not None:
            self._check_coding_ends(self._decoder)

    def close(self) -> None:
        """Let go of the parser and of each other; the reply cannot be fed any more."""
        del self._parser, self.on_body

    # -- called by the parser; after an error it goes on to the end of what it was fed

    def on_message_begin(self) -> None:
        if self.is_done:
            self.is_reusable = False  # bytes after the end

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.has_head or self.is_done:
            return  # a trailer
        self._head_bytes += len(name) + len(value) + 4
        if self._head_bytes > self._max_header_bytes:
            self._fail("The model's server sent oversized headers.")
            return
        name, value = name.lower(), value.strip()
        known = self.headers.get(name)
        self.headers[name] = value if known is None else known + b", " + value

    def on_headers_complete(self) -> None:
        if self.has_head or self.is_done:
            return
        status = self._parser.get_status_code()
        if status < 200:
            self.headers.clear()
            if status not in _INTERIM:
                self._fail(_NOT_HTTP, f"status {status}")
            return
        self.status, self.has_head = status, True
        self._barren_bytes = 0
        self._read_framing()
        if self._is_head_request:
            self._complete()

    def on_message_complete(self) -> None:
        if self.has_head:
            self._complete()

    # --

    def _read_framing(self) -> None:
        headers = self.headers
        coding = headers.get(b"transfer-encoding")
        if coding is not None and coding.lower() != b"chunked":
            self._fail("The model's server sent a reply in an unknown transfer-encoding.")
            return
        self._is_until_eof = coding is None and b"content-length" not in headers
        if match := _KEEP_ALIVE_TIMEOUT.search(headers.get(b"keep-alive", b"")):
            self.keep_alive_s = int(match[1])
        has_body = not self._is_head_request and self.status not in _BODILESS
        if has_body and b"content-encoding" in headers:
            self._read_coding(headers[b"content-encoding"])

    def _read_coding(self, codings: bytes) -> None:
        try:
            self._decoder = decoder_for(codings)
        except CodingError as error:
            self._fail_coding(error)
        if self._decoder is not None:  # what is handed on is neither coded nor as long
            del self.headers[b"content-encoding"]
            self.headers.pop(b"content-length", None)

    def _decode(self, decoder: BodyDecoder, data: bytes) -> bytes:
        pieces: list[bytes] = []
        limit = min(self._max_body_bytes - self._body_bytes, _MAX_INFLATED_BYTES)
        try:
            for piece in decoder.feed(data):
                limit -= len(piece)
                if limit < 0:
                    self._fail_size()
                    return b""
                pieces.append(piece)
        except CodingError as error:
            self._fail_coding(error)
        if self.is_done:
            self._check_coding_ends(decoder)
        return b"".join(pieces)

    def _check_coding_ends(self, decoder: BodyDecoder) -> None:
        if not decoder.is_complete:
            self._fail("The model's server sent a compressed reply that is cut short.")

    def _drop_surplus(self) -> None:
        if len(self._pieces) > self._n_pieces:
            del self._pieces[self._n_pieces :]
            self.is_reusable = False

    def _stop_parsing(self, error: Exception) -> None:
        self.is_reusable = False
        if not self.is_done:
            self._fail(_NOT_HTTP, str(error))

    def _complete(self) -> None:
        if self.is_done:
            return
        self.is_done = True
        self._n_pieces = len(self._pieces)
        # False without a length, so also where only the end of the connection ends the body.
        self.is_reusable = bool(self._parser.should_keep_alive())

    def _fail_size(self) -> None:
        self._fail("The model's server sent a reply that is too large.")

    def _fail_coding(self, error: CodingError) -> None:
        self._fail(f"The model's server sent a reply whose body {error}.")

    def _fail(self, message: str, log_detail: str = "") -> None:
        if not self.is_done:
            self.is_done = True
            self._n_pieces = len(self._pieces)
        self.is_reusable = False
        if self.error is None:
            self.error = UpstreamProtocolError(message, log_detail=log_detail)
