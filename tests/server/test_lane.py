"""A reply that may yet be dropped, and one for several: what they hold back, keep and cut."""

import asyncio

import pytest

from dragoman.server.fan_out import FanOut
from dragoman.server.lane import LaneExchange
from dragoman.server.telemetry import RequestRecord
from dragoman.server.transport.seams import ClientGone
from support.app_case import run
from support.fakes import FakeExchange, Watcher

HEAD = [(b"content-type", b"text/event-stream"), (b"request-id", b"req_first")]


class Lane:
    """A lane before a client, whose content is whatever says so."""

    def __init__(self, *, opens: bool = True) -> None:
        self.real = FakeExchange(b"body", path="/v1/messages")
        self.claims = 0
        self._opens = opens
        self.written: list[bytes] = []
        self.exchange = LaneExchange(
            self.real, has_content=lambda: b"content" in self.written, claim=self._claim
        )
        self.watcher = Watcher()
        self.exchange.watch(self.watcher)

    def _claim(self) -> None:
        self.claims += 1
        if self._opens:
            self.exchange.open(is_begun=False)

    def write(self, data: bytes) -> None:
        self.written.append(data)
        self.exchange.write(data)


def test_a_lane_holds_back_until_there_is_content() -> None:
    lane = Lane()
    lane.exchange.start_reply(200, HEAD)
    lane.write(b"start")
    assert not lane.real.reply_started
    lane.write(b"content")
    assert (lane.real.status, lane.real.written) == (200, [b"startcontent"])
    lane.write(b"more")
    lane.exchange.end_reply()
    assert lane.real.reply == b"startcontentmore"
    assert lane.real.is_ended
    assert lane.claims == 1


def test_a_reply_without_content_is_let_through_at_its_end() -> None:
    lane = Lane()
    lane.exchange.start_reply(200, HEAD)
    lane.write(b"start")
    lane.exchange.end_reply()
    assert (lane.real.reply, lane.real.is_ended) == (b"start", True)


def test_a_lane_that_loses_shows_nothing() -> None:
    lane = Lane(opens=False)
    lane.exchange.start_reply(200, HEAD)
    lane.write(b"content")
    lane.exchange.end_reply()
    lane.exchange.abort()
    assert lane.claims == 2
    assert [lane.real.reply_started, lane.real.is_ended, lane.real.is_aborted] == [False] * 3


def test_an_open_lane_passes_on_what_its_client_does() -> None:
    lane = Lane()
    lane.exchange.start_reply(200, HEAD)
    lane.write(b"content")
    lane.real.pause()
    lane.real.resume()
    lane.real.leave()
    lane.exchange.on_gone()
    lane.write(b"late")
    lane.exchange.end_reply()
    assert lane.watcher.told == ["pause", "resume", "gone"]
    assert lane.exchange.gone
    assert lane.real.reply == b"content"
    assert not lane.real.is_ended


def test_a_client_that_has_just_left_sees_no_beginning() -> None:
    lane = Lane()
    lane.real.gone = True
    lane.exchange.start_reply(200, HEAD)
    lane.write(b"content")
    lane.exchange.end_reply()
    assert lane.watcher.told == ["gone"]
    assert not lane.real.reply_started


def test_a_lane_reads_and_cuts_like_its_client() -> None:
    lane = Lane()
    assert asyncio.run(lane.exchange.read_body(100)) == b"body"
    assert lane.exchange.body_at_hand(100) == b"body"
    lane.exchange.start_reply(200, HEAD)
    lane.write(b"content")
    lane.exchange.watch(None)
    lane.real.pause()
    lane.real.resume()
    lane.exchange.abort()
    assert lane.real.is_aborted


# -- one for several


def members(reply: FanOut, n: int) -> list[FakeExchange]:
    exchanges = [FakeExchange() for _ in range(n)]
    for number, exchange in enumerate(exchanges):
        reply.join(exchange, RequestRecord(f"req_{number}", "POST", "/v1/messages"))
    return exchanges


def test_each_gets_the_same_with_its_own_id() -> None:
    async def case() -> None:
        reply = FanOut(FakeExchange(b"body"))
        assert await reply.read_body(9) == b"body"
        assert reply.body_at_hand(9) == b"body"
        one, two = members(reply, 2)
        reply.start_reply(200, HEAD)
        reply.write(b"event: message_start\n\n")
        (three,) = members(reply, 1)
        reply.write(b"event: content_block_start\n\n")
        assert reply.has_content
        assert one.reply == two.reply == three.reply
        assert [each.reply_headers[b"request-id"] for each in (one, two)] == [b"req_0", b"req_1"]

    run(case())


@pytest.mark.parametrize(
    ("piece", "n", "ends"),
    [(b"event: ping\n\n", 3, False), (b": wait\n\n" * 1_000, 9, True)],
)
def test_what_is_kept_for_those_who_come_later_is_bounded(piece: bytes, n: int, ends: bool) -> None:
    async def case() -> None:
        reply = FanOut(FakeExchange())
        members(reply, 1)
        reply.start_reply(200, HEAD)
        for _ in range(n):
            reply.write(piece)
        assert reply.has_content == ends

    run(case())


def test_a_cut_reply_is_cut_for_all() -> None:
    async def case() -> None:
        reply, watcher = FanOut(FakeExchange()), Watcher()
        reply.watch(watcher)
        exchanges = members(reply, 2)
        waits = [member.done for member in reply.members]
        reply.abort()
        assert all(exchange.is_aborted for exchange in exchanges)
        for wait in waits:
            with pytest.raises(ClientGone):
                await wait
        assert reply.gone
        assert watcher.told == ["gone"]

    run(case())


def test_who_watches_later_is_told_what_is() -> None:
    async def case() -> None:
        reply = FanOut(FakeExchange())
        (one,) = members(reply, 1)
        (member,) = reply.members
        one.pause()
        paused, gone = Watcher(), Watcher()
        reply.watch(paused)
        reply.watch(None)
        one.leave()
        reply.watch(gone)
        assert (paused.told, gone.told) == (["pause"], ["gone"])
        with pytest.raises(ClientGone):
            await member.done

    run(case())
