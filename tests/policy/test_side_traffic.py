"""Which calls of Claude Code are beside the conversation: recorded requests, and built ones."""

import json
from pathlib import Path
from typing import Any

import pytest

from dragoman.core.validate import parse_request
from dragoman.policy.senders import read_sender
from dragoman.policy.side_traffic import read_side_role

RECORDED = Path(__file__).parents[1] / "fixtures" / "requests"
MESSAGES = [
    path
    for path in sorted(RECORDED.rglob("*.json"))
    if json.loads(path.read_text())["path"].endswith("/v1/messages")
]
VERDICT = [
    {"type": "text", "text": "<transcript>\n"},
    {"type": "text", "text": "User: delete it"},
    {"type": "text", "text": "</transcript>\n"},
]
SEARCH = {"type": "web_search_20250305", "name": "web_search", "max_uses": 8}


def schema(*names: str) -> dict[str, Any]:
    fields = {name: {"type": "string"} for name in names}
    return {"format": {"type": "json_schema", "schema": {"properties": fields}}}


def role(
    fields: dict[str, Any],
    *,
    program: str = "claude-cli",
    headers: dict[bytes, bytes] | None = None,
) -> str:
    body = {
        "model": "m",
        "max_tokens": 64,
        "messages": [{"role": "user", "content": "Hi"}],
        **fields,
    }
    request = parse_request(json.dumps(body).encode(), max_messages=10, max_nesting=100)
    return read_side_role(request, headers or {}, program=program)


def asking(*content: Any, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": part} for part in content], **fields}


SHAPES: dict[str, tuple[dict[str, Any], str]] = {
    "verdict with a reason": ({"stop_sequences": ["</block>"]}, "classifier"),
    "verdict by severity": ({"stop_sequences": ["</severity>"]}, "classifier"),
    "fast verdict": (asking(VERDICT), "classifier"),
    "fast verdict in messages": (asking(*([part] for part in VERDICT)), "classifier"),
    "title": ({"output_config": schema("title")}, "title"),
    "title, early form": ({"output_format": schema("title", "isNewTopic")["format"]}, "title"),
    "title without its schema": (asking("<session>\nHi\n</session>\n\nTitle?"), "title"),
    "web search": ({"tools": [SEARCH]}, "web_search"),
    "quota": ({"max_tokens": 1, **asking("quota")}, "background"),
    "other schema": ({"output_config": schema("title", "body")}, ""),
    "schema without fields": ({"output_config": schema()}, ""),
    "word in a conversation": (asking("what is a <transcript> tag?"), ""),
    "session tag amid a text": (asking("see <session>"), ""),
    "search beside other tools": ({"tools": [SEARCH, {"name": "x", "input_schema": {}}]}, ""),
    "search in a conversation": ({"tools": [SEARCH], **asking("Hi", "there")}, ""),
    "other tool": ({"tools": [{"name": "web_search", "input_schema": {}}]}, ""),
    "quota as a word": (asking("quota"), ""),
    "conversation": ({}, ""),
}
HINTS: dict[str, tuple[dict[bytes, bytes], str]] = {
    "session in the background": ({b"x-app": b"cli-bg"}, "background"),
    "session in front": ({b"x-app": b"cli"}, ""),
    "summary": ({b"x-claude-1p-request-class": b"summary-extraction"}, "background"),
    "suggestion": ({b"x-claude-1p-request-class": b"followup-generation"}, "background"),
    "background task": ({b"x-claude-1p-request-class": b"background-task"}, "background"),
    "workflow": ({b"x-claude-code-request-class": b"workflow"}, "background"),
    "auxiliary": ({b"x-claude-code-request-class": b"auxiliary"}, ""),
    "main": ({b"x-claude-code-request-class": b"main", b"x-claude-1p-request-class": b"main"}, ""),
    "subagent": ({b"x-claude-code-request-class": b"subagent"}, ""),
}


@pytest.mark.parametrize(("fields", "expected"), SHAPES.values(), ids=SHAPES)
def test_shapes_of_claude_code(fields: dict[str, Any], expected: str) -> None:
    assert role(fields) == expected


@pytest.mark.parametrize(("fields", "expected"), SHAPES.values(), ids=SHAPES)
def test_the_same_shapes_of_others_mean_nothing(fields: dict[str, Any], expected: str) -> None:
    assert role(fields, program="Anthropic/Python") == ""


@pytest.mark.parametrize(("headers", "expected"), HINTS.values(), ids=HINTS)
@pytest.mark.parametrize("program", ["claude-cli", "", "other"])
def test_hints_count_from_anyone(headers: dict[bytes, bytes], expected: str, program: str) -> None:
    assert role({}, headers=headers, program=program) == expected


def test_a_shape_says_more_than_a_hint() -> None:
    marked = {b"x-claude-1p-request-class": b"summary-extraction"}
    assert role({"output_config": schema("title")}, headers=marked) == "title"


@pytest.mark.parametrize("path", MESSAGES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_of_the_recorded_requests_one_is_a_search(path: Path) -> None:
    recorded = json.loads(path.read_text())
    headers = {name.lower().encode(): value.encode() for name, value in recorded["headers"]}
    body = json.dumps(recorded["body"]).encode()
    request = parse_request(body, max_messages=1000, max_nesting=200)
    found = read_side_role(request, headers, program=read_sender(headers).client)
    assert found == ("web_search" if path.stem == "web-search-subcall" else "")


def test_requests_were_recorded() -> None:
    assert len(MESSAGES) > 50
