"""How tables and text are printed: dressed on a terminal, plain and unwrapped elsewhere."""

import os
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

Row = Sequence[str]


class LastingConsole(Console):
    """A console whose program goes on when nobody reads what it prints any more."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        # Else the interpreter tries once more at its end, and complains.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_table(console: Console, columns: Row, rows: Sequence[Row], *, n_numbers: int = 0) -> None:
    """Print a table, its last *n_numbers* columns to the right; in a pipe each row is a line."""
    shown = [[printable(cell) for cell in row] for row in rows]
    if not console.is_terminal:
        for line in aligned([columns, *shown], n_numbers=n_numbers):
            print_line(console, line)
        return
    table = Table(header_style="bold", box=None, pad_edge=False)
    n_words = len(columns) - n_numbers
    for i, column in enumerate(columns):
        table.add_column(column, overflow="fold", justify="left" if i < n_words else "right")
    for row in shown:
        table.add_row(*(Text(cell, style=_style_of(cell)) for cell in row))
    console.print(table)


def print_line(console: Console, line: str, *, style: str = "") -> None:
    """Print one line as it is: no markup, no wrapping in the middle of a command."""
    console.print(Text(line, style=style), soft_wrap=True)


def aligned(rows: Sequence[Row], *, n_numbers: int = 0) -> list[str]:
    """Return each row as one line, cells under each other, the last *n_numbers* to the right."""
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    signs = "<" * (len(widths) - n_numbers) + ">" * n_numbers
    return [
        "  ".join(
            f"{cell:{sign}{width}}" for cell, sign, width in zip(row, signs, widths, strict=True)
        ).rstrip()
        for row in rows
    ]


def printable(text: str) -> str:
    """Return *text* on one line; what others wrote must not steer the terminal."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def _style_of(cell: str) -> str:
    if cell.startswith("ok"):
        return "green"
    return "red" if cell.startswith("FAILED") else ""
