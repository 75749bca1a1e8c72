"""Any bytes at all, cut at any place: an answer or an end, never a fault or a leak."""

import asyncio
import gzip
import random
import re

from dragoman.server.transport.http_connection import Connection
from dragoman.server.transport.http_site import HttpLimits, Site
from dragoman.server.transport.seams import Exchange
from support.loops import on_each_loop, until
from support.raw_http import chunked, cut, echo, post, render_refusal, reply_whole, serving

CHUNKED = b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
TALK = [
    (b"GET /a?b HTTP/1.1\r\nhost: a\r\n\r\n", b"GET /a b"),
    (post(b"hello"), b"POST / hello"),
    (CHUNKED + chunked(b"he", b"llo"), b"POST / hello"),
    (b"\r\n" + post(gzip.compress(b"hello", mtime=0), b"content-encoding: gzip"), b"POST / hello"),
    (b"HEAD http://b/ HTTP/1.1\r\nhost: a\r\n\r\n", b""),
    (CHUNKED + b"1;x=y\r\nz\r\n0\r\n\r\n", b"POST / z"),
    (CHUNKED + b"1\r\nz\r\n0\r\nt: u\r\n\r\n", b"POST / z"),  # trailers end the connection
]
SENT = b"".join(request for request, _ in TALK)


async def tell(exchange: Exchange) -> None:
    body = await exchange.read_body(1000)
    seen = f"{exchange.method} {exchange.path} {exchange.query}".encode()
    exchange.start_reply(200, [(b"content-length", b"%d" % len(seen + body))])
    exchange.write(seen + body)
    exchange.end_reply()


class FakeTransport:
    """Keeps what is written to it, write by write."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.is_closed = False

    def get_extra_info(self, name: str) -> tuple[str, int]:
        return ("127.0.0.1", 1)

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True

    abort = write_eof = close


def connect(handler) -> tuple[Connection, FakeTransport]:
    def on_crash(error: BaseException) -> None:
        raise AssertionError from error

    site = Site(handler, limits=HttpLimits(), render_refusal=render_refusal, on_crash=on_crash)
    connection, transport = Connection(site, asyncio.get_running_loop()), FakeTransport()
    connection.connection_made(transport)
    return connection, transport


async def talk(pieces: list[bytes]) -> bytes:
    connection, transport = connect(tell)
    for piece in filter(None, pieces):
        connection.data_received(piece)
        await asyncio.sleep(0)
    await until(lambda: transport.is_closed)
    return b"".join(transport.written)


def replies_of(written: bytes) -> list[bytes]:
    return re.split(rb"HTTP/1\.1 200 OK\r\ncontent-length: \d+\r\n(?:[^\r]+\r\n)?\r\n", written)[1:]


@on_each_loop
async def test_a_talk_may_be_cut_at_any_byte() -> None:
    expected = [reply for _, reply in TALK]
    assert replies_of(await talk([SENT])) == expected
    assert replies_of(await talk([bytes([byte]) for byte in SENT])) == expected
    for place in range(len(SENT)):
        assert replies_of(await talk(cut(SENT, [place]))) == expected
    chance = random.Random(1)
    for _ in range(300):
        places = [chance.randrange(len(SENT)) for _ in range(5)]
        assert replies_of(await talk(cut(SENT, places))) == expected


@on_each_loop
async def test_a_talk_may_be_cut_on_the_wire() -> None:
    async with serving(tell) as place:
        for number in range(0, len(SENT), 7):
            async with place.client() as client:
                for piece in cut(SENT, [number, number + 3]):
                    await client.send(piece)
                    await asyncio.sleep(0)
                assert len(replies_of(await client.rest())) == len(TALK)
        await place.wait_empty()


@on_each_loop
async def test_the_head_goes_out_with_the_first_bytes_of_the_body() -> None:
    async def whole(exchange: Exchange) -> None:
        reply_whole(exchange, b"hello")

    async def stream(exchange: Exchange) -> None:
        exchange.start_reply(200, [])
        exchange.write(b"one")
        exchange.write(b"two")
        exchange.end_reply()

    for handler, n_writes in ((whole, 1), (stream, 3)):
        connection, transport = connect(handler)
        connection.data_received(TALK[0][0])
        await asyncio.sleep(0.01)
        assert len(transport.written) == n_writes
    assert transport.written[0].endswith(b"\r\n\r\n3\r\none\r\n")


def garbage(chance: random.Random) -> bytes:
    """Return bytes of any kind, or a talk with something wrong in it."""
    kind = chance.randrange(4)
    if kind == 0:
        return chance.randbytes(chance.randrange(1, 200))
    if kind == 1:
        return b"".join(chance.choices(FRAGMENTS, k=chance.randrange(1, 30)))
    data = bytearray(SENT)
    for _ in range(chance.randrange(1, 4)):
        place = chance.randrange(len(data))
        if kind == 2:
            data[place] = chance.randrange(256)
        else:
            data[place : place + chance.randrange(9)] = chance.choice(FRAGMENTS)
    return bytes(data)


FRAGMENTS = [
    *(b"GET ", b"POST ", b"/", b"http://", b" HTTP/1.1", b" HTTP/1.0", b"\r\n", b"\r", b"\n"),
    *(b"host: a\r\n", b"content-length: 5\r\n", b"content-length: 99999999999\r\n", b"\0"),
    *(b"transfer-encoding: chunked\r\n", b"5\r\nhello\r\n", b"0\r\n\r\n", b"fffffff\r\n", b"%ff"),
    *(b"content-encoding: gzip\r\n", b"content-encoding: zstd\r\n", b"expect: 100-continue\r\n"),
    *(b"connection: close\r\n", b"upgrade: h2c\r\nconnection: upgrade\r\n", b": ", b"\xff", b" "),
]
STATUSES = re.compile(rb"HTTP/1\.1 (\d+) ")


@on_each_loop
async def test_any_bytes_get_an_answer_or_an_end() -> None:
    """A crash, an error of the loop, or a connection that stays fails this test, too."""
    chance = random.Random(2)
    statuses: set[bytes] = set()

    async def send_garbage(place) -> None:
        for _ in range(250):
            async with place.client() as client:
                for piece in cut(garbage(chance), [chance.randrange(200)]):
                    await client.send(piece)
                    await asyncio.sleep(0)
                client.send_eof()
                statuses.update(STATUSES.findall(await client.rest()))

    async with serving(echo) as place:
        await asyncio.gather(*(send_garbage(place) for _ in range(8)))
        await place.wait_empty()
        assert (await place.ask(TALK[1][0])).body == b"hello"
    assert statuses <= {b"100", b"200", b"400", b"413", b"431"}
    assert statuses >= {b"200", b"400"}


@on_each_loop
async def test_random_bytes_alone_get_400_or_an_end() -> None:
    chance = random.Random(3)
    statuses: set[bytes] = set()
    async with serving(echo) as place:
        for _ in range(1000):
            async with place.client() as client:
                await client.send(chance.randbytes(chance.randrange(1, 300)))
                client.send_eof()
                statuses.update(STATUSES.findall(await client.rest()))
        await place.wait_empty()
    assert statuses == {b"400"}
