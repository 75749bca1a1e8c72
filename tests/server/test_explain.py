"""What would become of a request, and that nothing is sent and no secret is shown."""

import asyncio
import datetime as dt
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from dragoman.build import build_gateway
from dragoman.core.errors import Overloaded
from dragoman.policy.access import AdminKey
from dragoman.policy.health import HealthEvent
from dragoman.policy.key_texts import digest_of, new_admin_key, new_client_key
from dragoman.policy.store import Page
from dragoman.server.explain import Explainer
from dragoman.server.telemetry import EventLog
from dragoman.settings import Config, ModelConfig, Secret, ServerConfig, UpstreamConfig
from support.app_case import ASK, KEY, AppCase, deliver, error_of, run, saying
from support.fakes import FakeExchange
from support.loops import until

NOW = dt.datetime.now(dt.UTC)
TEXT = new_admin_key()
GOOD = AdminKey(
    id="adminkey_1", name="root", digest=digest_of(TEXT.encode()), hint="", role="read",
    created_at=NOW,
)  # fmt: skip


class OneKeyStore:
    """As much of a store as the look-up of an admin key needs."""

    def __init__(self, key: AdminKey | None) -> None:
        self.key = key
        self.asked: list[bytes] = []

    async def get(self) -> Any:
        return self

    async def list_admin_keys(self, page: Page) -> list[AdminKey]:
        return [GOOD] if page.after_id is None else []  # somebody else's

    async def touch_keys(self, last_used: Mapping[str, dt.datetime]) -> None:
        assert list(last_used) == [GOOD.id]

    async def admin_key_by_digest(self, digest: bytes) -> AdminKey | None:
        self.asked.append(digest)
        return self.key if self.key is not None and digest == self.key.digest else None


def explained(
    body: Mapping[str, Any] | bytes,
    scripts: Mapping[str, Sequence[Any]] | None = None,
    *,
    headers: dict[bytes, bytes] | None = None,
    method: str = "POST",
    store: OneKeyStore | None = None,
    **case: Any,
) -> tuple[FakeExchange, AppCase]:
    store = store or OneKeyStore(GOOD)

    async def main() -> tuple[FakeExchange, AppCase]:
        made = AppCase(scripts, get_store=store.get, **case)
        sent = {b"x-api-key": TEXT.encode(), **(headers or {})}
        exchange = await made.ask(body, path="/admin/v1/explain", method=method, headers=sent)
        await made.close()
        return exchange, made

    return run(main())


def said(exchange: FakeExchange) -> dict[str, Any]:
    assert exchange.status == 200, exchange.reply
    assert exchange.reply_headers[b"content-type"] == b"application/json"
    return json.loads(exchange.reply)


RICH = {
    **ASK,
    "stream": True,
    "top_k": 5,
    "system": "Be brief.",
    "tools": [{"name": "look", "input_schema": {"type": "object", "properties": {}}}],
    "stop_sequences": ["a", "b"],
}


@pytest.mark.parametrize("method", ["POST", "GET"])
@pytest.mark.parametrize("upstream", ["lab", "native"])
def test_the_request_is_the_one_that_is_sent_when_it_is_asked(upstream: str, method: str) -> None:
    exchange, case = explained(RICH, {upstream: []}, method=method)
    assert case.upstreams[upstream].requests == []
    (target,) = said(exchange)["targets"]
    script = [saying("Hello")] if upstream == "lab" else [[0.0]]
    if upstream == "lab":
        asked, sent = deliver({upstream: script}, body=RICH)
        assert asked.status == 200
        assert target["request"]["body"] == sent.sent(upstream)[0]
        assert target["adjustments"]
        header = asked.reply_headers[b"x-dragoman-adjustments"].decode()
        assert all(f"{a['field']};action={a['action']}" in header for a in target["adjustments"])
    else:
        assert target["request"]["body"] == {**RICH, "model": "real-m"}
        assert target["request"]["headers"]["anthropic-version"] == "2023-06-01"
    assert target["request"]["method"] == "POST"
    assert target["is_streamed"] is True


def test_the_route_is_told() -> None:
    exchange, _ = explained({**RICH, "model": "claude-sonnet-5"}, {"lab": [], "native": []})
    found = said(exchange)
    assert (found["model"], found["alias"], found["role"]) == ("claude-sonnet-5", "m", "")
    assert found["model_adjustment"] is None
    assert [(t["upstream"], t["model"], t["kind"]) for t in found["targets"]] == [
        ("lab", "real-m", "openai"),
        ("native", "real-m", "anthropic"),
    ]


@pytest.mark.parametrize(
    ("fallbacks", "shown"),
    [
        ((), [("b", ""), ("a", ""), ("c", "it is under a rate limit")]),
        (
            ("m2",),
            [
                ("b", ""),
                ("a", "it has failed of late, and a fallback is well"),
                ("c", "it is under a rate limit"),
            ],
        ),
    ],
    ids=["alone", "with a fallback"],
)
def test_it_tells_who_is_skipped(fallbacks: tuple[str, ...], shown: list[tuple[str, str]]) -> None:
    async def main() -> FakeExchange:
        case = AppCase(
            {"a": [], "b": [], "c": [], "other": []},
            models={
                "m": {"upstream": ("a", "b", "c"), "fallbacks": fallbacks},
                "m2": {"upstream": ("other",)},
            },
            get_store=OneKeyStore(GOOD).get,
        )
        now_s = asyncio.get_running_loop().time()
        a, _, c = case.services.routes.resolve("m").targets
        case.health.apply(HealthEvent(subject=a.id, cause="failing", for_s=60.0), now_s)
        case.health.limit(c, 60.0, now_s)
        sent = {b"x-api-key": TEXT.encode()}
        exchange = await case.ask(ASK, path="/admin/v1/explain", headers=sent)
        await case.close()
        return exchange

    targets = said(run(main()))["targets"]
    assert [(t["upstream"], t.get("skipped", "")) for t in targets] == shown


def test_what_cannot_be_sent_to_one_upstream_says_why() -> None:
    picture = {"type": "url", "url": "http://10.0.0.1/a.png"}
    content = [{"type": "image", "source": picture}]
    body = {**ASK, "messages": [{"role": "user", "content": content}]}
    exchange, _ = explained(body, {"native": [], "lab": []})
    target, other = said(exchange)["targets"]
    assert other["request"]
    assert "request" not in target
    assert target["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"{", 400, "JSON"),
        ({**ASK, "max_tokens": "x"}, 400, "max_tokens"),
        ({**ASK, "model": "gpt-4"}, 404, "not served here"),
    ],
)
def test_what_would_be_refused_is_refused(body: Any, status: int, message: str) -> None:
    exchange, case = explained(body)
    assert exchange.status == status
    assert message in error_of(exchange)["message"]
    assert case.record["path"] == "/admin/v1/explain"


def test_no_credential_is_shown(tmp_path: Path) -> None:
    secrets = ["key-of-the-vendor", "short", "another-secret-value", "client-key-of-ada-1"]
    upstream = UpstreamConfig(
        base_url="https://vendor.example/v1",
        api_key=Secret(secrets[0]),
        headers={"x-team": Secret(secrets[1]), "x-other": Secret(secrets[2])},
    )
    config = Config(
        server=ServerConfig(data_dir=tmp_path),
        upstreams={"vendor": upstream},
        models={"m": ModelConfig(upstream=("vendor",))},
    )

    async def main() -> Any:
        gateway = build_gateway(config, log=EventLog("json"), environ={})
        headers = {b"x-api-key": secrets[3].encode(), b"anthropic-beta": b"tools-1"}
        found = await gateway.explainer.explain(json.dumps(ASK).encode(), headers)
        await gateway.close()
        return found

    found = asyncio.run(main())
    request = found.targets[0].request
    assert request.url == "https://vendor.example/v1/chat/completions"
    assert request.headers["host"] == "vendor.example"
    assert request.headers["content-length"] == str(len(bytes(request.body)))
    for name in ("authorization", "x-team", "x-other"):
        assert request.headers[name] == "***"
    assert [secret for secret in secrets if secret in repr(found)] == []


def test_bodies_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dragoman.server.explain._MAX_SHOWN_BYTES", 1000)
    long = {**ASK, "messages": [{"role": "user", "content": "x" * 700}]}
    exchange, _ = explained(long, {"lab": [], "spare": []})
    bodies = [target["request"]["body"] for target in said(exchange)["targets"]]
    assert bodies[0] is not None
    assert bodies[1] is None


def test_few_are_explained_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        case = AppCase()
        explainer = Explainer(case.services, case.upstreams)
        waiting = asyncio.Event()

        async def wait(*_: Any, **__: Any) -> Any:
            await waiting.wait()
            return ()

        monkeypatch.setattr(explainer, "_show_all", wait)
        body = json.dumps(ASK).encode()
        asking = [asyncio.create_task(explainer.explain(body, {})) for _ in range(2)]
        await until(lambda: explainer._n_working == 2)
        with pytest.raises(Overloaded):
            await explainer.explain(body, {})
        waiting.set()
        assert [found.alias for found in await asyncio.gather(*asking)] == ["m", "m"]
        assert explainer._n_working == 0
        await case.close()

    run(main())


# -- who may ask

EXPIRED = NOW - dt.timedelta(seconds=1)


@pytest.mark.parametrize(
    ("key", "sent", "lookups"),
    [
        (GOOD, new_admin_key(), 1),
        (GOOD, new_client_key(), 0),
        (GOOD, "sk-dgm-admin-x", 0),
        (GOOD, "", 0),
        (None, TEXT, 1),
    ],
    ids=["unknown", "of a client", "misshapen", "none", "removed"],
)
def test_nobody_else_may_ask(key: AdminKey | None, sent: str, lookups: int) -> None:
    store = OneKeyStore(key)
    exchange, _ = explained(ASK, headers={b"x-api-key": sent.encode()}, store=store)
    assert exchange.status == 401
    assert "admin key" in error_of(exchange)["message"]
    assert KEY.encode() not in exchange.reply
    assert len(store.asked) == lookups


@pytest.mark.parametrize("field", ["expires_at", "revoked_at"])
def test_a_key_that_is_no_longer_good_is_refused(field: str) -> None:
    store = OneKeyStore(structs.replace(GOOD, **{field: EXPIRED}))
    exchange, _ = explained(ASK, store=store)
    assert exchange.status == 401


def test_an_admin_key_shows_the_metrics_too() -> None:
    async def main() -> list[int]:
        store = OneKeyStore(GOOD)
        case = AppCase(keys=[("ada", "key-of-ada-and-only-hers")], get_store=store.get)
        found = []
        for text in (TEXT, new_admin_key(), "other"):
            sent = {b"authorization": f"Bearer {text}".encode()}
            exchange = await case.ask(b"", method="GET", path="/metrics", headers=sent)
            found.append(exchange.status)
        await case.close()
        return found

    assert run(main()) == [200, 403, 403]
