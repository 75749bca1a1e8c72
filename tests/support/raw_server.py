"""
A server that says exactly the bytes it is told to, cut where it is told, and sees who leaves.

It lives in the test's own event loop.
"""

import asyncio
import enum
import re
import socket
import ssl
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self, cast

from support.loops import until

OK = b"HTTP/1.1 200 OK\r\n"
HELLO = OK + b"content-length: 5\r\n\r\nhello"
CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n"
EVENT = b"6\r\ndata:1\r\n"
END = b"0\r\n\r\n"
CERTIFICATE = Path(__file__).with_name("localhost-test-certificate.pem")


class Do(enum.Enum):
    """What a script can do beside sending bytes and waiting for a number of seconds."""

    CLOSE = "close the connection"
    END = "end our side only"
    RESET = "break the connection off"
    WAIT = "wait until the other side leaves"
    TAKE = "take the body, after an answer that came too early"


Step = bytes | float | Do | asyncio.Event  # an event is waited for
Script = Sequence[Step]


@dataclass
class Asked:
    """One request as it came."""

    head: bytes
    body: bytes = b""
    connection: int = 0  # which, counted from 1
    is_gone: bool = False  # the other side left while the script was playing

    @property
    def first_line(self) -> str:
        return self.head.split(b"\r\n", 1)[0].decode()

    @property
    def headers(self) -> dict[str, str]:
        lines = self.head.decode("latin-1").split("\r\n")[1:-2]
        pairs = [line.split(": ", 1) for line in lines]
        assert len(pairs) == len(dict(pairs)), "a repeated header"
        return dict(pairs)


class RawServer:
    """
    Answers requests in order, each with the next script; the last one is played again and again.

    Args:
        early: Play a script when the head is there, without reading a body.
        greeting: Played on a connection before anything is asked.
        tls: The server's side of TLS.
        host: To listen on.
    """

    def __init__(
        self,
        *scripts: Script,
        early: bool = False,
        greeting: Script = (),
        tls: ssl.SSLContext | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        self.scripts = list(scripts)
        self.early, self.greeting, self.tls, self.host = early, greeting, tls, host
        self.asked: list[Asked] = []
        self.connections: set[_Connection] = set()
        self.alpn: list[str | None] = []  # agreed on, by connection
        self.n_accepted = self.port = 0

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: _Connection(self), self.host, 0, ssl=self.tls
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.drop_all()
        await until(lambda: not self.connections)

    @property
    def url(self) -> str:
        scheme = "http" if self.tls is None else "https"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{host}:{self.port}"

    @property
    def n_open(self) -> int:
        return len(self.connections)

    def drop_all(self) -> None:
        """Close all connections at once, as a restart does."""
        for connection in list(self.connections):
            connection.drop()

    def next_script(self) -> Script:
        return self.scripts[0] if len(self.scripts) == 1 else self.scripts.pop(0)


class _Connection(asyncio.Protocol):
    def __init__(self, server: RawServer) -> None:
        self._server = server
        self._buffer = bytearray()
        self._gone = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._server.connections.add(self)
        self._server.n_accepted += 1
        self._number = self._server.n_accepted
        if (tls := transport.get_extra_info("ssl_object")) is not None:
            self._server.alpn.append(tls.selected_alpn_protocol())
        if self._server.greeting:
            self._task = asyncio.create_task(self._play(self._server.greeting, None))

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._task is None or self._task.done():
            self._take_request()

    def eof_received(self) -> None:
        self._gone.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone.set()
        self._server.connections.discard(self)
        if self._task is not None:
            self._task.add_done_callback(lambda task: task.cancelled() or task.result())

    def drop(self) -> None:
        self._transport.abort()
        self._gone.set()

    def _take_request(self) -> None:
        size = self._buffer.find(b"\r\n\r\n") + 4
        if size < 4:
            return
        head = bytes(self._buffer[:size])
        match = re.search(rb"content-length: (\d+)", head)
        end = size + (int(match[1]) if match else 0)
        if len(self._buffer) < end and not self._server.early:
            return
        if self._server.early:
            self._transport.pause_reading()
        asked = Asked(head, bytes(self._buffer[size:end]), self._number)
        del self._buffer[:end]
        self._server.asked.append(asked)
        self._task = asyncio.create_task(self._play(self._server.next_script(), asked))

    async def _play(self, script: Script, asked: Asked | None) -> None:
        for step in script:
            if isinstance(step, bytes):
                self._transport.write(step)
                await asyncio.sleep(0)
            elif isinstance(step, Do):
                await self._do(step)
            elif isinstance(step, asyncio.Event):
                await step.wait()
            elif await self._is_gone_within(step):
                break
        if asked is not None:
            asked.is_gone = self._gone.is_set()
        if self._buffer and not self._transport.is_closing():
            asyncio.get_running_loop().call_soon(self._take_request)

    async def _do(self, step: Do) -> None:
        if step is Do.CLOSE:
            self._transport.close()
        elif step is Do.END:
            self._transport.write_eof()
        elif step is Do.RESET:
            sock = cast("socket.socket", self._transport.get_extra_info("socket"))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._transport.abort()
        elif step is Do.TAKE:
            self._transport.resume_reading()
        else:
            await self._gone.wait()

    async def _is_gone_within(self, delay_s: float) -> bool:
        try:
            await asyncio.wait_for(self._gone.wait(), delay_s)
        except TimeoutError:
            return False
        return True


def server_tls() -> ssl.SSLContext:
    """Return the server's side of TLS with a certificate that only ``trusting`` trusts."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context


def trusting() -> ssl.SSLContext:
    """Return a client's side of TLS that trusts the test certificate and nothing else."""
    return ssl.create_default_context(cafile=str(CERTIFICATE))
