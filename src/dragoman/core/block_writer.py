"""
Put text, thinking and tool calls into blocks that never overlap, in the order in which they began.

What may not be shown yet, because an earlier tool call is incomplete, waits in a queue. A call
whose arguments do not come whole can only be the last block of a message, as it is in the API when
a token limit cuts it: a client would take anything behind it as leave to run the call.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

from dragoman.core.errors import UpstreamProtocolError
from dragoman.core.input_schemas import ToolSchemas
from dragoman.core.plan import Plan, ServerCall
from dragoman.core.repair_log import RepairLog
from dragoman.core.signatures import Signer
from dragoman.core.sinks import Sink
from dragoman.core.tool_calls import ToolCall, ToolCallAssembler
from dragoman.core.tool_ids import mint_id
from dragoman.core.usage import UsageMeter
from dragoman.wire.openai_chat import Function
from dragoman.wire.openai_chat import ToolCall as WireCall

_encode: Final = msgspec.json.Encoder().encode

Kind = Literal["text", "thinking"]


class WrittenCall(msgspec.Struct, frozen=True):
    """A whole tool call as the client got it: our id, the name sent upstream, and the input."""

    id: str
    name: str
    arguments: dict[str, Any]


class _Segment:
    """A run of text or thinking, or one tool call, in the order in which it arrived."""

    __slots__ = ("call", "kind", "pieces")

    def __init__(self, kind: Kind | None, call: ToolCall | None = None) -> None:
        self.kind = kind  # None: a tool call
        self.call = call
        self.pieces: list[str] = []


class BlockWriter(Struct, eq=False):  # made in C: each message has one
    """
    Write one message's blocks to a sink.

    Args:
        plan: How the reply is to be read.
        sink: Where the blocks go; the writer starts the message with its first block.
        meter: Told what is written, and asked for the counts of the message's start.
        signer: Signs thinking blocks.
        nonce: Returns eleven fresh characters for each tool call.
    """

    plan: Plan
    sink: Sink
    meter: UsageMeter
    signer: Signer
    nonce: Callable[[], str]
    has_written: bool = False
    has_text: bool = False
    has_calls: bool = False
    has_client_calls: bool = False
    has_cut_call: bool = False
    open_kind: Kind | None = None  # of the open block, if it is no call
    keeps_text: bool = False  # the reply may be followed by another one, which has to know it
    server_calls: list[ServerCall] = []
    written_text: list[str] = []  # where the message may go on after a server tool
    taken_thinking: list[str] = []  # where it may have to go back upstream
    written_calls: list[WrittenCall] = []
    _open_call: ToolCall | None = None
    # Of which so many are taken: a deque takes 600 bytes, and nearly always waits for one.
    _queue: list[_Segment] = []
    _n_taken: int = 0
    _keeps_thinking: bool | None = None  # None: nobody has asked yet
    # Of what only some replies hold.
    _tools: ToolSchemas | None = None
    _assembler: ToolCallAssembler | None = None
    repair_log: RepairLog | None = None  # of ``repairs``; None: nothing has been put right
    _space: dict[Kind, list[str]] | None = None  # that waits for more of its kind
    _call_id: str = ""  # of the open tool_use block
    _is_cut: bool = False  # the upstream was stopped before it was done
    _thinking: list[str] = []  # of the open thinking block, for its signature

    @property
    def tools(self) -> ToolSchemas:
        """The tools that the upstream was told of."""
        if self._tools is None:
            plan = self.plan
            functions = plan.body.get("tools") or ()
            self._tools = ToolSchemas(plan.tool_names, functions, plan.own_schemas)
        return self._tools

    @property
    def repairs(self) -> RepairLog:
        """What has been put right; made when it is first asked for."""
        if self.repair_log is None:
            self.repair_log = RepairLog()
        return self.repair_log

    def add(self, kind: Kind, text: str) -> None:
        """Add text or thinking, to the open block if it is of that kind."""
        self.meter.written_chars += len(text)
        if kind == self.open_kind and not self._queue:
            if kind == "text" and not self.keeps_text:
                self.sink.add_text(text)
            else:
                self._show(kind, text)
            return
        if kind == "thinking" and self._is_hidden(text):
            return
        if self._queue and self._queue[-1].kind == kind:
            self._queue[-1].pieces.append(text)
            self._advance()
        elif text.isspace():  # no block for line breaks between thinking and a tool call
            self._hold_space(kind).append(text)
        else:
            if self._space is not None and (space := self._space[kind]):
                text = "".join(space) + text
                space.clear()
            if self.has_written:
                if self._queue or self._open_call is not None or self.has_cut_call:
                    self._wait(kind, text)
                    return
                self._close_open()
            self._begin_run(kind)
            if kind == "text" and not self.keeps_text:
                self.sink.add_text(text)
            else:
                self._show(kind, text)

    def add_pieces(self, kind: Kind, pieces: Sequence[str], *, encoded: Sequence[bytes]) -> None:
        """
        Add many pieces of one kind, as if they had been added one by one.

        Args:
            kind: Text or thinking.
            pieces: None of them empty.
            encoded: The same as JSON strings without their quotes.
        """
        if kind != self.open_kind:
            self.add(kind, pieces[0])  # it may begin the block
            pieces, encoded = pieces[1:], encoded[1:]
            if not pieces:
                return
        if kind != self.open_kind or self._queue or (kind == "text" and self.keeps_text):
            for piece in pieces:
                self.add(kind, piece)
            return
        self.meter.written_chars += sum(map(len, pieces))
        if kind == "thinking":
            self._thinking += pieces
            if self._keeps_thinking:
                self.taken_thinking += pieces
            if self.plan.show_thinking != "full":
                return
        self.sink.add_pieces(pieces, encoded)

    def _hold_space(self, kind: Kind) -> list[str]:
        if self._space is None:
            self._space = {"text": [], "thinking": []}
        return self._space[kind]

    def _wait(self, kind: Kind, text: str) -> None:
        """Begin a run of text or thinking behind what is not complete."""
        segment = _Segment(kind)
        segment.pieces.append(text)
        self._queue.append(segment)
        self._advance()

    def add_call(self, fragment: WireCall) -> None:
        """Add a fragment to the tool call that it belongs to."""
        if self._assembler is None:
            self._assembler = ToolCallAssembler(self.tools)
        call, is_new = self._assembler.take(fragment)
        if is_new:
            if self.has_calls and self.plan.single_tool_call:
                # Parallel calls were forbidden: it belongs to no segment, so it is not shown.
                self.repairs.add_dropped_call(call.name)
                return
            self.has_calls = True
            if self._space is not None:
                self._space["text"].clear()
            self._queue.append(_Segment(None, call))
            self._advance()
        elif self._open_call is call:
            if call.is_begun:
                self._show_pieces(call)
            else:
                self._show_arguments(call)
            if self._queue:
                self._advance()

    def add_arguments(
        self, fragment: WireCall, pieces: Sequence[str], *, encoded: Sequence[bytes]
    ) -> None:
        """
        Add to a call what came as many pieces, as if it had been added piece by piece.

        Args:
            fragment: Which call; its own arguments are not read.
            pieces: None of them empty.
            encoded: The same as JSON strings without their quotes.
        """
        at = 0
        while at < len(pieces):
            at = self._add_string_pieces(fragment, pieces, start=at, encoded=encoded)
            if at < len(pieces):
                fragment.function = Function(arguments=pieces[at])
                self.add_call(fragment)
                at += 1

    def _add_string_pieces(
        self, fragment: WireCall, pieces: Sequence[str], *, start: int, encoded: Sequence[bytes]
    ) -> int:
        """Add pieces that only go on with a string in the open call; return where others begin."""
        call = self._open_call
        if call is None or not call.is_begun or self._queue or self._assembler is None:
            return start
        if self._assembler.goes_on_with(fragment) is not call:
            return start
        end = call.add_string_pieces(pieces, start)
        if end > start:
            call.shown += end - start
            self.meter.written_chars += sum(map(len, pieces[start:end]))
            self.sink.add_pieces(pieces[start:end], encoded[start:end])
        return end

    def end(self, *, is_cut: bool) -> None:
        """Write and close all that is left; *is_cut*: the upstream would have had more to say."""
        self._is_cut = is_cut
        if self._queue:
            self._write_queue()
        self._close_open()
        space = self._space["text"] if self._space is not None else ()
        if space and not self.sink.has_content:  # a reply of white space only
            self.sink.start(self.meter.total)
            self.sink.begin_text()
            self.sink.add_text("".join(space))

    def _write_queue(self) -> None:
        self._advance()
        while self._queue and not self.has_cut_call:
            self._close_open()
            self._advance()
        self._queue.clear()
        self._n_taken = 0

    def _show(self, kind: Kind, text: str) -> None:
        if kind == "text":
            self.sink.add_text(text)
            if self.keeps_text:
                self.written_text.append(text)
            return
        self._thinking.append(text)
        if self._keeps_thinking:
            self.taken_thinking.append(text)
        if self.plan.show_thinking == "full":
            self.sink.add_thinking(text)

    # -- the order of blocks

    def _advance(self) -> None:
        """Go on to the next segment while the open one is complete."""
        while self._queue and self._may_close():
            self._close_open()
            if self.has_cut_call:
                return
            segment = self._take_next()
            if segment.call is not None:
                self._open_call = segment.call
                self.has_written = True
                self._show_arguments(segment.call)
                continue
            kind: Kind = "text" if segment.kind == "text" else "thinking"
            self._begin_run(kind)
            for piece in segment.pieces:
                self._show(kind, piece)

    def _begin_run(self, kind: Kind) -> None:
        """Begin a block of text or thinking."""
        self.open_kind = kind
        self.has_written = True
        if not self.sink.is_started:
            self.sink.start(self.meter.total)
        if kind == "text":
            self.has_text = True
            self._begin_answer()
            self.sink.begin_text()
        else:
            self.sink.begin_thinking()

    def _begin_answer(self) -> None:
        """Let go of what only another reply to the request would need, unless there may be one."""
        plan = self.plan
        if plan.server_tools or plan.forced_by_hint or plan.forced_by_choice:
            self.keeps_text = True
        elif plan.request.stream:
            # A stream that has begun to answer has no use for the conversation any more, and a long
            # reply must not hold a long request in memory.
            plan.body.pop("messages", None)

    def _is_hidden(self, thinking: str) -> bool:
        """Keep thinking that clients do not see, where the upstream will want it back."""
        plan = self.plan
        if self._keeps_thinking is None:
            # It will, sooner (after a server tool) or later (in the history).
            is_echoed = plan.deployment.profile.echo_reasoning != "never"
            self._keeps_thinking = is_echoed or bool(plan.server_tools)
        if plan.show_thinking != "none":
            return False
        if self._keeps_thinking:
            self.taken_thinking.append(thinking)
        return True

    def _take_next(self) -> _Segment:
        """Return the segment that has waited for longest."""
        segment = self._queue[self._n_taken]
        self._n_taken += 1
        if self._n_taken == len(self._queue):
            self._queue.clear()
            self._n_taken = 0
        return segment

    def _may_close(self) -> bool:
        """Tell whether the open block is complete; of a call, whether its arguments are."""
        if self.has_cut_call:
            return False
        return self._open_call is None or self._open_call.is_whole

    def _close_open(self) -> None:
        if self._open_call is not None:
            call, self._open_call = self._open_call, None
            self._end_call(call)
        elif self.open_kind is not None:
            if self.open_kind == "thinking":
                carry = self.plan.show_thinking == "omitted"
                self.sink.sign(self.signer.sign("".join(self._thinking), carry=carry))
                self._thinking.clear()
            self.open_kind = None
            self.sink.end_block()

    # -- tool calls

    def _show_arguments(self, call: ToolCall) -> None:
        """Show new arguments of the open call, once it is clear that the block can be begun."""
        if call.is_held or not call.arguments:
            return
        if not call.name or call.name in self.plan.server_tools:
            call.is_held = True
            return
        self._begin_call(call)
        self._show_pieces(call)

    def _show_pieces(self, call: ToolCall) -> None:
        pieces, shown = call.arguments, call.shown
        while shown < len(pieces):
            self.sink.add_tool_json(pieces[shown])
            self.meter.written_chars += len(pieces[shown])
            shown += 1
        call.shown = shown

    def _begin_call(self, call: ToolCall) -> None:
        call.is_begun = True
        self._begin_answer()
        name, toolset = self.plan.toolset_members.get(call.name, (call.name, ""))
        self._call_id = mint_id(call.id, self.nonce())
        head: dict[str, Any] = {"type": "tool_use", "id": self._call_id, "name": name}
        if toolset:
            head["toolset_name"] = toolset
        self.sink.start(self.meter.total)
        self.sink.begin_tool(head)

    def _end_call(self, call: ToolCall) -> None:
        """Close a call: check its arguments as a whole and show what was held."""
        if not call.name:
            call.name = self._guess_name(call)
        arguments = call.end(is_cut=self._is_cut)
        for kind in sorted(call.repairs):
            self.repairs.add_argument_repair(kind, call.name)
        if call.name in self.plan.server_tools:
            self._write_server_call(call, arguments or {})
            return
        self.has_client_calls = True
        self.has_cut_call = arguments is None
        if not call.is_begun:
            self._begin_call(call)
        self._show_pieces(call)
        if call.shown == 0:  # an object that is never closed says: this was cut
            whole = "{" if arguments is None else _encode(arguments).decode()
            self.sink.add_tool_json(whole)
            self.meter.written_chars += len(whole)
        self.sink.end_block()
        if arguments is not None:
            self.written_calls.append(WrittenCall(self._call_id, call.name, arguments))

    def _write_server_call(self, call: ToolCall, arguments: dict[str, Any]) -> None:
        """Show a call of a tool that the API itself would run, and that it is unavailable here."""
        tool = self.plan.server_tools[call.name]
        prefix = "mcptoolu_" if tool.mcp_server else "srvtoolu_"
        call_id = mint_id("", self.nonce(), prefix=prefix)
        head: dict[str, Any] = {"type": "server_tool_use", "id": call_id, "name": tool.name}
        if tool.mcp_server:
            head |= {"type": "mcp_tool_use", "server_name": tool.mcp_server}
            said = "unavailable: this gateway reaches no MCP servers"
            content: Any = [{"type": "text", "text": said}]
            result = {"type": tool.result_type, "is_error": True}
        else:
            content = {"type": tool.error_type, "error_code": "unavailable"}
            result = {"type": tool.result_type}
        self.sink.start(self.meter.total)
        arguments_json = _encode(arguments).decode()
        self.sink.begin_tool(head)
        self.sink.add_tool_json(arguments_json)
        self.sink.add_block({**result, "tool_use_id": call_id, "content": content})
        self.server_calls.append(
            ServerCall(id=call.id or call_id, name=call.name, arguments_json=arguments_json)
        )

    def _guess_name(self, call: ToolCall) -> str:
        """Return the tool that a call without a name means: the only one, or told by its input."""
        names, arguments = self.plan.tool_names, call.value()
        name = next(iter(names)) if len(names) == 1 else ""
        if not name and arguments is not None:
            name = self.tools.guess(arguments)
        if not name:
            raise UpstreamProtocolError("The model's server sent a tool call without a name.")
        self.repairs.add_missing_name(name)
        return name
