"""When attempts have used their time up: asked for with every job, needed by almost none. Called by the executor.

A timer of the loop for each attempt costs as much as all else that is done to start it, and nearly all are taken back. So
those that are due much later are noted together with the others of the same second; what is still noted when that second
comes gets timers of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Generic, TypeAlias, TypeVar

T = TypeVar("T")

WIDTH: Final = 1.0
"""Seconds that are noted together."""

Timer: TypeAlias = "asyncio.TimerHandle | dict[T, float]"
"""Where it was noted: what `Timers.stop` is to be given."""


class Timers(Generic[T]):
    """Timers that all call one function, each with what it was started for."""

    def __init__(self, over: Callable[[T], None]) -> None:
        """Args:
        over: Called in the running event loop with what the time is over of.
        """
        self._over = over
        self._loop = asyncio.get_running_loop()
        self._noted: dict[int, dict[T, float]] = {}
        """By the number of the second, since the loop's time began: what is due when."""

    def start(self, whose: T, delay: float) -> Timer[T]:
        """Calls for this in so many seconds, unless it is stopped before.

        Args:
            whose: Hashable, and started once at a time.
            delay: Seconds.
        """
        at = self._loop.time() + delay
        if delay < 2 * WIDTH:
            return self._loop.call_at(at, self._over, whose)
        second = int(at / WIDTH)
        noted = self._noted.get(second)
        if noted is None:
            noted = self._noted[second] = {}
            self._loop.call_at(second * WIDTH, self._come, second)
        noted[whose] = at
        return noted

    def _come(self, second: int) -> None:
        """What is still noted in a second that has come gets timers of its own; it can be stopped as before."""
        noted = self._noted.pop(second)
        for whose, at in noted.items():
            self._loop.call_at(at, self._expire, noted, whose)

    def _expire(self, noted: dict[T, float], whose: T) -> None:
        if noted.pop(whose, None) is not None:
            self._over(whose)

    @staticmethod
    def stop(whose: T, timer: Timer[T]) -> None:
        """Calls for it no more; nothing happens if it was called for, or stopped, already."""
        if isinstance(timer, dict):
            timer.pop(whose, None)
        else:
            timer.cancel()
