"""Usage records in, sums of them out."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from sqlalchemy import ColumnElement, Insert, case, func, or_, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import RowMapping
from sqlalchemy.ext.asyncio import AsyncConnection

from dragoman.policy.records import Dimension, UsageQuery, UsageRecord, UsageRow
from dragoman.stores.rows import RowCodec, from_ms, to_ms
from dragoman.stores.tables import usage

_RECORDS: Final = RowCodec(UsageRecord)
_ERROR_STATUS: Final = 400
# Length in milliseconds, and how the beginning of one is written.
_SPANS: Final[Mapping[str, tuple[int, str]]] = {
    "day": (86_400_000, "%Y-%m-%d"),
    "hour": (3_600_000, "%Y-%m-%dT%H:00Z"),
    "minute": (60_000, "%Y-%m-%dT%H:%MZ"),
}
_COLUMNS: Final[Mapping[str, ColumnElement[Any]]] = {
    "key": usage.c.key_id,
    "workspace": usage.c.workspace_id,
    "model": usage.c.model,
    "upstream": usage.c.upstream,
    "session": usage.c.session_id,
    "client": usage.c.client,
}
_SUMMED: Final = (
    "input_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
    "output_tokens",
    "reasoning_tokens",
    "cost_micros",
)


async def insert_records(
    connection: AsyncConnection, records: Sequence[UsageRecord], *, is_sqlite: bool
) -> None:
    """Add records; those whose id is known already change nothing."""
    if records:
        rows = [_RECORDS.encode(record) for record in records]
        await connection.execute(_insert(is_sqlite=is_sqlite), rows)


def _insert(*, is_sqlite: bool) -> Insert:
    if is_sqlite:
        return sqlite.insert(usage).on_conflict_do_nothing()
    return postgresql.insert(usage).on_conflict_do_nothing()


async def sum_records(connection: AsyncConnection, query: UsageQuery) -> list[UsageRow]:
    """Return a row for each group that has records, in the order of the groups."""
    groups = [_group(name).label(f"by_{name}") for name in query.group_by]
    sums = [_sum_of(usage.c[name]).label(name) for name in _SUMMED]
    chosen = (
        select(
            *groups,
            func.count().label("requests"),
            _count(usage.c.status >= _ERROR_STATUS).label("errors"),
            _count(usage.c.cost_micros.is_(None)).label("unpriced"),
            *sums,
        )
        .where(*_conditions(query))
        .group_by(*groups)
        .order_by(*groups)
        .limit(query.limit)
    )
    rows = (await connection.execute(chosen)).mappings()
    return [_row(row, query.group_by) for row in rows if row["requests"]]


def _group(name: Dimension) -> ColumnElement[Any]:
    if name in _SPANS:
        return usage.c.started_at - usage.c.started_at % _SPANS[name][0]
    return func.coalesce(_COLUMNS[name], "")


def _sum_of(column: ColumnElement[Any]) -> ColumnElement[Any]:
    return func.coalesce(func.sum(column), 0)


def _count(condition: ColumnElement[bool]) -> ColumnElement[Any]:
    return func.coalesce(func.sum(case((condition, 1), else_=0)), 0)


def _conditions(query: UsageQuery) -> list[ColumnElement[bool]]:
    found = [usage.c.started_at >= to_ms(query.since), usage.c.started_at < to_ms(query.until)]
    if query.key_ids:
        found.append(usage.c.key_id.in_(query.key_ids))
    if query.models:
        found.append(usage.c.model.in_(query.models))
    if query.workspace_ids:
        named = [each for each in query.workspace_ids if each is not None]
        ways = [usage.c.workspace_id.in_(named)]
        if None in query.workspace_ids:
            ways.append(usage.c.workspace_id.is_(None))
        found.append(or_(*ways))
    return found


def _row(row: RowMapping, group_by: Sequence[Dimension]) -> UsageRow:
    counts = {name: int(row[name]) for name in ("requests", "errors", "unpriced", *_SUMMED)}
    group: dict[str, str] = {name: _shown(name, row[f"by_{name}"]) for name in group_by}
    return UsageRow(group=group, **counts)


def _shown(name: Dimension, value: str | int) -> str:
    if name not in _SPANS:
        return str(value)
    begin = from_ms(int(value))
    assert begin is not None
    return begin.strftime(_SPANS[name][1])
