"""Arguments that stream: at any moment the start of legal JSON, wherever they are cut."""

import itertools
import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from jiter import from_json

from dragoman.core.input_schemas import InputSchema
from dragoman.core.json_follower import JsonFollower

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(-1e9, 1e9) | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=10,
)
OBJECTS = st.dictionaries(st.text(max_size=4), VALUES, max_size=4)
PLACES = st.lists(st.integers(0, 300), max_size=8)
WRITTEN = st.lists(
    st.sampled_from(
        [
            *('{"a":', '"b":', "{", "}", "[", "]", ",", ":", '"', "\\", "\\u00", "\\ud83d", " "),
            *("\n", "1", "-2.5e3", "01", "1e999", "true", "True", "None", "nul", "x", "é", "'"),
        ]
    ),
    max_size=14,
).map("".join)
SCHEMA = {
    "type": "object",
    "properties": {
        "text": {"type": "string"},
        "count": {"type": "integer"},
        "unit": {"type": "string", "enum": ["c", "f"]},
        "tags": {"type": "array", "items": {"type": "string"}},
    },
}


def follow(text: str, places: list[int], schema: dict[str, Any] | None = None) -> JsonFollower:
    """Return a follower that has been fed, its ``shown`` checked on the way."""
    follower = JsonFollower(InputSchema(schema) if schema is not None else None)
    edges = [0, *sorted(place % (len(text) + 1) for place in places), len(text)]
    shown = ""
    for start, end in itertools.pairwise(edges):
        shown += follower.feed(text[start:end])
        if shown:
            from_json(shown.encode(), partial_mode="trailing-strings")
    follower.shown = shown  # type: ignore[attr-defined]
    return follower


def shown_of(follower: JsonFollower) -> str:
    return follower.shown  # type: ignore[attr-defined, no-any-return]


# text -> what is shown, whole or broken
TEXTS = {
    "as it is": ('{"a": [1, {"b": null}]}', '{"a": [1, {"b": null}]}', "whole"),
    "empty": ("{}", "{}", "whole"),
    "space around it": (' {"a":1} ', '{"a":1}', "whole"),
    "a raw line break": ('{"a": "x\ny"}', '{"a": "x\\ny"}', "whole"),
    "a raw control character": ('{"a": "x\x01"}', '{"a": "x\\u0001"}', "whole"),
    "a bad escape": ('{"a": "\\d+"}', '{"a": "\\\\d+"}', "whole"),
    "half a character": ('{"a": "\\ud83d!"}', '{"a": "\\ufffd!"}', "whole"),
    "the other half": ('{"a": "\\ude00"}', '{"a": "\\ufffd"}', "whole"),
    "both halves": ('{"a": "\\ud83d\\ude00"}', '{"a": "\\ud83d\\ude00"}', "whole"),
    "Python's literals": ('{"a": True, "b": None}', '{"a": true, "b": null}', "whole"),
    "a comma too many": ('{"a": [1, 2, ], }', '{"a": [1, 2]}', "whole"),
    "the object twice": ('{"a": 1}{"a": 1}', '{"a": 1}', "whole"),
    "words behind it": ('{"a": 1} and so on', '{"a": 1}', "whole"),
    "an array": ("[1]", "", "broken"),
    "a number": ("5 ", "", "broken"),
    "a number that is none": ('{"a": 01 }', '{"a": ', "broken"),
    "a number out of range": ('{"a": 1e999 }', '{"a": ', "broken"),
    "a word": ('{"a": yes }', '{"a": ', "broken"),
    "a key without quotes": ("{a: 1}", "{", "broken"),
    "no colon": ('{"a" 1}', '{"a', "broken"),
    "no comma": ('{"a": 1 "b": 2}', '{"a": 1 ', "broken"),
    "a key that is no text": ('{"a": 1, 2: 3}', '{"a": 1', "broken"),
    "the wrong bracket": ('{"a": [1}', '{"a": [1', "broken"),
    "an odd character": ('{"a": \x00', '{"a": ', "broken"),
    "too deep": ('{"a":' + "[" * 300, '{"a":' + "[" * 199, "broken"),
    "cut in a string": ('{"a": "x', '{"a": "x', "open"),
    "cut in an escape": ('{"a": "x\\', '{"a": "x', "open"),
    "cut between halves": ('{"a": "x\\ud83d', '{"a": "x', "open"),
    "cut in a number": ('{"a": 12', '{"a": ', "open"),
    "cut in a literal": ('{"a": tru', '{"a": ', "open"),
    "cut behind a comma": ('{"a": 1,', '{"a": 1', "open"),
    "cut behind a quote": ('{"a": "x"', '{"a": "x', "open"),
}


@pytest.mark.parametrize(("text", "shown", "state"), TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("is_bytewise", [False, True])
def test_texts(text: str, shown: str, state: str, *, is_bytewise: bool) -> None:
    follower = follow(text, list(range(len(text))) if is_bytewise else [])
    assert shown_of(follower) == shown
    assert (follower.is_whole, follower.is_broken) == (state == "whole", state == "broken")
    if state != "whole":
        assert (shown_of(follower) + follower.kept).startswith(shown)


@given(OBJECTS, PLACES, st.booleans(), st.sampled_from([None, 0, 2]))
def test_legal_objects_are_shown_as_they_are(
    value: dict[str, Any], places: list[int], is_ascii: bool, indent: int | None
) -> None:
    text = json.dumps(value, ensure_ascii=is_ascii, indent=indent)
    follower = follow(text, places)
    assert shown_of(follower) == text
    assert follower.is_whole
    assert follower.repairs == set()


@given(WRITTEN, PLACES)
@example('{"a": "x"y"}', [8])
@example('{"a":1 , }', [6, 7, 8])
def test_cuts_never_matter(text: str, places: list[int]) -> None:
    whole, pieces = follow(text, []), follow(text, places)
    assert shown_of(pieces) == shown_of(whole)
    assert (pieces.is_whole, pieces.is_broken) == (whole.is_whole, whole.is_broken)
    assert pieces.repairs == whole.repairs


@given(WRITTEN)
def test_nothing_that_may_be_needed_is_lost(text: str) -> None:
    """What was not shown is kept, unless the object is whole: then it stood behind it."""
    follower = follow(text, [])
    if not follower.is_whole and not follower.repairs:
        assert (shown_of(follower) + follower.kept).strip() == text.strip()


# -- with a schema

ODD = {
    "allowed": ('{"text": "x", "count": 1, "unit": "c"}', '{"text": "x", "count": 1, "unit": "c"}'),
    "a number for a text": ('{"text": 5}', ""),
    "a text for a number": ('{"text": "x", "count": "1"}', '{"text": "x"'),
    "no such choice": ('{"unit": "kelvin"}', ""),
    "a choice that is cut": ('{"unit": "c', ""),
    "a text for a list": ('{"text": "x", "tags": "a"}', '{"text": "x"'),
    "a number in a list of texts": ('{"tags": ["a", 5]}', '{"tags": ["a",'),
    "a member that nobody declared": ('{"more": [1]}', '{"more": [1]}'),
    "something around the arguments": ('{"arguments": {"text": "x"}}', ""),
}


@pytest.mark.parametrize(("text", "shown"), ODD.values(), ids=ODD)
def test_what_the_schema_does_not_allow_is_kept_back(text: str, shown: str) -> None:
    for places in ([], list(range(len(text)))):
        follower = follow(text, places, SCHEMA)
        assert shown_of(follower).rstrip() == shown
        assert (shown_of(follower) + follower.kept).replace(" ", "") == text.replace(" ", "")


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "text": st.text(max_size=8) | st.integers(),
            "count": st.integers() | st.text(max_size=3),
            "unit": st.sampled_from(["c", "f", "k"]),
            "tags": st.lists(st.text(max_size=3) | st.none(), max_size=3),
        },
    ),
    PLACES,
)
def test_cuts_never_matter_to_what_is_kept_back(value: dict[str, Any], places: list[int]) -> None:
    text = json.dumps(value)
    whole, pieces = follow(text, [], SCHEMA), follow(text, places, SCHEMA)
    assert shown_of(pieces) == shown_of(whole)
    assert pieces.kept == whole.kept
    assert pieces.is_keeping == whole.is_keeping
