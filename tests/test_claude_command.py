"""`dragoman claude` as a process, with a script in the place of Claude Code."""

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from dragoman import __version__
from support.chat_script import say
from support.chat_upstream import ChatUpstream
from support.command import TinyServer, run_command
from support.gateway import GatewayProcess, lab_config, program_environment

_TIMEOUT_S = 30
CLIENT_KEY = "a-client-key-of-the-lab"
KEYS = f'[[keys]]\nname = "dev"\nkey = "{CLIENT_KEY}"\n'

# Notes what it was given, asks the gateway one thing, and ends with a code of its own.
FAKE = f"""#!{sys.executable}
import json, os, sys, urllib.request
base, token = os.environ["ANTHROPIC_BASE_URL"], os.environ["ANTHROPIC_AUTH_TOKEN"]
def call(key):
    body = {{"model": os.environ["ANTHROPIC_MODEL"], "max_tokens": 50,
             "messages": [{{"role": "user", "content": "Hello"}}]}}
    headers = {{"content-type": "application/json", "authorization": "Bearer " + key}}
    request = urllib.request.Request(base + "/v1/messages", json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.load(answer)["content"][-1]["text"]
    except urllib.error.HTTPError as error:
        with error:
            return error.code
seen = {{"env": dict(os.environ), "args": sys.argv[1:], "cwd": os.getcwd(),
         "answer": call(token), "others": [call("local"), call("{CLIENT_KEY}")]}}
with open("seen.json", "w") as file:
    json.dump(seen, file)
sys.exit(int(os.environ.get("FAKE_CODE", "0")))
"""


def install(folder: Path, script: str = FAKE) -> dict[str, str]:
    """Put a `claude` into a folder of its own, return the environment in which it is found."""
    file = folder / "bin" / "claude"
    file.parent.mkdir(exist_ok=True)
    file.write_text(script)
    file.chmod(0o755)
    return {"PATH": os.pathsep.join((str(file.parent), "/usr/bin", "/bin"))}


def seen(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "seen.json").read_text())
    return found


def configure(folder: Path, url: str, *, port: int | None = None, more: str = "") -> None:
    text = lab_config(url, "deepseek-v3.1", "glm-4.7", more=more)
    if port is not None:
        text = text.replace("[server]", f"[server]\nport = {port}")
    (folder / "dragoman.toml").write_text(text)


def free_port() -> int:
    with TinyServer({}) as server:
        return server.port


def log_file(folder: Path) -> Path:
    return folder / "home" / ".local" / "share" / "dragoman" / "claude.log"


def test_a_gateway_of_its_own(tmp_path: Path) -> None:
    env = install(tmp_path)
    with ChatUpstream(say("Hi there.", times=-1)) as lab:
        configure(tmp_path, lab.url, port=free_port(), more=KEYS)
        run = run_command(tmp_path, "claude", "--", "-p", "do it", "--continue", env=env)
        assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
        assert len(lab.requests) == 1
    found = seen(tmp_path)
    assert found["args"] == ["-p", "do it", "--continue"]
    assert found["cwd"] == str(tmp_path)
    assert found["answer"] == "Hi there."
    assert found["others"] == [401, 401], "only its own key opens it"
    assert found["env"]["ANTHROPIC_BASE_URL"].startswith("http://127.0.0.1:")
    assert len(found["env"]["ANTHROPIC_AUTH_TOKEN"]) >= 32
    assert found["env"]["ANTHROPIC_MODEL"] == "deepseek-v3.1"
    log = log_file(tmp_path).read_text()
    assert "status=200" in log
    assert found["env"]["ANTHROPIC_AUTH_TOKEN"] not in log


def test_the_exit_code_is_claudes_and_the_log_is_named(tmp_path: Path) -> None:
    env = {**install(tmp_path), "FAKE_CODE": "9", "API_TIMEOUT_MS": "1234"}
    with ChatUpstream(say("Hi.", times=-1)) as lab:
        configure(tmp_path, lab.url, port=free_port())
        run = run_command(tmp_path, "claude", "--model", "GLM-4.7", env=env)
    assert run.returncode == 9
    assert run.stderr == (
        f"dragoman: claude ended with code 9; the gateway's log: {log_file(tmp_path)}\n"
    )
    found = seen(tmp_path)["env"]
    assert found["ANTHROPIC_MODEL"] == "glm-4.7"
    assert found["API_TIMEOUT_MS"] == "1234", "the user's own"


def test_a_running_gateway_is_found_and_used(tmp_path: Path) -> None:
    env = install(tmp_path)
    with ChatUpstream(say("Hi.", times=-1)) as lab:
        text = lab_config(lab.url, "deepseek-v3.1", "glm-4.7", more=KEYS)
        with GatewayProcess(tmp_path / "gateway", config=text) as gateway:
            configure(tmp_path, lab.url, port=gateway.port, more=KEYS)
            run = run_command(tmp_path, "claude", env=env)
            assert (run.returncode, run.stderr) == (0, "")
            found = seen(tmp_path)
            assert found["env"]["ANTHROPIC_BASE_URL"] == gateway.url
            assert found["env"]["ANTHROPIC_AUTH_TOKEN"] == CLIENT_KEY
            assert found["answer"] == "Hi."
            lines = run_command(tmp_path, "claude", "--print-env", env=env)
            assert (lines.returncode, lines.stderr) == (0, "")
            assert f"export ANTHROPIC_BASE_URL='{gateway.url}'" in lines.stdout
    assert not log_file(tmp_path).exists()


def test_beside_a_gateway_with_keys_of_the_store_it_has_its_own(tmp_path: Path) -> None:
    env = {**install(tmp_path), "DRAGOMAN_DATA_DIR": str(tmp_path / "data")}
    with ChatUpstream(say("Hi.", times=-1)) as lab:
        ports = f"[metrics]\nport = {free_port()}\n[admin]\nport = {free_port()}\n"
        configure(tmp_path, lab.url, more=ports)
        made = run_command(tmp_path, "keys", "create", "ada", env=env)
        assert made.returncode == 0
        text = (tmp_path / "dragoman.toml").read_text()
        with GatewayProcess(tmp_path / "gateway", config=text, env=env) as gateway:
            configure(tmp_path, lab.url, port=gateway.port, more=ports)
            run = run_command(tmp_path, "claude", env=env)
            assert (run.returncode, run.stderr) == (0, "")
            lines = run_command(tmp_path, "claude", "--print-env", env=env)
    found = seen(tmp_path)
    assert found["env"]["ANTHROPIC_BASE_URL"] != gateway.url
    assert (found["answer"], found["others"]) == ("Hi.", [401, 401])
    assert found["env"]["ANTHROPIC_AUTH_TOKEN"].encode() not in stored(tmp_path / "data")
    assert lines.returncode == 0
    assert lines.stderr.startswith("dragoman: keys of the store are not shown: put one into ")


def stored(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_without_models_of_its_own_it_takes_those_of_the_running_one(tmp_path: Path) -> None:
    env = install(tmp_path)
    with ChatUpstream(say("Hi.", times=-1)) as lab:
        text = lab_config(lab.url, "deepseek-v3.1", "glm-4.7")
        with GatewayProcess(tmp_path / "gateway", config=text) as gateway:
            env["DRAGOMAN_PORT"] = str(gateway.port)
            run = run_command(tmp_path, "claude", env=env)
            assert (run.returncode, run.stderr) == (0, "")
            assert seen(tmp_path)["env"]["ANTHROPIC_MODEL"] == "deepseek-v3.1"
            assert seen(tmp_path)["env"]["ANTHROPIC_AUTH_TOKEN"] == "local"


def test_settings_that_lead_elsewhere_are_overridden_for_the_run(tmp_path: Path) -> None:
    env = install(tmp_path)
    own = tmp_path / "home" / ".claude" / "settings.json"
    own.parent.mkdir(parents=True)
    text = json.dumps({"env": {"ANTHROPIC_BASE_URL": "https://elsewhere.example"}})
    own.write_text(text)
    with ChatUpstream(say("Hi.", times=-1)) as lab:
        configure(tmp_path, lab.url, port=free_port())
        run = run_command(tmp_path, "claude", "--", "-p", "x", env=env)
        assert (run.returncode, run.stderr) == (0, "")
        option, path, *rest = seen(tmp_path)["args"]
        assert (option, rest) == ("--settings", ["-p", "x"])
        assert not Path(path).exists()
        run = run_command(tmp_path, "claude", "--print-env", env=env)
        assert run.stderr.endswith(
            f"dragoman: {own} sets ANTHROPIC_BASE_URL, which stands above the lines\n"
        )
    assert own.read_text() == text


STRANGERS = {
    "another program": {"/v1/models": (200, {}, {"data": [{"id": "deepseek-v3.1"}]})},
    "one of ours that refuses our key": {
        "/api/hello": (200, {"x-dragoman-version": __version__}, {}),
        "/v1/models": (401, {"x-dragoman-version": __version__}, {}),
    },
    "one of ours with other models": {
        "/api/hello": (200, {"x-dragoman-version": __version__}, {}),
        "/v1/models": (200, {"x-dragoman-version": __version__}, {"data": [{"id": "other"}]}),
    },
}


@pytest.mark.parametrize("replies", STRANGERS.values(), ids=STRANGERS)
def test_what_cannot_be_used_is_left_alone(tmp_path: Path, replies: dict[str, Any]) -> None:
    env = install(tmp_path)
    with ChatUpstream(say("Hi.", times=-1)) as lab, TinyServer(replies) as stranger:
        configure(tmp_path, lab.url, port=stranger.port, more=KEYS)
        run = run_command(tmp_path, "claude", env=env)
        assert (run.returncode, run.stderr) == (0, "")
        assert seen(tmp_path)["env"]["ANTHROPIC_BASE_URL"] != stranger.url
        if "/api/hello" not in replies:
            assert CLIENT_KEY not in str(stranger.requests)


def test_a_gateway_at_a_url(tmp_path: Path) -> None:
    env = {**install(tmp_path), "TEAM_KEY": CLIENT_KEY}
    with ChatUpstream(say("Hi.", times=-1)) as lab:
        text = lab_config(lab.url, "deepseek-v3.1", "glm-4.7", more=KEYS)
        with GatewayProcess(tmp_path / "gateway", config=text) as gateway:
            args = ("claude", "--url", f"{gateway.url}/v1/", "--key", "env:TEAM_KEY")
            run = run_command(tmp_path, *args, "--model", "glm-4.7", env=env)
            assert (run.returncode, run.stderr) == (0, "")
            found = seen(tmp_path)["env"]
            assert found["ANTHROPIC_BASE_URL"] == gateway.url
            assert found["ANTHROPIC_MODEL"] == found["ANTHROPIC_SMALL_FAST_MODEL"] == "glm-4.7"
            assert found["CLAUDE_CODE_MAX_CONTEXT_TOKENS"] == str(window_of(gateway, "glm-4.7"))
            run = run_command(tmp_path, *args, "--model", "glm-4.6", env=env)
            assert (run.returncode, run.stderr) == (
                2,
                'dragoman: --model: no model "glm-4.6"; did you mean "glm-4.7"?\n',
            )
            run = run_command(tmp_path, "claude", "--url", gateway.url, "--key", "wrong", env=env)
            assert run.returncode == 2
            assert "the gateway refuses this key" in run.stderr


def window_of(gateway: GatewayProcess, model: str) -> int:
    answer = gateway.request("GET", f"/v1/models/{model}", headers={"x-api-key": CLIENT_KEY})
    window: int = answer.json()["max_input_tokens"]
    return window


def test_a_url_where_no_gateway_is(tmp_path: Path) -> None:
    env = install(tmp_path)
    cases = [(f"http://127.0.0.1:{free_port()}", 1, "no gateway answers there")]
    cases += [("ftp://h", 2, "--url: must begin with http://"), ("http://", 2, "--url: not a URL")]
    with TinyServer({"/v1/models": (200, {}, b"<html>")}) as page:
        cases += [(page.url, 1, "it lists no models"), (f"{page.url}/x", 1, "it answered 404")]
        for url, code, reason in cases:
            run = run_command(tmp_path, "claude", "--url", url, env=env)
            assert run.returncode == code
            assert reason in run.stderr
            assert run.stderr.count("\n") == 1
    assert not (tmp_path / "seen.json").exists()


def test_what_is_missing_is_one_line(tmp_path: Path) -> None:
    run = run_command(tmp_path, "claude", env={"PATH": str(tmp_path)})
    assert (run.returncode, run.stdout) == (127, "")
    assert run.stderr == (
        "dragoman: claude was not found; install Claude Code: "
        "npm install -g @anthropic-ai/claude-code\n"
    )
    env = {**install(tmp_path), "DRAGOMAN_PORT": str(free_port())}
    run = run_command(tmp_path, "claude", env=env)
    assert run.returncode == 2
    assert "nothing to serve" in run.stderr
    configure(tmp_path, "http://127.0.0.1:1/v1")
    run = run_command(tmp_path, "claude", "--model", "glm-4.6", env=env)
    assert (run.returncode, run.stderr) == (
        2,
        'dragoman: --model: no model "glm-4.6"; did you mean "glm-4.7"?\n',
    )
    assert not (tmp_path / "seen.json").exists()


def test_the_lines_for_a_shell(tmp_path: Path) -> None:
    port = free_port()
    configure(tmp_path, "http://127.0.0.1:1/v1", port=port, more=KEYS)
    env = {"ANTHROPIC_API_KEY": "sk-ant-of-the-user"}
    run = run_command(tmp_path, "claude", "--print-env", env=env)
    assert run.returncode == 0
    assert run.stderr == (
        f"dragoman: no gateway runs at http://127.0.0.1:{port} yet; start it: dragoman serve\n"
    )
    script = f"{run.stdout}\nenv"
    shell = subprocess.run(["/bin/bash", "-c", script], env=env, capture_output=True, check=True)
    found = dict(line.split("=", 1) for line in shell.stdout.decode().splitlines())
    assert found["ANTHROPIC_BASE_URL"] == f"http://127.0.0.1:{port}"
    assert found["ANTHROPIC_AUTH_TOKEN"] == CLIENT_KEY
    assert found["ANTHROPIC_MODEL"] == "deepseek-v3.1"
    assert "ANTHROPIC_API_KEY" not in found


def test_the_lines_for_other_shells_and_the_demo(tmp_path: Path) -> None:
    env = {"DRAGOMAN_PORT": str(free_port())}
    args = ("claude", "--print-env", "--demo", "--shell")
    run = run_command(tmp_path, *args, "fish", env=env)
    assert "set -gx ANTHROPIC_AUTH_TOKEN 'local'\n" in run.stdout
    assert run.stderr.endswith("start it: dragoman serve --demo\n")
    run = run_command(tmp_path, *args, "powershell", env=env)
    assert "$Env:ANTHROPIC_MODEL = 'dragoman-demo'\n" in run.stdout


def test_no_lines_without_a_model_or_an_address(tmp_path: Path) -> None:
    env = {"DRAGOMAN_PORT": str(free_port())}
    run = run_command(tmp_path, "claude", "--print-env", env=env)
    assert (run.returncode, run.stdout) == (2, "")
    assert "nothing is configured, and no gateway runs at" in run.stderr
    configure(tmp_path, "http://127.0.0.1:1/v1", port=0)
    run = run_command(tmp_path, "claude", "--print-env")
    assert (run.returncode, run.stdout) == (2, "")
    assert "give --url" in run.stderr


@pytest.mark.engine
def test_the_demo(tmp_path: Path) -> None:
    env = install(tmp_path)
    run = run_command(tmp_path, "claude", "--demo", env=env)
    assert (run.returncode, run.stderr) == (0, "")
    found = seen(tmp_path)
    assert "Hello" in found["answer"]
    assert found["env"]["ANTHROPIC_MODEL"] == "dragoman-demo"


# Counts interrupts until it is told to end; in the foreground of a terminal.
COUNTING = f"""#!{sys.executable}
import signal, sys, time
seen = []
signal.signal(signal.SIGINT, lambda *_: (seen.append(1), print("interrupted", flush=True)))
signal.signal(signal.SIGTERM, lambda *_: sys.exit(40 + len(seen)))
print("ready", sys.stdin.isatty(), flush=True)
while True:
    time.sleep(0.02)
"""
# Becomes the leader of a session with the terminal, as a login shell does.
ON_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, "-m", "dragoman", "claude"])
"""


class Terminal:
    """A program on a terminal of its own."""

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        self._fd, other = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", ON_TERMINAL],
            cwd=folder,
            env=program_environment(folder / "home", **env),
            stdin=other,
            stdout=other,
            stderr=other,
            start_new_session=True,
        )
        os.close(other)
        self.text = ""

    def wait_for(self, text: str) -> None:
        deadline_s = time.monotonic() + _TIMEOUT_S
        while text not in self.text:
            assert time.monotonic() < deadline_s, self.text
            if select.select([self._fd], [], [], 0.2)[0]:
                self.text += os.read(self._fd, 4096).decode()

    def press(self, keys: bytes) -> None:
        os.write(self._fd, keys)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._fd)


def test_ctrl_c_belongs_to_claude(tmp_path: Path) -> None:
    env = install(tmp_path, COUNTING)
    configure(tmp_path, "http://127.0.0.1:1/v1", port=free_port())
    terminal = Terminal(tmp_path, env)
    try:
        terminal.wait_for("ready True")
        terminal.press(b"\x03")
        terminal.wait_for("interrupted")
        assert terminal.process.poll() is None
        terminal.process.send_signal(signal.SIGTERM)
        assert terminal.process.wait(_TIMEOUT_S) == 41, "one interrupt, not two"
    finally:
        terminal.close()


def test_without_a_terminal_an_interrupt_is_passed_on(tmp_path: Path) -> None:
    env = install(tmp_path, COUNTING)
    configure(tmp_path, "http://127.0.0.1:1/v1", port=free_port())
    process = subprocess.Popen(
        [sys.executable, "-m", "dragoman", "claude"],
        cwd=tmp_path,
        env=program_environment(tmp_path / "home", **env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        start_new_session=True,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready False\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "interrupted\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(_TIMEOUT_S) == 41
