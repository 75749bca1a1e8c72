"""What an upstream answered to a probe, read leniently: every form that any of them uses counts."""

import re
from typing import Any, Final

import msgspec
from msgspec import Struct, field

from dragoman.core.errors import UpstreamProtocolError
from dragoman.core.healing import Refusal
from dragoman.core.sse import SseParser

_decode: Final = msgspec.json.Decoder().decode
_REFUSED: Final = frozenset({400, 404, 405, 415, 422, 501})
# Some servers answer 500 to what they do not take; one that has broken down says nothing like it.
_SAID_WITH_500: Final = re.compile(r"support|invalid|must |unknown|unexpected|type")
_TOO_BUSY: Final = frozenset({408, 425, 429, 502, 503, 504, 529})
_NO_ACCESS: Final = frozenset({401, 402, 403})
_MAX_TEXT: Final = 100_000  # characters of a reply or an error that are read
_REASONING: Final = ("reasoning_content", "reasoning")


class Answer(Struct, frozen=True, kw_only=True):
    """
    What came back.

    Attributes:
        status: 0: nothing did.
        failure: Why not.
    """

    status: int
    body: bytes = b""
    failure: str = ""


class Call(Struct, kw_only=True):
    """A tool call, put together."""

    name: str = ""
    arguments: str = ""
    id: str = ""


class Reply(Struct, kw_only=True):
    """
    An answer as far as probes look at it.

    Attributes:
        error: What a refusal says, as it was spelt.
        reasoning_fields: In which of them reasoning came.
        usage_places: Where token counts stood: ``finish``, ``trailing``, ``every``, ``choice``.
        stop_report: What the reply says of the stop string that ended it.
        has_choice: It is a chat completion.
        document: The last JSON object in it; None: it holds none.
    """

    status: int
    error: str = ""
    param: str = ""
    text: str = ""
    reasoning: str = ""
    reasoning_fields: dict[str, None] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    finish: str = ""
    stop_report: str = ""
    usage_places: dict[str, None] = field(default_factory=dict)
    reasoning_tokens: int = 0
    has_choice: bool = False
    document: Any = None

    @property
    def is_accepted(self) -> bool:
        """Tell whether the request was taken and answered; a web page is no answer."""
        return self.status == 200 and not self.error and self.document is not None

    @property
    def is_refused(self) -> bool:
        """Tell whether the request itself was refused; a busy server says nothing about it."""
        if self.status == 500:
            return _SAID_WITH_500.search(self.error.lower()) is not None
        return self.status in _REFUSED or (self.status == 200 and bool(self.error))

    @property
    def has_no_access(self) -> bool:
        """Tell whether it is the key that was refused."""
        return self.status in _NO_ACCESS

    @property
    def is_unclear(self) -> bool:
        """Tell whether there is nothing to be read from it; asking again may help."""
        is_broken = self.status == 500 and not self.is_refused
        is_broken = is_broken or (self.status == 200 and self.document is None)
        return self.status == 0 or self.status in _TOO_BUSY or is_broken

    @property
    def refusal(self) -> Refusal:
        """The refusal, to be learnt from."""
        return Refusal(text=self.error, param=self.param)

    @property
    def inline_thinking(self) -> bool:
        """Tell whether thinking stands in the text."""
        return "</think>" in self.text

    @property
    def thinks(self) -> bool:
        """Tell whether there is thinking, wherever it stands."""
        return bool(self.reasoning.strip()) or self.inline_thinking or self.reasoning_tokens > 0

    @property
    def answer(self) -> str:
        """The text behind any thinking."""
        return self.text.rpartition("</think>")[2].strip()


def read_reply(answer: Answer) -> Reply:
    """Return what *answer* says, whole or streamed, whatever its shape."""
    reply = Reply(status=answer.status, error=answer.failure)
    for payload in _payloads(answer.body):
        try:
            document = _decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            continue
        if isinstance(document, dict):
            reply.document = document
            _take(document, reply)
    if answer.status != 200 and not reply.error:
        reply.error = answer.body[:_MAX_TEXT].decode("utf-8", "replace") or f"HTTP {answer.status}"
    return reply


def _payloads(body: bytes) -> list[bytes]:
    if body.lstrip()[:1] in (b"{", b"["):
        return [body]
    parser = SseParser()
    try:
        return [*parser.feed(body), *parser.close()]
    except UpstreamProtocolError:
        return []


def _take(document: dict[str, Any], reply: Reply) -> None:
    said = document.get("error")
    if said or document.get("object") == "error":
        _take_error(said if isinstance(said, dict) else document, reply)
        return
    choices = document.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    usage = document.get("usage")
    if isinstance(usage, dict):
        is_last = isinstance(choice, dict) and choice.get("finish_reason")
        place = "finish" if is_last else "every" if choice is not None else "trailing"
        reply.usage_places[place] = None
        _take_usage(usage, reply)
    if isinstance(choice, dict):
        _take_choice(choice, reply)


def _take_error(said: dict[str, Any], reply: Reply) -> None:
    message = said.get("message") or said.get("error") or ""
    reply.error = str(message)[:_MAX_TEXT] or "an error without a message"
    param = said.get("param")
    reply.param = param if isinstance(param, str) else ""


def _take_usage(usage: dict[str, Any], reply: Reply) -> None:
    details = usage.get("completion_tokens_details")
    for counts in (usage, details):
        count = counts.get("reasoning_tokens") if isinstance(counts, dict) else None
        if isinstance(count, int):
            reply.reasoning_tokens = max(reply.reasoning_tokens, count)


def _take_choice(choice: dict[str, Any], reply: Reply) -> None:
    reply.has_choice = True
    if isinstance(choice.get("usage"), dict):
        reply.usage_places["choice"] = None
    if isinstance(choice.get("finish_reason"), str):
        reply.finish = choice["finish_reason"]
    for name in ("stop_reason", "matched_stop"):
        if isinstance(choice.get(name), str):
            reply.stop_report = choice[name]
    delta = choice.get("message") or choice.get("delta")
    if not isinstance(delta, dict):
        return
    reply.text = (reply.text + _text_of(delta.get("content")))[:_MAX_TEXT]
    for name in _REASONING:
        if isinstance(delta.get(name), str) and delta[name]:
            if not reply.reasoning_fields or name in reply.reasoning_fields:
                reply.reasoning = (reply.reasoning + delta[name])[:_MAX_TEXT]
            reply.reasoning_fields[name] = None
    calls = delta.get("tool_calls")
    for fragment in calls if isinstance(calls, list) else ():
        if isinstance(fragment, dict):
            _take_call(fragment, reply)


def _take_call(fragment: dict[str, Any], reply: Reply) -> None:
    function = fragment.get("function")
    function = function if isinstance(function, dict) else {}
    call_id, name = _plain(fragment.get("id")), _plain(function.get("name"))
    is_new = bool(name) and (not reply.calls or not call_id or reply.calls[-1].id != call_id)
    if is_new:
        reply.calls.append(Call(name=name, id=call_id))
    if reply.calls:
        arguments = function.get("arguments")
        text = arguments if isinstance(arguments, str) else ""
        if isinstance(arguments, dict):
            text = msgspec.json.encode(arguments).decode()
        reply.calls[-1].arguments = (reply.calls[-1].arguments + text)[:_MAX_TEXT]


def _plain(value: object) -> str:
    return str(value) if isinstance(value, (str, int)) else ""


def _text_of(content: object) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else ()
    return "".join(str(part.get("text") or "") for part in parts if isinstance(part, dict))


def parse_object(text: str) -> dict[str, Any] | None:
    """Return the JSON object that *text* is, or that stands in a fence in it."""
    fenced = re.search(r"```(?:json)?\s*(\{.*\})\s*```", text, re.DOTALL)
    try:
        found = _decode((fenced[1] if fenced else text).strip().encode())
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
