"""What a client says of itself: its program, its session. Nothing of it is proven."""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Final

import msgspec
from msgspec import Struct, structs

_MAX_CHARS: Final = 200  # of what a client has made up
_SESSION: Final = b"x-claude-code-session-id"
_AGENT: Final = b"x-claude-code-agent-id"
# A name, which may have a part of its own (Anthropic/Python, ai-sdk/anthropic), and a version.
_PROGRAM: Final = re.compile(r"([^\s/(]+(?:/[A-Za-z][^\s/(]*)?)(?:[/ ]v?(\d[^\s,;()]*))?")
# Claude Code until early 2026 wrote user_HASH_account_UUID_session_UUID, and JSON since.
_SESSION_IN_TEXT: Final = re.compile(r"_session_([0-9a-fA-F-]{36})\Z")


class Sender(Struct, frozen=True, gc=False):
    """
    Who sends a request, by the client's own words. Empty: it does not say.

    Attributes:
        session_id: Of a conversation, with all its agents.
        agent_id: Of a subagent in it.
        client: Name of the program, as ``claude-cli``.
        client_version: As ``2.1.330``.
    """

    session_id: str = ""
    agent_id: str = ""
    client: str = ""
    client_version: str = ""


class _UserId(Struct):
    session_id: str = ""


UNKNOWN: Final = Sender()
_decode_user_id: Final = msgspec.json.Decoder(_UserId).decode


def read_sender(headers: Mapping[bytes, bytes]) -> Sender:
    """Return what the headers of a request say; names of *headers* are in lower case."""
    # No more of it than is looked at: it is kept for the next request.
    client, version = _program_of(headers.get(b"user-agent", b"")[:_MAX_CHARS])
    return Sender(
        _text(headers.get(_SESSION, b"")), _text(headers.get(_AGENT, b"")), client, version
    )


@lru_cache(maxsize=256)  # few programs send nearly all requests
def _program_of(user_agent: bytes) -> tuple[str, str]:
    program = _PROGRAM.match(_text(user_agent))
    return (program[1] or "", program[2] or "") if program else ("", "")


def with_user_id(sender: Sender, user_id: str | None) -> Sender:
    """Return *sender* with the session of ``metadata.user_id``, where the headers named none."""
    if sender.session_id or not user_id:
        return sender
    return structs.replace(sender, session_id=session_of_user_id(user_id))


def session_of_user_id(user_id: str) -> str:
    """Return the session that ``metadata.user_id`` names, as Claude Code writes it; or nothing."""
    if user_id.startswith("{"):
        try:
            return storable(_decode_user_id(user_id).session_id)
        except (msgspec.DecodeError, UnicodeEncodeError):
            return ""
    found = _SESSION_IN_TEXT.search(user_id)
    return found[1] if found else ""


def storable(text: str, max_chars: int = _MAX_CHARS) -> str:
    """
    Return *text* as any database, log and terminal takes it: short, no control characters.

    What is not printable becomes ``?``, and so does half a surrogate pair.
    """
    if text.isprintable() and len(text) <= max_chars:  # nearly always
        return text
    return "".join(c if c.isprintable() else "?" for c in text[:max_chars])


def _text(value: bytes) -> str:
    return storable(value.decode("latin-1")) if value else ""
