"""
Put a call's arguments right as far as that can be done after some of them have been sent.

What the client has seen cannot be taken back. So a repair is a continuation: the whole is read and
brought into the types of the tool's schema, and what is missing behind the part that was shown is
written from that. Where the two do not agree there is no repair.
"""

import re
from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

from dragoman.core.argument_coercion import Repairs, coerce_input, read_markup
from dragoman.core.input_schemas import InputSchema
from dragoman.core.lenient_json import Reading, read_lenient, read_strict
from dragoman.core.tool_arguments import parse_arguments

_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder().decode
_TOKEN: Final = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[{}\[\]:,]|[^\s{}\[\]:,"]+', re.DOTALL)


class Repaired(Struct, frozen=True):
    """Arguments put right: their value, and the JSON text behind what was shown of them."""

    value: dict[str, Any]
    text: str
    repairs: frozenset[str]


def repair_arguments(
    text: str, schema: InputSchema | None, *, shown: str = "", is_ended: bool = True
) -> Repaired | None:
    """
    Return the arguments that *shown* and *text* together are meant to be, or None.

    Args:
        text: Behind what was shown, as the upstream sent it.
        schema: Of the tool's input.
        shown: What the client has: the start of legal JSON.
        is_ended: The model ended the call: what is missing at the end was forgotten, not cut off.
    """
    repairs: Repairs = set()
    value = _read(shown + text, schema, repairs, is_ended=is_ended)
    if value is None:
        return None
    if schema is not None:
        value = coerce_input(value, schema, repairs)
    try:
        rest = _encode(value).decode() if not shown else continue_object(shown, value)
        is_right = rest is not None and parse_arguments(shown + rest) == value
    except RecursionError:  # legal, but deeper than can be written
        return None
    return Repaired(value, rest, frozenset(repairs)) if rest is not None and is_right else None


def _read(
    text: str, schema: InputSchema | None, repairs: Repairs, *, is_ended: bool
) -> dict[str, Any] | None:
    value = parse_arguments(text)
    if value is not None:
        if text.lstrip().startswith('"'):
            repairs.add("encoding")
        return value
    if text.lstrip().startswith("<"):
        repairs.add("markup")
        read = read_markup(text.strip())
        return read if isinstance(read, dict) else None
    reading = _read_value(text, repairs)
    if reading is None or not isinstance(reading.value, dict):
        return None
    is_enough = schema is None or schema.required <= reading.value.keys()
    return reading.value if not reading.is_open or (is_ended and is_enough) else None


def _read_value(text: str, repairs: Repairs) -> Reading | None:
    """Return the value in *text*, taken out of a string or a list that was put around it."""
    reading = read_strict(text)
    if reading is None:
        reading = read_lenient(text)
        repairs.add("syntax")
    if reading is not None and isinstance(reading.value, str):
        if not reading.value.lstrip().startswith("{"):
            return None
        repairs.add("encoding")
        reading = read_lenient(reading.value)
    if reading is not None and isinstance(reading.value, list) and len(reading.value) == 1:
        repairs.add("wrapper")
        reading = Reading(reading.value[0], reading.is_open)
    return reading


class _Container:
    """An object or array that was begun and not ended."""

    __slots__ = ("at", "is_object", "shown")

    def __init__(self, *, is_object: bool) -> None:
        self.is_object = is_object
        self.shown: list[str] = []  # keys so far, the last one perhaps without its value
        self.at = -1  # number of the element, in an array

    def current(self) -> str | int:
        """Return where in it the last thing stands."""
        return self.shown[-1] if self.is_object and self.shown else self.at


_State = Literal["begun", "key", "colon", "value", "comma", "string"]


class _Shown:
    """What the start of an object says: the open containers, and what has to come next."""

    def __init__(self, text: str) -> None:
        self.containers: list[_Container] = []
        self.state: _State = "value"
        self.partial = ""  # of the string that is open
        for match in _TOKEN.finditer(text):
            self._take(match.group())

    def _take(self, token: str) -> None:
        container = self.containers[-1] if self.containers else None
        if token == ",":
            self.state = "key" if container is not None and container.is_object else "value"
            return
        if token == ":":
            self.state = "value"
            return
        if token in ("}", "]"):
            self.containers.pop()
            self.state = "comma"
            return
        if container is not None and not container.is_object:
            container.at += 1
        is_key = container is not None and container.is_object and self.state in ("begun", "key")
        if token in ("{", "["):
            self.containers.append(_Container(is_object=token == "{"))
            self.state = "begun"
        elif token[0] != '"':
            self.state = "comma"
        elif len(token) > 1 and token[-1] == '"' and _is_whole_string(token):
            if is_key and container is not None:
                container.shown.append(_decode(token))
            self.state = "colon" if is_key else "comma"
        else:
            self.state, self.partial = "string", _decode(token + '"')
            if is_key and container is not None:
                container.shown.append("")  # a key that was cut: it stands for none
                self.containers.clear()


def _is_whole_string(token: str) -> bool:
    body = token[1:-1]
    return (len(body) - len(body.rstrip("\\"))) % 2 == 0


def continue_object(shown: str, value: Mapping[str, Any]) -> str | None:
    """
    Return what makes *shown*, which begins an object, the JSON text of *value*.

    Returns:
        None if *value* does not begin like this.
    """
    start = _Shown(shown)
    nodes: list[Any] = [value]
    for container in start.containers[:-1]:
        nodes.append(_child(nodes[-1], container.current()))
    if not start.containers:
        return None
    out: list[str] = []
    needs_comma = start.state not in ("begun", "key")
    for container, node in zip(reversed(start.containers), reversed(nodes), strict=True):
        if not isinstance(node, dict if container.is_object else list):
            return None
        if container is start.containers[-1]:
            piece = _finish_value(start, container, node)
            if piece is None:
                return None
            needs_comma = needs_comma or bool(piece)
            out.append(piece)
        out.append(_remaining(container, node, needs_comma=needs_comma))
        out.append("}" if container.is_object else "]")
        needs_comma = True
    return "".join(out)


def _child(node: object, at: str | int) -> object:
    if isinstance(node, dict):
        return node.get(at)
    if isinstance(node, list) and isinstance(at, int) and at < len(node):
        return node[at]
    return None


def _finish_value(start: _Shown, container: _Container, node: Any) -> str | None:  # noqa: ANN401
    """Return the rest of the value that was begun, or was to come next."""
    if start.state in ("begun", "key", "comma"):
        return ""
    if start.state == "value" and not container.is_object:
        container.at += 1
    child = _child(node, container.current())
    if child is None and not _has(node, container.current()):
        return None
    if start.state == "string":
        if not isinstance(child, str) or not child.startswith(start.partial):
            return None
        return _encode(child[len(start.partial) :]).decode()[1:]
    return (":" if start.state == "colon" else "") + _encode(child).decode()


def _has(node: object, at: str | int) -> bool:
    if isinstance(node, dict):
        return at in node
    return isinstance(node, list) and isinstance(at, int) and 0 <= at < len(node)


def _remaining(container: _Container, node: Any, *, needs_comma: bool) -> str:  # noqa: ANN401
    if container.is_object:
        shown = set(container.shown)
        parts = [
            f"{_encode(key).decode()}:{_encode(member).decode()}"
            for key, member in node.items()
            if key not in shown
        ]
    else:
        parts = [_encode(element).decode() for element in node[container.at + 1 :]]
    lead = "," if parts and needs_comma else ""
    return lead + ",".join(parts)
