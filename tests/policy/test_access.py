"""What a caller may use, by the key and by its workspace."""

import datetime as dt

import pytest

from dragoman.core.errors import PermissionDenied
from dragoman.policy.access import Caller, VirtualKey, Workspace

NOW = dt.datetime(2026, 11, 25, tzinfo=dt.UTC)
TEAM = Workspace(
    id="wrkspc_1", name="team", created_at=NOW, allowed_models=("deepseek-*", "glm-4.7")
)


def caller(*patterns: str, workspace: Workspace | None = None) -> Caller:
    key = VirtualKey(
        id="apikey_1",
        name="ci",
        digest=b"x",
        hint="sk-...abcd",
        created_at=NOW,
        allowed_models=patterns,
    )
    return Caller(key_id=key.id, key_name=key.name, workspace=workspace, key=key)


@pytest.mark.parametrize(
    ("who", "alias"),
    [
        (caller(), "anything"),
        (caller("DeepSeek-V3*"), "deepseek-v3.1"),
        (caller(workspace=TEAM), "GLM-4.7"),
        (caller("deepseek-v3.2", workspace=TEAM), "deepseek-v3.2"),
    ],
)
def test_a_model_that_a_pattern_allows(who: Caller, alias: str) -> None:
    who.check_model(alias)


@pytest.mark.parametrize(
    ("who", "alias", "whose"),
    [
        (caller("deepseek-*"), "glm-4.7", "API key"),
        (caller(workspace=TEAM), "kimi-k2.5", "workspace"),
        (caller("kimi-*", workspace=TEAM), "kimi-k2.5", "workspace"),
        (caller("glm-4.7", workspace=TEAM), "deepseek-v3.1", "API key"),
    ],
)
def test_a_model_that_none_allows(who: Caller, alias: str, whose: str) -> None:
    with pytest.raises(PermissionDenied, match=f"this {whose} may not use {alias}"):
        who.check_model(alias)


def test_keys_without_a_workspace_share_nothing() -> None:
    assert caller().owner == "apikey_1"
    assert caller(workspace=TEAM).owner == "wrkspc_1"
    assert (caller().workspace_id, caller(workspace=TEAM).workspace_id) == (None, "wrkspc_1")
