"""docs/reference/command-line.md and every command in the documents: what `--help` knows."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from dragoman.cli import app
from dragoman.exit_codes import EXIT_CODES

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reference" / "command-line.md"
PAGES = [*ROOT.glob("README*.md"), *sorted((ROOT / "docs").rglob("*.md"))]
COMMAND: Any = typer.main.get_command(app)  # click's, whose types typer does not pass on
GROUPS: dict[str, Any] = {n: c for n, c in COMMAND.commands.items() if hasattr(c, "commands")}
# Those of a group by both words: `keys create`.
COMMANDS: dict[str, Any] = {
    f"{name} {word}".strip(): each
    for name, command in COMMAND.commands.items()
    for word, each in (command.commands.items() if name in GROUPS else [("", command)])
}

_CODE = re.compile(r"^```sh\n(.*?)^```$|`(dragoman [^`]+)`", re.DOTALL | re.MULTILINE)
_CALL = re.compile(r"(?:^|[\s/(])dragoman ([a-z-][^\n|)]*)")


def options(command: Any) -> set[str]:
    """All flags of a command, short and long; arguments by their name."""
    found = {"--help", "-h"}
    for parameter in command.params:
        is_option = parameter.param_type_name == "option"
        found |= set(parameter.opts) if is_option else {str(parameter.name).upper()}
    return found


def rows(heading: str) -> list[list[str]]:
    _, _, rest = PAGE.read_text(encoding="utf-8").partition(f"\n## {heading}\n")
    section = rest.split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def documented(heading: str) -> set[str]:
    """Flags and arguments in the first column of the table under *heading*."""
    names = set()
    for first, meaning in rows(heading):
        assert meaning
        names |= set(re.findall(r"(?<![\w-])-{1,2}[a-z][\w-]*", first))
        names |= set(re.findall(r"^`(?:-- )?([A-Z]+)", first))
    return names


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_on_the_page(name: str) -> None:
    known = options(COMMANDS[name]) - {"--help", "-h"}
    assert documented(f"`dragoman {name}`") == known


def test_every_command_is_on_the_page() -> None:
    text = PAGE.read_text(encoding="utf-8")
    headings = re.findall(r"^## `dragoman ([\w -]+)`$", text, re.MULTILINE)
    assert headings == list(COMMANDS)


def test_common_options() -> None:
    assert documented("Everywhere") == options(COMMAND)


def test_exit_codes() -> None:
    assert rows("Exit codes") == [[str(code), text] for code, text in EXIT_CODES.items()]


def calls() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for block, inline in _CODE.findall(page.read_text(encoding="utf-8")):
            for call in _CALL.findall(block or inline):
                yield page.relative_to(ROOT).as_posix(), call


@pytest.mark.parametrize(("page", "call"), sorted(set(calls())))
def test_commands_in_the_documents_exist(page: str, call: str) -> None:
    words = shlex.split(call, comments=True)
    name = " ".join(words[: 2 if words[0] in GROUPS else 1])
    command = COMMANDS.get(name, GROUPS.get(name, COMMAND))
    assert name in {*COMMANDS, *GROUPS} or words[0].startswith("-") or words[0].isupper()
    own = words[: words.index("--")] if "--" in words else words
    used = {word.partition("=")[0] for word in own if word.startswith("-")}
    assert used <= options(command)


def test_the_documents_show_commands() -> None:
    assert len(set(calls())) > 30
