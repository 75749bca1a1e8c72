"""
Schemas of the tools that the API defines and the client runs.

Anthropic's models know these tools by heart; any other model must be shown a function. Names,
fields and required fields: Anthropic API reference, 4.5; the descriptions are ours.
"""

from typing import Any, Final

from dragoman.wire.anthropic import Tool

Schema = dict[str, Any]


def _object(properties: dict[str, Schema], *required: str) -> Schema:
    schema: Schema = {"type": "object", "properties": properties}
    if required:
        schema["required"] = list(required)
    return schema


def _text(description: str) -> Schema:
    return {"type": "string", "description": description}


def _enum(*values: str) -> Schema:
    return {"type": "string", "enum": list(values)}


def _number(description: str) -> Schema:
    return {"type": "number", "description": description}


def _whole(description: str) -> Schema:
    return {"type": "integer", "description": description}


def _pair(description: str, size: int = 2) -> Schema:
    items = {"type": "integer"}
    return {
        "type": "array",
        "items": items,
        "minItems": size,
        "maxItems": size,
        "description": description,
    }


_POINT: Final = _pair("[x, y] in pixels from the top left corner of the screen")
_REGION: Final = _pair("[x0, y0, x1, y1] in pixels: corners of the region", 4)
_DIRECTION: Final = _enum("up", "down", "left", "right")

# -- bash, text editor, memory, computer

_BASH: Final = _object(
    {
        "command": _text("The command to run. Required unless the tool is restarted."),
        "restart": {"type": "boolean", "description": "true restarts the shell"},
    }
)
_EDITOR_FIELDS: Final = {
    "path": _text("Absolute path of the file or directory"),
    "file_text": _text("For create: the whole content of the file"),
    "old_str": _text("For str_replace: the text to replace; it must occur exactly once"),
    "new_str": _text("For str_replace: the text to put in its place; older insert: the text"),
    "insert_line": _whole("For insert: the line after which to insert; 0 is the beginning"),
    "insert_text": _text("For insert: the text to insert"),
    "view_range": _pair("For view: [first line, last line], counted from 1; last -1 is the end"),
}
_MEMORY: Final = _object(
    {
        "command": _enum("view", "create", "str_replace", "insert", "delete", "rename"),
        "path": _text("Path under /memories"),
        "file_text": _text("For create: the whole content of the file"),
        "old_str": _text("For str_replace: the text to replace; it must occur exactly once"),
        "new_str": _text("For str_replace: the text to put in its place"),
        "insert_line": _whole("For insert: the line after which to insert; 0 is the beginning"),
        "insert_text": _text("For insert: the text to insert"),
        "view_range": _pair("For view: [first line, last line], counted from 1"),
        "old_path": _text("For rename: the path as it is"),
        "new_path": _text("For rename: the path as it shall be"),
    },
    "command",
)
_FIRST_ACTIONS: Final = (
    *("key", "type", "mouse_move", "left_click", "left_click_drag", "right_click"),
    *("middle_click", "double_click", "screenshot", "cursor_position"),
)
_LATER_ACTIONS: Final = (
    *("left_mouse_down", "left_mouse_up", "triple_click", "scroll", "hold_key", "wait"),
)


def _editor(commands: tuple[str, ...]) -> Schema:
    return _object({"command": _enum(*commands), **_EDITOR_FIELDS}, "command", "path")


def _computer(actions: tuple[str, ...]) -> Schema:
    fields: dict[str, Schema] = {
        "action": _enum(*actions),
        "coordinate": _POINT,
        "start_coordinate": _POINT,
        "text": _text("For type and key: what to type, or keys such as ctrl+s"),
        "scroll_direction": _DIRECTION,
        "scroll_amount": _whole("For scroll: how many clicks of the wheel"),
        "duration": _number("For hold_key and wait: seconds"),
    }
    if "zoom" in actions:
        fields["region"] = _REGION
    return _object(fields, "action")


def client_tool_function(tool: Tool) -> tuple[str, str, Schema] | None:
    """
    Return name, description and schema of the function that stands for *tool*.

    None: this is not a tool of a kind known here.
    """
    family, _, version = (tool.type or "").rpartition("_")
    if family == "bash":
        return tool.name or "bash", "Run a command in a persistent shell.", _BASH
    if family == "text_editor":
        return _editor_function(tool, version)
    if family == "memory":
        said = "Read and write files that keep what is worth knowing, under /memories."
        return tool.name or "memory", said, _MEMORY
    if family == "computer":
        return _computer_function(tool, version)
    return None


def _editor_function(tool: Tool, version: str) -> tuple[str, str, Schema]:
    commands: tuple[str, ...] = ("view", "create", "str_replace", "insert")
    name = "str_replace_based_edit_tool"
    if version < "20250429":
        commands, name = (*commands, "undo_edit"), "str_replace_editor"
    description = "View, create and edit text files."
    if tool.max_characters is not None:
        description += f" A view shows at most {tool.max_characters} characters."
    return tool.name or name, description, _editor(commands)


def _computer_function(tool: Tool, version: str) -> tuple[str, str, Schema]:
    actions = _FIRST_ACTIONS if version < "20250124" else (*_FIRST_ACTIONS, *_LATER_ACTIONS)
    if tool.enable_zoom:
        actions = (*actions, "zoom")
    description = "Use the screen, keyboard and mouse of a computer."
    if tool.display_width_px and tool.display_height_px:
        size = f"{tool.display_width_px}x{tool.display_height_px}"
        description += f" The screen is {size} pixels."
    if tool.display_number is not None:
        description += f" Its X11 display is number {tool.display_number}."
    return tool.name or "computer", description, _computer(actions)


# -- toolsets: one declaration that stands for many functions

_KEYS: Final = _text("Keys such as Return or ctrl+s")
_MODIFIERS: Final = _text("Modifier keys to hold, such as ctrl")
_REPEAT: Final = _whole("How many times; default 1")
_SECONDS: Final = _number("Seconds")
_HELD: Final = {"coordinate": _POINT, "text": _MODIFIERS}
_COMPUTER_MEMBERS: Final[dict[str, tuple[str, Schema]]] = {
    "key": ("Press keys.", _object({"text": _KEYS, "repeat": _REPEAT}, "text")),
    "hold_key": (
        "Hold keys down for some time.",
        _object({"text": _KEYS, "duration": _SECONDS}, "text", "duration"),
    ),
    "type": ("Type text.", _object({"text": _text("What to type")}, "text")),
    "cursor_position": ("Tell where the mouse pointer is.", _object({})),
    "mouse_move": ("Move the pointer.", _object({"coordinate": _POINT}, "coordinate")),
    "left_mouse_down": ("Press the left button and keep it down.", _object({})),
    "left_mouse_up": ("Release the left button.", _object({})),
    "left_click": ("Click.", _object(_HELD)),
    "left_click_drag": (
        "Drag with the left button.",
        _object(
            {"start_coordinate": _POINT, "coordinate": _POINT, "text": _MODIFIERS},
            "start_coordinate",
            "coordinate",
        ),
    ),
    "right_click": ("Click with the right button.", _object(_HELD)),
    "middle_click": ("Click with the middle button.", _object(_HELD)),
    "double_click": ("Click twice.", _object(_HELD)),
    "triple_click": ("Click three times.", _object(_HELD)),
    "scroll": (
        "Turn the wheel.",
        _object(
            {"scroll_direction": _DIRECTION, "scroll_amount": _whole("Clicks of it"), **_HELD},
            "scroll_direction",
            "scroll_amount",
        ),
    ),
    "wait": ("Wait.", _object({"duration": _SECONDS}, "duration")),
    "screenshot": ("Take a picture of the screen.", _object({})),
    "zoom": ("Take a picture of a part of the screen.", _object({"region": _REGION}, "region")),
}

_TAB: Final = {"tab_id": _text("Id of the tab; default: the active one")}
_AT: Final = _object(
    {
        "type": {"type": "string", "const": "coordinate"},
        "x": _whole("Pixels from the left edge of the viewport"),
        "y": _whole("Pixels from the top edge of the viewport"),
    },
    *("type", "x", "y"),
)
_ELEMENT: Final = _object(
    {
        "type": {"type": "string", "const": "ref"},
        "ref": _text("Reference that read_page or find has returned, such as ref_7"),
    },
    *("type", "ref"),
)
_TARGET: Final[Schema] = {"anyOf": [_AT, _ELEMENT]}
_CLICK: Final = _object({"target": _TARGET, "modifiers": _MODIFIERS, **_TAB}, "target")
_ON_POINT: Final = _object({"target": _AT, **_TAB}, "target")
_IN_TAB: Final = _object(_TAB)
_BROWSER_MEMBERS: Final[dict[str, tuple[str, Schema]]] = {
    "navigate": ("Go to a URL.", _object({"url": _text("The URL"), **_TAB}, "url")),
    "list_tabs": ("List the open tabs.", _object({})),
    "new_tab": ("Open a tab.", _object({})),
    "switch_tab": ("Make a tab the active one.", _object(_TAB, "tab_id")),
    "close_tab": ("Close a tab.", _object(_TAB, "tab_id")),
    "read_page": (
        "Read the page as a tree of elements with references.",
        _object(
            {
                "filter": _enum("all", "interactive"),
                "ref": _text("Read only below this element"),
                "depth": _whole("How deep to read"),
                **_TAB,
            }
        ),
    ),
    "get_page_text": ("Read the text of the page.", _IN_TAB),
    "read_console": ("Read the messages of the console.", _IN_TAB),
    "read_network": ("Read the requests that the page has made.", _IN_TAB),
    "find": (
        "Find elements of the page by a description.",
        _object({"query": _text("What to find"), **_TAB}, "query"),
    ),
    "form_input": (
        "Set the value of a form's field.",
        _object(
            {
                "target": _ELEMENT,
                "value": {"anyOf": [{"type": t} for t in ("string", "number", "boolean")]},
                **_TAB,
            },
            *("target", "value"),
        ),
    ),
    "file_upload": (
        "Put files into a form's field.",
        _object(
            {
                "target": _ELEMENT,
                "paths": {"type": "array", "items": {"type": "string"}},
                "document_ids": {"type": "array", "items": {"type": "string"}},
                **_TAB,
            },
            "target",
        ),
    ),
    "scroll_to": (
        "Scroll until an element is in view.",
        _object({"target": _ELEMENT, **_TAB}, "target"),
    ),
    "screenshot": ("Take a picture of the viewport.", _IN_TAB),
    "zoom": (
        "Take a picture of a part of the viewport.",
        _object({"region": _REGION, **_TAB}, "region"),
    ),
    "left_click": ("Click.", _CLICK),
    "right_click": ("Click with the right button.", _CLICK),
    "middle_click": ("Click with the middle button.", _CLICK),
    "double_click": ("Click twice.", _CLICK),
    "triple_click": ("Click three times.", _CLICK),
    "hover": ("Move the pointer over a place.", _object({"target": _TARGET, **_TAB}, "target")),
    "left_click_drag": (
        "Drag with the left button.",
        _object({"from": _AT, "target": _AT, **_TAB}, "from", "target"),
    ),
    "left_mouse_down": ("Press the left button and keep it down.", _ON_POINT),
    "left_mouse_up": ("Release the left button.", _ON_POINT),
    "mouse_move": ("Move the pointer.", _ON_POINT),
    "scroll": (
        "Turn the wheel.",
        _object(
            {
                "target": _AT,
                "scroll_direction": _DIRECTION,
                "scroll_amount": _whole("Clicks of it"),
                **_TAB,
            },
            *("target", "scroll_direction"),
        ),
    ),
    "type": ("Type text.", _object({"text": _text("What to type"), **_TAB}, "text")),
    "key": ("Press keys.", _object({"text": _KEYS, "repeat": _REPEAT, **_TAB}, "text")),
    "hold_key": (
        "Hold keys down for some time.",
        _object({"text": _KEYS, "duration": _SECONDS, **_TAB}, "text", "duration"),
    ),
    "wait": ("Wait.", _object({"duration": _SECONDS, **_TAB}, "duration")),
    "javascript_exec": (
        "Run JavaScript in the page.",
        _object({"text": _text("The code"), **_TAB}, "text"),
    ),
}
_TOOLSETS: Final = {"computer": _COMPUTER_MEMBERS, "browser": _BROWSER_MEMBERS}


def toolset_members(tool: Tool) -> tuple[str, dict[str, tuple[str, Schema]]] | None:
    """
    Return the toolset's name and its enabled members (description, schema).

    None: this is not a toolset known here.
    """
    name = (tool.type or "").partition("_toolset_")[0]
    members = _TOOLSETS.get(name)
    if members is None or "_toolset_" not in (tool.type or ""):
        return None
    configs = tool.configs if isinstance(tool.configs, dict) else {}
    return name, {m: known for m, known in members.items() if _is_enabled(configs.get(m))}


def _is_enabled(config: object) -> bool:
    return not (isinstance(config, dict) and config.get("enabled") is False)
