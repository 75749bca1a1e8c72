"""When a second target is asked beside the first: where it is later than most, and not often."""

from typing import Final

from msgspec import Struct

from dragoman.policy.load import Load

_AT_LEAST: Final = 20  # times that must be known: a percentile of a handful says nothing
# When everything is slow at once, as under a load that is too high, all calls are late, and a
# second call for each would be the end. So a request earns a tenth of a hedge, and ten can be kept.
_EARNED: Final = 0.1
_MAX_CREDIT: Final = 10.0


class HedgeRule(Struct, frozen=True, kw_only=True):
    """
    When a call is late.

    Attributes:
        percentile: Of the times to first content of late.
        min_s: No call is late before.
    """

    percentile: float
    min_s: float


class Hedges:
    """
    Decide about second calls.

    Args:
        load: Knows how long calls take.

    Attributes:
        n_asked: Second calls since the start; those that won are *n_won*.
    """

    def __init__(self, load: Load) -> None:
        self._load = load
        self._credit = _MAX_CREDIT
        self.n_asked = self.n_won = 0

    def delay_s(self, rule: HedgeRule, target_id: str) -> float | None:
        """Return after how long a call of the target is late; None: too little is known of it."""
        self._credit = min(_MAX_CREDIT, self._credit + _EARNED)
        late_s = self._load.percentile_s(target_id, rule.percentile, at_least=_AT_LEAST)
        return None if late_s is None else max(late_s, rule.min_s)

    def take(self) -> bool:
        """Take one second call; tell whether there may be one."""
        if self._credit < 1:
            return False
        self._credit -= 1
        self.n_asked += 1
        return True
