"""
A new configuration while the gateway serves: all of it, or nothing.

A file that cannot be used is refused with a line in the log, and what was loaded before stays. One
that can be used makes a new gateway, which gets the next request; requests under way end with the
gateway that they began with. Connections to upstreams about which nothing has changed are kept.
"""

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from dragoman.config_rules import rule_problems
from dragoman.exit_codes import CommandFailed
from dragoman.gateway import Gateway, Switch
from dragoman.server.telemetry import EventLog
from dragoman.settings import Config
from dragoman.signals import Hangups
from dragoman.tables import ConfigError

# What is read once: it belongs to sockets, files and processes that stay. A dot is a table's field.
NEEDS_RESTART: Final = (
    "server.host",
    "server.port",
    "server.data_dir",
    "server.signing_secret",
    "server.max_header_bytes",
    "server.header_timeout_s",
    "server.body_timeout_s",
    "server.keep_alive_timeout_s",
    "server.max_connections",
    "server.log_format",
    "server.log_hold_s",
    "server.tls_certificate",
    "server.tls_key",
    "server.watch_config",
    "metrics",
    "admin.host",
    "admin.port",
    "tracing",
    "store",
    "usage",
    "redis",
)
_LOOK_INTERVAL_S: Final = 1.0
_NEWS_INTERVAL_S: Final = 15.0
Seen = tuple[tuple[int, int, int] | None, ...]


class ReloadSteps(Struct, frozen=True, kw_only=True):
    """
    How a configuration comes to be served.

    Attributes:
        load: Returns what a start would serve now; raises what a start would.
        renew: Reads other files again that hang on it.
        build: Makes its gateway, to take over from another one.
        served: Told of it when it has.
        has_news: Tells whether what was not there when it was loaded is there now; asked often.
    """

    load: Callable[[], Awaitable[Config]]
    renew: Callable[[Config], None]
    build: Callable[[Config, Gateway], Gateway]
    served: Callable[[Config], None] = lambda _: None
    has_news: Callable[[], Awaitable[bool]] | None = None


class Reloading:
    """
    Reload on SIGHUP, and when a file of the configuration has changed.

    Args:
        switch: Turned to each new gateway.
        steps: Towards it.
        log: Told what came of it.
        seen: What ``look`` has returned when the configuration was loaded: a file may change while
            a gateway starts. None: as now.
        on_hangup: Called on SIGHUP where a terminal is gone: then it means the end, as ever.
    """

    def __init__(
        self,
        switch: Switch,
        steps: ReloadSteps,
        *,
        log: EventLog,
        seen: Seen | None = None,
        on_hangup: Callable[[], None],
    ) -> None:
        self._switch = switch
        self._steps = steps
        self._log = log
        self._seen = seen if seen is not None else look(switch.config)
        self._on_hangup = on_hangup
        self._is_asked = asyncio.Event()
        self._hangups: Hangups | None = None
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to listen for the signal and to look at the files."""
        self._hangups = Hangups(self._is_asked.set, self._on_hangup)
        self._tasks = [asyncio.create_task(self._serve(), name="reload")]
        if self._switch.config.server.watch_config and _files(self._switch.config):
            self._tasks.append(asyncio.create_task(self._watch(), name="watch configuration"))
        if self._steps.has_news is not None:
            news = self._wait_for_news(self._steps.has_news)
            self._tasks.append(asyncio.create_task(news, name="wait for engines"))

    async def stop(self) -> None:
        """Reload no more; one that is under way is given up."""
        if self._hangups is not None:
            self._hangups.release()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def reload(self) -> None:
        """Serve what the files say now, or say why not."""
        former = self._switch.gateway
        count = former.lasting.metrics.count_reload
        try:
            wanted = await self._steps.load()
            _check_source(wanted, former.config)
            config, waiting = keep_fixed(wanted, former.config)
            _check_together(config, wanted, waiting=waiting)
            self._steps.renew(config)
            if config == former.config:
                self._log.event("reload", state="unchanged", needs_restart=waiting)
                return
            gateway = self._steps.build(config, former)
        except (ConfigError, CommandFailed) as error:
            count("refused")
            self._log.event("reload", state="refused", problem=str(error))
            return
        self._switch.turn(gateway)
        self._steps.served(config)
        count("done", time.time())
        self._log.event("reload", state="done", models=len(config.models), needs_restart=waiting)
        gc.unfreeze()  # else the gateway that retires would stay for ever
        gc.collect()
        gc.freeze()

    async def _serve(self) -> None:
        while True:
            await self._is_asked.wait()
            self._is_asked.clear()
            try:
                await self.reload()
            except Exception as error:  # a bug of ours: what is served goes on
                self._log.crash(error)

    async def _wait_for_news(self, has_news: Callable[[], Awaitable[bool]]) -> None:
        """Ask for a reload when an engine answers that did not when it was asked what it serves."""
        while True:
            await asyncio.sleep(_NEWS_INTERVAL_S)
            if await has_news():
                self._is_asked.set()

    async def _watch(self) -> None:
        """Ask for a reload when files have changed, and have then stayed the same for a while."""
        served = before = self._seen
        while True:
            await asyncio.sleep(_LOOK_INTERVAL_S)
            now = look(self._switch.config)
            # Half a file is no configuration: whoever writes it is given the time to end.
            if now == before and now != served and None not in now:
                served = now
                self._is_asked.set()
            before = now


def keep_fixed(config: Config, former: Config) -> tuple[Config, str]:
    """Return *config* with what cannot change as it was, and the names of what would have."""
    changed = [name for name in NEEDS_RESTART if _get(config, name) != _get(former, name)]
    for name in changed:
        table, _, setting = name.partition(".")
        value = _get(former, table)
        if setting:
            old = {setting: getattr(value, setting)}
            value = msgspec.structs.replace(_get(config, table), **old)
        config = msgspec.structs.replace(config, **{table: value})
    return config, ", ".join(changed)


def _check_source(wanted: Config, former: Config) -> None:
    """
    Do nothing if the file that is served is still there.

    Raises:
        ConfigError: It is gone. At a start another one would be read, or none: without its keys,
            for example, the gateway would answer whoever is on this machine.
    """
    source = former.source
    if source is not None and wanted.source != source and not source.exists():
        raise ConfigError([f"{source}: is not there any more; put it back, or start again"])


def _check_together(config: Config, wanted: Config, *, waiting: str) -> None:
    """
    Do nothing if what stays until a restart goes with the rest of what is *wanted*.

    Raises:
        ConfigError: It does not: a short key, for example, at an address that others can reach.
    """
    if not waiting:
        return
    by_itself = rule_problems(wanted)
    for line in rule_problems(config):
        if line not in by_itself:
            raise ConfigError([f"{line} (restart: {waiting} cannot change before)"])


def _get(config: Config, path: str) -> Struct:
    value: Struct = config
    for name in path.split("."):
        value = getattr(value, name)
    return value


def _files(config: Config) -> tuple[Path, ...]:
    """Return the files that *config* was read from."""
    server = config.server
    files = (config.source, server.prices_file, server.tls_certificate, server.tls_key)
    return tuple(path for path in files if path is not None)


def look(config: Config) -> Seen:
    """Return what changes whenever a file of *config* does."""
    return tuple(_signature(path) for path in _files(config))


def _signature(path: Path) -> tuple[int, int, int] | None:
    """Return what changes whenever a file does; None: it is not there."""
    try:
        state = path.stat()
    except OSError:
        return None
    return state.st_mtime_ns, state.st_size, state.st_ino
