"""Read the arguments of a tool call: whole, doubly encoded, or cut off."""

import re
from typing import Any, Final

import msgspec

_decode: Final = msgspec.json.Decoder().decode
_encode: Final = msgspec.json.Encoder().encode
_TOKEN: Final = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"|["\[\]{},:]|[^\s\[\]{},:"]++', re.DOTALL)
# At the end: a lone backslash, a \u without its digits, or the first half of a surrogate pair.
_CUT_ESCAPE: Final = re.compile(
    r"(?<!\\)((?:\\\\)*)(?:(?:\\u[dD][89abAB][0-9a-fA-F]{2})?\\(?:u[0-9a-fA-F]{0,3})?"
    r"|\\u[dD][89abAB][0-9a-fA-F]{2})$"
)
_MAX_DEPTH: Final = 200


def parse_arguments(text: str) -> dict[str, Any] | None:
    """
    Return the arguments as an object, or None if *text* is not one.

    Nothing at all and ``null`` mean no arguments. A string that holds the object, which some
    servers send, is read once more.
    """
    if not text.strip():
        return {}
    try:
        value = _decode(text)
        if isinstance(value, str):
            value = _decode(value) if value.strip() else {}
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
    if value is None:
        return {}
    return value if isinstance(value, dict) else None


def parse_partial(text: str) -> dict[str, Any]:
    """
    Return as much of the object in *text* as arrived, for a call that was cut off.

    A string that was cut is kept as far as it came; a number, literal or key that was cut is left
    out, because what was there may not be what was meant.
    """
    whole = parse_arguments(text)
    if whole is not None:
        return whole
    for candidate in _completions(text):
        value = parse_arguments(candidate)
        if value is not None:
            return value
    return {}


def _completions(text: str) -> list[str]:
    """Return *text* made whole, longest kept part first."""
    closers: list[str] = []
    kept: list[tuple[int, str]] = [(0, "")]  # ends of whole values and what would close them
    is_value = False
    for match in _TOKEN.finditer(text):
        piece, end = match.group(), match.end()
        if piece == '"':  # a string that was cut
            return [*_cut_string(text, closers, is_key=not is_value), *_closed(text, kept)]
        if piece in "{[":
            closers.append("}" if piece == "{" else "]")
            if len(closers) > _MAX_DEPTH:
                return []
            kept.append((end, "".join(reversed(closers))))
        elif piece in "}]":
            if not closers or closers.pop() != piece:
                break
            kept.append((end, "".join(reversed(closers))))
        elif piece not in ",:" and is_value and (piece[0] == '"' or end < len(text)):
            kept.append((end, "".join(reversed(closers))))
        is_value = piece == ":" or (bool(closers) and closers[-1] == "]")
    return _closed(text, kept)


def _closed(text: str, kept: list[tuple[int, str]]) -> list[str]:
    return [text[:position] + tail for position, tail in reversed(kept[-2:])]


def _cut_string(text: str, closers: list[str], *, is_key: bool) -> list[str]:
    if is_key:
        return []
    body = _CUT_ESCAPE.sub(r"\1", text)
    return [body + '"' + "".join(reversed(closers))]
