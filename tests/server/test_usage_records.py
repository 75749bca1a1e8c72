"""What is kept of a request: who, what, tokens, cost, timing, outcome; never content."""

import datetime as dt
import json

from dragoman.core.adjustments import Adjustment
from dragoman.core.usage import Usage
from dragoman.policy.access import Caller, Workspace
from dragoman.policy.records import UsageRecord
from dragoman.policy.senders import Sender
from dragoman.server.telemetry import RequestRecord
from dragoman.server.usage_records import usage_record
from dragoman.stores.usage_lines import decode_lines, encode_lines

NOW = dt.datetime(2026, 11, 25, 14, 0, 10, tzinfo=dt.UTC)
TEAM = Workspace(id="wrkspc_1", name="team", created_at=NOW)


def a_request(**changes: object) -> RequestRecord:
    plain: dict[str, object] = {
        "request_id": "req_1",
        "method": "POST",
        "path": "/v1/messages",
        "caller": Caller(key_id="apikey_1", key_name="ada", workspace=TEAM),
        "started_s": 100.0,
    }
    return RequestRecord(**(plain | changes))  # type: ignore[arg-type]


def kept(**changes: object) -> UsageRecord:
    return usage_record(a_request(**changes), at_s=NOW.timestamp(), now_s=104.5)


def test_everything_is_kept() -> None:
    record = kept(
        sender=Sender("session", "agent", "claude-cli", "2.1.330"),
        model="sonnet",
        upstream="lab",
        upstream_model="real",
        is_stream=True,
        status=200,
        stop_reason="end_turn",
        usage=Usage(10, 20, 30, 40, 5, is_estimate=False),
        attempts=2,
        first_content_s=101.25,
        adjustments=(Adjustment("top_k", "dropped", "the upstream does not know it"),),
        repairs={"type": 2},
        cost_micros=1234,
    )
    assert record == UsageRecord(
        id="req_1",
        started_ms=int(NOW.timestamp() * 1000) - 4500,
        key_id="apikey_1",
        key_name="ada",
        workspace_id="wrkspc_1",
        session_id="session",
        agent_id="agent",
        client="claude-cli",
        client_version="2.1.330",
        model="sonnet",
        upstream="lab",
        upstream_model="real",
        is_stream=True,
        input_tokens=10,
        cache_read_input_tokens=20,
        cache_creation_input_tokens=30,
        output_tokens=40,
        reasoning_tokens=5,
        cost_micros=1234,
        first_content_ms=1250,
        duration_ms=4500,
        attempts=2,
        stop_reason="end_turn",
        status=200,
        adjustments=("top_k dropped",),
        repairs={"type": 2},
    )


def test_what_others_made_up_is_made_fit_to_store() -> None:
    odd = "m\x00\n\ud800" + "x" * 1000
    record = kept(
        model=odd,
        stop_reason=odd,
        error_type=odd,
        adjustments=(Adjustment(odd, "dropped", odd),) * 100,
    )
    assert record.model == "m???" + "x" * 296
    assert record.stop_reason == record.error_type == "m???" + "x" * 196
    assert len(record.adjustments) == 32
    assert decode_lines(encode_lines([record])).records == (record,)
    assert len(encode_lines([record])) < 16_000


def test_no_reason_of_an_adjustment_is_kept() -> None:
    record = kept(adjustments=(Adjustment("a", "dropped", "the secret reason"),))
    assert "secret" not in json.dumps(record.adjustments)
