"""
Many clients at once, and what each of their requests came to.

They speak HTTP by themselves: hundreds of them must cost less than the gateways they ask. Each
request has a connection of its own, to the next gateway in turn, as behind a plain load balancer.
"""

import asyncio
import itertools
import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

_TIMEOUT_S = 60.0
_RETRYABLE = frozenset({408, 409, 429, 500, 502, 503, 504, 529})
End = Literal["complete", "error", "cut", "refused", "reset", "late"]


@dataclass(frozen=True)
class Outcome:
    """
    What one request came to.

    Attributes:
        end: ``complete``: a whole message; ``error``: an error, before or in the stream; ``cut``:
            a reply had begun and broke off; ``refused``: no connection; ``reset``: it broke before
            any reply.
    """

    replica: int
    began_s: float  # monotonic
    ended_s: float
    end: End
    is_stream: bool
    status: int = 0
    request_id: str = ""
    error: str = ""
    message: str = ""
    should_retry: str = ""
    retry_after: str = ""

    @property
    def is_bearable(self) -> bool:
        """Whether a client library would try again by itself, or sees a stream that was cut."""
        if self.end in ("complete", "refused", "reset") or (self.end == "cut" and self.is_stream):
            return True
        if self.end == "cut":  # a whole reply that broke off: a broken connection to a library
            return True
        if self.end == "error" and self.status == 200:  # in a begun stream
            return self.error in ("overloaded_error", "api_error", "timeout_error")
        return self.status in _RETRYABLE and self.should_retry != "false"


class Crowd:
    """
    Clients that ask again and again.

    Args:
        ports: Of the gateways.
        key: What they show.
        pause_s: Between two requests of one client.
        max_tokens: What they ask for.

    Attributes:
        outcomes: Of all requests that are over.
    """

    def __init__(
        self, ports: Sequence[int], *, key: str, pause_s: float, max_tokens: int = 50
    ) -> None:
        self._ports = ports
        self._key = key
        self._pause_s = pause_s
        self._max_tokens = max_tokens
        self._turns = itertools.count()
        self.outcomes: list[Outcome] = []

    async def work(self, n: int, *, until: asyncio.Event) -> None:
        """Be *n* clients until told to stop; each ends with the request that it is at."""
        await asyncio.gather(*(self._client(number, n, until=until) for number in range(n)))

    async def once(self, n: int) -> list[Outcome]:
        """Make *n* requests at the same time, return what they came to."""
        done = await asyncio.gather(*(self._ask(is_stream=turn % 2 == 0) for turn in range(n)))
        return list(done)

    def counts(self) -> Counter[str]:
        """Return how often requests came to what, for people."""
        return Counter(
            f"{each.end} {each.status} {each.error}".strip() for each in list(self.outcomes)
        )

    async def _client(self, number: int, n: int, *, until: asyncio.Event) -> None:
        await _pause(self._pause_s * number / n, until)  # not all in the same moment
        while not until.is_set():
            await self._ask(is_stream=number % 2 == 0)
            await _pause(self._pause_s, until)

    async def _ask(self, *, is_stream: bool) -> Outcome:
        replica = next(self._turns) % len(self._ports)
        began_s = time.monotonic()
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                end, seen = await self._exchange(self._ports[replica], is_stream=is_stream)
        except TimeoutError:
            end, seen = "late", {}
        outcome = Outcome(
            replica=replica,
            began_s=began_s,
            ended_s=time.monotonic(),
            end=end,
            is_stream=is_stream,
            **seen,
        )
        self.outcomes.append(outcome)
        return outcome

    async def _exchange(self, port: int, *, is_stream: bool) -> tuple[End, dict[str, Any]]:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return "refused", {}
        try:
            writer.write(self._request(is_stream=is_stream))
            raw = await reader.read(-1)  # to the end: the gateway closes
        except OSError:
            return "reset", {}
        finally:
            writer.close()
        return _read(raw, is_stream=is_stream)

    def _request(self, *, is_stream: bool) -> bytes:
        body = json.dumps(
            {
                "model": "m",
                "max_tokens": self._max_tokens,
                "stream": is_stream,
                "messages": [{"role": "user", "content": "Hi"}],
            }
        )
        head = (
            "POST /v1/messages HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n"
            f"x-api-key: {self._key}\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        return (head + body).encode()


async def _pause(seconds: float, until: asyncio.Event) -> None:
    try:
        async with asyncio.timeout(seconds):
            await until.wait()
    except TimeoutError:
        return


def _read(raw: bytes, *, is_stream: bool) -> tuple[End, dict[str, Any]]:
    head, has_head, body = raw.partition(b"\r\n\r\n")
    if not has_head:
        return "reset", {}
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    seen = {
        "status": int(first.split()[1]),
        "request_id": headers.get("request-id", ""),
        "should_retry": headers.get("x-should-retry", ""),
        "retry_after": headers.get("retry-after", ""),
    }
    if seen["status"] == 200 and is_stream:
        return _end_of_stream(body, seen)
    if len(body) < int(headers.get("content-length", "0")):
        return "cut", seen
    if seen["status"] == 200:
        return "complete", seen
    error = json.loads(body)["error"]
    return "error", {**seen, "error": error["type"], "message": error["message"]}


def _end_of_stream(body: bytes, seen: dict[str, Any]) -> tuple[End, dict[str, Any]]:
    if b"event: message_stop" in body:
        return "complete", seen
    _, has_error, rest = body.partition(b"event: error")
    if has_error:
        start = rest.index(b"{")
        error, _ = json.JSONDecoder().raw_decode(rest[start:].decode("utf-8", "replace"))
        inner = error["error"]
        return "error", {**seen, "error": inner["type"], "message": inner["message"]}
    return "cut", seen
