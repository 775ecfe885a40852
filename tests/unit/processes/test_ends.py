"""What becomes of a program when one of its processes has ended by itself, and how long it pauses."""

from __future__ import annotations

import random

import pytest

from rowcall.processes.ends import LONGEST, SHORTEST, End, Pauses


@pytest.mark.parametrize(
    ("end", "is_for_all"),
    [
        # Never served in its place: it cannot start, for whatever reason.
        (End(1, served=None, first=True), True),
        (End(2, served=None, first=True), True),
        (End(-9, served=None, first=True), True),
        (End(0, served=None, first=True), True),
        # Its place has served before: the others go on, unless starting again cannot help.
        (End(1, served=None, first=False), False),
        (End(-11, served=None, first=False), False),
        (End(2, served=None, first=False), True),
        # It served, and crashed: whatever a handler ended the process with.
        (End(-9, served=0.0, first=True), False),
        (End(0, served=5.0, first=True), False),
        (End(2, served=5.0, first=False), False),
    ],
)
def test_a_program_ends_with_what_cannot_start_and_outlives_what_crashes(end: End, *, is_for_all: bool) -> None:
    assert end.is_for_all == is_for_all


def test_exit_codes_are_as_shells_have_them() -> None:
    assert [End(code, served=None, first=True).exit_code for code in (0, 2, -9)] == [0, 2, 137]


def test_signals_are_named_where_they_have_a_name() -> None:
    assert [End(code, served=1.0, first=True).signal for code in (2, -9, -40)] == [None, "SIGKILL", "40"]


class Least(random.Random):
    """Always the least that it may be."""

    def uniform(self, a: float, b: float) -> float:
        return a


def test_pauses_double_up_to_the_longest_and_begin_anew_after_a_long_life() -> None:
    pauses = Pauses(Least())
    assert pauses.after(None) == SHORTEST / 2
    assert pauses.after(1.0) == SHORTEST
    assert pauses.after(None) == 2 * SHORTEST
    for _ in range(10):
        pauses.after(None)
    assert pauses.after(LONGEST) == LONGEST / 2
    assert pauses.after(LONGEST + 1) == SHORTEST / 2


def test_pauses_differ_and_stay_within_half() -> None:
    first = [Pauses().after(None) for _ in range(50)]
    assert len(set(first)) > 1
    assert all(SHORTEST / 2 <= pause <= SHORTEST for pause in first)
