"""Another configuration while it serves: all of it or nothing, and no stream is touched."""

import asyncio
import io
import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from dragoman import reload
from dragoman.build import build_gateway
from dragoman.gateway import Gateway, Switch
from dragoman.reload import NEEDS_RESTART, Reloading, ReloadSteps, keep_fixed
from dragoman.server.telemetry import EventLog
from dragoman.settings import (
    Config,
    KeyConfig,
    MetricsConfig,
    ModelConfig,
    Secret,
    ServerConfig,
    UpstreamConfig,
)
from dragoman.tables import ConfigError
from dragoman.tls_files import renew_certificate
from support.app_case import ASK
from support.chat_script import say
from support.chat_upstream import ChatUpstream
from support.fakes import FakeExchange
from support.gateway import GatewayProcess, lab_config, program_environment
from support.loops import until
from support.sse_grammar import check_stream

DOCS = Path(__file__).parents[1] / "docs"
HELLO = {**ASK, "model": "first"}


def config(folder: Path, url: str, **changes: Any) -> Config:
    upstream = UpstreamConfig(base_url=url, retries=0)
    server = ServerConfig(data_dir=folder / "data", local_engines=False)
    made = Config(
        server=server,
        upstreams={"lab": upstream, "spare": upstream},
        models={"first": ModelConfig(upstream=("lab",))},
    )
    return structs.replace(made, **changes)


class Case:
    """A switch whose next configuration is *wanted*, or the reason why there is none."""

    def __init__(self, first: Config) -> None:
        self.wanted: Config | Exception = first
        self.log_text = io.StringIO()
        self.log = EventLog("json", self.log_text)
        self.switch = Switch(build_gateway(first, log=self.log, environ={}))
        steps = ReloadSteps(load=self._load, renew=lambda _: None, build=self._build)
        self.reloading = Reloading(self.switch, steps, log=self.log, on_hangup=lambda: None)

    async def _load(self) -> Config:
        if isinstance(self.wanted, Exception):
            raise self.wanted
        return self.wanted

    def _build(self, wanted: Config, former: Gateway) -> Gateway:
        return build_gateway(wanted, log=self.log, environ={}, former=former)

    async def take(self, wanted: Config | Exception) -> dict[str, Any]:
        """Reload to *wanted*, return what the log says of it."""
        self.wanted = wanted
        await self.reloading.reload()
        return json.loads(self.log_text.getvalue().splitlines()[-1])

    async def ask(self, model: str, **fields: Any) -> FakeExchange:
        exchange = FakeExchange(json.dumps({**HELLO, "model": model, **fields}).encode())
        await self.switch.handle(exchange)
        return exchange


def counts(case: Case, name: str) -> dict[tuple[str, ...], float]:
    metrics = case.switch.gateway.lasting.metrics
    return {s.labels: s.value for s in metrics.samples() if s.name == name}


# -- what is kept, what is changed


def test_a_new_configuration_serves_the_next_request_and_keeps_the_connections(
    tmp_path: Path,
) -> None:
    async def main(url: str) -> None:
        before = config(tmp_path, url)
        case = Case(before)
        assert (await case.ask("first")).status == 200
        former = case.switch.gateway
        moved = structs.replace(before.upstreams["spare"], base_url="http://127.0.0.1:9/v1")
        upstreams = {**before.upstreams, "spare": moved}
        models = {"second": ModelConfig(upstream=("lab",))}
        said = await case.take(structs.replace(before, upstreams=upstreams, models=models))
        assert said == said | {"state": "done", "models": 1, "needs_restart": ""}
        assert (await case.ask("second")).status == 200
        assert (await case.ask("first")).status == 404
        now = case.switch.gateway
        assert now.upstreams["lab"] is former.upstreams["lab"]  # with its open connections
        assert now.upstreams["spare"] is not former.upstreams["spare"]
        assert now.lasting is former.lasting
        assert counts(case, "dragoman_config_reloads_total") == {("done",): 1, ("refused",): 0}
        (loaded_s,) = counts(case, "dragoman_config_loaded_timestamp_seconds").values()
        assert abs(time.time() - loaded_s) < 60
        assert set(counts(case, "dragoman_upstream_calls_open")) == {("lab",), ("spare",)}
        await case.switch.close()

    with ChatUpstream(say("Hello", times=-1)) as upstream:
        asyncio.run(main(upstream.url))


def test_a_stream_under_way_is_not_touched(tmp_path: Path) -> None:
    async def main(slow: ChatUpstream, other: ChatUpstream) -> None:
        before = config(tmp_path, slow.url)
        case = Case(before)
        former = case.switch.gateway
        stream = asyncio.create_task(case.ask("first", stream=True))
        await until(lambda: former.upstreams["lab"].n_calls == 1)
        moved = structs.replace(before.upstreams["lab"], base_url=other.url)
        await case.take(structs.replace(before, upstreams={"lab": moved, "spare": moved}))
        assert (await case.ask("first")).status == 200
        assert not stream.done()
        assert former.upstreams["lab"].n_calls == 1
        message = check_stream((await stream).reply)
        assert message.content[0]["text"] == "".join(PARTS)
        await until(lambda: former.upstreams["lab"].n_connections == 0)  # and then it is closed
        await case.switch.close()

    with (
        ChatUpstream(say(*PARTS, delay_s=0.4)) as slow,
        ChatUpstream(say("Hello", times=-1)) as other,
    ):
        asyncio.run(main(slow, other))


PARTS = tuple(f"part {number} " for number in range(10))


def test_a_stream_outlives_several_configurations(tmp_path: Path) -> None:
    async def main(slow: ChatUpstream, other: ChatUpstream) -> None:
        first = config(tmp_path, slow.url)
        case = Case(first)
        pool = case.switch.gateway.upstreams["lab"]
        stream = asyncio.create_task(case.ask("first", stream=True))
        await until(lambda: pool.n_calls == 1)
        second = structs.replace(first, models={**first.models, "second": first.models["first"]})
        await case.take(second)
        assert case.switch.gateway.upstreams["lab"] is pool  # one has it with a stream, one without
        moved = UpstreamConfig(base_url=other.url)
        await case.take(structs.replace(second, upstreams={"lab": moved, "spare": moved}))
        assert (await case.ask("second")).status == 200
        assert pool.n_calls == 1
        assert check_stream((await stream).reply).content[0]["text"] == "".join(PARTS)
        await until(lambda: pool.n_connections == 0)
        await case.switch.close()

    with (
        ChatUpstream(say(*PARTS, delay_s=0.4)) as slow,
        ChatUpstream(say("Hello", times=-1)) as other,
    ):
        asyncio.run(main(slow, other))


def test_the_end_cuts_streams_of_former_gateways_too(tmp_path: Path) -> None:
    async def main(url: str) -> None:
        before = config(tmp_path, url)
        case = Case(before)
        former = case.switch.gateway
        stream = asyncio.create_task(case.ask("first", stream=True))
        await until(lambda: former.upstreams["lab"].n_calls == 1)
        await case.take(structs.replace(before, upstreams={"lab": UpstreamConfig(base_url=url)}))
        await case.switch.close()
        assert (await stream).is_ended
        assert asyncio.all_tasks() == {asyncio.current_task()}

    with ChatUpstream(say(*PARTS, delay_s=5)) as upstream:
        asyncio.run(main(upstream.url))


@pytest.mark.parametrize("error", [ConfigError(["models.m: wrong"]), ConfigError(["a", "b"])])
def test_what_cannot_be_used_is_refused_and_changes_nothing(
    tmp_path: Path, error: ConfigError
) -> None:
    async def main() -> None:
        case = Case(config(tmp_path, "http://127.0.0.1:9/v1"))
        former = case.switch.gateway
        said = await case.take(error)
        assert said == said | {"event": "reload", "state": "refused", "problem": str(error)}
        assert case.switch.gateway is former
        assert counts(case, "dragoman_config_reloads_total") == {("done",): 0, ("refused",): 1}
        assert (await case.take(former.config))["state"] == "unchanged"
        assert case.switch.gateway is former
        await case.switch.close()

    asyncio.run(main())


def test_without_its_file_the_former_configuration_stays(tmp_path: Path) -> None:
    async def main() -> None:
        source = tmp_path / "dragoman.toml"
        source.write_text("")
        first = config(tmp_path, "http://127.0.0.1:9/v1", source=source)
        case = Case(first)
        elsewhere = structs.replace(first, source=tmp_path / "other.toml")
        assert (await case.take(elsewhere))["state"] == "done"  # one that counts more has come
        assert (await case.take(first))["problem"].startswith(f"{elsewhere.source}: is not there")
        (tmp_path / "other.toml").write_text("")
        assert (await case.take(first))["state"] == "done"
        source.unlink()
        said = await case.take(structs.replace(first, source=None))
        assert said["state"] == "refused"
        assert said["problem"] == f"{source}: is not there any more; put it back, or start again"
        await case.switch.close()

    asyncio.run(main())


def test_what_stays_must_go_with_what_is_new(tmp_path: Path) -> None:
    def reached_by(host: str, *keys: str) -> Config:
        made = config(tmp_path, "http://127.0.0.1:9/v1")
        return structs.replace(
            made,
            server=structs.replace(made.server, host=host),
            keys=tuple(KeyConfig(name=key, key=Secret(key)) for key in keys),
        )

    async def main() -> None:
        case = Case(reached_by("0.0.0.0", "a-key-that-is-long-enough"))
        former = case.switch.gateway
        for wanted, what in (
            (reached_by("127.0.0.1", "dev"), "keys[0].key: at least 16 characters"),
            (reached_by("127.0.0.1"), "server.host: 0.0.0.0 can be reached from other machines"),
        ):
            said = await case.take(wanted)
            assert (said["state"], case.switch.gateway) == ("refused", former)
            assert said["problem"].startswith(what)
            assert said["problem"].endswith("(restart: server.host cannot change before)")
        long = await case.take(reached_by("127.0.0.1", "another-key-that-is-long-enough"))
        assert (long["state"], long["needs_restart"]) == ("done", "server.host")
        await case.switch.close()

    asyncio.run(main())


def test_a_bug_in_between_ends_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        case = Case(config(tmp_path, "http://127.0.0.1:9/v1"))
        case.wanted = RuntimeError("a bug")
        case.reloading.start()
        os.kill(os.getpid(), signal.SIGHUP)
        await until(lambda: '"event":"crash"' in case.log_text.getvalue())
        case.wanted = case.switch.config
        os.kill(os.getpid(), signal.SIGHUP)
        await until(lambda: '"state":"unchanged"' in case.log_text.getvalue())
        await case.reloading.stop()
        await case.switch.close()

    asyncio.run(main())


def test_a_change_before_it_looks_is_seen_as_well(tmp_path: Path) -> None:
    async def main() -> None:
        source = tmp_path / "dragoman.toml"
        source.write_text("one")
        case = Case(config(tmp_path, "http://127.0.0.1:9/v1", source=source))
        reloading = Reloading(
            case.switch,
            ReloadSteps(load=case._load, renew=lambda _: None, build=case._build),
            log=case.log,
            seen=reload.look(case.switch.config),
            on_hangup=lambda: None,
        )
        source.write_text("another")  # while the engine starts, for example
        reloading.start()
        await until(lambda: '"event":"reload"' in case.log_text.getvalue())
        await reloading.stop()
        await case.switch.close()

    asyncio.run(main())


def test_news_of_engines_is_a_reason_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reload, "_NEWS_INTERVAL_S", 0.01)
    answers = [False, True]

    async def has_news() -> bool:
        return bool(answers) and answers.pop(0)

    async def main() -> None:
        case = Case(config(tmp_path, "http://127.0.0.1:9/v1"))
        steps = ReloadSteps(
            load=case._load, renew=lambda _: None, build=case._build, has_news=has_news
        )
        reloading = Reloading(case.switch, steps, log=case.log, on_hangup=lambda: None)
        reloading.start()
        await until(lambda: '"event":"reload"' in case.log_text.getvalue())
        assert answers == []
        await asyncio.sleep(0.05)
        assert case.log_text.getvalue().count('"event":"reload"') == 1
        await reloading.stop()
        await case.switch.close()

    asyncio.run(main())


def test_what_needs_a_restart_stays_and_is_named() -> None:
    before = Config(server=ServerConfig(port=1, ping_interval_s=3))
    wanted = Config(
        server=ServerConfig(port=2, ping_interval_s=4, signing_secret=Secret("a secret of us")),
        metrics=MetricsConfig(port=9),
    )
    kept, names = keep_fixed(wanted, before)
    assert names == "server.port, server.signing_secret, metrics"
    assert kept == Config(server=ServerConfig(port=1, ping_interval_s=4))
    assert keep_fixed(before, before) == (before, "")


def test_what_needs_a_restart_is_documented() -> None:
    page = (DOCS / "how-to" / "reload.md").read_text(encoding="utf-8")
    assert [name for name in NEEDS_RESTART if f"`{name}`" not in page] == []
    for name in NEEDS_RESTART:
        reload._get(Config(), name)


def test_a_certificate_that_cannot_be_used_leaves_the_former(tmp_path: Path) -> None:
    class Tls:
        loaded = 0

        def load_cert_chain(self, *_: object, **__: object) -> None:
            self.loaded += 1

    class Server:
        tls: Any = Tls()

    here = Path(__file__).parent / "support" / "localhost-test-certificate.pem"
    server: Any = Server()
    with pytest.raises(ConfigError, match="no PEM certificate"):
        renew_certificate(server, ServerConfig(tls_certificate=Path(__file__)))
    assert server.tls.loaded == 0
    renew_certificate(server, ServerConfig(tls_certificate=here))
    assert server.tls.loaded == 1
    renew_certificate(server, ServerConfig())
    assert server.tls.loaded == 1


# -- the process


def models(gateway: GatewayProcess) -> list[str]:
    body = gateway.request("GET", "/v1/models").json()
    return [entry["id"] for entry in body["data"] if not entry["id"].startswith("claude-")]


def wait_until(holds: Callable[[], object]) -> None:
    deadline_s = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline_s, "it never came to that"
        time.sleep(0.05)


@pytest.mark.parametrize("by", ["signal", "file"])
def test_the_process_takes_a_good_file_and_refuses_a_bad_one(tmp_path: Path, by: str) -> None:
    path = tmp_path / "dragoman.toml"

    def write(text: str) -> None:
        path.write_text(text)
        if by == "signal":
            os.kill(gateway.pid, signal.SIGHUP)

    with ChatUpstream(say(*PARTS, delay_s=0.3), say("Hello", times=-1)) as lab:
        watch = "\nwatch_config = false" if by == "signal" else ""
        first, second, third = (
            lab_config(lab.url, name).replace("[server]", f"[server]{watch}")
            for name in ("first", "second", "third")
        )
        with GatewayProcess(tmp_path, config=first, args=("--log-format", "json")) as gateway:
            replies: list[Any] = []
            body = {**HELLO, "stream": True}
            asking = threading.Thread(
                target=lambda: replies.append(gateway.request("POST", "/v1/messages", body))
            )
            asking.start()
            lab.wait_request()
            write(second)
            wait_until(lambda: models(gateway) == ["second"])
            write(f"{third}\nprot = 1\n[models.x]\nupstream = 'nobody'")
            wait_until(lambda: '"state":"refused"' in gateway.log())
            assert models(gateway) == ["second"]
            assert "roles.prot: unknown key" in gateway.log()
            write(third)
            wait_until(lambda: models(gateway) == ["third"])
            asking.join()
            assert check_stream(replies[0].body).content[0]["text"] == "".join(PARTS)
            assert (
                gateway.request("POST", "/v1/messages", {**HELLO, "model": "third"}).status == 200
            )


@pytest.mark.skipif(sys.platform != "linux", reason="!!!! workers need Linux")
def test_every_worker_takes_it(tmp_path: Path) -> None:
    with ChatUpstream(say("Hello", times=-1)) as lab:
        args = ("--workers", "2", "--log-format", "json")
        with GatewayProcess(tmp_path, config=lab_config(lab.url, "first"), args=args) as gateway:
            (tmp_path / "dragoman.toml").write_text(lab_config(lab.url, "second"))
            os.kill(gateway.pid, signal.SIGHUP)
            wait_until(lambda: gateway.log().count('"state":"done"') == 2)
            assert all(models(gateway) == ["second"] for _ in range(8))
            assert '"state":"ended"' not in gateway.log()


@pytest.mark.skipif(sys.platform != "linux", reason="!!!! workers need Linux")
def test_a_worker_that_starts_while_the_file_is_broken_serves_the_former(tmp_path: Path) -> None:
    path = tmp_path / "dragoman.toml"
    with ChatUpstream(say("Hello", times=-1)) as lab:
        args = ("--workers", "2", "--log-format", "json")
        with GatewayProcess(tmp_path, config=lab_config(lab.url, "first"), args=args) as gateway:
            path.write_text(lab_config(lab.url, "second"))
            wait_until(lambda: gateway.log().count('"state":"done"') == 2)
            path.write_text("[server]\nprot = 1\n")
            wait_until(lambda: gateway.log().count('"state":"refused"') == 2)
            os.kill(children(gateway.pid)[0], signal.SIGKILL)
            wait_until(lambda: gateway.log().count('"state":"refused"') == 3)
            wait_until(lambda: len(children(gateway.pid)) == 2)
            wait_until(lambda: '"state":"started"' in gateway.log())
            assert all(models(gateway) == ["second"] for _ in range(8))  # whoever answers
            path.write_text(lab_config(lab.url, "third"))
            wait_until(lambda: gateway.log().count('"state":"done"') == 4)
            assert all(models(gateway) == ["third"] for _ in range(6))


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(each) for path in tasks for each in path.read_text().split()]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_the_end_of_the_terminal_is_the_end(tmp_path: Path, workers: str) -> None:
    take = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    take += "os.execv(sys.argv[1], sys.argv[1:])"
    command = [sys.executable, "-m", "dragoman", "serve", "--port", "0", "--workers", workers]
    with ChatUpstream() as lab:
        (tmp_path / "dragoman.toml").write_text(lab_config(lab.url, "first"))
        outside, inside = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-c", take, *command],
            cwd=tmp_path,
            env=program_environment(tmp_path / "home"),
            stdin=inside,
            stdout=inside,
            stderr=inside,
            start_new_session=True,
        )
        os.close(inside)
        seen = b""
        while b"listening" not in seen:
            seen += os.read(outside, 4096)
        time.sleep(0.5)  # what is set up right after the line
        os.close(outside)
        assert process.wait(30) == 0
