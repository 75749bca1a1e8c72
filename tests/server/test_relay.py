import asyncio
import json

import pytest

from dragoman.core.dialects.profile import DialectProfile
from dragoman.core.errors import (
    GatewayError,
    UpstreamOverloaded,
    UpstreamProtocolError,
    UpstreamRejected,
    UpstreamUnavailable,
)
from dragoman.core.plan import Deployment, Plan
from dragoman.core.signatures import Signer
from dragoman.core.sinks import MessageHead, MessageSink, SseSink
from dragoman.core.turn import ChatTurn
from dragoman.core.turn_context import TurnContext
from dragoman.core.upstream_errors import ReplyContext
from dragoman.server.relay import Relay
from dragoman.server.transport.seams import ClientGone, UpstreamRequest
from dragoman.wire.anthropic import MessagesRequest
from support.fakes import FakeExchange, FakeUpstream, data, end, fail, head
from support.sse_grammar import check_stream

REQUEST = UpstreamRequest(path="/chat/completions", body=b"{}")


def chunk(finish: str | None = None, **delta: object) -> bytes:
    payload = {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}
    return b"data: %b\n\n" % json.dumps(payload).encode()


HELLO = [chunk(content="Hel"), chunk(content="lo"), chunk("stop"), b"data: [DONE]\n\n"]
WHOLE = (
    b'{"choices":[{"message":{"content":"Hello"},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":3,"completion_tokens":2}}'
)


class Case:
    """One relay with its exchange; ``run`` makes an attempt on a scripted upstream."""

    def __init__(self, *, is_stream: bool, early_start_s: float = 0, ping_s: float = 60) -> None:
        self.exchange = FakeExchange()
        self.relay = Relay(
            self.exchange,
            is_stream=is_stream,
            request_id="req_1",
            headers=lambda: [(b"request-id", b"req_1")],
            early_start_s=early_start_s,
            ping_interval_s=ping_s,
        )
        message = MessageHead(message_id="msg_1", model="m", request_id="req_1")
        self.sink = SseSink(message) if is_stream else MessageSink(message)

    def turn(self, *stops: str) -> ChatTurn:
        plan = Plan(
            request=MessagesRequest(model="m", messages=[]),
            deployment=Deployment(upstream="u", model="m", profile=DialectProfile()),
            body={},
            adjustments=(),
            input_tokens_estimate=5,
            local_stop_sequences=stops,
        )
        context = TurnContext(
            signer=Signer(b"sixteen bytes or more"),
            nonce=lambda: "0" * 11,
            reply=ReplyContext(max_reply_bytes=10_000),
        )
        return ChatTurn(plan, self.sink, context=context)

    async def run(self, upstream: FakeUpstream, *stops: str) -> None:
        turn = self.turn(*stops)
        context = ReplyContext(max_reply_bytes=10_000)
        async with asyncio.timeout(5):
            try:
                await self.relay.begin(upstream, REQUEST, turn=turn, context=context)
            except BaseException:
                self.relay.give_up()
                raise


def text_of(case: Case) -> str:
    if case.exchange.reply_headers[b"content-type"].startswith(b"text/event-stream"):
        blocks = check_stream(case.exchange.reply).content
    else:
        blocks = json.loads(case.exchange.reply)["content"]
    return "".join(block["text"] for block in blocks if block["type"] == "text")


@pytest.mark.parametrize("is_stream", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize(
    "script",
    [
        [head(), *map(data, HELLO), end()],
        [head(), data(b"".join(HELLO))],  # the connection stays open
        [head(), *map(data, HELLO[:3]), end()],  # no [DONE], but a finish reason
        [head(content_type="application/json"), data(WHOLE[:20]), data(WHOLE[20:]), end()],
    ],
    ids=["stream", "left open", "without [DONE]", "whole"],
)
def test_all_four_combinations_give_the_message(is_stream, script) -> None:
    async def main() -> Case:
        case = Case(is_stream=is_stream)
        await case.run(FakeUpstream(script))
        case.relay.end()
        return case

    case = asyncio.run(main())
    assert (case.exchange.status, case.exchange.is_ended) == (200, True)
    assert case.exchange.reply_headers[b"request-id"] == b"req_1"
    assert text_of(case) == "Hello"


def test_one_write_per_read() -> None:
    async def main() -> Case:
        case = Case(is_stream=True)
        await case.run(FakeUpstream([head(), data(b"".join(HELLO[:2])), data(HELLO[2] + HELLO[3])]))
        return case

    assert len(asyncio.run(main()).exchange.written) == 2


def test_a_complete_reply_leaves_its_connection_to_end_by_itself() -> None:
    async def main() -> FakeUpstream:
        upstream = FakeUpstream([head(), *map(data, HELLO), 0.01, end()])
        case = Case(is_stream=True)
        await case.run(upstream)
        await asyncio.sleep(0.05)
        return upstream

    assert asyncio.run(main()).calls[0].events == []


def test_a_reply_cut_by_a_stop_string_is_aborted_at_once() -> None:
    async def main() -> tuple[Case, FakeUpstream]:
        upstream = FakeUpstream([head(), data(chunk(content="one, two")), 60.0])
        case = Case(is_stream=True)
        await case.run(upstream, ", ")
        case.relay.end()
        return case, upstream

    case, upstream = asyncio.run(main())
    assert upstream.calls[0].events == ["abort"]
    message = check_stream(case.exchange.reply)
    assert (text_of(case), message.stop_reason, message.stop_sequence) == (
        "one",
        "stop_sequence",
        ", ",
    )


@pytest.mark.parametrize("is_stream", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize(
    "script",
    [
        [60.0],
        [head(), 60.0],
        [head(), data(HELLO[0]), 60.0],
        [head(content_type="application/json"), data(WHOLE[:9]), 60.0],
    ],
    ids=["before the head", "after the head", "mid stream", "mid body"],
)
def test_a_client_that_leaves_aborts_the_call_in_every_phase(is_stream, script) -> None:
    async def main() -> FakeUpstream:
        upstream = FakeUpstream(script)
        case = Case(is_stream=is_stream)
        asyncio.get_running_loop().call_later(0.02, case.exchange.leave)
        with pytest.raises(ClientGone):
            await case.run(upstream)
        return upstream

    assert asyncio.run(main()).calls[0].events == ["abort"]


def test_no_call_is_made_for_a_client_that_has_left() -> None:
    async def main() -> None:
        case = Case(is_stream=True)
        case.exchange.leave()
        with pytest.raises(ClientGone):
            await case.run(FakeUpstream())
        with pytest.raises(ClientGone):
            await case.relay.sleep(5)

    asyncio.run(main())


def test_leaving_ends_a_wait_between_attempts() -> None:
    async def main() -> None:
        case = Case(is_stream=True)
        asyncio.get_running_loop().call_later(0.01, case.exchange.leave)
        async with asyncio.timeout(2):
            with pytest.raises(ClientGone):
                await case.relay.sleep(60)

    asyncio.run(main())


def test_a_slow_reader_pauses_the_upstream() -> None:
    async def main() -> FakeUpstream:
        upstream = FakeUpstream([head(), data(HELLO[0]), 0.05, *map(data, HELLO[1:]), end()])
        case = Case(is_stream=True)
        loop = asyncio.get_running_loop()
        loop.call_later(0.01, case.exchange.pause)
        loop.call_later(0.02, case.exchange.resume)
        await case.run(upstream)
        return upstream

    assert asyncio.run(main()).calls[0].events[:2] == ["pause", "resume"]


FAILURES = {
    "no connection": ([fail(UpstreamUnavailable("x"))], UpstreamUnavailable, 0),
    "an error status": (
        [head(400, content_type="application/json"), data(b'{"error":{"message":"bad"}}'), end()],
        UpstreamRejected,
        400,
    ),
    "an error status that is cut off": (
        [head(503, content_type="text/plain"), data(b"busy"), fail(UpstreamUnavailable("x"))],
        UpstreamOverloaded,
        503,
    ),
    "a web page": (
        [head(content_type="text/html"), data(b"<html>"), end()],
        UpstreamProtocolError,
        200,
    ),
    "garbage": ([head(), data(b"data: {nonsense\n\n"), end()], UpstreamProtocolError, 200),
    "nothing": ([head(), end()], UpstreamProtocolError, 200),
    "an empty body": ([head(content_type="application/json"), end()], UpstreamProtocolError, 200),
    "a truncated body": (
        [head(content_type="application/json"), data(WHOLE[:-9]), end()],
        UpstreamProtocolError,
        200,
    ),
    "an oversized body": (
        [head(content_type="application/json"), data(b" " * 20_000), end()],
        UpstreamProtocolError,
        200,
    ),
    "an oversized stream": ([head(), data(b": x\n\n" * 4_000), end()], UpstreamProtocolError, 200),
    "a reset in the stream": (
        [head(), data(HELLO[0]), fail(UpstreamUnavailable("reset"))],
        UpstreamUnavailable,
        200,
    ),
    "an end without a finish": ([head(), data(HELLO[0]), end()], UpstreamProtocolError, 200),
}


@pytest.mark.parametrize(("script", "kind", "status"), FAILURES.values(), ids=FAILURES)
def test_a_failure_is_raised_and_the_call_is_over(script, kind, status) -> None:
    async def main() -> None:
        case = Case(is_stream=False)
        with pytest.raises(kind) as caught:
            await case.run(FakeUpstream(script))
        assert caught.value.upstream_status == status
        case.relay.fail(caught.value)
        assert case.exchange.status == caught.value.status
        assert json.loads(case.exchange.reply)["type"] == "error"
        assert case.exchange.is_ended

    asyncio.run(main())


def test_a_failure_after_content_is_one_error_event() -> None:
    async def main() -> Case:
        case = Case(is_stream=True)
        with pytest.raises(UpstreamUnavailable) as caught:
            await case.run(FakeUpstream([head(), data(HELLO[0]), fail(UpstreamUnavailable("x"))]))
        assert case.relay.has_content
        case.relay.fail(caught.value)
        return case

    case = asyncio.run(main())
    assert (case.exchange.status, case.exchange.is_ended) == (200, True)
    assert check_stream(case.exchange.reply).error["type"] == "api_error"


def test_only_counts_are_waited_for_after_the_finish(monkeypatch) -> None:
    monkeypatch.setattr("dragoman.server.upstream_attempt._FINISH_GRACE_S", 0.02)

    async def main() -> tuple[Case, FakeUpstream]:
        upstream = FakeUpstream([head(), *map(data, HELLO[:3]), 60.0])
        case = Case(is_stream=True)
        await case.run(upstream)
        return case, upstream

    case, _ = asyncio.run(main())
    assert text_of(case) == "Hello"


def test_early_start_and_pings_bind_us_to_nothing() -> None:
    async def main() -> Case:
        case = Case(is_stream=True, early_start_s=0.02, ping_s=0.02)
        with pytest.raises(UpstreamUnavailable):
            await case.run(FakeUpstream([0.12, fail(UpstreamUnavailable("x"))]))
        assert case.exchange.status == 200
        assert not case.relay.has_content
        await case.run(FakeUpstream([head(), *map(data, HELLO), end()]))
        case.relay.end()
        return case

    case = asyncio.run(main())
    assert text_of(case) == "Hello"
    assert case.exchange.reply.count(b"event: message_start") == 1
    assert case.exchange.reply.count(b"event: ping") >= 2


def test_a_failure_after_an_early_start_is_an_event() -> None:
    async def main() -> Case:
        case = Case(is_stream=True, early_start_s=0.01)
        with pytest.raises(UpstreamUnavailable) as caught:
            await case.run(FakeUpstream([0.05, fail(UpstreamUnavailable("x"))]))
        case.relay.fail(caught.value)
        return case

    assert check_stream(asyncio.run(main()).exchange.reply).error["type"] == "api_error"


def test_without_early_start_nothing_is_sent_before_content() -> None:
    async def main() -> Case:
        case = Case(is_stream=True)
        with pytest.raises(UpstreamUnavailable):
            await case.run(FakeUpstream([head(), 0.05, fail(UpstreamUnavailable("x"))]))
        return case

    assert asyncio.run(main()).exchange.status == 0


def test_fail_after_the_end_changes_nothing() -> None:
    async def main() -> Case:
        case = Case(is_stream=True)
        await case.run(FakeUpstream([head(), *map(data, HELLO), end()]))
        case.relay.end()
        case.relay.fail(GatewayError("late"))
        return case

    assert check_stream(asyncio.run(main()).exchange.reply).error is None


def test_work_that_is_waited_for_returns_or_raises() -> None:
    async def answer(value: int) -> int:
        await asyncio.sleep(0)
        if not value:
            raise UpstreamRejected("x")
        return value

    async def main() -> None:
        case = Case(is_stream=True)
        assert await case.relay.wait(answer(1)) == 1
        with pytest.raises(UpstreamRejected):
            await case.relay.wait(answer(0))
        assert await case.relay.wait(answer(2)) == 2
        await case.run(FakeUpstream([head(), *map(data, HELLO), end()]))
        case.relay.end()
        assert text_of(case) == "Hello"

    asyncio.run(main())


def test_leaving_cancels_the_work_that_is_waited_for() -> None:
    ended: list[str] = []

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("cancelled")

    async def main() -> None:
        case = Case(is_stream=False)
        asyncio.get_running_loop().call_later(0.01, case.exchange.leave)
        with pytest.raises(ClientGone):
            await case.relay.wait(work())
        with pytest.raises(ClientGone):  # it does not even begin
            await case.relay.wait(work())

    asyncio.run(main())
    assert ended == ["cancelled"]


def test_a_pause_holds_for_the_next_attempt() -> None:
    async def main() -> list[list[str]]:
        case = Case(is_stream=True)
        case.exchange.pause()
        first = FakeUpstream([fail(UpstreamUnavailable("x"))])
        with pytest.raises(UpstreamUnavailable):
            await case.run(first)
        case.exchange.resume()
        second = FakeUpstream([head(), *map(data, HELLO), end()])
        await case.run(second)
        return [first.calls[0].events, second.calls[0].events]

    assert asyncio.run(main()) == [["pause", "abort"], []]


def test_nothing_is_written_to_a_client_that_has_left() -> None:
    async def main() -> Case:
        case = Case(is_stream=True)
        script = [head(), data(HELLO[0]), lambda _: case.exchange.leave(), data(HELLO[1])]
        with pytest.raises(ClientGone):
            await case.run(FakeUpstream(script))
        with pytest.raises(ClientGone):
            case.relay.fail(GatewayError("x"))
        with pytest.raises(ClientGone):
            case.relay.end()
        return case

    case = asyncio.run(main())
    assert len(case.exchange.written) == 1
    assert not case.exchange.is_ended


@pytest.mark.parametrize(
    "rest", [[60.0], [data(b"x"), 60.0], [data(b"x" * 100_000), 60.0]], ids=range(3)
)
def test_an_error_s_body_is_not_waited_for_long(monkeypatch, rest) -> None:
    monkeypatch.setattr("dragoman.server.upstream_attempt._ERROR_GRACE_S", 0.02)

    async def main() -> FakeUpstream:
        upstream = FakeUpstream([head(503), *rest])
        case = Case(is_stream=True)
        with pytest.raises(UpstreamOverloaded):
            await case.run(upstream)
        return upstream

    assert asyncio.run(main()).calls[0].events == ["abort"]


def test_an_endless_error_is_cut() -> None:
    async def main() -> FakeUpstream:
        upstream = FakeUpstream([head(503), *[data(b"x" * 2**14)] * 4, 60.0])
        case = Case(is_stream=True)
        with pytest.raises(UpstreamOverloaded):
            await case.run(upstream)
        return upstream

    assert asyncio.run(main()).calls[0].events == ["abort"]
