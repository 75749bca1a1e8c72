"""The whole gateway on sockets, behind servers that speak HTTP oddly or not at all."""

import asyncio
import gzip
import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from dragoman.build import build_gateway, start_server
from dragoman.server.telemetry import EventLog
from dragoman.settings import Config, ModelConfig, Secret, ServerConfig, UpstreamConfig
from support.app_case import DONE, HTML, NATIVE_MESSAGE, WHOLE, both_ways, chunk, usage
from support.loops import on_each_loop
from support.raw_http import Client, Reply
from support.raw_server import Do, RawServer, Script
from support.sockets import post, read
from support.sse_grammar import check_error, check_stream

EVENTS = chunk(content="Hello") + chunk("stop") + usage(3, 2) + DONE
NATIVE = json.dumps(NATIVE_MESSAGE).encode()


@asynccontextmanager
async def gateway(server: RawServer, **upstream: Any) -> AsyncIterator[tuple[Client, io.StringIO]]:
    """Serve model ``m`` of *server*; return a client, and what is logged."""
    log_text = io.StringIO()
    log = EventLog("json", log_text)
    kind = upstream.pop("kind", "openai")
    config = Config(
        server=ServerConfig(port=0, signing_secret=Secret("sixteen bytes or more")),
        upstreams={
            "lab": UpstreamConfig(
                base_url=f"{server.url}/v1", kind=kind, **{"first_byte_timeout_s": 20, **upstream}
            )
        },
        models={"m": ModelConfig(upstream=("lab",))},
    )
    made = build_gateway(config, log=log, environ={})
    site = await start_server(made, log=log)
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    client = Client(reader, writer)
    try:
        yield client, log_text
    finally:
        await client.close()
        await site.close(0)
        await made.close()
    assert '"crash"' not in log_text.getvalue(), log_text.getvalue()


def http(body: bytes, *fields: str, status: str = "200 OK") -> bytes:
    """Return a reply with a length."""
    lines = [f"HTTP/1.1 {status}", *fields, f"content-length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


SSE = "content-type: text/event-stream"
JSON = "content-type: application/json"
FINE: dict[str, Script] = {
    "plain": [http(EVENTS, SSE)],
    "JSON": [http(WHOLE.encode(), JSON)],
    "ended by the connection": [b"HTTP/1.1 200 OK\r\n\r\n" + EVENTS, Do.CLOSE],
    "HTTP/1.0": [b"HTTP/1.0 200 OK\r\ncontent-type: text/event-stream\r\n\r\n" + EVENTS, Do.CLOSE],
    "half-closed": [b"HTTP/1.1 200 OK\r\n\r\n" + EVENTS, Do.END],
    "interim replies": [
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"
        + http(EVENTS, SSE)
    ],
    "no reason": [http(EVENTS, SSE, status="200")],
    "byte by byte": [bytes([byte]) for byte in http(EVENTS, SSE)],
    "chunk extensions and trailers": [
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n%x;a=b\r\n%b\r\n0\r\nx: y\r\n\r\n"
        % (len(EVENTS), EVENTS)
    ],
    "gzip, though not asked for": [http(gzip.compress(EVENTS), SSE, "content-encoding: gzip")],
    "a reset after the end": [b"HTTP/1.1 200 OK\r\n\r\n" + EVENTS, Do.RESET],
    "left open": [
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
        0.05,
        b"%x\r\n%b\r\n" % (len(EVENTS), EVENTS),
        Do.WAIT,
    ],
    "signs of life before JSON": [
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n\n",
        0.02,
        b"\n\n" + WHOLE.encode(),
        Do.CLOSE,
    ],
}


@both_ways
@pytest.mark.parametrize("script", FINE.values(), ids=FINE)
@on_each_loop
async def test_odd_but_fine(script: Script, is_stream: bool) -> None:
    async with RawServer(script) as server, gateway(server) as (client, _):
        for _ in range(2):
            message = read(await client.ask(post(stream=is_stream)))
            assert (message.text, message.stop_reason) == ("Hello", "end_turn")
        assert len(server.asked) == 2


BROKEN: dict[str, tuple[Script, int]] = {
    "no HTTP": ([b"hello there\r\n\r\n", Do.CLOSE], 502),
    "a greeting of another kind": ([b"SSH-2.0-x\r\n", Do.CLOSE], 502),
    "closed at once": ([Do.CLOSE], 502),
    "half-closed at once": ([Do.END], 502),
    "reset at once": ([Do.RESET], 502),
    "half a status line": ([b"HTTP/1.1 2", Do.CLOSE], 502),
    "half a head": ([b"HTTP/1.1 200 OK\r\ncontent-type: te", Do.RESET], 502),
    "a head without an end": ([b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 20_000, Do.CLOSE], 502),
    "a head and no more": ([b"HTTP/1.1 200 OK\r\n\r\n", Do.CLOSE], 502),
    "a head and a reset": ([b"HTTP/1.1 200 OK\r\n\r\n", Do.RESET], 502),
    "less than it said": (
        [b"HTTP/1.1 200 OK\r\ncontent-length: 900\r\n\r\n" + b": wait\n\n", Do.CLOSE],
        502,
    ),
    "bare line feeds": ([http(EVENTS, SSE).replace(b"\r\n", b"\n")], 502),
    "JSON cut short": ([http(WHOLE.encode(), JSON)[:-9], Do.CLOSE], 502),
    "broken chunks": (
        [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", Do.CLOSE],
        502,
    ),
    "broken gzip": ([http(b"nonsense", SSE, "content-encoding: gzip")], 502),
    "an unknown coding": ([http(EVENTS, SSE, "content-encoding: br")], 502),
    "switching protocols": ([b"HTTP/1.1 101 Switching Protocols\r\n\r\n", Do.CLOSE], 502),
    "a web page": ([http(HTML.encode(), "content-type: text/html")], 502),
    "a web page as an error": ([http(HTML.encode(), status="500 Oops")], 502),
    "nothing": ([http(b"", JSON)], 502),
    "no content": ([b"HTTP/1.1 204 No Content\r\n\r\n"], 502),
    "not modified": ([b"HTTP/1.1 304 Not Modified\r\n\r\n"], 502),
    "a redirect": ([http(b"", "location: http://127.0.0.1:1/", status="302 Found")], 502),
    "an error cut short": (
        [b"HTTP/1.1 400 Bad Request\r\ncontent-length: 900\r\n\r\n{", Do.CLOSE],
        400,
    ),
    "an endless error": (
        [b"HTTP/1.1 400 Bad Request\r\n\r\n", *[b"x" * 2**16, 0.001] * 40, Do.CLOSE],
        400,
    ),
}


@both_ways
@pytest.mark.parametrize("kind", ["openai", "anthropic"])
@pytest.mark.parametrize(("script", "status"), BROKEN.values(), ids=BROKEN)
@on_each_loop
async def test_what_is_no_reply(script: Script, status: int, kind: str, is_stream: bool) -> None:
    good = [http(EVENTS, SSE)] if kind == "openai" else [http(NATIVE, JSON)]
    async with RawServer(script) as server, gateway(server, kind=kind, retries=0) as (client, log):
        reply = await client.ask(post(stream=is_stream))
        assert reply.status == status, reply.body
        assert check_error(reply.body)["message"]
        assert b"127.0.0.1" not in reply.body
        assert len(server.asked) == 1
        server.scripts[:] = [good]  # and life goes on
        if kind == "openai" or not is_stream:
            assert read(await client.ask(post(stream=is_stream))).text == "Hello"
        assert log.getvalue().count('"event":"request"') == len(server.asked)


@both_ways
@pytest.mark.parametrize("failure", [Do.CLOSE, Do.RESET])
@on_each_loop
async def test_a_reset_before_any_byte_is_tried_again(failure: Do, is_stream: bool) -> None:
    async with RawServer([failure], [http(EVENTS, SSE)]) as server, gateway(server) as (client, _):
        assert read(await client.ask(post(stream=is_stream))).text == "Hello"
        assert len(server.asked) == 2


@both_ways
@pytest.mark.parametrize("failure", [Do.CLOSE, Do.RESET])
@pytest.mark.parametrize("head", [b"H", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\n\r\n"])
@on_each_loop
async def test_one_after_a_byte_is_not(head: bytes, failure: Do, is_stream: bool) -> None:
    async with RawServer([head, 0.05, failure]) as server, gateway(server) as (client, _):
        reply = await client.ask(post(stream=is_stream))
        assert (reply.status, check_error(reply.body)["type"]) == (502, "api_error")
        assert len(server.asked) == 1


@both_ways
@on_each_loop
async def test_a_time_out_is_not_tried_again(is_stream: bool) -> None:
    async with (
        RawServer([Do.WAIT]) as server,
        gateway(server, first_byte_timeout_s=0.1, retries=5) as (client, _),
    ):
        reply = await client.ask(post(stream=is_stream))
        assert (reply.status, check_error(reply.body)["type"]) == (504, "timeout_error")
        assert len(server.asked) == 1


@pytest.mark.parametrize("how", [Do.CLOSE, Do.RESET, Do.WAIT])
@on_each_loop
async def test_a_stream_that_breaks_is_one_error_event(how: Do) -> None:
    begin = b"HTTP/1.1 200 OK\r\n\r\n" + chunk(content="Hel")
    async with (
        RawServer([begin, 0.02, how]) as server,
        gateway(server, idle_timeout_s=0.2) as (client, _),
    ):
        message = check_stream((await client.ask(post(stream=True))).body)
        assert message.error is not None
        assert message.content[0]["type"] == "text"
        assert len(server.asked) == 1
        reply: Reply = await client.ask(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert reply.status == 200  # the stream ended well, as far as HTTP goes


@on_each_loop
async def test_a_connection_that_went_stale_costs_nothing() -> None:
    async with (
        RawServer([http(EVENTS, SSE)]) as server,
        gateway(server, retries=0) as (client, _),
    ):
        for _ in range(3):
            assert read(await client.ask(post())).text == "Hello"
            server.drop_all()
        assert len(server.asked) == 3
