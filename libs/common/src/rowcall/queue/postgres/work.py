"""The worker's half of the queue on Postgres: claiming, settling and keeping house. One object a shard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from operator import attrgetter
from uuid import UUID

from rowcall.audit.model import Checkpoint, Sealed
from rowcall.catalogue.model import Policy
from rowcall.incidents.model import Noted
from rowcall.queue import statuses
from rowcall.queue.hints import Hint
from rowcall.queue.model import (
    ATTEMPT_GRACE,
    ClaimedJob,
    Depths,
    Ended,
    MethodIds,
    PolicyRow,
    Program,
    Progress,
    QueueRow,
    Rescued,
    Settled,
    Settlement,
    Spent,
)
from rowcall.queue.postgres import auditing, rows, tallies, triage
from rowcall.queue.postgres.registry import Registry
from rowcall.queue.postgres.session import Session
from rowcall.queue.postgres.settling import NOT_OURS, Settler
from rowcall.queue.postgres.spending import booked
from rowcall.queue.postgres.submitting import Submitter
from rowcall.queue.postgres.transaction import PostgresTransactions
from rowcall.queue.postgres.wire.arrays import BigintArray, IntegerArray, RealArray, TextArray, UuidArray
from rowcall.queue.postgres.wire.connection import Shield
from rowcall.queue.postgres.wire.types import Pool
from rowcall.queue.tally import Told
from rowcall.queue.transactions import TransactionLimits
from rowcall.queue.turns import Turns

_ORDER = attrgetter("lane", "order_key", "job_id")
LOST_LIMIT = 3
"""A job that is lost with its worker this often while it ran alone fails: WORKER_LOST."""
KEY_TTL = timedelta(days=7)
"""How long the idempotency key of a job that a handler submitted names it."""
START_GRACE = timedelta(seconds=5)
"""How long after the server's start nobody is declared dead: the living connect again first."""
DROP_TRIES = 100
"""How often a day's locks are asked for, 3 ms apart, before it is left for later."""


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
        transaction_pool: Pool | None = None,
        shard: str | None = None,
        give_up_after: timedelta = timedelta(seconds=30),
    ) -> None:
        """
        Args:
            claim_pool: For claims.
            settle_pool: For settles and releases.
            maintenance_pool: For everything else.
            transaction_pool: For handlers' transactions, of connections that prepare nothing; None: there are none.
            shard: The shard's name for errors; the pool's name if not given.
            give_up_after: How long a statement may take before its connection is given up and its outcome unknown; a
                synchronous standby that is gone would keep it waiting for ever.
        """
        shard = claim_pool.name if shard is None else shard
        self._transaction_pool = transaction_pool
        self._shield = Shield()
        self._give_up_after = give_up_after
        self._fingerprint_key: bytes | None = None
        self._claim, self._settle, self._house = (
            Session(pool, shard=shard, shield=self._shield, give_up_after=give_up_after)
            for pool in (claim_pool, settle_pool, maintenance_pool)
        )
        self._registry = Registry(self._house)
        self._settler = Settler(self._settle, Submitter(self._settle, Turns(), key_ttl=KEY_TTL))

    async def method_ids(self, method: str, policy: Policy) -> MethodIds:
        """See WorkQueue.method_ids."""
        return await self._registry.method_ids(method, policy)

    async def method_id(self, method: str) -> int:
        """See WorkQueue.method_id."""
        made: int = await self._house.value("method_id", {"name": method})
        return made

    async def fingerprint_key(self) -> bytes:
        """See WorkQueue.fingerprint_key."""
        if self._fingerprint_key is None:
            [[_, key]] = await self._house.rows("shard_facts")
            self._fingerprint_key = bytes(key)
        return self._fingerprint_key

    async def policies(self) -> dict[int, PolicyRow]:
        """See WorkQueue.policies."""
        found = map(rows.policy_row, await self._house.rows("policies"))
        return {policy.policy_id: policy for policy in found}

    async def queues(self) -> list[QueueRow]:
        """See WorkQueue.queues."""
        return [rows.queue_row(row) for row in await self._house.rows("queues")]

    async def published(self) -> Mapping[str, str]:
        """See WorkQueue.published."""
        return {row[0]: row[1] for row in await self._house.rows("published_methods")}

    async def register_worker(
        self, worker_id: UUID, name: str, lease: timedelta, program: Program | None = None
    ) -> None:
        """See WorkQueue.register_worker."""
        await self._house.rows(
            "register_worker",
            {
                "worker_id": worker_id,
                "name": name,
                "lease": lease,
                "host": None if program is None else program.host,
                "release": None if program is None else program.release,
                "version": None if program is None else program.version,
                "slots": None if program is None else program.slots,
                "threads": None if program is None else program.threads,
                "apart": None if program is None else program.apart,
                "up": None if program is None else program.up,
            },
        )

    async def serve(self, worker_id: UUID, method_ids: Sequence[int], queues: Sequence[str] | None) -> None:
        """See WorkQueue.serve."""
        await self._house.rows(
            "serve_methods",
            {
                "worker_id": worker_id,
                "method_id": IntegerArray(method_ids),
                "queues": None if queues is None else TextArray(queues),
            },
        )

    async def depths(self, fresh: timedelta) -> Depths | None:
        """See WorkQueue.depths."""
        return rows.depths(await self._house.rows("look_at_depths", {"fresh": fresh}))

    async def retire_worker(self, worker_id: UUID, *, unharmed: bool = False) -> None:
        """See WorkQueue.retire_worker."""
        await self._house.rows("retire_worker", {"worker_id": worker_id, "unharmed": unharmed})

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
        jobs.sort(key=_ORDER)
        return jobs

    async def claim_suspects(
        self, worker_id: UUID, queue_ids: Sequence[int], method_ids: Sequence[int], limit: int
    ) -> list[ClaimedJob]:
        """See WorkQueue.claim_suspects."""
        found = await self._claim.rows(
            "claim_suspects",
            {
                "worker_id": worker_id,
                "queue_id": IntegerArray(queue_ids),
                "method_id": IntegerArray(method_ids),
                "limit": limit,
            },
        )
        return [rows.claimed_job(row) for row in found]

    async def count_suspects(self, queue_ids: Sequence[int], method_ids: Sequence[int], limit: int) -> int:
        """See WorkQueue.count_suspects."""
        count: int = await self._house.value(
            "count_suspects",
            {"queue_id": IntegerArray(queue_ids), "method_id": IntegerArray(method_ids), "limit": limit},
        )
        return count

    async def suspect_waits(self, queue_ids: Sequence[int], method_ids: Sequence[int]) -> timedelta | None:
        """See WorkQueue.suspect_waits."""
        waits: timedelta | None = await self._house.value(
            "suspect_waits", {"queue_id": IntegerArray(queue_ids), "method_id": IntegerArray(method_ids)}
        )
        return waits

    async def elect(self, role: str, worker_id: UUID, term: timedelta) -> bool:
        """See WorkQueue.elect."""
        elected: bool = await self._house.value("elect", {"role": role, "worker_id": worker_id, "term": term})
        return elected

    async def record_incidents(self, noted: Sequence[Noted]) -> list[str]:
        """See WorkQueue.record_incidents."""
        return await triage.record(self._house, noted) if noted else []

    async def seal_audit(self, limit: int) -> list[Sealed]:
        """See WorkQueue.seal_audit."""
        return await auditing.seal(self._house, limit)

    async def audit_due(self, kept: timedelta, limit: int) -> list[tuple[str, int, bytes]]:
        """See WorkQueue.audit_due."""
        return await auditing.due(self._house, kept, limit)

    async def cut_audit(self, tenant: str, at: Checkpoint) -> int:
        """See WorkQueue.cut_audit."""
        return await auditing.cut(self._house, tenant, at)

    async def settle(self, settlements: Sequence[Settlement], hint: Hint | None = None) -> list[Settled | Exception]:
        """See WorkQueue.settle."""
        return await self._shield.run(self._settler.settle(settlements, hint)) if settlements else []

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

    async def report_progress(self, progress: Sequence[Progress], spent: Sequence[Spent] = ()) -> list[Progress]:
        """See WorkQueue.report_progress."""
        if not progress and not spent:
            return []
        order = sorted(progress, key=lambda each: (each.job.tenant, each.job.job_id))
        said: dict[str, object] = {
            "tenant": TextArray([each.job.tenant for each in order]),
            "job_id": UuidArray([each.job.job_id for each in order]),
            "lease": BigintArray([each.job.lease for each in order]),
            "progress": RealArray([each.fraction for each in order]),
            "message": TextArray([each.message for each in order]),
        }
        if spent:
            entries = [(each.job.tenant, each.job.job_id, each.job.lease, each.spend) for each in spent]
            found = await self._settle.rows("report_and_book", {**said, "spent": booked(entries)})
        else:
            found = await self._settle.rows("report_progress", said)
        return [order[row[0] - 1] for row in found]

    async def promote(self, limit: int, since: datetime | None = None) -> dict[int, int]:
        """See WorkQueue.promote."""
        return {row[0]: row[1] for row in await self._house.rows("promote_jobs", {"limit": limit, "since": since})}

    async def bury_workers(self, grace: timedelta = START_GRACE, *, by: UUID | None = None) -> list[tuple[UUID, str]]:
        """See WorkQueue.bury_workers."""
        return [(row[0], row[1]) for row in await self._house.rows("bury_workers", {"grace": grace, "by": by})]

    async def rescue(self, limit: int, *, front: bool = True) -> list[Rescued]:
        """See WorkQueue.rescue."""
        found = await self._house.rows(
            "rescue_jobs",
            {
                "limit": limit,
                "front": front,
                "lost_limit": LOST_LIMIT,
                "lost_error": statuses.worker_lost(),
                "cancelled_error": statuses.cancelled(),
            },
        )
        return [rows.rescued(row) for row in found]

    async def expire_attempts(
        self, limit: int, grace: timedelta = ATTEMPT_GRACE, *, since: datetime | None = None
    ) -> list[Rescued]:
        """See WorkQueue.expire_attempts."""
        found = await self._house.rows(
            "expire_attempts",
            {
                "tenant": None,
                "job_id": None,
                "lease": None,
                "limit": limit,
                "since": since,
                "grace": grace,
                "timeout_error": statuses.timed_out(),
                "deadline_error": statuses.deadline_over(),
                "cancelled_error": statuses.cancelled(),
            },
        )
        return [rows.rescued(row) for row in found]

    async def expire_jobs(self, limit: int, since: datetime | None = None) -> list[Ended]:
        """See WorkQueue.expire_jobs."""
        found = await self._house.rows(
            "expire_jobs", {"limit": limit, "since": since, "deadline_error": statuses.deadline_over()}
        )
        return [Ended(*row) for row in found]

    async def age(self, limit: int, *, front: bool = True) -> dict[int, int]:
        """See WorkQueue.age."""
        return {row[0]: row[1] for row in await self._house.rows("age_jobs", {"limit": limit, "front": front})}

    async def hold_paused(self, limit: int) -> int:
        """See WorkQueue.hold_paused."""
        held: int = await self._house.value("hold_paused", {"limit": limit})
        return held

    async def free_resumed(self, limit: int, *, front: bool = True) -> dict[int, int]:
        """See WorkQueue.free_resumed."""
        return {row[0]: row[1] for row in await self._house.rows("free_resumed", {"limit": limit, "front": front})}

    async def tell(self, told: Told) -> None:
        """See WorkQueue.tell."""
        await tallies.tell(self._house, told)

    async def forget_turns(self, limit: int) -> int:
        """See WorkQueue.forget_turns."""
        forgotten: int = await self._house.value("forget_turns", {"limit": limit})
        return forgotten

    async def drop_history_day(self, tries: int = DROP_TRIES) -> str | None:
        """See WorkQueue.drop_history_day."""
        dropped: str | None = await self._house.value("drop_history_day", {"tries": tries})
        return dropped

    async def analyze_history(self) -> None:
        """See WorkQueue.analyze_history."""
        await self._house.rows("analyze_history")

    async def make_history_days(self, days: int) -> int:
        """See WorkQueue.make_history_days."""
        made: int = await self._house.value("make_history_days", {"days": days})
        return made

    async def expire_keys(self, limit: int, since: datetime | None = None) -> int:
        """See WorkQueue.expire_keys."""
        expired: int = await self._house.value("expire_keys", {"limit": limit, "since": since})
        return expired

    def transactions(self, limits: TransactionLimits) -> PostgresTransactions:
        """See WorkQueue.transactions.

        Raises:
            LookupError: It was made without a pool for them.
        """
        if self._transaction_pool is None:
            raise LookupError("this work queue was made without a pool for transactions")
        return PostgresTransactions(
            self._transaction_pool,
            self._settler,
            self._shield,
            limits,
            shard=self._settle.shard,
            give_up_after=self._give_up_after,
        )

    async def close(self) -> None:
        """Waits for the statements in flight. The pools are their owner's to close, afterwards."""
        await self._shield.wait()
