"""What probes measure of upstreams with known quirks; nothing here needs a network."""

import base64
import json
import struct
import zlib
from typing import Any

import msgspec
import pytest

from dragoman.core.dialects.profile import GENERIC, DialectProfile
from dragoman.core.probe_facts import measure, observe
from dragoman.core.probe_replies import Answer, read_reply
from dragoman.core.probes import KEYWORDS, NO_COMPLETION, Probe, Probing
from support.quirky_upstream import Quirks, answer

MODEL = "some-model"


def ask(probe: Probe, quirks: Quirks) -> Answer:
    if probe.path == "/models":
        listed = [{"id": "other", "context_length": 5}, {"id": MODEL, **quirks.listed}]
        return Answer(status=200, body=json.dumps({"data": listed}).encode())
    if probe.name == f"count_{quirks.counts}":
        return Answer(status=200, body=b'{"data": {"total_tokens": 9}}')
    if probe.path != "/chat/completions":
        return Answer(status=404, body=b'{"error": "no such path"}')
    assert probe.body is not None
    status, body = answer(probe.body, quirks)
    return Answer(status=status, body=body)


def run(quirks: Quirks, profile: DialectProfile = GENERIC) -> Probing:
    probing = Probing(MODEL, profile)
    n_rounds = 0
    while probes := probing.next_round():
        n_rounds += 1
        assert len({probe.name for probe in probes}) == len(probes)
        for probe in probes:
            probing.take(probe.name, ask(probe, quirks))
    assert n_rounds <= 4
    assert len(probing.replies) < 90
    return probing


def differing(quirks: Quirks, profile: DialectProfile = GENERIC) -> dict[str, Any]:
    return {each.fact: each.value for each in measure(run(quirks, profile)) if each.differs}


def measured(quirks: Quirks, profile: DialectProfile = GENERIC) -> dict[str, Any]:
    return {each.fact: each.value for each in measure(run(quirks, profile))}


# What an obliging server shows beyond the generic profile.
OBLIGING: dict[str, Any] = {"thinking": "never", "top_k": True, "mid_system": "native"}
OFF = {"type": "disabled"}
THINKING: dict[str, Any] = {"thinks": True, "switch": {"thinking": OFF}}
TOGGLE: dict[str, Any] = {"thinking": "toggle", "thinking_switch": "thinking_type"}

CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "an obliging one": ({}, {}),
    "another name for the limit": (
        {"limit_fields": ("max_completion_tokens",)},
        {"max_tokens_field": "max_completion_tokens"},
    ),
    "no limit at all": ({"limit_fields": ()}, {}),
    "a limit in a refusal": ({"max_output": 8192}, {"max_output_tokens": 8192}),
    "a window in the list": ({"listed": {"context_length": 131072}}, {"context_window": 131072}),
    "a window inside the list": ({"listed": {"meta": {"n_ctx": 4096}}}, {"context_window": 4096}),
    "temperature up to 1": ({"temperatures": (0.0, 1.0)}, {"temperature_max": 1.0}),
    "temperature up to 1.5": ({"temperatures": (0.0, 1.5)}, {"temperature_max": 1.5}),
    "a fixed temperature": ({"temperatures": (1.0, 1.0)}, {"temperature_max": None}),
    "top_k that is not read": ({"top_k_is_read": False}, {"top_k": False}),
    "refused parameters": (
        {"refused_fields": ("top_p", "top_k", "user", "stream_options", "parallel_tool_calls")},
        {
            "top_p": False,
            "top_k": False,
            "sends_user": False,
            "stream_options": False,
            "parallel_tool_calls_field": False,
        },
    ),
    "efforts": ({"efforts": ("low", "high", "max")}, {"effort_values": ("low", "high", "max")}),
    "no efforts": ({"refused_fields": ("reasoning_effort",)}, {"effort_values": ()}),
    "always thinking": ({"thinks": True}, {"thinking": "always"}),
    "thinking in tags": ({"thinks": True, "reasoning": "tags"}, {"thinking": "always"}),
    "thinking without an opening tag": (
        {"thinks": True, "reasoning": "closing tag"},
        {"thinking": "always", "think_tag_open_at_start": True},
    ),
    "another reasoning field": (
        {"thinks": True, "reasoning": "reasoning"},
        {"thinking": "always", "reasoning_field": "reasoning"},
    ),
    "a switch, on by default": (THINKING, TOGGLE),
    "a switch of the template, off by default": (
        {"switch": {"chat_template_kwargs": {"enable_thinking": True}}},
        {"thinking": "toggle", "thinking_switch": "template_enable_thinking"},
    ),
    "a switch that is an effort, on by default": (
        {"thinks": True, "switch": {"reasoning_effort": "none"}},
        {"thinking": "toggle", "thinking_switch": "effort_none"},
    ),
    "reasoning wanted back in tool loops": (
        {**THINKING, "echo": "tool_turns"},
        {**TOGGLE, "echo_reasoning": "tool_turns", "reasoning_placeholder": " "},
    ),
    "reasoning wanted back always, and no placeholder": (
        {**THINKING, "echo": "always", "takes_placeholder": False},
        # A turn without reasoning is refused before the system message is looked at.
        {**TOGGLE, "echo_reasoning": "always", "mid_system": "user_text"},
    ),
    "forcing only without thinking": (
        {**THINKING, "forces_while_thinking": False},
        {**TOGGLE, "forced_tools_need_no_thinking": True},
    ),
    "named tools only": ({"forced": ("named", "no required")}, {"forced_tools": "named_only"}),
    "forcing by a schema": ({"forced": ()}, {"forced_tools": "json_schema"}),
    "no forcing": (
        {"forced": (), "formats": ("json_object",)},
        {"forced_tools": "hint", "response_format": "json_object"},
    ),
    "formats that are taken and not kept": (
        {"formats": ("json_object", "lax")},
        {"response_format": "json_object"},
    ),
    "no formats": ({"formats": ()}, {"response_format": "none"}),
    "types wanted": ({"schema_types": True}, {"schema_types": True}),
    "references refused": ({"schema_refused": ("$ref",)}, {"schema_refs": False}),
    "keywords refused": (
        {"schema_refused": ("pattern", "oneOf")},
        {"schema_refused": ("$schema", "pattern", "oneOf")},
    ),
    "a stop string that is told": (
        {"stop_report": "stop_reason"},
        {"reports_stop": True, "max_stop_sequences": None},
    ),
    "few of them": ({"stop_report": "matched_stop", "max_stops": 4}, {"reports_stop": True}),
    "some of them": (
        {"stop_report": "matched_stop", "max_stops": 16},
        {"reports_stop": True, "max_stop_sequences": 16},
    ),
    "images": ({"sees_images": True}, {"sees_images": True}),
    "no tools": ({"has_tools": False}, {"has_tools": False}),
    **{
        f"prefill {form}": ({"prefill": form}, {"prefill": form})
        for form in ("native", "continue_final_message", "prefix", "partial")
    },
    "no system messages amid": ({"mid_system": False}, {"mid_system": "user_text"}),
    "counting": ({"counts": "moonshot"}, {"count_tokens": "moonshot"}),
}


@pytest.mark.parametrize(("quirks", "facts"), CASES.values(), ids=CASES)
def test_quirks_are_measured(quirks: dict[str, Any], facts: dict[str, Any]) -> None:
    expected = {**OBLIGING, **facts}
    expected = {name: v for name, v in expected.items() if v != getattr(GENERIC, name)}
    found = differing(Quirks(**quirks))
    if not quirks.get("has_tools", True):
        found.pop("forced_tools")  # what cannot be called cannot be forced
    assert found == expected


@pytest.mark.parametrize(("quirks", "facts"), CASES.values(), ids=CASES)
def test_a_profile_with_these_facts_is_right(quirks: dict[str, Any], facts: dict[str, Any]) -> None:
    profile = msgspec.structs.replace(GENERIC, **differing(Quirks(**quirks)))
    assert differing(Quirks(**quirks), profile) == {}


def test_what_the_profile_says_is_kept_where_it_works() -> None:
    profile = DialectProfile(
        max_tokens_field="max_completion_tokens", forced_tools="json_schema", temperature_max=2.5
    )
    facts = measured(Quirks(), profile)
    kept = ("max_tokens_field", "forced_tools", "temperature_max")
    assert {name: facts[name] for name in kept} == {
        "max_tokens_field": "max_completion_tokens",
        "forced_tools": "json_schema",
        "temperature_max": 2.5,
    }


def test_a_stricter_echo_is_kept() -> None:
    profile = DialectProfile(echo_reasoning="always")
    assert measured(Quirks(**THINKING, echo="tool_turns"), profile)["echo_reasoning"] == "always"
    assert "echo_reasoning" not in measured(Quirks(**THINKING), profile)


def test_reasoning_that_is_refused_stays_away() -> None:
    profile = DialectProfile(echo_reasoning="always")
    assert measured(Quirks(**THINKING, echo="refused"), profile)["echo_reasoning"] == "never"


def test_a_model_that_always_calls_measures_no_forcing() -> None:
    probing = run(Quirks(forced=("required", "named")))
    probing.replies["forced_not"] = probing.replies["forced_required"]
    for known in ("native", "hint"):
        probing.profile = DialectProfile(forced_tools=known)
        assert "forced_tools" not in {each.fact for each in measure(probing)}


def test_silence_measures_nothing() -> None:
    probing = Probing(MODEL, GENERIC)
    while probes := probing.next_round():
        for probe in probes:
            is_basic = len(probes) == 3
            reply = ask(probe, Quirks()) if is_basic else Answer(status=503)
            probing.take(probe.name, reply)
    facts = {each.fact for each in measure(probing)}
    assert facts == {"max_tokens_field"}


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Answer(status=0, failure="unreachable: no route"), "unreachable: no route"),
        (Answer(status=401, body=b'{"error":{"message":"bad key"}}'), "it answers 401: bad key"),
        (Answer(status=404, body=b"<html>"), "it answers 404: <html>"),
        (Answer(status=500), "it answers 500: HTTP 500"),
        (Answer(status=200, body=b"<html>"), f"it answers 200: {NO_COMPLETION}"),
        (Answer(status=200), f"it answers 200: {NO_COMPLETION}"),
        (Answer(status=200, body=b'{"status":"up"}'), f"it answers 200: {NO_COMPLETION}"),
    ],
)
def test_a_dead_endpoint_ends_it(answer: Answer, said: str) -> None:
    probing = Probing(MODEL, GENERIC)
    probes = probing.next_round()
    assert len(probes) == 3
    for probe in probes:
        probing.take(probe.name, answer)
    assert probing.next_round() == ()
    assert probing.problem == said


def test_what_is_seen_beside_facts() -> None:
    seen = dict(observe(run(Quirks(thinks=True, call_id="functions.get_weather:0"))))
    assert seen["thinking comes in"] == "reasoning_content"
    assert seen["usage in a stream"] == "trailing"
    assert seen["its tool ids look like"] == "functions.get_weather:0"
    assert seen["unknown fields"] == "ignored"
    assert seen["tool ids of this gateway"] == "accepted"
    seen = dict(observe(run(Quirks())))
    assert (seen["calls in one reply"], seen["with parallel_tool_calls: false"]) == ("2", "1")


def changed(name: str, reply: bytes, profile: DialectProfile = GENERIC) -> dict[str, Any]:
    """What is measured when one probe of an obliging server is answered like that."""
    probing = run(Quirks(stop_report="stop_reason"), profile)
    probing.take(name, Answer(status=200 if reply.startswith(b"{") else 400, body=reply))
    return {each.fact: each.value for each in measure(probing)}


def said(text: str) -> bytes:
    return json.dumps({"choices": [{"message": {"content": text}}]}).encode()


def test_one_odd_answer_measures_what_it_shows() -> None:
    assert "sees_images" not in changed("image", said(""))
    assert changed("image", said("Blue, I think."))["sees_images"] is False
    assert "response_format" not in changed("json_schema", said(""))
    assert (
        changed("json_schema", said('```json\n{"bird": "heron"}\n```'))["response_format"]
        == "json_schema"
    )
    strict = DialectProfile(strict_tools=True)
    assert changed("strict", b"no strict tools here", strict)["strict_tools"] is False
    assert (
        changed("max_tokens_huge", b"max_tokens is over max_model_len 32,768")["context_window"]
        == 32_768
    )
    assert changed("stops_17", b"stop: at most 16, please")["max_stop_sequences"] == 16
    assert changed("stops_5", b"too many of them")["max_stop_sequences"] == 1


def test_calls_that_are_left_in_the_text_are_seen() -> None:
    probing = run(Quirks())
    probing.take("tool_auto", Answer(status=200, body=said("<tool_call>\n{}</tool_call>")))
    assert dict(observe(probing))["calls left in the text"] == "<tool_call>"


def test_the_picture_is_a_red_square() -> None:
    probes = {probe.name: probe for probe in _all_probes()}
    body = probes["image"].body
    assert body is not None
    url = body["messages"][0]["content"][1]["image_url"]["url"]
    png = base64.b64decode(url.removeprefix("data:image/png;base64,"), validate=True)
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    assert struct.unpack(">II", png[16:24]) == (64, 64)
    start = png.index(b"IDAT") + 4
    pixels = zlib.decompress(png[start : start + int.from_bytes(png[start - 8 : start - 4])])
    assert pixels == (b"\0" + b"\xff\0\0" * 64) * 64


def _all_probes() -> list[Probe]:
    probing = Probing(MODEL, GENERIC)
    found: list[Probe] = []
    while probes := probing.next_round():
        found += probes
        for probe in probes:
            probing.take(probe.name, ask(probe, Quirks()))
    return found


def test_every_keyword_stands_in_its_schema() -> None:
    for keyword, schema in KEYWORDS.items():
        assert keyword in schema


# -- reading answers

REPLIES: dict[str, tuple[Answer, dict[str, Any]]] = {
    "an error as text": (
        Answer(status=422, body=b'{"error":"bad","error_type":"validation"}'),
        {"error": "bad", "is_refused": True},
    ),
    "a flat error": (
        Answer(status=400, body=b'{"object":"error","message":"bad","param":"top_k"}'),
        {"error": "bad", "param": "top_k"},
    ),
    "an error in a stream": (
        Answer(status=200, body=b'data: {"error":{"message":"late"}}\n\ndata: [DONE]\n\n'),
        {"error": "late", "is_refused": True, "is_accepted": False},
    ),
    "no JSON": (Answer(status=502, body=b"<html>"), {"is_unclear": True, "error": "<html>"}),
    "a breakdown": (Answer(status=500), {"is_unclear": True, "is_refused": False}),
    "a refusal that looks like one": (
        Answer(status=500, body=b'{"error":{"message":"image input is not supported"}}'),
        {"is_unclear": False, "is_refused": True},
    ),
    "no key": (Answer(status=401), {"has_no_access": True, "is_refused": False}),
    "too deep": (
        Answer(status=200, body=b"[" * 9000),
        {"text": "", "is_accepted": False, "is_unclear": True},
    ),
    "a web page": (
        Answer(status=200, body=b"<html>hello</html>"),
        {"is_accepted": False, "is_refused": False, "is_unclear": True},
    ),
    "parts of text": (
        Answer(
            status=200,
            body=b'{"choices":[{"message":{"content":[{"type":"text","text":"a"},{"text":"b"}]}}]}',
        ),
        {"text": "ab"},
    ),
    "arguments as an object": (
        Answer(
            status=200,
            body=b'{"choices":[{"message":{"tool_calls":[{"id":7,"function":'
            b'{"name":"f","arguments":{"a":1}}}]}}]}',
        ),
        {"calls": [{"name": "f", "arguments": '{"a":1}', "id": "7"}]},
    ),
    "both reasoning fields": (
        Answer(
            status=200,
            body=b'{"choices":[{"message":{"reasoning":"r","reasoning_content":"r"}}]}',
        ),
        {"reasoning": "r", "thinks": True},
    ),
    "counts in every place": (
        Answer(
            status=200,
            body=b'data: {"choices":[{"delta":{},"usage":{}}],"usage":{"reasoning_tokens":3}}\n\n'
            b'data: {"choices":[{"delta":{},"finish_reason":"stop"}],"usage":{}}\n\n'
            b'data: {"choices":[],"usage":{}}\n\n',
        ),
        {"usage_places": {"every": None, "choice": None, "finish": None, "trailing": None}},
    ),
}


@pytest.mark.parametrize(("given", "expected"), REPLIES.values(), ids=REPLIES)
def test_replies(given: Answer, expected: dict[str, Any]) -> None:
    reply = read_reply(given)
    for name, value in expected.items():
        assert msgspec.to_builtins(getattr(reply, name)) == value
