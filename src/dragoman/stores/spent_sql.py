"""
What keys and workspaces have used of their budgets.

A start asks for all of them at once, over a month: so this is no report. Records are added up where
they lie, in the two sums that budgets are about. Days that are over are added up once and for all,
in ``usage_days``; whoever adds a record to such a day takes its sums away.
"""

import datetime as dt
from collections.abc import Iterable
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Select,
    Table,
    delete,
    exists,
    func,
    insert,
    literal,
    select,
    text,
    union,
    union_all,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from dragoman.policy.records import Spent, SpentQuery
from dragoman.stores.rows import to_ms
from dragoman.stores.tables import (
    DAY_MS,
    all_tokens,
    usage,
    usage_days,
    usage_facts,
    usage_sums,
)

_N_DAYS: Final = 32  # the longest period of a budget, and a day
# Of PostgreSQL's advisory locks of two numbers; the second one is the day.
_LOCKS: Final = 0x64726764


async def sum_spent(connection: AsyncConnection, query: SpentQuery) -> dict[str, Spent]:
    """Return what each owner has used, by its id; those without records are left out."""
    since, until = to_ms(query.since) or 0, to_ms(query.until) or 0
    is_in_span = usage_days.c.day >= since, usage_days.c.day < until
    known = _kept_days(since, until)
    parts = []
    for facts, counts in ((usage_facts, usage), (usage_sums, usage_sums)):
        part = _of_owners(_sums(counts, _owner(facts, query)), facts, query)
        is_open = facts.c.day >= since, facts.c.day < until, facts.c.day.not_in(known)
        parts.append(part.where(*is_open))
    days = select(_owner(usage_days, query), usage_days.c.tokens, usage_days.c.cost_micros)
    # In one statement: a day that is added up meanwhile is in one of them.
    both = union_all(*parts, _of_owners(days, usage_days, query).where(*is_in_span)).subquery()
    owner, *sums = both.c
    rows = await connection.execute(select(owner, *map(func.sum, sums)).group_by(owner))
    return {row[0]: Spent(tokens=int(row[1]), cost_micros=int(row[2] or 0)) for row in rows}


async def next_day_to_keep(connection: AsyncConnection, before: dt.datetime) -> int | None:
    """
    Return the newest day that ended before a time, and that budgets still add up from its records.

    None: there is none that a budget can be about.
    """
    end = (to_ms(before) or 0) // DAY_MS * DAY_MS
    since = end - _N_DAYS * DAY_MS
    days = union(
        *(
            select(table.c.day).where(table.c.day >= since, table.c.day < end)
            for table in (usage_facts, usage_sums)
        )
    ).subquery()
    is_kept = exists().where(usage_days.c.day == days.c.day)
    found: int | None = await connection.scalar(select(func.max(days.c.day)).where(~is_kept))
    return found


async def keep_day(connection: AsyncConnection, day: int, *, is_sqlite: bool) -> None:
    """
    Keep what was used on a day, unless it is kept already; forget days that are too long ago.

    Args:
        connection: In a transaction that may write, without a statement so far.
        day: Its first millisecond.
        is_sqlite: Else PostgreSQL.
    """
    if not is_sqlite:  # where writers do not wait for each other by themselves
        # What the day holds is looked at when those have ended who were adding to it.
        await connection.execute(text("SET LOCAL statement_timeout = 0"))
        lock = select(func.pg_advisory_xact_lock(_LOCKS, day // DAY_MS))
        await connection.execute(lock)
    old = usage_days.c.day < day - 2 * _N_DAYS * DAY_MS
    await connection.execute(delete(usage_days).where(old))
    if await connection.scalar(select(exists().where(usage_days.c.day == day))):
        return
    parts = []
    for facts, counts in ((usage_facts, usage), (usage_sums, usage_sums)):
        whose = facts.c.key_id, facts.c.workspace_id
        parts.append(_sums(counts, *whose).where(facts.c.day == day))
    key_id, workspace_id, *sums = union_all(*parts).subquery().c
    columns = ["day", "key_id", "workspace_id", "tokens", "cost_micros"]
    both = [func.coalesce(func.sum(column), 0) for column in sums]
    rows = select(literal(day), key_id, workspace_id, *both).group_by(key_id, workspace_id)
    made = await connection.execute(insert(usage_days).from_select(columns, rows))
    if not made.rowcount:  # a day of which nothing is left; nobody need look again
        empty = {"day": day, "key_id": "", "tokens": 0, "cost_micros": 0}
        await connection.execute(insert(usage_days).values(empty))


async def open_days(connection: AsyncConnection, days: Iterable[int], *, is_sqlite: bool) -> None:
    """
    Have days added up anew: records of them are about to be added.

    Args:
        connection: In a transaction that may write, without a statement so far: in PostgreSQL
            nobody holds a row while it waits here, so that nobody can wait for each other.
        days: Their first milliseconds.
        is_sqlite: Else PostgreSQL.
    """
    told = sorted(days)  # in one order everywhere
    if not is_sqlite:
        for day in told:
            lock = select(func.pg_advisory_xact_lock_shared(_LOCKS, day // DAY_MS))
            await connection.execute(lock)
    # As plain text, like the records: each batch comes by here.
    place = "?" if is_sqlite else "$1"
    rows = [(day,) for day in told]
    await connection.exec_driver_sql(f"DELETE FROM usage_days WHERE day = {place}", rows)  # noqa: S608


async def forget_kept(connection: AsyncConnection, before: dt.datetime) -> None:
    """Remove what is kept of days that ended before a time."""
    is_old = usage_days.c.day + DAY_MS <= to_ms(before)
    await connection.execute(delete(usage_days).where(is_old))


def _kept_days(since: int, until: int) -> Select[Any]:
    """Return the days that are kept, looked up one after the other: each has a row for each key."""
    day = func.min(usage_days.c.day)
    is_before = usage_days.c.day < until
    first = select(day.label("day")).where(usage_days.c.day >= since, is_before)
    known = first.cte("kept_days", recursive=True)
    last = known.alias("last_day")
    later = select(day).where(usage_days.c.day > last.c.day, is_before)
    following = select(later.scalar_subquery()).select_from(last).where(last.c.day.is_not(None))
    known = known.union_all(following)
    return select(known.c.day).where(known.c.day.is_not(None))  # NOT IN knows no way around NULL


def _sums(counts: Table, *whose: ColumnElement[Any]) -> Select[Any]:
    """Return the two sums of each owner, of records or of sums of days."""
    chosen = select(
        *whose,
        func.sum(all_tokens(counts)).label("tokens"),
        func.sum(counts.c.cost_micros).label("cost_micros"),
    )
    if counts is usage:
        chosen = chosen.join_from(usage_facts, usage, usage.c.facts_id == usage_facts.c.id)
    return chosen.group_by(*whose)


def _owner(table: Table, query: SpentQuery) -> ColumnElement[Any]:
    owner: ColumnElement[Any] = table.c.key_id if query.scope == "key" else table.c.workspace_id
    return owner


def _of_owners(rows: Select[Any], table: Table, query: SpentQuery) -> Select[Any]:
    return rows.where(_owner(table, query).in_(query.owners))
