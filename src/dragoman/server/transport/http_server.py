"""The HTTP/1.1 server: protocols on the event loop, no framework between."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from dragoman.server.transport.http_connection import Connection
from dragoman.server.transport.http_site import Handler, HttpLimits, RenderRefusal, Site

if TYPE_CHECKING:
    import ssl

__all__ = ["Handler", "HttpLimits", "HttpServer", "RenderRefusal"]

_BACKLOG: Final = 1024
# What a handler may still take to end after it was cancelled.
_CANCEL_S: Final = 5.0
# What clients may still take to read the last of their replies.
_LAST_READ_S: Final = 2.0


class HttpServer:
    """
    Listen, and call *handler* with each request.

    Args:
        handler: Answers an exchange. It must end the reply or abort it before it returns.
        limits: On every connection.
        render_refusal: Makes the reply to what never reaches *handler*.
        on_crash: Told of what *handler* raised, and of its other faults.

    Attributes:
        tls: With the certificate that new connections get; None: plain HTTP.
    """

    def __init__(
        self,
        handler: Handler,
        *,
        limits: HttpLimits,
        render_refusal: RenderRefusal,
        on_crash: Callable[[BaseException], None],
    ) -> None:
        self._site = Site(handler, limits=limits, render_refusal=render_refusal, on_crash=on_crash)
        self._server: asyncio.Server | None = None
        self._ticker: asyncio.TimerHandle | None = None
        self.tls: ssl.SSLContext | None = None

    @property
    def port(self) -> int:
        """The port that is listened on."""
        if self._server is None or not self._server.sockets:
            raise RuntimeError("the server is not listening")
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def n_connections(self) -> int:
        """How many connections are open."""
        return len(self._site.connections)

    @property
    def n_exchanges(self) -> int:
        """How many handlers are running."""
        return len(self._site.exchanges)

    async def start(
        self,
        host: str,
        port: int,
        *,
        shares_port: bool = False,
        tls: "ssl.SSLContext | None" = None,
    ) -> None:
        """
        Listen; with *shares_port* the kernel deals connections out among all that do (Linux).

        Args:
            host: Name or address.
            port: 0: any free one.
            shares_port: Others may listen there, too.
            tls: The server's side of it; None: plain HTTP.

        Raises:
            OSError: The address is not ours, or in use.
        """
        self.tls = tls
        site, loop = self._site, asyncio.get_running_loop()
        site.tick(loop.time())
        self._server = await loop.create_server(
            lambda: Connection(site, loop),
            host,
            port,
            backlog=_BACKLOG,
            reuse_port=shares_port or None,
            ssl=tls,
            ssl_handshake_timeout=site.limits.header_timeout_s if tls else None,
        )
        self._tick(loop)

    async def close(self, grace_s: float) -> None:
        """
        Accept nothing more, wait up to *grace_s* for exchanges to end, then cut the rest.

        Their handlers are cancelled, and may still end their replies in words.
        May be called again, also to end the grace of another call.
        """
        site = self._site
        site.is_closing = True
        if self._server is not None:
            self._server.close()
        for connection in tuple(site.connections):
            connection.close_if_idle()
        await self._wait_until_empty(grace_s)
        tasks = [exchange.task for exchange in site.exchanges]
        for task in tasks:
            task.cancel()
        if tasks:
            done, _ = await asyncio.wait(tasks, timeout=_CANCEL_S)
            # One that was cancelled before its first step never ran to say so.
            site.exchanges -= {e for e in site.exchanges if e.task in done}
            await self._wait_until_empty(_LAST_READ_S)
        for connection in tuple(site.connections):
            connection.abort()
        await self._wait_until_empty(_CANCEL_S)
        if self._ticker is not None:
            self._ticker.cancel()

    async def _wait_until_empty(self, timeout_s: float) -> None:
        self._site.note_end()
        try:
            async with asyncio.timeout(timeout_s):
                await self._site.emptied.wait()
        except TimeoutError:
            return  # the caller cuts what is left

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        self._ticker = loop.call_later(self._site.tick_s, self._tick, loop)
        self._site.tick(loop.time())
