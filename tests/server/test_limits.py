"""Limits and budgets on the whole request path: what is let through, and what clients are told."""

import asyncio
import datetime as dt
import json
from collections.abc import Mapping
from typing import Any

import pytest

from dragoman.core.errors import SharedStateUnavailable
from dragoman.limit_settings import BudgetConfig, Limits, LimitsConfig
from dragoman.policy.limits import Claim, Verdict
from dragoman.policy.records import Spent, SpentQuery
from dragoman.settings import KeyConfig, PriceConfig, Secret, ServerConfig
from dragoman.stores.limiter_memory import MemoryLimiter
from support.app_case import (
    ASK,
    GONE,
    AppCase,
    both_ways,
    error_in,
    error_of,
    exchange_of,
    failing,
    message_of,
    native_saying,
    refusing,
    run,
    saying,
)
from support.fakes import FakeExchange
from support.sse_grammar import check_stream

NOON = dt.datetime(2026, 11, 25, 12, tzinfo=dt.UTC)
PRICE = PriceConfig(models=("real-m",), input_per_mtok=1.0, output_per_mtok=10.0)
KEY = {b"x-api-key": b"key-of-ada-0123456789"}
OTHER = {b"x-api-key": b"key-of-bob-0123456789"}


class Clock:
    def __init__(self) -> None:
        self.now_s = NOON.timestamp()

    def __call__(self) -> float:
        return self.now_s


def ada(limits: Limits = Limits(), *budgets: BudgetConfig) -> dict[str, Any]:  # noqa: B008
    """Settings with two keys, of which the first one is limited."""
    key = KeyConfig(name="ada", key=Secret("key-of-ada-0123456789"), limits=limits, budgets=budgets)
    return {"keys": (key, KeyConfig(name="bob", key=Secret("key-of-bob-0123456789")))}


async def ask(case: AppCase, is_stream: bool = False, **request: Any) -> FakeExchange:
    request.setdefault("headers", KEY)
    return await case.ask({**ASK, "stream": is_stream}, **request)


def limits_in(exchange: FakeExchange) -> dict[str, str]:
    prefix = b"anthropic-ratelimit-"
    fields = exchange.reply_headers.items()
    return {
        name.removeprefix(prefix).decode(): value.decode()
        for name, value in fields
        if name.startswith(prefix)
    }


# -- limits


@both_ways
def test_a_key_without_limits_shows_none(is_stream: bool) -> None:
    async def main() -> None:
        case = AppCase({"lab": [saying("Hello")]}, settings=ada())
        exchange = await ask(case, is_stream)
        assert message_of(exchange).text == "Hello"
        assert limits_in(exchange) == {}
        assert case.limiter.n_counters == 0
        await case.close()

    run(main())


@both_ways
def test_requests_per_minute(is_stream: bool) -> None:
    async def main() -> None:
        clock = Clock()
        case = AppCase(
            {"lab": [saying("Hello")] * 4},
            settings=ada(Limits(requests_per_minute=2)),
            clock=clock,
        )
        for left in ("1", "0"):
            exchange = await ask(case, is_stream)
            assert message_of(exchange).text == "Hello"
            assert limits_in(exchange) == {
                "requests-limit": "2",
                "requests-remaining": left,
                "requests-reset": "2026-11-25T12:01:01Z",
            }
        exchange = await ask(case, is_stream)
        assert exchange.status == 429
        error = error_of(exchange)
        assert error["type"] == "rate_limit_error"
        assert error["message"] == ('key "ada" may send 2 requests per minute; try again in 61 s')
        assert exchange.reply_headers[b"retry-after"] == b"61"
        assert limits_in(exchange)["requests-remaining"] == "0"
        assert case.records[-1]["refused_by"] == "key requests"
        assert (await ask(case, headers=OTHER)).status == 200, "others have limits of their own"
        clock.now_s += 61
        assert (await ask(case, is_stream)).status == 200
        await case.close()

    run(main())


def test_tokens_are_settled_by_what_the_upstream_counts() -> None:
    async def main() -> None:
        case = AppCase(
            {"lab": [saying("Hello", prompt=700, output=40), saying("x", prompt=10, output=9)]},
            settings=ada(Limits(input_tokens_per_minute=1000, output_tokens_per_minute=5000)),
            clock=Clock(),
        )
        first = limits_in(await ask(case))
        assert first["output-tokens-remaining"] == "4950", "max_tokens is held at first"
        assert int(first["input-tokens-remaining"]) > 900
        second = limits_in(await ask(case))
        assert second["output-tokens-remaining"] == "4910"
        assert 200 < int(second["input-tokens-remaining"]) < 300
        assert int(second["tokens-limit"]) == 6000
        await case.close()

    run(main())


def test_a_failed_request_has_used_no_tokens() -> None:
    async def main() -> None:
        case = AppCase(
            {"lab": [refusing(400), saying("x")]},
            settings=ada(Limits(output_tokens_per_minute=60)),
            clock=Clock(),
        )
        assert (await ask(case)).status == 400
        exchange = await ask(case)
        assert exchange.status == 200
        assert limits_in(exchange)["output-tokens-remaining"] == "10"
        await case.close()

    run(main())


def test_requests_at_work() -> None:
    async def main() -> None:
        case = AppCase(
            {"lab": [[60.0], saying("Hello")]}, settings=ada(Limits(concurrent=1)), clock=Clock()
        )
        first = exchange_of({**ASK, "stream": True}, headers=KEY)
        task = asyncio.create_task(case.app.handle(first))
        await asyncio.sleep(0.02)
        exchange = await ask(case)
        assert exchange.status == 429
        said = 'key "ada" has 1 request at work and may have 1; try again in 1 s'
        assert error_of(exchange)["message"] == said
        first.leave()
        await task
        assert (await ask(case)).status == 200
        assert case.admission.n_held == 0
        await case.close()

    run(main())


def test_limits_of_a_model_are_for_all_callers_together() -> None:
    async def main() -> None:
        case = AppCase(
            {"lab": [saying("Hello")] * 2},
            options={"model": {"limits": Limits(requests_per_minute=1)}},
            settings=ada(),
            clock=Clock(),
        )
        assert (await ask(case)).status == 200
        exchange = await ask(case, headers=OTHER)
        assert exchange.status == 429
        assert 'model "m" may' in error_of(exchange)["message"]
        await case.close()

    run(main())


def test_limits_of_every_key() -> None:
    async def main() -> None:
        every = LimitsConfig(key=Limits(requests_per_minute=1))
        case = AppCase(
            {"lab": [saying("Hello")] * 2}, settings={**ada(), "limits": every}, clock=Clock()
        )
        assert (await ask(case)).status == 200
        assert (await ask(case, headers=OTHER)).status == 200
        assert (await ask(case)).status == 429
        await case.close()

    run(main())


def test_without_keys_the_limits_are_those_of_all() -> None:
    async def main() -> None:
        every = LimitsConfig(key=Limits(requests_per_minute=1))
        case = AppCase({"lab": [saying("Hello")]}, settings={"limits": every}, clock=Clock())
        assert (await case.ask()).status == 200
        assert (await case.ask()).status == 429
        await case.close()

    run(main())


# -- upstreams


def test_an_upstream_at_its_limit_is_passed_over() -> None:
    async def main() -> None:
        case = AppCase(
            {"lab": [saying("one")], "spare": [saying("two")]},
            options={"lab": {"limits": Limits(requests_per_minute=1)}},
            clock=Clock(),
        )
        assert message_of(await case.ask()).text == "one"
        assert message_of(await case.ask()).text == "two"
        assert len(case.sent("lab")) == 1
        await case.close()

    run(main())


def test_the_last_upstream_at_its_limit_is_a_429() -> None:
    async def main() -> None:
        case = AppCase(
            {"lab": [saying("one")]},
            options={"lab": {"limits": Limits(requests_per_minute=1)}},
            clock=Clock(),
        )
        await case.ask()
        exchange = await case.ask()
        assert exchange.status == 429
        assert exchange.reply_headers[b"retry-after"] == b"61"
        assert "lab" not in error_of(exchange)["message"], "clients know no upstreams"
        assert case.records[-1]["refused_by"] == "upstream requests"
        assert 'upstream "lab" may send 1' in case.records[-1]["detail"]
        await case.close()

    run(main())


@pytest.mark.parametrize("limits", [Limits(requests_per_minute=0), Limits(concurrent=0)])
def test_an_upstream_that_nobody_may_ask_is_not_waited_for(limits: Limits) -> None:
    async def main() -> None:
        case = AppCase({"lab": []}, options={"lab": {"limits": limits}}, clock=Clock())
        exchange = await case.ask()
        assert exchange.status in (429, 529)
        assert exchange.reply_headers[b"x-should-retry"] == b"false"
        assert b"retry-after" not in exchange.reply_headers
        await case.close()

    run(main())


def test_a_full_upstream_is_passed_over_if_there_is_another() -> None:
    async def main() -> None:
        case = AppCase(
            {"lab": [[60.0]], "spare": [saying("two")]},
            options={"lab": {"limits": Limits(concurrent=1)}},
        )
        first = exchange_of()
        task = asyncio.create_task(case.app.handle(first))
        await asyncio.sleep(0.02)
        assert message_of(await case.ask()).text == "two"
        first.leave()
        await task
        await case.close()

    run(main())


def test_a_full_upstream_is_waited_for_if_the_others_fail() -> None:
    async def main() -> None:
        server = ServerConfig(max_waiting_requests=5)
        case = AppCase(
            {"lab": [[0.2, *saying("one")], saying("two")], "spare": [failing(GONE)]},
            options={"lab": {"limits": Limits(concurrent=1)}, "spare": {"retries": 0}},
            settings={"server": server},
        )
        first = asyncio.create_task(case.ask())
        await asyncio.sleep(0.02)
        assert message_of(await case.ask()).text == "two"
        assert message_of(await first).text == "one"
        assert case.records[-1]["waited_ms"] >= 100
        await case.close()

    run(main())


def test_a_full_upstream_is_waited_for_if_there_is_none() -> None:
    async def main() -> None:
        server = ServerConfig(max_waiting_requests=5)
        case = AppCase(
            {"lab": [[0.1, *saying("one")], saying("two")]},
            options={"lab": {"max_connections": 1}},
            settings={"server": server},
        )
        both = await asyncio.gather(case.ask(), case.ask())
        assert [message_of(each).text for each in both] == ["one", "two"]
        waited = sorted(record["waited_ms"] for record in case.records if "waited_ms" in record)
        assert len(waited) == 1
        assert waited[0] >= 50
        await case.close()

    run(main())


def test_places_that_others_hold_at_an_upstream_are_waited_for() -> None:
    """As with several gateways: the shared counter is full, the line of this one is not."""

    async def main() -> None:
        limiter = MemoryLimiter()
        case = AppCase(
            {"lab": [saying("Hello")]},
            options={"lab": {"limits": Limits(concurrent=1)}},
            limiter=limiter,
        )
        claim = Claim(counter="upstream:lab:concurrent", mode="held", limit=1)
        clock = case.admission._clock
        limiter.reserve_now("elsewhere", (claim,), now_s=clock())
        task = asyncio.create_task(case.ask())
        await asyncio.sleep(0.15)
        assert not task.done()
        limiter._held["upstream:lab:concurrent"].release("elsewhere")
        assert message_of(await task).text == "Hello"
        assert case.record["waited_ms"] >= 100
        await case.close()

    run(main())


def test_the_limits_of_a_stand_in_hold_too() -> None:
    async def main() -> None:
        case = AppCase(
            {"lab": [failing(GONE)] * 3, "other": [saying("n")] * 2},
            options={"lab": {"retries": 0}},
            models={
                "m": {"upstream": ("lab",), "fallbacks": ("n",)},
                "n": {"upstream": ("other",), "limits": Limits(requests_per_minute=1)},
            },
            routing={"failures_to_open": 100},
            clock=Clock(),
        )
        assert message_of(await case.ask()).text == "n"
        exchange = await case.ask()
        assert exchange.status == 429
        assert case.records[-1]["refused_by"] == "model requests"
        await case.close()

    run(main())


# -- the gateway is full


def test_requests_wait_for_their_turn() -> None:
    async def main() -> None:
        server = ServerConfig(max_concurrent_requests=1, max_waiting_requests=1)
        case = AppCase({"lab": [[0.1, *saying("one")], saying("two")]}, settings={"server": server})
        exchanges = [exchange_of(), exchange_of(), exchange_of()]
        tasks = [asyncio.create_task(case.app.handle(each)) for each in exchanges]
        await asyncio.gather(*tasks)
        assert [message_of(each).text for each in exchanges[:2]] == ["one", "two"]
        assert exchanges[2].status == 529
        assert error_of(exchanges[2])["type"] == "overloaded_error"
        assert exchanges[2].reply_headers[b"retry-after"] == b"1"
        assert case.lines.own.n_inside == 0
        await case.close()

    run(main())


def test_a_stream_that_waits_is_pinged_and_then_answered() -> None:
    async def main() -> None:
        server = ServerConfig(max_concurrent_requests=1, max_waiting_requests=1)
        case = AppCase(
            {"lab": [[0.4, *saying("one")], saying("two")]},
            settings={"server": server},
            early_start_s=0.05,
            ping_interval_s=0.05,
        )
        stream = {**ASK, "stream": True}
        first, second = await asyncio.gather(case.ask(stream), case.ask(stream))
        assert message_of(second).text == "two"
        assert second.reply.count(b"event: message_start") == 1
        assert second.reply.count(b"event: ping") >= 3
        assert message_of(first).text == "one"
        await case.close()

    run(main())


def test_a_native_stream_that_waits_is_pinged_and_then_answered() -> None:
    async def main() -> None:
        server = ServerConfig(max_concurrent_requests=1, max_waiting_requests=1)
        case = AppCase(
            {"native": [[0.3, *native_saying(True)], native_saying(True)]},
            settings={"server": server},
            early_start_s=0.05,
            ping_interval_s=0.05,
        )
        stream = {**ASK, "stream": True}
        _, second = await asyncio.gather(case.ask(stream), case.ask(stream))
        assert message_of(second).text == "Hello"
        assert second.reply.count(b"event: message_start") == 1
        assert second.reply.count(b"event: ping") >= 2
        await case.close()

    run(main())


def test_a_stream_that_waits_too_long_ends_with_an_error() -> None:
    async def main() -> None:
        server = ServerConfig(max_concurrent_requests=1, max_waiting_requests=1, max_wait_s=0.2)
        case = AppCase(
            {"lab": [[60.0]]},
            settings={"server": server},
            early_start_s=0.05,
            ping_interval_s=0.05,
        )
        first = exchange_of({**ASK, "stream": True})
        task = asyncio.create_task(case.app.handle(first))
        await asyncio.sleep(0.02)
        second = await case.ask({**ASK, "stream": True})
        assert error_in(second)["type"] == "overloaded_error"
        assert check_stream(second.reply).text == ""
        first.leave()
        await task
        await case.close()

    run(main())


def test_a_client_that_leaves_the_line_takes_no_place() -> None:
    async def main() -> None:
        server = ServerConfig(max_concurrent_requests=1, max_waiting_requests=2)
        case = AppCase({"lab": [[0.2, *saying("one")], saying("two")]}, settings={"server": server})
        leaving = exchange_of()
        tasks = [asyncio.create_task(case.ask())]
        await asyncio.sleep(0.01)
        tasks.append(asyncio.create_task(case.app.handle(leaving)))
        await asyncio.sleep(0.01)
        tasks.append(asyncio.create_task(case.ask()))
        await asyncio.sleep(0.01)
        assert case.lines.own.n_waiting == 2
        leaving.leave()
        await asyncio.sleep(0.01)
        assert case.lines.own.n_waiting == 1
        first, _, third = await asyncio.gather(*tasks)
        assert [message_of(first).text, message_of(third).text] == ["one", "two"]
        assert sorted(record["status"] for record in case.records) == [200, 200, 499]
        assert case.lines.own.n_inside == 0
        await case.close()

    run(main())


def test_those_that_somebody_waits_for_come_first_and_keys_take_turns() -> None:
    async def main() -> None:
        server = ServerConfig(max_concurrent_requests=1, max_waiting_requests=9)
        answers = [[0.5, *saying("x")], *[saying("x")] * 4]
        case = AppCase({"lab": answers}, settings={**ada(), "server": server})
        background = {b"x-claude-code-request-class": b"workflow"}
        headers = [KEY, {**KEY, **background}, KEY, KEY, OTHER]
        exchanges = []
        tasks = []
        for number, fields in enumerate(headers):
            body = {**ASK, "messages": [{"role": "user", "content": str(number)}]}
            exchanges.append(exchange_of(body, headers=fields))
            tasks.append(asyncio.create_task(case.app.handle(exchanges[-1])))
            async with asyncio.timeout(5):
                while case.lines.own.n_waiting < number:  # noqa: ASYNC110 - it has no event
                    await asyncio.sleep(0)
            await asyncio.sleep(0)
        await asyncio.gather(*tasks)
        assert [each.status for each in exchanges] == [200] * 5
        order = [request["messages"][-1]["content"] for request in case.sent()]
        assert order == ["0", "2", "4", "3", "1"]
        await case.close()

    run(main())


def test_counts_wait_too() -> None:
    async def main() -> None:
        server = ServerConfig(max_concurrent_requests=1, max_waiting_requests=1)
        case = AppCase({"lab": [[0.1, *saying("one")]]}, settings={"server": server})
        message = asyncio.create_task(case.ask())
        await asyncio.sleep(0.02)
        counted = await case.ask(path="/v1/messages/count_tokens")
        assert message.done()
        assert json.loads(counted.reply)["input_tokens"] > 0
        await case.close()

    run(main())


# -- budgets

FIVE_DOLLARS = BudgetConfig(period="day", cost_usd=0.005, warn_at_pct=60)


def test_a_budget_warns_and_then_stops() -> None:
    async def main() -> None:
        clock = Clock()
        answers = [saying("x", prompt=1000, output=100)] * 4  # $0.002 each
        case = AppCase(
            {"lab": answers}, prices=[PRICE], settings=ada(Limits(), FIVE_DOLLARS), clock=clock
        )
        warnings = []
        for _ in range(3):
            exchange = await ask(case)
            assert exchange.status == 200
            warnings.append(exchange.reply_headers.get(b"x-dragoman-budget-warning"))
        assert warnings[:2] == [None, None]
        assert warnings[2] == (
            b'day\'s budget of key "ada": $0.0040 of $0.0050 used; '
            b"it begins anew on 2026-11-26 at 00:00 UTC"
        )
        exchange = await ask(case)
        assert exchange.status == 429
        assert error_of(exchange) == {
            "type": "billing_error",
            "message": (
                'The day\'s budget of key "ada" is used up: $0.0060 of $0.0050. To go on before it '
                "begins anew on 2026-11-26 at 00:00 UTC, ask whoever runs this gateway."
            ),
        }
        assert exchange.reply_headers[b"x-should-retry"] == b"false"
        assert exchange.reply_headers[b"retry-after"] == b"43200"
        await ask(case)
        told = [
            (event["state"], event["whose"]) for event in case.events if event["event"] == "budget"
        ]
        assert told == [("nearly used up", 'key "ada"'), ("used up", 'key "ada"')]
        clock.now_s += 12 * 3600
        exchange = await ask(case)
        assert exchange.status == 200, "a new day"
        assert b"x-dragoman-budget-warning" not in exchange.reply_headers
        await case.close()

    run(main())


def test_a_budget_in_tokens_counts_all_of_them() -> None:
    async def main() -> None:
        budget = BudgetConfig(period="month", tokens=1000)
        case = AppCase(
            {"lab": [saying("x", prompt=900, output=200)]},
            settings=ada(Limits(), budget),
            clock=Clock(),
        )
        assert (await ask(case)).status == 200
        exchange = await ask(case)
        assert "1,100 of 1,000 tokens" in error_of(exchange)["message"]
        await case.close()

    run(main())


def test_a_model_without_a_price_is_named_once() -> None:
    async def main() -> None:
        case = AppCase(
            {"lab": [saying("x")] * 2}, settings=ada(Limits(), FIVE_DOLLARS), clock=Clock()
        )
        assert [(await ask(case)).status for _ in range(2)] == [200, 200]
        told = [event for event in case.events if event["event"] == "budget"]
        assert [(e["state"], e["model"], e["upstream"]) for e in told] == [
            ("no price", "real-m", "lab")
        ]
        await case.close()

    run(main())


class Records:
    """A store that knows what was used."""

    def __init__(self, *answers: Mapping[str, Spent] | Exception) -> None:
        self._answers = list(answers)
        self.queries: list[SpentQuery] = []

    async def get(self) -> Any:
        return self

    async def spent(self, query: SpentQuery) -> dict[str, Spent]:
        self.queries.append(query)
        await asyncio.sleep(0)
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return dict(answer)


def test_a_budget_goes_on_where_the_records_end() -> None:
    async def main() -> None:
        records = Records({"config:ada": Spent(tokens=999)})
        budget = BudgetConfig(period="month", tokens=1000)
        case = AppCase(
            {"lab": [saying("x", prompt=3, output=2)] * 9},
            settings=ada(Limits(), budget),
            clock=Clock(),
            get_store=records.get,
        )
        both = await asyncio.gather(ask(case), ask(case))
        assert sorted(exchange.status for exchange in both) == [200, 429], "the last token is held"
        assert len(records.queries) == 1, "those who ask at once are told at once"
        query = records.queries[0]
        assert (query.scope, query.owners) == ("key", ("config:ada",))
        assert (query.since.isoformat()[:10], query.until.isoformat()[:10]) == (
            "2026-11-01",
            "2026-12-01",
        )
        exchange = await ask(case)
        assert error_of(exchange)["type"] == "billing_error"
        assert "1,004 of 1,000 tokens" in error_of(exchange)["message"]
        await case.close()

    run(main())


@pytest.mark.parametrize("state", ["open", "closed"])
def test_without_records_a_share_is_given_out_or_nothing(state: Any) -> None:
    async def main() -> None:
        records = Records(*[SharedStateUnavailable("no database")] * 9)
        budget = BudgetConfig(period="day", tokens=1000)
        limits = LimitsConfig(when_unreachable=state, local_share_pct=1)
        case = AppCase(
            {"lab": [saying("x", prompt=9, output=9)] * 3},
            settings={**ada(Limits(), budget), "limits": limits},
            clock=Clock(),
            get_store=records.get,
        )
        statuses = [(await ask(case)).status for _ in range(3)]
        assert statuses == ([200, 429, 429] if state == "open" else [503, 503, 503])
        told = [event for event in case.events if event["event"] == "limits"]
        assert [event["state"] for event in told] == ["unknown budgets"]
        assert told[0]["reason"] == "budgets: no database"
        await case.close()

    run(main())


# -- counters elsewhere


class Away(MemoryLimiter):
    """Counters that cannot be reached."""

    is_away = True

    async def reserve(self, request_id: str, claims: Any, **more: Any) -> Verdict:
        if self.is_away:
            raise SharedStateUnavailable("away")
        return await super().reserve(request_id, claims, **more)


@pytest.mark.parametrize("state", ["open", "closed"])
def test_without_counters_a_share_is_given_out_or_nothing(state: Any) -> None:
    async def main() -> None:
        limits = LimitsConfig(when_unreachable=state, local_share_pct=50)
        limiter = Away()
        case = AppCase(
            {"lab": [saying("x")] * 9},
            settings={**ada(Limits(requests_per_minute=4)), "limits": limits},
            limiter=limiter,
            clock=Clock(),
        )
        statuses = [(await ask(case)).status for _ in range(3)]
        assert statuses == ([200, 200, 429] if state == "open" else [503, 503, 503])
        detail = case.records[-1]["detail"]
        assert ("each process gives out a part of every limit" in detail) == (state == "open")
        limiter.is_away = False
        assert (await ask(case)).status == 200
        told = [event["state"] for event in case.events if event["event"] == "limits"]
        assert told == ["alone", "shared"]
        await case.close()

    run(main())


def pour_all(limiter: MemoryLimiter) -> None:
    for tally in limiter._tallies.values():
        tally.pour()


def test_a_failover_is_settled_at_each_upstream() -> None:
    async def main() -> None:
        case = AppCase(
            {"lab": [failing(GONE)], "spare": [saying("x", output=7)]},
            options={
                "lab": {"limits": Limits(output_tokens_per_minute=500, concurrent=1), "retries": 0},
                "spare": {"limits": Limits(output_tokens_per_minute=500, concurrent=1)},
            },
            clock=Clock(),
        )
        assert message_of(await case.ask()).text == "x"
        pour_all(case.limiter)
        used = {name: window.used for name, window in case.limiter._windows.items()}
        assert used == {
            "upstream:lab:output_tokens": 0,
            "upstream:spare:output_tokens": 7,
        }
        assert all(held.held == 0 for held in case.limiter._held.values())
        await case.close()

    run(main())


def test_two_calls_of_one_request_hold_two_places() -> None:
    """The second target is asked beside the first, at the same upstream."""

    async def main() -> None:
        case = AppCase(
            {"lab/1": [[0.3, *saying("x")]], "lab/2": [[0.3, *saying("x")]]},
            options={
                "lab": {"limits": Limits(concurrent=2)},
                "model": {"hedge_percentile": 90.0, "hedge_min_s": 0.02},
            },
        )
        for _ in range(20):
            for name in case.upstreams:
                case.load.observe(f"{name} real-m", 0.001, 0.0)
        task = asyncio.create_task(case.ask())
        await asyncio.sleep(0.15)
        held = case.limiter._held["upstream:lab:concurrent"]
        pour_all(case.limiter)
        assert held.held == 2
        assert message_of(await task).text == "x"
        pour_all(case.limiter)
        assert held.held == 0
        await case.close()

    run(main())


def test_leases_are_renewed_while_requests_are_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dragoman.server.admission.RENEW_S", 0.02)

    async def main() -> None:
        clock = Clock()
        case = AppCase(
            {"lab": [[0.8, *saying("one")]]}, settings=ada(Limits(concurrent=1)), clock=clock
        )
        task = asyncio.create_task(ask(case))
        for _ in range(4):
            await asyncio.sleep(0.04)
            clock.now_s += 40
        assert (await ask(case)).status == 429, "its lease would have run out twice"
        assert (await task).status == 200
        await case.close()

    run(main())
