"""How a PostgreSQL is reached, and one look at it: the whole toolkit would hold up the start."""

import asyncio
import ssl
from typing import Any, Final

from dragoman.core.errors import StoreUnavailable
from dragoman.store_urls import CHECKED_MODES, PostgresAddress
from dragoman.stores.versions import VERSIONS

_LOOK_S: Final = 2.0  # that a start waits for a database which may be away
_ASKED: Final = "SELECT version_num FROM alembic_version"


async def newer_version_at(address: PostgresAddress) -> str | None:
    """Return the version of a database that this program is too old for; None: none can be seen."""
    import asyncpg  # noqa: PLC0415 - an extra

    try:
        async with asyncio.timeout(_LOOK_S):
            connection = await asyncpg.connect(
                host=address.host,
                port=address.port,
                user=address.user,
                password=address.password,
                database=address.database,
                statement_cache_size=0,  # a pooler may be between
                **ssl_options(address),
            )
            try:
                version = await connection.fetchval(_ASKED)
            finally:
                connection.terminate()
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, StoreUnavailable):
        return None  # whoever opens it will say why
    return None if version in (None, *VERSIONS) else str(version)


def ssl_options(address: PostgresAddress) -> dict[str, Any]:
    """
    Return what the driver is told of encryption; nothing: as the server can.

    Raises:
        StoreUnavailable: The certificates to check the server's against cannot be read.
    """
    if address.ssl_mode in CHECKED_MODES:
        return {"ssl": _checking(address)}
    return {} if address.ssl_mode is None else {"ssl": address.ssl_mode}


def _checking(address: PostgresAddress) -> ssl.SSLContext:
    """Return what checks the server's certificate."""
    try:
        context = ssl.create_default_context(cafile=address.ssl_root)
    except (OSError, ssl.SSLError) as error:
        reason = error.strerror or str(error)
        raise StoreUnavailable(f"sslrootcert: {address.ssl_root}: {reason}") from None
    context.check_hostname = address.ssl_mode == "verify-full"
    return context
