"""What a gateway shares with other processes, and through what: Redis, or the workers' owner."""

import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from importlib.util import find_spec
from operator import methodcaller
from typing import Final

from msgspec import Struct

from dragoman.config import Config
from dragoman.core.errors import SharedStateUnavailable
from dragoman.exit_codes import USAGE, CommandFailed
from dragoman.policy.sharing import Board, Shelf
from dragoman.server.telemetry import EventLog
from dragoman.settings import RedisConfig
from dragoman.stores.board_redis import RedisBoard
from dragoman.stores.owner_link import OwnerLink
from dragoman.stores.redis_link import RedisLink
from dragoman.stores.redis_outbox import RedisOutbox
from dragoman.stores.sealing import Seal
from dragoman.stores.shelf_redis import RedisShelf

_VAULT_S: Final = 24 * 3600.0  # as long as a process keeps thinking
_SECRET_KNOWN_S: Final = 24 * 3600
_EXTRA: Final = ("redis", "cryptography")
_OTHER_SECRET: Final = (
    "server.signing_secret: not that of the other gateways at this Redis; what one of them has "
    "signed, kept or found out about upstreams, this one cannot read. Give all of them the same"
)


class Sharing(Struct, frozen=True, kw_only=True):
    """
    The ways to other processes; None: there are none.

    Attributes:
        shelf: For thinking that clients drop.
        board: For what one process has found out.
        redis: To all gateways.
        outbox: What is on its way there.
        owner: To the other workers of this machine.
    """

    shelf: Shelf | None = None
    board: Board | None = None
    redis: RedisLink | None = None
    outbox: RedisOutbox | None = None
    owner: OwnerLink | None = None

    async def begin(self) -> None:
        """Begin to read the board; called when all who read it watch it."""
        if isinstance(self.board, RedisBoard):
            self.board.open()
        elif self.owner is not None:
            await self.owner.read_board()


NOTHING_SHARED: Final = Sharing()


@asynccontextmanager
async def open_sharing(
    config: Config, *, secret: bytes, owner: int | None, log: EventLog
) -> AsyncIterator[Sharing]:
    """
    Open the ways to other processes, close them afterwards.

    Args:
        config: Says whether there is a Redis.
        secret: The signing secret.
        owner: Descriptor of a socket whose other end the owner of the workers has.
        log: Told when what is shared goes away and comes back.

    Raises:
        CommandFailed: There is a Redis, and its client is not installed.
    """
    async with AsyncExitStack() as stack:
        if config.redis is not None:
            yield await _over_redis(config.redis, seal=Seal(secret), stack=stack, log=log)
        elif owner is not None:
            link = OwnerLink(on_crash=log.crash)
            await link.open(socket.socket(fileno=owner))
            stack.callback(link.close)
            yield Sharing(shelf=link, board=link, owner=link)
        else:
            yield NOTHING_SHARED


def check_extra() -> None:
    """
    Do nothing if what Redis needs is installed.

    Raises:
        CommandFailed: It is not.
    """
    if missing := [name for name in _EXTRA if find_spec(name) is None]:
        line = f"redis: needs {' and '.join(missing)}: pip install 'dragoman[redis]'"
        raise CommandFailed(line, code=USAGE)


async def _over_redis(
    config: RedisConfig, *, seal: Seal, stack: AsyncExitStack, log: EventLog
) -> Sharing:
    check_extra()
    link = RedisLink(config)
    link.on_change(partial(_log_change, log))
    stack.push_async_callback(link.close)
    await link.open()
    outbox = RedisOutbox(link)
    stack.push_async_callback(outbox.close)
    board = RedisBoard(link, outbox, on_crash=log.crash)
    stack.push_async_callback(board.close)
    await _compare_secret(link, seal.fingerprint(), log=log)
    shelf = RedisShelf(link, outbox, seal=seal, ttl_s=_VAULT_S)
    return Sharing(shelf=shelf, board=board, redis=link, outbox=outbox)


def _log_change(log: EventLog, is_there: bool, reason: str) -> None:
    log.event("redis", state="back" if is_there else "away", reason=reason)


async def _compare_secret(link: RedisLink, fingerprint: str, *, log: EventLog) -> None:
    """Say so if the signing secret is not that of the gateways that were here before."""
    name = link.key("signing-secret")
    write = methodcaller("set", name, fingerprint, nx=True, ex=_SECRET_KNOWN_S)
    try:
        await link.run(write)
        known = await link.run(methodcaller("get", name))
        if known == fingerprint.encode():
            await link.run(methodcaller("expire", name, _SECRET_KNOWN_S))
        elif known is not None:
            log.event("warning", text=_OTHER_SECRET)
    except SharedStateUnavailable:  # it is away, which the log says by itself
        return
