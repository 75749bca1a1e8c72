"""
Bring a database to the version of this program, once, however many replicas start.

Whoever comes first holds a lock while it works; the others wait, look again and find nothing to do.
All versions that are missing are made in one transaction: it is as before, or it is up to date.
"""

from pathlib import Path
from typing import Final

from sqlalchemy import (
    Column,
    Connection,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    insert,
    inspect,
    text,
)
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.schema import CreateTable

from dragoman.core.errors import StoreUnavailable
from dragoman.stores.database import Database
from dragoman.stores.tables import metadata, state
from dragoman.stores.versions import VERSIONS, SchemaState, too_new

# With the wait for a replica that came first. A million usage records may take half a minute.
_TIMEOUT_S: Final = 900.0
_LOCK: Final = 0x647261676F6D616E  # of PostgreSQL's advisory locks: "dragoman"

# Alembic's own table, as it makes it.
_alembic_version: Final = Table(
    "alembic_version",
    MetaData(),
    Column("version_num", String(32), nullable=False),
    PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),
)


class StoreIsNewer(StoreUnavailable):
    """The database was brought to a version that this program does not know."""


async def look_at_schema(database: Database) -> SchemaState:
    """
    Return which version the database has.

    Raises:
        StoreUnavailable: It cannot be reached.
    """
    async with database.reading() as connection:
        return SchemaState(version=await connection.run_sync(_version_of))


async def upgrade_schema(database: Database) -> SchemaState:
    """
    Bring the database to the version of this program; return how it was before.

    Raises:
        StoreIsNewer: It is beyond that version already; nothing was changed.
        StoreUnavailable: It cannot be reached, or holds tables of somebody else.
    """
    before = await look_at_schema(database)
    if before.state in ("empty", "behind"):
        async with database.writing(timeout_s=_TIMEOUT_S) as connection:
            await _lock(connection, is_sqlite=database.is_sqlite)
            before = SchemaState(version=await connection.run_sync(_version_of))
            if before.state == "empty":  # as on every new machine: without Alembic
                await connection.run_sync(_make_tables)
            elif before.state == "behind":
                await connection.run_sync(run_migrations)
    if before.state == "newer":
        raise StoreIsNewer(too_new(database.url, before.version))
    return before


async def _lock(connection: AsyncConnection, *, is_sqlite: bool) -> None:
    if is_sqlite:  # whoever writes is alone already
        return
    await connection.execute(text("SET LOCAL statement_timeout = 0"))
    await connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})


def _version_of(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    version: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return version


def _make_tables(connection: Connection) -> None:
    """Make an empty database as all migrations together would; a test compares both."""
    metadata.create_all(connection, checkfirst=False)
    connection.execute(insert(state).values(name="revision", value=0))
    connection.execute(CreateTable(_alembic_version))
    connection.execute(insert(_alembic_version).values(version_num=VERSIONS[-1]))


def run_migrations(connection: Connection, to: str = "head") -> None:
    """Bring the tables to a version, by its migrations."""
    # Loaded by the one start that needs it.
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    command.upgrade(config, to)
