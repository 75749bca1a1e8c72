"""Both seams without sockets: an exchange that records, an upstream that plays a script."""

import asyncio
from collections.abc import Callable, Sequence
from copy import copy

from dragoman.core.errors import RequestTooLarge, UpstreamError
from dragoman.server.transport.reply_head import with_length
from dragoman.server.transport.seams import (
    ClientGone,
    ExchangeWatcher,
    HeaderList,
    Receiver,
    SentHeaders,
    UpstreamRequest,
)


class Watcher:
    """Notes what an exchange tells it, in order."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def on_gone(self) -> None:
        self.told.append("gone")

    def on_pause(self) -> None:
        self.told.append("pause")

    def on_resume(self) -> None:
        self.told.append("resume")


class FakeExchange:
    """A client's request whose reply is kept."""

    is_body_at_hand = True

    def __init__(
        self,
        body: bytes = b"",
        *,
        method: str = "POST",
        path: str = "/v1/messages",
        query: str = "",
        headers: dict[bytes, bytes] | None = None,
    ) -> None:
        self.method, self.path, self.query = method, path, query
        usual = {b"host": b"127.0.0.1", b"content-type": b"application/json"}
        self.headers = SentHeaders({**usual, **(headers or {})})
        self.peer = "127.0.0.1"
        self.gone = False
        self.status = 0
        self.reply_headers: dict[bytes, bytes] = {}
        self.written: list[bytes] = []
        self.is_ended = self.is_aborted = False
        self._body = body
        self._watcher: ExchangeWatcher | None = None

    @property
    def reply(self) -> bytes:
        return b"".join(self.written)

    @property
    def reply_started(self) -> bool:
        return self.status != 0

    def body_at_hand(self, max_bytes: int) -> bytes | None:
        is_short = len(self._body) <= max_bytes
        return self._body if is_short and self.is_body_at_hand and not self.gone else None

    async def read_body(self, max_bytes: int) -> bytes:
        if self.gone:
            raise ClientGone
        if len(self._body) > max_bytes:
            raise RequestTooLarge(f"The request body is larger than {max_bytes} bytes.")
        return self._body

    def watch(self, watcher: ExchangeWatcher | None) -> None:
        self._watcher = watcher

    def reply_whole(
        self, status: int, headers: HeaderList, body: bytes, lines: bytes = b""
    ) -> None:
        self.start_reply(status, with_length(headers, body), lines)
        self.write(body)
        self.end_reply()

    def start_reply(self, status: int, headers: HeaderList, lines: bytes = b"") -> None:
        assert self.status == 0, "the reply was started twice"
        self.status = status
        further = [line.partition(b": ")[::2] for line in lines.splitlines()]
        self.reply_headers = dict([*headers, *further])

    def write(self, data: bytes) -> None:
        assert self.status, "written before the head"
        assert not self.is_ended, "written after the end"
        self.written.append(data)

    def end_reply(self) -> None:
        assert not self.is_ended, "ended twice"
        self.is_ended = True
        self._watcher = None

    def abort(self) -> None:
        self.is_aborted = True

    def leave(self) -> None:
        self.gone = True
        if self._watcher is not None:
            self._watcher.on_gone()

    def pause(self) -> None:
        assert self._watcher is not None
        self._watcher.on_pause()

    def resume(self) -> None:
        assert self._watcher is not None
        self._watcher.on_resume()


Step = Callable[[Receiver], None]


def head(status: int = 200, **headers: str) -> Step:
    fields = {k.replace("_", "-").encode(): v.encode() for k, v in headers.items()}
    fields.setdefault(b"content-type", b"text/event-stream")
    return lambda receiver: receiver.on_head(status, fields)


def data(body: bytes) -> Step:
    return lambda receiver: receiver.on_data(body)


def end() -> Step:
    return lambda receiver: receiver.on_end()


def fail(error: UpstreamError) -> Step:
    return lambda receiver: receiver.on_error(error)


class FakeCall:
    """One call under way; ``events`` tells what was done to it."""

    def __init__(self, receiver: Receiver, steps: Sequence[Step | float]) -> None:
        self._receiver = receiver
        self._steps = list(steps)
        self.events: list[str] = []
        self.is_over = self.is_complete = False
        asyncio.get_running_loop().call_soon(self._play)

    def pause(self) -> None:
        self.events.append("pause")

    def resume(self) -> None:
        self.events.append("resume")

    def abort(self) -> None:
        self.events.append("abort")
        self.is_over = True

    def _play(self) -> None:
        while self._steps and not self.is_over:
            step = self._steps.pop(0)
            if isinstance(step, float | int):
                asyncio.get_running_loop().call_later(step, self._play)
                return
            step(self._receiver)


class FakeUpstream:
    """Answers each call with the next script; a number in a script is a wait in seconds."""

    def __init__(self, *scripts: Sequence[Step | float]) -> None:
        self._scripts = list(scripts)
        self.requests: list[UpstreamRequest] = []
        self.calls: list[FakeCall] = []

    def send(self, request: UpstreamRequest, receiver: Receiver) -> FakeCall:
        assert self._scripts, "one call more than the script has"
        self.requests.append(copy(request))  # its sender may empty it
        call = FakeCall(receiver, self._scripts.pop(0))
        self.calls.append(call)
        return call

    def describe(self, request: UpstreamRequest) -> tuple[str, list[tuple[str, str]]]:
        headers = [(name.decode(), value.decode()) for name, value in request.headers]
        credential = ("authorization", "Bearer lab-credential-never-shown")
        return f"http://lab/v1{request.path}", [("host", "lab"), credential, *headers]

    async def close(self) -> None:
        for call in self.calls:
            call.abort()
