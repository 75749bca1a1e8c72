"""Tills give out what the limiter's usual way gives out, no more and no less, and say the same."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.limit_settings import Budget, Limits
from dragoman.policy.allowances import RuleSet, Scope, Till, Use, rules_of
from dragoman.policy.limits import Reservation
from dragoman.stores.limiter_memory import MemoryLimiter

NOW_S = 4_000_060_800.25 - 3_600  # an hour before a day ends
NO_USE = Use(1, 0, 0, 0, 0, 1)
DAY = Budget(period="day", tokens=150)
MONTH = Budget(period="month", tokens=900, cost_micros=700)
KEY = Limits(
    requests_per_minute=9,
    input_tokens_per_minute=60,
    output_tokens_per_minute=40,
    concurrent=3,
)
TEAM = Limits(input_tokens_per_minute=70, concurrent=4)
MODEL = Limits(requests_per_minute=12, output_tokens_per_minute=35)
HUGE = Limits(requests_per_minute=5, input_tokens_per_minute=10**12)


class Zeros(dict[str, int]):
    """Nothing was used of any budget."""

    def get(self, key: str, default: object = None) -> int:  # type: ignore[override]  # one use
        return 0


def rule_set(
    *owners: tuple[Scope, str, Limits], budgets: Sequence[Budget] = (DAY, MONTH)
) -> RuleSet:
    """Rules of several owners; the first one has the budgets."""
    rules = []
    for scope, owner, limits in owners:
        rules += rules_of(scope, owner, owner, limits=limits, budgets=budgets)
        budgets = ()
    return RuleSet(tuple(rules))


def rule_sets() -> list[RuleSet]:
    """
    Rules of a key alone, of the same for a model, of another key of its team for that model, and of
    a key of few rules for a model with a huge one.
    """
    return [
        rule_set(("key", "k", KEY)),
        rule_set(("key", "k", KEY), ("workspace", "w", TEAM), ("model", "m", MODEL)),
        rule_set(("key", "l", KEY), ("workspace", "w", TEAM), ("model", "m", MODEL), budgets=[DAY]),
        rule_set(("key", "n", Limits(requests_per_minute=5)), ("model", "o", HUGE), budgets=()),
    ]


class Side:
    """One limiter, and the requests that are at work under it; ``quick``: by tills."""

    def __init__(self, *, quick: bool) -> None:
        self.limiter = MemoryLimiter()
        self.n_quick = 0
        self._is_quick = quick
        self._rules = rule_sets()
        self._open: list[tuple[RuleSet, Use, float, Till | Reservation]] = []
        self._n = 0

    def ask(self, which: int, use: Use, now_s: float) -> tuple[bool, bytes]:
        """Return whether it was let in, and what its client is told."""
        self._n += 1
        self._renew(now_s)
        rules = self._rules[which]
        if self._is_quick and (till := self._till(rules, use, now_s)) is not None:
            self.n_quick += 1
            self._open.append((rules, use, now_s, till))
            return True, rules.headers.lines_of_rest(till, now_s)
        claims, name = rules.claims(use, now_s), f"req_{self._n}"
        verdict = self.limiter.reserve_now(name, claims, now_s=now_s, seeds=Zeros())
        if verdict.is_granted:
            reservation = Reservation(id=name, claims=claims, at_s=now_s)
            self._open.append((rules, use, now_s, reservation))
        return verdict.is_granted, rules.headers.lines(verdict.used, now_s)

    def look(self, which: int, now_s: float) -> bytes:
        """Return what a client is told whose request could not be read."""
        rules = self._rules[which]
        nothing = [0] * len(rules.rules)
        claims = rules.form(now_s).claims(nothing)[: rules.n_windows]
        verdict = self.limiter.reserve_now("req_0", claims, now_s=now_s)
        return rules.headers.lines(verdict.used, now_s)

    def end(self, which: int, actual: Use, now_s: float) -> None:
        if not self._open:
            return
        self._renew(now_s)
        rules, was, at_s, way = self._open.pop(which % len(self._open))
        if isinstance(way, Reservation):
            self.limiter.settle(way, rules.amounts(actual), now_s=now_s)
        else:
            way.settle(was, actual, at_s, now_s)

    def end_all(self, now_s: float) -> None:
        while self._open:
            self.end(0, use_of(2, 2, 2), now_s)

    def change_limits(self) -> None:
        """Let the first key have other limits from now on."""
        fewer = Limits(requests_per_minute=8, input_tokens_per_minute=50, concurrent=2)
        self._rules[0] = rule_set(("key", "k", fewer))

    def in_use(self, now_s: float) -> dict[str, tuple[int, ...]]:
        """Return what is in use of each counter, where anything is."""
        limiter = self.limiter
        for tally in limiter._tallies.values():
            tally.pour()
        for window in limiter._windows.values():
            window.roll(int(now_s))
        windows = {name: (each.used,) for name, each in limiter._windows.items()}
        others = {
            name: (each.held, each.used)
            for name, each in limiter._held.items()
            if not each.ends_s or each.ends_s > now_s  # others are forgotten, sooner or later
        }
        return {name: each for name, each in {**windows, **others}.items() if any(each)}

    def _till(self, rules: RuleSet, use: Use, now_s: float) -> Till | None:
        till = rules.till
        if till is not None and till.take(use, now_s):
            return till
        if till is not None and not till.is_closed:
            return None
        till = rules.till = self.limiter.open_till(rules.form(now_s), rules.headers, now_s)
        return till if till is not None and till.take(use, now_s) else None

    def _renew(self, now_s: float) -> None:
        held = [way for *_, way in self._open if isinstance(way, Reservation)]
        self.limiter.renew(held, now_s=now_s)


def use_of(fresh: int, output: int, cost: int) -> Use:
    return Use(1, fresh, output, fresh + output, cost, 1)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["ask", "ask", "ask", "end", "end", "look", "change"]),
        st.integers(0, 7),
        st.builds(use_of, st.integers(0, 14), st.integers(0, 9), st.integers(0, 40)),
        st.sampled_from([0.0, 0.0, 0.0, 0.1, 0.4, 0.9, 1.0, 7.0, 61.0, 130.0, 3_700.0]),
    ),
    max_size=60,
)


@given(STEPS)
def test_both_ways_decide_say_and_count_alike(steps: list[tuple[str, int, Use, float]]) -> None:
    quick, usual = Side(quick=True), Side(quick=False)
    now_s = NOW_S
    for what, which, use, passed_s in steps:
        now_s += passed_s
        if what == "ask":
            assert quick.ask(which % 4, use, now_s) == usual.ask(which % 4, use, now_s)
        elif what == "look":
            assert quick.look(which % 4, now_s) == usual.look(which % 4, now_s)
        elif what == "change":
            quick.change_limits()
            usual.change_limits()
        else:
            quick.end(which, use, now_s)
            usual.end(which, use, now_s)
    for side in (quick, usual):
        side.end_all(now_s)
    assert quick.in_use(now_s) == usual.in_use(now_s)
    for which in range(4):
        assert quick.ask(which, NO_USE, now_s) == usual.ask(which, NO_USE, now_s)


@pytest.mark.parametrize("which", range(3))
def test_the_short_way_is_the_usual_one_after_the_first_request(which: int) -> None:
    side = Side(quick=True)
    for n in range(8):
        side.ask(which, use_of(1, 1, 1), NOW_S + n / 3)
        side.end(0, use_of(2, 1, 1), NOW_S + n / 3)
    assert side.n_quick == 7


def test_refused_is_left_to_the_usual_way_and_changes_nothing() -> None:
    side = Side(quick=True)
    side.ask(1, use_of(1, 1, 1), NOW_S)
    before = side.in_use(NOW_S)
    for _ in range(3):
        assert not side.ask(1, use_of(10, 36, 1), NOW_S)[0]  # too much for the model alone
    assert side.n_quick == 0
    assert side.in_use(NOW_S) == before


@pytest.mark.parametrize(("used", "is_quick"), [(119, True), (120, False), (150, False)])
def test_of_budgets_only_what_nobody_need_be_told_of(used: int, is_quick: bool) -> None:
    side = Side(quick=True)
    side.ask(0, NO_USE, NOW_S)
    side.end(0, Use(1, 0, 0, used, 0, 1), NOW_S)
    side.ask(0, NO_USE, NOW_S)
    assert side.n_quick == int(is_quick)


def test_a_limit_of_nothing_is_not_at_hand() -> None:
    rules = rule_set(("key", "k", Limits(output_tokens_per_minute=0)), budgets=())
    till = MemoryLimiter().open_till(rules.form(NOW_S), rules.headers, NOW_S)
    assert till is None


def open_till(limiter: MemoryLimiter, limits: Limits) -> tuple[RuleSet, Till]:
    rules = rule_set(("key", "k", limits), budgets=())
    till = limiter.open_till(rules.form(NOW_S), rules.headers, NOW_S)
    assert till is not None
    return rules, till


EACH_ALONE = {
    "requests": (Limits(requests_per_minute=5), [], NO_USE),
    "tokens of prompts": (Limits(input_tokens_per_minute=5), [], use_of(1, 0, 0)),
    "tokens of replies": (Limits(output_tokens_per_minute=5), [], use_of(0, 1, 0)),
    "places": (Limits(concurrent=5), [], NO_USE),
    "a budget of tokens": (Limits(), [Budget(period="day", tokens=5)], use_of(1, 0, 0)),
    "a budget of money": (Limits(), [Budget(period="day", cost_micros=5)], use_of(0, 0, 1)),
}


@pytest.mark.parametrize(("limits", "budgets", "use"), EACH_ALONE.values(), ids=EACH_ALONE)
def test_each_limit_holds_by_itself(limits: Limits, budgets: list[Budget], use: Use) -> None:
    limiter, rules = MemoryLimiter(), rule_set(("key", "k", limits), budgets=budgets)
    claims = rules.claims(Use(0, 0, 0, 0, 0, 0), NOW_S)
    limiter.reserve_now("req_1", claims, now_s=NOW_S, seeds=Zeros())  # budgets are known by then
    till = limiter.open_till(rules.form(NOW_S), rules.headers, NOW_S)
    assert till is not None
    taken = [till.take(use, NOW_S) for _ in range(8)]
    n_taken = taken.count(True)
    assert taken == [True] * n_taken + [False] * (8 - n_taken)
    # Of a budget, its owner is told before it is used up: the rest goes the usual way.
    assert n_taken == (3 if budgets else 5)


def test_what_is_held_outlives_a_sweep_and_any_time_without_a_lease() -> None:
    limiter = MemoryLimiter()
    rules, till = open_till(limiter, Limits(concurrent=1))
    limiter.reserve_now("req_1", (), now_s=NOW_S)
    assert till.take(NO_USE, NOW_S)
    later_s = NOW_S + 1000
    claims = rules.claims(NO_USE, later_s)
    assert not limiter.reserve_now("req_2", claims, now_s=later_s).is_granted
    till.settle(NO_USE, NO_USE, NOW_S, later_s)
    assert limiter.reserve_now("req_3", claims, now_s=later_s).is_granted


def test_what_comes_late_counts_in_a_window_that_was_empty() -> None:
    limiter = MemoryLimiter()
    rules, till = open_till(limiter, Limits(output_tokens_per_minute=10))
    assert till.take(use_of(0, 1, 0), NOW_S)
    later_s = NOW_S + 1000
    limiter.reserve_now("req_2", (), now_s=later_s)  # looks for counters that nothing is left of
    till.settle(use_of(0, 1, 0), use_of(0, 10, 0), NOW_S, later_s)
    claims = rules.claims(use_of(0, 2, 0), later_s)
    assert not limiter.reserve_now("req_3", claims, now_s=later_s).is_granted


def test_counters_and_tallies_that_nobody_asks_for_are_forgotten() -> None:
    limiter = MemoryLimiter()
    _, till = open_till(limiter, KEY)
    assert till.take(NO_USE, NOW_S)
    till.settle(NO_USE, NO_USE, NOW_S, NOW_S)
    limiter.reserve_now("req_2", (), now_s=NOW_S + 1000)
    assert till.is_closed
    assert not till.take(NO_USE, NOW_S + 1000)
    assert limiter.n_counters == 0


def test_a_clock_that_is_set_back_gives_nothing_back() -> None:
    limiter = MemoryLimiter()
    rules, till = open_till(limiter, Limits(output_tokens_per_minute=10))
    assert till.take(use_of(0, 6, 0), NOW_S)
    claims = rules.claims(use_of(0, 5, 0), NOW_S - 30)
    assert not limiter.reserve_now("req_1", claims, now_s=NOW_S - 30).is_granted
    assert not till.take(use_of(0, 5, 0), NOW_S - 30)
    assert till.take(use_of(0, 4, 0), NOW_S - 30)
    till.settle(use_of(0, 4, 0), use_of(0, 0, 0), NOW_S - 30, NOW_S - 29)
    assert not till.take(use_of(0, 1, 0), NOW_S - 29)


def test_a_clock_that_is_set_back_by_hours_holds_nobody_up() -> None:
    limiter = MemoryLimiter()
    rules, till = open_till(limiter, Limits(output_tokens_per_minute=10))
    assert till.take(use_of(0, 6, 0), NOW_S)
    then_s = NOW_S - 7200
    claims = rules.claims(use_of(0, 5, 0), then_s)
    assert not limiter.reserve_now("req_1", claims, now_s=then_s).is_granted
    assert not till.take(use_of(0, 5, 0), then_s)
    till.settle(use_of(0, 6, 0), use_of(0, 7, 0), NOW_S, then_s)
    assert not till.take(use_of(0, 4, 0), then_s)
    assert till.take(use_of(0, 3, 0), then_s)
    assert till.take(use_of(0, 10, 0), then_s + 61)


def test_more_than_ample_in_a_second_goes_the_usual_way() -> None:
    rules = rule_set(
        ("key", "k", Limits(concurrent=9)), budgets=[Budget(period="day", tokens=2**50)]
    )
    limiter = MemoryLimiter()
    limiter.reserve_now("req_1", rules.claims(NO_USE, NOW_S), now_s=NOW_S, seeds=Zeros())
    till = limiter.open_till(rules.form(NOW_S), rules.headers, NOW_S)
    assert till is not None
    much = use_of(2**29, 0, 0)
    assert [till.take(much, NOW_S) for _ in range(3)] == [True, False, False]
    claims = rules.claims(much, NOW_S)
    assert limiter.reserve_now("req_2", claims, now_s=NOW_S).is_granted
    assert till.take(much, NOW_S), "what the counters know leaves room again"
