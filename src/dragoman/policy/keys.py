"""Client keys: who is calling. Without any key the gateway is open, see ``open_access``."""

import hashlib
import hmac
import secrets
from collections.abc import Iterable
from typing import Final

from dragoman.core.errors import AuthenticationFailed
from dragoman.policy.access import Caller

OPEN: Final = "local"  # the caller's name where no key is asked for
ANYBODY: Final = Caller(key_id=OPEN, key_name=OPEN)
_SCHEME: Final = b"bearer "
_HOW: Final = "send a client key of this gateway as x-api-key or as Authorization: Bearer"


class KeyRing:
    """
    The client keys.

    Args:
        keys: Name and key of each; none at all: everyone is let in.
    """

    def __init__(self, keys: Iterable[tuple[str, str]]) -> None:
        # What is compared are digests under a secret of this process: they have one length, and
        # how far two of them agree says nothing about the keys.
        self._salt = secrets.token_bytes(32)
        self._digests = [
            (Caller(key_id=f"config:{name}", key_name=name), self._digest(key.encode()))
            for name, key in keys
        ]

    @property
    def is_open(self) -> bool:
        """Whether no key is asked for."""
        return not self._digests

    def verify(self, x_api_key: bytes | None, authorization: bytes | None) -> Caller:
        """
        Return who has sent these headers.

        Args:
            x_api_key: The header; whichever of the two holds a known key counts.
            authorization: The header.

        Raises:
            AuthenticationFailed: Neither holds a known key.
        """
        if self.is_open:
            return ANYBODY
        for key in sent_keys(x_api_key, authorization):
            if (caller := self.find(key)) is not None:
                return caller
        raise refusal(x_api_key, authorization)

    def find(self, key: bytes) -> Caller | None:
        """Return whose *key* it is; None: it is none of these."""
        digest = self._digest(key)
        found: Caller | None = None
        for caller, known in self._digests:  # all of them, so that time does not tell which
            if hmac.compare_digest(digest, known):
                found = caller
        return found

    def _digest(self, key: bytes) -> bytes:
        return hashlib.blake2b(key, key=self._salt, digest_size=32).digest()


def sent_keys(x_api_key: bytes | None, authorization: bytes | None) -> list[bytes]:
    """Return the keys in these headers."""
    return [key for key in (_plain(x_api_key), _bearer(authorization)) if key]


def refusal(x_api_key: bytes | None, authorization: bytes | None) -> AuthenticationFailed:
    """Return the error for headers in which there is no known key."""
    if sent_keys(x_api_key, authorization):
        return unknown_key()
    if authorization and authorization.strip():
        return AuthenticationFailed(f"the Authorization header is not Bearer: {_HOW}")
    return AuthenticationFailed(f"no API key: {_HOW}")


def unknown_key() -> AuthenticationFailed:
    """Return the error for a key that nobody has."""
    return AuthenticationFailed(f"unknown API key: {_HOW}")


def _plain(value: bytes | None) -> bytes:
    return (value or b"").strip()


def _bearer(value: bytes | None) -> bytes:
    text = _plain(value)
    return text[len(_SCHEME) :].strip() if text[: len(_SCHEME)].lower() == _SCHEME else b""
