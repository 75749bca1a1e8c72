"""What upstreams have counted beside what we had estimated, for as long as the process lives."""

from bisect import bisect_left, insort
from collections import deque
from typing import Final

from msgspec import Struct

from dragoman.core.plan import Deployment

_MAX_DEPLOYMENTS: Final = 10_000  # far over any configuration; OpenRouter's list has hundreds
_WINDOW: Final = 64  # observations; a median of them moves slowly and forgets
_MIN_OBSERVATIONS: Final = 8
_MIN_TOKENS: Final = 200  # below, what a host adds to every prompt would decide
# Beyond it the upstream counts something else: a hidden prompt, or not what came from its cache.
_SANE_RATIO: Final = (0.5, 2.0)


class _Observed(Struct):
    """The last ratios of one deployment as they came, and the same in order."""

    ratios: deque[float]
    ordered: list[float]
    median: float = 1.0

    def add(self, ratio: float) -> None:
        """Take a ratio. Each reply comes here, so that nothing is sorted anew."""
        ratios, ordered = self.ratios, self.ordered
        if len(ratios) == _WINDOW:
            del ordered[bisect_left(ordered, ratios[0])]
        ratios.append(ratio)
        insort(ordered, ratio)
        middle, is_odd = divmod(len(ordered), 2)
        self.median = ordered[middle] if is_odd else (ordered[middle - 1] + ordered[middle]) / 2


class Calibration:
    """
    The usual ratio of an upstream's count to our estimate, by deployment.

    Belongs to one event loop. A restart begins anew: eight replies later it is known again.

    Attributes:
        has_any: Something was observed that is comparable.
    """

    def __init__(self) -> None:
        self.has_any = False
        self._observed: dict[tuple[str, str], _Observed] = {}

    def ratio(self, deployment: Deployment) -> float:
        """Return what to multiply estimates by; 1.0: nothing is known yet."""
        known = self._observed.get((deployment.upstream, deployment.model))
        if known is None or len(known.ratios) < _MIN_OBSERVATIONS:
            return 1.0
        return min(max(known.median, _SANE_RATIO[0]), _SANE_RATIO[1])

    def observe(self, deployment: Deployment, *, estimated: int, counted: int) -> None:
        """
        Take what the upstream counted.

        Args:
            deployment: Who counted.
            estimated: Our estimate without calibration; 0: not comparable.
            counted: Tokens of the whole prompt.
        """
        if estimated < _MIN_TOKENS or counted <= 0:
            return
        key = (deployment.upstream, deployment.model)
        known = self._observed.get(key)
        if known is None:
            if len(self._observed) >= _MAX_DEPLOYMENTS:
                self._observed.pop(next(iter(self._observed)))
            known = self._observed[key] = _Observed(deque(maxlen=_WINDOW), [])
        known.add(counted / estimated)
        self.has_any = True
