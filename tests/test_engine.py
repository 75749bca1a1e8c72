import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import pytest

from dragoman import engine as engine_module
from dragoman.engine import Engine, EngineError, EngineLimits, EngineModel, demo_model
from support.processes import is_alive

pytestmark = pytest.mark.engine

QUICK = EngineLimits(start_timeout_s=15, stop_timeout_s=20, first_pause_s=0.05, max_pause_s=0.2)
SOURCES = Path(engine_module.__file__).parents[1]


@asynccontextmanager
async def running(model: EngineModel | None = None, limits: EngineLimits = QUICK):
    engine = Engine(model or demo_model(), limits=limits)
    try:
        await engine.start()
        yield engine
    finally:
        await engine.stop()


def call(engine: Engine, path: str, body: dict | None = None, *, key: str | None = None):
    request = urllib.request.Request(
        engine.base_url + path,
        None if body is None else json.dumps(body).encode(),
        {"authorization": f"Bearer {key or engine.api_key}", "content-type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


async def until(holds: Callable[[], bool], timeout_s: float = 10) -> None:
    async with asyncio.timeout(timeout_s):
        while not holds():  # noqa: ASYNC110 - no event of the child's to wait for
            await asyncio.sleep(0.02)


def proc(engine: Engine, name: str) -> bytes:
    return Path(f"/proc/{engine.pid}/{name}").read_bytes()


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(19):
            await test()

    asyncio.run(bounded())


HELLO = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 40}


def test_serves_the_demo_model_and_ends_its_child() -> None:
    async def test() -> None:
        states: list[str] = []
        engine = Engine(demo_model(), limits=QUICK)
        engine.on_change(states.append)
        await engine.start()
        pid = engine.pid
        assert engine.ready
        status, reply = await asyncio.to_thread(call, engine, "/chat/completions", HELLO)
        assert status == 200
        assert reply["model"] == "dragoman-demo"
        assert reply["choices"][0]["message"]["reasoning_content"]
        assert "Hello" in reply["choices"][0]["message"]["content"]
        await engine.stop()
        assert not is_alive(pid)
        assert states == ["starting", "ready", "stopped"]

    run(test)


def test_other_programs_are_refused_and_do_not_see_the_key() -> None:
    async def test() -> None:
        async with running() as engine:
            status, _ = await asyncio.to_thread(
                call, engine, "/chat/completions", HELLO, key="guess"
            )
            assert status == 401
            assert engine.api_key.encode() not in proc(engine, "cmdline")
            assert engine.api_key.encode() not in proc(engine, "environ")

    run(test)


def test_the_child_gets_no_vendor_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPSEEK_API_KEY", "sk-secret")

    async def test() -> None:
        async with running() as engine:
            assert b"sk-secret" not in proc(engine, "environ")

    run(test)


def test_each_of_four_slots_has_the_whole_window() -> None:
    async def test() -> None:
        async with running() as engine:
            status, models = await asyncio.to_thread(call, engine, "/models")
            assert status == 200
            assert models["data"][0]["meta"]["n_ctx"] == 32_768
            long = {**HELLO, "messages": [{"role": "user", "content": "hello world " * 9000}]}
            status, error = await asyncio.to_thread(call, engine, "/chat/completions", long)
            assert (status, error["error"]["type"]) == (400, "exceed_context_size_error")
            assert error["error"]["n_ctx"] == 32_768

    run(test)


def test_template_arguments_reach_every_request() -> None:
    quiet = msgspec.structs.replace(demo_model(), template_arguments={"enable_thinking": False})

    async def test() -> None:
        async with running(quiet) as engine:
            _, reply = await asyncio.to_thread(call, engine, "/chat/completions", HELLO)
            assert "reasoning_content" not in reply["choices"][0]["message"]

    run(test)


def test_counting_is_exact() -> None:
    async def test() -> None:
        async with running() as engine:
            path = "/chat/completions"
            _, count = await asyncio.to_thread(call, engine, f"{path}/input_tokens", HELLO)
            _, reply = await asyncio.to_thread(call, engine, path, HELLO)
            assert count["input_tokens"] == reply["usage"]["prompt_tokens"]

    run(test)


def test_comes_back_on_the_same_port_when_it_is_killed() -> None:
    async def test() -> None:
        states: list[str] = []
        async with running() as engine:
            engine.on_change(states.append)
            base_url, first = engine.base_url, engine.pid
            os.kill(first, signal.SIGKILL)
            await until(lambda: "restarting" in states)
            assert not engine.ready or engine.pid != first
            await until(lambda: engine.ready)
            assert (engine.base_url, engine.n_restarts) == (base_url, 1)
            assert engine.pid != first
            status, _ = await asyncio.to_thread(call, engine, "/chat/completions", HELLO)
            assert status == 200

    run(test)


def test_gives_up_after_a_bounded_number_of_restarts(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(demo_model().path.read_bytes())
    model = msgspec.structs.replace(demo_model(), path=file)
    limits = msgspec.structs.replace(QUICK, max_restarts=2)

    async def test() -> None:
        async with running(model, limits) as engine:
            file.write_bytes(b"GGUF and nothing else")
            os.kill(engine.pid, signal.SIGKILL)
            await until(lambda: engine.state == "failed")
            assert engine.n_restarts == 2
            assert str(file) in engine.reason
            assert not engine.pid

    run(test)


def test_stop_during_a_restart_leaves_nothing() -> None:
    async def test() -> None:
        limits = msgspec.structs.replace(QUICK, first_pause_s=30, max_pause_s=30)
        async with running(limits=limits) as engine:
            os.kill(engine.pid, signal.SIGKILL)
            await until(lambda: engine.state == "restarting")
            await engine.stop()
            assert (engine.state, engine.pid) == ("stopped", 0)

    run(test)


def truncated(folder: Path) -> Path:
    (folder / "cut.gguf").write_bytes(demo_model().path.read_bytes()[:1_000_000])
    return folder / "cut.gguf"


def garbage(folder: Path) -> Path:
    (folder / "noise.gguf").write_bytes(b"GGUF" + bytes(range(256)) * 50)
    return folder / "noise.gguf"


def not_gguf(folder: Path) -> Path:
    (folder / "notes.txt").write_text("hello")
    return folder / "notes.txt"


BROKEN = {
    "truncated": (truncated, "not a usable model"),
    "garbage": (garbage, "not a usable model"),
    "another format": (not_gguf, "not a GGUF file"),
    "missing": (lambda folder: folder / "none.gguf", "no such model file"),
    "folder": (lambda folder: folder, "cannot be read"),
}


@pytest.mark.parametrize(("make", "reason"), BROKEN.values(), ids=BROKEN)
def test_a_broken_model_is_one_clear_line(
    tmp_path: Path, make: Callable[[Path], Path], reason: str
) -> None:
    path = make(tmp_path)

    async def test() -> None:
        engine = Engine(EngineModel(path=path, alias="broken"), limits=QUICK)
        with pytest.raises(EngineError) as caught:
            await engine.start()
        assert str(caught.value).startswith(f"{path}: ")
        assert reason in str(caught.value)
        assert "\n" not in str(caught.value)
        assert not engine.pid
        assert not engine.ready
        await engine.stop()

    run(test)


def test_a_silent_child_is_ended_in_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    child = tmp_path / "child.py"
    child.write_text(
        f"import os, pathlib, time\npathlib.Path({str(pid_file)!r}).write_text(str(os.getpid()))\n"
        "time.sleep(60)\n"
    )
    monkeypatch.setattr(engine_module, "_CHILD", child)
    limits = msgspec.structs.replace(QUICK, start_timeout_s=1.5, stop_timeout_s=0.2)

    async def test() -> None:
        engine = Engine(demo_model(), limits=limits)
        with pytest.raises(EngineError, match=r"did not answer within 1\.5 s"):
            await engine.start()
        assert engine.state == "failed"

    run(test)
    assert not is_alive(int(pid_file.read_text()))


def test_a_missing_extra_is_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "is_engine_installed", lambda: False)

    async def test() -> None:
        with pytest.raises(EngineError, match=r"pip install 'dragoman\[local\]'"):
            await Engine(demo_model()).start()

    run(test)


def test_a_port_taken_by_another_program_is_said() -> None:
    async def test() -> None:
        engine = Engine(demo_model(), limits=QUICK)
        taken = socket.create_server(("127.0.0.1", urlsplit(engine.base_url).port))
        with taken, pytest.raises(EngineError, match="bind"):
            await engine.start()

    run(test)


def test_stops_in_time_while_it_streams() -> None:
    body = {**HELLO, "max_tokens": 30_000, "ignore_eos": True, "stream": True}

    async def test() -> None:
        async with running() as engine:
            request = urllib.request.Request(
                f"{engine.base_url}/chat/completions",
                json.dumps(body).encode(),
                {"authorization": f"Bearer {engine.api_key}"},
            )
            with await asyncio.to_thread(urllib.request.urlopen, request, timeout=10) as reply:
                await asyncio.to_thread(reply.read, 1000)
                pid = engine.pid
                process = engine._process
                await engine.stop()
            assert not is_alive(pid)
            assert process is not None
            assert process.returncode == 0, "it had to be killed"

    run(test)


PARENT = """
import asyncio, sys
from dragoman.engine import Engine, demo_model

async def main():
    engine = Engine(demo_model())
    await engine.start()
    print(engine.pid, flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_never_outlives_the_gateway(number: signal.Signals) -> None:
    env = {**os.environ, "PYTHONPATH": str(SOURCES)}
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True, env=env
    )
    try:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert is_alive(pid)
        parent.send_signal(number)
        parent.wait(10)
        deadline = time.monotonic() + 8
        while is_alive(pid) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not is_alive(pid)
    finally:
        parent.kill()
        parent.wait()
        parent.stdout.close()


def test_without_the_kernels_help_the_end_of_its_input_is_its_end(tmp_path: Path) -> None:
    """What holds elsewhere than on Linux: no death signal, only the closed pipe."""
    settings = {"model.path": str(demo_model().path), "port": 0, "verbosity": 1}
    child = subprocess.Popen(
        [sys.executable, "-P", str(engine_module._CHILD), str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(json.dumps(settings).encode() + b"\n")
        child.stdin.flush()
        assert b"address" in child.stdout.readline()
        child.stdin.close()
        assert child.wait(8) == 0
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
