"""Loops in a history, and what a model is told of them."""

from typing import Any

import pytest

from dragoman.core.dialects.profile import GENERIC
from dragoman.core.guards import Guards, count_repeats
from dragoman.core.plan import Deployment, Plan, make_plan
from support.plans import MINIMAL, SIGNER, assistant, call, parse, result, said, text, user

LOOK = {"path": "a", "limit": 3}


def turns(*inputs: dict[str, Any], name: str = "read") -> list[dict[str, Any]]:
    """A conversation in which the model makes these calls, one after the other."""
    messages = [user("Look.")]
    for number, arguments in enumerate(inputs):
        call_id = f"toolu_{number}"
        messages += [assistant(call(call_id, name, **arguments)), user(result(call_id, "same"))]
    return messages


def made(messages: list[dict[str, Any]], **guards: Any) -> Plan:
    deployment = Deployment(upstream="lab", model="m", profile=GENERIC, guards=Guards(**guards))
    tools = [{"name": "read", "input_schema": {"type": "object"}}]
    request = parse({**MINIMAL, "messages": messages, "tools": tools})
    return make_plan(request, deployment, signer=SIGNER)


def counted(messages: list[dict[str, Any]]) -> tuple[str, int]:
    return count_repeats(parse({**MINIMAL, "messages": messages}).messages)


CASES: dict[str, tuple[list[dict[str, Any]], int]] = {
    "no call": ([user("Hi")], 0),
    "one": (turns(LOOK), 1),
    "three": (turns(LOOK, LOOK, LOOK), 3),
    "in another order of members": (turns(LOOK, {"limit": 3, "path": "a"}), 2),
    "another input": (turns(LOOK, {"path": "b"}), 1),
    "with others between": (turns(LOOK, {"path": "b"}, LOOK), 2),
    "true is not one": (turns({"a": 1}, {"a": True}), 1),
    "the user has spoken since": ([*turns(LOOK), user("Again."), *turns(LOOK)[1:]], 1),
    "the user spoke beside a result": (
        [
            *turns(LOOK)[:-1],
            user(result("toolu_0", "same"), text("Go on.")),
            assistant(call("toolu_9", "read", **LOOK)),
            user(result("toolu_9", "same")),
        ],
        2,
    ),
}


@pytest.mark.parametrize(("messages", "count"), CASES.values(), ids=CASES)
def test_repeats_are_counted(messages: list[dict[str, Any]], count: int) -> None:
    assert counted(messages) == ("read" if count else "", count)


def test_two_at_once_count_as_two() -> None:
    both = assistant(call("toolu_0", "read", **LOOK), call("toolu_1", "read", **LOOK))
    results = user(result("toolu_0", "x"), result("toolu_1", "x"))
    assert counted([user("Look."), both, results]) == ("read", 2)


def test_only_the_last_calls_are_looked_at() -> None:
    assert counted(turns(*[LOOK] * 500))[1] == 201


def test_a_loop_is_noticed() -> None:
    plan = made(turns(*[LOOK] * 5))
    assert said(plan) == [("messages", "noticed")]
    assert plan.adjustments[0].reason == "the model has called read 5 times with the same input"
    assert plan.body["messages"] == made(turns(*[LOOK] * 5), max_repeats=0).body["messages"]


def test_fewer_are_none() -> None:
    assert said(made(turns(*[LOOK] * 4))) == []
    assert said(made(turns(*[LOOK] * 2), max_repeats=2)) == [("messages", "noticed")]


def test_nothing_is_a_loop_where_it_is_switched_off() -> None:
    assert said(made(turns(*[LOOK] * 50), max_repeats=0)) == []


def test_the_model_is_told_behind_everything_else() -> None:
    messages = turns(*[LOOK] * 5)
    plan = made(messages, nudge_repeats=True)
    assert said(plan) == [("messages", "emulated")]
    plain = made(messages).body["messages"]
    *others, last = plan.body["messages"]
    assert others == plain
    assert last["role"] == "user"
    assert last["content"].startswith("<system-reminder>\nYou have called read 5 times")
