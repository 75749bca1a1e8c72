"""The screen puts text where a terminal does; tests with full-screen programs lean on that."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.terminal import Screen

WRITTEN = {
    "lines": ("one\r\ntwo", "one\ntwo\n"),
    "colours": ("\x1b[1;31mred\x1b[0m\x1b[38:5:3m!", "red!\n\n"),
    "title and link": ("\x1b]0;title\x07\x1b]8;;x\x1b\\link", "link\n\n"),
    "cursor to": ("\x1b[2;3Hx\x1b[Hy", "y\n  x\n"),
    "up and right": ("a\r\nb\x1b[1A\x1b[2Cc", "a  c\nb\n"),
    "column and row": ("\x1b[3d\x1b[4Gx", "\n\n   x"),
    "only what changed": ("gateway\r\x1b[3Cx", "gatxway\n\n"),
    "erase the rest": ("abcdef\x1b[3D\x1b[K", "abc\n\n"),
    "erase to here": ("abcdef\x1b[3D\x1b[1K", "    ef\n\n"),
    "erase below": ("a\r\nb\r\nc\x1b[2;1H\x1b[J", "a\n\n"),
    "erase all": ("a\r\nb\x1b[2J", "\n\n"),
    "wrap": ("0123456789ab", "0123456789\nab\n"),
    "scroll": ("1\r\n2\r\n3\r\n4", "2\n3\n4"),
    "modes": ("\x1b[?25l\x1b[>1u\x1b[<u\x1b7a\x1b8\x1b(B", "a\n\n"),
    "back": ("ab\bc", "ac\n\n"),
}


@pytest.mark.parametrize(("written", "shown"), WRITTEN.values(), ids=WRITTEN)
def test_screen(written: str, shown: str) -> None:
    screen = Screen(3, 10)
    screen.feed(written)
    assert screen.text == shown


@given(st.sampled_from(list(WRITTEN.values())), st.integers(0, 40))
def test_cuts_never_matter(case: tuple[str, str], cut: int) -> None:
    written, shown = case
    screen = Screen(3, 10)
    screen.feed(written[:cut])
    screen.feed(written[cut:])
    assert screen.text == shown
