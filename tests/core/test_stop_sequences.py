"""Stop strings found in text, however it is cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.core.stop_sequences import StopMatcher

STOPS = st.lists(st.text("ab#", min_size=1, max_size=4), min_size=1, max_size=4, unique=True)

MATCHES = {
    "none": (["###"], "a ## b", "a ## b", None),
    "one": (["###"], "a### b", "a", "###"),
    "the first that is complete": (["abc", "b"], "xabc", "xa", "b"),
    "of two that end together the longer": (["b", "ab"], "xab", "x", "ab"),
    "at the start": (["###"], "###", "", "###"),
    "over itself": (["aab"], "aaab", "a", "aab"),
}


@pytest.mark.parametrize(("stops", "text", "shown", "matched"), MATCHES.values(), ids=MATCHES)
def test_matches(stops: list[str], text: str, shown: str, matched: str | None) -> None:
    matcher = StopMatcher(stops)
    assert matcher.feed(text) + matcher.close() == shown
    assert matcher.matched == matched


@given(STOPS, st.lists(st.text("ab#", max_size=6), max_size=8))
def test_cuts_never_matter(stops: list[str], pieces: list[str]) -> None:
    whole, matcher = StopMatcher(stops), StopMatcher(stops)
    expected = whole.feed("".join(pieces)) + whole.close()
    assert "".join(map(matcher.feed, pieces)) + matcher.close() == expected
    assert matcher.matched == whole.matched


@given(STOPS, st.text("ab#", max_size=30))
def test_what_is_shown_holds_no_stop_string_and_no_start_of_one_is_shown_too_soon(
    stops: list[str], text: str
) -> None:
    matcher, shown = StopMatcher(stops), ""
    for character in text:
        shown += matcher.feed(character)
        assert not any(stop in shown for stop in stops)
    if matcher.matched is not None:
        assert text.startswith(shown + matcher.matched)
    else:
        assert shown + matcher.close() == text


def test_nothing_comes_after_a_match() -> None:
    matcher = StopMatcher(["#"])
    assert matcher.feed("a#b") == "a"
    assert (matcher.feed("c"), matcher.close()) == ("", "")
    assert matcher.matched == "#"
