"""Whatever upstreams do, in whatever order: one legal answer, one line in the log, no crash."""

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dragoman.core.errors import (
    UpstreamOverloaded,
    UpstreamProtocolError,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from support.app_case import (
    ASK,
    DONE,
    WHOLE,
    AppCase,
    Script,
    chunk,
    native_saying,
    refusing,
    run,
    saying,
    usage,
)
from support.fakes import FakeExchange, FakeUpstream, Step, data, end, fail, head
from support.sse_grammar import check_error, check_message, check_stream

CALL = {"index": 0, "id": "c", "function": {"name": "get", "arguments": '{"q": 1}'}}
SEARCH = {"index": 0, "id": "s", "function": {"name": "web_search", "arguments": "{}"}}
CHAT = [
    chunk(content="Hello"),
    chunk(reasoning_content="Hm."),
    chunk(tool_calls=[CALL]),
    chunk(tool_calls=[SEARCH]),
    chunk("stop"),
    chunk("length"),
    chunk("tool_calls"),
    chunk("sideways"),
    usage(3, 2),
    DONE,
    WHOLE.encode(),
    WHOLE.encode()[:-9],
    b": wait\n\n",
    b"\n",
    b"data: {nonsense\n\n",
    b"<html>",
    b'data: {"error":{"message":"x","code":429}}\n\n',
]
NATIVE = [step for is_stream in (True, False) for step in native_saying(is_stream)[1:-1]]
NATIVE += [data(b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error"}}\n\n')]
HEADS = [
    head(),
    head(content_type="application/json"),
    head(content_type="text/html"),
    head(204),
    head(400),
    head(401),
    head(503),
    head(429, retry_after_ms="1"),
]
ERRORS = (UpstreamUnavailable, UpstreamTimeout, UpstreamProtocolError, UpstreamOverloaded)
ENDS: st.SearchStrategy[Step] = st.just(end()) | st.sampled_from(
    [fail(kind("The model's server failed.")) for kind in ERRORS]
)


def scripts(is_native: bool) -> st.SearchStrategy[Script]:
    """Return anything that an upstream may do; some of it is a good reply."""
    pieces: st.SearchStrategy[Any] = st.sampled_from(CHAT).map(data) | st.just(0.001)
    if is_native:
        pieces |= st.sampled_from(NATIVE)
    odd = st.builds(
        lambda first, body, last: [first, *body, last],
        st.sampled_from(HEADS),
        st.lists(pieces, max_size=8),
        ENDS,
    )
    good = st.booleans().map(native_saying) if is_native else st.just(saying("Hello"))
    return odd | ENDS.map(lambda step: [step]) | good | st.just(refusing(400))


class Forgetful(FakeUpstream):
    """Plays its scripts, then the last one for ever."""

    def send(self, request: Any, receiver: Any) -> Any:
        if len(self._scripts) == 1:
            self._scripts = self._scripts * 2
        return super().send(request, receiver)


@st.composite
def cases(draw: st.DrawFn) -> dict[str, Any]:
    names = draw(st.permutations(["lab", "other", "native", "native2"]))
    names = names[: draw(st.integers(1, 3))]
    tools = [{"name": "get", "input_schema": {"type": "object"}}]
    if draw(st.booleans()):
        tools.append({"type": "web_search_20250305", "name": "web_search"})
    return {
        "scripts": {
            name: draw(st.lists(scripts(name.startswith("native")), min_size=1, max_size=3))
            for name in names
        },
        "body": ASK
        | {
            "stream": draw(st.booleans()),
            "max_tokens": draw(st.sampled_from([0, 50])),
            "tools": tools,
            "thinking": {"type": "adaptive"},
            "stop_sequences": draw(st.sampled_from([[], ["lo"], ["nowhere"]])),
        },
        "limits": {
            "early_start_s": draw(st.sampled_from([0.0, 0.0001])),
            "ping_interval_s": draw(st.sampled_from([0.001, 60.0])),
        },
        "leave_s": draw(st.none() | st.sampled_from([0.0, 0.001, 0.003])),
    }


async def play(case: dict[str, Any]) -> tuple[FakeExchange, AppCase]:
    made = AppCase(case["scripts"], **case["limits"])
    for name, calls in case["scripts"].items():
        made.upstreams[name] = Forgetful(*calls)
    exchange = FakeExchange(json.dumps(case["body"]).encode())
    if case["leave_s"] is not None:
        asyncio.get_running_loop().call_later(case["leave_s"], exchange.leave)
    async with asyncio.timeout(20):
        await made.app.handle(exchange)
    return exchange, made


def strip_comments(stream: bytes) -> bytes:
    """Leave out what native streams may hold beside events: comments and further blank lines."""
    lines = [line for line in stream.replace(b"\r\n", b"\n").split(b"\n") if line[:1] != b":"]
    text = b"\n".join(lines)
    while b"\n\n\n" in text:
        text = text.replace(b"\n\n\n", b"\n\n")
    return text.lstrip(b"\n")


@settings(max_examples=300)
@given(cases())
def test_one_legal_answer(case: dict[str, Any]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dragoman.policy.retries._FIRST_DELAY_S", 0.0001)
        exchange, made = run(play(case))
    assert [event["event"] for event in made.events if event["event"] == "crash"] == []
    record = made.record
    for upstream in made.upstreams.values():
        for call in upstream.calls[:-1]:
            assert call.is_over or not call._steps, "a call that nobody waits for goes on"
    if record["error"] == "client_gone":
        assert not exchange.is_ended
        return
    assert exchange.is_ended
    assert exchange.status == record["status"]
    if exchange.status != 200:
        assert check_error(exchange.reply)["type"] == record["error"]
        return
    is_native = record["upstream"].startswith("native")
    if case["body"]["stream"]:
        stream = strip_comments(exchange.reply)
        if not is_native:  # a native upstream answers for its own events
            assert (check_stream(stream).error is not None) == bool(record["error"])
        assert stream.count(b"event: message_start\n") <= 1 or is_native
    elif not is_native:
        check_message(exchange.reply)
