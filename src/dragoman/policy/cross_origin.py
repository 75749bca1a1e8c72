"""
Which web pages of other origins may read our answers: none, unless the operator names them.

Source: Fetch standard, "CORS protocol". Credentials travel in headers of their own, never in
cookies, so that no answer says ``access-control-allow-credentials``.
"""

from collections.abc import Collection
from typing import Final

Header = tuple[bytes, bytes]

_VARY: Final = (b"vary", b"origin")
_EXPOSED: Final = (
    b"request-id, retry-after, x-should-retry, x-dragoman-adjustments, x-dragoman-version, *"
)
_PREFLIGHT: Final = (
    (b"access-control-allow-methods", b"GET, POST"),
    (b"access-control-allow-headers", b"authorization, *"),  # the star does not stand for it
    (b"access-control-max-age", b"600"),
)


class CrossOrigin:
    """
    The origins that may read answers.

    Args:
        origins: As browsers write them: scheme, host and, where it is not the usual one, port.
    """

    def __init__(self, origins: Collection[str]) -> None:
        self._origins = frozenset(origin.encode() for origin in origins)

    def headers(self, origin: bytes | None) -> tuple[Header, ...]:
        """Return what every answer to a page of *origin* says; nothing to all others."""
        if origin is None or origin not in self._origins:
            return ()
        return (
            (b"access-control-allow-origin", origin),
            (b"access-control-expose-headers", _EXPOSED),
            _VARY,
        )

    def preflight(self, origin: bytes | None) -> tuple[Header, ...]:
        """Return what a browser that asks beforehand is told, too; nothing: it gets no answer."""
        return _PREFLIGHT if origin in self._origins else ()
