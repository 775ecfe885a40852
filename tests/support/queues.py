"""One shard's queue as tests use it, whichever implementation it is of."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

from uuid_utils.compat import uuid7

from rowcall.catalogue.model import Policy
from rowcall.errors import RowcallError, reason_name
from rowcall.queue.model import (
    IDLE,
    LIVE,
    Busy,
    ClaimedJob,
    JobRow,
    MethodIds,
    Program,
    Renewed,
    Rescued,
    Settled,
    Settlement,
    Submission,
    Submitted,
)
from rowcall.queue.protocol import JobStore, QueueAdmin, WorkQueue
from rowcall.v1.job_pb2 import JobState
from tests.support.probe import Implementation, JobFacts, Probe, Process
from tests.support.waiting import until

SUCCEEDED = JobState.JOB_STATE_SUCCEEDED
FAILED = JobState.JOB_STATE_FAILED
CANCELLED = JobState.JOB_STATE_CANCELLED
SCHEDULED = JobState.JOB_STATE_SCHEDULED
READY = JobState.JOB_STATE_READY
RUNNING = JobState.JOB_STATE_RUNNING

NOT_OURS = Settled(settled=False, state=None, waiter_id=None)
"""The answer to a settlement of a job whose lease is another's."""

METHOD = "acme.v1.PrintService/Print"
TENANTS = ("acme", "bolt")
FROM_THE_FRONT = (0, 0, 0, 0)
LEASE = timedelta(minutes=1)
"""Of a worker for which no other one is given."""
NO_GRACE = timedelta(0)
"""For burials and expiries in tests: their server has just started, and nobody is to be waited for."""


@dataclass(slots=True)
class Queue:
    """One shard's queue."""

    implementation: Implementation
    process: Process
    """What most tests do everything through."""
    probe: Probe
    ids: MethodIds
    """Of METHOD, in the queue "default"."""
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    @property
    def store(self) -> JobStore:
        """The gateway's half."""
        return self.process.store

    @property
    def work(self) -> WorkQueue:
        """The worker's half."""
        return self.process.work

    @property
    def operators(self) -> QueueAdmin:
        """What operators do to it."""
        return self.process.operators

    def another(self) -> AbstractAsyncContextManager[Process]:
        """Another process, as far as the shard can tell."""
        return self.implementation.process()

    def call(self, tenant: str = "acme", **changes: Any) -> Submission:
        """A new call; without changes, of METHOD, at once, in the lane NORMAL, without a key."""
        number = next(self._numbers)
        call = Submission(tenant, uuid7(), self.ids, lane=3, request=f"request {number}".encode())
        if "request_id" in changes and "fingerprint" not in changes:
            changes["fingerprint"] = b"fingerprint of 1"
        return replace(call, **changes)

    async def submit(self, *calls: Submission, store: JobStore | None = None) -> list[Submitted]:
        """Submits calls, all of which must be taken."""
        return [taken(answer) for answer in await (store or self.store).submit(calls)]

    async def worker(self, name: str = "worker", lease: timedelta = LEASE, program: Program | None = None) -> UUID:
        """Registers a worker."""
        worker_id = uuid4()
        await self.work.register_worker(worker_id, name, lease, program)
        return worker_id

    async def claim(
        self, worker_id: UUID, limit: int = 100, *, ids: MethodIds | None = None, start: Sequence[int] = FROM_THE_FRONT
    ) -> list[ClaimedJob]:
        """Claims jobs of a method, of METHOD where none is given."""
        of = self.ids if ids is None else ids
        return await self.work.claim(worker_id, of.queue_id, [of.method_id], limit, start=start)

    async def claim_suspects(
        self, worker_id: UUID, limit: int = 100, *, ids: MethodIds | None = None
    ) -> list[ClaimedJob]:
        """Claims suspects of a method, of METHOD where none is given."""
        of = self.ids if ids is None else ids
        return await self.work.claim_suspects(worker_id, [of.queue_id], [of.method_id], limit)

    async def claim_alone(self, worker_id: UUID, *, ids: MethodIds | None = None) -> ClaimedJob | None:
        """Claims one suspect, which then runs alone."""
        jobs = await self.claim_suspects(worker_id, 1, ids=ids)
        return jobs[0] if jobs else None

    async def settle(self, job: ClaimedJob, state: int = SUCCEEDED, **changes: Any) -> Settled:
        """Settles one job, which must be taken."""
        settlement = Settlement(job.tenant, job.job_id, job.lease, state, **changes)
        [answer] = await self.work.settle([settlement])
        assert isinstance(answer, Settled), answer
        return answer

    async def state(self, tenant: str, job_id: UUID) -> int | None:
        """A job's state as it is read; None if it is not there."""
        found = await self.store.read([(tenant, job_id)])
        return found[tenant, job_id].state if found else None

    async def row(self, job: ClaimedJob | Submission) -> JobRow:
        """A job as it is read; it must be there."""
        return (await self.store.read([(job.tenant, job.job_id)]))[job.tenant, job.job_id]

    async def facts(self, job_id: UUID) -> JobFacts:
        """What else is known of a job; it must be there, once."""
        [found] = await self.probe.jobs([job_id])
        return found

    async def live(self) -> list[JobFacts]:
        """The jobs that are not finished, by their ids."""
        return [job for job in await self.probe.jobs() if job.state in LIVE]

    async def renew(self, worker_id: UUID, lease: timedelta = LEASE, busy: Busy = IDLE) -> Renewed:
        """Renews a worker's lease."""
        renewal = self.process.renewal(worker_id, lease)
        try:
            return await asyncio.to_thread(renewal.renew, None, busy)
        finally:
            renewal.close()

    async def die(self, worker_id: UUID) -> None:
        """Lets a worker's lease, of a minute, have run out a second ago."""
        await self.probe.pass_time(LEASE + timedelta(seconds=1), workers=[worker_id])

    async def kill(self, worker_id: UUID) -> list[Rescued]:
        """Ends a worker and takes what it held back."""
        await self.work.retire_worker(worker_id)
        return await self.work.rescue(1000)

    async def ready_now(self) -> int:
        """Lets the time of every scheduled job come, and makes them ready; how many there were."""
        scheduled = [job.job_id for job in await self.probe.jobs() if job.state == SCHEDULED]
        await self.probe.change(scheduled, run_in=timedelta(0))
        return sum((await self.work.promote(1_000_000)).values())

    async def somebody_waits(self, sessions: int = 1) -> None:
        """Returns when so many sessions wait for what other ones hold."""

        async def wait() -> bool:
            return await self.probe.waiting() >= sessions

        await until(wait)


def taken(answer: Submitted | Exception) -> Submitted:
    """An answer that is no error."""
    if isinstance(answer, Exception):
        raise answer
    return answer


def outcomes(answers: Sequence[Submitted | Exception]) -> list[str]:
    """Each answer's outcome or reason."""
    return [
        answer.outcome.name
        if isinstance(answer, Submitted)
        else reason_name(answer.reason)
        if isinstance(answer, RowcallError)
        else type(answer).__name__
        for answer in answers
    ]


@asynccontextmanager
async def opened(
    implementation: Implementation, policy: Policy | None = None, tenants: Sequence[str] = TENANTS
) -> AsyncIterator[Queue]:
    """The queue of a shard on which some tenants live; METHOD has the policy, or the default one."""
    async with implementation.process() as process, implementation.probe() as probe:
        await probe.adopt(*tenants)
        ids = await process.store.method_ids(METHOD, Policy() if policy is None else policy)
        yield Queue(implementation, process, probe, ids)
