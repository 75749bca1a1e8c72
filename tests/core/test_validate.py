"""Bad bytes in, one error with the field's path out."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.core.errors import InvalidRequest
from dragoman.core.validate import explain_mismatch, parse_request
from dragoman.wire.anthropic import MessagesRequest
from support.plans import MINIMAL, plan, said, text, tool, user

HI = '{"role":"user","content":"Hi"}'


def refusal(body: bytes | dict, *, max_messages: int = 10, max_nesting: int = 50) -> str:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    with pytest.raises(InvalidRequest) as caught:
        parse_request(raw, max_messages=max_messages, max_nesting=max_nesting)
    return caught.value.message


def with_content(*blocks: object, role: str = "user") -> dict:
    return MINIMAL | {"messages": [{"role": role, "content": list(blocks)}]}


def raw(more: bytes) -> bytes:
    return b'{"model":"m","max_tokens":1,"messages":[' + HI.encode() + b"]" + more + b"}"


BYTES = {
    "empty": (b"", "the body is empty; send a JSON object"),
    "white space": (b" \n", "the body is empty; send a JSON object"),
    "no JSON": (b"hello", "the body is not valid JSON: invalid character (byte 0)"),
    "cut": (b'{"model":', "the body is not valid JSON: it ends too early, or"),
    "half a surrogate": (raw(b',"system":"\\ud800"'), "the body is not valid JSON: it ends"),
    "array": (b"[]", "Input should be an object, not an array"),
    "null": (b"null", "Input should be an object, not null"),
    "more behind it": (raw(b"") + b"x", "the body is not valid JSON: trailing characters"),
    "NUL": (raw(b',"system":"\0"'), "the body is not valid JSON: invalid character"),
    "NUL in an unknown field": (raw(b',"x":"\0"'), "the body is not valid JSON: invalid character"),
    "not UTF-8": (
        raw(b',"system":"\xff"'),
        "the body is not valid UTF-8 (invalid start byte, byte",
    ),
    "not UTF-8 in an unknown field": (raw(b',"x":"\xff"'), "the body is not valid UTF-8"),
    "surrogate in UTF-8": (raw(b',"x":"\xed\xa0\x80"'), "the body is not valid UTF-8"),
    "character cut at the end": (raw(b"") + b"\xe4\xb8", "the body is not valid UTF-8"),
    "float out of range": (raw(b',"temperature":1e999'), "temperature: Number out of range"),
    "too large a float in an input": (
        raw(b',"tools":[{"name":"a","input_schema":{"a":1e999}}]'),
        "tools.0.input_schema: Number out of range",
    ),
    "integer too long": (
        raw(b',"max_tokens":' + b"9" * 5000),
        "max_tokens: Integer value out of range",
    ),
    "float out of range in an unknown field": (raw(b',"x":[{"y":-1E+999}]'), "x: Number out of"),
    "float out of range in an unknown field of a block": (
        raw(b',"system":[{"type":"text","text":"a","x":1e999}]'),
        "system: Number out of range",
    ),
    "integer too long in an unknown field": (
        raw(b',"x":' + b"9" * 4301),
        "x: Integer value out of range",
    ),
    "float out of range under a key that comes again": (
        raw(b',"x":1e999,"x":1'),
        "Number out of range",
    ),
    "deep": (raw(b',"x":' + b"[" * 10_000 + b"]" * 10_000), "the body is nested deeper than 50"),
    "deep and not closed": (raw(b',"x":' + b"[" * 10_000), "the body is nested deeper"),
    "too many containers": (
        raw(b',"x":[' + b"[]," * 500_000 + b"0]"),
        "the body holds more than 500000 objects and arrays; send fewer",
    ),
    "too many strings with brackets": (
        raw(b',"x":[' + b'["["],' * 1_100_000 + b"0]"),
        "the body holds more than 500000 objects and arrays; send fewer",
    ),
}


@pytest.mark.parametrize(("body", "message"), BYTES.values(), ids=BYTES)
def test_bad_bytes(body: bytes, message: str) -> None:
    assert refusal(body).startswith(message)


@pytest.mark.parametrize("at", [0, 2**20 - 2, 2**20 - 1, 2**20, 2**20 + 5])
def test_the_place_of_broken_utf_8_is_told(at: int) -> None:
    for broken in (b"\xff", b"\xe4\xb8("):  # the second one may lie on both sides of a border
        body = b"x" * at + broken + b"x" * 2**20
        assert f", byte {at}); send JSON in UTF-8" in refusal(body)


PNG = {"type": "base64", "media_type": "image/png", "data": "iVBOR"}
FIELDS = {
    "no model": ({"max_tokens": 1, "messages": [user("Hi")]}, "model: Field required"),
    "model is a number": (
        MINIMAL | {"model": 5},
        "model: Input should be a string, not an integer",
    ),
    "model is empty": (MINIMAL | {"model": ""}, "model: String should have at least 1 character"),
    "no messages": ({"model": "m", "max_tokens": 1}, "messages: Field required"),
    "messages no array": (
        MINIMAL | {"messages": {}},
        "messages: Input should be an array, not an object",
    ),
    "messages empty": (MINIMAL | {"messages": []}, "messages: at least one message is required"),
    "too many messages": (
        MINIMAL | {"messages": [user("Hi")] * 11},
        "messages: at most 10 messages are allowed",
    ),
    "message no object": (
        MINIMAL | {"messages": ["Hi"]},
        "messages.0: Input should be an object, not a string",
    ),
    "no max_tokens": ({"model": "m", "messages": [user("Hi")]}, "max_tokens: Field required"),
    "max_tokens negative": (
        MINIMAL | {"max_tokens": -1},
        "max_tokens: Input should be greater than or equal to 0",
    ),
    "max_tokens huge": (
        MINIMAL | {"max_tokens": 10**30},
        "max_tokens: Input should be less than or equal to 2147483647",
    ),
    "max_tokens is text": (
        MINIMAL | {"max_tokens": "1"},
        "max_tokens: Input should be an integer or null, not a string",
    ),
    "temperature": (
        MINIMAL | {"temperature": 2.1},
        "temperature: Input should be less than or equal to 2",
    ),
    "top_p": (MINIMAL | {"top_p": -0.1}, "top_p: Input should be greater than or equal to 0"),
    "top_k": (MINIMAL | {"top_k": -2}, "top_k: Input should be greater than or equal to -1"),
    "budget": (
        MINIMAL | {"thinking": {"type": "enabled", "budget_tokens": -1}},
        "thinking.budget_tokens: Input should be greater than or equal to 0",
    ),
    "stream": (MINIMAL | {"stream": 1}, "stream: Input should be true or false, not an integer"),
    "stop sequence": (
        MINIMAL | {"stop_sequences": ["a", 1]},
        "stop_sequences.1: Input should be a string, not an integer",
    ),
    "too many stop sequences": (
        MINIMAL | {"stop_sequences": ["a"] * 1001},
        "stop_sequences: at most 1000 are allowed",
    ),
    "stop sequences too long in all": (
        MINIMAL | {"stop_sequences": ["a" * 201] * 100},
        "stop_sequences: at most 20000 characters in all are allowed",
    ),
    "stop sequence too long": (
        MINIMAL | {"stop_sequences": ["a", "b" * 1001]},
        "stop_sequences.1: String should have at most 1000 characters",
    ),
    "role": (
        MINIMAL | {"messages": [user("Hi"), {"role": "tool", "content": "x"}]},
        "messages.1.role: Input should be 'user', 'assistant' or 'system'",
    ),
    "no role": (MINIMAL | {"messages": [{"content": "x"}]}, "messages.0.role: Field required"),
    "no content": (
        MINIMAL | {"messages": [{"role": "user"}]},
        "messages.0.content: Field required",
    ),
    "block without type": (
        with_content({"text": "x"}),
        "messages.0.content.0.type: Field required",
    ),
    "block no object": (
        with_content(text("a"), "b"),
        "messages.0.content.1: Input should be an object, not a string",
    ),
    "text missing": (with_content({"type": "text"}), "messages.0.content.0.text: Field required"),
    "text in system missing": (
        MINIMAL | {"system": [text("a"), {"type": "text"}]},
        "system.1.text: Field required",
    ),
    "text no string": (
        with_content({"type": "text", "text": []}),
        "messages.0.content.0.text: Input should be a string or null, not an array",
    ),
    "tool_use without id": (
        with_content({"type": "tool_use", "name": "a", "input": {}}, role="assistant"),
        "messages.0.content.0.id: Field required",
    ),
    "tool_use without name": (
        with_content({"type": "tool_use", "id": "a", "input": {}}, role="assistant"),
        "messages.0.content.0.name: Field required",
    ),
    "tool_use without input": (
        with_content({"type": "tool_use", "id": "a", "name": "b"}, role="assistant"),
        "messages.0.content.0.input: Field required",
    ),
    "tool_use with text as input": (
        with_content({"type": "tool_use", "id": "a", "name": "b", "input": "x"}, role="assistant"),
        "messages.0.content.0.input: Input should be an object",
    ),
    "tool_result without id": (
        with_content({"type": "tool_result"}),
        "messages.0.content.0.tool_use_id: Field required",
    ),
    "tool_result holds an object": (
        with_content({"type": "tool_result", "tool_use_id": "a", "content": {}}),
        "messages.0.content.0.content: Input should be a string or an array of blocks",
    ),
    "block inside a result": (
        with_content({"type": "tool_result", "tool_use_id": "a", "content": [{"type": "text"}]}),
        "messages.0.content.0.content.0.text: Field required",
    ),
    "result of a server tool without id": (
        with_content({"type": "web_search_tool_result", "content": []}),
        "messages.0.content.0.tool_use_id: Field required",
    ),
    "image without source": (
        with_content({"type": "image"}),
        "messages.0.content.0.source: Field required",
    ),
    "image with text as source": (
        with_content({"type": "image", "source": "x"}),
        "messages.0.content.0.source: Input should be an object",
    ),
    "image of an unknown source": (
        with_content({"type": "image", "source": {"type": "text", "data": "x"}}),
        "messages.0.content.0.source.type: Input should be one of 'base64', 'url', 'file'",
    ),
    "image without data": (
        with_content({"type": "image", "source": {"type": "base64"}}),
        "messages.0.content.0.source.data: Field required",
    ),
    "image without url": (
        with_content({"type": "image", "source": {"type": "url", "data": "x"}}),
        "messages.0.content.0.source.url: Field required",
    ),
    "block inside a document": (
        with_content(
            {"type": "document", "source": {"type": "content", "content": [{"type": "text"}]}}
        ),
        "messages.0.content.0.source.content.0.text: Field required",
    ),
    "search_result without content": (
        with_content({"type": "search_result", "source": "a", "title": "b"}),
        "messages.0.content.0.content: Field required",
    ),
    "search_result with text as content": (
        with_content({"type": "search_result", "source": "a", "title": "b", "content": "c"}),
        "messages.0.content.0.content: Input should be an array",
    ),
    "tool without name": (
        MINIMAL | {"tools": [{"input_schema": {}}]},
        "tools.0.custom.name: Field required",
    ),
    "tool without schema": (
        MINIMAL | {"tools": [tool("a"), {"name": "b", "type": "custom"}]},
        "tools.1.custom.input_schema: Field required",
    ),
    "tool with a number as schema": (
        MINIMAL | {"tools": [{"name": "a", "input_schema": 1}]},
        "tools.0.input_schema: Input should be an object or null, not an integer",
    ),
    "tool with an odd name": (
        MINIMAL | {"tools": [tool("a b")]},
        "tools.0.custom.name: String should match pattern '^[a-zA-Z0-9_-]{1,128}$'",
    ),
    "tool with a newline in its name": (
        MINIMAL | {"tools": [tool("a\n")]},
        "tools.0.custom.name: String should match pattern '^[a-zA-Z0-9_-]{1,128}$'",
    ),
    "tool with a long name": (
        MINIMAL | {"tools": [tool("a" * 129)]},
        "tools.0.custom.name: String should match pattern '^[a-zA-Z0-9_-]{1,128}$'",
    ),
    "tool declared twice": (
        MINIMAL | {"tools": [tool("a"), tool("a")]},
        "tools: Tool names must be unique; 'a' is declared twice.",
    ),
    "choice of an odd type": (
        MINIMAL | {"tools": [tool("a")], "tool_choice": {"type": "all"}},
        "tool_choice.type: Input should be 'auto', 'any', 'tool' or 'none'",
    ),
    "choice without name": (
        MINIMAL | {"tools": [tool("a")], "tool_choice": {"type": "tool"}},
        "tool_choice.name: Field required",
    ),
    "choice of an undeclared tool": (
        MINIMAL | {"tools": [tool("a")], "tool_choice": {"type": "tool", "name": "b"}},
        "tool_choice.name: 'b' is not the name of a tool in this request; declare it",
    ),
    "format without schema": (
        MINIMAL | {"output_config": {"format": {"type": "json_schema"}}},
        "output_config.format.schema: Field required",
    ),
    "old format without schema": (
        MINIMAL | {"output_format": {"type": "json_schema"}},
        "output_format.schema: Field required",
    ),
}


@pytest.mark.parametrize(("body", "message"), FIELDS.values(), ids=FIELDS)
def test_bad_fields(body: dict, message: str) -> None:
    assert refusal(body).startswith(message)


def test_name_conflicts_have_their_code() -> None:
    with pytest.raises(InvalidRequest) as caught:
        plan(tools=[tool("a"), tool("a")])
    assert caught.value.details == {"error_code": "tool_name_conflict"}


FINE = {
    "a system message without content": {"messages": [user("Hi"), {"role": "system"}]},
    "empty content": {"messages": [user("Hi"), {"role": "assistant", "content": []}]},
    "an unknown block": {"messages": [user({"type": "future", "future": 1})]},
    "an unknown result": {
        "messages": [user({"type": "future_tool_result", "tool_use_id": "a", "content": {"a": 1}})]
    },
    "an unknown tool": {"tools": [{"type": "future_20300101", "name": "future"}]},
    "a choice without tools": {"tool_choice": {"type": "tool", "name": "a"}},
    "the choice of a tool with a fixed name": {
        "tools": [{"type": "bash_20250124"}],
        "tool_choice": {"type": "tool", "name": "bash"},
    },
    "the choice of a tool added on the way": {
        "tools": [tool("a")],
        "tool_choice": {"type": "tool", "name": "b"},
        "messages": [
            user("Hi"),
            {
                "role": "system",
                "content": [
                    {
                        "type": "tool_addition",
                        "tool": {"type": "tool_definition", "definition": tool("b")},
                    }
                ],
            },
        ],
    },
    "max_tokens 0": {"max_tokens": 0},
    "an escaped NUL": {"system": "a\0b"},
    "a document of text": {
        "messages": [user({"type": "document", "source": {"type": "content", "content": "x"}})]
    },
    "what looks like a number out of range": {"system": "1e999 " + "9" * 5000, "x": [1e300]},
    "brackets in strings": {"system": '[[[["\\"[{' * 100},
    "nulls": {"system": None, "temperature": None, "metadata": None, "thread": None},
}


@pytest.mark.parametrize("fields", FINE.values(), ids=FINE)
def test_what_is_tolerated(fields: dict) -> None:
    raw_body = json.dumps(MINIMAL | fields).encode()
    assert parse_request(raw_body, max_messages=10, max_nesting=12)


@pytest.mark.parametrize(("depth", "is_fine"), [(49, True), (50, False)])
@pytest.mark.parametrize("brackets", ["[]", "{}"])
def test_the_bound_on_nesting_is_exact(brackets: str, depth: int, *, is_fine: bool) -> None:
    opening = {"[": "[", "{": '{"a":'}[brackets[0]]
    deep = opening * depth + "0" + brackets[1] * depth
    body = raw(f',"x":{deep},"system":"\\\\\\"[["'.encode())
    if is_fine:
        parse_request(body, max_messages=10, max_nesting=50)
    else:
        assert "nested deeper than 50 levels" in refusal(body)


@pytest.mark.parametrize("before", [r"\"", r"\\", r"\\\"", "[{", ""])
def test_strings_hide_no_nesting(before: str) -> None:
    deep = "[" * 50 + "]" * 50
    body = raw(f',"system":"{before}","x":{deep}'.encode())
    assert "nested deeper than 50 levels" in refusal(body)


def test_nesting_beyond_the_interpreter_is_an_error_too() -> None:
    body = raw(b',"x":' + b"[" * 5000 + b"]" * 5000)
    assert "nested deeper" in refusal(body, max_nesting=100_000)


def test_the_last_of_equal_keys_wins() -> None:
    body = raw(b',"system":"first","max_tokens":7,"system":"last"')
    request = parse_request(body, max_messages=10, max_nesting=50)
    assert (request.system, request.max_tokens) == ("last", 7)
    double = b',"messages":[{"role":"assistant","content":[{"type":"tool_use","id":"a","name":"b",'
    body = raw(double + b'"input":{"x":1,"y":2,"x":3}}]}]')
    request = parse_request(body, max_messages=10, max_nesting=50)
    assert request.messages[0].content[0].input == {"x": 3, "y": 2}


def test_unknown_fields_are_reported() -> None:
    made = plan(tags=["a"], another={"b": 1})
    assert said(made) == [("tags", "dropped"), ("another", "dropped")]
    assert said(plan(unknown_fields=["a"])) == [("unknown_fields", "dropped")]
    assert said(plan(unknown_fields=5, tags=1)) == [
        ("unknown_fields", "dropped"),
        ("tags", "dropped"),
    ]
    assert len(said(plan(**{f"f{n}": n for n in range(50)}))) == 20


UNKNOWN_BLOCK = {"type": "future", "id": 5, "content": 7, "text": ["a"], "source": {"kind": 1}}


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": [user(UNKNOWN_BLOCK)]},
        {
            "messages": [
                user(
                    text("a"),
                    {"type": "tool_result", "tool_use_id": "t", "content": [UNKNOWN_BLOCK]},
                )
            ]
        },
        {
            "messages": [
                user(
                    {"type": "document", "source": {"type": "content", "content": [UNKNOWN_BLOCK]}}
                )
            ]
        },
        {"system": [UNKNOWN_BLOCK]},
    ],
)
def test_fields_of_an_unknown_block_may_have_any_type(fields: dict) -> None:
    made = plan(**fields, tags=1)
    assert ("tags", "dropped") in said(made)
    assert any("future" in adjustment.reason for adjustment in made.adjustments)


def test_known_blocks_beside_an_unknown_one_are_still_checked() -> None:
    wrong = with_content(UNKNOWN_BLOCK, {"type": "text", "text": 5})
    assert refusal(wrong).startswith("messages.0.content.1.text: Input should be a string")


def test_null_means_left_out() -> None:
    optional = set(MessagesRequest.__struct_fields__) - set(MINIMAL) - {"unknown_fields"}
    nulls = MINIMAL | dict.fromkeys(optional) | {"tool_choice": {"type": "auto", "name": None}}
    nulls["tool_choice"]["disable_parallel_tool_use"] = None
    made = plan(**nulls)
    assert (made.body["messages"], said(made)) == ([{"role": "user", "content": "Hi"}], [])
    for name in MINIMAL:
        assert refusal(nulls | {name: None}) == f"{name}: Field required"


def test_wrong_types_beside_unknown_fields_are_still_found() -> None:
    assert refusal(MINIMAL | {"tags": 1, "top_p": "x"}).startswith("top_p: Input should be")


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(body: bytes) -> None:
    try:
        request = parse_request(body, max_messages=10, max_nesting=20)
    except InvalidRequest:
        return
    assert isinstance(request, MessagesRequest)


@given(st.data())
def test_no_mutation_raises_anything_else(data: st.DataObject) -> None:
    body = bytearray(
        json.dumps(with_content(text("é["), {"type": "image", "source": PNG})).encode()
    )
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(body) - 1))
        end = data.draw(st.integers(at, min(len(body), at + 8)))
        body[at:end] = data.draw(st.binary(max_size=4))
        if not body:
            return
    test_no_bytes_raise_anything_else.hypothesis.inner_test(bytes(body))


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(), inner)),
    max_leaves=5,
)


@given(
    st.dictionaries(
        st.sampled_from(sorted(MessagesRequest.__struct_fields__)), json_values, max_size=4
    )
)
def test_no_values_raise_anything_else(fields: dict) -> None:
    body = json.dumps(MINIMAL | fields).encode()
    test_no_bytes_raise_anything_else.hypothesis.inner_test(body)


BOUNDS = {
    "Expected `str` of length >= 1 - at `$.name`": "name: String should have at least 1 character",
    "Expected `str` of length <= 100 - at `$.a[0].b`": (
        "a.0.b: String should have at most 100 characters"
    ),
    "Expected `array` of length <= 9": "List should have at most 9 items",
    "Expected `int` >= 0 - at `$.n`": "n: Input should be greater than or equal to 0",
    "Expected `float` <= 2.5": "Input should be less than or equal to 2.5",
    "Expected `float` > 0.0": "Input should be greater than 0",
    "Expected `float` < -1": "Input should be less than -1",
    "Invalid RFC3339 encoded datetime - at `$.at`": (
        "at: Input should be a time such as 2026-12-31T00:00:00Z"
    ),
    f"Object contains unknown field `{'x' * 9000}` - at `$.a`": (
        f"a.{'x' * 60}: Extra inputs are not permitted"
    ),
    "Something new - at `$.at`": "at: Something new",
}


@pytest.mark.parametrize(("said", "message"), BOUNDS.items(), ids=BOUNDS)
def test_bounds_are_told_in_the_words_of_the_api(said: str, message: str) -> None:
    assert explain_mismatch(said).message == message
