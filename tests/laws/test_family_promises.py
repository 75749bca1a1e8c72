"""
What is promised beyond the thirteen rules, one test or more for each promise.

The tests take no fixtures: ``tests/mutations`` breaks the code below each of them, and runs them
again to see that they notice.
"""

import json
from typing import Any

from dragoman.core.dialects.profile import DialectProfile
from dragoman.core.dialects.registry import find_profile
from dragoman.core.passthrough import rewrite_request
from dragoman.settings import PriceConfig
from laws.test_thirteen_rules import ON, planned, streamed
from support import turns
from support.app_case import (
    ASK,
    DONE,
    AppCase,
    calling,
    chunk,
    deliver,
    message_of,
    refusing,
    run,
    saying,
    usage,
)
from support.fakes import data, end, head
from support.plans import MINIMAL, SIGNER, assistant, call, parse, plan, result, tool, user

SCHEMA = {
    "type": "object",
    "properties": {
        "n": {"type": "integer"},
        "mode": {"type": "string", "enum": ["fast", "slow"]},
        "tags": {"type": "array", "items": {"type": "string"}},
    },
}
TOOL = {"name": "f", "input_schema": SCHEMA}
THOUGHT = "Hm.\n \u601d"
HERMES = '<tool_call>\n{"name": "f", "arguments": {"n": 1}}\n</tool_call>'


def replying_with(*chunks: bytes) -> list[Any]:
    return [head(), data(b"".join(chunks) + chunk("stop") + usage(3, 2) + DONE), end()]


THINKING_ONLY = replying_with(chunk(reasoning_content="Hm."))


# -- the vault


def recalled(*, first: bytes, then: bytes, changes: dict[str, Any] | None = None) -> Any:
    """Return the reasoning that goes back for a client that has dropped it, key by key."""

    async def main() -> Any:
        profile = {"echo_reasoning": "tool_turns", "reasoning_placeholder": " "}
        case = AppCase(
            {
                "lab": [
                    [head(), data(chunk(reasoning_content=THOUGHT)), *calling("f", "{}")[1:]],
                    saying("x"),
                ]
            },
            profile=profile,
            keys=[("ada", "key-of-ada"), ("eve", "key-of-eve")],
        )
        body = ASK | {"tools": [TOOL]}
        [used] = message_of(await case.ask(body, headers={b"x-api-key": first})).tool_uses
        made = call(used["id"], "f") | {"input": used["input"]} | (changes or {})
        more = [assistant(made), user(result(made["id"]))]
        messages = [*ASK["messages"], *more]
        await case.ask(body | {"messages": messages}, headers={b"x-api-key": then})
        [turn] = [m for m in case.sent()[-1]["messages"] if m["role"] == "assistant"]
        return turn["reasoning_content"]

    return run(main())


def test_promise_vault_lost_thinking_comes_back() -> None:
    assert recalled(first=b"key-of-ada", then=b"key-of-ada") == THOUGHT


def test_promise_vault_to_nobody_else_and_for_no_other_call() -> None:
    assert recalled(first=b"key-of-ada", then=b"key-of-eve") == " "
    other = {"input": {"n": 7}}
    assert recalled(first=b"key-of-ada", then=b"key-of-ada", changes=other) == " "


def test_promise_mark_only_our_own_thinking_is_kept_from_native_upstreams() -> None:
    ours = {"type": "thinking", "thinking": "A", "signature": SIGNER.sign("A")}
    bare = {"type": "thinking", "thinking": "B", "signature": ""}
    theirs = {"type": "thinking", "thinking": "C", "signature": "EqoBCkgIYWJj"}
    said = {"type": "text", "text": "D"}
    messages = [user("Hi"), assistant(ours, bare, theirs, said), user("Go on")]
    body = json.dumps(MINIMAL | {"messages": messages}).encode()
    sent = rewrite_request(
        body, parse(MINIMAL | {"messages": messages}), model="m", is_trusted=True
    )
    assert json.loads(sent)["messages"][1]["content"] == [theirs, said]


# -- thinking in the text


def test_promise_tag_the_first_reply_teaches_how_the_next_begins() -> None:
    script = replying_with(*(chunk(content=piece) for piece in ("Hm.\n", "</think>", "\n\nHi")))

    async def main() -> list[str]:
        case = AppCase({"lab": [script, script]}, profile={"thinking": "always"})
        return [message_of(await case.ask(ASK | ON | {"stream": True})).text for _ in range(2)]

    assert run(main()) == ["Hm.\n</think>\n\nHi", "Hi"]


# -- calls


def test_promise_text_calls_count_where_models_write_them_alone() -> None:
    message = streamed(chunked(f"So:\n{HERMES}"), model="qwen3-32b")
    assert [use["input"] for use in message.tool_uses] == [{"n": 1}]
    for about in (f"```\n{HERMES}\n```", f"`{HERMES}`", f"> {HERMES}", f"{HERMES} is how."):
        told = streamed(chunked(about), model="qwen3-32b")
        assert (told.tool_uses, told.text) == ([], about)


def test_promise_text_calls_in_common_forms_count_for_every_family() -> None:
    invoke = '<invoke name="f">\n<parameter name="n">1</parameter>\n</invoke>'
    coder = "<tool_call>\n<function=f>\n<parameter=n>\n1\n</parameter>\n</function>\n</tool_call>"
    for model in ("deepseek-v4-pro", "qwen3.7-max", "kimi-k2.5", "glm-4.7", "mimo-v2.5"):
        for form in (HERMES, invoke, coder):
            message = streamed(chunked(f"So:\n\n{form}"), model=model, tools=[TOOL])
            assert [use["input"] for use in message.tool_uses] == [{"n": 1}], (model, form)
            assert message.text == "So:"


def chunked(content: str) -> bytes:
    return turns.sse(turns.chunk(content=content), turns.chunk("stop"), turns.DONE)


def test_promise_arguments_fit_the_schema_and_are_reported() -> None:
    written = '{"n": "5", "mode": "FAST", "tags": "[\\"a\\"]"}'
    exchange, case = deliver([calling("f", written)], body=ASK | {"tools": [TOOL]})
    [used] = message_of(exchange).tool_uses
    assert used["input"] == {"n": 5, "mode": "fast", "tags": ["a"]}
    assert case.record["repairs"] == {"choice": 1, "type": 1}
    assert any("types that the schema does not allow" in a for a in case.record["adjustments"])


def test_promise_arguments_that_are_right_are_not_touched() -> None:
    written = '{ "n" : 5.0,  "mode":"fast" }'
    message = streamed(turns.call(0, "a", "f", written), turns.chunk("tool_calls"), turns.DONE)
    pieces = [e["delta"]["partial_json"] for e in message.events if "partial_json" in str(e)]
    assert "".join(pieces) == written


def test_promise_cut_a_call_that_is_not_whole_is_the_last_block() -> None:
    message = streamed(
        turns.call(0, "a", "f", '{"q": "Pa'),
        turns.chunk(content="behind"),
        turns.chunk("length"),
        turns.DONE,
    )
    assert [block["type"] for block in message.content] == ["tool_use"]
    assert message.stop_reason == "max_tokens"


def test_promise_single_one_call_is_one_call() -> None:
    choice = {"type": "auto", "disable_parallel_tool_use": True}
    calls = [turns.call(n, f"c{n}", "f", "{}") for n in range(3)]
    message = streamed(*calls, turns.chunk("tool_calls"), turns.DONE, tool_choice=choice)
    assert len(message.tool_uses) == 1


def test_promise_forced_by_a_schema_the_text_is_the_call() -> None:
    chosen = {"type": "tool", "name": "f"}
    made = plan(
        DialectProfile(forced_tools="json_schema"), tools=[tool("f"), tool("g")], tool_choice=chosen
    )
    assert made.body["response_format"]["type"] == "json_schema"
    written = '{"name":"f","arguments":{"q":"1"}}'
    message = turns.stream(turns.chunk(content=written), turns.chunk("stop"), turns.DONE, plan=made)
    assert [(use["name"], use["input"]) for use in message.tool_uses] == [("f", {"q": "1"})]
    assert message.text == ""


def test_promise_forced_by_words_it_is_asked_for_once_more() -> None:
    body = ASK | {"tools": [TOOL], "tool_choice": {"type": "any"}, "stream": True}
    script = [saying("I would rather talk."), calling("f", "{}")]
    exchange, case = deliver(script, body=body, profile={"forced_tools": "hint"})
    assert [block["type"] for block in message_of(exchange).content] == ["tool_use"]
    assert case.record["repairs"] == {"again.call": 1}


def test_promise_forced_in_vain_it_is_asked_for_once_more() -> None:
    body = ASK | {"tools": [TOOL], "tool_choice": {"type": "any"}, "stream": True}
    exchange, case = deliver([saying("I would rather talk."), calling("f", "{}")], body=body)
    assert [block["type"] for block in message_of(exchange).content] == ["text", "tool_use"]
    assert case.record["repairs"] == {"again.call": 1}


def test_promise_schemas_are_completed_where_a_type_must_stand() -> None:
    untyped = tool("f") | {"input_schema": {"type": "object", "properties": {"p": {}}}}
    sent = planned("kimi-k2.5", "moonshot", tools=[untyped]).body["tools"][0]["function"]
    assert sent["parameters"]["properties"]["p"]["type"]


# -- ends, loops, refusals


def test_promise_stops_are_cut_exactly_across_borders() -> None:
    pieces = [turns.chunk(content=piece) for piece in ("Hello#", "#", "#gone")]
    message = streamed(*pieces, turns.chunk("stop"), turns.DONE, stop_sequences=["###"])
    assert (message.text, message.stop_reason) == ("Hello", "stop_sequence")
    assert message.stop_sequence == "###"
    two = [turns.chunk(content="a##b"), turns.chunk("stop")]
    message = streamed(*two, turns.DONE, stop_sequences=["b", "##"])
    assert (message.text, message.stop_sequence) == ("a", "##")


def test_promise_empty_replies_are_gone_on_with_once() -> None:
    body = ASK | ON | {"stream": True}
    exchange, case = deliver([THINKING_ONLY, saying("Hello")], body=body)
    assert [block["type"] for block in message_of(exchange).content] == ["thinking", "text"]
    assert case.record["repairs"] == {"again.answer": 1}
    exchange, case = deliver([THINKING_ONLY, THINKING_ONLY], body=body)
    assert message_of(exchange).stop_reason == "end_turn"
    assert len(case.sent()) == 2


def test_promise_empty_replies_may_be_followed_by_server_tools() -> None:
    search = {"type": "web_search_20250305", "name": "web_search"}
    script = [replying_with(), calling("web_search", "{}"), saying("Done")]
    exchange, _ = deliver(script, body=ASK | {"tools": [search], "stream": True})
    assert message_of(exchange).text == "Done"


def test_promise_loops_are_reported_and_answered() -> None:
    turn = [assistant(call("a", "f")), user(result("a"))]
    said = {"messages": [user("Hi"), *turn * 5], "tools": [TOOL]}
    _, case = deliver([saying("x")], body=ASK | said)
    assert case.record["repairs"] == {"loop": 1}
    _, case = deliver([saying("x")], body=ASK | said, options={"model": {"nudge_repeats": True}})
    assert "5 times" in str(case.sent()[0]["messages"][-1])


def test_promise_healing_is_remembered() -> None:
    async def main() -> list[bool]:
        refusal = refusing(400, "Unrecognized request argument supplied: top_k")
        case = AppCase({"lab": [refusal, saying("a"), saying("b")]}, profile={"top_k": True})
        for _ in range(2):
            exchange = await case.ask(ASK | {"top_k": 5})
            assert b"top_k;action=dropped" in exchange.reply_headers[b"x-dragoman-adjustments"]
        return ["top_k" in body for body in case.sent()]

    assert run(main()) == [True, False, False]


# -- counting


def test_promise_counts_teach_estimates() -> None:
    async def main() -> list[float]:
        asked = ASK | {"system": "word " * 1000}
        case = AppCase({"lab": [saying("x", prompt=1900)] * 9})
        for _ in range(9):
            await case.ask(asked)
        return [record["estimate_error_pct"] for record in case.records]

    errors = run(main())
    assert abs(errors[0]) > 5
    assert abs(errors[-1]) < 1


def test_promise_cost_is_rounded_once() -> None:
    price = PriceConfig(models=("real-m",), input_per_mtok=0.3, output_per_mtok=1.2)
    _, case = deliver([saying("x", prompt=1001, output=7)], prices=[price])
    assert case.record["cost_micros"] == 309  # 300.3 + 8.4 = 308.7


def test_promise_names_spell_one_model_in_many_ways() -> None:
    for name in ("Qwen/Qwen3-Coder-480B-A35B-Instruct-FP8", "qwen3-coder:480b-cloud"):
        found = find_profile(name, platform="vllm")
        assert found == find_profile("qwen3-coder-480b-a35b-instruct", platform="vllm")
    assert find_profile("qwen3:4b-thinking", platform="vllm").thinking == "always"
