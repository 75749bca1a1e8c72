"""POST /v1/messages/count_tokens: counted by the upstream or estimated, and never billed."""

import asyncio
import json
from typing import Any

import pytest

from dragoman.core.errors import UpstreamProtocolError
from dragoman.server.count_tokens import read_count
from dragoman.server.transport.ask import Answer
from dragoman.server.transport.seams import Timeouts
from support.app_case import (
    ASK,
    GONE,
    LATE,
    AppCase,
    Script,
    error_of,
    exchange_of,
    failing,
    refusing,
    replying,
    run,
)
from support.fakes import FakeExchange, data, end, head

PATH = "/v1/messages/count_tokens"
ASKED = {k: v for k, v in ASK.items() if k != "max_tokens"} | {
    "system": "Be kind.",
    "tools": [{"name": "get", "input_schema": {"type": "object"}}],
}
# Of each kind of counter: the facts that name it, where it is asked, and its answer.
COUNTERS: dict[str, tuple[dict[str, Any], str, bool, str]] = {
    "llamacpp": (
        {"count_tokens": "llamacpp"},
        "/chat/completions/input_tokens",
        False,
        '{"input_tokens":42,"object":"response.input_tokens"}',
    ),
    "vllm": (
        {"count_tokens": "vllm"},
        "/tokenize",
        True,
        '{"count":42,"max_model_len":131072,"tokens":[1,2,3],"token_strs":null}',
    ),
    "sglang": (
        {"count_tokens": "sglang"},
        "/v1/messages/count_tokens",
        True,
        '{"input_tokens":42}',
    ),
    "moonshot": (
        {"count_tokens": "moonshot"},
        "/tokenizers/estimate-token-count",
        False,
        '{"code":0,"data":{"total_tokens":42},"scode":"0x0","status":true}',
    ),
    "native": ({}, "/v1/messages/count_tokens", False, '{"input_tokens":42}'),
}
every_counter = pytest.mark.parametrize("counter", COUNTERS)


def count(
    counter: str,
    script: Script | None,
    body: Any = ASKED,
    /,
    headers: dict[bytes, bytes] | None = None,
    **case: Any,
) -> tuple[FakeExchange, AppCase]:
    """Return the reply to one count, and the case; there is nothing to fall back on."""
    name = "native" if counter == "native" else "lab"
    facts = COUNTERS[counter][0] if counter in COUNTERS else {"count_tokens": counter}
    profile = facts | case.pop("profile", {})

    async def main() -> tuple[FakeExchange, AppCase]:
        scripts = {name: [script] if script else [], "other": []}
        made = AppCase(scripts, profile=profile, **case)
        exchange = await made.ask(body, path=PATH, headers=headers)
        await made.close()
        return exchange, made

    return run(main())


def tokens_of(exchange: FakeExchange) -> int:
    assert exchange.status == 200, exchange.reply
    assert exchange.is_ended
    assert int(exchange.reply_headers[b"content-length"]) == len(exchange.reply)
    answer = json.loads(exchange.reply)
    assert set(answer) == {"input_tokens"}
    count: int = answer["input_tokens"]
    return count


def is_estimate(exchange: FakeExchange) -> bool:
    said = exchange.reply_headers.get(b"x-dragoman-adjustments", b"")
    return b"input_tokens;action=emulated" in said


# -- counted


@every_counter
def test_an_upstream_that_can_count_is_asked(counter: str) -> None:
    _, path, at_root, answer = COUNTERS[counter]
    exchange, case = count(counter, replying(200, answer))
    assert tokens_of(exchange) == 42
    assert not is_estimate(exchange)
    name = "native" if counter == "native" else "lab"
    (request,) = case.upstreams[name].requests
    assert (request.path, request.at_root, request.method) == (path, at_root, "POST")
    assert request.timeouts.first_byte_s <= 10
    assert 0 < request.max_body_bytes <= 64 * 2**20
    record = case.record
    assert (record["status"], record["upstream"], record["upstream_model"]) == (200, name, "real-m")
    assert (record["model"], record["path"]) == ("m", PATH)


def sent(counter: str, **case: Any) -> dict[str, Any]:
    _, made = count(counter, replying(200, COUNTERS[counter][3]), **case)
    body: dict[str, Any] = made.sent("native" if counter == "native" else "lab")[0]
    return body


def test_llama_cpp_gets_the_whole_request() -> None:
    body = sent("llamacpp")
    assert (body["model"], body["messages"][0]["role"]) == ("real-m", "system")
    assert [tool["function"]["name"] for tool in body["tools"]] == ["get"]


def test_vllm_gets_what_its_template_reads() -> None:
    body = sent(
        "vllm", profile={"thinking": "toggle", "thinking_switch": "template_enable_thinking"}
    )
    assert set(body) == {
        *("model", "messages", "tools", "chat_template_kwargs", "add_generation_prompt")
    }
    assert body["add_generation_prompt"] is True


def test_moonshot_gets_the_messages() -> None:
    assert set(sent("moonshot")) == {"model", "messages"}


@pytest.mark.parametrize("counter", ["sglang", "native"])
def test_those_that_speak_the_api_get_the_request_itself(counter: str) -> None:
    body = sent(counter)
    assert body == {**ASKED, "model": "real-m"}


@pytest.mark.parametrize("counter", ["sglang", "native"])
def test_safeguards_are_not_counted_for_strangers(counter: str) -> None:
    asked = ASKED | {"safeguards": [{"path": "PRIVATE"}]}
    exchange, case = count(counter, replying(200, '{"input_tokens":42}'), asked)
    assert tokens_of(exchange) == 42
    assert "PRIVATE" not in json.dumps(case.sent("native" if counter == "native" else "lab"))
    assert b"safeguards;action=dropped" in exchange.reply_headers[b"x-dragoman-adjustments"]


def test_versions_and_betas_go_to_native_upstreams_and_no_credential() -> None:
    headers = {b"anthropic-beta": b"b", b"x-api-key": b"theirs", b"authorization": b"Bearer x"}
    _, case = count("native", replying(200, '{"input_tokens":42}'), headers=headers)
    (request,) = case.upstreams["native"].requests
    assert dict(request.headers) == {b"anthropic-version": b"2023-06-01", b"anthropic-beta": b"b"}
    _, case = count("sglang", replying(200, '{"input_tokens":42}'), headers=headers)
    assert not case.upstreams["lab"].requests[0].headers


@pytest.mark.parametrize("max_tokens", [None, 0, 5, 10**6])
def test_how_long_the_answer_may_be_is_no_matter(max_tokens: int | None) -> None:
    asked = ASKED if max_tokens is None else ASKED | {"max_tokens": max_tokens}
    profile = {"context_window": 8192, "max_output_tokens": 100}
    exchange, _ = count("vllm", replying(200, '{"count":42}'), asked, profile=profile)
    assert tokens_of(exchange) == 42
    assert b"max_tokens" not in exchange.reply_headers.get(b"x-dragoman-adjustments", b"")


# -- estimated

FAILURES: dict[str, Script] = {
    "no connection": failing(GONE),
    "time-out": failing(LATE),
    "no HTTP": failing(UpstreamProtocolError("x")),
    "not found": refusing(404),
    "refused": refusing(400),
    "our key": refusing(401),
    "failed": refusing(500),
    "limited": refusing(429, "x", retry_after="1"),
    "web page": replying(200, "<html>", content_type="text/html"),
    "nothing": [head(content_type="application/json"), end()],
    "a list": replying(200, "[42]"),
    "null": replying(200, "null"),
    "no count": replying(200, "{}"),
    "zero": replying(200, '{"input_tokens":0,"count":0,"data":{"total_tokens":0}}'),
    "below zero": replying(200, '{"input_tokens":-3,"count":-3}'),
    "text": replying(200, '{"input_tokens":"42","count":"42"}'),
    "true": replying(200, '{"input_tokens":true,"count":true}'),
    "huge": replying(200, '{"input_tokens":%s,"count":%s}' % (("9" * 40,) * 2)),
    "cut short": replying(200, '{"input_tokens":42'),
    "deep": replying(200, '{"x":' + "[" * 100_000),
    "invalid UTF-8": replying(200, b'{"input_tokens":42,"x":"\xff"'),
    "another status": replying(202, '{"input_tokens":42,"count":42}'),
}


@every_counter
@pytest.mark.parametrize("script", FAILURES.values(), ids=FAILURES)
def test_a_failure_to_count_is_an_estimate_that_says_so(counter: str, script: Script) -> None:
    exchange, case = count(counter, script)
    assert 10 < tokens_of(exchange) < 200
    assert is_estimate(exchange)
    assert any(a.startswith("input_tokens emulated") for a in case.record["adjustments"])
    assert (case.record["status"], case.record["error"]) == (200, "")
    calls = [request.path for u in case.upstreams.values() for request in u.requests]
    assert len(calls) == 1
    assert not calls[0].endswith(("/chat/completions", "/v1/messages"))


def test_an_upstream_that_cannot_count_is_not_asked() -> None:
    exchange, case = count("none", None)
    assert 10 < tokens_of(exchange) < 200
    assert is_estimate(exchange)
    assert case.sent("lab") == []


def test_an_estimate_grows_with_the_prompt() -> None:
    short, _ = count("none", None)
    tools = [{"name": f"t{n}", "input_schema": {"type": "object"}} for n in range(20)]
    long, _ = count("none", None, ASKED | {"tools": tools, "system": "word " * 1000})
    assert tokens_of(long) > tokens_of(short) + 1000


def test_pictures_are_not_counted_as_text_for_native_upstreams() -> None:
    source = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo" + "A" * 400_000}
    image = {"type": "image", "source": source}
    asked = ASKED | {"messages": [{"role": "user", "content": [image]}]}
    exchange, _ = count("native", refusing(500), asked, profile={"sees_images": True})
    assert tokens_of(exchange) < 10_000


def test_what_only_a_native_upstream_knows_is_estimated_as_it_is() -> None:
    image = {"type": "image", "source": {"type": "file", "file_id": "f"}}
    asked = ASKED | {"messages": [{"role": "user", "content": [image]}]}
    exchange, _ = count("native", refusing(500), asked)
    assert tokens_of(exchange) > 10
    assert is_estimate(exchange)


# -- counted or calibrated here


def words(text: str) -> int:
    return len(text.split())


def test_a_local_tokenizer_counts_what_the_upstream_does_not() -> None:
    asked = ASKED | {"system": "word " * 1000}
    profile = {"vocabulary": "qwen", "tool_preamble_tokens": 50, "tool_tokens_factor": 2}
    exchange, case = count("none", None, asked, profile=profile, tokenizers={"qwen": lambda: words})
    # System prompt and question; the tool is one word of JSON, twice; and what the template adds.
    assert tokens_of(exchange) == 1000 + 1 + 2 + (6 + 2 * 4 + 50 + 4)
    assert is_estimate(exchange)
    assert b"counted by a local tokenizer" in exchange.reply_headers[b"x-dragoman-adjustments"]
    assert case.sent("lab") == []


def test_the_upstream_is_asked_before_a_local_tokenizer() -> None:
    answer = replying(200, COUNTERS["vllm"][3])
    loaded: list[int] = []
    exchange, _ = count(
        "vllm",
        answer,
        profile={"vocabulary": "qwen"},
        tokenizers={"qwen": lambda: loaded.append(1)},
    )
    assert (tokens_of(exchange), loaded) == (42, [])


def test_the_missing_extra_is_named_where_it_would_count() -> None:
    for vocabulary, is_named in (("qwen", True), ("unknown", False)):
        exchange, _ = count("none", None, profile={"vocabulary": vocabulary})
        said = exchange.reply_headers[b"x-dragoman-adjustments"]
        assert (b"dragoman[tokenizers]" in said) is is_named


def test_an_estimate_says_whether_its_rates_were_measured() -> None:
    for vocabulary, is_said in (("unknown", True), ("qwen", False)):
        exchange, _ = count("none", None, profile={"vocabulary": vocabulary})
        said = exchange.reply_headers[b"x-dragoman-adjustments"]
        assert (b"unmeasured" in said) is is_said


def test_counts_of_the_upstream_calibrate_estimates() -> None:
    async def main() -> None:
        asked = ASKED | {"system": "word " * 1000}
        case = AppCase(
            {"lab": [replying(200, '{"count":1900}')] * 8 + [refusing(500)]},
            profile={"count_tokens": "vllm"},
        )
        for _ in range(8):
            assert tokens_of(await case.ask(asked, path=PATH)) == 1900
        exchange = await case.ask(asked, path=PATH)
        assert tokens_of(exchange) == pytest.approx(1900, abs=2)
        said = exchange.reply_headers[b"x-dragoman-adjustments"]
        assert b"estimated and calibrated" in said
        await case.close()

    run(main())


# -- refused


@every_counter
def test_bad_requests_are_refused_before_anybody_is_asked(counter: str) -> None:
    for body, status in (
        (b"{", 400),
        (b"", 400),
        (ASKED | {"messages": []}, 400),
        (ASKED | {"model": "absent"}, 404),
    ):
        exchange, case = count(counter, None, body)
        assert exchange.status == status
        error_of(exchange)
        assert case.record["status"] == status


@every_counter
def test_links_into_the_network_are_refused_here_as_well(counter: str) -> None:
    image = {"type": "image", "source": {"type": "url", "url": "http://10.0.0.1/x.png"}}
    asked = ASKED | {"messages": [{"role": "user", "content": [image]}]}
    exchange, _ = count(counter, None, asked, profile={"sees_images": True})
    assert exchange.status == 400
    assert error_of(exchange)["message"].startswith("messages.0.content.0.source.url: ")


# -- clients that leave, upstreams that dawdle


@every_counter
@pytest.mark.parametrize("before", [[], [head(), data(b'{"input')]], ids=["at once", "inside"])
def test_leaving_aborts_the_call(counter: str, before: Script) -> None:
    async def main() -> None:
        name = "native" if counter == "native" else "lab"
        case = AppCase({name: [[*before, 60.0]]}, profile=COUNTERS[counter][0])
        exchange = exchange_of(ASKED, path=PATH)
        asyncio.get_running_loop().call_later(0.05, exchange.leave)
        async with asyncio.timeout(5):
            await case.app.handle(exchange)
        assert case.upstreams[name].calls[0].events == ["abort"]
        assert (exchange.status, exchange.written) == (0, [])
        assert (case.record["status"], case.record["error"]) == (499, "client_gone")

    run(main())


def test_an_upstream_that_trickles_is_not_waited_for(monkeypatch) -> None:
    short = Timeouts(connect_s=0.02, first_byte_s=0.02, idle_s=0.02)
    monkeypatch.setattr("dragoman.server.count_tokens._TIMEOUTS", short)

    async def main() -> None:
        case = AppCase(
            {"lab": [[head(), *([data(b" "), 0.01] * 1000)]]}, profile={"count_tokens": "vllm"}
        )
        exchange = await case.ask(ASKED, path=PATH)
        assert is_estimate(exchange)
        assert case.upstreams["lab"].calls[0].is_over

    run(main())


# -- the answers themselves


@pytest.mark.parametrize(
    ("body", "tokens"),
    [
        ('{"input_tokens":7}', 7),
        ('{"count":7,"tokens":[1,2]}', 7),
        ('{"data":{"total_tokens":7}}', 7),
        ('{"data":[]}', None),
        ('{"data":{"total_tokens":7},"input_tokens":null}', 7),
    ],
)
def test_read_count(body: str, tokens: int | None) -> None:
    assert read_count(Answer(200, {}, body.encode())) == tokens
