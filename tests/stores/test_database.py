"""What holds for every transaction: its time, its failure, and what a cut leaves behind."""

import asyncio
import gc
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import text

from dragoman.core.errors import StoreUnavailable
from dragoman.settings import Secret, StoreConfig
from dragoman.store_urls import StoreUrl, read_store_url
from dragoman.stores.database import Database
from dragoman.stores.opening import LazyStore
from dragoman.stores.sql import open_sql_store
from dragoman.tables import ConfigError
from support.loops import until
from support.postgres import PASSWORD, USER, PostgresServer
from support.raw_server import CERTIFICATE
from support.servers import other_user
from support.stores import new_entry, new_key, opened, with_store


def test_a_slow_database_is_given_up_and_used_again(url: StoreUrl) -> None:
    """Whoever holds the tables holds up everybody else, on both databases."""

    async def main() -> None:
        async with opened(url, timeout_s=0.5) as store:
            key = new_key()
            await store.add_key(key, new_entry())
            holder = Database(url, StoreConfig())
            async with holder.writing() as connection:
                await connection.execute(text("UPDATE api_keys SET name = 'held'"))
                started_s = time.monotonic()
                with pytest.raises(StoreUnavailable) as raised:
                    await store.change_key(key.id, lambda found: found, entry=new_entry())
                assert time.monotonic() - started_s < 10
                assert raised.value.log_detail
            await holder.close()
            found = await store.change_key(key.id, lambda found: found, entry=new_entry())
            assert found.name == "held"

    asyncio.run(main())


def test_who_is_cancelled_leaves_a_usable_store(url: StoreUrl) -> None:
    async def main() -> None:
        async with opened(url, pool_size=1) as store:
            for _ in range(20):
                asking = [asyncio.create_task(store.key_changes(-1)) for _ in range(4)]
                await asyncio.sleep(0)
                asking[0].cancel()
                await asyncio.sleep(0.001)
                asking[1].cancel()
                await asyncio.gather(*asking, return_exceptions=True)
            assert (await store.key_changes(-1)).has_keys is False

    asyncio.run(main())


def test_more_at_once_than_there_are_connections_wait(url: StoreUrl) -> None:
    async def main() -> None:
        async with opened(url, pool_size=1) as store:
            keys = [new_key() for _ in range(30)]
            await asyncio.gather(*(store.add_key(key, new_entry()) for key in keys))
            found = await asyncio.gather(*(store.get_key(key.id) for key in keys))
            assert found == keys

    asyncio.run(main())


def test_a_failed_transaction_says_nothing_of_its_values(url: StoreUrl) -> None:
    async def main() -> None:
        database = Database(url, StoreConfig())

        async def look() -> None:
            async with database.reading() as connection:
                asked = text("SELECT * FROM no_such_table WHERE x = :v")
                await connection.execute(asked, {"v": "planted-value"})

        with pytest.raises(StoreUnavailable) as raised:
            await look()
        assert "no_such_table" in raised.value.log_detail
        assert "planted" not in raised.value.log_detail
        await database.close()

    asyncio.run(main())


def test_what_is_no_text_is_not_taken_for_an_outage(url: StoreUrl) -> None:
    async def main() -> None:
        database = Database(url, StoreConfig())

        async def echo(value: str) -> str | None:
            async with database.reading() as connection:
                asked = text("SELECT CAST(:value AS TEXT)")
                return await connection.scalar(asked, {"value": value})

        with pytest.raises(UnicodeEncodeError):
            await echo("\udcff")
        assert await echo("text") == "text"  # it can still be used
        await database.close()

    asyncio.run(main())


@pytest.mark.server
def test_connections_that_a_restart_has_cut_are_replaced() -> None:
    async def main(server: PostgresServer) -> None:
        url = read_store_url(Secret(server.url()), Path())
        assert url is not None
        async with opened(url, timeout_s=3) as store:
            assert (await store.key_changes(-1)).has_keys is False
            await asyncio.to_thread(server.kill)
            with pytest.raises(StoreUnavailable):
                await store.key_changes(-1)
            await asyncio.to_thread(server.start)
            assert (await store.key_changes(-1)).has_keys is False

    with PostgresServer() as server:
        asyncio.run(main(server))


@pytest.mark.server
def test_a_password_that_is_wrong(postgres: PostgresServer) -> None:
    text_ = f"postgresql://{USER}:planted-wrong@127.0.0.1:{postgres.port}/postgres"
    url = read_store_url(Secret(text_), Path())
    assert url is not None
    with pytest.raises(StoreUnavailable) as raised:
        asyncio.run(open_sql_store(url, StoreConfig()))
    assert "password authentication failed" in raised.value.log_detail
    assert "planted" not in raised.value.log_detail


@pytest.mark.server
def test_through_a_socket_and_without_prepared_statements(postgres: PostgresServer) -> None:
    database = postgres.new_database().rpartition("/")[2]
    where = f"host={postgres.folder}&statement_cache_size=0"
    text_ = f"postgresql://{USER}:{PASSWORD}@:{postgres.port}/{database}?{where}"
    url = read_store_url(Secret(text_), Path())
    assert url is not None
    key = new_key()
    with_store(url, lambda store: store.add_key(key, new_entry()))
    assert with_store(url, lambda store: store.get_key(key.id)) == key


@pytest.fixture(scope="module")
def tls_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Where a PostgreSQL listens that has a certificate for localhost and 127.0.0.1."""
    with PostgresServer() as server:
        pair = server.folder / "tls.pem"
        shutil.copy(CERTIFICATE, pair)
        pair.chmod(0o600)
        if (user := other_user()) is not None:
            shutil.chown(pair, user)
        for name in ("ssl_cert_file", "ssl_key_file"):
            server.run(f"ALTER SYSTEM SET {name} = '{pair}'")
        server.run("ALTER SYSTEM SET ssl = on")
        server.stop()
        server.start()
        yield server.port


@pytest.mark.server
@pytest.mark.parametrize(
    ("host", "query", "problem"),
    [
        ("127.0.0.1", "sslmode=require", ""),
        ("127.0.0.1", "sslmode=verify-full&sslrootcert={own}", ""),
        ("127.0.0.1", "sslmode=verify-ca&sslrootcert={own}", ""),
        ("127.0.0.1", "sslmode=verify-full", "certificate verify failed"),
        ("127.1", "sslmode=verify-full&sslrootcert={own}", "mismatch"),
        ("127.1", "sslmode=verify-ca&sslrootcert={own}", ""),
    ],
)
# The driver forgets to close a connection whose encryption has failed.
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_encrypted(tls_port: int, host: str, query: str, problem: str) -> None:
    where = f"{host}:{tls_port}/postgres?{query.format(own=CERTIFICATE)}"
    url = read_store_url(Secret(f"postgresql://{USER}:{PASSWORD}@{where}"), Path())
    assert url is not None

    async def is_encrypted() -> bool:
        database = Database(url, StoreConfig())
        asked = text("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
        try:
            async with database.reading() as connection:
                return bool(await connection.scalar(asked))
        finally:
            await database.close()

    if not problem:
        assert asyncio.run(is_encrypted())
        return
    with pytest.raises(StoreUnavailable) as raised:
        asyncio.run(is_encrypted())
    assert problem in raised.value.log_detail
    raised.value.__traceback__ = None
    del raised
    gc.collect()  # here, and not in another test


def test_a_certificate_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "root.pem"
    text_ = f"postgresql://h/d?sslmode=verify-full&sslrootcert={path}"
    url = read_store_url(Secret(text_), tmp_path)
    assert url is not None
    with pytest.raises(ConfigError, match=r"sslrootcert: there is no file .*root\.pem"):
        LazyStore(url, StoreConfig())
    path.write_text("no certificate")
    with pytest.raises(StoreUnavailable) as raised:
        Database(url, StoreConfig())
    assert f"sslrootcert: {path}: " in raised.value.log_detail


def test_a_glance_fails_as_everything_else_does(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    before = set(threading.enumerate())  # as below

    async def main() -> None:
        async with opened(StoreUrl(path=path), timeout_s=0.5) as store:
            assert (await store.key_changes(0)).keys == ()
            with closing(sqlite3.connect(path)) as database:
                database.execute("ALTER TABLE store_state RENAME TO lost")
            with pytest.raises(StoreUnavailable) as raised:
                await store.key_changes(0)
            assert "no such table: store_state" in raised.value.log_detail
            with closing(sqlite3.connect(path)) as database:
                database.execute("ALTER TABLE lost RENAME TO store_state")
            assert (await store.key_changes(0)).keys == ()
        await until(lambda: before.issuperset(threading.enumerate()))

    asyncio.run(main())


def test_a_glance_makes_no_file(tmp_path: Path) -> None:
    before = set(threading.enumerate())  # the driver's own tells the loop that it has ended

    async def main() -> None:
        database = Database(StoreUrl(path=tmp_path / "lost.db"), StoreConfig())
        with pytest.raises(StoreUnavailable) as raised:
            await database.glance("SELECT 1")
        assert "unable to open" in raised.value.log_detail
        await database.close()
        await until(lambda: before.issuperset(threading.enumerate()))

    asyncio.run(main())
    assert not [*tmp_path.iterdir()]
