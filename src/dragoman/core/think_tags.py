"""
Cut ``<think>`` text out of content, across chunk borders.

A tag counts only where models write it: at the very start of the content (white space aside).
Anywhere else it is text about tags, and stays. Some templates write the opening tag themselves,
so that only the closing one is ever seen; whether a model is such is a fact of its profile, which
the first such reply teaches.
"""

import re
from typing import Final, Literal

OPEN_TAG: Final = "<think>"
_CLOSE: Final = "</think>"
SPACE: Final = " \t\r\n"
# White space that is held back before a tag, in characters. No model writes more there; one that
# writes line breaks without end must not cost more with each.
_MAX_SPACE: Final = 4096
_MAX_BEGUN: Final = 64  # characters of a line that may become a tag
_ALONE: Final = re.compile(r"(?:\A|\n)[ \t]*</think>[ \t]*(?:\n|\Z)")

Piece = tuple[Literal["thinking", "text"], str]


class ThinkTagCutter:
    """
    Feed it content, get pieces of thinking and text.

    Args:
        open_at_start: The content begins inside the think block.
    """

    def __init__(self, *, open_at_start: bool = False) -> None:
        self._state: Literal["start", "inside", "after", "text"] = "start"
        self._open_at_start = open_at_start
        self._held = ""  # may turn out to be (part of) a tag, or the white space around one
        self._unproved: list[str] = []  # thinking without an opening tag, until the closing one
        self.was_answer = False  # it began inside the block by its profile, and did not

    @property
    def is_done(self) -> bool:
        """Tell whether all that follows is text, so that the cutter can be left out."""
        return self._state == "text"

    def feed(self, content: str) -> list[Piece]:
        """Return the pieces that are certain after *content*; what is not yet, is held."""
        pieces: list[Piece] = []
        self._held += content
        if self._state == "start":
            self._find_open()
        if self._state == "inside":
            self._find_close(pieces)
        if self._state == "after":  # the line breaks between the tag and the answer are no text
            self._held = self._held.lstrip(SPACE)
            if self._held:
                self._state = "text"
        if self._state == "text" and self._held:
            pieces.append(("text", self._held))
            self._held = ""
        return pieces

    def close(self, *, is_end: bool = True) -> list[Piece]:
        """
        Return what is held when the content ends.

        Content that was taken for thinking only because it should have begun inside the block, but
        never showed the closing tag, was the answer: it comes back as text. Not so where something
        else follows or should have followed (*is_end* is False): models begin a tool call without
        closing the tag, and a token limit may cut the thinking.
        """
        pieces: list[Piece] = []
        if self._state == "inside":
            if self._held:
                pieces.append(("thinking", self._held))
                self._unproved.append(self._held)
            if self._open_at_start and is_end and self._unproved:
                pieces.append(("text", "".join(self._unproved)))
                self.was_answer = True
        elif self._held and self._state != "after":
            pieces.append(("text", self._held))
        self._held = ""
        self._unproved.clear()
        self._state = "text"
        return pieces

    def _find_open(self) -> None:
        start = self._held.lstrip(SPACE)
        is_far = len(self._held) - len(start) > _MAX_SPACE
        if start.startswith(OPEN_TAG) and not is_far:
            self._held = start[len(OPEN_TAG) :].lstrip("\n")
            self._open_at_start = False  # the tag proves that this is thinking
            self._state = "inside"
        elif is_far or not OPEN_TAG.startswith(start):
            self._state = "inside" if self._open_at_start else "text"

    def _find_close(self, pieces: list[Piece]) -> None:
        thinking, tag, rest = self._held.partition(_CLOSE)
        if tag:
            thinking = thinking[: len(thinking) - _breaks_at_end(thinking)]
            self._held, self._state = rest, "after"
            self._unproved.clear()
            self._open_at_start = False
        else:
            # Hold what may become the tag, and the line breaks before it.
            cut = len(thinking) - _overlap(thinking, _CLOSE)
            cut -= _breaks_at_end(thinking[:cut])
            self._held, thinking = thinking[cut:], thinking[:cut]
        if thinking:
            pieces.append(("thinking", thinking))
            if self._open_at_start:
                self._unproved.append(thinking)


def ends_thinking(text: str) -> bool:
    """Tell whether *text*, a piece of a reply, holds a closing tag as models write it: alone."""
    return _ALONE.search(text) is not None


def begun_tag(text: str) -> str:
    """Return the last line of *text* if it ends with the beginning of a tag, or else nothing."""
    line = text[text.rfind("\n") + 1 :]
    is_short = len(line) <= _MAX_BEGUN  # on a longer one a tag is not alone
    return line if is_short and (_overlap(line, _CLOSE) or _overlap(line, OPEN_TAG)) else ""


def _breaks_at_end(text: str) -> int:
    """Return how many line breaks *text* ends with, as far as they are held back."""
    end = text[-_MAX_SPACE:]
    return len(end) - len(end.rstrip("\n"))


def _overlap(text: str, tag: str) -> int:
    """Return the length of the longest end of *text* that begins *tag*."""
    return next(
        (n for n in range(min(len(tag) - 1, len(text)), 0, -1) if text.endswith(tag[:n])), 0
    )
