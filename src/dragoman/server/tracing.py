"""
Traces: one span for each request, one for each call of an upstream; made at the end, of its record.

The form of what travels is W3C Trace Context, level 1; attributes follow OpenTelemetry's
conventions for generative AI. No content is in them. Whoever exports spans is handed in: nothing
here needs a library, and a gateway that traces nothing only notes the trace that a client names.
"""

import re
import time
from collections.abc import Callable, Mapping
from typing import Final, Literal

from msgspec import Struct

from dragoman.server.ids import new_span_id, new_trace_id
from dragoman.server.telemetry import RequestRecord, Trace, UpstreamCall
from dragoman.server.transport.seams import HeaderList, Headers

Attributes = dict[str, str | int | float | bool | tuple[str, ...]]

# Of version 00; later ones may have more behind it, and "ff" is none.
_PARENT: Final = re.compile(
    rb"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?"
)
_STATE: Final = re.compile(rb"[\x20-\x7e]{1,512}")
_SAMPLED: Final = 0x01
_OPERATIONS: Final = {"/v1/messages": "chat", "/v1/messages/count_tokens": "count_tokens"}


class Span(Struct, frozen=True, kw_only=True):
    """One span that is over; times are nanoseconds since 1970."""

    name: str
    kind: Literal["server", "client"]
    trace_id: str
    span_id: str
    parent_id: str  # empty: the trace begins here
    is_parent_remote: bool
    state: str
    start_ns: int
    end_ns: int
    attributes: Attributes
    error_type: str = ""


class Tracing:
    """
    Note to which trace a request belongs, and make its spans.

    Args:
        export: Takes spans; None: nobody wants any.
        sample_ratio: Of traces that begin here; others are as their parent says.
        providers: What OpenTelemetry calls the API behind each upstream.

    Attributes:
        is_on: Spans are wanted, also of requests that name no trace.
    """

    def __init__(
        self,
        export: Callable[[list[Span]], None] | None = None,
        *,
        sample_ratio: float = 1.0,
        providers: Mapping[str, str] | None = None,
    ) -> None:
        self._export = export
        self.is_on = export is not None
        self._bound = round(sample_ratio * 2**64)
        self._providers = providers or {}

    def begin(self, headers: Headers) -> Trace | None:
        """Return the trace of a request with these headers; None: it has none."""
        sent = headers.get(b"traceparent")
        found = read_parent(sent) if sent is not None else None
        if self._export is None:
            return found
        if found is None:
            trace_id = new_trace_id()
            is_sampled = int(trace_id[16:], 16) < self._bound
            found = Trace(trace_id=trace_id, is_sampled=is_sampled)
        else:
            state = headers.get(b"tracestate", b"")
            found.state = state.decode() if _STATE.fullmatch(state) else ""
        found.span_id, found.goes_on = new_span_id(), True
        return found

    def end(self, record: RequestRecord, now_s: float) -> None:
        """Export the spans of a request that is over; *now_s* is on the clock of the record."""
        trace = record.trace
        if self._export is None or trace is None or not trace.is_sampled:
            return
        epoch_ns = time.time_ns() - round(now_s * 1e9)  # when that clock was at zero
        spans = [self._span_of_call(call, record, trace, epoch_ns) for call in record.calls]
        spans.append(self._span_of_request(record, trace, epoch_ns, end_s=now_s))
        self._export(spans)

    def _span_of_request(
        self, record: RequestRecord, trace: Trace, epoch_ns: int, *, end_s: float
    ) -> Span:
        attributes: Attributes = {
            "http.request.method": record.method,
            "url.path": record.path[:300],
            "http.response.status_code": record.status,
            "dragoman.request_id": record.request_id,
            "dragoman.key": record.caller.key_name,
        }
        operation = _OPERATIONS.get(record.path, "")
        if operation:
            attributes |= self._of_model(record, operation, upstream=record.upstream)
            attributes |= _of_reply(record)
            attributes |= _of_gateway(record)
        model = record.alias
        return Span(
            name=f"{operation} {model}".strip() if operation else f"{record.method}",
            kind="server",
            trace_id=trace.trace_id,
            span_id=trace.span_id,
            parent_id=trace.parent_id,
            is_parent_remote=True,
            state=trace.state,
            start_ns=epoch_ns + round(record.started_s * 1e9),
            end_ns=epoch_ns + round(end_s * 1e9),
            attributes=attributes,
            error_type=record.error_type,
        )

    def _span_of_call(
        self, call: UpstreamCall, record: RequestRecord, trace: Trace, epoch_ns: int
    ) -> Span:
        attributes = self._of_model(record, "chat", upstream=call.upstream)
        attributes["gen_ai.request.model"] = call.model
        attributes["dragoman.upstream"] = call.upstream
        if call is record.calls[-1] and call.outcome == "ok":
            attributes |= _of_reply(record)
        return Span(
            name=f"chat {call.model}",
            kind="client",
            trace_id=trace.trace_id,
            span_id=call.span_id,
            parent_id=trace.span_id,
            is_parent_remote=False,
            state=trace.state,
            start_ns=epoch_ns + round(call.started_s * 1e9),
            end_ns=epoch_ns + round(max(call.started_s, call.ended_s) * 1e9),
            attributes=attributes,
            error_type="" if call.outcome == "ok" else call.outcome,
        )

    def _of_model(self, record: RequestRecord, operation: str, *, upstream: str) -> Attributes:
        found: Attributes = {
            "gen_ai.operation.name": operation,
            "gen_ai.request.model": record.model[:300],
            "gen_ai.request.stream": record.is_stream,
        }
        if upstream:
            found["gen_ai.provider.name"] = self._providers.get(upstream, upstream)
        if record.sender.session_id:
            found["gen_ai.conversation.id"] = record.sender.session_id
        return found


def _of_reply(record: RequestRecord) -> Attributes:
    """Return what is known of the reply."""
    found: Attributes = {}
    if record.upstream_model:
        found["gen_ai.response.model"] = record.upstream_model
    if record.stop_reason:
        found["gen_ai.response.finish_reasons"] = (record.stop_reason,)
    if record.first_content_s is not None:
        waited_s = record.first_content_s - record.started_s
        found["gen_ai.response.time_to_first_chunk"] = round(waited_s, 6)
    if (usage := record.usage) is not None:
        found["gen_ai.usage.input_tokens"] = usage.prompt_tokens
        found["gen_ai.usage.output_tokens"] = usage.output_tokens
        found["gen_ai.usage.cache_read.input_tokens"] = usage.cache_read_input_tokens
        found["gen_ai.usage.cache_creation.input_tokens"] = usage.cache_creation_input_tokens
        if usage.thinking_tokens is not None:
            found["gen_ai.usage.reasoning.output_tokens"] = usage.thinking_tokens
    return found


def _of_gateway(record: RequestRecord) -> Attributes:
    """Return what has no name in the conventions."""
    found: Attributes = {"dragoman.attempts": record.attempts}
    texts = {
        "dragoman.upstream": record.upstream,
        "dragoman.workspace": record.caller.workspace_id or "",
        "dragoman.agent_id": record.sender.agent_id,
        "dragoman.client": f"{record.sender.client} {record.sender.client_version}".strip(),
    }
    found |= {name: text for name, text in texts.items() if text}
    if record.adjustments:
        found["dragoman.adjustments"] = tuple(f"{a.field} {a.action}" for a in record.adjustments)
    if record.repairs:
        found["dragoman.repairs"] = tuple(f"{kind}:{n}" for kind, n in record.repairs.items())
    if record.cost_micros is not None:
        found["dragoman.cost_micros"] = record.cost_micros
    return found


def read_parent(sent: bytes) -> Trace | None:
    """Return the trace that a ``traceparent`` names; None: it is malformed, and there is none."""
    found = _PARENT.fullmatch(sent.strip())
    if found is None or (found[1] == b"00" and found[5] is not None):
        return None
    return Trace(
        trace_id=found[2].decode(),
        parent_id=found[3].decode(),
        is_sampled=bool(int(found[4], 16) & _SAMPLED),
    )


def parent_headers(trace: Trace, span_id: str) -> HeaderList:
    """Return the headers that hand *trace* on, below the span *span_id*."""
    parent = f"00-{trace.trace_id}-{span_id}-{'01' if trace.is_sampled else '00'}"
    headers = [(b"traceparent", parent.encode())]
    return [*headers, (b"tracestate", trace.state.encode())] if trace.state else headers
