"""An owner and links to it, as workers have them, all in one event loop."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from dragoman.stores.owner import Owner
from dragoman.stores.owner_link import OwnerLink


def fail(error: BaseException) -> None:
    raise AssertionError(error)


@asynccontextmanager
async def workers(n: int) -> AsyncIterator[tuple[Owner, list[OwnerLink]]]:
    """Open *n* links to one owner."""
    owner = Owner(on_crash=fail)
    links = [OwnerLink(on_crash=fail) for _ in range(n)]
    for link in links:
        await link.open(await owner.connect())
    yield owner, links
    for link in links:
        link.close()
    owner.close()
    await asyncio.sleep(0.01)


async def until(is_true: Callable[[], bool]) -> None:
    """Wait until it is."""
    async with asyncio.timeout(20):
        while not is_true():  # noqa: ASYNC110
            await asyncio.sleep(0.001)
