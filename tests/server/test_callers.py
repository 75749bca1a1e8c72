"""Who is let in: by keys of the configuration, of the store, or without any."""

import asyncio
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from dragoman.core.errors import StoreUnavailable
from dragoman.policy.key_texts import digest_of, new_client_key
from dragoman.policy.keys import OPEN, KeyRing
from dragoman.policy.store import Store
from dragoman.server.callers import Callers
from dragoman.server.head_facts import HeadFacts, facts_of
from dragoman.server.key_cache import KeyCache
from dragoman.server.telemetry import EventLog
from dragoman.server.transport.seams import SentHeaders
from dragoman.settings import StoreConfig
from dragoman.store_urls import StoreUrl
from dragoman.stores.opening import LazyStore
from support.app_case import ASK, AppCase, error_of, message_of, run, saying
from support.stores import NOW, new_entry, new_key, new_workspace

MODELS = {"deepseek-v3.1": {"upstream": ("lab",)}, "glm-4.7": {"upstream": ("lab",)}}


def sent(x_api_key: bytes = b"") -> HeadFacts:
    return facts_of(SentHeaders({b"x-api-key": x_api_key}))


class StoreCase:
    """An app whose keys are in a SQLite file."""

    def __init__(self, folder: Path, **case: Any) -> None:
        self.lazy = LazyStore(StoreUrl(path=folder / "store.db"), StoreConfig())
        self.cache = KeyCache(
            self.lazy.get,
            StoreConfig(),
            is_empty=lambda: self.lazy.url.is_missing,
            log=EventLog("json", io.StringIO()),
        )
        self.app = AppCase({"lab": [saying("Hi")] * 9}, stored_keys=self.cache, **case)

    async def store(self) -> Store:
        return await self.lazy.get()

    async def add(self, **fields: Any) -> bytes:
        """Make a key, return it."""
        text = new_client_key().encode()
        key = new_key(digest=digest_of(text), **fields)
        await (await self.store()).add_key(key, new_entry())
        return text

    async def status(self, text: bytes = b"", **request: Any) -> int:
        headers = {b"x-api-key": text} if text else {}
        exchange = await self.app.ask(headers=headers, **request)
        if exchange.status == 200:
            message_of(exchange)
        return exchange.status

    async def close(self) -> None:
        await self.cache.close()
        await self.lazy.close()
        await self.app.close()


def listed(reply: bytes) -> list[str]:
    return [model["id"] for model in json.loads(reply)["data"]]


def test_both_kinds_of_keys_count(tmp_path: Path) -> None:
    async def main() -> None:
        case = StoreCase(tmp_path, keys=[("dev", "key-of-the-file")])
        text = await case.add(name="ci")
        assert await case.status(text) == 200  # before the store was ever asked for changes
        await case.cache.refresh()
        assert await case.status(b"key-of-the-file") == await case.status(text) == 200
        bearer = {b"authorization": b"Bearer " + text, b"x-api-key": b"wrong"}
        assert (await case.app.ask(headers=bearer)).status == 200
        assert [record["key"] for record in case.app.records] == ["ci", "dev", "ci", "ci"]
        assert await case.status(b"wrong") == await case.status() == 401
        await case.close()

    run(main())


def test_the_first_key_closes_an_open_gateway(tmp_path: Path) -> None:
    async def main() -> None:
        case = StoreCase(tmp_path)
        await case.cache.refresh()
        assert await case.status() == 200
        assert case.app.record["key"] == OPEN
        text = await case.add(name="ci")
        await case.cache.refresh()
        assert (await case.status(), await case.status(text)) == (401, 200)
        await case.close()

    run(main())


def test_a_gateway_whose_last_key_was_revoked_is_not_open(tmp_path: Path) -> None:
    async def main() -> None:
        case = StoreCase(tmp_path)
        text = await case.add(revoked_at=NOW)
        await case.cache.refresh()
        assert (await case.status(), await case.status(text)) == (401, 401)
        await case.close()

    run(main())


def test_until_it_is_known_whether_there_are_keys_nobody_is_let_in(tmp_path: Path) -> None:
    async def main() -> None:
        made = StoreCase(tmp_path)
        await made.add()
        await made.close()
        case = StoreCase(tmp_path)
        asking = asyncio.create_task(case.status())
        await asyncio.sleep(0)
        assert not asking.done()
        await case.cache.refresh()
        assert await asking == 401
        await case.close()

    run(main())


def test_an_open_gateway_whose_store_cannot_be_read_is_not_open(tmp_path: Path) -> None:
    (tmp_path / "store.db").write_bytes(b"no database at all" * 100)

    async def main() -> None:
        case = StoreCase(tmp_path)
        await case.cache.refresh()
        exchange = await case.app.ask()
        assert exchange.status == 503
        assert error_of(exchange)["type"] == "api_error"
        assert exchange.reply_headers[b"x-should-retry"] == b"true"
        assert "not a database" in case.app.record["detail"]
        assert b"not a database" not in exchange.reply
        await case.close()

    run(main())


def test_a_gateway_that_could_let_nobody_in_is_not_ready(tmp_path: Path) -> None:
    (tmp_path / "store.db").write_bytes(b"no database at all" * 100)

    async def ready(case: StoreCase) -> tuple[int, Any]:
        exchange = await case.app.ask(method="GET", path="/readyz")
        await case.close()
        return exchange.status, json.loads(exchange.reply)

    async def main() -> None:
        status, body = await ready(StoreCase(tmp_path))
        assert (status, body["reason"]) == (503, "the store of keys has not answered yet")
        case = StoreCase(tmp_path, keys=[("dev", "key-of-the-file")])
        _, body = await ready(case)
        assert "store" not in str(body)
        other = StoreCase(tmp_path / "other")
        await other.cache.refresh()
        _, body = await ready(other)
        assert "store" not in str(body)

    run(main())


def test_a_foreign_name_is_no_fault_while_it_is_not_known_whether_keys_are_asked_for(
    tmp_path: Path,
) -> None:
    foreign = {b"host": b"llm.example.com"}

    async def main() -> None:
        made = StoreCase(tmp_path)
        text = await made.add()
        await made.close()
        case = StoreCase(tmp_path)
        asking = asyncio.create_task(case.app.ask(headers={**foreign, b"x-api-key": text}))
        await asyncio.sleep(0)
        await case.cache.refresh()
        assert (await asking).status == 200
        assert (await case.app.ask(headers=foreign)).status == 401
        await case.close()
        opened = StoreCase(tmp_path / "open")
        await opened.cache.refresh()
        assert (await opened.app.ask(headers=foreign)).status == 403
        await opened.close()

    run(main())


def test_where_others_can_reach_it_a_gateway_is_never_open(tmp_path: Path) -> None:
    ring = KeyRing([])
    lazy = LazyStore(StoreUrl(path=tmp_path / "none.db"), StoreConfig())
    log = EventLog("json", io.StringIO())
    cache = KeyCache(lazy.get, StoreConfig(), is_empty=lambda: True, log=log)
    assert Callers(ring, cache).recognise(sent()) is not None
    closed = Callers(ring, cache, asks_always=True)
    assert not closed.may_be_open
    assert closed.recognise(sent()) is None


def test_without_a_store(tmp_path: Path) -> None:
    callers = Callers(KeyRing([("dev", "key-of-the-file")]))
    assert callers.recognise(sent(b"key-of-the-file")) is not None
    assert callers.recognise(sent(b"wrong")) is None
    assert Callers(KeyRing([])).may_be_open


@pytest.mark.parametrize(
    ("patterns", "allowed"),
    [(("deepseek-*",), ["deepseek-v3.1"]), ((), ["deepseek-v3.1", "glm-4.7"])],
)
def test_a_key_sees_and_asks_its_own_models(
    tmp_path: Path, patterns: Sequence[str], allowed: list[str]
) -> None:
    async def main() -> None:
        case = StoreCase(tmp_path, models=MODELS)
        text = await case.add(allowed_models=tuple(patterns))
        await case.cache.refresh()
        headers = {b"x-api-key": text}
        exchange = await case.app.ask(method="GET", path="/v1/models", headers=headers)
        assert listed(exchange.reply) == [*allowed, *(f"claude-{name}" for name in allowed)]
        for name in MODELS:
            is_allowed = name in allowed
            shown = await case.app.ask(method="GET", path=f"/v1/models/{name}", headers=headers)
            asked = await case.app.ask({**ASK, "model": name}, headers=headers)
            counted = await case.app.ask(
                {**ASK, "model": name}, path="/v1/messages/count_tokens", headers=headers
            )
            for exchange in (shown, asked, counted):
                assert (exchange.status == 403) is (not is_allowed)
        await case.close()

    run(main())


def test_a_workspace_narrows_what_its_keys_may_use(tmp_path: Path) -> None:
    async def main() -> None:
        case = StoreCase(tmp_path, models=MODELS)
        team = new_workspace(allowed_models=("glm-*",))
        await (await case.store()).add_workspace(team, new_entry())
        text = await case.add(workspace_id=team.id)
        await case.cache.refresh()
        exchange = await case.app.ask(method="GET", path="/v1/models", headers={b"x-api-key": text})
        assert listed(exchange.reply) == ["glm-4.7", "claude-glm-4.7"]
        await case.close()

    run(main())


def test_a_store_that_goes_away_leaves_those_who_are_known_alone(tmp_path: Path) -> None:
    async def main() -> None:
        case = StoreCase(tmp_path)
        text = await case.add()
        await case.cache.refresh()

        async def away() -> Store:
            raise StoreUnavailable("connection refused")

        case.cache._get_store = away
        await case.cache.refresh()
        assert await case.status(text) == 200
        assert await case.status(new_client_key().encode()) == 503
        assert await case.status(b"nothing like a key") == 401
        await case.close()

    run(main())


def test_one_head_may_belong_to_another_when_the_keys_change() -> None:
    head = sent(b"key-of-the-file")
    for name in ("dev", "ops"):
        caller = Callers(KeyRing([(name, "key-of-the-file")])).recognise(head)
        assert caller is not None
        assert caller.key_name == name
    assert Callers(KeyRing([("dev", "another-key")])).recognise(head) is None


def test_what_a_head_says_is_found_out_once() -> None:
    headers = SentHeaders({b"user-agent": b"claude-cli/2.1.330", b"x-app": b"cli-bg"})
    facts = facts_of(headers)
    assert (facts.sender.client, facts.role, facts.is_traced) == ("claude-cli", "background", False)
    assert facts_of(headers) is facts
