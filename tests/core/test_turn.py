import json

import pytest

from dragoman.core.dialects.profile import DialectProfile
from dragoman.core.errors import UpstreamError, UpstreamProtocolError
from dragoman.core.plan import ServerTool
from dragoman.core.tool_ids import to_upstream_id
from dragoman.core.upstream_errors import ReplyContext
from dragoman.core.usage import Usage
from support.sse_grammar import check_message, check_stream
from support.turns import (
    DONE,
    SIGNER,
    call,
    chunk,
    event,
    make_plan,
    make_turn,
    read,
    run,
    run_whole,
    sse,
    stream,
    usage,
)

STOP = chunk("stop")


def blocks(message):
    """Each block as (type, what it holds)."""
    keys = {"text": "text", "thinking": "thinking"}
    return [(b["type"], b.get(keys.get(b["type"], "input"))) for b in message.content]


def calls(message):
    return [(c["name"], c["input"]) for c in message.tool_uses]


def tool_json(message):
    """The arguments as they were streamed, block by block."""
    pieces: dict[int, str] = {}
    for e in message.events:
        if e.get("delta", {}).get("type") == "input_json_delta":
            pieces[e["index"]] = pieces.get(e["index"], "") + e["delta"]["partial_json"]
    return list(pieces.values())


# -- text and thinking

CONTENTS = {
    "text": ([chunk(content="Hel"), chunk(content="lo")], [("text", "Hello")]),
    "empty": ([chunk(content="")], []),
    "null delta": ([{"choices": [{"delta": None}]}], []),
    "null choices": ([chunk(content="a"), {"choices": None}], [("text", "a")]),
    "parts": (
        [chunk(content=[{"type": "text", "text": "a"}, {"text": None}, {"text": "b"}])],
        [("text", "ab")],
    ),
    "refusal": ([chunk(refusal="No.")], [("text", "No.")]),
    "refusal beside text": ([chunk(content="I: ", refusal="No.")], [("text", "I: No.")]),
    "thinking then text": (
        [chunk(reasoning_content="hm"), chunk(content="Hi")],
        [("thinking", "hm"), ("text", "Hi")],
    ),
    "thinking beside text": (
        [chunk(reasoning_content="hm", content="Hi")],
        [("thinking", "hm"), ("text", "Hi")],
    ),
    "both reasoning fields": (
        [chunk(reasoning_content="hm", reasoning="hm")],
        [("thinking", "hm")],
    ),
    "empty first field": ([chunk(reasoning_content="", reasoning="hm")], [("thinking", "hm")]),
    "details only": (
        [chunk(reasoning_details=[{"text": "h"}, {"summary": "m"}, {}])],
        [("thinking", "hm")],
    ),
    "details beside text": (
        [chunk(content="Hi", reasoning_details=[{"text": "hm"}])],
        [("thinking", "hm"), ("text", "Hi")],
    ),
    "details beside reasoning": (
        [chunk(reasoning="hm", reasoning_details=[{"text": "hm"}])],
        [("thinking", "hm")],
    ),
    "thinking twice": (
        [chunk(reasoning="a"), chunk(content="b"), chunk(reasoning="c"), chunk(content="d")],
        [("thinking", "a"), ("text", "b"), ("thinking", "c"), ("text", "d")],
    ),
    "tags": (
        [chunk(content="<thi"), chunk(content="nk>hm</think>\n\nHi")],
        [("thinking", "hm"), ("text", "Hi")],
    ),
    "tags where thinking has a field": (
        [chunk(reasoning="hm"), chunk(content="<think> is a tag")],
        [("thinking", "hm"), ("text", "<think> is a tag")],
    ),
    "held tag, then thinking": (
        [chunk(content="<th"), chunk(reasoning="hm")],
        [("text", "<th"), ("thinking", "hm")],
    ),
    "space before text is kept": (
        [chunk(reasoning="hm"), chunk(content="\n\n"), chunk(content="Hi")],
        [("thinking", "hm"), ("text", "\n\nHi")],
    ),
    "space before a call is not": (
        [chunk(reasoning="hm"), chunk(content="\n\n"), call(0, "c", "f", "{}")],
        [("thinking", "hm"), ("tool_use", {})],
    ),
    "space alone": ([chunk(content=" \n")], [("text", " \n")]),
    "second choice": (
        [{"choices": [{"index": 1, "delta": {"content": "B"}}]}, chunk(content="A")],
        [("text", "A")],
    ),
    "second choice first": (
        [{"choices": [{"index": 1, "delta": {"content": "B"}}, {"delta": {"content": "A"}}]}],
        [("text", "A")],
    ),
    "blank event": ([b"data:\n\n", chunk(content="a"), b"data: \n\n"], [("text", "a")]),
    "finish reasons that say nothing": (
        [chunk("", content="a"), chunk("null", content="b")],
        [("text", "ab")],
    ),
}


@pytest.mark.parametrize(("chunks", "expected"), CONTENTS.values(), ids=CONTENTS)
def test_content(chunks, expected) -> None:
    message = stream(*chunks, STOP, DONE)
    assert blocks(message) == expected
    assert message.stop_reason in ("end_turn", "tool_use")


def test_thinking_is_signed_by_us() -> None:
    block = stream(chunk(reasoning="h"), chunk(reasoning="m"), STOP, DONE).content[0]
    assert SIGNER.is_ours(block["signature"], "hm")


def test_omitted_thinking_travels_in_the_signature() -> None:
    plan = make_plan(show_thinking="omitted")
    message = stream(chunk(reasoning="hm"), chunk(content="Hi"), STOP, DONE, plan=plan)
    assert blocks(message) == [("thinking", ""), ("text", "Hi")]
    assert SIGNER.carried_thinking(message.content[0]["signature"]) == "hm"


def test_thinking_nobody_asked_for_is_left_out() -> None:
    plan = make_plan(show_thinking="none")
    message = stream(chunk(reasoning="hm " * 40), chunk(content="Hi"), STOP, DONE, plan=plan)
    assert blocks(message) == [("text", "Hi")]
    assert message.usage["output_tokens"] > 10  # it is paid for all the same


def test_thinking_without_an_opening_tag() -> None:
    plan = make_plan(profile=DialectProfile(think_tag_open_at_start=True))
    closed = stream(chunk(content="hm</think>Hi"), STOP, DONE, plan=plan)
    assert blocks(closed) == [("thinking", "hm"), ("text", "Hi")]
    never_closed = stream(chunk(content="Hi"), STOP, DONE, plan=plan)
    assert blocks(never_closed) == [("thinking", "Hi"), ("text", "Hi")]
    call_instead = stream(chunk(content="hm"), call(0, "c", "f", "{}"), STOP, DONE, plan=plan)
    assert blocks(call_instead) == [("thinking", "hm"), ("tool_use", {})]


def test_tags_are_text_where_the_profile_says_so() -> None:
    plan = make_plan(profile=DialectProfile(think_tags=False))
    assert stream(chunk(content="<think>a"), STOP, DONE, plan=plan).text == "<think>a"


# -- tool calls

CALLS = {
    "fragments": (
        [call(0, "a", "f"), call(0, None, None, '{"x"'), call(0, "", "", ": 1}")],
        [("f", {"x": 1})],
    ),
    "whole": ([call(0, "a", "f", '{"x": 1}')], [("f", {"x": 1})]),
    "parallel, interleaved": (
        [
            call(0, "a", "f", '{"x"'),
            call(1, "b", "g", '{"y"'),
            call(0, None, None, ":1}"),
            call(1, None, None, ":2}"),
        ],
        [("f", {"x": 1}), ("g", {"y": 2})],
    ),
    "parallel, the first without arguments": (
        [call(0, "a", "f"), call(1, "b", "g", '{"y":2}')],
        [("f", {}), ("g", {"y": 2})],
    ),
    "late fragment of a closed call": (
        [call(0, "a", "f", "{}"), call(1, "b", "g", "{}"), call(0, None, None, "{}")],
        [("f", {}), ("g", {})],
    ),
    "undeclared name": ([call(0, "a", "h", "{}")], [("h", {})]),
    "name split": ([call(0, "a", "get_"), call(0, None, "time", "{}")], [("get_time", {})]),
    "second copy": ([call(0, "a", "f", '{"x":1}{"x":1}')], [("f", {"x": 1})]),
    "second copy in its own delta": (
        [call(0, "a", "f", '{"x":1}'), call(0, "a", "f", '{"x":1}')],
        [("f", {"x": 1})],
    ),
    "second copy as objects": (
        [call(0, "a", "f", {"x": 1}), call(0, "a", "f", {"x": 1})],
        [("f", {"x": 1})],
    ),
    "the same tool again, without ids": (
        [call(0, None, "f", '{"x":1}'), call(0, None, "f", '{"x":2}')],
        [("f", {"x": 1}), ("f", {"x": 2})],
    ),
    "space behind": ([call(0, "a", "f", '{"x":1}'), call(0, None, None, " \n")], [("f", {"x": 1})]),
    "space before": ([call(0, "a", "f", " "), call(0, None, None, "\n{}")], [("f", {})]),
    "encoded twice": (
        [call(0, "a", "f", '"{\\"x\\":'), call(0, None, None, '1}"')],
        [("f", {"x": 1})],
    ),
    "null": ([call(0, "a", "f", "null")], [("f", {})]),
    "line break in a string": ([call(0, "a", "f", '{"x":"a\nb"}')], [("f", {"x": "a\nb"})]),
    "Python literals, trailing comma": ([call(0, "a", "f", '{"x":True,}')], [("f", {"x": True})]),
    "the old single form": (
        [
            chunk(content="Hi", function_call={"name": "f", "arguments": '{"x"'}),
            chunk(function_call={"arguments": ":1}"}),
        ],
        [("f", {"x": 1})],
    ),
    "name after the arguments": (
        [call(0, "a", None, '{"x":1}'), call(0, None, None, "")],
        [("f", {"x": 1})],
    ),
}


@pytest.mark.parametrize(("chunks", "expected"), CALLS.values(), ids=CALLS)
def test_calls(chunks, expected) -> None:
    plan = make_plan(tool_names=frozenset({"f"}))
    message = stream(*chunks, STOP, DONE, plan=plan)
    assert calls(message) == expected
    assert message.stop_reason == "tool_use"


def test_arguments_are_shown_as_they_come() -> None:
    turn = make_turn()
    turn.feed(sse(call(0, "a", "f", "")))
    assert b"input_json_delta" in turn.feed(sse(call(0, None, None, '{"x": "')))
    assert b'"partial_json":"abc"' in turn.feed(sse(call(0, None, None, "abc")))


def test_text_behind_a_complete_call_is_shown_at_once() -> None:
    turn = make_turn()
    turn.feed(sse(call(0, "a", "f", "{}")))
    assert b'"text":"Hi"' in turn.feed(sse(chunk(content="Hi")))


def test_text_between_fragments_waits() -> None:
    message = stream(
        call(0, "a", "f", '{"x"'),
        chunk(content="Hi"),
        call(0, None, None, ":1}"),
        chunk(content=" there"),
        chunk("tool_calls"),
        DONE,
    )
    assert blocks(message) == [("tool_use", {"x": 1}), ("text", "Hi there")]


CUTS = {
    "in a string": ('{"x": "ab', '{"x": "ab', "length", "max_tokens"),
    "in an escape": ('{"x": "ab\\u00', '{"x": "ab', "length", "max_tokens"),
    "in a number": ('{"x": 12', '{"x": ', "length", "max_tokens"),
    "no JSON": ('{"x": <b>', '{"x": ', "tool_calls", "max_tokens"),
    "no object": ("[1, 2]", "{", "tool_calls", "max_tokens"),
    "no object at all": ("Paris", "{", "stop", "max_tokens"),
    "by a stop string": ('{"x": "ab', '{"x": "ab', "matched", "stop_sequence"),
    "by the filter": ('{"x": "ab', '{"x": "ab', "content_filter", "refusal"),
}


@pytest.mark.parametrize(("arguments", "shown", "finish", "reason"), CUTS.values(), ids=CUTS)
def test_a_cut_call_is_the_last_block(arguments, shown, finish, reason) -> None:
    end = chunk("stop" if finish == "matched" else finish)
    if finish == "matched":
        end["choices"][0]["stop_reason"] = "###"
    message = stream(
        call(0, "a", "f", arguments),
        call(1, "b", "g", '{"y":2}'),
        chunk(content="behind it"),
        end,
        DONE,
        plan=make_plan(stops=["###"]),
    )
    assert tool_json(message) == [shown]
    assert message.stop_reason == reason
    assert [c["name"] for c in message.tool_uses] == ["f"]
    assert message.stop_sequence == ("###" if finish == "matched" else None)


def test_a_cut_call_of_a_whole_reply_keeps_what_came() -> None:
    body = sse(call(0, "a", "f", '{"x": 1, "y": "ab'), chunk("length"), DONE)
    message = read(run([body], is_stream=False), is_stream=False)
    assert calls(message) == [("f", {"x": 1, "y": "ab"})]
    assert message.stop_reason == "max_tokens"


def test_arguments_that_only_the_decoder_refuses_are_cut(monkeypatch) -> None:
    monkeypatch.setattr("dragoman.core.tool_calls.parse_arguments", lambda _: None)
    message = stream(call(0, "a", "f", '{"x":1}'), chunk(content="behind"), STOP, DONE)
    assert message.stop_reason == "max_tokens"
    assert len(message.content) == 1


@pytest.mark.parametrize(
    ("ending", "said"),
    [
        ((STOP, DONE), []),
        ((chunk("length"), DONE), []),
        ((DONE,), ["the server ended without saying why: shown as end_turn"]),
        (
            (chunk("repetition_truncation"), DONE),
            ["the server ended with repetition_truncation: shown as max_tokens"],
        ),
        (
            (chunk("sensitive"), DONE),
            ["the server ended with sensitive: shown as refusal"],
        ),
    ],
)
def test_an_end_that_the_api_has_no_word_for_is_told(ending, said) -> None:
    ended = run([sse(chunk(content="Hi"), *ending)])
    assert [repair.reason for repair in ended.turn.repairs] == said
    assert ended.turn.repair_counts == ({"finish": 1} if said else {})


def test_a_call_without_a_name() -> None:
    chunks = (call(0, "a", None, '{"x":1}'), STOP, DONE)
    assert calls(stream(*chunks, plan=make_plan(tool_names=frozenset({"f"})))) == [("f", {"x": 1})]
    assert "without a name" in stream(*chunks).error["message"]


def test_a_call_without_a_name_is_told_by_its_input() -> None:
    functions = [
        {"function": {"name": name, "parameters": {"properties": {key: {}}, "required": [key]}}}
        for name, key in (("f", "x"), ("g", "y"))
    ]
    plan = make_plan(body={"tools": functions})
    for name, given in (("f", {"x": 1}), ("g", {"y": 1})):
        ended = run([sse(call(0, "a", None, json.dumps(given)), STOP, DONE)], plan)
        assert calls(read(ended)) == [(name, given)]
        assert ended.turn.repair_counts == {"name": 1}
    for odd in ('{"z":1}', '{"x":1,"y":1}', '{"x":'):
        message = stream(call(0, "a", None, odd), STOP, DONE, plan=plan)
        assert "without a name" in message.error["message"]


def test_ids_lead_back() -> None:
    ids = ["functions.f:0", "call_1", "", "chatcmpl-tool-" + "0" * 32]
    chunks = [call(n, i, "f", "{}") for n, i in enumerate(ids)]
    message = stream(*chunks, STOP, DONE)
    back = [to_upstream_id(c["id"]) for c in message.tool_uses]
    assert back == [ids[0], ids[1], message.tool_uses[2]["id"], ids[3]]


def test_only_one_call_where_parallel_ones_are_forbidden() -> None:
    chunks = (call(0, "a", "f", "{"), call(1, "b", "g", "{"), call(0, None, None, "}"))
    message = stream(
        *chunks, call(1, None, None, "}"), STOP, DONE, plan=make_plan(single_tool_call=True)
    )
    assert calls(message) == [("f", {})]


def test_members_of_a_toolset_get_their_own_name() -> None:
    plan = make_plan(toolset_members={"box_read": ("read", "box")})
    used = stream(call(0, "a", "box_read", "{}"), STOP, DONE, plan=plan).tool_uses[0]
    assert (used["name"], used["toolset_name"]) == ("read", "box")


# -- forced tools

FORCED = {
    "whole": ('{"name": "g", "arguments": {"x": 1}}', [("g", {"x": 1})], "tool_use"),
    "no arguments": ('{"name": "g", "arguments": {}}', [("g", {})], "tool_use"),
    "cut": ('{"name": "g", "arguments": {"x": "a', [("g", {})], "max_tokens"),
    "cut early": ('{"name": "g", "argu', [("g", {})], "max_tokens"),
    "odd arguments": ('{"name": "g", "arguments": [1]}', [("g", {})], "max_tokens"),
}


@pytest.mark.parametrize(("text", "expected", "reason"), FORCED.values(), ids=FORCED)
def test_text_that_is_a_forced_call(text, expected, reason) -> None:
    plan = make_plan(forced_by_schema=True)
    pieces = [chunk(content=text[i : i + 5]) for i in range(0, len(text), 5)]
    message = stream(*pieces, STOP, DONE, plan=plan)
    assert message.stop_reason == reason
    assert calls(message) == expected
    assert message.text == ""


def test_a_forced_call_without_a_name() -> None:
    body = sse(chunk(content='{"arguments": {"x": 1}}'), STOP, DONE)
    plan = make_plan(forced_by_schema=True, tool_names=frozenset({"f"}))
    assert calls(read(run([body], plan))) == [("f", {"x": 1})]
    assert run([body], make_plan(forced_by_schema=True)).error is not None


def test_text_beside_a_real_call_is_no_forced_one() -> None:
    plan = make_plan(forced_by_schema=True)
    message = stream(call(0, "a", "f", "{}"), chunk(content="Done."), STOP, DONE, plan=plan)
    assert blocks(message) == [("tool_use", {}), ("text", "Done.")]


# -- tools that the API itself would run

SEARCH = ServerTool(
    name="web_search",
    result_type="web_search_tool_result",
    error_type="web_search_tool_result_error",
)
MCP = ServerTool(name="ask", result_type="mcp_tool_result", error_type="", mcp_server="wiki")
SERVER_PLAN = make_plan(server_tools={"web_search": SEARCH, "wiki_ask": MCP})


def test_a_server_tool_is_unavailable_and_the_message_goes_on() -> None:
    turn = make_turn(SERVER_PLAN)
    chunks = (chunk(content="Let me look."), call(0, "a", "web_search", '{"q":'))
    out = turn.feed(sse(*chunks, call(0, None, None, '"x"}'), STOP, DONE)) + turn.close()
    assert turn.is_done
    assert turn.stop_reason is None
    assert b"message_stop" not in out
    assert turn.written_text == "Let me look."
    assert [(c.id, c.name, c.arguments_json) for c in turn.server_calls] == [
        ("a", "web_search", '{"q":"x"}')
    ]


def test_server_tools_beside_a_client_tool() -> None:
    message = stream(
        call(0, "a", "web_search", '{"q":"x"}'),
        call(1, None, "wiki_ask", "{}"),
        call(2, "c", "f", "{}"),
        STOP,
        DONE,
        plan=SERVER_PLAN,
    )
    search, found, ask, answer, used = message.content
    assert (search["type"], search["name"], search["input"]) == (
        "server_tool_use",
        "web_search",
        {"q": "x"},
    )
    assert found["content"] == {"type": "web_search_tool_result_error", "error_code": "unavailable"}
    assert found["tool_use_id"] == search["id"]
    assert (ask["type"], ask["server_name"], ask["name"]) == ("mcp_tool_use", "wiki", "ask")
    assert (answer["is_error"], answer["tool_use_id"]) == (True, ask["id"])
    assert used["name"] == "f"
    assert message.stop_reason == "tool_use"


def test_a_cut_server_call_is_no_cut_message() -> None:
    chunks = (call(0, "a", "web_search", '{"q'), call(1, "b", "f", "{}"))
    message = stream(*chunks, STOP, DONE, plan=SERVER_PLAN)
    assert message.stop_reason == "tool_use"
    assert calls(message) == [("f", {})]


# -- stop strings

STOPS = {
    "in one piece": (["Hi ### there"], "Hi ", "###"),
    "split": (["Hi #", "#", "# there"], "Hi ", "###"),
    "never complete": (["Hi #", "# there"], "Hi ## there", None),
    "at the end": (["Hi ##"], "Hi ##", None),
    "first complete": (["a STOP ###"], "a ", "STOP"),
    "at the start": (["###"], "", "###"),
    "behind a tag": (["<think>a ### b</think>Hi###"], "Hi", "###"),
    "held with a tag": (["<", "###"], "<", "###"),
}


@pytest.mark.parametrize(("pieces", "text", "matched"), STOPS.values(), ids=STOPS)
def test_stop_strings_are_matched_here(pieces, text, matched) -> None:
    plan = make_plan(stops=["###", "STOP"], local_stop_sequences=("###", "STOP"))
    ended = run(
        [
            sse(
                *(chunk(content=p) for p in pieces),
                chunk(content=" more") if matched else b"",
                STOP,
                DONE,
            )
        ],
        plan,
    )
    message = read(ended)
    assert message.text == text
    assert message.stop_sequence == matched
    assert message.stop_reason == ("stop_sequence" if matched else "end_turn")
    assert ended.turn.is_cut == (matched is not None)


def test_held_text_stays_before_what_follows_it() -> None:
    plan = make_plan(local_stop_sequences=("###",))
    message = stream(
        chunk(content="a #"),
        call(0, "a", "f", "{}"),
        chunk(content="b #"),
        chunk(reasoning="c"),
        STOP,
        DONE,
        plan=plan,
    )
    assert [kind for kind, _ in blocks(message)] == ["text", "tool_use", "text", "thinking"]
    assert message.text == "a #b #"


@pytest.mark.parametrize(
    "between",
    [
        [chunk(content="b #")],
        [chunk(content="b "), chunk(content="#")],
        [chunk(content="b #", tool_calls=[{"index": 0, "function": {"arguments": ""}}])],
        [chunk(refusal="b #", tool_calls=[{"index": 0, "function": {"arguments": ""}}])],
    ],
    ids=["a chunk", "two", "with a fragment", "a refusal with a fragment"],
)
def test_text_inside_a_call_is_shown_behind_it(between: list[dict]) -> None:
    plan = make_plan(local_stop_sequences=("###",))
    begun, more = call(0, "a", "f", '{"x":'), call(0, None, None, '"1')
    message = stream(begun, more, *between, more, call(0, None, None, '"}'), STOP, DONE, plan=plan)
    assert [kind for kind, _ in blocks(message)] == ["tool_use", "text"]
    assert message.text == "b #"


def test_a_stop_string_that_begins_inside_a_call_ends_the_message() -> None:
    plan = make_plan(local_stop_sequences=("###",))
    begun, more = call(0, "a", "f", '{"x":'), call(0, None, None, "1}")
    message = stream(begun, chunk(content="#"), chunk(content="##"), more, DONE, plan=plan)
    assert message.text == ""
    assert message.stop_reason == "stop_sequence"


def test_nothing_comes_behind_a_matched_stop_string() -> None:
    plan = make_plan(local_stop_sequences=("###",))
    fragment = {"index": 0, "id": "a", "function": {"name": "f", "arguments": "{}"}}
    same_delta = chunk("tool_calls", content="Hi###", tool_calls=[fragment])
    assert blocks(stream(same_delta, DONE, plan=plan)) == [("text", "Hi")]
    whole = {"choices": [{"message": {"content": "Hi###there"}, "finish_reason": "stop"}]}
    whole["usage"] = {"prompt_tokens": 5, "completion_tokens": 9}
    message = read(run_whole(json.dumps(whole).encode(), plan), is_stream=False)
    assert (message.text, message.usage["output_tokens"]) == ("Hi", 9)
    tagged = make_plan(
        local_stop_sequences=("<",), profile=DialectProfile(think_tag_open_at_start=False)
    )
    for behind in (call(0, "a", "f", "{}"), chunk(reasoning="c"), STOP):
        assert stream(chunk(content="<th"), behind, DONE, plan=tagged).stop_sequence == "<"


REPORTED = {
    "vLLM": ({"stop_reason": "###"}, "###"),
    "SGLang": ({"matched_stop": "###"}, "###"),
    "a token id": ({"stop_reason": 151645}, None),
    "a string of the template": ({"stop_reason": "<|end|>"}, None),
}


@pytest.mark.parametrize(("field", "matched"), REPORTED.values(), ids=REPORTED)
def test_a_stop_string_that_the_upstream_reports(field, matched) -> None:
    end = chunk("stop")
    end["choices"][0] |= field
    message = stream(chunk(content="Hi"), end, DONE, plan=make_plan(stops=["###"]))
    assert message.stop_sequence == matched


# -- ends

FINISHES = {
    "stop": "end_turn",
    "length": "max_tokens",
    "content_filter": "refusal",
    "sensitive": "refusal",
    "repetition_truncation": "max_tokens",
    "model_context_window_exceeded": "model_context_window_exceeded",
    "insufficient_system_resource": "overloaded_error",
    "aborted": "api_error",
    "network_error": "api_error",
    "quantum_collapse": "api_error",
    "vendor_stop": "max_tokens",
}


@pytest.mark.parametrize(("finish", "expected"), FINISHES.items(), ids=FINISHES)
def test_finish_reasons(finish, expected) -> None:
    plan = make_plan(profile=DialectProfile(finish_reasons={"vendor_stop": "max_tokens"}))
    message = stream(chunk(content="Hi"), chunk(finish), DONE, plan=plan)
    assert expected == (message.error["type"] if message.error else message.stop_reason)


@pytest.mark.parametrize("finish", ["stop", "tool_calls", "function_call", "eos"])
def test_calls_beat_stop(finish) -> None:
    assert stream(call(0, "a", "f", "{}"), chunk(finish), DONE).stop_reason == "tool_use"


def test_length_beats_calls() -> None:
    assert stream(call(0, "a", "f", "{}"), chunk("length"), DONE).stop_reason == "max_tokens"


@pytest.mark.parametrize("finish", ["length", "stop", "content_filter"])
def test_tokens_that_the_window_limited_end_with_the_window(finish) -> None:
    reason = stream(chunk(content="Hi"), chunk(finish), plan=make_plan(fills_window=True))
    expected = "model_context_window_exceeded" if finish == "length" else FINISHES[finish]
    assert reason.stop_reason == expected


ENDS = {
    "done without finish": ([chunk(content="Hi"), DONE], None),
    "finish without done": ([chunk(content="Hi"), STOP], None),
    "cut usage behind the finish": ([chunk(content="Hi"), STOP, b'data: {"usage": {"prom'], None),
    "neither": ([chunk(content="Hi")], "before it was done"),
    "cut event": ([chunk(content="Hi"), b'data: {"choi'], "before it was done"),
    "nothing": ([], "before it was done"),
    "done alone": ([DONE], "without any choice"),
    "done behind a second choice": (
        [{"choices": [{"index": 1, "delta": {"content": "B"}}]}, DONE],
        "without any choice",
    ),
    "HTML": ([b"<html>busy</html>\n\n"], "before it was done"),
    "garbage": ([b"data: <html>\n\n"], "not a chat completion"),
    "an array": ([b"data: []\n\n"], "not a chat completion"),
    "odd choices": ([b'data: {"choices": "x"}\n\n'], "not a chat completion"),
    "too deep": ([b"data: " + b"[" * 100_000 + b"\n\n"], "not a chat completion"),
}


@pytest.mark.parametrize(("chunks", "error"), ENDS.values(), ids=ENDS)
def test_ends(chunks, error) -> None:
    ended = run([sse(*chunks)])
    message = read(ended)
    if error is None:
        assert (message.error, message.stop_reason, message.text) == (None, "end_turn", "Hi")
    else:
        assert isinstance(ended.error, UpstreamError)
        assert error in message.error["message"]


def test_done_ends_the_message_whatever_follows() -> None:
    turn = make_turn()
    out = turn.feed(sse(chunk(content="Hi"), STOP, DONE, chunk(content="more")))
    out += turn.feed(b"data: garbage\n\n")
    assert turn.is_done
    assert check_stream(out + turn.close()).text == "Hi"


def test_an_event_half_read_when_the_message_ended_is_left_alone() -> None:
    turn = make_turn()
    out = turn.feed(sse(chunk(content="Hi"), STOP, DONE) + event(chunk(content="more")).strip())
    assert check_stream(out + turn.close()).text == "Hi"


def test_a_failed_turn_says_nothing_more() -> None:
    turn = make_turn()
    out = turn.feed(sse(chunk(content="Hi"))) + turn.fail(UpstreamProtocolError("no"))
    out += turn.feed(sse(chunk(content="more"), DONE)) + turn.close() + turn.ping() + turn.start()
    assert check_stream(out).error == {"type": "api_error", "message": "no"}


def test_is_finishing_once_only_counts_can_come() -> None:
    turn = make_turn()
    turn.feed(sse(chunk(content="Hi")))
    assert (turn.is_finishing, turn.has_content, turn.is_done) == (False, True, False)
    turn.feed(sse(STOP))
    assert (turn.is_finishing, turn.is_done) == (True, False)


def test_start_and_ping_before_the_upstream_answers() -> None:
    turn = make_turn()
    early = turn.start() + turn.ping()
    assert not turn.has_content
    message = check_stream(early + turn.feed(sse(chunk(content="Hi"), STOP, DONE)))
    assert (message.pings, message.start_usage["input_tokens"]) == (1, 7)


def test_a_reply_over_the_limit() -> None:
    turn = make_turn(reply=ReplyContext(max_reply_bytes=100))
    turn.feed(b":" + b" " * 90)
    with pytest.raises(UpstreamProtocolError, match="over 100 bytes"):
        turn.feed(b" " * 10)


# -- errors inside a reply

ERRORS = {
    "object": ({"error": {"message": "boom", "code": 500}}, "api_error"),
    "beside a choice": (
        {"error": {"message": "slow down", "code": 429}, **chunk("error", content="")},
        "rate_limit_error",
    ),
    "string": ({"error": "boom"}, "api_error"),
    "flat": ({"object": "error", "message": "boom", "code": 503}, "overloaded_error"),
    "a flag": ({"error": True, "message": "boom", "code": 400}, "invalid_request_error"),
    "half a character": (b'data: {"error": {"message": "\\ud83d", "code": 500}}\n\n', "api_error"),
}


@pytest.mark.parametrize(("payload", "kind"), ERRORS.values(), ids=ERRORS)
def test_errors_inside_a_stream(payload, kind) -> None:
    message = stream(chunk(content="Hi"), payload, DONE)
    assert message.error["type"] == kind
    assert run_whole(
        json.dumps(payload).encode() if isinstance(payload, dict) else payload[6:]
    ).error


def test_content_that_is_refused_midway_stays() -> None:
    refused = {"error": {"code": "data_inspection_failed", "message": "no"}}
    message = stream(chunk(content="Hi"), refused, DONE)
    assert (message.text, message.stop_reason) == ("Hi", "refusal")


# -- whole replies and usage


def test_a_whole_reply() -> None:
    said = {
        "role": "assistant",
        "content": "Hi",
        "reasoning_content": "hm",
        "tool_calls": [
            {"id": None, "function": {"name": "f", "arguments": "{}"}},
            {"id": None, "function": {"name": "f", "arguments": "{}"}},
        ],
    }
    whole = {"choices": [{"message": said, "finish_reason": "tool_calls"}]}
    whole["usage"] = {"prompt_tokens": 5, "completion_tokens": 2}
    body = b"\n\n" + json.dumps(whole).encode()
    expected = [("thinking", "hm"), ("text", "Hi"), ("tool_use", {}), ("tool_use", {})]
    message = check_message(run_whole(body).body)
    assert blocks(message) == expected
    assert (message.usage["input_tokens"], message.usage["output_tokens"]) == (5, 2)
    assert blocks(check_stream(run_whole(body, is_stream=True).body)) == expected


@pytest.mark.parametrize(
    "body", [b"", b" ", b"<html>", b"{}", b'{"choices": []}', b"null", b"data: x"]
)
def test_a_whole_reply_that_is_none(body) -> None:
    assert isinstance(run_whole(body).error, UpstreamProtocolError)


def test_counts_behind_the_finish_reach_the_client() -> None:
    ended = run([sse(chunk(content="Hi"), STOP, usage(prompt_tokens=9, completion_tokens=4), DONE)])
    assert read(ended).usage["output_tokens"] == 4
    assert (ended.turn.usage.input_tokens, ended.turn.usage.is_estimate) == (9, False)


def test_counts_inside_a_choice() -> None:
    end = chunk("stop")
    end["choices"][0]["usage"] = {"prompt_tokens": 9, "completion_tokens": 4, "cached_tokens": 3}
    found = stream(chunk(content="Hi"), end, DONE).usage
    assert (found["input_tokens"], found["cache_read_input_tokens"]) == (6, 3)


def test_without_counts_the_output_is_estimated() -> None:
    ended = run([sse(chunk(content="x" * 400), STOP, DONE)])
    assert (ended.turn.usage.output_tokens, ended.turn.usage.is_estimate) == (100, True)


def test_earlier_replies_count() -> None:
    before = Usage(input_tokens=10, output_tokens=5, is_estimate=False)
    counts = usage(prompt_tokens=9, completion_tokens=4)
    ended = run([sse(chunk(content="Hi"), STOP, counts, DONE)], before=before)
    assert (ended.turn.usage.input_tokens, ended.turn.usage.output_tokens) == (19, 9)


@pytest.mark.parametrize(
    "words",
    [("Let me see.", "</think>", "\n\n", "4"), ("hm\n", "</think>", "\n", "Use <think> tags")],
)
def test_a_short_whole_reply_is_learnt_from_like_a_long_one(words: tuple[str, ...]) -> None:
    profile = DialectProfile(think_tags=True, thinking="always")
    body = sse(*(chunk(content=word) for word in words), chunk("stop")) + DONE
    ended = run([body], make_plan(profile=profile, begins_thinking=True), is_stream=False)
    assert ended.turn.learnt == {"think_tag_open_at_start": True}
