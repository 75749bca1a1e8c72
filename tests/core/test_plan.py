"""make_plan from end to end; its parts have tests of their own."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.core.dialects.profile import DialectProfile
from dragoman.core.errors import InvalidRequest
from dragoman.core.plan import ServerCall, plan_after_server_tools, with_max_tokens
from dragoman.core.render import render
from support.chat_law import check_body, check_messages
from support.conversations import PROFILES, conversations, legal_conversations
from support.plans import assistant, call, parse, plan, result, said, text, tool, user

SEARCH = {"type": "web_search_20250305", "name": "web_search"}


def test_arguments_stream_where_they_are_asked_to() -> None:
    profile = DialectProfile(tool_stream=True)
    assert plan(profile, tools=[tool("f")]).body["tool_stream"] is True
    assert "tool_stream" not in plan(profile).body
    assert "tool_stream" not in plan(tools=[tool("f")]).body


def test_the_smallest_request() -> None:
    assert plan().body == {
        "model": "upstream-model",
        "messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": 100,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_rendered_bytes_begin_with_model_and_messages() -> None:
    assert render(plan()).startswith(
        b'{"model":"upstream-model","messages":[{"role":"user","content":"Hi"}],'
    )


def test_threads_are_refused() -> None:
    with pytest.raises(InvalidRequest) as caught:
        plan(thread={"type": "create"})
    assert caught.value.details == {
        "error_code": "thread_unsupported_request",
        "unsupported": ["thread"],
    }


SYSTEMS = {
    "a string": ("Be nice.", "Be nice."),
    "blocks": ([text("Be nice."), text("Be short.")], "Be nice.\n\nBe short."),
    "attribution block": (
        [text("x-anthropic-billing-header: cc_version=1;"), text("Be nice.")],
        "Be nice.",
    ),
    "attribution line": ("x-anthropic-billing-header: cc_version=1;\n\nBe nice.", "Be nice."),
    "odd block": ([text("Be nice."), {"type": "strange"}], "Be nice."),
}


@pytest.mark.parametrize(("system", "prompt"), SYSTEMS.values(), ids=SYSTEMS)
def test_system_prompt(system: object, prompt: str) -> None:
    assert plan(system=system).body["messages"][0] == {"role": "system", "content": prompt}


def test_no_system_message_without_a_prompt() -> None:
    for nothing in ("", [], [text("x-anthropic-billing-header: x")]):
        assert plan(system=nothing).body["messages"] == [{"role": "user", "content": "Hi"}]


def test_leading_system_messages_join_the_prompt() -> None:
    messages = [{"role": "system", "content": "Be short."}, user("Hi")]
    prompt, hello = plan(system="Be nice.", messages=messages).body["messages"]
    assert prompt["content"] == "Be nice.\n\nBe short."
    assert hello == {"role": "user", "content": "Hi"}


@given(conversations(), st.sampled_from(PROFILES))
def test_any_conversation_becomes_a_legal_request(request: dict, profile: DialectProfile) -> None:
    made = plan(profile, **request)
    check_body(made.body)
    assert json.loads(render(made)) == made.body


@given(legal_conversations(), st.sampled_from(PROFILES))
def test_nothing_of_a_legal_conversation_is_lost_or_repaired(
    messages: list, profile: DialectProfile
) -> None:
    made = plan(profile, messages=messages)
    assert not [a for a in made.adjustments if a.action == "repaired" and "lost" not in a.reason]
    rendered = render(made).decode()
    for word in _words(messages):
        assert word in rendered


@given(legal_conversations(), st.sampled_from(PROFILES))
def test_a_grown_conversation_begins_with_the_same_bytes(
    messages: list, profile: DialectProfile
) -> None:
    tools = [tool("get"), tool("put")]
    before = render(plan(profile, messages=messages, tools=tools, system="Be nice."))
    grown = [*messages, assistant("Yes."), user("And now?")]
    after = render(plan(profile, messages=grown, tools=tools, system="Be nice."))
    messages_before = msgspec.json.encode(json.loads(before)["messages"])[:-1]
    assert after[after.index(b'"messages":') + 11 :].startswith(messages_before)


@given(conversations())
def test_planning_is_deterministic(request: dict) -> None:
    assert render(plan(**request)) == render(plan(**request))


def _words(value: object) -> list[str]:
    """Return the generated words, which all begin with w_."""
    written = json.dumps(value)
    return [word for word in json.loads(json.dumps(written)).split('"') if word.startswith("w_")]


# -- compaction


def test_a_compaction_replaces_what_was_before() -> None:
    block = {"type": "compaction", "content": "They said hello."}
    messages = [user("Old"), assistant(text("Older"), block, text("Fine.")), user("New")]
    summary, fine, new = plan(messages=messages).body["messages"]
    assert summary["role"] == "user"
    assert "They said hello." in summary["content"]
    assert (fine["content"], new["content"]) == ("Fine.", "New")


def test_a_failed_compaction_changes_nothing() -> None:
    block = {"type": "compaction", "content": None}
    made = plan(messages=[user("Old"), assistant(block, text("Fine.")), user("New")])
    assert [m["content"] for m in made.body["messages"]] == ["Old", "Fine.", "New"]
    assert said(made) == [("messages.1.content.0", "dropped")]


@pytest.mark.parametrize(
    ("compaction", "asked"),
    [
        ({"type": "summarize", "instructions": "In one line."}, "In one line."),
        ({"type": "summarize"}, "Summarize the conversation"),
    ],
)
def test_a_compaction_request_asks_for_a_summary(compaction: dict, asked: str) -> None:
    made = plan(compaction=compaction, messages=[user("Hi"), assistant("Hello")])
    assert asked in made.body["messages"][-1]["content"]
    assert ("compaction", "emulated") in said(made)


# -- server tools: one round


def test_server_tools_get_one_round() -> None:
    first = plan(tools=[SEARCH])
    assert list(first.server_tools) == ["web_search"]
    call_made = ServerCall(id="call_1", name="web_search", arguments_json='{"query":"x"}')
    second = plan_after_server_tools(first, "Let me look.", [call_made])
    check_body(second.body)
    assert second.server_tools == {}
    assert second.tool_names == frozenset()
    assert "tools" not in second.body
    *before, said_before, answer = second.body["messages"]
    assert before == first.body["messages"]
    assert said_before["content"] == "Let me look."
    assert "unavailable" in answer["content"]


def test_the_second_round_keeps_thinking_and_calls_apart() -> None:
    first = plan(DialectProfile(echo_reasoning="always"), tools=[SEARCH])
    calls_made = [ServerCall(id="c", name="web_search", arguments_json="{}")] * 2
    calls_made.insert(0, ServerCall(id="c_2", name="web_search", arguments_json="{}"))
    body = plan_after_server_tools(first, "", calls_made, thinking="Hm.").body
    check_body(body)
    assert body["messages"][1]["reasoning_content"] == "Hm."
    assert len(body["messages"][1]["tool_calls"]) == 3
    silent = plan_after_server_tools(first, "", calls_made).body
    assert "reasoning_content" not in silent["messages"][1]


@pytest.mark.parametrize("forced_tools", ["native", "json_schema", "named_only", "hint"])
def test_the_second_round_forces_nothing(forced_tools: str) -> None:
    profile = DialectProfile(forced_tools=forced_tools)
    choice = {"type": "tool", "name": "web_search", "disable_parallel_tool_use": True}
    first = plan(profile, tools=[SEARCH, tool("get")], tool_choice=choice)
    call_made = ServerCall(id="call_1", name="web_search", arguments_json="{}")
    body = plan_after_server_tools(first, "", [call_made]).body
    check_body(body)
    assert [t["function"]["name"] for t in body["tools"]] == ["get"]
    assert "tool_choice" not in body
    assert "response_format" not in body


def test_the_second_round_keeps_an_automatic_choice() -> None:
    first = plan(tools=[SEARCH, tool("get")], tool_choice={"type": "auto"})
    call_made = ServerCall(id="call_1", name="web_search", arguments_json="{}")
    assert plan_after_server_tools(first, "", [call_made]).body["tool_choice"] == "auto"


@pytest.mark.parametrize("prefill", ["native", "continue_final_message", "prefix", "partial"])
def test_the_second_round_goes_on_from_a_prefill(prefill: str) -> None:
    profile = DialectProfile(
        prefill=prefill, echo_reasoning="tool_turns", reasoning_placeholder=" "
    )
    first = plan(profile, tools=[SEARCH], messages=[user("Hi"), assistant("It is")])
    call_made = ServerCall(id="call_1", name="web_search", arguments_json="{}")
    body = plan_after_server_tools(first, " sunny", [call_made]).body
    check_messages(body["messages"])
    assert body["messages"][1]["content"] == "It is sunny"
    assert body["messages"][1]["reasoning_content"] == " "
    assert not {"continue_final_message", "prefix", "partial"} & {*body, *body["messages"][1]}


# -- fewer tokens, because the upstream says so


def test_fewer_tokens_leave_less_to_thinking() -> None:
    profile = DialectProfile(
        thinking="toggle", thinking_switch="enable_thinking", thinking_budget_field="budget"
    )
    asked = {"type": "enabled", "budget_tokens": 9000}
    first = plan(profile, thinking=asked, max_tokens=10_000)
    assert (first.body["max_tokens"], first.body["budget"]) == (10_000, 9000)
    second = with_max_tokens(with_max_tokens(first, 9500), 4000)
    assert (second.body["max_tokens"], second.body["budget"]) == (4000, 3000)
    assert said(second) == [("max_tokens", "clamped"), ("thinking.budget_tokens", "clamped")]
    assert first.body["budget"] == 9000


# -- what else goes into the body


def test_user_id() -> None:
    metadata = {"user_id": "u-1"}
    assert plan(metadata=metadata).body["user"] == "u-1"
    assert "user" not in plan(DialectProfile(sends_user=False), metadata=metadata).body
    assert "user" not in plan(metadata={}).body


def test_usage_is_asked_for_where_it_can_be() -> None:
    assert "stream_options" not in plan(DialectProfile(stream_options=False)).body


def test_the_estimate_counts_images_apart() -> None:
    picture = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo" + "A" * 40_000}
    messages = [user({"type": "image", "source": picture}, text("What is it?"))]
    made = plan(DialectProfile(sees_images=True), messages=messages)
    assert 1500 < made.input_tokens_estimate < 1600


def test_parallel_results_come_in_call_order() -> None:
    messages = [
        user("Hi"),
        assistant(call("a"), call("b")),
        user(result("b", "B"), result("a", "A"), text("Go on")),
    ]
    *_, first, second, last = plan(messages=messages).body["messages"]
    assert (first["content"], second["content"]) == ("A", "B")
    assert last == {"role": "user", "content": "Go on"}


def test_count_requests_need_no_max_tokens() -> None:
    request = parse({"model": "m", "messages": [user("Hi")]}, for_count=True)
    assert request.max_tokens is None
