"""
Bytes of a request -> MessagesRequest, or InvalidRequest with the path of the field that is wrong.

Only what no model could make sense of is refused; what merely breaks a rule of Anthropic's models
is repaired later and reported. Unknown fields and block types are never an error.
"""

import codecs
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from dragoman.core.counted import counted
from dragoman.core.errors import InvalidRequest
from dragoman.core.tool_memory import ToolMemory
from dragoman.core.validate_blocks import blank_unknown_blocks, check_blocks
from dragoman.wire.anthropic import (
    MISSING_CONTENT,
    NO_TOOLS,
    MessagesRequest,
    OutputFormat,
    Tool,
    ToolChoice,
    decode_any,
    decode_known,
    decode_members,
    decode_request,
    decode_tools,
    decode_without_tools,
)

# Objects and arrays: the smallest of them takes twenty times its bytes in memory. 100,000 messages
# of one block each hold 300,000.
_MAX_CONTAINERS: Final = 500_000
_MAX_COUNT: Final = 2**31 - 1  # what the integers of every upstream's own parser can hold
# Each stop sequence is looked for in every piece of text.
_MAX_STOPS: Final = 1000
_MAX_STOP_CHARS: Final = 1000
_MAX_STOP_CHARS_IN_ALL: Final = 20_000
_MAX_UNKNOWN_FIELDS: Final = 20
_MAX_NAME: Final = 60  # characters of the client's own names that are repeated to it
_SHORT_BYTES: Final = 2048
# Up to so many quotes a body is cut at each of them: a piece costs forty bytes beside its own.
_MAX_CUTS: Final = 100_000
_BACKSLASH: Final = ord("\\")  # as a number it is found faster than as bytes
_KEPT: Final = b'"[]{}'
_NOT_KEPT: Final = bytes(set(range(256)) - set(_KEPT))
# Of strings, brackets and numbers enough is kept to tell them apart, and all brackets are braces.
# With all digits alike, what may be a number out of range is found without reading any.
_TO_OUTLINE: Final = bytes.maketrans(b"[]123456789E", b"{}000000000e")
_NOT_OUTLINE: Final = bytes(set(range(256)) - set(b'"[]{}0123456789eE+-,'))
_NOT_BRACES: Final = bytes(set(range(256)) - set(b"{}"))
_TO_BRACES: Final = bytes.maketrans(b"[]", b"{}")
_MANY_DIGITS: Final = b"0" * 4000  # no int of Python has 4301
_TOOL_NAME: Final = re.compile(r"[a-zA-Z0-9_-]{1,128}")
_AT: Final = re.compile(r"(.*?)(?: - at `\$(.*)`)?", re.DOTALL)
_INDEX: Final = re.compile(r"\[(\d+)\]")
_UNKNOWN: Final = re.compile(r"Object contains unknown field `(.*)`")
_MISSING: Final = re.compile(r"Object missing required field `(.*)`")
_EXPECTED: Final = re.compile(r"Expected `(.*)`, got `(.*)`")
_LENGTH: Final = re.compile(r"Expected `(str|array)` of length ([<>]=) (\d+)")
_SIZE: Final = re.compile(r"Expected `(?:int|float)` ([<>]=?) (-?[\d.]+)")
_NO_TIME: Final = "Invalid RFC3339 encoded datetime"
_SIGNS: Final = {
    ">=": "greater than or equal to",
    "<=": "less than or equal to",
    ">": "greater than",
    "<": "less than",
}
_KINDS: Final = {
    "str": "a string",
    "int": "an integer",
    "float": "a number",
    "bool": "true or false",
    "array": "an array",
    "object": "an object",
}
_ENUMS: Final = {
    "role": "'user', 'assistant' or 'system'",
    "tool_choice.type": "'auto', 'any', 'tool' or 'none'",
}


def parse_request(
    body: bytes,
    *,
    max_messages: int,
    max_nesting: int,
    for_count: bool = False,
    memory: ToolMemory | None = None,
) -> MessagesRequest:
    """
    Read the body of a request.

    Args:
        body: Any bytes at all, already inflated.
        max_messages: More are refused.
        max_nesting: Deepest allowed nesting of objects and arrays, the body itself included.
        for_count: ``max_tokens`` may be missing.
        memory: Tools that came before need not be read again.

    Raises:
        InvalidRequest: In every case of bad input; nothing else comes out.
    """
    if not body or body.isspace():
        raise InvalidRequest("", "the body is empty; send a JSON object")
    if not body.isascii():
        _check_utf8(body)
    request = _decode(body, memory, is_suspect=_check_nesting(body, max_nesting))
    _check_fields(request, max_messages=max_messages, for_count=for_count)
    if request.tools and (memory is None or not memory.knows(request.tools)):
        _check_tools(request.tools)
    if request.tool_choice is not None:
        _check_tool_choice(request, request.tool_choice)
    if request.system is not None:
        check_blocks(request.system, "system")
    for number, message in enumerate(request.messages):
        content = message.content
        if not isinstance(content, str):
            check_blocks(content, f"messages.{number}.content")
        elif content is MISSING_CONTENT and message.role != "system":
            raise InvalidRequest(f"messages.{number}.content", "Field required")
    return request


def _check_utf8(body: bytes) -> None:
    """Check all of the body: the decoder skips the strings of fields that it does not know."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    view, step = memoryview(body), 2**20  # in pieces: a decoded copy may be four times as large
    start = 0
    try:
        for start in range(0, len(body), step):
            decoder.decode(view[start : start + step], final=start + step >= len(body))
    except UnicodeDecodeError as error:
        # It counts from what was left of the piece before, with the part of a character held back.
        at = start - (len(error.object) - len(view[start : start + step])) + error.start
        reason = f"the body is not valid UTF-8 ({error.reason}, byte {at}); send JSON in UTF-8"
        raise InvalidRequest("", reason) from None


def _check_nesting(body: bytes, max_nesting: int) -> bool:
    """
    Bound depth and number of containers before anything is built from them.

    Returns:
        Whether there may be numbers out of range. That is seen in the same outline, in which all
        digits are alike.

    Nothing but brackets is left of the body; innermost pairs are removed until none is left. All
    in C: 70 us for a request of 120 kB with twenty tools.
    """
    if len(body) <= _SHORT_BYTES:
        outline = body.translate(_TO_OUTLINE)  # with its strings: what is found is read again
        if outline.count(b"{") <= max_nesting:
            # To ask whether bytes are in bytes costs three times as much.
            return outline.find(b"0e") >= 0 and _may_hold_huge(outline)
    outline, brackets = _without_strings(body)
    if brackets.count(b"{") > _MAX_CONTAINERS:
        raise _too_many()
    for _ in range(max_nesting):
        rest = brackets.replace(b"{}", b"")
        if len(rest) == len(brackets):  # done, or not JSON, which the decoder says better
            return _may_hold_huge(outline)
        brackets = rest
    if brackets:
        raise _too_deep(f"{max_nesting} levels")
    return _may_hold_huge(outline)


def _may_hold_huge(outline: bytes) -> bool:
    return b"0e000" in outline or b"0e+000" in outline or _MANY_DIGITS in outline


def _without_strings(body: bytes) -> tuple[bytes, bytes]:
    """Return what can hold numbers, and all brackets outside strings, as braces."""
    text = body
    if _BACKSLASH in body:
        text = body.replace(rb"\\", b"").replace(rb"\"", b"")
    pieces = text.split(b'"', _MAX_CUTS)  # every second one is a string
    if len(pieces) <= _MAX_CUTS:
        outline = b"".join(pieces[::2]).translate(_TO_OUTLINE, _NOT_OUTLINE)
        return outline, outline.translate(None, _NOT_BRACES)
    del pieces
    outline = text.translate(_TO_OUTLINE, _NOT_OUTLINE)
    # Strings without brackets vanish here; two that come together are as good as one.
    kept = text.translate(None, _NOT_KEPT).replace(b'""', b"")
    if kept.count(b'"') > 4 * _MAX_CONTAINERS:  # a bracket stands between any two strings left
        raise _too_many()
    return outline, b"".join(kept.split(b'"')[::2]).translate(_TO_BRACES)


def _too_many() -> InvalidRequest:
    reason = f"the body holds more than {_MAX_CONTAINERS} objects and arrays; send fewer"
    return InvalidRequest("", reason)


def _too_deep(limit: str) -> InvalidRequest:
    return InvalidRequest("", f"the body is nested deeper than {limit}; flatten it")


def _decode(body: bytes, memory: ToolMemory | None, *, is_suspect: bool) -> MessagesRequest:
    try:
        try:
            request = _decode_known_or_not(body, memory)
        except msgspec.ValidationError as error:
            request = _decode_forgivingly(body, error)
        if is_suspect:
            _check_numbers(body)
    except msgspec.ValidationError as error:
        raise explain_mismatch(str(error)) from None
    except msgspec.DecodeError as error:
        reason = f"the body is not valid JSON: {_reason(str(error))}"
        raise InvalidRequest("", reason) from None
    except RecursionError:
        raise _too_deep("can be read") from None
    except (ValueError, OverflowError) as error:  # UnicodeDecodeError is one
        reason = f"the body cannot be read ({type(error).__name__}); send a JSON object"
        raise InvalidRequest("", reason) from None
    return request


def _decode_forgivingly(body: bytes, reason: msgspec.ValidationError) -> MessagesRequest:
    """Decode what has broken our types, for *reason*, without what may break them."""
    try:
        document = decode_any(body)
    except msgspec.ValidationError:
        document = None  # a number out of range: the first error says where
    if not isinstance(document, dict) or not _forgive(document):
        raise reason
    request = msgspec.convert(document, MessagesRequest)
    request.unknown_fields = tuple(_unknown_fields(body))
    return request


def _forgive(request: dict[str, Any]) -> bool:
    """Take out nulls, which to many clients mean "left out", and blocks that cannot be known."""
    tables = [t for t in (request, request.get("tool_choice")) if isinstance(t, dict)]
    nulls = [(table, name) for table in tables for name in table if table[name] is None]
    for table, name in nulls:
        del table[name]
    return blank_unknown_blocks(request) or bool(nulls)


def _decode_known_or_not(body: bytes, memory: ToolMemory | None) -> MessagesRequest:
    request: MessagesRequest
    try:
        if memory is None:
            request = decode_known(body)
        else:
            undecoded: Any = decode_without_tools(body)
            if undecoded.tools is NO_TOOLS:
                undecoded.tools = memory.no_tools
                request = undecoded
            else:
                request = _with_tools(undecoded, body, memory)
    except msgspec.ValidationError as error:
        if not str(error).startswith("Object contains unknown field"):
            raise
        request = decode_request(body)
        request.unknown_fields = tuple(_unknown_fields(body))
        return request
    if request.unknown_fields != ():  # a client's own field of this name
        request.unknown_fields = ("unknown_fields",)
    return request


def _with_tools(request: MessagesRequest, body: bytes, memory: ToolMemory) -> MessagesRequest:
    """Put its tools into *request*, in which they are still as they came."""
    raw = bytes(request.tools)  # type: ignore[arg-type]  # they are bytes until now
    tools = memory.recall(raw)
    if tools is None:
        try:
            tools = decode_tools(raw)
        except msgspec.ValidationError:
            return decode_known(body)  # it fails, too, and says where in the whole request
        _check_tools(tools)
        memory.keep(raw, tools)
    request.tools = tools
    return request


def _check_numbers(body: bytes) -> None:
    """Refuse numbers out of range also where the decoder skips them: in fields it does not know."""
    try:
        decode_any(body)
    except msgspec.ValidationError as error:
        raise InvalidRequest(_name_of_huge(body), explain_mismatch(str(error)).message) from None


def _name_of_huge(body: bytes) -> str:
    for name, value in decode_members(body).items():
        try:
            decode_any(value)
        except msgspec.ValidationError:
            return name[:_MAX_NAME]
    return ""


def _unknown_fields(body: bytes) -> Iterator[str]:
    known = set(MessagesRequest.__struct_fields__) - {"unknown_fields"}
    unknown = [name for name in decode_members(body) if name not in known]
    for name in unknown[:_MAX_UNKNOWN_FIELDS]:
        yield name[:_MAX_NAME]


def _reason(said: str) -> str:
    if "truncated" in said:  # also said of half a surrogate pair
        return "it ends too early, or holds half of a \\u surrogate pair"
    return said.removeprefix("JSON is malformed: ")


def explain_mismatch(said: str, choices: Mapping[str, str] = _ENUMS) -> InvalidRequest:
    """
    Return msgspec's sentence in the API's form.

    Args:
        said: The sentence.
        choices: Ends of paths -> what may stand there, where that is one of few words.
    """
    match = _AT.fullmatch(said)
    reason, at = match.groups() if match else (said, None)
    known = (at or "").partition("[...]")[0]  # inside plain JSON it does not say where
    path = _INDEX.sub(r".\1", known).removeprefix(".")
    if unknown := _UNKNOWN.fullmatch(reason):
        field = f"{path}.{unknown[1][:_MAX_NAME]}".lstrip(".")
        return InvalidRequest(field, "Extra inputs are not permitted")
    if missing := _MISSING.fullmatch(reason):
        field = f"{path}.{missing[1]}" if path else missing[1]
        return InvalidRequest(field, "Field required")
    if expected := _EXPECTED.fullmatch(reason):
        wanted = " or ".join(_KINDS.get(kind, kind) for kind in expected[1].split(" | "))
        got = _KINDS.get(expected[2], expected[2])
        return InvalidRequest(path, f"Input should be {wanted}, not {got}")
    if bound := _bound(reason):
        return InvalidRequest(path, bound)
    if reason.startswith("Invalid enum value"):
        for name, values in choices.items():
            if path.endswith(name):
                return InvalidRequest(path, f"Input should be {values}")
    return InvalidRequest(path, reason)


def _bound(reason: str) -> str:
    """Return which bound was passed, in the API's words; empty: it is not about one."""
    if found := _LENGTH.fullmatch(reason):
        kind, sign, number = found.groups()
        what, unit = ("String", "character") if kind == "str" else ("List", "item")
        end = "least" if sign == ">=" else "most"
        return f"{what} should have at {end} {counted(int(number), unit)}"
    if found := _SIZE.fullmatch(reason):
        return f"Input should be {_SIGNS[found[1]]} {found[2].removesuffix('.0')}"
    return "Input should be a time such as 2026-12-31T00:00:00Z" if reason == _NO_TIME else ""


# -- fields


def _check_fields(request: MessagesRequest, *, max_messages: int, for_count: bool) -> None:
    if not request.model:
        raise InvalidRequest("model", "String should have at least 1 character; name a model")
    if not request.messages:
        raise InvalidRequest("messages", "at least one message is required")
    if len(request.messages) > max_messages:
        raise InvalidRequest("messages", f"at most {max_messages} messages are allowed")
    max_tokens = request.max_tokens
    if max_tokens is None:
        if not for_count:
            raise InvalidRequest("max_tokens", "Field required")
    elif max_tokens < 0 or max_tokens > _MAX_COUNT:
        _check_range("max_tokens", max_tokens, 0, _MAX_COUNT)
    if request.temperature is not None or request.top_p is not None or request.top_k is not None:
        _check_sampling(request)
    if request.stop_sequences:
        _check_stops(request.stop_sequences)
    if request.thinking is not None and request.thinking.budget_tokens is not None:
        _check_range("thinking.budget_tokens", request.thinking.budget_tokens, 0, _MAX_COUNT)
    if request.output_config is not None:
        _check_format("output_config.format", request.output_config.format)
    if request.output_format is not None:
        _check_format("output_format", request.output_format)


def _check_sampling(request: MessagesRequest) -> None:
    if request.temperature is not None:
        _check_range("temperature", request.temperature, 0, 2)
    if request.top_p is not None:
        _check_range("top_p", request.top_p, 0, 1)
    if request.top_k is not None:
        _check_range("top_k", request.top_k, -1, _MAX_COUNT)  # -1: off, to some clients


def _check_format(path: str, form: OutputFormat | None) -> None:
    if form is not None and form.type == "json_schema" and form.schema is None:
        raise InvalidRequest(f"{path}.schema", "Field required")


def _check_stops(stops: list[str]) -> None:
    if len(stops) > _MAX_STOPS:
        raise InvalidRequest("stop_sequences", f"at most {_MAX_STOPS} are allowed")
    for number, stop in enumerate(stops):
        if len(stop) > _MAX_STOP_CHARS:
            reason = f"String should have at most {_MAX_STOP_CHARS} characters"
            raise InvalidRequest(f"stop_sequences.{number}", reason)
    if sum(map(len, stops)) > _MAX_STOP_CHARS_IN_ALL:
        reason = f"at most {_MAX_STOP_CHARS_IN_ALL} characters in all are allowed"
        raise InvalidRequest("stop_sequences", reason)


def _check_range(path: str, value: float, low: float, high: float) -> None:
    if value < low:
        raise InvalidRequest(path, f"Input should be greater than or equal to {low}")
    if value > high:
        raise InvalidRequest(path, f"Input should be less than or equal to {high}")


# -- tools


def _check_tools(tools: list[Tool]) -> None:
    names: set[str] = set()
    for number, tool in enumerate(tools):
        path = f"tools.{number}"
        if tool.name is not None:
            _check_tool_name(tool.name, path, names)
        if tool.type in (None, "custom"):
            for field, value in (("name", tool.name), ("input_schema", tool.input_schema)):
                if value is None:
                    raise InvalidRequest(f"{path}.custom.{field}", "Field required")


def _check_tool_name(name: str, path: str, names: set[str]) -> None:
    if not _TOOL_NAME.fullmatch(name):
        reason = "String should match pattern '^[a-zA-Z0-9_-]{1,128}$'"
        raise InvalidRequest(f"{path}.custom.name", reason)
    if name in names:
        reason = f"Tool names must be unique; {name[:_MAX_NAME]!r} is declared twice."
        raise InvalidRequest("tools", reason, details={"error_code": "tool_name_conflict"})
    names.add(name)


def _check_tool_choice(request: MessagesRequest, choice: ToolChoice) -> None:
    if choice.type != "tool":
        return
    if choice.name is None:
        raise InvalidRequest("tool_choice.name", "Field required")
    tools = request.tools
    if not tools or any(tool.name == choice.name for tool in tools):
        return  # without any tool it is ignored, and reported
    if any(_names_more(tool) for tool in tools) or _adds_tools(request):
        return
    reason = f"{choice.name[:_MAX_NAME]!r} is not the name of a tool in this request; declare it"
    raise InvalidRequest("tool_choice.name", reason)


def _names_more(tool: Tool) -> bool:
    """Tell whether *tool* stands for several, or has a name that goes without saying."""
    return tool.name is None or tool.type not in (None, "custom")


def _adds_tools(request: MessagesRequest) -> bool:
    blocks = (m.content for m in request.messages if not isinstance(m.content, str))
    return any(block.type == "tool_addition" for content in blocks for block in content)
