"""What the queue promises of each job, as a small model in Python: the model test asks it what the database must say.

Time is counted in whole hours. What was to be at an hour is over when that hour has come.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from uuid import UUID

from rowcall.queue.model import Held

SCHEDULED, READY, RUNNING = 1, 2, 3
SUCCEEDED, FAILED, CANCELLED, RESOLVED = 11, 12, 13, 14
PAUSED, SUSPECT, ALONE = Held.PAUSED, Held.SUSPECT, Held.SUSPECT | Held.ALONE

MAX_ATTEMPTS = 3
TIMEOUT = 2
"""Hours, of an attempt."""
LEASE = 4
"""Hours, of a worker."""
KEY_TTL = 7 * 24
"""Hours that a key names its job."""
LOST_LIMIT = 3


@dataclass(slots=True)
class Job:
    """One job."""

    tenant: str
    run_at: int
    deadline: int | None
    state: int = READY
    held: int = 0
    lease: int = 0
    attempt: int = 0
    lost: int = 0
    lost_alone: int = 0
    in_row: int = 0
    """How often it was lost since an attempt ended otherwise."""
    replays: int = 0
    attempts: int = 0
    """How many ended ones are remembered."""
    cancel: bool = False
    worker: UUID | None = None
    attempt_deadline: int = 0

    @property
    def facts(self) -> tuple[object, ...]:
        """What its row must say."""
        live = self.state in (SCHEDULED, READY, RUNNING)
        return (
            self.state, self.held if live else 0, self.lease, self.attempt, self.lost, self.lost_alone, self.replays,
            self.attempts, self.cancel, self.worker,
        )  # fmt: skip


@dataclass(slots=True)
class Worker:
    """One worker process."""

    lease_until: int
    dead: bool = False


@dataclass(frozen=True, slots=True)
class Key:
    """What an idempotency key was last used for."""

    job_id: UUID
    print_: bytes
    """The fingerprint of its request."""
    until: int
    """When it is as good as none."""


@dataclass(slots=True)
class Model:
    """The queue."""

    now: int = 0
    jobs: dict[UUID, Job] = field(default_factory=dict)
    keys: dict[tuple[str, str], Key] = field(default_factory=dict)
    workers: dict[UUID, Worker] = field(default_factory=dict)
    paused: set[str] = field(default_factory=set)
    """"queue", "method", or a tenant's name."""

    def those(self, wanted: Callable[[Job], bool]) -> dict[UUID, Job]:
        """The jobs that are as wanted."""
        return {job_id: job for job_id, job in self.jobs.items() if wanted(job)}

    def named(self, tenant: str, key: str) -> Key | None:
        """What a tenant's key names, if it has not expired."""
        known = self.keys.get((tenant, key))
        return known if known is not None and known.until > self.now else None

    def claimable(self, held: int) -> dict[UUID, Job]:
        """What claims (held 0) or those of suspects that run in groups (SUSPECT) or alone (ALONE) may get."""
        if {"queue", "method"} & self.paused:
            return {}
        return self.those(lambda job: job.state == READY and job.held == held and job.tenant not in self.paused)

    def to_hold(self) -> dict[UUID, Job]:
        """Ready jobs that a pause sets aside, suspects among them."""
        return self.those(lambda job: job.state == READY and not job.held & PAUSED and self._aside(job))

    def to_free(self) -> dict[UUID, Job]:
        """Those that were set aside and are no longer paused."""
        return self.those(lambda job: bool(job.state == READY and job.held & PAUSED and not self._aside(job)))

    def _aside(self, job: Job) -> bool:
        return "method" in self.paused or job.tenant in self.paused

    def due(self) -> dict[UUID, Job]:
        """Scheduled jobs whose time has come."""
        return self.those(lambda job: job.state == SCHEDULED and job.run_at <= self.now)

    def orphans(self) -> dict[UUID, Job]:
        """Running jobs of workers that were declared dead."""
        return self.those(
            lambda job: job.worker in self.workers and self.workers[job.worker].dead and job.state == RUNNING
        )

    def hanging(self) -> dict[UUID, Job]:
        """Attempts past their time, of workers that were not declared dead."""
        return self.those(
            lambda job: (
                job.worker in self.workers
                and not self.workers[job.worker].dead
                and job.state == RUNNING
                and job.attempt_deadline <= self.now
            )
        )

    def too_late(self) -> dict[UUID, Job]:
        """Waiting jobs whose own time is over."""
        return self.those(lambda job: job.state in (SCHEDULED, READY) and self.over(job))

    def over(self, job: Job, after: int = 0) -> bool:
        """Whether a job's own time is over so many hours from now."""
        return job.deadline is not None and job.deadline <= self.now + after

    def holds(self, job_id: UUID, lease: int) -> bool:
        """Whether a lease number is the one of a running job."""
        job = self.jobs[job_id]
        return job.state == RUNNING and job.lease == lease

    def submit(self, tenant: str, job_id: UUID, run_in: int, deadline: int | None) -> None:
        """A new job."""
        run_at = self.now + run_in
        self.jobs[job_id] = Job(
            tenant, run_at, None if deadline is None else run_at + deadline, state=SCHEDULED if run_in else READY
        )

    def claim(self, job_id: UUID, worker: UUID) -> Job:
        """A worker gets a job."""
        job = self.jobs[job_id]
        job.state, job.worker = RUNNING, worker
        job.lease += 1
        job.attempt += 1
        job.attempt_deadline = self.now + TIMEOUT if job.deadline is None else min(self.now + TIMEOUT, job.deadline)
        return job

    def finish(self, job_id: UUID, state: int) -> int:
        """A job ends."""
        self.jobs[job_id].state = state
        return state

    def again(self, job_id: UUID, delay: int, *, snoozed: bool) -> int:
        """A worker wants a job to be tried again."""
        job = self.jobs[job_id]
        if job.cancel:
            return self.finish(job_id, CANCELLED)
        if self.over(job, delay) and not snoozed:
            return self.finish(job_id, FAILED)
        job.state, job.worker, job.held, job.run_at, job.in_row = SCHEDULED, None, 0, self.now + delay, 0
        job.attempt -= snoozed
        job.attempts += 1
        return SCHEDULED

    def release(self, job_id: UUID) -> int:
        """A worker hands a job back."""
        job = self.jobs[job_id]
        if job.cancel:
            return self.finish(job_id, CANCELLED)
        self._back(job)
        return READY

    def rescue(self, job_id: UUID) -> int:
        """A job is taken back from a dead worker."""
        job = self.jobs[job_id]
        if job.cancel:
            return self.finish(job_id, CANCELLED)
        if job.held == ALONE and job.lost_alone + 1 >= LOST_LIMIT:
            return self.finish(job_id, FAILED)
        self._back(job)
        job.lost += 1
        job.lost_alone += job.held == ALONE
        if job.held & SUSPECT:
            job.held = ALONE
        elif job.in_row:
            job.held = SUSPECT
        job.in_row += 1
        return READY

    def _back(self, job: Job) -> None:
        job.state, job.worker = READY, None
        job.lease += 1
        job.attempt -= 1
        job.attempts += 1

    def expire(self, job_id: UUID) -> int:
        """An attempt is ended under a living worker."""
        job = self.jobs[job_id]
        if job.cancel:
            return self.finish(job_id, CANCELLED)
        if self.over(job) or job.attempt >= MAX_ATTEMPTS:
            return self.finish(job_id, FAILED)
        job.state, job.worker, job.held, job.run_at, job.in_row = SCHEDULED, None, 0, self.now + 1, 0
        job.lease += 1
        job.attempts += 1
        return SCHEDULED

    def cancel(self, job_id: UUID) -> int | None:
        """Somebody cancels a job."""
        job = self.jobs[job_id]
        if job.state == RUNNING:
            job.cancel = True
            return RUNNING
        return self.finish(job_id, CANCELLED) if job.state in (SCHEDULED, READY) else None

    def replay(self, job_id: UUID) -> None:
        """A failed job is made ready again."""
        job = self.jobs[job_id]
        # One whose deadline was over before it ever ran has no attempt to be remembered.
        job.attempts += min(job.attempt, 1)
        job.in_row = 0 if job.attempt else job.in_row
        job.state, job.held, job.worker, job.cancel = READY, 0, None, False
        job.attempt = job.lost = job.lost_alone = 0
        job.lease += 1
        job.replays += 1
        # As its policy says, which has none.
        job.deadline = None
