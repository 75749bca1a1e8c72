"""A second target beside a late first one: who wins, what is aborted, what it costs."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from dragoman.settings import PriceConfig, ServerConfig
from support.app_case import (
    ASK,
    LATE,
    RESET,
    AppCase,
    Script,
    both_ways,
    chunk,
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
from support.fakes import FakeExchange, data, fail, head
from support.sse_grammar import AssembledMessage, check_stream

PRICE = PriceConfig(models=("real-m",), input_per_mtok=1e6, output_per_mtok=1e6)
SLOW: Script = [30.0]
HEDGED = {"hedge_percentile": 90.0, "hedge_min_s": 0.02}


def hedging(scripts: Mapping[str, Sequence[Script]], **case: Any) -> AppCase:
    """Return a case whose model has a second target, and whose first is known to answer fast."""
    case.setdefault("options", {})
    case["options"] = {**case["options"], "model": {**HEDGED, **case["options"].get("model", {})}}
    made = AppCase(scripts, prices=[PRICE], **case)
    for _ in range(20):
        for name in scripts:
            made.load.observe(f"{name} real-m", 0.001, 0.0)
    return made


def ask(
    scripts: Mapping[str, Sequence[Script]], *, is_stream: bool = True, **case: Any
) -> tuple[FakeExchange, AppCase]:
    async def main() -> tuple[FakeExchange, AppCase]:
        made = hedging(scripts, **case)
        exchange = await made.ask({**ASK, "stream": is_stream})
        await made.close()
        return exchange, made

    return run(main())


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not is_so():  # noqa: ASYNC110 - what is waited for tells nobody
            await asyncio.sleep(0.001)


@both_ways
def test_the_second_answers_where_the_first_is_late(is_stream: bool) -> None:
    exchange, case = ask({"a": [SLOW], "b": [saying("fast")]}, is_stream=is_stream)
    assert message_of(exchange).text == "fast"
    assert case.upstreams["a"].calls[0].events == ["abort"]
    record = case.record
    assert (record["upstream"], record["attempts"]) == ("b", 2)
    assert record["hedge"] == "second"
    assert case.load.busy == {"a": 0, "b": 0}
    assert case.health.is_clear


@pytest.mark.parametrize("script", [SLOW, [head(), data(chunk(content="Hi")), 30.0]])
def test_the_end_of_the_gateway_is_told(script: Script) -> None:
    async def main() -> None:
        case = hedging({"a": [SLOW], "b": [script]})
        exchange = exchange_of({**ASK, "stream": True})
        task = asyncio.create_task(case.app.handle(exchange))
        await until(lambda: bool(case.upstreams["b"].calls))
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait([task])
        error = error_in(exchange) if exchange.status == 200 else error_of(exchange)
        assert error["message"] == "the gateway is stopping; try again"
        assert case.record["error"] == "stopped"
        await case.close()

    run(main())


def test_both_calls_are_paid_for() -> None:
    _, case = ask({"a": [SLOW], "b": [saying("fast", prompt=300, output=20)]})
    record = case.record
    assert record["hedge_cost_micros"] > 0
    assert record["cost_micros"] == 320_000_000 + record["hedge_cost_micros"]
    assert record["input_tokens"] == 300


@both_ways
def test_a_first_that_is_in_time_is_alone(is_stream: bool) -> None:
    patient = {"model": {"hedge_min_s": 15.0}}
    exchange, case = ask({"a": [saying("first")], "b": []}, is_stream=is_stream, options=patient)
    assert message_of(exchange).text == "first"
    assert case.upstreams["b"].calls == []
    assert "hedge" not in case.record


@both_ways
def test_the_first_may_still_win(is_stream: bool) -> None:
    exchange, case = ask({"a": [[0.05, *saying("first")]], "b": [SLOW]}, is_stream=is_stream)
    assert message_of(exchange).text == "first"
    assert case.upstreams["b"].calls[0].events == ["abort"]
    assert case.record["hedge"] == "first"


def test_what_has_no_content_wins_nothing() -> None:
    begun = [head(), data(b": at work\n\n" + chunk(role="assistant")), 30.0]
    exchange, case = ask({"a": [begun], "b": [saying("fast")]})
    message = message_of(exchange)
    assert message.text == "fast"
    assert [event["type"] for event in message.events].count("message_start") == 1
    assert case.record["upstream"] == "b"


def without_comments(exchange: FakeExchange) -> AssembledMessage:
    """Return the message as a client reads it: events alone."""
    events = exchange.reply.split(b"\n\n")
    return check_stream(b"\n\n".join(event for event in events if event[:1] != b":"))


FAILURES = {
    "before the second is asked": ([failing(LATE)], [saying("b")]),
    "while the second is at work": ([[0.04, *failing(LATE)]], [[0.06, *saying("b")]]),
    "the second, while the first is at work": ([[0.08, *saying("b")]], [failing(LATE)]),
}


@both_ways
@pytest.mark.parametrize(("first", "second"), FAILURES.values(), ids=FAILURES)
def test_one_may_fail(first: list[Script], second: list[Script], is_stream: bool) -> None:
    exchange, case = ask({"a": first, "b": second}, is_stream=is_stream)
    assert message_of(exchange).text == "b"
    record = case.record
    assert record["attempts"] == 2
    # What has failed costs nothing, as it does where nobody is asked beside it.
    assert record.get("hedge_cost_micros", 0) == 0
    assert record["cost_micros"] == 5_000_000


def test_a_failover_is_no_hedge() -> None:
    exchange, case = ask({"a": [failing(LATE)], "b": [saying("b")]})
    assert message_of(exchange).text == "b"
    assert "hedge" not in case.record
    hedges = case.services.hedges
    assert (hedges.n_asked, hedges.n_won) == (0, 0)


@both_ways
def test_if_both_fail_the_next_is_asked(is_stream: bool) -> None:
    scripts = {"a": [[0.04, *failing(LATE)]], "b": [failing(LATE)], "c": [saying("third")]}
    exchange, case = ask(scripts, is_stream=is_stream)
    assert message_of(exchange).text == "third"
    assert (case.record["attempts"], case.record["upstream"]) == (3, "c")
    assert "hedge" not in case.record


def test_if_all_fail_the_client_is_told() -> None:
    exchange, case = ask({"a": [[0.04, *failing(LATE)]], "b": [failing(LATE)]})
    assert error_of(exchange)["type"] == "timeout_error"
    assert case.record["attempts"] == 2


def test_a_refused_request_is_not_waited_for() -> None:
    exchange, case = ask({"a": [SLOW], "b": [refusing(400, "bad field")]})
    assert "bad field" in error_of(exchange)["message"]
    assert case.upstreams["a"].calls[0].events == ["abort"]


def test_a_winner_that_breaks_off_is_followed_by_nobody() -> None:
    broken = [head(), data(chunk(content="Hel")), 0.01, fail(RESET)]
    exchange, case = ask({"a": [SLOW], "b": [broken], "c": []})
    assert error_in(exchange)["type"] == "api_error"
    assert case.record["error"] == "api_error"
    assert case.record["hedge"] == "second"


def test_an_early_start_and_pings_stay_one_message() -> None:
    late = [0.12, *saying("late")]
    exchange, case = ask({"a": [SLOW], "b": [late]}, early_start_s=0.03, ping_interval_s=0.05)
    assert exchange.written[0].startswith(b":")
    assert without_comments(exchange).text == "late"
    assert case.record["status"] == 200


def test_an_early_start_ends_with_an_error_event() -> None:
    late = [0.1, *failing(LATE)]
    exchange, _ = ask({"a": [late], "b": [late]}, early_start_s=0.03)
    assert exchange.status == 200
    assert b"event: error" in exchange.reply
    assert exchange.is_ended


def test_a_native_upstream_may_win_after_an_early_start() -> None:
    scripts = {"a": [SLOW], "native": [[0.05, *native_saying(is_stream=True)]]}
    exchange, _ = ask(scripts, early_start_s=0.01)
    assert without_comments(exchange).text == "Hello"


@both_ways
def test_a_native_upstream_may_win(is_stream: bool) -> None:
    scripts = {"a": [SLOW], "native": [native_saying(is_stream)]}
    exchange, case = ask(scripts, is_stream=is_stream)
    assert message_of(exchange).text == "Hello"
    assert case.record["upstream"] == "native"


@pytest.mark.parametrize("phase", ["before", "racing", "won"])
def test_a_client_that_leaves_ends_all_calls(phase: str) -> None:
    won = [head(), data(chunk(content="Hel")), 30.0]

    async def case() -> None:
        patient = {"model": {"hedge_min_s": 15.0}} if phase == "before" else {}
        scripts = {"a": [SLOW], "b": [won if phase == "won" else SLOW]}
        made = hedging(scripts, options=patient)
        exchange = exchange_of({**ASK, "stream": True})
        task = asyncio.create_task(made.app.handle(exchange))
        await until(lambda: bool(made.upstreams["a"].calls))
        if phase != "before":
            await until(lambda: bool(made.upstreams["b"].calls))
        if phase == "won":
            await until(lambda: b"Hel" in exchange.reply)
        exchange.leave()
        await task
        calls = [call for upstream in made.upstreams.values() for call in upstream.calls]
        assert all(call.is_over for call in calls)
        assert len(calls) == (1 if phase == "before" else 2)
        assert made.record["error"] == "client_gone"
        assert set(made.load.busy.values()) == {0}
        assert made.health.is_clear
        await made.close()

    run(case())


def test_a_slow_reader_pauses_the_winner() -> None:
    async def case() -> None:
        made = hedging(
            {"a": [SLOW], "b": [[head(), data(chunk(content="Hel")), 0.05, *saying("lo")[1:]]]}
        )
        exchange = exchange_of({**ASK, "stream": True})
        task = asyncio.create_task(made.app.handle(exchange))
        await until(lambda: b"Hel" in exchange.reply)
        exchange.pause()
        exchange.resume()
        await task
        assert made.upstreams["b"].calls[0].events[:2] == ["pause", "resume"]
        await made.close()

    run(case())


def test_a_message_that_has_begun_in_line_is_not_begun_by_two() -> None:
    models = {"m": {"upstream": ("a", "b"), **HEDGED}, "n": {"upstream": ("c",)}}

    async def case() -> None:
        made = AppCase(
            {"a": [[0.2, *saying("mine")]], "b": [], "c": [[0.2, *saying("ahead")]]},
            models=models,
            early_start_s=0.02,
            settings={"server": ServerConfig(max_concurrent_requests=1)},
        )
        for _ in range(20):
            made.load.observe("a m", 0.001, 0.0)
        ahead = asyncio.create_task(made.ask({**ASK, "model": "n", "stream": True}))
        await until(lambda: bool(made.upstreams["c"].calls))
        waiting = await made.ask({**ASK, "stream": True})
        await ahead
        assert waiting.written[0].startswith(b"event: message_start")
        assert message_of(waiting).text == "mine"
        assert made.upstreams["b"].calls == []
        await made.close()

    run(case())


def test_hedges_are_few() -> None:
    async def case() -> int:
        made = hedging({"a": [[0.4, *saying("x")]] * 14, "b": [saying("x")] * 14})
        for _ in range(14):
            await made.ask({**ASK, "stream": True})
        await made.close()
        return len(made.upstreams["b"].calls)

    assert 10 <= run(case()) <= 11


@pytest.mark.parametrize("known", [0, 19])
def test_nobody_is_late_where_little_is_known(known: int) -> None:
    async def case() -> None:
        made = AppCase({"a": [[0.05, *saying("x")]], "b": []}, options={"model": HEDGED})
        for _ in range(known):
            made.load.observe("a real-m", 0.001, 0.0)
        assert message_of(await made.ask({**ASK, "stream": True})).text == "x"
        await made.close()

    run(case())
