"""Signals as events of the loop, and work that an event can end."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")


class StopSignals:
    """SIGTERM and SIGINT: the first one asks for an end, the second one for an end at once."""

    def __init__(self) -> None:
        self.first, self.second = asyncio.Event(), asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            on_signal(number, self._take)

    def release(self) -> None:
        """Ignore both from now on: all is closed, and the process ends by itself with its code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            with suppress(NotImplementedError):  # Windows
                loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_IGN)

    def _take(self) -> None:
        (self.second if self.first.is_set() else self.first).set()


class Hangups:
    """
    SIGHUP: the wish for a reload, or the end of the terminal in which all began.

    Args:
        reload: Called for the first.
        end: Called for the second.
    """

    def __init__(self, reload: Callable[[], None], end: Callable[[], None]) -> None:
        self._reload, self._end = reload, end
        self._had_terminal = _has_terminal()
        self._number: signal.Signals | None = getattr(signal, "SIGHUP", None)  # None: Windows
        if self._number is not None:
            on_signal(self._number, self._take)

    def release(self) -> None:
        """Ignore the signal from now on."""
        if self._number is not None:
            asyncio.get_running_loop().remove_signal_handler(self._number)
            signal.signal(self._number, signal.SIG_IGN)

    def _take(self) -> None:
        if self._had_terminal and not _has_terminal():
            self._end()
        else:
            self._reload()


def _has_terminal() -> bool:
    """Tell whether any of our streams is a terminal; one that has been closed is none."""
    with suppress(OSError, ValueError, AttributeError):  # a stream that is not there at all
        return any(os.isatty(stream.fileno()) for stream in (sys.stdin, sys.stdout, sys.stderr))
    return False


def on_signal(number: signal.Signals, callback: Callable[[], None]) -> None:
    """Call *callback* from the running loop whenever the signal comes."""
    loop = asyncio.get_running_loop()
    try:
        loop.add_signal_handler(number, callback)
    except NotImplementedError:  # Windows
        signal.signal(number, lambda *_: loop.call_soon_threadsafe(callback))


async def unless(event: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
    """Return what *work* returns; once *event* is set, cancel it, wait for it, return None."""
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
    finally:
        for each in (task, watch):
            if not each.done():
                each.cancel()
                with suppress(asyncio.CancelledError):
                    await each
    return None
