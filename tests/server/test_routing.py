"""Where a request goes: roles of side calls, choice, fallbacks; the whole path without sockets."""

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from dragoman.policy.affinity import affinity_key
from dragoman.policy.choice import by_affinity
from dragoman.policy.health import HealthEvent
from dragoman.policy.routes import Routes
from dragoman.policy.senders import Sender
from dragoman.server.metrics_sources import routing_samples
from dragoman.settings import Secret
from support.app_case import (
    ASK,
    GONE,
    LATE,
    RESET,
    AppCase,
    Script,
    both_ways,
    chunk,
    deliver,
    error_in,
    error_of,
    exchange_of,
    failing,
    message_of,
    native_saying,
    refusing,
    replying,
    run,
    saying,
)
from support.fakes import data, fail, head
from support.plans import parse

CLAUDE_CODE = {b"user-agent": b"claude-cli/2.1.330 (external, cli)"}
TITLE = {
    "type": "json_schema",
    "schema": {"type": "object", "properties": {"title": {"type": "string"}}},
}


def test_a_side_call_goes_to_the_model_of_its_role() -> None:
    async def case() -> AppCase:
        made = AppCase(
            {"lab": [saying("talk")], "small": [saying("A title")]},
            models={"m": {"upstream": ("lab",)}, "s": {"upstream": ("small",)}},
            roles={"background": "s"},
        )
        body = {**ASK, "output_config": {"format": TITLE}}
        titled = await made.ask({**body, "stream": True}, headers=CLAUDE_CODE)
        assert message_of(titled).text == "A title"
        assert message_of(titled).model == "m"
        assert message_of(await made.ask({**body, "stream": True})).text == "talk"
        await made.close()
        return made

    side, other = run(case()).records
    assert (side["side_role"], side["model"], side["upstream"]) == ("title", "m", "small")
    assert "side_role" not in other
    assert other["upstream"] == "lab"


# -- several endpoints

REPLICAS = {"lab/1": (), "lab/2": ()}
SESSION = {b"x-claude-code-session-id": b"a-session"}
STREAM = {**ASK, "stream": True}
COUNT = {"model": "m", "messages": ASK["messages"]}


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not is_so():  # noqa: ASYNC110 - what is waited for tells nobody
            await asyncio.sleep(0.001)


def home(options: Mapping[str, Mapping[str, Any]] | None = None) -> tuple[str, str]:
    """Return the endpoints ``lab/1`` and ``lab/2`` in the order of the session."""
    targets = Routes(AppCase(REPLICAS, options=options).config).resolve("m").targets
    key = affinity_key(parse(ASK), "m", Sender("a-session"))
    first, second = by_affinity(targets, key)
    return first.endpoint, second.endpoint


def test_a_session_stays_at_one_replica() -> None:
    async def case() -> AppCase:
        made = AppCase({"lab/1": [saying("one")] * 40, "lab/2": [saying("two")] * 40})
        for number in range(40):
            session = f"session-{number % 10}".encode()
            await made.ask(STREAM, headers={b"x-claude-code-session-id": session})
        await made.close()
        return made

    made = run(case())
    counts = [len(made.upstreams[name].requests) for name in REPLICAS]
    assert sum(counts) == 40
    assert all(count % 4 == 0 for count in counts)
    assert all(counts)
    assert {record["upstream"] for record in made.records} == {"lab"}


def test_a_replica_that_is_away_is_not_waited_for() -> None:
    async def case() -> AppCase:
        first, second = home()
        made = AppCase({first: [failing(GONE)] * 5, second: [saying("there")] * 9})
        for _ in range(9):
            answered = await made.ask(STREAM, headers=SESSION)
            assert message_of(answered).text == "there"
        await made.close()
        return made

    made = run(case())
    # Five failures, each followed at once by the other replica; then it is left alone.
    assert [record["attempts"] for record in made.records] == [2] * 5 + [1] * 4
    assert made.health.n_trips["failing"] == 1


def test_the_first_call_after_a_while_is_the_probe() -> None:
    first, second = home()
    slow = [0.05, *saying("back")]

    async def case() -> AppCase:
        made = AppCase(
            {
                first: [failing(GONE), slow, saying("back")],
                second: [saying("there")] * 3,
            },
            routing={"failures_to_open": 1, "open_s": 0.05},
        )
        assert message_of(await made.ask(STREAM, headers=SESSION)).text == "there"
        assert message_of(await made.ask(STREAM, headers=SESSION)).text == "there"
        await asyncio.sleep(0.06)
        probe = asyncio.create_task(made.ask(STREAM, headers=SESSION))
        await asyncio.sleep(0)
        beside = asyncio.create_task(made.ask(STREAM, headers=SESSION))
        assert message_of(await beside).text == "there"
        assert message_of(await probe).text == "back"
        assert message_of(await made.ask(STREAM, headers=SESSION)).text == "back"
        assert made.health.is_clear
        await made.close()
        return made

    run(case())


def test_a_probe_is_over_with_its_first_content() -> None:
    first, second = home()

    async def case() -> None:
        slow = [*saying("back")[:2], 0.2, *saying("back")[2:]]
        made = AppCase(
            {first: [failing(GONE), slow, saying("back")], second: [saying("there")]},
            routing={"failures_to_open": 1, "open_s": 0.01},
        )
        await made.ask(STREAM, headers=SESSION)
        await asyncio.sleep(0.02)
        probe = asyncio.create_task(made.ask(STREAM, headers=SESSION))
        await until(lambda: made.health.is_clear)
        assert message_of(await made.ask(STREAM, headers=SESSION)).text == "back"
        assert not probe.done()
        await probe
        await made.close()

    run(case())


@both_ways
@pytest.mark.parametrize(("code", "told"), [("", b"5"), ("1308", None)], ids=["rate", "quota"])
def test_a_429_that_names_no_time_is_told_with_ours(
    code: str, told: bytes | None, is_stream: bool
) -> None:
    raw = json.dumps({"error": {"code": code, "message": "no"}})
    exchange, _ = deliver({"lab": [replying(429, raw)]}, is_stream=is_stream)
    assert exchange.status == 429
    assert exchange.reply_headers.get(b"retry-after") == told


KEYS = {"lab": {"api_keys": (Secret("key-one-key-one"), Secret("key-two-key-two"))}}


def test_keys_are_parked_one_by_one() -> None:
    first, second = home(KEYS)

    async def case() -> AppCase:
        made = AppCase(
            {
                first: [refusing(401), refusing(401)],
                second: [saying("x"), saying("y"), refusing(429, "slow", retry_after="30")],
            },
            options=KEYS,
        )
        assert message_of(await made.ask(STREAM, headers=SESSION)).text == "x"
        assert message_of(await made.ask(STREAM, headers=SESSION)).text == "y"
        # Both are spent: the refused one is asked once more, for its owner may have paid.
        assert (await made.ask(STREAM, headers=SESSION)).status == 502
        await made.close()
        return made

    made = run(case())
    assert [record["attempts"] for record in made.records] == [2, 1, 2]
    assert {illness.cause for illness in made.health.illnesses(0)} == {"refused", "rate_limited"}


def test_all_keys_spent_are_one_honest_answer() -> None:
    async def case() -> AppCase:
        limited = refusing(429, "slow", retry_after="30")
        made = AppCase({"lab/1": [limited], "lab/2": [limited]}, options=KEYS)
        for _ in range(3):
            answer = await made.ask(STREAM)
            assert error_of(answer)["type"] == "rate_limit_error"
            assert answer.status == 429
            assert answer.reply_headers[b"retry-after"] in (b"30", b"31")
        await made.close()
        return made

    made = run(case())
    assert [record["attempts"] for record in made.records] == [2, 0, 0]
    assert {record["upstream"] for record in made.records} == {"lab"}


def test_a_reply_that_was_the_last_is_followed_by_none() -> None:
    async def case() -> AppCase:
        spent = [
            head(x_ratelimit_remaining_requests="0", x_ratelimit_reset_requests="20s"),
            *saying("x")[1:],
        ]
        made = AppCase({"lab": [spent]})
        assert message_of(await made.ask(STREAM)).text == "x"
        answer = await made.ask(STREAM)
        assert answer.status == 429
        assert answer.reply_headers[b"retry-after"] in (b"20", b"21")
        await made.close()
        return made

    run(case())


@pytest.mark.parametrize("is_stream", [True, False])
def test_a_native_reply_that_was_the_last_lets_another_key_go_first(is_stream: bool) -> None:
    limits = {
        "date": "Wed, 25 Nov 2026 12:00:00 GMT",
        "anthropic_ratelimit_requests_limit": "2",
        "anthropic_ratelimit_requests_remaining": "0",
        "anthropic_ratelimit_requests_reset": "2026-11-25T12:00:40Z",
    }
    kind = {} if is_stream else {"content_type": "application/json"}
    spent = [head(**kind, **limits), *native_saying(is_stream)[1:]]

    async def case() -> AppCase:
        made = AppCase({"native/1": [spent], "native/2": [spent]}, options={"native": KEYS["lab"]})
        body = {**ASK, "stream": is_stream}
        for _ in range(2):
            assert (await made.ask(body)).status == 200
        answer = await made.ask(body)
        assert answer.status == 429
        assert answer.reply_headers[b"retry-after"] in (b"19", b"20")  # until one is back, of two
        await made.close()
        return made

    made = run(case())
    assert [record["attempts"] for record in made.records] == [1, 1, 0]


def test_the_last_reply_for_some_milliseconds_is_no_limit() -> None:
    async def case() -> None:
        refilled = head(x_ratelimit_remaining_tokens="0", x_ratelimit_reset_tokens="20ms")
        made = AppCase({"lab": [[refilled, *saying("x")[1:]]]})
        assert message_of(await made.ask(STREAM)).text == "x"
        assert made.health.is_clear
        await made.close()

    run(case())


def test_a_client_that_leaves_is_no_failure() -> None:
    async def case() -> AppCase:
        made = AppCase({"lab": [[30.0]] * 6}, routing={"failures_to_open": 1})
        for _ in range(6):
            exchange = exchange_of(STREAM)
            task = asyncio.create_task(made.app.handle(exchange))
            await until(lambda: made.load.busy.get("lab") == 1)
            exchange.leave()
            await task
        assert made.health.is_clear
        assert made.load.busy == {"lab": 0}
        await made.close()
        return made

    run(case())


def test_no_more_than_eight_targets_are_asked() -> None:
    scripts = {f"lab/{number}": [failing(GONE)] * 3 for number in range(1, 13)}

    async def case() -> AppCase:
        made = AppCase(scripts, options={"lab": {"retries": 0}})
        assert (await made.ask(STREAM)).status == 502
        await made.close()
        return made

    assert run(case()).record["attempts"] == 8


# -- fallbacks

SMALL = {"upstream": ("lab",), "profile": {"context_window": 1000}}
OVERFLOW = refusing(400, "This model's maximum context length is 1000 tokens")


def chain(**of_m: Any) -> dict[str, Any]:
    return {
        "m": {**SMALL, **of_m},
        "n": {"upstream": ("other",)},
        "o": {"upstream": ("third",)},
    }


FALLBACKS: dict[str, tuple[dict[str, Any], dict[str, Any], str, str]] = {
    "its vendor has it no more": (
        {"fallbacks": ("n",)},
        {"lab": [refusing(404)], "other": [saying("n")]},
        "other",
        "no upstream answered for m",
    ),
    "no upstream answers": (
        {"fallbacks": ("n", "o")},
        {"lab": [failing(LATE)], "other": [saying("n")]},
        "other",
        "no upstream answered for m",
    ),
    "nor the next": (
        {"fallbacks": ("n", "o")},
        {"lab": [failing(LATE)], "other": [failing(LATE)], "third": [saying("o")]},
        "third",
        "no upstream answered for m",
    ),
    "the prompt is too long": (
        {"long_prompt_fallback": "n", "fallbacks": ("o",)},
        {"lab": [OVERFLOW], "other": [saying("n")]},
        "other",
        "the prompt does not fit m",
    ),
    "too long, then away": (
        {"long_prompt_fallback": "n", "fallbacks": ("n", "o")},
        {"lab": [OVERFLOW], "other": [failing(LATE)], "third": [saying("o")]},
        "third",
        "no upstream answered for m",
    ),
}


@both_ways
@pytest.mark.parametrize(("of_m", "scripts", "upstream", "why"), FALLBACKS.values(), ids=FALLBACKS)
def test_fallbacks(
    of_m: dict[str, Any], scripts: dict[str, Any], upstream: str, why: str, is_stream: bool
) -> None:
    scripts = {"lab": [], "other": [], "third": [], **scripts}
    exchange, case = deliver(scripts, models=chain(**of_m), is_stream=is_stream)
    assert message_of(exchange).model == "m"
    assert case.record["upstream"] == upstream
    assert why.encode() in exchange.reply_headers[b"x-dragoman-adjustments"]
    assert case.record["adjustments"][0].startswith("model emulated: answered by ")


def test_a_model_under_a_limit_is_not_asked_before_its_fallback() -> None:
    async def case() -> AppCase:
        limited = refusing(429, "slow", retry_after="30")
        made = AppCase(
            {"lab": [limited], "other": [saying("n")] * 2, "third": []},
            models=chain(fallbacks=("n",)),
        )
        for _ in range(2):
            assert message_of(await made.ask(STREAM)).text == "n"
        await made.close()
        return made

    made = run(case())
    assert [record["attempts"] for record in made.records] == [2, 1]
    assert len(made.upstreams["lab"].calls) == 1


@both_ways
def test_a_fallback_that_fails_has_not_answered(is_stream: bool) -> None:
    scripts = {"lab": [failing(LATE)], "other": [failing(LATE)], "third": []}
    exchange, case = deliver(scripts, models=chain(fallbacks=("n",)), is_stream=is_stream)
    assert exchange.status == 504
    assert b"x-dragoman-adjustments" not in exchange.reply_headers
    assert not case.record.get("adjustments")


@both_ways
def test_a_model_that_is_ill_does_not_hold_up_its_fallback(is_stream: bool) -> None:
    async def case() -> AppCase:
        made = AppCase(
            {"lab": [failing(LATE), saying("m")], "other": [saying("n")] * 2, "third": []},
            models=chain(fallbacks=("n",)),
            routing={"failures_to_open": 1, "open_s": 0.2},
        )
        ask = {**ASK, "stream": is_stream}
        for _ in range(2):
            assert message_of(await made.ask(ask)).text == "n"
        assert [record["attempts"] for record in made.records] == [2, 1]
        await asyncio.sleep(0.25)  # the next call is the probe
        assert message_of(await made.ask(ask)).text == "m"
        await made.close()
        return made

    made = run(case())
    assert len(made.upstreams["lab"].calls) == 2


def test_of_two_the_one_that_is_ill_is_not_asked_before_a_fallback() -> None:
    async def case() -> AppCase:
        both = {**SMALL, "upstream": ("lab", "third")}
        made = AppCase(
            {"lab": [failing(LATE)], "third": [saying("m"), failing(LATE)], "other": [saying("n")]},
            models={"m": {**both, "fallbacks": ("n",)}, "n": {"upstream": ("other",)}},
            routing={"failures_to_open": 1},
        )
        assert message_of(await made.ask(STREAM)).text == "m"
        assert message_of(await made.ask(STREAM)).text == "n"
        await made.close()
        return made

    made = run(case())
    assert len(made.upstreams["lab"].calls) == 1


@pytest.mark.parametrize("fallbacks", [(), ("n",)], ids=["none", "ill, too"])
def test_without_a_fallback_that_is_well_who_is_ill_is_asked(fallbacks: tuple[str, ...]) -> None:
    async def case() -> AppCase:
        made = AppCase(
            {"lab": [failing(LATE), saying("m")], "other": [failing(LATE)], "third": []},
            models=chain(fallbacks=fallbacks),
            routing={"failures_to_open": 1},
        )
        assert (await made.ask(STREAM)).status == 504
        assert message_of(await made.ask(STREAM)).text == "m"
        await made.close()
        return made

    run(case())


def test_a_prompt_that_is_surely_too_long_is_not_tried() -> None:
    body = {**ASK, "messages": [{"role": "user", "content": "many words " * 2_000}]}
    exchange, case = deliver(
        {"lab": [], "other": [saying("n")], "third": []},
        models=chain(long_prompt_fallback="n"),
        body=body,
    )
    assert message_of(exchange).text == "n"
    assert case.record["attempts"] == 1


def test_without_a_longer_model_the_upstream_says_what_fits() -> None:
    body = {**ASK, "messages": [{"role": "user", "content": "many words " * 2_000}]}
    exchange, _ = deliver(
        {"lab": [saying("m")], "other": [], "third": []}, models=chain(), body=body
    )
    assert message_of(exchange).text == "m"


NO_FALLBACK: dict[str, tuple[dict[str, Any], Script, int]] = {
    "refused": ({"fallbacks": ("n",)}, refusing(400), 400),
    "too long, without a longer one": ({"fallbacks": ("n",)}, OVERFLOW, 400),
    "away, with only a longer one": ({"long_prompt_fallback": "n"}, failing(LATE), 504),
}


@pytest.mark.parametrize(("of_m", "script", "status"), NO_FALLBACK.values(), ids=NO_FALLBACK)
def test_no_fallback(of_m: dict[str, Any], script: Script, status: int) -> None:
    exchange, case = deliver({"lab": [script], "other": [], "third": []}, models=chain(**of_m))
    assert exchange.status == status
    assert "adjustments" not in case.record


def test_after_content_no_other_model_goes_on() -> None:
    broken = [head(), data(chunk(content="Hel")), fail(RESET)]
    exchange, _ = deliver(
        {"lab": [broken], "other": [], "third": []}, models=chain(fallbacks=("n",))
    )
    assert error_in(exchange)["type"] == "api_error"


IMAGE = {
    "type": "image",
    "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="},
}


@pytest.mark.parametrize(
    ("content", "profile", "upstream"),
    [
        ([IMAGE], {}, "other"),
        ([{"type": "text", "text": "Hi"}], {}, "lab"),
        ([IMAGE], {"sees_images": True}, "lab"),
    ],
)
def test_images_go_to_a_model_that_sees(
    content: list[Any], profile: dict[str, Any], upstream: str
) -> None:
    models = chain(image_fallback="n", profile=profile)
    models["n"]["profile"] = {"sees_images": True}
    body = {**ASK, "messages": [{"role": "user", "content": content}]}
    exchange, case = deliver(
        {"lab": [saying("m")], "other": [saying("n")], "third": []}, models=models, body=body
    )
    assert case.record["upstream"] == upstream
    said = exchange.reply_headers.get(b"x-dragoman-adjustments", b"")
    assert (b"m sees no images" in said) == (upstream == "other")


def test_what_metrics_show() -> None:
    async def case() -> dict[tuple[str, ...], float]:
        made = AppCase({"lab": [refusing(429, "slow", retry_after="30")]})
        await made.ask(STREAM)
        samples = list(routing_samples(made.services, made.messages.joins))
        await made.close()
        return {
            (sample.name.removeprefix("dragoman_"), *sample.labels): sample.value
            for sample in samples
        }

    found = run(case())
    alone = found.pop(("upstream_left_alone_seconds", "lab real-m", "rate_limited"))
    assert 25 < alone <= 30
    assert found == {
        ("upstream_trips_total", "rate_limited"): 1,
        ("upstream_trips_total", "overloaded"): 0,
        ("upstream_trips_total", "refused"): 0,
        ("upstream_trips_total", "failing"): 0,
        ("hedges_total", "made"): 0,
        ("hedges_total", "won"): 0,
        ("joined_requests_total",): 0,
    }


def test_counts_are_asked_of_a_replica_that_is_well() -> None:
    async def case() -> AppCase:
        models = {"m": {"upstream": ("lab",), "profile": {"count_tokens": "llamacpp"}}}
        made = AppCase(
            {"lab/1": [failing(GONE)], "lab/2": [replying(200, '{"input_tokens": 7}')]},
            models=models,
        )
        made.health.apply(
            HealthEvent(subject="lab/1", cause="refused", for_s=100), time.monotonic()
        )
        counted = await made.ask(COUNT, path="/v1/messages/count_tokens")
        assert json.loads(counted.reply) == {"input_tokens": 7}
        await made.close()
        return made

    assert run(case()).record["endpoint"] == "lab/2"
