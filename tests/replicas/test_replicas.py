"""Several gateways are one: whatever one of them knows, and whichever of them is asked."""

import asyncio
import time
from typing import Any

import pytest

from dragoman.limit_settings import Limits
from replicas.conftest import METRICS_TOKEN
from support.chat_script import Thought, call, refuse, say
from support.crowd import Crowd
from support.fleet import SECRET, Fleet
from support.gateway import Answer

pytestmark = pytest.mark.server
_CLIENTS = 200
_REVOKED_S = 2.0  # then no replica takes the key any more
TOOLS = [{"name": "get", "input_schema": {"type": "object"}}]
ASK: dict[str, Any] = {
    "model": "m",
    "max_tokens": 50,
    "tools": TOOLS,
    "messages": [{"role": "user", "content": "Hi"}],
}


def ask(fleet: Fleet, number: int, key: str, body: dict[str, Any]) -> Answer:
    headers = {"x-api-key": key}
    return fleet.replicas[number].request("POST", "/v1/messages", body, headers=headers)


def test_a_revoked_key_stops_everywhere_within_two_seconds(fleet: Fleet) -> None:
    async def main(fleet: Fleet, crowd: Crowd, revoke: Any) -> float:
        stop = asyncio.Event()
        load = asyncio.create_task(crowd.work(_CLIENTS, until=stop))
        await asyncio.sleep(2)
        await asyncio.to_thread(revoke)
        revoked_s = time.monotonic()
        await asyncio.sleep(_REVOKED_S + 2)
        stop.set()
        await load
        return revoked_s

    (key, text), (_, other) = fleet.new_key("leaves"), fleet.new_key("stays")
    fleet.upstream.script(say("Hello.", times=-1))
    crowd = Crowd(fleet.ports, key=text, pause_s=1.0)
    revoked_s = asyncio.run(main(fleet, crowd, lambda: fleet.revoke(key)))
    for number in range(3):
        mine = [each for each in crowd.outcomes if each.replica == number]
        before = [each for each in mine if each.ended_s < revoked_s - 1]
        after = [each for each in mine if each.began_s > revoked_s + _REVOKED_S]
        assert len(before) > 20
        assert len(after) > 20
        assert {each.end for each in before} == {"complete"}
        assert {each.error for each in after} == {"authentication_error"}
        assert ask(fleet, number, other, ASK).status == 200


def test_what_one_keeps_and_learns_all_know(fleet: Fleet) -> None:
    refusal = refuse(
        400,
        "temperature must be between 0 and 1",
        when=lambda body: body.get("temperature", 0) > 1,
        times=-1,
    )
    key, other = fleet.new_key("one")[1], fleet.new_key("another")[1]
    thinking = say(Thought("Look it up."), call("get", q=1))
    fleet.upstream.script(refusal, thinking, say("Done.", times=-1))
    message = ask(fleet, 0, key, ASK | {"temperature": 1.5}).json()
    (use,) = [block for block in message["content"] if block["type"] == "tool_use"]
    assert [each.body["temperature"] for each in fleet.upstream.requests] == [1.5, 1.0]
    fleet.stop(0)
    result = {"type": "tool_result", "tool_use_id": use["id"], "content": "done"}
    more = [{"role": "assistant", "content": [use]}, {"role": "user", "content": [result]}]
    # A client that keeps nothing but the call, and another that has got hold of it.
    body = ASK | {"temperature": 1.5, "messages": [*ASK["messages"], *more]}
    for number, whose in ((1, key), (2, key), (2, other)):
        assert ask(fleet, number, whose, body).status == 200
    asked = fleet.upstream.requests[2:]
    seen = [(each.body["temperature"], reasoning_in(each)) for each in asked]
    mine, nothing = (1.0, "Look it up."), (1.0, None)
    assert seen == [mine, mine, nothing]


def test_what_one_signs_another_reads(fleet: Fleet) -> None:
    _, key = fleet.new_key("signed")
    thinking = say(Thought("Shown to nobody."), call("get", q=1))
    fleet.upstream.script(thinking, say("Done.", times=-1))
    hidden = ASK | {"thinking": {"type": "enabled", "budget_tokens": 1024, "display": "omitted"}}
    hidden["max_tokens"] = 2048
    content = ask(fleet, 0, key, hidden).json()["content"]
    (thought,) = [block for block in content if block["type"] == "thinking"]
    (use,) = [block for block in content if block["type"] == "tool_use"]
    assert thought["thinking"] == ""
    # Under an id that no vault knows: what comes back was in the signature.
    use["id"] = "toolu_made_up"
    result = {"type": "tool_result", "tool_use_id": use["id"], "content": "done"}
    more = [
        {"role": "assistant", "content": [thought, use]},
        {"role": "user", "content": [result]},
    ]
    body = hidden | {"messages": [*ASK["messages"], *more]}
    assert ask(fleet, 1, key, body).status == 200
    assert reasoning_in(fleet.upstream.requests[-1]) == "Shown to nobody."


def test_workers_of_one_machine_count_in_redis_with_the_others(fleet: Fleet) -> None:
    _, key = fleet.new_key("counted", limits=Limits(requests_per_minute=10))
    fleet.upstream.script(say("Hello.", times=-1))
    with fleet.another("--workers", "2") as machine:
        statuses = []
        for _ in range(5):
            headers = {"x-api-key": key}
            statuses.append(machine.request("POST", "/v1/messages", ASK, headers=headers).status)
            statuses.append(ask(fleet, 0, key, ASK).status)
        assert statuses == [200] * 10
        assert ask(fleet, 1, key, ASK).status == 429
        assert machine.request("POST", "/v1/messages", ASK, headers=headers).status == 429
        page = fleet.replicas[1].request(
            "GET", "/metrics", headers={"authorization": f"Bearer {METRICS_TOKEN}"}
        )
        assert b"\ndragoman_redis_away 0.0\n" in page.body


def reasoning_in(request: Any) -> str | None:
    (turn,) = [each for each in request.messages if each["role"] == "assistant"]
    return turn.get("reasoning_content")


def test_another_signing_secret_is_told(fleet: Fleet) -> None:
    warned = '"text":"server.signing_secret: not that of the other gateways'
    assert warned not in fleet.replicas[0].log()
    with fleet.another(secret=SECRET.swapcase()) as replica:
        assert warned in replica.log()
    with fleet.another(secret=SECRET) as replica:
        assert warned not in replica.log()
