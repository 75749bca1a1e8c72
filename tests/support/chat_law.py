"""What every chat-completions request must be, whatever conversation it was made from."""

import json
import re
from collections.abc import Sequence
from typing import Any

NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
Message = dict[str, Any]


def check_body(body: dict[str, Any]) -> None:
    """Assert that *body* is a request that the strictest upstream takes."""
    check_messages(body["messages"])
    tools = body.get("tools")
    assert tools is None or tools
    names = [tool["function"]["name"] for tool in tools or ()]
    assert len(set(names)) == len(names)
    assert all(NAME.fullmatch(name) for name in names)
    if not tools:
        assert "tool_choice" not in body
        assert "parallel_tool_calls" not in body


def check_messages(messages: Sequence[Message]) -> None:
    """Assert that the messages are legal: roles, content, calls and results."""
    assert any(message["role"] == "user" for message in messages)
    at = 0
    while at < len(messages):
        message = messages[at]
        _CHECKS[message["role"]](message)
        if message["role"] != "system" and at:
            assert messages[at - 1]["role"] != message["role"], "neighbours of one role"
        at += 1
        ids = [call["id"] for call in message.get("tool_calls", ())]
        assert len(set(ids)) == len(ids), "ids unique in a turn"
        answers = messages[at : at + len(ids)]
        assert [m.get("tool_call_id") for m in answers] == ids, "results follow in call order"
        for answer in answers:
            assert answer["role"] == "tool"
            assert isinstance(answer["content"], str)
            assert answer["content"]
        at += len(ids)


def _check_system(message: Message) -> None:
    assert isinstance(message["content"], str)
    assert message["content"]


def _check_user(message: Message) -> None:
    content = message["content"]
    assert content, "content is never empty"
    if isinstance(content, str):
        return
    assert any(part["type"] == "image_url" for part in content), "text alone is a string"
    for part in content:
        assert part.get("text") or part["image_url"]["url"]


def _check_assistant(message: Message) -> None:
    assert isinstance(message["content"], str)
    reasoning = message.get("reasoning_content") or message.get("reasoning")
    assert message["content"] or message.get("tool_calls") or reasoning
    assert message.get("tool_calls") != []
    for call in message.get("tool_calls", ()):
        assert call["id"]
        assert call["type"] == "function"
        assert NAME.fullmatch(call["function"]["name"])
        json.loads(call["function"]["arguments"])


def _check_tool(message: Message) -> None:
    raise AssertionError(f"a tool message stands apart from its call: {message}")


_CHECKS = {
    "system": _check_system,
    "user": _check_user,
    "assistant": _check_assistant,
    "tool": _check_tool,
}
