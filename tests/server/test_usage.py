"""Which requests leave a usage record, and what it says: the app with a meter, without a socket."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from dragoman.core.usage import Usage
from dragoman.limit_settings import Limits
from dragoman.server import meter as meter_module
from dragoman.settings import KeyConfig, PriceConfig, Secret
from server.test_meter import FakeStore, MeterCase
from support.app_case import (
    ASK,
    NATIVE_BEGUN,
    AppCase,
    Script,
    chunk,
    exchange_of,
    failing,
    native_saying,
    run,
    saying,
)
from support.app_case import GONE as UNREACHABLE
from support.fakes import data, head
from support.loops import until
from support.stores import told_by

SESSION = "00000000-1111-4222-8333-444444444444"
KEYS = [("ada", "ada-key-of-16-characters")]
LET_IN = {b"x-api-key": b"ada-key-of-16-characters"}
CLAUDE = {
    **LET_IN,
    b"user-agent": b"claude-cli/2.1.330 (external, cli)",
    b"x-claude-code-session-id": SESSION.encode(),
    b"x-claude-code-agent-id": b"aa6486cc53373b706",
}


@pytest.fixture(autouse=True)
def quick(monkeypatch) -> None:
    monkeypatch.setattr(meter_module, "_WRITE_INTERVAL_S", 0.01)


def kept(tmp_path: Path, scripts: Any, *requests: dict[str, Any], **case: Any) -> list[Any]:
    """Answer requests one after the other, return the records that they leave."""

    async def main() -> list[Any]:
        store = FakeStore()
        usage = MeterCase(tmp_path, store)
        made = AppCase(scripts, keys=KEYS, meter=usage.meter, **case)
        usage.meter.start()
        for request in requests:
            body = request.pop("body", None)
            await made.ask(body, **({"headers": LET_IN} | request))
        await made.close()
        await usage.meter.close()
        return [told_by(record) for record in store.records.values()]

    return run(main())


@pytest.mark.parametrize("is_stream", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("upstream", ["lab", "native"])
def test_an_answered_request(tmp_path: Path, upstream: str, is_stream: bool) -> None:
    price = PriceConfig(models=("real-m",), input_per_mtok=1_000_000, output_per_mtok=2_000_000)
    script = saying("Hello") if upstream == "lab" else native_saying(is_stream)
    (record,) = kept(
        tmp_path,
        {upstream: [script]},
        {"body": {**ASK, "stream": is_stream}, "headers": CLAUDE},
        prices=[price],
    )
    assert record.id.startswith("req_")
    assert (record.key_id, record.key_name) == ("config:ada", "ada")
    assert (record.session_id, record.agent_id) == (SESSION, "aa6486cc53373b706")
    assert (record.client, record.client_version) == ("claude-cli", "2.1.330")
    assert (record.model, record.upstream, record.upstream_model) == ("m", upstream, "real-m")
    assert (record.is_stream, record.status, record.error_type) == (is_stream, 200, "")
    assert (record.input_tokens, record.output_tokens, record.cost_micros) == (3, 2, 7_000_000)
    assert (record.stop_reason, record.attempts) == ("end_turn", 1)
    assert record.first_content_ms is not None
    assert 0 <= record.first_content_ms <= record.duration_ms < 20_000


def test_the_session_of_older_clients(tmp_path: Path) -> None:
    user_id = json.dumps({"device_id": "d", "account_uuid": "", "session_id": SESSION})
    body = {**ASK, "metadata": {"user_id": user_id}}
    (record,) = kept(tmp_path, {"lab": [saying("Hello")]}, {"body": body})
    assert (record.session_id, record.agent_id, record.client) == (SESSION, "", "")


def test_requests_that_fail(tmp_path: Path) -> None:
    records = kept(
        tmp_path,
        {"lab": [failing(UNREACHABLE)]},
        {},
        {"body": b"{"},
        {"body": {**ASK, "model": "unknown"}},
        options={"lab": {"retries": 0}},
    )
    assert [(r.status, r.error_type, r.model, r.attempts) for r in records] == [
        (502, "api_error", "m", 1),
        (400, "invalid_request_error", "", 0),
        (404, "not_found_error", "unknown", 0),
    ]
    assert all(r.input_tokens == r.output_tokens == 0 for r in records)
    assert all(r.cost_micros is None and r.first_content_ms is None for r in records)


def test_adjustments_and_repairs(tmp_path: Path) -> None:
    body = {**ASK, "container": "c", "top_k": 5}
    (record,) = kept(tmp_path, {"lab": [saying("Hello")]}, {"body": body})
    assert "container dropped" in record.adjustments


def test_what_leaves_no_record(tmp_path: Path) -> None:
    records = kept(
        tmp_path,
        {"lab": []},
        {"headers": {b"x-api-key": b"somebody-elses"}},
        {"path": "/v1/messages/count_tokens"},
        {"path": "/v1/models", "method": "GET"},
        {"path": "/v1/messages", "method": "GET"},
        {"path": "/healthz", "method": "GET"},
    )
    assert records == []


@pytest.mark.parametrize(
    ("how", "status", "error"), [("gone", 499, "client_gone"), ("stopped", 529, "stopped")]
)
def test_requests_that_are_cut(tmp_path: Path, how: str, status: int, error: str) -> None:
    async def main() -> None:
        store = FakeStore()
        usage = MeterCase(tmp_path, store)
        made = AppCase({"lab": [[head()]]}, meter=usage.meter)
        usage.meter.start()
        exchange = exchange_of({**ASK, "stream": True})
        task = asyncio.create_task(made.app.handle(exchange))
        await asyncio.sleep(0.05)
        if how == "gone":
            exchange.leave()
        else:
            task.cancel()
        await asyncio.wait([task])
        await made.close()
        await usage.meter.close()
        record = told_by(*store.records.values())
        assert (record.status, record.error_type, record.key_id) == (status, error, "local")
        assert record.input_tokens > 0, "the upstream had taken it up, and bills that"
        assert record.output_tokens == 0

    run(main())


NATIVE = [head(), NATIVE_BEGUN, 30.0]
HEDGED = {"native": {}, "model": {"hedge_percentile": 90.0, "hedge_min_s": 15.0}}
CUT: dict[str, tuple[dict[str, list[Script]], bool, dict[str, Any]]] = {
    "a whole reply": ({"lab": [[head(), data(chunk(content="Hello you")), 30.0]]}, False, {}),
    "a stream of which nothing has come": ({"lab": [[head(), 30.0]]}, True, {}),
    "nothing of two": ({"lab": [[head(), 30.0]], "native": []}, True, HEDGED),
    "a native stream": ({"native": [NATIVE]}, True, {}),
    "one that another may be asked beside": ({"native": [NATIVE], "lab": []}, True, HEDGED),
}


@pytest.mark.parametrize("script", [[30.0], [head(503), 30.0]], ids=["no reply", "a refusal"])
def test_what_no_upstream_has_taken_up_costs_nothing(script: Script) -> None:
    async def main() -> None:
        made = AppCase({"lab": [script]})
        exchange = exchange_of({**ASK, "stream": True})
        task = asyncio.create_task(made.app.handle(exchange))
        await asyncio.sleep(0.05)
        exchange.leave()
        await task
        await made.close()
        assert made.record["error"] == "client_gone"
        assert "input_tokens" not in made.record

    run(main())


@pytest.mark.parametrize(("scripts", "is_stream", "options"), CUT.values(), ids=CUT)
def test_what_is_recorded_of_a_cut_request_is_what_limits_count(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    scripts: dict[str, list[Script]],
    is_stream: bool,
    options: dict[str, Any],
) -> None:
    async def main() -> None:
        store = FakeStore()
        usage = MeterCase(tmp_path, store)
        key = KeyConfig(
            name="ada", key=Secret("key-of-ada-0123456789"), limits=Limits(concurrent=9)
        )
        made = AppCase(scripts, meter=usage.meter, options=options, settings={"keys": (key,)})
        for name in scripts:
            for _ in range(20):
                made.load.observe(f"{name} real-m", 0.001, 0.0)
        settled: list[Usage] = []
        monkeypatch.setattr(made.admission, "settle", lambda *_, usage, **__: settled.append(usage))
        usage.meter.start()
        headers = {b"x-api-key": b"key-of-ada-0123456789"}
        exchange = exchange_of({**ASK, "stream": is_stream}, headers=headers)
        task = asyncio.create_task(made.app.handle(exchange))
        await until(lambda: any(upstream.requests for upstream in made.upstreams.values()))
        await asyncio.sleep(0.05)  # what there is of the reply follows at once
        exchange.leave()
        await task
        await made.close()
        await usage.meter.close()
        record = told_by(*store.records.values())
        assert (record.error_type, record.attempts) == ("client_gone", 1)
        assert record.input_tokens > 0
        tokens = [(each.input_tokens, each.output_tokens) for each in settled]
        assert tokens == [(record.input_tokens, record.output_tokens)]

    run(main())
