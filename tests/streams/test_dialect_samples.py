"""Every structured sample gives its expected result, however it is cut, streamed and whole."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.core.dialects.profile import DialectProfile
from dragoman.core.tool_ids import to_upstream_id
from support.turns import cut, make_plan, read, run

FOLDER = Path(__file__).parent / "dialects"
EXPECTED = json.loads((FOLDER / "expected.json").read_text())
SAMPLES = {
    name: expected
    for name, expected in EXPECTED["samples"].items()
    if expected["raw_syntax"] is None and "raw" not in name
}
TOOLS = frozenset(tool["name"] for tool in EXPECTED["tools"])


def body_of(name):
    return (FOLDER / f"{name}.sse").read_bytes()


def plan_of(name):
    profile = DialectProfile(think_tag_open_at_start="without-open-tag" in name)
    return make_plan(stops=["###"], tool_names=TOOLS, profile=profile)


def partial_json(message, index):
    deltas = [e for e in message.events if e.get("index") == index and "delta" in e]
    return "".join(e["delta"]["partial_json"] for e in deltas)


def check(name, message, *, is_stream) -> None:
    expected = SAMPLES[name]
    if expected["error"] is not None:
        assert message.error is not None
        assert message.error["type"] == expected["error"]["type"]
        return
    assert message.error is None
    assert (message.thinking, message.text) == (expected["thinking"], expected["text"])
    assert message.stop_reason == expected["stop_reason"]
    assert message.stop_sequence == expected["stop_sequence"]
    assert len(message.tool_uses) == len(expected["tool_uses"])
    for used, wanted in zip(message.tool_uses, expected["tool_uses"], strict=True):
        assert used["name"] == wanted["name"]
        assert to_upstream_id(used["id"]) == (wanted["upstream_id"] or used["id"])
        if wanted["input"] is not None:
            assert used["input"] == wanted["input"]
        elif is_stream:
            assert partial_json(message, message.content.index(used)) == wanted["partial_json"]
        else:
            assert used["input"] == {"path": "a.txt", "content": "hello wo"}
    for counter, count in (expected["usage"] or {}).items():
        assert message.usage[counter] == count


def test_all_samples_are_here() -> None:
    assert len(EXPECTED["samples"]) == len(list(FOLDER.glob("*.sse"))) == 61
    assert len(SAMPLES) == 47


@pytest.mark.parametrize("is_stream", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("name", SAMPLES)
def test_sample(name, is_stream) -> None:
    ended = run([body_of(name)], plan_of(name), is_stream=is_stream)
    check(name, read(ended, is_stream=is_stream), is_stream=is_stream)


@pytest.mark.parametrize("name", SAMPLES)
def test_sample_byte_by_byte(name) -> None:
    body = body_of(name)
    slices = [body[i : i + 1] for i in range(len(body))]
    assert run(slices, plan_of(name)).body == run([body], plan_of(name)).body


@given(st.sampled_from(sorted(SAMPLES)), st.lists(st.integers(0, 10_000), max_size=30))
def test_samples_in_random_cuts(name, places) -> None:
    body = body_of(name)
    assert run(cut(body, places), plan_of(name)).body == run([body], plan_of(name)).body
