"""What was used of budgets before: asked for many at once, and told to each."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from dragoman.core.errors import SharedStateUnavailable, StoreUnavailable
from dragoman.policy.allowances import Rule
from dragoman.policy.records import Spent, SpentQuery
from dragoman.server import budget_seeds
from dragoman.server.budget_seeds import BudgetSeeds
from support.app_case import run

NOON_S = 1_795_521_600.0  # 2026-11-24 12:00 UTC


class Records:
    """A store in which each owner has used as many tokens as the number in its id, in cents too."""

    def __init__(self, error: Exception | None = None, *, takes_s: float = 0.01) -> None:
        self.queries: list[SpentQuery] = []
        self._error = error
        self._takes_s = takes_s

    async def get(self) -> Any:
        return self

    async def spent(self, query: SpentQuery) -> dict[str, Spent]:
        self.queries.append(query)
        await asyncio.sleep(self._takes_s)
        if self._error is not None:
            raise self._error
        numbers = {owner: _number(owner) for owner in query.owners}
        return {o: Spent(tokens=n, cost_micros=n * 10_000) for o, n in numbers.items() if n}


def _number(owner: str) -> int:
    return int(owner.partition("_")[2])


def rule(owner: str, *, kind: Any = "tokens", period: Any = "day") -> Rule:
    scope: Any = "workspace" if owner.startswith("wrkspc") else "key"
    return Rule(scope=scope, owner=owner, name=owner, kind=kind, limit=1, period=period)


async def ask_all(seeds: BudgetSeeds, asked: Sequence[Sequence[Rule]]) -> list[Any]:
    tasks = (seeds.used(rules, now_s=NOON_S) for rules in asked)
    return await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize(
    ("quick_s", "slow_s", "sizes"),
    [
        (60, 60, [16, 32, 64, 128, 128, 32]),  # whatever it takes is quick
        (0, 60, [16] * 25),
        (0, 0, [16, 8, 4, 2, *[1] * 370]),  # whatever it takes is slow
    ],
)
def test_many_are_asked_for_together(
    monkeypatch: pytest.MonkeyPatch, quick_s: float, slow_s: float, sizes: list[int]
) -> None:
    monkeypatch.setattr(budget_seeds, "_QUICK_S", quick_s)
    monkeypatch.setattr(budget_seeds, "_SLOW_S", slow_s)

    async def main() -> None:
        records = Records(takes_s=0)
        seeds = BudgetSeeds(records.get)
        found = await ask_all(seeds, [[rule(f"apikey_{n}")] for n in range(400)])
        assert found == [[n] for n in range(400)]
        assert [len(query.owners) for query in records.queries] == sizes
        await seeds.close()

    run(main())


def test_each_is_told_of_its_own() -> None:
    async def main() -> None:
        records = Records()
        seeds = BudgetSeeds(records.get)
        asked = [
            [rule("apikey_7"), rule("wrkspc_8", kind="cost_micros")],
            [rule("apikey_7", kind="cost_micros"), rule("apikey_7", period="month")],
            [rule("apikey_0"), rule("wrkspc_0")],  # who has used nothing has no row
        ]
        assert await ask_all(seeds, asked) == [[7, 80_000], [70_000, 7], [0, 0]]
        spans = {(query.scope, query.since.isoformat()[:10]) for query in records.queries}
        assert spans == {
            ("key", "2026-11-24"),
            ("key", "2026-11-01"),
            ("workspace", "2026-11-24"),
        }
        assert len(records.queries) == 3
        assert await seeds.used([rule("apikey_3")], now_s=NOON_S) == [3]  # and again, later
        await seeds.close()

    run(main())


def test_all_learn_that_the_store_is_away() -> None:
    async def main() -> None:
        seeds = BudgetSeeds(Records(StoreUnavailable("gone")).get)
        found = await ask_all(seeds, [[rule(f"apikey_{n}")] for n in range(5)])
        assert [type(each) for each in found] == [SharedStateUnavailable] * 5
        await seeds.close()

    run(main())


def test_who_leaves_takes_nobody_along() -> None:
    async def main() -> None:
        records = Records()
        seeds = BudgetSeeds(records.get)
        leaving = asyncio.create_task(seeds.used([rule("apikey_1")], now_s=NOON_S))
        staying = asyncio.create_task(seeds.used([rule("apikey_1")], now_s=NOON_S))
        await asyncio.sleep(0)
        leaving.cancel()
        assert await staying == [1]
        await seeds.close()

    run(main())


def test_the_end_leaves_nobody_waiting() -> None:
    async def main() -> None:
        seeds = BudgetSeeds(Records().get)
        waiting = asyncio.create_task(seeds.used([rule("apikey_1")], now_s=NOON_S))
        await asyncio.sleep(0)
        await seeds.close()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    run(main())
