"""What is kept of a request: who, what, tokens, cost, timing, outcome; never content."""

import datetime as dt
import json

import pytest

from dragoman.core.adjustments import Adjustment
from dragoman.core.usage import Usage
from dragoman.policy.access import Caller, Workspace
from dragoman.policy.records import UsageFacts, UsageRecord, decode_facts, encode_facts
from dragoman.policy.senders import Sender
from dragoman.server import usage_records
from dragoman.server.telemetry import RequestRecord
from dragoman.server.usage_records import RecordMaker
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


def kept(maker: RecordMaker | None = None, **changes: object) -> UsageRecord:
    made = maker or RecordMaker()
    return made.make(a_request(**changes), clock_s=NOW.timestamp() - 104.5, now_s=104.5)


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
    facts = UsageFacts(
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
        attempts=2,
        stop_reason="end_turn",
        status=200,
        adjustments=("top_k dropped",),
        repairs={"type": 2},
    )
    assert record == UsageRecord(
        id="req_1",
        started_ms=int(NOW.timestamp() * 1000) - 4500,
        facts=encode_facts(facts),
        input_tokens=10,
        cache_read_input_tokens=20,
        cache_creation_input_tokens=30,
        output_tokens=40,
        reasoning_tokens=5,
        cost_micros=1234,
        first_content_ms=1250,
        duration_ms=4500,
    )
    assert decode_facts(record.facts) == facts


def test_what_others_made_up_is_made_fit_to_store() -> None:
    odd = "m\x00\n\ud800" + "x" * 1000
    record = kept(
        model=odd,
        stop_reason=odd,
        error_type=odd,
        adjustments=(Adjustment(odd, "dropped", odd),) * 100,
    )
    facts = decode_facts(record.facts)
    assert facts.model == "m???" + "x" * 296
    assert facts.stop_reason == facts.error_type == "m???" + "x" * 196
    assert len(facts.adjustments) == 32
    assert decode_lines(encode_lines([record])).records == (record,)
    assert len(encode_lines([record])) < 16_000


def test_no_reason_of_an_adjustment_is_kept() -> None:
    record = kept(adjustments=(Adjustment("a", "dropped", "the secret reason"),))
    assert "secret" not in json.dumps(decode_facts(record.facts).adjustments)


FIELDS: dict[str, tuple[object, object]] = {
    "caller": (Caller(key_id="apikey_2", key_name=""), Caller(key_id="apikey_3", key_name="")),
    "sender": (Sender("s"), Sender("", "s")),
    "model": ("a", "b"),
    "upstream": ("a", "b"),
    "upstream_model": ("a", "b"),
    "is_stream": (False, True),
    "attempts": (1, 2),
    "stop_reason": ("end_turn", "tool_use"),
    "status": (200, 500),
    "error_type": ("api_error", ""),
    "adjustments": ((), (Adjustment("top_k", "dropped", "not known"),)),
    "repairs": ({"type": 1}, {"type": 2}),
}


@pytest.mark.parametrize(("name", "values"), FIELDS.items(), ids=FIELDS)
def test_facts_are_written_once_and_never_for_others(
    name: str, values: tuple[object, object]
) -> None:
    maker = RecordMaker()
    first, other = (kept(maker, **{name: value}).facts for value in values)
    assert first != other
    assert [kept(maker, **{name: value}).facts for value in values] == [first, other]
    assert kept(maker, **{name: values[0]}).facts is first
    assert kept(RecordMaker(), **{name: values[0]}).facts == first


def test_a_workspace_is_told_from_none() -> None:
    maker = RecordMaker()
    callers = [Caller(key_id="k", key_name="n", workspace=team) for team in (None, TEAM)]
    facts = [decode_facts(kept(maker, caller=caller).facts) for caller in callers]
    assert [each.workspace_id for each in facts] == [None, "wrkspc_1"]


def test_what_is_kept_for_others_has_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage_records, "_MAX_KNOWN", 3)
    maker = RecordMaker()
    for number in range(10):
        kept(maker, model=f"m{number}")
        assert len(maker._known) <= 3
    maker = RecordMaker()
    long = "x" * 2001
    for changes in (
        {"model": long},
        {"stop_reason": long},
        {"error_type": long},
        {"adjustments": (Adjustment(long, "dropped", ""),)},
        {"adjustments": (Adjustment("", "dropped", long),)},
    ):
        assert kept(maker, **changes) == kept(maker, **changes)
        assert maker._known == {}
