"""docs/reference/configuration.md: every setting with its true default, and nothing else."""

import re
import tomllib
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from dragoman.config import load_config
from dragoman.core.dialects.profile import DialectProfile
from dragoman.limit_settings import BudgetConfig, Limits, LimitsConfig
from dragoman.presets import load_catalog
from dragoman.settings import (
    AdminConfig,
    KeyConfig,
    MetricsConfig,
    ModelConfig,
    Platform,
    PriceConfig,
    RedisConfig,
    RolesConfig,
    RoutingConfig,
    ServerConfig,
    StoreConfig,
    TracingConfig,
    UpstreamConfig,
    UsageConfig,
)

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "configuration.md"
SECTIONS: dict[str, type[msgspec.Struct]] = {
    "## `[server]`": ServerConfig,
    "## `[store]`": StoreConfig,
    "## `[usage]`": UsageConfig,
    "## `[[keys]]`": KeyConfig,
    "## `[upstreams.NAME]`": UpstreamConfig,
    "## `[models.NAME]`": ModelConfig,
    "### `[models.NAME.profile]`": DialectProfile,
    "## `[roles]`": RolesConfig,
    "## `[routing]`": RoutingConfig,
    "## `[limits]`": LimitsConfig,
    "### Limits": Limits,
    "### Budgets": BudgetConfig,
    "## `[metrics]`": MetricsConfig,
    "## `[tracing]`": TracingConfig,
    "## `[admin]`": AdminConfig,
    "## `[redis]`": RedisConfig,
    "## Prices": PriceConfig,
}
# Their true default depends on something, which the page says in words.
IN_WORDS = {"base_url", "data_dir", "platform", "upstream", "profile", "name", "limits"}


def rows(heading: str) -> list[list[str]]:
    _, _, rest = PAGE.read_text(encoding="utf-8").partition(f"\n{heading}")
    section = re.split(r"\n##", rest, maxsplit=1)[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


@pytest.mark.parametrize(("heading", "type_"), SECTIONS.items(), ids=SECTIONS)
def test_settings(heading: str, type_: type[msgspec.Struct]) -> None:
    documented = {row[0].strip("`"): row for row in rows(heading)}
    fields = {field.name: field for field in msgspec.structs.fields(type_)}
    assert list(documented) == list(fields)
    for name, (_, default, meaning) in documented.items():
        field = fields[name]
        assert meaning
        if name in IN_WORDS or not default.startswith("`"):
            is_open = field.required or field.default in (None, msgspec.NODEFAULT, (), Limits())
            assert is_open or name in IN_WORDS
        elif type_ is not RolesConfig:
            written = tomllib.loads(f"x = {default.strip('`')}")["x"]
            expected = field.default
            if expected is msgspec.NODEFAULT:
                expected = field.default_factory()
            assert written == (list(expected) if isinstance(expected, tuple) else expected)


def test_the_example_loads(tmp_path: Path) -> None:
    text = PAGE.read_text(encoding="utf-8")
    example = re.search(r"```toml\n(.*?)```", text, re.DOTALL)
    assert example is not None
    path = tmp_path / "example.toml"
    path.write_text(example[1], encoding="utf-8")
    config = load_config(path, environ={"DRAGOMAN_KEY": "k", "DEEPSEEK_API_KEY": "d"})
    assert config.upstream_model("deepseek-v3.1", "vendor") == "deepseek-flash"


def test_presets() -> None:
    documented = [[cell.replace("`", "") for cell in row] for row in rows("## Presets")]
    assert documented == [
        [name, ", ".join(preset.key_variables), preset.base_url, preset.anthropic_base_url or ""]
        for name, preset in load_catalog().presets.items()
    ]


def test_engines() -> None:
    assert rows("## Engines on this machine") == [
        [engine.name, str(engine.port), f"`{engine.platform}`"]
        for engine in load_catalog().local_engines
    ]


def test_platforms() -> None:
    row = next(row for row in rows("## `[upstreams.NAME]`") if row[0] == "`platform`")
    assert re.findall(r"`(\w+)`", row[2]) == list(get_args(Platform))
