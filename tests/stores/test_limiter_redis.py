"""Counters in a real Redis that hangs or forgets: nothing waits, and nothing counts twice."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from dragoman.core.errors import SharedStateUnavailable
from dragoman.policy.limits import Claim, Reservation
from dragoman.settings import RedisConfig, Secret
from dragoman.stores.limiter_redis import RedisLimiter
from dragoman.stores.redis_link import RedisLink
from support.redis import RedisServer

pytestmark = pytest.mark.server


def claims(limit: int = 1000) -> tuple[Claim, ...]:
    ends_s = time.time() + 9000
    return (
        Claim(counter="w", mode="window", limit=limit, amount=10),
        Claim(counter="h", mode="held", limit=limit),
        Claim(counter="b", mode="budget", limit=limit, amount=10, ends_s=ends_s),
    )


@asynccontextmanager
async def linked(server: RedisServer) -> AsyncIterator[tuple[RedisLimiter, RedisLink]]:
    config = RedisConfig(url=Secret(server.url), timeout_s=0.3, retry_interval_s=0.05)
    link = RedisLink(config)
    await link.open()
    limiter = RedisLimiter(link)
    try:
        yield limiter, link
    finally:
        await limiter.close()
        await link.close()


async def take(limiter: RedisLimiter, name: str) -> Reservation:
    verdict = await limiter.reserve(name, claims(), now_s=0, seeds={"b": 0})
    assert verdict.is_granted
    return Reservation(id=name, claims=claims(), at_s=verdict.at_s)


async def used(limiter: RedisLimiter, name: str) -> tuple[int, ...]:
    """Return what is in use, with what this look itself takes of windows and places."""
    verdict = await limiter.reserve(name, claims(), now_s=0, seeds={"b": 0})
    return verdict.used


def test_the_time_is_that_of_redis(shared_redis: RedisServer) -> None:
    async def main() -> None:
        shared_redis.empty()
        async with linked(shared_redis) as (limiter, _):
            one = await take(limiter, "r1")
            assert abs(one.at_s - time.time()) < 60, "whatever the gateway's own clock says"

    asyncio.run(main())


def test_settling_waits_for_redis_and_nobody_for_settling() -> None:
    async def main(server: RedisServer) -> None:
        async with linked(server) as (limiter, link):
            one = await take(limiter, "r1")
            server.pause()
            began_s = time.monotonic()
            limiter.settle(one, (15, 1, 15), now_s=0)
            assert time.monotonic() - began_s < 0.1
            with pytest.raises(SharedStateUnavailable):
                await limiter.reserve("r2", claims(), now_s=0)
            await asyncio.sleep(1.0)  # settling is tried, late, and tried again
            server.resume()
            async with asyncio.timeout(20):
                while not link.is_there:  # noqa: ASYNC110 - it has no event
                    await asyncio.sleep(0.02)
            await limiter.close()
            seen = await used(limiter, "r3")
            # What was asked while Redis hung may have been done, too, when it went on.
            assert seen in {(25, 1, 15), (35, 2, 15)}
            assert limiter.n_lost == 0

    with RedisServer() as server:
        asyncio.run(main(server))


def test_a_redis_that_has_forgotten_everything_is_no_trouble() -> None:
    async def main(server: RedisServer) -> None:
        async with linked(server) as (limiter, link):
            one, two = await take(limiter, "r1"), await take(limiter, "r2")
            server.kill()
            server.start()
            async with asyncio.timeout(20):
                while not link.is_there:  # noqa: ASYNC110 - it has no event
                    await asyncio.sleep(0.02)
            limiter.settle(one, (15, 1, 15), now_s=0)
            limiter.renew([two], now_s=0)
            await limiter.close()
            verdict = await limiter.reserve("r3", claims(), now_s=0)
            assert verdict.unknown == (2,), "a budget without its counter needs its seed again"
            # Of the first what was beyond its reservation, of the second its place.
            assert await used(limiter, "r4") == (15, 2, 0)

    with RedisServer() as server:
        asyncio.run(main(server))


def test_what_waits_to_be_settled_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dragoman.stores.limiter_redis._MAX_WAITING", 5)

    async def main(server: RedisServer) -> None:
        async with linked(server) as (limiter, _):
            taken = [await take(limiter, f"r{n}") for n in range(8)]
            server.kill()
            for each in taken:
                limiter.settle(each, (10, 1, 10), now_s=0)
            assert limiter.n_lost == 3
            assert len(limiter._waiting) == 5

    with RedisServer() as server:
        asyncio.run(main(server))


def test_many_are_settled_in_few_trips(shared_redis: RedisServer) -> None:
    async def main() -> None:
        shared_redis.empty()
        async with linked(shared_redis) as (limiter, link):
            taken = [await take(limiter, f"r{n}") for n in range(60)]
            before = link.n_done
            for each in taken:
                limiter.settle(each, (1, 1, 2), now_s=0)
            await limiter.close()
            assert link.n_done - before == 2
            assert await used(limiter, "last") == (60 + 10, 1, 120)

    asyncio.run(main())


def test_nothing_is_left_in_redis_for_ever(shared_redis: RedisServer) -> None:
    async def main() -> None:
        shared_redis.empty()
        async with linked(shared_redis) as (limiter, link):
            one = await take(limiter, "r1")
            limiter.settle(one, (1, 1, 2), now_s=0)
            await take(limiter, "r2")
            await limiter.close()
            names = [name async for name in link.client.scan_iter()]
            assert len(names) >= 5
            assert [name for name in names if await link.client.ttl(name) < 0] == []

    asyncio.run(main())
