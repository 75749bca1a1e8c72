"""Read one HTTP/1.1 reply off bytes, cut anywhere. No socket, no clock."""

import sys
from functools import partial
from typing import Final

import httptools

from dragoman.core.errors import UpstreamProtocolError
from dragoman.server.transport.content_coding import BodyDecoder, CodingError, decoder_for
from dragoman.server.transport.plain_head import END, PlainHeads, keep_alive_in, take_apart
from dragoman.server.transport.seams import NO_HEADERS, Headers

# What one read may become by inflating; an honest reply shrinks to a tenth, not to a thousandth.
_MAX_INFLATED_BYTES: Final = 64 * 2**20
_INTERIM: Final = frozenset({100, 102, 103})  # 101 would be another protocol from there on
_BODILESS: Final = frozenset({204, 304})
_NOT_PARSED: Final = (httptools.HttpParserError, httptools.HttpParserUpgrade)
_NOT_HTTP: Final = "The model's server sent a reply that is not valid HTTP."


class ReplyReader:
    """
    The replies on one connection: ``begin``, ``feed`` what was read until ``is_done``, and again.

    Another may begin while ``is_reusable``; ``close`` comes last. Interim (1xx) replies and
    trailers are read over. The part of a body before an error is returned all the same.

    Args:
        heads: Of the same server.
        max_header_bytes: Of a reply's head.

    Attributes:
        has_head: ``status`` and ``headers`` are there.
        is_done: Nothing more is to be fed: the body is complete, or there is an ``error``.
        is_reusable: The connection may carry another request; known when done.
        keep_alive_s: For how long the server promises to keep an idle connection; None: not said.
    """

    __slots__ = (
        "_barren_bytes",
        "_begins",
        "_body_bytes",
        "_body_parser",
        "_decoder",
        "_fields",
        "_head_bytes",
        "_heads",
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

    def __init__(self, heads: PlainHeads, *, max_header_bytes: int) -> None:
        self._heads = heads
        self._max_header_bytes = max_header_bytes
        self._pieces: list[bytes] = []
        # The parser calls this once per chunk: a method of C, so that no Python runs there.
        self.on_body = self._pieces.append
        self._begins: list[None] = []  # one for each message that has begun behind a plain head
        self._body_parser: httptools.HttpResponseParser | None = None  # of all with plain heads
        self._fields: dict[bytes, bytes] = {}  # of a head that is not plain
        self.error: UpstreamProtocolError | None = None
        self.begin("GET", max_body_bytes=0)

    def begin(self, method: str, *, max_body_bytes: int) -> None:
        """Be ready for the reply to a request; 0 *max_body_bytes*: no limit here."""
        self._is_head_request = method == "HEAD"
        self._max_body_bytes = max_body_bytes or sys.maxsize
        self._parser: httptools.HttpResponseParser | None = None  # none before the first byte
        self._decoder: BodyDecoder | None = None
        self._n_pieces = 0  # that were there when the reply was done
        # Barren: read since the last byte of a body: heads, chunk extensions, trailers. Bounded
        # together.
        self._barren_bytes = self._head_bytes = self._body_bytes = self.status = 0
        self._is_until_eof = self.has_head = self.is_done = self.is_reusable = False
        self.headers: Headers = NO_HEADERS
        self.keep_alive_s: int | None = None

    def feed(self, data: bytes) -> bytes:
        """Take what was read, return what it holds of the body."""
        parser = self._parser
        if parser is None and not self._feed_plain(data):
            self._fields = {}
            parser = self._parser = httptools.HttpResponseParser(self)
        if parser is not None:
            self._barren_bytes += len(data)
            try:
                parser.feed_data(data)
            except _NOT_PARSED as error:
                self._stop_parsing(error)
        pieces = self._pieces
        if self.is_done:
            if len(pieces) > self._n_pieces or len(self._begins) > 1:
                self._drop_surplus()
        elif not pieces and self._barren_bytes > self._max_header_bytes:
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
        self.complete()
        if self._decoder is not None:
            self._check_coding_ends(self._decoder)

    def close(self) -> None:
        """Let go of the parsers, which refer to us; nothing can be fed any more."""
        self._parser = self._body_parser = None

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
        known = self._fields.get(name)
        self._fields[name] = value if known is None else known + b", " + value

    def on_headers_complete(self) -> None:
        if self.has_head or self.is_done or self._parser is None:
            return
        status = self._parser.get_status_code()
        if status < 200:
            self._fields.clear()
            if status not in _INTERIM:
                self._fail(_NOT_HTTP, f"status {status}")
            return
        self.status, self.has_head, self.headers = status, True, self._fields
        self._barren_bytes = 0
        self._read_framing()
        if self._is_head_request:
            self.complete()

    def on_message_complete(self) -> None:
        if self.has_head:
            self.complete()

    def complete(self) -> None:
        """Take note that the body has ended, however that was known."""
        if self.is_done or self._parser is None:
            return
        self.is_done = True
        self._n_pieces = len(self._pieces)
        # False without a length, so also where only the end of the connection ends the body.
        self.is_reusable = bool(self._parser.should_keep_alive())

    # --

    def _feed_plain(self, data: bytes) -> bool:
        """
        Read how a reply begins: nearly always with a whole head, and a plain one.

        Otherwise return False; nothing has changed then.
        """
        raw = data[: data.find(END) + len(END)]
        known = self._heads.get(raw)
        head = known or (take_apart(raw) if len(raw) <= self._max_header_bytes else None)
        if head is None or self._is_head_request or not self._feed_body(data):
            return False
        self.status, self.headers, self.has_head = head.status, head.headers, True
        self.keep_alive_s, self._is_until_eof = head.keep_alive_s, not head.has_length
        if known is None:
            self._heads.keep(raw, head)
        return True

    def _feed_body(self, data: bytes) -> bool:
        """Read the body behind a plain head; if that is none, return False with nothing changed."""
        parser = self._parser = self._body_parser
        if parser is None:
            parser = httptools.HttpResponseParser(_BodyEvents(self, self._begins))
            self._parser = self._body_parser = parser
        self._begins.clear()
        try:
            parser.feed_data(data)
        except _NOT_PARSED:
            self._body_parser = None
            self._pieces.clear()
            self._begins.clear()
            self._n_pieces, self.is_done, self.is_reusable = 0, False, False
            return False
        return True

    def _stop_parsing(self, error: Exception) -> None:
        self.is_reusable = False
        if not self.is_done:
            self._fail(_NOT_HTTP, str(error))

    def _read_framing(self) -> None:
        headers = self._fields
        coding = headers.get(b"transfer-encoding")
        if coding is not None and coding.lower() != b"chunked":
            self._fail("The model's server sent a reply in an unknown transfer-encoding.")
            return
        self._is_until_eof = coding is None and b"content-length" not in headers
        self.keep_alive_s = keep_alive_in(headers)
        has_body = not self._is_head_request and self.status not in _BODILESS
        if has_body and b"content-encoding" in headers:
            self._read_coding(headers[b"content-encoding"])

    def _read_coding(self, codings: bytes) -> None:
        try:
            self._decoder = decoder_for(codings)
        except CodingError as error:
            self._fail_coding(error)
        if self._decoder is not None:  # what is handed on is neither coded nor as long
            del self._fields[b"content-encoding"]
            self._fields.pop(b"content-length", None)

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
        del self._pieces[self._n_pieces :]
        self.is_reusable = False

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


class _BodyEvents:
    """What a parser says behind a plain head; Python is called once, at the end of the body."""

    __slots__ = ("on_body", "on_message_begin", "on_message_complete")

    def __init__(self, reader: ReplyReader, begins: list[None]) -> None:
        self.on_body = reader.on_body
        self.on_message_begin = partial(begins.append, None)
        self.on_message_complete = reader.complete
