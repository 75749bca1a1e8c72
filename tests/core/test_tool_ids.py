"""Ids of tool calls: legal, unique, and leading back to the upstream's own."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.core.tool_ids import mint_id, to_upstream_id

NONCE = "abcdefghi-_"
LEGAL = re.compile(r"[a-zA-Z0-9_-]{1,64}")

MINTED = {
    "plain": ("call_0", "toolu_abcdefghi-_-rcall_0"),
    "Kimi's": ("functions.get:0", "toolu_abcdefghi-_-eZnVuY3Rpb25zLmdldDow"),
    "vLLM's": ("chatcmpl-tool-" + "0" * 32, "toolu_abcdefghi-_-v" + "0" * 32),
    "none": ("", "toolu_abcdefghi-_-n"),
    "the longest as it is": ("x" * 45, "toolu_abcdefghi-_-r" + "x" * 45),
}


@pytest.mark.parametrize(("upstream_id", "minted"), MINTED.values(), ids=MINTED)
def test_minted_ids(upstream_id: str, minted: str) -> None:
    assert mint_id(upstream_id, NONCE) == minted
    assert to_upstream_id(minted) == (upstream_id or minted)


@pytest.mark.parametrize(
    "upstream_id", ["x" * 46, "ä" * 30, "functions.a_long_name_of_a_tool.x:12"]
)
def test_what_is_too_long_to_carry_is_replaced_by_our_own(upstream_id: str) -> None:
    minted = mint_id(upstream_id, NONCE)
    assert minted == "toolu_abcdefghi-_-n"
    assert to_upstream_id(minted) == minted


@given(st.text(max_size=60))
def test_any_upstream_id_becomes_a_legal_one_and_comes_back(upstream_id: str) -> None:
    minted = mint_id(upstream_id, NONCE)
    assert LEGAL.fullmatch(minted)
    back = to_upstream_id(minted)
    assert back in (upstream_id, minted)
    if len(upstream_id.encode()) <= 33:
        assert back == (upstream_id or minted)


@given(st.text(max_size=40), st.text(max_size=40))
def test_other_nonces_make_other_ids(one: str, other: str) -> None:
    assert mint_id(one, NONCE) != mint_id(other, "0123456789a")


@given(st.one_of(st.text(max_size=70), st.from_regex(r"toolu_[a-z]{11}-[rven].{0,20}")))
def test_ids_of_others_never_break_anything(tool_id: str) -> None:
    assert isinstance(to_upstream_id(tool_id), str)


FOREIGN = [
    "toolu_01A09q90qw90lq917835lq9",  # Anthropic's
    "call_0",
    "",
    "toolu_abcdefghi-_-r",  # ours would have ended in n
    "toolu_abcdefghi-_-e_w",  # bytes that are no UTF-8
    "toolu_abcdefghi-_-x1",
    "srvtoolu_abcdefghi-_",
]


@pytest.mark.parametrize("tool_id", FOREIGN)
def test_ids_of_others_stay_as_they_are(tool_id: str) -> None:
    assert to_upstream_id(tool_id) == tool_id


def test_calls_of_server_tools_lead_nowhere() -> None:
    minted = mint_id("call_0", NONCE, prefix="srvtoolu_")
    assert minted == "srvtoolu_abcdefghi-_"
    assert to_upstream_id(minted) == minted
