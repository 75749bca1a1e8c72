"""Tools of a request -> functions for the upstream, and the way back from their names."""

import hashlib
import re
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from typing import Any, Final, Protocol

import msgspec
from msgspec import Struct

from dragoman.core.adjustments import Adjustment, Adjustments
from dragoman.core.client_tools import client_tool_function, toolset_members
from dragoman.core.dialects.profile import DialectProfile
from dragoman.core.server_tools import ServerFunction, ServerTool, mcp_functions, server_functions
from dragoman.core.tool_schemas import fit_input_schema
from dragoman.core.tool_uses import ToolUses, scan_tool_uses
from dragoman.wire.anthropic import Block, MessagesRequest, Tool

_encode: Final = msgspec.json.Encoder().encode
_MAX_NAME: Final = 64  # of most upstreams; Anthropic allows 128
_ODD_IN_NAME: Final = re.compile(r"[^a-zA-Z0-9_-]")
_PLACEHOLDER_TOOL: Final = "DeferredToolPlaceholder"  # Claude Code's, to keep the list non-empty


class ToolTable:
    """
    The functions that the upstream gets, and what their names stand for.

    Attributes:
        functions: For the ``tools`` field, in the order of the request.
        toolset_members: Function name -> (name, toolset name); also names that had to be cut, with
            an empty toolset name.
        server_tools: Function name -> tool that the API would run.
        own_schemas: Function name -> the client's schema, where the upstream gets another.
        notes: What the model must be told in the system prompt.
        json: The functions, encoded; empty until ``encode``.
        tokens: About how many they have; None until it was estimated.
    """

    def __init__(self) -> None:
        self.functions: list[dict[str, Any]] = []
        self.toolset_members: dict[str, tuple[str, str]] = {}
        self.server_tools: dict[str, ServerTool] = {}
        self.own_schemas: dict[str, dict[str, Any]] = {}
        self.notes: list[str] = []
        self.json = b""
        self.tokens: float | None = None
        self._names: set[str] = set()
        self._shared_names: frozenset[str] = frozenset()
        # (toolset or server, name) -> name upstream; "" for everything else
        self._upstream_names: dict[tuple[str, str], str] = {}
        self._definitions: dict[str, Tool] = {}

    @property
    def names(self) -> frozenset[str]:
        """Names of all functions."""
        if len(self._shared_names) != len(self._names):  # requests share a table
            self._shared_names = frozenset(self._names)
        return self._shared_names

    def upstream_name(self, name: str, owner: str = "") -> str:
        """Return the function's name for a tool of the history, declared or not."""
        known = self._upstream_names.get((owner, name))
        if known is not None:
            return known
        return _fit_name(f"{owner}_{name}" if owner else name)

    def describe(self, name: str) -> dict[str, Any]:
        """Return what a ``tool_reference`` to *name* tells the model."""
        tool = self._definitions.get(name)
        if tool is None:
            return {"name": self.upstream_name(name)}
        described: dict[str, Any] = {"name": self.upstream_name(name)}
        if tool.description:
            described["description"] = tool.description
        described["parameters"] = tool.input_schema or {}
        return described

    def remember(self, tool: Tool) -> None:
        """Keep *tool* for references, whether it is sent or not."""
        if tool.name:
            self._definitions[tool.name] = tool

    def add(
        self,
        name: str,
        description: str | None,
        *,
        schema: dict[str, Any],
        owner: str = "",
        strict: bool = False,
    ) -> str | None:
        """Add a function; return its name upstream, or None if there is one for this tool."""
        if (owner, name) in self._upstream_names:
            return None
        upstream_name = self._free_name(_fit_name(f"{owner}_{name}" if owner else name))
        self._names.add(upstream_name)
        self._upstream_names[owner, name] = upstream_name
        function: dict[str, Any] = {"name": upstream_name}
        if description:
            function["description"] = description
        function["parameters"] = schema
        if strict:
            function["strict"] = True
        self.functions.append({"type": "function", "function": function})
        if not owner and upstream_name != name:
            self.toolset_members[upstream_name] = (name, "")
        return upstream_name

    def encode(self) -> bytes:
        """Return the functions as JSON; nothing can be added any more."""
        if not self.json:
            self.json = _encode(self.functions)
        return self.json

    def _free_name(self, name: str) -> str:
        free, number = name, 1
        while free in self._names:
            number += 1
            tail = f"_{number}"
            free = name[: _MAX_NAME - len(tail)] + tail
        return free


class TableMemory(Protocol):
    """Keeps tables of tools that come again and again."""

    def table(
        self, tools: list[Tool], profile: DialectProfile, hidden: AbstractSet[str]
    ) -> "KnownTable | None":
        """Return what came of *tools* before, for this very *profile*."""
        ...

    def keep_table(self, tools: list[Tool], made: "KnownTable") -> None:
        """Keep what came of *tools*, if they are known."""


class KnownTable(Struct, frozen=True, kw_only=True):
    """What came of a set of tools, for one profile and with the same ones hidden."""

    profile: DialectProfile
    hidden: AbstractSet[str]
    table: ToolTable
    adjustments: tuple[Adjustment, ...]


def plan_tools(
    request: MessagesRequest,
    profile: DialectProfile,
    adjustments: Adjustments,
    *,
    memory: TableMemory | None = None,
) -> ToolTable:
    """Return the functions to send for *request*, of *memory* where it has them."""
    uses = scan_tool_uses(request, adjustments)
    tools = [*request.tools, *(tool for _, tool in uses.added.values())]
    if not profile.has_tools:
        if tools:
            reason = "the model has no tools"
            adjustments.add("tools", "dropped", reason=reason)
        return _table_of(tools)
    hidden = _hidden_names(tools, request, uses, adjustments)
    if memory is None or uses.changes_tools or request.mcp_servers:
        return _build(request, profile, adjustments, hidden=hidden, uses=uses)
    known = memory.table(request.tools, profile, hidden)
    if known is None:
        made = Adjustments()
        table = _build(request, profile, made, hidden=hidden, uses=uses)
        known = KnownTable(profile=profile, hidden=hidden, table=table, adjustments=made.take())
        memory.keep_table(request.tools, known)
    adjustments.add_all(known.adjustments)
    return known.table


def _build(
    request: MessagesRequest,
    profile: DialectProfile,
    adjustments: Adjustments,
    *,
    hidden: AbstractSet[str],
    uses: ToolUses,
) -> ToolTable:
    declared = [(f"tools.{number}", tool) for number, tool in enumerate(request.tools)]
    declared += uses.added.values()
    table = _table_of(tool for _, tool in declared)
    builder = _Builder(table, profile, adjustments=adjustments, uses=uses)
    for path, tool in declared:
        if tool.name is None or (tool.name not in hidden and tool.name not in uses.removed):
            builder.add(tool, path)
    builder.note_unreachable_servers(request)
    return table


def _table_of(tools: Iterable[Tool]) -> ToolTable:
    """Return a table without functions that knows what *tools* are."""
    table = ToolTable()
    for tool in tools:
        table.remember(tool)
    return table


def tool_name_of(block: Block, table: ToolTable) -> str:
    """Return the function's name for a ``tool_use`` or ``mcp_tool_use`` block."""
    owner = block.server_name if block.type == "mcp_tool_use" else block.toolset_name
    return table.upstream_name(block.name or "", owner or "")


def _hidden_names(
    tools: list[Tool], request: MessagesRequest, uses: ToolUses, adjustments: Adjustments
) -> set[str]:
    """Return the names of deferred tools that are not sent yet."""
    deferred = [tool.name for tool in tools if tool.name and tool.defer_loading]
    if not deferred and all(tool.type is None for tool in tools):
        return set()  # nearly always
    wanted = set(uses.wanted)
    if request.tool_choice is not None and request.tool_choice.name:
        wanted.add(request.tool_choice.name)
    hidden = {name for name in deferred if name not in wanted}
    placeholder = {_PLACEHOLDER_TOOL} & hidden
    searches = any((tool.type or "").startswith("tool_search_tool_") for tool in tools)
    remaining = [tool for tool in tools if tool.name not in hidden]
    if searches or (hidden != placeholder and not remaining):
        reason = "no tool search runs here: all deferred tools are sent"
        adjustments.add("tools", "emulated", reason=reason)
        return placeholder
    return hidden


class _Builder:
    """Turn declared tools into functions of a table."""

    def __init__(
        self,
        table: ToolTable,
        profile: DialectProfile,
        *,
        adjustments: Adjustments,
        uses: ToolUses,
    ) -> None:
        self._table = table
        self._profile = profile
        self._adjustments = adjustments
        self._uses = uses
        self._listed_servers: set[str] = set()
        self._unlisted_servers: list[str] = []

    def add(self, tool: Tool, path: str) -> None:
        """Add the function or functions for one declared tool."""
        kind = tool.type or "custom"
        if kind.startswith("tool_search_tool_"):
            return  # _hidden_names has dealt with it
        if kind == "mcp_toolset":
            self._add_mcp(tool, path)
        elif kind != "custom" and (functions := server_functions(tool)):
            reason = f"{functions[0].tool.name} has no backend here: calls come back unavailable"
            self._add_server(functions, path, reason)
        elif kind != "custom" and (members := toolset_members(tool)) is not None:
            toolset, functions_of = members
            for name, (description, schema) in functions_of.items():
                upstream_name = self._put(path, name, description, schema=schema, owner=toolset)
                if upstream_name is not None:
                    self._table.toolset_members[upstream_name] = (name, toolset)
        else:
            self._add_function(tool, path)

    def _add_function(self, tool: Tool, path: str) -> None:
        known = client_tool_function(tool)
        if known is not None:
            name, description, schema = known
        elif tool.name is not None and tool.input_schema is not None:
            name, schema = tool.name, tool.input_schema
            description = tool.description or ""
        else:
            said = f"unknown tool type {(tool.type or '')[:40]}"
            self._adjustments.add(path, "dropped", reason=said)
            return
        if tool.input_examples:
            lines = "\n".join(_encode(example).decode() for example in tool.input_examples)
            description = f"{description}\n\nExamples of input:\n{lines}".strip()
        self._note_options(tool, path)
        strict = bool(tool.strict) and self._profile.strict_tools
        self._put(path, name, description, schema=schema, strict=strict)

    def _put(
        self,
        path: str,
        name: str,
        description: str | None,
        *,
        schema: dict[str, Any],
        owner: str = "",
        strict: bool = False,
    ) -> str | None:
        """Add a function with a schema that the upstream takes; return its name there."""
        fitted = fit_input_schema(schema, self._profile)
        upstream_name = self._table.add(
            name, description, schema=fitted.schema, owner=owner, strict=strict
        )
        if upstream_name is not None and fitted.notes:
            self._table.own_schemas[upstream_name] = schema
            for action, reason in fitted.notes:
                self._adjustments.add(f"{path}.input_schema", action, reason=reason)
        return upstream_name

    def _note_options(self, tool: Tool, path: str) -> None:
        if tool.strict and not self._profile.strict_tools:
            reason = "the upstream does not bind tool inputs to their schemas"
            self._adjustments.add(f"{path}.strict", "dropped", reason=reason)
        if tool.allowed_callers is not None and tool.allowed_callers != ["direct"]:
            reason = "no code runs here that could call tools: the model calls them itself"
            self._adjustments.add(f"{path}.allowed_callers", "emulated", reason=reason)

    def _add_server(self, functions: Iterable[ServerFunction], path: str, reason: str) -> None:
        for function in functions:
            upstream_name = self._put(
                path,
                function.tool.name,
                function.description,
                schema=function.schema,
                owner=function.tool.mcp_server,
            )
            if upstream_name is not None:
                self._table.server_tools[upstream_name] = function.tool
        self._adjustments.add(path, "emulated", reason=reason)

    def _add_mcp(self, tool: Tool, path: str) -> None:
        server = tool.mcp_server_name or ""
        if server in self._uses.removed_servers:
            return
        listing = tool.tools if tool.tools is not None else self._uses.listings.get(server)
        if listing is None:
            self._unlisted_servers.append(server)
            return
        self._listed_servers.add(server)
        functions = [
            function
            for function in mcp_functions(server, listing)
            if _is_enabled(tool, function.tool.name)
            and (server, function.tool.name) not in self._uses.removed_mcp
        ]
        reason = "MCP servers are not reached from here: calls come back unavailable"
        self._add_server(functions, path, reason)

    def note_unreachable_servers(self, request: MessagesRequest) -> None:
        """Tell the model of MCP servers whose tools nobody has listed."""
        servers = dict.fromkeys(self._unlisted_servers)
        for server in request.mcp_servers or ():
            name = server.get("name") if isinstance(server, dict) else None
            if isinstance(name, str) and name not in self._listed_servers:
                servers[name] = None
        if not servers:
            return
        reason = "MCP servers are not reached from here"
        self._adjustments.add("mcp_servers", "emulated", reason=reason)
        said = f"The tools of these MCP servers cannot be reached now: {', '.join(servers)}."
        self._table.notes.append(said)


def _is_enabled(tool: Tool, name: str) -> bool:
    configs = tool.configs if isinstance(tool.configs, dict) else {}
    for config in (configs.get(name), tool.default_config):
        if isinstance(config, dict) and isinstance(config.get("enabled"), bool):
            return bool(config["enabled"])
    return True


def _fit_name(name: str) -> str:
    """Return *name* as upstreams take it: their alphabet, at most 64 characters, never empty."""
    fitting = _ODD_IN_NAME.sub("_", name)
    if len(fitting) <= _MAX_NAME and fitting == name and name:
        return name
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{fitting[: _MAX_NAME - 9]}_{digest}"
