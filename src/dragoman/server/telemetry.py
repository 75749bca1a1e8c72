"""Every log event and its fields, in one place. Never content, never a secret."""

import asyncio
import sys
import time
import traceback
from math import floor
from typing import Any, Final, Literal, TextIO

from msgspec import Struct

from dragoman.core.plan import Adjustment
from dragoman.core.usage import Usage
from dragoman.policy.access import NOBODY, Caller
from dragoman.policy.senders import UNKNOWN, Sender
from dragoman.policy.side_traffic import BACKGROUND_ROLES, SideRole
from dragoman.server.log_lines import (
    Clock,
    RequestLine,
    fields_of,
    json_line,
    json_lines,
    line_for_people,
)

_MAX_CHARS: Final = 300  # of a name that a client has made up
_MAX_HELD_LINES: Final = 256
_NO_USAGE: Final = Usage(is_estimate=False)


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
        self._max_held = _MAX_HELD_LINES if hold_s else 1
        self._clock = Clock()
        self._wall_ahead_s = 0.0  # of the monotonic clock, when the first of these began to wait
        self._held: list[RequestLine] = []  # texts are made of many at once
        self._flusher: asyncio.TimerHandle | None = None

    def request(self, record: RequestRecord, now_s: float) -> None:
        """Write the line of a request that is over; *now_s* is on the clock of the record."""
        held = self._held
        if not held:
            self._begin_to_hold(now_s)
        time_of_day = self._clock.show(now_s + self._wall_ahead_s)
        held.append(_line_of(record, time_of_day, now_s))
        if len(held) >= self._max_held:
            self.flush()

    def event(self, name: str, **fields: str | float | bool | None) -> None:
        """Write any other event: start, stop, engine state, a failure of ours."""
        self._write({"time": self._clock.show(time.time()), "event": name, **fields})

    def flush(self) -> None:
        """Write what is held back."""
        self._put(self._take_held())

    def crash(self, error: BaseException, *, request_id: str = "") -> None:
        """Write where a bug of ours showed: places only, for messages and locals quote content."""
        places = "".join(traceback.format_tb(error.__traceback__))
        kind = f"{type(error).__module__}.{type(error).__qualname__}"
        self.event("crash", request_id=request_id, traceback=places + kind)

    def _begin_to_hold(self, now_s: float) -> None:
        self._wall_ahead_s = time.time() - now_s
        if self._hold_s:
            self._flusher = asyncio.get_running_loop().call_later(self._hold_s, self.flush)

    def _write(self, fields: dict[str, Any]) -> None:
        line = json_line(fields) if self._is_json else line_for_people(fields)
        self._put(self._take_held() + line)

    def _take_held(self) -> str:
        if self._flusher is not None:
            self._flusher.cancel()
            self._flusher = None
        held, self._held = self._held, []
        if self._is_json:
            return json_lines(held)
        return "".join(line_for_people(fields_of(line)) for line in held)

    def _put(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):  # a closed pipe must not end a request
            return


def _line_of(record: RequestRecord, time_of_day: str, now_s: float) -> RequestLine:
    """Return the line of *record*, in one call: setting a field later costs as much as ten here."""
    started_s, usage, sender = record.started_s, record.usage or _NO_USAGE, record.sender
    first_s, trace, hedge = record.first_content_s, record.trace, record.hedge
    path, model, upstream = record.path, record.model, record.upstream
    if len(path) + len(model) > _MAX_CHARS:
        path, model = path[:_MAX_CHARS], model[:_MAX_CHARS]
    return RequestLine(
        time_of_day,
        "request",
        record.request_id,
        record.method,
        path,
        record.status,
        record.caller.key_name,
        model,
        upstream,
        record.upstream_model,
        record.is_stream,
        record.stop_reason,
        record.error_type,
        record.error_detail,
        record.attempts,
        floor((now_s - started_s) * 1000 + 0.5),  # int would cost twice as much
        None if first_s is None else floor((first_s - started_s) * 1000 + 0.5),
        usage.input_tokens,
        usage.cache_read_input_tokens,
        usage.cache_creation_input_tokens,
        usage.output_tokens,
        usage.thinking_tokens or 0,
        usage.is_estimate,
        record.cost_micros,
        record.refused_by,
        floor(record.waited_s * 1000 + 0.5) if record.waited_s else None,
        record.estimate_error_pct,
        _shown(record.adjustments) if record.adjustments else None,
        record.repairs or None,
        "" if record.endpoint == upstream else record.endpoint,
        record.joined,
        hedge,
        record.hedge_cost_micros if hedge else None,
        record.side_role,
        "" if trace is None else trace.trace_id,
        sender.session_id,
        sender.agent_id,
        sender.client,
        sender.client_version,
    )


def _shown(adjustments: tuple[Adjustment, ...]) -> list[str]:
    return [f"{a.field} {a.action}: {a.reason}" for a in adjustments]
