"""Usage records of past days become sums, one day in one transaction."""

import datetime as dt
from typing import Final

from sqlalchemy import delete, func, insert, literal_column, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from dragoman.stores.rows import to_ms
from dragoman.stores.tables import usage, usage_sums
from dragoman.stores.usage_sql import DAY_MS, SUMMED, count_of, is_error, is_unpriced, sum_of

ROLL_UP_TIMEOUT_S: Final = 300.0  # a million records take seconds; writers wait meanwhile
_KEPT: Final = ("key_id", "workspace_id", "model", "upstream", "upstream_model", "client")
_COUNTED: Final = ("requests", "errors", "unpriced")


async def roll_up_day(connection: AsyncConnection, before: dt.datetime, *, is_sqlite: bool) -> int:
    """
    Add the records of the oldest day up that ended before a time, and remove them.

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
    first_ms = await connection.scalar(select(func.min(usage.c.started_at)))
    if first_ms is None:
        return 0
    begin = first_ms - first_ms % DAY_MS
    if begin + DAY_MS > (to_ms(before) or 0):
        return 0
    is_of_day = usage.c.started_at.between(begin, begin + DAY_MS - 1)
    kept = [usage.c[name] for name in _KEPT]
    sums = (
        select(
            literal_column(str(begin)),
            *kept,
            func.count(),
            count_of(is_error()),
            count_of(is_unpriced()),
            *(sum_of(usage.c[name]) for name in SUMMED),
        )
        .where(is_of_day)
        .group_by(*kept)
    )
    columns = ["day", *_KEPT, *_COUNTED, *SUMMED]
    await connection.execute(insert(usage_sums).from_select(columns, sums))
    return (await connection.execute(delete(usage).where(is_of_day))).rowcount


async def forget_days(connection: AsyncConnection, before: dt.datetime) -> int:
    """Remove the sums of days that ended before a time; return how many there were."""
    is_old = usage_sums.c.day + DAY_MS <= to_ms(before)
    return (await connection.execute(delete(usage_sums).where(is_old))).rowcount
