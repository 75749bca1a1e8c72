"""Bodies cut into payloads, wherever the network cuts them."""

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.core.errors import UpstreamProtocolError
from dragoman.core.sse import SseParser
from support.turns import cut

BODIES = {
    "LF": (b"data: {}\n\n", [b"{}"]),
    "CRLF": (b"data: {}\r\n\r\n", [b"{}"]),
    "no space": (b"data:{}\n\n", [b"{}"]),
    "one space of two is cut": (b"data:  {}\n\n", [b" {}"]),
    "empty data": (b"data:\n\n", [b""]),
    "two data lines": (b"data: a\ndata: b\n\n", [b"a\nb"]),
    "comments and blank lines": (b": keep-alive\n\n\n\ndata: {}\n\n", [b"{}"]),
    "other fields": (b"event: x\nid: 1\nretry: 5\ndata: {}\n\n", [b"{}"]),
    "fields that begin alike": (b"database: x\ndat\ndata\n\n", []),
    "a lone CR ends no line": (b"data: a\rdata: b\n\n", [b"a\rdata: b"]),
    "an old llama.cpp error": (b'error: {"code":500}\n\n', [b'{"error":{"code":500}}']),
    "no empty line at the end": (b"data: a\n\ndata: b\n", [b"a"]),
    "nothing": (b"", []),
}


@pytest.mark.parametrize(("body", "payloads"), BODIES.values(), ids=BODIES)
def test_payloads(body: bytes, payloads: list[bytes]) -> None:
    assert SseParser().feed(body) == payloads


@given(st.permutations([body for body, _ in BODIES.values()]), st.lists(st.integers(0, 500)))
def test_cuts_never_matter(bodies: list[bytes], places: list[int]) -> None:
    body, parser = b"".join(bodies), SseParser()
    found = [payload for piece in cut(body, places) for payload in parser.feed(piece)]
    whole = SseParser()
    assert found + parser.close() == whole.feed(body) + whole.close()


@pytest.mark.parametrize("places", [[], [1], [2], [1, 2, 3]])
def test_a_mark_of_byte_order_is_skipped_at_the_start_only(places: list[int]) -> None:
    parser = SseParser()
    body = b"\xef\xbb\xbfdata: a\n\n\xef\xbb\xbfdata: b\n\n"
    assert [p for piece in cut(body, places) for p in parser.feed(piece)] == [b"a"]


UNFINISHED = {
    "line without an end": (b"data: a", [b"a"]),
    "event without its empty line": (b"data: a\ndata: b\n", [b"a\nb"]),
    "nothing held": (b"data: a\n\n", []),
    "a comment": (b": x", []),
}


@pytest.mark.parametrize(("body", "payloads"), UNFINISHED.values(), ids=UNFINISHED)
def test_the_end_of_the_body_completes_what_is_held(body: bytes, payloads: list[bytes]) -> None:
    parser = SseParser()
    parser.feed(body)
    assert parser.close() == payloads
    assert parser.close() == []


TOO_LONG = {
    "line without an end": b"data: " + b"x" * 100,
    "line": b"data: " + b"x" * 100 + b"\n\n",
    "many lines": b"data: xxxxxxxxx\n" * 12,
    "line of no field": b"x" * 101,
}


@pytest.mark.parametrize("body", TOO_LONG.values(), ids=TOO_LONG)
@pytest.mark.parametrize("step", [1, 7, 1000])
def test_an_event_over_the_limit_is_an_error(body: bytes, step: int) -> None:
    pieces = [body[at : at + step] for at in range(0, len(body), step)]
    with pytest.raises(UpstreamProtocolError, match="over 60 bytes"):
        deque(map(SseParser(max_event_bytes=60).feed, pieces), maxlen=0)


def test_the_limit_is_for_each_event() -> None:
    parser = SseParser(max_event_bytes=60)
    assert len(parser.feed((b"data: " + b"x" * 40 + b"\n\n") * 1000)) == 1000
    for _ in range(1000):
        assert parser.feed(b"data: " + b"x" * 40 + b"\n") == []
        assert parser.feed(b"\n") == [b"x" * 40]
