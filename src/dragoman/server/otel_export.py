"""Spans to a collector, by OpenTelemetry's exporter: OTLP over HTTP, in batches, in a thread."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from dragoman import __version__
from dragoman.server.tracing import Span
from dragoman.settings import TracingConfig
from dragoman.tables import ConfigError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.trace import SpanContext

TRACES_PATH: Final = "/v1/traces"
NOT_INSTALLED: Final = "traces need more packages: pip install 'dragoman[otel]'"
_MAX_QUEUED: Final = 4096  # spans; a collector that is away costs those beyond, and no memory
_BATCH: Final = 512
_EVERY_MS: Final = 2000
_EXPORT_TIMEOUT_S: Final = 10
_CLOSE_S: Final = 5.0  # for the last batch
_TELL_EVERY_S: Final = 60.0


class OtelExport:
    """
    Export spans.

    Args:
        settings: With an endpoint.
        tell: Told, in the event loop, that spans do not arrive; at most once a minute.

    Raises:
        ConfigError: The libraries are not installed.
    """

    def __init__(self, settings: TracingConfig, tell: Callable[[str], None]) -> None:
        try:
            # At first use: 15 MB and 100 ms, for those alone who want traces.
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415
                OTLPSpanExporter,
            )
            from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
        except ModuleNotFoundError:
            raise ConfigError([f"tracing.endpoint: {NOT_INSTALLED}"]) from None
        self._make = _SpanMaker(settings.service_name)
        assert settings.endpoint is not None
        exporter = OTLPSpanExporter(
            endpoint=settings.endpoint.rstrip("/") + TRACES_PATH,
            headers={name: value.reveal() for name, value in settings.headers.items()},
            timeout=_EXPORT_TIMEOUT_S,
        )
        self._processor = BatchSpanProcessor(
            exporter,
            max_queue_size=_MAX_QUEUED,
            max_export_batch_size=_BATCH,
            schedule_delay_millis=_EVERY_MS,
        )
        self._complaints = _Complaints(tell)
        self._log = logging.getLogger("opentelemetry")
        self._log.addHandler(self._complaints)
        self._log.propagate = False

    def take(self, spans: list[Span]) -> None:
        """Put spans into the queue."""
        for span in spans:
            self._processor.on_end(self._make(span))

    async def close(self) -> None:
        """Send what is left, for a few seconds at most; may be called again."""
        over = asyncio.Event()
        loop = asyncio.get_running_loop()

        def work() -> None:
            self._processor.shutdown()  # type: ignore[no-untyped-call]  # theirs has no types
            loop.call_soon_threadsafe(over.set)

        # Not the loop's own threads: their end would be waited for, however long it takes.
        threading.Thread(target=work, name="last spans", daemon=True).start()
        try:
            async with asyncio.timeout(_CLOSE_S):
                await over.wait()
        except TimeoutError:
            self._complaints.say("the last spans could not be sent in time")
        self._log.removeHandler(self._complaints)


class _SpanMaker:
    """Turns our spans into the library's."""

    def __init__(self, service_name: str) -> None:
        from opentelemetry import trace  # noqa: PLC0415 - as above
        from opentelemetry.sdk import trace as sdk  # noqa: PLC0415
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.util.instrumentation import (  # noqa: PLC0415
            InstrumentationScope,
        )

        self._trace, self._sdk = trace, sdk
        named = {"service.name": service_name, "service.version": __version__}
        self._resource = Resource.create(named)
        self._scope = InstrumentationScope("dragoman", __version__)
        self._kinds = {"server": trace.SpanKind.SERVER, "client": trace.SpanKind.CLIENT}

    def __call__(self, span: Span) -> "ReadableSpan":
        trace, error = self._trace, span.error_type
        attributes = {**span.attributes, "error.type": error} if error else span.attributes
        return self._sdk.ReadableSpan(
            span.name,
            context=self._context(span, span.span_id),
            parent=self._context(span, span.parent_id) if span.parent_id else None,
            resource=self._resource,
            attributes=attributes,
            kind=self._kinds[span.kind],
            status=trace.Status(trace.StatusCode.ERROR if error else trace.StatusCode.UNSET),
            start_time=span.start_ns,
            end_time=span.end_ns,
            instrumentation_scope=self._scope,
        )

    def _context(self, span: Span, span_id: str) -> "SpanContext":
        trace = self._trace
        context: SpanContext = trace.SpanContext(
            trace_id=int(span.trace_id, 16),
            span_id=int(span_id, 16),
            is_remote=span_id == span.parent_id and span.is_parent_remote,
            trace_flags=trace.TraceFlags(trace.TraceFlags.SAMPLED),
            trace_state=trace.TraceState.from_header([span.state]) if span.state else None,
        )
        return context


class _Complaints(logging.Handler):
    """What the library has to say, from whichever thread, for our own log."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._tell = tell
        self._loop = asyncio.get_running_loop()
        self._next_s = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        self.say(record.getMessage())

    def say(self, text: str) -> None:
        """Tell it, unless something was told a moment ago."""
        now_s = time.monotonic()
        if now_s >= self._next_s and not self._loop.is_closed():
            self._next_s = now_s + _TELL_EVERY_S
            self._loop.call_soon_threadsafe(self._tell, text[:300])
