"""The store on a SQL database. Every method is one transaction."""

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from sqlalchemy import BindParameter, Table, Update, bindparam, exists, insert, or_, select, update
from sqlalchemy.engine import RowMapping
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from dragoman.core.errors import InvalidRequest, UnknownId
from dragoman.policy.access import AdminKey, VirtualKey, Workspace
from dragoman.policy.records import (
    AuditEntry,
    Spent,
    SpentQuery,
    UsageQuery,
    UsageRecord,
    UsageRow,
)
from dragoman.policy.store import ALL_KEYS, KeyChanges, KeyFilter, Page
from dragoman.settings import StoreConfig
from dragoman.store_urls import StoreUrl
from dragoman.stores.database import Database
from dragoman.stores.lists import key_conditions, read_page
from dragoman.stores.migrating import upgrade_schema
from dragoman.stores.rows import RowCodec, S, to_ms
from dragoman.stores.spent_sql import forget_kept, keep_day, next_day_to_keep, sum_spent
from dragoman.stores.tables import admin_keys, audit, keys, state, workspaces
from dragoman.stores.usage_insert import insert_records
from dragoman.stores.usage_rollup import ROLL_UP_TIMEOUT_S, forget_days, forget_facts, roll_up_day
from dragoman.stores.usage_sql import sum_records

_KEYS: Final = RowCodec(VirtualKey)
_WORKSPACES: Final = RowCodec(Workspace)
_ADMIN_KEYS: Final = RowCodec(AdminKey)
_AUDIT: Final = RowCodec(AuditEntry)
_MAX_CHANGES: Final = 1000  # keys told at once; beyond that a reader starts anew
_TEAM: Final = "workspace__"  # before a workspace's columns where they stand beside a key's
_REVISION: Final = (
    "SELECT value, EXISTS (SELECT id FROM api_keys) FROM store_state WHERE name = 'revision'"
)
_PAIRS: Final = select(
    keys, *(column.label(f"{_TEAM}{column.name}") for column in workspaces.c)
).select_from(keys.outerjoin(workspaces))


async def open_sql_store(url: StoreUrl, settings: StoreConfig) -> "SqlStore":
    """
    Return a store whose tables are up to date.

    Raises:
        StoreUnavailable: It cannot be reached, or is of a newer version.
    """
    database = Database(url, settings)
    try:
        await upgrade_schema(database)
    except BaseException:
        await database.close()
        raise
    return SqlStore(database, report_timeout_s=settings.report_timeout_s)


class SqlStore:
    """
    Implements ``policy.store.Store``.

    Args:
        database: Has all tables.
        report_timeout_s: How long sums may take.
    """

    def __init__(self, database: Database, *, report_timeout_s: float) -> None:
        self._database = database
        self._report_timeout_s = report_timeout_s

    async def key_changes(self, since: int) -> KeyChanges:
        if self._database.is_sqlite:
            revision, has_keys = await self._database.glance(_REVISION)
            if revision == since:  # as nearly always
                return KeyChanges(revision=since, keys=(), has_keys=bool(has_keys))
        async with self._database.reading() as connection:
            # First the revision: what changes in between is told once more, never left out.
            revision, has_keys = await _revision(connection)
            if revision == since:
                return KeyChanges(revision=revision, keys=(), has_keys=has_keys)
            if revision < since:  # another database, or a copy that was brought back
                return KeyChanges(revision=revision, keys=None, has_keys=has_keys)
            is_new = or_(keys.c.revision > since, workspaces.c.revision > since)
            chosen = _PAIRS.where(is_new).limit(_MAX_CHANGES + 1)
            rows = list((await connection.execute(chosen)).mappings())
        pairs = None if len(rows) > _MAX_CHANGES else tuple(map(_pair, rows))
        return KeyChanges(revision=revision, keys=pairs, has_keys=has_keys)

    async def key_by_digest(self, digest: bytes) -> tuple[VirtualKey, Workspace | None] | None:
        async with self._database.reading() as connection:
            found = await connection.execute(_PAIRS.where(keys.c.digest == digest))
            row = found.mappings().first()
        return _pair(row) if row else None

    async def keys_behind(
        self, key_id: str, *, limit: int
    ) -> list[tuple[VirtualKey, Workspace | None]]:
        chosen = _PAIRS.where(keys.c.id > key_id, keys.c.revoked_at.is_(None))
        async with self._database.reading() as connection:
            rows = await connection.execute(chosen.order_by(keys.c.id).limit(limit))
            return [_pair(row) for row in rows.mappings()]

    async def get_key(self, key_id: str) -> VirtualKey | None:
        return await self._get(keys, _KEYS, key_id)

    async def list_keys(self, page: Page, which: KeyFilter = ALL_KEYS) -> list[VirtualKey]:
        async with self._database.reading() as connection:
            rows = await read_page(connection, keys, page, *key_conditions(which))
        return [_KEYS.decode(row) for row in rows]

    async def add_key(self, key: VirtualKey, entry: AuditEntry) -> None:
        async with self._database.writing() as connection:
            await _add_key(connection, key, await _write_down(connection, entry))

    async def change_key(
        self,
        key_id: str,
        change: Callable[[VirtualKey], VirtualKey],
        *,
        entry: AuditEntry,
        successor: VirtualKey | None = None,
    ) -> VirtualKey:
        async with self._database.writing() as connection:
            # In this order everywhere: the revision's row is the lock that all changes queue at.
            revision = await _write_down(connection, entry)
            key = change(_KEYS.decode(await _row_of(connection, keys, key_id, what="API key")))
            values = {**_KEYS.encode(key), "revision": revision}
            del values["last_used_at"]  # written by others meanwhile
            await connection.execute(update(keys).where(keys.c.id == key_id).values(values))
            if successor is not None:
                await _add_key(connection, successor, revision)
        return key

    async def touch_keys(self, last_used: Mapping[str, dt.datetime]) -> None:
        if not last_used:
            return
        rows = [{"key": key_id, "used": to_ms(at)} for key_id, at in sorted(last_used.items())]
        async with self._database.writing() as connection:
            for table in (keys, admin_keys):
                await connection.execute(_touch(table), rows)

    async def get_workspace(self, workspace_id: str) -> Workspace | None:
        return await self._get(workspaces, _WORKSPACES, workspace_id)

    async def list_workspaces(self, page: Page, *, names: Sequence[str] = ()) -> list[Workspace]:
        where = [workspaces.c.name.in_(names)] if names else []
        async with self._database.reading() as connection:
            rows = await read_page(connection, workspaces, page, *where)
        return [_WORKSPACES.decode(row) for row in rows]

    async def add_workspace(self, workspace: Workspace, entry: AuditEntry) -> None:
        async with self._database.writing() as connection:
            revision = await _write_down(connection, entry)
            values = {**_WORKSPACES.encode(workspace), "revision": revision}
            try:
                await connection.execute(insert(workspaces).values(values))
            except IntegrityError:
                raise _name_taken(workspace.name) from None

    async def change_workspace(
        self, workspace_id: str, change: Callable[[Workspace], Workspace], *, entry: AuditEntry
    ) -> Workspace:
        async with self._database.writing() as connection:
            revision = await _write_down(connection, entry)
            row = await _row_of(connection, workspaces, workspace_id, what="workspace")
            workspace = change(_WORKSPACES.decode(row))
            values = {**_WORKSPACES.encode(workspace), "revision": revision}
            chosen = update(workspaces).where(workspaces.c.id == workspace_id)
            try:
                await connection.execute(chosen.values(values))
            except IntegrityError:
                raise _name_taken(workspace.name) from None
            if workspace.archived_at is not None:
                await connection.execute(_revoke_all(workspace_id, workspace.archived_at))
        return workspace

    async def admin_key_by_digest(self, digest: bytes) -> AdminKey | None:
        async with self._database.reading() as connection:
            chosen = select(admin_keys).where(admin_keys.c.digest == digest)
            row = (await connection.execute(chosen)).mappings().first()
        return _ADMIN_KEYS.decode(row) if row else None

    async def get_admin_key(self, key_id: str) -> AdminKey | None:
        return await self._get(admin_keys, _ADMIN_KEYS, key_id)

    async def list_admin_keys(self, page: Page) -> list[AdminKey]:
        async with self._database.reading() as connection:
            rows = await read_page(connection, admin_keys, page)
        return [_ADMIN_KEYS.decode(row) for row in rows]

    async def add_admin_key(self, key: AdminKey, entry: AuditEntry) -> None:
        async with self._database.writing() as connection:
            await _write_down(connection, entry)
            await connection.execute(insert(admin_keys).values(_ADMIN_KEYS.encode(key)))

    async def change_admin_key(
        self, key_id: str, change: Callable[[AdminKey], AdminKey], *, entry: AuditEntry
    ) -> AdminKey:
        async with self._database.writing() as connection:
            await _write_down(connection, entry)
            row = await _row_of(connection, admin_keys, key_id, what="admin key")
            key = change(_ADMIN_KEYS.decode(row))
            values = _ADMIN_KEYS.encode(key)
            del values["last_used_at"]  # written by others meanwhile
            chosen = update(admin_keys).where(admin_keys.c.id == key_id)
            await connection.execute(chosen.values(values))
        return key

    async def add_usage(self, records: Sequence[UsageRecord]) -> None:
        async with self._database.writing() as connection:
            await insert_records(connection, records, is_sqlite=self._database.is_sqlite)

    async def usage(self, query: UsageQuery) -> list[UsageRow]:
        async with self._database.reading(timeout_s=self._report_timeout_s) as connection:
            return await sum_records(connection, query)

    async def spent(self, query: SpentQuery) -> dict[str, Spent]:
        async with self._database.reading(timeout_s=self._report_timeout_s) as connection:
            return await sum_spent(connection, query)

    async def keep_spent(self, before: dt.datetime) -> bool:
        async with self._database.reading(timeout_s=self._report_timeout_s) as connection:
            day = await next_day_to_keep(connection, before)
        if day is None:
            return False
        is_sqlite = self._database.is_sqlite
        async with self._database.writing(timeout_s=ROLL_UP_TIMEOUT_S) as connection:
            await keep_day(connection, day, is_sqlite=is_sqlite)
        return True

    async def roll_up_usage(self, before: dt.datetime) -> int:
        is_sqlite = self._database.is_sqlite
        async with self._database.writing(timeout_s=ROLL_UP_TIMEOUT_S) as connection:
            await forget_facts(connection, before, is_sqlite=is_sqlite)
        async with self._database.writing(timeout_s=ROLL_UP_TIMEOUT_S) as connection:
            return await roll_up_day(connection, before, is_sqlite=is_sqlite)

    async def forget_usage(self, before: dt.datetime) -> int:
        async with self._database.writing(timeout_s=ROLL_UP_TIMEOUT_S) as connection:
            await forget_kept(connection, before)
            return await forget_days(connection, before)

    async def list_audit(self, page: Page) -> list[AuditEntry]:
        async with self._database.reading() as connection:
            rows = await read_page(connection, audit, page)
        return [_AUDIT.decode(row) for row in rows]

    async def close(self) -> None:
        await self._database.close()

    async def _get(self, table: Table, codec: RowCodec[S], row_id: str) -> S | None:
        async with self._database.reading() as connection:
            found = await connection.execute(select(table).where(table.c.id == row_id))
            row = found.mappings().first()
        return codec.decode(row) if row else None


def _pair(row: RowMapping) -> tuple[VirtualKey, Workspace | None]:
    key = _KEYS.decode(row)
    if key.workspace_id is None:
        return key, None
    return key, _WORKSPACES.decode(row, _TEAM)


async def _revision(connection: AsyncConnection) -> tuple[int, bool]:
    """Return the present revision, and whether there is any key."""
    is_any = exists(select(keys.c.id))
    asked = select(state.c.value, is_any).where(state.c.name == "revision")
    value, has_keys = (await connection.execute(asked)).one()
    return int(value), bool(has_keys)


async def _write_down(connection: AsyncConnection, entry: AuditEntry) -> int:
    """Note an action, and return the revision that it makes."""
    next_one = update(state).where(state.c.name == "revision").values(value=state.c.value + 1)
    found = await connection.execute(next_one.returning(state.c.value))
    await connection.execute(insert(audit).values(_AUDIT.encode(entry)))
    return int(found.scalar_one())


async def _row_of(
    connection: AsyncConnection, table: Table, row_id: str, *, what: str
) -> RowMapping:
    found = await connection.execute(select(table).where(table.c.id == row_id))
    row = found.mappings().first()
    if row is None:
        raise UnknownId(f"there is no {what} {row_id[:60]!a}")
    return row


async def _add_key(connection: AsyncConnection, key: VirtualKey, revision: int) -> None:
    try:
        await connection.execute(insert(keys).values({**_KEYS.encode(key), "revision": revision}))
    except IntegrityError:
        # Ids and keys are random: what is left is the workspace.
        raise UnknownId(f"there is no workspace {key.workspace_id!a}") from None


def _revoke_all(workspace_id: str, at: dt.datetime) -> Update:
    """Return what ends the keys of a workspace; readers learn of it by the workspace's revision."""
    chosen = update(keys).where(keys.c.workspace_id == workspace_id, keys.c.revoked_at.is_(None))
    return chosen.values(revoked_at=to_ms(at))


def _touch(table: Table) -> Update:
    """Return what sets the time of last use, unless a later one is known from elsewhere."""
    used: BindParameter[int] = bindparam("used")
    is_later = or_(table.c.last_used_at.is_(None), table.c.last_used_at < used)
    chosen = update(table).where(table.c.id == bindparam("key"), is_later)
    return chosen.values(last_used_at=used)


def _name_taken(name: str) -> InvalidRequest:
    return InvalidRequest("name", f"there is a workspace {name!r} already")
