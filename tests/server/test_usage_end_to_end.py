"""Real gateways under load that are killed, stopped, and lose their database: nothing is lost."""

import asyncio
import os
import shutil
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from support.chat_script import say
from support.chat_upstream import ChatUpstream
from support.gateway import GatewayProcess
from support.postgres import PostgresServer
from support.usage_load import (
    KEY,
    STATEMENT,
    Load,
    Stored,
    by_id,
    check_stored,
    events_of,
    stored_in_file,
    wait_until,
)

CLIENTS = 12
_CONFIG = """
[server]
shutdown_timeout_s = {grace_s}
[store]
timeout_s = 0.5
{store}
[[keys]]
name = "load"
key = "{key}"
[upstreams.lab]
base_url = "{url}"
[models.m]
upstream = "lab"
"""


class Case:
    """A gateway on a folder that outlives it, its upstream, and clients."""

    def __init__(self, folder: Path, upstream: ChatUpstream, *, store: str, grace_s: float) -> None:
        self.folder = folder
        self.upstream = upstream
        self._config = _CONFIG.format(url=upstream.url, store=store, grace_s=grace_s, key=KEY)
        self.gateway = GatewayProcess(folder)
        self.load = Load(lambda: self.gateway.port)
        self.killed: dict[int, float] = {}

    @property
    def data(self) -> Path:
        return self.folder / "home" / ".local" / "share" / "dragoman"

    def start(self, *args: str) -> None:
        env = {"DRAGOMAN_SERVER_LOG_FORMAT": "json"}
        gateway = GatewayProcess(self.folder, config=self._config, env=env, args=args)
        gateway.__enter__()
        self.gateway = gateway

    def kill(self) -> None:
        """End it as the kernel does where memory runs out."""
        self.killed[self.gateway.port] = time.monotonic()
        os.kill(self.gateway.pid, signal.SIGKILL)
        assert self.gateway.wait() == -signal.SIGKILL

    def stop(self) -> None:
        assert self.gateway.stop() == 0
        log = self.gateway.log()
        assert '"event":"crash"' not in log, log[-3000:]
        assert events_of(log, "usage_lost") == []

    def under_load(self, story: Callable[[], Any]) -> None:
        asyncio.run(self.load.run(CLIENTS, story))

    def stored(self) -> dict[str, Stored]:
        return stored_in_file(self.data / "dragoman.db")

    def wait_drained(self) -> None:
        """Wait until nothing is in any spool."""
        wait_until(lambda: not list(self.data.glob("usage-spool/*/*/*.usage")))


@contextmanager
def open_case(folder: Path, *, store: str = "", grace_s: float = 10) -> Iterator[Case]:
    with ChatUpstream() as upstream:
        upstream.script(say("Hello, world, and more", delay_s=0.005, times=-1))
        case = Case(folder, upstream, store=store, grace_s=grace_s)
        case.start()
        try:
            yield case
        finally:
            case.gateway.stop()


def test_a_killed_gateway_loses_its_last_second_at_most(tmp_path: Path) -> None:
    with open_case(tmp_path) as case:

        def story() -> None:
            for _ in range(2):
                case.load.wait_for(100)
                time.sleep(1.2)
                case.kill()
                case.start()
            case.load.wait_for(50)

        case.under_load(story)
        case.stop()
        assert len(case.killed) == 2
        check_stored(case.stored(), case.load, case.killed)


def test_a_stopped_gateway_loses_nothing(tmp_path: Path) -> None:
    with open_case(tmp_path, grace_s=0.3) as case:
        case.upstream.script(
            say("Hello, world", delay_s=0.005, times=200),
            say("Hello, " * 50, delay_s=0.2, times=-1),  # cut by the end of the grace
        )

        def story() -> None:
            case.load.wait_for(200)
            wait_until(lambda: case.upstream.open_calls >= CLIENTS // 2)
            time.sleep(0.3)
            case.stop()

        case.under_load(story)
        stored = case.stored()
        check_stored(stored, case.load)
        assert case.load.cut
        assert {stored[request_id].error_type for request_id in case.load.cut} == {"stopped"}
        assert not list(case.data.glob("usage-spool/*/*"))


def test_a_locked_database_is_waited_for(tmp_path: Path) -> None:
    with open_case(tmp_path) as case:

        def has_been(*states: str) -> bool:
            return tuple(e["state"] for e in events_of(case.gateway.log(), "usage_store")) == states

        def story() -> None:
            case.load.wait_for(50)
            wait_until(lambda: len(case.stored()) > 0)
            with locked(case.data / "dragoman.db"):
                n_stored = len(case.stored())
                wait_until(lambda: has_been("away"))
                case.load.wait_for(50)
                assert len(case.stored()) == n_stored
            wait_until(lambda: has_been("away", "back"))
            with locked(case.data / "dragoman.db"):
                case.load.wait_for(50)
                wait_until(lambda: has_been("away", "back", "away"))
            wait_until(lambda: has_been("away", "back", "away", "back"))

        case.under_load(story)
        case.stop()
        check_stored(case.stored(), case.load)
        assert case.load.refused == {}


def test_what_a_stop_cannot_store_is_stored_by_the_next_start_and_once(tmp_path: Path) -> None:
    spool, copy = tmp_path / "home/.local/share/dragoman/usage-spool", tmp_path / "copy"
    with open_case(tmp_path) as case:

        def story() -> None:
            case.load.wait_for(50)
            wait_until(lambda: len(case.stored()) > 0)
            with locked(case.data / "dragoman.db"):
                case.load.wait_for(100)
                case.stop()

        case.under_load(story)
        assert len(case.stored()) < len(case.load.seen)
        shutil.copytree(spool, copy)
        for _ in range(2):
            case.start()
            case.wait_drained()
            case.stop()
            (adopted,) = events_of(case.gateway.log(), "usage_adopted")
            assert adopted["waiting_bytes"] > 0
            check_stored(case.stored(), case.load)
            assert len(case.stored()) == len(case.load.seen) + len(case.load.cut)
            shutil.copytree(copy, spool, dirs_exist_ok=True)  # as if it had not been removed


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock that everybody who writes needs."""
    with closing(sqlite3.connect(path, isolation_level=None, timeout=20)) as database:
        database.execute("BEGIN IMMEDIATE")
        yield
        database.execute("ROLLBACK")


def test_a_killed_worker_leaves_its_records_to_the_next(tmp_path: Path) -> None:
    with open_case(tmp_path) as case:
        case.stop()
        case.start("--workers", "2")

        def story() -> None:
            case.load.wait_for(100)
            with locked(case.data / "dragoman.db"):
                case.load.wait_for(50)
                time.sleep(1.2)
                case.killed[case.gateway.port] = time.monotonic()
                os.kill(children_of(case.gateway.pid)[0], signal.SIGKILL)

        case.under_load(story)
        wait_until(lambda: '"state":"started"' in case.gateway.log())
        case.wait_drained()
        case.stop()
        check_stored(case.stored(), case.load, case.killed)


def children_of(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.server
def test_a_postgresql_that_is_cut_is_waited_for(tmp_path: Path, postgres: PostgresServer) -> None:
    url = postgres.new_database()
    name = url.rpartition("/")[2]

    def stored() -> dict[str, Stored]:
        [(table,)] = postgres.run("SELECT to_regclass('usage_records')::text", database=name)
        return by_id(postgres.run(STATEMENT, database=name)) if table else {}

    with open_case(tmp_path, store=f'url = "{url}"') as case:

        def story() -> None:
            case.load.wait_for(100)
            wait_until(lambda: len(stored()) > 0)
            postgres.kill()
            case.load.wait_for(200)
            case.kill()
            case.start()
            case.load.wait_for(50)
            postgres.start()
            case.load.wait_for(50)

        case.under_load(story)
        case.stop()
        case.start()
        case.wait_drained()
        case.stop()
        check_stored(stored(), case.load, case.killed)
