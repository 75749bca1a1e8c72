"""Connections used again, bounded, waited for; addresses, and the end."""

import asyncio
import itertools
import socket
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dragoman.core.errors import (
    UpstreamError,
    UpstreamOverloaded,
    UpstreamProtocolError,
    UpstreamUnavailable,
)
from dragoman.server.transport import dial, pool
from dragoman.server.transport.http_upstream import HttpUpstream
from dragoman.server.transport.seams import Timeouts, UpstreamRequest
from support.loops import LOOPS, hang, on_each_loop, until
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


async def ask(upstream: HttpUpstream) -> Recorder:
    return await send(upstream, ASK).over()


# -- use again


@on_each_loop
async def test_a_connection_is_used_again() -> None:
    async with RawServer([HELLO]) as server, opened(server.url) as upstream:
        for _ in range(5):
            assert (await ask(upstream)).body == b"hello"
            assert (upstream.n_connections, upstream.n_idle, upstream.n_calls) == (1, 1, 0)
        assert [asked.connection for asked in server.asked] == [1] * 5


@on_each_loop
async def test_the_last_one_used_is_the_next_one_used() -> None:
    ends = asyncio.Event(), asyncio.Event()
    scripts = [[CHUNKED, end, END] for end in ends]
    async with RawServer(*scripts, [HELLO]) as server, opened(server.url) as upstream:
        first = send(upstream, ASK)
        await until(lambda: first.status)  # on a busy machine two connections may overtake
        second = send(upstream, ASK)
        await until(lambda: second.status)
        for call, end in zip((first, second), ends, strict=True):
            end.set()
            await call.over()
        assert upstream.n_idle == 2
        for _ in range(3):
            await ask(upstream)
        numbers = [asked.connection for asked in server.asked]
        assert numbers[2:] == [numbers[1]] * 3


@pytest.mark.parametrize(
    "reply",
    [
        OK + b"connection: close\r\ncontent-length: 5\r\n\r\nhello",
        OK + b"Connection: Keep-Alive, Close\r\ncontent-length: 5\r\n\r\nhello",
        b"HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\nhello",
        HELLO + b"!",
        HELLO + HELLO,
        OK + b"keep-alive: timeout=1\r\ncontent-length: 5\r\n\r\nhello",
    ],
)
@on_each_loop
async def test_connections_that_are_not_used_again(reply: bytes) -> None:
    async with RawServer([reply, Do.WAIT]) as server, opened(server.url) as upstream:
        for n_accepted in (1, 2):
            assert (await ask(upstream)).body == b"hello"
            assert upstream.n_connections == 0
            assert server.n_accepted == n_accepted
            await until(lambda: not server.n_open)


@on_each_loop
async def test_a_late_byte_spoils_an_idle_connection() -> None:
    async with RawServer([HELLO, 0.02, b"\r\n", Do.WAIT]) as server, opened(server.url) as upstream:
        await ask(upstream)
        assert upstream.n_idle == 1
        await until(lambda: not server.n_open)
        assert upstream.n_connections == 0


@pytest.mark.parametrize("end", [Do.CLOSE, Do.END, Do.RESET])
@on_each_loop
async def test_a_connection_closed_while_idle_is_not_used(end: Do) -> None:
    async with RawServer([HELLO, 0.02, end]) as server, opened(server.url) as upstream:
        for n_accepted in (1, 2):
            await ask(upstream)
            await until(lambda: not upstream.n_connections)
            assert (server.n_accepted, len(server.asked)) == (n_accepted, n_accepted)


@on_each_loop
async def test_idle_connections_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "_IDLE_S", 0.5)
    async with RawServer([HELLO]) as server, opened(server.url) as upstream:
        for _ in range(3):
            await ask(upstream)
            await asyncio.sleep(0.2)
        assert (upstream.n_idle, server.n_accepted) == (1, 1)
        await until(lambda: not server.n_open)
        assert upstream.n_connections == 0


@on_each_loop
async def test_the_server_says_how_long_it_waits() -> None:
    keep = OK + b"keep-alive: timeout=2\r\ncontent-length: 0\r\n\r\n"
    async with RawServer([keep]) as server, opened(server.url) as upstream:
        loop = asyncio.get_running_loop()
        await ask(upstream)
        start_s = loop.time()
        await until(lambda: not server.n_open)
        assert 0.9 < loop.time() - start_s < 20  # a second before the server would do it


@on_each_loop
async def test_idle_connections_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "_MAX_IDLE", 2)
    async with RawServer([CHUNKED, 0.1, END]) as server, opened(server.url) as upstream:
        recorders = [send(upstream, ASK) for _ in range(5)]
        for recorder in recorders:
            await recorder.over()
        assert (upstream.n_connections, upstream.n_idle) == (2, 2)
        await until(lambda: server.n_open == 2)


@pytest.mark.parametrize("end", [Do.CLOSE, Do.END, Do.RESET])
@on_each_loop
async def test_a_request_on_a_stale_connection_is_sent_again(end: Do) -> None:
    async with RawServer([HELLO], [end], [HELLO]) as server, opened(server.url) as upstream:
        await ask(upstream)
        recorder = await ask(upstream)
        assert (recorder.error, recorder.body) == (None, b"hello")
        assert [asked.connection for asked in server.asked] == [1, 1, 2]
        assert server.asked[1].body == server.asked[2].body == ASK.body
        assert (upstream.n_connections, upstream.n_idle) == (1, 1)


@on_each_loop
async def test_a_server_that_restarts_costs_no_call() -> None:
    async with (
        RawServer([CHUNKED, 0.1, END]) as server,
        opened(server.url, max_connections=3) as upstream,
    ):
        for _ in range(3):
            recorders = [send(upstream, ASK) for _ in range(5)]
            for recorder in recorders:
                assert (await recorder.over()).error is None
            assert upstream.n_idle == 3
            server.drop_all()  # and nobody has seen it when the next calls are sent


@on_each_loop
async def test_it_is_sent_again_only_once() -> None:
    async with RawServer([HELLO], [Do.RESET]) as server, opened(server.url) as upstream:
        await ask(upstream)
        error = (await ask(upstream)).error
        assert isinstance(error, UpstreamUnavailable)
        assert len(server.asked) == 3


@on_each_loop
async def test_it_is_not_sent_again_once_an_answer_has_begun() -> None:
    async with (
        RawServer([HELLO], [b"H", 0.02, Do.CLOSE]) as server,
        opened(server.url) as upstream,
    ):
        await ask(upstream)
        assert isinstance((await ask(upstream)).error, UpstreamProtocolError)
        assert len(server.asked) == 2


@on_each_loop
async def test_a_call_that_is_sent_again_can_be_aborted_and_paused() -> None:
    scripts: list[Script] = [[HELLO], [0.05, Do.RESET], [HELLO, 0.02], [0.05, Do.RESET], [Do.WAIT]]
    async with RawServer(*scripts) as server, opened(server.url) as upstream:
        await ask(upstream)
        recorder = send(upstream, ASK)
        recorder.call.pause()
        await until(lambda: len(server.asked) == 2)
        await asyncio.sleep(0.1)
        assert not recorder.status
        recorder.call.resume()
        assert (await recorder.over()).body == b"hello"
        recorder = send(upstream, ASK)
        await until(lambda: len(server.asked) == 5)
        recorder.abort()
        await until(lambda: not server.n_open)
        assert not recorder.wrong


@on_each_loop
async def test_an_idle_connection_about_to_be_closed_is_not_used() -> None:
    async with RawServer([HELLO]) as server, opened(server.url) as upstream:
        await ask(upstream)
        (idle,) = upstream._pool._idle
        idle._transport.abort()
        assert (await ask(upstream)).body == b"hello"
        assert [asked.connection for asked in server.asked] == [1, 2]


@on_each_loop
async def test_a_connection_closed_as_soon_as_open(monkeypatch: pytest.MonkeyPatch) -> None:
    really_open = dial.Dialer.open

    async def open_and_lose(dialer: dial.Dialer, connection: Any) -> None:
        await really_open(dialer, connection)
        connection._transport.abort()

    monkeypatch.setattr(dial.Dialer, "open", open_and_lose)
    async with (
        RawServer([HELLO]) as server,
        opened(server.url, max_connections=1) as upstream,
    ):
        for _ in range(2):
            assert isinstance((await ask(upstream)).error, UpstreamUnavailable)
        assert not server.asked


@on_each_loop
async def test_a_call_given_up_while_its_connection_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    really_open = pool.Pool.open

    def open_and_give_up(of: pool.Pool, connection: Any) -> None:
        really_open(of, connection)
        for call, (_, opening) in [*of._dials.items()]:
            if opening is connection:
                call.abort()

    monkeypatch.setattr(pool.Pool, "open", open_and_give_up)
    async with RawServer([HELLO]) as server, opened(server.url) as upstream:
        for _ in range(3):
            send(upstream, ASK)
        await until(lambda: server.n_accepted == 3)
        await until(lambda: not upstream._pool._sockets, limit_s=2)
        assert (upstream.n_connections, upstream.n_calls) == (0, 0)


# -- bounds


@on_each_loop
async def test_connections_are_bounded_and_calls_wait_in_line() -> None:
    order: list[int] = []
    async with (
        RawServer([CHUNKED, 0.02, END]) as server,
        opened(server.url, max_connections=2) as upstream,
    ):
        recorders = [
            send(upstream, ASK, on_end=lambda _, n=number: order.append(n)) for number in range(7)
        ]
        assert (upstream.n_connections, upstream.n_calls) == (2, 7)
        for recorder in recorders:
            assert (await recorder.over()).error is None
        assert server.n_accepted == 2
    pairs = [{0, 1}, {2, 3}, {4, 5}, {6}]
    assert [set(pair) for pair in (order[:2], order[2:4], order[4:6], order[6:])] == pairs


@on_each_loop
async def test_waiting_takes_no_longer_than_connecting_may() -> None:
    waits = UpstreamRequest(path="/", timeouts=Timeouts(connect_s=0.1))
    async with (
        RawServer([Do.WAIT]) as server,
        opened(server.url, max_connections=1) as upstream,
    ):
        busy = send(upstream, ASK)
        await until(lambda: server.asked)
        error = (await send(upstream, waits).over()).error
        assert isinstance(error, UpstreamOverloaded)
        assert error.message.endswith("became free within 0.1 s. Try again.")
        busy.abort()


@on_each_loop
async def test_who_waits_gets_the_place_of_one_that_failed() -> None:
    script: list[Script] = [[Do.RESET], [b"garbage\r\n"], [HELLO]]
    async with RawServer(*script) as server, opened(server.url, max_connections=1) as upstream:
        recorders = [send(upstream, ASK) for _ in range(4)]
        for recorder in recorders:
            await recorder.over()
        kinds = [type(recorder.error) for recorder in recorders]
        assert kinds == [UpstreamUnavailable, UpstreamProtocolError, type(None), type(None)]
        assert server.n_accepted == 3


@on_each_loop
async def test_who_waits_gets_the_place_of_one_that_could_not_connect() -> None:
    async with opened("http://127.0.0.1:1", max_connections=1) as upstream:
        recorders = [send(upstream, ASK) for _ in range(3)]
        for recorder in recorders:
            assert isinstance((await recorder.over()).error, UpstreamUnavailable)


@on_each_loop
async def test_who_waits_can_leave() -> None:
    async with (
        RawServer([CHUNKED, 0.05, END]) as server,
        opened(server.url, max_connections=1) as upstream,
    ):
        recorders = [send(upstream, ASK) for _ in range(4)]
        recorders[1].abort()
        recorders[2].abort()
        assert upstream.n_calls == 2
        assert (await recorders[3].over()).is_ended
        assert len(server.asked) == 2


# -- close


@on_each_loop
async def test_close_ends_everything() -> None:
    scripts: list[Script] = [[HELLO], [CHUNKED, Do.WAIT]]
    async with RawServer(*scripts) as server:
        upstream = HttpUpstream(server.url, max_connections=2)
        await ask(upstream)
        recorders = [send(upstream, ASK) for _ in range(5)]
        await until(lambda: len(server.asked) == 3)
        await upstream.close()
        assert (upstream.n_calls, upstream.n_connections, upstream.n_idle) == (0, 0, 0)
        for recorder in recorders:
            error = (await recorder.over()).error
            assert isinstance(error, UpstreamUnavailable)
            assert error.message == "The gateway is shutting down."
        await until(lambda: not server.n_open)
        late = await ask(upstream)
        assert isinstance(late.error, UpstreamUnavailable)
        await upstream.close()


@on_each_loop
async def test_close_while_connecting() -> None:
    async with RawServer([HELLO]) as server:
        for url in (server.url, server.url.replace("http", "https"), "http://127.0.0.1:1"):
            for pause_s in (0, 0.02):
                upstream = HttpUpstream(url)
                recorder = send(upstream, ASK)
                await asyncio.sleep(pause_s)
                await upstream.close()
                await recorder.over()
                assert upstream.n_connections == 0


# -- addresses


@on_each_loop
async def test_addresses_are_tried_until_one_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dial, "_NEXT_ATTEMPT_S", 0.02)
    real_connect = dial._connect

    async def connect(row: dial.Row) -> Any:
        if row[1][0] == "hangs":
            await hang()
        return await real_connect(row)

    async with RawServer([HELLO]) as server:
        family = socket.AF_INET
        good, refused = ("127.0.0.1", server.port), ("127.0.0.1", 1)
        hangs = ("hangs", 0)
        monkeypatch.setattr(dial, "_connect", connect)
        for addresses in itertools.permutations([good, refused, hangs]):
            rows = [(family, address) for address in addresses]

            async def look_up(_: object, rows: list[dial.Row] = rows) -> list[dial.Row]:
                return rows

            monkeypatch.setattr(dial, "_look_up", look_up)
            async with opened("http://a.example") as upstream:
                assert (await ask(upstream)).body == b"hello"
        monkeypatch.setattr(dial, "_look_up", lambda _: look_up(_, [(family, refused)] * 2))
        async with opened("http://a.example") as upstream:
            assert isinstance((await ask(upstream)).error, UpstreamUnavailable)


@on_each_loop
async def test_abort_in_a_race_of_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dial, "_NEXT_ATTEMPT_S", 0.01)
    monkeypatch.setattr(dial, "_connect", hang)

    async def look_up(_: object) -> list[dial.Row]:
        return [(socket.AF_INET, ("127.0.0.1", port)) for port in (1, 2, 3)]

    monkeypatch.setattr(dial, "_look_up", look_up)
    async with opened("http://a.example") as upstream:
        recorder = send(upstream, ASK)
        await asyncio.sleep(0.1)
        recorder.abort()


@on_each_loop
async def test_one_address_wins_and_the_others_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dial, "_NEXT_ATTEMPT_S", 0.01)
    both_wait = asyncio.Barrier(2)
    made: list[socket.socket] = []

    async def connect(_: dial.Row) -> socket.socket:
        await both_wait.wait()
        made.append(socket.create_connection(("127.0.0.1", server.port)))
        return made[-1]

    async def look_up(_: object) -> list[dial.Row]:
        return [(socket.AF_INET, ("127.0.0.1", number)) for number in (1, 2)]

    monkeypatch.setattr(dial, "_connect", connect)
    monkeypatch.setattr(dial, "_look_up", look_up)
    async with RawServer([HELLO]) as server, opened("http://a.example") as upstream:
        assert (await ask(upstream)).body == b"hello"
        await until(lambda: server.n_accepted == 2 and server.n_open == 1)
        assert sorted(sock.fileno() == -1 for sock in made) == [False, True]


def test_families_alternate() -> None:
    four, six = socket.AF_INET, socket.AF_INET6
    rows = [(six, 1), (six, 2), (six, 3), (four, 4), (four, 5)]
    assert [row[1] for row in dial._interleave(rows)] == [1, 4, 2, 5, 3]


@on_each_loop
async def test_a_bug_while_connecting_costs_no_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    async def look_up(_: object) -> list[dial.Row]:
        raise ZeroDivisionError

    reports: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reports.append(context))
    monkeypatch.setattr(dial, "_look_up", look_up)
    async with opened("http://a.example", max_connections=1) as upstream:
        for n_reports in (1, 2):
            assert isinstance((await ask(upstream)).error, UpstreamUnavailable)
            assert len(reports) == n_reports


# -- the law: nothing is lost, whatever happens in whatever order


SCRIPTS = st.sampled_from(
    [
        *([HELLO], [CHUNKED + EVENT, 0.01, END], [Do.RESET], [Do.CLOSE], [HELLO, Do.CLOSE]),
        *([HELLO + b"!"], [CHUNKED + EVENT, Do.RESET], [b"garbage"], [Do.WAIT], [CHUNKED, Do.WAIT]),
    ]
)
STEPS = st.sampled_from(["send", "send", "abort", "pause", "resume", "yield", "rest", "restart"])


@settings(max_examples=60)
@given(
    st.lists(SCRIPTS, min_size=1, max_size=8),
    st.lists(st.tuples(STEPS, st.integers(0, 9)), max_size=25),
    st.sampled_from(sorted(LOOPS)),
)
def test_nothing_is_lost(scripts: list[Script], steps: list[tuple[str, int]], loop: str) -> None:
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(play([*scripts, [HELLO]], steps))


async def play(scripts: list[Script], steps: list[tuple[str, int]]) -> None:
    request = UpstreamRequest(path="/", body=b"{}", timeouts=Timeouts(2, 0.1, 0.1))
    async with RawServer(*scripts) as server, opened(server.url, max_connections=2) as upstream:
        recorders = [send(upstream, request)]
        for step, number in steps:
            recorder = recorders[number % len(recorders)]
            if step == "send":
                recorders.append(send(upstream, request))
            elif step == "restart":
                server.drop_all()
            elif step in {"yield", "rest"}:
                await asyncio.sleep(0 if step == "yield" else 0.01)
            elif step == "abort":
                recorder.abort()
            else:
                getattr(recorder.call, step)()
            assert upstream.n_connections <= 2
        for recorder in recorders:
            recorder.call.resume()
            if not recorder.is_deaf:
                await recorder.over()
            assert recorder.is_ended or recorder.is_deaf or recorder.error is not None
            assert not recorder.wrong
            assert recorder.error is None or isinstance(recorder.error, UpstreamError)
        assert (upstream.n_calls, upstream.n_connections) == (0, upstream.n_idle)
        server.scripts = [[HELLO]]
        assert (await ask(upstream)).body == b"hello"
        await until(lambda: server.n_open == upstream.n_connections)
