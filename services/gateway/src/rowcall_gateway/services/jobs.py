"""rowcall.v1.JobService: jobs of any method, submitted generically, looked at, cancelled, replayed, resolved.

What callers submit with is here; lists are `job_lists`', what is done to jobs is `actions`', to many `selections`'.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest

from rowcall.errors import RowcallError
from rowcall.names import operation_name
from rowcall.queue.model import PENDING, SubmitOutcome, Submitted
from rowcall.v1.error_reason_pb2 import ErrorReason
from rowcall.v1.job_service_pb2 import (
    BatchCancelJobsRequest,
    BatchCancelJobsResponse,
    BatchResolveJobsRequest,
    BatchResolveJobsResponse,
    BatchRetryJobsRequest,
    BatchRetryJobsResponse,
    BatchSubmitRequest,
    BatchSubmitResponse,
    CancelJobRequest,
    CancelJobResponse,
    GetJobRequest,
    GetJobResponse,
    JobView,
    ListFailureGroupsRequest,
    ListFailureGroupsResponse,
    ListJobsRequest,
    ListJobsResponse,
    ResolveJobRequest,
    ResolveJobResponse,
    RetryJobRequest,
    RetryJobResponse,
    SubmitRequest,
    SubmitResponse,
)
from rowcall.v1.job_service_pb2_grpc import JobServiceServicer
from rowcall.validation import Validator
from rowcall_gateway.admission.admission import Admission
from rowcall_gateway.calls.drafts import Draft, Drafts, check_text, keyed
from rowcall_gateway.calls.job_calls import JobCalls
from rowcall_gateway.calls.submissions import Submissions
from rowcall_gateway.edge import incoming
from rowcall_gateway.edge.deadlines import margin
from rowcall_gateway.edge.failures import commit_unknown, key_required, operation_deleted
from rowcall_gateway.edge.incoming import IncomingCall
from rowcall_gateway.edge.metadata import IDEMPOTENCY_KEY
from rowcall_gateway.resources import Resources
from rowcall_gateway.services.actions import Cancel, Resolve, Retry, do_to
from rowcall_gateway.services.disclosures import Disclosures
from rowcall_gateway.services.job_lists import JobLists
from rowcall_gateway.services.reading import JobReader
from rowcall_gateway.services.selections import Selections
from rowcall_gateway.shards.waiters import Slots


class Jobs(JobServiceServicer):
    """The servicer. Methods have gRPC's names and raise RowcallError."""

    def __init__(
        self,
        *,
        admission: Admission,
        calls: JobCalls,
        drafts: Drafts,
        submissions: Submissions,
        reader: JobReader,
        resources: Resources,
        slots: Slots,
        validator: Validator,
    ) -> None:
        self._admission = admission
        self._calls = calls
        self._drafts = drafts
        self._submissions = submissions
        self._reader = reader
        self._resources = resources
        self._slots = slots
        self._validator = validator
        self._shown = Disclosures(resources)
        self._lists = JobLists(reader, self._shown)
        self._selections = Selections(reader)

    async def Submit(self, request: SubmitRequest, context: Any) -> SubmitResponse:  # noqa: ARG002, N802
        """Submits one call; waits for its result only if the call prefers to."""
        self._check(request)
        call = incoming.current()
        draft = self._drafts.of_spec(request.job, call, path="job", key=call.metadata.idempotency_key)
        wait = call.metadata.wait or timedelta(0)
        waits = wait > timedelta(0)
        with self._admission.enter(call.tenant, draft.method, waits=waits) or await self._calls.turn(
            call, draft.method, waits=waits, size=request.ByteSize()
        ):
            operation, joined = await self._calls.operation_of(draft, call, wait)
        return SubmitResponse(operation=operation, joined=joined)

    async def BatchSubmit(  # noqa: N802
        self,
        request: BatchSubmitRequest,
        context: Any,  # noqa: ARG002
    ) -> BatchSubmitResponse:
        """Submits many calls in one transaction, all or none. What their specs leave open, the metadata says."""
        self._check(request)
        call = incoming.current()
        if call.metadata.idempotency_key is not None:
            raise RowcallError(
                ErrorReason.ERROR_REASON_INVALID_METADATA,
                f"The metadata {IDEMPOTENCY_KEY} cannot be the key of many jobs; give each its own request_id.",
                metadata={"key": IDEMPOTENCY_KEY},
            )
        drafts = self._drafts.of_specs(request.jobs, call)
        call.repeatable = keyed(drafts)
        if call.metadata.previous_attempts and not call.repeatable:
            raise key_required()
        admitted = await self._admission.turn_of_batch(
            call.tenant, (draft.method for draft in drafts), size=request.ByteSize(), remaining=call.remaining()
        )
        with admitted, self._slots.take():
            submitted = await self._submit_in_time(call, drafts)
            reused = [index for index, each in enumerate(submitted) if each.outcome is SubmitOutcome.KEY_REUSED]
            if reused:
                raise _keys_reused(reused, operation_name(call.tenant, submitted[reused[0]].job_id))
            for draft, each in zip(drafts, submitted, strict=True):
                if each.outcome is SubmitOutcome.NOT_ADMITTED:
                    raise self._admission.over_backlog(call.tenant, draft.method)
            # Of those that were just written everything is known; those that were there already may have ended.
            there = [(call.tenant, each.job_id) for each in submitted if each.outcome is not SubmitOutcome.CREATED]
            link = await self._reader.link(call) if there else None
            rows = {} if link is None else await link.store.read(there, response=True)
        response = BatchSubmitResponse()
        for draft, each in zip(drafts, submitted, strict=True):
            name = operation_name(call.tenant, each.job_id)
            if each.outcome is SubmitOutcome.CREATED:
                made = self._resources.operation_submitted(draft.method, name, each, call.trace.trace_id)
                response.results.add(operation=made)
                continue
            row = rows.get((call.tenant, each.job_id))
            if row is None:
                raise operation_deleted(name)
            response.results.add(operation=self._resources.operation(row, call.principal), joined=True)
        return response

    async def GetJob(self, request: GetJobRequest, context: Any) -> GetJobResponse:  # noqa: ARG002, N802
        """One job; with request and response only in the full view."""
        self._check(request)
        call = incoming.current()
        place = await self._reader.place(call, request.name)
        full = request.view == JobView.JOB_VIEW_FULL
        row = await place.row(request=full, response=full)
        waits = await place.waits() if row.state in PENDING else ()
        return GetJobResponse(job=await self._shown.job(call, place.link, row, waits))

    async def ListJobs(self, request: ListJobsRequest, context: Any) -> ListJobsResponse:  # noqa: ARG002, N802
        """A page of the caller's jobs, newest first."""
        self._check(request)
        return await self._lists.page(incoming.current(), request)

    async def CancelJob(self, request: CancelJobRequest, context: Any) -> CancelJobResponse:  # noqa: ARG002, N802
        """Cancels a job that waits, marks one that runs; the job after it."""
        self._check(request)
        call = incoming.current()
        place = await self._reader.place(call, request.name)
        await place.cancel(call.act)
        return CancelJobResponse(job=await self._shown.job(call, place.link, await place.row()))

    async def RetryJob(self, request: RetryJobRequest, context: Any) -> RetryJobResponse:  # noqa: ARG002, N802
        """Makes a failed job READY again; the job after it."""
        self._check(request)
        call = incoming.current()
        place = await self._reader.place(call, request.name)
        row = await do_to(place, Retry(call.act))
        return RetryJobResponse(job=await self._shown.job(call, place.link, row))

    async def ResolveJob(self, request: ResolveJobRequest, context: Any) -> ResolveJobResponse:  # noqa: ARG002, N802
        """Marks a failed job as handled; the job after it."""
        self._check(request)
        call = incoming.current()
        action = _resolve(call, request.note)
        place = await self._reader.place(call, request.name)
        return ResolveJobResponse(job=await self._shown.job(call, place.link, await do_to(place, action)))

    async def BatchCancelJobs(  # noqa: N802
        self,
        request: BatchCancelJobsRequest,
        context: Any,  # noqa: ARG002
    ) -> BatchCancelJobsResponse:
        """Cancels many jobs; what became of them."""
        self._check(request)
        call = incoming.current()
        result = await self._selections.run(call, request.selection, Cancel(call.act))
        return BatchCancelJobsResponse(result=result)

    async def BatchRetryJobs(  # noqa: N802
        self,
        request: BatchRetryJobsRequest,
        context: Any,  # noqa: ARG002
    ) -> BatchRetryJobsResponse:
        """Makes many failed jobs READY again; what became of them."""
        self._check(request)
        call = incoming.current()
        result = await self._selections.run(call, request.selection, Retry(call.act))
        return BatchRetryJobsResponse(result=result)

    async def BatchResolveJobs(  # noqa: N802
        self,
        request: BatchResolveJobsRequest,
        context: Any,  # noqa: ARG002
    ) -> BatchResolveJobsResponse:
        """Marks many failed jobs as handled; what became of them."""
        self._check(request)
        call = incoming.current()
        result = await self._selections.run(call, request.selection, _resolve(call, request.note))
        return BatchResolveJobsResponse(result=result)

    async def ListFailureGroups(  # noqa: N802
        self,
        request: ListFailureGroupsRequest,
        context: Any,  # noqa: ARG002
    ) -> ListFailureGroupsResponse:
        """The caller's dead letters, counted by what they died of."""
        self._check(request)
        return await self._lists.failure_groups(incoming.current(), request)

    async def _submit_in_time(self, call: IncomingCall, drafts: Sequence[Draft]) -> list[Submitted]:
        """Submits all or none; what is not confirmed when the call's time is up is on its way all the same."""
        remaining = call.remaining()
        timer = asyncio.timeout(None if remaining is None else remaining - margin(remaining))
        try:
            async with timer:
                return await self._submissions.submit_atomic(call, drafts)
        except TimeoutError:
            if not timer.expired():
                raise
            raise commit_unknown(None) from None

    def _check(self, request: Message) -> None:
        self._validator.check(request)


def _resolve(call: IncomingCall, note: str) -> Resolve:
    check_text(note, "note")
    return Resolve(by=call.principal.actor, note=note or None, act=call.act)


def _keys_reused(indexes: list[int], first: str) -> RowcallError:
    return RowcallError(
        ErrorReason.ERROR_REASON_IDEMPOTENCY_KEY_REUSED,
        f"{len(indexes)} request_ids name jobs with another request, the first of them jobs[{indexes[0]}]; nothing was "
        "submitted. Use new ids for new calls.",
        metadata={"operation": first},
        details=[
            BadRequest(
                field_violations=[
                    BadRequest.FieldViolation(
                        field=f"jobs[{index}].request_id", description="names a job with another request"
                    )
                    for index in indexes
                ]
            )
        ],
    )
