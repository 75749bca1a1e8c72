"""The real Python SDK, through the real gateway, on a scripted chat-completions upstream."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import anthropic
import pytest
from anthropic import beta_tool
from pydantic import BaseModel

from support.chat_script import Thought, call, refuse, say
from support.claude_code import CLIENT_TOKEN
from support.gateway import GatewayProcess, clean_environment, lab_config
from support.lab import Lab

pytestmark = pytest.mark.client

MODEL = "deepseek-v3.1"
HI = [{"role": "user", "content": "Hi"}]
WEATHER = {
    "name": "get_weather",
    "description": "The weather of a city.",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
    },
}


@pytest.fixture
def client(lab: Lab) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=lab.url, api_key=CLIENT_TOKEN) as client:
        yield client


def test_create(lab: Lab, client: anthropic.Anthropic) -> None:
    usage = {"prompt_tokens": 30, "completion_tokens": 5, "total_tokens": 35}
    cached = {**usage, "prompt_tokens_details": {"cached_tokens": 10}}
    lab.upstream.script(say("Hello!", usage=cached))
    message = client.messages.create(model=MODEL, max_tokens=100, system="Be brief.", messages=HI)
    assert [block.model_dump(exclude_none=True) for block in message.content] == [
        {"type": "text", "text": "Hello!"}
    ]
    assert (message.model, message.role, message.stop_reason) == (MODEL, "assistant", "end_turn")
    assert message.id.startswith("msg_")
    assert message._request_id.startswith("req_")
    usage = message.usage
    assert (usage.input_tokens, usage.cache_read_input_tokens, usage.output_tokens) == (20, 10, 5)
    [request] = lab.upstream.requests
    assert request.messages == [{"role": "system", "content": "Be brief."}, *HI]
    assert request.body["max_tokens"] == 100


def test_create_with_a_token_and_a_base_url_that_ends_in_v1(lab: Lab) -> None:
    lab.upstream.script(say("Hello!"))
    with anthropic.Anthropic(base_url=f"{lab.url}/v1", auth_token=CLIENT_TOKEN) as client:
        message = client.messages.create(model=MODEL, max_tokens=100, messages=HI)
    assert message.content[0].text == "Hello!"


def test_create_with_stream_gives_the_events_of_the_api(
    lab: Lab, client: anthropic.Anthropic
) -> None:
    lab.upstream.script(say("Hello there!"))
    with client.messages.create(model=MODEL, max_tokens=100, messages=HI, stream=True) as stream:
        kinds = [event.type for event in stream]
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert set(kinds[2:-3]) == {"content_block_delta"}
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]


def test_stream_helper(lab: Lab, client: anthropic.Anthropic) -> None:
    lab.upstream.script(
        say(Thought("Hm, a city."), "Let me see.", call("get_weather", city="Köln"))
    )
    with client.messages.stream(
        model="deepseek-v3.2",
        max_tokens=4000,
        thinking={"type": "enabled", "budget_tokens": 2000},
        tools=[WEATHER],
        messages=HI,
    ) as stream:
        events = [event.type for event in stream]
        message = stream.get_final_message()
    assert {"thinking", "text", "input_json", "message_stop"} <= set(events)
    thinking, text, use = message.content
    assert (thinking.thinking, text.text, use.input) == (
        "Hm, a city.",
        "Let me see.",
        {"city": "Köln"},
    )
    assert thinking.signature
    assert message.stop_reason == "tool_use"
    assert message.usage.output_tokens > 0


def test_text_stream(lab: Lab, client: anthropic.Anthropic) -> None:
    lab.upstream.script(say("One two three four five six."))
    with client.messages.stream(model=MODEL, max_tokens=100, messages=HI) as stream:
        pieces = list(stream.text_stream)
        assert len(pieces) > 1
        assert stream.get_final_text() == "".join(pieces) == "One two three four five six."


@beta_tool
def add(a: int, b: int) -> str:
    """Add two numbers.

    Args:
        a: The first.
        b: The second.
    """
    return str(a + b)


def test_tool_runner(lab: Lab, client: anthropic.Anthropic) -> None:
    """It first asks for a thread kept by the server, is refused, and sends the history itself."""
    lab.upstream.script(say(call("add", a=2, b=40)), say(call("add", a=42, b=1)), say("43."))
    runner = client.beta.messages.tool_runner(model=MODEL, max_tokens=100, messages=HI, tools=[add])
    messages = list(runner)
    assert messages[-1].content[0].text == "43."
    requests = lab.upstream.requests
    assert [r.messages[-1]["content"] for r in requests] == ["Hi", "42", "43"]
    assert {tuple(r.tool_names) for r in requests} == {("add",)}
    # The upstream calls both of them call_0 and gets that back; the client must see two ids.
    assert len({message.content[0].id for message in messages[:-1]}) == 2
    ids = [m["tool_call_id"] for m in requests[2].messages if m["role"] == "tool"]
    assert ids == ["call_0", "call_0"]


def test_tool_runner_that_streams(lab: Lab, client: anthropic.Anthropic) -> None:
    lab.upstream.script(say(call("add", a=2, b=40)), say("42."))
    runner = client.beta.messages.tool_runner(
        model=MODEL, max_tokens=100, messages=HI, tools=[add], stream=True
    )
    assert runner.until_done().content[0].text == "42."
    assert [r.messages[-1]["content"] for r in lab.upstream.requests] == ["Hi", "42"]


class Person(BaseModel):
    name: str
    age: int


def test_parse(lab: Lab, client: anthropic.Anthropic) -> None:
    lab.upstream.script(say('{"name": "Ada", "age": 36}'))
    message = client.messages.parse(model=MODEL, max_tokens=100, messages=HI, output_format=Person)
    assert message.parsed_output == Person(name="Ada", age=36)
    wanted = lab.upstream.requests[0].body["response_format"]["json_schema"]["schema"]
    assert set(wanted["properties"]) == {"name", "age"}


def test_a_forced_tool_binds_upstream(lab: Lab, client: anthropic.Anthropic) -> None:
    lab.upstream.script(say(call("get_weather", city="Rome")))
    message = client.messages.create(
        model=MODEL,
        max_tokens=100,
        messages=HI,
        tools=[WEATHER],
        tool_choice={"type": "tool", "name": "get_weather", "disable_parallel_tool_use": True},
    )
    assert message.content[0].input == {"city": "Rome"}
    body = lab.upstream.requests[0].body
    assert body["tool_choice"] == {"type": "function", "function": {"name": "get_weather"}}
    assert body["parallel_tool_calls"] is False


def test_stop_sequence(lab: Lab, client: anthropic.Anthropic) -> None:
    lab.upstream.script(say("one two END three"))
    message = client.messages.create(
        model=MODEL, max_tokens=100, messages=HI, stop_sequences=["END", "STOP"]
    )
    assert message.content[0].text == "one two "
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", "END")


def test_count_tokens(lab: Lab, client: anthropic.Anthropic) -> None:
    short = client.messages.count_tokens(model=MODEL, messages=HI)
    long = client.messages.count_tokens(
        model=MODEL, messages=[{"role": "user", "content": "many words " * 200}], tools=[WEATHER]
    )
    assert 0 < short.input_tokens < 50
    assert 200 < long.input_tokens < 2000
    assert not lab.upstream.requests


def test_models(lab: Lab, client: anthropic.Anthropic) -> None:
    listed = list(client.models.list(limit=2))  # more than one page
    ids = [model.id for model in listed]
    assert ids[0] == MODEL
    assert {"deepseek-v3.2", "kimi-k2.5", "no-retries"} <= set(ids)
    assert len(set(ids)) == len(ids)
    assert any("claude" in name or "anthropic" in name for name in ids)
    for name in ids:
        assert client.models.retrieve(name).id == name
    kimi = client.models.retrieve("kimi-k2.5")
    assert kimi.max_input_tokens == 262_144
    assert kimi.capabilities.image_input.supported
    with pytest.raises(anthropic.NotFoundError):
        client.models.retrieve("gpt-9")


def test_async_client(lab: Lab) -> None:
    lab.upstream.script(*(say(f"Answer {n}.", user_has=f"Question {n}.") for n in range(8)))

    async def ask(client: anthropic.AsyncAnthropic, number: int) -> str:
        messages = [{"role": "user", "content": f"Question {number}."}]
        async with client.messages.stream(model=MODEL, max_tokens=99, messages=messages) as stream:
            return await stream.get_final_text()

    async def main() -> list[str]:
        async with anthropic.AsyncAnthropic(base_url=lab.url, api_key=CLIENT_TOKEN) as client:
            return await asyncio.gather(*(ask(client, number) for number in range(8)))

    assert asyncio.run(main()) == [f"Answer {n}." for n in range(8)]


def test_leaving_a_stream_cancels_the_upstream_call(lab: Lab, client: anthropic.Anthropic) -> None:
    lab.upstream.script(say("word " * 2000, delay_s=0.02))
    with client.messages.stream(model=MODEL, max_tokens=9000, messages=HI) as stream:
        next(stream.text_stream)
    assert lab.upstream.requests[0].wait_gone(10)


def test_an_overloaded_upstream_is_asked_again_by_the_gateway(
    lab: Lab, client: anthropic.Anthropic
) -> None:
    lab.upstream.script(refuse(503, "busy"), say("Hello!"))
    message = client.with_options(max_retries=0).messages.create(
        model=MODEL, max_tokens=100, messages=HI
    )
    assert message.content[0].text == "Hello!"
    assert len(lab.upstream.requests) == 2


def test_a_429_is_the_clients_to_repeat(lab: Lab, client: anthropic.Anthropic) -> None:
    limited = refuse(429, "slow down", kind="rate_limit", headers=(("retry-after", "1"),))
    lab.upstream.script(limited, say("Hello!"))
    message = client.messages.create(model="no-retries", max_tokens=100, messages=HI)
    assert message.content[0].text == "Hello!"
    first, second = lab.upstream.requests
    assert second.at_s - first.at_s > 0.9  # it waited as told


def test_a_429_without_end(lab: Lab, client: anthropic.Anthropic) -> None:
    lab.upstream.script(refuse(429, "slow down", headers=(("retry-after", "60"),)))
    with pytest.raises(anthropic.RateLimitError) as caught:
        client.with_options(max_retries=0).messages.create(model=MODEL, max_tokens=100, messages=HI)
    assert caught.value.response.headers["retry-after"] == "60"
    assert error_of(caught.value)["type"] == "rate_limit_error"


def test_a_bad_request_names_its_field(lab: Lab, client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.BadRequestError) as caught:
        client.messages.create(model=MODEL, max_tokens=-1, messages=HI)
    assert "max_tokens" in error_of(caught.value)["message"]
    assert error_of(caught.value)["type"] == "invalid_request_error"
    assert caught.value.request_id == caught.value.body["request_id"]
    assert not lab.upstream.requests


def test_an_unknown_model(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError) as caught:
        client.messages.create(model="gpt-9", max_tokens=100, messages=HI)
    assert "gpt-9" in error_of(caught.value)["message"]


OVERFLOWS = {
    "vLLM": "This model's maximum context length is 131072 tokens. However, you requested 140000 "
    "tokens (140000 in the messages, 0 in the completion). Please reduce the length of the "
    "messages or completion.",
    "DeepSeek": "This model's maximum context length is 131072 tokens. However, your messages "
    "resulted in 140000 tokens. Please reduce the length of the messages.",
    "Moonshot": "Invalid request: Your request exceeded model token limit: 131072",
}


@pytest.mark.parametrize("text", OVERFLOWS.values(), ids=OVERFLOWS)
def test_an_overflow_is_told_in_the_words_that_clients_know(
    lab: Lab, client: anthropic.Anthropic, text: str
) -> None:
    lab.upstream.script(refuse(400, text))
    with pytest.raises(
        anthropic.BadRequestError, match=r"prompt is too long: \d+ tokens > 131072 "
    ):
        client.messages.create(model=MODEL, max_tokens=100, messages=HI)
    assert len(lab.upstream.requests) == 1


def test_the_upstreams_refusal_of_our_key_is_not_the_clients_fault(
    lab: Lab, client: anthropic.Anthropic
) -> None:
    lab.upstream.script(refuse(401, "Incorrect API key provided: lab-secret", times=-1))
    with pytest.raises(anthropic.InternalServerError) as caught:
        client.messages.create(model=MODEL, max_tokens=100, messages=HI)
    assert caught.value.status_code == 502
    assert "lab-secret" not in str(caught.value.body)
    assert len(lab.upstream.requests) == 1  # x-should-retry: false


def test_a_stream_that_breaks_is_an_error(lab: Lab, client: anthropic.Anthropic) -> None:
    lab.upstream.script(say("word " * 60, drop_after=6))
    with (
        pytest.raises(anthropic.APIStatusError),
        client.messages.stream(model=MODEL, max_tokens=100, messages=HI) as stream,
    ):
        stream.until_done()


def test_a_large_picture_arrives_whole(lab: Lab, client: anthropic.Anthropic) -> None:
    lab.upstream.script(say("Large."))
    client.messages.create(model="kimi-k2.5", max_tokens=100, messages=picture(20 * 2**20))
    sent = lab.upstream.requests[0].messages[0]["content"][0]["image_url"]["url"]
    assert len(sent) == len("data:image/png;base64,") + 20 * 2**20


def test_a_body_over_the_limit_is_refused_in_the_middle(
    lab: Lab, client: anthropic.Anthropic
) -> None:
    with pytest.raises(anthropic.RequestTooLargeError) as caught:
        client.messages.create(model="kimi-k2.5", max_tokens=100, messages=picture(40 * 2**20))
    assert error_of(caught.value)["type"] == "request_too_large"
    assert not lab.upstream.requests


def picture(size: int) -> list:
    """Return a question about a picture whose base64 has so many bytes."""
    source = {"type": "base64", "media_type": "image/png", "data": "iVBORw0K" * (size // 8)}
    return [{"role": "user", "content": [{"type": "image", "source": source}]}]


def test_a_stream_may_end_before_the_gateway_does(lab: Lab, tmp_path: Path) -> None:
    lab.upstream.script(say("word " * 50, delay_s=0.05))
    config = lab_config(lab.upstream.url, MODEL)
    with GatewayProcess(tmp_path, config=config) as gateway:
        with (
            anthropic.Anthropic(base_url=gateway.url, api_key="any", max_retries=0) as client,
            client.messages.stream(model=MODEL, max_tokens=900, messages=HI) as stream,
        ):
            next(stream.text_stream)
            os.kill(gateway.pid, signal.SIGTERM)
            assert stream.get_final_text() == "word " * 50
        assert gateway.wait() == 0


def test_keys(lab: Lab, tmp_path: Path) -> None:
    keys = '[[keys]]\nname = "dev"\nkey = "the-right-key"\n'
    config = lab_config(lab.upstream.url, MODEL, more=keys)
    lab.upstream.script(say("Hello!", times=2))
    ask = {"model": MODEL, "max_tokens": 100, "messages": HI}
    with GatewayProcess(tmp_path, config=config) as gateway:
        url = gateway.url
        with anthropic.Anthropic(base_url=url, api_key="the-wrong-key") as client:
            with pytest.raises(anthropic.AuthenticationError) as caught:
                client.messages.create(**ask)
            assert error_of(caught.value)["type"] == "authentication_error"
            with pytest.raises(anthropic.AuthenticationError):
                client.models.list()
        for right in ({"api_key": "the-right-key"}, {"auth_token": "the-right-key"}):
            with anthropic.Anthropic(base_url=url, **right) as client:
                assert client.messages.create(**ask).content[0].text == "Hello!"
    assert "the-right-key" not in gateway.log()
    assert "the-wrong-key" not in gateway.log()


# What the documentation of a platform with this API shows, word for word: nothing but the
# address is another one.
EXAMPLE = """
import anthropic

client = anthropic.Anthropic()

message = client.messages.create(
    model="deepseek-v3.1",
    max_tokens=1000,
    system="You are a helpful assistant.",
    messages=[
        {
            "role": "user",
            "content": [
                {
                    "type": "text",
                    "text": "Hi, how are you?"
                }
            ]
        }
    ]
)
print(message.content)
"""


@pytest.mark.parametrize("variable", ["ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"])
def test_the_example_of_a_platforms_documentation(lab: Lab, tmp_path: Path, variable: str) -> None:
    lab.upstream.script(say("I am well."))
    exports = f"export ANTHROPIC_BASE_URL={lab.url}\nexport {variable}={CLIENT_TOKEN}\n"
    (tmp_path / "example.py").write_text(EXAMPLE)
    ran = subprocess.run(
        ["sh", "-c", f"{exports}exec {sys.executable} example.py"],
        cwd=tmp_path,
        env=clean_environment(tmp_path / "home"),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "I am well." in ran.stdout
    [request] = lab.upstream.requests
    assert request.body["messages"] == [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": "Hi, how are you?"},
    ]
    assert request.body["max_tokens"] == 1000


def error_of(error: anthropic.APIStatusError) -> dict:
    body = error.body
    assert isinstance(body, dict)
    assert body["type"] == "error"
    return body["error"]
