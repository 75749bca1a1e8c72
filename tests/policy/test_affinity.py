"""By what a conversation is known."""

import json
from typing import Any

import pytest

from dragoman.core.validate import parse_request
from dragoman.policy.affinity import affinity_key
from dragoman.policy.senders import UNKNOWN, Sender

TOOL = {"name": "look", "input_schema": {"type": "object"}}
BODY: dict[str, Any] = {
    "model": "m",
    "max_tokens": 9,
    "system": "Be brief.",
    "tools": [TOOL],
    "messages": [{"role": "user", "content": "Hi"}],
}


def key(sender: Sender = UNKNOWN, alias: str = "m", **fields: Any) -> bytes:
    body = json.dumps({**BODY, **fields}).encode()
    return affinity_key(parse_request(body, max_messages=9, max_nesting=99), alias, sender)


GROWN = [*BODY["messages"], {"role": "assistant", "content": "Yes?"}, *BODY["messages"]]
OTHER: dict[str, dict[str, Any]] = {
    "model": {"alias": "n"},
    "system": {"system": "Be long."},
    "tools": {"tools": [{**TOOL, "description": "around"}]},
    "first message": {"messages": [{"role": "user", "content": "Ho"}]},
}


def test_a_conversation_that_grows_stays_the_same() -> None:
    assert key(messages=GROWN) == key()
    assert key(max_tokens=10, temperature=0.5) == key()


@pytest.mark.parametrize("changes", OTHER.values(), ids=OTHER)
def test_another_beginning_is_another_conversation(changes: dict[str, Any]) -> None:
    assert key(**changes) != key()


@pytest.mark.parametrize("changes", OTHER.values(), ids=OTHER)
def test_a_session_stands_above_all(changes: dict[str, Any]) -> None:
    assert key(Sender("one"), **changes) == key(Sender("one"))


def test_sessions_and_their_agents_are_told_apart() -> None:
    senders = [UNKNOWN, Sender("one"), Sender("two"), Sender("one", "agent"), Sender("", "agent")]
    assert len({key(sender) for sender in senders}) == 4  # an agent without a session says nothing


def test_text_and_a_block_of_it_are_one() -> None:
    blocks = [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]
    assert key(messages=blocks) == key()


def test_what_comes_after_64_kib_of_a_message_is_not_read() -> None:
    long = "x" * 65_536
    ends = [key(messages=[{"role": "user", "content": long + end}]) for end in ("a", "b")]
    assert ends[0] == ends[1]
