"""Start the real gateway as its users do, in a process of its own, and stop it by its pid."""

import http.client
import json
import os
import re
import signal
import ssl
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import dragoman

_SOURCES = Path(dragoman.__file__).parents[1]
_URL = re.compile(r"https?://127\.0\.0\.1:([1-9]\d*)")
_START_TIMEOUT_S = 60  # it takes one; a busy machine is no failed test
_STOP_TIMEOUT_S = 30


def clean_environment(home: Path, **extra: str) -> dict[str, str]:
    """Return an environment with nothing of ours in it: no proxies, no vendor keys, own HOME."""
    home.mkdir(parents=True, exist_ok=True)
    path = os.pathsep.join(("/usr/local/bin", "/usr/bin", "/bin"))
    return {"HOME": str(home), "PATH": path, "LANG": "C.UTF-8", **extra}


def program_environment(home: Path, **extra: str) -> dict[str, str]:
    """Return an environment in which ``python -m dragoman`` starts, from these sources."""
    ours = {
        "PYTHONPATH": str(_SOURCES),
        "PYTHONUNBUFFERED": "1",
        "DRAGOMAN_SERVER_LOG_HOLD_S": "0",  # a line is there as soon as its request is over
        "DRAGOMAN_SERVER_LOCAL_ENGINES": "false",  # whatever runs on this machine is no part of it
    }
    return clean_environment(home, **{**ours, **extra})


def lab_config(upstream_url: str, *models: str, more: str = "") -> str:
    """Return a configuration with *models* on one upstream; the first one plays every role."""
    lines = ["[server]", 'host = "127.0.0.1"', "", "[upstreams.lab]", 'kind = "openai"']
    lines += [f'base_url = "{upstream_url}"', 'api_key = "lab-secret"', ""]
    for model in models:
        lines += [f'[models."{model}"]', 'upstream = "lab"', ""]
    lines += ["[roles]", *(f'{role} = "{models[0]}"' for role in ("opus", "sonnet", "haiku"))]
    return "\n".join([*lines, "", more])


@dataclass
class Answer:
    """A whole HTTP reply."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)


class GatewayProcess:
    """
    A running gateway; a context manager.

    Args:
        folder: Where its configuration, its home and its log go.
        config: Text of the configuration file; None starts without one.
        args: More arguments of ``dragoman serve``.
        env: More variables.
        tls: How to trust it, where it speaks HTTPS.
        ready_path: What is answered 200 once it has started.
    """

    def __init__(
        self,
        folder: Path,
        *,
        config: str | None = None,
        args: tuple[str, ...] = (),
        env: dict[str, str] | None = None,
        tls: ssl.SSLContext | None = None,
        ready_path: str = "/readyz",
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._args = ["serve", "--port", "0", *args]
        if config is not None:
            (folder / "dragoman.toml").write_text(config)
            self._args += ["--config", str(folder / "dragoman.toml")]
        self._env = program_environment(folder / "home", **(env or {}))
        self._ready_path = ready_path
        self._log = folder / "gateway.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._tls = tls
        self.port = 0

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*self.command(), *self._args],
                cwd=self._folder,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self._wait_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        assert self.stop() == 0, f"the gateway did not stop cleanly:\n{self.log()[-2000:]}"

    @property
    def url(self) -> str:
        """Base URL, as a client gets it."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Process id."""
        assert self._process is not None
        return self._process.pid

    def command(self) -> list[str]:
        """What is run, before the arguments."""
        return [sys.executable, "-m", "dragoman"]

    def log(self) -> str:
        """Everything written to stdout and stderr so far."""
        return self._log.read_text(errors="replace")

    def stop(self) -> int:
        """Ask the process to end, wait, return its exit code."""
        process = self._process
        assert process is not None
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        return self.wait()

    def wait(self) -> int:
        """Wait until the process, which was asked to end, has ended; return its exit code."""
        process = self._process
        assert process is not None
        try:
            return process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        headers: dict[str, str] | None = None,
        timeout_s: float = 20,
    ) -> Answer:
        """Make one plain HTTP request."""
        connection = self._connection(timeout_s)
        data = None if body is None else json.dumps(body).encode()
        head = {"content-type": "application/json"} if data is not None else {}
        try:
            connection.request(method, path, data, {**head, **(headers or {})})
            response = connection.getresponse()
            names = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, names, response.read())
        finally:
            connection.close()

    def _connection(self, timeout_s: float) -> http.client.HTTPConnection:
        if self._tls is None:
            return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)
        return http.client.HTTPSConnection(
            "127.0.0.1", self.port, timeout=timeout_s, context=self._tls
        )

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < deadline:
            assert self._process is not None
            if self._process.poll() is not None:
                raise AssertionError(f"the gateway ended at once:\n{self.log()[-4000:]}")
            if self._is_ready():
                return
            time.sleep(0.05)
        raise AssertionError(f"the gateway is not ready:\n{self.log()[-4000:]}")

    def _is_ready(self) -> bool:
        found = _URL.search(self.log())
        if found is None:
            return False
        self.port = int(found[1])
        try:
            return self.request("GET", self._ready_path, timeout_s=5).status == 200
        except OSError:
            return False
