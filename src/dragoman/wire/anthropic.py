"""
Messages API request as clients send it.

Blocks are one flat Struct read by ``type``: the API adds block types faster than gateways are
updated, and a tagged union would refuse the unknown ones. Fields that are only carried, never read
(tool schemas, tool inputs), stay plain JSON values. Unknown fields are ignored by the decoder.
"""

from typing import Any, Final, Literal

import msgspec
from msgspec import Struct, field


class CacheControl(Struct, gc=False):
    """A cache breakpoint; upstream prefix caches are automatic."""

    type: str = "ephemeral"
    ttl: str | None = None


class Source(Struct):
    """Where the bytes of an image or document are: base64, url, text, content or file."""

    type: str
    media_type: str | None = None
    data: str | None = None
    url: str | None = None
    file_id: str | None = None
    content: "str | list[Block] | None" = None


class Block(Struct):
    """
    One content block of a request, of any type.

    ``content`` is a string, a list of blocks, or (results of server tools) one object.
    """

    type: str
    text: str | None = None
    source: Source | str | None = None  # search_result: a string
    transformations: Any = None  # image
    title: str | None = None
    context: str | None = None
    content: "str | list[Block] | dict[str, Any] | None" = None
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None  # redacted_thinking
    id: str | None = None
    name: str | None = None
    input: Any = None
    caller: Any = None  # tool_use, server_tool_use: who called
    toolset_name: str | None = None
    server_name: str | None = None
    tool_use_id: str | None = None
    is_error: bool | None = None
    tool_name: str | None = None  # tool_reference
    tool: dict[str, Any] | None = None  # tool_addition, tool_removal
    file_id: str | None = None  # container_upload
    encrypted_content: str | None = None
    url: str | None = None  # web_search_result
    page_age: str | None = None
    mcp_server_name: str | None = None  # mcp_tool_listing
    tools: list[Any] | None = None
    tool_changes: "list[Block] | None" = None  # compaction
    tabs: Any = None  # browser_state
    state_changes: Any = None
    citations: Any = None
    cache_control: CacheControl | None = None


class _Missing(str):
    """Tells content that was left out from content that is empty."""

    __slots__ = ()


MISSING_CONTENT: Final = _Missing()


class Message(Struct):
    """One turn of the conversation; ``system`` may stand in the middle."""

    role: Literal["user", "assistant", "system"]
    content: str | list[Block] = MISSING_CONTENT  # only ``system`` may leave it out
    clear_at: str | None = None  # system: never, next_user_message
    output_config: Any = None  # system: {effort}


class Tool(Struct, omit_defaults=True):
    """A tool of any type; no ``type`` means ``custom``."""

    name: str | None = None
    type: str | None = None
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    input_examples: list[Any] | None = None
    strict: bool | None = None
    defer_loading: bool | None = None
    display_width_px: int | None = None
    display_height_px: int | None = None
    display_number: int | None = None
    enable_zoom: bool | None = None
    max_characters: int | None = None
    configs: Any = None
    default_config: Any = None
    allowed_callers: list[Any] | None = None
    mcp_server_name: str | None = None
    tools: list[Any] | None = None  # mcp_toolset with a pinned listing
    cache_control: CacheControl | None = None


class ToolChoice(Struct, gc=False):
    """auto, any, tool (with a name) or none."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool = False


class Thinking(Struct, gc=False):
    """Extended thinking; unknown types count as disabled."""

    type: str
    budget_tokens: int | None = None
    display: str | None = None
    block_binding: Any = None


class OutputFormat(Struct):
    """Structured output: only json_schema exists."""

    type: str
    schema: dict[str, Any] | None = None


class OutputConfig(Struct):
    """How the answer should look and how hard the model should try."""

    effort: str | None = None
    format: OutputFormat | None = None
    task_budget: Any = None


class Metadata(Struct, gc=False):
    """Who the client's own user is."""

    user_id: str | None = None


class MessagesRequest(Struct, kw_only=True):
    """Body of POST /v1/messages and, without max_tokens, of /v1/messages/count_tokens."""

    model: str
    messages: list[Message]
    max_tokens: int | None = None
    system: str | list[Block] | None = None
    stream: bool = False
    stop_sequences: list[str] = field(default_factory=list)
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    metadata: Metadata | None = None
    tools: list[Tool] = field(default_factory=list)
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    output_format: OutputFormat | None = None  # legacy beta name of output_config.format
    cache_control: CacheControl | None = None
    service_tier: str | None = None
    speed: str | None = None
    inference_geo: str | None = None
    container: Any = None
    mcp_servers: list[Any] | None = None
    context_management: Any = None
    compaction: Any = None
    thread: Any = None
    fallbacks: Any = None
    fallback_credit_token: Any = None
    diagnostics: Any = None
    billing_policy: Any = None
    safeguards: Any = None
    # Names of fields that we do not know: set by the parser, whatever the client sends.
    unknown_fields: Any = ()


class _KnownFieldsOnly(MessagesRequest, forbid_unknown_fields=True):
    """The same, refusing unknown fields at the top level."""


NO_TOOLS: Final = msgspec.Raw(b"[]")  # what stands for tools that were left out


class _ToolsAsTheyCame(MessagesRequest, forbid_unknown_fields=True):
    """The same, with tools that may be known already: the parser puts their list there."""

    tools: msgspec.Raw = NO_TOOLS  # type: ignore[assignment]


decode_known: Final = msgspec.json.Decoder(_KnownFieldsOnly).decode
decode_request: Final = msgspec.json.Decoder(MessagesRequest).decode
decode_without_tools: Final = msgspec.json.Decoder(_ToolsAsTheyCame).decode
decode_tools: Final = msgspec.json.Decoder(list[Tool]).decode
decode_any: Final = msgspec.json.Decoder().decode
decode_members: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
