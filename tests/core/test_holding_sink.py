"""What is held back comes in the same order, at once, and not without an end."""

import pytest

from dragoman.core.errors import UpstreamUnavailable
from dragoman.core.holding_sink import HoldingSink
from dragoman.core.sinks import MessageHead, Sink, SseSink
from dragoman.core.usage import Usage
from support.sse_grammar import check_stream

HEAD = MessageHead(message_id="msg_1", model="m", request_id="req_1")
USAGE = Usage()


def talk(sink: Sink) -> None:
    sink.start(USAGE)
    sink.begin_thinking()
    sink.add_thinking("Hm.")
    sink.sign("s")
    sink.end_block()
    sink.begin_text()
    sink.add_text("Well.")
    sink.end_block()


def call(sink: Sink) -> None:
    sink.begin_tool({"type": "tool_use", "id": "toolu_1", "name": "get"})
    sink.add_tool_json("{}")
    sink.end_block()


def finish(sink: Sink) -> None:
    sink.end("tool_use", None, usage=USAGE)


def test_the_start_and_pings_go_through() -> None:
    sink = HoldingSink(SseSink(HEAD))
    talk(sink)
    sink.ping()
    assert sink.is_started
    assert not sink.has_content
    out = sink.take()
    assert out.count(b"event: message_start\n") == 1
    assert b"event: ping\n" in out
    assert b"content_block" not in out


def test_a_call_releases_all_of_it() -> None:
    held, plain = HoldingSink(SseSink(HEAD)), SseSink(HEAD)
    for sink in (held, plain):
        talk(sink)
        call(sink)
        finish(sink)
    assert held.is_ended
    assert held.take() == plain.take()


def test_the_end_releases_it_too() -> None:
    sink = HoldingSink(SseSink(HEAD))
    talk(sink)
    sink.end("end_turn", None, usage=USAGE)
    assert [b["type"] for b in check_stream(sink.take()).content] == ["thinking", "text"]


def test_a_failure_shows_none_of_it() -> None:
    sink = HoldingSink(SseSink(HEAD))
    talk(sink)
    sink.fail(UpstreamUnavailable("gone"))
    message = check_stream(sink.take())
    assert message.error is not None
    assert message.content == []


@pytest.mark.parametrize("pieces", [[300_000], [1] * 140_000])
def test_there_is_an_end_to_it(pieces: list[int]) -> None:
    sink = HoldingSink(SseSink(HEAD))
    sink.start(USAGE)
    sink.begin_text()
    for size in pieces:
        sink.add_text("x" * size)
    assert not sink.is_holding
    assert sink.has_content
