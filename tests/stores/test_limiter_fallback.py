"""Without its counters a gateway goes on with its share, or refuses; and tells what it gave out."""

import asyncio
from collections.abc import Mapping, Sequence

import pytest

from dragoman.core.errors import SharedStateUnavailable
from dragoman.policy.limits import Claim, Reservation, Verdict
from dragoman.stores.limiter_fallback import FallbackLimiter
from dragoman.stores.limiter_memory import MemoryLimiter

NOW_S = 1_790_000_000.0
WINDOW = Claim(counter="w", mode="window", limit=100, amount=1)
BUDGET = Claim(counter="b", mode="budget", limit=1000, amount=50, ends_s=NOW_S + 9000)


class Shared(MemoryLimiter):
    """Counters that can be away."""

    is_away = False

    async def reserve(
        self,
        request_id: str,
        claims: Sequence[Claim],
        *,
        now_s: float,
        seeds: Mapping[str, int] | None = None,
    ) -> Verdict:
        if self.is_away:
            raise SharedStateUnavailable("away")
        return self.reserve_now(request_id, claims, now_s=now_s, seeds=seeds or {"b": 0})


class Case:
    def __init__(self, *, is_open: bool = True, share_pct: int = 25) -> None:
        self.states: list[str] = []
        self.now_s = NOW_S
        self.shared = Shared()
        self.limiter = FallbackLimiter(
            self.shared, is_open=is_open, share_pct=share_pct, told=self.states.append
        )
        self._n = 0

    async def reserve(self, *claims: Claim) -> tuple[Reservation, Verdict]:
        self._n += 1
        name = f"r{self._n}"
        verdict = await self.limiter.reserve(name, claims, now_s=self.now_s)
        return Reservation(id=name, claims=claims, at_s=self.now_s), verdict

    async def count(self, *claims: Claim) -> int:
        """Return how many requests in a row are granted."""
        for n in range(2000):
            if not (await self.reserve(*claims))[1].is_granted:
                return n
        raise AssertionError("no end")

    async def used(self) -> int:
        _, verdict = await self.reserve(BUDGET)
        return verdict.used[0]

    def settle(self, reservation: Reservation, *actual: int) -> None:
        self.limiter.settle(reservation, actual, now_s=NOW_S)


def test_alone_it_gives_out_its_share_of_a_limit() -> None:
    async def main() -> None:
        case = Case()
        case.shared.is_away = True
        assert await case.count(WINDOW) == 25
        assert case.states == ["alone"]
        assert (case.limiter.is_alone, case.limiter.n_alone) == (True, 26)
        case.shared.is_away = False
        assert await case.count(WINDOW) == 100
        assert case.states == ["alone", "shared"]
        assert not case.limiter.is_alone

    asyncio.run(main())


def test_what_is_told_to_be_left_is_left() -> None:
    async def main() -> None:
        case = Case()
        case.shared.is_away = True
        _, verdict = await case.reserve(WINDOW)
        assert WINDOW.limit - verdict.used[0] == 24
        while verdict.is_granted:
            _, verdict = await case.reserve(WINDOW)
        assert WINDOW.limit - verdict.used[0] == 0

    asyncio.run(main())


def test_a_budget_that_was_used_up_is_known_to_be_so() -> None:
    async def main() -> None:
        case = Case()
        reservation, _ = await case.reserve(BUDGET)
        case.settle(reservation, 1000)
        await case.reserve(BUDGET)  # so it is seen
        case.shared.is_away = True
        _, verdict = await case.reserve(BUDGET)
        assert (verdict.refused, verdict.used[0]) == ((0,), 1000)

    asyncio.run(main())


def test_a_budget_of_which_our_share_is_used_up_is_not() -> None:
    async def main() -> None:
        case = Case()
        case.shared.is_away = True
        reservation, verdict = await case.reserve(BUDGET)
        case.settle(reservation, 250)
        _, verdict = await case.reserve(BUDGET)
        assert (verdict.refused, verdict.used[0]) == ((0,), 250)

    asyncio.run(main())


def test_a_small_limit_is_no_0() -> None:
    async def main() -> None:
        case = Case(share_pct=10)
        case.shared.is_away = True
        three = Claim(counter="h", mode="held", limit=3)
        assert await case.count(three) == 1
        none = Claim(counter="n", mode="window", limit=0)
        assert await case.count(none) == 0

    asyncio.run(main())


def test_closed_it_refuses() -> None:
    async def main() -> None:
        case = Case(is_open=False)
        case.shared.is_away = True
        with pytest.raises(SharedStateUnavailable):
            await case.reserve(WINDOW)
        assert case.states == ["alone"]
        assert case.limiter.n_alone == 1

    asyncio.run(main())


def test_alone_no_budget_is_exceeded_by_more_than_the_share() -> None:
    async def main() -> None:
        case = Case()
        case.shared.is_away = True
        for _ in range(2):  # an outage that comes again gives no second share
            while True:
                reservation, verdict = await case.reserve(BUDGET)
                if not verdict.is_granted:
                    break
                case.settle(reservation, 50)
            case.shared.is_away = False
            await case.reserve(WINDOW)
            case.shared.is_away = True
        case.shared.is_away = False
        assert await case.used() == 0, "its counter was not there to be told"

    asyncio.run(main())


def test_what_was_used_alone_is_told_to_the_counters() -> None:
    async def main() -> None:
        case = Case()
        first, _ = await case.reserve(BUDGET)
        case.settle(first, 100)
        case.shared.is_away = True
        reservation, verdict = await case.reserve(WINDOW, BUDGET)
        assert verdict.is_granted
        case.settle(reservation, 1, 70)
        case.shared.is_away = False
        assert await case.used() == 170
        assert "w" not in case.shared._windows, "a window is over before anybody could be told"

    asyncio.run(main())


def test_of_a_budget_that_was_nearly_used_up_only_the_rest_is_given_out() -> None:
    async def main() -> None:
        case = Case()
        first, _ = await case.reserve(BUDGET)
        case.settle(first, 960)
        assert await case.used() == 960  # so it has been seen
        case.shared.is_away = True
        assert await case.count(BUDGET) == 1
        case = Case()
        first, _ = await case.reserve(BUDGET)
        case.settle(first, 1000)
        await case.reserve(BUDGET)
        case.shared.is_away = True
        assert await case.count(BUDGET) == 0

    asyncio.run(main())


def test_a_late_answer_makes_no_full_limit_give_way() -> None:
    async def main() -> None:
        case = Case()
        assert await case.count(WINDOW) == 100
        case.shared.is_away = True
        assert await case.count(WINDOW) == 0
        case.now_s += 12
        assert await case.count(WINDOW) == 20, "a fifth of the minute is over"
        case.now_s += 120
        assert await case.count(WINDOW) == 25

    asyncio.run(main())


def test_it_is_alone_no_longer_when_it_hears_that_the_counters_are_back() -> None:
    async def main() -> None:
        case = Case()
        case.limiter.hear(True, "")
        assert case.states == []
        case.shared.is_away = True
        await case.reserve(WINDOW)
        case.limiter.hear(False, "gone")
        assert (case.limiter.is_alone, case.states) == (True, ["alone"])
        case.limiter.hear(True, "")  # without a request that would find out
        assert (case.limiter.is_alone, case.states) == (False, ["alone", "shared"])

    asyncio.run(main())


def test_leases_are_renewed_where_they_are() -> None:
    async def main() -> None:
        case = Case()
        place = Claim(counter="h", mode="held", limit=8)
        shared, _ = await case.reserve(place)
        case.shared.is_away = True
        alone, _ = await case.reserve(place)
        case.limiter.renew([shared, alone], now_s=NOW_S + 50)
        ends = {id_: lease.ends_s for id_, lease in case.shared._held["h"].leases.items()}
        assert ends == {shared.id: NOW_S + 110}
        own = case.limiter._alone._held["h"].leases
        assert {id_: lease.ends_s for id_, lease in own.items()} == {alone.id: NOW_S + 110}

    asyncio.run(main())
