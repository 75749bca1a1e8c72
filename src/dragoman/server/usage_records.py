"""From the record of a request, which ends with it, to the one that is kept."""

from typing import Final

from dragoman.core.usage import Usage
from dragoman.policy.records import UsageRecord
from dragoman.policy.senders import storable
from dragoman.server.telemetry import RequestRecord

_MAX_NAME_CHARS: Final = 300  # of a model, of which a client may make up any
_MAX_ADJUSTMENTS: Final = 32  # a record is a few hundred bytes, not a hundred lines
_MAX_MICROS: Final = 2**53  # a database sums 64 bits; no reply costs nine billion dollars
_NO_USAGE: Final = Usage()


def usage_record(record: RequestRecord, *, at_s: float, now_s: float) -> UsageRecord:
    """
    Return what is kept of a request that is over.

    Args:
        record: Of the request.
        at_s: The time of day, in seconds since 1970.
        now_s: The same moment on the clock of *record*.
    """
    usage, caller, sender = _usage_of(record), record.caller, record.sender
    began_s, first_s, micros = record.started_s, record.first_content_s, record.cost_micros
    workspace = caller.workspace
    return UsageRecord(  # by place: with 27 names it takes twice as long
        record.request_id,
        int((at_s - now_s + began_s) * 1000),
        caller.key_id,
        storable(caller.key_name),
        None if workspace is None else workspace.id,
        sender.session_id,
        sender.agent_id,
        sender.client,
        sender.client_version,
        storable(record.model, _MAX_NAME_CHARS),
        record.upstream,
        record.upstream_model,
        record.is_stream,
        usage.input_tokens,
        usage.cache_read_input_tokens,
        usage.cache_creation_input_tokens,
        usage.output_tokens,
        usage.thinking_tokens or 0,
        micros if micros is None or micros < _MAX_MICROS else _MAX_MICROS,
        None if first_s is None else round((first_s - began_s) * 1000),
        round((now_s - began_s) * 1000),
        record.attempts,
        storable(record.stop_reason),
        record.status,
        storable(record.error_type) if record.error_type else "",
        _adjustments(record) if record.adjustments else (),
        record.repairs,
    )


def _usage_of(record: RequestRecord) -> Usage:
    return _NO_USAGE if record.usage is None else record.usage


def _adjustments(record: RequestRecord) -> tuple[str, ...]:
    kept = record.adjustments[:_MAX_ADJUSTMENTS]
    return tuple([storable(f"{each.field} {each.action}") for each in kept])
