"""The metrics at an address of their own: nothing else is there, and not everybody sees them."""

import asyncio
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from dragoman.server.metrics import Metrics
from dragoman.server.metrics_page import MetricsPage
from dragoman.server.metrics_site import MetricsSite
from dragoman.server.side_site import SideSite
from dragoman.server.telemetry import EventLog
from support.chat_upstream import ChatUpstream
from support.fakes import FakeExchange
from support.gateway import GatewayProcess, lab_config
from support.servers import free_port

TOKEN = "a-token-of-sixteen-or-more"


def scrape(
    *,
    token: str | None = None,
    path: str = "/metrics",
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
) -> tuple[FakeExchange, list[dict[str, Any]]]:
    log = io.StringIO()
    page = MetricsPage(Metrics().samples, token=token)
    metrics = MetricsSite(page, allowed_hosts=("metrics.lab",))
    site = SideSite(
        metrics.show,
        log=EventLog("json", log),
        is_worth_a_line=lambda record: record.status != 200,
    )
    sent = {name.encode(): value.encode() for name, value in (headers or {}).items()}
    exchange = FakeExchange(method=method, path=path, headers=sent)
    asyncio.run(site.handle(exchange))
    assert exchange.is_ended
    return exchange, [json.loads(line) for line in log.getvalue().splitlines()]


@pytest.mark.parametrize("path", ["/metrics", "/metrics/"])
def test_they_are_shown_and_nothing_is_logged(path: str) -> None:
    exchange, events = scrape(path=path)
    assert exchange.status == 200
    assert b"dragoman_build_info" in exchange.reply
    assert exchange.reply_headers[b"request-id"].startswith(b"req_")
    assert events == []


@pytest.mark.parametrize(
    ("asking", "status"),
    [
        ({"path": "/v1/messages", "method": "POST"}, 404),
        ({"path": "/v1/models"}, 404),
        ({"method": "POST"}, 404),
        ({"headers": {"host": "elsewhere.example"}}, 403),
        ({"headers": {"host": "metrics.lab", "origin": "https://page.example"}}, 403),
        ({"token": TOKEN}, 401),
        ({"token": TOKEN, "headers": {"authorization": "Bearer other"}}, 401),
        ({"token": TOKEN, "headers": {"x-api-key": TOKEN}}, 401),
    ],
)
def test_all_else_is_refused(asking: dict[str, Any], status: int) -> None:
    exchange, events = scrape(**asking)
    assert exchange.status == status
    assert b"dragoman_build_info" not in exchange.reply
    assert [event["status"] for event in events] == [status]
    assert TOKEN not in json.dumps(events)


@pytest.mark.parametrize(
    "asking",
    [
        {"headers": {"host": "metrics.lab"}},
        {"token": TOKEN, "headers": {"host": "any.lab", "authorization": f"Bearer {TOKEN}"}},
    ],
)
def test_who_may_sees_them(asking: dict[str, Any]) -> None:
    exchange, _ = scrape(**asking)
    assert exchange.status == 200


@pytest.mark.parametrize("workers", ["1", "2"])
def test_the_process_listens_there_and_no_longer_at_its_own_port(
    tmp_path: Path, workers: str
) -> None:
    port = free_port()
    more = f'[metrics]\nport = {port}\n[[keys]]\nname = "ada"\nkey = "a-key-of-ada-alone"\n'
    with ChatUpstream() as lab:
        config = lab_config(lab.url, "m", more=more)
        with GatewayProcess(tmp_path, config=config, args=("--workers", workers)) as gateway:
            assert gateway.request("GET", "/metrics").status == 404
            api, gateway.port = gateway.port, port
            answer = gateway.request("GET", "/metrics")
            assert answer.status == 200
            assert f"\ndragoman_workers {workers}.0\n" in answer.body.decode()
            assert gateway.request("GET", "/v1/models").status == 404
            gateway.port = api
