"""What a gateway opens to share things, and what it says where it cannot."""

import asyncio
import io
import json
from typing import Any

import pytest

from dragoman import sharing
from dragoman.build_limits import build_limiter
from dragoman.exit_codes import USAGE, CommandFailed
from dragoman.policy.limits import Claim
from dragoman.server.telemetry import EventLog
from dragoman.settings import Config, RedisConfig, Secret
from dragoman.sharing import NOTHING_SHARED, Sharing, open_sharing
from support.redis import RedisServer

SECRET = b"a signing secret of all gateways"


class Opened:
    """A gateway's ways to others, and what it has logged."""

    def __init__(self) -> None:
        self._text = io.StringIO()
        self.log = EventLog("json", self._text)

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._text.getvalue().splitlines()]

    def open(self, url: str | None, *, secret: bytes = SECRET) -> Any:
        redis = RedisConfig(url=Secret(url), timeout_s=10, retry_interval_s=0.02) if url else None
        return open_sharing(Config(redis=redis), secret=secret, owner=None, log=self.log)


def test_a_single_process_shares_nothing() -> None:
    async def main() -> None:
        opened = Opened()
        async with opened.open(None) as found:
            assert found is NOTHING_SHARED
            await found.begin()
        assert opened.events == []

    asyncio.run(main())


def test_a_missing_client_ends_the_start_with_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "find_spec", lambda name: None if name == "redis" else name)

    async def main() -> None:
        with pytest.raises(CommandFailed) as raised:
            async with Opened().open("redis://lab"):
                pass
        assert str(raised.value) == "redis: needs redis: pip install 'dragoman[redis]'"
        assert raised.value.code == USAGE

    asyncio.run(main())


@pytest.mark.server
def test_another_secret_is_told_once_at_the_start(redis_url: str) -> None:
    async def warnings(secret: bytes) -> list[str]:
        opened = Opened()
        async with opened.open(redis_url, secret=secret) as found:
            assert isinstance(found, Sharing)
            await found.begin()
        return [event["text"] for event in opened.events]

    async def main() -> None:
        assert await warnings(SECRET) == []
        assert await warnings(SECRET) == []
        (text,) = await warnings(b"another signing secret")
        assert text.startswith("server.signing_secret: not that of the other gateways")
        assert await warnings(SECRET) == []

    asyncio.run(main())


@pytest.mark.server
def test_a_redis_that_is_not_there_stops_no_start() -> None:
    async def main(server: RedisServer) -> None:
        server.kill()
        opened = Opened()
        async with opened.open(server.url) as found:
            await found.begin()
            await asyncio.to_thread(server.start)
            async with asyncio.timeout(20):
                while not found.redis.is_there:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
        states = [event["state"] for event in opened.events]
        assert states == ["away", "back"]
        assert "redis-secret" not in str(opened.events)

    with RedisServer() as server:
        asyncio.run(main(server))


@pytest.mark.server
def test_limits_hear_that_redis_is_back_without_a_request() -> None:
    claim = Claim(counter="w", mode="window", limit=9, amount=1)

    async def main(server: RedisServer) -> None:
        server.kill()
        opened = Opened()
        async with opened.open(server.url) as found:
            limiter = build_limiter(Config(), found, log=opened.log)
            verdict = await limiter.reserve("r", [claim], now_s=1_790_000_000.0)
            assert (verdict.is_granted, limiter.is_alone) == (True, True)
            await asyncio.to_thread(server.start)
            async with asyncio.timeout(20):
                while limiter.is_alone:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            await limiter.close()
        states = [event["state"] for event in opened.events if event["event"] == "limits"]
        assert states == ["alone", "shared"]

    with RedisServer() as server:
        asyncio.run(main(server))
