"""Documents and links in requests: read, checked or refused."""

import base64
import datetime as dt
import json
from typing import Any

import pytest

from dragoman.policy.access import Caller, Workspace
from support.app_case import (
    ASK,
    AppCase,
    both_ways,
    deliver,
    error_of,
    message_of,
    native_saying,
    run,
    saying,
)
from support.files import make_pdf

pytestmark = pytest.mark.usefixtures("quick_retries")


@both_ways
@pytest.mark.parametrize("kind", ["image", "document"])
@pytest.mark.parametrize("upstream", ["lab", "native"])
@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://10.0.0.1/x.png", "public"),
        ("http://127.0.0.1:7777/v1/models", "public"),
        ("http://inside.example/x.png", "public"),
        ("http://[::1]/x.png", "public"),
        ("http://169.254.169.254/latest", "public"),
        ("https://nowhere.example/x.png", "cannot be found"),
        ("file:///etc/passwd", "http"),
    ],
)
def test_links_into_the_network_are_refused(
    kind: str, upstream: str, url: str, reason: str, is_stream: bool
) -> None:
    block = {"type": kind, "source": {"type": "url", "url": url}}
    content = [{"type": "text", "text": "?"}, block]
    asked = ASK | {"messages": [{"role": "user", "content": content}]}
    exchange, case = deliver(
        {upstream: [], "other": []},
        body=asked,
        is_stream=is_stream,
        profile={"sees_images": True},
        names={"inside.example": "10.0.0.1"},
    )
    error = error_of(exchange)
    assert (exchange.status, error["type"]) == (400, "invalid_request_error")
    assert error["message"].startswith("messages.0.content.1.source.url: ")
    assert reason in error["message"]
    assert case.sent(upstream) == []


@pytest.mark.parametrize("upstream", ["lab", "native"])
def test_public_links_go_on_and_private_ones_where_allowed(upstream: str) -> None:
    for url, options in [
        ("https://public.example/x.png", {}),
        ("http://10.0.0.1/x.png", {upstream: {"allow_private_urls": True}}),
        ("http://unknown.lab/x.png", {upstream: {"allow_private_urls": True}}),
    ]:
        block = {"type": "image", "source": {"type": "url", "url": url}}
        script = native_saying(True) if upstream == "native" else saying("x")
        exchange, case = deliver(
            {upstream: [script]},
            body=ASK | {"messages": [{"role": "user", "content": [block]}]},
            profile={"sees_images": True},
            options=options,
        )
        message_of(exchange)
        assert url in json.dumps(case.sent(upstream))


@pytest.mark.parametrize("upstream", ["lab", "native"])
def test_too_many_links_are_refused(upstream: str) -> None:
    blocks = [
        {"type": "image", "source": {"type": "url", "url": f"https://public.example/{n}"}}
        for n in range(601)
    ]
    exchange, _ = deliver(
        {upstream: []},
        body=ASK | {"messages": [{"role": "user", "content": blocks}]},
        profile={"sees_images": True},
    )
    assert exchange.status == 400
    assert "at most 600" in error_of(exchange)["message"]


def document(raw: bytes) -> dict[str, Any]:
    source = {"type": "base64", "media_type": "application/pdf", "data": raw.decode()}
    return {"messages": [{"role": "user", "content": [{"type": "document", "source": source}]}]}


def test_a_document_that_cannot_be_read_is_an_adjustment() -> None:
    exchange, case = deliver([saying("x")], body=ASK | document(b"bm8gcGRm"))
    assert message_of(exchange).text == "x"
    said = exchange.reply_headers[b"x-dragoman-adjustments"].decode()
    assert "messages.0.content.0.source.data;action=dropped" in said
    assert any("messages.0.content.0.source.data dropped" in a for a in case.record["adjustments"])


def test_a_document_that_is_no_base64_is_refused() -> None:
    exchange, _ = deliver({"lab": [], "other": []}, body=ASK | document(b"!!!"))
    assert exchange.status == 400
    assert error_of(exchange)["message"].startswith("messages.0.content.0.source.data: ")


def test_a_page_of_pdf_goes_up_as_text() -> None:
    raw = base64.b64encode(make_pdf("Hello from the page"))
    exchange, case = deliver([saying("x")], body=ASK | document(raw))
    assert message_of(exchange).text == "x"
    assert "Hello from the page" in json.dumps(case.sent())


# -- what a workspace may name


class TeamCallers:
    """Everybody is of one team."""

    may_be_open = False

    def __init__(self, *hosts: str) -> None:
        now = dt.datetime(2026, 11, 25, tzinfo=dt.UTC)
        team = Workspace(id="wrkspc_1", name="team", created_at=now, fetch_hosts=hosts)
        self._caller = Caller(key_id="apikey_1", key_name="ci", workspace=team)

    def recognise(self, *_: object) -> Caller:
        return self._caller


@pytest.mark.parametrize("upstream", ["lab", "native"])
@pytest.mark.parametrize(("pattern", "status"), [("public.*", 200), ("docs.example", 400)])
def test_a_workspace_has_its_own_list_of_hosts(upstream: str, pattern: str, status: int) -> None:
    async def main() -> None:
        script = native_saying(True) if upstream == "native" else saying("x")
        case = AppCase({upstream: [script]}, profile={"sees_images": True})
        case.app._callers = TeamCallers(pattern)
        source = {"type": "url", "url": "https://public.example/x.png"}
        content = [{"type": "image", "source": source}]
        asked = ASK | {"stream": True, "messages": [{"role": "user", "content": content}]}
        exchange = await case.ask(asked)
        assert exchange.status == status
        if status == 400:
            assert "this workspace may not use" in error_of(exchange)["message"]
            assert case.sent(upstream) == []

    run(main())
