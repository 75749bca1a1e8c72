"""
Tools that were seen before: read once, turned into functions once for each profile.

Coding agents send the same dozens of tools with every request of a conversation, a quarter of its
bytes and half of the work on it. Nobody changes what is kept here: tools, tables, schemas and
frames are shared by requests. Frames, what plans with the same tools and settings have in common,
go with their tools.
"""

from collections import OrderedDict
from collections.abc import Set as AbstractSet
from typing import Final

from msgspec import Struct, field

from dragoman.core.dialects.profile import DialectProfile
from dragoman.core.plan_frame import Frame, FrameKey
from dragoman.core.tools import KnownTable
from dragoman.wire.anthropic import Tool

_MAX_SETS: Final = 64
_MAX_BYTES: Final = 2**20  # of all sets together, as JSON; decoded they take ten times that
_MAX_SET_BYTES: Final = _MAX_BYTES // 2
_MAX_SET_OBJECTS: Final = 20_000  # the smallest object takes twenty times its bytes
_MAX_TABLES: Final = 4  # of one set: more profiles than one set of tools is sent to at a time
_MAX_FRAMES: Final = 256  # of all sets together; a frame takes a few kB, at most fifty or so
_NO_NAMES: Final = frozenset[str]()


class _KnownSet(Struct, eq=False):
    raw: bytes
    tools: list[Tool]
    deferred: frozenset[str]
    tables: list[KnownTable] = field(default_factory=list)
    frames: dict[FrameKey, Frame] = field(default_factory=dict)


class ToolMemory:
    """
    The sets of tools that came last, by the bytes that they came as. Bounded.

    Attributes:
        no_tools: The tools of requests that have none.
    """

    def __init__(self) -> None:
        self._sets: OrderedDict[bytes, _KnownSet] = OrderedDict()
        self.no_tools: list[Tool] = []
        # By the identity of the list, which is kept.
        self._by_list = {id(self.no_tools): _KnownSet(b"", self.no_tools, _NO_NAMES)}
        self._n_bytes = 0
        self._n_frames = 0

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
        deferred = frozenset(tool.name for tool in tools if tool.name and tool.defer_loading)
        self._sets[raw] = self._by_list[id(tools)] = _KnownSet(raw, tools, deferred)
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
        if (known := self._by_list.get(id(tools))) is None:
            return
        is_full = len(known.tables) >= _MAX_TABLES
        if is_full and known.tables.pop(0).table.functions:  # frames hold them
            self._forget_frames(known)
        known.tables.append(made)

    def frame(self, tools: list[Tool], key: FrameKey) -> Frame | None:
        """Return the frame kept for *key* with these tools, if there is one."""
        known = self._by_list.get(id(tools))
        return None if known is None else known.frames.get(key)

    def keep_frame(self, tools: list[Tool], key: FrameKey, frame: Frame) -> None:
        """Keep *frame*, if its tools are known; where there are too many, all others go."""
        known = self._by_list.get(id(tools))
        if known is None:
            return
        if self._n_frames >= _MAX_FRAMES:
            for each in self._by_list.values():
                self._forget_frames(each)
        self._n_frames += key not in known.frames
        known.frames[key] = frame

    def deferred(self, tools: list[Tool]) -> frozenset[str]:
        """Return the names of those of *tools* that are sent only once the model asks for them."""
        known = self._by_list.get(id(tools))
        return _NO_NAMES if known is None else known.deferred

    def _forget_oldest(self) -> None:
        raw, known = self._sets.popitem(last=False)
        del self._by_list[id(known.tools)]
        self._n_bytes -= len(raw)
        self._forget_frames(known)

    def _forget_frames(self, known: _KnownSet) -> None:
        self._n_frames -= len(known.frames)
        known.frames.clear()
