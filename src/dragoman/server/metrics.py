"""
What is counted, as plain numbers, once for each request at its end.

The values of labels come from the configuration or from short lists: nothing that a client makes up
becomes a series. What is left over, and what would be one series too many, is ``other``.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator
from operator import attrgetter
from typing import Final, Literal

from msgspec import structs

from dragoman import __version__
from dragoman.core.usage import Usage
from dragoman.server.metric_names import FAMILIES, OTHER, Sample
from dragoman.server.telemetry import RequestRecord
from dragoman.wire.anthropic import MessagesRequest

MAX_SERIES: Final = 2_000  # of one name, beside "other"
_MESSAGES: Final = "/v1/messages"
_ENDPOINTS: Final = {
    _MESSAGES: "messages",
    "/v1/messages/count_tokens": "count_tokens",
    "/v1/models": "models",
}
_BELOW: Final = {
    "/v1/models/": "models",
    "/admin/": "admin",
    "/v1/organizations/": "admin",
}
_STOP_REASONS: Final = frozenset(
    {
        *("end_turn", "max_tokens", "stop_sequence", "tool_use", "pause_turn", "refusal"),
        "model_context_window_exceeded",
    }
)
# The first parts of what adjustments name: fields of a request, and of a reply.
_FIELDS: Final = frozenset(
    {*(f.name for f in structs.fields(MessagesRequest)), "input_tokens", "reply", "tool_use"}
)
_PART: Final = re.compile(r"[a-z_]{1,40}")
_MAX_NOTED: Final = 128
_MAX_KEPT_CHARS: Final = 200  # of a path and a stop reason, of which others make up any
_COUNTS_OF: Final = attrgetter(
    *("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"),
    *("thinking_tokens", "is_estimate"),
)
Source = Callable[[], Iterable[Sample]]
# Of a message: its duration, the time to its first content, the error of our estimate in percent,
# its tokens, and its cost in millionths.
_Noted = tuple[float, float | None, float | None, Usage | None, int | None]


class _Histogram:
    __slots__ = ("bounds", "counts", "total")

    def __init__(self, name: str) -> None:
        self.bounds = FAMILIES[name].buckets
        self.counts = [0] * (len(self.bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def add_all(self, values: Collection[float]) -> None:
        """Add many: it takes a look at each bound, not at each value."""
        counts, ordered, n_below = self.counts, sorted(values), 0
        for i, bound in enumerate(self.bounds):
            n = bisect_right(ordered, bound)
            counts[i] += n - n_below
            n_below = n
        counts[-1] += len(ordered) - n_below
        self.total += sum(values)

    def sample(self, name: str, labels: tuple[str, ...]) -> Iterator[Sample]:
        if any(self.counts):
            yield Sample(name, labels, self.total, self.counts)


class _Messages:
    """
    The sums of all messages of one model and upstream.

    Attributes:
        noted: Messages that are not in the sums yet, at most ``_MAX_NOTED``.
    """

    __slots__ = (
        *("cache_read", "cache_write", "duration", "estimate_error", "estimated", "first_content"),
        *("fresh", "labels", "micros", "noted", "output", "thinking", "unpriced"),
    )

    def __init__(self, labels: tuple[str, str]) -> None:
        self.labels = labels
        self.noted: list[_Noted] = []
        self.fresh = self.cache_read = self.cache_write = self.output = self.thinking = 0
        self.estimated = self.unpriced = self.micros = 0
        self.first_content = _Histogram("dragoman_first_content_seconds")
        self.duration = _Histogram("dragoman_message_duration_seconds")
        self.estimate_error = _Histogram("dragoman_estimate_error_ratio")

    def settle(self) -> None:
        """Add up what is noted, a field of all messages at a time: nearly all of it runs in C."""
        if not self.noted:
            return
        durations, firsts, errors_pct, usages, costs = zip(*self.noted, strict=True)
        self.noted.clear()
        self.duration.add_all(durations)
        self.first_content.add_all([value for value in firsts if value is not None])
        self.estimate_error.add_all([abs(pct) / 100 for pct in errors_pct if pct is not None])
        counted = [usage for usage in usages if usage is not None]
        if not counted:
            return
        fresh, output, read, written, thinking, estimates = zip(
            *map(_COUNTS_OF, counted), strict=True
        )
        self.fresh += sum(fresh)
        self.output += sum(output)
        self.cache_read += sum(read)
        self.cache_write += sum(written)
        self.thinking += sum(filter(None, thinking))
        self.estimated += sum(estimates)
        prices = [cost for cost, usage in zip(costs, usages, strict=True) if usage is not None]
        self.unpriced += prices.count(None)
        self.micros += sum(filter(None, prices))

    def samples(self) -> Iterator[Sample]:
        self.settle()
        labels = self.labels
        tokens = {"input": self.fresh, "output": self.output}
        tokens |= {"cache_read": self.cache_read, "cache_write": self.cache_write}
        for kind, n in tokens.items():
            yield Sample("dragoman_tokens_total", (*labels, kind), n)
        yield Sample("dragoman_thinking_tokens_total", labels, self.thinking)
        yield Sample("dragoman_estimated_messages_total", labels, self.estimated)
        yield Sample("dragoman_cost_dollars_total", labels, self.micros / 1e6)
        yield Sample("dragoman_unpriced_messages_total", labels, self.unpriced)
        yield from self.first_content.sample("dragoman_first_content_seconds", labels)
        yield from self.duration.sample("dragoman_message_duration_seconds", labels)
        yield from self.estimate_error.sample("dragoman_estimate_error_ratio", labels)


class _Endings:
    """Requests that have gone the same way and ended alike: one look-up counts most of them."""

    __slots__ = ("labels", "messages", "n", "n_answered", "stop_reason")

    def __init__(
        self, labels: tuple[str, ...], stop_reason: str, messages: _Messages | None
    ) -> None:
        self.labels = labels
        self.stop_reason = stop_reason
        self.messages = messages
        self.n = 0
        self.n_answered = 0  # by the first call of an upstream


class _Counter:
    """Series of one name by their labels, no more than ``MAX_SERIES``."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._values: dict[tuple[str, ...], int] = {}

    def add(self, labels: tuple[str, ...], n: int = 1) -> None:
        values = self._values
        if labels not in values and len(values) >= MAX_SERIES:
            labels = (OTHER,) * len(labels)
        values[labels] = values.get(labels, 0) + n

    def take(self, other: "_Counter") -> None:
        """Take over what *other* has counted."""
        for labels, n in other._values.items():
            self.add(labels, n)

    def samples(self) -> Iterator[Sample]:
        for labels, n in self._values.items():
            yield Sample(self._name, labels, n)


class LoopLag:
    """How late the event loop comes to its timers: what any other work waits for, too."""

    def __init__(self) -> None:
        self._seen = _Histogram("dragoman_event_loop_lag_seconds")

    def add(self, late_s: float) -> None:
        """Take note of a timer that came *late_s* after it was due."""
        self._seen.add(max(0.0, late_s))

    def samples(self) -> Iterator[Sample]:
        yield from self._seen.sample("dragoman_event_loop_lag_seconds", ())


class Metrics:
    """
    The figures of one process. They outlive a change of the configuration.

    Attributes:
        sources: What else has figures, asked when somebody wants to see them; by a name under
            which another configuration puts its own. A source must be quick and must not fail.
        open_requests: Messages and counts at work or in line.
        open_streams: Streamed messages at work.
        loop_lag: Told by whoever keeps the timer.
    """

    def __init__(self) -> None:
        self.sources: dict[str, Source] = {}
        self.open_requests = 0
        self.open_streams = 0
        self.loop_lag = LoopLag()
        self._endings: dict[tuple[object, ...], _Endings] = {}  # by what records say
        # By labels, which have a bound, and whether messages are among them.
        self._kinds: dict[tuple[tuple[str, ...], str, bool], _Endings] = {}
        self._messages: dict[tuple[str, str], _Messages] = {}
        self._adjustments = _Counter("dragoman_adjustments_total")
        self._repairs = _Counter("dragoman_repairs_total")
        self._calls = _Counter("dragoman_upstream_calls_total")
        self._refusals = _Counter("dragoman_limit_refusals_total")
        self._reloads = _Counter("dragoman_config_reloads_total")
        for result in ("done", "refused"):  # from the start: an alert looks for the first step
            self._reloads.add((result,), 0)
        self._loaded_at_s = 0.0
        self._counters = (self._adjustments, self._repairs, self._reloads, self._refusals)

    def observe(self, record: RequestRecord, now_s: float) -> None:
        """Count one request that is over; *now_s* is on the clock of the record."""
        upstream, calls = record.upstream, record.calls
        path, alias, status = record.path, record.alias, record.status
        ending = (path, alias, upstream, status, record.error_type, record.stop_reason)
        endings = self._endings.get(ending)
        if endings is None:
            endings = self._endings_of(record)
        endings.n += 1
        messages = endings.messages
        if messages is not None:
            started_s, first_s = record.started_s, record.first_content_s
            if first_s is not None:
                first_s -= started_s
            error_pct, usage = record.estimate_error_pct, record.usage
            noted = messages.noted
            noted.append((now_s - started_s, first_s, error_pct, usage, record.cost_micros))
            if len(noted) >= _MAX_NOTED:
                messages.settle()
        if len(calls) == 1 and calls[0].outcome == "ok" and calls[0].upstream == upstream:
            endings.n_answered += 1
        elif calls:
            for call in calls:
                self._calls.add((call.upstream, call.outcome))
        if record.adjustments or record.repairs:
            self._count_changes(record)
        if record.refused_by:
            self._refusals.add((record.refused_by,))

    def _count_changes(self, record: RequestRecord) -> None:
        model = record.alias or OTHER
        for adjustment in record.adjustments:
            field = _field_of(adjustment.field)
            self._adjustments.add((model, field, adjustment.action))
        for kind, n in record.repairs.items():
            self._repairs.add((model, kind), n)

    def _endings_of(self, record: RequestRecord) -> _Endings:
        """Return where such records are counted; they are found at once from now on."""
        model, upstream, reason = record.alias or OTHER, record.upstream, record.stop_reason
        endpoint = _endpoint_of(record.path)
        labels = (endpoint, model, upstream, str(record.status), record.error_type)
        reason = reason if reason in _STOP_REASONS or not reason else OTHER
        is_message = record.path == _MESSAGES and bool(upstream)
        if (labels, reason, is_message) not in self._kinds and len(self._kinds) >= MAX_SERIES:
            labels, model, upstream = (OTHER,) * 5, OTHER, OTHER
            reason = OTHER if reason else ""
        kind = labels, reason, is_message
        found = self._kinds.get(kind)
        if found is None:
            messages = self._of(model, upstream) if is_message else None
            found = self._kinds[kind] = _Endings(labels, reason, messages)
        is_short = len(record.path) + len(record.stop_reason) <= _MAX_KEPT_CHARS
        if is_short and len(self._endings) < MAX_SERIES:  # beyond, clients make up paths
            ending = (record.path, record.alias, record.upstream, record.status)
            self._endings[*ending, record.error_type, record.stop_reason] = found
        return found

    def count_reload(self, result: Literal["done", "refused"], now_s: float = 0.0) -> None:
        """Count a new configuration; *now_s*, on the wall's clock, where it is taken over."""
        self._reloads.add((result,))
        self._loaded_at_s = now_s or self._loaded_at_s

    def samples(self) -> Iterator[Sample]:
        """Return every series there is."""
        yield from self._samples_of_requests()
        for counter in self._counters:
            yield from counter.samples()
        if self._loaded_at_s:
            yield Sample("dragoman_config_loaded_timestamp_seconds", (), self._loaded_at_s)
        for messages in self._messages.values():
            yield from messages.samples()
        yield from self.loop_lag.samples()
        yield Sample("dragoman_open_requests", (), self.open_requests)
        yield Sample("dragoman_open_streams", (), self.open_streams)
        yield Sample("dragoman_workers", (), 1)
        yield Sample("dragoman_build_info", (__version__,), 1)
        for source in self.sources.values():
            yield from source()

    def _samples_of_requests(self) -> Iterator[Sample]:
        requests = _Counter("dragoman_requests_total")
        reasons = _Counter("dragoman_stop_reasons_total")
        answered = _Counter("dragoman_upstream_calls_total")
        answered.take(self._calls)
        for endings in self._kinds.values():
            _, model, upstream, _, _ = labels = endings.labels
            requests.add(labels, endings.n)
            if endings.stop_reason:
                reasons.add((model, upstream, endings.stop_reason), endings.n)
            if endings.n_answered:
                answered.add((upstream, "ok"), endings.n_answered)
        for counter in (requests, reasons, answered):
            yield from counter.samples()

    def _of(self, model: str, upstream: str) -> _Messages:
        labels = (model, upstream)
        found = self._messages.get(labels)
        if found is None:
            if len(self._messages) >= MAX_SERIES // 8:  # each has eight names and more
                labels = (OTHER, OTHER)
            found = self._messages.setdefault(labels, _Messages(labels))
        return found


def _endpoint_of(path: str) -> str:
    if (known := _ENDPOINTS.get(path)) is not None:
        return known
    return next((name for start, name in _BELOW.items() if path.startswith(start)), OTHER)


def _field_of(path: str) -> str:
    """Return the field of an adjustment without positions, and without names of the client."""
    parts = [part for part in path.split(".") if _PART.fullmatch(part)]
    if not parts or parts[0] not in _FIELDS:
        return OTHER
    return ".".join(parts[:2])
