"""Events as bytes: each sink by itself, the one that shows nothing, and both kinds in agreement."""

import json

import msgspec
import pytest

from dragoman.core.errors import UpstreamOverloaded
from dragoman.core.sinks import MessageSink, SilentSink, SseSink
from dragoman.core.usage import Usage
from support.sse_grammar import check_error, check_message, check_stream
from support.turns import DONE, HEAD, call, chunk, make_plan, run, sse, usage

USED = Usage(input_tokens=5, output_tokens=2)
RESULT = {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": []}


def write_everything(sink, stop_reason="tool_use") -> bytes:
    sink.start(USED)
    sink.begin_thinking()
    sink.add_thinking("H")
    sink.add_thinking("m.")
    sink.sign("signed")
    sink.begin_text()  # ends the block before it
    sink.add_text('"é\n')
    sink.end_block()
    sink.end_block()  # a second time does nothing
    sink.begin_tool({"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search"})
    sink.add_tool_json('{"a"')
    sink.add_tool_json(":1}")
    sink.add_block(RESULT)
    sink.begin_tool({"type": "tool_use", "id": "toolu_1", "name": "f"})
    sink.end(stop_reason, None, usage=USED)
    return sink.take()


EVERYTHING = [
    {"type": "thinking", "thinking": "Hm.", "signature": "signed"},
    {"type": "text", "text": '"é\n'},
    {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"a": 1}},
    RESULT,
    {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {}},
]


@pytest.mark.parametrize(("sink", "check"), [(SseSink, check_stream), (MessageSink, check_message)])
def test_both_sinks_say_the_same(sink, check) -> None:
    message = check(write_everything(sink(HEAD)))
    assert message.content == EVERYTHING
    assert (message.id, message.model) == (HEAD.message_id, HEAD.model)
    assert message.stop_reason == "tool_use"
    assert message.usage["output_tokens"] == 2


def test_a_stream_is_written_as_it_comes() -> None:
    sink = SseSink(HEAD)
    assert sink.take() == b""
    sink.ping()  # before the message there is nothing to keep alive
    assert sink.take() == b""
    sink.start(USED)
    sink.start(USED)
    assert sink.take().count(b"event: message_start\n") == 1
    sink.ping()
    assert sink.take() == b'event: ping\ndata: {"type":"ping"}\n\n'
    assert (sink.is_started, sink.has_content, sink.is_ended) == (True, False, False)
    sink.begin_text()
    sink.add_text("Hi")
    assert sink.take() == (
        b"event: content_block_start\n"
        b'data: {"type":"content_block_start","index":0,'
        b'"content_block":{"type":"text","text":""}}\n\n'
        b"event: content_block_delta\n"
        b'data: {"type":"content_block_delta","index":0,'
        b'"delta":{"type":"text_delta","text":"Hi"}}\n\n'
    )
    assert sink.has_content


def test_nothing_follows_the_end_of_a_stream() -> None:
    sink = SseSink(HEAD)
    sink.start(USED)
    sink.end("end_turn", None, usage=USED)
    sink.take()
    sink.fail(UpstreamOverloaded("late"))
    sink.ping()
    sink.start(USED)
    assert sink.take() == b""


def test_an_error_takes_the_place_of_the_end() -> None:
    sink = SseSink(HEAD)
    sink.start(USED)
    sink.fail(UpstreamOverloaded("busy"))
    sink.fail(UpstreamOverloaded("busy"))
    message = check_stream(sink.take())
    assert message.error == {"type": "overloaded_error", "message": "busy"}


def test_a_whole_message_is_written_at_its_end_only() -> None:
    sink = MessageSink(HEAD)
    sink.start(USED)
    sink.ping()
    sink.begin_text()
    sink.add_text("Hi")
    assert (sink.take(), sink.has_content, sink.is_ended) == (b"", True, False)
    sink.end("stop_sequence", "#", usage=USED)
    sink.fail(UpstreamOverloaded("late"))
    message = check_message(sink.take())
    assert (message.content, message.stop_sequence) == ([{"type": "text", "text": "Hi"}], "#")
    assert sink.take() == b""


def test_a_whole_error() -> None:
    sink = MessageSink(HEAD)
    sink.begin_text()
    sink.fail(UpstreamOverloaded("busy"))
    assert check_error(sink.take())["type"] == "overloaded_error"
    assert sink.is_ended


def test_input_that_was_cut_off_is_shown_as_far_as_it_came() -> None:
    sink = MessageSink(HEAD)
    sink.begin_tool({"type": "tool_use", "id": "toolu_1", "name": "f"})
    sink.add_tool_json('{"a": "b", "c": [1, 2')
    sink.end("max_tokens", None, usage=USED)
    assert json.loads(sink.take())["content"][0]["input"] == {"a": "b", "c": [1]}


@pytest.mark.parametrize(("sink", "check"), [(SseSink, check_stream), (MessageSink, check_message)])
def test_the_silent_sink_shows_start_and_end_only(sink, check) -> None:
    silent = SilentSink(sink(HEAD))
    silent.ping()
    message = check(write_everything(silent, "max_tokens"))
    assert message.content == []
    assert silent.is_started
    assert silent.is_ended
    assert not silent.has_content


@pytest.mark.parametrize("is_stream", [True, False])
def test_a_request_for_no_tokens_gets_an_empty_message(is_stream) -> None:
    plan = make_plan()
    request = msgspec.structs.replace(plan.request, max_tokens=0)
    body = sse(
        chunk(reasoning_content="H", content="Hello"),
        call(0, "a", "f", "{}"),
        chunk("length"),
        usage(prompt_tokens=900, completion_tokens=1),
        DONE,
    )
    silent = msgspec.structs.replace(plan, request=request)
    ended = run([body], silent, is_stream=is_stream)
    message = (check_stream if is_stream else check_message)(ended.body)
    assert (message.content, message.stop_reason) == ([], "max_tokens")
    assert message.usage["input_tokens"] == 900
    assert not ended.turn.has_content
