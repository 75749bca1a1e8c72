"""Usage records in, sums of them out: of the records themselves, and of days added up before."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any, Final

import msgspec
from msgspec import structs
from sqlalchemy import (
    ColumnElement,
    Insert,
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
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Dialect, RowMapping
from sqlalchemy.ext.asyncio import AsyncConnection

from dragoman.policy.records import Dimension, UsageQuery, UsageRecord, UsageRow
from dragoman.stores.lists import is_in_workspaces
from dragoman.stores.rows import from_ms, to_ms
from dragoman.stores.tables import usage, usage_sums

DAY_MS: Final = 86_400_000
_FIELDS: Final = tuple(field.name for field in structs.fields(UsageRecord))
_N_COLUMNS: Final = len(_FIELDS)
_IS_STREAM: Final = _FIELDS.index("is_stream")
_ADJUSTMENTS: Final = _FIELDS.index("adjustments")
_REPAIRS: Final = _FIELDS.index("repairs")
_TOGETHER: Final = 32  # records in one statement of SQLite; its limit is 32,766 values
_encode: Final = msgspec.json.Encoder().encode
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


async def insert_records(
    connection: AsyncConnection, records: Sequence[UsageRecord], *, is_sqlite: bool
) -> None:
    """
    Add records; those whose id is known already change nothing.

    Every request comes by here: told by names and through SQLAlchemy's types, as elsewhere, a
    record costs 24 us of CPU, told as plain values 11, and with many in one statement, which for
    SQLite is one step outside of Python's lock, 8 (CPython 3.11, 2026-11-25).
    """
    values = _values_of(records)
    if is_sqlite:  # whose driver takes a bool for a type of ours, and is slow with those
        values[_IS_STREAM::_N_COLUMNS] = map(int, values[_IS_STREAM::_N_COLUMNS])
    n_rows = _TOGETHER if is_sqlite else 1  # PostgreSQL's sends many at once by itself
    together = _groups(values, n_rows)
    left = _groups(values[len(together) * n_rows * _N_COLUMNS :], 1)
    for n, groups in ((n_rows, together), (1, left)):
        if groups:
            statement = _insert_text(connection.dialect, is_sqlite=is_sqlite, n_rows=n)
            await connection.exec_driver_sql(statement, groups)


def _values_of(records: Sequence[UsageRecord]) -> list[Any]:
    """Return the columns of one record after the other, in the order of the table."""
    values = list(chain.from_iterable(map(structs.astuple, records)))
    for place in (_ADJUSTMENTS, _REPAIRS):
        values[place::_N_COLUMNS] = [_encode(v).decode() for v in values[place::_N_COLUMNS]]
    return values


def _groups(values: list[Any], n_rows: int) -> list[tuple[Any, ...]]:
    """Return the values of so many rows each; what is left over is not among them."""
    size = n_rows * _N_COLUMNS
    return [tuple(values[i : i + size]) for i in range(0, len(values) - size + 1, size)]


@lru_cache(maxsize=4)  # to write it takes as long as to insert a hundred records
def _insert_text(dialect: Dialect, *, is_sqlite: bool, n_rows: int = 1) -> str:
    text = str(_insert(is_sqlite=is_sqlite).compile(dialect=dialect))
    if n_rows == 1:
        return text
    row = f"({', '.join('?' * _N_COLUMNS)})"
    return text.replace(row, ", ".join([row] * n_rows))


def _insert(*, is_sqlite: bool) -> Insert:
    if is_sqlite:
        return sqlite.insert(usage).on_conflict_do_nothing()
    return postgresql.insert(usage).on_conflict_do_nothing()


async def sum_records(connection: AsyncConnection, query: UsageQuery) -> list[UsageRow]:
    """Return a row for each group that has records, in the order of the groups."""
    source = _source(query)
    groups = [_group(source, name).label(f"by_{name}") for name in query.group_by]
    sums = [sum_of(source.c[name]).label(name) for name in (*_COUNTED, *SUMMED)]
    chosen = select(*groups, *sums).group_by(*groups).order_by(*groups).limit(query.limit)
    rows = (await connection.execute(chosen)).mappings()
    return [_row(row, query.group_by) for row in rows if row["requests"]]


def is_error() -> ColumnElement[bool]:
    """Return what holds for records of requests that failed, at whatever moment."""
    return or_(usage.c.status >= _ERROR_STATUS, usage.c.error_type != "")


def is_unpriced() -> ColumnElement[bool]:
    """Return what holds for records of requests that have cost something nobody knows."""
    tokens = (
        usage.c.input_tokens
        + usage.c.cache_read_input_tokens
        + usage.c.cache_creation_input_tokens
        + usage.c.output_tokens
    )
    return and_(usage.c.cost_micros.is_(None), tokens > 0)


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
        usage.c.session_id,
        *(usage.c[name] for name in _COLUMNS.values() if name in usage_sums.c),
        literal_column("1").label("requests"),
        _one_if(is_error()).label("errors"),
        _one_if(is_unpriced()).label("unpriced"),
        *(usage.c[name] for name in SUMMED),
    )
    days = select(
        usage_sums.c.day.label("started_at"),
        literal_column("''").label("session_id"),
        *(usage_sums.c[name] for name in _COLUMNS.values() if name in usage_sums.c),
        *(usage_sums.c[name] for name in (*_COUNTED, *SUMMED)),
    )
    return union_all(
        _chosen(records, usage, usage.c.started_at, query=query),
        _chosen(days, usage_sums, usage_sums.c.day, query=query),
    ).subquery()


def _group(source: Subquery, name: Dimension) -> ColumnElement[Any]:
    if name in _SPANS:
        return source.c.started_at - source.c.started_at % _SPANS[name][0]
    return func.coalesce(source.c[_COLUMNS[name]], "")


def _chosen(
    rows: Select[Any], table: Table, time: ColumnElement[int], *, query: UsageQuery
) -> Select[Any]:
    """Return those of *rows*, which are of *table*, that are asked for."""
    found = [time >= to_ms(query.since), time < to_ms(query.until)]
    if query.key_ids:
        found.append(table.c.key_id.in_(query.key_ids))
    if query.models:
        found.append(table.c.model.in_(query.models))
    if query.workspace_ids:
        found.append(is_in_workspaces(table, query.workspace_ids))
    return rows.where(*found)


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
