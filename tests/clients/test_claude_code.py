"""The real Claude Code, through the real gateway, on a scripted chat-completions upstream."""

import base64
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from support.chat_script import Thought, call, say, text_of
from support.claude_code import ClaudeCode
from support.files import make_pdf, make_png
from support.gateway import GatewayProcess, lab_config
from support.lab import Lab

pytestmark = pytest.mark.client

NewClaude = Callable[..., ClaudeCode]
HERE = Path(__file__).parent


def contents(messages, role):
    return [text_of(message) for message in messages if message["role"] == role]


def test_hello(lab: Lab, claude: NewClaude) -> None:
    lab.upstream.script(say("Hello! How can I help?"))
    run = claude().run("Say hello")
    assert run.text == "Hello! How can I help?"
    assert run.result["usage"]["output_tokens"] > 0
    [request] = lab.upstream.requests
    system, user = request.messages[0], request.messages[-1]
    assert (request.body["model"], system["role"], user["role"]) == (
        "deepseek-v3.1",
        "system",
        "user",
    )
    assert "x-anthropic-billing-header" not in json.dumps(request.body)
    assert "Say hello" in text_of(user)
    assert {"Bash", "Read", "Edit"} <= set(request.tool_names)
    [record] = lab.wait_records()
    assert (record["status"], record["stop_reason"], record["stream"]) == (200, "end_turn", True)


def test_text_streams_piece_by_piece(lab: Lab, claude: NewClaude) -> None:
    lab.upstream.script(say("One two three four five six seven."))
    run = claude().run("Count", "--include-partial-messages", output="stream-json")
    events = [line["event"] for line in run.lines() if line["type"] == "stream_event"]
    pieces = [e["delta"]["text"] for e in events if e["type"] == "content_block_delta"]
    assert len(pieces) > 1
    assert "".join(pieces) == "One two three four five six seven."
    assert run.lines()[-1]["result"] == "".join(pieces)


def test_a_bash_call_runs_and_its_result_goes_up(lab: Lab, claude: NewClaude) -> None:
    lab.upstream.script(
        say("I will look.", call("Bash", command="echo made > made.txt && ls", description="Make")),
        say("It is there."),
    )
    user = claude()
    assert user.run("Make a file").text == "It is there."
    assert (user.project / "made.txt").read_text() == "made\n"
    asked, result = lab.upstream.requests[1].messages[-2:]
    assert asked["content"] == "I will look."
    assert json.loads(asked["tool_calls"][0]["function"]["arguments"])["command"].startswith("echo")
    assert (result["role"], result["tool_call_id"]) == ("tool", asked["tool_calls"][0]["id"])
    assert "made.txt" in result["content"]


def test_reads_and_edits_a_file(lab: Lab, claude: NewClaude) -> None:
    user = claude()
    path = user.project / "hello.py"
    path.write_text('def greet(name):\n    return "Hello " + name\n')
    lab.upstream.script(
        say(call("Read", file_path=str(path))),
        say(call("Edit", file_path=str(path), old_string='"Hello "', new_string='"Grüß dich "')),
        say("Edited."),
    )
    assert user.run("Change the greeting").text == "Edited."
    assert path.read_text() == 'def greet(name):\n    return "Grüß dich " + name\n'
    read, edited = contents(lab.upstream.requests[2].messages, "tool")
    assert 'return "Hello "' in read
    assert "updated" in edited
    # The upstream numbers its calls from 0 in each reply; the client must not take them for one.
    assert len(lab.upstream.requests) == 3


def test_results_of_parallel_calls_go_up_in_the_order_of_the_calls(
    lab: Lab, claude: NewClaude
) -> None:
    user = claude()
    for name in ("one", "two"):
        (user.project / f"{name}.txt").write_text(f"content of {name}\n")
    lab.upstream.script(
        say(
            "Three at once.",
            call("Bash", command="sleep 0.5; echo slow", description="Wait"),
            call("Read", file_path=str(user.project / "one.txt")),
            call("Read", file_path=str(user.project / "two.txt")),
            interleave=True,
        ),
        say("Done."),
    )
    run = user.run("Read both", output="stream-json")
    assert run.lines()[-1]["result"] == "Done."
    returned = [json.dumps(line) for line in run.lines() if line["type"] == "user"]
    assert "slow" in returned[-1]  # so they did not come in this order
    messages = lab.upstream.requests[1].messages
    [asked] = [m for m in messages if m.get("tool_calls")]
    names = [c["function"]["name"] for c in asked["tool_calls"]]
    assert names == ["Bash", "Read", "Read"]
    slow, one, two = contents(messages, "tool")
    assert "slow" in slow
    assert "content of one" in one
    assert "content of two" in two


def test_thinking_comes_back_byte_for_byte(lab: Lab, claude: NewClaude) -> None:
    thought = "  Let me think: « naïve »\n\n\tthen 思考, “quoted” \\ and 🦊.\n"
    lab.upstream.script(
        say(Thought(thought), "Looking.", call("Bash", command="ls", description="List")),
        say(Thought("Seen."), "Done."),
    )
    run = claude("deepseek-v3.2").run("Think, then look")
    assert run.text == "Done."
    [asked] = [m for m in lab.upstream.requests[1].messages if m.get("tool_calls")]
    assert asked["reasoning_content"] == thought


def test_a_subagent_works_on_its_own(lab: Lab, claude: NewClaude) -> None:
    task = "Count the python files of this project"
    user = claude()
    (user.project / "hello.py").write_text("print('hello')\n")
    arguments = {"description": "Count", "prompt": task, "subagent_type": "general-purpose"}
    lab.upstream.script(
        say(call("Agent", **arguments), when=lambda body: not results(body)),
        say(call("Bash", command="ls *.py"), user_has=task, when=lambda body: not results(body)),
        say("There is one: hello.py.", when=lambda body: "hello.py" in results(body)),
        say("The subagent says one.", times=3),
    )
    assert user.run("Use a subagent").text == "The subagent says one."
    children = [r for r in lab.upstream.requests if "ListAgents" not in r.tool_names]
    parents = [r for r in lab.upstream.requests if r not in children]
    assert len(children) == 2
    assert all(task in json.dumps(child.messages[:2]) for child in children)
    assert "There is one: hello.py." in text_of(parents[-1].messages[-1])


def results(body) -> str:
    """Everything that tools have returned so far."""
    return "".join(contents(body["messages"], "tool"))


def read_picture(lab: Lab, user: ClaudeCode):
    (user.project / "pic.png").write_bytes(make_png())
    lab.upstream.script(
        say(call("Read", file_path=str(user.project / "pic.png"))), say("A gradient.")
    )
    assert user.run("Look at pic.png").text == "A gradient."
    return lab.upstream.requests[1].messages


def test_a_picture_reaches_a_model_that_sees(lab: Lab, claude: NewClaude) -> None:
    messages = read_picture(lab, claude("kimi-k2.5"))
    parts = [p for m in messages if isinstance(m["content"], list) for p in m["content"]]
    [url] = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
    head, _, data = url.partition(",")
    assert head == "data:image/png;base64"
    assert base64.b64decode(data) == make_png()


def test_a_picture_becomes_a_note_for_a_model_that_does_not_see(
    lab: Lab, claude: NewClaude
) -> None:
    messages = read_picture(lab, claude("deepseek-v3.1"))
    assert "image_url" not in json.dumps(messages)
    [result] = contents(messages, "tool")
    assert "image" in result
    assert any("cannot see images" in told for told in lab.wait_adjustments(2))


def test_the_text_of_a_pdf_goes_up(lab: Lab, claude: NewClaude) -> None:
    user = claude()
    path = user.project / "doc.pdf"
    path.write_bytes(make_pdf("The launch code is 4711", "Second page"))
    lab.upstream.script(say(call("Read", file_path=str(path))), say("It says 4711."))
    assert user.run("Read doc.pdf").text == "It says 4711."
    sent = json.dumps(lab.upstream.requests[1].messages)
    assert "The launch code is 4711" in sent
    assert "Second page" in sent
    assert base64.b64encode(path.read_bytes()[:30]).decode() not in sent


def test_a_web_search_is_answered_as_unavailable_and_the_session_goes_on(
    lab: Lab, claude: NewClaude
) -> None:
    lab.upstream.script(
        say(
            call("WebSearch", query="python news"), tool="Bash", when=lambda body: not results(body)
        ),
        say(call("web_search", query="python news"), tool="web_search"),
        say("I could not search.", any_has="cannot run on this gateway"),
        say("There is no search here."),
    )
    run = claude().run("Search the web", output="stream-json")
    assert run.lines()[-1]["result"] == "There is no search here."
    [found] = [line["tool_use_result"] for line in run.lines() if "tool_use_result" in line]
    assert found["results"] == ["Web search error: unavailable", "I could not search."]
    assert found["searchCount"] == 1  # it came as a block of its own, not as text
    assert "unavailable" in results(lab.upstream.requests[2].body)  # the model was told
    assert "unavailable" in results(lab.upstream.requests[3].body)
    roles = [record.get("side_role", "") for record in lab.wait_records(3)]
    assert roles == ["", "web_search", ""]


def test_a_json_schema_is_filled_in(lab: Lab, claude: NewClaude) -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string"}, "n": {"type": "integer"}},
        "required": ["name", "n"],
        "additionalProperties": False,
    }
    lab.upstream.script(say(call("StructuredOutput", name="Ada", n=3)), say("Done.", times=2))
    run = claude().run("Give a name", "--json-schema", json.dumps(schema))
    assert run.returncode == 0
    assert run.result["structured_output"] == {"name": "Ada", "n": 3}
    [tool] = [
        t["function"]
        for t in lab.upstream.requests[0].body["tools"]
        if t["function"]["name"] == "StructuredOutput"
    ]
    assert tool["parameters"]["required"] == ["name", "n"]


def test_a_tool_of_an_mcp_server_is_found_and_called(lab: Lab, claude: NewClaude) -> None:
    servers = {"demo": {"command": sys.executable, "args": [str(HERE / "mcp_server.py")]}}
    lab.upstream.script(
        say(call("ToolSearch", query="select:mcp__demo__add", max_results=5)),
        say(call("mcp__demo__add", a=2, b=3), tool="mcp__demo__add"),
        say("Five."),
    )
    run = claude().run(
        "Add two numbers",
        *("--mcp-config", json.dumps({"mcpServers": servers})),
        *("--allowedTools", "mcp__demo__add"),
        env={"ENABLE_TOOL_SEARCH": "true"},
    )
    assert run.text == "Five."
    first, second, third = lab.upstream.requests
    assert "mcp__demo__add" not in first.tool_names
    assert "mcp__demo__add" in second.tool_names
    assert contents(third.messages, "tool")[-1] == "5"


def test_a_session_is_resumed(lab: Lab, claude: NewClaude) -> None:
    session = "11111111-2222-4333-8444-555555555555"
    lab.upstream.script(say("Remembered."), say("42."))
    user = claude()
    assert user.run("Remember 42", "--session-id", session).text == "Remembered."
    assert user.run("What number?", "--resume", session).text == "42."
    assert contents(lab.upstream.requests[1].messages, "assistant") == ["Remembered."]


def test_an_answer_that_was_cut_is_continued_within_the_models_limit(
    lab: Lab, claude: NewClaude
) -> None:
    lab.upstream.script(say("Part one, ", finish="length"), say("part two."))
    assert "part two." in claude().run("Write a long text").text
    first, second = lab.upstream.requests
    assert contents(second.messages, "assistant") == ["Part one, "]
    assert first.body["max_tokens"] == 32_000
    assert second.body["max_tokens"] <= 65_536  # it asks for 128000


def test_what_auto_mode_tells_of_this_machine_goes_no_further(lab: Lab, claude: NewClaude) -> None:
    lab.upstream.script(say("Hello."))
    user = claude()
    run = user.run("hi", "--permission-mode", "auto")
    assert run.text == "Hello."
    [request] = lab.upstream.requests
    assert b"safeguards" not in request.raw_body
    assert b"classifier_context" not in request.raw_body
    assert any(told.startswith("safeguards dropped") for told in lab.wait_adjustments())


@pytest.mark.parametrize("name", ["claude-sonnet-4-6", "claude-3-5-haiku-20241022", "opus"])
def test_names_of_claude_models_reach_the_roles(lab: Lab, claude: NewClaude, name: str) -> None:
    lab.upstream.script(say("Hello."))
    assert claude(name).run("hi").text == "Hello."
    assert [r.body["model"] for r in lab.upstream.requests] == ["deepseek-v3.1"]


def test_models_are_discovered(lab: Lab, claude: NewClaude) -> None:
    lab.upstream.script(say("Hello."))
    run = claude().run("hi", env={"CLAUDE_CODE_ENABLE_GATEWAY_MODEL_DISCOVERY": "1"})
    assert run.text == "Hello."
    [record] = lab.wait_records(path="/v1/models")
    assert (record["method"], record["status"]) == ("GET", 200)


def test_context_is_counted_by_the_gateway(lab: Lab, claude: NewClaude) -> None:
    run = claude().run("/context")
    assert run.returncode == 0
    counts = lab.wait_records(10, path="/v1/messages/count_tokens")
    assert {record["status"] for record in counts} == {200}
    assert not lab.upstream.requests  # counting never bills


@pytest.mark.parametrize("variable", ["ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_API_KEY"])
def test_a_gateway_with_keys_knows_its_user(
    lab: Lab, claude: NewClaude, tmp_path: Path, variable: str
) -> None:
    lab.upstream.script(say("Hello."))
    keys = '[[keys]]\nname = "dev"\nkey = "the-right-key"\n'
    config = lab_config(lab.upstream.url, "deepseek-v3.1", more=keys)
    user = claude()
    del user.env["ANTHROPIC_AUTH_TOKEN"]
    with GatewayProcess(tmp_path / "gateway", config=config) as gateway:
        user.env["ANTHROPIC_BASE_URL"] = gateway.url
        refused = user.run("hi", env={variable: "the-wrong-key"})
        assert refused.returncode == 1
        assert not lab.upstream.requests
        assert user.run("hi", env={variable: "the-right-key"}).text == "Hello."
    assert "the-right-key" not in gateway.log()


def test_leaving_cancels_the_upstream_call(lab: Lab, claude: NewClaude) -> None:
    lab.upstream.script(say("word " * 2000, delay_s=0.02, times=-1))
    process = claude().start("Write a long text")
    try:
        request = lab.upstream.wait_request(timeout_s=60)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert request.wait_gone(10)
