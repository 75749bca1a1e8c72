"""Figures that other parts have anyway, as samples; asked for by a scrape."""

import asyncio
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final, Protocol

from dragoman.server.admission import Admission
from dragoman.server.joins import Joins
from dragoman.server.key_cache import KeyCache
from dragoman.server.line import Lines
from dragoman.server.meter import Meter
from dragoman.server.metric_names import Sample
from dragoman.server.services import Services
from dragoman.server.transport.http_server import HttpServer
from dragoman.server.vault import Vault
from dragoman.stores.redis_link import RedisLink
from dragoman.stores.redis_outbox import RedisOutbox

_STATM: Final = Path("/proc/self/statm")
_RESIDENT: Final = 1  # field of statm, in pages


class PooledUpstream(Protocol):
    """What an upstream with a pool of connections knows of itself."""

    @property
    def n_connections(self) -> int: ...
    @property
    def n_idle(self) -> int: ...
    @property
    def n_calls(self) -> int: ...


class CountingAlone(Protocol):
    """What a limiter knows of its shared counters."""

    is_alone: bool
    n_alone: int


def upstream_samples(upstreams: Mapping[str, PooledUpstream]) -> Iterator[Sample]:
    """Return connections and calls of each upstream."""
    for name, upstream in upstreams.items():
        n_idle = upstream.n_idle
        yield Sample("dragoman_upstream_calls_open", (name,), upstream.n_calls)
        busy = upstream.n_connections - n_idle
        yield Sample("dragoman_upstream_connections", (name, "busy"), busy)
        yield Sample("dragoman_upstream_connections", (name, "idle"), n_idle)


def redis_samples(link: RedisLink, outbox: RedisOutbox) -> Iterable[Sample]:
    """Return whether Redis is there, and what did not get there."""
    return (
        Sample("dragoman_redis_away", (), int(not link.is_there)),
        Sample("dragoman_redis_failed_calls_total", (), link.n_failed),
        Sample("dragoman_redis_lost_total", (), outbox.n_lost),
    )


def connection_samples(server: HttpServer) -> Iterable[Sample]:
    """Return how many clients are connected."""
    return (Sample("dragoman_client_connections", (), server.n_connections),)


def vault_samples(vault: Vault) -> Iterable[Sample]:
    """Return how full the vault is, and what came from elsewhere."""
    return (
        Sample("dragoman_vault_entries", (), vault.n_entries),
        Sample("dragoman_vault_bytes", (), vault.n_bytes),
        Sample("dragoman_vault_fetches_total", ("found",), vault.n_fetched),
        Sample("dragoman_vault_fetches_total", ("unreachable",), vault.n_unreachable),
    )


def line_samples(lines: Lines) -> Iterator[Sample]:
    """Return who waits in which line, and who was sent away."""
    for name, line in lines.all():
        yield Sample("dragoman_requests_waiting", (name,), line.n_waiting)
        yield Sample("dragoman_requests_turned_away_total", (name,), line.n_refused)


def limit_samples(admission: Admission, limiter: CountingAlone) -> Iterable[Sample]:
    """Return what limits hold, and how often they were held without their counters."""
    return (
        Sample("dragoman_limit_reservations", (), admission.n_held),
        Sample("dragoman_limits_alone", (), int(limiter.is_alone)),
        Sample("dragoman_limits_alone_total", (), limiter.n_alone),
    )


def routing_samples(services: Services, joins: Joins) -> Iterator[Sample]:
    """Return who is left alone, and what came of second calls and identical requests."""
    now_s = asyncio.get_running_loop().time()
    for each in services.health.illnesses(now_s):
        labels = (each.subject, each.cause)
        yield Sample("dragoman_upstream_left_alone_seconds", labels, each.for_s)
    for cause, count in services.health.n_trips.items():
        yield Sample("dragoman_upstream_trips_total", (cause,), count)
    yield Sample("dragoman_hedges_total", ("made",), services.hedges.n_asked)
    yield Sample("dragoman_hedges_total", ("won",), services.hedges.n_won)
    yield Sample("dragoman_joined_requests_total", (), joins.n_joined)


def usage_samples(meter: Meter) -> Iterable[Sample]:
    """Return what became of usage records, and how many are still on their way."""
    counts = meter.counts()
    return (
        Sample("dragoman_usage_records_total", ("stored",), counts.stored),
        Sample("dragoman_usage_records_total", ("lost",), counts.lost),
        Sample("dragoman_usage_records_total", ("broken",), counts.broken),
        Sample("dragoman_usage_held", (), counts.held),
        Sample("dragoman_usage_spool_bytes", (), counts.spool_bytes),
        Sample("dragoman_usage_store_away", (), int(counts.is_store_away)),
    )


def key_samples(keys: KeyCache) -> Iterable[Sample]:
    """Return what is remembered of the store's keys, and what was looked for."""
    found = keys.n_lookups - keys.n_unknown
    return (
        Sample("dragoman_keys_remembered", (), keys.n_keys),
        Sample("dragoman_key_lookups_total", ("found",), found),
        Sample("dragoman_key_lookups_total", ("unknown",), keys.n_unknown),
        Sample("dragoman_store_away", (), int(keys.is_away)),
    )


def process_samples() -> Iterable[Sample]:
    """Return the memory of this process, where the system says how much it is."""
    try:
        pages = int(_STATM.read_bytes().split()[_RESIDENT])
    except OSError:  # only Linux has it
        return ()
    return (Sample("dragoman_memory_bytes", (), pages * os.sysconf("SC_PAGE_SIZE")),)
