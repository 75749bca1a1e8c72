"""
What a tool's JSON schema says of a value: its types, its choices, its parts.

Read only as far as it helps to put arguments right. A schema that says nothing, or nothing that is
understood here, allows everything.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

_MAX_REFERENCES: Final = 16  # in a row; more than any schema needs, and an end to circles
_MAX_BRANCHES: Final = 32
MAX_DEPTH: Final = 100  # of values and unions together
_ANYTHING: Final[Mapping[str, Any]] = {}


class _Memo:
    """What was found out about nodes, by their identity: they live as long as the root."""

    __slots__ = ("branches", "types")

    def __init__(self) -> None:
        self.types: dict[int, frozenset[str] | None] = {}
        self.branches: dict[int, list[InputSchema]] = {}


class Budget:
    """
    How often a value may still be held against a schema.

    A union of unions that lead back to it has more ways to fit than there is time.
    """

    __slots__ = ("_left",)

    def __init__(self, steps: int = 50_000) -> None:
        self._left = steps

    def spend(self) -> bool:
        """Take a step; tell whether there was one left."""
        self._left -= 1
        return self._left >= 0


class InputSchema:
    """A schema, or a part of one; the root is where its references lead."""

    __slots__ = ("_memo", "_node", "_root")

    def __init__(
        self,
        node: Mapping[str, Any],
        root: Mapping[str, Any] | None = None,
        memo: _Memo | None = None,
    ) -> None:
        self._root = node if root is None else root
        self._memo = memo or _Memo()
        self._node = self._resolve(node)

    def _resolve(self, node: Mapping[str, Any]) -> Mapping[str, Any]:
        for _ in range(_MAX_REFERENCES):
            target, merged = node.get("$ref"), node.get("allOf")
            if isinstance(target, str):
                node = look_up(self._root, target) or _ANYTHING
            elif isinstance(merged, list) and len(merged) == 1 and "type" not in node:
                # A reference, mostly, which some write like this.
                node = merged[0] if isinstance(merged[0], Mapping) else _ANYTHING
            else:
                return node
        return _ANYTHING

    def _part(self, node: object) -> "InputSchema | None":
        return InputSchema(node, self._root, self._memo) if isinstance(node, Mapping) else None

    @property
    def branches(self) -> list["InputSchema"]:
        """The schemas of a union, of which one must hold; members of its own stand above them."""
        known = self._memo.branches.get(id(self._node))
        if known is None:
            known = self._memo.branches[id(self._node)] = self._read_branches()
        return known

    def _read_branches(self) -> list["InputSchema"]:
        found: list[InputSchema] = []
        for keyword in () if self.declares_members else ("anyOf", "oneOf"):
            listed = self._node.get(keyword)
            nodes = listed[:_MAX_BRANCHES] if isinstance(listed, list) else []
            found += [part for node in nodes if (part := self._part(node)) is not None]
        return found

    @property
    def choices(self) -> list[Any] | None:
        """The only values allowed; None: there is no such list."""
        if "const" in self._node:
            return [self._node["const"]]
        listed = self._node.get("enum")
        return listed if isinstance(listed, list) and listed else None

    @property
    def declares_members(self) -> bool:
        """Tell whether it names the members of an object."""
        return isinstance(self._node.get("properties"), Mapping)

    @property
    def required(self) -> frozenset[str]:
        """The members that an object must have."""
        listed = self._node.get("required")
        names = listed if isinstance(listed, list) else ()
        return frozenset(name for name in names if isinstance(name, str))

    @property
    def members(self) -> Mapping[str, Any]:
        """The members that an object may have, by name."""
        declared = self._node.get("properties")
        return declared if isinstance(declared, Mapping) else {}

    def member(self, name: str) -> "InputSchema | None":
        """Return the schema of an object's member."""
        node = self.members.get(name)
        return self._part(self._node.get("additionalProperties") if node is None else node)

    def element(self, index: int) -> "InputSchema | None":
        """Return the schema of an array's element."""
        first = self._node.get("prefixItems")
        if isinstance(first, list) and index < len(first):
            return self._part(first[index])
        return self._part(self._node.get("items"))

    def types(self) -> frozenset[str] | None:
        """Return the JSON types allowed; None: all of them."""
        key = id(self._node)
        known = self._memo.types
        if key not in known:
            known[key] = None  # what leads back here allows everything
            known[key] = self._read_types()
        return known[key]

    def _read_types(self) -> frozenset[str] | None:
        said = self._node.get("type")
        if isinstance(said, str):
            return frozenset((said, "null") if self._node.get("nullable") is True else (said,))
        if isinstance(said, list):
            return frozenset(t for t in said if isinstance(t, str)) or None
        if (choices := self.choices) is not None:
            return frozenset(map(type_of, choices))
        if branches := self.branches:
            found = [branch.types() for branch in branches]
            return None if None in found else frozenset().union(*(t for t in found if t))
        return frozenset(("object",)) if self.declares_members else None

    def allows(self, kind: str) -> bool:
        """Tell whether a value of this JSON type may stand here."""
        types = self.types()
        return types is None or kind in types or (kind == "integer" and "number" in types)

    def fits(self, value: Any, budget: Budget, depth: int = 0) -> bool:  # noqa: ANN401 - any JSON
        """Tell whether *value* is allowed: its type, the choices, the members that it must have."""
        if depth > MAX_DEPTH or not budget.spend():
            return True
        if branches := self.branches:
            return any(branch.fits(value, budget, depth + 1) for branch in branches)
        choices = self.choices
        if choices is not None and not any(_is_same(value, choice) for choice in choices):
            return False
        if not self.allows(type_of(value)):
            return False
        if not isinstance(value, dict):
            return True
        members = ((self.member(name), member) for name, member in value.items())
        return self.required <= value.keys() and all(
            part is None or part.fits(member, budget, depth + 1) for part, member in members
        )


class ToolSchemas:
    """
    The tools that the upstream was told of.

    Args:
        names: Their names.
        functions: The ``tools`` of the upstream's request; may lack some.
        own: The client's schemas, by name, where the upstream got others.
    """

    def __init__(
        self,
        names: frozenset[str],
        functions: Sequence[Mapping[str, Any]],
        own: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self._names = names
        self._functions = functions
        self._own = own or {}
        self._found: dict[str, InputSchema] | None = None  # read when the first call comes

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def find(self, name: str) -> InputSchema | None:
        """Return the schema of a tool's input."""
        return self._by_name().get(name)

    def guess(self, arguments: Mapping[str, Any]) -> str:
        """Return the one tool that takes just these arguments; empty: there is none, or several."""
        fitting = [
            name
            for name, schema in self._by_name().items()
            if schema.members.keys() >= arguments.keys() >= schema.required
        ]
        return fitting[0] if len(fitting) == 1 else ""

    def has_required(self, name: str, arguments: Mapping[str, Any]) -> bool:
        """Tell whether no argument is missing, as far as that is known."""
        schema = self.find(name)
        return schema is None or arguments.keys() >= schema.required

    def _by_name(self) -> dict[str, InputSchema]:
        if self._found is None:
            self._found = {}
            for tool in self._functions:
                function = tool.get("function")
                if isinstance(function, Mapping) and isinstance(
                    schema := function.get("parameters"), Mapping
                ):
                    name = str(function.get("name"))
                    self._found[name] = InputSchema(self._own.get(name, schema))
        return self._found


def type_of(value: object) -> str:
    """Return the JSON type of *value*, ``integer`` for whole numbers."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int) or (
        isinstance(value, float) and math.isfinite(value) and value.is_integer()
    ):
        return "integer"
    if isinstance(value, float):
        return "number"
    if isinstance(value, str):
        return "string"
    return "array" if isinstance(value, list) else "object"


def _is_same(value: object, choice: object) -> bool:
    return value == choice and isinstance(value, bool) == isinstance(choice, bool)


def look_up(root: Mapping[str, Any], target: str) -> Mapping[str, Any] | None:
    """Return what a reference like ``#/$defs/place`` leads to."""
    if target == "#":
        return root
    if not target.startswith("#/"):
        return None
    node: object = root
    for step in target[2:].split("/"):
        name = step.replace("~1", "/").replace("~0", "~")
        if not isinstance(node, Mapping) or name not in node:
            return None
        node = node[name]
    return node if isinstance(node, Mapping) else None
