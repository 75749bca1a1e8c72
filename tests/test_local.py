"""Engines found on this machine, and the question before a download."""

import asyncio
import io
import socket
import threading
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from dragoman import __version__
from dragoman.config import Config
from dragoman.downloads import DownloadError, Offer
from dragoman.local import (
    AskingProgress,
    FoundEngine,
    choose_local_model,
    find_local_engines,
    with_found_engines,
)
from dragoman.policy.routes import Routes
from dragoman.presets import LocalEngine
from dragoman.settings import ModelConfig, ServerConfig, UpstreamConfig
from support.command import TinyServer

MODELS = "/v1/models"


def listing(*ids: str, owner: str = "someone") -> dict[str, object]:
    return {"object": "list", "data": [{"id": name, "owned_by": owner} for name in ids]}


def engine_at(port: int, **changes: object) -> LocalEngine:
    engine = LocalEngine(name="vLLM", port=port, platform="vllm")
    return msgspec.structs.replace(engine, **changes)


def find(*engines: LocalEngine, config: Config | None = None) -> tuple[FoundEngine, ...]:
    return asyncio.run(find_local_engines(config or Config(), engines=engines))


def found_at(reply: tuple[int, dict[str, str], object], **changes: object) -> FoundEngine | None:
    with TinyServer({MODELS: reply}) as server:
        found = find(engine_at(server.port, **changes))
    return found[0] if found else None


def test_an_engine_is_asked_by_one_get_and_sent_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    with TinyServer({MODELS: (200, {}, listing("qwen3:8b", owner="library"))}) as server:
        (found,) = find(engine_at(server.port, name="ollama", platform="ollama", own_port=True))
        assert found.models == ("qwen3:8b",)
        assert [(method, path) for method, path, _ in server.requests] == [("GET", MODELS)]
        ((_, _, headers),) = server.requests
        assert not {"authorization", "x-api-key", "api-key", "cookie"} & set(headers)
        assert "sk-secret" not in str(headers)


OTHERS = {
    "a web page": (200, {"content-type": "text/html"}, b"<html>hello</html>"),
    "not found": (404, {}, {}),
    "it wants a key": (401, {}, listing("m")),
    "another gateway of ours": (200, {"x-dragoman-version": __version__}, listing("m")),
    "no list": (200, {}, {"data": "m"}),
    "an empty list": (200, {}, listing()),
    "nameless": (200, {}, {"data": [{"name": "m"}, 1, None, {"id": 7}]}),
    "only embeddings": (200, {}, listing("nomic-embed-text")),
    "names that are none": (200, {}, listing("a b", "x\x1b[31m", "", "y" * 201)),
    "deep": (200, {}, b"[" * 100_000),
    "broken": (200, {}, b'{"data": [{"id": "m"'),
}


@pytest.mark.parametrize("reply", OTHERS.values(), ids=OTHERS)
def test_what_is_no_engine_is_left_alone(reply: tuple[int, dict[str, str], object]) -> None:
    assert found_at(reply) is None


def test_nobody_and_somebody_silent_cost_little() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as silent, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        engines = [engine_at(silent.getsockname()[1]), engine_at(free.getsockname()[1])]
        assert find(*engines) == ()


def test_all_are_asked_at_the_same_time() -> None:
    barrier = threading.Barrier(2, timeout=10)

    class Together(dict[str, object]):
        def get(self, *_: object) -> object:
            barrier.wait()  # breaks, and with it both answers, unless the other one is here, too
            return 200, {}, listing("m")

    with TinyServer(Together()) as one, TinyServer(Together()) as two:  # type: ignore[arg-type]
        assert len(find(engine_at(one.port), engine_at(two.port))) == 2


PLATFORMS = {
    "as the port says": ({"own_port": True, "platform": "ollama"}, "someone", "ollama", "vLLM"),
    "as it says itself": ({}, "llamacpp", "llamacpp", "llama.cpp"),
    "as usual": ({}, "vllm", "vllm", "vLLM"),
    "unknown on a port that many use": ({}, "someone", "generic", "vLLM"),
}


@pytest.mark.parametrize(
    ("changes", "owner", "platform", "name"), PLATFORMS.values(), ids=PLATFORMS
)
def test_the_platform(changes: dict[str, object], owner: str, platform: str, name: str) -> None:
    found = found_at((200, {}, listing("m", owner=owner)), **changes)
    assert found is not None
    assert (found.engine.platform, found.engine.name) == (platform, name)


def test_neither_our_own_port_nor_what_is_configured_is_asked() -> None:
    with TinyServer({MODELS: (200, {}, listing("m"))}) as server:
        engine = engine_at(server.port)
        own = Config(server=ServerConfig(port=server.port))
        known = Config(upstreams={"a": UpstreamConfig(base_url=engine.base_url)})
        named = Config(
            upstreams={"a": UpstreamConfig(base_url=f"http://localhost:{server.port}/v1")}
        )
        off = Config(server=ServerConfig(local_engines=False))
        for config in (own, known, named, off):
            assert find(engine, config=config) == ()
        assert server.requests == []


def test_what_was_found_comes_last_and_takes_nothing() -> None:
    config = Config(
        upstreams={"lab": UpstreamConfig(base_url="http://127.0.0.1:1/v1")},
        models={"mine": ModelConfig(upstream=("lab",))},
    )
    found = FoundEngine(engine=engine_at(8000), models=("mine", "theirs"))
    completed = with_found_engines(config, [found])
    assert list(completed.models) == ["mine", "vllm/mine", "theirs"]
    assert Routes(completed).roles["default"] == "mine"
    alone = with_found_engines(Config(), [found])
    assert Routes(alone).resolve("claude-opus-5").alias == "mine"


OFFER = Offer(
    repo_id="someone/Tiny-GGUF",
    files=("x.gguf",),
    size_bytes=2_500_000_000,
    licence="apache-2.0",
    folder=Path("/cache"),
)


def asking(answer: str | None, *, may_download: bool = False) -> tuple[AskingProgress, io.StringIO]:
    out = io.StringIO()
    console = Console(file=out, force_terminal=False, width=40)
    reader = None if answer is None else lambda: answer
    return AskingProgress(console, may_download=may_download, answer=reader), out


@pytest.mark.parametrize("answer", ["y\n", "Yes\n"])
def test_size_and_licence_are_shown_before_the_answer(answer: str) -> None:
    progress, out = asking(answer)
    progress.offer(OFFER)
    question, _, rest = out.getvalue().partition("? [y/N] ")
    assert question == ("Download someone/Tiny-GGUF: 2.5 GB, licence apache-2.0, for /cache")
    assert rest.startswith("Downloading x.gguf")


@pytest.mark.parametrize("answer", ["n\n", "\n", ""])
def test_anything_else_is_no(answer: str) -> None:
    progress, out = asking(answer)
    with pytest.raises(DownloadError, match="not downloaded"):
        progress.offer(OFFER)
    assert "Downloading" not in out.getvalue()


def test_without_a_terminal_it_must_have_been_agreed_before() -> None:
    progress, _ = asking(None)
    with pytest.raises(DownloadError, match=r"2\.5 GB, licence apache-2\.0.*; add --yes"):
        progress.offer(OFFER)
    progress, out = asking(None, may_download=True)
    progress.offer(OFFER)
    assert "[y/N]" not in out.getvalue()


def test_a_file_is_served_without_asking_anyone(tmp_path: Path) -> None:
    path = tmp_path / "My-Model.gguf"
    path.write_bytes(b"GGUF....")
    model = choose_local_model(str(path), may_download=False, environ={"HF_HOME": "/nowhere"})
    assert (model.path, model.alias) == (path, "my-model")
