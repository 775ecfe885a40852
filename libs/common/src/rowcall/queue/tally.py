"""What happens to jobs, and how calls are answered, counted in memory by whoever does it, and told to the shard every two seconds: nothing of it is in a job's way.
What is sent and consumed goes to the figures of the process with that: it is counted once.

A gateway counts what it writes, cancels and answers, a worker what it claims and ends; so what others write (`submit_v1`, follow-ups) is not among
what was accepted. A process that is killed has not told of its last two seconds.
"""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, TypeAlias

from rowcall.errors import RowcallError
from rowcall.telemetry import metrics
from rowcall.telemetry.tallies import OTHER
from rowcall.v1.error_reason_pb2 import ErrorReason

TELL_EVERY: Final = 2.0
"""Seconds between two times that a process tells."""

UNKNOWN_QUEUE: Final = 0
"""What is counted of a job whose queue is not known."""


class What(enum.IntEnum):
    """What is counted."""

    ACCEPTED = 0
    """A job became a row."""
    STARTED = 1
    """An attempt began."""
    SUCCEEDED = 2
    """A job did."""
    FAILED = 3
    """An attempt failed, was lost or took too long, whether the job goes on or not."""
    DEAD = 4
    """A job FAILED."""
    CANCELLED = 5
    """A job was."""
    ANSWERED_IN_TIME = 6
    """A call was answered with what became of the job that it created."""
    ANSWERED_JOINED = 7
    """Likewise, of a job that was there already."""
    ANSWERED_OPERATION = 8
    """A call was answered with an operation that was not done."""
    ANSWERED_STILL_RUNNING = 9
    """A call's time was up; its job goes on."""
    ANSWERED_FAILED = 10
    """A call was answered with its job's failure, or that it was cancelled."""


Told: TypeAlias = Mapping[tuple[str, int], Sequence[int]]
"""By tenant and queue (the shard's id), how often each `What` happened."""


_FIGURES: Final = (
    (What.ACCEPTED, metrics.SENT, metrics.SEND),
    (What.STARTED, metrics.CONSUMED, metrics.RECEIVE),
)
"""What is a figure of the process too, by queue."""


class Tally:
    """The counts of one process on one shard that were not told yet. In the event loop."""

    def __init__(self, queue_name: Callable[[int], str | None]) -> None:
        """
        Args:
            queue_name: What a queue is called, by the shard's id of it; None: that is not known. For the figures of the process.
        """
        self._queue_name = queue_name
        self._counts: dict[tuple[str, int], list[int]] = {}
        self._untold: dict[tuple[str, int], list[int]] = {}
        """What a shard has not taken."""

    def count(self, tenant: str, queue_id: int, what: What, number: int = 1) -> None:
        """Something happened to so many jobs of a tenant and queue."""
        counts = self._counts.get((tenant, queue_id))
        if counts is None:
            counts = self._counts[tenant, queue_id] = [0] * len(What)
        counts[what] += number

    async def tell(self, telling: Callable[[Told], Awaitable[None]]) -> None:
        """Tells the shard, and the figures of the process. What the shard did not take it is told the next time.

        Args:
            telling: `tell` of the shard's queue.

        Raises:
            RowcallError: What `telling` raises.
        """
        self._gather()
        told, self._untold = self._untold, {}
        if not told:
            return
        try:
            await telling(told)
        except BaseException as error:
            # Counted twice would be worse than not at all.
            if not isinstance(error, RowcallError) or error.reason != ErrorReason.ERROR_REASON_COMMIT_UNKNOWN:
                self._keep(told)
            raise

    def _gather(self) -> None:
        come, self._counts = self._counts, {}
        for (_, queue_id), counts in come.items():
            for what, figure, operation in _FIGURES:
                if counts[what]:
                    figure.add(counts[what], metrics.ROWCALL, operation, self._queue_name(queue_id) or OTHER)
        self._keep(come)

    def _keep(self, counts: Told) -> None:
        for key, numbers in counts.items():
            kept = self._untold.get(key, [0] * len(What))
            self._untold[key] = [one + other for one, other in zip(kept, numbers, strict=True)]


def by_tenant_and_by_queue(told: Told) -> dict[tuple[str, int], list[int]]:
    """Sums as a shard keeps them: of each tenant (queue 0), and of each queue (tenant "")."""
    sums: dict[tuple[str, int], list[int]] = {}
    for (tenant, queue_id), counts in told.items():
        for key in ((tenant, 0), ("", queue_id)):
            sums[key] = [one + other for one, other in zip(sums.get(key, [0] * len(What)), counts, strict=True)]
    return sums
