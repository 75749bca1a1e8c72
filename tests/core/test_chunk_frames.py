"""Chunks that differ in one text only: read alone, it means what the whole chunk means."""

import itertools
import json
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import asdict

from dragoman.core import turn as turn_module
from dragoman.core.chunk_frames import ChunkFrame, find_frame, find_text_frame
from dragoman.wire.openai_chat import decode_chunk
from support.turns import DONE, call, chunk, cut, event, make_plan, run, sse, usage

COMPACT = (",", ":")


def frame_of(data: Any, *, separators: tuple[str, str] = COMPACT) -> ChunkFrame | None:
    payload = json.dumps(data, separators=separators).encode()
    return find_frame(payload, decode_chunk(payload))


def text_event(text: str) -> bytes:
    return event(chunk(content=text))


FOUND = {
    "content": (chunk(content="a"), "text"),
    "content beside empty fields": (
        chunk(content="a", role="assistant", tool_calls=None, reasoning_content=""),
        "text",
    ),
    "reasoning_content": (chunk(reasoning_content="a"), "thinking"),
    "reasoning": (chunk(reasoning="a", content=""), "thinking"),
    "arguments": (call(0, None, None, "a"), "arguments"),
}
NOT_FOUND = {
    "nothing": chunk(),
    "a list": chunk(content=[{"text": "a"}]),
    "an escape": chunk(content="a\n"),
    "two texts": chunk(content="a", reasoning_content="b"),
    "the same thinking twice": chunk(reasoning="a", reasoning_content="a"),
    "details": chunk(reasoning="a", reasoning_details=[{"text": "a"}]),
    "a refusal": chunk(refusal="a"),
    "the key once more": {"choices": [{"delta": {"content": "a"}, "logprobs": {"content": []}}]},
    "an end": chunk("stop", content="a"),
    "counts": {**chunk(content="a"), "usage": {"prompt_tokens": 1}},
    "counts in the choice": {"choices": [{"delta": {"content": "a"}, "usage": {}}]},
    "two choices": {"choices": [{"delta": {"content": "a"}}, {"delta": {"content": "b"}}]},
    "a whole reply": {"choices": [{"message": {"content": "a"}}]},
    "the start of a call": call(0, "c1", "f", "a"),
    "a named call": call(0, None, "f", "a"),
    "two fragments": chunk(tool_calls=[{"function": {"arguments": "a"}}] * 2),
    "arguments as an object": call(0, None, None, {"a": 1}),
}


@pytest.mark.parametrize(("data", "kind"), FOUND.values(), ids=FOUND)
@pytest.mark.parametrize("separators", [COMPACT, (", ", ": ")], ids=["compact", "spaced"])
def test_what_chunks_have_in_common(
    data: dict[str, Any], kind: str, separators: tuple[str, str]
) -> None:
    frame = frame_of(data, separators=separators)
    assert frame is not None
    assert frame.kind == kind
    other = json.dumps(data, separators=separators).replace('"a"', r'"b\n\u00e9"').encode()
    assert frame.read_event(b"data: %b\n\n" % other) == "b\n\xe9"
    assert frame.read_payloads([b"{}", other, other, b"{}"], 1) == (
        ["b\n\xe9"] * 2,
        [rb"b\n\u00e9"] * 2,
    )


@pytest.mark.parametrize("data", NOT_FOUND.values(), ids=NOT_FOUND)
def test_chunks_that_say_more(data: dict[str, Any]) -> None:
    assert frame_of(data) is None


@pytest.mark.parametrize("data", [*(d for d, _ in FOUND.values()), *NOT_FOUND.values()])
@pytest.mark.parametrize("separators", [COMPACT, (", ", ": ")], ids=["compact", "spaced"])
def test_the_short_way_finds_nothing_else(
    data: dict[str, Any], separators: tuple[str, str]
) -> None:
    payload = json.dumps(data, separators=separators).encode()
    short, long = find_text_frame(payload), find_frame(payload, decode_chunk(payload))
    assert short is None or (long is not None and asdict(short) == asdict(long))
    assert (short is None) == (data != chunk(content="a") or separators != COMPACT)


MORE_THAN_TEXT: dict[str, dict[str, Any]] = {
    "an empty text": chunk(content=""),
    "a second answer": {"choices": [{"index": 1, "delta": {"content": "a"}}]},
    "an error beside it": {**chunk(content="a"), "error": {"message": "x"}},
    "an error by its name": {**chunk(content="a"), "object": "error"},
}


@pytest.mark.parametrize("data", MORE_THAN_TEXT.values(), ids=MORE_THAN_TEXT)
def test_chunks_that_are_not_text_alone(data: dict[str, Any]) -> None:
    payload = json.dumps(data, separators=COMPACT).encode()
    assert find_text_frame(payload) is None
    assert find_frame(payload, decode_chunk(payload)) is None


SPELT = {
    "an escape": b'{"choices":[{"delta":{"content":"a\\u0062"}}]}',
    "the key once more": b'{"choices":[{"logprobs":{"content":"a"},"delta":{"content":"a"}}]}',
    "the key once more, spaced": b'{"choices":[{"delta":{"content": "a"},"x":{"content":"a"}}]}',
    "the key once more, escaped": rb'{"choices":[{"delta":{"content":"a","\u0063ontent":"a"}}]}',
    "two deltas": b'{"choices":[{"delta":{"content":"a"},"delta":{"content":"a"}}]}',
    "two lines": b'{"choices":[{"delta":{"content":"a"}}],\n"id":1}',
    "half a character": b'{"choices":[{"delta":{"content":"\xc3"}}]}',
    "no JSON": b'{"choices":[{"delta":{"content":"a"}}]',
    "nothing": b"",
}


@pytest.mark.parametrize("payload", SPELT.values(), ids=SPELT)
def test_what_cannot_be_told_by_its_spelling(payload: bytes) -> None:
    assert find_text_frame(payload) is None


def test_a_key_spelt_in_another_way_is_not_taken_for_it() -> None:
    payload = b'{"choices":[{"delta":{"c\\u006fntent":"a"},"x":{"content":"b"}}]}'
    assert find_frame(payload, decode_chunk(payload)) is None


HEAD, TAIL = b'{"choices":[{"index":0,"delta":{"content":"', b'"}}]}'
NOT_ALIKE = {
    "another beginning": b'{"id":1,"choices":[{"index":0,"delta":{"content":"a"}}]}',
    "another end": HEAD + b'a"},"finish_reason":"stop"}]}',
    "two strings": HEAD + b'a","role":"b' + TAIL,
    "an open escape": HEAD + b"a\\" + TAIL,
    "half a character": HEAD + b"\xc3" + TAIL,
    "half a pair": HEAD + rb"\ud83d" + TAIL,
    "a line feed": HEAD + b"a\nb" + TAIL,
    "a tab": HEAD + b"a\tb" + TAIL,
    "no room for a text": HEAD + TAIL[1:],
    "nothing": b"",
}


@pytest.mark.parametrize("payload", NOT_ALIKE.values(), ids=NOT_ALIKE)
def test_what_is_not_alike_is_left_to_others(payload: bytes) -> None:
    sample = HEAD + b"a" + TAIL
    frame = find_frame(sample, decode_chunk(sample))
    assert frame is not None
    assert frame.read_event(b"data: %b\n\n" % payload) is None
    assert frame.read_payloads([payload], 0)[0] == []
    found = frame.read_payloads([sample, payload], 0)
    assert found[0] in ([], ["a"])


class Looked(list[bytes]):
    """Payloads that count how many of them were taken out."""

    n = 0

    def __getitem__(self, at: Any) -> Any:
        found = super().__getitem__(at)
        self.n += len(found) if isinstance(at, slice) else 1
        return found


@pytest.mark.parametrize(("run", "most"), [(1, 6), (2, 6), (5, 20), (50, 130), (1000, 260)])
def test_no_more_is_looked_at_than_is_likely_to_be_alike(run: int, most: int) -> None:
    payloads = Looked(
        json.dumps(chunk(**{kind: "a"}), separators=COMPACT).encode()
        for kind in ("content", "reasoning_content") * (2000 // run)
        for _ in range(run)
    )
    frame = frame_of(chunk(content="a"))
    assert frame is not None
    texts, _ = frame.read_payloads(payloads, 0)
    assert len(texts) == min(run, 256)
    assert payloads.n <= most


def test_two_halves_are_not_one_string() -> None:
    sample = HEAD + b"a" + TAIL
    frame = find_frame(sample, decode_chunk(sample))
    assert frame is not None
    halves = [HEAD + half + TAIL for half in (b'x","y', b"a\\", b"b")]
    assert frame.read_payloads(halves, 0)[0] == []


KINDS = ("text", "thinking", "arguments")
WORDS = st.sampled_from(
    [
        "",
        "a",
        " word",
        "\n",
        '"',
        "\\",
        "<",
        "<think>",
        "</think>",
        "`",
        "\u4e2d",
        "\U0001f600",
        "STOP",
    ]
) | st.text(max_size=5)


def _chunks(kind: str, words: list[str]) -> list[Any]:
    if kind == "arguments":
        begun = call(0, "c1", "f", '{"a": "')
        return [begun, *(call(0, None, None, json.dumps(word)[1:-1]) for word in words)]
    field = "content" if kind == "text" else "reasoning_content"
    return [chunk(**{field: word}) for word in words]


@given(
    st.lists(st.tuples(st.sampled_from(KINDS), st.lists(WORDS, max_size=30)), max_size=4),
    st.lists(st.integers(0, 5000), max_size=8),
    st.sampled_from([{}, {"local_stop_sequences": ("STOP",)}, {"tool_names": frozenset()}]),
    st.booleans(),
)
def test_it_changes_nothing(
    runs: list[tuple[str, list[str]]], places: list[int], plan: dict[str, Any], is_stream: bool
) -> None:
    """Read one by one, together or by their frame, and wherever it is cut: a reply is the same."""
    chunks = [c for kind, words in runs for c in _chunks(kind, words)]
    body = sse(*chunks, chunk("stop"), usage(prompt_tokens=3, completion_tokens=4)) + DONE
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(turn_module, "_MAX_UNFRAMED", 0)
        without = run([body], make_plan(**plan), is_stream=is_stream)
    for slices in ([body], cut(body, places), [e + b"\n\n" for e in body.split(b"\n\n")[:-1]]):
        framed = run(slices, make_plan(**plan), is_stream=is_stream)
        assert framed.body == without.body
        assert framed.turn.usage == without.turn.usage
        assert str(framed.error) == str(without.error)


@pytest.fixture
def n_decoded(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Count the chunks that are decoded."""
    counter = itertools.count()
    decode = turn_module.decode_chunk
    monkeypatch.setattr(
        turn_module, "decode_chunk", lambda payload: (next(counter), decode(payload))[1]
    )
    return counter


def test_of_a_short_reply_one_of_the_words_is_decoded(n_decoded: Any) -> None:
    chunks = [json.dumps(c, separators=COMPACT).encode() for c in _chunks("text", ["word "] * 6)]
    body = b"".join(b"data: %b\n\n" % payload for payload in chunks)
    for is_stream in (True, False):
        n_before = next(n_decoded)
        ended = run([body + event(chunk("stop")) + DONE], is_stream=is_stream)
        assert ended.body.count(b"word ") == 6
        assert next(n_decoded) - n_before == 2  # the end, and the call that counts


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("per_read", [1, 7, 100])
def test_most_chunks_are_not_decoded(kind: str, per_read: int, n_decoded: Any) -> None:
    events = [event(c) for c in _chunks(kind, ["word "] * 98)]
    reads = [b"".join(events[at : at + per_read]) for at in range(0, len(events), per_read)]
    ended = run([*reads, event(chunk("stop")) + DONE])
    assert ended.body.count(b"word ") == 98
    assert next(n_decoded) <= 12


@pytest.mark.parametrize("per_read", [1, 7, 200])
@pytest.mark.parametrize("separators", [COMPACT, (", ", ": ")], ids=["compact", "spaced"])
def test_where_all_chunks_differ_nothing_is_looked_for_any_more(
    per_read: int, separators: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = itertools.count()

    def count(find: Callable[..., ChunkFrame | None], *args: Any) -> ChunkFrame | None:
        next(looked)
        return find(*args)

    monkeypatch.setattr(turn_module, "find_frame", partial(count, find_frame))
    monkeypatch.setattr(turn_module, "find_text_frame", partial(count, find_text_frame))
    chunks = [{"created": n, **chunk(content="a")} for n in range(200)]
    events = [b"data: %b\n\n" % json.dumps(c, separators=separators).encode() for c in chunks]
    reads = [b"".join(events[at : at + per_read]) for at in range(0, len(events), per_read)]
    assert run([*reads, event(chunk("stop")) + DONE]).body.count(b'"text":"a"') == 200
    assert 10 < next(looked) < 60
