"""
Which targets to leave alone, learnt from real traffic: nothing is asked only to see how it is.

A rate limit and an overload end by themselves at a known time; a refused credential and a series of
failures are over when one call gets through. Until then such a target is *tripped*: left alone for
a while, then asked by one call, the probe, before all others follow (closed, open, half-open).

What happens is told as ``HealthEvent``, so that other processes can leave the same target alone.
Times are seconds of any clock that does not go back; events carry durations only.
"""

from collections.abc import Callable, Iterator
from typing import Final, Literal, Protocol

from msgspec import Struct

from dragoman.core.errors import (
    GatewayError,
    RequestError,
    UpstreamError,
    UpstreamOverloaded,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamUnauthorized,
)
from dragoman.settings import RoutingConfig

Cause = Literal["rate_limited", "overloaded", "refused", "failing"]
CAUSES: Final[tuple[Cause, ...]] = ("rate_limited", "overloaded", "refused", "failing")
_PROBED: Final = frozenset({"refused", "failing"})  # the others end by themselves
_MAX_SUBJECTS: Final = 10_000  # far over any configuration; other processes name some, too


class Subject(Protocol):
    """What can be ill of one target."""

    @property
    def endpoint(self) -> str:
        """Address and key: connections and credentials belong to it."""
        ...

    @property
    def id(self) -> str:
        """The endpoint with one model: rate limits and failures belong to it."""
        ...


class HealthEvent(Struct, frozen=True, kw_only=True):
    """
    A change that all processes should know of.

    Attributes:
        subject: An endpoint, or an endpoint with a model.
        cause: None: it is well again.
        for_s: How long to leave it alone, from now on.
    """

    subject: str
    cause: Cause | None
    for_s: float = 0.0


class Illness(Struct, frozen=True, kw_only=True):
    """A subject that is left alone, for metrics; *for_s* zero: the next call is its probe."""

    subject: str
    cause: Cause
    for_s: float


class _State(Struct):
    """What is known against one subject."""

    failures: int = 0  # more than successes, lately
    trips: int = 0  # in a row: each is longer
    cause: Cause | None = None  # None: it is asked as any other
    until_s: float = 0.0
    is_probing: bool = False


class Health:
    """
    Keep who is ill. Belongs to one event loop.

    Args:
        rules: For how long.
        tell: Called with each change that other processes should know of; must not raise.

    Attributes:
        n_trips: How often a subject was left alone since the start, by cause.
        is_clear: Nothing at all is held against anybody: the usual case, and a cheap one.
    """

    def __init__(
        self, rules: RoutingConfig, tell: Callable[[HealthEvent], None] | None = None
    ) -> None:
        self.tell = tell
        self.n_trips: dict[Cause, int] = dict.fromkeys(CAUSES, 0)
        self._rules = rules
        self._states: dict[str, _State] = {}
        self.is_clear = True

    def may_ask(self, target: Subject, now_s: float) -> bool:
        """Tell whether *target* should get a call; it may be its probe."""
        return all(
            state.cause is None or (now_s >= state.until_s and not state.is_probing)
            for state in self._of(target)
        )

    def limited_for_s(self, target: Subject, now_s: float) -> float:
        """Return how long a rate limit still holds; zero: none does."""
        ends = [s.until_s - now_s for s in self._of(target) if s.cause == "rate_limited"]
        return max(0.0, *ends, 0.0)

    def begin(self, target: Subject, now_s: float) -> None:
        """Take note of a call: the first one after a trip is the probe."""
        for state in self._of(target):
            if state.cause in _PROBED and now_s >= state.until_s:
                state.is_probing = True

    def leave(self, target: Subject) -> None:
        """Take note of a call that ended without saying anything: the client has left."""
        for state in self._of(target):
            state.is_probing = False

    def succeed(self, target: Subject, now_s: float) -> None:
        """Take note that content comes."""
        for subject in (target.endpoint, target.id):
            if (state := self._states.get(subject)) is not None:
                self._mend(subject, state, now_s)

    def fail(self, target: Subject, error: GatewayError, now_s: float) -> None:
        """Take note of how a call failed."""
        if _is_answer(error):
            self.succeed(target, now_s)
            return
        self.leave(target)
        if isinstance(error, UpstreamUnauthorized):
            # 403 may be about the model alone; a wrong key and an empty account are about all.
            subject = target.id if error.upstream_status == 403 else target.endpoint
            self._trip(subject, "refused", self._rules.refused_s, now_s=now_s)
        elif _is_rate_limit(error):
            for_s = self.limit(target, error.retry_after_s, now_s)
            if error.retry_after_s is None and error.should_retry is not False:
                error.retry_after_s = for_s  # sooner than that nobody is asked
        elif isinstance(error, UpstreamOverloaded) and error.retry_after_s is not None:
            for_s = min(error.retry_after_s, self._rules.max_rate_limited_s)
            self._trip(target.id, "overloaded", for_s, now_s=now_s)
        elif isinstance(error, UpstreamError) and not _is_ours(error):
            reached = error.upstream_status != 0 or error.status == 504
            self._count_failure(target.id if reached else target.endpoint, now_s)

    def limit(self, target: Subject, for_s: float | None, now_s: float) -> float:
        """
        Leave *target* alone for as long as it has asked for; return how long.

        Args:
            target: Who has asked.
            for_s: What it has asked for; None: it has named no time.
            now_s: The time.
        """
        rules, state = self._rules, self._states.get(target.id)
        trips = state.trips if state is not None else 0
        if for_s is None:
            for_s = rules.rate_limited_s * 2.0 ** min(trips, 10)
        for_s = min(for_s, rules.max_rate_limited_s)
        self._trip(target.id, "rate_limited", for_s, now_s=now_s)
        return for_s

    def apply(self, event: HealthEvent, now_s: float) -> None:
        """Do as another process has found; nobody is told of it again."""
        if event.cause is None:
            self._forget(event.subject)
            return
        state = self._state(event.subject)
        state.cause, state.until_s = event.cause, now_s + event.for_s

    def illnesses(self, now_s: float) -> Iterator[Illness]:
        """Yield every subject that is left alone."""
        for subject, state in self._states.items():
            if state.cause is not None:
                left_s = max(0.0, state.until_s - now_s)
                yield Illness(subject=subject, cause=state.cause, for_s=left_s)

    def _of(self, target: Subject) -> Iterator[_State]:
        for subject in (target.endpoint, target.id):
            if (state := self._states.get(subject)) is not None:
                yield state

    def _state(self, subject: str) -> _State:
        if (state := self._states.get(subject)) is None:
            if len(self._states) >= _MAX_SUBJECTS:
                self._states.pop(next(iter(self._states)))
            state = self._states[subject] = _State()
            self.is_clear = False
        return state

    def _forget(self, subject: str) -> None:
        self._states.pop(subject, None)
        self.is_clear = not self._states

    def _count_failure(self, subject: str, now_s: float) -> None:
        rules, state = self._rules, self._state(subject)
        state.failures += 1
        if state.cause not in _PROBED and state.failures < rules.failures_to_open:
            return
        for_s = min(rules.open_s * 2.0 ** min(state.trips, 30), rules.max_open_s)
        self._trip(subject, "failing", for_s, now_s=now_s)

    def _trip(self, subject: str, cause: Cause, for_s: float, *, now_s: float) -> None:
        """Leave *subject* alone; calls that fail together count once."""
        state = self._state(subject)
        is_tripped = state.cause is not None and now_s < state.until_s
        if is_tripped and now_s + for_s <= state.until_s:
            return
        if not is_tripped:
            state.trips += 1
            self.n_trips[cause] += 1
        elif state.cause == cause == "failing":
            return
        state.cause, state.until_s = cause, now_s + for_s
        if self.tell is not None:
            self.tell(HealthEvent(subject=subject, cause=cause, for_s=for_s))

    def _mend(self, subject: str, state: _State, now_s: float) -> None:
        state.is_probing = False
        if state.cause is None:
            state.failures -= 1
            if state.failures <= 0:
                self._forget(subject)
        elif now_s >= state.until_s:  # a reply that had begun before the trip says nothing
            self._forget(subject)
            if self.tell is not None:
                self.tell(HealthEvent(subject=subject, cause=None))


def _is_answer(error: GatewayError) -> bool:
    """Tell whether the upstream is at work, and it is the request that it will not have."""
    return isinstance(error, UpstreamRejected | RequestError)


def _is_rate_limit(error: GatewayError) -> bool:
    is_full = isinstance(error, UpstreamOverloaded)  # engines say that, too, with a 429
    return isinstance(error, UpstreamRateLimited) or (error.upstream_status == 429 and not is_full)


def _is_ours(error: GatewayError) -> bool:
    """Tell whether no connection became free among those that we may have."""
    return isinstance(error, UpstreamOverloaded) and error.upstream_status == 0
