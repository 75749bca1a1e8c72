"""What was used of budgets, on both databases: the same as a report says, however it is kept."""

import asyncio
import datetime as dt
import itertools
from pathlib import Path
from typing import Any, Literal

import pytest
from sqlalchemy import delete, event, text

from dragoman.policy.records import Dimension, Spent, SpentQuery, UsageQuery, UsageRecord
from dragoman.settings import Secret
from dragoman.store_urls import StoreUrl, read_store_url
from dragoman.stores.rows import to_ms
from dragoman.stores.spent_sql import keep_day
from dragoman.stores.sql import SqlStore
from dragoman.stores.tables import usage
from dragoman.stores.usage_insert import insert_records
from support.stores import new_record, opened, with_store

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


async def keep_all(store: SqlStore, before: dt.datetime) -> int:
    n_days = 0
    while await store.keep_spent(before):
        n_days += 1
    return n_days


async def forget_records(store: SqlStore) -> None:
    """What is known after this is known without looking at records."""
    async with store._database.writing() as connection:
        await connection.execute(delete(usage))


@pytest.mark.parametrize("scope", ["key", "workspace"])
def test_days_that_are_kept_need_no_records(url: StoreUrl, scope: Any) -> None:
    async def case(store: SqlStore) -> None:
        await store.add_usage(some_records())
        spans = [of(scope), of(scope, until=FIRST + DAY), of(scope, since=FIRST + DAY)]
        before = [await reported(store, query) for query in spans]
        assert await keep_all(store, FIRST + 1.5 * DAY) == 2
        assert [await store.spent(query) for query in spans] == before
        assert await keep_all(store, FIRST + 2 * DAY) == 1
        assert await keep_all(store, FIRST + 9 * DAY) == 1
        await forget_records(store)
        assert [await store.spent(query) for query in spans] == before

    with_store(url, case)


def test_a_day_that_has_not_ended_is_not_kept(url: StoreUrl) -> None:
    async def case(store: SqlStore) -> None:
        await store.add_usage([new_record(started_at=FIRST, output_tokens=1)])
        assert await keep_all(store, FIRST + 0.99 * DAY) == 0
        assert await keep_all(store, FIRST + 40 * DAY) == 0  # no budget is about it any more
        assert await keep_all(store, FIRST + DAY) == 1

    with_store(url, case)


@pytest.mark.parametrize("order", list(itertools.permutations(("keep", "roll", "add"))))
def test_days_are_right_in_whatever_order(url: StoreUrl, order: tuple[str, ...]) -> None:
    async def case(store: SqlStore) -> None:
        early, late = some_records()[::2], some_records()[1::2]
        await store.add_usage(early)
        for what in (*order, *order):
            if what == "keep":
                assert await keep_all(store, FIRST + 9 * DAY) in (0, 4)
            elif what == "add":
                await store.add_usage(late)
                late = some_records()[::7]
            else:
                while await store.roll_up_usage(FIRST + 2 * DAY):
                    pass
            assert await store.spent(of("key")) == await reported(store, of("key"))

    with_store(url, case)


def test_a_day_with_nothing_left_holds_no_other_up(url: StoreUrl) -> None:
    async def case(store: SqlStore) -> None:
        await store.add_usage([new_record(started_at=FIRST + n * DAY) for n in range(3)])
        async with store._database.writing() as connection:
            await connection.execute(delete(usage).where(usage.c.started_at > to_ms(FIRST)))
        assert await keep_all(store, FIRST + 9 * DAY) == 3

    with_store(url, case)


def test_what_is_kept_goes_with_the_sums(url: StoreUrl) -> None:
    async def case(store: SqlStore) -> None:
        await store.add_usage(some_records())
        while await store.roll_up_usage(FIRST + 9 * DAY):
            pass
        await keep_all(store, FIRST + 9 * DAY)
        await store.forget_usage(FIRST + 2 * DAY)
        assert await store.spent(of("key")) == await reported(store, of("key"))
        assert await store.spent(of("key", until=FIRST + 2 * DAY)) == {}

    with_store(url, case)


@pytest.mark.parametrize("scope", ["key", "workspace"])
def test_kept_days_of_others_are_not_looked_through(tmp_path: Path, scope: Any) -> None:
    asked: list[tuple[str, Any]] = []

    async def case(store: SqlStore) -> None:
        await store.add_usage(some_records())
        await keep_all(store, FIRST + 9 * DAY)
        engine = store._database._engine.sync_engine
        event.listen(engine, "before_cursor_execute", lambda *a: asked.append((a[2], a[3])))
        await store.spent(of(scope))
        statement, values = asked[-1]
        async with store._database.reading() as connection:
            plan = await connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values)
            steps = [row[-1] for row in plan if "usage_days" in row[-1]]
        assert any(f"usage_days_by_{scope} ({scope}_id=? AND day>? AND day<?)" in s for s in steps)
        assert not [step for step in steps if step.startswith("SCAN")]

    with_store(StoreUrl(path=tmp_path / "store.db"), case)


def test_replicas_that_keep_days_and_add_to_them_at_once(url: StoreUrl) -> None:
    async def keep(store: SqlStore) -> None:
        for _ in range(25):
            await keep_all(store, FIRST + 9 * DAY)
            await asyncio.sleep(0.005)

    async def add(store: SqlStore) -> None:
        for _ in range(25):
            await store.add_usage(some_records()[::5])

    async def main() -> None:
        async with asyncio.timeout(60), opened(url) as one, opened(url) as two:
            await asyncio.gather(keep(one), add(two), keep(two), add(one), add(two))
            assert await store_says(one) == await reported(one, of("key"))
            await keep_all(one, FIRST + 9 * DAY)
            assert await store_says(one) == await reported(one, of("key"))

    async def store_says(store: SqlStore) -> dict[str, Spent]:
        return await store.spent(of("key"))

    asyncio.run(main())


@pytest.mark.server
def test_who_keeps_a_day_waits_for_those_who_are_adding_to_it(
    postgres_url: str, tmp_path: Path
) -> None:
    url = read_store_url(Secret(postgres_url), tmp_path)
    assert url is not None

    async def main() -> None:
        async with asyncio.timeout(60), opened(url) as one, opened(url) as two:
            await one.add_usage(some_records()[::2])
            async with one._database.writing() as connection:
                await insert_records(connection, some_records()[1::2], is_sqlite=False)
                keeping = asyncio.create_task(keep_all(two, FIRST + 9 * DAY))
                await asyncio.wait([keeping], timeout=0.3)
                assert not keeping.done()
            assert await keeping == 4
            assert await one.spent(of("key")) == await reported(one, of("key"))

    asyncio.run(main())


@pytest.mark.server
def test_who_adds_to_a_day_sees_that_it_was_kept_meanwhile(
    postgres_url: str, tmp_path: Path
) -> None:
    url = read_store_url(Secret(postgres_url), tmp_path)
    assert url is not None

    async def begin_with_a_snapshot(store: SqlStore) -> None:
        async with store._database.writing() as connection:
            name = await connection.scalar(text("SELECT current_database()"))
            level = "default_transaction_isolation = 'repeatable read'"
            await connection.execute(text(f"ALTER DATABASE {name} SET {level}"))

    async def main() -> None:
        async with asyncio.timeout(60), opened(url) as store:
            await begin_with_a_snapshot(store)
        async with asyncio.timeout(60), opened(url) as one, opened(url) as two:
            await one.add_usage(some_records()[::2])
            async with one._database.writing() as connection:
                await keep_day(connection, to_ms(FIRST) or 0, is_sqlite=False)
                adding = asyncio.create_task(two.add_usage(some_records()[1::2]))
                await asyncio.wait([adding], timeout=0.3)
                assert not adding.done()
            await adding
            assert await one.spent(of("key")) == await reported(one, of("key"))

    asyncio.run(main())
