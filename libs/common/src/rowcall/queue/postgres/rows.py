"""The rows of the queue's statements as values. Called by the store and the work queue; the order is the SQL files'."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from psycopg.rows import TupleRow

from rowcall.queue.model import (
    AttemptRow,
    ClaimedJob,
    Depths,
    JobRow,
    LaneDepth,
    Outcome,
    PolicyRow,
    QueueRow,
    Rescued,
    WorkerLoad,
)

_NO_LABELS: Mapping[str, str] = {}


def job_row(row: TupleRow) -> JobRow:
    """A row of read_jobs.sql."""
    values = list(row)
    values[17] = row[17] or _NO_LABELS
    values[18] = [_attempt(each) for each in row[18] or ()]
    return JobRow(*values)


def outcome(row: TupleRow) -> Outcome:
    """A row of read_outcomes.sql."""
    return Outcome(*row)


def claimed_job(row: TupleRow) -> ClaimedJob:
    """A row of claim_jobs.sql or claim_suspects.sql."""
    if row[13]:
        return ClaimedJob._make(row)
    return ClaimedJob._make((*row[:13], _NO_LABELS, *row[14:]))


def rescued(row: TupleRow) -> Rescued:
    """A row of rescue_jobs.sql or expire_attempts.sql."""
    return Rescued(*row)


def policy_row(row: TupleRow) -> PolicyRow:
    """A row of policies.sql."""
    return PolicyRow(*row)


def queue_row(row: TupleRow) -> QueueRow:
    """A row of queues.sql."""
    return QueueRow(*row)


def _attempt(kept: Mapping[str, Any]) -> AttemptRow:
    error = kept.get("error")
    return AttemptRow(
        attempt=kept["attempt"],
        outcome=kept["outcome"],
        worker=kept.get("worker"),
        started_at=_time(kept.get("started")),
        ended_at=_time(kept.get("ended")),
        error=None if error is None else base64.b64decode(error),
        span_id=kept.get("span"),
        lease=kept.get("lease"),
        location=kept.get("location"),
        worker_version=kept.get("version"),
    )


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def depths(found: Sequence[TupleRow]) -> Depths | None:
    """The rows of look_at_depths.sql: one, or none."""
    if not found:
        return None
    [[age, seen]] = found
    return Depths(
        age=age,
        lanes=[LaneDepth(**{**each, "oldest": _seconds(each["oldest"])}) for each in seen["lanes"]],
        workers=[WorkerLoad(**each) for each in seen["workers"]],
        oldest_snapshot=_seconds(seen["oldest_snapshot"]),
    )


def _seconds(value: float | None) -> timedelta | None:
    return None if value is None else timedelta(seconds=value)
