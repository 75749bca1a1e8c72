"""
Bring arguments into the types that the tool's schema asks for, where their meaning stays.

A value that does not become what is asked for stays as it is: the client says what is wrong with
it, and the model tries again.
"""

import html
import re
from collections.abc import Callable
from typing import Any, Final, Literal, TypeAlias

import msgspec

from dragoman.core.input_schemas import MAX_DEPTH, Budget, InputSchema, type_of
from dragoman.core.lenient_json import read_lenient, read_number, read_strict

RepairKind = Literal["syntax", "type", "choice", "null", "wrapper", "markup", "encoding"]
Repairs = set[RepairKind]
_Json: TypeAlias = Any  # a JSON value, whose type is what is in doubt here

_encode: Final = msgspec.json.Encoder().encode
_MAX_MARKUP_DEPTH: Final = 10
# Members that models put around the arguments; none of them where the tool declares it.
WRAPPERS: Final = frozenset(
    {"arguments", "args", "input", "parameters", "params", "tool_input", "kwargs"}
)
NAMES: Final = frozenset({"name", "tool", "tool_name", "function", "type", "id"})
_WRITTEN_LITERALS: Final = {"true": True, "false": False, "null": None, "none": None}
_ELEMENT: Final = re.compile(
    r"\s*<(?P<tag>[A-Za-z_][\w.-]*)(?:=(?P<value>[^<>\n]+)|\s[^<>]*?\bname=\"(?P<name>[^\"<>]+)\"[^<>]*)?>"
    r"(?P<body>.*?)</(?P=tag)>\s*",
    re.DOTALL,
)
_PAIR: Final = re.compile(
    r"\s*<arg_key>(?P<key>[^<>]*)</arg_key>(?:\s|\\n)*<arg_value>(?P<body>.*?)</arg_value>\s*",
    re.DOTALL,
)


def coerce_input(value: dict[str, Any], schema: InputSchema, repairs: Repairs) -> dict[str, Any]:
    """Return a tool's input as *schema* wants it; note in *repairs* what had to be done."""
    unwrapped = _unwrap(value, schema)
    if unwrapped is not None:
        repairs.add("wrapper")
        value = unwrapped
    coerced = _coerce(value, schema, _Work(repairs))
    return coerced if isinstance(coerced, dict) else value


def read_text(text: str, schema: InputSchema | None) -> _Json:
    """
    Return the value that a parameter written as plain text stands for.

    Where the schema wants text, the text is the value, whatever it looks like; where it says
    nothing, only what is JSON for certain is read as such.
    """
    types = schema.types() if schema is not None else None
    stripped = text.strip()
    if types is None:
        reading = read_strict(stripped)
        return text if reading is None or isinstance(reading.value, str) else reading.value
    if stripped in ("null", "None") and "null" in types:
        return None
    if "string" in types:
        if stripped[:1] in ("[", "{") and not types.isdisjoint(("array", "object")):
            reading = read_strict(stripped)
            if reading is not None:
                return reading.value
        return text
    return _coerce(stripped, schema, _Work(set()))


def read_markup(text: str, depth: int = 0) -> dict[str, Any] | list[Any] | None:
    """Return what XML-like text says: members by tag or name, or a list of equal tags."""
    if pairs := _all_matches(_PAIR, text):
        return {pair["key"].strip(): pair["body"] for pair in pairs}
    elements = _all_matches(_ELEMENT, text)
    if not elements:
        return None
    keys = [e["name"] or (e["value"] or "").strip() or e["tag"] for e in elements]
    bodies = [_read_body(e["body"], depth) for e in elements]
    if len(set(keys)) == len(keys) and not (len(keys) == 1 and keys[0] in ("item", "element")):
        return dict(zip(keys, bodies, strict=True))
    return bodies if len(set(keys)) == 1 else None


_UNCHANGED: Final = object()


class _Work:
    """What was put right so far, and how much may still be tried."""

    __slots__ = ("budget", "depth", "repairs")

    def __init__(self, repairs: Repairs, budget: Budget | None = None, depth: int = 0) -> None:
        self.repairs = repairs
        self.budget = budget or Budget()
        self.depth = depth

    def deeper(self, repairs: Repairs | None = None) -> "_Work":
        """Return the work on a part; its repairs are ours unless others are given."""
        return _Work(self.repairs if repairs is None else repairs, self.budget, self.depth + 1)


def _coerce(value: _Json, schema: InputSchema | None, work: _Work) -> _Json:
    """Return *value* as *schema* wants it, or as it is."""
    if schema is None or work.depth > MAX_DEPTH or not work.budget.spend():
        return value
    if branches := schema.branches:
        return _coerce_union(value, branches, work)
    choices = schema.choices
    if choices is not None:
        return _coerce_choice(value, choices, work.repairs)
    if not schema.allows(type_of(value)):
        converted = _convert(value, schema, work)
        return value if converted is _UNCHANGED else converted
    if isinstance(value, dict):
        return _coerce_members(value, schema, work)
    if isinstance(value, list):
        part = work.deeper()
        return [_coerce(e, schema.element(n), part) for n, e in enumerate(value)]
    return value


def _unwrap(value: dict[str, Any], schema: InputSchema) -> dict[str, Any] | None:
    """Return the arguments inside a wrapper that the tool does not know."""
    if not schema.declares_members or any(name in schema.members for name in value):
        return None
    wrappers = [name for name in value if name in WRAPPERS]
    if len(wrappers) != 1 or not value.keys() <= {*wrappers, *NAMES}:
        return None
    inner = value[wrappers[0]]
    if isinstance(inner, str):
        reading = read_lenient(inner) if inner.strip() else None
        inner = reading.value if reading is not None and not reading.is_open else inner
    return inner if isinstance(inner, dict) else None


def _coerce_union(value: _Json, branches: list[InputSchema], work: _Work) -> _Json:
    for branch in branches:
        if branch.fits(value, work.budget):
            return _coerce(value, branch, work.deeper())
    for branch in branches:
        tried = work.deeper(repairs=set())
        coerced = _coerce(value, branch, tried)
        if branch.fits(coerced, work.budget):
            work.repairs |= tried.repairs
            return coerced
    return value


def _coerce_choice(value: _Json, choices: list[Any], repairs: Repairs) -> _Json:
    """Return the choice that is meant: the same but for case, space, or quotes around a number."""
    if any(value == choice and type_of(value) == type_of(choice) for choice in choices):
        return value
    wanted = _plain(value)
    found = [choice for choice in choices if wanted is not None and _plain(choice) == wanted]
    if len(found) != 1:
        return value
    repairs.add("choice")
    return found[0]


def _plain(value: _Json) -> str | None:
    if isinstance(value, dict | list):
        return None
    text = value if isinstance(value, str) else _encode(value).decode()
    return re.sub(r"[\s_-]+", " ", text.strip().casefold())


def _coerce_members(value: dict[str, Any], schema: InputSchema, work: _Work) -> dict[str, Any]:
    coerced: dict[str, Any] = {}
    inside = work.deeper()
    for name, member in value.items():
        part = schema.member(name)
        is_optional = part is not None and name not in schema.required
        if member is None and is_optional and not _allows_null(part, work):
            work.repairs.add("null")  # which says that there is none
        else:
            coerced[name] = _coerce(member, part, inside)
    return coerced


def _allows_null(part: InputSchema | None, work: _Work) -> bool:
    return part is None or part.fits(None, work.budget)


# -- from one type to another


def _convert(value: _Json, schema: InputSchema, work: _Work) -> _Json:
    convert = _CONVERSIONS.get(type_of(value))
    converted = convert(value, schema, work) if convert is not None else _UNCHANGED
    if converted is not _UNCHANGED:
        work.repairs.add("markup" if _is_markup(value) else "type")
        return converted
    if schema.allows("array") and value is not None:
        alone = _one_of(value, schema.element(0), work)
        if alone is not None:
            work.repairs.add("type")
            return alone
    return _UNCHANGED


def _one_of(value: _Json, element: InputSchema | None, work: _Work) -> list[Any] | None:
    """Return a list of *value* alone, if it can be an element."""
    tried = work.deeper(repairs=set())
    alone = _coerce(value, element, tried)
    if element is not None and not element.fits(alone, work.budget):
        return None
    work.repairs |= tried.repairs
    return [alone]


def _from_text(value: str, schema: InputSchema, work: _Work) -> _Json:
    stripped = value.strip()
    if (schema.allows("integer") or schema.allows("number")) and (
        number := read_number(stripped)
    ) is not None:
        if not schema.allows(type_of(number)):
            return _UNCHANGED
        return number if schema.allows("number") else int(number)
    literal = _WRITTEN_LITERALS.get(stripped.casefold(), _UNCHANGED)
    if literal is not _UNCHANGED:
        return literal if schema.allows(type_of(literal)) else _UNCHANGED
    if not (schema.allows("array") or schema.allows("object")):
        return _UNCHANGED
    read: _Json = read_markup(stripped) if stripped.startswith("<") else None
    if stripped.startswith(("{", "[")):
        reading = read_lenient(stripped)
        read = None if reading is None or reading.is_open else reading.value
    if isinstance(read, dict) and not schema.allows("object"):
        read = _find_list(read, schema.element(0), work)
    if not isinstance(read, dict | list) or not schema.allows(type_of(read)):
        return _UNCHANGED
    return _coerce(read, schema, work.deeper(repairs=set()))


def _find_list(read: _Json, element: InputSchema | None, work: _Work) -> list[Any] | None:
    """Return the list that is wrapped in an object or two, as ``<items><item>...``, or is one."""
    for _ in range(3):
        if isinstance(read, list):
            return read
        alone = _one_of(read, element, work) if element is not None else None
        if alone is not None:
            return alone
        if not isinstance(read, dict) or len(read) != 1:
            return None
        read = next(iter(read.values()))
    return None


def _from_number(value: float, schema: InputSchema, _work: _Work) -> _Json:
    if schema.allows("string"):
        return _encode(value).decode()
    if schema.allows("boolean") and value in (0, 1):
        return bool(value)
    return _UNCHANGED


def _from_boolean(value: bool, schema: InputSchema, _work: _Work) -> _Json:
    return _encode(value).decode() if schema.allows("string") else _UNCHANGED


def _from_object(value: dict[str, Any], schema: InputSchema, work: _Work) -> _Json:
    if schema.allows("array") and len(value) == 1:
        only = next(iter(value.values()))
        if isinstance(only, list):
            return _coerce(only, schema, work.deeper(repairs=set()))
    if schema.allows("string"):  # a file's content, mostly: written as people write it
        return msgspec.json.format(_encode(value), indent=2).decode()
    return _UNCHANGED


def _from_array(value: list[Any], schema: InputSchema, work: _Work) -> _Json:
    if len(value) == 1 and schema.allows(type_of(value[0])):
        return _coerce(value[0], schema, work.deeper(repairs=set()))
    return _UNCHANGED


_CONVERSIONS: Final[dict[str, Callable[[Any, InputSchema, _Work], _Json]]] = {
    "string": _from_text,
    "integer": _from_number,
    "number": _from_number,
    "boolean": _from_boolean,
    "object": _from_object,
    "array": _from_array,
}


# -- text that is JSON, or looks like XML


def _is_markup(value: _Json) -> bool:
    return isinstance(value, str) and value.lstrip().startswith("<")


def _all_matches(pattern: re.Pattern[str], text: str) -> list[re.Match[str]]:
    """Return the matches of *pattern* that together are all of *text*; else none."""
    found: list[re.Match[str]] = []
    at = 0
    while at < len(text):
        match = pattern.match(text, at)
        if match is None:
            return []
        found.append(match)
        at = match.end()
    return found


def _read_body(body: str, depth: int) -> _Json:
    if depth < _MAX_MARKUP_DEPTH and body.lstrip().startswith("<"):
        inner = read_markup(body, depth + 1)
        if inner is not None:
            return inner
    if body.startswith("\n") and body.endswith("\n") and len(body) > 1:
        body = body[1:-1]
    return html.unescape(body)
