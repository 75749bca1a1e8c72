"""`dragoman check` and `dragoman models`: what they find, say and return."""

import json
import socket
import sqlite3
from pathlib import Path

import pytest

from dragoman.check import LiveCheck, UpstreamCheck, exit_code, listed_text, read_answer
from dragoman.config import load_config
from dragoman.models_command import model_rows
from dragoman.settings import Config, ModelConfig, Secret, UpstreamConfig
from dragoman.store_urls import StoreUrl
from support.chat_script import refuse, say
from support.chat_upstream import ChatUpstream
from support.command import TinyServer, run_command
from support.stores import with_store

LISTING = {"data": [{"id": "deepseek-v3.1"}, {"id": "glm-4.7"}]}


def upstream(name: str, url: str, *, more: str = "") -> str:
    return f'[upstreams.{name}]\nbase_url = "{url}"\n{more}\n'


def model(name: str, upstream: str, *, more: str = "") -> str:
    return f'[models."{name}"]\nupstream = "{upstream}"\n{more}\n'


def check(folder: Path, text: str, *args: str, **env: str) -> tuple[int, list[str]]:
    (folder / "dragoman.toml").write_text(text)
    run = run_command(folder, "check", *args, env=env)
    assert run.stderr == ""
    assert "\x1b" not in run.stdout
    return run.returncode, run.stdout.splitlines()


def row(lines: list[str], name: str) -> str:
    (found,) = [line for line in lines if line.startswith(f"{name} ")]
    return found


def test_fallbacks_that_do_not_help_are_told(tmp_path: Path) -> None:
    with ChatUpstream(models=("m", "n", "o")) as lab:
        text = upstream("lab", lab.url)
        text += model("m", "lab", more='image_fallback = "n"\nlong_prompt_fallback = "n"')
        text += "profile = { context_window = 9000 }\n"
        text += model("n", "lab", more="profile = { context_window = 8000 }")
        text += model("o", "lab", more='image_fallback = "p"\nlong_prompt_fallback = "m"')
        text += model("p", "lab", more="profile = { sees_images = true }")
        _, lines = check(tmp_path, text)
    assert [line for line in lines if line.startswith("warning: ")] == [
        "warning: models.m.image_fallback: n sees no images; "
        "if it does: profile = { sees_images = true }",
        "warning: models.m.long_prompt_fallback: n takes 8,000 tokens, itself 9,000",
    ]


@pytest.mark.parametrize(
    ("server", "problem"),
    [
        ('data_dir = "a-file"', "server.data_dir: a-file: a-file is a file; name a folder"),
        ('data_dir = "a-file/x"', "server.data_dir: a-file/x: a-file is a file; name a folder"),
        (
            'data_dir = "data"\n[store]\nurl = "sqlite:///a-file/x.db"',
            "store.url: a-file: a-file is a file; name a folder",
        ),
        (
            'tls_certificate = "nowhere.pem"',
            "server.tls_certificate: nowhere.pem: No such file or directory",
        ),
        ('tls_certificate = "a-file"', "server.tls_certificate: a-file: no PEM certificate with"),
        (
            'data_dir = "short"',
            "server.data_dir: short/signing-secret: holds less than 32 bytes: remove it",
        ),
    ],
)
def test_files_that_a_start_needs(tmp_path: Path, server: str, problem: str) -> None:
    (tmp_path / "a-file").write_text("x")
    (tmp_path / "short").mkdir()
    (tmp_path / "short" / "signing-secret").write_text("x")
    before = sorted(tmp_path.rglob("*"))
    with ChatUpstream(models=("m",)) as lab:
        code, lines = check(
            tmp_path, f"[server]\n{server}\n" + upstream("lab", lab.url) + model("m", "lab")
        )
    (line,) = [line for line in lines if line.startswith("problem: ")]
    assert line.startswith(f"problem: {problem}")
    assert code == 1
    made = set(tmp_path.rglob("*")) - set(before)
    assert {path.name for path in made if path.is_file()} == {"dragoman.toml"}


def test_a_folder_that_a_start_makes_is_no_problem(tmp_path: Path) -> None:
    with ChatUpstream(models=("m",)) as lab:
        text = '[server]\ndata_dir = "not/there/yet"\n'
        code, lines = check(tmp_path, text + upstream("lab", lab.url) + model("m", "lab"))
    assert (code, [line for line in lines if "data_dir" in line]) == (0, [])
    assert not (tmp_path / "not").exists()


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@pytest.mark.server
def test_redis_is_asked(tmp_path: Path, redis_url: str) -> None:
    with ChatUpstream(models=("m",)) as lab:
        text = upstream("lab", lab.url) + model("m", "lab")
        text += '[server]\nsigning_secret = "sixteen characters"\n[redis]\nurl = "env:R"\n'
        code, lines = check(tmp_path, text, R=redis_url)
        assert (code, "redis: ok" in lines) == (0, True)
        code, lines = check(tmp_path, text, R=redis_url.replace("redis-secret", "not-it"))
        (line,) = [line for line in lines if line.startswith("redis: ")]
        assert code == 1
        assert line.startswith("redis: FAILED: AuthenticationError")
        assert "not-it" not in line
        code, lines = check(tmp_path, text, R="http://h")
        assert (code, [line for line in lines if line.startswith("redis: ")]) == (1, [])


@pytest.mark.parametrize(
    ("status", "shown"),
    [
        (200, "tracing: ok"),
        (401, "tracing: warning: the collector refuses us (401): are tracing.headers right?"),
        (404, "tracing: warning: nothing takes traces at /v1/traces there (404)"),
        (503, "tracing: warning: the collector answers 503"),
    ],
)
def test_the_collector_of_traces_is_asked(tmp_path: Path, status: int, shown: str) -> None:
    replies = {"/v1/traces": (status, {}, {})}
    with ChatUpstream(models=("m",)) as lab, TinyServer(replies) as collector:
        text = upstream("lab", lab.url) + model("m", "lab")
        text += f'[tracing]\nendpoint = "{collector.url}"\nheaders = {{ x-team = "planted-1" }}\n'
        code, lines = check(tmp_path, text)
    assert (code, [line for line in lines if line.startswith("tracing")]) == (0, [shown])
    assert "planted-1" not in "".join(lines)
    assert [headers["x-team"] for *_, headers in collector.requests] == ["planted-1"]


def test_a_collector_that_is_away_is_a_warning(tmp_path: Path) -> None:
    with ChatUpstream(models=("m",)) as lab:
        text = upstream("lab", lab.url) + model("m", "lab")
        text += f'[tracing]\nendpoint = "http://127.0.0.1:{closed_port()}"\n'
        code, lines = check(tmp_path, text)
    (line,) = [line for line in lines if line.startswith("tracing")]
    assert code == 0
    assert line.startswith("tracing: warning: no traces arrive: ")


def test_the_store_is_looked_into(tmp_path: Path) -> None:
    def line(*args: str, **env: str) -> tuple[int, str]:
        code, lines = check(tmp_path, text, *args, DRAGOMAN_DATA_DIR=str(tmp_path), **env)
        return code, next((each for each in lines if each.startswith("store: ")), "")

    path = tmp_path / "dragoman.db"
    with ChatUpstream(models=("m",)) as lab:
        text = upstream("lab", lab.url) + model("m", "lab")
        told = f"store: ok, none yet; what is kept first makes sqlite {path}"
        assert line() == (0, told)  # and looking makes none
        assert not path.exists()
        with_store(StoreUrl(path=path), lambda store: store.key_changes(-1))
        assert line() == (0, f"store: ok, sqlite {path}")
        away = "postgresql://u:planted@127.0.0.1:1/d"
        code, shown = line(DRAGOMAN_STORE_URL=away)
        assert code == 1
        assert shown.startswith("store: FAILED: postgresql 127.0.0.1:1/d: ")
        assert "planted" not in shown
        code, shown = line(DRAGOMAN_STORE_URL=f"{away}?sslmode=verify-full&sslrootcert=no.pem")
        assert (code, "there is no file no.pem" in shown) == (1, True)
        with sqlite3.connect(path) as connection:
            connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.close()
        code, shown = line()
        assert (code, "FAILED" in shown, "version 9999" in shown) == (1, True, True)


def test_a_good_configuration(tmp_path: Path) -> None:
    with ChatUpstream(models=("deepseek-v3.1", "glm-4.7")) as lab:
        text = upstream("lab", lab.url, more='api_key = "env:LAB_KEY"')
        text += model("deepseek-v3.1", "lab") + model(
            "glm", "lab", more='upstream_model = "glm-4.6"'
        )
        code, lines = check(tmp_path, text, LAB_KEY="lab-secret")
        assert code == 0
        assert lines[0] == "settings: dragoman.toml"
        assert row(lines, "lab").endswith("ok, lists 2 models")
        assert row(lines, "deepseek-v3.1").split() == [
            "deepseek-v3.1",
            "lab",
            "deepseek-v3.1",
            "yes",
        ]
        assert row(lines, "glm").endswith('no; did you mean "glm-4.7"?')
        assert "lab-secret" not in "\n".join(lines)
        (asked,) = lab.others
        assert asked.headers["authorization"] == "Bearer lab-secret"
        assert lab.requests == []


def test_every_upstream_is_told_apart(tmp_path: Path) -> None:
    models = "/v1/models"
    with (
        TinyServer({models: (401, {}, {"error": "no"})}) as refusing,
        TinyServer({}) as bare,
        TinyServer({models: (500, {}, {})}) as broken,
        TinyServer({models: (200, {}, b"<html>login</html>")}) as page,
        TinyServer({models: (200, {}, LISTING)}) as native,
    ):
        servers = {"refusing": refusing, "bare": bare, "broken": broken, "page": page}
        text = "".join(upstream(name, f"{server.url}/v1") for name, server in servers.items())
        text += upstream("gone", f"http://127.0.0.1:{closed_port()}/v1")
        text += upstream("native", native.url, more='kind = "anthropic"\napi_key = "native-secret"')
        text += model("m", "bare")
        code, lines = check(tmp_path, text)
        ((method, path, headers),) = native.requests
    assert code == 1
    assert row(lines, "refusing").endswith("FAILED: it wants a key: set api_key (401)")
    assert row(lines, "bare").endswith("no list: no such endpoint (404)")
    assert row(lines, "broken").endswith("FAILED: it answers 500")
    assert row(lines, "page").endswith(
        "FAILED: its answer is no list of models: is base_url right?"
    )
    assert "FAILED: unreachable" in row(lines, "gone")
    assert row(lines, "native").endswith("ok, lists 2 models")
    assert row(lines, "m").endswith("unknown")
    assert (method, path, headers["x-api-key"]) == ("GET", models, "native-secret")
    assert headers["anthropic-version"] == "2023-06-01"
    assert any(line.startswith("warning: upstreams.native: no model uses it") for line in lines)


def test_every_address_and_key_is_asked(tmp_path: Path) -> None:
    models = "/v1/models"
    fewer = {"data": [{"id": "glm-4.7"}]}
    with (
        TinyServer({models: (200, {}, LISTING)}) as one,
        TinyServer({models: (200, {}, fewer)}) as two,
        TinyServer({models: (401, {}, {"error": "no"})}) as refusing,
    ):
        urls = [f"{server.url}/v1" for server in (one, two)]
        keys = 'api_keys = ["key-one", "key-two"]'
        text = f"[upstreams.both]\nbase_urls = {urls}\n{keys}\n"
        text += f"[upstreams.half]\nbase_urls = {[urls[0], f'{refusing.url}/v1']}\n{keys}\n"
        text += model("glm-4.7", "both") + model("deepseek-v3.1", "half")
        code, lines = check(tmp_path, text)
        asked = [request[2]["authorization"] for request in two.requests]
    assert code == 1
    assert row(lines, "both").endswith("ok, lists 1 model")
    assert f"{urls[0]} and 1 more" in row(lines, "both")
    assert row(lines, "half").endswith("FAILED: 2 of 4 endpoints; half/2: its key is refused (401)")
    assert sorted(asked) == ["Bearer key-one", "Bearer key-two"]


def test_a_model_that_some_addresses_list_is_no_mistake(tmp_path: Path) -> None:
    paths = {"/v1/models": (200, {}, LISTING)}, {"/v1/models": (200, {}, {"data": [{"id": "glm"}]})}
    with TinyServer(paths[0]) as one, TinyServer(paths[1]) as two:
        urls = [f"{server.url}/v1" for server in (one, two)]
        text = f"[upstreams.both]\nbase_urls = {urls}\ndiscover = true\n"
        code, lines = check(tmp_path, text)
    assert code == 0
    assert row(lines, "glm").endswith("by some addresses")
    assert row(lines, "deepseek-v3.1").endswith("by some addresses")


def test_all_problems_at_once_and_the_rest_is_still_tried(tmp_path: Path) -> None:
    with ChatUpstream() as lab:
        text = '[server]\nprot = 1\n[[keys]]\nname = "a"\nkey = "env:NOWHERE"\n'
        text += upstream("lab", lab.url) + upstream("vendor", lab.url, more='api_key = "env:UNSET"')
        text += model("deepseek-v3.1", "lab") + model("x", "lba")
        code, lines = check(tmp_path, text, "--live")
        assert len(lab.others) == 1
        assert lab.requests == []
    assert code == 1
    problems = [line.removeprefix("problem: ") for line in lines if line.startswith("problem: ")]
    assert problems == [
        'server.prot: unknown key; did you mean "port"?',
        "upstreams.vendor.api_key: the environment variable UNSET is not set",
        "keys[0].key: the environment variable NOWHERE is not set",
        'models.x.upstream: no upstream "lba"; did you mean "lab"?',
    ]
    assert row(lines, "lab").endswith("ok, lists 1 model")
    assert row(lines, "vendor").endswith("skipped: see its problem above")


def test_a_file_that_cannot_be_read_is_a_failed_check(tmp_path: Path) -> None:
    code, lines = check(tmp_path, "[server")
    assert code == 1
    assert lines[0].startswith("problem: dragoman.toml: ")
    run = run_command(tmp_path, "check", "--config", "absent.toml")
    assert (run.returncode, run.stdout) == (1, "problem: absent.toml: No such file or directory\n")


def test_nothing_configured(tmp_path: Path) -> None:
    code, lines = check(tmp_path, "")
    assert code == 1
    assert lines[-1].startswith("problem: nothing to serve: set a vendor's key (KSC_API_KEY, ")


def test_the_address_of_an_unknown_preset_is_not_made_up(tmp_path: Path) -> None:
    code, lines = check(tmp_path, '[upstreams.x]\npreset = "depseek"\n[models.a]\nupstream = "x"')
    assert (code, row(lines, "x").split()[3]) == (1, "?")


def test_live_asks_every_model_through_the_gateway(tmp_path: Path) -> None:
    with ChatUpstream(models=("good", "bad")) as lab:
        lab.script(
            say("ok", when=lambda body: body["model"] == "good", times=-1),
            refuse(400, "bad is retired", when=lambda body: body["model"] == "bad", times=-1),
        )
        text = upstream("lab", lab.url, more='api_key = "lab-secret"\nretries = 0')
        code, lines = check(tmp_path, text + model("good", "lab"), "--live")
        assert code == 0
        assert " ok: " in row(lines, "good")
        (asked,) = lab.requests
        assert asked.body["max_tokens"] <= 64
        assert asked.headers["authorization"] == "Bearer lab-secret"
        code, lines = check(tmp_path, text + model("good", "lab") + model("bad", "lab"), "--live")
        assert code == 1
        assert "FAILED: 400: " in row(lines, "bad")
        assert "bad is retired" in row(lines, "bad")
        assert " ok: " in row(lines, "good")


def test_live_says_why_a_key_is_refused(tmp_path: Path) -> None:
    with ChatUpstream() as lab:
        lab.script(refuse(401, "Incorrect API key provided", times=-1))
        text = upstream("lab", lab.url, more='api_key = "lab-secret"')
        code, lines = check(tmp_path, text + model("deepseek-v3.1", "lab"), "--live")
    assert code == 1
    assert "Incorrect API key" in row(lines, "deepseek-v3.1")
    assert "lab-secret" not in "\n".join(lines)


def test_a_credential_in_a_url_is_not_shown(tmp_path: Path) -> None:
    text = upstream("lab", "http://me:secret-word@127.0.0.1:1/v1") + model("m", "lab")
    code, lines = check(tmp_path, text)
    assert code == 1
    assert lines[1].startswith("problem: upstreams.lab.base_url: holds a credential")
    assert "secret-word" not in "\n".join(lines)


ANSWERS = {
    "ok": (200, json.dumps(LISTING), ("ok", "")),
    "bad key": (401, "{}", ("FAILED", "its key is refused (401)")),
    "no right": (403, "{}", ("FAILED", "its key is refused (403)")),
    "no money": (402, "{}", ("FAILED", "its key is refused (402)")),
    "no endpoint": (404, "", ("no list", "no such endpoint (404)")),
    "no method": (405, "", ("no list", "no such endpoint (405)")),
    "broken": (503, "", ("FAILED", "it answers 503")),
    "redirect": (302, "", ("FAILED", "it answers 302")),
    "garbage": (
        200,
        "[]",
        ("FAILED", "its answer is no list of models: is base_url right?"),
    ),
}


@pytest.mark.parametrize(("status", "body", "result"), ANSWERS.values(), ids=ANSWERS)
def test_what_an_answer_means(status: int, body: str, result: tuple[str, str]) -> None:
    lab = UpstreamConfig(base_url="http://h/v1", api_key=Secret("k"))
    found = read_answer(lab, "lab", status=status, body=body.encode())
    assert (found.outcome, found.reason) == result


def test_names_in_lists() -> None:
    assert listed_text("a", None) == "unknown"
    assert listed_text("a", ["a"]) == "yes"
    assert listed_text("kimi-k1", ["kimi-k2"]) == 'no; did you mean "kimi-k2"?'
    assert listed_text("a", ["kimi-k2"]) == "no"


def test_the_exit_code() -> None:
    config = Config(models={"m": ModelConfig(upstream=("a",))})
    ok, absent = (UpstreamCheck(name="a", outcome=o) for o in ("ok", "no list"))
    bad = UpstreamCheck(name="a", outcome="FAILED", reason="x")
    live = LiveCheck(alias="m", is_ok=False, text="x")
    assert exit_code(config, (), [ok, absent], []) == 0
    assert exit_code(config, (), [ok, bad], []) == 1
    assert exit_code(config, ("problem",), [ok], []) == 1
    assert exit_code(config, (), [ok], [live]) == 1
    assert exit_code(Config(), (), [], []) == 1


def test_models_are_listed_with_what_is_known(tmp_path: Path) -> None:
    text = upstream("lab", "http://127.0.0.1:1/v1", more='platform = "vllm"')
    text += model("deepseek-v3.1", "lab") + model("mystery", "lab")
    text += model("window", "lab", more="[models.window.profile]\ncontext_window = 8192")
    text += '[roles]\nopus = "mystery"\n'
    (tmp_path / "dragoman.toml").write_text(text)
    run = run_command(tmp_path, "models")
    assert (run.returncode, run.stderr) == (0, "")
    lines = run.stdout.splitlines()
    assert lines[0].split() == [
        "MODEL",
        "UPSTREAM",
        "CONTEXT",
        "MAX",
        "OUTPUT",
        "THINKING",
        "IMAGES",
        "ROLES",
    ]
    assert row(lines, "deepseek-v3.1").split()[1] == "lab"
    assert row(lines, "mystery").endswith("default, fable, haiku, opus, sonnet")
    assert " 8,192 " in row(lines, "window")
    rows = model_rows(load_config(tmp_path / "dragoman.toml", environ={}))
    assert [cells[0] for cells in rows] == ["deepseek-v3.1", "mystery", "window"]


def test_replicas_are_one_upstream_in_the_list() -> None:
    gpus = UpstreamConfig(base_url="http://a", base_urls=("http://a", "http://b"))
    models = {"m": ModelConfig(upstream=("gpus",))}
    ((_, upstreams, *_),) = model_rows(Config(upstreams={"gpus": gpus}, models=models))
    assert upstreams == "gpus"


def test_no_models_is_one_line(tmp_path: Path) -> None:
    run = run_command(tmp_path, "models")
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr.startswith("dragoman: nothing to serve: set a vendor's key (KSC_API_KEY, ")
    assert run.stderr.count("\n") == 1
