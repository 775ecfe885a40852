"""What one worker of a shard does for all: ends what is over its time, ages, sets the paused aside, seals
who did what, turns days over.

Each worker asks the shard again and again whether it is the one; whoever has the role keeps it while it asks. Were two to
think so for a moment, no harm is done: every statement passes by what another one holds.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import structlog

from rowcall.migrations import HISTORY_DAYS
from rowcall.queue.protocol import WorkQueue
from rowcall.queue.sweeps import Horizon, Pace, Sweep
from rowcall_worker.upkeep.chores import Chore, Chores, paced, sweep_through
from rowcall_worker.upkeep.maintenance import Telling
from rowcall_worker.upkeep.sealing import Sealing

ROLE: Final = "maintainer"
TERM: Final = timedelta(seconds=10)
"""How long the role stays with a worker that does not ask again."""

BATCH: Final = 1000
"""The most rows in one statement of housekeeping."""
AGED: Final = 16
"""As many jobs move up from each lane of a queue in a round: what a lane that is passed over gets at least."""

ELECT_EVERY: Final = 3.0
SWEEP_EVERY: Final = 1.0
PAUSES_EVERY: Final = 1.0
AGE_EVERY: Final = 1.0
FORGET_EVERY: Final = 60.0
HISTORY_EVERY: Final = 3600.0
SEAL_EVERY: Final = 1.0
CUT_EVERY: Final = 3600.0
PAUSES_SHARE: Final = 0.05
"""Of the time, at most: with a million jobs behind a pause a look takes a second, and claims honour pauses by themselves."""
DROP_AGAIN_EVERY: Final = 30.0
"""Seconds. A day that could not be dropped is tried again: somebody was reading history."""

_log = structlog.get_logger(__name__)


class Maintainer:
    """One worker's half of the election, and the work if it is elected, on one shard."""

    def __init__(
        self,
        queue: WorkQueue,
        *,
        shard: str,
        worker_id: Callable[[], UUID | None],
        horizon: Horizon,
        telling: Telling,
        sealing: Sealing,
    ) -> None:
        """Args:
        queue: The shard's.
        shard: Its name, for the log.
        worker_id: The worker's present identity; None while it has none.
        horizon: The shard's.
        telling: Is told of the jobs that were moved.
        sealing: The shard's.
        """
        self._attempts_over, self._jobs_over, self._keys_over = Sweep(horizon), Sweep(horizon), Sweep(horizon)
        self._all_lanes, self._all_held = Pace(), Pace()
        """Looks through all that waits, that is held; each dear while somebody holds a snapshot."""
        self._queue = queue
        self._shard = shard
        self._worker_id = worker_id
        self._telling = telling
        self._sealing = sealing
        self._elected_until = 0.0
        self._drop = Chore("drop old days of history", self._if_elected(self._drop_days), DROP_AGAIN_EVERY)
        self._looked_at_days = float("-inf")
        """When the days were last all in order."""
        self._elected_chores = (
            Chore("end attempts and jobs over their time", self._if_elected(self._expire), SWEEP_EVERY),
            Chore("set aside what is paused", self._if_elected(self._pauses), PAUSES_EVERY, share=PAUSES_SHARE),
            Chore("age jobs", self._if_elected(self._age), AGE_EVERY),
            Chore("forget keys and turns", self._if_elected(self._forget), FORGET_EVERY),
            Chore("make days of history", self._if_elected(self._make_days), HISTORY_EVERY),
            self._drop,
            Chore("seal the audit", self._if_elected(self._seal), SEAL_EVERY),
            Chore("cut off old audit", self._if_elected(self._cut), CUT_EVERY),
        )
        self._chores = Chores(
            (Chore("elect a maintainer", self._elect, ELECT_EVERY), *self._elected_chores), shard=shard
        )

    @property
    def elected(self) -> bool:
        """Whether this worker has the role, as far as it knows."""
        return time.monotonic() < self._elected_until

    def start(self) -> None:
        """Starts; the first election is at once."""
        self._chores.start()

    async def stop(self) -> None:
        """Stops; statements in flight run to their end in the queue."""
        await self._chores.stop()

    async def _elect(self) -> None:
        worker_id = self._worker_id()
        if worker_id is None:
            return
        asked_at = time.monotonic()
        had = self.elected
        if await self._queue.elect(ROLE, worker_id, TERM):
            self._elected_until = asked_at + TERM.total_seconds()
            if not had:
                _log.info("elected as maintainer", shard=self._shard)
                for chore in self._elected_chores:
                    chore.wake.set()
        else:
            self._elected_until = 0.0

    def _if_elected(self, work: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
        async def round_() -> None:
            if self.elected:
                await work()

        return round_

    async def _expire(self) -> None:
        # Each worker names its own overdue attempts (see `membership/lease`); this finds what none knows of.
        await sweep_through(self._attempts_over, BATCH, self._expire_attempts, goes_on=lambda: self.elected)
        await sweep_through(self._jobs_over, BATCH, self._expire_jobs, goes_on=lambda: self.elected)

    async def _expire_attempts(self, since: datetime | None) -> int:
        taken = await self._queue.expire_attempts(BATCH, since=since)
        self._telling.overdue(taken, self._shard)
        return len(taken)

    async def _expire_jobs(self, since: datetime | None) -> int:
        ended = await self._queue.expire_jobs(BATCH, since)
        self._telling.waited_too_long(ended, self._shard)
        return len(ended)

    async def _pauses(self) -> None:
        while self.elected and await self._queue.hold_paused(BATCH) >= BATCH:
            pass
        while self.elected:
            freed = await paced(self._all_held, lambda front: self._queue.free_resumed(BATCH, front=front))
            if freed:
                self._telling.ready(freed.keys())
            if sum(freed.values()) < BATCH:
                return

    async def _age(self) -> None:
        aged = await paced(self._all_lanes, lambda front: self._queue.age(AGED, front=front))
        if aged:
            self._telling.ready(aged.keys())

    async def _forget(self) -> None:
        await sweep_through(
            self._keys_over, BATCH, lambda since: self._queue.expire_keys(BATCH, since), goes_on=lambda: self.elected
        )
        while self.elected and await self._queue.forget_turns(BATCH) >= BATCH:
            pass

    async def _seal(self) -> None:
        await self._sealing.seal(lambda: self.elected)

    async def _cut(self) -> None:
        await self._sealing.cut(lambda: self.elected)

    async def _make_days(self) -> None:
        made = await self._queue.make_history_days(HISTORY_DAYS)
        if made:
            _log.info("days of history made", shard=self._shard, count=made)
            await self._queue.analyze_history()

    async def _drop_days(self) -> None:
        if time.monotonic() < self._looked_at_days + HISTORY_EVERY:
            return
        dropped = 0
        while self.elected:
            day = await self._queue.drop_history_day()
            if day is None:
                self._looked_at_days = time.monotonic()
                break
            if not day:
                # In use; tried again soon.
                break
            dropped += 1
            _log.info("day of history dropped", shard=self._shard, name=day)
        if dropped:
            await self._queue.analyze_history()
