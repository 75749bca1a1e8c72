"""Reports in Anthropic's form, where there is more than one page can hold."""

import datetime as dt
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from dragoman.core.errors import InvalidRequest
from dragoman.server.admin import reports
from dragoman.server.admin.operations import Ask
from dragoman.server.admin.reports import Reports
from dragoman.store_urls import StoreUrl
from dragoman.stores.sql import SqlStore
from support.stores import NOW, minutes, new_record, with_store

_DAY = dt.timedelta(days=1)
_Report = Callable[[Ask], Awaitable[dict[str, Any]]]


def ask(**query: str | Sequence[str]) -> Ask:
    values = {name: [v] if isinstance(v, str) else v for name, v in query.items()}
    return Ask(ids={}, query=values, headers=(), body=b"", actor="", now=NOW + minutes(1))


def with_reports(tmp_path: Path, main: Callable[[Reports], Awaitable[None]]) -> None:
    """Run *main* with reports on five days in which four keys used two models each."""

    async def case(store: SqlStore) -> None:
        async def get() -> SqlStore:
            return store

        async def key_name(key_id: str) -> str:
            return key_id

        await store.add_usage(
            [
                new_record(
                    key_id=f"apikey_{key}",
                    started_at=NOW - day * _DAY,
                    model=model,
                    session_id=f"{model}-{key}",
                    client="claude-cli",
                    output_tokens=1,
                    cost_micros=10_000,
                )
                for day in range(5)
                for key in range(4)
                for model in ("a", "b")
            ]
        )
        await main(Reports(get, key_name=key_name, organization_id="org"))

    with_store(StoreUrl(path=tmp_path / "store.db"), case)


async def pages(report: _Report, **query: Any) -> list[dict[str, Any]]:
    """Return all pages, as a client gets them that follows ``next_page``."""
    found = [await report(ask(**query))]
    while found[-1]["has_more"]:
        assert len(found) < 10
        found.append(await report(ask(**query, page=found[-1]["next_page"])))
    return found


@pytest.mark.parametrize(
    ("most", "sizes"), [(40, [5]), (39, [4, 1]), (16, [2, 2, 1]), (9, [1, 1, 1, 1, 1])]
)
def test_a_page_ends_where_it_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int, sizes: list[int]
) -> None:
    monkeypatch.setattr(reports, "_MAX_ROWS", most)

    async def main(report: Reports) -> None:
        start = f"{NOW - 4 * _DAY:%Y-%m-%d}"
        found = await pages(
            report.messages, starting_at=start, group_by=["api_key_id", "model"], limit="31"
        )
        assert [len(page["data"]) for page in found] == sizes
        buckets = [bucket for page in found for bucket in page["data"]]
        days = [bucket["starting_at"] for bucket in buckets]
        assert days == [f"{NOW - n * _DAY:%Y-%m-%dT00:00:00Z}" for n in (4, 3, 2, 1, 0)]
        assert [len(bucket["results"]) for bucket in buckets] == [8] * 5
        cost = await pages(report.cost, starting_at=start, group_by=["description"])
        amounts = [
            row["amount"] for page in cost for each in page["data"] for row in each["results"]
        ]
        assert amounts == ["4"] * 10

    with_reports(tmp_path, main)


def test_a_bucket_that_fills_more_than_a_page_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reports, "_MAX_ROWS", 7)

    async def main(report: Reports) -> None:
        asked = ask(starting_at=f"{NOW:%Y-%m-%d}", group_by=["api_key_id", "model"])
        with pytest.raises(InvalidRequest, match="group_by: a bucket would have over 7 rows"):
            await report.messages(asked)

    with_reports(tmp_path, main)


def test_sessions_are_counted_of_the_keys_of_a_page_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reports, "_MAX_ROWS", 5)

    async def main(report: Reports) -> None:
        found = await pages(report.claude_code, starting_at=f"{NOW:%Y-%m-%d}", limit="2")
        names = [[entry["actor"]["api_key_name"] for entry in page["data"]] for page in found]
        assert names == [["apikey_0", "apikey_1"], ["apikey_2", "apikey_3"]]
        entries = [entry for page in found for entry in page["data"]]
        assert [entry["core_metrics"]["num_sessions"] for entry in entries] == [2] * 4
        with pytest.raises(InvalidRequest, match=r"limit: .* ask for fewer entries"):
            await report.claude_code(ask(starting_at=f"{NOW:%Y-%m-%d}", limit="3"))
        nothing = await report.claude_code(ask(starting_at="2026-01-01"))
        assert (nothing["data"], nothing["has_more"]) == ([], False)

    with_reports(tmp_path, main)
