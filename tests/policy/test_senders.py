"""Who sends a request: headers and user ids as real clients write them, and as nobody should."""

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.policy.senders import Sender, read_sender, session_of_user_id, storable, with_user_id

SESSION = "00000000-1111-4222-8333-444444444444"
JSON_ID = f'{{"device_id":"0123abcd","account_uuid":"","session_id":"{SESSION}"}}'
PROGRAMS = {
    b"claude-cli/2.1.330 (external, sdk-cli)": ("claude-cli", "2.1.330"),
    b"claude-code/2.1.330": ("claude-code", "2.1.330"),
    b"Anthropic/Python 2.14.0": ("Anthropic/Python", "2.14.0"),
    b"Anthropic/JS 1.12.0": ("Anthropic/JS", "1.12.0"),
    b"AsyncAnthropic/Python 2.14.0-beta.1": ("AsyncAnthropic/Python", "2.14.0-beta.1"),
    b"ai-sdk/anthropic/3.0.138 runtime/node.js/26": ("ai-sdk/anthropic", "3.0.138"),
    b"Bun/1.4.4": ("Bun", "1.4.4"),
    b"python-httpx/0.28.1": ("python-httpx", "0.28.1"),
    b"curl": ("curl", ""),
    b"Mozilla/5.0 (X11; Linux)": ("Mozilla", "5.0"),
    b"my tool v3": ("my", ""),
    b"(nothing)": ("", ""),
    b"": ("", ""),
    b"a\x00b/1": ("a?b", "1"),
    b"x" * 500: ("x" * 200, ""),
}
USER_IDS = {
    "json": (JSON_ID, SESSION),
    "older": (f"user_0123abcd_account_{SESSION.replace('4', '5')}_session_{SESSION}", SESSION),
    "no session": ('{"device_id":"0123"}', ""),
    "another type": ('{"session_id":5}', ""),
    "broken": ('{"session_id":"a', ""),
    "half a pair": (r'{"session_id":"a\ud800b"}', ""),
    "somebody's own": ("customer-17", ""),
    "empty": ("", ""),
}


@pytest.mark.parametrize(("user_agent", "program"), PROGRAMS.items(), ids=map(str, PROGRAMS))
def test_the_program(user_agent: bytes, program: tuple[str, str]) -> None:
    sender = read_sender({b"user-agent": user_agent})
    assert (sender.client, sender.client_version) == program


def test_a_subagent_of_claude_code() -> None:
    headers = {
        b"user-agent": b"claude-cli/2.1.330 (external, cli)",
        b"x-claude-code-session-id": SESSION.encode(),
        b"x-claude-code-agent-id": b"aa6486cc53373b706",
    }
    assert read_sender(headers) == Sender(SESSION, "aa6486cc53373b706", "claude-cli", "2.1.330")


def test_who_says_nothing() -> None:
    assert read_sender({}) == Sender()


@pytest.mark.parametrize(("user_id", "session"), USER_IDS.values(), ids=USER_IDS)
def test_the_session_of_a_user_id(user_id: str, session: str) -> None:
    assert session_of_user_id(user_id) == session
    assert with_user_id(Sender(client="c"), user_id) == Sender(session, "", "c", "")


def test_a_header_counts_for_more() -> None:
    sender = Sender("from the header")
    assert with_user_id(sender, JSON_ID) is sender
    assert with_user_id(Sender(), None) == Sender()


@given(st.text(max_size=300))
def test_whatever_is_said_can_be_stored(text: str) -> None:
    stored = storable(text)
    assert stored.isprintable()
    assert stored.encode("utf-8").decode() == stored
    assert len(stored) == min(len(text), 200)
    assert storable(stored) == stored


@given(st.dictionaries(st.sampled_from([b"user-agent", b"x-claude-code-session-id"]), st.binary()))
def test_any_headers(headers: dict[bytes, bytes]) -> None:
    sender = read_sender(headers)
    assert all(storable(text) == text for text in (sender.session_id, sender.client))


def test_what_is_kept_of_programs_is_short() -> None:
    tracemalloc.start()
    try:
        for number in range(256):
            named = read_sender({b"user-agent": b"program-%d/1 %b" % (number, b"x" * 50_000)})
            assert named.client == f"program-{number}"
        kept_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept_bytes < 1_000_000
