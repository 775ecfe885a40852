"""Looks that fail are as dear as others: what took longer than a statement may is not tried again at once."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from rowcall.queue.model import Moment
from rowcall.queue.sweeps import Horizon, Pace, Sweep
from rowcall_worker.upkeep.chores import paced, sweep_through

LONG = 0.02
"""Seconds; a hundred times as long is longer than the test takes."""


async def test_a_look_from_the_front_that_fails_is_not_made_again_at_once() -> None:
    horizon = Horizon()
    sweep = Sweep(horizon)
    asked: list[datetime | None] = []

    async def look(since: datetime | None) -> int:
        asked.append(since)
        if len(asked) == 2:
            await asyncio.sleep(LONG)
            raise TimeoutError
        return 0

    for number in range(1, 3):
        horizon.heard(Moment(datetime.now(UTC), number, number), float(number))
    await sweep_through(sweep, 10, look)
    await asyncio.sleep(LONG)
    with pytest.raises(TimeoutError):
        await sweep_through(sweep, 10, look)
    await sweep_through(sweep, 10, look)
    assert asked[0] is None
    assert asked[1] is None, "it is cheap as far as is known"
    assert asked[2] is not None, "from the mark"


async def test_a_look_at_everything_that_fails_is_not_made_again_at_once() -> None:
    pace = Pace()
    fronts: list[bool] = []

    async def look(front: bool) -> None:
        fronts.append(front)
        if front:
            await asyncio.sleep(LONG)
            raise TimeoutError

    with pytest.raises(TimeoutError):
        await paced(pace, look)
    await paced(pace, look)
    assert fronts == [True, False]
