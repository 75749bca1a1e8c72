"""One suite, two engines: a SQLite file, and a database of a real PostgreSQL."""

from pathlib import Path
from typing import cast

import pytest

from dragoman.settings import Secret
from dragoman.store_urls import StoreUrl, read_store_url

ENGINES = [
    pytest.param("sqlite", id="sqlite"),
    pytest.param("postgres", id="postgres", marks=pytest.mark.server),
]


@pytest.fixture(params=ENGINES)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> StoreUrl:
    """Where an empty database is, or will be."""
    text = f"sqlite:///{tmp_path / 'data' / 'store.db'}"
    if request.param == "postgres":
        text = cast("str", request.getfixturevalue("postgres_url"))
    found = read_store_url(Secret(text), tmp_path)
    assert found is not None
    return found
