"""
Put tool calls together from the fragments of a stream.

The rule that handles every server read (model dialects, section 4.1): the index names the call when
there is one; a different non-empty id at a used index opens a new call; without an index a new
non-empty id opens a call, and anything else belongs to the last one.
"""

from typing import Any, Final

import msgspec

from dragoman.core.json_follower import JsonFollower
from dragoman.core.tool_arguments import parse_arguments
from dragoman.wire.openai_chat import Function
from dragoman.wire.openai_chat import ToolCall as WireCall

_encode: Final = msgspec.json.Encoder().encode


class ToolCall:
    """One call of the reply, as far as it has come."""

    __slots__ = ("_follower", "_foreign", "arguments", "id", "is_begun", "is_held", "name", "shown")

    def __init__(self) -> None:
        self.id = ""  # the upstream's
        self.name = ""
        self.arguments: list[str] = []  # pieces that together are the start of a legal object
        self.shown = 0  # of those, how many the sink has
        self.is_begun = False  # the sink has the block's start
        self.is_held = False  # nothing is shown before the end: its name decides how
        self._follower = JsonFollower()
        self._foreign: list[str] = []  # arguments that do not begin as an object

    @property
    def has_arguments(self) -> bool:
        """Tell whether any arguments have come."""
        return bool(self.arguments or self._foreign)

    @property
    def is_whole(self) -> bool:
        """Tell whether the arguments are complete, so that nothing more can belong to them."""
        return self._follower.is_whole

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
        if not piece or not (self.arguments or self._begins_object(piece)):
            return
        if legal := self._follower.feed(piece):
            self.arguments.append(legal)

    def _begins_object(self, piece: str) -> bool:
        start = piece.lstrip()
        if not self._foreign and start.startswith("{"):
            return True
        if self._foreign or start:
            self._foreign.append(piece)
        return False

    def end(self) -> dict[str, Any] | None:
        """Return the input, or None if it did not come whole."""
        if self._foreign:
            return parse_arguments("".join(self._foreign))
        if not self.arguments:
            return {}
        return parse_arguments(self.text) if self.is_whole else None


def arguments_text(function: Function) -> str:
    """Return the arguments of a fragment as text, whichever way they were sent."""
    arguments = function.arguments
    if isinstance(arguments, str):
        return arguments
    return "" if arguments is None else _encode(arguments).decode()


class ToolCallAssembler:
    """Find the call that a fragment belongs to."""

    def __init__(self) -> None:
        self._by_index: dict[int, ToolCall] = {}
        self._last: ToolCall | None = None

    def take(self, fragment: WireCall) -> tuple[ToolCall, bool]:
        """Add *fragment* to its call; return that call and whether it is a new one."""
        call_id = "" if fragment.id is None else str(fragment.id)
        function = fragment.function or Function()
        call = self._find(fragment.index, call_id, function)
        is_new = call is None
        if call is None:
            call = ToolCall()
        if fragment.index is not None:
            self._by_index[fragment.index] = call
        self._last = call
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
                return None if more != call.end() else call
        return call
