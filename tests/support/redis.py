"""A real Redis in a folder of its own, on a free port: started, cut, stopped short, again."""

import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Self

from support.servers import find_program, free_port, wait_for_server

PASSWORD = "redis-secret"
_TRIES = 5  # a port that was free may be taken by the time the server wants it
_STOP_TIMEOUT_S = 30


class RedisServer:
    """
    A running server; a context manager. It keeps its port, and nothing else, when started again.

    Args:
        options: Further ones of its command line.

    Raises:
        pytest.skip.Exception: There is none on this machine; with DRAGOMAN_REQUIRE_CLIENTS=1 the
            test fails instead.
    """

    def __init__(self, *options: str) -> None:
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self._folder = Path()
        self._program = Path()
        self.port = 0

    def __enter__(self) -> Self:
        self._program = find_program("redis-server")
        self._folder = Path(tempfile.mkdtemp(prefix="dragoman-redis-"))
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def url(self) -> str:
        """URL, with its password."""
        return f"redis://:{PASSWORD}@127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start it, again if it was stopped, and return when it takes connections."""
        has_port = self.port != 0
        for _ in range(1 if has_port else _TRIES):
            self.port = self.port if has_port else free_port()
            self._process = self._launch()
            log = self._folder / "log"
            if wait_for_server(self._process, self._is_ready, log=log):
                return
        raise AssertionError(f"Redis has ended: {log.read_text(errors='replace')[-2000:]}")

    def kill(self) -> None:
        """End it at once: whoever is connected sees a reset."""
        process = self._process
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait(_STOP_TIMEOUT_S)

    def pause(self) -> None:
        """Let it keep all connections and answer nothing, as a machine does that hangs."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def empty(self) -> None:
        """Forget all data."""
        assert self._ask(b"FLUSHALL") == b"+OK"

    def _launch(self) -> subprocess.Popen[bytes]:
        command: list[str | Path] = [self._program, "--port", str(self.port), "--bind", "127.0.0.1"]
        command += ["--save", "", "--appendonly", "no", "--requirepass", PASSWORD]
        command += self._options
        with (self._folder / "log").open("ab") as log:
            return subprocess.Popen(
                command,
                cwd=self._folder,
                env={"LC_ALL": "C"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _is_ready(self) -> bool:
        try:
            return self._ask(b"INFO server").startswith(b"$")
        except OSError:
            return False

    def _ask(self, command: bytes) -> bytes:
        """Return the first line of the answer to one command."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as link:
            link.sendall(b"AUTH " + PASSWORD.encode() + b"\r\n" + command + b"\r\n")
            lines = link.makefile("rb")
            first = lines.readline()
            return lines.readline().strip() if first == b"+OK\r\n" else first.strip()
