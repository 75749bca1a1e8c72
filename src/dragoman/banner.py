"""What `dragoman serve` says once it listens: how to use it, what answers, and why."""

import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from msgspec import Struct

from dragoman import __version__
from dragoman.build import ENGINE
from dragoman.config import Config, find_config
from dragoman.config_rules import rule_warnings
from dragoman.engine import EngineModel
from dragoman.policy.keys import OPEN
from dragoman.policy.routes import ROLES, Routes
from dragoman.presets import is_loopback, load_catalog
from dragoman.settings import ServerConfig
from dragoman.store_urls import read_store_url
from dragoman.stores.peek import holds_keys
from dragoman.terminal import printable

_MAX_NAMES: Final = 8
_LABEL_WIDTH: Final = 11
_ANY_KEY: Final = "<your key>"
_STORED: Final = "those of the store: dragoman keys list"
_DEMO: Final = (
    "This is a toy model of 2 MB: all of the API works, and what it says means nothing. For a real",
    "model stop it (Ctrl-C) and do one of these:",
    "  set the key of a vendor, {variables} ..., then: {command} serve",
    "  describe your upstreams in ./dragoman.toml, then: {command} serve",
    "  run one on this machine: {command} serve --local",
)


class Serving(Struct, frozen=True, kw_only=True):
    """
    What a gateway serves.

    Attributes:
        config: With the engine and everything that was found.
        base_url: Where it listens.
        engine: The embedded engine's model.
        found: Names of the upstreams that run on this machine already.
        environ: Says which vendors' variables are set, and where the usual file is.
        is_moved: It listens elsewhere than the configuration alone would say.
        command: What a user types to call this program.
    """

    config: Config
    base_url: str
    engine: EngineModel | None = None
    found: tuple[str, ...] = ()
    environ: Mapping[str, str]
    is_moved: bool = False
    command: str = "dragoman"


def own_command(program: str, path: str) -> str:
    """
    Return what calls this very program in a shell: its name, or its place if that finds another.

    Args:
        program: ``sys.argv[0]``.
        path: ``PATH`` of the shell.
    """
    own = Path(program).absolute()
    if own.stem != "dragoman":
        return f"{shlex.quote(sys.executable)} -m dragoman"
    found = shutil.which("dragoman", path=path)
    if found is not None and Path(found).resolve() == own.resolve():
        return "dragoman"
    return shlex.quote(str(own))


def base_url(server: ServerConfig, port: int) -> str:
    """Return the URL for programs of this machine."""
    host, scheme = server.host, "https" if server.tls_certificate else "http"
    if host in {"0.0.0.0", ""}:  # noqa: S104 - it stands for every address, and none can be called by it
        host = "127.0.0.1"
    if host == "::":
        host = "::1"
    return f"{scheme}://[{host}]:{port}" if _is_ipv6(host) else f"{scheme}://{host}:{port}"


def listening_line(serving: Serving) -> str:
    """Return the one line that everything else explains."""
    return f"Dragoman {__version__} listens on {serving.base_url}"


def banner_lines(serving: Serving) -> list[str]:
    """Return the lines of the banner, without any dress."""
    config, routes = serving.config, Routes(serving.config)
    model = routes.roles["default"]
    has_keys = holds_keys(read_store_url(config.store.url, config.server.data_dir))
    token = client_token(config, has_keys=has_keys)
    lines = [listening_line(serving), "", *_usage(serving, model, token=token), ""]
    lines += _labelled("models", _names(routes.aliases))
    lines += _labelled("claude-*", _roles_text(routes))
    lines += _labelled("upstreams", ", ".join(_upstreams(serving)))
    lines += _labelled("keys", _key_names(config, has_keys=has_keys))
    lines += _labelled("settings", str(config.source or ""))
    lines += [f"warning: {printable(line)}" for line in rule_warnings(config)]
    if serving.engine is not None and serving.engine.is_demo:
        lines += ["", *_demo_lines(serving.command)]
    return lines


def client_token(config: Config, *, has_keys: bool | None) -> str:
    """
    Return what stands for the token in a line to copy; a key itself is never shown.

    Args:
        config: What is served.
        has_keys: Whether there are any in the store; None: that is not known.
    """
    if config.keys:
        return f"<key of {config.keys[0].name}>"
    is_open = has_keys is False and is_loopback(config.server.host)
    return OPEN if is_open else _ANY_KEY


def _key_names(config: Config, *, has_keys: bool | None) -> str:
    names = [key.name for key in config.keys]
    if has_keys:
        return f"{_names(names)}, and {_STORED}" if names else _STORED
    if not names and has_keys is False and not is_loopback(config.server.host):
        return "none yet, so nobody is answered: dragoman keys create NAME"
    return _names(names)


def vendor_variables(config: Config, environ: Mapping[str, str]) -> dict[str, str]:
    """Return upstream -> variable for those in use only because the variable is set."""
    presets = load_catalog().presets
    found = {name: presets[name].variable_in(environ) for name in config.automatic}
    return {name: variable for name, variable in found.items() if variable}


def _usage(serving: Serving, model: str, *, token: str) -> list[str]:
    url, shown = serving.base_url, f"'{token}'" if token.startswith("<") else token
    return [
        "Claude Code:",
        f"  {' '.join(_launch_command(serving, model))}",
        "or by itself:",
        f"  export ANTHROPIC_BASE_URL={url}",
        f"  export ANTHROPIC_AUTH_TOKEN={shown}",
        f"  claude --model {shlex.quote(model)}",
        "Python SDK:",
        f'  client = anthropic.Anthropic(base_url="{url}", api_key="{token}")',
        f'  client.messages.create(model="{model}", max_tokens=1000,',
        '      messages=[{"role": "user", "content": "Hello"}])',
    ]


def _launch_command(serving: Serving, model: str) -> list[str]:
    """Return what a user types in this folder to work on this gateway and its default model."""
    command = [serving.command, "claude"]
    source = serving.config.source
    if source is not None and source != find_config(serving.environ):
        command += ["--config", shlex.quote(str(source))]
    first, *others = serving.config.models
    if serving.is_moved:
        command += ["--url", serving.base_url]
        is_found = model == first
    else:  # the configuration alone knows nothing of the engine
        is_found = serving.engine is None or not others
    return command if is_found else [*command, "--model", shlex.quote(model)]


def _roles_text(routes: Routes) -> str:
    roles = routes.roles
    default = roles["default"]
    own = [f"{role}: {roles[role]}" for role in ROLES if roles[role] != default]
    return f"{', '.join(own)}, others: {default}" if own else default


def _upstreams(serving: Serving) -> list[str]:
    config = serving.config
    variables = vendor_variables(config, serving.environ)
    used = {name for model in config.models.values() for name in model.upstream}
    return [f"{name}{_why(name, serving, variables)}" for name in config.upstreams if name in used]


def _why(name: str, serving: Serving, variables: Mapping[str, str]) -> str:
    if serving.engine is not None and name == ENGINE:
        return " (embedded)"
    if name in variables:
        return f" ({variables[name]} is set)"
    return " (found on this machine)" if name in serving.found else ""


def _demo_lines(command: str) -> list[str]:
    variables = [preset.key_variables[0] for preset in load_catalog().presets.values()][:3]
    return [line.format(variables=", ".join(variables), command=command) for line in _DEMO]


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return ", ".join(names[:_MAX_NAMES]) + more


def _labelled(label: str, text: str) -> list[str]:
    return [f"{label.ljust(_LABEL_WIDTH)}{printable(text)}"] if text else []


def _is_ipv6(host: str) -> bool:
    try:
        return ip_address(host).version == 6
    except ValueError:
        return False


def nothing_to_serve(config: Config) -> str:
    """Say what to do where there is no model."""
    asked = [name for name, upstream in config.upstreams.items() if upstream.discover]
    if asked:
        return (
            f"{config.source}: no model: no engine of upstreams.{', '.join(asked)} says what it "
            "serves; start one first, or add [models.NAME]"
        )
    if config.upstreams:
        return f"{config.source}: no model; add [models.NAME] with upstream = ..."
    variables = [preset.key_variables[0] for preset in load_catalog().presets.values()]
    return (
        "nothing to serve: set a vendor's key "
        f"({', '.join(variables[:3])}, ...), write ./dragoman.toml, or use `dragoman serve --demo` "
        "(a toy model) or `dragoman serve --local` (a model on this machine)"
    )
