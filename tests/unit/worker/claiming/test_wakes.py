"""Looks that are asked for in SQL: the first at once, and however many ask, no more of them than are cheap."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from rowcall_worker.claiming.wakes import LOOK_EVERY, PROMOTE_AFTER, PROMOTE_EVERY, Debounced, Wakes
from tests.support.waiting import until


class Calls:
    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self) -> None:
        self.times.append(asyncio.get_running_loop().time())

    def __len__(self) -> int:
        return len(self.times)


async def ask_for(seconds: float, ask: Callable[[], None]) -> float:
    """Asks a hundred times a millisecond; for how long, in the end."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    while loop.time() < began + seconds:
        for _ in range(100):
            ask()
        await asyncio.sleep(0.001)  # what is asked for must have its turn
    return loop.time() - began


async def test_the_first_is_answered_before_asking_returns() -> None:
    calls = Calls()
    debounced = Debounced(calls, every=lambda: 60)

    debounced.ask()

    assert len(calls) == 1
    debounced.close()


async def test_those_that_ask_meanwhile_are_answered_by_one_call_when_the_interval_is_over() -> None:
    calls = Calls()
    debounced = Debounced(calls, every=lambda: 0.05)
    for _ in range(1000):
        debounced.ask()
    assert len(calls) == 1

    await until(lambda: len(calls) == 2)
    assert calls.times[1] - calls.times[0] >= 0.05

    elapsed = await ask_for(0.3, debounced.ask)
    assert 3 <= len(calls) <= 2 + elapsed / 0.05 + 1
    debounced.close()


async def test_one_that_is_asked_for_again_after_a_pause_is_at_once_again() -> None:
    calls = Calls()
    debounced = Debounced(calls, every=lambda: 0.01)
    debounced.ask()
    await asyncio.sleep(0.02)  # the interval

    debounced.ask()

    assert len(calls) == 2


async def test_what_comes_after_something_else_waits_for_it() -> None:
    calls = Calls()
    debounced = Debounced(calls, every=lambda: 0.01, after=0.02)
    began = asyncio.get_running_loop().time()
    debounced.ask()
    assert len(calls) == 0

    await until(lambda: len(calls) == 1)
    assert calls.times[0] - began >= 0.02


async def test_nothing_is_called_after_the_end() -> None:
    calls = Calls()
    debounced = Debounced(calls, every=lambda: 0.01)
    debounced.ask()
    debounced.ask()
    debounced.close()

    await asyncio.sleep(0.05)  # five intervals

    assert len(calls) == 1


async def test_a_wake_has_due_jobs_looked_for_behind_those_that_are_ready() -> None:
    looks, promotions = Calls(), Calls()
    wakes = Wakes(looks, promotions, queues=lambda: 1)

    wakes.heard()

    assert len(looks) == 1
    await until(lambda: len(promotions) == 1)
    assert promotions.times[0] >= looks.times[0] + PROMOTE_AFTER
    wakes.close()


async def test_a_flood_of_wakes_is_some_looks_the_fewer_the_more_queues() -> None:
    for queues in (0, 1, 10):
        looks, promotions = Calls(), Calls()
        wakes = Wakes(looks, promotions, queues=lambda queues=queues: queues)  # type: ignore[misc]

        elapsed = await ask_for(0.3, wakes.heard)
        wakes.close()

        assert 2 <= len(looks) <= elapsed / (LOOK_EVERY * max(queues, 1)) + 2
        assert 1 <= len(promotions) <= elapsed / PROMOTE_EVERY + 2
