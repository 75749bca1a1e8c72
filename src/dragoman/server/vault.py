"""
The reasoning vault: thinking kept for clients that drop it, while the upstream wants it back.

An entry belongs to one owner and one model, and is found by a tool call that the thinking led to:
by the id that we gave it, of which 64 bits cannot be guessed, and by the call itself. A client that
sends another's id, or an id under which it was never given such a call, gets nothing. Entries live
in memory only.
"""

import hashlib
import zlib
from collections import OrderedDict
from typing import Any, Final

import msgspec
from msgspec import Struct

from dragoman.core.call_digest import call_digest

_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder().decode
_ENTRY_BYTES: Final = 400  # key, object and slot of the table, beside the thinking
_MAX_RECALLED_BYTES: Final = 16 * 2**20  # for one request; a window of a million tokens is less


class VaultLimits(Struct, frozen=True, kw_only=True):
    """Bounds of the vault; the oldest entries go first."""

    max_entries: int = 100_000
    max_bytes: int = 64 * 2**20
    max_entry_bytes: int = 2**20  # of the thinking before compression; longer is not kept
    ttl_s: float = 24 * 3600.0


class VaultReader:
    """
    What one request may read: its owner's reasoning, each call's once, within a bound.

    Short references must not make a long prompt: a call that is named twice is found once.
    """

    def __init__(self, vault: "Vault", *, owner: str, model: str, now_s: float) -> None:
        self._vault = vault
        self._owner = owner
        self._model = model
        self._now_s = now_s
        self._seen: set[tuple[str, str, str]] = set()
        self._left = _MAX_RECALLED_BYTES

    def __call__(self, call_id: str, name: str, arguments: str) -> str | None:
        """Return the reasoning that led to a call, or None (see ``core.history.Recall``)."""
        asked = (call_id, name, arguments)
        if asked in self._seen or self._left <= 0 or not self._vault.n_entries:
            return None
        self._seen.add(asked)
        call = (call_id, name, _decode(arguments))
        found = self._vault.recall(
            owner=self._owner, model=self._model, call=call, now_s=self._now_s
        )
        self._left -= len(found) if found else 0
        return found


class Vault:
    """
    Keep reasoning by owner, model and tool call. Belongs to one event loop.

    Args:
        limits: Bounds.
    """

    def __init__(self, limits: VaultLimits | None = None) -> None:
        self._limits = limits or VaultLimits()
        # Oldest first. Calls of one turn share the thinking, each with an entry of its own.
        self._entries: OrderedDict[bytes, tuple[float, bytes]] = OrderedDict()
        self._n_bytes = 0

    @property
    def n_entries(self) -> int:
        """How many calls it knows."""
        return len(self._entries)

    @property
    def n_bytes(self) -> int:
        """About how much memory it takes."""
        return self._n_bytes

    def keep(
        self,
        reasoning: str,
        *,
        owner: str,
        model: str,
        calls: list[tuple[str, str, Any]],
        now_s: float,
    ) -> None:
        """
        Keep *reasoning* for the calls that it led to.

        Args:
            reasoning: The thinking of one assistant turn.
            owner: The client key's name: nobody else gets it back.
            model: The alias that the client asked for.
            calls: Of each call the id that the client got, the tool's name and the input.
            now_s: A clock that never goes back.
        """
        raw = reasoning.encode("utf-8", "surrogatepass")
        if not raw or len(raw) > self._limits.max_entry_bytes:
            return
        packed = zlib.compress(raw, 1)
        for call_id, name, arguments in calls:
            key = _key(owner, model, call_id, digest=call_digest(name, arguments))
            self._remove(key)
            self._entries[key] = (now_s + self._limits.ttl_s, packed)
            self._n_bytes += len(packed) + _ENTRY_BYTES
        self._shrink(now_s)

    def recall(
        self, *, owner: str, model: str, call: tuple[str, str, Any], now_s: float
    ) -> str | None:
        """Return the reasoning that led to *call*, or None."""
        call_id, name, arguments = call
        key = _key(owner, model, call_id, digest=call_digest(name, arguments))
        entry = self._entries.get(key)
        if entry is None:
            return None
        expires_s, packed = entry
        if expires_s < now_s:
            self._remove(key)
            return None
        raw = zlib.decompressobj().decompress(packed, self._limits.max_entry_bytes)
        return raw.decode("utf-8", "surrogatepass")

    def _shrink(self, now_s: float) -> None:
        limits = self._limits
        while self._entries:
            key, (expires_s, _) = next(iter(self._entries.items()))
            is_over = len(self._entries) > limits.max_entries or self._n_bytes > limits.max_bytes
            if not is_over and expires_s >= now_s:
                return
            self._remove(key)

    def _remove(self, key: bytes) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._n_bytes -= len(entry[1]) + _ENTRY_BYTES


def _key(owner: str, model: str, call_id: str, *, digest: bytes) -> bytes:
    joined = _encode([owner, model, call_id])  # JSON: no two lists of names are written alike
    return hashlib.blake2b(joined + digest, digest_size=24).digest()
