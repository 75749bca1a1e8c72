"""One suite for every limiter: the memory of a process, that of an owner, and a real Redis."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dragoman.policy.limits import LEASE_S, Claim, Limiter, Reservation, Verdict
from dragoman.settings import RedisConfig, Secret
from dragoman.stores.limiter_memory import MemoryLimiter
from dragoman.stores.limiter_owner import OwnedLimiter
from dragoman.stores.limiter_redis import RedisLimiter
from dragoman.stores.redis_link import RedisLink
from support.owned_workers import workers

NOW_S = 4_000_000_000.0  # ahead of any clock: Redis forgets what is over by its own
DAY_ENDS_S = NOW_S + 40_000


def window(limit: int, amount: int = 1, counter: str = "w") -> Claim:
    return Claim(counter=counter, mode="window", limit=limit, amount=amount)


def held(limit: int, counter: str = "h") -> Claim:
    return Claim(counter=counter, mode="held", limit=limit)


def budget(limit: int, amount: int = 1, counter: str = "b") -> Claim:
    return Claim(counter=counter, mode="budget", limit=limit, amount=amount, ends_s=DAY_ENDS_S)


class Bench:
    """A limiter, a clock, and requests that are numbered."""

    def __init__(self, limiter: Limiter) -> None:
        self.limiter = limiter
        self.now_s = NOW_S
        self._n = 0

    async def reserve(
        self, *claims: Claim, seeds: dict[str, int] | None = None
    ) -> tuple[Reservation, Verdict]:
        self._n += 1
        name = f"req_{self._n}"
        verdict = await self.limiter.reserve(name, claims, now_s=self.now_s, seeds=seeds or {})
        return Reservation(id=name, claims=claims, at_s=verdict.at_s), verdict

    async def take(self, *claims: Claim, seeds: dict[str, int] | None = None) -> Reservation:
        reservation, verdict = await self.reserve(*claims, seeds=seeds)
        assert verdict.is_granted, verdict
        return reservation

    async def refuse(self, *claims: Claim) -> Verdict:
        _, verdict = await self.reserve(*claims)
        assert verdict.refused, verdict
        return verdict

    async def settle(self, reservation: Reservation, *actual: int) -> None:
        self.limiter.settle(reservation, actual, now_s=self.now_s)
        await self.limiter.close()  # which waits until it is done

    async def renew(self, *reservations: Reservation) -> None:
        self.limiter.renew(reservations, now_s=self.now_s)
        await self.limiter.close()


Case = Callable[[Bench], Awaitable[None]]


@asynccontextmanager
async def redis_limiter(url: str) -> AsyncIterator[RedisLimiter]:
    link = RedisLink(RedisConfig(url=Secret(url), timeout_s=10))
    await link.open()
    limiter = RedisLimiter(link, uses_own_clock=False)
    try:
        yield limiter
    finally:
        await limiter.close()
        await link.close()


@pytest.fixture(params=["memory", "owner", pytest.param("redis", marks=pytest.mark.server)])
def check(request: pytest.FixtureRequest) -> Callable[[Case], None]:
    """Return what runs a case on the limiter."""

    def run(case: Case) -> None:
        if request.param == "memory":
            asyncio.run(_on_memory(case))
        elif request.param == "owner":
            asyncio.run(_on_owner(case))
        else:
            asyncio.run(_on_redis(case, request.getfixturevalue("redis_url")))

    return run


async def _on_redis(case: Case, url: str) -> None:
    async with redis_limiter(url) as limiter:
        await case(Bench(limiter))


async def _on_owner(case: Case) -> None:
    async with workers(1) as (_, (link,)):
        await case(Bench(OwnedLimiter(link)))


async def _on_memory(case: Case) -> None:
    await case(Bench(MemoryLimiter()))


Check = Callable[[Case], None]

# -- windows


def test_a_claim_of_nothing_takes_nothing_and_says_what_is_used(check: Check) -> None:
    async def case(bench: Bench) -> None:
        async def used() -> tuple[int, ...]:
            _, verdict = await bench.reserve(window(3, 0), window(9, 0, "other"))
            return verdict.used

        assert await used() == (0, 0)
        reservation = await bench.take(window(3, 2), window(9, 4, "other"))
        assert [await used() for _ in range(4)] == [(2, 4)] * 4
        await bench.settle(reservation, 5, 4)  # more than there is room for
        assert await used() == (5, 4)
        await bench.refuse(window(3))
        bench.now_s += 62
        assert await used() == (0, 0)

    check(case)


def test_a_clock_that_is_set_back_holds_nobody_up_for_longer_than_a_window(check: Check) -> None:
    async def case(bench: Bench) -> None:
        before = await bench.take(window(3, 2))
        bench.now_s += 5
        await bench.take(window(3, 1))
        bench.now_s -= 3600
        verdict = await bench.refuse(window(3))
        assert (verdict.used, verdict.retry_after_s) == ((3,), 61), "nothing is given back"
        await bench.settle(before, 1)  # nobody knows any more when it was
        assert (await bench.refuse(window(3))).used == (3,)
        bench.now_s += 61
        await bench.take(window(3, 3))
        bench.now_s -= 30
        await bench.refuse(window(3))
        bench.now_s += 91
        await bench.take(window(3, 3))

    check(case)


def test_a_window_gives_out_its_limit_and_says_when_there_is_more(check: Check) -> None:
    async def case(bench: Bench) -> None:
        for number in range(1, 4):
            _, verdict = await bench.reserve(window(3))
            assert (verdict.is_granted, verdict.used) == (True, (number,))
            bench.now_s += 10
        verdict = await bench.refuse(window(3))
        assert (verdict.used, verdict.refused) == ((3,), (0,))
        assert verdict.retry_after_s == 31  # the first one was 30 s ago
        bench.now_s += 30.9
        await bench.refuse(window(3))
        bench.now_s += 0.1
        await bench.take(window(3))
        await bench.refuse(window(3))

    check(case)


def test_in_no_60_seconds_more_is_given_out(check: Check) -> None:
    async def case(bench: Bench) -> None:
        bench.now_s += 0.99
        for _ in range(5):
            await bench.take(window(5))
        bench.now_s += 60.0
        await bench.refuse(window(5))
        bench.now_s += 0.02
        await bench.take(window(5))

    check(case)


def test_a_claim_over_the_whole_limit_fits_an_empty_window(check: Check) -> None:
    async def case(bench: Bench) -> None:
        await bench.take(window(100, 250))
        verdict = await bench.refuse(window(100, 1))
        assert verdict.used == (250,)
        assert 60 < verdict.retry_after_s <= 61
        bench.now_s += 61
        await bench.take(window(100, 1))
        await bench.refuse(window(100, 250))

    check(case)


def test_nothing_fits_a_limit_of_0(check: Check) -> None:
    async def case(bench: Bench) -> None:
        assert (await bench.refuse(window(0))).refused == (0,)
        assert (await bench.refuse(held(0))).refused == (0,)
        _, verdict = await bench.reserve(budget(0), seeds={"b": 0})
        assert verdict.refused == (0,)

    check(case)


def test_what_was_reserved_too_much_is_given_back(check: Check) -> None:
    async def case(bench: Bench) -> None:
        big = await bench.take(window(100, 90))
        await bench.refuse(window(100, 50))
        bench.now_s += 5
        await bench.settle(big, 20)
        _, verdict = await bench.reserve(window(100, 50))
        assert verdict.used == (70,)
        bench.now_s += 56
        _, verdict = await bench.reserve(window(100, 10))
        assert verdict.used == (60,), "of the first one 20 stood in its own second"

    check(case)


def test_what_was_used_beyond_counts_when_it_is_known(check: Check) -> None:
    async def case(bench: Bench) -> None:
        small = await bench.take(window(100, 10))
        bench.now_s += 120  # a long stream: what was reserved is out of the window
        await bench.settle(small, 95)
        verdict = await bench.refuse(window(100, 20))
        assert verdict.used == (85,)
        bench.now_s += 61
        await bench.take(window(100, 20))

    check(case)


def test_what_was_given_back_late_gives_nothing(check: Check) -> None:
    async def case(bench: Bench) -> None:
        old = await bench.take(window(100, 80))
        bench.now_s += 70
        await bench.take(window(100, 60))
        await bench.settle(old, 0)
        assert (await bench.refuse(window(100, 50))).used == (60,)

    check(case)


# -- places


def test_places_come_back_at_the_end(check: Check) -> None:
    async def case(bench: Bench) -> None:
        one, two = await bench.take(held(2)), await bench.take(held(2))
        verdict = await bench.refuse(held(2))
        assert (verdict.used, verdict.retry_after_s) == ((2,), 0)
        await bench.settle(one, 1)
        three = await bench.take(held(2))
        await bench.refuse(held(2))
        await bench.settle(two, 1)
        await bench.settle(three, 1)
        _, verdict = await bench.reserve(held(2))
        assert verdict.used == (1,)

    check(case)


def test_the_places_of_the_dead_come_back(check: Check) -> None:
    async def case(bench: Bench) -> None:
        dead, living = await bench.take(held(2)), await bench.take(held(2))
        for _ in range(4):
            bench.now_s += LEASE_S / 3
            await bench.renew(living)
        await bench.take(held(2))
        await bench.refuse(held(2))
        await bench.settle(dead, 1)  # it was only thought dead
        await bench.refuse(held(2))

    check(case)


def test_a_place_that_was_lost_comes_back_with_its_renewal(check: Check) -> None:
    async def case(bench: Bench) -> None:
        known = await bench.take(held(1, "other"))
        lost = Reservation(id="req_0", claims=(held(1),), at_s=NOW_S)
        await bench.renew(known, lost)
        await bench.refuse(held(1))
        await bench.settle(lost, 1)
        await bench.take(held(1))

    check(case)


# -- budgets


def test_a_budget_needs_a_seed_once(check: Check) -> None:
    async def case(bench: Bench) -> None:
        _, verdict = await bench.reserve(window(5), budget(100, 10))
        assert (verdict.unknown, verdict.is_granted) == ((1,), False)
        _, verdict = await bench.reserve(window(5), budget(100, 10), seeds={"b": 70})
        assert (verdict.is_granted, verdict.used) == (True, (1, 70))
        _, verdict = await bench.reserve(budget(100, 10), seeds={"b": 5})
        assert verdict.used == (70,), "the second seed changes nothing"

    check(case)


def test_a_budget_is_held_and_then_used(check: Check) -> None:
    async def case(bench: Bench) -> None:
        one = await bench.take(budget(100, 60), seeds={"b": 0})
        two = await bench.take(budget(100, 60))  # something was left: it may use that up
        verdict = await bench.refuse(budget(100, 1))
        assert verdict.used == (0,), "nothing is used up yet"
        await bench.settle(one, 30)
        await bench.take(budget(100, 10))
        await bench.settle(two, 75)
        verdict = await bench.refuse(budget(100, 1))
        assert verdict.used == (105,)

    check(case)


def test_a_budget_is_exceeded_by_no_more_than_those_at_work(check: Check) -> None:
    async def case(bench: Bench) -> None:
        granted = []
        for _ in range(50):
            reservation, verdict = await bench.reserve(budget(100, 9), seeds={"b": 0})
            granted += [reservation] * verdict.is_granted
        assert len(granted) == 12  # 11 of them hold 99
        for reservation in granted:
            await bench.settle(reservation, 9)
        assert (await bench.refuse(budget(100, 1))).used == (108,)

    check(case)


def test_what_the_dead_held_of_a_budget_comes_back(check: Check) -> None:
    async def case(bench: Bench) -> None:
        await bench.take(budget(100, 100), seeds={"b": 0})
        await bench.refuse(budget(100, 1))
        bench.now_s += 3 * LEASE_S
        _, verdict = await bench.reserve(budget(100, 1))
        assert verdict.used == (0,)

    check(case)


@pytest.mark.server
def test_redis_may_be_told_twice(redis_url: str) -> None:
    async def case(bench: Bench) -> None:
        claims = (window(100, 10), held(5), budget(100, 10))
        one = await bench.take(*claims, seeds={"b": 0})
        await bench.settle(one, 30, 1, 30)
        await bench.settle(one, 30, 1, 30)
        _, verdict = await bench.reserve(*claims)
        assert verdict.used == (40, 1, 30)

    asyncio.run(_on_redis(case, redis_url))


def test_a_budget_without_a_counter_is_left_to_its_seed(check: Check) -> None:
    async def case(bench: Bench) -> None:
        gone = Reservation(id="req_0", claims=(budget(100, 10),), at_s=NOW_S)
        await bench.settle(gone, 50)
        await bench.renew(gone)
        _, verdict = await bench.reserve(budget(100, 10))
        assert verdict.unknown == (0,)

    check(case)


@pytest.mark.server
def test_what_a_seed_holds_is_not_counted_again(redis_url: str) -> None:
    """Redis was away, has come back empty, and is told what was counted without it."""

    async def case(bench: Bench) -> None:
        seeded = await bench.take(budget(100, 10), seeds={"b": 40})
        for over_s, used in ((NOW_S - 60, 30), (NOW_S - 1, 5)):  # the latter may not be recorded
            alone = Reservation(id=f"alone at {over_s}", claims=(budget(100, 9),), at_s=over_s)
            bench.limiter.settle(alone, [used], now_s=over_s)
        await bench.settle(seeded, 20)
        _, verdict = await bench.reserve(budget(100, 1))
        assert verdict.used == (40 + 5 + 20,)

    asyncio.run(_on_redis(case, redis_url))


# -- all or none


def test_nothing_is_taken_if_one_claim_does_not_fit(check: Check) -> None:
    async def case(bench: Bench) -> None:
        await bench.take(held(1))
        verdict = await bench.refuse(window(2), held(1), window(9, 5, "other"))
        assert (verdict.refused, verdict.used) == ((1,), (0, 1, 0))
        await bench.take(window(2), window(9, 5, "other"))
        await bench.take(window(2))
        verdict = await bench.refuse(window(2), held(1), window(9, 5, "other"))
        assert verdict.refused == (0, 1, 2)
        assert verdict.retry_after_s == 61

    check(case)


# -- laws, in memory alone: the suite above says that Redis does the same

STEPS = st.lists(
    st.tuples(st.floats(0, 40), st.integers(1, 30), st.integers(0, 40)), min_size=1, max_size=60
)


@settings(max_examples=200, deadline=None)
@given(STEPS, st.integers(10, 100))
def test_a_window_never_gives_out_more_than_its_limit(
    steps: Sequence[tuple[float, int, int]], limit: int
) -> None:
    limiter, now_s = MemoryLimiter(), NOW_S
    given_out: list[tuple[float, int]] = []
    for number, (pause_s, amount, _) in enumerate(steps):
        now_s += pause_s
        claim = window(limit, min(amount, limit))
        if limiter.reserve_now(f"r{number}", (claim,), now_s=now_s).is_granted:
            given_out.append((now_s, claim.amount))
        recent = sum(amount for at_s, amount in given_out if at_s > now_s - 60)
        assert recent <= limit


@settings(max_examples=200, deadline=None)
@given(STEPS, st.integers(10, 100))
def test_whatever_is_settled_the_counters_end_at_nothing(
    steps: Sequence[tuple[float, int, int]], limit: int
) -> None:
    limiter, now_s = MemoryLimiter(), NOW_S
    open_ones: list[tuple[Reservation, tuple[int, ...]]] = []
    for number, (pause_s, amount, actual) in enumerate(steps):
        now_s += pause_s
        claims = (window(limit, amount), held(5), budget(limit, amount))
        name = f"r{number}"
        verdict = limiter.reserve_now(name, claims, now_s=now_s, seeds={"b": 0})
        if verdict.is_granted:
            reservation = Reservation(id=name, claims=claims, at_s=verdict.at_s)
            open_ones.append((reservation, (actual, 1, actual)))
        if open_ones and actual % 2:
            limiter.settle(*open_ones.pop(0), now_s=now_s)
        assert all(each.used >= 0 for each in limiter._windows.values())
    for reservation, amounts in open_ones:
        limiter.settle(reservation, amounts, now_s=now_s)
    assert all(each.held == 0 for each in limiter._held.values())
    limiter.reserve_now("last", (), now_s=now_s + 200_000)
    assert limiter.n_counters == 0


def test_counters_that_are_over_are_forgotten() -> None:
    limiter = MemoryLimiter()
    for number in range(1000):
        claims = (window(5, counter=f"w{number}"), budget(5, counter=f"b{number}"))
        limiter.reserve_now(f"r{number}", claims, now_s=NOW_S, seeds={f"b{number}": 0})
    assert limiter.n_counters == 2000
    limiter.reserve_now("next", (), now_s=NOW_S + 130)
    assert limiter.n_counters == 1000, "budgets stay until their day is over"
    limiter.reserve_now("next", (), now_s=DAY_ENDS_S + 4000)
    assert limiter.n_counters == 0


def _told(verdict: Verdict, claims: Sequence[Claim]) -> tuple[object, ...]:
    """Return what a verdict says, but for the places of the dead, which may still count."""
    used = zip(claims, verdict.used, strict=False)
    counted = [(claim.counter, n) for claim, n in used if claim.mode != "held"]
    return verdict.refused, verdict.unknown, round(verdict.retry_after_s, 3), counted


@pytest.mark.server
@pytest.mark.parametrize("seed", range(4))
def test_redis_says_what_the_memory_says(redis_url: str, seed: int) -> None:
    """Whatever is reserved, settled, renewed or forgotten, in whichever order."""
    chance = random.Random(seed)

    def some_claims() -> tuple[Claim, ...]:
        every = (
            window(60, chance.randint(1, 30)),
            window(9, counter="requests"),
            held(4),
            budget(2000, chance.randint(1, 60)),
        )
        return tuple(claim for claim in every if chance.random() < 0.7) or every[:1]

    async def main() -> None:
        memory = Bench(MemoryLimiter())
        async with redis_limiter(redis_url) as limiter:
            both = (memory, Bench(limiter))
            at_work: list[Reservation] = []
            for _ in range(250):
                pause_s = chance.choice([0.0, 0.25, 3.0, 11.0, 40.0])
                for bench in both:
                    bench.now_s += pause_s
                what = chance.random()
                if what < 0.6:
                    claims = some_claims()
                    (mine, said), (_, also) = [
                        await bench.reserve(*claims, seeds={"b": 100}) for bench in both
                    ]
                    assert _told(also, claims) == _told(said, claims), claims
                    at_work += [mine] * said.is_granted
                elif what < 0.85 and at_work:
                    over = at_work.pop(chance.randrange(len(at_work)))
                    amounts = [max(0, c.amount + chance.randint(-20, 20)) for c in over.claims]
                    for bench in both:
                        await bench.settle(over, *amounts)
                elif what < 0.95:
                    for bench in both:
                        await bench.renew(*at_work[-3:])
                elif at_work:
                    at_work.pop(0)  # its process has died

    asyncio.run(main())
