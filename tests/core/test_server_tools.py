"""Tools that the API itself would run: functions that say they are out of order."""

from typing import Any

import pytest

from dragoman.core.server_tools import UNAVAILABLE, mcp_functions, server_functions
from dragoman.wire.anthropic import Tool

FUNCTIONS = {
    "web_search_20250305": ["web_search"],
    "web_search_20260318": ["web_search"],
    "web_fetch_20260309": ["web_fetch"],
    "code_execution_20250522": ["code_execution"],
    "code_execution_20250825": ["bash_code_execution", "text_editor_code_execution"],
    "code_execution_20260521": [
        *("code_execution", "bash_code_execution", "text_editor_code_execution"),
    ],
    "advisor_20260301": ["advisor"],
    "bash_20250124": [],
    "custom": [],
    "web_search": [],
    "": [],
}


@pytest.mark.parametrize(("kind", "names"), FUNCTIONS.items(), ids=FUNCTIONS)
def test_functions(kind: str, names: list[str]) -> None:
    functions = server_functions(Tool(type=kind))
    assert [function.tool.name for function in functions] == names
    for function in functions:
        tool = function.tool
        assert tool.result_type == f"{tool.name}_tool_result"
        assert tool.error_type == f"{tool.name}_tool_result_error"
        assert "unavailable" in function.description
        assert set(function.schema.get("required", ())) <= set(function.schema["properties"])


def test_a_tool_without_a_type_is_none_of_them() -> None:
    assert server_functions(Tool(name="web_search")) == []


LISTINGS: dict[str, tuple[list[Any], list[tuple[str, str]]]] = {
    "described": ([{"name": "add", "description": "Adds."}], [("add", "Adds. Out of order")]),
    "bare": ([{"name": "add"}], [("add", "Out of order")]),
    "odd entries": (["add", {}, {"name": 5}, None, {"name": "sub"}], [("sub", "Out of order")]),
    "nothing": ([], []),
}


@pytest.mark.parametrize(("listing", "expected"), LISTINGS.values(), ids=LISTINGS)
def test_tools_of_an_mcp_server(listing: list[Any], expected: list[tuple[str, str]]) -> None:
    found = mcp_functions("calc", listing)
    assert [f.tool.name for f in found] == [name for name, _ in expected]
    for function, (_, words) in zip(found, expected, strict=True):
        assert function.description.startswith(words)
        tool = function.tool
        assert (tool.mcp_server, tool.result_type, tool.error_type) == (
            *("calc", "mcp_tool_result", ""),
        )


@pytest.mark.parametrize("schema", [{"type": "object", "title": "T"}, {}, None, "odd", [1]])
def test_schemas_of_mcp_tools_are_kept_if_they_are_any(schema: Any) -> None:
    (function,) = mcp_functions("calc", [{"name": "add", "input_schema": schema}])
    nothing = {"type": "object", "properties": {}}
    assert function.schema == (schema if isinstance(schema, dict) else nothing)


def test_the_model_is_told_in_words_that_are_an_error() -> None:
    assert UNAVAILABLE.startswith("[tool error] unavailable")
