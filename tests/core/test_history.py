"""Histories, case by case; the laws for all of them are in test_plan.py."""

from typing import Any

import pytest

from dragoman.core.dialects.profile import DialectProfile
from dragoman.core.plan import Plan
from dragoman.core.tool_ids import mint_id
from support.chat_law import check_messages
from support.plans import SIGNER, assistant, call, plan, result, said, system, text, tool, user

PNG = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBOR"}}
SEEING = DialectProfile(sees_images=True)
THINKER = DialectProfile(echo_reasoning="tool_turns", reasoning_placeholder=" ")


def thinking(value: str, signature: str = "") -> dict[str, Any]:
    return {"type": "thinking", "thinking": value, "signature": signature}


def outline(messages: list[dict[str, Any]]) -> list[str]:
    """Return the messages as lines: role, ids of calls, content."""
    lines = []
    for message in messages:
        calls = ",".join(c["id"] for c in message.get("tool_calls", ()))
        of = message.get("tool_call_id") or calls
        content = message["content"]
        if isinstance(content, list):
            content = "+".join(p.get("text", "IMAGE") for p in content)
        lines.append(f"{message['role']}{f'({of})' if of else ''}: {content}")
    return lines


def planned(*messages: dict[str, Any], profile: DialectProfile = DialectProfile()) -> Plan:  # noqa: B008
    made = plan(profile, messages=list(messages))
    check_messages(made.body["messages"])
    return made


WORDLESS = (
    {"type": "fallback", "to": {"model": "m"}},
    {"type": "mcp_tool_listing", "mcp_server_name": "s", "tools": []},
    {"type": "tool_addition", "tool": {"type": "tool_definition", "definition": tool("get")}},
    {"type": "tool_removal", "tool": {"type": "tool_reference", "name": "put"}},
)
CASES = {
    "same-role neighbours": (
        [user("A"), user("B"), assistant("C"), assistant("D"), user("E")],
        ["user: A\n\nB", "assistant: CD", "user: E"],
        [],
    ),
    "text around results": (
        [
            user("Hi"),
            assistant(call("a"), call("b")),
            user(
                text("before"), result("b", "B"), text("between"), result("a", "A"), text("after")
            ),
        ],
        [
            "user: Hi",
            "assistant(a,b): ",
            "tool(a): A",
            "tool(b): B",
            "user: before\n\nbetween\n\nafter",
        ],
        [],
    ),
    "results in two messages": (
        [
            user("Hi"),
            assistant(call("a"), call("b")),
            user(result("b", "B")),
            user(result("a", "A")),
        ],
        ["user: Hi", "assistant(a,b): ", "tool(a): A", "tool(b): B"],
        [],
    ),
    "system message behind results": (
        [user("Hi"), assistant(call("a")), user(result("a", "A")), system("Mind the gap.")],
        [
            "user: Hi",
            "assistant(a): ",
            "tool(a): A",
            "user: <system-reminder>\nMind the gap.\n</system-reminder>",
        ],
        [],
    ),
    "system message between call and result": (
        [user("Hi"), assistant(call("a")), system("S"), user(result("a", "A"))],
        [
            "user: Hi",
            "assistant(a): ",
            "tool(a): A",
            "user: <system-reminder>\nS\n</system-reminder>",
        ],
        [],
    ),
    "tagged system message": (
        [user("Hi"), system("<system-reminder>S</system-reminder>")],
        ["user: Hi\n\n<system-reminder>S</system-reminder>"],
        [],
    ),
    "empty system message": ([user("Hi"), system("")], ["user: Hi"], []),
    "system message with an odd block": (
        [user("Hi"), system({"type": "strange"}, text("S"))],
        ["user: Hi\n\n<system-reminder>\nS\n</system-reminder>"],
        [("messages.1.content.0", "dropped")],
    ),
    "result too late": (
        [user("Hi"), assistant(call("a")), user("Go on"), assistant("OK"), user(result("a", "A"))],
        [
            "user: Hi",
            "assistant(a): ",
            "tool(a): A",
            "user: Go on",
            "assistant: OK",
            "user: [The result of the earlier call of get has arrived.]",
        ],
        [("messages.4.content.0", "repaired")],
    ),
    "call without a result": (
        [user("Hi"), assistant(call("a")), user("Go on")],
        [
            "user: Hi",
            "assistant(a): ",
            "tool(a): [no result was given for this tool call]",
            "user: Go on",
        ],
        [("messages.1.content.0", "repaired")],
    ),
    "call at the very end": (
        [user("Hi"), assistant(text("Let me see."), call("a"))],
        [
            "user: Hi",
            "assistant(a): Let me see.",
            "tool(a): [no result was given for this tool call]",
        ],
        [("messages.1.content.1", "repaired")],
    ),
    "result without a call": (
        [user(result("a", "A"), text("Go on"))],
        ["user: [a result of tool call a]\nA\n\nGo on"],
        [("messages.0.content.0", "repaired")],
    ),
    "the same result twice": (
        [user("Hi"), assistant(call("a")), user(result("a", "A"), result("a", "A"))],
        ["user: Hi", "assistant(a): ", "tool(a): A"],
        [("messages.2.content.1", "repaired")],
    ),
    "two results of one call": (
        [user("Hi"), assistant(call("a")), user(result("a", "A"), result("a", "B"))],
        [
            "user: Hi",
            "assistant(a): ",
            "tool(a): A",
            "user: [a further result of tool call a]\nB",
        ],
        [("messages.2.content.1", "repaired")],
    ),
    "one id twice in a turn": (
        [
            user("Hi"),
            assistant(call("a"), call("a"), call("a")),
            user(result("a", "1"), result("a", "2"), result("a", "3")),
        ],
        ["user: Hi", "assistant(a,a_2,a_3): ", "tool(a): 1", "tool(a_2): 2", "tool(a_3): 3"],
        [("messages.1.content.1", "repaired")],
    ),
    "one id in two turns": (
        [
            user("Hi"),
            assistant(call("a")),
            user(result("a", "A")),
            assistant(call("a")),
            user(result("a", "B")),
        ],
        ["user: Hi", "assistant(a): ", "tool(a): A", "assistant(a): ", "tool(a): B"],
        [],
    ),
    "empty id": (
        [user("Hi"), assistant(call("")), user(result("", "A"))],
        ["user: Hi", "assistant(call_0): ", "tool(call_0): A"],
        [],
    ),
    "our ids lead back": (
        [
            user("Hi"),
            assistant(call(mint_id("functions.get:0", "A" * 11))),
            user(result(mint_id("functions.get:0", "A" * 11), "A")),
        ],
        ["user: Hi", "assistant(functions.get:0): ", "tool(functions.get:0): A"],
        [],
    ),
    "text after a call": (
        [user("Hi"), assistant(call("a"), text("Done")), user(result("a", "A"))],
        ["user: Hi", "assistant(a): Done", "tool(a): A"],
        [],
    ),
    "error": (
        [user("Hi"), assistant(call("a")), user(result("a", "No.", is_error=True))],
        ["user: Hi", "assistant(a): ", "tool(a): [tool error] No."],
        [],
    ),
    "empty result": (
        [user("Hi"), assistant(call("a"), call("b")), user(result("a", ""), result("b", []))],
        ["user: Hi", "assistant(a,b): ", "tool(a): (no output)", "tool(b): (no output)"],
        [],
    ),
    "no messages of a user": (
        [system("S"), assistant("A")],
        [
            "system: S",
            "assistant: A",
            "user: Your last message was cut off. Continue it exactly where it stopped: "
            "write only what comes next, and repeat nothing.",
        ],
        [("messages", "emulated")],
    ),
    "nothing at all": (
        [user("")],
        ["user: (no message)"],
        [("messages", "repaired")],
    ),
    "empty last message": (
        [user("Hi"), assistant("A"), user("")],
        ["user: Hi", "assistant: A", "user: (no message)"],
        [("messages", "repaired")],
    ),
    "empty assistant message": (
        [user("Hi"), assistant(""), user("Hello?")],
        ["user: Hi\n\nHello?"],
        [],
    ),
    "only thinking, which nobody wants back": (
        [user("Hi"), assistant(thinking("Hm.")), user("Hello?")],
        ["user: Hi\n\nHello?"],
        [("messages.1.content.0", "dropped")],
    ),
    "redacted thinking": (
        [user("Hi"), assistant({"type": "redacted_thinking", "data": "x"}, text("A")), user("B")],
        ["user: Hi", "assistant: A", "user: B"],
        [("messages.1.content.0", "dropped")],
    ),
    "unknown blocks": (
        [user({"type": "strange"}), assistant({"type": "stranger"}), user("Go on")],
        ["user: [strange omitted]", "assistant: [stranger omitted]", "user: Go on"],
        [("messages.0.content.0", "dropped"), ("messages.1.content.0", "dropped")],
    ),
    "citations in what the user says": (
        [user(text("A") | {"citations": [{"type": "x"}]}, text("B") | {"citations": []})],
        ["user: A\n\nB"],
        [("messages.0.content.0.citations", "dropped")],
    ),
    "citations in a system message": (
        [user("Hi"), system(text("S") | {"citations": [{"type": "x"}]})],
        ["user: Hi\n\n<system-reminder>\nS\n</system-reminder>"],
        [("messages.1.content.0.citations", "dropped")],
    ),
    "calls made by code and by the model": (
        [
            user("Hi"),
            assistant(
                call("a") | {"caller": {"type": "direct"}},
                call("b") | {"caller": {"type": "code_execution_20260120", "tool_id": "s"}},
            ),
            user(result("a", "A"), result("b", "B")),
        ],
        ["user: Hi", "assistant(a,b): ", "tool(a): A", "tool(b): B"],
        [("messages.1.content.1.caller", "emulated")],
    ),
    "marks without words, by anyone": (
        [
            user(text("Hi"), *WORDLESS),
            assistant(text("A"), *WORDLESS),
            user(text("B")),
        ],
        ["user: Hi", "assistant: A", "user: B"],
        [],
    ),
    "citations in a reply": (
        [user("Hi"), assistant(text("A") | {"citations": [{"type": "x"}]}), user("B")],
        ["user: Hi", "assistant: A", "user: B"],
        [("messages.1.content.0.citations", "dropped")],
    ),
}


@pytest.mark.parametrize(("messages", "lines", "adjustments"), CASES.values(), ids=CASES)
def test_history(messages: list, lines: list[str], adjustments: list) -> None:
    made = planned(*messages)
    assert outline(made.body["messages"]) == lines
    assert said(made) == adjustments


# -- server tools of earlier turns


def server_call(call_id: str) -> dict[str, Any]:
    return {"type": "server_tool_use", "id": call_id, "name": "web_search", "input": {"query": "x"}}


def server_result(call_id: str, content: Any) -> dict[str, Any]:
    return {"type": "web_search_tool_result", "tool_use_id": call_id, "content": content}


UNAVAILABLE = {"type": "web_search_tool_result_error", "error_code": "unavailable"}
FOUND = [{"type": "web_search_result", "title": "T", "url": "u"}]
ENCRYPTED = [{"type": "web_search_result", "title": "T", "url": "u", "encrypted_content": "zzz"}]
SAID_UNAVAILABLE = "[tool error] unavailable: this tool cannot run on this gateway"


def test_what_only_others_can_decrypt_is_reported() -> None:
    made = planned(
        user("Hi"),
        assistant(server_call("s1"), server_result("s1", ENCRYPTED), text("A")),
        user("B"),
    )
    assert outline(made.body["messages"])[2] == 'tool(s1): [{"title":"T","url":"u"}]'
    assert said(made) == [("messages.1.content.1.content", "dropped")]


def test_server_tools_split_the_assistant_message() -> None:
    made = planned(
        user("Hi"),
        assistant(
            text("One."),
            server_call("s1"),
            server_result("s1", FOUND),
            text("Two."),
            server_call("s2"),
            server_result("s2", UNAVAILABLE),
            text("Three."),
        ),
        user("Go on"),
    )
    assert outline(made.body["messages"]) == [
        "user: Hi",
        "assistant(s1): One.",
        'tool(s1): [{"title":"T","url":"u"}]',
        "assistant(s2): Two.",
        f"tool(s2): {SAID_UNAVAILABLE}",
        "assistant: Three.",
        "user: Go on",
    ]
    assert said(made) == []


def test_a_server_result_in_the_next_reply_goes_to_its_call() -> None:
    made = planned(
        user("Hi"),
        assistant(server_call("s"), call("c")),
        user(result("c", "C")),
        assistant(server_result("s", UNAVAILABLE), text("Well.")),
        user("Go on"),
    )
    assert outline(made.body["messages"]) == [
        "user: Hi",
        "assistant(s,c): ",
        f"tool(s): {SAID_UNAVAILABLE}",
        "tool(c): C",
        "assistant: Well.",
        "user: Go on",
    ]
    assert said(made) == []


def test_mcp_calls_of_the_history() -> None:
    used = {"type": "mcp_tool_use", "id": "m", "name": "add", "server_name": "calc", "input": {}}
    got = {"type": "mcp_tool_result", "tool_use_id": "m", "content": [text("3")]}
    made = planned(user("Hi"), assistant(used, got, text("It is 3.")), user("Thanks"))
    made_call = made.body["messages"][1]["tool_calls"][0]
    assert made_call["function"] == {"name": "calc_add", "arguments": "{}"}
    assert made.body["messages"][2]["content"] == "3"


# -- arguments


@pytest.mark.parametrize(
    ("value", "arguments"),
    [
        ({"b": 1, "a": [1.0, None, True, "é"]}, '{"b":1,"a":[1.0,null,true,"é"]}'),
        ({}, "{}"),
        ({"__unparsedToolInput": {"raw": "{"}}, '{"__unparsedToolInput":{"raw":"{"}}'),
        ({"n": 10**30}, '{"n":1000000000000000000000000000000}'),
    ],
)
def test_arguments_go_back_as_they_are(value: dict, arguments: str) -> None:
    block = {"type": "tool_use", "id": "a", "name": "get", "input": value}
    made = planned(user("Hi"), assistant(block), user(result("a")))
    assert made.body["messages"][1]["tool_calls"][0]["function"]["arguments"] == arguments


# -- pictures


def test_pictures_of_results_follow_the_results() -> None:
    made = planned(
        user("Hi"),
        assistant(call("a"), call("b", "put")),
        user(result("a", [text("See:"), PNG]), result("b", "B"), text("What is it?")),
        profile=SEEING,
    )
    assert outline(made.body["messages"])[2:] == [
        "tool(a): See:\n[image 1: shown below]",
        "tool(b): B",
        "user: [images of the result of get]+IMAGE+What is it?",
    ]
    assert said(made) == []


def test_pictures_of_server_results_stand_between_assistant_messages() -> None:
    used = {"type": "mcp_tool_use", "id": "m", "name": "shot", "server_name": "s", "input": {}}
    got = {"type": "mcp_tool_result", "tool_use_id": "m", "content": [PNG]}
    made = planned(user("Hi"), assistant(used, got, text("Nice.")), user("OK"), profile=SEEING)
    roles = [message["role"] for message in made.body["messages"]]
    assert roles == ["user", "assistant", "tool", "user", "assistant", "user"]


def test_models_that_do_not_see_are_told() -> None:
    made = planned(user(PNG, PNG, text("What is it?")))
    omitted = "[image omitted: model upstream-model cannot see images]"
    assert made.body["messages"][0]["content"] == f"{omitted}\n\n{omitted}\n\nWhat is it?"
    assert said(made) == [("messages.0.content.0", "dropped")]


def test_assistants_have_no_pictures() -> None:
    made = planned(user("Hi"), assistant(PNG), user("OK"), profile=SEEING)
    assert made.body["messages"][1]["content"] == "[image omitted]"
    assert said(made) == [("messages.1.content.0", "dropped")]


# -- thinking


def reasoning_of(*blocks: dict[str, Any], profile: DialectProfile) -> Any:
    answers = [result(b["id"]) for b in blocks if b["type"] == "tool_use"]
    made = planned(user("Hi"), assistant(*blocks), user(*answers, text("OK")), profile=profile)
    message = made.body["messages"][1]
    return message.get("reasoning_content", message.get("reasoning"))


ALWAYS = DialectProfile(echo_reasoning="always", reasoning_field="reasoning")
ECHOES = {
    "never": (DialectProfile(), [thinking("Hm."), call("a")], None),
    "tool turn": (THINKER, [thinking("Hm."), call("a")], "Hm."),
    "no tool turn": (THINKER, [thinking("Hm."), text("A")], None),
    "always": (ALWAYS, [thinking("Hm."), text("A")], "Hm."),
    "alone": (ALWAYS, [thinking("Hm.")], "Hm."),
    "several, byte for byte": (THINKER, [thinking(" a\n"), thinking("b "), call("a")], " a\nb "),
    "lost": (THINKER, [call("a")], " "),
    "lost, no placeholder": (ALWAYS, [text("A")], None),
    "of another model": (THINKER, [thinking("Hm.", "EqoBForeign"), call("a")], "Hm."),
    "carried by our signature": (
        THINKER,
        [thinking("", SIGNER.sign("Hidden.", carry=True)), call("a")],
        "Hidden.",
    ),
    "empty and foreign": (THINKER, [thinking("", "EqoBForeign"), call("a")], " "),
}


def test_a_turn_of_nothing_but_thinking_that_stays_behind_is_no_message() -> None:
    made = planned(user("Hi"), assistant(thinking("Hm.")), user("Go on"), profile=THINKER)
    assert outline(made.body["messages"]) == ["user: Hi\n\nGo on"]


@pytest.mark.parametrize("case", ["never", "no tool turn", "empty and foreign"])
def test_thinking_that_stays_behind_is_reported(case: str) -> None:
    profile, blocks, _ = ECHOES[case]
    made = planned(user("Hi"), assistant(*blocks), user("Go on"), profile=profile)
    assert "dropped" in {a.action for a in made.adjustments}


@pytest.mark.parametrize(("profile", "blocks", "reasoning"), ECHOES.values(), ids=ECHOES)
def test_reasoning_goes_back(profile: DialectProfile, blocks: list, reasoning: str | None) -> None:
    assert reasoning_of(*blocks, profile=profile) == reasoning


KIMI = DialectProfile(tool_call_ids="kimi", empty_content="omitted")


def test_ids_that_kimis_template_prints() -> None:
    given = mint_id("functions.get:7", "n" * 11)
    messages = plan(
        KIMI,
        messages=[
            user("Hi"),
            assistant(call("toolu_01Foreign"), call("call_0")),
            user(result("toolu_01Foreign", "A"), result("call_0", "B")),
            assistant(text("Again."), call(given)),
            user(result(given, "C")),
        ],
    ).body["messages"]
    ids = [c["id"] for message in messages for c in message.get("tool_calls", ())]
    assert ids == ["functions.get:0", "functions.get:1", "functions.get:7"]
    assert [m["tool_call_id"] for m in messages if m["role"] == "tool"] == ids
    first, second = (m for m in messages if m["role"] == "assistant")
    assert "content" not in first
    assert second["content"] == "Again."


def test_a_placeholder_is_reported() -> None:
    made = planned(user("Hi"), assistant(call("a")), user(result("a")), profile=THINKER)
    assert said(made) == [("messages.1.content.0", "repaired")]


# -- system messages on the way


def test_native_system_messages_stay_in_place() -> None:
    profile = DialectProfile(mid_system="native")
    made = planned(
        user("Hi"), assistant(call("a")), user(result("a")), system("S"), profile=profile
    )
    assert [m["role"] for m in made.body["messages"]] == ["user", "assistant", "tool", "system"]


@pytest.mark.parametrize(
    ("clear_at", "is_shown"), [("next_user_message", False), ("never", True), (None, True)]
)
def test_system_messages_end_when_they_should(clear_at: str | None, *, is_shown: bool) -> None:
    reminder = system("Reminder.", clear_at=clear_at)
    made = planned(user("Hi"), reminder, assistant("A"), user("B"))
    assert ("Reminder." in str(made.body["messages"])) is is_shown
    assert "Reminder." in str(planned(user("Hi"), reminder).body["messages"])


# -- prefill


@pytest.mark.parametrize(
    ("prefill", "last", "fields"),
    [
        ("native", {}, {}),
        ("prefix", {"prefix": True}, {}),
        ("partial", {"partial": True}, {}),
        (
            "continue_final_message",
            {},
            {"continue_final_message": True, "add_generation_prompt": False},
        ),
    ],
)
def test_prefill(prefill: str, last: dict, fields: dict) -> None:
    made = planned(user("Hi"), assistant("It is"), profile=DialectProfile(prefill=prefill))
    assert made.body["messages"][-1] == {"role": "assistant", "content": "It is"} | last
    assert fields.items() <= made.body.items()
    assert said(made) == []


# -- models without tools


def test_calls_become_text_for_models_without_tools() -> None:
    made = planned(
        user("Hi"),
        assistant(text("Let me see."), call("a", q="x"), call("b")),
        user(result("a", "A"), text("So?")),
        profile=DialectProfile(has_tools=False),
    )
    assert outline(made.body["messages"]) == [
        "user: Hi",
        'assistant: Let me see.\n[called get with {"q":"x"}]\n[called get with {}]',
        "user: [result of get]\nA\n\n"
        "[result of get]\n[no result was given for this tool call]\n\nSo?",
    ]
    assert said(made) == [
        ("messages.1.content.0", "emulated"),
        ("messages.1.content.2", "repaired"),
    ]


def test_a_long_history_takes_linear_time() -> None:
    """A hundred thousand odd messages are planned without comparing each with each."""
    odd = [m for n in range(3000) for m in (user(result(f"x{n}")), assistant(thinking("Hm.")))]
    same = assistant(*[call("a") for _ in range(3000)])
    made = planned(*odd, same, user("OK"))
    assert len(made.body["messages"][1]["tool_calls"]) == 3000
