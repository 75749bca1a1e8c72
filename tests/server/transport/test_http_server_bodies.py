"""Bodies of requests: framed, compressed, too large, too slow, unread."""

import asyncio
import gzip
import json
import zlib

import pytest
import zstandard

from dragoman.core.errors import (
    AuthenticationFailed,
    GatewayError,
    RequestTimeout,
    RequestTooLarge,
)
from dragoman.server.transport.seams import Exchange
from support.loops import on_each_loop, until
from support.raw_http import chunked, cut, echo, post, reply_error, reply_whole, serving

GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n"
BODY = json.dumps([{"role": "user", "content": "hello " * 50}] * 100).encode()
CODED = {
    "gzip": gzip.compress(BODY),
    "deflate": zlib.compress(BODY),
    "zstd": zstandard.compress(BODY),
    "deflate, gzip": gzip.compress(zlib.compress(BODY)),
    "identity": BODY,
}


@pytest.mark.parametrize(("coding", "data"), CODED.items(), ids=CODED)
@on_each_loop
async def test_a_compressed_body_is_inflated(coding, data) -> None:
    field = b"content-encoding: " + coding.encode()
    framed = CHUNKED + field + b"\r\n\r\n" + chunked(*filter(None, cut(data, [1, 77])))
    async with serving(echo) as place, place.client() as client:
        assert (await client.ask(post(data, field))).body == BODY
        assert (await client.ask(framed)).body == BODY
        for piece in cut(post(data, field), [30, 100, 101, 300]):
            await client.send(piece)
            await asyncio.sleep(0.002)
        assert (await client.reply()).body == BODY


REFUSED = {
    "an unknown coding": (b"br", BODY, 400, "request_body_encoding_unsupported"),
    "no such data": (b"gzip", BODY, 400, "request_body_encoding_invalid"),
    "cut short": (b"zstd", CODED["zstd"][:-1], 400, "request_body_encoding_invalid"),
    "a gzip bomb": (
        b"gzip",
        gzip.compress(bytes(2**24)),
        413,
        "request_body_too_large_after_decoding",
    ),
    "a zstd bomb": (
        b"zstd",
        zstandard.compress(bytes(2**30)),
        413,
        "request_body_too_large_after_decoding",
    ),
}


@pytest.mark.parametrize(("coding", "data", "status", "code"), REFUSED.values(), ids=REFUSED)
@on_each_loop
async def test_a_body_that_cannot_be_inflated_is_refused(coding, data, status, code) -> None:
    async with serving(echo) as place, place.client() as client:
        for _ in range(2):  # its end is known, so the connection lives on
            reply = await client.ask(post(data, b"content-encoding: " + coding))
            assert (reply.status, reply.error["details"]) == (status, {"error_code": code})
        assert (await client.ask(post(b"hello"))).body == b"hello"


@on_each_loop
async def test_a_request_without_a_body_has_an_empty_one() -> None:
    async with serving(echo) as place, place.client() as client:
        assert (await client.ask(GET)).body == b""
        assert (await client.ask(post(b"", b"content-encoding: gzip"))).body == b""
        assert (await client.ask(CHUNKED + b"\r\n" + chunked())).body == b""


@pytest.mark.parametrize("body", [b"", b"hello", b"x" * 100_000], ids=["none", "short", "long"])
@on_each_loop
async def test_a_body_is_read_once(body) -> None:
    async def handler(exchange: Exchange) -> None:
        assert await exchange.read_body(100_000) == body
        with pytest.raises(RuntimeError, match="read once"):
            await exchange.read_body(100_000)
        reply_whole(exchange, b"")

    async with serving(handler) as place:
        assert (await place.ask(post(body))).status == 200


@on_each_loop
async def test_a_body_that_came_with_its_head_is_at_hand_once() -> None:
    async def handler(exchange: Exchange) -> None:
        assert exchange.body_at_hand(4) is None
        with pytest.raises(RequestTooLarge):
            await exchange.read_body(4)
        reply_whole(exchange, b"")

    async def taker(exchange: Exchange) -> None:
        assert exchange.body_at_hand(5) == b"hello"
        assert exchange.body_at_hand(5) is None
        with pytest.raises(RuntimeError, match="read once"):
            await exchange.read_body(5)
        reply_whole(exchange, b"")

    for each in (handler, taker):
        async with serving(each) as place:
            assert (await place.ask(post(b"hello"))).status == 200


@on_each_loop
async def test_a_body_that_must_be_inflated_or_waited_for_is_not_at_hand() -> None:
    async def handler(exchange: Exchange) -> None:
        assert exchange.body_at_hand(100_000) is None
        assert await exchange.read_body(100_000) == b"x" * 50_000
        assert exchange.body_at_hand(100_000) is None
        reply_whole(exchange, b"")

    async with serving(handler) as place:
        squeezed = gzip.compress(b"x" * 50_000)
        assert (await place.ask(post(squeezed, b"content-encoding: gzip"))).status == 200
        async with place.client() as client:
            whole = post(b"x" * 50_000)
            await client.send(whole[:20_000])
            await until(lambda: place.server.n_exchanges)
            await client.send(whole[20_000:])
            assert (await client.reply()).status == 200


BAD_CHUNKS = {
    "at once": b"zz\r\nhello\r\n",
    "after a good one": b"5\r\nhello\r\nxyz\r\n",
    "behind its data": b"5\r\nhello, world\r\n",
}


@pytest.mark.parametrize("body", BAD_CHUNKS.values(), ids=BAD_CHUNKS)
@on_each_loop
async def test_a_bad_chunk_is_refused_and_ends_the_connection(body) -> None:
    async with serving(echo) as place, place.client() as client:
        reply = await client.ask(CHUNKED + b"\r\n" + body + GET * 3)
        assert await client.rest() == b""
    assert (reply.status, reply.headers[b"connection"]) == (400, b"close")


@on_each_loop
async def test_a_bad_chunk_that_nobody_reads_ends_the_connection() -> None:
    async def handler(exchange: Exchange) -> None:
        reply_whole(exchange, b"done")

    async with serving(handler) as place, place.client() as client:
        reply = await client.ask(CHUNKED + b"\r\nzz\r\n" + GET * 3)
        assert await client.rest() == b""
    assert (reply.body, reply.headers[b"connection"]) == (b"done", b"close")


TRAILERS = {
    "at once": [b"5\r\nhello\r\n0\r\nx-sum: 1\r\n\r\n" + GET],
    "one after the other": [b"5\r\nhello\r\n0\r\n", b"x-sum: 1\r\n", b"\r\n" + GET],
}


@pytest.mark.parametrize("pieces", TRAILERS.values(), ids=TRAILERS)
@on_each_loop
async def test_trailers_are_passed_over_and_end_the_connection(pieces) -> None:
    async with serving(echo) as place, place.client() as client:
        await client.send(CHUNKED + b"\r\n")
        for piece in pieces:
            await asyncio.sleep(0.01)
            await client.send(piece)
        reply = await client.reply()
        assert await client.rest() == b""
    assert (reply.status, reply.headers[b"connection"]) == (200, b"close")


@on_each_loop
async def test_trailers_behind_a_reply_end_the_connection() -> None:
    async def handler(exchange: Exchange) -> None:
        reply_whole(exchange, b"done")

    async with serving(handler) as place, place.client() as client:
        reply = await client.ask(CHUNKED + b"\r\n0\r\nx-sum: 1\r\n\r\n" + GET)
        assert await client.rest() == b""
    assert (reply.body, reply.headers[b"connection"]) == (b"done", b"close")


# -- too large


@on_each_loop
async def test_a_declared_length_over_the_limit_is_refused_before_it_is_sent() -> None:
    async with serving(echo) as place, place.client() as client:
        head = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 99999999999999\r\n\r\n"
        reply = await client.ask(head)
        assert (reply.status, reply.error["type"]) == (413, "request_too_large")
        assert reply.headers[b"connection"] == b"close"


@pytest.mark.parametrize("size", [2**20, 2**20 + 1])
@pytest.mark.parametrize("is_chunked", [True, False])
@on_each_loop
async def test_the_limit_is_a_limit_of_bytes(size, is_chunked) -> None:
    body = b"x" * size
    data = CHUNKED + b"\r\n" + chunked(*cut(body, [1, 99, 70_000])) if is_chunked else post(body)
    data = data.replace(b"\r\n0\r\n\r\n0\r\n", b"\r\n0\r\n")
    async with serving(echo) as place, place.client() as client:
        reply = await client.ask(data)
    assert reply.status == (200 if size == 2**20 else 413)


async def refuse(exchange: Exchange) -> None:
    reply_error(exchange, AuthenticationFailed("who are you?"))


@pytest.mark.parametrize("handler", [refuse, echo])
@pytest.mark.parametrize("is_chunked", [True, False])
@on_each_loop
async def test_who_sends_a_large_body_to_its_end_still_sees_the_refusal(
    handler, is_chunked
) -> None:
    body = b"x" * (20 * 2**20)
    data = CHUNKED + b"\r\n" + chunked(body) if is_chunked else post(body)
    async with serving(handler) as place, place.client() as client:
        await client.send(data)  # all of it, before looking for a reply
        reply = await client.reply()
        assert await client.rest() == b""
        if not is_chunked:  # all has come that could come: no need to wait for more
            await place.wait_empty()
    assert (reply.status, reply.headers[b"connection"]) == (
        401 if handler is refuse else 413,
        b"close",
    )


@on_each_loop
async def test_who_never_ends_sending_is_cut(monkeypatch) -> None:
    monkeypatch.setattr("dragoman.server.transport.http_connection._MAX_LINGER_BYTES", 2**20)

    async def flood(client) -> None:
        while True:
            await client.send(b"x" * 65536)

    async with serving(refuse) as place, place.client() as client:
        await client.send(CHUNKED + b"\r\nffffffff\r\n")
        with pytest.raises(ConnectionError):
            await flood(client)
        await place.wait_empty()


@on_each_loop
async def test_who_stops_sending_but_stays_is_closed(monkeypatch) -> None:
    monkeypatch.setattr("dragoman.server.transport.http_connection._LINGER_S", 0.05)
    async with serving(refuse, keep_alive_timeout_s=0.2) as place, place.client() as client:
        reply = await client.ask(CHUNKED + b"\r\n5\r\nhel")
        assert reply.status == 401
        await place.wait_empty()


# -- unread


@on_each_loop
async def test_a_short_rest_of_a_body_is_passed_over() -> None:
    async with serving(refuse) as place, place.client() as client:
        request = post(b"GET / HTTP/1.1\r\n" * 1000)
        for _ in range(3):
            await client.send(request[:100])
            assert (await client.reply()).status == 401
            await client.send(request[100:])
        assert (await client.ask(GET)).status == 401
        assert place.server.n_connections == 1


@on_each_loop
async def test_a_rest_that_never_comes_ends_the_connection(monkeypatch) -> None:
    monkeypatch.setattr("dragoman.server.transport.http_connection._DRAIN_S", 0.05)
    async with serving(refuse, keep_alive_timeout_s=0.2) as place, place.client() as client:
        assert (await client.ask(post(b"hello")[:-1])).status == 401
        assert await client.rest() == b""


@on_each_loop
async def test_a_body_that_nobody_wants_yet_is_not_read_without_end() -> None:
    may_read = asyncio.Event()

    async def handler(exchange: Exchange) -> None:
        await may_read.wait()
        body = await exchange.read_body(16 * 2**20)
        reply_whole(exchange, b"%d" % len(body))

    async with serving(handler) as place, place.client() as client:
        sending = asyncio.ensure_future(client.send(post(b"x" * (16 * 2**20))))
        await until(lambda: place.server.n_exchanges)
        [connection] = place.server._site.connections
        await until(lambda: connection._is_read_paused)
        assert connection._body.n_received < 2**20  # 256 KiB and one read
        may_read.set()
        assert (await client.reply()).body == b"%d" % (16 * 2**20)
        await sending
        assert (await client.ask(post(b"hello"))).body == b"5"


@on_each_loop
async def test_what_comes_after_a_failed_read_is_not_read_without_end() -> None:
    may_reply = asyncio.Event()

    async def handler(exchange: Exchange) -> None:
        with pytest.raises(RequestTooLarge):
            await exchange.read_body(10)
        await may_reply.wait()
        reply_whole(exchange, b"sorry")

    async with serving(handler) as place, place.client() as client:
        sending = asyncio.ensure_future(client.send(post(b"x" * (16 * 2**20))))
        await until(lambda: place.server.n_exchanges)
        [connection] = place.server._site.connections
        await until(lambda: connection._is_read_paused)
        may_reply.set()
        assert (await client.reply()).body == b"sorry"
        await sending


# -- 100-continue


EXPECTING = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\nexpect: 100-Continue\r\n\r\n"


@on_each_loop
async def test_a_client_that_waits_to_be_asked_is_asked() -> None:
    async with serving(echo) as place, place.client() as client:
        for _ in range(2):
            await client.send(EXPECTING)
            assert (await client.reply()).status == 100
            await client.send(b"hello")
            reply = await client.reply()
            assert (reply.status, reply.body) == (200, b"hello")


@pytest.mark.parametrize("handler", [refuse, echo])
@on_each_loop
async def test_a_client_that_waits_to_be_asked_may_be_refused_instead(handler) -> None:
    request = EXPECTING.replace(b"length: 5", b"length: 5000000")
    async with serving(handler) as place, place.client() as client:
        reply = await client.ask(request)
        assert reply.status == (401 if handler is refuse else 413)
        assert reply.headers[b"connection"] == b"close"  # nobody knows if the body will come


@on_each_loop
async def test_a_client_that_does_not_wait_is_not_asked() -> None:
    async with serving(echo) as place, place.client() as client:
        assert (await client.ask(EXPECTING + b"hello")).body == b"hello"
        await client.send(EXPECTING.replace(b"HTTP/1.1", b"HTTP/1.0"))
        await client.send(b"hello")
        assert (await client.reply()).status == 200


# -- too slow


async def report(exchange: Exchange) -> None:
    try:
        await exchange.read_body(2**20)
    except GatewayError as error:
        reply_whole(exchange, type(error).__name__.encode())


@pytest.mark.parametrize("piece", [b"", b"x", b"x" * 3000], ids=["silent", "drops", "steady"])
@on_each_loop
async def test_a_body_has_its_time_and_no_more(piece) -> None:
    async def drip(client) -> None:
        while True:
            await client.send(piece)
            await asyncio.sleep(0.02)

    async with serving(report, body_timeout_s=0.8) as place, place.client() as client:
        await client.send(post(b"x" * 1_000_000)[:100])
        dripping = asyncio.ensure_future(drip(client))
        reply = await client.reply()
        dripping.cancel()
    assert (reply.body, reply.headers[b"connection"]) == (
        RequestTimeout.__name__.encode(),
        b"close",
    )


@on_each_loop
async def test_the_time_for_a_body_begins_when_it_is_wanted() -> None:
    async def handler(exchange: Exchange) -> None:
        await asyncio.sleep(0.6)
        await echo(exchange)

    async with serving(handler, body_timeout_s=0.4) as place, place.client() as client:
        await client.send(post(b"hello")[:-1])
        await asyncio.sleep(0.5)
        await client.send(b"o")
        assert (await client.reply()).body == b"hello"
