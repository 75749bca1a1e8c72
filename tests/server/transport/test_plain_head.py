"""Heads taken apart without the parser: the same as with it, or not at all."""

import pytest

from dragoman.server.transport.plain_head import PlainHead, PlainHeads

OK = b"HTTP/1.1 200 OK\r\n"


def find(raw: bytes, max_header_bytes: int = 1000) -> PlainHead | None:
    found = PlainHeads(max_header_bytes).find(raw + b"body")
    assert found is None or found[0] == raw
    return None if found is None else found[1]


def test_a_plain_head_is_taken_apart() -> None:
    head = find(OK + b"X-One: a\r\nx-two:\t b c \r\nX-ONE: d\r\nKeep-Alive: timeout=7\r\n\r\n")
    assert head is not None
    assert head.status == 200
    assert head.headers == {b"x-one": b"a, d", b"x-two": b"b c", b"keep-alive": b"timeout=7"}
    assert (head.has_length, head.keep_alive_s) == (False, 7)


def test_whether_the_length_is_known() -> None:
    for line in (b"content-length: 3\r\n", b"Transfer-Encoding: Chunked\r\n"):
        head = find(OK + line + b"\r\n")
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
    "long": OK + b"x: %b\r\n\r\n" % (b"y" * 1000),
}


@pytest.mark.parametrize("raw", NOT_PLAIN.values(), ids=NOT_PLAIN)
def test_others_are_left_to_the_parser(raw) -> None:
    assert PlainHeads(1000).find(raw) is None


def test_a_head_is_known_once_it_was_accepted() -> None:
    heads = PlainHeads(1000)
    raw, first = heads.find(OK + b"\r\nbody") or (b"", None)
    assert first is not None
    assert heads.find(raw) != (raw, first)
    heads.keep(raw, first)
    assert heads.find(raw) == (raw, first)
    for n in range(16):
        other = OK + b"x: %d\r\n\r\n" % n
        heads.keep(other, PlainHead(200, {}))
    assert heads.find(raw) != (raw, first)


def test_a_long_head_is_taken_apart_each_time() -> None:
    heads = PlainHeads(10_000)
    raw, head = heads.find(OK + b"x: %b\r\n\r\n" % (b"y" * 3000)) or (b"", None)
    assert head is not None
    heads.keep(raw, head)
    assert heads.find(raw) != (raw, head)
