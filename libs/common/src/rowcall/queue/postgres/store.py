"""The gateway's half of the queue on Postgres: submitting calls and reading jobs. One object a shard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from uuid import UUID

from psycopg.types.json import Jsonb

from rowcall.audit.model import Act
from rowcall.catalogue.model import JobMethod, Policy
from rowcall.catalogue.shapes import Shape
from rowcall.errors import RowcallError
from rowcall.names import operation_name
from rowcall.queue import statuses
from rowcall.queue.hints import Hint
from rowcall.queue.model import (
    EVERY_JOB,
    Cancelled,
    FailureGroup,
    JobFilter,
    JobRow,
    MethodIds,
    Outcome,
    Submission,
    Submitted,
    Wait,
)
from rowcall.queue.postgres import rows, submitting, tallies
from rowcall.queue.postgres.auditing import said
from rowcall.queue.postgres.registry import Registry
from rowcall.queue.postgres.session import Session
from rowcall.queue.postgres.submitting import Submitter
from rowcall.queue.postgres.wire.arrays import BigintArray, IntegerArray, SmallintArray, TextArray, UuidArray
from rowcall.queue.postgres.wire.connection import Shield
from rowcall.queue.postgres.wire.types import Pool
from rowcall.queue.tally import Told
from rowcall.queue.turns import Turns
from rowcall.v1.error_reason_pb2 import ErrorReason


class PostgresJobStore:
    """A `rowcall.queue.protocol.JobStore` over one shard's pools.

    Raises RowcallError: SHARD_UNAVAILABLE, COMMIT_UNKNOWN, CONFLICT, SCHEMA_MISMATCH or INTERNAL, the database's error
    as its cause. What writes is shielded: cancelling a call ends its waiting, never a statement in flight.
    """

    def __init__(
        self,
        submit_pool: Pool,
        read_pool: Pool,
        *,
        shard: str | None = None,
        key_ttl: timedelta = timedelta(days=7),
        give_up_after: timedelta = timedelta(seconds=30),
    ) -> None:
        """
        Args:
            submit_pool: For what writes.
            read_pool: For what reads.
            shard: The shard's name. Nothing is submitted to a database that says it is another shard, as when a
                service started while that database was away and could not be asked. None: whichever it is; errors
                then have the pool's name.
            key_ttl: How long an idempotency key names its job.
            give_up_after: How long a statement that writes may take before its connection is given up and its outcome
                unknown; a synchronous standby that is gone would keep it waiting for ever.
        """
        self._expected = shard
        shard = submit_pool.name if shard is None else shard
        self._shield = Shield()
        self._write = Session(submit_pool, shard=shard, shield=self._shield, give_up_after=give_up_after)
        self._read = Session(read_pool, shard=shard)
        # Read on a call's way in, which must not wait for psycopg's cancelling when the call's time is up.
        self._facts = Session(read_pool, shard=shard, give_up_after=give_up_after)
        self._turns = Turns()
        self._submitter = Submitter(self._write, self._turns, key_ttl=key_ttl)
        self._registry = Registry(self._write)
        self._fingerprint_key: bytes | None = None

    async def method_ids(self, method: str, policy: Policy) -> MethodIds:
        """See JobStore.method_ids."""
        known = self._registry.known(method, policy)
        if known is None:
            await self.fingerprint_key()  # refuses another shard, before anything is written there
            known = await self._registry.method_ids(method, policy)
        return known

    def known_ids(self, method: str, policy: Policy) -> MethodIds | None:
        """What `method_ids` answers, if it need not ask."""
        return self._registry.known(method, policy)

    def queue_name(self, queue_id: int) -> str | None:
        """See JobStore.queue_name."""
        return self._registry.queue_name(queue_id)

    @property
    def known_fingerprint_key(self) -> bytes | None:
        """What `fingerprint_key` answers, if it need not ask."""
        return self._fingerprint_key

    async def publish(self, method: JobMethod) -> MethodIds:
        """See JobStore.publish."""
        await self.fingerprint_key()
        return await self._registry.publish(method)

    async def fingerprint_key(self) -> bytes:
        """See JobStore.fingerprint_key."""
        if self._fingerprint_key is None:
            facts = await self._shield.run(self._facts.rows("shard_facts"))
            shard = self._facts.shard
            if not facts:
                raise RowcallError(
                    ErrorReason.ERROR_REASON_SCHEMA_MISMATCH,
                    f'Shard {shard!r} has no facts of itself. The operator must run "rowcall migrate".',
                    metadata={"shard": shard},
                )
            name, key = facts[0]
            if self._expected is not None and name != self._expected:
                raise RowcallError(
                    ErrorReason.ERROR_REASON_SCHEMA_MISMATCH,
                    f"The database configured as shard {shard!r} is the shard {name!r}; nothing was written. The operator "
                    "must check which connection string belongs to which shard.",
                    metadata={"shard": shard},
                )
            self._fingerprint_key = bytes(key)
        return self._fingerprint_key

    async def publish_types(self, shapes: Mapping[str, Shape]) -> None:
        """See JobStore.publish_types."""
        await self.fingerprint_key()
        await self._registry.publish_types(shapes)

    async def kept_fingerprint(self, submission: Submission) -> bytes | None:
        """See JobStore.kept_fingerprint."""
        found = await self._shield.run(self._facts.value("kept_fingerprint", submitting.key_and_request(submission)))
        return None if found is None else bytes(found)

    async def submit(self, submissions: Sequence[Submission], hint: Hint | None = None) -> list[Submitted | Exception]:
        """See JobStore.submit."""
        return await self._shield.run(self._submitter.submit(submissions, hint)) if submissions else []

    async def submit_atomic(self, submissions: Sequence[Submission]) -> list[Submitted]:
        """See JobStore.submit_atomic."""
        return await self._shield.run(self._submitter.submit_atomic(submissions)) if submissions else []

    async def read(
        self, jobs: Sequence[tuple[str, UUID]], *, request: bool = False, response: bool = False
    ) -> dict[tuple[str, UUID], JobRow]:
        """See JobStore.read."""
        if not jobs:
            return {}
        found = await self._read.rows("read_jobs", {**_names(jobs), "request": request, "response": response})
        return {(row.tenant, row.job_id): row for row in map(rows.job_row, found)}

    async def waits(
        self, jobs: Sequence[tuple[str, UUID]], *, ahead: int | None = None
    ) -> dict[tuple[str, UUID], Sequence[Wait]]:
        """See JobStore.waits."""
        made: dict[tuple[str, UUID], list[Wait]] = {}
        for tenant, job_id, *rest in (
            await self._read.rows("job_waits", {**_names(jobs), "ahead": ahead}) if jobs else ()
        ):
            made.setdefault((tenant, job_id), []).append(Wait(*rest))
        # What keeps a job first: it is not due, paused, not served, a suspect.
        return {key: sorted(waits, key=lambda wait: wait.reason) for key, waits in made.items()}

    async def outcomes(self, jobs: Sequence[tuple[str, UUID]]) -> list[Outcome]:
        """See JobStore.outcomes."""
        if not jobs:
            return []
        return [rows.outcome(row) for row in await self._read.rows("read_outcomes", _names(jobs))]

    async def find(
        self, tenant: str, wanted: JobFilter = EVERY_JOB, *, before: UUID | None = None, limit: int
    ) -> list[UUID]:
        """See JobStore.find."""
        found = await self._read.rows(
            "find_jobs",
            {
                "tenant": tenant,
                "before": before,
                "limit": limit,
                "states": None if wanted.states is None else SmallintArray(wanted.states),
                "method": wanted.method,
                "queue": wanted.queue,
                "labels": Jsonb(dict(wanted.labels)) if wanted.labels else None,
                "error_fingerprint": wanted.error_fingerprint,
                "actor": wanted.actor,
                "request_id": wanted.request_id,
                "parent_job_id": wanted.parent_job_id,
                "created_from": wanted.created_from,
                "created_to": wanted.created_to,
                "finished_from": wanted.finished_from,
                "finished_to": wanted.finished_to,
            },
        )
        return [row[0] for row in found]

    async def list(
        self,
        tenant: str,
        wanted: JobFilter = EVERY_JOB,
        *,
        before: UUID | None = None,
        limit: int,
        request: bool = False,
        response: bool = False,
    ) -> list[JobRow]:
        """See JobStore.list."""
        found = await self.find(tenant, wanted, before=before, limit=limit)
        rows_of = await self.read([(tenant, job_id) for job_id in found], request=request, response=response)
        return [rows_of[tenant, job_id] for job_id in found if (tenant, job_id) in rows_of]

    async def failure_groups(
        self, tenant: str | None, *, method: str | None = None, finished_from: datetime | None = None, limit: int
    ) -> Sequence[FailureGroup]:
        """See JobStore.failure_groups."""
        found = await self._read.rows(
            "group_failures", {"tenant": tenant, "method": method, "finished_from": finished_from, "limit": limit}
        )
        return [FailureGroup(*row) for row in found]

    async def cancel(self, tenant: str, job_id: UUID, *, act: Act | None = None) -> Cancelled | None:
        """See JobStore.cancel."""
        found = await self._write.rows(
            "cancel_job",
            {"tenant": tenant, "job_id": job_id, "error": statuses.cancelled(), "act": said(act)},
            operation=operation_name(tenant, job_id),
        )
        return Cancelled(*found[0]) if found else None

    async def leave(self, tenant: str, job_id: UUID, *, cancel: bool) -> Cancelled | None:
        """See JobStore.leave."""
        found = await self._write.rows(
            "leave_job",
            {"tenant": tenant, "job_id": job_id, "error": statuses.cancelled(), "cancel": cancel},
            operation=operation_name(tenant, job_id),
        )
        return Cancelled(*found[0]) if found else None

    async def cancel_many(
        self, tenant: str, job_ids: Sequence[UUID], *, act: Act | None = None
    ) -> dict[UUID, Cancelled]:
        """See JobStore.cancel_many."""
        if not job_ids:
            return {}
        found = await self._write.rows(
            "cancel_jobs",
            {
                "tenant": tenant,
                "job_id": UuidArray(sorted(job_ids)),
                "error": statuses.cancelled(),
                "act": said(act),
            },
        )
        return {row[0]: Cancelled(*row[1:]) for row in found}

    async def replay(self, tenant: str, job_ids: Sequence[UUID], *, act: Act | None = None) -> dict[UUID, int]:
        """See JobStore.replay."""
        if not job_ids:
            return {}
        found = await self._write.rows(
            "replay_jobs", {"tenant": tenant, "job_id": UuidArray(sorted(job_ids)), "act": said(act)}
        )
        return {row[0]: row[1] for row in found}

    async def resolve(
        self, tenant: str, job_ids: Sequence[UUID], *, by: str | None, note: str | None, act: Act | None = None
    ) -> Sequence[UUID]:
        """See JobStore.resolve."""
        if not job_ids:
            return []
        found = await self._write.rows(
            "resolve_jobs",
            {"tenant": tenant, "job_id": UuidArray(sorted(job_ids)), "by": by, "note": note, "act": said(act)},
        )
        return [row[0] for row in found]

    async def exchange_turns(self) -> int:
        """See JobStore.exchange_turns."""
        moved = self._turns.moved()
        if not moved:
            return 0
        flows = sorted(moved, key=lambda flow: (flow.tenant, flow.queue_id, flow.lane))
        try:
            found = await self._write.rows(
                "exchange_turns",
                {
                    "tenant": TextArray([flow.tenant for flow in flows]),
                    "queue_id": IntegerArray([flow.queue_id for flow in flows]),
                    "lane": SmallintArray([flow.lane for flow in flows]),
                    "last_key": BigintArray([moved[flow] for flow in flows]),
                },
            )
        except BaseException:
            self._turns.still_moved(flows)
            raise
        self._turns.learn({flows[place - 1]: last_key for place, last_key in found})
        return len(flows)

    async def tell(self, told: Told) -> None:
        """See JobStore.tell."""
        await tallies.tell(self._write, told)

    async def delete(self, tenant: str, job_id: UUID, *, act: Act | None = None) -> bool:
        """See JobStore.delete."""
        deleted: bool = await self._write.value(
            "delete_job",
            {"tenant": tenant, "job_id": job_id, "act": said(act)},
            operation=operation_name(tenant, job_id),
        )
        return deleted

    async def close(self) -> None:
        """Waits for the statements in flight. The pools are their owner's to close, afterwards."""
        await self._shield.wait()


def _names(jobs: Sequence[tuple[str, UUID]]) -> dict[str, object]:
    return {"tenant": TextArray([tenant for tenant, _ in jobs]), "job_id": UuidArray([job_id for _, job_id in jobs])}
