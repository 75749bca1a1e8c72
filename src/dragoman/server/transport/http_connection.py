"""One connection of a client: requests one after the other, each bounded in bytes and time."""

import asyncio
import math
from typing import Final, cast

from dragoman.core.errors import GatewayError, Overloaded, RequestTimeout
from dragoman.server.transport.framing import ChunkedFraming, LengthFraming
from dragoman.server.transport.head_memo import KnownHead
from dragoman.server.transport.http_body import QUARTERS, RequestBody
from dragoman.server.transport.http_exchange import HttpExchange
from dragoman.server.transport.http_head import RequestHead
from dragoman.server.transport.http_site import Site
from dragoman.server.transport.reply_head import CLOSE_FIELD, CONTINUE, render_whole
from dragoman.server.transport.seams import ClientGone

# What is read of later requests while one is being answered. Reading stops beyond it, and with it
# we no longer see a client leave, so it is more than any honest client sends ahead.
_MAX_AHEAD_BYTES: Final = 64 * 2**10
# What is read of a body that nobody has asked for yet.
_MAX_HELD_BYTES: Final = 256 * 2**10
# A rest of a body that is worth reading to keep the connection.
_MAX_DRAINED_BYTES: Final = 64 * 2**10
_DRAIN_S: Final = 5.0
# A client that sends all of its body before it looks for a reply would get a reset instead of the
# reply if we closed at once: so long and so much we go on reading. RFC 9112, section 9.6.
_LINGER_S: Final = 5.0
_MAX_LINGER_BYTES: Final = 64 * 2**20
# A client that takes nothing of a reply from one look to the next holds memory for nothing.
_STALL_S: Final = 60.0
# Connections over the limit are given a reply if they ask for one soon, and only so many.
_SURPLUS_S: Final = 1.0
_MAX_SURPLUS: Final = 128
_NEVER: Final = math.inf


class Connection(asyncio.Protocol):
    """One connection. It is at a head, at an exchange, at what is left of a body, or ending."""

    __slots__ = (
        "_ahead",
        "_body",
        "_exchange",
        "_head",
        "_is_ending",
        "_is_read_paused",
        "_is_resting",
        "_is_surplus",
        "_linger_left",
        "_unsent_bytes",
        "deadline_s",
        "is_write_paused",
        "known_head",
        "loop",
        "peer",
        "site",
        "stall_deadline_s",
        "transport",
    )

    transport: asyncio.Transport

    def __init__(self, site: Site, loop: asyncio.AbstractEventLoop) -> None:
        self.site = site
        self.loop = loop
        self.peer = ""
        self.known_head: KnownHead | None = None  # of the request before
        self._head: RequestHead | None = None  # that is being read
        self._exchange: HttpExchange | None = None  # whose reply has not ended
        self._body: RequestBody | None = None  # that has not ended; may outlive its exchange
        self._ahead = bytearray()  # what came after the request being answered
        self._is_ending = self._is_read_paused = self._is_surplus = self.is_write_paused = False
        self._is_resting = False  # a reply has ended, and nothing is left to do since
        self._linger_left = 0
        self.deadline_s = self.stall_deadline_s = self._unsent_bytes = _NEVER

    @property
    def is_idle(self) -> bool:
        """Tell whether nothing of a request has come, and nothing is under way."""
        return self._head is None and self._exchange is None and not self._ahead

    # -- called by the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass of it
        self.peer = str((transport.get_extra_info("peername") or ("",))[0])
        site = self.site
        site.connections.add(self)
        n_surplus = len(site.connections) - site.limits.max_connections
        if site.is_closing or n_surplus > _MAX_SURPLUS:
            self.abort()
        self._is_surplus = n_surplus > 0
        timeout_s = _SURPLUS_S if self._is_surplus else site.limits.header_timeout_s
        self.deadline_s = site.deadline(timeout_s)

    def data_received(self, data: bytes) -> None:
        if self._is_resting:
            self._is_resting = False
            known = self.known_head
            if known is not None and (found := known.split(data)) is not None:
                self._start_exchange(known.fields, found[0], found[1])
            else:
                self._feed_head(data)
        elif self._is_ending:
            self._linger_on(len(data))
        elif self._body is not None:
            self._feed_body(self._body, data)
        elif self._exchange is not None or self._ahead or self.is_write_paused:
            self._read_ahead(data)
        else:
            self._feed_head(data)

    def eof_received(self) -> bool:
        """Count a client that only stops sending as gone: nobody can tell the two apart."""
        if self._exchange is not None:
            self._leave()
            self.transport.abort()
        return False

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 (asyncio's name)
        self.site.connections.discard(self)
        self._leave()
        if self.site.is_closing:
            self.site.note_end()

    def pause_writing(self) -> None:
        self.is_write_paused = True
        self._is_resting = False
        self._watch_output()
        if self._exchange is not None:
            self._exchange.pause()

    def resume_writing(self) -> None:
        self.is_write_paused = False
        if self._is_ending:
            self._watch_output()
            return
        self.stall_deadline_s = _NEVER
        if self._exchange is not None:
            self._exchange.resume()
        elif self._ahead:
            self.loop.call_soon(self._feed_ahead)

    # -- called by the exchange

    def may_go_on(self, exchange: HttpExchange) -> bool:
        if self.site.is_closing:
            return False
        body = self._body
        if body is None:
            return True
        # A client that waits to be asked for the body may send it after the reply, or may not.
        is_short = body.n_left is not None and body.n_left <= _MAX_DRAINED_BYTES
        return is_short and not exchange.expects_continue

    def receive_body(self, exchange: HttpExchange) -> None:
        if exchange.expects_continue:
            self.transport.write(CONTINUE)
        self.deadline_s = self.site.deadline(self.site.limits.body_timeout_s / QUARTERS)
        self._resume_reading()

    def end_exchange(self, exchange: HttpExchange) -> None:
        self._exchange = None
        body, site = self._body, self.site
        if exchange.closes or site.is_closing or (body is not None and body.n_left is None):
            self._end()
        elif body is not None:
            body.drop()
            self.deadline_s = site.deadline(_DRAIN_S)
            self._resume_reading()
        else:
            self.deadline_s = site.keep_alive_deadline_s
            if self._ahead:
                self.loop.call_soon(self._feed_ahead)
            else:
                self._is_resting = not self.is_write_paused

    def abort(self) -> None:
        if self._body is not None:
            self._body.fail(ClientGone())
        self._exchange = None
        self._begin_end()
        self.transport.abort()

    # -- called by the server

    def expire(self, now_s: float) -> None:
        """Act on a deadline that has passed."""
        site = self.site
        if now_s >= self.stall_deadline_s:
            self._expire_stall()
        elif self._is_ending:
            self._close()
        elif self._body is not None and self._exchange is not None:
            self._body.end_quarter()
            self.deadline_s = site.deadline(site.limits.body_timeout_s / QUARTERS)
        elif self._body is not None:
            self.abort()
        elif self._is_surplus:
            self._refuse(_overloaded())
        elif self._head is not None:
            self._refuse(RequestTimeout("The request head came too slowly."))
        else:
            self._end()

    def close_if_idle(self) -> None:
        """Close unless a request is under way."""
        if self.is_idle and not self._is_ending:
            self._end()

    # -- reading

    def _feed_head(self, data: bytes) -> None:
        try:
            self._read_head(data)
        except GatewayError as error:
            self._refuse(error)

    def _read_head(self, data: bytes) -> None:
        head = self._head
        if head is None:
            if data[0] in b"\r\n" and not (data := data.lstrip(b"\r\n")):
                return  # clients may send empty lines between requests
            if self._is_surplus:
                raise _overloaded()
            self.known_head = known = self.site.heads.read(data)
            if known is not None and (found := known.split(data)):
                self._start_exchange(known.fields, *found)
                return
            head = RequestHead(self.site.limits.max_header_bytes)
        rest = head.feed(data)
        if rest is None:
            self._keep_head(head)
            return
        head.finish()
        self._head = None
        self._start_exchange(head, head.content_length, rest)

    def _keep_head(self, head: RequestHead) -> None:
        if self._head is None:
            self._head = head
            self.deadline_s = self.site.deadline(self.site.limits.header_timeout_s)

    def _start_exchange(self, request: RequestHead, length: int, rest: bytes) -> None:
        if request.is_plain and length == len(rest):  # nearly always
            exchange = self._exchange = HttpExchange(self, request, None, rest)
            self.deadline_s = _NEVER
        else:
            exchange = self._start_longer(request, length, rest)
        site = self.site
        site.exchanges.add(exchange)
        # With a name, as else one is made; ``create_task`` would set it afterwards.
        exchange.task = asyncio.Task(site.answer(exchange), loop=self.loop, name="request")

    def _start_longer(self, request: RequestHead, length: int, rest: bytes) -> HttpExchange:
        """Start an exchange whose body is still to come, or to be inflated, or not all that did."""
        body, whole = None, None
        if request.is_chunked or length > len(rest) or (length and request.coding):
            framing = ChunkedFraming() if request.is_chunked else LengthFraming(length)
            body = RequestBody(framing, request.coding)
        else:
            whole, rest = rest[:length], rest[length:]
        exchange = self._exchange = HttpExchange(self, request, body, whole)
        self.deadline_s = _NEVER
        if body is not None:
            self._body = body
            self._feed_body(body, rest)
        elif rest:
            self._read_ahead(rest)
        return exchange

    def _feed_body(self, body: RequestBody, data: bytes) -> None:
        rest = body.feed(data)
        if body.n_left != 0:
            if body.n_unwanted > _MAX_HELD_BYTES:
                self._pause_reading()
            return
        self._body = None
        self.deadline_s = _NEVER
        exchange = self._exchange
        if exchange is not None and body.has_trailers:
            # Not all servers take them for what they are: what follows may be meant to be another
            # request for us than for a proxy before us.
            exchange.closes = True
        if rest:
            self._read_ahead(rest)
        if exchange is None:  # the reply has ended before
            self._await_next()

    def _read_ahead(self, data: bytes) -> None:
        self._ahead += data
        if len(self._ahead) > _MAX_AHEAD_BYTES:
            self._pause_reading()

    def _await_next(self) -> None:
        self.deadline_s = self.site.keep_alive_deadline_s
        if self._ahead:
            self.loop.call_soon(self._feed_ahead)

    def _feed_ahead(self) -> None:
        """Go on with what was read ahead, unless the client does not take its replies."""
        if self._exchange is not None or self._is_ending or self.is_write_paused:
            return
        if data := bytes(self._ahead):
            self._ahead.clear()
            self._resume_reading()
            self._feed_head(data)

    def _pause_reading(self) -> None:
        if not self._is_read_paused and not self.transport.is_closing():
            self._is_read_paused = True
            self.transport.pause_reading()

    def _resume_reading(self) -> None:
        if self._is_read_paused and not self.transport.is_closing():
            self._is_read_paused = False
            self.transport.resume_reading()

    # -- ending

    def _leave(self) -> None:
        """Tell whoever is at work here that the client has left."""
        exchange, self._exchange = self._exchange, None
        self._begin_end()
        self._head = self._body = None
        self._ahead.clear()
        if exchange is not None:
            exchange.leave()

    def _refuse(self, error: GatewayError) -> None:
        """Answer a request that never became an exchange."""
        headers, body = self.site.render_refusal(error)
        headers = [*headers, CLOSE_FIELD]
        self.transport.write(render_whole(error.status, headers, len(body), body))
        self._linger(None)

    def _end(self) -> None:
        """Close the connection; first hear the client out if it is still sending."""
        if self._body is not None:
            self._linger(self._body.n_left)
        elif self._ahead:
            self._linger(None)
        else:
            self._close()

    def _linger(self, n_bytes: int | None) -> None:
        """Go on reading, *n_bytes* if that many are known to come."""
        self._begin_end()
        self._head = self._body = None
        self._ahead.clear()
        self._linger_left = min(n_bytes or _MAX_LINGER_BYTES, _MAX_LINGER_BYTES)
        self.deadline_s = self.site.deadline(_LINGER_S)
        if self.transport.is_closing():
            return
        try:
            if self.transport.can_write_eof():  # TLS has no such half
                self.transport.write_eof()
        except OSError:  # the client has reset the connection just now
            self.transport.abort()
            return
        self._resume_reading()

    def _begin_end(self) -> None:
        self._is_ending, self._is_resting = True, False

    def _linger_on(self, n_bytes: int) -> None:
        self._linger_left -= n_bytes
        if self._linger_left <= 0:
            self._close()

    def _close(self) -> None:
        """Close as soon as the client has taken what was written."""
        self._begin_end()
        self.deadline_s = _NEVER
        self._watch_output()
        self.transport.close()

    def _watch_output(self) -> None:
        self._unsent_bytes = _NEVER
        self.stall_deadline_s = self.site.deadline(_STALL_S)

    def _expire_stall(self) -> None:
        """Cut the connection unless the client has taken something since the last look."""
        n_bytes = self.transport.get_write_buffer_size()
        if n_bytes < self._unsent_bytes:
            self._unsent_bytes = n_bytes
            self.stall_deadline_s = self.site.deadline(_STALL_S)
            return
        self._leave()
        self.transport.abort()


def _overloaded() -> Overloaded:
    return Overloaded("This gateway has too many open connections.", retry_after_s=1)
