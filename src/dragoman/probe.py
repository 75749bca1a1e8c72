"""
`dragoman check --probe MODEL`: ask a live model what it can do, write down what differs.

What is asked, and what the answers mean, is in ``core/probes.py`` and ``core/probe_facts.py``. Here
it is sent, a few at a time, with an end to everything, and shown.
"""

import asyncio
import datetime as dt
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from dragoman.build import open_upstream, secrets_of
from dragoman.config import Config, load_config
from dragoman.core.errors import UpstreamError
from dragoman.core.probe_facts import Measured, measure, observe
from dragoman.core.probe_replies import Answer
from dragoman.core.probes import Probe, Probing
from dragoman.core.upstream_errors import redact
from dragoman.exit_codes import FAILED, OK, USAGE, CommandFailed
from dragoman.local import find_local_engines, with_found_engines
from dragoman.policy.routes import Routes, Target
from dragoman.server.transport.ask import ask
from dragoman.server.transport.seams import Timeouts, Upstream, UpstreamRequest
from dragoman.tables import join, unknown_name
from dragoman.terminal import print_line, print_table, printable

_encode: Final = msgspec.json.Encoder().encode
_CONCURRENT: Final = 2  # at a time: free plans and small machines take few
_TIMEOUTS: Final = Timeouts(connect_s=10.0, first_byte_s=120.0, idle_s=60.0)
_PROBE_TIMEOUT_S: Final = 150.0
_TOTAL_TIMEOUT_S: Final = 3600.0
_MAX_REPLY_BYTES: Final = 4 * 2**20
_BUSY: Final = frozenset({429, 502, 503, 504, 529})
_PAUSES_S: Final = (2.0, 10.0)  # before asking a busy server again
_MAX_SHOWN: Final = 60


class ProbeOptions(Struct, frozen=True, kw_only=True):
    """
    What the command line asked for.

    Attributes:
        write: Where the overrides go; None: to stdout.
    """

    config: Path | None
    model: str
    write: Path | None = None


class Findings(Struct, frozen=True, kw_only=True):
    """What a run has measured, and of whom."""

    alias: str
    upstream: str
    model: str
    measured: tuple[Measured, ...]
    observed: tuple[tuple[str, str], ...]
    unanswered: tuple[str, ...]


def probe(
    options: ProbeOptions, *, environ: Mapping[str, str], overrides: Mapping[str, Any]
) -> int:
    """
    Measure one model, print what was found.

    Raises:
        CommandFailed: Nothing can be asked, or nothing answered; nothing has been written.
        ConfigError: The configuration cannot be used.
    """
    if options.write is not None:
        _check_new(options.write)
    config = load_config(options.config, environ=environ, overrides=overrides)
    findings = asyncio.run(_probe(config, options.model, environ=environ))
    snippet = overrides_of(findings, on=dt.date.today())  # noqa: DTZ011 - the user's own day
    # Without a file, stdout holds the overrides and nothing else.
    shown = Console(highlight=False, stderr=options.write is None)
    _print(findings, shown)
    if options.write is None:
        print_line(Console(highlight=False), snippet.rstrip("\n"))
    else:
        _write(options.write, snippet)
        print_line(shown, f"written: {options.write}")
    return OK


async def _probe(config: Config, alias: str, *, environ: Mapping[str, str]) -> Findings:
    if alias not in config.models:
        config = with_found_engines(config, await find_local_engines(config))
    target = _target(config, alias)
    deployment = target.deployment
    upstream = open_upstream(config.upstreams[deployment.upstream], environ=environ)
    probing = Probing(deployment.model, deployment.profile)
    console = Console(highlight=False, stderr=True)
    progress = Progress(
        TextColumn("probing {task.fields[model]}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    try:
        with progress:
            async with asyncio.timeout(_TOTAL_TIMEOUT_S):
                await run_probes(probing, upstream, progress)
    except TimeoutError:
        reason = f"{alias}: not done within {_TOTAL_TIMEOUT_S:g} s; nothing was written"
        raise CommandFailed(reason, code=FAILED) from None
    finally:
        await upstream.close()
    unanswered = [name for name, reply in probing.replies.items() if reply.is_unclear]
    if not probing.problem and len(unanswered) > len(probing.replies) // 2:
        said = f"{len(unanswered)} of {len(probing.replies)} questions had no answer"
        reason = f"{alias}: {deployment.upstream}: {said}; nothing was written"
        raise CommandFailed(reason, code=FAILED)
    if said := probing.problem:
        if not probing.is_unreachable:  # an answer may quote what was sent
            said = redact(said, secrets_of(config.upstreams[deployment.upstream]))
        raise CommandFailed(f"{alias}: {deployment.upstream}: {printable(said)}", code=FAILED)
    return Findings(
        alias=alias,
        upstream=deployment.upstream,
        model=deployment.model,
        measured=measure(probing),
        observed=observe(probing),
        unanswered=tuple(unanswered),
    )


def _target(config: Config, alias: str) -> Target:
    if alias not in config.models:
        line = unknown_name("--probe", f'unknown model "{alias}"', name=alias, known=config.models)
        raise CommandFailed(line, code=USAGE)
    target = Routes(config).resolve(alias).targets[0]
    if target.deployment.kind != "openai":
        reason = (
            "is asked in the Anthropic API: nothing is translated, so nothing is to be measured"
        )
        raise CommandFailed(f"--probe: {alias} {reason}", code=USAGE)
    return target


async def run_probes(probing: Probing, upstream: Upstream, progress: Progress) -> None:
    """Send all probes, round by round, a few at a time."""
    slots = asyncio.Semaphore(_CONCURRENT)
    task = progress.add_task("", total=0, model=printable(probing.model))
    total = 0

    async def send(each: Probe) -> None:
        async with slots:
            probing.take(each.name, await _send(each, upstream))
            progress.advance(task)

    while probes := probing.next_round():
        total += len(probes)
        progress.update(task, total=total)
        async with asyncio.TaskGroup() as group:
            for each in probes:
                group.create_task(send(each))


async def _send(each: Probe, upstream: Upstream) -> Answer:
    """Return the answer, whatever it is; a busy server is asked again."""
    answer = await _send_once(each, upstream)
    for pause_s in _PAUSES_S:
        if answer.status not in _BUSY:
            break
        await asyncio.sleep(pause_s)
        answer = await _send_once(each, upstream)
    return answer


async def _send_once(each: Probe, upstream: Upstream) -> Answer:
    request = UpstreamRequest(
        path=each.path,
        method="GET" if each.body is None else "POST",
        body=b"" if each.body is None else _encode(each.body),
        timeouts=_TIMEOUTS,
        max_body_bytes=_MAX_REPLY_BYTES,
        at_root=each.at_root,
    )
    try:
        async with asyncio.timeout(_PROBE_TIMEOUT_S):
            answer = await ask(upstream, request)
    except TimeoutError:
        return Answer(status=0, failure=f"no answer within {_PROBE_TIMEOUT_S:g} s")
    except UpstreamError as error:
        return Answer(status=0, failure=f"unreachable: {error.log_detail or error.message}")
    return Answer(status=answer.status, body=answer.body)


def _print(findings: Findings, console: Console) -> None:
    rows = [
        (each.fact, _shown(each.value), _shown(each.profile_value), "yes" if each.differs else "")
        for each in findings.measured
    ]
    print_line(console, f"{findings.alias}: {findings.model} of {findings.upstream}")
    print_table(console, ("FACT", "MEASURED", "PROFILE SAYS", "DIFFERS"), rows)
    if findings.observed:
        print_line(console, "")
        print_table(console, ("ALSO SEEN", ""), findings.observed)
    if findings.unanswered:
        names = ", ".join(findings.unanswered)
        print_line(console, f"no answer to {len(findings.unanswered)} probes: {names}")


def _shown(value: object) -> str:
    return toml_value(value).strip('"')[:_MAX_SHOWN]


def overrides_of(findings: Findings, *, on: dt.date) -> str:
    """Return the TOML that makes the profile say what was measured."""
    where = printable(f"{findings.model} of {findings.upstream}")
    lines = [f"# Measured by dragoman check --probe on {on.isoformat()}: {where}."]
    differing = [each for each in findings.measured if each.differs]
    if not differing:
        return f"{lines[0]} The profile is right: nothing to override.\n"
    lines.append(f"[{join(join('models', findings.alias), 'profile')}]")
    lines += [f"{each.fact} = {toml_value(each.value)}" for each in differing]
    return "\n".join(lines) + "\n"


def toml_value(value: object) -> str:
    """Return a fact as the configuration file has it; no value is written ``"none"``."""
    if value is None:
        return '"none"'
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(toml_value, value))}]"
    # For texts, truth values, integers and plain fractions JSON is TOML.
    return _encode(value).decode()


def _check_new(path: Path) -> None:
    """Refuse what could not be written: many questions later that would cost the answers."""
    if path.exists():
        raise CommandFailed(f"{path}: is there already; name a new file", code=USAGE)
    if not path.parent.is_dir():
        raise CommandFailed(f"{path}: there is no folder {path.parent}", code=USAGE)


def _write(path: Path, text: str) -> None:
    """Write a new file, all of it or nothing."""
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise _cannot_write(path, error) from None
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(name).replace(path)
    except OSError as error:
        with suppress(OSError):
            Path(name).unlink()
        raise _cannot_write(path, error) from None


def _cannot_write(path: Path, error: OSError) -> CommandFailed:
    return CommandFailed(f"{path}: {error.strerror or error}; nothing was written", code=FAILED)
