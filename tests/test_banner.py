"""What is printed at the start: lines that can be copied, names, reasons, and never a key."""

import shutil
import subprocess
from pathlib import Path

import msgspec
import pytest

from dragoman.banner import Serving, banner_lines, base_url, listening_line, own_command
from dragoman.config import Config, load_config, with_engine
from dragoman.engine import EngineModel, demo_model
from dragoman.settings import ServerConfig
from dragoman.store_urls import StoreUrl
from support.stores import new_entry, new_key, with_store

URL = "http://127.0.0.1:7777"
LAB = '[upstreams.lab]\nbase_url = "http://127.0.0.1:8000/v1"\napi_key = "lab-secret"\n'
MODELS = LAB + '[models."glm-4.7"]\nupstream = "lab"\n[models.kimi]\nupstream = "lab"\n'
KEYS = '[[keys]]\nname = "dev"\nkey = "a-client-key-of-mine"\n'
BASH = shutil.which("bash") or "bash"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "own"))


def load(text: str, environ: dict[str, str] | None = None) -> Config:
    path = Path("file.toml")
    path.write_text(text, encoding="utf-8")
    return load_config(path, environ=environ or {})


def banner(config: Config, **more: object) -> str:
    known = {"base_url": URL, "environ": {}, **more}
    return "\n".join(banner_lines(Serving(config=config, **known)))


def with_demo(config: Config) -> Config:
    return with_engine(
        config, "dragoman-demo", "http://127.0.0.1:1/v1", display_name="d", leads=True
    )


def value_of(text: str, label: str) -> str:
    (line,) = [line for line in text.splitlines() if line.startswith(label)]
    return line.removeprefix(label).strip()


def test_the_lines_for_a_shell_can_be_copied() -> None:
    lines = [line.strip() for line in banner(load(MODELS)).splitlines() if " export " in line]
    script = "\n".join([*lines, "printf '%s %s' $ANTHROPIC_BASE_URL $ANTHROPIC_AUTH_TOKEN"])
    run = subprocess.run([BASH, "-c", script], env={}, capture_output=True, check=True)
    assert run.stdout.decode() == f"{URL} local"


def test_the_lines_for_the_sdk_are_python() -> None:
    lines = banner(load(MODELS)).splitlines()
    start = lines.index("Python SDK:") + 1
    source = "\n".join(line.removeprefix("  ") for line in lines[start : start + 3])
    compile(source, "banner", "exec")
    assert f'base_url="{URL}"' in source
    assert 'model="glm-4.7"' in source


def test_names_are_shown_and_keys_are_not() -> None:
    text = banner(load(KEYS + MODELS))
    assert value_of(text, "models") == "glm-4.7, kimi"
    assert value_of(text, "upstreams") == "lab"
    assert value_of(text, "keys") == "dev"
    assert value_of(text, "settings") == "file.toml"
    assert "lab-secret" not in text
    assert "a-client-key-of-mine" not in text
    assert "export ANTHROPIC_AUTH_TOKEN='<key of dev>'" in text


def test_roles_are_shown_as_far_as_they_differ() -> None:
    assert value_of(banner(load(MODELS)), "claude-*") == "glm-4.7"
    roles = '[roles]\nsonnet = "glm-4.7"\nhaiku = "kimi"\n'
    assert value_of(banner(load(MODELS + roles)), "claude-*") == "haiku: kimi, others: glm-4.7"


def test_a_vendor_in_use_because_of_the_environment_is_named() -> None:
    environ = {"DEEPSEEK_API_KEY": "sk-secret"}
    text = banner(load_config(None, environ=environ), environ=environ)
    assert value_of(text, "upstreams") == "deepseek (DEEPSEEK_API_KEY is set)"
    assert "sk-secret" not in text


def test_engines_of_this_machine_are_named() -> None:
    assert "lab (found on this machine)" in banner(load(MODELS), found=("lab",))


def test_the_demo_is_called_a_toy() -> None:
    text = banner(with_demo(load("")), engine=demo_model())
    assert "toy model" in text
    for way in ("KSC_API_KEY", "dragoman.toml", "dragoman serve --local"):
        assert way in text
    assert "  dragoman claude --config file.toml\n" in text
    assert "toy" not in banner(load(MODELS))
    local = EngineModel(path=Path("m.gguf"), alias="dragoman-demo")
    assert "toy" not in banner(with_demo(load("")), engine=local)


def test_beside_others_the_demo_is_asked_for_by_name() -> None:
    text = banner(with_demo(load(MODELS)), engine=demo_model())
    assert "  dragoman claude --config file.toml --model dragoman-demo\n" in text
    assert value_of(text, "claude-*") == "dragoman-demo"
    assert value_of(text, "upstreams") == "lab, engine (embedded)"


def test_the_command_for_claude_code_finds_this_gateway() -> None:
    def command(config: Config, **more: object) -> str:
        (line,) = [
            line for line in banner(config, **more).splitlines() if "dragoman claude" in line
        ]
        return line.strip()

    assert command(load(MODELS)) == "dragoman claude --config file.toml"
    Path("dragoman.toml").write_text(MODELS)
    assert command(load_config(None, environ={})) == "dragoman claude"
    found = load_config(None, environ={"DRAGOMAN_CONFIG": "file.toml"})
    assert command(found, environ={"DRAGOMAN_CONFIG": "file.toml"}) == "dragoman claude"
    moved = command(with_demo(load(MODELS)), engine=demo_model(), is_moved=True)
    assert moved == f"dragoman claude --config file.toml --url {URL}"
    other = command(load(MODELS + '[roles]\nsonnet = "kimi"'), is_moved=True)
    assert other == f"dragoman claude --config file.toml --url {URL} --model kimi"


def test_the_command_is_one_that_the_users_shell_finds(tmp_path: Path) -> None:
    own = tmp_path / "own place" / "dragoman"
    own.parent.mkdir()
    own.write_text("#!/bin/sh\n")
    own.chmod(0o755)
    link = tmp_path / "bin" / "dragoman"
    link.parent.mkdir()
    link.symlink_to(own)
    assert own_command(str(own), str(own.parent)) == "dragoman"
    assert own_command(str(own), str(link.parent)) == "dragoman"
    assert own_command(str(own), str(tmp_path)) == f"'{own}'"
    assert own_command("/some/dragoman/__main__.py", "").endswith(" -m dragoman")
    text = banner(with_demo(load(MODELS)), engine=demo_model(), command="/venv/bin/dragoman")
    assert "  /venv/bin/dragoman claude --config file.toml" in text
    assert "then: /venv/bin/dragoman serve\n" in text


def test_warnings_are_shown() -> None:
    text = banner(load(MODELS + '[upstreams.idle]\nbase_url = "http://127.0.0.1:1/v1"\n'))
    assert "warning: upstreams.idle: no model uses it" in text


def test_long_lists_are_cut_and_names_cannot_steer_the_terminal() -> None:
    names = [f'[models."m{n}"]\nupstream = "lab"\n' for n in range(12)]
    assert value_of(banner(load(LAB + "".join(names))), "models").endswith("m7 and 4 more")
    config = load(MODELS)
    config = msgspec.structs.replace(config, source=Path("a\x1b[31m\nb"))
    assert value_of(banner(config), "settings") == "a\\x1b[31m\\x0ab"


URLS = {
    "127.0.0.1": URL,
    "localhost": "http://localhost:7777",
    "0.0.0.0": URL,
    "::": "http://[::1]:7777",
    "::1": "http://[::1]:7777",
    "gateway.example": "http://gateway.example:7777",
}


@pytest.mark.parametrize(("host", "url"), URLS.items())
def test_the_url_is_one_that_can_be_called(host: str, url: str) -> None:
    assert base_url(ServerConfig(host=host), 7777) == url


def test_the_url_says_that_it_speaks_tls() -> None:
    server = ServerConfig(tls_certificate=Path("server.pem"))
    assert base_url(server, 7777) == "https://127.0.0.1:7777"


def test_the_first_line_is_enough_for_programs() -> None:
    serving = Serving(config=load(MODELS), base_url=URL, environ={})
    assert listening_line(serving) == banner_lines(serving)[0]
    assert listening_line(serving).endswith(f" listens on {URL}")


def test_keys_of_the_store(tmp_path: Path) -> None:
    own = f'[server]\ndata_dir = "{tmp_path}"\n'
    assert "keys  " not in banner(load(own + MODELS))
    url = StoreUrl(path=tmp_path / "dragoman.db")
    with_store(url, lambda store: store.key_changes(-1))
    shown = banner(load(own + MODELS))  # a store without keys
    assert "keys  " not in shown
    assert "AUTH_TOKEN=local" in shown
    elsewhere = banner(load(f'{own}host = "0.0.0.0"\n{MODELS}'))
    assert value_of(elsewhere, "keys") == (
        "none yet, so nobody is answered: dragoman keys create NAME"
    )
    assert "AUTH_TOKEN='<your key>'" in elsewhere
    with_store(url, lambda store: store.add_key(new_key(), new_entry()))
    shown = banner(load(own + MODELS))
    assert value_of(shown, "keys") == "those of the store: dragoman keys list"
    assert "AUTH_TOKEN='<your key>'" in shown
    both = banner(load(own + MODELS + KEYS))
    assert value_of(both, "keys") == "dev, and those of the store: dragoman keys list"
    assert "AUTH_TOKEN='<key of dev>'" in both


def test_a_store_that_cannot_be_looked_into(tmp_path: Path) -> None:
    (tmp_path / "dragoman.db").write_bytes(b"no database" * 99)
    shown = banner(load(f'[server]\ndata_dir = "{tmp_path}"\n{MODELS}'))
    assert "keys  " not in shown
    assert "AUTH_TOKEN='<your key>'" in shown
    away = banner(load(f'[store]\nurl = "postgresql://127.0.0.1:1/d"\n{MODELS}'))
    assert "AUTH_TOKEN='<your key>'" in away
    none = banner(load(f'[store]\nurl = "none"\n{MODELS}'))
    assert "AUTH_TOKEN=local" in none
