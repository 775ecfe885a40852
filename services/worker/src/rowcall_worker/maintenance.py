"""Keeps a shard in order beside the work: due jobs, dead workers, days of history, expired keys.

Every worker does it on every shard, in small batches that pass each other by; there is no leader to lose. Intervals are
spread so that workers started together do not come together. A failure is logged once and tried again.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final
from uuid import UUID

import structlog

from rowcall.errors import RowcallError
from rowcall.queue.protocol import WorkQueue
from rowcall.v1.job_pb2 import JobState

PROMOTE_BATCH: Final = 1000
RESCUE_BATCH: Final = 100
EXPIRE_BATCH: Final = 1000
HISTORY_DAYS: Final = 14
"""How many days of history are made ahead."""

PROMOTE_EVERY: Final = 0.5
BURY_EVERY: Final = 1.0
EXPIRE_EVERY: Final = 60.0
HISTORY_EVERY: Final = 3600.0
"""Seconds, spread by a fifth."""

_SOON: Final = 0.005
"""Seconds by which a retry is looked for later than it is due, so that it is."""

_log = structlog.get_logger(__name__)


class Maintenance:
    """The housekeeping of one worker on one shard."""

    def __init__(
        self,
        queue: WorkQueue,
        *,
        shard: str,
        ready: Callable[[Iterable[int]], None],
        done: Callable[[UUID, Sequence[UUID]], None],
    ) -> None:
        """Args:
        queue: The shard's.
        shard: Its name, for the log.
        ready: Called with the queues that got ready jobs.
        done: Called for each gateway with the jobs it may be waiting for.
        """
        self._queue = queue
        self._shard = shard
        self._ready = ready
        self._done = done
        self._promote_now = asyncio.Event()
        self._rescue_now = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Starts; the first round of each is at once."""
        self._tasks = [
            asyncio.create_task(self._repeat(name, work, every, wake), name=f"{name} {self._shard}")
            for name, work, every, wake in (
                ("promote due jobs", self._promote, PROMOTE_EVERY, self._promote_now),
                ("rescue jobs", self._rescue, BURY_EVERY, self._rescue_now),
                ("expire keys", self._expire, EXPIRE_EVERY, None),
                ("make days of history", self._make_days, HISTORY_EVERY, None),
            )
        ]

    async def stop(self) -> None:
        """Stops; statements in flight run to their end in the queue."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def due_in(self, seconds: float) -> None:
        """A job of this shard is due after so long: it is looked for then, not only at the next round."""
        if seconds < PROMOTE_EVERY:
            asyncio.get_running_loop().call_later(seconds + _SOON, self._promote_now.set)

    def rescue_soon(self) -> None:
        """There are jobs to take back: not only at the next round."""
        self._rescue_now.set()

    async def _repeat(
        self, name: str, work: Callable[[], Awaitable[None]], every: float, wake: asyncio.Event | None
    ) -> None:
        failing = False
        while True:
            try:
                await work()
                failing = False
            except Exception as error:  # noqa: BLE001  housekeeping goes on: the next round may do better
                if not failing:
                    _log.warning(
                        "housekeeping failed, trying again",
                        shard=self._shard,
                        task=name,
                        error=str(error) if isinstance(error, RowcallError) else type(error).__name__,
                        exc_info=None if isinstance(error, RowcallError) else error,
                    )
                failing = True
            pause = every * random.uniform(0.8, 1.2)  # noqa: S311  spreads, guards nothing
            if wake is None:
                await asyncio.sleep(pause)
            else:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(wake.wait(), pause)
                wake.clear()

    async def _promote(self) -> None:
        full = True
        while full:
            promoted = await self._queue.promote(PROMOTE_BATCH)
            if promoted:
                self._ready(promoted.keys())
            full = sum(promoted.values()) >= PROMOTE_BATCH

    async def _rescue(self) -> None:
        for worker_id, name in await self._queue.bury_workers():
            _log.warning("worker declared dead", shard=self._shard, worker=name, worker_id=str(worker_id))
        full = True
        while full:
            rescued = await self._queue.rescue(RESCUE_BATCH)
            if rescued:
                _log.warning(
                    "jobs of dead workers taken back",
                    shard=self._shard,
                    rescued=len(rescued),
                    worker=", ".join(sorted({job.worker for job in rescued})),
                )
                self._ready({job.queue_id for job in rescued if job.state == JobState.JOB_STATE_READY})
                waiting: dict[UUID, list[UUID]] = {}
                for job in rescued:
                    if job.state != JobState.JOB_STATE_READY and job.waiter_id is not None:
                        waiting.setdefault(job.waiter_id, []).append(job.job_id)
                for waiter, jobs in waiting.items():
                    self._done(waiter, jobs)
            full = len(rescued) >= RESCUE_BATCH

    async def _expire(self) -> None:
        while await self._queue.expire_keys(EXPIRE_BATCH) >= EXPIRE_BATCH:
            pass

    async def _make_days(self) -> None:
        made = await self._queue.make_history_days(HISTORY_DAYS)
        if made:
            _log.info("days of history made", shard=self._shard, count=made)
