"""The estimate: not exact, but never absurd."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.core.token_count import estimate_tokens

CASES = {
    "nothing": ("", 1),
    "ASCII": ("word " * 400, 500),
    "Chinese": ("中" * 900, 500),
    "Korean": ("한" * 900, 500),
    "Russian": ("ж" * 1000, 500),
    "emoji": ("😀" * 250, 500),
    "mixed": ("word " * 200 + "中" * 450, 500),
}


@pytest.mark.parametrize(("text", "tokens"), CASES.values(), ids=CASES)
def test_estimates(text: str, tokens: int) -> None:
    assert estimate_tokens(text.encode()) == tokens


def test_frames_and_pictures() -> None:
    assert estimate_tokens(b"x" * 400, messages=10, tools=5) == 100 + 40 + 40
    assert estimate_tokens(b"x" * 4400, images=2, image_bytes=4000) == 100 + 3000
    assert estimate_tokens("中".encode() * 18 + b"x" * 400, images=1, image_bytes=400) == 1510


@given(st.text(), st.text())
def test_more_text_is_never_fewer_tokens(text: str, more: str) -> None:
    assert estimate_tokens((text + more).encode()) >= estimate_tokens(text.encode())
