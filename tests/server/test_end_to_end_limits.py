"""Limits and budgets of real gateways: over a restart, between two of them, and without Redis."""

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from support.chat_script import hang, say
from support.chat_upstream import ChatUpstream
from support.command import run_command
from support.gateway import GatewayProcess
from support.loops import until
from support.raw_http import Client, Reply
from support.redis import RedisServer
from support.sockets import post
from support.sse_grammar import check_error

KEY = "x-api-key: key-of-ada-0123456789"
SCRAPER = {"authorization": "Bearer scraper-0123456789abcdef"}
_CONFIG = """
[metrics]
token = "scraper-0123456789abcdef"
[server]
signing_secret = "the same for all gateways"
[[keys]]
name = "ada"
key = "key-of-ada-0123456789"
{limits}
[upstreams.lab]
base_url = "{url}"
[models.m]
upstream = "lab"
"""


@contextmanager
def gateways(
    folder: Path, upstream: ChatUpstream, n: int, *, limits: str, more: str = ""
) -> Iterator[list[GatewayProcess]]:
    config = _CONFIG.format(url=upstream.url, limits=limits) + more
    env = {"DRAGOMAN_SERVER_LOG_FORMAT": "json"}
    with ExitStack() as stack:
        made = [GatewayProcess(folder / str(i), config=config, env=env) for i in range(n)]
        for gateway in made:
            stack.enter_context(gateway)
        yield made
    for gateway in made:
        assert '"event":"crash"' not in gateway.log(), gateway.log()[-3000:]


async def ask(gateway: GatewayProcess, key: str = KEY) -> Reply:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    client = Client(reader, writer)
    try:
        return await client.ask(post(None, key))
    finally:
        await client.close()


async def granted(made: list[GatewayProcess], n: int) -> int:
    """Return how many of *n* requests, all at once and dealt out among gateways, get an answer."""
    async with asyncio.timeout(60):
        asked = (ask(made[number % len(made)]) for number in range(n))
        replies = await asyncio.gather(*asked)
    assert {reply.status for reply in replies} <= {200, 429}
    return sum(reply.status == 200 for reply in replies)


async def in_turn(made: list[GatewayProcess], n: int) -> int:
    """Return how many of *n* requests, one after the other, get an answer."""
    statuses = [(await ask(made[number % len(made)])).status for number in range(n)]
    return statuses.count(200)


async def until_shared(made: list[GatewayProcess]) -> None:
    """Wait until each has found out that Redis is back, by its own log."""
    async with asyncio.timeout(20):
        while any('"state":"back"' not in gateway.log() for gateway in made):  # noqa: ASYNC110
            await asyncio.sleep(0.05)


def test_a_budget_survives_a_restart(tmp_path: Path) -> None:
    limits = 'budgets = [{ period = "month", tokens = 10 }]'
    with ChatUpstream(say("Hello", times=-1)) as upstream:
        with gateways(tmp_path, upstream, 1, limits=limits) as (gateway,):
            assert asyncio.run(ask(gateway)).status == 200
            refused = asyncio.run(ask(gateway))
            assert refused.status == 429
            assert check_error(refused.body)["type"] == "billing_error"
            assert refused.headers[b"x-should-retry"] == b"false"
        with gateways(tmp_path, upstream, 1, limits=limits) as (gateway,):
            refused = asyncio.run(ask(gateway))
            assert check_error(refused.body)["type"] == "billing_error"
        assert len(upstream.requests) == 1


def test_the_store_is_opened_before_a_budget_needs_it(tmp_path: Path) -> None:
    limits = 'budgets = [{ period = "day", tokens = 9 }]'
    with ChatUpstream() as upstream, gateways(tmp_path, upstream, 1, limits=limits):
        stored = tmp_path / "0" / "home" / ".local" / "share" / "dragoman" / "dragoman.db"
        asyncio.run(until(stored.exists))
    assert not upstream.requests


def test_keys_and_workspaces_of_the_store_have_their_limits(tmp_path: Path) -> None:
    def make(*command: str) -> dict[str, Any]:
        done = run_command(tmp_path / "0", *command, "--json", "--config", "dragoman.toml")
        assert done.returncode == 0, done.stderr
        made: dict[str, Any] = json.loads(done.stdout)
        return made

    async def main(gateway: GatewayProcess, *keys: str) -> list[str]:
        replies = [await ask(gateway, f"x-api-key: {key}") for key in keys]
        return [
            "ok" if reply.status == 200 else check_error(reply.body)["message"].partition(" may")[0]
            for reply in replies
        ]

    with (
        ChatUpstream(say("Hello", times=-1)) as upstream,
        gateways(tmp_path, upstream, 1, limits="") as (gateway,),
    ):
        make("workspaces", "create", "team", "--requests-per-minute", "3")
        one, two = (
            make("keys", "create", name, "--workspace", "team", "--requests-per-minute", "2")["key"]
            for name in ("one", "two")
        )
        said = asyncio.run(main(gateway, one, one, one, two, two))
        assert said == ["ok", "ok", 'key "one"', "ok", 'workspace "team"']


@pytest.mark.server
def test_limits_hold_over_several_gateways(tmp_path: Path, redis_url: str) -> None:
    more = f'[redis]\nurl = "{redis_url}"\n'
    limits = "limits = { requests_per_minute = 30 }"
    with (
        ChatUpstream(say("Hello", times=-1)) as upstream,
        gateways(tmp_path, upstream, 2, limits=limits, more=more) as made,
    ):
        assert asyncio.run(granted(made, 80)) == 30


@pytest.mark.server
def test_places_hold_over_several_gateways(tmp_path: Path, redis_url: str) -> None:
    more = f'[redis]\nurl = "{redis_url}"\n'

    async def main(upstream: ChatUpstream, made: list[GatewayProcess]) -> None:
        first = [asyncio.create_task(ask(gateway)) for gateway in made]
        await asyncio.to_thread(upstream.wait_request, 2, 20)
        assert [(await ask(gateway)).status for gateway in made] == [429, 429]
        for task in first:
            task.cancel()
        await asyncio.gather(*first, return_exceptions=True)
        upstream.script(say("Hello", times=-1))
        async with asyncio.timeout(20):
            while (await ask(made[0])).status != 200:  # noqa: ASYNC110 - to be asked
                await asyncio.sleep(0.05)

    with (
        ChatUpstream(hang(times=-1)) as upstream,
        gateways(tmp_path, upstream, 2, limits="limits = { concurrent = 2 }", more=more) as made,
    ):
        asyncio.run(main(upstream, made))


@pytest.mark.server
def test_a_budget_is_exceeded_by_those_at_work_alone(tmp_path: Path, redis_url: str) -> None:
    more = f'[redis]\nurl = "{redis_url}"\n'
    limits = 'budgets = [{ period = "month", tokens = 400 }]'

    async def main(made: list[GatewayProcess]) -> tuple[int, int]:
        """Return what was used in all, and the most that six requests at once have used."""
        spent = most = 0
        async with asyncio.timeout(60):
            while True:
                replies = await asyncio.gather(*(ask(made[n % 2]) for n in range(6)))
                used = [tokens_of(reply) for reply in replies if reply.status == 200]
                spent, most = spent + sum(used), max(most, *(6 * each for each in used), 0)
                kinds = {check_error(r.body)["type"] for r in replies if r.status != 200}
                assert kinds <= {"billing_error", "rate_limit_error"}
                if not used and kinds == {"billing_error"}:
                    return spent, most

    with (
        ChatUpstream(say("Hello", times=-1)) as upstream,
        gateways(tmp_path, upstream, 2, limits=limits, more=more) as made,
    ):
        spent, at_work = asyncio.run(main(made))
        assert 400 <= spent < 400 + at_work


def tokens_of(reply: Reply) -> int:
    usage = json.loads(reply.body)["usage"]
    return usage["input_tokens"] + usage["cache_read_input_tokens"] + usage["output_tokens"]


@pytest.mark.server
def test_without_redis_each_gateway_gives_out_its_share(tmp_path: Path) -> None:
    limits = "limits = { requests_per_minute = 40 }"
    with RedisServer() as redis, ChatUpstream(say("Hello", times=-1)) as upstream:
        more = f'[redis]\nurl = "{redis.url}"\n[limits]\nlocal_share_pct = 20\n'
        with gateways(tmp_path, upstream, 2, limits=limits, more=more) as made:
            assert asyncio.run(granted(made, 2)) == 2
            redis.kill()
            assert asyncio.run(granted(made, 50)) == 2 * 8
            for gateway in made:
                assert '"event":"limits","state":"alone"' in gateway.log()
                figures = gateway.request("GET", "/metrics", headers=SCRAPER)
                assert "dragoman_limits_alone 1.0" in figures.body.decode().splitlines()
            redis.start()
            asyncio.run(until_shared(made))
            # One by one: on a busy machine many at once would find Redis late, and go on alone.
            again = asyncio.run(in_turn(made, 50))
            assert 38 <= again <= 40, "Redis has forgotten what there was"
            assert '"event":"limits","state":"shared"' in made[0].log()


@pytest.mark.server
def test_without_redis_a_closed_gateway_refuses(tmp_path: Path) -> None:
    limits = "limits = { requests_per_minute = 40 }"
    with RedisServer() as redis, ChatUpstream(say("Hello", times=-1)) as upstream:
        more = f'[redis]\nurl = "{redis.url}"\n[limits]\nwhen_unreachable = "closed"\n'
        with gateways(tmp_path, upstream, 1, limits=limits, more=more) as (gateway,):
            assert asyncio.run(ask(gateway)).status == 200
            redis.kill()
            refused = asyncio.run(ask(gateway))
            assert refused.status == 503
            assert refused.headers[b"retry-after"] == b"1"
            began_s = time.monotonic()
            asyncio.run(ask(gateway))
            assert time.monotonic() - began_s < 5, "nobody waits for what is away"
