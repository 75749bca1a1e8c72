"""
Which URLs of a request may be used: their form, their host, and the addresses behind it.

Sources: IANA special-purpose address registries (IPv4, IPv6); WHATWG URL, "ends in a number".
"""

import re
from fnmatch import fnmatchcase
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final
from urllib.parse import quote, urlsplit

from msgspec import Struct

Address = IPv4Address | IPv6Address

_MAX_URL_CHARS: Final = 8192  # signed download links reach 2-4 kB
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_NETLOC: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\[\]:@]+))(?::([0-9]{0,5}))?")
_HOST: Final = re.compile(r"[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*")
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")

# Names that only mean something inside a network, whatever the resolver says about them.
_PRIVATE_SUFFIXES: Final = (
    *("localhost", "localdomain", "local", "internal", "intranet", "private"),
    *("lan", "home", "corp", "home.arpa"),
)
# Never reached, not even where private addresses are allowed: instance metadata hands out
# credentials to whoever asks from the right machine.
_NEVER: Final = tuple(
    map(
        IPv4Network,
        (
            "0.0.0.0/8",
            "169.254.0.0/16",  # link-local, and the metadata service of most clouds
            "192.0.0.0/24",  # protocol assignments; a cloud's metadata is at 192.0.0.192
            "100.100.100.200/32",  # metadata, Alibaba Cloud
            "168.63.129.16/32",  # platform service, Azure; a public address otherwise
            "224.0.0.0/3",  # multicast, reserved, broadcast
        ),
    )
)
_PRIVATE: Final = tuple(
    map(
        IPv4Network,
        (
            *("10.0.0.0/8", "127.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"),
            "100.64.0.0/10",  # carrier-grade NAT
            "192.88.99.0/24",  # 6to4 relays
            "198.18.0.0/15",  # benchmarks
            *("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24"),  # documentation
        ),
    )
)
# All else outside 2000::/3 is loopback, local, multicast or reserved.
_GLOBAL6: Final = IPv6Network("2000::/3")
_PRIVATE6: Final = tuple(
    map(
        IPv6Network,
        (
            "2001::/23",  # protocol assignments, Teredo
            "2001:db8::/32",  # documentation
            "3fff::/20",
        ),
    )
)
_LAB6: Final = (IPv6Network("::1/128"), IPv6Network("fc00::/7"), _GLOBAL6)
_METADATA6: Final = IPv6Network("fd00:ec2::/32")  # metadata, AWS
_SIX_TO_FOUR: Final = IPv6Network("2002::/16")
# 96-bit prefixes before an IPv4 address: mapped, and RFC 6052 NAT64.
_EMBEDDING: Final = (IPv6Network("::ffff:0:0/96"), IPv6Network("64:ff9b::/96"))
_ISATAP: Final = (0x00005EFE, 0x02005EFE)  # RFC 5214: these 32 bits, then the IPv4 address


class UrlRefused(Exception):
    """The URL may not be used. The message says why and holds no address."""


class Reach(Struct, frozen=True, kw_only=True):
    """
    Which hosts the URLs of one request may lead to.

    Attributes:
        allow_private: Also loopback and private networks.
        hosts: Patterns of names (``*.example.com``), of which one must fit; none: any name will do.
    """

    allow_private: bool = False
    hosts: tuple[str, ...] = ()


PUBLIC: Final = Reach()


class Target(Struct, frozen=True, kw_only=True):
    """
    A URL taken apart and made canonical.

    ``host`` is ASCII, in lower case, without brackets or a final dot. ``address`` is set when the
    host is an address and not a name.
    """

    scheme: str
    host: str
    port: int
    path: str  # with query, percent-encoded
    address: Address | None = None

    @property
    def authority(self) -> str:
        """What belongs into the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.authority}{self.path}"


def parse_url(url: str) -> Target:
    """
    Take *url* apart, refusing every form that two parsers may read differently.

    Raises:
        UrlRefused: Not plain http(s), credentials inside, or an odd host.
    """
    if len(url) > _MAX_URL_CHARS:
        raise UrlRefused(f"the URL is longer than {_MAX_URL_CHARS} characters")
    if not url.isprintable() or " " in url or "\\" in url:
        raise UrlRefused(
            "the URL holds spaces, backslashes or control characters; percent-encode them"
        )
    try:
        parts = urlsplit(url)
    except ValueError:
        raise UrlRefused("this is not a valid URL") from None
    if parts.scheme not in _DEFAULT_PORTS:
        raise UrlRefused("only http and https URLs are accepted; send other content as base64")
    if "@" in parts.netloc:
        raise UrlRefused("the URL holds credentials; use a link that needs none")
    host, address, port = _parse_netloc(parts.netloc, _DEFAULT_PORTS[parts.scheme])
    path = quote(parts.path or "/", safe="/:@!$&'()*+,;=~%")
    if parts.query:
        path += "?" + quote(parts.query, safe="/:@!$&'()*+,;=~%?[]")
    return Target(scheme=parts.scheme, host=host, port=port, path=path, address=address)


def _parse_netloc(netloc: str, default_port: int) -> tuple[str, Address | None, int]:
    match = _NETLOC.fullmatch(netloc)
    if match is None:
        raise UrlRefused("the URL has no valid host and port")
    literal6, name, digits = match.groups()
    port = int(digits) if digits else default_port
    if not 0 < port < 65536:
        raise UrlRefused("the URL has no valid port")
    if literal6 is not None:
        try:
            address = IPv6Address(literal6)
        except ValueError:
            raise UrlRefused("the URL has no valid host") from None
        return str(address), address, port
    host = _ascii_host(name)
    return host, _parse_ipv4(host), port


def _ascii_host(name: str) -> str:
    try:
        host = name.lower() if name.isascii() else name[:254].encode("idna").decode().lower()
    except UnicodeError:
        raise UrlRefused("the URL has no valid host") from None
    host = host.removesuffix(".")
    if len(host) > 253 or not _HOST.fullmatch(host):
        raise UrlRefused("the URL has no valid host")
    return host


def _parse_ipv4(host: str) -> IPv4Address | None:
    """Return the address that *host* is; None for a name."""
    if not _NUMBER.fullmatch(host.rpartition(".")[2]):
        return None
    try:
        return IPv4Address(host)
    except ValueError:  # 127.1, 0x7f000001, 0177.0.0.1, 2130706433: readers disagree on these
        raise UrlRefused("write the address of the URL as four decimal numbers") from None


def check_host(target: Target, reach: Reach) -> None:
    """
    Refuse hosts that need no look-up to be known as out of *reach*.

    Raises:
        UrlRefused: A literal private address, a name of some inner network, or one of no pattern.
    """
    if target.address is not None:
        check_address(target.address, allow_private=reach.allow_private)
    elif not reach.allow_private and _is_private_name(target.host):
        raise _private_host()
    if reach.hosts and not any(fnmatchcase(target.host, p.lower()) for p in reach.hosts):
        raise UrlRefused(
            "the URL leads to a host that this workspace may not use; send the content as base64"
        )


def check_address(address: Address | str, *, allow_private: bool) -> None:
    """
    Refuse addresses that are not on the public internet.

    Args:
        address: As the resolver gave it; a scope (``%eth0``) makes it link-local.
        allow_private: Let loopback and private networks pass, but never link-local, metadata or
            multicast addresses.

    Raises:
        UrlRefused: Not public, or not an address at all.
    """
    try:
        known = ip_address(address) if isinstance(address, str) else address
    except ValueError:
        raise _private_host() from None
    is_allowed = _is_lab(known) if allow_private else _is_public(known)
    if not is_allowed:
        raise _private_host(is_lab=allow_private)


def _is_private_name(host: str) -> bool:
    return "." not in host or host.endswith(tuple(f".{suffix}" for suffix in _PRIVATE_SUFFIXES))


def _is_public(address: Address) -> bool:
    if isinstance(address, IPv4Address):
        return not any(address in network for network in (*_NEVER, *_PRIVATE))
    inner = _embedded(address)
    if inner is not None and not _is_public(inner):
        return False
    if any(address in network for network in _EMBEDDING):
        return True
    return address in _GLOBAL6 and not any(address in network for network in _PRIVATE6)


def _is_lab(address: Address) -> bool:
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _NEVER)
    inner = _embedded(address)
    if inner is not None and not _is_lab(inner):
        return False
    is_inside = any(address in network for network in (*_LAB6, *_EMBEDDING))
    return is_inside and address not in _METADATA6


def _embedded(address: IPv6Address) -> IPv4Address | None:
    """Return the IPv4 address to which packets for *address* would be carried."""
    bits = int(address)
    if address in _SIX_TO_FOUR:
        return IPv4Address((bits >> 80) & 0xFFFFFFFF)
    is_isatap = (bits >> 32) & 0xFFFFFFFF in _ISATAP
    if is_isatap or any(address in network for network in _EMBEDDING):
        return IPv4Address(bits & 0xFFFFFFFF)
    return None


def _private_host(*, is_lab: bool = False) -> UrlRefused:
    if is_lab:
        return UrlRefused("the URL leads to a link-local, metadata or multicast host")
    return UrlRefused(
        "the URL must lead to a public host; send the content as base64, or let the operator "
        "set allow_private_urls for this upstream"
    )
