"""Every request that real clients were seen to send becomes a legal chat-completions request."""

import json
from pathlib import Path

import pytest
from openai.types.chat.completion_create_params import CompletionCreateParamsStreaming
from pydantic import TypeAdapter

from dragoman.core.attachments import find_attachments
from dragoman.core.dialects.profile import GENERIC, DialectProfile
from dragoman.core.errors import InvalidRequest
from dragoman.core.plan import Deployment, make_plan
from dragoman.core.render import render
from support.chat_law import check_body
from support.plans import SIGNER, parse

FOLDER = Path(__file__).parents[1] / "fixtures" / "requests"
PATHS = ("/v1/messages", "/v1/messages/count_tokens")
RECORDED = {
    f"{path.parent.name}/{path.stem}": recording
    for path in sorted(FOLDER.glob("*/*.json"))
    if (recording := json.loads(path.read_text("utf-8")))["path"] in PATHS
}
THREADS = {name for name, recording in RECORDED.items() if "thread" in recording["body"]}
SEEING = DialectProfile(
    name="seeing thinker",
    context_window=131072,
    max_output_tokens=32768,
    sees_images=True,
    thinking="toggle",
    thinking_switch="enable_thinking",
    effort_values=("low", "high"),
    echo_reasoning="tool_turns",
    reasoning_placeholder=" ",
)
CHAT_BODY = TypeAdapter(CompletionCreateParamsStreaming)


def test_all_recordings_are_here() -> None:
    assert len(RECORDED) == 82
    assert len(THREADS) == 4


@pytest.mark.parametrize("profile", [GENERIC, SEEING], ids=lambda p: p.name)
@pytest.mark.parametrize("name", sorted(RECORDED.keys() - THREADS))
def test_becomes_a_chat_request(name: str, profile: DialectProfile) -> None:
    recording = RECORDED[name]
    for_count = recording["path"].endswith("count_tokens")
    request = parse(recording["body"], for_count=for_count)
    deployment = Deployment(upstream="lab", model="m", profile=profile)
    found = find_attachments(request, sees_images=profile.sees_images)
    plan = make_plan(request, deployment, signer=SIGNER, texts={a.key: "a text" for a in found})
    check_body(plan.body)
    rendered = render(plan)
    CHAT_BODY.validate_json(rendered)
    for secret in (b"x-anthropic-billing-header", b"safeguards", b"classifier_context"):
        assert secret not in rendered
    assert b"DeferredToolPlaceholder" not in rendered
    if profile.sees_images:
        pictures = sum(rendered.count(f'"type":"{t}"'.encode()) for t in ("image_url", "image"))
        assert pictures == json.dumps(recording["body"]).count('"type": "image"')


@pytest.mark.parametrize("name", sorted(THREADS))
def test_threads_are_refused_as_clients_expect(name: str) -> None:
    request = parse(RECORDED[name]["body"])
    deployment = Deployment(upstream="lab", model="m", profile=GENERIC)
    with pytest.raises(InvalidRequest) as caught:
        make_plan(request, deployment, signer=SIGNER)
    assert caught.value.details["error_code"] == "thread_unsupported_request"
