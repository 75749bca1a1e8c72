"""What the connections of one server share: handler, limits, deadlines, who is there."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from msgspec import Struct

from dragoman.core.errors import GatewayError
from dragoman.server.transport.head_memo import HeadMemo, KnownHead
from dragoman.server.transport.http_body import QUARTERS
from dragoman.server.transport.http_exchange import HttpExchange
from dragoman.server.transport.seams import ClientGone, Exchange, HeaderList


class HttpLimits(Struct, frozen=True, kw_only=True):
    """Seconds, bytes and counts; what is said of them in the configuration's reference."""

    max_header_bytes: int = 64 * 2**10
    header_timeout_s: float = 20.0
    body_timeout_s: float = 120.0
    keep_alive_timeout_s: float = 75.0
    max_connections: int = 10_000


Handler = Callable[[Exchange], Awaitable[None]]
RenderRefusal = Callable[[GatewayError], tuple[HeaderList, bytes]]


class Member(Protocol):
    """
    A connection, as its server sees it.

    Attributes:
        deadline_s: When ``expire`` is to be called, on the clock of the site.
        stall_deadline_s: The same, while the client takes nothing.
        known_head: Of its last request; None: to be read.
    """

    deadline_s: float
    stall_deadline_s: float
    known_head: KnownHead | None

    def expire(self, now_s: float) -> None:
        """Act on a deadline that has passed."""

    def close_if_idle(self) -> None:
        """Close unless a request is under way."""

    def abort(self) -> None:
        """Cut the connection."""


class Site:
    """
    What the connections of one server share.

    Attributes:
        now_s: A clock that is read once per tick, so that a deadline costs no system call.
        heads: Those that came before.
        keep_alive_deadline_s: Of a connection that becomes idle now.
        emptied: Set when the last connection and exchange are gone, of a server that is closing.
    """

    def __init__(
        self,
        handler: Handler,
        *,
        limits: HttpLimits,
        render_refusal: RenderRefusal,
        on_crash: Callable[[BaseException], None],
    ) -> None:
        self.handler, self.limits = handler, limits
        self.render_refusal, self.on_crash = render_refusal, on_crash
        self.connections: set[Member] = set()
        self.exchanges: set[HttpExchange] = set()
        self.heads = HeadMemo(limits.max_header_bytes)
        self.is_closing = False
        self.emptied = asyncio.Event()
        shortest_s = min(
            limits.header_timeout_s, limits.body_timeout_s / QUARTERS, limits.keep_alive_timeout_s
        )
        self.tick_s = max(0.01, min(1.0, shortest_s / 4))
        self.tick(0.0)

    def tick(self, now_s: float) -> None:
        """Take the time, and look at all deadlines: no timer is set or cancelled per request."""
        self.now_s = now_s
        self.keep_alive_deadline_s = self.deadline(self.limits.keep_alive_timeout_s)
        for connection in tuple(self.connections):
            if now_s >= connection.deadline_s or now_s >= connection.stall_deadline_s:
                connection.expire(now_s)
        if self.heads.forget_old(now_s):
            for connection in self.connections:
                connection.known_head = None

    def deadline(self, timeout_s: float) -> float:
        """Return the time on the tick's clock by which *timeout_s* have passed for certain."""
        return self.now_s + self.tick_s + timeout_s

    async def answer(self, exchange: HttpExchange) -> None:
        """Run the handler, and make good for it where it fails."""
        try:
            await self.handler(exchange)
        except ClientGone:
            exchange.abort()
        except Exception as error:
            self.on_crash(error)
            self._fail(exchange)
        except BaseException:  # cancelled: the server is closing
            exchange.abort()
            raise
        else:
            if not exchange.is_over:
                self.on_crash(RuntimeError("the handler returned before the reply had ended"))
                self._fail(exchange)
        finally:
            self.exchanges.discard(exchange)
            if self.is_closing:
                self.note_end()

    def note_end(self) -> None:
        """Take note that a connection or an exchange is no more."""
        if not self.connections and not self.exchanges:
            self.emptied.set()

    def _fail(self, exchange: HttpExchange) -> None:
        if exchange.is_started:
            exchange.abort()
            return
        headers, body = self.render_refusal(GatewayError("The gateway failed on this request."))
        exchange.reply_whole(500, headers, body)
