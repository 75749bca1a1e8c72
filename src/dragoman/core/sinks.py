"""
Where a turn's events go: SSE bytes, or one message body.

The grammar of the stream (API reference, section 6) lives here and nowhere else: a sink numbers the
blocks itself, opens one at a time, and ends exactly once, so that no caller can break the order.
"""

from collections.abc import Sequence
from typing import Any, Final, Protocol

import msgspec

from dragoman.core.errors import GatewayError, render_error, render_error_event
from dragoman.core.tool_arguments import parse_partial
from dragoman.core.usage import ShownUsage, Usage, render_usage, shown_usage

_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder().decode


class MessageHead(msgspec.Struct, frozen=True):
    """What a message says before its first block; *model* is the name the client asked for."""

    message_id: str
    model: str
    request_id: str


class Sink(Protocol):
    """Takes the events of one message, whichever way it is delivered."""

    @property
    def is_started(self) -> bool:
        """Tell whether the message's start is written, or is not written before its end."""
        ...

    @property
    def has_content(self) -> bool:
        """Tell whether a content block has been started: no other upstream may take over."""
        ...

    @property
    def is_ended(self) -> bool:
        """Tell whether the message has ended, well or with an error."""
        ...

    def start(self, usage: Usage) -> None:
        """Begin the message; a second call does nothing."""

    def begin_text(self) -> None:
        """Open a text block."""

    def add_text(self, text: str) -> None:
        """Add to the open text block."""

    def begin_thinking(self) -> None:
        """Open a thinking block."""

    def add_thinking(self, thinking: str) -> None:
        """Add to the open thinking block."""

    def sign(self, signature: str) -> None:
        """Give the open thinking block its one signature."""

    def begin_tool(self, head: dict[str, Any]) -> None:
        """Open a tool_use block; *head* is the block without its input."""

    def add_tool_json(self, partial_json: str) -> None:
        """Add to the open tool block's input."""

    def add_pieces(self, pieces: Sequence[str], encoded: Sequence[bytes]) -> None:
        """
        Add to the open block what came as many pieces, as if it had been added piece by piece.

        Args:
            pieces: None of them empty.
            encoded: The same as JSON strings without their quotes.
        """

    def end_block(self) -> None:
        """Close the open block."""

    def add_block(self, block: dict[str, Any]) -> None:
        """Add a complete block, such as a server tool's result."""

    def end(self, stop_reason: str, stop_sequence: str | None, *, usage: Usage) -> None:
        """End the message."""

    def fail(self, error: GatewayError) -> None:
        """End with an error instead."""

    def ping(self) -> None:
        """Show the client that we are still here."""

    def take(self) -> bytes:
        """Return the bytes for the client since the last call."""
        ...


# Only what varies is encoded; the rest of each event is a template.
_PING: Final = b'event: ping\ndata: {"type":"ping"}\n\n'
_MESSAGE_START: Final = (
    b"event: message_start\n"
    b'data: {"type":"message_start","message":{"id":%b,"type":"message","role":"assistant",'
    b'"model":%b,"content":[],"stop_reason":null,"stop_sequence":null,"usage":%b}}\n\n'
)
_BLOCK_START: Final = (
    b"event: content_block_start\n"
    b'data: {"type":"content_block_start","index":%d,"content_block":%b}\n\n'
)
_BLOCK_STOP: Final = (
    b'event: content_block_stop\ndata: {"type":"content_block_stop","index":%d}\n\n'
)
_DELTA_HEAD: Final = (
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":'
)
_DELTA_TAIL: Final = b"}}\n\n"
_MESSAGE_DELTA: Final = (
    b"event: message_delta\n"
    b'data: {"type":"message_delta","delta":{"stop_reason":%b,"stop_sequence":%b},"usage":%b}\n\n'
)
_MESSAGE_STOP: Final = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
_BACKSLASH: Final = ord("\\")  # as a number it is found faster than as bytes
_TEXT_BLOCK: Final = b'{"type":"text","text":""}'
_THINKING_BLOCK: Final = b'{"type":"thinking","thinking":"","signature":""}'


class SseSink:
    """Events as server-sent events."""

    def __init__(self, head: MessageHead) -> None:
        self._head = head
        self._out: list[bytes] = []
        self._index = -1
        self._is_open = False
        self.is_started = False
        self._delta = b""  # the head of the open block's deltas
        self.has_content = False
        self.is_ended = False

    def start(self, usage: Usage) -> None:
        if not self.is_started and not self.is_ended:
            self.is_started = True
            start = (_encode(self._head.message_id), _encode(self._head.model), render_usage(usage))
            self._out.append(_MESSAGE_START % start)

    def begin_text(self) -> None:
        self._begin(_TEXT_BLOCK)
        self._delta = _DELTA_HEAD % self._index + b'{"type":"text_delta","text":'

    def add_text(self, text: str) -> None:
        self._out.append(self._delta + _encode(text) + _DELTA_TAIL)

    def begin_thinking(self) -> None:
        self._begin(_THINKING_BLOCK)
        self._delta = _DELTA_HEAD % self._index + b'{"type":"thinking_delta","thinking":'

    def add_thinking(self, thinking: str) -> None:
        self._out.append(self._delta + _encode(thinking) + _DELTA_TAIL)

    def sign(self, signature: str) -> None:
        head = _DELTA_HEAD % self._index + b'{"type":"signature_delta","signature":'
        self._out.append(head + _encode(signature) + _DELTA_TAIL)

    def begin_tool(self, head: dict[str, Any]) -> None:
        self._begin(_encode({**head, "input": {}}))
        self._delta = _DELTA_HEAD % self._index + b'{"type":"input_json_delta","partial_json":'

    def add_tool_json(self, partial_json: str) -> None:
        self._out.append(self._delta + _encode(partial_json) + _DELTA_TAIL)

    def add_pieces(self, pieces: Sequence[str], encoded: Sequence[bytes]) -> None:
        # A string without escapes has one spelling: ours would be the same.
        if _BACKSLASH in b"".join(encoded):
            encoded = [_encode(piece)[1:-1] for piece in pieces]
        between = b'"' + _DELTA_TAIL + self._delta + b'"'
        self._out.append(self._delta + b'"' + between.join(encoded) + b'"' + _DELTA_TAIL)

    def end_block(self) -> None:
        if self._is_open:
            self._is_open = False
            self._out.append(_BLOCK_STOP % self._index)

    def add_block(self, block: dict[str, Any]) -> None:
        self._begin(_encode(block))
        self.end_block()

    def end(self, stop_reason: str, stop_sequence: str | None, *, usage: Usage) -> None:
        self.end_block()
        delta = (_encode(stop_reason), _encode(stop_sequence), render_usage(usage))
        self._out.append(_MESSAGE_DELTA % delta + _MESSAGE_STOP)
        self.is_ended = True

    def fail(self, error: GatewayError) -> None:
        if not self.is_ended:
            self._out.append(render_error_event(error, self._head.request_id))
            self.is_ended = True

    def ping(self) -> None:
        if self.is_started and not self.is_ended:
            self._out.append(_PING)

    def take(self) -> bytes:
        out = self._out
        if not out:
            return b""
        data = out[0] if len(out) == 1 else b"".join(out)
        out.clear()
        return data

    def _begin(self, block: bytes) -> None:
        self.end_block()
        self._index += 1
        self._is_open = self.has_content = True
        self._out.append(_BLOCK_START % (self._index, block))


class SilentSink:
    """
    Shows the start and the end of a message and nothing in between.

    For requests with max_tokens 0, which warm a prompt cache and want no reply.
    """

    has_content = False

    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    @property
    def is_started(self) -> bool:
        return self._sink.is_started

    @property
    def is_ended(self) -> bool:
        return self._sink.is_ended

    def start(self, usage: Usage) -> None:
        self._sink.start(usage)

    def begin_text(self) -> None: ...

    def add_text(self, text: str) -> None: ...

    def begin_thinking(self) -> None: ...

    def add_thinking(self, thinking: str) -> None: ...

    def sign(self, signature: str) -> None: ...

    def begin_tool(self, head: dict[str, Any]) -> None: ...

    def add_tool_json(self, partial_json: str) -> None: ...

    def add_pieces(self, pieces: Sequence[str], encoded: Sequence[bytes]) -> None: ...

    def end_block(self) -> None: ...

    def add_block(self, block: dict[str, Any]) -> None: ...

    def end(self, stop_reason: str, stop_sequence: str | None, *, usage: Usage) -> None:
        self._sink.end(stop_reason, stop_sequence, usage=usage)

    def fail(self, error: GatewayError) -> None:
        self._sink.fail(error)

    def ping(self) -> None:
        self._sink.ping()

    def take(self) -> bytes:
        return self._sink.take()


class _ShownMessage(msgspec.Struct):
    """The JSON object, its members in the API's order."""

    id: str
    type: str
    role: str
    model: str
    content: list[dict[str, Any]]
    stop_reason: str
    stop_sequence: str | None
    usage: ShownUsage


class MessageSink(msgspec.Struct, eq=False):  # made in C
    """One message body, written when the message ends."""

    head: MessageHead
    is_started: bool = True
    has_content: bool = False
    is_ended: bool = False
    _blocks: list[dict[str, Any]] = []
    _pieces: list[str] = []
    _key: str = ""  # the field of the open block that the pieces belong to
    _body: bytes = b""

    def start(self, usage: Usage) -> None:
        """Do nothing: the message is written when it ends."""

    def begin_text(self) -> None:
        if self._key:
            self.end_block()
        self.has_content = True
        self._blocks.append({"type": "text", "text": ""})
        self._key = "text"

    def add_text(self, text: str) -> None:
        self._pieces.append(text)

    def begin_thinking(self) -> None:
        self._begin({"type": "thinking", "thinking": "", "signature": ""}, "thinking")

    def add_thinking(self, thinking: str) -> None:
        self._pieces.append(thinking)

    def sign(self, signature: str) -> None:
        self._blocks[-1]["signature"] = signature

    def begin_tool(self, head: dict[str, Any]) -> None:
        self._begin({**head, "input": {}}, "input")

    def add_tool_json(self, partial_json: str) -> None:
        self._pieces.append(partial_json)

    def add_pieces(self, pieces: Sequence[str], encoded: Sequence[bytes]) -> None:  # noqa: ARG002
        self._pieces += pieces

    def end_block(self) -> None:
        key, pieces = self._key, self._pieces
        if key:
            text = "".join(pieces)
            self._blocks[-1][key] = parse_partial(text) if key == "input" else text
            pieces.clear()
            self._key = ""

    def add_block(self, block: dict[str, Any]) -> None:
        self._begin(block, "")

    def end(self, stop_reason: str, stop_sequence: str | None, *, usage: Usage) -> None:
        if self._key:
            self.end_block()
        self.is_ended = True
        head = self.head
        message = _ShownMessage(
            head.message_id,
            "message",
            "assistant",
            head.model,
            self._blocks,
            stop_reason,
            stop_sequence,
            shown_usage(usage),
        )
        self._body = _encode(message)

    def fail(self, error: GatewayError) -> None:
        if not self.is_ended:
            self.is_ended = True
            self._body = render_error(error, self.head.request_id)

    def ping(self) -> None:
        """Do nothing: there is no way to show life inside a whole reply."""

    def take(self) -> bytes:
        body, self._body = self._body, b""
        return body

    def _begin(self, block: dict[str, Any], key: str) -> None:
        if self._key:
            self.end_block()
        self.has_content = True
        self._blocks.append(block)
        self._key = key
