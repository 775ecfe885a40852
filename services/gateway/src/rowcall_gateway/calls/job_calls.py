"""The life of a call that submits a job: submitted, named, waited for, answered. Called by `generic` and `services.jobs`.

What is promised to the caller is in the contract: once the row is durable, its name is told and nothing the call does
or suffers afterwards takes the job back, unless the method's policy says so (on_abandon).
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Final, NamedTuple
from uuid import UUID

from google.longrunning.operations_pb2 import Operation

from rowcall.catalogue.model import JobMethod
from rowcall.errors import RowcallError
from rowcall.names import operation_name
from rowcall.options.v1.job_pb2 import OnAbandon
from rowcall.queue.model import JobRow, Outcome, SubmitOutcome, Submitted
from rowcall.queue.tally import UNKNOWN_QUEUE, What
from rowcall.telemetry import conventions, metrics
from rowcall.v1.error_reason_pb2 import ErrorReason
from rowcall.v1.job_pb2 import JobState
from rowcall_gateway.admission.admission import Admission
from rowcall_gateway.admission.passes import Pass
from rowcall_gateway.calls.background import Background
from rowcall_gateway.calls.drafts import Draft, Drafts
from rowcall_gateway.calls.submissions import Flight, Submissions
from rowcall_gateway.edge import in_time
from rowcall_gateway.edge.deadlines import Budget
from rowcall_gateway.edge.failures import (
    commit_unknown,
    deadline_too_short,
    key_required,
    key_reused,
    operation_deleted,
    rebuilt,
    shard_silent,
    still_running,
)
from rowcall_gateway.edge.incoming import IncomingCall
from rowcall_gateway.resources import Resources, response_bytes, trace_id
from rowcall_gateway.shards.links import ShardLink
from rowcall_gateway.shards.time_limits import TimeIsUp
from rowcall_gateway.shards.waiters import Slots

_ANSWERS_WITHIN: Final = 0.5
"""Seconds within which a shard that is well has taken a row, neighbours included: some hundred times a commit."""

_NOT_AT_ALL: Final = timedelta(0)
_SUCCEEDED: Final = JobState.JOB_STATE_SUCCEEDED
_CANCEL: Final = OnAbandon.ON_ABANDON_CANCEL_IF_NOT_STARTED
_ANSWERS: Final = {
    What.ANSWERED_IN_TIME: "in_time",
    What.ANSWERED_JOINED: "joined",
    What.ANSWERED_OPERATION: "operation",
    What.ANSWERED_STILL_RUNNING: "still_running",
    What.ANSWERED_FAILED: "failed",
}
"""As `metrics.ANSWERS` has them."""


class _Job(NamedTuple):
    """A call's job, durable."""

    link: ShardLink
    """Its shard."""
    key: tuple[str, UUID]
    """Tenant and job."""
    name: str
    """Its operation's."""
    created: bool
    """False: the call joined it."""
    queue_id: int
    """The shard's id of its method's queue."""
    trace_id: str
    """Of the call that created it."""


class JobCalls:
    """Answers calls of job methods."""

    def __init__(
        self,
        *,
        admission: Admission,
        drafts: Drafts,
        submissions: Submissions,
        resources: Resources,
        slots: Slots,
        background: Background,
        max_call_wait: timedelta,
    ) -> None:
        self._admission = admission
        self._drafts = drafts
        self._submissions = submissions
        self._resources = resources
        self._slots = slots
        self._background = background
        self._max_call_wait = max_call_wait
        # Asked for once: that asks the operating system whether the process was forked, each time.
        self._loop = asyncio.get_running_loop()

    async def typed(self, method: JobMethod, request: bytes, call: IncomingCall) -> bytes:
        """Answers a call of a method that returns its response: the response's bytes.

        Raises:
            RowcallError: STILL_RUNNING when the call's time is up first, and whatever refuses the call.
            JobFailure: The job failed or was cancelled.
        """
        wait = call.metadata.wait
        # Before it is decoded: what is refused costs no more than that.
        waits = wait is None or wait > _NOT_AT_ALL
        with self._admission.enter(call.tenant, method, waits=waits) or await self.turn(
            call, method, waits=waits, size=len(request)
        ):
            draft = self._drafts.of_call(method, request, call)
            keyed = draft.request_id is not None
            budget = self._budget(call, wait)
            with self._slots.take():
                # The wait may be long, and is for an answer: what the submission was and became need not be kept for it.
                job = (await self._submit(call, draft, budget))[0]
                del draft
                outcome = await self._outcome(job, method, budget, keyed=keyed)
        if outcome is None:
            _answered(job, method, What.ANSWERED_STILL_RUNNING)
            raise still_running(keyed=keyed)
        found, trace = outcome
        _answered(job, method, _how(job, done=found.state == _SUCCEEDED))
        return response_bytes(found, trace)

    async def operation(self, method: JobMethod, request: bytes, call: IncomingCall) -> bytes:
        """Answers a call of a method that returns an operation: the operation's bytes, done or not.

        Raises:
            RowcallError: Whatever refuses the call.
        """
        wait = method.policy.wait if call.metadata.wait is None else call.metadata.wait
        waits = wait > _NOT_AT_ALL
        with self._admission.enter(call.tenant, method, waits=waits) or await self.turn(
            call, method, waits=waits, size=len(request)
        ):
            draft = self._drafts.of_call(method, request, call)
            operation, _ = await self.operation_of(draft, call, wait)
        return operation.SerializeToString()

    async def operation_of(self, draft: Draft, call: IncomingCall, wait: timedelta) -> tuple[Operation, bool]:
        """Submits a job that was let in, and waits a while; its operation, done or not, and whether it was there already.

        Raises:
            RowcallError: Whatever refuses the call.
        """
        budget = self._budget(call, wait)
        with self._slots.take():
            job, submitted = await self._submit(call, draft, budget)
            if wait <= _NOT_AT_ALL and job.created:
                # Just written, and nobody waits for more: there is nothing to ask the database for.
                _answered(job, draft.method, What.ANSWERED_OPERATION)
                return self._resources.operation_submitted(draft.method, job.name, submitted, job.trace_id), False
            await self._outcome(job, draft.method, budget, keyed=draft.request_id is not None, named=True)
            row = await job.link.rows.read(job.key, response=True)
        if row is None:
            raise operation_deleted(job.name)
        done = row.state == _SUCCEEDED if row.done else None
        _answered(job, draft.method, _how(job, done=done))
        return self._resources.operation(row, call.principal), not job.created

    async def turn(self, call: IncomingCall, method: JobMethod, *, waits: bool, size: int) -> Pass:
        """Lets a call in that may not come at once, after its turn has come; see Admission.turn.

        Raises:
            RowcallError: NOT_ADMITTED.
        """
        # How long it takes to become a row is not for want of time then.
        in_time.left()
        return await self._admission.turn(call.tenant, method, waits=waits, size=size, remaining=call.remaining())

    def _budget(self, call: IncomingCall, wait: timedelta | None) -> Budget:
        return Budget.of(self._loop.time(), call.remaining(), max_call_wait=self._max_call_wait, wait=wait)

    async def _submit(self, call: IncomingCall, draft: Draft, budget: Budget) -> tuple[_Job, Submitted]:
        """Makes the call a durable row, or joins the one that its key names."""
        call.request_id = draft.request_id
        call.repeatable = draft.request_id is not None
        if call.metadata.previous_attempts and not call.repeatable:
            raise key_required()
        flight = Flight(self._loop, call.sending(draft.method.policy.queue))
        try:
            link, submitted = await self._in_time(call, draft, budget, flight)
            name = operation_name(call.tenant, submitted.job_id)
            if submitted.outcome is SubmitOutcome.KEY_REUSED:
                raise key_reused(name)
            if submitted.outcome is SubmitOutcome.NOT_ADMITTED:
                raise self._admission.over_backlog(call.tenant, draft.method)
            telling = call.name_operation(name)
            if telling is not None:
                await telling
        except asyncio.CancelledError:
            # The caller is gone before its submission was answered.
            if not flight.recall() and draft.method.policy.on_abandon == _CANCEL:
                self._background.spawn(_leave_when_written(flight, call.tenant), "abandon a submission")
            raise
        created = submitted.outcome is SubmitOutcome.CREATED
        if flight.sending is not None:
            flight.sending.written(
                {
                    conventions.MESSAGING_MESSAGE: str(submitted.job_id),
                    conventions.METHOD: draft.method.name,
                    conventions.SHARD: link.name,
                    conventions.OUTCOME: "created" if created else "joined",
                }
            )
        queue_id = UNKNOWN_QUEUE if flight.ticket is None else flight.ticket.submission.ids.queue_id
        return _Job(link, (call.tenant, submitted.job_id), name, created, queue_id, call.trace.trace_id), submitted

    async def _in_time(
        self, call: IncomingCall, draft: Draft, budget: Budget, flight: Flight
    ) -> tuple[ShardLink, Submitted]:
        waits = budget.wait_until > self._loop.time()
        try:
            return await self._submissions.submit(call, draft, flight, waits=waits, until=budget.submit_until)
        except TimeIsUp:
            if flight.recall():
                raise _not_written_in_time(flight) from None
            # A key may name an older job than the id that was minted for this call.
            name = operation_name(call.tenant, flight.job_id) if draft.request_id is None else None
            raise commit_unknown(name) from None
        except RowcallError as error:
            if error.reason == ErrorReason.ERROR_REASON_COMMIT_UNKNOWN and draft.request_id is not None:
                raise rebuilt(error, unnamed=True) from error
            raise

    async def _outcome(
        self, job: _Job, method: JobMethod, budget: Budget, *, keyed: bool, named: bool = False
    ) -> tuple[Outcome, str] | None:
        """The job's outcome and trace id, if it is there in time.

        Args:
            job: Which one.
            method: Its method.
            budget: How long to wait.
            keyed: Whether other calls may wait for it.
            named: Whether the caller is given the operation all the same: then it does not leave the job at the end.
        """
        leaves = method.policy.on_abandon == _CANCEL
        try:
            trace = job.trace_id
            if not job.created:
                row = await job.link.rows.read(job.key, response=True)
                if row is None:
                    raise operation_deleted(job.name)
                trace = trace_id(row) or trace
                if row.done:
                    return _outcome_of(row), trace
            with job.link.waiters.wait(job.key, pace=job.link.pace(created=job.created)) as waiting:
                await waiting.until(budget.wait_until)
                outcome = waiting.answer()
                if outcome is None and leaves and not named:
                    leaves = False
                    self._leave(job, keyed=keyed, cancel=budget.at_deadline)
                    if budget.at_deadline:
                        # What was kept back for the answer's way has room for this one question.
                        await waiting.until(budget.wait_until + budget.margin / 2)
                        outcome = waiting.answer()
        except asyncio.CancelledError:
            if leaves:
                self._leave(job, keyed=keyed, cancel=True)
            raise
        except RowcallError:
            # The gateway drains, or cannot ask. The caller is expected to join its job again.
            if leaves and not named:
                self._leave(job, keyed=keyed, cancel=False)
            raise
        return None if outcome is None else (outcome, trace)

    def _leave(self, job: _Job, *, keyed: bool, cancel: bool) -> None:
        """The call no longer waits. Whether another one does, of this gateway or not, the row knows."""
        if keyed or cancel:
            self._background.spawn(_leave(job.link, job.key, cancel=cancel), f"leave {job.name}")


def _answered(job: _Job, method: JobMethod, how: What) -> None:
    """A call was answered: counted for this process, and for the shard."""
    metrics.ANSWERS.add(1, method.name, _ANSWERS[how])
    job.link.answered(job.key[0], job.queue_id, how)


def _how(job: _Job, *, done: bool | None) -> What:
    """How a call is answered; `done`: whether its job succeeded, or None: it goes on."""
    if done is None:
        return What.ANSWERED_OPERATION
    if not done:
        return What.ANSWERED_FAILED
    return What.ANSWERED_IN_TIME if job.created else What.ANSWERED_JOINED


def _not_written_in_time(flight: Flight) -> RowcallError:
    """Whose fault it is that a call's time was up before its row was on its way: the deadline's or the shard's."""
    if flight.link is None:
        return deadline_too_short()
    waited = flight.waited()
    return deadline_too_short() if waited < _ANSWERS_WITHIN else shard_silent(flight.link.name, waited)


async def _leave_when_written(flight: Flight, tenant: str) -> None:
    if flight.ticket is None or flight.link is None:
        return
    try:
        submitted = await flight.ticket.written()
    except RowcallError:
        # Nothing was written, or nobody knows.
        return
    if submitted.outcome in (SubmitOutcome.CREATED, SubmitOutcome.JOINED):
        await _leave(flight.link, (tenant, submitted.job_id), cancel=True)


async def _leave(link: ShardLink, key: tuple[str, UUID], *, cancel: bool) -> None:
    cancelled = await link.store.leave(*key, cancel=cancel)
    if cancelled is not None:
        link.cancelled(key[0], {key[1]: cancelled})


def _outcome_of(row: JobRow) -> Outcome:
    return Outcome(
        tenant=row.tenant,
        job_id=row.job_id,
        state=row.state,
        attempt=row.attempt,
        response=row.response,
        error=row.error,
    )
