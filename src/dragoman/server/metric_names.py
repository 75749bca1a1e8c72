"""Every metric: its name, kind, labels and meaning; docs/reference/metrics.md has them all."""

from typing import Final, Literal

from msgspec import Struct

OTHER: Final = "other"  # in the place of a label's value that is unknown, or one too many


class Family(Struct, frozen=True, kw_only=True):
    """
    All series of one name.

    Attributes:
        buckets: Upper bounds of a histogram's buckets, without the last one, which has none.
        merge: What several processes of one gateway make of their values.
    """

    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    merge: Literal["sum", "max"] = "sum"


class Sample(Struct, array_like=True):
    """
    One series.

    Attributes:
        value: Of a counter or gauge; the sum of a histogram's observations.
        counts: How many observations fell into each bucket of a histogram, not cumulative.
    """

    name: str
    labels: tuple[str, ...]
    value: float
    counts: list[int] = []


_WHO: Final = ("model", "upstream")
# From a cached prompt on a local engine to a long prompt on a slow one.
_FIRST_CONTENT_S: Final = (0.1, 0.25, 0.5, 1, 2, 3, 5, 8, 13, 20, 30, 60, 120, 300, 600)
_DURATION_S: Final = (0.25, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600)
_LAG_S: Final = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3)
_RATIO: Final = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1)

FAMILIES: Final[dict[str, Family]] = {
    "dragoman_requests_total": Family(
        kind="counter",
        help="Requests that are over, by status and, where there was one, type of error.",
        labels=("endpoint", *_WHO, "status", "error"),
    ),
    "dragoman_stop_reasons_total": Family(
        kind="counter", help="Messages by how they ended.", labels=(*_WHO, "reason")
    ),
    "dragoman_tokens_total": Family(
        kind="counter",
        help="Tokens of messages: input, cache_read, cache_write, output; none is in two of them.",
        labels=(*_WHO, "kind"),
    ),
    "dragoman_thinking_tokens_total": Family(
        kind="counter", help="Output tokens that were thinking.", labels=_WHO
    ),
    "dragoman_estimated_messages_total": Family(
        kind="counter", help="Messages whose tokens no upstream has counted.", labels=_WHO
    ),
    "dragoman_cost_dollars_total": Family(
        kind="counter", help="What messages have cost, where a price is known.", labels=_WHO
    ),
    "dragoman_unpriced_messages_total": Family(
        kind="counter", help="Answered messages without a known price.", labels=_WHO
    ),
    "dragoman_first_content_seconds": Family(
        kind="histogram",
        help="From a request's arrival to its first content.",
        labels=_WHO,
        buckets=_FIRST_CONTENT_S,
    ),
    "dragoman_message_duration_seconds": Family(
        kind="histogram",
        help="From a message request's arrival to the end of its reply, however it ended.",
        labels=_WHO,
        buckets=_DURATION_S,
    ),
    "dragoman_estimate_error_ratio": Family(
        kind="histogram",
        help="How far the estimate of a prompt was from the upstream's count, up or down.",
        labels=_WHO,
        buckets=_RATIO,
    ),
    "dragoman_adjustments_total": Family(
        kind="counter",
        help="What could not be sent as asked, by field and what was done to it.",
        labels=("model", "field", "action"),
    ),
    "dragoman_repairs_total": Family(
        kind="counter", help="What was put right in replies.", labels=("model", "kind")
    ),
    "dragoman_upstream_calls_total": Family(
        kind="counter",
        help="Calls of upstreams for messages: ok, or the type of error they ended with.",
        labels=("upstream", "outcome"),
    ),
    "dragoman_upstream_calls_open": Family(
        kind="gauge",
        help="Calls under way, those that wait for a connection included.",
        labels=("upstream",),
    ),
    "dragoman_upstream_connections": Family(
        kind="gauge", help="Connections to an upstream: busy or idle.", labels=("upstream", "state")
    ),
    "dragoman_upstream_left_alone_seconds": Family(
        kind="gauge",
        help="For how long an endpoint, or a model there, gets no calls; 0: the next is its probe.",
        labels=("subject", "cause"),
        merge="max",
    ),
    "dragoman_upstream_trips_total": Family(
        kind="counter",
        help="How often an endpoint, or a model there, was left alone.",
        labels=("cause",),
    ),
    "dragoman_hedges_total": Family(
        kind="counter",
        help="Second calls beside late ones: made, and those of them that won.",
        labels=("what",),
    ),
    "dragoman_joined_requests_total": Family(
        kind="counter", help="Requests that shared the reply to an identical one."
    ),
    "dragoman_open_requests": Family(kind="gauge", help="Messages and counts at work or in line."),
    "dragoman_open_streams": Family(kind="gauge", help="Streamed messages at work."),
    "dragoman_client_connections": Family(kind="gauge", help="Open connections of clients."),
    "dragoman_limit_refusals_total": Family(
        kind="counter", help="Requests that a limit or budget stood against.", labels=("limit",)
    ),
    "dragoman_limit_reservations": Family(
        kind="gauge", help="Places and parts of budgets that requests at work hold."
    ),
    "dragoman_limits_alone": Family(
        kind="gauge",
        help="1: the shared counters of limits cannot be reached.",
        merge="max",
    ),
    "dragoman_limits_alone_total": Family(
        kind="counter",
        help="Requests that were let in or refused without the shared counters of limits.",
    ),
    "dragoman_requests_waiting": Family(
        kind="gauge",
        help="Requests in line for a place: at an upstream, or where that is empty at the gateway.",
        labels=("upstream",),
    ),
    "dragoman_requests_turned_away_total": Family(
        kind="counter",
        help="Requests for which the line was full, or the wait too long.",
        labels=("upstream",),
    ),
    "dragoman_event_loop_lag_seconds": Family(
        kind="histogram",
        help="How late a timer came that was due every half second.",
        buckets=_LAG_S,
    ),
    "dragoman_vault_entries": Family(kind="gauge", help="Tool calls whose thinking is kept."),
    "dragoman_vault_bytes": Family(kind="gauge", help="Memory that kept thinking takes, about."),
    "dragoman_vault_fetches_total": Family(
        kind="counter",
        help="Kept thinking that was looked for elsewhere: found, or out of reach.",
        labels=("outcome",),
    ),
    "dragoman_usage_records_total": Family(
        kind="counter",
        help="Usage records that the store has taken, that were lost, or that cannot be read.",
        labels=("fate",),
    ),
    "dragoman_usage_held": Family(kind="gauge", help="Usage records in memory."),
    "dragoman_usage_spool_bytes": Family(
        kind="gauge", help="Usage records on disk that the store has not taken."
    ),
    "dragoman_usage_store_away": Family(
        kind="gauge", help="1: the store has not taken the last usage records.", merge="max"
    ),
    "dragoman_keys_remembered": Family(kind="gauge", help="Keys of the store that are remembered."),
    "dragoman_key_lookups_total": Family(
        kind="counter",
        help="Keys that were looked for in the store: found or unknown.",
        labels=("outcome",),
    ),
    "dragoman_store_away": Family(
        kind="gauge", help="1 while the store of keys does not answer.", merge="max"
    ),
    "dragoman_redis_away": Family(kind="gauge", help="1 while Redis does not answer.", merge="max"),
    "dragoman_redis_failed_calls_total": Family(
        kind="counter", help="Calls of Redis that have failed, or were not tried."
    ),
    "dragoman_redis_lost_total": Family(
        kind="counter",
        help="Kept thinking and findings about upstreams that did not get into Redis.",
    ),
    "dragoman_memory_bytes": Family(kind="gauge", help="Resident memory; Linux only."),
    "dragoman_config_reloads_total": Family(
        kind="counter",
        help="New configurations by what came of them; each once, however many processes take it.",
        labels=("result",),
        merge="max",
    ),
    "dragoman_config_loaded_timestamp_seconds": Family(
        kind="gauge", help="When the last new configuration was taken over.", merge="max"
    ),
    "dragoman_workers": Family(kind="gauge", help="Processes that these figures are the sum of."),
    "dragoman_build_info": Family(
        kind="gauge", help="Always 1; the label says what runs.", labels=("version",), merge="max"
    ),
}
