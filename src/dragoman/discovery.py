"""
What the engines of an upstream serve: asked at the start, where `discover` says so.

Each address is asked for its list of models, and llama.cpp also for its window, which it leaves out
there. An engine that does not answer in time is left out; it takes part as soon as it is up.
"""

import asyncio
import os
from collections.abc import Mapping
from itertools import islice
from typing import Any, Final

import msgspec
from msgspec import Struct, structs

from dragoman.build import open_endpoint
from dragoman.config import Config
from dragoman.core.errors import UpstreamError
from dragoman.model_lists import get, is_chat_model, read_list
from dragoman.policy.endpoints import Endpoint, endpoints_of
from dragoman.server.transport.http_upstream import HttpUpstream
from dragoman.settings import ModelConfig, UpstreamConfig

_TIMEOUT_S: Final = 2.0  # each start waits for it once
_MAX_AT_ONCE: Final = 32
_MAX_MODELS: Final = 200  # of one upstream
_MIN_WINDOW, _MAX_WINDOW = 256, 100_000_000  # tokens; anything else is a slip of theirs
_PATHS: Final = {"openai": "/models", "anthropic": "/v1/models"}
_VERSION: Final = (b"anthropic-version", b"2023-06-01")


class FoundModels(Struct, frozen=True, kw_only=True):
    """The models of one upstream, each with its window in tokens; None: it is not said."""

    upstream: str
    windows: dict[str, int | None]


class _Slot(Struct, frozen=True):
    n_ctx: int | None = None


class _Props(Struct, frozen=True):
    """What llama.cpp says of itself; the window is that of one slot."""

    default_generation_settings: _Slot = _Slot()


_decode_props: Final = msgspec.json.Decoder(_Props).decode


async def discover_models(
    config: Config, *, environ: Mapping[str, str] = os.environ
) -> tuple[FoundModels, ...]:
    """Return what the upstreams serve that want to be asked."""
    slots = asyncio.Semaphore(_MAX_AT_ONCE)
    asked = [(n, u) for n, u in config.upstreams.items() if u.discover]
    return tuple(
        await asyncio.gather(*(_ask_all(n, u, slots=slots, environ=environ) for n, u in asked))
    )


async def _ask_all(
    name: str, upstream: UpstreamConfig, *, slots: asyncio.Semaphore, environ: Mapping[str, str]
) -> FoundModels:
    """Ask all addresses, with the first key; the smallest window holds for all."""
    places = {each.base_url: each for each in reversed(endpoints_of(name, upstream))}
    answers = await asyncio.gather(
        *(_ask(each, upstream, slots=slots, environ=environ) for each in places.values())
    )
    windows: dict[str, int | None] = {}
    for answer in answers:
        for model, window in answer.items():
            known = windows.get(model)
            windows[model] = min(window, known) if window and known else window or known
    return FoundModels(upstream=name, windows=dict(islice(windows.items(), _MAX_MODELS)))


async def _ask(
    endpoint: Endpoint,
    upstream: UpstreamConfig,
    *,
    slots: asyncio.Semaphore,
    environ: Mapping[str, str],
) -> dict[str, int | None]:
    async with slots:
        opened = open_endpoint(endpoint, upstream, environ=environ, tls=None)
        headers = [_VERSION] if upstream.kind == "anthropic" else []
        try:
            path = _PATHS[upstream.kind]
            answer = await get(opened, path, timeout_s=_TIMEOUT_S, headers=headers)
            listed = read_list(answer.body) if answer.status == 200 else ()
            of_all = await _slot_window(opened) if upstream.platform == "llamacpp" else None
        except UpstreamError:
            return {}
        finally:
            await opened.close()
    models = [model for model in listed if is_chat_model(model.id)]
    return {model.id: _credible(of_all or model.max_model_len) for model in models}


def _credible(window: int | None) -> int | None:
    return window if window and _MIN_WINDOW <= window <= _MAX_WINDOW else None


async def _slot_window(opened: HttpUpstream) -> int | None:
    try:
        answer = await get(opened, "/props", timeout_s=_TIMEOUT_S, at_root=True)
        return _decode_props(answer.body).default_generation_settings.n_ctx
    except (UpstreamError, msgspec.DecodeError, UnicodeDecodeError):
        return None


def with_found_models(config: Config, found: FoundModels) -> Config:
    """
    Return *config* with what an upstream serves, and with the windows that its models have there.

    A model that is configured stays as it is but for its window, and that too if it is written
    down. A name that is taken already is ``<upstream>/<name>``.
    """
    models = dict(config.models)
    served = {a for a, model in models.items() if found.upstream in model.upstream}
    known = {config.upstream_model(alias, found.upstream) for alias in served}
    for name in found.windows:
        if name not in known:
            alias = f"{found.upstream}/{name}" if name in models else name
            models[alias] = ModelConfig(upstream=(found.upstream,), upstream_model=name)
            served.add(alias)
    config = structs.replace(config, models=models)
    for alias in served:
        window = found.windows.get(config.upstream_model(alias, found.upstream))
        if window:
            models[alias] = _with_window(models[alias], window)
    return structs.replace(config, models=models)


def _with_window(model: ModelConfig, window: int) -> ModelConfig:
    profile: dict[str, Any] = {"context_window": window, **model.profile}
    return structs.replace(model, profile=profile)
