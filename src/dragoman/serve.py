"""
The process of a gateway: configuration -> engine -> listening -> signals -> end.

``open_gateway`` is what `dragoman serve`, `dragoman claude` and `dragoman check --live` share.
"""

import asyncio
import errno
import gc
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
)
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

from msgspec import Struct, field, structs

from dragoman.banner import (
    Serving,
    banner_lines,
    base_url,
    listening_line,
    nothing_to_serve,
    own_command,
)
from dragoman.build import (
    ENGINE,
    build_gateway,
    start_admin_server,
    start_metrics_server,
    start_server,
)
from dragoman.config import Config, load_config, with_engine
from dragoman.config_rules import rule_warnings
from dragoman.discovery import Discovery
from dragoman.engine import Engine, EngineError, EngineLink, EngineModel, EngineState, demo_model
from dragoman.exit_codes import CANNOT_START, OK, USAGE, CommandFailed
from dragoman.gateway import Gateway, Switch
from dragoman.local import (
    Found,
    FoundEngine,
    choose_local_model,
    find_local_engines,
    with_found_engines,
)
from dragoman.reload import Reloading, ReloadSteps, Seen, look
from dragoman.server.loop_watch import LoopWatch
from dragoman.server.metrics_share import MetricsShare
from dragoman.server.metrics_sources import connection_samples
from dragoman.server.telemetry import EventLog
from dragoman.server.transport.http_server import HttpServer
from dragoman.settings import ServerConfig
from dragoman.sharing import open_sharing
from dragoman.signals import StopSignals, unless
from dragoman.signing_file import signing_secret
from dragoman.store_urls import read_store_url
from dragoman.stores.opening import version_beyond_us
from dragoman.stores.versions import too_new
from dragoman.tables import ConfigError
from dragoman.terminal import LastingConsole, print_line
from dragoman.tls_files import renew_certificate

_ADDRESS: Final = frozenset({"server.host", "server.port"})
# Objects of a request go with their last reference, so that there is little to be found: a circle
# in a connection that has ended. At Python's 700 each long conversation would be looked through.
_COLLECT_AFTER: Final = (20_000, 20, 50)
_SLOW_START_S: Final = 2.0  # of an engine; until then nobody wonders
_LISTEN_PROBLEMS: Final = {
    errno.EADDRINUSE: "something listens there already; choose another with {}",
    errno.EACCES: "not allowed for this user; choose a port over 1023 with {}",
    errno.EADDRNOTAVAIL: "not an address of this machine",
}


class StartOptions(Struct, frozen=True, kw_only=True):
    """
    What the command line says about what to serve.

    Attributes:
        config: The file; None: the usual ones are looked for.
        overrides: Settings by their dotted path.
        is_demo: The embedded engine serves the demo model.
        is_local: The embedded engine serves a model of this machine.
        local_model: A path, ``repo_id:file``; None: chosen by memory.
        may_download: The user has agreed to a download.
    """

    config: Path | None = None
    overrides: dict[str, Any] = field(default_factory=dict)
    is_demo: bool = False
    is_local: bool = False
    local_model: str | None = None
    may_download: bool = False


class WorkerPlace(Struct, frozen=True, kw_only=True):
    """
    Where a process stands among those that share a port.

    Attributes:
        folder: Theirs alone.
        owner: Descriptor of a socket whose other end the owner of what they share has; None: they
            share it through Redis.
    """

    folder: Path
    number: int = 0
    owner: int | None = None


class Running(Struct, frozen=True, kw_only=True):
    """A gateway that listens."""

    gateway: Switch
    server: HttpServer
    admin: HttpServer | None
    serving: Serving
    discovery: Discovery
    engine: Engine | EngineLink | None = None


class Told(Struct, frozen=True, kw_only=True):
    """
    What a process that serves was told, and whom it tells.

    Attributes:
        options: Of the command line; asked again for a new configuration.
        environ: As at the start.
        announce: Told what is served, once it is.
        seen: Of the files, when they were loaded.
        served: Told of each configuration that is served.
    """

    options: StartOptions
    environ: Mapping[str, str]
    announce: Callable[[Serving], None]
    seen: Seen
    served: Callable[[Config], None] = lambda _: None


def serve(options: StartOptions, *, environ: Mapping[str, str]) -> int:
    """
    Serve until a signal comes, return the exit code.

    Raises:
        ConfigError: The configuration cannot be used.
        EngineError: The model cannot be had.
        CommandFailed: It cannot start.
    """
    config = load_config(options.config, environ=environ, overrides=options.overrides)
    model = engine_model(options, environ=environ)
    log = new_log(config.server)
    moved = is_moved(options, config)

    def announce(serving: Serving) -> None:
        tell_that_it_listens(structs.replace(serving, is_moved=moved), log)

    opening = open_gateway(config, model=model, log=log, environ=environ)
    told = Told(options=options, environ=environ, announce=announce, seen=look(config))
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(serve_until_told(opening, told, log=log))


def engine_model(options: StartOptions, *, environ: Mapping[str, str]) -> EngineModel | None:
    """Return what the embedded engine shall serve; it may have to be downloaded first."""
    if options.is_demo:
        return demo_model()
    if not options.is_local:
        return None
    return choose_local_model(
        options.local_model, may_download=options.may_download, environ=environ
    )


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return what makes the faster event loop, where it is installed."""
    try:
        import uvloop  # noqa: PLC0415 - there is none for Windows
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def log_format(server: ServerConfig) -> Literal["human", "json"]:
    """Return how the log is written; ``auto`` is for people where a person is watching."""
    if server.log_format != "auto":
        return server.log_format
    return "human" if sys.stderr.isatty() else "json"


def new_log(server: ServerConfig) -> EventLog:
    """Return the log of a process that serves."""
    shown = log_format(server)
    # A person wants to see a request when it is over; a collector reads many lines at once.
    return EventLog(shown, hold_s=server.log_hold_s if shown == "json" else 0.0)


@asynccontextmanager
async def open_gateway(
    config: Config,
    *,
    model: EngineModel | None = None,
    link: EngineLink | None = None,
    place: WorkerPlace | None = None,
    log: EventLog,
    environ: Mapping[str, str],
) -> AsyncIterator[Running]:
    """
    Listen, start the engine, and end both afterwards, cutting what is still under way.

    Args:
        config: What was loaded.
        model: For the embedded engine, if there shall be one.
        link: The embedded engine, if another process owns it.
        place: Among the workers that listen at the same port; None: there are no others.
        log: Gets every event.
        environ: For proxies, and for what the banner says.

    Raises:
        ConfigError: The configuration cannot be used.
        CommandFailed: It cannot listen, or the engine does not start.
    """
    await _refuse_newer_store(config)
    discovery = Discovery(environ)
    found = await find_local_engines(config, discovery=discovery)
    engine = Engine(model) if model else None
    config = complete_config(config, engine or link, found)
    _warn(discovery, log)
    async with AsyncExitStack() as stack:
        if engine:
            stack.push_async_callback(engine.stop)
        sharing = await stack.enter_async_context(
            open_sharing(
                config,
                secret=signing_secret(config.server),
                owner=place.owner if place else None,
                log=log,
            )
        )
        gateway = build_gateway(
            config, log=log, environ=environ, engine=engine or link, sharing=sharing
        )
        await sharing.begin()
        switch = Switch(gateway)
        stack.push_async_callback(switch.close)
        with listening(config.server.host, config.server.port):
            server = await start_server(switch, log=log, shares_port=place is not None)
        stack.push_async_callback(server.close, 0)
        gateway.lasting.start()
        await _show_metrics(gateway, server, stack=stack, log=log, place=place)
        admin = await _show_admin(switch, stack=stack, log=log, place=place)
        if engine:  # last: a port that is taken shows before gigabytes are read
            await start_engine(engine, log)
        serving = describe(config, server.port, model=model, found=found, environ=environ)
        yield Running(
            gateway=switch,
            server=server,
            admin=admin,
            serving=serving,
            discovery=discovery,
            engine=engine or link,
        )


def _warn(discovery: Discovery, log: EventLog) -> None:
    if line := discovery.warning:
        log.event("warning", text=line)


async def _refuse_newer_store(config: Config) -> None:
    url = read_store_url(config.store.url, config.server.data_dir)
    version = await version_beyond_us(url) if url is not None else None
    if version is not None:
        raise CommandFailed(f"store: {too_new(url, version)}", code=CANNOT_START)


async def _show_metrics(
    gateway: Gateway,
    server: HttpServer,
    *,
    stack: AsyncExitStack,
    log: EventLog,
    place: WorkerPlace | None,
) -> None:
    """Count what only a gateway that listens has, and listen for those who want to see it."""
    metrics, settings = gateway.lasting.metrics, gateway.config.metrics
    metrics.sources["server"] = partial(connection_samples, server)
    stack.callback(LoopWatch(metrics.loop_lag.add).stop)
    if place is not None:
        share = MetricsShare(place.folder, place.number, metrics=metrics)
        stack.callback(share.stop)
        page = gateway.lasting.metrics_page
        page.own, page.others = share.own, share.others
    with listening(settings.host, settings.port or 0, choose="metrics.port"):
        own = await start_metrics_server(gateway, log=log, shares_port=place is not None)
    if own is not None:
        stack.push_async_callback(own.close, 0)


async def _show_admin(
    gateway: Switch, *, stack: AsyncExitStack, log: EventLog, place: WorkerPlace | None
) -> HttpServer | None:
    """Listen for administrators, where they have an address of their own."""
    settings = gateway.config.admin
    with listening(settings.host, settings.port or 0, choose="admin.port"):
        own = await start_admin_server(gateway, log=log, shares_port=place is not None)
    if own is not None:
        stack.push_async_callback(own.close, 0)
    return own


def describe(
    config: Config,
    port: int,
    *,
    model: EngineModel | None,
    found: Sequence[Found],
    environ: Mapping[str, str],
) -> Serving:
    """Return what a gateway with the complete *config* serves at *port*."""
    return Serving(
        config=config,
        base_url=base_url(config.server, port),
        engine=model,
        found=_new_upstreams(config, found),
        environ=environ,
        command=own_command(sys.argv[0], environ.get("PATH", "")),
    )


def complete_config(
    config: Config, engine: Engine | EngineLink | None, found: Sequence[Found]
) -> Config:
    """
    Return *config* with the embedded engine first and what was found on this machine last.

    The model that the user asked for by a flag leads: no name of a Claude model then reaches a
    vendor, unless the file has a role that says so.
    """
    if engine is not None:
        config = _with_embedded(config, engine)
    config = with_found_engines(config, found)
    if not config.models:
        raise CommandFailed(nothing_to_serve(config), code=USAGE)
    return config


def _with_embedded(config: Config, engine: Engine | EngineLink) -> Config:
    if ENGINE in config.upstreams:
        line = f"upstreams.{ENGINE}: the embedded engine has this name; choose another"
        raise ConfigError([line], source=config.source)
    model = engine.model
    config = with_engine(
        config,
        model.alias,
        engine.base_url,
        display_name="Dragoman demo (toy model)" if model.is_demo else model.alias,
        leads=True,
    )
    profile = dict(model.profile)
    if model.context_size:  # what the engine was started with, not what such models have elsewhere
        profile["context_window"] = model.context_size
    if not profile:
        return config
    entry = structs.replace(config.models[model.alias], profile=profile)
    return structs.replace(config, models={**config.models, model.alias: entry})


def _new_upstreams(config: Config, found: Sequence[Found]) -> tuple[str, ...]:
    urls = {each.engine.base_url for each in found if isinstance(each, FoundEngine)}
    return tuple(name for name, each in config.upstreams.items() if each.base_url in urls)


@contextmanager
def listening(host: str, port: int, *, choose: str = "--port") -> Iterator[None]:
    """
    Say in words why it is not possible to listen.

    Args:
        host: Where.
        port: Where.
        choose: What sets the port.

    Raises:
        CommandFailed: It is not.
    """
    try:
        yield
        return
    except socket.gaierror:
        reason = "no such host"
    except OSError as error:
        known = _LISTEN_PROBLEMS.get(error.errno or 0, "").format(choose)
        reason = known or error.strerror or str(error)
    raise CommandFailed(f"cannot listen on {host}:{port}: {reason}", code=CANNOT_START)


async def start_engine(engine: Engine, log: EventLog) -> None:
    """Start the engine; how it goes on after that is in the log."""
    tell = partial(log.event, "engine", state="starting", model=engine.model.alias)
    reminder = asyncio.get_running_loop().call_later(_SLOW_START_S, tell)
    try:
        await engine.start()
    except EngineError as error:
        raise CommandFailed(str(error), code=CANNOT_START) from None
    finally:
        reminder.cancel()
    engine.on_change(partial(_log_engine, log, engine))


def _log_engine(log: EventLog, engine: Engine, state: EngineState) -> None:
    if state != "stopped":  # by us, and our own end is in the log
        log.event("engine", state=state, model=engine.model.alias, reason=engine.reason)


async def serve_until_told(
    opening: AbstractAsyncContextManager[Running],
    told: Told,
    *,
    log: EventLog,
    signals: StopSignals | None = None,
) -> int:
    """Open a gateway, announce it, and close it when a signal comes; return the exit code."""
    signals = signals or StopSignals()
    async with AsyncExitStack() as stack:
        running = await unless(signals.first, stack.enter_async_context(opening))
        if running is None:  # told to stop while it was starting
            return OK
        steps = _reload_steps(told, running, log=log)
        reloading = Reloading(
            running.gateway, steps, log=log, seen=told.seen, on_hangup=signals.first.set
        )
        reloading.start()  # first: whoever hears that we listen may send the signal at once
        stack.push_async_callback(reloading.stop)
        told.served(running.gateway.config)
        told.announce(running.serving)
        gc.collect()
        gc.set_threshold(*_COLLECT_AFTER)
        gc.freeze()  # what is there now stays: looking through it again and again gives nothing
        await signals.first.wait()
        grace_s = running.gateway.config.server.shutdown_timeout_s
        log.event("stopping", grace_s=grace_s)
        running.gateway.send_away()
        await unless(signals.second, running.server.close(grace_s))
    signals.release()
    log.event("stopped")
    return OK


def _reload_steps(told: Told, running: Running, *, log: EventLog) -> ReloadSteps:
    """Return how another configuration is loaded and built, just as the first one was."""
    options, environ, engine = told.options, told.environ, running.engine
    discovery = running.discovery

    async def load() -> Config:
        config = await asyncio.to_thread(
            load_config, options.config, environ=environ, overrides=options.overrides
        )
        found = await find_local_engines(config, discovery=discovery)
        _warn(discovery, log)
        return complete_config(config, engine, found)

    def build(config: Config, former: Gateway) -> Gateway:
        return build_gateway(config, log=log, environ=environ, engine=engine, former=former)

    def renew(config: Config) -> None:
        for server in (running.server, running.admin):
            if server is not None:
                renew_certificate(server, config.server)

    return ReloadSteps(
        load=load, renew=renew, build=build, served=told.served, has_news=discovery.has_news
    )


def is_moved(options: StartOptions, config: Config) -> bool:
    """Tell whether it listens elsewhere than the configuration alone would say."""
    return not config.server.port or not _ADDRESS.isdisjoint(options.overrides)


def tell_that_it_listens(serving: Serving, log: EventLog) -> None:
    """Say that it listens; with a log in JSON the rest of the banner is in the log."""
    is_brief = serving.config.server.log_format == "json"
    lines = [listening_line(serving)] if is_brief else banner_lines(serving)
    console = LastingConsole(highlight=False)
    for line in lines:
        print_line(console, line)
    log.event("listening", url=serving.base_url, models=len(serving.config.models))
    if is_brief:
        for warning in rule_warnings(serving.config):
            log.event("warning", text=warning)
