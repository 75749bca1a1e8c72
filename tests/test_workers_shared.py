"""Workers without Redis: what one of them keeps or learns, all of them have."""

import asyncio
import os
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from support.chat_script import Thought, call, refuse, say
from support.chat_upstream import ChatUpstream, Recorded
from support.crowd import Crowd
from support.gateway import Answer, GatewayProcess, lab_config
from test_workers import children, wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="!!!! SO_REUSEPORT deals on Linux")
KEY = "a-key-of-the-lab"
TOOLS = [{"name": "get", "input_schema": {"type": "object"}}]
ASK: dict[str, Any] = {
    "model": "m",
    "max_tokens": 50,
    "tools": TOOLS,
    "messages": [{"role": "user", "content": "Hi"}],
}
ECHO = '[models.m.profile]\necho_reasoning = "tool_turns"\nthinking = "always"\n'
N = 12  # requests, each on a connection of its own: all at one of two workers once in 2,048 times


def serving(folder: Path, upstream: ChatUpstream, more: str = "") -> GatewayProcess:
    config = lab_config(upstream.url, "m", more=more)
    return GatewayProcess(folder, config=config, args=("--workers", "2", "--log-format", "json"))


def ask(gateway: GatewayProcess, body: dict[str, Any]) -> Answer:
    return gateway.request("POST", "/v1/messages", body)


def follow_up(use: dict[str, Any]) -> dict[str, Any]:
    """Return the next request of a client that keeps nothing but the call."""
    result = {"type": "tool_result", "tool_use_id": use["id"], "content": "done"}
    more = [{"role": "assistant", "content": [use]}, {"role": "user", "content": [result]}]
    return ASK | {"messages": [*ASK["messages"], *more]}


def test_limits_hold_for_all_of_them_together(tmp_path: Path) -> None:
    more = f'[limits.key]\nrequests_per_minute = 10\n[[keys]]\nname = "k"\nkey = "{KEY}"\n'
    with ChatUpstream(say("Hello", times=-1)) as lab, serving(tmp_path, lab, more) as gateway:
        headers = {"x-api-key": KEY}
        replies = [
            gateway.request("POST", "/v1/messages", ASK, headers=headers) for _ in range(3 * N)
        ]
        assert [reply.status for reply in replies] == [200] * 10 + [429] * (3 * N - 10)
        left = [reply.headers["anthropic-ratelimit-requests-remaining"] for reply in replies[:10]]
        assert left == [str(n) for n in range(9, -1, -1)]
        replace_all(gateway)  # and new workers do not begin anew
        assert gateway.request("POST", "/v1/messages", ASK, headers=headers).status == 429
    assert '"event":"limits"' not in gateway.log()


def test_places_and_rates_hold_when_all_come_at_once(tmp_path: Path) -> None:
    more = "[limits.key]\nrequests_per_minute = 80\nconcurrent = 30\n"
    more += f'[[keys]]\nname = "k"\nkey = "{KEY}"\n'
    slow = say("Hello", head_delay_s=2, times=-1)
    with ChatUpstream(slow) as lab, serving(tmp_path, lab, more) as gateway:
        crowd = Crowd([gateway.port], key=KEY, pause_s=0)
        rounds = [Counter(each.error for each in asyncio.run(crowd.once(100))) for _ in range(3)]
        assert rounds[0] == rounds[1] == {"": 30, "rate_limit_error": 70}
        assert rounds[2] == {"": 20, "rate_limit_error": 80}  # what is left of the minute


def test_what_one_leaves_alone_all_leave_alone(tmp_path: Path) -> None:
    limited = refuse(429, "slow down", headers=(("retry-after", "600"),), times=-1)
    with (
        ChatUpstream(limited) as ill,
        ChatUpstream(say("Hello", times=-1)) as well,
    ):
        more = f'[upstreams.second]\nbase_url = "{well.url}"\n'
        config = lab_config(ill.url, "m", more=more).replace(
            'upstream = "lab"', 'upstream = ["lab", "second"]'
        )
        args = ("--workers", "2", "--log-format", "json")
        with GatewayProcess(tmp_path, config=config, args=args) as gateway:
            assert ask(gateway, ASK).status == 200
            replace_all(gateway)
            for _ in range(N):
                assert ask(gateway, ASK).status == 200
            assert (len(ill.requests), len(well.requests)) == (1, N + 1)


def replace_all(gateway: GatewayProcess) -> None:
    """Kill the workers, wait until new ones serve."""
    for pid in children(gateway.pid):
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: gateway.log().count('"state":"started"') == 2)


def reasoning_in(request: Recorded) -> str | None:
    (turn,) = [message for message in request.messages if message["role"] == "assistant"]
    return turn.get("reasoning_content")


def test_thinking_that_one_keeps_all_find_and_it_outlives_the_worker(tmp_path: Path) -> None:
    with (
        ChatUpstream(say(Thought("Look it up."), call("get", q=1)), say("Done", times=-1)) as lab,
        serving(tmp_path, lab, ECHO) as gateway,
    ):
        message = ask(gateway, ASK).json()
        (use,) = [block for block in message["content"] if block["type"] == "tool_use"]
        for _ in range(N):
            assert ask(gateway, follow_up(use)).status == 200
        assert [reasoning_in(request) for request in lab.requests[1:]] == ["Look it up."] * N
        replace_all(gateway)  # whichever has kept it
        assert ask(gateway, follow_up(use)).status == 200
        assert reasoning_in(lab.requests[-1]) == "Look it up."
    assert '"event":"crash"' not in gateway.log()


def test_what_one_learns_of_an_upstream_all_know(tmp_path: Path) -> None:
    refusal = refuse(
        400,
        "temperature must be between 0 and 1",
        when=lambda body: body["temperature"] > 1,
        times=-1,
    )
    with (
        ChatUpstream(refusal, say("Hello", times=-1)) as lab,
        serving(tmp_path, lab) as gateway,
    ):
        assert ask(gateway, ASK | {"temperature": 1.5}).status == 200
        replace_all(gateway)
        for _ in range(N):
            assert ask(gateway, ASK | {"temperature": 1.5}).status == 200
        sent = [request.body["temperature"] for request in lab.requests]
        assert sent == [1.5, 1.0] + [1.0] * N  # refused once, by all workers together
