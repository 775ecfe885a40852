"""What operators see of a shard's queues and do to them, on Postgres. One object a shard; called by the gateway."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict
from datetime import timedelta
from uuid import UUID

from rowcall.audit.model import Act, Checkpoint, Entry, Erased, Head, Link, Unplaced
from rowcall.incidents.model import IncidentRow, Noted
from rowcall.queue.actions import EVERY_ACTION, ActionFilter, ActionJobs, ActionNode, ActionPage
from rowcall.queue.model import Counts, Depths, Pause, QueueActivity, QueueServing, QueueStats, WorkerJob, WorkerRow
from rowcall.queue.postgres import actions, auditing, rows, triage
from rowcall.queue.postgres.auditing import said
from rowcall.queue.postgres.session import Session
from rowcall.queue.postgres.wire.arrays import TextArray
from rowcall.queue.postgres.wire.connection import Shield
from rowcall.queue.postgres.wire.types import Pool
from rowcall.queue.spend import SpendBy, SpendFilter, SpendSum


class PostgresQueueAdmin:
    """A `rowcall.queue.protocol.QueueAdmin` over one shard's pools. Raises RowcallError."""

    def __init__(
        self, write_pool: Pool, read_pool: Pool, *, shard: str, give_up_after: timedelta = timedelta(seconds=30)
    ) -> None:
        """
        Args:
            write_pool: For what writes.
            read_pool: For what reads.
            shard: The shard's name, for errors.
            give_up_after: How long a statement that writes may take before its connection is given up.
        """
        self._shield = Shield()
        self._write = Session(write_pool, shard=shard, shield=self._shield, give_up_after=give_up_after)
        self._read = Session(read_pool, shard=shard)

    async def stats(self, cap: int) -> list[QueueStats]:
        """See QueueAdmin.stats."""
        return [QueueStats(*row) for row in await self._read.rows("queue_stats", {"cap": cap})]

    async def serving(self, cap: int) -> list[QueueServing]:
        """See QueueAdmin.serving."""
        return [QueueServing(*row) for row in await self._read.rows("queue_serving", {"cap": cap})]

    async def method_serving(self) -> dict[str, list[str]]:
        """See QueueAdmin.method_serving."""
        return dict(await self._read.rows("method_serving"))

    async def depths(self, fresh: timedelta) -> Depths | None:
        """See WorkQueue.depths."""
        return rows.depths(await self._write.rows("look_at_depths", {"fresh": fresh}))

    async def workers(self, name: str | None = None) -> list[WorkerRow]:
        """See QueueAdmin.workers."""
        return [WorkerRow(*row) for row in await self._read.rows("list_workers", {"name": name})]

    async def worker_jobs(self, name: str, tenant: str | None = None) -> list[WorkerJob]:
        """See QueueAdmin.worker_jobs."""
        return [WorkerJob(*row) for row in await self._read.rows("worker_jobs", {"name": name, "tenant": tenant})]

    async def activity(self) -> list[QueueActivity]:
        """See QueueAdmin.activity."""
        return [
            QueueActivity(name, paused, waiting, oldest, running, Counts(*counts))
            for name, paused, waiting, oldest, running, *counts in await self._read.rows("queue_activity")
        ]

    async def pauses(self, tenant: str) -> list[Pause]:
        """See QueueAdmin.pauses."""
        return [Pause(*row) for row in await self._read.rows("pauses", {"tenant": tenant})]

    async def pause(self, kind: str, name: str, *, by: str | None, note: str | None, act: Act | None = None) -> bool:
        """See QueueAdmin.pause."""
        return await self._set(kind, name, paused=True, by=by, note=note, act=act)

    async def resume(self, kind: str, name: str, *, act: Act | None = None) -> bool:
        """See QueueAdmin.resume."""
        return await self._set(kind, name, paused=False, by=None, note=None, act=act)

    async def weigh(self, tenant: str, weight: float, *, act: Act | None = None) -> bool:
        """See QueueAdmin.weigh."""
        known: bool = await self._write.value("weigh_tenant", {"tenant": tenant, "weight": weight, "act": said(act)})
        return known

    async def record_reads(self, tenant: str, job_ids: Sequence[UUID], act: Act) -> None:
        """See QueueAdmin.record_reads."""
        if job_ids:
            await auditing.record_reads(self._write, tenant, job_ids, act)

    async def audit_entries(
        self, tenant: str, *, below: int | None = None, limit: int, actor: str = "", action: str = "", target: str = ""
    ) -> list[Entry]:
        """See QueueAdmin.audit_entries."""
        return await auditing.entries(
            self._read, tenant, below=below, limit=limit, actor=actor, action=action, target=target
        )

    async def audit_head(self, tenant: str) -> Head:
        """See QueueAdmin.audit_head."""
        return await auditing.head(self._read, tenant)

    async def audit_chain(self, tenant: str, *, after: int, limit: int) -> list[Link]:
        """See QueueAdmin.audit_chain."""
        return await auditing.chain(self._read, tenant, after=after, limit=limit)

    async def audit_unplaced(self, tenant: str, *, limit: int) -> list[Unplaced]:
        """See QueueAdmin.audit_unplaced."""
        return await auditing.unplaced(self._read, tenant, limit)

    async def audit_checkpoint(self, tenant: str) -> Checkpoint | None:
        """See QueueAdmin.audit_checkpoint."""
        return await auditing.checkpoint(self._read, tenant)

    async def audit_grown(self, within: timedelta) -> list[tuple[str, int, bytes]]:
        """See QueueAdmin.audit_grown."""
        return await auditing.grown(self._read, within)

    async def erase_audit(self, tenant: str, *, after: int, limit: int, act: Act | None = None) -> Erased:
        """See QueueAdmin.erase_audit."""
        return await auditing.erase(self._write, tenant, after=after, limit=limit, act=act)

    async def record_incidents(self, noted: Sequence[Noted]) -> list[str]:
        """See QueueAdmin.record_incidents."""
        return await triage.record(self._write, noted) if noted else []

    async def incidents(self, *, fingerprint: str = "", limit: int) -> list[IncidentRow]:
        """See QueueAdmin.incidents."""
        return await triage.incidents(self._read, fingerprint, limit)

    async def spend(self, wanted: SpendFilter, by: Collection[SpendBy], *, limit: int) -> list[SpendSum]:
        """See QueueAdmin.spend."""
        rows = await self._read.rows(
            "sum_spend", {**asdict(wanted), "by": TextArray([each.value for each in by]), "limit": limit}
        )
        return [SpendSum(*row) for row in rows]

    async def action_jobs(
        self, tenant: str, *, trace_id: UUID | None = None, job_id: UUID | None = None, limit: int, patience: timedelta
    ) -> ActionJobs:
        """See QueueAdmin.action_jobs."""
        return await actions.jobs(self._read, tenant, trace_id=trace_id, job_id=job_id, limit=limit, patience=patience)

    async def action_nodes(
        self,
        tenant: str,
        job_ids: Sequence[UUID],
        *,
        hidden: Sequence[UUID],
        trace_id: UUID | None,
        audit: bool,
        system: bool,
        limit: int,
    ) -> list[ActionNode]:
        """See QueueAdmin.action_nodes."""
        return await actions.nodes(
            self._read,
            tenant,
            job_ids,
            hidden=hidden,
            trace_id=trace_id,
            audit=audit,
            system=system,
            limit=limit,
        )

    async def actions(
        self, tenant: str, wanted: ActionFilter = EVERY_ACTION, *, before: UUID | None = None, limit: int, look: int
    ) -> ActionPage:
        """See QueueAdmin.actions."""
        return await actions.page(self._read, tenant, wanted, before=before, limit=limit, look=look)

    async def resolve_incident(
        self, fingerprint: str, *, by: str | None, note: str | None, act: Act | None = None
    ) -> bool:
        """See QueueAdmin.resolve_incident."""
        known: bool = await self._write.value(
            "resolve_incident", {"fingerprint": fingerprint, "by": by, "note": note, "act": said(act)}
        )
        return known

    async def close(self) -> None:
        """Waits for the statements in flight. The pools are their owner's to close, afterwards."""
        await self._shield.wait()

    async def _set(
        self, kind: str, name: str, *, paused: bool, by: str | None, note: str | None, act: Act | None
    ) -> bool:
        known: bool = await self._write.value(
            "pause", {"kind": kind, "name": name, "paused": paused, "by": by, "note": note, "act": said(act)}
        )
        return known
