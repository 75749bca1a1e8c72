"""Measure how late the event loop comes to its timers, at next to no cost."""

import asyncio
from collections.abc import Callable
from typing import Final

_INTERVAL_S: Final = 0.5


class LoopWatch:
    """
    Set one timer again and again, and tell how late each came.

    Args:
        tell: Called with seconds.
    """

    def __init__(self, tell: Callable[[float], None]) -> None:
        self._tell = tell
        self._loop = asyncio.get_running_loop()
        self._due_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._set()

    def stop(self) -> None:
        """Set no further timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set(self) -> None:
        self._due_s = self._loop.time() + _INTERVAL_S
        self._timer = self._loop.call_at(self._due_s, self._take)

    def _take(self) -> None:
        self._tell(self._loop.time() - self._due_s)
        self._set()
