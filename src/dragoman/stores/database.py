"""
One database, SQLite or PostgreSQL: connections, transactions, times, and one kind of failure.

Reading and writing are different transactions: where two write at once, SQLite lets the second one
wait only if it says at its beginning that it will write.
"""

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import aiosqlite
from sqlalchemy import Connection, event
from sqlalchemy.engine import URL
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from dragoman.core.errors import StoreUnavailable
from dragoman.settings import StoreConfig
from dragoman.store_urls import PostgresAddress, StoreUrl
from dragoman.stores.postgres_peek import ssl_options

_WRITES: Final = "dragoman_writes"  # our option of a connection
_SQLITE_CONNECTIONS: Final = 3  # each is a thread: one writes, one polls, one reports
_RECYCLE_S: Final = 1800
_MAX_DETAIL: Final = 300


class Database:
    """
    Transactions on one database; nothing is opened before the first one.

    Args:
        url: Where it is.
        settings: Sizes and times.
    """

    def __init__(self, url: StoreUrl, settings: StoreConfig) -> None:
        self.url = url
        self.is_sqlite = url.path is not None
        self._timeout_s = settings.timeout_s
        make = _sqlite_engine if url.path is not None else _postgres_engine
        self._engine = make(url, settings)
        self._glancing = asyncio.Lock()
        self._for_glances: aiosqlite.Connection | None = None

    @asynccontextmanager
    async def reading(self, *, timeout_s: float | None = None) -> AsyncIterator[AsyncConnection]:
        """
        Open a transaction that changes nothing.

        Args:
            timeout_s: For all of it; else the one of the settings.

        Raises:
            StoreUnavailable: It did not succeed in time.
        """
        with explained():
            async with asyncio.timeout(timeout_s or self._timeout_s), self._engine.connect() as c:
                yield c

    @asynccontextmanager
    async def writing(self, *, timeout_s: float | None = None) -> AsyncIterator[AsyncConnection]:
        """
        Open a transaction that is written down at its end, unless something is raised.

        Raises:
            StoreUnavailable: It did not succeed in time.
        """
        with explained():
            async with asyncio.timeout(timeout_s or self._timeout_s), self._engine.connect() as c:
                await c.execution_options(**{_WRITES: True})
                async with c.begin():
                    yield c

    async def glance(self, statement: str) -> tuple[Any, ...]:
        """
        Return the one row of a short statement that reads from SQLite.

        What is asked twice a second, by an idle gateway as well, has a connection of its own, which
        is gone to once: a tenth of what a transaction takes.

        Raises:
            StoreUnavailable: There was no answer in time.
        """
        with explained():
            async with asyncio.timeout(self._timeout_s), self._glancing:
                connection = self._for_glances or await self._connect_for_glances()
                try:
                    (row,) = await connection.execute_fetchall(statement)
                except BaseException:
                    self._for_glances = None
                    connection.stop()  # when it has ended what it is at
                    raise
                return tuple(row)

    async def close(self) -> None:
        """Close all connections."""
        if self._for_glances is not None:
            await self._for_glances.close()
            self._for_glances = None
        await self._engine.dispose()

    async def _connect_for_glances(self) -> aiosqlite.Connection:
        assert self.url.path is not None
        if self.url.is_missing:  # which the driver would learn in a thread that outlives its loop
            raise sqlite3.OperationalError("unable to open database file: there is none")
        file = f"{self.url.path.absolute().as_uri()}?mode=rw"  # never a new one
        made = aiosqlite.connect(file, uri=True, timeout=self._timeout_s, isolation_level=None)
        self._for_glances = await made
        return self._for_glances


@contextmanager
def explained() -> Iterator[None]:
    """
    Turn what database libraries raise into our own error; what the data itself breaks passes.

    Raises:
        StoreUnavailable: The database is away, too slow, or not one of ours.
        UnicodeEncodeError: A text was none; SQLite's driver says so itself.
    """
    try:
        yield
    except (IntegrityError, DataError):
        raise
    except DBAPIError as error:
        if (no_text := _encode_error_in(error)) is not None:
            raise no_text from None
        # Without the statement and its values, which SQLAlchemy would add.
        raise StoreUnavailable(_line(error.orig or error)) from None
    except TimeoutError:
        raise StoreUnavailable("the database has not answered in time") from None
    except (OSError, SQLAlchemyError, sqlite3.Error) as error:
        raise StoreUnavailable(_line(error)) from None


def _encode_error_in(error: BaseException) -> UnicodeEncodeError | None:
    """Return what PostgreSQL's driver was told by Python, three errors deep."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, UnicodeEncodeError):
        cause = cause.__cause__
    return cause


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split())[:_MAX_DETAIL]
    return text or type(error).__name__


def _sqlite_engine(url: StoreUrl, settings: StoreConfig) -> AsyncEngine:
    assert url.path is not None
    engine = create_async_engine(
        URL.create("sqlite+aiosqlite", database=str(url.path)),
        pool_size=_SQLITE_CONNECTIONS,
        max_overflow=0,
        pool_timeout=settings.timeout_s,
        connect_args={"timeout": settings.timeout_s},
    )
    event.listen(engine.sync_engine, "do_connect", _SqliteFile(url.path))
    event.listen(engine.sync_engine, "connect", _prepare_sqlite)
    event.listen(engine.sync_engine, "begin", _begin_sqlite)
    return engine


class _SqliteFile:
    """Makes the file before SQLite does: for nobody else's eyes, and its log files likewise."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self, *_: object) -> None:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Never a file that is there: to close it would give up SQLite's own locks on it, and the
        # next process that looks at the database would remove the log that we write to.
        with suppress(FileExistsError):
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                _give_to_owner_of(self._path.parent, descriptor)
            finally:
                os.close(descriptor)


def _give_to_owner_of(folder: Path, descriptor: int) -> None:
    """Let a file that root makes belong to the gateway whose folder it is in."""
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        found = folder.stat()
        os.fchown(descriptor, found.st_uid, found.st_gid)


def _prepare_sqlite(connection: DBAPIConnection, _record: object) -> None:
    connection.isolation_level = None  # the driver begins no transactions: ``_begin_sqlite`` does
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    # What is said to be written is written: the spool of usage is let go of then.
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.execute("PRAGMA journal_size_limit=67108864")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get(_WRITES)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _postgres_engine(url: StoreUrl, settings: StoreConfig) -> AsyncEngine:
    assert url.address is not None
    return create_async_engine(
        URL.create(
            "postgresql+asyncpg",
            username=url.address.user,
            password=url.address.password,
            host=url.address.host,
            port=url.address.port,
            database=url.address.database,
        ),
        pool_size=settings.pool_size,
        max_overflow=0,
        pool_timeout=settings.timeout_s,
        pool_pre_ping=True,  # a database that was restarted shows here, not in a transaction
        pool_recycle=_RECYCLE_S,
        # Whatever a database begins with: who has waited for a lock sees what was done meanwhile.
        isolation_level="READ COMMITTED",
        connect_args={
            "timeout": settings.timeout_s,
            "server_settings": _server_settings(url.address, settings),
            **_options(url.address),
        },
    )


def _server_settings(address: PostgresAddress, settings: StoreConfig) -> dict[str, str]:
    """Return what a connection begins with; a pooler, which caches nothing, knows little of it."""
    found = {"application_name": "dragoman"}
    if address.statement_cache_size != 0:
        # The server gives up, too, where we have: a report is what may take longest.
        found["statement_timeout"] = str(round(settings.report_timeout_s * 1000))
    return found


def _options(address: PostgresAddress) -> dict[str, Any]:
    """Return what the driver is told beside where the server is."""
    options = ssl_options(address)
    if (size := address.statement_cache_size) is not None:
        options |= {"statement_cache_size": size, "prepared_statement_cache_size": size}
    return options
