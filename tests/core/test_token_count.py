"""The estimate: within a tenth of the real tokenizers in the middle, never absurd, and fast."""

import json
import time
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.core.dialects.profile import GENERIC, DialectProfile
from dragoman.core.dialects.registry import find_profile
from dragoman.core.token_count import (
    RATES,
    calibrated,
    estimate_body,
    estimate_prompt,
    estimate_text,
    estimate_texts,
    frame_tokens,
    read_prompt,
)

CORPUS = Path(__file__).with_name("token_corpus")
TEXTS = {path.stem: path.read_text(encoding="utf-8") for path in sorted(CORPUS.glob("*.txt"))}
# Tokens of each text by the real tokenizers; tests/server/test_tokenizers.py counts them again.
COUNTS: dict[str, dict[str, int]] = json.loads((CORPUS / "counts.json").read_text())["counts"]
KINDS = {
    "English": ("english",),
    "Chinese": ("chinese",),
    "code": ("code",),
    "tools and records": ("tools", "json"),
    "mixed": ("mixed",),
    "agents": ("agent",),
    "everything": ("",),
}


def errors(vocabulary: str, prefixes: tuple[str, ...]) -> list[float]:
    rates = RATES[vocabulary]
    return [
        estimate_text(text.encode(), rates) / COUNTS[name][vocabulary] - 1
        for name, text in TEXTS.items()
        if name.startswith(prefixes)
    ]


@pytest.mark.parametrize("vocabulary", ["deepseek", "qwen", "qwen3_5"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_median_error_stays_under_a_tenth(kind: str, vocabulary: str) -> None:
    found = errors(vocabulary, KINDS[kind])
    assert len(found) > 2
    assert median(abs(error) for error in found) < 0.10


@pytest.mark.parametrize("vocabulary", ["deepseek", "qwen", "qwen3_5"])
def test_no_text_is_estimated_absurdly(vocabulary: str) -> None:
    found = errors(vocabulary, ("",))
    assert len(found) >= 36
    assert all(-0.4 < error < 0.5 for error in found)
    assert abs(median(found)) < 0.04  # no bias


def test_rates_for_the_unknown_lie_between_the_measured_ones() -> None:
    for field in RATES["unknown"].__struct_fields__:
        known = [getattr(RATES[name], field) for name in ("deepseek", "qwen", "qwen3_5")]
        assert min(known) <= getattr(RATES["unknown"], field) <= max(known)


@given(st.text(), st.sampled_from(sorted(RATES)))
def test_no_text_is_less_than_nothing(text: str, vocabulary: str) -> None:
    tokens = estimate_text(text.encode("utf-8", "surrogatepass"), RATES[vocabulary])
    assert 0 <= tokens <= 4 * len(text)


@pytest.mark.parametrize("piece", ["word ", "中", "x = f(y)\n", "😀", "ж"])
def test_twice_the_text_is_twice_the_tokens(piece: str) -> None:
    rates = RATES["unknown"]
    once = estimate_text((piece * 500).encode(), rates)
    assert once > 50
    assert estimate_text((piece * 1000).encode(), rates) == pytest.approx(2 * once, rel=0.01)


@given(st.randoms(use_true_random=False), st.sampled_from(sorted(RATES)))
def test_long_texts_are_sampled_fairly(random: Random, vocabulary: str) -> None:
    rates = RATES[vocabulary]
    texts = random.choices(list(TEXTS.values()), k=random.randint(20, 60))
    whole = estimate_text("\n".join(texts).encode(), rates)
    assert estimate_texts(texts, rates) == pytest.approx(whole, rel=0.07)
    assert estimate_texts(["".join(texts)], rates) == pytest.approx(whole, rel=0.07)


@pytest.mark.parametrize("n", [60, 191, 192, 193, 5000])
def test_samples_are_the_same_however_the_text_is_cut(n: int) -> None:
    text = "0 words, and (marks)\n" * 2000
    cut = [text[start : start + n] for start in range(0, len(text), n)]
    whole = estimate_texts([text], RATES["qwen"])
    assert estimate_texts(cut, RATES["qwen"]) == pytest.approx(whole, rel=0.05)


def test_short_texts_are_looked_at_whole() -> None:
    texts = [TEXTS["code-python"][:4000], TEXTS["english-essay"][:4000]]
    assert estimate_texts(texts, RATES["qwen"]) == estimate_text(
        "\n".join(texts).encode(), RATES["qwen"]
    )
    assert estimate_texts([], RATES["qwen"]) == 0


def test_it_is_fast() -> None:
    text = TEXTS["code-python"] * 600
    assert len(text) > 500_000
    best = min(timed([text]) for _ in range(20))
    assert best < 0.005  # 0.1 ms, however long the text is; all of it would take 4 ms


def timed(texts: list[str]) -> float:
    start = time.perf_counter()
    estimate_texts(texts, RATES["deepseek"])
    return time.perf_counter() - start


# -- prompts

TOOL = {"type": "function", "function": {"name": "get", "parameters": {"type": "object"}}}
MESSAGES: list[dict[str, Any]] = [
    {"role": "system", "content": "Be kind."},
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "What is it?"},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 90_000}},
        ],
    },
    {
        "role": "assistant",
        "content": None,
        "reasoning_content": "Hm.",
        "tool_calls": [{"id": "1", "function": {"name": "get", "arguments": '{"a":1}'}}],
    },
    {"role": "tool", "tool_call_id": "1", "content": "Done."},
]


def test_what_a_template_writes_is_read() -> None:
    prompt = read_prompt(
        {"messages": MESSAGES, "tools": [TOOL], "response_format": {"type": "json_object"}}
    )
    assert prompt.texts == [
        *("Be kind.", "What is it?", "Hm.", "get", '{"a":1}', "Done."),
        '{"type":"json_object"}',
    ]
    assert (prompt.messages, prompt.calls, prompt.images, prompt.tools) == (4, 1, 1, 1)
    assert json.loads(prompt.tools_json) == [TOOL]


def test_pictures_are_no_text() -> None:
    tokens = estimate_prompt(read_prompt({"messages": MESSAGES}), GENERIC)
    assert 1500 < tokens < 1600


def test_templates_and_tools_cost_what_the_family_says() -> None:
    plain, tooled = (
        read_prompt({"messages": MESSAGES[:1], **more}) for more in ({}, {"tools": [TOOL, TOOL]})
    )
    profile = DialectProfile(tokens_per_message=7, tool_preamble_tokens=1000, tool_tokens_factor=3)
    assert frame_tokens(plain, profile) == 6 + 7
    assert frame_tokens(tooled, profile) == 6 + 7 + 1000 + 2 * 4
    thrice, once = (
        estimate_prompt(tooled, DialectProfile(tool_tokens_factor=factor)) for factor in (3, 1)
    )
    only_tools = thrice - once
    assert only_tools == pytest.approx(
        2 * estimate_text(tooled.tools_json.encode(), RATES["unknown"]), abs=1
    )


def test_families_have_their_own_figures() -> None:
    v32 = find_profile("deepseek-v3.2", platform="vllm")
    coder = find_profile("qwen3-coder-480b-a35b-instruct", platform="vllm")
    assert (v32.vocabulary, v32.tool_preamble_tokens) == ("deepseek", 246)
    assert (coder.vocabulary, coder.tool_tokens_factor) == ("qwen", 1.58)
    assert find_profile("Qwen/Qwen3.5-27B", platform="vllm").vocabulary == "qwen3_5"
    for unmeasured in ("kimi-k2.5", "glm-4.7", "mimo-v2-flash", "qwen3.8-max", "what-is-this"):
        assert find_profile(unmeasured, platform="vllm").vocabulary == "unknown"


@pytest.mark.parametrize(("tokens", "ratio", "result"), [(100, 1.2, 120), (1, 0.5, 1), (3, 2, 6)])
def test_calibration_is_a_factor(tokens: int, ratio: float, result: int) -> None:
    assert calibrated(tokens, ratio) == result


def test_requests_known_only_as_json() -> None:
    assert estimate_body(b"") == 1
    assert 150 < estimate_body(b'{"messages":["' + b"word " * 160 + b'"]}') < 260
