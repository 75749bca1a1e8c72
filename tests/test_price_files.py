"""Prices that come with the package, and those of the user's own file."""

import json
from pathlib import Path
from typing import Any

import pytest

from dragoman.config import ConfigError, examine_config, load_config
from dragoman.core.usage import Usage
from dragoman.policy.prices import Prices, cost_micros
from dragoman.price_files import read_prices

FIGURES: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parent / "fixtures" / "model-prices.json").read_text(encoding="utf-8")
)
OWN = "[[prices]]\nmodels = ['deepseek-v3.2']\ninput_per_mtok = 9\noutput_per_mtok = 9.5\n"


def write(folder: Path, text: str) -> Path:
    path = folder / "prices.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("model", FIGURES)
def test_the_package_has_the_figures_of_the_reference(model: str) -> None:
    prices, problems = read_prices(None)
    assert problems == []
    [known] = [price for price in prices if model in price.models]
    figures = FIGURES[model]
    assert known.input_per_mtok == figures["input_per_mtok"]
    assert known.output_per_mtok == figures["output_per_mtok"]
    assert known.cached_input_per_mtok == figures["cached_input_per_mtok"]
    assert known.source
    assert known.date is not None
    assert known.platforms or known.upstreams, "vendors' prices hold at vendors only"


def test_the_package_has_nothing_else() -> None:
    prices, _ = read_prices(None)
    assert sorted(model for price in prices for model in price.models) == sorted(FIGURES)


def test_the_users_own_prices_count_more(tmp_path: Path) -> None:
    prices, problems = read_prices(write(tmp_path, OWN))
    assert problems == []
    book = Prices(prices, {"vendor": "deepseek"})
    found = book.find_price("deepseek-v3.2", upstream="vendor")
    assert found is not None
    assert (found.input_per_mtok, found.output_per_mtok) == (9, 9.5)
    price = book.find("deepseek-v4-pro", upstream="vendor")
    cost = None if price is None else cost_micros(Usage(input_tokens=10), price)
    assert cost == 13  # 13.2


def test_the_setting(tmp_path: Path) -> None:
    config = tmp_path / "dragoman.toml"
    path = write(tmp_path, OWN)
    config.write_text(f"[server]\nprices_file = '{path}'\n")
    loaded = load_config(config, environ={})
    assert loaded.prices[0].input_per_mtok == 9
    environ = {"DRAGOMAN_SERVER_PRICES_FILE": str(path)}
    assert load_config(None, environ=environ).prices[0].input_per_mtok == 9


BAD = {
    "a negative price": (
        OWN.replace("= 9\n", "= -1\n"),
        "prices[0].input_per_mtok: expected number >= 0.0",
    ),
    "a word": (OWN.replace("9.5", "'much'"), "prices[0].output_per_mtok: expected number"),
    "a slip": (OWN.replace("models", "model"), 'unknown key; did you mean "models"?'),
    "nothing of it": ("[[prices]]\nmodels = ['m']\n", "prices[0].input_per_mtok: required"),
    "another table": ("[price]\n", 'price: unknown table; did you mean "prices"?'),
    "no list": ("[prices]\n", "prices: expected array of tables"),
    "a platform that nobody knows": (
        OWN + "platforms = ['deepsek']\n",
        'llamacpp, ollama, got "deepsek"; did you mean "deepseek"?',
    ),
    "no TOML": ("prices = [", "prices.toml: "),
}


@pytest.mark.parametrize(("text", "said"), BAD.values(), ids=BAD)
def test_what_is_wrong_is_said_in_one_line(tmp_path: Path, text: str, said: str) -> None:
    path = write(tmp_path, text)
    examined = examine_config(None, environ={"DRAGOMAN_SERVER_PRICES_FILE": str(path)})
    assert any(said in problem for problem in examined.problems), examined.problems
    for problem in examined.problems:
        assert str(path) in problem
        assert "\n" not in problem
    with pytest.raises(ConfigError):
        load_config(None, environ={"DRAGOMAN_SERVER_PRICES_FILE": str(path)})


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "none.toml"
    prices, [problem] = read_prices(path)
    assert prices == read_prices(None)[0]
    assert problem == f"server.prices_file: {path}: No such file or directory"
    path.write_bytes(b"\xff\xfe")
    _, [problem] = read_prices(path)
    assert problem.startswith(f"server.prices_file: {path}: ")
