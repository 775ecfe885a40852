"""The queue as services see it: one `QueueProvider` a shard, and what it provides.

`JobStore` is the gateway's half, `WorkQueue` the worker's, `QueueAdmin` the operators', `AdmissionStore` what gateways let in by;
`LeaseRenewal` keeps a worker's lease. What
services import is this; `rowcall.queue.choice` says which implementation stands behind it. Another one is held to the same
promises by tests/integration/queue/conformance.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Protocol
from uuid import UUID

from rowcall.audit.model import Act, Checkpoint, Entry, Erased, Head, Link, Sealed, Unplaced
from rowcall.bounds import Bound, Budget
from rowcall.catalogue.model import JobMethod, Policy
from rowcall.catalogue.shapes import Shape
from rowcall.incidents.model import IncidentRow, Noted
from rowcall.queue.actions import EVERY_ACTION, ActionFilter, ActionJobs, ActionNode, ActionPage
from rowcall.queue.hints import Hint, Listener, Notifier
from rowcall.queue.model import (
    EVERY_JOB,
    IDLE,
    Busy,
    Cancelled,
    ClaimedJob,
    Depths,
    Ended,
    FailureGroup,
    JobFilter,
    JobRow,
    MethodIds,
    Need,
    OthersNeed,
    Outcome,
    Pause,
    PolicyRow,
    Program,
    Progress,
    QueueActivity,
    QueueLoad,
    QueueRow,
    QueueServing,
    QueueStats,
    Renewed,
    Rescued,
    Running,
    Settled,
    Settlement,
    Spending,
    Spent,
    Submission,
    Submitted,
    Wait,
    WorkerJob,
    WorkerRow,
)
from rowcall.queue.spend import SpendBy, SpendFilter, SpendSum
from rowcall.queue.tally import Told
from rowcall.queue.tenants import TenantAdmin
from rowcall.queue.transactions import TransactionLimits, Transactions


class QueueProvider(Protocol):
    """The queue of one shard, as one process of a service has it: everything that the service does there begins here.

    What it provides shares the process's connections to the shard, which are their owner's to close, after everything that
    was provided is closed.
    """

    @property
    def shard(self) -> str:
        """The shard's name."""

    @property
    def checked(self) -> bool:
        """Whether `check` has been here, and refused nothing."""

    async def check(self) -> None:
        """Looks whether this release can work with the shard as it is, once, at a service's start, and says in one line of
        the log what of the server it makes use of and does without.

        Raises:
            RowcallError: SCHEMA_MISMATCH: it cannot, and the message says what to do; others: it cannot be asked now.
            SettingsError: It would acknowledge what can be lost, and the settings do not allow that.
        """

    def store(self, *, key_ttl: timedelta) -> JobStore:
        """The gateway's half.

        Args:
            key_ttl: How long an idempotency key names its job.
        """

    def admin(self) -> QueueAdmin:
        """The operators' half, for a gateway."""

    def admission(self) -> AdmissionStore:
        """What a gateway lets in by, on this shard."""

    def tenants(self) -> TenantAdmin:
        """What operators see and do of all that is kept of a tenant, for a gateway."""

    def work(self) -> WorkQueue:
        """The worker's half."""

    def renewal(self, worker_id: UUID, lease: timedelta) -> LeaseRenewal:
        """What keeps a worker's lease, over a connection of its own.

        Args:
            worker_id: What the worker is registered as.
            lease: How long it is to last from each renewal on.
        """

    def notifier(self, purpose: str) -> Notifier | None:
        """What sends hints; None where hints are switched off.

        Args:
            purpose: What its connection is called, in logs and in the shard's own list of connections.
        """

    def done_listener(
        self, purpose: str, waiter_id: UUID, *, done: Callable[[Sequence[UUID]], None], connected: Callable[[], None]
    ) -> Listener | None:
        """What hears of finished jobs that a gateway waits for; None where hints are switched off.

        Args:
            purpose: As `notifier` has it.
            waiter_id: What the gateway is called in the jobs that it waits for.
            done: Called with the jobs' ids, in the event loop; it must not block.
            connected: Called when listening starts, and starts again: hints may have been missed, so look now.
        """

    def work_listener(
        self,
        purpose: str,
        *,
        ready: Callable[[Sequence[int]], None],
        cancel: Callable[[Sequence[UUID]], None],
        wake: Callable[[], None],
        connected: Callable[[], None],
    ) -> Listener | None:
        """What hears of ready jobs and of cancellations, for a worker; None where hints are switched off.

        Args:
            purpose: As `notifier` has it.
            ready: Called with the ids of queues that have got ready jobs, in the event loop; it must not block.
            cancel: Called with the ids of workers some of whose jobs are to be cancelled, likewise.
            wake: Called when somebody who submits by other ways than this interface asks workers to look, likewise. It says
                of no queue that it has jobs, and may come at any rate.
            connected: As `done_listener` has it.
        """


class LeaseRenewal(Protocol):
    """Renews one worker's lease on one shard; blocking, for one thread, so that no handler can hold it up."""

    def renew(self, loop_lag: timedelta | None = None, busy: Busy = IDLE) -> Renewed:
        """Renews the lease; what the worker must know. Connects anew after an error.

        Args:
            loop_lag: How late the worker's event loop was at worst since the renewal before.
            busy: What the worker is at on this shard.

        Raises:
            RowcallError: SHARD_UNAVAILABLE and others, when the shard does not answer; call again.
        """

    def expire(self, overdue: Sequence[Running], grace: timedelta = ...) -> list[Rescued]:
        """Ends those of these attempts that are past their deadline by the grace, as `WorkQueue.expire_attempts` does.

        Over a connection of its own, in another thread than `renew` if need be, and for as long as it takes.

        Args:
            overdue: Attempts of the worker's.
            grace: How far past.

        Raises:
            RowcallError: SHARD_UNAVAILABLE and others; call again.
        """

    def close(self) -> None:
        """Ends the connection; the lease stays until it is over."""


class JobStore(Protocol):
    """Writing calls as rows and reading them, on one shard.

    Raises RowcallError: SHARD_UNAVAILABLE, COMMIT_UNKNOWN, CONFLICT, SCHEMA_MISMATCH or INTERNAL.
    What writes runs to its end even when its caller is cancelled.
    """

    async def method_ids(self, method: str, policy: Policy) -> MethodIds:
        """The shard's ids of a method ("package.Service/Method"), its policy and queue; made if new, then cached."""

    def known_ids(self, method: str, policy: Policy) -> MethodIds | None:
        """What `method_ids` answers, if it need not ask."""

    def queue_name(self, queue_id: int) -> str | None:
        """What a queue is called; None: `method_ids` was asked for none of its methods."""

    async def publish(self, method: JobMethod) -> MethodIds:
        """As `method_ids`, and the shard knows of the method what `submit_v1` and follow-up jobs need."""

    async def fingerprint_key(self) -> bytes:
        """The shard's key for fingerprints of requests; cached."""

    @property
    def known_fingerprint_key(self) -> bytes | None:
        """What `fingerprint_key` answers, if it need not ask."""

    async def publish_types(self, shapes: Mapping[str, Shape]) -> None:
        """The shard knows of these types what it takes to compare messages of them; by full name."""

    async def kept_fingerprint(self, submission: Submission) -> bytes | None:
        """The fingerprint that a submission's key has, if its job has the same request; for one that is KEY_REUSED.

        With that fingerprint it can be submitted again, and joins. Fingerprints of one request differ where clients
        serialise what is inside an Any in their own ways, and where one is of an older format. The stored request is
        compared by the types that the shard knows, and by its bytes where it knows none.
        """

    async def submit(self, submissions: Sequence[Submission], hint: Hint | None = None) -> list[Submitted | Exception]:
        """Submits independent calls, in one transaction where it can be; with a hint behind its commit, where it can be.

        Answers in the order of the submissions. Duplicate keys within the batch are
        joined, the batch is sorted by key before it is sent, and split when the
        database refuses it, so that each call gets its own answer.
        Cancelling the call ends its waiting, never a statement in flight.
        """

    async def submit_atomic(self, submissions: Sequence[Submission]) -> list[Submitted]:
        """Submits calls of one tenant all together or not at all; what `kept_fingerprint` finds the same joins.

        Any KEY_REUSED or WRONG_SHARD among the answers means that nothing was written.
        """

    async def read(
        self, jobs: Sequence[tuple[str, UUID]], *, request: bool = False, response: bool = False
    ) -> dict[tuple[str, UUID], JobRow]:
        """Jobs by (tenant, id), live or finished; those that are not there are left out."""

    async def waits(
        self, jobs: Sequence[tuple[str, UUID]], *, ahead: int | None = None
    ) -> dict[tuple[str, UUID], Sequence[Wait]]:
        """What those of these jobs wait for that are not running yet, what keeps them first; others are left out.

        Args:
            jobs: By (tenant, id).
            ahead: How far to count the jobs whose turn is before each; None: they are not counted.
        """

    async def outcomes(self, jobs: Sequence[tuple[str, UUID]]) -> list[Outcome]:
        """The finished ones of the jobs asked for."""

    async def find(
        self, tenant: str, wanted: JobFilter = EVERY_JOB, *, before: UUID | None = None, limit: int
    ) -> list[UUID]:
        """The ids of a tenant's jobs that match, newest first, below `before`."""

    async def list(
        self,
        tenant: str,
        wanted: JobFilter = EVERY_JOB,
        *,
        before: UUID | None = None,
        limit: int,
        request: bool = False,
        response: bool = False,
    ) -> Sequence[JobRow]:
        """A tenant's jobs that match, newest first, with ids below `before`."""

    async def failure_groups(
        self, tenant: str | None, *, method: str | None = None, finished_from: datetime | None = None, limit: int
    ) -> Sequence[FailureGroup]:
        """A tenant's failed jobs, or all tenants', by method and what they died of, most first."""

    async def cancel(self, tenant: str, job_id: UUID, *, act: Act | None = None) -> Cancelled | None:
        """Cancels a waiting job, marks a running one; None if there is no live job.

        It is recorded with it, in one transaction, that it was done and by whom, as are all others here that take an act; of
        None it is recorded that somebody did it.
        """

    async def leave(self, tenant: str, job_id: UUID, *, cancel: bool) -> Cancelled | None:
        """A call that was submitted no longer waits for its job.

        Args:
            tenant: Whose job it is.
            job_id: The job that the call created or joined.
            cancel: Cancels the job if it was never started and no other call with its key is left, at any gateway. Calls
                count that were submitted as `counted`. What it came to; None if it goes on.
        """

    async def cancel_many(
        self, tenant: str, job_ids: Sequence[UUID], *, act: Act | None = None
    ) -> dict[UUID, Cancelled]:
        """Cancels those that wait, marks those that run, in one transaction; what it came to for each live one."""

    async def replay(self, tenant: str, job_ids: Sequence[UUID], *, act: Act | None = None) -> dict[UUID, int]:
        """Makes failed jobs READY again under their own names; those that were, with their queues."""

    async def resolve(
        self, tenant: str, job_ids: Sequence[UUID], *, by: str | None, note: str | None, act: Act | None = None
    ) -> Sequence[UUID]:
        """Marks failed jobs as handled; those that were."""

    async def exchange_turns(self) -> int:
        """Tells other gateways how far this one's tenants have moved ahead, and hears of theirs; how many flows moved.

        To be called about once a second; fairness between gateways rests on it, nothing else.
        """

    async def tell(self, told: Told) -> None:
        """Adds to what happened to jobs today; see `tally`."""

    async def delete(self, tenant: str, job_id: UUID, *, act: Act | None = None) -> bool:
        """Erases a finished job; False if there is none."""

    async def close(self) -> None:
        """Waits for the statements in flight; before the connections are closed."""


class WorkQueue(Protocol):
    """Claiming, settling and keeping house, on one shard.

    Raises RowcallError as `JobStore` does. What writes runs to its end even when its caller is cancelled.
    """

    async def method_id(self, method: str) -> int:
        """The shard's id of a method ("package.Service/Method"), made if new."""

    async def method_ids(self, method: str, policy: Policy) -> MethodIds:
        """The shard's ids of a method, its policy and queue; for the jobs that handlers submit."""

    async def fingerprint_key(self) -> bytes:
        """The shard's key for fingerprints of requests; cached."""

    async def policies(self) -> dict[int, PolicyRow]:
        """Every policy of the shard by its id."""

    async def queues(self) -> list[QueueRow]:
        """Every queue of the shard."""

    async def published(self) -> Mapping[str, str]:
        """The methods that gateways have published here, each with the name of the queue that it is submitted to."""

    async def register_worker(
        self, worker_id: UUID, name: str, lease: timedelta, program: Program | None = None
    ) -> None:
        """Registers a worker process under an identity that is new at each start; with what it is, for people."""

    async def serve(self, worker_id: UUID, method_ids: Sequence[int], queues: Sequence[str] | None) -> None:
        """Says what a registered worker serves, for whoever asks what a job waits for; claims do not go by it.

        Args:
            worker_id: As registered.
            method_ids: The shard's.
            queues: Names, whether there are such queues or not; None: every queue.
        """

    async def depths(self, fresh: timedelta) -> Depths | None:
        """What waits and what runs in every queue, as it was seen within a time by whomever, or else is seen now.

        It may be older: all such looks together take little of the shard's time. None: nobody has looked yet, and somebody does just
        now.
        """

    async def retire_worker(self, worker_id: UUID, *, unharmed: bool = False) -> None:
        """Ends a worker's lease; what it still holds is rescued: as lost, unless it did the worker no harm."""

    async def claim(
        self,
        worker_id: UUID,
        queue_id: int,
        method_ids: Sequence[int],
        limit: int,
        *,
        start: Sequence[int],
    ) -> list[ClaimedJob]:
        """Claims ready jobs, lanes first, within a lane by order key from `start[lane - 1]` on (or FRONTIER; see `marks`).

        Moves the lanes' frontiers up to what was claimed. A dead worker gets nothing.
        """

    async def claim_suspects(
        self, worker_id: UUID, queue_ids: Sequence[int], method_ids: Sequence[int], limit: int
    ) -> list[ClaimedJob]:
        """Claims suspects (lost twice in a row) for a worker process that runs nothing else until all of them have ended.

        As many as `limit`; or a single one, where that is to run alone. Whatever is claimed by itself runs alone: its
        losses count against it.
        """

    async def count_suspects(self, queue_ids: Sequence[int], method_ids: Sequence[int], limit: int) -> int:
        """How many suspects this worker could run in groups; `limit` at most are counted."""

    async def suspect_waits(self, queue_ids: Sequence[int], method_ids: Sequence[int]) -> timedelta | None:
        """For how long the suspect that has waited longest has; None: there is none."""

    async def elect(self, role: str, worker_id: UUID, term: timedelta) -> bool:
        """Whether this worker has a role that one worker has at a time, for the term from now on; ask again before."""

    async def record_incidents(self, noted: Sequence[Noted]) -> list[str]:
        """Adds what this process has met by a fault of ours; the fingerprints of those that were resolved and are back."""

    async def seal_audit(self, limit: int) -> list[Sealed]:
        """Gives recorded actions, this many at most, their places in their tenants' chains; the chains that have grown.

        Only those that nobody can commit before any more. While another one seals, nothing is done.
        """

    async def audit_due(self, kept: timedelta, limit: int) -> list[tuple[str, int, bytes]]:
        """Chains with entries that were sealed longer ago: tenant, place and hash of where to cut each, so that no more
        entries than the limit go at once."""

    async def cut_audit(self, tenant: str, at: Checkpoint) -> int:
        """Forgets a chain's entries up to a place, and keeps the signature of where that was; how many went, -1 where the chain
        is not what was signed."""

    async def settle(self, settlements: Sequence[Settlement], hint: Hint | None = None) -> list[Settled | Exception]:
        """Settles attempts, in one transaction where it can be; one bad row does not fail its neighbours.

        With a hint behind its commit, where it can be. What was spent is booked in the same transaction, of those too whose
        lease is no longer the worker's; each call once, however often it is told.
        """

    async def release(self, jobs: Sequence[ClaimedJob]) -> list[Settled]:
        """Hands running jobs back without using their attempts up.

        They are READY again, or CANCELLED where that was asked for meanwhile.
        """

    async def report_progress(self, progress: Sequence[Progress], spent: Sequence[Spent] = ()) -> list[Progress]:
        """Keeps how far running jobs are; those whose lease is still the worker's.

        What was spent, by these and by others, is booked as in `settle`: in the same transaction, each call once.
        """

    async def promote(self, limit: int, since: datetime | None = None) -> dict[int, int]:
        """Makes jobs ready that are due, since then or later (see `sweeps`); how many in which queue."""

    async def bury_workers(self, grace: timedelta = ..., *, by: UUID | None = None) -> list[tuple[UUID, str]]:
        """Marks workers dead whose lease is over, or whose session is gone and who missed two beats; their ids and names.

        None within the grace after the server's start, nor while the worker that asks has not itself renewed
        steadily for so long: the living come back first.
        """

    async def rescue(self, limit: int, *, front: bool = True) -> list[Rescued]:
        """Takes jobs of dead workers back, as any jobs; those that were lost twice in a row as suspects.

        Args:
            limit: So many.
            front: Whether also those are looked for that a worker cannot have held any more when it was last heard
                of: dead entries are among them.
        """

    async def expire_attempts(
        self, limit: int, grace: timedelta = ..., *, since: datetime | None = None
    ) -> list[Rescued]:
        """Ends attempts so far past their deadline that their living worker must hang; retried (SCHEDULED) or FAILED.

        Args:
            limit: So many.
            grace: How far past.
            since: Of those that are so since then (see `sweeps`).
        """

    async def expire_jobs(self, limit: int, since: datetime | None = None) -> list[Ended]:
        """Fails waiting jobs whose own deadline is over, since then or later (see `sweeps`)."""

    async def age(self, limit: int, *, front: bool = True) -> dict[int, int]:
        """Moves jobs up a lane that have waited too long, so many of a lane at most; how many in which queue.

        Args:
            limit: So many of a lane.
            front: Whether also those are looked at that claims have passed by: dead entries are among them.
        """

    async def hold_paused(self, limit: int) -> int:
        """Sets ready jobs of paused tenants and methods aside; how many."""

    async def free_resumed(self, limit: int, *, front: bool = True) -> dict[int, int]:
        """Makes those ready again that are no longer paused; how many in which queue.

        Args:
            limit: So many.
            front: Whether to look in any case, not only where something was resumed.
        """

    async def tell(self, told: Told) -> None:
        """Adds to what happened to jobs today; see `tally`."""

    async def forget_turns(self, limit: int) -> int:
        """Forgets turns that the frontier has passed; how many."""

    async def make_history_days(self, days: int) -> int:
        """Makes the days of history ahead; how many parts of them, one a retention class, were new."""

    async def drop_history_day(self, tries: int = ...) -> str | None:
        """Drops a day of history that is past its retention: its name; "": one is due but in use; None: none is."""

    async def analyze_history(self) -> None:
        """Takes history's statistics anew, after days came or went."""

    async def expire_keys(self, limit: int, since: datetime | None = None) -> int:
        """Takes idempotency keys away that expired then or later (see `sweeps`); how many."""

    def transactions(self, limits: TransactionLimits) -> Transactions:
        """The transactions of this shard's jobs.

        Args:
            limits: How long things may take.
        """

    async def close(self) -> None:
        """Waits for the statements in flight; before the connections are closed."""


class QueueAdmin(Protocol):
    """What operators see of a shard's queues and do to them.

    Raises RowcallError as `JobStore` does. What writes runs to its end even when its caller is cancelled.
    """

    async def stats(self, cap: int) -> list[QueueStats]:
        """Every queue; counts stop at the cap."""

    async def serving(self, cap: int) -> list[QueueServing]:
        """Who serves every queue; methods that nobody serves are looked for among so many jobs of a lane."""

    async def method_serving(self) -> dict[str, list[str]]:
        """The living workers that serve each method, by name; methods that nobody serves are left out."""

    async def depths(self, fresh: timedelta) -> Depths | None:
        """See WorkQueue.depths."""

    async def workers(self, name: str | None = None) -> list[WorkerRow]:
        """The living workers by name, those of one name where one is given: an entry for each identity."""

    async def worker_jobs(self, name: str, tenant: str | None = None) -> list[WorkerJob]:
        """The jobs that a worker runs, of a tenant where one is given: as it said with its last renewal, the longest first."""

    async def activity(self) -> list[QueueActivity]:
        """What every queue has waiting and running, and what happened to it today; nothing is counted for it."""

    async def pauses(self, tenant: str) -> list[Pause]:
        """The queues and methods that are paused, and the tenant, if it is."""

    async def pause(self, kind: str, name: str, *, by: str | None, note: str | None, act: Act | None = None) -> bool:
        """Pauses a "queue", "method" or "tenant"; False: the shard does not know it.

        A pause that is there already stays as it is. Recorded, as all that is done here: see JobStore.cancel.
        """

    async def resume(self, kind: str, name: str, *, act: Act | None = None) -> bool:
        """Ends a pause, if there is one; False: the shard does not know the name."""

    async def weigh(self, tenant: str, weight: float, *, act: Act | None = None) -> bool:
        """Sets a tenant's share beside other tenants', 0.01 to 100; False: it is not here."""

    async def record_reads(self, tenant: str, job_ids: Sequence[UUID], act: Act) -> None:
        """Records that payloads of these jobs are about to be shown."""

    async def audit_entries(
        self, tenant: str, *, below: int | None = None, limit: int, actor: str = "", action: str = "", target: str = ""
    ) -> list[Entry]:
        """What was done, the latest first, as it arrived. Of the tenant SYSTEM what belongs to none.

        Args:
            tenant: Whose.
            below: Only entries with lower numbers.
            limit: How many at most.
            actor: By whom; empty: by anybody.
            action: What, "job.cancel", or a kind of it, "job"; empty: anything.
            target: To what; empty: to anything.
        """

    async def audit_head(self, tenant: str) -> Head:
        """Where a tenant's chain ends."""

    async def audit_chain(self, tenant: str, *, after: int, limit: int) -> list[Link]:
        """A stretch of a tenant's chain behind a place, in order."""

    async def audit_unplaced(self, tenant: str, *, limit: int) -> list[Unplaced]:
        """Entries that have no place though all of their time were given one."""

    async def audit_checkpoint(self, tenant: str) -> Checkpoint | None:
        """Where retention cut a tenant's chain last; None: nowhere."""

    async def audit_grown(self, within: timedelta) -> list[tuple[str, int, bytes]]:
        """The ends of the chains that have grown within a time: tenant (SYSTEM: of none), place, hash."""

    async def erase_audit(self, tenant: str, *, after: int, limit: int, act: Act | None = None) -> Erased:
        """Erases what a tenant's entries say, and records that: their places stay, so that the chain can still be verified.

        Entries of erasures stay. One that has no place yet is left, and said to remain: it can be erased a second or two later, when it
        is sealed.

        Args:
            tenant: Whose.
            after: Behind which place; 0: from the beginning. For what follows, `Erased.place` of the last answer.
            limit: How many at most; one transaction.
            act: Who does it.
        """

    async def record_incidents(self, noted: Sequence[Noted]) -> list[str]:
        """See WorkQueue.record_incidents."""

    async def incidents(self, *, fingerprint: str = "", limit: int) -> list[IncidentRow]:
        """The incidents that were met last, the latest first; or one."""

    async def resolve_incident(
        self, fingerprint: str, *, by: str | None, note: str | None, act: Act | None = None
    ) -> bool:
        """Says that an incident is done with; False: there is none here."""

    async def spend(self, wanted: SpendFilter, by: Collection[SpendBy], *, limit: int) -> list[SpendSum]:
        """What calls of models and providers cost, in sums, the dearest of each currency first."""

    async def action_jobs(
        self, tenant: str, *, trace_id: UUID | None = None, job_id: UUID | None = None, limit: int, patience: timedelta
    ) -> ActionJobs:
        """The jobs of one of a tenant's actions, live and finished.

        Args:
            tenant: Whose.
            trace_id: The action's; or, where it is None,
            job_id: one of its jobs, which may be gone.
            limit: How many at most.
            patience: For how long the tenant's live jobs are looked through for those of the trace, the newest first.
        """

    async def action_nodes(
        self,
        tenant: str,
        job_ids: Sequence[UUID],
        *,
        hidden: Sequence[UUID],
        trace_id: UUID | None,
        audit: bool,
        system: bool,
        limit: int,
    ) -> list[ActionNode]:
        """The nodes of an action's tree, in the order of time: of these jobs, and of what else belongs to the trace.

        Args:
            tenant: Whose.
            job_ids: The jobs.
            hidden: Other jobs of it: nothing is told of what these spent.
            trace_id: The action's; None: it has none.
            audit: Whether with what operators did.
            system: Whether with what belongs to no tenant: incidents, and what was done to what all share.
            limit: How many of each kind at most.
        """

    async def actions(
        self, tenant: str, wanted: ActionFilter = EVERY_ACTION, *, before: UUID | None = None, limit: int, look: int
    ) -> ActionPage:
        """A tenant's actions, newest first.

        Args:
            tenant: Whose.
            wanted: Which of them.
            before: Below this job.
            limit: How many at most.
            look: How many jobs are looked at at most, where few match.
        """

    async def close(self) -> None:
        """Waits for the statements in flight; before the connections are closed."""


class AdmissionStore(Protocol):
    """What gateways let in by: the shard's copy of the bounds, and what each gateway needs of them.

    Raises RowcallError as `JobStore` does.
    """

    async def keep(self, bounds: Sequence[Bound]) -> None:
        """Keeps bounds, each unless one with a higher number is there. Submits go by their backlogs from then on."""

    async def kept(self) -> Sequence[Bound]:
        """All that are kept, with those that were taken away (`Bound.bounds`)."""

    async def lease(self, gateway_id: UUID, needs: Sequence[Need]) -> Sequence[OthersNeed]:
        """Tells what a gateway needs, in place of what it told before, and answers with what the others need, in the same order.

        Who has not told for three seconds counts no more.
        """

    async def leave(self, gateway_id: UUID) -> None:
        """A gateway ends: it counts no more."""

    async def loads(self, queues: Sequence[str]) -> dict[str, QueueLoad]:
        """How much waits in queues, by name; one that the shard does not know is left out."""

    async def spent(self, budgets: Sequence[tuple[str, Budget]]) -> Sequence[Spending]:
        """What tenants have spent of budgets, in their order."""

    async def close(self) -> None:
        """Waits for the statements in flight; before the connections are closed."""
