"""
`dragoman check`: is the configuration right, and does every upstream answer with its key?

Looking costs nothing: lists of models are free everywhere. ``--live`` also asks every model for
one word, through a gateway like the one that would be served. Keys are never shown.
"""

import asyncio
import io
import secrets
import ssl
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct, structs
from rich.console import Console

from dragoman.banner import nothing_to_serve, vendor_variables
from dragoman.build import open_endpoint, open_upstream
from dragoman.check_files import file_problems
from dragoman.check_traces import check_traces
from dragoman.config import NO_ADDRESS, Config, Examined, examine_config
from dragoman.config_rules import url_problem
from dragoman.core.errors import (
    GatewayError,
    StoreUnavailable,
    UpstreamError,
    UpstreamTimeout,
)
from dragoman.exit_codes import FAILED, OK, CommandFailed
from dragoman.local import find_local_engines, with_found_engines
from dragoman.model_lists import get, read_list
from dragoman.policy.endpoints import Endpoint, endpoints_of
from dragoman.route_warnings import route_warnings
from dragoman.serve import open_gateway
from dragoman.server.telemetry import EventLog, RequestRecord
from dragoman.server.transport.ask import ask
from dragoman.server.transport.seams import Timeouts, Upstream, UpstreamRequest
from dragoman.settings import (
    AdminConfig,
    KeyConfig,
    MetricsConfig,
    Secret,
    StoreConfig,
    TracingConfig,
    UpstreamConfig,
)
from dragoman.sharing import check_extra
from dragoman.store_urls import NO_STORE, read_store_url
from dragoman.stores.opening import look_at_store
from dragoman.stores.redis_link import RedisLink
from dragoman.stores.versions import too_new
from dragoman.tables import ConfigError, join, nearest
from dragoman.terminal import print_line, print_table, printable

_TIMEOUT_S: Final = 15.0
_LIVE_TIMEOUT_S: Final = 120.0  # a model that thinks may take its time for one word
_MAX_LIVE: Final = 4  # at a time: free plans allow few
_PATHS: Final = {"openai": "/models", "anthropic": "/v1/models"}
_REFUSED: Final = frozenset({401, 402, 403})
_ABSENT: Final = frozenset({404, 405, 501})
_MAX_AT_ONCE: Final = 32  # endpoints of one upstream
_MAX_REASON: Final = 200
_NO_FAULT: Final = ("ok", "warning: ")
_LIVE_BODY: Final = {
    "max_tokens": 32,
    "messages": [{"role": "user", "content": "Answer with the word ok."}],
}

Outcome = Literal["ok", "no list", "FAILED", "skipped"]


class UpstreamCheck(Struct, frozen=True, kw_only=True):
    """
    What came of asking an upstream for its models.

    Attributes:
        outcome: ``no list``: it answers, but lists no models, which is allowed.
        reason: What is behind an outcome that is not ``ok``.
        listed: The names in its list.
    """

    name: str
    outcome: Outcome
    reason: str = ""
    listed: tuple[str, ...] = ()


class LiveCheck(Struct, frozen=True, kw_only=True):
    """What came of one small message to a model."""

    alias: str
    is_ok: bool
    text: str


def check(
    path: Path | None, *, environ: Mapping[str, str], overrides: Mapping[str, Any], is_live: bool
) -> int:
    """Print what was found, return the exit code."""
    console = Console(highlight=False)
    try:
        examined = examine_config(path, environ=environ, overrides=overrides)
    except ConfigError as error:
        for line in error.problems:
            print_line(console, f"problem: {line}", style="red")
        return FAILED
    return asyncio.run(_check(examined, console, environ=environ, is_live=is_live))


async def _check(
    examined: Examined, console: Console, *, environ: Mapping[str, str], is_live: bool
) -> int:
    if not examined.problems:
        examined = structs.replace(examined, problems=tuple(file_problems(examined.config)))
    found = await find_local_engines(examined.config)
    config = with_found_engines(examined.config, found)
    _print_file(examined, console)
    checks = await check_upstreams(config, examined.problems, environ=environ)
    live: tuple[LiveCheck, ...] = ()
    if is_live and not examined.problems and config.models:
        live = await check_models(config, environ=environ)
    shared = {
        "store": await check_store(config, examined.problems),
        "redis": await check_redis(config, examined.problems),
        "tracing": await check_traces(config, examined.problems, environ=environ),
    }
    _print_upstreams(config, checks, console, environ=environ)
    for name, result in shared.items():
        if result:
            print_line(console, f"{name}: {printable(result)}")
    _print_models(config, checks, live, console=console)
    if not config.models:
        print_line(console, f"problem: {nothing_to_serve(config)}", style="red")
    failed = [result for result in shared.values() if result and not result.startswith(_NO_FAULT)]
    return exit_code(config, (*examined.problems, *failed), checks, live)


def exit_code(
    config: Config,
    problems: Sequence[str],
    checks: Iterable[UpstreamCheck],
    live: Iterable[LiveCheck],
) -> int:
    """Return 0 if a gateway would start and every answer was good."""
    is_well = (
        not problems
        and bool(config.models)
        and all(each.outcome != "FAILED" for each in checks)
        and all(each.is_ok for each in live)
    )
    return OK if is_well else FAILED


async def check_redis(config: Config, problems: Sequence[str]) -> str:
    """Return ``ok``, or why Redis cannot be used; empty: there is none to be asked."""
    if config.redis is None or any(line.startswith("redis.") for line in problems):
        return ""
    try:
        check_extra()
    except CommandFailed as error:
        return str(error)
    reasons: list[str] = []
    link = RedisLink(config.redis)
    link.on_change(lambda _, reason: reasons.append(reason))
    await link.open()
    await link.close()
    return f"FAILED: {reasons[0][:_MAX_REASON]}" if reasons else "ok"


async def check_store(config: Config, problems: Sequence[str]) -> str:
    """Return ``ok`` and where the store is, or why it cannot be used; empty: none is wanted."""
    if any(line.startswith("store.") for line in problems):
        return ""
    url = read_store_url(config.store.url, config.server.data_dir)
    if url is None:
        return ""
    if url.is_missing:
        return f"ok, none yet; what is kept first makes {url}"
    try:
        found = await look_at_store(url, config.store)
    except StoreUnavailable as error:
        return f"FAILED: {url}: {error.log_detail[:_MAX_REASON]}"
    except ConfigError as error:
        return f"FAILED: {error}"
    if found.state == "newer":
        return f"FAILED: {too_new(url, found.version)}"
    return f"ok, {url}"


async def check_upstreams(
    config: Config, problems: Sequence[str], *, environ: Mapping[str, str]
) -> tuple[UpstreamCheck, ...]:
    """Ask every upstream for its models, all at the same time."""
    tls = ssl.create_default_context()
    checks = (
        _check_upstream(name, upstream, problems, environ=environ, tls=tls)
        for name, upstream in config.upstreams.items()
    )
    return tuple(await asyncio.gather(*checks))


async def _check_upstream(
    name: str,
    upstream: UpstreamConfig,
    problems: Sequence[str],
    *,
    environ: Mapping[str, str],
    tls: ssl.SSLContext,
) -> UpstreamCheck:
    path = join("upstreams", name)
    if url_problem(upstream.base_url) or any(line.startswith(f"{path}.") for line in problems):
        return UpstreamCheck(name=name, outcome="skipped", reason="see its problem above")
    slots = asyncio.Semaphore(_MAX_AT_ONCE)
    checks = await asyncio.gather(
        *(
            _check_endpoint(each, upstream, slots=slots, environ=environ, tls=tls)
            for each in endpoints_of(name, upstream)
        )
    )
    return _sum_up(name, checks)


async def _check_endpoint(
    endpoint: Endpoint,
    upstream: UpstreamConfig,
    *,
    slots: asyncio.Semaphore,
    environ: Mapping[str, str],
    tls: ssl.SSLContext,
) -> UpstreamCheck:
    """Ask one address with one key."""
    name = endpoint.name
    headers = [(b"anthropic-version", b"2023-06-01")] if upstream.kind == "anthropic" else []
    async with slots:
        opened = open_endpoint(endpoint, upstream, environ=environ, tls=tls)
        try:
            answer = await get(opened, _PATHS[upstream.kind], timeout_s=_TIMEOUT_S, headers=headers)
        except UpstreamError as error:
            reason = f"unreachable: {_reason(error)}"
            return UpstreamCheck(name=name, outcome="FAILED", reason=reason)
        finally:
            await opened.close()
    return read_answer(upstream, name, status=answer.status, body=answer.body)


def _sum_up(name: str, checks: Sequence[UpstreamCheck]) -> UpstreamCheck:
    """Return what came of all endpoints: one that fails fails the upstream; a model is on all."""
    failed = [each for each in checks if each.outcome == "FAILED"]
    first = (failed or checks)[0]
    if len(checks) == 1:
        return first
    if failed:
        reason = f"{len(failed)} of {len(checks)} endpoints; {first.name}: {first.reason}"
        return UpstreamCheck(name=name, outcome="FAILED", reason=reason)
    lists = [each.listed for each in checks if each.outcome == "ok"]
    on_all = [model for model in (lists or [()])[0] if all(model in other for other in lists)]
    return structs.replace(first, name=name, listed=tuple(on_all))


def read_answer(upstream: UpstreamConfig, name: str, *, status: int, body: bytes) -> UpstreamCheck:
    """Say what the answer to GET models means."""
    if status in _REFUSED:
        what = "its key is refused" if upstream.keys else "it wants a key: set api_key"
        return UpstreamCheck(name=name, outcome="FAILED", reason=f"{what} ({status})")
    if status in _ABSENT:
        return UpstreamCheck(name=name, outcome="no list", reason=f"no such endpoint ({status})")
    if status != 200:
        return UpstreamCheck(name=name, outcome="FAILED", reason=f"it answers {status}")
    listed = tuple(model.id for model in read_list(body))
    if not listed:
        reason = "its answer is no list of models: is base_url right?"
        return UpstreamCheck(name=name, outcome="FAILED", reason=reason)
    return UpstreamCheck(name=name, outcome="ok", listed=listed)


def _reason(error: GatewayError) -> str:
    return (error.log_detail or error.message)[:_MAX_REASON]


async def check_models(config: Config, *, environ: Mapping[str, str]) -> tuple[LiveCheck, ...]:
    """Send one small message to every model, through a gateway that only we can use."""
    token = secrets.token_urlsafe(32)
    private = structs.replace(
        config,
        server=structs.replace(config.server, host="127.0.0.1", port=0, local_engines=False),
        store=StoreConfig(url=Secret(NO_STORE)),
        redis=None,
        admin=AdminConfig(),
        metrics=MetricsConfig(),
        tracing=TracingConfig(),
        keys=(KeyConfig(name="check", key=Secret(token)),),
    )
    log = _Details()
    async with AsyncExitStack() as stack:
        running = await stack.enter_async_context(open_gateway(private, log=log, environ=environ))
        own = UpstreamConfig(
            base_url=running.serving.base_url, kind="anthropic", api_key=Secret(token)
        )
        client = open_upstream(own, environ={})
        stack.push_async_callback(client.close)
        limit = asyncio.Semaphore(_MAX_LIVE)
        checks = (_check_model(client, alias, limit) for alias in config.models)
        return tuple(log.explain(each) for each in await asyncio.gather(*checks))


class _Details(EventLog):
    """Keeps what clients are not told: why an upstream refused."""

    def __init__(self) -> None:
        super().__init__("json", io.StringIO())
        self._details: dict[str, str] = {}

    def request(self, record: RequestRecord, now_s: float) -> None:  # noqa: ARG002 - as there
        self._details[record.model] = record.error_detail

    def explain(self, live: LiveCheck) -> LiveCheck:
        """Return *live* with the upstream's own words."""
        detail = self._details.get(live.alias, "")
        if live.is_ok or not detail:
            return live
        return structs.replace(live, text=f"{live.text} ({detail[:_MAX_REASON]})")


async def _check_model(client: Upstream, alias: str, limit: asyncio.Semaphore) -> LiveCheck:
    request = UpstreamRequest(
        path="/v1/messages",
        body=msgspec.json.encode({"model": alias, **_LIVE_BODY}),
        timeouts=Timeouts(_TIMEOUT_S, _LIVE_TIMEOUT_S, _LIVE_TIMEOUT_S),
    )
    async with limit:
        started_s = time.monotonic()
        try:
            async with asyncio.timeout(_LIVE_TIMEOUT_S):
                answer = await ask(client, request)
        except TimeoutError:
            error = UpstreamTimeout(f"no answer within {_LIVE_TIMEOUT_S:g} s")
            return LiveCheck(alias=alias, is_ok=False, text=_reason(error))
        except UpstreamError as error:
            return LiveCheck(alias=alias, is_ok=False, text=_reason(error))
    if answer.status == 200:
        return LiveCheck(alias=alias, is_ok=True, text=f"{time.monotonic() - started_s:.1f} s")
    return LiveCheck(alias=alias, is_ok=False, text=f"{answer.status}: {_message_of(answer.body)}")


def _message_of(body: bytes) -> str:
    """Return the message of an error in the API's shape."""
    try:
        return str(msgspec.json.decode(body)["error"]["message"])
    except (msgspec.DecodeError, LookupError, TypeError):
        return "no error in the API's shape"


def _print_file(examined: Examined, console: Console) -> None:
    source = examined.config.source
    print_line(console, f"settings: {source or 'no file; defaults and the environment'}")
    for line in examined.problems:
        print_line(console, f"problem: {printable(line)}", style="red")
    more = () if examined.problems else route_warnings(examined.config)
    for line in (*examined.warnings, *more):
        print_line(console, f"warning: {printable(line)}", style="yellow")


def _print_upstreams(
    config: Config,
    checks: Sequence[UpstreamCheck],
    console: Console,
    *,
    environ: Mapping[str, str],
) -> None:
    variables = vendor_variables(config, environ)
    rows = []
    for each in checks:
        upstream = config.upstreams[each.name]
        why = f" ({variables[each.name]} is set)" if each.name in variables else ""
        # One with a credential in it is a problem, and credentials are not shown.
        is_shown = upstream.base_url != NO_ADDRESS and not url_problem(upstream.base_url)
        url = upstream.base_url if is_shown else "?"
        if (n_more := len(upstream.addresses) - 1) > 0:
            url = f"{url} and {n_more} more"
        row = (f"{each.name}{why}", upstream.kind, upstream.platform, url)
        rows.append((*row, _result(each)))
    if rows:
        print_line(console, "")
        print_table(console, ("UPSTREAM", "KIND", "PLATFORM", "BASE URL", "RESULT"), rows)


def _result(checked: UpstreamCheck) -> str:
    if checked.outcome == "ok":
        n = len(checked.listed)
        return f"ok, lists {n} model{'s' if n > 1 else ''}"
    return f"{checked.outcome}: {checked.reason}"


def _print_models(
    config: Config,
    checks: Sequence[UpstreamCheck],
    live: Sequence[LiveCheck],
    *,
    console: Console,
) -> None:
    listed = {each.name: each.listed for each in checks if each.outcome == "ok"}
    answers = {each.alias: each for each in live}
    columns = ("MODEL", "UPSTREAM", "ITS NAME THERE", "LISTED", *(("LIVE",) if live else ()))
    rows = [
        (*_model_row(config, alias, name, listed), *_live_cells(answers, alias))
        for alias, model in config.models.items()
        for name in model.upstream
    ]
    if rows:
        print_line(console, "")
        print_table(console, columns, rows)


def _model_row(
    config: Config, alias: str, upstream: str, listed: Mapping[str, Sequence[str]]
) -> tuple[str, ...]:
    name = config.upstream_model(alias, upstream)
    is_in_part = alias in config.served_at and upstream in listed  # and asked for only there
    text = "by some addresses" if is_in_part else listed_text(name, listed.get(upstream))
    return alias, upstream, name, text


def listed_text(name: str, listed: Sequence[str] | None) -> str:
    """Say whether an upstream lists *name*; not all of them list all that they serve."""
    if listed is None:
        return "unknown"
    if name in listed:
        return "yes"
    near = nearest(name, listed)
    return f'no; did you mean "{near}"?' if near else "no"


def _live_cells(answers: Mapping[str, LiveCheck], alias: str) -> tuple[str, ...]:
    if not answers:
        return ()
    answer = answers[alias]
    return (f"{'ok' if answer.is_ok else 'FAILED'}: {answer.text}",)
