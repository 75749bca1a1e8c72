"""
Tools that were seen before: read once, and turned into functions once for each profile.

Coding agents send the same dozens of tools with every request of a conversation, a quarter of its
bytes and half of the work on it. Nobody changes what is kept here: tools, tables and schemas are
shared by requests.
"""

from collections import OrderedDict
from collections.abc import Set as AbstractSet
from typing import Final

from msgspec import Struct, field

from dragoman.core.dialects.profile import DialectProfile
from dragoman.core.tools import KnownTable
from dragoman.wire.anthropic import Tool

_MAX_SETS: Final = 64
_MAX_BYTES: Final = 2**20  # of all sets together, as JSON; decoded they take ten times that
_MAX_SET_BYTES: Final = _MAX_BYTES // 2
_MAX_SET_OBJECTS: Final = 20_000  # the smallest object takes twenty times its bytes
_MAX_TABLES: Final = 4  # of one set: more profiles than one set of tools is sent to at a time


class _KnownSet(Struct, eq=False):
    raw: bytes
    tools: list[Tool]
    tables: list[KnownTable] = field(default_factory=list)


class ToolMemory:
    """The sets of tools that came last, by the bytes that they came as. Bounded."""

    def __init__(self) -> None:
        self._sets: OrderedDict[bytes, _KnownSet] = OrderedDict()
        self._by_list: dict[int, _KnownSet] = {}  # by the identity of the list, which is kept
        self._n_bytes = 0

    def recall(self, raw: bytes) -> list[Tool] | None:
        """Return the tools that *raw* stands for; None: they are not known."""
        known = self._sets.get(raw)
        if known is None:
            return None
        self._sets.move_to_end(raw)
        return known.tools

    def keep(self, raw: bytes, tools: list[Tool]) -> None:
        """Keep *tools*, which were read from *raw* and found to be in order."""
        if len(raw) > _MAX_SET_BYTES or raw.count(b"{") > _MAX_SET_OBJECTS or raw in self._sets:
            return
        self._sets[raw] = self._by_list[id(tools)] = _KnownSet(raw, tools)
        self._n_bytes += len(raw)
        while len(self._sets) > _MAX_SETS or self._n_bytes > _MAX_BYTES:
            self._forget_oldest()

    def knows(self, tools: list[Tool]) -> bool:
        """Tell whether this very list is kept."""
        return id(tools) in self._by_list

    def table(
        self, tools: list[Tool], profile: DialectProfile, hidden: AbstractSet[str]
    ) -> KnownTable | None:
        """Return what came of *tools* before, for this very *profile*."""
        known = self._by_list.get(id(tools))
        for each in () if known is None else known.tables:
            if each.profile is profile and each.hidden == hidden:
                return each
        return None

    def keep_table(self, tools: list[Tool], made: KnownTable) -> None:
        """Keep what came of *tools*, if they are known."""
        if (known := self._by_list.get(id(tools))) is not None:
            del known.tables[: len(known.tables) + 1 - _MAX_TABLES]
            known.tables.append(made)

    def _forget_oldest(self) -> None:
        raw, known = self._sets.popitem(last=False)
        del self._by_list[id(known.tools)]
        self._n_bytes -= len(raw)
