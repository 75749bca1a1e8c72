"""Config -> Gateway: the composition root, the only place that picks classes."""

import hashlib
import random
import ssl
import time
from collections.abc import Mapping
from functools import partial
from typing import Final

from dragoman.build_limits import build_admission, build_limiter, build_lines
from dragoman.config import Config
from dragoman.core.signatures import Signer
from dragoman.engine import Engine, EngineLink
from dragoman.gateway import Gateway, Lasting, Switch
from dragoman.policy.calibration import Calibration
from dragoman.policy.choice import Chooser
from dragoman.policy.cross_origin import CrossOrigin
from dragoman.policy.endpoints import Endpoint, endpoints_of, shared_names
from dragoman.policy.expected_use import ExpectedUse
from dragoman.policy.health import Health
from dragoman.policy.hedges import Hedges
from dragoman.policy.keys import KeyRing
from dragoman.policy.learned import LearnedFacts
from dragoman.policy.load import Load
from dragoman.policy.prices import Prices
from dragoman.policy.routes import Routes
from dragoman.policy.shared_health import share_health
from dragoman.policy.told import Told
from dragoman.presets import is_loopback
from dragoman.server.admin_access import AdminAccess
from dragoman.server.admin_door import AdminDoor
from dragoman.server.app import App
from dragoman.server.budget_seeds import BudgetSeeds
from dragoman.server.callers import Callers
from dragoman.server.count_tokens import CountTokens
from dragoman.server.documents import Documents
from dragoman.server.explain import Explainer
from dragoman.server.fetch import GuardedFetcher
from dragoman.server.key_cache import KeyCache
from dragoman.server.messages import Messages
from dragoman.server.meter import Meter
from dragoman.server.metrics import Metrics
from dragoman.server.metrics_page import MetricsPage
from dragoman.server.metrics_site import MetricsSite
from dragoman.server.metrics_sources import (
    key_samples,
    limit_samples,
    line_samples,
    process_samples,
    redis_samples,
    routing_samples,
    upstream_samples,
    usage_samples,
    vault_samples,
)
from dragoman.server.otel_export import OtelExport
from dragoman.server.planner import Planner
from dragoman.server.readiness import Readiness
from dragoman.server.retention import Retention
from dragoman.server.services import MessageLimits, Services
from dragoman.server.side_site import SideSite
from dragoman.server.telemetry import EventLog
from dragoman.server.tokenizers import LocalTokenizers
from dragoman.server.tracing import Tracing
from dragoman.server.transport.http_server import HttpLimits, HttpServer
from dragoman.server.transport.http_upstream import HttpUpstream
from dragoman.server.transport.proxy import proxy_for
from dragoman.server.usage_log import UsageLog
from dragoman.server.vault import Vault, VaultLimits
from dragoman.settings import ServerConfig, UpstreamConfig
from dragoman.sharing import NOTHING_SHARED, Sharing
from dragoman.signing_file import signing_secret
from dragoman.store_urls import read_store_url
from dragoman.stores.opening import LazyStore
from dragoman.stores.usage_spool import UsageSpool, spool_folder
from dragoman.tls_files import server_tls

ENGINE: Final = "engine"  # the embedded engine's name among the upstreams
_MIN_CREDENTIAL: Final = 8  # characters
_CACHED_THINKING: Final = 16 * 2**20  # bytes in each process, where all of it is on a shared shelf


def build_gateway(
    config: Config,
    *,
    log: EventLog,
    environ: Mapping[str, str],
    engine: Engine | EngineLink | None = None,
    former: Gateway | None = None,
    sharing: Sharing = NOTHING_SHARED,
) -> Gateway:
    """
    Return a gateway that is ready to take requests.

    Args:
        config: Without problems.
        log: For requests and events.
        environ: Says which proxy leads to the upstreams.
        engine: The embedded engine, if one of the upstreams is it.
        former: The one that it takes over from, with all that lasts, and with the connections to
            upstreams about which nothing has changed.
        sharing: The ways to other processes; they last, too.

    Raises:
        ConfigError: The signing secret can be neither read nor made.
    """
    lasting = former.lasting if former else _lasting(config, sharing, log=log)
    upstreams = _upstreams(config, environ=environ, engine=engine, former=former)
    services = _services(config, lasting, upstreams, log=log)
    is_ready = (lambda: engine.ready) if isinstance(engine, Engine) else None
    readiness = Readiness(services.routes, upstreams, engine_ready=is_ready)
    explainer = Explainer(services, upstreams)
    admins = _admins(lasting.store)
    admin = _admin_door(
        config, services.routes, lasting.store, access=admins, explainer=explainer, log=log
    )
    messages = Messages(services.routes, services)
    app = App(
        callers=_callers(config, lasting.keys),
        allowed_hosts=(config.server.host, *config.server.allowed_hosts),
        messages=messages,
        count_tokens=_count_tokens(config, lasting, services),
        routes=services.routes,
        readiness=readiness,
        cross_origin=CrossOrigin(config.server.cors_origins),
        max_inside=config.server.max_concurrent_requests + config.server.max_waiting_requests,
        line=services.lines.own,
        log=log,
        metrics=lasting.metrics,
        metrics_page=None if config.metrics.port else lasting.metrics_page,
        meter=lasting.meter,
        admins=admins,
        tracing=_tracing(config, lasting.spans),
        admin=None if config.admin.port else admin,
    )
    _show_figures(lasting, services, upstreams=upstreams, messages=messages)
    return Gateway(
        config,
        routes=services.routes,
        app=app,
        readiness=readiness,
        explainer=explainer,
        lines=services.lines,
        upstreams=upstreams,
        health=services.health,
        admin=admin,
        lasting=lasting,
    )


def _services(
    config: Config, lasting: Lasting, upstreams: Mapping[str, HttpUpstream], *, log: EventLog
) -> Services:
    """Return what requests for messages are served with."""
    # Not lasting: what the file says now stands above what a refusal has taught before.
    board = lasting.sharing.board
    learned = LearnedFacts(board)
    planner = Planner(
        lasting.documents,
        lasting.fetcher,
        lasting.signer,
        learned=learned,
        calibration=lasting.calibration,
    )
    # Not lasting either: who was left alone for a wrong key gets a call with the new one.
    health = Health(config.routing)
    if board is not None:
        names = shared_names(config.upstreams, signing_secret(config.server))
        share_health(health, board, names=names, clock=time.monotonic)
    prices = Prices(config.prices, {n: u.platform for n, u in config.upstreams.items()})
    return Services(
        routes=Routes(config),
        upstreams=upstreams,
        secrets={name: secrets_of(upstream) for name, upstream in config.upstreams.items()},
        planner=planner,
        learned=learned,
        vault=lasting.vault,
        signer=lasting.signer,
        limits=_message_limits(config.server),
        log=log,
        health=health,
        load=lasting.load,
        chooser=Chooser(health, lasting.load, draw=random.random),
        prices=prices,
        hedges=Hedges(lasting.load),
        metrics=lasting.metrics,
        admission=build_admission(config, lasting, prices=prices, log=log),
        lines=build_lines(config),
        max_wait_s=config.server.max_wait_s,
    )


def _count_tokens(config: Config, lasting: Lasting, services: Services) -> CountTokens:
    return CountTokens(
        routes=services.routes,
        upstreams=services.upstreams,
        planner=services.planner,
        tokenizers=lasting.tokenizers,
        health=services.health,
        max_body_bytes=config.server.max_body_bytes,
        max_messages=config.server.max_messages,
        max_nesting=config.server.max_nesting,
    )


def _show_figures(
    lasting: Lasting,
    services: Services,
    *,
    upstreams: Mapping[str, HttpUpstream],
    messages: Messages,
) -> None:
    """Let the metrics read what parts of this gateway count by themselves."""
    sources = lasting.metrics.sources
    sources["upstreams"] = partial(upstream_samples, upstreams)
    sources["routing"] = partial(routing_samples, services, messages.joins)
    sources["lines"] = partial(line_samples, services.lines)
    sources["limits"] = partial(limit_samples, services.admission, lasting.limiter)


def _tracing(config: Config, spans: OtelExport | None) -> Tracing:
    providers = {
        name: "anthropic" if upstream.kind == "anthropic" else upstream.platform
        for name, upstream in config.upstreams.items()
    }
    take = spans.take if spans else None
    return Tracing(take, sample_ratio=config.tracing.sample_ratio, providers=providers)


def _spans(config: Config, log: EventLog) -> OtelExport | None:
    if config.tracing.endpoint is None:
        return None
    return OtelExport(config.tracing, lambda text: log.event("tracing", detail=text))


def _admins(store: LazyStore | None) -> AdminAccess:
    if store is None:
        return AdminAccess(None)
    return AdminAccess(store.get, is_surely_empty=lambda: store.url.is_missing)


def _admin_door(
    config: Config,
    routes: Routes,
    store: LazyStore | None,
    *,
    access: AdminAccess,
    explainer: Explainer,
    log: EventLog,
) -> AdminDoor | None:
    """Return the way to the admin API; None: there is no store, so nothing to administer."""
    if store is None:
        return None
    # The same for all replicas, and no secret: what the organization is called outside.
    named = hashlib.blake2b(signing_secret(config.server), digest_size=16, person=b"dragoman-org")
    organization_id = f"org_{named.hexdigest()}"
    return AdminDoor(
        config,
        routes,
        get_store=store.get,
        access=access,
        explainer=explainer,
        organization_id=organization_id,
        log=log,
    )


def _callers(config: Config, stored: KeyCache | None) -> Callers:
    ring = KeyRing((key.name, key.key.reveal()) for key in config.keys)
    return Callers(ring, stored, asks_always=not is_loopback(config.server.host))


def _cached_keys(store: LazyStore | None, config: Config, log: EventLog) -> KeyCache | None:
    if store is None:
        return None
    return KeyCache(store.get, config.store, is_empty=lambda: store.url.is_missing, log=log)


def _meter(store: LazyStore | None, config: Config, log: EventLog) -> Meter | None:
    if store is None:
        return None
    folder = spool_folder(config.server.data_dir, store.url)
    spool = UsageSpool(folder, max_bytes=config.usage.spool_max_bytes)
    return Meter(spool, store.get, log=UsageLog(log))


def _retention(store: LazyStore | None, config: Config, log: EventLog) -> Retention | None:
    if store is None:
        return None
    return Retention(config.usage, store.get, is_empty=lambda: store.url.is_missing, log=log)


def _lasting(config: Config, sharing: Sharing, *, log: EventLog) -> Lasting:
    """Return what the first gateway and all that follow it share."""
    fetcher, metrics = GuardedFetcher(), Metrics()
    limits = VaultLimits(max_bytes=_CACHED_THINKING) if sharing.shelf else VaultLimits()
    vault = Vault(limits, shared=sharing.shelf)
    metrics.sources["process"] = process_samples
    metrics.sources["vault"] = partial(vault_samples, vault)
    if sharing.redis is not None and sharing.outbox is not None:
        metrics.sources["redis"] = partial(redis_samples, sharing.redis, sharing.outbox)
    store = _store(config)
    if (keys := _cached_keys(store, config, log)) is not None:
        metrics.sources["keys"] = partial(key_samples, keys)
    token = config.metrics.token
    if (meter := _meter(store, config, log)) is not None:
        metrics.sources["usage"] = partial(usage_samples, meter)
    return Lasting(
        sharing=sharing,
        signer=Signer(signing_secret(config.server)),
        fetcher=fetcher,
        documents=Documents(fetcher),
        calibration=Calibration(),
        tokenizers=LocalTokenizers(),
        vault=vault,
        load=Load(),
        metrics=metrics,
        spans=_spans(config, log),
        metrics_page=MetricsPage(metrics.samples, token=token.reveal() if token else None),
        store=store,
        has_budgets=any(key.budgets for key in config.keys),
        keys=keys,
        meter=meter,
        retention=_retention(store, config, log),
        limiter=build_limiter(config, sharing, log=log),
        expected_use=ExpectedUse(),
        budget_seeds=BudgetSeeds(store.get if store else None),
        told=Told(sharing.board),
    )


def _store(config: Config) -> LazyStore | None:
    url = read_store_url(config.store.url, config.server.data_dir)
    if url is None:
        return None
    return LazyStore(url, config.store)


async def start_server(
    gateway: Gateway | Switch, *, log: EventLog, shares_port: bool = False
) -> HttpServer:
    """
    Return a server that listens where the configuration says.

    Args:
        gateway: Answers.
        log: Told of crashes.
        shares_port: Other processes of this user may listen there, too.

    Raises:
        ConfigError: The certificate cannot be used.
        OSError: It cannot listen there.
    """
    settings = gateway.config.server
    tls = server_tls(settings)
    server = HttpServer(
        gateway.handle,
        limits=_http_limits(settings),
        render_refusal=gateway.refuse,
        on_crash=log.crash,
    )
    await server.start(settings.host, settings.port, shares_port=shares_port, tls=tls)
    return server


async def start_metrics_server(
    gateway: Gateway, *, log: EventLog, shares_port: bool = False
) -> HttpServer | None:
    """
    Return a server for the metrics alone; None: they have no address of their own.

    Raises:
        OSError: It cannot listen there.
    """
    settings = gateway.config.metrics
    if settings.port is None:
        return None
    names = (settings.host, *gateway.config.server.allowed_hosts)
    page = MetricsSite(gateway.lasting.metrics_page, allowed_hosts=names)
    site = SideSite(page.show, log=log, is_worth_a_line=lambda record: record.status != 200)
    server = _side_server(gateway, site, log=log)
    await server.start(settings.host, settings.port, shares_port=shares_port)
    return server


async def start_admin_server(
    gateway: Switch, *, log: EventLog, shares_port: bool = False
) -> HttpServer | None:
    """
    Return a server for the admin API alone; None: it has no address of its own.

    Raises:
        ConfigError: The certificate cannot be used.
        OSError: It cannot listen there.
    """
    settings = gateway.config.admin
    if settings.port is None:
        return None
    site = SideSite(gateway.show_admin, log=log, is_worth_a_line=lambda _: True)
    server = _side_server(gateway, site, log=log)
    tls = server_tls(gateway.config.server)
    await server.start(settings.host, settings.port, shares_port=shares_port, tls=tls)
    return server


def _side_server(gateway: Gateway | Switch, site: SideSite, *, log: EventLog) -> HttpServer:
    return HttpServer(
        site.handle,
        limits=_http_limits(gateway.config.server),
        render_refusal=gateway.refuse,
        on_crash=log.crash,
    )


def _http_limits(server: ServerConfig) -> HttpLimits:
    return HttpLimits(
        max_header_bytes=server.max_header_bytes,
        header_timeout_s=server.header_timeout_s,
        body_timeout_s=server.body_timeout_s,
        keep_alive_timeout_s=server.keep_alive_timeout_s,
        max_connections=server.max_connections,
    )


def _message_limits(server: ServerConfig) -> MessageLimits:
    return MessageLimits(
        max_body_bytes=server.max_body_bytes,
        max_messages=server.max_messages,
        max_nesting=server.max_nesting,
        max_reply_bytes=server.max_reply_bytes,
        max_event_bytes=server.max_event_bytes,
        early_start_s=server.early_start_s,
        ping_interval_s=server.ping_interval_s,
    )


def open_upstream(
    upstream: UpstreamConfig, *, environ: Mapping[str, str], tls: ssl.SSLContext | None = None
) -> HttpUpstream:
    """Return a connection pool for *upstream* at its first endpoint, with its credential."""
    return open_endpoint(endpoints_of("", upstream)[0], upstream, environ=environ, tls=tls)


def open_endpoint(
    endpoint: Endpoint,
    upstream: UpstreamConfig,
    *,
    environ: Mapping[str, str],
    tls: ssl.SSLContext | None,
) -> HttpUpstream:
    """Return a connection pool for one endpoint of *upstream*."""
    base_url = endpoint.base_url
    if upstream.kind == "anthropic":  # its paths begin with /v1 themselves
        base_url = base_url.rstrip("/").removesuffix("/v1")
    return HttpUpstream(
        base_url,
        credential=endpoint.credential,
        headers={name: value.reveal() for name, value in upstream.headers.items()},
        max_connections=upstream.max_connections,
        tls_context=tls,
        proxy=proxy_for(base_url, environ),
    )


def _upstreams(
    config: Config,
    *,
    environ: Mapping[str, str],
    engine: Engine | EngineLink | None,
    former: Gateway | None,
) -> dict[str, HttpUpstream]:
    made: dict[str, HttpUpstream] = {}
    tls: ssl.SSLContext | None = None
    for name, upstream in config.upstreams.items():
        endpoints = endpoints_of(name, upstream)
        if former is not None and former.config.upstreams.get(name) == upstream:
            made |= {each.name: former.upstreams[each.name] for each in endpoints}
            continue
        if engine is not None and name == ENGINE:
            key = ("authorization", f"Bearer {engine.api_key}")
            made[name] = HttpUpstream(engine.base_url, credential=key)
            continue
        if tls is None and any(each.base_url.startswith("https:") for each in endpoints):
            tls = ssl.create_default_context()  # 20 ms and half a megabyte: one for all
        made |= {
            each.name: open_endpoint(each, upstream, environ=environ, tls=tls) for each in endpoints
        }
    return made


def secrets_of(upstream: UpstreamConfig) -> tuple[str, ...]:
    """Return what must never be shown. A short header is no credential, and part of many words."""
    keys = (key.reveal() for key in upstream.keys)
    others = (header.reveal() for header in upstream.headers.values())
    return (*keys, *(other for other in others if len(other) >= _MIN_CREDENTIAL))
