"""What a conversation is known by, so that it is led back to where its prefix is cached."""

from hashlib import blake2b
from typing import Final

import msgspec

from dragoman.policy.senders import Sender
from dragoman.wire.anthropic import Block, MessagesRequest

_encode: Final = msgspec.json.Encoder().encode
_MAX_CHARS: Final = 65_536  # of the first message: pasted files differ before that
_DIGEST_BYTES: Final = 16


def affinity_key(request: MessagesRequest, alias: str, sender: Sender) -> bytes:
    """
    Return the key of the conversation that *request* belongs to, the same in every process.

    Args:
        request: As parsed.
        alias: Of the model.
        sender: Its session counts, and the agent in it: agents have prompts of their own. Without a
            session the beginning of the prompt counts: tools, system prompt and first message.
    """
    known_by: list[object] = [sender.session_id, sender.agent_id]
    if not sender.session_id:
        first = request.messages[0] if request.messages else None
        known_by = [alias, request.tools, request.system, _text(first.content) if first else ""]
    return blake2b(_encode(known_by), digest_size=_DIGEST_BYTES).digest()


def _text(content: str | list[Block]) -> str:
    if isinstance(content, str):
        return content[:_MAX_CHARS]
    return "\n".join(block.text[:_MAX_CHARS] for block in content if block.text)[:_MAX_CHARS]
