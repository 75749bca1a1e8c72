"""
Two targets for one request: when the first is late, the second is asked, too; content wins.

Each has a lane of its own: attempts, a relay and an exchange that holds its reply back. With its
first content a lane takes the client's exchange over, and the other is cancelled, its call aborted.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from dragoman.core.errors import GatewayError, GatewayStopping
from dragoman.core.passthrough import PassthroughTurn
from dragoman.core.upstream_errors import ReplyContext
from dragoman.policy.retries import may_try_next
from dragoman.policy.routes import Target
from dragoman.server.ask_target import ask_target
from dragoman.server.attempts import Attempts
from dragoman.server.lane import LaneExchange
from dragoman.server.transport.seams import ClientGone

# What a request's record takes over from the lane that has answered it.
_TAKEN_OVER: Final = (
    *("upstream", "endpoint", "upstream_model", "status", "usage", "stop_reason"),
    *("first_content_s", "adjustments", "repairs", "estimate_error_pct", "cost_micros"),
)


class Hedged:
    """
    Ask two targets.

    Args:
        attempts: Of the request.
        targets: The first one, and the one that is asked when it is late, or has failed.
        delay_s: After which the first one is late.
    """

    def __init__(self, attempts: Attempts, targets: Sequence[Target], delay_s: float) -> None:
        self._attempts = attempts
        self._targets = targets
        self._delay_s = delay_s
        self._lanes: list[_Lane] = []
        self._is_hedged = False  # the second was asked while the first was at work
        self._winner: _Lane | None = None
        self._won: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        """
        Relay the reply of the winner until the message is complete.

        Raises:
            GatewayError: Both failed, or the winner did after its first content.
            ClientGone: The client left.
        """
        relay, record = self._attempts.relay, self._attempts.record
        if record.is_stream:  # until a lane has content, comments show that we are still here
            relay.stand_by(_waiting_turn(self._attempts))
        try:
            await relay.wait(self._race())
        finally:
            self._merge_records()

    async def _race(self) -> None:
        try:
            first = self._enter(self._targets[0])
            await self._wait(timeout_s=self._delay_s)
            hedges = self._attempts.services.hedges
            if self._winner is None and not first.task.done() and hedges.take():
                self._is_hedged = True
                self._enter(self._targets[1])
            while self._winner is None and all(self._may_go_on(lane) for lane in self._lanes):
                if any(not lane.task.done() for lane in self._lanes):
                    await self._wait()
                elif len(self._lanes) == 1:
                    first.log_failure()
                    self._enter(self._targets[1])
                else:
                    break
            await (self._winner or self._decisive()).task
        finally:
            for lane in self._lanes:
                lane.task.cancel()
            await asyncio.gather(*(lane.task for lane in self._lanes), return_exceptions=True)

    async def _wait(self, *, timeout_s: float | None = None) -> None:
        """Wait until something happens: a lane has content, or is over."""
        running = [lane.task for lane in self._lanes if not lane.task.done()]
        await asyncio.wait(
            [*running, self._won], timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED
        )

    def _enter(self, target: Target) -> "_Lane":
        lane = _Lane(self._attempts, target, self)
        self._lanes.append(lane)
        return lane

    def _may_go_on(self, lane: "_Lane") -> bool:
        """Tell whether another target may succeed where *lane* did not; it may be under way yet."""
        if not lane.task.done() or lane.task.cancelled():
            return True
        error = lane.task.exception()
        return isinstance(error, GatewayError) and may_try_next(error)

    def _decisive(self) -> "_Lane":
        """Return the lane whose failure the request is told of: the last, but for a refusal."""
        failed = [lane for lane in self._lanes if lane.task.done()]
        return next((lane for lane in failed if not self._may_go_on(lane)), failed[-1])

    def claim(self, lane: "_Lane") -> None:
        """Give the client's exchange to *lane*, the first one with content."""
        if self._winner is not None:
            return
        self._winner = lane
        for other in self._lanes:
            if other is not lane:
                other.task.cancel()
        hedges = self._attempts.services.hedges
        hedges.n_won += self._is_hedged and lane is not self._lanes[0]
        lane.exchange.open(is_begun=self._attempts.relay.hand_over())
        self._won.set_result(None)

    def _merge_records(self) -> None:
        """Fill the request's record in with what came of the lanes."""
        record, lanes = self._attempts.record, self._lanes
        record.attempts += sum(lane.attempts.record.attempts for lane in lanes)
        shown = self._winner or (lanes[-1] if lanes else None)
        if shown is None:
            return
        shown.attempts.fill_record()
        for name in _TAKEN_OVER:
            setattr(record, name, getattr(shown.attempts.record, name))
        if self._winner is None:
            self._attempts.follow(shown.attempts)
            return
        self._attempts.answered_by = self._winner.attempts
        if self._is_hedged:
            record.hedge = "second" if self._winner is lanes[1] else "first"
            # A call that failed costs nothing, as after any other failover.
            given_up = [x for x in lanes if x is not self._winner and not x.has_failed]
            lost = sum(lane.attempts.cost_so_far_micros() for lane in given_up)
            record.hedge_cost_micros = lost
            record.cost_micros = None if record.cost_micros is None else record.cost_micros + lost


class _Lane:
    """One target's attempts, whose reply is held back."""

    def __init__(self, attempts: Attempts, target: Target, hedged: Hedged) -> None:
        self._target = target
        self._hedged = hedged
        self.exchange = LaneExchange(
            attempts.exchange,
            has_content=lambda: self.attempts.relay.has_content,
            claim=lambda: hedged.claim(self),
        )
        self.attempts = attempts.beside(self.exchange)
        self.task = asyncio.get_running_loop().create_task(self._run())

    @property
    def has_failed(self) -> bool:
        """Whether it is over because its upstream failed."""
        task = self.task
        return task.done() and not task.cancelled() and task.exception() is not None

    def log_failure(self) -> None:
        """Log that it has failed, and that the other target follows."""
        error = self.task.exception()
        assert isinstance(error, GatewayError)
        self.attempts.log_failure(error, "next upstream")

    async def _run(self) -> None:
        relay = self.attempts.relay
        try:
            await ask_target(self.attempts, self._target, is_last=False)
            relay.end()
        except GatewayError as error:
            if relay.has_content:
                relay.fail(error)
            raise
        except asyncio.CancelledError:
            if relay.has_content:  # then it is no loser: the gateway stops
                with suppress(ClientGone):
                    relay.fail(GatewayStopping())
            raise
        finally:
            relay.close()


def _waiting_turn(attempts: Attempts) -> PassthroughTurn:
    """Return a turn that writes comments only: the message's start is the winner's."""
    return PassthroughTurn(
        model="",
        upstream_model="",
        is_stream=True,
        request_id=attempts.record.request_id,
        reply=ReplyContext(),
    )
