"""
What the engines of an upstream serve: asked at the start, where `discover` says so.

Each address is asked for its list of models, and llama.cpp also for its window, which it leaves out
there. An engine that does not answer in time is left out, and asked again while the gateway serves.
"""

import asyncio
import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, Final, TypeAlias

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
_MAX_SHOWN: Final = 8
_MAX_MODELS: Final = 200  # of one upstream
_MIN_WINDOW, _MAX_WINDOW = 256, 100_000_000  # tokens; anything else is a slip of theirs
_PATHS: Final = {"openai": "/models", "anthropic": "/v1/models"}
_VERSION: Final = (b"anthropic-version", b"2023-06-01")

_Windows: TypeAlias = dict[str, int | None]  # of models, in tokens; None: it is not said


class FoundModels(Struct, frozen=True, kw_only=True):
    """
    The models of one upstream.

    Attributes:
        windows: Of each model, in tokens; None: it is not said.
        served_at: Base URLs for those models that an address with a list does not name there: those
            that do, and those of which nothing is known.
    """

    upstream: str
    windows: dict[str, int | None]
    served_at: dict[str, tuple[str, ...]] = {}


class _Slot(Struct, frozen=True):
    n_ctx: int | None = None


class _Props(Struct, frozen=True):
    """What llama.cpp says of itself; the window is that of one slot."""

    default_generation_settings: _Slot = _Slot()


_decode_props: Final = msgspec.json.Decoder(_Props).decode


class Discovery:
    """
    What engines have said that they serve, each by its address.

    One that is silent when all are asked anew, as it is being started, takes nothing away from what
    it has said before, and is asked again from time to time.

    Args:
        environ: Says which proxy leads to them.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._environ = environ
        self._slots = asyncio.Semaphore(_MAX_AT_ONCE)
        self._lock = asyncio.Lock()  # a reload may come while the silent ones are asked
        self._said: dict[str, _Windows] = {}  # by the mark of an endpoint
        self._silent: list[_Place] = []

    @property
    def warning(self) -> str:
        """Which engines did not say what they serve when they were last asked; empty: all did."""
        names = [place.endpoint.name for place in self._silent]
        if not names:
            return ""
        n_more = len(names) - _MAX_SHOWN
        more = f", and {n_more} more" if n_more > 0 else ""
        verb = "does" if len(names) == 1 else "do"
        shown = ", ".join(names[:_MAX_SHOWN])
        return f"discover: {shown}{more} {verb} not say what is served there; asked again and again"

    async def ask(self, config: Config) -> tuple[FoundModels, ...]:
        """Return what the upstreams serve that want to be asked."""
        by_upstream = {n: _places(n, u) for n, u in config.upstreams.items() if u.discover}
        places = [place for each in by_upstream.values() for place in each]
        marks = {place.endpoint.mark for place in places}
        async with self._lock:
            self._said = {mark: said for mark, said in self._said.items() if mark in marks}
            await self._hear(places)
        return tuple(self._sum_up(name, each) for name, each in by_upstream.items())

    async def has_news(self) -> bool:
        """Ask those again that were silent, and tell whether one of them answers now."""
        async with self._lock:
            silent = self._silent
            await self._hear(silent)
            return len(self._silent) < len(silent)

    async def _hear(self, places: Sequence["_Place"]) -> None:
        answers = await asyncio.gather(*map(self._ask, places))
        heard = list(zip(places, answers, strict=True))
        self._silent = [place for place, answer in heard if answer is None]
        self._said |= {p.endpoint.mark: answer for p, answer in heard if answer is not None}

    async def _ask(self, place: "_Place") -> "_Windows | None":
        async with self._slots:
            return await _ask(place, environ=self._environ)

    def _sum_up(self, name: str, places: Sequence["_Place"]) -> FoundModels:
        """Return what all addresses have said; the smallest window holds for all."""
        windows: _Windows = {}
        for place in places:
            for model, window in self._said.get(place.endpoint.mark, {}).items():
                known = windows.get(model)
                windows[model] = min(window, known) if window and known else window or known
        windows = dict(islice(windows.items(), _MAX_MODELS))
        by_model = {model: self._urls_of(model, places) for model in windows}
        served_at = {model: urls for model, urls in by_model.items() if len(urls) < len(places)}
        return FoundModels(upstream=name, windows=windows, served_at=served_at)

    def _urls_of(self, model: str, places: Iterable["_Place"]) -> tuple[str, ...]:
        """Return where a model is served, or may be: whoever lists nothing has not denied it."""
        said = {place.endpoint.base_url: self._said.get(place.endpoint.mark) for place in places}
        return tuple(url for url, windows in said.items() if not windows or model in windows)


class _Place(Struct, frozen=True):
    endpoint: Endpoint
    upstream: UpstreamConfig


def _places(name: str, upstream: UpstreamConfig) -> list[_Place]:
    """Return all addresses of an upstream, each with the first key."""
    by_url = {each.base_url: each for each in reversed(endpoints_of(name, upstream))}
    return [_Place(endpoint, upstream) for endpoint in reversed(by_url.values())]


async def discover_models(
    config: Config, *, environ: Mapping[str, str] = os.environ
) -> tuple[FoundModels, ...]:
    """Return what the upstreams serve that want to be asked."""
    return await Discovery(environ).ask(config)


async def _ask(place: _Place, *, environ: Mapping[str, str]) -> _Windows | None:
    """Return the models of one address; None: it does not say what it serves."""
    upstream = place.upstream
    opened = open_endpoint(place.endpoint, upstream, environ=environ, tls=None)
    headers = [_VERSION] if upstream.kind == "anthropic" else []
    try:
        answer = await get(opened, _PATHS[upstream.kind], timeout_s=_TIMEOUT_S, headers=headers)
        if answer.status != 200:
            return None
        listed = read_list(answer.body)
        of_all = await _slot_window(opened) if upstream.platform == "llamacpp" else None
    except UpstreamError:
        return None
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
    down. Any other is asked for only at addresses that may serve it. A name that is taken
    already is ``<upstream>/<name>``.
    """
    models, served_at = dict(config.models), dict(config.served_at)
    served = {a for a, model in models.items() if found.upstream in model.upstream}
    known = {config.upstream_model(alias, found.upstream) for alias in served}
    for name in found.windows:
        if name not in known:
            alias = f"{found.upstream}/{name}" if name in models else name
            models[alias] = ModelConfig(upstream=(found.upstream,), upstream_model=name)
            served.add(alias)
            if (urls := found.served_at.get(name)) is not None:
                served_at[alias] = urls
    config = structs.replace(config, models=models, served_at=served_at)
    for alias in served:
        window = found.windows.get(config.upstream_model(alias, found.upstream))
        if window:
            models[alias] = _with_window(models[alias], window)
    return structs.replace(config, models=models)


def _with_window(model: ModelConfig, window: int) -> ModelConfig:
    profile: dict[str, Any] = {"context_window": window, **model.profile}
    return structs.replace(model, profile=profile)
