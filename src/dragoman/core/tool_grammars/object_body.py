"""
Read a call whose arguments are a JSON object, in pieces.

No more of the text is looked at twice than a marker is long, so that the cost does not grow with
the length of a call.
"""

import re
from typing import Any, Final

import msgspec

from dragoman.core.argument_repair import repair_arguments
from dragoman.core.json_follower import JsonFollower
from dragoman.core.lenient_json import read_lenient
from dragoman.core.tool_arguments import parse_arguments, parse_partial
from dragoman.core.tool_grammars.body import CallFrame, TextCall
from dragoman.core.tool_grammars.grammar import PARTIAL, first_of

_encode: Final = msgspec.json.Encoder().encode
_ARGUMENTS: Final = re.compile(r'"(?:arguments|parameters|input)"\s*:\s*')
_OUTSIDE: Final = re.compile(r'["{}\[\]<]')
_INSIDE: Final = re.compile(r'["\\]')
_MAX_SPACE: Final = 64
_MAX_ODD_BRACKETS: Final = 256  # outside strings, where none belongs


class ObjectBody:
    """Arguments, or a whole call, as a JSON object."""

    def __init__(self, frame: CallFrame) -> None:
        self._frame = frame
        self._scanner = _ObjectScanner()
        self._pieces: list[str] = []  # of the object
        self._tail = ""
        self._is_begun = False
        self._odd_brackets = 0
        self.rest: str | None = None
        self.has_failed = False

    def feed(self, text: str) -> None:
        self._tail += text
        if not self._is_begun and not self._begin():
            return
        if not self._scanner.is_whole and not self._scan():
            return
        self._close()

    def _begin(self) -> bool:
        start = self._tail.lstrip(" \t\r\n")
        if not start:
            self.has_failed = len(self._tail) > _MAX_SPACE
            return False
        self._is_begun = True
        if start[0] == "{":
            self._tail = start
        else:
            self._scanner.is_whole = True  # no arguments: the end must come
        return True

    def _scan(self) -> bool:
        """Go on in the object; tell whether it has ended."""
        text, at = self._tail, 0
        while True:
            at = self._scanner.scan(text, at)
            if self._scanner.is_whole:
                break
            if at == len(text):
                self._pieces.append(text)
                self._tail = ""
                return False
            # An angle bracket outside strings is no JSON: the call ends without its braces.
            step = first_of(self._frame.markers.behind_object, text, at)
            if step == PARTIAL:
                self._pieces.append(text[:at])
                self._tail = text[at:]
                return False
            if step is not None:
                break
            at += 1
            self._odd_brackets += 1
            if self._odd_brackets > _MAX_ODD_BRACKETS:
                self.has_failed = True
                return False
        self._scanner.is_whole = True
        self._pieces.append(text[:at])
        self._tail = text[at:]
        return True

    def _close(self) -> None:
        step = first_of(self._frame.markers.behind_object, self._tail)
        if step is None:
            self.has_failed = True
        elif step != PARTIAL:
            role, found = step
            self.rest = self._tail[found.end :] if role == "close" else self._tail

    def call(self) -> TextCall | None:
        return self._call("".join(self._pieces), is_ended=True)

    def end(self, *, is_cut: bool) -> TextCall | None:
        text, self.rest = "".join(self._pieces), ""
        if self._scanner.is_whole:
            return self._call(text, is_ended=True)
        text += self._tail
        found = self._find_close(text)
        if found >= 0:
            call = self._call(text[:found], is_ended=True)
            if call is not None or not is_cut:
                self.rest = self._behind_close(text[found:])
                return call
        if is_cut:
            return self._cut_call(text)
        return None if self._scanner.is_in_string else self._call(text, is_ended=False)

    def _behind_close(self, text: str) -> str:
        step = first_of(self._frame.markers.behind_object, text)
        if step is None or step == PARTIAL or step[0] != "close":
            return text
        return text[step[1].end :]

    def _find_close(self, text: str) -> int:
        """Return where the first thing that may end the call stands, even inside a string."""
        found = [at for c in self._frame.markers.closes if (at := text.find(c)) >= 0]
        return min(found, default=-1)

    def _call(self, text: str, *, is_ended: bool) -> TextCall | None:
        """Return the call; one that did not end must have all that the tool requires."""
        name, call_id = self._frame.name, self._frame.id
        if self._frame.grammar.arguments == "call_json":
            name, text = _read_call(text)
        tools = self._frame.tools
        repaired = repair_arguments(text, tools.find(name))
        if repaired is None:
            return None
        if not name and "id" in self._frame.found.slots:  # a bare counter
            name = tools.guess(repaired.value)
        is_enough = is_ended or tools.has_required(name, repaired.value)
        if name not in tools or not is_enough:
            return None
        return TextCall(
            grammar=self._frame.grammar.name,
            name=name,
            id=call_id,
            arguments=repaired.text,
            repairs=repaired.repairs,
        )

    def _cut_call(self, text: str) -> TextCall | None:
        name = self._frame.name
        if self._frame.grammar.arguments == "call_json":
            said = parse_partial(text).get("name")
            name = said if isinstance(said, str) else ""
            match = _ARGUMENTS.search(text)
            text = text[match.end() :] if match else ""
        if name not in self._frame.tools:
            return None
        follower = JsonFollower()
        shown = follower.feed(text)
        return TextCall(
            grammar=self._frame.grammar.name,
            name=name,
            id=self._frame.id,
            arguments=shown[:-1] if follower.is_whole else shown or "{",
            is_cut=True,
        )


def _read_call(text: str) -> tuple[str, str]:
    """Return name and arguments of a call that is one object."""
    call = parse_arguments(text)
    if call is None:
        reading = read_lenient(text)
        call = reading.value if reading is not None and isinstance(reading.value, dict) else {}
    name = next((v for k in ("name", "function") if isinstance(v := call.get(k), str)), "")
    arguments: Any = next((call[k] for k in ("arguments", "parameters", "input") if k in call), {})
    return name, arguments if isinstance(arguments, str) else _encode(arguments).decode()


class _ObjectScanner:
    """Finds the end of a JSON object, in pieces."""

    def __init__(self) -> None:
        self._depth = 0
        self._skips = False  # the next character is escaped
        self.is_in_string = False
        self.is_whole = False

    def scan(self, text: str, at: int) -> int:
        """Return where the object ends, or an angle bracket outside strings stands, or the end."""
        if self._skips and at < len(text):
            self._skips, at = False, at + 1
        while at < len(text):
            pattern = _INSIDE if self.is_in_string else _OUTSIDE
            match = pattern.search(text, at)
            if match is None:
                return len(text)
            piece, at = match.group(), match.end()
            if piece == "<":
                return at - 1
            if piece == "\\":
                self._skips = at == len(text)
                at += not self._skips
            elif piece == '"':
                self.is_in_string = not self.is_in_string
            else:
                self._depth += 1 if piece in "{[" else -1
                if self._depth <= 0:
                    self.is_whole = True
                    return at
        return at
