"""A store that is opened when it is first needed."""

import asyncio
import sqlite3
from pathlib import Path

import pytest

from dragoman.core.errors import StoreUnavailable
from dragoman.settings import Secret, StoreConfig
from dragoman.store_urls import StoreUrl, read_store_url
from dragoman.stores import opening
from dragoman.stores.opening import LazyStore
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
