"""
Read a chunk that the fast decoder refused: half characters, invalid UTF-8, values of odd types.

Reached only after that decoder has failed, so that it costs a healthy upstream nothing. Each value
gets the one sensible meaning that it can have, or none; only what is no chunk at all is an error.
"""

import json
import re
from collections.abc import Callable
from typing import Any, Final, TypeAlias, TypeVar

from dragoman.core.errors import UpstreamProtocolError
from dragoman.wire.openai_chat import (
    Choice,
    Chunk,
    Delta,
    Function,
    ReasoningDetail,
    TokenDetails,
    ToolCall,
    Usage,
)

_HALF: Final = re.compile("[\ud800-\udfff]")
_COUNTS: Final = (
    "prompt_tokens",
    "completion_tokens",
    "prompt_cache_hit_tokens",
    "cached_tokens",
    "reasoning_tokens",
    "cache_creation_input_tokens",
)
_DETAIL_COUNTS: Final = (
    "cached_tokens",
    "reasoning_tokens",
    "cache_write_tokens",
    "created_cache_tokens",
)
_T = TypeVar("_T")
_Json: TypeAlias = Any  # whatever json.loads returns: its type is what is in doubt here

# First halves of surrogate pairs, by the field whose text they ended: a server that cuts its text
# anywhere sends the second half at the beginning of the same field's next piece.
Halves = dict[str, str]


def read_or_refuse(payload: bytes, halves: Halves) -> Chunk:
    """
    Return what *payload* means; *halves* are as with ``read_odd_chunk``.

    Raises:
        UpstreamProtocolError: This is no chunk.
    """
    try:
        return read_odd_chunk(payload, halves)
    except (ValueError, RecursionError) as error:
        raise UpstreamProtocolError(
            "The model's server sent something that is not a chat completion.",
            # No more of it: it may be what the model said.
            log_detail=f"{error}: {len(payload)} bytes that begin with {payload[:1]!r}",
        ) from error


def read_odd_chunk(payload: bytes, halves: Halves) -> Chunk:
    """
    Return what *payload* means.

    Args:
        payload: JSON, or nearly so.
        halves: Kept by the caller from one odd chunk of a reply to the next.

    Raises:
        ValueError: This is not JSON, or no object, or its choices are no list.
        RecursionError: It is nested too deeply.
    """
    raw = json.loads(payload.decode("utf-8", "replace"))
    if not isinstance(raw, dict) or not isinstance(raw.get("choices") or [], list):
        raise ValueError("neither a chunk nor an error")  # noqa: TRY004
    waiting = dict(halves)
    halves.clear()
    reader = _Reader(waiting, halves)
    return Chunk(
        choices=_each(raw.get("choices"), reader.choice),
        usage=_usage(raw.get("usage")),
        error=_clean(raw.get("error")),
        object=_string(raw.get("object")),
        message=_clean(raw.get("message")),
        code=_clean(raw.get("code")),
        type=_clean(raw.get("type")),
    )


class _Reader:
    """Reads the parts that hold text of the model."""

    def __init__(self, waiting: Halves, halves: Halves) -> None:
        self._waiting = waiting
        self._halves = halves
        self._is_piece = True  # of a text that goes on in the next chunk

    def choice(self, raw: dict[str, Any]) -> Choice:
        finish = raw.get("finish_reason")
        if isinstance(finish, dict):  # SGLang's inner form
            finish = finish.get("type")
        delta, message = raw.get("delta"), raw.get("message")
        return Choice(
            index=_integer(raw.get("index")),
            delta=None if delta is None else self._delta(delta, is_piece=True),
            message=None if message is None else self._delta(message, is_piece=False),
            finish_reason=None if finish is False else _text(finish),
            stop_reason=_string(raw.get("stop_reason")),
            matched_stop=_string(raw.get("matched_stop")),
            usage=_usage(raw.get("usage")),
        )

    def _delta(self, raw: _Json, *, is_piece: bool) -> Delta:
        if not isinstance(raw, dict):
            raw = {"content": raw} if isinstance(raw, str) else {}
        self._is_piece = is_piece
        return Delta(
            content=self._piece("content", raw.get("content")),
            reasoning_content=self._piece("reasoning_content", raw.get("reasoning_content")),
            reasoning=self._piece("reasoning", raw.get("reasoning")),
            reasoning_details=_each(raw.get("reasoning_details"), _detail),
            refusal=self._piece("refusal", raw.get("refusal")),
            tool_calls=_each(raw.get("tool_calls"), self._call),
            function_call=self._function("function_call", raw.get("function_call")),
        )

    def _call(self, raw: dict[str, Any]) -> ToolCall:
        index, call_id = _integer(raw.get("index")), raw.get("id")
        function = self._function(f"arguments {index}", raw.get("function"))
        return ToolCall(
            index=index, id=None if call_id is False else _text(call_id), function=function
        )

    def _function(self, field: str, raw: _Json) -> Function | None:
        if not isinstance(raw, dict):
            return None
        arguments = raw.get("arguments")
        is_object = isinstance(arguments, dict | list)
        return Function(
            name=_string(raw.get("name")),
            arguments=_clean(arguments) if is_object else self._piece(field, arguments),
        )

    def _piece(self, field: str, value: _Json) -> str | None:
        """Return a text with its halves of characters joined, kept for later, or replaced."""
        text = _content(value)
        if text and self._is_piece:
            text = self._waiting.get(field, "") + text
            if "\ud800" <= text[-1] <= "\udbff":
                self._halves[field] = text[-1]
                text = text[:-1]
        return None if text is None else str(_clean(text))


def _clean(value: _Json) -> _Json:
    """Return a JSON value with halves of characters joined where they meet, else replaced."""
    if isinstance(value, str):
        if _HALF.search(value) is None:
            return value
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if isinstance(value, list):
        return [_clean(item) for item in value]
    if isinstance(value, dict):
        return {_clean(key): _clean(item) for key, item in value.items()}
    return value


def _text(value: _Json) -> str | None:
    """Return a scalar as text."""
    if value is None or isinstance(value, list | dict):
        return None
    return _clean(value) if isinstance(value, str) else json.dumps(value)


def _string(value: _Json) -> str | None:
    return _clean(value) if isinstance(value, str) else None


def _content(value: _Json) -> str | None:
    """Return content as text, whatever it is made of, its halves of characters untouched."""
    if isinstance(value, list):
        return "".join(_content(part) or "" for part in value)
    if isinstance(value, dict):
        return _content(value.get("text"))
    return value if isinstance(value, str) else _text(value)


def _integer(value: _Json) -> int | None:
    try:
        number = float(value) if isinstance(value, str | int | float) else None
        return None if number is None or isinstance(value, bool) else int(number)
    except (ValueError, OverflowError):
        return None


def _dicts(value: _Json) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _each(value: _Json, read: Callable[[dict[str, Any]], _T]) -> list[_T] | None:
    return [read(item) for item in _dicts(value)] or None


def _detail(raw: dict[str, Any]) -> ReasoningDetail:
    return ReasoningDetail(text=_string(raw.get("text")), summary=_string(raw.get("summary")))


def _usage(raw: _Json) -> Usage | None:
    if not isinstance(raw, dict):
        return None
    usage = Usage(
        prompt_tokens_details=_details(raw.get("prompt_tokens_details")),
        completion_tokens_details=_details(raw.get("completion_tokens_details")),
    )
    for name in _COUNTS:
        setattr(usage, name, _integer(raw.get(name)))
    return usage


def _details(raw: _Json) -> TokenDetails | None:
    if not isinstance(raw, dict):
        return None
    return TokenDetails(**{name: _integer(raw.get(name)) for name in _DETAIL_COUNTS})
