import time

import pytest

from dragoman.core.argument_coercion import coerce_input, read_text
from dragoman.core.input_schemas import Budget, InputSchema, ToolSchemas, type_of

ROOT = {
    "type": "object",
    "properties": {
        "a": {"$ref": "#/$defs/a~1b"},
        "b": {"allOf": [{"$ref": "#/$defs/text"}], "default": "x"},
        "c": {"allOf": [5]},
        "d": {"$ref": "#/nowhere"},
        "e": {"$ref": "https://example.org/schema"},
        "f": {"type": "string", "nullable": True},
        "g": {"type": []},
        "h": {"const": 1},
        "i": {"enum": ["x", 1, None]},
        "j": {"properties": {}},
        "k": {"anyOf": [{"type": "integer"}, {"type": "number"}]},
        "l": {"oneOf": [{"type": "integer"}, {}]},
        "m": {"$ref": "#/properties/m"},
        "n": {"anyOf": [{"$ref": "#/properties/n"}, {"type": "string"}]},
        "o": {"type": "array", "prefixItems": [{"type": "null"}], "items": {"type": "string"}},
        "p": True,
        "q": {"$ref": "#/$defs/text/type"},
        "r": {"anyOf": "odd", "enum": [], "type": ["string", 5, "null"]},
    },
    "$defs": {"a/b": {"$ref": "#/$defs/text"}, "text": {"type": "string"}},
    "required": ["a", 7],
}
TYPES = {
    "a": {"string"},
    "b": {"string"},
    "c": None,
    "d": None,
    "e": None,
    "f": {"string", "null"},
    "g": None,
    "h": {"integer"},
    "i": {"string", "integer", "null"},
    "j": {"object"},
    "k": {"integer", "number"},
    "l": None,
    "m": None,
    "n": None,
    "o": {"array"},
    "q": None,
    "r": {"string", "null"},
}


@pytest.mark.parametrize(("name", "types"), TYPES.items())
def test_types(name, types) -> None:
    part = InputSchema(ROOT).member(name)
    assert part is not None
    assert part.types() == types
    assert part.types() == types  # also from memory


def test_parts() -> None:
    root = InputSchema(ROOT)
    assert root.required == {"a"}
    assert root.types() == {"object"}
    assert root.member("p") is root.member("unknown") is None
    listed = root.member("o")
    assert listed is not None
    assert [part and part.types() for part in (listed.element(0), listed.element(1))] == [
        {"null"},
        {"string"},
    ]
    assert InputSchema({"additionalProperties": {"type": "null"}}).member("x") is not None
    assert InputSchema({"$ref": "#"}).types() is None
    assert InputSchema({"required": "a", "properties": []}).required == frozenset()


FITS = [
    ({"type": "integer"}, 3, True),
    ({"type": "integer"}, 3.0, True),
    ({"type": "integer"}, 3.5, False),
    ({"type": "number"}, 3, True),
    ({"type": "boolean"}, 1, False),
    ({"enum": [1]}, True, False),
    ({"enum": ["a"]}, "b", False),
    ({"type": "object", "required": ["x"]}, {}, False),
    ({"properties": {"x": {"type": "string"}}}, {"x": 1}, False),
    ({"properties": {"x": {"type": "string"}}}, {"x": "1", "y": 1}, True),
    ({"anyOf": [{"type": "string"}, {"type": "null"}]}, None, True),
    ({"anyOf": [{"type": "string"}, {"type": "null"}]}, 1, False),
    # A union beside members of its own says more about them, not less.
    ({"properties": {"x": {"type": "string"}}, "anyOf": [{"required": ["x"]}]}, {"x": 1}, False),
    ({}, object, True),
]


@pytest.mark.parametrize(("schema", "value", "fits"), FITS)
def test_fits(schema, value, fits) -> None:
    assert InputSchema(schema).fits(value, Budget()) == fits


def test_types_of_values() -> None:
    values = [None, True, 1, 1.0, 1.5, float("inf"), "x", [], {}]
    assert [type_of(value) for value in values] == [
        *("null", "boolean", "integer", "integer", "number", "number", "string", "array", "object")
    ]


def test_tools() -> None:
    functions = [
        {"function": {"name": "f", "parameters": {"properties": {"x": {}}, "required": ["x"]}}},
        {"function": {"name": "g", "parameters": {"properties": {"x": {}, "y": {}}}}},
        {"function": {"name": "h"}},
        {"type": "odd"},
    ]
    tools = ToolSchemas(frozenset({"f", "g", "h"}), functions)
    assert "f" in tools
    assert "x" not in tools
    assert tools.find("h") is None
    assert (tools.guess({"y": 1}), tools.guess({"x": 1}), tools.guess({"z": 1})) == ("g", "", "")
    assert [tools.has_required(name, {}) for name in "fghx"] == [False, True, True, True]
    own = ToolSchemas(frozenset("f"), functions, {"f": {"properties": {"z": {}}}})
    assert own.guess({"z": 1}) == "f"


TEXTS = [
    # schema, text, value
    ({"type": "string"}, " 5 ", " 5 "),
    ({"type": "string"}, "null", "null"),
    ({"type": ["string", "null"]}, "null", None),
    ({"type": ["string", "array"]}, '["a"]', ["a"]),
    ({"type": ["string", "array"]}, "[a", "[a"),
    ({"type": ["string", "integer"]}, "5", "5"),
    ({"type": "integer"}, " 5\n", 5),
    ({"type": "integer"}, "five", "five"),
    ({"type": "object"}, "{'a': 1}", {"a": 1}),
    ({"type": "boolean"}, "False", False),
    (None, "5", 5),
    (None, '"5"', '"5"'),
    (None, "007", "007"),
    (None, " words ", " words "),
]


@pytest.mark.parametrize(("schema", "text", "value"), TEXTS)
def test_values_written_as_text(schema, text, value) -> None:
    assert read_text(text, None if schema is None else InputSchema(schema)) == value


def test_circles_and_unions_of_unions_end_soon() -> None:
    circle = {"anyOf": [{"$ref": "#/$defs/circle"}] * 32}
    tree = {
        "anyOf": [
            {
                "properties": {"of": {"$ref": "#/$defs/tree"}, "op": {"const": number}},
                "required": ["op"],
            }
            for number in range(30)
        ]
    }
    value: object = "z"
    for _ in range(40):
        value = {"of": value, "op": "x"}
    deep: object = {}
    for _ in range(900):
        deep = {"of": deep}
    begun_s = time.process_time()
    for name in ("circle", "tree"):
        schema = InputSchema(
            {
                "properties": {"x": {"$ref": f"#/$defs/{name}"}},
                "additionalProperties": {"$ref": "#"},
                "$defs": {"circle": circle, "tree": tree},
            }
        )
        for x in ("1", value, deep):
            assert coerce_input({"x": x}, schema, set()) == {"x": x}
    assert time.process_time() - begun_s < 20  # without a limit, for ever
