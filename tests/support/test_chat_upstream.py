"""The scripted upstream does what its script says; other tests lean on that."""

import http.client
import json
import socket

import pytest

from support.chat_script import BEFORE_HEAD, Call, Thought, call, give, hang, refuse, say
from support.chat_upstream import ChatUpstream

HELLO = [{"role": "user", "content": "Say hello"}]


def post(upstream, *, stream=True, messages=HELLO):
    connection = http.client.HTTPConnection("127.0.0.1", upstream.port, timeout=5)
    body = {"model": "m", "messages": messages, "stream": stream}
    body["stream_options"] = {"include_usage": True}
    connection.request("POST", "/v1/chat/completions", json.dumps(body))
    response = connection.getresponse()
    try:
        return response.status, response.read()
    finally:
        connection.close()


def chunks(body: bytes):
    payloads = [part.removeprefix(b"data: ") for part in body.split(b"\n\n") if part]
    assert payloads.pop() == b"[DONE]"
    return [json.loads(payload) for payload in payloads]


@pytest.fixture
def upstream():
    with ChatUpstream() as server:
        yield server


def test_streams_text_thoughts_and_calls(upstream) -> None:
    upstream.script(say(Thought("Let me think about it."), "Hello there, you.", call("f", a=1)))
    status, body = post(upstream)
    deltas = [c["choices"][0]["delta"] for c in chunks(body) if c["choices"]]
    assert status == 200
    assert "".join(d.get("content") or "" for d in deltas) == "Hello there, you."
    assert "".join(d.get("reasoning_content") or "" for d in deltas) == "Let me think about it."
    calls = [c for d in deltas for c in d.get("tool_calls", ())]
    assert "".join(c["function"]["arguments"] for c in calls) == '{"a": 1}'
    assert (calls[0]["id"], calls[0]["function"]["name"]) == ("call_0", "f")
    assert chunks(body)[-2]["choices"][0]["finish_reason"] == "tool_calls"
    assert chunks(body)[-1]["usage"]["prompt_tokens"] > 0


def test_interleaves_parallel_calls(upstream) -> None:
    two = (Call("f", '{"a": 11111}'), Call("g", '{"b": 22222}', id="x"))
    upstream.script(say(*two, interleave=True, chunk_chars=4))
    deltas = [c["choices"][0]["delta"] for c in chunks(post(upstream)[1]) if c["choices"]]
    order = [c["index"] for d in deltas for c in d.get("tool_calls", ())]
    assert order == [0, 1] * 4


def test_whole_reply(upstream) -> None:
    upstream.script(say(Thought("hm"), "Hi", call("f"), usage={"prompt_tokens": 3}))
    whole = json.loads(post(upstream, stream=False)[1])
    message = whole["choices"][0]["message"]
    assert (message["content"], message["reasoning_content"]) == ("Hi", "hm")
    assert message["tool_calls"][0]["function"] == {"name": "f", "arguments": "{}"}
    assert whole["usage"] == {"prompt_tokens": 3}


def test_rules_are_used_in_order_and_used_up(upstream) -> None:
    upstream.script(
        say("tool", last_has="result", times=-1), say("one"), say("two", user_has="hello")
    )
    after_tool = [*HELLO, {"role": "tool", "tool_call_id": "x", "content": "the result"}]
    texts = [post(upstream, stream=False, messages=m) for m in (HELLO, after_tool, HELLO, HELLO)]
    assert [status for status, _ in texts] == [200, 200, 200, 400]
    said = [json.loads(body)["choices"][0]["message"]["content"] for _, body in texts[:3]]
    assert said == ["one", "tool", "two"]
    assert len(upstream.requests) == 4
    assert len(upstream.unmatched) == 1


def test_errors_and_garbage(upstream) -> None:
    slow_down = refuse(429, "slow down", kind="rate_limit", headers=(("retry-after", "2"),))
    upstream.script(slow_down, give(b"<html>", status=502, content_type="text/html"))
    status, body = post(upstream)
    assert (status, json.loads(body)["error"]["type"]) == (429, "rate_limit")
    assert post(upstream) == (502, b"<html>")


FAULTS = {
    "before the head": say("x" * 100, drop_after=BEFORE_HEAD),
    "after the head": say("x" * 100, drop_after=0),
    "after two events": say("x" * 100, drop_after=2),
    "inside an event": say("x" * 100, drop_after=2, cut_event=True),
}


@pytest.mark.parametrize("rule", FAULTS.values(), ids=FAULTS)
def test_drops(upstream, rule) -> None:
    upstream.script(rule)
    with pytest.raises((OSError, http.client.HTTPException)):
        post(upstream)
    upstream.wait_idle()
    assert upstream.requests[0].outcome == "dropped"


def test_clean_end_too_early(upstream) -> None:
    upstream.script(say("x" * 100, eof_after=3), say("x", done=False, close=True))
    assert post(upstream)[1].count(b"data: ") == 3
    assert b"[DONE]" not in post(upstream)[1]


@pytest.mark.parametrize("rule", [hang(), say("x", silent_after=0), say("x" * 99, delay_s=0.5)])
def test_notices_that_the_client_left(upstream, rule) -> None:
    upstream.script(rule)
    body = json.dumps({"messages": HELLO, "stream": True}).encode()
    with socket.create_connection(("127.0.0.1", upstream.port)) as sock:
        head = f"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: {len(body)}\r\n\r\n"
        sock.sendall(head.encode() + body)
        recorded = upstream.wait_request()
        assert upstream.open_calls == 1
    assert recorded.wait_gone(2)
    assert upstream.open_calls == 0


def test_models_and_counting(upstream) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", upstream.port, timeout=5)
    for path, key in (("/v1/models", "data"), ("/tokenize", "count")):
        connection.request("GET", path)
        assert key in json.loads(connection.getresponse().read())
    connection.close()
    assert [r.path for r in upstream.others] == ["/v1/models", "/tokenize"]
    assert upstream.total_connections == 1
