"""A long request is let go once its answer has begun: a thousand silent streams hold no prompts."""

import asyncio
import gc
import json
import tracemalloc
from typing import Any

import pytest

from dragoman.server.head_facts import HeadFacts
from dragoman.server.transport.seams import SentHeaders
from support.app_case import (
    ASK,
    DONE,
    AppCase,
    Script,
    chunk,
    exchange_of,
    message_of,
    run,
    usage,
)
from support.fakes import data, end, head
from support.loops import until
from support.plans import tool, user

_LONG = 1_000_000
CALL = {"index": 0, "id": "c0", "function": {"name": "get", "arguments": '{"q":'}}
MORE = {"index": 0, "function": {"arguments": '"x"}'}}
NATIVE = [
    {
        "type": "message_start",
        "message": {
            "id": "msg_theirs",
            "type": "message",
            "role": "assistant",
            "model": "real-m",
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": 3, "output_tokens": 1},
        },
    },
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hi"}},
    {"type": "content_block_stop", "index": 0},
    {
        "type": "message_delta",
        "delta": {"stop_reason": "end_turn", "stop_sequence": None},
        "usage": {"output_tokens": 2},
    },
    {"type": "message_stop"},
]


def native(*events: dict[str, Any]) -> bytes:
    return b"".join(
        b"event: %b\ndata: %b\n\n" % (each["type"].encode(), json.dumps(each).encode())
        for each in events
    )


def waiting(first: bytes, rest: bytes) -> Script:
    return [head(), data(first), 0.5, data(rest), end()]


def long_request() -> dict[str, Any]:
    return {
        **ASK,
        "max_tokens": 2048,
        "stream": True,
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "tools": [tool("get")],
        "messages": [user("x" * _LONG)],
    }


# Of a thinking model what was said is kept: a reply of thoughts alone is asked for once more.
CASES: dict[str, tuple[str, Script, int]] = {
    "text": ("lab", waiting(chunk(content="Hi"), chunk("stop") + usage(3, 2) + DONE), 0),
    "a call": (
        "lab",
        waiting(
            chunk(tool_calls=[CALL]),
            chunk(tool_calls=[MORE]) + chunk("tool_calls") + usage(3, 2) + DONE,
        ),
        0,
    ),
    "thinking": (
        "lab",
        waiting(
            chunk(reasoning_content="Hm"),
            chunk(content="Hi") + chunk("stop") + usage(3, 2) + DONE,
        ),
        1,
    ),
    "native": ("native", waiting(native(*NATIVE[:3]), native(*NATIVE[3:])), 0),
}


@pytest.mark.parametrize(("name", "script", "copies"), CASES.values(), ids=CASES)
def test_the_request_goes_when_the_answer_has_begun(name: str, script: Script, copies: int) -> None:
    async def main() -> float:
        case = AppCase({name: [script]})
        exchange = exchange_of(long_request())
        task = asyncio.create_task(case.app.handle(exchange))
        while not exchange.written:  # noqa: ASYNC110 - the fake has no event to wait for
            await asyncio.sleep(0.001)
        exchange._body = b""  # what the fakes keep for the tests
        case.upstreams[name].requests.clear()
        held, _ = tracemalloc.get_traced_memory()
        await task
        assert message_of(exchange).stop_reason in ("end_turn", "tool_use")
        await case.close()
        return held

    tracemalloc.start()
    try:
        held = run(main())
    finally:
        tracemalloc.stop()
    assert held < (copies + 0.5) * _LONG


def test_keys_are_let_go_once_the_answer_has_begun() -> None:
    async def main() -> None:
        made = AppCase({"lab": [[head(), data(chunk(content="Hi")), 30.0]]})
        key = b"of-this-test-alone"
        exchange = exchange_of({**ASK, "stream": True}, headers={b"x-api-key": key})
        task = asyncio.create_task(made.app.handle(exchange))
        await until(lambda: exchange.written)
        exchange.headers = SentHeaders()  # as the server's own do when its reply begins
        facts = [each for each in gc.get_objects() if isinstance(each, HeadFacts)]
        assert [each for each in facts if key in each.keys] == []
        exchange.leave()
        await task
        await made.close()

    run(main())
