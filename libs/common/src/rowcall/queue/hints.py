"""Hints that there is work, that it is done, or to be cancelled. Called by gateways and workers.

Polling is the truth; a hint makes it sooner. Everything works without them, a little slower: when they are lost, late or
switched off. A hint goes out behind what it tells of: with the batch that is written (`Hint`), or else by a `Notifier`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol
from uuid import UUID


class Hint:
    """What is to be told as soon as a batch is written."""

    __slots__ = ("jobs", "queue_ids", "sent")

    queue_ids: Sequence[int]
    """Queues that have got ready jobs."""
    jobs: Mapping[UUID, Sequence[UUID]]
    """Finished jobs, by the gateway that waits for them."""
    sent: bool
    """Whether it was sent behind the batch; if not, it is a notifier's to send."""

    def __init__(self, *, queue_ids: Iterable[int] = (), jobs: Mapping[UUID, Sequence[UUID]] | None = None) -> None:
        self.queue_ids = tuple(queue_ids)
        self.jobs = {} if jobs is None else jobs
        self.sent = False

    @classmethod
    def ready(cls, queue_ids: Iterable[int]) -> Hint:
        """Queues have got ready jobs."""
        return cls(queue_ids=queue_ids)

    @classmethod
    def done(cls, jobs: Mapping[UUID, Sequence[UUID]]) -> Hint:
        """Jobs are finished that gateways wait for, by gateway."""
        return cls(jobs=jobs)


class Listener(Protocol):
    """Hears hints on one shard; made by a `QueueProvider`, which is told whom to call."""

    def start(self) -> None:
        """Starts listening, in the running event loop; connects on its own, again and again."""

    async def close(self) -> None:
        """Stops listening."""


class Notifier(Protocol):
    """Sends hints on one shard: the first at once, those that come soon after together."""

    def start(self) -> None:
        """Starts sending, in the running event loop; connects on its own, again and again."""

    async def close(self) -> None:
        """Sends what waits, for half a second at most, and stops. Hints that were not sent are dropped."""

    def ready(self, queue_ids: Iterable[int]) -> None:
        """Queues have got ready jobs. Never blocks, never fails."""

    def cancel(self, worker_ids: Iterable[UUID]) -> None:
        """Jobs that these workers run are to be cancelled: they ask which. Never blocks, never fails."""

    def done(self, waiter_id: UUID, job_ids: Sequence[UUID]) -> None:
        """Jobs are finished that a gateway waits for. Never blocks, never fails."""
