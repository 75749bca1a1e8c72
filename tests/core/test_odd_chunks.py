"""Chunks that the fast decoder refuses: the one sensible meaning of each value, or none."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.core.odd_chunks import Halves, read_odd_chunk
from dragoman.wire.openai_chat import Chunk, decode_chunk
from support.turns import chunk

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=10,
)
FIELDS = st.sampled_from(
    [
        *("choices", "usage", "error", "object", "message", "code", "type", "index", "delta"),
        *("finish_reason", "stop_reason", "content", "reasoning", "reasoning_details", "text"),
        *("tool_calls", "function", "arguments", "name", "id", "prompt_tokens", "refusal"),
        *("prompt_tokens_details", "cached_tokens", "function_call", "summary"),
    ]
)
CHUNKS = st.recursive(
    JSON,
    lambda inner: st.dictionaries(FIELDS, inner, max_size=4) | st.lists(inner, max_size=3),
    max_leaves=12,
)


def read(payload: Any, halves: Halves | None = None) -> Chunk:
    raw = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return read_odd_chunk(raw, {} if halves is None else halves)


def delta_of(**delta: Any) -> Any:
    found = read(chunk(**delta)).choices
    assert found is not None
    return found[0].delta


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("a", "a"),
        (5, "5"),
        (1.5, "1.5"),
        (True, "true"),
        (None, None),
        (["a", {"text": "b"}, {"type": "image"}, None, 3], "ab3"),
        ({"text": ["a", {"text": "b"}]}, "ab"),
        ({}, None),
    ],
)
def test_contents_of_any_make(content: Any, text: str | None) -> None:
    delta = delta_of(content=content, reasoning=content, refusal=content)
    assert (delta.content, delta.reasoning, delta.refusal) == (text, text, text)


def test_calls_of_any_make() -> None:
    calls = [
        {"index": "1", "id": 7, "function": {"name": "f", "arguments": {"a": "\ud800"}}},
        {"index": 1e999, "id": False, "function": {"name": 5, "arguments": ["x"]}},
        {"index": True, "id": ["x"], "function": "f"},
        "nonsense",
    ]
    first, second, third = delta_of(tool_calls=calls).tool_calls
    assert (first.index, first.id, first.function.name) == (1, "7", "f")
    assert first.function.arguments == {"a": "\ufffd"}
    assert (second.index, second.id, second.function.name) == (None, None, None)
    assert second.function.arguments == ["x"]
    assert (third.index, third.id, third.function) == (None, None, None)
    assert delta_of(function_call={"name": "f", "arguments": 5}).function_call.arguments == "5"


@pytest.mark.parametrize(
    ("finish", "text"),
    [("stop", "stop"), ({"type": "length"}, "length"), (False, None), ({}, None), (5, "5")],
)
def test_finish_reasons_of_any_make(finish: Any, text: str | None) -> None:
    raw = chunk(content="a")
    raw["choices"][0] |= {"finish_reason": finish, "stop_reason": 5, "matched_stop": "#"}
    (choice,) = read(raw).choices or ()
    assert (choice.finish_reason, choice.stop_reason, choice.matched_stop) == (text, None, "#")


def test_counts_of_any_make() -> None:
    counts = {
        "prompt_tokens": "12",
        "completion_tokens": 3.9,
        "cached_tokens": "many",
        "reasoning_tokens": True,
        "prompt_tokens_details": {"cached_tokens": 2.0},
        "completion_tokens_details": "odd",
    }
    usage = read({"usage": counts}).usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (12, 3)
    assert (usage.cached_tokens, usage.reasoning_tokens) == (None, None)
    assert usage.prompt_tokens_details is not None
    assert usage.prompt_tokens_details.cached_tokens == 2
    assert usage.completion_tokens_details is None
    assert read({"usage": 5}).usage is None


@pytest.mark.parametrize(
    "payload", [b"", b"hello", b"[1]", b"5", b'{"choices": 5}', b'{"choices": {"a": 1}}', b"{"]
)
def test_what_is_no_chunk_at_all(payload: bytes) -> None:
    with pytest.raises(ValueError, match=r"Expecting|neither a chunk"):
        read(payload)


# -- halves of characters


@pytest.mark.parametrize("field", ["content", "reasoning_content", "reasoning", "refusal"])
def test_a_character_that_was_cut_in_two_is_joined(field: str) -> None:
    halves: Halves = {}
    first = read(chunk(**{field: "a\ud83d"}), halves).choices
    second = read(chunk(**{field: "\ude00b"}), halves).choices
    assert first is not None
    assert second is not None
    assert getattr(first[0].delta, field) == "a"
    assert getattr(second[0].delta, field) == "\U0001f600b"
    assert halves == {}


def test_halves_of_arguments_wait_by_index() -> None:
    def call(index: int, arguments: str) -> dict[str, Any]:
        return chunk(tool_calls=[{"index": index, "function": {"arguments": arguments}}])

    halves: Halves = {}
    read(call(0, "\ud83d"), halves)
    (other,) = read(call(1, "\ude00"), dict(halves)).choices or ()
    assert other.delta.tool_calls[0].function.arguments == "\ufffd"  # not of the same call
    (same,) = read(call(0, "\ude00"), halves).choices or ()
    assert same.delta.tool_calls[0].function.arguments == "\U0001f600"


def test_a_half_that_never_gets_its_other_is_replaced() -> None:
    halves: Halves = {}
    read(chunk(content="\ud83d"), halves)
    (choice,) = read(chunk(content="x"), halves).choices or ()
    assert choice.delta.content == "\ufffdx"
    whole = {"choices": [{"message": {"content": "a\ud83d"}}]}
    (choice,) = read(whole).choices or ()  # nothing comes after a whole message
    assert choice.message.content == "a\ufffd"


def test_bytes_that_are_no_characters_are_replaced() -> None:
    (choice,) = read(b'{"choices": [{"delta": {"content": "a\xffb"}}]}').choices or ()
    assert choice.delta.content == "a\ufffdb"


# -- laws


@given(CHUNKS)
def test_whatever_it_is_the_chunk_can_be_used(payload: Any) -> None:
    try:
        found = read(payload)
    except ValueError:
        return
    for choice in found.choices or ():
        for delta in (choice.delta, choice.message):
            for text in (delta.content, delta.reasoning) if delta is not None else ():
                assert text is None or text.encode()


@given(st.dictionaries(FIELDS, JSON, max_size=5))
def test_both_readers_agree_where_the_fast_one_can_read(payload: dict[str, Any]) -> None:
    raw = json.dumps({"choices": [{"delta": {"content": "a"}}], "object": "x", **payload}).encode()
    try:
        fast, slow = decode_chunk(raw), read(raw)
    except ValueError:
        return
    texts = [
        [c.delta.content for c in found.choices or () if c.delta is not None]
        for found in (fast, slow)
    ]
    if "choices" not in payload:
        assert texts[0] == texts[1]
