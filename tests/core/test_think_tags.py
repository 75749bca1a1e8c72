"""Thinking told from text by its tags, however the content is cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.core.think_tags import ThinkTagCutter


def read(pieces: list[str], *, is_end: bool = True, **options: bool) -> tuple[str, str]:
    """Return the thinking and the text in *pieces*."""
    cutter = ThinkTagCutter(**options)
    found = [piece for content in pieces for piece in cutter.feed(content)]
    found += cutter.close(is_end=is_end)
    assert cutter.is_done
    thinking, text = (
        "".join(piece for kind, piece in found if kind == wanted) for wanted in ("thinking", "text")
    )
    return thinking, text


CONTENTS = {
    "both": ("<think>Hm.</think>Hello", ("Hm.", "Hello")),
    "line breaks around the tags": ("\n<think>\nHm.\n\n</think>\n\n Hello", ("Hm.", "Hello")),
    "text alone": ("Hello", ("", "Hello")),
    "white space alone": (" \n", ("", " \n")),
    "thinking alone": ("<think>Hm.</think>", ("Hm.", "")),
    "never closed": ("<think>Hm.", ("Hm.", "")),
    "empty": ("<think></think>Hello", ("", "Hello")),
    "a tag later on is text": ("Say <think>Hm.</think>", ("", "Say <think>Hm.</think>")),
    "a second pair is text": ("<think>a</think>b<think>c</think>", ("a", "b<think>c</think>")),
    "half a tag": ("<thi", ("", "<thi")),
    "half a closing tag": ("<think>a</thi", ("a</thi", "")),
    "something like a tag": ("<thinker>a", ("", "<thinker>a")),
}
OPEN = {
    "only the closing tag": ("Hm.\n</think>\n\nHello", ("Hm.", "Hello")),
    "both tags": ("<think>Hm.</think>Hello", ("Hm.", "Hello")),
    "no tag: it was the answer": ("Hello", ("Hello", "Hello")),
    "half a tag at the end": ("Hm.</thi", ("Hm.</thi", "Hm.</thi")),
    "nothing": ("", ("", "")),
}


@pytest.mark.parametrize(("content", "expected"), CONTENTS.values(), ids=CONTENTS)
def test_contents(content: str, expected: tuple[str, str]) -> None:
    assert read([content]) == expected


@pytest.mark.parametrize(("content", "expected"), OPEN.values(), ids=OPEN)
def test_contents_that_begin_inside(content: str, expected: tuple[str, str]) -> None:
    assert read([content], open_at_start=True) == expected


@pytest.mark.parametrize("start", ["", "<think>"])
def test_white_space_without_end_is_not_held_without_end(start: str) -> None:
    cutter = ThinkTagCutter()
    out = cutter.feed(start)
    for _ in range(1000):
        out += cutter.feed("\n" * 40)
        assert len(cutter._held) < 5000
    out += cutter.close()
    assert "".join(piece for _, piece in out) == "\n" * 40_000


@pytest.mark.parametrize("n", [10, 4096, 4097, 9000])
def test_cuts_do_not_matter_where_white_space_is_long(n: int) -> None:
    space = "\n" * n
    for content in (f"{space}<think>a</think>b", f"<think>a{space}</think>b"):
        whole = read([content])
        assert read([content[i : i + 7] for i in range(0, len(content), 7)]) == whole
        assert "".join(whole).replace("\n", "") in ("ab", "<think>a</think>b")


def test_what_a_call_follows_was_thinking() -> None:
    assert read(["Hm."], open_at_start=True, is_end=False) == ("Hm.", "")


@given(
    st.lists(
        st.sampled_from(["<think>", "</think>", "<", "th", "ink>", "\n", " ", "a", "</", "é"]),
        max_size=12,
    ),
    st.booleans(),
)
def test_cuts_never_matter(pieces: list[str], is_open: bool) -> None:
    content = "".join(pieces)
    whole = read([content], open_at_start=is_open)
    assert read(pieces, open_at_start=is_open) == whole
    assert read(list(content), open_at_start=is_open) == whole


@given(st.text("ab<>/\n ", max_size=30))
def test_content_without_tags_stays_as_it_is(content: str) -> None:
    assert read([content]) == ("", content)


def test_after_the_thinking_there_is_nothing_left_to_do() -> None:
    cutter = ThinkTagCutter()
    cutter.feed("<think>a</think>")
    assert not cutter.is_done  # line breaks before the answer are still to be cut
    cutter.feed("\n")
    assert not cutter.is_done
    assert cutter.feed("b") == [("text", "b")]
    assert cutter.is_done
