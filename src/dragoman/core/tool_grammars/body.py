"""What a call that is written as text holds, and what all readers of its inside share."""

import re
from typing import Final, Protocol

from msgspec import Struct

from dragoman.core.input_schemas import ToolSchemas
from dragoman.core.tool_grammars.grammar import Found, Grammar, Markers

_ID_NAME: Final = re.compile(r"(?:functions\.)?([A-Za-z0-9_-]+):[0-9]+")  # Kimi's


class TextCall(Struct, frozen=True, kw_only=True):
    """A call that was written as text; *arguments* is JSON, its start where the call was cut."""

    grammar: str
    name: str
    id: str = ""
    arguments: str = "{}"
    repairs: frozenset[str] = frozenset()
    is_cut: bool = False


class Body(Protocol):
    """What one call holds. Feed it text until it is done, or has failed."""

    rest: str | None  # the text behind the call, once it is done
    has_failed: bool

    def feed(self, text: str) -> None:
        """Take more of the text."""

    def call(self) -> TextCall | None:
        """Return the call, once it is done; None: it means nothing, and is text."""

    def end(self, *, is_cut: bool) -> TextCall | None:
        """Return the call that the end of the reply leaves, and set *rest* to what is behind."""


class CallFrame(Struct, frozen=True):
    """What all bodies know: the grammar, what began the call, and the tools."""

    grammar: Grammar
    markers: Markers
    found: Found
    tools: ToolSchemas

    @property
    def id(self) -> str:
        written = self.found.slots.get("id", "")
        return written if _ID_NAME.fullmatch(written) else ""

    @property
    def name(self) -> str:
        """The tool's name; empty where only the arguments can tell."""
        slots = self.found.slots
        match = _ID_NAME.fullmatch(slots.get("id", ""))
        return match.group(1) if match else slots.get("name", "")


def is_declared(found: Found, grammar: Grammar, tools: ToolSchemas) -> bool:
    """Tell whether what began with *found* can be a call of a declared tool."""
    written = found.slots.get("id")
    if written is not None:
        match = _ID_NAME.fullmatch(written)
        return match.group(1) in tools if match else written.isdecimal()
    return grammar.arguments == "call_json" or found.slots["name"] in tools
