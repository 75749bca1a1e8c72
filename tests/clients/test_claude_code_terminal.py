"""The real Claude Code in a terminal, as `dragoman claude` starts it for a person."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.chat_script import call, say
from support.chat_upstream import ChatUpstream
from support.claude_code import ClaudeCode
from support.gateway import lab_config, program_environment
from support.node import claude_binary
from support.terminal import Terminal

pytestmark = pytest.mark.client

MODELS = ("deepseek-v3.1", "glm-4.7")


@contextmanager
def session(folder: Path, upstream: ChatUpstream) -> Iterator[tuple[Terminal, Path]]:
    """Open a terminal in which `dragoman claude` has come up, and a project."""
    binary = claude_binary()
    config = folder / "dragoman.toml"
    config.write_text(lab_config(upstream.url, *MODELS))
    env = program_environment(folder / "user", DRAGOMAN_PORT="0")
    env["PATH"] = os.pathsep.join((str(binary.parent), env["PATH"]))
    command = [sys.executable, "-m", "dragoman", "claude", "--config", str(config)]
    user = ClaudeCode(command, folder / "user", env=env)
    skip_welcome(Path(user.env["CLAUDE_CONFIG_DIR"]), user.project)
    arguments = ["--", "--permission-mode", "acceptEdits"]
    with Terminal([*command, *arguments], user.project, env=user.env) as terminal:
        terminal.wait_for("❯")
        terminal.wait_for("accept edits on")
        yield terminal, user.project


def skip_welcome(folder: Path, project: Path) -> None:
    """Write down that the first-run questions have been answered."""
    folder.mkdir(exist_ok=True)
    settings = {
        "hasCompletedOnboarding": True,
        "theme": "dark",
        "projects": {str(project): {"hasTrustDialogAccepted": True, "allowedTools": []}},
    }
    (folder / ".claude.json").write_text(json.dumps(settings))


def test_a_conversation(tmp_path: Path) -> None:
    with (
        ChatUpstream(models=MODELS) as upstream,
        session(tmp_path, upstream) as (terminal, project),
    ):
        path = project / "one.py"
        path.write_text("print(1)\n")
        upstream.script(
            say("Hello from the lab."),
            say(call("Read", file_path=str(path))),
            say(call("Edit", file_path=str(path), old_string="print(1)", new_string="print(2)")),
            say("Now it prints two."),
        )
        terminal.type("say hello")
        terminal.wait_for("Hello from the lab.")
        terminal.type("print two instead")
        terminal.wait_for("Now it prints two.")
        assert path.read_text() == "print(2)\n"
        terminal.type("/exit")
        assert terminal.wait_end() == 0
        assert {request.body["model"] for request in upstream.requests} == {"deepseek-v3.1"}
        assert not upstream.unmatched


def test_the_picker_shows_the_models_of_the_gateway(tmp_path: Path) -> None:
    with ChatUpstream(models=MODELS) as upstream, session(tmp_path, upstream) as (terminal, _):
        upstream.script(say("Hello from the other one.", times=-1))
        terminal.type("/model glm-4.7")
        terminal.wait_for("Set model to")
        terminal.type("say hello")
        terminal.wait_for("Hello from the other one.")
        # It tries a model before it takes it.
        assert {request.body["model"] for request in upstream.requests} == {"glm-4.7"}
        terminal.type("/model")
        terminal.wait_for("Select model")
        terminal.wait_for("From gateway")
        terminal.wait_for("(currently deepseek-v3.1)")  # not [1m], which it is not
        terminal.press("\x1b")
