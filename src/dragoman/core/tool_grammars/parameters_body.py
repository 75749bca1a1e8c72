"""
Read a call whose arguments are marked values, one after the other, in pieces.

A value may hold what looks like a marker, for models write about markup, too. So the end of a value
counts only where what stands behind it can follow a value.
"""

import re
from typing import Any, Final, Literal

import msgspec

from dragoman.core.argument_coercion import read_text
from dragoman.core.argument_repair import repair_arguments
from dragoman.core.input_schemas import Budget, InputSchema
from dragoman.core.lenient_json import read_lenient
from dragoman.core.tool_grammars.body import CallFrame, TextCall
from dragoman.core.tool_grammars.grammar import PARTIAL, Found, Grammar, first_of
from dragoman.core.tool_grammars.object_body import ObjectBody

_encode: Final = msgspec.json.Encoder().encode
_STRING: Final = frozenset(("string",))


class ParametersBody:
    """Arguments as one marked value after the other."""

    def __init__(self, frame: CallFrame) -> None:
        self._frame = frame
        self._schema: InputSchema | None = frame.tools.find(frame.name)
        self._arguments: dict[str, Any] = {}
        self._slots: dict[str, str] | None = None  # of the parameter whose value is being read
        self._pieces: list[str] = []  # of that value
        self._tail = ""
        self._object: ObjectBody | None = None
        self._is_begun = False
        self._has_odd_close = False  # the value holds what looks like its end
        self._is_end = False  # no more text will come
        self.rest: str | None = None
        self.has_failed = False

    def feed(self, text: str) -> None:
        if self._object is not None:
            self._feed_object(text)
            return
        self._tail += text
        if not self._is_begun and self._frame.grammar.may_be_object and self._begin():
            return
        while self.rest is None and not self.has_failed and self._step():
            pass

    def _begin(self) -> bool:
        """Look whether the parameters are an object after all; tell if there is nothing to do."""
        start = self._tail.lstrip(" \t\r\n")
        if not start:
            return False
        self._is_begun = True
        if start[0] != "{":
            return False
        self._object = ObjectBody(self._frame)
        self._feed_object(self._tail)
        return True

    def _feed_object(self, text: str) -> None:
        if self._object is not None:
            self._object.feed(text)
            self.rest, self.has_failed = self._object.rest, self._object.has_failed

    def _step(self) -> bool:
        """Take one thing; tell whether more can be done before more text comes."""
        return self._take_marker() if self._slots is None else self._take_value()

    def _take_marker(self) -> bool:
        step = first_of(self._frame.markers.in_call, self._tail)
        if step == PARTIAL:
            return False
        if step is None:
            self.has_failed = True
            return False
        role, found = step
        if role == "parameter":
            self._slots = found.slots
            self._tail = self._tail[found.end :]
            return True
        self.rest = self._tail[found.end :] if role == "close" else self._tail
        return False

    def _take_value(self) -> bool:
        text, at = self._tail, 0
        while match := self._frame.markers.value_end.search(text, at):
            is_close = match.group() in self._frame.grammar.parameter_close
            judge = self._judge_close if is_close else self._judge_unclosed
            verdict = judge(text, match)
            if verdict == PARTIAL:
                self._keep(text, match.start())
                return False
            if verdict >= 0:
                self._keep(text, match.start())
                self._end_value()
                self._tail = text[verdict:]
                return True
            self._has_odd_close = self._has_odd_close or is_close
            at = match.start() + 1
        self._keep(text, max(at, len(text) - self._frame.markers.longest_value_end))
        return False

    def _keep(self, text: str, at: int) -> None:
        if at > 0:
            self._pieces.append(text[:at])
        self._tail = text[max(at, 0) :]

    def _judge_close(self, text: str, match: re.Match[str]) -> int | Literal["partial"]:
        """Return where to go on if *match* closes the value; below zero if it is part of it."""
        end = match.end()
        step = first_of(self._frame.markers.behind_value, text, end)
        if step == PARTIAL:
            return end if self._is_end else PARTIAL
        if step is None or step[0] == "parameter_close":
            return -1
        return self._judge_closes(text, end, end)

    def _judge_closes(self, text: str, at: int, end: int) -> int | Literal["partial"]:
        """
        Return *end* unless another end of a value follows the ends of calls at *at*.

        That is what a call looks like that is part of a value.
        """
        closes, markers = ("close", "section_close"), self._frame.markers
        for _ in range(len(closes)):
            step = first_of(markers.behind_value, text, at)
            if step == PARTIAL:
                return end if self._is_end else PARTIAL
            if step is None or step[0] not in (*closes, "parameter_close"):
                return end
            if step[0] == "parameter_close":
                return -1
            at = step[1].end
        step = first_of(markers.parameter_close, text, at)
        if step == PARTIAL and not self._is_end:
            return PARTIAL
        return end if step is None or step == PARTIAL else -1

    def _judge_unclosed(self, text: str, match: re.Match[str]) -> int | Literal["partial"]:
        """Return where the value ends if it was not closed; below zero if it goes on."""
        at, markers = match.start(), self._frame.markers
        step = first_of(markers.in_call, text, at)
        if step == PARTIAL:
            return PARTIAL
        if step is None or self._has_odd_close:
            return -1
        role, found = step
        if role == "parameter":
            return at if self._is_next_parameter(text, at, found) else -1
        behind = first_of(markers.behind_call, text, found.end)
        if behind is None:
            return -1
        return self._judge_closes(text, found.end, at)

    def _is_next_parameter(self, text: str, at: int, found: Found) -> bool:
        """Tell whether a parameter begins here though the one before it was not closed."""
        key = _key_of(found.slots, self._frame.grammar)
        is_known = self._schema is not None and key in self._schema.members
        before = text[:at] or "".join(self._pieces[-1:])
        return is_known and key not in self._arguments and before.endswith("\n")

    def _end_value(self) -> None:
        slots, self._slots = self._slots or {}, None
        key = _key_of(slots, self._frame.grammar)
        text = "".join(self._pieces)
        self._pieces.clear()
        self._has_odd_close = False
        part = self._schema.member(key) if self._schema is not None else None
        value = self._read(text, slots, part)
        if value is None and self._may_be_left_out(key, part):
            return
        self._arguments[key] = value

    def _may_be_left_out(self, key: str, part: InputSchema | None) -> bool:
        schema = self._schema
        return (
            schema is not None
            and part is not None
            and key not in schema.required
            and not part.fits(None, Budget())
        )

    def _read(self, text: str, slots: dict[str, str], part: InputSchema | None) -> Any:  # noqa: ANN401
        grammar = self._frame.grammar
        if grammar.strips_line_breaks and text[:1] == "\n" == text[-1:] and len(text) > 1:
            text = text[1:-1]
        kind = slots.get("kind")
        if kind is not None and kind == grammar.verbatim_kind:
            return text
        stripped = text.strip()
        if kind is not None and stripped:
            reading = read_lenient(stripped)
            return text if reading is None or reading.is_open else reading.value
        is_null = stripped in ("null", "None")
        key = _key_of(slots, grammar)
        if is_null and part is not None and self._schema is not None:
            return text if key in self._schema.required and not part.fits(None, Budget()) else None
        return read_text(text, part)

    def call(self) -> TextCall | None:
        if self._object is not None:
            return self._object.call()
        return self._call()

    def end(self, *, is_cut: bool) -> TextCall | None:
        if self._object is not None:
            called = self._object.end(is_cut=is_cut)
            self.rest = self._object.rest
            return called
        self._is_end = True
        self.feed("")
        if self.rest is not None:
            return self._call()
        self.rest = ""
        if is_cut:
            return self._cut_call()
        is_between = self._slots is None and not self._tail.strip()
        has_all = self._frame.tools.has_required(self._frame.name, self._arguments)
        return self._call() if is_between and has_all else None

    def _call(self) -> TextCall | None:
        repaired = repair_arguments(_encode(self._arguments).decode(), self._schema)
        if repaired is None:
            return None
        return TextCall(
            grammar=self._frame.grammar.name, name=self._frame.name, arguments=repaired.text
        )

    def _cut_call(self) -> TextCall:
        """Return the call with a last string as far as it came; of another value, nothing."""
        written = _encode(self._arguments).decode()[:-1]
        if self._slots is not None:
            key = _key_of(self._slots, self._frame.grammar)
            part = self._schema.member(key) if self._schema is not None else None
            if self._is_string(self._slots, part):
                text = "".join(self._pieces) + self._without_marker(self._tail)
                if self._frame.grammar.strips_line_breaks:
                    text = text.removeprefix("\n")
                comma = "," if self._arguments else ""
                written += f"{comma}{_encode({key: text}).decode()[1:-2]}"
        return TextCall(
            grammar=self._frame.grammar.name, name=self._frame.name, arguments=written, is_cut=True
        )

    def _is_string(self, slots: dict[str, str], part: InputSchema | None) -> bool:
        grammar = self._frame.grammar
        if slots.get("kind"):
            return slots["kind"] == grammar.verbatim_kind
        return part is not None and part.types() == _STRING

    def _without_marker(self, text: str) -> str:
        """Return *text* without what may be the beginning of a marker."""
        for close in self._frame.grammar.parameter_close:
            for length in range(min(len(close), len(text)), 0, -1):
                if text.endswith(close[:length]):
                    return text[: len(text) - length]
        return text


def _key_of(slots: dict[str, str], grammar: Grammar) -> str:
    key = slots.get("key") or slots.get("attribute", "")
    if grammar.escapes_attributes:
        key = key.replace("&quot;", '"').replace("&amp;", "&")
    return key.strip()
