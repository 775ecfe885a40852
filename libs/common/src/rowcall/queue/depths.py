"""What a shard stands at, as a process knows it: looked at every few seconds, and kept for whoever reads gauges, asks how many workers
there should be, or whether the shard answers. No reader has the shard asked.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from rowcall.errors import RowcallError
from rowcall.queue.model import Depths
from rowcall.rounds import come_round
from rowcall.telemetry import metrics
from rowcall.telemetry.tallies import Labels, watch_all

LOOK_EVERY: Final = 5.0
"""Seconds between two looks of a process."""
FRESH: Final = timedelta(seconds=4)
"""What another process has seen within it is as good."""
KNOWN_FOR: Final = 30.0
"""Seconds for which it is told what a shard stood at that does not answer any more. No figure is better than one of an hour ago."""

NOT_YET: Final = "was not looked at yet"

Looking = Callable[[timedelta], Awaitable[Depths | None]]
"""Asks the shard; see `rowcall.queue.protocol.WorkQueue.depths`."""


class KnownDepths:
    """What one shard stands at."""

    def __init__(self, shard: str, look: Looking) -> None:
        """
        Args:
            shard: Its name.
            look: Asks it.
        """
        self.shard = shard
        self._look = look
        self._depths: Depths | None = None
        self._heard_at = float("-inf")
        self._trouble = NOT_YET
        self._task: asyncio.Task[None] | None = None
        self._leave: Callable[[], None] | None = None

    @property
    def depths(self) -> Depths | None:
        """What it stood at last; None: that is not known, or not any more."""
        return self._depths if time.monotonic() < self._heard_at + KNOWN_FOR else None

    @property
    def trouble(self) -> str:
        """Why the shard cannot be asked; empty: it can."""
        return self._trouble

    def start(self) -> None:
        """Begins to look, and tells the gauges what it sees. The start of a service does not wait for it."""
        self._leave = watch_all(
            (
                (metrics.QUEUE_DEPTH, self._waiting),
                (metrics.QUEUE_OLDEST_AGE, self._oldest),
                (metrics.QUEUE_RUNNING, self._running),
                (metrics.QUEUE_SLOTS, self._slots),
                (metrics.OLDEST_XMIN_AGE, self._snapshot),
            )
        )
        self._task = asyncio.create_task(self._run(), name=f"look at depths {self.shard}")

    async def stop(self) -> None:
        """Stops."""
        if self._leave is not None:
            self._leave()
            self._leave = None
        if self._task is not None:
            task, self._task = self._task, None
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def look(self) -> None:
        """Looks once, now."""
        try:
            found = await self._look(FRESH)
        except RowcallError as error:
            self._trouble = error.message
            return
        self._trouble = ""
        if found is not None:
            self._depths, self._heard_at = found, time.monotonic()

    async def _run(self) -> None:
        await come_round(f"looking at depths of {self.shard}", self.look, LOOK_EVERY)

    def _waiting(self) -> Mapping[Labels, float]:
        found = self.depths
        if found is None:
            return {}
        return {
            (self.shard, each.queue, str(each.lane), state): count
            for each in found.lanes
            for state, count in (("ready", each.ready), ("held", each.held), ("scheduled", each.scheduled))
        }

    def _oldest(self) -> Mapping[Labels, float]:
        found = self.depths
        oldest: dict[Labels, float] = {}
        for each in () if found is None else found.lanes:
            labels = (self.shard, each.queue)
            age = 0.0 if each.oldest is None else max(each.oldest.total_seconds(), 0.0)
            oldest[labels] = max(oldest.get(labels, 0.0), age)
        return oldest

    def _running(self) -> Mapping[Labels, float]:
        found = self.depths
        return {} if found is None else {(self.shard, each.queue): each.running for each in found.workers}

    def _slots(self) -> Mapping[Labels, float]:
        found = self.depths
        return {} if found is None else {(self.shard, each.queue): each.slots for each in found.workers}

    def _snapshot(self) -> Mapping[Labels, float]:
        found = self.depths
        if found is None or found.oldest_snapshot is None:
            return {}
        return {(self.shard,): max(found.oldest_snapshot.total_seconds(), 0.0)}


@dataclass(frozen=True, slots=True)
class Scale:
    """How busy the workers of a queue are, over all shards."""

    queue: str
    ready: int
    """Jobs that wait for a worker."""
    running: int
    slots: int
    """Jobs of it that living workers could run at once."""
    value: float
    """(ready + running) / slots: 1 where there are as many slots as jobs. Without a worker as if there were one slot."""


def scale_of(queue: str, shards: Sequence[KnownDepths]) -> Scale | None:
    """How busy the workers of a queue are; None: no shard has the queue.

    Raises:
        LookupError: What a shard stands at is not known, with which one and why: half of the figure would be worse than none.
    """
    ready = running = slots = 0
    found = False
    for known in shards:
        depths = known.depths
        if depths is None:
            raise LookupError(f"shard {known.shard}: {known.trouble or NOT_YET}")
        lanes = [each for each in depths.lanes if each.queue == queue]
        workers = [each for each in depths.workers if each.queue == queue]
        found = found or bool(lanes)
        ready += sum(each.ready for each in lanes)
        running += sum(each.running for each in workers)
        # A worker has the same slots for all shards, and tells each of them.
        slots = max(slots, sum(each.slots for each in workers))
    if not found:
        return None
    return Scale(queue, ready, running, slots, round((ready + running) / max(slots, 1), 4))
