"""
`dragoman claude`: the environment in which Claude Code behaves on a model that it does not know.

What each variable does was seen by running Claude Code 2.1.330 (real clients, section 1.9).
"""

import os
import shutil
from collections.abc import Mapping
from typing import Final, Literal

from msgspec import Struct

from dragoman.core.dialects.profile import DialectProfile

Shell = Literal["bash", "fish", "powershell"]

_ROLES: Final = ("OPUS", "SONNET", "HAIKU", "FABLE")
_DEFAULT_OUTPUT_TOKENS: Final = 32_000  # what Claude Code itself asks for
# Set by us whatever the user has: without these another server or account would be used.
_ESSENTIAL: Final = frozenset({"ANTHROPIC_BASE_URL", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_MODEL"})
# A key of the user's own would be sent beside ours, and Claude Code asks which one to use.
_REMOVED: Final = ("ANTHROPIC_API_KEY",)


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
        "API_TIMEOUT_MS": "900000",
    }
    return variables


def merged_environment(own: Mapping[str, str], variables: Mapping[str, str]) -> dict[str, str]:
    """Return *own* with *variables*; what the user has set himself stays, but for the essential."""
    kept = {key: value for key, value in own.items() if key not in _REMOVED}
    return kept | {k: v for k, v in variables.items() if k in _ESSENTIAL or k not in own}


def shell_lines(variables: Mapping[str, str], shell: Shell) -> list[str]:
    """Return the lines that set *variables* in a shell."""
    forms = {
        "bash": lambda k, v: f"export {k}={_quote(v, backslash=False)}",
        "fish": lambda k, v: f"set -gx {k} {_quote(v, backslash=True)}",
        "powershell": lambda k, v: "$Env:{} = '{}'".format(k, v.replace("'", "''")),
    }
    return [forms[shell](key, value) for key, value in variables.items()]


def find_claude(path: str | None = None) -> str | None:
    """Return the ``claude`` executable, or None."""
    return shutil.which("claude", path=path if path is not None else os.environ.get("PATH"))


def _quote(value: str, *, backslash: bool) -> str:
    if backslash:
        return "'{}'".format(value.replace("\\", "\\\\").replace("'", "\\'"))
    return "'{}'".format(value.replace("'", "'\\''"))
