import gzip
import tracemalloc
import zlib
from collections.abc import Callable
from contextlib import suppress

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from dragoman.core.errors import InvalidRequest, RequestTooLarge
from dragoman.server.transport.inflate import Inflater
from support.raw_http import cut

BODY = b'{"model":"m","messages":[' + b'{"role":"user","content":"hello"},' * 300 + b"]}"
MANY = 2**20


def compress_stream(data: bytes) -> bytes:
    """Compress as a streaming client does: no size in the head of the frame."""
    compressor = zstandard.ZstdCompressor().compressobj()
    return compressor.compress(data) + compressor.flush()


ENCODED: dict[str, tuple[bytes, bytes]] = {
    "gzip": (b"gzip", gzip.compress(BODY)),
    "x-gzip": (b"X-Gzip", gzip.compress(BODY)),
    "two members": (b"gzip", gzip.compress(BODY[:99]) + gzip.compress(BODY[99:])),
    "deflate": (b"deflate", zlib.compress(BODY)),
    "zstd": (b"zstd", zstandard.compress(BODY)),
    "streamed zstd": (b"zstd", compress_stream(BODY)),
    "two frames": (b"zstd", zstandard.compress(BODY[:99]) + compress_stream(BODY[99:])),
    "gzip, then zstd": (b"gzip, zstd", zstandard.compress(gzip.compress(BODY))),
    "zstd, then gzip": (b"zstd,identity , gzip", gzip.compress(zstandard.compress(BODY))),
    "identity": (b"identity", BODY),
    "nothing": (b"", BODY),
}


def inflate(coding: bytes, *pieces: bytes, max_bytes: int = MANY) -> bytes:
    inflater = Inflater(coding, max_bytes)
    for piece in pieces:
        inflater.feed(piece)
    return inflater.close()


@pytest.mark.parametrize(("coding", "data"), ENCODED.values(), ids=ENCODED)
def test_what_was_compressed_comes_out(coding, data) -> None:
    assert inflate(coding, data) == BODY
    assert inflate(coding, data, max_bytes=len(BODY)) == BODY
    assert inflate(coding, *(bytes([byte]) for byte in data)) == BODY


@given(st.sampled_from(list(ENCODED.values())), st.lists(st.integers(0, 999), max_size=5))
def test_cuts_never_matter(case: tuple[bytes, bytes], cuts: list[int]) -> None:
    coding, data = case
    assert inflate(coding, *cut(data, cuts)) == BODY


@pytest.mark.parametrize("coding", [b"br", b"gzip, br", b"compress", b"gzip;q=1", b"gzip," * 6])
def test_an_unknown_coding_is_refused_by_name(coding) -> None:
    with pytest.raises(InvalidRequest, match="content-encoding") as caught:
        Inflater(coding, MANY)
    assert caught.value.details == {"error_code": "request_body_encoding_unsupported"}


BROKEN: dict[str, Callable[[bytes], bytes]] = {
    "cut short": lambda data: data[:-3],
    "garbage": lambda data: b"garbage, and more of it" + data,
    "garbage behind": lambda data: data + b"garbage, and more of it",
    "another magic number": lambda data: bytes([data[0] ^ 0xFF]) + data[1:],
}


@pytest.mark.parametrize("name", ["gzip", "deflate", "zstd", "gzip, then zstd", "zstd, then gzip"])
@pytest.mark.parametrize("damage", BROKEN.values(), ids=BROKEN)
def test_broken_data_is_refused(name, damage) -> None:
    coding, data = ENCODED[name]
    with pytest.raises(InvalidRequest, match="content-encoding") as caught:
        inflate(coding, damage(data))
    assert caught.value.details == {"error_code": "request_body_encoding_invalid"}


def make_bomb(coding: str, size: int) -> bytes:
    compressor = zstandard.ZstdCompressor(level=19).compressobj()
    if coding != "zstd":
        compressor = zlib.compressobj(9, wbits=31 if coding == "gzip" else 15)
    block = bytes(2**20)
    return b"".join(compressor.compress(block) for _ in range(size >> 20)) + compressor.flush()


@pytest.mark.parametrize("coding", ["gzip", "deflate", "zstd"])
def test_a_bomb_costs_no_more_than_the_limit_and_one_step(coding) -> None:
    bomb = make_bomb(coding, 200 * 2**20)
    inflater = Inflater(coding.encode(), 2**20)
    tracemalloc.start()
    try:
        with pytest.raises(RequestTooLarge) as caught:
            inflater.feed(bomb)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert caught.value.details == {"error_code": "request_body_too_large_after_decoding"}
    assert peak < 12 * 2**20


def test_a_bomb_inside_a_bomb_is_counted_between_the_two() -> None:
    # Frames that stand for nothing, 100 MiB of them, inside a gzip of a hundredth of that.
    nothing = b"\x50\x2a\x4d\x18" + (2**20).to_bytes(4, "little") + bytes(2**20)
    with pytest.raises(RequestTooLarge):
        inflate(b"zstd, gzip", gzip.compress(nothing * 100))


@pytest.mark.parametrize(
    "part", [gzip.compress(b""), zstandard.compress(b"")], ids=["gzip", "zstd"]
)
def test_a_body_in_thousands_of_parts_is_refused(part) -> None:
    coding = b"gzip" if part.startswith(b"\x1f\x8b") else b"zstd"
    assert inflate(coding, part * 900) == b""
    with pytest.raises(InvalidRequest):
        inflate(coding, part * 9000)


@given(st.sampled_from([b"gzip", b"deflate", b"zstd", b"gzip, zstd"]), st.binary(max_size=200))
def test_only_errors_of_the_tree_come_out(coding: bytes, data: bytes) -> None:
    with suppress(InvalidRequest, RequestTooLarge):
        inflate(coding, data)
