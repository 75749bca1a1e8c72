"""One request and the reply to it: the server's side of the seam."""

import asyncio
from typing import Final, Protocol

from dragoman.server.transport.http_body import RequestBody, body_too_large
from dragoman.server.transport.http_head import RequestHead
from dragoman.server.transport.reply_head import (
    BODILESS,
    CHUNKED,
    CLOSE,
    CLOSE_FIELD,
    length_in,
    render_head,
    render_whole,
)
from dragoman.server.transport.seams import ClientGone, ExchangeWatcher, HeaderList, SentHeaders

# A reply may take minutes, and nobody reads the request's headers by then.
_FORGOTTEN: Final = SentHeaders()
_LAST_CHUNK: Final = b"0\r\n\r\n"


class Closing(Protocol):
    """What an exchange asks of its server."""

    is_closing: bool


class Link(Protocol):
    """What an exchange asks of its connection."""

    @property
    def site(self) -> Closing:
        """Return whose connection it is."""
        ...

    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport
    peer: str
    is_write_paused: bool

    def may_go_on(self, exchange: "HttpExchange") -> bool:
        """Tell whether another request can follow."""
        ...

    def receive_body(self, exchange: "HttpExchange") -> None:
        """Ask the client for the rest of the body, and limit the time for it."""

    def end_exchange(self, exchange: "HttpExchange") -> None:
        """Take note that the reply has been written."""

    def abort(self) -> None:
        """Cut the connection."""


class HttpExchange:
    """
    Implements ``Exchange``. One per request, so that a late call cannot reach the next reply.

    Attributes:
        is_started: The reply has a head, or the client will never see one.
        is_over: Nothing more can be written: the reply has ended, was cut, or the client is gone.
        closes: The connection ends with this reply; known once it is started.
        task: Runs the handler.
    """

    __slots__ = (
        "_body",
        "_connection",
        "_head",
        "_is_aborted",
        "_is_bodiless",
        "_is_chunked",
        "_is_http11",
        "_left",
        "_transport",
        "_watcher",
        "_whole",
        "closes",
        "gone",
        "headers",
        "is_over",
        "is_started",
        "method",
        "path",
        "peer",
        "query",
        "task",
    )

    task: asyncio.Task[None]  # set by whoever starts it
    # Of a reply that comes in pieces; set when it is started.
    _head: bytes  # held back for the first write: one packet, one system call
    _is_bodiless: bool
    _is_chunked: bool
    _left: int | None  # bytes that content-length still promises

    def __init__(
        self, connection: Link, request: RequestHead, body: RequestBody | None, whole: bytes | None
    ) -> None:
        self.method = request.method
        self.path = request.path
        self.query = request.query
        self.headers = request.headers
        self.peer = connection.peer
        self.gone = self.is_started = self.is_over = self._is_aborted = False
        self.closes = not request.keeps_alive
        self._is_http11 = request.is_http11
        self._connection = connection
        self._body = body
        self._whole = whole  # it came with the head and needs no inflating; None: see the body
        self._watcher: ExchangeWatcher | None = None
        self._transport: asyncio.Transport | None = None  # while the reply can be written

    @property
    def expects_continue(self) -> bool:
        """Tell whether the client waits for us to ask for the body."""
        body = self._body
        if body is None or body.n_received or self.is_started or not self._is_http11:
            return False
        return self.headers.get(b"expect", b"").lower() == b"100-continue"

    def body_at_hand(self, max_bytes: int) -> bytes | None:
        whole = self._whole
        if whole is None or self.gone or len(whole) > max_bytes:
            return None
        self._whole = None
        return whole

    async def read_body(self, max_bytes: int) -> bytes:
        if self.gone:
            raise ClientGone
        body = self._body
        if body is None:
            return self._take_whole(max_bytes)
        body.want(max_bytes)
        if not body.is_over:
            self._connection.receive_body(self)
            await body.wait()
        return body.take()

    def watch(self, watcher: ExchangeWatcher | None) -> None:
        if watcher is not None and self.gone:
            watcher.on_gone()
            return
        self._watcher = watcher
        if watcher is not None and self._connection.is_write_paused and not self.is_over:
            watcher.on_pause()

    def reply_whole(
        self, status: int, headers: HeaderList, body: bytes, lines: bytes = b""
    ) -> None:
        if self.is_over or self.is_started:
            self._check_not_started()
            return
        connection = self._connection
        # Nearly always there is nothing to ask it for.
        if self.closes or self._body is not None or connection.site.is_closing:
            self.closes = self.closes or not connection.may_go_on(self)
        if self.closes:
            headers = [*headers, CLOSE_FIELD]
        sent = b"" if self.method == "HEAD" or status in BODILESS else body
        connection.transport.write(render_whole(status, headers, len(body), sent, lines))
        self.is_started = self.is_over = True
        self.headers, self._watcher = _FORGOTTEN, None
        connection.end_exchange(self)

    def start_reply(self, status: int, headers: HeaderList, lines: bytes = b"") -> None:
        if self.is_over or self.is_started:
            self._check_not_started()
            return
        connection = self._connection
        self._left = length = length_in(headers)
        self._is_bodiless = self.method == "HEAD" or status in BODILESS
        is_unbounded = length is None and not self._is_bodiless
        self._is_chunked = is_unbounded and self._is_http11
        self.closes = (
            self.closes or (is_unbounded and not self._is_chunked) or not connection.may_go_on(self)
        )
        if self._is_chunked:
            lines += CHUNKED
        if self.closes:
            lines += CLOSE
        self._head = render_head(status, headers, lines=lines)
        self.is_started = True
        self.headers = _FORGOTTEN
        self._transport = connection.transport
        if is_unbounded:  # its first event may take long; a whole body is there already
            connection.loop.call_soon(self._send_head)

    def write(self, data: bytes) -> None:
        transport = self._transport
        if transport is None:
            self._check_not_ended()
            return
        if self._is_bodiless or not data:  # an empty chunk would end the body
            return
        if self._is_chunked:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        elif self._left is not None:
            if len(data) > self._left:
                raise RuntimeError("the reply is longer than its content-length")
            self._left -= len(data)
        if self._head:
            data = self._head + data
            self._head = b""
        transport.write(data)

    def end_reply(self) -> None:
        transport = self._transport
        if transport is None:
            self._check_not_ended()
            return
        if self._left and not self._is_bodiless:
            raise RuntimeError(f"the reply ends {self._left} bytes short of its content-length")
        if self._is_chunked:
            transport.write(self._head + _LAST_CHUNK)
        elif self._head:
            transport.write(self._head)
        self.is_over, self._head = True, b""
        self._transport = self._watcher = None
        self._connection.end_exchange(self)

    def abort(self) -> None:
        if not self.is_over:
            self._is_aborted = True
            self._finish()
            self._connection.abort()

    def leave(self) -> None:
        """Take note that the client has left; called by the connection."""
        self.gone = True
        if self._body is not None:
            self._body.fail(ClientGone())
        watcher = self._watcher
        if not self.is_over:
            self._finish()
            if watcher is not None:
                watcher.on_gone()

    def pause(self) -> None:
        """Pass on that the client reads too slowly."""
        if self._watcher is not None:
            self._watcher.on_pause()

    def resume(self) -> None:
        """Pass on that the client has caught up."""
        if self._watcher is not None:
            self._watcher.on_resume()

    def _take_whole(self, max_bytes: int) -> bytes:
        whole, self._whole = self._whole, None
        if whole is None:
            raise RuntimeError("the body of a request can be read once")
        if len(whole) > max_bytes:
            raise body_too_large(max_bytes)
        return whole

    def _send_head(self) -> None:
        """Send a head for which no body has come in the same round of the loop."""
        head, self._head = self._head, b""
        if head and self._transport is not None:
            self._transport.write(head)

    def _finish(self) -> None:
        self.is_over = True
        self._transport = self._watcher = None
        self._head = b""

    def _check_not_started(self) -> None:
        if not self.is_over:
            raise RuntimeError("the reply was started twice")
        self._check_not_ended()

    def _check_not_ended(self) -> None:
        """Nothing can be written to a client that has left; all else is a bug of the caller."""
        if not self.gone and not self._is_aborted:
            raise RuntimeError(f"the reply has {'ended' if self.is_started else 'no head yet'}")
