"""Waits end in time, those that are over leave nothing behind, and there is one timer for all."""

from __future__ import annotations

import asyncio

from rowcall_gateway.shards.time_limits import TimeLimits, Wake


def wakes(count: int) -> list[Wake]:
    loop = asyncio.get_running_loop()
    return [loop.create_future() for _ in range(count)]


async def test_each_wait_ends_at_its_time_in_order() -> None:
    limits, loop = TimeLimits(), asyncio.get_running_loop()
    ended: list[int] = []
    waits = wakes(3)
    for wake in waits:
        wake.add_done_callback(lambda wake: ended.append(waits.index(wake)))
    now = loop.time()
    for number, after in ((1, 0.02), (0, 0.01), (2, 0.03)):
        limits.end(waits[number], now + after)

    await asyncio.wait_for(asyncio.gather(*waits), 20)

    assert loop.time() >= now + 0.03
    assert ended == [0, 1, 2]
    assert len(limits) == 0


async def test_a_time_that_is_over_ends_the_wait_at_once_but_not_within_the_call() -> None:
    limits, (wake,) = TimeLimits(), wakes(1)
    limits.end(wake, asyncio.get_running_loop().time() - 1)
    assert not wake.done()
    await asyncio.wait_for(wake, 20)


async def test_a_wait_that_is_over_is_left_alone() -> None:
    limits, loop = TimeLimits(), asyncio.get_running_loop()
    answered, cancelled, late = wakes(3)
    answered.set_result(None)
    cancelled.cancel()
    for wake in (answered, cancelled, late):
        limits.end(wake, loop.time())
    await asyncio.wait_for(late, 20)
    assert cancelled.cancelled()


async def test_waits_that_are_over_are_not_kept_until_their_time() -> None:
    limits, loop = TimeLimits(), asyncio.get_running_loop()
    (first,) = wakes(1)
    # The one that ends next is not over: those behind it are not at the top.
    limits.end(first, loop.time() + 1000)
    for _ in range(100):
        waits = wakes(100)
        for wake in waits:
            limits.end(wake, loop.time() + 3600)
        for wake in waits:
            wake.set_result(None)
    assert len(limits) < 1000
    limits.close()
    assert not first.done()
