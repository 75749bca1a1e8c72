"""
Open a connection: look the name up, race its addresses, tunnel through a proxy, shake hands.

Sources: RFC 8305 (happy eyeballs); RFC 9110, 9.3.6 (CONNECT).
"""

import asyncio
import re
import socket
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import zip_longest
from typing import Any, Final, cast

from dragoman.core.errors import UpstreamUnavailable
from dragoman.server.transport.proxy import Proxy
from dragoman.server.url_guard import Target

_NEXT_ATTEMPT_S: Final = 0.25  # RFC 8305, 8: before the next address is tried, too
_MAX_ADDRESSES: Final = 8
_MAX_PROXY_HEAD_BYTES: Final = 16 * 2**10
# A model may think for minutes while nothing is sent; routers forget such connections unless they
# see a probe now and then. (Linux names; macOS has the first under another one.)
_PROBES: Final = (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 30), ("TCP_KEEPCNT", 4))

_ACCEPTED: Final = re.compile(rb"HTTP/1\.[01] 2[0-9][0-9][ \r]|HTTP/1\.[01] 2[0-9][0-9]$")

Row = tuple[socket.AddressFamily, Any]  # Any: an address, whose form depends on the family


class ProxyRefused(OSError):
    """The proxy gave no tunnel."""


# In this order, as some are kinds of the others.
_MESSAGES: Final[tuple[tuple[type[Exception], str], ...]] = (
    (ProxyRefused, "The proxy on the way to the model's server refused the connection."),
    (socket.gaierror, "The host of the model's server cannot be found."),
    (UnicodeError, "The host of the model's server cannot be found."),
    (ssl.SSLCertVerificationError, "The certificate of the model's server is not valid."),
    (ssl.SSLError, "The TLS handshake with the model's server failed."),
    (ConnectionRefusedError, "The model's server refused the connection."),
)


class Dialer:
    """
    Opens connections to one target.

    Args:
        target: Scheme, host and port.
        proxy: Through which to reach it: tunnelled for https, spoken to for http.
        tls_context: Verifies certificates, and offers HTTP/1.1 from now on; by default made of the
            system's trust at first use.
    """

    def __init__(
        self, target: Target, *, proxy: Proxy | None, tls_context: ssl.SSLContext | None
    ) -> None:
        self._target = target
        self._proxy = proxy
        self._tls_context = tls_context and _offering_http(tls_context)

    async def open(self, protocol: asyncio.Protocol) -> None:
        """
        Connect *protocol*; cancelling closes what was opened.

        Raises:
            UpstreamUnavailable: No connection, for whatever reason.
        """
        next_hop = self._target if self._proxy is None else self._proxy.target
        with _reporting(f"{next_hop.host}:{next_hop.port}"):
            sock = await open_socket(next_hop)
            if self._target.scheme == "http":
                await _hand_over(sock, protocol)
            elif self._proxy is None:
                await _hand_over(sock, protocol, tls=self._context(), host=self._target.host)
            else:
                await self._tunnel(sock, protocol, proxy=self._proxy)

    async def _tunnel(
        self, sock: socket.socket, protocol: asyncio.Protocol, *, proxy: Proxy
    ) -> None:
        handshake = _ProxyHandshake(self._target, proxy)
        transport = await _hand_over(sock, handshake)
        try:
            await handshake.accepted
            loop = asyncio.get_running_loop()
            tls = await loop.start_tls(
                transport, protocol, self._context(), server_hostname=self._target.host
            )
        except BaseException:
            transport.abort()
            raise
        if tls is None or tls.is_closing():
            raise ConnectionResetError("closed after the handshake")
        protocol.connection_made(tls)

    def _context(self) -> ssl.SSLContext:
        if self._tls_context is None:
            self._tls_context = _offering_http(ssl.create_default_context())
        return self._tls_context


def _offering_http(context: ssl.SSLContext) -> ssl.SSLContext:
    context.set_alpn_protocols(["http/1.1"])
    return context


async def open_socket(target: Target) -> socket.socket:
    """
    Return a socket connected to the first address of *target* that answers.

    Raises:
        OSError: The last attempt's, or the resolver's.
    """
    rows = await _look_up(target)
    if len(rows) == 1:
        return await _connect(rows[0])
    return await _race(rows)


async def _look_up(target: Target) -> list[Row]:
    """Return the addresses of *target* in the order in which they are to be tried."""
    if target.address is not None:
        family = socket.AF_INET if target.address.version == 4 else socket.AF_INET6
        return [(family, (str(target.address), target.port))]
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    if not found:
        raise socket.gaierror("no addresses")
    rows = list(dict.fromkeys((row[0], row[4]) for row in found))
    return _interleave(rows)[:_MAX_ADDRESSES]


def _interleave(rows: Sequence[Row]) -> list[Row]:
    """Alternate between the families, beginning with the resolver's favourite (RFC 8305, 4)."""
    favourite = [row for row in rows if row[0] == rows[0][0]]
    others = [row for row in rows if row[0] != rows[0][0]]
    pairs = zip_longest(favourite, others)
    return [row for pair in pairs for row in pair if row is not None]


async def _race(rows: Sequence[Row]) -> socket.socket:
    """Try *rows* one after another, without waiting for long before the next."""
    tasks: list[asyncio.Task[socket.socket]] = []
    pending: set[asyncio.Task[socket.socket]] = set()
    winner: socket.socket | None = None
    try:
        while winner is None:
            if len(tasks) < len(rows):
                tasks.append(asyncio.create_task(_connect(rows[len(tasks)])))
                pending.add(tasks[-1])
            elif not pending:
                raise tasks[-1].exception() or OSError("no connection")
            delay_s = _NEXT_ATTEMPT_S if len(tasks) < len(rows) else None
            done, pending = await asyncio.wait(
                pending, timeout=delay_s, return_when=asyncio.FIRST_COMPLETED
            )
            winner = next((task.result() for task in done if task.exception() is None), None)
        return winner
    finally:
        for task in tasks:  # nothing is awaited: a cancellation here would lose the winner
            task.cancel()
            task.add_done_callback(partial(_close_loser, winner=winner))


def _close_loser(task: "asyncio.Task[socket.socket]", *, winner: socket.socket | None) -> None:
    if not task.cancelled() and task.exception() is None and task.result() is not winner:
        task.result().close()


async def _connect(row: Row) -> socket.socket:
    family, address = row
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        _tune(sock)
        await asyncio.get_running_loop().sock_connect(sock, address)
    except BaseException:
        sock.close()
        raise
    return sock


def _tune(sock: socket.socket) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _PROBES:
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


async def _hand_over(
    sock: socket.socket,
    protocol: asyncio.Protocol,
    *,
    tls: ssl.SSLContext | None = None,
    host: str | None = None,
) -> asyncio.Transport:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_connection(
        lambda: protocol, sock=sock, ssl=tls, server_hostname=host
    )
    return transport


class _ProxyHandshake(asyncio.Protocol):
    """Asks a proxy for a tunnel; ``accepted`` is done when the way is free."""

    def __init__(self, target: Target, proxy: Proxy) -> None:
        host = f"[{target.host}]" if ":" in target.host else target.host
        authority = f"{host}:{target.port}"
        lines = [f"CONNECT {authority} HTTP/1.1", f"host: {authority}"]
        lines += [f"proxy-authorization: {proxy.authorization}"] if proxy.authorization else []
        self._request = "\r\n".join([*lines, "", ""]).encode("ascii")
        self._head = b""
        self.accepted: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast("asyncio.Transport", transport).write(self._request)

    def data_received(self, data: bytes) -> None:
        self._head += data
        head, end, rest = self._head.partition(b"\r\n\r\n")
        if end:
            is_accepted = _ACCEPTED.match(head) is not None and not rest
            self._settle("" if is_accepted else f"refused: {head[:80]!r}")
        elif len(self._head) > _MAX_PROXY_HEAD_BYTES:
            self._settle("sent an oversized head")

    def connection_lost(self, exc: Exception | None) -> None:
        self._settle(f"closed the connection: {exc or 'end of file'}")

    def _settle(self, problem: str) -> None:
        if self.accepted.done():
            return
        if problem:
            self.accepted.set_exception(ProxyRefused(problem))
        else:
            self.accepted.set_result(None)


@contextmanager
def _reporting(address: str) -> Iterator[None]:
    """Turn what can go wrong into the one error of the tree, which shows no address."""
    try:
        yield
    except (OSError, UnicodeError) as error:
        detail = f"{address}: {type(error).__name__}: {error}"
        raise UpstreamUnavailable(_describe(error), log_detail=detail) from error


def _describe(error: OSError | UnicodeError) -> str:
    for kind, message in _MESSAGES:
        if isinstance(error, kind):
            return message
    return "The model's server could not be reached."
