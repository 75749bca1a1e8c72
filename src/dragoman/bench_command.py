"""`dragoman bench URL`: how fast an endpoint of the Messages API answers, as its clients see it."""

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable
from typing import Final

import msgspec
from msgspec import Struct, field
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dragoman.core.errors import GatewayError, UpstreamError, UpstreamProtocolError
from dragoman.core.sse import SseParser
from dragoman.exit_codes import FAILED, OK, USAGE, CommandFailed
from dragoman.serve import loop_factory
from dragoman.server.transport.http_upstream import HttpUpstream
from dragoman.server.transport.seams import Headers, Timeouts, UpstreamRequest
from dragoman.settings import Secret
from dragoman.terminal import LastingConsole, aligned, print_line, printable

_PATH: Final = "/v1/messages"
_HEADERS: Final = ((b"anthropic-version", b"2023-06-01"),)
_TIMEOUTS: Final = Timeouts(10.0, 600.0, 300.0)
_PROMPT: Final = "Count from one to a hundred in words."
_SHARES: Final = (50, 90, 99)
_MAX_SHOWN: Final = 5  # kinds of failures
_MAX_WHOLE_BYTES: Final = 16 * 2**20
_MAX_TYPE_CHARS: Final = 60
_MAX_SAID_CHARS: Final = 200


class LoadOptions(Struct, frozen=True, kw_only=True):
    """What to send: *requests* in all, *concurrency* of them at a time."""

    url: str
    model: str
    key: Secret | None
    requests: int
    concurrency: int
    max_tokens: int
    is_stream: bool


class Tally(Struct, kw_only=True):
    """What came of it: seconds, events, failures by kind, and what endpoints say of the first."""

    first_s: list[float] = field(default_factory=list)
    total_s: list[float] = field(default_factory=list)
    n_events: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    said: dict[str, str] = field(default_factory=dict)


def run_load_test(options: LoadOptions) -> int:
    """
    Send the requests, print what they took, return the exit code.

    Raises:
        CommandFailed: The URL is none.
        KeyboardInterrupt: The user had enough, and has been shown what there was by then.
    """
    console, tally, upstream = LastingConsole(highlight=False), Tally(), _open(options)
    columns = (TextColumn("requests"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    began_s = time.monotonic()
    try:
        with (
            Progress(*columns, console=LastingConsole(stderr=True), transient=True) as bar,
            asyncio.Runner(loop_factory=loop_factory()) as runner,
        ):
            task = bar.add_task("", total=options.requests)
            runner.run(_send_all(upstream, options, tally=tally, advance=lambda: bar.advance(task)))
    finally:
        for line in report_lines(options, tally, time.monotonic() - began_s):
            print_line(console, line)
    return OK if tally.total_s and not tally.failures else FAILED


async def _send_all(
    upstream: HttpUpstream, options: LoadOptions, *, tally: Tally, advance: Callable[[], None]
) -> None:
    body = msgspec.json.encode(
        {
            "model": options.model,
            "max_tokens": options.max_tokens,
            "stream": options.is_stream,
            "messages": [{"role": "user", "content": _PROMPT}],
        }
    )
    request = UpstreamRequest(path=_PATH, body=body, headers=_HEADERS, timeouts=_TIMEOUTS)
    left = iter(range(options.requests))  # shared: each client takes the next one

    async def client() -> None:
        for _ in left:
            await _send_one(upstream, request, options=options, tally=tally)
            advance()

    try:
        await asyncio.gather(*(client() for _ in range(options.concurrency)))
    finally:
        await upstream.close()


def _open(options: LoadOptions) -> HttpUpstream:
    base_url = options.url.rstrip("/").removesuffix("/v1")
    credential = None if options.key is None else ("x-api-key", options.key.reveal())
    try:
        return HttpUpstream(
            base_url, credential=credential, max_connections=max(1, options.concurrency)
        )
    except ValueError as error:
        raise CommandFailed(f"{options.url}: {error}", code=USAGE) from None


async def _send_one(
    upstream: HttpUpstream, request: UpstreamRequest, *, options: LoadOptions, tally: Tally
) -> None:
    reply = _Reply(options)
    call = upstream.send(request, reply)
    try:
        await reply.ended
    except GatewayError as error:
        tally.failures[error.message] += 1
        tally.said.setdefault(error.message, error.log_detail[:_MAX_SAID_CHARS])
        return
    finally:
        call.abort()
    if reply.failure:
        tally.failures[reply.failure] += 1
        tally.said.setdefault(reply.failure, reply.said)
        return
    tally.first_s.append(reply.first_s)
    tally.total_s.append(time.monotonic() - reply.began_s)
    tally.n_events += reply.n_events


class _Reply:
    """
    The receiver of one reply: notes when it began, and whether it is what was asked for.

    Attributes:
        failure: What is wrong with it; empty: nothing.
        said: The endpoint's own words about that.
    """

    def __init__(self, options: LoadOptions) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.began_s = time.monotonic()
        self.first_s = 0.0
        self.n_events = 0
        self.failure = self.said = ""
        self._wants_events = options.is_stream
        self._status = 0
        self._type = ""  # of the content
        self._events: SseParser | None = None
        self._whole = bytearray()  # of what does not come in events
        self._is_done = False  # the last event has come

    def on_head(self, status: int, headers: Headers) -> None:
        self._status = status
        self._type = headers.get(b"content-type", b"").decode("latin-1")[:_MAX_TYPE_CHARS]
        if status == 200 and "event-stream" in self._type:
            self._events = SseParser()

    def on_data(self, data: bytes) -> None:
        if not self.first_s:
            self.first_s = time.monotonic() - self.began_s
        try:
            self._take(data)
        except UpstreamError as error:  # no end follows: it would be waited for
            self.on_error(error)

    def on_end(self) -> None:
        self.failure = self.failure or self._judge()
        if not self.ended.done():
            self.ended.set_result(None)

    def on_error(self, error: UpstreamError) -> None:
        if not self.ended.done():
            self.ended.set_exception(error)

    def _take(self, data: bytes) -> None:
        if self._events is not None:
            for payload in self._events.feed(data):
                self._take_event(_read(payload))
            return
        self._whole += data
        if len(self._whole) > _MAX_WHOLE_BYTES:
            raise UpstreamProtocolError(f"The reply is larger than {_MAX_WHOLE_BYTES} bytes.")

    def _take_event(self, sent: "_Sent") -> None:
        self.n_events += 1
        if sent.type == "error":
            self.failure, self.said = "an error event in the stream", sent.said
        self._is_done = self._is_done or sent.type == "message_stop"

    def _judge(self) -> str:
        """Return what is wrong with a reply that has ended."""
        if self._events is not None:
            if not self._is_done:
                return "a stream without the end of a message"
            return "" if self._wants_events else "a stream, not a whole reply"
        sent = _read(self._whole)
        self.said = sent.said
        if self._status != 200:
            return f"status {self._status}"
        if sent.type != "message":
            return f"no message, but {self._type or 'a reply without a content-type'}"
        return "a whole reply, not a stream" if self._wants_events else ""


class _Error(Struct):
    message: str = ""


class _Sent(Struct):
    """What a reply, or an event, says of itself."""

    type: str = ""
    error: _Error | None = None

    @property
    def said(self) -> str:
        return "" if self.error is None else self.error.message[:_MAX_SAID_CHARS]


_decode: Final = msgspec.json.Decoder(_Sent).decode


def _read(data: bytes | bytearray) -> _Sent:
    """Return what *data* says of itself; nothing, where it is no JSON."""
    try:
        return _decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _Sent()


def report_lines(options: LoadOptions, tally: Tally, seconds: float) -> list[str]:
    """Return the figures for people."""
    n_good, n_failed = len(tally.total_s), tally.failures.total()
    rate = n_good / seconds if seconds else 0.0
    answered = f"{n_good} of {options.requests} requests answered in {seconds:.1f} s"
    lines = [f"{answered}, {options.concurrency} at a time: {rate:.1f} requests/s"]
    if options.is_stream and seconds:
        lines.append(f"{tally.n_events} events: {tally.n_events / seconds:.0f} events/s")
    if n_good:
        head = ("milliseconds", *(f"p{share}" for share in _SHARES), "max")
        rows = [head, _row("first byte", tally.first_s), _row("whole reply", tally.total_s)]
        lines += ["", *aligned(rows)]
    if n_failed:
        lines += ["", f"{n_failed} failed:"]
        shown = tally.failures.most_common(_MAX_SHOWN)
        for kind, count in shown:
            said = tally.said.get(kind)
            shown_kind = f"{kind.removesuffix('.')}: {said}" if said else kind
            lines.append(f"  {count} x {printable(shown_kind)}")
    return lines


def _row(name: str, samples: list[float]) -> tuple[str, ...]:
    ordered = sorted(samples)
    ranks = [math.ceil(share / 100 * len(ordered)) - 1 for share in _SHARES]
    return (name, *(f"{ordered[rank] * 1000:.1f}" for rank in (*ranks, -1)))
