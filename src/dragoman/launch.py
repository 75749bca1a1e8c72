"""
`dragoman claude`: the environment in which Claude Code behaves on a model that it does not know.

What each variable does was seen by running Claude Code 2.1.330 (real clients, section 1.9).
"""

import os
import shutil
from collections.abc import Iterable, Mapping
from typing import Final, Literal
from urllib.parse import urlsplit

from msgspec import Struct, structs

from dragoman.build import ENGINE
from dragoman.core.dialects.profile import DialectProfile
from dragoman.core.errors import UnknownModel
from dragoman.exit_codes import USAGE, CommandFailed
from dragoman.gateways import RunningGateway
from dragoman.policy.routes import ROLES, Route, Routes
from dragoman.presets import is_loopback
from dragoman.settings import Config
from dragoman.tables import unknown_name

Shell = Literal["bash", "fish", "powershell"]

_ROLES: Final = ("OPUS", "SONNET", "HAIKU", "FABLE")
_DEFAULT_OUTPUT_TOKENS: Final = 32_000  # what Claude Code itself asks for
_LONG_CONTEXT_TOKENS: Final = 1_000_000  # the window behind Claude Code's suffix [1m]
# Set by us whatever the user has: without these another server or account would be used.
_ESSENTIAL: Final = frozenset({"ANTHROPIC_BASE_URL", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_MODEL"})
# A key of the user's own would be sent beside ours, and Claude Code asks which one to use; the
# others send it to a cloud, whatever the base URL.
_REMOVED: Final = (
    "ANTHROPIC_API_KEY",
    "CLAUDE_CODE_USE_BEDROCK",
    "CLAUDE_CODE_USE_FOUNDRY",
    "CLAUDE_CODE_USE_VERTEX",
)
_SUBAGENTS: Final = "CLAUDE_CODE_SUBAGENT_MODEL"
_PROXY_VARIABLES: Final = ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")
_PROXY_EXCEPTIONS: Final = ("NO_PROXY", "no_proxy")


class LaunchModel(Struct, frozen=True, kw_only=True):
    """The model to run on, and what the role names become."""

    alias: str
    profile: DialectProfile
    roles: Mapping[str, str]  # opus, sonnet, haiku, fable -> alias


def client_environment(base_url: str, token: str, *, model: LaunchModel) -> dict[str, str]:
    """
    Return the variables for Claude Code.

    Args:
        base_url: Of the gateway, without ``/v1``.
        token: A client key of the gateway.
        model: What to run on.
    """
    variables = {
        "ANTHROPIC_BASE_URL": base_url,
        "ANTHROPIC_AUTH_TOKEN": token,
        "ANTHROPIC_MODEL": model.alias,
    }
    for role in _ROLES:
        alias = model.roles.get(role.lower(), model.alias)
        variables[f"ANTHROPIC_DEFAULT_{role}_MODEL"] = alias
    variables["ANTHROPIC_SMALL_FAST_MODEL"] = model.roles.get("haiku", model.alias)
    profile = model.profile
    if profile.context_window:  # unknown names are taken for a million tokens otherwise
        variables["CLAUDE_CODE_MAX_CONTEXT_TOKENS"] = str(profile.context_window)
        if profile.context_window < _LONG_CONTEXT_TOKENS:
            # The picker's default is the model with "[1m]", whatever the line above says.
            variables["CLAUDE_CODE_DISABLE_1M_CONTEXT"] = "1"
    output = min(profile.max_output_tokens or _DEFAULT_OUTPUT_TOKENS, _DEFAULT_OUTPUT_TOKENS)
    if profile.context_window:  # an answer may not fill the window that the prompt needs
        output = min(output, max(1024, profile.context_window // 4))
    variables["CLAUDE_CODE_MAX_OUTPUT_TOKENS"] = str(output)
    variables |= {
        # MCP schemas stay out of the prompt until they are searched for.
        "ENABLE_TOOL_SEARCH": "true",
        # The block changes with every prompt and would spoil upstream prefix caches.
        "CLAUDE_CODE_ATTRIBUTION_HEADER": "0",
        "CLAUDE_CODE_ENABLE_GATEWAY_MODEL_DISCOVERY": "1",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        # Headers say which calls nobody waits for; what is not recognised by its shape is by them.
        "CLAUDE_CODE_GATEWAY_HINT_HEADERS": "1",
        "API_TIMEOUT_MS": "900000",
    }
    return variables


def merged_environment(own: Mapping[str, str], variables: Mapping[str, str]) -> dict[str, str]:
    """Return *own* with *variables*; what the user has set himself stays, but for the decisive."""
    removed = removed_variables(variables, own)
    decisive = decisive_variables(variables, own)
    kept = {name: value for name, value in own.items() if name not in removed}
    merged = kept | {k: v for k, v in variables.items() if k in decisive or k not in own}
    host = urlsplit(variables["ANTHROPIC_BASE_URL"]).hostname or ""
    if is_loopback(host) and any(own.get(name) for name in _PROXY_VARIABLES):
        merged |= _with_proxy_exception(own, host)
    return merged


def decisive_variables(variables: Mapping[str, str], own: Mapping[str, str]) -> dict[str, str]:
    """Return those of *variables* that stand above *own*, what the user has set himself."""
    is_elsewhere = _leads_elsewhere(variables, own)
    return {
        name: value
        for name, value in variables.items()
        if name in _ESSENTIAL or (is_elsewhere and name.endswith("_MODEL"))
    }


def removed_variables(variables: Mapping[str, str], own: Mapping[str, str]) -> tuple[str, ...]:
    """Return the names in *own* that must not be there beside *variables*."""
    more = (_SUBAGENTS,) if _leads_elsewhere(variables, own) else ()
    return tuple(name for name in (*_REMOVED, *more) if own.get(name))


def _leads_elsewhere(variables: Mapping[str, str], own: Mapping[str, str]) -> bool:
    """Say whether *own* is for another server, whose names of models mean nothing here."""
    return own.get("ANTHROPIC_BASE_URL", "") not in {"", variables["ANTHROPIC_BASE_URL"]}


def _with_proxy_exception(own: Mapping[str, str], host: str) -> dict[str, str]:
    """Return the variables by which a proxy is not asked for *host*, which only we can reach."""
    known = next((own[name] for name in _PROXY_EXCEPTIONS if own.get(name)), "")
    listed = ",".join(part for part in (known, host) if part)
    return dict.fromkeys(_PROXY_EXCEPTIONS, listed)


def model_of(config: Config, routes: Routes, requested: str | None) -> LaunchModel:
    """
    Return what to run on, with a gateway that serves *config*.

    Args:
        config: Says which roles were written down.
        routes: Of *config*; there must be one.
        requested: A name of a model or role; None: the default.

    Raises:
        CommandFailed: There is no such model.
    """
    if requested is None:
        route = routes.resolve(routes.roles["default"])
        return LaunchModel(alias=route.alias, profile=route.profile, roles=_without(routes.roles))
    try:
        route = routes.resolve(requested)
    except UnknownModel:
        raise _no_model(requested, routes.aliases) from None
    roles = _roles_beside(route, config, routes)
    return LaunchModel(alias=route.alias, profile=route.profile, roles=roles)


def model_at(gateway: RunningGateway, config: Config, requested: str | None) -> LaunchModel | None:
    """Return what to run on at *gateway*; None: what *config* or the user wants is not there."""
    routes = Routes(config)
    if requested is None and not routes:
        return _listed(gateway, gateway.models[0].id)
    if requested is not None and gateway.find(requested):
        return _listed(gateway, requested)
    try:
        model = model_of(config, routes, requested)
    except CommandFailed:
        return None
    if gateway.find(model.alias) is None:
        return None
    roles = {role: name for role, name in model.roles.items() if gateway.find(name)}
    return structs.replace(model, roles=roles)


def model_at_url(gateway: RunningGateway, requested: str | None) -> LaunchModel:
    """
    Return what to run on at a gateway of which no configuration tells.

    Raises:
        CommandFailed: There is no such model.
    """
    name = gateway.models[0].id if requested is None else requested
    if gateway.find(name) is None:
        raise _no_model(name, [model.id for model in gateway.models])
    return _listed(gateway, name)


def _listed(gateway: RunningGateway, name: str) -> LaunchModel:
    model = gateway.find(name)
    assert model is not None
    profile = DialectProfile(
        context_window=model.max_input_tokens, max_output_tokens=model.max_tokens
    )
    return LaunchModel(alias=model.id, profile=profile, roles={})


def _roles_beside(route: Route, config: Config, routes: Routes) -> dict[str, str]:
    """
    Return the roles for a model that the user has chosen.

    A role that is written down stays. Any other must not lead to an upstream that the user may
    not have had in mind, and from the embedded engine none at all leads away.
    """
    upstreams = route.upstreams
    if upstreams == (ENGINE,):
        return {}
    written = structs.asdict(config.roles)
    return {
        role: alias
        for role, alias in _without(routes.roles).items()
        if written[role] == alias or routes.resolve(alias).upstreams == upstreams
    }


def _without(roles: Mapping[str, str]) -> dict[str, str]:
    """Return *roles* without the default, which Claude Code has no name for."""
    return {role: roles[role] for role in ROLES}


def _no_model(name: str, known: Iterable[str]) -> CommandFailed:
    return CommandFailed(
        unknown_name("--model", f'no model "{name}"', name=name, known=known), code=USAGE
    )


def shell_lines(variables: Mapping[str, str], shell: Shell) -> list[str]:
    """Return the lines that set *variables* in a shell."""
    forms = {
        "bash": lambda k, v: f"export {k}={_quote(v, backslash=False)}",
        "fish": lambda k, v: f"set -gx {k} {_quote(v, backslash=True)}",
        "powershell": lambda k, v: "$Env:{} = '{}'".format(k, v.replace("'", "''")),
    }
    return [forms[shell](key, value) for key, value in variables.items()]


def unset_lines(names: Iterable[str], shell: Shell) -> list[str]:
    """Return the lines that take *names* out of a shell's environment."""
    forms = {
        "bash": "unset {}",
        "fish": "set -e {}",
        "powershell": "Remove-Item Env:{} -ErrorAction SilentlyContinue",
    }
    return [forms[shell].format(name) for name in names]


def find_claude(path: str | None = None) -> str | None:
    """Return the ``claude`` executable, or None."""
    return shutil.which("claude", path=path if path is not None else os.environ.get("PATH"))


def _quote(value: str, *, backslash: bool) -> str:
    if backslash:
        return "'{}'".format(value.replace("\\", "\\\\").replace("'", "\\'"))
    return "'{}'".format(value.replace("'", "'\\''"))
