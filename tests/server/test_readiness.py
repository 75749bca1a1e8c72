"""Would a request be answered now?"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from dragoman.policy.routes import Routes
from dragoman.server.readiness import Readiness
from dragoman.settings import Config, ModelConfig, RolesConfig, UpstreamConfig
from support.app_case import GONE, AppCase, Script, failing, refusing, replying, run
from support.fakes import FakeUpstream, head

MODELS = replying(200, '{"data":[]}')


def routes(*upstreams: str, roles: Mapping[str, str] | None = None) -> Routes:
    return Routes(
        Config(
            upstreams={
                name: UpstreamConfig(
                    base_url="http://h/v1",
                    kind="anthropic" if name.startswith("native") else "openai",
                )
                for name in {*upstreams, "other"}
            },
            models={
                "other-model": ModelConfig(upstream=("other",)),
                "main-model": ModelConfig(upstream=upstreams),
            },
            roles=RolesConfig(**(roles or {"default": "main-model"})),
        )
    )


def reason(
    scripts: Mapping[str, Sequence[Script]], *, engine_ready: Any = None
) -> tuple[str, dict[str, FakeUpstream]]:
    async def main() -> tuple[str, dict[str, FakeUpstream]]:
        upstreams = {name: FakeUpstream(*calls) for name, calls in scripts.items()}
        readiness = Readiness(routes(*scripts), upstreams, engine_ready=engine_ready)
        return await readiness.reason(), upstreams

    return run(main())


READY = {
    "its models": MODELS,
    "no list of models": refusing(404),
    "a list not allowed": refusing(405),
    "a limit on lists": refusing(429),
    "anything": replying(200, "<html>", content_type="text/html"),
}
NOT_READY = {
    "no connection": (failing(GONE), "lab cannot be reached"),
    "a wrong key": (refusing(401), "lab refuses its key"),
    "no balance": (refusing(402), "lab refuses its key"),
    "no permission": (refusing(403), "lab refuses its key"),
    "a failure": (refusing(500), "lab fails"),
    "loading": (refusing(503), "lab fails"),
}


@pytest.mark.parametrize("script", READY.values(), ids=READY)
def test_an_upstream_that_answers_makes_us_ready(script: Script) -> None:
    why, upstreams = reason({"lab": [script]})
    assert why == ""
    (request,) = upstreams["lab"].requests
    assert (request.method, request.path, request.body) == ("GET", "/models", b"")
    assert request.timeouts.first_byte_s <= 5


@pytest.mark.parametrize(("script", "why"), NOT_READY.values(), ids=NOT_READY)
def test_one_that_does_not_is_named(script: Script, why: str) -> None:
    said, _ = reason({"lab": [script]})
    assert said == f"no upstream of main-model would answer: {why}"


def test_one_of_several_is_enough() -> None:
    assert reason({"lab": [failing(GONE)], "native": [MODELS]})[0] == ""
    why, upstreams = reason({"lab": [failing(GONE)], "native": [refusing(401)]})
    assert why.endswith("lab cannot be reached, native refuses its key")
    assert upstreams["native"].requests[0].path == "/v1/models"


def test_one_that_is_silent_holds_nobody_up() -> None:
    async def main() -> None:
        silent, well = FakeUpstream([60.0]), FakeUpstream(MODELS)
        readiness = Readiness(
            routes("lab", "native"), {"lab": silent, "native": well}, engine_ready=None
        )
        async with asyncio.timeout(5):
            assert await readiness.reason() == ""
        assert silent.calls[0].events == ["abort"]

    run(main())


WITH_SPARE = Config(
    upstreams={name: UpstreamConfig(base_url="http://h/v1") for name in ("lab", "other")},
    models={
        "main-model": ModelConfig(upstream=("lab",), fallbacks=("spare",)),
        "spare": ModelConfig(upstream=("other",)),
    },
)


@pytest.mark.parametrize(
    ("own", "other", "why"),
    [
        (failing(GONE), MODELS, ""),
        ([60.0], MODELS, ""),
        (refusing(401), failing(GONE), "no upstream of main-model would answer: lab refuses its"),
    ],
)
def test_a_fallback_that_answers_is_enough(own: Script, other: Script, why: str) -> None:
    async def main() -> None:
        upstreams = {"lab": FakeUpstream(own), "other": FakeUpstream(other)}
        readiness = Readiness(Routes(WITH_SPARE), upstreams, engine_ready=None)
        async with asyncio.timeout(5):
            assert (await readiness.reason()).startswith(why)
            assert bool(await readiness.reason()) is bool(why)

    run(main())


def test_fallbacks_of_a_model_that_answers_are_left_in_peace() -> None:
    async def main() -> None:
        upstreams = {"lab": FakeUpstream(MODELS), "other": FakeUpstream()}
        assert await Readiness(Routes(WITH_SPARE), upstreams, engine_ready=None).reason() == ""
        assert upstreams["other"].requests == []

    run(main())


def test_without_a_model_nothing_is_ready() -> None:
    async def main() -> None:
        readiness = Readiness(Routes(Config()), {}, engine_ready=None)
        assert await readiness.reason() == "no model is configured"

    run(main())


@pytest.mark.parametrize(
    ("is_ready", "why"), [(True, ""), (False, "the embedded engine does not answer")]
)
def test_the_embedded_engine_is_asked_itself(is_ready: bool, why: str) -> None:
    said, upstreams = reason({"engine": []}, engine_ready=lambda: is_ready)
    assert said == why
    assert upstreams["engine"].requests == []


def test_beside_another_upstream_the_engine_is_one_of_two() -> None:
    said, _ = reason({"engine": [failing(GONE)], "lab": [MODELS]}, engine_ready=lambda: False)
    assert said == ""


def test_an_answer_is_good_for_some_seconds(monkeypatch) -> None:
    async def main() -> None:
        upstream = FakeUpstream([0.02, *failing(GONE)], MODELS)
        readiness = Readiness(routes("lab"), {"lab": upstream}, engine_ready=None)
        said = await asyncio.gather(*(readiness.reason() for _ in range(20)))
        assert len(set(said)) == len(upstream.calls) == 1
        monkeypatch.setattr("dragoman.server.readiness._KEPT_S", 0.0)
        assert await readiness.reason() == ""
        assert len(upstream.calls) == 2

    run(main())


def test_a_probe_that_is_cut_off_does_not_hold_the_next_one_up() -> None:
    async def main() -> None:
        upstream = FakeUpstream([head(), 60.0], MODELS)
        readiness = Readiness(routes("lab"), {"lab": upstream}, engine_ready=None)
        task = asyncio.create_task(readiness.reason())
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert await readiness.reason() == ""
        assert upstream.calls[0].events == ["abort"]

    run(main())


@pytest.mark.parametrize(
    ("script", "status", "answer"),
    [
        (MODELS, 200, {"status": "ready"}),
        (
            failing(GONE),
            503,
            {
                "status": "unavailable",
                "reason": "no upstream of m would answer: lab cannot be reached",
            },
        ),
    ],
)
def test_readyz(script: Script, status: int, answer: dict[str, str]) -> None:
    async def main() -> None:
        case = AppCase({"lab": [script]})
        exchange = await case.ask(method="GET", path="/readyz")
        assert (exchange.status, json.loads(exchange.reply)) == (status, answer)
        assert [record["status"] for record in case.records] == ([] if status == 200 else [503])

    run(main())


def test_a_reason_is_short_however_many_replicas_fail() -> None:
    scripts = {f"lab{number}": [failing(GONE)] for number in range(11)}
    why, _ = reason(scripts)
    assert why.count("cannot be reached") == 8
    assert why.endswith(", and 3 more")
