"""Tools that the client runs: the functions shown for them, and the members of toolsets."""

import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from dragoman.core.client_tools import client_tool_function, toolset_members
from dragoman.wire.anthropic import Tool

COMPUTER_ACTIONS = {
    "computer_20241022": 10,
    "computer_20250124": 16,
    "computer_20251124": 16,
}
KINDS = (
    *("bash_20241022", "bash_20250124", "memory_20250818", *COMPUTER_ACTIONS),
    *("text_editor_20241022", "text_editor_20250124"),
    *("text_editor_20250429", "text_editor_20250728"),
)
# Fields and, with a star, required fields of members that are not like their neighbours.
MEMBERS = {
    "computer": {
        "key": {"text*", "repeat"},
        "left_click_drag": {"start_coordinate*", "coordinate*", "text"},
        "left_mouse_down": set(),
        "scroll": {"scroll_direction*", "scroll_amount*", "coordinate", "text"},
        "zoom": {"region*"},
    },
    "browser": {
        "navigate": {"url*", "tab_id"},
        "left_click": {"target*", "modifiers", "tab_id"},
        "form_input": {"target*", "value*", "tab_id"},
        "scroll": {"target*", "scroll_direction*", "scroll_amount", "tab_id"},
        "javascript_exec": {"text*", "tab_id"},
    },
}


def schemas() -> Iterator[tuple[str, dict[str, Any]]]:
    for kind in KINDS:
        found = client_tool_function(Tool(type=kind, enable_zoom=True))
        assert found is not None
        yield kind, found[2]
    for name in MEMBERS:
        for member, (_, schema) in members_of(name).items():
            yield f"{name}.{member}", schema


def members_of(name: str, **configs: Any) -> dict[str, tuple[str, dict[str, Any]]]:
    found = toolset_members(Tool(type=f"{name}_toolset_20260801", configs=configs or None))
    assert found is not None
    assert found[0] == name
    return found[1]


def fields(schema: dict[str, Any]) -> set[str]:
    required = schema.get("required", ())
    return {f"{field}*" if field in required else field for field in schema["properties"]}


SCHEMAS = dict(schemas())


@pytest.mark.parametrize("name", SCHEMAS)
def test_schemas_are_such_that_every_upstream_reads(name: str) -> None:
    """The strictest want a type at every property and no required field that is not there."""
    schema = SCHEMAS[name]
    assert schema["type"] == "object"
    assert set(schema.get("required", ())) <= set(schema["properties"])
    waiting = [*schema["properties"].values()]
    while waiting:
        inner = waiting.pop()
        assert "type" in inner or "anyOf" in inner
        waiting += [*inner.get("properties", {}).values(), *inner.get("anyOf", ())]
        waiting += [inner["items"]] if "items" in inner else []


NAMES = {
    "bash_20250124": "bash",
    "memory_20250818": "memory",
    "computer_20250124": "computer",
    "text_editor_20241022": "str_replace_editor",
    "text_editor_20250124": "str_replace_editor",
    "text_editor_20250429": "str_replace_based_edit_tool",
    "text_editor_20250728": "str_replace_based_edit_tool",
}


@pytest.mark.parametrize(("kind", "name"), NAMES.items(), ids=NAMES)
def test_names(kind: str, name: str) -> None:
    for given, expected in ((None, name), ("own", "own")):
        found = client_tool_function(Tool(type=kind, name=given))
        assert found is not None
        assert found[0] == expected


@pytest.mark.parametrize(("kind", "count"), COMPUTER_ACTIONS.items(), ids=COMPUTER_ACTIONS)
def test_actions_of_computers(kind: str, count: int) -> None:
    for zooms, more in ((None, 0), (True, 1)):
        found = client_tool_function(Tool(type=kind, enable_zoom=zooms))
        assert found is not None
        properties = found[2]["properties"]
        assert len(properties["action"]["enum"]) == count + more
        assert ("region" in properties) is bool(more)


@pytest.mark.parametrize("kind", ["text_editor_20250124", "text_editor_20250429"])
def test_only_older_editors_can_undo(kind: str) -> None:
    found = client_tool_function(Tool(type=kind))
    assert found is not None
    commands = found[2]["properties"]["command"]["enum"]
    assert ("undo_edit" in commands) is (kind == "text_editor_20250124")


def test_what_a_declaration_says_is_in_the_description() -> None:
    screen = Tool(
        type="computer_20250124", display_width_px=9, display_height_px=8, display_number=0
    )
    for tool, words in (
        (screen, "The screen is 9x8 pixels. Its X11 display is number 0."),
        (Tool(type="text_editor_20250728", max_characters=5), "at most 5 characters"),
    ):
        found = client_tool_function(tool)
        assert found is not None
        assert words in found[1]


@pytest.mark.parametrize("kind", [None, "custom", "", "bash", "web_search_20250305", "x_1"])
def test_other_kinds(kind: str | None) -> None:
    assert client_tool_function(Tool(type=kind, name="bash")) is None
    assert toolset_members(Tool(type=kind)) is None


# -- toolsets


@pytest.mark.parametrize(("name", "count"), [("computer", 17), ("browser", 31)])
def test_members(name: str, count: int) -> None:
    members = members_of(name)
    assert len(members) == count
    assert {m: fields(members[m][1]) for m in MEMBERS[name]} == MEMBERS[name]
    assert all(description.endswith(".") for description, _ in members.values())


def test_members_that_are_switched_off() -> None:
    configs = {"zoom": {"enabled": False}, "key": {"enabled": True}, "wait": "odd"}
    assert members_of("computer").keys() - members_of("computer", **configs).keys() == {"zoom"}
    assert len(members_of("browser", **dict(itertools.islice(configs.items(), 1)))) == 30


def test_odd_configs_switch_nothing_off() -> None:
    odd = Tool(type="computer_toolset_20260801", configs=["zoom"])
    found = toolset_members(odd)
    assert found is not None
    assert len(found[1]) == 17


@pytest.mark.parametrize("kind", ["fax_toolset_20260801", "toolset", "computer_tools_1"])
def test_unknown_toolsets(kind: str) -> None:
    assert toolset_members(Tool(type=kind)) is None
