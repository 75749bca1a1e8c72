"""The store, opened when it is first needed: its libraries are heavy, and it may be away."""

import asyncio
from importlib.util import find_spec

from dragoman.core.errors import StoreUnavailable
from dragoman.policy.store import Store
from dragoman.settings import StoreConfig
from dragoman.store_urls import StoreUrl
from dragoman.stores.peek import newer_version
from dragoman.stores.postgres_peek import newer_version_at
from dragoman.stores.versions import SchemaState
from dragoman.tables import ConfigError


class LazyStore:
    """
    Opens one store, however many ask for it, and keeps it.

    Args:
        url: Where it is.
        settings: Sizes and times.

    Raises:
        ConfigError: The driver that it needs is not installed, or a file is not there.
    """

    def __init__(self, url: StoreUrl, settings: StoreConfig) -> None:
        check_needs(url)
        self.url = url
        self._settings = settings
        self._store: Store | None = None
        self._is_closed = False
        self._opening: asyncio.Task[None] | None = None

    async def get(self) -> Store:
        """
        Return the store, with all tables in it.

        Raises:
            StoreUnavailable: It cannot be reached, or is of a newer version.
        """
        if self._store is None:
            if self._is_closed:
                raise StoreUnavailable("it has been closed")
            await _wait_for(self._opening_now())
        assert self._store is not None
        return self._store

    def open_soon(self) -> None:
        """Begin to open it: somebody will need it. If that fails, whoever does learns why."""
        if self._store is None and not self._is_closed:
            self._opening_now()

    async def close(self) -> None:
        """Close it, if it is open; it is not opened again."""
        self._is_closed = True
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.gather(self._opening, return_exceptions=True)
        if self._store is not None:
            await self._store.close()
            self._store = None

    def _opening_now(self) -> "asyncio.Task[None]":
        if self._opening is None or self._opening.done():
            self._opening = asyncio.create_task(self._open(), name="open the store")
            self._opening.add_done_callback(_look_at)
        return self._opening

    async def _open(self) -> None:
        # In a thread: a third of a second in which the loop would stand still.
        await asyncio.to_thread(_load)
        from dragoman.stores.sql import open_sql_store  # noqa: PLC0415

        self._store = await open_sql_store(self.url, self._settings)


async def _wait_for(opening: "asyncio.Task[None]") -> None:
    try:
        # Who gives up waiting leaves it to the others: it may be changing tables.
        await asyncio.shield(opening)
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise StoreUnavailable("it has been closed") from None


def _look_at(task: "asyncio.Task[None]") -> None:
    """Take note of a failure that nobody may be waiting for any more."""
    if not task.cancelled():
        task.exception()


def check_needs(url: StoreUrl) -> None:
    """
    Do nothing if all is there that it takes to open the store.

    Raises:
        ConfigError: The driver that it needs is not installed, or a file is not there.
    """
    if url.address is None:
        return
    if find_spec("asyncpg") is None:
        remedy = "PostgreSQL needs a driver: pip install 'dragoman[postgres]'"
        raise ConfigError([f"store.url: {remedy}"])
    root = url.address.ssl_root
    if root is not None and not root.is_file():
        raise ConfigError([f"store.url: sslrootcert: there is no file {root}"])


async def look_at_store(url: StoreUrl, settings: StoreConfig) -> SchemaState:
    """
    Return of which version the store is, without changing or making anything.

    Raises:
        ConfigError: What it needs is not installed.
        StoreUnavailable: It cannot be reached.
    """
    if url.is_missing:
        return SchemaState(version=None)
    check_needs(url)
    from dragoman.stores.database import Database  # noqa: PLC0415
    from dragoman.stores.migrating import look_at_schema  # noqa: PLC0415

    database = Database(url, settings)
    try:
        return await look_at_schema(database)
    finally:
        await database.close()


async def version_beyond_us(url: StoreUrl) -> str | None:
    """
    Return the version of a store that this program is too old for.

    None: it is none, or that cannot be seen now: a gateway starts without its store, too.

    Raises:
        ConfigError: What it needs is not installed, or not there.
    """
    check_needs(url)
    return newer_version(url) if url.address is None else await newer_version_at(url.address)


async def upgrade_store(url: StoreUrl, settings: StoreConfig) -> SchemaState:
    """
    Bring the store up to date; return how it was before.

    Raises:
        ConfigError: What it needs is not installed.
        StoreUnavailable: It cannot be reached, or is of a newer version.
    """
    check_needs(url)
    from dragoman.stores.database import Database  # noqa: PLC0415
    from dragoman.stores.migrating import upgrade_schema  # noqa: PLC0415

    database = Database(url, settings)
    try:
        return await upgrade_schema(database)
    finally:
        await database.close()


def _load() -> None:
    import dragoman.stores.sql  # noqa: F401, PLC0415
