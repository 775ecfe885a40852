"""Keeps a shard's jobs moving beside the work: due ones are made ready, those of dead workers taken back.

Every worker does it on every shard, in small batches that pass each other by; there is no leader to lose. What only one
needs to do is in `rowcall_worker.upkeep.maintainer`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

import structlog

from rowcall.queue.model import DONE, Ended, Rescued
from rowcall.queue.protocol import WorkQueue
from rowcall.queue.sweeps import FRONT_SHARE, Horizon, Sweep
from rowcall.queue.tally import UNKNOWN_QUEUE, Tally, What
from rowcall.telemetry import metrics
from rowcall.v1.job_pb2 import JobState
from rowcall_worker.upkeep.chores import Chore, Chores, sweep_through

PROMOTE_BATCH: Final = 1000
RESCUE_BATCH: Final = 100

PROMOTE_EVERY: Final = 0.5
BURY_EVERY: Final = 0.5
"""Seconds. Two beats and this, and a killed worker's jobs are ready again."""
RESCUE_ALL_EVERY: Final = 5.0
"""Seconds between looks through all that dead workers ever claimed, at least: those take a hundredth of the time."""

_SOON: Final = 0.005
"""Seconds by which a retry is looked for later than it is due, so that it is."""

_log = structlog.get_logger(__name__)

_ENDS: Final[Mapping[int, What]] = {JobState.JOB_STATE_FAILED: What.DEAD, JobState.JOB_STATE_CANCELLED: What.CANCELLED}
"""What is counted of a job that ended so when it was taken from its worker."""


class Telling:
    """Tells of jobs that housekeeping has moved: workers of those that are ready, gateways of those that have ended."""

    def __init__(
        self,
        ready: Callable[[Iterable[int]], None],
        done: Callable[[UUID, Sequence[UUID]], None],
        tally: Tally,
    ) -> None:
        """Args:
        ready: Called with the queues that got ready jobs.
        done: Called for each gateway with the jobs it may be waiting for.
        tally: Counts what became of them.
        """
        self.ready = ready
        self._done = done
        self._tally = tally

    def overdue(self, jobs: Sequence[Rescued], shard: str) -> None:
        """Attempts were ended that their workers had not ended in time."""
        if jobs:
            _log.warning(
                "attempts ended that their workers did not end in time",
                shard=shard,
                jobs=len(jobs),
                worker=", ".join(sorted({job.worker for job in jobs})),
            )
            metrics.RESCUES.add(len(jobs), shard, "overdue")
            self.taken_back(jobs, shard, "overdue")

    def taken_back(self, jobs: Sequence[Rescued], shard: str, cause: str) -> None:
        """Jobs were taken from their worker, whichever way; `cause`: what those died of that failed, as metrics.DEAD_LETTERS has it."""
        failed = 0
        for job in jobs:
            self._tally.count(job.tenant, job.queue_id, What.FAILED)
            if job.state in _ENDS:
                self._tally.count(job.tenant, job.queue_id, _ENDS[job.state])
            failed += job.state == JobState.JOB_STATE_FAILED
        if failed:
            metrics.DEAD_LETTERS.add(failed, shard, cause)
        ready = {job.queue_id for job in jobs if job.state == JobState.JOB_STATE_READY}
        if ready:
            self.ready(ready)
        self.ended((job.job_id, job.waiter_id) for job in jobs if job.state in DONE)

    def waited_too_long(self, jobs: Sequence[Ended], shard: str) -> None:
        """Jobs that waited were ended at their deadline."""
        for job in jobs:
            self._tally.count(job.tenant, UNKNOWN_QUEUE, What.DEAD)
        if jobs:
            metrics.DEAD_LETTERS.add(len(jobs), shard, "expired")
        self.ended((job.job_id, job.waiter_id) for job in jobs)

    def ended(self, jobs: Iterable[tuple[UUID, UUID | None]]) -> None:
        """Jobs have ended, with the gateways that wait for them."""
        waiting: dict[UUID, list[UUID]] = {}
        for job_id, waiter in jobs:
            if waiter is not None:
                waiting.setdefault(waiter, []).append(job_id)
        for waiter, job_ids in waiting.items():
            self._done(waiter, job_ids)


class Maintenance:
    """The housekeeping that every worker does on one shard."""

    def __init__(
        self,
        queue: WorkQueue,
        *,
        shard: str,
        worker_id: Callable[[], UUID | None],
        horizon: Horizon,
        telling: Telling,
    ) -> None:
        """Args:
        queue: The shard's.
        shard: Its name, for the log.
        worker_id: The worker's present identity; None while it has none.
        horizon: The shard's.
        telling: Is told of the jobs that were moved.
        """
        self._due = Sweep(horizon)
        self._queue = queue
        self._shard = shard
        self._worker_id = worker_id
        self._telling = telling
        self._promote_chore = Chore("promote due jobs", self._promote, PROMOTE_EVERY)
        self._rescue_chore = Chore("rescue jobs", self._rescue, BURY_EVERY)
        rescue_all = Chore(
            "look through all that dead workers claimed", self._rescue_all, RESCUE_ALL_EVERY, share=FRONT_SHARE
        )
        self._chores = Chores((self._promote_chore, self._rescue_chore, rescue_all), shard=shard)

    def start(self) -> None:
        """Starts; the first round of each is at once."""
        self._chores.start()

    async def stop(self) -> None:
        """Stops; statements in flight run to their end in the queue."""
        await self._chores.stop()

    def due_in(self, seconds: float) -> None:
        """A job of this shard is due after so long: it is looked for then, not only at the next round."""
        if seconds < PROMOTE_EVERY:
            asyncio.get_running_loop().call_later(seconds + _SOON, self._promote_chore.wake.set)

    def promote_now(self) -> None:
        """Jobs may be due: not only at the next round."""
        self._promote_chore.wake.set()

    def rescue_soon(self) -> None:
        """There are jobs to take back: not only at the next round."""
        self._rescue_chore.wake.set()

    async def _promote(self) -> None:
        await sweep_through(self._due, PROMOTE_BATCH, self._promote_since)

    async def _promote_since(self, since: datetime | None) -> int:
        promoted = await self._queue.promote(PROMOTE_BATCH, since)
        if promoted:
            self._telling.ready(promoted.keys())
        return sum(promoted.values())

    async def _rescue(self) -> None:
        own_id = self._worker_id()
        # Who is not registered itself may have been cut off together with those it would bury.
        dead = [] if own_id is None else await self._queue.bury_workers(by=own_id)
        for worker_id, name in dead:
            _log.warning("worker declared dead", shard=self._shard, worker=name, worker_id=str(worker_id))
        await self._take_back(front=False)

    async def _rescue_all(self) -> None:
        # What no worker can have held any more when it was last heard of: there is none, by the rules.
        await self._take_back(front=True)

    async def _take_back(self, *, front: bool) -> None:
        full = True
        while full:
            rescued = await self._queue.rescue(RESCUE_BATCH, front=front)
            if rescued:
                _log.warning(
                    "jobs of dead workers taken back",
                    shard=self._shard,
                    rescued=len(rescued),
                    worker=", ".join(sorted({job.worker for job in rescued})),
                )
                metrics.RESCUES.add(len(rescued), self._shard, "dead_worker")
                self._telling.taken_back(rescued, self._shard, "lost")
            full = len(rescued) >= RESCUE_BATCH
