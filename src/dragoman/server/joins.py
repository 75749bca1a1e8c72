"""
Identical requests that come while the first of them waits for its first byte share its reply.

Clients send a request again when they have waited too long, and a model that is still reading the
prompt would read it twice. Only what one key sends, byte by byte the same, is taken for the same.
"""

import asyncio
from collections.abc import Awaitable, Callable
from hashlib import blake2b
from typing import Final

import msgspec
from msgspec import Struct, structs

from dragoman.server.asked import Asked
from dragoman.server.fan_out import FanOut, Member
from dragoman.server.telemetry import RequestRecord
from dragoman.server.transport.seams import Exchange

_MAX_MEMBERS: Final = 16  # of one reply: more than any client tries
_encode: Final = msgspec.json.Encoder().encode
# Of a request's record, what is its own; all else is of the reply, and stands with who pays.
_OWN: Final = frozenset(
    {
        *("request_id", "method", "path", "peer", "caller", "sender", "started_s"),
        *("status", "joined"),
    }
)
# What those know of the reply who pay nothing.
_SHOWN: Final = (
    *("alias", "upstream", "endpoint", "upstream_model", "stop_reason"),
    *("error_type", "error_detail"),
)

Answer = Callable[[Exchange, RequestRecord], Awaitable[None]]


class _Shared(Struct):
    """
    A reply that is shared, and the task that makes it.

    Attributes:
        record: What the reply was and cost.
        is_paid: One of the requests has that in its own record.
    """

    reply: FanOut
    record: RequestRecord
    task: asyncio.Task[None]
    is_paid: bool = False


class Joins:
    """
    The replies that further requests may join. Belongs to one event loop.

    Attributes:
        n_joined: Requests that did, since the start.
    """

    def __init__(self) -> None:
        self.n_joined = 0
        self._shared: dict[bytes, _Shared] = {}

    async def serve(
        self, exchange: Exchange, record: RequestRecord, *, asked: Asked, answer: Answer
    ) -> None:
        """
        Answer a request, together with others that are the same.

        Args:
            exchange: The request.
            record: Of it.
            asked: What it says.
            answer: Answers it alone.

        Raises:
            GatewayError: Nothing has been sent; the caller answers.
            ClientGone: The client left.
        """
        key = _key_of(record, asked)
        shared = self._shared.get(key)
        if shared is None or not _may_join(shared):
            shared = self._begin(key, exchange, record=record, answer=answer)
        else:
            self.n_joined += 1
            record.joined = shared.record.request_id
        member = shared.reply.join(exchange, record)
        try:
            await member.done
        except asyncio.CancelledError:  # the gateway stops; whoever makes the reply says so
            shared.task.cancel()
            await asyncio.wait([shared.task])
            raise
        finally:
            await _part(shared, member)

    def _begin(
        self, key: bytes, exchange: Exchange, *, record: RequestRecord, answer: Answer
    ) -> _Shared:
        reply, work = FanOut(exchange), structs.replace(record, calls=[])
        task = asyncio.get_running_loop().create_task(_run(answer, reply, work))
        shared = self._shared[key] = _Shared(reply=reply, record=work, task=task)

        def forget(_: asyncio.Task[None]) -> None:
            if self._shared.get(key) is shared:
                del self._shared[key]

        task.add_done_callback(forget)
        return shared


def _key_of(record: RequestRecord, asked: Asked) -> bytes:
    digest = blake2b(asked.body, digest_size=32)
    digest.update(_encode([record.caller.key_id, asked.alias, *asked.native_headers]))
    return digest.digest()


def _may_join(shared: _Shared) -> bool:
    reply = shared.reply
    is_waiting = not (reply.has_content or reply.gone or shared.task.done())
    return is_waiting and len(reply.members) < _MAX_MEMBERS


async def _run(answer: Answer, reply: FanOut, record: RequestRecord) -> None:
    """Make the reply; whoever waits for it is told how that ends."""
    try:
        await answer(reply, record)
    except BaseException as error:
        reply.fail_all(error)
        if not isinstance(error, Exception):
            raise
    else:
        reply.fail_all(None)


async def _part(shared: _Shared, member: Member) -> None:
    """Go one's own way again, with the costs if nobody else has taken them."""
    shared.reply.leave(member)
    if member.has_ended or not shared.reply.members:
        await asyncio.wait([shared.task])  # it is about to write down what it has cost
    record, work = member.record, shared.record
    is_payer = shared.task.done() and not shared.is_paid
    names = [name for name in work.__struct_fields__ if name not in _OWN] if is_payer else _SHOWN
    shared.is_paid = shared.is_paid or is_payer
    for name in names:
        setattr(record, name, getattr(work, name))
