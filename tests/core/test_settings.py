"""Sampling, limits, formats, and fields without a counterpart."""

from typing import Any

import msgspec
import pytest

from dragoman.core.dialects.profile import DialectProfile
from dragoman.core.plan import Deployment, make_plan
from support.plans import MINIMAL, SIGNER, parse, plan, said, user

# -- sampling


@pytest.mark.parametrize(
    ("facts", "asked", "sent", "adjustments"),
    [
        ({}, {"temperature": 0.3}, {"temperature": 0.3}, []),
        ({}, {"temperature": 0}, {"temperature": 0}, []),
        ({}, {"temperature": 0.12345}, {"temperature": 0.12}, []),
        (
            {"temperature_max": 1.0},
            {"temperature": 1.5},
            {"temperature": 1.0},
            [("temperature", "clamped")],
        ),
        ({"temperature_max": None}, {"temperature": 1}, {}, [("temperature", "dropped")]),
        ({}, {"top_p": 0.9}, {"top_p": 0.9}, []),
        ({"top_p": False}, {"top_p": 0.9}, {}, [("top_p", "dropped")]),
        ({}, {"top_k": 40}, {}, [("top_k", "dropped")]),
        ({"top_k": True}, {"top_k": 40}, {"top_k": 40}, []),
        ({}, {"top_k": 0}, {}, []),
        ({}, {"top_k": -1}, {}, []),
    ],
)
def test_sampling(facts: dict, asked: dict, sent: dict, adjustments: list) -> None:
    made = plan(DialectProfile(**facts), **asked)
    assert {k: v for k, v in made.body.items() if k in ("temperature", "top_p", "top_k")} == sent
    assert said(made) == adjustments


# -- max_tokens


@pytest.mark.parametrize(
    ("facts", "asked", "sent"),
    [
        ({}, 128_000, 128_000),
        ({"max_output_tokens": 8192}, 128_000, 8192),
        ({"max_output_tokens": 8192}, 100, 100),
        ({"context_window": 32_768}, 32_000, 32_000),
        ({"context_window": 32_768}, 128_000, 32_768 - 10),
        ({"context_window": 1000, "max_output_tokens": 500}, 128_000, 500),
    ],
)
def test_max_tokens(facts: dict, asked: int, sent: int) -> None:
    made = plan(DialectProfile(**facts), max_tokens=asked)
    assert abs(made.body["max_tokens"] - sent) <= 3
    assert said(made) == ([("max_tokens", "clamped")] if sent < asked else [])


def test_room_is_left_for_an_estimate_that_is_too_low() -> None:
    long = [user("word " * 40_000)]
    made = plan(DialectProfile(context_window=65_536), max_tokens=60_000, messages=long)
    room = 65_536 - made.input_tokens_estimate
    assert room - made.input_tokens_estimate * 0.06 < made.body["max_tokens"]
    assert made.body["max_tokens"] < room - made.input_tokens_estimate * 0.04


def test_no_tokens_at_all_become_one_that_is_not_shown() -> None:
    made = plan(DialectProfile(context_window=1000, max_output_tokens=500), max_tokens=0)
    assert made.body["max_tokens"] == 1
    assert said(made) == [("max_tokens", "emulated")]
    assert not made.fills_window


@pytest.mark.parametrize(
    ("facts", "asked", "fills_window"),
    [
        ({}, 128_000, False),
        ({"context_window": 32_768}, 32_000, False),
        ({"context_window": 32_768}, 128_000, True),
        ({"context_window": 32_768, "max_output_tokens": 8192}, 128_000, False),
        ({"context_window": 4096, "max_output_tokens": 8192}, 128_000, True),
    ],
)
def test_what_the_window_leaves_is_told_from_what_the_model_writes(
    facts: dict, asked: int, *, fills_window: bool
) -> None:
    assert plan(DialectProfile(**facts), max_tokens=asked).fills_window is fills_window


def test_a_prompt_that_fills_the_window_is_left_to_the_upstream() -> None:
    long = [user("word " * 80_000)]
    profile = DialectProfile(context_window=65_536)
    made = plan(profile, max_tokens=32_000, messages=long)
    assert made.input_tokens_estimate > 65_536
    assert made.body["max_tokens"] == 4096
    tiny = plan(DialectProfile(context_window=1000), max_tokens=32_000, messages=long)
    assert tiny.body["max_tokens"] == 250


def test_the_name_of_max_tokens() -> None:
    profile = DialectProfile(max_tokens_field="max_completion_tokens")
    body = plan(profile).body
    assert body["max_completion_tokens"] == 100
    assert "max_tokens" not in body


def test_the_default_of_max_tokens() -> None:
    request = parse({"model": "m", "messages": [user("Hi")]}, for_count=True)
    profile = DialectProfile(default_max_tokens=77)
    deployment = Deployment(upstream="lab", model="m", profile=profile)
    made = make_plan(request, deployment, signer=SIGNER)
    assert made.body["max_tokens"] == 77
    assert said(made) == []


def test_an_upstream_that_shall_not_stream() -> None:
    deployment = Deployment(upstream="lab", model="m", profile=DialectProfile())
    made = make_plan(parse(MINIMAL), deployment, signer=SIGNER, stream=False)
    assert made.body["stream"] is False
    assert "stream_options" not in made.body


# -- stop sequences


@pytest.mark.parametrize(
    ("facts", "asked", "sent", "local"),
    [
        ({}, ["a", "b"], None, ("a", "b")),
        ({"reports_stop": True}, ["a", "b"], ["a", "b"], ()),
        ({"reports_stop": True, "max_stop_sequences": 1}, ["a", "b", "a"], ["a"], ("b",)),
        ({"reports_stop": True, "max_stop_sequences": None}, list("abcdef"), list("abcdef"), ()),
        ({"reports_stop": True}, [], None, ()),
    ],
)
def test_stop_sequences(facts: dict, asked: list, sent: list | None, local: tuple) -> None:
    made = plan(DialectProfile(**facts), stop_sequences=asked)
    assert made.body.get("stop") == sent
    assert made.local_stop_sequences == local
    assert said(made) == []


def test_invisible_stop_sequences_are_ignored() -> None:
    made = plan(stop_sequences=["", "\n", " a"])
    assert made.local_stop_sequences == (" a",)
    assert said(made) == [("stop_sequences", "dropped")]


# -- structured output

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
FORMAT = {"type": "json_schema", "schema": SCHEMA}


@pytest.mark.parametrize(
    ("asked", "path"),
    [
        ({"output_config": {"format": FORMAT}}, "output_config.format"),
        ({"output_format": FORMAT}, "output_format"),
    ],
)
def test_formats(asked: dict, path: str) -> None:
    made = plan(**asked)
    assert made.body["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "response", "schema": SCHEMA, "strict": True},
    }
    assert said(made) == []
    assert not made.forced_by_schema
    for kind, sent in (("json_object", {"type": "json_object"}), ("none", None)):
        emulated = plan(DialectProfile(response_format=kind), **asked)
        assert emulated.body.get("response_format") == sent
        prompt = emulated.body["messages"][0]
        assert prompt["role"] == "system"
        assert "JSON" in prompt["content"]
        assert '{"a":{"type":"integer"}}' in prompt["content"]
        assert said(emulated) == [(path, "emulated")]


def test_unknown_formats_are_reported() -> None:
    made = plan(output_config={"format": {"type": "grammar"}})
    assert "response_format" not in made.body
    assert said(made) == [("output_config.format", "dropped")]


# -- nothing is dropped in silence

UNHONOURED: dict[str, tuple[dict[str, Any], str]] = {
    "container": ({"container": "c_1"}, "container"),
    "speed": ({"speed": "fast"}, "speed"),
    "service_tier": ({"service_tier": "flex"}, "service_tier"),
    "inference_geo": ({"inference_geo": "eu"}, "inference_geo"),
    "diagnostics": ({"diagnostics": {"previous_message_id": "m"}}, "diagnostics"),
    "fallbacks": ({"fallbacks": [{"model": "x"}]}, "fallbacks"),
    "fallback_credit_token": ({"fallback_credit_token": "t"}, "fallback_credit_token"),
    "billing_policy": ({"billing_policy": {"type": "user_profile"}}, "billing_policy"),
    "safeguards": ({"safeguards": [{"type": "dangerous_tool_use"}]}, "safeguards"),
    "task_budget": (
        {"output_config": {"task_budget": {"type": "tokens", "total": 9}}},
        "output_config.task_budget",
    ),
    "clear_tool_uses": (
        {"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}},
        "context_management.edits.0",
    ),
    "compact": (
        {"context_management": {"edits": [{"type": "compact_20260112"}]}},
        "context_management.edits.0",
    ),
    "a user's effort": (
        {"messages": [user("Hi") | {"output_config": {"effort": "low"}}]},
        "messages.0.output_config",
    ),
    "unknown edit": (
        {"context_management": {"edits": [{"type": "future"}]}},
        "context_management.edits.0",
    ),
    "odd edit": ({"context_management": {"edits": [5]}}, "context_management.edits.0"),
    "unknown field": ({"tags": ["a"]}, "tags"),
}


@pytest.mark.parametrize(("fields", "path"), UNHONOURED.values(), ids=UNHONOURED)
def test_what_is_not_done_is_reported(fields: dict, path: str) -> None:
    made = plan(**fields)
    assert said(made) == [(path, "dropped")]
    assert made.body == plan().body


@pytest.mark.parametrize(
    "fields",
    [
        {"service_tier": "auto"},
        {"service_tier": "standard_only"},
        {"speed": "standard"},
        {"billing_policy": {"type": "self"}},
        {"diagnostics": {}},
        {"cache_control": {"type": "ephemeral", "ttl": "1h"}},
        {"context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}},
        {"context_management": {"edits": [{"type": "clear_thinking_20251015"}]}},
        {"context_management": "odd"},
        {"mcp_servers": []},
        {"compaction": None},
    ],
    ids=str,
)
def test_what_asks_for_nothing_is_not_reported(fields: dict) -> None:
    made = plan(**fields)
    assert said(made) == []
    assert made.body == plan().body


def test_a_temperature_without_effect_is_not_sent() -> None:
    profile = DialectProfile(
        thinking="toggle", thinking_switch="thinking_type", temperature_in_thinking=False
    )
    asked = {"temperature": 0.3, "thinking": {"type": "adaptive"}}
    made = plan(profile, **asked)
    assert "temperature" not in made.body
    assert said(made) == [("temperature", "dropped")]
    off = plan(profile, **(asked | {"thinking": {"type": "disabled"}}))
    assert off.body["temperature"] == 0.3
    always = plan(msgspec.structs.replace(profile, thinking="always"), temperature=0.3)
    assert "temperature" not in always.body


def test_a_system_message_may_hold_no_more_than_an_effort() -> None:
    config = {"effort": "low", "task_budget": {"type": "tokens", "total": 9}}
    messages = [user("Hi"), {"role": "system", "content": "S", "output_config": config}]
    profile = DialectProfile(thinking="always", effort_values=("low",))
    made = plan(profile, messages=messages)
    assert made.body["reasoning_effort"] == "low"
    assert ("messages.1.output_config", "dropped") in said(made)


def test_an_upstream_that_takes_no_user() -> None:
    profile = DialectProfile(sends_user=False)
    assert said(plan(profile, metadata={"user_id": "u-1"})) == [("metadata.user_id", "dropped")]
    assert said(plan(profile, metadata={})) == []


def test_thinking_is_cleared_only_where_it_goes_back() -> None:
    edit = {"type": "clear_thinking_20251015", "keep": {"type": "thinking_turns", "value": 1}}
    fields = {"context_management": {"edits": [edit]}}
    assert said(plan(**fields)) == []
    echoing = DialectProfile(echo_reasoning="always")
    assert said(plan(echoing, **fields)) == [("context_management.edits.0", "dropped")]


def test_adjustments_are_bounded_and_said_once() -> None:
    odd = [{"type": f"strange_{n}"} for n in range(300)]
    assert len(plan(messages=[user(*odd)]).adjustments) == 100
    same = [{"type": "strange"}] * 300
    assert said(plan(messages=[user(*same)])) == [("messages.0.content.0", "dropped")]
