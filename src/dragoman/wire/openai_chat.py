"""
Chat-completions JSON as upstreams send it. Fields we do not read are not declared.

Types are as wide as real servers are odd: ids may be numbers, arguments may be objects, text may be
a list of parts, and any field may be null.
"""

from typing import Any, Final, Literal

import msgspec
from msgspec import Struct


class TokenDetails(Struct, gc=False):
    """Sub-counts; which of them exist depends on the server."""

    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    cache_write_tokens: int | None = None
    created_cache_tokens: int | None = None


class Usage(Struct, gc=False):
    """Token counts. ``prompt_tokens`` includes tokens read from the cache, on every server read."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: TokenDetails | None = None
    completion_tokens_details: TokenDetails | None = None
    prompt_cache_hit_tokens: int | None = None  # DeepSeek
    cached_tokens: int | None = None  # Moonshot
    reasoning_tokens: int | None = None  # SGLang
    cache_creation_input_tokens: int | None = None  # DashScope, explicit cache


class Function(Struct):
    """Name and arguments of a call, or a piece of them."""

    name: str | None = None
    arguments: str | dict[str, Any] | list[Any] | None = None


class ToolCall(Struct):
    """One call, or one fragment of it."""

    index: int | None = None
    id: str | int | float | None = None
    function: Function | None = None


class ReasoningDetail(Struct):
    """One entry of OpenRouter's ``reasoning_details``."""

    text: str | None = None
    summary: str | None = None


class ContentPart(Struct):
    """One part of content given as a list."""

    text: str | None = None


class Delta(Struct):
    """New pieces of the message; in a whole reply, the message itself."""

    content: str | list[ContentPart] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    reasoning_details: list[ReasoningDetail] | None = None
    refusal: str | None = None
    tool_calls: list[ToolCall] | None = None
    function_call: Function | None = None  # the old single-call form


class Choice(Struct):
    """The only choice read is the first: no request of ours asks for more."""

    index: int | None = None
    delta: Delta | None = None
    message: Delta | None = None
    finish_reason: str | None = None
    stop_reason: str | int | None = None  # vLLM: the stop string, or a token id
    matched_stop: str | int | None = None  # SGLang: the same
    usage: Usage | None = None  # Moonshot


class Chunk(Struct):
    """A streamed chunk, a whole reply, or an error object in the place of either."""

    choices: list[Choice] | None = None
    usage: Usage | None = None
    error: Any = None
    object: str | None = None
    message: Any = None  # SGLang's flat error
    code: Any = None
    type: Any = None


class TextDelta(Struct, gc=False):
    """A delta of text and nothing else."""

    content: str
    reasoning_content: None = None
    reasoning: None = None
    reasoning_details: None = None
    refusal: None = None
    tool_calls: None = None
    function_call: None = None


class TextChoice(Struct, gc=False):
    """A choice with such a delta."""

    delta: TextDelta
    index: Literal[0] = 0
    finish_reason: None = None
    usage: None = None


class TextChunk(Struct, gc=False):
    """A chunk of text and nothing else, as nearly all are: what is more than that is refused."""

    choices: tuple[TextChoice]
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    usage: None = None
    error: None = None


_decoder: Final = msgspec.json.Decoder(Chunk, strict=False)
decode_chunk: Final = _decoder.decode
decode_text_chunk: Final = msgspec.json.Decoder(TextChunk).decode
