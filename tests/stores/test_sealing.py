"""What lies in Redis opens by the same secret and under the same label only."""

import pytest

from dragoman.stores.sealing import Seal

SECRET, OTHER = b"one signing secret", b"another signing secret"


def test_what_was_closed_opens() -> None:
    sealed = Seal(SECRET).close(b"thinking", label=b"key")
    assert b"thinking" not in sealed
    assert Seal(SECRET).open(sealed, label=b"key") == b"thinking"


def test_nothing_is_written_the_same_way_twice() -> None:
    seal = Seal(SECRET)
    assert seal.close(b"same", label=b"key") != seal.close(b"same", label=b"key")


@pytest.mark.parametrize("at", [0, 11, 12, 20, -1])
def test_what_was_changed_does_not_open(at: int) -> None:
    seal = Seal(SECRET)
    sealed = bytearray(seal.close(b"thinking", label=b"key"))
    sealed[at] ^= 1
    assert seal.open(bytes(sealed), label=b"key") is None


@pytest.mark.parametrize("sealed", [b"", b"short", bytes(12), bytes(28)])
def test_what_is_no_seal_does_not_open(sealed: bytes) -> None:
    assert Seal(SECRET).open(sealed, label=b"key") is None


def test_another_secret_or_label_does_not_open() -> None:
    sealed = Seal(SECRET).close(b"thinking", label=b"key")
    assert Seal(OTHER).open(sealed, label=b"key") is None
    assert Seal(SECRET).open(sealed, label=b"yek") is None


def test_fingerprints_tell_secrets_apart_and_nothing_else() -> None:
    assert Seal(SECRET).fingerprint() == Seal(SECRET).fingerprint()
    assert Seal(SECRET).fingerprint() != Seal(OTHER).fingerprint()
    assert len(Seal(SECRET).fingerprint()) == 32
