"""Slots are taken in turn, shared among those who wait, and never lost."""

from __future__ import annotations

import asyncio

import pytest

from rowcall_worker.running.slots import AHEAD, MOST_AHEAD, Slots


async def test_slots_are_taken_and_given_back() -> None:
    slots = Slots(5)
    assert slots.take(3) == 3
    assert slots.take(3) == 2
    assert slots.take(3) == 0
    slots.give(4)
    assert (slots.free, slots.capacity) == (4, 5)
    await slots.wait()


async def test_those_who_wait_have_their_turn() -> None:
    slots = Slots(1)
    assert slots.take(1) == 1
    order: list[int] = []

    async def use(number: int) -> None:
        await slots.wait()
        assert slots.take(1) == 1
        order.append(number)
        await asyncio.sleep(0)
        slots.give(1)

    tasks = [asyncio.create_task(use(number)) for number in range(5)]
    await asyncio.sleep(0)
    slots.give(1)
    await asyncio.gather(*tasks)
    assert order == [0, 1, 2, 3, 4]


async def test_one_takes_no_more_than_its_share_while_others_wait() -> None:
    slots = Slots(8)
    assert slots.take(8) == 8
    taken: list[int] = []

    async def use() -> None:
        await slots.wait()
        taken.append(slots.take(8))

    tasks = [asyncio.create_task(use()) for _ in range(4)]
    await asyncio.sleep(0)
    slots.give(8)
    await asyncio.gather(*tasks)
    assert taken == [2, 2, 2, 2]


async def test_a_turn_that_is_not_taken_goes_to_the_next() -> None:
    slots = Slots(1)
    assert slots.take(1) == 1
    waiting = [asyncio.create_task(slots.wait()) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[1].cancel()  # while it waits
    slots.give(1)
    waiting[0].cancel()  # when it was woken
    async with asyncio.timeout(5):
        await waiting[2]
    assert slots.take(1) == 1
    assert all(task.cancelled() for task in waiting[:2])


async def test_a_turn_that_is_of_no_use_is_passed_on() -> None:
    slots = Slots(1)
    assert slots.take(1) == 1
    waiting = [asyncio.create_task(slots.wait()) for _ in range(2)]
    await asyncio.sleep(0)
    slots.give(1)
    await waiting[0]
    await asyncio.sleep(0.01)
    assert not waiting[1].done()
    slots.pass_on()
    async with asyncio.timeout(5):
        await waiting[1]


class Pace:
    """Slots, and a clock that the test moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capacity: int) -> None:
        self.now = 1000.0
        monkeypatch.setattr("rowcall_worker.running.slots.time.monotonic", lambda: self.now)
        self.slots = Slots(capacity)

    def end(self, count: int, seconds: float) -> None:
        """So many jobs begin and end within so long."""
        for _ in range(count):
            self.slots.take(1)
            self.slots.run(lambda: True)
            self.slots.done()
            self.slots.give(1)
        self.now += seconds


def test_as_many_are_claimed_ahead_as_end_while_a_claim_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    pace = Pace(monkeypatch, 4)
    assert (pace.slots.room, pace.slots.ahead) == (4, 0)
    pace.end(250, 0.125)
    assert pace.slots.ahead == 2000 * AHEAD
    assert pace.slots.take(100) == 4 + 2000 * AHEAD
    assert (pace.slots.free, pace.slots.room, pace.slots.running) == (0, 0, 24)
    # Slow ones: none ahead, and nothing to be claimed until those that are too many have ended.
    pace.now += 1.0
    assert (pace.slots.ahead, pace.slots.room) == (0, 0)
    pace.slots.give(21)
    assert pace.slots.room == 1


def test_never_more_than_so_many_are_claimed_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    pace = Pace(monkeypatch, 4)
    pace.end(5000, 0.02)
    assert pace.slots.ahead == MOST_AHEAD


def test_what_is_too_much_stands_in_line() -> None:
    slots = Slots(2)
    begun: list[int] = []
    gone = {3}

    def attempt(number: int) -> None:
        def begin() -> bool:
            if number in gone:
                return False
            begun.append(number)
            return True

        slots.run(begin)

    for number in range(6):
        attempt(number)
    assert begun == [0, 1]
    slots.done()
    assert begun == [0, 1, 2]
    slots.done()
    assert begun == [0, 1, 2, 4], "one that is over by now leaves its turn to the next"
    slots.done()
    slots.done()
    assert begun == [0, 1, 2, 4, 5]
    slots.done()
    attempt(6)
    attempt(7)
    attempt(8)
    assert begun[-2:] == [6, 7]
