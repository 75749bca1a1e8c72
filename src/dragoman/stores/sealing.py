"""
Thinking as it lies in Redis: encrypted and bound to its key, so that whoever reads Redis sees
nothing of it, and whoever writes there cannot give one client what belongs to another.

ChaCha20-Poly1305 (RFC 8439) of the library ``cryptography``, with random nonces: one key is good
for some four thousand million of them.
"""

import hashlib
import secrets
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

_NONCE_BYTES: Final = 12
_FINGERPRINT_BYTES: Final = 16


class Seal:
    """
    Close and open blobs with a key of their own, made of the signing secret.

    Args:
        secret: The signing secret; the same on all gateways that share a Redis.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._made: ChaCha20Poly1305 | None = None

    def close(self, blob: bytes, *, label: bytes) -> bytes:
        """Return *blob* encrypted; it opens under the same *label* only."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + self._cipher().encrypt(nonce, blob, label)

    def open(self, sealed: bytes, *, label: bytes) -> bytes | None:
        """Return what was sealed, or None: not by this secret, not under this label, or damaged."""
        from cryptography.exceptions import InvalidTag  # noqa: PLC0415 - as below

        if len(sealed) < _NONCE_BYTES:
            return None
        nonce, rest = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
        try:
            return self._cipher().decrypt(nonce, rest, label)
        except InvalidTag:
            return None

    def fingerprint(self) -> str:
        """Return what is equal for equal secrets and tells nothing else of them."""
        return self._derived(b"dragoman-finger", _FINGERPRINT_BYTES).hex()

    def _cipher(self) -> "ChaCha20Poly1305":
        if self._made is None:
            from cryptography.hazmat.primitives.ciphers import aead  # noqa: PLC0415 - large

            self._made = aead.ChaCha20Poly1305(self._derived(b"dragoman-vault", 32))
        return self._made

    def _derived(self, purpose: bytes, size: int) -> bytes:
        return hashlib.blake2b(self._secret, digest_size=size, person=purpose).digest()
