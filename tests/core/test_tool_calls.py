"""Fragments put together to calls, by index, id and name, as every server sends them."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.core.input_schemas import ToolSchemas
from dragoman.core.tool_calls import ToolCall, ToolCallAssembler, arguments_text
from dragoman.wire.openai_chat import Function
from dragoman.wire.openai_chat import ToolCall as WireCall

SCHEMAS = ToolSchemas(frozenset({"f", "g"}), ())
Fragment = tuple[int | None, Any, str | None, Any]  # index, id, name, arguments


def assemble(*fragments: Fragment) -> list[tuple[str, str, Any]]:
    """Return id, name and input of each call."""
    assembler = ToolCallAssembler(SCHEMAS)
    calls: list[ToolCall] = []
    for index, call_id, name, arguments in fragments:
        function = Function(name=name, arguments=arguments)
        call, is_new = assembler.take(WireCall(index=index, id=call_id, function=function))
        assert is_new is (call not in calls)
        if is_new:
            calls.append(call)
    return [(call.id, call.name, call.end(is_cut=False)) for call in calls]


SERVERS: dict[str, tuple[list[Fragment], list[tuple[str, str, Any]]]] = {
    "OpenAI, vLLM: id and name once": (
        [(0, "a", "f", ""), (0, None, None, '{"x"'), (0, None, None, ":1}")],
        [("a", "f", {"x": 1})],
    ),
    "DashScope: empty strings later": (
        [(0, "a", "f", None), (0, "", "", '{"x":1}'), (0, "", None, None)],
        [("a", "f", {"x": 1})],
    ),
    "two, interleaved": (
        [(0, "a", "f", '{"x":'), (1, "b", "g", '{"y":'), (0, None, None, "1}"), (1, "", "", "2}")],
        [("a", "f", {"x": 1}), ("b", "g", {"y": 2})],
    ),
    "Z.ai: whole, the name repeated": (
        [(0, "a", "f", '{"x":1}'), (0, "a", "f", "")],
        [("a", "f", {"x": 1})],
    ),
    "TGI: every index is 0": (
        [(0, "0", "f", '{"x":1}'), (0, "1", "g", '{"y":2}')],
        [("0", "f", {"x": 1}), ("1", "g", {"y": 2})],
    ),
    "ids that are numbers, and 0 is one": (
        [(0, 1, "f", '{"x":1}'), (0, 0, None, '{"y":2}')],
        [("1", "f", {"x": 1}), ("0", "", {"y": 2})],
    ),
    "no index": (
        [(None, "a", "f", '{"x":'), (None, None, None, "1}"), (None, "b", "g", "{}")],
        [("a", "f", {"x": 1}), ("b", "g", {})],
    ),
    "no index, the id comes late": (
        [(None, None, "f", None), (None, "a", None, '{"x":1}'), (None, "b", "g", "{}")],
        [("a", "f", {"x": 1}), ("b", "g", {})],
    ),
    "neither index nor id": (
        [(None, None, "f", '{"x":1}'), (None, None, "g", '{"y":2}')],
        [("", "f", {"x": 1}), ("", "g", {"y": 2})],
    ),
    "the same tool again, other arguments": (
        [(0, None, "f", '{"x":1}'), (0, None, "f", '{"x":2}')],
        [("", "f", {"x": 1}), ("", "f", {"x": 2})],
    ),
    "the same call again": (
        [(0, None, "f", '{"x":1}'), (0, None, "f", '{"x":1}')],
        [("", "f", {"x": 1})],
    ),
    "a name in pieces": (
        [(0, "a", "fun", None), (0, None, "ction", None), (0, None, None, "{}")],
        [("a", "function", {})],
    ),
    "a number as id": ([(0, 7, "f", "{}")], [("7", "f", {})]),
    "an object as arguments": ([(0, "a", "f", {"x": [1]})], [("a", "f", {"x": [1]})]),
    "no arguments": ([(0, "a", "f", None)], [("a", "f", {})]),
    "white space as arguments": ([(0, "a", "f", " \n")], [("a", "f", {})]),
    "null as arguments": ([(0, "a", "f", "null")], [("a", "f", {})]),
    "arguments encoded twice": (
        [(0, "a", "f", '"{\\"x\\":'), (0, "", "", '1}"')],
        [("a", "f", {"x": 1})],
    ),
}


@pytest.mark.parametrize(("fragments", "calls"), SERVERS.values(), ids=SERVERS)
def test_servers(fragments: list[Fragment], calls: list[tuple[str, str, Any]]) -> None:
    assert assemble(*fragments) == calls


@given(
    st.lists(
        st.tuples(
            st.none() | st.integers(0, 2),
            st.sampled_from([None, "", "a", "b", 1]),
            st.sampled_from([None, "", "f", "g"]),
            st.sampled_from([None, "", "{", "}", '{"x":1}', "null", "[1]", {"x": 1}]),
        ),
        max_size=8,
    )
)
def test_anything_becomes_calls_with_an_input_or_none(fragments: list[Fragment]) -> None:
    for call_id, _, arguments in assemble(*fragments):
        assert isinstance(call_id, str)
        assert arguments is None or isinstance(arguments, dict)


def test_what_was_cut_off_is_not_whole() -> None:
    call = ToolCall(SCHEMAS)
    call.add(Function(name="f", arguments='{"x": 1, "y": "ab'))
    assert (call.is_whole, call.value()) == (False, None)
    assert call.end(is_cut=True) is None
    assert call.text == '{"x": 1, "y": "ab'


def test_what_was_only_not_closed_is_closed() -> None:
    call = ToolCall(SCHEMAS)
    call.add(Function(name="f", arguments='{"x": 1, "y": [2'))
    assert call.end(is_cut=False) == {"x": 1, "y": [2]}


def test_what_is_no_object_at_all() -> None:
    call = ToolCall(SCHEMAS)
    call.add(Function(name="f", arguments="Paris"))
    assert (call.value(), call.end(is_cut=True)) == (None, None)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [(None, ""), ("", ""), ('{"a"', '{"a"'), ({"a": "é"}, '{"a":"é"}'), ([1], "[1]")],
)
def test_arguments_as_text(arguments: Any, text: str) -> None:
    assert arguments_text(Function(arguments=arguments)) == text
