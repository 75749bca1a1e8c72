"""`dragoman explain`: what would become of a request, by the configuration, without sending it."""

import asyncio
import io
import secrets
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct, structs
from rich.console import Console

from dragoman.build import build_gateway
from dragoman.config import Config, load_config
from dragoman.core.errors import GatewayError
from dragoman.exit_codes import FAILED, OK, USAGE, CommandFailed
from dragoman.local import find_local_engines
from dragoman.serve import complete_config
from dragoman.server.explain import Explanation, ShownTarget
from dragoman.server.telemetry import EventLog
from dragoman.settings import Secret, StoreConfig, TracingConfig
from dragoman.signing_file import has_signing_secret
from dragoman.store_urls import NO_STORE
from dragoman.terminal import print_line, printable

_STDIN: Final = "-"


class ExplainOptions(Struct, frozen=True, kw_only=True):
    """
    What the command line says.

    Attributes:
        config: The configuration file; None: the usual ones are looked for.
        request: A file with the body of a request; ``-``: standard input.
        headers: ``NAME: VALUE`` each, as the client would send them.
        is_json: Print JSON, as the admin API answers.
    """

    config: Path | None
    request: str
    headers: tuple[str, ...]
    is_json: bool


def explain(options: ExplainOptions, *, environ: Mapping[str, str]) -> int:
    """
    Print what would become of the request, return the exit code.

    Raises:
        ConfigError: The configuration cannot be used.
        CommandFailed: There is no such request, or it would be refused.
    """
    config = load_config(options.config, environ=environ)
    config = complete_config(config, None, asyncio.run(find_local_engines(config)))
    body = _read(options.request, config.server.max_body_bytes)
    headers = dict(_header(line) for line in options.headers)
    try:
        said = asyncio.run(_explain(config, body, headers=headers, environ=environ))
    except GatewayError as error:
        message = f"{options.request}: {error.kind}: {error.message}"
        raise CommandFailed(message, code=USAGE) from None
    if options.is_json:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(said)).decode() + "\n")
    else:
        console = Console(highlight=False)
        for line in explanation_lines(said):
            print_line(console, line)
    return OK if any(target.request for target in said.targets) else FAILED


async def _explain(
    config: Config, body: bytes, *, headers: Mapping[bytes, bytes], environ: Mapping[str, str]
) -> Explanation:
    gateway = build_gateway(_without_traces(config), log=_no_log(), environ=environ)
    try:
        return await gateway.explainer.explain(body, headers)
    finally:
        await gateway.close()


def _without_traces(config: Config) -> Config:
    """Return *config* so that building it leaves nothing behind: no store, no new secret."""
    server = config.server
    if not has_signing_secret(server):
        server = structs.replace(server, signing_secret=Secret(secrets.token_hex(32)))
    nothing_kept = StoreConfig(url=Secret(NO_STORE))
    return structs.replace(config, server=server, store=nothing_kept, tracing=TracingConfig())


def _no_log() -> EventLog:
    return EventLog("json", io.StringIO())


def _read(name: str, max_bytes: int) -> bytes:
    try:
        if name == _STDIN:
            body = sys.stdin.buffer.read(max_bytes + 1)
        elif not name:
            raise CommandFailed("FILE: is empty; name a file, or - for stdin", code=USAGE)
        else:
            with Path(name).open("rb") as file:
                body = file.read(max_bytes + 1)
    except OSError as error:
        raise CommandFailed(f"{name}: {error.strerror or error}", code=USAGE) from None
    if len(body) > max_bytes:
        raise CommandFailed(f"{name}: larger than server.max_body_bytes", code=USAGE)
    return body


def _header(line: str) -> tuple[bytes, bytes]:
    name, mark, value = line.partition(":")
    if not mark or not name.strip() or not line.isascii() or not line.isprintable():
        raise CommandFailed(f'--header: "{line}" is not NAME: VALUE', code=USAGE)
    return name.strip().lower().encode(), value.strip().encode()


# -- for people


def explanation_lines(said: Explanation) -> Iterator[str]:
    """Yield what is printed."""
    role = f", as {said.role} traffic" if said.role else ""
    yield printable(f"{said.model} -> {said.alias}{role}")
    if (adjustment := said.model_adjustment) is not None:
        yield printable(f"   {adjustment.field} {adjustment.action}: {adjustment.reason}")
    for number, target in enumerate(said.targets, 1):
        yield ""
        yield from _target_lines(number, target)
    if said.fallbacks:
        yield ""
        yield printable(f"then: {', '.join(said.fallbacks)}")


def _known_as(dialect: str) -> str:
    return "a model that nothing is known of" if dialect.startswith("this model") else dialect


def _target_lines(number: int, target: ShownTarget) -> Iterator[str]:
    facts = [f"{target.kind} API", _known_as(target.dialect)]
    if target.input_tokens_estimate is not None:
        facts.append(f"about {target.input_tokens_estimate} tokens")
    if target.is_streamed is not None:
        facts.append("streamed" if target.is_streamed else "whole")
    yield printable(f"{number}. {target.endpoint}: {target.model} ({', '.join(facts)})")
    if target.skipped:
        yield printable(f"   not asked: {target.skipped}")
    for each in target.adjustments:
        yield printable(f"   {each.field} {each.action}: {each.reason}")
    if target.error is not None:
        yield printable(f"   not sent: {target.error['type']}: {target.error['message']}")
    if (request := target.request) is None:
        return
    yield printable(f"   {request.method} {request.url}")
    for name, value in request.headers.items():
        yield printable(f"   {name}: {value}")
    body: Any = request.body
    shown = "(left out: too large)" if body is None else msgspec.json.format(bytes(body)).decode()
    for line in shown.splitlines():
        yield f"   {printable(line)}"
