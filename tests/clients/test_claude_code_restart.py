"""The real Claude Code when its gateway is stopped while a reply streams."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.chat_script import say
from support.chat_upstream import ChatUpstream
from support.claude_code import ClaudeCode, gateway_variables
from support.gateway import GatewayProcess, lab_config
from support.node import claude_binary

pytestmark = pytest.mark.client

MODEL = "deepseek-v3.1"
SHORT_GRACE = {"DRAGOMAN_SERVER_SHUTDOWN_TIMEOUT_S": "0.3", "DRAGOMAN_LOG_FORMAT": "json"}
_SECONDS = 60  # a run takes ten at the most; a busy machine is no failed test


def gateway(folder: Path, upstream: ChatUpstream, *args: str) -> GatewayProcess:
    config = lab_config(upstream.url, MODEL)
    return GatewayProcess(folder, config=config, args=args, env=SHORT_GRACE)


@contextmanager
def streaming(user: ClaudeCode, retries: int) -> Iterator[subprocess.Popen[str]]:
    """Start a run, and wait until the first words of its reply have come."""
    env = {"CLAUDE_CODE_MAX_RETRIES": str(retries)}
    process = user.start("hi", "--include-partial-messages", output="stream-json", env=env)
    try:
        assert process.stdout is not None
        assert any("text_delta" in line for line in process.stdout), "the run has ended"
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def rest_of(process: subprocess.Popen[str]) -> list[dict]:
    """Wait for the end of a run; return what it has printed since."""
    out, _ = process.communicate(timeout=_SECONDS)
    return [json.loads(line) for line in out.splitlines() if line.strip()]


def statuses(told: GatewayProcess) -> list[tuple[int, str]]:
    events = [json.loads(line) for line in told.log().splitlines() if line.startswith("{")]
    asked = [e for e in events if e["event"] == "request" and e["path"] == "/v1/messages"]
    return [(e["status"], e["error"]) for e in asked]


@pytest.fixture
def upstream() -> Iterator[ChatUpstream]:
    with ChatUpstream(models=(MODEL,)) as made:
        yield made


def user_of(told: GatewayProcess, folder: Path) -> ClaudeCode:
    return ClaudeCode([str(claude_binary())], folder, env=gateway_variables(told.url, MODEL))


def test_it_goes_on_with_the_gateway_that_is_started_instead(
    tmp_path: Path, upstream: ChatUpstream
) -> None:
    upstream.script(say("word " * 60, silent_after=6), say("All is well."))
    with (
        gateway(tmp_path / "first", upstream) as first,
        streaming(user_of(first, tmp_path / "user"), retries=10) as process,
    ):
        assert first.stop() == 0
        with gateway(tmp_path / "second", upstream, "--port", str(first.port)) as second:
            *_, result = rest_of(process)
            assert statuses(second)[-1:] == [(200, "")]
    assert process.returncode == 0
    assert (result["is_error"], result["result"]) == (False, "All is well.")
    assert statuses(first) == [(200, "stopped")]
    assert len(upstream.requests) == 2


def test_it_ends_with_an_error_if_none_is_started(tmp_path: Path, upstream: ChatUpstream) -> None:
    upstream.script(say("word " * 60, silent_after=6))
    with (
        gateway(tmp_path / "only", upstream) as only,
        streaming(user_of(only, tmp_path / "user"), retries=1) as process,
    ):
        assert only.stop() == 0
        *_, result = rest_of(process)
    assert process.returncode == 1
    assert result["is_error"] is True
    assert "connect" in result["result"].lower()
    assert len(upstream.requests) == 1
