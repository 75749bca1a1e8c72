"""Plans from plain values, for tests of the request side."""

from collections.abc import Mapping
from typing import Any

import msgspec

from dragoman.core.dialects.profile import GENERIC, DialectProfile
from dragoman.core.plan import Deployment, Plan, make_plan
from dragoman.core.signatures import Signer
from dragoman.core.validate import parse_request
from dragoman.wire.anthropic import MessagesRequest

SIGNER = Signer(b"0123456789abcdef")
MINIMAL: dict[str, Any] = {
    "model": "alias",
    "max_tokens": 100,
    "messages": [{"role": "user", "content": "Hi"}],
}


def parse(body: Mapping[str, Any] | bytes, *, for_count: bool = False) -> MessagesRequest:
    """Return the request that *body* holds."""
    raw = body if isinstance(body, bytes) else msgspec.json.encode(body)
    return parse_request(raw, max_messages=100_000, max_nesting=200, for_count=for_count)


def plan(
    profile: DialectProfile = GENERIC, /, *, texts: Mapping[str, str] | None = None, **fields: Any
) -> Plan:
    """Return the plan for the smallest request with *fields* put into it."""
    deployment = Deployment(upstream="lab", model="upstream-model", profile=profile)
    return make_plan(parse(MINIMAL | fields), deployment, signer=SIGNER, texts=texts)


def said(plan: Plan) -> list[tuple[str, str]]:
    """Return (field, action) of the adjustments."""
    return [(adjustment.field, adjustment.action) for adjustment in plan.adjustments]


def user(*content: Any) -> dict[str, Any]:
    """Return a user message: a string, or blocks."""
    return _message("user", content)


def assistant(*content: Any) -> dict[str, Any]:
    """Return an assistant message."""
    return _message("assistant", content)


def system(*content: Any, **fields: Any) -> dict[str, Any]:
    """Return a system message in the conversation."""
    return _message("system", content) | fields


def text(value: str) -> dict[str, Any]:
    """Return a text block."""
    return {"type": "text", "text": value}


def call(call_id: str, name: str = "get", **arguments: Any) -> dict[str, Any]:
    """Return a tool_use block."""
    return {"type": "tool_use", "id": call_id, "name": name, "input": arguments}


def result(call_id: str, content: Any = "done", **fields: Any) -> dict[str, Any]:
    """Return a tool_result block."""
    return {"type": "tool_result", "tool_use_id": call_id, "content": content} | fields


def tool(name: str, **fields: Any) -> dict[str, Any]:
    """Return a custom tool."""
    schema = {"type": "object", "properties": {"q": {"type": "string"}}}
    return {"name": name, "description": f"Does {name}.", "input_schema": schema} | fields


def _message(role: str, content: tuple[Any, ...]) -> dict[str, Any]:
    is_string = len(content) == 1 and isinstance(content[0], str)
    return {"role": role, "content": content[0] if is_string else list(content)}
