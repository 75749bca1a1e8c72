"""
Upstream reply -> events: the state machine.

The turn decides what a chunk means; the blocks that come of it are put in order elsewhere.
Everything that only sometimes happens lives in its own method, so that the common delta takes the
first branch.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import msgspec

from dragoman.core.adjustments import Adjustment
from dragoman.core.block_writer import BlockWriter, WrittenCall
from dragoman.core.chunk_frames import ChunkFrame, find_frame
from dragoman.core.errors import (
    GatewayError,
    UpstreamOverloaded,
    UpstreamProtocolError,
    UpstreamUnavailable,
)
from dragoman.core.finish_reasons import PLAIN_FINISHES, STOP_REASONS
from dragoman.core.guards import Lack
from dragoman.core.holding_sink import HoldingSink
from dragoman.core.odd_chunks import Halves, read_or_refuse
from dragoman.core.plan import Plan, ServerCall
from dragoman.core.reply_text import ReplyText, reasoning_of
from dragoman.core.short_replies import read_together
from dragoman.core.sinks import MessageSink, SilentSink, Sink
from dragoman.core.sse import SseParser
from dragoman.core.turn_context import TurnContext
from dragoman.core.upstream_errors import RefusedByUpstream, error_of_event
from dragoman.core.usage import Usage, UsageMeter
from dragoman.wire.openai_chat import Choice, Chunk, Delta, Function, decode_chunk
from dragoman.wire.openai_chat import ToolCall as WireCall

# Finding what chunks have in common costs as much as decoding one: not for few, nor if all differ.
_CHUNKS_BEFORE_FRAMES: Final = 6
_MAX_UNFRAMED: Final = 24
_MANY_CHUNKS: Final = 16  # of one read: here, what they have in common is worth finding


class ChatTurn:
    """
    The turn for chat-completions replies, streamed or whole.

    Every method that takes bytes may raise a GatewayError (the upstream failed or broke its API);
    the caller decides whether another upstream takes over or ``fail`` ends the message.
    """

    def __init__(self, plan: Plan, sink: Sink, *, context: TurnContext) -> None:
        if plan.request.max_tokens == 0:
            sink = SilentSink(sink)
        self.plan = plan
        self._sink = sink
        self._context = context
        self._sse = SseParser(context.max_event_bytes)
        self._max_bytes = context.reply.max_reply_bytes
        self._taken_bytes = 0
        self._is_whole = isinstance(sink, MessageSink)
        self._meter = meter = UsageMeter(plan.input_tokens_estimate, context.usage_before)
        self._blocks = blocks = BlockWriter(plan, sink, meter, context.signer, context.nonce)
        self._text = ReplyText(plan, blocks, meter)
        # What was begun for the model may have been all there is to say.
        messages = plan.request.messages
        self._goes_on = bool(messages) and messages[-1].role == "assistant"
        self._halves: Halves = {}
        self._frame: ChunkFrame | None = None  # what chunks have in common
        self._n_unframed = 0  # chunks since one was in it
        self._finish: str | None = None
        self._reason: str | None = None  # what that means
        self._has_choices = self._has_done = False
        self._is_calling = False  # the last thing that came belongs to a tool call
        self._stop_string: str | None = None
        self.stop_reason: str | None = None
        self.is_done = False
        self.lacks: Lack = ""  # then the message has not been ended

    @property
    def usage(self) -> Usage:
        """Tokens of the whole message so far."""
        return self._meter.total

    @property
    def prompt_tokens_estimate(self) -> int:
        """What we have taken the prompt for."""
        return self.plan.input_tokens_estimate

    @property
    def server_calls(self) -> list[ServerCall]:
        """Calls of tools that the API itself would run; the message goes on after them."""
        return self._blocks.server_calls

    @property
    def written_text(self) -> str:
        """The text so far, where the message may go on with another reply."""
        return "".join(self._blocks.written_text)

    @property
    def taken_thinking(self) -> str:
        """The thinking so far, shown or not, where the upstream may want it back."""
        return "".join(self._blocks.taken_thinking)

    @property
    def written_calls(self) -> list[WrittenCall]:
        """The client's tool calls that are complete."""
        return self._blocks.written_calls

    @property
    def has_repairs(self) -> bool:
        """Tell whether anything had to be put right in the reply so far."""
        return self._blocks.repair_log is not None

    @property
    def repairs(self) -> tuple[Adjustment, ...]:
        """What had to be put right in the reply so far."""
        return self._blocks.repairs.adjustments if self.has_repairs else ()

    @property
    def learnt(self) -> Mapping[str, Any]:
        """Facts of the model's profile that the reply has shown to be others."""
        return self._text.learnt

    @property
    def teaches(self) -> bool:
        """Tell whether later requests may need something of the reply: calls, or facts."""
        return bool(self._blocks.written_calls or self._text.learnt)

    @property
    def repair_counts(self) -> Mapping[str, int]:
        """How often each kind of repair was made."""
        return self._blocks.repairs.counts if self.has_repairs else {}

    @property
    def is_finishing(self) -> bool:
        """Tell whether the finish reason has come, so that only counts are missing."""
        return self._finish is not None

    @property
    def is_cut(self) -> bool:
        """Tell whether a stop string of ours ended the message before the upstream did."""
        return self._text.matched_stop is not None

    @property
    def has_content(self) -> bool:
        """Tell whether a content block has been started."""
        return self._sink.has_content

    @property
    def has_written(self) -> bool:
        """Tell whether this turn itself has begun a block; an earlier one may have, too."""
        return self._blocks.has_written

    def start(self) -> bytes:
        self._sink.start(self.usage)
        return self._sink.take()

    def ping(self) -> bytes:
        self._sink.ping()
        return self._sink.take()

    def feed(self, data: bytes) -> bytes:
        if self.is_done:
            return b""
        self._taken_bytes += len(data)
        if self._taken_bytes > self._max_bytes:
            self._refuse_length()
        frame = self._frame
        text = frame.read_event(data) if frame is not None and self._sse.is_idle else None
        if text is None or len(data) > self._context.max_event_bytes:
            self._take_payloads(self._sse.feed(data))
        elif frame is not None and text:  # the common read: one more word
            self._take_text(frame, text)
        return self._sink.take()

    def feed_whole(self, body: bytes) -> bytes:
        if len(body) > self._max_bytes:
            self._refuse_length()
        self._take_payload(body)
        if not self.is_done:
            self._take_done()
        return self._sink.take()

    def close(self) -> bytes:
        if self.is_done:
            return b""
        with suppress(UpstreamProtocolError):  # an event that was cut off adds nothing
            for payload in self._sse.close():
                self._take_payload(payload)
        if not self.is_done:
            if self._finish is None and not self._has_done:
                raise UpstreamProtocolError(
                    "The model's server ended the reply before it was done."
                )
            self._end()
        return self._sink.take()

    def end_as_it_is(self) -> bytes:
        """End a message that lacks something all the same; return what has been held back."""
        self.lacks = ""
        self._end_message(self._stop_reason())
        return self._sink.take()

    def fail(self, error: GatewayError) -> bytes:
        self.is_done = True
        self._sink.fail(error)
        return self._sink.take()

    # -- payloads

    def _refuse_length(self) -> None:
        limit = self._max_bytes
        raise UpstreamProtocolError(f"The model's server sent a reply over {limit} bytes.")

    def _take_payloads(self, payloads: Sequence[bytes]) -> None:
        """Take the payloads of a read: those that are like one before, together."""
        at, n_payloads = 0, len(payloads)
        if self._frame is not None:
            at = self._take_alike(self._frame, payloads, at)
        elif self._is_whole and 1 < n_payloads < _MANY_CHUNKS and self._take_together(payloads):
            return
        elif n_payloads >= _CHUNKS_BEFORE_FRAMES > self._n_unframed:
            self._n_unframed = _CHUNKS_BEFORE_FRAMES
        while at < n_payloads and not self.is_done:
            frame = self._frame
            self._take_payload(payloads[at])
            at += 1
            found = self._frame
            if found is not frame and found is not None and at < n_payloads and not self.is_done:
                at = self._take_alike(found, payloads, at)

    def _take_together(self, payloads: Sequence[bytes]) -> bool:
        """Take a few payloads of a reply that is wanted whole; tell whether that was possible."""
        parts = read_together(payloads) if self._text.takes_joined else None
        for part in parts or ():
            if self.is_done:
                break
            if part is None:
                self._take_done()
            elif isinstance(part, Chunk):
                self._take_chunk(part, b"")
            else:
                self._has_choices = True
                self._is_calling = self._is_calling and not part
                if part and self._text.take(part):
                    self._end()
        return parts is not None

    def _take_alike(self, frame: ChunkFrame, payloads: Sequence[bytes], at: int) -> int:
        """Take payloads from *at* on as far as they are in *frame*; return where others begin."""
        texts, encoded = frame.read_payloads(payloads, at)
        self._take_texts(frame, texts, encoded=encoded)
        return at + len(texts)

    def _find_frame(self, payload: bytes, chunk: Chunk) -> None:
        """Remember what the next chunks may have in common with this one."""
        self._n_unframed += 1
        if self._n_unframed <= _MAX_UNFRAMED:
            self._frame = find_frame(payload, chunk) or self._frame

    def _take_text(self, frame: ChunkFrame, text: str) -> None:
        """Take the text of one chunk in *frame*."""
        self._n_unframed = _CHUNKS_BEFORE_FRAMES
        if frame.fragment is not None:
            self._take_arguments(frame.fragment, text)
            return
        self._is_calling = False
        if self._text.take(text) if frame.kind == "text" else self._text.take_reasoning(text):
            self._end()

    def _take_texts(self, frame: ChunkFrame, texts: list[str], *, encoded: list[bytes]) -> None:
        """Take the texts of many chunks in *frame*."""
        if "" in texts:
            texts, encoded = [*filter(None, texts)], [*filter(None, encoded)]
        if not texts:
            return
        self._n_unframed = _CHUNKS_BEFORE_FRAMES
        fragment = frame.fragment
        if fragment is None:
            self._is_calling = False
            if self._text.take_pieces(frame.kind, texts, encoded=encoded):
                self._end()
        elif self._is_calling:
            self._blocks.add_arguments(fragment, texts, encoded=encoded)
        else:
            for text in texts:
                self._take_arguments(fragment, text)

    def _take_arguments(self, fragment: WireCall, text: str) -> None:
        """Take a fragment again, with other arguments."""
        fragment.function = Function(arguments=text)
        if self._is_calling:
            self._blocks.add_call(fragment)
        else:
            self._take_tool(fragment)

    def _take_payload(self, payload: bytes) -> None:
        if payload == b"[DONE]":
            self._take_done()
            return
        try:
            chunk = decode_chunk(payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            if (odd := self._read_odd(payload)) is None:
                return
            chunk, payload = odd, b""  # it tells nothing of others
        self._take_chunk(chunk, payload)

    def _take_chunk(self, chunk: Chunk, payload: bytes) -> None:
        """Take a chunk; *payload* is what it was read from, if that may tell of others."""
        if chunk.error or chunk.object == "error":
            self._take_error(chunk)
            return
        if chunk.usage is not None:
            self._meter.take(chunk.usage)
        choices = chunk.choices
        if choices:
            choice = choices[0]
            if choice.index:  # a second answer, which nobody asked for; the first may be behind it
                first = next((c for c in choices if not c.index), None)
                if first is None:
                    return
                choice = first
            self._has_choices = True
            self._take_choice(choice)
            if self._n_unframed < _CHUNKS_BEFORE_FRAMES:
                self._n_unframed += 1
            elif not choice.finish_reason:
                self._find_frame(payload, chunk)

    def _read_odd(self, payload: bytes) -> Chunk | None:
        """Read what the decoder refused; None if nothing more is to be done about it."""
        stripped = payload.strip()
        if stripped == b"[DONE]":
            self._take_done()
        if stripped in (b"", b"[DONE]"):  # without data it is a sign of life
            return None
        return read_or_refuse(payload, self._halves)

    def _take_done(self) -> None:
        self._has_done = True
        if not self._has_choices:
            raise UpstreamProtocolError("The model's server sent a reply without any choice.")
        self._end()

    def _take_error(self, chunk: Chunk) -> None:
        said = chunk.error
        if not said or isinstance(said, bool):
            said = {"message": chunk.message, "code": chunk.code, "type": chunk.type}
        context = self._context.reply.of_prompt(self.prompt_tokens_estimate)
        error = error_of_event(said, context)
        if not isinstance(error, RefusedByUpstream):
            raise error
        self._finish, self._reason = "content_filter", self._reason_of("content_filter")
        self._end()

    def _take_choice(self, choice: Choice) -> None:
        if choice.usage is not None:
            self._meter.take(choice.usage)
        delta = choice.delta
        if delta is None and choice.message is not None:
            delta = choice.message
            # Each call is complete here; without indexes two with no ids would look like one.
            for index, tool_call in enumerate(delta.tool_calls or ()):
                tool_call.index = index
        if delta is not None:
            content = delta.content
            # The common delta holds content alone, or nothing.
            if (content is None or isinstance(content, str)) and not (
                delta.tool_calls
                or delta.reasoning_content
                or delta.reasoning
                or delta.reasoning_details
                or delta.refusal
                or delta.function_call
            ):
                if content:
                    self._is_calling = False
                    if self._text.take(content):
                        self._end()
            elif self._is_calling and delta.tool_calls and not content:
                self._go_on_calling(delta, delta.tool_calls)
            else:
                self._take_delta(delta)
        if choice.finish_reason and choice.finish_reason != "null" and not self.is_done:
            self._take_finish(choice)

    def _go_on_calling(self, delta: Delta, fragments: Sequence[WireCall]) -> None:
        """Take what nearly always follows a piece of a call: more of it, and nothing else."""
        if (
            delta.reasoning_content
            or delta.reasoning
            or delta.reasoning_details
            or delta.refusal
            or delta.function_call
        ):
            self._take_delta(delta)
            return
        for fragment in fragments:
            self._blocks.add_call(fragment)

    def _take_delta(self, delta: Delta) -> None:
        self._is_calling = False
        if (reasoning := reasoning_of(delta)) and self._text.take_reasoning(reasoning):
            self._end()
        content = delta.content
        if isinstance(content, list):
            content = "".join(part.text or "" for part in content)
        said = (content or "") + (delta.refusal or "")
        if said and not self.is_done and self._text.take(said):
            self._end()
        for fragment in delta.tool_calls or ():
            self._take_tool(fragment)
        if delta.function_call is not None:
            self._take_tool(WireCall(index=0, function=delta.function_call))

    def _take_finish(self, choice: Choice) -> None:
        finish = choice.finish_reason or ""
        if finish == "insufficient_system_resource":
            raise UpstreamOverloaded("The model's server ran out of resources. Try again.")
        if finish in ("aborted", "abort", "network_error", "error"):
            raise UpstreamUnavailable(f"The model's server broke off the reply ({finish}).")
        reason = self._reason_of(finish)
        if reason is None:
            said = f"The model's server ended with an unknown finish_reason: {finish[:40]!r}."
            raise UpstreamProtocolError(said)
        self._finish, self._reason = finish, reason
        matched = choice.stop_reason if choice.stop_reason is not None else choice.matched_stop
        # vLLM and SGLang also put token ids here, which mean nothing to the client.
        if isinstance(matched, str) and matched in self.plan.request.stop_sequences:
            self._stop_string = matched

    # -- what the delta holds

    def _take_tool(self, fragment: WireCall) -> None:
        if self.is_done or self._text.break_off():
            self._end()
        else:
            self._blocks.add_call(fragment)
            self._is_calling = True

    # -- the end

    def _end(self) -> None:
        if self.is_done:
            return
        # The model was stopped, so that what is missing may be more than an end.
        is_cut = self._reason not in ("end_turn", "tool_use") or self._stop_string is not None
        self._text.close(is_cut=is_cut)
        if (matched := self._text.matched_stop) is not None:
            self._stop_string, is_cut = matched, True
            self._finish = self._finish or "stop"
        self._blocks.end(is_cut=is_cut or self._text.is_forced_cut)
        self.is_done = True
        if self._blocks.server_calls and not self._blocks.has_client_calls:
            return  # the message goes on with another upstream reply
        stop_reason = self._stop_reason()
        if stop_reason == "end_turn" and not self._blocks.has_calls and not self._goes_on:
            self.lacks = self._find_lack()
        if not self.lacks:
            self._end_message(stop_reason)

    def _find_lack(self) -> Lack:
        """Return what a reply without calls should have held, if it can still be asked for."""
        if isinstance(self._sink, HoldingSink) and self._sink.is_holding:
            return "call"
        if self.plan.forced_by_choice and self._context.continues_without_call:
            return "call"
        when = self._context.continues_empty
        if when == "never" or (when == "unsent" and self.has_content):
            return ""
        if self._has_lost_call() and "messages" in self.plan.body:  # a stream lets go of them
            return "announced call"
        return "" if self._blocks.has_text or self._blocks.server_calls else "answer"

    def _has_lost_call(self) -> bool:
        """Tell whether the server has announced a call and not sent any."""
        is_announced = self._finish in ("tool_calls", "function_call")
        return is_announced and not self._blocks.has_calls and bool(self.plan.tool_names)

    def _end_message(self, stop_reason: str) -> None:
        self.stop_reason = stop_reason
        if self._finish not in PLAIN_FINISHES:
            self._blocks.repairs.add_finish(self._finish or "", stop_reason)
        elif self._has_lost_call():
            self._blocks.repairs.add_lost_call()
        usage = self._meter.total
        self._sink.start(usage)
        matched = self._stop_string if stop_reason == "stop_sequence" else None
        self._sink.end(stop_reason, matched, usage=usage)

    def _reason_of(self, finish: str) -> str | None:
        """Return what a finish reason means; None: it is unknown."""
        return self.plan.deployment.profile.finish_reasons.get(finish) or STOP_REASONS.get(finish)

    def _stop_reason(self) -> str:
        finish = self._finish or "stop"
        reason = self._reason or self._reason_of("stop") or "end_turn"
        if self.plan.request.max_tokens == 0:
            return "max_tokens"
        if finish == "length" and self.plan.fills_window:
            return "model_context_window_exceeded"
        is_cut, has_calls = self._blocks.has_cut_call, self._blocks.has_client_calls
        if reason in ("end_turn", "tool_use"):
            if self._stop_string is not None and (is_cut or not has_calls):
                return "stop_sequence"
            if is_cut:
                return "max_tokens"  # what the API says of a call that is not whole
            return "tool_use" if has_calls else "end_turn"
        return reason
