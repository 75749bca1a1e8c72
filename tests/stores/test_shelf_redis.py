"""The shelf in a real Redis: found from any process, sealed, bounded, and not waited for."""

import asyncio
import os
from typing import Any, Self

import pytest

from dragoman.core.errors import SharedStateUnavailable
from dragoman.server.vault import Vault, VaultReader
from dragoman.settings import RedisConfig, Secret
from dragoman.stores.redis_link import RedisLink
from dragoman.stores.redis_outbox import RedisOutbox
from dragoman.stores.sealing import Seal
from dragoman.stores.shelf_redis import RedisShelf
from support.redis import RedisServer

pytestmark = pytest.mark.server
SECRET = b"a signing secret of thirty-two b"
THOUGHT = "The user wants MARKER-OF-CONTENT."


class Gateway:
    """What of one gateway reaches for the shelf."""

    def __init__(self, url: str, *, secret: bytes = SECRET, ttl_s: float = 60) -> None:
        self.link = RedisLink(RedisConfig(url=Secret(url), timeout_s=10, retry_interval_s=0.05))
        self.outbox = RedisOutbox(self.link)
        self.shelf = RedisShelf(self.link, self.outbox, seal=Seal(secret), ttl_s=ttl_s)
        self.vault = Vault(shared=self.shelf)

    async def __aenter__(self) -> Self:
        await self.link.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.outbox.close()
        await self.link.close()

    async def keep(self, call_id: str, thought: str = THOUGHT) -> None:
        call = (call_id, "get", {"q": 1})
        self.vault.keep(thought, owner="dev", model="kimi", calls=[call], now_s=0)
        await self.outbox.close()

    async def recall(self, *call_ids: str, owner: str = "dev") -> list[str | None]:
        """Read as a request does: what is here, then what is there."""

        def read() -> tuple[list[str | None], VaultReader]:
            reader = VaultReader(self.vault, owner=owner, model="kimi", now_s=0)
            return [reader(each, "get", '{"q":1}') for each in call_ids], reader

        found, reader = read()
        if await self.vault.fetch(reader.missing, now_s=0):
            found, _ = read()
        return found


def test_another_gateway_finds_it_and_another_client_does_not(redis_url: str) -> None:
    async def main() -> None:
        async with Gateway(redis_url) as one, Gateway(redis_url) as other:
            await one.keep("toolu_1")
            await one.keep("toolu_2", "second")
            assert await other.recall("toolu_1", "toolu_0", "toolu_2") == [THOUGHT, None, "second"]
            assert await other.recall("toolu_1", owner="somebody else") == [None]
            assert other.vault.n_fetched == 2
            assert await other.recall("toolu_1") == [THOUGHT]  # kept here by now
            assert other.vault.n_fetched == 2

    asyncio.run(main())


def test_redis_holds_nothing_that_can_be_read(redis_url: str) -> None:
    async def main() -> None:
        async with Gateway(redis_url) as one, Gateway(redis_url, secret=b"x" * 32) as foreign:
            await one.keep("toolu_1")
            names = await one.link.run(lambda client: client.keys("*"))
            assert len(names) == 1
            assert names[0].startswith(b"dragoman:vault:")
            value: Any = await one.link.run(lambda client: client.get(names[0]))
            assert b"MARKER" not in value
            assert b"dev" not in names[0] + value
            ttl_ms = await one.link.run(lambda client: client.pttl(names[0]))
            assert 0 < ttl_ms <= 60_000
            assert await foreign.recall("toolu_1") == [None]
            assert foreign.shelf.n_foreign == 1

    asyncio.run(main())


def test_what_was_moved_or_changed_does_not_open(redis_url: str) -> None:
    async def main() -> None:
        async with Gateway(redis_url) as one, Gateway(redis_url) as other:
            await one.keep("toolu_1")
            (name,) = await one.link.run(lambda client: client.keys("*"))
            await one.keep("toolu_2", "second")
            names = await one.link.run(lambda client: client.keys("*"))
            (second,) = set(names) - {name}
            await one.link.run(lambda client: client.copy(second, name, replace=True))
            await one.link.run(lambda client: client.setrange(second, 20, b"\0\1\2"))
            assert await other.recall("toolu_1", "toolu_2") == [None, None]
            assert other.shelf.n_foreign == 2
            await one.link.run(lambda client: client.set(name, b"short"))
            assert await other.recall("toolu_1") == [None]

    asyncio.run(main())


def test_too_much_is_not_brought(redis_url: str) -> None:
    async def main() -> None:
        async with Gateway(redis_url) as one, Gateway(redis_url) as other:
            blobs = {bytes([n]): os.urandom(2**20 - 1000) for n in range(72)}
            for key, blob in blobs.items():
                one.shelf.put([key], blob)
                await one.outbox.close()
            found = await other.shelf.get(list(blobs))
            assert found == {key: blobs[key] for key in list(blobs)[-32:]}

    asyncio.run(main())


def test_while_redis_is_away_nothing_waits_and_nothing_fails() -> None:
    async def main(server: RedisServer) -> None:
        async with Gateway(server.url) as one:
            await one.keep("toolu_1")
            server.kill()
            with pytest.raises(SharedStateUnavailable):
                await one.shelf.get([b"x"])
            await one.keep("toolu_2")
            assert one.outbox.n_lost == 1
            assert await one.recall("toolu_1", "toolu_0", "toolu_2") == [THOUGHT, None, THOUGHT]
            assert one.vault.n_unreachable == 1

    with RedisServer() as server:
        asyncio.run(main(server))


def test_an_outbox_that_is_full_loses_what_comes(redis_url: str) -> None:
    async def main() -> None:
        async with Gateway(redis_url) as one:
            for n in range(20):
                one.shelf.put([bytes([n])], b"x" * 2**20)
            assert one.outbox.n_lost == 5
            await one.outbox.close()
            assert len(await one.link.run(lambda client: client.keys("*"))) == 15

    asyncio.run(main())
