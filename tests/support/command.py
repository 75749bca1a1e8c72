"""Run `dragoman` commands as users do, in a process of their own."""

import http.server
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from support.gateway import program_environment
from support.loopback import LoopbackServer

_TIMEOUT_S = 60


def run_command(
    folder: Path, *args: str, env: dict[str, str] | None = None, stdin: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run one command in *folder* until it ends, with nothing of our own environment."""
    return subprocess.run(
        [sys.executable, "-m", "dragoman", *args],
        cwd=folder,
        env=program_environment(folder / "home", **(env or {})),
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )


class TinyServer(LoopbackServer):
    """
    Any HTTP program on loopback: answers paths with fixed replies, and records what it was asked.

    Attributes:
        replies: Path -> status, headers, body (encoded as JSON unless it is bytes).
        requests: Method, path and headers in lower case.
    """

    def __init__(self, replies: dict[str, tuple[int, dict[str, str], Any]]) -> None:
        self.replies = replies
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        server = self

        class Handler(_Handler):
            owner = server

        super().__init__(Handler)


class _Handler(http.server.BaseHTTPRequestHandler):
    owner: TinyServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self._answer()

    def _answer(self) -> None:
        path = self.path.partition("?")[0]
        names = {name.lower(): value for name, value in self.headers.items()}
        self.owner.requests.append((self.command, path, names))
        status, headers, body = self.owner.replies.get(path, (404, {}, {"error": "no such path"}))
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"content-type": "application/json", **headers}.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
