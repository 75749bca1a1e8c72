"""`dragoman keys`, `workspaces`, `admin-keys`, `audit`: what they do, and what they refuse."""

import asyncio
import datetime as dt
import json
import re
from pathlib import Path
from typing import Any

import pytest

from dragoman import cli, store_command
from dragoman.policy.access import VirtualKey, Workspace
from dragoman.policy.key_texts import digest_of
from dragoman.policy.store import Page
from dragoman.settings import StoreConfig
from dragoman.store_command import parse_expiry, parse_span
from dragoman.store_urls import StoreUrl
from dragoman.stores.sql import open_sql_store

CONFIG = """
[server]
data_dir = "data"
host = "0.0.0.0"
local_engines = false
[upstreams.lab]
base_url = "http://127.0.0.1:9/v1"
api_key = "env:NOT_SET"
[models."deepseek-v3.1"]
upstream = "lab"
[models."glm-4.7"]
upstream = "lab"
"""
NOW = dt.datetime(2026, 11, 25, tzinfo=dt.UTC)


class Shell:
    """The command line in a folder with a configuration file."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def run(self, *args: str) -> tuple[int, str, str]:
        code = cli.run(args)
        captured = self._capsys.readouterr()
        return code, captured.out, captured.err

    def ok(self, *args: str) -> str:
        code, out, err = self.run(*args)
        assert (code, err) == (0, "")
        return out

    def json(self, *args: str) -> Any:
        return json.loads(self.ok(*args, "--json"))

    def fails(self, *args: str) -> str:
        """Return the one line that says what is wrong; nothing may have changed."""
        before = entries()
        code, out, err = self.run(*args)
        assert (code, out) == (2, "")
        assert err.startswith("dragoman: ")
        assert err.count("\n") == 1
        assert entries() == before
        return err


@pytest.fixture
def shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Shell:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "own"))
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.delenv("DRAGOMAN_CONFIG", raising=False)
    (tmp_path / "dragoman.toml").write_text(CONFIG)
    stored(lambda store: store.list_audit(Page()))  # which makes it
    return Shell(capsys)


def stored(case: Any) -> Any:
    async def main() -> Any:
        store = await open_sql_store(StoreUrl(path=Path("data/dragoman.db")), StoreConfig())
        try:
            return await case(store)
        finally:
            await store.close()

    return asyncio.run(main())


def entries() -> list[str]:
    found = stored(lambda store: store.list_audit(Page(limit=100)))
    return [entry.action for entry in found]


def keys() -> list[VirtualKey]:
    found: list[VirtualKey] = stored(lambda store: store.list_keys(Page(limit=100)))
    return found


def workspaces() -> list[Workspace]:
    found: list[Workspace] = stored(lambda store: store.list_workspaces(Page(limit=100)))
    return found


# -- keys


def test_a_key_is_shown_once(shell: Shell) -> None:
    shell.ok("workspaces", "create", "research")
    options = ("--owner", "ada@x", "--workspace", "research", "--expires", "90d", "-m", "deep*")
    limits = ("--requests-per-minute", "60", "--concurrent", "0")
    budgets = ("--usd-per-day", "1.5", "--tokens-per-month", "1000", "--warn-at", "50")
    out = shell.ok("keys", "create", "ci", *options, *limits, *budgets)
    (text,) = re.findall(r"^sk-dgm-[\w-]{43}$", out, re.MULTILINE)
    (key,) = keys()
    assert key.digest == digest_of(text.encode())
    assert (key.name, key.owner, key.workspace_id) == ("ci", "ada@x", workspaces()[0].id)
    assert key.expires_at is not None
    assert dt.timedelta(days=89.9) < key.expires_at - key.created_at < dt.timedelta(days=90.1)
    assert (key.limits.requests_per_minute, key.limits.concurrent) == (60, 0)
    shown = [(b.period, b.cost_micros, b.tokens, b.warn_at_pct) for b in key.budgets]
    assert shown == [("day", 1_500_000, None, 50), ("month", None, 1000, 50)]
    assert key.created_by.startswith("cli:")
    files = b"".join(path.read_bytes() for path in Path("data").iterdir())
    assert text.encode() not in files
    for command in (["keys", "list"], ["keys", "show", "ci"], ["audit"]):
        for more in ([], ["--json"]):
            assert text not in shell.ok(*command, *more)


def test_json_of_a_new_key_holds_it(shell: Shell) -> None:
    made = shell.json("keys", "create", "ci")
    assert made["key"].startswith("sk-dgm-")
    assert made["hint"] == f"sk-dgm-{made['key'][7:11]}...{made['key'][-4:]}"
    shown = shell.json("keys", "show", made["id"])
    assert shown == {name: value for name, value in made.items() if name != "key"}
    assert shown["status"] == "active"
    assert "digest" not in shown
    assert shell.json("keys", "list") == [shown]


def test_a_table_of_keys(shell: Shell) -> None:
    assert "no key; make one: dragoman keys create NAME" in shell.ok("keys", "list")
    shell.ok("workspaces", "create", "research")
    shell.ok("keys", "create", "ci", "--workspace", "research", "--owner", "ada")
    shell.ok("keys", "create", "old", "--expires", "2999-01-01")
    head, *rows = shell.ok("keys", "list").splitlines()
    assert head.split()[:4] == ["NAME", "STATUS", "KEY", "OWNER"]
    assert [row.split()[0] for row in rows] == ["old", "ci"]
    assert " research " in rows[1]
    assert " default " in rows[0]
    assert "2999-01-01 00:00Z" in rows[0]
    for flags, names in [
        (("--workspace", "research"), ["ci"]),
        (("--workspace", "default"), ["old"]),
        (("--status", "revoked"), []),
        (("--status", "active"), ["old", "ci"]),
    ]:
        assert [key["name"] for key in shell.json("keys", "list", *flags)] == names


def test_lists_can_be_gone_on_with(shell: Shell) -> None:
    made = [
        (shell.json("keys", "create", name)["id"], shell.json("workspaces", "create", name)["id"])
        for name in ("first", "second")
    ]
    admins = [shell.json("admin-keys", "create", n, "--role", "read")["id"] for n in ("a", "b")]
    (first_key, first_team), (second_key, second_team) = made
    for group, newer, older in [
        ("keys", second_key, first_key),
        ("workspaces", second_team, first_team),
        ("admin-keys", admins[1], admins[0]),
    ]:
        listed = shell.json(group, "list", "--after", newer)
        assert [each["id"] for each in listed] == [older]


def test_where_a_new_store_was_made_is_said(shell: Shell, tmp_path: Path) -> None:
    shell.ok("keys", "list")
    (tmp_path / "dragoman.toml").write_text(CONFIG.replace('"data"', '"elsewhere"'))
    code, out, err = shell.run("keys", "create", "ci", "--json")
    assert (code, json.loads(out)["name"]) == (0, "ci")
    assert err == "dragoman: made a new store: sqlite elsewhere/dragoman.db\n"
    shell.ok("keys", "list")


def test_a_list_that_is_cut_says_so(shell: Shell) -> None:
    for name in ("first", "second"):
        for group in ("keys", "workspaces"):
            shell.ok(group, "create", name)
        shell.ok("admin-keys", "create", name, "--role", "read")
    for command in (("keys", "list"), ("workspaces", "list"), ("admin-keys", "list"), ("audit",)):
        code, out, err = shell.run(*command, "--limit", "1", "--json")
        (only,) = json.loads(out)
        assert (code, err) == (
            0,
            f"dragoman: there are more; go on with --after {only['id']}, or see --limit\n",
        )
        assert shell.run(*command, "--limit", "1")[2] == err
        shell.ok(*command, "--limit", "6")  # all of them: nothing is said


def test_all_keys_of_a_workspace_are_counted(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_command, "_PAGE", 2)
    shell.ok("workspaces", "create", "research")
    for name in "abcde":
        shell.ok("keys", "create", name, "--workspace", "research")
    shell.ok("keys", "revoke", "c")
    assert "good keys    4" in shell.ok("workspaces", "show", "research")


def test_the_default_workspace_can_be_named(shell: Shell) -> None:
    for name in ("default", "wrkspc_default"):
        made = shell.json("keys", "create", "ci", "--workspace", name)
        assert made["workspace_id"] is None
        assert made["id"] in shell.ok("keys", "list", "--workspace", name)
        for command in (("show",), ("archive",), ("change", "--concurrent", "1")):
            line = shell.fails("workspaces", command[0], name, *command[1:])
            assert "the default workspace has no settings" in line


def test_what_can_become_of_a_key(shell: Shell) -> None:
    shell.ok("keys", "create", "ci")
    for action, status in [
        ("disable", "disabled"),
        ("disable", "disabled"),
        ("enable", "active"),
        ("revoke", "revoked"),
        ("revoke", "revoked"),
    ]:
        assert f"status       {status}" in shell.ok("keys", action, "ci")
    for action in ("enable", "disable"):
        assert "is revoked, which is for ever" in shell.fails("keys", action, "ci")
    assert "is revoked" in shell.fails("keys", "change", "ci", "--name", "x")
    assert "only a key that is good" in shell.fails("keys", "rotate", "ci")


def test_a_key_is_rotated_with_an_overlap(shell: Shell) -> None:
    shell.ok("keys", "create", "ci", "--model", "glm-*", "--requests-per-minute", "5")
    made = shell.json("keys", "rotate", "ci", "--overlap", "2h")
    new, old = sorted(keys(), key=lambda key: key.created_at, reverse=True)
    assert (new.id, old.replaced_by) == (made["id"], made["id"])
    assert (new.allowed_models, new.limits) == (old.allowed_models, old.limits)
    assert new.digest == digest_of(made["key"].encode()) != old.digest
    assert old.expires_at is not None
    assert old.expires_at - new.created_at == dt.timedelta(hours=2)
    # The name now means the new one; the old one still has its id.
    assert shell.json("keys", "show", "ci")["id"] == new.id
    assert shell.json("keys", "show", old.id)["id"] == old.id
    assert "was rotated already" in shell.fails("keys", "rotate", old.id)


def test_a_rotation_without_overlap_ends_the_old_key(shell: Shell) -> None:
    shell.ok("keys", "create", "ci")
    shell.ok("keys", "rotate", "ci", "--overlap", "0")
    assert [key["status"] for key in shell.json("keys", "list")] == ["active", "expired"]


def test_a_change_leaves_what_it_does_not_name(shell: Shell) -> None:
    limits = ("--requests-per-minute", "5", "--concurrent", "2")
    shell.ok("keys", "create", "ci", *limits, "--usd-per-day", "1", "--usd-per-month", "9")

    def state() -> Any:
        (key,) = keys()
        budgets = {b.period: (b.cost_micros, b.tokens) for b in key.budgets}
        return key.limits.requests_per_minute, key.limits.concurrent, budgets

    shell.ok("keys", "change", "ci", "--concurrent", "3", "--tokens-per-day", "7")
    assert state() == (5, 3, {"month": (9_000_000, None), "day": (None, 7)})
    shell.ok("keys", "change", "ci", "--no-limits", "--requests-per-minute", "1")
    assert state()[:2] == (1, None)
    shell.ok("keys", "change", "ci", "--no-budgets", "--name", "cd", "--owner", "bob")
    assert state() == (1, None, {})
    shell.ok("keys", "change", "cd", "--expires", "1d", "--model", "glm-*", "--model", "deep*")
    (key,) = keys()
    assert (key.name, key.owner, key.allowed_models) == ("cd", "bob", ("glm-*", "deep*"))
    assert key.expires_at is not None
    shell.ok("keys", "change", "cd", "--expires", "never")
    assert keys()[0].expires_at is None


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (("create", "x", "--model", "gpt-*"), "--model: 'gpt-*' fits no model"),
        (("create", "x", "--workspace", "no"), "there is no workspace 'no'"),
        (("create", "x", "--expires", "soon"), "--expires soon: is no time; use 2026-12-31"),
        (("create", "x", "--expires", "2020-01-01"), "--expires: must be in the future"),
        (
            ("create", "x", "--concurrent", "-1"),
            "'--concurrent': -1 is not from 0 to 9007199254740992",
        ),
        (("create", "x", "--usd-per-day", "-1"), "'--usd-per-day'"),
        (("create", "x", "--warn-at", "50"), "--warn-at 50: of which budget? give it, too"),
        (("change", "ci", "--warn-at", "80"), "--warn-at 80: of which budget? give it, too"),
        (("create", "x", "--tokens-per-day", "1e99"), "'--tokens-per-day'"),
        (("create", "x" * 101), "name: String should have at most 100 characters"),
        (("create", " x"), "name: must be printable characters without spaces"),
        (
            ("create", "x", "--owner", "o" * 201),
            "--owner: String should have at most 200 characters",
        ),
        (("create", "x", "--model", ""), "--model: String should have at least 1 character"),
        (
            ("create", "x", "--usd-per-day", "1e-9"),
            "cost_usd: is less than a millionth of a dollar",
        ),
        (("list", "--config", ""), "'.' is no file; give one, or leave --config out"),
        (("show", "no"), "there is no key 'no'; see dragoman keys list"),
        (("show", "no" * 5000), "nono'; see dragoman keys list"),
        (("show", "apikey_no"), "there is no key 'apikey_no'"),
        (("show", "\udcff"), "'\\udcff': is no text in UTF-8"),
        (("revoke", "no"), "there is no key 'no'"),
        (("change", "ci"), "nothing to change: give a flag"),
        (("change", "ci", "--model", "gpt-*"), "fits no model"),
        (("change", "ci", "--expires", "2020-01-01"), "--expires: must be in the future"),
        (("rotate", "ci", "--overlap", "long"), "--overlap long: use 7d, 24h, 30m"),
        (("rotate", "ci", "--overlap", "91d"), "overlap: must be from 0 to 90 days"),
        (("list", "--status", "lost"), "'--status': 'lost' is not one of 'active'"),
        (("list", "--limit", "0"), "'--limit'"),
        (("list", "--after", "apikey_no"), "--after: is not the id of an entry of this list"),
    ],
)
def test_bad_input_is_one_line_and_changes_nothing(
    shell: Shell, args: tuple[str, ...], line: str
) -> None:
    shell.ok("keys", "create", "ci")
    assert line in shell.fails("keys", *args)


def test_whoever_revokes_a_key_is_told_of_the_one_before_it(shell: Shell) -> None:
    old = shell.json("keys", "create", "ci")
    shell.ok("keys", "rotate", "ci", "--overlap", "2h")
    for action in ("disable", "revoke"):
        code, _, errors = shell.run("keys", action, "ci")
        assert code == 0
        assert errors.startswith(f"dragoman: {old['id']}, which it was rotated from, is good until")
    shell.ok("keys", "revoke", "ci")  # now the name means that one
    assert {key.status(dt.datetime.now(dt.UTC)) for key in keys()} == {"revoked"}


def test_a_name_means_the_key_that_is_good(shell: Shell) -> None:
    made = [shell.json("keys", "create", "ci")["id"]]
    for _ in range(2):
        made.append(shell.json("keys", "rotate", "ci", "--overlap", "1h")["id"])
    code, _, _ = shell.run("keys", "revoke", "ci")
    assert code == 0
    shell.ok("keys", "revoke", made[0])
    assert shell.json("keys", "show", "ci")["id"] == made[1]


def test_a_name_that_several_keys_have(shell: Shell) -> None:
    shell.ok("keys", "create", "ci")
    shell.ok("keys", "create", "ci")
    ids = {key.id for key in keys()}
    line = shell.fails("keys", "revoke", "ci")
    assert "several keys are called 'ci'; give an id: " in line
    assert all(key_id in line for key_id in ids)
    shell.ok("keys", "revoke", ids.pop())
    shell.ok("keys", "show", "ci")  # one of them is good


def test_patterns_need_models_to_fit(shell: Shell) -> None:
    Path("dragoman.toml").write_text('[server]\ndata_dir = "data"\nlocal_engines = false\n')
    line = shell.fails("keys", "create", "x", "--model", "deep*")
    assert "--model deep*: no model is configured here" in line


# -- workspaces, admin keys, audit


def test_workspaces(shell: Shell) -> None:
    assert "no workspace" in shell.ok("workspaces", "list")
    made = shell.json(
        *("workspaces", "create", "research", "--model", "glm-*", "--fetch-host", "*.example.com"),
        *("--requests-per-minute", "10", "--usd-per-month", "500"),
    )
    assert made["id"].startswith("wrkspc_")
    shell.ok("keys", "create", "ci", "--workspace", "research")
    shown = shell.ok("workspaces", "show", "research")
    assert "good keys    1" in shown
    assert "$500.00 a month" in shown
    assert "there is a workspace 'research' already" in shell.fails(
        "workspaces", "create", "research"
    )
    changed = shell.json("workspaces", "change", made["id"], "--name", "lab", "--concurrent", "3")
    assert (changed["name"], changed["limits"]) == (
        "lab",
        {"requests_per_minute": 10, "concurrent": 3},
    )
    assert changed["fetch_hosts"] == ["*.example.com"]
    assert "archived" in shell.ok("workspaces", "archive", "lab")
    assert "is archived" in shell.fails("workspaces", "change", "lab", "--name", "x")
    assert "the workspace is archived" in shell.fails("keys", "create", "x", "--workspace", "lab")
    assert "lab" in shell.ok("workspaces", "list")
    assert "good keys    0" in shell.ok("workspaces", "show", "lab")
    assert "revoked" in shell.ok("keys", "list", "--workspace", "lab")


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (("show", "no"), "there is no workspace 'no'; see dragoman workspaces list"),
        (("change", "research"), "nothing to change"),
        (("change", "research", "--model", "gpt-*"), "fits no model"),
        (("create", "x", "--concurrent", "-1"), "'--concurrent'"),
        (("create", ""), "name: String should have at least 1 character"),
        (("create", "Default"), "name: 'default' is where keys without a workspace are"),
        (("change", "research", "--name", "default"), "name: 'default' is where"),
        (("archive", "no"), "there is no workspace 'no'"),
    ],
)
def test_workspaces_refuse_bad_input(shell: Shell, args: tuple[str, ...], line: str) -> None:
    shell.ok("workspaces", "create", "research")
    assert line in shell.fails("workspaces", *args)


def test_admin_keys(shell: Shell) -> None:
    assert "no admin key" in shell.ok("admin-keys", "list")
    out = shell.ok("admin-keys", "create", "terraform", "--role", "write")
    (text,) = re.findall(r"^sk-dgm-admin-[\w-]{43}$", out, re.MULTILINE)
    found = stored(lambda store: store.admin_key_by_digest(digest_of(text.encode())))
    assert (found.name, found.role) == ("terraform", "write")
    made = shell.json("admin-keys", "create", "board", "--role", "read", "--expires", "1d")
    assert made["key"].startswith("sk-dgm-admin-")
    listed = shell.json("admin-keys", "list")
    assert [key["role"] for key in listed] == ["read", "write"]
    assert "digest" not in listed[0]
    assert shell.json("admin-keys", "revoke", "terraform")["status"] == "revoked"
    assert " revoked " in shell.ok("admin-keys", "list")
    assert "there is no admin key 'no'" in shell.fails("admin-keys", "revoke", "no")
    assert "'--role'" in shell.fails("admin-keys", "create", "x", "--role", "owner")
    assert "--role" in shell.fails("admin-keys", "create", "x")


def test_everything_is_written_down(shell: Shell) -> None:
    assert "nothing was ever done" in shell.ok("audit")
    shell.ok("workspaces", "create", "research")
    shell.ok("keys", "create", "ci", "--owner", "ada")
    shell.ok("keys", "revoke", "ci")
    shell.ok("keys", "list")
    listed = shell.json("audit")
    assert [entry["action"] for entry in listed] == ["key.revoke", "key.create", "workspace.create"]
    assert all(entry["actor"].startswith("cli:") for entry in listed)
    assert listed[1]["details"]["owner"] == "ada"
    older = shell.json("audit", "--limit", "1", "--after", listed[1]["id"])
    assert older == [listed[2]]
    assert "--after: is not the id" in shell.fails("audit", "--after", "audit_no")
    head, first, *_ = shell.ok("audit").splitlines()
    assert head.split() == ["TIME", "WHO", "ACTION", "SUBJECT", "DETAILS"]
    assert "key.revoke" in first
    shell.ok("keys", "create", "two", "--concurrent", "4", "--model", "glm-*")
    line = shell.ok("audit").splitlines()[1]
    assert 'allowed_models=["glm-*"] limits={"concurrent":4}' in line
    shell.ok("keys", "change", "two", "--no-limits", "--owner", "")
    line = shell.ok("audit").splitlines()[1]
    assert line.endswith("owner= limits={}"), "what was taken away is a change"


def test_what_was_typed_is_not_repeated_without_end(shell: Shell) -> None:
    assert len(shell.fails("workspaces", "show", "no" * 5000)) < 1100


def test_without_a_store(shell: Shell) -> None:
    Path("dragoman.toml").write_text('[store]\nurl = "none"\n')
    code, _, err = shell.run("keys", "list")
    assert (code, "this gateway keeps nothing" in err) == (2, True)


def test_a_configuration_that_does_not_say_where_the_store_is(shell: Shell) -> None:
    Path("dragoman.toml").write_text('[storr]\nurl = "sqlite:///a.db"\n')
    before = sorted(Path().rglob("*"))
    code, _, err = shell.run("keys", "list")
    assert (code, 'did you mean "store"?' in err) == (2, True)
    assert sorted(Path().rglob("*")) == before


def test_a_store_that_cannot_be_used(shell: Shell) -> None:
    Path("data/dragoman.db").write_bytes(b"no database" * 1000)
    for command in (["keys", "list"], ["keys", "create", "x"], ["db", "status"], ["db", "upgrade"]):
        code, out, err = shell.run(*command)
        assert (code, out) == (3, "")
        assert "the store (sqlite data/dragoman.db) cannot be used: " in err
        assert "not a database" in err


def test_a_group_by_itself_shows_its_help(shell: Shell) -> None:
    code, out, _ = shell.run("keys")
    assert (code, "rotate" in out) == (2, True)


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("never", None),
        ("2026-12-31", dt.datetime(2026, 12, 31, tzinfo=dt.UTC)),
        ("2026-12-31T18:00+02:00", dt.datetime(2026, 12, 31, 16, tzinfo=dt.UTC)),
        ("90d", NOW + dt.timedelta(days=90)),
        ("12H", NOW + dt.timedelta(hours=12)),
    ],
)
def test_times_as_people_write_them(text: str, at: dt.datetime | None) -> None:
    assert parse_expiry(text, NOW) == at


def test_spans_as_people_write_them() -> None:
    assert [parse_span(text) for text in ("0", "30m", "24h", "7d")] == [
        dt.timedelta(minutes=minutes) for minutes in (0, 30, 24 * 60, 7 * 24 * 60)
    ]


def test_a_user_without_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> str:
        raise KeyError("uid not found")

    monkeypatch.setattr(store_command.getpass, "getuser", nobody)
    assert store_command._user({}) == "somebody"
    assert store_command._user({"USER": "ada"}) == "ada"
