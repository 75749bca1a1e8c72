"""
The real Claude Code on every family's worst day: the file on disk is right in the end.

The upstream speaks and refuses as the vendor does (``support.family_upstream``). Each task is done
twice: by a client that replays thinking, and by one that drops it, so that the vault must help.
"""

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from support.claude_code import ClaudeCode, gateway_variables
from support.family_upstream import FAMILIES, FamilyCase, FamilyUpstream
from support.family_wire import Step
from support.files import make_png
from support.gateway import GatewayProcess, lab_config
from support.node import claude_binary
from support.thinking_stripper import ThinkingStripper

pytestmark = pytest.mark.client

BEFORE = 'def greet(name):\n    return "Hello " + name\n\n\nprint(greet("Ada"))\n'
AFTER = BEFORE.replace('"Hello "', '"Grüß <b>dich</b> & "')
THOUGHT = "First: « naïve »\n\n\t思考, then “quoted” \\ and 🦊."
every_family = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)


def family_config(family: FamilyCase, url: str, *, platform: str) -> str:
    config = lab_config(url, family.model)
    return config.replace('kind = "openai"', f'kind = "openai"\nplatform = "{platform}"')


@contextmanager
def at_work(
    family: FamilyCase, folder: Path, *, platform: str
) -> Iterator[tuple[FamilyUpstream, GatewayProcess]]:
    """Start the family's server and a gateway before it."""
    with FamilyUpstream(family) as upstream:
        config = family_config(family, upstream.url, platform=platform)
        env = {"DRAGOMAN_LOG_FORMAT": "json"}
        with GatewayProcess(folder, config=config, env=env) as gateway:
            yield upstream, gateway


# Where a failing parser leaves the last call: some models call before they stop thinking.
LAST_FORM: dict[str, Any] = {"kimi": "reasoning", "qwen": "reasoning", "glm": "reasoning"}


def task(family: str, path: Path) -> list[Step]:
    """Read, edit, run, answer; calls in each form that the family gives them."""
    edit: dict[str, Any] = {
        "file_path": str(path),
        "old_string": '"Hello "',
        "new_string": '"Grüß <b>dich</b> & "',
        "replace_all": False,
    }
    read = {"file_path": str(path)}
    run = {"command": f"python3 {path.name} > said.txt", "description": "Run it"}
    form = LAST_FORM.get(family, "structured")
    return [
        Step(thought=THOUGHT, text="I read it.", calls=(("Read", read),), trouble=True),
        Step(thought="Edit it.", text="Now the edit.", calls=(("Edit", edit),), form="content"),
        Step(thought="Run it.", calls=(("Bash", run),), form=form),
        Step(thought="All done.", text="Changed and run."),
    ]


def do_task(upstream: FamilyUpstream, url: str, home: Path) -> Path:
    """Let Claude Code do the task; return the project."""
    variables = gateway_variables(url, upstream.family.model)
    user = ClaudeCode([str(claude_binary())], home, env=variables)
    path = user.project / "hello.py"
    path.write_text(BEFORE)
    upstream.play(*task(upstream.family.name, path))
    assert user.run("Greet in German, and run it").text == "Changed and run."
    return user.project


def check_done(upstream: FamilyUpstream, project: Path) -> None:
    """Assert that all steps were taken, and what they left."""
    assert not upstream.unmatched
    assert (project / "hello.py").read_text() == AFTER
    assert (project / "said.txt").read_text() == "Grüß <b>dich</b> & Ada\n"


def thinks(body: dict[str, Any]) -> bool:
    return body.get("enable_thinking", False) or body.get("thinking") == {"type": "enabled"}


@every_family
@pytest.mark.parametrize("keeps_thinking", [True, False], ids=["replayed", "stripped"])
def test_an_edit_on_the_vendors_own_platform(
    family: FamilyCase, tmp_path: Path, keeps_thinking: bool
) -> None:
    with (
        at_work(family, tmp_path / "gateway", platform=family.platform) as (upstream, gateway),
        ThinkingStripper(gateway.port) as stripper,
    ):
        url = gateway.url if keeps_thinking else stripper.url
        project = do_task(upstream, url, tmp_path / "user")
        check_done(upstream, project)
        assert upstream.refused == []
        assert all(thinks(recorded.body) for recorded in upstream.requests)
        assert (stripper.n_dropped > 0) is not keeps_thinking


@pytest.mark.parametrize("keeps_thinking", [True, False], ids=["replayed", "stripped"])
def test_a_session_that_goes_on(tmp_path: Path, keeps_thinking: bool) -> None:
    """MiMo wants reasoning back on every turn, also where the model has called nothing."""
    family, session = FAMILIES["mimo"], "11111111-2222-4333-8444-555555555555"
    with (
        at_work(family, tmp_path / "gateway", platform=family.platform) as (upstream, gateway),
        ThinkingStripper(gateway.port) as stripper,
    ):
        url = gateway.url if keeps_thinking else stripper.url
        variables = gateway_variables(url, family.model)
        user = ClaudeCode([str(claude_binary())], tmp_path / "user", env=variables)
        look = ("Bash", {"command": "ls", "description": "Look"})
        upstream.play(
            Step(thought="Look first.", calls=(look,)),
            Step(thought="Nothing there.", text="Empty."),
            Step(thought="Still.", text="Still empty."),
        )
        assert user.run("What is here?", "--session-id", session).text == "Empty."
        assert user.run("And now?", "--resume", session).text == "Still empty."
        assert upstream.refused == []
        said = [m for m in upstream.requests[-1].messages if m["role"] == "assistant"]
        # What was said without a call is kept by nobody: the placeholder is the last resort.
        last = "Nothing there." if keeps_thinking else " "
        assert [m["reasoning_content"] for m in said] == ["Look first.", last]


@every_family
def test_an_edit_where_nobody_said_whose_server_it_is(family: FamilyCase, tmp_path: Path) -> None:
    """What the vendor refuses is learnt once, and the client sees nothing of it."""
    with at_work(family, tmp_path / "gateway", platform="generic") as (upstream, gateway):
        project = do_task(upstream, gateway.url, tmp_path / "user")
        check_done(upstream, project)
        laws = [refused.partition(":")[0] for refused in upstream.refused]
        assert len(set(laws)) == len(laws)


CHOICES: dict[str, dict[str, Any]] = {
    "any": {"type": "any"},
    "tool": {"type": "tool", "name": "look", "disable_parallel_tool_use": True},
    "none": {"type": "none"},
    "auto": {"type": "auto", "disable_parallel_tool_use": True},
}


def rude_request(model: str, choice: dict[str, Any]) -> dict[str, Any]:
    """Return a request that breaks as many laws of vendors as the API allows."""
    data = base64.b64encode(make_png()).decode()
    image = {
        "type": "image",
        "source": {"type": "base64", "media_type": "image/png", "data": data},
    }
    foreign = {"type": "thinking", "thinking": "Look first.", "signature": "EqoBCkgIYWJj"}
    call = {"type": "tool_use", "id": "toolu_01ForeignToolUse0000000", "name": "look", "input": {}}
    result = {
        "type": "tool_result",
        "tool_use_id": call["id"],
        "content": [{"type": "text", "text": "seen"}, image],
        "is_error": True,
    }
    anything = {"type": "object", "properties": {"at": {}, "how": {"enum": ["a", "b"]}}}
    return {
        "model": model,
        "max_tokens": 900_000,
        "temperature": 1.9,
        "top_p": 0.1,
        "top_k": 7,
        "stop_sequences": [f"<stop number {n} of a good many of them>" for n in range(20)],
        "thinking": {"type": "enabled", "budget_tokens": 2048},
        "metadata": {"user_id": "somebody"},
        "tool_choice": choice,
        "tools": [
            {"name": "look", "description": "Look.", "input_schema": anything},
            {"name": "mcp__server__" + "x" * 80, "description": "?", "input_schema": anything},
        ],
        "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "Look."}, image]},
            {"role": "assistant", "content": [foreign, call]},
            {"role": "user", "content": [result]},
            {"role": "assistant", "content": "I have seen it."},
            {"role": "system", "content": "The user is in a hurry."},
            {"role": "user", "content": "What is it?"},
        ],
    }


@pytest.fixture(scope="module", params=FAMILIES.values(), ids=FAMILIES)
def shop(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[FamilyUpstream, GatewayProcess]]:
    family = request.param
    folder = tmp_path_factory.mktemp(family.name)
    with at_work(family, folder, platform=family.platform) as pair:
        yield pair


LOOK = Step(thought="Hm.", calls=(("look", {"at": "it"}),))


@pytest.mark.parametrize("choice", CHOICES.values(), ids=CHOICES)
def test_a_request_that_breaks_every_law_is_taken_at_once(
    shop: tuple[FamilyUpstream, GatewayProcess], choice: dict[str, Any]
) -> None:
    upstream, gateway = shop
    is_forced = choice["type"] in ("any", "tool")
    upstream.play(LOOK if is_forced else Step(thought="Hm.", text="A picture."))
    request = rude_request(upstream.family.model, choice)
    answer = gateway.request("POST", "/v1/messages", request)
    assert upstream.refused == []
    assert answer.status == 200, answer.body
    content = {block["type"]: block for block in answer.json()["content"]}
    if is_forced:
        assert content["tool_use"]["input"] == {"at": "it"}
    else:
        assert content["text"]["text"] == "A picture."
    assert len(upstream.requests) == 1


def test_a_model_that_does_not_make_a_forced_call_is_asked_again(
    shop: tuple[FamilyUpstream, GatewayProcess],
) -> None:
    """Where nothing binds, or the server does not heed it; what is asked then breaks no law."""
    upstream, gateway = shop
    upstream.play(Step(thought="Hm.", text="A picture."), LOOK)
    request = rude_request(upstream.family.model, CHOICES["any"])
    answer = gateway.request("POST", "/v1/messages", request)
    assert upstream.refused == []
    assert answer.status == 200, answer.body
    kinds = [block["type"] for block in answer.json()["content"]]
    assert "tool_use" in kinds
    assert len(upstream.requests) == 2
