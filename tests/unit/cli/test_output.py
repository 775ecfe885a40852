"""What people see on terminals of any width: names stay whole, a row that does not fit becomes a block."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import Any, Protocol

import pytest

from rowcall_cli.output import result_table

NAME = "tenants/acme/operations/0199d1f0-0000-7000-8000-00000000000"
METHOD = "acme.printing.v1.PrintService/PrintManyPages"
COLUMNS = ("name", "method", "state", "created", "error")
ROWS = [
    (
        f"{NAME}1",
        METHOD,
        "failed",
        "2026-11-29 12:00:00.123+00:00",
        "UNAVAILABLE: Out of paper, and of ink, and of patience.",
    ),
    (f"{NAME}2", METHOD, "ready, held: its tenant or method is paused", "2026-11-29 12:00:00.123+00:00", ""),
]


class Terminal(io.StringIO):
    """Where the command writes."""

    def isatty(self) -> bool:
        return True


class Show(Protocol):
    """Prints a table on a terminal of so many columns; the lines that are seen there."""

    def __call__(self, width: int, columns: Sequence[str], rows: Sequence[Sequence[str]], **more: Any) -> list[str]: ...


@pytest.fixture
def show(monkeypatch: pytest.MonkeyPatch) -> Show:
    def run(width: int, columns: Sequence[str], rows: Sequence[Sequence[str]], **more: Any) -> list[str]:
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", str(width))
        with redirect_stdout(Terminal()) as terminal:
            result_table(columns, rows, **more)
        return [re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip() for line in terminal.getvalue().splitlines()]

    return run


@pytest.mark.parametrize("width", [40, 80, 119, 120, 140])
def test_a_row_that_does_not_fit_is_a_block(show: Show, width: int) -> None:
    shown = show(width, COLUMNS, ROWS, prose=("error",))
    assert shown == [
        f"name     {NAME}1",
        f"method   {METHOD}",
        "state    failed",
        "created  2026-11-29 12:00:00.123+00:00",
        "error    UNAVAILABLE: Out of paper, and of ink, and of patience.",
        "",
        f"name     {NAME}2",
        f"method   {METHOD}",
        "state    ready, held: its tenant or method is paused",
        "created  2026-11-29 12:00:00.123+00:00",
    ]


@pytest.mark.parametrize("width", [172, 180, 200])
def test_where_only_sentences_are_too_long_they_are_folded_between_words(show: Show, width: int) -> None:
    shown = show(width, COLUMNS, ROWS, prose=("error",))
    assert shown[0].split() == list(COLUMNS)
    assert max(map(len, shown)) <= width
    words = " ".join(shown).split()
    for word in (f"{NAME}1", f"{NAME}2", "2026-11-29", "12:00:00.123+00:00", "UNAVAILABLE:", "patience.", "paused"):
        assert word in words
    assert words.count(METHOD) == 2


@pytest.mark.parametrize("width", [20, 80, 400])
def test_wide_is_a_line_a_row(show: Show, width: int) -> None:
    shown = show(width, COLUMNS, ROWS, prose=("error",), wide=True)
    _, first, second = shown
    for cell in ROWS[0]:
        assert cell in first
    for cell in ROWS[1]:
        assert cell in second


def test_what_goes_elsewhere_is_a_line_a_row(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    result_table(COLUMNS, ROWS, prose=("error",))
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_a_small_table_stays_one_on_a_narrow_terminal(show: Show) -> None:
    shown = show(40, ("queue", "ready", "paused"), [("documents", "10000+", ""), ("mail", "0", "")], prose=("paused",))
    assert shown == ["queue      ready   paused", "documents  10000+", "mail       0"]


def test_a_word_without_end_in_a_sentence_is_broken(show: Show) -> None:
    shown = show(120, ("name", "error"), [(f"{NAME}1", "x" * 1000)], prose=("error",))
    assert shown[1].split()[0] == f"{NAME}1"
    assert max(map(len, shown)) <= 120
    assert sum(line.count("x") for line in shown) == 1000


def test_nothing_is_its_columns_alone(show: Show) -> None:
    shown = show(80, COLUMNS, [], prose=("error",))
    assert shown == ["name  method  state  created  error"]
