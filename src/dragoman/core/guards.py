"""
What to do when a model does not answer as it should: settings, and what can be seen in a history.

Models that lost their reasoning call the same tool with the same input until somebody stops them;
others end a reply after thinking, or answer in text where a call was forced.
"""

from collections.abc import Iterator
from typing import Any, Final, Literal, NamedTuple

import msgspec
from msgspec import Struct

from dragoman.core.adjustments import Adjustments
from dragoman.wire.anthropic import Message, MessagesRequest

_encode: Final = msgspec.json.Encoder(order="sorted").encode
_MAX_CALLS: Final = 200  # of a turn, looked at: the last ones
CALL_NOW: Final = "You must call a tool now, as you were told. Do not write any text."
LOST_CALL: Final = "You announced a tool call, but none has arrived. Call the tool now."
NO_ANSWER: Final = "Your last reply had no answer in it. Answer now, or call a tool."


# What a reply may lack: any answer, a call that was forced, one that its finish reason speaks of.
Lack = Literal["", "answer", "call", "announced call"]


class Guards(Struct, frozen=True, kw_only=True):
    """
    What the configuration says.

    Attributes:
        continue_empty: When a reply without text and calls is gone on with: also behind thinking
            that the client has got, while it has got no block, or never.
        ask_again_for_call: A forced call that has not come is asked for once more.
        max_repeats: The same call with the same input this often is a loop; 0: nothing is.
        nudge_repeats: The model is told of it.
    """

    continue_empty: Literal["never", "unsent", "always"] = "always"
    ask_again_for_call: bool = True
    max_repeats: int = 5
    nudge_repeats: bool = False


class Repeats(NamedTuple):
    """Whether the history ends in a loop, and what the model is to be told of it."""

    is_loop: bool = False
    reminder: str = ""


_NO_LOOP: Final = Repeats()


def watch_repeats(request: MessagesRequest, guards: Guards, adjustments: Adjustments) -> Repeats:
    """Report a loop in the history."""
    if not guards.max_repeats:
        return _NO_LOOP
    name, count = count_repeats(request.messages)
    if count < guards.max_repeats:
        return _NO_LOOP
    if not guards.nudge_repeats:
        reason = f"the model has called {name[:64]} {count} times with the same input"
        adjustments.add("messages", "noticed", reason=reason)
        return Repeats(is_loop=True)
    reason = f"the model is told that it has called {name[:64]} {count} times with the same input"
    adjustments.add("messages", "emulated", reason=reason)
    return Repeats(is_loop=True, reminder=_reminder(name, count))


def _reminder(name: str, count: int) -> str:
    return (
        f"You have called {name} {count} times with exactly the same input. Calling it once more "
        "will not help. Use what you have, try another way, or say what is missing."
    )


def count_repeats(messages: list[Message]) -> tuple[str, int]:
    """Return the tool called last, and how often it was called like that in this turn."""
    calls = _calls_of_turn(messages)
    last = next(calls, None)
    if last is None:
        return "", 0
    name, arguments = last
    encoded = _encode(arguments)
    count = 1
    for number, (other, input_) in enumerate(calls):
        if number >= _MAX_CALLS:
            break
        # Inputs that differ are told apart faster than written; 1, 1.0 and true are no different.
        count += other == name and input_ == arguments and _encode(input_) == encoded
    return name, count


def _calls_of_turn(messages: list[Message]) -> Iterator[tuple[str, Any]]:
    """Yield names and inputs of the calls since the user last said something, backwards."""
    for message in reversed(messages):
        blocks = message.content
        if message.role == "user" and _is_said(message):
            return
        if message.role != "assistant" or isinstance(blocks, str):
            continue
        for block in reversed(blocks):
            if block.type == "tool_use":
                yield block.name or "", block.input


def _is_said(message: Message) -> bool:
    """Tell whether a message is more than results of tools."""
    blocks = message.content
    if not isinstance(blocks, str):
        for block in blocks:
            if block.type == "tool_result":
                return False
    return True
