"""Identical requests: who joins whom, who pays, and when the upstream's call ends."""

import asyncio
import json
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest

from dragoman.core.errors import InvalidRequest
from dragoman.server.asked import Asked
from dragoman.server.joins import Joins
from dragoman.server.telemetry import RequestRecord
from dragoman.server.transport.seams import Exchange
from dragoman.settings import PriceConfig
from support.app_case import (
    ASK,
    LATE,
    RESET,
    AppCase,
    Script,
    both_ways,
    chunk,
    error_in,
    error_of,
    exchange_of,
    failing,
    message_of,
    run,
    saying,
)
from support.fakes import FakeExchange, data, fail, head
from support.plans import parse

PRICE = PriceConfig(models=("real-m",), input_per_mtok=1e6, output_per_mtok=1e6)
STREAM = {**ASK, "stream": True}
REST = saying("Hello")[1:]


class Twins:
    """An app that joins, and its requests under way."""

    def __init__(self, *scripts: Script, **case: Any) -> None:
        joins = {"model": {"join_resends": True, **case.pop("model", {})}}
        self.app = AppCase({"lab": scripts}, options=joins, prices=[PRICE], **case)
        self.tasks: list[asyncio.Task[None]] = []

    async def send(self, body: Any = None, **request: Any) -> FakeExchange:
        """Send a request, and wait until it is where it waits."""
        exchange = exchange_of(STREAM if body is None else body, **request)
        self.tasks.append(asyncio.create_task(self.app.app.handle(exchange)))
        for _ in range(20):
            await asyncio.sleep(0)
        return exchange

    async def end(self) -> list[dict[str, Any]]:
        """Wait for all, return their records in the order in which they ended."""
        async with asyncio.timeout(10):
            await asyncio.gather(*self.tasks)
        assert set(self.app.load.busy.values()) <= {0}
        await self.app.close()
        return self.app.records

    @property
    def calls(self) -> Sequence[Any]:
        return self.app.upstreams["lab"].calls


def twins(case: Callable[[], Coroutine[Any, Any, None]]) -> None:
    run(case())


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not is_so():  # noqa: ASYNC110 - what is waited for tells nobody
            await asyncio.sleep(0.001)


@both_ways
def test_two_get_one_reply_and_one_of_them_pays(is_stream: bool) -> None:
    async def case() -> None:
        both = Twins([0.3, *saying("Hello", prompt=30, output=5)])
        body = {**ASK, "stream": is_stream}
        first, second = await both.send(body), await both.send(body)
        records = await both.end()
        assert message_of(first).text == message_of(second).text == "Hello"
        assert message_of(first).id == message_of(second).id
        assert len(both.calls) == 1
        assert [record.get("cost_micros") for record in records] == [35_000_000, None]
        assert [record["attempts"] for record in records] == [1, 0]
        assert "joined" not in records[0]
        assert records[1]["joined"] == records[0]["request_id"]
        assert records[1]["upstream"] == "lab"
        assert [record["status"] for record in records] == [200, 200]
        for exchange, record in zip((first, second), records, strict=True):
            assert exchange.reply_headers[b"request-id"].decode() == record["request_id"]

    twins(case)


def test_alone_it_is_as_ever() -> None:
    async def case() -> None:
        one = Twins(saying("a"), saying("b"))
        first = await one.send()
        await one.tasks[0]
        second = await one.send()
        records = await one.end()
        assert (message_of(first).text, message_of(second).text) == ("a", "b")
        assert all("joined" not in record for record in records)

    twins(case)


OTHERS: dict[str, dict[str, Any]] = {
    "another byte": {"body": json.dumps(STREAM).encode() + b" "},
    "another model": {"body": {**STREAM, "model": "claude-x"}},
    "another key": {"headers": {b"x-api-key": b"key-of-bob-key-of-bob"}},
    "another beta": {"headers": {b"x-api-key": b"key-of-ann-key-of-ann", b"anthropic-beta": b"b"}},
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_what_differs_is_asked_for_itself(other: dict[str, Any]) -> None:
    async def case() -> None:
        keys = [("ann", "key-of-ann-key-of-ann"), ("bob", "key-of-bob-key-of-bob")]
        both = Twins([0.3, *saying("a")], [0.3, *saying("b")], keys=keys)
        await both.send(headers={b"x-api-key": b"key-of-ann-key-of-ann"})
        request = {"headers": {b"x-api-key": b"key-of-ann-key-of-ann"}, **other}
        await both.send(request.pop("body", None), **request)
        records = await both.end()
        assert len(both.calls) == 2
        assert all("joined" not in record for record in records)

    twins(case)


def test_only_models_that_are_set_to_it() -> None:
    async def case() -> None:
        both = Twins([0.3, *saying("a")], [0.3, *saying("b")], model={"join_resends": False})
        await both.send()
        await both.send()
        await both.end()
        assert len(both.calls) == 2

    twins(case)


def test_after_the_first_content_nobody_joins() -> None:
    async def case() -> None:
        both = Twins([head(), data(chunk(content="Hel")), 0.05, *REST], saying("own"))
        first = await both.send()
        await until(lambda: b"Hel" in first.reply)
        second = await both.send()
        await both.end()
        assert message_of(first).text == "HelHello"
        assert message_of(second).text == "own"

    twins(case)


def test_one_who_comes_after_the_early_start_sees_it() -> None:
    async def case() -> None:
        both = Twins([0.8, *saying("Hello")], early_start_s=0.02, ping_interval_s=0.05)
        first = await both.send()
        await until(lambda: b"event: ping" in first.reply)
        second = await both.send()
        await both.end()
        assert message_of(first).text == message_of(second).text == "Hello"
        assert first.reply == second.reply

    twins(case)


@pytest.mark.parametrize("who", [0, 1], ids=["first", "second"])
@pytest.mark.parametrize("has_begun", [False, True], ids=["waiting", "reading"])
def test_one_who_leaves_leaves_the_call_to_the_other(who: int, has_begun: bool) -> None:
    begin: Script = [head(), data(chunk(content="Hel"))] if has_begun else []

    async def case() -> None:
        both = Twins([0.3, *begin, 0.05, *([] if has_begun else [head()]), *REST])
        exchanges = [await both.send(), await both.send()]
        if has_begun:
            await until(lambda: b"Hel" in exchanges[0].reply)
        exchanges[who].leave()
        await both.tasks[who]
        assert not both.calls[0].is_over
        records = await both.end()
        assert message_of(exchanges[1 - who]).text.endswith("Hello")
        assert [record.get("error", "") for record in records] == ["client_gone", ""]
        assert [record.get("cost_micros") for record in records] == [None, 5_000_000]
        assert both.calls[0].events.count("abort") == 0

    twins(case)


def test_the_call_ends_with_the_last_of_them() -> None:
    async def case() -> None:
        both = Twins([30.0])
        first, second = await both.send(), await both.send()
        first.leave()
        await both.tasks[0]
        assert not both.calls[0].is_over
        second.leave()
        records = await both.end()
        assert both.calls[0].events == ["abort"]
        assert [record["error"] for record in records] == ["client_gone", "client_gone"]
        assert [record["attempts"] for record in records] == [0, 1]
        assert both.app.health.is_clear

    twins(case)


@pytest.mark.parametrize("script", [[30.0], [0.3, head(), data(chunk(content="Hi")), 30.0]])
def test_the_end_of_the_gateway_is_told_to_all(script: Script) -> None:
    async def case() -> None:
        both = Twins(script)
        exchanges = [await both.send(), await both.send()]
        await asyncio.sleep(0.1)
        for task in both.tasks:
            task.cancel()
        await asyncio.gather(*both.tasks, return_exceptions=True)
        errors = [error_in(e) if e.status == 200 else error_of(e) for e in exchanges]
        assert {error["message"] for error in errors} == {"the gateway is stopping; try again"}
        assert [record["error"] for record in both.app.records] == ["stopped"] * 2
        assert both.calls[0].events == ["abort"]
        await both.app.close()

    twins(case)


@both_ways
def test_both_are_told_of_an_error(is_stream: bool) -> None:
    async def case() -> None:
        both = Twins([0.3, *failing(LATE)])
        body = {**ASK, "stream": is_stream}
        exchanges = [await both.send(body), await both.send(body)]
        records = await both.end()
        assert [error_of(each)["type"] for each in exchanges] == ["timeout_error"] * 2
        assert [record["status"] for record in records] == [504, 504]
        assert [record["error"] for record in records] == ["timeout_error"] * 2

    twins(case)


def test_both_see_a_reply_break_off() -> None:
    async def case() -> None:
        both = Twins([0.3, head(), data(chunk(content="Hel")), 0.02, fail(RESET)])
        exchanges = [await both.send(), await both.send()]
        records = await both.end()
        assert [error_in(each)["type"] for each in exchanges] == ["api_error"] * 2
        assert [record["error"] for record in records] == ["api_error"] * 2

    twins(case)


@pytest.mark.parametrize("error", [InvalidRequest("x", "no"), ValueError("a bug")])
def test_errors_before_anything_is_sent_go_to_both(error: Exception) -> None:
    joins, record = Joins(), RequestRecord("req_1", "POST", "/v1/messages")
    asked = Asked(body=b"{}", request=parse(ASK), alias="m", native_headers=())

    async def answer(_: Exchange, work: RequestRecord) -> None:
        await asyncio.sleep(0.02)
        work.refused_by = "key requests"
        raise error

    async def case() -> None:
        records = [record, RequestRecord("req_2", "POST", "/v1/messages")]
        waits = [joins.serve(FakeExchange(), each, asked=asked, answer=answer) for each in records]
        assert await asyncio.gather(*waits, return_exceptions=True) == [error, error]
        assert [each.refused_by for each in records] == ["key requests", ""]
        assert joins.n_joined == 1

    twins(case)


def test_no_more_than_sixteen_share_one_reply() -> None:
    async def case() -> None:
        many = Twins([0.4, *saying("a")], [0.4, *saying("b")])
        for _ in range(17):
            await many.send()
        records = await many.end()
        assert len(many.calls) == 2
        assert sum("joined" in record for record in records) == 15

    twins(case)


def test_a_slow_reader_does_not_hold_up_the_other() -> None:
    async def case() -> None:
        megabyte = data(chunk(content="x" * 2**20))
        steps = [0.3, head(), *([0.01, megabyte] * 6), 0.05, *REST]
        both = Twins(steps, max_reply_bytes=2**24, max_event_bytes=2**23)
        first, second = await both.send(), await both.send()
        first.pause()
        await until(lambda: bool(second.reply))
        assert both.calls[0].events == []
        records = await both.end()
        assert first.is_aborted
        assert message_of(second).text.endswith("Hello")
        assert [record.get("error", "") for record in records] == ["client_gone", ""]

    twins(case)


def test_where_all_read_slowly_the_upstream_waits() -> None:
    async def case() -> None:
        both = Twins([0.3, head(), data(chunk(content="Hel")), 0.1, *REST])
        first, second = await both.send(), await both.send()
        await until(lambda: b"Hel" in second.reply)
        first.pause()
        assert both.calls[0].events == []
        second.pause()
        assert both.calls[0].events == ["pause"]
        first.resume()
        assert both.calls[0].events == ["pause", "resume"]
        second.resume()
        await both.end()

    twins(case)
