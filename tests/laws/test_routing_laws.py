"""The same as for any delivery, with second calls, equals and requests that share a reply."""

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laws.test_delivery_laws import Forgetful, cases, strip_comments
from support.app_case import AppCase, run
from support.fakes import FakeExchange
from support.sse_grammar import check_error, check_message, check_stream

BALANCES = st.sampled_from([None, "affinity", "weighted", "least_busy", "fastest"])
ROUTING = st.sampled_from([{}, {"failures_to_open": 1, "open_s": 0.001}])


@st.composite
def routed(draw: st.DrawFn) -> dict[str, Any]:
    case = draw(cases())
    model: dict[str, Any] = {"balance": draw(BALANCES), "join_resends": draw(st.booleans())}
    if draw(st.booleans()):
        model |= {"hedge_percentile": 50.0, "hedge_min_s": 0.0005}
    leaves = [case["leave_s"], draw(st.none() | st.sampled_from([0.0, 0.002]))]
    return case | {"model": model, "routing": draw(ROUTING), "leaves": leaves}


async def play(case: dict[str, Any]) -> tuple[list[FakeExchange], AppCase]:
    made = AppCase(
        case["scripts"],
        options={"model": case["model"]},
        routing=case["routing"],
        **case["limits"],
    )
    for name, calls in case["scripts"].items():
        made.upstreams[name] = Forgetful(*calls)
        for _ in range(20):
            made.load.observe(f"{name} real-m", 0.0001, 0.0)
    exchanges = [FakeExchange(json.dumps(case["body"]).encode()) for _ in case["leaves"]]
    for exchange, leave_s in zip(exchanges, case["leaves"], strict=True):
        if leave_s is not None:
            asyncio.get_running_loop().call_later(leave_s, exchange.leave)
    async with asyncio.timeout(20):
        await asyncio.gather(*(made.app.handle(exchange) for exchange in exchanges))
    return exchanges, made


def check(exchange: FakeExchange, record: dict[str, Any], *, is_stream: bool) -> None:
    """Check one reply as the strictest client would."""
    if record["error"] == "client_gone":
        assert not exchange.is_ended
        return
    assert exchange.is_ended
    assert exchange.status == record["status"]
    if exchange.status != 200:
        check_error(exchange.reply)
    elif record["upstream"].startswith("native"):
        return  # it answers for its own events
    elif not is_stream:
        check_message(exchange.reply)
    elif not (stream := strip_comments(exchange.reply)).startswith(b"event: error"):
        assert stream.count(b"event: message_start\n") == 1
        check_stream(stream)


@settings(max_examples=200)
@given(routed())
def test_one_legal_answer_to_each(case: dict[str, Any]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dragoman.policy.retries._FIRST_DELAY_S", 0.0001)
        exchanges, made = run(play(case))
    assert [event["event"] for event in made.events if event["event"] == "crash"] == []
    calls = [call for upstream in made.upstreams.values() for call in upstream.calls]
    assert sum(record["attempts"] for record in made.records) >= len(calls)
    assert set(made.load.busy.values()) <= {0}
    by_id = {record["request_id"]: record for record in made.records}
    assert len(by_id) == 2
    assert len([record for record in made.records if "joined" in record]) <= 1
    for exchange in exchanges:
        said = exchange.reply_headers.get(b"request-id", b"").decode()
        if said:
            check(exchange, by_id[said], is_stream=case["body"]["stream"])
        else:
            assert exchange.gone
