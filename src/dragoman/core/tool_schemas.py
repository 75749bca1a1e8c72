"""
JSON schemas of clients -> schemas that an upstream takes.

What means the same is rewritten for every upstream: definitions have one place, a truth value that
stands for a schema becomes one, a reference that leads nowhere goes. What an upstream refuses is in
its profile: it is left out, and said in words where it is short, so that the model still knows.

Sources: runs of xllamacpp 2026.10.11549 on 2026-11-25 (400 for truth values, unknown types, and
references other than to definitions); MoonshotAI/walle, docs/mfjs-spec.md and docs/walle.md, commit
2762b9a, and reports of refusals of 2026-04 to 2026-08 (types, and where they may stand).
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from msgspec import Struct

from dragoman.core.adjustments import Action
from dragoman.core.dialects.profile import DialectProfile
from dragoman.core.input_schemas import look_up, type_of

_encode: Final = msgspec.json.Encoder().encode

# Where schemas stand in a schema: alone, in a list, by name.
_ALONE: Final = frozenset(
    {
        "items",
        "additionalItems",
        "additionalProperties",
        "contains",
        "propertyNames",
        "unevaluatedItems",
        "unevaluatedProperties",
        "not",
        "if",
        "then",
        "else",
    }
)
_LISTED: Final = frozenset({"anyOf", "oneOf", "allOf", "prefixItems", "items"})
_NAMED: Final = frozenset(
    {"properties", "patternProperties", "dependentSchemas", "$defs", "definitions"}
)
_DEFINITIONS: Final = ("$defs", "definitions")
_OPEN: Final = frozenset({"additionalProperties", "unevaluatedProperties", "unevaluatedItems"})
_TYPES: Final = frozenset({"string", "number", "integer", "boolean", "object", "array", "null"})
# About the schema, not about what it allows: nobody misses them.
_SILENT: Final = frozenset(
    {"$schema", "$id", "$comment", "$anchor", "title", "readOnly", "writeOnly", "deprecated"}
)
# Without them a schema says nothing.
KEPT_KEYWORDS: Final = frozenset({"type", "properties", "items", "required", "description", "enum"})
_OF_OBJECTS: Final = ("properties", "required", "additionalProperties", "patternProperties")
_OF_ARRAYS: Final = ("items", "prefixItems", "minItems", "maxItems", "uniqueItems", "contains")
_OF_STRINGS: Final = ("pattern", "format", "minLength", "maxLength")
_OF_NUMBERS: Final = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
_MAX_WORDS: Final = 160  # characters of a keyword that is said in words
_MAX_DEPTH: Final = 40  # far over what models understand; each level takes frames of the stack
_MAX_NODES: Final = 5_000  # of one tool, when references are written out


Note = tuple[Action, str]  # what was done, and the reason


class FittedSchema(Struct, frozen=True, kw_only=True):
    """
    A schema as the upstream takes it.

    Attributes:
        notes: What it no longer says as it did, and why; empty: it means the same.
    """

    schema: dict[str, Any]
    notes: tuple[Note, ...] = ()


def fit_schema(schema: dict[str, Any], profile: DialectProfile) -> FittedSchema:
    """Return *schema* as the upstream of *profile* takes it; what it means stays, if it can."""
    fitter = _Fitter(schema, profile)
    fitted = fitter.fit(schema, depth=0, trail=())
    return FittedSchema(schema=fitted, notes=tuple(fitter.notes))


def fit_input_schema(schema: dict[str, Any], profile: DialectProfile) -> FittedSchema:
    """Return a tool's schema as the upstream takes it: always one of an object."""
    fitted = fit_schema(schema, profile)
    root = fitted.schema
    if any(key in root for key in ("$ref", "anyOf", "oneOf", "allOf")):
        return fitted
    if root.get("type") == "object" and "properties" in root:
        return fitted
    completed = {"type": "object", "properties": {}, **root}
    return msgspec.structs.replace(fitted, schema=completed)


def schema_keywords(schema: object, depth: int = 0) -> set[str]:
    """Return the keywords that stand anywhere in *schema*."""
    if not isinstance(schema, dict) or depth > _MAX_DEPTH:
        return set()
    found = {key for key in schema if isinstance(key, str)}
    for key, value in schema.items():
        if key in _NAMED and isinstance(value, dict):
            parts = list(value.values())
        elif key in _LISTED and isinstance(value, list):
            parts = value
        else:
            parts = [value] if key in _ALONE else []
        for part in parts:
            found |= schema_keywords(part, depth + 1)
    return found


class _Fitter:
    """Rewrites one schema; references in it lead into *root*."""

    def __init__(self, root: Mapping[str, Any], profile: DialectProfile) -> None:
        self._root = root
        self._refused = frozenset(profile.schema_refused)
        self._has_refs = profile.schema_refs
        self._has_types = profile.schema_types
        self._nodes_left = _MAX_NODES
        self._own_name = "whole"  # the root's among the definitions, where it refers to itself
        self._defined: dict[str, Any] = {}
        for key in reversed(_DEFINITIONS):
            found = root.get(key)
            self._defined |= found if isinstance(found, dict) else {}
        while self._own_name in self._defined:
            self._own_name += "_"
        self._is_recursive = False
        self.notes: dict[Note, None] = {}  # in the order in which they were met

    def fit(self, node: object, *, depth: int, trail: tuple[str, ...]) -> dict[str, Any]:
        """
        Return a node rewritten.

        Args:
            node: A schema, or a truth value that stands for one.
            depth: How many schemas it stands in.
            trail: The references that led here.
        """
        if not isinstance(node, dict):
            return self._typed({"not": {}} if node is False else {}, depth)
        self._nodes_left -= 1
        if depth > _MAX_DEPTH or self._nodes_left < 0:
            return self._cut(node)
        if "$ref" in node:
            return self._follow(node, node["$ref"], depth=depth, trail=trail)
        node = self._without_refused(node)
        if "$ref" in node:  # it stood in an allOf
            return self.fit(node, depth=depth, trail=trail)
        if self._has_types:
            node = _with_typed_branches(node)
        fitted = {
            key: self._fit_part(key, value, depth=depth + 1, trail=trail)
            for key, value in node.items()
            if key not in _DEFINITIONS
        }
        said = fitted.get("type")
        if isinstance(said, str) and said not in _TYPES:  # "any" and the like allow everything
            del fitted["type"]
        fitted = self._typed(fitted, depth)
        if depth == 0 and self._has_refs:
            fitted |= self._definitions(trail)
        return fitted

    def _fit_part(self, key: str, value: Any, *, depth: int, trail: tuple[str, ...]) -> Any:  # noqa: ANN401 - any JSON value
        if key in _NAMED and isinstance(value, dict):
            return {name: self.fit(part, depth=depth, trail=trail) for name, part in value.items()}
        if key in _LISTED and isinstance(value, list):
            return [self.fit(part, depth=depth, trail=trail) for part in value]
        if key not in _ALONE or (isinstance(value, bool) and key in _OPEN):
            return value
        if self._has_types and key in _OPEN and value == {}:  # a type would narrow it
            return True
        return self.fit(value, depth=depth, trail=trail)

    # -- references

    def _definitions(self, trail: tuple[str, ...]) -> dict[str, Any]:
        """Return the definitions of the root in one place."""
        fitted = {
            name: self.fit(part, depth=1, trail=trail) for name, part in self._defined.items()
        }
        if self._is_recursive:
            whole = {key: value for key, value in self._root.items() if key not in _DEFINITIONS}
            fitted[self._own_name] = self.fit(whole, depth=1, trail=trail)
        return {"$defs": fitted} if fitted else {}

    def _follow(
        self, node: dict[str, Any], target: object, *, depth: int, trail: tuple[str, ...]
    ) -> dict[str, Any]:
        others = {key: value for key, value in node.items() if key != "$ref"}
        found = look_up(self._root, target) if isinstance(target, str) else None
        if not isinstance(target, str) or found is None or (target == "#" and depth == 0):
            self._note("dropped", "a reference in a schema leads nowhere")
            return self.fit(others, depth=depth, trail=trail)
        name = self._definition_name(target)
        if self._has_refs and name is not None:
            beside = self._beside_reference(others)
            if depth == 0:  # the definitions must be there, too
                beside |= self._definitions(trail)
            return {"$ref": f"#/$defs/{name}", **beside}
        if target in trail:
            return self._cut({**found, **others})
        whole = {key: value for key, value in found.items() if key not in _DEFINITIONS}
        return self.fit({**whole, **others}, depth=depth, trail=(*trail, target))

    def _definition_name(self, target: str) -> str | None:
        if target == "#":
            self._is_recursive = self._is_recursive or self._has_refs
            return self._own_name
        for key in _DEFINITIONS:
            name = target.removeprefix(f"#/{key}/")
            # Not the part of a definition, and not the second one of a name: those are written out.
            if name != target and self._defined.get(name) is self._root[key].get(name):
                return name
        return None

    def _beside_reference(self, others: dict[str, Any]) -> dict[str, Any]:
        if not self._has_types:
            return self._without_refused(others)
        return {key: others[key] for key in ("description",) if key in others}

    def _cut(self, node: Mapping[str, Any]) -> dict[str, Any]:
        """Return the least that says what *node* is."""
        self._note("clamped", "a schema that refers to itself, or is too deep, is cut short")
        said = node.get("type")
        known = said if isinstance(said, str) and said in _TYPES else "object"
        cut: dict[str, Any] = {"type": known}
        if isinstance(node.get("description"), str):
            cut["description"] = node["description"]
        return cut

    # -- keywords

    def _without_refused(self, node: dict[str, Any]) -> dict[str, Any]:
        refused = [key for key in node if key in self._refused]
        if not refused:
            return node
        kept = {key: value for key, value in node.items() if key not in self._refused}
        for key in refused:
            self._replace(key, node[key], kept)
        return kept

    def _replace(self, key: str, value: object, kept: dict[str, Any]) -> None:
        """Put into *kept* what says the same as the keyword, or nearly."""
        if key in _SILENT or key in _DEFINITIONS:
            return
        reason = f"the upstream takes no {key} in a schema"
        if key == "const" and "enum" not in self._refused:
            kept["enum"] = [value]
        elif key == "oneOf" and "anyOf" not in kept and "anyOf" not in self._refused:
            kept["anyOf"] = value
        elif key == "allOf" and _merge(value, kept):
            for part in [part for part in kept if part in self._refused]:
                self._replace(part, kept.pop(part), kept)
        elif (words := f"{key}: {_encode(value).decode()}") and len(words) <= _MAX_WORDS:
            description = kept.get("description")
            text = description if isinstance(description, str) else ""
            kept["description"] = f"{text} ({words})" if text else words
            self._note("emulated", f"{reason}: it is said in words")
        else:
            self._note("dropped", reason)

    def _note(self, action: Action, reason: str) -> None:
        self.notes[action, reason] = None

    # -- types

    def _typed(self, node: dict[str, Any], depth: int) -> dict[str, Any]:
        """Return *node* with a type, where the upstream wants one, and only where it may stand."""
        if not self._has_types:
            return node
        branches = node.get("anyOf")
        if isinstance(branches, list) and branches:
            if "properties" in node:  # which of them may be there together: said by nobody else
                node = {key: value for key, value in node.items() if key != "anyOf"}
                self._note("dropped", "the upstream takes no anyOf beside properties in a schema")
            else:
                return {key: value for key, value in node.items() if key != "type"}
        if "type" not in node:
            found = _guess_type(node)
            if found is None and depth > 0:
                self._note("clamped", "the upstream wants a type for each value: it is text")
            node["type"] = found or ("string" if depth else "object")
        return node


def _with_typed_branches(node: dict[str, Any]) -> dict[str, Any]:
    """Return *node* with its type in the branches of its union, which have none of their own."""
    branches, own = node.get("anyOf"), node.get("type")
    if not isinstance(branches, list) or own is None:
        return node
    typed = [
        {"type": own, **branch}
        if isinstance(branch, dict) and not branch.keys() & {"$ref", "anyOf", "enum", "const"}
        else branch
        for branch in branches
    ]
    return {**node, "anyOf": typed}


def _guess_type(node: Mapping[str, Any]) -> str | list[str] | None:
    values = [node["const"]] if "const" in node else node.get("enum")
    if isinstance(values, list) and values:
        types = {type_of(value) for value in values}
        if types == {"integer", "number"}:
            return "number"
        if len(types) == 1:
            return types.pop()
        if len(types) == 2 and "null" in types:
            return sorted(types, key=lambda name: name == "null")
        return None
    for keywords, name in (
        (_OF_OBJECTS, "object"),
        (_OF_ARRAYS, "array"),
        (_OF_STRINGS, "string"),
        (_OF_NUMBERS, "number"),
    ):
        if any(keyword in node for keyword in keywords):
            return name
    default = node.get("default")
    return type_of(default) if default is not None else None


def _merge(parts: object, into: dict[str, Any]) -> bool:
    """Put all of *parts* into one schema, if none contradicts another; else change nothing."""
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        return False
    merged = dict(into)
    for part in parts:
        for key, value in part.items():
            known = merged.get(key, value)
            if known == value:
                merged[key] = value
            elif key == "properties" and isinstance(known, dict) and isinstance(value, dict):
                if any(known.get(name, each) != each for name, each in value.items()):
                    return False
                merged[key] = known | value
            elif key == "required" and isinstance(known, list) and isinstance(value, list):
                merged[key] = [*known, *(name for name in value if name not in known)]
            elif key not in ("description", "title"):
                return False
    into |= merged
    return True
