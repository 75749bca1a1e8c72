"""Requests that wait for their turn: in a line, with signs of life for the client."""

import asyncio
import random
from typing import Final

from dragoman.core.errors import GatewayError, UpstreamLimitExceeded
from dragoman.core.sinks import SseSink
from dragoman.core.usage import Usage
from dragoman.policy.allowances import RuleSet
from dragoman.policy.routes import Target
from dragoman.server.admission import Admitted, Taken
from dragoman.server.attempts import Attempts
from dragoman.server.line import Line

_BYTES_PER_TOKEN: Final = 4  # of a body whose prompt nobody has counted yet
_AT_WORK: Final = "upstream concurrent"
_POLL_S: Final = 0.1  # for a place that a gateway elsewhere may give back; twice that at most


class WaitingMessage:
    """
    A stream's message before anybody is asked for it; the relay shows it to the client.

    Args:
        sink: Of the stream; whoever answers goes on with it.
        body_bytes: Of the request, for the first estimate of its tokens.
    """

    has_content = False

    def __init__(self, sink: SseSink, body_bytes: int) -> None:
        self._sink = sink
        self._usage = Usage(input_tokens=body_bytes // _BYTES_PER_TOKEN)

    def start(self) -> bytes:
        """Return the start of the message, once."""
        self._sink.start(self._usage)
        return self._sink.take()

    def ping(self) -> bytes:
        """Return a sign of life."""
        self._sink.ping()
        return self._sink.take()

    def fail(self, error: GatewayError) -> bytes:
        """Return the error event that ends it."""
        self._sink.fail(error)
        return self._sink.take()


class Place:
    """
    A place in a line that must be waited for; whoever makes it leaves it.

    A free one needs none of this: it is entered and left by the line's own ``try_enter`` and
    ``leave``.

    Args:
        line: Where.
    """

    def __init__(self, line: Line) -> None:
        self._line = line
        self._is_taken = False

    async def wait(self, attempts: Attempts) -> None:
        """
        Take it as soon as it is this request's turn.

        Raises:
            Overloaded: The line is full, or the wait has been too long.
            ClientGone: The client left meanwhile.
        """
        _show_waiting(attempts)
        since_s = asyncio.get_running_loop().time()
        try:
            await attempts.relay.wait(self._enter(attempts))
        finally:
            attempts.record.waited_s += asyncio.get_running_loop().time() - since_s

    def leave(self) -> None:
        """Give it back, if it was taken."""
        if self._is_taken:
            self._is_taken = False
            self._line.leave()

    async def _enter(self, attempts: Attempts) -> None:
        record = attempts.record
        await self._line.enter(record.caller.key_id, is_background=record.is_background)
        # Here, and not where it is waited for: the client may leave at this very moment.
        self._is_taken = True


class UpstreamStay:
    """
    One request's place at an upstream, and what it has reserved there; whoever makes it leaves it.

    Where a place is free and there is nothing to reserve, entering the line is all that is needed.

    Args:
        attempts: The request.
        target: Whom it will ask.
        line: Of its endpoint.
        rules: What holds for the call; None: nothing does.
    """

    def __init__(
        self, attempts: Attempts, target: Target, *, line: Line, rules: RuleSet | None
    ) -> None:
        self._attempts = attempts
        self._target = target
        self._admission = attempts.services.admission
        self._line = line
        self._rules = rules
        self._place: Place | Line | None = None
        self._admitted: Admitted | Taken | None = None

    async def begin(self, *, may_wait: bool) -> None:
        """
        Take the place, and reserve; wait for either unless another target may be asked instead.

        Raises:
            UpstreamLimitExceeded: The upstream shall not be asked now.
            Overloaded: As for ``Place.wait``.
            ClientGone: The client left meanwhile.
        """
        if self._line.try_enter():
            self._place = self._line
        elif not may_wait:
            raise UpstreamLimitExceeded(
                "the model's server is asked as much as it may be; try again",
                retry_after_s=_POLL_S,
                limit=_AT_WORK,
            )
        else:
            self._place = place = Place(self._line)
            await place.wait(self._attempts)
        if self._rules is not None:
            self._admitted = await self._admit(self._rules, may_wait=may_wait)

    def leave(self) -> None:
        """Give the place back, and settle."""
        if self._place is not None:
            self._place.leave()
        if (admitted := self._admitted) is not None:
            attempts, self._admitted = self._attempts, None
            usage = attempts.counted_usage
            self._admission.settle(admitted, attempts.asked, usage=usage, cost_micros=None)

    async def _admit(self, rules: RuleSet, *, may_wait: bool) -> Admitted | Taken:
        """Reserve; where only calls at work elsewhere stand against it, ask again and again."""
        attempts, clock = self._attempts, asyncio.get_running_loop().time
        since_s = clock()
        while True:
            try:
                return await self._admission.admit_to_upstream(
                    rules, attempts.asked, attempts.record, target=self._target
                )
            except UpstreamLimitExceeded as error:
                waited_s = clock() - since_s
                is_over = waited_s > attempts.services.max_wait_s or error.should_retry is False
                if not may_wait or error.limit != _AT_WORK or is_over:
                    attempts.record.refused_by = error.limit
                    raise
            _show_waiting(attempts)
            # Not in step with the gateways that wait for the same place.
            await attempts.relay.sleep(_POLL_S * (1 + random.random()))  # noqa: S311
            attempts.record.waited_s += clock() - since_s - waited_s


def is_full(error: GatewayError) -> bool:
    """Tell whether an upstream was not asked because it is at work on as much as it may be."""
    return isinstance(error, UpstreamLimitExceeded) and error.limit == _AT_WORK


def _show_waiting(attempts: Attempts) -> None:
    if attempts.stream_sink is not None:
        attempts.relay.show(WaitingMessage(attempts.stream_sink, len(attempts.asked.body)))
