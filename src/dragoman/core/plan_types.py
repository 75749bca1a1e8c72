"""What a plan is: everything that is decided before the upstream is called, as types."""

from typing import Any, Literal

from msgspec import Struct, field

from dragoman.core.adjustments import Adjustment
from dragoman.core.dialects.profile import DialectProfile
from dragoman.core.guards import Guards
from dragoman.core.server_tools import ServerTool
from dragoman.core.tools import ToolTable
from dragoman.wire.anthropic import MessagesRequest


class Deployment(Struct, frozen=True, kw_only=True):
    """An upstream, the model's name there, and how that model behaves."""

    upstream: str
    model: str
    profile: DialectProfile
    kind: Literal["openai", "anthropic"] = "openai"
    guards: Guards = Guards()


class ServerCall(Struct, frozen=True, kw_only=True):
    """The model's call of a server tool; *id* is the upstream's, or ours where it sent none."""

    id: str
    name: str
    arguments_json: str


class Plan(Struct, frozen=True, kw_only=True):
    """
    What will be sent and how the reply is to be read.

    ``body`` is the chat-completions request as plain JSON values, ready to be encoded. Its tools
    may be shared by plans.
    """

    request: MessagesRequest
    deployment: Deployment
    body: dict[str, Any]
    adjustments: tuple[Adjustment, ...]
    input_tokens_estimate: int
    # Before calibration; 0 where no count would teach anything: pictures are guessed.
    uncalibrated_tokens: int = 0
    is_calibrated: bool = False
    tool_names: frozenset[str] = frozenset()
    tool_table: ToolTable | None = None
    # Function name upstream -> (name, toolset_name) for members of a client toolset.
    toolset_members: dict[str, tuple[str, str]] = field(default_factory=dict)
    server_tools: dict[str, ServerTool] = field(default_factory=dict)
    # Function name -> the client's schema, where the upstream got another: arguments must fit it.
    own_schemas: dict[str, dict[str, Any]] = field(default_factory=dict)
    # Matched and cut by us, because the upstream cannot say which one matched or takes fewer.
    local_stop_sequences: tuple[str, ...] = ()
    # A forced tool sent as response_format json_schema: the text that comes back is its call.
    forced_by_schema: bool = False
    forced_by_hint: bool = False  # a forced tool that could only be asked for
    forced_by_choice: bool = False  # a forced tool that the upstream was told to bind
    show_thinking: Literal["full", "omitted", "none"] = "none"
    begins_thinking: bool = True  # the reply may begin with thinking
    single_tool_call: bool = False
    # The window left no more tokens than were asked for: to use them up is to fill the window.
    fills_window: bool = False
    is_looping: bool = False  # the last call has been made too often with the same input
