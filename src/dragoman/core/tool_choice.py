"""tool_choice -> what makes this upstream call a tool, or not."""

from typing import Any, Final

from msgspec import Struct

from dragoman.core.adjustments import Adjustments
from dragoman.core.dialects.profile import DialectProfile
from dragoman.core.thinking import can_stop_thinking
from dragoman.core.tools import ToolTable
from dragoman.wire.anthropic import MessagesRequest, ToolChoice

_DEFINITIONS: Final = ("$defs", "definitions")


class ToolChoicePlan(Struct, frozen=True, kw_only=True):
    """What to send for the choice of tools."""

    tool_choice: str | dict[str, Any] | None = None
    response_format: dict[str, Any] | None = None  # a forced call written as constrained text
    note: str = ""  # for the system prompt
    is_forcing: bool = False  # in a way that binds the upstream
    hides_tools: bool = False
    only: str | None = None  # the one function that is sent
    is_single: bool = False  # at most one call is wanted

    def sent(self, functions: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return those of *functions* that the upstream gets."""
        if self.only is None:
            return functions
        return [tool for tool in functions if tool["function"]["name"] == self.only]


def plan_tool_choice(
    request: MessagesRequest,
    profile: DialectProfile,
    *,
    tools: ToolTable,
    adjustments: Adjustments,
) -> ToolChoicePlan:
    """Return how to ask for the choice that *request* makes."""
    choice = request.tool_choice
    if choice is None:
        return ToolChoicePlan()
    if not tools.functions:
        if choice.type in ("any", "tool"):
            reason = "there are no tools to choose from"
            adjustments.add("tool_choice", "dropped", reason=reason)
        return ToolChoicePlan()
    is_single = choice.disable_parallel_tool_use
    if choice.type == "auto":
        return ToolChoicePlan(tool_choice="auto", is_single=is_single)
    if choice.type == "none":
        if profile.forced_tools != "hint":
            return ToolChoicePlan(tool_choice="none")
        reason = "the upstream cannot be told not to call tools: none are sent"
        adjustments.add("tool_choice", "emulated", reason=reason)
        return ToolChoicePlan(hides_tools=True)
    return _force(choice, profile, tools=tools, adjustments=adjustments)


def _force(
    choice: ToolChoice,
    profile: DialectProfile,
    *,
    tools: ToolTable,
    adjustments: Adjustments,
) -> ToolChoicePlan:
    is_single = choice.disable_parallel_tool_use
    name = _forced_name(choice, tools)
    if choice.type == "tool" and name is None:
        adjustments.add("tool_choice", "dropped", reason="the chosen tool could not be sent")
        return ToolChoicePlan(is_single=is_single)
    how = profile.forced_tools
    if profile.forced_tools_need_no_thinking and not can_stop_thinking(profile):
        how = "hint"
    if how == "named_only" and name is None:
        how = "hint"
    if how == "hint":
        reason = "the upstream cannot be forced to call a tool: the model is asked to"
        adjustments.add("tool_choice", "emulated", reason=reason)
        said = f"the tool {name}" if name is not None else "one of the tools"
        note = f"Your next message must be a call of {said}, not a text."
        # It cannot call another one in its place, if it knows of none.
        only = name if choice.type == "tool" else None
        return ToolChoicePlan(note=note, is_single=is_single, only=only)
    if how == "required_only":
        return _force_some(choice, name, adjustments)
    if how == "json_schema":
        return ToolChoicePlan(
            tool_choice="none",
            response_format=_call_format(tools, name),
            is_forcing=True,
            is_single=is_single,
        )
    if choice.type == "any" and how == "native":
        return ToolChoicePlan(tool_choice="required", is_forcing=True, is_single=is_single)
    named = {"type": "function", "function": {"name": name}}
    return ToolChoicePlan(tool_choice=named, is_forcing=True, is_single=is_single)


def _force_some(choice: ToolChoice, name: str | None, adjustments: Adjustments) -> ToolChoicePlan:
    """Force whichever tool there is; where one is chosen, there is no other."""
    if choice.type == "tool":
        reason = "the upstream cannot be told which tool to call: it is sent no other"
        adjustments.add("tool_choice", "emulated", reason=reason)
    return ToolChoicePlan(
        tool_choice="required",
        is_forcing=True,
        is_single=choice.disable_parallel_tool_use,
        only=name if choice.type == "tool" else None,
    )


def _forced_name(choice: ToolChoice, tools: ToolTable) -> str | None:
    """Return the only function that may be called; None: there are several, or it is not there."""
    if choice.type == "tool":
        wanted = tools.upstream_name(choice.name or "")
        if wanted in tools.names:
            return wanted
        for upstream_name, (name, _) in tools.toolset_members.items():
            if name == choice.name:
                return upstream_name
        return None
    names = [function["function"]["name"] for function in tools.functions]
    return names[0] if len(names) == 1 else None


def _call_format(tools: ToolTable, name: str | None) -> dict[str, Any]:
    definitions: dict[str, Any] = {}
    forms = [
        _call_schema(function["function"], definitions, prefix=f"{number}_" if name is None else "")
        for number, function in enumerate(tools.functions)
        if name in (None, function["function"]["name"])
    ]
    schema: dict[str, Any] = forms[0] if len(forms) == 1 else {"anyOf": forms}
    if definitions:
        schema["$defs"] = definitions
    json_schema = {"name": "tool_call", "schema": schema, "strict": True}
    return {"type": "json_schema", "json_schema": json_schema}


def _call_schema(
    function: dict[str, Any], definitions: dict[str, Any], *, prefix: str
) -> dict[str, Any]:
    """Return the schema of a call; what the tool's schema defines moves to *definitions*."""
    arguments = {
        key: _renamed(value, prefix)
        for key, value in function["parameters"].items()
        if key not in _DEFINITIONS and key != "$schema"
    }
    arguments.setdefault("type", "object")
    for key in _DEFINITIONS:
        defined = function["parameters"].get(key)
        if isinstance(defined, dict):
            for name, schema in defined.items():
                definitions[prefix + name] = _renamed(schema, prefix)
    return {
        "type": "object",
        "properties": {
            "name": {"type": "string", "enum": [function["name"]]},
            "arguments": arguments,
        },
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def _renamed(schema: object, prefix: str) -> object:
    """Return *schema* with its references leading to the root's definitions."""
    if isinstance(schema, list):
        return [_renamed(item, prefix) for item in schema]
    if not isinstance(schema, dict):
        return schema
    renamed = {key: _renamed(value, prefix) for key, value in schema.items()}
    target = schema.get("$ref")
    if isinstance(target, str):
        for key in _DEFINITIONS:
            if target.startswith(f"#/{key}/"):
                renamed["$ref"] = f"#/$defs/{prefix}{target.removeprefix(f'#/{key}/')}"
    return renamed
