"""
Text and thinking of one reply: which is which, what in it is a tool call, and where it stops.

Content goes through up to three hands: tags around thinking are cut out, calls that came as text
are found, and the client's stop sequences are looked for in what is left. Each of them exists only
where the plan needs it, and the common piece of text passes all of them by.
"""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

from dragoman.core.block_writer import BlockWriter, Kind
from dragoman.core.plan import Plan
from dragoman.core.stop_sequences import StopMatcher
from dragoman.core.think_tags import OPEN_TAG, SPACE, ThinkTagCutter, begun_tag, ends_thinking
from dragoman.core.think_tags import Piece as TagPiece
from dragoman.core.tool_arguments import parse_arguments, parse_partial
from dragoman.core.tool_grammars.body import TextCall
from dragoman.core.tool_text import Piece, ToolTextCutter
from dragoman.core.usage import UsageMeter
from dragoman.wire.openai_chat import Delta, Function
from dragoman.wire.openai_chat import ToolCall as WireCall

_encode: Final = msgspec.json.Encoder().encode
_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})
_BEGINS_TAG: Final = "<" + SPACE  # what a tag at the very start can begin with


class ReplyText(Struct, eq=False):  # made in C: each reply has one
    """
    Feed it content and reasoning; it writes blocks.

    Methods that take text return whether a stop sequence has ended the message: all that comes
    behind it is dropped.

    Args:
        plan: How the reply is to be read.
        blocks: Where text, thinking and calls go.
        meter: Told what is written.
    """

    plan: Plan
    blocks: BlockWriter
    meter: UsageMeter
    is_forced_cut: bool = False  # the forced call is not whole
    matched_stop: str | None = None  # the stop sequence that has ended the message
    # Facts of the model's profile that this reply shows.
    learnt: Mapping[str, Any] = _NOTHING
    is_plain: bool = False  # text and thinking are what they are: nothing is looked for in them
    joins_pieces: bool = True  # it makes no difference in how many pieces content comes
    _stops: StopMatcher | None = None
    _forced: list[str] | None = None  # the text is a call that was forced
    _tags: ThinkTagCutter | None = None
    _may_begin_tag: bool = True  # nothing has come yet, and it may be a tag
    _seeks_end: bool = False
    _tag_begun: str = ""  # what may become a tag with the next piece
    _calls: ToolTextCutter | None = None  # in text
    _drafts: ToolTextCutter | None = None  # in thinking
    _fed_drafts: ToolTextCutter | None = None  # since the last text
    _n_calls: int = 0

    def __post_init__(self) -> None:
        plan = self.plan
        profile = plan.deployment.profile
        if plan.local_stop_sequences:
            self._stops = StopMatcher(plan.local_stop_sequences)
            self.joins_pieces = False
        if plan.forced_by_schema:
            self._forced = []
            self._may_begin_tag = self.joins_pieces = False
            return
        if profile.tool_text and plan.tool_names:
            tools = self.blocks.tools
            self._calls = ToolTextCutter(profile.tool_text, tools)
            self._drafts = ToolTextCutter(profile.tool_text, tools, is_thinking=True)
            self.joins_pieces = False
        if not profile.think_tags:
            self._may_begin_tag = False
            self.is_plain = self.joins_pieces
        elif plan.begins_thinking:
            if profile.think_tag_open_at_start:
                self._may_begin_tag = False
                self._tags = ThinkTagCutter(open_at_start=True)
            elif profile.thinking in ("always", "toggle"):
                # A model that thinks, but has not been seen to: a tag may show where it ended.
                self._seeks_end = True
                self.joins_pieces = False

    def _settle(self) -> None:
        """Note whether anything is still looked for."""
        self.joins_pieces = not self._seeks_end and (
            self._calls is None and self._stops is None and self._forced is None
        )
        self.is_plain = self.joins_pieces and self._tags is None and not self._may_begin_tag

    def take(self, content: str) -> bool:
        """Take content."""
        if self.is_plain:
            self.blocks.add("text", content)
            return False
        if self._seeks_end and ("<" in content or self._tag_begun):
            self._look_for_end(content)
        if self._may_begin_tag:
            if content[:1] in _BEGINS_TAG:
                self._tags = ThinkTagCutter()
            elif self.joins_pieces:
                self.is_plain = True
                self.blocks.add("text", content)
                return False
            self._may_begin_tag = False
        calls = self._calls
        if self._tags is not None:
            self._take_tagged(self._tags, content)
        elif calls is not None and (
            calls.is_alert
            or self._fed_drafts is not None  # which come before this text
            or "<" in content
            or "`" in content
            or "\n" in content
        ):
            self._take_watched(calls, content)
        elif self._forced is not None:
            self._forced.append(content)
            self.meter.written_chars += len(content)
        elif self._stops is not None:
            self._take_text(content)
        else:
            self.blocks.add("text", content)
            return False
        return self.matched_stop is not None

    def take_pieces(self, kind: Kind, pieces: Sequence[str], *, encoded: Sequence[bytes]) -> bool:
        """
        Take content, or reasoning, that came as many pieces; the same as one by one.

        Args:
            kind: Content is text.
            pieces: None of them empty.
            encoded: The same as JSON strings without their quotes.
        """
        take = self.take if kind == "text" else self.take_reasoning
        if self._may_begin_tag and not self.is_plain:  # the first one shows
            if take(pieces[0]):
                return True
            pieces, encoded = pieces[1:], encoded[1:]
            if not pieces:
                return False
        if self.is_plain or self._passes(kind, pieces):
            self.blocks.add_pieces(kind, pieces, encoded=encoded)
            return False
        return any(take(piece) for piece in pieces)

    def _passes(self, kind: Kind, pieces: Sequence[str]) -> bool:
        """Tell whether pieces are of their kind and nothing else, whatever has come before."""
        if self._seeks_end or self._may_begin_tag or self._tags is not None:
            return False
        if self._stops is not None or self._forced is not None:
            return False
        calls = self._calls
        if kind == "text" and self._fed_drafts is not None:
            return False
        if kind == "thinking" and calls is not None and (calls.skips_break or calls.is_holding):
            return False
        cutter = calls if kind == "text" else self._drafts
        if cutter is None:
            return True
        text = "".join(pieces)
        return not (cutter.is_alert or "<" in text or "`" in text or "\n" in text)

    def take_reasoning(self, reasoning: str) -> bool:
        """Take reasoning that the upstream keeps apart from content."""
        if self.is_plain:
            self.blocks.add("thinking", reasoning)
            return False
        if self._tags is not None:  # so tags in the content are text
            self._close_tags(is_end=False)
        if self._may_begin_tag or self._seeks_end:
            self._may_begin_tag = self._seeks_end = False
            self._settle()
        if self._calls is not None:
            self._calls.skips_break = False  # this upstream reads what the model writes
            if self._calls.is_holding:
                self._take_pieces(self._calls.close(is_cut=False))
        self._release_text()
        self._take_thinking(reasoning)
        return self.matched_stop is not None

    def break_off(self) -> bool:
        """Show all that was held back: a tool call follows it."""
        self._may_begin_tag = False
        if self._tags is not None:
            self._close_tags(is_end=False)
        if self._drafts is not None and self._drafts.is_holding:
            self._take_pieces(self._drafts.release(), is_thinking=True)
        if self._calls is not None and self._calls.is_holding:
            self._take_pieces(self._calls.close(is_cut=False))
        self._release_text()
        return self.matched_stop is not None

    def close(self, *, is_cut: bool) -> bool:
        """
        Take note that the reply has ended.

        Args:
            is_cut: The model was stopped before it was done.
        """
        if self._tags is not None:
            self._close_tags(is_end=not is_cut)
        if self._drafts is not None:
            self._take_pieces(self._drafts.close(is_cut=is_cut), is_thinking=True)
        if self._calls is not None:
            self._take_pieces(self._calls.close(is_cut=is_cut))
        if self._stops is not None:
            self._release_text()
        if self._forced:
            self._take_forced("".join(self._forced))
        return self.matched_stop is not None

    # -- text

    def _take_text(self, text: str) -> None:
        if self._stops is not None:
            text = self._stops.feed(text)
            self.matched_stop = self._stops.matched
        if text:
            self.blocks.add("text", text)

    def _release_text(self) -> None:
        """Show the text that might have begun a stop sequence: something else follows it."""
        if self._stops is not None and (rest := self._stops.close()):
            self.blocks.add("text", rest)

    def _take_tagged(self, tags: ThinkTagCutter, content: str) -> None:
        self._take_tag_pieces(tags.feed(content))
        if tags.is_done:
            self._tags = None
            self._settle()

    def _close_tags(self, *, is_end: bool) -> None:
        tags, self._tags = self._tags, None
        if tags is not None:
            self._take_tag_pieces(tags.close(is_end=is_end))
            if tags.was_answer:
                self._learn(begins_inside=False)

    def _take_tag_pieces(self, pieces: Iterable[TagPiece]) -> None:
        for kind, piece in pieces:
            if kind == "thinking":
                self._take_thinking(piece)
            elif self._drafts is not None and self._tags is None and self._drafts.has_calls:
                return  # the thinking has ended with a call, so that it was none of the answer
            elif self._calls is not None:
                self._take_watched(self._calls, piece)
            else:
                self._take_text(piece)

    def _look_for_end(self, content: str) -> None:
        """Look for a closing tag without an opening one, which a text about tags has as well."""
        content = self._tag_begun + content
        if OPEN_TAG in content:
            self._seeks_end = False
        elif ends_thinking(content):
            self._learn(begins_inside=True)
        self._tag_begun = begun_tag(content) if self._seeks_end else ""

    def _learn(self, *, begins_inside: bool) -> None:
        """Learn whether the model's text begins inside its thinking."""
        self._seeks_end = False
        self.learnt = {"think_tag_open_at_start": begins_inside}
        self.blocks.repairs.add_think_tag(begins_inside=begins_inside)

    # -- thinking

    def _take_thinking(self, thinking: str) -> None:
        self._seeks_end = False
        drafts = self._drafts
        if drafts is not None and (
            drafts.is_alert or "<" in thinking or "`" in thinking or "\n" in thinking
        ):
            self._fed_drafts = drafts
            self._take_pieces(drafts.feed(thinking), is_thinking=True)
        elif self.matched_stop is None:
            self.blocks.add("thinking", thinking)

    # -- calls

    def _take_watched(self, calls: ToolTextCutter, content: str) -> None:
        """Take text that may hold a call; it shows what calls in the thinking before it were."""
        drafts = self._fed_drafts
        if drafts is not None and not content.isspace():
            self._take_pieces(drafts.release(), is_thinking=True)
            self._fed_drafts = None
        for piece in calls.feed(content):
            if self._stops is None and isinstance(piece, str):
                self.blocks.add("text", piece)
            else:
                self._take_pieces((piece,))

    def _take_pieces(self, pieces: Iterable[Piece], *, is_thinking: bool = False) -> None:
        kind: Literal["thinking", "text"] = "thinking" if is_thinking else "text"
        for piece in pieces:
            if self.matched_stop is not None:
                return
            if isinstance(piece, TextCall):
                self._release_text()
                self._add_call(piece)
            elif kind == "text":
                self._take_text(piece)
            else:
                self.blocks.add(kind, piece)

    def _add_call(self, call: TextCall) -> None:
        self._n_calls += 1
        repairs = self.blocks.repairs
        repairs.add_text_call(call.grammar, call.name)
        for kind in sorted(call.repairs):
            repairs.add_argument_repair(kind, call.name)
        function = Function(name=call.name, arguments=call.arguments)
        # Indexes below zero: those of calls that the upstream itself has found begin there.
        fragment = WireCall(index=-self._n_calls, id=call.id or None, function=function)
        self.blocks.add_call(fragment)

    def _take_forced(self, text: str) -> None:
        """Read the text that the upstream was made to write as the call that was forced."""
        if self.blocks.has_calls:  # it called by itself, and this is no call
            self.blocks.add("text", text)
            return
        call = parse_partial(text)
        name, arguments = call.get("name"), call.get("arguments")
        is_known = isinstance(name, str) and name in self.plan.tool_names
        is_whole = parse_arguments(text) is not None and isinstance(arguments, dict)
        written = _encode(arguments if isinstance(arguments, dict) else {}).decode()
        if not is_whole:  # cut off: shown as the API shows a call that was cut off
            written, self.is_forced_cut = written[:-1], True
        function = Function(name=name if is_known else None, arguments=written)
        self.blocks.add_call(WireCall(index=0, function=function))


def reasoning_of(delta: Delta) -> str:
    """Return the reasoning in *delta*, whichever field holds it."""
    reasoning = delta.reasoning_content or delta.reasoning
    if not reasoning and delta.reasoning_details:
        return "".join(detail.text or detail.summary or "" for detail in delta.reasoning_details)
    return reasoning or ""
