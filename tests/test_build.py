"""What a configuration is built into."""

import asyncio
import io
import json
import os
import stat
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from dragoman.build import build_gateway, open_upstream, start_server
from dragoman.core.errors import UpstreamUnauthorized
from dragoman.limit_settings import Limits, LimitsConfig
from dragoman.policy.routes import Routes
from dragoman.policy.sharing import Notice
from dragoman.server.telemetry import EventLog
from dragoman.settings import (
    Config,
    KeyConfig,
    ModelConfig,
    RolesConfig,
    Secret,
    ServerConfig,
    UpstreamConfig,
)
from dragoman.sharing import Sharing
from dragoman.signing_file import signing_secret
from dragoman.tables import ConfigError
from support.app_case import ASK
from support.boards import FakeBoard
from support.chat_script import say
from support.chat_upstream import ChatUpstream
from support.fakes import FakeExchange
from support.sse_grammar import check_error, check_message

SECRET = "signing-secret"


def config(
    folder: Path, *, url: str = "http://127.0.0.1:9/v1", kind: Any = "openai", **fields: Any
) -> Config:
    upstream = UpstreamConfig(base_url=url, kind=kind, api_key=Secret("lab-secret"), retries=0)
    server = ServerConfig(data_dir=folder / "data", port=0, **fields.pop("server", {}))
    return Config(
        server=server,
        upstreams={"lab": upstream},
        models={"m": ModelConfig(upstream=("lab",), upstream_model="real-m")},
        roles=RolesConfig(default="m"),
        **fields,
    )


def quiet() -> EventLog:
    return EventLog("json", io.StringIO())


async def asked(gateway: Any, body: Any = None, **request: Any) -> FakeExchange:
    exchange = FakeExchange(json.dumps(body or ASK).encode(), **request)
    async with asyncio.timeout(20):
        await gateway.handle(exchange)
    return exchange


# -- the parts fit together


@pytest.mark.parametrize("kind", ["openai", "anthropic"])
@pytest.mark.parametrize("end", ["", "/v1", "/v1/"])
def test_a_request_reaches_the_right_path_with_our_credential(
    tmp_path: Path, kind: str, end: str
) -> None:
    async def main(upstream: ChatUpstream) -> None:
        url = f"http://127.0.0.1:{upstream.port}{end}"
        gateway = build_gateway(config(tmp_path, url=url, kind=kind), log=quiet(), environ={})
        await asked(gateway, headers={b"x-api-key": b"theirs"})
        assert await gateway.not_ready_reason() == ""
        await gateway.close()

    with ChatUpstream(say("Hello")) as upstream:
        asyncio.run(main(upstream))
        requests = [*upstream.requests, *upstream.others]
        base = end.rstrip("/") if kind == "openai" else "/v1"
        path = f"{base}/chat/completions" if kind == "openai" else f"{base}/messages"
        assert [request.path for request in requests] == [path, f"{base}/models"]
        name, value = ("authorization", "Bearer lab-secret")
        if kind == "anthropic":
            name, value = ("x-api-key", "lab-secret")
        for request in requests:
            assert request.headers[name] == value
            assert "theirs" not in str(request.headers)


def test_keys_and_limits_of_the_configuration_count(tmp_path: Path) -> None:
    async def main() -> None:
        made = config(
            tmp_path,
            keys=(KeyConfig(name="ada", key=Secret("key-of-ada")),),
            server={"max_messages": 1},
        )
        gateway = build_gateway(made, log=quiet(), environ={})
        assert (await asked(gateway)).status == 401
        two = ASK | {"messages": [ASK["messages"][0]] * 2}
        for path in ("/v1/messages", "/v1/messages/count_tokens"):
            exchange = await asked(gateway, two, path=path, headers={b"x-api-key": b"key-of-ada"})
            assert check_error(exchange.reply)["message"].startswith("messages: at most 1")
        await gateway.close()

    asyncio.run(main())


def test_counters_outlive_a_change_of_the_limits(tmp_path: Path) -> None:
    key = "key-of-ada-0123456789"

    def limited(per_minute: int, **limits: Any) -> Config:
        own = Limits(requests_per_minute=per_minute)
        keys = (KeyConfig(name="ada", key=Secret(key), limits=own),)
        return config(tmp_path, keys=keys, limits=LimitsConfig(**limits))

    async def main() -> None:
        headers = {b"x-api-key": key.encode()}
        first = build_gateway(limited(2), log=quiet(), environ={})
        assert [(await asked(first, headers=headers)).status for _ in range(3)] == [502, 502, 429]
        wider = limited(3, when_unreachable="closed", local_share_pct=7)
        second = build_gateway(wider, log=quiet(), environ={}, former=first)
        # What operators were told is not told again.
        assert second.explainer._services.admission._told is first.lasting.told
        assert [(await asked(second, headers=headers)).status for _ in range(2)] == [502, 429]
        limiter = second.lasting.limiter
        assert (limiter.is_open, limiter.share_pct) == (False, 7)
        await second.close()

    asyncio.run(main())


def test_a_new_key_is_asked_though_another_process_was_refused_with_the_former(
    tmp_path: Path,
) -> None:
    target = Routes(config(tmp_path)).resolve("m").targets[0]

    def told(notices: list[Notice], key: str) -> tuple[bool, list[Notice]]:
        """Return whether a gateway with *key* asks, and what it posts when it is refused."""
        board, now_s = FakeBoard(), time.monotonic()
        own = config(tmp_path)
        lab = structs.replace(own.upstreams["lab"], api_key=Secret(key))
        own = structs.replace(own, upstreams={"lab": lab})
        sharing = Sharing(board=board)
        health = build_gateway(own, log=quiet(), environ={}, sharing=sharing).health
        for notice in notices:
            board.show(notice)
        may_ask = health.may_ask(target, now_s)
        health.fail(target, UpstreamUnauthorized("no"), now_s)
        return may_ask, board.posted

    _, posted = told([], "former")
    assert told(posted, "former")[0] is False
    assert told(posted, "new")[0] is True
    assert "former" not in str(posted)


def test_the_address_that_is_listened_at_may_be_called(tmp_path: Path) -> None:
    async def main() -> None:
        made = config(tmp_path, server={"host": "127.0.0.2", "allowed_hosts": ("gw",)})
        gateway = build_gateway(made, log=quiet(), environ={})
        for host, status in ((b"127.0.0.2:1", 200), (b"gw", 200), (b"127.0.0.3", 403)):
            asking = {b"host": host}
            exchange = await asked(gateway, method="GET", path="/v1/models", headers=asking)
            assert exchange.status == status
        await gateway.close()

    asyncio.run(main())


def test_an_upstream_that_cannot_be_reached_is_no_secret_and_no_address(tmp_path: Path) -> None:
    async def main() -> None:
        gateway = build_gateway(config(tmp_path), log=quiet(), environ={})
        exchange = await asked(gateway)
        assert exchange.status == 502
        assert b"127.0.0.1" not in exchange.reply
        assert b"lab-secret" not in exchange.reply
        assert await gateway.not_ready_reason() == (
            "no upstream of m would answer: lab cannot be reached"
        )
        await gateway.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("headers", "said", "shown"),
    [
        ({}, "key lab-secret is wrong", False),
        ({"x-team": "a-long-credential"}, "a-long-credential is wrong", False),
        ({"x-team": "red"}, "the colour red is wrong", True),
    ],
)
def test_what_counts_as_a_secret(
    tmp_path: Path, headers: dict[str, str], said: str, *, shown: bool
) -> None:
    async def main(upstream: ChatUpstream) -> FakeExchange:
        made = config(tmp_path, url=upstream.url)
        lab = UpstreamConfig(
            base_url=upstream.url,
            api_key=Secret("lab-secret"),
            headers={name: Secret(value) for name, value in headers.items()},
        )
        gateway = build_gateway(
            Config(server=made.server, upstreams={"lab": lab}, models=made.models),
            log=quiet(),
            environ={},
        )
        exchange = await asked(gateway)
        await gateway.close()
        return exchange

    raw = json.dumps({"error": {"message": said}}).encode()
    with ChatUpstream(say(raw=raw, status=400)) as upstream:
        exchange = asyncio.run(main(upstream))
    assert (said in check_error(exchange.reply)["message"]) is shown


def test_a_server_answers_and_stops(tmp_path: Path) -> None:
    async def main(upstream: ChatUpstream) -> None:
        log = quiet()
        gateway = build_gateway(config(tmp_path, url=upstream.url), log=log, environ={})
        server = await start_server(gateway, log=log)
        body = json.dumps(ASK).encode()
        head = (
            b"POST /v1/messages HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        )
        reply = await raw(server.port, b"%bcontent-length: %d\r\n\r\n%b" % (head, len(body), body))
        assert reply.startswith(b"HTTP/1.1 200 OK\r\n")
        assert check_message(reply.partition(b"\r\n\r\n")[2]).text == "Hello"
        refused = await raw(server.port, b"nonsense\r\n\r\n")
        assert refused.startswith(b"HTTP/1.1 400 ")
        assert b"\r\nrequest-id: req_" in refused
        assert check_error(refused.partition(b"\r\n\r\n")[2])["type"] == "invalid_request_error"
        await server.close(0)
        await gateway.close()

    with ChatUpstream(say("Hello")) as upstream:
        asyncio.run(main(upstream))


async def raw(port: int, request: bytes) -> bytes:
    """Return the reply to bytes on a connection of their own."""
    async with asyncio.timeout(20):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request)
        reply = await reader.readuntil(b"\r\n\r\n")
        fields = dict(line.split(b": ", 1) for line in reply.split(b"\r\n")[1:-2])
        reply += await reader.readexactly(int(fields[b"content-length"]))
        writer.close()
        await writer.wait_closed()
        return reply


def test_an_upstream_is_opened_without_being_called() -> None:
    async def main() -> None:
        upstream = open_upstream(UpstreamConfig(base_url="https://vendor.example/v1"), environ={})
        assert (upstream.n_connections, upstream.n_calls) == (0, 0)
        await upstream.close()

    asyncio.run(main())


# -- the signing secret


def build(made: Config) -> None:
    async def main() -> None:
        await build_gateway(made, log=quiet(), environ={}).close()

    asyncio.run(main())


def test_a_secret_is_made_once_and_kept(tmp_path: Path) -> None:
    build(config(tmp_path))
    path = tmp_path / "data" / SECRET
    first = path.read_bytes()
    assert len(first) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    build(config(tmp_path))
    assert path.read_bytes() == first
    assert [p.name for p in path.parent.iterdir()] == [SECRET]


def test_every_data_folder_has_its_own(tmp_path: Path) -> None:
    for name in ("a", "b"):
        build(config(tmp_path / name))
    made = [(tmp_path / name / "data" / SECRET).read_bytes() for name in ("a", "b")]
    assert made[0] != made[1]


def test_a_configured_secret_leaves_no_file(tmp_path: Path) -> None:
    build(config(tmp_path, server={"signing_secret": Secret("a configured secret")}))
    assert not (tmp_path / "data").exists()


def test_a_file_system_without_links_will_do(tmp_path: Path, monkeypatch) -> None:
    def link(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    build(config(tmp_path))
    path = tmp_path / "data" / SECRET
    assert len(path.read_bytes()) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [p.name for p in path.parent.iterdir()] == [SECRET]


def test_two_that_start_at_once_have_the_same_secret(tmp_path: Path, monkeypatch) -> None:
    gate = threading.Barrier(2)
    link, found = os.link, []

    def meet(*args: Any, **kwargs: Any) -> None:
        gate.wait(10)
        link(*args, **kwargs)

    def start() -> None:
        found.append(signing_secret(config(tmp_path).server))

    monkeypatch.setattr(os, "link", meet)
    threads = [threading.Thread(target=start) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(found) == 2
    assert found[0] == found[1] == (tmp_path / "data" / SECRET).read_bytes()


@pytest.mark.parametrize("spoil", ["short", "folder", "file"])
def test_a_secret_that_cannot_be_had_is_one_clear_line(tmp_path: Path, spoil: str) -> None:
    path = tmp_path / "data" / SECRET
    if spoil == "file":
        path.parent.write_text("in the way")
    else:
        path.parent.mkdir()
        path.write_bytes(b"short") if spoil == "short" else path.mkdir()
    with pytest.raises(ConfigError) as caught:
        build(config(tmp_path))
    (line,) = str(caught.value).splitlines()
    assert str(path) in line
    assert "set server.signing_secret" in line
