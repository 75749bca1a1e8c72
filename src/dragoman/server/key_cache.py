"""
Keys of the store, on the request path: a look into a dict, and nothing that waits.

One task asks the store for changes, several times a second. As long as it gets answers, whatever is
remembered is right; when it gets none, what is remembered stays good for a time of grace.
"""

import asyncio
import datetime as dt
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final

from msgspec import Struct

from dragoman.core.errors import (
    AuthenticationFailed,
    Overloaded,
    StoreUnavailable,
)
from dragoman.policy.access import Caller, VirtualKey, Workspace
from dragoman.policy.key_texts import digest_of, is_admin_key, is_client_key
from dragoman.policy.keys import unknown_key
from dragoman.policy.store import GetStore, KeyChanges, Store
from dragoman.server.telemetry import EventLog
from dragoman.settings import StoreConfig

# How long an answer of the store counts without grace; a revoked key is refused within two seconds.
_FRESH_S: Final = 1.5
_TOUCH_S: Final = 30.0  # between two notes of when keys were last used
_MAX_LOADING: Final = 100  # different keys that are looked for at once
_TOGETHER: Final = 200  # keys read at once where all are; some 5 ms, in which nothing else is done
_BURST_S: Final = 5.0  # unused look-ups of this long may be made up for
_LAST_TOUCH_S: Final = 2.0  # the end of the process does not wait longer for it
_NEVER_S: Final = float("inf")
_WHOM: Final = "ask whoever gave it to you"
_Pair = tuple[VirtualKey, Workspace | None]


class _Known(Struct, frozen=True):
    """What is remembered of one key."""

    caller: Caller
    refusal: str  # why it is not good; empty: it is
    expires_s: float  # since 1970


class KeyCache:
    """
    The keys of a store, as far as they are remembered. Belongs to one event loop.

    Args:
        get_store: Opens the store.
        settings: Sizes and times.
        is_empty: Tells, without opening it, that there is no store yet, and so no key.
        log: Told when the store goes away and comes back.
        clock: Seconds, monotonic.
        wall_clock: Seconds since 1970.

    Attributes:
        has_keys: Whether there is any, revoked ones among them; None: it is not known yet.
        is_away: Whether the store did not answer the last question.
        n_lookups: Keys that were looked for in the store.
        n_unknown: Keys that were not found there.
    """

    def __init__(
        self,
        get_store: GetStore,
        settings: StoreConfig,
        *,
        is_empty: Callable[[], bool],
        log: EventLog,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._get_store = get_store
        self._settings = settings
        self._is_empty = is_empty
        self._log = log
        self._clock = clock
        self._wall_clock = wall_clock
        self._known: dict[bytes, _Known] = {}  # by digest; the oldest ones first
        self._unknown: dict[bytes, None] = {}
        self._used_s: dict[str, float] = {}  # key id -> when it was last used, since 1970
        self._revision = -1
        self._answered_s = -_NEVER_S  # when the last question was asked that was answered
        self._good_until_s = -_NEVER_S
        self._loading: dict[bytes, asyncio.Task[_Known | None]] = {}
        self._allowance = _Allowance(settings.max_key_lookups_per_s, clock)
        self._asked_once = asyncio.Event()
        self._filled_to: str | None = None  # id of a key up to which all are; None: no more to read
        self._is_filled = asyncio.Event()  # or the store is away, or nobody asks it for changes
        self._is_filled.set()
        self._why_away = "it is not open yet"
        self._touched_s = clock()
        self._task: asyncio.Task[None] | None = None
        self.has_keys: bool | None = False if is_empty() else None
        self.is_away = False
        self.n_lookups = 0
        self.n_unknown = 0

    @property
    def n_keys(self) -> int:
        """How many keys are remembered."""
        return len(self._known)

    def start(self) -> None:
        """Begin to ask the store for changes; who has an unknown key waits for the first answer."""
        self._is_filled.clear()
        self._task = asyncio.create_task(self._poll(), name="changes of keys")

    async def close(self) -> None:
        """Stop asking, and write down when keys were last used."""
        tasks = [*([self._task] if self._task else []), *self._loading.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if not self.is_away:
            with suppress(TimeoutError):  # not worth holding up the end
                async with asyncio.timeout(_LAST_TOUCH_S):
                    await self._touch()

    def find(self, key: bytes) -> Caller | None:
        """Return whose *key* it is, if that is remembered and it is good; never waits."""
        known = self._known.get(digest_of(key))
        if known is None or known.refusal or self._clock() > self._good_until_s:
            return None
        now_s = self._wall_clock()
        if now_s >= known.expires_s:
            return None
        self._used_s[known.caller.key_id] = now_s
        return known.caller

    async def look_up(self, key: bytes) -> Caller:
        """
        Return whose *key* it is, asking the store if need be.

        Raises:
            AuthenticationFailed: It is unknown, revoked, disabled or expired.
            StoreUnavailable: It is not remembered, and the store is away.
            Overloaded: Too many keys are being looked for.
        """
        if not is_client_key(key):
            raise _wrong_kind(key)
        digest = digest_of(key)
        if not self._is_filled.is_set() and digest not in self._known:
            await self._wait_until_filled()
        now_s = self._clock()
        known = self._known.get(digest) if now_s <= self._good_until_s else None
        if known is None:
            if digest in self._unknown and now_s <= self._answered_s + _FRESH_S:
                raise unknown_key()
            known = await asyncio.shield(self._load_once(digest))
        if known is None:
            raise unknown_key()
        return self._admit(known)

    async def wait_until_known(self) -> bool:
        """
        Return whether there are any keys, once the store has been asked.

        Raises:
            StoreUnavailable: It has not answered.
        """
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                await self._asked_once.wait()
        except TimeoutError:
            raise StoreUnavailable(self._why_away) from None
        if self.has_keys is None:
            raise StoreUnavailable(self._why_away)
        return self.has_keys

    async def refresh(self) -> None:
        """Ask the store for changes, once."""
        if self.has_keys is False and self._revision < 0 and self._is_empty():
            self._asked_once.set()
            self._is_filled.set()
            return
        asked_s = self._clock()
        try:
            store = await self._get_store()
            self._take(await store.key_changes(self._revision))
            self._note(asked_s)
            self._asked_once.set()
            await self._fill(store, until_s=asked_s + self._settings.key_poll_s)
            if asked_s >= self._touched_s + _TOUCH_S:
                await self._touch()
        except StoreUnavailable as error:
            self._note_away(error.log_detail)
        self._asked_once.set()

    async def _poll(self) -> None:
        while True:
            try:
                await self.refresh()
            except Exception as error:  # if this task ended, revoked keys would stay good
                self._log.crash(error)
                self._note_away(type(error).__name__)
            await asyncio.sleep(self._settings.key_poll_s)

    def _take(self, changes: KeyChanges) -> None:
        """Make what is remembered right again."""
        if changes.revision != self._revision:
            self._revision = changes.revision
            if changes.keys is None:
                self._known.clear()
                self._unknown.clear()
                self._filled_to = ""
                self._is_filled.clear()
            self._remember(changes.keys or ())
        self.has_keys = changes.has_keys

    def _remember(self, pairs: Sequence[_Pair]) -> None:
        for pair in pairs:
            digest = pair[0].digest
            self._unknown.pop(digest, None)
            if digest in self._known or len(self._known) < self._settings.key_cache_size:
                self._known[digest] = _known_of(pair)

    async def _fill(self, store: Store, *, until_s: float) -> None:
        """
        Read all keys, where so many have changed that they were not told, or as many as fit.

        Looked for one by one, as unknown ones are, many of them would be told to come back. What
        changes meanwhile must not wait for the end, so that it is gone on with after that.
        """
        while self._filled_to is not None:
            pairs = await store.keys_behind(self._filled_to, limit=_TOGETHER)
            self._remember(pairs)
            is_last = len(pairs) < _TOGETHER or self.n_keys >= self._settings.key_cache_size
            self._filled_to = None if is_last else pairs[-1][0].id
            if self._clock() >= until_s:
                break
        if self._filled_to is None:
            self._is_filled.set()

    async def _wait_until_filled(self) -> None:
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                await self._is_filled.wait()
        except TimeoutError:
            if not self._asked_once.is_set():
                raise StoreUnavailable(self._why_away) from None
            # There are so many that reading them goes on for long: it is looked for.

    def _note(self, asked_s: float) -> None:
        self._answered_s = asked_s
        self._good_until_s = asked_s + max(_FRESH_S, self._settings.key_grace_s)
        if self.is_away:
            self.is_away = False
            self._log.event("store", state="back")

    def _note_away(self, reason: str) -> None:
        self._why_away = reason
        self._is_filled.set()  # nobody need wait to learn that it is away
        if not self.is_away:
            self.is_away = True
            self._log.event("store", state="away", reason=reason)

    def _load_once(self, digest: bytes) -> "asyncio.Task[_Known | None]":
        """Return the search for a key; all who want the same key share one."""
        task = self._loading.get(digest)
        if task is None:
            if self.is_away:  # which nobody need wait to learn
                raise StoreUnavailable(self._why_away)
            if len(self._loading) >= _MAX_LOADING or not self._allowance.take():
                raise Overloaded("too many unknown API keys; try again", retry_after_s=1.0)
            task = asyncio.create_task(self._load(digest), name="look for a key")
            self._loading[digest] = task
            task.add_done_callback(lambda done: self._forget_task(digest, done))
        return task

    def _forget_task(self, digest: bytes, task: "asyncio.Task[_Known | None]") -> None:
        del self._loading[digest]
        if not task.cancelled():
            task.exception()  # those who still wait get it; nobody need be left

    async def _load(self, digest: bytes) -> _Known | None:
        revision = self._revision
        try:
            # The store has times of its own, but for its opening: that may wait for a replica.
            async with asyncio.timeout(self._settings.timeout_s):
                pair = await (await self._get_store()).key_by_digest(digest)
        except TimeoutError:
            raise StoreUnavailable("it has not been opened in time") from None
        known = _known_of(pair) if pair else None
        self.n_lookups += 1
        self.n_unknown += known is None
        if revision == self._revision:  # else what was read may be older than what has changed
            self._keep(digest, known)
        return known

    def _keep(self, digest: bytes, known: _Known | None) -> None:
        limit = self._settings.key_cache_size
        if known is not None:
            _make_room(self._known, limit)
            self._known[digest] = known
        else:
            _make_room(self._unknown, limit)
            self._unknown[digest] = None

    def _admit(self, known: _Known) -> Caller:
        if known.refusal:
            raise AuthenticationFailed(known.refusal)
        now_s = self._wall_clock()
        if now_s >= known.expires_s:
            raise AuthenticationFailed(f"this API key has expired; {_WHOM}")
        self._used_s[known.caller.key_id] = now_s
        return known.caller

    async def _touch(self) -> None:
        """Write down when keys were last used; where that fails, with the next ones."""
        used, self._used_s = self._used_s, {}
        self._touched_s = self._clock()
        if not used:
            return
        try:
            store = await self._get_store()
            await store.touch_keys({key_id: _time(at_s) for key_id, at_s in used.items()})
        except StoreUnavailable:
            self._used_s = {**used, **self._used_s}


def _known_of(pair: _Pair) -> _Known:
    key, workspace = pair
    caller = Caller(key_id=key.id, key_name=key.name, workspace=workspace, key=key)
    expires_s = key.expires_at.timestamp() if key.expires_at else _NEVER_S
    return _Known(caller=caller, refusal=_why_refused(key, workspace), expires_s=expires_s)


def _why_refused(key: VirtualKey, workspace: Workspace | None) -> str:
    if workspace is not None and workspace.archived_at:
        return f"the workspace of this API key is archived; {_WHOM}"
    if key.revoked_at:
        return f"this API key was revoked; {_WHOM}"
    if key.disabled_at:
        return f"this API key is disabled; {_WHOM}"
    return ""


def _wrong_kind(key: bytes) -> AuthenticationFailed:
    if is_admin_key(key):
        return AuthenticationFailed("this is an admin key: models are asked with a client key")
    return unknown_key()


def _make_room(remembered: dict[bytes, Any], limit: int) -> None:
    while len(remembered) >= limit:
        del remembered[next(iter(remembered))]


def _time(at_s: float) -> dt.datetime:
    return dt.datetime.fromtimestamp(at_s, dt.UTC)


class _Allowance:
    """So many a second; what was not used in the last seconds may be made up for."""

    def __init__(self, per_s: int, clock: Callable[[], float]) -> None:
        self._per_s = per_s
        self._clock = clock
        self._left = per_s * _BURST_S
        self._at_s = clock()

    def take(self) -> bool:
        """Take one, if there is one."""
        now_s = self._clock()
        left = self._left + (now_s - self._at_s) * self._per_s
        self._left, self._at_s = min(left, self._per_s * _BURST_S), now_s
        if self._left < 1:
            return False
        self._left -= 1
        return True
