"""The real process between real sockets: whatever a client may send, the process goes on."""

import asyncio
import gzip
import json
import zlib
from collections.abc import Iterator
from typing import Any

import pytest
import zstandard

from support.chat_script import say
from support.raw_http import chunked
from support.sockets import ASK, Site, open_site, post, read
from support.sse_grammar import check_error

MAX_BODY = 32 * 2**20


@pytest.fixture(scope="module")
def running(tmp_path_factory) -> Iterator[Site]:
    with open_site(tmp_path_factory.mktemp("site")) as site:
        yield site


@pytest.fixture
def site(running: Site) -> Iterator[Site]:
    """What a test finds; afterwards the gateway still answers."""
    running.upstream.script(say("Hello", times=-1))
    yield running
    assert read(asyncio.run(running.ask(post()))).text == "Hello"


def refused(site: Site, *requests: bytes) -> tuple[int, dict[str, Any]]:
    """Return status and error of an answer that asked no upstream."""
    before = len(site.upstream.requests)
    reply = asyncio.run(site.ask(*requests))
    assert reply.headers[b"request-id"].startswith(b"req_")
    assert reply.headers[b"content-type"] == b"application/json"
    assert len(site.upstream.requests) == before
    return reply.status, check_error(reply.body)


# -- compressed bodies

RAW = json.dumps(ASK | {"messages": [{"role": "user", "content": "word " * 5000}]}).encode()
CODINGS = {
    "gzip": gzip.compress(RAW),
    "x-gzip": gzip.compress(RAW),
    "deflate": zlib.compress(RAW),
    "zstd": zstandard.compress(RAW),
    "identity": RAW,
    "GZIP": gzip.compress(RAW),
    "gzip, zstd": zstandard.compress(gzip.compress(RAW)),
}


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_compressed_bodies(site: Site, coding: str, framing: str) -> None:
    body = CODINGS[coding]
    request = post(body, f"content-encoding: {coding}")
    if framing == "chunked":
        head = request[: -len(body)].replace(
            b"content-length: %d" % len(body), b"transfer-encoding: chunked"
        )
        request = head + chunked(*(body[at : at + 100] for at in range(0, len(body), 100)))
    assert read(asyncio.run(site.ask(request))).text == "Hello"
    assert site.upstream.requests[0].messages[-1]["content"] == "word " * 5000


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("br", RAW),
        ("gzip", RAW),
        ("gzip", CODINGS["gzip"][:-9]),
        ("zstd", CODINGS["zstd"][:-9]),
        ("zstd", CODINGS["gzip"]),
        ("deflate", b""),
        ("gzip, gzip, gzip, gzip, gzip", RAW),
        ("nonsense", RAW),
    ],
)
def test_what_is_not_compressed_as_it_says(site: Site, coding: str, body: bytes) -> None:
    status, error = refused(site, post(body or b"x", f"content-encoding: {coding}"))
    assert (status, error["type"]) == (400, "invalid_request_error")
    assert error["message"].startswith("content-encoding: ")


@pytest.mark.parametrize("coding", ["gzip", "zstd", "deflate"])
def test_a_bomb_is_too_large(site: Site, coding: str) -> None:
    zeros = b" " * (4 * MAX_BODY)
    bomb = {"gzip": gzip.compress, "zstd": zstandard.compress, "deflate": zlib.compress}[coding]
    status, error = refused(site, post(bomb(zeros), f"content-encoding: {coding}"))
    assert (status, error["type"]) == (413, "request_too_large")


# -- size


def test_a_large_body_is_served(site: Site) -> None:
    text = "x" * (MAX_BODY - 10_000)
    reply = asyncio.run(site.ask(post(messages=[{"role": "user", "content": text}])))
    assert read(reply).text == "Hello"
    assert len(site.upstream.requests[0].raw_body) > len(text)


def test_one_that_says_that_it_is_too_large_is_not_even_read(site: Site) -> None:
    head = post(b"").replace(b"content-length: 0", b"content-length: %d" % (MAX_BODY + 1))
    status, error = refused(site, head)
    assert (status, error["type"]) == (413, "request_too_large")


def test_one_that_turns_out_to_be_too_large(site: Site) -> None:
    head = post(b"").replace(b"content-length: 0", b"transfer-encoding: chunked")
    pieces = chunked(*[b" " * 2**20] * 33)
    status, error = refused(site, head, pieces)
    assert (status, error["type"]) == (413, "request_too_large")


# -- what is in it

DEEP = b"[" * 10_000
BODIES: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "the body is empty"),
    "blanks": (b" \n ", "the body is empty"),
    "no JSON": (b"nonsense", "the body is not valid JSON"),
    "half of it": (json.dumps(ASK).encode()[:-5], "the body is not valid JSON"),
    "a list": (b"[]", "Input should be an object"),
    "NUL": (b"\0", "the body is not valid JSON"),
    "NUL in a string": (json.dumps(ASK).encode().replace(b"Hi", b"H\0i"), "not valid JSON"),
    "invalid UTF-8": (json.dumps(ASK).encode().replace(b"Hi", b"H\xff"), "not valid UTF-8"),
    "invalid UTF-8 where nobody looks": (
        json.dumps(ASK | {"odd": "Hi!"}).encode().replace(b"Hi!", b"H\xc3("),
        "not valid UTF-8",
    ),
    "half a surrogate": (json.dumps(ASK).encode().replace(b"Hi", b"\\ud800"), "surrogate"),
    "depth": (json.dumps(ASK).encode()[:-1] + b',"odd":' + DEEP + b"]" * 10_000 + b"}", "nested"),
    "depth without an end": (DEEP, "nested"),
    "depth in a tool": (
        json.dumps(ASK | {"tools": [{"name": "f", "input_schema": {"x": "DEEP"}}]})
        .encode()
        .replace(b'"DEEP"', DEEP + b"]" * 10_000),
        "nested",
    ),
    "a huge integer": (json.dumps(ASK | {"max_tokens": 10**30}).encode(), "max_tokens"),
    "a huge number": (json.dumps(ASK).encode()[:-1] + b',"temperature":1e999}', "temperature"),
    "a huge number where nobody looks": (json.dumps(ASK).encode()[:-1] + b',"odd":1e999}', "odd"),
    "thousands of digits": (json.dumps(ASK).encode()[:-1] + b',"odd":%s}' % (b"9" * 5000), "odd"),
    "below zero": (json.dumps(ASK | {"max_tokens": -1}).encode(), "max_tokens"),
    "no model": (b'{"messages":[],"max_tokens":1}', "model: Field required"),
    "no messages": (b'{"model":"m","max_tokens":1}', "messages: Field required"),
    "no max_tokens": (b'{"model":"m","messages":[{"role":"user","content":"x"}]}', "max_tokens"),
    "a wrong type": (
        json.dumps(ASK | {"messages": [{"role": "user", "content": 5}]}).encode(),
        "messages.0.content",
    ),
    "a wrong role": (
        json.dumps(ASK | {"messages": [{"role": "x", "content": ""}]}).encode(),
        "messages.0.role",
    ),
}


@pytest.mark.parametrize(("body", "message"), BODIES.values(), ids=BODIES)
def test_what_cannot_be_read_is_refused_by_name(site: Site, body: bytes, message: str) -> None:
    status, error = refused(site, post(body))
    assert (status, error["type"]) == (400, "invalid_request_error")
    assert message in error["message"]


def test_the_last_of_equal_keys_counts_here_and_there(site: Site) -> None:
    body = (
        b'{"model":"absent","max_tokens":1,"max_tokens":7,"messages":[{"role":"user","content":'
        b'"no","content":"yes"}],"model":"m"}'
    )
    assert read(asyncio.run(site.ask(post(body)))).text == "Hello"
    (recorded,) = site.upstream.requests
    assert recorded.messages == [{"role": "user", "content": "yes"}]
    assert recorded.body["max_tokens"] == 7
    assert recorded.raw_body.count(b'"model"') == 1


def test_odd_but_legal(site: Site) -> None:
    text = "\0\u20ac\U0001f600\u2028\x7f\ufeff"
    reply = asyncio.run(site.ask(post(messages=[{"role": "user", "content": text}], odd=[1e300])))
    assert read(reply).text == "Hello"
    assert site.upstream.requests[0].messages[0]["content"] in (text, text.replace("\0", ""))


# -- what is no request

GOOD = post(b"{}")
HEADS: dict[str, tuple[bytes, int]] = {
    "nonsense": (b"nonsense\r\n\r\n", 400),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 100 + b"\r\n\r\n", 400),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "HTTP/0.9": (b"GET /\r\n\r\n", 400),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "two hosts": (b"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n", 400),
    "two lengths": (
        GOOD.replace(b"content-length: 2", b"content-length: 2\r\ncontent-length: 3"),
        400,
    ),
    "a length below zero": (GOOD.replace(b"content-length: 2", b"content-length: -2"), 400),
    "a length of words": (GOOD.replace(b"content-length: 2", b"content-length: two"), 400),
    "length and chunks": (
        GOOD.replace(b"content-length", b"transfer-encoding: chunked\r\ncontent-length"),
        400,
    ),
    "an unknown coding": (GOOD.replace(b"content-length: 2", b"transfer-encoding: gzip"), 400),
    "a folded line": (b"GET / HTTP/1.1\r\nhost: a\r\n b\r\n\r\n", 400),
    "a space before the colon": (b"GET / HTTP/1.1\r\nhost : a\r\n\r\n", 400),
    "NUL in a header": (b"GET / HTTP/1.1\r\nhost: localhost\r\nx: a\0b\r\n\r\n", 400),
    "too long a line": (b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\nhost: a\r\n\r\n", 431),
    "too many lines": (b"GET / HTTP/1.1\r\nhost: a\r\n" + b"x: y\r\n" * 300 + b"\r\n", 431),
    "CONNECT": (b"CONNECT a:443 HTTP/1.1\r\nhost: a\r\n\r\n", 400),
}


@pytest.mark.parametrize(("head", "status"), HEADS.values(), ids=HEADS)
def test_what_is_no_http_is_refused_and_cut(site: Site, head: bytes, status: int) -> None:
    async def main() -> None:
        async with site.client() as client:
            reply = await client.ask(head)
            assert reply.status == status
            assert check_error(reply.body)["message"]
            assert reply.headers[b"request-id"].startswith(b"req_")
            assert await client.rest() == b""

    asyncio.run(main())
    assert site.upstream.requests == []


@pytest.mark.parametrize("body", [b"zz\r\n{}\r\n0\r\n\r\n", b"2\r\n{}xx0\r\n\r\n", b"-1\r\n\r\n"])
def test_chunks_that_are_none(site: Site, body: bytes) -> None:
    head = GOOD[:-2].replace(b"content-length: 2", b"transfer-encoding: chunked")
    status, error = refused(site, head, body)
    assert (status, error["type"]) == (400, "invalid_request_error")


def test_an_upgrade_is_not_taken_up(site: Site) -> None:
    fields = ("connection: upgrade", "upgrade: h2c")
    assert read(asyncio.run(site.ask(post(None, *fields)))).text == "Hello"


def test_connections_that_say_nothing_or_half_a_word(site: Site) -> None:
    async def main() -> None:
        async with site.client(), site.client() as half:
            await half.send(b"POST /v1/mess")
            assert read(await site.ask(post())).text == "Hello"

    asyncio.run(main())


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        (("origin: https://far.example",), 403),
        (("origin: http://127.0.0.1:1",), 403),
        (("x-api-key: anything",), 200),
    ],
)
def test_an_open_gateway_answers_programs_only(
    site: Site, fields: tuple[str, ...], status: int
) -> None:
    assert asyncio.run(site.ask(post(None, *fields))).status == status
    foreign = post(None).replace(b"host: 127.0.0.1", b"host: rebound.example")
    assert asyncio.run(site.ask(foreign)).status == 403
