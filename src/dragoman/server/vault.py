"""
The reasoning vault: thinking kept for clients that drop it, while the upstream wants it back.

An entry belongs to one owner and one model, and is found by a tool call that the thinking led to:
by the id that we gave it, of which 64 bits cannot be guessed, and by the call itself. A client that
sends another's id, or an id under which it was never given such a call, gets nothing. Entries live
in memory and, where several processes serve the same clients, on a shelf that they share.
"""

import hashlib
import zlib
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct

from dragoman.core.call_digest import call_digest
from dragoman.core.errors import SharedStateUnavailable
from dragoman.policy.sharing import Shelf
from dragoman.stores.shelf_memory import MemoryShelf, ShelfLimits

_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder().decode
_MAX_RECALLED_BYTES: Final = 16 * 2**20  # for one request; a window of a million tokens is less
_MAX_FETCHED: Final = 256  # calls of one request that are looked for on the shared shelf


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

    Attributes:
        missing: Keys of what was asked for and may be on the shared shelf, the latest calls last.
    """

    def __init__(self, vault: "Vault", *, owner: str, model: str, now_s: float) -> None:
        self._vault = vault
        self._owner = owner
        self._model = model
        self._now_s = now_s
        self._seen: set[tuple[str, str, str]] = set()
        self._left = _MAX_RECALLED_BYTES
        self.missing: list[bytes] = []

    def __call__(self, call_id: str, name: str, arguments: str) -> str | None:
        """Return the reasoning that led to a call, or None (see ``core.history.Recall``)."""
        asked = (call_id, name, arguments)
        if asked in self._seen or self._left <= 0 or self._vault.knows_nothing:
            return None
        self._seen.add(asked)
        digest = call_digest(name, _decode(arguments))
        key = _key(self._owner, self._model, call_id, digest=digest)
        found = self._vault.find(key, now_s=self._now_s)
        if found is None:
            if self._vault.is_shared:
                self.missing.append(key)
            return None
        self._left -= len(found)
        return found


class Vault:
    """
    Keep reasoning by owner, model and tool call. Belongs to one event loop.

    Args:
        limits: Bounds of what this process keeps.
        shared: What it shares with others; None: nothing.

    Attributes:
        n_fetched: What was found on the shared shelf.
        n_unreachable: How often that could not be reached.
    """

    def __init__(self, limits: VaultLimits | None = None, *, shared: Shelf | None = None) -> None:
        self._limits = limits or VaultLimits()
        self._own = MemoryShelf(
            ShelfLimits(
                max_entries=self._limits.max_entries,
                max_bytes=self._limits.max_bytes,
                ttl_s=self._limits.ttl_s,
            )
        )
        self._shared = shared
        self.n_fetched = 0
        self.n_unreachable = 0

    @property
    def n_entries(self) -> int:
        """How many calls this process knows."""
        return len(self._own)

    @property
    def n_bytes(self) -> int:
        """About how much memory it takes."""
        return self._own.n_bytes

    @property
    def is_shared(self) -> bool:
        """Whether there may be more elsewhere."""
        return self._shared is not None

    @property
    def knows_nothing(self) -> bool:
        """Whether there is nothing to be found, here or elsewhere."""
        return self._shared is None and not len(self._own)

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
        keys = [
            _key(owner, model, call_id, digest=call_digest(name, arguments))
            for call_id, name, arguments in calls
        ]
        self._own.put(keys, packed, now_s=now_s)
        if self._shared is not None:
            self._shared.put(keys, packed)

    def recall(
        self, *, owner: str, model: str, call: tuple[str, str, Any], now_s: float
    ) -> str | None:
        """Return the reasoning that led to *call*, or None."""
        call_id, name, arguments = call
        key = _key(owner, model, call_id, digest=call_digest(name, arguments))
        return self.find(key, now_s=now_s)

    def find(self, key: bytes, *, now_s: float) -> str | None:
        """Return what is kept under one of our keys, or None."""
        packed = self._own.get(key, now_s=now_s)
        if packed is None:
            return None
        try:
            raw = zlib.decompressobj().decompress(packed, self._limits.max_entry_bytes)
        except zlib.error:  # of another version of ours, on the shared shelf
            return None
        return raw.decode("utf-8", "surrogatepass")

    async def fetch(self, keys: Sequence[bytes], *, now_s: float) -> bool:
        """
        Get from the shared shelf what this process lacks; return whether there was anything.

        Where it cannot be reached, that reasoning counts as lost, as it would without a shelf.
        """
        if self._shared is None or not keys:
            return False
        try:
            found = await self._shared.get(keys[-_MAX_FETCHED:])
        except SharedStateUnavailable:
            self.n_unreachable += 1
            return False
        for key, packed in found.items():
            self._own.put((key,), packed, now_s=now_s)
        self.n_fetched += len(found)
        return bool(found)


def _key(owner: str, model: str, call_id: str, *, digest: bytes) -> bytes:
    joined = _encode([owner, model, call_id])  # JSON: no two lists of names are written alike
    return hashlib.blake2b(joined + digest, digest_size=24).digest()
