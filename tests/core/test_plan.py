"""make_plan from end to end; its parts have tests of their own."""

import msgspec
import pytest

from dragoman.core.dialects.profile import GENERIC, DialectProfile
from dragoman.core.errors import InvalidRequest
from dragoman.core.plan import Deployment, Plan, ServerCall, make_plan, plan_after_server_tools
from dragoman.core.render import render
from dragoman.core.signatures import Signer
from dragoman.core.validate import parse_request

SIGNER = Signer(b"0123456789abcdef")


def plan(profile: DialectProfile = GENERIC, **fields) -> Plan:
    body = {"model": "alias", "max_tokens": 100, "messages": [{"role": "user", "content": "Hi"}]}
    raw = msgspec.json.encode(body | fields)
    request = parse_request(raw, max_messages=100_000, max_nesting=200)
    deployment = Deployment(upstream="lab", model="upstream-model", profile=profile)
    return make_plan(request, deployment, signer=SIGNER)


def test_the_smallest_request() -> None:
    assert plan().body == {
        "model": "upstream-model",
        "messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": 100,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_rendered_bytes_begin_with_model_and_messages() -> None:
    assert render(plan()).startswith(
        b'{"model":"upstream-model","messages":[{"role":"user","content":"Hi"}],'
    )


def test_threads_are_refused() -> None:
    with pytest.raises(InvalidRequest) as caught:
        plan(thread={"type": "create"})
    assert caught.value.details == {
        "error_code": "thread_unsupported_request",
        "unsupported": ["thread"],
    }


def test_server_tools_get_one_round() -> None:
    first = plan(tools=[{"type": "web_search_20250305", "name": "web_search"}])
    assert list(first.server_tools) == ["web_search"]
    call = ServerCall(id="call_1", name="web_search", arguments_json='{"query":"x"}')
    second = plan_after_server_tools(first, "Let me look.", [call])
    assert second.server_tools == {}
    assert "tools" not in second.body
    *before, said, result = second.body["messages"]
    assert before == first.body["messages"]
    assert said["content"] == "Let me look."
    assert said["tool_calls"][0]["id"] == result["tool_call_id"] == "call_1"
    assert "unavailable" in result["content"]
