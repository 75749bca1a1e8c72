"""Tools of a request as functions."""

from typing import Any

import pytest

from dragoman.core.dialects.profile import DialectProfile
from support.chat_law import check_body
from support.plans import assistant, call, plan, result, said, system, text, tool, user

SEARCH_TOOL = {"type": "tool_search_tool_regex_20251119", "name": "tool_search_tool_regex"}
STRICT = DialectProfile(strict_tools=True)


def functions(profile: DialectProfile = DialectProfile(), **fields: Any) -> dict[str, dict]:  # noqa: B008
    body = plan(profile, **fields).body
    check_body(body)
    return {t["function"]["name"]: t["function"] for t in body.get("tools", ())}


def names(**fields: Any) -> list[str]:
    return list(functions(**fields))


def test_a_custom_tool() -> None:
    schema = {"type": "object", "properties": {}, "additionalProperties": False}
    declared = {"name": "get", "description": "Gets.", "input_schema": {"$schema": "x", **schema}}
    assert plan(tools=[declared]).body["tools"] == [
        {
            "type": "function",
            "function": {"name": "get", "description": "Gets.", "parameters": schema},
        }
    ]


def test_no_description_is_no_field() -> None:
    assert "description" not in functions(tools=[{"name": "get", "input_schema": {}}])["get"]


def test_examples_go_into_the_description() -> None:
    made = functions(tools=[tool("get", input_examples=[{"q": "a"}, {"q": "b"}])])
    said_of_it = made["get"]["description"]
    assert said_of_it == 'Does get.\n\nExamples of input:\n{"q":"a"}\n{"q":"b"}'


def test_strict() -> None:
    assert functions(STRICT, tools=[tool("get", strict=True)])["get"]["strict"] is True
    made = plan(tools=[tool("get", strict=True)])
    assert "strict" not in made.body["tools"][0]["function"]
    assert said(made) == [("tools.0.strict", "dropped")]


@pytest.mark.parametrize(
    ("callers", "adjustments"),
    [
        (["direct"], []),
        (["direct", "code_execution_20260120"], [("tools.0.allowed_callers", "emulated")]),
    ],
)
def test_allowed_callers(callers: list, adjustments: list) -> None:
    assert said(plan(tools=[tool("get", allowed_callers=callers)])) == adjustments


def test_models_without_tools() -> None:
    made = plan(DialectProfile(has_tools=False), tools=[tool("get")], tool_choice={"type": "any"})
    check_body(made.body)
    assert "tools" not in made.body
    assert said(made) == [("tools", "dropped"), ("tool_choice", "dropped")]
    assert said(plan(DialectProfile(has_tools=False))) == []


def test_unknown_tools_are_reported() -> None:
    made = plan(tools=[{"type": "future_20300101", "name": "future"}, tool("get")])
    assert made.tool_names == {"get"}
    assert said(made) == [("tools.0", "dropped")]
    known = plan(tools=[tool("get", type="future_20300101")])
    assert known.tool_names == {"get"}


# -- names


def test_long_names_are_cut_and_lead_back() -> None:
    first, second = "x" * 100, "x" * 99 + "y"
    messages = [user("Hi"), assistant(call("a", first)), user(result("a"))]
    made = plan(tools=[tool(first), tool(second)], messages=messages)
    check_body(made.body)
    assert {name for name, _ in made.toolset_members.values()} == {first, second}
    used = made.body["messages"][1]["tool_calls"][0]["function"]["name"]
    assert made.toolset_members[used] == (first, "")


def test_names_that_meet_are_kept_apart() -> None:
    declared = [tool("computer_wait"), {"type": "computer_toolset_20260801"}]
    made = plan(tools=declared)
    assert {"computer_wait", "computer_wait_2"} <= made.tool_names
    assert made.toolset_members["computer_wait_2"] == ("wait", "computer")
    assert "computer_wait" not in made.toolset_members


# -- tools that the client runs


@pytest.mark.parametrize(
    ("declared", "name", "has", "lacks"),
    [
        ({"type": "bash_20250124", "name": "bash"}, "bash", ["command", "restart"], []),
        ({"type": "bash_20241022"}, "bash", ["command"], []),
        (
            {"type": "text_editor_20250124", "name": "str_replace_editor"},
            "str_replace_editor",
            ["undo_edit", "view_range"],
            [],
        ),
        (
            {
                "type": "text_editor_20250728",
                "name": "str_replace_based_edit_tool",
                "max_characters": 999,
            },
            "str_replace_based_edit_tool",
            ["999", "insert_text"],
            ["undo_edit"],
        ),
        ({"type": "memory_20250818", "name": "memory"}, "memory", ["rename", "old_path"], []),
        (
            {
                "type": "computer_20241022",
                "name": "computer",
                "display_width_px": 1024,
                "display_height_px": 768,
                "display_number": 1,
            },
            "computer",
            ["1024x768", "number 1", "cursor_position"],
            ["triple_click", "zoom"],
        ),
        (
            {"type": "computer_20251124", "name": "computer", "enable_zoom": True},
            "computer",
            ["triple_click", "zoom", "region"],
            [],
        ),
    ],
    ids=lambda value: value["type"] if isinstance(value, dict) else "",
)
def test_client_tools(declared: dict, name: str, has: list[str], lacks: list[str]) -> None:
    made = plan(tools=[declared])
    check_body(made.body)
    written = str(made.body["tools"])
    assert made.tool_names == {name}
    assert all(word in written for word in has)
    assert not any(word in written for word in lacks)
    assert said(made) == []
    assert made.server_tools == {}


def test_toolsets_become_their_members() -> None:
    declared = [
        {"type": "computer_toolset_20260801", "configs": {"zoom": {"enabled": False}}},
        {"type": "browser_toolset_20260801"},
    ]
    made = plan(tools=declared)
    check_body(made.body)
    assert len(made.tool_names) == 16 + 31
    assert made.toolset_members["browser_navigate"] == ("navigate", "browser")
    assert made.toolset_members["computer_screenshot"] == ("screenshot", "computer")
    assert "computer_zoom" not in made.tool_names


def test_calls_of_members_keep_their_toolset() -> None:
    used = call("a", "navigate", url="u") | {"toolset_name": "browser"}
    shown = result("a", [text("ok"), {"type": "browser_state", "tabs": [{"tab_id": "1"}]}])
    messages = [user("Hi"), assistant(used), user(shown)]
    made = plan(tools=[{"type": "browser_toolset_20260801"}], messages=messages)
    assert made.body["messages"][1]["tool_calls"][0]["function"]["name"] in made.toolset_members
    assert '"tab_id":"1"' in made.body["messages"][2]["content"]


# -- tools that the API runs


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("web_search_20250305", {"web_search": "web_search_tool_result"}),
        ("web_fetch_20260318", {"web_fetch": "web_fetch_tool_result"}),
        ("advisor_20260301", {"advisor": "advisor_tool_result"}),
        ("code_execution_20250522", {"code_execution": "code_execution_tool_result"}),
        (
            "code_execution_20250825",
            {
                "bash_code_execution": "bash_code_execution_tool_result",
                "text_editor_code_execution": "text_editor_code_execution_tool_result",
            },
        ),
        (
            "code_execution_20260521",
            {
                "code_execution": "code_execution_tool_result",
                "bash_code_execution": "bash_code_execution_tool_result",
                "text_editor_code_execution": "text_editor_code_execution_tool_result",
            },
        ),
    ],
)
def test_server_tools(kind: str, expected: dict[str, str]) -> None:
    made = plan(tools=[{"type": kind, "name": kind.rpartition("_")[0]}])
    check_body(made.body)
    assert {name: t.result_type for name, t in made.server_tools.items()} == expected
    assert all(t.error_type == f"{t.result_type}_error" for t in made.server_tools.values())
    assert all("unavailable" in t["function"]["description"] for t in made.body["tools"])
    assert made.tool_names == expected.keys()
    assert said(made) == [("tools.0", "emulated")]


MCP_TOOLS = [{"name": "add", "description": "Adds.", "input_schema": {"type": "object"}}]


def test_mcp_tools_that_are_listed() -> None:
    listing = [*MCP_TOOLS, {"name": "off"}, {"name": "on"}, "odd", {"name": 5}]
    toolset = {
        "type": "mcp_toolset",
        "mcp_server_name": "calc",
        "tools": listing,
        "default_config": {"enabled": True},
        "configs": {"off": {"enabled": False}},
    }
    made = plan(tools=[toolset], mcp_servers=[{"type": "url", "name": "calc", "url": "u"}])
    check_body(made.body)
    assert list(made.server_tools) == ["calc_add", "calc_on"]
    added = made.server_tools["calc_add"]
    assert (added.name, added.mcp_server, added.result_type, added.error_type) == (
        *("add", "calc", "mcp_tool_result", ""),
    )
    assert said(made) == [("tools.0", "emulated")]


def test_mcp_tools_listed_by_an_earlier_reply() -> None:
    listing = {"type": "mcp_tool_listing", "mcp_server_name": "calc", "tools": MCP_TOOLS}
    toolset = {"type": "mcp_toolset", "mcp_server_name": "calc"}
    messages = [user("Hi"), assistant(listing, text("Hello")), user("2+2?")]
    assert list(plan(tools=[toolset], messages=messages).server_tools) == ["calc_add"]


def test_mcp_servers_that_nobody_listed() -> None:
    toolset = {"type": "mcp_toolset", "mcp_server_name": "calc"}
    servers = [{"name": "calc"}, {"name": "files"}, "odd"]
    made = plan(tools=[toolset], mcp_servers=servers)
    check_body(made.body)
    assert "calc, files" in made.body["messages"][0]["content"]
    assert said(made) == [("mcp_servers", "emulated")]
    assert said(plan(mcp_servers=[])) == []


# -- deferred tools

DEFERRED = [tool("get"), tool("put", defer_loading=True), tool("cut", defer_loading=True)]
REFERENCE = {"type": "tool_reference", "tool_name": "put"}
FOUND = {
    "type": "tool_search_tool_result",
    "tool_use_id": "s",
    "content": {
        "type": "tool_search_tool_search_result",
        "tool_references": [REFERENCE, "odd", {"tool_name": 5}],
    },
}
SEARCHED = {"type": "server_tool_use", "id": "s", "name": "tool_search_tool_regex", "input": {}}


def test_deferred_tools_wait() -> None:
    made = plan(tools=DEFERRED)
    assert made.tool_names == {"get"}
    assert said(made) == []


def test_deferred_tools_that_were_called_or_chosen_are_sent() -> None:
    messages = [user("Hi"), assistant(call("a", "put")), user(result("a"))]
    assert names(tools=DEFERRED, messages=messages) == ["get", "put"]
    choice = {"type": "tool", "name": "cut"}
    assert names(tools=DEFERRED, tool_choice=choice) == ["get", "cut"]


def test_references_show_the_tool() -> None:
    messages = [user("Hi"), assistant(call("a", "get")), user(result("a", [REFERENCE]))]
    made = plan(tools=DEFERRED, messages=messages)
    assert made.tool_names == {"get", "put"}
    shown = made.body["messages"][2]["content"]
    assert shown == (
        '<tool>\n{"name":"put","description":"Does put.","parameters":'
        '{"type":"object","properties":{"q":{"type":"string"}}}}\n</tool>'
    )


def test_a_tool_is_described_once() -> None:
    messages = [user("Hi"), assistant(call("a", "get")), user(result("a", [REFERENCE] * 3))]
    shown = plan(tools=DEFERRED, messages=messages).body["messages"][2]["content"]
    assert shown.count("Does put.") == 1
    assert shown.count('{"name":"put"}') == 2


def test_references_to_nothing() -> None:
    unknown = {"type": "tool_reference", "tool_name": "gone"}
    messages = [user("Hi"), assistant(call("a", "get")), user(result("a", [unknown]))]
    made = plan(tools=[tool("get")], messages=messages)
    assert made.body["messages"][2]["content"] == '<tool>\n{"name":"gone"}\n</tool>'
    bash = [{"type": "bash_20250124", "name": "gone"}]
    assert '"parameters":{}' in str(plan(tools=bash, messages=messages).body["messages"][2])


def test_what_a_tool_search_found_is_sent() -> None:
    messages = [user("Hi"), assistant(SEARCHED, FOUND, text("Good.")), user("Go on")]
    made = plan(tools=DEFERRED, messages=messages)
    assert made.tool_names == {"get", "put"}
    assert made.body["messages"][2]["content"].startswith('<tool>\n{"name":"put"')


@pytest.mark.parametrize(
    ("kind", "count"),
    [("web_search_20250305", 1), ("computer_toolset_20260801", 17), ("bash_20250124", 1)],
)
def test_the_same_tool_twice_is_one(kind: str, count: int) -> None:
    made = plan(tools=[{"type": kind}, {"type": kind}])
    assert len(made.body["tools"]) == count


def test_a_tool_search_without_anything_to_find_is_reported() -> None:
    made = plan(tools=[SEARCH_TOOL, tool("get")])
    assert made.tool_names == {"get"}
    assert said(made) == [("tools", "emulated")]


@pytest.mark.parametrize("more", [[SEARCH_TOOL], []])
def test_all_are_sent_where_none_could_be_found(more: list) -> None:
    made = plan(tools=[*DEFERRED[1:], *more])
    assert made.tool_names == {"put", "cut"}
    assert said(made) == [("tools", "emulated")]


def test_the_placeholder_of_claude_code_is_never_sent() -> None:
    placeholder = tool("DeferredToolPlaceholder", defer_loading=True)
    assert names(tools=[tool("get"), placeholder]) == ["get"]
    assert names(tools=[placeholder]) == []
    assert names(tools=[placeholder, tool("put", defer_loading=True)]) == ["put"]


# -- tools that come and go


def change(kind: str, **reference: Any) -> dict[str, Any]:
    return system({"type": f"tool_{kind}", "tool": reference})


def by_name(kind: str, name: str) -> dict[str, Any]:
    return change(kind, type="tool_reference", name=name)


def defined(definition: Any) -> dict[str, Any]:
    return change("addition", type="tool_definition", definition=definition)


CALC = {"type": "mcp_toolset", "mcp_server_name": "calc", "tools": MCP_TOOLS}
ADD = {"type": "mcp_tool_reference", "server_name": "calc", "name": "add"}
ALL_OF_CALC = {"type": "mcp_toolset_reference", "server_name": "calc"}
CHANGES = {
    "addition of a deferred tool": ([by_name("addition", "put")], ["get", "put"]),
    "removal": ([by_name("removal", "get")], []),
    "removal and addition": ([by_name("removal", "get"), by_name("addition", "get")], ["get"]),
    "definition": ([defined(tool("new"))], ["get", "new"]),
    "definition, then another": ([defined(tool("new")), defined(tool("new"))], ["get", "new"]),
    "definition and removal": ([defined(tool("new")), by_name("removal", "new")], ["get"]),
    "definition of a toolset": ([defined(CALC)], ["get", "calc_add"]),
    "MCP tool removed": ([defined(CALC), change("removal", **ADD)], ["get"]),
    "MCP tool removed and added": (
        [defined(CALC), change("removal", **ADD), change("addition", **ADD)],
        ["get", "calc_add"],
    ),
    "MCP server removed": ([defined(CALC), change("removal", **ALL_OF_CALC)], ["get"]),
    "MCP server removed and added": (
        [defined(CALC), change("removal", **ALL_OF_CALC), change("addition", **ALL_OF_CALC)],
        ["get", "calc_add"],
    ),
    "nonsense": (
        [change("addition"), change("removal"), system({"type": "tool_addition"})],
        ["get"],
    ),
}


@pytest.mark.parametrize(("changes", "expected"), CHANGES.values(), ids=CHANGES)
def test_changes(changes: list, expected: list[str]) -> None:
    tools = [tool("get"), tool("put", defer_loading=True)]
    assert names(tools=tools, messages=[user("Hi"), *changes]) == expected


def test_a_definition_that_is_none_is_reported() -> None:
    made = plan(messages=[user("Hi"), defined({"name": 5})])
    assert said(made) == [("messages.1.content.0", "dropped")]


def test_changes_of_a_compacted_range_hold() -> None:
    removal = {"type": "tool_removal", "tool": {"type": "tool_reference", "name": "get"}}
    block = {"type": "compaction", "content": "Before.", "tool_changes": [removal]}
    messages = [user("Hi"), assistant(block), user("Go on")]
    assert names(tools=[tool("get"), tool("put")], messages=messages) == ["put"]
