"""What the commands print: results on stdout, everything else on stderr, so that a script reads only results."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Annotated, Final

import typer
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

WideOption = Annotated[
    bool,
    typer.Option("--wide", help="A line each, however narrow the terminal. Else a block each where lines do not fit."),
]

_FOLDED_FROM: Final = 120
"""Columns of a terminal from which on cells are folded."""

_PROSE: Final = 24
"""Columns that a sentence has at least."""

_READABLE: Final = 40
"""Columns that a sentence has before anything else is folded for it."""

_GAP: Final = 2
"""Columns behind each cell."""


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
    _print_fields(shown, max((len(name) for name, _ in shown), default=0))


def result_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, prose: Collection[str] = (), wide: bool = False
) -> None:
    """Print a result for a person: a line a row, or, on a terminal that is too narrow for that, a block a row.

    Names, ids and other words stay whole, to be copied. From 120 columns on, cells are folded between their words where that
    makes the lines fit; below, a row that does not fit as it is becomes a block, which reads better than a column of words.

    Args:
        columns: The names of the columns.
        rows: Cells, as many as there are columns.
        prose: Columns whose words may be broken too, where they are long: they hold sentences of somebody else's.
        wide: A line a row, however long.
    """
    cells = [tuple(row) for row in rows]
    widths = [max(cell_len(cell) for cell in column) for column in zip(columns, *cells, strict=True)]
    if sys.stdout.isatty() and not wide:
        fitted = _fitted(columns, cells, widths, prose, Console().width)
        if fitted is None:
            _print_blocks(columns, cells)
            return
        widths = fitted
    table = Table(box=None, padding=(0, _GAP, 0, 0), header_style="dim")
    for column, width in zip(columns, widths, strict=True):
        table.add_column(column, overflow="fold", width=width)
    for row in cells:
        table.add_row(*(Text(cell) for cell in row))
    Console(highlight=False, width=sum(widths) + _GAP * len(widths)).print(table)


def _fitted(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    widths: Sequence[int],
    prose: Collection[str],
    width: int,
) -> list[int] | None:
    """The widths of the columns on a terminal; None where the rows do not fit on it as lines."""
    least = [
        min(_longest_word(cells), _PROSE if cells[0] in prose else width) for cells in zip(columns, *rows, strict=True)
    ]
    room = width - _GAP * len(columns)
    if sum(widths) <= room:
        return list(widths)
    if width < _FOLDED_FROM or sum(least) > room:
        return None
    sentences = [index for index, column in enumerate(columns) if column in prose]
    fitted = list(widths)
    if sum(min(each, _READABLE) if index in sentences else each for index, each in enumerate(widths)) > room:
        # Too little would be left of the sentences: the others are folded as far as their words let them.
        fitted = [widths[index] if index in sentences else each for index, each in enumerate(least)]
    while sum(fitted) > room:
        widest = max((index for index in sentences if fitted[index] > least[index]), key=fitted.__getitem__)
        fitted[widest] -= 1
    return fitted


def _longest_word(cells: Iterable[str]) -> int:
    return max((cell_len(word) for cell in cells for word in cell.split()), default=0)


def _print_blocks(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    label = max(map(len, columns))
    for number, row in enumerate(rows):
        if number:
            print()
        _print_fields([(column, cell) for column, cell in zip(columns, row, strict=True) if cell], label)


def _print_fields(fields: Iterable[tuple[str, str]], label: int) -> None:
    console = Console(highlight=False, soft_wrap=True)
    for name, value in fields:
        console.print(Text.assemble((f"{name:<{label}}  ", "dim"), value))
