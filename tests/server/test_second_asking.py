"""Replies that lack their answer or their call are asked for once more, and then end honestly."""

from typing import Any

import pytest

from dragoman.core.guards import CALL_NOW, LOST_CALL, NO_ANSWER
from support.app_case import (
    ASK,
    DONE,
    RESET,
    both_ways,
    calling,
    chunk,
    deliver,
    error_of,
    failing,
    message_of,
    refusing,
    saying,
    usage,
)
from support.fakes import data, end, head

TOOL = {"name": "get", "input_schema": {"type": "object"}}
FORCED = ASK | {"tools": [TOOL], "tool_choice": {"type": "tool", "name": "get"}}
HINT = {"forced_tools": "hint"}
ASKED_AGAIN = b"the model was asked once more"


def thinking(thought: str = "Hm.", text: str = "") -> list[Any]:
    body = chunk(reasoning_content=thought) + (chunk(content=text) if text else b"")
    return [head(), data(body + chunk("stop") + usage(3, 2) + DONE), end()]


EMPTY = [head(), data(chunk("stop") + usage(3, 2) + DONE), end()]
NEVER = {"model": {"continue_empty": "never"}}
UNSENT = {"model": {"continue_empty": "unsent"}}
SHOWN = ASK | {"thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 4096}
THINKS = {"thinking": "always"}


def kinds(exchange: Any) -> list[str]:
    return [block["type"] for block in message_of(exchange).content]


# -- no answer


@both_ways
def test_an_empty_reply_is_gone_on_with(is_stream: bool) -> None:
    exchange, case = deliver([EMPTY, saying("Hello")], is_stream=is_stream)
    message = message_of(exchange)
    assert message.text == "Hello"
    assert message.stop_reason == "end_turn"
    assert (message.usage["input_tokens"], message.usage["output_tokens"]) == (6, 4)
    first, second = case.sent()
    said = first["messages"][-1]["content"]
    assert second["messages"] == [{"role": "user", "content": f"{said}\n\n{NO_ANSWER}"}]
    assert case.record["attempts"] == 2
    assert any("once more" in each for each in case.record["adjustments"])
    if not is_stream:
        assert ASKED_AGAIN in exchange.reply_headers[b"x-dragoman-adjustments"]


@both_ways
def test_it_is_gone_on_with_once(is_stream: bool) -> None:
    exchange, case = deliver([EMPTY, EMPTY], is_stream=is_stream)
    message = message_of(exchange)
    assert (message.content, message.stop_reason) == ([], "end_turn")
    assert len(case.sent()) == 2


@both_ways
def test_hidden_thinking_is_no_answer(is_stream: bool) -> None:
    exchange, case = deliver([thinking(), saying("Hello")], is_stream=is_stream)
    assert message_of(exchange).text == "Hello"
    assert len(case.sent()) == 2


@both_ways
def test_a_reply_that_ends_after_its_thinking_is_gone_on_with(is_stream: bool) -> None:
    script = [thinking("One."), thinking("Two.", "Hello")]
    exchange, case = deliver(script, body=SHOWN, profile=THINKS, is_stream=is_stream)
    assert kinds(exchange) == ["thinking", "thinking", "text"]
    assert message_of(exchange).text == "Hello"
    assert case.record["repairs"] == {"again.answer": 1}


@both_ways
def test_one_that_never_answers_ends_with_what_it_thought(is_stream: bool) -> None:
    script = [thinking("One."), thinking("Two.")]
    exchange, case = deliver(script, body=SHOWN, profile=THINKS, is_stream=is_stream)
    assert kinds(exchange) == ["thinking", "thinking"]
    assert message_of(exchange).stop_reason == "end_turn"
    assert len(case.sent()) == 2


def test_a_second_asking_that_fails_behind_thinking_leaves_the_thinking() -> None:
    exchange, case = deliver([thinking(), failing(RESET)], body=SHOWN, profile=THINKS)
    assert kinds(exchange) == ["thinking"]
    assert message_of(exchange).stop_reason == "end_turn"
    assert case.record["repairs"] == {"again.answer": 1}


def test_a_stream_may_be_left_alone_once_it_has_shown_something() -> None:
    exchange, case = deliver([thinking()], body=SHOWN, profile=THINKS, options=UNSENT)
    assert kinds(exchange) == ["thinking"]
    assert message_of(exchange).stop_reason == "end_turn"
    assert len(case.sent()) == 1
    whole, _ = deliver(
        [thinking("One."), thinking("Two.", "Hello")],
        body=SHOWN,
        profile=THINKS,
        options=UNSENT,
        is_stream=False,
    )
    assert kinds(whole) == ["thinking", "thinking", "text"]


@both_ways
def test_a_server_tool_may_be_called_in_the_second_reply(is_stream: bool) -> None:
    search = {"type": "web_search_20250305", "name": "web_search"}
    script = [EMPTY, calling("web_search", '{"query": "x"}'), saying("Without it, then.")]
    exchange, case = deliver(script, body=ASK | {"tools": [search]}, is_stream=is_stream)
    assert kinds(exchange) == ["server_tool_use", "web_search_tool_result", "text"]
    assert message_of(exchange).stop_reason == "end_turn"
    assert len(case.sent()) == 3


@both_ways
def test_it_can_be_switched_off(is_stream: bool) -> None:
    exchange, case = deliver([EMPTY], is_stream=is_stream, options=NEVER)
    assert message_of(exchange).content == []
    assert len(case.sent()) == 1


@both_ways
@pytest.mark.parametrize("second", [failing(RESET), refusing(400), refusing(500)])
def test_a_second_asking_that_fails_leaves_the_first_reply(
    second: list[Any], is_stream: bool
) -> None:
    exchange, case = deliver([EMPTY, second], is_stream=is_stream)
    message = message_of(exchange)
    assert (message.content, message.stop_reason) == ([], "end_turn")
    (failure,) = [e for e in case.events if e["event"] == "attempt_failed"]
    assert failure["then"] == "the reply as it was"


def test_one_that_breaks_off_in_its_answer_is_an_error() -> None:
    broken = [head(), data(chunk(content="Hel")), lambda receiver: receiver.on_error(RESET)]
    exchange, _ = deliver([EMPTY, broken], is_stream=False)
    assert exchange.status == 502
    assert error_of(exchange)["type"] == "api_error"


@pytest.mark.parametrize("finish", ["length", "content_filter"])
def test_other_ends_are_ends(finish: str) -> None:
    reply = [head(), data(chunk(finish) + DONE), end()]
    exchange, case = deliver([reply])
    assert message_of(exchange).stop_reason in ("max_tokens", "refusal")
    assert len(case.sent()) == 1


def test_nothing_to_add_to_a_prefill_is_an_end() -> None:
    messages = [*ASK["messages"], {"role": "assistant", "content": "All of it."}]
    exchange, case = deliver([EMPTY], body=ASK | {"messages": messages})
    assert message_of(exchange).stop_reason == "end_turn"
    assert len(case.sent()) == 1


def test_a_call_is_an_answer() -> None:
    body = ASK | {"tools": [TOOL]}
    exchange, case = deliver([calling("get", "{}")], body=body)
    assert message_of(exchange).stop_reason == "tool_use"
    assert len(case.sent()) == 1


# -- a call that was lost


def lost(text: str = "") -> list[Any]:
    body = (chunk(content=text) if text else b"") + chunk("tool_calls") + usage(3, 2) + DONE
    return [head(), data(body), end()]


@pytest.mark.parametrize(("text", "is_stream"), [("", True), ("", False), ("Let me look.", False)])
def test_a_call_that_the_server_has_lost_is_asked_for_again(text: str, is_stream: bool) -> None:
    script = [lost(text), calling("get", "{}")]
    exchange, case = deliver(script, body=ASK | {"tools": [TOOL]}, is_stream=is_stream)
    assert kinds(exchange) == [*["text"] * bool(text), "tool_use"]
    assert message_of(exchange).stop_reason == "tool_use"
    assert LOST_CALL in case.sent()[1]["messages"][-1]["content"]
    assert case.record["repairs"] == {"again.announced_call": 1}


@both_ways
def test_and_once_only(is_stream: bool) -> None:
    exchange, case = deliver([lost(), lost()], body=ASK | {"tools": [TOOL]}, is_stream=is_stream)
    assert message_of(exchange).stop_reason == "end_turn"
    assert len(case.sent()) == 2
    assert case.record["repairs"] == {"again.announced_call": 1, "lost_call": 1}


def test_a_stream_that_has_shown_text_says_that_its_call_is_lost() -> None:
    exchange, case = deliver([lost("Let me look.")], body=ASK | {"tools": [TOOL]})
    assert kinds(exchange) == ["text"]
    assert message_of(exchange).stop_reason == "end_turn"
    assert case.record["repairs"] == {"lost_call": 1}


@both_ways
@pytest.mark.parametrize(
    ("options", "tools"), [(NEVER, [TOOL]), ({}, [])], ids=["switched off", "without tools"]
)
def test_otherwise_it_is_an_end(options: dict[str, Any], tools: list[Any], is_stream: bool) -> None:
    body = ASK | ({"tools": tools} if tools else {})
    exchange, case = deliver([lost("Well.")], is_stream=is_stream, options=options, body=body)
    assert kinds(exchange) == ["text"]
    assert len(case.sent()) == 1


# -- no call


@both_ways
def test_a_call_that_could_only_be_asked_for_is_asked_for_again(is_stream: bool) -> None:
    script = [saying("I would rather talk."), calling("get", "{}")]
    exchange, case = deliver(script, body=FORCED, profile=HINT, is_stream=is_stream)
    message = message_of(exchange)
    assert [block["type"] for block in message.content] == ["tool_use"]
    assert message.stop_reason == "tool_use"
    _, second = case.sent()
    assert second["messages"][-2:] == [
        {"role": "assistant", "content": "I would rather talk."},
        {"role": "user", "content": CALL_NOW},
    ]
    assert second["tools"] == case.sent()[0]["tools"]


@both_ways
@pytest.mark.parametrize("choice", [{"type": "any"}, FORCED["tool_choice"]], ids=["any", "tool"])
def test_a_forced_call_that_the_server_does_not_heed_is_asked_for(
    choice: dict[str, str], is_stream: bool
) -> None:
    script = [saying("I would rather talk."), calling("get", "{}")]
    exchange, case = deliver(script, body=FORCED | {"tool_choice": choice}, is_stream=is_stream)
    assert kinds(exchange) == ["text", "tool_use"]
    assert message_of(exchange).stop_reason == "tool_use"
    first, second = case.sent()
    assert first["tool_choice"] == second["tool_choice"]
    assert second["messages"][-2:] == [
        {"role": "assistant", "content": "I would rather talk."},
        {"role": "user", "content": CALL_NOW},
    ]
    assert case.record["repairs"] == {"again.call": 1}


@both_ways
def test_it_is_asked_for_once_and_where_that_is_wanted(is_stream: bool) -> None:
    exchange, case = deliver([saying("No."), saying("No!")], body=FORCED, is_stream=is_stream)
    assert message_of(exchange).text == "No.No!"
    assert message_of(exchange).stop_reason == "end_turn"
    assert len(case.sent()) == 2
    off = {"model": {"ask_again_for_call": False}}
    exchange, case = deliver([saying("No.")], body=FORCED, is_stream=is_stream, options=off)
    assert (message_of(exchange).text, len(case.sent())) == ("No.", 1)


@both_ways
def test_a_call_is_not_held(is_stream: bool) -> None:
    script = [calling("get", "{}", text="Well.")]
    exchange, case = deliver(script, body=FORCED, profile=HINT, is_stream=is_stream)
    assert kinds(exchange) == ["text", "tool_use"]
    assert len(case.sent()) == 1


@both_ways
def test_a_model_that_will_not_call_is_quoted(is_stream: bool) -> None:
    script = [saying("No."), saying("I said no.")]
    exchange, case = deliver(script, body=FORCED, profile=HINT, is_stream=is_stream)
    message = message_of(exchange)
    assert (message.text, message.stop_reason) == ("I said no.", "end_turn")
    assert len(case.sent()) == 2


@both_ways
def test_its_first_words_are_shown_where_the_second_asking_fails(is_stream: bool) -> None:
    script = [saying("No."), refusing(400)]
    exchange, _ = deliver(script, body=FORCED, profile=HINT, is_stream=is_stream)
    message = message_of(exchange)
    assert (message.text, message.stop_reason) == ("No.", "end_turn")


def test_what_is_held_is_bounded() -> None:
    words = "word " * 1000
    script = [head(), *[data(chunk(content=words))] * 60, data(chunk("stop") + DONE), end()]
    exchange, case = deliver([script], body=FORCED, profile=HINT)
    assert message_of(exchange).text == words * 60
    assert len(case.sent()) == 1


def test_an_upstream_that_fails_while_it_is_held_is_followed_by_another() -> None:
    broken = [head(), data(chunk(content="Well")), lambda receiver: receiver.on_error(RESET)]
    scripts = {"lab": [broken] * 3, "spare": [calling("get", "{}")]}
    options = {"lab": {"retries": 0}}
    exchange, _ = deliver(scripts, body=FORCED, profile=HINT, options=options)
    assert kinds(exchange) == ["tool_use"]


@both_ways
def test_asking_again_can_be_switched_off(is_stream: bool) -> None:
    options = {"model": {"ask_again_for_call": False}}
    exchange, case = deliver(
        [saying("No.")], body=FORCED, profile=HINT, options=options, is_stream=is_stream
    )
    assert message_of(exchange).text == "No."
    assert len(case.sent()) == 1


def test_a_call_that_was_bound_is_not_asked_for_again() -> None:
    exchange, case = deliver([saying("Odd.")], body=FORCED)
    assert message_of(exchange).text == "Odd."
    assert len(case.sent()) == 1


# -- one call


@both_ways
def test_one_call_is_one_call(is_stream: bool) -> None:
    calls = [
        {"index": n, "id": f"c{n}", "function": {"name": "get", "arguments": "{}"}}
        for n in range(3)
    ]
    script = [head(), data(chunk(tool_calls=calls) + chunk("tool_calls") + DONE), end()]
    choice = {"type": "any", "disable_parallel_tool_use": True}
    body = ASK | {"tools": [TOOL], "tool_choice": choice}
    exchange, case = deliver([script], body=body, is_stream=is_stream)
    assert kinds(exchange) == ["tool_use"]
    left_out = "tool_use repaired: get: left out, for one call was asked for"
    assert left_out in case.record["adjustments"]
