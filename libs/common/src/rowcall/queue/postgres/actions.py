"""Actions as rows. Called by `admin` (gateway)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from psycopg.rows import TupleRow

from rowcall.queue.actions import ActionFilter, ActionJob, ActionJobs, ActionNode, ActionPage, ActionRow
from rowcall.queue.postgres.session import Session
from rowcall.queue.postgres.wire.arrays import SmallintArray, TextArray, UuidArray
from rowcall.queue.spend import SpendSum


async def jobs(
    read: Session, tenant: str, *, trace_id: UUID | None, job_id: UUID | None, limit: int, patience: timedelta
) -> ActionJobs:
    """See QueueAdmin.action_jobs."""
    rows = await read.rows(
        "find_action",
        {"tenant": TextArray([tenant]), "trace_id": trace_id, "job_id": job_id, "limit": limit, "patience": patience},
    )
    found = rows[0] if rows else None
    return ActionJobs(
        trace_id if found is None else found[6],
        [ActionJob(*row[:6]) for row in rows],
        whole=found is None or found[7],
    )


async def nodes(
    read: Session,
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
    rows = await read.rows(
        "action_nodes",
        {
            "job_tenant": TextArray([tenant] * len(job_ids)),
            "job_id": UuidArray(job_ids),
            "hidden": UuidArray(hidden),
            "tenant": TextArray([tenant]),
            "trace_id": trace_id,
            "audit": audit,
            "system": system,
            "limit": limit,
        },
    )
    return [ActionNode(*row) for row in rows]


async def page(
    read: Session, tenant: str, wanted: ActionFilter, *, before: UUID | None, limit: int, look: int
) -> ActionPage:
    """See QueueAdmin.actions."""
    *rows, (*_, looked_to) = await read.rows(
        "list_actions",
        {
            "tenant": tenant,
            "before": before,
            "from": wanted.start_from,
            "to": wanted.start_to,
            "states": None if wanted.states is None else SmallintArray(wanted.states),
            "method": wanted.method,
            "min_duration": wanted.min_duration,
            "min_cost": wanted.min_cost,
            "currency": wanted.currency,
            "limit": limit,
            "look": look,
        },
    )
    return ActionPage(list(map(_action, rows)), looked_to)


def _action(row: TupleRow) -> ActionRow:
    values = list(row[:9])
    values[8] = [_sum(each) for each in row[8] or ()]
    return ActionRow(*values)


def _sum(kept: Mapping[str, Any]) -> SpendSum:
    return SpendSum(
        None,
        None,
        None,
        None,
        None,
        kept["currency"],
        kept["calls"],
        Decimal(kept["input_tokens"]),
        Decimal(kept["output_tokens"]),
        Decimal(kept["cost"]),
    )
