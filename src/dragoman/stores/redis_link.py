"""
One way to Redis for all that gateways share: its connections, and whether it is there.

While Redis is away nothing waits for it: calls fail at once, and one task asks again and again.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

from dragoman.core.errors import SharedStateUnavailable
from dragoman.settings import RedisConfig
from dragoman.stores.loop_time import LoopTimeout

if TYPE_CHECKING:
    from redis import asyncio as library

    # For those, too, that may not import the library.
    Redis: TypeAlias = library.Redis
    Pipeline: TypeAlias = library.client.Pipeline

_T = TypeVar("_T")
_LATE_IN_A_ROW: Final = 3  # then it is away; a single late answer may be our own fault
_CONNECTION_S: Final = 60.0  # to wait for a free one: ``run`` is over long before
_N_CONNECTING: Final = 5  # times what is allowed for it; the library goes by the wall clock
_LISTEN_S: Final = 1.0  # then it is looked whether Redis is there at all
_LONG_AGO_MS: Final = 1  # since 1970
_MAX_REASON_CHARS: Final = 200
Told = Callable[[bool, str], None]


class RedisLink:
    """
    Calls of one process to Redis. Belongs to one event loop.

    Args:
        config: Where it is, and how long to wait.

    Attributes:
        is_there: Whether calls are tried; False until ``open``.
        n_done: Calls that were answered.
        n_failed: Calls that failed, or were not made because it was away.
        n_lost: How often it went away.
    """

    def __init__(self, config: RedisConfig) -> None:
        self._config = config
        self._client: Redis | None = None
        self._told: list[Told] = []
        self._asking: asyncio.Task[None] | None = None
        self._late = 0
        self.is_there = False
        self.n_done = 0
        self.n_failed = 0
        self.n_lost = 0

    @property
    def client(self) -> "Redis":
        """The library's own client, made when it is first needed."""
        if self._client is None:
            self._client = _new_client(self._config)
        return self._client

    def key(self, *parts: str) -> str:
        """Return the name of a key of ours."""
        return ":".join((self._config.prefix, *parts))

    def on_change(self, told: Told) -> None:
        """Have *told* called whenever Redis goes away or is back, with the reason it went."""
        self._told.append(told)

    async def open(self) -> None:
        """Ask whether it is there; if it is not, go on asking until it is, or ``close``."""
        if reason := await self._ask_once():
            self._lose(reason)

    async def run(self, work: Callable[["Redis"], Awaitable[_T]]) -> _T:
        """
        Return what *work*, one round trip, returns.

        Raises:
            SharedStateUnavailable: Redis is away, late, or refuses.
        """
        if not self.is_there:
            self.n_failed += 1
            raise SharedStateUnavailable("Redis is away")
        n_before = self.n_done
        try:
            async with LoopTimeout(self._config.timeout_s, lambda: self.n_done):
                done = await work(self.client)
        except TimeoutError:
            if self.n_done == n_before:  # else it answers, and we ask too much at once
                self._late += 1
            reason = f"no answer within {self._config.timeout_s} s"
            if self._late >= _LATE_IN_A_ROW:
                self._lose(reason)
        except _redis_errors() as error:
            reason = _reason(error)
            self._lose(reason)
        else:
            self._late = 0
            self.n_done += 1
            return done
        self.n_failed += 1
        raise SharedStateUnavailable(f"Redis: {reason}")

    async def listen(
        self,
        channel: str,
        *,
        begun: Callable[[], Awaitable[None]],
        hear: Callable[[bytes], None],
    ) -> None:
        """
        Have *hear* called with all that is published, for as long as Redis is there.

        Args:
            channel: Where it is published.
            begun: Awaited as soon as nothing is missed any more.
            hear: Takes what was published.

        Raises:
            SharedStateUnavailable: Redis is away, or has gone away.
        """
        if not self.is_there:
            raise SharedStateUnavailable("Redis is away")
        try:
            async with self.client.pubsub() as subscription:
                async with LoopTimeout(self._config.connect_timeout_s):
                    await subscription.subscribe(channel)
                while self.is_there:
                    message = await subscription.get_message(timeout=_LISTEN_S)
                    if message is not None and message["type"] == "subscribe":
                        await begun()
                    elif message is not None:
                        hear(message["data"])
        except TimeoutError:
            self._lose(f"no answer within {self._config.connect_timeout_s} s")
        except _redis_errors() as error:
            self._lose(_reason(error))
        raise SharedStateUnavailable("Redis has gone away")

    async def close(self) -> None:
        """Close all connections, and stop asking."""
        self.is_there = False
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)
        if self._client is not None:
            await self._client.aclose()

    def _lose(self, reason: str) -> None:
        if self._asking is not None and not self._asking.done():
            return
        was_there, self.is_there = self.is_there, False
        self.n_lost += was_there
        self._asking = asyncio.get_running_loop().create_task(self._ask(), name="redis")
        self._tell(is_there=False, reason=reason)

    async def _ask(self) -> None:
        """Ask until it answers; connections that it has dropped are opened anew."""
        await self.client.connection_pool.disconnect(inuse_connections=False)
        while await self._ask_once():  # noqa: ASYNC110 - it does not tell us
            await asyncio.sleep(self._config.retry_interval_s)
        self._tell(is_there=True, reason="")

    async def _ask_once(self) -> str:
        """Return why it does not answer; empty: it does, and is there from now on."""
        client = self.client  # before the clock runs: the library takes its time to load
        try:
            async with LoopTimeout(self._config.connect_timeout_s):
                await _try_out(client, self.key("probe"), self.key("board"))
        except TimeoutError:
            return f"no answer within {self._config.connect_timeout_s} s"
        except _redis_errors() as error:
            return _reason(error)
        self._late = 0
        self.is_there = True
        return ""

    def _tell(self, *, is_there: bool, reason: str) -> None:
        for told in self._told:
            told(is_there, reason)


async def _try_out(client: "Redis", key: str, other: str) -> None:
    """
    Write, and look at two keys at once.

    One that answers and takes nothing is no use, as a replica or one that is full; nor is a
    cluster, on one machine of which scripts do not find all their counters.
    """
    written: Any = client.set(key, b"", pxat=_LONG_AGO_MS)  # over before it begins
    await written  # typed as the synchronous client's, too
    seen: Any = client.exists(key, other)
    await seen


def _new_client(config: RedisConfig) -> "Redis":
    """Load the library, which is large, and return a client that never tries anything twice."""
    import redis.asyncio as library  # noqa: PLC0415 - only gateways that share state need it
    from redis.asyncio.retry import Retry  # noqa: PLC0415
    from redis.backoff import NoBackoff  # noqa: PLC0415

    pool = library.BlockingConnectionPool.from_url(
        config.url.reveal(),
        max_connections=config.max_connections,
        timeout=_CONNECTION_S,
        socket_connect_timeout=_N_CONNECTING * config.connect_timeout_s,
        socket_timeout=None,  # ``run`` bounds the whole; a subscription waits for ever
        protocol=2,
        retry=Retry(NoBackoff(), 0),
        health_check_interval=0,
    )
    return library.Redis.from_pool(pool)


def _redis_errors() -> tuple[type[Exception], ...]:
    from redis.exceptions import RedisError  # noqa: PLC0415 - as above

    return (RedisError, OSError)


def _reason(error: Exception) -> str:
    text = f"{type(error).__name__}: {error}"
    return text[:_MAX_REASON_CHARS]


class Script:
    """
    A script that Redis runs as one step, sent whole only where Redis does not know it yet.

    Args:
        text: In Lua.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()

    async def run(
        self, client: "Redis", keys: Sequence[str], arguments: Sequence[str | int]
    ) -> Any:  # noqa: ANN401 - what the script returns
        """Return what it returns; keys come before arguments."""
        from redis.exceptions import NoScriptError  # noqa: PLC0415 - as above

        answer: Any = client.evalsha(self._digest, len(keys), *keys, *arguments)
        try:
            return await answer
        except NoScriptError:
            answer = client.eval(self._text, len(keys), *keys, *arguments)
            return await answer
