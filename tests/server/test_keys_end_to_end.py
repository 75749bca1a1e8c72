"""Real gateways on one store: keys come and go, and so does the database."""

import asyncio
import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from dragoman.exit_codes import CANNOT_START, FAILED
from dragoman.policy.key_texts import new_client_key
from support.app_case import ASK
from support.chat_script import say
from support.chat_upstream import ChatUpstream
from support.command import run_command
from support.gateway import Answer, GatewayProcess, lab_config
from support.postgres import PostgresServer

_KNOWN_WITHIN_S = 2.0  # what is promised


class Replicas:
    """Gateways of one store, and the command line on it."""

    def __init__(self, folder: Path, upstream: ChatUpstream, *, url: str) -> None:
        self._folder = folder
        self._config = lab_config(f"http://127.0.0.1:{upstream.port}/v1", "m")
        (folder / "dragoman.toml").write_text(self._config)  # which commands find
        self._env = {"DRAGOMAN_STORE_URL": url, "DRAGOMAN_STORE_TIMEOUT_S": "2"}

    def gateway(self, name: str, *, is_ready: bool = True, **env: str) -> GatewayProcess:
        own = {"DRAGOMAN_DATA_DIR": str(self._folder / name)}
        return GatewayProcess(
            self._folder / name,
            config=self._config,
            env={**self._env, **own, **env},
            ready_path="/readyz" if is_ready else "/healthz",
        )

    def command(self, *args: str) -> Any:
        """Run a command, return its JSON."""
        done = run_command(self._folder, *args, "--json", env=self._env)
        told = [line for line in done.stderr.splitlines() if "made a new store: " not in line]
        assert (done.returncode, told) == (0, [])
        return json.loads(done.stdout)


@contextmanager
def upstream() -> Iterator[ChatUpstream]:
    with ChatUpstream(say("Hello", times=-1)) as made:
        yield made


def ask(gateway: GatewayProcess, key: str = "") -> Answer:
    headers = {"x-api-key": key} if key else {}
    answer = gateway.request("POST", "/v1/messages", {**ASK, "model": "m"}, headers=headers)
    if answer.status != 200:
        assert answer.json()["type"] == "error"
    return answer


def seconds_until(status: int, gateway: GatewayProcess, key: str = "") -> float:
    """Return how long it takes until requests with a key are answered like that."""
    started_s = time.monotonic()
    while ask(gateway, key).status != status:
        assert time.monotonic() < started_s + 20, f"never answered {status}"
        time.sleep(0.02)
    return time.monotonic() - started_s


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.server)])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'shared.db'}"
    url: str = request.getfixturevalue("postgres_url")
    return url


def test_a_key_is_good_at_once_and_refused_everywhere_within_two_seconds(
    tmp_path: Path, store_url: str
) -> None:
    with ExitStack() as stack:
        replicas = Replicas(tmp_path, stack.enter_context(upstream()), url=store_url)
        names = ("one", "two")
        gateways = [stack.enter_context(replicas.gateway(name)) for name in names]
        assert [ask(gateway).status for gateway in gateways] == [200, 200]  # open, as ever

        made = replicas.command("keys", "create", "ci", "--model", "m")
        for gateway in gateways:
            assert seconds_until(401, gateway) < _KNOWN_WITHIN_S
            assert ask(gateway, made["key"]).status == 200

        other = replicas.command("keys", "create", "other")
        assert [ask(gateway, other["key"]).status for gateway in gateways] == [200, 200]

        replicas.command("keys", "revoke", made["id"])
        for gateway in gateways:
            assert seconds_until(401, gateway, made["key"]) < _KNOWN_WITHIN_S
            assert "was revoked" in ask(gateway, made["key"]).json()["error"]["message"]
            assert ask(gateway, other["key"]).status == 200

    used = replicas.command("keys", "show", "other")["last_used_at"]
    assert used is not None  # written down at the end at the latest
    for gateway in gateways:
        assert made["key"] not in gateway.log()
        assert other["key"] not in gateway.log()


@pytest.mark.parametrize("workers", [(), ("--workers", "2")], ids=["one", "workers"])
def test_a_database_of_a_newer_version_stops_the_start(
    tmp_path: Path, store_url: str, workers: tuple[str, ...]
) -> None:
    (tmp_path / "dragoman.toml").write_text(lab_config("http://127.0.0.1:9/v1", "m"))
    env = {"DRAGOMAN_STORE_URL": store_url, "DRAGOMAN_DATA_DIR": str(tmp_path / "data")}
    assert run_command(tmp_path, "db", "upgrade", env=env).returncode == 0
    age(store_url)
    done = run_command(tmp_path, "serve", "--port", "0", *workers, env=env)
    assert done.returncode == CANNOT_START
    (line,) = [each for each in done.stderr.splitlines() if each.startswith("dragoman: ")]
    assert line.startswith(f"dragoman: store: {store_url.partition(':')[0]} ")
    assert "the database has version 9999, this program knows none after" in line
    assert run_command(tmp_path, "check", env=env).returncode == FAILED


def age(store_url: str) -> None:
    """Let the database look as if a later program had changed it."""
    statement = "UPDATE alembic_version SET version_num = '9999'"

    async def change() -> None:
        connection = await asyncpg.connect(store_url, timeout=20)
        await connection.execute(statement)
        await connection.close()

    if store_url.startswith("postgresql"):
        asyncio.run(change())
        return
    with closing(sqlite3.connect(store_url.removeprefix("sqlite:///"))) as connection, connection:
        connection.execute(statement)


@pytest.mark.server
def test_a_database_that_is_away(tmp_path: Path) -> None:
    with ExitStack() as stack:
        server = stack.enter_context(PostgresServer())
        replicas = Replicas(tmp_path, stack.enter_context(upstream()), url=server.url())
        known = replicas.command("keys", "create", "known")
        graceful = stack.enter_context(replicas.gateway("graceful"))
        strict = stack.enter_context(replicas.gateway("strict", DRAGOMAN_STORE_KEY_GRACE_S="0"))
        assert [ask(each, known["key"]).status for each in (graceful, strict)] == [200, 200]
        server.stop()

        assert seconds_until(503, strict, known["key"]) < 10
        assert ask(graceful, known["key"]).status == 200
        unknown = ask(graceful, new_client_key())
        assert unknown.status == 503
        assert unknown.headers["retry-after"] == "1"
        assert unknown.headers["x-should-retry"] == "true"
        assert ask(graceful).status == ask(graceful, "nothing like a key").status == 401
        late = replicas.gateway("late", is_ready=False)  # starts all the same, and is not ready
        stack.enter_context(late)
        assert "has not answered yet" in late.request("GET", "/readyz").json()["reason"]
        assert ask(late).status == ask(late, known["key"]).status == 503

        server.start()
        made = replicas.command("keys", "create", "new")
        for gateway in (graceful, strict, late):
            seconds_until(200, gateway, made["key"])
            assert ask(gateway, known["key"]).status == 200
        replicas.command("keys", "revoke", "known")
        for gateway in (graceful, strict, late):
            assert seconds_until(401, gateway, known["key"]) < _KNOWN_WITHIN_S
        assert '"state":"away"' in graceful.log()
        assert '"state":"back"' in graceful.log()
        assert "postgres-secret" not in graceful.log()
