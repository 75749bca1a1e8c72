"""
In which order the targets of a route are asked.

First by priority. Among equals by the route's balance: ``affinity`` keeps a conversation where its
prefix is cached, by rendezvous hashing: every gateway computes the same order without asking
anybody, and a target that comes or goes moves only the conversations that are its own. ``weighted``
draws lots, ``least_busy`` counts calls under way, ``fastest`` also weighs the time to the first
content. Whoever is ill comes last, whatever its priority.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b
from itertools import groupby
from operator import attrgetter
from typing import Final, Protocol, TypeVar

from dragoman.policy.health import Health
from dragoman.policy.load import Load
from dragoman.settings import Balance

# A home takes a quarter more than its fair share before its conversations spill over: what prefix
# caches save is soon lost in a queue. The factor is that of consistent hashing with bounded loads
# (Mirrokni, Thorup, Zadimoghaddam 2016).
_SPILL_FACTOR: Final = 1.25
_MIN_SPILL: Final = 4  # calls at once that are no overload, however idle the others are
_HASH_RANGE: Final = 2.0**64
MAX_TRIED: Final = 8  # targets of one route for one request: a client does not wait for hundreds


class Choosable(Protocol):
    """What the choice needs of a target."""

    @property
    def endpoint(self) -> str: ...
    @property
    def id(self) -> str: ...
    @property
    def home(self) -> str: ...
    @property
    def priority(self) -> int: ...
    @property
    def weight(self) -> float: ...
    @property
    def busy_at(self) -> int | None: ...


T = TypeVar("T", bound=Choosable)


class Chooser:
    """
    Put targets in order.

    Args:
        health: Who is ill.
        load: Who is busy.
        draw: Random, 0 to 1: for lots, and among equals.
    """

    def __init__(self, health: Health, load: Load, *, draw: Callable[[], float]) -> None:
        self._health = health
        self._load = load
        self._draw = draw

    def order(
        self,
        targets: Sequence[T],
        *,
        balance: Balance,
        affinity: Callable[[], bytes],
        now_s: float,
    ) -> list[T]:
        """
        Return *targets*, all of them, the best one first.

        Args:
            targets: Of one route.
            balance: How equals are told apart.
            affinity: What a conversation is known by; asked for only if it counts.
            now_s: The time.
        """
        ordered: list[T] = []
        by_priority = sorted(targets, key=attrgetter("priority"))
        for _, group in groupby(by_priority, key=attrgetter("priority")):
            equals = list(group)
            if len(equals) > 1:
                equals = self._order_equals(equals, balance, affinity=affinity, now_s=now_s)
            ordered += equals
        if self._health.is_clear:
            return ordered
        return sorted(ordered, key=lambda target: not self._health.may_ask(target, now_s))

    def _order_equals(
        self,
        targets: list[T],
        balance: Balance,
        *,
        affinity: Callable[[], bytes],
        now_s: float,
    ) -> list[T]:
        if balance == "affinity":
            return self._spilled_over(by_affinity(targets, affinity()))
        if balance == "weighted":
            return sorted(targets, key=lambda t: _lot(self._draw(), t.weight))
        if balance == "least_busy":
            return sorted(targets, key=lambda t: (self._share(t), self._draw()))
        return sorted(  # of those that are not known, the least busy
            targets, key=lambda t: (self._expected_s(t, now_s), self._share(t), self._draw())
        )

    def _share(self, target: Choosable) -> float:
        return (self._load.busy.get(target.endpoint, 0) + 1) / target.weight

    def _expected_s(self, target: Choosable, now_s: float) -> float:
        """Estimate the wait; one that is not known of late is tried, but not by all at once."""
        seen_s = self._load.first_content_s(target.id, now_s)
        if seen_s is None:
            return 0.0 if not self._load.busy.get(target.endpoint) else math.inf
        return seen_s * self._share(target)

    def _spilled_over(self, targets: list[T]) -> list[T]:
        """Return *targets* with those that are overloaded behind the others, least busy first."""
        busy = self._load.busy
        total = sum(busy.get(target.endpoint, 0) for target in targets)
        if not total:
            return targets
        weights = sum(target.weight for target in targets)
        free: list[T] = []
        full: list[T] = []
        for target in targets:
            fair = _SPILL_FACTOR * (total + 1) * target.weight / weights
            limit = target.busy_at or max(_MIN_SPILL, math.ceil(fair))
            (free if busy.get(target.endpoint, 0) < limit else full).append(target)
        return free + sorted(full, key=self._share)


def not_limited(health: Health, targets: Sequence[T], now_s: float) -> Sequence[T]:
    """Return those of *targets* that are under no rate limit."""
    return [target for target in targets if not health.limited_for_s(target, now_s)]


def worth_a_try(
    health: Health, targets: Sequence[T], others: Iterable[Choosable], now_s: float
) -> Sequence[T]:
    """
    Return *targets* without those that are ill, if one of *others* is well.

    Without such a model they are asked all the same: that costs nothing but a failure. With one it
    would cost time on every request, up to a whole time-out.
    """
    well = [target for target in targets if health.may_ask(target, now_s)]
    if len(well) < len(targets) and any(health.may_ask(other, now_s) for other in others):
        return well
    return targets


def by_affinity(targets: Iterable[T], key: bytes) -> list[T]:
    """Return *targets* in the order of *key*, the same in every process."""
    return sorted(targets, key=lambda target: _lot(_hash(key, target.home), target.weight))


def _hash(key: bytes, name: str) -> float:
    """Return a number between 0 and 1 that only these two decide."""
    digest = blake2b(name.encode(), key=key[:64], digest_size=8).digest()
    return (int.from_bytes(digest, "big") + 0.5) / _HASH_RANGE


def _lot(drawn: float, weight: float) -> float:
    """Return what to sort by, so that each is first as often as its weight says."""
    return -math.log(max(drawn, 1e-300)) / weight
