"""Looks that fail are as dear as others: what took longer than a statement may is not tried again at once."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import pytest

from rowcall.queue.model import Moment
from rowcall.queue.sweeps import Horizon, Pace, Sweep
from rowcall_worker.upkeep import chores
from rowcall_worker.upkeep.chores import paced, sweep_through

LONG = 0.02
"""Seconds that a look takes."""


@dataclass(slots=True)
class Clock:
    """The time, which stands still until a look has taken some: on a busy machine a short one may be long by any other."""

    now: float = 1000.0

    def monotonic(self) -> float:
        """In place of time.monotonic."""
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(chores, "time", made)
    return made


async def test_a_look_from_the_front_that_fails_is_not_made_again_at_once(clock: Clock) -> None:
    horizon = Horizon()
    sweep = Sweep(horizon)
    asked: list[datetime | None] = []

    async def look(since: datetime | None) -> int:
        asked.append(since)
        if len(asked) == 2:
            clock.now += LONG
            raise TimeoutError
        return 0

    for number in range(1, 3):
        horizon.heard(Moment(datetime.now(UTC), number, number), float(number))
    await sweep_through(sweep, 10, look)
    with pytest.raises(TimeoutError):
        await sweep_through(sweep, 10, look)
    await sweep_through(sweep, 10, look)
    assert asked[0] is None
    assert asked[1] is None, "it is cheap as far as is known"
    assert asked[2] is not None, "from the mark"


async def test_a_look_at_everything_that_fails_is_not_made_again_at_once(clock: Clock) -> None:
    pace = Pace()
    fronts: list[bool] = []

    async def look(front: bool) -> None:
        fronts.append(front)
        if front:
            clock.now += LONG
            raise TimeoutError

    with pytest.raises(TimeoutError):
        await paced(pace, look)
    await paced(pace, look)
    assert fronts == [True, False]
