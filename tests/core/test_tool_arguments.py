"""Arguments of calls: whole, doubly encoded, or as far as they came."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.core.tool_arguments import parse_arguments, parse_partial

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | st.floats(-9, 9) | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.text(max_size=4), VALUES, max_size=4)

WHOLE = {
    "object": ('{"a": 1}', {"a": 1}),
    "padded": (' {"a": 1}\n', {"a": 1}),
    "nothing": ("", {}),
    "white space": (" \n", {}),
    "null": ("null", {}),
    "encoded twice": ('"{\\"a\\": 1}"', {"a": 1}),
    "nothing, encoded twice": ('""', {}),
    "array": ("[1]", None),
    "number": ("5", None),
    "text": ("Paris", None),
    "text, encoded twice": ('"Paris"', None),
    "cut": ('{"a": 1', None),
    "Python's": ("{'a': 1}", None),
    "two": ('{"a": 1}{"a": 1}', None),
    "half a character": ('{"a": "\\ud800"}', None),
    "out of range": ('{"a": 1e999}', None),
    "deep": ('{"a":' * 3000, None),
}


@pytest.mark.parametrize(("text", "arguments"), WHOLE.values(), ids=WHOLE)
def test_whole_arguments(text: str, arguments: dict[str, Any] | None) -> None:
    assert parse_arguments(text) == arguments


CUT = {
    "in a string": ('{"a": "Hel', {"a": "Hel"}),
    "in an escape": ('{"a": "x\\', {"a": "x"}),
    "in a code": ('{"a": "x\\u00e', {"a": "x"}),
    "between halves": ('{"a": "x\\ud83d', {"a": "x"}),
    "in the second half": ('{"a": "x\\ud83d\\ude', {"a": "x"}),
    "behind an escaped backslash": ('{"a": "x\\\\', {"a": "x\\"}),
    "in a number": ('{"a": 1, "b": 12', {"a": 1}),
    "behind a number": ('{"a": 1, "b": 12,', {"a": 1, "b": 12}),
    "in a literal": ('{"a": 1, "b": tru', {"a": 1}),
    "in a key": ('{"a": 1, "b', {"a": 1}),
    "behind a key": ('{"a": 1, "b":', {"a": 1}),
    "in a list": ('{"a": [1, 2', {"a": [1]}),
    "in a list of texts": ('{"a": ["x", "y', {"a": ["x", "y"]}),
    "in an object": ('{"a": {"b": "c', {"a": {"b": "c"}}),
    "before anything": ("{", {}),
    "no object": ("[1, 2", {}),
    "nonsense": ('{"a"]', {}),
    "closed too often": ('{"a": 1}}', {"a": 1}),
    "too deep": ('{"a":' * 300 + "1", {}),
}


@pytest.mark.parametrize(("text", "arguments"), CUT.values(), ids=CUT)
def test_cut_arguments(text: str, arguments: dict[str, Any]) -> None:
    assert parse_partial(text) == arguments


@given(OBJECTS, st.booleans())
def test_what_is_whole_is_read_as_json_reads_it(value: dict[str, Any], is_ascii: bool) -> None:
    written = json.dumps(value, ensure_ascii=is_ascii)
    assert parse_arguments(written) == parse_partial(written) == json.loads(written)
    assert parse_arguments(json.dumps(written)) == value


@given(OBJECTS, st.integers(0, 300), st.booleans())
def test_of_what_was_cut_nothing_is_made_up(
    value: dict[str, Any], size: int, is_ascii: bool
) -> None:
    """Every value that is left stands in the whole, texts as far as they came."""
    written = json.dumps(value, ensure_ascii=is_ascii)
    assert is_part(parse_partial(written[: size % (len(written) + 1)]), value)


@given(st.text('{}[]":,\\ \n1aeu-.tn', max_size=40))
def test_anything_at_all_is_an_object_in_the_end(text: str) -> None:
    assert isinstance(parse_partial(text), dict)


def is_part(part: Any, whole: Any) -> bool:
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(
            key in whole and is_part(value, whole[key]) for key, value in part.items()
        )
    if isinstance(part, list):
        return isinstance(whole, list) and all(map(is_part, part, whole[: len(part)]))
    if isinstance(part, str):
        return isinstance(whole, str) and whole.startswith(part)
    return bool(part == whole)
