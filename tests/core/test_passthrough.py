import itertools
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.core import passthrough
from dragoman.core.errors import GatewayError, UpstreamOverloaded, UpstreamProtocolError
from dragoman.core.passthrough import PassthroughTurn, adjust_for_native, rewrite_request
from dragoman.core.signatures import Signer
from dragoman.core.upstream_errors import ReplyContext
from dragoman.wire.anthropic import decode_request

OURS = Signer(b"a secret of sixteen bytes or more").sign("hm")
STREAM = (
    b'event: message_start\ndata: {"type":"message_start","message":{"id":"msg_1","type":"message",'
    b'"role":"assistant","model":"upstream-name","content":[],"stop_reason":null,'
    b'"stop_sequence":null,"usage":{"input_tokens":7,"cache_read_input_tokens":3,'
    b'"output_tokens":1}}}\n\n'
    b'event: content_block_start\ndata: {"type":"content_block_start","index":0,'
    b'"content_block":{"type":"text","text":""}}\n\n'
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,'
    b'"delta":{"type":"text_delta","text":"\\"model\\":\\"upstream-name\\" stays"}}\n\n'
    b'event: content_block_stop\ndata: {"type":"content_block_stop","index":0}\n\n'
    b'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":"end_turn",'
    b'"stop_sequence":null},"usage":{"output_tokens":12}}\n\n'
    b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
)
ERROR = (
    b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"x"}}\n\n'
)
RENAMED = STREAM.replace(b'"model":"upstream-name"', b'"model":"alias"', 1)


def turn(
    *,
    model: str = "alias",
    is_stream: bool = True,
    limit: int = 2**20,
    skips_start: bool = False,
) -> PassthroughTurn:
    return PassthroughTurn(
        skips_start=skips_start,
        model=model,
        upstream_model="upstream-name",
        is_stream=is_stream,
        request_id="req_1",
        reply=ReplyContext(max_reply_bytes=limit, is_native=True),
    )


def rewritten(body: str, *, is_trusted: bool = False) -> str:
    raw = body.encode()
    out = rewrite_request(raw, decode_request(raw), model="real", is_trusted=is_trusted)
    return out.decode()


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_only_the_model_changes_in_a_stream_however_it_is_cut(cuts) -> None:
    edges = [0, *sorted(cuts), len(STREAM)]
    subject = turn()
    out = b"".join(subject.feed(STREAM[a:b]) for a, b in itertools.pairwise(edges))
    assert out + subject.close() == RENAMED
    assert (subject.usage.input_tokens, subject.usage.output_tokens) == (7, 12)
    assert subject.usage.cache_read_input_tokens == 3
    assert subject.stop_reason == "end_turn"
    assert subject.is_done


def test_a_stream_under_the_same_name_is_not_touched() -> None:
    subject = turn(model="upstream-name")
    assert b"".join(subject.feed(bytes([b])) for b in STREAM) + subject.close() == STREAM


def test_only_the_model_changes_in_a_whole_reply() -> None:
    body = (
        b'{ "content":[{"type":"tool_use","id":"t","name":"f","input":{"model":"upstream-name"}}'
        b"],\n"
        b'"model": "upstream-name" ,"stop_reason":"tool_use","usage":{"input_tokens":1,'
        b'"output_tokens":2},"type":"message"}'
    )
    subject = turn(is_stream=False)
    assert subject.feed_whole(body) + subject.close() == body.replace(
        b'"model": "upstream-name"', b'"model":"alias"'
    )
    assert (subject.stop_reason, subject.usage.output_tokens) == ("tool_use", 2)


def test_an_error_before_any_content_is_raised() -> None:
    with pytest.raises(UpstreamOverloaded):
        turn().feed(ERROR)


def test_an_error_after_content_goes_through_and_ends_the_turn() -> None:
    subject = turn()
    assert subject.feed(STREAM[: STREAM.index(b"event: content_block_stop")])
    assert subject.feed(ERROR).endswith(ERROR)
    assert subject.is_done
    assert subject.fail(GatewayError("late")) == b""


def test_an_error_after_content_that_shows_a_key_does_not_go_through() -> None:
    subject = turn()
    subject.feed(STREAM[: STREAM.index(b"event: content_block_stop")])
    with pytest.raises(UpstreamOverloaded) as caught:
        subject.feed(ERROR.replace(b'"x"', b'"key sk-abcdefgh is busy"'))
    assert b"abcdefgh" not in subject.fail(caught.value)


@pytest.mark.parametrize("size", [0, 40, len(STREAM) - 30])
def test_a_stream_that_stops_short_is_an_error(size) -> None:
    subject = turn()
    subject.feed(STREAM[:size])
    with pytest.raises(UpstreamProtocolError, match="before it was done"):
        subject.close()
    assert subject.fail(GatewayError("cut")).startswith(b"event: error\n")


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_of_an_event_that_breaks_off_nothing_is_seen(end) -> None:
    body = STREAM.replace(b"\n", end)
    for size in range(len(body) - len(end)):
        subject = turn(model="upstream-name")
        seen = b"".join(subject.feed(body[at : at + 9]) for at in range(0, size - size % 9, 9))
        seen += subject.feed(body[size - size % 9 : size])
        assert body.startswith(seen)
        assert seen.endswith(end + end) or not seen
        assert subject.fail(GatewayError("cut")).startswith(b"event: error\n")


def test_an_event_over_the_limit_is_an_error() -> None:
    subject = PassthroughTurn(
        model="m",
        upstream_model="m",
        is_stream=True,
        request_id="req_1",
        reply=ReplyContext(is_native=True),
        max_event_bytes=100,
    )
    with pytest.raises(UpstreamProtocolError, match="event over 100 bytes"):
        subject.feed(STREAM)


def test_a_stream_that_is_done_before_it_has_begun_fails_like_any_other() -> None:
    subject = turn()
    with pytest.raises(UpstreamProtocolError):
        subject.feed(b'event: message_stop\ndata: {"type":"message_stop"}\n\n')
    assert b"event: error\n" in subject.fail(GatewayError("late"))


def test_a_reply_over_the_limit_is_an_error() -> None:
    with pytest.raises(UpstreamProtocolError, match="over 100 bytes"):
        turn(limit=100).feed(STREAM)


def test_garbage_in_place_of_a_message_is_an_error() -> None:
    for body in (b"<html>", b"", b"[]", b"null", b'"x"', b"{}", b'{"type":"list","data":[]}'):
        with pytest.raises(UpstreamProtocolError):
            turn(is_stream=False).feed_whole(body)
    with pytest.raises(UpstreamProtocolError):
        turn(is_stream=False).feed_whole(b'{"\xff":1,"model":"upstream-name","type":"message"}')


@pytest.mark.parametrize(
    ("written", "count"), [(b"9" * 40, 2**40), (b"-5", 7), (b"0", 7), (b"null", 7)]
)
def test_counts_are_bounded_and_those_that_say_nothing_are_estimated(written, count) -> None:
    subject = turn()
    subject.feed(STREAM.replace(b'{"output_tokens":12}', b'{"output_tokens":%b}' % written))
    assert subject.usage.output_tokens == count


@pytest.mark.parametrize(
    ("name", "kind"),
    [("text", "text_delta"), ("thinking", "thinking_delta"), ("partial_json", "input_json_delta")],
)
def test_the_output_of_a_stream_that_breaks_off_is_estimated(name, kind) -> None:
    subject = turn()
    subject.feed(STREAM[: STREAM.index(b"event: content_block_delta")])
    assert (subject.usage.output_tokens, subject.usage.is_estimate) == (1, False)
    delta = json.dumps(
        {"type": "content_block_delta", "index": 0, "delta": {"type": kind, name: "x" * 20}}
    )
    subject.feed(f"event: content_block_delta\ndata: {delta}\n\n".encode() * 100)
    usage = subject.usage
    assert (usage.input_tokens, usage.cache_read_input_tokens) == (7, 3)
    assert (usage.output_tokens, usage.is_estimate) == (500, True)
    subject.feed(STREAM[STREAM.index(b"event: content_block_stop") :])
    assert (subject.usage.output_tokens, subject.usage.is_estimate) == (12, False)


def test_a_whole_reply_to_a_stream_is_an_error() -> None:
    with pytest.raises(UpstreamProtocolError):
        turn().feed_whole(b'{"type":"message","model":"upstream-name"}')


def test_a_comment_waits_for_the_start() -> None:
    subject = turn()
    assert subject.start() == subject.ping() == b": waiting for the model\n\n"
    subject.feed(STREAM[:500])
    assert subject.ping().startswith(b"event: ping\n")


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_a_ping_never_cuts_an_event(end) -> None:
    body = STREAM.replace(b"\n", end)
    subject = turn(model="upstream-name")
    seen = b""
    for at in range(len(body)):
        seen += subject.feed(body[at : at + 1])
        is_begun = seen.endswith(end + end)
        assert is_begun == subject.has_content
        comment = b": waiting for the model\n\n"
        assert subject.ping() == (
            b'event: ping\ndata: {"type":"ping"}\n\n' if is_begun else comment
        )


@pytest.mark.parametrize("end", [b"", b"\n", b"\n\n"])
def test_an_end_without_a_start_is_an_error(end) -> None:
    subject = turn()
    with pytest.raises(UpstreamProtocolError):  # noqa: PT012  # either may see it first
        subject.feed(b'event: message_stop\ndata: {"type":"message_stop"}' + end)
        subject.close()


def test_a_model_in_the_content_stays_where_the_start_names_none() -> None:
    body = STREAM.replace(b'"model":"upstream-name",', b"").replace(
        b'{"type":"text","text":""}', b'{"type":"x","input":{"model":"theirs"}}'
    )
    assert b'"model":"upstream-name"' not in body
    subject = turn()
    assert subject.feed(body) + subject.close() == body


@pytest.mark.parametrize("before", [b"", b'event: ping\r\ndata: {"type":"ping"}\r\n\r\n'])
@pytest.mark.parametrize("size", [1, 7, 10_000])
@pytest.mark.parametrize("model", ["alias", "upstream-name"])
def test_a_start_that_we_have_sent_is_not_sent_again(before, size, model) -> None:
    body = before + STREAM
    subject = turn(model=model, skips_start=True)
    out = b"".join(subject.feed(body[at : at + size]) for at in range(0, len(body), size))
    assert out + subject.close() == before + STREAM[STREAM.index(b"event: content_block_start") :]
    assert subject.usage.input_tokens == 7


NO_STARTS = {
    "a comment": b": message_start\n\n",
    "a comment in its own event": b":message_start\r\n\r\n: event: message_start\n\n",
    "an id": b"id: message_start\n\n",
    "a ping": b'event: ping\ndata: {"type":"ping","note":"message_start"}\n\n',
    "another event": b"event: message_start_soon\ndata: {}\n\n",
}


@pytest.mark.parametrize("size", [1, 7, 10_000])
@pytest.mark.parametrize("before", NO_STARTS.values(), ids=NO_STARTS)
def test_only_the_event_itself_is_the_start(before: bytes, size: int) -> None:
    stream = before + STREAM
    pieces = [stream[i : i + size] for i in range(0, len(stream), size)]
    renaming, skipping = turn(), turn(skips_start=True)
    assert b"".join(map(renaming.feed, pieces)) + renaming.close() == before + RENAMED
    without = STREAM[STREAM.index(b"event: content_block_start") :]
    assert b"".join(map(skipping.feed, pieces)) + skipping.close() == before + without


class CountedPattern:
    """A pattern that counts how many bytes it has looked through."""

    def __init__(self, pattern: re.Pattern[bytes]) -> None:
        self._pattern = pattern
        self.searched_bytes = 0

    def search(self, text: bytes) -> re.Match[bytes] | None:
        self.searched_bytes += len(text)
        return self._pattern.search(text)


@pytest.mark.parametrize("sign", [b": ping\n\n", b"\n"])
def test_signs_of_life_before_the_start_are_not_searched_again_and_again(sign, monkeypatch) -> None:
    pattern = CountedPattern(passthrough._START)
    monkeypatch.setattr(passthrough, "_START", pattern)
    passing, signs = turn(), sign * 500
    out = b"".join(passing.feed(sign) for _ in range(500)) + passing.feed(STREAM)
    assert out.endswith(b'message_stop"}\n\n')
    assert pattern.searched_bytes <= len(signs + STREAM)


@pytest.mark.parametrize("begin", [b"event:message_start\ndata:", b"data:", b"\xef\xbb\xbfdata: "])
def test_the_start_is_known_in_every_spelling(begin: bytes) -> None:
    stream = STREAM.replace(b"event: message_start\ndata: ", begin, 1)
    subject = turn(skips_start=True)
    out = subject.feed(stream)
    assert out.startswith(b"event: content_block_start")
    assert subject.usage.input_tokens == 7


def test_a_message_without_a_start_is_not_searched_for_it_again_and_again(monkeypatch) -> None:
    pattern = CountedPattern(passthrough._START)
    monkeypatch.setattr(passthrough, "_START", pattern)
    event = b'data: {"type":"content_block_delta","delta":{"text":"%b message_start"}}\n\n'
    subject = turn()

    def feed_many() -> None:
        for _ in range(100):
            subject.feed(event % (b"x" * 1000))

    with pytest.raises(UpstreamProtocolError, match="in a way of its own"):
        feed_many()
    assert pattern.searched_bytes < 40 * 2**16


def test_a_start_without_an_end_is_an_error() -> None:
    with pytest.raises(UpstreamProtocolError, match="in a way of its own"):
        turn(skips_start=True).feed(b"event: message_start\ndata: " + b"x" * 2**19)


def test_a_whole_message_may_come_without_its_type() -> None:
    subject = turn(is_stream=False)
    assert subject.feed(b'{"type":"message","model":') == b""
    assert subject.feed(b'"upstream-name","usage":{"input_tokens":3}}') == b""
    assert subject.close() == b'{"type":"message","model":"alias","usage":{"input_tokens":3}}'
    assert subject.is_done


def test_a_stream_in_place_of_a_whole_message_is_an_error() -> None:
    subject = turn(is_stream=False)
    subject.feed(STREAM)
    with pytest.raises(UpstreamProtocolError, match="no message"):
        subject.close()


def test_an_unchanged_request_is_the_very_bytes() -> None:
    body = '{"model":"real","messages":[ {"role":"user","content":"x"}],"safeguards":[1]}'
    assert rewritten(body, is_trusted=True) == body


REQUESTS = {
    "model, wherever it stands": (
        '{"x":{"model":"a"}, "model" : "a","messages":[]}',
        '{"x":{"model":"a"}, "model" : "real","messages":[]}',
    ),
    "a key that comes twice": (
        '{"model" : "a","messages":[],"x":{"model":"a"}, "model":"b"}',
        '{"model":"real","messages":[],"x":{"model":"a"}}',
    ),
    "a key that comes twice inside a message": (
        '{"model":"real","messages":[{"role":"user","content":[{"type":"image","source":'
        '{"type":"url","url":"http://10.0.0.1/","url":"https://a.example/"}}]}]}',
        '{"model":"real","messages":[{"role":"user","content":[{"type":"image","source":'
        '{"type":"url","url":"https://a.example/"}}]}]}',
    ),
    "safeguards that come twice": (
        '{"safeguards":[1],"model":"real","messages":[],"safeguards":[2]}',
        '{"model":"real","messages":[]}',
    ),
    "safeguards of an untrusted upstream": (
        '{"model":"real","safeguards":[{"a":"]"}],"messages":[]}',
        '{"model":"real","messages":[]}',
    ),
    "safeguards at the end": (
        '{"model":"real","messages":[] , "safeguards":{} }',
        '{"model":"real","messages":[]  }',
    ),
    "thinking of ours beside what is not": (
        '{"model":"real","messages":[{"role":"assistant","content":[{"type":"thinking","thinking":'
        f'"hm","signature":"{OURS}"}}, {{"type":"text","text":"a"}},'
        '{"type":"thinking","thinking":"theirs","signature":"EqoB"}]}]}',
        '{"model":"real","messages":[{"role":"assistant","content":[{"type":"text","text":"a"},'
        '{"type":"thinking","thinking":"theirs","signature":"EqoB"}]}]}',
    ),
    "a message of nothing but unsigned thinking": (
        '{"model":"real","messages":[{"role":"user","content":"q"},{"role":"assistant","content":'
        '[{"type":"thinking","thinking":"hm","signature":""}]}]}',
        '{"model":"real","messages":[{"role":"user","content":"q"}]}',
    ),
}


@pytest.mark.parametrize(("body", "expected"), REQUESTS.values(), ids=REQUESTS)
def test_request(body, expected) -> None:
    out = rewritten(body)
    assert out == expected
    json.loads(out)


def test_what_is_taken_out_is_reported() -> None:
    thought = {"type": "thinking", "thinking": "hm", "signature": OURS}
    body = {
        "model": "m",
        "safeguards": [1],
        "messages": [{"role": "assistant", "content": [thought]}],
    }
    request = decode_request(json.dumps(body).encode())
    said = [(a.field, a.action) for a in adjust_for_native(request, is_trusted=False)]
    assert said == [("safeguards", "dropped"), ("messages.0.content", "dropped")]
    assert len(adjust_for_native(request, is_trusted=True)) == 1


def test_a_start_that_never_ends_is_not_searched_again_and_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    searched: list[int] = []

    class Pattern:
        def search(self, head: bytes) -> None:
            searched.append(len(head))

    monkeypatch.setattr(passthrough, "_START", Pattern())
    subject = turn()
    subject.feed(b'data: {"type":"message_start","message":{"id":"')
    for _ in range(500):
        assert subject.feed(b"x" * 1000) == b""
    with pytest.raises(UpstreamProtocolError, match="in a way of its own"):
        subject.feed(b"x" * 50_000)
    assert not searched
