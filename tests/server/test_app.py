"""Paths, callers, limits, crashes, and the one log line of each request."""

import asyncio
import json
import re
from typing import Any

import pytest

import dragoman
from dragoman.core.errors import InvalidRequest, RequestTooLarge, UpstreamUnavailable
from dragoman.server.transport.seams import ClientGone
from support.app_case import (
    ASK,
    AppCase,
    calling,
    error_of,
    exchange_of,
    failing,
    message_of,
    refusing,
    run,
    saying,
)
from support.fakes import FakeExchange
from support.sse_grammar import check_error

KEYS = [("ada", "key-of-ada"), ("bob", "key-of-bob")]


def answer(
    body: Any = None, /, *scripts: Any, keys: Any = (), **request: Any
) -> tuple[FakeExchange, AppCase]:
    """Return the reply to one request, and the case that gave it."""

    async def main() -> tuple[FakeExchange, AppCase]:
        case = AppCase({"lab": scripts}, keys=keys)
        return await case.ask(body, **request), case

    return run(main())


def check_heads(exchange: FakeExchange, case: AppCase) -> None:
    """Hold what stands in every answer."""
    request_id = exchange.reply_headers[b"request-id"].decode()
    assert re.fullmatch("req_[0-9a-f]{24}", request_id)
    assert exchange.reply_headers[b"x-dragoman-version"] == dragoman.__version__.encode()
    for record in case.records:
        assert record["request_id"] == request_id
        assert record["status"] == exchange.status


# -- where things are

FOUND = {
    ("POST", "/v1/messages"): saying("Hello"),
    ("POST", "/v1/messages/"): saying("Hello"),
    ("POST", "//v1/messages"): saying("Hello"),
    ("POST", "/v1/v1/messages"): saying("Hello"),
    ("POST", "/v1//v1/messages"): saying("Hello"),
    ("POST", "/v1/v1/v1/messages/count_tokens"): None,
    ("POST", "/v1/messages/count_tokens"): None,
    ("GET", "/v1/models"): None,
    ("HEAD", "/v1/models/"): None,
    ("GET", "/v1/v1/models"): None,
    ("GET", "/v1/models//"): None,
    ("GET", "/v1/models/m"): None,
    ("GET", "/v1/v1/models/claude-m"): None,
    ("GET", "/v1/models/claude-opus-5[1m]"): None,
    ("GET", "/healthz"): None,
    ("HEAD", "/healthz"): None,
    ("GET", "/v1/healthz"): None,
    ("GET", "/"): None,
    ("HEAD", "/"): None,
    ("GET", "//"): None,
    ("GET", "/v1"): None,
    ("HEAD", "/v1/"): None,
    ("GET", "/api/hello"): None,
    ("HEAD", "/api/hello"): None,
    ("HEAD", "/v1/api/hello"): None,
    ("GET", "/v1/v1/api/hello"): None,
}


@pytest.mark.parametrize(("method", "path"), FOUND)
@pytest.mark.parametrize("query", ["", "beta=true", "%ff=1&&=&a"])
def test_what_is_served(method: str, path: str, query: str) -> None:
    script = FOUND[method, path]
    exchange, case = answer(
        None, *([script] if script else []), method=method, path=path, query=query
    )
    assert exchange.status == 200, exchange.reply
    assert exchange.is_ended
    assert int(exchange.reply_headers[b"content-length"]) == len(exchange.reply)
    check_heads(exchange, case)


LOST = [
    ("GET", "/v1/messages", "POST /v1/messages"),
    ("PUT", "/v1/messages", "POST /v1/messages"),
    ("DELETE", "/v1/models/m", "GET /v1/models/{id}"),
    ("POST", "/v1/models", "GET /v1/models"),
    ("POST", "/healthz", "GET /healthz"),
    ("OPTIONS", "/v1/messages", "POST /v1/messages"),
    ("POST", "/messages", "it is at /v1/messages"),
    ("POST", "/messages/count_tokens", "it is at /v1/messages/count_tokens"),
    ("GET", "/models", "it is at /v1/models"),
    ("POST", "/v1/messages/batches", "POST /v1/messages"),
    ("GET", "/v1/files", "POST /v1/messages"),
    ("POST", "/v1/chat/completions", "POST /v1/messages"),
    ("GET", "/v1/models/absent", "GET /v1/models lists all names"),
    ("GET", "/admin/../v1/models", "POST /v1/messages"),
    ("GET", "/v1/messages\n\0\u20ac", "\\u20ac"),
    ("PROPFIND" * 20, "/" + "x" * 9000, "POST /v1/messages"),
    ("OPTIONS", "*", "POST /v1/messages"),
]


@pytest.mark.parametrize(("method", "path", "hint"), LOST, ids=range(len(LOST)))
def test_anything_else_is_not_found_in_the_api_s_shape(method: str, path: str, hint: str) -> None:
    exchange, case = answer(None, method=method, path=path, headers={b"content-type": b"text/odd"})
    error = error_of(exchange)
    assert (exchange.status, error["type"]) == (404, "not_found_error")
    assert hint in error["message"]
    assert len(error["message"]) < 500
    assert error["message"].isprintable()
    assert json.loads(exchange.reply)["request_id"] == case.record["request_id"]
    check_heads(exchange, case)


def test_ids_of_models_may_hold_anything() -> None:
    async def main() -> None:
        case = AppCase()
        case.app._routes._routes["org/sub/a b%2F\u20ac"] = case.app._routes._routes["m"]
        exchange = await case.ask(method="GET", path="/v1/models/org/sub/a b%2F\u20ac")
        assert json.loads(exchange.reply)["id"] == "org/sub/a b%2F\u20ac"

    run(main())


def test_what_the_root_says() -> None:
    exchange, _ = answer(method="GET", path="/")
    assert json.loads(exchange.reply) == {"name": "dragoman", "version": dragoman.__version__}
    exchange, _ = answer(method="HEAD", path="/api/hello")
    assert b"content-type" not in exchange.reply_headers


# -- who may call

LOCKED = [
    ("POST", "/v1/messages"),
    ("POST", "/v1/messages/count_tokens"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/m"),
]


@pytest.mark.parametrize(("method", "path"), LOCKED)
@pytest.mark.parametrize(
    ("headers", "name"),
    [
        ({b"x-api-key": b"key-of-ada"}, "ada"),
        ({b"authorization": b"Bearer key-of-bob"}, "bob"),
        ({b"authorization": b"bearer  key-of-bob "}, "bob"),
        ({b"x-api-key": b"wrong", b"authorization": b"Bearer key-of-bob"}, "bob"),
        ({b"x-api-key": b"key-of-ada", b"authorization": b"Bearer wrong"}, "ada"),
        ({b"x-api-key": b"key-of-ada", b"host": b"far.example"}, "ada"),
        ({b"x-api-key": b"key-of-ada", b"origin": b"https://far.example"}, "ada"),
        ({b"x-api-key": b"key-of-ada", b"content-type": b"text/plain"}, "ada"),
    ],
)
def test_a_known_key_is_enough(method: str, path: str, headers: Any, name: str) -> None:
    scripts = [saying("Hello")] if path == "/v1/messages" else []
    exchange, case = answer(None, *scripts, keys=KEYS, method=method, path=path, headers=headers)
    assert exchange.status == 200, exchange.reply
    assert case.record["key"] == name
    assert "key-of" not in case.log_text.getvalue()


@pytest.mark.parametrize(("method", "path"), LOCKED)
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {b"x-api-key": b""},
        {b"x-api-key": b"wrong-key"},
        {b"x-api-key": b"key-of-ad"},
        {b"x-api-key": b"key-of-ada\xff"},
        {b"x-api-key": b"ada"},
        {b"authorization": b"key-of-ada"},
        {b"authorization": b"Basic a2V5LW9mLWFkYQ=="},
        {b"authorization": b"Bearer wrong-key"},
        {b"x-api-key": b"wrong-key", b"authorization": b"Bearer wrong-key"},
    ],
)
def test_without_one_nothing_is_answered(method: str, path: str, headers: Any) -> None:
    exchange, case = answer(None, keys=KEYS, method=method, path=path, headers=headers)
    error = error_of(exchange)
    assert (exchange.status, error["type"]) == (401, "authentication_error")
    assert exchange.reply_headers[b"x-should-retry"] == b"false"
    assert case.record["error"] == "authentication_error"
    assert case.record["key"] == ""
    for text in (case.log_text.getvalue(), exchange.reply.decode()):
        assert "wrong-key" not in text
        assert "key-of" not in text
    check_heads(exchange, case)


@pytest.mark.parametrize("path", ["/", "/healthz", "/api/hello"])
def test_signs_of_life_need_no_key(path: str) -> None:
    headers = {b"host": b"10.0.0.7", b"origin": b"https://far.example"}
    exchange, _ = answer(keys=KEYS, method="GET", path=path, headers=headers)
    assert exchange.status == 200


ALL = [*LOCKED, ("GET", "/"), ("GET", "/healthz"), ("GET", "/readyz"), ("HEAD", "/api/hello")]


@pytest.mark.parametrize(("method", "path"), ALL)
@pytest.mark.parametrize(
    "headers",
    [
        {b"host": b"far.example"},
        {b"host": b"127.0.0.1.far.example"},
        {b"host": b""},
        {b"origin": b"https://far.example"},
        {b"origin": b"null"},
        {b"origin": b"http://localhost:9999"},
    ],
)
def test_without_keys_web_pages_get_nothing(method: str, path: str, headers: Any) -> None:
    exchange, case = answer(None, method=method, path=path, headers=headers)
    assert (exchange.status, error_of(exchange)["type"]) == (403, "permission_error")
    assert case.sent() == []
    check_heads(exchange, case)


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
@pytest.mark.parametrize("kind", [b"text/plain", b"", b"application/x-www-form-urlencoded"])
def test_without_keys_a_body_must_be_json(path: str, kind: bytes) -> None:
    exchange, case = answer(None, path=path, headers={b"content-type": kind})
    assert exchange.status == 400
    assert error_of(exchange)["message"].startswith("content-type: ")
    assert case.sent() == []


@pytest.mark.parametrize(
    "headers",
    [
        {b"host": b"localhost:7777"},
        {b"host": b"[::1]:7777"},
        {b"host": b"gateway.lab"},
        {b"host": b"127.0.0.1:7777", b"origin": b"http://127.0.0.1:7777"},
        {b"content-type": b"application/json; charset=utf-8"},
        {b"x-api-key": b"anything"},
        {b"authorization": b"Bearer anything"},
    ],
)
def test_without_keys_programs_of_this_machine_are_answered(headers: Any) -> None:
    exchange, case = answer(None, saying("Hello"), headers=headers)
    assert message_of(exchange).text == "Hello"
    assert case.record["key"] == "local"


@pytest.mark.parametrize("version", [b"2023-06-01", b"2026-10-21", b"", b"1999-01-01", b"\xff;,"])
@pytest.mark.parametrize("beta", [b"", b"context-1m-2025-08-07,made-up-2030-01-01", b",,", b"\xff"])
def test_any_version_and_any_beta_is_accepted(version: bytes, beta: bytes) -> None:
    headers = {b"anthropic-version": version, b"anthropic-beta": beta, b"x-app": b"cli"}
    exchange, _ = answer(ASK | {"not_known": 1}, saying("Hello"), headers=headers)
    assert message_of(exchange).text == "Hello"


# -- too much at once


def test_more_than_the_maximum_at_once_are_told_to_come_back() -> None:
    async def main() -> None:
        case = AppCase({"lab": [[60.0], [60.0], saying("Hello")]}, max_concurrent=2)
        waiting = [exchange_of(), exchange_of()]
        tasks = [asyncio.create_task(case.app.handle(exchange)) for exchange in waiting]
        for _ in range(5000):  # however busy the machine is
            if case.metrics.open_requests == 2:
                break
            await asyncio.sleep(0.001)
        for path in ("/v1/messages", "/v1/messages/count_tokens"):
            refused = await case.ask(path=path)
            assert (refused.status, error_of(refused)["type"]) == (529, "overloaded_error")
            assert int(refused.reply_headers[b"retry-after"]) >= 1
        for path in ("/healthz", "/v1/models", "/"):  # what costs nothing is still answered
            assert (await case.ask(method="GET", path=path)).status == 200
        waiting[0].leave()
        await tasks[0]
        assert message_of(await case.ask()).text == "Hello"
        waiting[1].leave()
        await tasks[1]
        assert [r["status"] for r in case.records] == [529, 529, 200, 200, 499, 200, 499]

    run(main())


def test_a_slot_is_given_back_however_a_request_ends() -> None:
    async def main() -> None:
        scripts = [refusing(400), failing(UpstreamUnavailable("x")), saying("Hello")]
        case = AppCase({"lab": scripts}, options={"lab": {"retries": 0}}, max_concurrent=1)
        statuses = [(await case.ask(body)).status for body in (None, b"{", None)]
        assert statuses == [400, 400, 502]
        assert message_of(await case.ask()).text == "Hello"

    run(main())


# -- bugs of ours


class Broken(Exception):
    """No error of the tree; its text may hold anything."""


def test_a_crash_is_a_500_and_its_place_in_the_log(monkeypatch) -> None:
    private = json.dumps(MARKED)

    def crash(*_: object, **__: object) -> None:
        local = private
        raise Broken(local)

    monkeypatch.setattr("dragoman.server.messages.parse_request", crash)
    exchange, case = answer()
    assert (exchange.status, error_of(exchange)["type"]) == (500, "api_error")
    crashed, request = case.events
    assert crashed["event"] == "crash"
    assert crashed["request_id"] == request["request_id"]
    assert "test_app.py" in crashed["traceback"]
    assert "in crash" in crashed["traceback"]
    assert crashed["traceback"].endswith("test_app.Broken")
    assert (request["status"], request["error"], request["detail"]) == (500, "api_error", "Broken")
    assert "PRIVATE" not in case.log_text.getvalue() + exchange.reply.decode()
    check_heads(exchange, case)


@pytest.mark.parametrize(
    ("path", "method", "name"),
    [
        ("/v1/messages/count_tokens", "POST", "dragoman.server.count_tokens.render_adjustments"),
        ("/v1/models", "GET", "dragoman.server.app.list_models"),
        ("/v1/models/m", "GET", "dragoman.server.app.show_model"),
        ("/readyz", "GET", "dragoman.server.readiness.Readiness.reason"),
    ],
)
def test_a_crash_anywhere_is_answered(monkeypatch, path: str, method: str, name: str) -> None:
    def crash(*_: object, **__: object) -> None:
        raise Broken("PRIVATE")

    monkeypatch.setattr(name, crash)
    exchange, case = answer(method=method, path=path)
    assert exchange.status == 500
    assert error_of(exchange)["type"] == "api_error"
    check_heads(exchange, case)


# -- the log

FIELDS = {
    *("time", "event", "request_id", "method", "path", "status", "key", "model", "upstream"),
    *("upstream_model", "stream", "stop_reason", "error", "detail", "attempts", "duration_ms"),
    *("first_content_ms", "input_tokens", "output_tokens", "adjustments", "estimate_error_pct"),
}


def test_what_a_line_says() -> None:
    asked = ASK | {"stream": True, "top_k": 5}
    _, case = answer(asked, saying("Hello", prompt=7, output=4), headers={b"x-api-key": b"k"})
    record = case.record
    assert set(record) == FIELDS
    assert record["adjustments"] == ["top_k dropped: generic does not know it"] or record[
        "adjustments"
    ][0].startswith("top_k dropped: ")
    told = {k: record[k] for k in ("model", "upstream", "upstream_model", "stream", "stop_reason")}
    assert told == {
        "model": "m",
        "upstream": "lab",
        "upstream_model": "real-m",
        "stream": True,
        "stop_reason": "end_turn",
    }
    assert (record["input_tokens"], record["output_tokens"], record["attempts"]) == (7, 4, 1)
    assert 0 <= record["first_content_ms"] <= record["duration_ms"] < 20_000


def test_health_checks_are_logged_only_when_they_fail() -> None:
    _, case = answer(method="GET", path="/healthz")
    assert case.records == []
    _, case = answer(method="GET", path="/readyz", headers={b"host": b"far.example"})
    assert case.record["status"] == 403


def test_a_client_that_has_left_is_in_the_log_and_gets_nothing() -> None:
    async def main() -> None:
        case = AppCase()
        exchange = exchange_of()
        exchange.leave()
        await case.app.handle(exchange)
        assert (exchange.status, exchange.written) == (0, [])
        assert (case.record["status"], case.record["error"]) == (499, "client_gone")

    run(main())


def test_a_request_cut_off_by_the_end_of_the_process_is_in_the_log() -> None:
    async def main() -> None:
        case = AppCase({"lab": [[60.0]]})
        exchange = exchange_of()
        task = asyncio.create_task(case.app.handle(exchange))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (case.record["upstream"], case.record["error"]) == ("lab", "stopped")
        assert case.record["status"] == 529
        assert error_of(exchange)["message"] == "the gateway is stopping; try again"
        assert exchange.reply_headers[b"retry-after"] == b"1"
        assert case.health.is_clear
        assert case.upstreams["lab"].calls[0].events == ["abort"]

    run(main())


def test_names_that_clients_make_up_are_bounded_in_the_log() -> None:
    exchange, case = answer(ASK | {"model": "x" * 2**20})
    assert exchange.status == 404
    assert len(case.log_text.getvalue()) < 2000
    _, case = answer(method="GET", path="/" + "x" * 60_000)
    assert len(case.log_text.getvalue()) < 2000


MARKED: dict[str, Any] = {
    "model": "m",
    "max_tokens": 50,
    "system": "PRIVATE-system",
    "messages": [
        {"role": "user", "content": "PRIVATE-prompt"},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "PRIVATE-thought", "signature": ""},
                {"type": "tool_use", "id": "t1", "name": "get", "input": {"q": "PRIVATE-input"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": "PRIVATE-result"},
                {"type": "document", "source": {"type": "text", "data": "PRIVATE-document"}},
                {"type": "made_up", "text": "PRIVATE-block"},
            ],
        },
    ],
    "tools": [{"name": "get", "description": "PRIVATE-tool", "input_schema": {"type": "object"}}],
    "metadata": {"user_id": "PRIVATE-user"},
    "stop_sequences": ["PRIVATE-stop"],
    "safeguards": [{"path": "PRIVATE-path"}],
}
SECRET_HEADERS = {b"x-api-key": b"PRIVATE-key", b"authorization": b"Bearer PRIVATE-token"}
LEAKS = {
    "an answer": saying("PRIVATE-answer"),
    "a call": calling("get", '{"q":"PRIVATE-argument"}', text="PRIVATE-text"),
    "garbage": [*saying("x")[:1], lambda r: r.on_data(b'data: {"a":"PRIVATE-garbage\n\n')],
    "a reply cut short": [*saying("x")[:1], *calling("get", '{"q":"PRIVATE')[1:2]],
    "a key in an error": refusing(500, "key lab-credential-never-shown is wrong"),
    "a key in a refusal": refusing(401, "no key sk-PRIVATE-1234"),
    "a refusal that quotes": refusing(400, "[{'msg': 'bad', 'input': 'PRIVATE-prompt'}]"),
}


@pytest.mark.parametrize("script", LEAKS.values(), ids=LEAKS)
@pytest.mark.parametrize("is_stream", [False, True])
def test_neither_content_nor_secrets_are_logged(script: Any, *, is_stream: bool) -> None:
    async def main() -> None:
        steps = [*script] if len(script) > 2 else [*script, lambda receiver: receiver.on_end()]
        case = AppCase({"lab": [steps]}, options={"lab": {"retries": 0}})
        exchange = await case.ask(
            MARKED | {"stream": is_stream}, headers=SECRET_HEADERS, query="key=PRIVATE-query"
        )
        assert exchange.is_ended
        assert len(case.records) == 1
        for shown in ("PRIVATE", "lab-credential"):
            assert shown not in case.log_text.getvalue()
        assert "lab-credential" not in exchange.reply.decode()

    run(main())


BAD: dict[str, Any] = {
    "not JSON": b'{"model": "PRIVATE',
    "an enum": MARKED | {"messages": [{"role": "PRIVATE", "content": "x"}]},
    "another enum": MARKED | {"tool_choice": {"type": "PRIVATE"}},
    "a type": MARKED | {"messages": "PRIVATE"},
    "a deep type": MARKED | {"messages": [{"role": "user", "content": {"PRIVATE": 1}}]},
    "invalid UTF-8": b'{"model":"PRIVATE\xff"}',
    "a number": MARKED | {"temperature": "PRIVATE"},
}


@pytest.mark.parametrize("body", BAD.values(), ids=BAD)
@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
def test_nor_is_what_is_wrong_with_a_request(body: Any, path: str) -> None:
    exchange, case = answer(body, path=path)
    assert (exchange.status, error_of(exchange)["type"]) == (400, "invalid_request_error")
    assert "PRIVATE" not in case.log_text.getvalue()
    assert case.record["detail"]


# -- what the transport refuses by itself


def test_what_never_reaches_the_app_has_the_same_shape() -> None:
    async def main() -> tuple[AppCase, Any, bytes]:
        case = AppCase()
        return case, *case.app.refuse(RequestTooLarge("too much"))

    case, headers, body = run(main())
    error = check_error(body)
    fields = dict(headers)
    assert error == {"type": "request_too_large", "message": "too much"}
    assert fields[b"request-id"].decode() == json.loads(body)["request_id"]
    assert fields[b"content-type"] == b"application/json"
    assert fields[b"x-dragoman-version"] == dragoman.__version__.encode()
    first, second = (case.app.refuse(InvalidRequest("", "x"))[1] for _ in range(2))
    assert first != second
    refused = case.events[0]
    assert refused.pop("time")
    assert refused == {
        "event": "refused",
        "request_id": json.loads(body)["request_id"],
        "status": 413,
        "error": "request_too_large",
        "detail": "too much",
    }


@pytest.mark.parametrize("error", [ClientGone(), RequestTooLarge("x"), Broken("x")])
def test_whatever_reading_the_body_raises(error: Exception) -> None:
    class Unread(FakeExchange):
        is_body_at_hand = False

        async def read_body(self, max_bytes: int) -> bytes:
            raise error

    async def main() -> None:
        case = AppCase()
        for path in ("/v1/messages", "/v1/messages/count_tokens"):
            exchange = Unread(path=path)
            await case.app.handle(exchange)
            status = {ClientGone: 0, RequestTooLarge: 413}.get(type(error), 500)
            assert exchange.status == status
            assert case.records[-1]["status"] == (status or 499)

    run(main())


def test_a_refusal_of_a_client_that_has_left() -> None:
    class Leaving(FakeExchange):
        is_body_at_hand = False

        async def read_body(self, max_bytes: int) -> bytes:
            self.leave()
            return b"{"

    async def main() -> None:
        case = AppCase()
        exchange = Leaving()
        await case.app.handle(exchange)
        assert exchange.status == 0
        assert (case.record["status"], case.record["error"]) == (499, "client_gone")

    run(main())
