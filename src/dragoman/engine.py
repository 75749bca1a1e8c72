"""
The embedded engine: llama.cpp's server in a supervised child process, behind an ordinary upstream.

What it does with requests was measured with xllamacpp 2026.10.11549 on 2026-11-24:

- A cancelled stream frees its slot within 0.1 s, also while the prompt is read. A cancelled whole
  request runs to its end: always stream from it.
- ``tool_choice`` named or ``required`` binds nothing. Tools with ``tool_choice: "none"`` and a
  ``response_format`` of ``json_schema`` whose tool name is a constant does, thinking or not.
- ``POST /v1/chat/completions/input_tokens`` counts a chat-completions body exactly.
- A reply never says which stop string matched.
- Sharing one window between slots lets a long neighbour end a stream with an error; the demo has a
  window for each.
"""

import asyncio
import importlib.util
import os
import secrets
import socket
import sys
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct, field

_CHILD: Final = Path(__file__).with_name("engine_child.py")
_DEMO_FILE: Final = Path(__file__).with_name("data") / "tiny-chat-f16.gguf"
_DEMO_WINDOW: Final = 32_768  # what the file declares
_GGUF_MAGIC: Final = b"GGUF"
_HTTP_THREADS: Final = 64  # each open connection holds one, also one that waits for a slot
_MAX_LINE_BYTES: Final = 2**16
_WARNINGS: Final = 2  # verbosity: errors and warnings, no line per request
# What the interpreter and the drivers of accelerators need; no vendor key.
_ENVIRONMENT: Final = frozenset(
    {"HOME", "LANG", "LD_LIBRARY_PATH", "PATH", "PYTHONPATH", "SYSTEMROOT", "TEMP", "TMP", "TMPDIR"}
)
_DRIVER_PREFIXES: Final = ("CUDA_", "GGML_", "HIP_", "HSA_", "NVIDIA_", "ROCR_", "VK_")

EngineState = Literal["stopped", "starting", "ready", "restarting", "failed"]


class EngineError(Exception):
    """The engine cannot serve. The message is one line for the user, with what to do about it."""


class EngineModel(Struct, frozen=True, kw_only=True):
    """
    What to serve.

    Attributes:
        path: The GGUF file; the first one if the model is split.
        alias: The name under which the gateway offers it.
        context_size: Tokens of the window; 0: as the file says.
        slots: Requests that run at the same time.
        has_own_windows: Each slot gets a window; otherwise all slots share one.
        template_arguments: For the chat template of every request, under the request's own.
        threads: CPU threads; 0: the engine decides.
        cache_mib: Memory for prompts of earlier requests.
        profile: Facts about it that its name does not tell (see ``DialectProfile``).
    """

    path: Path
    alias: str
    context_size: int = 0
    is_demo: bool = False
    slots: int = 4
    has_own_windows: bool = False
    template_arguments: dict[str, Any] = field(default_factory=dict)
    threads: int = 0
    cache_mib: int = 1024
    profile: dict[str, Any] = field(default_factory=dict)


class EngineLimits(Struct, frozen=True, kw_only=True):
    """How long to wait for the engine, and when to give up."""

    start_timeout_s: float = 600.0  # reading tens of gigabytes from a slow disk
    stop_timeout_s: float = 5.0
    first_pause_s: float = 0.5
    max_pause_s: float = 30.0
    max_restarts: int = 8  # in a row, without *stable_s* of service between them
    stable_s: float = 60.0
    max_log_lines: int = 50


class _Hello(Struct, frozen=True):
    """The child's one line."""

    address: str = ""
    error: str = ""


_decode_hello: Final = msgspec.json.Decoder(_Hello).decode


def demo_model() -> EngineModel:
    """Return the toy model that comes with the package."""
    return EngineModel(
        path=_DEMO_FILE,
        alias="dragoman-demo",
        context_size=_DEMO_WINDOW,
        is_demo=True,
        has_own_windows=True,
        threads=min(2, os.cpu_count() or 1),
        cache_mib=64,
        profile={"thinking": "toggle", "thinking_switch": "template_enable_thinking"},
    )


def check_model_file(path: Path) -> None:
    """
    Find out whether *path* looks like a model, without reading more than its first bytes.

    Raises:
        EngineError: It is not there, cannot be read or is no GGUF file.
    """
    try:
        with path.open("rb") as file:
            magic = file.read(len(_GGUF_MAGIC))
    except FileNotFoundError:
        raise EngineError(f"{path}: there is no such model file") from None
    except OSError as error:
        raise EngineError(f"{path}: cannot be read ({error.strerror})") from None
    if magic != _GGUF_MAGIC:
        raise EngineError(f"{path}: not a GGUF file; give the path of a .gguf model")


def is_engine_installed() -> bool:
    """Say whether the extra ``local`` is there, without loading it."""
    return importlib.util.find_spec("xllamacpp") is not None


class EngineLink(Struct, frozen=True, kw_only=True):
    """An engine that another process owns, as far as its upstream needs it; see ``Engine``."""

    model: EngineModel
    base_url: str
    api_key: str


class Engine:
    """
    One model, served on a loopback port that stays the same through restarts.

    Attributes:
        base_url: Of its chat-completions API, with ``/v1``.
        api_key: Other local programs do not know it, so they cannot use the engine.
        n_restarts: Times that it was started again.
        reason: Why the state is ``restarting`` or ``failed``; for the log.
    """

    def __init__(self, model: EngineModel, *, limits: EngineLimits | None = None) -> None:
        self.model = model
        self.api_key = secrets.token_urlsafe(32)
        self.n_restarts = 0
        self.reason = ""
        self._limits = limits or EngineLimits()
        self._port = _free_port()
        self.base_url = f"http://127.0.0.1:{self._port}/v1"
        self._state: EngineState = "stopped"
        self._callbacks: list[Callable[[EngineState], None]] = []
        self._process: asyncio.subprocess.Process | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._log_reader: asyncio.Task[None] | None = None
        # The child's last lines; after requests they may quote content, so never log them.
        self._log: deque[str] = deque(maxlen=self._limits.max_log_lines)

    @property
    def state(self) -> EngineState:
        """What the engine is doing."""
        return self._state

    @property
    def ready(self) -> bool:
        """Would a request be answered now?"""
        return self._state == "ready"

    @property
    def pid(self) -> int:
        """Of the running child; 0: there is none."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else 0

    def on_change(self, callback: Callable[[EngineState], None]) -> None:
        """Call *callback* with every new state, from the event loop."""
        self._callbacks.append(callback)

    async def start(self) -> None:
        """
        Start the child and wait until it answers.

        Raises:
            EngineError: It does not come up; a first start is not tried again.
        """
        if self._supervisor is not None:
            return
        if not is_engine_installed():
            raise EngineError("the embedded engine is missing: pip install 'dragoman[local]'")
        check_model_file(self.model.path)
        self._enter("starting")
        try:
            await self._start_child()
        except BaseException as error:
            await self._end_child()
            self.reason = str(error)
            self._enter("failed")
            raise
        self._enter("ready")
        self._supervisor = asyncio.create_task(self._supervise(), name="engine supervisor")

    async def stop(self) -> None:
        """End the child and wait until it is gone; harmless when there is none."""
        self._enter("stopped")  # first: from here on no request may come
        supervisor, self._supervisor = self._supervisor, None
        if supervisor is not None:
            supervisor.cancel()
            with suppress(asyncio.CancelledError):
                await supervisor
        await self._end_child()

    async def _supervise(self) -> None:
        loop, limits, failures = asyncio.get_running_loop(), self._limits, 0
        while True:
            started_s = loop.time()
            await self._wait_for_end()
            failures = 1 if loop.time() - started_s > limits.stable_s else failures + 1
            if failures > limits.max_restarts:
                break
            self._enter("restarting")
            await asyncio.sleep(min(limits.max_pause_s, limits.first_pause_s * 2 ** (failures - 1)))
            await self._restart()
        self._enter("failed")

    async def _wait_for_end(self) -> None:
        if self._process is not None:
            code = await self._process.wait()
            self.reason = f"the engine ended with code {code}"
        await self._end_child()

    async def _restart(self) -> None:
        self.n_restarts += 1
        try:
            await self._start_child()
        except EngineError as error:
            self.reason = str(error)
            await self._end_child()
            return
        self.reason = ""
        self._enter("ready")

    async def _start_child(self) -> None:
        self._log.clear()
        try:
            self._process = await self._spawn()
        except OSError as error:
            raise EngineError(f"the engine could not be started: {error.strerror}") from None
        self._log_reader = asyncio.create_task(self._read_log(), name="engine log")
        try:
            async with asyncio.timeout(self._limits.start_timeout_s):
                await self._configure()
                await self._wait_for_health()
        except TimeoutError:
            limit_s = self._limits.start_timeout_s
            raise EngineError(
                f"{self.model.path}: the engine did not answer within {limit_s:g} s"
            ) from None

    async def _spawn(self) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            *("-B", "-P", str(_CHILD), str(os.getpid())),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=_MAX_LINE_BYTES,
            env=_child_environment(os.environ),
            start_new_session=True,  # Ctrl-C is for the gateway, which then ends its engine
        )

    async def _configure(self) -> None:
        """Send the settings (by a pipe: arguments are public), wait for the child's answer."""
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        line = b""
        with suppress(OSError, ValueError):  # it died, or it is not our child that talks
            process.stdin.write(msgspec.json.encode(self._settings()) + b"\n")
            await process.stdin.drain()
            line = await process.stdout.readline()
        try:
            hello = _decode_hello(line)
        except msgspec.DecodeError:
            hello = _Hello(error="the engine ended while it was starting")
        if hello.error:
            raise EngineError(await self._explain(hello.error))

    async def _explain(self, error: str) -> str:
        """Return one line: the engine's own last complaint, if it made one."""
        if self._log_reader is not None:  # the child is ending: read what it still says
            await asyncio.wait({self._log_reader}, timeout=self._limits.stop_timeout_s)
        complaints = [line for line in self._log if " E " in line]
        telling = [line for line in complaints if "error loading model:" in line]
        if telling:
            what = telling[0].split("error loading model:", 1)[1].strip()
            return f"{self.model.path}: not a usable model ({what}); fetch the file again"
        last = f" ({complaints[0].split(' E ', 1)[1].strip()})" if complaints else ""
        return f"{self.model.path}: the engine could not serve it: {error}{last}"

    async def _wait_for_health(self) -> None:
        while not await _answers(self._port):
            if not self.pid:
                raise EngineError(await self._explain("it ended while it was starting"))
            await asyncio.sleep(0.05)

    async def _read_log(self) -> None:
        process = self._process
        assert process is not None
        assert process.stderr is not None
        while True:
            try:
                line = await process.stderr.readline()
            except ValueError:  # longer than we keep; the reader has dropped it
                continue
            if not line:
                return
            self._log.append(line.decode(errors="replace").rstrip()[:1000])

    async def _end_child(self) -> None:
        process, reader = self._process, self._log_reader
        self._process = self._log_reader = None
        if process is not None:
            await _end(process, self._limits.stop_timeout_s)
        if reader is not None:
            reader.cancel()
            with suppress(asyncio.CancelledError):
                await reader

    def _settings(self) -> dict[str, Any]:
        model = self.model
        windows = model.slots if model.has_own_windows else 1
        settings: dict[str, Any] = {
            "model.path": str(model.path),
            "model_alias": [model.alias],
            "port": self._port,
            "api_keys": [self.api_key],
            "n_parallel": model.slots,
            "n_ctx": model.context_size * windows,
            "kv_unified": not model.has_own_windows,
            "cache_ram_mib": model.cache_mib,
            "n_threads_http": _HTTP_THREADS,
            "ui": False,
            "cors_origins": "",
            "endpoint_slots": True,
            "verbosity": _WARNINGS,
            "default_template_kwargs": {
                name: msgspec.json.encode(value).decode()
                for name, value in model.template_arguments.items()
            },
        }
        if model.threads:
            settings["cpuparams.n_threads"] = settings["cpuparams_batch.n_threads"] = model.threads
        if model.is_demo:
            settings["sampling.temp"] = 0.0  # so small a model rambles when it is sampled
        return settings

    def _enter(self, state: EngineState) -> None:
        if state == self._state:
            return
        self._state = state
        for callback in self._callbacks:
            callback(state)


def _free_port() -> int:
    """Return a port that nobody listens on; the child says so if someone took it meanwhile."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _child_environment(environ: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value
        for name, value in environ.items()
        if name in _ENVIRONMENT or name.startswith(_DRIVER_PREFIXES)
    }


async def _answers(port: int) -> bool:
    """Ask for /health once."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    try:
        writer.write(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        return b" 200 " in await reader.readline()
    except (OSError, ValueError):
        return False
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def _end(process: asyncio.subprocess.Process, timeout_s: float) -> None:
    """Close the child's input, which it takes as its end; kill it if it does not listen."""
    if process.stdin is not None:
        process.stdin.close()
    try:
        async with asyncio.timeout(timeout_s):
            await process.wait()
    except TimeoutError:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
