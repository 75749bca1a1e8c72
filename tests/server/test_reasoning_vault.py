"""Clients that drop thinking: the upstream gets it back all the same, and nobody else does."""

from typing import Any

import pytest

from support.app_case import ASK, AppCase, Script, calling, chunk, message_of, run, saying
from support.fakes import FakeExchange, data, head

TOOLS = [{"name": "get", "input_schema": {"type": "object"}}]
PROFILE = {"echo_reasoning": "tool_turns", "reasoning_placeholder": " ", "thinking": "always"}
KEYS = (("dev", "key-of-dev"), ("other", "key-of-other"))
DEV, OTHER = {b"x-api-key": b"key-of-dev"}, {b"x-api-key": b"key-of-other"}
FIRST = ASK | {"tools": TOOLS}


def thinking_then_calling(thought: str, arguments: str = '{"q": 1.0}') -> Script:
    return [head(), data(chunk(reasoning_content=thought)), *calling("get", arguments)[1:]]


def follow_up(call: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Return the next request of a client that keeps nothing but the call."""
    use = {"type": "tool_use", "id": call["id"], "name": "get", "input": call["input"]} | changes
    result = {"type": "tool_result", "tool_use_id": use["id"], "content": "done"}
    more = [{"role": "assistant", "content": [use]}, {"role": "user", "content": [result]}]
    return FIRST | {"messages": [*ASK["messages"], *more]}


def call_of(exchange: FakeExchange) -> dict[str, Any]:
    message = message_of(exchange)
    assert [block["type"] for block in message.content] == ["tool_use"]
    return message.tool_uses[0]


def reasoning_sent(case: AppCase) -> str | None:
    (turn,) = [m for m in case.sent()[-1]["messages"] if m["role"] == "assistant"]
    return turn.get("reasoning_content")


@pytest.mark.parametrize("is_stream", [True, False])
def test_it_goes_back_byte_for_byte(is_stream: bool) -> None:
    async def main() -> None:
        case = AppCase(
            {"lab": [thinking_then_calling("Hm.\n \u601d"), saying("x")]},
            profile=PROFILE,
            keys=KEYS,
        )
        call = call_of(await case.ask(FIRST | {"stream": is_stream}, headers=DEV))
        exchange = await case.ask(follow_up(call), headers=DEV)
        assert message_of(exchange).text == "x"
        assert reasoning_sent(case) == "Hm.\n \u601d"
        assert b"placeholder" not in exchange.reply_headers.get(b"x-dragoman-adjustments", b"")

    run(main())


def test_another_key_gets_the_placeholder() -> None:
    async def main() -> None:
        case = AppCase(
            {"lab": [thinking_then_calling("secret"), saying("x")]}, profile=PROFILE, keys=KEYS
        )
        call = call_of(await case.ask(FIRST, headers=DEV))
        await case.ask(follow_up(call), headers=OTHER)
        assert reasoning_sent(case) == " "

    run(main())


def test_two_conversations_with_the_same_upstream_ids_keep_apart() -> None:
    async def main() -> None:
        scripts = [thinking_then_calling("one"), thinking_then_calling("two")]
        case = AppCase({"lab": [*scripts, saying("x"), saying("y")]}, profile=PROFILE, keys=KEYS)
        calls = [call_of(await case.ask(FIRST, headers=DEV)) for _ in scripts]
        for call, thought in zip(calls, ("one", "two"), strict=True):
            await case.ask(follow_up(call), headers=DEV)
            assert reasoning_sent(case) == thought

    run(main())


@pytest.mark.parametrize("changes", [{"input": {"q": 2}}, {"id": "toolu_made_up"}])
def test_a_call_that_was_never_made_gets_the_placeholder(changes: dict[str, Any]) -> None:
    async def main() -> None:
        case = AppCase(
            {"lab": [thinking_then_calling("secret"), saying("x")]}, profile=PROFILE, keys=KEYS
        )
        call = call_of(await case.ask(FIRST, headers=DEV))
        await case.ask(follow_up(call, **changes), headers=DEV)
        assert reasoning_sent(case) == " "

    run(main())


def test_thinking_that_the_client_sends_back_stands_above_it() -> None:
    async def main() -> None:
        case = AppCase({"lab": [thinking_then_calling("kept"), saying("x")]}, profile=PROFILE)
        call = call_of(await case.ask(FIRST))
        body = follow_up(call)
        block = {"type": "thinking", "thinking": "sent", "signature": "x"}
        body["messages"][1]["content"].insert(0, block)
        await case.ask(body)
        assert reasoning_sent(case) == "sent"

    run(main())


def test_an_upstream_that_wants_none_back_costs_no_memory() -> None:
    async def main() -> None:
        case = AppCase({"lab": [thinking_then_calling("x"), saying("y")]})
        call = call_of(await case.ask(FIRST))
        await case.ask(follow_up(call))
        assert reasoning_sent(case) is None

    run(main())
