"""A shard's tenants, as operators see them, take their data along and erase it: values, and `TenantAdmin`, which knows the rows.

Called by the gateway's `services/tenants`, `services/exports` and `services/erasures`.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any, Final, Protocol
from uuid import UUID

from rowcall.audit.model import Act, Entry
from rowcall.queue.model import Cancelled, Counts, JobRow, ShardToday

ERASED: Final = 4
"""rowcall.tenant_route.state of a tenant that is being erased, or was: it takes no writes."""


class ErasurePhase(enum.IntEnum):
    """How far an erasure is, after a call."""

    ERASING = 1
    """There is more to erase now."""
    RUNNING = 2
    """Its jobs still run."""
    ANSWERED = 3
    """Answers of jobs that were cancelled just now are kept for whoever waits."""
    SETTLING = 4
    """What was on its way when the tenant was closed may still come."""
    OPEN = 5
    """A transaction is open that began before the tenant was found empty."""
    DONE = 6
    """Nothing is left."""
    UNSEALED = 7
    """Entries of its audit have no place in the chain yet: a transaction is open that may still come before them."""


@dataclass(frozen=True, slots=True)
class ErasureRow:
    """An erasure of a tenant as its shard keeps it."""

    number: int
    """Of the tenant's, from 1."""
    begun_at: datetime
    finished_at: datetime | None
    """None: it is not done."""
    actor: str | None
    note: str | None
    erased: Mapping[str, int]
    """Rows by what they are: "jobs", "history", "keys", "spend", "activity", "turns", "readers", "incidents", "audit"."""


@dataclass(frozen=True, slots=True)
class Erased:
    """What a call of `erase` came to."""

    erasure: ErasureRow
    phase: ErasurePhase
    cancelled: Mapping[UUID, Cancelled]
    """Jobs that were cancelled, or asked to end."""


@dataclass(frozen=True, slots=True)
class TenantRow:
    """A tenant as its shard has it."""

    tenant: str
    epoch: int
    state: int
    """rowcall.tenant_route.state: 1 ACTIVE, 2 FENCED, 3 MOVED, 4 ERASED."""
    weight: float
    paused_at: datetime | None
    paused_by: str | None
    pause_note: str | None
    erasure: ErasureRow | None
    """The last one; None: there was none."""


@dataclass(frozen=True, slots=True)
class LiveJobs:
    """A tenant's live jobs: those that run, and the others among so many that were submitted first."""

    scheduled: int
    ready: int
    held: int
    """Of the ready ones."""
    running: int
    waiting: int
    capped: bool
    """Whether there may be more."""


@dataclass(frozen=True, slots=True)
class KeyRow:
    """An idempotency key of a tenant's."""

    method_id: int
    request_id: str
    method: str
    job_id: UUID
    expires_at: datetime
    repeated_at: datetime | None


@dataclass(frozen=True, slots=True)
class SpendRow:
    """What a call of a model or provider cost, as the shard keeps it."""

    job_id: UUID
    lease: int
    call: int
    method: str
    kind: int
    """rowcall.queue.spend.SpendKind"""
    provider: str
    model: str
    spent_at: datetime
    latency: timedelta | None
    input_tokens: int | None
    output_tokens: int | None
    cost: Decimal | None
    currency: str | None
    verdict: str | None
    trace_id: UUID | None


@dataclass(frozen=True, slots=True)
class SpendSumRow:
    """The sum of such calls of a day."""

    day: date
    method: str
    kind: int
    provider: str
    model: str
    currency: str
    calls: int
    input_tokens: Decimal
    output_tokens: Decimal
    cost: Decimal


@dataclass(frozen=True, slots=True)
class SpanRow:
    """A span that was recorded, as the shard keeps it."""

    trace_id: UUID
    span_id: int
    """As a signed number of 64 bits."""
    parent_span_id: int | None
    kind: int
    """opentelemetry.trace.SpanKind"""
    status: int
    """opentelemetry.trace.StatusCode"""
    started_at: datetime
    duration: timedelta
    name: str
    message: str | None
    attributes: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class IncidentTrace:
    """An incident that one of a tenant's jobs was the last to meet."""

    fingerprint: str
    service: str
    method: str
    code: int
    kind: str
    last_at: datetime
    trace_id: str


class TenantAdmin(Protocol):
    """What operators see of a shard's tenants and do to all that is kept of one.

    Raises RowcallError as `JobStore` does. What writes runs to its end even when its caller is cancelled. Each page of an export is
    recorded in the tenant's audit in the transaction that reads it.
    """

    async def find(self, tenants: Sequence[str]) -> dict[str, TenantRow]:
        """Those of the tenants that the shard knows, by name."""

    async def counts(self, tenants: Sequence[str]) -> dict[str, Counts]:
        """What happened today to jobs of those of the tenants that anything happened to, by name."""

    async def waiting(self, tenants: Sequence[str]) -> dict[str, int]:
        """How many READY jobs those of the tenants have that have any, by their leads: nothing is counted."""

    async def today(self) -> ShardToday:
        """What a tenant's share is to be held against."""

    async def live_jobs(self, tenant: str, cap: int) -> LiveJobs:
        """Counts its live jobs: all that run, the others among `cap` of them."""

    async def erasable(self, tenant: str, cap: int) -> dict[str, int]:
        """What there is to erase, by kind; counts stop at the cap."""

    async def own_tables(self) -> list[str]:
        """Tables of the users' own that hold rows of tenants, "name (tenant column)"."""

    async def erase(
        self, tenant: str, *, limit: int, by: str | None, note: str | None, act: Act | None = None
    ) -> Erased | None:
        """Erases a part of a tenant; the first call closes it, and erases nothing. None: it does not live here.

        What comes late of an erased tenant begins another erasure. The beginning and the end are recorded, in the system's chain.

        Args:
            tenant: Whose.
            limit: How many rows of a kind at most.
            by: Who began it; of the first call.
            note: What for; of the first call.
            act: Whose doing.
        """

    async def reopen(self, tenant: str, *, act: Act | None = None) -> bool | None:
        """Opens a tenant again whose erasure is done; False: it is not, or there was none; None: it does not live here."""

    async def export_keys(
        self, tenant: str, *, after: tuple[int, str] | None, limit: int, act: Act | None = None
    ) -> list[KeyRow]:
        """Its keys, behind a method's number and a key."""

    async def export_jobs(
        self, tenant: str, *, after: UUID | None, limit: int, limit_bytes: int, payloads: bool, act: Act | None = None
    ) -> list[JobRow]:
        """Its jobs, live and finished, by their ids: each is met once, whatever becomes of it between two pages.

        Args:
            tenant: Whose.
            after: Behind this one.
            limit: How many at most.
            limit_bytes: How much they hold together; one is given in any case.
            payloads: With request and response.
            act: Whose doing.
        """

    async def export_spend(
        self, tenant: str, *, after: tuple[UUID, int, int] | None, limit: int, act: Act | None = None
    ) -> list[SpendRow]:
        """What its calls of models and providers cost, behind a job, a lease and a call."""

    async def export_spend_sums(
        self, tenant: str, *, day: date | None, skip: int, limit: int, act: Act | None = None
    ) -> list[SpendSumRow]:
        """The sums of that, from a day on, without the first so many of it."""

    async def export_activity(
        self, tenant: str, *, after: tuple[UUID, int] | None, limit: int, act: Act | None = None
    ) -> list[SpanRow]:
        """The spans that were recorded of it, behind a trace and a span."""

    async def export_audit(
        self, tenant: str, *, after: int, until: int, limit: int, act: Act | None = None
    ) -> list[Entry]:
        """What its audit says, the earliest first, behind an entry's number and up to another's: each page adds an entry."""

    async def export_incidents(
        self, tenant: str, *, after: str | None, limit: int, act: Act | None = None
    ) -> list[IncidentTrace]:
        """The incidents that one of its jobs was the last to meet, behind a fingerprint."""

    async def close(self) -> None:
        """Waits for the statements in flight; before the connections are closed."""
