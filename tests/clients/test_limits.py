"""What the real clients make of limits and budgets."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import anthropic
import pytest

from support.chat_script import say
from support.claude_code import CLIENT_TOKEN, ClaudeCode, gateway_variables
from support.lab import MODELS, Lab, checked, open_lab
from support.node import claude_binary

pytestmark = pytest.mark.client

MODEL = MODELS[0]
ASK = {"model": MODEL, "max_tokens": 50, "messages": [{"role": "user", "content": "Hi"}]}
LIMITED = f"""
[limits]
contact = "Ada (ada@example.com)"

[[keys]]
name = "dev"
key = "{CLIENT_TOKEN}"
budgets = [{{ period = "month", tokens = 1000 }}]

[[keys]]
name = "one-by-one"
key = "one-by-one-0123456789"
limits = {{ concurrent = 1 }}
"""


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with open_lab(tmp_path / "lab", more=LIMITED) as made, checked(made) as lab:
        yield lab


def test_claude_code_shows_a_used_up_budget_once(lab: Lab, tmp_path: Path) -> None:
    variables = gateway_variables(lab.url, MODEL)
    user = ClaudeCode([str(claude_binary())], tmp_path / "user", env=variables)
    lab.upstream.script(say("Hello.", usage={"prompt_tokens": 990, "completion_tokens": 20}))
    assert user.run("hi").text == "Hello."
    run = user.run("hi again")
    assert run.returncode != 0
    assert '"dev" is used up: 1,010 of 1,000 tokens' in run.result["result"]
    assert "ask Ada (ada@example.com)" in run.result["result"]
    assert [record["status"] for record in lab.wait_records(2)] == [200, 429], "asked once"
    assert run.seconds < 20
    assert len(lab.upstream.requests) == 1


def test_the_sdk_does_not_try_a_used_up_budget_again(lab: Lab) -> None:
    lab.upstream.script(say("Hello.", usage={"prompt_tokens": 990, "completion_tokens": 20}))
    with anthropic.Anthropic(base_url=lab.url, auth_token=CLIENT_TOKEN, max_retries=5) as client:
        assert client.messages.create(**ASK).content[0].text == "Hello."
        with pytest.raises(anthropic.RateLimitError) as caught:
            client.messages.create(**ASK)
    assert caught.value.body["error"]["type"] == "billing_error"
    assert "1,010 of 1,000 tokens" in caught.value.body["error"]["message"]
    assert len(lab.wait_records(2)) == 2


def test_the_sdk_waits_for_a_place(lab: Lab) -> None:
    lab.upstream.script(say("Hello, ", "world.", delay_s=0.4, times=2))
    with anthropic.Anthropic(
        base_url=lab.url, api_key="one-by-one-0123456789", max_retries=4
    ) as client:
        first = threading.Thread(target=lambda: client.messages.create(**ASK))
        first.start()
        lab.upstream.wait_request(1, 20)
        began_s = time.monotonic()
        second = client.messages.create(**ASK)
        first.join()
    assert second.content[0].text == "Hello, world."
    assert time.monotonic() - began_s > 0.9, "it waited as told"
    n_records, statuses = 3, list[int]()
    while statuses.count(200) < 2:  # one of them may be written after those that were refused
        statuses = [record["status"] for record in lab.wait_records(n_records)]
        n_records = len(statuses) + 1
    assert statuses.count(429) == len(statuses) - 2, "asked until there was a place"
