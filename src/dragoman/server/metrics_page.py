"""GET /metrics: figures as Prometheus wants them, and who may see them."""

import asyncio
import hmac
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Final

from dragoman.core.errors import AuthenticationFailed, PermissionDenied
from dragoman.server.metric_names import FAMILIES, Family, Sample
from dragoman.server.transport.seams import Headers

if TYPE_CHECKING:
    from prometheus_client import Metric

PATH: Final = "/metrics"
_REMEDY: Final = (
    "set metrics.token and send it as Authorization: Bearer, or give the metrics an address of "
    "their own with metrics.port"
)
_SCHEME: Final = b"bearer "


class MetricsPage:
    """
    Show figures.

    Args:
        own: Returns the samples of this process.
        token: Whoever sends it may see them; None: whoever may call without a key.

    Attributes:
        own: As above; called in the event loop.
        others: Returns those of each other process of this gateway; called in another thread.
    """

    def __init__(self, own: Callable[[], Iterable[Sample]], *, token: str | None) -> None:
        self.own = own
        self.others: Callable[[], Iterable[Iterable[Sample]]] = tuple
        self._token = token.encode() if token else None

    @property
    def has_token(self) -> bool:
        """Whether a token is asked for."""
        return self._token is not None

    def check(self, headers: Headers, *, is_open: bool) -> None:
        """
        Do nothing if the sender of *headers* may see the figures.

        Args:
            headers: Of the request.
            is_open: Callers need no key here, and it is known that this one comes from this
                machine.

        Raises:
            AuthenticationFailed: The token is missing or wrong.
            PermissionDenied: There is no token, and the gateway is there for others, too.
        """
        if self._token is None:
            if not is_open:
                raise PermissionDenied(f"metrics are not shown to clients: {_REMEDY}")
            return
        sent = headers.get(b"authorization", b"").strip()
        given = sent[len(_SCHEME) :].strip() if sent[: len(_SCHEME)].lower() == _SCHEME else b""
        if not hmac.compare_digest(given, self._token):
            raise AuthenticationFailed("metrics need the metrics token as Authorization: Bearer")

    async def render(self, accept: str) -> tuple[bytes, bytes]:
        """
        Return content type and body, in the form that *accept* prefers.

        The samples are taken at once; writing them, and loading the library that does it, is work
        for another thread.
        """
        own = list(self.own())
        kind, body = await asyncio.to_thread(self._render, own, accept)
        return kind.encode(), body

    def _render(self, own: list[Sample], accept: str) -> tuple[str, bytes]:
        return render_samples(merge_samples([own, *self.others()]), accept)


def render_samples(samples: Iterable[Sample], accept: str) -> tuple[str, bytes]:
    """Return content type and body; names that no family has are left out."""
    # At first use: a gateway that nobody scrapes does without it (2 MB, 50 ms).
    from prometheus_client import exposition, registry  # noqa: PLC0415

    by_name: dict[str, list[Sample]] = {}
    for sample in samples:
        by_name.setdefault(sample.name, []).append(sample)
    collected = registry.CollectorRegistry(auto_describe=False)
    collected.register(_Collector(by_name))
    encode, content_type = exposition.choose_encoder(accept)
    return content_type, encode(collected)


class _Collector:
    """What the library asks for its families."""

    def __init__(self, samples: Mapping[str, list[Sample]]) -> None:
        self._samples = samples

    def collect(self) -> Iterable["Metric"]:
        for name, family in FAMILIES.items():
            if found := self._samples.get(name):
                yield _family(name, family, found)


def _family(name: str, family: Family, samples: Iterable[Sample]) -> "Metric":
    """Return the library's object for one family."""
    from prometheus_client import core  # noqa: PLC0415 - as above

    if family.kind == "histogram":
        histogram = core.HistogramMetricFamily(name, family.help, labels=family.labels)
        bounds = [*(format(float(b), "g") for b in family.buckets), "+Inf"]
        for sample in samples:
            buckets = _cumulative(bounds, sample.counts)
            histogram.add_metric(sample.labels, buckets, sample.value)
        return histogram
    type_ = core.CounterMetricFamily if family.kind == "counter" else core.GaugeMetricFamily
    made = type_(name, family.help, labels=family.labels)
    for sample in samples:
        made.add_metric(sample.labels, sample.value)
    return made


def _cumulative(bounds: Iterable[str], counts: Iterable[int]) -> list[tuple[str, int]]:
    total = 0
    buckets = []
    for bound, n in zip(bounds, counts, strict=True):
        total += n
        buckets.append((bound, total))
    return buckets


def merge_samples(parts: Iterable[Iterable[Sample]]) -> list[Sample]:
    """Return what several processes have together; counters and most gauges are added up."""
    return _combined(parts, _merged)


def continue_samples(before: Iterable[Sample], now: Iterable[Sample]) -> list[Sample]:
    """Return the samples of a process that goes on with the counters *before* it."""
    return _combined([before, now], _sum)


def _combined(
    parts: Iterable[Iterable[Sample]], combine: Callable[[Sample, Sample], Sample]
) -> list[Sample]:
    merged: dict[tuple[str, tuple[str, ...]], Sample] = {}
    for samples in parts:
        for sample in samples:
            key = (sample.name, sample.labels)
            known = merged.get(key)
            merged[key] = sample if known is None else combine(known, sample)
    return list(merged.values())


def _merged(one: Sample, other: Sample) -> Sample:
    family = FAMILIES.get(one.name)
    if family is not None and family.merge == "max":
        return one if one.value >= other.value else other
    return _sum(one, other)


def _sum(one: Sample, other: Sample) -> Sample:
    counts = [a + b for a, b in zip(one.counts, other.counts, strict=True)]
    return Sample(one.name, one.labels, one.value + other.value, counts)
