"""Read prices: those that come with the package, and above them those of the user's own file."""

import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Final

from dragoman.settings import PriceConfig
from dragoman.tables import TableReader, unknown_name

_MAX_FILE_BYTES: Final = 4 * 2**20  # far over any that a person writes
_SETTING: Final = "server.prices_file"


def read_prices(path: Path | None) -> tuple[tuple[PriceConfig, ...], list[str]]:
    """
    Return all prices, the user's own first, and what is wrong with the file, one line each.

    Args:
        path: Of the user's file; None: there is none.
    """
    own, problems = _read_file(path) if path is not None else ((), [])
    text = files("dragoman").joinpath("prices.toml").read_text(encoding="utf-8")
    built_in, _ = parse_prices(text)
    return (*own, *built_in), problems


def parse_prices(text: str) -> tuple[tuple[PriceConfig, ...], list[str]]:
    """
    Return the prices in *text* and what is wrong with it.

    Raises:
        ValueError: It is not TOML.
    """
    document = tomllib.loads(text)
    reader = TableReader({})
    for name in document:
        if name != "prices":
            line = unknown_name(name, "unknown table", name=name, known=("prices",))
            reader.problems.append(line)
    tables = document.get("prices", [])
    if not isinstance(tables, list):
        return (), [*reader.problems, "prices: expected array of tables: [[prices]]"]
    found = [reader.read(each, PriceConfig, f"prices[{n}]") for n, each in enumerate(tables)]
    return tuple(price for price in found if price is not None), reader.problems


def _read_file(path: Path) -> tuple[tuple[PriceConfig, ...], list[str]]:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE_BYTES + 1)
        if len(data) > _MAX_FILE_BYTES:
            return (), [f"{_SETTING}: {path}: larger than {_MAX_FILE_BYTES} bytes"]
        prices, problems = parse_prices(data.decode("utf-8-sig"))
    except OSError as error:
        return (), [f"{_SETTING}: {path}: {error.strerror or error}"]
    except (ValueError, RecursionError) as error:
        return (), [f"{_SETTING}: {path}: {error or 'nested too deeply'}"]
    return prices, [f"{path}: {problem}" for problem in problems]
