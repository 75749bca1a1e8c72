"""Thinking, budget and effort on every kind of upstream."""

from typing import Any

import pytest

from dragoman.core.dialects.profile import DialectProfile
from support.plans import assistant, plan, said, system, user

ENABLED = {"type": "enabled", "budget_tokens": 5000}
ADAPTIVE, DISABLED = {"type": "adaptive"}, {"type": "disabled"}
SWITCHES = {
    "none": ({}, {}),
    "thinking_type": ({"thinking": {"type": "enabled"}}, {"thinking": {"type": "disabled"}}),
    "enable_thinking": ({"enable_thinking": True}, {"enable_thinking": False}),
    "template_thinking": (
        {"chat_template_kwargs": {"thinking": True}},
        {"chat_template_kwargs": {"thinking": False}},
    ),
    "template_enable_thinking": (
        {"chat_template_kwargs": {"enable_thinking": True}},
        {"chat_template_kwargs": {"enable_thinking": False}},
    ),
    "openrouter": ({"reasoning": {"enabled": True}}, {"reasoning": {"enabled": False}}),
    "effort_none": ({}, {"reasoning_effort": "none"}),
}
PLAIN_KEYS = {"model", "messages", "max_tokens", "stream", "stream_options"}


def toggle(**facts: Any) -> DialectProfile:
    return DialectProfile(**{"thinking": "toggle", "thinking_switch": "thinking_type"} | facts)


def extra(made: Any) -> dict:
    return {key: value for key, value in made.body.items() if key not in PLAIN_KEYS}


@pytest.mark.parametrize("switch", SWITCHES)
@pytest.mark.parametrize(
    ("asked", "is_on"),
    [
        (ENABLED, True),
        (ADAPTIVE, True),
        (DISABLED, False),
        ({"type": "between_tools"}, False),
        ({"type": "future"}, False),
        (None, False),
    ],
)
def test_switches(switch: str, asked: dict | None, *, is_on: bool) -> None:
    profile = toggle(thinking_switch=switch, thinking_budget_field=None)
    assert extra(plan(profile, thinking=asked)) == SWITCHES[switch][0 if is_on else 1]


@pytest.mark.parametrize(
    ("thinking", "asked", "adjustments"),
    [
        ("never", ADAPTIVE, ["thinking"]),
        ("never", DISABLED, []),
        ("never", None, []),
        ("always", ADAPTIVE, []),
        ("always", DISABLED, ["thinking"]),
        ("unknown", ADAPTIVE, []),
        ("unknown", DISABLED, ["thinking"]),
        ("unknown", {"type": "enabled"}, ["thinking"]),
        ("unknown", None, []),
        ("toggle", {"type": "enabled"}, ["thinking"]),
    ],
)
def test_what_cannot_be_switched(thinking: str, asked: dict | None, adjustments: list) -> None:
    made = plan(DialectProfile(thinking=thinking), thinking=asked)
    assert extra(made) == {}
    assert said(made) == [(field, "dropped") for field in adjustments]


def test_a_model_that_always_thinks_says_so_to_those_who_did_not_ask() -> None:
    made = plan(DialectProfile(thinking="always"))
    assert extra(made) == {}
    assert said(made) == [("thinking", "noticed")]


def test_a_switch_that_is_missing_is_told_to_those_who_did_not_ask() -> None:
    made = plan(DialectProfile(thinking="toggle"))
    assert said(made) == [("thinking", "noticed")]
    assert said(plan(DialectProfile(thinking="unknown"))) == []


def test_an_effort_where_thinking_is_switched_by_it() -> None:
    profile = toggle(thinking_switch="effort_none", effort_values=("low", "medium", "high"))
    asked = {"thinking": ADAPTIVE, "output_config": {"effort": "max"}}
    assert extra(plan(profile, **asked)) == {"reasoning_effort": "high"}
    off = plan(profile, **(asked | {"thinking": DISABLED}))
    assert extra(off) == {"reasoning_effort": "none"}
    assert said(off) == [("output_config.effort", "dropped")]


@pytest.mark.parametrize("thinking", ["never", "always"])
def test_no_switch_is_sent_where_there_is_nothing_to_switch(thinking: str) -> None:
    assert extra(plan(toggle(thinking=thinking), thinking=ADAPTIVE)) == {}


@pytest.mark.parametrize(
    ("asked", "show"),
    [
        (None, "none"),
        (DISABLED, "none"),
        (ENABLED, "full"),
        (ADAPTIVE | {"display": "summarized"}, "full"),
        (ADAPTIVE | {"display": "updates"}, "full"),
        (ADAPTIVE | {"display": "omitted"}, "omitted"),
    ],
)
def test_what_is_shown(asked: dict | None, show: str) -> None:
    assert plan(thinking=asked).show_thinking == show


def test_block_binding_is_reported() -> None:
    made = plan(toggle(), thinking=ADAPTIVE | {"block_binding": {"x": 1}})
    assert said(made) == [("thinking.block_binding", "dropped")]


# -- budget


def test_a_budget_is_clamped_to_what_is_taken() -> None:
    profile = toggle(thinking_budget_field="budget", thinking_budget_max=4000)
    made = plan(profile, thinking=ENABLED, max_tokens=5001)
    assert made.body["budget"] == 4000
    assert said(made) == [("thinking.budget_tokens", "clamped")]


def test_a_budget_where_it_is_taken() -> None:
    made = plan(toggle(thinking_budget_field="budget"), thinking=ENABLED, max_tokens=5001)
    assert made.body["budget"] == 5000
    assert said(made) == []


@pytest.mark.parametrize(
    ("facts", "max_tokens", "budget"),
    [({}, 4000, 3000), ({}, 1, 1), ({"max_output_tokens": 2000}, 32_000, 1500)],
)
def test_a_budget_leaves_room_for_an_answer(facts: dict, max_tokens: int, budget: int) -> None:
    profile = toggle(thinking_budget_field="budget", **facts)
    made = plan(profile, thinking=ENABLED, max_tokens=max_tokens)
    assert made.body["budget"] == budget
    assert ("thinking.budget_tokens", "clamped") in said(made)


@pytest.mark.parametrize(
    ("budget", "effort"), [(4096, "low"), (4097, "medium"), (16384, "medium"), (16385, "high")]
)
def test_a_budget_as_effort(budget: int, effort: str) -> None:
    made = plan(
        toggle(effort_values=("low", "medium", "high")),
        thinking={"type": "enabled", "budget_tokens": budget},
    )
    assert made.body["reasoning_effort"] == effort
    assert said(made) == [("thinking.budget_tokens", "emulated")]


def test_a_budget_that_nothing_takes() -> None:
    assert said(plan(toggle(), thinking=ENABLED)) == [("thinking.budget_tokens", "dropped")]
    asked = {"thinking": ENABLED, "output_config": {"effort": "low"}}
    made = plan(toggle(effort_values=("low",)), **asked)
    assert made.body["reasoning_effort"] == "low"
    assert said(made) == [("thinking.budget_tokens", "dropped")]


# -- effort


@pytest.mark.parametrize(
    ("values", "asked", "sent"),
    [
        (("low", "medium", "high"), "medium", "medium"),
        (("low", "high", "max"), "medium", "high"),
        (("low", "high", "max"), "xhigh", "max"),
        (("low", "medium", "high"), "max", "high"),
        (("minimal", "low"), "max", "low"),
        (("none", "high"), "low", "high"),
        (("low", "high"), "strange", "high"),
    ],
)
def test_the_nearest_effort(values: tuple, asked: str, sent: str) -> None:
    made = plan(toggle(effort_values=values), thinking=ADAPTIVE, output_config={"effort": asked})
    assert made.body["reasoning_effort"] == sent
    assert said(made) == ([] if asked == sent else [("output_config.effort", "clamped")])


@pytest.mark.parametrize(
    ("profile", "asked"),
    [
        (toggle(), ADAPTIVE),
        (toggle(effort_values=("none",)), ADAPTIVE),
        (toggle(effort_values=("low", "high")), DISABLED),
        (toggle(effort_values=("low", "high")), None),
    ],
)
def test_effort_that_cannot_be_had(profile: DialectProfile, asked: dict | None) -> None:
    made = plan(profile, thinking=asked, output_config={"effort": "high"})
    assert "reasoning_effort" not in made.body
    assert said(made) == [("output_config.effort", "dropped")]


def test_models_that_always_think_take_effort() -> None:
    profile = toggle(thinking="always", effort_values=("low", "high"))
    assert plan(profile, output_config={"effort": "low"}).body["reasoning_effort"] == "low"


def test_effort_on_openrouter() -> None:
    profile = toggle(thinking_switch="openrouter", effort_values=("low", "high"))
    made = plan(profile, thinking=ADAPTIVE, output_config={"effort": "low"})
    assert made.body["reasoning"] == {"enabled": True, "effort": "low"}


def test_the_effort_of_the_last_system_message_wins() -> None:
    messages = [
        user("Hi"),
        system("S", output_config={"effort": "low"}),
        assistant("A"),
        user("B"),
        {"role": "system", "output_config": {"effort": "max"}},
        {"role": "system", "content": "T", "output_config": {"effort": 5}},
        {"role": "system", "content": "U", "output_config": "odd"},
    ]
    made = plan(
        toggle(effort_values=("low", "high")),
        thinking=ADAPTIVE,
        output_config={"effort": "low"},
        messages=messages,
    )
    assert made.body["reasoning_effort"] == "high"
    assert said(made) == [
        ("messages.4.output_config.effort", "clamped"),
        ("messages.6.output_config", "dropped"),
    ]


@pytest.mark.parametrize("kind", ["between_tools", "future"])
def test_other_kinds_of_thinking_are_reported(kind: str) -> None:
    assert said(plan(toggle(), thinking={"type": kind})) == [("thinking.type", "dropped")]
    assert said(plan(toggle(), thinking=DISABLED)) == []
