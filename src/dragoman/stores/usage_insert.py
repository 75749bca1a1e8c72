"""
Usage records into the store.

What records of one day have in common is a row of its own, so that a record is eleven short values
and one place in one table: whatever it takes, every request pays for. In SQLite that is a quarter
of what a row of 27 columns with four indexes took (counted by cachegrind, 2026-11-26).
"""

from collections.abc import Collection, Sequence
from functools import lru_cache
from hashlib import sha256
from itertools import chain, repeat
from operator import floordiv
from typing import Any, Final

import msgspec
from msgspec import structs
from sqlalchemy import Table
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Dialect
from sqlalchemy.ext.asyncio import AsyncConnection

from dragoman.policy.records import UsageRecord, decode_facts
from dragoman.stores.spent_sql import open_days
from dragoman.stores.tables import DAY_MS, usage, usage_facts

_N_COLUMNS: Final = len(usage.c)
_TIME: Final = usage.c.keys().index("started_at")
_DAY: Final = usage_facts.c.keys().index("day")
_FACTS: Final = usage.c.keys().index("facts_id")
_NULLABLE: Final = [at for at, column in enumerate(usage.c) if column.nullable]
_NULL: Final = -1  # what stands for it on the way to SQLite
_TOGETHER: Final = 32  # records in one statement of SQLite; its limit is 32,766 values
_encode: Final = msgspec.json.Encoder().encode

_Row = tuple[Any, ...]


async def insert_records(
    connection: AsyncConnection, records: Sequence[UsageRecord], *, is_sqlite: bool
) -> None:
    """
    Add records; those that are known already change nothing.

    Every request comes by here, and so they are told to the driver as plain values, without names
    and SQLAlchemy's types, and many in one statement, which for SQLite is one step outside of
    Python's lock.
    """
    if not records:
        return
    facts, values = _rows_of(records)
    await open_days(connection, {row[_DAY] for row in facts}, is_sqlite=is_sqlite)
    statement = _insert_text(usage_facts, connection.dialect, is_sqlite=is_sqlite)
    # In one order everywhere: of two gateways that add the same, one waits for the other.
    await connection.exec_driver_sql(statement, sorted(facts))
    if is_sqlite:  # whose driver is slow with None, as with all that is no number and no text
        for place in _NULLABLE:
            told = values[place::_N_COLUMNS]
            values[place::_N_COLUMNS] = [_NULL if each is None else each for each in told]
    n_rows = _TOGETHER if is_sqlite else 1  # PostgreSQL's sends many at once by itself
    together = _groups(values, n_rows)
    left = _groups(values[len(together) * n_rows * _N_COLUMNS :], 1)
    for n, groups in ((n_rows, together), (1, left)):
        if groups:
            statement = _insert_text(usage, connection.dialect, is_sqlite=is_sqlite, n_rows=n)
            await connection.exec_driver_sql(statement, groups)


def facts_id(facts: bytes, day: int) -> int:
    """
    Return the id of facts: a record that is sent again finds them again, whoever sends it.

    Args:
        facts: As ``encode_facts`` has written them.
        day: Of their records, counted since 1970.
    """
    digest = sha256(b"%d %b" % (day, facts)).digest()
    return int.from_bytes(digest[:8], "big") >> 1  # databases count to 2 ** 63


def facts_row(facts: bytes, day: int) -> _Row:
    """Return the columns of facts, in the order of their table."""
    *plain, adjustments, repairs = structs.astuple(decode_facts(facts))
    parts = _encode(adjustments).decode(), _encode(repairs).decode()
    return (facts_id(facts, day), day * DAY_MS, *plain, *parts)


def _rows_of(records: Sequence[UsageRecord]) -> tuple[Collection[_Row], list[Any]]:
    """
    Return what records have in common, and the columns of one after the other.

    What is done for each of them is done without Python: their facts are mostly the same object.
    """
    values = list(chain.from_iterable(map(structs.astuple, records)))
    facts = values[_FACTS::_N_COLUMNS]
    days = map(floordiv, values[_TIME::_N_COLUMNS], repeat(DAY_MS))
    keys = list(zip(map(id, facts), days, strict=True))
    told = {key: (bytes(raw), key[1]) for key, raw in dict(zip(keys, facts, strict=True)).items()}
    rows = {each: facts_row(*each) for each in set(told.values())}
    ids = {key: rows[each][0] for key, each in told.items()}
    values[_FACTS::_N_COLUMNS] = map(ids.__getitem__, keys)
    return rows.values(), values


def _groups(values: list[Any], n_rows: int) -> list[_Row]:
    """Return the values of so many rows each; what is left over is not among them."""
    size = n_rows * _N_COLUMNS
    return [tuple(values[i : i + size]) for i in range(0, len(values) - size + 1, size)]


@lru_cache(maxsize=8)  # to write it takes as long as to insert a hundred records
def _insert_text(table: Table, dialect: Dialect, *, is_sqlite: bool, n_rows: int = 1) -> str:
    if not is_sqlite:
        insert = postgresql.insert(table).on_conflict_do_nothing()
        return str(insert.compile(dialect=dialect))
    text = str(sqlite.insert(table).on_conflict_do_nothing().compile(dialect=dialect))
    places = ["?"] * len(table.c)
    told = f"({', '.join(places)})"
    if table is usage:
        for place in _NULLABLE:
            places[place] = f"nullif(?, {_NULL})"
    return text.replace(told, ", ".join([f"({', '.join(places)})"] * n_rows))
