"""
Usage records as lines that can be cut anywhere.

A line is the CRC-32 of a record in eight hexadecimal digits, a space, the record as a JSON array, a
line end. What a killed process leaves half written fails its sum and is passed over.
"""

import zlib
from collections.abc import Iterable
from typing import Final

import msgspec
from msgspec import Struct

from dragoman.policy.records import UsageRecord

_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(UsageRecord).decode
_SUM_CHARS: Final = 8


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
        return _decode(body)
    except msgspec.DecodeError:  # whole, but of a version with another idea of a record
        return None
