"""Calls given up in every phase, and receivers that do odd things in their callbacks."""

import asyncio
from typing import Any

import pytest

from dragoman.core.errors import (
    UpstreamUnavailable,
)
from dragoman.server.transport import dial
from dragoman.server.transport.http_upstream import HttpUpstream
from dragoman.server.transport.seams import Timeouts, UpstreamRequest
from support.loops import hang, on_each_loop, until
from support.raw_server import (
    CHUNKED,
    END,
    EVENT,
    HELLO,
    Do,
    RawServer,
    Script,
    server_tls,
    trusting,
)
from support.receivers import ASK, Recorder, opened, send

LARGE = UpstreamRequest(path="/", body=bytes(20 * 2**20))


async def ask(upstream: HttpUpstream) -> Recorder:
    return await send(upstream, ASK).over()


# -- abort


@pytest.mark.parametrize("step", ["_look_up", "_connect"])
@on_each_loop
async def test_abort_before_there_is_a_connection(
    step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with RawServer([HELLO]) as server, opened(server.url, max_connections=1) as upstream:
        for pause_s in (None, 0.02):
            with monkeypatch.context() as patch:
                patch.setattr(dial, step, hang)
                recorder = send(upstream, ASK)
                if pause_s is not None:
                    await asyncio.sleep(pause_s)
                recorder.abort()
                recorder.call.abort()
                assert (upstream.n_calls, upstream.n_connections) == (0, 0)
        assert (await ask(upstream)).body == b"hello"  # the slot is free again


@pytest.mark.parametrize("step", ["_look_up", "_connect"])
@on_each_loop
async def test_connecting_takes_no_longer_than_it_may(
    step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dial, step, hang)
    request = UpstreamRequest(path="/", timeouts=Timeouts(connect_s=0.1))
    async with opened("http://127.0.0.1:9", max_connections=1) as upstream:
        error = (await send(upstream, request).over()).error
        assert isinstance(error, UpstreamUnavailable)
        assert error.message == "The model's server could not be reached within 0.1 s."


@on_each_loop
async def test_abort_in_the_tls_handshake() -> None:
    async with (
        RawServer([Do.WAIT]) as server,
        opened(server.url.replace("http", "https")) as upstream,
    ):
        recorder = send(upstream, ASK)
        await until(lambda: server.n_open)
        await asyncio.sleep(0.02)
        recorder.abort()
        await until(lambda: not server.n_open)


PHASES: dict[str, tuple[UpstreamRequest, Script, str]] = {
    "writing": (LARGE, [0.1, Do.TAKE, Do.WAIT], "asked"),
    "waiting for the head": (ASK, [Do.WAIT], "asked"),
    "in the head": (ASK, [b"HTTP/1.1 200", Do.WAIT], "asked"),
    "after the head": (ASK, [CHUNKED, Do.WAIT], "head"),
    "in the body": (ASK, [CHUNKED + EVENT, Do.WAIT], "body"),
    "in a flood": (ASK, [CHUNKED, EVENT * 200_000, Do.WAIT], "body"),
}


@pytest.mark.parametrize("is_tls", [False, True], ids=["http", "https"])
@pytest.mark.parametrize("is_paused", [False, True], ids=["", "paused"])
@pytest.mark.parametrize("phase", PHASES)
@on_each_loop
async def test_abort_is_seen_by_the_server(phase: str, is_paused: bool, is_tls: bool) -> None:
    request, script, sign = PHASES[phase]
    tls = {"tls": server_tls()} if is_tls else {}
    async with (
        RawServer(script, early=phase == "writing", **tls) as server,
        opened(server.url, tls_context=trusting()) as upstream,
    ):
        recorder = send(upstream, request)
        signs = {
            "asked": lambda: server.asked,
            "head": lambda: recorder.status,
            "body": lambda: recorder.body,
        }
        await until(signs[sign])
        if is_paused:
            recorder.call.pause()
        recorder.abort()
        recorder.call.abort()
        recorder.call.pause()
        recorder.call.resume()
        assert (upstream.n_calls, upstream.n_connections) == (0, 0)
        loop = asyncio.get_running_loop()
        start_s = loop.time()
        await until(lambda: not server.n_open)
        assert loop.time() - start_s < 5
        assert not recorder.wrong


@on_each_loop
async def test_after_the_end_a_call_does_nothing() -> None:
    async with RawServer([HELLO]) as server, opened(server.url) as upstream:
        recorder = await ask(upstream)
        other = send(upstream, ASK)
        recorder.call.pause()
        recorder.abort()
        recorder.call.resume()
        assert (await other.over()).body == b"hello"  # on the connection that was the first one's
        assert server.n_accepted == 1


# -- receivers


EVENTS = ["on_head", "on_data", "on_end"]


@pytest.mark.parametrize("event", EVENTS)
@on_each_loop
async def test_a_receiver_may_abort(event: str) -> None:
    async with RawServer([CHUNKED + EVENT + END]) as server, opened(server.url) as upstream:
        recorder = send(upstream, ASK, **{event: Recorder.abort})
        await until(lambda: not upstream.n_calls)
        await asyncio.sleep(0.02)
        assert not recorder.wrong
        assert upstream.n_connections == (1 if event == "on_end" else 0)
        assert server.n_open == upstream.n_connections


@on_each_loop
async def test_a_receiver_may_abort_when_told_of_an_error() -> None:
    async with RawServer([Do.RESET]) as server, opened(server.url) as upstream:
        await send(upstream, ASK, on_error=Recorder.abort).over()


@pytest.mark.parametrize("event", EVENTS)
@on_each_loop
async def test_a_receiver_may_pause(event: str) -> None:
    script = [CHUNKED + EVENT, 0.05, EVENT + END]
    async with RawServer(script, [HELLO]) as server, opened(server.url) as upstream:
        recorder = send(upstream, ASK, **{event: lambda recorder: recorder.call.pause()})
        while not recorder.is_ended:
            await asyncio.sleep(0.1)
            recorder.call.resume()
        assert (await recorder.over()).body == b"data:1data:1"
        assert (await ask(upstream)).body == b"hello"  # the connection reads again
        assert server.n_accepted == 1


@on_each_loop
async def test_what_was_read_before_a_pause_is_delivered() -> None:
    async with (
        RawServer([CHUNKED + EVENT + END], [HELLO]) as server,
        opened(server.url) as upstream,
    ):
        recorder = send(upstream, ASK, on_head=lambda recorder: recorder.call.pause())
        assert (await recorder.over()).body == b"data:1"
        assert (await ask(upstream)).body == b"hello"
        assert server.n_accepted == 1


@pytest.mark.parametrize("event", EVENTS)
@on_each_loop
async def test_a_receiver_may_send(event: str) -> None:
    others: list[Recorder] = []
    async with (
        RawServer([CHUNKED + EVENT + END], [HELLO]) as server,
        opened(server.url) as upstream,
    ):
        recorder = send(upstream, ASK, **{event: lambda _: others.append(send(upstream, ASK))})
        assert (await recorder.over()).body == b"data:1"
        assert (await others[0].over()).body == b"hello"
        assert server.n_accepted == (1 if event == "on_end" else 2)


@pytest.mark.parametrize("event", ["on_head", "on_data", "on_end", "on_error"])
@on_each_loop
async def test_a_receiver_that_raises(event: str) -> None:
    def fail(recorder: Recorder) -> None:
        recorder.is_deaf = True
        raise ZeroDivisionError(event)

    reports: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reports.append(context))
    end = b"zz\r\n" if event == "on_error" else END
    async with (
        RawServer([CHUNKED + EVENT + end], [HELLO]) as server,
        opened(server.url) as upstream,
    ):
        recorder = send(upstream, ASK, **{event: fail})
        await until(lambda: reports)
        await until(lambda: server.n_open == (1 if event == "on_end" else 0))
        assert not recorder.wrong
        assert upstream.n_calls == 0
        assert (await ask(upstream)).body == b"hello"
    assert [str(report["exception"]) for report in reports] == [event]
