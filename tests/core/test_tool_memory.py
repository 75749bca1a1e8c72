"""Tools that came before: the same plans, fewer steps, and an end to what is kept."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.core.dialects.profile import GENERIC, DialectProfile
from dragoman.core.errors import InvalidRequest
from dragoman.core.plan import Deployment, Plan, make_plan
from dragoman.core.render import render
from dragoman.core.tool_memory import ToolMemory
from dragoman.core.validate import parse_request
from support.conversations import PROFILES, conversations
from support.plans import MINIMAL, SIGNER, system, tool, user

KIMI = DialectProfile(name="picky", schema_refused=("pattern", "oneOf"))


def plan_of(
    request: dict[str, Any], profile: DialectProfile = GENERIC, memory: ToolMemory | None = None
) -> Plan:
    body = msgspec.json.encode(MINIMAL | request)
    parsed = parse_request(body, max_messages=1000, max_nesting=100, memory=memory)
    deployment = Deployment(upstream="lab", model="upstream-model", profile=profile)
    return make_plan(parsed, deployment, signer=SIGNER, memory=memory)


def same(one: Plan, other: Plan) -> bool:
    ignored = {"request", "tool_table"}
    return render(one) == render(other) and all(
        getattr(one, name) == getattr(other, name)
        for name in Plan.__struct_fields__
        if name not in ignored
    )


@given(st.lists(conversations(), min_size=1, max_size=4), st.sampled_from(PROFILES))
def test_plans_are_the_same_with_a_memory(requests: list[dict], profile: DialectProfile) -> None:
    memory = ToolMemory()
    for request in (*requests, *requests):
        assert same(plan_of(request, profile, memory), plan_of(request, profile))


PATTERN = {"type": "object", "properties": {"a": {"type": "string", "pattern": "^a"}}}
ODD_SETS = {
    "a schema that must be rewritten": [tool("get", input_schema=PATTERN)],
    "deferred": [tool("get"), tool("late", defer_loading=True)],
    "a search for deferred ones": [
        {"type": "tool_search_tool_regex_20251119", "name": "tool_search_tool_regex"},
        tool("late", defer_loading=True),
    ],
    "a server tool": [{"type": "web_search_20250305", "name": "web_search"}, tool("get")],
    "a toolset": [{"type": "computer_20250124", "name": "computer", "display_width_px": 1}],
    "unknown": [{"type": "what_20990101", "name": "what"}],
    "long names": [tool("x" * 100), tool("x" * 99)],
    "options": [tool("get", strict=True, allowed_callers=["code"])],
}


@pytest.mark.parametrize("tools", ODD_SETS.values(), ids=ODD_SETS)
@pytest.mark.parametrize("profile", [GENERIC, KIMI], ids=["generic", "picky"])
def test_odd_sets_are_known_again(tools: list[dict], profile: DialectProfile) -> None:
    memory = ToolMemory()
    plans = [plan_of({"tools": tools}, profile, memory) for _ in range(3)]
    assert same(plans[2], plan_of({"tools": tools}, profile))
    assert plans[2].tool_table is plans[1].tool_table


def test_what_is_hidden_is_decided_each_time() -> None:
    memory = ToolMemory()
    tools = [tool("get"), tool("late", defer_loading=True)]
    late = {"type": "tool_use", "id": "1", "name": "late", "input": {}}
    answer = {"type": "tool_result", "tool_use_id": "1", "content": "x"}
    call = [user("Hi"), {"role": "assistant", "content": [late]}, user(answer)]
    before = plan_of({"tools": tools}, memory=memory)
    after = plan_of({"tools": tools, "messages": call}, memory=memory)
    again = plan_of({"tools": tools}, memory=memory)
    assert (before.tool_names, after.tool_names) == ({"get"}, {"get", "late"})
    assert same(before, again)


def test_tools_that_the_conversation_changes_are_not_taken_from_the_memory() -> None:
    memory = ToolMemory()
    removal = {"type": "tool_removal", "tool": {"type": "tool_reference", "name": "get"}}
    messages = [user("Hi"), system(removal), user("On")]
    tools = [tool("get"), tool("put")]
    assert plan_of({"tools": tools}, memory=memory).tool_names == {"get", "put"}
    changed = {"tools": tools, "messages": messages}
    assert plan_of(changed, memory=memory).tool_names == {"put"}
    assert plan_of({"tools": tools}, memory=memory).tool_names == {"get", "put"}


def test_each_profile_has_its_own_functions() -> None:
    memory = ToolMemory()
    request = {"tools": ODD_SETS["a schema that must be rewritten"]}
    for _ in range(2):
        assert "pattern" in render(plan_of(request, GENERIC, memory)).decode()
        picky = plan_of(request, KIMI, memory)
        assert '"pattern"' not in render(picky).decode()
        assert [a.field for a in picky.adjustments] == ["tools.0.input_schema"]


def test_a_plan_that_sends_fewer_tools_is_written_with_those() -> None:
    memory = ToolMemory()
    profile = DialectProfile(forced_tools="required_only")
    choice = {"type": "tool", "name": "put"}
    for _ in range(2):
        made = plan_of(
            {"tools": [tool("get"), tool("put")], "tool_choice": choice}, profile, memory
        )
        sent = msgspec.json.decode(render(made))["tools"]
        assert [each["function"]["name"] for each in sent] == ["put"]


BAD_SETS = {
    "a bad name": ([tool("a b")], "tools.0.custom.name"),
    "the same name twice": ([tool("get"), tool("get")], "tools"),
    "no schema": ([{"name": "get"}], "tools.0.custom.input_schema"),
    "a wrong type": ([tool("get"), {"name": 3}], "tools.1.name"),
    "no list": ({"name": "get"}, "tools"),
}


@pytest.mark.parametrize(("tools", "field"), BAD_SETS.values(), ids=BAD_SETS)
def test_bad_tools_are_refused_each_time(tools: Any, field: str) -> None:
    memory = ToolMemory()
    for _ in range(3):
        with pytest.raises(InvalidRequest) as caught:
            plan_of({"tools": tools}, memory=memory)
        assert caught.value.message.startswith(f"{field}: ")


def test_an_unknown_field_is_reported_as_without_a_memory() -> None:
    request = {"tools": [tool("get")], "what_is_this": 1}
    memory = ToolMemory()
    plans = [plan_of(request, memory=memory) for _ in range(2)]
    assert all(same(made, plan_of(request)) for made in plans)
    assert "what_is_this" in [a.field for a in plans[1].adjustments]


def test_what_is_kept_is_bounded() -> None:
    memory = ToolMemory()
    first = b"[]" + b" " * 1000
    kept: list[Any] = [[] for _ in range(200)]
    memory.keep(first, kept[0])
    for number, each in enumerate(kept[1:]):
        memory.keep(b"[]" + b" " * (2000 + number), each)
    assert memory.recall(first) is None
    assert sum(memory.knows(each) for each in kept) == 64
    assert memory.recall(b"[]" + b" " * 2198) is kept[-1]
    for number in range(8):
        memory.keep(b" " * 400_000 + b"%d" % number, kept[number])
    assert sum(memory.knows(each) for each in kept) <= 2


@pytest.mark.parametrize("raw", [b" " * 600_000, b"{" * 20_001], ids=["long", "many objects"])
def test_what_is_too_large_is_not_kept(raw: bytes) -> None:
    memory = ToolMemory()
    memory.keep(raw, [])
    assert memory.recall(raw) is None


def test_what_was_used_last_stays() -> None:
    memory = ToolMemory()
    tools: list[Any] = [[] for _ in range(66)]
    for number, each in enumerate(tools):
        memory.keep(b"%d" % number, each)
        assert memory.recall(b"0") is tools[0]
    assert memory.recall(b"1") is None


def test_tables_of_a_set_are_bounded_and_those_of_others_are_not_kept() -> None:
    memory = ToolMemory()
    profiles = [DialectProfile(name=f"p{number}") for number in range(6)]
    request = {"tools": [tool("get")]}
    tables = [plan_of(request, profile, memory).tool_table for profile in profiles]
    assert plan_of(request, profiles[5], memory).tool_table is tables[5]
    assert plan_of(request, profiles[0], memory).tool_table is not tables[0]
