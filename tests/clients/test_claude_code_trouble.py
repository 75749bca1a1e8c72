"""The real Claude Code when the upstream is full, busy, broken or slow."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from support.chat_script import BEFORE_HEAD, Call, call, give, refuse, say, text_of
from support.chat_upstream import ChatUpstream
from support.claude_code import ClaudeCode, ClaudeRun, gateway_variables
from support.gateway import lab_config, program_environment
from support.lab import Lab, checked, open_lab
from support.node import claude_binary

pytestmark = pytest.mark.client

NewClaude = Callable[..., ClaudeCode]
SESSION = "11111111-2222-4333-8444-555555555555"
LONG = "word " * 60
VLLM_OVERFLOW = (
    "This model's maximum context length is 131072 tokens. However, you requested 140000 tokens "
    "(140000 in the messages, 0 in the completion). Please reduce the length of the messages."
)


def asks_for_summary(body) -> bool:
    return "<summary>" in text_of(body["messages"][-1])


SUMMARY = say(
    "<analysis>Short.</analysis><summary>They spoke of 4711.</summary>", when=asks_for_summary
)


def check_compaction(run: ClaudeRun, requests) -> None:
    """Assert that the client compacted by itself and went on."""
    lines = run.lines()
    [boundary] = [line for line in lines if line.get("subtype") == "compact_boundary"]
    assert boundary["compact_metadata"]["trigger"] == "auto"
    assert lines[-1]["result"] == "Third answer."
    last = json.dumps(requests[-1].messages)
    assert "They spoke of 4711." in last
    assert "First answer." not in last


def test_an_overflow_leads_to_compaction(lab: Lab, claude: NewClaude) -> None:
    lab.upstream.script(
        say("First answer."),
        say("Second answer."),
        refuse(400, VLLM_OVERFLOW),
        SUMMARY,
        say("Third answer."),
    )
    user = claude()
    assert user.run("one", "--session-id", SESSION).text == "First answer."
    assert user.run("two", "--resume", SESSION).text == "Second answer."
    run = user.run("three", "--resume", SESSION, output="stream-json")
    check_compaction(run, lab.upstream.requests)
    assert [record["status"] for record in lab.wait_records(5)] == [200, 200, 400, 200, 200]


def test_the_launcher_tells_the_window_so_that_compaction_comes_in_time(tmp_path: Path) -> None:
    """An unknown model is taken for one with a million tokens otherwise."""
    binary = claude_binary()
    with ChatUpstream() as upstream:
        config = tmp_path / "dragoman.toml"
        config.write_text(lab_config(upstream.url, "deepseek-v3.1"))
        env = program_environment(tmp_path / "user", DRAGOMAN_PORT="0")
        env["PATH"] = os.pathsep.join((str(binary.parent), env["PATH"]))
        command = [sys.executable, "-m", "dragoman", "claude", "--config", str(config), "--"]
        user = ClaudeCode(command, tmp_path / "user", env=env)
        upstream.script(
            say("First answer."),
            say("Second answer.", usage={"prompt_tokens": 120_000, "completion_tokens": 500}),
            SUMMARY,
            say("Third answer."),
        )
        assert user.run("one", "--session-id", SESSION).text == "First answer."
        assert user.run("two", "--resume", SESSION).text == "Second answer."
        run = user.run("three", "--resume", SESSION, output="stream-json")
        check_compaction(run, upstream.requests)
        assert len(upstream.requests) == 4  # nothing overflowed
        assert not upstream.unmatched


def limited(after_s: int):
    return refuse(429, "slow down", kind="rate_limit", headers=(("retry-after", str(after_s)),))


def test_a_short_429_is_the_gateways_to_repeat(lab: Lab, claude: NewClaude) -> None:
    lab.upstream.script(limited(1), say("Hello."))
    assert claude().run("hi").text == "Hello."
    [record] = lab.wait_records()
    assert (record["status"], record["attempts"]) == (200, 2)


def test_a_long_429_is_the_clients_to_repeat(lab: Lab, claude: NewClaude) -> None:
    lab.upstream.script(limited(3), say("Hello."))
    assert claude().run("hi").text == "Hello."
    assert [record["status"] for record in lab.wait_records(2)] == [429, 200]
    first, second = lab.upstream.requests
    assert second.at_s - first.at_s > 2.5


TROUBLES = {
    "drop": (say(LONG, drop_after=6), [True, False]),
    "half an event": (say(LONG, drop_after=6, cut_event=True), [True, False]),
    "end without finish": (say(LONG, eof_after=6), [True, False]),
    "drop before the head": (say(LONG, drop_after=BEFORE_HEAD), [True]),
    "busy": (refuse(503, "busy"), [True]),
    "failure": (refuse(500, "boom"), [True, True]),
    "web page": (give(b"<html>x</html>", content_type="text/html"), [True, True]),
    "nothing": (give(b"", content_type="text/event-stream"), [True, True]),
}


@pytest.mark.parametrize(("trouble", "streams"), TROUBLES.values(), ids=TROUBLES)
def test_recovers(lab: Lab, claude: NewClaude, trouble, streams: list[bool]) -> None:
    """After a stream that broke, the client asks once more, for a whole reply."""
    lab.upstream.script(trouble, say("All is well."))
    assert claude().run("hi").text == "All is well."
    assert [record["stream"] for record in lab.wait_records(len(streams))] == streams
    assert len(lab.upstream.requests) == 2


def test_a_call_that_was_complete_before_the_drop_is_kept(lab: Lab, claude: NewClaude) -> None:
    made = call("Bash", command="echo once >> made.txt", description="Make")
    lab.upstream.script(say(made, LONG, drop_after=14), say("Made."))
    user = claude()
    assert user.run("Make a file").text == "Made."
    assert (user.project / "made.txt").read_text() == "once\n"


def test_arguments_that_were_cut_do_not_run(lab: Lab, claude: NewClaude) -> None:
    cut = Call("Bash", '{"command": "touch made.txt", "descr')
    lab.upstream.script(say(cut, finish="length"), say("I stop here."))
    user = claude()
    assert user.run("Make a file").text == "I stop here."
    assert not (user.project / "made.txt").exists()


REFUSALS = {
    "our key": (401, "Incorrect API key provided: lab-secret", "operator"),
    "our balance": (402, "Insufficient Balance", "operator"),
    "no such model": (404, "The model does not exist", "model"),
}


@pytest.mark.parametrize(("status", "said", "shown"), REFUSALS.values(), ids=REFUSALS)
def test_what_no_repetition_repairs_is_shown(
    lab: Lab, claude: NewClaude, status: int, said: str, shown: str
) -> None:
    lab.upstream.script(refuse(status, said, times=-1))
    run = claude().run("hi")
    assert run.returncode == 1
    assert shown in run.result["result"]
    assert "lab-secret" not in run.stdout + run.stderr
    assert len(lab.upstream.requests) <= 2


@pytest.fixture(scope="module")
def shared_early_lab(tmp_path_factory: pytest.TempPathFactory):
    env = {"DRAGOMAN_SERVER_EARLY_START_S": "0.2", "DRAGOMAN_SERVER_PING_INTERVAL_S": "0.2"}
    with open_lab(tmp_path_factory.mktemp("early"), env=env) as lab:
        yield lab


@pytest.fixture
def early_lab(shared_early_lab: Lab):
    with checked(shared_early_lab) as lab:
        yield lab


@pytest.mark.parametrize(
    ("rules", "streams"),
    [
        ((say("At last.", head_delay_s=2, delay_s=0.5),), [True]),
        ((refuse(500, "boom", head_delay_s=1), say("At last.")), [True, False]),
    ],
    ids=["an answer", "a failure"],
)
def test_a_stream_that_began_early(
    early_lab: Lab, tmp_path: Path, rules, streams: list[bool]
) -> None:
    variables = gateway_variables(early_lab.url, "deepseek-v3.1")
    user = ClaudeCode([str(claude_binary())], tmp_path / "user", env=variables)
    early_lab.upstream.script(*rules)
    assert user.run("hi").text == "At last."
    assert [record["stream"] for record in early_lab.wait_records(len(streams))] == streams
