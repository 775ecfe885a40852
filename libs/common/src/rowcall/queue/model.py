"""What goes into the queue and what comes out of it, as plain values.

Shared by the queue's implementation, the gateway (submissions, rows, outcomes)
and the worker (claimed jobs, settlements). Nothing here touches a database.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import NamedTuple
from uuid import UUID

from rowcall.queue.spend import Spend
from rowcall.v1.job_pb2 import JobState

ATTEMPT_GRACE = timedelta(seconds=5)
"""How long after its deadline an attempt is left to its worker to end."""
PENDING = (JobState.JOB_STATE_SCHEDULED, JobState.JOB_STATE_READY, JobState.JOB_STATE_WAITING)
"""The states of jobs that are not running yet: rowcall.v1.JobState."""
LIVE = (*PENDING, JobState.JOB_STATE_RUNNING)
"""Those of jobs that are not finished."""
DONE = (
    JobState.JOB_STATE_SUCCEEDED,
    JobState.JOB_STATE_FAILED,
    JobState.JOB_STATE_CANCELLED,
    JobState.JOB_STATE_RESOLVED,
)
"""Those of finished ones."""


class Held(enum.IntFlag):
    """Why a job that is READY is not to be claimed as others are: a set; 0 where it may be."""

    PAUSED = 1
    """Its tenant or method is paused."""
    SUSPECT = 2
    """Its workers died twice in a row: it runs beside suspects only."""
    ALONE = 4
    """No reason of its own: the suspect runs alone."""
    LIMITED = 8
    """As many jobs run already as its limit allows. Nothing sets it yet."""


LANES = (1, 2, 3, 4)
"""The lanes of every queue, first to last claimed: rowcall.options.v1.Priority."""

ORDER_STRIDE = 1 << 20
"""By how much one job of weight 1 moves its tenant forward in a lane's virtual time."""


class SubmitOutcome(enum.IntEnum):
    """What a submit made of one call."""

    CREATED = 1
    """A row was written."""
    JOINED = 2
    """The key named a job that was there already, with the same request."""
    KEY_REUSED = 3
    """The key names a job with another fingerprint; nothing was written."""
    WRONG_SHARD = 4
    """The tenant does not live on this shard; nothing was written."""
    NOT_ADMITTED = 6
    """Its tenant has as many jobs waiting as a bound lets in; nothing was written."""


@dataclass(frozen=True, slots=True)
class MethodIds:
    """A job method as one shard numbers it: rows carry ids, not names."""

    method_id: int
    """Row of rowcall.method."""
    policy_id: int
    """Row of rowcall.policy: the policy as it was when the job was submitted."""
    queue_id: int
    """Row of rowcall.queue."""


@dataclass(frozen=True, slots=True)
class FollowUp:
    """A job that is submitted when another one has ended, with the finished operation as its request."""

    ids: MethodIds
    """Its method, policy and queue, as the same shard numbers them."""
    lane: int
    """1 URGENT to 4 LOW."""


# Neither this nor `Submitted` is frozen, as they should be: it triples what making one costs, and one of each is made for
# every call.
@dataclass(slots=True)
class Submission:
    """One call to be written as a row. Nobody changes one."""

    tenant: str
    """Whose job it is."""
    job_id: UUID
    """UUIDv7 minted by the gateway; the operation's name if the job is new."""
    ids: MethodIds
    """Method, policy and queue, as the tenant's shard numbers them."""
    lane: int
    """1 URGENT to 4 LOW."""
    request: bytes
    """The request message as it came over the wire."""
    request_id: str | None = None
    """The caller's idempotency key."""
    fingerprint: bytes | None = None
    """Of the request, `rowcall.catalogue.requests.fingerprint`; required where there is a request_id."""
    run_at: datetime | None = None
    """Not before this time (aware); None: at once."""
    actor: str | None = None
    """Who triggered it."""
    fairness_key: str | None = None
    """Shares the tenant's turn within the tenant."""
    traceparent: str | None = None
    """W3C trace context of the call."""
    tracestate: str | None = None
    """W3C trace state of the call."""
    labels: Mapping[str, str] | None = None
    """The caller's labels."""
    waiter_id: UUID | None = None
    """The gateway process that waits for the result, if one does."""
    deadline: timedelta | None = None
    """How long the whole job may take, from the time it is to start."""
    parent_job_id: UUID | None = None
    """The job whose handler submitted this one."""
    on_done: FollowUp | None = None
    """What is submitted when it has ended."""
    limit_id: int | None = None
    """The limit that it runs under. Nothing sets it yet."""
    limit_key: str | None = None
    """Which of the limit's keys it has."""
    group_id: UUID | None = None
    """The group whose end it counts for. Nothing sets it yet."""
    counted: bool = False
    """Whether calls with its key are counted one by one, for `JobStore.leave` to know which is the last."""

    @property
    def key(self) -> tuple[str, int, str] | None:
        """What the key table knows the job by; None without a request id."""
        return None if self.request_id is None else (self.tenant, self.ids.method_id, self.request_id)


@dataclass(slots=True)
class Submitted:
    """What became of one submission, durably. Nobody changes one."""

    outcome: SubmitOutcome
    """CREATED and JOINED mean that the job is committed."""
    job_id: UUID
    """The job's id: the submission's own, or that of the job that was joined."""
    created_at: datetime | None = field(default=None, compare=False)
    """Of a job that is new: when the row was written, by the shard's clock."""
    scheduled: bool = field(default=False, compare=False)
    """Whether a job that is new is SCHEDULED; otherwise it is READY."""


@dataclass(frozen=True, slots=True)
class AttemptRow:
    """An attempt that ended, as the row keeps it."""

    attempt: int
    """From 1."""
    outcome: int
    """rowcall.v1.AttemptOutcome."""
    worker: str | None
    """The worker process's name."""
    started_at: datetime | None
    """When it was claimed."""
    ended_at: datetime | None
    """When it ended."""
    error: bytes | None
    """google.rpc.Status, serialised."""
    span_id: str | None
    """16 hex digits."""
    lease: int | None = None
    """The lease number that it had."""
    location: str | None = None
    """Where its handler raised, for operators: "module:function:line"."""
    worker_version: str | None = None
    """Of what its worker ran."""


@dataclass(frozen=True, slots=True)
class JobRow:
    """A job as it stands, live or finished."""

    tenant: str
    job_id: UUID
    state: int
    """rowcall.v1.JobState."""
    lane: int
    queue: str
    method: str
    """package.Service/Method"""
    attempt: int
    max_attempts: int
    created_at: datetime
    run_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    cancel_requested_at: datetime | None
    worker: str | None
    actor: str | None
    request_id: str | None
    traceparent: str | None
    labels: Mapping[str, str]
    attempts: Sequence[AttemptRow]
    """The attempts that ended before the present or last one."""
    span_id: str | None
    error: bytes | None
    """google.rpc.Status, serialised."""
    request: bytes | None
    """None where it was not asked for."""
    response: bytes | None
    """None where it was not asked for or there is none."""
    deadline: datetime | None
    """When the whole job's time is over; None: never."""
    lost: int
    """How many attempts were lost with their worker."""
    replays: int
    """How often it was replayed after it had failed."""
    parent_job_id: UUID | None
    """The job whose handler submitted it, or whose end it follows."""
    progress: float | None
    """How far its handler last said it is, 0 to 1."""
    progress_message: str | None
    progress_at: datetime | None
    held: int
    """The reasons for which it is not claimed, as a set of `Held`, without ALONE; 0: there is none."""
    error_fingerprint: str | None
    """Of a failed job: alike for failures that are alike."""
    resolved_at: datetime | None
    resolved_by: str | None
    resolve_note: str | None
    request_type: str | None
    """Full name of the type of its method's requests; None where no gateway has published the method."""
    response_type: str | None
    """Of its responses."""
    lease: int
    """The lease number: of the attempt that runs or ran last, or higher where that was taken back."""
    location: str | None
    """Where the last attempt's handler raised, of a finished job; for operators: "module:function:line"."""
    worker_version: str | None
    """Of what the last attempt's worker ran, of a job that did not succeed."""

    @property
    def done(self) -> bool:
        """Whether the job is finished: it has an answer, an error or was cancelled."""
        return self.state in DONE


@dataclass(frozen=True, slots=True)
class Outcome:
    """The answer of a finished job."""

    tenant: str
    job_id: UUID
    state: int
    """rowcall.v1.JobState, one of `DONE`."""
    attempt: int
    """The attempt it was finished by."""
    response: bytes | None
    """The serialised response, of a job that succeeded."""
    error: bytes | None
    """google.rpc.Status, serialised, of one that did not; deliver it through `statuses.addressed`."""
    traceparent: str | None = None
    """W3C trace context of the call that the job was made by."""


class ClaimedJob(NamedTuple):
    """A job that a worker holds, with what its handler needs."""

    tenant: str
    job_id: UUID
    lease: int
    """The row's lease number: settle and release must name it."""
    attempt: int
    """From 1."""
    lane: int
    order_key: int
    method_id: int
    policy_id: int
    request: bytes
    request_id: str | None
    actor: str | None
    traceparent: str | None
    tracestate: str | None
    labels: Mapping[str, str]
    lost: int
    """How many earlier attempts were lost with their worker."""
    time_left: timedelta | None = None
    """Until the whole job's deadline, at the claim; None: it has none."""
    waiter_id: UUID | None = None
    """The gateway that waits for the job."""
    queue_id: int = 0
    """The shard's."""


class Settlement(NamedTuple):
    """How an attempt ended, to be written under the job's lease number."""

    tenant: str
    job_id: UUID
    lease: int
    state: int
    """rowcall.v1.JobState: SUCCEEDED, FAILED, CANCELLED, or SCHEDULED to try again."""
    response: bytes | None = None
    """The serialised response; required with SUCCEEDED."""
    error: bytes | None = None
    """google.rpc.Status, serialised; required otherwise."""
    error_code: int | None = None
    """The status's code."""
    error_message: str | None = None
    """The status's message."""
    delay: timedelta | None = None
    """With SCHEDULED: how long to wait before the next attempt."""
    snoozed: bool = False
    """With SCHEDULED: the attempt is not used up; error may be None."""
    children: Sequence[Submission] = ()
    """Jobs of the same tenant that are submitted if and only if this settlement counts."""
    span_id: str | None = None
    """16 hex digits."""
    location: str | None = None
    """Where the handler raised, "module:function:line"; for operators, no part of the error."""
    spend: Sequence[Spend] = ()
    """What calls of models and providers have cost: booked whether or not the settlement counts."""


class Settled(NamedTuple):
    """What became of a settlement."""

    settled: bool
    """False: the lease is no longer the worker's; its result does not count."""
    state: int | None
    """The job's state after it."""
    waiter_id: UUID | None
    """The gateway that waits for the job."""


@dataclass(frozen=True, slots=True)
class Rescued:
    """A job that was taken back from its worker: a dead one, or one that did not end its attempt in time."""

    tenant: str
    job_id: UUID
    queue_id: int
    state: int
    """READY again, or FAILED or CANCELLED."""
    waiter_id: UUID | None
    worker: str
    """The name of the worker that lost it."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A waiting job that the queue itself ended."""

    tenant: str
    job_id: UUID
    waiter_id: UUID | None


@dataclass(frozen=True, slots=True)
class PolicyRow:
    """The part of a job's policy that a worker acts on."""

    policy_id: int
    max_attempts: int
    backoff_initial: timedelta
    backoff_maximum: timedelta
    backoff_multiplier: float
    timeout: timedelta
    retry_codes: Sequence[int]
    """google.rpc.Code: the statuses of a handler's own that are tried again."""


@dataclass(frozen=True, slots=True)
class QueueRow:
    """A queue as a shard knows it."""

    queue_id: int
    name: str
    paused: bool


@dataclass(frozen=True, slots=True)
class JobFilter:
    """Which jobs of a tenant: those that match everything that is said."""

    states: Sequence[int] | None = None
    """rowcall.v1.JobState: one of these."""
    method: str | None = None
    """package.Service/Method"""
    queue: str | None = None
    labels: Mapping[str, str] | None = None
    """All of these."""
    error_fingerprint: str | None = None
    """Of failed jobs."""
    actor: str | None = None
    request_id: str | None = None
    """The idempotency key."""
    parent_job_id: UUID | None = None
    created_from: datetime | None = None
    """Inclusive."""
    created_to: datetime | None = None
    """Exclusive."""
    finished_from: datetime | None = None
    """Inclusive."""
    finished_to: datetime | None = None
    """Exclusive."""


EVERY_JOB = JobFilter()
"""Narrows nothing."""


@dataclass(frozen=True, slots=True)
class FailureGroup:
    """Failed jobs of one method that failed alike: a tenant's, or all tenants'."""

    method: str
    error_fingerprint: str
    jobs: int
    first_finished_at: datetime
    last_finished_at: datetime
    error_code: int
    """google.rpc.Code of the last one."""
    error_message: str
    """Of the last one."""
    last_job_id: UUID
    tenants: int
    """How many tenants have one."""
    last_tenant: str
    """Whose the last one is."""


@dataclass(frozen=True, slots=True)
class Cancelled:
    """What a cancellation came to."""

    state: int
    """CANCELLED, or RUNNING: it is marked."""
    waiter_id: UUID | None
    """The gateway that waits for it."""
    worker_id: UUID | None
    """The worker that runs it."""


@dataclass(frozen=True, slots=True)
class Running:
    """A job under the lease number that a worker claimed it with."""

    tenant: str
    job_id: UUID
    lease: int


class Moment(NamedTuple):
    """What a shard says of its open writers. Those of an earlier moment have all ended when `oldest` has reached its number."""

    at: datetime
    """By the shard's clock."""
    number: int
    """Above that of every writer before it."""
    oldest: int
    """The lowest number of a writer that is still open."""


@dataclass(frozen=True, slots=True)
class Renewed:
    """What a worker hears when it renews its lease."""

    alive: bool
    """False: it was declared dead; it must stop what it runs and start again under a new identity."""
    cancelled: Sequence[Running]
    """Those of its jobs that somebody asked to be cancelled: each at several renewals, unless it is settled before."""
    paused_queues: Sequence[int]
    """The queues that are paused."""
    moment: Moment | None = None
    """Of the renewal; None where it is not alive."""


@dataclass(frozen=True, slots=True)
class Program:
    """What a worker process is, for people: told to each shard as it registers."""

    host: str
    """Where it runs."""
    release: str
    """Rowcall's own, that it is of."""
    version: str | None
    """Of what it runs, as whoever deploys it calls that."""
    slots: int
    """How many jobs of async handlers it runs at once, on all shards together."""
    threads: int
    """How many of others."""
    apart: bool
    """Whether it runs suspects and nothing else."""
    up: timedelta
    """For how long it has run."""


BUSY_JOBS = 100
"""Of so many jobs that it runs a worker tells with a renewal."""


@dataclass(frozen=True, slots=True)
class Busy:
    """What a worker is at on one shard, for people: told with each renewal."""

    slots: int
    """How many of its jobs have a slot."""
    threads: int
    """How many have a thread."""
    jobs: Sequence[tuple[str, UUID]]
    """Tenant and id of those that have run for a second, the longest first, BUSY_JOBS at most."""
    queues: Mapping[int, int]
    """How many run of which queue, by the shard's id of it."""
    room: Mapping[int, int]
    """How many of each queue that it serves could run at once, likewise; none under an identity that it is about to leave."""


IDLE = Busy(0, 0, (), {}, {})
"""Of a worker that runs nothing."""


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """A living worker as a shard has it, under one of its identities."""

    worker_id: UUID
    name: str
    """The process's."""
    host: str | None
    release: str | None
    version: str | None
    apart: bool
    """Whether it runs suspects and nothing else."""
    up_since: datetime
    """Since when the process runs."""
    registered_at: datetime
    """When it took this identity."""
    renewed_at: datetime
    lease_until: datetime
    steady: bool
    """Whether its renewals come."""
    steady_since: datetime
    """Since when they have come without a gap."""
    loop_lag: timedelta | None
    """How late its event loop was at worst before the last one."""
    slots: int | None
    threads: int | None
    slots_taken: int | None
    """By jobs of this shard, at the last renewal, as are the threads."""
    threads_taken: int | None
    methods: Sequence[str]
    """That it serves, "package.Service/Method"."""
    queues: Sequence[str] | None
    """That it serves, by name; None: it has not said so, or every one."""
    every_queue: bool


@dataclass(frozen=True, slots=True)
class Counts:
    """What happened to jobs of a tenant or of a queue today (UTC), and how calls were answered, as far as processes have told of it."""

    accepted: int
    """Jobs that became rows."""
    started: int
    """Attempts that began."""
    succeeded: int
    failed: int
    """Attempts that failed, were lost or took too long."""
    dead: int
    """Jobs that FAILED."""
    cancelled: int
    answered_in_time: int = 0
    """Calls that were answered with what became of the job that they created."""
    answered_joined: int = 0
    """Likewise, of a job that was there already."""
    answered_operation: int = 0
    """Calls that were answered with an operation that was not done."""
    answered_still_running: int = 0
    """Calls whose time was up."""
    answered_failed: int = 0
    """Calls that were answered with their job's failure."""


@dataclass(frozen=True, slots=True)
class ShardToday:
    """What happened on a shard today, as far as a tenant's share is to be held against it."""

    started: int
    """Attempts of all tenants that began."""
    weight: float
    """The weights of the tenants that anything happened to, together."""


@dataclass(frozen=True, slots=True)
class QueueActivity:
    """What a queue has waiting and running, and what happened to it today; nothing of it is counted when it is asked for."""

    name: str
    paused: bool
    waiting: int
    """READY jobs, by the leads of their tenants."""
    oldest: timedelta | None
    """For how long the oldest of the next ones has waited; None: none waits."""
    running: int
    """As workers said with their last renewals."""
    counts: Counts


@dataclass(frozen=True, slots=True)
class WorkerJob:
    """A job that a worker runs."""

    tenant: str
    job_id: UUID
    method: str
    queue: str
    attempt: int
    started_at: datetime


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a running job is."""

    job: Running
    fraction: float | None
    """0 to 1; None: not known."""
    message: str | None


@dataclass(frozen=True, slots=True)
class Spent:
    """What a call of a model or provider cost that an attempt has made."""

    job: Running
    """Under whose lease number it was made; whether that is still the worker's is not asked."""
    spend: Spend


@dataclass(frozen=True, slots=True)
class Pause:
    """Something that is paused."""

    kind: str
    """"queue", "method" or "tenant"."""
    name: str
    paused_at: datetime
    paused_by: str | None
    note: str | None


@dataclass(frozen=True, slots=True)
class QueueStats:
    """A queue as operators see it; the counts stop at a cap."""

    name: str
    paused_at: datetime | None
    paused_by: str | None
    pause_note: str | None
    ready: int
    oldest_ready_at: datetime | None
    """Among those whose turn is next."""
    held: int
    """Ready, but not to be claimed as others are, for whatever reasons."""
    running: int
    scheduled: int
    capped: bool
    """Whether a count stopped at the cap: there are at least so many."""
    held_paused: int
    """Of the held ones, those for which this is a reason: `Held.PAUSED`."""
    held_suspect: int
    """`Held.SUSPECT`."""
    held_limited: int
    """`Held.LIMITED`."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Something that a job waits for that is not running yet."""

    reason: int
    """rowcall.v1.WaitReason"""
    started_at: datetime | None
    """Since when, where that is known."""
    who: str | None
    """Who paused it; the worker that served it last."""
    note: str | None
    """What it was paused for."""
    ahead: int | None
    """How many jobs' turn is before it, as far as they were counted; None: not counted."""


@dataclass(frozen=True, slots=True)
class QueueServing:
    """Who serves a queue."""

    name: str
    workers: Sequence[str]
    """Names of the living workers that serve it and a method that is submitted to it."""
    last_worker: str | None
    """Where there are none: the one that served it last; None: none ever has."""
    last_until: datetime | None
    """Until when."""
    unserved_methods: Sequence[str]
    """Methods that wait in it though nobody serves them there."""


@dataclass(frozen=True, slots=True)
class Need:
    """What one gateway needs of one bound, as it tells the shard once a second."""

    target: str
    """What of: the same text at every gateway."""
    rate: float
    """Jobs a second that it is asked for."""
    in_flight: int
    """Calls that it serves."""
    in_flight_wanted: int
    """Those, and the calls that it refused for their number since it told last."""
    waiters: int
    """Calls that wait at it."""
    waiters_wanted: int
    """Likewise."""


@dataclass(frozen=True, slots=True)
class OthersNeed:
    """What the other gateways need of it together."""

    gateways: int
    """How many they are."""
    rate: float
    in_flight: int
    in_flight_wanted: int
    waiters: int
    waiters_wanted: int


NOBODY_NEEDS = OthersNeed(0, 0.0, 0, 0, 0, 0)
"""Where there is no other gateway."""


@dataclass(frozen=True, slots=True)
class QueueLoad:
    """How much waits in a queue, never counted."""

    backlog: int
    """READY jobs, as far as gateways have told of them within a second."""
    oldest: timedelta | None
    """For how long the oldest of the next ones has waited; None: none waits."""


@dataclass(frozen=True, slots=True)
class LaneDepth:
    """How much waits in one lane of a queue, never counted."""

    queue: str
    lane: int
    """From 1, which is claimed from first."""
    ready: int
    """READY jobs, as `QueueLoad.backlog` has it."""
    held: int
    """READY jobs that are held back."""
    scheduled: int
    """SCHEDULED jobs."""
    oldest: timedelta | None
    """As `QueueLoad.oldest`."""


@dataclass(frozen=True, slots=True)
class WorkerLoad:
    """What all living workers run of a queue, as they said with their last renewals."""

    queue: str
    slots: int
    """Jobs of the queue that could run at once."""
    running: int
    """Jobs of it that run."""


@dataclass(frozen=True, slots=True)
class Depths:
    """What a shard stands at, as somebody has seen it."""

    age: timedelta
    """For how long it is known."""
    lanes: Sequence[LaneDepth]
    """Of every queue."""
    workers: Sequence[WorkerLoad]
    """Of the queues that a living worker serves."""
    oldest_snapshot: timedelta | None
    """How old the oldest snapshot of the server is; None: the server does not let the shard's owner see it."""


@dataclass(frozen=True, slots=True)
class Spending:
    """What a tenant has spent of a budget."""

    spent: Decimal
    """In this period and the budget's currency, as far as it is booked."""
    time_left: timedelta
    """Until the next period begins."""
