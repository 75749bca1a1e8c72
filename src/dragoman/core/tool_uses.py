"""Which tools a conversation has referred to, called, added and removed."""

from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct, field

from dragoman.core.adjustments import Adjustments
from dragoman.wire.anthropic import Block, Message, MessagesRequest, Tool

NO_TOOL: Final = frozenset[str]()
# Blocks that may change which tools there are, or with tool_changes do.
_CHANGES: Final = frozenset(("mcp_tool_listing", "tool_addition", "tool_removal", "compaction"))
_REFERENCES: Final = frozenset(("tool_reference", "tool_search_tool_result"))


class ToolUses(Struct):
    """What is found in the messages; a removal undoes an earlier addition and the reverse."""

    wanted: set[str] = field(default_factory=set)  # called, referred to or added by name
    added: dict[str, tuple[str, Tool]] = field(
        default_factory=dict
    )  # defined on the way, with path
    referred: dict[str, str] = field(default_factory=dict)  # added by name alone -> path
    removed: set[str] = field(default_factory=set)
    removed_mcp: set[tuple[str, str]] = field(default_factory=set)
    removed_servers: set[str] = field(default_factory=set)
    listings: dict[str, list[Any]] = field(default_factory=dict)  # MCP server -> its tools

    @property
    def changes_tools(self) -> bool:
        """Tell whether the tools are others than those that the request declares."""
        return bool(
            self.added or self.removed or self.removed_mcp or self.removed_servers or self.listings
        )


def scan_tool_uses(request: MessagesRequest, adjustments: Adjustments) -> ToolUses:
    """Return what the messages say about tools, in their order."""
    uses = ToolUses()
    for number, message in enumerate(request.messages):
        if not isinstance(message.content, str):
            _scan(message.content, f"messages.{number}.content", uses=uses, adjustments=adjustments)
    if uses.referred:
        _report_unresolved(request.tools, uses, adjustments)
    return uses


def wanted_tools(messages: Sequence[Message]) -> frozenset[str] | None:
    """
    Return the names of tools that *messages* call or refer to.

    None where they change what is asked for: which tools there are, or how hard to think.
    """
    wanted: set[str] | None = None
    for message in messages:
        if message.output_config is not None:
            return None
        content = message.content
        if isinstance(content, str):
            continue
        for block in content:
            kind = block.type
            if kind == "text":
                continue
            if wanted is None:
                wanted = set()
            if kind == "tool_use":
                wanted.add(block.name or "")
            elif not _is_quiet(block, wanted):
                return None
    return NO_TOOL if wanted is None else frozenset(wanted)


def _is_quiet(block: Block, wanted: set[str]) -> bool:
    """Tell whether *block* changes no tools; those that it refers to are added to *wanted*."""
    kind = block.type
    if kind in _CHANGES:
        return kind == "compaction" and not block.tool_changes
    if kind in _REFERENCES:
        found = [block.tool_name or ""] if kind == "tool_reference" else []
        wanted.update(found or referenced_tools(block.content))
    elif kind == "tool_use":
        wanted.add(block.name or "")
    elif kind == "tool_result" and isinstance(block.content, list):
        return all(inner.type == "text" or _is_quiet(inner, wanted) for inner in block.content)
    return True


def _report_unresolved(tools: Iterable[Tool], uses: ToolUses, adjustments: Adjustments) -> None:
    names = {tool.name for tool in tools} | set(uses.added)
    if None in names:  # a toolset: what its members are called is not known here
        return
    for name, path in uses.referred.items():
        if name not in names:
            adjustments.add(path, "dropped", reason="it refers to no tool of this request")


def referenced_tools(content: object) -> list[str]:
    """Return the tools named by the content of a ``tool_search_tool_result``."""
    references = content.get("tool_references") if isinstance(content, dict) else None
    if not isinstance(references, list):
        return []
    names = [r.get("tool_name") for r in references if isinstance(r, dict)]
    return [name for name in names if isinstance(name, str)]


def _scan(blocks: Iterable[Block], path: str, *, uses: ToolUses, adjustments: Adjustments) -> None:
    for number, block in enumerate(blocks):
        match block.type:
            case "text" | "thinking":
                pass
            case "tool_use" if block.name:
                uses.wanted.add(block.name)
            case "tool_reference" if block.tool_name:
                uses.wanted.add(block.tool_name)
            case "tool_result" if isinstance(block.content, list):
                _scan(block.content, f"{path}.{number}.content", uses=uses, adjustments=adjustments)
            case "tool_search_tool_result":
                uses.wanted.update(referenced_tools(block.content))
            case "mcp_tool_listing" if block.mcp_server_name and block.tools is not None:
                uses.listings[block.mcp_server_name] = block.tools
            case "compaction" if block.tool_changes:
                at = f"{path}.{number}.tool_changes"
                _scan(block.tool_changes, at, uses=uses, adjustments=adjustments)
            case "tool_addition":
                _add(block.tool or {}, f"{path}.{number}", uses=uses, adjustments=adjustments)
            case "tool_removal":
                _remove(block.tool or {}, uses)


def _add(tool: dict[str, Any], path: str, *, uses: ToolUses, adjustments: Adjustments) -> None:
    if tool.get("type") == "tool_definition":
        try:
            definition = msgspec.convert(tool.get("definition"), Tool)
        except msgspec.ValidationError:
            adjustments.add(path, "dropped", reason="this is not the definition of a tool")
            return
        name = definition.name
        if name:
            uses.wanted.add(name)
            uses.removed.discard(name)
        uses.added[name or path] = path, definition  # a later one takes an earlier one's place
        return
    name, server = _names(tool)
    if not server:
        uses.wanted.add(name)
        uses.removed.discard(name)
        uses.referred[name] = path
    elif name:
        uses.removed_mcp.discard((server, name))
    else:
        uses.removed_servers.discard(server)


def _remove(tool: dict[str, Any], uses: ToolUses) -> None:
    name, server = _names(tool)
    if not server:
        uses.removed.add(name)
    elif name:
        uses.removed_mcp.add((server, name))
    else:
        uses.removed_servers.add(server)


def _names(tool: dict[str, Any]) -> tuple[str, str]:
    name, server = tool.get("name"), tool.get("server_name")
    return (name if isinstance(name, str) else ""), (server if isinstance(server, str) else "")
