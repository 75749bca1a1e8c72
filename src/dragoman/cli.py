"""
The command line: options in, exit code out. What the commands do is in modules of their own.

Whatever a user can cause is one line on stderr; a traceback is a bug of ours.
"""

import os
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn

import typer

from dragoman import __version__
from dragoman.bench_command import LoadOptions, run_load_test
from dragoman.check import check as run_check
from dragoman.claude_command import ClaudeOptions, print_variables, run_claude
from dragoman.cli_keys import keys
from dragoman.cli_options import ConfigOption, examples, listed
from dragoman.cli_store import add_store_commands
from dragoman.cli_usage import add_usage_command
from dragoman.config import ConfigError
from dragoman.engine import EngineError
from dragoman.exit_codes import CANNOT_START, EXIT_CODES, INTERRUPTED, USAGE, CommandFailed
from dragoman.explain_command import ExplainOptions
from dragoman.explain_command import explain as run_explain
from dragoman.models_command import print_models
from dragoman.probe import ProbeOptions
from dragoman.probe import probe as run_probe
from dragoman.serve import StartOptions
from dragoman.serve import serve as run_serve
from dragoman.settings import Secret
from dragoman.signing_file import FolderUnusable
from dragoman.terminal import printable
from dragoman.workers import serve_with_workers

# The base of all usage errors; typer does not export it under a name of its own.
_USAGE_ERROR: Final[type[Exception]] = typer.BadParameter.__bases__[0]
_REFERENCE: Final = "env:"
_MAX_LINE: Final = 1000
_FOR_CLAUDE: Final = "options of claude itself come after --: dragoman claude -- -p ..."


app = typer.Typer(
    name="dragoman",
    help="A gateway: Claude Code and the Anthropic SDKs on any model.",
    epilog=listed("Exit codes", (f"{code}: {what}" for code, what in EXIT_CODES.items())),
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

DemoOption = Annotated[
    bool, typer.Option("--demo", help="Serve the toy model that comes with Dragoman: no key.")
]


class LogFormat(StrEnum):
    """How the log is written."""

    human = "human"
    json = "json"


class ShellName(StrEnum):
    """Shells whose language is known."""

    bash = "bash"
    fish = "fish"
    powershell = "powershell"


def main() -> NoReturn:
    """Run the command of ``sys.argv``."""
    sys.exit(run(sys.argv[1:]))


def run(args: Sequence[str]) -> int:
    """Run one command, return its exit code; what the user can repair is one line on stderr."""
    try:
        code = app(args=list(args), prog_name="dragoman", standalone_mode=False)
    except _USAGE_ERROR as error:
        return _fail(_usage_line(error), USAGE)
    except FolderUnusable as error:
        return _fail(str(error), CANNOT_START)
    except ConfigError as error:
        return _fail(str(error), USAGE)
    except CommandFailed as error:
        return _fail(str(error), error.code)
    except EngineError as error:
        return _fail(str(error), CANNOT_START)
    except (KeyboardInterrupt, typer.Abort):  # whoever pressed Ctrl-C knows
        return INTERRUPTED
    return code if isinstance(code, int) else 0


def _fail(message: str, code: int) -> int:
    line = printable(message)
    if len(line) > _MAX_LINE:  # somebody's own words are in it: how it begins, and what to do
        line = f"{line[: _MAX_LINE // 2]} [...] {line[-_MAX_LINE // 2 :]}"
    print(f"dragoman: {line}", file=sys.stderr)  # noqa: T201
    return code


def _usage_line(error: Exception) -> str:
    message = error.format_message() if hasattr(error, "format_message") else str(error)
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "dragoman"
    line = " ".join(message.split()).replace(": Value error, ", ": ")
    if command.endswith(" claude") and line.startswith("No such option"):
        return f"{line}; {_FOR_CLAUDE}"
    return f"{line.rstrip('.')} (see {command} --help)"


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        typer.echo(f"dragoman {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def dragoman(
    context: typer.Context,
    *,
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Say which it is."),
    ] = False,
) -> None:
    """A gateway: Claude Code and the Anthropic SDKs on any model."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(USAGE)


@app.command(
    epilog=examples(
        "dragoman serve --demo",
        "DEEPSEEK_API_KEY=... dragoman serve",
        "dragoman serve --config gateway.toml --host 0.0.0.0",
        "dragoman serve --local Qwen/Qwen3-4B-GGUF:Qwen3-4B-Q4_K_M.gguf",
    )
)
def serve(
    *,
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            show_default=False,
            help="With --local: a .gguf file, or owner/name:file.gguf of the Hugging Face hub.",
        ),
    ] = None,
    config: ConfigOption = None,
    host: Annotated[str | None, typer.Option(help="Address to listen at.")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port; 0 takes any free one.")
    ] = None,
    demo: DemoOption = False,
    local: Annotated[
        bool,
        typer.Option(
            "--local",
            help="Serve MODEL, or the best known one that fits into memory, on this machine.",
        ),
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Download the model without asking.")
    ] = False,
    log_format: Annotated[
        LogFormat | None, typer.Option(help="Default: human on a terminal, else json.")
    ] = None,
    workers: Annotated[
        int, typer.Option(min=1, max=256, help="Processes that share the port (Linux).")
    ] = 1,
) -> int:
    """
    Serve the Anthropic API until Ctrl-C or SIGTERM.

    Flags stand above the environment, which stands above the file. With a vendor's key in the
    environment no file is needed.
    """
    if demo and local:
        raise _wrong("--demo and --local exclude each other")
    if model is not None and not local:
        raise _wrong(f"{model}: a model is given together with --local")
    overrides = {"host": host, "port": port, "log_format": log_format and log_format.value}
    options = StartOptions(
        config=config,
        overrides=_overrides(overrides),
        is_demo=demo,
        is_local=local,
        local_model=model,
        may_download=yes,
    )
    if workers > 1:
        return serve_with_workers(options, workers, environ=os.environ)
    return run_serve(options, environ=os.environ)


@app.command(
    epilog=examples(
        "dragoman claude",
        "dragoman claude --model deepseek-v3.1 -- --continue",
        "dragoman claude --url https://gateway.example --key env:TEAM_KEY",
        'eval "$(dragoman claude --print-env)"',
    )
)
def claude(
    *,
    args: Annotated[
        list[str] | None,
        typer.Argument(metavar="-- ARGS", help="For Claude Code.", show_default=False),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="A model or role; else the default one.")
    ] = None,
    config: ConfigOption = None,
    demo: DemoOption = False,
    url: Annotated[
        str | None, typer.Option(help="Use the gateway there; else find one, or start one.")
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(help="Key for the gateway at --url: env:NAME, or the literal."),
    ] = None,
    print_env: Annotated[
        bool, typer.Option("--print-env", help="Print the lines that set the variables instead.")
    ] = False,
    shell: Annotated[
        ShellName, typer.Option(help="For --print-env; zsh reads what bash does.")
    ] = ShellName.bash,
) -> int:
    """
    Run Claude Code on any model.

    Uses the gateway that runs where the configuration says, or starts one for this session alone.
    The user's own settings are left as they are.
    """
    if key is not None and url is None:
        raise _wrong("--key belongs to a --url")
    options = ClaudeOptions(
        start=StartOptions(config=config, is_demo=demo),
        model=model,
        url=url,
        key=None if key is None else _secret(key),
        args=tuple(args or ()),
    )
    if print_env:
        return print_variables(options, shell=shell.value, environ=os.environ)
    return run_claude(options, environ=os.environ)


@app.command(
    epilog=examples(
        "dragoman check",
        "dragoman check --config gateway.toml --live",
        "dragoman check --probe qwen3-coder --write qwen3-coder.toml",
    )
)
def check(
    *,
    config: ConfigOption = None,
    live: Annotated[
        bool, typer.Option("--live", help="Also send one tiny message to every model.")
    ] = False,
    probe: Annotated[
        str | None,
        typer.Option(
            "--probe",
            metavar="MODEL",
            help="Instead, ask MODEL about 60 small questions and measure what it can do.",
        ),
    ] = None,
    write: Annotated[
        Path | None,
        typer.Option(
            "--write",
            metavar="FILE",
            help="With --probe: a new file for what differs. Else stdout.",
        ),
    ] = None,
) -> int:
    """
    Check the configuration, and ask every upstream for its models.

    With --probe it measures one model instead, and writes down the facts that differ from what is
    known of it.
    """
    if probe is not None:
        if live:
            raise _wrong("--live and --probe exclude each other")
        options = ProbeOptions(config=config, model=probe, write=write)
        return run_probe(options, environ=os.environ, overrides={})
    if write is not None:
        raise _wrong("--write belongs to --probe")
    return run_check(config, environ=os.environ, overrides={}, is_live=live)


@app.command(
    epilog=examples(
        "dragoman models",
        "dragoman models --config gateway.toml",
    )
)
def models(*, config: ConfigOption = None) -> int:
    """List the models that would be served, and what is known of them."""
    return print_models(config, environ=os.environ, overrides={})


@app.command(
    epilog=examples(
        "dragoman explain request.json",
        "dragoman explain - --json < request.json",
        "dragoman explain request.json --header 'user-agent: claude-cli/2.1.0'",
    )
)
def explain(
    file: Annotated[
        str,
        typer.Argument(metavar="FILE", help="The body of a request for a message; - for stdin."),
    ],
    *,
    config: ConfigOption = None,
    header: Annotated[
        list[str] | None,
        typer.Option("--header", metavar="NAME: VALUE", help="As the client would send it."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, as the admin API answers.")
    ] = False,
) -> int:
    """
    Say what would become of a request: route, adjustments, and what upstreams would get.

    Nothing is sent to a model. Documents that the request links to are read, as they would be.
    """
    options = ExplainOptions(
        config=config, request=file, headers=tuple(header or ()), is_json=as_json
    )
    return run_explain(options, environ=os.environ)


@app.command(
    epilog=examples(
        "dragoman bench http://127.0.0.1:7777 --model deepseek-v3.1",
        "dragoman bench https://gateway.example -m sonnet --key env:TEAM_KEY -n 500 -c 50",
    )
)
def bench(
    url: Annotated[str, typer.Argument(metavar="URL", help="Of any Anthropic-compatible API.")],
    *,
    model: Annotated[str, typer.Option("--model", "-m", help="What to ask.")],
    key: Annotated[
        str | None, typer.Option(help="Sent as x-api-key: env:NAME, or the literal.")
    ] = None,
    requests: Annotated[
        int, typer.Option("--requests", "-n", min=1, max=1_000_000, help="How many in all.")
    ] = 100,
    concurrency: Annotated[
        int, typer.Option("--concurrency", "-c", min=1, max=10_000, help="How many at a time.")
    ] = 8,
    max_tokens: Annotated[int, typer.Option(min=1, help="Of each reply.")] = 64,
    whole: Annotated[bool, typer.Option("--whole", help="Ask for whole replies.")] = False,
) -> int:
    """Measure how fast an endpoint answers. Every request is a real one: a vendor bills it."""
    options = LoadOptions(
        url=url,
        model=model,
        key=None if key is None else _secret(key),
        requests=requests,
        concurrency=min(concurrency, requests),
        max_tokens=max_tokens,
        is_stream=not whole,
    )
    return run_load_test(options)


add_usage_command(app)
app.add_typer(keys)
add_store_commands(app)


def _wrong(message: str) -> CommandFailed:
    return CommandFailed(message, code=USAGE)


def _overrides(values: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that were given, under their dotted paths."""
    return {f"server.{name}": value for name, value in values.items() if value is not None}


def _secret(text: str) -> Secret:
    """Return a key; one that is given as ``env:NAME`` does not show in lists of processes."""
    if text.startswith(_REFERENCE):
        name = text.removeprefix(_REFERENCE)
        text = os.environ.get(name, "").strip()
        if not text:
            raise _wrong(f"--key: the environment variable {name} is not set")
    if not (text.isascii() and text.isprintable() and text and " " not in text):
        raise _wrong("--key: must be visible ASCII characters, without spaces")
    return Secret(text)
