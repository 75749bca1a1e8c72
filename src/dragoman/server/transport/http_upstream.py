"""
The client side of the transport seam: HTTP/1.1 on asyncio's protocols, for one base URL.

``Dialer`` opens connections, ``Pool`` deals them out, ``Connection`` carries calls, ``ReplyReader``
reads replies. In here a request becomes bytes.
"""

import re
import ssl
from collections.abc import Iterable, Mapping
from typing import Final

from dragoman import __version__
from dragoman.server.transport.dial import Dialer
from dragoman.server.transport.pool import Pool
from dragoman.server.transport.proxy import Proxy, is_local, parse_base_url, parse_proxy
from dragoman.server.transport.seams import HeaderList, UpstreamRequest
from dragoman.server.url_guard import Target

_MAX_BEGINS: Final = 32  # of requests that differ in method or path; a handful is asked for
_METHOD: Final = re.compile(r"[A-Z]{1,20}")
_PATH: Final = re.compile(r"/[!-~]*")
_NAME: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE: Final = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
_JSON_LENGTH: Final = b"content-type: application/json\r\ncontent-length: %d\r\n\r\n"
_NO_LENGTH: Final = b"content-length: 0\r\n\r\n"
_WITH_BODY: Final = frozenset({"POST", "PUT", "PATCH"})
_DEFAULTS: Final = {
    "user-agent": f"dragoman/{__version__}",
    "accept": "*/*",
    "accept-encoding": "identity",
}
# Of the message and the connection, so never anyone else's to set.
_OWN: Final = frozenset(
    {
        *(b"host", b"content-type", b"content-length", b"transfer-encoding", b"expect"),
        *(b"connection", b"keep-alive", b"te", b"trailer", b"upgrade"),
        *(b"proxy-authorization", b"proxy-connection", b"accept-encoding"),
    }
)


class HttpUpstream:
    """
    One base URL with its credential and its pool of connections; implements ``Upstream``.

    Args:
        base_url: http or https, with or without a path.
        credential: Header and value, sent with every request.
        headers: Sent with every request, too; they replace the user-agent.
        max_connections: Open at a time; further calls wait in line, at most their connect_s.
        tls_context: Verifies the server, and offers HTTP/1.1 from now on; by default the system's
            trust.
        proxy: ``http://[user:password@]host:port``, not used for a base URL on this machine.
        max_header_bytes: Of a reply's head.

    Raises:
        ValueError: The base URL, the proxy or a header has a form that cannot be sent.
    """

    def __init__(
        self,
        base_url: str,
        *,
        credential: tuple[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        max_connections: int = 1000,
        tls_context: ssl.SSLContext | None = None,
        proxy: str | None = None,
        max_header_bytes: int = 64 * 2**10,
    ) -> None:
        target = parse_base_url(base_url)
        via = parse_proxy(proxy) if proxy is not None and not is_local(target.host) else None
        self._head = _HeadWriter(target, headers=_fixed(credential, headers), proxy=via)
        self._pool = Pool(
            Dialer(target, proxy=via, tls_context=tls_context),
            self._head.render,
            max_connections=max_connections,
            max_header_bytes=max_header_bytes,
        )
        # Each request calls it, so no method of ours stands between. Raises ValueError where the
        # method, the path or a header cannot be sent: a bug of the caller.
        self.send = self._pool.send

    @property
    def n_connections(self) -> int:
        """How many connections there are, those being opened included."""
        return self._pool.n_connections

    @property
    def n_idle(self) -> int:
        """How many connections wait for a call."""
        return self._pool.n_idle

    @property
    def n_calls(self) -> int:
        """How many calls are under way, those that wait for a connection included."""
        return self._pool.n_calls

    def describe(self, request: UpstreamRequest) -> tuple[str, list[tuple[str, str]]]:
        """Return the URL and all headers that ``send`` would write, credentials included."""
        first, *lines = self._head.render(request).decode("latin-1").rstrip().split("\r\n")
        url = first.split(" ")[1]
        headers = [(name, value) for name, _, value in (line.partition(": ") for line in lines)]
        return url if "://" in url else self._head.origin + url, headers

    async def close(self) -> None:
        """Close all connections; calls under way fail, and so do those sent from now on."""
        await self._pool.close()


class _HeadWriter:
    """Renders heads of requests; all that never changes was joined at the start."""

    def __init__(self, target: Target, *, headers: Mapping[str, str], proxy: Proxy | None) -> None:
        is_absolute = proxy is not None and target.scheme == "http"
        self.origin = f"{target.scheme}://{target.authority}"
        self._root = f"http://{target.authority}" if is_absolute else ""
        self._base = self._root + target.path
        if is_absolute and proxy is not None and proxy.authorization:
            headers = {**headers, "proxy-authorization": proxy.authorization}
        self._lines = b"host: %b\r\n" % target.authority.encode("ascii")
        self._lines += _lines(
            (k.encode("latin-1"), v.encode("latin-1")) for k, v in headers.items()
        )
        self._begins: dict[tuple[str, str, bool], bytes] = {}
        self._fixed = _OWN.union(name.lower().encode("latin-1") for name in headers)

    def render(self, request: UpstreamRequest) -> bytes:
        """Return the head of *request*, with the empty line after it."""
        key = (request.method, request.path, request.at_root)
        begin = self._begins.get(key)
        if begin is None:
            begin = self._begin(request)
            if len(self._begins) < _MAX_BEGINS:
                self._begins[key] = begin
        if request.headers:
            begin += self._more(request.headers)
        if request.body:
            return begin + _JSON_LENGTH % len(request.body)
        return begin + (_NO_LENGTH if request.method in _WITH_BODY else b"\r\n")

    def _begin(self, request: UpstreamRequest) -> bytes:
        if not _METHOD.fullmatch(request.method) or not _PATH.fullmatch(request.path):
            raise ValueError("a request with an illegal method or path")
        url = (self._root if request.at_root else self._base) + request.path
        first = f"{request.method} {url} HTTP/1.1\r\n".encode("ascii")
        return first + self._lines

    def _more(self, headers: HeaderList) -> bytes:
        """Render the request's own headers, but none that stands above it already."""
        return _lines((name, value) for name, value in headers if name.lower() not in self._fixed)


def _fixed(credential: tuple[str, str] | None, headers: Mapping[str, str] | None) -> dict[str, str]:
    """Return what is sent with every request; the credential stands above all."""
    fixed = dict(_DEFAULTS)
    fixed.update({name.lower(): value for name, value in (headers or {}).items()})
    if credential is not None:
        fixed[credential[0].lower()] = credential[1]
    return fixed


def _lines(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    lines = bytearray()
    for name, value in headers:
        if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
            raise ValueError("a header that cannot be sent")  # its value may be a key
        lines += b"%b: %b\r\n" % (name, value)
    return bytes(lines)
