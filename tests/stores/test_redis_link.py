"""The way to Redis, against a real one: calls, and what becomes of them while it is away."""

import asyncio
import time
from typing import Any

import pytest

from dragoman.core.errors import SharedStateUnavailable
from dragoman.settings import RedisConfig, Secret
from dragoman.stores.redis_link import RedisLink
from support.redis import RedisServer

pytestmark = pytest.mark.server
_PATIENCE_S = 20
# What brings it about, what ends it, and what Redis says meanwhile.
TROUBLES = {
    "a replica": (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE"), "read only replica"),
    "full": (("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0"), "maxmemory"),
}


def link_to(url: str, **settings: Any) -> RedisLink:
    quick = {"timeout_s": 0.2, "retry_interval_s": 0.05, "connect_timeout_s": 0.2, **settings}
    return RedisLink(RedisConfig(url=Secret(url), **quick))


async def until_there(link: RedisLink) -> None:
    async with asyncio.timeout(_PATIENCE_S):
        while not link.is_there:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def get(link: RedisLink) -> Any:
    return await link.run(lambda client: client.get(link.key("x", "y")))


def test_calls_get_through(redis_url: str) -> None:
    async def main() -> None:
        link = link_to(redis_url, prefix="lab", max_connections=2)
        with pytest.raises(SharedStateUnavailable, match="cannot be reached"):
            await get(link)  # not open yet
        await link.open()
        assert link.key("x", "y") == "lab:x:y"
        await link.run(lambda client: client.set("lab:x:y", b"1"))
        assert await asyncio.gather(*(get(link) for _ in range(50))) == [b"1"] * 50
        assert (link.n_done, link.n_failed, link.n_lost) == (51, 1, 0)
        await link.close()

    asyncio.run(main())


def test_one_that_is_not_there_is_found_when_it_comes() -> None:
    async def main(server: RedisServer) -> None:
        server.kill()
        link = link_to(server.url)
        told: list[tuple[bool, str]] = []
        link.on_change(lambda is_there, reason: told.append((is_there, reason)))
        await link.open()
        ((is_there, reason),) = told
        assert not is_there
        assert reason.startswith("ConnectionError: Error 111 connecting")
        with pytest.raises(SharedStateUnavailable):
            await get(link)
        await asyncio.to_thread(server.start)
        await until_there(link)
        assert await get(link) is None
        assert told[1:] == [(True, "")]
        await link.close()

    with RedisServer() as server:
        asyncio.run(main(server))


def test_a_restart_costs_some_calls_and_no_waiting() -> None:
    async def main(server: RedisServer) -> None:
        link = link_to(server.url)
        await link.open()
        await asyncio.gather(*(get(link) for _ in range(20)))
        server.kill()
        began_s = time.monotonic()
        for _ in range(100):
            with pytest.raises(SharedStateUnavailable) as raised:
                await get(link)
        assert time.monotonic() - began_s < 2  # a hundred time-outs would be twenty seconds
        assert raised.value.log_detail == "Redis is away"
        assert server.url.split("@")[0] not in raised.value.log_detail
        await asyncio.to_thread(server.start)
        await until_there(link)
        assert await asyncio.gather(*(get(link) for _ in range(20))) == [None] * 20
        assert link.n_lost == 1
        await link.close()

    with RedisServer() as server:
        asyncio.run(main(server))


def test_one_that_hangs_is_given_up_after_three_late_answers() -> None:
    async def main(server: RedisServer) -> None:
        link = link_to(server.url, timeout_s=0.05)
        await link.open()
        assert await get(link) is None
        server.pause()
        for _ in range(3):
            assert link.is_there
            with pytest.raises(SharedStateUnavailable) as raised:
                await get(link)
            assert raised.value.log_detail == "Redis: no answer within 0.05 s"
        assert not link.is_there
        server.resume()
        await until_there(link)
        # The answers that came late belong to nobody: a call gets its own.
        await link.run(lambda client: client.set(link.key("x", "y"), b"own"))
        assert await get(link) == b"own"
        await link.close()

    with RedisServer() as server:
        asyncio.run(main(server))


def test_answers_that_wait_for_our_own_loop_are_not_late(redis_url: str) -> None:
    async def main() -> None:
        link = link_to(redis_url, timeout_s=0.05, max_connections=10)
        told: list[tuple[bool, str]] = []
        link.on_change(lambda is_there, reason: told.append((is_there, reason)))
        await link.open()
        calls = [asyncio.create_task(get(link)) for _ in range(10)]
        for _ in range(4):  # while they connect, ask and wait
            await asyncio.sleep(0)
            time.sleep(0.06)  # noqa: ASYNC251 - that is what stalls the loop
        assert await asyncio.gather(*calls) == [None] * 10
        assert (link.n_failed, link.n_lost, told) == (0, 0, [])
        await link.close()

    asyncio.run(main())


def test_late_answers_beside_others_do_not_mean_that_it_is_away(redis_url: str) -> None:
    async def main() -> None:
        link = link_to(redis_url, timeout_s=0.05)
        await link.open()
        slow = [
            asyncio.create_task(link.run(lambda client: client.blpop([link.key("none")], 1)))
            for _ in range(5)
        ]
        assert await get(link) is None
        time.sleep(0.06)  # noqa: ASYNC251 - their time goes by together
        while not all(task.done() for task in slow):
            assert await get(link) is None
        late = await asyncio.gather(*slow, return_exceptions=True)
        assert {type(each) for each in late} == {SharedStateUnavailable}
        assert link.is_there
        assert (link.n_failed, link.n_lost) == (5, 0)
        await link.close()

    asyncio.run(main())


def test_a_wrong_password_is_away_and_says_why(redis_url: str) -> None:
    async def main() -> None:
        link = link_to(redis_url)
        await link.open()
        with pytest.raises(SharedStateUnavailable) as raised:
            await link.run(lambda client: client.execute_command("NO-SUCH-COMMAND"))
        assert "unknown command" in raised.value.log_detail
        await until_there(link)
        await link.close()
        wrong = link_to(redis_url.replace("redis-secret", "wrong"))
        told: list[str] = []
        wrong.on_change(lambda _, reason: told.append(reason))
        await wrong.open()
        assert "invalid" in told[0]
        assert "wrong" not in told[0]
        assert not wrong.is_there
        await wrong.close()

    asyncio.run(main())


@pytest.mark.parametrize("trouble", ["a replica", "full"])
def test_one_that_takes_nothing_is_away_until_it_does(trouble: str) -> None:
    async def main(server: RedisServer) -> None:
        link, aside = link_to(server.url), link_to(server.url)
        told: list[tuple[bool, str]] = []
        link.on_change(lambda is_there, reason: told.append((is_there, reason)))
        await link.open()
        begin, end, reason = TROUBLES[trouble]
        await aside.client.execute_command(*begin)
        with pytest.raises(SharedStateUnavailable):
            await link.run(lambda client: client.set(link.key("x", "y"), b"1"))
        await asyncio.sleep(0.3)  # some of its questions: it answers, but is no use
        ((is_there, said),) = told
        assert (is_there, reason in said) == (False, True)
        await aside.client.execute_command(*end)
        await until_there(link)
        await link.run(lambda client: client.set(link.key("x", "y"), b"1"))
        assert told[1:] == [(True, "")]
        await link.close()
        await aside.close()

    with RedisServer() as server:
        asyncio.run(main(server))


def test_a_cluster_is_no_use() -> None:
    async def main(server: RedisServer) -> None:
        link = link_to(server.url)
        await link.client.execute_command("CLUSTER", "ADDSLOTS", *range(16_384))
        async with asyncio.timeout(_PATIENCE_S):
            while b"_state:ok" not in await link.client.execute_command("CLUSTER", "INFO"):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        told: list[str] = []
        link.on_change(lambda _, reason: told.append(reason))
        await link.open()
        await asyncio.sleep(0.2)
        (reason,) = told
        assert reason == "ClusterCrossSlotError: Keys in request don't hash to the same slot"
        assert not link.is_there
        await link.close()

    with RedisServer("--cluster-enabled", "yes") as server:
        asyncio.run(main(server))
