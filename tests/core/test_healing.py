"""Refusals as upstreams word them, and what is learnt from each."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.core.dialects.profile import GENERIC, DialectProfile
from dragoman.core.healing import Refusal, learn_from_refusal

PROFILE = DialectProfile(
    top_k=True,
    reports_stop=True,
    effort_values=("low", "high"),
    thinking="toggle",
    thinking_switch="thinking_type",
    thinking_budget_field="thinking_budget",
    strict_tools=True,
    prefill="partial",
    sees_images=True,
)
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,eA=="}}
BODY: dict[str, Any] = {
    "messages": [
        {"role": "user", "content": [PICTURE]},
        {"role": "assistant", "content": "", "partial": True},
    ],
    "tools": [{"type": "function", "function": {"name": "get", "strict": True}}],
    "tool_choice": "required",
    "response_format": {"type": "json_schema"},
    "max_tokens": 100,
    "temperature": 1.5,
    "top_p": 0.5,
    "top_k": 3,
    "stop": ["x"],
    "user": "me",
    "stream_options": {"include_usage": True},
    "parallel_tool_calls": False,
    "reasoning_effort": "low",
    "thinking": {"type": "enabled"},
    "thinking_budget": 5,
    "enable_thinking": True,
}
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "OpenAI, a stranger": (
        "Unrecognized request argument supplied: top_k",
        "",
        {"top_k": False},
    ),
    "OpenAI, by param alone": ("Bad value", "top_p", {"top_p": False}),
    "pydantic's path": ("Extra inputs are not permitted", "body.user", {"sends_user": False}),
    "OpenAI, another name": (
        "Unsupported parameter: 'max_tokens' is not supported with this model. "
        "Use 'max_completion_tokens' instead.",
        "max_tokens",
        {"max_tokens_field": "max_completion_tokens"},
    ),
    "GLM, temperature over its range": (
        "temperature parameter is invalid; it should be between 0 and 1",
        "",
        {"temperature_max": 1.0},
    ),
    "DashScope, a half-open range": (
        "'temperature' must be in the range of [0.0, 1.4)",
        "",
        {"temperature_max": pytest.approx(1.39)},
    ),
    "Kimi, a fixed value": (
        "invalid temperature: only 1 is allowed for this model",
        "",
        {"temperature_max": None},
    ),
    "DeepSeek, forcing while thinking": (
        "Thinking mode does not support this tool_choice",
        "",
        {"forced_tools_need_no_thinking": True},
    ),
    "Qwen, required": (
        "tool_choice is one of the strings that should be ['none', 'auto']",
        "",
        {"forced_tools": "named_only"},
    ),
    "no schemas": (
        "response_format.type json_schema is not supported",
        "",
        {"response_format": "json_object"},
    ),
    "strict": ("unknown field 'strict' in tools[0].function", "", {"strict_tools": False}),
    "effort": (
        "reasoning_effort is not supported by this model",
        "",
        {"effort_values": ()},
    ),
    "a thinking switch": (
        'Unexpected field "thinking"',
        "",
        {"thinking_switch": "none"},
    ),
    "a thinking switch, as a path": (
        "body.thinking: extra_forbidden",
        "",
        {"thinking_switch": "none"},
    ),
    "a thinking switch, at the beginning": (
        "thinking: unsupported property",
        "",
        {"thinking_switch": "none"},
    ),
    "a budget": ("thinking_budget must be positive", "", {"thinking_budget_field": None}),
    "usage in streams": ("Unknown parameter stream_options", "", {"stream_options": False}),
    "stop": ("Invalid 'stop': too many", "", {"reports_stop": False}),
    "prefill": ("Unknown field 'partial'", "", {"prefill": "hint"}),
    "pictures": (
        "Model only supports text; image_url is not supported",
        "",
        {"sees_images": False},
    ),
    "Kimi, an empty text": (
        "Invalid request: text content is empty",
        "",
        {"empty_content": "omitted"},
    ),
    "DeepSeek, reasoning wanted": (
        "The reasoning_content in the thinking mode must be passed back to the API.",
        "",
        {"echo_reasoning": "always", "reasoning_placeholder": " "},
    ),
    "Kimi, reasoning wanted": (
        "thinking is enabled but reasoning_content is missing in assistant tool call message at 3",
        "",
        {"echo_reasoning": "always", "reasoning_placeholder": " "},
    ),
}


def test_a_name_of_max_tokens_that_is_not_known_teaches_the_other() -> None:
    profile = DialectProfile(max_tokens_field="max_completion_tokens")
    body = {"messages": [], "max_completion_tokens": 100}
    text = "Unrecognized request argument supplied: max_completion_tokens"
    assert learn_from_refusal(profile, body, Refusal(text=text)) == {
        "max_tokens_field": "max_tokens"
    }
    too_many = Refusal(text="max_completion_tokens must be at most 64")
    assert learn_from_refusal(profile, body, too_many) == {}


def test_a_budget_that_the_server_is_not_set_up_for() -> None:
    profile = DialectProfile(thinking_budget_field="thinking_token_budget")
    body = {"messages": [], "max_tokens": 100, "thinking_token_budget": 50}
    text = (
        "thinking_token_budget is set but reasoning_config is not configured. Please set "
        "--reasoning-parser and/or --reasoning-config to use thinking_token_budget."
    )
    learnt = learn_from_refusal(profile, body, Refusal(text=text))
    assert learnt == {"thinking_budget_field": None}


def test_mimo_says_in_its_own_way_that_reasoning_is_missing() -> None:
    refusal = Refusal(text="Param Incorrect", param="`text` is not set")
    echo = {"echo_reasoning": "always", "reasoning_placeholder": " "}
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "x"}]
    assert learn_from_refusal(GENERIC, {"messages": messages}, refusal) == echo
    assert learn_from_refusal(GENERIC, {"messages": messages[:1]}, refusal) == {}
    messages[1] |= {"reasoning_content": "Hm."}
    assert learn_from_refusal(GENERIC, {"messages": messages}, refusal) == {}


def test_an_effort_that_only_switches_thinking_off() -> None:
    profile = DialectProfile(thinking_switch="effort_none", effort_values=("low", "high"))
    body = {"messages": [], "reasoning_effort": "none"}
    refusal = Refusal(text="invalid reasoning value: 'none', reasoning_effort must be low or high")
    assert learn_from_refusal(profile, body, refusal) == {"thinking_switch": "none"}


@pytest.mark.parametrize(("text", "param", "facts"), CASES.values(), ids=CASES)
def test_learns(text: str, param: str, facts: dict[str, Any]) -> None:
    learnt = learn_from_refusal(PROFILE, BODY, Refusal(text=text, param=param))
    assert learnt == facts
    # What was learnt is known: the same refusal teaches nothing twice.
    wiser = msgspec.structs.replace(PROFILE, **learnt)
    assert learn_from_refusal(wiser, BODY, Refusal(text=text, param=param)) != learnt


NOTHING = {
    "the message is at fault": "messages: at least one user message is required",
    "a field that was not sent": "Unrecognized request argument supplied: seed",
    "an ordinary word": "the user must stop thinking about invalid reasoning",
    "no refusal": "top_k",
    "empty": "",
}


@pytest.mark.parametrize("text", NOTHING.values(), ids=NOTHING)
def test_learns_nothing(text: str) -> None:
    assert learn_from_refusal(PROFILE, BODY, Refusal(text=text)) == {}


def test_reasoning_that_is_not_wanted() -> None:
    profile = DialectProfile(echo_reasoning="always")
    refusal = Refusal(text="Unknown field reasoning_content")
    assert learn_from_refusal(profile, BODY, refusal) == {"echo_reasoning": "never"}
    assert learn_from_refusal(GENERIC, BODY, refusal) == {}


def test_forcing_grows_weaker_step_by_step() -> None:
    profile, seen = PROFILE, []
    refusal = Refusal(text="tool_choice is not supported")
    body = BODY
    for choice in ("required", {"type": "function"}, {"type": "function"}):
        body = BODY | {"tool_choice": choice}
        facts = learn_from_refusal(profile, body, refusal)
        seen.append(facts)
        profile = msgspec.structs.replace(profile, **facts)
    assert seen == [{"forced_tools": "named_only"}, {"forced_tools": "json_schema"}, {}]
    constrained = BODY | {"tool_choice": "none"}
    refusal = Refusal(text="response_format is not supported")
    facts = {"forced_tools": "hint", "response_format": "json_object"}
    assert learn_from_refusal(profile, constrained, refusal) == facts


@given(st.text(max_size=200), st.text(max_size=20))
def test_any_text_gives_facts_that_a_profile_takes(text: str, param: str) -> None:
    facts = learn_from_refusal(PROFILE, BODY, Refusal(text=text, param=param))
    msgspec.structs.replace(PROFILE, **facts)


# -- schemas

FIELDS = {
    "pattern": {"type": "string", "pattern": "^a$", "format": "uri", "default": "a"},
    "id": {"description": "Anything."},
    "more": {"$ref": "#/$defs/more"},
}
SCHEMA = {
    "type": "object",
    "properties": FIELDS,
    "propertyNames": {"minLength": 1},
    "additionalProperties": False,
    "$defs": {"more": {"oneOf": [{"type": "string"}]}},
}
WITH_SCHEMA: dict[str, Any] = {
    "messages": [],
    "tools": [{"type": "function", "function": {"name": "f", "parameters": SCHEMA}}],
}


def refused(*keywords: str) -> dict[str, Any]:
    return {"schema_refused": ("$schema", *keywords)}


SCHEMA_CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "Moonshot, no type": (
        "Invalid request: tools.function.parameters is not a valid moonshot flavored json schema, "
        "details: <At path 'properties.id': type is not defined>",
        {"schema_types": True},
    ),
    "Moonshot, a type beside a union": (
        "tools.function.parameters is not a valid moonshot flavored json schema, details: <At path "
        "'root': when using anyOf, type should be defined in anyOf items instead of the parent "
        "schema>",
        {"schema_types": True},
    ),
    "Moonshot, a reference": (
        "tools.function.parameters is not a valid moonshot flavored json schema, details: <At path "
        "'properties.more.$ref': references must start with #/$defs/>",
        {"schema_refs": False},
    ),
    "OpenAI": (
        "Invalid schema for function 'f': In context=('properties', 'pattern'), "
        "'format' is not permitted.",
        refused("format"),
    ),
    "Gemini": (
        'Invalid JSON payload received. Unknown name "propertyNames" at '
        "'tools[0].function_declarations[0].parameters': Cannot find field.",
        refused("propertyNames"),
    ),
    "a keyword that is no word": (
        "tools[0]: additionalProperties is not supported in parameters",
        refused("additionalProperties"),
    ),
    "a keyword that is a word": (
        "Unsupported schema keyword: default",
        refused("default"),
    ),
    "a definition's keyword": ("schema: oneOf is not allowed", refused("oneOf")),
    "a keyword that nobody sent": ("schema keyword 'patternProperties' is not supported", {}),
    "a word only": ("the tool call has no default format, only text", {}),
    "what a schema cannot do without": ("schema keyword 'properties' is not supported", {}),
    "no refusal": ("the schema keyword 'format' is fine", {}),
}


@pytest.mark.parametrize(("text", "facts"), SCHEMA_CASES.values(), ids=SCHEMA_CASES)
def test_schemas(text: str, facts: dict[str, Any]) -> None:
    assert learn_from_refusal(GENERIC, WITH_SCHEMA, Refusal(text=text)) == facts


def test_what_was_learnt_of_schemas_is_learnt_once() -> None:
    for text, facts in SCHEMA_CASES.values():
        profile = msgspec.structs.replace(GENERIC, **facts)
        sent = {**WITH_SCHEMA, "tools": []} if "schema_refused" in facts else WITH_SCHEMA
        assert learn_from_refusal(profile, sent, Refusal(text=text)) == {}


def test_keywords_add_up() -> None:
    profile = msgspec.structs.replace(GENERIC, **refused("format"))
    text = "Unsupported schema keyword: default"
    facts = learn_from_refusal(profile, WITH_SCHEMA, Refusal(text=text))
    assert facts == refused("format", "default")


def test_structured_output_has_schemas_too() -> None:
    body = {"response_format": {"json_schema": {"schema": SCHEMA}}, "messages": []}
    text = "'oneOf' is not permitted in response_format schemas"
    assert learn_from_refusal(GENERIC, body, Refusal(text=text)) == refused("oneOf")


def test_rules_of_strict_tools_are_not_about_keywords() -> None:
    function = {"name": "f", "strict": True, "parameters": SCHEMA}
    body = {"messages": [], "tools": [{"type": "function", "function": function}]}
    text = "Invalid schema: 'additionalProperties' is required to be supplied and only false"
    profile = msgspec.structs.replace(GENERIC, strict_tools=True)
    assert learn_from_refusal(profile, body, Refusal(text=text)) == {"strict_tools": False}
