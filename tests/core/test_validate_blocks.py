"""What each type of block needs, wherever it stands; the errors' words are in test_validate.py."""

from typing import Any

import pytest

from dragoman.core.errors import InvalidRequest
from dragoman.core.validate_blocks import check_blocks
from dragoman.wire.anthropic import Block, Source
from support.plans import MINIMAL, parse, result, text

URL = {"type": "url", "url": "https://a.example"}
COMPLETE: dict[str, dict[str, Any]] = {
    "text": {"text": "a"},
    "image": {"source": URL},
    "document": {"source": URL},
    "search_result": {"source": "a", "title": "b", "content": []},
    "thinking": {"thinking": "a"},
    "tool_use": {"id": "a", "name": "b", "input": {}},
    "server_tool_use": {"id": "a", "name": "b"},
    "mcp_tool_use": {"id": "a", "name": "b"},
    "tool_result": {"tool_use_id": "a"},
    "mcp_tool_result": {"tool_use_id": "a"},
    "web_search_tool_result": {"tool_use_id": "a"},
    "any_future_tool_result": {"tool_use_id": "a"},
    "tool_reference": {"tool_name": "a"},
    "redacted_thinking": {},
    "future": {},
}
MISSING = [(kind, field) for kind, fields in COMPLETE.items() for field in fields]


def refusal(*content: dict[str, Any]) -> str:
    with pytest.raises(InvalidRequest) as caught:
        parse(MINIMAL | {"messages": [{"role": "user", "content": list(content)}]})
    return caught.value.message


@pytest.mark.parametrize("kind", COMPLETE)
def test_what_is_complete_is_fine(kind: str) -> None:
    block = {"type": kind, **COMPLETE[kind]}
    request = MINIMAL | {"messages": [{"role": "user", "content": [text("a"), block]}]}
    assert parse(request).messages[0].content[1].type == kind


@pytest.mark.parametrize(("kind", "field"), MISSING)
def test_what_is_missing_is_named_wherever_it_is_missing(kind: str, field: str) -> None:
    without = {"type": kind, **COMPLETE[kind]}
    del without[field]
    at = "messages.0.content.1"
    assert refusal(text("a"), without) == f"{at}.{field}: Field required"
    inside = result("x", [text("a"), without])
    assert refusal(text("a"), inside) == f"{at}.content.1.{field}: Field required"
    content = {"type": "document", "source": {"type": "content", "content": [without]}}
    assert refusal(text("a"), content) == f"{at}.source.content.0.{field}: Field required"


SOURCES = {
    ("image", "base64"): "data",
    ("image", "url"): "url",
    ("image", "file"): "file_id",
    ("document", "base64"): "data",
    ("document", "text"): "data",
    ("document", "content"): "content",
    ("document", "url"): "url",
    ("document", "file"): "file_id",
}


@pytest.mark.parametrize(("kinds", "field"), SOURCES.items(), ids=map("-".join, SOURCES))
def test_sources_need_their_own_field(kinds: tuple[str, str], field: str) -> None:
    block, source = kinds
    said = refusal({"type": block, "source": {"type": source}})
    assert said == f"messages.0.content.0.source.{field}: Field required"


@pytest.mark.parametrize(("block", "source"), [("image", "text"), ("document", "sound")])
def test_sources_of_other_kinds(block: str, source: str) -> None:
    said = refusal({"type": block, "source": {"type": source, "data": "x"}})
    assert said.startswith("messages.0.content.0.source.type: Input should be one of 'base64', ")


def test_a_source_of_the_wrong_type_that_the_decoder_could_not_know() -> None:
    block = Block("document", source=Source("text", data=[]))  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest) as caught:
        check_blocks([block], "messages.0.content")
    assert caught.value.path == "messages.0.content.0.source.data"


@pytest.mark.parametrize("system", [None, "", "Be nice.", [], [Block("text", text="a")]])
def test_systems(system: Any) -> None:
    check_blocks(system, "system")
