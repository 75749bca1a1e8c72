"""The real Claude Code as `dragoman claude` starts it, on a gateway of its own."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from support.chat_script import Rule, call, say
from support.chat_upstream import ChatUpstream
from support.claude_code import ClaudeCode
from support.gateway import lab_config, program_environment
from support.node import claude_binary

pytestmark = pytest.mark.client

MODELS = ("deepseek-v3.1", "glm-4.7")


def new_user(folder: Path, lab: ChatUpstream, *options: str) -> ClaudeCode:
    """Return a user of `dragoman claude` with a configuration for *lab*."""
    binary = claude_binary()
    config = folder / "dragoman.toml"
    text = lab_config(lab.url, *MODELS)
    config.write_text(text.replace("[server]", "[server]\nport = 0"))
    command = [sys.executable, "-m", "dragoman", "claude", "--config", str(config), *options, "--"]
    env = program_environment(folder / "user")
    env["PATH"] = os.pathsep.join((str(binary.parent), env["PATH"]))
    return ClaudeCode(command, folder / "user", env=env)


def edit_script(file: Path) -> tuple[Rule, ...]:
    return (
        say("I will read it.", call("Read", file_path=str(file)), messages=2),
        say(
            "Now the change.",
            call("Edit", file_path=str(file), old_string="return 1", new_string="return 2"),
            last_has="return 1",
        ),
        say(call("Bash", command=f"python3 {file}", description="Run it"), last_has="updated"),
        say("It prints 2 now.", last_has="2"),
    )


def test_a_file_is_read_edited_and_run(tmp_path: Path) -> None:
    with ChatUpstream(models=MODELS) as lab:
        user = new_user(tmp_path, lab, "--model", "glm-4.7")
        file = user.project / "one.py"
        file.write_text("def one():\n    return 1\n\nprint(one())\n")
        lab.script(*edit_script(file))
        run = user.run("Make one() return 2 and run it")
        assert run.text == "It prints 2 now."
        assert "return 2" in file.read_text()
        assert {request.body["model"] for request in lab.requests} == {"glm-4.7"}
        assert lab.unmatched == []
    log = tmp_path / "user" / ".local" / "share" / "dragoman" / "claude.log"
    assert log.read_text().count("path=/v1/messages status=200") == 4


def test_settings_for_another_gateway_do_not_lead_there(tmp_path: Path) -> None:
    with ChatUpstream(say("Here."), models=MODELS) as lab, ChatUpstream() as elsewhere:
        user = new_user(tmp_path, lab)
        settings: dict[str, Any] = {
            "ANTHROPIC_BASE_URL": f"http://127.0.0.1:{elsewhere.port}",
            "ANTHROPIC_AUTH_TOKEN": "their-token",
            "ANTHROPIC_MODEL": "their-model",
        }
        own = tmp_path / "user" / ".claude" / "settings.json"
        own.parent.mkdir(exist_ok=True)
        own.write_text(json.dumps({"env": settings}))
        assert user.run("Where are you?").text == "Here."
        assert [request.body["model"] for request in lab.requests] == ["deepseek-v3.1"]
        assert elsewhere.total_connections == 0
        assert json.loads(own.read_text()) == {"env": settings}


def test_a_failure_names_the_log(tmp_path: Path) -> None:
    with ChatUpstream(models=MODELS) as lab:
        user = new_user(tmp_path, lab)
        run = user.run("Hello", "--no-such-option")
        assert run.returncode == 1
        assert "dragoman: claude ended with code 1; the gateway's log: " in run.stderr
        assert lab.requests == []
