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
from dragoman.core.block_writer import BlockWriter, Kind, WrittenCall
from dragoman.core.chunk_frames import ChunkFrame, find_frame, find_text_frame
from dragoman.core.errors import GatewayError, UpstreamProtocolError
from dragoman.core.finish_reasons import (
    BROKEN_OFF,
    PLAIN_FINISHES,
    STOP_REASONS,
    error_of_finish,
    reason_of,
    stop_reason_of,
)
from dragoman.core.guards import Lack
from dragoman.core.lacks import find_lack, has_lost_call
from dragoman.core.odd_chunks import Halves, read_or_refuse
from dragoman.core.plan import Plan, ServerCall
from dragoman.core.reply_text import ReplyText, reasoning_of
from dragoman.core.sinks import MessageSink, SilentSink, Sink
from dragoman.core.sse import SseParser
from dragoman.core.turn_context import TurnContext
from dragoman.core.upstream_errors import RefusedByUpstream, error_of_event
from dragoman.core.usage import Usage, UsageMeter
from dragoman.wire.openai_chat import Choice, Chunk, Delta, Function, decode_chunk
from dragoman.wire.openai_chat import ToolCall as WireCall

# Finding what chunks have in common costs as much as decoding two: only where the third one behind
# ends alike, or, if they come alone, after some of them; and no more if all differ.
_END: Final = slice(-9, None)  # enough to tell the chunk that gives the finish reason
_CHUNKS_BEFORE_FRAMES: Final = 6
_MAX_UNFRAMED: Final = 24


class ChatTurn:
    """
    The turn for chat-completions replies, streamed or whole.

    Every method that takes bytes may raise a GatewayError (the upstream failed or broke its API);
    the caller decides whether another upstream takes over or ``fail`` ends the message.
    """

    def __init__(self, plan: Plan, sink: Sink, *, context: TurnContext) -> None:
        request = plan.request
        if request.max_tokens == 0:
            sink = SilentSink(sink)
        self.plan = plan
        self._sink = sink
        self._context = context
        self._sse = SseParser(context.max_event_bytes)
        self._left_bytes = context.reply.max_reply_bytes
        self._meter = meter = UsageMeter(plan.input_tokens_estimate, context.usage_before)
        self._blocks = blocks = BlockWriter(plan, sink, meter, context.signer, context.nonce)
        self._text = ReplyText(plan, blocks, meter)
        # What was begun for the model may have been all there is to say.
        self._goes_on = said[-1].role == "assistant" if (said := request.messages) else False
        self._halves: Halves | None = None
        self._frame: ChunkFrame | None = None  # what chunks have in common
        self._n_unframed = 0  # chunks since one was in it
        self._finish: str | None = None
        self._reason: str | None = None  # what that means
        self._has_choices = False
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
        left = self._left_bytes = self._left_bytes - len(data)
        if left < 0:
            self._refuse_length()
        frame = self._frame
        if frame is not None and self._sse.is_idle:
            text = frame.read_event(data)
            if text is not None and len(data) <= self._context.max_event_bytes:
                if text:  # the common read: one more word
                    self._take_text(frame, text)
                return self._sink.take()
        self._take_payloads(self._sse.feed(data))
        return self._sink.take()

    def feed_whole(self, body: bytes) -> bytes:
        if len(body) > self._left_bytes:
            self._refuse_length()
        self._take_payloads((body,))
        if not self.is_done:
            self._take_done()
        return self._sink.take()

    def close(self) -> bytes:
        if self.is_done:
            return b""
        with suppress(UpstreamProtocolError):  # an event that was cut off adds nothing
            self._take_payloads(self._sse.close())
        if not self.is_done:
            if self._finish is None:
                raise UpstreamProtocolError(
                    "The model's server ended the reply before it was done."
                )
            self._end()
        return self._sink.take()

    def end_as_it_is(self) -> bytes:
        """End a message that lacks something all the same; return what has been held back."""
        self.lacks = ""
        self._end_message(
            stop_reason_of(
                self.plan,
                self._blocks,
                finish=self._finish,
                reason=self._reason,
                stop=self._stop_string,
            )
        )
        return self._sink.take()

    def fail(self, error: GatewayError) -> bytes:
        self.is_done = True
        self._sink.fail(error)
        return self._sink.take()

    # -- payloads

    def _refuse_length(self) -> None:
        limit = self._context.reply.max_reply_bytes
        raise UpstreamProtocolError(f"The model's server sent a reply over {limit} bytes.")

    def _take_payloads(self, payloads: Sequence[bytes]) -> None:
        """Take the payloads of a read: those that are alike, together."""
        at, last = 0, len(payloads) - 1
        if self._frame is not None and payloads:
            at = self._take_alike(self._frame, payloads, at)
        while at <= last and not self.is_done:
            payload = payloads[at]
            is_one_of_many = False
            if at + 3 <= last:
                is_one_of_many = payloads[at + 3][_END] == payload[_END]
                if is_one_of_many and self._n_unframed <= _MAX_UNFRAMED:
                    frame = find_text_frame(payload)
                    if frame is not None and (end := self._take_alike(frame, payloads, at)) > at:
                        at = end
                        continue
            elif payload == b"[DONE]":
                self._take_done()
                return
            try:
                chunk = decode_chunk(payload)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                self._take_odd(payload)
                at += 1
                continue
            if is_one_of_many or at == last:
                n = self._n_unframed
                is_due = (is_one_of_many or n >= _CHUNKS_BEFORE_FRAMES) and n <= _MAX_UNFRAMED
                found = find_frame(payload, chunk) if is_due else None
                if found is not None and (end := self._take_alike(found, payloads, at)) > at:
                    at = end
                    continue
                self._n_unframed = n + 1
            self._take_chunk(chunk)
            at += 1

    def _take_alike(self, frame: ChunkFrame, payloads: Sequence[bytes], at: int) -> int:
        """Take payloads from *at* on as far as they are in *frame*; return where others begin."""
        texts, encoded = frame.read_payloads(payloads, at)
        if not texts:
            return at
        at += len(texts)
        if frame is self._frame or len(texts) > 1:
            self._n_unframed = _CHUNKS_BEFORE_FRAMES
        else:  # it has told of no other one
            self._n_unframed += 1
        self._frame = frame
        self._has_choices = True
        text = self._text
        if frame.kind == "text" and text.joins_pieces and isinstance(self._sink, MessageSink):
            if said := "".join(texts):  # nobody sees the pieces
                self._is_calling = False
                text.take(said)
            return at
        if "" in texts:
            texts, encoded = [*filter(None, texts)], [*filter(None, encoded)]
        if texts:
            self._take_texts(frame, texts, encoded=encoded)
        return at

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
        """Take the texts of many chunks in *frame*, none of them empty."""
        fragment = frame.fragment
        if fragment is None:
            self._is_calling = False
            kind: Kind = "thinking" if frame.kind == "thinking" else "text"
            if self._text.take_pieces(kind, texts, encoded=encoded):
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

    def _take_odd(self, payload: bytes) -> None:
        """Take what the decoder refused."""
        stripped = payload.strip()
        if stripped == b"[DONE]":
            self._take_done()
        elif stripped:  # without data it is a sign of life
            if self._halves is None:
                self._halves = {}
            self._take_chunk(read_or_refuse(payload, self._halves))

    def _take_chunk(self, chunk: Chunk) -> None:
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

    def _take_done(self) -> None:
        if not self._has_choices:
            raise UpstreamProtocolError("The model's server sent a reply without any choice.")
        self._end()

    def _take_error(self, chunk: Chunk) -> None:
        said = chunk.error
        if not said or isinstance(said, bool):
            said = {"message": chunk.message, "code": chunk.code, "type": chunk.type}
        error = error_of_event(said, self._context.reply.of_prompt(self.prompt_tokens_estimate))
        if not isinstance(error, RefusedByUpstream):
            raise error
        self._finish, self._reason = "content_filter", reason_of("content_filter", self.plan)
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
        if finish in BROKEN_OFF:
            raise error_of_finish(finish)
        known = self.plan.deployment.profile.finish_reasons
        reason = known.get(finish) or STOP_REASONS.get(finish)
        if reason is None:
            said = f"The model's server ended with an unknown finish_reason: {finish[:40]!r}."
            raise UpstreamProtocolError(said)
        self._finish, self._reason = finish, reason
        matched = choice.matched_stop if choice.stop_reason is None else choice.stop_reason
        # vLLM and SGLang also put token ids here, which mean nothing to the client.
        is_text = matched is not None and isinstance(matched, str)
        if is_text and matched in self.plan.request.stop_sequences:
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
        blocks = self._blocks
        if (
            self._finish == "stop"
            and self._reason == "end_turn"
            and self._stop_string is None
            and blocks.open_kind == "text"
            and not blocks.has_calls
            and not blocks.keeps_text
            and self._text.is_plain
            and self._sink.has_content
        ):  # as nearly all answers end: with text, nothing held back, and nothing missing
            self.is_done = True
            self.stop_reason = "end_turn"
            self._sink.end("end_turn", None, usage=self._meter.total)
            return
        # The model was stopped, so that what is missing may be more than an end.
        is_cut = self._reason not in ("end_turn", "tool_use") or self._stop_string is not None
        self._text.close(is_cut=is_cut)
        if (matched := self._text.matched_stop) is not None:
            self._stop_string, is_cut = matched, True
            self._finish = self._finish or "stop"
        blocks.end(is_cut=is_cut or self._text.is_forced_cut)
        self.is_done = True
        if blocks.server_calls and not blocks.has_client_calls:
            return  # the message goes on with another upstream reply
        stop_reason = stop_reason_of(
            self.plan,
            self._blocks,
            finish=self._finish,
            reason=self._reason,
            stop=self._stop_string,
        )
        if stop_reason == "end_turn" and not blocks.has_calls and not self._goes_on:
            self.lacks = find_lack(
                self.plan, self._context, sink=self._sink, blocks=blocks, finish=self._finish
            )
        if not self.lacks:
            self._end_message(stop_reason)

    def _end_message(self, stop_reason: str) -> None:
        self.stop_reason = stop_reason
        if self._finish not in PLAIN_FINISHES:
            self._blocks.repairs.add_finish(self._finish or "", stop_reason)
        elif has_lost_call(self.plan, self._blocks, finish=self._finish):
            self._blocks.repairs.add_lost_call()
        usage = self._meter.total
        self._sink.start(usage)
        matched = self._stop_string if stop_reason == "stop_sequence" else None
        self._sink.end(stop_reason, matched, usage=usage)
