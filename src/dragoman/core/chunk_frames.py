"""
What stays the same from chunk to chunk of a stream, so that only what differs need be read.

Servers repeat an id, a time and the model's name around every word. In a JSON document, a string in
the place of a string changes nothing else: what begins and ends like a chunk that has been read,
with one string in the place of its text, is that chunk with another text.
"""

from collections.abc import Sequence
from typing import Final, Literal

import msgspec

from dragoman.wire.openai_chat import Choice, Chunk, Delta, ToolCall

_decode_string: Final = msgspec.json.Decoder(str).decode
_decode_strings: Final = msgspec.json.Decoder(list[str]).decode
# Between strings that are decoded together. The line feed, which no JSON string holds as it is,
# lets no two halves become one string.
_BETWEEN: Final = b'",\n"'
_DATA: Final = b"data: "
_END: Final = b"\n\n"

Kind = Literal["text", "thinking"]


class ChunkFrame:
    """
    All of an event but the one text in it.

    Attributes:
        kind: What the text is; arguments have a *fragment*.
        fragment: The fragment of a call that they were read from.
    """

    __slots__ = ("_lead", "_n_lead", "_n_trail", "_trail", "fragment", "kind")

    def __init__(self, kind: Kind, lead: bytes, *, trail: bytes, fragment: ToolCall | None) -> None:
        self.kind: Kind = kind
        self.fragment = fragment
        self._lead, self._n_lead = lead, len(lead)
        self._trail, self._n_trail = trail, len(trail)

    def read_event(self, event: bytes) -> str | None:
        """Return the text of a whole event, if it is in this frame and alone."""
        n_lead, n_trail = self._n_lead, self._n_trail
        # Slices are compared faster than startswith takes its arguments.
        if event[:n_lead] != self._lead or event[-n_trail:] != self._trail:
            return None
        if len(event) < n_lead + n_trail or b"\n" in (text := event[n_lead:-n_trail]):
            return None
        try:
            return _decode_string(b'"%b"' % text)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None

    def read_payloads(self, payloads: Sequence[bytes], start: int) -> tuple[list[str], list[bytes]]:
        """
        Read payloads as far as they are in this frame.

        Args:
            payloads: Of events.
            start: Where to begin.

        Returns:
            Their texts, and the same as they are between their quotes.
        """
        head, tail = self._lead[len(_DATA) :], self._trail[: -len(_END)]
        n_head, n_tail = len(head), len(tail)
        encoded: list[bytes] = []
        for payload in payloads[start:] if start else payloads:
            if payload[:n_head] != head or payload[-n_tail:] != tail:
                break
            if len(payload) < n_head + n_tail:
                break
            encoded.append(payload[n_head:-n_tail])
        if not encoded:
            return [], encoded
        try:
            texts = _decode_strings(b'["%b"]' % _BETWEEN.join(encoded))
        except (msgspec.DecodeError, UnicodeDecodeError):
            return [], encoded
        return texts if len(texts) == len(encoded) else [], encoded


def find_frame(payload: bytes, chunk: Chunk) -> ChunkFrame | None:
    """
    Return what other chunks may have in common with this one.

    Args:
        payload: A chunk as it came.
        chunk: What the strict decoder has made of it.
    """
    choices = chunk.choices
    if not choices or len(choices) > 1 or chunk.usage is not None:
        return None
    found = _varying(choices[0])
    # Without a backslash, keys are spelt in one way only.
    if found is None or b"\\" in payload or b"\n" in payload:
        return None
    kind, key, fragment = found
    parts = payload.split(key)
    if len(parts) != 2:  # spelt in another way, or which of them it is, cannot be told
        return None
    head, rest = parts
    n_colon = 3 if rest.startswith(b': "') else 2
    end = rest.find(b'"', n_colon)
    if rest[n_colon - 1 : n_colon] != b'"' or end < 0:
        return None
    lead = _DATA + head + key + rest[:n_colon]
    return ChunkFrame(kind, lead, trail=rest[end:] + _END, fragment=fragment)


def _varying(choice: Choice) -> tuple[Kind, bytes, ToolCall | None] | None:
    """Return what a choice holds, if that is one text and nothing else."""
    delta = choice.delta
    if delta is None or choice.finish_reason or choice.usage is not None:
        return None
    if delta.refusal or delta.function_call or delta.reasoning_details:
        return None
    if delta.tool_calls:
        return _varying_arguments(delta, delta.tool_calls)
    if delta.reasoning_content or delta.reasoning:
        is_one = not delta.content and not (delta.reasoning_content and delta.reasoning)
        key = b'"reasoning_content"' if delta.reasoning_content else b'"reasoning"'
        return ("thinking", key, None) if is_one else None
    return ("text", b'"content"', None) if isinstance(delta.content, str) else None


def _varying_arguments(
    delta: Delta, fragments: Sequence[ToolCall]
) -> tuple[Kind, bytes, ToolCall] | None:
    """Return the arguments of a fragment that only goes on with its call."""
    fragment = fragments[0]
    function = fragment.function
    if len(fragments) > 1 or delta.content or delta.reasoning_content or delta.reasoning:
        return None
    if fragment.id not in (None, "") or function is None or function.name:
        return None
    is_text = isinstance(function.arguments, str) and function.arguments
    return ("text", b'"arguments"', fragment) if is_text else None
