"""A time-out beside a loop that stands still."""

import asyncio
import itertools
import time
from collections.abc import Callable

import pytest

from dragoman.stores.loop_time import LoopTimeout


async def wait(event: asyncio.Event, timeout_s: float) -> None:
    async with LoopTimeout(timeout_s):
        await event.wait()


def test_time_is_up_when_the_loop_turns() -> None:
    async def main() -> None:
        began_s = time.monotonic()
        with pytest.raises(TimeoutError):
            await wait(asyncio.Event(), 0.05)
        assert 0.05 <= time.monotonic() - began_s < 5

    asyncio.run(main())


def test_a_stall_is_no_time() -> None:
    async def main() -> None:
        event = asyncio.Event()
        waiting = asyncio.create_task(wait(event, 0.05))
        await asyncio.sleep(0)
        for _ in range(3):
            time.sleep(0.1)  # noqa: ASYNC251 - that is what stalls the loop
            await asyncio.sleep(0)
        event.set()
        await waiting

    asyncio.run(main())


def test_answers_of_others_double_the_time() -> None:
    async def time_out(n_answers: Callable[[], int]) -> float:
        began_s = time.monotonic()
        with pytest.raises(TimeoutError):
            async with LoopTimeout(0.1, n_answers):
                await asyncio.Event().wait()
        return time.monotonic() - began_s

    async def main() -> None:
        assert await time_out(lambda: 7) >= 0.1
        assert 0.2 <= await time_out(itertools.count().__next__) < 5

    asyncio.run(main())


def test_nothing_is_left_behind() -> None:
    async def main() -> None:
        event = asyncio.Event()
        event.set()
        await wait(event, 0.01)
        await asyncio.sleep(0.05)  # a timer that still ran would cancel this

    asyncio.run(main())


def test_who_is_cancelled_is_not_late() -> None:
    async def main() -> None:
        waiting = asyncio.create_task(wait(asyncio.Event(), 5))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(main())
