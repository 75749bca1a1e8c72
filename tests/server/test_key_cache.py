"""Keys of a store on the request path: what is remembered, for how long, and what it costs."""

import asyncio
import datetime as dt
import io
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pytest
from msgspec import structs

from dragoman.core.errors import AuthenticationFailed, Overloaded, StoreUnavailable
from dragoman.policy.access import Caller, VirtualKey, Workspace
from dragoman.policy.key_texts import digest_of, new_admin_key, new_client_key
from dragoman.policy.store import KeyChanges
from dragoman.server import key_cache
from dragoman.server.key_cache import KeyCache
from dragoman.server.telemetry import EventLog
from dragoman.settings import StoreConfig
from support.app_case import run
from support.stores import NOW, minutes, new_key, new_workspace

AWAY = StoreUnavailable("connection refused")


class FakeStore:
    """Keys in memory; counts what it is asked and fails on command."""

    def __init__(self) -> None:
        self.pairs: dict[str, tuple[VirtualKey, Workspace | None]] = {}
        self.revisions: dict[str, int] = {}
        self.revision = 0
        self.too_many = False
        self.n_lookups = 0
        self.n_pages = 0
        self.before_page: Callable[[], None] | None = None
        self.touched: dict[str, dt.datetime] = {}
        self.error: Exception | None = None
        self.before_answer: Callable[[], Awaitable[None]] | None = None

    def put(self, key: VirtualKey, workspace: Workspace | None = None) -> None:
        self.revision += 1
        self.pairs[key.id] = (key, workspace)
        self.revisions[key.id] = self.revision

    async def key_changes(self, since: int) -> KeyChanges:
        self._fail()
        new = tuple(self.pairs[k] for k, revision in self.revisions.items() if revision > since)
        shown = None if self.too_many else new
        return KeyChanges(revision=self.revision, keys=shown, has_keys=bool(self.pairs))

    async def keys_behind(
        self, key_id: str, *, limit: int
    ) -> list[tuple[VirtualKey, Workspace | None]]:
        self._fail()
        self.n_pages += 1
        if self.before_page is not None:
            self.before_page()
        behind = sorted(each for each in self.pairs if each > key_id)
        return [self.pairs[each] for each in behind[:limit]]

    async def key_by_digest(self, digest: bytes) -> tuple[VirtualKey, Workspace | None] | None:
        self._fail()
        self.n_lookups += 1
        found = next((pair for pair in self.pairs.values() if pair[0].digest == digest), None)
        if self.before_answer is not None:
            await self.before_answer()
        return found

    async def touch_keys(self, last_used: Mapping[str, dt.datetime]) -> None:
        self._fail()
        self.touched.update(last_used)

    def _fail(self) -> None:
        if self.error is not None:
            raise self.error


class Case:
    """A cache over a fake store, with a clock of its own."""

    def __init__(self, *, is_empty: Callable[[], bool] = lambda: False, **settings: Any) -> None:
        self.store = FakeStore()
        self.now_s = 1000.0
        self.n_opened = 0
        self.log = io.StringIO()
        self.cache = KeyCache(
            self._get,  # type: ignore[arg-type]  # as much of a store as is asked
            StoreConfig(**settings),
            is_empty=is_empty,
            log=EventLog("json", self.log),
            clock=lambda: self.now_s,
            wall_clock=lambda: NOW.timestamp() + self.now_s - 1000,
        )

    async def _get(self) -> FakeStore:
        self.n_opened += 1
        self.store._fail()
        return self.store

    def add(self, workspace: Workspace | None = None, **fields: Any) -> bytes:
        """Put a key into the store, return it."""
        text = new_client_key().encode()
        self.store.put(new_key(digest=digest_of(text), **fields), workspace)
        return text

    def change(self, text: bytes, **fields: Any) -> None:
        """Change a key in the store."""
        for key, workspace in list(self.store.pairs.values()):
            if key.digest == digest_of(text):
                self.store.put(structs.replace(key, **fields), workspace)

    async def caller(self, text: bytes) -> Caller:
        """Return who calls, as a request finds out."""
        return self.cache.find(text) or await self.cache.look_up(text)

    async def is_refused(self, text: bytes) -> str:
        """Return why a key is refused."""
        with pytest.raises(AuthenticationFailed) as raised:
            await self.caller(text)
        return raised.value.message

    def events(self) -> list[tuple[str, str]]:
        lines = map(json.loads, self.log.getvalue().splitlines())
        return [(line["event"], line["state"]) for line in lines]


def test_a_hit_asks_nobody() -> None:
    async def main() -> None:
        case = Case()
        text = case.add(name="ci", workspace=None)
        await case.cache.refresh()
        opened = case.n_opened
        caller = case.cache.find(text)
        assert caller is not None
        assert (caller.key_name, caller.key) == ("ci", next(iter(case.store.pairs.values()))[0])
        assert (case.n_opened, case.store.n_lookups) == (opened, 0)

    run(main())


def test_what_a_key_brings_along() -> None:
    async def main() -> None:
        case = Case()
        team = new_workspace(allowed_models=("a*",))
        text = case.add(team, workspace_id=team.id, allowed_models=("b*",))
        await case.cache.refresh()
        caller = case.cache.find(text)
        assert caller is not None
        assert (caller.workspace, caller.owner) == (team, team.id)
        assert [caller.may_use(name) for name in ("a", "b", "c")] == [False] * 3

    run(main())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"revoked_at": NOW}, "this API key was revoked; ask whoever gave it to you"),
        ({"disabled_at": NOW}, "this API key is disabled"),
        ({"expires_at": NOW}, "this API key has expired"),
        ({"revoked_at": NOW, "disabled_at": NOW, "expires_at": NOW}, "was revoked"),
    ],
)
def test_keys_that_are_not_good(fields: dict[str, Any], message: str) -> None:
    async def main() -> None:
        case = Case()
        text = case.add(**fields)
        await case.cache.refresh()
        assert message in await case.is_refused(text)
        assert message in await case.is_refused(text)
        assert case.store.n_lookups == 0  # it is known, and known not to be good
        await case.cache.close()
        assert case.store.touched == {}

    run(main())


def test_a_key_of_an_archived_workspace() -> None:
    async def main() -> None:
        case = Case()
        text = case.add(new_workspace(archived_at=NOW))
        await case.cache.refresh()
        assert "workspace of this API key is archived" in await case.is_refused(text)

    run(main())


def test_a_key_expires_by_itself() -> None:
    async def main() -> None:
        case = Case()
        text = case.add(expires_at=NOW + minutes(1))
        await case.cache.refresh()
        case.now_s += 59
        assert case.cache.find(text) is not None
        case.now_s += 1
        assert "has expired" in await case.is_refused(text)

    run(main())


@pytest.mark.parametrize("too_many", [False, True])
def test_a_change_is_known_with_the_next_answer(too_many: bool) -> None:
    async def main() -> None:
        case = Case()
        text = case.add()
        await case.cache.refresh()
        case.store.too_many = too_many
        assert await case.caller(text)
        case.change(text, disabled_at=NOW)
        assert await case.caller(text)  # until it is asked
        await case.cache.refresh()
        assert "is disabled" in await case.is_refused(text)
        case.change(text, disabled_at=None)
        await case.cache.refresh()
        assert await case.caller(text)

    run(main())


def test_a_new_key_is_good_at_once() -> None:
    async def main() -> None:
        case = Case()
        case.add()
        await case.cache.refresh()
        text = case.add(name="new")
        assert (await case.caller(text)).key_name == "new"
        assert case.cache.find(text) is not None
        assert (case.store.n_lookups, case.cache.n_lookups, case.cache.n_unknown) == (1, 1, 0)

    run(main())


def test_an_unknown_key_is_looked_for_once() -> None:
    async def main() -> None:
        case = Case()
        case.add()
        await case.cache.refresh()
        text = new_client_key().encode()
        for _ in range(5):
            assert "unknown API key" in await case.is_refused(text)
        assert (case.store.n_lookups, case.cache.n_unknown) == (1, 1)
        case.store.put(new_key(digest=digest_of(text)))  # and somebody makes it
        await case.cache.refresh()
        assert await case.caller(text)

    run(main())


@pytest.mark.parametrize(
    "text", [b"", b"sk-dgm-short", b"sk-ant-" + b"x" * 90, b"sk-dgm-" + b"\xff" * 43, b"x" * 10_000]
)
def test_what_cannot_be_a_key_is_not_looked_for(text: bytes) -> None:
    async def main() -> None:
        case = Case()
        await case.cache.refresh()
        assert "unknown API key" in await case.is_refused(text)
        assert case.store.n_lookups == 0

    run(main())


def test_an_admin_key_is_no_client_key() -> None:
    async def main() -> None:
        case = Case()
        assert "this is an admin key" in await case.is_refused(new_admin_key().encode())
        assert case.store.n_lookups == 0

    run(main())


def test_who_wants_the_same_key_at_once_shares_one_search() -> None:
    async def main() -> None:
        case = Case()
        await case.cache.refresh()
        text = case.add()
        release = asyncio.Event()

        async def wait() -> None:
            await release.wait()

        case.store.before_answer = wait
        asking = [asyncio.create_task(case.caller(text)) for _ in range(50)]
        await asyncio.sleep(0)
        asking[0].cancel()  # a client that leaves takes nobody with it
        await asyncio.sleep(0)
        release.set()
        found = await asyncio.gather(*asking, return_exceptions=True)
        assert isinstance(found[0], asyncio.CancelledError)
        assert all(isinstance(caller, Caller) for caller in found[1:])
        assert case.store.n_lookups == 1

    run(main())


def test_guessing_is_slowed_down_and_harms_nobody() -> None:
    async def main() -> None:
        case = Case(max_key_lookups_per_s=2)
        text = case.add()
        await case.cache.refresh()
        for _ in range(10):  # what may be made up for: five seconds of two
            assert "unknown" in await case.is_refused(new_client_key().encode())
        with pytest.raises(Overloaded) as raised:
            await case.caller(new_client_key().encode())
        assert raised.value.retry_after_s == 1.0
        assert case.store.n_lookups == 10
        assert await case.caller(text)  # whoever is known goes on
        case.now_s += 0.5
        await case.cache.refresh()
        assert "unknown" in await case.is_refused(new_client_key().encode())
        with pytest.raises(Overloaded):
            await case.caller(new_client_key().encode())

    run(main())


def test_only_so_many_are_looked_for_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_cache, "_MAX_LOADING", 3)

    async def main() -> None:
        case = Case()
        await case.cache.refresh()
        release = asyncio.Event()

        async def wait() -> None:
            await release.wait()

        case.store.before_answer = wait
        texts = [new_client_key().encode() for _ in range(4)]
        asking = [asyncio.create_task(case.caller(text)) for text in texts]
        with pytest.raises(Overloaded):
            await asking[3]
        release.set()
        found = await asyncio.gather(*asking[:3], return_exceptions=True)
        assert [type(each) for each in found] == [AuthenticationFailed] * 3

    run(main())


def test_memory_is_bounded() -> None:
    async def main() -> None:
        case = Case(key_cache_size=16, max_key_lookups_per_s=1000)
        texts = [case.add() for _ in range(40)]
        await case.cache.refresh()
        assert case.cache.n_keys == 16
        for text in texts:
            assert await case.caller(text)
            assert "unknown" in await case.is_refused(new_client_key().encode())
        assert case.cache.n_keys == 16
        assert len(case.cache._unknown) == 16

    run(main())


def test_what_is_read_while_it_changes_is_not_kept() -> None:
    async def main() -> None:
        case = Case()
        await case.cache.refresh()
        text = case.add()

        async def revoke() -> None:  # after the row was read, before the answer is here
            case.store.before_answer = None
            case.change(text, revoked_at=NOW)
            await case.cache.refresh()

        case.store.before_answer = revoke
        await case.caller(text)  # it was good when it was read
        assert "was revoked" in await case.is_refused(text)

    run(main())


# -- more keys than are told at once


def test_keys_that_were_not_told_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_cache, "_TOGETHER", 3)

    async def main() -> None:
        case = Case()
        texts = [case.add(id=f"apikey_{n:02}") for n in range(10)]
        case.store.too_many = True
        await case.cache.refresh()
        assert all(case.cache.find(text) for text in texts)
        assert (case.store.n_pages, case.store.n_lookups) == (4, 0)
        await case.cache.refresh()
        assert case.store.n_pages == 4  # nothing has changed

    run(main())


def test_no_more_are_read_than_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_cache, "_TOGETHER", 10)

    async def main() -> None:
        case = Case(key_cache_size=16)
        for n in range(100):
            case.add(id=f"apikey_{n:02}")
        case.store.too_many = True
        await case.cache.refresh()
        assert (case.cache.n_keys, case.store.n_pages) == (16, 2)

    run(main())


def test_a_change_need_not_wait_until_all_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_cache, "_TOGETHER", 1)

    async def main() -> None:
        case = Case(key_poll_s=0.5)
        texts = [case.add(id=f"apikey_{n}") for n in range(4)]

        def take_time() -> None:
            case.now_s += 0.3

        case.store.too_many, case.store.before_page = True, take_time
        await case.cache.refresh()
        assert case.cache.n_keys == 2  # half a second is over
        case.store.too_many = False
        case.change(texts[0], revoked_at=NOW)
        await case.cache.refresh()
        assert "was revoked" in await case.is_refused(texts[0])
        assert all(case.cache.find(text) for text in texts[1:])
        assert case.store.n_lookups == 0

    run(main())


def test_after_a_start_nobody_is_looked_for_who_will_be_known() -> None:
    async def main() -> None:
        case = Case(max_key_lookups_per_s=1)  # five, with what may be made up for
        texts = [case.add() for _ in range(50)]
        case.store.too_many = True
        case.cache.start()
        found = await asyncio.gather(*map(case.caller, texts))
        assert [caller.key_id for caller in found] == list(case.store.pairs)
        assert "unknown API key" in await case.is_refused(new_client_key().encode())
        assert case.store.n_lookups == 1
        await case.cache.close()

    run(main())


def test_who_waits_learns_that_the_store_is_away() -> None:
    async def main() -> None:
        case = Case()
        case.store.error = AWAY
        case.cache.start()
        async with asyncio.timeout(2):  # not until timeout_s is over
            with pytest.raises(StoreUnavailable):
                await case.caller(new_client_key().encode())
        await case.cache.close()

    run(main())


def test_nobody_waits_for_ever_until_the_store_is_open() -> None:
    async def main() -> None:
        case = Case(timeout_s=0.1)
        opened = asyncio.Event()

        async def open_late() -> FakeStore:
            await opened.wait()
            return case.store

        case.cache._get_store = open_late  # type: ignore[assignment]  # as much of a store as is asked
        text = case.add()
        case.cache.start()
        with pytest.raises(StoreUnavailable):
            await case.caller(text)
        opened.set()
        assert await case.caller(text)
        await case.cache.close()

    run(main())


def test_a_store_that_was_set_back_is_believed() -> None:
    async def main() -> None:
        case = Case()
        text = case.add()
        case.change(text, owner="ada")
        await case.cache.refresh()
        assert await case.caller(text)
        case.store.revision, case.store.too_many = 1, True
        case.store.pairs.clear()
        await case.cache.refresh()
        assert "unknown" in await case.is_refused(text)

    run(main())


# -- the store is away


def test_known_keys_stay_good_for_a_time_of_grace() -> None:
    async def main() -> None:
        case = Case(key_grace_s=60)
        text = case.add()
        await case.cache.refresh()
        case.store.error = AWAY
        case.now_s += 60
        await case.cache.refresh()
        assert await case.caller(text)
        with pytest.raises(StoreUnavailable) as raised:
            await case.caller(new_client_key().encode())
        assert (raised.value.status, raised.value.should_retry) == (503, True)
        assert "refused" not in raised.value.message
        case.now_s += 0.1
        with pytest.raises(StoreUnavailable):
            await case.caller(text)
        case.store.error = None
        await case.cache.refresh()
        assert await case.caller(text)
        assert case.events() == [("store", "away"), ("store", "back")]

    run(main())


def test_without_grace_a_key_is_good_only_as_long_as_it_is_surely_known() -> None:
    async def main() -> None:
        case = Case(key_grace_s=0)
        text = case.add()
        await case.cache.refresh()
        case.store.error = AWAY
        await case.cache.refresh()
        case.now_s += 1.5
        assert await case.caller(text)
        case.now_s += 0.1
        with pytest.raises(StoreUnavailable):
            await case.caller(text)

    run(main())


def test_a_key_that_was_revoked_stays_refused_while_the_store_is_away() -> None:
    async def main() -> None:
        case = Case()
        text = case.add(revoked_at=NOW)
        await case.cache.refresh()
        case.store.error = AWAY
        case.now_s += 100
        await case.cache.refresh()
        assert "was revoked" in await case.is_refused(text)

    run(main())


def test_a_store_that_was_never_there() -> None:
    async def main() -> None:
        case = Case()
        case.store.error = AWAY
        await case.cache.refresh()
        with pytest.raises(StoreUnavailable, match="store of keys") as raised:
            await case.cache.wait_until_known()
        assert raised.value.log_detail == "connection refused"

    run(main())


def test_nobody_waits_for_ever_for_the_first_answer() -> None:
    async def main() -> None:
        case = Case(timeout_s=0.01)
        with pytest.raises(StoreUnavailable):
            await case.cache.wait_until_known()

        async def hang() -> None:
            await asyncio.Event().wait()

        case.store.before_answer = hang
        with pytest.raises(StoreUnavailable):
            await case.caller(case.add())

    run(main())


def test_a_store_that_does_not_exist_is_not_made_to_look_for_keys() -> None:
    async def main() -> None:
        exists = False
        case = Case(is_empty=lambda: not exists)
        assert case.cache.has_keys is False
        await case.cache.refresh()
        assert await case.cache.wait_until_known() is False
        assert case.n_opened == 0
        exists = True
        text = case.add()
        await case.cache.refresh()
        assert case.cache.has_keys is True
        assert await case.caller(text)

    run(main())


# -- the task, and the notes of use


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not is_so():  # noqa: ASYNC110 - what happens in the task has no event
            await asyncio.sleep(0.01)


def test_the_task_goes_on_whatever_happens() -> None:
    async def main() -> None:
        case = Case(key_poll_s=0.05)
        case.store.error = RuntimeError("a bug")
        case.cache.start()
        await until(lambda: case.cache.is_away)
        case.store.error = None
        text = case.add()
        await until(lambda: case.cache.find(text) is not None)
        await case.cache.close()
        assert "RuntimeError" in case.log.getvalue()

    run(main())


def test_use_is_noted_in_batches() -> None:
    async def main() -> None:
        case = Case()
        text, other = case.add(id="apikey_a"), case.add(id="apikey_b")
        await case.cache.refresh()
        case.cache.find(text)
        case.now_s += 29.9
        case.cache.find(text)
        await case.cache.refresh()
        assert case.store.touched == {}
        case.now_s += 0.1
        await case.cache.refresh()
        assert case.store.touched == {"apikey_a": NOW + minutes(29.9 / 60)}
        case.cache.find(other)
        await case.cache.close()
        assert set(case.store.touched) == {"apikey_a", "apikey_b"}

    run(main())


def test_notes_that_could_not_be_written_are_kept() -> None:
    async def main() -> None:
        case = Case()
        text = case.add(id="apikey_a")
        await case.cache.refresh()
        case.cache.find(text)
        case.store.error = AWAY
        await case.cache._touch()
        case.store.error = None
        await case.cache.close()
        assert case.store.touched == {"apikey_a": NOW}

    run(main())
