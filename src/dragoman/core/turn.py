"""
Upstream reply -> events: the state machine.

Blocks never overlap and indexes count 0, 1, 2, ...: what may not be shown yet, because an earlier
tool call is incomplete, waits in a queue. Everything that only sometimes happens lives in its own
method, so that the common delta takes the first branch.
"""

from collections import deque
from collections.abc import Callable
from typing import Any, Final, Literal, Protocol

import msgspec

from dragoman.core.errors import (
    GatewayError,
    UpstreamOverloaded,
    UpstreamProtocolError,
    UpstreamUnavailable,
)
from dragoman.core.plan import Plan, ServerCall
from dragoman.core.signatures import Signer
from dragoman.core.sinks import Sink
from dragoman.core.sse import SseParser
from dragoman.core.stop_sequences import StopMatcher
from dragoman.core.think_tags import ThinkTagCutter
from dragoman.core.tool_arguments import parse_arguments, parse_partial
from dragoman.core.tool_calls import ToolCall, ToolCallAssembler
from dragoman.core.tool_ids import mint_id
from dragoman.core.upstream_errors import RefusedByUpstream, ReplyContext, error_of_event
from dragoman.core.usage import Usage, usage_of_chat
from dragoman.wire.openai_chat import Choice, Chunk, Delta, Function, decode_chunk
from dragoman.wire.openai_chat import ToolCall as WireCall

_encode: Final = msgspec.json.Encoder().encode

# Model dialects, section 6. What is not in here is an error, never end_turn.
_STOP_REASONS: Final = {
    "stop": "end_turn",
    "eos": "end_turn",
    "eos_token": "end_turn",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "length": "max_tokens",
    "max_tokens": "max_tokens",
    "repetition_truncation": "max_tokens",
    "content_filter": "refusal",
    "sensitive": "refusal",
    "model_context_window_exceeded": "model_context_window_exceeded",
}
_CHARS_PER_TOKEN: Final = 4  # of an output that the upstream did not count


class Turn(Protocol):
    """One reply being translated; one object per upstream reply, no sharing."""

    usage: Usage
    stop_reason: str | None
    is_done: bool  # the message is complete, whatever the connection still does
    is_finishing: bool  # only counts can still come: do not wait long for them
    is_cut: bool  # it is complete because we cut it: the upstream would go on
    has_content: bool  # a content block has gone out: no other upstream may take over

    def start(self) -> bytes:
        """Return the message's start before the upstream has answered, if the turn can."""
        ...

    def ping(self) -> bytes:
        """Return a sign of life."""
        ...

    def feed(self, data: bytes) -> bytes:
        """Take any slice of the upstream's body, return the bytes for the client."""
        ...

    def feed_whole(self, body: bytes) -> bytes:
        """Take a whole reply's body instead."""
        ...

    def close(self) -> bytes:
        """Take note that the body has ended; return the end of the message."""
        ...

    def fail(self, error: GatewayError) -> bytes:
        """Return the error event, or the error's body."""
        ...


class TurnContext(msgspec.Struct, frozen=True, kw_only=True):
    """What a turn needs beside its plan; everything random or secret comes in here."""

    signer: Signer
    nonce: Callable[[], str]  # eleven fresh characters of base64url
    reply: ReplyContext
    max_event_bytes: int = 16 * 2**20
    usage_before: Usage | None = None  # of earlier upstream replies to the same request


class _Segment:
    """A run of text or thinking, or one tool call, in the order in which it arrived."""

    __slots__ = ("call", "kind", "pieces")

    def __init__(self, kind: Literal["text", "thinking", "tool"], call: ToolCall | None) -> None:
        self.kind = kind
        self.call = call
        self.pieces: list[str] = []


class ChatTurn:
    """
    The turn for chat-completions replies, streamed or whole.

    Every method that takes bytes may raise a GatewayError (the upstream failed or broke its API);
    the caller decides whether another upstream takes over or ``fail`` ends the message.
    """

    def __init__(self, plan: Plan, sink: Sink, *, context: TurnContext) -> None:
        self.plan = plan
        self._sink = sink
        self._context = context
        self._sse = SseParser(context.max_event_bytes)
        self._taken_bytes = 0
        self._open: _Segment | None = None
        self._queue: deque[_Segment] = deque()
        self._assembler = ToolCallAssembler()
        self._space = {"text": "", "thinking": ""}  # white space that waits for more of its kind
        self._thinking: list[str] = []  # of the open thinking block, for its signature
        self._forced: list[str] = []  # text that is a forced call
        self._written_chars = 0
        self._finish: str | None = None
        self._client_calls = 0
        self._has_calls = self._has_cut_call = self._has_choices = self._has_done = False
        self._stop_string: str | None = None
        self._stops = StopMatcher(s) if (s := plan.local_stop_sequences) else None
        profile = plan.deployment.profile
        self._tags: ThinkTagCutter | None = None
        if profile.think_tags and not plan.forced_by_schema:
            self._tags = ThinkTagCutter(open_at_start=profile.think_tag_open_at_start)
        self._wire_usage = Usage(input_tokens=plan.input_tokens_estimate)
        self.server_calls: list[ServerCall] = []
        self.written_text: list[str] = []  # kept only where a server tool may need it
        self.stop_reason: str | None = None
        self.is_done = False

    @property
    def usage(self) -> Usage:
        """Tokens of the whole message so far."""
        own = self._wire_usage
        if not own.output_tokens and self._written_chars:
            estimate = max(1, self._written_chars // _CHARS_PER_TOKEN)
            own = msgspec.structs.replace(own, output_tokens=estimate, is_estimate=True)
        before = self._context.usage_before
        return before.plus(own) if before else own

    @property
    def is_finishing(self) -> bool:
        """Tell whether the finish reason has come, so that only counts are missing."""
        return self._finish is not None

    @property
    def is_cut(self) -> bool:
        """Tell whether a stop string of ours ended the message before the upstream did."""
        return self._stops is not None and self._stops.matched is not None

    @property
    def has_content(self) -> bool:
        """Tell whether a content block has been started."""
        return self._sink.has_content

    def start(self) -> bytes:
        self._sink.start(self.usage)
        return self._sink.take()

    def ping(self) -> bytes:
        self._sink.ping()
        return self._sink.take()

    def feed(self, data: bytes) -> bytes:
        if self.is_done:
            return b""
        self._count(len(data))
        for payload in self._sse.feed(data):
            self._take_payload(payload)
            if self.is_done:
                break
        return self._sink.take()

    def feed_whole(self, body: bytes) -> bytes:
        self._count(len(body))
        self._take_payload(body)
        if not self.is_done:
            self._take_done()
        return self._sink.take()

    def close(self) -> bytes:
        for payload in self._sse.close():
            self._take_payload(payload)
        if not self.is_done:
            if self._finish is None and not self._has_done:
                raise UpstreamProtocolError(
                    "The model's server ended the reply before it was done."
                )
            self._end()
        return self._sink.take()

    def fail(self, error: GatewayError) -> bytes:
        self.is_done = True
        self._sink.fail(error)
        return self._sink.take()

    # -- one payload

    def _count(self, size: int) -> None:
        self._taken_bytes += size
        limit = self._context.reply.max_reply_bytes
        if self._taken_bytes > limit:
            raise UpstreamProtocolError(f"The model's server sent a reply over {limit} bytes.")

    def _take_payload(self, payload: bytes) -> None:
        try:
            chunk = decode_chunk(payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            if payload.strip() == b"[DONE]":
                self._take_done()
                return
            raise UpstreamProtocolError(
                "The model's server sent something that is not a chat completion.",
                log_detail=f"{error}: {payload[:200]!r}",
            ) from error
        choices = chunk.choices
        if choices:
            self._has_choices = True
            self._take_choice(choices[0])
        if chunk.usage is not None:
            self._wire_usage = usage_of_chat(chunk.usage, self._wire_usage)
        if chunk.error or chunk.object == "error":
            self._take_error(chunk)

    def _take_done(self) -> None:
        self._has_done = True
        if not self._has_choices:
            raise UpstreamProtocolError("The model's server sent a reply without any choice.")
        self._end()

    def _take_error(self, chunk: Chunk) -> None:
        said = chunk.error
        if not said or isinstance(said, bool):
            said = {"message": chunk.message, "code": chunk.code, "type": chunk.type}
        error = error_of_event(said, self._context.reply)
        if not isinstance(error, RefusedByUpstream):
            raise error
        self._finish = "content_filter"
        self._end()

    def _take_choice(self, choice: Choice) -> None:
        delta = choice.delta
        if delta is None and choice.message is not None:
            delta = choice.message
            # Each call is complete here; without indexes two with no ids would look like one.
            for index, tool_call in enumerate(delta.tool_calls or ()):
                tool_call.index = index
        if delta is not None:
            content = delta.content
            if content.__class__ is str and content and delta.tool_calls is None:
                # The common delta; reasoning beside content comes first, as models write it.
                if delta.reasoning_content or delta.reasoning:
                    self._take_reasoning(delta)
                self._take_content(content)
            else:
                self._take_delta(delta)
        if choice.usage is not None:
            self._wire_usage = usage_of_chat(choice.usage, self._wire_usage)
        if choice.finish_reason is not None and choice.finish_reason != "null" and not self.is_done:
            self._take_finish(choice)

    def _take_delta(self, delta: Delta) -> None:
        self._take_reasoning(delta)
        content = delta.content
        if isinstance(content, list):
            content = "".join(part.text or "" for part in content)
        if content or delta.refusal:
            self._take_content((content or "") + (delta.refusal or ""))
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
        known = self.plan.deployment.profile.finish_reasons
        if finish not in _STOP_REASONS and finish not in known:
            reason = f"The model's server ended with an unknown finish_reason: {finish[:40]!r}."
            raise UpstreamProtocolError(reason)
        self._finish = finish
        matched = choice.stop_reason if choice.stop_reason is not None else choice.matched_stop
        # vLLM and SGLang also put token ids here, which mean nothing to the client.
        if isinstance(matched, str) and matched in self.plan.request.stop_sequences:
            self._stop_string = matched

    # -- text and thinking

    def _take_reasoning(self, delta: Delta) -> None:
        reasoning = delta.reasoning_content or delta.reasoning
        if not reasoning and delta.reasoning_details:
            reasoning = "".join(d.text or d.summary or "" for d in delta.reasoning_details)
        if reasoning:
            if self._tags is not None:  # the upstream separates thinking itself: tags are text
                self._close_tags()
            self._add("thinking", reasoning)

    def _take_content(self, content: str) -> None:
        if self._tags is not None:
            self._take_tagged(content)
        elif self.plan.forced_by_schema:
            self._forced.append(content)
            self._written_chars += len(content)
        else:
            self._take_text(content)

    def _take_tagged(self, content: str) -> None:
        tags = self._tags
        if tags is None:
            return
        for kind, piece in tags.feed(content):
            self._add(kind, piece) if kind == "thinking" else self._take_text(piece)
        if tags.is_done:
            self._tags = None

    def _take_text(self, text: str) -> None:
        if self._stops is not None:
            text = self._stops.feed(text)
            if self._stops.matched is not None:
                if text:
                    self._add("text", text)
                self._stop_string = self._stops.matched
                self._finish = self._finish or "stop"
                self._end()
                return
        if text:
            self._add("text", text)

    def _add(self, kind: Literal["text", "thinking"], text: str) -> None:
        self._written_chars += len(text)
        is_open = self._open is not None and self._open.kind == kind
        if is_open and not self._queue:
            self._show(kind, text)
            return
        if kind == "thinking" and self.plan.show_thinking == "none":
            return
        if not self._queue or self._queue[-1].kind != kind:
            if text.isspace():  # no block for line breaks between thinking and a tool call
                self._space[kind] += text
                return
            self._queue.append(_Segment(kind, None))
            text, self._space[kind] = self._space[kind] + text, ""
        self._queue[-1].pieces.append(text)
        self._advance()

    def _show(self, kind: Literal["text", "thinking"], text: str) -> None:
        if kind == "text":
            self._sink.add_text(text)
            if self.plan.server_tools:
                self.written_text.append(text)
            return
        self._thinking.append(text)
        if self.plan.show_thinking == "full":
            self._sink.add_thinking(text)

    # -- tool calls

    def _take_tool(self, fragment: WireCall) -> None:
        if self._tags is not None:
            self._close_tags()
        before = self._has_calls
        call, is_new = self._assembler.take(fragment)
        if is_new:
            if before and self.plan.single_tool_call:
                return  # parallel calls were forbidden: it belongs to no segment, so none is shown
            self._has_calls = True
            self._space["text"] = ""
            self._queue.append(_Segment("tool", call))
            self._advance()
        elif self._open is not None and self._open.call is call:
            self._show_arguments(call)
            if self._queue:
                self._advance()

    def _show_arguments(self, call: ToolCall) -> None:
        """Show new arguments of the open call, once it is clear that they need no repair."""
        if call.is_held or not call.arguments:
            return
        if not call.is_begun:
            start = call.text.lstrip()
            if not start:
                return
            if start[0] != "{" or not call.name or call.name in self.plan.server_tools:
                call.is_held = True
                return
            self._begin_tool(call)
        for piece in call.arguments[call.shown :]:
            self._sink.add_tool_json(piece)
            self._written_chars += len(piece)
        call.shown = len(call.arguments)

    def _begin_tool(self, call: ToolCall) -> None:
        call.is_begun = True
        name, toolset = self.plan.toolset_members.get(call.name, (call.name, ""))
        head: dict[str, Any] = {
            "type": "tool_use",
            "id": mint_id(call.id, self._context.nonce()),
            "name": name,
        }
        if toolset:
            head["toolset_name"] = toolset
        self._sink.start(self.usage)
        self._sink.begin_tool(head)

    def _end_tool(self, call: ToolCall) -> None:
        """Close a call: check its arguments as a whole and show what was held."""
        if not call.name:
            call.name = self._only_tool()
        arguments = parse_arguments(call.text)
        if arguments is None:
            self._has_cut_call = True
        if call.name in self.plan.server_tools:
            self._end_server_call(call, arguments or {})
            return
        self._client_calls += 1
        if not call.is_begun:
            self._begin_tool(call)
        if call.shown == 0:
            whole = call.text if arguments is None else _encode(arguments).decode()
            self._sink.add_tool_json(whole)
            self._written_chars += len(whole)
        self._sink.end_block()

    def _end_server_call(self, call: ToolCall, arguments: dict[str, Any]) -> None:
        """Show a call of a tool that the API itself would run, and that it is unavailable here."""
        tool = self.plan.server_tools[call.name]
        nonce = self._context.nonce()
        prefix = "mcptoolu_" if tool.mcp_server else "srvtoolu_"
        call_id = mint_id("", nonce, prefix=prefix)
        head: dict[str, Any] = {"type": "server_tool_use", "id": call_id, "name": tool.name}
        if tool.mcp_server:
            head |= {"type": "mcp_tool_use", "server_name": tool.mcp_server}
            said = "unavailable: this gateway reaches no MCP servers"
            content: Any = [{"type": "text", "text": said}]
            result = {"type": tool.result_type, "is_error": True}
        else:
            content = {"type": tool.error_type, "error_code": "unavailable"}
            result = {"type": tool.result_type}
        self._sink.start(self.usage)
        arguments_json = _encode(arguments).decode()
        self._sink.begin_tool(head)
        self._sink.add_tool_json(arguments_json)
        self._sink.add_block({**result, "tool_use_id": call_id, "content": content})
        self.server_calls.append(
            ServerCall(id=call.id or call_id, name=call.name, arguments_json=arguments_json)
        )

    def _only_tool(self) -> str:
        names = self.plan.tool_names
        if len(names) != 1:
            raise UpstreamProtocolError("The model's server sent a tool call without a name.")
        return next(iter(names))

    # -- the order of blocks

    def _advance(self) -> None:
        """Go on to the next segment while the open one is complete."""
        while self._queue and self._may_close():
            self._close_open()
            self._open = segment = self._queue.popleft()
            if segment.call is not None:
                self._show_arguments(segment.call)
                continue
            self._sink.start(self.usage)
            if segment.kind == "text":
                self._sink.begin_text()
            else:
                self._sink.begin_thinking()
            for piece in segment.pieces:
                self._show("text" if segment.kind == "text" else "thinking", piece)

    def _may_close(self) -> bool:
        """Tell whether the open segment is complete; of a call, whether its arguments are."""
        call = self._open.call if self._open is not None else None
        if call is None:
            return True
        is_maybe_whole = bool(call.arguments) and call.arguments[-1].rstrip().endswith("}")
        return is_maybe_whole and parse_arguments(call.text) is not None

    def _close_open(self) -> None:
        segment, self._open = self._open, None
        if segment is None:
            return
        if segment.call is not None:
            self._end_tool(segment.call)
            return
        if segment.kind == "thinking":
            carry = self.plan.show_thinking == "omitted"
            self._sink.sign(self._context.signer.sign("".join(self._thinking), carry=carry))
            self._thinking.clear()
        self._sink.end_block()

    # -- the end

    def _close_tags(self) -> None:
        tags, self._tags = self._tags, None
        for kind, piece in tags.close() if tags is not None else ():
            self._add(kind, piece) if kind == "thinking" else self._take_text(piece)

    def _end(self) -> None:
        if self.is_done:
            return
        self._close_tags()
        if self.is_done:  # the text that was held matched a stop string
            return
        if self._stops is not None and (rest := self._stops.close()):
            self._add("text", rest)
        if self._forced:
            self._take_forced()
        while self._queue:
            self._close_open()
            self._open = None
            self._advance()
        self._close_open()
        if self._space["text"] and not self._sink.has_content:  # a reply of white space only
            self._sink.start(self.usage)
            self._sink.begin_text()
            self._sink.add_text(self._space["text"])
        self.is_done = True
        if self.server_calls and not self._client_calls:
            return  # the message goes on with another upstream reply
        self.stop_reason = self._stop_reason()
        self._sink.start(self.usage)
        self._sink.end(self.stop_reason, self._matched_stop(), usage=self.usage)

    def _take_forced(self) -> None:
        """Read the text that the upstream was made to write as the call that was forced."""
        text = "".join(self._forced)
        self._forced.clear()
        call = parse_partial(text)
        name, arguments = call.get("name"), call.get("arguments")
        if not isinstance(name, str) or name not in self.plan.tool_names:
            name = self._only_tool()
        is_whole = parse_arguments(text) is not None and isinstance(arguments, dict)
        written = _encode(arguments or {}).decode()
        if not is_whole:  # cut off: shown as the API shows a call that was cut off
            written = written[:-1]
        function = Function(name=name, arguments=written)
        self._take_tool(WireCall(index=0, function=function))

    def _stop_reason(self) -> str:
        finish = self._finish or "stop"
        known = self.plan.deployment.profile.finish_reasons
        reason = known.get(finish) or _STOP_REASONS[finish]
        if reason in ("end_turn", "tool_use"):
            if self._stop_string is not None and (self._has_cut_call or not self._has_calls):
                return "stop_sequence"
            if self._has_cut_call:
                return "max_tokens"  # what the API says of a call that is not whole
            return "tool_use" if self._has_calls else "end_turn"
        return reason

    def _matched_stop(self) -> str | None:
        return self._stop_string if self.stop_reason == "stop_sequence" else None
