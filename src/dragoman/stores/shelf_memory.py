"""Bytes kept in memory for a while, within bounds; the oldest go first."""

from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

from msgspec import Struct

_ENTRY_BYTES: Final = 400  # key, object and slot of the table, beside the blob


class ShelfLimits(Struct, frozen=True, kw_only=True):
    """How much is kept, and for how long."""

    max_entries: int = 100_000
    max_bytes: int = 64 * 2**20
    ttl_s: float = 24 * 3600.0


class MemoryShelf:
    """
    Blobs by key. Belongs to one event loop.

    Args:
        limits: Bounds.
    """

    def __init__(self, limits: ShelfLimits) -> None:
        self._limits = limits
        # Oldest first. A blob under several keys is one object, and counts under each.
        self._entries: OrderedDict[bytes, tuple[float, bytes]] = OrderedDict()
        self.n_bytes = 0  # about what it takes

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, keys: Iterable[bytes], blob: bytes, *, now_s: float) -> None:
        """Keep *blob* under each key; *now_s* is of a clock that never goes back."""
        for key in keys:
            self._remove(key)
            self._entries[key] = (now_s + self._limits.ttl_s, blob)
            self.n_bytes += len(blob) + _ENTRY_BYTES
        self._shrink(now_s)

    def get(self, key: bytes, *, now_s: float) -> bytes | None:
        """Return what is kept under *key*, or None."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        expires_s, blob = entry
        if expires_s < now_s:
            self._remove(key)
            return None
        return blob

    def _shrink(self, now_s: float) -> None:
        limits = self._limits
        while self._entries:
            key, (expires_s, _) = next(iter(self._entries.items()))
            is_over = len(self._entries) > limits.max_entries or self.n_bytes > limits.max_bytes
            if not is_over and expires_s >= now_s:
                return
            self._remove(key)

    def _remove(self, key: bytes) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.n_bytes -= len(entry[1]) + _ENTRY_BYTES
