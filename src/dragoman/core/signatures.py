"""
Our mark on thinking blocks: a keyed signature that only this gateway (or a replica) can make.

Layout before base64url: one version byte, flags, 16 bytes of keyed BLAKE2b over the rest and the
thinking, then, where the client asked for thinking not to be shown (``display: omitted``), the
thinking itself, compressed and masked: such a block comes back empty, and models that need their
reasoning echoed get it from here. The mask keeps it out of sight; it is no vault.
"""

import base64
import binascii
import hashlib
import hmac
import zlib
from typing import Final

_VERSION: Final = 1
_CARRIES: Final = 1  # flag: the thinking is inside
_MAC_BYTES: Final = 16
_PREFIX: Final = "drgm"  # lets a native upstream's signatures be told from ours without a key
_MAX_THINKING_BYTES: Final = 4 * 2**20  # bound on inflating what a client sends us


class Signer:
    """
    Make and read signatures with one secret.

    Args:
        secret: At least 16 bytes, the same on all replicas.
    """

    def __init__(self, secret: bytes) -> None:
        self._mac_key = hashlib.blake2b(secret, digest_size=32, person=b"dragoman-sign").digest()
        self._mask_key = hashlib.blake2b(secret, digest_size=32, person=b"dragoman-mask").digest()

    def sign(self, thinking: str, *, carry: bool = False) -> str:
        """Return the signature of *thinking*; with *carry*, one that also holds it."""
        raw = thinking.encode("utf-8", "surrogatepass")
        head = bytes((_VERSION, _CARRIES if carry else 0))
        mac = self._mac(head, raw)
        tail = self._mask(zlib.compress(raw, 6), mac) if carry else b""
        return _PREFIX + base64.urlsafe_b64encode(head + mac + tail).decode().rstrip("=")

    def is_ours(self, signature: str, thinking: str | None = None) -> bool:
        """Tell whether *signature* bears our mark and, if *thinking* is given, fits it."""
        parts = _split(signature)
        if parts is None:
            return False
        head, mac, _ = parts
        if head[1] & _CARRIES:
            carried = self.carried_thinking(signature)
            return carried is not None and thinking in (None, "", carried)
        if thinking is None:
            return True
        expected = self._mac(head, thinking.encode("utf-8", "surrogatepass"))
        return hmac.compare_digest(mac, expected)

    def carried_thinking(self, signature: str) -> str | None:
        """Return the thinking inside *signature*, or None: it holds none or is not ours."""
        parts = _split(signature)
        if parts is None or not parts[0][1] & _CARRIES:
            return None
        head, mac, tail = parts
        inflate = zlib.decompressobj()
        try:
            raw = inflate.decompress(self._mask(tail, mac), _MAX_THINKING_BYTES)
            text = raw.decode("utf-8", "surrogatepass")
        except (zlib.error, UnicodeDecodeError):
            return None
        return text if hmac.compare_digest(mac, self._mac(head, raw)) else None

    def _mac(self, head: bytes, raw: bytes) -> bytes:
        return hashlib.blake2b(head + raw, digest_size=_MAC_BYTES, key=self._mac_key).digest()

    def _mask(self, data: bytes, mac: bytes) -> bytes:
        stream = hashlib.shake_256(self._mask_key + mac).digest(len(data))
        size = len(data)
        return (int.from_bytes(data, "big") ^ int.from_bytes(stream, "big")).to_bytes(size, "big")


def has_our_mark(signature: str) -> bool:
    """Tell by its form whether *signature* is one of a Dragoman gateway, whatever its secret."""
    return _split(signature) is not None


def _split(signature: str) -> tuple[bytes, bytes, bytes] | None:
    """Return head, mac and tail, or None if this has not our form."""
    if not signature.startswith(_PREFIX):
        return None
    encoded = signature[len(_PREFIX) :]
    try:
        raw = base64.b64decode(encoded + "=" * (-len(encoded) % 4), b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None
    if len(raw) < 2 + _MAC_BYTES or raw[0] != _VERSION:
        return None
    return raw[:2], raw[2 : 2 + _MAC_BYTES], raw[2 + _MAC_BYTES :]
