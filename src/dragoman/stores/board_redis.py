"""
The board of all gateways, in Redis; implements ``Board``.

A notice is published, and kept in one hash for those that start later or have been away. It says
who posted it, since Redis brings it back to that one, too.
"""

import asyncio
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from operator import methodcaller
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import Struct, structs

from dragoman.core.errors import SharedStateUnavailable
from dragoman.policy.sharing import Notice
from dragoman.stores.redis_link import RedisLink
from dragoman.stores.redis_outbox import RedisOutbox

if TYPE_CHECKING:
    from dragoman.stores.redis_link import Pipeline

_MAX_KEPT: Final = 10_000
_KEPT_MS: Final = 24 * 3600 * 1000  # after the last notice
_AGAIN_S: Final = 0.25  # after Redis was away
_encode: Final = msgspec.msgpack.Encoder().encode


class _Posted(Struct, array_like=True, frozen=True):
    by: str
    until_ms: int  # since 1970, by the clock of who posted it
    notice: Notice


_decode: Final = msgspec.msgpack.Decoder(_Posted).decode


class RedisBoard:
    """
    Notices of all gateways.

    Args:
        link: The way to Redis.
        outbox: Takes what is posted.
        on_crash: Told of errors in those that read.

    Attributes:
        n_read: Notices of others that were read.
    """

    def __init__(
        self, link: RedisLink, outbox: RedisOutbox, *, on_crash: Callable[[BaseException], None]
    ) -> None:
        self._link = link
        self._outbox = outbox
        self._on_crash = on_crash
        self._id = secrets.token_hex(8)
        self._readers: dict[str, Callable[[Notice], None]] = {}
        self._listening: asyncio.Task[None] | None = None
        self._kept, self._channel = link.key("board"), link.key("news")
        self.n_read = 0

    def post(self, notice: Notice) -> None:
        until_ms = int((time.time() + notice.ttl_s) * 1000)
        raw = _encode(_Posted(self._id, until_ms, notice))
        field = f"{notice.topic} {notice.key}"

        def write(pipeline: "Pipeline") -> None:
            pipeline.hset(self._kept, field, raw)
            pipeline.pexpire(self._kept, _KEPT_MS)
            pipeline.publish(self._channel, raw)

        self._outbox.add(write, n_bytes=len(raw))

    def watch(self, topic: str, read: Callable[[Notice], None]) -> None:
        self._readers[topic] = read

    def open(self) -> None:
        """Begin to read, now or as soon as Redis is there."""
        self._listening = asyncio.get_running_loop().create_task(self._listen(), name="board")

    async def close(self) -> None:
        """Stop reading."""
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.gather(self._listening, return_exceptions=True)

    async def _listen(self) -> None:
        while True:
            with suppress(SharedStateUnavailable):
                await self._link.listen(self._channel, begun=self._read_kept, hear=self._read)
            await asyncio.sleep(_AGAIN_S)

    async def _read_kept(self) -> None:
        """Read what hangs there, and take off what is over."""
        kept = await self._link.run(methodcaller("hgetall", self._kept))
        now_ms, over = time.time() * 1000, []
        for field, raw in list(kept.items())[:_MAX_KEPT]:
            posted = _decoded(raw)
            if posted is None or posted.until_ms <= now_ms:
                over.append(field)
            else:
                self._show(posted)
        if over:
            self._outbox.add(methodcaller("hdel", self._kept, *over), n_bytes=len(over))

    def _read(self, raw: bytes) -> None:
        if (posted := _decoded(raw)) is not None:
            self._show(posted)

    def _show(self, posted: _Posted) -> None:
        read = self._readers.get(posted.notice.topic)
        left_s = posted.until_ms / 1000 - time.time()
        if read is None or posted.by == self._id or left_s <= 0:
            return
        self.n_read += 1
        try:
            read(structs.replace(posted.notice, ttl_s=left_s))
        except Exception as error:  # one reader's bug must not end the listening
            self._on_crash(error)


def _decoded(raw: bytes) -> _Posted | None:
    """Return what was posted; None: by a gateway of another version, in another form."""
    try:
        return _decode(raw)
    except msgspec.MsgspecError:
        return None
