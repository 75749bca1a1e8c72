import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.core.errors import InvalidRequest
from dragoman.server.transport.framing import ChunkedFraming, LengthFraming
from support.raw_http import chunked, cut


def take_all(framing: LengthFraming | ChunkedFraming, *pieces: bytes) -> tuple[bytes, bytes]:
    body = rest = b""
    for piece in pieces:
        if framing.n_left == 0:
            rest += piece
            continue
        taken, rest = framing.take(piece)
        body += taken
    return body, rest


def test_a_counted_body_ends_after_its_bytes() -> None:
    framing = LengthFraming(5)
    assert framing.take(b"he") == (b"he", b"")
    assert framing.n_left == 3
    assert framing.take(b"lloGET /") == (b"llo", b"GET /")
    assert framing.n_left == 0


BODIES = {
    "one chunk": (b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
    "two chunks": (b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n", b"hello"),
    "none": (b"0\r\n\r\n", b""),
    "leading zeros": (b"0005\r\nhello\r\n000\r\n\r\n", b"hello"),
    "hexadecimal": (b"a\r\n0123456789\r\nB\r\n0123456789a\r\n0\r\n\r\n", b"0123456789" * 2 + b"a"),
    "line breaks inside": (b"4\r\n\r\n\r\n\r\n0\r\n\r\n", b"\r\n\r\n"),
    "extensions": (b'5;a=b\r\nhello\r\n0 ; c="d"\r\n\r\n', b"hello"),
    "trailers": (b"5\r\nhello\r\n0\r\nx-sum: 1\r\ny:\r\n\r\n", b"hello"),
}


@pytest.mark.parametrize(("data", "body"), BODIES.values(), ids=BODIES)
def test_chunks(data, body) -> None:
    framing = ChunkedFraming()
    assert take_all(framing, data + b"GET") == (body, b"GET")
    assert framing.n_left == 0


@given(st.sampled_from(list(BODIES.values())), st.lists(st.integers(0, 99), max_size=9))
def test_cuts_never_matter(case: tuple[bytes, bytes], cuts: list[int]) -> None:
    assert take_all(ChunkedFraming(), *cut(case[0] + b"GET", cuts)) == (case[1], b"GET")


@pytest.mark.parametrize("size", [1, 1000, 100_000, 3_000_000])
def test_a_body_of_any_size_has_its_end_at_the_end(size: int) -> None:
    body = b"0\r\n\r\n" * (size // 5)
    data = chunked(body[:7], body[7:9], body[9:]) if len(body) > 9 else chunked(b"x")
    framing = ChunkedFraming()
    taken, rest = take_all(framing, *(data[n : n + 65536] for n in range(0, len(data), 65536)))
    assert (len(taken), rest, framing.n_left) == (len(body) or 1, b"", 0)


MALFORMED = {
    "no number": b"hello\r\n",
    "no size": b"\r\nhello",
    "a sign": b"+5\r\nhello\r\n",
    "a negative size": b"-5\r\nhello\r\n",
    "a prefix": b"0x5\r\nhello\r\n",
    "a space before": b" 5\r\nhello\r\n",
    "a space behind": b"5 \r\nhello\r\n",
    "an underscore": b"1_0\r\n0123456789012345\r\n",
    "too many digits": b"000000005\r\nhello\r\n",
    "bare LF": b"5\nhello\n0\n\n",
    "bare LF after data": b"5\r\nhello\n",
    "bare CR": b"5\rhello\r\n",
    "more data than said": b"5\r\nhello!\r\n",
    "less data than said": b"6\r\nhello\r\n0\r\n\r\n",
    "a control character": b"5;\0\r\nhello\r\n",
    "CR in an extension": b"5;a\rb\r\nhello\r\n",
    "a trailer without a name": b"0\r\n: x\r\n\r\n",
    "a trailer without a colon": b"0\r\nhello\r\n\r\n",
    "a folded trailer": b"0\r\nx: y\r\n z\r\n\r\n",
    "bare LF in the trailers": b"0\r\nx: y\n\r\n",
    "bare LF at the end": b"0\r\n\n",
    "an endless size": b"0" * 5000,
    "an endless extension": b"5;" + b"x" * 5000 + b"\r\n",
    "endless trailers": b"0\r\n" + b"x: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n" * 500,
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED)
def test_what_is_malformed_is_refused(data) -> None:
    with pytest.raises(InvalidRequest):
        take_all(ChunkedFraming(), data)
    with pytest.raises(InvalidRequest):
        take_all(ChunkedFraming(), *(bytes([byte]) for byte in data))


def test_a_body_that_is_nearly_all_framing_is_refused() -> None:
    large = b"10\r\n0123456789abcdef\r\n" * 100_000
    assert len(take_all(ChunkedFraming(), large)[0]) == 1_600_000
    with pytest.raises(InvalidRequest, match="too many chunks"):
        take_all(ChunkedFraming(), *[b"1\r\nx\r\n" * 1000] * 100)


@given(st.lists(st.one_of(st.sampled_from([b"5", b"\r\n", b"0", b";"]), st.binary(max_size=4))))
def test_only_errors_of_the_tree_come_out(pieces: list[bytes]) -> None:
    try:
        body, rest = take_all(ChunkedFraming(), *pieces)
    except InvalidRequest:
        return
    assert len(body) + len(rest) <= sum(map(len, pieces))
