"""A real PostgreSQL in a folder of its own, on a free port: started, cut, started again."""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import uuid
from pathlib import Path
from typing import Any, Self

import asyncpg

from support.servers import (
    find_program,
    free_port,
    other_user,
    reachable_program,
    wait_for_server,
)

USER = "dragoman"
PASSWORD = "postgres-secret"
_TRIES = 5  # a port that was free may be taken by the time the server wants it
_STOP_TIMEOUT_S = 30
# A machine that fails is no part of any test, so that nothing need reach the disk; a commit that
# was answered is kept all the same when the processes are killed.
_SETTINGS = {"fsync": "off", "full_page_writes": "off", "max_connections": "100"}


class PostgresServer:
    """
    A running server; a context manager. It keeps its port and its data when it is started again.

    Raises:
        pytest.skip.Exception: There is none on this machine; with DRAGOMAN_REQUIRE_CLIENTS=1 the
            test fails instead.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._folder = Path()
        self._program = Path()
        self._user = other_user()
        self.port = 0

    def __enter__(self) -> Self:
        program = find_program("postgres")
        self._folder = Path(tempfile.mkdtemp(prefix="dragoman-postgres-"))
        try:
            self._program = reachable_program(program, user=self._user, folder=self._folder)
            self._make_cluster()
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def pid(self) -> int:
        """Process id of the first of its processes."""
        assert self._process is not None
        return self._process.pid

    @property
    def folder(self) -> Path:
        """Where its socket is, too."""
        return self._folder

    def url(self, database: str = "postgres") -> str:
        """URL of one of its databases."""
        return f"postgresql://{USER}:{PASSWORD}@127.0.0.1:{self.port}/{database}"

    def new_database(self) -> str:
        """Make an empty database, return its URL."""
        name = f"d{uuid.uuid4().hex[:16]}"
        self.run(f"CREATE DATABASE {name}")
        return self.url(name)

    def run(self, statement: str, *, database: str = "postgres") -> list[Any]:
        """Run one statement, return its rows; for tests that have no event loop running."""

        async def ask() -> list[Any]:
            connection = await asyncpg.connect(self.url(database), timeout=20)
            try:
                return list(await connection.fetch(statement))
            finally:
                await connection.close()

        return asyncio.run(ask())

    def start(self) -> None:
        """Start it, again if it was stopped, and return when it takes connections."""
        has_port = self.port != 0
        for _ in range(1 if has_port else _TRIES):
            self.port = self.port if has_port else free_port()
            self._process = self._launch()
            log = self._folder / "log"
            if wait_for_server(self._process, self._is_ready, log=log):
                return
        raise AssertionError(f"PostgreSQL has ended: {log.read_text(errors='replace')[-2000:]}")

    def stop(self) -> None:
        """End it as an administrator does who cannot wait: connections are closed."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """End it at once: whoever is connected sees a reset."""
        self._end(signal.SIGQUIT)

    def _end(self, how: signal.Signals) -> None:
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(how)
        try:
            self._process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise

    def _make_cluster(self) -> None:
        password = self._folder / "password"
        password.write_text(PASSWORD)
        if self._user is not None:
            for path in (self._folder, password):
                shutil.chown(path, self._user)
        command: list[str | Path] = [self._program.with_name("initdb"), "--no-sync", "-A"]
        command += ["scram-sha-256", "-U", USER, f"--pwfile={password}", "-E", "UTF8"]
        command += ["--locale=C", "-D", self._folder / "data"]
        done = subprocess.run(
            command,
            check=False,
            cwd=self._folder,
            user=self._user,
            env=self._env(),
            capture_output=True,
        )
        assert done.returncode == 0, (done.stdout + done.stderr).decode(errors="replace")

    def _launch(self) -> subprocess.Popen[bytes]:
        command: list[str | Path] = [self._program, "-D", self._folder / "data"]
        command += ["-p", str(self.port), "-k", self._folder, "-h", "127.0.0.1"]
        command += [part for pair in _SETTINGS.items() for part in ("-c", "=".join(pair))]
        with (self._folder / "log").open("ab") as log:
            return subprocess.Popen(
                command,
                cwd=self._folder,
                user=self._user,
                env=self._env(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _env(self) -> dict[str, str]:
        return {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C", "HOME": str(self._folder)}

    def _is_ready(self) -> bool:
        """Whether it is ours that answers at the port: its socket is in our folder, too."""
        if not (self._folder / f".s.PGSQL.{self.port}").exists():
            return False
        with contextlib.suppress(OSError, asyncpg.PostgresError, TimeoutError):
            return bool(self.run("SELECT 1"))
        return False
