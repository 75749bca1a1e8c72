"""What is tried again, and where; what an early start changes in it."""

import pytest

from dragoman.server.relay import Relay
from support.app_case import (
    ASK,
    GONE,
    HTML,
    LATE,
    RESET,
    Script,
    both_ways,
    chunk,
    deliver,
    error_in,
    error_of,
    failing,
    message_of,
    native_saying,
    refusing,
    replying,
    saying,
)
from support.fakes import FakeExchange, data, end, fail, head

pytestmark = pytest.mark.usefixtures("quick_retries")


# -- again, on the same upstream

AGAIN: dict[str, Script] = {
    "no connection": failing(GONE),
    "502": refusing(502),
    "502 with a web page": replying(502, HTML, content_type="text/html"),
    "503": refusing(503),
    "529": refusing(529),
    "429 with a short wait": refusing(429, "slow", retry_after_ms="5"),
    "out of resources": [head(), data(chunk("insufficient_system_resource")), end()],
}
NOT_AGAIN: dict[str, tuple[Script, int]] = {
    "500": (refusing(500), 502),
    "501": (refusing(501), 502),
    "504": (refusing(504), 504),
    "400": (refusing(400), 400),
    "404": (refusing(404), 404),
    "422": (refusing(422), 400),
    "401": (refusing(401), 502),
    "429": (refusing(429), 429),
    "429 with a long wait": (refusing(429, "slow", retry_after="3"), 429),
    "429 of a full engine": (refusing(429, "engine_overloaded"), 529),
    "time-out": (failing(LATE), 504),
    "reset after the head": ([head(), fail(RESET)], 502),
    "garbage": (replying(200, "{nonsense"), 502),
}


@both_ways
@pytest.mark.parametrize("script", AGAIN.values(), ids=AGAIN)
def test_what_has_cost_nothing_is_tried_again(script: Script, is_stream: bool) -> None:
    exchange, case = deliver([script, script, saying("Hello")], is_stream=is_stream)
    assert message_of(exchange).text == "Hello"
    assert case.record["attempts"] == 3
    failed = [event for event in case.events if event["event"] == "attempt_failed"]
    assert len(failed) == 2
    assert {event["upstream"] for event in failed} == {"lab"}
    assert {event["request_id"] for event in failed} == {case.record["request_id"]}


@both_ways
@pytest.mark.parametrize(("script", "status"), NOT_AGAIN.values(), ids=NOT_AGAIN)
def test_nothing_else_is(script: Script, status: int, is_stream: bool) -> None:
    exchange, case = deliver([script], is_stream=is_stream)
    assert exchange.status == status
    assert case.record["attempts"] == 1


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_no_more_often_than_configured(retries: int) -> None:
    scripts = [failing(GONE)] * (retries + 1)
    exchange, case = deliver(scripts, options={"lab": {"retries": retries}})
    assert exchange.status == 502
    assert case.record["attempts"] == retries + 1


@pytest.mark.parametrize(
    ("script", "delays"),
    [
        (refusing(503, "x", retry_after="2"), [2.0, 2.0]),
        (refusing(503, "x", retry_after="3"), [3.0]),
        (refusing(503, "x", retry_after="6"), []),
        (refusing(503, "x", retry_after="5"), [5.0]),
    ],
)
def test_waits_add_up_to_five_seconds_at_most(monkeypatch, script: Script, delays: list) -> None:
    waited: list[float] = []

    async def sleep(_: Relay, delay_s: float) -> None:
        waited.append(delay_s)

    monkeypatch.setattr(Relay, "sleep", sleep)
    exchange, _ = deliver([script] * 4, options={"lab": {"retries": 10}})
    assert waited == delays
    assert exchange.status == 529
    assert exchange.reply_headers[b"retry-after"] in (b"2", b"3", b"5", b"6")


def test_waits_of_several_upstreams_add_up(monkeypatch) -> None:
    waited: list[float] = []

    async def sleep(_: Relay, delay_s: float) -> None:
        waited.append(delay_s)

    monkeypatch.setattr(Relay, "sleep", sleep)
    busy = refusing(503, "x", retry_after="2")
    exchange, _ = deliver({"a": [busy] * 3, "b": [busy] * 2}, options={"a": {"retries": 2}})
    assert waited == [2.0, 2.0]
    assert exchange.status == 529


# -- elsewhere


def without_comments(exchange: FakeExchange) -> FakeExchange:
    """Leave out what native streams say while they wait."""
    exchange.written = [w for w in exchange.written if not w.startswith(b": ")]
    return exchange


ELSEWHERE: dict[str, tuple[Script, ...]] = {
    "no connection": (failing(GONE),) * 3,
    "500": (refusing(500),),
    "503": (refusing(503),) * 3,
    "401": (refusing(401),),
    "402": (refusing(402),),
    "403": (refusing(403),),
    "404": (refusing(404, "The model does not exist"),),
    "429": (refusing(429),),
    "time-out": (failing(LATE),),
    "reset after the head": ([head(), fail(RESET)],),
    "web page": (replying(200, HTML, content_type="text/html"),),
    "garbage": (replying(200, "nonsense"),),
    "nothing": ([head(), end()],),
    "an error as the first event": (
        [head(), data(b'event: error\ndata: {"error":{"message":"x"},"type":"error"}\n\n'), end()],
    ),
}
ORDERS = {"chat, chat": ("lab", "other"), "chat, native": ("lab", "native")}
ORDERS |= {"native, chat": ("native", "lab"), "native, native": ("native", "native2")}


@both_ways
@pytest.mark.parametrize(("first", "second"), ORDERS.values(), ids=ORDERS)
@pytest.mark.parametrize("scripts", ELSEWHERE.values(), ids=ELSEWHERE)
def test_another_upstream_takes_over(
    scripts: tuple[Script, ...], first: str, second: str, is_stream: bool
) -> None:
    good = native_saying(is_stream) if second.startswith("native") else saying("Hello")
    exchange, case = deliver({first: scripts, second: [good]}, is_stream=is_stream)
    message = message_of(exchange)
    assert (message.text, message.model) == ("Hello", "m")
    assert (case.record["upstream"], case.record["error"]) == (second, "")
    assert case.record["attempts"] == len(scripts) + 1
    assert case.events[len(scripts) - 1]["then"] == "next upstream"


@both_ways
@pytest.mark.parametrize(("first", "second"), ORDERS.values(), ids=ORDERS)
def test_what_was_refused_for_what_it_says_is_not_asked_of_another(
    first: str, second: str, is_stream: bool
) -> None:
    for status in (400, 413, 422):
        exchange, case = deliver({first: [refusing(status)], second: []}, is_stream=is_stream)
        assert exchange.status in (status, 400)
        assert case.record["upstream"] == first


@both_ways
def test_when_all_have_failed_the_last_one_s_error_is_told(is_stream: bool) -> None:
    scripts = {"a": [refusing(500)], "b": [refusing(401)], "c": [refusing(429, retry_after="9")]}
    exchange, case = deliver(scripts, is_stream=is_stream)
    assert error_of(exchange)["type"] == "rate_limit_error"
    assert exchange.reply_headers[b"retry-after"] == b"9"
    assert case.record["attempts"] == 3


def test_adjustments_are_those_of_the_one_that_answered() -> None:
    asked = ASK | {"safeguards": [1], "top_k": 3}
    exchange, _ = deliver({"lab": [refusing(500)], "native": [native_saying(True)]}, body=asked)
    said = exchange.reply_headers[b"x-dragoman-adjustments"]
    assert b"safeguards;action=dropped" in said
    assert b"top_k" not in said
    exchange, _ = deliver({"native": [refusing(500)], "lab": [saying("x")]}, body=asked)
    assert b"top_k;action=dropped" in exchange.reply_headers[b"x-dragoman-adjustments"]


# -- early start

SLOW = 0.15  # seconds until an upstream fails or answers, where the early start is after 0.02


@pytest.mark.parametrize(("first", "second"), ORDERS.values(), ids=ORDERS)
@pytest.mark.parametrize(
    "failure",
    [
        [SLOW, fail(LATE)],
        [SLOW, *refusing(500)],
        [head(), SLOW, data(b"\n"), end()],
        [SLOW, *refusing(401)],
    ],
    ids=["time-out", "500", "nothing", "401"],
)
def test_after_an_early_start_another_may_still_take_over(
    failure: Script, first: str, second: str
) -> None:
    good = native_saying(True) if second.startswith("native") else saying("Hello")
    exchange, case = deliver(
        {first: [failure], second: [[0.05, *good]]}, early_start_s=0.02, ping_interval_s=0.05
    )
    reply = exchange.reply
    assert reply.count(b"event: message_start") == 1
    message = message_of(without_comments(exchange))
    assert (message.text, message.model) == ("Hello", "m")
    assert case.record["upstream"] == second
    is_ours = not first.startswith("native")
    assert reply.startswith(b"event: message_start" if is_ours else b": waiting")
    assert message.pings >= 1 if is_ours else reply.count(b": waiting") >= 2


@pytest.mark.parametrize(("first", "second"), ORDERS.values(), ids=ORDERS)
def test_after_an_early_start_the_last_failure_is_an_event(first: str, second: str) -> None:
    exchange, case = deliver(
        {first: [[SLOW, fail(LATE)]], second: [refusing(429, "slow down", retry_after="9")]},
        early_start_s=0.02,
    )
    assert error_in(strip_blank(without_comments(exchange)))["type"] == "rate_limit_error"
    assert (case.record["status"], case.record["error"]) == (200, "rate_limit_error")


def strip_blank(exchange: FakeExchange) -> FakeExchange:
    """Leave out the empty lines before an error in a native stream."""
    exchange.written = [w.lstrip(b"\n") for w in exchange.written]
    return exchange


def test_retries_go_on_after_an_early_start() -> None:
    exchange, case = deliver(
        [[SLOW, *refusing(503)], failing(GONE), saying("Hello")], early_start_s=0.02
    )
    assert message_of(exchange).text == "Hello"
    assert case.record["attempts"] == 3
    assert exchange.reply.count(b"event: message_start") == 1


def test_a_whole_reply_is_never_started_early() -> None:
    exchange, _ = deliver([[SLOW, *refusing(500)]], early_start_s=0.02, is_stream=False)
    assert error_of(exchange)["type"] == "api_error"
    assert exchange.status == 502


def test_an_early_start_in_a_pause_between_attempts(monkeypatch) -> None:
    monkeypatch.setattr("dragoman.policy.retries._FIRST_DELAY_S", 0.1)
    exchange, _ = deliver([failing(GONE), [SLOW, *saying("Hello")]], early_start_s=0.03)
    assert message_of(exchange).text == "Hello"
    assert exchange.reply.startswith(b"event: message_start")
    assert exchange.written[0].count(b"event:") == 1


def test_pings_go_on_through_pauses_and_attempts() -> None:
    exchange, _ = deliver(
        [[0.2, *refusing(503)], [0.2, *saying("Hello")]],
        early_start_s=0.02,
        ping_interval_s=0.06,
    )
    message = message_of(exchange)
    assert message.text == "Hello"
    assert message.pings >= 3
