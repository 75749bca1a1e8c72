"""
What keys of the store look like. They are random to 256 bits: nobody can guess one, so that a plain
digest is enough to keep, and their beginning tells people and scanners of leaks what they found.
"""

import hashlib
import re
import secrets
from typing import Final

CLIENT_PREFIX: Final = "sk-dgm-"
ADMIN_PREFIX: Final = "sk-dgm-admin-"
_SECRET_BYTES: Final = 32  # 43 characters of base64url
_SHOWN: Final = 4  # characters of the secret at either end
_CLIENT: Final = re.compile(rb"sk-dgm-[A-Za-z0-9_-]{43}")
_ADMIN: Final = re.compile(rb"sk-dgm-admin-[A-Za-z0-9_-]{43}")


def new_client_key() -> str:
    """Return a key for clients."""
    return CLIENT_PREFIX + secrets.token_urlsafe(_SECRET_BYTES)


def new_admin_key() -> str:
    """Return a key for the admin API."""
    return ADMIN_PREFIX + secrets.token_urlsafe(_SECRET_BYTES)


def new_id(kind: str) -> str:
    """Return a fresh id: *kind* (``apikey``, ``wrkspc``, ``adminkey``, ``audit``) and 24 others."""
    return f"{kind}_{secrets.token_urlsafe(18)}"


def is_client_key(sent: bytes) -> bool:
    """Tell whether *sent* can be a client key of a store; nothing else is looked for there."""
    return _CLIENT.fullmatch(sent) is not None


def is_admin_key(sent: bytes) -> bool:
    """Tell whether *sent* can be an admin key."""
    return _ADMIN.fullmatch(sent) is not None


def digest_of(key: bytes) -> bytes:
    """Return what a store knows a key by."""
    return hashlib.sha256(key).digest()


def hint_of(key: str) -> str:
    """Return a key as people may see it."""
    prefix = ADMIN_PREFIX if key.startswith(ADMIN_PREFIX) else CLIENT_PREFIX
    secret = key.removeprefix(prefix)
    return f"{prefix}{secret[:_SHOWN]}...{secret[-_SHOWN:]}"
