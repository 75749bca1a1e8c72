"""What shall reach Redis soon, and nobody waits for: written in batches by one task."""

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

from dragoman.core.errors import SharedStateUnavailable
from dragoman.stores.redis_link import RedisLink

if TYPE_CHECKING:
    from dragoman.stores.redis_link import Pipeline, Redis

_BATCH: Final = 100
_MAX_BYTES: Final = 16 * 2**20  # that wait; then what comes is lost
_CLOSE_S: Final = 2.0
Write = Callable[["Pipeline"], object]


class RedisOutbox:
    """
    Writes to Redis, in order. Belongs to one event loop.

    Args:
        link: The way there.

    Attributes:
        n_lost: Writes that were given up, for Redis is away or too slow.
    """

    def __init__(self, link: RedisLink) -> None:
        self._link = link
        self._waiting: deque[tuple[Write, int]] = deque()
        self._n_bytes = 0
        self._writer: asyncio.Task[None] | None = None
        self.n_lost = 0

    def add(self, write: Write, *, n_bytes: int) -> None:
        """Have *write* add its commands to a batch; *n_bytes* is about what they hold."""
        if not self._link.is_there or self._n_bytes + n_bytes > _MAX_BYTES:
            self.n_lost += 1
            return
        self._waiting.append((write, n_bytes))
        self._n_bytes += n_bytes
        if self._writer is None:
            self._writer = asyncio.get_running_loop().create_task(self._write(), name="outbox")

    async def close(self) -> None:
        """Write what waits, for a short time."""
        if self._writer is None:
            return
        _, late = await asyncio.wait({self._writer}, timeout=_CLOSE_S)
        for task in late:
            task.cancel()

    async def _write(self) -> None:
        try:
            while self._waiting:
                batch = [self._waiting.popleft() for _ in range(min(_BATCH, len(self._waiting)))]
                self._n_bytes -= sum(n_bytes for _, n_bytes in batch)
                try:
                    await self._link.run(partial(_send, batch))
                except SharedStateUnavailable:
                    self.n_lost += len(batch)
        finally:
            self._writer = None


async def _send(batch: list[tuple[Write, int]], client: "Redis") -> None:
    async with client.pipeline(transaction=False) as pipeline:
        for write, _ in batch:
            write(pipeline)
        await pipeline.execute()
