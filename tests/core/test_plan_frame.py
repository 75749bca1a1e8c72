"""Frames: plans are the same whether their settings are known or not, in any order of requests."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.test_recorded_requests import RECORDED, SEEING, THREADS
from core.test_tool_memory import same
from dragoman.core import plan as planning
from dragoman.core import plan_frame, tool_memory
from dragoman.core.dialects.profile import GENERIC, DialectProfile
from dragoman.core.guards import Guards
from dragoman.core.plan import Deployment, Plan, make_plan
from dragoman.core.settings import _WITHOUT_COUNTERPART
from dragoman.core.tool_memory import ToolMemory
from dragoman.core.validate import parse_request
from support.conversations import PROFILES, conversations, words
from support.golden import all_cases
from support.plans import MINIMAL, SIGNER, assistant, call, result, system, text, tool, user

NARROW = DialectProfile(
    name="narrow",
    context_window=300,
    max_output_tokens=250,
    thinking="toggle",
    thinking_switch="enable_thinking",
    thinking_budget_field="thinking_budget",
    effort_values=("low", "high"),
    sends_user=False,
    tool_stream=True,
    max_stop_sequences=1,
    reports_stop=True,
    temperature_in_thinking=False,
    top_p_min=0.5,
    prefill="continue_final_message",
)
DEPLOYMENTS = [
    Deployment(upstream="lab", model="m", profile=profile, guards=Guards(nudge_repeats=True))
    for profile in (*PROFILES, NARROW, SEEING)
]
LOUD = system(text("Think."), output_config={"effort": "high"})
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}
VALUES: dict[str, list[Any]] = {
    "max_tokens": [0, 1, 100, 280, 100_000],
    "temperature": [0.0, 1.5],
    "top_p": [0.1, 1.0],
    "top_k": [-1, 40],
    "stop_sequences": [["#"], ["#", "##", " "], []],
    "metadata": [{}, {"user_id": "one"}, {"user_id": "another"}],
    "tool_choice": [{"type": "any"}, {"type": "tool", "name": "get"}, {"type": "none"}],
    "thinking": [
        {"type": "adaptive"},
        {"type": "enabled", "budget_tokens": 240},
        {"type": "enabled", "budget_tokens": 2000, "display": "omitted"},
        {"type": "between_tools"},
    ],
    "output_config": [{"effort": "medium"}, {"format": {"type": "json_schema", "schema": SCHEMA}}],
    "output_format": [{"type": "json_schema", "schema": SCHEMA}, {"type": "odd"}],
    "service_tier": ["auto", "priority"],
    "speed": ["fast"],
    "fallbacks": ["none", [], [{"model": "x"}]],
    "diagnostics": [{"previous_message_id": "a"}],
    "context_management": [{"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}],
    "mcp_servers": [[{"name": "s", "url": "https://a.example", "authorization_token": "t"}]],
    "compaction": [{"instructions": "Be short."}],
    "never_heard_of": [1],
    "tools": [
        [],
        [tool("get")],
        [tool("get"), tool("put", defer_loading=True)],
        [tool("get"), {"type": "bash_20250124", "name": "bash"}],
    ],
    "system": ["Be kind.", [text("Be kind."), text("Be brief.")]],
}
plain_messages = st.lists(
    st.one_of(words.map(user), words.map(lambda w: user(text(w), text("")))), min_size=1, max_size=2
).map(lambda said: [m for each in said for m in (each, assistant("Yes."))][:-1])
MESSAGES = [
    [user("Hi")],
    [user("a " * 200)],
    [user("Hi"), assistant("I say")],
    [user("Hi"), LOUD],
    [user("Hi"), assistant(call("1", "put")), user(result("1"))],
    [user("Hi"), assistant(call("1")), user(result("1", [text("ok")])), user("And now?")],
    [user("Hi"), *[assistant(call("1")), user(result("1"))] * 6],
]
settings = st.fixed_dictionaries(
    {"messages": st.one_of(st.sampled_from(MESSAGES), plain_messages)},
    optional={name: st.sampled_from(values) for name, values in VALUES.items()},
)


def plan_of(
    request: dict[str, Any],
    deployment: Deployment = DEPLOYMENTS[0],
    memory: ToolMemory | None = None,
    **options: Any,
) -> Plan:
    body = msgspec.json.encode(MINIMAL | request)
    parsed = parse_request(body, max_messages=1000, max_nesting=100, memory=memory)
    return make_plan(parsed, deployment, signer=SIGNER, memory=memory, **options)


def check_all(requests: list[dict[str, Any]], deployment: Deployment) -> None:
    memory = ToolMemory()
    for request in (*requests, *reversed(requests)):
        known = plan_of(request, deployment, memory)
        assert same(known, plan_of(request, deployment))
        assert known.request.messages


@given(st.lists(settings, min_size=1, max_size=5), st.sampled_from(DEPLOYMENTS))
def test_known_settings_make_the_same_plans(
    requests: list[dict[str, Any]], deployment: Deployment
) -> None:
    check_all(requests, deployment)


@given(st.lists(conversations(), min_size=1, max_size=3), settings, st.sampled_from(DEPLOYMENTS))
def test_any_conversation_may_come_with_known_settings(
    said: list[dict[str, Any]], asked: dict[str, Any], deployment: Deployment
) -> None:
    check_all([asked, *(asked | each for each in said)], deployment)


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda d: d.profile.name)
def test_requests_of_clients_and_golden_cases(deployment: Deployment) -> None:
    golden = [msgspec.json.decode(case.path("request.json").read_bytes()) for case in all_cases()]
    clients = [each["body"] for name, each in RECORDED.items() if name not in THREADS]
    check_all([*golden, *clients], deployment)


@given(settings, st.sampled_from(DEPLOYMENTS))
def test_the_short_way_writes_what_the_long_one_does(
    request: dict[str, Any], deployment: Deployment
) -> None:
    short = plan_of(request, deployment)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planning, "write_plainly", lambda *_: None)
        assert same(short, plan_of(request, deployment))


@pytest.mark.parametrize("name", _WITHOUT_COUNTERPART)
def test_what_is_ignored_is_never_forgotten(name: str) -> None:
    memory = ToolMemory()
    assert plan_of({}, memory=memory).adjustments == ()
    (said,) = plan_of({name: "odd"}, memory=memory).adjustments
    assert said.field == name


@pytest.fixture
def n_made(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Count frames that are made."""
    made: list[None] = []
    make = plan_frame._make_frame

    def counted(*args: Any, **options: Any) -> plan_frame.Frame:
        made.append(None)
        return make(*args, **options)

    monkeypatch.setattr(plan_frame, "_make_frame", counted)
    return lambda: len(made)


def test_settings_are_planned_once(n_made: Callable[[], int]) -> None:
    memory, tools = ToolMemory(), [tool("get")]
    for number in range(3):
        said = [user(f"This is {number}"), assistant(call("1")), user(result("1"))]
        asked = {"tools": tools, "messages": said, "metadata": {"user_id": f"user {number}"}}
        made = plan_of(asked | {"diagnostics": {"previous_message_id": number}}, memory=memory)
        assert made.body["user"] == f"user {number}"
    assert n_made() == 1


DIFFERENT = {
    **{name: {name: values[-1]} for name, values in VALUES.items() if name != "system"},
    "an effort in the conversation": {"messages": [user("Hi"), LOUD]},
    "tools removed on the way": {
        "messages": [
            user("Hi"),
            system({"type": "tool_removal", "tool": {"type": "tool_reference", "name": "get"}}),
            user("On"),
        ]
    },
}
SAME = ("compaction", "stop_sequences")  # of these the last value changes no setting


@pytest.mark.parametrize("asked", DIFFERENT.values(), ids=DIFFERENT)
def test_other_settings_are_other_frames(asked: dict[str, Any], n_made: Callable[[], int]) -> None:
    memory, tools = ToolMemory(), {"tools": [tool("get")]}
    plan_of(tools, memory=memory)
    plan_of(tools | asked, memory=memory)
    assert n_made() == 1 + (not asked.keys() & set(SAME))


def test_each_deployment_and_each_way_to_deliver_has_its_own(n_made: Callable[[], int]) -> None:
    memory = ToolMemory()
    for deployment in DEPLOYMENTS * 2:
        for stream in (None, False):
            made = plan_of({}, deployment, memory, stream=stream)
            assert made.deployment is deployment
            assert made.body["stream"] is (stream is None)
    assert n_made() == 2 * len(DEPLOYMENTS)


def test_deferred_tools_that_are_asked_for_are_another_frame(n_made: Callable[[], int]) -> None:
    memory = ToolMemory()
    tools = {"tools": [tool("get"), tool("put", defer_loading=True)]}
    asked = tools | {"messages": [user("Hi"), assistant(call("1", "put")), user(result("1"))]}
    for _ in range(2):
        assert plan_of(tools, memory=memory).tool_names == {"get"}
        assert plan_of(asked, memory=memory).tool_names == {"get", "put"}
    assert n_made() == 2


def test_no_credential_is_kept() -> None:
    memory = ToolMemory()
    server = {"name": "s", "url": "https://a.example", "authorization_token": "planted-1"}
    plan_of({"mcp_servers": [server]}, memory=memory)
    plan_of({"fallback_credit_token": "planted-2", "container": "planted-3"}, memory=memory)
    plan_of({"metadata": {"user_id": "planted-4"}}, memory=memory)
    frames = [kept for each in memory._by_list.values() for kept in each.frames.items()]
    assert len(frames) == 2
    assert "planted" not in repr(frames)


def test_long_settings_are_planned_each_time(n_made: Callable[[], int]) -> None:
    memory = ToolMemory()
    for _ in range(2):
        plan_of({"stop_sequences": ["x" * 1000, "y" * 1000, "z" * 1000]}, memory=memory)
    assert n_made() == 2


def test_the_number_of_frames_is_bounded() -> None:
    memory, most = ToolMemory(), 0
    for number in range(2 * tool_memory._MAX_FRAMES + 10):
        plan_of({"max_tokens": number, "tools": [tool(f"t{number % 2}")]}, memory=memory)
        kept = sum(len(each.frames) for each in memory._by_list.values())
        assert kept == memory._n_frames
        most = max(most, kept)
    assert most == tool_memory._MAX_FRAMES


def test_frames_go_with_their_tools() -> None:
    memory = ToolMemory()
    for number in range(2 * tool_memory._MAX_SETS):
        plan_of({"tools": [tool(f"t{number}")]}, memory=memory)
    assert memory._n_frames == len(memory._sets) == tool_memory._MAX_SETS


def test_frames_go_with_the_table_that_they_hold() -> None:
    memory, tools = ToolMemory(), {"tools": [tool("get")]}
    for number in range(tool_memory._MAX_TABLES + 1):
        profile = msgspec.structs.replace(GENERIC, name=f"p{number}")
        plan_of(tools, Deployment(upstream="lab", model="m", profile=profile), memory)
    assert memory._n_frames == 1
