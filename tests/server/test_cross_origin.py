"""Web pages of other origins: those that are named may read answers, all others may not."""

import pytest

from support.app_case import AppCase, both_ways, run, saying

PAGE = "https://app.example"
KEYS = [("dev", "key-of-dev")]
ASKING = {
    b"access-control-request-method": b"POST",
    b"access-control-request-headers": b"x-api-key,content-type,anthropic-version",
}


def sent(origin: str, **more: str) -> dict[bytes, bytes]:
    fields = {b"origin": origin.encode(), b"x-api-key": b"key-of-dev"}
    return {**fields, **{k.replace("_", "-").encode(): v.encode() for k, v in more.items()}}


@both_ways
def test_a_named_page_may_read_the_answer(is_stream: bool) -> None:
    async def main() -> None:
        case = AppCase({"lab": [saying("x")]}, keys=KEYS)
        body = {"model": "m", "max_tokens": 9, "stream": is_stream}
        body["messages"] = [{"role": "user", "content": "hi"}]
        exchange = await case.ask(body, headers=sent(PAGE))
        assert exchange.status == 200
        assert exchange.reply_headers[b"access-control-allow-origin"] == PAGE.encode()
        assert exchange.reply_headers[b"vary"] == b"origin"
        assert b"request-id" in exchange.reply_headers[b"access-control-expose-headers"]

    run(main())


def test_errors_may_be_read_too() -> None:
    async def main() -> None:
        case = AppCase(keys=KEYS)
        exchange = await case.ask({}, headers=sent(PAGE, x_api_key="wrong"))
        assert exchange.status == 401
        assert exchange.reply_headers[b"access-control-allow-origin"] == PAGE.encode()

    run(main())


@pytest.mark.parametrize(
    "origin",
    ["https://other.example", "http://app.example", "https://app.example:1", "null", ""],
)
def test_no_other_page_may(origin: str) -> None:
    async def main() -> None:
        case = AppCase({"lab": [saying("x")]}, keys=KEYS)
        exchange = await case.ask(headers=sent(origin))
        assert not [name for name in exchange.reply_headers if name.startswith(b"access-control")]
        asking = {b"origin": origin.encode(), **ASKING}
        refused = await case.ask(method="OPTIONS", headers=asking)
        assert refused.status == 404

    run(main())


def test_a_browser_that_asks_beforehand() -> None:
    async def main() -> None:
        case = AppCase(keys=KEYS)
        asking = {b"origin": PAGE.encode(), **ASKING}
        exchange = await case.ask(method="OPTIONS", headers=asking)
        assert (exchange.status, exchange.reply) == (200, b"")
        told = exchange.reply_headers
        assert told[b"access-control-allow-origin"] == PAGE.encode()
        assert told[b"access-control-allow-headers"] == b"authorization, *"
        assert b"POST" in told[b"access-control-allow-methods"]
        assert b"access-control-allow-credentials" not in told

    run(main())


def test_options_alone_is_no_question() -> None:
    async def main() -> None:
        exchange = await AppCase(keys=KEYS).ask(method="OPTIONS", headers=sent(PAGE))
        assert exchange.status == 404

    run(main())


def test_without_keys_no_page_is_answered() -> None:
    async def main() -> None:
        case = AppCase()
        exchange = await case.ask(headers={b"origin": PAGE.encode()})
        assert exchange.status == 403

    run(main())
