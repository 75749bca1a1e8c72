"""POST /v1/messages on scripted upstreams: translated replies, and what is none."""

import asyncio

import pytest

from dragoman.core.errors import UpstreamProtocolError
from support.app_case import (
    ASK,
    DONE,
    GONE,
    HTML,
    KEY,
    LATE,
    RESET,
    WHOLE,
    AppCase,
    Script,
    both_ways,
    calling,
    chunk,
    deliver,
    error_in,
    error_of,
    exchange_of,
    failing,
    message_of,
    refusing,
    replying,
    run,
    saying,
    usage,
)
from support.fakes import FakeUpstream, data, end, fail, head
from support.sse_grammar import check_stream

pytestmark = pytest.mark.usefixtures("quick_retries")


# -- replies


@both_ways
def test_a_reply(is_stream: bool) -> None:
    exchange, case = deliver([saying("Hello", prompt=7, output=4)], is_stream=is_stream)
    message = message_of(exchange)
    assert (message.text, message.stop_reason, message.model) == ("Hello", "end_turn", "m")
    assert (message.usage["input_tokens"], message.usage["output_tokens"]) == (7, 4)
    (sent,) = case.sent()
    assert (sent["model"], sent["stream"], sent["max_tokens"]) == ("real-m", True, 50)
    (request,) = case.upstreams["lab"].requests
    assert (request.path, request.method, request.at_root) == ("/chat/completions", "POST", False)


@both_ways
def test_nothing_of_the_client_s_headers_goes_to_a_chat_upstream(is_stream: bool) -> None:
    headers = {b"x-api-key": b"theirs", b"anthropic-beta": b"b", b"anthropic-version": b"v"}
    _, case = deliver([saying("x")], is_stream=is_stream, headers=headers)
    assert not case.upstreams["lab"].requests[0].headers


@both_ways
def test_thinking_and_calls(is_stream: bool) -> None:
    script = [
        head(),
        data(chunk(reasoning_content="Hm.")),
        *calling("get", '{"q": 1}', text="I look.")[1:],
    ]
    tools = [{"name": "get", "input_schema": {"type": "object"}}]
    thinking = {"type": "enabled", "budget_tokens": 1024}
    exchange, _ = deliver(
        [script], body=ASK | {"tools": tools, "thinking": thinking}, is_stream=is_stream
    )
    message = message_of(exchange)
    assert [b["type"] for b in message.content] == ["thinking", "text", "tool_use"]
    assert message.tool_uses[0]["input"] == {"q": 1}
    assert message.stop_reason == "tool_use"


BODIES: dict[str, Script] = {
    "JSON": replying(200, WHOLE),
    "JSON without a type": [head(content_type=""), data(WHOLE.encode()), end()],
    "JSON as an event stream": replying(200, WHOLE, content_type="text/event-stream"),
    "JSON as octets": replying(200, WHOLE, content_type="application/octet-stream"),
    "JSON after signs of life": [
        head(content_type="application/json"),
        data(b"\n"),
        data(b"\n\n"),
        data(b""),
        data(b" " + WHOLE.encode()),
        end(),
    ],
    "JSON byte by byte": [
        head(content_type="application/json"),
        *(data(bytes([byte])) for byte in WHOLE.encode()),
        end(),
    ],
    "events as JSON": [head(content_type="application/json"), *saying("Hello")[1:]],
    "events without a type": [head(content_type=""), *saying("Hello")[1:]],
    "events after signs of life": [
        head(),
        data(b"\n\n"),
        data(b": wait\n\n"),
        *saying("Hello")[1:],
    ],
    "events with a byte-order mark": [head(), data(b"\xef\xbb\xbf"), *saying("Hello")[1:]],
    "events without an end": [head(), data(chunk(content="Hello")), data(chunk("stop") + DONE)],
    "events without [DONE]": [
        head(),
        data(chunk(content="Hello") + chunk("stop") + usage(3, 2)),
        end(),
    ],
    "a reset after the finish": [
        head(),
        data(chunk(content="Hello") + chunk("stop")),
        fail(RESET),
    ],
}


@both_ways
@pytest.mark.parametrize("script", BODIES.values(), ids=BODIES)
def test_a_body_is_read_as_what_it_is(script: Script, is_stream: bool) -> None:
    exchange, case = deliver([script], is_stream=is_stream)
    message = message_of(exchange)
    assert (message.text, message.stop_reason) == ("Hello", "end_turn")
    assert case.record["attempts"] == 1


# -- replies that are none

NONE: dict[str, tuple[Script, int, str]] = {
    "a web page": (replying(200, HTML, content_type="text/html; charset=utf-8"), 502, "web page"),
    "a web page as JSON": (replying(200, HTML), 502, "before it was done"),
    "an empty JSON": ([head(content_type="application/json"), end()], 502, "before it was done"),
    "empty events": ([head(), end()], 502, "before it was done"),
    "blank lines": ([head(), data(b"\n\n"), end()], 502, "before it was done"),
    "comments": ([head(), data(b": wait\n\n"), end()], 502, "before it was done"),
    "[DONE] alone": ([head(), data(DONE), end()], 502, "without any choice"),
    "no choices": (replying(200, '{"choices":[]}'), 502, "without any choice"),
    "an empty object": (replying(200, "{}"), 502, "without any choice"),
    "a list": (replying(200, "[]"), 502, "not a chat completion"),
    "null": (replying(200, "null"), 502, "before it was done"),
    "a string": (replying(200, '"Hello"'), 502, "before it was done"),
    "JSON cut short": (replying(200, WHOLE[:-20]), 502, "not a chat completion"),
    "garbage": ([head(), data(b"data: {nonsense\n\n"), end()], 502, "not a chat completion"),
    "too much JSON": (
        [head(content_type="application/json"), data(b"{" + b" " * 2**20), end()],
        502,
        "too large",
    ),
    "too many blanks": (
        [head(content_type="application/json"), *[data(b" " * 2**18)] * 5, end()],
        502,
        "over",
    ),
    "too long a line": ([head(), data(b"data: " + b"x" * 2**18), end()], 502, "over"),
    "too much of a stream": ([head(), *[data(b": x\n\n" * 2**16)] * 5, end()], 502, "over"),
    "a whole error with status 200": (
        replying(200, '{"error":{"message":"boom"}}'),
        502,
        "failed: boom",
    ),
    "an error in the stream": (
        [head(), data(b'data: {"error":{"message":"boom","code":500}}\n\n'), end()],
        502,
        "failed: boom",
    ),
    "accepted": (replying(202, "{}"), 502, "unexpected status (202)"),
    "a redirect": (replying(307, "", location="http://10.0.0.1/"), 502, "unexpected status (307)"),
    "no content": ([head(204), end()], 502, "unexpected status (204)"),
    "an error as events": (refusing(400, "boom", content_type="text/event-stream"), 400, "boom"),
    "an error as a web page": (replying(500, HTML, content_type="text/html"), 502, "HTTP 500"),
    "an error without a body": ([head(500), end()], 502, "HTTP 500"),
    "an endless error": ([head(500), *[data(b"x" * 2**18)] * 8, end()], 502, "HTTP 500"),
    "an error cut off": ([head(400), data(b'{"error":'), fail(RESET)], 400, "HTTP 400"),
    "a late error": ([head(), fail(LATE)], 504, "silent"),
    "no answer in time": (failing(LATE), 504, "silent"),
    "a broken protocol": (failing(UpstreamProtocolError("no HTTP")), 502, "no HTTP"),
}


@both_ways
@pytest.mark.parametrize(("script", "status", "message"), NONE.values(), ids=NONE)
def test_what_is_no_reply_is_an_error(
    script: Script, status: int, message: str, is_stream: bool
) -> None:
    exchange, case = deliver([script], is_stream=is_stream)
    error = error_of(exchange)
    assert exchange.status == status
    assert message in error["message"]
    assert case.record["status"] == status
    assert case.record["error"] == error["type"]
    assert case.record["attempts"] == 1
    assert b"10.0.0.1" not in exchange.reply
    assert b"doctype" not in exchange.reply


BROKEN: dict[str, Script] = {
    "reset": [head(), data(chunk(content="Hel")), fail(RESET)],
    "time-out": [head(), data(chunk(content="Hel")), fail(LATE)],
    "end": [head(), data(chunk(content="Hel")), end()],
    "end inside an event": [head(), data(chunk(content="Hel") + b'data: {"choi'), end()],
    "garbage": [head(), data(chunk(content="Hel")), data(b"data: {nonsense\n\n")],
    "error": [head(), data(chunk(content="Hel")), data(b'data: {"error":{"message":"x"}}\n\n')],
    "unknown finish": [head(), data(chunk(content="Hel")), data(chunk("sideways"))],
    "too much": [head(), data(chunk(content="Hel")), data(b": x\n\n" * 2**18)],
    "inside a call": [*calling("get", '{"q":')[:1], data(chunk(content="x")), fail(RESET)],
}


@pytest.mark.parametrize("script", BROKEN.values(), ids=BROKEN)
def test_a_break_after_content_is_one_error_event(script: Script) -> None:
    exchange, case = deliver({"lab": [script], "other": []})
    error = error_in(exchange)
    assert (case.record["status"], case.record["error"]) == (200, error["type"])
    assert case.record["attempts"] == 1
    assert check_stream(exchange.reply).events[2]["delta"]["text"] in ("Hel", "x")


@pytest.mark.parametrize("script", BROKEN.values(), ids=BROKEN)
def test_a_whole_reply_that_breaks_is_asked_of_the_next(script: Script) -> None:
    exchange, case = deliver({"lab": [script], "other": [saying("Hello")]}, is_stream=False)
    assert message_of(exchange).text == "Hello"
    assert (case.record["upstream"], case.record["attempts"]) == ("other", 2)


# -- fewer tokens

TOO_MANY = (
    "max_tokens: 5000 > 4096, which is the maximum allowed number of output tokens for this model"
)


@both_ways
@pytest.mark.parametrize(
    "refusal",
    [
        refusing(400, TOO_MANY),
        [head(), data(b'data: {"error":{"code":400,"message":"%b"}}\n\n' % TOO_MANY.encode())],
    ],
    ids=["status", "event"],
)
def test_too_many_tokens_are_asked_for_once_more_with_fewer(
    refusal: Script, is_stream: bool
) -> None:
    exchange, case = deliver(
        [refusal, saying("Hello")], body=ASK | {"max_tokens": 5000}, is_stream=is_stream
    )
    assert message_of(exchange).text == "Hello"
    assert [sent["max_tokens"] for sent in case.sent()] == [5000, 4095]
    assert b"max_tokens;action=clamped" in exchange.reply_headers[b"x-dragoman-adjustments"]
    assert case.events[0]["then"] == "fewer tokens"


@both_ways
def test_but_only_once(is_stream: bool) -> None:
    exchange, case = deliver(
        {"lab": [refusing(400, TOO_MANY)] * 2, "other": []},
        body=ASK | {"max_tokens": 5000},
        is_stream=is_stream,
    )
    error = error_of(exchange)
    assert (exchange.status, error["type"]) == (400, "invalid_request_error")
    assert error["message"] == TOO_MANY
    assert case.record["attempts"] == 2


def test_nor_after_content() -> None:
    refusal = b'data: {"error":{"code":400,"message":"%b"}}\n\n' % TOO_MANY.encode()
    script = [head(), data(chunk(content="Hel")), data(refusal), end()]
    exchange, case = deliver({"lab": [script], "other": []}, body=ASK | {"max_tokens": 5000})
    assert error_in(exchange)["message"] == TOO_MANY
    assert case.record["attempts"] == 1


def test_fewer_tokens_are_asked_for_as_often_as_any() -> None:
    exchange, case = deliver(
        [refusing(400, TOO_MANY), failing(GONE), refusing(503), saying("Hello")],
        body=ASK | {"max_tokens": 5000},
    )
    assert message_of(exchange).text == "Hello"
    assert [sent["max_tokens"] for sent in case.sent()] == [5000, 4095, 4095, 4095]


@both_ways
def test_the_estimate_is_compared_with_the_count(is_stream: bool) -> None:
    body = ASK | {"system": "word " * 1000}

    async def main() -> None:
        case = AppCase({"lab": [saying("Hello", prompt=1600, output=4)] * 9})
        for _ in range(9):
            message_of(await case.ask(body | {"stream": is_stream}))
        errors = [record["estimate_error_pct"] for record in case.records]
        assert all(-50 < error < -30 for error in errors[:8])  # about 1000 were estimated
        assert abs(errors[8]) <= 0.1
        await case.close()

    run(main())


@both_ways
def test_what_nobody_counted_is_not_compared(is_stream: bool) -> None:
    script = [head(), data(chunk(content="H") + chunk("stop") + DONE), end()]
    _, case = deliver([script], is_stream=is_stream)
    assert "estimate_error_pct" not in case.record


@both_ways
def test_no_tokens_at_all_warm_the_cache(is_stream: bool) -> None:
    script = [head(), data(chunk(content="H") + chunk("length") + usage(9, 1) + DONE), end()]
    exchange, case = deliver([script], body=ASK | {"max_tokens": 0}, is_stream=is_stream)
    message = message_of(exchange)
    assert (message.content, message.stop_reason) == ([], "max_tokens")
    assert message.usage["input_tokens"] == 9
    assert case.sent()[0]["max_tokens"] == 1
    assert b"max_tokens;action=emulated" in exchange.reply_headers[b"x-dragoman-adjustments"]


# -- too long, unpaid, unsafe


@both_ways
def test_an_overflow_makes_clients_compact(is_stream: bool) -> None:
    said = "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens"
    exchange, _ = deliver({"lab": [refusing(400, said)], "other": []}, is_stream=is_stream)
    error = error_of(exchange)
    assert (exchange.status, error["type"]) == (400, "invalid_request_error")
    assert error["message"] == "prompt is too long: 5000 tokens > 4096 maximum"


@both_ways
@pytest.mark.parametrize("status", [401, 402, 403])
def test_our_own_refused_credential_is_nothing_a_client_can_repair(
    status: int, is_stream: bool
) -> None:
    said = f"The key {KEY} of org-1234 at https://internal.example/v1 was revoked"
    exchange, case = deliver([refusing(status, said)], is_stream=is_stream)
    error = error_of(exchange)
    assert (exchange.status, error["type"]) == (502, "api_error")
    assert exchange.reply_headers[b"x-should-retry"] == b"false"
    for detail in (KEY, "org-1234", "internal.example", "revoked"):
        assert detail not in error["message"]
    assert "org-1234" in case.record["detail"]
    assert KEY not in case.log_text.getvalue()
    assert "internal.example" not in case.log_text.getvalue()


@both_ways
def test_a_refusal_inside_a_stream_is_a_refusal(is_stream: bool) -> None:
    refusal = b'data: {"error":{"code":"data_inspection_failed","message":"unsafe"}}\n\n'
    exchange, _ = deliver([[head(), data(chunk(content="H") + refusal)]], is_stream=is_stream)
    assert message_of(exchange).stop_reason == "refusal"


# -- server tools


async def called(upstream: FakeUpstream) -> None:
    """Wait until the first call has been made."""
    async with asyncio.timeout(10):
        while not upstream.calls:  # noqa: ASYNC110 - the fake has no event to wait for
            await asyncio.sleep(0)


SEARCH = {"tools": [{"type": "web_search_20250305", "name": "web_search", "max_uses": 8}]}


@both_ways
def test_the_model_goes_on_after_a_server_tool(is_stream: bool) -> None:
    exchange, case = deliver(
        [
            calling("web_search", '{"query":"x"}', text="I search."),
            saying("Nothing found.", prompt=20, output=7),
        ],
        body=ASK | SEARCH,
        is_stream=is_stream,
    )
    message = message_of(exchange)
    kinds = ["text", "server_tool_use", "web_search_tool_result", "text"]
    assert [block["type"] for block in message.content] == kinds
    assert message.content[2]["content"] == {
        "type": "web_search_tool_result_error",
        "error_code": "unavailable",
    }
    assert message.text == "I search.Nothing found."
    assert message.stop_reason == "end_turn"
    assert (message.usage["input_tokens"], message.usage["output_tokens"]) == (30, 12)
    assert (case.record["input_tokens"], case.record["attempts"]) == (30, 2)
    second = case.sent()[1]
    assert "tools" not in second
    assert second["messages"][-1]["role"] == "tool"
    assert "unavailable" in second["messages"][-1]["content"]
    assert b"web_search" in exchange.reply_headers[b"x-dragoman-adjustments"]


def test_a_failure_of_the_second_round_is_an_event() -> None:
    exchange, case = deliver(
        {"lab": [calling("web_search", "{}"), failing(GONE)], "other": []}, body=ASK | SEARCH
    )
    assert error_in(exchange)["type"] == "api_error"
    assert case.record["attempts"] == 2


def test_a_whole_reply_whose_second_round_fails_is_asked_of_the_next() -> None:
    exchange, case = deliver(
        {"lab": [calling("web_search", "{}"), refusing(500)], "other": [saying("Hello")]},
        body=ASK | SEARCH,
        is_stream=False,
    )
    message = message_of(exchange)
    assert [block["type"] for block in message.content] == ["text"]
    assert message.usage["input_tokens"] == 3
    assert case.record["upstream"] == "other"


def test_a_second_round_may_be_too_long_for_its_tokens() -> None:
    exchange, case = deliver(
        [
            calling("web_search", "{}"),
            refusing(400, TOO_MANY),
            calling("web_search", "{}"),
            saying("x"),
        ],
        body=ASK | SEARCH | {"max_tokens": 5000},
        is_stream=False,
    )
    assert message_of(exchange).text == "x"
    assert [sent["max_tokens"] for sent in case.sent()] == [5000, 5000, 4095, 4095]


def test_a_slow_client_holds_the_second_round_up_as_well() -> None:
    async def main() -> None:
        case = AppCase({"lab": [calling("web_search", "{}"), [head(), 0.1, *saying("Hello")[1:]]]})
        exchange = exchange_of(ASK | SEARCH | {"stream": True})
        task = asyncio.create_task(case.app.handle(exchange))
        await called(case.upstreams["lab"])
        exchange.pause()
        await asyncio.sleep(0.05)
        first, second = case.upstreams["lab"].calls
        assert first.events == ["pause"]
        assert second.events == ["pause"]
        exchange.resume()
        await task
        assert second.events == ["pause", "resume"]
        assert message_of(exchange).text == "Hello"

    run(main())
