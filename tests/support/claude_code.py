"""Run the real Claude Code command in print mode, in a world of its own."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.gateway import clean_environment

CLIENT_TOKEN = "a-client-token"
# Works for root and for others, which --dangerously-skip-permissions does not.
_ALLOWED = ("Bash", "Read", "Edit", "Write", "Agent", "WebSearch", "StructuredOutput", "ToolSearch")
_SECONDS = 90  # a run takes 2; two at a time on a busy machine take more


@dataclass
class ClaudeRun:
    """What a run left behind."""

    returncode: int
    stdout: str
    stderr: str
    seconds: float

    @property
    def result(self) -> dict[str, Any]:
        """The result object of ``--output-format json``."""
        try:
            value: dict[str, Any] = json.loads(self.stdout)
        except ValueError:
            raise AssertionError(f"no JSON: {self.stdout[-2000:]}{self.stderr[-2000:]}") from None
        return value

    @property
    def text(self) -> str:
        """The answer; the run must have succeeded."""
        assert self.returncode == 0, self.stdout[-2000:] + self.stderr[-2000:]
        assert self.result["is_error"] is False, self.result
        text: str = self.result["result"]
        return text

    def lines(self) -> list[dict[str, Any]]:
        """The messages of ``--output-format stream-json``."""
        assert self.returncode == 0, self.stdout[-2000:] + self.stderr[-2000:]
        return [json.loads(line) for line in self.stdout.splitlines() if line.strip()]


def gateway_variables(base_url: str, model: str) -> dict[str, str]:
    """Return what a user exports to work on *model* of the gateway at *base_url*."""
    return {
        "ANTHROPIC_BASE_URL": base_url,
        "ANTHROPIC_AUTH_TOKEN": CLIENT_TOKEN,
        "ANTHROPIC_MODEL": model,
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    }


class ClaudeCode:
    """
    One user: a home, a project folder, a command and an environment.

    Args:
        command: The ``claude`` command, or what starts it.
        home: An empty folder; the project is made in it.
        env: What the user has exported.
    """

    def __init__(self, command: Sequence[str], home: Path, *, env: Mapping[str, str]) -> None:
        self._command = tuple(command)
        self.project = home / "project"
        self.project.mkdir(parents=True)
        self.env = clean_environment(
            home,
            TERM="xterm-256color",
            CLAUDE_CONFIG_DIR=str(home / ".claude"),
            DISABLE_AUTOUPDATER="1",
            DISABLE_TELEMETRY="1",
            DISABLE_ERROR_REPORTING="1",
            CLAUDE_CODE_MAX_RETRIES="2",
        )
        self.env |= env

    def run(
        self,
        prompt: str,
        *args: str,
        output: str = "json",
        stdin: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> ClaudeRun:
        """Give it one prompt, wait for the end, and end the whole process group if it hangs."""
        started_s = time.monotonic()
        process = self.start(prompt, *args, output=output, env=env, reads=stdin is not None)
        try:
            out, err = process.communicate(stdin, timeout=_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate()
            raise AssertionError(
                f"still running after {_SECONDS} s: {out[-2000:]}{err[-2000:]}"
            ) from None
        return ClaudeRun(process.returncode, out, err, time.monotonic() - started_s)

    def start(
        self,
        prompt: str,
        *args: str,
        output: str = "json",
        env: Mapping[str, str] | None = None,
        reads: bool = False,
    ) -> subprocess.Popen[str]:
        """Start it as the leader of a process group; the caller ends it."""
        command = [*self._command, "-p", *([prompt] if prompt else [])]
        command += ["--output-format", output, "--permission-mode", "acceptEdits"]
        command += ["--verbose"] if output == "stream-json" else []
        command += ["--allowedTools", ",".join(_ALLOWED), *args]
        return subprocess.Popen(
            command,
            cwd=self.project,
            env={**self.env, **(env or {})},
            stdin=subprocess.PIPE if reads else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            text=True,
        )
