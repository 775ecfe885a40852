"""Runs one shard's suspects in a process that runs nothing else: in groups first, and what a group lost alone.

Of n suspects, ⌈√n⌉ are claimed at once, and nothing more until all of them have ended and their outcomes are written. So a
process that dies says: it was one of these. About √n groups find it, and as many jobs run alone after that, where running
each alone would take n times as long as one. What survives is an ordinary job again.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from rowcall.names import operation_name
from rowcall.queue.protocol import WorkQueue
from rowcall_worker.claiming.intake import Intake
from rowcall_worker.claiming.quarantine import NAMED, Apart, said
from rowcall_worker.claiming.shares import Share
from rowcall_worker.claiming.solitude import Solitude
from rowcall_worker.membership.registration import Registrar, Registration
from rowcall_worker.running.attempt import Attempt
from rowcall_worker.running.executor import Executor
from rowcall_worker.serving.handlers import ServedMethod
from rowcall_worker.settling.settler import Settler
from rowcall_worker.upkeep.chores import Chore, Chores

EVERY: Final = 0.25
"""Seconds between looks for suspects."""
LINGER: Final = 10.0
"""Seconds without any after which the process ends: what a death has cost is ready again within three."""
MOST: Final = 10_000
"""So many suspects are counted, at most, for the size of a group."""

_LOOK: Final = 1.0
"""Seconds between looks at whether a group has ended."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Part:
    """Suspects that may be in one group: their handlers run in the same slots, and no queue's limit is passed."""

    is_async: bool
    queue_ids: tuple[int, ...]


class Groups:
    """Looks for the suspects of one shard and runs them; the process has nothing else to do."""

    def __init__(
        self,
        queue: WorkQueue,
        registrar: Registrar,
        executor: Executor,
        settler: Settler,
        intake: Intake,
        *,
        solitude: Solitude,
        shard: str,
        methods: Mapping[int, ServedMethod],
        apart: Apart,
    ) -> None:
        """Args:
        queue: The shard's.
        registrar: Knows under which identity to claim.
        executor: Runs what was claimed.
        settler: Has the outcomes that must be written before the next group runs.
        intake: Starts what was claimed.
        solitude: Knows whether anything still runs in the process.
        shard: The shard's name, for the log.
        methods: What is served, by the shard's method ids.
        apart: Is told what runs, and when the process is to end.
        """
        self._queue = queue
        self._registrar = registrar
        self._executor = executor
        self._settler = settler
        self._intake = intake
        self._solitude = solitude
        self._shard = shard
        self._method_ids = {
            is_async: sorted(method_id for method_id, method in methods.items() if method.is_async is is_async)
            for is_async in (True, False)
        }
        self._apart = apart
        self._shares: dict[int, Share] = {}
        self._parts: list[_Part] = []
        """Whose turn is next comes first."""
        self._sizes: dict[_Part, int] = {}
        """Of the groups of a part, while it has suspects: as at the beginning, or as for what has come since."""
        self._ran_at = time.monotonic()
        self._claiming: asyncio.Future[Sequence[Attempt]] | None = None
        self._chores = Chores([Chore("run suspects", self._look, EVERY)], shard=shard)

    def look_at(self, queues: Mapping[int, Share]) -> None:
        """These are the queues to claim from, with their shares."""
        self._shares = dict(queues)
        together = tuple(sorted(queue_id for queue_id, share in queues.items() if share.cap is None))
        each = [(queue_id,) for queue_id, share in queues.items() if share.cap is not None]
        parts = {
            _Part(is_async, queue_ids)
            for queue_ids in (together, *each)
            for is_async, method_ids in self._method_ids.items()
            if queue_ids and method_ids
        }
        self._parts = [part for part in self._parts if part in parts]
        self._parts += sorted(parts.difference(self._parts), key=lambda part: (not part.is_async, part.queue_ids))

    def start(self) -> None:
        """Starts looking."""
        self._chores.start()

    async def stop(self) -> None:
        """Claims no more; what a claim under way brings is handed back. What runs goes on."""
        await self._chores.stop()
        if self._claiming is not None:
            await asyncio.gather(self._claiming, return_exceptions=True)

    async def _look(self) -> None:
        while not self._solitude.stuck and await self._run_group():
            self._ran_at = time.monotonic()
        # A handler that goes on although its attempt is over is no company: what comes next has another process.
        if self._solitude.stuck or time.monotonic() - self._ran_at > LINGER:
            self._apart.done()

    async def _run_group(self) -> bool:
        """Runs a group, or a job alone; False: there is none."""
        await self._settler.flushed()
        registration = await self._registrar.usable()
        attempts: Sequence[Attempt] = ()
        for part in list(self._parts):
            # Shielded from `stop`: what a claim took must be started or handed back.
            self._claiming = asyncio.ensure_future(self._claim(registration, part))
            attempts = await asyncio.shield(self._claiming)
            self._parts = [*(each for each in self._parts if each != part), part]
            if attempts:
                break
        if not attempts:
            return False
        while not all(attempt.settled or attempt.ended for attempt in attempts):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK):
                    await self._registrar.ended()
        await self._solitude.quiet(_LOOK)
        await self._settler.flushed()
        self._apart.tell(said(()))
        return True

    async def _claim(self, registration: Registration, part: _Part) -> Sequence[Attempt]:
        method_ids = self._method_ids[part.is_async]
        slots = self._executor.async_slots if part.is_async else self._executor.sync_slots
        share = self._shares[part.queue_ids[0]]
        limit = slots.take(int(min(await self._size(part), slots.free, share.room)))
        if limit == 0:
            return ()
        share.take(limit)
        registration.hold(limit)
        started = 0
        try:
            jobs = await self._queue.claim_suspects(registration.worker_id, part.queue_ids, method_ids, limit)
            if not jobs:
                self._sizes.pop(part, None)
                return ()
            operations = [operation_name(job.tenant, job.job_id) for job in jobs]
            self._apart.tell(said(operations))
            _log.info("suspects run", shard=self._shard, jobs=len(jobs), operations=operations[:NAMED])
            attempts = await self._intake.start(registration, jobs, share.cap)
            started = len(attempts)
        except Exception as error:
            self._intake.failed(registration, error)
            raise
        finally:
            slots.give(limit - started)
            share.give(limit - started)
            registration.let_go(limit - started)
        return attempts

    async def _size(self, part: _Part) -> int:
        count = await self._queue.count_suspects(part.queue_ids, self._method_ids[part.is_async], MOST)
        self._sizes[part] = max(self._sizes.get(part, 1), root(count))
        return self._sizes[part]


def root(count: int) -> int:
    """⌈√count⌉."""
    return math.isqrt(count - 1) + 1 if count else 0
