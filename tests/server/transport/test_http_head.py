from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.core.errors import HeadersTooLarge, InvalidRequest
from dragoman.server.transport.http_head import MAX_FIELDS, RequestHead
from support.raw_http import cut

HOST = b"host: a\r\n"
GET = b"GET / HTTP/1.1\r\n" + HOST


def read(data: bytes, max_bytes: int = 65536) -> tuple[RequestHead, bytes | None]:
    head = RequestHead(max_bytes)
    rest = head.feed(data)
    if rest is not None:
        head.finish()
    return head, rest


def read_bytewise(data: bytes) -> None:
    head = RequestHead(65536)
    for byte in data:
        if head.feed(bytes([byte])) is not None:
            head.finish()


TARGETS = {
    b"/v1/messages": ("/v1/messages", "", b"a"),
    b"/v1/messages?beta=true": ("/v1/messages", "beta=true", b"a"),
    b"/v1/models/a%2Fb%20c?x=%2F": ("/v1/models/a/b c", "x=%2F", b"a"),
    b"/%e4%bd%a0": ("/你", "", b"a"),
    b"/%ff%fe": ("/��", "", b"a"),
    b"/%zz%": ("/%zz%", "", b"a"),
    b"/a?b?c": ("/a", "b?c", b"a"),
    b"//a": ("//a", "", b"a"),
    b"/?": ("/", "", b"a"),
    b"*": ("*", "", b"a"),
    b"http://other:80/v1?q": ("/v1", "q", b"other:80"),
    b"HTTPS://other": ("/", "", b"other"),
    b"http://other?q": ("/", "q", b"other"),
    b"http://[::1]:7/x": ("/x", "", b"[::1]:7"),
    b"/http://other/": ("/http://other/", "", b"a"),
}


@pytest.mark.parametrize(("target", "expected"), TARGETS.items(), ids=map(repr, TARGETS))
def test_the_target_becomes_path_query_and_host(target, expected) -> None:
    head, _ = read(b"OPTIONS %b HTTP/1.1\r\n%b\r\n" % (target, HOST))
    assert (head.path, head.query, head.headers[b"host"]) == expected


def test_fields_have_lower_case_names_and_repeated_ones_are_joined() -> None:
    head, rest = read(GET + b"X-A:  one \t\r\nAccept:\r\nx-a: two\r\nX-a: \xe4\r\n\r\nmore")
    assert head.headers == {b"host": b"a", b"x-a": b"one, two, \xe4", b"accept": b""}
    assert (head.method, head.content_length, head.is_chunked) == ("GET", 0, False)
    assert rest == b"more"


KEPT = {
    GET: True,
    GET + b"connection: keep-alive\r\n": True,
    GET + b"connection: Close \r\n": False,
    GET + b"connection: foo, close\r\n": False,
    GET + b"connection: keep-alive\r\nconnection: close\r\n": False,
    GET + b"connection: closed\r\n": True,
    b"GET / HTTP/1.0\r\n": False,
    b"GET / HTTP/1.0\r\nconnection: keep-alive\r\n": False,
}


@pytest.mark.parametrize(("lines", "is_kept"), KEPT.items(), ids=map(repr, KEPT))
def test_whether_the_connection_is_kept(lines, is_kept) -> None:
    head, _ = read(lines + b"\r\n")
    assert head.keeps_alive is is_kept
    assert head.is_http11 is (b"HTTP/1.1" in lines)


FRAMINGS = {
    b"content-length: 0\r\n": (0, False),
    b"Content-Length: 12 \r\n": (12, False),
    b"content-length: 007\r\n": (7, False),
    b"Transfer-Encoding: Chunked\r\n": (0, True),
    # An upgrade is never made, so the message is read as if it were not asked for.
    b"upgrade: h2c\r\nconnection: upgrade\r\ncontent-length: 5\r\n": (5, False),
}


@pytest.mark.parametrize(("field", "expected"), FRAMINGS.items(), ids=map(repr, FRAMINGS))
def test_how_the_body_is_framed(field, expected) -> None:
    head, rest = read(b"POST / HTTP/1.1\r\n%b%b\r\nhello" % (HOST, field))
    assert (head.content_length, head.is_chunked) == expected
    assert rest == b"hello"


MALFORMED = {
    "not HTTP": b"hello\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "an unknown method": b"BREW / HTTP/1.1\r\n" + HOST + b"\r\n",
    "a method in lower case": b"get / HTTP/1.1\r\n" + HOST + b"\r\n",
    "HTTP/0.9": b"GET /\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/2.0 in words": b"GET / HTTP/2.0\r\n" + HOST + b"\r\n",
    "HTTP/1.2": b"GET / HTTP/1.2\r\n" + HOST + b"\r\n",
    "CONNECT": b"CONNECT a:443 HTTP/1.1\r\n" + HOST + b"\r\n",
    "CONNECT to a URL": b"CONNECT http://a/ HTTP/1.1\r\n" + HOST + b"\r\n",
    "no Host": b"GET / HTTP/1.1\r\n\r\n",
    "two Hosts": GET + HOST + b"\r\n",
    "two Hosts that differ": GET + b"Host: b\r\n\r\n",
    "a target that is no path": b"GET a HTTP/1.1\r\n" + HOST + b"\r\n",
    "another scheme": b"GET ftp://a/ HTTP/1.1\r\n" + HOST + b"\r\n",
    "no authority": b"GET http:///x HTTP/1.1\r\n" + HOST + b"\r\n",
    "a user in the authority": b"GET http://localhost@evil/ HTTP/1.1\r\n" + HOST + b"\r\n",
    "a space in the target": b"GET /a b HTTP/1.1\r\n" + HOST + b"\r\n",
    "NUL in the target": b"GET /\0 HTTP/1.1\r\n" + HOST + b"\r\n",
    "raw bytes in the target": b"GET /\xc3\xa4 HTTP/1.1\r\n" + HOST + b"\r\n",
    "bare LF": b"GET / HTTP/1.1\nhost: a\n\n",
    "bare LF after a field": b"GET / HTTP/1.1\r\nhost: a\nx: b\r\n\r\n",
    "bare LF at the end": GET + b"\n",
    "bare CR": GET + b"x: a\rb\r\n\r\n",
    "NUL in a value": GET + b"x: a\0b\r\n\r\n",
    "a control character in a value": GET + b"x: a\x01b\r\n\r\n",
    "DEL in a value": GET + b"x: a\x7fb\r\n\r\n",
    "a folded line": GET + b"x: a\r\n b\r\n\r\n",
    "a space before the first field": b"GET / HTTP/1.1\r\n x: a\r\n" + HOST + b"\r\n",
    "a space before the colon": GET + b"x : a\r\n\r\n",
    "no name": GET + b": a\r\n\r\n",
    "no colon": GET + b"x\r\n\r\n",
    "a separator in a name": GET + b"x(y: a\r\n\r\n",
    "raw bytes in a name": GET + b"x\xe4: a\r\n\r\n",
    "two lengths": GET + b"content-length: 1\r\ncontent-length: 1\r\n\r\n",
    "two lengths that differ": GET + b"content-length: 1\r\ncontent-length: 2\r\n\r\n",
    "two lengths in one": GET + b"content-length: 1, 1\r\n\r\n",
    "a signed length": GET + b"content-length: +1\r\n\r\n",
    "a negative length": GET + b"content-length: -1\r\n\r\n",
    "a hexadecimal length": GET + b"content-length: 0x1\r\n\r\n",
    "an empty length": GET + b"content-length:\r\n\r\n",
    "an endless length": GET + b"content-length: 99999999999999999999999\r\n\r\n",
    "a length and chunks": GET + b"content-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
    "chunks and a length": GET + b"transfer-encoding: chunked\r\ncontent-length: 1\r\n\r\n",
    "another coding": GET + b"transfer-encoding: gzip\r\n\r\n",
    "another coding first": GET + b"transfer-encoding: gzip, chunked\r\n\r\n",
    "another coding last": GET + b"transfer-encoding: chunked, gzip\r\n\r\n",
    "chunked twice": GET + b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n",
    "almost chunked": GET + b"transfer-encoding: xchunked\r\n\r\n",
    "almost blank": GET + b"transfer-encoding:\x0bchunked\r\n\r\n",
    "chunks before they existed": b"POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n",
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED)
def test_what_is_malformed_is_refused(data) -> None:
    with pytest.raises(InvalidRequest, match="not valid HTTP") as caught:
        read(data)
    assert caught.value.status == 400


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED)
def test_what_is_malformed_is_refused_however_it_is_cut(data) -> None:
    with pytest.raises(InvalidRequest):
        read_bytewise(data)


def test_a_head_has_a_limit_of_bytes_before_its_end_is_seen() -> None:
    whole = GET + b"x: " + b"y" * 100 + b"\r\n\r\n"
    assert read(whole, len(whole))[1] == b""
    assert read(whole + b"body", len(whole))[1] == b"body"
    for data in (whole, whole[:-4] + b"y" * 1000, b"GET /" + b"x" * 1000):
        with pytest.raises(HeadersTooLarge) as caught:
            read(data, len(whole) - 1)
        assert (caught.value.status, caught.value.kind) == (431, "request_too_large")


@pytest.mark.parametrize("name", [b"x-%d", b"x"], ids=["different", "repeated"])
def test_a_head_has_a_limit_of_fields(name) -> None:
    def fields(count: int) -> bytes:
        names = [name % n if b"%" in name else name for n in range(count - 1)]
        return GET + b"".join(b"%b: y\r\n" % n for n in names) + b"\r\n"

    assert read(fields(MAX_FIELDS))[1] == b""
    for count in (MAX_FIELDS + 1, 9000):
        with pytest.raises(HeadersTooLarge):
            read(fields(count))


WHOLE = (
    b"POST http://b/p%20q?r HTTP/1.1\r\nHost: a\r\nX: 1\r\nx: 2\r\nContent-Length: 3\r\n\r\nabcGET"
)


@given(st.lists(st.integers(0, len(WHOLE)), max_size=6))
def test_cuts_never_matter(cuts: list[int]) -> None:
    head, rest = RequestHead(65536), None
    for data in cut(WHOLE, cuts):
        if rest is not None:
            rest += data
        elif data:
            rest = head.feed(data)
    head.finish()
    assert (head.method, head.path, head.query) == ("POST", "/p q", "r")
    assert head.headers == {b"host": b"b", b"x": b"1, 2"}
    assert head.content_length == 3
    assert rest == b"abcGET"


PIECES = [b"GET ", b"/ ", b"HTTP/1.1", b"\r\n", b"\r", b"\n", b":", b" ", b"host: a", b"\0", b"a"]


@given(st.lists(st.one_of(st.sampled_from(PIECES), st.binary(max_size=8)), max_size=30))
def test_only_errors_of_the_tree_come_out(pieces: list[bytes]) -> None:
    head = RequestHead(200)
    with suppress(InvalidRequest, HeadersTooLarge):
        for piece in filter(None, pieces):
            if head.feed(piece) is not None:
                head.finish()
                assert head.path.startswith("/") or head.path == "*"
                return


def test_headers_are_not_changed_by_those_who_share_them() -> None:
    head, _ = read(GET + b"\r\n")
    with pytest.raises(TypeError):
        head.headers[b"host"] = b"b"
    with pytest.raises(TypeError):
        del head.headers[b"host"]
    assert head.headers == {b"host": b"a"}
    assert head.headers.facts is None
