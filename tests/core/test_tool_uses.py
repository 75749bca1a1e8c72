"""What a conversation says about tools; what comes of it is in test_tools.py."""

from typing import Any

import pytest

from dragoman.core.adjustments import Adjustments
from dragoman.core.tool_uses import ToolUses, referenced_tools, scan_tool_uses
from support.plans import MINIMAL, assistant, call, parse, result, system, text, tool, user


def scan(*messages: dict[str, Any]) -> tuple[ToolUses, list[tuple[str, str]]]:
    adjustments = Adjustments()
    uses = scan_tool_uses(parse(MINIMAL | {"messages": list(messages)}), adjustments)
    return uses, [(a.field, a.action) for a in adjustments.take()]


def added(**tool_fields: Any) -> dict[str, Any]:
    return {"type": "tool_addition", "tool": tool_fields}


def removed(**tool_fields: Any) -> dict[str, Any]:
    return {"type": "tool_removal", "tool": tool_fields}


DEFINED = added(type="tool_definition", definition=tool("new"))


def test_what_is_called_or_referred_to_is_wanted() -> None:
    reference = {"type": "tool_reference", "tool_name": "b"}
    uses, said = scan(
        user("Hi"),
        assistant(text("A"), call("1", "a")),
        user(result("1", [reference, text("x")]), result("2", "y")),
    )
    assert (uses.wanted, said) == ({"a", "b"}, [])


def test_a_definition_on_the_way_is_kept_with_its_place() -> None:
    uses, _ = scan(user("Hi"), system(text("S"), DEFINED))
    path, definition = uses.added["new"]
    assert (path, definition.name) == ("messages.1.content.1", "new")
    assert uses.wanted == {"new"}


def test_an_addition_that_leads_nowhere_is_reported() -> None:
    by_name = {"type": "tool_reference", "name": "a"}
    nowhere = [("messages.1.content.0", "dropped")]
    assert scan(user("Hi"), system(added(**by_name)))[1] == nowhere
    assert (
        scan(user("Hi"), system(added(**tool("new"))))[1] == nowhere
    )  # no reference, no definition
    assert scan(user("Hi"), system(DEFINED, added(type="tool_reference", name="new")))[1] == []


def test_an_addition_of_a_declared_tool_is_not_reported() -> None:
    content = [user("Hi"), system(added(type="tool_reference", name="a"))]
    for tools in ([tool("a")], [{"type": "computer_toolset_20260801"}]):
        adjustments = Adjustments()
        scan_tool_uses(parse(MINIMAL | {"messages": content, "tools": tools}), adjustments)
        assert adjustments.take() == ()


def test_the_last_word_counts() -> None:
    by_name = {"type": "tool_reference", "name": "a"}
    assert scan(user("Hi"), system(removed(**by_name)))[0].removed == {"a"}
    assert scan(user("Hi"), system(removed(**by_name), added(**by_name)))[0].removed == set()
    assert scan(user("Hi"), system(added(**by_name), removed(**by_name)))[0].removed == {"a"}


def test_servers_and_their_tools_come_and_go() -> None:
    one = {"type": "mcp_tool_reference", "server_name": "s", "name": "a"}
    all_of_it = {"type": "mcp_toolset_reference", "server_name": "s"}
    uses, _ = scan(user("Hi"), system(removed(**one), removed(**all_of_it)))
    assert (uses.removed_mcp, uses.removed_servers) == ({("s", "a")}, {"s"})
    uses, _ = scan(
        user("Hi"),
        system(removed(**one), removed(**all_of_it), added(**one), added(**all_of_it)),
    )
    assert (uses.removed_mcp, uses.removed_servers) == (set(), set())


@pytest.mark.parametrize(
    ("block", "at"),
    [
        (added(type="tool_definition", definition=5), "messages.1.content.0"),
        (added(type="tool_definition", definition={"name": []}), "messages.1.content.0"),
        (
            {
                "type": "compaction",
                "content": "S",
                "tool_changes": [removed(), added(type="tool_definition")],
            },
            "messages.1.content.0.tool_changes.1",
        ),
    ],
)
def test_what_is_no_definition_is_reported_with_its_place(block: dict[str, Any], at: str) -> None:
    uses, said = scan(user("Hi"), system(block))
    assert uses.added == {}
    assert said == [(at, "dropped")]


def test_a_listing_is_of_its_server() -> None:
    listing = {"type": "mcp_tool_listing", "mcp_server_name": "s", "tools": [{"name": "a"}]}
    later = listing | {"tools": []}
    uses, _ = scan(user("Hi"), assistant(listing, text("A")), user("B"))
    assert uses.listings == {"s": [{"name": "a"}]}
    assert scan(user("Hi"), assistant(listing, later, text("A")))[0].listings == {"s": []}


@pytest.mark.parametrize(
    "content",
    [None, "a", [], {}, {"tool_references": "a"}, {"tool_references": ["a", {"tool_name": 5}, {}]}],
)
def test_results_that_refer_to_nothing(content: Any) -> None:
    assert referenced_tools(content) == []
