"""The real TypeScript SDK, through the real gateway, on a scripted chat-completions upstream."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.chat_script import Thought, call, refuse, say
from support.gateway import clean_environment
from support.lab import Lab
from support.node import node_modules

pytestmark = pytest.mark.client

SCRIPT = Path(__file__).with_name("sdk.mjs")
Run = Callable[[str], Any]


@pytest.fixture
def outcome(lab: Lab, tmp_path: Path) -> Run:
    """What the case of that name comes to, ``ok`` or ``error``."""
    modules = node_modules("@anthropic-ai/sdk", "zod")
    (tmp_path / "node_modules").symlink_to(modules)  # imports are looked up beside the script
    shutil.copy(SCRIPT, tmp_path)

    def run(case: str) -> Any:
        ran = subprocess.run(
            ["node", SCRIPT.name, lab.url, case],
            cwd=tmp_path,
            env=clean_environment(tmp_path / "home"),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-2000:]
        return json.loads(ran.stdout)

    return run


@pytest.fixture
def result(outcome: Run) -> Run:
    """What the case of that name returns; it must succeed."""

    def run(case: str) -> Any:
        found = outcome(case)
        assert "ok" in found, found
        return found["ok"]

    return run


@pytest.mark.parametrize("case", ["create", "create_with_token"])
def test_create(lab: Lab, result: Run, case: str) -> None:
    lab.upstream.script(say("Hello!"))
    message = result(case)
    assert message["content"] == [{"type": "text", "text": "Hello!"}]
    assert (message["type"], message["stop_reason"]) == ("message", "end_turn")
    assert message["usage"]["input_tokens"] > 0
    assert lab.upstream.requests[0].messages == [{"role": "user", "content": "Hi"}]


def test_events(lab: Lab, result: Run) -> None:
    lab.upstream.script(say("Hello there, you."))
    kinds = result("events")
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert set(kinds[2:-3]) == {"content_block_delta"}
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]


def test_stream_helper(lab: Lab, result: Run) -> None:
    use = call("get_weather", city="Köln")
    lab.upstream.script(say(Thought("Hm, a city."), "Let me see, please.", use))
    found = result("stream")
    thinking, text, tool_use = found["message"]["content"]
    assert thinking["thinking"] == "Hm, a city."
    assert thinking["signature"]
    assert "".join(found["texts"]) == text["text"] == "Let me see, please."
    assert len(found["texts"]) > 1
    assert (tool_use["name"], tool_use["input"]) == ("get_weather", {"city": "Köln"})
    assert found["message"]["stop_reason"] == "tool_use"


@pytest.mark.parametrize(
    "case", ["tool_runner", "tool_runner_with_zod", "tool_runner_that_streams"]
)
def test_tool_runner(lab: Lab, result: Run, case: str) -> None:
    """It first asks for a thread kept by the server, is refused, and sends the history itself."""
    lab.upstream.script(say(call("add", a=2, b=40)), say(call("add", a=42, b=1)), say("43."))
    found = result(case)
    message = found[-1] if isinstance(found, list) else found
    assert message["content"][0]["text"] == "43."
    requests = lab.upstream.requests
    assert [r.messages[-1]["content"] for r in requests] == ["Hi", "42", "43"]
    assert {tuple(r.tool_names) for r in requests} == {("add",)}


def test_parse(lab: Lab, result: Run) -> None:
    lab.upstream.script(say('{"name": "Ada", "age": 36}'))
    assert result("parse") == {"name": "Ada", "age": 36}
    wanted = lab.upstream.requests[0].body["response_format"]["json_schema"]["schema"]
    assert set(wanted["properties"]) == {"name", "age"}


def test_count_tokens(lab: Lab, result: Run) -> None:
    assert 0 < result("count_tokens")["input_tokens"] < 50
    assert not lab.upstream.requests


def test_models(result: Run) -> None:
    found = result("models")
    assert found["ids"][0] == "deepseek-v3.1"
    assert len(set(found["ids"])) == len(found["ids"]) > 3
    assert (found["one"]["id"], found["one"]["max_input_tokens"]) == ("kimi-k2.5", 262_144)


def test_leaving_a_stream_cancels_the_upstream_call(lab: Lab, result: Run) -> None:
    lab.upstream.script(say("word " * 2000, delay_s=0.02))
    assert result("leave") == "left"
    assert lab.upstream.requests[0].wait_gone(10)


def test_a_bad_request(lab: Lab, outcome: Run) -> None:
    error = outcome("bad_request")["error"]
    assert (error["name"], error["status"]) == ("BadRequestError", 400)
    assert "max_tokens" in error["message"]
    assert not lab.upstream.requests


def test_a_429_is_repeated(lab: Lab, result: Run) -> None:
    limited = refuse(429, "slow down", headers=(("retry-after", "1"),))
    lab.upstream.script(limited, say("Hello!"))
    assert result("again")["content"][0]["text"] == "Hello!"
    assert len(lab.upstream.requests) == 2
