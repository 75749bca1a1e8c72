"""Which proxy the environment asks for, read as curl reads it. HTTP proxies only."""

import base64
import re
from collections.abc import Mapping
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Final
from urllib.parse import unquote, urlsplit

from msgspec import Struct

from dragoman.server.url_guard import Target, UrlRefused, parse_url

_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


class Proxy(Struct, frozen=True, kw_only=True):
    """An HTTP proxy: where it listens, and the Proxy-Authorization it wants (or nothing)."""

    target: Target
    authorization: str = ""


def proxy_for(base_url: str, environ: Mapping[str, str]) -> str | None:
    """
    Return the URL of the proxy through which *base_url* is to be reached; None: directly.

    HTTPS_PROXY or HTTP_PROXY, by the scheme of *base_url*, then ALL_PROXY; lower case first. A
    host that NO_PROXY names is reached directly: by its name or a suffix of it, with or without
    a port, by address, by network (CIDR), or ``*`` for all. This machine always is.

    SOCKS proxies and those that want TLS themselves are not supported: None for them, too.
    """
    target = parse_base_url(base_url)
    url = _first(environ, f"{target.scheme}_proxy") or _first(environ, "all_proxy")
    if not url or is_local(target.host) or _is_exempt(target, _first(environ, "no_proxy")):
        return None
    if not _SCHEME.match(url):
        url = f"http://{url}"
    return url if url.lower().startswith("http://") else None


def parse_proxy(url: str) -> Proxy:
    """
    Take ``http://[user:password@]host:port`` apart.

    Raises:
        ValueError: It has another form. The message does not show it: it may hold a password.
    """
    if not url.lower().startswith("http://"):
        raise ValueError("a proxy's URL begins with http://")
    credential, _, address = url[len("http://") :].split("/", maxsplit=1)[0].rpartition("@")
    try:
        target = parse_url(f"http://{address}")
    except UrlRefused:
        raise ValueError("a proxy's URL has the form http://user:password@host:port") from None
    user, _, password = (unquote(part) for part in credential.partition(":"))
    token = base64.b64encode(f"{user}:{password}".encode()).decode()
    return Proxy(target=target, authorization=f"Basic {token}" if credential else "")


def parse_base_url(url: str) -> Target:
    """
    Take an upstream's base URL apart; the path comes without a final slash.

    Raises:
        ValueError: Not http(s), or it holds a credential, a query or a fragment.
    """
    try:
        target = parse_url(url)
    except UrlRefused as error:
        reason = str(error).partition(";")[0]  # what follows is for documents
        raise ValueError(f"not a base URL: {reason}") from None
    parts = urlsplit(url)
    if parts.query or parts.fragment:
        raise ValueError("not a base URL: it must end with its path")
    return Target(
        scheme=target.scheme,
        host=target.host,
        port=target.port,
        path=target.path.rstrip("/"),
        address=target.address,
    )


def is_local(host: str) -> bool:
    """Tell whether *host* is this machine, whatever a resolver says about it."""
    name = host.lower().removesuffix(".")
    try:
        address = ip_address(name)
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")
    if isinstance(address, IPv6Address):
        address = address.ipv4_mapped or address
    # Connecting to the unspecified address stays at home, too.
    return address.is_loopback or address.is_unspecified


def _first(environ: Mapping[str, str], name: str) -> str:
    return environ.get(name, "").strip() or environ.get(name.upper(), "").strip()


def _is_exempt(target: Target, no_proxy: str) -> bool:
    entries = re.split(r"[\s,]+", no_proxy.lower())
    return any(entry == "*" or _names(entry, target) for entry in entries if entry)


def _names(entry: str, target: Target) -> bool:
    """Tell whether one entry of NO_PROXY names *target*."""
    if target.address is not None and "/" in entry:
        try:
            return target.address in ip_network(entry, strict=False)
        except ValueError:
            return False
    host, port = _split_port(entry)
    if port and port != str(target.port):
        return False
    if target.address is not None:
        try:
            return ip_address(host) == target.address
        except ValueError:
            return False
    name = host.removeprefix("*").removeprefix(".").removesuffix(".")
    return bool(name) and (target.host == name or target.host.endswith(f".{name}"))


def _split_port(entry: str) -> tuple[str, str]:
    """Split ``host``, ``host:port``, ``::1``, ``[::1]`` or ``[::1]:port``."""
    match = re.fullmatch(r"\[(.+)\](?::([0-9]+))?|([^:]+):([0-9]+)", entry)
    if match is None:
        return entry, ""
    return match[1] or match[3], match[2] or match[4] or ""
