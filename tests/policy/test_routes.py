"""Names that clients send -> routes."""

import datetime as dt
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.config import with_engine
from dragoman.core.dialects.registry import find_profile
from dragoman.core.errors import PermissionDenied, UnknownModel
from dragoman.policy.access import Caller, Workspace
from dragoman.policy.routes import ROLES, Routes
from dragoman.policy.side_traffic import SideRole
from dragoman.settings import Config, ModelConfig, RolesConfig, UpstreamConfig


def config(
    *aliases: str, roles: dict[str, str] | None = None, preset: dict[str, str] | None = None
) -> Config:
    return Config(
        upstreams={
            "lab": UpstreamConfig(base_url="http://h/v1", platform="vllm", trusted=True),
            "two": UpstreamConfig(base_url="http://i/v1", kind="anthropic", retries=0),
        },
        models={alias: ModelConfig(upstream=("lab",)) for alias in aliases},
        roles=RolesConfig(**(roles or {})),
        preset_roles=RolesConfig(**(preset or {})),
    )


FULL = Routes(
    config(
        "GLM-4.7",
        "kimi-k2",
        "qwen3",
        "org/model",
        "claude-own",
        roles={"opus": "GLM-4.7", "sonnet": "kimi-k2", "haiku": "qwen3"},
    )
)


@pytest.mark.parametrize(
    ("name", "alias"),
    [
        ("GLM-4.7", "GLM-4.7"),
        ("glm-4.7", "GLM-4.7"),
        ("GLM-4.7[1m]", "GLM-4.7"),
        ("glm-4.7[1M]", "GLM-4.7"),
        ("claude-glm-4.7", "GLM-4.7"),
        ("claude-GLM-4.7[1m]", "GLM-4.7"),
        ("anthropic/kimi-k2", "kimi-k2"),
        ("anthropic/org/model", "org/model"),
        ("org/model", "org/model"),
        ("claude-own", "claude-own"),
        ("opus", "GLM-4.7"),
        ("Opus[1m]", "GLM-4.7"),
        ("sonnet", "kimi-k2"),
        ("haiku", "qwen3"),
        ("fable", "kimi-k2"),
        ("default", "kimi-k2"),
        ("claude", "kimi-k2"),
        ("claude-opus-5-5", "GLM-4.7"),
        ("claude-3-5-haiku-20241022", "qwen3"),
        ("claude-sonnet-4-6[1m]", "kimi-k2"),
        ("claude-fable-1", "kimi-k2"),
        ("claude-2.1", "kimi-k2"),
        ("anthropic/claude-opus-4", "GLM-4.7"),
        ("us.anthropic.claude-3-haiku-20240307-v1:0", "qwen3"),
    ],
)
def test_resolve(name: str, alias: str) -> None:
    assert FULL.resolve(name).alias == alias


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("glm-4.8", 'model: "glm-4.8" is not served here; did you mean "GLM-4.7"?'),
        ("kimi", 'did you mean "kimi-k2"?'),
        ("gpt-9", 'model: "gpt-9" is not served here; GET /v1/models lists all names'),
        ("", 'model: "" is not served here'),
        ("opus-like", "is not served here"),
        ("a\nb\x00", r'model: "a\nb\u0000" is not served here'),
        ("x" * 5000, "xxx... "),
    ],
)
def test_unknown(name: str, message: str) -> None:
    with pytest.raises(UnknownModel) as raised:
        FULL.resolve(name)
    assert message.replace("... ", "...") in raised.value.message
    assert len(raised.value.message) < 300
    assert raised.value.message.isprintable()


def test_no_models_at_all() -> None:
    empty = Routes(Config())
    assert not empty
    assert empty.roles == {}
    assert empty.listed_models() == ()
    with pytest.raises(UnknownModel, match="no model is configured"):
        empty.resolve("claude-opus-4")


ROLE_CASES: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "nothing said": ({}, dict.fromkeys(("default", *ROLES), "a")),
    "only default": ({"roles": {"default": "b"}}, dict.fromkeys(("default", *ROLES), "b")),
    "one role": (
        {"roles": {"opus": "b"}},
        dict.fromkeys(("default", *ROLES), "b"),
    ),
    "sonnet is the default": (
        {"roles": {"opus": "b", "sonnet": "c"}},
        {"default": "c", "opus": "b", "sonnet": "c", "haiku": "c", "fable": "c"},
    ),
    "preset": (
        {"preset": {"opus": "b", "sonnet": "c"}},
        {"default": "c", "opus": "b", "sonnet": "c", "haiku": "c", "fable": "c"},
    ),
    "written above preset": (
        {"roles": {"haiku": "a"}, "preset": {"opus": "b", "default": "c"}},
        {"default": "c", "opus": "b", "sonnet": "c", "haiku": "a", "fable": "c"},
    ),
    "written default above preset roles": (
        {"roles": {"default": "a"}, "preset": {"opus": "b"}},
        dict.fromkeys(("default", *ROLES), "a"),
    ),
}


@pytest.mark.parametrize(("settings", "roles"), ROLE_CASES.values(), ids=ROLE_CASES)
def test_roles(settings: dict[str, Any], roles: dict[str, str]) -> None:
    assert Routes(config("a", "b", "c", **settings)).roles == roles


SIDE_CASES: dict[str, tuple[dict[str, str], SideRole, str]] = {
    "none": ({}, "title", "a"),
    "own": ({"title": "b"}, "title", "b"),
    "titles are background": ({"background": "b"}, "title", "b"),
    "own title beside the background": ({"background": "b", "title": "c"}, "title", "c"),
    "verdicts are not": ({"background": "b"}, "classifier", "a"),
    "searches are not": ({"background": "b"}, "web_search", "a"),
    "a conversation": ({"background": "b"}, "", "a"),
}


@pytest.mark.parametrize(("roles", "role", "alias"), SIDE_CASES.values(), ids=SIDE_CASES)
def test_side_calls(roles: dict[str, str], role: SideRole, alias: str) -> None:
    routes = Routes(config("a", "b", "c", roles=roles))
    caller = Caller(key_id="k", key_name="k")
    assert routes.choose("a", role=role, caller=caller).alias == alias


def test_a_side_call_needs_no_known_model() -> None:
    routes = Routes(config("a", "b", roles={"background": "b"}))
    caller = Caller(key_id="k", key_name="k")
    assert routes.choose("some-haiku", role="background", caller=caller).alias == "b"
    with pytest.raises(UnknownModel):
        routes.choose("some-haiku", role="", caller=caller)


def test_a_role_opens_no_model_to_a_key() -> None:
    routes = Routes(config("a", "b", roles={"background": "b"}))
    workspace = Workspace(
        id="w", name="w", created_at=dt.datetime.now(dt.UTC), allowed_models=("a",)
    )
    caller = Caller(key_id="k", key_name="k", workspace=workspace)
    assert routes.choose("a", role="background", caller=caller).alias == "a"
    with pytest.raises(PermissionDenied, match="may not use b"):
        routes.choose("b", role="", caller=caller)


def test_listed_models() -> None:
    assert [model.id for model in FULL.listed_models()] == [
        "GLM-4.7",
        "kimi-k2",
        "qwen3",
        "org/model",
        "claude-own",
        "claude-GLM-4.7",
        "claude-kimi-k2",
        "claude-qwen3",
        "anthropic/org/model",
    ]


def test_a_name_for_discovery_never_hides_a_model() -> None:
    routes = Routes(config("a", "claude-a"))
    assert [model.id for model in routes.listed_models()] == ["a", "claude-a"]
    assert routes.resolve("claude-a").alias == "claude-a"


def test_names_that_differ_in_case_only_stay_apart() -> None:
    routes = Routes(config("Model", "model"))
    assert routes.resolve("Model").alias == "Model"
    assert routes.resolve("model").alias == "model"
    assert routes.resolve("MODEL").alias == "Model"


def test_targets() -> None:
    base = config()
    model = ModelConfig(
        upstream=("two", "lab"),
        upstream_model={"two": "glm-4.7"},
        display_name="Mine",
        profile={"context_window": 4096},
        first_byte_timeout_s=7,
        retries=1,
    )
    route = Routes(Config(upstreams=base.upstreams, models={"ep-1": model})).resolve("ep-1")
    assert route.display_name == "Mine"
    first, second = route.targets
    assert (first.deployment.upstream, first.deployment.model) == ("two", "glm-4.7")
    assert (first.deployment.kind, first.trusted) == ("anthropic", False)
    assert (second.deployment.upstream, second.deployment.model) == ("lab", "ep-1")
    assert (second.deployment.kind, second.trusted) == ("openai", True)
    for target in route.targets:
        assert (target.first_byte_timeout_s, target.retries) == (7, 1)
        assert (target.connect_timeout_s, target.idle_timeout_s) == (5, 300)
        assert target.deployment.profile.context_window == 4096
    assert route.profile is first.deployment.profile


def test_the_alias_tells_the_model_where_the_upstream_name_does_not() -> None:
    model = ModelConfig(upstream=("lab",), upstream_model="ep-20260101-abc")
    routes = Routes(Config(upstreams=config().upstreams, models={"glm-4.7": model}))
    assert routes.resolve("glm-4.7").profile.name == "glm-4.7 on vllm"


@pytest.mark.parametrize(
    ("family", "name"), [("kimi-k2.5", "kimi-k2.5 on vllm"), ("qwen", "qwen on vllm")]
)
def test_the_configuration_tells_the_model_where_no_name_does(family: str, name: str) -> None:
    model = ModelConfig(upstream=("lab",), upstream_model="default", family=family)
    routes = Routes(Config(upstreams=config().upstreams, models={"glm-4.7": model}))
    profile = routes.resolve("glm-4.7").profile
    assert profile.name == name
    assert profile.tool_text == find_profile(family, platform="vllm").tool_text


def test_the_demo_serves_every_claude_name_when_alone_and_none_beside_others() -> None:
    url = "http://127.0.0.1:1/v1"
    alone = Routes(with_engine(Config(), "demo", url, display_name="Demo", leads=False))
    assert next(iter(alone.listed_models())).id == "demo"
    assert {alone.resolve(name).alias for name in ("claude-opus-4", "haiku", "claude-x")} == {
        "demo"
    }
    beside = Routes(with_engine(config("paid"), "demo", url, display_name="Demo", leads=False))
    assert [model.id for model in beside.listed_models()][:2] == ["paid", "demo"]
    assert beside.resolve("claude-opus-4").alias == "paid"
    assert len(beside.resolve("demo").targets) == 1


@given(st.text(max_size=40))
def test_any_name_resolves_or_is_unknown(name: str) -> None:
    try:
        route = FULL.resolve(name)
    except UnknownModel:
        return
    assert route.alias in FULL.aliases


@given(st.text(max_size=40))
def test_every_claude_name_is_served(rest: str) -> None:
    assert FULL.resolve(f"claude-{rest}").targets
