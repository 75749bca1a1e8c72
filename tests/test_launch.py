"""`dragoman claude`: what Claude Code is told, on which model it runs, and in whose terminal."""

import asyncio
import json
import os
import shutil
import signal
import stat
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.claude_command import ClaudeOptions, _token, open_log_file
from dragoman.claude_settings import Conflict, find_conflict, overriding
from dragoman.config import Config, load_config, with_engine
from dragoman.core.dialects.profile import DialectProfile
from dragoman.exit_codes import CommandFailed
from dragoman.foreground import run_in_foreground
from dragoman.gateways import RunningGateway
from dragoman.launch import (
    LaunchModel,
    client_environment,
    find_claude,
    merged_environment,
    model_at,
    model_at_url,
    model_of,
    shell_lines,
    unset_lines,
)
from dragoman.model_lists import ListedModel
from dragoman.policy.routes import ROLES, Routes
from dragoman.serve import StartOptions
from dragoman.settings import Secret

URL = "http://127.0.0.1:7777"
BASH = shutil.which("bash") or "bash"
ODD = 'it\'s $HOME \\ `id` "x" ;#'

TWO = """
[upstreams.lab]
base_url = "http://127.0.0.1:1/v1"
[upstreams.paid]
base_url = "http://127.0.0.1:2/v1"
[models.glm]
upstream = "lab"
[models.kimi]
upstream = "paid"
[models.small]
upstream = "lab"
"""


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "own"))


def load(text: str) -> Config:
    path = Path("file.toml")
    path.write_text(text, encoding="utf-8")
    return load_config(path, environ={})


def launch_model(alias: str = "glm", **facts: int) -> LaunchModel:
    return LaunchModel(alias=alias, profile=DialectProfile(**facts), roles={})


def variables(**facts: int) -> dict[str, str]:
    return client_environment(URL, "key", model=launch_model(**facts))


def test_claude_code_is_told_gateway_model_and_window() -> None:
    found = variables(context_window=131_072, max_output_tokens=8192)
    assert found["ANTHROPIC_BASE_URL"] == URL
    assert found["ANTHROPIC_AUTH_TOKEN"] == "key"
    assert found["ANTHROPIC_MODEL"] == "glm"
    assert {found[f"ANTHROPIC_DEFAULT_{role.upper()}_MODEL"] for role in ROLES} == {"glm"}
    assert found["CLAUDE_CODE_MAX_CONTEXT_TOKENS"] == "131072"
    assert found["CLAUDE_CODE_DISABLE_1M_CONTEXT"] == "1"
    assert found["CLAUDE_CODE_MAX_OUTPUT_TOKENS"] == "8192"


def test_an_answer_may_not_fill_the_window() -> None:
    assert variables(context_window=32_768)["CLAUDE_CODE_MAX_OUTPUT_TOKENS"] == "8192"
    assert "CLAUDE_CODE_MAX_CONTEXT_TOKENS" not in variables()
    assert "CLAUDE_CODE_DISABLE_1M_CONTEXT" not in variables(context_window=1_048_576)


def test_the_users_own_settings_stay() -> None:
    own = {"API_TIMEOUT_MS": "1", "HOME": "/home/me", "ANTHROPIC_BASE_URL": "https://elsewhere"}
    merged = merged_environment(own, variables())
    assert merged["API_TIMEOUT_MS"] == "1"
    assert merged["HOME"] == "/home/me"
    assert merged["ANTHROPIC_BASE_URL"] == URL


def test_names_of_models_for_another_server_do_not_stay() -> None:
    own = {
        "ANTHROPIC_DEFAULT_HAIKU_MODEL": "theirs",
        "ANTHROPIC_MODEL": "theirs",
        "CLAUDE_CODE_SUBAGENT_MODEL": "theirs",
    }
    merged = merged_environment(own, variables())
    assert merged["ANTHROPIC_DEFAULT_HAIKU_MODEL"] == "theirs"
    assert merged["ANTHROPIC_MODEL"] == "glm"
    assert merged["CLAUDE_CODE_SUBAGENT_MODEL"] == "theirs"
    merged = merged_environment({**own, "ANTHROPIC_BASE_URL": "https://elsewhere"}, variables())
    assert "theirs" not in merged.values()


@pytest.mark.parametrize("name", ["ANTHROPIC_API_KEY", "CLAUDE_CODE_USE_BEDROCK"])
def test_nothing_of_the_users_leads_elsewhere(name: str) -> None:
    assert name not in merged_environment({name: "1"}, variables())


PROXIES = {
    "none": ({}, None),
    "proxy": ({"HTTPS_PROXY": "http://p:1"}, "127.0.0.1"),
    "with exceptions": ({"http_proxy": "http://p:1", "no_proxy": "a,b"}, "a,b,127.0.0.1"),
    "empty": ({"HTTP_PROXY": ""}, None),
}


@pytest.mark.parametrize(("own", "exception"), PROXIES.values(), ids=PROXIES)
def test_no_proxy_is_asked_for_this_machine(own: dict[str, str], exception: str | None) -> None:
    merged = merged_environment(own, variables())
    assert merged.get("NO_PROXY") == merged.get("no_proxy") == exception


def test_the_proxy_stays_for_a_gateway_elsewhere() -> None:
    there = client_environment("https://gateway.example", "key", model=launch_model())
    assert "NO_PROXY" not in merged_environment({"HTTPS_PROXY": "http://p:1"}, there)


def bash_values(lines: list[str], names: list[str]) -> list[str]:
    script = "\n".join([*lines, *(f"printf '%s\\0' \"${name}\"" for name in names)])
    run = subprocess.run([BASH, "-c", script], env={}, capture_output=True, check=True)
    return run.stdout.decode().split("\0")[:-1]


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40))
def test_bash_reads_the_lines_as_they_were_meant(value: str) -> None:
    assert bash_values(shell_lines({"A": value, "B": "x"}, "bash"), ["A", "B"]) == [value, "x"]


LINES = {
    "bash": (ODD, "export A='it'\\''s $HOME \\ `id` \"x\" ;#'"),
    "fish": (ODD, "set -gx A 'it\\'s $HOME \\\\ `id` \"x\" ;#'"),
    "powershell": (ODD, "$Env:A = 'it''s $HOME \\ `id` \"x\" ;#'"),
}


@pytest.mark.parametrize("shell", LINES)
def test_every_shell_gets_its_own_quotes(shell: str) -> None:
    value, line = LINES[shell]
    assert shell_lines({"A": value}, shell) == [line]  # type: ignore[arg-type]


def test_variables_are_taken_out() -> None:
    lines = [*shell_lines({"A": "x"}, "bash"), *unset_lines(["A"], "bash")]
    assert bash_values(lines, ["A"]) == [""]
    assert unset_lines(["A"], "fish") == ["set -e A"]
    assert unset_lines(["A"], "powershell") == ["Remove-Item Env:A -ErrorAction SilentlyContinue"]


def chosen(config: Config, requested: str | None = None) -> LaunchModel:
    return model_of(config, Routes(config), requested)


def test_the_default_is_the_role_then_the_first_model() -> None:
    assert chosen(load(TWO)).alias == "glm"
    config = load(f'{TWO}[roles]\nsonnet = "kimi"\nhaiku = "small"')
    assert chosen(config).alias == "kimi"
    assert chosen(config).roles["haiku"] == "small"
    assert chosen(config, "haiku").alias == "small"
    assert chosen(config, "GLM").alias == "glm"


def test_an_unknown_model_names_the_nearest() -> None:
    with pytest.raises(CommandFailed, match='"kimmi"; did you mean "kimi"'):
        chosen(load(TWO), "kimmi")


def test_a_chosen_model_keeps_written_roles_and_its_own_upstream() -> None:
    assert set(chosen(load(TWO), "kimi").roles.values()) == set()
    assert chosen(load(TWO), "small").roles["haiku"] == "glm"
    written = load(f'{TWO}[roles]\nhaiku = "small"\ndefault = "glm"')
    assert chosen(written, "kimi").roles == {"haiku": "small"}


def test_nothing_leads_away_from_the_embedded_engine() -> None:
    config = load(f'{TWO}[roles]\nhaiku = "kimi"\nopus = "kimi"')
    config = with_engine(config, "demo", "http://127.0.0.1:3/v1", display_name="d", leads=True)
    model = chosen(config, "demo")
    found = client_environment(URL, "key", model=model)
    assert "kimi" not in found.values()


def gateway(*names: str) -> RunningGateway:
    models = tuple(ListedModel(name, None, 1000 + n, 10) for n, name in enumerate(names))
    return RunningGateway(base_url=URL, token="t", models=models)


def test_a_running_gateway_is_used_if_it_has_what_is_wanted() -> None:
    config = load(f'{TWO}[roles]\nsonnet = "kimi"\nhaiku = "small"')
    found = model_at(gateway("glm", "kimi"), config, None)
    assert found is not None
    assert (found.alias, found.roles) == (
        "kimi",
        {role: "kimi" for role in ROLES if role != "haiku"},
    )
    assert model_at(gateway("glm"), config, None) is None
    assert model_at(gateway("glm"), config, "nobody") is None


def test_without_models_of_our_own_the_gateway_decides() -> None:
    found = model_at(gateway("dragoman-demo", "other"), load(""), None)
    assert found is not None
    assert (found.alias, found.profile.context_window) == ("dragoman-demo", 1000)
    asked = model_at(gateway("a", "b"), load(""), "B")
    assert asked is not None
    assert (asked.alias, asked.profile.context_window) == ("b", 1001)


def test_at_a_url_only_its_list_counts() -> None:
    assert model_at_url(gateway("a", "b"), None).alias == "a"
    with pytest.raises(CommandFailed, match='"kimi-k1"; did you mean "kimi-k2"'):
        model_at_url(gateway("glm", "kimi-k2"), "kimi-k1")


def test_a_configured_key_is_not_sent_to_other_machines() -> None:
    config = load(f'{TWO}[[keys]]\nname = "dev"\nkey = "{"k" * 20}"')

    def token(url: str, key: str | None = None) -> str:
        secret = None if key is None else Secret(key)
        return _token(ClaudeOptions(start=StartOptions(), url=url, key=secret), config)

    assert token("http://localhost:7777") == "k" * 20
    assert token("https://gateway.example") == "local"
    assert token("https://gateway.example", "mine") == "mine"


def test_claude_is_looked_for_in_the_given_path(tmp_path: Path) -> None:
    assert find_claude(str(tmp_path)) is None
    file = tmp_path / "claude"
    file.write_text("#!/bin/sh\n")
    file.chmod(0o755)
    assert find_claude(str(tmp_path)) == str(file)


def run(script: str, *, signal_to_us: signal.Signals | None = None) -> int:
    """Run a shell script in the foreground; a signal comes once it has said that it is there."""

    Path("there").unlink(missing_ok=True)
    is_there = Path("there").exists

    async def test() -> int:
        child = asyncio.create_task(run_in_foreground(["/bin/sh", "-c", script], env={}))
        if signal_to_us:
            async with asyncio.timeout(20):
                while not is_there():  # noqa: ASYNC110 - another process makes it
                    await asyncio.sleep(0.02)
            os.kill(os.getpid(), signal_to_us)
        async with asyncio.timeout(20):
            return await child

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        return asyncio.run(test())
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_exit_codes_are_passed_on() -> None:
    assert run("exit 0") == 0
    assert run("exit 42") == 42
    assert run("kill -9 $$") == 137


def test_signals_are_the_childs() -> None:
    wait = "touch there; while :; do sleep 0.05; done"
    assert run(f"trap 'exit 7' TERM; {wait}", signal_to_us=signal.SIGTERM) == 7
    assert run(wait, signal_to_us=signal.SIGHUP) == 128 + signal.SIGHUP


def test_what_cannot_be_run_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "claude"
    file.write_text("#!/no/such/interpreter\n")
    file.chmod(0o755)
    with pytest.raises(CommandFailed, match="claude: No such file or directory"):
        asyncio.run(run_in_foreground([str(file)], env={}))


def test_the_log_file_is_private_and_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dragoman.claude_command._MAX_LOG_BYTES", 1000)
    path = tmp_path / "data" / "claude.log"
    for _ in range(3):
        with open_log_file(path) as file:
            for _ in range(100):
                file.write("a line of the log\n")
                file.flush()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert 0 < path.stat().st_size <= 1000
    path.write_bytes(b"x" * 2000)
    open_log_file(path).close()
    assert path.read_bytes() == b""
    with pytest.raises(CommandFailed, match="Not a directory"):
        open_log_file(path / "below" / "claude.log")


def settings_file(folder: Path, name: str = "settings.json", **env: object) -> Path:
    path = folder / ".claude" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"env": env, "model": "opus"}))
    return path


def conflict_of(home: Path, project: Path) -> Conflict | None:
    return find_conflict(variables(), environ={"HOME": str(home)}, folder=project)


def test_settings_that_lead_elsewhere_are_overridden(tmp_path: Path) -> None:
    home, project = tmp_path / "home", tmp_path / "project"
    assert conflict_of(home, project) is None
    own = settings_file(
        home,
        ANTHROPIC_BASE_URL="https://elsewhere",
        ANTHROPIC_DEFAULT_OPUS_MODEL="theirs",
        ANTHROPIC_API_KEY="sk",
        CLAUDE_CODE_SUBAGENT_MODEL="theirs",
        API_TIMEOUT_MS="1",
        EDITOR="vi",
    )
    settings_file(project, "settings.local.json", CLAUDE_CODE_USE_BEDROCK="1", OTHER=1)
    conflict = conflict_of(home, project)
    assert conflict is not None
    assert conflict.path == own
    assert conflict.env == {
        "ANTHROPIC_BASE_URL": URL,
        "ANTHROPIC_DEFAULT_OPUS_MODEL": "glm",
        "ANTHROPIC_API_KEY": "",
        "CLAUDE_CODE_SUBAGENT_MODEL": "",
        "CLAUDE_CODE_USE_BEDROCK": "",
    }


def test_settings_that_lead_nowhere_else_stay(tmp_path: Path) -> None:
    settings_file(tmp_path, ANTHROPIC_BASE_URL=URL, ANTHROPIC_DEFAULT_OPUS_MODEL="mine", A="b")
    assert conflict_of(tmp_path, tmp_path) is None
    path = settings_file(tmp_path)
    for text in ("", "{", "[]", '{"env": []}', '{"env": {"ANTHROPIC_BASE_URL": 1}}', "[" * 9999):
        path.write_text(text)
        assert conflict_of(tmp_path, tmp_path) is None


def test_settings_are_overridden_by_a_private_file_that_goes_away() -> None:
    with overriding(None, ["-p", "x"]) as args:
        assert args == ("-p", "x")
    conflict = Conflict(Path("settings.json"), {"ANTHROPIC_AUTH_TOKEN": "key"})
    with overriding(conflict, ["-p", "x"]) as args:
        assert (args[0], *args[2:]) == ("--settings", "-p", "x")
        path = Path(args[1])
        assert json.loads(path.read_text()) == {"env": conflict.env}
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not path.exists()
    for own in (["--settings", "x"], ["--settings=x"]):
        with (
            pytest.raises(CommandFailed, match=r"settings\.json sets ANTHROPIC_AUTH_TOKEN"),
            overriding(conflict, own),
        ):
            pass
