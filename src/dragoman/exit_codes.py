"""What the command's exit codes mean; the help and the reference page show this table."""

from typing import Final

OK: Final = 0
FAILED: Final = 1
USAGE: Final = 2
CANNOT_START: Final = 3
CLAUDE_MISSING: Final = 127
INTERRUPTED: Final = 130

EXIT_CODES: Final = {
    OK: "it worked; `serve` was told to stop and did",
    FAILED: "`check` or `db status` found something wrong, or an upstream or gateway gave no "
    "useful answer",
    USAGE: "the command line or the configuration is wrong, or nothing is configured",
    CANNOT_START: "address taken, engine, model or store not usable, data folder not writable",
    CLAUDE_MISSING: "`claude` was not found",
    INTERRUPTED: "interrupted before there was anything to stop",
}
# `dragoman claude` ends as claude does: with its code, or with this and the signal that ended it.
SIGNAL_BASE: Final = 128


class CommandFailed(Exception):
    """A command cannot do what it was asked. The message is one line for the user."""

    def __init__(self, message: str, *, code: int) -> None:
        super().__init__(message)
        self.code = code
