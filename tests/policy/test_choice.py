"""The order of targets: priority, health, and each way of telling equals apart."""

import random
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct

from dragoman.core.errors import UpstreamUnauthorized
from dragoman.policy.choice import Chooser, by_affinity
from dragoman.policy.health import Health
from dragoman.policy.load import Load
from dragoman.settings import Balance, RoutingConfig


class Place(Struct, frozen=True, kw_only=True):
    endpoint: str
    priority: int = 0
    weight: float = 1.0
    busy_at: int | None = None

    @property
    def id(self) -> str:
        return f"{self.endpoint} m"

    @property
    def home(self) -> str:
        return self.id


A, B, C = (Place(endpoint=name) for name in "abc")
KEYS = [str(number).encode() for number in range(2_000)]
names = st.lists(st.text("abcdefgh0123456789/", min_size=1, max_size=8), min_size=2, unique=True)


class Bench:
    """A chooser with what it looks at."""

    def __init__(self, *, seed: int = 1) -> None:
        self.health = Health(RoutingConfig())
        self.load = Load()
        self.chooser = Chooser(self.health, self.load, draw=random.Random(seed).random)

    def order(
        self,
        *targets: Place,
        balance: Balance = "affinity",
        key: bytes = b"k",
        now_s: float = 0.0,
    ) -> list[str]:
        ordered = self.chooser.order(targets, balance=balance, affinity=lambda: key, now_s=now_s)
        assert sorted(t.endpoint for t in ordered) == sorted(t.endpoint for t in targets)
        return [target.endpoint for target in ordered]

    def busy(self, **calls: int) -> "Bench":
        for endpoint, n in calls.items():
            self.load.busy[endpoint] += n
        return self


@pytest.mark.parametrize("balance", ["affinity", "weighted", "least_busy", "fastest"])
def test_priority_comes_first(balance: Balance) -> None:
    first, second = Place(endpoint="x"), Place(endpoint="y")
    last = Place(endpoint="z", priority=1)
    for seed in range(20):
        bench = Bench(seed=seed).busy(x=20, y=20)
        assert bench.order(last, second, first, balance=balance)[2] == "z"


@pytest.mark.parametrize("balance", ["affinity", "weighted", "least_busy", "fastest"])
def test_the_ill_come_last(balance: Balance) -> None:
    bench = Bench()
    refused = UpstreamUnauthorized("no")
    bench.health.fail(A, refused, 0)
    last = Place(endpoint="z", priority=9)
    assert bench.order(A, last, balance=balance) == ["z", "a"]
    assert bench.order(A, last, balance=balance, now_s=600) == ["a", "z"]


def test_what_makes_a_conversation_is_looked_up_only_where_it_counts() -> None:
    bench = Bench()

    def fail() -> bytes:
        raise AssertionError("asked for")

    apart = [Place(endpoint=str(number), priority=number) for number in range(3)]
    ordered = bench.chooser.order(apart, balance="affinity", affinity=fail, now_s=0)
    assert ordered == apart
    bench.chooser.order([A, B], balance="weighted", affinity=fail, now_s=0)


# -- affinity


def homes(targets: list[Place]) -> dict[bytes, str]:
    return {key: by_affinity(targets, key)[0].endpoint for key in KEYS}


def test_a_conversation_stays_where_it_is() -> None:
    orders = {tuple(Bench(seed=seed).order(A, B, C, key=b"talk")) for seed in range(20)}
    assert len(orders) == 1


def test_the_order_is_the_same_in_every_process_and_release() -> None:
    targets = [Place(endpoint=f"lab/{number}") for number in range(1, 6)]
    found = [t.endpoint for t in by_affinity(targets, b"a session")]
    assert found == ["lab/2", "lab/5", "lab/4", "lab/1", "lab/3"]


@given(names, st.data())
def test_a_target_that_goes_moves_only_its_own(listed: list[str], data: st.DataObject) -> None:
    targets = [Place(endpoint=name) for name in listed]
    gone = data.draw(st.sampled_from(targets))
    rest = [target for target in targets if target is not gone]
    for key in KEYS[:50]:
        before, after = by_affinity(targets, key), by_affinity(rest, key)
        assert after == [target for target in before if target is not gone]


def test_conversations_are_spread_evenly() -> None:
    shares = Counter(homes([A, B, C]).values())
    assert all(580 < shares[name] < 760 for name in "abc")


def test_weights_decide_the_shares() -> None:
    heavy = Place(endpoint="heavy", weight=3)
    before, after = homes([A, B]), homes([A, B, heavy])
    assert 1_120 < Counter(after.values())["heavy"] < 1_280
    moved = {after[key] for key in KEYS if before[key] != after[key]}
    assert moved == {"heavy"}


def test_a_full_home_spills_over_to_the_next_of_the_conversation() -> None:
    key = next(key for key in KEYS if Bench().order(A, B, C, key=key) == ["a", "b", "c"])
    assert Bench().busy(a=3).order(A, B, C, key=key) == ["a", "b", "c"]
    assert Bench().busy(a=4).order(A, B, C, key=key) == ["b", "c", "a"]
    assert Bench().busy(a=9, b=9, c=9).order(A, B, C, key=key) == ["a", "b", "c"]
    assert Bench().busy(a=15, b=5, c=5).order(A, B, C, key=key) == ["b", "c", "a"]


def test_where_all_are_full_the_least_busy_is_next() -> None:
    full = [Place(endpoint=name, busy_at=2) for name in "abc"]
    assert Bench().busy(a=9, b=2, c=5).order(*full)[0] == "b"


def test_an_engine_may_say_when_it_is_full() -> None:
    places = [Place(endpoint=name, busy_at=1) for name in "ab"]
    home, other = Bench().order(*places)
    assert Bench().busy(**{home: 1}).order(*places) == [other, home]
    assert Bench().busy(**{home: 1, other: 1}).order(*places)[0] in (home, other)


# -- the others


def test_lots_are_drawn_by_weight() -> None:
    heavy, bench = Place(endpoint="heavy", weight=3), Bench()
    first = Counter(bench.order(A, heavy, balance="weighted")[0] for _ in range(2_000))
    assert 1_420 < first["heavy"] < 1_580


def test_the_least_busy_by_weight() -> None:
    heavy = Place(endpoint="heavy", weight=4)
    bench = Bench().busy(a=1, b=2, heavy=2)
    assert bench.order(A, B, C, heavy, balance="least_busy") == ["heavy", "c", "a", "b"]


def test_equals_take_turns_by_chance() -> None:
    for balance in ("least_busy", "fastest"):
        first = Counter(Bench(seed=s).order(A, B, balance=balance)[0] for s in range(200))
        assert min(first.values()) > 60


def test_the_fastest_by_first_content_and_load() -> None:
    bench = Bench()
    for place, seconds in ((A, 0.2), (B, 0.5), (C, 2.0)):
        bench.load.observe(place.id, seconds, 0)
    assert bench.order(C, B, A, balance="fastest") == ["a", "b", "c"]
    bench.busy(a=3)
    assert bench.order(C, B, A, balance="fastest") == ["b", "a", "c"]


def test_an_unknown_one_is_tried_by_one_call_at_a_time() -> None:
    bench = Bench()
    bench.load.observe(A.id, 0.2, 0)
    assert bench.order(A, B, balance="fastest") == ["b", "a"]
    bench.busy(b=1)
    assert bench.order(A, B, balance="fastest") == ["a", "b"]


def test_of_those_that_are_unknown_and_at_work_the_least_busy_is_asked() -> None:
    for seed in range(20):
        bench = Bench(seed=seed).busy(a=4, b=2, c=3)
        assert bench.order(A, B, C, balance="fastest") == ["b", "c", "a"]
        strong = Place(endpoint="a", weight=3.0)
        assert bench.order(strong, B, C, balance="fastest") == ["a", "b", "c"]


def test_old_times_count_no_more() -> None:
    bench = Bench()
    bench.load.observe(A.id, 0.2, 0)
    bench.load.observe(B.id, 5.0, 100)
    assert bench.order(A, B, balance="fastest", now_s=100) == ["a", "b"]
    bench.load.observe(A.id, 0.2, 221)
    assert bench.order(A, B, balance="fastest", now_s=221) == ["b", "a"]


# -- load


def samples(n: int) -> Iterator[float]:
    yield from (number / 10 for number in range(1, n + 1))


def test_percentiles_need_enough_times() -> None:
    load = Load()
    for seconds in samples(19):
        load.observe("x", seconds, 0)
    assert load.percentile_s("x", 90, at_least=20) is None
    assert load.percentile_s("y", 90, at_least=1) is None
    load.observe("x", 2.0, 0)
    assert load.percentile_s("x", 90, at_least=20) == pytest.approx(1.9)
    assert load.percentile_s("x", 100, at_least=20) == pytest.approx(2.0)


def test_only_the_last_times_count() -> None:
    load = Load()
    for seconds in [9.0] * 200 + [1.0] * 128:
        load.observe("x", seconds, 0)
    assert load.percentile_s("x", 99, at_least=1) == 1.0


def test_times_are_kept_of_so_many_targets() -> None:
    load = Load()
    for number in range(10_010):
        load.observe(str(number), 1.0, 0)
    assert load.first_content_s("0", 0) is None
    assert load.first_content_s("10009", 0) == 1.0
