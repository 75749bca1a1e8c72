"""The real process between real sockets: replies, failures, and clients that leave."""

import asyncio
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from support.chat_script import BEFORE_HEAD, Rule, give, hang, refuse, say
from support.raw_http import Client
from support.sockets import ASK, Site, open_site, post, read
from support.sse_grammar import check_error, check_stream

both_ways = pytest.mark.parametrize("is_stream", [True, False], ids=["streamed", "whole"])
CANCEL_S = 0.5  # how long an upstream may go on working for a client that has left
EVENTS_OF_HELLO = 5  # role, text, finish, counts, [DONE]


@pytest.fixture(scope="module")
def running(tmp_path_factory) -> Iterator[Site]:
    with open_site(tmp_path_factory.mktemp("site")) as site:
        yield site


@pytest.fixture
def site(running: Site) -> Iterator[Site]:
    running.upstream.script()
    yield running
    running.upstream.wait_idle()
    assert running.upstream.open_calls == 0


def error_of(body: bytes) -> dict[str, Any]:
    return check_error(body)


# -- replies


@both_ways
def test_a_reply(site: Site, is_stream: bool) -> None:
    site.upstream.script(say("Hello, ", "world"))
    before = len(site.records())
    reply = asyncio.run(site.ask(post(stream=is_stream)))
    message = read(reply)
    assert (message.text, message.model) == ("Hello, world", "m")
    (recorded,) = site.upstream.requests
    assert recorded.headers["authorization"] == "Bearer lab-secret"
    record = asyncio.run(site.next_record(before))
    assert record["request_id"] == reply.headers[b"request-id"].decode()
    assert (record["status"], record["stream"], record["upstream"]) == (200, is_stream, "lab")


def test_many_requests_on_one_connection(site: Site) -> None:
    site.upstream.script(say("Hello", times=-1))

    async def main() -> None:
        async with site.client() as client:
            for number in range(30):
                request = post(stream=bool(number % 2))
                assert read(await client.ask(request)).text == "Hello"
            await client.send(post() + post(stream=True) + post())  # ahead of their replies
            assert [read(await client.reply()).text for _ in range(3)] == ["Hello"] * 3

    asyncio.run(main())
    assert site.upstream.total_connections < 30


@pytest.mark.parametrize("path", ["/", "/healthz", "/readyz", "/api/hello", "/v1/models/m"])
def test_head_is_get_without_a_body(site: Site, path: str) -> None:
    async def main() -> None:
        async with site.client() as client:
            for method in ("GET", "HEAD", "GET"):
                await client.send(f"{method} {path} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode())
                reply = await client.reply(is_bodiless=method == "HEAD")
                assert reply.status == 200
                assert reply.headers[b"request-id"].startswith(b"req_")
                assert (method == "HEAD") <= (reply.body == b"")

    asyncio.run(main())


def test_percent_encoded_ids(site: Site) -> None:
    async def main() -> None:
        head = b" HTTP/1.1\r\nhost: localhost\r\n\r\n"
        reply = await site.ask(b"GET /v1/models/claude%2Dm?x=%2F" + head)
        assert json.loads(reply.body)["id"] == "claude-m"
        reply = await site.ask(b"GET /v1/models/%ff%00%0d%0a" + head)
        assert (reply.status, error_of(reply.body)["type"]) == (404, "not_found_error")

    asyncio.run(main())


def test_a_client_may_wait_to_be_asked_for_its_body(site: Site) -> None:
    site.upstream.script(say("Hello"))

    async def main() -> None:
        head, _, body = post(None, "expect: 100-continue").partition(b"\r\n\r\n")
        async with site.client() as client:
            await client.send(head + b"\r\n\r\n")
            assert (await client.reply()).status == 100
            assert read(await client.ask(body)).text == "Hello"

    asyncio.run(main())


# -- waiting


def test_a_slow_upstream_is_bridged_by_an_early_start_and_pings(site: Site) -> None:
    site.upstream.script(say("Hello", head_delay_s=2.0))

    async def main() -> None:
        async with site.client() as client:
            await client.send(post(stream=True))
            head = await client.read(65536)
            assert head.startswith(b"HTTP/1.1 200 OK")
            assert site.upstream.requests[0].head_at_s is None  # it has not answered yet
            rest = await asyncio.wait_for(_until(client, b"message_stop"), 20)
            body = b"".join(_dechunk((head + rest).partition(b"\r\n\r\n")[2]))
            message = check_stream(body)
            assert message.text == "Hello"
            assert message.pings >= 2
            assert body.startswith(b"event: message_start")

    asyncio.run(main())


async def _until(client: Client, mark: bytes) -> bytes:
    data = b""
    while mark not in data or not data.endswith(b"0\r\n\r\n"):
        data += await client.read(65536)
    return data


def _dechunk(data: bytes) -> Iterator[bytes]:
    while data:
        size, _, data = data.partition(b"\r\n")
        yield data[: int(size, 16)]
        data = data[int(size, 16) + 2 :]


def test_a_silence_in_a_stream_is_bridged_by_pings(site: Site) -> None:
    site.upstream.script(say("Hello", delay_s=0.9))
    message = read(asyncio.run(site.ask(post(stream=True))))
    assert (message.text, message.stop_reason) == ("Hello", "end_turn")
    assert message.pings >= 2


@both_ways
def test_done_ends_the_message_though_the_connection_stays_open(
    site: Site, is_stream: bool
) -> None:
    site.upstream.script(say("Hello", silent_after=EVENTS_OF_HELLO))
    assert read(asyncio.run(site.ask(post(model="m", stream=is_stream)))).text == "Hello"
    assert site.upstream.requests[0].wait_gone(10)


@both_ways
def test_no_byte_in_time(site: Site, is_stream: bool) -> None:
    site.upstream.script(hang())
    reply = asyncio.run(site.ask(post(model="hasty", stream=is_stream)))
    if is_stream:  # by then it has been started
        error = check_stream(reply.body).error
        assert reply.status == 200
    else:
        error = error_of(reply.body)
        assert reply.status == 504
    assert error is not None
    assert error["type"] == "timeout_error"
    assert site.upstream.requests[0].wait_gone(5)
    assert len(site.upstream.requests) == 1


@both_ways
def test_silence_in_the_middle(site: Site, is_stream: bool) -> None:
    site.upstream.script(say("Hello", silent_after=2))
    reply = asyncio.run(site.ask(post(model="hasty", stream=is_stream)))
    if is_stream:
        message = check_stream(reply.body)
        error = message.error
        assert message.content[0]["type"] == "text"
    else:
        error = error_of(reply.body)
        assert reply.status == 504
    assert error is not None
    assert error["type"] == "timeout_error"
    assert site.upstream.requests[0].wait_gone(5)


# -- failures


@both_ways
def test_nobody_listens_there(site: Site, is_stream: bool) -> None:
    reply = asyncio.run(site.ask(post(model="dead", stream=is_stream)))
    assert (reply.status, error_of(reply.body)["type"]) == (502, "api_error")
    assert b"127.0.0.1" not in reply.body


@both_ways
def test_the_next_upstream_answers_in_its_place(site: Site, is_stream: bool) -> None:
    site.upstream.script(say("Hello"))
    assert read(asyncio.run(site.ask(post(model="backed", stream=is_stream)))).text == "Hello"


@both_ways
@pytest.mark.parametrize(
    "failure",
    [say(drop_after=BEFORE_HEAD), refuse(503, "busy"), refuse(502, "x"), refuse(529, "x")],
    ids=["reset", "503", "502", "529"],
)
def test_what_has_cost_nothing_is_tried_again(site: Site, failure: Rule, is_stream: bool) -> None:
    site.upstream.script(failure, say("Hello"))
    assert read(asyncio.run(site.ask(post(stream=is_stream)))).text == "Hello"
    assert len(site.upstream.requests) == 2


@pytest.mark.parametrize("options", [{"drop_after": 3}, {"eof_after": 3}, {"cut_event": True}])
def test_a_break_in_the_middle_of_a_stream(site: Site, options: dict[str, Any]) -> None:
    site.upstream.script(say("Hello, world and all", **{"eof_after": 3, **options}))
    message = check_stream(asyncio.run(site.ask(post(stream=True))).body)
    assert message.error is not None
    assert message.error["type"] == "api_error"
    assert message.content[0]["type"] == "text"
    assert len(site.upstream.requests) == 1


def test_a_break_in_the_middle_of_a_whole_reply(site: Site) -> None:
    site.upstream.script(say("Hello, world and all", drop_after=3))
    reply = asyncio.run(site.ask(post(stream=False)))
    assert (reply.status, error_of(reply.body)["type"]) == (502, "api_error")


@pytest.mark.parametrize("size", [0, 1, 40, 300])
def test_a_body_that_breaks_off(site: Site, size: int) -> None:
    whole = json.dumps({"choices": [{"message": {"content": "x" * 300}, "finish_reason": "stop"}]})
    site.upstream.script(give(whole.encode()[:size], close=True))
    reply = asyncio.run(site.ask(post()))
    assert (reply.status, error_of(reply.body)["type"]) == (502, "api_error")


def test_a_reply_that_ends_with_its_connection(site: Site) -> None:
    site.upstream.script(say("Hello", close=True), say("Hello", close=True, done=False))
    for _ in range(2):
        assert read(asyncio.run(site.ask(post(stream=True)))).text == "Hello"


def test_a_native_upstream_speaks_for_itself(site: Site) -> None:
    reply = asyncio.run(site.ask(post(model="theirs")))  # it has no such path, and says so
    assert (reply.status, error_of(reply.body)["type"]) == (404, "not_found_error")
    recorded = site.upstream.others[-1]
    assert (recorded.path, recorded.headers["x-api-key"]) == ("/v1/messages", "lab-secret")
    assert recorded.body == {**ASK, "model": "theirs"}


# -- clients that leave

PHASES = {
    "before the head": hang(),
    "after the head": say("Hello", silent_after=0),
    "in the stream": say("Hello", silent_after=2),
    "while it trickles": say("x" * 3000, delay_s=0.05),
    "after the finish": say("Hello", silent_after=3, delay_s=0.1),
    "an error's body": refuse(400, "x" * 3000, silent_after=0),
}


async def leave(client: Client, how: str) -> None:
    if how == "half-close":
        client.send_eof()
    elif how == "reset":
        client.reset()
    else:
        await client.close()


@both_ways
@pytest.mark.parametrize("how", ["close", "half-close", "reset"])
@pytest.mark.parametrize("phase", PHASES)
def test_leaving_ends_the_upstream_s_work(
    site: Site, phase: str, how: str, is_stream: bool
) -> None:
    async def main() -> float:
        site.upstream.script(PHASES[phase])
        async with site.client() as client:
            await client.send(post(stream=is_stream))
            recorded = await asyncio.to_thread(site.upstream.wait_request, 1, 20)
            await asyncio.sleep(0.1)
            left_s = time.monotonic()
            await leave(client, how)
            assert await asyncio.to_thread(recorded.wait_gone, 20)
            assert recorded.ended_at_s is not None
            return recorded.ended_at_s - left_s

    took_s = min(next_times(main))
    assert took_s < CANCEL_S
    assert len(site.upstream.requests) == 1


def next_times(main: Any) -> Iterator[float]:
    """Yield how long it took; a busy machine gets three tries."""
    for _ in range(3):
        took_s = asyncio.run(main())
        yield took_s
        if took_s < CANCEL_S:
            return


def test_leaving_after_an_early_start(site: Site) -> None:
    site.upstream.script(hang())

    async def main() -> None:
        before = len(site.records())
        async with site.client() as client:
            await client.send(post(stream=True))
            assert b"message_start" in await client.read(65536)
        record = await site.next_record(before)
        assert (record["status"], record["error"]) == (200, "client_gone")

    asyncio.run(main())
    assert site.upstream.requests[0].wait_gone(5)


@both_ways
def test_leaving_between_two_attempts(site: Site, is_stream: bool) -> None:
    site.upstream.script(refuse(503, "x", headers=(("retry-after", "4"),)), say("never asked for"))

    async def main() -> dict[str, Any]:
        before = len(site.records())
        async with site.client() as client:
            await client.send(post(stream=is_stream))
            recorded = await asyncio.to_thread(site.upstream.wait_request, 1, 20)
            await asyncio.to_thread(recorded.ended.wait, 20)
            await asyncio.sleep(0.1)
        return await site.next_record(before)

    record = asyncio.run(main())
    assert (record["error"], record["attempts"]) == ("client_gone", 1)
    assert record["duration_ms"] < 3500
    assert len(site.upstream.requests) == 1


def test_leaving_in_the_middle_of_the_own_body(site: Site) -> None:
    async def main() -> None:
        before = len(site.records())
        request = post(messages=[{"role": "user", "content": "x" * 10_000}])
        async with site.client() as client:
            await client.send(request[:5000])
            await asyncio.sleep(0.05)
        record = await site.next_record(before)
        assert (record["status"], record["error"]) == (499, "client_gone")

    asyncio.run(main())
    assert site.upstream.requests == []


def test_the_gateway_answers_others_meanwhile(site: Site) -> None:
    site.upstream.script(say("Hello", user_has="quick", times=-1), hang(user_has="slow", times=-1))
    slow = post(messages=[{"role": "user", "content": "slow"}])
    quick = post(messages=[{"role": "user", "content": "quick"}])

    async def main() -> None:
        async with site.client() as one, site.client() as two:
            await one.send(slow)
            await two.send(slow)
            for _ in range(5):
                assert read(await site.ask(quick)).text == "Hello"

    asyncio.run(main())
