"""The board in a real Redis: read by all others, by those that start later, and after outages."""

import asyncio
import time
from collections.abc import Callable
from typing import Self

import pytest

from dragoman.policy.sharing import Notice
from dragoman.settings import RedisConfig, Secret
from dragoman.stores.board_redis import RedisBoard
from dragoman.stores.redis_link import RedisLink
from dragoman.stores.redis_outbox import RedisOutbox
from support.redis import RedisServer

pytestmark = pytest.mark.server
_PATIENCE_S = 20


class Gateway:
    """One that reads the topic ``facts``."""

    def __init__(self, url: str) -> None:
        self.link = RedisLink(RedisConfig(url=Secret(url), timeout_s=10, retry_interval_s=0.05))
        self.outbox = RedisOutbox(self.link)
        self.crashes: list[BaseException] = []
        self.board = RedisBoard(self.link, self.outbox, on_crash=self.crashes.append)
        self.read: list[Notice] = []
        self.board.watch("facts", self.take)

    def take(self, notice: Notice) -> None:
        self.read.append(notice)
        if notice.body == b"broken":
            raise ValueError("a bug of a reader")

    async def __aenter__(self) -> Self:
        await self.link.open()
        self.board.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.board.close()
        await self.outbox.close()
        await self.link.close()

    def post(self, key: str, body: bytes, *, topic: str = "facts", ttl_s: float = 60) -> None:
        self.board.post(Notice(topic=topic, key=key, body=body, ttl_s=ttl_s))

    def bodies(self) -> list[bytes]:
        return [notice.body for notice in self.read]


async def until(is_true: Callable[[], bool]) -> None:
    end_s = time.monotonic() + _PATIENCE_S
    while not is_true():
        assert time.monotonic() < end_s
        await asyncio.sleep(0.01)


async def until_reading(gateway: Gateway, by: Gateway) -> None:
    """Wait until *gateway* hears what *by* posts."""
    n = 0
    while not any(notice.key == "hello" for notice in gateway.read):
        by.post("hello", b"%d" % n, ttl_s=0.05)
        n += 1
        await asyncio.sleep(0.02)
    gateway.read.clear()


def test_all_others_read_it_once(redis_url: str) -> None:
    async def main() -> None:
        async with Gateway(redis_url) as one, Gateway(redis_url) as two, Gateway(redis_url) as six:
            await until_reading(two, one)
            await until_reading(six, one)
            one.post("a", b"broken")
            one.post("a", b"second", ttl_s=9)
            one.post("b", b"not read", topic="other")
            one.post("c", b"last")
            await until(lambda: len(two.bodies()) >= 3 and len(six.bodies()) >= 3)
            assert two.bodies() == six.bodies() == [b"broken", b"second", b"last"]
            assert 8 < two.read[1].ttl_s <= 9
            assert one.read == []
            assert [str(each) for each in two.crashes] == ["a bug of a reader"]

    asyncio.run(main())


def test_who_starts_later_reads_what_still_hangs(redis_url: str) -> None:
    async def main() -> None:
        async with Gateway(redis_url) as one:
            one.post("a", b"old")
            one.post("a", b"new")
            one.post("b", b"over", ttl_s=0.001)
            await one.outbox.close()
            await one.link.run(lambda client: client.hset("dragoman:board", "x", b"\xc1"))
            async with Gateway(redis_url) as late:
                await until(lambda: bool(late.read))
                assert late.bodies() == [b"new"]
                await late.outbox.close()
            kept = await one.link.run(lambda client: client.hkeys("dragoman:board"))
            assert kept == [b"facts a"]

    asyncio.run(main())


def test_after_an_outage_they_read_again() -> None:
    async def main(server: RedisServer) -> None:
        async with Gateway(server.url) as one, Gateway(server.url) as two:
            await until_reading(two, one)
            server.kill()
            await until(lambda: not one.link.is_there and not two.link.is_there)
            one.post("a", b"lost")
            assert one.outbox.n_lost >= 1
            await asyncio.to_thread(server.start)
            await until(lambda: one.link.is_there and two.link.is_there)
            await until_reading(two, one)
            one.post("a", b"heard")
            await until(lambda: bool(two.read))
            assert two.bodies() == [b"heard"]

    with RedisServer() as server:
        asyncio.run(main(server))
