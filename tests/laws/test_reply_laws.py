"""What holds for every reply, whatever an upstream sends and wherever the network cuts it."""

import itertools
import json
import re

from hypothesis import given, settings
from hypothesis import strategies as st
from jiter import from_json

from dragoman.core.tool_ids import to_upstream_id
from dragoman.core.upstream_errors import ReplyContext
from dragoman.core.usage import Usage
from support.sse_grammar import check_message
from support.turns import DONE, call, chunk, cut, event, make_plan, read, run, run_whole, sse, usage

OUR_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")
TEXTS = st.sampled_from(
    ["a", "Hi there", "\n", " ", "é", "🙂", '"\\', "<think>", "</think>", "#", "##", ""]
)
IDS = st.sampled_from(["call_0", "functions.f:0", "functions.f:1", "", "x" * 60, "a b", "é"])
INPUTS = st.dictionaries(
    st.sampled_from(["x", "y"]),
    st.none() | st.booleans() | st.integers(-9, 9) | TEXTS | st.lists(TEXTS, max_size=2),
    max_size=2,
)
COUNTS = st.none() | st.integers(-1, 10**7)
USAGES = st.fixed_dictionaries(
    {},
    optional={
        "prompt_tokens": COUNTS,
        "completion_tokens": COUNTS,
        "cached_tokens": COUNTS,
        "prompt_cache_hit_tokens": COUNTS,
        "reasoning_tokens": COUNTS,
        "prompt_tokens_details": st.none() | st.fixed_dictionaries({"cached_tokens": COUNTS}),
    },
)
FINISHES = st.sampled_from(
    ["stop", "length", "tool_calls", "content_filter", "abort", "null", "", None, "?"]
)
PLANS = st.builds(
    make_plan,
    show_thinking=st.sampled_from(["full", "omitted", "none"]),
    local_stop_sequences=st.sampled_from([(), ("##",), ("#", "Hi t"), ("zz",)]),
    single_tool_call=st.booleans(),
    forced_by_schema=st.sampled_from([False, False, False, True]),
)


@st.composite
def pieces(draw, text):
    """Cut a text into fragments, as an upstream does it."""
    places = sorted(draw(st.lists(st.integers(0, len(text)), max_size=4)))
    edges = [0, *places, len(text)]
    return [text[a:b] for a, b in itertools.pairwise(edges)]


@st.composite
def tool_calls(draw, index):
    """The fragments of one call: mostly whole, sometimes cut, doubled or nonsense."""
    written = json.dumps(draw(INPUTS))
    kind = draw(st.sampled_from(["whole"] * 5 + ["cut", "doubled", "padded", "none", "alien"]))
    if kind == "cut":
        written = written[: draw(st.integers(0, len(written)))]
    elif kind != "whole":
        alien = draw(st.sampled_from(["[1]", "{'x': 1}", "null", "Paris", '"{}"', '{"x":}', "}"]))
        written = {"doubled": written * 2, "padded": f" {written}\n ", "none": ""}.get(kind, alien)
    call_id, name = draw(IDS), draw(st.sampled_from(["f", "g", "h"]))
    head, *tail = draw(pieces(written))
    repeats = draw(st.booleans())
    more = [call(index, call_id if repeats else None, name if repeats else None, t) for t in tail]
    return [call(index, call_id, name, head), *more]


@st.composite
def interleaved(draw, runs):
    """Merge runs of chunks, keeping the order inside each."""
    runs, merged = [r for r in runs if r], []
    while runs:
        picked = draw(st.integers(0, len(runs) - 1))
        merged.append(runs[picked].pop(0))
        runs = [r for r in runs if r]
    return merged


@st.composite
def bodies(draw):
    count = draw(st.integers(0, 3))
    calls = [draw(tool_calls(index)) for index in range(count)]
    thinking = [
        chunk(**{draw(st.sampled_from(["reasoning", "reasoning_content"])): t})
        for t in draw(st.lists(TEXTS, max_size=4))
    ]
    text = [chunk(content=t) for t in draw(st.lists(TEXTS, max_size=4))]
    counts = [usage(**draw(USAGES)) for _ in range(draw(st.integers(0, 2)))]
    chunks = draw(interleaved([*calls, thinking, text, counts]))
    finish = draw(FINISHES)
    ending = draw(
        st.lists(
            st.sampled_from(
                [
                    chunk(finish),
                    usage(prompt_tokens=9, completion_tokens=3),
                    DONE,
                    b": x\n\n",
                    b"data: {\n\n",
                ]
            ),
            max_size=3,
        )
    )
    return sse(*chunks, *ending)


@given(bodies(), PLANS)
@settings(max_examples=400)
def test_every_reply_is_legal_and_streamed_is_whole(body, plan) -> None:
    streamed, whole = run([body], plan), run([body], plan, is_stream=False)
    assert type(streamed.error) is type(whole.error)
    assert streamed.turn.is_done
    first, second = read(streamed), read(whole, is_stream=False)
    if first.error is not None:
        assert first.error == second.error
        return
    assert (first.text, first.thinking, first.stop_reason) == (
        second.text,
        second.thinking,
        second.stop_reason,
    )
    assert (first.stop_sequence, first.usage) == (second.stop_sequence, second.usage)
    assert [b["type"] for b in first.content] == [b["type"] for b in second.content]
    for ours, other in zip(first.tool_uses, second.tool_uses, strict=True):
        assert (ours["id"], ours["name"]) == (other["id"], other["name"])
        is_cut = ours is first.content[-1] and first.stop_reason != "tool_use"
        assert ours["input"] == other["input"] or is_cut


@given(bodies(), PLANS, st.lists(st.integers(0, 10**6), max_size=40))
def test_cuts_never_matter(body, plan, places) -> None:
    assert run(cut(body, places), plan).body == run([body], plan).body


@given(bodies(), PLANS)
def test_tool_input_can_be_parsed_after_every_delta(body, plan) -> None:
    shown: dict[int, str] = {}
    for e in read(run([body], plan)).events:
        if e.get("delta", {}).get("type") == "input_json_delta":
            shown[e["index"]] = shown.get(e["index"], "") + e["delta"]["partial_json"]
            if shown[e["index"]]:
                assert isinstance(from_json(shown[e["index"]].encode(), partial_mode=True), dict)


@given(st.lists(IDS, max_size=12))
def test_ids_are_unique_and_lead_back(ids) -> None:
    chunks = [call(index, call_id, "f", "{}") for index, call_id in enumerate(ids)]
    used = read(run([sse(*chunks, chunk("stop"), DONE)])).tool_uses
    ours = [c["id"] for c in used]
    assert len(set(ours)) == len(ours) == len(ids)
    assert all(OUR_ID.fullmatch(i) for i in ours)
    assert [to_upstream_id(i) for i in ours] == [
        theirs if theirs and len(theirs) < 46 else i for theirs, i in zip(ids, ours, strict=True)
    ]


@given(st.lists(USAGES, max_size=4), st.integers(0, 99))
def test_usage_adds_up(usages, earlier) -> None:
    before = Usage(input_tokens=earlier, output_tokens=earlier, is_estimate=False)
    body = sse(chunk(content="Hi"), *(usage(**u) for u in usages), chunk("stop"), DONE)
    ended = run([body], before=before)
    found, total = read(ended).usage, ended.turn.usage
    prompt = (
        found["input_tokens"]
        + found["cache_read_input_tokens"]
        + found["cache_creation_input_tokens"]
    )
    said = [u["prompt_tokens"] for u in usages if u.get("prompt_tokens") is not None]
    assert prompt == earlier + (max(0, said[-1]) if said else 7)
    assert found["output_tokens"] == total.output_tokens > earlier
    assert all(count >= 0 for count in found.values() if isinstance(count, int))


@given(INPUTS, TEXTS, TEXTS, st.booleans())
def test_an_upstream_may_stream_or_not(given_input, text, thinking, has_call) -> None:
    """The same reply, sent as chunks and as one body, is the same message."""
    said = {"reasoning": thinking.strip("\n "), "content": text.strip("\n ")}
    parts = [chunk(**{k: v}) for k, v in said.items()]
    if has_call:
        function = {"name": "f", "arguments": json.dumps(given_input)}
        said["tool_calls"] = [{"id": "a", "function": function}]
        parts.append(call(0, "a", "f", function["arguments"]))
    whole = json.dumps({"choices": [{"message": said, "finish_reason": "stop"}]}).encode()
    streamed = run([sse(*parts, chunk("stop"), DONE)], is_stream=False)
    assert check_message(streamed.body) == check_message(run_whole(whole).body)


@given(
    st.binary(max_size=200)
    | st.lists(st.binary(max_size=40)).map(lambda p: b"".join(b"data: %b\n\n" % x for x in p))
)
def test_any_bytes_end_in_a_legal_way(body) -> None:
    read(run([body]))
    read(run_whole(body), is_stream=False)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.floats()
    | st.integers()
    | st.text(max_size=5)
    | st.sampled_from(["stop", "\ud83d", "\ude00", "x"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["text", "arguments", "name", "content", "type"]), inner, max_size=3
        )
    ),
    max_leaves=6,
)
DELTA = st.dictionaries(
    st.sampled_from(
        [
            "content",
            "reasoning",
            "reasoning_content",
            "reasoning_details",
            "refusal",
            "tool_calls",
            "function_call",
        ]
    ),
    JSON
    | st.lists(st.fixed_dictionaries({}, optional={"index": JSON, "id": JSON, "function": JSON})),
)
CHOICE = JSON | st.fixed_dictionaries(
    {},
    optional={
        "index": JSON,
        "delta": JSON | DELTA,
        "message": JSON | DELTA,
        "finish_reason": JSON,
        "usage": JSON,
        "stop_reason": JSON,
    },
)
ODD = JSON | st.fixed_dictionaries(
    {},
    optional={
        "choices": JSON | st.lists(CHOICE, max_size=2),
        "usage": JSON | USAGES,
        "error": JSON,
        "object": JSON,
    },
)


@given(st.lists(ODD, max_size=4), st.booleans())
@settings(max_examples=400)
def test_values_of_odd_types_end_in_a_legal_way(payloads, is_finished) -> None:
    body = b"".join(event(p) for p in payloads) + (sse(chunk("stop"), DONE) if is_finished else b"")
    for is_stream in (True, False):
        read(run([body], is_stream=is_stream), is_stream=is_stream)
    for payload in payloads:
        read(run_whole(json.dumps(payload).encode()), is_stream=False)


@given(bodies(), st.integers(1, 300))
def test_a_reply_over_its_limit_is_an_error(body, limit) -> None:
    ended = run([body], reply=ReplyContext(max_reply_bytes=limit))
    if len(body) > limit:
        assert f"over {limit} bytes" in read(ended).error["message"]
