"""Slots are taken in turn, shared among those who wait, and never lost."""

from __future__ import annotations

import asyncio

from rowcall_worker.slots import Slots


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
