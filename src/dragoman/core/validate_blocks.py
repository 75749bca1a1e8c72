"""Check that the blocks of a request have what their type needs."""

from typing import Any, Final

from dragoman.core.errors import InvalidRequest
from dragoman.wire.anthropic import Block, Source

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
# Further types that are read. Results of server tools are known by their ending.
_KNOWN: Final = frozenset(_REQUIRED) | {
    "redacted_thinking",
    "container_upload",
    "compaction",
    "fallback",
    "mcp_tool_listing",
    "tool_addition",
    "tool_removal",
    "browser_state",
    "web_search_result",
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


def blank_unknown_blocks(request: dict[str, Any]) -> bool:
    """
    Leave nothing but its type of every block of a type that is not known.

    A field of it may have the name of one of ours and quite another type.

    Args:
        request: Decoded as plain JSON; it is changed.

    Returns:
        Whether there was such a block.
    """
    messages = request.get("messages")
    turns = messages if isinstance(messages, list) else []
    contents = [turn.get("content") for turn in turns if isinstance(turn, dict)]
    found = [_blank(blocks) for blocks in (request.get("system"), *contents)]
    return any(found)


def _blank(blocks: object) -> bool:
    found = False
    for block in blocks if isinstance(blocks, list) else ():
        kind = block.get("type") if isinstance(block, dict) else None
        if not isinstance(kind, str):
            continue
        if kind in _KNOWN or kind.endswith("_tool_result"):
            source = block.get("source")
            inner = source.get("content") if isinstance(source, dict) else None
            found |= _blank(block.get("content")) | _blank(block.get("tool_changes"))
            found |= _blank(inner)
        else:
            block.clear()
            block["type"] = kind
            found = True
    return found


def check_blocks(blocks: object, path: str) -> None:
    """
    Check the blocks of a message or of the system prompt.

    Args:
        blocks: Them, or what stands in their place: a string, or nothing.
        path: Of the field.

    Raises:
        InvalidRequest: A block lacks a field, or has one of the wrong type.
    """
    if not isinstance(blocks, list):
        return
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
        check_blocks(content, f"{path}.content")
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
        check_blocks(value, f"{path}.content")
