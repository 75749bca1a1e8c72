"""The process: where its settings come from, what it prints, how it starts, stops and fails."""

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from dragoman.engine import Engine, demo_model
from dragoman.exit_codes import CommandFailed
from dragoman.policy.routes import Routes
from dragoman.serve import complete_config, log_format
from dragoman.settings import Config, ModelConfig, RolesConfig, ServerConfig, UpstreamConfig
from dragoman.tables import ConfigError
from support.chat_script import say
from support.chat_upstream import ChatUpstream
from support.command import run_command
from support.gateway import GatewayProcess, lab_config, program_environment
from support.hub_mirror import HubMirror
from support.processes import is_alive
from support.servers import free_port

_URL = re.compile(r"http://127\.0\.0\.1:(\d+)")
_TIMEOUT_S = 30
HELLO = {
    "model": "claude-sonnet-5",
    "max_tokens": 50,
    "messages": [{"role": "user", "content": "Hello"}],
}


class Started:
    """`dragoman serve`, as soon as it says where it listens; a context manager that ends it."""

    def __init__(self, folder: Path, *args: str, env: dict[str, str] | None = None) -> None:
        self._out, self._err = folder / "out.txt", folder / "err.txt"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "dragoman", "serve", *args],
                cwd=folder,
                env=program_environment(folder / "home", **(env or {})),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        until(lambda: _URL.search(self.out) is not None or self.process.poll() is not None)
        assert self.process.poll() is None, self.err
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    @property
    def out(self) -> str:
        return self._out.read_text()

    @property
    def err(self) -> str:
        return self._err.read_text()

    @property
    def port(self) -> int:
        found = _URL.search(self.out)
        assert found is not None
        return int(found[1])

    def events(self, name: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.err.splitlines()]
        return [line for line in lines if line["event"] == name]

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(_TIMEOUT_S)


def until(holds: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + _TIMEOUT_S
    while not holds():
        assert time.monotonic() < deadline_s, "it never came to that"
        time.sleep(0.02)


def ask(port: int, method: str, path: str, body: object = None) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_S)
    with contextlib.closing(connection):
        data = None if body is None else json.dumps(body)
        connection.request(method, path, data, {"content-type": "application/json"})
        response = connection.getresponse()
        return response.status, json.loads(response.read())


@contextlib.contextmanager
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def lab_file(folder: Path, url: str, *, more: str = "") -> None:
    (folder / "dragoman.toml").write_text(lab_config(url, "deepseek-v3.1", more=more))


def test_serves_the_file_of_the_folder_until_it_is_told_to_stop(tmp_path: Path) -> None:
    with ChatUpstream(say("Hi there.", times=-1)) as lab:
        lab_file(tmp_path, lab.url)
        with Started(tmp_path, "--port", "0") as gateway:
            status, message = ask(gateway.port, "POST", "/v1/messages", HELLO)
            assert (status, message["content"][0]["text"]) == (200, "Hi there.")
            assert gateway.stop() == 0
            assert "deepseek-v3.1" in gateway.out
            assert "export ANTHROPIC_AUTH_TOKEN=local" in gateway.out
            assert f"dragoman claude --url http://127.0.0.1:{gateway.port}\n" in gateway.out
            assert "\x1b" not in gateway.out
            assert "lab-secret" not in gateway.out + gateway.err
            assert [event["status"] for event in gateway.events("request")] == [200]


def test_flags_beat_the_environment_which_beats_the_file(tmp_path: Path) -> None:
    with taken_port() as one, taken_port() as two, taken_port() as three:
        text = lab_config("http://127.0.0.1:1/v1", "m").replace(
            "[server]", f"[server]\nport = {one}"
        )
        (tmp_path / "dragoman.toml").write_text(text)
        env = {"DRAGOMAN_PORT": str(two)}
        for used, args, more in (
            (one, [], {}),
            (two, [], env),
            (three, ["--port", str(three)], env),
        ):
            run = run_command(tmp_path, "serve", *args, env=more)
            assert run.returncode == 3
            assert run.stderr == (
                f"dragoman: cannot listen on 127.0.0.1:{used}: something listens there already; "
                f"choose another with --port\n"
            )
            assert run.stdout == ""


def test_the_users_own_folder_and_a_named_file(tmp_path: Path) -> None:
    own = tmp_path / "home" / ".config" / "dragoman"
    own.mkdir(parents=True)
    (own / "config.toml").write_text("[server]\nown = 1\n")
    assert "config.toml: server.own: unknown key" in run_command(tmp_path, "serve").stderr
    (tmp_path / "named.toml").write_text("[server]\nnamed = 1\n")
    env = {"DRAGOMAN_CONFIG": "named.toml"}
    assert "named.toml: server.named: unknown" in run_command(tmp_path, "serve", env=env).stderr


def test_nothing_to_serve_names_the_choices(tmp_path: Path) -> None:
    run = run_command(tmp_path, "serve", "--port", "0")
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr.count("\n") == 1
    for choice in ("--demo", "--local", "DEEPSEEK_API_KEY", "dragoman.toml"):
        assert choice in run.stderr
    (tmp_path / "dragoman.toml").write_text('[upstreams.a]\nbase_url = "http://h/v1"\n')
    run = run_command(tmp_path, "serve", "--port", "0")
    assert (run.returncode, run.stderr) == (
        2,
        "dragoman: dragoman.toml: no model; add [models.NAME] with upstream = ...\n",
    )
    asked = f'[upstreams.a]\nbase_url = "http://127.0.0.1:{free_port()}/v1"\ndiscover = true\n'
    (tmp_path / "dragoman.toml").write_text(asked)
    run = run_command(tmp_path, "serve", "--port", "0")
    assert (run.returncode, run.stderr) == (
        2,
        "dragoman: dragoman.toml: no model: no engine of upstreams.a says what it serves; "
        "start one first, or add [models.NAME]\n",
    )


FAILING = {
    "no address of ours": ("192.0.2.1", "not an address of this machine"),
    "no such host": ("nowhere.invalid", "no such host"),
}


@pytest.mark.parametrize(("host", "reason"), FAILING.values(), ids=FAILING)
def test_where_it_cannot_listen(tmp_path: Path, host: str, reason: str) -> None:
    lab_file(tmp_path, "http://127.0.0.1:1/v1")
    env = {"DRAGOMAN_KEY": "a-key-that-is-long-enough"}
    run = run_command(tmp_path, "serve", "--port", "0", "--host", host, env=env)
    assert run.returncode == 3
    assert run.stderr == f"dragoman: cannot listen on {host}:0: {reason}\n"


def test_a_data_folder_that_cannot_be_used(tmp_path: Path) -> None:
    lab_file(tmp_path, "http://127.0.0.1:1/v1")
    env = {"DRAGOMAN_DATA_DIR": "/dev/null/data"}
    run = run_command(tmp_path, "serve", "--port", "0", env=env)
    assert run.returncode == 3
    assert "server.data_dir: /dev/null/data" in run.stderr
    assert run.stderr.count("\n") == 1


def test_a_vendor_of_the_environment_is_named(tmp_path: Path) -> None:
    env = {"DEEPSEEK_API_KEY": "sk-very-secret"}
    with Started(tmp_path, "--port", "0", env=env) as gateway:
        until(lambda: "deepseek (DEEPSEEK_API_KEY is set)" in gateway.out)
        assert ask(gateway.port, "GET", "/v1/models")[1]["data"][0]["id"] == "deepseek-v4-pro"
        assert gateway.stop(signal.SIGINT) == 0
        assert "sk-very-secret" not in gateway.out + gateway.err


def test_a_log_in_json_leaves_one_line_for_programs(tmp_path: Path) -> None:
    lab_file(tmp_path, "http://127.0.0.1:1/v1", more='[upstreams.idle]\nbase_url = "http://h/v1"\n')
    with Started(tmp_path, "--port", "0", "--log-format", "json") as gateway:
        until(lambda: bool(gateway.events("warning")))
        assert gateway.stop() == 0
        assert gateway.out.count("\n") == 1
        (listening,) = gateway.events("listening")
        assert listening["url"] == f"http://127.0.0.1:{gateway.port}"
        (warning,) = gateway.events("warning")
        assert "upstreams.idle" in warning["text"]
        assert [len(gateway.events(name)) for name in ("stopping", "stopped")] == [1, 1]


def test_a_log_for_people(tmp_path: Path) -> None:
    lab_file(tmp_path, "http://127.0.0.1:1/v1")
    with Started(tmp_path, "--port", "0", "--log-format", "human") as gateway:
        ask(gateway.port, "GET", "/v1/models")
        assert gateway.stop() == 0
        assert re.search(
            r"^\d\d:\d\d:\d\d request .*path=/v1/models status=200", gateway.err, re.MULTILINE
        )


def test_the_log_is_for_people_where_one_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    for is_terminal, expected in ((True, "human"), (False, "json")):
        monkeypatch.setattr("sys.stderr.isatty", lambda answer=is_terminal: answer)
        assert log_format(ServerConfig()) == expected
        assert log_format(ServerConfig(log_format="json")) == "json"


@contextlib.contextmanager
def streaming(port: int) -> Iterator[http.client.HTTPResponse]:
    """Ask for a stream, and read its first line."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_S)
    with contextlib.closing(connection):
        body = json.dumps({**HELLO, "stream": True})
        connection.request("POST", "/v1/messages", body, {"content-type": "application/json"})
        response = connection.getresponse()
        assert response.readline() == b"event: message_start\n"
        yield response


def is_refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return True
    return False


def test_a_stream_may_end_after_the_signal(tmp_path: Path) -> None:
    with ChatUpstream(say("one two three four", chunk_chars=4, delay_s=0.3)) as lab:
        lab_file(tmp_path, lab.url)
        with Started(tmp_path, "--port", "0") as gateway, streaming(gateway.port) as response:
            gateway.process.send_signal(signal.SIGTERM)
            until(lambda: is_refused(gateway.port))
            rest = response.read()
            assert rest.rstrip().endswith(b'data: {"type":"message_stop"}')
            assert gateway.process.wait(_TIMEOUT_S) == 0


def test_a_second_signal_cuts_at_once(tmp_path: Path) -> None:
    with ChatUpstream(say("one two", silent_after=2)) as lab:
        lab_file(tmp_path, lab.url)
        with Started(tmp_path, "--port", "0") as gateway, streaming(gateway.port):
            gateway.process.send_signal(signal.SIGTERM)
            until(lambda: bool(gateway.events("stopping")))
            assert gateway.process.poll() is None
            started_s = time.monotonic()
            assert gateway.stop(signal.SIGINT) == 0
            assert time.monotonic() - started_s < 15  # the grace is 30 s
        assert lab.requests[0].wait_gone(_TIMEOUT_S)


def test_signals_that_come_when_all_is_over_change_nothing(tmp_path: Path) -> None:
    lab_file(tmp_path, "http://127.0.0.1:1/v1")
    with Started(tmp_path, "--port", "0") as gateway:
        gateway.process.send_signal(signal.SIGTERM)
        until(lambda: bool(gateway.events("stopped")))
        for number in (signal.SIGTERM, signal.SIGINT):
            gateway.process.send_signal(number)
        assert gateway.process.wait(_TIMEOUT_S) == 0


def test_the_grace_is_bounded(tmp_path: Path) -> None:
    with ChatUpstream(say("one two", silent_after=2)) as lab:
        lab_file(tmp_path, lab.url)
        env = {"DRAGOMAN_SERVER_SHUTDOWN_TIMEOUT_S": "0.2"}
        with Started(tmp_path, "--port", "0", env=env) as gateway, streaming(gateway.port):
            assert gateway.stop() == 0


def test_a_reader_of_the_banner_may_leave(tmp_path: Path) -> None:
    lab_file(tmp_path, "http://127.0.0.1:1/v1")
    reading, writing = os.pipe()
    os.close(reading)
    with (tmp_path / "err.txt").open("wb") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", "dragoman", "serve", "--port", "0"],
            cwd=tmp_path,
            env=program_environment(tmp_path / "home"),
            stdout=writing,
            stderr=err,
        )
    os.close(writing)
    try:
        until(lambda: "listening" in (tmp_path / "err.txt").read_text())
        url = json.loads((tmp_path / "err.txt").read_text().splitlines()[0])["url"]
        assert ask(int(url.rsplit(":", 1)[1]), "GET", "/v1/models")[0] == 200
        process.terminate()
        assert process.wait(_TIMEOUT_S) == 0
    finally:
        process.kill()
        process.wait()


def engine() -> Engine:
    return Engine(demo_model())


PAID = Config(
    upstreams={"paid": UpstreamConfig(base_url="http://127.0.0.1:1/v1")},
    models={"big": ModelConfig(upstream=("paid",))},
    preset_roles=RolesConfig(default="big"),
)


def test_what_a_flag_asks_for_leads_and_falls_through_to_nobody() -> None:
    config = complete_config(PAID, engine(), ())
    routes = Routes(config)
    assert routes.aliases[0] == "dragoman-demo"
    for name in ("claude-opus-5", "haiku", "claude-anything"):
        route = routes.resolve(name)
        assert [target.deployment.upstream for target in route.targets] == ["engine"]
    assert routes.resolve("big").targets[0].deployment.upstream == "paid"
    assert routes.resolve("dragoman-demo").profile.context_window == demo_model().context_size


def test_the_engines_name_is_not_taken_from_anyone() -> None:
    taken = Config(upstreams={"engine": UpstreamConfig(base_url="http://127.0.0.1:1/v1")})
    with pytest.raises(ConfigError, match=r"upstreams\.engine: the embedded engine has this name"):
        complete_config(taken, engine(), ())
    with pytest.raises(CommandFailed, match="nothing to serve"):
        complete_config(Config(), None, ())


@pytest.mark.engine
def test_the_demo_answers_every_claude_name_and_nobody_else_is_asked(tmp_path: Path) -> None:
    with ChatUpstream() as paid:
        text = lab_config(paid.url, "paid-model").partition("[roles]")[0]
        with GatewayProcess(
            tmp_path, config=text, args=("--demo",), env={"DEEPSEEK_API_KEY": "sk-x"}
        ) as gateway:
            models = gateway.request("GET", "/v1/models").json()["data"]
            assert models[0]["id"] == "dragoman-demo"
            assert models[0]["max_input_tokens"] == demo_model().context_size
            answer = gateway.request("POST", "/v1/messages", HELLO).json()
            assert "Hello" in answer["content"][-1]["text"]
            assert "toy model" in gateway.log()
            assert "claude-*   dragoman-demo" in gateway.log()
        assert paid.requests == []


@pytest.mark.engine
def test_an_engine_that_dies_comes_back(tmp_path: Path) -> None:
    with Started(tmp_path, "--demo", "--port", "0") as gateway:
        (child,) = children(gateway.process.pid)
        os.kill(child, signal.SIGKILL)
        until(lambda: any(e["state"] == "restarting" for e in gateway.events("engine")))
        until(lambda: ask(gateway.port, "GET", "/readyz")[0] == 200)
        states = [e["state"] for e in gateway.events("engine")]
        # On a busy machine the first start is slow, which the log says, too.
        assert [state for state in states if state != "starting"] == ["restarting", "ready"]
        assert ask(gateway.port, "POST", "/v1/messages", HELLO)[0] == 200
        assert gateway.stop() == 0


@pytest.mark.engine
def test_the_engine_never_outlives_the_gateway(tmp_path: Path) -> None:
    with Started(tmp_path, "--demo", "--port", "0") as gateway:
        (child,) = children(gateway.process.pid)
        gateway.process.kill()
        until(lambda: not is_alive(child))


def children(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.engine
@pytest.mark.parametrize("size", [10, 100_000])
def test_a_broken_model_is_one_line(tmp_path: Path, size: int) -> None:
    (tmp_path / "broken.gguf").write_bytes(demo_model().path.read_bytes()[:size])
    run = run_command(tmp_path, "serve", "--local", "broken.gguf", "--port", "0")
    assert (run.returncode, run.stdout) == (3, "")
    # A slow machine is told that the engine is still starting.
    (line,) = [line for line in run.stderr.splitlines() if not line.startswith("{")]
    assert line.startswith("dragoman: ")
    assert "broken.gguf: " in line


def test_a_missing_model_is_one_line(tmp_path: Path) -> None:
    run = run_command(tmp_path, "serve", "--local", "./absent.gguf", "--port", "0")
    assert run.returncode == 3
    assert run.stderr.startswith("dragoman: ./absent.gguf: neither a file here nor")


def test_the_missing_extra_is_a_hint(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['xllamacpp'] = None\n")
    sources = program_environment(tmp_path / "home")["PYTHONPATH"]
    env = {"PYTHONPATH": os.pathsep.join((str(tmp_path), sources))}
    run = run_command(tmp_path, "serve", "--demo", "--port", "0", env=env)
    assert run.returncode == 3
    assert run.stderr == (
        "dragoman: the embedded engine is missing: pip install 'dragoman[local]'\n"
    )


@pytest.mark.engine
def test_a_model_of_the_hub_is_downloaded_once_and_with_consent(tmp_path: Path) -> None:
    repo, file = "someone/Tiny-GGUF", "tiny-chat-f16.gguf"
    args = ("--local", f"{repo}:{file}", "--port", "0")
    cache = {"HF_HUB_CACHE": str(tmp_path / "hub")}
    with HubMirror(repo, {file: demo_model().path.read_bytes()}) as mirror:
        online = {**cache, "HF_ENDPOINT": mirror.url}
        run = run_command(tmp_path, "serve", *args, env=online)
        assert run.returncode == 3
        assert run.stderr.startswith(f"dragoman: {repo}: 1.9 MB, licence cc0-1.0")
        assert run.stderr.endswith("; add --yes to download it\n")
        assert not any("/resolve/" in path for _, path, _ in mirror.requests)
        with Started(tmp_path, *args, "--yes", env=online) as gateway:
            assert "licence cc0-1.0" in gateway.err
            assert gateway.stop() == 0
    offline = {**cache, "HF_ENDPOINT": "http://127.0.0.1:9"}
    with Started(tmp_path, *args, env=offline) as gateway:
        until(lambda: "models     tiny-chat-f16" in gateway.out)
        assert ask(gateway.port, "POST", "/v1/messages", HELLO)[0] == 200
        assert gateway.stop() == 0


@pytest.mark.engine
def test_told_to_stop_while_it_starts(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        gateway = Started(tmp_path, "--demo", "--port", "0")
        stack.callback(gateway.process.wait)
        stack.callback(gateway.process.kill)
        until(lambda: bool(children(gateway.process.pid)))  # the engine is being started
        (child,) = children(gateway.process.pid)
        assert gateway.stop() == 0
        assert not is_alive(child)
