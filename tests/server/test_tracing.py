"""Traces: what a client names is gone on with, and spans say what has happened, without content."""

import asyncio
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as WireSpan
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from dragoman.build import build_gateway
from dragoman.server.telemetry import EventLog, RequestRecord, UpstreamCall
from dragoman.server.tracing import Span, Tracing, read_parent
from dragoman.settings import (
    Config,
    ModelConfig,
    PriceConfig,
    Secret,
    ServerConfig,
    TracingConfig,
    UpstreamConfig,
)
from dragoman.tables import ConfigError
from support.app_case import ASK, RESET, AppCase, failing, refusing, run, saying
from support.chat_script import refuse, say
from support.chat_upstream import ChatUpstream
from support.fakes import FakeExchange
from support.loops import until
from support.span_collector import SpanCollector, attributes_of

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01".encode()
PRICE = PriceConfig(models=("real-m",), input_per_mtok=1.0, output_per_mtok=2.0)
SENTENCE = "nobody else may read this sentence"


@pytest.mark.parametrize(
    ("sent", "is_sampled"),
    [
        (TRACEPARENT, True),
        (TRACEPARENT[:-1] + b"0", False),
        (TRACEPARENT[:-2] + b"03", True),  # bits that we do not know
        (b" " + TRACEPARENT + b" ", True),
        (b"cc" + TRACEPARENT[2:] + b"-what-the-future-brings", True),
    ],
)
def test_traceparents_that_are_read(sent: bytes, is_sampled: bool) -> None:
    found = read_parent(sent)
    assert found is not None
    assert (found.trace_id, found.parent_id, found.is_sampled) == (TRACE, PARENT, is_sampled)


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"nonsense",
        b"ff" + TRACEPARENT[2:],
        TRACEPARENT + b"-more",
        TRACEPARENT.upper(),
        f"00-{'0' * 32}-{PARENT}-01".encode(),
        f"00-{TRACE}-{'0' * 16}-01".encode(),
        TRACEPARENT + b"\n" + TRACEPARENT,
    ],
)
def test_traceparents_that_are_none(sent: bytes) -> None:
    assert read_parent(sent) is None


def traced(
    *scripts: Any, headers: dict[bytes, bytes] | None = None, ratio: float = 1.0, **case: Any
) -> tuple[list[Span], AppCase]:
    spans: list[Span] = []
    tracing = Tracing(spans.extend, sample_ratio=ratio, providers={"lab": "deepseek"})

    async def main() -> AppCase:
        made = AppCase({"lab": scripts}, tracing=tracing, prices=[PRICE], **case)
        body = {**ASK, "stream": True, "top_k": 5}
        body["messages"] = [{"role": "user", "content": SENTENCE}]
        await made.ask(body, headers=headers)
        await made.close()
        return made

    return spans, run(main())


def test_a_request_and_its_calls_are_spans_of_the_trace_that_the_client_names() -> None:
    headers = {
        b"traceparent": TRACEPARENT,
        b"tracestate": b"vendor=1",
        b"x-claude-code-session-id": b"session-7",
        b"user-agent": b"claude-cli/2.1.0 (external)",
    }
    spans, case = traced(failing(RESET), saying("Hello", prompt=10, output=4), headers=headers)
    first, second, request = spans
    assert {span.trace_id for span in spans} == {TRACE}
    assert {span.state for span in spans} == {"vendor=1"}
    assert (request.kind, request.name, request.parent_id) == ("server", "chat m", PARENT)
    assert {first.parent_id, second.parent_id} == {request.span_id}
    assert (first.kind, first.name) == ("client", "chat real-m")
    assert (first.error_type, second.error_type, request.error_type) == ("api_error", "", "")
    assert request.start_ns <= first.start_ns <= first.end_ns <= second.start_ns
    assert second.end_ns <= request.end_ns
    found = request.attributes
    assert found["gen_ai.operation.name"] == "chat"
    assert found["gen_ai.provider.name"] == "deepseek"
    assert found["gen_ai.request.model"] == "m"
    assert found["gen_ai.request.stream"] is True
    assert found["gen_ai.response.model"] == "real-m"
    assert found["gen_ai.response.finish_reasons"] == ("end_turn",)
    assert found["gen_ai.usage.input_tokens"] == 10
    assert found["gen_ai.usage.output_tokens"] == 4
    assert found["gen_ai.conversation.id"] == "session-7"
    assert found["http.response.status_code"] == 200
    assert found["dragoman.attempts"] == 2
    assert found["dragoman.cost_micros"] == 18
    assert found["dragoman.client"] == "claude-cli 2.1.0"
    assert "top_k dropped" in found["dragoman.adjustments"]
    assert found["dragoman.request_id"] == case.record["request_id"]
    assert "gen_ai.usage.input_tokens" not in first.attributes
    assert second.attributes["gen_ai.usage.output_tokens"] == 4
    # Each call tells the upstream of itself, and nobody else's span.
    told = [dict(request.headers) for request in case.upstreams["lab"].requests]
    assert [each[b"traceparent"] for each in told] == [
        f"00-{TRACE}-{span.span_id}-01".encode() for span in (first, second)
    ]
    assert told[0][b"tracestate"] == b"vendor=1"
    # The log leads to the trace.
    assert case.record["trace_id"] == TRACE
    assert case.record["session_id"] == "session-7"
    assert (case.record["client"], case.record["client_version"]) == ("claude-cli", "2.1.0")
    assert SENTENCE not in repr(spans)


def test_a_request_without_one_begins_a_trace() -> None:
    spans, case = traced(saying("Hello"), headers={b"traceparent": b"nonsense"})
    assert spans[-1].parent_id == ""
    assert re.fullmatch(r"[0-9a-f]{32}", spans[-1].trace_id)
    assert case.record["trace_id"] == spans[-1].trace_id


def test_an_error_is_one() -> None:
    spans, _ = traced(refusing(400, "no"))
    call, request = spans
    assert call.error_type == request.error_type == "invalid_request_error"
    assert request.attributes["http.response.status_code"] == 400


@pytest.mark.parametrize(("flags", "n_spans"), [(b"01", 2), (b"00", 0)])
def test_the_parent_says_whether_it_is_sampled(flags: bytes, n_spans: int) -> None:
    sent = TRACEPARENT[:-2] + flags
    spans, case = traced(saying("Hello"), headers={b"traceparent": sent}, ratio=0.0)
    assert len(spans) == n_spans
    (request,) = case.upstreams["lab"].requests
    assert dict(request.headers)[b"traceparent"].endswith(b"-" + flags)


def test_traces_that_begin_here_are_sampled_by_the_ratio() -> None:
    tracing = Tracing(lambda _: None, sample_ratio=0.25)
    traces = [tracing.begin({}) for _ in range(2000)]
    n_sampled = sum(trace is not None and trace.is_sampled for trace in traces)
    assert 350 < n_sampled < 650
    never = Tracing(lambda _: None, sample_ratio=0.0).begin({})
    assert never is not None
    assert not never.is_sampled


def test_without_export_a_trace_is_only_noted() -> None:
    async def main() -> AppCase:
        case = AppCase({"lab": [saying("Hello"), saying("Hello")]})
        await case.ask(ASK, headers={b"traceparent": TRACEPARENT})
        await case.ask(ASK)
        await case.close()
        return case

    case = run(main())
    assert case.records[0]["trace_id"] == TRACE
    assert "trace_id" not in case.records[1]
    for request in case.upstreams["lab"].requests:
        assert b"traceparent" not in dict(request.headers)


def test_a_call_that_never_ended_has_no_time_below_zero() -> None:
    spans: list[Span] = []
    trace = read_parent(TRACEPARENT)
    record = RequestRecord("r", "POST", "/v1/messages", started_s=5.0, trace=trace)
    record.calls.append(UpstreamCall("lab", "m", 6.0))
    Tracing(spans.extend).end(record, 7.0)
    assert spans[0].end_ns == spans[0].start_ns


# -- to a real collector


def config(folder: Path, upstream_url: str, **tracing: Any) -> Config:
    return Config(
        server=ServerConfig(data_dir=folder),
        upstreams={"lab": UpstreamConfig(base_url=upstream_url, api_key=Secret("lab-secret-key"))},
        models={"m": ModelConfig(upstream=("lab",), upstream_model="real-m", retries=0)},
        tracing=TracingConfig(**tracing),
    )


def test_spans_reach_a_collector(tmp_path: Path) -> None:
    async def main(collector: SpanCollector, upstream: ChatUpstream) -> None:
        tracing = {
            "endpoint": collector.url,
            "headers": {"x-tenant": Secret("tenant-credential")},
            "service_name": "gateway of the lab",
        }
        made = config(tmp_path, upstream.url, **tracing)
        gateway = build_gateway(made, log=EventLog("json"), environ={})
        for path in ("/v1/messages", "/v1/messages", "/v1/messages/count_tokens"):
            headers = {b"traceparent": TRACEPARENT, b"tracestate": b"a=1,b=2"}
            body = {**ASK, "messages": [{"role": "user", "content": SENTENCE}]}
            exchange = FakeExchange(json.dumps(body).encode(), path=path, headers=headers)
            await gateway.handle(exchange)
        await gateway.close()  # sends what is left

    rules = say("Hello"), refuse(500, "out of order")
    with SpanCollector() as collector, ChatUpstream(*rules) as upstream:
        asyncio.run(main(collector, upstream))
        path, headers, request = collector.requests[0]
        assert path == "/v1/traces"
        assert headers["x-tenant"] == "tenant-credential"
        resource = attributes_of(request.resource_spans[0].resource)
        assert resource["service.name"] == "gateway of the lab"
        spans = collector.spans
        told = [each.headers.get("traceparent") for each in upstream.requests]

    assert [span.name for span in spans] == [
        *("chat real-m", "chat m", "chat real-m", "chat m", "count_tokens m")
    ]
    assert {span.trace_id.hex() for span in spans} == {TRACE}
    assert {span.trace_state for span in spans} == {"a=1,b=2"}
    call, asked, failed_call, failed, _ = spans
    assert asked.parent_span_id.hex() == PARENT
    assert call.parent_span_id == asked.span_id
    assert (call.kind, asked.kind) == (WireSpan.SPAN_KIND_CLIENT, WireSpan.SPAN_KIND_SERVER)
    assert asked.status.code == Status.STATUS_CODE_UNSET
    assert failed.status.code == failed_call.status.code == Status.STATUS_CODE_ERROR
    assert attributes_of(failed)["error.type"] == "api_error"
    assert attributes_of(asked)["gen_ai.response.finish_reasons"] == ["end_turn"]
    assert 0 < asked.end_time_unix_nano - asked.start_time_unix_nano < 60e9
    assert told[0] == f"00-{TRACE}-{call.span_id.hex()}-01"
    everything = str([request for _, _, request in collector.requests])
    assert "lab-secret-key" not in everything
    assert SENTENCE not in everything


def test_a_collector_that_is_away_costs_a_line_in_the_log(tmp_path: Path) -> None:
    events: list[tuple[str, Any]] = []

    class Log(EventLog):
        def event(self, name: str, **fields: Any) -> None:
            events.append((name, fields))

    async def main(collector: SpanCollector, upstream: ChatUpstream) -> None:
        made = config(tmp_path, upstream.url, endpoint=collector.url)
        gateway = build_gateway(made, log=Log("json"), environ={})
        exchange = FakeExchange(json.dumps(ASK).encode())
        await gateway.handle(exchange)
        assert exchange.status == 200
        await gateway.close()
        await until(lambda: any(name == "tracing" for name, _ in events))

    with SpanCollector(status=400) as collector, ChatUpstream(say("Hello")) as upstream:
        asyncio.run(main(collector, upstream))
    lines = [fields["detail"] for name, fields in events if name == "tracing"]
    assert len(lines) == 1
    assert "export" in lines[0].lower()


def test_without_the_libraries_one_line_says_how_to_get_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = "opentelemetry.exporter.otlp.proto.http.trace_exporter"
    monkeypatch.setitem(sys.modules, library, None)

    async def main() -> None:
        made = config(tmp_path, "http://127.0.0.1:9", endpoint="http://127.0.0.1:9")
        with pytest.raises(
            ConfigError, match=r"^tracing.endpoint: .*pip install 'dragoman\[otel\]'"
        ):
            build_gateway(made, log=EventLog("json"), environ={})

    asyncio.run(main())
