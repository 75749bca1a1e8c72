"""Secrets and content are planted everywhere; nothing that the gateway says holds one."""

import datetime as dt
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dragoman.policy.registry import AdminKeyRequest, By, KeyRequest, Registry
from dragoman.settings import Secret
from dragoman.store_urls import read_store_url
from dragoman.stores.sql import SqlStore
from support.chat_script import give, refuse, say
from support.chat_upstream import ChatUpstream
from support.gateway import Answer, GatewayProcess, program_environment
from support.stores import with_store

# Each is found by itself, whichever way it was quoted: letters and digits alone.
VENDOR = "VendorKeyMarker1234567890abcdef"
HEADER = "UpstreamHeaderMarker1234567890"
CLIENT = "ClientKeyMarker1234567890abcdef"
SIGNING = "SigningSecretMarker1234567890"
REDIS = "RedisPasswordMarker1234567890"
METRICS = "MetricsTokenMarker1234567890ab"
COLLECTOR = "CollectorHeaderMarker123456789"
NATIVE = "NativeKeyMarker1234567890abcdef"
CONFIGURED = (VENDOR, HEADER, CLIENT, SIGNING, REDIS, METRICS, COLLECTOR, NATIVE)
PROMPT = "PromptMarkerKilimanjaro"
REPLY = "ReplyMarkerPopocatepetl"
TOOL_INPUT = "ToolInputMarkerAconcagua"
CONTENT = (PROMPT, REPLY, TOOL_INPUT)
CONFIG = """
[server]
log_format = "json"
signing_secret = "{SIGNING}"
early_start_s = 0.5
[[keys]]
name = "dev"
key = "{CLIENT}"
[store]
url = "sqlite:///{store}"
[redis]
url = "redis://:{REDIS}@127.0.0.1:9/0"
[metrics]
token = "{METRICS}"
[tracing]
endpoint = "http://127.0.0.1:9"
headers = {{ authorization = "{COLLECTOR}" }}
[upstreams.lab]
base_url = "{url}"
api_key = "{VENDOR}"
headers = {{ x-team = "{HEADER}" }}
retries = 0
[upstreams.native]
kind = "anthropic"
base_url = "{url}"
api_key = "{NATIVE}"
retries = 0
[upstreams.dead]
base_url = "http://127.0.0.1:9/v1"
api_key = "{VENDOR}"
retries = 0
[models.m]
upstream = "lab"
[models.theirs]
upstream = "native"
[models.gone]
upstream = "dead"
"""


def asking(model: str = "m", **more: Any) -> dict[str, Any]:
    call = {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"q": TOOL_INPUT}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": PROMPT}
    return {
        "model": model,
        "max_tokens": 50,
        "tools": [{"name": "look", "input_schema": {"type": "object"}}],
        "messages": [
            {"role": "user", "content": PROMPT},
            {"role": "assistant", "content": [call]},
            {"role": "user", "content": [result]},
        ],
        **more,
    }


class Site:
    """A gateway full of secrets, and every answer that it has given."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "store.db"
        url = read_store_url(Secret(f"sqlite:///{self.path}"), folder)
        assert url is not None
        self.client, self.admin = with_store(url, self._fill)
        self.upstream = ChatUpstream()
        self.gateway: Any = None
        self.said: list[Answer] = []

    async def _fill(self, store: SqlStore) -> tuple[str, str]:
        async def get() -> SqlStore:
            return store

        registry, by = Registry(get, aliases=list), By(actor="t", now=dt.datetime.now(dt.UTC))
        _, client = await registry.create_key(KeyRequest(name="stored"), by)
        _, admin = await registry.create_admin_key(AdminKeyRequest(name="ops", role="write"), by)
        return client, admin

    def ask(self, method: str, path: str, body: Any = None, *, key: str = CLIENT) -> Answer:
        headers = {"x-api-key": key, "authorization": f"Bearer {key}"}
        answer: Answer = self.gateway.request(method, path, body, headers=headers)
        self.said.append(answer)
        return answer

    def message(self, body: dict[str, Any], *, key: str = CLIENT) -> list[Answer]:
        """Ask whole and streamed."""
        return [
            self.ask("POST", "/v1/messages", {**body, "stream": is_stream}, key=key)
            for is_stream in (False, True)
        ]


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("secrets")
    site = Site(folder)
    with site.upstream:
        names = {name: globals()[name] for name in ("SIGNING", "CLIENT", "REDIS", "METRICS")}
        names |= {name: globals()[name] for name in ("COLLECTOR", "VENDOR", "HEADER", "NATIVE")}
        config = CONFIG.format(url=site.upstream.url, store=site.path, **names)
        with GatewayProcess(folder, config=config) as site.gateway:
            yield site


def check(site: Site) -> None:
    """Nothing that was said or written so far holds a secret; the log holds no content either."""
    secrets = (*CONFIGURED, site.client, site.admin)
    for text in (site.gateway.log(), *(said_by(answer) for answer in site.said)):
        for secret in secrets:
            assert secret not in text, f"{secret} in {text[:2000]}"
    log = site.gateway.log()
    for content in CONTENT:
        assert content not in log, log[-3000:]


def said_by(answer: Answer) -> str:
    return json.dumps(answer.headers) + answer.body.decode()


def echoing(status: int) -> Any:
    """Return an upstream that says in its error what it was sent, keys and all."""
    text = f"no: key {VENDOR}, team {HEADER}; see http://10.1.2.3/{VENDOR}"
    return refuse(status, text, times=-1)


def test_a_reply_and_the_errors_of_clients(site: Site) -> None:
    site.upstream.script(say(REPLY, times=-1))
    whole, streamed = site.message(asking())
    assert (whole.status, streamed.status) == (200, 200)
    assert REPLY in whole.body.decode()
    site.message(asking(), key=site.client)
    site.message(asking(max_tokens=-1))
    site.message(asking(temperature=PROMPT))
    site.message(asking("unknown"))
    site.message(asking(), key="sk-dgm-" + "x" * 43)
    site.ask("POST", "/v1/messages", {"messages": PROMPT})
    site.ask("POST", "/v1/messages/count_tokens", asking())
    site.ask("GET", "/v1/models")
    site.ask("GET", f"/{VENDOR[:8]}")
    check(site)


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 429, 500, 503, 529])
def test_upstreams_that_repeat_what_they_were_sent(site: Site, status: int) -> None:
    site.upstream.script(echoing(status))
    for model in ("m", "theirs"):
        for answer in site.message(asking(model)):
            assert answer.status >= 400
    check(site)


@pytest.mark.parametrize(
    "raw", [b"<html>" + VENDOR.encode(), b"{", b'{"choices": ["' + VENDOR.encode() + b'"]}']
)
def test_upstreams_that_send_nonsense(site: Site, raw: bytes) -> None:
    site.upstream.script(give(raw, times=-1))
    site.message(asking())
    site.message(asking("theirs"))
    check(site)


def test_an_upstream_that_is_not_there(site: Site) -> None:
    for answer in site.message(asking("gone")):
        assert answer.status == 502
        assert "127.0.0.1" not in answer.body.decode()
    check(site)


def test_what_administrators_see(site: Site) -> None:
    site.upstream.script(say(REPLY, times=-1))
    site.message(asking(), key=site.client)
    for path in ("keys", "workspaces", "admin-keys", "audit", "usage?group_by=key", "openapi.json"):
        answer = site.ask("GET", f"/admin/v1/{path}", key=site.admin)
        assert answer.status == 200, answer.body
        for content in CONTENT:
            assert content not in answer.body.decode()
    for path in ("me", "api_keys", "usage_report/messages?starting_at=2026-11-01"):
        assert site.ask("GET", f"/v1/organizations/{path}", key=site.admin).status == 200
    explained = site.ask("POST", "/admin/v1/explain", asking(), key=site.admin)
    assert explained.status == 200
    assert PROMPT in explained.body.decode()  # that is what was asked about
    check(site)


def test_metrics(site: Site) -> None:
    site.message(asking())
    answer = site.ask("GET", "/metrics", key=METRICS)
    assert answer.status == 200
    assert b"dragoman_requests_total" in answer.body
    for content in CONTENT:
        assert content not in answer.body.decode()
    assert site.ask("GET", "/metrics").status in (401, 403)
    check(site)


def test_nothing_of_it_lies_on_the_disk(site: Site) -> None:
    """Keys and content are in no file but the configuration, which has them from the operator."""
    site.upstream.script(say(REPLY, times=-1))
    site.message(asking(), key=site.client)
    deadline_s = time.monotonic() + 10
    while site.path.stat().st_size < 8192 and time.monotonic() < deadline_s:
        time.sleep(0.1)
    folder = site.gateway._folder
    for path in (path for path in folder.rglob("*") if path.is_file()):
        if path.name in ("dragoman.toml", "gateway.log"):
            continue
        raw = path.read_bytes()
        for secret in (*CONFIGURED, *CONTENT, site.client, site.admin):
            assert secret.encode() not in raw, f"{secret} in {path}"


def test_commands(site: Site) -> None:
    """What the commands print of a configuration full of secrets."""
    folder = site.gateway._folder
    config = str(folder / "dragoman.toml")
    (folder / "request.json").write_text(json.dumps(asking()))
    for command in (
        ["check", "--config", config],
        ["models", "--config", config],
        ["explain", str(folder / "request.json"), "--config", config],
        ["keys", "list", "--config", config],
    ):
        result = subprocess.run(
            [sys.executable, "-m", "dragoman", *command],
            env=program_environment(folder / "home"),
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert "Traceback" not in result.stderr
        for secret in (*CONFIGURED, site.client, site.admin):
            assert secret not in result.stdout + result.stderr, command
        (folder / "request.json").touch()
    (folder / "request.json").unlink()


def test_a_crash_names_places_alone(site: Site, tmp_path: Path) -> None:
    """A bug on the way is broken in by hand: neither answer nor log tell what was at hand."""
    program = tmp_path / "broken.py"
    program.write_text(
        "import sys\n"
        "from dragoman import cli\n"
        "from dragoman.server import planner\n"
        "def broken(*args, **kwargs):\n"
        f"    secret, content = {VENDOR!r}, {PROMPT!r}\n"
        "    raise RuntimeError(secret + content + str(args))\n"
        "planner.plan_texts = broken\n"
        "sys.exit(cli.run(sys.argv[1:]))\n"
    )
    names = {name: globals()[name] for name in ("SIGNING", "CLIENT", "REDIS", "METRICS")}
    names |= {name: globals()[name] for name in ("COLLECTOR", "VENDOR", "HEADER", "NATIVE")}
    config = CONFIG.format(url=site.upstream.url, store=tmp_path / "store.db", **names)
    with Broken(tmp_path / "gateway", config=config, program=program) as gateway:
        headers = {"x-api-key": CLIENT}
        answers = [
            gateway.request("POST", "/v1/messages", asking(stream=each), headers=headers)
            for each in (False, True)
        ]
        assert [answer.status for answer in answers] == [500, 500]
        text = gateway.log() + "".join(map(said_by, answers))
        assert '"event":"crash"' in text
        assert "broken.py" in text
        for planted in (*CONFIGURED, *CONTENT):
            assert planted not in text.replace(str(program), "")


class Broken(GatewayProcess):
    """A gateway that is started by a program of one's own."""

    def __init__(self, folder: Path, *, config: str, program: Path) -> None:
        super().__init__(folder, config=config)
        self._program = program

    def command(self) -> list[str]:
        return [sys.executable, str(self._program)]
