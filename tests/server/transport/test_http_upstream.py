"""Requests as bytes, and what replies become, on real loopback sockets."""

import gzip
import socket

import pytest

from dragoman.server.transport.http_upstream import HttpUpstream
from dragoman.server.transport.seams import UpstreamRequest
from support.loops import on_each_loop, until
from support.raw_server import (
    CHUNKED,
    END,
    EVENT,
    HELLO,
    OK,
    Do,
    RawServer,
    Script,
)
from support.receivers import ASK, Recorder, opened, send

EVENTS = [EVENT, b"6\r\ndata:2\r\n", END]


async def ask(server: RawServer, request: UpstreamRequest = ASK, **options: object) -> Recorder:
    """Send one request with a new upstream and return what came of it."""
    async with opened(server.url, **options) as upstream:
        return await send(upstream, request).over()


# -- requests


@on_each_loop
async def test_a_request_as_bytes() -> None:
    async with (
        RawServer([HELLO]) as server,
        opened(
            f"{server.url}/v1/",
            credential=("authorization", "Bearer key"),
            headers={"X-Title": "lab", "anthropic-version": "2023-06-01"},
        ) as upstream,
    ):
        headers = ((b"anthropic-beta", b"a"), (b"anthropic-beta", b"b"))
        request = UpstreamRequest(path="/chat/completions", body=b"{}", headers=headers)
        recorder = await send(upstream, request).over()
    assert (recorder.status, recorder.body, recorder.is_ended) == (200, b"hello", True)
    assert server.asked[0].body == b"{}"
    lines = server.asked[0].head.decode().split("\r\n")
    assert lines == [
        "POST /v1/chat/completions HTTP/1.1",
        f"host: 127.0.0.1:{server.port}",
        lines[2],
        "accept: */*",
        "accept-encoding: identity",
        "x-title: lab",
        "anthropic-version: 2023-06-01",
        "authorization: Bearer key",
        "anthropic-beta: a",
        "anthropic-beta: b",
        "content-type: application/json",
        "content-length: 2",
        "",
        "",
    ]
    assert lines[2].startswith("user-agent: dragoman/")


@on_each_loop
async def test_a_request_cannot_replace_what_the_upstream_says() -> None:
    names = [b"Authorization", b"Host", b"content-length", b"Transfer-Encoding", b"connection"]
    names += [b"accept-encoding", b"User-Agent", b"X-Title", b"content-type", b"expect", b"te"]
    request = UpstreamRequest(path="/", body=b"{}", headers=[(name, b"theirs") for name in names])
    async with RawServer([HELLO]) as server:
        await ask(
            server, request, credential=("Authorization", "Bearer k"), headers={"x-title": "ours"}
        )
    assert b"theirs" not in server.asked[0].head
    assert server.asked[0].headers["authorization"] == "Bearer k"  # and no name comes twice


@pytest.mark.parametrize(
    ("method", "body", "wanted"),
    [
        ("GET", b"", {}),
        ("HEAD", b"", {}),
        ("POST", b"", {"content-length": "0"}),
        ("POST", b"{}", {"content-length": "2", "content-type": "application/json"}),
    ],
)
@on_each_loop
async def test_length_and_type_go_with_a_body(
    method: str, body: bytes, wanted: dict[str, str]
) -> None:
    async with RawServer([OK + b"content-length: 0\r\n\r\n"]) as server:
        await ask(server, UpstreamRequest(path="/models", method=method, body=body))
    headers = server.asked[0].headers
    assert server.asked[0].first_line == f"{method} /models HTTP/1.1"
    assert {k: v for k, v in headers.items() if k.startswith("content")} == wanted


@pytest.mark.parametrize(
    ("suffix", "path", "at_root", "line"),
    [
        ("", "/models", False, "/models"),
        ("/", "/models", False, "/models"),
        ("/api/v1", "/models", False, "/api/v1/models"),
        ("/api/v1/", "/models?limit=3", False, "/api/v1/models?limit=3"),
        ("/api/v1", "/tokenize", True, "/tokenize"),
        ("/a b/ü", "/x", False, "/a%20b/%C3%BC/x"),
    ],
)
@on_each_loop
async def test_paths(suffix: str, path: str, at_root: bool, line: str) -> None:
    if " " in suffix:
        suffix = suffix.replace(" ", "%20")
    async with RawServer([HELLO]) as server, opened(server.url + suffix) as upstream:
        request = UpstreamRequest(path=path, method="GET", at_root=at_root)
        await send(upstream, request).over()
        assert server.asked[0].first_line == f"GET {line} HTTP/1.1"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
@on_each_loop
async def test_hosts(host: str) -> None:
    if host == "::1" and not has_ipv6():
        pytest.skip("this machine has no IPv6")
    async with RawServer([HELLO], host="127.0.0.1" if host == "localhost" else host) as server:
        authority = f"[{host}]:{server.port}" if ":" in host else f"{host}:{server.port}"
        async with opened(f"http://{authority}") as upstream:
            assert (await send(upstream, ASK).over()).body == b"hello"
            assert server.asked[0].headers["host"] == authority


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://example.com", b"example.com"),
        ("http://example.com:80/v1", b"example.com"),
        ("https://Example.COM:443", b"example.com"),
        ("https://example.com:80", b"example.com:80"),
        ("http://[2001:DB8::1]", b"[2001:db8::1]"),
        ("http://[2001:db8::1]:8000", b"[2001:db8::1]:8000"),
        ("https://bücher.example", b"xn--bcher-kva.example"),
    ],
)
def test_the_host_header(url: str, host: bytes) -> None:
    head = HttpUpstream(url)._head.render(ASK)
    assert b"\r\nhost: %b\r\n" % host in head


@pytest.mark.parametrize(
    "url",
    [
        "ftp://a",
        "a.example",
        "http://",
        "http://u:secret@a",
        "http://a?b=c",
        "http://a#b",
        "http://a:0",
    ],
)
def test_base_urls_that_are_none(url: str) -> None:
    with pytest.raises(ValueError, match="not a base URL") as caught:
        HttpUpstream(url)
    assert "secret" not in str(caught.value)
    assert ";" not in str(caught.value)  # what else to send, as documents are told


@pytest.mark.parametrize(
    "broken",
    [
        {"credential": ("authorization", "Bearer secret\r\nx: y")},
        {"credential": ("authorization", "Bearer secret\nx: y")},
        {"headers": {"x-title": "secret\0"}},
        {"headers": {"x title": "secret"}},
        {"headers": {"": "secret"}},
        {"headers": {"x-title": "secret €"}},
    ],
)
def test_headers_that_would_break_out(broken: dict[str, object]) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - two kinds of it
        HttpUpstream("http://a.example", **broken)  # type: ignore[arg-type]
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "request_",
    [
        UpstreamRequest(path="/a b"),
        UpstreamRequest(path="/a\r\nx: y"),
        UpstreamRequest(path="a"),
        UpstreamRequest(path="/ü"),
        UpstreamRequest(path="/", method="GET /x HTTP/1.1\r\n"),
        UpstreamRequest(path="/", headers=[(b"a", b"b\r\nc: d")]),
        UpstreamRequest(path="/", headers=[(b"a: b", b"c")]),
    ],
)
@on_each_loop
async def test_requests_that_would_break_out(request_: UpstreamRequest) -> None:
    async with opened("http://127.0.0.1:9") as upstream:
        with pytest.raises(ValueError, match=r"illegal|cannot be sent"):
            upstream.send(request_, Recorder())


@pytest.mark.parametrize("size", [64 * 2**10, 64 * 2**10 + 1, 20 * 2**20])
@on_each_loop
async def test_bodies_of_any_size(size: int) -> None:
    body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    async with RawServer([HELLO]) as server, opened(server.url) as upstream:
        for n_calls in (1, 2):
            recorder = await send(upstream, UpstreamRequest(path="/", body=body)).over()
            assert recorder.body == b"hello"
            assert server.asked[-1].body == body
            assert len(server.asked) == n_calls
        assert server.n_accepted == 1


# -- replies


@on_each_loop
async def test_a_stream_arrives_piece_by_piece() -> None:
    async with RawServer([CHUNKED, 0.02, EVENTS[0], 0.02, EVENTS[1], 0.02, EVENTS[2]]) as server:
        recorder = await ask(server)
    assert recorder.pieces == [b"data:1", b"data:2"]
    assert recorder.headers == {b"transfer-encoding": b"chunked"}
    assert recorder.is_ended


@on_each_loop
async def test_one_read_is_one_call_of_the_receiver() -> None:
    async with RawServer([CHUNKED + b"".join(EVENTS)]) as server:
        assert (await ask(server)).pieces == [b"data:1data:2"]


REPLIES = {
    "length": HELLO,
    "chunks": CHUNKED + b"2\r\nhe\r\n3\r\nllo\r\n0\r\nx-trailer: 1\r\n\r\n",
    "interim": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nlink: a\r\n\r\n" + HELLO,
    "until the end": b"HTTP/1.1 200 OK\r\n\r\nhello",
    "gzip": OK
    + b"content-encoding: gzip\r\ntransfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n"
    % (len(gzip.compress(b"hello")), gzip.compress(b"hello")),
}


@pytest.mark.parametrize("reply", REPLIES.values(), ids=REPLIES)
@on_each_loop
async def test_a_cut_anywhere_changes_nothing(reply: bytes) -> None:
    end: Script = [] if b"length" in reply or b"chunked" in reply else [Do.CLOSE]
    cuts: list[Script] = [[reply[:cut], 0.0, reply[cut:], *end] for cut in range(1, len(reply))]
    bytewise: Script = [*(reply[i : i + 1] for i in range(len(reply))), *end]
    async with RawServer(*cuts, bytewise) as server, opened(server.url) as upstream:
        for _ in range(len(cuts) + 1):
            recorder = await send(upstream, ASK).over()
            assert (recorder.error, recorder.status, recorder.body) == (None, 200, b"hello")
        assert server.n_accepted == (len(cuts) + 1 if end else 1)


@pytest.mark.parametrize("status", [201, 301, 302, 307, 400, 401, 429, 500, 529])
@on_each_loop
async def test_any_status_is_handed_on(status: int) -> None:
    reply = (
        b"HTTP/1.1 %d X\r\nlocation: /x\r\nretry-after: 3\r\ncontent-length: 2\r\n\r\nno" % status
    )
    async with RawServer([reply]) as server:
        recorder = await ask(server)
    assert (recorder.status, recorder.body, len(server.asked)) == (status, b"no", 1)
    assert recorder.headers[b"retry-after"] == b"3"


@pytest.mark.parametrize(
    ("method", "reply"),
    [
        ("HEAD", OK + b"content-length: 5\r\n\r\n"),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", b"HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n"),
    ],
)
@on_each_loop
async def test_replies_without_a_body(method: str, reply: bytes) -> None:
    async with RawServer([reply]) as server, opened(server.url) as upstream:
        for _ in range(2):
            recorder = await send(upstream, UpstreamRequest(path="/", method=method)).over()
            assert recorder.is_ended
            assert recorder.body == b""
        assert server.n_accepted == 1


@on_each_loop
async def test_an_answer_before_the_whole_request() -> None:
    early = b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno"
    request = UpstreamRequest(path="/", body=bytes(20 * 2**20))
    async with RawServer([early, 0.1, Do.TAKE, Do.WAIT], early=True) as server:
        recorder = await ask(server, request)
        assert (recorder.status, recorder.body, recorder.is_ended) == (413, b"no", True)
        await until(lambda: not server.n_open)  # a connection full of that body is of no use


@on_each_loop
async def test_an_answer_before_the_whole_request_that_is_then_taken() -> None:
    request = UpstreamRequest(path="/", body=bytes(20 * 2**20))
    script = [OK + b"content-length: 5\r\n\r\nhe", 0.05, Do.TAKE, 0.2, b"llo"]
    async with RawServer(script, early=True) as server, opened(server.url) as upstream:
        recorder = await send(upstream, request).over()
        assert (recorder.body, recorder.is_ended) == (b"hello", True)
        assert upstream.n_connections == 0
