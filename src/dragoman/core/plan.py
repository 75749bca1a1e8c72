"""Request + deployment -> Plan: everything decided before the upstream is called."""

from typing import Any, Literal

from msgspec import Struct, field

from dragoman.core.dialects.profile import DialectProfile
from dragoman.wire.anthropic import MessagesRequest


class Adjustment(Struct, frozen=True, gc=False):
    """One thing the client asked for that the upstream will not get as asked."""

    field: str
    action: Literal["dropped", "clamped", "emulated", "repaired", "refused"]
    reason: str


class Deployment(Struct, frozen=True, kw_only=True):
    """An upstream, the model's name there, and how that model behaves."""

    upstream: str
    model: str
    profile: DialectProfile
    kind: Literal["openai", "anthropic"] = "openai"


class ServerTool(Struct, frozen=True, kw_only=True):
    """A tool that the API itself would run; shown to the model as a function of this name."""

    name: str
    result_type: str  # type of the result block: web_search_tool_result, ...
    error_type: str  # type of the error object inside; "" for mcp_tool_result
    mcp_server: str = ""


class ServerCall(Struct, frozen=True, kw_only=True):
    """The model's call of a server tool; *id* is the upstream's, or ours where it sent none."""

    id: str
    name: str
    arguments_json: str


class Plan(Struct, frozen=True, kw_only=True):
    """
    What will be sent and how the reply is to be read.

    ``body`` is the chat-completions request as plain JSON values, ready to be encoded.
    """

    request: MessagesRequest
    deployment: Deployment
    body: dict[str, Any]
    adjustments: tuple[Adjustment, ...]
    input_tokens_estimate: int
    tool_names: frozenset[str] = frozenset()
    # Function name upstream -> (name, toolset_name) for members of a client toolset.
    toolset_members: dict[str, tuple[str, str]] = field(default_factory=dict)
    server_tools: dict[str, ServerTool] = field(default_factory=dict)
    # Matched and cut by us, because the upstream cannot say which one matched or takes fewer.
    local_stop_sequences: tuple[str, ...] = ()
    # A forced tool sent as response_format json_schema: the text that comes back is its call.
    forced_by_schema: bool = False
    show_thinking: Literal["full", "omitted", "none"] = "none"
    single_tool_call: bool = False
