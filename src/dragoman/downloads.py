"""
`--local`: from a path, a file on the Hugging Face hub or nothing at all to a model to serve.

Files go to the cache that all tools of the hub share. What is there already is used without a
request to anyone, so the second start works offline.
"""

import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, Self

import msgspec
from msgspec import Struct
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.progress import Progress as RichBar

from dragoman.engine import EngineError, EngineModel, check_model_file

if TYPE_CHECKING:
    from types import ModuleType

    from huggingface_hub import ModelInfo

_TABLE_FILE: Final = Path(__file__).with_name("data") / "local-models.toml"
_SPEC: Final = re.compile(r"([\w.-]+/[\w.-]+):([^:]+\.gguf)", re.IGNORECASE)
_SPLIT: Final = re.compile(r"(.+)-00001-of-(\d{5})(\.gguf)", re.IGNORECASE)
_MAX_PARTS: Final = 1000
_WINDOW: Final = 32_768  # what an agent needs, and what the models of the table were trained on
_MIN_WINDOW: Final = 4096
_WORK_BYTES: Final = 10**9  # for computing, beside the file and the window
_SPARE_DISK_BYTES: Final = 2**29  # a disk filled to its last byte breaks other programs
_HUB_TIMEOUT_S: Final = 15.0


class DownloadError(EngineError):
    """The model cannot be had. The message is one line for the user."""


class LocalModel(Struct, frozen=True, kw_only=True):
    """One row of the table of known models."""

    alias: str
    repo_id: str
    file: str
    licence: str
    size_bytes: int
    bytes_per_token: int


class Offer(Struct, frozen=True, kw_only=True):
    """What is about to be downloaded."""

    repo_id: str
    files: tuple[str, ...]
    size_bytes: int
    licence: str
    folder: Path


class Progress(Protocol):
    """Where the download is shown. Calls may come from another thread."""

    def offer(self, offer: Offer) -> None: ...
    def advance(self, n_bytes: int) -> None: ...
    def finish(self) -> None: ...


class ConsoleProgress:
    """Show a download on a terminal; elsewhere only its first line."""

    def __init__(self, console: Console) -> None:
        self._console = console
        columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        self._bar = RichBar(*columns, console=console, disable=not console.is_terminal)
        self._task = self._bar.add_task("download", start=False)

    def offer(self, offer: Offer) -> None:
        more = f" and {len(offer.files) - 1} more" if len(offer.files) > 1 else ""
        self._console.print(
            f"Downloading {escape(offer.files[0])}{more} from {escape(offer.repo_id)}: "
            f"{format_size(offer.size_bytes)}, licence {escape(offer.licence)}, "
            f"into {escape(str(offer.folder))}",
            highlight=False,
            soft_wrap=True,
        )
        self._bar.update(self._task, total=offer.size_bytes)
        self._bar.start()
        self._bar.start_task(self._task)

    def advance(self, n_bytes: int) -> None:
        self._bar.advance(self._task, n_bytes)

    def finish(self) -> None:
        self._bar.stop()


class _Table(Struct, frozen=True):
    models: tuple[LocalModel, ...]


def load_local_models() -> tuple[LocalModel, ...]:
    """Return the known models, best first."""
    return msgspec.toml.decode(_TABLE_FILE.read_bytes(), type=_Table).models


def resolve_local_model(
    spec: str | None,
    *,
    free_memory_bytes: int,
    free_disk_bytes: int,
    progress: Progress,
    environ: Mapping[str, str] = os.environ,
) -> EngineModel:
    """
    Return the model for `--local`, after downloading it if need be. Blocks while it does.

    Args:
        spec: A path, ``repo_id:file``, or None: choose by memory.
        free_memory_bytes: What the model may fill.
        free_disk_bytes: Where the hub's cache is.
        progress: Is shown size and licence before the first byte.
        environ: Where the hub's own variables are (HF_ENDPOINT, HF_HUB_CACHE, HF_HOME ...).

    Raises:
        DownloadError: It cannot be had.
        EngineError: It is not a model.
    """
    if spec is not None and Path(spec).expanduser().exists():
        return _model_of_path(Path(spec).expanduser(), free_memory_bytes)
    hub = _Hub(environ)
    if spec is None:
        row = _choose(load_local_models(), free_memory_bytes, hub=hub)
        path = hub.fetch(row.repo_id, row.file, free_disk_bytes=free_disk_bytes, progress=progress)
        window = _window(row, free_memory_bytes)
        return EngineModel(path=path, alias=row.alias, context_size=window)
    repo_id, file = _parse_spec(spec)
    path = hub.fetch(repo_id, file, free_disk_bytes=free_disk_bytes, progress=progress)
    return _model_of_path(path, free_memory_bytes)


def free_memory_bytes() -> int:
    """Return the memory that new programs can have; half of all where only that is known."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    if not hasattr(os, "sysconf"):  # Windows
        return 4 * 2**30
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def cache_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the hub's cache, as the hub's own tools find it."""
    if own := environ.get("HF_HUB_CACHE") or environ.get("HUGGINGFACE_HUB_CACHE"):
        return Path(own).expanduser()
    base = environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = environ.get("HF_HOME") or f"{base}/huggingface"
    return Path(home).expanduser() / "hub"


def format_size(n_bytes: int) -> str:
    """Return *n_bytes* for a person, in the decimal units that disks and hubs are sold by."""
    if n_bytes >= 10**9:
        return f"{n_bytes / 10**9:.1f} GB"
    return f"{n_bytes / 10**6:.1f} MB"


class _Hub:
    """The one place that loads huggingface_hub, and the names of its failures."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.cache = cache_folder(environ)
        self._endpoint = environ.get("HF_ENDPOINT") or None
        self._is_offline = environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}

    def find(self, repo_id: str, file: str) -> Path | None:
        """Return the first part of the model if all of it is in the cache."""
        library = _load_library()
        found: list[Path] = []
        for part in _parts(file):
            path = library.try_to_load_from_cache(repo_id, part, cache_dir=self.cache)
            if not isinstance(path, str):
                return None
            found.append(Path(path))
        return found[0]

    def fetch(self, repo_id: str, file: str, *, free_disk_bytes: int, progress: Progress) -> Path:
        """Return the first part of the model, after downloading what is not in the cache."""
        _load_library()
        with _naming_failures(repo_id):
            if path := self.find(repo_id, file):
                return path
            if self._is_offline:
                raise DownloadError(
                    f"{repo_id}: {file} is not in the cache, and HF_HUB_OFFLINE is set"
                )
            offer = self._inspect(repo_id, file)
            _check_disk(offer, free_disk_bytes)
            progress.offer(offer)
            try:
                paths = [self._download(repo_id, part, progress) for part in offer.files]
            finally:
                progress.finish()
            return Path(paths[0])

    def _inspect(self, repo_id: str, file: str) -> Offer:
        api = _load_library().HfApi(endpoint=self._endpoint)
        info = api.model_info(repo_id, files_metadata=True, timeout=_HUB_TIMEOUT_S)
        sizes = {s.rfilename: s.size or 0 for s in info.siblings or ()}
        parts = _parts(file)
        if missing := [part for part in parts if part not in sizes]:
            raise DownloadError(_missing_file(repo_id, missing[0], list(sizes)))
        return Offer(
            repo_id=repo_id,
            files=parts,
            size_bytes=sum(sizes[part] for part in parts),
            licence=_licence_of(info),
            folder=self.cache,
        )

    def _download(self, repo_id: str, part: str, progress: Progress) -> str:
        path: str = _load_library().hf_hub_download(
            repo_id,
            part,
            cache_dir=self.cache,
            endpoint=self._endpoint,
            tqdm_class=_bar_class(progress),
        )
        return path


def _load_library() -> "ModuleType":
    try:
        import huggingface_hub  # noqa: PLC0415 - half a second, and optional
    except ImportError:
        raise DownloadError("the hub's library is missing: pip install 'dragoman[local]'") from None
    # Its warnings would break the bar; what matters of them comes as an exception.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    return huggingface_hub


@contextmanager
def _naming_failures(repo_id: str) -> Iterator[None]:
    """Turn whatever the hub's library raises into one line that says what to do."""
    from huggingface_hub import errors  # noqa: PLC0415 - loaded by now

    try:
        yield
    except EngineError:
        raise
    except errors.GatedRepoError:
        reason = "its owner wants the licence accepted on its page first; then set HF_TOKEN"
    except errors.RepositoryNotFoundError:
        reason = "the hub has no such model, or it is private (set HF_TOKEN)"
    except errors.EntryNotFoundError:
        reason = "the hub has no such file"
    except errors.HFValidationError:
        reason = "not a name of a model on the hub; write owner/name:file.gguf"
    except errors.HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else "an error"
        reason = f"the hub answered {status}; try again later"
    except Exception as error:  # it lets the errors of its HTTP client through, whichever that is
        first = (str(error).strip().splitlines() or [""])[0][:200]
        reason = f"the download failed ({type(error).__name__}: {first}); start it again"
    else:
        return
    raise DownloadError(f"{repo_id}: {reason}")


def _bar_class(progress: Progress) -> type:
    """Return what the library takes for a tqdm bar and feeds with byte counts."""

    class Bar:
        def __init__(self, *_: object, initial: int = 0, **__: object) -> None:
            if initial:  # of an earlier, interrupted download
                progress.advance(initial)

        def update(self, n_bytes: float | None = 1) -> None:
            progress.advance(int(n_bytes or 0))

        def close(self) -> None:
            """Do nothing: other parts may follow."""

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None:
            self.close()

        def __getattr__(self, name: str) -> Callable[..., None]:
            """Accept the rest of tqdm's methods: they only change how a bar looks."""
            if name.startswith("_") or name == "update_transfer":
                raise AttributeError(name)
            return lambda *_, **__: None

    return Bar


def _parse_spec(spec: str) -> tuple[str, str]:
    match = _SPEC.fullmatch(spec)
    if match is None:
        raise DownloadError(f"{spec}: neither a file here nor owner/name:file.gguf on the hub")
    return match[1], match[2]


def _parts(file: str) -> tuple[str, ...]:
    """Return all files of a split model; *file* is the first."""
    match = _SPLIT.fullmatch(file)
    if match is None:
        return (file,)
    total = min(int(match[2]), _MAX_PARTS)
    return tuple(f"{match[1]}-{i:05d}-of-{match[2]}{match[3]}" for i in range(1, total + 1))


def _missing_file(repo_id: str, file: str, names: list[str]) -> str:
    models = sorted(name for name in names if name.lower().endswith(".gguf"))
    there = ", ".join(models[:8]) + (", ..." if len(models) > 8 else "")
    return f"{repo_id}: has no file {file}" + (f"; there are {there}" if models else "")


def _licence_of(info: "ModelInfo") -> str:
    card = info.card_data
    if card is not None and card.get("license"):
        return str(card.get("license"))
    named = [tag.removeprefix("license:") for tag in info.tags or () if tag.startswith("license:")]
    return named[0] if named else "not stated"


def _check_disk(offer: Offer, free_disk_bytes: int) -> None:
    if offer.size_bytes + _SPARE_DISK_BYTES > free_disk_bytes:
        raise DownloadError(
            f"{offer.repo_id}: {format_size(offer.size_bytes)} do not fit on the disk of "
            f"{offer.folder} ({format_size(free_disk_bytes)} free); set HF_HUB_CACHE to another"
        )


def _choose(rows: tuple[LocalModel, ...], free_memory: int, *, hub: _Hub) -> LocalModel:
    """Return a model that is here and fits, else the best that fits with a whole window."""
    fitting = [row for row in rows if _window(row, free_memory)]
    if not fitting:
        needed = rows[-1].size_bytes + rows[-1].bytes_per_token * _MIN_WINDOW + _WORK_BYTES
        raise DownloadError(
            f"{format_size(free_memory)} of free memory are too few for any known model "
            f"({format_size(needed)} are needed); try --demo"
        )
    here = [row for row in fitting if hub.find(row.repo_id, row.file)]
    whole = [row for row in fitting if _window(row, free_memory) == _WINDOW]
    return (here or whole or fitting[-1:])[0]


def _window(row: LocalModel, free_memory: int) -> int:
    """Return the largest window that fits in memory beside the model; 0: none worth having."""
    room = (free_memory - row.size_bytes - _WORK_BYTES) // row.bytes_per_token
    if room < _MIN_WINDOW:
        return 0
    return min(_WINDOW, room // 1024 * 1024)


def _model_of_path(path: Path, free_memory: int) -> EngineModel:
    check_model_file(path)
    room = free_memory - path.stat().st_size
    # What a token of the window costs is not known here: 160 kB is a usual model of 14B.
    window = max(_MIN_WINDOW, min(_WINDOW, room // 163_840 // 1024 * 1024))
    return EngineModel(path=path.absolute(), alias=_alias_of(path), context_size=window)


def _alias_of(path: Path) -> str:
    stem = re.sub(r"-00001-of-\d{5}$", "", path.stem)
    return re.sub(r"[^a-z0-9._-]+", "-", stem.lower()).strip("-.") or "local"
