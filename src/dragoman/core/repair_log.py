"""What had to be put right in a reply: adjustments for people, counts for metrics."""

from collections.abc import Mapping
from typing import Final

from dragoman.core.adjustments import Adjustment, Adjustments

_REASONS: Final[Mapping[str, str]] = {
    "syntax": "arguments were not legal JSON",
    "type": "arguments had types that the schema does not allow",
    "choice": "arguments were choices spelt in another way",
    "null": "arguments that were null are left out",
    "wrapper": "arguments stood in an object of their own",
    "markup": "arguments were written as markup",
    "encoding": "arguments were JSON in a string",
}


class RepairLog:
    """
    Collect the repairs of one reply.

    Attributes:
        counts: How often each kind of repair was made.
    """

    def __init__(self) -> None:
        self._adjustments = Adjustments()
        self.counts: dict[str, int] = {}

    @property
    def adjustments(self) -> tuple[Adjustment, ...]:
        """The repairs, the same one at the same tool once."""
        return self._adjustments.take()

    def add_argument_repair(self, kind: str, tool: str) -> None:
        """Note that a call's arguments were put right."""
        self._add(kind, "tool_use.input", f"{tool[:64]}: {_REASONS[kind]}")

    def add_text_call(self, grammar: str, tool: str) -> None:
        """Note that a call came as text."""
        self._add(f"text.{grammar}", "tool_use", f"{tool[:64]}: the call came as text ({grammar})")

    def add_missing_name(self, tool: str) -> None:
        """Note that a call had no name, and which tool it was taken for."""
        self._add("name", "tool_use.name", f"{tool[:64]}: the call came without a name")

    def add_lost_call(self) -> None:
        """Note that the finish reason spoke of a call, and none came."""
        self._add("lost_call", "tool_use", "the server announced a call and sent none")

    def add_dropped_call(self, tool: str) -> None:
        """Note that a call was left out, because at most one was asked for."""
        self._add("parallel", "tool_use", f"{tool[:64]}: left out, for one call was asked for")

    def add_finish(self, finish: str, stop_reason: str) -> None:
        """Note how the server put the end, where the API has no such word; empty: not at all."""
        said = f"with {finish[:40]}" if finish else "without saying why"
        self._add("finish", "stop_reason", f"the server ended {said}: shown as {stop_reason}")

    def add_think_tag(self, *, begins_inside: bool) -> None:
        """Note that a reply did not begin as the profile says; from now on it is expected to."""
        if begins_inside:
            reason = "thinking came as text, up to a closing tag: next time it is shown as thinking"
        else:
            reason = "an answer was taken for thinking: next time it is shown as an answer"
        self._add("think_tag", "thinking", reason)

    def _add(self, kind: str, field: str, reason: str) -> None:
        self.counts[kind] = self.counts.get(kind, 0) + 1
        self._adjustments.add(field, "repaired", reason=reason)
