"""
`dragoman serve --workers N`: several processes at one port, and one that looks after them.

The kernel deals new connections out among the workers (SO_REUSEPORT). The one process that looks
after them owns the embedded engine and the signals, serves nothing itself, and starts a worker
again that has ended. A worker is told what to serve by one line on standard input, says by one
line on standard output that it listens, and lives as long as standard input stays open.
"""

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    ExitStack,
    contextmanager,
    suppress,
)
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import msgspec
from msgspec import Struct, structs

from dragoman.banner import Serving
from dragoman.config import Config, load_config
from dragoman.engine import Engine, EngineLink, EngineModel
from dragoman.exit_codes import CANNOT_START, FAILED, OK, USAGE, CommandFailed
from dragoman.last_good import LastGood
from dragoman.local import find_local_engines
from dragoman.reload import look
from dragoman.serve import (
    Running,
    StartOptions,
    Told,
    WorkerPlace,
    complete_config,
    describe,
    engine_model,
    is_moved,
    listening,
    loop_factory,
    new_log,
    open_gateway,
    serve_until_told,
    start_engine,
    tell_that_it_listens,
)
from dragoman.server.telemetry import EventLog
from dragoman.signals import Hangups, StopSignals, unless
from dragoman.signing_file import FolderUnusable
from dragoman.stores.owner import Owner
from dragoman.tables import ConfigError

_READY: Final = b"ready\n"
_FIRST_DELAY_S: Final = 0.5
_MAX_DELAY_S: Final = 30.0
_STEADY_S: Final = 60.0  # after so long a worker's end is no longer one of a series
_PER_PROCESS: Final = (
    "limits, budgets and health hold for all together; bounds of memory and connections "
    "(server.max_..., upstreams.NAME.max_connections) hold for each process"
)
# Beyond the grace of the workers themselves: the last spans, and a store that does not answer.
_MARGIN_S: Final = 20.0


class _Failure(Struct):
    """What a worker says instead of being ready."""

    message: str
    code: int


class WorkerOptions(Struct, frozen=True, kw_only=True):
    """What a worker is told."""

    start: StartOptions
    engine: EngineLink | None
    place: WorkerPlace


def reserve_port(host: str, port: int) -> socket.socket:
    """
    Return a socket that is bound and does not listen, so that workers may share its port.

    Raises:
        OSError: The address is not ours, or somebody listens there, be it with SO_REUSEPORT too.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(
        host or "0.0.0.0",  # noqa: S104 - what an empty host stands for
        port,
        type=socket.SOCK_STREAM,
        flags=socket.AI_PASSIVE,
    )[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)
        address = (address[0], probe.getsockname()[1], *address[2:])
    held = socket.socket(family, kind, protocol)
    try:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind(address)
    except BaseException:
        held.close()
        raise
    return held


@contextmanager
def _reserved(config: Config) -> Iterator[int]:
    """
    Hold all ports that the workers will share, so that no other gateway shares them, too.

    Give the port of the gateway itself.

    Raises:
        CommandFailed: One is taken.
    """
    server, metrics, admin = config.server, config.metrics, config.admin
    with ExitStack() as stack:
        with listening(server.host, server.port):
            held = stack.enter_context(reserve_port(server.host, server.port))
        for at, choose in ((metrics, "metrics.port"), (admin, "admin.port")):
            if at.port is not None:
                with listening(at.host, at.port, choose=choose):
                    stack.enter_context(reserve_port(at.host, at.port))
        yield held.getsockname()[1]


class Workers:
    """
    Starts workers, starts those again that end, and stops all.

    Args:
        n: How many.
        options: What each is told.
        owner: Holds what they share; None: they share it through Redis.
        log: Told of every end that nobody asked for.
        environ: Of the workers.
    """

    def __init__(
        self,
        n: int,
        options: WorkerOptions,
        *,
        owner: Owner | None,
        log: EventLog,
        environ: Mapping[str, str],
    ) -> None:
        self._n = n
        self._options = options
        self._owner = owner
        self._log = log
        self._environ = dict(environ)
        self._processes: dict[int, asyncio.subprocess.Process] = {}
        self._keepers: list[asyncio.Task[None]] = []
        self._is_stopping = False

    @property
    def pids(self) -> tuple[int, ...]:
        """Of the workers that run."""
        return tuple(p.pid for p in self._processes.values() if p.returncode is None)

    async def start(self) -> None:
        """
        Start all, and return when each listens.

        Raises:
            CommandFailed: One could not start; it has said why.
        """
        await asyncio.gather(*(self._start_one(number) for number in range(self._n)))
        self._keepers = [
            asyncio.create_task(self._keep(number), name=f"worker {number}")
            for number in range(self._n)
        ]

    async def stop(self, grace_s: float) -> None:
        """Ask all to end, and kill those that do not within *grace_s* and a margin."""
        self._is_stopping = True
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        self.signal(signal.SIGTERM)
        ends = [asyncio.ensure_future(p.wait()) for p in self._processes.values()]
        if ends:
            _, late = await asyncio.wait(ends, timeout=grace_s + _MARGIN_S)
            if late:
                self.signal(signal.SIGKILL)
                await asyncio.wait(late)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to all that run."""
        for process in self._processes.values():
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    process.send_signal(number)

    async def _start_one(self, number: int) -> None:
        end = await self._owner.connect() if self._owner else None
        try:
            await self._start_with(number, end.fileno() if end else None)
        finally:
            if end:
                end.close()  # the worker has it

    async def _start_with(self, number: int, owner: int | None) -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "dragoman.workers",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=self._environ,
            pass_fds=() if owner is None else (owner,),
            start_new_session=True,  # so that Ctrl-C reaches it through us alone, and once
        )
        self._processes[number] = process
        assert process.stdin is not None
        assert process.stdout is not None
        with suppress(OSError):  # then it says nothing, either
            place = structs.replace(self._options.place, number=number, owner=owner)
            told = structs.replace(self._options, place=place)
            process.stdin.write(msgspec.json.encode(told, enc_hook=str) + b"\n")
            await process.stdin.drain()
        said = await process.stdout.readline()
        if said != _READY:
            raise _failure_of(said, await process.wait())

    async def _keep(self, number: int) -> None:
        """Start one worker again whenever it ends, each time later if it ends soon."""
        delay_s = _FIRST_DELAY_S
        while not self._is_stopping:
            began_s = time.monotonic()
            process = self._processes[number]
            code = await process.wait()
            if time.monotonic() - began_s > _STEADY_S:
                delay_s = _FIRST_DELAY_S
            self._log.event("worker", state="ended", pid=process.pid, code=code, again_in_s=delay_s)
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, _MAX_DELAY_S)
            try:
                await self._start_one(number)
            except (CommandFailed, OSError) as error:  # it is tried again: its process has ended
                self._log.event("worker", state="failed", reason=str(error))
            else:
                self._log.event("worker", state="started", pid=self._processes[number].pid)


def serve_with_workers(options: StartOptions, n: int, *, environ: Mapping[str, str]) -> int:
    """
    Serve with *n* processes until a signal comes, return the exit code.

    Raises:
        ConfigError: The configuration cannot be used.
        EngineError: The model cannot be had.
        CommandFailed: It cannot start.
    """
    if sys.platform != "linux":
        raise CommandFailed("--workers needs Linux, which deals connections out", code=USAGE)
    config = load_config(options.config, environ=environ, overrides=options.overrides)
    model = engine_model(options, environ=environ)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(_supervise(options, config, n=n, model=model, environ=environ))


async def _supervise(
    options: StartOptions,
    config: Config,
    *,
    n: int,
    model: EngineModel | None,
    environ: Mapping[str, str],
) -> int:
    log, signals = new_log(config.server), StopSignals()
    async with AsyncExitStack() as stack:
        found = await find_local_engines(config)
        engine = Engine(model) if model else None
        full = complete_config(config, engine, found)
        port = stack.enter_context(_reserved(config))
        if engine:
            stack.push_async_callback(engine.stop)
            await unless(signals.first, start_engine(engine, log))
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="dragoman-")))
        told = _told(options, port, engine, folder=folder)
        last_good = LastGood(folder=folder, environ=environ, overrides=told.start.overrides)
        last_good.keep_first(config)
        owner = None if config.redis else Owner(on_crash=log.crash)
        if owner:
            stack.callback(owner.close)
        workers = Workers(n, told, owner=owner, log=log, environ=environ)
        stack.push_async_callback(workers.stop, 0)
        await unless(signals.first, workers.start())
        hangups = Hangups(partial(workers.signal, signal.SIGHUP), signals.first.set)
        if not signals.first.is_set():
            serving = describe(full, port, model=model, found=found, environ=environ)
            moved = is_moved(options, config)
            tell_that_it_listens(structs.replace(serving, is_moved=moved), log)
            log.event("workers", n=n, note=_PER_PROCESS)
        await signals.first.wait()
        hangups.release()
        grace_s = last_good.served(config).server.shutdown_timeout_s  # a reload may have changed it
        await _stop(workers, signals, grace_s=grace_s)
    signals.release()
    return OK


def _failure_of(said: bytes, code: int) -> CommandFailed:
    """Return why a worker has ended that was not ready yet, in its own words if it had any."""
    try:
        failure = msgspec.json.decode(said, type=_Failure)
    except msgspec.DecodeError:
        return CommandFailed("a worker process could not start", code=max(code, FAILED))
    return CommandFailed(failure.message, code=failure.code)


def _told(
    options: StartOptions, port: int, engine: Engine | None, *, folder: Path
) -> WorkerOptions:
    """Return what each worker is told: the port that is reserved, and no engine of its own."""
    link = None
    if engine:
        link = EngineLink(model=engine.model, base_url=engine.base_url, api_key=engine.api_key)
    overrides = {**options.overrides, "server.port": port}
    start = StartOptions(config=options.config, overrides=overrides)
    return WorkerOptions(start=start, engine=link, place=WorkerPlace(folder=folder))


async def _stop(workers: Workers, signals: StopSignals, *, grace_s: float) -> None:
    """Stop the workers; a second signal is passed on, and they cut what is under way."""
    stopping = asyncio.ensure_future(workers.stop(grace_s))
    second = asyncio.ensure_future(signals.second.wait())
    await asyncio.wait({stopping, second}, return_when=asyncio.FIRST_COMPLETED)
    if not stopping.done():
        workers.signal(signal.SIGTERM)
    second.cancel()
    await stopping


# -- the worker's side


def main() -> int:
    """Be one worker, until a signal comes or the process that looks after it is gone."""
    line = sys.stdin.buffer.readline()
    told = msgspec.json.decode(line, type=WorkerOptions, dec_hook=lambda _, text: Path(text))
    start, environ = told.start, os.environ
    last_good = LastGood(folder=told.place.folder, environ=environ, overrides=start.overrides)
    config, problem = last_good.load(start.config)
    log = new_log(config.server)
    if problem:
        log.event("reload", state="refused", problem=problem)
    opening = open_gateway(config, link=told.engine, place=told.place, log=log, environ=environ)
    serving = Told(
        options=start,
        environ=environ,
        announce=_say_ready,
        seen=look(config),
        served=last_good.keep,
    )
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            return runner.run(_work(opening, serving, log))
    except FolderUnusable as error:
        failure = _Failure(str(error), CANNOT_START)
    except ConfigError as error:
        failure = _Failure(str(error), USAGE)
    except CommandFailed as error:
        failure = _Failure(str(error), error.code)
    os.write(sys.stdout.fileno(), msgspec.json.encode(failure) + b"\n")
    return failure.code


async def _work(opening: AbstractAsyncContextManager[Running], told: Told, log: EventLog) -> int:
    signals = StopSignals()
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), _watch_input, signals)
    return await serve_until_told(opening, told, log=log, signals=signals)


def _watch_input(signals: StopSignals) -> None:
    """Take the end of standard input for the signal to stop: nobody looks after us any more."""
    if not os.read(sys.stdin.fileno(), 4096):
        asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
        signals.first.set()


def _say_ready(_: Serving) -> None:
    os.write(sys.stdout.fileno(), _READY)


if __name__ == "__main__":
    sys.exit(main())
