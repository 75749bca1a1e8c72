"""
A few chunks of a reply that is wanted whole: decoded at once, their words put together.

Nobody sees the pieces of such a reply, so that its text may be taken as one. In a stream each chunk
stays an event of its own.
"""

from collections.abc import Sequence

import msgspec

from dragoman.wire.openai_chat import Chunk, decode_chunks


def read_together(payloads: Sequence[bytes]) -> list[str | Chunk | None] | None:
    """
    Return what chunks hold: texts where there is nothing else, and the chunks that hold more.

    The mark that ends a stream is a None at the end.

    Args:
        payloads: Of events, in their order.

    Returns:
        None: at least one of them is no chunk, and has to be looked at by itself.
    """
    try:
        has_done = payloads[-1] == b"[DONE]"
        payloads = payloads[:-1] if has_done else payloads
        chunks = decode_chunks(b"\n".join(payloads))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if len(chunks) != len(payloads) or not all(payloads):
        return None
    parts: list[str | Chunk | None] = []
    text: str | None = None
    for chunk in chunks:
        choices = chunk.choices
        if (
            choices
            and len(choices) == 1
            and (delta := (choice := choices[0]).delta) is not None
            and isinstance(said := delta.content or "", str)
            and not (
                delta.tool_calls
                or delta.reasoning_content
                or delta.reasoning
                or delta.reasoning_details
                or delta.refusal
                or delta.function_call
                or choice.finish_reason
                or choice.index
                or chunk.error
            )
            and choice.usage is None
            and chunk.usage is None
            and chunk.object != "error"
        ):
            text = said if text is None else text + said
            continue
        if text is not None:
            parts.append(text)
            text = None
        parts.append(chunk)
    if text is not None:
        parts.append(text)
    if has_done:
        parts.append(None)
    return parts
