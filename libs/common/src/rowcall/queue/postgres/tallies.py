"""What happened to jobs, told to a shard. Called by the gateway's and the worker's half."""

from __future__ import annotations

import random

from rowcall.queue.postgres.session import Session
from rowcall.queue.postgres.wire.arrays import BigintArray, IntegerArray, TextArray
from rowcall.queue.tally import Told, What, by_tenant_and_by_queue

_SLOTS = 4
"""rowcall.tally.slot"""


async def tell(session: Session, told: Told) -> None:
    """Adds counts to those of today. Raises RowcallError."""
    sums = by_tenant_and_by_queue(told)
    # In one order, so that two who tell do not wait for each other's rows in a circle.
    keys = sorted(sums)
    counts = {what.name.lower(): BigintArray([sums[key][what] for key in keys]) for what in What}
    await session.rows(
        "add_tallies",
        {
            "slot": random.randrange(_SLOTS),  # noqa: S311  spreads, guards nothing
            "tenant": TextArray([tenant for tenant, _ in keys]),
            "queue_id": IntegerArray([queue_id for _, queue_id in keys]),
            **counts,
        },
    )
