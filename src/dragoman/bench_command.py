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

from dragoman.core.errors import GatewayError, UpstreamError
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
_ERROR_EVENT: Final = b'"type":"error"'


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
    """What came of it: seconds, events, and failures by what they say."""

    first_s: list[float] = field(default_factory=list)
    total_s: list[float] = field(default_factory=list)
    n_events: int = 0
    failures: Counter[str] = field(default_factory=Counter)


def run_load_test(options: LoadOptions) -> int:
    """
    Send the requests, print what they took, return the exit code.

    Raises:
        CommandFailed: The URL is none.
    """
    console, tally, upstream = LastingConsole(highlight=False), Tally(), _open(options)
    columns = (TextColumn("requests"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    began_s = time.monotonic()
    with (
        Progress(*columns, console=LastingConsole(stderr=True), transient=True) as bar,
        asyncio.Runner(loop_factory=loop_factory()) as runner,
    ):
        task = bar.add_task("", total=options.requests)
        runner.run(_send_all(upstream, options, tally=tally, advance=lambda: bar.advance(task)))
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
            await _send_one(upstream, request, tally)
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


async def _send_one(upstream: HttpUpstream, request: UpstreamRequest, tally: Tally) -> None:
    reply = _Reply()
    call = upstream.send(request, reply)
    try:
        await reply.ended
    except GatewayError as error:
        tally.failures[error.message] += 1
        return
    finally:
        call.abort()
    if reply.failure:
        tally.failures[reply.failure] += 1
        return
    tally.first_s.append(reply.first_s)
    tally.total_s.append(time.monotonic() - reply.began_s)
    tally.n_events += reply.n_events


class _Reply:
    """The receiver of one reply: notes when it began, and counts its events."""

    def __init__(self) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.began_s = time.monotonic()
        self.first_s = 0.0
        self.n_events = 0
        self.failure = ""
        self._events: SseParser | None = None

    def on_head(self, status: int, headers: Headers) -> None:
        if status != 200:
            self.failure = f"status {status}"
        if b"event-stream" in headers.get(b"content-type", b""):
            self._events = SseParser()

    def on_data(self, data: bytes) -> None:
        if not self.first_s:
            self.first_s = time.monotonic() - self.began_s
        if self._events is None:
            return
        for payload in self._events.feed(data):
            self.n_events += 1
            if payload.replace(b" ", b"").startswith(b"{" + _ERROR_EVENT):
                self.failure = "an error event in the stream"

    def on_end(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)

    def on_error(self, error: UpstreamError) -> None:
        if not self.ended.done():
            self.ended.set_exception(error)


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
        lines += [f"  {count} x {printable(what)}" for what, count in shown]
    return lines


def _row(name: str, samples: list[float]) -> tuple[str, ...]:
    ordered = sorted(samples)
    ranks = [math.ceil(share / 100 * len(ordered)) - 1 for share in _SHARES]
    return (name, *(f"{ordered[rank] * 1000:.1f}" for rank in (*ranks, -1)))
