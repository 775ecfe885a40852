"""Jobs that a claim brought: started on the executor, or handed back. One for each shard.

Called by the shard's claimers and by what runs suspects alone. What a claim took must be one or the other: nobody else
knows that these jobs are this worker's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence

from rowcall.errors import RowcallError
from rowcall.queue.model import ClaimedJob, PolicyRow
from rowcall.queue.protocol import WorkQueue
from rowcall.queue.tally import Tally, What
from rowcall.v1.error_reason_pb2 import ErrorReason
from rowcall.v1.job_pb2 import JobState
from rowcall_worker.membership.registration import Registrar, Registration
from rowcall_worker.running.attempt import Attempt
from rowcall_worker.running.executor import Executor
from rowcall_worker.running.slots import Cap
from rowcall_worker.serving.handlers import ServedMethod
from rowcall_worker.upkeep.maintenance import Telling


class Intake:
    """Starts what was claimed on one shard."""

    def __init__(
        self,
        queue: WorkQueue,
        registrar: Registrar,
        executor: Executor,
        telling: Telling,
        tally: Tally,
        *,
        methods: Mapping[int, ServedMethod],
    ) -> None:
        """Args:
        queue: The shard's.
        registrar: Is told of identities that may hold what nobody knows of.
        executor: Runs the attempts.
        telling: Is told of jobs that ended because they were handed back after they had been cancelled.
        tally: Counts what begins, and what was cancelled.
        methods: What is served, by the shard's method ids.
        """
        self._queue = queue
        self._registrar = registrar
        self._executor = executor
        self._telling = telling
        self._tally = tally
        self._methods = methods
        self._policies = _Policies(queue)
        self._closed = False
        self._returning: set[asyncio.Task[None]] = set()

    def close(self) -> None:
        """Starts nothing from now on: what a claim under way brings is handed back."""
        self._closed = True

    async def start(
        self, registration: Registration, jobs: Sequence[ClaimedJob], cap: Cap | None = None
    ) -> Sequence[Attempt]:
        """Starts what was claimed under an identity, or hands it back; those that were started.

        Their slots were taken, and their places under the queue's cap: both are given back as the handlers end.

        Raises RowcallError: their policies could not be read; they were handed back.
        """
        if not jobs:
            return ()
        if self._closed:
            await self._give_back(registration, jobs)
            return ()
        try:
            policies = await self._policies.of(jobs)
        except RowcallError:
            await self._give_back(registration, jobs)
            raise
        if registration.lost:
            return ()
        attempts = [
            self._executor.start(job, self._methods[job.method_id], policies[job.policy_id], registration, cap=cap)
            for job in jobs
        ]
        registration.attempts.update(attempts)
        for job in jobs:
            self._tally.count(job.tenant, job.queue_id, What.STARTED)
        return attempts

    async def release(self, jobs: Sequence[ClaimedJob]) -> None:
        """Hands jobs back, and tells who waits for those that were to be cancelled: they are. Raises RowcallError."""
        answers = await self._queue.release(jobs)
        cancelled = [
            (job, answer.waiter_id)
            for job, answer in zip(jobs, answers, strict=True)
            if answer.state == JobState.JOB_STATE_CANCELLED
        ]
        for job, _ in cancelled:
            self._tally.count(job.tenant, job.queue_id, What.CANCELLED)
        self._telling.ended((job.job_id, waiter_id) for job, waiter_id in cancelled)

    def return_late(self, registration: Registration, jobs: Sequence[ClaimedJob]) -> None:
        """Hands back what was claimed ahead and found no slot in time. Does not wait for it."""

        async def give_back() -> None:
            await self._give_back(registration, jobs)
            registration.let_go(len(jobs))

        task = asyncio.create_task(give_back(), name="hand late jobs back")
        self._returning.add(task)
        task.add_done_callback(self._returning.discard)

    def failed(self, registration: Registration, error: Exception) -> None:
        """A claim under this identity raised: it may have taken rows all the same."""
        if not isinstance(error, RowcallError) or error.reason == ErrorReason.ERROR_REASON_COMMIT_UNKNOWN:
            self._registrar.doubt(registration)

    async def _give_back(self, registration: Registration, jobs: Sequence[ClaimedJob]) -> None:
        try:
            await self.release(jobs)
        except RowcallError:
            # Nobody runs them, and this identity lives: only its end brings them back.
            self._registrar.doubt(registration)


class _Policies:
    """The shard's policies, fetched when a job has one that is not known yet."""

    def __init__(self, queue: WorkQueue) -> None:
        self._queue = queue
        self._known: dict[int, PolicyRow] = {}
        self._fetching = asyncio.Lock()

    async def of(self, jobs: Iterable[ClaimedJob]) -> Mapping[int, PolicyRow]:
        """At least the policies of these jobs. Raises RowcallError."""
        needed = {job.policy_id for job in jobs}
        if not needed <= self._known.keys():
            async with self._fetching:
                if not needed <= self._known.keys():
                    self._known = await self._queue.policies()
        return self._known
