"""docs/reference/models.md: up to date, complete, and true."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tools.make_models_page import (
    EMULATED,
    FEATURES,
    NATIVE,
    NEVER,
    PAGE,
    QUIET,
    VENDORS,
    listed_models,
    render_page,
)

from dragoman.core.dialects.platforms import PLATFORMS
from dragoman.core.dialects.registry import FAMILIES, find_profile
from dragoman.core.plan import Deployment, Plan, make_plan
from dragoman.presets import load_catalog
from support.plans import MINIMAL, SIGNER, assistant, parse, tool, user

MODELS: dict[str, Any] = json.loads(
    (Path(__file__).parent / "core" / "dialects" / "models.json").read_text(encoding="utf-8")
)
DATA = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}
TOOLS = {"tools": [tool("f"), tool("g")]}
ON = {"thinking": {"type": "enabled", "budget_tokens": 2048}, "max_tokens": 4096}


def test_the_page_is_up_to_date() -> None:
    written = PAGE.read_text(encoding="utf-8")
    assert written == render_page(), "run: make golden"


def test_the_page_has_every_model() -> None:
    ids = [name for family in FAMILIES for name, _ in listed_models(family)]
    assert len(set(ids)) == len(ids)
    assert set(ids) == set(MODELS)
    page = PAGE.read_text(encoding="utf-8")
    for name in ids:
        assert page.count(f"| `{name}` |") >= 1


def test_the_page_has_every_model_of_kspmas() -> None:
    part = PAGE.read_text(encoding="utf-8").partition("## Kingsoft Cloud KSPMAS")[2]
    part = part.partition("## Platforms and engines")[0]
    for name in load_catalog().presets["kspmas"].models:
        assert f" `{name}` |" in part


def field_status(plan: Plan, name: str, *fields: str) -> str:
    """Say what became of a field: of the request by *name*, of the body by *fields*."""
    actions = {a.action for a in plan.adjustments if a.field.startswith(name)}
    if actions & {"emulated"}:
        return EMULATED
    if actions & {"dropped"}:
        return NEVER
    return NATIVE if any(field in plan.body for field in fields) else NEVER


def forced_status(plan: Plan) -> str:
    if "tools" not in plan.body:
        return NEVER
    if plan.forced_by_schema or plan.body.get("tool_choice") in (None, "auto"):
        return EMULATED
    if any(a.field == "tool_choice" and a.action == "emulated" for a in plan.adjustments):
        return EMULATED
    is_quiet = any("cannot be forced" in a.reason for a in plan.adjustments)
    return QUIET if is_quiet else NATIVE


def thinking_status(plan: Plan) -> str:
    off = make_plan(
        parse({**MINIMAL, "thinking": {"type": "disabled"}}), plan.deployment, signer=SIGNER
    )
    fields = ("thinking", "enable_thinking", "chat_template_kwargs", "reasoning")
    return NATIVE if any(plan.body.get(f) != off.body.get(f) for f in fields) else NEVER


def echo_status(plan: Plan) -> str:
    [said] = [m for m in plan.body["messages"] if m["role"] == "assistant"]
    return NATIVE if {"reasoning", "reasoning_content"} & said.keys() else NEVER


def single_status(plan: Plan) -> str:
    if "tools" not in plan.body:
        return NEVER
    assert plan.single_tool_call
    return NATIVE if plan.body.get("parallel_tool_calls") is False else EMULATED


def none_status(plan: Plan) -> str:
    if plan.deployment.profile.has_tools and plan.body.get("tool_choice") == "none":
        return NATIVE
    return EMULATED if plan.deployment.profile.has_tools else NEVER


def prefill_status(plan: Plan) -> str:
    return EMULATED if plan.body["messages"][-1]["role"] == "user" else NATIVE


def stop_status(plan: Plan) -> str:
    assert bool(plan.local_stop_sequences) is not bool(plan.body.get("stop"))
    return NATIVE if plan.body.get("stop") else EMULATED


def image_status(plan: Plan) -> str:
    return NATIVE if isinstance(plan.body["messages"][-1]["content"], list) else NEVER


def named(name: str, *fields: str) -> Callable[[Plan], str]:
    return lambda plan: field_status(plan, name, *fields)


THOUGHT = {"type": "thinking", "thinking": "Hm.", "signature": ""}
CALL = {"type": "tool_use", "id": "a", "name": "f", "input": {}}
RESULT = {"type": "tool_result", "tool_use_id": "a", "content": "b"}
FORMAT = {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}}
# For each row: what is asked for, and how a plan shows what becomes of it.
PROBES: dict[str, tuple[dict[str, Any], Callable[[Plan], str]]] = {
    "thinking on and off": (ON, thinking_status),
    "effort": (
        {"output_config": {"effort": "high"}, "thinking": {"type": "adaptive"}},
        named("output_config.effort", "reasoning_effort", "reasoning"),
    ),
    "thinking budget": (
        ON,
        named("thinking.budget_tokens", "thinking_budget", "reasoning_effort", "reasoning"),
    ),
    "earlier thinking goes back": (
        {**TOOLS, "messages": [user("Hi"), assistant(THOUGHT, CALL), user(RESULT)]},
        echo_status,
    ),
    "a tool, `any`": ({**TOOLS, **ON, "tool_choice": {"type": "any"}}, forced_status),
    "a tool, by name": (
        {**TOOLS, **ON, "tool_choice": {"type": "tool", "name": "f"}},
        forced_status,
    ),
    "no tool": ({**TOOLS, "tool_choice": {"type": "none"}}, none_status),
    "one call at a time": (
        {**TOOLS, "tool_choice": {"type": "auto", "disable_parallel_tool_use": True}},
        single_status,
    ),
    "stop sequences": ({"stop_sequences": ["###"]}, stop_status),
    "temperature": ({"temperature": 0.5}, named("temperature", "temperature")),
    "top_p": ({"top_p": 0.5}, named("top_p", "top_p")),
    "top_k": ({"top_k": 5}, named("top_k", "top_k")),
    "structured output": (FORMAT, named("output_config.format", "response_format")),
    "images": ({"messages": [user({"type": "image", "source": DATA})]}, image_status),
    "prefill": ({"messages": [user("Hi"), assistant("So")]}, prefill_status),
}
PLACES = [
    *((name, VENDORS[f.name]) for f in FAMILIES for name, _ in listed_models(f)),
    *((name, "kspmas") for f in FAMILIES for name, _ in listed_models(f)),
    *(("a-model-nobody-knows", platform) for platform in PLATFORMS),
]


@pytest.mark.parametrize("feature", PROBES)
def test_the_page_says_what_plans_do(feature: str) -> None:
    asked, status = PROBES[feature]
    wrong = {}
    for model, platform in PLACES:
        profile = find_profile(model, platform=platform)
        deployment = Deployment(upstream="lab", model=model, profile=profile)
        plan = make_plan(parse(MINIMAL | asked), deployment, signer=SIGNER)
        said, done = FEATURES[feature](profile), status(plan)
        if said != done:
            wrong[model, platform] = (said, done)
    assert wrong == {}


def test_every_row_is_probed() -> None:
    assert FEATURES.keys() - PROBES.keys() == {"exact token counts"}
