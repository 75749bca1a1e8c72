"""Pages of a table, newest first, and which keys a filter means."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Column, ColumnElement, Table, and_, or_, select, tuple_
from sqlalchemy.engine import RowMapping
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.elements import Tuple

from dragoman.core.errors import InvalidRequest
from dragoman.policy.access import KeyStatus
from dragoman.policy.store import KeyFilter, Page
from dragoman.stores.rows import to_ms
from dragoman.stores.tables import audit, keys


async def read_page(
    connection: AsyncConnection, table: Table, page: Page, *where: ColumnElement[bool]
) -> list[RowMapping]:
    """
    Return the rows of a page, newest first.

    Args:
        connection: In a transaction.
        table: With a time and an id.
        page: Which part.
        where: Which rows count.

    Raises:
        InvalidRequest: The page begins at an id that is not there.
    """
    age = (_time_of(table), table.c.id)
    chosen = select(table).where(*where)
    if page.after_id is not None:
        anchor = await _find(connection, table, page.after_id, name="after_id")
        chosen = chosen.where(tuple_(*age) < anchor)
    is_backwards = page.before_id is not None and page.after_id is None
    if page.before_id is not None:
        anchor = await _find(connection, table, page.before_id, name="before_id")
        chosen = chosen.where(tuple_(*age) > anchor)
    order = [column.asc() if is_backwards else column.desc() for column in age]
    found = await connection.execute(chosen.order_by(*order).limit(page.limit))
    rows = list(found.mappings())
    return rows[::-1] if is_backwards else rows


async def _find(connection: AsyncConnection, table: Table, row_id: str, *, name: str) -> Tuple:
    """Return what the order of the list says of a row."""
    found = await connection.execute(select(_time_of(table)).where(table.c.id == row_id))
    time_ms = found.scalar()
    if time_ms is None:
        raise InvalidRequest(name, "is not the id of an entry of this list")
    return tuple_(time_ms, row_id)


def _time_of(table: Table) -> Column[Any]:
    return table.c.at if table is audit else table.c.created_at


def is_in_workspaces(table: Table, ids: Sequence[str | None]) -> ColumnElement[bool]:
    """Return what holds for rows of *table* in one of these workspaces; None: the default one."""
    ways = [table.c.workspace_id.in_([each for each in ids if each is not None])]
    if None in ids:
        ways.append(table.c.workspace_id.is_(None))
    return or_(*ways)


def key_conditions(which: KeyFilter) -> list[ColumnElement[bool]]:
    """Return what a key must be for *which* to mean it."""
    found: list[ColumnElement[bool]] = []
    if which.names:
        found.append(keys.c.name.in_(which.names))
    if which.workspace_ids:
        found.append(is_in_workspaces(keys, which.workspace_ids))
    if which.statuses:
        statuses = _conditions_of_statuses(to_ms(which.now))
        found.append(or_(*(statuses[each] for each in which.statuses)))
    return found


def _conditions_of_statuses(now_ms: int | None) -> Mapping[KeyStatus, ColumnElement[bool]]:
    """Return, for each status, what ``VirtualKey.status`` looks at."""
    is_good = and_(keys.c.revoked_at.is_(None), keys.c.disabled_at.is_(None))
    is_over = and_(keys.c.expires_at.is_not(None), keys.c.expires_at <= now_ms)
    return {
        "revoked": keys.c.revoked_at.is_not(None),
        "disabled": and_(keys.c.revoked_at.is_(None), keys.c.disabled_at.is_not(None)),
        "expired": and_(is_good, is_over),
        "active": and_(is_good, ~is_over),
    }
