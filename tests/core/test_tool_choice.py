"""tool_choice on every kind of upstream."""

from typing import Any

import pytest

from dragoman.core.dialects.profile import DialectProfile
from support.chat_law import check_body
from support.plans import plan, said, tool

ONE, TWO = [tool("get")], [tool("get"), tool("put")]
NAMED = {"type": "function", "function": {"name": "put"}}
AUTO, ANY, NONE = ({"type": kind} for kind in ("auto", "any", "none"))
PUT = {"type": "tool", "name": "put"}


def choose(choice: dict, tools: list = TWO, **facts: Any) -> Any:
    made = plan(DialectProfile(**facts), tools=tools, tool_choice=choice)
    check_body(made.body)
    return made


@pytest.mark.parametrize(
    ("forced_tools", "choice", "tools", "sent"),
    [
        ("native", AUTO, TWO, "auto"),
        ("native", NONE, TWO, "none"),
        ("native", ANY, TWO, "required"),
        ("native", ANY, ONE, "required"),
        ("native", PUT, TWO, NAMED),
        ("named_only", AUTO, TWO, "auto"),
        ("named_only", PUT, TWO, NAMED),
        ("named_only", ANY, [tool("put")], NAMED),
        ("required_only", AUTO, TWO, "auto"),
        ("required_only", ANY, TWO, "required"),
        ("required_only", NONE, TWO, "none"),
        ("json_schema", AUTO, TWO, "auto"),
        ("json_schema", ANY, TWO, "none"),
        ("json_schema", NONE, TWO, "none"),
        ("hint", AUTO, TWO, "auto"),
    ],
)
def test_choices_that_bind(forced_tools: str, choice: dict, tools: list, sent: Any) -> None:
    made = choose(choice, tools, forced_tools=forced_tools)
    assert made.body["tool_choice"] == sent
    assert said(made) == []


def test_a_chosen_tool_is_the_only_one_where_it_cannot_be_named() -> None:
    made = choose(PUT, forced_tools="required_only")
    assert made.body["tool_choice"] == "required"
    assert [tool["function"]["name"] for tool in made.body["tools"]] == ["put"]
    assert made.tool_names == {"put"}
    assert said(made) == [("tool_choice", "emulated")]


@pytest.mark.parametrize(
    ("forced_tools", "choice", "words"),
    [
        ("hint", PUT, "a call of the tool put"),
        ("hint", ANY, "a call of one of the tools"),
        ("named_only", ANY, "a call of one of the tools"),
    ],
)
def test_choices_that_are_asked_for(forced_tools: str, choice: dict, words: str) -> None:
    made = choose(choice, forced_tools=forced_tools)
    assert "tool_choice" not in made.body
    assert words in made.body["messages"][0]["content"]
    assert said(made) == [("tool_choice", "emulated")]
    # It cannot call another tool in the place of the one that was chosen.
    sent = {tool["function"]["name"] for tool in made.body["tools"]}
    assert sent == ({"put"} if choice == PUT else {"get", "put"})
    assert made.tool_names == sent


def test_no_tools_where_none_cannot_be_said() -> None:
    made = choose(NONE, forced_tools="hint")
    assert "tools" not in made.body
    assert made.tool_names == frozenset()
    assert said(made) == [("tool_choice", "emulated")]


def test_no_choice_without_tools() -> None:
    for choice, adjustments in ((ANY, [("tool_choice", "dropped")]), (AUTO, []), (NONE, [])):
        assert said(choose(choice, [])) == adjustments


# -- forced by a schema


def call_schema(made: Any) -> dict:
    assert made.forced_by_schema
    response_format = made.body["response_format"]
    assert response_format["type"] == "json_schema"
    return response_format["json_schema"]["schema"]


def test_a_forced_tool_as_a_schema() -> None:
    schema = call_schema(choose(PUT, forced_tools="json_schema"))
    assert schema == {
        "type": "object",
        "properties": {
            "name": {"type": "string", "enum": ["put"]},
            "arguments": {"type": "object", "properties": {"q": {"type": "string"}}},
        },
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def test_any_tool_as_a_schema() -> None:
    schema = call_schema(choose(ANY, forced_tools="json_schema"))
    assert [form["properties"]["name"]["enum"] for form in schema["anyOf"]] == [["get"], ["put"]]


def test_definitions_move_to_the_root() -> None:
    def with_definition(key: str) -> dict:
        return {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "properties": {"p": {"anyOf": [{"$ref": f"#/{key}/point"}, {"$ref": "#"}]}},
            key: {"point": {"items": [{"$ref": f"#/{key}/point"}]}},
        }

    tools = [
        tool("get", input_schema=with_definition("$defs")),
        tool("put", input_schema=with_definition("definitions")),
    ]
    schema = call_schema(choose(ANY, tools, forced_tools="json_schema"))
    first, second = (form["properties"]["arguments"] for form in schema["anyOf"])
    assert first["properties"]["p"]["anyOf"] == [
        {"$ref": "#/$defs/0_point"},
        {"$ref": "#/$defs/0_whole"},
    ]
    assert second["properties"]["p"]["anyOf"][0] == {"$ref": "#/$defs/1_point"}
    assert first["type"] == "object"
    assert "$schema" not in first
    for number in (0, 1):
        point, whole = f"{number}_point", f"{number}_whole"
        assert schema["$defs"][point] == {"items": [{"$ref": f"#/$defs/{point}"}]}
        branches = schema["$defs"][whole]["properties"]["p"]["anyOf"]
        assert branches == [{"$ref": f"#/$defs/{point}"}, {"$ref": f"#/$defs/{whole}"}]
    only = call_schema(choose(PUT, tools, forced_tools="json_schema"))
    assert list(only["$defs"]) == ["point", "whole"]


def test_a_forced_call_leaves_no_room_for_a_format() -> None:
    made = plan(
        DialectProfile(forced_tools="json_schema"),
        tools=ONE,
        tool_choice=ANY,
        output_config={"format": {"type": "json_schema", "schema": {}}},
    )
    assert "tool_call" in str(made.body["response_format"])
    assert said(made) == [("output_config.format", "dropped")]


# -- names


def test_names_that_were_changed_are_found() -> None:
    long = "x" * 100
    made = choose({"type": "tool", "name": long}, [tool(long), tool("get")])
    assert made.toolset_members[made.body["tool_choice"]["function"]["name"]] == (long, "")


def test_members_of_toolsets_can_be_forced() -> None:
    toolset = [{"type": "computer_toolset_20260801"}]
    made = choose({"type": "tool", "name": "screenshot"}, toolset)
    assert made.body["tool_choice"]["function"]["name"] == "computer_screenshot"


def test_what_was_dropped_cannot_be_forced_by_name() -> None:
    unknown = {"type": "future_20300101", "name": "future"}
    made = choose({"type": "tool", "name": "future"}, [unknown, tool("get")])
    assert "tool_choice" not in made.body
    assert said(made) == [("tools.0", "dropped"), ("tool_choice", "dropped")]


# -- one call at most


@pytest.mark.parametrize("choice", [AUTO, ANY, PUT])
@pytest.mark.parametrize("has_field", [True, False])
def test_one_call_at_most(choice: dict, *, has_field: bool) -> None:
    single = choice | {"disable_parallel_tool_use": True}
    made = choose(single, parallel_tool_calls_field=has_field)
    assert made.single_tool_call
    assert made.body.get("parallel_tool_calls") is (False if has_field else None)
    assert not choose(choice).single_tool_call


# -- forcing and thinking

THINKER = {
    "thinking": "toggle",
    "thinking_switch": "thinking_type",
    "forced_tools_need_no_thinking": True,
}


def test_thinking_gives_way_to_a_forced_tool() -> None:
    made = plan(
        DialectProfile(**THINKER), tools=TWO, tool_choice=PUT, thinking={"type": "adaptive"}
    )
    assert made.body["tool_choice"] == NAMED
    assert made.body["thinking"] == {"type": "disabled"}
    assert said(made) == [("thinking", "dropped")]


def test_models_that_can_do_both_do_both() -> None:
    profile = DialectProfile(**THINKER | {"forced_tools_need_no_thinking": False})
    made = plan(profile, tools=TWO, tool_choice=PUT, thinking={"type": "adaptive"})
    assert made.body["tool_choice"] == NAMED
    assert made.body["thinking"] == {"type": "enabled"}
    assert said(made) == []


def test_no_conflict_without_thinking() -> None:
    made = plan(DialectProfile(**THINKER), tools=TWO, tool_choice=PUT)
    assert made.body["thinking"] == {"type": "disabled"}
    assert said(made) == []


@pytest.mark.parametrize(
    "facts", [{"thinking": "always"}, {"thinking": "unknown", "thinking_switch": "none"}]
)
def test_models_that_cannot_stop_thinking_are_asked(facts: dict) -> None:
    made = choose(PUT, forced_tools_need_no_thinking=True, **facts)
    assert "tool_choice" not in made.body
    assert ("tool_choice", "emulated") in said(made)


def test_models_that_never_think_are_forced() -> None:
    made = choose(PUT, forced_tools_need_no_thinking=True, thinking="never")
    assert made.body["tool_choice"] == NAMED
