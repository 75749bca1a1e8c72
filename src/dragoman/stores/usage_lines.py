"""
Usage records as lines that can be cut anywhere.

A line is the CRC-32 of some records in eight hexadecimal digits, a space, the records as a JSON
array of arrays, a line end. What a killed process leaves half written fails its sum and is passed
over.
"""

import zlib
from collections.abc import Sequence
from itertools import chain
from typing import Final

import msgspec
from msgspec import Struct, structs

from dragoman.policy.records import UsageFacts, UsageRecord, decode_facts, encode_facts

_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(list[UsageRecord]).decode
_SUM_CHARS: Final = 8
# Records in one line. A sum for each would cost as much again; what is damaged costs so many.
_TOGETHER: Final = 16


class _EarlierRecord(Struct, frozen=True, array_like=True):
    """What gateways wrote, and may have left, that knew of no facts."""

    id: str
    started_ms: int
    key_id: str
    key_name: str
    workspace_id: str | None
    session_id: str
    agent_id: str
    client: str
    client_version: str
    model: str
    upstream: str
    upstream_model: str
    is_stream: bool
    input_tokens: int
    cache_read_input_tokens: int
    cache_creation_input_tokens: int
    output_tokens: int
    reasoning_tokens: int
    cost_micros: int | None
    first_content_ms: int | None
    duration_ms: int
    attempts: int
    stop_reason: str
    status: int
    error_type: str
    adjustments: tuple[str, ...]
    repairs: dict[str, int]


_decode_earlier: Final = msgspec.json.Decoder(_EarlierRecord).decode


class Lines(Struct, frozen=True, kw_only=True):
    """
    What was read.

    Attributes:
        records: Of all whole lines, in order.
        is_cut: The last line has no end: its process was killed while it wrote.
        n_broken: Other lines that are no records of ours.
    """

    records: tuple[UsageRecord, ...]
    is_cut: bool
    n_broken: int


def encode_lines(records: Sequence[UsageRecord]) -> bytes:
    """Return lines with a few records each."""
    starts = range(0, len(records), _TOGETHER)
    bodies = [_encode(records[start : start + _TOGETHER]) for start in starts]
    return b"".join([b"%08x %b\n" % (zlib.crc32(body), body) for body in bodies])


def decode_lines(data: bytes) -> Lines:
    """Return what *data* holds, wherever it was cut."""
    *whole, rest = data.split(b"\n")
    found = list(map(_records_of, whole))
    records = tuple(chain.from_iterable(found))
    return Lines(records=records, is_cut=bool(rest), n_broken=found.count([]))


def _records_of(line: bytes) -> list[UsageRecord]:
    """Return the records of a line; none: it is broken."""
    body = line[_SUM_CHARS + 1 :]
    if line[:_SUM_CHARS] != b"%08x" % zlib.crc32(body):
        return []
    try:
        records = _decode(body)
        for record in records:
            decode_facts(record.facts)
    except msgspec.DecodeError:
        return _earlier_record_of(body)
    return records


def _earlier_record_of(body: bytes) -> list[UsageRecord]:
    """Return the one record of a line, as it was written before facts were told apart."""
    try:
        earlier = structs.asdict(_decode_earlier(body))
    except msgspec.DecodeError:  # whole, but of a version with another idea of a record
        return []
    facts = UsageFacts(**{name: earlier.pop(name) for name in UsageFacts.__struct_fields__})
    return [UsageRecord(facts=encode_facts(facts), **earlier)]
