"""The shelf of all gateways, in Redis; implements ``Shelf``. What lies there is sealed."""

from collections.abc import Sequence
from operator import methodcaller
from typing import Final

from dragoman.stores.redis_link import RedisLink
from dragoman.stores.redis_outbox import RedisOutbox
from dragoman.stores.sealing import Seal

_PER_TRIP: Final = 32  # an entry may have a megabyte
_MAX_BYTES: Final = 16 * 2**20  # of one answer


class RedisShelf:
    """
    Blobs by key.

    Args:
        link: The way to Redis.
        outbox: Takes what is put there.
        seal: Of the gateways that share it.
        ttl_s: How long they are kept.

    Attributes:
        n_foreign: Entries that did not open: another secret, or somebody has changed them.
    """

    def __init__(self, link: RedisLink, outbox: RedisOutbox, *, seal: Seal, ttl_s: float) -> None:
        self._link = link
        self._outbox = outbox
        self._seal = seal
        self._ttl_ms = int(ttl_s * 1000)
        self.n_foreign = 0

    def put(self, keys: Sequence[bytes], blob: bytes) -> None:
        for key in keys:
            name, sealed = self._name(key), self._seal.close(blob, label=key)
            write = methodcaller("set", name, sealed, px=self._ttl_ms)
            self._outbox.add(write, n_bytes=len(sealed))

    async def get(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        found: dict[bytes, bytes] = {}
        left = _MAX_BYTES
        # The latest calls first: they matter most, if there is too much.
        for end in range(len(keys), 0, -_PER_TRIP):
            some = keys[max(end - _PER_TRIP, 0) : end]
            names = [self._name(key) for key in some]
            sealed = await self._link.run(methodcaller("mget", names))
            for key, each in zip(some, sealed, strict=True):
                if each is not None and (blob := self._opened(each, key)) is not None:
                    found[key] = blob
                    left -= len(blob)
            if left <= 0:
                break
        return found

    def _opened(self, sealed: bytes, key: bytes) -> bytes | None:
        blob = self._seal.open(sealed, label=key)
        self.n_foreign += blob is None
        return blob

    def _name(self, key: bytes) -> str:
        return self._link.key("vault", key.hex())
