"""TLS, and proxies on the way, on real loopback sockets."""

import asyncio
import base64
from typing import Self

import pytest

from dragoman.core.errors import UpstreamProtocolError, UpstreamTimeout, UpstreamUnavailable
from dragoman.server.transport import dial
from dragoman.server.transport.http_upstream import HttpUpstream
from dragoman.server.transport.seams import Timeouts, UpstreamRequest
from support.loops import on_each_loop, until
from support.raw_server import (
    CERTIFICATE,
    CHUNKED,
    END,
    EVENT,
    HELLO,
    OK,
    Do,
    RawServer,
    Script,
    server_tls,
    trusting,
)
from support.receivers import ASK, Recorder, opened, send

BASIC = "Basic " + base64.b64encode(b"me:pass word").decode()


async def ask(upstream: HttpUpstream, request: UpstreamRequest = ASK) -> Recorder:
    return await send(upstream, request).over()


def failure(recorder: Recorder) -> str:
    """Return the message of a failure to connect, which shows neither host nor address."""
    assert isinstance(recorder.error, UpstreamUnavailable)
    assert not any(w in recorder.error.message for w in ("127.0.0.1", "localhost", "upstream.test"))
    assert "pass word" not in recorder.error.log_detail + recorder.error.message
    assert BASIC not in recorder.error.log_detail + recorder.error.message
    return recorder.error.message


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
@on_each_loop
async def test_calls_over_tls(host: str) -> None:
    async with RawServer([CHUNKED, 0.01, EVENT, 0.01, EVENT + b"0\r\n\r\n"], tls=server_tls()) as s:
        url = s.url.replace("127.0.0.1", host)
        async with opened(url + "/v1", tls_context=trusting()) as upstream:
            for _ in range(3):
                assert (await ask(upstream)).body == b"data:1data:1"
            assert (s.n_accepted, upstream.n_idle) == (1, 1)
            assert s.asked[0].headers["host"] == f"{host}:{s.port}"
            assert s.alpn == ["http/1.1"]


@on_each_loop
async def test_large_bodies_over_tls() -> None:
    body = bytes(range(256)) * 20_000
    reply = OK + b"content-length: %d\r\n\r\n" % len(body) + body
    async with (
        RawServer([reply], tls=server_tls()) as server,
        opened(server.url, tls_context=trusting()) as upstream,
    ):
        recorder = await ask(upstream, UpstreamRequest(path="/", body=body))
        assert recorder.body == body
        assert server.asked[0].body == body
        assert upstream.n_idle == 1


@on_each_loop
async def test_a_certificate_that_nobody_vouches_for() -> None:
    async with RawServer([HELLO], tls=server_tls()) as server, opened(server.url) as upstream:
        message = failure(await ask(upstream))
        assert message == "The certificate of the model's server is not valid."
        assert not server.asked
        await until(lambda: not server.n_open)


@on_each_loop
async def test_a_certificate_for_another_name(monkeypatch: pytest.MonkeyPatch) -> None:
    async with RawServer([HELLO], tls=server_tls()) as server:

        async def look_up(_: object) -> list[dial.Row]:
            return [(dial.socket.AF_INET, ("127.0.0.1", server.port))]

        monkeypatch.setattr(dial, "_look_up", look_up)
        async with opened("https://other.test", tls_context=trusting()) as upstream:
            message = failure(await ask(upstream))
            assert message == "The certificate of the model's server is not valid."
            assert not server.asked


@on_each_loop
async def test_no_tls_behind_the_port() -> None:
    async with (
        RawServer([HELLO], greeting=[b"HTTP/1.1 400 Bad Request\r\n\r\n"]) as server,
        opened(server.url.replace("http:", "https:")) as upstream,
    ):
        message = failure(await ask(upstream))
        assert message == "The TLS handshake with the model's server failed."


@on_each_loop
async def test_the_handshake_counts_as_connecting() -> None:
    request = UpstreamRequest(path="/", timeouts=Timeouts(connect_s=0.15))
    async with (
        RawServer([HELLO]) as server,
        opened(server.url.replace("http:", "https:")) as upstream,
    ):
        assert "could not be reached within 0.15 s" in failure(await ask(upstream, request))
        await until(lambda: not server.n_open)


@on_each_loop
async def test_the_system_is_trusted_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    async with (
        RawServer([HELLO, Do.CLOSE], tls=server_tls()) as server,
        opened(server.url) as upstream,
    ):
        for _ in range(2):
            assert (await ask(upstream)).body == b"hello"
            await until(lambda: not upstream.n_connections)
            monkeypatch.delenv("SSL_CERT_FILE", raising=False)  # read once
        assert server.alpn == ["http/1.1"] * 2


@pytest.mark.parametrize("end", [Do.CLOSE, Do.RESET])
@on_each_loop
async def test_the_end_in_the_middle_over_tls(end: Do) -> None:
    scripts: list[Script] = [[end], [CHUNKED + EVENT, 0.05, end]]
    async with (
        RawServer(*scripts, tls=server_tls()) as server,
        opened(server.url, tls_context=trusting()) as upstream,
    ):
        failure(await ask(upstream))
        assert isinstance((await ask(upstream)).error, UpstreamProtocolError)


@on_each_loop
async def test_a_stale_connection_over_tls() -> None:
    async with (
        RawServer([HELLO], [Do.CLOSE], [HELLO], [Do.RESET], [HELLO], tls=server_tls()) as server,
        opened(server.url, tls_context=trusting()) as upstream,
    ):
        for _ in range(3):
            assert (await ask(upstream)).body == b"hello"
        assert len(server.asked) == 5


@on_each_loop
async def test_pause_and_silence_over_tls() -> None:
    times = Timeouts(first_byte_s=20, idle_s=0.3)
    request = UpstreamRequest(path="/", timeouts=times)
    scripts: list[Script] = [[CHUNKED, 0.05, EVENT + END], [CHUNKED, Do.WAIT]]
    async with (
        RawServer(*scripts, tls=server_tls()) as server,
        opened(server.url, tls_context=trusting()) as upstream,
    ):
        recorder = send(upstream, request, on_head=lambda recorder: recorder.call.pause())
        await until(lambda: recorder.status)
        await asyncio.sleep(0.6)
        assert not recorder.body
        recorder.call.resume()
        assert (await recorder.over()).body == b"data:1"
        assert isinstance((await ask(upstream, request)).error, UpstreamTimeout)


# -- proxies


class Tunnel:
    """A proxy that says *answer* to CONNECT and then carries bytes to *port*, if it has one."""

    def __init__(self, answer: bytes, port: int = 0) -> None:
        self._answer, self._target_port = answer, port
        self.heads: list[str] = []
        self.n_open = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await until(lambda: not self.n_open)

    @property
    def url(self) -> str:
        return f"http://me:pass%20word@127.0.0.1:{self.port}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.n_open += 1
        try:
            self.heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
            for start in range(0, len(self._answer), 50):
                if writer.is_closing():
                    return
                writer.write(self._answer[start : start + 50])
                await asyncio.sleep(0)
            if self._target_port:
                await self._carry(reader, writer)
            elif not self._answer:
                await reader.read()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.transport.abort()
            self.n_open -= 1

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._target_port)
        tasks = [asyncio.create_task(pump(reader, back)), asyncio.create_task(pump(there, writer))]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        back.transport.abort()
        writer.transport.abort()
        await asyncio.wait(tasks)


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass


ACCEPTED = b"HTTP/1.1 200 Connection established\r\nproxy-agent: x\r\n\r\n"


@on_each_loop
async def test_https_goes_through_a_tunnel() -> None:
    async with (
        RawServer([HELLO], tls=server_tls()) as server,
        Tunnel(ACCEPTED, server.port) as tunnel,
        opened(
            "https://upstream.test/v1",
            credential=("authorization", "Bearer k"),
            proxy=tunnel.url,
            tls_context=trusting(),
        ) as upstream,
    ):
        for _ in range(2):
            assert (await ask(upstream)).body == b"hello"
        assert tunnel.heads == [
            "CONNECT upstream.test:443 HTTP/1.1\r\nhost: upstream.test:443\r\n"
            f"proxy-authorization: {BASIC}\r\n\r\n"
        ]
        assert server.asked[0].first_line == "POST /v1/chat/completions HTTP/1.1"
        assert server.asked[0].headers["host"] == "upstream.test"
        assert "proxy-authorization" not in server.asked[0].headers


@on_each_loop
async def test_the_certificate_behind_a_tunnel_is_checked() -> None:
    async with (
        RawServer([HELLO], tls=server_tls()) as server,
        Tunnel(ACCEPTED, server.port) as tunnel,
        opened("https://other.test", proxy=tunnel.url, tls_context=trusting()) as upstream,
    ):
        assert failure(await ask(upstream)) == "The certificate of the model's server is not valid."
        assert not server.asked


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 403 Forbidden\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nsurplus",
        b"HTTP/1.1 200 OK\r\nhalf a head",
        b"garbage\r\n\r\n",
        b"x" * 20_000,
    ],
)
@on_each_loop
async def test_a_proxy_that_refuses(answer: bytes) -> None:
    async with (
        Tunnel(answer) as tunnel,
        opened("https://upstream.test", proxy=tunnel.url, max_connections=1) as upstream,
    ):
        for _ in range(2):
            message = failure(await ask(upstream))
            assert message == "The proxy on the way to the model's server refused the connection."


@pytest.mark.parametrize("answer", [b"", ACCEPTED], ids=["no answer", "no handshake"])
@on_each_loop
async def test_a_tunnel_that_is_not_dug_in_time(answer: bytes) -> None:
    request = UpstreamRequest(path="/", timeouts=Timeouts(connect_s=0.15))
    async with (
        RawServer([Do.WAIT]) as server,
        Tunnel(answer, server.port if answer else 0) as tunnel,
        opened("https://upstream.test", proxy=tunnel.url) as upstream,
    ):
        assert "could not be reached within 0.15 s" in failure(await ask(upstream, request))
        await until(lambda: not tunnel.n_open)


@pytest.mark.parametrize("answer", [b"", ACCEPTED], ids=["no answer", "no handshake"])
@on_each_loop
async def test_abort_in_a_tunnel(answer: bytes) -> None:
    async with (
        RawServer([Do.WAIT]) as server,
        Tunnel(answer, server.port if answer else 0) as tunnel,
        opened("https://upstream.test", proxy=tunnel.url) as upstream,
    ):
        recorder = send(upstream, ASK)
        await until(lambda: tunnel.heads and (server.n_open or not answer))
        await asyncio.sleep(0.02)
        recorder.abort()
        await until(lambda: not tunnel.n_open)


@on_each_loop
async def test_http_is_asked_of_the_proxy() -> None:
    async with RawServer([HELLO]) as proxy:
        url = proxy.url.replace("http://", "http://me:pass%20word@")
        async with opened("http://upstream.test:8000/v1", proxy=url) as upstream:
            assert (await ask(upstream)).body == b"hello"
            await ask(upstream, UpstreamRequest(path="/tokenize", at_root=True))
        first, second = proxy.asked
        line = "POST http://upstream.test:8000/v1/chat/completions HTTP/1.1"
        assert first.first_line == line
        assert first.headers["host"] == "upstream.test:8000"
        assert first.headers["proxy-authorization"] == BASIC
        assert second.first_line == "POST http://upstream.test:8000/tokenize HTTP/1.1"


@on_each_loop
async def test_a_proxy_that_is_not_there() -> None:
    async with opened("https://upstream.test", proxy="http://127.0.0.1:1") as upstream:
        failure(await ask(upstream))


@on_each_loop
async def test_this_machine_is_reached_without_a_proxy() -> None:
    async with RawServer([HELLO]) as server:
        for host in ("127.0.0.1", "localhost"):
            url = server.url.replace("127.0.0.1", host)
            async with opened(url, proxy="http://127.0.0.1:1") as upstream:
                assert (await ask(upstream)).body == b"hello"


@pytest.mark.parametrize("proxy", ["socks5://u:secret@a", "https://u:secret@a", "u:secret@a", ""])
def test_proxies_that_cannot_be_used(proxy: str) -> None:
    with pytest.raises(ValueError, match="a proxy's URL") as caught:
        HttpUpstream("https://upstream.test", proxy=proxy)
    assert "secret" not in str(caught.value)
