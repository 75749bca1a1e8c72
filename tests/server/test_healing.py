"""A refusal that names a parameter heals itself, once, and is remembered."""

import pytest

from support.app_case import (
    ASK,
    AppCase,
    both_ways,
    deliver,
    error_of,
    message_of,
    refusing,
    run,
    saying,
)

TOP_K = refusing(400, "Unrecognized request argument supplied: top_k")
HOT = ASK | {"top_k": 5, "temperature": 1.5}
SAMPLING = {"top_k": True}


@both_ways
@pytest.mark.parametrize("status", [400, 422])
def test_the_parameter_is_left_out_and_reported(status: int, is_stream: bool) -> None:
    refusal = refusing(status, "Unrecognized request argument supplied: top_k")
    exchange, case = deliver(
        [refusal, saying("Hello")], body=HOT, profile=SAMPLING, is_stream=is_stream
    )
    assert message_of(exchange).text == "Hello"
    first, second = case.sent()
    assert first.pop("top_k") == 5
    assert first == second
    assert b"top_k;action=dropped" in exchange.reply_headers[b"x-dragoman-adjustments"]
    (failure,) = [e for e in case.events if e["event"] == "attempt_failed"]
    assert failure["then"] == "learnt top_k = False"
    assert case.record["attempts"] == 2


def test_it_is_remembered_for_that_deployment_only() -> None:
    async def main() -> None:
        scripts = {"lab": [TOP_K, saying("1"), saying("2")], "spare": []}
        case = AppCase(scripts, profile=SAMPLING)
        for answer in ("1", "2"):
            assert message_of(await case.ask(HOT)).text == answer
        assert ["top_k" in sent for sent in case.sent()] == [True, False, False]

    run(main())


def test_what_one_upstream_refuses_another_still_gets() -> None:
    scripts = {"lab": [TOP_K, refusing(500)], "spare": [saying("x")]}
    exchange, case = deliver(scripts, body=HOT, profile=SAMPLING)
    assert message_of(exchange).text == "x"
    assert case.sent("spare")[0]["top_k"] == 5


def test_several_parameters_are_refused_one_after_the_other() -> None:
    warm = refusing(400, "temperature must be between 0 and 1")
    exchange, case = deliver([TOP_K, warm, saying("x")], body=HOT, profile=SAMPLING)
    assert message_of(exchange).text == "x"
    assert case.sent()[-1]["temperature"] == 1.0
    assert "top_k" not in case.sent()[-1]
    header = exchange.reply_headers[b"x-dragoman-adjustments"]
    assert b"temperature;action=clamped" in header


def test_a_refusal_that_goes_on_is_told() -> None:
    exchange, case = deliver([TOP_K, TOP_K], body=HOT, profile=SAMPLING)
    error = error_of(exchange)
    assert (exchange.status, error["type"]) == (400, "invalid_request_error")
    assert "top_k" in error["message"]
    assert len(case.sent()) == 2


def test_a_refusal_of_the_message_itself_is_told_at_once() -> None:
    exchange, case = deliver([refusing(400, "messages: too odd")], body=HOT, profile=SAMPLING)
    assert exchange.status == 400
    assert len(case.sent()) == 1


def test_a_schema_keyword_is_left_out_and_reported() -> None:
    count = {"type": "integer", "minimum": 1, "description": "How many."}
    tool = {"name": "get", "input_schema": {"type": "object", "properties": {"n": count}}}
    refusal = refusing(400, "tools[0].function.parameters: keyword 'minimum' is not supported")
    exchange, case = deliver([refusal, saying("x")], body=ASK | {"tools": [tool]})
    assert message_of(exchange).text == "x"
    sent = [body["tools"][0]["function"]["parameters"]["properties"]["n"] for body in case.sent()]
    assert sent == [count, {"type": "integer", "description": "How many. (minimum: 1)"}]
    header = exchange.reply_headers[b"x-dragoman-adjustments"]
    assert b"tools.0.input_schema;action=emulated" in header


@pytest.mark.parametrize(
    ("said", "sent"),
    [
        ("Range of max_tokens should be [1, 200]", [900, 200, 200]),
        (
            "This model's maximum context length is 1000 tokens. However, you requested 1100 "
            "tokens (200 in the messages, 900 in the completion).",
            [900, 784, 900],  # its own prompt is short
        ),
    ],
)
def test_limits_that_a_refusal_names_are_remembered(said: str, sent: list[int]) -> None:
    async def main() -> None:
        case = AppCase({"lab": [refusing(400, said), saying("1"), saying("2")]})
        for answer in ("1", "2"):
            exchange = await case.ask(ASK | {"max_tokens": 900})
            assert message_of(exchange).text == answer
        assert [body["max_tokens"] for body in case.sent()] == sent
        learnt = case.learnt()
        assert learnt in ({"max_output_tokens": 200}, {"context_window": 1000})

    run(main())


def test_a_wider_limit_than_is_known_teaches_nothing() -> None:
    async def main() -> None:
        said = "max_tokens=900 cannot be greater than max_model_len=800"
        case = AppCase(
            {"lab": [refusing(400, said), saying("1")]}, profile={"max_output_tokens": 700}
        )
        await case.ask(ASK | {"max_tokens": 900})
        assert case.learnt() == {}

    run(main())
