"""Our mark on thinking: made by one secret, proof to tampering, a carrier of hidden thinking."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.core.signatures import Signer, has_our_mark

SIGNER = Signer(b"a secret of sixteen bytes or more")
OTHER = Signer(b"another secret of sixteen bytes")
THOUGHTS = st.text(st.characters(), max_size=200)  # half characters included


@given(THOUGHTS, st.booleans())
def test_what_is_signed_is_ours(thinking: str, carry: bool) -> None:
    signature = SIGNER.sign(thinking, carry=carry)
    assert signature.isascii()
    assert has_our_mark(signature)
    assert SIGNER.is_ours(signature)
    assert SIGNER.is_ours(signature, thinking)
    assert not SIGNER.is_ours(signature, thinking + "!")


@given(THOUGHTS, st.booleans())
def test_a_mark_is_told_by_its_first_letters(thinking: str, carry: bool) -> None:
    foreign = "EqQB" + SIGNER.sign(thinking, carry=carry)[4:]  # as Anthropic's own may begin
    assert not has_our_mark(foreign)
    assert not SIGNER.is_ours(foreign, thinking)
    assert SIGNER.carried_thinking(foreign) is None


@given(THOUGHTS)
def test_hidden_thinking_comes_back_to_its_own_gateway(thinking: str) -> None:
    carried = SIGNER.sign(thinking, carry=True)
    assert SIGNER.carried_thinking(carried) == thinking
    assert SIGNER.is_ours(carried, "")  # as clients send it back: empty
    assert SIGNER.carried_thinking(SIGNER.sign(thinking)) is None
    assert OTHER.carried_thinking(carried) is None


@given(THOUGHTS, st.booleans())
def test_another_secret_makes_another_mark(thinking: str, carry: bool) -> None:
    signature = SIGNER.sign(thinking, carry=carry)
    assert has_our_mark(signature)  # by its form, whatever the secret
    assert not OTHER.is_ours(signature, thinking)


def test_hidden_thinking_cannot_be_read_in_its_signature() -> None:
    carried = SIGNER.sign("The password is swordfish. " * 20, carry=True)
    raw = base64.urlsafe_b64decode(carried[4:] + "=" * (-len(carried[4:]) % 4))
    assert b"swordfish" not in raw
    assert len(carried) < 200  # it is compressed, too


@given(st.integers(0, 10**6), st.binary(min_size=1, max_size=1), st.booleans())
def test_no_byte_of_a_mark_may_change(place: int, byte: bytes, carry: bool) -> None:
    signature = SIGNER.sign("Hm.", carry=carry)
    raw = bytearray(base64.urlsafe_b64decode(signature[4:] + "=" * (-len(signature[4:]) % 4)))
    before = raw[place % len(raw)]
    raw[place % len(raw)] = byte[0]
    changed = "drgm" + base64.urlsafe_b64encode(raw).decode().rstrip("=")
    if before != byte[0] and not carry:
        assert not SIGNER.is_ours(changed, "Hm.")
    # Of a carrier the last bytes may change, but never what it carries.
    assert SIGNER.carried_thinking(changed) in (None, "Hm.")
    assert not SIGNER.is_ours(changed, "Ha.")


FOREIGN = {
    "empty": "",
    "Anthropic's": "EqoBCkYIBxgCKkDabcdefgh0123456789",
    "the prefix alone": "drgm",
    "no base64": "drgm!!!!",
    "no ASCII": "drgmé",
    "too short": "drgmAQA",
    "another version": "drgm" + base64.urlsafe_b64encode(b"\x09\x00" + bytes(16)).decode(),
}


@pytest.mark.parametrize("signature", FOREIGN.values(), ids=FOREIGN)
def test_marks_of_others(signature: str) -> None:
    assert not has_our_mark(signature)
    assert not SIGNER.is_ours(signature)
    assert not SIGNER.is_ours(signature, "Hm.")
    assert SIGNER.carried_thinking(signature) is None


def test_a_small_mark_cannot_inflate_to_any_size() -> None:
    huge = SIGNER.sign("a" * (5 * 2**20), carry=True)
    assert len(huge) < 20_000
    assert SIGNER.carried_thinking(huge) is None
