"""
Put tool calls together from the fragments of a stream.

The rule that handles every server read (model dialects, section 4.1): the index names the call when
there is one; a different non-empty id at a used index opens a new call; without an index a new
non-empty id opens a call, and anything else belongs to the last one.
"""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from dragoman.core.argument_repair import repair_arguments
from dragoman.core.input_schemas import ToolSchemas
from dragoman.core.json_follower import JsonFollower
from dragoman.core.tool_arguments import parse_arguments
from dragoman.wire.openai_chat import Function
from dragoman.wire.openai_chat import ToolCall as WireCall

_encode: Final = msgspec.json.Encoder().encode


class ToolCall:
    """
    One call of the reply, as far as it has come.

    Args:
        schemas: Of the inputs of tools.
    """

    __slots__ = (
        "_follower",
        "_foreign",
        "_schemas",
        "arguments",
        "id",
        "is_begun",
        "is_held",
        "name",
        "repairs",
        "shown",
    )

    def __init__(self, schemas: ToolSchemas) -> None:
        self.id = ""  # the upstream's
        self.name = ""
        self.arguments: list[str] = []  # pieces that together are the start of a legal object
        self.shown = 0  # of those, how many the sink has
        self.is_begun = False  # the sink has the block's start
        self.is_held = False  # nothing is shown before the end: its name decides how
        self.repairs: set[str] = set()  # what had to be done to the arguments
        self._schemas = schemas
        self._follower: JsonFollower | None = None
        self._foreign: list[str] = []  # arguments that do not begin as an object

    @property
    def has_arguments(self) -> bool:
        """Tell whether any arguments have come."""
        return self._follower is not None or bool(self._foreign)

    @property
    def is_whole(self) -> bool:
        """Tell whether the arguments are complete, so that nothing more can belong to them."""
        return self._follower is not None and self._follower.is_whole

    @property
    def text(self) -> str:
        """The arguments so far, repaired where they could be."""
        return "".join(self.arguments)

    def add(self, function: Function) -> None:
        """Take a fragment: a piece of the name, of the arguments, or a repeat of either."""
        name, piece = function.name, function.arguments
        # Only before the arguments can a name grow; afterwards, and when equal, it is a repeat.
        if name and name != self.name and not self.has_arguments:
            self.name += name
        if not isinstance(piece, str):
            piece = arguments_text(function)
        if not piece:
            return
        follower = self._follower
        if follower is None:
            follower = self._begin(piece)
            if follower is None:
                return
        if legal := follower.feed(piece):
            self.arguments.append(legal)
        if follower.is_keeping and follower.is_whole:
            self._put_right(follower, is_ended=True)

    def add_string_pieces(self, pieces: Sequence[str], start: int) -> int:
        """Take pieces from *start* on that only go on with a string; return where others begin."""
        follower = self._follower
        end = start if follower is None else follower.passing(pieces, start)
        if end > start:
            self.arguments += pieces[start:end]
        return end

    def _begin(self, piece: str) -> JsonFollower | None:
        start = piece.lstrip()
        if not self._foreign and start.startswith("{"):
            self._follower = JsonFollower(self._schemas.find(self.name))
        elif self._foreign or start:
            self._foreign.append(piece)
        return self._follower

    def value(self) -> dict[str, Any] | None:
        """Return the input so far, or None if it is not whole."""
        if self._foreign:
            return parse_arguments("".join(self._foreign))
        if self._follower is None:
            return {}
        return parse_arguments(self.text) if self.is_whole else None

    def end(self, *, is_cut: bool) -> dict[str, Any] | None:
        """
        Return the input, or None if it did not come whole.

        Args:
            is_cut: The reply was cut off, so that what is missing may be more than brackets.
        """
        follower = self._follower
        if self._foreign:
            return self._end_foreign("".join(self._foreign), is_cut=is_cut)
        if follower is None:
            return {}
        self.repairs |= follower.repairs
        if not follower.is_whole or follower.is_keeping:
            self._put_right(follower, is_ended=not is_cut)
        is_known = follower.is_whole and not follower.is_keeping
        return parse_arguments(self.text) if is_known else None

    def _end_foreign(self, text: str, *, is_cut: bool) -> dict[str, Any] | None:
        repaired = repair_arguments(text, self._schemas.find(self.name), is_ended=not is_cut)
        if repaired is None:
            return None
        self.repairs |= repaired.repairs
        return repaired.value

    def _put_right(self, follower: JsonFollower, *, is_ended: bool) -> None:
        """Write what was kept back as the tool's schema has it, where that can be done."""
        repaired = repair_arguments(
            follower.kept,
            self._schemas.find(self.name),
            shown=self.text,
            is_ended=is_ended,
        )
        if repaired is not None:
            is_as_it_was = follower.is_whole and not repaired.repairs
            self.arguments.append(follower.kept if is_as_it_was else repaired.text)
            self.repairs |= repaired.repairs
            follower.is_keeping, follower.is_whole = False, True


def arguments_text(function: Function) -> str:
    """Return the arguments of a fragment as text, whichever way they were sent."""
    arguments = function.arguments
    if isinstance(arguments, str):
        return arguments
    return "" if arguments is None else _encode(arguments).decode()


class ToolCallAssembler:
    """
    Find the call that a fragment belongs to.

    Args:
        schemas: Of the inputs of tools.
    """

    def __init__(self, schemas: ToolSchemas) -> None:
        self._schemas = schemas
        self._by_index: dict[int, ToolCall] = {}
        self._last: ToolCall | None = None
        self._last_index: int | None = None

    def goes_on_with(self, fragment: WireCall) -> ToolCall | None:
        """Return the last call if a fragment without id and name belongs to it."""
        return self._last if fragment.index == self._last_index else None

    def take(self, fragment: WireCall) -> tuple[ToolCall, bool]:
        """Add *fragment* to its call; return that call and whether it is a new one."""
        last, function = self._last, fragment.function
        if (
            last is None
            or function is None
            or function.name
            or fragment.index != self._last_index
            or fragment.id not in (None, "")
        ):
            return self._take_first(fragment)
        last.add(function)  # nearly always: more arguments of the same call
        return last, False

    def _take_first(self, fragment: WireCall) -> tuple[ToolCall, bool]:
        """Take a fragment that says which call it belongs to."""
        call_id = "" if fragment.id is None else str(fragment.id)
        function = fragment.function or Function()
        call = self._find(fragment.index, call_id, function)
        is_new = call is None
        if call is None:
            call = ToolCall(self._schemas)
        if fragment.index is not None:
            self._by_index[fragment.index] = call
        self._last, self._last_index = call, fragment.index
        call.id = call.id or call_id
        call.add(function)
        return call, is_new

    def _find(self, index: int | None, call_id: str, function: Function) -> ToolCall | None:
        call = self._last if index is None else self._by_index.get(index)
        if call is None:
            return None
        if call_id and call.id and call_id != call.id:
            return None
        if index is None and call_id and not call.id and call.has_arguments:
            return None
        # A full name after arguments, with no id to tell: a second call in the same place.
        name = function.name
        if name and not call_id and call.has_arguments:
            if name != call.name:
                return None
            # The same tool again: other whole arguments make another call, equal ones a repeat.
            if call.is_whole and (more := parse_arguments(arguments_text(function))):
                return None if more != call.value() else call
        return call
