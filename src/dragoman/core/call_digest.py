"""What a tool call is recognised by when a client sends it back: name and input, canonically."""

import hashlib
from typing import Final

import msgspec

_encode: Final = msgspec.json.Encoder(order="deterministic").encode


def call_digest(name: str, arguments: object) -> bytes:
    """
    Return 16 bytes that are equal for equal calls, however a client has written the JSON.

    Args:
        name: Of the tool.
        arguments: The input as plain JSON values; whole floats count as integers, since a client
            in JavaScript does not tell them apart.
    """
    canonical = _encode([name, _plain(arguments)])
    return hashlib.blake2b(canonical, digest_size=16).digest()


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    return value
