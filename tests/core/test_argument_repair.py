"""Arguments pass untouched while they are in order, and are put right behind what was shown."""

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jiter import from_json

from dragoman.core.argument_coercion import Repairs, coerce_input
from dragoman.core.argument_repair import continue_object, repair_arguments
from dragoman.core.input_schemas import InputSchema, ToolSchemas
from dragoman.core.repair_log import RepairLog
from dragoman.core.tool_calls import ToolCall
from dragoman.wire.openai_chat import Function

SCHEMA = {
    "type": "object",
    "properties": {
        "text": {"type": "string"},
        "count": {"type": "integer"},
        "ratio": {"type": "number"},
        "deep": {"type": "boolean"},
        "names": {"type": "array", "items": {"type": "string"}},
        "level": {"type": "string", "enum": ["low", "very high"]},
        "place": {"$ref": "#/$defs/place"},
        "places": {"type": "array", "items": {"$ref": "#/$defs/place"}},
        "either": {"anyOf": [{"type": "integer"}, {"type": "array", "items": {"type": "integer"}}]},
        "maybe": {"type": ["integer", "null"]},
        "levels": {"type": "array", "items": {"enum": ["low", "high"]}},
        "any": {},
    },
    "required": ["text"],
    "$defs": {
        "place": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "zip": {"type": "string"}},
            "required": ["city"],
        }
    },
}
TOOLS = ToolSchemas(frozenset("f"), [{"function": {"name": "f", "parameters": SCHEMA}}])
NO_SCHEMAS = ToolSchemas(frozenset("f"), [])


def follow(slices, *, tools=TOOLS, is_cut=False):
    """Return what is shown before the end, all that is shown, the input, and the repairs."""
    call = ToolCall(tools)
    call.name = "f"
    for piece in slices:
        call.add(Function(arguments=piece))
        if call.text:
            assert isinstance(from_json(call.text.encode(), partial_mode=True), dict)
    before = call.text
    value = call.end(is_cut=is_cut)
    assert call.text.startswith(before)
    if value is not None and call.text:
        assert json.loads(call.text) == value
    return before, call.text, value, call.repairs


# -- in order

SOUND = [
    '{"text": "a"}',
    '{ "text" : "he said \\"hi\\", \\u00e9 \\ud83d\\ude42" , "count":-3 }',
    '{"text":"","names":["a","b"],"place":{"city":"x","zip":"01234","more":[1,{"a":null}]}}',
    '{"text":"x","either":[1,2],"maybe":null,"ratio":3,"deep":false,"level":"very high"}',
    '{"text":"x","unknown":{"y":[true]},"any":[1],"levels":["low","high"]}',
    '{"text":"}{\\\\","places":[{"city":"a"},{"city":"b","zip":"1"}]}',
    "{}",
    '{"text":"x","arguments":{"y":1}}',
]


@pytest.mark.parametrize("text", SOUND)
@pytest.mark.parametrize("tools", [TOOLS, NO_SCHEMAS], ids=["schema", "none"])
def test_sound_arguments_are_shown_byte_for_byte(text, tools) -> None:
    for slices in ([text], list(text)):
        before, shown, value, repairs = follow(slices, tools=tools)
        assert before == shown == text
        assert value == json.loads(text)
        assert repairs == set()


def test_long_strings_stream_as_they_come() -> None:
    call = ToolCall(TOOLS)
    call.name = "f"
    shown = []
    for piece in ['{"text": "', "abc", ' d"e'.replace('"', '\\"'), "f", '", "count": ', "12", "}"]:
        call.add(Function(arguments=piece))
        shown.append(call.text)
    assert shown == [
        '{"text": "',
        '{"text": "abc',
        '{"text": "abc d\\"e',
        '{"text": "abc d\\"ef',
        '{"text": "abc d\\"ef"',  # a number's type is known by its first digit
        '{"text": "abc d\\"ef", "count": ',
        '{"text": "abc d\\"ef", "count": 12}',
    ]


# -- put right

REPAIRS = {
    # text, what may be shown before the end, input, kinds
    "a number in quotes": (
        '{"text": "x", "count": "3", "ratio": "1e2"}',
        '{"text": "x"',
        {"text": "x", "count": 3, "ratio": 100.0},
        {"type"},
    ),
    "a boolean in quotes": (
        '{"text": "x", "deep": "True"}',
        '{"text": "x"',
        {"text": "x", "deep": True},
        {"type"},
    ),
    "a number for text": (
        '{"text": 5, "count": 1}',
        "",
        {"text": "5", "count": 1},
        {"type"},
    ),
    "a boolean for text": ('{"text": true}', "", {"text": "true"}, {"type"}),
    "an object for text": (
        '{"text": {"a": 1}}',
        "",
        {"text": '{\n  "a": 1\n}'},
        {"type"},
    ),
    "a list of one for text": ('{"text": ["x"]}', "", {"text": "x"}, {"type"}),
    "one and zero for booleans": (
        '{"text": "x", "deep": 1}',
        '{"text": "x"',
        {"text": "x", "deep": True},
        {"type"},
    ),
    "an array in a string": (
        '{"text": "x", "names": "[\\"a\\", \\"b\\"]"}',
        '{"text": "x"',
        {"text": "x", "names": ["a", "b"]},
        {"type"},
    ),
    "an array in a string, as Python has it": (
        '{"text": "x", "names": "[\'a\', \'b\',]"}',
        '{"text": "x"',
        {"text": "x", "names": ["a", "b"]},
        {"type"},
    ),
    "an object in a string, its members wrong, too": (
        '{"text": "x", "place": "{\\"city\\": \\"a\\", \\"zip\\": 7}"}',
        '{"text": "x"',
        {"text": "x", "place": {"city": "a", "zip": "7"}},
        {"type"},
    ),
    "one value for an array": (
        '{"text": "x", "names": "a", "places": {"city": "b"}}',
        '{"text": "x"',
        {"text": "x", "names": ["a"], "places": [{"city": "b"}]},
        {"type"},
    ),
    "an element of the wrong type": (
        '{"text": "x", "names": ["a", 2, "c"]}',
        '{"text": "x", "names": ["a", ',
        {"text": "x", "names": ["a", "2", "c"]},
        {"type"},
    ),
    "a member of an element of the wrong type": (
        '{"text": "x", "places": [{"city": "a"}, {"city": "b", "zip": 1}], "count": 1}',
        '{"text": "x", "places": [{"city": "a"}, {"city": "b"',
        {"text": "x", "places": [{"city": "a"}, {"city": "b", "zip": "1"}], "count": 1},
        {"type"},
    ),
    "a union": (
        '{"text": "x", "either": "7"}',
        '{"text": "x"',
        {"text": "x", "either": 7},
        {"type"},
    ),
    "a union, by its second branch": (
        '{"text": "x", "either": "[1, 2]"}',
        '{"text": "x"',
        {"text": "x", "either": [1, 2]},
        {"type"},
    ),
    "a choice in other letters": (
        '{"text": "x", "level": "Very_High"}',
        '{"text": "x"',
        {"text": "x", "level": "very high"},
        {"choice"},
    ),
    "a choice in a list": (
        '{"text": "x", "levels": ["low", "HIGH"]}',
        '{"text": "x", "levels": ["low", ',
        {"text": "x", "levels": ["low", "high"]},
        {"choice"},
    ),
    "null for what may be left out": (
        '{"text": "x", "count": null, "maybe": null, "any": null}',
        '{"text": "x"',
        {"text": "x", "maybe": None, "any": None},
        {"null"},
    ),
    "null first": ('{"count": null, "text": "x"}', "", {"text": "x"}, {"null"}),
    "a wrapper": ('{"arguments": {"text": "x"}}', "", {"text": "x"}, {"wrapper"}),
    "a wrapper in a string": (
        '{"input": "{\\"text\\": \\"x\\"}"}',
        "",
        {"text": "x"},
        {"wrapper"},
    ),
    "a wrapper with the name": (
        '{"name": "f", "parameters": {"text": "x", "count": "1"}}',
        "",
        {"text": "x", "count": 1},
        {"wrapper", "type"},
    ),
    "a list around it": ('[{"text": "x"}]', "", {"text": "x"}, {"wrapper"}),
    "a fence": ('```json\n{"text": "x"}\n```', "", {"text": "x"}, {"syntax"}),
    "JSON in a string": ('"{\\"text\\": \\"x\\"}"', "", {"text": "x"}, {"encoding"}),
    "markup as Qwen has it": (
        "<parameter=text>\nx\n</parameter>\n<parameter=count>3</parameter>",
        "",
        {"text": "x", "count": 3},
        {"markup", "type"},
    ),
    "markup as GLM has it": (
        "<arg_key>text</arg_key>\n<arg_value>x</arg_value>",
        "",
        {"text": "x"},
        {"markup"},
    ),
    "markup by names": (
        '<parameter name="text">a &lt; b</parameter>',
        "",
        {"text": "a < b"},
        {"markup"},
    ),
    "a list in markup": (
        '{"text": "x", "names": "<item>a</item><item>b</item>"}',
        '{"text": "x"',
        {"text": "x", "names": ["a", "b"]},
        {"markup"},
    ),
    "a list in markup with a name of its own": (
        '{"text": "x", "places": "<places><place><city>a</city></place></places>"}',
        '{"text": "x"',
        {"text": "x", "places": [{"city": "a"}]},
        {"markup"},
    ),
    "text that looks like markup, for an array": (
        '{"text": "x", "names": "<a>"}',
        '{"text": "x"',
        {"text": "x", "names": ["<a>"]},
        {"type"},
    ),
    "a list in an object": (
        '{"text": "x", "names": {"item": ["a"]}}',
        '{"text": "x"',
        {"text": "x", "names": ["a"]},
        {"type"},
    ),
    "a name that is not legal JSON": (
        r'{"te\xt": 1, "text": "y"}',
        r'{"te\\xt": 1, "text": "y"}',
        {r"te\xt": 1, "text": "y"},
        {"syntax"},
    ),
    "braces missing": (
        '{"text": "x", "place": {"city": "a"',
        '{"text": "x", "place": {"city": "a',
        {"text": "x", "place": {"city": "a"}},
        {"syntax"},
    ),
    "a bracket missing": (
        '{"text": "x", "names": ["a", "b"}',
        '{"text": "x", "names": ["a", "b',
        {"text": "x", "names": ["a", "b"]},
        {"syntax"},
    ),
    "a number at the end": (
        '{"text": "x", "count": 12',
        '{"text": "x", "count": ',
        {"text": "x", "count": 12},
        {"syntax"},
    ),
    "a comma missing": (
        '{"text": "x" "count": 3}',
        '{"text": "x',
        {"text": "x", "count": 3},
        {"syntax"},
    ),
    "commas to spare": (
        '{"text": "x",, "names": ["a",], }',
        '{"text": "x',
        {"text": "x", "names": ["a"]},
        {"syntax"},
    ),
    "a comma at the end": ('{"text": "x",}', '{"text": "x"}', {"text": "x"}, {"syntax"}),
    "single quotes": (
        "{'text': 'it\\'s', 'count': 3}",
        "{",
        {"text": "it's", "count": 3},
        {"syntax"},
    ),
    "no quotes": (
        "{text: some words, count: 3}",
        "{",
        {"text": "some words", "count": 3},
        {"syntax"},
    ),
    "quotes that are not escaped": (
        '{"text": "he said "hi", then left", "count": 3}',
        '{"text": "he said ',
        {"text": 'he said "hi", then left', "count": 3},
        {"syntax"},
    ),
    "code that is not escaped": (
        '{"text": "print("a", {"b": "c"})", "count": 3}',
        '{"text": "print(',
        {"text": 'print("a", {"b": "c"})', "count": 3},
        {"syntax"},
    ),
    "line breaks and tabs in strings": (
        '{"text": "a\n\tb"}',
        '{"text": "a\\n\\tb"}',
        {"text": "a\n\tb"},
        {"syntax"},
    ),
    "backslashes that escape nothing": (
        '{"text": "\\d+\\."}',
        '{"text": "\\\\d+\\\\."}',
        {"text": "\\d+\\."},
        {"syntax"},
    ),
    "half a character": (
        '{"text": "\\ud83d!"}',
        '{"text": "\\ufffd!"}',
        {"text": "�!"},
        {"syntax"},
    ),
    "Python literals": (
        '{"text": "x", "deep": True, "maybe": None}',
        '{"text": "x", "deep": true, "maybe": null}',
        {"text": "x", "deep": True, "maybe": None},
        {"syntax"},
    ),
    "a number as people write it": (
        '{"text": "x", "ratio": .5, "count": +3}',
        '{"text": "x", "ratio": ',
        {"text": "x", "ratio": 0.5, "count": 3},
        {"syntax"},
    ),
    "comments": (
        '{"text": "x", // why\n "count": 3 /* how */}',
        '{"text": "x',
        {"text": "x", "count": 3},
        {"syntax"},
    ),
    "twice": ('{"text": "x"}{"text": "x"}', '{"text": "x"}', {"text": "x"}, {"syntax"}),
    "something behind it": ('{"text": "x"} ok', '{"text": "x"}', {"text": "x"}, {"syntax"}),
    "a brace to spare": ('{"text": "x"}}', '{"text": "x"}', {"text": "x"}, {"syntax"}),
}


@pytest.mark.parametrize(("text", "shown", "value", "kinds"), REPAIRS.values(), ids=REPAIRS)
def test_repairs(text, shown, value, kinds) -> None:
    for slices in ([text], list(text)):
        before, _, found, repairs = follow(slices)
        assert found == value
        assert repairs == kinds
        assert shown.startswith(before) or before == json.dumps(value) or _is_whole(before, value)


def _is_whole(text, value) -> bool:
    """Tell whether the end of the object brought the rest before the end of the reply."""
    try:
        return json.loads(text) == value
    except ValueError:
        return False


@pytest.mark.parametrize(("text", "shown", "value", "kinds"), REPAIRS.values(), ids=REPAIRS)
def test_no_more_is_shown_than_is_certain(text, shown, value, kinds) -> None:
    call = ToolCall(TOOLS)
    call.name = "f"
    before = ""
    for char in text:
        call.add(Function(arguments=char))
        if call.is_whole:
            break
        before = call.text
    assert shown.startswith(before)


# -- what stays as it is, and what is cut off

AS_IT_IS = [
    '{"text": "x", "count": "many"}',
    '{"text": "x", "count": 3.5}',
    '{"text": "x", "level": "extreme"}',
    '{"text": "x", "count": "1.5"}',
    '{"text": "x", "count": "null"}',
    '{"text": "x", "places": "<a><b>1</b><c>2</c></a>"}',
    '{"text": "x", "places": "<a><b><c><d>1</d></c></b></a>"}',
    '{"text": null}',
    '{"text": ["a", "b"]}',
    '{"text": "x", "place": "somewhere"}',
    '{"text": "x", "place": {"zip": "1"}}',
    '{"text": "x", "either": "one"}',
    '{"text": "x", "deep": "yes"}',
    '{"wrapped": {"text": "x"}}',
    '{"arguments": [1]}',
]


@pytest.mark.parametrize("text", AS_IT_IS)
def test_what_cannot_be_meant_otherwise_is_left_to_the_client(text) -> None:
    for slices in ([text], list(text)):
        _, shown, value, repairs = follow(slices)
        assert shown == text
        assert value == json.loads(text)
        assert repairs == set()


BROKEN = [
    '{"text": "unfinished',
    '{"text": "x", "count": ',
    '{"text": "x", "count"',
    '{"text": "x", "cou',
    '{"text": "x", "deep": tru',
    '{"text": <b>}',
    '{"text": }',
    '{"count": 3',  # what the tool requires has not come
    '{"text": "x"; "count": 3}',
    '{"text": "ls}',  # the brace was shown as part of the string
    "Paris",
    "[1, 2]",
    '[{"text": "x"}, {"text": "y"}]',
    '"text"',
    "<b>bold</b> words",
    '{"text": NaN}',
    '{"text": ' + "[" * 300,
]


@pytest.mark.parametrize("text", BROKEN)
def test_what_has_no_certain_meaning_is_cut_off(text) -> None:
    for slices in ([text], list(text)):
        before, shown, value, _ = follow(slices)
        assert value is None
        assert before == shown


@pytest.mark.parametrize(
    "text", ['{"text": "x"', '{"text": "x", "names": ["a"', '{"text": "x", "count": 1']
)
def test_what_was_cut_off_is_not_completed(text) -> None:
    _, shown, value, _ = follow([text], is_cut=True)
    assert value is None
    with pytest.raises(ValueError, match=r"."):
        json.loads(shown)


def test_wrong_types_are_put_right_in_a_whole_call_of_a_cut_reply() -> None:
    _, _, value, _ = follow(['{"text": "x", "count": "3"}'], is_cut=True)
    assert value == {"text": "x", "count": 3}


def test_without_a_schema_only_the_syntax_is_put_right() -> None:
    assert follow(['{"count": "3", "x": [1, 2}'], tools=NO_SCHEMAS)[2] == {
        "count": "3",
        "x": [1, 2],
    }
    assert follow(['{"arguments": {"a": 1}}'], tools=NO_SCHEMAS)[2] == {"arguments": {"a": 1}}


# -- continuations

FIRST_A = {"a": 1, "s": 'x\ny"z', "l": [1, {"b": [2]}, "t"]}
FIRST_S = {"s": 'x\ny"z', "a": 1}
FIRST_L = {"l": [1, {"b": [2]}, "t"], "a": 1}
SHOWN = {
    "nothing": ("{", FIRST_S, '"s":"x\\ny\\"z","a":1}'),
    "a comma": ('{"a": 1, ', {"a": 1, "b": 2}, '"b":2}'),
    "a comma too many": ('{"a": 1, ', {"a": 1}, None),
    "a key": ('{"s"', FIRST_S, ':"x\\ny\\"z","a":1}'),
    "a colon": ('{"s":', FIRST_S, '"x\\ny\\"z","a":1}'),
    "in a string": ('{"s": "x\\n', FIRST_S, 'y\\"z","a":1}'),
    "in a list": ('{"l": [1', FIRST_L, ',{"b":[2]},"t"],"a":1}'),
    "in a list, behind a comma": ('{"l": [1,', FIRST_L, '{"b":[2]},"t"],"a":1}'),
    "deep": ('{"l": [1, {"b": [', FIRST_L, '2]},"t"],"a":1}'),
    "another order": ('{"l": [', FIRST_A, '1,{"b":[2]},"t"],"a":1,"s":"x\\ny\\"z"}'),
    "another value": ('{"a": 2', FIRST_A, None),
    "another kind": ('{"a": [', FIRST_A, None),
    "another kind, deeper": ('{"l": [{"x": [', FIRST_L, None),
    "another key": ('{"b": ', FIRST_A, None),
    "another string": ('{"s": "z', FIRST_S, None),
    "too many elements": ('{"l": [1, 2, 3, ', FIRST_L, None),
    "in a key": ('{"a": 1, "s', FIRST_A, None),
    "the end": ('{"a": 1}', {"a": 1}, None),
}


@pytest.mark.parametrize(("shown", "value", "rest"), SHOWN.values(), ids=SHOWN)
def test_continuations(shown, value, rest) -> None:
    found = continue_object(shown, value)
    if rest is None:
        assert found is None or _differs(shown + found, value)
    else:
        assert found == rest
        assert json.loads(shown + found) == value


def _differs(text, value) -> bool:
    try:
        return json.loads(text) != value
    except ValueError:
        return True


def test_a_repair_that_does_not_fit_what_was_shown_is_none() -> None:
    schema = InputSchema(SCHEMA)
    assert repair_arguments('"x"}', schema, shown='{"count": 3, "text": ') is not None
    assert repair_arguments('{"text": "x"}}', schema, shown='{"arguments": ') is None
    assert repair_arguments('b"', schema, shown='{"text": 1, "x": ') is None


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-99, 99)
    | st.text(st.sampled_from('ab"\\\n{}[],: é🙂'), max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", max_size=2), inner, max_size=3)
    ),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.text("abc", min_size=1, max_size=2), VALUES, max_size=4)


@given(OBJECTS, st.integers(0, 200))
def test_every_start_of_an_object_can_be_continued(value, place) -> None:
    text = json.dumps(value, ensure_ascii=False)
    shown = text[: 1 + place % len(text)]
    rest = continue_object(shown, value)
    if rest is not None and not _differs(shown + rest, value):
        return
    # Only what is no start of a legal text, or ends amid a token, cannot be: nobody shows that.
    assert shown == text or _ends_amid_a_token(shown) or shown.rstrip().endswith(",")


def _ends_amid_a_token(shown) -> bool:
    tail = shown.rstrip()[-1:]
    return tail.isalnum() or tail in "-\\" or _is_in_key(shown) or shown.count("\\") > 0


def _is_in_key(shown) -> bool:
    """Tell whether the start ends inside a key."""
    try:
        from_json(shown.encode(), partial_mode="trailing-strings")
    except ValueError:
        return True
    return shown.count('"') % 2 == 1


# -- laws

SCALARS = st.sampled_from(
    [
        *("a", "low", "VERY high", "3", "true", '["x"]', '{"city": 1}', "null", "", "é🙂"),
        *('he said "hi", ok', "<item>a</item>", "a\nb", "\\d"),
    ]
)
INPUTS = st.dictionaries(
    st.sampled_from([*SCHEMA["properties"], "arguments", "name", "zz"]),
    st.recursive(
        SCALARS | st.none() | st.booleans() | st.integers(-5, 5) | st.floats(-9, 9, width=16),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["city", "zip", "x"]), inner, max_size=2)
        ),
        max_leaves=5,
    ),
    max_size=4,
)


@st.composite
def messes(draw):
    """Arguments as models get them wrong."""
    text = json.dumps(draw(INPUTS), ensure_ascii=draw(st.booleans()))
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(text)))
        odd = draw(st.sampled_from(['"', "}", "]", ",", "{", " ", "\n", "\\", "x", "// c\n", ":"]))
        text = draw(
            st.sampled_from(
                [
                    text[:at] + text[at + 1 :],
                    text[:at] + odd + text[at:],
                    text[:at],
                    text.replace("true", "True").replace("null", "None"),
                    text.replace('"', "'"),
                    text.replace('\\"', '"'),
                    text * 2,
                    f"```json\n{text}\n```",
                    json.dumps(text),
                    f'{{"arguments": {text}}}',
                ]
            )
        )
    return text


@given(
    messes(),
    st.lists(st.integers(0, 500), max_size=6),
    st.booleans(),
    st.sampled_from([TOOLS, NO_SCHEMAS]),
)
@settings(max_examples=500, deadline=None)
def test_cuts_never_matter(text, places, is_cut, tools) -> None:
    kinds = {"tools": tools, "is_cut": is_cut}
    whole = follow([text], **kinds)[1:]
    edges = [0, *sorted(place % (len(text) + 1) for place in places), len(text)]
    assert follow([text[a:b] for a, b in itertools.pairwise(edges)], **kinds)[1:] == whole
    assert follow(list(text), **kinds)[1:] == whole


@given(INPUTS)
@settings(max_examples=300)
def test_only_what_is_put_right_is_held(value) -> None:
    """Streaming finds the same faults as a look at the whole."""
    repairs: Repairs = set()
    expected = coerce_input(value, InputSchema(SCHEMA), repairs)
    _, shown, found, noted = follow(list(json.dumps(value)))
    assert found == expected
    assert noted == repairs
    if not repairs:
        assert shown == json.dumps(value)


def test_repairs_are_counted_and_told() -> None:
    log = RepairLog()
    for _ in range(3):
        log.add_argument_repair("type", "f")
    log.add_text_call("glm", "x" * 200)
    assert log.counts == {"type": 3, "text.glm": 1}
    first, second = log.adjustments
    assert (first.field, first.action) == ("tool_use.input", "repaired")
    assert first.reason.startswith("f: ")
    assert second.reason == f"{'x' * 64}: the call came as text (glm)"
