"""What the admin API shares with Anthropic's: driven by the real SDK, through a real gateway."""

import datetime as dt
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import pytest

from dragoman.policy.registry import AdminKeyRequest, By, KeyRequest, Registry, WorkspaceRequest
from dragoman.policy.store import Page
from dragoman.settings import Secret
from dragoman.store_urls import StoreUrl, read_store_url
from dragoman.stores.sql import SqlStore
from support.chat_script import say
from support.chat_upstream import ChatUpstream
from support.gateway import GatewayProcess, lab_config
from support.stores import with_store

MODEL = "deepseek-v3.2"
ASK: dict[str, Any] = {
    "model": MODEL,
    "max_tokens": 50,
    "messages": [{"role": "user", "content": "hi"}],
}


class Site:
    """A gateway with a workspace, a client key in it, one without, and an admin key."""

    def __init__(self, folder: Path) -> None:
        url = read_store_url(Secret(f"sqlite:///{folder / 'store.db'}"), folder)
        assert url is not None
        self.url: StoreUrl = url
        with_store(url, self._fill)
        self.gateway: Any = None

    async def _fill(self, store: SqlStore) -> None:
        async def get() -> SqlStore:
            return store

        by = By(actor="cli:ada", now=dt.datetime.now(dt.UTC))
        registry = Registry(get, aliases=list)
        self.team = await registry.create_workspace(WorkspaceRequest(name="team"), by)
        _, self.admin = await registry.create_admin_key(
            AdminKeyRequest(name="ops", role="write"), by
        )
        asked = KeyRequest(name="ci", workspace_id=self.team.id)
        self.key, self.text = await registry.create_key(asked, by)
        self.other, self.other_text = await registry.create_key(KeyRequest(name="dev"), by)

    def sdk(self, key: str) -> anthropic.Anthropic:
        return anthropic.Anthropic(base_url=self.gateway.url, api_key=key, max_retries=0)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("admin")
    site = Site(folder)
    more = f"[store]\nurl = 'sqlite:///{folder / 'store.db'}'\n[admin]\norganization = 'Lab'\n"
    prices = folder / "prices.toml"
    prices.write_text(
        f'[[prices]]\nmodels = ["{MODEL}"]\ninput_per_mtok = 500000\noutput_per_mtok = 1000000\n'
    )
    with ChatUpstream() as upstream:
        upstream.script(say("Hello", times=-1))
        env = {"DRAGOMAN_SERVER_PRICES_FILE": str(prices)}
        config = lab_config(upstream.url, MODEL, more=more)
        with GatewayProcess(folder, config=config, env=env) as site.gateway:
            yield site
        assert site.admin not in site.gateway.log()
        assert site.text not in site.gateway.log()


def test_who_we_are(site: Site) -> None:
    with site.sdk(site.admin) as client:
        told = client.organization.retrieve()
    assert (told.name, told.type) == ("Lab", "organization")
    assert told.id


def test_client_keys_do_not_open_it(site: Site) -> None:
    with site.sdk(site.text) as client, pytest.raises(anthropic.AuthenticationError):
        client.organization.retrieve()


def test_admin_keys_do_not_call_models(site: Site) -> None:
    with site.sdk(site.admin) as client, pytest.raises(anthropic.AuthenticationError):
        client.messages.create(**ASK)


def test_keys_are_listed_and_changed(site: Site) -> None:
    with site.sdk(site.admin) as client:
        keys = {key.name: key for key in client.organization.api_keys.list(limit=1)}
        assert {"ci", "dev"} <= set(keys)
        assert keys["ci"].scope.workspace_id == site.team.id
        assert keys["dev"].scope.workspace_id == "wrkspc_default"
        assert keys["ci"].status == "active"
        assert keys["ci"].partial_key_hint == site.key.hint
        in_team = client.organization.api_keys.list(workspace_id=site.team.id)
        assert [key.name for key in in_team] == ["ci"]
        changed = client.organization.api_keys.update(site.other.id, name="dev2", status="inactive")
        assert (changed.name, changed.status) == ("dev2", "inactive")
        inactive = client.organization.api_keys.list(status="inactive")
        assert [key.id for key in inactive] == [site.other.id]
        client.organization.api_keys.update(site.other.id, status="active")
        assert client.organization.api_keys.retrieve(site.other.id).status == "active"
        with pytest.raises(anthropic.NotFoundError):
            client.organization.api_keys.retrieve("apikey_no")


def test_workspaces_live_and_end(site: Site) -> None:
    with site.sdk(site.admin) as client:
        made = client.organization.workspaces.create(name="short")
        assert (made.name, made.archived_at, made.tags) == ("short", None, {})
        renamed = client.organization.workspaces.update(made.id, name="shorter")
        assert renamed.name == "shorter"
        listed = client.organization.workspaces.list(include_default=True, limit=1)
        assert [each.name for each in listed] == ["shorter", "team", "Default"]
        assert client.organization.workspaces.archive(made.id).archived_at is not None
        names = [each.name for each in client.organization.workspaces.list()]
        assert names == ["team"]
        both = client.organization.workspaces.list(include_archived=True)
        assert [each.name for each in both] == ["shorter", "team"]
        with pytest.raises(anthropic.BadRequestError, match="tags: is not kept"):
            client.organization.workspaces.create(name="x", tags={"a": "b"})
        with pytest.raises(anthropic.BadRequestError, match="name"):
            client.organization.workspaces.create(name="")


def test_limits_are_told(site: Site) -> None:
    with site.sdk(site.admin) as client:
        (entry,) = client.organization.rate_limits.list()
        assert (entry.models, entry.group.type) == ([MODEL], "model_group")
        assert entry.limits == []
        assert list(client.organization.workspaces.rate_limits.list(site.team.id)) == []
        with pytest.raises(anthropic.NotFoundError):
            client.organization.rate_limits.list(model="gpt-9")


def reported(site: Site, path: str) -> Any:
    headers = {"x-api-key": site.admin}
    answer = site.gateway.request("GET", path, headers=headers)
    assert answer.status == 200, answer.body
    return answer.json()


def test_usage_and_cost_are_reported(site: Site) -> None:
    began = dt.datetime.now(dt.UTC)
    with site.sdk(site.text) as client:
        usage = client.messages.create(**ASK).usage
        client.messages.create(**ASK, extra_headers={"user-agent": "claude-cli/2.1.330 (x)"})
    day, tomorrow = began.strftime("%Y-%m-%d"), began + dt.timedelta(days=1)
    base = "/v1/organizations/usage_report/messages"
    query = f"starting_at={day}T00:00:00Z&group_by[]=api_key_id&group_by[]=model"
    rows: list[Any] = []
    deadline_s = time.monotonic() + 20
    while sum(row["output_tokens"] for row in rows) < 2 * usage.output_tokens:
        assert time.monotonic() < deadline_s, rows
        time.sleep(0.1)
        report = reported(site, f"{base}?{query}&ending_at={tomorrow:%Y-%m-%d}")
        rows = [row for bucket in report["data"] for row in bucket["results"]]
    assert report["has_more"] is False
    assert report["data"][0]["starting_at"] == f"{day}T00:00:00Z"
    assert [(row["api_key_id"], row["model"], row["workspace_id"]) for row in rows] == [
        (site.key.id, MODEL, None)
    ]
    assert rows[0]["uncached_input_tokens"] == 2 * usage.input_tokens

    hours = reported(site, f"{base}?starting_at={day}T00:00:00Z&bucket_width=1h&limit=1")
    assert len(hours["data"]) == 1
    if hours["has_more"]:
        following = reported(
            site,
            f"{base}?starting_at={day}T00:00:00Z&bucket_width=1h&limit=1&page={hours['next_page']}",
        )
        assert following["data"][0]["starting_at"] == f"{day}T01:00:00Z"

    costs = reported(
        site, f"/v1/organizations/cost_report?starting_at={day}T00:00:00Z&group_by[]=description"
    )
    (cost,) = costs["data"][0]["results"]
    dollars = 2 * (usage.input_tokens * 0.5 + usage.output_tokens)
    assert (cost["currency"], float(cost["amount"]), cost["model"]) == ("USD", dollars * 100, MODEL)

    code = reported(site, f"/v1/organizations/usage_report/claude_code?starting_at={day}")
    (entry,) = code["data"]
    assert entry["actor"] == {"type": "api_actor", "api_key_name": "ci"}
    assert entry["date"] == f"{day}T00:00:00Z"
    assert entry["model_breakdown"][0]["tokens"]["output"] == usage.output_tokens


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("usage_report/messages", "starting_at: Field required"),
        ("usage_report/messages?starting_at=then", "starting_at: must be a time"),
        ("usage_report/messages?starting_at=2026-11-01&bucket_width=2d", "bucket_width: must be"),
        ("usage_report/messages?starting_at=2026-11-01&group_by[]=color", "group_by: must be"),
        ("usage_report/messages?starting_at=2026-11-01&limit=32", "limit: must be"),
        ("usage_report/messages?starting_at=2026-11-01&page=page_x", "page: is not"),
        ("cost_report?starting_at=2026-11-01&bucket_width=1h", "bucket_width: must be"),
        ("usage_report/claude_code", "starting_at: Field required"),
    ],
)
def test_a_wrong_report_names_its_parameter(site: Site, path: str, said: str) -> None:
    headers = {"x-api-key": site.admin}
    answer = site.gateway.request("GET", f"/v1/organizations/{path}", headers=headers)
    assert answer.status == 400
    assert answer.json()["error"]["message"].startswith(said)


def test_every_change_is_in_the_audit(site: Site) -> None:
    async def entries(store: SqlStore) -> set[str]:
        return {entry.action for entry in await store.list_audit(Page(limit=1000))}

    assert {"workspace.create", "key.create", "admin_key.create"} <= with_store(site.url, entries)
