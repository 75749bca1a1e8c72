"""Sums of usage: of the records themselves, and of days added up before."""

from collections.abc import Mapping, Sequence
from functools import reduce
from operator import add
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Select,
    Subquery,
    Table,
    and_,
    case,
    func,
    literal_column,
    or_,
    select,
    union_all,
)
from sqlalchemy.engine import RowMapping
from sqlalchemy.ext.asyncio import AsyncConnection

from dragoman.policy.records import Dimension, UsageQuery, UsageRow, UsageSort
from dragoman.stores.lists import is_in_workspaces
from dragoman.stores.rows import from_ms, to_ms
from dragoman.stores.tables import DAY_MS, all_tokens, usage, usage_facts, usage_sums

_ERROR_STATUS: Final = 400
# Length in milliseconds, and how the beginning of one is written.
_SPANS: Final[Mapping[str, tuple[int, str]]] = {
    "day": (DAY_MS, "%Y-%m-%d"),
    "hour": (3_600_000, "%Y-%m-%dT%H:00Z"),
    "minute": (60_000, "%Y-%m-%dT%H:%MZ"),
}
_COLUMNS: Final[Mapping[str, str]] = {
    "key": "key_id",
    "workspace": "workspace_id",
    "model": "model",
    "upstream": "upstream",
    "served": "upstream_model",
    "session": "session_id",
    "client": "client",
}
_COUNTED: Final = ("requests", "errors", "unpriced")
SUMMED: Final = (
    "input_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
    "output_tokens",
    "reasoning_tokens",
    "cost_micros",
)


# Which sums, taken together, put a row before another one.
_SORTED: Final[Mapping[UsageSort, Sequence[str]]] = {
    "group": (),
    "cost": ("cost_micros",),
    "tokens": (
        "input_tokens",
        "cache_read_input_tokens",
        "cache_creation_input_tokens",
        "output_tokens",
    ),
    "requests": ("requests",),
}


async def sum_records(connection: AsyncConnection, query: UsageQuery) -> list[UsageRow]:
    """Return a row for each group that has records, in the order that is asked for."""
    source = _source(query)
    groups = [_group(source, name).label(f"by_{name}") for name in query.group_by]
    sums = [sum_of(source.c[name]).label(name) for name in (*_COUNTED, *SUMMED)]
    most = [sum_of(source.c[name]) for name in _SORTED[query.sort]]
    order = [reduce(add, most).desc()] if most else []
    chosen = select(*groups, *sums).group_by(*groups).order_by(*order, *groups)
    part = chosen.limit(query.limit).offset(query.offset)
    rows = (await connection.execute(part)).mappings()
    return [_row(row, query.group_by) for row in rows if row["requests"]]


def is_error() -> ColumnElement[bool]:
    """Return what holds for records of requests that failed, at whatever moment."""
    return or_(usage_facts.c.status >= _ERROR_STATUS, usage_facts.c.error_type != "")


def is_unpriced() -> ColumnElement[bool]:
    """Return what holds for records of requests that have cost something nobody knows."""
    return and_(usage.c.cost_micros.is_(None), all_tokens(usage) > 0)


def count_of(condition: ColumnElement[bool]) -> ColumnElement[Any]:
    """Return how many rows of a group it holds for."""
    return sum_of(_one_if(condition))


def sum_of(column: ColumnElement[Any]) -> ColumnElement[Any]:
    """Return the sum over a group; 0: it is empty, or has no values."""
    return func.coalesce(func.sum(column), 0)


def _one_if(condition: ColumnElement[bool]) -> ColumnElement[int]:
    return case((condition, 1), else_=0)


def _source(query: UsageQuery) -> Subquery:
    """Return records, and days added up before, as rows of one form."""
    records = select(
        usage.c.started_at,
        usage_facts.c.session_id,
        *(usage_facts.c[name] for name in _COLUMNS.values() if name in usage_sums.c),
        literal_column("1").label("requests"),
        _one_if(is_error()).label("errors"),
        _one_if(is_unpriced()).label("unpriced"),
        *(usage.c[name] for name in SUMMED),
    ).join_from(usage_facts, usage, usage.c.facts_id == usage_facts.c.id)
    days = select(
        usage_sums.c.day.label("started_at"),
        literal_column("''").label("session_id"),
        *(usage_sums.c[name] for name in _COLUMNS.values() if name in usage_sums.c),
        *(usage_sums.c[name] for name in (*_COUNTED, *SUMMED)),
    )
    return union_all(
        _chosen(records, usage_facts, usage.c.started_at, query=query),
        _chosen(days, usage_sums, usage_sums.c.day, query=query),
    ).subquery()


def _group(source: Subquery, name: Dimension) -> ColumnElement[Any]:
    if name in _SPANS:
        return source.c.started_at - source.c.started_at % _SPANS[name][0]
    return func.coalesce(source.c[_COLUMNS[name]], "")


def _chosen(
    rows: Select[Any], table: Table, time: ColumnElement[int], *, query: UsageQuery
) -> Select[Any]:
    """Return those of *rows*, of whose day and sender *table* tells, that are asked for."""
    since, until = to_ms(query.since) or 0, to_ms(query.until) or 0
    found = [time >= since, time < until, *_days(table, since, until)]
    if query.key_ids:
        found.append(table.c.key_id.in_(query.key_ids))
    if query.models:
        found.append(table.c.model.in_(query.models))
    if query.workspace_ids:
        found.append(is_in_workspaces(table, query.workspace_ids))
    return rows.where(*found)


def _days(table: Table, since: int, until: int) -> list[ColumnElement[bool]]:
    """Return what holds for days with a moment in a span: an index finds them."""
    return [table.c.day >= since - since % DAY_MS, table.c.day < until]


def _row(row: RowMapping, group_by: Sequence[Dimension]) -> UsageRow:
    counts = {name: int(row[name]) for name in (*_COUNTED, *SUMMED)}
    group: dict[str, str] = {name: _shown(name, row[f"by_{name}"]) for name in group_by}
    return UsageRow(group=group, **counts)


def _shown(name: Dimension, value: str | int) -> str:
    if name not in _SPANS:
        return str(value)
    begin = from_ms(int(value))
    assert begin is not None
    return begin.strftime(_SPANS[name][1])
