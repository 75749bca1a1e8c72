"""What engines say of themselves, asked over real sockets."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

from dragoman.discovery import Discovery, FoundModels, discover_models, with_found_models
from dragoman.local import find_local_engines, with_found_engines
from dragoman.policy.routes import Routes
from dragoman.settings import Config, ModelConfig, Secret, ServerConfig, UpstreamConfig


class Engine:
    """A server that answers GETs by their path, and notes who asked."""

    def __init__(self, answers: dict[str, Any]) -> None:
        self.keys: list[str | None] = []
        engine = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                engine.keys.append(self.headers.get("authorization"))
                status = 200 if self.path in answers else 404
                body = json.dumps(answers.get(self.path, {})).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        self._thread = Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self._thread.join()


@pytest.fixture
def engines() -> Iterator[Any]:
    with ExitStack() as stack:

        def start(**models: Any) -> Engine:
            listed = [{"id": name, "max_model_len": window} for name, window in models.items()]
            return start_with({"/v1/models": {"data": listed}})

        def start_with(answers: dict[str, Any]) -> Engine:
            engine = Engine(answers)
            stack.callback(engine.close)
            return engine

        start.with_answers = start_with  # type: ignore[attr-defined]  # one fixture for both
        yield start


def config(*urls: str, models: dict[str, ModelConfig] | None = None, **upstream: Any) -> Config:
    gpus = UpstreamConfig(base_url=urls[0], base_urls=urls, discover=True, **upstream)
    server = ServerConfig(local_engines=False)
    return Config(server=server, upstreams={"gpus": gpus}, models=models or {})


def complete(asked: Config) -> Config:
    return with_found_engines(asked, asyncio.run(find_local_engines(asked)))


def endpoints(found: Config, alias: str) -> list[str]:
    return [target.endpoint for target in Routes(found).resolve(alias).targets]


def window(found: Config, alias: str) -> int | None:
    return Routes(found).resolve(alias).profile.context_window


def test_models_of_all_replicas_with_the_smallest_window(engines: Any) -> None:
    one, two = engines(big=65_536, small=8192), engines(big=32_768, other=None, embedder=512)
    found = complete(config(one.url, two.url, platform="vllm"))
    assert sorted(found.models) == ["big", "other", "small"]
    assert (window(found, "big"), window(found, "small")) == (32_768, 8192)
    assert window(found, "other") is None
    assert endpoints(found, "big") == ["gpus/1", "gpus/2"]


def test_a_model_is_asked_for_where_it_is_listed(engines: Any) -> None:
    one, two, away = engines(big=8192, small=8192), engines(big=8192, other=8192), engines()
    away.server.server_close()
    keys = (Secret("first"), Secret("second"))
    models = {"mine": ModelConfig(upstream=("gpus",), upstream_model="small")}
    asked = config(one.url, two.url, api_keys=keys, models=models)
    found = complete(asked)
    assert endpoints(found, "big") == ["gpus/1", "gpus/2", "gpus/3", "gpus/4"]
    assert endpoints(found, "other") == ["gpus/2", "gpus/4"]
    assert endpoints(found, "mine") == ["gpus/1", "gpus/2", "gpus/3", "gpus/4"]  # as it says
    found = complete(config(one.url, two.url, away.url))
    assert endpoints(found, "small") == ["gpus/1", "gpus/3"]  # who is silent may serve it
    assert endpoints(found, "other") == ["gpus/2", "gpus/3"]
    found = complete(config(one.url, engines().url))
    assert endpoints(found, "small") == ["gpus/1", "gpus/2"]  # so may who lists nothing yet
    only = Routes(complete(config(one.url, two.url))).resolve("other")
    assert only.is_alone


def test_a_name_that_is_taken_is_limited_too(engines: Any) -> None:
    models = {"m": ModelConfig(upstream=("gpus",), upstream_model="elsewhere")}
    found = complete(config(engines(m=8192).url, engines(n=8192).url, models=models))
    assert endpoints(found, "gpus/m") == ["gpus/1"]
    assert endpoints(found, "m") == ["gpus/1", "gpus/2"]


def test_each_address_is_asked_once_with_the_first_key(engines: Any) -> None:
    one, two = engines(m=4096), engines(m=4096)
    asked = config(one.url, two.url, api_keys=(Secret("first"), Secret("second")))
    complete(asked)
    assert one.keys == two.keys == ["Bearer first"]


def test_what_is_configured_stays_but_for_its_window(engines: Any) -> None:
    models = {
        "mine": ModelConfig(upstream=("gpus",), upstream_model="real", display_name="Mine"),
        "fixed": ModelConfig(
            upstream=("gpus",), upstream_model="real2", profile={"context_window": 1000}
        ),
        "taken": ModelConfig(upstream=("gpus",), upstream_model="elsewhere"),
    }
    found = complete(config(engines(real=5000, real2=6000, taken=7000).url, models=models))
    assert list(found.models) == ["mine", "fixed", "taken", "gpus/taken"]
    assert (window(found, "mine"), window(found, "fixed")) == (5000, 1000)
    assert found.models["mine"].display_name == "Mine"
    assert (window(found, "taken"), window(found, "gpus/taken")) == (None, 7000)


def test_the_window_of_one_slot_of_llamacpp(engines: Any) -> None:
    answers = {
        "/v1/models": {"data": [{"id": "m", "meta": {"n_ctx_train": 131_072}}]},
        "/props": {"default_generation_settings": {"n_ctx": 16_384}, "total_slots": 4},
    }
    found = complete(config(engines.with_answers(answers).url, platform="llamacpp"))
    assert window(found, "m") == 16_384


ODD: dict[str, dict[str, Any]] = {
    "no list": {"/v1/models": {"models": []}},
    "no such path": {},
    "nonsense": {"/v1/models": {"data": [{"id": 3}, "x", {"name": "y"}]}},
}


@pytest.mark.parametrize("answers", ODD.values(), ids=ODD)
def test_what_is_no_list_of_models_adds_nothing(engines: Any, answers: dict[str, Any]) -> None:
    assert complete(config(engines.with_answers(answers).url)).models == {}


def test_windows_that_cannot_be_are_not_taken(engines: Any) -> None:
    found = complete(config(engines(a=-1, b=3, c=10**12).url))
    assert [window(found, alias) for alias in "abc"] == [None, None, None]


def test_an_engine_that_is_away_is_left_out(engines: Any) -> None:
    here, away = engines(m=4096), engines(m=2048)
    away.server.server_close()
    found = complete(config(here.url, away.url))
    assert window(found, "m") == 4096
    assert len(Routes(found).resolve("m").targets) == 2


def test_an_engine_that_is_started_anew_keeps_its_models_and_is_asked_again(engines: Any) -> None:
    answers: dict[str, Any] = {"/v1/models": {"data": [{"id": "m", "max_model_len": 4096}]}}
    there, late = engines.with_answers(answers), engines.with_answers({})
    asked = config(there.url, late.url, platform="vllm")

    async def main() -> None:
        discovery = Discovery()
        assert discovery.warning == ""
        (found,) = await discovery.ask(asked)
        assert found.windows == {"m": 4096}
        warning = "discover: gpus/2 does not say what is served there; asked again and again"
        assert discovery.warning == warning
        assert not await discovery.has_news()
        models = answers.pop("/v1/models")
        (found,) = await discovery.ask(asked)
        assert found.windows == {"m": 4096}  # what it has said before
        assert "gpus/1, gpus/2 do not say" in discovery.warning
        models["data"].append({"id": "new"})
        answers["/v1/models"] = models
        assert await discovery.has_news()
        assert discovery.warning == warning
        (found,) = await discovery.ask(asked)
        assert found.windows == {"m": 4096, "new": None}

    asyncio.run(main())


def test_what_an_address_has_said_is_forgotten_with_it(engines: Any) -> None:
    answers: dict[str, Any] = {"/v1/models": {"data": [{"id": "m"}]}}
    engine = engines.with_answers(answers)

    async def main() -> None:
        discovery = Discovery()
        await discovery.ask(config(engine.url))
        assert await discovery.ask(Config()) == ()
        answers.clear()
        (found,) = await discovery.ask(config(engine.url))
        assert found.windows == {}

    asyncio.run(main())


def test_nobody_is_asked_without_being_told_to() -> None:
    plain = UpstreamConfig(base_url="http://127.0.0.1:9/v1")
    assert asyncio.run(discover_models(Config(upstreams={"lab": plain}))) == ()


def test_a_second_upstream_of_a_model_counts_too() -> None:
    two = Config(
        upstreams={
            "a": UpstreamConfig(base_url="http://a"),
            "b": UpstreamConfig(base_url="http://b"),
        },
        models={"m": ModelConfig(upstream=("a", "b"))},
    )
    found = with_found_models(two, FoundModels(upstream="b", windows={"m": 9000}))
    assert found.models["m"].profile == {"context_window": 9000}
