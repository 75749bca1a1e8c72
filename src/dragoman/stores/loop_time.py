"""A time-out that does not take a stalled loop of our own for somebody's late answer."""

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Final

_N_PARTS: Final = 10


class LoopTimeout:
    """
    As ``asyncio.timeout``, but what passes while the loop stands still counts as a tenth at most.

    After a stall the timer is due together with all that has come meanwhile, and would win. Here
    it is looked again in the next turns: an answer that is there is read before time is up.

    Args:
        timeout_s: How long, where the loop turns as it should.
        n_answers: How many answers others have got. While there are more of them we wait for our
            own turn, not for somebody else: up to twice the time.

    Raises:
        TimeoutError: Time is up.
    """

    def __init__(self, timeout_s: float, n_answers: Callable[[], int] = int) -> None:
        self._limit = asyncio.timeout(None)
        self._part_s = timeout_s / _N_PARTS
        self._n_left = self._n_spare = _N_PARTS
        self._n_answers = n_answers
        self._n_seen = n_answers()
        self._timer: asyncio.Handle | None = None

    async def __aenter__(self) -> None:
        await self._limit.__aenter__()
        self._wait()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        await self._limit.__aexit__(kind, error, trace)

    def _wait(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._part_s, self._end_part)

    def _end_part(self) -> None:
        n_answers = self._n_answers()
        if n_answers > self._n_seen and self._n_spare:
            self._n_seen = n_answers
            self._n_spare -= 1
        else:
            self._n_left -= 1
        if self._n_left:
            self._wait()
        else:  # at the end of the next turn
            self._limit.reschedule(asyncio.get_running_loop().time())
