"""Who would be answered too late: by the quickest of those who have just become rows, where there is a crowd."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from rowcall_gateway.edge import in_time
from rowcall_gateway.edge.in_time import FEW, PATIENCE, SEEN_FOR, SHARE, InTime, Taken


class Clock:
    """Goes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """The time."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """At the beginning of what is remembered together."""
    return Clock()


@pytest.fixture
def known(clock: Clock) -> InTime:
    """What knows nothing yet."""
    return InTime(clock)


def crowd(known: InTime, calls: int = FEW) -> list[Taken]:
    """So many calls that are being taken in."""
    return [known.take() for _ in range(calls)]


def became(known: InTime, clock: Clock, *took: float, inside: int = FEW) -> None:
    """Calls become rows that needed so long, with so many inside."""
    for seconds in took:
        known.saw(clock.now - seconds, inside)


def test_who_has_not_four_times_what_the_quickest_needed_is_refused(known: InTime, clock: Clock) -> None:
    crowd(known)
    became(known, clock, 0.9, 0.5, 0.7)
    assert known.refuses(0.5 / SHARE - 0.1)
    assert not known.refuses(0.5 / SHARE + 0.1)


def test_with_twice_as_many_before_it_a_call_would_need_twice_as_long(known: InTime, clock: Clock) -> None:
    crowd(known, 4 * FEW)
    became(known, clock, 0.5, inside=2 * FEW)
    assert known.refuses(1.0 / SHARE - 0.1)
    assert not known.refuses(1.0 / SHARE + 0.1)


def test_a_burst_that_comes_to_few_is_let_in(known: InTime, clock: Clock) -> None:
    """What one call alone needs is not needed for each that is before it."""
    crowd(known, 30 * FEW)
    became(known, clock, 0.7, inside=1)
    assert not known.refuses(1.4 / SHARE + 0.1)
    assert known.refuses(1.4 / SHARE - 0.1)


def test_without_a_deadline_it_has_two_seconds(known: InTime, clock: Clock) -> None:
    crowd(known)
    became(known, clock, PATIENCE - 0.1)
    assert not known.refuses(None)
    clock.now += SEEN_FOR
    became(known, clock, PATIENCE + 0.1)
    clock.now += SEEN_FOR
    assert known.refuses(None)


def test_where_there_are_few_nobody_is_refused(known: InTime, clock: Clock) -> None:
    there = crowd(known)
    became(known, clock, 5.0)
    assert known.refuses(2.0)
    for _ in range(2):
        there[0].leave()
    assert known.inside == FEW - 1
    assert not known.refuses(2.0)


def test_where_nothing_becomes_a_row_nobody_is_refused(known: InTime, clock: Clock) -> None:
    """A shard that hangs is no crowd; nor is one that has been worked off."""
    crowd(known)
    assert not known.refuses(0.1)
    became(known, clock, 5.0)
    assert known.refuses(2.0)
    clock.now += 2 * SEEN_FOR
    assert not known.refuses(2.0)


def test_it_goes_by_what_was_seen_last(known: InTime, clock: Clock) -> None:
    crowd(known)
    became(known, clock, 0.1)
    clock.now += SEEN_FOR
    assert not known.refuses(2.0)
    became(known, clock, 5.0)
    assert known.refuses(2.0)
    clock.now += SEEN_FOR
    assert known.refuses(2.0), "nothing has been seen since"
    became(known, clock, 0.1)
    assert not known.refuses(2.0)


def test_who_waits_for_something_else_says_nothing(known: InTime, clock: Clock) -> None:
    crowd(known)
    taken = known.take()
    clock.now += 5
    taken.leave()
    taken.written()
    assert not known.refuses(0.1)


async def test_the_call_that_is_served_says_how_far_it_has_come(known: InTime, clock: Clock) -> None:
    others = crowd(known)

    async def serve(through: bool) -> None:
        with known.take():
            await asyncio.sleep(0)
            clock.now += 0.001
            if through:
                in_time.written()
            else:
                in_time.left()
            assert known.inside < len(others) + 2

    await asyncio.gather(asyncio.create_task(serve(True)), asyncio.create_task(serve(False)))
    assert known.inside == len(others)
    assert known.refuses(0.0), "one of them has become a row"
    in_time.written()  # outside of any call it is nothing


async def test_it_tells_how_many_were_refused(known: InTime, clock: Clock) -> None:
    crowd(known)
    became(known, clock, 5.0)
    with capture_logs() as told:
        known.start()
        assert [known.refuses(2.0) for _ in range(3)] == [True] * 3
        await known.close()
        await known.close()
    (line,) = told
    assert (line["log_level"], line["count"]) == ("warning", 3)
