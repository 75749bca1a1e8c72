"""The vendors' laws have teeth: each is broken by some request, and none by all of them."""

from typing import Any

import pytest

from support.family_upstream import FAMILIES, FamilyCase, Past
from support.family_wire import Step

CALL = {"id": "mine", "type": "function", "function": {"name": "look", "arguments": "{}"}}
RESULT = {"role": "tool", "tool_call_id": "mine", "content": "seen"}
USER = {"role": "user", "content": "Hi"}
IMAGE = {"type": "image_url", "image_url": {"url": "https://lab.example/a.png"}}


def tool(name: str = "look", **schema: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": {}, **schema}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


def asked(*messages: dict[str, Any], **fields: Any) -> dict[str, Any]:
    on = {"thinking": {"type": "enabled"}, "stream": True}
    return {**on, "messages": [USER, *messages], **fields}


def called(**fields: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": "I look.", "tool_calls": [CALL], **fields}


OFFENDERS = [
    asked(called(), RESULT),
    asked(called(reasoning_content="Not what I thought."), RESULT),
    asked(called(reasoning_content="I think."), USER),
    asked(called(content="", reasoning_content="I think."), RESULT),
    asked({"role": "assistant", "content": "Said."}),
    asked({"role": "assistant", "content": "<think>no</think>Said.", "reasoning_content": "x"}),
    asked({"role": "system", "content": "Be brief."}),
    asked({"role": "user", "content": [IMAGE]}),
    asked(called(), {**RESULT, "content": [{"type": "text", "text": "seen"}]}),
    asked(tools=[tool("not allowed")]),
    asked(tools=[tool(properties={"any": {}})]),
    asked(tools=[tool()], tool_choice="required"),
    asked(temperature=2.5),
    asked(top_p=1.5),
    asked(top_k=5),
    asked(parallel_tool_calls=False),
    asked(stop=[str(n) for n in range(17)]),
    asked(max_tokens=2_000_000),
    asked(stream=False, stream_options={"include_usage": True}),
    {"messages": [{"role": "assistant", "content": "Nobody asked.", "reasoning_content": "x"}]},
]
LAWS = [(family, law) for family in FAMILIES.values() for law in family.laws]


def a_past(family: FamilyCase) -> Past:
    past = Past()
    past.add(family.name, Step(thought="I think.", calls=(("look", {}),)))
    return past


@pytest.mark.parametrize(("family", "law"), LAWS, ids=[f"{f.name}: {w.name}" for f, w in LAWS])
def test_each_law_can_be_broken(family: FamilyCase, law: Any) -> None:
    broken = [body for body in OFFENDERS if next(law.broken(body, a_past(family)), None)]
    assert broken, "no request breaks it"
    assert len(broken) < len(OFFENDERS), "every request breaks it"
    assert law.source


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_errors_have_the_vendors_form(family: FamilyCase) -> None:
    error = family.error("said", "a_param")["error"]
    assert "said" in (error["message"], error.get("param")) or error["message"].endswith("said")
    assert ("type" in error) is (family.name != "glm")
