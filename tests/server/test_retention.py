"""When records become sums, and when sums go: on a real store in a file."""

import asyncio
import datetime as dt
import io
import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete

from dragoman.core.errors import StoreUnavailable
from dragoman.policy.records import Spent, SpentQuery, UsageQuery
from dragoman.server import retention as retention_module
from dragoman.server.retention import Retention
from dragoman.server.telemetry import EventLog
from dragoman.settings import StoreConfig, UsageConfig
from dragoman.store_urls import StoreUrl
from dragoman.stores.opening import LazyStore
from dragoman.stores.sql import SqlStore
from dragoman.stores.tables import usage
from support.app_case import run
from support.stores import new_record

NOW = dt.datetime(2026, 11, 25, 14, 30, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)
ALL = UsageQuery(since=NOW - 1000 * DAY, until=NOW + DAY, group_by=("session",))


class Case:
    def __init__(self, folder: Path, **settings: int) -> None:
        self.lazy = LazyStore(StoreUrl(path=folder / "store.db"), StoreConfig())
        self.text = io.StringIO()
        self.now = NOW
        self.retention = Retention(
            UsageConfig(**settings),
            self.lazy.get,
            is_empty=lambda: self.lazy.url.is_missing,
            log=EventLog("json", self.text),
            utc_now=lambda: self.now,
        )

    async def add(self, *days_ago: float) -> None:
        store = await self.lazy.get()
        same = {"session_id": "s", "output_tokens": 1}
        records = [new_record(started_at=NOW - days * DAY, **same) for days in days_ago]
        await store.add_usage(records)

    async def single(self) -> int:
        """How many requests are still known one by one."""
        rows = await (await self.lazy.get()).usage(ALL)
        return sum(row.requests for row in rows if row.group["session"])

    async def all(self) -> int:
        return sum(row.requests for row in await (await self.lazy.get()).usage(ALL))

    @property
    def events(self) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.text.getvalue().splitlines()]
        return [{k: v for k, v in line.items() if k != "time"} for line in lines]


def test_days_are_added_up_when_all_of_them_is_old_enough(tmp_path: Path) -> None:
    async def main() -> None:
        case = Case(tmp_path, keep_records_days=7)
        await case.add(0, 1, 6.9, 7.5, 8, 8, 30)
        await case.retention.apply()
        assert (await case.single(), await case.all()) == (4, 7)
        assert case.events == [{"event": "usage_rolled_up", "records": 3, "days": 2}]
        await case.retention.apply()
        assert len(case.events) == 1
        case.now += DAY
        await case.retention.apply()
        assert (await case.single(), await case.all()) == (2, 7)
        await case.lazy.close()

    run(main())


def test_sums_go_too(tmp_path: Path) -> None:
    async def main() -> None:
        case = Case(tmp_path, keep_records_days=7, keep_sums_days=20)
        await case.add(0, 10, 30)
        await case.retention.apply()
        assert (await case.single(), await case.all()) == (1, 2)
        assert case.events[-1] == {"event": "usage_forgotten", "sums": 1}
        await case.lazy.close()

    run(main())


def test_what_is_kept_for_ever(tmp_path: Path) -> None:
    async def main() -> None:
        case = Case(tmp_path, keep_records_days=0)
        await case.add(0, 900)
        case.retention.start()
        await case.retention.apply()
        assert (await case.single(), case.events) == (2, [])
        await case.retention.close()
        await case.lazy.close()

    run(main())


def test_a_day_that_records_still_come_for_is_not_added_up_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dt.datetime] = []

    async def keep_spent(_: SqlStore, before: dt.datetime) -> bool:
        asked.append(before)
        return True  # somebody has added to it meanwhile, each time

    monkeypatch.setattr(SqlStore, "keep_spent", keep_spent)

    async def main() -> None:
        case = Case(tmp_path, keep_records_days=7)
        await case.add(0, 8)
        await case.retention.apply()
        assert 31 <= len(asked) <= 40
        assert await case.single() == 1
        await case.lazy.close()

    run(main())


def test_days_that_cannot_be_added_up_for_budgets_hold_nothing_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def keep_spent(_: SqlStore, __: dt.datetime) -> bool:
        raise StoreUnavailable("the database has not answered in time")

    monkeypatch.setattr(SqlStore, "keep_spent", keep_spent)

    async def main() -> None:
        case = Case(tmp_path, keep_records_days=7, keep_sums_days=20)
        await case.add(0, 10, 30)
        with pytest.raises(StoreUnavailable):
            await case.retention.apply()
        assert (await case.single(), await case.all()) == (1, 2)
        await case.lazy.close()

    run(main())


@pytest.mark.parametrize("settings", [{}, {"keep_records_days": 0, "keep_sums_days": 0}])
def test_days_that_are_over_are_added_up_for_budgets(tmp_path: Path, settings: Any) -> None:
    async def main() -> None:
        case = Case(tmp_path, **settings)
        await case.add(0, 0.4, 1, 1, 2)
        store = await case.lazy.get()
        month = SpentQuery(
            scope="key",
            owners=("apikey_1",),
            since=dt.datetime(2026, 11, 1, tzinfo=dt.UTC),
            until=dt.datetime(2026, 12, 1, tzinfo=dt.UTC),
        )
        await case.retention.apply()
        async with store._database.writing() as connection:
            await connection.execute(delete(usage))
        assert (await store.spent(month))["apikey_1"] == Spent(tokens=3)
        await case.add(0, 1, 1, 1)  # whoever comes late opens the day again
        assert (await store.spent(month))["apikey_1"] == Spent(tokens=5)
        await case.lazy.close()

    run(main())


def test_where_nothing_is_nothing_is_opened(tmp_path: Path) -> None:
    async def main() -> None:
        case = Case(tmp_path, keep_records_days=1)
        await case.retention.apply()
        await case.lazy.close()

    run(main())
    assert list(tmp_path.iterdir()) == []


def test_it_is_done_again_and_again_whatever_happens(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(retention_module, "_FIRST_S", 0.01)
    monkeypatch.setattr(retention_module, "_INTERVAL_S", 0.01)
    failures: list[Exception] = [StoreUnavailable("away"), ValueError("a bug, with 'content'")]

    async def main() -> None:
        case = Case(tmp_path, keep_records_days=7)
        await case.add(30)
        get = case.lazy.get

        async def get_store() -> Any:
            if failures:
                raise failures.pop(0)
            return await get()

        monkeypatch.setattr(case.retention, "_get_store", get_store)
        case.retention.start()
        async with asyncio.timeout(20):
            while len(case.events) < 2:  # noqa: ASYNC110 - it tells nobody but the log
                await asyncio.sleep(0.01)
        await case.retention.close()
        await case.retention.close()
        await case.lazy.close()
        assert [event["event"] for event in case.events] == ["crash", "usage_rolled_up"]
        assert "content" not in case.text.getvalue()

    run(main())


@pytest.mark.parametrize("hour", [0, 14, 23])
def test_the_hour_does_not_matter(tmp_path: Path, hour: int) -> None:
    async def main() -> None:
        case = Case(tmp_path, keep_records_days=1)
        await case.add(1.6, 2.6)  # at midnight, of two days
        case.now = NOW.replace(hour=hour)
        await case.retention.apply()
        assert await case.single() == 1
        await case.lazy.close()

    run(main())
