"""Usage records and their sums, on both databases."""

import asyncio
import datetime as dt
from typing import Any

import pytest
from msgspec import structs

from dragoman.policy.records import UsageQuery, UsageRow
from dragoman.store_urls import StoreUrl
from dragoman.stores.sql import SqlStore
from support.stores import NOW, minutes, new_record, with_store

DAY = UsageQuery(
    since=dt.datetime(2026, 11, 25, tzinfo=dt.UTC), until=dt.datetime(2026, 11, 26, tzinfo=dt.UTC)
)


def query(**fields: Any) -> UsageQuery:
    return UsageQuery(**{"since": DAY.since, "until": DAY.until, **fields})


def test_a_record_counts_once(url: StoreUrl) -> None:
    full = new_record(
        workspace_id="wrkspc_1",
        input_tokens=1,
        cache_read_input_tokens=2,
        cache_creation_input_tokens=3,
        output_tokens=2**40,
        reasoning_tokens=5,
        cost_micros=6,
        status=200,
        is_stream=True,
        adjustments=("top_k dropped",),
        repairs={"type": 1},
    )

    async def case(store: SqlStore) -> None:
        await store.add_usage([])
        assert await store.usage(DAY) == []
        await store.add_usage([full, full, new_record(status=529)])
        await asyncio.gather(*(store.add_usage([full]) for _ in range(5)))
        assert await store.usage(DAY) == [
            UsageRow(
                group={},
                requests=2,
                errors=1,
                input_tokens=1,
                cache_read_input_tokens=2,
                cache_creation_input_tokens=3,
                output_tokens=2**40,
                reasoning_tokens=5,
                cost_micros=6,
                unpriced=0,
            )
        ]

    with_store(url, case)


def test_only_what_has_tokens_can_lack_a_price(url: StoreUrl) -> None:
    tokens = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
    records = [
        new_record(status=502),
        new_record(cost_micros=0, input_tokens=1),
        *(new_record(**{name: 1}) for name in (*tokens, "output_tokens")),
    ]

    async def case(store: SqlStore) -> None:
        await store.add_usage(records)
        (row,) = await store.usage(DAY)
        assert (row.requests, row.unpriced) == (6, 4)

    with_store(url, case)


def test_a_day_ends_where_the_next_begins(url: StoreUrl) -> None:
    times = [DAY.since - minutes(0.001), DAY.since, DAY.until - minutes(0.001), DAY.until]

    async def case(store: SqlStore) -> None:
        await store.add_usage([new_record(started_at=at) for at in times])
        (row,) = await store.usage(DAY)
        assert row.requests == 2
        days = await store.usage(
            query(since=times[0], until=times[-1] + minutes(1), group_by=("day",))
        )
        assert [(r.group["day"], r.requests) for r in days] == [
            ("2026-11-24", 1),
            ("2026-11-25", 2),
            ("2026-11-26", 1),
        ]

    with_store(url, case)


@pytest.mark.parametrize(
    ("group_by", "groups"),
    [
        (("key",), [{"key": "apikey_1"}, {"key": "apikey_2"}]),
        (("workspace",), [{"workspace": ""}, {"workspace": "wrkspc_1"}]),
        (("model",), [{"model": "glm-4.7"}, {"model": "m"}]),
        (("upstream", "client"), [{"upstream": "lab", "client": "sdk"}]),
        (("session",), [{"session": "s1"}, {"session": "s2"}]),
        (("hour",), [{"hour": "2026-11-25T12:00Z"}, {"hour": "2026-11-25T13:00Z"}]),
        (("minute",), [{"minute": "2026-11-25T12:30Z"}, {"minute": "2026-11-25T13:30Z"}]),
        (
            ("model", "key"),
            [{"model": "glm-4.7", "key": "apikey_2"}, {"model": "m", "key": "apikey_1"}],
        ),
    ],
)
def test_groups(url: StoreUrl, group_by: Any, groups: list[dict[str, str]]) -> None:
    same: dict[str, Any] = {"upstream": "lab", "client": "sdk"}
    records = [
        new_record(key_id="apikey_1", model="m", session_id="s1", **same),
        new_record(
            key_id="apikey_2",
            workspace_id="wrkspc_1",
            model="glm-4.7",
            session_id="s2",
            started_at=NOW + minutes(60),
            **same,
        ),
    ]

    async def case(store: SqlStore) -> None:
        await store.add_usage(records)
        rows = await store.usage(query(group_by=group_by))
        assert [row.group for row in rows] == groups
        assert sum(row.requests for row in rows) == 2
        assert len(await store.usage(query(group_by=group_by, limit=1))) == 1

    with_store(url, case)


@pytest.mark.parametrize(
    ("sort", "sessions"),
    [
        ("group", ["s1", "s2", "s3", "s4"]),
        ("cost", ["s2", "s1", "s4", "s3"]),  # of the same: in the order of the groups
        ("tokens", ["s3", "s1", "s2", "s4"]),
        ("requests", ["s4", "s1", "s2", "s3"]),
    ],
)
def test_those_with_the_most_come_first(url: StoreUrl, sort: Any, sessions: list[str]) -> None:
    records = [
        new_record(session_id="s1", output_tokens=5, cost_micros=7),
        new_record(session_id="s2", input_tokens=4, cost_micros=10**12),
        new_record(session_id="s3", cache_creation_input_tokens=5, cache_read_input_tokens=6),
        *(new_record(session_id="s4", output_tokens=1, cost_micros=c) for c in (3, 4, None)),
    ]

    async def case(store: SqlStore) -> None:
        await store.add_usage(records)
        by_session = query(group_by=("session",), sort=sort, limit=2)
        first = await store.usage(by_session)
        second = await store.usage(structs.replace(by_session, offset=2))
        assert [row.group["session"] for row in (*first, *second)] == sessions
        assert await store.usage(structs.replace(by_session, offset=4)) == []

    with_store(url, case)


@pytest.mark.parametrize(
    ("fields", "requests"),
    [
        ({"key_ids": ("apikey_1",)}, 1),
        ({"key_ids": ("apikey_1", "apikey_2")}, 2),
        ({"workspace_ids": (None,)}, 2),
        ({"workspace_ids": ("wrkspc_1", None)}, 3),
        ({"models": ("m",)}, 2),
        ({"models": ("m",), "workspace_ids": ("wrkspc_1",)}, 0),
    ],
)
def test_filters(url: StoreUrl, fields: dict[str, Any], requests: int) -> None:
    records = [
        new_record(key_id="apikey_1", model="m"),
        new_record(key_id="apikey_2", model="m"),
        new_record(key_id="apikey_3", model="n", workspace_id="wrkspc_1"),
    ]

    async def case(store: SqlStore) -> None:
        await store.add_usage(records)
        rows = await store.usage(query(**fields))
        assert sum(row.requests for row in rows) == requests

    with_store(url, case)
