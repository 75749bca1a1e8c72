"""
What this machine has to offer: engines that already run here, and a model for the embedded one.

Engines are looked for by one GET each, without any credential, on their usual loopback ports.
"""

import asyncio
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from msgspec import Struct, structs
from rich.console import Console

from dragoman.build import open_upstream
from dragoman.config import Config, with_local_engine
from dragoman.core.errors import UpstreamError
from dragoman.discovery import Discovery, FoundModels, with_found_models
from dragoman.downloads import (
    ConsoleProgress,
    DownloadError,
    Offer,
    cache_folder,
    format_size,
    free_memory_bytes,
    resolve_local_model,
)
from dragoman.engine import EngineModel
from dragoman.model_lists import get, is_chat_model, read_list
from dragoman.presets import LocalEngine, load_catalog
from dragoman.server.transport.ask import Answer
from dragoman.settings import Platform, UpstreamConfig

_PROBE_TIMEOUT_S: Final = 1.0  # each start waits for it; a loopback answer takes milliseconds
_MAX_MODELS: Final = 200
_OWN_HEADER: Final = b"x-dragoman-version"
# What engines write into "owned_by" of their list. Several programs like ports 8000 and 8080.
_OWNERS: Final[Mapping[str, Platform]] = {
    "llamacpp": "llamacpp",
    "library": "ollama",
    "sglang": "sglang",
    "vllm": "vllm",
}


class FoundEngine(Struct, frozen=True, kw_only=True):
    """An engine that answered, and the models that it lists."""

    engine: LocalEngine
    models: tuple[str, ...]


Found = FoundEngine | FoundModels


async def find_local_engines(
    config: Config,
    *,
    engines: Sequence[LocalEngine] | None = None,
    discovery: Discovery | None = None,
) -> tuple[Found, ...]:
    """
    Return what upstreams serve that want to be asked, and the engines of this machine.

    Args:
        config: Says whether to look; what it names already, and our own port, is left out.
        engines: Where to look; None: the packaged list.
        discovery: Remembers what upstreams have said; None: they are asked this once.
    """
    known = load_catalog().local_engines if engines is None else engines
    if not config.server.local_engines:
        known = ()
    wanted = [engine for engine in known if not _is_taken(config, engine)]
    models, found = await asyncio.gather(
        (discovery or Discovery()).ask(config),
        asyncio.gather(*(_probe(engine) for engine in wanted)),
    )
    return (*models, *(engine for engine in found if engine is not None))


def with_found_engines(config: Config, found: Iterable[Found]) -> Config:
    """Return *config* with everything that was found, after everything configured."""
    for each in found:
        if isinstance(each, FoundModels):
            config = with_found_models(config, each)
        else:
            config = with_local_engine(config, each.engine, each.models)
    return config


def _is_taken(config: Config, engine: LocalEngine) -> bool:
    """Say whether the address is our own, or that of a configured upstream."""
    if engine.port == config.server.port:
        return True
    changed = engine.base_url.replace("127.0.0.1", "localhost")
    urls = {url for upstream in config.upstreams.values() for url in upstream.addresses}
    return engine.base_url in urls or changed in urls


async def _probe(engine: LocalEngine) -> FoundEngine | None:
    upstream = open_upstream(UpstreamConfig(base_url=engine.base_url), environ={})
    try:
        answer = await get(upstream, "/models", timeout_s=_PROBE_TIMEOUT_S)
    except UpstreamError:  # nobody is there, or no engine
        return None
    finally:
        await upstream.close()
    return _read_list(engine, answer)


def _read_list(engine: LocalEngine, answer: Answer) -> FoundEngine | None:
    if answer.status != 200 or _OWN_HEADER in answer.headers:  # another of us would be a detour
        return None
    models = [model for model in read_list(answer.body) if is_chat_model(model.id)]
    if not models:
        return None
    platform = _OWNERS.get(models[0].owned_by or "")
    if platform is None:
        platform = engine.platform if engine.own_port else "generic"
    names = tuple(model.id for model in models[:_MAX_MODELS])
    return FoundEngine(engine=_as_platform(engine, platform), models=names)


def _as_platform(engine: LocalEngine, platform: Platform) -> LocalEngine:
    """Return *engine* as what it turned out to be, with the name that goes with it."""
    if platform == engine.platform:
        return engine
    names = {known.platform: known.name for known in load_catalog().local_engines}
    name = engine.name if platform == "generic" else names[platform]
    return structs.replace(engine, platform=platform, name=name)


def choose_local_model(
    spec: str | None, *, may_download: bool, environ: Mapping[str, str] = os.environ
) -> EngineModel:
    """
    Return the model for `--local`, after downloading it if need be. Blocks while it does.

    Args:
        spec: A path, ``repo_id:file``, or None: choose by free memory.
        may_download: The user has agreed already; otherwise asked, on a terminal.
        environ: Where the hub's own variables are.

    Raises:
        EngineError: It cannot be had, or the user does not want it.
    """
    return resolve_local_model(
        spec,
        free_memory_bytes=free_memory_bytes(),
        free_disk_bytes=_free_disk_bytes(cache_folder(environ)),
        progress=AskingProgress(Console(stderr=True), may_download=may_download),
        environ=environ,
    )


class AskingProgress:
    """
    Ask before the download begins, then show it.

    Args:
        console: Where it is shown.
        may_download: Do not ask.
        answer: Reads one line of the user; None: there is nobody to ask.
    """

    def __init__(
        self, console: Console, *, may_download: bool, answer: Callable[[], str] | None = None
    ) -> None:
        self._console = console
        self._may_download = may_download
        self._answer = answer or (_read_line if console.is_terminal and _is_answered() else None)
        self._shown = ConsoleProgress(console)

    def offer(self, offer: Offer) -> None:
        if not self._may_download:
            self._ask(offer)
        self._shown.offer(offer)

    def advance(self, n_bytes: int) -> None:
        self._shown.advance(n_bytes)

    def finish(self) -> None:
        self._shown.finish()

    def _ask(self, offer: Offer) -> None:
        what = (
            f"{offer.repo_id}: {format_size(offer.size_bytes)}, licence {offer.licence}, "
            f"for {offer.folder}"
        )
        if self._answer is None:
            raise DownloadError(f"{what}; add --yes to download it")
        question = f"Download {what}? [y/N] "
        self._console.print(question, end="", markup=False, highlight=False, soft_wrap=True)
        if self._answer().strip().casefold() not in {"y", "yes"}:
            raise DownloadError(f"{offer.repo_id}: not downloaded; try --demo, or a model of yours")


def _read_line() -> str:
    return sys.stdin.readline()


def _is_answered() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


def _free_disk_bytes(folder: Path) -> int:
    """Return what is free where *folder* is, or will be."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    return shutil.disk_usage(there).free
