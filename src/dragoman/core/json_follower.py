"""
Follow a JSON object while it streams, so that what is shown is always the start of legal JSON.

Strict clients parse a tool's input after every delta and give up at the first illegal character;
models write raw line breaks into strings, bad escapes, Python literals, trailing commas, and
sometimes the whole object twice. What has one possible meaning is repaired at once. From anything
else on, and from a value on that the tool's schema does not allow, the rest is kept back: only the
whole tells what was meant.
"""

import math
import re
from collections.abc import Sequence
from typing import Final, Literal

import msgspec

from dragoman.core.argument_coercion import NAMES, WRAPPERS, Repairs
from dragoman.core.input_schemas import InputSchema

_decode: Final = msgspec.json.Decoder(str).decode

_SPECIAL: Final = re.compile(r'["\\\x00-\x1f]')  # inside a string, all else stands for itself
_ESCAPE: Final = re.compile(r'\\(?:["\\/bfnrt]|u([0-9a-fA-F]{4}))')
_LEGAL_RUN: Final = re.compile(
    r'(?:[^"\\\x00-\x1f]++|\\(?:["\\/bfnrt]|u(?![dD][89a-fA-F])[0-9a-fA-F]{4}))*+'
)
_LOW_HALF: Final = re.compile(r"\\u[dD][c-fC-F][0-9a-fA-F]{2}")
_CUT_ESCAPE: Final = re.compile(r"\\(?:u[0-9a-fA-F]{0,3})?")
_CUT_LOW_HALF: Final = re.compile(r"(?:\\(?:u(?:[dD](?:[c-fC-F][0-9a-fA-F]?)?)?)?)?")
_TOKEN: Final = re.compile(r'[ \t\r\n]+|[{}\[\],:"]|[-+.0-9A-Za-z]+')
_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_LITERALS: Final = {
    "true": "true",
    "false": "false",
    "null": "null",
    "True": "true",
    "False": "false",
    "None": "null",
}
_SHORT_ESCAPES: Final = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
_REPLACEMENT: Final = "\\ufffd"
_MAX_DEPTH: Final = 200
_MAX_HELD_CHARS: Final = 400  # no number or gap that a tool needs is longer

_STRING: Final = re.compile(r'"(?:[^"\\\x00-\x1f]|\\.)*+"')
# A member up to its value, and what may become one.
_MEMBER: Final = re.compile(
    r'[{,][ \t\r\n]*("(?:[^"\\\x00-\x1f]|\\.)*+")[ \t\r\n]*:[ \t\r\n]*(?=[^ \t\r\n])'
)
_CUT_MEMBER: Final = re.compile(
    r'[{,][ \t\r\n]*(?:"(?:[^"\\\x00-\x1f]|\\.)*+(?:\\|"[ \t\r\n]*(?::[ \t\r\n]*)?)?)?\Z'
)
# What stands behind the quote that ends a string; behind any other quote the string goes on.
_AFTER_KEY: Final = re.compile(r"[ \t\r\n]{0,99}:")
_AFTER_MEMBER: Final = re.compile(r'[ \t\r\n]{0,99}(?:\}|,[ \t\r\n]{0,99}["}])')
_AFTER_ELEMENT: Final = re.compile(r'[ \t\r\n]{0,99}(?:\]|,[ \t\r\n]{0,99}["\[{\]0-9tfnTFN-])')
_CUT_BEHIND: Final = re.compile(r"[ \t\r\n]*(?:,[ \t\r\n]*)?\Z")
_TYPE_BY_START: Final = {
    '"': "string",
    "{": "object",
    "[": "array",
    **dict.fromkeys("tfTF", "boolean"),
    **dict.fromkeys("nN", "null"),
    **dict.fromkeys("-0123456789", "integer"),
}

_Expected = Literal["key", "key_or_end", "colon", "value", "value_or_end", "comma"]


class JsonFollower:
    """
    Feed it the text of one object in pieces, get what of it may be shown.

    Args:
        schema: Of the object; None: every value is allowed.
    """

    def __init__(self, schema: InputSchema | None = None) -> None:
        self._closers: list[str] = []
        self._schemas: list[InputSchema | None] = []  # of the open containers
        self._counts: list[int] = []  # of elements in them
        self._next = schema  # of the value that comes next
        self._expected: _Expected = "value"
        self._is_in_string = False
        self._held = ""  # a number, literal, escape, key or quote whose end has not come
        self._kept: list[str] = []
        self.repairs: Repairs = set()
        self.is_keeping = False  # nothing more is shown
        self.is_whole = False  # the object is complete; whatever follows is dropped
        self.is_broken = False  # what came next has no meaning

    @property
    def kept(self) -> str:
        """What was not shown, behind what was."""
        return "".join(self._kept) + self._held

    def passing(self, pieces: Sequence[str], start: int) -> int:
        """Return up to where pieces from *start* on only go on with a string, and may be shown."""
        if not self._is_in_string or self._held or self.is_keeping:
            return start
        for at in range(start, len(pieces)):
            if _SPECIAL.search(pieces[at]) is not None:
                return at
        return len(pieces)

    def feed(self, text: str) -> str:
        """Return the legal continuation that *text* brings; often *text* itself."""
        if self._is_in_string and not self._held and _SPECIAL.search(text) is None:
            if not self.is_keeping:
                return text  # the common piece: more of a string
            self._kept.append(text)
            return ""
        shown: list[str] = []
        out = self._kept if self.is_keeping else shown
        text, self._held = self._held + text, ""
        at = 0
        while at < len(text) and not (self.is_whole or self.is_broken):
            take = self._take_in_string if self._is_in_string else self._take_token
            at = take(text, at, out)
            if self.is_keeping:
                out = self._kept
        if at >= len(text):
            return "".join(shown)
        if self.is_broken:
            self.is_keeping = True
            self._kept.append(text[at:])
        elif not text[at:].isspace():
            self.repairs.add("syntax")  # something behind the object, or the object once more
        return "".join(shown)

    # -- outside strings

    def _take_token(self, text: str, at: int, out: list[str]) -> int:
        match = _TOKEN.match(text, at)
        if match is None:
            self.is_broken = True
            return at
        piece, end = match.group(), match.end()
        if piece.isspace():
            if self._closers:
                out.append(piece)
            return end
        if piece in ("{", ",") and (taken := self._take_member(text, at, out)) >= 0:
            return taken
        if piece == ",":
            return self._take_comma(text, at, out)
        if piece in "]}":
            self._close(piece, out)
        elif piece == ":":
            self._expect(self._expected == "colon", piece, then="value", out=out)
            self._next = None
        else:
            return self._begin_value(text, at, end=end, out=out)
        return at if self.is_broken else end

    def _begin_value(self, text: str, at: int, *, end: int, out: list[str]) -> int:
        piece = text[at:end]
        if self._is_odd_element(text, at):
            self.is_keeping = True
            return at
        if self._held:  # a choice whose end decides has not come
            return len(text)
        if piece == '"':
            self._begin_string(out)
        elif piece in "[{":
            self._open(piece, out)
        elif end == len(text) and len(piece) <= _MAX_HELD_CHARS:
            self._held = piece
        else:
            self._take_scalar(piece, out)
        return at if self.is_broken else end

    def _take_comma(self, text: str, at: int, out: list[str]) -> int:
        """Take a comma once it is known that it is not the last thing in its container."""
        end = at + 1
        rest = text[end : end + _MAX_HELD_CHARS + 1].lstrip(" \t\r\n")
        gap = min(len(text) - end, _MAX_HELD_CHARS + 1) - len(rest)
        if self._expected != "comma" or gap > _MAX_HELD_CHARS:
            self.is_broken = True
            return at
        if not rest:
            self._held = text[at:]
        elif rest[0] in "}]":
            self.repairs.add("syntax")
        elif self._closers[-1] == "}" and rest[0] != '"':
            self.is_broken = True
            return at
        else:
            out.append(",")
            self._expected = "key" if self._closers[-1] == "}" else "value"
            self._counts[-1] += 1
            self._next = self._element()
            return end
        return end + gap

    def _open(self, piece: str, out: list[str]) -> None:
        is_object = piece == "{"
        is_legal = self._expected in ("value", "value_or_end") and len(self._closers) < _MAX_DEPTH
        is_legal = is_legal and (is_object or bool(self._closers))
        then: _Expected = "key_or_end" if is_object else "value_or_end"
        self._expect(is_legal, piece, then=then, out=out)
        if is_legal:
            self._enter("}" if is_object else "]")
            self._next = self._element()

    def _enter(self, closer: str) -> None:
        self._closers.append(closer)
        self._schemas.append(self._next)
        self._counts.append(0)

    def _close(self, piece: str, out: list[str]) -> None:
        is_legal = self._expected in ("comma", "key_or_end", "value_or_end")
        is_legal = is_legal and bool(self._closers) and self._closers[-1] == piece
        self._expect(is_legal, piece, then="comma", out=out)
        if is_legal:
            for stack in (self._closers, self._schemas, self._counts):
                stack.pop()
        self.is_whole = is_legal and not self._closers

    def _begin_string(self, out: list[str]) -> None:
        is_key = self._expected in ("key", "key_or_end")
        is_legal = is_key or (self._expected in ("value", "value_or_end") and bool(self._closers))
        self._expect(is_legal, '"', then="colon" if is_key else "comma", out=out)
        self._is_in_string = is_legal

    def _take_scalar(self, piece: str, out: list[str]) -> None:
        written = _LITERALS.get(piece)
        if written is None and _NUMBER.fullmatch(piece) and len(piece) <= _MAX_HELD_CHARS:
            written = piece if math.isfinite(float(piece)) else None
        is_value = self._expected in ("value", "value_or_end") and bool(self._closers)
        if written != piece:
            self.repairs.add("syntax")
        self._expect(is_value and written is not None, written or "", then="comma", out=out)

    def _expect(self, is_legal: bool, piece: str, *, then: _Expected, out: list[str]) -> None:
        if is_legal:
            self._expected = then
            out.append(piece)
        else:
            self.is_broken = True

    # -- what the schema says

    def _take_member(self, text: str, at: int, out: list[str]) -> int:
        """
        Take a member of an object with a schema up to its value, as one piece.

        So a value that is not allowed can be kept back with its name, and left out in the end.

        Returns:
            The end, or -1 where members are not looked at as a whole.
        """
        is_first = text[at] == "{"
        schema = self._next if is_first else self._schemas[-1] if self._schemas else None
        if schema is None or self.is_keeping or not self._is_member_due(is_first=is_first):
            return -1
        if is_first and self._is_odd_element(text, at):
            return -1
        match = _MEMBER.match(text, at)
        if match is None and len(text) - at <= _MAX_HELD_CHARS and _CUT_MEMBER.match(text, at):
            self._held = text[at:]
            return len(text)
        if match is None or match.end() - at > _MAX_HELD_CHARS:
            return -1
        key = _key(match.group(1))
        if key is None:
            return -1
        member = schema.member(key)
        is_odd = self._is_wrapper(key, schema) or self._is_odd_value(text, match.end(), member)
        if self._held:  # a choice that is not complete decides
            self._held = text[at:]
            return len(text)
        if is_odd:
            self.is_keeping = True
            return at
        if is_first:
            self._enter("}")
        self._expected, self._next = "value", member
        out.append(match.group())
        return match.end()

    def _is_member_due(self, *, is_first: bool) -> bool:
        if is_first:
            return self._expected in ("value", "value_or_end") and len(self._closers) < _MAX_DEPTH
        return self._expected == "comma" and self._closers[-1] == "}"

    def _is_wrapper(self, key: str, schema: InputSchema) -> bool:
        """Tell whether the object begins with what models put around arguments."""
        is_known = not schema.declares_members or key in schema.members
        return not self._closers and not is_known and (key in WRAPPERS or key in NAMES)

    def _is_odd_element(self, text: str, at: int) -> bool:
        if self.is_keeping or not self._closers or self._closers[-1] != "]":
            return False
        return self._is_odd_value(text, at, self._next)

    def _is_odd_value(self, text: str, at: int, schema: InputSchema | None) -> bool:
        """Tell whether the value that begins at *at* is none that is allowed; hold what is cut."""
        kind = _TYPE_BY_START.get(text[at])
        if schema is None or kind is None:
            return False
        types = schema.types()
        if types is not None and kind not in types:
            return not (kind == "integer" and "number" in types)
        choices = schema.choices if kind == "string" else None
        if choices is None:
            return False
        match = _STRING.match(text, at)
        if match is None and len(text) - at <= _MAX_HELD_CHARS:
            self._held = text[at:]
        is_short = match is not None and match.end() - at <= _MAX_HELD_CHARS
        return match is not None and is_short and _key(match.group()) not in choices

    def _element(self) -> InputSchema | None:
        schema = self._schemas[-1]
        return None if schema is None else schema.element(self._counts[-1])

    # -- inside strings

    def _take_in_string(self, text: str, at: int, out: list[str]) -> int:
        end = at
        if run := _LEGAL_RUN.match(text, at):
            out.append(run.group())
            end = run.end()
        special = text[end : end + 1]
        if special == "\\":
            return self._take_escape(text, end, out)
        if special == '"':
            return self._take_quote(text, end, out)
        if special:  # a control character, which JSON wants escaped
            self.repairs.add("syntax")
            out.append(_SHORT_ESCAPES.get(special) or f"\\u{ord(special):04x}")
        return end + 1

    def _take_quote(self, text: str, at: int, out: list[str]) -> int:
        """End the string, if what follows is what follows a string."""
        if self._expected == "colon":
            behind = _AFTER_KEY
        else:
            behind = _AFTER_MEMBER if self._closers[-1] == "}" else _AFTER_ELEMENT
        if behind.match(text, at + 1):
            self._is_in_string = False
            out.append('"')
            return at + 1
        if len(text) - at <= _MAX_HELD_CHARS and _CUT_BEHIND.match(text, at + 1):
            self._held = text[at:]
            return len(text)
        self.is_broken = True
        return at

    def _take_escape(self, text: str, at: int, out: list[str]) -> int:
        match = _ESCAPE.match(text, at)
        if match is None:
            if _CUT_ESCAPE.fullmatch(text, at):
                self._held = text[at:]
                return len(text)
            self.repairs.add("syntax")
            out.append("\\\\")  # as in a regular expression: the backslash was meant
            return at + 1
        end = match.end()
        code = int(match.group(1) or "0", 16)
        if 0xD800 <= code < 0xDC00:
            if pair := _LOW_HALF.match(text, end):
                out.append(text[at : pair.end()])
                return pair.end()
            if _CUT_LOW_HALF.fullmatch(text, end):
                self._held = text[at:]
                return len(text)
        if 0xD800 <= code < 0xE000:  # half a surrogate pair, which strict parsers refuse
            self.repairs.add("syntax")
            out.append(_REPLACEMENT)
        else:
            out.append(match.group())
        return end


def _key(written: str) -> str | None:
    """Return the text of a string literal, or None if it is not quite legal."""
    try:
        return _decode(written)
    except (msgspec.DecodeError, UnicodeError):
        return None
