"""Client keys: either header, whichever is known, and a clear word otherwise."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.core.errors import AuthenticationFailed
from dragoman.policy.keys import OPEN, KeyRing

RING = KeyRing([("dev", "key-one"), ("ci", "key-two")])


@pytest.mark.parametrize(
    ("x_api_key", "authorization", "name"),
    [
        (b"key-one", None, "dev"),
        (b" key-two ", None, "ci"),
        (None, b"Bearer key-one", "dev"),
        (None, b"bearer   key-two", "ci"),
        (b"wrong", b"Bearer key-two", "ci"),
        (b"key-one", b"Bearer wrong", "dev"),
        (b"key-one", b"Basic abc", "dev"),
        (b"", b"BEARER key-one", "dev"),
    ],
)
def test_known(x_api_key: bytes | None, authorization: bytes | None, name: str) -> None:
    assert RING.verify(x_api_key, authorization).key_name == name


@pytest.mark.parametrize(
    ("x_api_key", "authorization", "message"),
    [
        (None, None, "no API key"),
        (b"", b"", "no API key"),
        (b"  ", None, "no API key"),
        (b"key-on", None, "unknown API key"),
        (b"key-one2", None, "unknown API key"),
        (b"Bearer key-one", None, "unknown API key"),
        (b"\xff", None, "unknown API key"),
        (None, b"Bearer wrong", "unknown API key"),
        (None, b"Basic key-one", "not Bearer"),
        (None, b"key-one", "not Bearer"),
        (None, b"Bearer", "not Bearer"),
    ],
)
def test_refused(x_api_key: bytes | None, authorization: bytes | None, message: str) -> None:
    with pytest.raises(AuthenticationFailed, match=message) as raised:
        RING.verify(x_api_key, authorization)
    assert "x-api-key" in raised.value.message  # the remedy
    assert "key-o" not in raised.value.message
    assert raised.value.should_retry is False


def test_open_without_keys() -> None:
    ring = KeyRing([])
    assert ring.is_open
    assert not RING.is_open
    assert ring.verify(None, None).key_id == OPEN
    assert ring.verify(b"anything", b"Bearer anything").key_id == OPEN


@given(st.binary(max_size=30), st.binary(max_size=30))
def test_only_the_keys_themselves_are_let_in(x_api_key: bytes, authorization: bytes) -> None:
    try:
        RING.verify(x_api_key, authorization)
    except AuthenticationFailed:
        return
    assert b"key-one" in x_api_key + authorization or b"key-two" in x_api_key + authorization
