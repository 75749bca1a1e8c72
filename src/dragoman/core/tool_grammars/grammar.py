"""
The form in which families state how they write tool calls, and markers that stream.

A marker is a template: literal text with slots for what varies. It can be compared with a text
that is still growing, which regular expressions cannot do: the answer is then "not yet".
"""

import re
from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

from msgspec import Struct

PARTIAL: Final = "partial"

_SLOT: Final = re.compile(r"\{(\w+)\}")
# What a slot may hold, and at least how many characters of it. The character behind a slot must be
# none that the slot takes. Limits keep small what has to be held back.
_SLOTS: Final = {
    # White space; GLM may spell line breaks out.
    "s": (re.compile(r"(?:[ \t\r\n]|\\n){0,64}(?:\\\Z)?"), 0),
    "blank": (re.compile(r" ?"), 0),
    "lang": (re.compile(r"[a-z]{0,8}"), 0),
    "closers": (re.compile(r"[ \t\r\n}\]]{0,64}"), 0),  # left over from an object that is whole
    "name": (re.compile(r"[A-Za-z0-9_-]{1,64}"), 1),
    "id": (re.compile(r"[A-Za-z0-9_.:-]{1,100}"), 1),
    "index": (re.compile(r"[0-9]{1,6}"), 1),
    "key": (re.compile(r"[^<>\n]{1,128}"), 1),
    "attribute": (re.compile(r'[^"<>\n]{1,128}'), 1),
    "kind": (re.compile(r"[a-z]{1,16}"), 1),
}


class Found(NamedTuple):
    """A marker in a text: where it ends, and what its slots hold."""

    end: int
    slots: dict[str, str]


class Marker:
    """
    One template.

    Args:
        template: ``<function={name}>``; braces are for slots only.
        followed_by: One of these must come next, but does not belong to the marker.
    """

    __slots__ = ("_followed_by", "_items", "literal")

    def __init__(self, template: str, followed_by: Sequence[str] = ()) -> None:
        self._items = _SLOT.split(template)  # literal, slot, literal, slot, ..., literal
        self._followed_by = tuple(followed_by)
        self.literal = self._items[0]  # what it begins with

    def match(self, text: str, at: int) -> Found | Literal["partial"] | None:
        """Compare with *text* at *at*; partial: more of the text may make it a match."""
        slots: dict[str, str] = {}
        for number, item in enumerate(self._items):
            if number % 2 == 0:
                if not text.startswith(item, at):
                    return PARTIAL if _may_become(text, at, item) else None
                at += len(item)
                continue
            pattern, least = _SLOTS[item]
            match = pattern.match(text, at)
            end = match.end() if match else at
            if end == len(text):
                return PARTIAL
            if end - at < least:
                return None
            slots[item] = text[at:end]
            at = end
        if self._followed_by and not text.startswith(self._followed_by, at):
            may_come = any(_may_become(text, at, f) for f in self._followed_by)
            return PARTIAL if may_come else None
        return Found(at, slots)


def _may_become(text: str, at: int, literal: str) -> bool:
    return len(text) - at < len(literal) and literal.startswith(text[at:])


class Grammar(Struct, frozen=True, kw_only=True):
    """
    How one family writes calls.

    Attributes:
        name: As profiles name it.
        sections: What may stand around one or more calls, opening and closing.
        call_open: How a call begins; the slot ``name`` is the tool, ``id`` leads to it.
        followed_by: One of these stands behind what opens a call.
        call_whole: A call without arguments that is one marker.
        call_close: How it ends.
        arguments: ``json``: one object; ``call_json``: an object with the name and the arguments;
            ``parameters``: one marked value after the other.
        parameter_open: The slots ``key`` or ``attribute`` hold its name; ``kind`` is what
            *verbatim_kind* is compared with.
        verbatim_kind: The kind whose values are text as it stands; other kinds are JSON. Empty:
            values are text, to be converted as the tool's schema has it.
        escapes_attributes: Quotes and ampersands in names of parameters are entities.
        may_be_object: The parameters may also come as one JSON object.
        may_be_unclosed: A parameter may end where the next one begins.
        strips_line_breaks: The template adds a line break at both ends of a value.
        line_breaks_before: At most so many stand before a call and do not belong to the text.
        begins_with_break: Content begins with one that the template wants.
        wrapper: Stands around the whole text of an answer.
    """

    name: str
    sections: tuple[tuple[str, str], ...] = ()
    call_open: tuple[str, ...]
    followed_by: tuple[str, ...] = ()
    call_whole: tuple[str, ...] = ()
    call_close: tuple[str, ...]
    arguments: Literal["json", "call_json", "parameters"]
    parameter_open: tuple[str, ...] = ()
    parameter_close: tuple[str, ...] = ()
    verbatim_kind: str = ""
    escapes_attributes: bool = False
    may_be_object: bool = False
    may_be_unclosed: bool = False
    strips_line_breaks: bool = False
    line_breaks_before: int = 0
    begins_with_break: bool = False
    wrapper: tuple[str, str] | None = None


# What a marker means. "open" and "whole" begin a call, the others end something.
Role = Literal["open", "whole", "close", "section_close", "parameter", "parameter_close"]
Step = tuple[Role, Marker]


class Markers:
    """
    The markers of a grammar, as they may follow each other.

    Attributes:
        begin: What can begin a call.
        behind_call: What can follow one, white space aside.
        in_call: What can follow a parameter, or what opens a call.
        behind_value: What must follow the end of a parameter, lest it belongs to the value.
        behind_object: What can follow arguments that are an object.
        parameter_close: What ends a parameter, perhaps behind white space.
        closes: How the ends of calls and sections begin.
        value_end: How all begins that may end a parameter's value.
        longest_value_end: Characters of the longest of these.
    """

    def __init__(self, grammar: Grammar) -> None:
        follow = grammar.followed_by
        sections = dict.fromkeys(opening for opening, _ in grammar.sections)
        opens = [f"{o}{{s}}{c}" for c in grammar.call_open for o in sections] + [*grammar.call_open]
        wholes = [f"{o}{{s}}{c}" for c in grammar.call_whole for o in sections]
        wholes += grammar.call_whole
        self.begin: tuple[Step, ...] = (
            *(("whole", Marker(t)) for t in wholes),
            *(("open", Marker(t, follow)) for t in opens),
        )
        section_close: list[Step] = [
            ("section_close", Marker(f"{{s}}{c}")) for _, c in grammar.sections
        ]
        next_call: list[Step] = [
            *(("whole", Marker(f"{{s}}{t}")) for t in wholes),
            *(("open", Marker(f"{{s}}{t}", follow)) for t in opens),
        ]
        self.behind_call: tuple[Step, ...] = (*section_close, *next_call)
        close: list[Step] = [("close", Marker(f"{{s}}{t}")) for t in grammar.call_close]
        parameters: list[Step] = [
            ("parameter", Marker(f"{{s}}{t}")) for t in grammar.parameter_open
        ]
        self.in_call: tuple[Step, ...] = (*parameters, *close, *section_close, *next_call)
        self.parameter_close: tuple[Step, ...] = tuple(
            ("parameter_close", Marker(f"{{s}}{t}")) for t in grammar.parameter_close
        )
        self.behind_value: tuple[Step, ...] = (*self.parameter_close, *self.in_call)
        self.behind_object: tuple[Step, ...] = (
            *(("close", Marker(f"{{closers}}{t}")) for t in grammar.call_close),
            *section_close,
            *next_call,
        )
        closes = [*grammar.call_close, *(closing for _, closing in grammar.sections)]
        self.closes = tuple(_SLOT.split(close)[0] for close in closes)
        ends = list(grammar.parameter_close)
        if grammar.may_be_unclosed:
            ends += grammar.call_close
            ends += (_SLOT.split(t)[0] for t in grammar.parameter_open)
        self.value_end = re.compile("|".join(map(re.escape, ends)))
        self.longest_value_end = max(map(len, ends), default=0)


def first_of(
    steps: Sequence[Step], text: str, at: int = 0
) -> tuple[Role, Found] | Literal["partial"] | None:
    """Return the first of *steps* that matches at *at*, as what it means."""
    for role, marker in steps:
        found = marker.match(text, at)
        if found == PARTIAL:
            return PARTIAL
        if found is not None:
            return role, found
    return None
