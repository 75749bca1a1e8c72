"""Requests and replies: what goes over the wire, connection after connection."""

import asyncio
import socket
from collections import Counter

import pytest
from msgspec import structs

from dragoman.server.transport.http_head import MAX_FIELDS
from dragoman.server.transport.http_server import HttpLimits
from dragoman.server.transport.seams import Exchange
from dragoman.settings import ServerConfig
from support.loops import on_each_loop, until
from support.raw_http import chunked, echo, post, reply_whole, serving

GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"


async def stream(exchange: Exchange) -> None:
    exchange.start_reply(200, [(b"content-type", b"text/event-stream")])
    for event in (b"data: 1\n\n", b"", b"data: 2\n\n"):
        exchange.write(event)
    exchange.end_reply()


async def describe(exchange: Exchange) -> None:
    headers = dict(exchange.headers)
    text = repr((exchange.method, exchange.path, exchange.query, headers, exchange.peer))
    reply_whole(exchange, text.encode())


@on_each_loop
async def test_a_request_reaches_the_handler_as_it_was_sent() -> None:
    async with serving(describe) as place:
        reply = await place.ask(
            b"GET /a%20b?c=%20 HTTP/1.1\r\nHost: x\r\nAccept: 1\r\naccept: 2\r\n\r\n"
        )
    headers = {b"host": b"x", b"accept": b"1, 2"}
    assert reply.body == repr(("GET", "/a b", "c=%20", headers, "127.0.0.1")).encode()


WIRE = {
    "whole": (
        GET,
        200,
        b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 2\r\n\r\nhi",
    ),
    "an unusual status": (
        GET,
        529,
        b"HTTP/1.1 529 Overloaded\r\ncontent-type: text/plain\r\ncontent-length: 2\r\n\r\nhi",
    ),
    "a status that nobody knows": (
        GET,
        599,
        b"HTTP/1.1 599 \r\ncontent-type: text/plain\r\ncontent-length: 2\r\n\r\nhi",
    ),
    "HEAD": (
        b"HEAD / HTTP/1.1\r\nhost: a\r\n\r\n",
        200,
        b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 2\r\n\r\n",
    ),
    "closed by the client": (
        b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
        200,
        b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 2\r\n"
        b"connection: close\r\n\r\nhi",
    ),
    "HTTP/1.0": (
        b"GET / HTTP/1.0\r\n\r\n",
        200,
        b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 2\r\n"
        b"connection: close\r\n\r\nhi",
    ),
}
LAST = b"GET /last HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
LAST_REPLY = b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n"


@pytest.mark.parametrize(("request_", "status", "expected"), WIRE.values(), ids=WIRE)
@on_each_loop
async def test_a_reply_byte_by_byte(request_, status, expected) -> None:
    async def handler(exchange: Exchange) -> None:
        if exchange.path == "/last":
            exchange.start_reply(204, [])
        else:
            headers = [(b"content-type", b"text/plain"), (b"content-length", b"2")]
            exchange.start_reply(status, headers)
            exchange.write(b"hi")
        exchange.end_reply()

    async with serving(handler) as place, place.client() as client:
        await client.send(request_ + LAST)
        received = await client.rest()
    is_kept = b"connection: close" not in expected
    assert received == expected + (LAST_REPLY if is_kept else b"")


@pytest.mark.parametrize(("request_", "status", "expected"), WIRE.values(), ids=WIRE)
@on_each_loop
async def test_a_whole_reply_says_the_same(request_, status, expected) -> None:
    async def handler(exchange: Exchange) -> None:
        if exchange.path == "/last":
            exchange.reply_whole(204, [(b"x", b"y")], b"unseen")
        else:
            exchange.reply_whole(status, [(b"content-type", b"text/plain")], b"hi")

    async with serving(handler) as place, place.client() as client:
        await client.send(request_ + LAST)
        received = await client.rest()
    is_kept = b"connection: close" not in expected
    last = b"HTTP/1.1 204 No Content\r\ncontent-length: 6\r\nx: y\r\nconnection: close\r\n\r\n"
    wanted = expected + (last if is_kept else b"")
    assert received[:15] == wanted[:15]
    assert sorted(received.split(b"\r\n")) == sorted(wanted.split(b"\r\n"))
    assert received.endswith(wanted[wanted.rindex(b"\r\n\r\n") :])


@on_each_loop
async def test_whole_lines_stand_behind_the_headers_of_every_kind_of_reply() -> None:
    lines = b"a-limit: 5\r\na-reset: soon\r\n"

    async def handler(exchange: Exchange) -> None:
        if exchange.path == "/whole":
            exchange.reply_whole(200, [(b"x", b"y")], b"hi", lines)
        else:
            exchange.start_reply(200, [(b"x", b"y")], lines)
            exchange.write(b"hi")
            exchange.end_reply()

    async with serving(handler) as place, place.client() as client:
        await client.send(b"GET /whole HTTP/1.1\r\nhost: a\r\n\r\n" + LAST)
        received = await client.rest()
    assert received == (
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx: y\r\n" + lines + b"\r\nhi"
        b"HTTP/1.1 200 OK\r\nx: y\r\n" + lines + b"transfer-encoding: chunked\r\n"
        b"connection: close\r\n\r\n2\r\nhi\r\n0\r\n\r\n"
    )


HEAD = b"content-type: text/event-stream\r\n"
STREAMED = {
    "1.1": (
        GET,
        b"transfer-encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n9\r\ndata: 2\n\n\r\n0\r\n\r\n",
    ),
    "1.0": (b"GET / HTTP/1.0\r\n\r\n", b"connection: close\r\n\r\ndata: 1\n\ndata: 2\n\n"),
    "HEAD": (b"HEAD / HTTP/1.1\r\nhost: a\r\n\r\n", b"\r\n"),
}


@pytest.mark.parametrize(("request_", "expected"), STREAMED.values(), ids=STREAMED)
@on_each_loop
async def test_a_stream_byte_by_byte(request_, expected) -> None:
    async with serving(stream) as place, place.client() as client:
        await client.send(request_ + b"\0")  # no request: the connection ends
        received = await client.rest()
    start = b"HTTP/1.1 200 OK\r\n" + HEAD + expected
    assert received[: len(start)] == start
    assert received[len(start) :].startswith(b"HTTP/1.1 400 ") is (b"close" not in expected)


@pytest.mark.parametrize(
    ("request_", "head", "end"),
    [
        (GET, b"transfer-encoding: chunked\r\n\r\n", b"0\r\n\r\n"),
        (b"GET / HTTP/1.0\r\n\r\n", b"connection: close\r\n\r\n", b""),
    ],
    ids=["1.1", "1.0"],
)
@on_each_loop
async def test_the_head_of_a_stream_does_not_wait_for_its_first_event(request_, head, end) -> None:
    may_go_on = asyncio.Event()

    async def handler(exchange: Exchange) -> None:
        exchange.start_reply(200, [])
        await may_go_on.wait()
        exchange.end_reply()

    async with serving(handler) as place, place.client() as client:
        await client.send(request_)
        assert (await client.read(99)) == b"HTTP/1.1 200 OK\r\n" + head
        may_go_on.set()
        assert await client.read(99) == end


@on_each_loop
async def test_a_connection_serves_requests_one_after_the_other() -> None:
    async with serving(echo) as place, place.client() as client:
        for number in range(20):
            body = b"%d" % number * number
            data = post(body)
            if number % 2:
                data = b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
                data += chunked(body[:3], body[3:]) if len(body) > 3 else chunked(body)
            assert (await client.ask(data)).body == body
        await client.send(b"\r\n\r\n")  # some clients do
        assert (await client.ask(b"\r\n" + GET)).status == 200
        assert place.server.n_connections == 1


@on_each_loop
async def test_pipelined_requests_are_answered_in_order_and_one_at_a_time() -> None:
    n_running = 0

    async def handler(exchange: Exchange) -> None:
        nonlocal n_running
        n_running += 1
        assert n_running == 1
        body = await exchange.read_body(100)
        await asyncio.sleep(0)
        n_running -= 1
        reply_whole(exchange, body)

    async with serving(handler) as place, place.client() as client:
        await client.send(b"".join(post(b"%d" % number) for number in range(200)))
        replies = [await client.reply() for _ in range(200)]
    assert [int(reply.body) for reply in replies] == list(range(200))


@on_each_loop
async def test_what_a_client_sends_ahead_is_bounded_and_not_lost() -> None:
    may_go_on = asyncio.Event()

    async def handler(exchange: Exchange) -> None:
        await may_go_on.wait()
        reply_whole(exchange, exchange.query[-1:].encode())

    request = b"GET /?%b%%d HTTP/1.1\r\nhost: a\r\n\r\n" % (b"x" * 50_000)
    requests = b"".join(request % (number % 10) for number in range(200))
    async with serving(handler) as place, place.client() as client:
        sending = asyncio.ensure_future(client.send(requests))
        [connection] = await connections_of(place)
        await until(lambda: connection._is_read_paused)
        assert len(connection._ahead) < 400_000  # 64 KiB and one read
        may_go_on.set()
        replies = [await client.reply() for _ in range(200)]
        await sending
    assert [int(reply.body) for reply in replies] == [number % 10 for number in range(200)]


async def connections_of(place) -> list:
    await until(lambda: place.server.n_connections)
    return list(place.server._site.connections)


@on_each_loop
async def test_replies_wait_for_a_client_that_does_not_take_them() -> None:
    n_asked = 0

    async def handler(exchange: Exchange) -> None:
        nonlocal n_asked
        n_asked += 1
        reply_whole(exchange, b"x" * 1_000_000)

    async with serving(handler) as place, place.client() as client:
        await client.send(GET * 100)
        [connection] = await connections_of(place)
        await until(lambda: connection.is_write_paused)
        n_early = n_asked
        assert n_early < 100
        for _ in range(100):
            assert len((await client.reply()).body) == 1_000_000
    assert n_asked == 100


MALFORMED = {
    "no HTTP": b"hello\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "two lengths": b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\nx",
    "length and chunks": b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n"
    b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "CONNECT": b"CONNECT a:443 HTTP/1.1\r\nhost: a\r\n\r\n",
    "bare LF": b"GET / HTTP/1.1\nhost: a\n\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED)
@on_each_loop
async def test_what_is_no_request_gets_400_and_the_end(data) -> None:
    async with serving(echo) as place, place.client() as client:
        await client.send(GET + data + GET)
        assert (await client.reply()).status == 200
        reply = await client.reply()
        assert await client.rest() == b""
    assert (reply.status, reply.error["type"]) == (400, "invalid_request_error")
    assert reply.headers[b"connection"] == b"close"
    assert reply.headers[b"request-id"] == b"req_refused"
    assert reply.headers[b"content-type"] == b"application/json"


TOO_LARGE = {
    "a long target": b"GET /" + b"x" * 5000,
    "long fields": b"GET / HTTP/1.1\r\nhost: a\r\nx: " + b"y" * 5000 + b"\r\n\r\n",
    "many fields": b"GET / HTTP/1.1\r\nhost: a\r\n" + b"x: y\r\n" * MAX_FIELDS + b"\r\n",
}


@pytest.mark.parametrize("data", TOO_LARGE.values(), ids=TOO_LARGE)
@on_each_loop
async def test_a_head_that_is_too_large_gets_431(data) -> None:
    async with serving(echo, max_header_bytes=4096) as place:
        reply = await place.ask(data)
    assert (reply.status, reply.error["type"]) == (431, "request_too_large")
    assert reply.headers[b"connection"] == b"close"


@on_each_loop
async def test_an_upgrade_is_not_made() -> None:
    fields = (b"upgrade: h2c", b"connection: upgrade, http2-settings", b"http2-settings: AAMAAABk")
    async with serving(echo) as place, place.client() as client:
        assert (await client.ask(post(b"hello", *fields))).body == b"hello"
        assert (await client.ask(post(b"again"))).body == b"again"


# -- slow clients


@on_each_loop
async def test_a_head_that_comes_too_slowly_gets_408() -> None:
    async with serving(echo, header_timeout_s=0.2) as place, place.client() as client:
        reply = await client.ask(b"GET / HTTP/1.1\r\nhost")
        assert await client.rest() == b""
    assert (reply.status, reply.error["type"]) == (408, "timeout_error")


@on_each_loop
async def test_a_head_in_drops_is_not_given_more_time() -> None:
    async def drip(client) -> None:
        await client.send(b"GET / HTTP/1.1\r\n")
        while True:
            await client.send(b"x: y\r\n")
            await asyncio.sleep(0.02)

    async with serving(echo, header_timeout_s=0.2) as place, place.client() as client:
        dripping = asyncio.ensure_future(drip(client))
        assert (await client.reply()).status == 408
        dripping.cancel()


@pytest.mark.parametrize("data", [b"", b"\r\n"], ids=["nothing", "an empty line"])
@on_each_loop
async def test_a_client_that_says_nothing_is_told_nothing(data) -> None:
    async with serving(echo, header_timeout_s=0.1) as place, place.client() as client:
        await client.send(data)
        assert await client.rest() == b""


@on_each_loop
async def test_an_idle_connection_is_closed_without_a_word() -> None:
    limits = {"keep_alive_timeout_s": 0.2, "header_timeout_s": 60}
    async with serving(echo, **limits) as place, place.client() as client:
        assert (await client.ask(GET)).status == 200
        assert await client.rest() == b""


@on_each_loop
async def test_a_slow_handler_has_all_the_time() -> None:
    async def handler(exchange: Exchange) -> None:
        await asyncio.sleep(0.5)
        reply_whole(exchange, b"late")

    limits = {"keep_alive_timeout_s": 0.1, "header_timeout_s": 0.1, "body_timeout_s": 0.1}
    async with serving(handler, **limits) as place:
        assert (await place.ask(GET)).body == b"late"


# -- too many connections


@on_each_loop
async def test_a_connection_too_many_is_told_so() -> None:
    async with serving(echo, max_connections=2) as place:
        async with place.client() as first, place.client() as second:
            assert (await first.ask(GET)).status == (await second.ask(GET)).status == 200
            async with place.client() as third:
                reply = await third.ask(GET)
                assert await third.rest() == b""
            assert (reply.status, reply.error["type"]) == (529, "overloaded_error")
            assert reply.headers[b"retry-after"] == b"1"
            assert (await first.ask(GET)).status == 200
        await until(lambda: place.server.n_connections == 0)
        assert (await place.ask(GET)).status == 200


@on_each_loop
async def test_a_silent_connection_too_many_is_told_so_soon() -> None:
    limits = {"max_connections": 1, "header_timeout_s": 60}
    async with serving(echo, **limits) as place, place.client() as first:
        assert (await first.ask(GET)).status == 200
        async with place.client() as second:
            assert (await second.reply()).status == 529


@on_each_loop
async def test_far_too_many_connections_are_cut() -> None:
    loop = asyncio.get_running_loop()
    socks = [socket.socket() for _ in range(300)]

    async def receive(sock: socket.socket, port: int) -> bytes:
        sock.setblocking(False)
        try:
            await loop.sock_connect(sock, ("127.0.0.1", port))
            return (await loop.sock_recv(sock, 99))[:13]
        except ConnectionError:
            return b""

    async with serving(echo, max_connections=1) as place, place.client() as client:
        assert (await client.ask(GET)).status == 200
        port = place.server.port
        received = Counter(await asyncio.gather(*(receive(sock, port) for sock in socks)))
        for sock in socks:
            sock.close()
        await until(lambda: place.server.n_connections == 1)
        assert (await client.ask(GET)).status == 200
    assert received == {b"HTTP/1.1 529 ": 128, b"": 172}


def test_limits_are_those_of_the_configuration_unless_told_otherwise() -> None:
    limits = structs.asdict(HttpLimits())
    assert limits == {name: getattr(ServerConfig(), name) for name in limits}
