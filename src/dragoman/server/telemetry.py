"""Every log event and its fields, in one place. Never content, never a secret."""

import asyncio
import sys
import time
import traceback
from datetime import UTC, datetime
from typing import Any, Final, Literal, TextIO

import msgspec
from msgspec import Struct, structs

from dragoman.core.plan import Adjustment
from dragoman.core.usage import Usage
from dragoman.policy.access import NOBODY, Caller
from dragoman.policy.senders import UNKNOWN, Sender
from dragoman.policy.side_traffic import BACKGROUND_ROLES, SideRole

_MAX_CHARS: Final = 300  # of a name that a client has made up
_MAX_HELD_LINES: Final = 256
_encode: Final = msgspec.json.Encoder().encode


class Trace(Struct):
    """
    To which trace a request belongs (W3C Trace Context).

    Attributes:
        parent_id: The caller's span; empty: the trace begins here.
        span_id: Of the request itself.
        state: ``tracestate``, as it came.
        goes_on: Upstreams are told of it.
    """

    trace_id: str
    is_sampled: bool
    parent_id: str = ""
    span_id: str = ""
    state: str = ""
    goes_on: bool = False


class UpstreamCall(Struct):
    """One call of an upstream that a request has led to; times are monotonic."""

    upstream: str
    model: str
    started_s: float
    ended_s: float = 0.0
    outcome: str = "ok"  # else the type of the error that it ended with
    span_id: str = ""  # empty: it is not traced


class RequestRecord(Struct):
    """What one request was and how it ended; filled in on the way, written at the end."""

    request_id: str
    method: str
    path: str
    peer: str = ""
    caller: Caller = NOBODY
    sender: Sender = UNKNOWN
    trace: Trace | None = None
    side_role: SideRole = ""
    model: str = ""
    alias: str = ""  # of the model, whatever name was sent; empty until it is known
    upstream: str = ""
    endpoint: str = ""  # of the upstream: address and key
    upstream_model: str = ""
    is_stream: bool = False
    status: int = 0
    error_type: str = ""
    error_detail: str = ""
    stop_reason: str = ""
    usage: Usage | None = None
    attempts: int = 0
    calls: list[UpstreamCall] = []  # one for each attempt
    started_s: float = 0.0  # monotonic
    first_content_s: float | None = None
    adjustments: tuple[Adjustment, ...] = ()
    repairs: dict[str, int] = {}  # kind -> how often, in what came back; mostly none
    # Of our estimate of the prompt, against the upstream's count; None: it counted nothing.
    estimate_error_pct: float | None = None
    cost_micros: int | None = None  # None: no price is known
    refused_by: str = ""  # the limit that stood against it, as ``key requests``
    waited_s: float = 0.0  # for its turn
    joined: str = ""  # id of the request whose reply it shares, and which has paid for it
    hedge: Literal["", "first", "second"] = ""  # who has won, where two were asked
    hedge_cost_micros: int = 0  # estimated, of the call that lost; part of cost_micros

    @property
    def is_background(self) -> bool:
        """Whether nobody waits for the answer: others go first."""
        return self.side_role in BACKGROUND_ROLES


class EventLog:
    """
    Write one line per event: for people, or as JSON.

    Args:
        log_format: ``human`` or ``json``.
        stream: Where lines go; standard error by default.
        hold_s: How long the line of a request may be held back, so that many are written at once.
            Any other event, and ``flush``, write what is held.
    """

    def __init__(
        self,
        log_format: Literal["human", "json"],
        stream: TextIO | None = None,
        *,
        hold_s: float = 0.0,
    ) -> None:
        self._is_json = log_format == "json"
        self._stream = stream if stream is not None else sys.stderr
        self._hold_s = hold_s
        self._held: list[str] = []
        self._flusher: asyncio.TimerHandle | None = None

    def request(self, record: RequestRecord) -> None:
        """Write the line of one request."""
        self._held.append(self._line("request", _fields_of(record)))
        if not self._hold_s or len(self._held) >= _MAX_HELD_LINES:
            self.flush()
        elif self._flusher is None:
            self._flusher = asyncio.get_running_loop().call_later(self._hold_s, self.flush)

    def event(self, name: str, **fields: str | float | bool | None) -> None:
        """Write any other event: start, stop, engine state, a failure of ours."""
        self._write(name, fields)

    def flush(self) -> None:
        """Write what is held back."""
        if self._flusher is not None:
            self._flusher.cancel()
            self._flusher = None
        text = "".join(self._held)
        self._held.clear()
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):  # a closed pipe must not end a request
            return

    def crash(self, error: BaseException, *, request_id: str = "") -> None:
        """Write where a bug of ours showed: places only, for messages and locals quote content."""
        places = "".join(traceback.format_tb(error.__traceback__))
        kind = f"{type(error).__module__}.{type(error).__qualname__}"
        self._write("crash", {"request_id": request_id, "traceback": places + kind})

    def _write(self, name: str, fields: dict[str, Any]) -> None:
        self._held.append(self._line(name, fields))
        self.flush()

    def _line(self, name: str, fields: dict[str, Any]) -> str:
        now = datetime.now(UTC)
        if self._is_json:
            time_of_day = now.isoformat(timespec="milliseconds")
            return _json_line({"time": time_of_day, "event": name, **fields})
        shown = " ".join(f"{k}={_plain(v)}" for k, v in fields.items() if v not in (None, "", []))
        return f"{now:%H:%M:%S} {name} {shown}\n"


def _json_line(fields: dict[str, Any]) -> str:
    """Return one line that is ASCII alone, as terminals and old collectors take it."""
    try:
        line = _encode(fields).decode("utf-8")
    except UnicodeEncodeError:  # half a surrogate pair, which JSON can name and UTF-8 cannot
        shown = {k: _without_surrogates(v) for k, v in fields.items()}
        line = _encode(shown).decode("utf-8")
    if not line.isascii():
        line = "".join(c if c.isascii() else _escape(c) for c in line)
    return line + "\n"


def _without_surrogates(value: object) -> object:
    if isinstance(value, list):
        return [_without_surrogates(each) for each in value]
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    return value


def _escape(character: str) -> str:
    units = character.encode("utf-16-be")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))


def _fields_of(record: RequestRecord) -> dict[str, Any]:
    now_s = time.monotonic()
    usage = record.usage
    fields: dict[str, Any] = {
        "request_id": record.request_id,
        "method": record.method,
        "path": record.path[:_MAX_CHARS],
        "status": record.status,
        "key": record.caller.key_name,
        "model": record.model[:_MAX_CHARS],
        "upstream": record.upstream,
        "upstream_model": record.upstream_model,
        "stream": record.is_stream,
        "stop_reason": record.stop_reason,
        "error": record.error_type,
        "detail": record.error_detail,
        "attempts": record.attempts,
        "duration_ms": round((now_s - record.started_s) * 1000),
    }
    if record.first_content_s is not None:
        fields["first_content_ms"] = round((record.first_content_s - record.started_s) * 1000)
    if usage is not None:
        fields.update({k: v for k, v in structs.asdict(usage).items() if v})
    if record.cost_micros is not None:
        fields["cost_micros"] = record.cost_micros
    if record.refused_by:
        fields["refused_by"] = record.refused_by
    if record.waited_s:
        fields["waited_ms"] = round(record.waited_s * 1000)
    if record.estimate_error_pct is not None:
        fields["estimate_error_pct"] = record.estimate_error_pct
    if record.adjustments:
        fields["adjustments"] = [f"{a.field} {a.action}: {a.reason}" for a in record.adjustments]
    if record.repairs:
        fields["repairs"] = record.repairs
    fields.update(_rare_fields(record))
    return fields


def _rare_fields(record: RequestRecord) -> dict[str, Any]:
    """Return what most requests have nothing to say of."""
    fields: dict[str, Any] = {}
    if record.endpoint != record.upstream:
        fields["endpoint"] = record.endpoint
    if record.joined:
        fields["joined"] = record.joined
    if record.hedge:
        fields["hedge"] = record.hedge
        fields["hedge_cost_micros"] = record.hedge_cost_micros
    if record.side_role:
        fields["side_role"] = record.side_role
    if record.trace is not None:
        fields["trace_id"] = record.trace.trace_id
    if record.sender is not UNKNOWN:
        fields.update({k: v for k, v in structs.asdict(record.sender).items() if v})
    return fields


def _plain(value: object) -> str:
    """Return *value* for a person, on one line, with control characters made harmless."""
    if isinstance(value, list):
        value = "; ".join(map(str, value))
    elif isinstance(value, dict):
        value = ",".join(f"{name}:{inner}" for name, inner in value.items())
    text = str(value)
    if not text.isprintable():
        text = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)
    return f'"{text}"' if " " in text else text
