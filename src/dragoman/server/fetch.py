"""
The guarded fetcher: the only way by which a URL out of a request makes this process connect.

A name is resolved once per hop, every address of the answer is checked, and the connection goes to
one of those very addresses: between the check and the use nothing is looked up again.
"""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Final
from urllib.parse import urljoin

from msgspec import Struct

from dragoman.core.errors import InvalidRequest
from dragoman.server.transport.address_get import AddressGet, Connect, GetFailed
from dragoman.server.url_guard import (
    PUBLIC,
    Reach,
    Target,
    UrlRefused,
    check_address,
    check_host,
    parse_url,
)

_RESOLVE_TIMEOUT_S: Final = 10.0
_CONNECT_TIMEOUT_S: Final = 5.0  # per address, so that a dead one leaves time for the next
_MAX_ADDRESSES: Final = 4  # tried in turn; two of each family are enough
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_INSTEAD: Final = "; check the link, or send the content as base64"

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]


class Fetched(Struct, frozen=True):
    """A body, inflated; *content_type* as sent, with its parameters."""

    body: bytes
    content_type: str
    final_url: str


async def resolve_host(host: str, port: int) -> list[str]:
    """Return all addresses of *host*, in the order in which the system would try them."""
    loop = asyncio.get_running_loop()
    rows = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(row[4][0]) for row in rows]


class GuardedFetcher:
    """
    Fetch URLs that clients name, without becoming their way into the network.

    Args:
        allowed_ports: Other ports are refused; None allows all.
        max_redirects: Hops after the first one.
        max_concurrent: Fetches and look-ups at a time; more wait, within their own time limit.
        resolve: Looks a name up.
        connect: Opens a connection to an address.
        tls_context: Verifies certificates; by default made of the system's at first use.
    """

    def __init__(
        self,
        *,
        allowed_ports: frozenset[int] | None = None,
        max_redirects: int = 3,
        max_concurrent: int = 16,
        resolve: Resolve = resolve_host,
        connect: Connect = asyncio.open_connection,
        tls_context: ssl.SSLContext | None = None,
    ) -> None:
        self._allowed_ports = allowed_ports
        self._max_redirects = max_redirects
        self._slots = asyncio.Semaphore(max_concurrent)
        self._resolve, self._connect, self._tls_context = resolve, connect, tls_context

    async def check_public(self, url: str, *, path: str, reach: Reach = PUBLIC) -> None:
        """
        Check a URL that is only forwarded, so that whoever fetches it is not misled by us.

        Where private networks are allowed names are not looked up: only the upstream may know them.

        Raises:
            InvalidRequest: At *path*: not http(s), not public, or unknown.
        """
        with _naming(path):
            target = self._parse(url, reach)
            if not reach.allow_private:
                async with _within(_RESOLVE_TIMEOUT_S), self._slots:
                    await self._addresses(target, reach)

    async def fetch(
        self,
        url: str,
        *,
        path: str,
        max_bytes: int,
        timeout_s: float,
        accept_types: Sequence[str],
        reach: Reach = PUBLIC,
    ) -> Fetched:
        """
        Return what *url* leads to.

        Args:
            url: As the client sent it.
            path: Of the field that holds it, for errors.
            max_bytes: Of the body, before and after inflating.
            timeout_s: For everything: waiting, look-ups, redirects, the body.
            accept_types: Media types such as ``application/pdf`` or ``text/*``. A reply that names
                none counts as ``application/octet-stream``.
            reach: Which hosts it may lead to, redirects included.

        Raises:
            InvalidRequest: At *path*: refused, unreachable, or not what was asked for.
        """
        with _naming(path):
            async with _within(timeout_s), self._slots:
                for _ in range(self._max_redirects + 1):
                    target = self._parse(url, reach)
                    async with self._get(target, reach) as reply:
                        if reply.status not in _REDIRECTS or "location" not in reply.headers:
                            media_type = _check_head(reply, accept_types)
                            body = await reply.read(max_bytes)
                            return Fetched(body, media_type, target.url)
                        url = urljoin(target.url, _location(reply))
                raise GetFailed(f"redirects more than {self._max_redirects} times")

    def _parse(self, url: str, reach: Reach) -> Target:
        target = parse_url(url)
        check_host(target, reach)
        if self._allowed_ports is not None and target.port not in self._allowed_ports:
            raise UrlRefused("the URL has a port that the operator does not allow")
        return target

    async def _addresses(self, target: Target, reach: Reach) -> list[str]:
        """Look the host up, once; one private address among public ones spoils them all."""
        if target.address is not None:
            return [str(target.address)]
        try:
            found = list(dict.fromkeys(await self._resolve(target.host, target.port)))
        except (OSError, UnicodeError):
            found = []
        if not found:
            raise GetFailed("has a host that cannot be found")
        for address in found:
            check_address(address, allow_private=reach.allow_private)
        return found[:_MAX_ADDRESSES]

    @asynccontextmanager
    async def _get(self, target: Target, reach: Reach) -> AsyncIterator[AddressGet]:
        """Ask the first address that answers."""
        tls = (self._context(), target.host) if target.scheme == "https" else None
        addresses = await self._addresses(target, reach)
        while True:
            reply = self._request(target, addresses.pop(0), tls)
            try:
                await reply.open()
                yield reply
                return
            except GetFailed:
                if not addresses or reply.status:
                    raise
            finally:
                reply.close()

    def _request(
        self, target: Target, address: str, tls: tuple[ssl.SSLContext, str] | None
    ) -> AddressGet:
        return AddressGet(
            address,
            target.port,
            path=target.path,
            authority=target.authority,
            tls=tls,
            connect=self._connect_in_time,
        )

    async def _connect_in_time(
        self, address: str, port: int, **options: object
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        # A time-out is an OSError: the next address is tried.
        async with asyncio.timeout(_CONNECT_TIMEOUT_S):
            return await self._connect(address, port, **options)

    def _context(self) -> ssl.SSLContext:
        if self._tls_context is None:
            self._tls_context = ssl.create_default_context()
        return self._tls_context


@contextmanager
def _naming(path: str) -> Iterator[None]:
    try:
        yield
    except UrlRefused as error:
        raise InvalidRequest(path, str(error)) from error
    except GetFailed as error:
        raise InvalidRequest(path, f"the URL {error}{_INSTEAD}") from error


@asynccontextmanager
async def _within(timeout_s: float) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(timeout_s):
            yield
    except TimeoutError:
        raise GetFailed(f"did not answer within {timeout_s:g} s") from None


def _location(reply: AddressGet) -> str:
    # Sent as UTF-8 by many servers, although headers are ASCII; read as Latin-1 before.
    return reply.headers["location"].encode("latin-1").decode("utf-8", "replace")


def _check_head(reply: AddressGet, accept_types: Sequence[str]) -> str:
    if reply.status != 200:
        raise GetFailed(f"answered with HTTP status {reply.status}")
    content_type = reply.headers.get("content-type", "") or "application/octet-stream"
    if not is_media_type(content_type, accept_types):
        raise GetFailed(f"leads to a type of content that is not one of {', '.join(accept_types)}")
    return content_type


def is_media_type(content_type: str, accept_types: Sequence[str]) -> bool:
    """Tell whether *content_type*, whatever its parameters, is among *accept_types*."""
    media_type = content_type.partition(";")[0].strip().lower()
    group = media_type.partition("/")[0] + "/*"
    return media_type in accept_types or group in accept_types
