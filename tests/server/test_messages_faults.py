"""Clients that leave, and components that misbehave."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from dragoman.core.errors import UpstreamError, UpstreamProtocolError
from dragoman.core.turn import ChatTurn
from support.app_case import (
    ASK,
    GONE,
    LATE,
    RESET,
    WHOLE,
    AppCase,
    Script,
    both_ways,
    calling,
    chunk,
    deliver,
    error_in,
    error_of,
    exchange_of,
    failing,
    message_of,
    refusing,
    replying,
    run,
    saying,
)
from support.fakes import FakeExchange, FakeUpstream, Step, data, end, fail, head

pytestmark = pytest.mark.usefixtures("quick_retries")


# -- clients that leave


SEARCH = {"tools": [{"type": "web_search_20250305", "name": "web_search"}]}


def leave_during(
    scripts: Mapping[str, Sequence[Script]],
    leave_s: float,
    *,
    body: Mapping[str, Any] = ASK,
    path: str = "/v1/messages",
    prepare: Callable[[AppCase], None] = lambda case: None,
    **options: Any,
) -> tuple[FakeExchange, AppCase]:
    async def main() -> tuple[FakeExchange, AppCase]:
        case = AppCase(scripts, **options)
        prepare(case)
        exchange = exchange_of(body, path=path)
        asyncio.get_running_loop().call_later(leave_s, exchange.leave)
        async with asyncio.timeout(10):
            await case.app.handle(exchange)
        await case.close()
        return exchange, case

    return run(main())


@both_ways
@pytest.mark.parametrize(
    "script",
    [
        [60.0],
        [head(), 60.0],
        [head(), data(chunk(content="x")), 60.0],
        [head(500), data(b"x"), 60.0],
        [head(content_type="application/json"), data(b"{"), 60.0],
    ],
)
def test_leaving_aborts_the_call(script: Script, is_stream: bool) -> None:
    _, case = leave_during(
        {"lab": [script], "other": []}, 0.05, body=ASK | {"stream": is_stream}, early_start_s=0.02
    )
    assert case.upstreams["lab"].calls[0].events == ["abort"]
    assert case.record["error"] == "client_gone"
    assert case.record["attempts"] == 1


@both_ways
def test_leaving_ends_a_pause_between_attempts(monkeypatch, is_stream: bool) -> None:
    monkeypatch.setattr("dragoman.policy.retries._FIRST_DELAY_S", 3.0)
    exchange, case = leave_during({"lab": [failing(GONE)]}, 0.05, body=ASK | {"stream": is_stream})
    assert exchange.status == 0
    assert (case.record["status"], case.record["attempts"]) == (499, 1)
    assert case.record["duration_ms"] < 1500


@pytest.mark.parametrize("upstream", ["lab", "native"])
@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
def test_leaving_ends_the_look_at_links(upstream: str, path: str) -> None:
    cancelled: list[str] = []

    async def look_up(host: str, port: int) -> Sequence[str]:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(f"{host}:{port}")
            raise
        return []

    def prepare(case: AppCase) -> None:
        case.documents._fetcher._resolve = look_up

    block = {"type": "image", "source": {"type": "url", "url": "https://slow.example/x"}}
    _, case = leave_during(
        {upstream: []},
        0.05,
        path=path,
        body=ASK | {"messages": [{"role": "user", "content": [block]}]},
        profile={"sees_images": True},
        prepare=prepare,
    )
    assert cancelled == ["slow.example:443"]
    assert (case.record["status"], case.record["error"]) == (499, "client_gone")


def test_leaving_in_the_second_round_aborts_it() -> None:
    _, case = leave_during(
        {"lab": [calling("web_search", "{}"), [head(), 60.0]]},
        0.1,
        body=ASK | SEARCH | {"stream": True},
    )
    assert case.upstreams["lab"].calls[1].events == ["abort"]
    assert (case.record["status"], case.record["error"]) == (200, "client_gone")


# -- components that misbehave


class Bug(Exception):
    """No error of the tree."""


MARK = "PRIVATE"  # never in a line of source that a traceback shows


def crashing(*_: object, **__: object) -> bytes:
    raise Bug(MARK)


@both_ways
@pytest.mark.parametrize("method", ["feed", "close"])
def test_a_bug_in_the_turn_is_a_500(monkeypatch, method: str, is_stream: bool) -> None:
    monkeypatch.setattr(ChatTurn, method, crashing)
    script = [head(), data(chunk(content="x")), end()]
    exchange, case = deliver({"lab": [script], "other": []}, is_stream=is_stream)
    if is_stream and method == "close":  # there was content before
        assert error_in(exchange)["type"] == "api_error"
    else:
        assert exchange.status == 500
        assert error_of(exchange)["type"] == "api_error"
    assert [e["event"] for e in case.events] == ["crash", "request"]
    assert case.record["detail"] == "Bug"
    assert case.upstreams["lab"].calls[0].events == ["abort"]
    assert "PRIVATE" not in case.log_text.getvalue() + exchange.reply.decode()


def test_a_bug_in_a_whole_reply_is_a_500(monkeypatch) -> None:
    monkeypatch.setattr(ChatTurn, "feed_whole", crashing)
    exchange, _ = deliver([replying(200, WHOLE)], is_stream=False)
    assert (exchange.status, error_of(exchange)["type"]) == (500, "api_error")


@both_ways
@pytest.mark.parametrize(
    "name",
    [
        "dragoman.server.upstream_attempt.error_of_reply",
        "dragoman.server.upstream_requests.render",
        "dragoman.server.attempts.render_adjustments",
        "dragoman.server.planner.plan_texts",
        "dragoman.server.attempts.retry_delay_s",
    ],
)
def test_a_bug_anywhere_on_the_way_is_a_500(monkeypatch, name: str, is_stream: bool) -> None:
    monkeypatch.setattr(name, crashing)
    script = saying("x") if "adjustments" in name else refusing(500)
    exchange, case = deliver([script], body=ASK | {"top_k": 3}, is_stream=is_stream)
    assert (exchange.status, error_of(exchange)["type"]) == (500, "api_error")
    assert case.record["status"] == 500
    for call in case.upstreams["lab"].calls:
        assert call.is_over or call.events == []


@both_ways
def test_a_bug_of_the_exchange_does_not_hang_the_request(monkeypatch, is_stream: bool) -> None:
    written: list[bytes] = []

    def write(_: FakeExchange, *written_now: Any) -> None:
        written.append(written_now[-1])
        if len(written) == 1:
            raise Bug(MARK)

    monkeypatch.setattr(FakeExchange, "write" if is_stream else "reply_whole", write)
    _, case = deliver([saying("x")], is_stream=is_stream)
    assert [e["event"] for e in case.events] == ["crash", "request"]
    assert case.upstreams["lab"].calls[0].events == ["abort"]


class EagerUpstream(FakeUpstream):
    """Calls back before ``send`` has returned, which the seam forbids."""

    def send(self, request: Any, receiver: Any) -> Any:
        call = super().send(request, receiver)
        call._play()
        return call


@both_ways
@pytest.mark.parametrize(
    ("script", "status"),
    [(saying("Hello"), 200), (refusing(400), 400), (failing(LATE), 504), ([head(), end()], 502)],
)
def test_an_upstream_that_calls_back_at_once(script: Script, status: int, is_stream: bool) -> None:
    async def main() -> None:
        case = AppCase()
        case.upstreams["lab"] = EagerUpstream(script)
        exchange = await case.ask(ASK | {"stream": is_stream})
        assert exchange.status == status
        assert exchange.is_ended

    run(main())


@both_ways
def test_an_upstream_that_cannot_send(is_stream: bool) -> None:
    class Refusing(FakeUpstream):
        def send(self, request: Any, receiver: Any) -> Any:
            raise ValueError("a header that cannot be sent")

    async def main() -> None:
        case = AppCase()
        case.upstreams["lab"] = Refusing()
        exchange = await case.ask(ASK | {"stream": is_stream})
        assert (exchange.status, error_of(exchange)["type"]) == (500, "api_error")

    run(main())


def late(*steps: Step) -> Script:
    """Finish a reply, then go on calling back."""
    return [*saying("Hello")[:-1], *steps]


@both_ways
@pytest.mark.parametrize(
    "script",
    [
        late(end(), end()),
        late(end(), fail(RESET)),
        late(fail(RESET), data(b"data: {}\n\n"), end()),
        late(data(b"data: {nonsense\n\n"), data(chunk(content="more")), end()),
    ],
)
def test_what_comes_after_the_end_changes_nothing(script: Script, is_stream: bool) -> None:
    exchange, case = deliver([script], is_stream=is_stream)
    assert message_of(exchange).text == "Hello"
    assert len(case.records) == 1


@both_ways
@pytest.mark.parametrize("error", [GONE, LATE, UpstreamProtocolError("x")])
def test_an_error_told_twice_is_one_error(error: UpstreamError, is_stream: bool) -> None:
    script = [fail(error), fail(error), end(), data(b"x")]
    exchange, case = deliver([script], is_stream=is_stream, options={"lab": {"retries": 0}})
    assert error_of(exchange)["type"] == error.kind
    assert len(case.records) == 1
