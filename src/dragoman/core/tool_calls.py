"""
Put tool calls together from the fragments of a stream.

The rule that handles every server read (model dialects, section 4.1): the index names the call when
there is one; a different non-empty id at a used index opens a new call; without an index a new
non-empty id opens a call, and anything else belongs to the last one.
"""

from typing import Final

import msgspec

from dragoman.wire.openai_chat import Function
from dragoman.wire.openai_chat import ToolCall as WireCall

_encode: Final = msgspec.json.Encoder().encode


class ToolCall:
    """One call of the reply, as far as it has come."""

    __slots__ = ("arguments", "id", "is_begun", "is_held", "name", "shown")

    def __init__(self) -> None:
        self.id = ""  # the upstream's
        self.name = ""
        self.arguments: list[str] = []
        self.shown = 0  # fragments of arguments that the sink has
        self.is_begun = False  # the sink has the block's start
        self.is_held = (
            False  # nothing is shown before the end: the arguments need a look as a whole
        )

    @property
    def text(self) -> str:
        """The arguments so far."""
        return "".join(self.arguments)

    def add(self, function: Function) -> None:
        """Take a fragment: a piece of the name, of the arguments, or a repeat of either."""
        name, arguments = function.name, function.arguments
        # Only before the arguments can a name grow; afterwards, and when equal, it is a repeat.
        if name and name != self.name and not self.arguments:
            self.name += name
        if arguments is None or arguments == "":
            return
        self.arguments.append(
            arguments if isinstance(arguments, str) else _encode(arguments).decode()
        )


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
        if index is None and call_id and not call.id and call.arguments:
            return None
        # A full name after arguments, with no id to tell: a second call in the same place.
        name = function.name
        if name and not call_id and call.arguments and name != call.name:
            return None
        return call
