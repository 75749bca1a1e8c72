"""
Usage records as lines that can be cut anywhere.

A line is the CRC-32 of a record in eight hexadecimal digits, a space, the record as a JSON array, a
line end. What a killed process leaves half written fails its sum and is passed over.
"""

import zlib
from collections.abc import Iterable
from typing import Final

import msgspec
from msgspec import Struct, structs

from dragoman.policy.records import UsageFacts, UsageRecord, decode_facts, encode_facts

_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(UsageRecord).decode
_SUM_CHARS: Final = 8


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


def encode_lines(records: Iterable[UsageRecord]) -> bytes:
    """Return one line for each record."""
    bodies = map(_encode, records)
    return b"".join([b"%08x %b\n" % (zlib.crc32(body), body) for body in bodies])


def decode_lines(data: bytes) -> Lines:
    """Return what *data* holds, wherever it was cut."""
    *whole, rest = data.split(b"\n")
    records = tuple(record for line in whole if (record := _record_of(line)) is not None)
    return Lines(records=records, is_cut=bool(rest), n_broken=len(whole) - len(records))


def _record_of(line: bytes) -> UsageRecord | None:
    body = line[_SUM_CHARS + 1 :]
    if line[:_SUM_CHARS] != b"%08x" % zlib.crc32(body):
        return None
    try:
        record = _decode(body)
        decode_facts(record.facts)
    except msgspec.DecodeError:
        return _earlier_record_of(body)
    return record


def _earlier_record_of(body: bytes) -> UsageRecord | None:
    """Return a record as it was written before facts were told apart."""
    try:
        earlier = structs.asdict(_decode_earlier(body))
    except msgspec.DecodeError:  # whole, but of a version with another idea of a record
        return None
    facts = UsageFacts(**{name: earlier.pop(name) for name in UsageFacts.__struct_fields__})
    return UsageRecord(facts=encode_facts(facts), **earlier)
