"""From the record of a request, which ends with it, to the one that is kept."""

from typing import Final

from msgspec import Raw

from dragoman.core.usage import Usage
from dragoman.policy.records import UsageFacts, UsageRecord, encode_facts
from dragoman.policy.senders import storable
from dragoman.server.telemetry import RequestRecord

_MAX_NAME_CHARS: Final = 300  # of a model, of which a client may make up any
_MAX_ADJUSTMENTS: Final = 32  # a record is a few hundred bytes, not a hundred lines
_MAX_MICROS: Final = 2**53  # a database sums 64 bits; no reply costs nine billion dollars
_MAX_KNOWN: Final = 2048  # facts that are kept for the next request: mostly 1 kB each
_MAX_KNOWN_CHARS: Final = 2000  # of what clients and upstreams have made up; it is mostly 100
_NO_USAGE: Final = Usage()


class RecordMaker:
    """
    Makes what is kept of requests; what many have in common is written once for all of them.

    Belongs to one event loop.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[object, ...], Raw] = {}

    def make(self, record: RequestRecord, *, clock_s: float, now_s: float) -> UsageRecord:
        """
        Return what is kept of a request that is over.

        Args:
            record: Of the request.
            clock_s: The time of day, in seconds since 1970, when the clock of *record* shows 0.
            now_s: The moment, on that clock.
        """
        caller, usage, began_s = record.caller, record.usage, record.started_s
        first_s, micros, workspace = record.first_content_s, record.cost_micros, caller.workspace
        key = (
            caller.key_id,
            caller.key_name,
            workspace and workspace.id,
            record.sender,
            record.model,
            record.upstream,
            record.upstream_model,
            record.is_stream,
            record.attempts,
            record.stop_reason,
            record.status,
            record.error_type,
            record.adjustments,
            tuple(record.repairs.items()) if record.repairs else (),
        )
        if usage is None:
            usage = _NO_USAGE
        return UsageRecord(  # by place: with names it takes twice as long
            record.request_id,
            int((clock_s + began_s) * 1000),
            self._known.get(key) or self._learn(key, record),
            usage.input_tokens,
            usage.cache_read_input_tokens,
            usage.cache_creation_input_tokens,
            usage.output_tokens,
            usage.thinking_tokens or 0,
            micros if micros is None or micros < _MAX_MICROS else _MAX_MICROS,
            None if first_s is None else round((first_s - began_s) * 1000),
            round((now_s - began_s) * 1000),
        )

    def _learn(self, key: tuple[object, ...], record: RequestRecord) -> Raw:
        """Write facts that are not known, and keep them under *key* unless they are long."""
        encoded = encode_facts(usage_facts(record))
        if _is_short(record):
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            self._known[key] = encoded
        return encoded


def _is_short(record: RequestRecord) -> bool:
    """Tell whether what others made up of a record may be kept, uncut as it is here."""
    told = [f"{each.field}{each.reason}" for each in record.adjustments]
    texts = (record.model, record.stop_reason, record.error_type, *told)
    return sum(map(len, texts)) <= _MAX_KNOWN_CHARS


def usage_facts(record: RequestRecord) -> UsageFacts:
    """Return what a request may have in common with others, fit to store."""
    caller, sender = record.caller, record.sender
    return UsageFacts(
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
        attempts=record.attempts,
        stop_reason=storable(record.stop_reason),
        status=record.status,
        error_type=storable(record.error_type),
        adjustments=_adjustments(record),
        repairs=record.repairs,
    )


def _adjustments(record: RequestRecord) -> tuple[str, ...]:
    kept = record.adjustments[:_MAX_ADJUSTMENTS]
    return tuple([storable(f"{each.field} {each.action}") for each in kept])
