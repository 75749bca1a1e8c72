"""Three gateways over one real PostgreSQL and one real Redis, and a model behind them."""

import asyncio
import datetime as dt
import itertools
import os
import signal
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self, TypeVar

from dragoman.policy.access import VirtualKey
from dragoman.policy.registry import By, KeyRequest, Registry
from dragoman.settings import Secret, StoreConfig
from dragoman.store_urls import read_store_url
from dragoman.stores.sql import SqlStore, open_sql_store
from support.chat_script import say
from support.chat_upstream import ChatUpstream
from support.gateway import GatewayProcess, lab_config
from support.postgres import PostgresServer
from support.redis import RedisServer

T = TypeVar("T")
SECRET = "the signing secret of all replicas"
# Keys come from the store alone; the one of the configuration says that some are needed.
_SHARED = """
[store]
url = "{store}"
timeout_s = 2

[redis]
url = "{redis}"
timeout_s = 2

[[keys]]
name = "operator"
key = "a-key-that-no-test-uses"
"""


class Fleet:
    """
    Replicas of one gateway; a context manager.

    Args:
        folder: Where they keep their files, each its own.
        n: How many.
        more: Further text of their configuration.

    Attributes:
        upstream: The model ``m`` of all of them.
        replicas: In their order; one that was killed stays in its place.
    """

    def __init__(self, folder: Path, *, n: int = 3, more: str = "") -> None:
        self._folder = folder
        self._n = n
        self._more = more
        self._stack = ExitStack()
        self._dead: set[int] = set()
        self._numbers = itertools.count()
        self.upstream = ChatUpstream(say("Hello, all of you.", times=-1), models=("m",))
        self.postgres = PostgresServer()
        self.redis = RedisServer()
        self.replicas: list[GatewayProcess] = []
        self.store_url = ""

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for server in (self.redis, self.postgres, self.upstream):
                stack.enter_context(server)
            self.store_url = self.postgres.new_database()
            for number in range(self._n):
                self.replicas.append(self.another())
                stack.callback(self._stop, number)
            with ThreadPoolExecutor(self._n) as pool:
                list(pool.map(GatewayProcess.__enter__, self.replicas))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()
        if error[0] is None:
            self.check_logs()

    def mend(self) -> None:
        """Start what a test has left down."""
        for number in sorted(self._dead):
            self.restart(number)

    def check_logs(self) -> None:
        """See that no replica has met a bug of its own."""
        for number in range(self._n):
            self._check_log(number)

    @property
    def ports(self) -> list[int]:
        """Where clients find the replicas."""
        return [replica.port for replica in self.replicas]

    def another(self, *args: str, secret: str = SECRET) -> GatewayProcess:
        """Return one more replica, to be started; it is not among *replicas*."""
        return GatewayProcess(
            self._folder / f"replica-{next(self._numbers)}",
            config=lab_config(self.upstream.url, "m", more=self._config()),
            args=("--log-format", "json", *args),
            env={"DRAGOMAN_SERVER_SIGNING_SECRET": secret},
        )

    def kill(self, number: int) -> None:
        """End a replica at once, as a machine does whose power is cut."""
        self._dead.add(number)
        os.kill(self.replicas[number].pid, signal.SIGKILL)
        assert self.replicas[number].wait() == -signal.SIGKILL

    def stop(self, number: int) -> None:
        """End a replica as an orchestrator does."""
        self._stop(number)
        self._dead.add(number)

    def restart(self, number: int) -> None:
        """Start a replica that has ended once more, where its files are."""
        self._check_log(number)
        self.replicas[number].__enter__()
        self._dead.remove(number)

    def with_store(self, case: Callable[[SqlStore], Coroutine[Any, Any, T]]) -> T:
        """Run one case on the store, beside the replicas; not inside an event loop."""

        async def main() -> T:
            url = read_store_url(Secret(self.store_url), self._folder)
            assert url is not None
            store = await open_sql_store(url, StoreConfig())
            try:
                return await case(store)
            finally:
                await store.close()

        return asyncio.run(main())

    def new_key(self, name: str, **asked: Any) -> tuple[VirtualKey, str]:
        """Make a key of the store, return it and its text."""

        async def case(store: SqlStore) -> tuple[VirtualKey, str]:
            return await _registry(store).create_key(KeyRequest(name=name, **asked), _by())

        return self.with_store(case)

    def revoke(self, key: VirtualKey) -> None:
        """Revoke a key of the store."""

        async def case(store: SqlStore) -> None:
            await _registry(store).revoke_key(key.id, _by())

        self.with_store(case)

    def recorded(self) -> set[str]:
        """Return the ids of all requests in the store."""
        name = self.store_url.rsplit("/", 1)[1]
        rows = self.postgres.run("SELECT id FROM usage_records", database=name)
        return {row["id"] for row in rows}

    def _config(self) -> str:
        return _SHARED.format(store=self.store_url, redis=self.redis.url) + self._more

    def _check_log(self, number: int) -> None:
        log = self.replicas[number].log()
        assert '"event":"crash"' not in log, f"replica {number}:\n{log[-4000:]}"

    def _stop(self, number: int) -> None:
        if number not in self._dead and self.replicas[number].port:
            code = self.replicas[number].stop()
            assert code == 0, f"replica {number}:\n{self.replicas[number].log()[-4000:]}"


def _registry(store: SqlStore) -> Registry:
    async def get() -> SqlStore:
        return store

    return Registry(get, aliases=lambda: ())


def _by() -> By:
    return By(actor="test", now=dt.datetime.now(dt.UTC))
