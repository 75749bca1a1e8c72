"""Text calls, thinking, tags, stop sequences and calls of the upstream, all in one reply."""

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dragoman.core.dialects.profile import DialectProfile
from dragoman.core.plan import ServerTool
from dragoman.core.tool_ids import to_upstream_id
from support.sse_grammar import check_message
from support.text_calls import SCHEMAS, WRITERS
from support.turns import DONE, call, chunk, make_plan, make_turn, read, run, run_whole, sse

CALL = "<tool_call>list_files</tool_call>"
WEATHER = "<tool_call>get_weather<arg_key>city</arg_key><arg_value>Turin</arg_value></tool_call>"
KIMI = WRITERS["Kimi K2"][1]([("get_weather", {"city": "Turin"})])
FUNCTIONS = [
    {"type": "function", "function": {"name": name, "parameters": schema}}
    for name, schema in SCHEMAS.items()
]
FIELDS = {"tool_names": frozenset(SCHEMAS), "body": {"tools": FUNCTIONS}}
STOP = chunk("stop")


def blocks(message):
    keys = {"text": "text", "thinking": "thinking"}
    return [
        b[keys[b["type"]]] if b["type"] in keys else (b["name"], b["input"])
        for b in message.content
    ]


def plan_of(**changes):
    return make_plan(**{**FIELDS, **changes})


def stream(*chunks, **changes):
    return read(run([sse(*chunks)], plan_of(**changes)))


FILES_CALL, WEATHER_CALL = ("list_files", {}), ("get_weather", {"city": "Turin"})
REPLIES = {
    "in content": ([chunk(content=f"Hi.\n{CALL}")], ["Hi.", FILES_CALL]),
    "at once": ([chunk(content=CALL)], [FILES_CALL]),
    "in content, cut anywhere": (
        [chunk(content=c) for c in f"Hi.\n{WEATHER}\n\nBye."],
        ["Hi.", WEATHER_CALL, "Bye."],
    ),
    "in reasoning": (
        [chunk(reasoning_content="hm\n"), chunk(reasoning_content=CALL)],
        ["hm", FILES_CALL],
    ),
    "in reasoning, with empty content": (
        [chunk(reasoning=f"hm\n{CALL}"), chunk(content=""), chunk(content="\n")],
        ["hm", FILES_CALL],
    ),
    "a draft in reasoning, then an answer": (
        [chunk(reasoning=f"hm\n{CALL}"), chunk(content="No.")],
        [f"hm\n{CALL}", "No."],
    ),
    "a draft in reasoning, then a call in content": (
        [chunk(reasoning=f"hm\n{CALL}"), chunk(content=WEATHER)],
        [f"hm\n{CALL}", WEATHER_CALL],
    ),
    "a draft in reasoning, then a call of the upstream": (
        [chunk(reasoning=f"hm\n{CALL}"), call(0, "a", "get_weather", '{"city":"Turin"}')],
        [f"hm\n{CALL}", WEATHER_CALL],
    ),
    "a draft in reasoning between texts": (
        [
            chunk(content="Hi"),
            chunk(reasoning=f"hm\n{CALL}"),
            *(chunk(content=c) for c in " No way."),
        ],
        ["Hi", f"hm\n{CALL}", " No way."],
    ),
    "what may begin a draft, between texts": (
        [
            chunk(content="Hi"),
            chunk(reasoning="hm\n<tool"),
            chunk(content=" No."),
            chunk(reasoning="_"),
        ],
        ["Hi", "hm\n<tool", " No.", "_"],
    ),
    "thinking that never ends": (
        [chunk(content=f"<think>\nhm\n{CALL}")],
        ["hm", FILES_CALL],
    ),
    "thinking that ends behind a call": (
        [chunk(content=f"<think>hm\n{CALL}</think>")],
        ["hm", FILES_CALL],
    ),
    "a draft in thinking, then an answer": (
        [chunk(content=f"<think>hm\n{CALL}\n</think>\n\nNo.")],
        [f"hm\n{CALL}", "No."],
    ),
    "thinking, then a call": (
        [chunk(content=f"<think>hm</think>\n{CALL}")],
        ["hm", FILES_CALL],
    ),
    "beside a call of the upstream": (
        [chunk(content=f"Hi.\n{CALL}"), call(0, "a", "get_weather", '{"city":"Turin"}')],
        ["Hi.", FILES_CALL, WEATHER_CALL],
    ),
    "behind a call of the upstream": (
        [call(0, "a", "get_weather", '{"city":"Turin"}'), chunk(content=CALL)],
        [WEATHER_CALL, FILES_CALL],
    ),
    "between the fragments of a call of the upstream": (
        [
            call(0, "a", "get_weather", '{"city":'),
            chunk(content=f"{CALL}\n"),
            call(0, None, None, '"Turin"}'),
        ],
        [WEATHER_CALL, FILES_CALL],
    ),
    "an incomplete one before a call of the upstream": (
        [chunk(content="Hi <tool_call>list_"), call(0, "a", "list_files", "{}")],
        ["Hi <tool_call>list_", FILES_CALL],
    ),
    "line breaks before a call of the upstream": (
        [chunk(content="Hi.\n\n"), call(0, "a", "list_files", "{}")],
        ["Hi.\n\n", FILES_CALL],
    ),
    "line breaks before thinking": (
        [chunk(content="Hi.\n"), chunk(reasoning="hm\n"), chunk(content="Bye.\n")],
        ["Hi.\n", "hm\n", "Bye.\n"],
    ),
    "none at all": ([chunk(content="a < b\n"), chunk(content="`c`\n")], ["a < b\n`c`\n"]),
}


@pytest.mark.parametrize(("chunks", "expected"), REPLIES.values(), ids=REPLIES)
def test_replies(chunks, expected) -> None:
    message = stream(*chunks, STOP, DONE)
    assert blocks(message) == expected
    has_calls = any(not isinstance(block, str) for block in expected)
    assert message.stop_reason == ("tool_use" if has_calls else "end_turn")
    whole = run([sse(*chunks, STOP, DONE)], plan_of(), is_stream=False)
    assert blocks(read(whole, is_stream=False)) == expected


def test_a_whole_reply() -> None:
    said = {"content": f"Hi.\n{KIMI}", "reasoning_content": "hm"}
    body = json.dumps({"choices": [{"message": said, "finish_reason": "stop"}]}).encode()
    ended = run_whole(body, plan_of())
    message = check_message(ended.body)
    assert blocks(message) == ["hm", "Hi.\n", WEATHER_CALL]
    assert to_upstream_id(message.tool_uses[0]["id"]) == "functions.get_weather:0"
    assert [a.reason for a in ended.turn.repairs] == [
        "get_weather: the call came as text (kimi_k2)"
    ]


def test_text_that_should_have_been_thinking_but_for_a_call() -> None:
    profile = DialectProfile(think_tag_open_at_start=True)
    assert blocks(stream(chunk(content=f"hm\n{CALL}"), STOP, DONE, profile=profile)) == [
        "hm",
        FILES_CALL,
    ]
    assert blocks(stream(chunk(content=f"hm\n{CALL} no"), STOP, DONE, profile=profile)) == [
        f"hm\n{CALL} no",
        f"hm\n{CALL} no",
    ]


def test_hidden_thinking_still_calls() -> None:
    message = stream(chunk(reasoning=f"hm\n{CALL}"), STOP, DONE, show_thinking="none")
    assert blocks(message) == [FILES_CALL]


CUTS = {
    "length": ("length", None, "max_tokens", '{"city":"Tur'),
    "filter": ("content_filter", None, "refusal", '{"city":"Tur'),
    "a stop sequence": ("stop", "###", "stop_sequence", '{"city":"Tur'),
    "done": ("stop", None, "end_turn", None),
}


@pytest.mark.parametrize(("finish", "matched", "reason", "shown"), CUTS.values(), ids=CUTS)
@pytest.mark.parametrize("field", ["content", "reasoning_content"])
def test_a_call_that_was_cut(finish, matched, reason, shown, field) -> None:
    end = chunk(finish)
    end["choices"][0]["stop_reason"] = matched
    text = WEATHER.partition("in</arg_value>")[0]
    message = stream(chunk(**{field: text}), end, DONE, stops=["###"])
    assert message.stop_reason == reason
    deltas = [e["delta"] for e in message.events if "delta" in e]
    pieces = [d["partial_json"] for d in deltas if "partial_json" in d]
    assert "".join(pieces) == (shown or "")
    assert (message.text + message.thinking == text) == (shown is None)


def test_without_an_end_nothing_is_completed() -> None:
    """Done, but without a finish reason: a server that broke off says no more than this."""
    message = stream(chunk(content=WEATHER.partition("in</arg_value>")[0]), DONE)
    assert message.stop_reason == "max_tokens"
    assert not run([sse(call(0, "a", "list_files", '{"x": 1'), DONE)], plan_of()).error


def test_only_one_call_where_parallel_ones_are_forbidden() -> None:
    message = stream(chunk(content=f"{CALL}\n{WEATHER}"), STOP, DONE, single_tool_call=True)
    assert blocks(message) == [FILES_CALL]


def test_a_server_tool_called_in_text() -> None:
    tool = ServerTool(name="list_files", result_type="r_tool_result", error_type="r_error")
    turn = make_turn(plan_of(server_tools={"list_files": tool}))
    turn.feed(sse(chunk(content=f"Hi.\n{CALL}"), STOP, DONE))
    assert [c.name for c in turn.server_calls] == ["list_files"]
    assert turn.written_text == "Hi."


STOPS = {
    "before a call": ([f"Hi ###\n{CALL}"], ["Hi "], "###"),
    "behind a call": ([f"{CALL}\nHi ###"], [FILES_CALL, "Hi "], None),
    "in a call": ([WEATHER.replace("Turin", "###")], [("get_weather", {"city": "###"})], None),
    "half of one before a call": ([f"Hi ##{CALL}"], ["Hi ##", FILES_CALL], None),
    "in what is held": (["Hi\n", "###", "more"], ["Hi\n"], "###"),
    "in what the end releases": (["Hi <tool_c###"], ["Hi <tool_c"], "###"),
    "a line break, at the end": (["Hi\n"], ["Hi\n"], None),
}


@pytest.mark.parametrize(("texts", "expected", "matched"), STOPS.values(), ids=STOPS)
def test_stop_sequences(texts, expected, matched) -> None:
    message = stream(
        *(chunk(content=t) for t in texts),
        STOP,
        DONE,
        stops=["###"],
        local_stop_sequences=("###",),
    )
    assert blocks(message) == expected
    assert message.stop_sequence == matched


def test_a_stop_sequence_that_is_a_line_break() -> None:
    fields = {"stops": ["\n"], "local_stop_sequences": ("\n",)}
    message = stream(chunk(content="Hi\n"), chunk(content="more"), STOP, DONE, **fields)
    assert (blocks(message), message.stop_sequence) == (["Hi"], "\n")
    assert stream(chunk(content="Hi\n"), STOP, DONE, **fields).stop_sequence == "\n"


def test_a_forced_call_is_not_looked_for() -> None:
    text = json.dumps({"name": "get_weather", "arguments": {"city": CALL}})
    message = stream(chunk(content=text), STOP, DONE, forced_by_schema=True)
    assert blocks(message) == [("get_weather", {"city": CALL})]


def test_repairs_are_told() -> None:
    fixed = WRITERS["Qwen3"][1]([("get_weather", {"city": "x", "days": "2"})])
    body = sse(
        chunk(content=fixed),
        call(0, "a", "get_weather", '{"city": 5, "days": null}'),
        call(1, "b", "get_weather", '{"city": "x"'),
        STOP,
        DONE,
    )
    ended = run([body], plan_of())
    assert [u["input"] for u in read(ended).tool_uses] == [
        {"city": "x", "days": 2},
        {"city": "5"},
        {"city": "x"},
    ]
    assert ended.turn.repair_counts == {"text.hermes": 1, "type": 2, "null": 1, "syntax": 1}
    assert {a.action for a in ended.turn.repairs} == {"repaired"}
    assert run([sse(chunk(content="Hi"), STOP, DONE)], plan_of()).turn.repairs == ()


def test_a_call_that_is_put_right_lets_the_next_one_through() -> None:
    turn = make_turn(plan_of())
    turn.feed(sse(call(0, "a", "get_weather", '{"city": "x", "days": "2"')))
    assert b"toolu_" in turn.feed(sse(call(0, None, None, "}"), call(1, "b", "list_files", "{}")))
    out = turn.feed(sse(chunk(content="Hi")))
    assert b'"text":"Hi"' in out


TEXTS = st.lists(
    st.sampled_from(
        [
            *("Hi", "\n", " ", "`", "```\n", "<think>", "</think>", "<", "#", "##", CALL, WEATHER),
            *(f"\n{CALL}\n", f"\n{KIMI}\n", "<tool_call>", "</tool_call>", "é🙂"),
        ]
    ),
    max_size=8,
).map("".join)
PROFILES = st.builds(
    DialectProfile,
    think_tags=st.booleans(),
    think_tag_open_at_start=st.booleans(),
    tool_text=st.sampled_from([(), ("glm",), DialectProfile().tool_text]),
)


def in_pieces(text, places, field):
    edges = [0, *sorted(place % (len(text) + 1) for place in places), len(text)]
    return [chunk(**{field: text[a:b]}) for a, b in itertools.pairwise(edges)]


@given(
    TEXTS,
    TEXTS,
    st.lists(st.integers(0, 300), max_size=10),
    PROFILES,
    st.sampled_from([(), ("##",), ("\n",)]),
    st.sampled_from(["stop", "length"]),
)
@settings(max_examples=400, deadline=None)
def test_it_does_not_matter_how_the_upstream_cuts_its_text(
    thinking, text, places, profile, stops, finish
) -> None:
    plan = plan_of(profile=profile, stops=list(stops), local_stop_sequences=stops)
    once = [chunk(reasoning=thinking), chunk(content=text)]
    pieces = in_pieces(thinking, places, "reasoning") + in_pieces(text, places, "content")
    first, second = (
        read(run([sse(*chunks, chunk(finish), DONE)], plan)) for chunks in (once, pieces)
    )
    assert blocks(first) == blocks(second)
    assert (first.stop_reason, first.stop_sequence) == (second.stop_reason, second.stop_sequence)
