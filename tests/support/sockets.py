"""The real gateway between real sockets: a scripted upstream behind it, raw bytes before it."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.chat_upstream import ChatUpstream
from support.gateway import GatewayProcess
from support.raw_http import Client, Reply
from support.sse_grammar import AssembledMessage, check_message, check_stream

ASK: dict[str, Any] = {
    "model": "m",
    "max_tokens": 50,
    "messages": [{"role": "user", "content": "Hi"}],
}
KEY = "lab-secret"
# ``m`` waits; ``hasty`` does not; ``backed`` has an upstream to fall back on; ``dead`` has none.
_CONFIG = """
[server]
early_start_s = 0.4
ping_interval_s = 0.4

[upstreams.lab]
base_url = "{url}"
api_key = "lab-secret"

[upstreams.nowhere]
base_url = "http://127.0.0.1:9/v1"
retries = 0

[upstreams.native]
kind = "anthropic"
base_url = "{url}"
api_key = "lab-secret"

[models.m]
upstream = "lab"
[models.hasty]
upstream = "lab"
first_byte_timeout_s = 0.5
idle_timeout_s = 0.5
[models.backed]
upstream = ["nowhere", "lab"]
[models.dead]
upstream = "nowhere"
[models.theirs]
upstream = "native"
"""


@dataclass
class Site:
    """A gateway process and its upstream."""

    upstream: ChatUpstream
    gateway: GatewayProcess

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        """Connect; the connection is closed in the end."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.gateway.port)
        client = Client(reader, writer)
        try:
            yield client
        finally:
            await client.close()

    async def ask(self, *requests: bytes) -> Reply:
        """Send bytes on a connection of their own, return the first reply."""
        async with self.client() as client:
            return await client.ask(b"".join(requests))

    def records(self) -> list[dict[str, Any]]:
        """What the log says of requests."""
        lines = [json.loads(x) for x in self.gateway.log().splitlines() if x.startswith("{")]
        return [line for line in lines if line["event"] == "request"]

    async def next_record(self, before: int) -> dict[str, Any]:
        """Wait for one more line than there were *before*, return it."""
        async with asyncio.timeout(20):
            while len(self.records()) <= before:  # noqa: ASYNC110 - a file has no event
                await asyncio.sleep(0.02)
        return self.records()[before]

    def resident_bytes(self) -> int:
        """Memory of the gateway."""
        status = Path(f"/proc/{self.gateway.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
        return int(line.split()[1]) * 1024


@contextmanager
def open_site(folder: Path, **env: str) -> Iterator[Site]:
    """Start both; at the end nothing has crashed, and no secret is in the log."""
    with ChatUpstream() as upstream:
        config = _CONFIG.format(url=upstream.url)
        settings = {"DRAGOMAN_SERVER_LOG_FORMAT": "json", **env}
        with GatewayProcess(folder, config=config, env=settings) as gateway:
            yield Site(upstream, gateway)
        assert KEY not in gateway.log()
        assert '"event":"crash"' not in gateway.log(), gateway.log()[-3000:]
        assert "Traceback" not in gateway.log(), gateway.log()[-3000:]


def post(body: Any = None, /, *fields: str, path: str = "/v1/messages", **changes: Any) -> bytes:
    """Return a request: ``ASK`` with *changes*, other JSON, or bytes as they are."""
    raw = body if isinstance(body, bytes) else json.dumps(body or ASK | changes).encode()
    lines = [f"POST {path} HTTP/1.1", "host: 127.0.0.1", "content-type: application/json"]
    head = "\r\n".join([*lines, *fields, f"content-length: {len(raw)}", "", ""])
    return head.encode() + raw


def read(reply: Reply) -> AssembledMessage:
    """Return the message of a reply, streamed or whole."""
    assert (reply.status, reply.is_cut) == (200, False), reply.body
    if reply.headers[b"content-type"].startswith(b"text/event-stream"):
        return check_stream(reply.body)
    return check_message(reply.body)
