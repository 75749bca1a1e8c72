"""Calls recognised however a client writes their input back."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.core.call_digest import call_digest

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(-9, 9)
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)
EQUAL: dict[str, tuple[Any, Any]] = {
    "order of members": ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    "order deep inside": ({"a": [{"b": 1, "c": 2}]}, {"a": [{"c": 2, "b": 1}]}),
    "whole floats": ({"a": 1.0, "b": [2.0]}, {"a": 1, "b": [2]}),
    "minus nothing": ({"a": -0.0}, {"a": 0}),
}
DIFFERENT: dict[str, tuple[Any, Any]] = {
    "order of a list": ([1, 2], [2, 1]),
    "text for a number": ({"a": "1"}, {"a": 1}),
    "true for one": ({"a": True}, {"a": 1}),
    "nothing for null": ({}, {"a": None}),
    "not whole": ({"a": 1.5}, {"a": 1}),
}


@pytest.mark.parametrize(("one", "other"), EQUAL.values(), ids=EQUAL)
def test_equal_calls(one: Any, other: Any) -> None:
    assert call_digest("f", one) == call_digest("f", other)
    assert call_digest("f", one) != call_digest("g", other)


@pytest.mark.parametrize(("one", "other"), DIFFERENT.values(), ids=DIFFERENT)
def test_different_calls(one: Any, other: Any) -> None:
    assert call_digest("f", one) != call_digest("f", other)


@given(st.text(max_size=5), VALUES, st.booleans())
def test_a_way_through_json_changes_nothing(name: str, value: Any, is_ascii: bool) -> None:
    back = json.loads(json.dumps(value, ensure_ascii=is_ascii, sort_keys=True))
    digest = call_digest(name, value)
    assert call_digest(name, back) == digest
    assert len(digest) == 16
