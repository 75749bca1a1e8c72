"""What was used of budgets, on both databases: the same as a report says, however it is kept."""

import datetime as dt
from typing import Any, Literal

import pytest

from dragoman.policy.records import Dimension, Spent, SpentQuery, UsageQuery, UsageRecord
from dragoman.store_urls import StoreUrl
from dragoman.stores.sql import SqlStore
from support.stores import new_record, with_store

FIRST = dt.datetime(2026, 11, 1, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)
OWNERS = {"key": ("apikey_1", "apikey_2", "apikey_9"), "workspace": ("wrkspc_1", "wrkspc_9")}


def of(scope: Literal["key", "workspace"], **fields: Any) -> SpentQuery:
    values = {"since": FIRST, "until": FIRST + 30 * DAY, "owners": OWNERS[scope], **fields}
    return SpentQuery(scope=scope, **values)


def some_records() -> list[UsageRecord]:
    """Three days of two owners of each kind, and of others; prices are not known of all."""
    return [
        new_record(
            started_at=FIRST + day * DAY + hours * DAY / 24,
            key_id=f"apikey_{1 + hours % 3}",
            workspace_id=None if hours == 5 else f"wrkspc_{1 + hours % 2}",
            session_id=f"s{hours}",
            input_tokens=1,
            cache_read_input_tokens=20,
            cache_creation_input_tokens=300,
            output_tokens=2**33,
            reasoning_tokens=7,
            cost_micros=None if hours == 1 else 2**35 + hours,
        )
        for day in range(-1, 3)
        for hours in range(24)
    ]


async def reported(store: SqlStore, query: SpentQuery) -> dict[str, Spent]:
    """Return what a report says of the same."""
    by: Dimension = query.scope
    rows = await store.usage(
        UsageQuery(
            since=query.since,
            until=query.until,
            group_by=(by,),
            key_ids=query.owners if query.scope == "key" else (),
            workspace_ids=query.owners if query.scope == "workspace" else (),
        )
    )
    return {
        row.group[by]: Spent(
            tokens=row.input_tokens
            + row.cache_read_input_tokens
            + row.cache_creation_input_tokens
            + row.output_tokens,
            cost_micros=row.cost_micros,
        )
        for row in rows
    }


@pytest.mark.parametrize("scope", ["key", "workspace"])
def test_it_is_what_a_report_says(url: StoreUrl, scope: Any) -> None:
    async def case(store: SqlStore) -> None:
        month = of(scope)
        assert await store.spent(month) == {}
        await store.add_usage(some_records())
        assert set(await store.spent(month)) == set(OWNERS[scope][:-1])
        spans = [month, of(scope, until=FIRST + DAY), of(scope, since=FIRST + 2 * DAY)]
        before = [await reported(store, query) for query in spans]
        assert len({each[OWNERS[scope][0]].tokens for each in before}) == 2
        for n_rolled in range(5):  # days become sums one after the other
            assert [await store.spent(query) for query in spans] == before
            await store.roll_up_usage(FIRST + (n_rolled - 1) * DAY)

    with_store(url, case)


def test_what_comes_late_and_what_has_no_price_counts(url: StoreUrl) -> None:
    async def case(store: SqlStore) -> None:
        early, late = some_records()[:50], some_records()[50:]
        await store.add_usage([*early, new_record(started_at=FIRST, key_id="apikey_9")])
        while await store.roll_up_usage(FIRST + 9 * DAY):
            pass
        first = await store.spent(of("key"))
        assert first["apikey_9"] == Spent(tokens=0, cost_micros=0)
        await store.add_usage(late)
        found = await store.spent(of("key"))
        assert found == await reported(store, of("key"))
        assert found["apikey_1"].tokens > first["apikey_1"].tokens

    with_store(url, case)
