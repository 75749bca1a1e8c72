"""
Tell code from prose in Markdown while it streams: fences, code spans, quotations.

Models show calls to people in code; what stands there is no call. The rules are those of CommonMark
as far as models write it: a span ends with its line, and a fence is three backticks or tildes at
the beginning of one.
"""

from typing import Literal


class CodeTracker:
    """
    Told of every run of backticks or tildes and every line break, it knows whether this is code.

    A line break that is told of twice in a row counts once.
    """

    def __init__(self) -> None:
        self._fence = ""  # the run that opened it
        self._depth = 0  # of fences in fences
        self._fence_line: Literal["", "opens"] = ""  # the line that we are on opens the fence
        self._span = 0  # length of the run that opened it, on this line
        self._is_quoted = False

    @property
    def is_code(self) -> bool:
        """Tell whether text here is code, or quoted."""
        return bool(self._fence or self._span or self._is_quoted)

    @property
    def needs_line_end(self) -> bool:
        """Tell whether the next line break changes anything."""
        return bool(self._fence_line or self._span or self._is_quoted)

    def take_line(self, indent: str) -> None:
        """Take a line break, with the white space and quotation marks that begin the new line."""
        self._fence_line = ""
        self._span = 0
        self._is_quoted = ">" in indent

    def take_run(self, run: str, *, begins_line: bool, ends_line: bool) -> None:
        """Take backticks or tildes."""
        if self._fence_line and run[0] == "`":  # ```like this``` it was a span after all
            self._fence, self._fence_line = "", ""
        elif self._fence:
            if begins_line and run.startswith(self._fence):
                # With something behind it, it opens one inside, as models see it.
                self._depth += -1 if ends_line else 1
                self._fence = self._fence if self._depth else ""
        elif begins_line and len(run) >= 3:
            self._fence, self._fence_line, self._depth = run, "opens", 1
        elif run[0] == "`":
            if not self._span:
                self._span = len(run)
            elif self._span == len(run):
                self._span = 0
