"""
The thirteen rules that decide whether a model family works, one test or more for each.

The tests take no fixtures: ``tests/mutations`` breaks the code below each of them, and runs them
again to see that they notice.
"""

import re
from typing import Any

from dragoman.core.dialects import registry
from dragoman.core.plan import Deployment, Plan, make_plan
from support import turns
from support.app_case import deliver, message_of, refusing, saying
from support.family_upstream import FAMILIES, Past
from support.plans import MINIMAL, SIGNER, assistant, call, parse, result, text, tool, user
from support.sse_grammar import AssembledMessage
from support.turns import DONE, chunk, usage

THOUGHT = "  First: « naïve »\n\n\t思考, then “quoted” \\ and 🦊.\n"
ON = {"thinking": {"type": "adaptive"}}
ECHOING = [
    ("deepseek-v3.2", "deepseek"),
    ("deepseek-v4-pro", "deepseek"),
    ("kimi-k2-thinking", "moonshot"),
    ("kimi-k2.5", "moonshot"),
    ("kimi-k3", "moonshot"),
    ("glm-4.7", "zai"),
    ("mimo-v2-flash", "mimo"),
    ("mimo-v2.6-pro", "mimo"),
]


def planned(model: str, platform: str, **fields: Any) -> Plan:
    profile = registry.find_profile(model, platform=platform)
    deployment = Deployment(upstream="lab", model=model, profile=profile)
    return make_plan(parse(MINIMAL | fields), deployment, signer=SIGNER)


def thinking(value: str, signature: str = "") -> dict[str, Any]:
    return {"type": "thinking", "thinking": value, "signature": signature}


def reasoning_sent(model: str, platform: str, *said: dict[str, Any]) -> Any:
    """Return what goes back as the reasoning of a turn that called a tool."""
    messages = [user("Hi"), assistant(*said, call("a")), user(result("a"))]
    plan = planned(model, platform, messages=messages, **ON)
    [sent] = [m for m in plan.body["messages"] if m["role"] == "assistant"]
    return sent.get(plan.deployment.profile.reasoning_field)


def streamed(*chunks: Any, model: str = "deepseek-v3.2", **fields: Any) -> AssembledMessage:
    """Return what a client reads when the vendor's server streams *chunks*."""
    asked = {"tools": [tool("f"), tool("g")], **ON, **fields}
    return turns.stream(*chunks, plan=planned(model, "generic", **asked))


def calling(**more: Any) -> list[Any]:
    return [turns.call(0, "c0", "f", '{"q": "1"}'), *more.values()]


def test_rule_1_reasoning_goes_back_byte_for_byte() -> None:
    for model, platform in ECHOING:
        assert reasoning_sent(model, platform, thinking(THOUGHT)) == THOUGHT


def test_rule_2_reasoning_is_shown_with_our_signature() -> None:
    message = streamed(chunk(reasoning_content=THOUGHT), chunk(content="Hi"), chunk("stop"), DONE)
    assert message.thinking == THOUGHT
    [block] = [block for block in message.content if block["type"] == "thinking"]
    assert turns.SIGNER.is_ours(block["signature"], THOUGHT)


def test_rule_2_unsigned_and_foreign_thinking_is_kept() -> None:
    for signature in ("", "EqoBCkgIYWJj"):
        assert reasoning_sent("kimi-k2.5", "moonshot", thinking("Mine.", signature)) == "Mine."


def test_rule_2_a_placeholder_stands_for_lost_thinking() -> None:
    for model, platform in ECHOING:
        lost = reasoning_sent(model, platform)
        assert lost == (None if platform == "zai" else " "), model


def test_rule_3_each_reasoning_field_is_read_and_only_once() -> None:
    for delta in (
        {"reasoning_content": "Hm."},
        {"reasoning": "Hm."},
        {"reasoning": "Hm.", "reasoning_content": "Hm."},
        {"reasoning": "Hm.", "reasoning_details": [{"type": "reasoning.text", "text": "Hm."}]},
        {"reasoning_details": [{"type": "reasoning.text", "text": "Hm."}]},
    ):
        message = streamed(chunk(**delta), chunk(content="Hi"), chunk("stop"), DONE)
        assert (message.thinking, message.text) == ("Hm.", "Hi")


def test_rule_3_empty_reasoning_is_no_block() -> None:
    message = streamed(chunk(reasoning_content=""), chunk(content="Hi"), chunk("stop"), DONE)
    assert [block["type"] for block in message.content] == ["text"]


def test_rule_4_no_vendor_gets_a_forced_tool_that_it_refuses() -> None:
    for family in FAMILIES.values():
        [law] = [law for law in family.laws if law.param == "tool_choice"]
        for choice in ({"type": "any"}, {"type": "tool", "name": "f"}):
            asked = {"tools": [tool("f"), tool("g")], "tool_choice": choice, **ON}
            body = planned(family.model, family.platform, **asked).body
            assert next(law.broken(body, Past()), None) is None, family.name


def test_rule_5_ids_of_kimi_come_back() -> None:
    kimi = "functions.f:3"
    message = streamed(turns.call(0, kimi, "f", "{}"), chunk("tool_calls"), DONE)
    [used] = message.tool_uses
    assert re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", used["id"])
    messages = [user("Hi"), assistant(call(used["id"], "f")), user(result(used["id"]))]
    body = planned("kimi-k2.5", "moonshot", messages=messages).body
    ids = {m.get("tool_call_id") or m["tool_calls"][0]["id"] for m in body["messages"][1:]}
    assert ids == {kimi}


def test_rule_5_other_ids_become_such_as_kimi_prints() -> None:
    messages = [user("Hi"), assistant(call("toolu_01AbCdEf", "f")), user(result("toolu_01AbCdEf"))]
    body = planned("kimi-k2.5", "moonshot", messages=messages).body
    assert body["messages"][1]["tool_calls"][0]["id"] == "functions.f:0"


def test_rule_6_empty_ids_and_names_say_nothing() -> None:
    for later in ({"call_id": "", "name": None}, {"call_id": "", "name": ""}, {"call_id": None}):
        message = streamed(
            turns.call(0, "c0", "f", ""),
            turns.call(0, arguments='{"q": ', **later),
            turns.call(0, arguments='"1"}', **later),
            turns.call(0, arguments=None, **later),
            chunk("tool_calls"),
            DONE,
        )
        assert [(u["name"], u["input"]) for u in message.tool_uses] == [("f", {"q": "1"})]


def test_rule_6_empty_ids_say_nothing_between_parallel_calls() -> None:
    message = streamed(
        turns.call(0, "c0", "f", '{"q": '),
        turns.call(1, "c1", "f", '{"q": '),
        turns.call(0, call_id="", arguments='"1"}'),
        turns.call(1, call_id="", arguments='"2"}'),
        chunk("tool_calls"),
        DONE,
    )
    assert [u["input"] for u in message.tool_uses] == [{"q": "1"}, {"q": "2"}]


def test_rule_6_null_as_a_word_ends_nothing() -> None:
    message = streamed(chunk("null", content="A"), chunk("null", content="B"), chunk("stop"), DONE)
    assert (message.text, message.stop_reason) == ("AB", "end_turn")


def test_rule_6_arguments_may_be_null_an_object_or_empty() -> None:
    for given, read in ((None, {}), ("", {}), ({"q": "1"}, {"q": "1"})):
        message = streamed(turns.call(0, "c0", "f", given), chunk("tool_calls"), DONE)
        assert [u["input"] for u in message.tool_uses] == [read]


def test_rule_7_calls_beat_stop_and_length_beats_calls() -> None:
    for finish, stop_reason in (("stop", "tool_use"), ("length", "max_tokens")):
        message = streamed(*calling(), chunk(finish), DONE)
        assert (len(message.tool_uses), message.stop_reason) == (1, stop_reason)


def test_rule_8_what_broke_is_never_an_end() -> None:
    error = b'data: {"error":{"message":"boom","type":"InternalServerError","code":500}}\n\n'
    for ending in ([error, DONE], [chunk("banana"), DONE], [], [chunk("network_error"), DONE]):
        message = streamed(chunk(content="Half a"), *ending)
        assert message.error is not None
        assert message.stop_reason is None


def test_rule_9_cached_tokens_are_counted_once() -> None:
    counts = {"prompt_tokens": 100, "completion_tokens": 5}
    for cached in (
        {"prompt_cache_hit_tokens": 60, "prompt_cache_miss_tokens": 40},
        {"prompt_tokens_details": {"cached_tokens": 60}},
        {"cached_tokens": 60},
    ):
        message = streamed(chunk(content="Hi"), chunk("stop"), usage(**counts, **cached), DONE)
        assert message.usage["input_tokens"] == 40
        assert message.usage["cache_read_input_tokens"] == 60


def test_rule_10_usage_is_found_in_each_of_four_places() -> None:
    counts = {"prompt_tokens": 9, "completion_tokens": 4}
    one = {**counts, "completion_tokens": 2}
    beside = {**chunk("stop"), "usage": counts}
    inside = chunk("stop")
    inside["choices"][0]["usage"] = counts
    for chunks in (
        [chunk(content="Hi"), beside],
        [chunk(content="Hi"), chunk("stop"), usage(**counts)],
        [{**chunk(content="Hi"), "usage": one}, {**chunk(content="!"), "usage": counts}, beside],
        [chunk(content="Hi"), inside],
        [chunk(content="Hi"), inside, usage(**counts)],
    ):
        message = streamed(*chunks, DONE)
        found = message.usage["input_tokens"], message.usage["output_tokens"]
        assert found == (9, 4)


def test_rule_11_sampling_is_what_the_family_takes() -> None:
    asked = {"temperature": 1.7, "top_p": 0.5}
    sampling = {
        model: {k: v for k, v in planned(model, platform, **asked).body.items() if k in asked}
        for model, platform in (("glm-4.7", "zai"), ("kimi-k2.5", "moonshot"))
    }
    assert sampling == {"glm-4.7": {"temperature": 1.0, "top_p": 0.5}, "kimi-k2.5": {}}


RAW = (
    "I look.\n\n<tool_call>\n<function=f>\n<parameter=q>\n1\n</parameter>\n"
    "</function>\n</tool_call>"
)


def test_rule_12_calls_written_as_text_are_calls_wherever_they_are_cut() -> None:
    for size in (1, 3, 7, len(RAW)):
        pieces = [chunk(content=RAW[at : at + size]) for at in range(0, len(RAW), size)]
        message = streamed(*pieces, chunk("stop"), DONE, model="qwen3-coder-plus")
        assert [(u["name"], u["input"]) for u in message.tool_uses] == [("f", {"q": "1"})]
        assert (message.text, message.stop_reason) == ("I look.", "tool_use")


def test_rule_12_calls_of_tools_that_nobody_declared_stay_text() -> None:
    foreign = RAW.replace("function=f", "function=other")
    message = streamed(chunk(content=foreign), chunk("stop"), DONE, model="qwen3-coder-plus")
    assert message.tool_uses == []
    assert message.text == foreign


def test_rule_13_tokens_fit_the_model_and_its_window() -> None:
    profile = registry.find_profile("glm-4.7", platform="zai")
    body = planned("glm-4.7", "zai", max_tokens=900_000).body
    assert body["max_tokens"] == profile.max_output_tokens == 131_072
    long = [user("word " * 150_000)]
    plan = planned("glm-4.7", "zai", max_tokens=100_000, messages=long)
    assert profile.context_window is not None
    assert plan.body["max_tokens"] + plan.input_tokens_estimate <= profile.context_window
    assert plan.body["max_tokens"] < 100_000


def test_rule_13_a_refusal_with_numbers_is_repeated_with_fewer_tokens() -> None:
    said = (
        "This model's maximum context length is 4096 tokens. However, you requested 4146 tokens "
        "(4000 in the messages, 146 in the completion). Please reduce the length."
    )
    exchange, case = deliver(
        [refusing(400, said), saying("Hello")],
        body={"model": "m", "max_tokens": 146, "messages": [user(text("Hi"))]},
    )
    assert message_of(exchange).text == "Hello"
    first, second = (body["max_tokens"] for body in case.sent())
    assert second < first


def test_every_rule_has_a_test() -> None:
    numbers = {int(m[1]) for name in globals() if (m := re.match(r"test_rule_(\d+)_", name))}
    assert numbers == set(range(1, 14))
