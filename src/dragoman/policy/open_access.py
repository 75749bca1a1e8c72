"""
Who may call a gateway without keys: programs of this machine, but no web page.

A page that the user visits can send requests to 127.0.0.1, by that address or by a name of its own
that it makes resolve to it (DNS rebinding). Then its name shows in Host, its address in Origin, and
a body that it may send without asking first is never application/json.
"""

from collections.abc import Collection
from typing import Final

from dragoman.core.errors import InvalidRequest, PermissionDenied

_LOCAL: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})
_REMEDY: Final = "call it as localhost or 127.0.0.1, or give it client keys ([[keys]])"
_DEFAULT_PORTS: Final = {"http": "80", "https": "443"}


def check_open_access(
    method: str,
    *,
    host: bytes | None,
    origin: bytes | None,
    content_type: bytes | None,
    allowed_hosts: Collection[str] = (),
) -> None:
    """
    Let a request without a key pass, or say why not.

    Args:
        method: Of the request; a POST must carry JSON.
        host: The header; None: there is none.
        origin: The header, which only browsers send.
        content_type: The header.
        allowed_hosts: Further names that Host may have, without port.

    Raises:
        PermissionDenied: Host or Origin is foreign.
        InvalidRequest: The body is not declared as JSON.
    """
    name, port = _split(_text(host))
    allowed = _LOCAL.union(known.casefold() for known in allowed_hosts)
    if name not in allowed:
        raise PermissionDenied(
            f"this gateway has no client keys and answers only to its own names: {_REMEDY}"
        )
    if origin is not None and not _is_own(_text(origin), port, allowed=allowed):
        raise PermissionDenied(
            "this gateway has no client keys and answers no web pages: call it from a program, or "
            "give it client keys ([[keys]])"
        )
    if method == "POST":
        media_type = _text(content_type).partition(";")[0].strip()
        if media_type != "application/json":
            raise InvalidRequest("content-type", "must be application/json")


def _is_own(origin: str, port: str, *, allowed: Collection[str]) -> bool:
    """Return whether the page comes from this very gateway: an own name and the same port."""
    scheme, mark, authority = origin.partition("://")
    if not mark or scheme not in _DEFAULT_PORTS:
        return False
    name, origin_port = _split(authority)
    default = _DEFAULT_PORTS[scheme]
    return name in allowed and (origin_port or default) == (port or default)


def _split(authority: str) -> tuple[str, str]:
    """Return name and port; an IPv6 address keeps its brackets. Nonsense gives no known name."""
    name, mark, port = authority.rpartition(":")
    if not mark or port.endswith("]"):
        name, port = authority, ""
    if port and not (port.isascii() and port.isdigit()):
        return "", ""
    return name.removesuffix("."), port


def _text(value: bytes | None) -> str:
    return (value or b"").decode("latin-1").strip().casefold()
