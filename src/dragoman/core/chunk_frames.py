"""
What stays the same from chunk to chunk of a stream, so that only what differs need be read.

Servers repeat an id, a time and the model's name around every word. In a JSON document, a string in
the place of a string changes nothing else: what begins and ends like a chunk that has been read,
with one string in the place of its text, is that chunk with another text.
"""

from collections.abc import Sequence
from operator import itemgetter
from typing import Final, Literal

import msgspec
from msgspec import Struct

from dragoman.wire.openai_chat import Chunk, Delta, ToolCall, decode_text_chunk

_decode_string: Final = msgspec.json.Decoder(str).decode
_decode_strings: Final = msgspec.json.Decoder(list[str]).decode
# Between strings that are decoded together. The line feed, which no JSON string holds as it is,
# lets no two halves become one string.
_BETWEEN: Final = b'",\n"'
# As numbers: for bytes in bytes, Python first fails to make a number of them, which costs more.
_LINE_FEED: Final = ord("\n")
_BACKSLASH: Final = ord("\\")
_QUOTE: Final = ord('"')
# Where a chunk is followed by others of its kind and then by one that is not, those are looked at
# once more, from that one on: not all the chunks of a long read for each of them.
_MAX_AT_ONCE: Final = 256
_PROBED: Final = (4, 16, 64)  # of so many, the last one tells whether to look at more

_ALL: Final = slice(None)

Kind = Literal["text", "thinking", "arguments"]


class ChunkFrame(Struct, eq=False):  # made in C
    """
    All of an event but the one text in it.

    Attributes:
        kind: What the text is.
        fragment: The fragment of a call that arguments were read from.
    """

    kind: Kind
    _head: bytes  # of a payload
    _tail: bytes
    fragment: ToolCall | None = None
    # Of a whole event; made for the first that comes alone.
    _lead: bytes = b""
    _trail: bytes = b""
    _first: slice = _ALL
    _last: slice = _ALL
    _middle: slice = _ALL

    def read_event(self, event: bytes) -> str | None:
        """Return the text of a whole event, if it is in this frame and alone."""
        if not self._lead:
            self._measure()
        # Slices are compared faster than startswith takes its arguments.
        if event[self._first] != self._lead or event[self._last] != self._trail:
            return None
        text = event[self._middle]
        if _LINE_FEED in text or (not text and len(event) < len(self._lead) + len(self._trail)):
            return None
        try:
            return _decode_string(b'"%b"' % text)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None

    def _measure(self) -> None:
        self._lead, self._trail = b"data: " + self._head, self._tail + b"\n\n"
        n_lead, n_trail = len(self._lead), -len(self._trail)
        self._first, self._last = slice(n_lead), slice(n_trail, None)
        self._middle = slice(n_lead, n_trail)

    def read_payloads(self, payloads: Sequence[bytes], start: int) -> tuple[list[str], list[bytes]]:
        """
        Read payloads as far as they are in this frame.

        Args:
            payloads: Of events.
            start: Where to begin.

        Returns:
            Their texts, and the same as they are between their quotes; not of all of very many.
        """
        head, tail = self._head, self._tail
        n_tail = -len(tail)
        end = slice(n_tail, None)
        n = _MAX_AT_ONCE
        if len(payloads) - start > _PROBED[0]:
            n = self._probe(payloads, start)
        alike = [*payloads[start : start + n]]
        while alike and alike[-1][end] != tail:  # as the last ones of a reply
            alike.pop()
        encoded = [*map(itemgetter(slice(len(head), n_tail)), alike)]
        # All of them are compared at once: what they are, and what they are if they are alike.
        if head + (tail + b"\n" + head).join(encoded) + tail != b"\n".join(alike):
            encoded = self._cut_texts(alike)
        if not encoded:
            return [], encoded
        try:
            texts = _decode_strings(b'["' + _BETWEEN.join(encoded) + b'"]')
        except (msgspec.DecodeError, UnicodeDecodeError):
            return [], encoded
        return texts if len(texts) == len(encoded) else [], encoded

    def _probe(self, payloads: Sequence[bytes], start: int) -> int:
        """Return how many payloads to look at: few where few are alike."""
        head, tail = self._head, self._tail
        n_left = len(payloads) - start
        for n in _PROBED:
            if n > n_left:
                break
            payload = payloads[start + n - 1]
            if not (payload.startswith(head) and payload.endswith(tail)):
                return n
        return _MAX_AT_ONCE

    def _cut_texts(self, payloads: Sequence[bytes]) -> list[bytes]:
        """Cut the texts out of the first of *payloads*, as far as they are in this frame."""
        head, tail = self._head, self._tail
        n_head, n_tail = len(head), len(tail)
        encoded: list[bytes] = []
        for payload in payloads:
            if payload[:n_head] != head or payload[-n_tail:] != tail:
                break
            if len(payload) < n_head + n_tail:
                break
            encoded.append(payload[n_head:-n_tail])
        return encoded


def find_text_frame(payload: bytes) -> ChunkFrame | None:
    """
    Return what other chunks may have in common with this one, if it holds text and nothing else.

    The same as ``find_frame``, for most of the chunks that there are, and with fewer steps.
    """
    try:
        text = decode_text_chunk(payload).choices[0].delta.content
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    head, key, tail = payload.partition(b'"content":"' + text.encode() + b'"')
    # Without a backslash, keys are spelt in one way only, and texts in none but their own.
    if not text or not key or _BACKSLASH in payload or payload.count(b'"content"') != 1:
        return None
    return None if _LINE_FEED in payload else ChunkFrame("text", head + b'"content":"', b'"' + tail)


def find_frame(payload: bytes, chunk: Chunk) -> ChunkFrame | None:
    """
    Return what other chunks may have in common with this one.

    Args:
        payload: A chunk as it came.
        chunk: What the strict decoder has made of it.
    """
    choices = chunk.choices
    # Without a backslash, keys are spelt in one way only.
    if not choices or len(choices) > 1 or _BACKSLASH in payload or _LINE_FEED in payload:
        return None
    choice = choices[0]
    delta = choice.delta
    if delta is None or choice.index or choice.finish_reason or choice.usage is not None:
        return None
    if chunk.usage is not None or chunk.error or chunk.object == "error":
        return None
    found = _varying(delta)
    if found is None:
        return None
    kind, key, fragment = found
    rest = payload.partition(key)[2]
    n_colon = 2 if rest[:2] == b':"' else 3
    end = rest.find(_QUOTE, n_colon)
    if end < 0 or rest.find(key) >= 0:  # which of them it is cannot be told
        return None
    if n_colon == 3 and rest[:3] != b': "':  # spelt in another way
        return None
    n_head = len(payload) - len(rest) + n_colon
    return ChunkFrame(kind, payload[:n_head], rest[end:], fragment)


def _varying(delta: Delta) -> tuple[Kind, bytes, ToolCall | None] | None:
    """Return what a delta holds, if that is one text and nothing else."""
    content = delta.content
    if delta.refusal or delta.function_call or delta.reasoning_details:
        return None
    if delta.tool_calls:
        return _varying_arguments(delta, delta.tool_calls)
    if delta.reasoning_content or delta.reasoning:
        is_one = not content and not (delta.reasoning_content and delta.reasoning)
        key = b'"reasoning_content"' if delta.reasoning_content else b'"reasoning"'
        return ("thinking", key, None) if is_one else None
    return ("text", b'"content"', None) if content and isinstance(content, str) else None


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
    return ("arguments", b'"arguments"', fragment) if is_text else None
