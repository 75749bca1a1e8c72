"""From the record of a request, which ends with it, to the one that is kept."""

import datetime as dt
from typing import Final

from dragoman.core.usage import Usage
from dragoman.policy.records import UsageRecord
from dragoman.policy.senders import storable
from dragoman.server.telemetry import RequestRecord

_MAX_NAME_CHARS: Final = 300  # of a model, of which a client may make up any
_MAX_ADJUSTMENTS: Final = 32  # a record is a few hundred bytes, not a hundred lines
_MAX_MICROS: Final = 2**53  # a database sums 64 bits; no reply costs nine billion dollars
_NO_USAGE: Final = Usage()


def usage_record(record: RequestRecord, *, now: dt.datetime, now_s: float) -> UsageRecord:
    """
    Return what is kept of a request that is over.

    Args:
        record: Of the request.
        now: The time of day, in UTC.
        now_s: The same moment on the clock of *record*.
    """
    usage, caller, sender = _usage_of(record), record.caller, record.sender
    duration_s = now_s - record.started_s
    first_s = record.first_content_s
    return UsageRecord(
        id=record.request_id,
        started_at=now - dt.timedelta(seconds=duration_s),
        key_id=caller.key_id,
        key_name=storable(caller.key_name),
        workspace_id=caller.workspace_id,
        session_id=sender.session_id,
        agent_id=sender.agent_id,
        client=sender.client,
        client_version=sender.client_version,
        model=storable(record.model, _MAX_NAME_CHARS),
        upstream=record.upstream,
        upstream_model=record.upstream_model,
        is_stream=record.is_stream,
        input_tokens=usage.input_tokens,
        cache_read_input_tokens=usage.cache_read_input_tokens,
        cache_creation_input_tokens=usage.cache_creation_input_tokens,
        output_tokens=usage.output_tokens,
        reasoning_tokens=usage.thinking_tokens or 0,
        cost_micros=None if record.cost_micros is None else min(record.cost_micros, _MAX_MICROS),
        first_content_ms=None if first_s is None else round((first_s - record.started_s) * 1000),
        duration_ms=round(duration_s * 1000),
        attempts=record.attempts,
        stop_reason=storable(record.stop_reason),
        status=record.status,
        error_type=storable(record.error_type),
        adjustments=_adjustments(record),
        repairs=record.repairs,
    )


def _usage_of(record: RequestRecord) -> Usage:
    """Return the tokens that count: not our estimate of a prompt that nobody has answered."""
    usage = record.usage
    if usage is None or (usage.is_estimate and record.first_content_s is None):
        return _NO_USAGE
    return usage


def _adjustments(record: RequestRecord) -> tuple[str, ...]:
    kept = record.adjustments[:_MAX_ADJUSTMENTS]
    return tuple([storable(f"{each.field} {each.action}") for each in kept])
