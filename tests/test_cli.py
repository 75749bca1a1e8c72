"""The command line: help that helps, one line for every slip, and the documented exit codes."""

from pathlib import Path

import pytest

import dragoman
from dragoman import cli
from dragoman.engine import EngineError
from dragoman.exit_codes import EXIT_CODES, CommandFailed
from dragoman.tables import ConfigError
from support.command import run_command

COMMANDS = ("serve", "claude", "check", "models")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "own"))
    monkeypatch.setenv("COLUMNS", "100")


def run(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    code = cli.run(args)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "--version") == (0, f"dragoman {dragoman.__version__}\n", "")


def test_help_shows_commands_and_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    code, text, _ = run(capsys, "--help")
    assert code == 0
    for command in COMMANDS:
        assert f" {command} " in text
    for number, meaning in EXIT_CODES.items():
        assert f"{number}: {meaning.replace('`', '')}" in text


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_shows_examples(capsys: pytest.CaptureFixture[str], command: str) -> None:
    code, text, _ = run(capsys, command, "--help")
    assert code == 0
    _, _, examples = text.partition("Examples:")
    assert f"dragoman {command}" in examples


@pytest.mark.parametrize("command", ["keys create", "workspaces change"])
def test_help_shows_whole_flags_and_examples_in_a_narrow_terminal(
    tmp_path: Path, command: str
) -> None:
    done = run_command(tmp_path, *command.split(), "--help", env={"COLUMNS": "80"})
    assert "--output-tokens-per-minute " in done.stdout
    assert "-*'" in done.stdout


def test_without_a_command_there_is_help(capsys: pytest.CaptureFixture[str]) -> None:
    code, text, errors = run(capsys)
    assert (code, errors) == (2, "")
    assert "Usage: dragoman" in text


SLIPS = {
    "command": (["sevre"], "No such command 'sevre'. Did you mean 'serve'? (see dragoman --help)"),
    "option": (["serve", "--prot", "1"], "--prot"),
    "number": (["serve", "--port", "x"], "'--port'"),
    "range": (["serve", "--port", "65536"], "'--port'"),
    "choice": (["serve", "--log-format", "xml"], "'--log-format'"),
    "value": (["serve", "--host"], "--host"),
    "both": (["serve", "--demo", "--local"], "--demo and --local exclude each other"),
    "model alone": (["serve", "x.gguf"], "x.gguf: a model is given together with --local"),
    "key alone": (["claude", "--key", "k"], "--key belongs to a --url"),
    "key unset": (
        ["claude", "--url", "http://h", "--key", "env:NOWHERE"],
        "--key: the environment variable NOWHERE is not set",
    ),
    "key": (["claude", "--url", "http://h", "--key", "a b"], "--key: must be visible ASCII"),
    "claude's own option": (["claude", "-p", "hi"], "dragoman claude -- -p"),
    "config": (["serve", "--config", "absent.toml"], "absent.toml: No such file or directory"),
    "host": (["serve", "--demo", "--host", "0.0.0.0"], "server.host: 0.0.0.0 can be reached"),
    "no host": (["serve", "--demo", "--host", "a b"], 'server.host: "a b" is no host name'),
}


@pytest.mark.parametrize(("args", "line"), SLIPS.values(), ids=SLIPS)
def test_a_slip_is_one_line(capsys: pytest.CaptureFixture[str], args: list[str], line: str) -> None:
    code, text, errors = run(capsys, *args)
    assert (code, text) == (2, "")
    assert errors.startswith("dragoman: ")
    assert line in errors
    assert errors.count("\n") == 1


FAILURES = {
    "configuration": (ConfigError(["a: b", "c"]), 2, "a: b (and 1 more: see `dragoman check`)"),
    "engine": (EngineError("m.gguf: broken"), 3, "m.gguf: broken"),
    "command": (CommandFailed("two\nlines", code=127), 127, "two\\x0alines"),
    "interrupt": (KeyboardInterrupt(), 130, ""),
}


@pytest.mark.parametrize(("failure", "code", "line"), FAILURES.values(), ids=FAILURES)
def test_failures_have_their_codes(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    failure: BaseException,
    code: int,
    line: str,
) -> None:
    def fail(*_: object, **__: object) -> int:
        raise failure

    monkeypatch.setattr(cli, "print_models", fail)
    found, text, errors = run(capsys, "models")
    assert found == code
    assert text == ""
    assert errors == (f"dragoman: {line}\n" if line else "")


def test_a_bug_of_ours_shows_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr(cli, "print_models", fail)
    with pytest.raises(ZeroDivisionError):
        cli.run(["models"])


def test_it_is_a_module_and_completes(tmp_path: Path) -> None:
    run = run_command(tmp_path, "--version")
    assert (run.returncode, run.stdout) == (0, f"dragoman {dragoman.__version__}\n")
    completion = {
        "_DRAGOMAN_COMPLETE": "complete_bash",
        "COMP_WORDS": "dragoman cl",
        "COMP_CWORD": "1",
    }
    assert run_command(tmp_path, env=completion).stdout.split() == ["claude"]
    assert "_DRAGOMAN_COMPLETE" in run_command(tmp_path, "--show-completion", "bash").stdout
