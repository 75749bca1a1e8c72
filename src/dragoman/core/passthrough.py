"""
Anthropic-native upstreams: same bytes out, except what must not go on as it is.

Of the request: the model's name, thinking blocks that bear our mark (another upstream's reasoning,
which a native one would refuse) or no signature at all, and ``safeguards`` unless the upstream is
trusted with paths and rules of the user's machine. Of the reply: the model's name. Everything else
is forwarded byte for byte; usage and errors are read beside it.

A request in which a key is repeated is written anew with the last of equal keys, as it was read: an
upstream that took the first one would see a request that nobody has checked.
"""

import re
from typing import Any, Final

import msgspec

from dragoman.core.adjustments import Adjustment, Adjustments
from dragoman.core.errors import GatewayError, UpstreamProtocolError, render_error_event
from dragoman.core.json_spans import Member, cut, has_repeated_keys, members
from dragoman.core.signatures import has_our_mark
from dragoman.core.sse import SseParser
from dragoman.core.upstream_errors import ReplyContext, error_of_event, is_presentable
from dragoman.core.usage import Usage, bounded_count, estimate_output
from dragoman.wire.anthropic import Block, MessagesRequest, decode_any

_encode: Final = msgspec.json.Encoder().encode
_MODEL: Final = re.compile(rb'"model"\s*:\s*"(?:[^"\\]|\\.)*"')
# The field that says so: in a comment, or in an event before it, the word means nothing.
_START: Final = re.compile(
    rb'^(?:\xef\xbb\xbf)?(?:event: ?message_start\r?$|data:[^\n]*"type"\s*:\s*"message_start")',
    re.MULTILINE,
)
_PING: Final = b'event: ping\ndata: {"type":"ping"}\n\n'
_MAX_PREAMBLE_BYTES: Final = 2**16  # comments and pings
_MAX_START_BYTES: Final = 2**19  # message_start holds no content
_BLANK: Final = (b"\n\n", b"\n\r\n")  # how an event ends
_WAITING: Final = b": waiting for the model\n\n"
_BEFORE_CONTENT: Final = ("message_start", "ping", "")


class _WireUsage(msgspec.Struct, gc=False):
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None


class _WireMessage(msgspec.Struct, gc=False):
    usage: _WireUsage | None = None
    stop_reason: str | None = None


class _WireDelta(msgspec.Struct, gc=False):
    stop_reason: str | None = None
    text: str | None = None
    thinking: str | None = None
    partial_json: str | None = None


class _WireEvent(msgspec.Struct, gc=False):
    type: str = ""
    message: _WireMessage | None = None
    delta: _WireDelta | None = None
    usage: _WireUsage | None = None
    stop_reason: str | None = None
    error: Any = None


_decode_event: Final = msgspec.json.Decoder(_WireEvent, strict=False).decode


def rewrite_request(
    body: bytes, request: MessagesRequest, *, model: str, is_trusted: bool
) -> bytes:
    """
    Return *body* as it may go to a native upstream.

    Args:
        body: The client's bytes, of which *request* was decoded.
        request: The same, decoded.
        model: The upstream's name for the model.
        is_trusted: The upstream may see ``safeguards``.
    """
    if has_repeated_keys(body):
        body = _encode(decode_any(body))
    drops_safeguards = request.safeguards is not None and not is_trusted
    marked = _marked_thinking(request)
    if request.model == model and not drops_safeguards and not marked:
        return body
    top = members(body)
    if marked:
        body = _without_thinking(body, top, marked)
        top = members(body)
    if drops_safeguards:
        body = cut(body, [(m.start, m.end) for m in top if m.name == "safeguards"])
        top = members(body)
    name = _encode(model)
    member = next(m for m in top if m.name == "model")
    return body[: member.value_start] + name + body[member.end :]


def adjust_for_native(request: MessagesRequest, *, is_trusted: bool) -> tuple[Adjustment, ...]:
    """Return what ``rewrite_request`` takes out, beside the model's name."""
    adjustments = Adjustments()
    if request.safeguards is not None and not is_trusted:
        adjustments.add("safeguards", "dropped", reason="the upstream is not marked as trusted")
    for number in _marked_thinking(request):
        reason = "thinking of another model, or unsigned, is not sent to a native upstream"
        adjustments.add(f"messages.{number}.content", "dropped", reason=reason)
    return adjustments.take()


def _is_marked(block: Block) -> bool:
    is_ours = not block.signature or has_our_mark(block.signature)
    return block.type == "thinking" and is_ours


def _marked_thinking(request: MessagesRequest) -> dict[int, set[int] | None]:
    """Return message index -> blocks to remove; None: all, and the message with them."""
    found: dict[int, set[int] | None] = {}
    for number, message in enumerate(request.messages):
        if message.role != "assistant" or isinstance(message.content, str):
            continue
        marked = {i for i, block in enumerate(message.content) if _is_marked(block)}
        if marked:
            found[number] = marked if len(marked) < len(message.content) else None
    return found


def _without_thinking(body: bytes, top: list[Member], marked: dict[int, set[int] | None]) -> bytes:
    spans: list[tuple[int, int]] = []
    listed = next(m for m in top if m.name == "messages")
    for message in members(body, listed.value_start):
        number = message.name
        if not isinstance(number, int) or number not in marked:
            continue
        blocks = marked[number]
        if blocks is None:
            spans.append((message.start, message.end))
            continue
        content = next(m for m in members(body, message.value_start) if m.name == "content")
        spans += [(m.start, m.end) for m in members(body, content.value_start) if m.name in blocks]
    return cut(body, spans)


class PassthroughTurn:
    """
    The turn for native replies, streamed or whole.

    Args:
        model: The name that the client asked for, put in the place of the upstream's.
        upstream_model: The upstream's name for it.
        is_stream: The client asked for a stream.
        request_id: Shown in an error event.
        reply: Bounds, and what is known about the request.
        max_event_bytes: Bound on one event of the stream.
        skips_start: A message_start of ours has gone out already: the upstream's is left out.
    """

    prompt_tokens_estimate = 0  # the upstream says everything about it itself

    def __init__(
        self,
        *,
        model: str,
        upstream_model: str,
        is_stream: bool,
        request_id: str,
        reply: ReplyContext,
        max_event_bytes: int = 16 * 2**20,
        skips_start: bool = False,
    ) -> None:
        self._model_member = b'"model":' + _encode(model)
        self._is_stream = is_stream
        self._request_id = request_id
        self._reply = reply
        self._sse = SseParser(max_event_bytes)
        self._taken_bytes = 0
        self._tail = bytearray()  # the beginning of an event
        self._renames = model != upstream_model
        self._skips_start = skips_start
        # Bytes up to the first content block: before its start this may be no stream at all, and
        # after it another upstream may still answer instead. Then None.
        self._head: bytes | None = b"" if is_stream else None
        self._whole = bytearray()
        self._counted = Usage()
        self._has_last_count = False
        self._is_begun = False  # more than a start has come
        self._written_chars = 0
        self.stop_reason: str | None = None
        self.has_content = self.is_done = False
        self.is_finishing = False
        self.is_cut = False

    @property
    def usage(self) -> Usage:
        """
        Tokens so far.

        The output is counted at the end of a stream; of one that breaks off before, or that its
        client leaves, it is estimated by what has come: the upstream bills that, too.
        """
        if self._has_last_count or not self._written_chars:
            return self._counted
        estimate = max(estimate_output(self._written_chars), self._counted.output_tokens)
        return msgspec.structs.replace(self._counted, output_tokens=estimate, is_estimate=True)

    def start(self) -> bytes:
        """Return a comment, which no client reads: the message's start is the upstream's."""
        return _WAITING

    def ping(self) -> bytes:
        if not self.has_content:
            return _PING if self._skips_start else _WAITING
        return _PING

    def feed(self, data: bytes) -> bytes:
        self._taken_bytes += len(data)
        limit = self._reply.max_reply_bytes
        if self._taken_bytes > limit:
            raise UpstreamProtocolError(f"The model's server sent a reply over {limit} bytes.")
        if not self._is_stream:  # JSON that was not declared as such
            self._whole += data
            return b""
        for payload in self._sse.feed(data):
            self._observe(payload)
        if self._head is not None:
            data = self._take_head(self._head + data)
        data = self._whole_events(data)
        self.has_content = self.has_content or bool(data)
        return data

    def feed_whole(self, body: bytes) -> bytes:
        _check_utf8(body)
        self._observe(body)
        if self._renames:
            name = next((m for m in reversed(members(body)) if m.name == "model"), None)
            if name is not None:
                body = body[: name.start] + self._model_member + body[name.end :]
        if self._is_stream:  # a client that waits for events cannot read this
            raise UpstreamProtocolError("The model's server sent a whole reply, not a stream.")
        self.has_content = self.is_done = True
        return body

    def close(self) -> bytes:
        if self._whole and not self.is_done:
            return self.feed_whole(bytes(self._whole))
        for payload in self._sse.close():
            self._observe(payload)
        if not self.is_done or not self.has_content:
            raise UpstreamProtocolError("The model's server ended the reply before it was done.")
        if not self._tail:
            return b""
        return (
            bytes(self._tail) + b"\n\n"
        )  # an event without an empty line is none, to most clients

    def fail(self, error: GatewayError) -> bytes:
        if self.is_done and self.has_content:
            return b""
        self.is_done = True
        return render_error_event(error, self._request_id)

    def _whole_events(self, data: bytes) -> bytes:
        """Hold back an event that has only begun: should it break off, no client may see half."""
        tail = self._tail
        if not tail and data.endswith(_BLANK):
            return data
        start = max(0, len(tail) - 2)  # an end may have begun there
        tail += data
        ends = [at + len(blank) for blank in _BLANK if (at := tail.rfind(blank, start)) >= 0]
        whole = bytes(tail[: max(ends, default=0)])
        del tail[: len(whole)]
        return whole

    def _take_head(self, head: bytes) -> bytes:
        """Put the asked name into message_start; hold the stream back until content follows."""
        # To look for the word costs a hundredth of that, and each read of a head that is held asks.
        is_said = b"message_start" in head
        start = _START.search(head) if is_said and self._is_begun else None
        if start is None:
            # A message that goes on without its start would be searched for it with each read.
            may_start = is_said and not self._is_begun
            limit = _MAX_START_BYTES if may_start else _MAX_PREAMBLE_BYTES
            if self.is_done or len(head) >= limit:
                message = "The model's server began a message in a way of its own."
                raise UpstreamProtocolError(message)
            self._head = head
            return b""
        self._head, at = None, start.start()
        if self._skips_start:
            return _without_event(head, at)
        if not self._renames:
            return head
        ends = [end for blank in _BLANK if (end := head.find(blank, at)) >= 0]
        end = min(ends, default=len(head))  # what follows is content, with names of its own
        return _MODEL.sub(lambda _: self._model_member, head[:end], count=1) + head[end:]

    def _observe(self, payload: bytes) -> None:
        try:
            event = _decode_event(payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            if self._is_stream:
                return  # not ours to judge: the bytes go on as they are
            raise UpstreamProtocolError("The model's server sent no message.") from error
        if event.type == "error":
            if not self.has_content or not is_presentable(payload, self._reply.secrets):
                raise error_of_event(event.error, self._reply)
            self.is_done = True
            return
        self._is_begun = self._is_begun or event.type not in _BEFORE_CONTENT
        if event.type == "content_block_delta" and event.delta is not None and self._is_stream:
            delta = event.delta
            self._written_chars += len(delta.text or delta.partial_json or delta.thinking or "")
            return
        part = event.message or event.delta
        self.stop_reason = event.stop_reason or (part and part.stop_reason) or self.stop_reason
        self._count(event.message.usage if event.message else None)
        if event.usage is not None:
            self._count(event.usage)
            self._has_last_count = bounded_count(event.usage.output_tokens) > 0
        if event.type == "message_stop":
            self.is_done = True
        elif not self._is_stream and event.type != "message":
            raise UpstreamProtocolError("The model's server sent no message.")

    def _count(self, wire: _WireUsage | None) -> None:
        if wire is None:
            return
        old = self._counted
        self._counted = Usage(
            input_tokens=_newer(wire.input_tokens, old.input_tokens),
            cache_read_input_tokens=_newer(
                wire.cache_read_input_tokens, old.cache_read_input_tokens
            ),
            cache_creation_input_tokens=_newer(
                wire.cache_creation_input_tokens, old.cache_creation_input_tokens
            ),
            output_tokens=_newer(wire.output_tokens, old.output_tokens),
            is_estimate=False,
        )


def _newer(new: int | None, old: int) -> int:
    return old if new is None else bounded_count(new)


def _check_utf8(body: bytes) -> None:
    """Check all of *body*: the decoder skips the strings of fields that it does not know."""
    try:
        body.isascii() or body.decode()
    except UnicodeDecodeError as error:
        raise UpstreamProtocolError("The model's server sent no message.") from error


def _without_event(stream: bytes, at: int) -> bytes:
    """Return *stream* without the event, a whole one, that position *at* is in."""
    starts = [found + len(b) for b in _BLANK if (found := stream.rfind(b, 0, at)) >= 0]
    ends = [found + len(b) for b in _BLANK if (found := stream.find(b, at)) >= 0]
    return stream[: max(starts, default=0)] + stream[min(ends) :]
