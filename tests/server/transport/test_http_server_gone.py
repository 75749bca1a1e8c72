"""Clients that leave, in every phase, and clients that read too slowly."""

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable

import pytest

from dragoman.server.transport.seams import ClientGone, Exchange
from support.fakes import Watcher
from support.loops import on_each_loop, until
from support.raw_http import Client, Place, chunked, post, reply_whole, serving

GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"


class Watched:
    """A handler that reads the body, then does what *then* says until the client is gone."""

    def __init__(self, then: Callable[[Exchange], Awaitable[None]]) -> None:
        self._then = then
        self.watcher = Watcher()
        self.phase = ""
        self.ended_s = 0.0

    async def __call__(self, exchange: Exchange) -> None:
        try:
            self.phase = "reading"
            await exchange.read_body(2**20)
            exchange.watch(self.watcher)
            self.phase = "working"
            await self._then(exchange)
            await until(lambda: exchange.gone)
        finally:
            self.ended_s = time.monotonic()


async def wait(exchange: Exchange) -> None:
    return


async def write_head(exchange: Exchange) -> None:
    exchange.start_reply(200, [])


async def write_slowly(exchange: Exchange) -> None:
    exchange.start_reply(200, [])
    while not exchange.gone:
        exchange.write(b"data: x\n\n")
        await asyncio.sleep(0.001)


async def write_much(exchange: Exchange) -> None:
    exchange.start_reply(200, [])
    while not exchange.gone:
        exchange.write(b"x" * 1000)
        await asyncio.sleep(0)


async def write_to_nobody(exchange: Exchange) -> None:
    """Go on writing as if nothing had happened: all of it is ignored."""
    await write_slowly(exchange)
    exchange.write(b"x")
    exchange.end_reply()
    exchange.abort()


async def start_for_nobody(exchange: Exchange) -> None:
    await until(lambda: exchange.gone)
    reply_whole(exchange, b"x")


async def close(client: Client) -> None:
    await client.close()


async def send_eof(client: Client) -> None:
    client.send_eof()


async def reset(client: Client) -> None:
    client.reset()


LEAVING = [close, send_eof, reset]
WHOLE = [GET, post(b"hello"), post(b"hello") + GET * 3, post(b"x" * 300_000)]
PARTS = [
    post(b"hello")[:-1],
    post(b"x" * 100_000)[:-1],
    b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n" + chunked(b"hello")[:-1],
    b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\nexpect: 100-continue\r\n\r\n",
]


async def leave(place: Place, client: Client, how: Callable[[Client], Awaitable[None]]) -> float:
    """Leave, wait until nothing is left of it, and return how long that took."""
    left_s = time.monotonic()
    await how(client)
    await place.wait_empty()
    return left_s


@pytest.mark.parametrize("how", LEAVING)
@pytest.mark.parametrize("request_", PARTS, ids=["short", "long", "chunked", "asked for"])
@on_each_loop
async def test_who_leaves_within_the_body_is_gone(request_, how) -> None:
    handler = Watched(wait)
    async with serving(handler) as place, place.client() as client:
        await client.send(request_)
        await until(lambda: handler.phase)
        await asyncio.sleep(0.01)
        left_s = await leave(place, client, how)
    assert handler.phase == "reading"  # ended by ClientGone, which is no crash
    assert handler.ended_s - left_s < 0.5


THEN = [wait, write_head, write_slowly, write_much, write_to_nobody, start_for_nobody]


@pytest.mark.parametrize("how", LEAVING)
@pytest.mark.parametrize("then", THEN)
@on_each_loop
async def test_who_leaves_before_the_reply_has_ended_is_gone(then, how) -> None:
    handler = Watched(then)
    async with serving(handler) as place, place.client() as client:
        await client.send(post(b"hello") + GET)
        await until(lambda: handler.phase == "working")
        await asyncio.sleep(0.01)
        left_s = await leave(place, client, how)
    assert [told for told in handler.watcher.told if told == "gone"] == ["gone"]
    assert handler.ended_s - left_s < 0.5


@pytest.mark.parametrize("request_", WHOLE, ids=["GET", "POST", "pipelined", "large"])
@on_each_loop
async def test_who_sends_a_request_and_an_end_of_file_is_gone(request_) -> None:
    handler = Watched(wait)
    async with serving(handler) as place, place.client() as client:
        await client.send(request_)
        client.send_eof()
        assert await client.rest() == b""
        await place.wait_empty()
    assert handler.watcher.told in ([], ["gone"])


@on_each_loop
async def test_a_watcher_that_comes_late_is_told_at_once() -> None:
    first, second = Watcher(), Watcher()

    async def handler(exchange: Exchange) -> None:
        exchange.watch(first)
        await until(lambda: exchange.gone)
        exchange.watch(second)
        exchange.watch(None)
        with pytest.raises(ClientGone):
            await exchange.read_body(100)

    async with serving(handler) as place, place.client() as client:
        await client.send(post(b"hello"))
        await until(lambda: place.server.n_exchanges)
        await leave(place, client, close)
    assert (first.told, second.told) == (["gone"], ["gone"])


@on_each_loop
async def test_a_watcher_that_has_left_is_told_nothing() -> None:
    watcher = Watcher()

    async def handler(exchange: Exchange) -> None:
        exchange.watch(watcher)
        exchange.watch(None)
        await until(lambda: exchange.gone)

    async with serving(handler) as place, place.client() as client:
        await client.send(GET)
        await until(lambda: place.server.n_exchanges)
        await leave(place, client, close)
    assert watcher.told == []


@on_each_loop
async def test_who_leaves_between_requests_is_no_crash() -> None:
    async def handler(exchange: Exchange) -> None:
        reply_whole(exchange, b"done")

    async with serving(handler) as place:
        for data in (b"", GET[:9], GET + GET[:-2], b"\r\n"):
            for how in LEAVING:
                async with place.client() as client:
                    await client.send(data)
                    await leave(place, client, how)


# -- slow readers


async def connect_narrowly(place: Place, n_bytes: int = 4096) -> socket.socket:
    """Connect with a socket that takes about *n_bytes* before they are read."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, n_bytes)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", place.server.port))
    return sock


@on_each_loop
async def test_a_slow_reader_pauses_the_reply() -> None:
    watcher, late = Watcher(), Watcher()
    n_written = 0

    async def handler(exchange: Exchange) -> None:
        nonlocal n_written
        exchange.watch(watcher)
        exchange.start_reply(200, [])
        while "pause" not in watcher.told:
            exchange.write(b"x" * 10_000)
            n_written += 10_000
            await asyncio.sleep(0)
        exchange.watch(late)
        await until(lambda: "resume" in late.told)
        exchange.end_reply()

    async with serving(handler) as place:
        sock = await connect_narrowly(place)
        with sock:
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(sock, GET)
            await until(lambda: late.told)
            assert (watcher.told, late.told) == (["pause"], ["pause"])
            received = b""
            while not received.endswith(b"\r\n0\r\n\r\n"):
                received += await loop.sock_recv(sock, 2**20)
        assert late.told == ["pause", "resume"]
        assert received.count(b"x") == n_written


async def reply_hugely(exchange: Exchange) -> None:
    reply_whole(exchange, bytes(20_000_000))


@on_each_loop
async def test_who_takes_nothing_of_a_reply_is_cut(monkeypatch) -> None:
    monkeypatch.setattr("dragoman.server.transport.http_connection._STALL_S", 0.1)
    async with serving(reply_hugely, keep_alive_timeout_s=0.2) as place:
        with await connect_narrowly(place) as sock:
            await asyncio.get_running_loop().sock_sendall(sock, GET)
            await until(lambda: place.server.n_connections)
            await place.wait_empty()


@pytest.mark.parametrize("last", [b"", b"connection: close\r\n"], ids=["kept", "closed"])
@on_each_loop
async def test_who_takes_a_reply_slowly_gets_all_of_it(monkeypatch, last) -> None:
    monkeypatch.setattr("dragoman.server.transport.http_connection._STALL_S", 0.3)
    async with serving(reply_hugely, keep_alive_timeout_s=0.2, header_timeout_s=60) as place:
        with await connect_narrowly(place, 2**18) as sock:
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(sock, GET[:-2] + last + b"\r\n")
            n_bytes, started_s = 0, time.monotonic()
            while n_bytes < 20_000_000 and (data := await loop.sock_recv(sock, 200_000)):
                n_bytes += data.count(b"\0")
                await asyncio.sleep(0.01)
    assert n_bytes == 20_000_000
    assert time.monotonic() - started_s > 0.6  # longer than it may be still
