import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.core.lenient_json import read_lenient, read_number

READ = {
    # text, value, brackets missing
    '{"a": 1}': ({"a": 1}, False),
    ' [1, 2.5, -3e2, "x", true, null] ': ([1, 2.5, -300.0, "x", True, None], False),
    "{'a': 'it's \"so\"'}": ({"a": 'it\'s "so"'}, False),
    "{a: yes sir, b-c: /tmp/x, $d: False}": ({"a": "yes sir", "b-c": "/tmp/x", "$d": False}, False),
    '{"a": "b", // c\n "d": /* e */ 1}': ({"a": "b", "d": 1}, False),
    '{"a": 1 "b": 2,, "c": [1],}': ({"a": 1, "b": 2, "c": [1]}, False),
    '{"a": [1, {"b": 2}': ({"a": [1, {"b": 2}]}, True),
    '{"a": [1, 2}': ({"a": [1, 2]}, False),
    '{"a": {"b": 1]': ({"a": {"b": 1}}, False),
    '{"a": "b}': ({"a": "b"}, False),
    '{"a": ["b]}': ({"a": ["b"]}, False),
    '{"a": ""}': ({"a": ""}, False),
    '{"a": """}': ({"a": '"'}, False),
    '{"a": "\\u00e9\\ud83d\\ude42\\ud83d\\x\\/"}': ({"a": "é🙂�\\x/"}, False),
    '{"a": "x\n\ty"}': ({"a": "x\n\ty"}, False),
    '{"a": 1} and more': ({"a": 1}, False),
    "```json\n{}\n```": ({}, False),
    "```\n[1]```": ([1], False),
    '{"a": 007}': ({"a": "007"}, False),
    "{}": ({}, False),
    "": None,
    "   ": None,
    '{"a": "b': None,
    '{"a": "b" c"': ({"a": 'b" c'}, True),
    '{"a": tru': None,
    '{"a" 1}': None,
    '{"a":}': None,
    '{"a":, "b": 1}': None,
    "{1: 2}": None,
    '{"a": <b>}': None,
    '{"a": NaN}': None,
    '{"a": -Infinity}': None,
    "[" * 101: None,
    "prose": None,
}


@pytest.mark.parametrize(("text", "expected"), READ.items(), ids=range(len(READ)))
def test_what_is_read(text, expected) -> None:
    assert read_lenient(text) == expected


NUMBERS = {
    "1": 1,
    "-1.5e3": -1500.0,
    "+7": 7,
    ".5": 0.5,
    "5.": 5,
    "-.5": -0.5,
    "1e400": None,
    "1" * 500: None,
    "007": None,
    "1_000": None,
    "1.2.3": None,
    "-": None,
    ".": None,
    "e5": None,
    "0x1f": None,
}


@pytest.mark.parametrize(("word", "number"), NUMBERS.items(), ids=range(len(NUMBERS)))
def test_numbers(word, number) -> None:
    assert read_number(word) == number


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**6), 10**6)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(VALUES, st.booleans(), st.sampled_from([None, 1]))
def test_legal_json_is_read_as_it_is(value, ascii_only, indent) -> None:
    """Also where its strings hold what looks like the end of a string."""
    text = json.dumps({"a": value}, ensure_ascii=ascii_only, indent=indent)
    reading = read_lenient(text)
    assert reading is not None
    assert (reading.value, reading.is_open) == ({"a": value}, False)


@given(st.text(st.sampled_from("{}[]\"':, \\abn1.\n`/*<>é"), max_size=40))
def test_any_text_is_read_or_not(text) -> None:
    reading = read_lenient(text)
    assert reading is None or json.loads(json.dumps(reading.value)) == reading.value
