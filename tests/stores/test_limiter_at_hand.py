"""Counters at hand give out what the limiter's usual way gives out, no more and no less."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.policy.limits import ClaimForm, ClaimHead, Reservation, Taken
from dragoman.stores.limiter_memory import MemoryLimiter

NOW_S = 4_000_000_000.25
DAY_ENDS_S = NOW_S + 40_000
HEADS: list[ClaimHead] = [
    ("requests", "window", 5, 0.0),
    ("tokens", "window", 40, 0.0),
    ("concurrent", "held", 3, 0.0),
    ("day", "budget", 60, DAY_ENDS_S),
]
SEEDS = {"day": 0}


class Side:
    """One limiter, and the requests that are at work under it; ``quick``: by the short way."""

    def __init__(self, *, quick: bool) -> None:
        self.limiter = MemoryLimiter()
        self.n_quick = 0
        self._is_quick = quick
        # The other one has as many requests, but of another model: the counters are the same.
        self._forms = [ClaimForm(HEADS, [45]), ClaimForm(HEADS[1:], [45])]
        self._open: list[tuple[Taken | Reservation, bool]] = []
        self._n = 0

    def ask(self, which: int, tokens: int, now_s: float) -> tuple[bool, int]:
        """Return whether it was let in, and what is used of the tokens of a minute."""
        form = self._forms[which]
        amounts = _amounts(which, tokens)
        self._n += 1
        self._renew(now_s)
        if self._is_quick and (taken := self.limiter.take_now(form, amounts, now_s)) is not None:
            self.n_quick += 1
            self._open.append((taken, which == 0))
            return True, taken.used[-1]
        claims, name = form.claims(amounts), f"req_{self._n}"
        verdict = self.limiter.reserve_now(name, claims, now_s=now_s, seeds=SEEDS)
        if verdict.is_granted:
            reservation = Reservation(id=name, claims=claims, at_s=now_s)
            self._open.append((reservation, which == 0))
        return verdict.is_granted, verdict.used[1 - which]

    def end(self, which: int, tokens: int, now_s: float) -> None:
        if not self._open:
            return
        self._renew(now_s)
        reservation, is_first = self._open.pop(which % len(self._open))
        amounts = _amounts(0 if is_first else 1, tokens)
        if isinstance(reservation, Taken):
            self.limiter.settle_now(reservation, amounts, now_s)
        else:
            self.limiter.settle(reservation, amounts, now_s=now_s)

    def end_all(self, now_s: float) -> None:
        while self._open:
            self.end(0, 0, now_s)

    def _renew(self, now_s: float) -> None:
        held = [each for each, _ in self._open if isinstance(each, Reservation)]
        self.limiter.renew(held, now_s=now_s)


def _amounts(which: int, tokens: int) -> Sequence[int]:
    return (1, tokens, 1, tokens)[which:]


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["ask", "ask", "end"]),
        st.integers(0, 3),
        st.integers(0, 12),
        st.sampled_from([0.0, 0.0, 0.1, 0.9, 7.0, 61.0, 130.0]),
    ),
    max_size=40,
)


@given(STEPS)
def test_both_ways_decide_and_count_alike(steps: list[tuple[str, int, int, float]]) -> None:
    quick, usual = Side(quick=True), Side(quick=False)
    now_s = NOW_S
    for what, which, tokens, passed_s in steps:
        now_s += passed_s
        if what == "ask":
            assert quick.ask(which % 2, tokens, now_s) == usual.ask(which % 2, tokens, now_s)
        else:
            quick.end(which, tokens, now_s)
            usual.end(which, tokens, now_s)
    for side in (quick, usual):
        side.end_all(now_s)
    for which in (0, 1):
        assert quick.ask(which, 1, now_s) == usual.ask(which, 1, now_s)


def test_the_short_way_is_the_usual_one_after_the_first_request() -> None:
    side = Side(quick=True)
    for _ in range(5):
        side.ask(0, 1, NOW_S)
        side.end(0, 1, NOW_S)
    assert side.n_quick == 4


def test_refused_is_left_to_the_usual_way_and_changes_nothing() -> None:
    side = Side(quick=True)
    side.ask(0, 1, NOW_S)
    form = ClaimForm(HEADS, [45])
    for _ in range(3):
        assert side.limiter.take_now(form, (1, 40, 1, 40), NOW_S) is None
    assert side.ask(0, 1, NOW_S) == (True, 2)


@pytest.mark.parametrize(("used", "is_quick"), [(44, True), (45, False), (60, False)])
def test_of_budgets_only_what_nobody_need_be_told_of(used: int, is_quick: bool) -> None:
    limiter = MemoryLimiter()
    form = ClaimForm(HEADS, [45])
    claims = form.claims((1, 0, 1, 0))
    limiter.reserve_now("req_1", claims, now_s=NOW_S, seeds=SEEDS)
    limiter.settle(Reservation(id="req_1", claims=claims, at_s=NOW_S), (1, 0, 1, used), now_s=NOW_S)
    assert (limiter.take_now(form, (1, 1, 1, 1), NOW_S) is not None) is is_quick


def test_a_limit_of_nothing_is_not_at_hand() -> None:
    limiter = MemoryLimiter()
    form = ClaimForm([("none", "window", 0, 0.0)], [])
    assert limiter.take_now(form, (0,), NOW_S) is None


def test_what_is_held_outlives_a_sweep_and_any_time_without_a_lease() -> None:
    limiter = MemoryLimiter()
    form = ClaimForm([("concurrent", "held", 1, 0.0)], [])
    limiter.reserve_now("req_1", (), now_s=NOW_S)
    taken = limiter.take_now(form, (1,), NOW_S)
    assert taken is not None
    later_s = NOW_S + 1000
    assert not limiter.reserve_now("req_2", form.claims((1,)), now_s=later_s).is_granted
    limiter.settle_now(taken, (1,), later_s)
    assert limiter.reserve_now("req_3", form.claims((1,)), now_s=later_s).is_granted


def test_a_window_that_was_forgotten_counts_what_comes_late() -> None:
    limiter = MemoryLimiter()
    form = ClaimForm([("tokens", "window", 10, 0.0)], [])
    limiter.reserve_now("req_1", (), now_s=NOW_S)
    taken = limiter.take_now(form, (1,), NOW_S)
    assert taken is not None
    later_s = NOW_S + 1000
    limiter.reserve_now("req_2", (), now_s=later_s)  # looks for counters that nothing is left of
    assert limiter.n_counters == 0
    limiter.settle_now(taken, (10,), later_s)
    assert not limiter.reserve_now("req_3", form.claims((2,)), now_s=later_s).is_granted
