"""Days that are added up: nothing changes in the sums, whoever does it and whenever."""

import asyncio
import datetime as dt
import itertools
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from dragoman.core.errors import StoreUnavailable
from dragoman.policy.records import UsageQuery, UsageRecord, UsageRow
from dragoman.settings import Secret
from dragoman.store_urls import StoreUrl, read_store_url
from dragoman.stores.sql import SqlStore
from dragoman.stores.tables import usage, usage_facts, usage_sums
from dragoman.stores.usage_insert import insert_records
from support.stores import new_record, opened, with_store

FIRST = dt.datetime(2026, 11, 1, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)
ALL = UsageQuery(since=FIRST - 10 * DAY, until=FIRST + 10 * DAY)
BY_DAY = UsageQuery(since=ALL.since, until=ALL.until, group_by=("day", "key", "served"))


def some_records(n_days: int = 3) -> list[UsageRecord]:
    """Sixteen records of each day, of two keys, with all that is counted."""
    hours = [dt.timedelta(0), dt.timedelta(hours=12), DAY - dt.timedelta(milliseconds=1)]
    made = itertools.product(range(n_days), hours, ("apikey_1", "apikey_2"), (None, "wrkspc_1"))
    return [
        new_record(
            started_at=FIRST + day * DAY + hour,
            key_id=key_id,
            workspace_id=workspace_id,
            model="m",
            upstream_model=f"real-{number % 2}",
            session_id=f"s{number}",
            input_tokens=number,
            cache_read_input_tokens=2,
            cache_creation_input_tokens=3,
            output_tokens=2**40,
            reasoning_tokens=5,
            cost_micros=None if number % 5 == 0 else 6,
            status=200 if number % 4 else 502,
            error_type="client_gone" if number % 7 == 0 else "",
        )
        for number, (day, hour, key_id, workspace_id) in enumerate(made)
    ]


async def n_rows(store: SqlStore, table: Any) -> int:
    async with store._database.reading() as connection:
        return int(await connection.scalar(select(func.count()).select_from(table)) or 0)


async def roll_all(store: SqlStore, before: dt.datetime) -> list[int]:
    """Roll up as the gateway does, return how many records each day had."""
    found = []
    while n := await store.roll_up_usage(before):
        found.append(n)
    return found


def test_sums_stay_as_they_are(url: StoreUrl) -> None:
    async def case(store: SqlStore) -> None:
        records = some_records()
        await store.add_usage(records)
        before = [await store.usage(ALL), await store.usage(BY_DAY)]
        assert before[0][0].requests == len(records) == 36
        assert 0 < before[0][0].errors < 36
        assert await roll_all(store, FIRST + 2 * DAY) == [12, 12]
        assert await n_rows(store, usage) == 12
        assert await n_rows(store, usage_sums) < 24
        assert [await store.usage(ALL), await store.usage(BY_DAY)] == before
        assert await roll_all(store, FIRST + 2 * DAY) == []
        assert await n_rows(store, usage_facts) == 12  # of the day that is left

    with_store(url, case)


@pytest.mark.parametrize("hours", [0, 1, 23.99])
def test_a_day_that_has_not_ended_stays(url: StoreUrl, hours: float) -> None:
    async def case(store: SqlStore) -> None:
        await store.add_usage(some_records(1))
        assert await roll_all(store, FIRST + dt.timedelta(hours=hours)) == []
        assert await roll_all(store, FIRST + DAY) == [12]

    with_store(url, case)


def test_filters_and_groups_of_days_added_up(url: StoreUrl) -> None:
    async def case(store: SqlStore) -> None:
        await store.add_usage(some_records())
        await roll_all(store, FIRST + 2 * DAY)
        span: dict[str, Any] = {"since": ALL.since, "until": ALL.until}
        (row,) = await store.usage(UsageQuery(**span, key_ids=("apikey_1",)))
        assert row.requests == 18
        (row,) = await store.usage(UsageQuery(**span, workspace_ids=(None,)))
        assert row.requests == 18
        (row,) = await store.usage(UsageQuery(since=FIRST + DAY, until=FIRST + 2 * DAY))
        assert row.requests == 12
        rows = await store.usage(UsageQuery(**span, group_by=("session",)))
        assert rows[0] == UsageRow(**{**as_fields(rows[0]), "group": {"session": ""}})
        assert rows[0].requests == 24
        assert len(rows) == 13

    with_store(url, case)


def as_fields(row: UsageRow) -> dict[str, Any]:
    return {name: getattr(row, name) for name in row.__struct_fields__}


def test_what_arrives_late_is_added(url: StoreUrl) -> None:
    async def case(store: SqlStore) -> None:
        early, late = some_records(1)[:8], some_records(1)[8:]
        await store.add_usage(early)
        await roll_all(store, FIRST + DAY)
        await store.add_usage(late)
        assert (await store.usage(ALL))[0].requests == 12
        assert await n_rows(store, usage_facts) == 4
        assert await roll_all(store, FIRST + DAY) == [4]
        assert (await store.usage(ALL))[0].requests == 12
        assert await n_rows(store, usage_facts) == 0

    with_store(url, case)


def test_replicas_that_do_it_at_once_count_once(url: StoreUrl) -> None:
    async def one(store: SqlStore) -> None:
        while True:
            try:
                if not await store.roll_up_usage(FIRST + 5 * DAY):
                    return
            except StoreUnavailable:  # another one was faster
                await asyncio.sleep(0.01)

    async def add(store: SqlStore) -> int:
        n = 0
        for _ in range(20):
            records = some_records(5)[::7]
            await store.add_usage(records)
            n += len(records)
        return n

    async def main() -> None:
        async with opened(url) as first, opened(url) as second, opened(url) as third:
            records = some_records(5)
            await first.add_usage(records)
            added, *_ = await asyncio.gather(add(third), *map(one, (first, second, third)))
            assert (await first.usage(ALL))[0].requests == len(records) + added
            await one(first)
            assert (await first.usage(ALL))[0].requests == len(records) + added
            assert await n_rows(first, usage) == 0
            await one(first)
            assert await n_rows(first, usage_facts) == 0

    async def bounded() -> None:
        async with asyncio.timeout(60):
            await main()

    asyncio.run(bounded())


@pytest.mark.server
def test_it_may_take_longer_than_a_report(postgres_url: str, tmp_path: Path) -> None:
    url = read_store_url(Secret(postgres_url), tmp_path)
    assert url is not None

    async def main() -> None:
        async with opened(url) as other, opened(url, report_timeout_s=0.3) as store:
            await other.add_usage(some_records())
            async with other._database.writing() as connection:
                await insert_records(connection, some_records(), is_sqlite=False)
                rolling = asyncio.create_task(store.roll_up_usage(FIRST + 5 * DAY))
                await asyncio.wait([rolling], timeout=0.6)
                assert not rolling.done(), "it waits for whoever adds records"
            assert await rolling == 24

    async def bounded() -> None:
        async with asyncio.timeout(60):
            await main()

    asyncio.run(bounded())


def test_sums_are_forgotten_when_their_time_has_come(url: StoreUrl) -> None:
    async def case(store: SqlStore) -> None:
        await store.add_usage(some_records())
        await roll_all(store, FIRST + 3 * DAY)
        assert await store.forget_usage(FIRST + DAY - dt.timedelta(seconds=1)) == 0
        assert await store.forget_usage(FIRST + DAY) > 0
        assert (await store.usage(ALL))[0].requests == 24

    with_store(url, case)
