"""Variables of the environment that bear our name."""

from pathlib import Path

import pytest

from dragoman.config import examine_config, load_config
from dragoman.config_rules import rule_warnings

SAID = "nothing reads this variable"
SLIPS = {
    "DRAGOMAN_CONIFG": f'DRAGOMAN_CONIFG: {SAID}; did you mean "DRAGOMAN_CONFIG"?',
    "DRAGOMAN_PROT": f'DRAGOMAN_PROT: {SAID}; did you mean "DRAGOMAN_PORT"?',
    "DRAGOMAN_KEYS": f'DRAGOMAN_KEYS: {SAID}; did you mean "DRAGOMAN_KEY"?',
    "DRAGOMAN_SEVER_PORT": f'DRAGOMAN_SEVER_PORT: {SAID}; did you mean "DRAGOMAN_SERVER_PORT"?',
    "DRAGOMAN_STOER_URL": f'DRAGOMAN_STOER_URL: {SAID}; did you mean "DRAGOMAN_STORE_URL"?',
    "DRAGOMAN_XYZ": f"DRAGOMAN_XYZ: {SAID}",
    "DRAGOMAN_": f"DRAGOMAN_: {SAID}",
}
MEANT = {
    "DRAGOMAN_HOST": "localhost",
    "DRAGOMAN_LOG_FORMAT": "json",
    "DRAGOMAN_DATA_DIR": "/somewhere",
    "DRAGOMAN_KEY": "a-key-that-is-long-enough",
    "DRAGOMAN_SERVER_PORT": "80",
    "DRAGOMAN_STORE_URL": "none",
    "DRAGOMAN_USAGE_KEEP_RECORDS_DAYS": "40",
    "DRAGOMAN_ADMIN_PORT": "",
    "DRAGOMAN_REQUIRE_CLIENTS": "1",
    "_DRAGOMAN_COMPLETE": "bash_complete",
    "dragoman_x": "1",
    "DRAGOMANX": "1",
    "PATH": "/bin",
}
# As Kubernetes 1.31 sets them for Services named dragoman, dragoman-server and dragoman-redis.
LINKS = {
    "DRAGOMAN_SERVICE_HOST": "10.0.0.1",
    "DRAGOMAN_SERVICE_PORT": "7777",
    "DRAGOMAN_SERVICE_PORT_HTTP": "7777",
    "DRAGOMAN_PORT": "tcp://10.0.0.1:7777",
    "DRAGOMAN_PORT_7777_TCP": "tcp://10.0.0.1:7777",
    "DRAGOMAN_PORT_7777_TCP_PROTO": "tcp",
    "DRAGOMAN_PORT_7777_TCP_PORT": "7777",
    "DRAGOMAN_PORT_7777_TCP_ADDR": "10.0.0.1",
    "DRAGOMAN_SERVER_SERVICE_HOST": "10.0.0.2",
    "DRAGOMAN_SERVER_PORT": "tcp://10.0.0.2:80",
    "DRAGOMAN_SERVER_PORT_80_TCP_ADDR": "10.0.0.2",
    "DRAGOMAN_REDIS_PORT": "tcp://10.0.0.3:6379",
    "DRAGOMAN_REDIS_SERVICE_HOST": "10.0.0.3",
}


def warnings_of(environ: dict[str, str], text: str = "") -> tuple[str, ...]:
    path = Path("dragoman.toml")
    path.write_text(text, encoding="utf-8")
    examined = examine_config(path, environ=environ)
    assert examined.problems == ()
    assert examined.warnings == rule_warnings(examined.config)
    return tuple(line for line in examined.warnings if line.startswith("DRAGOMAN"))


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("name", "line"), SLIPS.items(), ids=SLIPS)
def test_a_slip_is_named(name: str, line: str) -> None:
    assert warnings_of({name: "x"}) == (line,)
    assert warnings_of({name: ""}) == ()


def test_what_is_read_is_no_slip() -> None:
    assert warnings_of(MEANT) == ()


def test_what_the_file_refers_to_is_no_slip() -> None:
    text = '[redis]\nurl = "env:DRAGOMAN_REDIS_URL"\n'
    environ = {"DRAGOMAN_REDIS_URL": "redis://h", "DRAGOMAN_METRICS_TOKEN": "x" * 16}
    assert warnings_of(environ, text) == (f"DRAGOMAN_METRICS_TOKEN: {SAID}",)


def test_what_is_refused_is_not_named_twice(tmp_path: Path) -> None:
    examined = examine_config(None, environ={"DRAGOMAN_SERVER_PROT": "1", "HOME": str(tmp_path)})
    assert [line.partition(":")[0] for line in examined.problems] == ["DRAGOMAN_SERVER_PROT"]
    assert examined.config.unread == ()


def test_a_flood_of_them_is_cut() -> None:
    assert len(warnings_of({f"DRAGOMAN_{n}X": "x" for n in range(50)})) == 10


def test_a_service_in_kubernetes_sets_nothing() -> None:
    assert warnings_of(LINKS) == ()
    config = load_config(Path("dragoman.toml"), environ={**LINKS, "DRAGOMAN_HOST": "localhost"})
    assert config.server.port == 7777
    assert config.server.host == "localhost"


def test_a_file_may_refer_to_what_kubernetes_sets() -> None:
    text = '[redis]\nurl = "env:DRAGOMAN_REDIS_PORT"\n'
    environ = {"DRAGOMAN_REDIS_PORT": "redis://10.0.0.3:6379"}
    assert warnings_of(environ, text) == ()
