"""Asynchronous tests, run on asyncio's own event loop and on uvloop."""

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvloop

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}


def on_each_loop(
    test: Callable[..., Awaitable[None]], *, limit_s: float = 60
) -> Callable[..., None]:
    """
    Make a test of a coroutine function.

    It fails when the loop had an error to report, and when tasks are left running.
    """

    @pytest.mark.parametrize("loop_name", LOOPS)
    @functools.wraps(test)
    def run(*args: Any, loop_name: str, **kwargs: Any) -> None:
        with asyncio.Runner(loop_factory=LOOPS[loop_name]) as runner:
            runner.run(_play(test(*args, **kwargs), limit_s))

    signature = inspect.signature(test)
    extra = inspect.Parameter("loop_name", inspect.Parameter.KEYWORD_ONLY)
    parameters = [*signature.parameters.values(), extra]
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return run


async def _play(test: Awaitable[None], limit_s: float) -> None:
    reports: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: reports.append(context))
    async with asyncio.timeout(limit_s):
        await test
    await until(lambda: len(asyncio.all_tasks()) == 1, limit_s=2)  # else: a task is left over
    assert not reports, reports


async def until(condition: Callable[[], object], limit_s: float = 20) -> None:
    """Wait until *condition* holds."""
    async with asyncio.timeout(limit_s):
        while not condition():  # noqa: ASYNC110 - any condition, none that could tell us
            await asyncio.sleep(0.001)


async def hang(*_: object) -> Any:
    """Wait for ever, in the place of something that takes long."""
    await asyncio.get_running_loop().create_future()
