"""`dragoman usage`: what it asks the store for, what it prints, and what it says of mistakes."""

import csv
import datetime as dt
import io
import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from dragoman import cli_usage
from dragoman.cli import run
from dragoman.exit_codes import CANNOT_START, OK, USAGE
from dragoman.store_urls import StoreUrl
from dragoman.stores.sql import SqlStore
from dragoman.stores.usage_spool import spool_folder
from dragoman.usage_command import print_usage
from support.command import run_command
from support.gateway import program_environment
from support.stores import new_entry, new_key, new_record, new_workspace, with_store

NOW = dt.datetime(2026, 11, 25, 14, 30, tzinfo=dt.UTC)
TODAY = NOW.replace(hour=0, minute=0, second=0)
DAY = dt.timedelta(days=1)
TEAM = new_workspace(id="wrkspc_research", name="research")
ADA = new_key(id="apikey_ada", name="ada", workspace_id=TEAM.id)
BOB = new_key(id="apikey_bob", name="bob")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a configuration and a store with records of two days."""
    (tmp_path / "dragoman.toml").write_text(
        '[server]\ndata_dir = "data"\n'
        '[upstreams.lab]\nbase_url = "http://127.0.0.1:9/v1"\n[models.m]\nupstream = "lab"\n'
    )
    for name in program_environment(tmp_path / "home"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(cli_usage, "print_usage", partial(print_usage, now=NOW))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def full(site: Path) -> Path:
    async def fill(store: SqlStore) -> None:
        await store.add_workspace(TEAM, new_entry())
        await store.add_key(ADA, new_entry())
        await store.add_key(BOB, new_entry())
        await store.add_usage(
            [
                new_record(
                    started_at=TODAY - DAY,
                    key_id=ADA.id,
                    workspace_id=TEAM.id,
                    session_id="s1",
                    model="sonnet",
                    upstream_model="real-m",
                    input_tokens=1000,
                    cache_read_input_tokens=5000,
                    cache_creation_input_tokens=200,
                    output_tokens=30,
                    cost_micros=1_234_500,
                    status=200,
                ),
                new_record(
                    started_at=TODAY,
                    key_id=BOB.id,
                    session_id="=s2",
                    model="m",
                    input_tokens=7,
                    status=502,
                    error_type="api_error",
                ),
                new_record(started_at=TODAY, key_id="local", model="m", status=200, cost_micros=10),
                new_record(started_at=TODAY - 40 * DAY, key_id=ADA.id, status=200),
            ]
        )

    with_store(StoreUrl(path=site / "data" / "dragoman.db"), fill)
    return site


def output(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    code = run(["usage", *args])
    captured = capsys.readouterr()
    assert (code, captured.err) == (OK, "")
    return captured.out


def cells(text: str) -> list[list[str]]:
    """The cells of a printed table, below the line with the times."""
    return [re.split(r" {2,}", line) for line in text.splitlines()[1:]]


def test_a_table_by_model(full: Path, capsys) -> None:
    text = output(capsys)
    first, header, m, sonnet, total, note = text.splitlines()
    assert first.startswith(f"{NOW - 30 * DAY:%Y-%m-%d} ")
    assert first.endswith(" UTC")
    assert " ".join(header.split()) == "MODEL REQUESTS ERRORS INPUT CACHE READ OUTPUT COST"
    assert m.split() == ["m", "2", "1", "7", "0", "0", "$0.0000+"]
    assert sonnet.split() == ["sonnet", "1", "0", "1,200", "5,000", "30", "$1.2345"]
    assert total.split() == ["all", "3", "1", "1,207", "5,000", "30", "$1.2345+"]
    assert note == "+: and what one request cost whose model has no price"
    for word in ("REQUESTS", "INPUT", "CACHE READ", "OUTPUT"):
        end = header.index(word) + len(word)
        assert all(line[end - 1].isdigit() and line[end] == " " for line in (m, sonnet, total))
    assert m.index("$0.0000") == sonnet.index("$1.2345") == total.index("$1.2345")


def test_keys_and_workspaces_by_name(full: Path, capsys) -> None:
    rows = cells(output(capsys, "--by", "workspace,key"))
    assert [row[:2] for row in rows[1:-2]] == [
        ["default", "bob (apikey_bob)"],
        ["default", "local"],
        ["research (wrkspc_research)", "ada (apikey_ada)"],
    ]


@pytest.mark.parametrize(
    ("args", "requests"),
    [
        ((), 3),
        (("--since", "today"), 2),
        (("--since", f"{TODAY - DAY:%Y-%m-%d}", "--until", f"{TODAY:%Y-%m-%d}"), 1),
        (("--since", "60d"), 4),
        (("--key", "ada"), 1),
        (("--key", "apikey_ada", "--key", "bob"), 2),
        (("--key", "local"), 1),
        (("--key", "config:nobody"), 0),
        (("--workspace", "research"), 1),
        (("--workspace", "wrkspc_research", "--workspace", "default"), 3),
        (("--model", "m"), 2),
        (("-m", "unknown"), 0),
    ],
)
def test_what_is_counted(full: Path, capsys, args: tuple[str, ...], requests: int) -> None:
    found = json.loads(output(capsys, *args, "--json"))
    assert sum(row["requests"] for row in found["rows"]) == requests
    assert found["is_complete"] is True


def test_json(full: Path, capsys) -> None:
    found = json.loads(output(capsys, "--by", "key", "--by", "day", "--key", "ada", "--json"))
    assert found["names"] == {"apikey_ada": "ada"}
    (row,) = found["rows"]
    assert row == {
        "group": {"key": "apikey_ada", "day": f"{TODAY - DAY:%Y-%m-%d}"},
        "requests": 1,
        "errors": 0,
        "input_tokens": 1000,
        "cache_read_input_tokens": 5000,
        "cache_creation_input_tokens": 200,
        "output_tokens": 30,
        "reasoning_tokens": 0,
        "cost_micros": 1_234_500,
        "unpriced": 0,
    }


def test_csv(full: Path, capsys) -> None:
    text = output(capsys, "--by", "key,session", "--csv")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [(row["key"], row["key_name"], row["session"]) for row in rows] == [
        ("apikey_ada", "ada", "s1"),
        ("apikey_bob", "bob", "'=s2"),  # else a spreadsheet runs it
        ("local", "", ""),
    ]
    assert rows[0]["cost_micros"] == "1234500"


def test_rows_beyond_the_limit_are_told_of(full: Path, capsys) -> None:
    assert run(["usage", "--limit", "1", "--json"]) == OK
    captured = capsys.readouterr()
    assert json.loads(captured.out)["is_complete"] is False
    assert captured.err == "dragoman: only the first 1 rows; see --limit and --sort\n"


def test_the_dearest_come_first(full: Path, capsys) -> None:
    args = ["usage", "--by", "session", "--sort", "cost", "--limit", "1"]
    assert run([*args, "--json"]) == OK
    captured = capsys.readouterr()
    assert [row["group"] for row in json.loads(captured.out)["rows"]] == [{"session": "s1"}]
    assert captured.err == "dragoman: only the first 1 rows; see --limit\n"
    rows = cells(output(capsys, "--by", "session", "--sort", "requests"))
    assert [row[0] for row in rows[1:4]] == ["-", "=s2", "s1"]


def test_what_waits_in_the_spool_is_told_of(full: Path, capsys) -> None:
    store = StoreUrl(path=full / "data" / "dragoman.db")
    folder = spool_folder(full / "data", store) / "1-abc"
    folder.mkdir(parents=True)
    (folder / "00000001.usage").write_bytes(b"x" * 1234)
    assert run(["usage"]) == OK
    assert capsys.readouterr().err == (
        "dragoman: 1,234 bytes of records wait for the store and are not counted yet\n"
    )


def test_an_empty_store_is_not_made(site: Path, capsys) -> None:
    said = "dragoman: there is no store yet: sqlite data/dragoman.db\n"
    assert run(["usage"]) == OK
    captured = capsys.readouterr()
    assert captured.out.splitlines()[1] == "no requests"
    assert captured.err == said
    assert run(["usage", "--json"]) == OK
    captured = capsys.readouterr()
    assert json.loads(captured.out)["rows"] == []
    assert captured.err == said
    assert not (site / "data").exists()


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (("--since", "2026-13-01"), "--since: '2026-13-01' is no time; use 2026-11-25, "),
        (("--until", "soon"), "--until: 'soon' is no time; use "),
        (("--since", "today", "--until", "yesterday"), "--since "),
        (("--by", "models"), "--by: unknown 'models'; use key, workspace, model, "),
        (("--by", "key,"), "--by: unknown ''; use "),
        (("--key", "nobody"), "--key: there is no API key 'nobody'; see dragoman keys list"),
        (("--key", "apikey_x"), "--key: there is no API key 'apikey_x'"),
        (("--workspace", "x"), "--workspace: there is no workspace 'x'; see dragoman workspaces"),
        (("--csv", "--json"), "--csv and --json exclude each other"),
        (("--limit", "0"), "Invalid value for '--limit'"),
        (("--sort", "price"), "Invalid value for '--sort'"),
    ],
)
def test_mistakes(full: Path, capsys, args: tuple[str, ...], line: str) -> None:
    assert run(["usage", *args]) == USAGE
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"dragoman: {line}")
    assert captured.err.count("\n") == 1


def test_no_store_at_all(site: Path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("DRAGOMAN_STORE_URL", "none")
    assert run(["usage"]) == USAGE
    assert 'store.url is "none"' in capsys.readouterr().err


def test_a_store_that_cannot_be_read(site: Path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("DRAGOMAN_STORE_URL", f"sqlite:///{site}")
    assert run(["usage"]) == CANNOT_START
    assert capsys.readouterr().err.startswith(f"dragoman: the store (sqlite {site}) cannot be used")


def test_the_command_itself(full: Path) -> None:
    done: Any = run_command(full, "usage", "--by", "model", "--csv")
    assert (done.returncode, done.stderr) == (OK, "")
    assert done.stdout.splitlines()[0].startswith("model,requests,errors,input_tokens")
