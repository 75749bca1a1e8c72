"""Usage records of past days become sums, one day in one transaction."""

import datetime as dt
from typing import Final

from sqlalchemy import delete, exists, func, insert, literal_column, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from dragoman.stores.rows import to_ms
from dragoman.stores.tables import DAY_MS, usage, usage_facts, usage_sums
from dragoman.stores.usage_sql import SUMMED, count_of, is_error, is_unpriced, sum_of

ROLL_UP_TIMEOUT_S: Final = 300.0  # a million records take seconds; writers wait meanwhile
_KEPT: Final = ("key_id", "workspace_id", "model", "upstream", "upstream_model", "client")
_COUNTED: Final = ("requests", "errors", "unpriced")


async def roll_up_day(connection: AsyncConnection, before: dt.datetime, *, is_sqlite: bool) -> int:
    """
    Add the records of the oldest day up that ended before a time, and remove them.

    Their facts stay until the next day is looked for: see ``forget_facts``.

    Args:
        connection: In a transaction that may write, without a statement so far.
        before: The time.
        is_sqlite: Else PostgreSQL.

    Returns:
        How many records there were; 0: there is no such day.
    """
    if not is_sqlite:
        # What is added up and what is removed must be the same, whatever arrives in between. Where
        # two replicas do the same day, the second one fails, and there is nothing left to do.
        await connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
        await connection.execute(text("SET LOCAL statement_timeout = 0"))
    day = await _first_day(connection)
    if day is None or day + DAY_MS > (to_ms(before) or 0):
        return 0
    kept = [usage_facts.c[name] for name in _KEPT]
    sums = (
        select(
            literal_column(str(day)),
            *kept,
            func.count(),
            count_of(is_error()),
            count_of(is_unpriced()),
            *(sum_of(usage.c[name]) for name in SUMMED),
        )
        .join_from(usage_facts, usage, usage.c.facts_id == usage_facts.c.id)
        .where(usage_facts.c.day == day)
        .group_by(*kept)
    )
    columns = ["day", *_KEPT, *_COUNTED, *SUMMED]
    await connection.execute(insert(usage_sums).from_select(columns, sums))
    facts = select(usage_facts.c.id).where(usage_facts.c.day == day)
    return (await connection.execute(delete(usage).where(usage.c.facts_id.in_(facts)))).rowcount


async def forget_facts(
    connection: AsyncConnection, before: dt.datetime, *, is_sqlite: bool
) -> None:
    """
    Remove the facts of days that ended before a time, and of which no record is there any more.

    Args:
        connection: In a transaction that may write, without a statement so far.
        before: The time.
        is_sqlite: Else PostgreSQL.
    """
    if not is_sqlite:
        await connection.execute(text("SET LOCAL statement_timeout = 0"))
        # Who has just found facts there, and adds a record to them, has not said so yet.
        await connection.execute(text("LOCK TABLE usage_facts IN SHARE ROW EXCLUSIVE MODE"))
    end = (to_ms(before) or 0) - DAY_MS + 1
    if (day := await _first_day(connection)) is not None:
        end = min(end, day)
    await connection.execute(delete(usage_facts).where(usage_facts.c.day < end))


async def _first_day(connection: AsyncConnection) -> int | None:
    """Return the oldest day that has records."""
    has_records = exists().where(usage.c.facts_id == usage_facts.c.id)
    days = select(usage_facts.c.day).where(has_records).order_by(usage_facts.c.day).limit(1)
    day: int | None = await connection.scalar(days)
    return day


async def forget_days(connection: AsyncConnection, before: dt.datetime) -> int:
    """Remove the sums of days that ended before a time; return how many there were."""
    is_old = usage_sums.c.day + DAY_MS <= to_ms(before)
    return (await connection.execute(delete(usage_sums).where(is_old))).rowcount
