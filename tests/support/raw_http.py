"""An ``HttpServer`` on loopback, and a client that sends the very bytes it is told to send."""

import asyncio
import itertools
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from dragoman.core.errors import GatewayError, error_headers, render_error
from dragoman.server.transport.http_server import Handler, HttpLimits, HttpServer
from dragoman.server.transport.seams import Exchange, HeaderList
from support.loops import until

PATIENCE_S = 20  # a busy machine is no failure


@dataclass
class Reply:
    """One reply; ``is_cut`` when the connection ended before it did."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes = b""
    is_cut: bool = False

    @property
    def error(self) -> dict[str, Any]:
        """The error of a body in the API's shape."""
        document = json.loads(self.body)
        assert document["type"] == "error"
        error: dict[str, Any] = document["error"]
        return error


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def ask(self, data: bytes) -> Reply:
        await self.send(data)
        return await self.reply()

    async def reply(self, *, is_bodiless: bool = False) -> Reply:
        async with asyncio.timeout(PATIENCE_S):
            head = await self._reader.readuntil(b"\r\n\r\n")
            status_line, *lines = head[:-4].split(b"\r\n")
            fields = dict(line.split(b": ", 1) for line in lines)
            reply = Reply(int(status_line.split(b" ")[1]), fields)
            try:
                if not is_bodiless and reply.status >= 200:
                    reply.body = await self._body(fields)
            except asyncio.IncompleteReadError:
                reply.is_cut = True
            return reply

    async def rest(self) -> bytes:
        """Read until the server closes the connection."""
        async with asyncio.timeout(PATIENCE_S):
            try:
                return await self._reader.read()
            except ConnectionResetError:
                return b""

    async def read(self, max_bytes: int) -> bytes:
        async with asyncio.timeout(PATIENCE_S):
            return await self._reader.read(max_bytes)

    def send_eof(self) -> None:
        self._writer.write_eof()

    def reset(self) -> None:
        """Leave with a TCP reset."""
        sock = self._writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self._writer.transport.abort()

    async def close(self) -> None:
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except OSError:
            return

    async def _body(self, fields: dict[bytes, bytes]) -> bytes:
        if b"content-length" in fields:
            return await self._reader.readexactly(int(fields[b"content-length"]))
        if fields.get(b"transfer-encoding") != b"chunked":
            return await self._reader.read()
        body = b""
        while size := int(await self._reader.readuntil(b"\r\n"), 16):
            body += await self._reader.readexactly(size)
            assert await self._reader.readexactly(2) == b"\r\n"
        assert await self._reader.readexactly(2) == b"\r\n"
        return body


@dataclass
class Place:
    """A server under test, and what it reported."""

    server: HttpServer
    crashes: list[BaseException]

    @asynccontextmanager
    async def client(self, **options: Any) -> AsyncIterator[Client]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.server.port, **options)
        client = Client(reader, writer)
        try:
            yield client
        finally:
            await client.close()

    async def ask(self, data: bytes) -> Reply:
        """Send *data* on a connection of its own."""
        async with self.client() as client:
            return await client.ask(data)

    async def wait_empty(self) -> None:
        """Wait until every connection and every exchange is gone."""
        await until(lambda: not self.server.n_connections + self.server.n_exchanges)


def render_refusal(error: GatewayError) -> tuple[HeaderList, bytes]:
    headers = [(b"content-type", b"application/json"), (b"request-id", b"req_refused")]
    return [*headers, *error_headers(error)], render_error(error, "req_refused")


@asynccontextmanager
async def serving(handler: Handler, **limits: float) -> AsyncIterator[Place]:
    """Run a server. Unless a test takes them from the list, crashes and leaks fail it."""
    crashes: list[BaseException] = []
    server = HttpServer(
        handler,
        limits=HttpLimits(**limits),  # type: ignore[arg-type]  # counts are given as int
        render_refusal=render_refusal,
        on_crash=crashes.append,
    )
    place = Place(server, crashes)
    await server.start("127.0.0.1", 0)
    try:
        yield place
        assert [repr(error) for error in crashes] == []
    finally:
        await server.close(0)
    assert (server.n_connections, server.n_exchanges) == (0, 0)


def reply_whole(exchange: Exchange, body: bytes, *headers: tuple[bytes, bytes]) -> None:
    exchange.reply_whole(200, [(b"content-type", b"text/plain"), *headers], body)


async def echo(exchange: Exchange) -> None:
    """Answer with the body of the request; with an error where it cannot be read."""
    try:
        body = await exchange.read_body(2**20)
    except GatewayError as error:
        reply_error(exchange, error)
    else:
        reply_whole(exchange, body)


def reply_error(exchange: Exchange, error: GatewayError) -> None:
    body = render_error(error, "req_1")
    exchange.start_reply(error.status, [(b"content-length", b"%d" % len(body))])
    exchange.write(body)
    exchange.end_reply()


def post(body: bytes, *fields: bytes, path: bytes = b"/") -> bytes:
    """Return a request with a content-length."""
    lines = [b"POST %b HTTP/1.1" % path, b"host: a", *fields, b"content-length: %d" % len(body)]
    return b"\r\n".join([*lines, b"", body])


def chunked(*pieces: bytes) -> bytes:
    """Return a body in chunks."""
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """Return *data* in pieces, some of them perhaps empty; a place may be any number."""
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]
