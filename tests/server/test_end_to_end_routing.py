"""Replicas, second calls and resends with the real process between real sockets."""

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from support.chat_script import hang, say
from support.chat_upstream import ChatUpstream
from support.gateway import GatewayProcess
from support.raw_http import Client
from support.sockets import post, read

_CONFIG = """
[upstreams.gpus]
base_urls = {urls}
connect_timeout_s = 2

[models.m]
upstream = "gpus"
[models.hedged]
upstream = "gpus"
hedge_percentile = 50
hedge_min_s = 0.3
[models.joined]
upstream = "gpus"
join_resends = true
"""


@dataclass
class Fleet:
    """A gateway before two replicas."""

    gateway: GatewayProcess
    replicas: list[ChatUpstream]
    stops: list[ExitStack]

    async def ask(self, model: str = "m", session: str = "s", **changes: Any) -> str:
        """Return the text of one streamed reply."""
        async with await self.connect() as client:
            reply = await client.ask(request(model, session, **changes))
        return read(reply).text

    async def connect(self) -> "Connection":
        reader, writer = await asyncio.open_connection("127.0.0.1", self.gateway.port)
        return Connection(Client(reader, writer))

    def records(self, count: int) -> list[dict[str, Any]]:
        """Wait until so many requests are in the log: a line follows the reply."""
        deadline_s = time.monotonic() + 10
        while len(found := self._records()) < count:
            assert time.monotonic() < deadline_s, found
            time.sleep(0.02)
        return found

    def _records(self) -> list[dict[str, Any]]:
        log = self.gateway.log()
        lines = [json.loads(x) for x in log.splitlines() if x.startswith("{") and x.endswith("}")]
        return [line for line in lines if line["event"] == "request"]


@dataclass
class Connection:
    """Closed in the end."""

    client: Client

    async def __aenter__(self) -> Client:
        return self.client

    async def __aexit__(self, *_: object) -> None:
        await self.client.close()


def request(model: str, session: str, **changes: Any) -> bytes:
    field = f"x-claude-code-session-id: {session}"
    return post(None, field, model=model, stream=True, **changes)


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with ExitStack() as stack:
        stops, replicas = [ExitStack(), ExitStack()], []
        for number, stop in enumerate(stops, 1):
            stack.callback(stop.close)
            replicas.append(stop.enter_context(ChatUpstream(say(f"from {number}", times=-1))))
        config = _CONFIG.format(urls=[replica.url for replica in replicas])
        settings = {"DRAGOMAN_SERVER_LOG_FORMAT": "json"}
        gateway = stack.enter_context(GatewayProcess(tmp_path, config=config, env=settings))
        yield Fleet(gateway, replicas, stops)
        assert '"event":"crash"' not in gateway.log(), gateway.log()[-3000:]
        assert "Traceback" not in gateway.log(), gateway.log()[-3000:]


def test_a_replica_that_dies_is_no_error_to_anybody(fleet: Fleet) -> None:
    sessions = [f"session-{number}" for number in range(12)]

    async def main() -> None:
        before = [await fleet.ask(session=name) for name in sessions]
        assert set(before) == {"from 1", "from 2"}
        assert [await fleet.ask(session=name) for name in sessions] == before
        await asyncio.to_thread(fleet.stops[0].close)
        for _ in range(3):
            after = await asyncio.gather(*(fleet.ask(session=name) for name in sessions))
            assert set(after) == {"from 2"}

    asyncio.run(main())
    records = fleet.records(5 * len(sessions))
    assert {record["status"] for record in records} == {200}
    assert {record["upstream"] for record in records} == {"gpus"}
    # The last round asks the dead one no more, but for a probe.
    assert sum(record["attempts"] - 1 for record in records[-12:]) <= 1


def test_a_replica_that_hangs_is_passed_by(fleet: Fleet) -> None:
    async def main() -> None:
        for _ in range(21):
            home = await fleet.ask("hedged")
        hanging = fleet.replicas[home == "from 2"]
        hanging.script(hang(times=-1))
        assert await fleet.ask("hedged") == ("from 2" if home == "from 1" else "from 1")
        assert await asyncio.to_thread(hanging.requests[0].wait_gone, 5)

    asyncio.run(main())
    assert fleet.records(22)[-1]["hedge"] == "second"


def test_a_resend_joins_a_request_that_waits(fleet: Fleet) -> None:
    async def main() -> None:
        for replica in fleet.replicas:
            replica.script(say("at last", head_delay_s=0.8))
        async with await fleet.connect() as first, await fleet.connect() as second:
            await first.send(request("joined", "s"))
            await asyncio.sleep(0.2)
            await second.send(request("joined", "s"))
            await asyncio.sleep(0.2)
            await first.close()
            assert read(await second.reply()).text == "at last"

    asyncio.run(main())
    asked = [each for replica in fleet.replicas for each in replica.requests]
    assert [each.outcome for each in asked] == ["done"]
    left, answered = fleet.records(2)
    assert (left["error"], answered["status"]) == ("client_gone", 200)
    assert answered["joined"] == left["request_id"]
    assert answered["attempts"] == 1


def test_the_call_ends_with_the_last_who_waits(fleet: Fleet) -> None:
    async def main() -> None:
        for replica in fleet.replicas:
            replica.script(hang(times=-1))
        async with await fleet.connect() as first, await fleet.connect() as second:
            for client in (first, second):
                await client.send(request("joined", "s"))
                await asyncio.sleep(0.2)
            (call,) = [each for replica in fleet.replicas for each in replica.requests]
            await first.close()
            await asyncio.sleep(0.2)
            assert not call.ended.is_set()
        assert await asyncio.to_thread(call.wait_gone, 5)

    asyncio.run(main())
