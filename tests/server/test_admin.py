"""The admin API on a real store: who is let in, keys and workspaces, and what is refused."""

import asyncio
import base64
import datetime as dt
import json
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from dragoman.core.errors import GatewayError
from dragoman.limit_settings import Limits
from dragoman.policy.registry import AdminKeyRequest, By, Registry
from dragoman.policy.store import Page
from dragoman.server.admin.assembly import admin_operations
from dragoman.server.admin.organization import ModelLimits, Organization
from dragoman.server.admin.site import AdminApi
from dragoman.server.admin_access import AdminAccess
from dragoman.server.answers import refuse
from dragoman.server.telemetry import EventLog, RequestRecord
from dragoman.settings import Secret
from dragoman.store_urls import read_store_url
from dragoman.stores.sql import SqlStore
from support.fakes import FakeExchange
from support.stores import NOW, minutes, new_entry, new_record, new_workspace, opened

MODELS = [
    ModelLimits(
        alias="deepseek-v3.2", display_name="DeepSeek", limits=Limits(requests_per_minute=600)
    ),
    ModelLimits(alias="glm-4.7", display_name="GLM", limits=Limits()),
]


class Admin:
    """The API, its store and two keys."""

    def __init__(self, store: SqlStore) -> None:
        self.store = store
        self.now = NOW
        self.log = EventLog("json")
        self.keys: dict[str, str] = {}
        operations = admin_operations(
            self._get,
            organization=Organization(id="org_1", name="Lab"),
            models=lambda: MODELS,
            workspace_limits=lambda: Limits(requests_per_minute=1000),
        )
        access = AdminAccess(self._get, clock=lambda: self.now)
        self.api = AdminApi(operations, access, log=self.log, clock=lambda: self.now)

    async def _get(self) -> SqlStore:
        return self.store

    async def make_keys(self) -> None:
        registry = Registry(self._get, aliases=list)
        for role in ("read", "write"):
            asked = AdminKeyRequest(name=role, role=role)  # type: ignore[arg-type]
            _, self.keys[role] = await registry.create_admin_key(asked, By(actor="t", now=NOW))

    async def ask(
        self, method: str, path: str, body: Any = None, *, key: str = "write"
    ) -> tuple[int, Any]:
        """Ask as whoever has a key; return status and answer."""
        path, _, query = path.partition("?")
        raw = (
            b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        )
        headers = {b"x-api-key": self.keys.get(key, key).encode()} if key else {}
        exchange = FakeExchange(raw, method=method, path=path, query=query, headers=headers)
        record = RequestRecord(request_id="req_1", method=method, path=path)
        try:
            await self.api.serve(exchange, path, record=record, headers=[])
        except GatewayError as error:
            refuse(exchange, error, record=record, headers=[])
        return exchange.status, json.loads(exchange.reply)


Case = Callable[[Admin], Awaitable[None]]


@pytest.fixture
def run(tmp_path: Path) -> Callable[[Case], None]:
    url = read_store_url(Secret(f"sqlite:///{tmp_path / 'store.db'}"), tmp_path)
    assert url is not None

    def with_admin(case: Case) -> None:
        async def main() -> None:
            async with asyncio.timeout(60), opened(url) as store:
                admin = Admin(store)
                await admin.make_keys()
                await case(admin)

        asyncio.run(main())

    return with_admin


def message(answer: Any) -> str:
    assert answer["type"] == "error"
    text: str = answer["error"]["message"]
    return text


# -- who is let in


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("", "no admin key"),
        ("sk-dgm-" + "a" * 43, "unknown admin key"),
        ("sk-dgm-admin-" + "a" * 43, "unknown admin key"),
        ("sk-ant-api-whatever", "unknown admin key"),
    ],
)
def test_no_other_key_opens_it(run, key: str, said: str) -> None:
    async def case(admin: Admin) -> None:
        status, answer = await admin.ask("GET", "/admin/v1/keys", key=key)
        assert (status, answer["error"]["type"]) == (401, "authentication_error")
        assert said in message(answer)

    run(case)


def test_a_key_that_may_read_changes_nothing(run) -> None:
    async def case(admin: Admin) -> None:
        assert (await admin.ask("GET", "/admin/v1/keys", key="read"))[0] == 200
        for path in ("/admin/v1/keys", "/admin/v1/workspaces", "/v1/organizations/workspaces"):
            status, answer = await admin.ask("POST", path, {"name": "x"}, key="read")
            assert status == 403
            assert "role write" in message(answer)
        assert await admin.store.list_keys(Page()) == []

    run(case)


def test_it_is_off_without_a_good_admin_key(tmp_path: Path) -> None:
    url = read_store_url(Secret(f"sqlite:///{tmp_path / 'store.db'}"), tmp_path)
    assert url is not None

    async def main() -> None:
        async with opened(url) as store:
            admin = Admin(store)
            status, answer = await admin.ask(
                "GET", "/admin/v1/keys", key="sk-dgm-admin-" + "a" * 43
            )
            assert (status, answer["error"]["type"]) == (404, "not_found_error")
            assert "admin-keys create" in message(answer)

    asyncio.run(main())


def test_a_revoked_admin_key_opens_nothing(run) -> None:
    async def case(admin: Admin) -> None:
        _, listed = await admin.ask("GET", "/admin/v1/admin-keys")
        reader = next(each for each in listed["data"] if each["name"] == "read")
        status, shown = await admin.ask("POST", f"/admin/v1/admin-keys/{reader['id']}/revoke")
        assert (status, shown["status"]) == (200, "revoked")
        status, answer = await admin.ask("GET", "/admin/v1/keys", key="read")
        assert status == 401
        assert "is revoked" in message(answer)

    run(case)


def test_the_last_use_of_an_admin_key_is_noted(run) -> None:
    async def case(admin: Admin) -> None:
        await admin.ask("GET", "/admin/v1/keys", key="read")
        keys = await admin.store.list_admin_keys(Page())
        used = {key.name: key.last_used_at for key in keys}
        assert used == {"read": NOW, "write": None}

    run(case)


# -- keys


def test_the_life_of_a_key(run) -> None:
    async def case(admin: Admin) -> None:
        asked = {
            "name": "ci",
            "owner": "ada",
            "allowed_models": ["glm-*"],
            "limits": {"requests_per_minute": 5},
            "budgets": [{"period": "month", "cost_usd": 2.5}],
            "expires_at": "2027-01-01T00:00:00Z",
        }
        status, made = await admin.ask("POST", "/admin/v1/keys", asked)
        assert status == 200
        assert made["key"].startswith("sk-dgm-")
        assert made["budgets"] == [{"period": "month", "cost_micros": 2_500_000}]
        one = f"/admin/v1/keys/{made['id']}"
        _, shown = await admin.ask("GET", one)
        assert shown == {**made, "key": None}
        _, changed = await admin.ask("POST", one, {"owner": "bob", "expires_at": None})
        assert changed == {**shown, "owner": "bob", "expires_at": None}
        assert (await admin.ask("POST", f"{one}/disable"))[1]["status"] == "disabled"
        assert (await admin.ask("POST", f"{one}/enable"))[1]["status"] == "active"
        _, new = await admin.ask("POST", f"{one}/rotate", {"overlap_s": 60})
        assert new["key"] not in ("", made["key"])
        assert new["owner"] == "bob"
        _, old = await admin.ask("GET", one)
        assert old["replaced_by"] == new["id"]
        assert dt.datetime.fromisoformat(old["expires_at"]) == NOW + minutes(1)
        assert (await admin.ask("POST", f"{one}/revoke"))[1]["status"] == "revoked"
        _, audit = await admin.ask("GET", "/admin/v1/audit?limit=100")
        assert {entry["action"] for entry in audit["data"]} == {
            *("admin_key.create", "key.create", "key.change", "key.disable", "key.enable"),
            *("key.rotate", "key.revoke"),
        }
        assert all(made["key"] not in str(entry) for entry in audit["data"])
        assert audit["data"][0]["actor"].endswith((" write", "t"))

    run(case)


WRONG = {
    "an unknown field": ({"name": "x", "limit": {}}, "limit"),
    "no name": ({}, "name"),
    "a negative limit": ({"name": "x", "limits": {"concurrent": -1}}, "limits.concurrent"),
    "a limit of another type": (
        {"name": "x", "limits": {"requests_per_minute": "5"}},
        "limits.requests_per_minute",
    ),
    "a wrong date": ({"name": "x", "expires_at": "tomorrow"}, "expires_at"),
    "a date that has passed": ({"name": "x", "expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
    "a pattern that fits nothing": ({"name": "x", "allowed_models": ["gpt-*"]}, "allowed_models.0"),
    "an unknown workspace": ({"name": "x", "workspace_id": "wrkspc_x"}, "workspace_id"),
    "a misspelt limit": (
        {"name": "x", "limits": {"request_per_minute": 5}},
        "limits.request_per_minute",
    ),
    "a budget of nothing": ({"name": "x", "budgets": [{"period": "day"}]}, "budgets.0"),
    "an unknown period": (
        {"name": "x", "budgets": [{"period": "week"}]},
        "budgets.0.period",
    ),
    "a misspelt amount": (
        {"name": "x", "budgets": [{"period": "day", "tokens": 5, "cost": 1}]},
        "budgets.0.cost",
    ),
    "two budgets of a day": (
        {"name": "x", "budgets": [{"period": "day", "tokens": 5}, {"period": "day", "tokens": 6}]},
        "budgets.1.tokens",
    ),
    "a date too far away": (
        {"name": "x", "expires_at": "9999-12-31T23:59:59-10:00"},
        "expires_at",
    ),
    "less money than there is": (
        {"name": "x", "budgets": [{"period": "day", "cost_usd": 1e-9}]},
        "budgets.0.cost_usd",
    ),
    "an owner nobody can print": ({"name": "x", "owner": "a\0b"}, "owner"),
    "a workspace nobody can print": ({"name": "x", "workspace_id": "\0"}, "workspace_id"),
    "no UTF-8": (b'{"name": "\xff"}', ""),
    "no JSON": (b"{", ""),
    "no object": (b"[]", ""),
}


@pytest.mark.parametrize(("body", "path"), WRONG.values(), ids=WRONG)
def test_a_wrong_body_names_its_field_and_changes_nothing(run, body: Any, path: str) -> None:
    async def case(admin: Admin) -> None:
        status, answer = await admin.ask("POST", "/admin/v1/keys", body)
        assert (status, answer["error"]["type"]) == (400, "invalid_request_error")
        assert message(answer).startswith(f"{path}: " if path else "")
        assert await admin.store.list_keys(Page()) == []

    run(case)


def test_an_id_is_not_repeated_without_end(run) -> None:
    async def case(admin: Admin) -> None:
        status, answer = await admin.ask("POST", f"/admin/v1/keys/{'x' * 9000}", {"name": "y"})
        assert (status, message(answer)) == (404, f"there is no API key '{'x' * 60}'")
        status, answer = await admin.ask("POST", "/admin/v1/keys", {"y" * 9000: 1})
        assert (status, len(message(answer)) < 200) == (400, True)

    run(case)


@pytest.mark.parametrize(
    ("path", "body", "line"),
    [
        ("/admin/v1/admin-keys", {"name": "x", "role": "boss"}, "role: {} 'read' or 'write'"),
        (
            "/admin/v1/keys",
            {"name": "x", "budgets": [{"period": "week"}]},
            "budgets.0.period: {} 'day' or 'month'",
        ),
    ],
)
def test_an_unknown_word_names_those_that_are(run, path: str, body: Any, line: str) -> None:
    async def case(admin: Admin) -> None:
        status, answer = await admin.ask("POST", path, body)
        assert (status, message(answer)) == (400, line.format("Input should be"))

    run(case)


def test_a_wrong_method_names_all_right_ones(run) -> None:
    async def case(admin: Admin) -> None:
        _, answer = await admin.ask("DELETE", "/admin/v1/keys")
        assert message(answer).endswith("this path takes GET and POST")

    run(case)


def test_lists_have_pages_in_both_directions(run) -> None:
    async def case(admin: Admin) -> None:
        for number in range(5):
            admin.now = NOW + minutes(number)
            await admin.ask("POST", "/admin/v1/keys", {"name": f"k{number}"})

        async def page(query: str) -> tuple[list[str], bool, Any]:
            _, answer = await admin.ask("GET", f"/admin/v1/keys?{query}")
            return [each["name"] for each in answer["data"]], answer["has_more"], answer

        names, has_more, first = await page("limit=2")
        assert (names, has_more) == (["k4", "k3"], True)
        names, has_more, second = await page(f"limit=2&after_id={first['last_id']}")
        assert (names, has_more) == (["k2", "k1"], True)
        names, has_more, third = await page(f"limit=2&after_id={second['last_id']}")
        assert (names, has_more) == (["k0"], False)
        names, has_more, _ = await page(f"limit=2&before_id={third['first_id']}")
        assert (names, has_more) == (["k2", "k1"], True)
        assert (await page("name=k3"))[0] == ["k3"]
        assert (await page("status=revoked"))[0] == []
        assert (await page("workspace_id=default&limit=1"))[0] == ["k4"]

    run(case)


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=x", "limit"),
        ("after_id=apikey_no", "after_id"),
        ("after_id=a&before_id=b", "before_id"),
        ("status=good", "status"),
        ("sort=name", "sort"),
        ("limit[]=3", "limit[]"),
    ],
)
def test_a_wrong_query_names_its_parameter(run, query: str, name: str) -> None:
    async def case(admin: Admin) -> None:
        status, answer = await admin.ask("GET", f"/admin/v1/keys?{query}")
        assert status == 400
        assert message(answer).startswith(f"{name}: ")

    run(case)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/admin/v1/keys/apikey_no", 404),
        ("POST", "/admin/v1/keys/apikey_no/revoke", 404),
        ("GET", "/admin/v1/workspaces/wrkspc_no", 404),
        ("POST", "/admin/v1/workspaces/wrkspc_no/archive", 404),
        ("GET", "/admin/v1/nothing", 404),
        ("DELETE", "/admin/v1/keys", 404),
        ("GET", "/v1/organizations/users", 404),
        ("GET", "/v1/organizations/api_keys/apikey_no", 404),
    ],
)
def test_what_is_not_there(run, method: str, path: str, status: int) -> None:
    async def case(admin: Admin) -> None:
        got, answer = await admin.ask(method, path, b"{}" if method == "POST" else None)
        assert (got, answer["error"]["type"]) == (status, "not_found_error")

    run(case)


def test_workspaces(run) -> None:
    async def case(admin: Admin) -> None:
        asked = {"name": "team", "allowed_models": ["glm-4.7"], "fetch_hosts": ["*.example.com"]}
        status, team = await admin.ask("POST", "/admin/v1/workspaces", asked)
        assert status == 200
        one = f"/admin/v1/workspaces/{team['id']}"
        assert (await admin.ask("POST", one, {"name": "crew"}))[1]["name"] == "crew"
        key = {"name": "ci", "workspace_id": team["id"]}
        assert (await admin.ask("POST", "/admin/v1/keys", key))[0] == 200
        _, listed = await admin.ask("GET", f"/admin/v1/keys?workspace_id={team['id']}")
        assert [each["name"] for each in listed["data"]] == ["ci"]
        _, archived = await admin.ask("POST", f"{one}/archive")
        assert archived["archived_at"] is not None
        _, listed = await admin.ask("GET", f"/admin/v1/keys?workspace_id={team['id']}")
        assert [each["status"] for each in listed["data"]] == ["revoked"]
        status, answer = await admin.ask("POST", one, {"name": "x"})
        assert (status, "archived" in message(answer)) == (400, True)

    run(case)


# -- usage


@pytest.mark.parametrize("name", ["default", "wrkspc_default"])
def test_the_default_workspace_can_be_named(run, name: str) -> None:
    async def case(admin: Admin) -> None:
        status, made = await admin.ask(
            "POST", "/admin/v1/keys", {"name": "ci", "workspace_id": name}
        )
        assert (status, made["workspace_id"]) == (200, None)
        _, listed = await admin.ask("GET", f"/admin/v1/keys?workspace_id={name}")
        assert made["id"] in [key["id"] for key in listed["data"]]
        assert (await admin.ask("GET", f"/admin/v1/usage?workspace_id={name}"))[0] == 200
        line = (
            "workspace: the default one has no settings; it is where keys without a workspace are"
        )
        for path in ("", "/archive"):
            for base in ("/admin/v1", "/v1/organizations"):
                status, answer = await admin.ask("POST", f"{base}/workspaces/{name}{path}", {})
                assert (status, message(answer)) == (400, line)

    run(case)


def test_sums_of_usage(run) -> None:
    async def case(admin: Admin) -> None:
        records = [
            new_record(model="glm-4.7", input_tokens=10, output_tokens=1, cost_micros=5),
            new_record(model="glm-4.7", input_tokens=20, output_tokens=2, status=500),
            new_record(model="deepseek-v3.2", started_at=NOW - minutes(60 * 48), input_tokens=1),
        ]
        await admin.store.add_usage(records)
        admin.now = NOW + minutes(1)
        _, sums = await admin.ask("GET", "/admin/v1/usage?group_by=model")
        assert [(row["group"], row["requests"], row["input_tokens"]) for row in sums["data"]] == [
            ({"model": "glm-4.7"}, 2, 30)
        ]
        _, sums = await admin.ask("GET", "/admin/v1/usage?group_by=served&group_by=upstream")
        assert [set(row["group"]) for row in sums["data"]] == [{"served", "upstream"}]
        _, sums = await admin.ask("GET", "/admin/v1/usage?since=2026-11-01&group_by=model,day")
        assert sums["error"]["message"].startswith("group_by: must be one of")
        _, sums = await admin.ask("GET", "/admin/v1/usage?since=2026-11-01&group_by=model")
        assert (len(sums["data"]), sums["has_more"]) == (2, False)
        _, sums = await admin.ask("GET", "/admin/v1/usage?since=2026-11-01&group_by=model&limit=1")
        assert (len(sums["data"]), sums["has_more"]) == (1, True)
        status, answer = await admin.ask("GET", "/admin/v1/usage?since=2027-01-01")
        assert (status, message(answer)) == (400, "since: must be before until")
        status, answer = await admin.ask("GET", "/admin/v1/usage?since=soon")
        assert (status, message(answer)[:7]) == (400, "since: ")

    run(case)


def test_pages_of_sums_are_about_one_time(run) -> None:
    async def case(admin: Admin) -> None:
        costs = {"a": 1, "b": 5, "c": 3, "d": 5}
        records = [new_record(session_id=name, cost_micros=each) for name, each in costs.items()]
        await admin.store.add_usage(records)
        admin.now = NOW + minutes(1)
        path = "/admin/v1/usage?group_by=session&sort=cost&limit=3"
        _, first = await admin.ask("GET", path)
        assert [row["group"]["session"] for row in first["data"]] == ["b", "d", "c"]
        assert first["has_more"]
        admin.now = NOW + minutes(60 * 48)  # of the last day there is nothing any more
        _, second = await admin.ask("GET", f"{path}&page={first['next_page']}")
        assert [row["group"]["session"] for row in second["data"]] == ["a"]
        assert (second["has_more"], second["next_page"]) == (False, None)
        assert (second["since"], second["until"]) == (first["since"], first["until"])

    run(case)


@pytest.mark.parametrize(
    ("query", "line"),
    [
        ("sort=price", "sort: must be one of group, cost, tokens, requests"),
        ("page=page_eA", "page: is not the next_page of an answer of this list"),
        ("page=page_MCB4IHk", "page: is not the next_page of an answer of this list"),
        ("page=%C3%A4", "page: is not the next_page of an answer of this list"),
    ],
)
def test_what_is_no_page_of_sums_is_refused(run, query: str, line: str) -> None:
    async def case(admin: Admin) -> None:
        status, answer = await admin.ask("GET", f"/admin/v1/usage?{query}")
        assert (status, message(answer)) == (400, line)

    run(case)


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("/admin/v1/usage?key_id=apikey_no", "key_id: there is no key 'apikey_no'"),
        ("/admin/v1/usage?workspace_id=no", "workspace_id: there is no workspace 'no'"),
        ("/admin/v1/keys?workspace_id=no", "workspace_id: there is no workspace 'no'"),
    ],
)
def test_an_id_that_is_not_there_is_no_empty_report(run, path: str, line: str) -> None:
    async def case(admin: Admin) -> None:
        status, answer = await admin.ask("GET", path)
        assert (status, message(answer)) == (400, line)

    run(case)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/admin/v1/usage?until=0001-01-01", "until"),
        ("/admin/v1/usage?since=9999-12-31", "since"),
        ("/v1/organizations/usage_report/messages?starting_at=9999-12-31", "starting_at"),
        ("/v1/organizations/usage_report/claude_code?starting_at=9999-12-31", "starting_at"),
        (
            "/v1/organizations/cost_report?starting_at=2026-11-02&ending_at=2026-11-01",
            "ending_at",
        ),
        ("/admin/v1/usage?model=%00", "model"),
        ("/admin/v1/keys?after_id=%00", "after_id"),
    ],
)
def test_times_and_words_that_cannot_be_meant(run, path: str, name: str) -> None:
    async def case(admin: Admin) -> None:
        status, answer = await admin.ask("GET", path)
        assert (status, message(answer).partition(": ")[0]) == (400, name)

    run(case)


def test_a_page_that_somebody_made_up(run) -> None:
    async def case(admin: Admin) -> None:
        page = base64.urlsafe_b64encode(b"9999-12-31T00:00:00Z").decode().rstrip("=")
        base = "/v1/organizations/usage_report/messages?starting_at=2026-11-01"
        status, answer = await admin.ask("GET", f"{base}&page={page}")
        assert (status, answer["data"]) == (200, [])

    run(case)


def test_no_database_is_asked_for_what_it_cannot_hold(run) -> None:
    async def case(admin: Admin) -> None:
        assert (await admin.ask("GET", "/admin/v1/keys/\0"))[0] == 404

    run(case)


@pytest.mark.parametrize("key_id", ["config:ci", "local"])
def test_keys_that_are_in_no_store_may_be_asked_for(run, key_id: str) -> None:
    async def case(admin: Admin) -> None:
        await admin.store.add_usage([new_record(key_id=key_id), new_record()])
        admin.now = NOW + minutes(1)
        _, sums = await admin.ask("GET", f"/admin/v1/usage?key_id={key_id}")
        assert [row["requests"] for row in sums["data"]] == [1]

    run(case)


def test_the_default_workspace_has_no_limits(run) -> None:
    """Nothing is counted for it: what a report says must be so."""

    async def case(admin: Admin) -> None:
        team = new_workspace()
        await admin.store.add_workspace(team, new_entry())
        base = "/v1/organizations/workspaces"
        _, limits = await admin.ask(
            "GET", f"{base}/wrkspc_default/rate_limits?include_inherited=true"
        )
        assert limits["data"] == []
        _, limits = await admin.ask("GET", f"{base}/{team.id}/rate_limits?include_inherited=true")
        ((limit,),) = [entry["limits"] for entry in limits["data"]]
        assert (limit["value"], limit["source"]["type"]) == (1000, "organization")

    run(case)


# -- the description


def test_the_description_names_every_operation(run) -> None:
    async def case(admin: Admin) -> None:
        status, document = await admin.ask("GET", "/admin/v1/openapi.json", key="read")
        assert (status, document["openapi"]) == (200, "3.1.0")
        described = {
            (method.upper(), path)
            for path, methods in document["paths"].items()
            for method in methods
        }
        served = {(each.method, each.path) for each in admin.api._table.operations}
        assert described == served
        ids = [each["operationId"] for path in document["paths"].values() for each in path.values()]
        assert len(ids) == len(set(ids))
        text = json.dumps(document)
        for name in {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}:
            assert name in document["components"]["schemas"]

    run(case)


def test_the_page_lists_every_operation_with_its_role(run) -> None:
    page = Path(__file__).parents[2] / "docs" / "reference" / "admin-api.md"
    rows = re.findall(r"^\| `(\w+) (\S+)` \| (\w+) \|", page.read_text(), re.MULTILINE)

    async def case(admin: Admin) -> None:
        operations = admin.api._table.operations
        served = {(each.method, each.path, each.role) for each in operations}
        explained = {(method, "/admin/v1/explain", "read") for method in ("GET", "POST")}
        assert set(rows) == served | explained

    run(case)
