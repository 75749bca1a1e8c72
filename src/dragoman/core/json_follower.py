"""
Follow a JSON object while it streams, so that what is shown is always the start of legal JSON.

Strict clients parse a tool's input after every delta and give up at the first illegal character;
models write raw line breaks into strings, bad escapes, Python literals, trailing commas, and
sometimes the whole object twice. What has one possible meaning is repaired; at anything else the
follower stops, and the call counts as cut off there.
"""

import math
import re
from typing import Final, Literal

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

_Expected = Literal["key", "key_or_end", "colon", "value", "value_or_end", "comma"]


class JsonFollower:
    """Feed it the text of one object in pieces, get what of it may be shown."""

    def __init__(self) -> None:
        self._closers: list[str] = []
        self._expected: _Expected = "value"
        self._is_in_string = False
        self._held = ""  # a number, literal or escape whose end has not come, or a comma
        self.is_whole = False  # the object is complete; whatever follows is dropped
        self.is_broken = False  # what came next has no meaning; it and all that follows is dropped

    def feed(self, text: str) -> str:
        """Return the legal continuation that *text* brings; often *text* itself."""
        if self._is_in_string and not self._held and _SPECIAL.search(text) is None:
            return text  # the common piece: more of a string
        out: list[str] = []
        text, self._held = self._held + text, ""
        at = 0
        while at < len(text) and not (self.is_whole or self.is_broken):
            take = self._take_in_string if self._is_in_string else self._take_token
            at = take(text, at, out)
        return "".join(out)

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
        elif piece == ",":
            return self._take_comma(text, end, out)
        elif piece in "]}":
            self._close(piece, out)
        elif piece == ":":
            self._expect(self._expected == "colon", piece, then="value", out=out)
        elif piece == '"':
            self._begin_string(out)
        elif piece in "[{":
            self._open(piece, out)
        elif end == len(text) and len(piece) <= _MAX_HELD_CHARS:
            self._held = piece
        else:
            self._take_scalar(piece, out)
        return end

    def _take_comma(self, text: str, end: int, out: list[str]) -> int:
        """Take a comma once it is known that it is not the last thing in its container."""
        rest = text[end:].lstrip(" \t\r\n")
        if self._expected != "comma" or len(text) - len(rest) - end > _MAX_HELD_CHARS:
            self.is_broken = True
        elif not rest:
            self._held = text[end - 1 :]
        elif rest[0] not in "}]":
            out.append(",")
            self._expected = "key" if self._closers[-1] == "}" else "value"
            return end
        return len(text) - len(rest)

    def _open(self, piece: str, out: list[str]) -> None:
        is_object = piece == "{"
        is_legal = self._expected in ("value", "value_or_end") and len(self._closers) < _MAX_DEPTH
        is_legal = is_legal and (is_object or bool(self._closers))
        self._closers.append("}" if is_object else "]")
        then: _Expected = "key_or_end" if is_object else "value_or_end"
        self._expect(is_legal, piece, then=then, out=out)

    def _close(self, piece: str, out: list[str]) -> None:
        is_legal = self._expected in ("comma", "key_or_end", "value_or_end")
        is_legal = is_legal and bool(self._closers) and self._closers.pop() == piece
        self._expect(is_legal, piece, then="comma", out=out)
        self.is_whole = not self._closers and not self.is_broken

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
        self._expect(is_value and written is not None, written or "", then="comma", out=out)

    def _expect(self, is_legal: bool, piece: str, *, then: _Expected, out: list[str]) -> None:
        if is_legal:
            self._expected = then
            out.append(piece)
        else:
            self.is_broken = True

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
            self._is_in_string = False
            out.append('"')
        elif special:  # a control character, which JSON wants escaped
            out.append(_SHORT_ESCAPES.get(special) or f"\\u{ord(special):04x}")
        return end + 1

    def _take_escape(self, text: str, at: int, out: list[str]) -> int:
        match = _ESCAPE.match(text, at)
        if match is None:
            if _CUT_ESCAPE.fullmatch(text, at):
                self._held = text[at:]
                return len(text)
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
        # Half a surrogate pair is no character, and strict parsers refuse it.
        out.append(_REPLACEMENT if 0xD800 <= code < 0xE000 else match.group())
        return end
