"""What becomes of calls that go wrong: no answer, half an answer, silence, garbage."""

import asyncio
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.core.errors import (
    UpstreamError,
    UpstreamProtocolError,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from dragoman.server.transport import dial
from dragoman.server.transport.seams import Timeouts, UpstreamRequest
from support.loops import on_each_loop, until
from support.raw_server import (
    CHUNKED,
    END,
    EVENT,
    HELLO,
    OK,
    Do,
    RawServer,
    Script,
)
from support.receivers import ASK, Recorder, opened, send

EVENTS = [EVENT, b"6\r\ndata:2\r\n", END]
QUICK_START = Timeouts(first_byte_s=0.15, idle_s=20)
STEADY = Timeouts(first_byte_s=20, idle_s=0.3)


async def ask(server: RawServer, request: UpstreamRequest = ASK, **options: object) -> Recorder:
    """Send one request with a new upstream and return what came of it."""
    async with opened(server.url, **options) as upstream:
        return await send(upstream, request).over()


def show(error: UpstreamError | None) -> str:
    """Return the message for the client, which tells nothing about the network or the key."""
    assert error is not None
    assert not any(word in error.message for word in ("127.0.0.1", "localhost", "::1", "Errno"))
    return error.message


# -- failures


@on_each_loop
async def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    async with opened(f"http://127.0.0.1:{port}") as upstream:
        error = (await send(upstream, ASK).over()).error
        assert isinstance(error, UpstreamUnavailable)
        assert show(error) == "The model's server refused the connection."
        assert str(port) in error.log_detail


@on_each_loop
async def test_a_name_that_nobody_has(monkeypatch: pytest.MonkeyPatch) -> None:
    async def look_up(_: object) -> list[dial.Row]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(dial, "_look_up", look_up)
    async with opened("http://nobody.invalid") as upstream:
        error = (await send(upstream, ASK).over()).error
        assert isinstance(error, UpstreamUnavailable)
        assert show(error) == "The host of the model's server cannot be found."
        assert "nobody.invalid" in error.log_detail


@pytest.mark.parametrize("end", [Do.CLOSE, Do.END, Do.RESET])
@on_each_loop
async def test_no_answer_at_all(end: Do) -> None:
    async with RawServer([end]) as server:
        error = (await ask(server)).error
        assert isinstance(error, UpstreamUnavailable)
        assert show(error) == "The model's server closed the connection without an answer."
        assert len(server.asked) == 1  # on a fresh connection it is not a stale one's fault


@pytest.mark.parametrize("end", [Do.CLOSE, Do.RESET])
@on_each_loop
async def test_closed_before_anything_was_asked(end: Do) -> None:
    async with RawServer([HELLO], greeting=[end]) as server:
        error = (await ask(server)).error
        assert isinstance(error, UpstreamUnavailable)
        show(error)


@pytest.mark.parametrize("end", [Do.CLOSE, Do.END, Do.RESET])
@pytest.mark.parametrize(
    ("reply", "body"),
    [
        (b"H", b""),
        (b"HTTP/1.1 200 OK\r\ncontent-le", b""),
        (HELLO[:-2], b"hel"),
        (CHUNKED + EVENTS[0], b"data:1"),
        (CHUNKED + EVENTS[0] + b"0\r\n", b"data:1"),
    ],
)
@on_each_loop
async def test_the_end_in_the_middle(end: Do, reply: bytes, body: bytes) -> None:
    async with RawServer([reply, 0.05, end]) as server:
        recorder = await ask(server)
        assert isinstance(recorder.error, UpstreamProtocolError)
        assert "in the middle of its reply" in show(recorder.error)
        assert recorder.body == body


@on_each_loop
async def test_a_reset_is_no_end_of_a_body() -> None:
    async with RawServer([OK + b"\r\nhello", 0.05, Do.RESET]) as server:
        assert isinstance((await ask(server)).error, UpstreamProtocolError)


@pytest.mark.parametrize(
    ("reply", "body", "words"),
    [
        (b"SSH-2.0-OpenSSH\r\n", b"", "not valid HTTP"),
        (OK + b"x: " + b"y" * 2000, b"", "oversized headers"),
        (OK + b"content-encoding: br\r\ncontent-length: 1\r\n\r\nx", b"", "content-encoding"),
        (CHUNKED + EVENTS[0] + b"zz\r\n", b"data:1", "not valid HTTP"),
        (CHUNKED + EVENTS[0] + b"64\r\n" + b"x" * 100, b"", "too large"),
    ],
)
@on_each_loop
async def test_broken_replies(reply: bytes, body: bytes, words: str) -> None:
    request = UpstreamRequest(path="/", max_body_bytes=100)
    async with RawServer([reply, Do.WAIT]) as server:
        recorder = await ask(server, request, max_header_bytes=1000)
        assert isinstance(recorder.error, UpstreamProtocolError)
        assert words in show(recorder.error)
        assert recorder.body == body
        await until(lambda: not server.n_open)


# -- silence


@pytest.mark.parametrize(
    ("script", "timeouts", "message"),
    [
        ([Do.WAIT], QUICK_START, "did not begin to answer within 0.15 s"),
        ([b"H", Do.WAIT], STEADY, "sent nothing for 0.3 s in mid-reply"),
        ([CHUNKED, Do.WAIT], STEADY, "sent nothing for 0.3 s in mid-reply"),
        ([CHUNKED + EVENT, Do.WAIT], STEADY, "sent nothing for 0.3 s in mid-reply"),
    ],
)
@on_each_loop
async def test_silence(script: Script, timeouts: Timeouts, message: str) -> None:
    request = UpstreamRequest(path="/", timeouts=timeouts)
    async with RawServer(script) as server:
        loop = asyncio.get_running_loop()
        start_s = loop.time()
        error = (await ask(server, request)).error
        assert isinstance(error, UpstreamTimeout)
        assert message in show(error)
        assert loop.time() - start_s > 0.14
        await until(lambda: not server.n_open)


@on_each_loop
async def test_slow_is_not_silent() -> None:
    timeouts = Timeouts(first_byte_s=1, idle_s=1)
    pauses: list[bytes | float] = [step for event in EVENTS for step in (0.3, event)]
    script = [0.3, CHUNKED, *pauses]
    async with RawServer(script) as server:
        recorder = await ask(server, UpstreamRequest(path="/", timeouts=timeouts))
        assert recorder.body == b"data:1data:2"


@on_each_loop
async def test_the_time_before_the_first_byte_is_its_own() -> None:
    timeouts = Timeouts(first_byte_s=20, idle_s=0.1)
    async with RawServer([0.4, HELLO]) as server:
        recorder = await ask(server, UpstreamRequest(path="/", timeouts=timeouts))
        assert recorder.is_ended


@on_each_loop
async def test_a_request_that_is_not_taken() -> None:
    timeouts = Timeouts(first_byte_s=20, idle_s=0.15)
    request = UpstreamRequest(path="/", body=bytes(20 * 2**20), timeouts=timeouts)
    async with RawServer([Do.WAIT], early=True) as server:
        error = (await ask(server, request)).error
        assert isinstance(error, UpstreamTimeout)
        assert "took nothing of the request" in show(error)


@on_each_loop
async def test_writing_a_long_request_is_not_the_silence_of_the_server() -> None:
    timeouts = Timeouts(first_byte_s=0.3, idle_s=20)
    request = UpstreamRequest(path="/", body=bytes(20 * 2**20), timeouts=timeouts)
    script = [0.6, Do.TAKE, Do.WAIT]
    async with RawServer(script, early=True) as server:
        loop = asyncio.get_running_loop()
        start_s = loop.time()
        error = (await ask(server, request)).error
        assert "did not begin to answer within 0.3 s" in show(error)
        assert loop.time() - start_s > 0.85


@on_each_loop
async def test_a_pause_is_not_silence() -> None:
    request = UpstreamRequest(path="/", timeouts=STEADY)
    script = [CHUNKED + EVENTS[0], 0.05, EVENTS[1] + EVENTS[2]]
    async with RawServer(script) as server, opened(server.url) as upstream:

        def pause(recorder: Recorder) -> None:
            assert recorder.call is not None
            recorder.call.pause()

        recorder = send(upstream, request, on_head=pause)
        await until(lambda: recorder.body)
        await asyncio.sleep(0.6)
        assert recorder.body == b"data:1"  # what was read with the head, and nothing after it
        recorder.call.resume()
        await recorder.over()
        assert recorder.body == b"data:1data:2"
        assert upstream.n_idle == 1


@on_each_loop
async def test_silence_after_a_pause_counts() -> None:
    request = UpstreamRequest(path="/", timeouts=STEADY)
    async with RawServer([CHUNKED, Do.WAIT]) as server, opened(server.url) as upstream:
        recorder = send(upstream, request, on_head=lambda recorder: recorder.call.pause())
        await until(lambda: recorder.status)
        recorder.call.pause()
        await asyncio.sleep(0.6)
        assert recorder.error is None
        recorder.call.resume()
        recorder.call.resume()
        assert isinstance((await recorder.over()).error, UpstreamTimeout)


# -- anything else a server may say


@given(
    st.lists(st.binary(max_size=40), min_size=1, max_size=4),
    st.sampled_from([b"", OK, CHUNKED, HELLO[:-5], CHUNKED + EVENTS[0]]),
    st.sampled_from([Do.CLOSE, Do.RESET]),
)
def test_garbage_becomes_an_upstream_error(pieces: list[bytes], start: bytes, end: Do) -> None:
    async def main() -> None:
        async with RawServer([start, *pieces, end]) as server:
            recorder = await ask(server)
            assert recorder.is_ended or isinstance(recorder.error, UpstreamError)

    asyncio.run(main())
