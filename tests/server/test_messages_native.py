"""Requests passed through to an upstream that speaks the Anthropic API itself."""

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.core.signatures import Signer
from support.app_case import (
    ASK,
    GONE,
    KEY,
    LATE,
    NATIVE_START,
    RESET,
    AppCase,
    Script,
    both_ways,
    deliver,
    error_in,
    error_of,
    failing,
    message_of,
    native_saying,
    replying,
    run,
    saying,
)
from support.fakes import FakeExchange, data, end, fail, head
from support.sse_grammar import check_stream

pytestmark = pytest.mark.usefixtures("quick_retries")

STREAM = b"".join(
    [
        b'event: message_start\r\ndata: {"type":"message_start","message":{"id":"msg_theirs",'
        b'"type":"message","role":"assistant","model":"real-m","content":[],"stop_reason":null,'
        b'"stop_sequence":null,"usage":{"input_tokens":7,"output_tokens":1,"made_up":[ 1 ]}}}\r\n'
        b"\r\n",
        b": a comment\n\n",
        b'event: ping\ndata: {"type": "ping"}\n\n',
        b'event: content_block_start\ndata: {"type":"content_block_start","index":0,'
        b'"content_block":{"type":"made_up","model":"real-m"}}\n\n',
        b'event: content_block_stop\ndata: {"type":"content_block_stop","index":0}\n\n',
        b'event: made_up_event\ndata: {"type":"made_up_event","text":"\xe2\x82\xac \\u20ac"}\n\n',
        b'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":"end_turn",'
        b'"stop_sequence":null},"usage":{"output_tokens":12},"context_management":{}}\n\n',
        b'event: message_stop\ndata: {"type":"message_stop"}\n\n',
    ]
)
FIRST = STREAM.index(b"event: content_block_stop")  # so much holds content
RENAMED = STREAM.replace(b'"model":"real-m"', b'"model":"m"', 1)
WHOLE = (
    b'{ "model" : "real-m", "id":"msg_theirs","type":"message","role":"assistant",'
    b'"content":[{"type":"made_up","model":"real-m"}],"stop_reason":"end_turn",\n'
    b'"stop_sequence":null,"usage":{"input_tokens":7,"output_tokens":12}, "made_up":"\\u20ac"}\n'
)
ERROR = {
    "type": "error",
    "error": {"type": "invalid_request_error", "message": "messages: nope"},
    "request_id": "req_theirs",
}


def native(
    *scripts: Script, options: dict[str, Any] | None = None, **request: Any
) -> tuple[FakeExchange, AppCase]:
    return deliver({"native": scripts}, options={"native": options or {}}, **request)


# -- replies


@given(st.lists(st.integers(0, len(STREAM)), max_size=8))
def test_a_stream_goes_through_byte_for_byte_however_it_is_cut(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(STREAM)]
    pieces = [data(STREAM[a:b]) for a, b in itertools.pairwise(edges)]
    exchange, case = native([head(), *pieces, end()])
    assert exchange.reply == RENAMED
    assert exchange.is_ended
    record = case.record
    assert (record["input_tokens"], record["output_tokens"]) == (7, 12)
    assert (record["stop_reason"], record["status"]) == ("end_turn", 200)


@given(st.lists(st.integers(0, len(WHOLE)), max_size=8))
def test_so_does_a_whole_reply(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(WHOLE)]
    pieces = [data(WHOLE[a:b]) for a, b in itertools.pairwise(edges)]
    script = [head(content_type="application/json"), *pieces, end()]
    exchange, case = native(script, is_stream=False)
    assert exchange.reply == WHOLE.replace(b'"model" : "real-m"', b'"model":"m"', 1)
    assert int(exchange.reply_headers[b"content-length"]) == len(exchange.reply)
    assert (case.record["input_tokens"], case.record["output_tokens"]) == (7, 12)


def test_a_stream_is_sent_on_as_it_comes() -> None:
    exchange, _ = native([head(), *(data(part + b"\n\n") for part in STREAM.split(b"\n\n")[:-1])])
    # The start waits for content: until then another upstream may answer instead.
    n_before = STREAM[: STREAM.index(b"event: content_block_start")].count(b"\n\n")
    assert len(exchange.written) == STREAM.count(b"\n\n") - n_before


# -- requests


@both_ways
def test_a_request_goes_through_but_for_the_model(is_stream: bool) -> None:
    body = (
        b'{"model" : "m", "max_tokens":50,"stream":%s,\n "messages":[{"role":"user","content":'
        b'"\\u20ac \xe2\x82\xac"}], "made_up":{"model":"m"}, "temperature": 1.0}'
    ) % (b"true" if is_stream else b"false")

    async def main() -> None:
        case = AppCase({"native": [native_saying(is_stream)]})
        message_of(await case.ask(body))
        (request,) = case.upstreams["native"].requests
        assert request.body == body.replace(b'"model" : "m"', b'"model" : "real-m"', 1)
        assert (request.path, request.method, request.at_root) == ("/v1/messages", "POST", False)

    run(main())


@both_ways
@pytest.mark.parametrize(
    ("sent", "forwarded"),
    [
        ({}, {b"anthropic-version": b"2023-06-01"}),
        ({b"anthropic-version": b""}, {b"anthropic-version": b"2023-06-01"}),
        ({b"anthropic-version": b"2026-10-21"}, {b"anthropic-version": b"2026-10-21"}),
        (
            {b"anthropic-beta": b"a,b", b"anthropic-version": b"odd"},
            {b"anthropic-version": b"odd", b"anthropic-beta": b"a,b"},
        ),
        (
            {
                b"x-api-key": b"theirs",
                b"authorization": b"Bearer theirs",
                b"cookie": b"c",
                b"x-claude-code-session-id": b"s",
                b"user-agent": b"claude-cli",
                b"content-encoding": b"gzip",
            },
            {b"anthropic-version": b"2023-06-01"},
        ),
    ],
)
def test_version_and_betas_go_on_and_nothing_else(
    sent: dict[bytes, bytes], forwarded: dict[bytes, bytes], is_stream: bool
) -> None:
    _, case = native(native_saying(is_stream), headers=sent, is_stream=is_stream)
    assert dict(case.upstreams["native"].requests[0].headers) == forwarded


@both_ways
def test_safeguards_go_to_those_who_are_trusted(is_stream: bool) -> None:
    asked = ASK | {"safeguards": [{"type": "dangerous_tool_use"}]}
    exchange, case = native(native_saying(is_stream), body=asked, is_stream=is_stream)
    assert "safeguards" not in case.sent("native")[0]
    assert b"safeguards;action=dropped" in exchange.reply_headers[b"x-dragoman-adjustments"]
    exchange, case = native(
        native_saying(is_stream), body=asked, is_stream=is_stream, options={"trusted": True}
    )
    assert case.sent("native")[0]["safeguards"] == asked["safeguards"]
    assert b"x-dragoman-adjustments" not in exchange.reply_headers


def test_thinking_of_another_model_stays_here() -> None:
    ours = Signer(b"a secret of sixteen bytes or more").sign("PRIVATE")
    content = [
        {"type": "thinking", "thinking": "PRIVATE", "signature": ours},
        {"type": "thinking", "thinking": "kept", "signature": "EqoBCkYI"},
        {"type": "redacted_thinking", "data": "kept, too"},
        {"type": "text", "text": "x"},
    ]
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": content}]
    messages += ASK["messages"]
    exchange, case = native(native_saying(True), body=ASK | {"messages": messages})
    assert case.sent("native")[0]["messages"][1]["content"] == content[1:]
    assert b"messages.1.content" in exchange.reply_headers[b"x-dragoman-adjustments"]


def test_what_only_a_native_upstream_knows_is_not_ours_to_refuse() -> None:
    image = {"type": "image", "source": {"type": "file", "file_id": "file_1"}}
    asked = ASK | {
        "thread": {"type": "create"},
        "messages": [{"role": "user", "content": [image, {"type": "made_up"}]}],
        "max_tokens": 0,
    }
    exchange, case = native(native_saying(True), body=asked)
    assert message_of(exchange).text == "Hello"
    assert case.sent("native")[0] == {**asked, "model": "real-m", "stream": True}


# -- errors


@both_ways
@pytest.mark.parametrize("status", [400, 404, 409, 413, 422, 429, 529])
def test_its_own_errors_are_its_own_words(status: int, is_stream: bool) -> None:
    raw = json.dumps(ERROR, indent=1)
    fields = {"retry_after": "7", "x_should_retry": "false", "request_id": "req_theirs"}
    scripts = [replying(status, raw, **fields)]
    exchange, case = native(*scripts, is_stream=is_stream, options={"retries": 0})
    assert (exchange.status, exchange.reply) == (status, raw.encode())
    assert int(exchange.reply_headers[b"content-length"]) == len(raw)
    assert exchange.reply_headers[b"x-should-retry"] == b"false"
    assert exchange.reply_headers[b"request-id"].decode() == case.record["request_id"]
    assert (b"retry-after" in exchange.reply_headers) == (status in (429, 529))
    assert "nope" in case.record["detail"]


@both_ways
@pytest.mark.parametrize("status", [401, 402, 403])
def test_but_not_about_our_own_credential(status: int, is_stream: bool) -> None:
    raw = json.dumps({**ERROR, "error": {"type": "authentication_error", "message": "org-1234"}})
    exchange, case = native(replying(status, raw), is_stream=is_stream)
    assert (exchange.status, error_of(exchange)["type"]) == (502, "api_error")
    assert exchange.reply_headers[b"x-should-retry"] == b"false"
    assert b"org-1234" not in exchange.reply
    assert "org-1234" in case.record["detail"]


@both_ways
def test_nor_with_a_key_in_them(is_stream: bool) -> None:
    raw = json.dumps({**ERROR, "error": {"type": "x", "message": f"bad: {KEY}"}})
    exchange, case = native(replying(400, raw), is_stream=is_stream)
    assert (exchange.status, error_of(exchange)["type"]) == (400, "invalid_request_error")
    assert KEY not in exchange.reply.decode() + case.log_text.getvalue()


@both_ways
def test_the_balance_of_the_gateway_is_nothing_for_clients(is_stream: bool) -> None:
    said = "Your credit balance is too low to access the Anthropic API."
    raw = json.dumps({**ERROR, "error": {"type": "invalid_request_error", "message": said}})
    exchange, case = native(replying(400, raw), is_stream=is_stream)
    assert (exchange.status, error_of(exchange)["type"]) == (502, "api_error")
    assert exchange.reply_headers[b"x-should-retry"] == b"false"
    assert "balance is too low" in case.log_text.getvalue()
    assert "balance is too low" not in exchange.reply.decode()
    _, case = deliver({"native": [replying(400, raw)], "lab": [saying("x")]}, is_stream=is_stream)
    assert case.record["upstream"] == "lab"


def sse(event: dict[str, Any]) -> bytes:
    return f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()


OVERLOADED = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
BAD: dict[str, tuple[Script, int]] = {
    "a web page": (replying(200, "<html>", content_type="text/html"), 502),
    "nothing": ([head(), end()], 502),
    "nothing at all": ([head(content_type="application/json"), end()], 502),
    "an object": (replying(200, "{}"), 502),
    "a list": (replying(200, "[]"), 502),
    "garbage": (replying(200, "nonsense"), 502),
    "a chat completion": (replying(200, '{"object":"chat.completion","choices":[]}'), 502),
    "an error with status 200": (replying(200, json.dumps(OVERLOADED)), 529),
    "invalid UTF-8": (replying(200, WHOLE.replace(b"made_up", b"made\xffup")), 502),
    "cut short": (replying(200, WHOLE[:-30]), 502),
    "too large": ([head(content_type="application/json"), data(b"{" + b" " * 2**20), end()], 502),
    "too large without a type": ([head(), *[data(b": x\n\n" * 2**17)] * 2, end()], 502),
    "a redirect": (replying(302, "", location="https://x.example/"), 502),
    "a time-out": (failing(LATE), 504),
    "a late time-out": ([head(), fail(LATE)], 504),
    "a reset": ([head(), fail(RESET)], 502),
    "500": (replying(500, json.dumps(ERROR)), 502),
}


@both_ways
@pytest.mark.parametrize(("script", "status"), BAD.values(), ids=BAD)
def test_what_is_no_reply_is_an_error(script: Script, status: int, is_stream: bool) -> None:
    exchange, case = native(script, is_stream=is_stream, options={"retries": 0})
    assert error_of(exchange)["type"] == case.record["error"]
    assert (exchange.status, case.record["status"]) == (status, status)


def test_a_whole_reply_to_a_stream_and_a_stream_to_a_whole() -> None:
    exchange, _ = native(replying(200, WHOLE), is_stream=True)
    assert "whole reply" in error_of(exchange)["message"]
    exchange, _ = native(native_saying(True), is_stream=False)
    assert "no message" in error_of(exchange)["message"]


def test_an_error_that_comes_first_is_a_status() -> None:
    exchange, case = native([head(), data(sse(OVERLOADED)), end()], options={"retries": 0})
    assert (exchange.status, error_of(exchange)["type"]) == (529, "overloaded_error")
    assert case.record["status"] == 529


def test_an_error_that_comes_first_is_tried_again() -> None:
    exchange, case = native([head(), data(sse(OVERLOADED)), end()], native_saying(True))
    assert message_of(exchange).text == "Hello"
    assert case.record["attempts"] == 2


START = sse(NATIVE_START)
PING = sse({"type": "ping"})


@pytest.mark.parametrize(
    "steps", [[data(sse(OVERLOADED)), end()], [fail(RESET)], [fail(LATE)], [end()]], ids=range(4)
)
def test_until_content_comes_another_upstream_may_answer(steps: list[Any]) -> None:
    script = [head(), data(START), 0.01, data(PING), 0.01, *steps]
    exchange, case = deliver(
        {"native": [script], "lab": [saying("Hello")]}, options={"native": {"retries": 0}}
    )
    assert message_of(exchange).text == "Hello"
    assert exchange.reply.count(b"message_start\n") == 1
    assert (case.record["upstream"], case.record["attempts"]) == ("lab", 2)


def test_the_time_to_first_content_is_not_that_to_the_start() -> None:
    steps = [head(), data(START), 0.06, *native_saying(True)[1:]]
    _, case = native(steps)
    assert case.record["first_content_ms"] >= 50


def test_an_error_after_content_goes_through() -> None:
    block = {"type": "content_block_start", "index": 0, "content_block": {"type": "text"}}
    exchange, case = native([head(), data(START + sse(block)), data(sse(OVERLOADED)), end()])
    assert exchange.reply.endswith(sse(OVERLOADED))
    assert exchange.is_ended
    assert case.record["status"] == 200


@pytest.mark.parametrize("step", [fail(RESET), fail(LATE), end()], ids=range(3))
@pytest.mark.parametrize("size", [FIRST, FIRST + 1, FIRST + 150, len(STREAM) - 5])
def test_a_break_after_content_is_one_error_event(step: Any, size: int) -> None:
    exchange, case = native([head(), data(STREAM[:size]), step])
    sent, mark, error = exchange.reply.partition(b"event: error\n")
    assert exchange.is_ended
    assert RENAMED.startswith(sent)
    assert sent.endswith((b"\n\n", b"\n\r\n"))  # nothing of the event that broke off
    assert check_stream(mark + error).error is not None
    assert case.record["status"] == 200
    assert case.record["error"] in ("api_error", "timeout_error")


def test_too_much_after_content_is_one_error_event() -> None:
    exchange, case = native([head(), data(STREAM[:FIRST]), data(b": x\n\n" * 2**18)])
    assert exchange.is_ended
    assert exchange.reply.count(b"event: error\n") == 1
    assert b"\n\nevent: error\n" in exchange.reply
    assert (case.record["status"], case.record["error"]) == (200, "api_error")


@pytest.mark.parametrize("size", [1, 2])
def test_an_end_without_an_empty_line_is_given_one(size: int) -> None:
    exchange, case = native([head(), data(STREAM[:-size]), end()])
    assert exchange.reply == RENAMED[:-size] + b"\n\n"
    assert (case.record["stop_reason"], case.record["error"]) == ("end_turn", "")


@pytest.mark.parametrize("model", ["m", "real-m"])
@pytest.mark.parametrize("body", [b"nonsense", b"<html>" * 20_000, b": x\n\n" * 20_000])
def test_a_stream_that_does_not_begin_as_one_is_a_status(model: str, body: bytes) -> None:
    async def main() -> None:
        case = AppCase({"native": [[head(content_type="text/plain"), data(body), end()]]})
        case.messages._routes._routes["real-m"] = case.messages._routes._routes["m"]
        exchange = await case.ask(ASK | {"model": model, "stream": True})
        assert (exchange.status, error_of(exchange)["type"]) == (502, "api_error")

    run(main())


# -- waiting


def test_while_it_waits_it_comments() -> None:
    script = [0.15, *native_saying(True)]
    exchange, _ = native(script, early_start_s=0.02, ping_interval_s=0.03)
    assert exchange.written[0] == b": waiting for the model\n\n"
    assert exchange.reply.count(b": waiting") >= 2
    at = exchange.reply.index(b"event: message_start")
    assert check_stream(exchange.reply[at:]).text == "Hello"


@pytest.mark.parametrize("after", [0, 7, 40])  # of an event, bytes that have come already
def test_pings_come_only_between_its_events(after: int) -> None:
    cut = FIRST + after
    script = [head(), data(STREAM[:cut]), 0.2, data(STREAM[cut:]), end()]
    exchange, _ = native(script, ping_interval_s=0.05)
    ping = b'event: ping\ndata: {"type":"ping"}\n\n'
    before, *rest = exchange.reply.split(ping)
    assert rest
    assert before.endswith((b"\n\n", b"\n\r\n"))
    assert before + b"".join(rest) == RENAMED


def test_after_an_early_start_a_failure_is_an_event() -> None:
    exchange, case = native([0.1, *replying(400, json.dumps(ERROR))], early_start_s=0.02)
    exchange.written = [w.lstrip(b"\n") for w in exchange.written if not w.startswith(b": ")]
    assert error_in(exchange)["type"] == "invalid_request_error"
    assert case.record["attempts"] == 1
    exchange, case = native(
        [0.1, *failing(GONE)], failing(GONE), native_saying(True), early_start_s=0.02
    )
    assert exchange.reply.endswith(sse({"type": "message_stop"}))
    assert case.record["attempts"] == 3
