"""The list of models, as the SDK reads it."""

import json
from typing import Any

import anthropic.types
import anthropic.types.beta
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from dragoman.core.errors import InvalidRequest, UnknownModel
from dragoman.policy.access import NOBODY
from dragoman.policy.routes import Routes
from dragoman.server.models import list_models, show_model
from dragoman.settings import Config, ModelConfig, UpstreamConfig


def routes(*aliases: str, kind: Any = "openai", **model: Any) -> Routes:
    upstream = UpstreamConfig(base_url="http://h/v1", kind=kind, platform="deepseek")
    made = {alias: ModelConfig(upstream=("lab",), **model) for alias in aliases}
    return Routes(Config(upstreams={"lab": upstream}, models=made))


ALIASES = ("deepseek-v3.2", "org/model", "claude-own", "x", "B", "kimi-k2", "Pro/zai-org/GLM-4.7")
LAB = routes(*ALIASES)
LISTED = [model.id for model in LAB.listed_models()]


def page(query: str = "", source: Routes = LAB) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(list_models(source, query, caller=NOBODY))
    assert set(made) == {"data", "has_more", "first_id", "last_id"}
    ids = [model["id"] for model in made["data"]]
    assert made["first_id"] == (ids[0] if ids else None)
    assert made["last_id"] == (ids[-1] if ids else None)
    return made


def ids(query: str = "") -> list[str]:
    return [model["id"] for model in page(query)["data"]]


# -- fields


def check_whole(model: type[BaseModel], raw: dict[str, Any]) -> None:
    """Hold that every field of *model*, however deep, is there and has the right type."""
    parsed = model.model_validate(raw, strict=False)
    for name, field in type(parsed).model_fields.items():
        assert name in raw, f"{model.__name__}.{name}"
        value = getattr(parsed, name)
        assert field.is_required() <= (value is not None)
        if isinstance(value, BaseModel):
            check_whole(type(value), raw[name])


@pytest.mark.parametrize(
    "info", [anthropic.types.ModelInfo, anthropic.types.beta.BetaModelInfo], ids=["GA", "beta"]
)
@pytest.mark.parametrize("kind", ["openai", "anthropic"])
@pytest.mark.parametrize("alias", ALIASES)
def test_every_field_of_the_sdk_is_there(info: type[BaseModel], kind: str, alias: str) -> None:
    source = routes(*ALIASES, kind=kind)
    check_whole(info, json.loads(show_model(source, alias, caller=NOBODY)))
    for listed in page("", source)["data"]:
        check_whole(info, listed)


def test_what_is_known_of_a_model_is_told() -> None:
    known = json.loads(show_model(LAB, "deepseek-v3.2", caller=NOBODY))
    assert known["max_input_tokens"] > 100_000
    assert known["max_tokens"] > 4000
    assert known["capabilities"]["thinking"]["supported"]
    assert not known["capabilities"]["image_input"]["supported"]
    unknown = json.loads(show_model(LAB, "x", caller=NOBODY))
    assert (unknown["max_input_tokens"], unknown["max_tokens"]) == (None, None)
    assert not unknown["capabilities"]["thinking"]["supported"]


def test_what_the_configuration_says_of_a_model_is_told() -> None:
    facts = {"context_window": 1000, "max_output_tokens": 99, "sees_images": True}
    source = routes("x", display_name="Ex", description="An old one", profile=facts)
    told = json.loads(show_model(source, "x", caller=NOBODY))
    assert (told["display_name"], told["description"]) == ("Ex", "An old one")
    assert (told["max_input_tokens"], told["max_tokens"]) == (1000, 99)
    assert told["capabilities"]["image_input"]["supported"]
    assert "description" not in json.loads(show_model(LAB, "x", caller=NOBODY))


@pytest.mark.parametrize(
    "name", ["X", "claude-x", "claude-opus-5-5", "Org/Model[1m]", "anthropic/org/model", "opus"]
)
def test_any_name_that_may_be_asked_for_is_known(name: str) -> None:
    assert json.loads(show_model(LAB, name, caller=NOBODY))["id"] == name


@pytest.mark.parametrize("name", ["absent", "", "org/", "\u20ac" * 5000])
def test_others_are_not(name: str) -> None:
    with pytest.raises(UnknownModel):
        show_model(LAB, name, caller=NOBODY)


# -- pages


def test_real_names_come_first_and_names_for_discovery_behind_them() -> None:
    assert ids("limit=1000") == LISTED
    assert LISTED[: len(ALIASES)] == list(ALIASES)
    assert all("claude" in name or "anthropic" in name for name in LISTED[len(ALIASES) :])
    assert {"claude-x", "claude-kimi-k2", "anthropic/org/model"} <= set(LISTED)
    assert len(set(LISTED)) == len(LISTED)


@given(st.integers(1, 30))
def test_pages_forwards_make_up_the_list(limit: int) -> None:
    found: list[str] = []
    made = page(f"limit={limit}")
    while True:
        found += [model["id"] for model in made["data"]]
        assert len(made["data"]) <= limit
        if not made["has_more"]:
            break
        assert len(made["data"]) == limit
        made = page(f"limit={limit}&after_id={made['last_id']}")
    assert found == LISTED


@given(st.integers(1, 30), st.sampled_from(LISTED))
def test_pages_backwards_make_up_what_comes_before(limit: int, start: str) -> None:
    found: list[str] = []
    made = page(f"limit={limit}&before_id={start}")
    while True:
        found = [model["id"] for model in made["data"]] + found
        if not made["has_more"]:
            break
        assert len(made["data"]) == limit
        made = page(f"before_id={made['first_id']}&limit={limit}")
    assert found == LISTED[: LISTED.index(start)]


def test_a_page_between_two_models() -> None:
    assert ids(f"after_id={LISTED[0]}&before_id={LISTED[3]}") == LISTED[1:3]
    assert ids(f"after_id={LISTED[-1]}") == ids(f"before_id={LISTED[0]}") == []


def test_a_page_has_twenty_unless_asked_otherwise() -> None:
    many = routes(*(f"model-{n}" for n in range(40)))
    made = page("", many)
    assert (len(made["data"]), made["has_more"]) == (20, True)
    made = page("limit=1000&beta=true", many)
    assert (len(made["data"]), made["has_more"]) == (80, False)


def test_no_models_at_all_are_an_empty_page() -> None:
    assert page("", routes()) == {"data": [], "has_more": False, "first_id": None, "last_id": None}


@pytest.mark.parametrize("query", ["after_id=anthropic%2Forg%2Fmodel", "limit=", "&&=&x=%ff", "%"])
def test_odd_queries_that_are_fine(query: str) -> None:
    page(query)


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("limit=0", "limit"),
        ("limit=-1", "limit"),
        ("limit=1001", "limit"),
        ("limit=1.5", "limit"),
        ("limit=many", "limit"),
        ("limit=%D9%A3", "limit"),
        (f"limit={'9' * 5000}", "limit"),
        ("after_id=absent", "after_id"),
        ("before_id=absent", "before_id"),
        ("&".join(["a=1"] * 101), "query"),
    ],
)
def test_what_is_out_of_range_is_refused_by_name(query: str, parameter: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        list_models(LAB, query, caller=NOBODY)
    assert caught.value.message.startswith(f"{parameter}: ")
    assert len(caught.value.message) < 300
