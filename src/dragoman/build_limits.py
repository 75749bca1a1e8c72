"""Settings -> limits: rules, counters, lines. A part of the composition root."""

from typing import Final

from dragoman.config import Config
from dragoman.gateway import Lasting
from dragoman.policy.allowances import RuleBook
from dragoman.policy.endpoints import endpoints_of
from dragoman.policy.limits import Limiter
from dragoman.policy.prices import Prices
from dragoman.server.admission import Admission
from dragoman.server.line import Line, Lines
from dragoman.server.telemetry import EventLog
from dragoman.settings import ServerConfig, UpstreamConfig
from dragoman.sharing import Sharing
from dragoman.stores.limiter_fallback import FallbackLimiter
from dragoman.stores.limiter_memory import MemoryLimiter
from dragoman.stores.limiter_owner import OwnedLimiter
from dragoman.stores.limiter_redis import RedisLimiter

_OWN: Final = "this gateway"
_UPSTREAM: Final = "the model's server"


def build_rules(config: Config) -> RuleBook:
    """Return what the configuration allows."""
    limits = config.limits
    return RuleBook(
        key=limits.key,
        workspace=limits.workspace,
        keys={
            f"config:{key.name}": (key.limits, [written.budget() for written in key.budgets])
            for key in config.keys
        },
        models={alias: model.limits for alias, model in config.models.items()},
        upstreams={name: upstream.limits for name, upstream in config.upstreams.items()},
    )


def build_lines(config: Config) -> Lines:
    """Return the lines at the gateway's door and at the endpoints of its upstreams."""
    server = config.server
    endpoints = {
        endpoint.name: _line(_UPSTREAM, _places_at(upstream), server)
        for name, upstream in config.upstreams.items()
        for endpoint in endpoints_of(name, upstream)
    }
    return Lines(_line(_OWN, server.max_concurrent_requests, server), endpoints)


def build_limiter(config: Config, sharing: Sharing, *, log: EventLog) -> FallbackLimiter:
    """Return the counters of all processes that share any, and what happens without them."""
    limiter = with_fallback(config, _counters(sharing), log=log)
    if sharing.redis is not None:
        sharing.redis.on_change(limiter.hear)
    return limiter


def _counters(sharing: Sharing) -> Limiter:
    if sharing.redis is not None:
        return RedisLimiter(sharing.redis)
    return OwnedLimiter(sharing.owner) if sharing.owner is not None else MemoryLimiter()


def with_fallback(config: Config, main: Limiter, *, log: EventLog) -> FallbackLimiter:
    """Return *main* with what happens when it cannot be reached."""

    def tell(state: str) -> None:
        log.event("limits", state=state)

    return FallbackLimiter(
        main,
        is_open=config.limits.when_unreachable == "open",
        share_pct=config.limits.local_share_pct,
        told=tell,
    )


def build_admission(
    config: Config, lasting: Lasting, *, prices: Prices, log: EventLog
) -> Admission:
    """Return what admits requests by *config*, with the counters that last."""
    limiter = lasting.limiter
    limiter.is_open = config.limits.when_unreachable == "open"
    limiter.share_pct = config.limits.local_share_pct
    return Admission(
        build_rules(config),
        limiter,
        expected=lasting.expected_use,
        prices=prices,
        seeds=lasting.budget_seeds,
        log=log,
        told=lasting.told,
        contact=config.limits.contact,
    )


def _places_at(upstream: UpstreamConfig) -> int:
    most = upstream.limits.concurrent
    return upstream.max_connections if most is None else min(most, upstream.max_connections)


def _line(what: str, places: int, server: ServerConfig) -> Line:
    return Line(
        what,
        places,
        max_waiting=server.max_waiting_requests,
        max_per_key=server.max_waiting_per_key,
        max_wait_s=server.max_wait_s,
    )
