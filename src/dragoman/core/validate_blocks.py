"""Check that the blocks of a request have what their type needs."""

from typing import Any, Final

from dragoman.core.errors import InvalidRequest
from dragoman.wire.anthropic import MISSING_CONTENT, Block, Message, Source

# Wire types are read leniently as one flat Struct; what each type needs is here.
_REQUIRED: Final[dict[str, tuple[tuple[str, type, str], ...]]] = {
    "text": (("text", str, "a string"),),
    "image": (("source", Source, "an object"),),
    "document": (("source", Source, "an object"),),
    "search_result": (
        ("source", str, "a string"),
        ("title", str, "a string"),
        ("content", list, "an array"),
    ),
    "thinking": (("thinking", str, "a string"),),
    "tool_use": (
        ("id", str, "a string"),
        ("name", str, "a string"),
        ("input", dict, "an object"),
    ),
    "server_tool_use": (("id", str, "a string"), ("name", str, "a string")),
    "mcp_tool_use": (("id", str, "a string"), ("name", str, "a string")),
    "tool_result": (("tool_use_id", str, "a string"),),
    "mcp_tool_result": (("tool_use_id", str, "a string"),),
    "tool_reference": (("tool_name", str, "a string"),),
}
_SERVER_RESULT: Final = (("tool_use_id", str, "a string"),)
_SOURCE_FIELDS: Final[dict[str, tuple[str, type | tuple[type, ...]]]] = {
    "base64": ("data", str),
    "url": ("url", str),
    "file": ("file_id", str),
    "text": ("data", str),
    "content": ("content", (str, list)),
}
_SOURCES: Final = {
    "image": ("base64", "url", "file"),
    "document": ("base64", "text", "content", "url", "file"),
}


def check_message(message: Message, path: str) -> None:
    """
    Check one message.

    Raises:
        InvalidRequest: A block lacks a field, or has one of the wrong type.
    """
    content = message.content
    if isinstance(content, str):
        if content is MISSING_CONTENT and message.role != "system":
            raise InvalidRequest(f"{path}.content", "Field required")
        return
    _check_blocks(content, f"{path}.content")


def check_system(system: str | list[Block] | None) -> None:
    """Check the system prompt, like a message."""
    if isinstance(system, list):
        _check_blocks(system, "system")


def _check_blocks(blocks: list[Block], path: str) -> None:
    for number, block in enumerate(blocks):
        if block.type == "text" and block.text is not None:  # most blocks
            continue
        _check_block(block, f"{path}.{number}")


def _check_block(block: Block, path: str) -> None:
    required = _REQUIRED.get(block.type, ())
    if not required and block.type.endswith("_tool_result"):
        required = _SERVER_RESULT
    for field, kind, said in required:
        value = getattr(block, field)
        if value is None:
            raise InvalidRequest(f"{path}.{field}", "Field required")
        if not isinstance(value, kind):
            raise InvalidRequest(f"{path}.{field}", f"Input should be {said}")
    if block.type in _SOURCES and isinstance(block.source, Source):
        _check_source(block.source, f"{path}.source", kinds=_SOURCES[block.type])
    _check_content(block, path)


def _check_content(block: Block, path: str) -> None:
    content: Any = block.content
    if isinstance(content, list):
        _check_blocks(content, f"{path}.content")
    elif isinstance(content, dict) and block.type in ("tool_result", "mcp_tool_result"):
        raise InvalidRequest(f"{path}.content", "Input should be a string or an array of blocks")


def _check_source(source: Source, path: str, *, kinds: tuple[str, ...]) -> None:
    if source.type not in kinds:
        wanted = ", ".join(repr(kind) for kind in kinds)
        raise InvalidRequest(f"{path}.type", f"Input should be one of {wanted}")
    field, kind = _SOURCE_FIELDS[source.type]
    value = getattr(source, field)
    if value is None:
        raise InvalidRequest(f"{path}.{field}", "Field required")
    if not isinstance(value, kind):
        raise InvalidRequest(f"{path}.{field}", "Input should be a string or an array of blocks")
    if isinstance(value, list):
        _check_blocks(value, f"{path}.content")
