"""The real Python SDK on the embedded engine and its toy model: nothing here is scripted."""

import asyncio
import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anthropic
import pytest
from anthropic import beta_tool

from support.gateway import GatewayProcess
from support.processes import is_alive

pytestmark = [pytest.mark.client, pytest.mark.engine]

MODEL = "dragoman-demo"
HELLO = [{"role": "user", "content": "Hello"}]
COUNT = [{"role": "user", "content": "Count from 1 to 40."}]
PARIS = [{"role": "user", "content": "Use get_weather with city Paris."}]
WEATHER = {
    "name": "get_weather",
    "description": "Get the weather of a city.",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
    },
}
RUN = {
    "name": "run_command",
    "description": "Run a command.",
    "input_schema": {
        "type": "object",
        "properties": {"command": {"type": "string"}},
        "required": ["command"],
    },
}
NO_THINKING = {"type": "disabled"}
# A list that must not end yet: the answer goes on until max_tokens, thousands of them for minutes.
_LONG_LIST = {"type": "array", "items": {"enum": ["again and again"]}, "minItems": 1900}
ENDLESS = {
    "model": MODEL,
    "messages": COUNT,
    "thinking": NO_THINKING,
    "output_config": {
        "format": {
            "type": "json_schema",
            "schema": {
                "type": "object",
                "properties": {"list": _LONG_LIST},
                "required": ["list"],
                "additionalProperties": False,
            },
        }
    },
}


@contextmanager
def demo_gateway(folder: Path) -> Iterator[GatewayProcess]:
    with GatewayProcess(folder, args=("--demo",), env={"DRAGOMAN_LOG_FORMAT": "json"}) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    with demo_gateway(tmp_path_factory.mktemp("demo")) as gateway:
        yield gateway


@pytest.fixture
def client(demo: GatewayProcess) -> Iterator[anthropic.Anthropic]:
    with new_client(demo) as client:
        yield client


def new_client(gateway: GatewayProcess) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=gateway.url, api_key="local", max_retries=0)


def test_create(client: anthropic.Anthropic) -> None:
    message = client.messages.create(
        model=MODEL, max_tokens=200, messages=HELLO, thinking=NO_THINKING
    )
    assert [block.type for block in message.content] == ["text"]
    assert "Hello" in message.content[0].text
    assert (message.model, message.stop_reason) == (MODEL, "end_turn")
    assert message.usage.input_tokens > 0
    assert 0 < message.usage.output_tokens < 200


def test_stream(client: anthropic.Anthropic) -> None:
    with client.messages.stream(
        model=MODEL, max_tokens=200, messages=HELLO, thinking=NO_THINKING
    ) as stream:
        pieces = list(stream.text_stream)
        message = stream.get_final_message()
    assert len(pieces) > 1
    assert message.content[0].text == "".join(pieces)
    assert (message.stop_reason, message.usage.output_tokens > 1) == ("end_turn", True)


@pytest.mark.parametrize("is_stream", [False, True])
def test_thinking(client: anthropic.Anthropic, is_stream: bool) -> None:
    ask = {"model": MODEL, "max_tokens": 1500, "messages": HELLO}
    ask["thinking"] = {"type": "enabled", "budget_tokens": 1024}
    if is_stream:
        with client.messages.stream(**ask) as stream:
            message = stream.get_final_message()
    else:
        message = client.messages.create(**ask)
    thinking, text = message.content
    assert (thinking.type, text.type) == ("thinking", "text")
    assert thinking.thinking
    assert thinking.signature
    again = client.messages.create(
        **{**ask, "messages": [*HELLO, {"role": "assistant", "content": message.content}, *HELLO]}
    )
    assert again.stop_reason == "end_turn"


@pytest.mark.parametrize("thinking", [NO_THINKING, {"type": "adaptive"}])
def test_tools(client: anthropic.Anthropic, thinking: dict) -> None:
    message = client.messages.create(
        model=MODEL,
        max_tokens=1000,
        messages=PARIS,
        tools=[WEATHER],
        thinking=thinking,
    )
    use = message.content[-1]
    assert (use.type, use.name, set(use.input)) == ("tool_use", "get_weather", {"city"})
    assert isinstance(use.input["city"], str)
    assert message.stop_reason == "tool_use"


# Each of these parts is a 400 of the engine where it is sent as it is.
ODD_SCHEMA = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "anything": True,
        "invented": {"type": "any"},
        "lost": {"$ref": "#/$defs/nowhere"},
        "itself": {"$ref": "#"},
        "elsewhere": {"type": "array", "items": {"$ref": "#/properties/city"}},
    },
    "required": ["city"],
}


@pytest.mark.parametrize("choice", [{"type": "auto"}, {"type": "tool", "name": "get_weather"}])
def test_schemas_that_the_engine_refuses(client: anthropic.Anthropic, choice: dict) -> None:
    reply = client.messages.with_raw_response.create(
        model=MODEL,
        max_tokens=1000,
        messages=PARIS,
        tools=[{**WEATHER, "input_schema": ODD_SCHEMA}],
        tool_choice=choice,
        thinking=NO_THINKING,
    )
    assert reply.parse().content[-1].type == "tool_use"
    assert "a reference in a schema leads nowhere" in reply.headers["x-dragoman-adjustments"]


def test_tool_runner(client: anthropic.Anthropic) -> None:
    asked: list[str] = []

    @beta_tool
    def get_weather(city: str) -> str:
        """Get the weather of a city.

        Args:
            city: Which one.
        """
        asked.append(city)
        return f"It is sunny in {city}."

    runner = client.beta.messages.tool_runner(
        model=MODEL,
        max_tokens=1000,
        messages=PARIS,
        tools=[get_weather],
        thinking=NO_THINKING,
        max_iterations=4,
    )
    messages = list(runner)
    assert asked
    assert messages[0].stop_reason == "tool_use"
    assert len(messages) > 1


FORCED = {
    "tool": {"type": "tool", "name": "run_command"},
    "any": {"type": "any"},
    "only one": {"type": "any", "disable_parallel_tool_use": True},
}


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("choice", FORCED.values(), ids=FORCED)
def test_a_forced_tool_binds(client: anthropic.Anthropic, choice: dict, is_stream: bool) -> None:
    """Without force the model just answers this question."""
    question = [{"role": "user", "content": "What is the capital of France?"}]
    ask = {"model": MODEL, "max_tokens": 500, "messages": question, "tools": [WEATHER, RUN]}
    free = client.messages.create(**ask, thinking=NO_THINKING)
    assert [block.type for block in free.content] == ["text"]
    ask |= {"tool_choice": choice, "thinking": NO_THINKING}
    if is_stream:
        with client.messages.stream(**ask) as stream:
            message = stream.get_final_message()
    else:
        message = client.messages.create(**ask)
    [use] = message.content
    assert (use.type, message.stop_reason) == ("tool_use", "tool_use")
    keys = {"get_weather": {"city"}, "run_command": {"command"}}
    assert set(use.input) == keys[use.name]
    if choice["type"] == "tool":
        assert use.name == choice["name"]


def test_stop_sequence(client: anthropic.Anthropic) -> None:
    with client.messages.stream(
        model=MODEL,
        max_tokens=500,
        messages=COUNT,
        stop_sequences=["nothing like it", "9, 10"],
        thinking=NO_THINKING,
    ) as stream:
        message = stream.get_final_message()
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", "9, 10")
    assert message.content[0].text.endswith("8, ")


def test_max_tokens(client: anthropic.Anthropic) -> None:
    message = client.messages.create(
        model=MODEL, max_tokens=20, messages=COUNT, thinking=NO_THINKING
    )
    assert (message.stop_reason, message.usage.output_tokens) == ("max_tokens", 20)


def test_json_schema(client: anthropic.Anthropic) -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string"}, "n": {"type": "integer"}},
        "required": ["name", "n"],
        "additionalProperties": False,
    }
    message = client.messages.create(
        model=MODEL,
        max_tokens=500,
        messages=HELLO,
        thinking=NO_THINKING,
        output_config={"format": {"type": "json_schema", "schema": schema}},
    )
    assert set(json.loads(message.content[0].text)) == {"name", "n"}


def test_a_prompt_that_is_too_long(client: anthropic.Anthropic) -> None:
    messages = [{"role": "user", "content": "hello world " * 9000}]
    wanted = client.messages.count_tokens(model=MODEL, messages=messages).input_tokens
    assert wanted > 32_768
    with pytest.raises(
        anthropic.BadRequestError, match=f"prompt is too long: {wanted} tokens > 32768 maximum"
    ):
        client.messages.create(model=MODEL, max_tokens=100, messages=messages)


@pytest.mark.parametrize("tools", [[], [WEATHER, RUN]], ids=["plain", "tools"])
def test_count_tokens_is_exact(client: anthropic.Anthropic, tools: list) -> None:
    ask = {"model": MODEL, "system": "Be kind.", "messages": HELLO, "thinking": NO_THINKING}
    if tools:
        ask["tools"] = tools
    counted = client.messages.count_tokens(**ask)
    usage = client.messages.create(**ask, max_tokens=100).usage
    assert counted.input_tokens == usage.input_tokens + (usage.cache_read_input_tokens or 0)


def test_models(client: anthropic.Anthropic) -> None:
    ids = [model.id for model in client.models.list()]
    assert ids[0] == MODEL
    assert client.models.retrieve(MODEL).max_input_tokens == 32_768


@pytest.mark.parametrize("name", ["claude-opus-5-5", "claude-3-5-haiku-20241022", "sonnet"])
def test_names_of_claude_models_reach_the_demo(client: anthropic.Anthropic, name: str) -> None:
    message = client.messages.create(
        model=name, max_tokens=100, messages=HELLO, thinking=NO_THINKING
    )
    assert "Hello" in message.content[0].text
    assert message.model == name


def test_four_streams_at_once(demo: GatewayProcess) -> None:
    """One after the other, the second would only begin after minutes."""

    async def read(client: anthropic.AsyncAnthropic, barrier: asyncio.Barrier) -> str:
        text = ""
        async with client.messages.stream(**ENDLESS, max_tokens=20_000) as stream:
            async for piece in stream.text_stream:
                if not text:
                    await barrier.wait()
                text += piece
                if len(text) > 500:
                    return text[:500]
        raise AssertionError("it has ended")

    async def main() -> list[str]:
        async with (
            asyncio.timeout(120),
            anthropic.AsyncAnthropic(base_url=demo.url, api_key="local") as client,
        ):
            barrier = asyncio.Barrier(4)
            return await asyncio.gather(*(read(client, barrier) for _ in range(4)))

    texts = asyncio.run(main())
    assert len(set(texts)) == 1  # it is not sampled, and no stream has a piece of another


@pytest.mark.parametrize("is_stream", [True, False])
def test_leaving_frees_the_slot(demo: GatewayProcess, is_stream: bool) -> None:
    """All four slots are busy for minutes, unless whoever asked for it has left."""
    ask = {**ENDLESS, "max_tokens": 20_000}

    async def count(client: anthropic.AsyncAnthropic) -> None:
        if not is_stream:
            await client.messages.create(**ask)
            return
        async with client.messages.stream(**ask) as stream:
            async for _ in stream.text_stream:
                await asyncio.sleep(60)

    async def main() -> float:
        async with anthropic.AsyncAnthropic(base_url=demo.url, api_key="local") as client:
            tasks = [asyncio.create_task(count(client)) for _ in range(4)]
            await asyncio.sleep(1)
            assert not any(task.done() for task in tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        async with anthropic.AsyncAnthropic(base_url=demo.url, api_key="local") as client:
            started_s = time.monotonic()
            await client.messages.create(model=MODEL, max_tokens=100, messages=HELLO)
            return time.monotonic() - started_s

    assert asyncio.run(main()) < 30


def test_the_end_of_the_gateway_is_the_end_of_its_engine(tmp_path: Path) -> None:
    with demo_gateway(tmp_path) as gateway:
        engine = engine_pid(gateway)
        assert is_alive(engine)
    assert not is_alive(engine)


def test_a_gateway_that_is_killed_leaves_no_engine(tmp_path: Path) -> None:
    gateway = GatewayProcess(tmp_path, args=("--demo",))
    gateway.__enter__()
    engine = engine_pid(gateway)
    os.kill(gateway.pid, signal.SIGKILL)
    assert gateway.stop() == -signal.SIGKILL
    wait_until(lambda: not is_alive(engine))


def test_an_engine_that_dies_comes_back(tmp_path: Path) -> None:
    with demo_gateway(tmp_path) as gateway, new_client(gateway) as client:
        engine = engine_pid(gateway)
        os.kill(engine, signal.SIGKILL)
        wait_until(lambda: gateway.request("GET", "/readyz").status == 503)
        wait_until(lambda: gateway.request("GET", "/readyz").status == 200)
        assert engine_pid(gateway) != engine
        message = client.messages.create(
            model=MODEL, max_tokens=100, messages=HELLO, thinking=NO_THINKING
        )
        assert "Hello" in message.content[0].text


def engine_pid(gateway: GatewayProcess) -> int:
    """Return the engine among the children of the gateway."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
            command = (folder / "cmdline").read_bytes()
        except OSError:  # it has just ended
            continue
        if parent == gateway.pid and b"engine_child.py" in command:
            return int(folder.name)
    raise AssertionError("there is no engine")


def wait_until(holds, timeout_s: float = 60) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
