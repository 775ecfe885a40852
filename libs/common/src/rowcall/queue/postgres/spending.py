"""What was spent, as `book_spend` takes it. Called by `settling` and the work queue, with what they write anyway."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from rowcall.queue.postgres.wire.arrays import (
    Array,
    BigintArray,
    IntegerArray,
    IntervalArray,
    NumericArray,
    RowArray,
    SmallintArray,
    TextArray,
    UuidArray,
)
from rowcall.queue.spend import Spend


def booked(entries: Sequence[tuple[str, UUID, int, Spend]]) -> RowArray:
    """The rows of what was spent: tenant, job, lease number, call."""
    calls = [each[3] for each in entries]
    # In the order of the type rowcall.spent.
    columns: list[Array[Any]] = [
        TextArray([each[0] for each in entries]),
        UuidArray([each[1] for each in entries]),
        BigintArray([each[2] for each in entries]),
        IntegerArray([each.call for each in calls]),
        IntegerArray([each.method_id for each in calls]),
        SmallintArray([each.kind for each in calls]),
        UuidArray([each.trace_id for each in calls]),
        BigintArray([each.input_tokens for each in calls]),
        BigintArray([each.output_tokens for each in calls]),
        NumericArray([each.cost for each in calls]),
        IntervalArray([each.latency for each in calls]),
        TextArray([each.provider for each in calls]),
        TextArray([each.model for each in calls]),
        TextArray([each.currency for each in calls]),
        TextArray([each.verdict for each in calls]),
    ]
    return RowArray(columns)
