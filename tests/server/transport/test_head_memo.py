"""A head that came before is the head that would be read, and no other is taken for it."""

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.core.errors import GatewayError
from dragoman.server.transport.head_memo import HeadMemo
from dragoman.server.transport.http_head import RequestHead

LINES = (b"POST /v1/messages?beta=true HTTP/1.1\r\nHost: a\r\nX-Api-Key: k\r\n", b"accept: */*\r\n")
FIELD = b"Content-Length: %d\r\n"


def request(length: int, body: bytes = b"", *, field: bytes = FIELD) -> bytes:
    return LINES[0] + field % length + LINES[1] + b"\r\n" + body


def fields_of(head: RequestHead) -> tuple[Any, ...]:
    headers = dict(head.headers)
    return (head.method, head.path, head.query, headers, head.is_chunked, head.keeps_alive)


def read_slowly(data: bytes) -> tuple[Any, ...] | None:
    """Return what the reader of heads makes of *data*; None: nothing that can be answered."""
    head = RequestHead(65536)
    try:
        rest = head.feed(data)
        if rest is None:
            return None
        head.finish()
    except GatewayError:
        return None
    return (*fields_of(head), head.content_length, rest)


def test_the_same_head_is_read_once_whatever_its_length_says() -> None:
    memo = HeadMemo(65536)
    first = memo.read(request(3, b"abc"))
    assert first is not None
    again = memo.read(request(12345, b"hello"))
    assert again is first
    assert first.split(request(12345, b"hello")) == (12345, b"hello")
    assert first.split(request(0)) == (0, b"")
    assert read_slowly(request(12345, b"hello")) == (*fields_of(first.fields), 12345, b"hello")


def test_lengths_may_have_any_number_of_digits_in_any_order() -> None:
    known = HeadMemo(65536).read(request(3, b"abc"))
    assert known is not None
    for length in (7, 12, 5, 123456, 99, 10**14, 0):
        assert known.split(request(length, b"\r\n12")) == (length, b"\r\n12")
        assert known.split(request(length).replace(b"Host: a", b"Host: b")) is None
        assert known.split(request(length)[:-3]) is None


@pytest.mark.parametrize("field", [FIELD, FIELD.lower()])
def test_the_usual_spellings_are_known(field) -> None:
    known = HeadMemo(65536).read(request(3, b"abc", field=field))
    assert known is not None
    assert known.split(request(7, field=field)) == (7, b"")


OTHERS = {
    "no digits": request(3).replace(b": 3\r", b": \r"),
    "a sign": request(3).replace(b": 3\r", b": +3\r"),
    "a space behind": request(3).replace(b": 3\r", b": 3 \r"),
    "an underscore": request(3).replace(b": 3\r", b": 3_3\r"),
    "other digits": request(3).replace(b": 3\r", b": \xd9\xa3\r"),
    "a list": request(3).replace(b": 3\r", b": 3, 3\r"),
    "sixteen digits": request(10**15),
    "a bare line feed": request(3).replace(b": 3\r\n", b": 3\n"),
    "another method": request(3).replace(b"POST", b"PUT"),
    "another key": request(3).replace(b": k", b": l"),
    "a second length behind": request(3).replace(b"accept", b"content-length: 4\r\naccept"),
    "a second length before": request(3).replace(b"X-Api", b"Content-Length: 4\r\nX-Api"),
    "a transfer coding": request(3).replace(b"accept", b"transfer-encoding: chunked\r\naccept"),
    "a field more": request(3).replace(b"accept", b"x: y\r\naccept"),
    "a field less": request(3).replace(LINES[1], b""),
    "cut": request(3)[:-1],
    "cut in the length": request(3)[: request(3).index(b": 3") + 2],
    "empty line before": b"\r\n" + request(3),
    "nothing": b"",
}


@pytest.mark.parametrize("data", OTHERS.values(), ids=OTHERS)
def test_nothing_else_is_taken_for_it(data) -> None:
    known = HeadMemo(65536).read(request(3))
    assert known is not None
    assert known.split(data) is None


ODD_LENGTHS = {
    "twice": b"content-length: 3\r\ncontent-length: 3\r\n",
    "twice in two spellings": b"Content-Length: 3\r\ncontent-length: 4\r\n",
    "twice, first empty": b"content-length: \r\ncontent-length: 3\r\n",
    "beside chunks": b"content-length: 3\r\ntransfer-encoding: chunked\r\n",
    "folded": b"content-length: 3\r\n 4\r\n",
}


@pytest.mark.parametrize("lines", ODD_LENGTHS.values(), ids=ODD_LENGTHS)
def test_a_length_that_is_in_doubt_is_never_kept(lines) -> None:
    memo = HeadMemo(65536)
    data = LINES[0] + lines + b"\r\nabc"
    assert read_slowly(data) is None
    for _ in range(2):
        with suppress(GatewayError):
            assert memo.read(data) is None


@pytest.mark.parametrize(
    "data", [b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", request(3)[:-2], request(10**15), b"x"]
)
def test_what_is_not_kept_is_left_to_the_reader(data) -> None:
    assert HeadMemo(65536).read(data) is None


def test_a_head_near_the_limit_is_not_kept() -> None:
    longest = len(request(3)) + 15
    assert HeadMemo(longest).read(request(3)) is not None
    assert HeadMemo(longest - 1).read(request(3)) is None


def test_old_heads_and_many_heads_are_forgotten() -> None:
    memo = HeadMemo(65536)
    first = memo.read(request(3))
    assert not memo.forget_old(59.0)
    assert memo.read(request(3)) is first
    assert memo.forget_old(60.0)
    second = memo.read(request(3))
    assert second is not first
    for n in range(256):
        memo.read(request(3).replace(b": k", b": k%d" % n))
    assert memo.read(request(3)) is not second


PIECES = [
    *(b"POST / HTTP/1.1\r\n", b"host: a\r\n", b"Content-Length: ", b"content-length: ", b"3"),
    *(b"42", b"\r\n", b"\r\n\r\n", b"x: ", b"transfer-encoding: chunked\r\n", b" ", b"\n", b"\r"),
]


@given(st.lists(st.lists(st.sampled_from(PIECES), max_size=9).map(b"".join), max_size=4))
def test_a_memo_changes_nothing_that_is_read(heads: list[bytes]) -> None:
    memo = HeadMemo(65536)
    for data in [b"POST / HTTP/1.1\r\nhost: a\r\n" + head for head in heads]:
        try:
            known = memo.read(data)
        except GatewayError:
            assert read_slowly(data) is None
            continue
        for lines in heads if known is not None else ():
            sent = b"POST / HTTP/1.1\r\nhost: a\r\n" + lines
            if (found := known.split(sent)) is not None:
                assert read_slowly(sent) == (*fields_of(known.fields), *found)
