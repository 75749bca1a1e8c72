"""
Read JSON as models get it wrong: quotes, commas, braces, literals, comments, fences.

Only what has one sensible meaning is read. A general repair library guesses where this gives up: a
tool that is run with a guess does harm, a call that is refused is made again (see
docs/adr/0007-argument-repair.md). Nothing here is on the path of arguments that are in order.
"""

import re
from typing import Any, Final, Literal, NamedTuple

import msgspec

_decode: Final = msgspec.json.Decoder().decode

Context = Literal["key", "member", "element"]

_SPACE: Final = re.compile(r"(?:\s|//[^\n]*|/\*.*?\*/)*", re.DOTALL)
_GAP: Final = re.compile(r"(?:\s|,|//[^\n]*|/\*.*?\*/)*", re.DOTALL)
_FENCE: Final = re.compile(r"\s*```[a-zA-Z]{0,16}\s*")
_BARE_KEY: Final = re.compile(r"[A-Za-z_$][\w$-]{0,127}")
_BARE_VALUE: Final = re.compile(r"[^\s\"'`{}\[\],:<>][^\"'`{}\[\],<>\n]*+(?=[,}\]\n])")
_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_LOOSE_NUMBER: Final = re.compile(r"([+-]?)([0-9]*)\.?([0-9]*)([eE][+-]?[0-9]+)?")
_SCALAR: Final = re.compile(r"[-+.\w]+")
_LITERALS: Final[dict[str, bool | None]] = {
    "true": True,
    "false": False,
    "null": None,
    "none": None,
}
_ESCAPE: Final = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))|([\ud800-\udfff])", re.DOTALL)
_SHORT: Final = {
    '"': '"',
    "\\": "\\",
    "/": "/",
    "b": "\b",
    "f": "\f",
    "n": "\n",
    "r": "\r",
    "t": "\t",
}
_STRINGS: Final = {
    '"': re.compile(r'[^\\"]*+(?:\\.[^\\"]*+)*+"', re.DOTALL),
    "'": re.compile(r"[^\\']*+(?:\\.[^\\']*+)*+'", re.DOTALL),
}
_NO_NUMBERS: Final = frozenset({"NaN", "Infinity", "-Infinity"})
_CLOSERS_AT_END: Final = re.compile(r"[\s}\]]*\Z")
_MAX_DEPTH: Final = 100
_MAX_NUMBER_CHARS: Final = 400  # no tool needs a longer one

# What may stand behind the quote that ends a string. Any other quote is one that should have been
# escaped. Behind closing brackets only the end, a comma, or another object can follow.
_CLOSERS: Final = r"[}\]][\s}\]]*+(?:\Z|,|```|\{)"
_NEXT_KEY: Final = r"""(?:"(?:[^"\\\n]|\\.){0,64}"|'(?:[^'\\\n]|\\.){0,64}')\s*:"""
_CUT_KEY: Final = r"[\"'][^\"'\n]{0,64}[\"']?\s*\Z"
_ENDS: Final[dict[Context, re.Pattern[str]]] = {
    "key": re.compile(r"\s*:"),
    "member": re.compile(
        rf"\s*(?:\Z|,[\s,]*(?:\Z|[}}\]]|{_NEXT_KEY}|{_CUT_KEY}|[\w$-]{{1,64}}\s*:|//|/\*)"
        rf"|{_CLOSERS}|{_NEXT_KEY}|//|/\*)"
    ),
    "element": re.compile(
        rf"\s*(?:\Z|,[\s,]*(?:\Z|[}}\]\"'\[{{]|-?[0-9]|true|false|null|True|False|None|//|/\*)"
        rf"|{_CLOSERS}|//|/\*)"
    ),
}


class Reading(NamedTuple):
    """
    What a text says.

    Attributes:
        value: The value.
        is_open: Closing brackets were missing at the end.
    """

    value: Any  # any JSON value
    is_open: bool


def read_lenient(text: str) -> Reading | None:
    """Return the first value in *text*, or None if it has no meaning that is beyond doubt."""
    start = fence.end() if (fence := _FENCE.match(text)) else 0
    reader = _Reader(text, start)
    try:
        value = reader.read()
    except _Unreadable:
        return None
    return Reading(value, reader.is_open)


def read_strict(text: str) -> Reading | None:
    """Return the value that *text* is as it stands, or None."""
    try:
        return Reading(_decode(text), is_open=False)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None


class _Unreadable(Exception):
    """The text has no meaning, or more than one."""


class _Reader:
    """Reads one value; *is_open* tells whether the text ended inside it."""

    def __init__(self, text: str, at: int) -> None:
        self._text = text
        self._at = at
        self._depth = 0
        self.is_open = False

    def read(self) -> Any:  # noqa: ANN401 - any JSON value
        self._skip(_SPACE)
        return self._value("element")

    def _skip(self, pattern: re.Pattern[str]) -> str:
        """Skip what *pattern* matches, return the next character; empty at the end."""
        match = pattern.match(self._text, self._at)
        self._at = match.end() if match else self._at
        return self._text[self._at : self._at + 1]

    def _value(self, context: Context) -> Any:  # noqa: ANN401 - any JSON value
        first = self._text[self._at : self._at + 1]
        if first and first in "{[":
            if self._depth >= _MAX_DEPTH:
                raise _Unreadable
            self._depth += 1
            self._at += 1
            value = self._object() if first == "{" else self._array()
            self._depth -= 1
            return value
        if first and first in "\"'":
            return self._string(context)
        return self._scalar()

    def _object(self) -> dict[str, Any]:
        value: dict[str, Any] = {}
        while (first := self._skip(_GAP)) not in ("", "}", "]"):
            key = self._string("key") if first in "\"'" else self._bare_key()
            if self._skip(_SPACE) != ":":
                raise _Unreadable
            self._at += 1
            self._skip(_SPACE)
            value[key] = self._value("member")
        self._end_container(first, "}")
        return value

    def _array(self) -> list[Any]:
        value: list[Any] = []
        while (first := self._skip(_GAP)) not in ("", "}", "]"):
            value.append(self._value("element"))
        self._end_container(first, "]")
        return value

    def _end_container(self, found: str, wanted: str) -> None:
        """Take the bracket, if it is the right one: another belongs to what stands around."""
        self._at += found == wanted
        self.is_open = self.is_open or not found

    def _bare_key(self) -> str:
        match = _BARE_KEY.match(self._text, self._at)
        if match is None:
            raise _Unreadable
        self._at = match.end()
        return match.group()

    def _string(self, context: Context) -> str:
        quote = self._text[self._at]
        start = at = self._at + 1
        ends = _ENDS[context]
        while match := _STRINGS[quote].match(self._text, at):
            at = match.end()
            if ends.match(self._text, at):
                self._at = at
                return _unescape(self._text[start : at - 1], quote)
        if at > start:  # there were quotes, and each of them might be the one
            raise _Unreadable
        return self._unended_string(start, quote)

    def _unended_string(self, start: int, quote: str) -> str:
        """
        Return a string whose quote is missing at the end.

        Closing brackets show that the model was done; without them the text was cut, and nobody
        knows what is missing.
        """
        tail = _CLOSERS_AT_END.search(self._text, start)
        closers = tail.group().count("}") + tail.group().count("]") if tail else 0
        if tail is None or not 1 <= closers <= self._depth:
            raise _Unreadable
        self._at = tail.start()
        return _unescape(self._text[start : tail.start()], quote)

    def _scalar(self) -> Any:  # noqa: ANN401 - any JSON scalar
        match = _SCALAR.match(self._text, self._at)
        if match is None:
            return self._bare_string()
        word = match.group()
        if word in _NO_NUMBERS:
            raise _Unreadable
        if _ends_scalar(self._text, match.end()):
            if word.casefold() in _LITERALS:
                self._at = match.end()
                return _LITERALS[word.casefold()]
            if (number := read_number(word)) is not None:
                self._at = match.end()
                return number
        return self._bare_string()

    def _bare_string(self) -> str:
        match = _BARE_VALUE.match(self._text, self._at)
        if match is None:
            raise _Unreadable
        self._at = match.end()
        return match.group().strip()


def _ends_scalar(text: str, at: int) -> bool:
    """Tell whether a number or literal may end at *at*."""
    rest = _SPACE.match(text, at)
    end = rest.end() if rest else at
    return end == len(text) or text[end] in ",}]\"'"


def read_number(word: str) -> int | float | None:
    """Return the number that *word* is, also where JSON would want another spelling of it."""
    if len(word) > _MAX_NUMBER_CHARS:
        return None
    if not _NUMBER.fullmatch(word):
        match = _LOOSE_NUMBER.fullmatch(word)
        if match is None or not (match[2] or match[3]) or re.match(r"0[0-9]", match[2]):
            return None  # with leading zeros it is a code of some kind
        sign, whole, fraction, exponent = match.groups()
        word = f"{sign.lstrip('+')}{whole or '0'}"
        word += f".{fraction}" if fraction else ""
        word += exponent or ""
    try:
        value = _decode(word)
    except (msgspec.DecodeError, ValueError):
        return None
    return value if isinstance(value, int | float) else None


def _unescape(raw: str, quote: str) -> str:
    """Return the text of a string's inside; a backslash that escapes nothing was meant."""

    def one(match: re.Match[str]) -> str:
        code, short, half = match.groups()
        if short is None:
            return chr(int(code, 16)) if code is not None else half
        known = _SHORT.get(short)
        return known if known is not None else (short if short == quote else f"\\{short}")

    joined = _ESCAPE.sub(one, raw)
    return joined.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
