"""The queue as services see it: two Protocols over one shard.

`JobStore` is the gateway's half, `WorkQueue` the worker's. Postgres is their one
implementation (`rowcall.queue.postgres`); another store would be another class.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Protocol
from uuid import UUID

from rowcall.catalogue.model import Policy
from rowcall.queue.model import (
    ClaimedJob,
    JobRow,
    MethodIds,
    Outcome,
    PolicyRow,
    QueueRow,
    Rescued,
    Settled,
    Settlement,
    Submission,
    Submitted,
)


class JobStore(Protocol):
    """Writing calls as rows and reading them, on one shard.

    Raises RowcallError: SHARD_UNAVAILABLE, COMMIT_UNKNOWN, CONFLICT, SCHEMA_MISMATCH or INTERNAL.
    What writes runs to its end even when its caller is cancelled.
    """

    async def method_ids(self, method: str, policy: Policy) -> MethodIds:
        """The shard's ids of a method ("package.Service/Method"), its policy and queue; made if new, then cached."""

    async def fingerprint_key(self) -> bytes:
        """The shard's key for fingerprints of requests; cached."""

    async def submit(self, submissions: Sequence[Submission]) -> list[Submitted | Exception]:
        """Submits independent calls, in one transaction where it can be.

        Answers in the order of the submissions. Duplicate keys within the batch are
        joined, the batch is sorted by key before it is sent, and split when the
        database refuses it, so that each call gets its own answer.
        Cancelling the call ends its waiting, never a statement in flight.
        """

    async def submit_atomic(self, submissions: Sequence[Submission]) -> list[Submitted]:
        """Submits calls of one tenant all together or not at all.

        Any KEY_REUSED or WRONG_SHARD among the answers means that nothing was written.
        """

    async def read(
        self, jobs: Sequence[tuple[str, UUID]], *, request: bool = False, response: bool = False
    ) -> dict[tuple[str, UUID], JobRow]:
        """Jobs by (tenant, id), live or finished; those that are not there are left out."""

    async def outcomes(self, jobs: Sequence[tuple[str, UUID]]) -> list[Outcome]:
        """The finished ones of the jobs asked for."""

    async def list(
        self,
        tenant: str,
        *,
        before: UUID | None = None,
        done: bool | None = None,
        method: str | None = None,
        limit: int,
        request: bool = False,
        response: bool = False,
    ) -> list[JobRow]:
        """A tenant's jobs, newest first, with ids below `before`."""

    async def cancel(
        self, tenant: str, job_id: UUID, *, only_unstarted: bool = False
    ) -> tuple[int, UUID | None] | None:
        """Cancels a waiting job, marks a running one; (state after it, waiter) or None if there is no live job."""

    async def delete(self, tenant: str, job_id: UUID) -> bool:
        """Erases a finished job; False if there is none."""

    async def close(self) -> None:
        """Waits for the statements in flight; before the connections are closed."""


class WorkQueue(Protocol):
    """Claiming, settling and keeping house, on one shard.

    Raises RowcallError as `JobStore` does. What writes runs to its end even when its caller is cancelled.
    """

    async def method_id(self, method: str) -> int:
        """The shard's id of a method ("package.Service/Method"), made if new."""

    async def policies(self) -> dict[int, PolicyRow]:
        """Every policy of the shard by its id."""

    async def queues(self) -> list[QueueRow]:
        """Every queue of the shard."""

    async def register_worker(self, worker_id: UUID, name: str, lease: timedelta) -> None:
        """Registers a worker process under an identity that is new at each start."""

    async def retire_worker(self, worker_id: UUID) -> None:
        """Ends a worker's lease; what it still holds is rescued."""

    async def claim(
        self,
        worker_id: UUID,
        queue_id: int,
        method_ids: Sequence[int],
        limit: int,
        *,
        start: Sequence[int],
    ) -> list[ClaimedJob]:
        """Claims ready jobs, lanes first, within a lane by order key from `start[lane - 1]` on (see `marks`).

        Moves the lanes' frontiers up to what was claimed. A dead worker gets nothing.
        """

    async def settle(self, settlements: Sequence[Settlement]) -> list[Settled | Exception]:
        """Settles attempts, in one transaction where it can be; one bad row does not fail its neighbours."""

    async def release(self, jobs: Sequence[ClaimedJob]) -> list[Settled]:
        """Hands running jobs back without using their attempts up.

        They are READY again, or CANCELLED where that was asked for meanwhile.
        """

    async def promote(self, limit: int) -> dict[int, int]:
        """Makes due jobs ready; how many in which queue."""

    async def bury_workers(self) -> list[tuple[UUID, str]]:
        """Marks workers dead whose lease is over; their ids and names."""

    async def rescue(self, limit: int) -> list[Rescued]:
        """Takes jobs of dead workers back."""

    async def make_history_days(self, days: int) -> int:
        """Makes the days of history ahead; how many partitions were new."""

    async def expire_keys(self, limit: int) -> int:
        """Takes expired idempotency keys away; how many."""

    async def close(self) -> None:
        """Waits for the statements in flight; before the connections are closed."""
