"""The file, the environment and the flags: what is read, what wins, and what every slip says."""

import contextlib
import json
import os
import tomllib
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.config import (
    Config,
    ConfigError,
    Secret,
    UpstreamConfig,
    examine_config,
    find_config,
    load_config,
    with_engine,
    with_local_engine,
)
from dragoman.limit_settings import Budget, Limits, LimitsConfig
from dragoman.presets import LocalEngine
from dragoman.settings import RolesConfig

CONTRACT = """
[server]
host = "127.0.0.1"        # any other host without a client key refuses to start
port = 7777
[[keys]]                  # client keys; none at all on loopback = open to local programs
name = "dev"
key = "env:DRAGOMAN_KEY"  # or the literal
[upstreams.lab]
kind = "openai"           # or "anthropic" (pass-through)
base_url = "http://127.0.0.1:8000/v1"
api_key = "env:LAB_KEY"   # or the literal; never shown or logged
connect_timeout_s = 5
first_byte_timeout_s = 600
idle_timeout_s = 300      # silence between two upstream bytes
retries = 2               # see section 6
[models."deepseek-v3.1"]
upstream = "lab"          # or a list: tried in order (failover)
upstream_model = "deepseek-v3.1"   # default: the alias itself
first_byte_timeout_s = 600         # any upstream setting may be overridden here
[roles]                   # what claude-* names (and opus, sonnet, haiku) become
opus = "glm-4.7"
sonnet = "kimi-k2-thinking"
haiku = "qwen3-235b-a22b-instruct-2507"
"""
LAB = '[upstreams.lab]\nbase_url = "http://127.0.0.1:8000/v1"\n'
MODEL = LAB + '[models.m]\nupstream = "lab"\n'
LONG_KEY = "a-key-that-is-long-enough"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "own"))


def write(text: str) -> Path:
    path = Path("file.toml")
    path.write_text(text, encoding="utf-8")
    return path


def load(text: str, environ: dict[str, str] | None = None) -> Config:
    return load_config(write(text), environ=environ or {})


def problems(text: str, environ: dict[str, str] | None = None) -> tuple[str, ...]:
    return examine_config(write(text), environ=environ or {}).problems


def test_the_contract_loads_verbatim() -> None:
    config = load(CONTRACT, {"DRAGOMAN_KEY": "dev-key", "LAB_KEY": "lab-key"})
    assert (config.server.host, config.server.port) == ("127.0.0.1", 7777)
    assert [(key.name, key.key.reveal()) for key in config.keys] == [("dev", "dev-key")]
    lab = config.upstreams["lab"]
    assert lab.credential() == ("authorization", "Bearer lab-key")
    assert (lab.kind, lab.base_url) == ("openai", "http://127.0.0.1:8000/v1")
    assert (lab.connect_timeout_s, lab.first_byte_timeout_s) == (5, 600)
    assert (lab.idle_timeout_s, lab.retries) == (300, 2)
    assert config.models["deepseek-v3.1"].upstream == ("lab",)
    assert config.models["deepseek-v3.1"].first_byte_timeout_s == 600
    assert config.roles.opus == "glm-4.7"
    # The roles name models without a table of their own: the only upstream is asked for them.
    assert config.implied == ("glm-4.7", "kimi-k2-thinking", "qwen3-235b-a22b-instruct-2507")
    assert config.models["glm-4.7"].upstream == ("lab",)


PROBLEMS = {
    "unknown key": ("[server]\nprot = 1", 'server.prot: unknown key; did you mean "port"?'),
    "unknown table": ("[sever]", 'sever: unknown table; did you mean "server"?'),
    "unknown deep": (
        MODEL + "[models.m.profile]\nsees_image = true",
        'models.m.profile.sees_image: unknown key; did you mean "sees_images"?',
    ),
    "quoted path": (
        LAB + '[models."a.b"]\nupstraem = "lab"',
        'models."a.b".upstraem: unknown key; did you mean "upstream"?',
    ),
    "type": ('[server]\nport = "80"', "server.port: expected integer, got string"),
    "true is no number": ("[server]\nport = true", "server.port: expected integer, got true or f"),
    "range": ("[server]\nport = 65536", "server.port: expected integer <= 65535"),
    "nan": ("[server]\nping_interval_s = nan", "server.ping_interval_s: expected number > 0"),
    "limit off": (
        "[server]\nmax_body_bytes = 0",
        "server.max_body_bytes: expected integer >= 1024",
    ),
    "choice": (
        '[server]\nlog_format = "jsn"',
        'server.log_format: expected one of auto, human, json, got "jsn"; did you mean "json"?',
    ),
    "profile value": (
        MODEL + '[models.m.profile]\nthinking = "off"',
        'models.m.profile.thinking: expected one of never, toggle, always, unknown, got "off"',
    ),
    "profile value out of bounds": (
        MODEL + "[models.m.profile]\nmax_output_tokens = -5",
        "models.m.profile.max_output_tokens: expected integer >= 1",
    ),
    "a stop reason that no message has": (
        MODEL + '[models.m.profile.finish_reasons]\nodd = "done"',
        "models.m.profile.finish_reasons: expected one of end_turn, tool_use, max_tokens, refusal, "
        'model_context_window_exceeded, got "done"',
    ),
    "profile value in a list": (
        MODEL + '[models.m.profile]\ntool_text = ["glm", "kimi_k"]',
        "models.m.profile.tool_text[1]: expected one of deepseek_v3, deepseek_v31, deepseek_dsml, "
        "invoke, qwen3_coder, mimo, hermes, glm, kimi_k2, kimi_k3, got "
        '"kimi_k"; did you mean "kimi_k3"?',
    ),
    "a family that nobody knows": (
        MODEL + 'family = "llama"',
        'models.m.family: nothing is known of "llama"; known: deepseek, glm, kimi, mimo, qwen',
    ),
    "a family misspelt": (
        MODEL + 'family = "qwenn"',
        'models.m.family: nothing is known of "qwenn"; did you mean "qwen"?',
    ),
    "no value where there must be one": (
        MODEL + '[models.m.profile]\ndefault_max_tokens = "none"',
        "models.m.profile.default_max_tokens: expected integer, got string",
    ),
    "table wanted": ("server = 1", "server: expected table, got integer"),
    "tables wanted": ("models = 1", "models: expected [models.NAME] tables"),
    "table of upstreams": ("[upstreams]\nlab = 3", "upstreams.lab: expected table, got integer"),
    "keys": ('[keys]\nname = "a"', "keys: expected [[keys]], each with a name and a key"),
    "key without value": ('[[keys]]\nname = "a"', "keys[0].key: required"),
    "item": (LAB + "[models.m]\nupstream = [1]", "models.m.upstream[0]: expected string, got int"),
    "secret type": ('[[keys]]\nname = "a"\nkey = 1', "keys[0].key: expected string, got integer"),
    "open host": ('[server]\nhost = "0.0.0.0"', "server.host: 0.0.0.0 can be reached from other"),
    "short open key": (
        '[server]\nhost = "::"\n[[keys]]\nname = "a"\nkey = "short"',
        "keys[0].key: at least 16 characters",
    ),
    "key with space": ('[[keys]]\nname = "a"\nkey = "a b"', "keys[0].key: must be 1 to 512"),
    "key name twice": (
        '[[keys]]\nname = "a"\nkey = "x"\n[[keys]]\nname = "a"\nkey = "y"',
        'keys[1].name: "a" is used twice',
    ),
    "key value twice": (
        '[[keys]]\nname = "a"\nkey = "x"\n[[keys]]\nname = "b"\nkey = "x"',
        'keys[1].key: the same as that of "a"',
    ),
    "no url": (
        '[upstreams.a]\nbase_url = "lab:8000"',
        "upstreams.a.base_url: must begin with http",
    ),
    "url without host": ('[upstreams.a]\nbase_url = "http://"', "upstreams.a.base_url: not a URL"),
    "url port": ('[upstreams.a]\nbase_url = "http://h:99999"', "upstreams.a.base_url: not a URL"),
    "url bracket": ('[upstreams.a]\nbase_url = "http://[::1"', "upstreams.a.base_url: not a URL"),
    "url credential": (
        '[upstreams.a]\nbase_url = "http://me:pw@h/v1"',
        "upstreams.a.base_url: holds a credential: put it into api_key",
    ),
    "url endpoint": (
        '[upstreams.a]\nbase_url = "http://h/v1/chat/completions"',
        "upstreams.a.base_url: leave /chat/completions out",
    ),
    "url query": (
        '[upstreams.a]\nbase_url = "http://h/v1?x=1"',
        "upstreams.a.base_url: must end with its path",
    ),
    "upstream without url": ("[upstreams.a]", "upstreams.a.base_url: required"),
    "upstream name": ('[upstreams."a b"]\nbase_url = "http://h"', 'upstreams."a b": a name has'),
    "own header": (
        LAB + '[upstreams.lab.headers]\nHost = "x"',
        "upstreams.lab.headers.Host: set by the gateway itself",
    ),
    "header value": (
        LAB + '[upstreams.lab.headers]\nx-a = "b\\nc"',
        "upstreams.lab.headers.x-a: a value is ASCII, on one line",
    ),
    "unknown upstream": (
        LAB + '[models.m]\nupstream = "lap"',
        'models.m.upstream: no upstream "lap"; did you mean "lab"?',
    ),
    "no upstream at all": (
        '[models.m]\nupstream = "lab"',
        'models.m.upstream: no upstream "lab"; there is none yet',
    ),
    "which upstream": (
        LAB + '[upstreams.two]\nbase_url = "http://h"\n[models.m]',
        "models.m.upstream: required; known: lab, two",
    ),
    "upstream twice": (
        LAB + '[models.m]\nupstream = ["lab", "lab"]',
        "models.m.upstream: names an upstream twice",
    ),
    "upstream of the wrong type": (
        LAB + "[models.m]\nupstream = 3",
        "models.m.upstream: expected string or array, got integer",
    ),
    "foreign upstream model": (
        LAB + '[models.m]\nupstream = "lab"\nupstream_model = { other = "x" }',
        'models.m.upstream_model: "other" is not among its upstreams',
    ),
    "alias": (LAB + '[models."a b"]', 'models."a b": a name is one word'),
    "window suffix": (LAB + '[models."a[1m]"]', 'models."a[1m]": clients add [1m] themselves'),
    "a role without a table and of two words": (
        LAB + '[roles]\nopus = "two words"',
        'roles: "two words": a name is one word of at most 200 characters',
    ),
    "no name there": (
        LAB + '[models.n]\nupstream_model = { lab = "" }',
        "models.n.upstream_model: is empty; leave it out",
    ),
    "role": (
        MODEL + '[upstreams.two]\nbase_url = "http://h"\n[roles]\nopus = "n"',
        'roles.opus: no model "n"; known: m',
    ),
    "preset": (
        '[upstreams.a]\npreset = "deepsek"',
        'upstreams.a.preset: unknown preset; did you mean "deepseek"?',
    ),
    "preset without key": (
        '[upstreams.a]\npreset = "deepseek"',
        "upstreams.a.api_key: the environment variable DEEPSEEK_API_KEY is not set",
    ),
    "preset without native side": (
        '[upstreams.a]\npreset = "siliconflow"\nkind = "anthropic"\napi_key = "k"',
        "upstreams.a.base_url: siliconflow has no Anthropic endpoint",
    ),
    "signing secret": ('[server]\nsigning_secret = "x"', "server.signing_secret: shorter than 16"),
    "both forms of addresses": (
        '[upstreams.a]\nbase_url = "http://h"\nbase_urls = ["http://i"]',
        "upstreams.a.base_urls: leave base_url out, or put it into the list",
    ),
    "address twice": (
        '[upstreams.a]\nbase_urls = ["http://h", "http://i", "http://h/"]',
        "upstreams.a.base_urls[2]: is in the list already",
    ),
    "wrong address of several": (
        '[upstreams.a]\nbase_urls = ["http://h", "h:1"]',
        "upstreams.a.base_urls[1]: must begin with http",
    ),
    "no address of several": ("[upstreams.a]\nbase_urls = []", "upstreams.a.base_url: required"),
    "both forms of keys": (
        LAB + 'api_key = "a"\napi_keys = ["b"]',
        "upstreams.lab.api_keys: leave api_key out, or put it into the list",
    ),
    "key of several twice": (
        LAB + 'api_keys = ["a", "b", "a"]',
        "upstreams.lab.api_keys[2]: is in the list already",
    ),
    "wrong key of several": (
        LAB + 'api_keys = ["a", "b c"]',
        "upstreams.lab.api_keys[1]: must be 1 to 512",
    ),
    "too many endpoints": (
        f"[upstreams.a]\nbase_urls = {[f'http://h{n}' for n in range(20)]}\n"
        f"api_keys = {[f'k{n}' for n in range(13)]}",
        "upstreams.a: 260 addresses times keys; at most 256",
    ),
    "busy at nothing": (LAB + "busy_at = 0", "upstreams.lab.busy_at: expected integer >= 1"),
    "weight of nobody": (
        MODEL + 'balance = "weighted"\nweight = { lap = 2 }',
        'models.m.weight: "lap" is not among its upstreams; did you mean "lab"?',
    ),
    "priority of nobody": (
        MODEL + "priority = { other = 2 }",
        'models.m.priority: "other" is not among its upstreams; known: lab',
    ),
    "no weight": (
        MODEL + 'balance = "weighted"\nweight = { lab = 0 }',
        "models.m.weight: expected number > 0",
    ),
    "weights in an order": (
        MODEL + "weight = { lab = 2 }",
        'models.m.weight: counts only among equals; add balance = "weighted"',
    ),
    "unknown balance": (
        MODEL + 'balance = "least_bussy"',
        "models.m.balance: expected one of affinity, weighted, least_busy, fastest, got "
        '"least_bussy"; did you mean "least_busy"?',
    ),
    "unknown fallback": (
        MODEL + 'fallbacks = ["n"]',
        'models.m.fallbacks: no model "n"; known: m',
    ),
    "its own fallback": (
        MODEL + 'long_prompt_fallback = "m"',
        "models.m.long_prompt_fallback: names the model itself",
    ),
    "least over most": (
        MODEL + "[routing]\nopen_s = 100\nmax_open_s = 5",
        "routing.max_open_s: less than routing.open_s; raise it, or lower the other",
    ),
    "a limit over the longest one": (
        MODEL + "[routing]\nrate_limited_s = 61",
        "routing.max_rate_limited_s: less than routing.rate_limited_s; raise it",
    ),
    "fallback twice": (
        MODEL + 'fallbacks = ["n", "n"]\n[models.n]\nupstream = "lab"',
        "models.m.fallbacks: names a model twice",
    ),
    "unknown image fallback": (
        MODEL + 'image_fallback = "mm"',
        'models.m.image_fallback: no model "mm"',
    ),
    "nobody to hedge with": (
        MODEL + "hedge_percentile = 95",
        "models.m.hedge_percentile: there is no second address, key or upstream to ask",
    ),
    "a hedge without a percentile": (
        MODEL + "hedge_min_s = 2",
        "models.m.hedge_min_s: means nothing without hedge_percentile; leave it out",
    ),
    "no percentile": (MODEL + "hedge_percentile = 100", "models.m.hedge_percentile: expected"),
    "never open": (
        "[routing]\nfailures_to_open = 0",
        "routing.failures_to_open: expected integer >= 1",
    ),
    "unknown routing": (
        "[routing]\nopen = 3",
        'routing.open: unknown key; did you mean "open_s"?',
    ),
    "an admin API without a store": (
        '[admin]\nport = 7779\n[store]\nurl = "none"',
        'admin.port: with store.url = "none" there is nothing to administer; leave it out',
    ),
    "a tiny spool": (
        "[usage]\nspool_max_bytes = 4096",
        "usage.spool_max_bytes: expected integer >= 1048576",
    ),
    "redis without an address": ("[redis]", "redis.url: required"),
    "redis elsewhere": (
        '[redis]\nurl = "http://h"',
        "redis.url: must begin with redis://HOST, rediss://HOST or unix:///PATH",
    ),
    "a port that none is": (
        '[redis]\nurl = "redis://:SECRET@h:99999/0"',
        "redis.url: cannot be read; what a password holds",
    ),
    "port 0": ('[redis]\nurl = "redis://h:0"', "redis.url: 0 is no port"),
    "a database with a name": (
        '[redis]\nurl = "redis://h/prod"',
        "redis.url: after the host comes the number of a database, as in redis://HOST:6379/0",
    ),
    "a parameter that redis does not have": (
        '[redis]\nurl = "redis://h?nonsense=1"',
        "redis.url: unknown parameter; known: db, ssl_ca_certs",
    ),
    "a credential for traces": (
        '[tracing]\nendpoint = "http://u:SECRET@h"',
        "tracing.endpoint: holds a credential: put it into tracing.headers",
    ),
    "redis prefix": (
        '[redis]\nurl = "redis://h"\nprefix = "a b"',
        "redis.prefix: letters, digits",
    ),
    "metrics token": ('[metrics]\ntoken = "short"', "metrics.token: must be 16 to 512 visible"),
    "metrics port": ("[metrics]\nport = 0", "metrics.port: expected integer >= 1"),
    "metrics for others": (
        '[metrics]\nport = 9\nhost = "0.0.0.0"',
        "metrics.host: 0.0.0.0 can be reached from other",
    ),
    "metrics host": (
        '[metrics]\nport = 9\nhost = "a b"',
        'metrics.host: "a b" is no host name',
    ),
    "metrics at the same port": ("[metrics]\nport = 7777", "metrics.port: the same as server.port"),
    "traces to nowhere": (
        '[tracing]\nendpoint = "localhost:4318"',
        "tracing.endpoint: must begin with http:// or https://",
    ),
    "name of the service": ('[tracing]\nservice_name = ""', "tracing.service_name: must be 1 to"),
    "headers of traces": (
        '[tracing.headers]\n"a b" = "x"',
        'tracing.headers."a b": no header name',
    ),
    "part of traces": ("[tracing]\nsample_ratio = 2.0", "tracing.sample_ratio: expected number"),
    "allowed host": (
        '[server]\nallowed_hosts = ["http://h"]',
        'server.allowed_hosts: "http://h" is no host name',
    ),
    "sums that go before they come": (
        "[usage]\nkeep_records_days = 30\nkeep_sums_days = 7",
        "usage.keep_sums_days: 7 is less than keep_records_days, 30: sums would be gone before",
    ),
    "sums of less than a month": (
        "[usage]\nkeep_records_days = 7\nkeep_sums_days = 30",
        "usage.keep_sums_days: 30 is less than 31: after a restart a month's budgets go on with",
    ),
    "records of the future": (
        "[usage]\nkeep_records_days = -1",
        "usage.keep_records_days: expected integer >= 0",
    ),
}


@pytest.mark.parametrize(("text", "line"), PROBLEMS.values(), ids=PROBLEMS)
def test_problems(text: str, line: str) -> None:
    found = problems(text)
    assert found[0].startswith(line), found
    with pytest.raises(ConfigError) as raised:
        load(text)
    assert str(raised.value).startswith(f"file.toml: {line}")
    assert "\n" not in str(raised.value)


def test_all_missing_variables_are_listed() -> None:
    found = problems(CONTRACT, {"LAB_KEY": ""})
    assert found[:2] == (
        "upstreams.lab.api_key: the environment variable LAB_KEY is empty",
        "keys[0].key: the environment variable DRAGOMAN_KEY is not set",
    )
    with pytest.raises(
        ConfigError, match=r"is empty \(and 1 more: see `dragoman check --config .+\.toml`\)"
    ):
        load(CONTRACT, {"LAB_KEY": ""})


def test_references_are_resolved_at_any_depth() -> None:
    text = LAB + '[upstreams.lab.headers]\nx-team = "env:TEAM"\n[server]\nallowed_hosts = ["env:H"]'
    config = load(text, {"TEAM": "blue", "H": "gw"})
    assert config.upstreams["lab"].headers["x-team"].reveal() == "blue"
    assert config.server.allowed_hosts == ("gw",)
    assert load(text, {"TEAM": "blue\n", "H": " gw"}).server.allowed_hosts == ("gw",)
    assert problems(text)[:1] == ("server.allowed_hosts[0]: the environment variable H is not set",)


@pytest.mark.parametrize("text", ["[server", 'a = "b', "a = 1\na = 2", "\0", "x = [" * 5000])
def test_broken_toml_is_one_line_with_its_place(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^file\.toml: .*(line \d|too deeply)"):
        load("\n" + text)


def test_a_file_that_is_no_text() -> None:
    Path("file.toml").write_bytes(b"[server]\nhost = '\xff'\n")
    with pytest.raises(ConfigError, match=r"not UTF-8 \(at line 2\)"):
        load_config(Path("file.toml"), environ={})
    with pytest.raises(ConfigError, match="No such file"):
        load_config(Path("absent.toml"), environ={})
    Path("big.toml").write_bytes(b"#" * (4 * 2**20 + 1))
    with pytest.raises(ConfigError, match="larger than"):
        load_config(Path("big.toml"), environ={})


def test_flags_beat_environment_beats_file() -> None:
    path = write('[server]\nport = 1\nhost = "localhost"\nping_interval_s = 4')
    environ = {"DRAGOMAN_PORT": "2", "DRAGOMAN_SERVER_PING_INTERVAL_S": "5.5"}
    server = load_config(path, environ=environ).server
    assert (server.port, server.host, server.ping_interval_s) == (2, "localhost", 5.5)
    environ["DRAGOMAN_SERVER_PORT"] = "3"  # the long name is the more exact one
    assert load_config(path, environ=environ).server.port == 3
    flags = {"server.port": 4}
    assert load_config(path, environ=environ, overrides=flags).server.port == 4


def test_environment_values() -> None:
    environ = {
        "DRAGOMAN_SERVER_ALLOWED_HOSTS": "gw, gw.lan",
        "DRAGOMAN_SERVER_LOCAL_ENGINES": "false",
        "DRAGOMAN_SERVER_SIGNING_SECRET": "s" * 32,
        "DRAGOMAN_DATA_DIR": "/var/lib/gateway",
        "DRAGOMAN_HOST": "",
    }
    server = load("", environ).server
    assert server.allowed_hosts == ("gw", "gw.lan")
    assert server.local_engines is False
    assert server.signing_secret == Secret("s" * 32)
    assert server.data_dir == Path("/var/lib/gateway")
    assert server.host == "127.0.0.1"
    assert problems("", {"DRAGOMAN_PORT": "http"}) == (
        "DRAGOMAN_PORT: expected integer, got string",
    )
    assert problems("", {"DRAGOMAN_SERVER_PROT": "1"}) == (
        'DRAGOMAN_SERVER_PROT: unknown setting; did you mean "DRAGOMAN_SERVER_PORT"?',
    )


def test_bad_flags_are_problems() -> None:
    examined = examine_config(write(""), environ={}, overrides={"server.port": -1, "server.x": 1})
    assert examined.problems[0] == "server.port: expected integer >= 0"
    assert examined.problems[1].startswith("server.x: unknown setting")


def test_a_key_from_the_environment_serves_where_the_file_has_none() -> None:
    environ = {"DRAGOMAN_KEY": LONG_KEY, "DRAGOMAN_HOST": "0.0.0.0"}
    assert [key.name for key in load("", environ).keys] == ["DRAGOMAN_KEY"]
    text = '[[keys]]\nname = "own"\nkey = "another-key-of-the-file"'
    assert [key.name for key in load(text, environ).keys] == ["own"]


def test_where_the_file_is_looked_for(tmp_path: Path) -> None:
    assert find_config({}) is None
    assert load_config(None, environ={}).source is None
    own = tmp_path / "own" / "dragoman" / "config.toml"
    if os.name == "posix" and os.uname().sysname == "Linux":
        own.parent.mkdir(parents=True)
        own.write_text("[server]\nport = 1")
        assert load_config(None, environ={}).server.port == 1
    Path("dragoman.toml").write_text("[server]\nport = 2")
    assert load_config(None, environ={}).server.port == 2
    Path("named.toml").write_text("[server]\nport = 3")
    assert load_config(None, environ={"DRAGOMAN_CONFIG": "named.toml"}).server.port == 3


def test_secrets_are_never_shown() -> None:
    value = "sk-very-secret-value"
    text = (
        f'[[keys]]\nname = "a"\nkey = "{value}"\n{LAB}api_key = "{value}"\n'
        f'headers = {{ x-key = "{value}" }}\n[server]\nsigning_secret = "{value}"'
    )
    config = load(text)
    assert config.keys[0].key.reveal() == value
    secret = config.keys[0].key
    shown = f"{config!r} {config} {secret} {secret!r} {secret:>30} {[secret]}"
    assert value not in shown
    with pytest.raises(TypeError):
        msgspec.json.encode(config)


@pytest.mark.parametrize(
    "text",
    [
        '[[keys]]\nname = "a"\nkey = "has space SECRET"',
        LAB + 'api_key = "SECRET with space"',
        LAB + 'headers = { x = "SECRET\\u0001" }',
        '[upstreams.a]\nbase_url = "http://u:SECRET@h"',
        '[server]\nsigning_secret = "SECRET"',
        '[redis]\nurl = "redi://:SECRET@h"',
        '[[keys]]\nname = "a"\nkey = "SECRET"\n[[keys]]\nname = "b"\nkey = "SECRET"',
    ],
)
def test_problems_show_no_secret(text: str) -> None:
    found = problems(text)
    assert found
    assert "SECRET" not in " ".join(found)


@pytest.mark.parametrize(
    "url", ["redis://h", "rediss://u:p%23@h:1/0?ssl_ca_certs=/x", "unix:///s?db=1", "unix://:p@/s"]
)
def test_redis(url: str) -> None:
    text = f'{MODEL}[redis]\nurl = "env:R"\n'
    config = load(text, {"R": url})
    assert config.redis is not None
    assert config.redis.url.reveal() == url
    path = Path("file.toml")
    path.write_text(text)
    shared = "server.signing_secret: not set; all gateways at one Redis need the same one"
    assert examine_config(path, environ={"R": url}).warnings == (shared,)


def test_credential_headers() -> None:
    def credential(**settings: object) -> tuple[str, str] | None:
        table = {"base_url": "http://h", **settings}
        return msgspec.structs.replace(
            UpstreamConfig(base_url="http://h"),
            **table,  # type: ignore[arg-type]
        ).credential()

    key = Secret("k")
    assert credential() is None
    assert credential(api_key=key) == ("authorization", "Bearer k")
    assert credential(api_key=key, kind="anthropic") == ("x-api-key", "k")
    assert credential(api_key=key, credential_header="api-key") == ("api-key", "k")
    native = credential(api_key=key, kind="anthropic", credential_header="authorization")
    assert native == ("authorization", "Bearer k")


def test_base_urls_are_tidied() -> None:
    config = load(
        '[upstreams.a]\nbase_url = "http://h/v1/"\n'
        '[upstreams.b]\nkind = "anthropic"\nbase_url = "http://h/api/v1"'
    )
    assert config.upstreams["a"].base_url == "http://h/v1"
    assert config.upstreams["b"].base_url == "http://h/api"


def test_names_upstream() -> None:
    config = load(
        LAB + '[upstreams.two]\nbase_url = "http://h"\n'
        '[models.m]\nupstream = ["lab", "two"]\nupstream_model = { two = "vendor/m" }\n'
        '[models.n]\nupstream = ["lab"]\nupstream_model = "x"\n'
    )
    assert config.upstream_model("m", "lab") == "m"
    assert config.upstream_model("m", "two") == "vendor/m"
    assert config.upstream_model("n", "lab") == "x"


def test_warnings() -> None:
    text = (
        '[[keys]]\nname = "a"\nkey = "short"\n'
        '[upstreams.a]\nbase_url = "http://lab.lan/v1"\napi_key = "k"'
    )
    examined = examine_config(write(text), environ={})
    assert examined.problems == ()
    assert [line.split(":")[0] for line in examined.warnings] == [
        "upstreams.a",
        "upstreams.a.base_url",
        "keys[0].key",
    ]


@pytest.mark.parametrize(
    ("more", "is_told"),
    [
        ("", False),
        ('[store]\nurl = "none"\n', True),
        ('[store]\nurl = "none"\n[redis]\nurl = "redis://127.0.0.1"\n', False),
    ],
)
def test_budgets_that_begin_anew_with_each_start(more: str, is_told: bool) -> None:
    budgets = 'budgets = [{ period = "day", cost_usd = 1.0 }]'
    text = f'[server]\nsigning_secret = "{"s" * 32}"\n[[keys]]\nname = "a"\nkey = "{"k" * 32}"\n'
    upstream = '[upstreams.a]\nbase_url = "http://127.0.0.1:1/v1"\n[models.m]\nupstream = "a"\n'
    examined = examine_config(write(f"{text}{budgets}\n{more}{upstream}"), environ={})
    assert examined.problems == ()
    told = [line.split(":")[0] for line in examined.warnings]
    assert told == (["keys[0].budgets"] if is_told else [])


def test_the_engine_joins_without_mixing_with_paid_upstreams() -> None:
    url = "http://127.0.0.1:1/v1"
    alone = with_engine(load(""), "demo", url, display_name="Demo", leads=False)
    assert list(alone.models) == ["demo"]
    paid = load("", {"DEEPSEEK_API_KEY": "k"})
    beside = with_engine(paid, "demo", url, display_name="Demo", leads=False)
    assert list(beside.models)[-1] == "demo"
    assert beside.preset_roles.opus == "deepseek-v4-pro"
    leading = with_engine(paid, "demo", url, display_name="Demo", leads=True)
    assert next(iter(leading.models)) == "demo"
    assert leading.preset_roles == RolesConfig(default="demo")
    for config in (alone, beside, leading):
        for alias, model in config.models.items():
            assert ("engine" in model.upstream) == (alias == "demo")
            assert "engine" not in model.upstream or model.upstream == ("engine",)


def test_an_engine_that_was_found_comes_last() -> None:
    engine = LocalEngine(name="LM Studio", port=1234, platform="generic")
    config = load(MODEL)
    found = with_local_engine(config, engine, ["m", "n"])
    assert list(found.models) == ["m", "lm-studio/m", "n"]
    assert found.models["lm-studio/m"].upstream == ("lm-studio",)
    assert found.upstream_model("lm-studio/m", "lm-studio") == "m"
    assert found.upstreams["lm-studio"].api_key is None
    assert with_local_engine(found, engine, ["o"]) is found
    written = load('[upstreams.a]\nbase_url = "http://localhost:1234/v1"\n[models.m]')
    assert with_local_engine(written, engine, ["o"]) is written
    taken = load('[upstreams.lm-studio]\nbase_url = "http://h/v1"\n[models.m]')
    assert "lm-studio-1234" in with_local_engine(taken, engine, ["o"]).upstreams


@pytest.mark.parametrize("number", ["9" * 30, "-" + "9" * 30, "0x" + "f" * 40, "1e400", "inf"])
def test_absurd_numbers(number: str) -> None:
    for setting in ("port", "max_messages", "ping_interval_s"):
        assert problems(f"[server]\n{setting} = {number}")


VALUES = st.recursive(
    st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)
NAMES = st.sampled_from(["lab", "upstream", "base_url", "key", "profile", "preset", "headers"])
TABLES = st.dictionaries(NAMES, st.dictionaries(NAMES, VALUES, max_size=3) | VALUES, max_size=3)


def to_toml(value: object) -> str:
    if isinstance(value, dict):
        return f"{{{', '.join(f'{to_toml(k)} = {to_toml(v)}' for k, v in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(to_toml, value))}]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return str(value).lower()


@given(st.sampled_from(["server", "keys", "upstreams", "models", "roles"]), VALUES | TABLES)
def test_any_document_gives_only_config_errors(table: str, value: object) -> None:
    text = f"{table} = {to_toml(value)}"
    assert tomllib.loads(text)  # it is a document, whatever it says
    with contextlib.suppress(ConfigError):
        load(text)


# -- limits

LIMITED = """
[limits]
contact = "ops"
[limits.key]
requests_per_minute = 60
[[keys]]
name = "ci"
key = "a-key-that-is-long-enough"
limits = { concurrent = 2 }
budgets = [{ period = "day", cost_usd = 1.5, warn_at_pct = 50 }]
"""


def test_limits_and_budgets(tmp_path: Path) -> None:
    path = tmp_path / "limits.toml"
    path.write_text(LIMITED + MODEL + "limits.output_tokens_per_minute = 9\n", encoding="utf-8")
    config = load_config(path, environ={})
    assert config.limits == LimitsConfig(contact="ops", key=Limits(requests_per_minute=60))
    assert config.keys[0].limits == Limits(concurrent=2)
    budget = Budget(period="day", cost_micros=1_500_000, warn_at_pct=50)
    assert [written.budget() for written in config.keys[0].budgets] == [budget]
    assert config.models["m"].limits == Limits(output_tokens_per_minute=9)


NO_CONTACT = (
    "limits.contact: must be 1 to 200 characters, on one line: whom people are told to ask; leave "
    "it out for the usual words"
)
BAD_LIMITS = {
    "[limits.key]\nrequests_per_minut = 1": (
        'limits.key.requests_per_minut: unknown key; did you mean "requests_per_minute"?'
    ),
    "[limits.key]\nconcurrent = -1": "limits.key.concurrent: expected integer >= 0",
    "[limits]\nkey = 3": "limits.key: expected table, got integer",
    '[limits]\ncontact = ""': NO_CONTACT,
    '[limits]\ncontact = " "': NO_CONTACT,
    '[limits]\ncontact = "a\\nb"': NO_CONTACT,
    f'[limits]\ncontact = "{"x" * 201}"': NO_CONTACT,
    '[limits]\nwhen_unreachable = "opn"': (
        'limits.when_unreachable: expected one of open, closed, got "opn"; did you mean "open"?'
    ),
    "[limits]\nlocal_share_pct = 0": "limits.local_share_pct: expected integer >= 1",
    "KEY budgets = 5": "keys[0].budgets: expected array of tables, got integer",
    'KEY budgets = [{ period = "day" }]': "keys[0].budgets[0]: needs cost_usd or tokens",
    'KEY budgets = [{ period = "week", tokens = 1 }]': (
        'keys[0].budgets[0].period: expected one of day, month, got "week"'
    ),
    'KEY budgets = [{ period = "day", cost_usd = 1e-7 }]': (
        "keys[0].budgets[0].cost_usd: is less than a millionth of a dollar; 0 allows nothing"
    ),
    "KEY budgets = [{ tokens = 1 }]": "keys[0].budgets[0].period: required",
    'KEY budgets = [{ period = "day", tokens = 1 }, { period = "day", tokens = 2 }]': (
        "keys[0].budgets[1].tokens: given twice for a day"
    ),
}


@pytest.mark.parametrize(("text", "line"), BAD_LIMITS.items())
def test_limits_that_cannot_be(tmp_path: Path, text: str, line: str) -> None:
    path = tmp_path / "limits.toml"
    key = f'[[keys]]\nname = "ci"\nkey = "{LONG_KEY}"\n'
    path.write_text(text.replace("KEY ", key), encoding="utf-8")
    examined = examine_config(path, environ={})
    assert examined.problems[0] == line


def test_addresses_and_keys_of_an_upstream(tmp_path: Path) -> None:
    text = """
[upstreams.gpus]
base_urls = ["http://127.0.0.1:11434/v1/", "http://10.0.0.2:8000/v1"]
[upstreams.vendor]
preset = "deepseek"
api_keys = ["env:ONE", "two-two"]
[upstreams.native]
kind = "anthropic"
base_urls = ["http://h/v1"]
"""
    path = tmp_path / "c.toml"
    path.write_text(text, encoding="utf-8")
    config = load_config(path, environ={"ONE": "one-one"})
    gpus, vendor, native = config.upstreams.values()
    assert gpus.base_url == "http://127.0.0.1:11434/v1"
    assert gpus.base_urls == ("http://127.0.0.1:11434/v1", "http://10.0.0.2:8000/v1")
    assert gpus.platform == "ollama"
    assert vendor.base_url == "https://api.deepseek.com"
    assert [key.reveal() for key in vendor.keys] == ["one-one", "two-two"]
    assert vendor.api_key is None
    assert native.base_urls == ("http://h",)


def test_an_engine_among_several_addresses_is_not_added_again() -> None:
    gpus = UpstreamConfig(base_url="http://a", base_urls=("http://a", "http://127.0.0.1:8000/v1"))
    config = Config(upstreams={"gpus": gpus})
    engine = LocalEngine(name="vLLM", port=8000, platform="vllm")
    assert with_local_engine(config, engine, ["m"]) is config
