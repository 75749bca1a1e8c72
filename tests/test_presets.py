"""The packaged presets: well-formed, found in the environment, overridable."""

from pathlib import Path

import msgspec
import pytest

from dragoman.config import Config, examine_config, load_config
from dragoman.config_rules import rule_problems
from dragoman.core.dialects.registry import is_known
from dragoman.policy.routes import ROLES, Routes
from dragoman.presets import guess_platform, is_loopback, load_catalog
from dragoman.settings import Platform

CATALOG = load_catalog()


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "own"))


def load(text: str, environ: dict[str, str]) -> Config:
    path = Path("file.toml")
    path.write_text(text, encoding="utf-8")
    return load_config(path, environ=environ)


@pytest.mark.parametrize("name", CATALOG.presets)
def test_a_key_in_the_environment_is_enough(name: str) -> None:
    preset = CATALOG.presets[name]
    for variable in preset.key_variables:
        config = load_config(None, environ={variable: "the-key"})
        assert config.automatic == (name,)
        upstream = config.upstreams[name]
        assert upstream.base_url == preset.base_url
        assert upstream.platform == preset.platform
        credential = upstream.credential()
        assert credential is not None
        assert credential[1].endswith("the-key")
        assert list(config.models) == list(preset.models)
        assert Routes(config).resolve("claude-opus-4").targets[0].deployment.upstream == name


@pytest.mark.parametrize("name", CATALOG.presets)
def test_presets_are_consistent(name: str) -> None:
    preset = CATALOG.presets[name]
    roles = msgspec.structs.asdict(preset.roles)
    assert any(roles.values())
    assert {alias for alias in roles.values() if alias} <= set(preset.models)
    assert guess_platform(preset.base_url) == preset.platform
    assert all(is_known(model) for model in preset.models.values())
    assert rule_problems(load_config(None, environ={preset.key_variables[0]: "k"})) == ()


@pytest.mark.parametrize("name", [n for n, p in CATALOG.presets.items() if p.anthropic_base_url])
def test_native_side(name: str) -> None:
    text = f'[upstreams.x]\npreset = "{name}"\nkind = "anthropic"\napi_key = "k"\n'
    upstream = load(text, {}).upstreams["x"]
    assert upstream.base_url == CATALOG.presets[name].anthropic_base_url


def test_credential_headers_of_vendors() -> None:
    def header(text: str) -> str:
        credential = load(f'[upstreams.x]\napi_key = "k"\n{text}', {}).upstreams["x"].credential()
        assert credential is not None
        return credential[0]

    assert header('preset = "deepseek"') == "authorization"
    assert header('preset = "deepseek"\nkind = "anthropic"') == "x-api-key"
    assert header('preset = "moonshot"\nkind = "anthropic"') == "authorization"
    assert header('preset = "mimo"') == "api-key"


def test_any_field_of_a_preset_can_be_overridden() -> None:
    text = (
        '[upstreams.x]\npreset = "deepseek"\nbase_url = "http://127.0.0.1:9/v1"\n'
        'platform = "vllm"\nretries = 0\n[models.m]\nupstream = "x"\n'
    )
    config = load(text, {"DEEPSEEK_API_KEY": "k"})
    upstream = config.upstreams["x"]
    assert (upstream.base_url, upstream.platform) == ("http://127.0.0.1:9/v1", "vllm")
    assert upstream.retries == 0
    assert upstream.credential() == ("authorization", "Bearer k")
    assert list(config.models) == ["m"]  # its own models are enough


def test_models_of_a_written_preset_are_offered() -> None:
    config = load('[upstreams.x]\npreset = "zai"\n[roles]\nopus = "glm-4.7"', {"ZAI_API_KEY": "k"})
    assert list(config.models) == list(CATALOG.presets["zai"].models)
    assert config.automatic == ()
    roles = Routes(config).roles
    assert (roles["opus"], roles["haiku"]) == ("glm-4.7", "glm-5.3-flash")


def test_vendors_stand_side_by_side_without_failover() -> None:
    environ = {"OPENROUTER_API_KEY": "o", "ZAI_API_KEY": "z", "KSC_API_KEY": "k"}
    config = load_config(None, environ=environ)
    assert config.automatic == ("kspmas", "zai", "openrouter")
    assert all(len(model.upstream) == 1 for model in config.models.values())
    assert config.models["glm-4.7"].upstream == ("kspmas",)
    assert config.models["zai/glm-4.7"].upstream == ("zai",)
    assert config.upstream_model("openrouter/glm-4.7", "openrouter") == "z-ai/glm-4.7"
    assert Routes(config).roles["opus"] == "glm-4.7"
    assert set(Routes(config).roles) == {"default", *ROLES}


@pytest.mark.parametrize(
    "text",
    ['[upstreams.lab]\nbase_url = "http://h/v1"', "[server]\nenvironment_presets = false"],
)
def test_what_is_written_keeps_the_environment_out(text: str) -> None:
    assert load(text, {"DEEPSEEK_API_KEY": "k"}).automatic == ()


def test_an_empty_variable_is_none() -> None:
    assert load_config(None, environ={"DEEPSEEK_API_KEY": " "}).automatic == ()
    config = load_config(None, environ={"ZHIPUAI_API_KEY": "", "BIGMODEL_API_KEY": " b\n"})
    assert config.upstreams["bigmodel"].credential() == ("authorization", "Bearer b")


def test_a_key_from_the_environment_that_looks_like_a_reference_is_taken_as_it_is() -> None:
    examined = examine_config(None, environ={"DEEPSEEK_API_KEY": "env:HOME", "HOME": "/home/me"})
    key = examined.config.upstreams["deepseek"].api_key
    assert key is not None
    assert key.reveal() == "env:HOME"


@pytest.mark.parametrize(
    ("url", "platform"),
    [
        ("https://api.deepseek.com/v1", "deepseek"),
        ("https://dashscope-intl.aliyuncs.com/compatible-mode/v1", "dashscope"),
        ("https://ws1.cn-beijing.maas.aliyuncs.com/compatible-mode/v1", "dashscope"),
        ("https://token-plan-cn.xiaomimimo.com/v1", "mimo"),
        ("https://api.deepseek.com.evil.example/v1", "generic"),
        ("http://127.0.0.1:11434/v1", "ollama"),
        ("http://localhost:30000/v1", "sglang"),
        ("http://[::1]:11434/v1", "ollama"),
        ("http://127.0.0.1:8000/v1", "generic"),
        ("http://lab.lan:11434/v1", "generic"),
        ("http://h:99999", "generic"),
        ("", "generic"),
    ],
)
def test_guess_platform(url: str, platform: Platform) -> None:
    assert guess_platform(url) == platform


@pytest.mark.parametrize(
    ("host", "is_local"),
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("::1", True),
        ("[::1]", True),
        ("0.0.0.0", False),
        ("::", False),
        ("localhost.evil.example", False),
        ("", False),
    ],
)
def test_is_loopback(host: str, is_local: bool) -> None:
    assert is_loopback(host) == is_local


def test_local_engines() -> None:
    ports = [engine.port for engine in CATALOG.local_engines]
    assert ports == [11434, 8080, 1234, 8000, 30000]
    assert CATALOG.local_engines[0].base_url == "http://127.0.0.1:11434/v1"
