"""The worker's half of the queue on Postgres: claiming, settling and keeping house. One object a shard."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from rowcall.queue import rows, statuses
from rowcall.queue.arrays import BigintArray, IntegerArray, TextArray, UuidArray
from rowcall.queue.connection import Pool, Shield
from rowcall.queue.model import ClaimedJob, PolicyRow, QueueRow, Rescued, Settled, Settlement
from rowcall.queue.session import Session
from rowcall.queue.settling import NOT_OURS, Settler

LOST_LIMIT = 3
"""A job that is lost with its worker this often fails: WORKER_LOST."""


class PostgresWorkQueue:
    """A `rowcall.queue.protocol.WorkQueue` over one shard's pools.

    Raises RowcallError: SHARD_UNAVAILABLE, COMMIT_UNKNOWN, CONFLICT, SCHEMA_MISMATCH or INTERNAL, the database's error
    as its cause. What writes is shielded: cancelling a call ends its waiting, never a statement in flight.
    """

    def __init__(
        self,
        claim_pool: Pool,
        settle_pool: Pool,
        maintenance_pool: Pool,
        *,
        shard: str | None = None,
        give_up_after: timedelta = timedelta(seconds=30),
    ) -> None:
        """
        Args:
            claim_pool: For claims.
            settle_pool: For settles and releases.
            maintenance_pool: For everything else.
            shard: The shard's name for errors; the pool's name if not given.
            give_up_after: How long a statement may take before its connection is given up and its outcome unknown; a
                synchronous standby that is gone would keep it waiting for ever.
        """
        shard = claim_pool.name if shard is None else shard
        self._shield = Shield()
        self._claim, self._settle, self._house = (
            Session(pool, shard=shard, shield=self._shield, give_up_after=give_up_after)
            for pool in (claim_pool, settle_pool, maintenance_pool)
        )
        self._settler = Settler(self._settle)

    async def method_id(self, method: str) -> int:
        """See WorkQueue.method_id."""
        made: int = await self._house.value("method_id", {"name": method})
        return made

    async def policies(self) -> dict[int, PolicyRow]:
        """See WorkQueue.policies."""
        found = map(rows.policy_row, await self._house.rows("policies"))
        return {policy.policy_id: policy for policy in found}

    async def queues(self) -> list[QueueRow]:
        """See WorkQueue.queues."""
        return [rows.queue_row(row) for row in await self._house.rows("queues")]

    async def register_worker(self, worker_id: UUID, name: str, lease: timedelta) -> None:
        """See WorkQueue.register_worker."""
        await self._house.rows("register_worker", {"worker_id": worker_id, "name": name, "lease": lease})

    async def retire_worker(self, worker_id: UUID) -> None:
        """See WorkQueue.retire_worker."""
        await self._house.rows("retire_worker", {"worker_id": worker_id})

    async def claim(
        self,
        worker_id: UUID,
        queue_id: int,
        method_ids: Sequence[int],
        limit: int,
        *,
        start: Sequence[int],
    ) -> list[ClaimedJob]:
        """See WorkQueue.claim."""
        found = await self._claim.rows(
            "claim_jobs",
            {
                "worker_id": worker_id,
                "queue_id": queue_id,
                "method_id": IntegerArray(method_ids),
                "start": BigintArray(start),
                "limit": limit,
            },
        )
        jobs = [rows.claimed_job(row) for row in found]
        jobs.sort(key=lambda job: (job.lane, job.order_key, job.job_id))
        return jobs

    async def settle(self, settlements: Sequence[Settlement]) -> list[Settled | Exception]:
        """See WorkQueue.settle."""
        return await self._shield.run(self._settler.settle(settlements)) if settlements else []

    async def release(self, jobs: Sequence[ClaimedJob]) -> list[Settled]:
        """See WorkQueue.release."""
        if not jobs:
            return []
        order = sorted(range(len(jobs)), key=lambda index: (jobs[index].tenant, jobs[index].job_id))
        found = await self._settle.rows(
            "release_jobs",
            {
                "tenant": TextArray([jobs[index].tenant for index in order]),
                "job_id": UuidArray([jobs[index].job_id for index in order]),
                "lease": BigintArray([jobs[index].lease for index in order]),
                "cancelled_error": statuses.cancelled(),
            },
        )
        answers = [NOT_OURS] * len(jobs)
        for place, state, waiter_id in found:
            answers[order[place - 1]] = Settled(settled=True, state=state, waiter_id=waiter_id)
        return answers

    async def promote(self, limit: int) -> dict[int, int]:
        """See WorkQueue.promote."""
        return {row[0]: row[1] for row in await self._house.rows("promote_jobs", {"limit": limit})}

    async def bury_workers(self) -> list[tuple[UUID, str]]:
        """See WorkQueue.bury_workers."""
        return [(row[0], row[1]) for row in await self._house.rows("bury_workers")]

    async def rescue(self, limit: int) -> list[Rescued]:
        """See WorkQueue.rescue."""
        found = await self._house.rows(
            "rescue_jobs",
            {
                "limit": limit,
                "lost_limit": LOST_LIMIT,
                "lost_error": statuses.worker_lost(),
                "cancelled_error": statuses.cancelled(),
            },
        )
        return [rows.rescued(row) for row in found]

    async def make_history_days(self, days: int) -> int:
        """See WorkQueue.make_history_days."""
        made: int = await self._house.value("make_history_days", {"days": days})
        return made

    async def expire_keys(self, limit: int) -> int:
        """See WorkQueue.expire_keys."""
        expired: int = await self._house.value("expire_keys", {"limit": limit})
        return expired

    async def close(self) -> None:
        """Waits for the statements in flight. The pools are their owner's to close, afterwards."""
        await self._shield.wait()
