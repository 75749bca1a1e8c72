"""Limits in the headers of replies."""

import pytest

from dragoman.core.rate_headers import read_duration_s, spent_for_s

DURATIONS = {
    b"1s": 1.0,
    b"6m0s": 360.0,
    b"1h2m3.5s": 3723.5,
    b"20ms": 0.02,
    b"1m30s": 90.0,
    b"2h": 7200.0,
    b" 12 ": 12.0,
    b"0.5": 0.5,
    b"24h": 86_400.0,
    b"": None,
    b"soon": None,
    b"1735689600": None,  # a time of a clock
    b"99h": None,
    b"-1": None,
    b"2026-11-25T00:00:00Z": None,
    b"1s1s": None,
    b"9999999999s": None,
}


@pytest.mark.parametrize(("value", "seconds"), DURATIONS.items(), ids=repr)
def test_durations(value: bytes, seconds: float | None) -> None:
    assert read_duration_s(value) == (None if seconds is None else pytest.approx(seconds))


def limit(what: str, remaining: str, reset: str) -> dict[bytes, bytes]:
    return {
        f"x-ratelimit-remaining-{what}".encode(): remaining.encode(),
        f"x-ratelimit-reset-{what}".encode(): reset.encode(),
    }


def test_nothing_said_and_something_left() -> None:
    assert spent_for_s({}) is None
    assert spent_for_s(limit("requests", "3", "9s")) is None
    assert spent_for_s({b"x-ratelimit-remaining-requests": b"0"}) is None


def test_the_last_reset_of_what_is_spent() -> None:
    assert spent_for_s(limit("requests", "0", "9s")) == 9
    assert spent_for_s(limit("tokens", "0", "2s") | limit("requests", "7", "9s")) == 2
    assert spent_for_s(limit("tokens", "0", "2s") | limit("requests", "0", "9s")) == 9
