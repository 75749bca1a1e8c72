"""One short call, awaited as a whole."""

import asyncio

import pytest

from dragoman.core.errors import UpstreamError, UpstreamProtocolError, UpstreamUnavailable
from dragoman.server.transport.ask import Answer, ask
from dragoman.server.transport.seams import Timeouts, UpstreamRequest
from support.app_case import Script
from support.fakes import FakeUpstream, data, end, fail, head

USUAL = Timeouts()
SHORT = Timeouts(connect_s=0.02, first_byte_s=0.02, idle_s=0.02)


def asked(
    script: Script, *, timeouts: Timeouts = USUAL, max_body_bytes: int = 100
) -> tuple[Answer | UpstreamError, list[str]]:
    """Return what came of the call, and what was done to it."""

    async def main() -> tuple[Answer | UpstreamError, list[str]]:
        upstream = FakeUpstream(script)
        request = UpstreamRequest(path="/x", timeouts=timeouts, max_body_bytes=max_body_bytes)
        result: Answer | UpstreamError
        try:
            async with asyncio.timeout(10):
                result = await ask(upstream, request)
        except UpstreamError as error:
            result = error
        return result, upstream.calls[0].events

    return asyncio.run(main())


@pytest.mark.parametrize("status", [200, 204, 404, 500])
def test_the_whole_reply_whatever_its_status(status: int) -> None:
    answer, _ = asked([head(status, x="y"), data(b"a"), data(b""), 0.01, data(b"b"), end()])
    assert isinstance(answer, Answer)
    assert (answer.status, answer.body, answer.headers[b"x"]) == (status, b"ab", b"y")


def test_no_limit_is_no_limit() -> None:
    answer, _ = asked([head(), *[data(b"x" * 1000)] * 9, end()], max_body_bytes=0)
    assert isinstance(answer, Answer)
    assert len(answer.body) == 9000


@pytest.mark.parametrize(
    "script",
    [
        [fail(UpstreamUnavailable("x"))],
        [head(), fail(UpstreamUnavailable("x"))],
        [head(), data(b"a"), fail(UpstreamUnavailable("x")), end(), data(b"b")],
    ],
)
def test_what_failed_is_raised(script: Script) -> None:
    error, events = asked(script)
    assert isinstance(error, UpstreamUnavailable)
    assert events == ["abort"]


def test_a_reply_over_the_limit_is_given_up() -> None:
    error, events = asked([head(), data(b"x" * 60), data(b"x" * 60), data(b"x"), end()])
    assert isinstance(error, UpstreamProtocolError)
    assert events == ["abort"]


@pytest.mark.parametrize(
    "script", [[60.0], [head(), 60.0], [head(), *([data(b"x"), 0.02] * 90)]], ids=range(3)
)
def test_a_reply_that_takes_too_long_is_given_up(script: Script) -> None:
    error, events = asked(script, timeouts=SHORT)
    assert isinstance(error, UpstreamError)
    assert (error.status, error.kind) == (504, "timeout_error")
    assert events == ["abort"]


def test_cancelling_aborts_the_call() -> None:
    async def main() -> None:
        upstream = FakeUpstream([head(), 60.0])
        task = asyncio.create_task(ask(upstream, UpstreamRequest(path="/x")))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert upstream.calls[0].events == ["abort"]

    asyncio.run(main())
