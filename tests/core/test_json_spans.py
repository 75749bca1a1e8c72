import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.core.json_spans import cut, has_repeated_keys, members

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=12,
)
INDENTS = st.sampled_from([None, 0, 2])


@given(st.dictionaries(st.text(max_size=6), VALUES, max_size=5), INDENTS, st.booleans())
def test_members_of_an_object_are_its_values(value, indent, is_ascii) -> None:
    document = json.dumps(value, indent=indent, ensure_ascii=is_ascii).encode()
    found = members(document)
    assert {m.name: json.loads(document[m.value_start : m.end]) for m in found} == value


@given(st.lists(VALUES, max_size=5), INDENTS)
def test_members_of_an_array_are_its_items(value, indent) -> None:
    document = json.dumps(value, indent=indent).encode()
    found = members(document)
    assert [m.name for m in found] == list(range(len(value)))
    assert [json.loads(document[m.start : m.end]) for m in found] == value


@given(st.lists(VALUES, min_size=1, max_size=6), st.data(), INDENTS)
def test_cut_removes_just_those_items(value, data, indent) -> None:
    gone = data.draw(st.sets(st.integers(0, len(value) - 1)))
    document = json.dumps(value, indent=indent).encode()
    spans = [(m.start, m.end) for m in members(document) if m.name in gone]
    left = [item for number, item in enumerate(value) if number not in gone]
    assert json.loads(cut(document, spans)) == left


@given(st.dictionaries(st.text(max_size=4), VALUES, min_size=1, max_size=6), st.data())
def test_cut_removes_just_those_keys(value, data) -> None:
    gone = data.draw(st.sets(st.sampled_from(sorted(value))))
    document = json.dumps(value).encode()
    spans = [(m.start, m.end) for m in members(document) if m.name in gone]
    assert json.loads(cut(document, spans)) == {k: v for k, v in value.items() if k not in gone}


@given(st.lists(st.lists(VALUES, max_size=3), min_size=1, max_size=4), st.data(), INDENTS)
def test_cut_removes_from_several_containers_at_once(value, data, indent) -> None:
    document = json.dumps(value, indent=indent).encode()
    spans, left = [], []
    for outer, inner in zip(members(document), value, strict=True):
        gone = data.draw(st.sets(st.integers(0, 2)))
        spans += [(m.start, m.end) for m in members(document, outer.value_start) if m.name in gone]
        left.append([item for number, item in enumerate(inner) if number not in gone])
    assert json.loads(cut(document, spans)) == left


@pytest.mark.parametrize("document", [b"", b"   ", b"12", b'"[1]"', b"null"])
def test_what_is_no_container_has_no_members(document) -> None:
    assert members(document) == []


def test_repeated_keys_appear_repeatedly() -> None:
    found = members(b'{"a":1,"b":{"a":9},"a":[2]}')
    assert [(m.name, m.value_start) for m in found] == [("a", 5), ("b", 11), ("a", 23)]


@given(VALUES, INDENTS)
def test_what_a_writer_writes_repeats_no_key(value, indent) -> None:
    assert not has_repeated_keys(json.dumps(value, indent=indent).encode())


@pytest.mark.parametrize(
    "document",
    [
        b'{"a":1,"a":1}',
        b'{"a":1,"b":2,"\\u0061":3}',
        b'[0,{"x":[{"a":{},"a":[]}]}]',
        b'{"":1, "":2}',
        b"[" * 2000 + b"]" * 2000,  # too deep to be looked at
    ],
)
def test_repeated_keys_are_seen_at_any_depth(document) -> None:
    assert has_repeated_keys(document)
