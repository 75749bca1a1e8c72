"""Counts of every server in one shape, and what clients get to see of them."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.core.usage import Usage, UsageMeter, bounded_count, render_usage, usage_of_chat
from dragoman.wire.openai_chat import TokenDetails
from dragoman.wire.openai_chat import Usage as WireUsage

COUNTS = st.none() | st.integers(-5, 10**7)
DETAILS = st.none() | st.builds(
    TokenDetails,
    cached_tokens=COUNTS,
    reasoning_tokens=COUNTS,
    cache_write_tokens=COUNTS,
    created_cache_tokens=COUNTS,
)
WIRES = st.builds(
    WireUsage,
    prompt_tokens=COUNTS,
    completion_tokens=COUNTS,
    prompt_tokens_details=DETAILS,
    completion_tokens_details=DETAILS,
    prompt_cache_hit_tokens=COUNTS,
    cached_tokens=COUNTS,
    reasoning_tokens=COUNTS,
    cache_creation_input_tokens=COUNTS,
)
ESTIMATE = Usage(input_tokens=40)


def details(**counts: int) -> TokenDetails:
    return TokenDetails(**counts)


SERVERS: dict[str, tuple[dict[str, Any], tuple[int, int, int, int, int | None]]] = {
    "vLLM": ({}, (100, 0, 0, 7, None)),
    "OpenAI, cached": ({"prompt_tokens_details": details(cached_tokens=60)}, (40, 60, 0, 7, None)),
    "DeepSeek": ({"prompt_cache_hit_tokens": 60}, (40, 60, 0, 7, None)),
    "Moonshot": ({"cached_tokens": 60}, (40, 60, 0, 7, None)),
    "Moonshot, both": (
        {"cached_tokens": 60, "prompt_tokens_details": details(cached_tokens=60)},
        (40, 60, 0, 7, None),
    ),
    "DashScope, explicit cache": (
        {
            "cache_creation_input_tokens": 30,
            "prompt_tokens_details": details(cached_tokens=60),
        },
        (10, 60, 30, 7, None),
    ),
    "vLLM, cache written": (
        {"prompt_tokens_details": details(created_cache_tokens=30)},
        (70, 0, 30, 7, None),
    ),
    "OpenAI, thinking": (
        {"completion_tokens_details": details(reasoning_tokens=5)},
        (100, 0, 0, 7, 5),
    ),
    "SGLang, thinking": ({"reasoning_tokens": 5}, (100, 0, 0, 7, 5)),
    "more cached than there is": ({"cached_tokens": 999}, (0, 100, 0, 7, None)),
    "nonsense": ({"cached_tokens": -5, "reasoning_tokens": -1}, (100, 0, 0, 7, None)),
}


@pytest.mark.parametrize(("more", "expected"), SERVERS.values(), ids=SERVERS)
def test_what_servers_count(more: dict[str, Any], expected: tuple) -> None:
    wire = WireUsage(prompt_tokens=100, completion_tokens=7, **more)
    usage = usage_of_chat(wire, ESTIMATE)
    assert (
        usage.input_tokens,
        usage.cache_read_input_tokens,
        usage.cache_creation_input_tokens,
        usage.output_tokens,
        usage.thinking_tokens,
    ) == expected
    assert not usage.is_estimate


@given(st.lists(WIRES, max_size=4))
def test_parts_of_the_prompt_add_up_and_nothing_is_below_zero(wires: list[WireUsage]) -> None:
    meter = UsageMeter(40)
    prompt = 40
    for wire in wires:
        meter.take(wire)
        prompt = prompt if wire.prompt_tokens is None else max(0, wire.prompt_tokens)
    total = meter.total
    assert total.prompt_tokens == prompt
    counts = json.loads(render_usage(total))
    assert all(count >= 0 for count in counts.values() if isinstance(count, int))


def test_counts_that_are_left_out_stay_as_they_were() -> None:
    meter = UsageMeter(40)
    meter.take(WireUsage(prompt_tokens=100, cached_tokens=60))
    assert meter.total.is_estimate  # the output is not counted yet
    meter.take(WireUsage(completion_tokens=7))
    total = meter.total
    assert (total.input_tokens, total.cache_read_input_tokens, total.output_tokens) == (40, 60, 7)


def test_output_that_nobody_counts_is_estimated_by_its_length() -> None:
    meter = UsageMeter(40)
    assert (meter.total.input_tokens, meter.total.output_tokens) == (40, 0)
    meter.written_chars += 3
    assert meter.total.output_tokens == 1
    meter.written_chars += 397
    assert (meter.total.output_tokens, meter.total.is_estimate) == (100, True)
    meter.take(WireUsage(prompt_tokens=50, completion_tokens=90))
    assert (meter.total.output_tokens, meter.total.is_estimate) == (90, False)


@pytest.mark.parametrize(
    ("one", "other", "thinking"), [(None, None, None), (3, None, 3), (None, 4, 4), (3, 4, 7)]
)
def test_several_replies_to_one_request_add_up(
    one: int | None, other: int | None, thinking: int | None
) -> None:
    first = Usage(1, 2, 3, 4, one, is_estimate=False)
    second = Usage(10, 20, 30, 40, other, is_estimate=True)
    assert first.plus(second) == Usage(11, 22, 33, 44, thinking, is_estimate=True)
    meter = UsageMeter(10, first)
    assert meter.total.input_tokens == 11


def test_what_clients_see() -> None:
    assert json.loads(render_usage(Usage(1, 2, 3, 4))) == {
        "input_tokens": 1,
        "cache_creation_input_tokens": 3,
        "cache_read_input_tokens": 2,
        "output_tokens": 4,
    }
    thinking = json.loads(render_usage(Usage(thinking_tokens=5)))
    assert thinking["output_tokens_details"] == {"thinking_tokens": 5}


@pytest.mark.parametrize(
    ("value", "count"), [(None, 0), (0, 0), (-1, 0), (7, 7), (2**40, 2**40), (10**400, 2**40)]
)
def test_counts_are_bounded(value: int | None, count: int) -> None:
    assert bounded_count(value) == count
