"""Points in time as people write them."""

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.moments import parse_moment

NOW = dt.datetime(2026, 11, 25, 14, 30, 10, 5, dt.UTC)
MOMENTS = {
    "2026-11-01": "2026-11-01T00:00:00+00:00",
    "20261101": "2026-11-01T00:00:00+00:00",
    "2026-11-01T08:30": "2026-11-01T08:30:00+00:00",
    "2026-11-01 08:30:15": "2026-11-01T08:30:15+00:00",
    "2026-11-01T08:30Z": "2026-11-01T08:30:00+00:00",
    "2026-11-01T08:30+08:00": "2026-11-01T00:30:00+00:00",
    " today ": "2026-11-25T00:00:00+00:00",
    "Yesterday": "2026-11-24T00:00:00+00:00",
    "now": NOW.isoformat(),
    "7d": "2026-11-18T14:30:10.000005+00:00",
    "24h": "2026-11-24T14:30:10.000005+00:00",
    "30m": "2026-11-25T14:00:10.000005+00:00",
}
WRONG = ["", "2026-13-01", "2026-02-30", "25.11.2026", "7 days", "d", "-7d", "999999d", "soon"]


@pytest.mark.parametrize(("text", "moment"), MOMENTS.items(), ids=MOMENTS)
def test_a_moment(text: str, moment: str) -> None:
    assert parse_moment(text, NOW).isoformat() == moment


@pytest.mark.parametrize("text", WRONG)
def test_what_is_no_moment(text: str) -> None:
    with pytest.raises(ValueError, match="is no time; use 2026-11-25"):
        parse_moment(text, NOW)


@given(st.text(max_size=30))
def test_any_text_is_a_moment_or_an_error(text: str) -> None:
    try:
        assert parse_moment(text, NOW).tzinfo is dt.UTC
    except ValueError as error:
        assert "is no time" in str(error)  # noqa: PT017 - whichever of the two it is
