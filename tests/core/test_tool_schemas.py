"""Schemas as upstreams take them: what means the same stays, what is refused is said in words."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.core.dialects.profile import GENERIC, DialectProfile
from dragoman.core.dialects.registry import find_profile
from dragoman.core.tool_schemas import fit_input_schema, fit_schema, schema_keywords

MOONSHOT = find_profile("kimi-k2.6", platform="moonshot")
INLINE = DialectProfile(schema_refs=False)
TEXT = {"type": "string"}
ONLY_TEXT = "the upstream wants a type for each value: it is text"


def of(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


def refusing(*keywords: str) -> DialectProfile:
    return DialectProfile(schema_refused=keywords)


def fit(schema: dict[str, Any], profile: DialectProfile = GENERIC) -> dict[str, Any]:
    """The fitted schema of one that keeps its meaning."""
    fitted = fit_input_schema(schema, profile)
    assert fitted.notes == ()
    return fitted.schema


# -- for every upstream


@pytest.mark.parametrize(
    "schema",
    [
        of(a={**TEXT, "pattern": "^x$", "default": True}, b={"enum": [True, False]}),
        of(**{"$ref": TEXT}),
        {**of(a={"$ref": "#/$defs/a"}), "$defs": {"a": TEXT}},
        {**of(a={"$ref": "#/$defs/n"}), "$defs": {"n": of(next={"$ref": "#/$defs/n"})}},
        {**of(), "additionalProperties": False},
        {"anyOf": [of(a=TEXT), of(b=TEXT)]},
    ],
)
def test_an_ordinary_schema_is_sent_as_it_is(schema: dict[str, Any]) -> None:
    assert fit(schema) == schema


@pytest.mark.parametrize("schema", [{}, {"type": "object"}, {"properties": {}}])
def test_a_tool_takes_an_object(schema: dict[str, Any]) -> None:
    assert fit(schema) == of()


CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "$schema": ({"$schema": "http://x", **of(a=TEXT)}, of(a=TEXT)),
    "a property of that name stays": (
        of(**{"$schema": {"$schema": "x", **TEXT}}),
        of(**{"$schema": TEXT}),
    ),
    "true allows everything": (of(a=True, b={"items": True}), of(a={}, b={"items": {}})),
    "false allows nothing": (of(a=False), of(a={"not": {}})),
    "an invented type": (of(a={"type": "any", "description": "d"}), of(a={"description": "d"})),
    "definitions have one place": (
        {**of(a={"$ref": "#/definitions/a"}), "definitions": {"a": TEXT}},
        {**of(a={"$ref": "#/$defs/a"}), "$defs": {"a": TEXT}},
    ),
    "a reference elsewhere is written out": (
        of(a=TEXT, b={"$ref": "#/properties/a", "description": "d"}),
        of(a=TEXT, b={**TEXT, "description": "d"}),
    ),
    "the schema itself becomes a definition": (
        of(a={"$ref": "#"}),
        {**of(a={"$ref": "#/$defs/whole"}), "$defs": {"whole": of(a={"$ref": "#/$defs/whole"})}},
    ),
    "the root is a reference": (
        {"$ref": "#/$defs/a", "$defs": {"a": of(b=True)}},
        {"$ref": "#/$defs/a", "$defs": {"a": of(b={})}},
    ),
}


@pytest.mark.parametrize(("schema", "expected"), CASES.values(), ids=CASES)
def test_what_means_the_same(schema: dict[str, Any], expected: dict[str, Any]) -> None:
    before = json.dumps(schema)
    assert fit(schema) == expected
    assert json.dumps(schema) == before


@pytest.mark.parametrize("target", ["#/$defs/none", "http://127.0.0.1/x", "", "other.json"])
def test_a_reference_that_leads_nowhere_goes(target: str) -> None:
    fitted = fit_input_schema(of(a={"$ref": target, **TEXT}), GENERIC)
    assert fitted.schema == of(a=TEXT)
    assert fitted.notes == (("dropped", "a reference in a schema leads nowhere"),)


def test_a_schema_that_is_nothing_but_itself() -> None:
    fitted = fit_input_schema({"$ref": "#"}, GENERIC)
    assert fitted.schema == of()
    assert [action for action, _ in fitted.notes] == ["dropped"]


# -- references that are not understood


def test_references_are_written_out() -> None:
    schema = {
        **of(a={"$ref": "#/$defs/p", "description": "here"}, b={"$ref": "#/$defs/p"}),
        "$defs": {"p": of(x={"$ref": "#/$defs/t"}), "t": TEXT},
    }
    assert fit(schema, INLINE) == of(a={**of(x=TEXT), "description": "here"}, b=of(x=TEXT))


def test_a_recursion_ends() -> None:
    node = {**of(next={"$ref": "#/$defs/node"}, value=TEXT), "description": "a node"}
    fitted = fit_schema({**of(list={"$ref": "#/$defs/node"}), "$defs": {"node": node}}, INLINE)
    inner = fitted.schema["properties"]["list"]["properties"]
    assert inner == {"next": {"type": "object", "description": "a node"}, "value": TEXT}
    assert [action for action, _ in fitted.notes] == ["clamped"]


def test_references_that_double_are_bounded() -> None:
    defs = {
        f"d{n}": of(a={"$ref": f"#/$defs/d{n + 1}"}, b={"$ref": f"#/$defs/d{n + 1}"})
        for n in range(30)
    }
    defs["d30"] = TEXT
    fitted = fit_schema({**of(a={"$ref": "#/$defs/d0"}), "$defs": defs}, INLINE)
    assert len(json.dumps(fitted.schema)) < 500_000
    assert [action for action, _ in fitted.notes] == ["clamped"]


def test_depth_is_bounded() -> None:
    schema: dict[str, Any] = {"$schema": "x"}
    for _ in range(150):
        schema = of(a=schema)
    fitted = fit_schema(schema, GENERIC)
    assert [action for action, _ in fitted.notes] == ["clamped"]
    assert schema_keywords(fitted.schema) == {"type", "properties"}


# -- keywords that are refused

REFUSED: dict[str, tuple[dict[str, Any], tuple[str, ...], dict[str, Any]]] = {
    "const": ({"const": 3}, ("const",), {"enum": [3]}),
    "oneOf": ({"oneOf": [TEXT]}, ("oneOf",), {"anyOf": [TEXT]}),
    "allOf of one reference": ({"allOf": [TEXT], "title": "t"}, ("allOf",), {**TEXT, "title": "t"}),
    "allOf of several": (
        {"allOf": [{**of(a=TEXT), "required": ["a"]}, {**of(b=TEXT), "required": ["b", "a"]}]},
        ("allOf",),
        {**of(a=TEXT, b=TEXT), "required": ["a", "b"]},
    ),
    "what nobody misses": ({**TEXT, "title": "t", "$comment": "c"}, ("title", "$comment"), TEXT),
}


@pytest.mark.parametrize(("schema", "keywords", "expected"), REFUSED.values(), ids=REFUSED)
def test_another_keyword_says_the_same(
    schema: dict[str, Any], keywords: tuple[str, ...], expected: dict[str, Any]
) -> None:
    assert fit(of(p=schema), refusing(*keywords)) == of(p=expected)


def test_an_allof_of_a_reference_becomes_the_reference() -> None:
    schema = {**of(p={"allOf": [{"$ref": "#/$defs/a"}]}), "$defs": {"a": TEXT}}
    assert fit(schema, refusing("allOf"))["properties"] == {"p": {"$ref": "#/$defs/a"}}


def test_what_an_allof_brings_along_is_refused_too() -> None:
    schema = of(p={"allOf": [{**TEXT, "pattern": "a"}, {"minLength": 1, "format": "uri"}]})
    fitted = fit_schema(schema, refusing("allOf", "pattern", "minLength", "format"))
    said = '(minLength: 1) (format: "uri")'
    assert fitted.schema == of(p={**TEXT, "description": f'pattern: "a" {said}'})
    assert [action for action, _ in fitted.notes] == ["emulated"] * 3


@pytest.mark.parametrize(
    "parts",
    [
        [of(a=TEXT), of(a={"type": "number"})],
        [TEXT, {"type": "number"}],
        [TEXT, "odd"],
    ],
)
def test_an_allof_that_contradicts_itself_is_said_in_words(parts: list[Any]) -> None:
    fitted = fit_schema(of(p={"allOf": parts}), refusing("allOf"))
    (note,) = fitted.notes
    assert note[0] == "emulated"
    assert list(fitted.schema["properties"]["p"]) == ["description"]


def test_a_definition_of_the_name_that_is_ours() -> None:
    schema = {**of(a={"$ref": "#"}, b={"$ref": "#/$defs/whole"}), "$defs": {"whole": TEXT}}
    fitted = fit(schema)
    assert fitted["properties"] == {"a": {"$ref": "#/$defs/whole_"}, "b": {"$ref": "#/$defs/whole"}}
    assert fitted["$defs"]["whole"] == TEXT


def test_choices_of_several_types_are_text() -> None:
    fitted = fit_input_schema(of(p={"enum": [1, "a", None]}), MOONSHOT)
    assert fitted.schema["properties"]["p"]["type"] == "string"
    assert fitted.notes == (("clamped", ONLY_TEXT),)


def test_what_is_short_is_said_in_words() -> None:
    schema = of(p={**TEXT, "pattern": "^a$", "description": "A name."}, q={"minimum": 3})
    fitted = fit_input_schema(schema, refusing("pattern", "minimum"))
    assert fitted.schema == of(
        p={**TEXT, "description": 'A name. (pattern: "^a$")'}, q={"description": "minimum: 3"}
    )
    assert fitted.notes == (
        ("emulated", "the upstream takes no pattern in a schema: it is said in words"),
        ("emulated", "the upstream takes no minimum in a schema: it is said in words"),
    )


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("patternProperties", {"^" + "x" * 200: TEXT}),
        ("allOf", [{"description": "x" * 200, "type": "string"}, {"type": "number"}]),
    ],
)
def test_what_is_long_is_dropped(keyword: str, value: object) -> None:
    fitted = fit_input_schema(of(p={keyword: value}), refusing(keyword))
    assert fitted.schema == of(p={})
    assert fitted.notes == (("dropped", f"the upstream takes no {keyword} in a schema"),)


def test_a_property_named_like_a_keyword_is_none() -> None:
    schema = of(pattern=TEXT, format={"type": "object", "properties": {"const": TEXT}})
    assert fit(schema, refusing("pattern", "format", "const")) == schema


# -- types

TYPED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "choices": ({"enum": ["a", "b"]}, {"enum": ["a", "b"], "type": "string"}),
    "numbers": ({"enum": [1, 2.5]}, {"enum": [1, 2.5], "type": "number"}),
    "or nothing": ({"enum": ["a", None]}, {"enum": ["a", None], "type": ["string", "null"]}),
    "a constant": ({"const": True}, {"const": True, "type": "boolean"}),
    "an object": ({"properties": {"a": TEXT}}, of(a=TEXT)),
    "a list": ({"items": TEXT}, {"items": TEXT, "type": "array"}),
    "a text": ({"pattern": "a"}, {"pattern": "a", "type": "string"}),
    "a number": ({"minimum": 1}, {"minimum": 1, "type": "number"}),
    "by its default": ({"default": 3}, {"default": 3, "type": "integer"}),
    "a union": (
        {"type": "object", "anyOf": [{"required": ["a"]}, {"type": "null"}]},
        {"anyOf": [{"type": "object", "required": ["a"]}, {"type": "null"}]},
    ),
    "oneOf": (
        {"oneOf": [TEXT, {"enum": [1]}]},
        {"anyOf": [TEXT, {"enum": [1], "type": "integer"}]},
    ),
    "everything else": (
        {"type": "object", "additionalProperties": {}},
        {"type": "object", "additionalProperties": True},
    ),
}


@pytest.mark.parametrize(("schema", "expected"), TYPED.values(), ids=TYPED)
def test_moonshot_gets_types(schema: dict[str, Any], expected: dict[str, Any]) -> None:
    assert fit(of(p=schema), MOONSHOT) == of(p=expected)


def test_moonshot_gets_text_where_everything_is_allowed() -> None:
    fitted = fit_input_schema(of(p={"description": "d"}, q={}), MOONSHOT)
    assert fitted.schema == of(p={"description": "d", **TEXT}, q=TEXT)
    assert fitted.notes == (("clamped", ONLY_TEXT),)


def test_moonshot_gets_no_type_beside_a_reference() -> None:
    schema = {
        **of(p={"$ref": "#/$defs/p", "type": "object", "description": "d", "default": {}}),
        "$defs": {"p": {"properties": {}}},
    }
    assert fit(schema, MOONSHOT) == {
        **of(p={"$ref": "#/$defs/p", "description": "d"}),
        "$defs": {"p": of()},
    }


def test_moonshot_gets_a_union_of_objects_at_the_root() -> None:
    forms = [of(a=TEXT), of(b=TEXT)]
    assert fit({"$schema": "x", "type": "object", "anyOf": forms}, MOONSHOT) == {"anyOf": forms}


def test_a_union_beside_properties_goes() -> None:
    schema = {**of(a=TEXT, b=TEXT), "anyOf": [{"required": ["a"]}, {"required": ["b"]}]}
    fitted = fit_input_schema(schema, MOONSHOT)
    assert fitted.schema == of(a=TEXT, b=TEXT)
    assert [action for action, _ in fitted.notes] == ["dropped"]


# -- laws


def nodes(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    keys = [
        "type",
        "properties",
        "items",
        "anyOf",
        "oneOf",
        "allOf",
        "not",
        "enum",
        "const",
        "$ref",
    ]
    keys += ["$defs", "definitions", "required", "additionalProperties", "description", "pattern"]
    references = st.sampled_from(["#", "#/$defs/x", "#/definitions/x", "#/properties/x", "nowhere"])
    named = st.dictionaries(st.sampled_from(["x", "y", "type"]), inner, max_size=3)
    plain = st.dictionaries(st.sampled_from(keys), inner | named, max_size=4)
    return plain | st.builds(lambda node, target: {**node, "$ref": target}, plain, references)


values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.sampled_from(["string", "object", "x"]),
    lambda inner: st.lists(inner, max_size=3) | nodes(inner),
    max_leaves=20,
)


@given(
    nodes(values),
    st.sampled_from([GENERIC, INLINE, MOONSHOT, refusing("oneOf", "allOf", "const", "pattern")]),
)
def test_any_schema_is_fitted_and_fitted_once(
    schema: dict[str, Any], profile: DialectProfile
) -> None:
    fitted = fit_input_schema(schema, profile).schema
    assert not schema_keywords(fitted) & {*profile.schema_refused} - {"$ref"}
    if not profile.schema_refs:
        assert not schema_keywords(fitted) & {"$defs", "definitions"}
    json.dumps(fitted)
