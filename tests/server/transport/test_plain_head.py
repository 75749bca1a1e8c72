"""Heads taken apart without the parser: the same as with it, or not at all."""

import pytest

from dragoman.server.transport.plain_head import PlainHeads, ReplyHead, take_apart

OK = b"HTTP/1.1 200 OK\r\n"


def test_a_plain_head_is_taken_apart() -> None:
    head = take_apart(
        OK + b"X-One: a\r\nx-two:\t b c \r\nX-ONE: d\r\nKeep-Alive: timeout=7\r\n\r\n"
    )
    assert head is not None
    assert head.status == 200
    assert head.headers == {b"x-one": b"a, d", b"x-two": b"b c", b"keep-alive": b"timeout=7"}
    assert (head.has_length, head.keep_alive_s) == (False, 7)


def test_whether_the_length_is_known() -> None:
    for line in (b"content-length: 3\r\n", b"Transfer-Encoding: Chunked\r\n"):
        head = take_apart(OK + line + b"\r\n")
        assert head is not None
        assert head.has_length


NOT_PLAIN = {
    "cut": OK + b"x: y\r\n",
    "empty": b"",
    "older": b"HTTP/1.0 200 OK\r\n\r\n",
    "interim": b"HTTP/1.1 103 Early Hints\r\n\r\n",
    "another protocol": b"HTTP/1.1 101 Switching\r\n\r\n",
    "no status": b"HTTP/1.1 OK\r\n\r\n",
    "a coded body": OK + b"content-encoding: gzip\r\n\r\n",
    "another framing": OK + b"transfer-encoding: gzip\r\n\r\n",
    "folded": OK + b"x: y\r\n z: a\r\n\r\n",
    "no colon": OK + b"x\r\n\r\n",
}


@pytest.mark.parametrize("raw", NOT_PLAIN.values(), ids=NOT_PLAIN)
def test_others_are_left_to_the_parser(raw) -> None:
    assert take_apart(raw) is None


def test_few_and_short_heads_are_kept() -> None:
    heads, head = PlainHeads(), ReplyHead(200, {})
    heads.keep(b"first", head)
    heads.keep(b"x" * 2049, head)
    assert list(heads) == [b"first"]
    for n in range(16):
        heads.keep(b"%d" % n, head)
    assert b"first" not in heads
    assert len(heads) <= 16
