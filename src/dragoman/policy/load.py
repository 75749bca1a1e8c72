"""How busy targets are, and how soon they begin to answer: counted here, not asked for."""

from collections import defaultdict, deque
from typing import Final

from msgspec import Struct

_SMOOTHING: Final = 0.2  # weight of the newest time; the last ten calls make nine tenths
_KEPT: Final = 128  # times for the percentile
_FRESH_S: Final = 120.0  # older times say little of a machine that others use, too
_MAX_TARGETS: Final = 10_000  # far over any configuration


class _Times(Struct):
    """Times to the first content of one target, in seconds."""

    smoothed_s: float
    at_s: float
    recent_s: deque[float]


class Load:
    """
    Calls under way and times to first content. Belongs to one event loop.

    Attributes:
        busy: Calls under way by endpoint, counted by whoever makes them; an endpoint without any
            may be missing.
    """

    def __init__(self) -> None:
        self.busy: defaultdict[str, int] = defaultdict(int)
        self._times: dict[str, _Times] = {}

    def observe(self, target_id: str, first_content_s: float, now_s: float) -> None:
        """Take note how long the first content of a call took."""
        times = self._times.get(target_id)
        if times is None:
            if len(self._times) >= _MAX_TARGETS:
                self._times.pop(next(iter(self._times)))
            recent_s = deque([first_content_s], maxlen=_KEPT)
            self._times[target_id] = _Times(first_content_s, now_s, recent_s)
            return
        times.smoothed_s += _SMOOTHING * (first_content_s - times.smoothed_s)
        times.at_s = now_s
        times.recent_s.append(first_content_s)

    def first_content_s(self, target_id: str, now_s: float) -> float | None:
        """Return the smoothed time to first content; None: none is known of late."""
        times = self._times.get(target_id)
        return times.smoothed_s if times and now_s - times.at_s <= _FRESH_S else None

    def percentile_s(self, target_id: str, percentile: float, *, at_least: int) -> float | None:
        """Return a percentile of the last times; None: fewer than *at_least* are known."""
        times = self._times.get(target_id)
        if times is None or len(times.recent_s) < at_least:
            return None
        ordered = sorted(times.recent_s)
        return ordered[min(len(ordered) - 1, int(len(ordered) * percentile / 100))]
