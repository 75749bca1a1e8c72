"""The reader of replies, without a socket: every cut, every way to end, and garbage."""

import gzip
import re
import tracemalloc
import zlib
from dataclasses import dataclass

import pytest
import zstandard
from hypothesis import example, given
from hypothesis import strategies as st

from dragoman.core.errors import UpstreamProtocolError
from dragoman.server.transport.plain_head import PlainHeads
from dragoman.server.transport.reply_reader import ReplyReader

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n"
HELLO = b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"
LIMIT = 1000


@dataclass
class Read:
    """What came of a reply."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes
    is_done: bool
    is_reusable: bool
    keep_alive_s: int | None
    error: str


def read(
    *pieces: bytes,
    method: str = "POST",
    max_body: int = 0,
    max_header: int = LIMIT,
    eof: bool = True,
) -> Read:
    """Feed *pieces* until the reply is done, then perhaps the end of the connection."""
    reader = ReplyReader(PlainHeads(), max_header_bytes=max_header)
    reader.begin(method, max_body)
    body = b""
    for piece in pieces:
        body += reader.feed(piece)
        if reader.is_done:
            break
    if eof:
        reader.feed_eof()
    error, head = reader.error, reader.head
    assert error is None or isinstance(error, UpstreamProtocolError)
    result = Read(
        0 if head is None else head.status,
        {} if head is None else dict(head.headers),
        body,
        reader.is_done,
        reader.is_reusable,
        None if head is None else head.keep_alive_s,
        "" if error is None else error.message,
    )
    reader.close()
    return result


def bytewise(data: bytes) -> list[bytes]:
    return [data[i : i + 1] for i in range(len(data))]


# What was sent, the body that it has, and whether the connection can be used again.
COMPLETE = {
    "length": (OK + b"content-length: 5\r\n\r\nhello", b"hello", True),
    "empty": (OK + b"content-length: 0\r\n\r\n", b"", True),
    "chunks": (CHUNKED + HELLO, b"hello world", True),
    "chunk extension": (CHUNKED + b"5;a=b;c\r\nhello\r\n0\r\n\r\n", b"hello", True),
    "trailers": (CHUNKED + b"5\r\nhello\r\n0\r\nx-sum: 1\r\nstatus: 9\r\n\r\n", b"hello", True),
    "no reason": (b"HTTP/1.1 200\r\ncontent-length: 2\r\n\r\nok", b"ok", True),
    "until the end": (OK + b"\r\nhello", b"hello", False),
    "close": (OK + b"connection: close\r\ncontent-length: 5\r\n\r\nhello", b"hello", False),
    "close among others": (
        OK + b"Connection: x, Close\r\ntransfer-encoding: chunked\r\n\r\n" + HELLO,
        b"hello world",
        False,
    ),
    "kept": (OK + b"connection: keep-alive\r\ncontent-length: 5\r\n\r\nhello", b"hello", True),
    "old": (b"HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\nhello", b"hello", False),
    "old but kept": (
        b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 5\r\n\r\nhello",
        b"hello",
        True,
    ),
    "interim": (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"
        b"HTTP/1.1 102 Processing\r\n\r\n" + OK + b"content-length: 5\r\n\r\nhello",
        b"hello",
        True,
    ),
    "no content": (b"HTTP/1.1 204 No Content\r\n\r\n", b"", True),
    "not modified": (b"HTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\n\r\n", b"", True),
    "redirect": (b"HTTP/1.1 302 Found\r\nlocation: /\r\ncontent-length: 2\r\n\r\nno", b"no", True),
}
CASES = pytest.mark.parametrize(("sent", "body", "is_reusable"), COMPLETE.values(), ids=COMPLETE)


@CASES
def test_complete_replies(sent: bytes, body: bytes, is_reusable: bool) -> None:
    result = read(sent)
    assert (result.error, result.is_done, result.body) == ("", True, body)
    assert result.is_reusable is is_reusable
    assert b"link" not in result.headers
    assert b"x-sum" not in result.headers


@CASES
def test_a_cut_anywhere_changes_nothing(sent: bytes, body: bytes, is_reusable: bool) -> None:
    whole = read(sent)
    assert read(*bytewise(sent)) == whole
    for cut in range(len(sent)):
        assert read(sent[:cut], sent[cut:]) == whole, cut


@CASES
def test_an_end_anywhere_before_the_end_is_an_error(
    sent: bytes, body: bytes, is_reusable: bool
) -> None:
    head_bytes = sent.rindex(b"\r\n\r\n") + 4 if not body else sent.index(body[:5]) - 1
    for end in range(len(sent)):
        result = read(sent[:end])
        assert body.startswith(result.body)
        is_until_eof = result.headers.keys() == set() and result.status and body
        if is_until_eof and end > head_bytes:
            assert result.error == ""  # nothing but the end says where it ends
        else:
            assert re.search("closed the connection in the middle", result.error), end


@CASES
@pytest.mark.parametrize("surplus", [b"x", b"HTTP/1.1 200 OK\r\n\r\nmore", b"\0"])
def test_bytes_after_the_end_spoil_the_connection(
    sent: bytes, body: bytes, is_reusable: bool, surplus: bytes
) -> None:
    if b"\r\n\r\nhello" in sent and b"length" not in sent:
        return  # they belong to the body
    result = read(sent + surplus)
    assert (result.error, result.body, result.is_reusable) == ("", body, False)


def test_headers_come_in_lower_case_and_joined() -> None:
    head = OK + b"X-One: a\r\nx-two:\t b c \r\nx-ONE: d\r\nX-Empty:\r\nContent-Length: 0\r\n\r\n"
    assert read(head).headers == {
        b"x-one": b"a, d",
        b"x-two": b"b c",
        b"x-empty": b"",
        b"content-length": b"0",
    }


@pytest.mark.parametrize(
    ("value", "timeout_s"),
    [(b"timeout=5, max=100", 5), (b"max=3,timeout = 75", 75), (b"max=1", None), (b"x", None)],
)
def test_keep_alive_is_read(value: bytes, timeout_s: int | None) -> None:
    sent = OK + b"keep-alive: %b\r\ncontent-length: 0\r\n\r\n" % value
    assert read(sent).keep_alive_s == timeout_s


@pytest.mark.parametrize(
    "head",
    [
        b"content-length: 5\r\n\r\n",
        b"transfer-encoding: chunked\r\n\r\n",
        b"content-length: 0\r\n\r\n",
    ],
)
def test_a_reply_to_head_has_no_body(head: bytes) -> None:
    result = read(OK + head, method="HEAD", eof=False)
    assert (result.error, result.is_done, result.is_reusable) == ("", True, True)
    with_body = read(OK + head + b"hello", method="HEAD", eof=False)
    assert (with_body.error, with_body.body, with_body.is_reusable) == ("", b"", False)


BROKEN = {
    "no http": b"<html><body>Hello</body></html>",
    "ssh": b"SSH-2.0-OpenSSH_9.6\r\n",
    "tls": b"\x15\x03\x01\x00\x02\x02\x16",
    "status": b"HTTP/1.1 abc OK\r\n\r\n",
    "status under 100": b"HTTP/1.1 099 OK\r\ncontent-length: 0\r\n\r\n",
    "another protocol": b"HTTP/1.1 101 Go\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\nxyz",
    "unknown interim": b"HTTP/1.1 150 Hm\r\n\r\n" + OK + b"content-length: 0\r\n\r\n",
    "two lengths": OK + b"content-length: 5\r\ncontent-length: 6\r\n\r\nhello!",
    "length and chunks": OK + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n",
    "negative length": OK + b"content-length: -5\r\n\r\nhello",
    "huge length": OK + b"content-length: 99999999999999999999999\r\n\r\nhello",
    "chunk size": CHUNKED + b"zz\r\nhello\r\n",
    "chunk size overflow": CHUNKED + b"fffffffffffffffffff\r\nhello\r\n",
    "header line": OK + b"no colon here\r\n\r\n",
    "NUL": OK + b"x: a\0b\r\n\r\n",
    "folded": OK + b"x: a\r\n b\r\ncontent-length: 0\r\n\r\n",
    "unknown transfer coding": OK + b"transfer-encoding: gzip, chunked\r\n\r\n" + HELLO,
    "unknown content coding": OK + b"content-encoding: br\r\ncontent-length: 5\r\n\r\nhello",
    "two content codings": OK + b"content-encoding: gzip, gzip\r\ncontent-length: 5\r\n\r\nhello",
    "not gzip": OK + b"content-encoding: gzip\r\ncontent-length: 5\r\n\r\nhello",
    "not deflate": OK + b"content-encoding: deflate\r\ncontent-length: 5\r\n\r\nhello",
    "not zstd": OK + b"content-encoding: zstd\r\ncontent-length: 5\r\n\r\nhello",
}


@pytest.mark.parametrize("sent", BROKEN.values(), ids=BROKEN)
def test_broken_replies(sent: bytes) -> None:
    for pieces in ([sent], bytewise(sent)):
        result = read(*pieces)
        assert result.is_done
        assert not result.is_reusable
        assert result.error.startswith("The model's server sent")
        assert not result.body


@pytest.mark.parametrize("rest", [b"\r\nzz\r\n", b"XX6\r\n world\r\n"])
def test_what_came_before_an_error_is_kept(rest: bytes) -> None:
    result = read(CHUNKED + b"5\r\nhello" + rest)
    assert (result.status, result.body) == (200, b"hello")
    assert "not valid HTTP" in result.error


OVERSIZED = {
    "one value": OK + b"x: " + b"y" * LIMIT + b"\r\n",
    "one name": OK + b"x" * LIMIT + b": y\r\n",
    "endless value": OK + b"x: " + b"y" * LIMIT,
    "many": OK + b"a:b\r\n" * (LIMIT // 4),
    "reason": b"HTTP/1.1 200 " + b"O" * LIMIT,
    "interim": b"HTTP/1.1 100 Continue\r\nx: y\r\n\r\n" * (LIMIT // 10),
    "trailers": CHUNKED + b"0\r\n" + b"a: bbbbbbbbbbbbbb\r\n" * (LIMIT // 10),
    "one trailer": CHUNKED + b"0\r\na: " + b"b" * LIMIT,
    "chunk extension": CHUNKED + b"5;" + b"x" * LIMIT,
}


@pytest.mark.parametrize("sent", OVERSIZED.values(), ids=OVERSIZED)
def test_headers_and_their_like_are_bounded(sent: bytes) -> None:
    result = read(*bytewise(sent), eof=False)
    assert result.error == "The model's server sent oversized headers."


def test_a_head_may_be_as_large_as_allowed() -> None:
    value = b"y" * (LIMIT - 60)
    sent = OK + b"x: " + value + b"\r\ncontent-length: 0\r\n\r\n"
    assert read(sent).error == read(*bytewise(sent)).error == ""


def test_many_small_chunks_are_no_oversized_headers() -> None:
    result = read(*bytewise(CHUNKED + b"1\r\nx\r\n" * LIMIT + b"0\r\n\r\n"))
    assert (result.error, result.body) == ("", b"x" * LIMIT)


def test_the_body_is_bounded() -> None:
    sent = OK + b"content-length: 11\r\n\r\nhello world"
    assert read(sent, max_body=11).error == ""
    result = read(*bytewise(sent), max_body=10)
    assert (result.body, result.error) == (
        b"hello worl",
        "The model's server sent a reply that is too large.",
    )


def raw_deflate(data: bytes) -> bytes:
    deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return deflate.compress(data) + deflate.flush()


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


TEXT = b"".join(b"%d bottles of beer on the wall, " % n for n in range(500))
CODED = {
    "gzip": (b"gzip", gzip.compress(TEXT)),
    "x-gzip": (b"X-GZIP", gzip.compress(TEXT)),
    "gzip members": (b"gzip", gzip.compress(TEXT[:99]) + gzip.compress(TEXT[99:])),
    "deflate": (b"deflate", zlib.compress(TEXT)),
    "raw deflate": (b"deflate", raw_deflate(TEXT)),
    "zstd": (b"zstd", zstd(TEXT)),
    "zstd frames": (b"zstd", zstd(TEXT[:99]) + zstd(TEXT[99:])),
    "identity": (b"identity, ", TEXT),
}


def coded_reply(coding: bytes, coded: bytes) -> bytes:
    head = b"content-encoding: %b\r\ncontent-length: %d\r\n\r\n" % (coding, len(coded))
    return OK + head + coded


@pytest.mark.parametrize(("coding", "coded"), CODED.values(), ids=CODED)
def test_coded_bodies_are_decoded(coding: bytes, coded: bytes) -> None:
    sent = coded_reply(coding, coded)
    for pieces in ([sent], bytewise(sent)):
        result = read(*pieces, max_body=len(TEXT))
        assert (result.error, result.body, result.is_reusable) == ("", TEXT, True)
        if coding != b"identity, ":
            assert result.headers == {}  # neither the coding nor that length are true any more


@pytest.mark.parametrize(("coding", "coded"), CODED.values(), ids=CODED)
def test_the_body_is_bounded_after_decoding(coding: bytes, coded: bytes) -> None:
    result = read(coded_reply(coding, coded), max_body=len(TEXT) - 1)
    assert result.error == "The model's server sent a reply that is too large."


@pytest.mark.parametrize("name", [name for name in CODED if name != "identity"])
def test_coded_bodies_must_end(name: str) -> None:
    coding, coded = CODED[name]
    cut_short = coded_reply(coding, coded[:-5])
    until_eof = OK + b"content-encoding: %b\r\n\r\n" % coding + coded[:-5]
    for sent in (cut_short, until_eof):
        assert "compressed reply that is cut short" in read(sent).error
    assert read(OK + b"content-encoding: %b\r\n\r\n" % coding + coded).body == TEXT


@pytest.mark.parametrize("coding", [b"gzip", b"deflate", b"zstd", b"br"])
def test_a_reply_without_body_needs_no_decoder(coding: bytes) -> None:
    head = b"content-encoding: %b\r\ncontent-length: 0\r\n\r\n" % coding
    assert read(b"HTTP/1.1 304 Not Modified\r\n" + head).error == ""
    assert read(OK + head, method="HEAD").error == ""
    if coding != b"br":
        assert read(OK + head).error == ""


BOMBS = {
    "gzip": (b"gzip", gzip.compress(bytes(200 * 2**20), 9)),
    "zstd": (b"zstd", zstd(bytes(2 * 2**30))),
}


@pytest.mark.parametrize(("coding", "coded"), BOMBS.values(), ids=BOMBS)
@pytest.mark.parametrize("max_body", [0, 2**20])
def test_bombs_do_not_go_off(coding: bytes, coded: bytes, max_body: int) -> None:
    tracemalloc.start()
    try:
        result = read(coded_reply(coding, coded), max_body=max_body)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert result.error == "The model's server sent a reply that is too large."
    assert result.body == b""
    assert peak_bytes < 90 * 2**20


@given(st.lists(st.binary(min_size=1, max_size=60), max_size=5), st.sampled_from(["POST", "HEAD"]))
@example([CHUNKED, b"\r\n"], "POST")
def test_garbage_gives_a_reply_or_a_protocol_error(pieces: list[bytes], method: str) -> None:
    for start in (b"", b"HTTP/1.1 200 ", OK, CHUNKED, OK + b"content-encoding: gzip\r\n\r\n"):
        result = read(start + b"".join(pieces), method=method)
        assert result.is_done
        assert read(start, *pieces, method=method).error.split()[:3] == result.error.split()[:3]


LINES = st.sampled_from(
    [
        *(OK, CHUNKED, HELLO, b"\r\n", b"content-length: 3\r\n", b"connection: close\r\n", b"abc"),
        *(b"HTTP/1.1 100 Continue\r\n\r\n", b"5\r\nhello\r\n", b"0\r\n", b"x: y\r\n", b"\0\xff"),
        *(b"content-encoding: zstd\r\n", zstd(b"hello"), b"transfer-encoding: chunked\r\n"),
    ]
)


@given(st.lists(LINES, min_size=1, max_size=8), st.integers(1, 7))
def test_cuts_of_odd_replies_change_nothing(lines: list[bytes], size: int) -> None:
    sent = b"".join(lines)
    whole = read(sent)
    cut = read(*(sent[i : i + size] for i in range(0, len(sent), size)))
    assert (cut.status, cut.body, cut.error) == (whole.status, whole.body, whole.error)


@pytest.mark.parametrize("is_cut", [False, True])
def test_one_reader_reads_the_replies_of_a_connection(is_cut) -> None:
    reader = ReplyReader(PlainHeads(), max_header_bytes=LIMIT)
    replies = [(sent, body) for sent, body, is_reusable in COMPLETE.values() if is_reusable]
    for sent, body in [*replies, *reversed(replies)]:
        reader.begin("POST", 0)
        assert (reader.head, reader.is_done) == (None, False)
        pieces = bytewise(sent) if is_cut else [sent]
        assert b"".join(map(reader.feed, pieces)) == body
        assert (reader.is_done, reader.is_reusable, reader.error) == (True, True, None)
    reader.close()


@CASES
def test_a_head_that_came_before_says_the_same(sent: bytes, body: bytes, is_reusable: bool) -> None:
    heads = PlainHeads()
    for _ in range(3):
        reader = ReplyReader(heads, max_header_bytes=LIMIT)
        reader.begin("POST", 0)
        assert reader.feed(sent) == body
        reader.feed_eof()
        assert (reader.error, reader.is_done, reader.is_reusable) == (None, True, is_reusable)


def test_a_whole_reply_behind_the_end_spoils_the_connection() -> None:
    reply = OK + b"content-length: 5\r\n\r\nhello"
    reader = ReplyReader(PlainHeads(), max_header_bytes=LIMIT)
    reader.begin("POST", 0)
    assert reader.feed(reply[:-2]) == b"hel"
    assert reader.feed(reply[-2:] + reply) == b"lo"
    assert (reader.is_done, reader.is_reusable) == (True, False)


def test_a_message_that_begins_behind_the_end_spoils_the_connection() -> None:
    reader = ReplyReader(PlainHeads(), max_header_bytes=LIMIT)
    for surplus, is_reusable in ((b"", True), (b"HTTP/1.1 200 OK\r\ncontent-le", False)):
        reader.begin("POST", 0)
        assert reader.feed(CHUNKED + HELLO + surplus) == b"hello world"
        assert (reader.is_done, reader.is_reusable) == (True, is_reusable)
    reader.close()


LINES = [
    *(OK, b"HTTP/1.1 204 \r\n", b"HTTP/1.0 200 OK\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"),
    *(b"content-length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"x: y\r\n", b"X :\t z \r\n"),
    *(
        b" folded\r\n",
        b": empty\r\n",
        b"x\r\n",
        b"connection: close\r\n",
        b"\r\n",
        b"a\xff\0: b\r\n",
    ),
    *(b"keep-alive: timeout=5, max=9\r\n", b"content-encoding: gzip\r\n", b"x: a\rb\r\n", b"\n"),
    *(b"upgrade: h2c\r\n", b"hello", HELLO, b"5\r\nhel", b"0\r\n\r\n"),
]


@given(st.lists(st.sampled_from(LINES), max_size=8), st.sampled_from(["POST", "HEAD"]))
def test_plain_heads_are_read_as_all_others_are(lines: list[bytes], method: str) -> None:
    sent = OK + b"".join(lines)
    whole, cut = read(sent, method=method), read(*bytewise(sent), method=method)
    if cut.is_done and not cut.error:  # fed by bytes it ends before what comes behind it
        whole.is_reusable = cut.is_reusable
    assert whole == cut
