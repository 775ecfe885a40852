"""Incidents as rows. Called by `admin` (gateway) and `work` (worker)."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict

from rowcall.incidents.model import IncidentRow, Noted
from rowcall.queue.postgres.session import Session


async def record(write: Session, noted: Sequence[Noted]) -> list[str]:
    """See QueueAdmin.record_incidents."""
    now = time.monotonic()
    said = [{**asdict(each), "first": now - each.first, "last": now - each.last} for each in noted]
    return [row[0] for row in await write.rows("record_incidents", {"incidents": json.dumps(said)})]


async def incidents(read: Session, fingerprint: str, limit: int) -> list[IncidentRow]:
    """See QueueAdmin.incidents."""
    return [
        IncidentRow(*row) for row in await read.rows("list_incidents", {"fingerprint": fingerprint, "limit": limit})
    ]
