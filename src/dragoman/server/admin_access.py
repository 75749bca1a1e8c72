"""Who may use the admin API: whoever sends an admin key of the store."""

import asyncio
import datetime as dt
from collections.abc import Awaitable, Callable
from typing import Final

from dragoman.core.errors import AuthenticationFailed
from dragoman.policy.access import AdminKey
from dragoman.policy.key_texts import digest_of, is_admin_key
from dragoman.policy.keys import sent_keys
from dragoman.policy.store import Store
from dragoman.server.transport.seams import Headers

_MAX_AT_ONCE: Final = 4  # look-ups: whoever tries keys waits for himself
_HOW: Final = (
    "send an admin key as x-api-key or as Authorization: Bearer; "
    "`dragoman admin-keys create` makes one"
)


class AdminAccess:
    """
    Recognise admin keys; each time the store is asked, so that a revoked one is refused at once.

    Args:
        get_store: Returns the store, opened; None: there is none, and nobody is let in.
    """

    def __init__(self, get_store: Callable[[], Awaitable[Store]] | None) -> None:
        self._get_store = get_store
        self._slots = asyncio.Semaphore(_MAX_AT_ONCE)

    async def knows(self, headers: Headers) -> bool:
        """
        Tell whether *headers* hold a good admin key.

        Raises:
            StoreUnavailable: They may, and nobody can tell now.
        """
        sent = sent_keys(headers.get(b"x-api-key"), headers.get(b"authorization"))
        if not any(is_admin_key(text) for text in sent):
            return False
        try:
            await self.check(headers)
        except AuthenticationFailed:
            return False
        return True

    async def check(self, headers: Headers) -> AdminKey:
        """
        Return the key that *headers* hold, whatever its role.

        Raises:
            AuthenticationFailed: There is none, or it is not good.
            StoreUnavailable: Nobody can tell now.
        """
        sent = sent_keys(headers.get(b"x-api-key"), headers.get(b"authorization"))
        for text in sent:
            if is_admin_key(text) and self._get_store is not None:
                async with self._slots:
                    found = await (await self._get_store()).admin_key_by_digest(digest_of(text))
                if found is not None and found.status(dt.datetime.now(dt.UTC)) == "active":
                    return found
        raise AuthenticationFailed(f"no good admin key: {_HOW}")
