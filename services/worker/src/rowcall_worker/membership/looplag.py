"""How late the event loop is: measured by a task in it, logged when something blocks it, told with each renewal.

One `LoopLag` for the process (`rowcall_worker.worker`); each lease has a `Reading` of its own, asked from the lease's
thread: a loop that is blocked at this moment is told of while it is.
"""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from typing import Final
from weakref import WeakSet

import structlog

_EVERY: Final = 0.1
"""Seconds between looks."""
LOGGED_ABOVE: Final = 0.5
"""Seconds by which the loop may be late before it is logged: hints, timeouts and cancellations are late as well."""
_CALM: Final = 10.0
"""Seconds without such a delay after which the next one is logged again."""

_log = structlog.get_logger(__name__)


class Reading:
    """The worst delay since it was last asked for. One thread reads it."""

    def __init__(self, lag: LoopLag) -> None:
        self._lag = lag
        self.worst = 0.0
        """Seconds; set by the loop."""

    def take(self) -> timedelta:
        """How late the loop was at worst since the last time, the present delay included."""
        # A delay that is noted between the two statements is in the next reading, for it goes on or was small.
        worst, self.worst = self.worst, 0.0
        return timedelta(seconds=max(worst, self._lag.present, 0.0))


class LoopLag:
    """Measures the running event loop."""

    def __init__(self, *, worker: str) -> None:
        """`worker`: the process's name, for the log."""
        self._worker = worker
        self._due = time.monotonic() + _EVERY
        self._readings: WeakSet[Reading] = WeakSet()
        self._late_at: float | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def present(self) -> float:
        """Seconds by which the loop is late now; below 0: it is not. From any thread."""
        return 0.0 if self._task is None else time.monotonic() - self._due

    def reading(self) -> Reading:
        """A reading of one's own, for as long as it is kept."""
        reading = Reading(self)
        self._readings.add(reading)
        return reading

    def start(self) -> None:
        """Starts measuring."""
        self._due = time.monotonic() + _EVERY
        self._task = asyncio.create_task(self._run(), name="loop lag")

    async def stop(self) -> None:
        """Stops measuring."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(_EVERY)
            now = time.monotonic()
            self.note(now - self._due, now)
            self._due = now + _EVERY

    def note(self, late: float, now: float) -> None:
        """The loop was late by so many seconds, at this time (monotonic)."""
        for reading in self._readings:
            reading.worst = max(reading.worst, late)
        if late < LOGGED_ABOVE:
            return
        if self._late_at is None or now - self._late_at > _CALM:
            _log.warning(
                "event loop was blocked; give work that computes or waits without await to a thread",
                worker=self._worker,
                seconds=round(late, 3),
            )
        self._late_at = now
