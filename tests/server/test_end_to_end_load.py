"""The real process between real sockets: many clients, slow clients, a long life, and its end."""

import asyncio
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.chat_script import hang, refuse, say
from support.gateway import GatewayProcess
from support.sockets import Site, open_site, post, read
from support.sse_grammar import check_error, check_stream

MANY = 200
ROUNDS = 4000
# What writes to the store is loaded with the first records: 25 MB, and once.
FIRST_WRITE_S = 4.0


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Iterator[Site]:
    with open_site(tmp_path_factory.mktemp("site")) as site:
        yield site


def test_many_streams_at_once(site: Site) -> None:
    site.upstream.script(say("Hello, ", "world", delay_s=0.2, times=-1))

    async def one(number: int) -> str:
        messages = [{"role": "user", "content": f"number {number}"}]
        reply = await site.ask(post(stream=bool(number % 4), messages=messages))
        return read(reply).text

    async def main() -> list[str]:
        async with asyncio.timeout(120):
            return await asyncio.gather(*(one(number) for number in range(MANY)))

    assert asyncio.run(main()) == ["Hello, world"] * MANY
    asked = {recorded.messages[-1]["content"] for recorded in site.upstream.requests}
    assert asked == {f"number {number}" for number in range(MANY)}
    site.upstream.wait_idle(20)


def test_many_clients_that_leave_at_once(site: Site) -> None:
    site.upstream.script(hang(times=-1))

    async def one() -> None:
        async with site.client() as client:
            await client.send(post(stream=True))
            await asyncio.to_thread(site.upstream.wait_request, MANY, 60)

    async def main() -> None:
        before = len(site.records())
        async with asyncio.timeout(120):
            await asyncio.gather(*(one() for _ in range(MANY)))
        await site.next_record(before + MANY - 1)

    asyncio.run(main())
    for recorded in site.upstream.requests:
        assert recorded.wait_gone(20)
    assert site.upstream.open_calls == 0


def test_a_long_life_does_not_fatten(site: Site) -> None:
    site.upstream.script(
        say("Hello " * 20, any_has="well", times=-1),
        refuse(400, "no", any_has="refused", times=-1),
        say("Hello", any_has="broken", eof_after=2, times=-1),
    )

    async def worker(numbers: Iterator[int]) -> None:
        async with site.client() as client:
            for number in numbers:
                kind = ("well", "refused", "well", "broken")[number % 4]
                messages = [{"role": "user", "content": f"{kind} {number} " + "word " * 2000}]
                reply = await client.ask(post(stream=bool(number % 3), messages=messages))
                assert reply.status in (200, 400, 502)
                assert not reply.is_cut

    async def play(rounds: int) -> None:
        numbers = iter(range(rounds))
        async with asyncio.timeout(300):
            await asyncio.gather(*(worker(numbers) for _ in range(8)))
        site.upstream.requests.clear()

    asyncio.run(play(ROUNDS // 4))
    time.sleep(FIRST_WRITE_S)
    before = site.resident_bytes()
    asyncio.run(play(ROUNDS))
    # A leak of 4 kB in each, and a request has 10 kB, would show.
    assert site.resident_bytes() - before < 15 * 2**20


class Flood:
    """An upstream that writes as fast as it is read from, and counts what it got rid of."""

    def __init__(self) -> None:
        self.sent_bytes = 0
        self.is_gone = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        if request.startswith(b"GET"):
            writer.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")
            writer.close()
            return
        text = json.dumps({"choices": [{"index": 0, "delta": {"content": "x" * 60_000}}]})
        event = f"data: {text}\n\n".encode()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")
        try:
            while True:
                writer.write(event)
                await writer.drain()
                self.sent_bytes += len(event)
        except OSError:
            self.is_gone.set()
        finally:
            writer.close()


def test_a_client_that_does_not_read_stops_the_upstream(tmp_path: Path) -> None:
    config = (
        '[upstreams.lab]\nbase_url = "http://127.0.0.1:{port}/v1"\n[models.m]\nupstream = "lab"\n'
    )

    async def main() -> None:
        flood = Flood()
        server = await asyncio.start_server(flood.serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        gateway = GatewayProcess(tmp_path, config=config.format(port=port))
        await asyncio.to_thread(gateway.__enter__)
        try:
            await read_nothing(gateway, flood)
        finally:
            server.close()
            assert await asyncio.to_thread(gateway.stop) == 0

    asyncio.run(main())


async def read_nothing(gateway: GatewayProcess, flood: Flood) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port, limit=2**16)
    writer.write(post(stream=True))
    sent = -1
    async with asyncio.timeout(60):
        while sent != flood.sent_bytes or not sent:  # until it has come to a halt
            sent = flood.sent_bytes
            await asyncio.sleep(1.0)
    assert sent < 32 * 2**20  # what sockets of loopback hold; the reply's own bound is higher
    assert (await reader.read(2**16)).startswith(b"HTTP/1.1 200 OK")
    writer.close()
    await asyncio.wait_for(flood.is_gone.wait(), 20)


@pytest.mark.parametrize("is_stream", [True, False], ids=["streamed", "whole"])
def test_a_signal_lets_replies_finish(tmp_path: Path, is_stream: bool) -> None:
    async def main(site: Site) -> None:
        async with site.client() as client, site.client() as idle:
            await idle.send(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
            assert (await idle.reply()).status == 200
            await client.send(post(stream=is_stream))
            await asyncio.to_thread(site.upstream.wait_request, 1, 20)
            os.kill(site.gateway.pid, signal.SIGTERM)
            assert await idle.rest() == b""  # closed at once
            await refuses_connections(site)
            reply = await client.reply()
            message = read(reply)
            assert message.text == "Hello, world, and all that is in it"
            assert reply.headers.get(b"connection") == b"close" or is_stream
            assert await client.rest() == b""
        assert await asyncio.to_thread(site.gateway.wait) == 0

    with open_site(tmp_path) as site:
        site.upstream.script(say("Hello, world, and all that is in it", delay_s=0.3))
        asyncio.run(main(site))


async def refuses_connections(site: Site) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                async with site.client() as late:
                    await late.rest()
            except OSError:
                return
            await asyncio.sleep(0.02)


def test_what_takes_too_long_is_cut_in_the_end(tmp_path: Path) -> None:
    async def main(site: Site) -> None:
        async with site.client() as client:
            await client.send(post(stream=True))
            await asyncio.to_thread(site.upstream.wait_request, 1, 20)
            assert await asyncio.to_thread(site.gateway.stop) == 0
            reply = await client.reply()
            error = check_stream(reply.body).error
            assert error == {
                "type": "overloaded_error",
                "message": "the gateway is stopping; try again",
            }
        (record,) = [r for r in site.records() if r["path"] == "/v1/messages"]
        assert (record["status"], record["error"]) == (200, "stopped")

    with open_site(tmp_path, DRAGOMAN_SERVER_SHUTDOWN_TIMEOUT_S="0.5") as site:
        site.upstream.script(say("Hello", silent_after=2))
        asyncio.run(main(site))
        assert site.upstream.requests[0].wait_gone(10)


def test_who_waits_is_sent_away_as_soon_as_it_stops(tmp_path: Path) -> None:
    async def main(site: Site) -> None:
        waiting = [post(), post(stream=True), post(path="/v1/messages/count_tokens")]
        async with site.client() as client:
            await client.send(post(stream=True))
            await asyncio.to_thread(site.upstream.wait_request, 1, 20)
            asking = [asyncio.create_task(site.ask(request)) for request in waiting]
            await has_in_line(site, len(waiting))
            os.kill(site.gateway.pid, signal.SIGTERM)
            for reply in await asyncio.gather(*asking):
                assert (reply.status, reply.headers[b"retry-after"]) == (529, b"1")
                assert check_error(reply.body)["message"] == "the gateway is stopping; try again"
            assert site.upstream.open_calls == 1
            assert read(await client.reply()).text == "Hello"  # who is at work goes on
        assert await asyncio.to_thread(site.gateway.wait) == 0

    env = {
        "DRAGOMAN_SERVER_MAX_CONCURRENT_REQUESTS": "1",
        "DRAGOMAN_SERVER_EARLY_START_S": "0",  # else a stream in line has begun, and gets an event
    }
    with open_site(tmp_path, **env) as site:
        site.upstream.script(say("Hello", head_delay_s=3.0))
        asyncio.run(main(site))


async def has_in_line(site: Site, n: int) -> None:
    """Wait until so many requests wait for a place of the gateway."""
    shown = f'dragoman_requests_waiting{{upstream=""}} {n}.0\n'.encode()
    ask = b"GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n"
    async with asyncio.timeout(20):
        while shown not in (await site.ask(ask)).body:  # noqa: ASYNC110 - the process tells nobody
            await asyncio.sleep(0.05)


def test_more_than_the_maximum_at_once_are_told_to_come_back(tmp_path: Path) -> None:
    async def main(site: Site) -> None:
        async with site.client() as one, site.client() as two:
            for client in (one, two):
                await client.send(post(stream=True))
            await asyncio.to_thread(site.upstream.wait_request, 2, 20)
            for request in (post(), post(path="/v1/messages/count_tokens")):
                reply = await site.ask(request)
                assert (reply.status, check_error(reply.body)["type"]) == (529, "overloaded_error")
                assert int(reply.headers[b"retry-after"]) >= 1
        site.upstream.script(say("Hello", times=-1))
        async with asyncio.timeout(20):
            while (reply := await site.ask(post())).status == 529:  # noqa: ASYNC110 - to be asked
                await asyncio.sleep(0.02)
        assert read(reply).text == "Hello"

    full = {
        "DRAGOMAN_SERVER_MAX_CONCURRENT_REQUESTS": "2",
        "DRAGOMAN_SERVER_MAX_WAITING_REQUESTS": "0",
    }
    with open_site(tmp_path, **full) as site:
        site.upstream.script(hang(times=-1))
        asyncio.run(main(site))
