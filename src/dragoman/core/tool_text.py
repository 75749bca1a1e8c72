"""
Find tool calls that came as text, because no parser of the upstream took them out.

A call counts only where models write one: it names a declared tool, it is complete, it stands
outside code, and nothing follows it on its line. Until that is certain its text is held back, up to
a limit, and comes out unchanged if it was no call. Other text is held back for no more than the
beginning of a marker, or line breaks that one may follow.
"""

import re
from collections.abc import Sequence
from functools import cache
from typing import Final, Literal

from dragoman.core.input_schemas import ToolSchemas
from dragoman.core.tool_grammars.body import Body, CallFrame, TextCall, is_declared
from dragoman.core.tool_grammars.code_tracker import CodeTracker
from dragoman.core.tool_grammars.families import GRAMMARS
from dragoman.core.tool_grammars.grammar import PARTIAL, Found, Grammar, Markers, Role, first_of
from dragoman.core.tool_grammars.object_body import ObjectBody
from dragoman.core.tool_grammars.parameters_body import ParametersBody

Piece = str | TextCall
# What was found: its grammar, the markers that may follow, or none if it is no call, and the rest.
_Step = tuple[Grammar, Markers | None, Role, Found]

# Line breaks with what begins the next line, runs that may be code, and what may begin a marker.
_MARK: Final = re.compile(r"\n[ \t>]{0,60}|`{1,60}|~{1,60}|<")
_MAX_INDENT: Final = 60
_END_OF_LINE: Final = re.compile(r"[ \t]{0,16}\n")
_SPACE: Final = " \t\r\n"
_MAX_SPACE: Final = 4096
_MAX_CALL_CHARS: Final = 2**20
_MAX_BREAKS: Final = 2  # around a call that its template may have put there
# What began like a call and was none is looked at again, but not for ever.
_MAX_WASTED_CHARS: Final = 4 * 2**20
_MIN_WASTE: Final = 256

_START_CHARS: Final = 5  # of a marker; enough to pass over tags of all other kinds
_MARKERS: Final = {name: Markers(grammar) for name, grammar in GRAMMARS.items()}


@cache
def _grammars(names: tuple[str, ...]) -> list[tuple[Grammar, Markers]]:
    """Return them with their markers; replies share the list."""
    return [(GRAMMARS[name], _MARKERS[name]) for name in names]


@cache
def _starts(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the first characters of all that may begin a call or stand around an answer."""
    literals = {marker.literal for name in names for _, marker in _MARKERS[name].begin}
    for name in names:
        literals.update(GRAMMARS[name].wrapper or ())
    return tuple(sorted({literal[:_START_CHARS] for literal in literals}))


class _Run:
    """Calls that follow each other, the last one perhaps incomplete."""

    def __init__(self, grammar: Grammar, markers: Markers) -> None:
        self.grammar = grammar
        self.markers = markers
        self.calls: list[TextCall] = []  # those that are complete
        self.body: Body | None = None  # of the one that is not
        self._raw: list[str] = []  # the text, as it came
        self.chars = 0

    @property
    def raw(self) -> str:
        """All of its text."""
        return "".join(self._raw)

    def add(self, text: str) -> None:
        """Add to its text."""
        self._raw.append(text)
        self.chars += len(text)

    def give_back(self, chars: int) -> None:
        """Take the last characters off its text again."""
        self.chars -= chars
        while chars:
            last = self._raw.pop()
            if len(last) > chars:
                self._raw.append(last[:-chars])
                return
            chars -= len(last)

    def begin_call(self, role: Role, found: Found, tools: ToolSchemas) -> None:
        """Begin the call whose first marker was found."""
        if role == "whole":
            self.calls.append(TextCall(grammar=self.grammar.name, name=found.slots["name"]))
            return
        frame = CallFrame(self.grammar, self.markers, found, tools)
        has_parameters = self.grammar.arguments == "parameters"
        self.body = ParametersBody(frame) if has_parameters else ObjectBody(frame)


class ToolTextCutter:
    """
    Feed it text of the model, get pieces of text and the calls in it.

    Attributes:
        is_alert: If not, text without ``<``, a backtick or a line break need not be fed.
        is_holding: There is text that has not come out.
        skips_break: A line break at the very beginning is the template's, and dropped.

    Args:
        names: Of the grammars to look for, in the order in which they are tried; the model's own
            first.
        tools: The tools that may be called.
        is_thinking: The text is reasoning. There a call is often only considered: it counts if
            nothing but white space follows it to the end.
    """

    def __init__(
        self, names: Sequence[str], tools: ToolSchemas, *, is_thinking: bool = False
    ) -> None:
        self._grammars = _grammars(tuple(names))
        self._starts = _starts(tuple(names))
        self._tools = tools
        self._is_thinking = is_thinking
        self._code = CodeTracker()
        self._run: _Run | None = None
        self._held = "\n"  # text whose meaning the next characters decide
        self._unreal_chars = 1  # at its beginning: the line break before all text
        self._is_at_start = True
        self.skips_break = bool(names) and self._grammars[0][0].begins_with_break
        self._breaks_to_drop = 0  # behind a call
        self._wrapper_close = ""
        self._wasted_chars = 0
        self.is_alert = True
        self.is_holding = False
        self._is_plain = False  # the text so far is over and changes nothing for what follows

    def feed(self, text: str) -> list[Piece]:
        """Return the pieces that are certain after *text*."""
        if self._is_plain:
            if self._held:
                text, self._held = self._held + text, ""
                self.is_alert = self.is_holding = False
            if not ("<" in text or "`" in text or "~" in text or ">" in text):
                return self._hold_breaks(text) if text[-1:] in _SPACE else [text]
        out: list[Piece] = []
        if self.skips_break and text:
            text, self.skips_break = text.removeprefix("\n"), False
        self._take(text, out)
        return out

    def _hold_breaks(self, text: str) -> list[Piece]:
        """Hold line breaks at the end of a text in which they change nothing."""
        at = text.rfind("\n")
        if at < 0 or len(text) - at > _MAX_INDENT + 1 or text[at:].strip(_SPACE):
            return [text] if text else []
        if at and text[at - 1] == "\n":
            at -= 1
        self._held = text[at:]
        self.is_alert = self.is_holding = True
        return [text[:at]] if at else []

    def close(self, *, is_cut: bool) -> list[Piece]:
        """
        Return the rest: the text has ended, or something else follows it.

        Args:
            is_cut: The model was stopped, so that a call that is not complete is still one.
        """
        out: list[Piece] = []
        while self._run is not None:
            self._end_run(self._run, out, is_cut=is_cut)
        self._emit(self._unhold(), out)
        self._note()
        return out

    def release(self) -> list[Piece]:
        """Return all that is held as text: what follows it shows that it was no call."""
        raw = self._run.raw if self._run is not None else ""
        self._run = None
        out: list[Piece] = []
        self._emit(raw + self._unhold(), out)
        self._note()
        return out

    @property
    def has_calls(self) -> bool:
        """Tell whether calls would count if the text ended here."""
        return self._run is not None and bool(self._run.calls)

    def _note(self) -> None:
        is_off = self._wasted_chars > _MAX_WASTED_CHARS
        self._is_plain = not (
            is_off
            or self._is_at_start
            or self._run is not None
            or self._breaks_to_drop
            or self._code.needs_line_end
        )
        self.is_alert = not (self._is_plain or is_off) or bool(self._held)
        self.is_holding = self._run is not None or len(self._held) > self._unreal_chars

    def _take(self, text: str, out: list[Piece]) -> None:
        """Go on until nothing is left of *text* that can be understood now."""
        rest: str | None = text
        while rest is not None:
            run = self._run
            if run is None:
                rest = self._take_text(self._unhold() + rest, out)
            elif run.body is not None:
                rest = self._take_body(run, run.body, text=rest, out=out)
            else:
                rest = self._take_behind(run, self._unhold() + rest, out)
        self._note()

    def _unhold(self) -> str:
        held, self._held = self._held, ""
        return held

    def _emit(self, text: str, out: list[Piece]) -> None:
        if self._unreal_chars and text:
            text, self._unreal_chars = text[self._unreal_chars :], 0
        while self._breaks_to_drop and text.startswith("\n"):
            text = text[1:]
            self._breaks_to_drop -= 1
        if text:
            self._breaks_to_drop = 0
            self._is_at_start = self._is_at_start and text.isspace()
            out.append(text)

    # -- text

    def _take_text(self, text: str, out: list[Piece]) -> str | None:
        """Take text that is in no run; return what is behind the beginning of one."""
        if self._wasted_chars > _MAX_WASTED_CHARS:
            self._emit(text, out)
            return None
        line_start = line_begin = -1
        for mark in _MARK.finditer(text):
            piece, at, end = mark.group(), mark.start(), mark.end()
            if end == len(text) and piece != "<":
                self._hold(text, line_begin if line_start == at else at, out)
                return None
            if piece[0] == "\n":
                self._code.take_line(piece)
                line_begin, line_start = at, end
            elif piece != "<":
                begins_line, ends_line = line_start == at, text[end] in _SPACE
                self._code.take_run(piece, begins_line=begins_line, ends_line=ends_line)
            elif not self._code.is_code:
                step = self._find(text, at)
                if step == PARTIAL:
                    self._hold(text, at, out)
                    return None
                if step is not None:
                    return self._begin(step, text, at=at, out=out)
        self._emit(text, out)
        return None

    def _hold(self, text: str, at: int, out: list[Piece]) -> None:
        """Hold *text* from *at* on, with line breaks before it that may belong to a call."""
        breaks = _MAX_BREAKS - text.startswith("\n", at)
        while breaks and at and text[at - 1] == "\n":
            at -= 1
            breaks -= 1
        self._emit(text[:at], out)
        self._held = text[at:]

    def _find(self, text: str, at: int) -> _Step | Literal["partial"] | None:
        """Return what begins at *at*: a call of a declared tool, or an answer's wrapper."""
        if not text.startswith(self._starts, at):
            start = text[at : at + _START_CHARS]
            is_cut = len(start) < _START_CHARS and any(s.startswith(start) for s in self._starts)
            return PARTIAL if is_cut else None
        for grammar, markers in self._grammars:
            wrapper = self._find_wrapper(grammar, text, at)
            if wrapper is not None:
                return wrapper
            step = first_of(markers.begin, text, at)
            if step == PARTIAL:
                return PARTIAL
            if step is not None and is_declared(step[1], grammar, self._tools):
                return grammar, markers, *step
        return None

    def _find_wrapper(
        self, grammar: Grammar, text: str, at: int
    ) -> _Step | Literal["partial"] | None:
        if grammar.wrapper is None:
            return None
        opening, closing = grammar.wrapper
        wanted = [opening] if self._is_at_start and not text[:at].strip(_SPACE) else []
        wanted += [self._wrapper_close] if self._wrapper_close else []
        for marker in wanted:
            if text.startswith(marker, at):
                self._wrapper_close = closing if marker == opening else ""
                return grammar, None, "whole", Found(at + len(marker), {})
            if len(text) - at < len(marker) and marker.startswith(text[at:]):
                return PARTIAL
        return None

    def _begin(self, step: _Step, text: str, *, at: int, out: list[Piece]) -> str:
        """Begin a run of calls; return the text behind its first marker."""
        grammar, markers, role, found = step
        if markers is None:  # a wrapper, which is no text
            self._emit(text[:at], out)
            return text[found.end :]
        start = at
        while at - start < grammar.line_breaks_before and start and text[start - 1] == "\n":
            start -= 1
        self._emit(text[:start], out)
        self._run = run = _Run(grammar, markers)
        run.add(text[start : found.end])
        run.begin_call(role, found, self._tools)
        return text[found.end :]

    # -- calls

    def _take_body(self, run: _Run, body: Body, *, text: str, out: list[Piece]) -> str | None:
        run.add(text)
        body.feed(text)
        if body.has_failed or run.chars > _MAX_CALL_CHARS:
            return self._reject(run, "", out)
        if body.rest is None:
            return None
        return self._end_body(run, body, body.call(), out)

    def _end_body(self, run: _Run, body: Body, call: TextCall | None, out: list[Piece]) -> str:
        if call is None:
            return self._reject(run, "", out)
        rest = body.rest or ""
        run.give_back(len(rest))
        run.calls.append(call)
        run.body = None
        return rest

    def _take_behind(self, run: _Run, text: str, out: list[Piece]) -> str | None:
        """Look at what follows a complete call: it decides what the call was."""
        step = first_of(run.markers.behind_call, text)
        if step == PARTIAL:
            self._held = text
            return None
        if step is not None:
            role, found = step
            is_call = role in ("open", "whole")
            if is_call and not is_declared(found, run.grammar, self._tools):
                return self._accept(run, text, out)
            run.add(text[: found.end])
            if is_call:
                run.begin_call(role, found, self._tools)
            return text[found.end :]
        if self._is_thinking and not text.strip(_SPACE) and len(text) < _MAX_SPACE:
            self._held = text
            return None
        if self._is_thinking or not _END_OF_LINE.match(text):
            return self._reject(run, text, out)
        return self._accept(run, text, out)

    def _accept(self, run: _Run, rest: str, out: list[Piece]) -> str:
        out += run.calls
        self._run = None
        self._breaks_to_drop = _MAX_BREAKS
        self._unreal_chars = 0
        self._is_at_start = False
        return rest

    def _reject(self, run: _Run, rest: str, out: list[Piece]) -> str:
        """Give a run out as text, but return what must be looked at again."""
        self._run = None
        self._wasted_chars += max(run.chars, _MIN_WASTE)
        text = run.raw + rest
        end = text.index("<") + 1 if run.chars <= _MAX_CALL_CHARS else len(text)
        self._emit(text[:end], out)
        return text[end:]

    def _end_run(self, run: _Run, out: list[Piece], *, is_cut: bool) -> None:
        """Bring a run to the end of the text; what its last call leaves may begin another one."""
        if run.body is None:  # behind it is white space, or the beginning of a marker
            held = self._unhold()
            is_dropped = self._is_thinking or bool(held.strip(_SPACE))
            self._held = self._accept(run, "" if is_dropped else held, out)
            return
        call = run.body.end(is_cut=is_cut)
        rest = self._end_body(run, run.body, call, out)
        if call is not None and call.is_cut:
            rest = self._accept(run, rest, out)
        self._take(rest, out)
