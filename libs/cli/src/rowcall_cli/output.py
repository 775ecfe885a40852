"""What the commands print: results on stdout, everything else on stderr, so that a script reads only results."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

_UNBOUNDED = 10_000
"""Columns of an output that is no terminal."""


def examples(*commands: str) -> str:
    """The end of a command's --help: command lines that work, each on a line of its own."""
    return "\b\nExample:\n" + "\n".join(f"  {command}" for command in commands)


def say(text: str, *, style: str | None = None) -> None:
    """Tell the person at the terminal something, on stderr."""
    # No markup: the text may hold "[…]" of somebody else's making. No wrapping: lines are for grep too.
    Console(stderr=True, highlight=False, soft_wrap=True).print(Text(text, style=style or ""))


def result_json(result: Mapping[str, object]) -> None:
    """Print a result for a script: one JSON object on stdout."""
    print(json.dumps(result, indent=2, ensure_ascii=False))


def result_fields(fields: Iterable[tuple[str, str]]) -> None:
    """Print a result for a person: names and values, the empty ones left out, each value whole on its line."""
    shown = [(name, value) for name, value in fields if value]
    width = max((len(name) for name, _ in shown), default=0)
    console = Console(highlight=False, soft_wrap=True)
    for name, value in shown:
        console.print(Text.assemble((f"{name:<{width}}  ", "dim"), value))


def result_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a result for a person: a table; cells are folded on a terminal only, where there is a width to keep."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    Console(highlight=False, width=None if sys.stdout.isatty() else _UNBOUNDED).print(table)
