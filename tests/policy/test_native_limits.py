"""Limits in the headers of native replies."""

import pytest

from dragoman.policy.native_limits import native_spent_for_s

DATE = "Wed, 25 Nov 2026 12:00:00 GMT"
NATIVE = {
    "one request is back soon": ({"requests": ("0", "50", "12:01:00Z")}, 60 / 50),
    "a thousand tokens are back soon": ({"tokens": ("0", "20000", "12:01:00Z")}, 60 / 20),
    "the longest counts": (
        {"requests": ("0", "50", "12:01:00Z"), "input-tokens": ("0", "4000", "12:00:40Z")},
        10,
    ),
    "an offset": ({"requests": ("0", "1", "13:00:30+01:00")}, 30),
    "parts of a second": ({"requests": ("0", "1", "12:00:30.5Z")}, 30.5),
    "less than is told of": ({"tokens": ("0", "500", "12:00:30Z")}, 30),
    "no limit named": ({"requests": ("0", "", "12:00:30Z")}, 30),
    "a limit of nothing": ({"requests": ("0", "0", "12:00:30Z")}, 30),
    "something left": ({"requests": ("1", "50", "12:01:00Z")}, None),
    "over already": ({"requests": ("0", "1", "11:59:59Z")}, None),
    "whose time it is, is not said": ({"requests": ("0", "1", "12:01:00")}, None),
    "no time": ({"requests": ("0", "1", "soon")}, None),
}


def native_limits(limits: dict[str, tuple[str, str, str]]) -> dict[bytes, bytes]:
    headers = {"tokens-remaining": "7"}
    for what, (left, limit, reset) in limits.items():
        headers |= {f"{what}-remaining": left, f"{what}-limit": limit}
        headers[f"{what}-reset"] = f"2026-11-25T{reset}"
    return {f"anthropic-ratelimit-{k}".encode(): v.encode() for k, v in headers.items()}


@pytest.mark.parametrize(("limits", "seconds"), NATIVE.values(), ids=NATIVE)
def test_limits_of_native_replies(limits: dict[str, tuple[str, str, str]], seconds) -> None:
    headers = {b"date": DATE.encode(), **native_limits(limits)}
    assert native_spent_for_s(headers) == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize("date", [None, b"", b"yesterday", b"2026-11-25T12:00:00Z", b"\xff"])
def test_without_its_clock_a_native_reset_means_nothing(date: bytes | None) -> None:
    headers = native_limits({"requests": ("0", "1", "12:01:00Z")})
    assert native_spent_for_s(headers if date is None else headers | {b"date": date}) is None


def test_a_native_reset_next_year_is_none() -> None:
    headers = native_limits({"requests": ("0", "1", "12:01:00Z")})
    assert native_spent_for_s({b"date": b"Tue, 25 Nov 2025 12:00:00 GMT", **headers}) is None


def test_nothing_said() -> None:
    assert native_spent_for_s({b"date": DATE.encode()}) is None
