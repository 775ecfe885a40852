"""The rows of who did what, on Postgres: listed, verified, sealed, cut, erased. Called by `admin` (gateway) and `work` (worker).

What is recorded is recorded by the functions that do it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from rowcall.audit.model import Act, Checkpoint, Content, Entry, Erased, Head, Link, Sealed, Unplaced
from rowcall.queue.postgres.session import Session
from rowcall.queue.postgres.wire.arrays import UuidArray


def said(act: Act | None) -> str | None:
    """An act as a parameter of statements; of None it is recorded that somebody acted and was not named."""
    return None if act is None else act.json()


async def record_reads(write: Session, tenant: str, job_ids: Sequence[UUID], act: Act) -> None:
    """See QueueAdmin.record_reads."""
    await write.rows("record_reads", {"act": act.json(), "tenant": tenant, "job_id": UuidArray(sorted(job_ids))})


async def entries(
    read: Session, tenant: str, *, below: int | None, limit: int, actor: str, action: str, target: str
) -> list[Entry]:
    """See QueueAdmin.audit_entries."""
    found = await read.rows(
        "list_audit",
        {"tenant": tenant, "below": below, "limit": limit, "actor": actor, "action": action, "target": target},
    )
    return [
        Entry(number, place, None if hash_ is None else bytes(hash_), Content(*content))
        for number, place, hash_, *content in found
    ]


async def head(read: Session, tenant: str) -> Head:
    """See QueueAdmin.audit_head."""
    [(place, hash_, *rest)] = await read.rows("audit_head", {"tenant": tenant})
    return Head(place, bytes(hash_), *rest)


async def chain(read: Session, tenant: str, *, after: int, limit: int) -> list[Link]:
    """See QueueAdmin.audit_chain."""
    made = []
    for place, digest, hash_, erased, *content in await read.rows(
        "audit_chain", {"tenant": tenant, "after": after, "limit": limit}
    ):
        # An entry always has a time.
        there = content[0] is not None
        made.append(Link(place, bytes(digest), bytes(hash_), erased, Content(*content) if there else None))
    return made


async def unplaced(read: Session, tenant: str, limit: int) -> list[Unplaced]:
    """See QueueAdmin.audit_unplaced."""
    return [Unplaced(*row) for row in await read.rows("audit_unplaced", {"tenant": tenant, "limit": limit})]


async def checkpoint(read: Session, tenant: str) -> Checkpoint | None:
    """See QueueAdmin.audit_checkpoint."""
    found = await read.rows("audit_checkpoint", {"tenant": tenant})
    return Checkpoint(found[0][0], bytes(found[0][1]), found[0][2], bytes(found[0][3])) if found else None


async def grown(read: Session, within: timedelta) -> list[tuple[str, int, bytes]]:
    """See QueueAdmin.audit_grown."""
    return [
        (tenant, place, bytes(hash_)) for tenant, place, hash_ in await read.rows("audit_grown", {"within": within})
    ]


async def erase(write: Session, tenant: str, *, after: int, limit: int, act: Act | None) -> Erased:
    """See QueueAdmin.erase_audit."""
    [row] = await write.rows("erase_audit", {"tenant": tenant, "after": after, "limit": limit, "act": said(act)})
    return Erased(*row)


async def seal(house: Session, limit: int) -> list[Sealed]:
    """See WorkQueue.seal_audit."""
    return [
        Sealed(tenant, place, bytes(hash_), count)
        for tenant, place, hash_, count in await house.rows("seal_audit", {"limit": limit})
    ]


async def due(house: Session, kept: timedelta, limit: int) -> list[tuple[str, int, bytes]]:
    """See WorkQueue.audit_due."""
    return [
        (tenant, place, bytes(hash_))
        for tenant, place, hash_ in await house.rows("audit_due", {"kept": kept, "limit": limit})
    ]


async def cut(house: Session, tenant: str, at: Checkpoint) -> int:
    """See WorkQueue.cut_audit."""
    gone: int = await house.value(
        "cut_audit",
        {"tenant": tenant, "place": at.place, "hash": at.hash, "made_at": at.made_at, "signature": at.signature},
    )
    return gone
