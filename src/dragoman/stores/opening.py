"""The store, opened when it is first needed: its libraries are heavy, and it may be away."""

import asyncio
from importlib.util import find_spec

from dragoman.core.errors import StoreUnavailable
from dragoman.policy.store import Store
from dragoman.settings import StoreConfig
from dragoman.store_urls import StoreUrl
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
        if url.address is not None and find_spec("asyncpg") is None:
            remedy = "PostgreSQL needs a driver: pip install 'dragoman[postgres]'"
            raise ConfigError([f"store.url: {remedy}"])
        root = url.address.ssl_root if url.address is not None else None
        if root is not None and not root.is_file():
            raise ConfigError([f"store.url: sslrootcert: there is no file {root}"])
        self.url = url
        self._settings = settings
        self._store: Store | None = None
        self._is_closed = False
        self._lock = asyncio.Lock()

    async def get(self) -> Store:
        """
        Return the store, with all tables in it.

        Raises:
            StoreUnavailable: It cannot be reached, or is of a newer version.
        """
        if self._store is None:
            async with self._lock:
                if self._is_closed:
                    raise StoreUnavailable("it has been closed")
                if self._store is None:
                    self._store = await self._open()
        return self._store

    async def close(self) -> None:
        """Close it, if it is open; it is not opened again."""
        self._is_closed = True
        if self._store is not None:
            await self._store.close()
            self._store = None

    async def _open(self) -> Store:
        # In a thread: a third of a second in which the loop would stand still.
        await asyncio.to_thread(_load)
        from dragoman.stores.sql import open_sql_store  # noqa: PLC0415

        return await open_sql_store(self.url, self._settings)


async def look_at_store(url: StoreUrl, settings: StoreConfig) -> SchemaState:
    """
    Return of which version the store is, without changing or making anything.

    Raises:
        StoreUnavailable: It cannot be reached.
    """
    if url.is_missing:
        return SchemaState(version=None)
    from dragoman.stores.database import Database  # noqa: PLC0415
    from dragoman.stores.migrating import look_at_schema  # noqa: PLC0415

    database = Database(url, settings)
    try:
        return await look_at_schema(database)
    finally:
        await database.close()


async def upgrade_store(url: StoreUrl, settings: StoreConfig) -> SchemaState:
    """
    Bring the store up to date; return how it was before.

    Raises:
        StoreUnavailable: It cannot be reached, or is of a newer version.
    """
    from dragoman.stores.database import Database  # noqa: PLC0415
    from dragoman.stores.migrating import upgrade_schema  # noqa: PLC0415

    database = Database(url, settings)
    try:
        return await upgrade_schema(database)
    finally:
        await database.close()


def _load() -> None:
    import dragoman.stores.sql  # noqa: F401, PLC0415
