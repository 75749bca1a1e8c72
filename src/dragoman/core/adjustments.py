"""What the client asked for and the upstream will not get as asked."""

import re
from collections.abc import Iterable, Sequence
from typing import Final, Literal

from msgspec import Struct

Action = Literal["dropped", "clamped", "emulated", "repaired", "refused", "noticed"]

_MAX_HEADER_BYTES: Final = 1024
_TOKEN: Final = re.compile(r"[A-Za-z*][A-Za-z0-9!#$%&'*+.^_`|~:/-]*")  # RFC 8941, section 3.3.4
_MAX_ADJUSTMENTS: Final = 100  # a request of 100,000 odd blocks is reported by its first ones


class Adjustment(Struct, frozen=True, gc=False):
    """One thing the client asked for that the upstream will not get as asked."""

    field: str
    action: Action
    reason: str


class Adjustments:
    """
    Collect adjustments; the same thing at many places is reported once, at the first.

    Args:
        found: What others have collected before.
    """

    def __init__(self, found: Iterable[Adjustment] = ()) -> None:
        self._found: dict[tuple[Action, str], Adjustment] = {}
        if found:
            self.add_all(found)

    def add(self, field: str, action: Action, *, reason: str) -> None:
        """Report that *field* was treated by *action*, because of *reason*."""
        key = (action, reason)
        if key not in self._found and len(self._found) < _MAX_ADJUSTMENTS:
            self._found[key] = Adjustment(field, action, reason)

    def add_all(self, others: Iterable[Adjustment]) -> None:
        """Report all *others*, in their order."""
        for each in others:
            self.add(each.field, each.action, reason=each.reason)

    def take(self) -> tuple[Adjustment, ...]:
        """Return what was reported, in that order."""
        return tuple(self._found.values())


def render_adjustments(adjustments: Sequence[Adjustment]) -> bytes:
    """
    Return the value of ``x-dragoman-adjustments``: a structured list (RFC 8941) in ASCII.

    Each member is a field with its action and reason, in order; what does not fit into 1 kB is
    counted by the last member, ``*;more=N``::

        top_k;action=dropped;reason="the upstream does not know it", *;more=3
    """
    members = [
        f"{_item(a.field)};action={a.action};reason={_string(a.reason)}" for a in adjustments
    ]
    value = ", ".join(members)
    shown = len(members)
    while len(value) > _MAX_HEADER_BYTES:
        shown -= 1
        value = ", ".join([*members[:shown], f"*;more={len(members) - shown}"])
    return value.encode()


def _item(text: str) -> str:
    return text if _TOKEN.fullmatch(text) else _string(text)


def _string(text: str) -> str:
    ascii_text = text.encode("ascii", "backslashreplace").decode()
    plain = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in ascii_text)
    return '"{}"'.format(plain.replace("\\", "\\\\").replace('"', '\\"'))
