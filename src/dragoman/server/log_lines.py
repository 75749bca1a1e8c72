"""The log's lines as text: of a request, and of any other event; for people, or as JSON."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from math import floor
from typing import Any, Final

import msgspec
from msgspec import Struct

_encoder: Final = msgspec.json.Encoder()
_MILLISECONDS: Final = tuple(f"{n:03d}+00:00" for n in range(1000))  # UTC always


class RequestLine(Struct, omit_defaults=True, gc=False):
    """
    What the log says of one request, in the order in which it says it.

    What has a default is left out where there is nothing to say.
    """

    time: str
    event: str
    request_id: str
    method: str
    path: str
    status: int
    key: str
    model: str
    upstream: str
    upstream_model: str
    stream: bool
    stop_reason: str
    error: str
    detail: str
    attempts: int
    duration_ms: int
    first_content_ms: int | None = None
    input_tokens: int = 0
    cache_read_input_tokens: int = 0
    cache_creation_input_tokens: int = 0
    output_tokens: int = 0
    thinking_tokens: int = 0
    is_estimate: bool = False
    cost_micros: int | None = None
    refused_by: str = ""
    waited_ms: int | None = None
    estimate_error_pct: float | None = None
    adjustments: list[str] | None = None
    repairs: Mapping[str, int] | None = None
    endpoint: str = ""
    joined: str = ""
    hedge: str = ""
    hedge_cost_micros: int | None = None
    side_role: str = ""
    trace_id: str = ""
    session_id: str = ""
    agent_id: str = ""
    client: str = ""
    client_version: str = ""


class Clock:
    """The time of day as lines show it; what stays the same for a second is made once in it."""

    def __init__(self) -> None:
        self._second_s = 0
        self._shown = "1970-01-01T00:00:00."

    def show(self, at_s: float) -> str:
        """Return a time, in seconds since 1970, in ISO 8601 to the millisecond."""
        past_ms = floor((at_s - self._second_s) * 1000)
        if not 0 <= past_ms < 1000:
            self._second_s = second_s = int(at_s)
            self._shown = f"{datetime.fromtimestamp(second_s, UTC):%Y-%m-%dT%H:%M:%S.}"
            past_ms = floor((at_s - second_s) * 1000)
        return self._shown + _MILLISECONDS[past_ms]


def json_lines(lines: Sequence[RequestLine]) -> str:
    """Return *lines* as JSON, which is ASCII alone, as terminals and old collectors take it."""
    try:
        text = _encoder.encode_lines(lines).decode("utf-8")
    except UnicodeEncodeError:  # half a surrogate pair, which JSON can name and UTF-8 cannot
        return "".join(json_line(fields_of(line)) for line in lines)
    return text if text.isascii() else _escaped(text)


def json_line(fields: dict[str, Any]) -> str:
    """Return one line of any event, as ``json_lines`` does."""
    try:
        line = _encoder.encode(fields).decode("utf-8")
    except UnicodeEncodeError:
        shown = {name: _without_surrogates(value) for name, value in fields.items()}
        line = _encoder.encode(shown).decode("utf-8")
    return (line if line.isascii() else _escaped(line)) + "\n"


def fields_of(line: RequestLine) -> dict[str, Any]:
    """Return what *line* says, by the names of its fields."""
    fields: dict[str, Any] = msgspec.to_builtins(line)
    return fields


def line_for_people(fields: Mapping[str, Any]) -> str:
    """Return one line of an event: its time of day, its name, and what it says."""
    time_of_day, name, *said = fields.items()
    shown = " ".join(f"{k}={_plain(v)}" for k, v in said if v not in (None, "", []))
    return f"{time_of_day[1][11:19]} {name[1]} {shown}\n"


def _escaped(text: str) -> str:
    return "".join(c if c.isascii() else _escape(c) for c in text)


def _escape(character: str) -> str:
    units = character.encode("utf-16-be")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))


def _without_surrogates(value: object) -> object:
    if isinstance(value, list):
        return [_without_surrogates(each) for each in value]
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    return value


def _plain(value: object) -> str:
    """Return *value* for a person, on one line, with control characters made harmless."""
    if isinstance(value, list):
        value = "; ".join(map(str, value))
    elif isinstance(value, dict):
        value = ",".join(f"{name}:{inner}" for name, inner in value.items())
    text = str(value)
    if not text.isprintable():
        text = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)
    if " " not in text and '"' not in text:
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')  # what is within ends nowhere else
    return f'"{escaped}"'
