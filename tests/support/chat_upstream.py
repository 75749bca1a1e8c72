"""
A chat-completions upstream that plays a script, for tests with real clients and a real gateway.

It runs on a loop of its own in a thread, so that synchronous tests can use it, and records every
request together with what became of it.
"""

import asyncio
import json
import threading
import time
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Any, Literal, Self

from support.chat_script import BEFORE_HEAD, Reply, Rule, give, refuse, render_events, render_whole

_MAX_HEAD_BYTES = 64 * 2**10


@dataclass
class Recorded:
    """One request, and what became of it. ``outcome`` is set last."""

    method: str
    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    raw_body: bytes
    at_s: float
    head_at_s: float | None = None  # when our status line went out
    ended_at_s: float | None = None
    outcome: Literal["", "done", "dropped", "gone"] = ""  # gone: the client left first
    events_sent: int = 0
    ended: threading.Event = field(default_factory=threading.Event)

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The messages of the conversation."""
        messages: list[dict[str, Any]] = self.body.get("messages") or []
        return messages

    @property
    def tool_names(self) -> list[str]:
        """The functions offered."""
        return [tool["function"]["name"] for tool in self.body.get("tools") or []]

    def wait_gone(self, timeout_s: float) -> bool:
        """Wait until this call ended; tell whether because the client left."""
        return self.ended.wait(timeout_s) and self.outcome == "gone"


class ChatUpstream:
    """The server; a context manager. Its attributes may be read from any thread."""

    def __init__(self, *rules: Rule, models: tuple[str, ...] = ("deepseek-v3.1",)) -> None:
        self.requests: list[Recorded] = []  # chat completions only
        self.others: list[Recorded] = []  # models, tokenize, unknown paths
        self.unmatched: list[Recorded] = []
        self.open_connections = 0
        self.total_connections = 0
        self.open_calls = 0
        self.models = models
        self.tokens_per_request: int | None = 42  # answered by the counting endpoints; None: 404
        self._rules = list(rules)
        self._lock = threading.Lock()
        self._arrived = threading.Condition(self._lock)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._server: asyncio.Server | None = None
        self.connections: set[_Connection] = set()
        self.port = 0

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = self._run(self._listen())
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    @property
    def url(self) -> str:
        """The base URL, as a user would write it into the configuration."""
        return f"http://127.0.0.1:{self.port}/v1"

    def script(self, *rules: Rule) -> None:
        """Forget the past and play *rules* from now on."""
        with self._lock:
            self._rules = [replace(rule) for rule in rules]
            self.requests.clear()
            self.others.clear()
            self.unmatched.clear()

    def wait_request(self, count: int = 1, timeout_s: float = 5) -> Recorded:
        """Wait until *count* chat requests have come, return the last of them."""
        with self._arrived:
            if not self._arrived.wait_for(lambda: len(self.requests) >= count, timeout_s):
                raise AssertionError(f"{len(self.requests)} of {count} requests came")
            return self.requests[count - 1]

    def wait_idle(self, timeout_s: float = 5) -> None:
        """Wait until no call is open."""
        for recorded in [*self.requests, *self.others]:
            assert recorded.ended.wait(timeout_s), f"still open: {recorded.path}"

    def choose(self, recorded: Recorded) -> Reply:
        """Record a chat request and pick its reply."""
        with self._arrived:
            self.requests.append(recorded)
            self._arrived.notify_all()
            for rule in self._rules:
                if rule.matches(recorded.body):
                    rule.times -= 1 if rule.times > 0 else 0
                    return rule.reply
            self.unmatched.append(recorded)
        return refuse(400, "the script has no reply for this request").reply

    def _run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _listen(self) -> asyncio.Server:
        return await self._loop.create_server(lambda: _Connection(self), "127.0.0.1", 0)

    async def _stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for connection in list(self.connections):
            connection.abort()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Connection(asyncio.Protocol):
    """One connection: requests one after another."""

    def __init__(self, upstream: ChatUpstream) -> None:
        self._upstream = upstream
        self._buffer = b""
        self._gone = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._upstream.connections.add(self)
        self._upstream.open_connections += 1
        self._upstream.total_connections += 1

    def connection_lost(self, exc: Exception | None) -> None:
        self._upstream.connections.discard(self)
        self._upstream.open_connections -= 1
        self._gone.set()

    def eof_received(self) -> bool:
        self._gone.set()
        return False

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._task is None and (request := self._take_request()):
            self._task = asyncio.create_task(self._answer(request))

    def abort(self) -> None:
        self._transport.abort()

    def _take_request(self) -> Recorded | None:
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found:
            assert len(head) < _MAX_HEAD_BYTES, "a request head without an end"
            return None
        first, *lines = head.decode("latin-1").split("\r\n")
        method, path, _ = first.split(" ")
        pairs = (line.split(":", 1) for line in lines)
        headers = {name.lower(): value.strip() for name, value in pairs}
        length = int(headers.get("content-length", 0))
        if len(rest) < length:
            return None
        raw, self._buffer = rest[:length], rest[length:]
        body = json.loads(raw) if raw else {}
        return Recorded(method, path, headers, body, raw, time.monotonic())

    async def _answer(self, recorded: Recorded) -> None:
        self._upstream.open_calls += 1
        try:
            await self._reply(recorded)
            recorded.outcome = recorded.outcome or "done"
        except _ClientLeft:
            recorded.outcome = "gone"
        finally:
            recorded.ended_at_s = time.monotonic()
            self._upstream.open_calls -= 1
            recorded.ended.set()
            self._task = None
        if recorded.outcome != "done":
            self._transport.abort()
        elif request := self._take_request():
            self._task = asyncio.create_task(self._answer(request))

    async def _reply(self, recorded: Recorded) -> None:
        path = recorded.path.split("?")[0]
        if recorded.method == "POST" and path.endswith("/chat/completions"):
            reply = self._upstream.choose(recorded)
            await self._send(recorded, reply)
            return
        self._upstream.others.append(recorded)
        status, answer = _other_endpoint(self._upstream, path)
        await self._send(recorded, give(json.dumps(answer).encode(), status=status).reply)

    async def _send(self, recorded: Recorded, reply: Reply) -> None:
        if reply.silent_after == BEFORE_HEAD:
            await self._wait_gone(None)
        await self._wait_gone(reply.head_delay_s)
        if reply.drop_after == BEFORE_HEAD:
            recorded.outcome = "dropped"
            return
        is_stream = reply.raw is None and bool(recorded.body.get("stream"))
        content_type = "text/event-stream" if is_stream else "application/json"
        self._start(recorded, reply, reply.content_type or content_type)
        if is_stream:
            events = list(render_events(reply, recorded.body))
        else:
            whole = json.dumps(render_whole(reply, recorded.body)).encode()
            events = [whole if reply.raw is None else reply.raw]
        await self._send_events(recorded, reply, events)

    async def _send_events(self, recorded: Recorded, reply: Reply, events: list[bytes]) -> None:
        stops = [
            n for n in (reply.drop_after, reply.eof_after, reply.silent_after) if n is not None
        ]
        limit = min(stops, default=len(events))
        for number, event in enumerate(events[:limit]):
            self._write(event, is_chunk=not reply.close)
            recorded.events_sent = number + 1
            await self._wait_gone(reply.delay_s)
        if reply.cut_event:
            self._write(events[limit][: len(events[limit]) // 2], is_chunk=not reply.close)
        if reply.silent_after is not None:
            await self._wait_gone(None)
        if reply.drop_after is not None:
            await asyncio.sleep(0.02)  # let what was written reach the other side before the reset
            recorded.outcome = "dropped"
        elif reply.close:
            self._transport.close()
        else:
            self._transport.write(b"0\r\n\r\n")

    def _start(self, recorded: Recorded, reply: Reply, content_type: str) -> None:
        lines = [f"HTTP/1.1 {reply.status} {_reason(reply.status)}"]
        lines += [f"content-type: {content_type}"]
        lines += [f"{name}: {value}" for name, value in reply.headers]
        lines += ["connection: close" if reply.close else "transfer-encoding: chunked", "", ""]
        self._transport.write("\r\n".join(lines).encode())
        recorded.head_at_s = time.monotonic()

    def _write(self, data: bytes, *, is_chunk: bool) -> None:
        if data:
            self._transport.write(b"%x\r\n%b\r\n" % (len(data), data) if is_chunk else data)

    async def _wait_gone(self, timeout_s: float | None) -> None:
        """Wait; leave at once when the client does. None waits for that only."""
        if timeout_s == 0:
            if self._gone.is_set():
                raise _ClientLeft
            return
        try:
            await asyncio.wait_for(self._gone.wait(), timeout_s)
        except TimeoutError:
            return
        raise _ClientLeft


class _ClientLeft(Exception):
    """The other side closed the connection."""


def _reason(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:  # 529 and its like
        return "Unknown"


def _other_endpoint(upstream: ChatUpstream, path: str) -> tuple[int, dict[str, Any]]:
    """Answer like an engine's GET models and its counting endpoints (llama.cpp, vLLM)."""
    count = upstream.tokens_per_request
    if path.endswith("/models"):
        data = [{"id": name, "object": "model", "owned_by": "lab"} for name in upstream.models]
        return 200, {"object": "list", "data": data}
    if path.endswith("/tokenize") and count is not None:
        return 200, {"count": count, "max_model_len": 131072, "tokens": [1] * count}
    if path.endswith("/apply-template") and count is not None:
        return 200, {"prompt": "x" * count}
    return 404, {"error": {"message": f"no such path: {path}", "type": "not_found_error"}}
