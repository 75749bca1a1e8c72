"""
The short way from messages to chat messages, for conversations of nothing but texts.

Two passes, as in ``history``, are for calls and their results; where there are none, one is enough.
"""

from collections.abc import Sequence
from typing import Any

from dragoman.core.dialects.profile import DialectProfile
from dragoman.wire.anthropic import Message


def write_plainly(
    messages: Sequence[Message], profile: DialectProfile
) -> list[dict[str, Any]] | None:
    """
    Return what the two passes would write of nothing but texts that take turns, the user's last.

    None where anything else is to be considered.
    """
    written: list[dict[str, Any]] = []
    before = ""
    for message in messages:
        content, role = message.content, message.role
        if role in (before, "system") or message.output_config is not None:
            return None
        if not isinstance(content, str):
            for block in content:
                if block.type != "text" or block.citations or not block.text:
                    return None
            joint = "\n\n" if role == "user" else ""
            content = joint.join([block.text or "" for block in content])
        if not content:
            return None
        written.append({"role": role, "content": content})
        before = role
    # Thinking may have to go back with an answer, whether there was any or not.
    if before != "user" or (len(written) > 1 and profile.echo_reasoning != "never"):
        return None
    return written
