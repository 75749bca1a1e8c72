"""Limits and budgets of three gateways together, under 200 clients, with Redis and without."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest

from dragoman.limit_settings import BudgetConfig, Limits
from replicas.conftest import LOCAL_SHARE_PCT
from support.chat_script import say
from support.crowd import Crowd, Outcome
from support.fleet import Fleet

pytestmark = [pytest.mark.server, pytest.mark.slow]
_CLIENTS = 200
_PROMPT, _OUTPUT = 70, 30  # tokens of each request
_TOKENS = _PROMPT + _OUTPUT
_UNRECORDED_S = 2.0  # records of so long may not be in the store yet
_REPLY = say(
    "Hello.",
    usage={"prompt_tokens": _PROMPT, "completion_tokens": _OUTPUT},
    delay_s=0.02,
    times=-1,
)


def complete(outcomes: list[Outcome]) -> list[Outcome]:
    return [each for each in outcomes if each.end == "complete"]


async def loaded(crowd: Crowd, meanwhile: Callable[[], Awaitable[None]], *, n: int) -> None:
    """Have *n* clients ask until *meanwhile* is over."""
    stop = asyncio.Event()
    load = asyncio.create_task(crowd.work(n, until=stop))
    await meanwhile()
    stop.set()
    await load


def test_rates_hold_within_five_percent(fleet: Fleet) -> None:
    n_requests, n_tokens = 300, 6_000

    async def main() -> tuple[Crowd, Crowd]:
        _, by_requests = await asyncio.to_thread(
            fleet.new_key, "requests", limits=Limits(requests_per_minute=n_requests)
        )
        _, by_tokens = await asyncio.to_thread(
            fleet.new_key, "tokens", limits=Limits(output_tokens_per_minute=n_tokens)
        )
        crowds = [Crowd(fleet.ports, key=key, pause_s=1.0) for key in (by_requests, by_tokens)]
        until = time.monotonic() + 12  # far from the minute in which they would begin anew
        await asyncio.gather(
            *(loaded(crowd, lambda: sleep_until(until), n=_CLIENTS // 2) for crowd in crowds)
        )
        return crowds[0], crowds[1]

    fleet.upstream.script(_REPLY)
    requests, tokens = asyncio.run(main())
    for crowd in (requests, tokens):
        refused = [each for each in crowd.outcomes if each.end == "error"]
        assert len(complete(crowd.outcomes)) + len(refused) == len(crowd.outcomes)
        assert {(each.status, each.error) for each in refused} == {(429, "rate_limit_error")}
        assert all(int(each.retry_after) > 0 for each in refused)
    assert 0.95 * n_requests <= len(complete(requests.outcomes)) <= 1.05 * n_requests
    used = _OUTPUT * len(complete(tokens.outcomes))
    assert 0.95 * n_tokens <= used <= 1.05 * n_tokens


def test_a_budget_is_exceeded_by_those_at_work_alone(fleet: Fleet) -> None:
    budget = 50_000

    async def main() -> Crowd:
        budgets = (BudgetConfig(period="day", tokens=budget),)
        _, key = await asyncio.to_thread(fleet.new_key, "spends", budgets=budgets)
        crowd = Crowd(fleet.ports, key=key, pause_s=0.5)
        await loaded(crowd, lambda: asyncio.sleep(6), n=_CLIENTS)
        return crowd

    fleet.upstream.script(_REPLY)
    crowd = asyncio.run(main())
    refused = [each for each in crowd.outcomes if each.error == "billing_error"]
    assert {each.should_retry for each in refused} == {"false"}
    known_s = min(each.ended_s for each in refused)
    assert [each for each in complete(crowd.outcomes) if each.began_s > known_s] == []
    used = _TOKENS * len(complete(crowd.outcomes))
    assert budget <= used <= budget + _TOKENS * at_work(crowd.outcomes, known_s)


def test_while_redis_is_away_no_more_than_the_share_is_spent(fleet: Fleet) -> None:
    budget = 60_000

    async def main() -> tuple[Crowd, float, float]:
        budgets = (BudgetConfig(period="day", tokens=budget),)
        _, key = await asyncio.to_thread(fleet.new_key, "spends alone", budgets=budgets)
        crowd = Crowd(fleet.ports, key=key, pause_s=1.0)
        times: list[float] = []

        async def outage() -> None:
            await asyncio.sleep(2)
            await asyncio.to_thread(fleet.redis.kill)
            times.append(time.monotonic())
            await asyncio.sleep(5)
            times.append(time.monotonic())
            await asyncio.to_thread(fleet.redis.start)
            await asyncio.sleep(6)

        await loaded(crowd, outage, n=_CLIENTS)
        return crowd, times[0], times[1]

    fleet.upstream.script(_REPLY)
    crowd, gone_s, back_s = asyncio.run(main())
    done = complete(crowd.outcomes)
    before = [each for each in done if each.began_s < gone_s]
    away = [each for each in done if gone_s <= each.began_s < back_s]
    after = [each for each in done if each.began_s >= back_s]
    share = len(fleet.replicas) * budget * LOCAL_SHARE_PCT // 100
    assert _TOKENS * len(before) < budget  # or the rest says nothing
    assert 0 < _TOKENS * len(away) <= share + _TOKENS * at_work(crowd.outcomes, gone_s)
    assert after, "nothing goes on when Redis is back"
    unbearable = [each for each in crowd.outcomes if not each.is_bearable]
    assert {each.error for each in unbearable} <= {"billing_error"}
    per_s = len(done) / (max(each.ended_s for each in done) - min(e.began_s for e in done))
    allowed = budget + share + _TOKENS * (_CLIENTS + per_s * _UNRECORDED_S)
    assert budget <= _TOKENS * len(done) <= allowed


def at_work(outcomes: list[Outcome], moment_s: float) -> int:
    """How many requests had begun and not ended at a moment."""
    return sum(each.began_s <= moment_s <= each.ended_s for each in outcomes)


async def sleep_until(moment_s: float) -> None:
    await asyncio.sleep(max(0.0, moment_s - time.monotonic()))
