"""Nobody but the owner gets reasoning back, for nothing but the call it led to."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.server.vault import Vault, VaultLimits

CALL = ("toolu_0123456789a-rcall_0", "get", {"city": "Bern", "n": 1})
ASKED = {"owner": "dev", "model": "kimi", "call": CALL}


def keep(vault: Vault, reasoning: str = "hm", *, now_s: float = 0, **changed: object) -> None:
    asked = {**ASKED, **changed}
    vault.keep(
        reasoning,
        owner=asked["owner"],
        model=asked["model"],
        calls=[asked["call"]],
        now_s=now_s,
    )


def recall(vault: Vault, *, now_s: float = 0, **changed: object) -> str | None:
    return vault.recall(**{**ASKED, **changed}, now_s=now_s)


def test_what_was_kept_comes_back_byte_for_byte() -> None:
    vault = Vault()
    keep(vault, "Hm.\n 思考 \ud83d \0")
    assert recall(vault) == "Hm.\n 思考 \ud83d \0"


OTHERS = {
    "another key": {"owner": "other"},
    "another model": {"model": "glm"},
    "another conversation's id for the same upstream id": {
        "call": ("toolu_zzzzzzzzzzz-rcall_0", *CALL[1:])
    },
    "another tool": {"call": (CALL[0], "put", CALL[2])},
    "another input": {"call": (CALL[0], "get", {"city": "Basel", "n": 1})},
    "names that only look joined": {"owner": "dev\0kimi", "model": ""},
}


@pytest.mark.parametrize("changed", OTHERS.values(), ids=OTHERS)
def test_nobody_else_gets_it(changed: dict[str, object]) -> None:
    vault = Vault()
    keep(vault)
    assert recall(vault, **changed) is None


SAME = {
    "other order": {"n": 1, "city": "Bern"},
    "a whole float": {"city": "Bern", "n": 1.0},
}


@pytest.mark.parametrize("arguments", SAME.values(), ids=SAME)
def test_the_same_call_may_be_written_in_other_ways(arguments: object) -> None:
    vault = Vault()
    keep(vault)
    assert recall(vault, call=(*CALL[:2], arguments)) == "hm"


def test_it_is_forgotten_in_time() -> None:
    vault = Vault(VaultLimits(ttl_s=10))
    keep(vault)
    assert recall(vault, now_s=10) == "hm"
    assert recall(vault, now_s=10.5) is None
    assert (vault.n_entries, vault.n_bytes) == (0, 0)


def test_the_oldest_goes_first() -> None:
    vault = Vault(VaultLimits(max_entries=2))
    for n in range(3):
        keep(vault, f"thought {n}", call=(f"id_{n}", "get", {}))
    known = [recall(vault, call=(f"id_{n}", "get", {})) for n in range(3)]
    assert known == [None, "thought 1", "thought 2"]


@given(st.lists(st.tuples(st.integers(0, 5), st.text(max_size=3000)), max_size=40))
def test_it_never_holds_more_than_it_may(thoughts: list[tuple[int, str]]) -> None:
    vault = Vault(VaultLimits(max_bytes=3000, max_entry_bytes=2500))
    for number, thought in thoughts:
        keep(vault, thought, call=(f"id_{number}", "get", {}))
        assert vault.n_bytes <= 3000
    keep(vault, "x", now_s=1e9)  # long after all others
    assert vault.n_entries == 1


def test_reasoning_without_end_is_not_kept() -> None:
    vault = Vault(VaultLimits(max_entry_bytes=10))
    keep(vault, "x" * 11)
    keep(vault, "")
    assert vault.n_entries == 0
