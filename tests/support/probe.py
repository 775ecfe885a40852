"""What an implementation of the queue brings along to be held to the conformance suite: an `Implementation` and its `Probe`.

The suite asks the Protocols of `rowcall.queue.protocol` wherever they tell. The rest it asks a Probe: to look at what
they do not say, to let time pass, to be another session that is slow, to set what nothing else sets. A Probe never goes
through the code that is tested. Nothing here knows of a database.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import NamedTuple, Protocol, TypedDict, Unpack
from uuid import UUID

from rowcall.queue.protocol import AdmissionStore, JobStore, LeaseRenewal, QueueAdmin, WorkQueue
from rowcall.queue.tenants import TenantAdmin


class ErasureTimes(NamedTuple):
    """For how long an erasure waits for what."""

    linger: timedelta = timedelta(0)
    """Answers of what it cancelled are kept."""
    grace: timedelta = timedelta(0)
    """Jobs may still run."""
    settle: timedelta = timedelta(0)
    """What was on its way may still come."""


@dataclass(frozen=True, slots=True)
class Process:
    """What one process, a gateway or a worker, has of the queue: with a memory and connections of its own."""

    store: JobStore
    work: WorkQueue
    operators: QueueAdmin
    admission: AdmissionStore
    tenants: Callable[[ErasureTimes], TenantAdmin]
    """What operators do to tenants, where an erasure waits for so long."""
    renewal: Callable[[UUID, timedelta], LeaseRenewal]
    """Of a worker's lease, for so long from each renewal on. No session stands for the worker (see `Probe.standing`)."""


@dataclass(frozen=True, slots=True)
class JobFacts:
    """What is known of a job beyond what `JobStore.read` tells, live or finished."""

    tenant: str
    job_id: UUID
    state: int
    """rowcall.v1.JobState"""
    held: int
    """READY, but not to be claimed as others are: a set of `rowcall.queue.model.Held`; else 0. While it runs, as it was when
    it was claimed; of a finished job 0."""
    priority: int
    """The lane that it was submitted in."""
    lane: int
    """The one it is in now."""
    order_key: int
    """Its turn within queue and lane, in `ORDER_STRIDE`s of the lane's virtual time."""
    lease: int
    """The lease number: one more at every claim, and whenever a lease is ended for its worker."""
    attempt: int
    lost: int
    lost_alone: int
    """How many of the lost attempts it ran alone in."""
    replays: int
    attempts: int
    """How many attempts that ended are remembered."""
    cancel: bool
    """Whether somebody asked for it to be cancelled."""
    worker_id: UUID | None
    """The worker that runs it, or that ran it last if it ended there."""
    attempt_deadline: datetime | None
    """When the attempt that runs must have ended."""
    fairness_key: str | None
    retention: int | None
    """rowcall.options.v1.Retention: the class of history that a finished job is kept in."""
    day: date | None
    """The day (UTC) of history that a finished job is kept in."""


@dataclass(frozen=True, slots=True)
class KeyFacts:
    """An idempotency key that is known, expired or not."""

    tenant: str
    request_id: str
    job_id: UUID
    """The job that it names."""


@dataclass(frozen=True, slots=True)
class TurnFacts:
    """How far a tenant has moved ahead in a lane, as gateways have told each other."""

    tenant: str
    last_key: int
    """The order key of the last job that they know of."""


class Changes(TypedDict, total=False):
    """What may be made of live jobs without the queue."""

    order_key: int
    attempt: int
    run_in: timedelta
    """The job's time is so far from now."""
    progress: float
    cancel: bool
    """True: somebody asked for it to be cancelled."""
    held: int
    """A set of `rowcall.queue.model.Held`: LIMITED is set by nothing yet."""
    state: int
    """rowcall.v1.JobState, of a live job: nothing makes it WAITING yet."""


class Probe(Protocol):
    """Looks behind the queue, and does to it what its Protocols have no call for.

    What it did is done when a call returns: everybody sees it.
    """

    # To look

    async def now(self) -> datetime:
        """The time by the queue's own clock (aware). `pass_time` does not move it."""

    async def up_for(self) -> timedelta:
        """For how long the queue's server has run, which `bury_workers` asks about; less than a day.

        `pass_time` does not change it.
        """

    async def jobs(self, job_ids: Collection[UUID] | None = None) -> list[JobFacts]:
        """These jobs, or all, live or finished, by their ids. One that was kept in two places would be here twice."""

    async def keys(self) -> list[KeyFacts]:
        """The idempotency keys that nobody has taken away yet."""

    async def turns(self) -> list[TurnFacts]:
        """What gateways have told each other and nobody has forgotten yet."""

    async def workers(self) -> list[str]:
        """The names of the workers that are known, the dead among them until they are forgotten."""

    async def waiting(self) -> int:
        """How many sessions wait at this moment for something that another one holds."""

    # To let time pass

    async def pass_time(
        self, time: timedelta, *, jobs: Collection[UUID] | None = None, workers: Collection[UUID] | None = None
    ) -> None:
        """Makes it as if so much more time had passed, with nobody doing anything meanwhile.

        What is kept with a time is so much older: when live jobs are due, were made ready, must have ended; leases,
        renewals and deaths of workers; terms of the elected; keys. Where jobs or workers are given, only theirs. Given
        jobs may be finished: then they finished so much earlier, and history has them with that day. (Others stay,
        for a finished job may be looked for from the time on that its id tells, which cannot be changed.)
        """

    # To set what nothing else sets

    async def adopt(self, *tenants: str) -> None:
        """Has tenants live here."""

    async def fence(self, tenant: str) -> None:
        """Has a tenant be on its way to another shard: nothing new is written for it here."""

    async def age_after(self, queue_id: int, time: timedelta) -> None:
        """Sets for how long a job of a queue waits in a lane before it may move up."""

    async def change(self, job_ids: Collection[UUID], **changes: Unpack[Changes]) -> None:
        """Makes something else of live jobs."""

    async def clear(self) -> None:
        """Takes all jobs, keys, workers, turns, terms and pauses away. Queues, methods and tenants stay, and frontiers."""

    # To be somebody else, who is slow. What is held is let go at the block's end.

    def holding(self, *job_ids: UUID, **changes: Unpack[Changes]) -> AbstractAsyncContextManager[None]:
        """A session that is in the middle of writing these live jobs, as when it settles or cancels them.

        Nobody else can write them meanwhile, and nobody sees the changes before the block ends; then they count.
        """

    def renewing(self, worker_id: UUID, lease: timedelta) -> AbstractAsyncContextManager[None]:
        """A renewal of a worker's lease that is under way; it counts when the block ends."""

    def standing(self, worker_id: UUID) -> AbstractAsyncContextManager[bool]:
        """A session that is to stand for a worker, as that of its renewals does where it can: whether it does.

        It is cut when the block ends; the queue knows it then.
        """


class Implementation(Protocol):
    """An implementation of the queue, with a shard of its own for each test.

    On it there is nothing yet: no tenant, no queue, no job.
    """

    def process(self) -> AbstractAsyncContextManager[Process]:
        """One more process that uses the shard; it ends with the block."""

    def probe(self) -> AbstractAsyncContextManager[Probe]:
        """A probe into the shard."""
