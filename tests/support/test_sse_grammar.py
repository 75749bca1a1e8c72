"""The checker itself: a legal stream passes, every single departure from it is noticed."""

import json

import pytest

from support.sse_grammar import GrammarError, check_error, check_message, check_stream

USAGE = {"input_tokens": 5, "output_tokens": 1}
START = {
    "type": "message_start",
    "message": {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": USAGE,
    },
}
PING = {"type": "ping"}
STOP = {"type": "message_stop"}
ERROR = {"type": "error", "error": {"type": "api_error", "message": "no"}, "request_id": "req_1"}
THINKING = {"type": "thinking", "thinking": "", "signature": ""}
TEXT = {"type": "text", "text": ""}
TOOL = {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {}}


def begin(index, block):
    return {"type": "content_block_start", "index": index, "content_block": block}


def delta(index, kind, key, value):
    inner = {"type": f"{kind}_delta", key: value}
    return {"type": "content_block_delta", "index": index, "delta": inner}


def end(index):
    return {"type": "content_block_stop", "index": index}


def finish(reason="end_turn", sequence=None, **usage):
    inner = {"stop_reason": reason, "stop_sequence": sequence}
    return {"type": "message_delta", "delta": inner, "usage": usage or {"output_tokens": 9}}


def sse(*events):
    return b"".join(
        f"event: {e['type']}\ndata: {json.dumps(e)}\n\n".encode() if isinstance(e, dict) else e
        for e in events
    )


SIGNED = (
    begin(0, THINKING),
    delta(0, "thinking", "thinking", "hm"),
    delta(0, "signature", "signature", "c2ln"),
    end(0),
)
TEXT_BLOCK = (begin(0, TEXT), delta(0, "text", "text", "Hi"), end(0))
CALL = (begin(0, TOOL), delta(0, "input_json", "partial_json", '{"a":1}'), end(0))


def test_reads_a_message() -> None:
    message = check_stream(
        sse(
            START,
            PING,
            *SIGNED,
            begin(1, TEXT),
            delta(1, "text", "text", "Hel"),
            PING,
            delta(1, "text", "text", "lo"),
            end(1),
            begin(2, TOOL),
            delta(2, "input_json", "partial_json", '{"a":'),
            delta(2, "input_json", "partial_json", "[1]}"),
            end(2),
            finish("tool_use", output_tokens=9, cache_read_input_tokens=4),
            STOP,
        )
    )
    assert message.thinking == "hm"
    assert message.text == "Hello"
    assert message.tool_uses == [{**TOOL, "input": {"a": [1]}}]
    assert message.usage == {"input_tokens": 5, "output_tokens": 9, "cache_read_input_tokens": 4}
    assert (message.stop_reason, message.pings, message.error) == ("tool_use", 2, None)


def test_reads_an_error_in_an_open_block() -> None:
    message = check_stream(sse(START, begin(0, TEXT), delta(0, "text", "text", "Hi"), ERROR))
    assert message.error == {"type": "api_error", "message": "no"}


def test_input_may_be_cut_by_the_token_limit_only() -> None:
    cut = (START, begin(0, TOOL), delta(0, "input_json", "partial_json", '{"a'), end(0))
    assert check_stream(sse(*cut, finish("max_tokens"), STOP)).tool_uses[0]["input"] == {}
    with pytest.raises(GrammarError, match="not JSON"):
        check_stream(sse(*cut, finish("tool_use"), STOP))


BROKEN = {
    "empty": (),
    "no end": (START, *TEXT_BLOCK, finish()),
    "no message_delta": (START, *TEXT_BLOCK, STOP),
    "no message_start": (*TEXT_BLOCK, finish(), STOP),
    "two starts": (START, START, *TEXT_BLOCK, finish(), STOP),
    "two ends": (START, *TEXT_BLOCK, finish(), STOP, STOP),
    "error after the end": (START, *TEXT_BLOCK, finish(), STOP, ERROR),
    "stop after an error": (START, ERROR, STOP),
    "ping first": (PING, START, *TEXT_BLOCK, finish(), STOP),
    "index gap": (START, begin(1, TEXT), end(1), finish(), STOP),
    "index of another block": (START, begin(0, TEXT), delta(1, "text", "text", "x")),
    "overlap": (START, begin(0, TEXT), begin(1, TEXT), end(1), end(0), finish(), STOP),
    "block never stopped": (START, begin(0, TEXT), finish(), STOP),
    "block after message_delta": (START, finish(), *TEXT_BLOCK, STOP),
    "no signature": (START, *SIGNED[:2], end(0), finish(), STOP),
    "two signatures": (START, *SIGNED[:3], *SIGNED[2:], finish(), STOP),
    "thinking after its signature": (START, *SIGNED[:3], SIGNED[1], end(0), finish(), STOP),
    "text delta in a tool": (START, begin(0, TOOL), delta(0, "text", "text", "x"), end(0)),
    "input no object": (START, CALL[0], delta(0, "input_json", "partial_json", "[]"), end(0)),
    "tool id": (START, begin(0, {**TOOL, "id": "toolu_a:0"}), end(0), finish("tool_use"), STOP),
    "tool without a name": (START, begin(0, {**TOOL, "name": ""}), end(0)),
    "same id twice": ((START, *CALL, begin(1, TOOL), end(1), finish("tool_use"), STOP)),
    "calls but end_turn": (START, *CALL, finish(), STOP),
    "tool_use without calls": (START, *TEXT_BLOCK, finish("tool_use"), STOP),
    "unknown stop_reason": (START, *TEXT_BLOCK, finish("stop"), STOP),
    "stop_sequence missing": (START, *TEXT_BLOCK, finish("stop_sequence"), STOP),
    "stop_sequence too much": (START, *TEXT_BLOCK, finish("end_turn", "x"), STOP),
    "no output_tokens": (START, *TEXT_BLOCK, finish(input_tokens=1), STOP),
    "negative count": (START, *TEXT_BLOCK, finish(output_tokens=-1), STOP),
    "half a surrogate pair": (START, begin(0, TEXT), delta(0, "text", "text", "\ud83d"), end(0)),
    "unknown error type": (START, {**ERROR, "error": {"type": "x", "message": "y"}}),
    "unknown event": (START, {"type": "hologram"}),
    "done marker": (START, *TEXT_BLOCK, finish(), STOP, b"data: [DONE]\n\n"),
    "no event line": (b'data: {"type":"ping"}\n\n',),
    "event line of another type": (b'event: ping\ndata: {"type":"message_stop"}\n\n',),
    "cut event": (START, *TEXT_BLOCK, finish(), b'event: message_stop\ndata: {"type"'),
}


@pytest.mark.parametrize("events", BROKEN.values(), ids=BROKEN)
def test_notices(events) -> None:
    with pytest.raises(GrammarError):
        check_stream(sse(*events))


def test_reads_a_whole_message() -> None:
    whole = {**START["message"], "content": [{"type": "text", "text": "Hi"}]}
    whole["stop_reason"] = "end_turn"
    assert check_message(json.dumps(whole).encode()).text == "Hi"
    with pytest.raises(GrammarError):
        check_message(json.dumps({**whole, "stop_reason": None}).encode())


def test_reads_an_error_body() -> None:
    assert check_error(json.dumps(ERROR).encode())["message"] == "no"
    with pytest.raises(GrammarError):
        check_error(b'{"error": {"message": "no"}}')
