"""Handlers that fail, and the server's own beginning and end."""

import asyncio
import gc

import pytest

from dragoman.server.transport.http_exchange import HttpExchange
from dragoman.server.transport.seams import Exchange
from support.loops import on_each_loop, until
from support.raw_http import Reply, echo, post, reply_whole, serving

GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"

# -- handlers at fault


class Bug(Exception):
    pass


async def raise_early(exchange: Exchange) -> None:
    raise Bug


async def return_early(exchange: Exchange) -> None:
    return


async def break_out_of_a_header(exchange: Exchange) -> None:
    exchange.start_reply(200, [(b"x", b"a\r\nset-cookie: b")])


async def break_out_of_a_whole_reply(exchange: Exchange) -> None:
    exchange.reply_whole(200, [(b"x", b"a\nb")], b"unseen")


async def write_without_a_head(exchange: Exchange) -> None:
    exchange.write(b"x")


async def end_without_a_head(exchange: Exchange) -> None:
    exchange.end_reply()


async def raise_later(exchange: Exchange) -> None:
    exchange.start_reply(200, [])
    exchange.write(b"x")
    raise Bug


async def return_later(exchange: Exchange) -> None:
    exchange.start_reply(200, [])
    exchange.write(b"x")


async def start_twice(exchange: Exchange) -> None:
    exchange.start_reply(200, [])
    exchange.write(b"x")
    exchange.start_reply(200, [])


async def start_and_reply(exchange: Exchange) -> None:
    exchange.start_reply(200, [])
    exchange.write(b"x")
    exchange.reply_whole(200, [], b"y")


async def write_too_much(exchange: Exchange) -> None:
    exchange.start_reply(200, [(b"content-length", b"2")])
    exchange.write(b"x")
    exchange.write(b"yz")


async def write_too_little(exchange: Exchange) -> None:
    exchange.start_reply(200, [(b"content-length", b"2")])
    exchange.write(b"x")
    exchange.end_reply()


EARLY = [
    raise_early,
    return_early,
    break_out_of_a_header,
    break_out_of_a_whole_reply,
    write_without_a_head,
    end_without_a_head,
]
LATE = [raise_later, return_later, start_twice, start_and_reply, write_too_much, write_too_little]


def take_crash(place) -> BaseException:
    [crash] = place.crashes
    place.crashes.clear()
    return crash


@pytest.mark.parametrize("handler", EARLY)
@on_each_loop
async def test_a_fault_before_the_reply_is_a_500(handler) -> None:
    async with serving(handler) as place, place.client() as client:
        for _ in range(2):  # the connection is still good
            reply = await client.ask(GET)
            assert (reply.status, reply.error["type"]) == (500, "api_error")
            assert isinstance(take_crash(place), Bug | RuntimeError | ValueError)


@pytest.mark.parametrize("handler", LATE)
@on_each_loop
async def test_a_fault_within_the_reply_cuts_it(handler) -> None:
    async with serving(handler) as place:
        reply = await place.ask(GET)
        assert isinstance(take_crash(place), Bug | RuntimeError)
    assert (reply.status, reply.is_cut) == (200, True)


@on_each_loop
async def test_a_fault_after_the_reply_is_no_business_of_the_client() -> None:
    async def handler(exchange: Exchange) -> None:
        reply_whole(exchange, b"done")
        raise Bug

    async with serving(handler) as place, place.client() as client:
        assert (await client.ask(GET)).body == b"done"
        await until(lambda: place.crashes)
        assert isinstance(take_crash(place), Bug)
        assert (await client.ask(GET)).body == b"done"
        await until(lambda: place.crashes)
        take_crash(place)


@pytest.mark.parametrize("late_call", ["write", "end_reply", "start_reply", "reply_whole"])
@on_each_loop
async def test_a_late_call_cannot_reach_the_next_reply(late_call) -> None:
    exchanges: list[Exchange] = []
    may_go_on = asyncio.Event()

    async def handler(exchange: Exchange) -> None:
        exchanges.append(exchange)
        if len(exchanges) == 2:
            await may_go_on.wait()
        reply_whole(exchange, b"%d" % len(exchanges))

    arguments = {
        "write": [b"late"],
        "end_reply": [],
        "start_reply": [200, []],
        "reply_whole": [200, [], b"late"],
    }
    async with serving(handler) as place, place.client() as client:
        assert (await client.ask(GET)).body == b"1"
        await client.send(GET)
        await until(lambda: len(exchanges) == 2)
        with pytest.raises(RuntimeError, match="ended"):
            getattr(exchanges[0], late_call)(*arguments[late_call])
        exchanges[0].abort()  # does nothing: it is over
        may_go_on.set()
        assert (await client.reply()).body == b"2"


@on_each_loop
async def test_abort_cuts_the_connection() -> None:
    async def handler(exchange: Exchange) -> None:
        exchange.start_reply(200, [])
        exchange.write(b"x")
        await asyncio.sleep(0.01)
        exchange.abort()
        exchange.abort()
        exchange.write(b"unseen")
        exchange.end_reply()

    async with serving(handler) as place:
        reply = await place.ask(GET)
        await place.wait_empty()
    assert reply.is_cut


# -- start and end


@on_each_loop
async def test_a_port_in_use_is_an_error_of_the_system() -> None:
    async with serving(echo) as place, serving(echo) as other:
        assert place.server.port != other.server.port
        with pytest.raises(OSError, match="in use"):
            await other.server.start("127.0.0.1", place.server.port)


@on_each_loop
async def test_closing_lets_replies_end_and_idle_connections_go() -> None:
    started, may_go_on = asyncio.Event(), asyncio.Event()

    async def handler(exchange: Exchange) -> None:
        started.set()
        await may_go_on.wait()
        reply_whole(exchange, b"done")

    async with serving(handler) as place, place.client() as idle, place.client() as busy:
        port = place.server.port
        await busy.send(GET + GET)
        await started.wait()
        closing = asyncio.ensure_future(place.server.close(30))
        assert await idle.rest() == b""
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
        assert not closing.done()
        may_go_on.set()
        reply = await busy.reply()
        assert await busy.rest() == b""
        await busy.close()
        await closing
        await place.server.close(30)
    assert (reply.body, reply.headers[b"connection"]) == (b"done", b"close")


@on_each_loop
async def test_closing_cuts_what_takes_too_long() -> None:
    ends: list[str] = []

    async def handler(exchange: Exchange) -> None:
        exchange.start_reply(200, [])
        exchange.write(b"x")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ends.append("cancelled")
            raise

    async with serving(handler) as place, place.client() as client:
        await client.send(GET)
        await until(lambda: place.server.n_exchanges)
        await place.server.close(0.05)
        assert (place.server.n_connections, place.server.n_exchanges) == (0, 0)
        assert (await client.reply()).is_cut
    assert ends == ["cancelled"]


@on_each_loop
async def test_what_is_cut_may_still_say_why() -> None:
    async def handler(exchange: Exchange) -> None:
        exchange.start_reply(200, [])
        exchange.write(b"x")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            exchange.write(b"y" * 2**20)  # more than the socket takes at once
            exchange.end_reply()
            raise

    async with serving(handler) as place, place.client() as client:
        await client.send(GET)
        await until(lambda: place.server.n_exchanges)
        _, reply = await asyncio.gather(place.server.close(0.05), client.reply())
        assert (place.server.n_connections, place.server.n_exchanges) == (0, 0)
    assert (len(reply.body), reply.is_cut) == (1 + 2**20, False)


@on_each_loop
async def test_who_does_not_read_does_not_hold_up_the_end() -> None:
    async def handler(exchange: Exchange) -> None:
        exchange.start_reply(200, [])
        exchange.write(b"x")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            exchange.write(b"y" * 2**24)
            exchange.end_reply()
            raise

    async with serving(handler) as place, place.client() as client:
        await client.send(GET)
        await until(lambda: place.server.n_exchanges)
        async with asyncio.timeout(10):
            await place.server.close(0.05)
        assert (place.server.n_connections, place.server.n_exchanges) == (0, 0)


@on_each_loop
async def test_a_second_close_can_end_the_patience_of_the_first() -> None:
    async def handler(exchange: Exchange) -> None:
        await asyncio.Event().wait()

    async with serving(handler) as place, place.client() as client:
        await client.send(GET)
        await until(lambda: place.server.n_exchanges)
        patient = asyncio.ensure_future(place.server.close(600))
        await asyncio.sleep(0)
        await place.server.close(0)
        await patient


@on_each_loop
async def test_nothing_is_left_of_what_is_over() -> None:
    async def handler(exchange: Exchange) -> None:
        body = await exchange.read_body(100)
        if body == b"2":
            exchange.abort()
        else:
            reply_whole(exchange, body)

    async def visit(place, number: int) -> Reply | None:
        async with place.client() as client:
            await client.send(post(b"%d" % (number % 4)) + post(b"more")[:number])
            return await client.reply() if number % 4 != 2 else None

    async with serving(handler) as place:
        for _ in range(10):
            await asyncio.gather(*(visit(place, number) for number in range(20)))
        await place.wait_empty()
    gc.collect()
    assert [thing for thing in gc.get_objects() if isinstance(thing, HttpExchange)] == []
