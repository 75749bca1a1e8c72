"""Read one HTTP/1.1 reply off bytes, cut anywhere. No socket, no clock."""

import sys
from functools import partial
from typing import Final

import httptools

from dragoman.core.errors import UpstreamProtocolError
from dragoman.server.transport.content_coding import BodyDecoder, CodingError, decoder_for
from dragoman.server.transport.plain_head import END, PlainHeads, ReplyHead, take_apart

# What one read may become by inflating; an honest reply shrinks to a tenth, not to a thousandth.
_MAX_INFLATED_BYTES: Final = 64 * 2**20
_INTERIM: Final = frozenset({100, 102, 103})  # 101 would be another protocol from there on
_BODILESS: Final = frozenset({204, 304})
_NOT_PARSED: Final = (httptools.HttpParserError, httptools.HttpParserUpgrade)
_NOT_HTTP: Final = "The model's server sent a reply that is not valid HTTP."
# Stands among the pieces of a body where it ends; nothing that a parser makes is this very object.
_END: Final = b"(end)"


class ReplyReader:
    """
    The replies on one connection: ``begin``, ``feed`` what was read until ``is_done``, and again.

    Another may begin while ``is_reusable``; ``close`` comes last. Interim (1xx) replies and
    trailers are read over. The part of a body before an error is returned all the same.

    Args:
        heads: Of the same server.
        max_header_bytes: Of a reply's head.

    Attributes:
        head: Of the reply, once it has come.
        is_done: Nothing more is to be fed: the body is complete, or there is an ``error``.
        is_reusable: The connection may carry another request; known when done.
    """

    __slots__ = (
        "_barren_bytes",
        "_begins",
        "_body_parser",
        "_decoder",
        "_fields",
        "_head_bytes",
        "_heads",
        "_is_head_request",
        "_left_bytes",
        "_max_header_bytes",
        "_n_pieces",
        "_parser",
        "_pieces",
        "error",
        "head",
        "is_done",
        "is_reusable",
        "on_body",
    )

    def __init__(self, heads: PlainHeads, *, max_header_bytes: int) -> None:
        self._heads = heads
        self._max_header_bytes = max_header_bytes
        self._pieces: list[bytes] = []
        # The parser calls this once per chunk: a method of C, so that no Python runs there.
        self.on_body = self._pieces.append
        self._begins: list[None] = []  # one for each message that has begun behind a plain head
        self._body_parser = self._new_body_parser()  # of all replies with plain heads
        self._fields: dict[bytes, bytes] = {}  # of a head that is not plain, like what follows
        self._decoder: BodyDecoder | None = None
        self._head_bytes = 0
        self._n_pieces = 0  # that were there when the reply was done
        self.error: UpstreamProtocolError | None = None
        self.begin("GET", 0)

    def begin(self, method: str, max_body_bytes: int) -> None:
        """Be ready for the reply to a request; 0 *max_body_bytes*: no limit here."""
        self._is_head_request = method == "HEAD"
        self._left_bytes = max_body_bytes or sys.maxsize  # that the body may still have
        self._parser: httptools.HttpResponseParser | None = None  # of a head that is not plain
        self.head: ReplyHead | None = None
        # Barren: read since the last byte of a body: heads, chunk extensions, trailers. Bounded
        # together.
        self._barren_bytes = 0
        self.is_done = self.is_reusable = False

    def feed(self, data: bytes) -> bytes:
        """Take what was read, return what it holds of the body."""
        if self._parser is not None:
            return self._feed_any(self._parser, data)
        head = self.head
        if head is None:
            self.head = head = self._feed_plain(data)
            if head is None:
                return self._feed_any(self._begin_any(), data)
        else:
            self._barren_bytes += len(data)
            try:
                self._body_parser.feed_data(data)
            except _NOT_PARSED as error:
                self._stop_body(error)
        pieces = self._pieces
        if not pieces:
            self._check_barren()
            return b""
        self._barren_bytes = 0
        if len(self._begins) > 1:
            self._cut_surplus()
        elif pieces[-1] is _END:
            pieces.pop()
            self.is_done, self.is_reusable = True, head.is_lasting
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        self._left_bytes -= len(body)
        if self._left_bytes < 0:
            self._fail_size()
            return b""
        return body

    def feed_eof(self) -> None:
        """Take note that the connection has ended."""
        if self.is_done:
            return
        if self.head is None or self.head.has_length:
            self._fail("The model's server closed the connection in the middle of its reply.")
            return
        self.is_done = True
        if self._parser is not None and self._decoder is not None:
            self._check_coding_ends(self._decoder)

    def close(self) -> None:
        """Let go of the parser that refers to us; nothing can be fed any more."""
        self._parser = None

    # -- behind a plain head

    def _feed_plain(self, data: bytes) -> ReplyHead | None:
        """
        Read how a reply begins, nearly always with a whole head, and a plain one: return that.

        Otherwise return None; nothing has changed then.
        """
        heads = self._heads
        if self._is_head_request:
            return None
        head = heads.last if data.startswith(heads.last_raw) else heads.find(data)
        if head is None:
            return self._feed_new(data)
        self._begins.clear()
        try:
            self._body_parser.feed_data(data)
        except _NOT_PARSED:
            self._forget_body()
            return None
        return head

    def _feed_new(self, data: bytes) -> ReplyHead | None:
        """Do that where such a head has not come lately."""
        raw = data[: data.find(END) + len(END)]
        head = take_apart(raw) if len(raw) <= self._max_header_bytes else None
        if head is None:
            return None
        self._begins.clear()
        try:
            self._body_parser.feed_data(raw)
            if self._pieces:  # without a body it is complete, and the parser has forgotten it
                self._forget_body()
                return None
            head.is_lasting = bool(self._body_parser.should_keep_alive())
            if len(data) > len(raw):
                self._body_parser.feed_data(data[len(raw) :])
        except _NOT_PARSED:
            self._forget_body()
            return None
        self._heads.keep(raw, head)
        return head

    def _new_body_parser(self) -> httptools.HttpResponseParser:
        return httptools.HttpResponseParser(_BodyEvents(self._pieces, self._begins))

    def _forget_body(self) -> None:
        """Have it as if nothing had been fed."""
        self._body_parser = self._new_body_parser()
        self._pieces.clear()

    def _stop_body(self, error: Exception) -> None:
        """End the reply where the parser has stopped, or before if it was complete by then."""
        if not self._cut_surplus():
            self._fail(_NOT_HTTP, str(error))

    def _cut_surplus(self) -> bool:
        """End the reply before what came behind its end; tell whether that is among the pieces."""
        ends = [n for n, piece in enumerate(self._pieces) if piece is _END]
        if ends:
            del self._pieces[ends[0] :]
            self.is_done = True  # and the connection is spoilt
        return bool(ends)

    # -- behind all others

    def _begin_any(self) -> httptools.HttpResponseParser:
        self._fields, self._decoder, self._head_bytes, self._n_pieces = {}, None, 0, 0
        parser = self._parser = httptools.HttpResponseParser(self)
        return parser

    def _feed_any(self, parser: httptools.HttpResponseParser, data: bytes) -> bytes:
        self._barren_bytes += len(data)
        try:
            parser.feed_data(data)
        except _NOT_PARSED as error:
            self._stop_parsing(error)
        pieces = self._pieces
        if not self.is_done:
            if not pieces:
                self._check_barren()
        elif len(pieces) > self._n_pieces:
            del pieces[self._n_pieces :]  # surplus
            self.is_reusable = False
        if pieces:
            self._barren_bytes = 0
        body = b"".join(pieces)
        pieces.clear()
        if self._decoder is not None:
            body = self._decode(self._decoder, body)
        self._left_bytes -= len(body)
        if self._left_bytes < 0:
            self._fail_size()
            return b""
        return body

    # -- called by the parser of those; after an error it goes on to the end of what it was fed

    def on_message_begin(self) -> None:
        if self.is_done:
            self.is_reusable = False  # bytes after the end

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.head is not None or self.is_done:
            return  # a trailer
        self._head_bytes += len(name) + len(value) + 4
        if self._head_bytes > self._max_header_bytes:
            self._fail_barren()
            return
        name, value = name.lower(), value.strip()
        known = self._fields.get(name)
        self._fields[name] = value if known is None else known + b", " + value

    def on_headers_complete(self) -> None:
        if self.head is not None or self.is_done or self._parser is None:
            return
        status = self._parser.get_status_code()
        if status < 200:
            self._fields.clear()
            if status not in _INTERIM:
                self._fail(_NOT_HTTP, f"status {status}")
            return
        self.head = ReplyHead(status, self._fields)
        self._barren_bytes = 0
        self._read_framing(status)
        if self._is_head_request:
            self.on_message_complete()

    def on_message_complete(self) -> None:
        if self.head is None or self.is_done or self._parser is None:
            return
        self.is_done = True
        self._n_pieces = len(self._pieces)
        # False without a length, so also where only the end of the connection ends the body.
        self.is_reusable = bool(self._parser.should_keep_alive())

    # --

    def _stop_parsing(self, error: Exception) -> None:
        self.is_reusable = False
        if not self.is_done:
            self._fail(_NOT_HTTP, str(error))

    def _read_framing(self, status: int) -> None:
        headers = self._fields
        coding = headers.get(b"transfer-encoding")
        if coding is not None and coding.lower() != b"chunked":
            self._fail("The model's server sent a reply in an unknown transfer-encoding.")
            return
        has_body = not self._is_head_request and status not in _BODILESS
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
        limit = min(self._left_bytes, _MAX_INFLATED_BYTES)
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

    def _check_barren(self) -> None:
        if self._barren_bytes > self._max_header_bytes:
            self._fail_barren()

    def _fail_barren(self) -> None:
        self._fail("The model's server sent oversized headers.")

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
    """What a parser tells behind a plain head. It calls nothing but methods of C."""

    __slots__ = ("on_body", "on_message_begin", "on_message_complete")

    def __init__(self, pieces: list[bytes], begins: list[None]) -> None:
        self.on_body = pieces.append
        self.on_message_begin = partial(begins.append, None)
        self.on_message_complete = partial(pieces.append, _END)
