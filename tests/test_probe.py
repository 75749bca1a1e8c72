"""`dragoman check --probe`: what it asks, prints and writes; nothing half written."""

import asyncio
import datetime as dt
import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from rich.progress import Progress

from dragoman import probe as probe_module
from dragoman.build import open_upstream
from dragoman.config import load_config
from dragoman.core.dialects.profile import GENERIC
from dragoman.core.probe_facts import Measured, measure
from dragoman.core.probes import Probing
from dragoman.engine import Engine, EngineModel, demo_model
from dragoman.policy.routes import Routes
from dragoman.probe import Findings, overrides_of, run_probes, toml_value
from dragoman.settings import Secret, UpstreamConfig
from support.chat_script import FOREVER, Reply, give, refuse
from support.chat_upstream import ChatUpstream, Recorded
from support.command import run_command
from support.quirky_upstream import Quirks, QuirkyUpstream
from test_check import closed_port, model, upstream

KIMI = Quirks(
    limit_fields=("max_completion_tokens",),
    temperatures=(1.0, 1.0),
    thinks=True,
    switch={"thinking": {"type": "disabled"}},
    echo="tool_turns",
    forces_while_thinking=False,
    schema_types=True,
    refused_fields=("parallel_tool_calls",),
    prefill="partial",
)


def probe(folder: Path, url: str, *args: str, name: str = "my-model") -> Any:
    (folder / "dragoman.toml").write_text(upstream("lab", url) + model(name, "lab"))
    return run_command(folder, "check", "--probe", name, *args)


def profile_of(folder: Path, name: str) -> Any:
    config = load_config(folder / "dragoman.toml", environ={})
    return Routes(config).resolve(name).targets[0].deployment.profile


def test_the_overrides_of_a_model_with_quirks(tmp_path: Path) -> None:
    with QuirkyUpstream(KIMI, "my-model") as lab:
        run = probe(tmp_path, lab.url)
        assert run.returncode == 0
        assert max(len(request.body["messages"]) for request in lab.requests) > 1
    found = tomllib.loads(run.stdout)["models"]["my-model"]["profile"]
    assert found == {
        "max_tokens_field": "max_completion_tokens",
        "thinking": "toggle",
        "thinking_switch": "thinking_type",
        "echo_reasoning": "tool_turns",
        "reasoning_placeholder": " ",
        "temperature_max": "none",
        "top_k": True,
        "forced_tools_need_no_thinking": True,
        "parallel_tool_calls_field": False,
        "schema_types": True,
        "prefill": "partial",
        "mid_system": "native",
    }
    table, _, _ = run.stderr.partition("\n\nALSO SEEN")
    rows = {line.split()[0]: line.split()[1:] for line in table.splitlines()}
    assert rows["thinking"] == ["toggle", "unknown", "yes"]
    assert rows["stream_options"] == ["true", "true"]
    # What was written loads, and leaves nothing to be measured.
    text = (tmp_path / "dragoman.toml").read_text() + run.stdout
    (tmp_path / "dragoman.toml").write_text(text)
    assert profile_of(tmp_path, "my-model").temperature_max is None
    with QuirkyUpstream(KIMI, "my-model") as lab:
        again = text.replace('base_url = "', f'base_url = "{lab.url}" # ')
        (tmp_path / "dragoman.toml").write_text(again)
        run = run_command(tmp_path, "check", "--probe", "my-model")
    assert run.stdout.endswith("The profile is right: nothing to override.\n")


def test_the_overrides_go_to_a_file(tmp_path: Path) -> None:
    with QuirkyUpstream(Quirks(), "my.model/x") as lab:
        run = probe(tmp_path, lab.url, "--write", "facts.toml", name="my.model/x")
        assert run.returncode == 0
        assert run.stderr == ""
        assert run.stdout.splitlines()[-1] == "written: facts.toml"
        written = (tmp_path / "facts.toml").read_text()
        assert tomllib.loads(written)["models"]["my.model/x"]["profile"]["top_k"] is True
        lab.requests.clear()
        run = probe(tmp_path, lab.url, "--write", "facts.toml")
        assert lab.requests == []
    assert run.returncode == 2
    assert run.stderr == "dragoman: facts.toml: is there already; name a new file\n"
    assert (tmp_path / "facts.toml").read_text() == written
    names = {path.name for path in tmp_path.iterdir() if path.is_file()}
    assert names == {"dragoman.toml", "facts.toml"}


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with QuirkyUpstream(Quirks(), "my-model") as lab:
        run = probe(tmp_path, lab.url, "--write", "none/facts.toml")
        assert lab.requests == []
    assert run.returncode == 2
    assert run.stderr == "dragoman: none/facts.toml: there is no folder none\n"


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    too_long = f"{'x' * 250}.toml"  # for the temporary file beside it
    with QuirkyUpstream(Quirks(), "my-model") as lab:
        run = probe(tmp_path, lab.url, "--write", too_long)
    assert run.returncode == 1
    last = run.stderr.splitlines()[-1]
    assert last.startswith(f"dragoman: {too_long}: ")
    assert last.endswith("; nothing was written")
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["dragoman.toml"]


def test_a_web_page_is_no_model(tmp_path: Path) -> None:
    page = give(b"<html>hello</html>", content_type="text/html", times=FOREVER)
    with ChatUpstream(page) as lab:
        run = probe(tmp_path, lab.url, "--write", "facts.toml")
        assert len(lab.requests) == 3
    assert run.returncode == 1
    assert run.stderr == (
        "dragoman: my-model: lab: it answers 200: no chat completion; "
        "is the path of base_url right?\n"
    )
    assert not (tmp_path / "facts.toml").exists()


def test_nobody_answers(tmp_path: Path) -> None:
    port = closed_port()
    run = probe(tmp_path, f"http://127.0.0.1:{port}/v1", "--write", "facts.toml")
    assert run.returncode == 1
    assert run.stdout == ""
    (line,) = run.stderr.splitlines()
    assert line.startswith(f"dragoman: my-model: lab: unreachable: 127.0.0.1:{port}: ")
    assert not (tmp_path / "facts.toml").exists()


def test_the_key_is_refused(tmp_path: Path) -> None:
    with ChatUpstream(refuse(401, "no such key", times=FOREVER)) as lab:
        run = probe(tmp_path, lab.url)
        assert len(lab.requests) == 3
    assert run.returncode == 1
    assert run.stderr == "dragoman: my-model: lab: it answers 401: no such key\n"


def test_a_key_that_is_quoted_is_not_shown(tmp_path: Path) -> None:
    with ChatUpstream(refuse(401, "no such key: lab-secret-1", times=FOREVER)) as lab:
        text = upstream("lab", lab.url, more='api_key = "lab-secret-1"') + model("my-model", "lab")
        (tmp_path / "dragoman.toml").write_text(text)
        run = run_command(tmp_path, "check", "--probe", "my-model")
    assert run.returncode == 1
    assert "it answers 401: no such key: [redacted]" in run.stderr


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--probe", "my-modle"), 'did you mean "my-model"?'),
        (("--probe", "native"), "is asked in the Anthropic API"),
        (("--probe", "my-model", "--live"), "--live and --probe exclude each other"),
        (("--write", "x.toml"), "--write belongs to --probe"),
    ],
)
def test_what_cannot_be_probed(tmp_path: Path, args: tuple[str, ...], said: str) -> None:
    url = f"http://127.0.0.1:{closed_port()}/v1"
    text = upstream("lab", url) + upstream("other", url, more='kind = "anthropic"')
    text += model("my-model", "lab") + model("native", "other")
    (tmp_path / "dragoman.toml").write_text(text)
    run = run_command(tmp_path, "check", *args)
    assert run.returncode == 2
    (line,) = run.stderr.splitlines()
    assert said in line


def test_a_misspelt_override_is_one_line(tmp_path: Path) -> None:
    text = upstream("lab", "http://127.0.0.1:9/v1") + model("my-model", "lab")
    text += '[models.my-model.profile]\ntemperature_max = "nothing"\n'
    (tmp_path / "dragoman.toml").write_text(text)
    run = run_command(tmp_path, "check", "--probe", "my-model")
    assert run.returncode == 2
    (line,) = run.stderr.splitlines()
    assert "models.my-model.profile.temperature_max: expected number" in line


@pytest.mark.parametrize(
    "value", [None, True, 3, 1.5, 1e-7, 'a "text"\n', ("a", "b"), (), "\u00e9"]
)
def test_values_are_toml(value: object) -> None:
    found = tomllib.loads(f"x = {toml_value(value)}")["x"]
    expected = list(value) if isinstance(value, tuple) else value
    assert found == ("none" if value is None else expected)


def test_names_cannot_break_the_file() -> None:
    findings = Findings(
        alias='a"b.c',
        upstream="lab",
        model="m\n[server]",
        measured=(Measured(fact="top_k", value=True, profile_value=False),),
        observed=(),
        unanswered=(),
    )
    text = overrides_of(findings, on=dt.date(2026, 11, 25))
    assert tomllib.loads(text) == {"models": {'a"b.c': {"profile": {"top_k": True}}}}


class BusyUpstream(QuirkyUpstream):
    """Refuses every request once."""

    def choose(self, recorded: Recorded) -> Reply:
        seen = [request.body for request in self.requests]
        if seen.count(recorded.body) == 0:
            self.requests.append(recorded)
            return refuse(429, "too many requests").reply
        return super().choose(recorded)


def test_a_busy_server_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe_module, "_PAUSES_S", (0.0, 0.0))
    with BusyUpstream(Quirks(), "my-model") as lab:
        probing = Probing("my-model", GENERIC)
        asyncio.run(_run(probing, lab.url))
        bodies = [json.dumps(request.body) for request in lab.requests]
    assert {bodies.count(body) for body in bodies} == {2}
    assert not any(reply.is_unclear for reply in probing.replies.values())


class DyingUpstream(QuirkyUpstream):
    """Breaks down after its first answers."""

    def choose(self, recorded: Recorded) -> Reply:
        if len(self.requests) < 3:
            return super().choose(recorded)
        self.requests.append(recorded)
        return refuse(500, "oh no").reply


def test_one_that_stops_answering_measures_nothing(tmp_path: Path) -> None:
    with DyingUpstream(Quirks(), "my-model") as lab:
        run = probe(tmp_path, lab.url, "--write", "facts.toml")
    assert run.returncode == 1
    (line,) = run.stderr.splitlines()
    assert line.endswith("questions had no answer; nothing was written")
    assert not (tmp_path / "facts.toml").exists()


async def _run(probing: Probing, url: str) -> None:
    client = open_upstream(UpstreamConfig(base_url=url), environ={})
    try:
        await run_probes(probing, client, Progress(disable=True))
    finally:
        await client.close()


async def _measure_engine(engine_model: EngineModel, config: str, folder: Path) -> dict[str, Any]:
    engine = Engine(engine_model)
    await engine.start()
    try:
        (folder / "dragoman.toml").write_text(config)
        profile = profile_of(folder, engine_model.alias)
        own = UpstreamConfig(base_url=engine.base_url, api_key=Secret(engine.api_key))
        client = open_upstream(own, environ={})
        probing = Probing(engine_model.alias, profile)
        try:
            await run_probes(probing, client, Progress(disable=True))
        finally:
            await client.close()
    finally:
        await engine.stop()
    assert probing.problem == ""
    return {each.fact: each.value for each in measure(probing)}


@pytest.mark.engine
def test_the_real_engine_is_measured_as_it_is(tmp_path: Path) -> None:
    config = upstream("lab", "http://127.0.0.1:9/v1") + model("dragoman-demo", "lab")
    facts = asyncio.run(_measure_engine(demo_model(), config, tmp_path))
    expected = {
        "context_window": 32_768,
        "max_tokens_field": "max_tokens",
        "sees_images": False,
        "has_tools": True,
        "thinking": "toggle",
        "thinking_switch": "template_enable_thinking",
        "reasoning_field": "reasoning_content",
        "temperature_max": 2.0,
        "top_k": True,
        "reports_stop": False,
        "forced_tools": "json_schema",
        "schema_refs": True,
        "schema_types": False,
        "response_format": "json_schema",
        "stream_options": True,
        "count_tokens": "llamacpp",
    }
    assert {name: facts.get(name) for name in expected} == expected
