"""Run the real Claude Code command in print mode, in a world of its own."""

import json
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.gateway import clean_environment

# Works for root and for others, which --dangerously-skip-permissions does not.
_ALLOWED = ("Bash", "Read", "Edit", "Write", "Agent", "WebSearch", "StructuredOutput")
_SECONDS = 45


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
        return [json.loads(line) for line in self.stdout.splitlines() if line.strip()]


class ClaudeCode:
    """
    One user: a home, a project folder and a base URL.

    Args:
        binary: The ``claude`` command.
        home: An empty folder; the project is made in it.
    """

    def __init__(self, binary: Path, home: Path, *, base_url: str, model: str) -> None:
        self._binary = binary
        self.project = home / "project"
        self.project.mkdir(parents=True)
        self._env = clean_environment(
            home,
            TERM="xterm-256color",
            CLAUDE_CONFIG_DIR=str(home / ".claude"),
            ANTHROPIC_BASE_URL=base_url,
            ANTHROPIC_AUTH_TOKEN="a-client-token",
            ANTHROPIC_MODEL=model,
            CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC="1",
            DISABLE_AUTOUPDATER="1",
            DISABLE_TELEMETRY="1",
            DISABLE_ERROR_REPORTING="1",
            CLAUDE_CODE_MAX_RETRIES="2",
        )

    def run(
        self,
        prompt: str,
        *args: str,
        output: str = "json",
        stdin: str | None = None,
        env: dict[str, str] | None = None,
    ) -> ClaudeRun:
        """Give it one prompt, wait for the end, and end the whole process group if it hangs."""
        command = [str(self._binary), "-p", *([prompt] if prompt else [])]
        command += ["--output-format", output, "--permission-mode", "acceptEdits"]
        command += ["--allowedTools", ",".join(_ALLOWED), *args]
        started_s = time.monotonic()
        process = subprocess.Popen(
            command,
            cwd=self.project,
            env={**self._env, **(env or {})},
            stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            text=True,
        )
        try:
            out, err = process.communicate(stdin, timeout=_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate()
            raise AssertionError(
                f"still running after {_SECONDS} s: {out[-2000:]}{err[-2000:]}"
            ) from None
        return ClaudeRun(process.returncode, out, err, time.monotonic() - started_s)
