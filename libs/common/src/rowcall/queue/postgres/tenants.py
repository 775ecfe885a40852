"""A shard's tenants on Postgres: looked at, exported, erased. One object a shard; called by the gateway."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta
from typing import Final
from uuid import UUID

from psycopg.rows import TupleRow

from rowcall.audit.model import Act, Content, Entry
from rowcall.queue import statuses
from rowcall.queue.model import Cancelled, Counts, JobRow, ShardToday
from rowcall.queue.postgres import rows
from rowcall.queue.postgres.auditing import said
from rowcall.queue.postgres.session import Session
from rowcall.queue.postgres.wire.arrays import TextArray
from rowcall.queue.postgres.wire.connection import Shield
from rowcall.queue.postgres.wire.types import Pool
from rowcall.queue.tenants import (
    Erased,
    ErasurePhase,
    ErasureRow,
    IncidentTrace,
    KeyRow,
    LiveJobs,
    SpanRow,
    SpendRow,
    SpendSumRow,
    TenantRow,
)

LINGER: Final = timedelta(seconds=5)
"""How long the answers of jobs that an erasure cancelled are kept: whoever waits asks for them within this."""

GRACE: Final = timedelta(seconds=30)
"""How long jobs that run may still do so when their tenant is being erased."""

SETTLE: Final = timedelta(seconds=10)
"""For how long a statement that saw the tenant open may still write: what ends those of a gateway (`STATEMENT_TIMEOUTS`)."""


class PostgresTenantAdmin:
    """A `rowcall.queue.tenants.TenantAdmin` over one shard's pools. Raises RowcallError."""

    def __init__(
        self,
        write_pool: Pool,
        read_pool: Pool,
        *,
        shard: str,
        give_up_after: timedelta = timedelta(seconds=30),
        linger: timedelta = LINGER,
        grace: timedelta = GRACE,
        settle: timedelta = SETTLE,
    ) -> None:
        """
        Args:
            write_pool: For what writes.
            read_pool: For what reads.
            shard: The shard's name, for errors.
            give_up_after: How long a statement that writes may take before its connection is given up.
            linger: See LINGER.
            grace: See GRACE.
            settle: See SETTLE.
        """
        self._shield = Shield()
        self._write = Session(write_pool, shard=shard, shield=self._shield, give_up_after=give_up_after)
        self._read = Session(read_pool, shard=shard)
        self._times = {"linger": linger, "grace": grace, "settle": settle}

    async def find(self, tenants: Sequence[str]) -> dict[str, TenantRow]:
        """See TenantAdmin.find."""
        found = await self._read.rows("find_tenants", {"tenant": TextArray(list(tenants))})
        return {row[0]: TenantRow(*(*row[:7], _erasure(row[7:]))) for row in found}

    async def counts(self, tenants: Sequence[str]) -> dict[str, Counts]:
        """See TenantAdmin.counts."""
        found = await self._read.rows("tenant_tallies", {"tenant": TextArray(list(tenants))})
        return {row[0]: Counts(*row[1:]) for row in found}

    async def waiting(self, tenants: Sequence[str]) -> dict[str, int]:
        """See TenantAdmin.waiting."""
        return dict(await self._read.rows("tenant_leads", {"tenant": TextArray(list(tenants))}))

    async def today(self) -> ShardToday:
        """See TenantAdmin.today."""
        [row] = await self._read.rows("shard_today")
        return ShardToday(*row)

    async def live_jobs(self, tenant: str, cap: int) -> LiveJobs:
        """See TenantAdmin.live_jobs."""
        [row] = await self._read.rows("count_live", {"tenant": tenant, "cap": cap})
        return LiveJobs(*row)

    async def erasable(self, tenant: str, cap: int) -> dict[str, int]:
        """See TenantAdmin.erasable."""
        return dict(await self._read.rows("count_erasable", {"tenant": tenant, "cap": cap}))

    async def own_tables(self) -> list[str]:
        """See TenantAdmin.own_tables."""
        return [f"{name} ({column})" for name, column in await self._read.rows("tenant_tables")]

    async def erase(
        self, tenant: str, *, limit: int, by: str | None, note: str | None, act: Act | None = None
    ) -> Erased | None:
        """See TenantAdmin.erase."""
        found = await self._write.rows(
            "erase_tenant",
            {
                "tenant": tenant,
                "limit": limit,
                "by": by,
                "note": note,
                "error": statuses.cancelled(),
                "act": said(act),
                **self._times,
            },
        )
        if not found:
            return None
        [row] = found
        erasure = _erasure(row[:6])
        assert erasure is not None  # noqa: S101 - a row has one
        cancelled = {
            job_id: Cancelled(state, waiter_id, worker_id)
            for job_id, state, waiter_id, worker_id in zip(*row[7:11], strict=True)
        }
        return Erased(erasure, ErasurePhase(row[6]), cancelled)

    async def reopen(self, tenant: str, *, act: Act | None = None) -> bool | None:
        """See TenantAdmin.reopen."""
        opened: bool | None = await self._write.value("reopen_tenant", {"tenant": tenant, "act": said(act)})
        return opened

    async def export_keys(
        self, tenant: str, *, after: tuple[int, str] | None, limit: int, act: Act | None = None
    ) -> list[KeyRow]:
        """See TenantAdmin.export_keys."""
        method_id, request_id = after or (None, None)
        found = await self._write.rows(
            "export_keys",
            {"tenant": tenant, "method_id": method_id, "request_id": request_id, "limit": limit, "act": said(act)},
        )
        return [KeyRow(*row) for row in found]

    async def export_jobs(
        self, tenant: str, *, after: UUID | None, limit: int, limit_bytes: int, payloads: bool, act: Act | None = None
    ) -> list[JobRow]:
        """See TenantAdmin.export_jobs."""
        found = await self._write.rows(
            "export_jobs",
            {
                "tenant": tenant,
                "after": after,
                "limit": limit,
                "bytes": limit_bytes,
                "payloads": payloads,
                "act": said(act),
            },
        )
        return [rows.job_row(row) for row in found]

    async def export_spend(
        self, tenant: str, *, after: tuple[UUID, int, int] | None, limit: int, act: Act | None = None
    ) -> list[SpendRow]:
        """See TenantAdmin.export_spend."""
        job_id, lease, call = after or (None, None, None)
        found = await self._write.rows(
            "export_spend",
            {"tenant": tenant, "job_id": job_id, "lease": lease, "call": call, "limit": limit, "act": said(act)},
        )
        return [SpendRow(*row) for row in found]

    async def export_spend_sums(
        self, tenant: str, *, day: date | None, skip: int, limit: int, act: Act | None = None
    ) -> list[SpendSumRow]:
        """See TenantAdmin.export_spend_sums."""
        found = await self._write.rows(
            "export_spend_sums", {"tenant": tenant, "day": day, "skip": skip, "limit": limit, "act": said(act)}
        )
        return [SpendSumRow(*row) for row in found]

    async def export_activity(
        self, tenant: str, *, after: tuple[UUID, int] | None, limit: int, act: Act | None = None
    ) -> list[SpanRow]:
        """See TenantAdmin.export_activity."""
        trace_id, span_id = after or (None, None)
        found = await self._write.rows(
            "export_activity",
            {"tenant": tenant, "trace_id": trace_id, "span_id": span_id, "limit": limit, "act": said(act)},
        )
        return [SpanRow(*row) for row in found]

    async def export_audit(
        self, tenant: str, *, after: int, until: int, limit: int, act: Act | None = None
    ) -> list[Entry]:
        """See TenantAdmin.export_audit."""
        found = await self._write.rows(
            "export_audit", {"tenant": tenant, "after": after, "until": until, "limit": limit, "act": said(act)}
        )
        return [
            Entry(number, place, None if hash_ is None else bytes(hash_), Content(*content))
            for number, place, hash_, *content in found
        ]

    async def export_incidents(
        self, tenant: str, *, after: str | None, limit: int, act: Act | None = None
    ) -> list[IncidentTrace]:
        """See TenantAdmin.export_incidents."""
        found = await self._write.rows(
            "export_incidents", {"tenant": tenant, "after": after, "limit": limit, "act": said(act)}
        )
        return [IncidentTrace(*row) for row in found]

    async def close(self) -> None:
        """Waits for the statements in flight. The pools are their owner's to close, afterwards."""
        await self._shield.wait()


def _erasure(row: TupleRow) -> ErasureRow | None:
    return None if row[0] is None else ErasureRow(*row)
