"""
`dragoman claude`: Claude Code on a gateway, one that runs already or one of its own.

The gateway of its own lives in this process, at a free port, and ends with Claude Code. Its log
goes to a file, as the terminal belongs to Claude Code.
"""

import asyncio
import io
import os
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from msgspec import Struct, structs
from rich.console import Console

from dragoman.claude_settings import find_conflict, overriding
from dragoman.config import Config, load_config
from dragoman.core.dialects.profile import DialectProfile
from dragoman.engine import EngineModel
from dragoman.exit_codes import CANNOT_START, CLAUDE_MISSING, INTERRUPTED, OK, USAGE, CommandFailed
from dragoman.foreground import run_in_foreground
from dragoman.gateways import (
    RunningGateway,
    check_url,
    configured_token,
    configured_url,
    find_running,
    visit,
)
from dragoman.launch import (
    LaunchModel,
    Shell,
    client_environment,
    find_claude,
    merged_environment,
    model_at,
    model_at_url,
    model_of,
    removed_variables,
    shell_lines,
    unset_lines,
)
from dragoman.policy.keys import OPEN
from dragoman.policy.routes import Routes
from dragoman.presets import is_loopback
from dragoman.serve import StartOptions, engine_model, loop_factory, open_gateway
from dragoman.server.telemetry import EventLog
from dragoman.settings import AdminConfig, KeyConfig, MetricsConfig, Secret
from dragoman.store_urls import read_store_url
from dragoman.stores.peek import holds_keys
from dragoman.terminal import print_line

_LOG_FILE: Final = "claude.log"
_MAX_LOG_BYTES: Final = 5 * 2**20
_KEY_NAME: Final = "dragoman-claude"
_INSTALL: Final = (
    "claude was not found; install Claude Code: npm install -g @anthropic-ai/claude-code"
)


class ClaudeOptions(Struct, frozen=True, kw_only=True):
    """
    What the command line says.

    Attributes:
        start: What a gateway of our own would serve.
        model: A name of a model or role; None: the default.
        url: Of a gateway to use; None: find one, or start one.
        key: For the gateway at *url*; None: a configured one.
        args: For Claude Code.
    """

    start: StartOptions
    model: str | None = None
    url: str | None = None
    key: Secret | None = None
    args: tuple[str, ...] = ()


class _Session(Struct, frozen=True, kw_only=True):
    """A gateway to talk to, and on which model."""

    base_url: str
    token: str
    model: LaunchModel
    log_file: Path | None = None

    def variables(self) -> dict[str, str]:
        return client_environment(self.base_url, self.token, model=self.model)


def run_claude(options: ClaudeOptions, *, environ: Mapping[str, str]) -> int:
    """
    Run Claude Code, return its exit code.

    Raises:
        ConfigError: The configuration cannot be used.
        EngineError: The demo model cannot be served.
        CommandFailed: Claude Code, the model or the gateway is not there.
    """
    claude = find_claude(environ.get("PATH", ""))
    if claude is None:
        raise CommandFailed(_INSTALL, code=CLAUDE_MISSING)
    config, model = _load(options, environ)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(_run(options, config, model=model, claude=claude, environ=environ))


def print_variables(options: ClaudeOptions, *, shell: Shell, environ: Mapping[str, str]) -> int:
    """
    Print the lines that set everything in *shell*, for a gateway that runs elsewhere.

    Raises:
        ConfigError: The configuration cannot be used.
        CommandFailed: There is no such model, or nothing says where the gateway is.
    """
    config, model = _load(options, environ)
    session, is_running = asyncio.run(_configured(options, config, model=model, environ=environ))
    console = Console(highlight=False)
    variables = session.variables()
    lines = unset_lines(removed_variables(variables, environ), shell)
    for line in (*lines, *shell_lines(variables, shell)):
        print_line(console, line)
    errors = Console(stderr=True, highlight=False)
    if session.token == OPEN and _may_hold_keys(config):
        note = "keys of the store are not shown: put one into ANTHROPIC_AUTH_TOKEN afterwards"
        print_line(errors, f"dragoman: {note} (dragoman keys create NAME makes one)")
    elif not is_running:
        demo = " --demo" if model else ""
        note = f"no gateway runs at {session.base_url} yet; start it: dragoman serve{demo}"
        print_line(errors, f"dragoman: {note}")
    if conflict := find_conflict(variables, environ=environ, folder=Path.cwd()):
        names = ", ".join(conflict.env)
        print_line(errors, f"dragoman: {conflict.path} sets {names}, which stands above the lines")
    return OK


def _may_hold_keys(config: Config) -> bool:
    """Tell whether a gateway with *config* may want a key of its store, which nobody can read."""
    return holds_keys(read_store_url(config.store.url, config.server.data_dir)) is not False


def _load(options: ClaudeOptions, environ: Mapping[str, str]) -> tuple[Config, EngineModel | None]:
    start = options.start
    config = load_config(start.config, environ=environ, overrides=start.overrides)
    return config, engine_model(start, environ=environ)


async def _run(
    options: ClaudeOptions,
    config: Config,
    *,
    model: EngineModel | None,
    claude: str,
    environ: Mapping[str, str],
) -> int:
    async with _open_session(options, config, model=model, environ=environ) as session:
        variables = session.variables()
        conflict = find_conflict(variables, environ=environ, folder=Path.cwd())
        with overriding(conflict, options.args) as args:
            env = merged_environment(environ, variables)
            code = await run_in_foreground((claude, *args), env=env)
    if session.log_file is not None and code not in {OK, INTERRUPTED}:
        note = f"dragoman: claude ended with code {code}; the gateway's log: {session.log_file}"
        print_line(Console(stderr=True, highlight=False), note)
    return code


@asynccontextmanager
async def _open_session(
    options: ClaudeOptions,
    config: Config,
    *,
    model: EngineModel | None,
    environ: Mapping[str, str],
) -> AsyncIterator[_Session]:
    found = await _find(options, config, model=model, environ=environ)
    if found is not None:
        yield found
        return
    token = secrets.token_urlsafe(32)
    path = config.server.data_dir / _LOG_FILE
    with open_log_file(path) as file:
        opened = open_gateway(
            _private(config, token), model=model, log=EventLog("human", file), environ=environ
        )
        async with opened as running:
            chosen = model_of(running.serving.config, running.gateway.routes, options.model)
            url = running.serving.base_url
            yield _Session(base_url=url, token=token, model=chosen, log_file=path)


async def _find(
    options: ClaudeOptions,
    config: Config,
    *,
    model: EngineModel | None,
    environ: Mapping[str, str],
) -> _Session | None:
    """Return a gateway that runs already and serves what is wanted; None: there is none."""
    if options.url is not None:
        check_url(options.url)
        gateway = await visit(options.url, _token(options, config), environ=environ)
        return _session(gateway, model_at_url(gateway, options.model))
    if model is not None:  # the demo, asked for by name: it must be ours
        return None
    running = await find_running(config)
    if running is None:
        return None
    chosen = model_at(running, config, options.model)
    return None if chosen is None else _session(running, chosen)


async def _configured(
    options: ClaudeOptions,
    config: Config,
    *,
    model: EngineModel | None,
    environ: Mapping[str, str],
) -> tuple[_Session, bool]:
    """Return the session with the configured gateway, and whether that runs."""
    if found := await _find(options, config, model=model, environ=environ):
        return found, True
    url = configured_url(config)
    if url is None:
        raise CommandFailed("server.port is 0, any free one: give --url", code=USAGE)
    if model is not None:
        profile = DialectProfile(context_window=model.context_size)
        chosen = LaunchModel(alias=model.alias, profile=profile, roles={})
    elif config.models:
        chosen = model_of(config, Routes(config), options.model)
    else:
        line = f"nothing is configured, and no gateway runs at {url}: start one (dragoman serve)"
        raise CommandFailed(line, code=USAGE)
    return _Session(base_url=url, token=configured_token(config), model=chosen), False


def _session(gateway: RunningGateway, model: LaunchModel) -> _Session:
    return _Session(base_url=gateway.base_url, token=gateway.token, model=model)


def _token(options: ClaudeOptions, config: Config) -> str:
    """Return the key for the given URL; configured ones are for gateways of this machine."""
    if options.key is not None:
        return options.key.reveal()
    host = urlsplit(options.url or "").hostname or ""
    return configured_token(config) if is_loopback(host) else OPEN


def _private(config: Config, token: str) -> Config:
    """
    Return *config* for a gateway of our own, at a free port of loopback.

    Of the configuration it knows no key but *token*, which is written down nowhere. Ports of their
    own belong to the gateway that may be running beside it.
    """
    plain = {"tls_certificate": None, "tls_key": None}
    return structs.replace(
        config,
        server=structs.replace(config.server, host="127.0.0.1", port=0, **plain),
        keys=(KeyConfig(name=_KEY_NAME, key=Secret(token)),),
        admin=AdminConfig(),
        metrics=MetricsConfig(),
    )


def open_log_file(path: Path) -> io.TextIOWrapper:
    """
    Return the log file, for the user's eyes only; one that has grown too large begins anew.

    Raises:
        CommandFailed: It cannot be written.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    except OSError as error:
        line = f"{path}: {error.strerror or error}; set server.data_dir"
        raise CommandFailed(line, code=CANNOT_START) from None
    file = _BoundedText(open(descriptor, "ab"), encoding="utf-8")  # noqa: SIM115, PTH123
    file.keep_bounded()
    return file


class _BoundedText(io.TextIOWrapper):
    """Text that is emptied when it has grown over the bound."""

    def keep_bounded(self) -> None:
        if os.fstat(self.fileno()).st_size > _MAX_LOG_BYTES:
            os.ftruncate(self.fileno(), 0)

    def flush(self) -> None:
        super().flush()
        if not self.closed:
            self.keep_bounded()
