"""What the client asked for and the upstream will not get as asked."""

from typing import Final, Literal

from msgspec import Struct

Action = Literal["dropped", "clamped", "emulated", "repaired", "refused"]

_MAX_ADJUSTMENTS: Final = 100  # a request of 100,000 odd blocks is reported by its first ones


class Adjustment(Struct, frozen=True, gc=False):
    """One thing the client asked for that the upstream will not get as asked."""

    field: str
    action: Action
    reason: str


class Adjustments:
    """Collect adjustments; the same thing at many places is reported once, at the first."""

    def __init__(self) -> None:
        self._found: dict[tuple[Action, str], Adjustment] = {}

    def add(self, field: str, action: Action, *, reason: str) -> None:
        """Report that *field* was treated by *action*, because of *reason*."""
        key = (action, reason)
        if key not in self._found and len(self._found) < _MAX_ADJUSTMENTS:
            self._found[key] = Adjustment(field, action, reason)

    def take(self) -> tuple[Adjustment, ...]:
        """Return what was reported, in that order."""
        return tuple(self._found.values())
