"""A real gateway in front of a scripted upstream, and what must hold after every test with it."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.chat_law import check_body
from support.chat_upstream import ChatUpstream
from support.claude_code import CLIENT_TOKEN
from support.gateway import GatewayProcess, lab_config

MODELS = ("deepseek-v3.1", "deepseek-v3.2", "kimi-k2.5")
LAB_KEY = "lab-secret"


@dataclass
class Lab:
    """Where clients go, and what is behind it."""

    upstream: ChatUpstream
    gateway: GatewayProcess
    log_start: int = 0  # what stands before it is of earlier tests

    @property
    def url(self) -> str:
        """Base URL for clients."""
        return self.gateway.url

    def records(self, *, path: str = "/v1/messages") -> list[dict[str, Any]]:
        """The log's lines about requests of this test, oldest first."""
        lines = self.gateway.log()[self.log_start :].splitlines()
        events = [json.loads(line) for line in lines if line.startswith("{")]
        return [e for e in events if e["event"] == "request" and e["path"] == path]

    def wait_records(self, count: int = 1, *, path: str = "/v1/messages") -> list[dict[str, Any]]:
        """Wait until there are that many: a line is written after its reply has ended."""
        deadline_s = time.monotonic() + 10
        while len(found := self.records(path=path)) < count:
            assert time.monotonic() < deadline_s, found
            time.sleep(0.02)
        return found

    def wait_adjustments(self, count: int = 1) -> set[str]:
        """Wait for so many requests, return what the log says was not sent as asked."""
        found = self.wait_records(count)
        return {told for record in found for told in record.get("adjustments", ())}


@contextmanager
def open_lab(folder: Path, *, more: str = "", env: dict[str, str] | None = None) -> Iterator[Lab]:
    """Start both; afterwards no secret is in the log."""
    with ChatUpstream(models=MODELS) as upstream:
        if (
            "[routing]" not in more
        ):  # what one test has been told to wait for is none of the next one's
            more += "\n[routing]\nrate_limited_s = 1\nmax_rate_limited_s = 1\n"
        config = lab_config(upstream.url, *MODELS, more=more)
        json_log = {"DRAGOMAN_LOG_FORMAT": "json"}
        with GatewayProcess(folder, config=config, env=json_log | (env or {})) as gateway:
            yield Lab(upstream, gateway)
        assert LAB_KEY not in gateway.log()
        assert CLIENT_TOKEN not in gateway.log()


@contextmanager
def checked(lab: Lab) -> Iterator[Lab]:
    """Forget the past; afterwards hold what came upstream against the laws."""
    lab.upstream.script()
    lab.log_start = len(lab.gateway.log())
    yield lab
    lab.upstream.wait_idle()
    assert not lab.upstream.unmatched, [u.messages[-1] for u in lab.upstream.unmatched]
    for recorded in lab.upstream.requests:
        check_body(recorded.body)
        assert recorded.headers["authorization"] == f"Bearer {LAB_KEY}"
        assert CLIENT_TOKEN.encode() not in recorded.raw_body
        assert CLIENT_TOKEN not in str(recorded.headers)
