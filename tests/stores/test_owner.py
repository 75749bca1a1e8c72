"""What workers share through the process that looks after them."""

import asyncio
import os
import time

import pytest

from dragoman.core.errors import SharedStateUnavailable
from dragoman.policy.limits import Claim, Reservation
from dragoman.policy.sharing import Notice
from dragoman.stores import owner_link
from dragoman.stores.limiter_owner import OwnedLimiter
from dragoman.stores.owner import Owner
from dragoman.stores.owner_link import OwnerLink
from support.owned_workers import fail, until, workers

NOW_S = 4_000_000_000.0


def test_one_finds_what_another_has_put() -> None:
    async def main() -> None:
        async with workers(2) as (_, (one, two)):
            one.put([b"a", b"b"], b"blob")
            await one.get([])  # what was told before has been taken
            assert await two.get([b"a", b"x", b"b"]) == {b"a": b"blob", b"b": b"blob"}

    asyncio.run(main())


def test_an_answer_is_bounded_and_has_the_latest() -> None:
    async def main() -> None:
        async with workers(1) as (_, (one,)):
            blobs = {bytes([n]): os.urandom(2**20) for n in range(20)}
            for key, blob in blobs.items():
                one.put([key], blob)
            assert await one.get(list(blobs)) == {key: blobs[key] for key in list(blobs)[4:]}

    asyncio.run(main())


def test_notices_are_read_by_the_others_and_by_those_that_come_later() -> None:
    async def main() -> None:
        async with workers(2) as (owner, (one, two)):
            read: dict[str, list[bytes]] = {"one": [], "two": [], "late": []}
            one.watch("t", lambda notice: read["one"].append(notice.body))
            two.watch("t", lambda notice: read["two"].append(notice.body))
            for body, ttl_s in ((b"first", 60), (b"second", 60), (b"other", 60)):
                key = "o" if body == b"other" else "k"
                one.post(Notice(topic="t", key=key, body=body, ttl_s=ttl_s))
            one.post(Notice(topic="u", key="k", body=b"nobody reads it", ttl_s=60))
            one.post(Notice(topic="t", key="over", body=b"over", ttl_s=0))
            await until(lambda: len(read["two"]) == 4)
            assert read["two"] == [b"first", b"second", b"other", b"over"]
            late = OwnerLink(on_crash=fail)
            late.watch("t", lambda notice: read["late"].append(notice.body))
            await late.open(await owner.connect())
            await late.read_board()
            assert read["late"] == [b"second", b"other"]
            assert read["one"] == []
            late.close()

    asyncio.run(main())


def test_without_the_owner_nothing_is_found_and_nothing_hangs() -> None:
    async def main() -> None:
        async with workers(1) as (owner, (one,)):
            owner.close()
            await until(lambda: not one._peer.is_open)
            one.put([b"a"], b"blob")
            assert one.n_lost == 1
            with pytest.raises(SharedStateUnavailable):
                await one.get([b"a"])

    asyncio.run(main())


def test_one_that_hangs_is_not_waited_for_again_and_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(owner_link, "_TIMEOUT_S", 0.05)
    monkeypatch.setattr(owner_link, "_LEFT_ALONE_S", 0.5)

    async def hang(self: Owner, get: owner_link.Get) -> owner_link.Found:
        if get.keys:
            await asyncio.sleep(60)
        return owner_link.Found({})

    monkeypatch.setattr(Owner, "get", hang)

    async def main() -> None:
        async with workers(1) as (_, (one,)):
            for _ in range(3):
                with pytest.raises(SharedStateUnavailable, match="cannot be reached") as raised:
                    await one.get([b"a"])
                assert "no answer within" in raised.value.log_detail
            began_s = time.monotonic()
            for _ in range(100):
                with pytest.raises(SharedStateUnavailable) as raised:
                    await one.get([b"a"])
            assert time.monotonic() - began_s < 0.5  # a hundred time-outs would be five seconds
            assert raised.value.log_detail == "shelf.get: the owner was late before"
            await asyncio.sleep(0.6)
            assert await one.get([]) == {}

    asyncio.run(main())


def test_a_worker_that_ends_holds_nothing_any_more() -> None:
    held = Claim(counter="h", mode="held", limit=1)
    budget = Claim(counter="b", mode="budget", limit=100, amount=30, ends_s=NOW_S + 1000)

    async def main() -> None:
        async with workers(2) as (owner, (one, two)):
            dying, living = OwnedLimiter(one), OwnedLimiter(two)
            seeds = {"b": 10}
            first = await dying.reserve("r1", [held, budget], now_s=NOW_S, seeds=seeds)
            assert first.is_granted
            second = await living.reserve("r2", [held, budget], now_s=NOW_S)
            assert second.refused == (0,)
            one.close()
            await until(lambda: len(owner._peers) == 1)
            third = await living.reserve("r3", [held, budget], now_s=NOW_S)
            assert third.is_granted
            assert third.used == (1, 40)  # what it was going to use counts as used
            living.settle(
                Reservation(id="r3", claims=(held, budget), at_s=NOW_S), [1, 5], now_s=NOW_S
            )
            fourth = await living.reserve("r4", [held, budget], now_s=NOW_S)
            assert fourth.used == (1, 45)

    asyncio.run(main())


def test_the_owner_goes_and_counting_says_so() -> None:
    async def main() -> None:
        async with workers(1) as (owner, (one,)):
            owner.close()
            await until(lambda: not one._peer.is_open)
            with pytest.raises(SharedStateUnavailable):
                await OwnedLimiter(one).reserve("r", [], now_s=NOW_S)

    asyncio.run(main())
