"""
Real clients on an upstream that speaks the API itself: another gateway of ours, with its own marks.

What passes through the first one must be as good as if it were not there.
"""

from collections.abc import Iterator
from pathlib import Path

import anthropic
import pytest
from anthropic import beta_tool

from support.chat_script import Thought, call, refuse, say
from support.claude_code import CLIENT_TOKEN, ClaudeCode, gateway_variables
from support.gateway import GatewayProcess
from support.lab import LAB_KEY, Lab
from support.node import claude_binary

pytestmark = pytest.mark.client

MODEL = "outer-name"
HI = [{"role": "user", "content": "Hi"}]
CONFIG = """
[upstreams.native]
kind = "anthropic"
base_url = "{url}"
api_key = "the-outer-secret"

[models.{model}]
upstream = "native"
upstream_model = "deepseek-v3.2"
"""


@pytest.fixture(scope="module")
def outer(shared_lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    config = CONFIG.format(url=shared_lab.url, model=MODEL)
    with GatewayProcess(tmp_path_factory.mktemp("outer"), config=config) as gateway:
        yield gateway
    assert "the-outer-secret" not in gateway.log()
    assert CLIENT_TOKEN not in gateway.log()


@pytest.fixture
def client(lab: Lab, outer: GatewayProcess) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=outer.url, api_key=CLIENT_TOKEN, max_retries=0) as client:
        yield client


@pytest.mark.parametrize("is_stream", [False, True])
def test_a_message(lab: Lab, client: anthropic.Anthropic, is_stream: bool) -> None:
    lab.upstream.script(say(Thought("Hm."), "Hello!"))
    ask = {"model": MODEL, "max_tokens": 4000, "messages": HI}
    ask["thinking"] = {"type": "enabled", "budget_tokens": 2000}
    if is_stream:
        with client.messages.stream(**ask) as stream:
            message = stream.get_final_message()
    else:
        message = client.messages.create(**ask)
    thinking, text = message.content
    assert (thinking.thinking, text.text) == ("Hm.", "Hello!")
    assert (message.model, message.stop_reason) == (MODEL, "end_turn")
    assert message.usage.output_tokens > 0
    [request] = lab.upstream.requests
    assert request.body["model"] == "deepseek-v3.2"
    assert request.headers["authorization"] == f"Bearer {LAB_KEY}"


@beta_tool
def add(a: int, b: int) -> str:
    """Add two numbers.

    Args:
        a: The first.
        b: The second.
    """
    return str(a + b)


def test_a_tool_runner_is_told_that_there_are_no_threads(
    lab: Lab, client: anthropic.Anthropic
) -> None:
    lab.upstream.script(say(call("add", a=2, b=40)), say("42."))
    runner = client.beta.messages.tool_runner(model=MODEL, max_tokens=100, messages=HI, tools=[add])
    assert runner.until_done().content[0].text == "42."
    assert [r.messages[-1]["content"] for r in lab.upstream.requests] == ["Hi", "42"]


def test_counts_come_from_the_upstream(client: anthropic.Anthropic, lab: Lab) -> None:
    with anthropic.Anthropic(base_url=lab.url, api_key="any") as direct:
        wanted = direct.messages.count_tokens(model="deepseek-v3.2", messages=HI)
    assert client.messages.count_tokens(model=MODEL, messages=HI) == wanted


def test_errors_are_passed_on(lab: Lab, client: anthropic.Anthropic) -> None:
    overflow = "This model's maximum context length is 131072 tokens. However, your messages "
    lab.upstream.script(refuse(400, f"{overflow}resulted in 140000 tokens."))
    with pytest.raises(anthropic.BadRequestError, match="prompt is too long: 140000 tokens"):
        client.messages.create(model=MODEL, max_tokens=100, messages=HI)


def test_leaving_cancels_through_both(lab: Lab, client: anthropic.Anthropic) -> None:
    lab.upstream.script(say("word " * 2000, delay_s=0.02))
    with client.messages.stream(model=MODEL, max_tokens=9000, messages=HI) as stream:
        next(stream.text_stream)
    assert lab.upstream.requests[0].wait_gone(10)


def test_claude_code_edits_a_file(lab: Lab, outer: GatewayProcess, tmp_path: Path) -> None:
    variables = gateway_variables(outer.url, MODEL)
    user = ClaudeCode([str(claude_binary())], tmp_path / "user", env=variables)
    path = user.project / "one.py"
    path.write_text("print(1)\n")
    lab.upstream.script(
        say(Thought("The file first."), call("Read", file_path=str(path))),
        say(call("Edit", file_path=str(path), old_string="1", new_string="2")),
        say("Done."),
    )
    assert user.run("Print 2").text == "Done."
    assert path.read_text() == "print(2)\n"
    assert len(lab.upstream.requests) == 3
