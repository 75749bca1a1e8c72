"""
Tools that the API itself would run. Nothing runs them here, and nobody pretends otherwise.

Such a tool is shown to the model as a function whose description says that it is out of order; a
call is answered by the error block of the API, and the model goes on without.
"""

from typing import Any, Final

from msgspec import Struct

from dragoman.wire.anthropic import Tool

UNAVAILABLE: Final = "[tool error] unavailable: this tool cannot run on this gateway"
_NOTE: Final = "Out of order here: every call comes back as unavailable. Do without it if you can."
_QUERY: Final = {
    "type": "object",
    "properties": {"query": {"type": "string"}},
    "required": ["query"],
}
_URL: Final = {"type": "object", "properties": {"url": {"type": "string"}}, "required": ["url"]}
_CODE: Final = {"type": "object", "properties": {"code": {"type": "string"}}, "required": ["code"]}
_COMMAND: Final = {
    "type": "object",
    "properties": {"command": {"type": "string"}},
    "required": ["command"],
}
_FILE_COMMAND: Final = {
    "type": "object",
    "properties": {
        "command": {"type": "string", "enum": ["view", "create", "str_replace"]},
        "path": {"type": "string"},
        "file_text": {"type": "string"},
        "old_str": {"type": "string"},
        "new_str": {"type": "string"},
    },
    "required": ["command", "path"],
}
_NOTHING: Final[dict[str, Any]] = {"type": "object", "properties": {}}
_SCHEMAS: Final = {
    "web_search": ("Search the web.", _QUERY),
    "web_fetch": ("Fetch the content of a URL.", _URL),
    "code_execution": ("Run Python code.", _CODE),
    "bash_code_execution": ("Run a shell command.", _COMMAND),
    "text_editor_code_execution": ("View and edit files.", _FILE_COMMAND),
    "advisor": ("Ask a stronger model for advice.", _NOTHING),
}


class ServerTool(Struct, frozen=True, kw_only=True):
    """A tool that the API itself would run; shown to the model as a function of this name."""

    name: str
    result_type: str  # type of the result block: web_search_tool_result, ...
    error_type: str  # type of the error object inside; "" for mcp_tool_result
    mcp_server: str = ""


class ServerFunction(Struct, frozen=True):
    """How a server tool is shown to the model."""

    tool: ServerTool
    description: str
    schema: dict[str, Any]


def server_functions(tool: Tool) -> list[ServerFunction]:
    """Return the functions that stand for *tool*; none if it is not a server tool known here."""
    family, _, version = (tool.type or "").rpartition("_")
    names: tuple[str, ...] = (family,)
    if family == "code_execution" and version >= "20250825":
        names = ("bash_code_execution", "text_editor_code_execution")
        if version >= "20260101":  # Python, too, since its calls may call other tools
            names = ("code_execution", *names)
    return [_function(name) for name in names if name in _SCHEMAS]


def mcp_functions(server: str, listing: list[Any]) -> list[ServerFunction]:
    """Return the functions for the tools that MCP server *server* is known to have."""
    found = []
    for entry in listing:
        name = entry.get("name") if isinstance(entry, dict) else None
        if not isinstance(name, str):
            continue
        schema = entry.get("input_schema")
        tool = ServerTool(
            name=name, result_type="mcp_tool_result", error_type="", mcp_server=server
        )
        said = f"{entry.get('description') or ''} {_NOTE}".strip()
        found.append(ServerFunction(tool, said, schema if isinstance(schema, dict) else _NOTHING))
    return found


def _function(name: str) -> ServerFunction:
    description, schema = _SCHEMAS[name]
    result_type = f"{name}_tool_result"
    tool = ServerTool(name=name, result_type=result_type, error_type=f"{result_type}_error")
    return ServerFunction(tool, f"{description} {_NOTE}", schema)
