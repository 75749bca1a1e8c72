"""
Two replicas of the embedded engine as one Ray Serve application.

On a GPU fleet this file is replaced by Ray Serve LLM, which serves vLLM behind the same chat
completions API; for the gateway nothing changes.
"""

import asyncio
from collections.abc import AsyncIterator

import aiohttp
from ray import serve
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from dragoman.engine import Engine, demo_model

_TIMEOUT = aiohttp.ClientTimeout(total=600)


@serve.deployment(
    num_replicas=2,
    max_ongoing_requests=8,
    ray_actor_options={"num_cpus": 0.5},
    graceful_shutdown_timeout_s=10,
)
class Replica:
    """One engine process; Ray Serve deals the requests out among the replicas."""

    def __init__(self) -> None:
        self._engine = Engine(demo_model())
        self._starting = asyncio.Lock()
        self._client: aiohttp.ClientSession | None = None
        self._answered = 0

    async def __call__(self, request: Request) -> Response:
        """Pass one request to this replica's engine, and its reply back as it comes."""
        client = await self._started()
        path = request.url.path
        if path == "/replica":  # for run.py, which shows who has answered
            name = serve.get_replica_context().replica_id.unique_id
            return JSONResponse({"replica": name, "answered": self._answered})
        reply = await client.request(
            request.method,
            self._engine.base_url.removesuffix("/v1") + path,
            data=await request.body(),
            headers={"content-type": "application/json"},
        )
        self._answered += path.endswith("/chat/completions")
        kind = reply.headers.get("content-type", "application/json")
        return StreamingResponse(_pieces(reply), status_code=reply.status, media_type=kind)

    async def _started(self) -> aiohttp.ClientSession:
        async with self._starting:
            if self._client is None:
                await self._engine.start()
                key = {"authorization": f"Bearer {self._engine.api_key}"}
                self._client = aiohttp.ClientSession(headers=key, timeout=_TIMEOUT)
        return self._client

    async def check_health(self) -> None:
        """Tell Ray Serve when this replica must be replaced."""
        if self._client is not None and self._engine.state == "failed":
            raise RuntimeError(self._engine.reason)


async def _pieces(reply: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """Yield the reply; a client that leaves closes it, and so frees the engine's slot."""
    try:
        async for piece in reply.content.iter_any():
            yield piece
    finally:
        reply.close()


app = Replica.bind()
