"""`dragoman explain`: what it prints, what it refuses, and that it leaves nothing behind."""

import json
from pathlib import Path

import pytest

from dragoman.exit_codes import OK, USAGE
from support.command import run_command
from support.gateway import lab_config

REQUEST = {
    "model": "claude-sonnet-5",
    "max_tokens": 100,
    "stream": True,
    "top_k": 5,
    "messages": [{"role": "user", "content": "Hi \x1b[31mthere"}],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "dragoman.toml").write_text(lab_config("http://127.0.0.1:9/v1", "deepseek-v3.1"))
    (tmp_path / "request.json").write_text(json.dumps(REQUEST))
    return tmp_path


def test_it_tells_route_adjustments_and_request(folder: Path) -> None:
    done = run_command(folder, "explain", "request.json")
    assert (done.returncode, done.stderr) == (OK, "")
    lines = [line.strip() for line in done.stdout.splitlines()]
    assert lines[0] == "claude-sonnet-5 -> deepseek-v3.1"
    assert any(line.startswith("1. lab: deepseek-v3.1 (openai API, ") for line in lines)
    assert "POST http://127.0.0.1:9/v1/chat/completions" in lines
    assert "authorization: ***" in lines
    assert any(line.startswith("top_k ") for line in lines)
    assert '"model": "deepseek-v3.1",' in lines
    assert "lab-secret" not in done.stdout
    assert "\x1b" not in done.stdout


def test_as_json_it_is_what_the_admin_api_says(folder: Path) -> None:
    done = run_command(folder, "explain", "request.json", "--json", "--header", "x-app: cli-bg")
    assert done.returncode == OK
    said = json.loads(done.stdout)
    assert said["alias"] == "deepseek-v3.1"
    assert said["targets"][0]["request"]["body"]["messages"][-1]["content"]
    assert said["targets"][0]["request"]["headers"]["authorization"] == "***"


def test_it_leaves_nothing_behind(folder: Path) -> None:
    assert run_command(folder, "explain", "request.json").returncode == OK
    made = [path for path in folder.rglob("*") if path.is_file()]
    assert {path.name for path in made} <= {"dragoman.toml", "request.json"}


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["nowhere.json"], "nowhere.json: No such file or directory"),
        ([""], "FILE: is empty; name a file, or - for stdin"),
        (["dragoman.toml"], "dragoman.toml: invalid_request_error: "),
        (["bad.json"], "bad.json: invalid_request_error: max_tokens"),
        (["unknown.json"], "unknown.json: not_found_error: model: "),
        (["request.json", "--header", "nonsense"], '--header: "nonsense" is not NAME: VALUE'),
    ],
)
def test_what_is_wrong_is_one_line(folder: Path, args: list[str], line: str) -> None:
    (folder / "bad.json").write_text(json.dumps({**REQUEST, "max_tokens": "many"}))
    (folder / "unknown.json").write_text(json.dumps({**REQUEST, "model": "gpt-4"}))
    done = run_command(folder, "explain", *args)
    assert done.returncode == USAGE
    assert done.stderr.startswith(f"dragoman: {line}")
    assert done.stderr.count("\n") == 1
