"""Who may use the admin API: whoever sends an admin key of the store."""

import asyncio
import datetime as dt
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from dragoman.core.errors import AuthenticationFailed, StoreUnavailable
from dragoman.policy.access import AdminKey
from dragoman.policy.key_texts import digest_of, is_admin_key
from dragoman.policy.keys import sent_keys
from dragoman.policy.store import GetStore, Page
from dragoman.server.transport.seams import Headers

_MAX_AT_ONCE: Final = 4  # look-ups: whoever tries keys waits for himself
_PAGE: Final = Page(limit=1000)
_BELIEVED_S: Final = 2.0  # how long it is believed that there is an admin key, or none
_NOTED_S: Final = 60.0  # between two notes of a key's last use
_HOW: Final = (
    "send an admin key as x-api-key or as Authorization: Bearer; "
    "`dragoman admin-keys create` makes one"
)


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


class AdminAccess:
    """
    Recognise admin keys; each time the store is asked, so that a revoked one is refused at once.

    Args:
        get_store: Opens the store; None: there is none, and nobody is let in.
        is_surely_empty: Tells, without opening it, that there is nothing in the store yet.
        clock: The time in UTC.
    """

    def __init__(
        self,
        get_store: GetStore | None,
        *,
        is_surely_empty: Callable[[], bool] = lambda: False,
        clock: Callable[[], dt.datetime] = _now,
    ) -> None:
        self._get_store = get_store
        self._is_surely_empty = is_surely_empty
        self._clock = clock
        self._slots = asyncio.Semaphore(_MAX_AT_ONCE)
        self._has_keys = False
        self._looked_s = -_BELIEVED_S
        self._noted_s: dict[str, float] = {}

    async def has_keys(self) -> bool:
        """
        Tell whether any admin key is good; what was seen a moment ago is believed.

        Raises:
            StoreUnavailable: Nobody can tell now.
        """
        now_s = time.monotonic()
        if now_s - self._looked_s >= _BELIEVED_S:
            self._has_keys = await self._any_good()
            self._looked_s = now_s
        return self._has_keys

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
        for text in filter(is_admin_key, sent):
            if (key := await self._find(text)) is None:
                continue
            if (status := key.status(self._clock())) != "active":
                raise AuthenticationFailed(f"this admin key is {status}: {_HOW}")
            await self._note_use(key)
            return key
        said = "unknown admin key" if sent else "no admin key"
        raise AuthenticationFailed(f"{said}: {_HOW}. Client keys do not open the admin API")

    async def _find(self, text: bytes) -> AdminKey | None:
        if self._get_store is None:
            return None
        async with self._slots:
            return await (await self._get_store()).admin_key_by_digest(digest_of(text))

    async def _any_good(self) -> bool:
        if self._get_store is None or self._is_surely_empty():
            return False
        store, now, page = await self._get_store(), self._clock(), _PAGE
        while keys := await store.list_admin_keys(page):
            if any(key.status(now) == "active" for key in keys):
                return True
            page = Page(limit=_PAGE.limit, after_id=keys[-1].id)
        return False

    async def _note_use(self, key: AdminKey) -> None:
        """Write down that a key was used, now and then; where the store is away, it is not."""
        now_s = time.monotonic()
        if self._get_store is None or now_s - self._noted_s.get(key.id, -_NOTED_S) < _NOTED_S:
            return
        self._noted_s[key.id] = now_s
        with suppress(StoreUnavailable):
            await (await self._get_store()).touch_keys({key.id: self._clock()})
