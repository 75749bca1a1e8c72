"""A store that is opened when it is first needed."""

import asyncio
import sqlite3
from pathlib import Path

import pytest

from dragoman.core.errors import StoreUnavailable
from dragoman.settings import Secret, StoreConfig
from dragoman.store_urls import StoreUrl, read_store_url
from dragoman.stores import opening, sql
from dragoman.stores.opening import LazyStore
from dragoman.stores.sql import SqlStore
from dragoman.tables import ConfigError
from support.stores import NOW


def test_all_who_ask_get_the_same_store(url: StoreUrl) -> None:
    async def main() -> None:
        lazy = LazyStore(url, StoreConfig())
        found = await asyncio.gather(*(lazy.get() for _ in range(5)))
        assert len({id(store) for store in found}) == 1
        assert (await found[0].key_changes(-1)).has_keys is False
        await lazy.close()

    asyncio.run(main())


def test_what_was_closed_stays_closed(tmp_path: Path) -> None:
    async def main() -> None:
        lazy = LazyStore(StoreUrl(path=tmp_path / "a.db"), StoreConfig())
        assert lazy.url.is_missing
        await lazy.get()
        assert not lazy.url.is_missing
        await lazy.close()
        await lazy.close()
        with pytest.raises(StoreUnavailable) as raised:
            await lazy.get()
        assert raised.value.log_detail == "it has been closed"

    asyncio.run(main())


def test_a_store_that_is_away_is_asked_again(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.write_text("a file where a folder should be")

    async def main() -> None:
        lazy = LazyStore(StoreUrl(path=folder / "a.db"), StoreConfig())
        with pytest.raises(StoreUnavailable) as raised:
            await lazy.get()
        assert "folder" in raised.value.log_detail
        folder.unlink()
        assert (await (await lazy.get()).key_changes(-1)).has_keys is False
        await lazy.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://u:planted-password@127.0.0.1:1/d",
        "postgresql://u:planted-password@no-such-host.invalid/d",
    ],
)
def test_a_server_that_is_not_there_costs_a_moment(tmp_path: Path, text: str) -> None:
    url = read_store_url(Secret(text), tmp_path)
    assert url is not None

    async def main() -> None:
        lazy = LazyStore(url, StoreConfig(timeout_s=2))
        with pytest.raises(StoreUnavailable) as raised:
            await lazy.get()
        assert raised.value.log_detail
        assert "planted" not in raised.value.log_detail + str(url) + repr(url)
        await lazy.close()

    asyncio.run(main())


def test_a_driver_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "find_spec", lambda name: None)
    url = read_store_url(Secret("postgresql://h/d"), tmp_path)
    assert url is not None
    with pytest.raises(ConfigError, match=r"store.url: .*pip install 'dragoman\[postgres\]'"):
        LazyStore(url, StoreConfig())
    assert LazyStore(StoreUrl(path=tmp_path / "a.db"), StoreConfig()).url.is_missing


def test_a_table_that_is_locked_is_waited_for_and_then_not(tmp_path: Path) -> None:
    path = tmp_path / "a.db"

    async def main() -> None:
        lazy = LazyStore(StoreUrl(path=path), StoreConfig(timeout_s=0.3))
        store = await lazy.get()
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable) as raised:
            await store.touch_keys({"apikey_1": NOW})
        assert raised.value.log_detail
        assert (await store.key_changes(-1)).has_keys is False  # readers go on
        other.execute("ROLLBACK")
        other.close()
        await store.touch_keys({"apikey_1": NOW})
        await lazy.close()

    asyncio.run(main())


def test_who_gives_up_waiting_does_not_end_the_opening(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        lazy = LazyStore(StoreUrl(path=tmp_path / "a.db"), StoreConfig())
        release, n_opened = asyncio.Event(), 0

        async def slow(url: StoreUrl, settings: StoreConfig) -> SqlStore:
            nonlocal n_opened
            n_opened += 1
            await release.wait()
            return await real(url, settings)

        monkeypatch.setattr(sql, "open_sql_store", slow)
        asking = [asyncio.create_task(lazy.get()) for _ in range(3)]
        while not n_opened:  # noqa: ASYNC110 - the libraries are loaded in a thread
            await asyncio.sleep(0.01)
        asking[0].cancel()
        await asyncio.sleep(0)
        release.set()
        found = await asyncio.gather(*asking, return_exceptions=True)
        assert isinstance(found[0], asyncio.CancelledError)
        assert found[1] is found[2] is await lazy.get()
        assert n_opened == 1
        await lazy.close()

    real = sql.open_sql_store
    asyncio.run(main())


def test_a_store_that_is_being_opened_can_be_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(url: StoreUrl, settings: StoreConfig) -> SqlStore:
        await asyncio.Event().wait()
        raise AssertionError

    async def main() -> None:
        lazy = LazyStore(StoreUrl(path=tmp_path / "a.db"), StoreConfig())
        asking = asyncio.create_task(lazy.get())
        await asyncio.sleep(0.05)
        await lazy.close()
        with pytest.raises(StoreUnavailable) as raised:
            await asking
        assert raised.value.log_detail == "it has been closed"

    monkeypatch.setattr(sql, "open_sql_store", never)
    asyncio.run(main())
