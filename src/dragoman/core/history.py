"""
Messages of a request -> chat-completions messages, for any history at all.

Two passes. Reading sorts blocks into entries: what a user says, what an assistant says and calls,
and hangs every tool result on its call, wherever it stood. Writing puts the results directly behind
their calls, as upstreams require, and what stood around them into the next user message.
"""

import re
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct, field

from dragoman.core.adjustments import Adjustments
from dragoman.core.blocks import BlockRenderer, Part, note_text_citations
from dragoman.core.dialects.profile import DialectProfile
from dragoman.core.signatures import Signer
from dragoman.core.tool_ids import to_upstream_id
from dragoman.core.tools import ToolTable, tool_name_of
from dragoman.wire.anthropic import Block, Message

NO_RESULT: Final = "[no result was given for this tool call]"
_CONTINUE: Final = (
    "Your last message was cut off. Continue it exactly where it stopped: "
    "write only what comes next, and repeat nothing."
)
_NO_USER: Final = "(no message)"
_KIMI_ID: Final = re.compile(r"functions\.[a-zA-Z0-9_-]+:\d+")
_encode: Final = msgspec.json.Encoder().encode
# Our id of a call, the name sent upstream, its arguments as JSON -> the reasoning that led to it.
Recall = Callable[[str, str, str], str | None]
_CALLS: Final = ("tool_use", "server_tool_use", "mcp_tool_use")


class Call(Struct):
    """A tool call of the history and, once it was found, its result."""

    client_id: str
    name: str
    arguments: str
    path: str
    turn: int  # the number of its entry: the entry itself would be a circle for the collector
    result: str | None = None
    pictures: list[Part] = field(default_factory=list)


class AssistantEntry(Struct, eq=False):
    """What becomes one assistant message and the tool messages behind it."""

    path: str
    texts: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    is_answered: bool = False  # a result has come: what follows is another message


class UserEntry(Struct):
    """What becomes one user message."""

    parts: list[Part] = field(default_factory=list)


class SystemEntry(Struct):
    """A system message in its place, for models that take it there."""

    text: str


Entry = AssistantEntry | UserEntry | SystemEntry


class HistoryReader:
    """Sort the blocks of messages into entries."""

    def __init__(
        self,
        profile: DialectProfile,
        *,
        tools: ToolTable,
        blocks: BlockRenderer,
        signer: Signer,
        adjustments: Adjustments,
    ) -> None:
        self.profile = profile
        self._tools = tools
        self._blocks = blocks
        self._signer = signer
        self._adjustments = adjustments
        # By the client's id: calls without a result, a queue for each turn that has such calls.
        self._waiting: dict[str, list[deque[Call]]] = {}
        self._answered: dict[str, Call] = {}
        self._last_assistant = -1  # the number of its entry
        self.entries: list[Entry] = []

    def read(self, messages: Sequence[tuple[int, Message]]) -> list[Entry]:
        """Take messages with their numbers in the request; return all entries."""
        last_user = max((n for n, m in messages if m.role == "user"), default=-1)
        for number, message in messages:
            path = f"messages.{number}.content"
            if message.role == "system":
                is_over = message.clear_at == "next_user_message" and number < last_user
                if not is_over:
                    self._read_system(message, path)
                continue
            content = message.content
            if isinstance(content, str):
                self._read_string(message, content, path)
                continue
            read = self._read_assistant if message.role == "assistant" else self._read_user
            for position, block in enumerate(content):
                read(block, f"{path}.{position}")
        return self.entries

    def add_user_text(self, text: str) -> None:
        """Add *text* as if the user had said it now."""
        self._user().parts.append(text)

    # -- by role

    def _read_system(self, message: Message, path: str) -> None:
        text = system_text(message.content, path, self._adjustments)
        if not text:
            return
        if self.profile.mid_system == "native":
            self.entries.append(SystemEntry(text))
        elif text.startswith("<system-reminder>"):
            self.add_user_text(text)
        else:
            self.add_user_text(f"<system-reminder>\n{text}\n</system-reminder>")

    def _read_string(self, message: Message, content: str, path: str) -> None:
        """Read what would else be one block of text."""
        if not content:
            return
        if message.role == "user":
            self.add_user_text(content)
        else:
            self._assistant(f"{path}.0").texts.append(content)

    def _read_user(self, block: Block, path: str) -> None:
        if block.type == "text":
            if block.text:
                self.add_user_text(block.text)
            note_text_citations(block, path, self._adjustments)
        elif block.tool_use_id is not None and block.type.endswith("tool_result"):
            self._read_result(block, path, is_user=True)
        elif parts := self._blocks.parts(block, path):
            self._user().parts.extend(parts)

    def _read_assistant(self, block: Block, path: str) -> None:
        kind = block.type
        if kind == "text":
            if block.text:
                self._assistant(path).texts.append(block.text)
            note_text_citations(block, path, self._adjustments)
        elif kind == "thinking":
            self._read_thinking(block, path)
        elif kind in _CALLS:
            self._read_call(block, path)
        elif block.tool_use_id is not None and kind.endswith("tool_result"):
            self._read_result(block, path, is_user=False)
        elif kind == "redacted_thinking":
            reason = "redacted thinking can be read by Anthropic's models only"
            self._adjustments.add(path, "dropped", reason=reason)
        else:
            for part in self._blocks.parts(block, path):
                if isinstance(part, str):
                    self._assistant(path).texts.append(part)
                else:
                    reason = "assistant messages hold no images upstream"
                    self._adjustments.add(path, "dropped", reason=reason)
                    self._assistant(path).texts.append("[image omitted]")

    def _read_thinking(self, block: Block, path: str) -> None:
        if self.profile.echo_reasoning == "never":
            reason = "the model's earlier thinking does not go back to this upstream"
            self._adjustments.add(path, "dropped", reason=reason)
            return
        thinking = block.thinking or self._signer.carried_thinking(block.signature or "")
        if thinking:
            self._assistant(path).reasoning.append(thinking)
        else:
            reason = "thinking that is hidden in the signature of another server cannot be read"
            self._adjustments.add(path, "dropped", reason=reason)

    # -- calls and results

    def _read_call(self, block: Block, path: str) -> None:
        if isinstance(block.caller, dict) and block.caller.get("type") != "direct":
            reason = "a tool call made by code is shown as the model's own"
            self._adjustments.add(f"{path}.caller", "emulated", reason=reason)
        name = tool_name_of(block, self._tools)
        arguments = "{}" if block.input is None else _encode(block.input).decode()
        entry = self._assistant(path)
        turn = len(self.entries) - 1
        call = Call(block.id or "", name, arguments, path, turn)
        entry.calls.append(call)
        turns = self._waiting.setdefault(call.client_id, [])
        if not turns or turns[-1][-1].turn != turn:
            turns.append(deque())
        turns[-1].append(call)

    def _read_result(self, block: Block, path: str, *, is_user: bool) -> None:
        text, pictures = self._blocks.result(block, path)
        call_id = block.tool_use_id or ""
        turns = self._waiting.get(call_id)
        if not turns:
            self._keep_stray_result(call_id, [text, *pictures], path)
            return
        call = turns[-1].popleft()
        if not turns[-1]:
            turns.pop()
        call.result, call.pictures = text, pictures
        self._answered[call_id] = call
        entry = self.entries[call.turn]
        if isinstance(entry, AssistantEntry):
            entry.is_answered = True
        if is_user and call.turn != self._last_assistant:
            reason = "a tool result came late: it was moved to its call"
            self._adjustments.add(path, "repaired", reason=reason)
            self.add_user_text(f"[The result of the earlier call of {call.name} has arrived.]")

    def _keep_stray_result(self, call_id: str, parts: list[Part], path: str) -> None:
        answered = self._answered.get(call_id)
        if answered is not None and parts == [answered.result, *answered.pictures]:
            reason = "a tool result was given twice"
            self._adjustments.add(path, "repaired", reason=reason)
            return
        said = "a further" if answered is not None else "a"
        reason = f"{said} tool result without a call became text of the user"
        self._adjustments.add(path, "repaired", reason=reason)
        head = f"[{said} result of tool call {call_id[:64]}]\n"
        self._user().parts.append(head + str(parts[0]))
        self._user().parts.extend(parts[1:])

    # -- entries

    def _user(self) -> UserEntry:
        last = self.entries[-1] if self.entries else None
        if not isinstance(last, UserEntry):
            last = UserEntry()
            self.entries.append(last)
        return last

    def _assistant(self, path: str) -> AssistantEntry:
        last = self.entries[-1] if self.entries else None
        if not isinstance(last, AssistantEntry) or last.is_answered:
            last = AssistantEntry(path)
            self._last_assistant = len(self.entries)
            self.entries.append(last)
        return last


class HistoryWriter:
    """Write entries as chat-completions messages."""

    def __init__(
        self, profile: DialectProfile, adjustments: Adjustments, *, recall: Recall | None = None
    ) -> None:
        self._profile = profile
        self._adjustments = adjustments
        self._recall = recall
        self._n_calls = 0  # of the conversation so far
        self._said: list[Part] = []  # of the user message that is being put together
        self.messages: list[dict[str, Any]] = []

    def write(self, entries: Sequence[Entry]) -> list[dict[str, Any]]:
        """Return the messages, without a system prompt."""
        for entry in entries:
            if isinstance(entry, UserEntry):
                self._said.extend(entry.parts)
            elif isinstance(entry, SystemEntry):
                self._end_user()
                self.messages.append({"role": "system", "content": entry.text})
            else:
                self._write_assistant(entry)
        self._end_user()
        return self.messages

    def require_user(self) -> None:
        """Make sure that some user has spoken: templates and vendors insist on it."""
        if not any(message["role"] == "user" for message in self.messages):
            reason = "no user message was left: an empty one was added"
            self._adjustments.add("messages", "repaired", reason=reason)
            self.messages.insert(0, {"role": "user", "content": _NO_USER})

    def finish(self, *, is_prefill: bool) -> dict[str, Any]:
        """Deal with a last message of the assistant; return fields that the body needs for it."""
        last = self.messages[-1] if self.messages else None
        if last is None or last["role"] != "assistant" or "tool_calls" in last:
            return {}
        if not is_prefill:  # what the user said last was empty, or has been moved
            self.messages.append({"role": "user", "content": _NO_USER})
            reason = "the last user message was empty"
            self._adjustments.add("messages", "repaired", reason=reason)
            return {}
        how = self._profile.prefill
        if how == "continue_final_message":
            return {"continue_final_message": True, "add_generation_prompt": False}
        if how in ("prefix", "partial"):
            last[how] = True
        elif how == "hint":
            self.messages.append({"role": "user", "content": _CONTINUE})
            reason = "the model is asked to continue the last assistant message"
            self._adjustments.add("messages", "emulated", reason=reason)
        return {}

    # -- one entry

    def _end_user(self) -> None:
        if self._said:
            self.messages.append({"role": "user", "content": _content(self._said)})
            self._said = []

    def _write_assistant(self, entry: AssistantEntry) -> None:
        if entry.calls and not self._profile.has_tools:
            self._write_calls_as_text(entry)
            return
        text = "".join(entry.texts)
        message: dict[str, Any] = {"role": "assistant", "content": text}
        self._add_reasoning(message, entry)
        if not (text or entry.calls) and len(message) == 2:
            return  # nothing but thinking that the upstream does not want back
        self._end_user()
        self.messages.append(message)
        if entry.calls:
            ids = self._distinct_ids(entry.calls)
            pairs = list(zip(entry.calls, ids, strict=True))
            if not text and self._profile.empty_content == "omitted":
                del message["content"]
            message["tool_calls"] = [_tool_call(call, call_id) for call, call_id in pairs]
            self._write_results(pairs)

    def _add_reasoning(self, message: dict[str, Any], entry: AssistantEntry) -> None:
        profile = self._profile
        if profile.echo_reasoning == "never":
            return
        if profile.echo_reasoning == "tool_turns" and not entry.calls:
            if entry.reasoning:
                reason = "thinking goes back to this upstream only with the tool calls it led to"
                self._adjustments.add(entry.path, "dropped", reason=reason)
            return
        if reasoning := "".join(entry.reasoning) or self._recalled(entry):
            message[profile.reasoning_field] = reasoning
        elif profile.reasoning_placeholder is not None and (entry.calls or entry.texts):
            message[profile.reasoning_field] = profile.reasoning_placeholder
            reason = "the thinking of an earlier turn is lost: the upstream gets a placeholder"
            self._adjustments.add(entry.path, "repaired", reason=reason)

    def _recalled(self, entry: AssistantEntry) -> str:
        """Return the reasoning that led to the turn's calls, if it was kept for such a case."""
        if self._recall is None:
            return ""
        found = (self._recall(call.client_id, call.name, call.arguments) for call in entry.calls)
        return next((reasoning for reasoning in found if reasoning), "")

    def _distinct_ids(self, calls: Sequence[Call]) -> list[str]:
        if len(calls) == 1:
            return [self._upstream_id(calls[0], 0)]
        ids: dict[str, int] = {}  # id -> how often it was wanted
        for number, call in enumerate(calls):
            wanted = self._upstream_id(call, number)
            free, copy = wanted, ids.get(wanted, 0)
            while free in ids:
                copy += 1
                free = f"{wanted}_{copy}"
            if free != wanted:
                ids[wanted] = copy
                reason = "two tool calls of one turn had the same id"
                self._adjustments.add(call.path, "repaired", reason=reason)
            ids[free] = 1
        return list(ids)

    def _upstream_id(self, call: Call, number: int) -> str:
        """Return the id that the upstream gave, or one that it could have given."""
        wanted = to_upstream_id(call.client_id) or f"call_{number}"
        position = self._n_calls
        self._n_calls += 1
        if self._profile.tool_call_ids == "kimi" and not _KIMI_ID.fullmatch(wanted):
            return f"functions.{call.name}:{position}"
        return wanted

    def _write_results(self, pairs: Sequence[tuple[Call, str]]) -> None:
        for call, call_id in pairs:
            text = self._result_of(call)
            self.messages.append({"role": "tool", "tool_call_id": call_id, "content": text})
            if call.pictures:
                self._said.append(f"[images of the result of {call.name}]")
                self._said.extend(call.pictures)

    def _result_of(self, call: Call) -> str:
        if call.result is not None:
            return call.result
        reason = "a tool call without a result was given one that says so"
        self._adjustments.add(call.path, "repaired", reason=reason)
        return NO_RESULT

    def _write_calls_as_text(self, entry: AssistantEntry) -> None:
        reason = "the model has no tools: earlier calls are shown as text"
        self._adjustments.add(entry.path, "emulated", reason=reason)
        lines = [f"[called {call.name} with {call.arguments}]" for call in entry.calls]
        text = "".join(entry.texts)
        text = "\n".join([text, *lines] if text else lines)
        self._end_user()
        self.messages.append({"role": "assistant", "content": text})
        for call in entry.calls:
            self._said.append(f"[result of {call.name}]\n{self._result_of(call)}")
            self._said.extend(call.pictures)


def cut_at_compaction(
    messages: Sequence[Message], adjustments: Adjustments
) -> tuple[str, list[tuple[int, Message]]]:
    """
    Return the summary that stands for the first messages, and the others with their numbers.

    The summary is empty if there is no compaction block that can be read.
    """
    numbered = list(enumerate(messages))
    contents = [m.content for m in messages if not isinstance(m.content, str)]
    if "compaction" not in [block.type for blocks in contents for block in blocks]:
        return "", numbered  # nearly always
    for number, message in reversed(numbered):
        content = message.content
        if isinstance(content, str):
            continue
        for position, block in reversed(list(enumerate(content))):
            if block.type != "compaction":
                continue
            if isinstance(block.content, str) and block.content:
                kept = msgspec.structs.replace(message, content=content[position + 1 :])
                return block.content, [(number, kept), *numbered[number + 1 :]]
            reason = "a compaction without a summary changes nothing"
            adjustments.add(f"messages.{number}.content.{position}", "dropped", reason=reason)
    return "", numbered


def system_text(content: str | list[Block], path: str, adjustments: Adjustments) -> str:
    """Return the texts of a system message, joined."""
    if isinstance(content, str):
        return content
    texts = []
    for number, block in enumerate(content):
        if block.type == "text":
            texts.append(block.text or "")
            note_text_citations(block, f"{path}.{number}", adjustments)
        elif block.type not in ("tool_addition", "tool_removal"):
            reason = f"{block.type[:40]} blocks have no place in a system message"
            adjustments.add(f"{path}.{number}", "dropped", reason=reason)
    return "\n\n".join(text for text in texts if text)


def _tool_call(call: Call, call_id: str) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call_id, "type": "function", "function": function}


def _content(parts: Sequence[Part]) -> str | list[dict[str, Any]]:
    """Return user content: a plain string unless there are pictures."""
    content: list[dict[str, Any]] = []
    texts: list[str] = []
    for part in parts:
        if isinstance(part, str):
            texts.append(part)
            continue
        if texts:
            content.append({"type": "text", "text": "\n\n".join(texts)})
            texts = []
        content.append(part)
    if not content:
        return "\n\n".join(texts)
    if texts:
        content.append({"type": "text", "text": "\n\n".join(texts)})
    return content
