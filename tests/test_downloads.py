import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from dragoman import downloads
from dragoman.downloads import (
    ConsoleProgress,
    DownloadError,
    Offer,
    cache_folder,
    load_local_models,
    resolve_local_model,
)
from dragoman.engine import EngineError, EngineModel, demo_model
from support.hub_mirror import HubMirror

GB = 10**9
REPO = "someone/Tiny-GGUF"
FILE = "tiny-chat-f16.gguf"
MODEL = demo_model().path.read_bytes()


class Seen:
    """A progress that only remembers."""

    def __init__(self) -> None:
        self.offers: list[Offer] = []
        self.n_bytes = 0
        self.is_finished = False

    def offer(self, offer: Offer) -> None:
        assert self.n_bytes == 0, "size and licence are shown before the first byte"
        self.offers.append(offer)

    def advance(self, n_bytes: int) -> None:
        self.n_bytes += n_bytes

    def finish(self) -> None:
        self.is_finished = True


def resolve(
    spec: str | None,
    folder: Path,
    mirror: HubMirror | None = None,
    *,
    memory: int = 64 * GB,
    disk: int = 64 * GB,
    seen: Seen | None = None,
    **environ: str,
) -> EngineModel:
    endpoint = mirror.url if mirror else "http://127.0.0.1:9"  # nobody is there
    return resolve_local_model(
        spec,
        free_memory_bytes=memory,
        free_disk_bytes=disk,
        progress=seen or Seen(),
        environ={"HF_ENDPOINT": endpoint, "HF_HUB_CACHE": str(folder / "hub"), **environ},
    )


def test_downloads_into_the_hubs_cache_and_starts_offline_later(tmp_path: Path) -> None:
    seen = Seen()
    with HubMirror(REPO, {FILE: MODEL}) as mirror:
        model = resolve(f"{REPO}:{FILE}", tmp_path, mirror, seen=seen)
    assert model.path.read_bytes() == MODEL
    assert model.path.is_relative_to(tmp_path / "hub" / "models--someone--Tiny-GGUF")
    assert (model.alias, model.slots) == ("tiny-chat-f16", 4)
    (offer,) = seen.offers
    assert (offer.size_bytes, offer.licence) == (len(MODEL), "cc0-1.0")
    assert (seen.n_bytes, seen.is_finished) == (len(MODEL), True)

    later = Seen()
    assert resolve(f"{REPO}:{FILE}", tmp_path, seen=later) == model
    assert not later.offers


def test_a_cached_model_is_used_without_asking_the_hub(tmp_path: Path) -> None:
    with HubMirror(REPO, {FILE: MODEL}) as mirror:
        resolve(f"{REPO}:{FILE}", tmp_path, mirror)
        n_requests = len(mirror.requests)
        resolve(f"{REPO}:{FILE}", tmp_path, mirror)
        assert len(mirror.requests) == n_requests > 0


def test_all_parts_of_a_split_model_are_fetched(tmp_path: Path) -> None:
    parts = {f"big-0000{i}-of-00003.gguf": MODEL[:1000] + bytes([i]) for i in (1, 2, 3)}
    with HubMirror(REPO, parts) as mirror:
        model = resolve(f"{REPO}:big-00001-of-00003.gguf", tmp_path, mirror)
    assert model.alias == "big"
    assert sorted(path.name for path in model.path.parent.iterdir()) == sorted(parts)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 10_000)
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)


@pytest.mark.usefixtures("small_chunks")
def test_a_dropped_connection_goes_on_where_it_stopped(tmp_path: Path) -> None:
    seen = Seen()
    with HubMirror(REPO, {FILE: MODEL}) as mirror:
        mirror.cuts = [500_000, 0, 200_000]
        model = resolve(f"{REPO}:{FILE}", tmp_path, mirror, seen=seen)
        ranges = [wanted for _, _, wanted in mirror.requests if wanted]
    assert ranges == ["bytes=500000-", "bytes=500000-", "bytes=700000-"]
    assert model.path.read_bytes() == MODEL
    assert seen.n_bytes == len(MODEL)


@pytest.mark.usefixtures("small_chunks")
def test_an_interrupted_download_leaves_nothing_half_done(tmp_path: Path) -> None:
    seen = Seen()
    with HubMirror(REPO, {FILE: MODEL}) as mirror:
        mirror.cuts = [500_000, *[0] * 5]  # the library itself tries five times
        with pytest.raises(
            DownloadError, match=r"the download failed .*; start it again"
        ) as caught:
            resolve(f"{REPO}:{FILE}", tmp_path, mirror, seen=seen)
        assert "\n" not in str(caught.value)
        assert seen.is_finished
        blobs = (tmp_path / "hub").rglob("*")
        assert not [path for path in blobs if path.is_file() and path.stat().st_size > 1000]
        assert resolve(f"{REPO}:{FILE}", tmp_path, mirror).path.read_bytes() == MODEL


def test_a_full_disk_is_noticed_before_the_download(tmp_path: Path) -> None:
    seen = Seen()
    with HubMirror(REPO, {FILE: MODEL}) as mirror:
        with pytest.raises(DownloadError, match=r"1\.9 MB do not fit .* HF_HUB_CACHE"):
            resolve(f"{REPO}:{FILE}", tmp_path, mirror, disk=1_900_000, seen=seen)
        assert not any("/resolve/" in path for _, path, _ in mirror.requests)
    assert not seen.offers


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        (f"{REPO}:other.gguf", f"has no file other.gguf; there are {FILE}"),
        ("someone/else:x.gguf", "no such model, or it is private"),
        ("nobody", "neither a file here nor owner/name:file.gguf"),
        ("someone/Tiny-GGUF", "neither a file here nor owner/name:file.gguf"),
        ("./missing.gguf", "neither a file here"),
        ("some--one/x..y:x.gguf", "not a name of a model"),
    ],
)
def test_what_cannot_be_had_is_one_line(tmp_path: Path, spec: str, reason: str) -> None:
    with HubMirror(REPO, {FILE: MODEL}) as mirror, pytest.raises(DownloadError) as caught:
        resolve(spec, tmp_path, mirror)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_a_network_it_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=rf"{REPO}: the download failed .*") as caught:
        resolve(f"{REPO}:{FILE}", tmp_path)
    assert "\n" not in str(caught.value)


def test_a_broken_hub_is_one_line(tmp_path: Path) -> None:
    with HubMirror(REPO, {FILE: MODEL}) as mirror:
        mirror.status = 418
        with pytest.raises(DownloadError, match="the hub answered 418") as caught:
            resolve(f"{REPO}:{FILE}", tmp_path, mirror)
    assert "html" not in str(caught.value)


def test_offline_by_wish_asks_nobody(tmp_path: Path) -> None:
    with HubMirror(REPO, {FILE: MODEL}) as mirror:
        with pytest.raises(DownloadError, match="HF_HUB_OFFLINE"):
            resolve(f"{REPO}:{FILE}", tmp_path, mirror, HF_HUB_OFFLINE="1")
        assert not mirror.requests


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with (
        HubMirror(REPO, {"notes.gguf": b"just text"}) as mirror,
        pytest.raises(EngineError, match="not a GGUF file"),
    ):
        resolve(f"{REPO}:notes.gguf", tmp_path, mirror)


def test_a_path_needs_no_hub(tmp_path: Path) -> None:
    file = tmp_path / "My Model (v2).Q4.gguf"
    file.write_bytes(MODEL)
    model = resolve(str(file), tmp_path)
    assert (model.path, model.alias) == (file, "my-model-v2-.q4")
    assert model.context_size == 32_768


def test_the_missing_library_is_a_hint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(DownloadError, match=r"pip install 'dragoman\[local\]'"):
        resolve(f"{REPO}:{FILE}", tmp_path)


CHOICES = {
    64: ("qwen3-30b-a3b", 32_768),
    20: ("qwen3-14b", 32_768),
    12: ("qwen3-8b", 32_768),
    9: ("qwen3-4b", 32_768),
    7: ("qwen3-1.7b", 32_768),
    3: ("qwen3-0.6b", 11_264),
}


@pytest.mark.parametrize(("memory_gb", "choice"), CHOICES.items())
def test_chooses_by_free_memory(tmp_path: Path, memory_gb: int, choice: tuple[str, int]) -> None:
    row = next(row for row in load_local_models() if row.alias == choice[0])
    with HubMirror(row.repo_id, {row.file: MODEL}, licence=row.licence) as mirror:
        model = resolve(None, tmp_path, mirror, memory=memory_gb * GB)
    assert (model.alias, model.context_size) == choice


def test_a_model_that_is_here_is_chosen_before_a_better_one(tmp_path: Path) -> None:
    row = load_local_models()[-1]
    with HubMirror(row.repo_id, {row.file: MODEL}) as mirror:
        resolve(None, tmp_path, mirror, memory=3 * GB)
    assert resolve(None, tmp_path, memory=64 * GB).alias == row.alias


def test_too_little_memory_is_said(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"1\.0 GB of free memory .* try --demo"):
        resolve(None, tmp_path, memory=1 * GB)


@given(st.integers(0, 200 * GB))
def test_what_is_chosen_fits(memory: int) -> None:
    for row in load_local_models():
        window = downloads._window(row, memory)
        assert window == 0 or 4096 <= window <= 32_768
        if window:
            assert row.size_bytes + window * row.bytes_per_token < memory


def test_the_cache_is_the_users_usual_one() -> None:
    assert cache_folder({"HF_HUB_CACHE": "/a"}) == Path("/a")
    assert cache_folder({"HF_HOME": "/b"}) == Path("/b/hub")
    assert cache_folder({"XDG_CACHE_HOME": "/c"}) == Path("/c/huggingface/hub")
    assert cache_folder({}) == Path("~/.cache/huggingface/hub").expanduser()


@pytest.mark.parametrize("is_terminal", [True, False])
def test_size_and_licence_are_shown(is_terminal: bool) -> None:
    out = io.StringIO()
    progress = ConsoleProgress(Console(file=out, force_terminal=is_terminal, width=100))
    progress.offer(
        Offer(
            repo_id="a/b",
            files=("x.gguf",),
            size_bytes=2_500_000_000,
            licence="apache-2.0",
            folder=Path("/cache"),
        )
    )
    progress.advance(1_250_000_000)
    progress.finish()
    line = "Downloading x.gguf from a/b: 2.5 GB, licence apache-2.0, into /cache\n"
    assert line in out.getvalue()
    assert ("1.2/2.5 GB" in out.getvalue()) == is_terminal
