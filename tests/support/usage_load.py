"""Clients that load a real gateway and remember what they saw; and what the store has of it."""

import asyncio
import json
import sqlite3
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from support.raw_http import Client
from support.sockets import post, read

PATIENCE_S = 60.0
# Of the configuration: who starts while the database is away does not know those that it holds.
KEY = "a-key-for-all-clients"
NOBODY_KILLED: Mapping[int, float] = MappingProxyType({})
_ENDS = (OSError, asyncio.IncompleteReadError)  # of a connection to a gateway that has gone


@dataclass(frozen=True)
class Seen:
    """A reply that a client got whole."""

    at_s: float  # on the monotonic clock, when its last byte had come
    port: int  # of the gateway; one that starts again has another
    input_tokens: int
    output_tokens: int


@dataclass
class Load:
    """
    Clients that ask one thing after the other, each on a connection of its own.

    Attributes:
        seen: Whole replies, by the request id in their head.
        cut: Request ids of replies that broke off, or ended with an error.
        refused: How many other answers there were, by status.
    """

    port: Callable[[], int]
    seen: dict[str, Seen] = field(default_factory=dict)
    cut: set[str] = field(default_factory=set)
    refused: dict[int, int] = field(default_factory=dict)
    is_over: bool = False

    async def run(self, n_clients: int, story: Callable[[], Any]) -> None:
        """Keep *n_clients* asking while *story* happens in a thread."""
        clients = [asyncio.create_task(self._ask_on(number)) for number in range(n_clients)]
        try:
            async with asyncio.timeout(2 * PATIENCE_S):
                await asyncio.to_thread(story)
        finally:
            self.is_over = True
            await asyncio.gather(*clients)

    def wait_for(self, n_more: int) -> None:
        """Wait until so many more replies have been seen."""
        wanted = len(self.seen) + n_more
        wait_until(lambda: len(self.seen) >= wanted)

    async def _ask_on(self, number: int) -> None:
        while not self.is_over:
            port = self.port()
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)
                continue
            client = Client(reader, writer)
            try:
                while not self.is_over:
                    number += 1
                    await self._ask(client, number, port)
            except _ENDS:
                await asyncio.sleep(0.05)
            finally:
                await client.close()

    async def _ask(self, client: Client, number: int, port: int) -> None:
        session = f"x-claude-code-session-id: session-{number % 7}"
        key = f"x-api-key: {KEY}"
        reply = await client.ask(post(None, key, session, stream=bool(number % 3)))
        request_id = reply.headers[b"request-id"].decode()
        if reply.is_cut:
            self.cut.add(request_id)
            raise ConnectionResetError
        if reply.status != 200:
            self.refused[reply.status] = self.refused.get(reply.status, 0) + 1
            return
        message = read(reply)
        if message.error is not None:
            self.cut.add(request_id)
            raise ConnectionResetError
        usage = message.usage
        self.seen[request_id] = Seen(
            time.monotonic(), port, usage["input_tokens"], usage["output_tokens"]
        )


@dataclass(frozen=True)
class Stored:
    """One record, as the table has it."""

    status: int
    error_type: str
    session_id: str
    input_tokens: int
    output_tokens: int


STATEMENT = """
    SELECT usage_records.id, status, error_type, session_id, input_tokens, output_tokens
    FROM usage_records JOIN usage_facts ON facts_id = usage_facts.id
"""


def stored_in_file(path: Path) -> dict[str, Stored]:
    """Return the records in a SQLite file, by id; none: there is no file yet."""
    if not path.exists():
        return {}
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=20)) as database:
        has_table = "SELECT 1 FROM sqlite_master WHERE name = 'usage_records'"
        rows = database.execute(STATEMENT).fetchall() if any(database.execute(has_table)) else []
    return by_id(rows)


def by_id(rows: Any) -> dict[str, Stored]:
    """Return records by their ids; each comes once."""
    found = {row[0]: Stored(*tuple(row)[1:]) for row in rows}
    assert len(found) == len(rows)
    return found


def check_stored(
    stored: Mapping[str, Stored], load: Load, killed: Mapping[int, float] = NOBODY_KILLED
) -> None:
    """
    Compare what the store has with what the clients saw.

    Args:
        stored: Records by id.
        load: The clients.
        killed: When gateways were killed, by their ports; what they answered in the second before
            may be missing.
    """
    safe = [
        request_id
        for request_id, seen in load.seen.items()
        if seen.port not in killed or seen.at_s < killed[seen.port] - 1.0
    ]
    missing = [request_id for request_id in safe if request_id not in stored]
    assert missing == [], f"{len(missing)} of {len(safe)} replies left no record"
    for request_id, seen in load.seen.items():
        if (record := stored.get(request_id)) is not None:
            counts = (record.input_tokens, record.output_tokens)
            assert counts == (seen.input_tokens, seen.output_tokens)
            assert (record.status, record.error_type) == (200, "")
            assert record.session_id.startswith("session-")


def wait_until(is_so: Callable[[], bool]) -> None:
    """Wait, in a thread, until something is so."""
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.02)


def events_of(log: str, name: str) -> list[dict[str, Any]]:
    """Return the events of this name in a gateway's log."""
    whole = log[: log.rfind("\n") + 1]  # the last line may be on its way
    lines = [json.loads(line) for line in whole.splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == name]
