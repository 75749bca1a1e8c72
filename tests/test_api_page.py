"""docs/reference/api.md: up to date, complete, and true."""

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tools.make_api_page import PAGE, Row, read_tables, render_page

from dragoman.core import errors, upstream_errors
from dragoman.core.attachments import find_attachments
from dragoman.core.dialects.profile import DialectProfile
from dragoman.core.errors import GatewayError, InvalidRequest, Overloaded, UpstreamUnauthorized
from dragoman.core.passthrough import adjust_for_native, rewrite_request
from dragoman.core.plan import Deployment, Plan, make_plan
from dragoman.core.render import render
from dragoman.core.server_tools import server_functions
from dragoman.core.validate import parse_request
from dragoman.policy.limit_headers import LimitHeaders, Places, WindowKind
from dragoman.wire.anthropic import Tool
from support import turns
from support.api_rows import REQUESTS, TABLES, fields_of
from support.app_case import AppCase, error_of, run, saying
from support.fakes import FakeExchange, data, end, head
from support.plans import MINIMAL, SIGNER, parse
from support.sse_grammar import check_stream

ROOT = Path(__file__).parents[1]
ITEMS = json.loads((ROOT / "tests" / "fixtures" / "api-items.json").read_text("utf-8"))
# An upstream that has whatever there is to have, and one that has as little as any model does.
RICH: dict[str, Any] = {
    "name": "rich",
    "context_window": 200_000,
    "sees_images": True,
    "thinking": "toggle",
    "thinking_switch": "thinking_type",
    "thinking_budget_field": "thinking_budget",
    "effort_values": ("low", "medium", "high", "xhigh", "max"),
    "echo_reasoning": "always",
    "top_k": True,
    "max_stop_sequences": None,
    "reports_stop": True,
    "mid_system": "native",
    "prefill": "continue_final_message",
}
POOR: dict[str, Any] = {
    "name": "poor",
    "thinking": "never",
    "temperature_max": None,
    "top_p": False,
    "forced_tools": "hint",
    "parallel_tool_calls_field": False,
    "response_format": "none",
    "sends_user": False,
}


# -- up to date and complete


def test_the_page_is_what_its_data_says() -> None:
    assert PAGE.read_text(encoding="utf-8") == render_page(read_tables()), (
        "run: python tools/make_api_page.py"
    )


@pytest.mark.parametrize("table", ITEMS)
def test_every_item_of_the_api_has_its_row(table: str) -> None:
    named = set(names(row.item for row in TABLES[table].rows))
    assert set(ITEMS[table]) - named == set()


def test_no_item_has_two_rows() -> None:
    for table in TABLES.values():
        items = [row.item for row in table.rows]
        assert len(set(items)) == len(items)


def names(items: Iterable[str]) -> Iterator[str]:
    """Yield each name that an item stands for, and the item itself."""
    for item in items:
        yield item
        braces = re.search(r"\{([a-z-]+(?:,[a-z-]+)+)\}", item)
        if braces is not None:
            one_each = (item.replace(braces[0], part, 1) for part in braces[1].split(","))
            yield from names(one_each)
        elif ", " in item:
            yield from item.split(", ")


# -- true of requests


def plan_for(fields: dict[str, Any], facts: dict[str, Any]) -> Plan:
    profile = DialectProfile(**facts)
    deployment = Deployment(upstream="lab", model="upstream-model", profile=profile)
    request = parse(MINIMAL | fields)
    found = find_attachments(request, sees_images=profile.sees_images)
    texts = {attachment.key: "Text of an attachment." for attachment in found}
    return make_plan(request, deployment, signer=SIGNER, texts=texts)


def check(
    row: Row, status: str, facts: dict[str, Any], *, shows: str, hides: str, says: str, plan: Any
) -> None:
    """Hold one status against what comes of the row's probe."""
    fields = fields_of(row)
    if status == "refused":
        with pytest.raises(InvalidRequest) as caught:
            plan_for(fields, facts)
        assert caught.value.path == says
        return
    made, base = plan_for(fields, facts), plan_for(json.loads(row.without), facts)
    rendered = render(made).decode()
    said = {f"{a.field} {a.action}" for a in made.adjustments}
    assert shows in rendered
    if made.body != base.body:
        assert not shows or shows not in render(base).decode()
    assert not hides or hides not in rendered
    assert not hides or hides in json.dumps(fields) or hides in render(base).decode()
    assert not says or says in said
    assert {name: getattr(made, name) for name in plan} == tuples(plan)
    is_seen = bool(shows or hides or plan or row.proof)
    match status:
        case "honoured":
            assert is_seen
            assert said == set()
        case "emulated":
            assert is_seen or says.endswith(" emulated")
        case "dropped":
            assert says.endswith(" dropped")
            if made.body != base.body and not shows:
                assert "messages" in fields or "tools" in fields or "thinking" in fields
        case "accepted":
            assert (made.body, made.adjustments) == (base.body, base.adjustments)
        case _:
            raise AssertionError(f"no status of a request: {status}")


def tuples(values: dict[str, Any]) -> dict[str, Any]:
    """Return what TOML's arrays stand for here."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}


@pytest.mark.parametrize("name", REQUESTS)
def test_on_a_translated_upstream(name: str) -> None:
    row = REQUESTS[name]
    facts = RICH | tuples(row.on)
    check(row, row.ours, facts, shows=row.shows, hides=row.hides, says=row.says, plan=row.plan)


@pytest.mark.parametrize("name", [name for name, row in REQUESTS.items() if row.poor is not None])
def test_on_a_poor_upstream(name: str) -> None:
    row = REQUESTS[name]
    check(
        row,
        str(row.poor),
        POOR | tuples(row.poor_on),
        shows=row.poor_shows,
        hides=row.poor_hides,
        says=row.poor_says,
        plan=row.poor_plan,
    )


@pytest.mark.parametrize("name", [name for name, row in REQUESTS.items() if row.poor is None])
def test_what_has_one_status_has_it_everywhere(name: str) -> None:
    """A status without an "else" holds on the poorest upstream, too, unless it is honoured."""
    row = REQUESTS[name]
    facts = POOR | tuples(row.on)
    if row.ours in ("dropped", "accepted", "refused"):
        shows = row.shows if row.ours == "dropped" else ""
        check(row, row.ours, facts, shows=shows, hides=row.hides, says=row.says, plan=row.plan)
    else:
        rendered = render(plan_for(fields_of(row), facts)).decode()
        assert row.shows in rendered
        assert not row.hides or row.hides not in rendered


@pytest.mark.parametrize("name", REQUESTS)
def test_on_a_passthrough_upstream(name: str) -> None:
    row = REQUESTS[name]
    body = json.dumps(MINIMAL | fields_of(row)).encode()
    request = parse_request(body, max_messages=10, max_nesting=50)
    sent = json.loads(rewrite_request(body, request, model="native", is_trusted=False))
    said = adjust_for_native(request, is_trusted=False)
    is_same = sent == json.loads(body) | {"model": "native"}
    assert is_same is (row.native in (None, "passed on", "renamed"))
    assert bool(said) is (row.native == "removed")


@pytest.mark.parametrize("name", [name for name, row in REQUESTS.items() if row.proof])
def test_proofs_exist(name: str) -> None:
    path, _, test = REQUESTS[name].proof.partition("::")
    assert f"def {test}(" in (ROOT / path).read_text(encoding="utf-8")


# -- true of replies

SERVER_TOOLS = {
    function.tool.name: function.tool
    for kind in (
        *("web_search_20250305", "web_fetch_20250910", "code_execution_20260120"),
        "advisor_20260301",
    )
    for function in server_functions(Tool(type=kind))
}


def replies() -> Iterator[bytes]:
    """Yield event streams that between them hold whatever there is to hold."""
    for sample in sorted((ROOT / "tests" / "streams" / "dialects").glob("*.sse")):
        yield turns.run([sample.read_bytes()]).body
    tools = SERVER_TOOLS | {
        "zoo_zebra": msgspec.structs.replace(
            SERVER_TOOLS["web_search"],
            name="zebra",
            result_type="mcp_tool_result",
            mcp_server="zoo",
        )
    }
    made = [turns.call(n, f"c{n}", name, "{}") for n, name in enumerate((*tools, "f"))]
    yield turns.run(
        [turns.sse(*made, turns.chunk("stop"), turns.DONE)], turns.make_plan(server_tools=tools)
    ).body
    stops = turns.make_plan(local_stop_sequences=("#",))
    yield turns.run([turns.sse(turns.chunk(content="a#"))], stops).body
    turn = turns.make_turn()
    yield turn.start() + turn.ping() + turn.fail(Overloaded("busy"))


EVENTS = [event for body in replies() for event in check_stream(body).events]


def starts(kind: str) -> list[dict[str, Any]]:
    return [event for event in EVENTS if event["type"] == kind]


SEEN: dict[str, set[str]] = {
    "message": {key for e in starts("message_start") for key in e["message"]},
    "reply_blocks": {e["content_block"]["type"] for e in starts("content_block_start")},
    "stop_reasons": {e["delta"]["stop_reason"] for e in starts("message_delta")},
    "usage": {key for e in starts("message_delta") for key in e["usage"]},
    "events": {e["type"] for e in EVENTS},
    "deltas": {e["delta"]["type"] for e in starts("content_block_delta")},
    "citations": {key for e in EVENTS for key in e.get("content_block", {}).get("citations", ())},
}


@pytest.mark.parametrize("table", SEEN)
def test_replies_hold_what_the_page_says(table: str) -> None:
    sent = {row.item for row in TABLES[table].rows if row.ours == "sent"}
    assert sent == SEEN[table]


def test_errors_are_of_the_types_that_the_page_says() -> None:
    found = [
        thing
        for module in (errors, upstream_errors)
        for thing in vars(module).values()
        if isinstance(thing, type) and issubclass(thing, GatewayError)
    ]
    sent = {row.item for row in TABLES["errors"].rows if row.ours == "sent"}
    assert sent == {error.kind for error in found}


def test_headers_of_errors() -> None:
    waiting = errors.error_headers(Overloaded("full", retry_after_s=1.0))
    hopeless = errors.error_headers(UpstreamUnauthorized("no"))
    assert {name.decode() for name, _ in (*waiting, *hopeless)} == {"retry-after", "x-should-retry"}


WINDOWS: dict[WindowKind, Places] = {
    kind: [(place, 9)] for place, kind in enumerate(("requests", "input_tokens", "output_tokens"))
}


@pytest.mark.parametrize("row", TABLES["reply_headers"].rows, ids=lambda row: row.item)
def test_headers_are_written_where_the_page_says(row: Row) -> None:
    """What writes headers names every one that is sent, and none that never is."""
    package = ROOT / "src" / "dragoman"
    writers = [package / "core" / "errors.py", *(package / "server").rglob("*.py")]
    sources = [path.read_text("utf-8") for path in writers]
    built = {name.decode() for name, _ in LimitHeaders(WINDOWS).fields([0] * 3, 0.0)}
    written = [
        name
        for name in names([row.item])
        if name in built or any(f'b"{name}"' in source for source in sources)
    ]
    assert bool(written) is (row.ours == "sent")


# -- true of endpoints and of headers


@pytest.mark.parametrize("row", TABLES["endpoints"].rows, ids=lambda row: row.item)
def test_endpoints_are_served_or_not_found(row: Row) -> None:
    method, path = row.item.split(" ")
    path = re.sub(r"\{\w+\}", "m", path)

    async def main() -> FakeExchange:
        return await AppCase({"lab": [saying("Hello")]}).ask(method=method, path=path)

    exchange = run(main())
    # What is emulated there is off without a store.
    assert exchange.status == {"honoured": 200, "refused": 404, "emulated": 404}[row.ours]
    if exchange.status == 404:
        assert error_of(exchange)["type"] == "not_found_error"


HEADERS = {
    "x-api-key": "key-of-ada",
    "Authorization: Bearer": "key-of-ada",
    "x-claude-code-session-id": "s",
    "x-claude-code-agent-id": "a",
    "x-stainless-retry-count": "1",
    **{row.item: "x" for row in TABLES["headers"].rows if re.fullmatch("[a-z-]+", row.item)},
    "content-type": "application/json",
    "content-encoding": "identity",
}
NATIVE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "m",
    "content": [],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {"input_tokens": 1, "output_tokens": 1},
}


def test_request_headers_go_on_where_the_page_says() -> None:
    sent = {name.split(":")[0].lower().encode(): v.encode() for name, v in HEADERS.items()}
    sent[b"authorization"] = b"Bearer key-of-ada"
    answer = [head(content_type="application/json"), data(json.dumps(NATIVE).encode()), end()]

    async def main() -> tuple[FakeExchange, AppCase]:
        case = AppCase({"native": [answer]}, keys=[("ada", "key-of-ada")])
        return await case.ask(headers=sent), case

    exchange, case = run(main())
    assert exchange.status == 200
    (request,) = case.upstreams["native"].requests
    passed = {row.item for row in TABLES["headers"].rows if row.native == "passed on"}
    assert {name.decode() for name, _ in request.headers} == passed
