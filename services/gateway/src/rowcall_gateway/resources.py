"""Rows as callers see them: google.longrunning.Operation and rowcall.v1.Job. Nothing here asks a database.

This is the one place where a job's payloads are put into an answer, and where it is asked whether the caller may see them. Of an
error the details that a handler gave are payload, too. What a method's own call is answered with (`response_bytes`) is no
question: whoever calls was let in to call just that.

What stock clients need of an operation: a stable name; once it is done exactly one of response and error; types under
type.googleapis.com; metadata always set; cancelled is error code 1.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

from google.longrunning.operations_pb2 import Operation
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from google.protobuf.wrappers_pb2 import BytesValue
from google.rpc.error_details_pb2 import ErrorInfo, RequestInfo
from google.rpc.status_pb2 import Status

from rowcall.catalogue.model import JobMethod
from rowcall.errors import DOMAIN, is_ours, our_reason, read_envelope, reason_name, unpacked
from rowcall.names import operation_name
from rowcall.options.v1.job_pb2 import Priority
from rowcall.queue.model import AttemptRow, Held, JobRow, Outcome, Submitted
from rowcall.queue.model import Wait as WaitRow
from rowcall.queue.statuses import addressed
from rowcall.tracing import TraceContext
from rowcall.v1.error_reason_pb2 import ErrorReason
from rowcall.v1.job_pb2 import (
    Attempt,
    AttemptOutcome,
    Hold,
    Job,
    JobMetadata,
    JobState,
    Progress,
    Resolution,
    Wait,
    WaitReason,
    Withheld,
)
from rowcall_gateway.edge.access import Rights
from rowcall_gateway.edge.failures import JobFailure
from rowcall_gateway.edge.identity import Principal
from rowcall_gateway.edge.offered import Offered

TYPE_URL: Final = "type.googleapis.com/"

_METADATA_URL: Final = TYPE_URL + JobMetadata.DESCRIPTOR.full_name
# Looked up once: a value of protobuf's enumerations is found by its name.
_SCHEDULED: Final = JobState.JOB_STATE_SCHEDULED
_READY: Final = JobState.JOB_STATE_READY
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

_PAUSED: Final = (
    WaitReason.WAIT_REASON_QUEUE_PAUSED,
    WaitReason.WAIT_REASON_METHOD_PAUSED,
    WaitReason.WAIT_REASON_TENANT_PAUSED,
)
_HOLDS: Final = (
    (Held.PAUSED, Hold.HOLD_PAUSED),
    (Held.SUSPECT, Hold.HOLD_SUSPECT),
    (Held.LIMITED, Hold.HOLD_LIMITED),
)
_WAITS_FOR: Final = {
    WaitReason.WAIT_REASON_TIME: "It is not due yet.",
    WaitReason.WAIT_REASON_QUEUE_PAUSED: "Its queue is paused.",
    WaitReason.WAIT_REASON_METHOD_PAUSED: "Its method is paused.",
    WaitReason.WAIT_REASON_TENANT_PAUSED: "Its tenant is paused.",
    WaitReason.WAIT_REASON_METHOD_NOT_SERVED: "No worker serves its method.",
    WaitReason.WAIT_REASON_QUEUE_NOT_SERVED: "No worker that serves its method serves its queue.",
    WaitReason.WAIT_REASON_SUSPECT: "It is held as a suspect: its worker died while it ran.",
    WaitReason.WAIT_REASON_GROUP: "The other jobs of its group have not all ended.",
    WaitReason.WAIT_REASON_LIMIT: "As many jobs run already as its limit allows.",
    WaitReason.WAIT_REASON_TURN: "It waits for its turn and a worker's free slot.",
}

_WORKER_LOST: Final = reason_name(ErrorReason.ERROR_REASON_WORKER_LOST)
_ENDED_AS: Final = {
    JobState.JOB_STATE_SUCCEEDED: AttemptOutcome.ATTEMPT_OUTCOME_SUCCEEDED,
    JobState.JOB_STATE_FAILED: AttemptOutcome.ATTEMPT_OUTCOME_FAILED,
    JobState.JOB_STATE_CANCELLED: AttemptOutcome.ATTEMPT_OUTCOME_CANCELLED,
    JobState.JOB_STATE_RESOLVED: AttemptOutcome.ATTEMPT_OUTCOME_FAILED,
}


class Resources:
    """Makes operations and jobs of rows. The types of payloads are what the shard knows of the method: any gateway may be asked
    for any job, whatever images it has."""

    def __init__(self, offered: Offered, rights: Rights) -> None:
        self._offered = offered
        self._rights = rights

    def operation(self, row: JobRow, principal: Principal) -> Operation:
        """The operation of a job, as a caller may see it. The row was read with its response."""
        made = Operation(name=operation_name(row.tenant, row.job_id), done=row.done)
        made.metadata.Pack(_metadata(row))
        if row.done:
            sees = self._rights.sees_payloads(principal, row.method)
            if row.error is None:
                made.response.CopyFrom(_shown(self._response(row), sees=sees))
            else:
                made.error.CopyFrom(_error(row, row.error, sees=sees))
        return made

    def operation_submitted(self, method: JobMethod, name: str, submitted: Submitted, trace: str) -> Operation:
        """The operation of a job that was written just now: the same as of its row, without reading that.

        Args:
            method: Of the job.
            name: The operation's.
            submitted: The job is new.
            trace: The call's trace id.
        """
        metadata = JobMetadata(
            method=method.name,
            queue=method.policy.queue,
            state=_SCHEDULED if submitted.scheduled else _READY,
            create_time=timestamp(submitted.created_at),
            trace_id=trace,
        )
        return Operation(name=name, metadata=AnyMessage(type_url=_METADATA_URL, value=metadata.SerializeToString()))

    def job(self, row: JobRow, principal: Principal, waits: Iterable[WaitRow] = (), *, withheld: bool = False) -> Job:
        """The job as a caller may see it, with request and response where the row was read with them, and with what it waits for.
        Withheld: without payloads, whoever asks."""
        sees = not withheld and self._rights.sees_payloads(principal, row.method)
        made = Job(
            name=operation_name(row.tenant, row.job_id),
            method=row.method,
            queue=row.queue,
            state=JobState.ValueType(row.state),
            priority=Priority.ValueType(row.lane),
            attempt=row.attempt,
            max_attempts=row.max_attempts,
            create_time=timestamp(row.created_at),
            run_time=timestamp(row.run_at),
            start_time=timestamp(row.started_at),
            finish_time=timestamp(row.finished_at),
            actor=row.actor or "",
            request_id=row.request_id or "",
            trace_id=trace_id(row),
            labels=row.labels,
            cancel_requested=row.cancel_requested_at is not None,
            attempts=_attempts(row, sees=sees, located=self._rights.sees_locations(principal)),
            deadline=timestamp(row.deadline),
            progress=_progress(row),
            parent="" if row.parent_job_id is None else operation_name(row.tenant, row.parent_job_id),
            lost_attempts=row.lost,
            replays=row.replays,
            holds=[hold for held, hold in _HOLDS if row.held & held],
            error_fingerprint=row.error_fingerprint or "",
            resolution=_resolution(row),
            waits=map(wait_of, waits),
        )
        if row.error is not None:
            made.error.CopyFrom(_error(row, row.error, sees=sees))
        if row.request is not None:
            made.request.CopyFrom(_shown(self._request(row, row.request), sees=sees))
        if row.response is not None:
            made.response.CopyFrom(_shown(self._response(row), sees=sees))
        return made

    def discloses(self, row: JobRow, principal: Principal, *, calling: bool) -> bool:
        """Whether what `operation` or `job` makes of a row shows payload to somebody else than who submitted the job.

        Args:
            row: As it was read.
            principal: Who asks.
            calling: Whether it is asked as callers ask for what they called (operations): then whoever may call the method is one
                of them, and only others count.
        """
        if not _has_payload(row) or not self._rights.sees_payloads(principal, row.method):
            return False
        if calling and self._rights.calls(principal, row.method):
            return False
        return principal.actor != row.actor

    def _request(self, row: JobRow, data: bytes) -> AnyMessage:
        method = self._offered.catalogue.method(row.method)
        return _packed(row.request_type or (None if method is None else method.request_type), data)

    def _response(self, row: JobRow) -> AnyMessage:
        method = self._offered.catalogue.method(row.method)
        return _packed(row.response_type or (None if method is None else method.response_type), row.response or b"")


def response_bytes(outcome: Outcome, trace: str) -> bytes:
    """What a call of a typed method is answered with.

    Args:
        outcome: Of its job.
        trace: The job's trace id.

    Raises:
        JobFailure: The job failed or was cancelled.
    """
    if outcome.error is not None:
        raise JobFailure(
            addressed(
                outcome.error,
                tenant=outcome.tenant,
                job_id=outcome.job_id,
                attempt=outcome.attempt,
                trace_id=trace,
            )
        )
    return outcome.response or b""


def trace_id(row: JobRow) -> str:
    """The W3C trace id of the call; empty if the row has none."""
    trace = TraceContext.parse(row.traceparent)
    return "" if trace is None else trace.trace_id


def timestamp(time: datetime | None) -> Timestamp | None:
    """A time as protobuf has it."""
    if time is None:
        return None
    since = time - _EPOCH
    # As Timestamp.FromDatetime has it, in a tenth of the time.
    return Timestamp(seconds=since.days * 86_400 + since.seconds, nanos=since.microseconds * 1000)


def wait_of(row: WaitRow) -> Wait:
    """What a job waits for, in words."""
    reason = WaitReason.ValueType(row.reason)
    paused = reason in _PAUSED
    return Wait(
        reason=reason,
        description=_WAITS_FOR[reason],
        start_time=timestamp(row.started_at),
        actor=(row.who or "") if paused else "",
        note=row.note or "",
        worker="" if paused else row.who or "",
        ahead=row.ahead,
    )


def _packed(type_name: str | None, data: bytes) -> AnyMessage:
    if type_name is not None:
        return AnyMessage(type_url=TYPE_URL + type_name, value=data)
    # Nobody ever published the method: the bytes, as something that everybody can read.
    made = AnyMessage()
    made.Pack(BytesValue(value=data))
    return made


def _metadata(row: JobRow) -> JobMetadata:
    return JobMetadata(
        method=row.method,
        queue=row.queue,
        state=JobState.ValueType(row.state),
        attempt=row.attempt,
        create_time=timestamp(row.created_at),
        start_time=timestamp(row.started_at),
        finish_time=timestamp(row.finished_at),
        trace_id=trace_id(row),
        cancel_requested=row.cancel_requested_at is not None,
        progress=None if row.done else _progress(row),
    )


def _progress(row: JobRow) -> Progress | None:
    if row.progress_at is None:
        return None
    return Progress(fraction=row.progress, message=row.progress_message or "", update_time=timestamp(row.progress_at))


def _resolution(row: JobRow) -> Resolution | None:
    if row.resolved_at is None:
        return None
    return Resolution(actor=row.resolved_by or "", note=row.resolve_note or "", resolve_time=timestamp(row.resolved_at))


def _has_payload(row: JobRow) -> bool:
    """Whether a row was read with payload: what the caller asked, what the handler answered, or what it put into an error."""
    if row.request is not None or row.response is not None:
        return True
    errors = [row.error, *(each.error for each in row.attempts)]
    return any(
        not _is_ours(detail) for error in errors if error is not None for detail in Status.FromString(error).details
    )


def _shown(payload: AnyMessage, *, sees: bool) -> AnyMessage:
    """A payload, or what stands for one that the caller may not see."""
    if sees:
        return payload
    return _any(Withheld(type=payload.type_url.rpartition("/")[2], size_bytes=len(payload.value)))


def _any(message: Message) -> AnyMessage:
    made = AnyMessage()
    made.Pack(message)
    return made


def _error(row: JobRow, error: bytes, *, sees: bool) -> Status:
    status = addressed(error, tenant=row.tenant, job_id=row.job_id, attempt=row.attempt, trace_id=trace_id(row))
    return status if sees else _outlined(status)


def _outlined(status: Status) -> Status:
    """An error without what its handler put into details: code, message, and what Rowcall says of it in its own words."""
    made = Status(code=status.code, message=status.message)
    info = read_envelope(status)
    if info is not None:
        ours = ErrorInfo(reason=our_reason(info), domain=DOMAIN, metadata=info.metadata)
        made.details.append(_any(ours))
    made.details.extend(_shown(detail, sees=False) for detail in status.details if not _is_ours(detail))
    return made


def _is_ours(detail: AnyMessage) -> bool:
    """Whether a detail is one that Rowcall itself adds to every error: its ErrorInfo, where the handler gave none, and RequestInfo."""
    info, request = ErrorInfo(), RequestInfo()
    if unpacked(detail, info):
        return info.domain == DOMAIN
    return unpacked(detail, request) and is_ours(request)


def _attempts(row: JobRow, *, sees: bool, located: bool) -> Iterable[Attempt]:
    """Every attempt that ended: those in the row's list, and the last one, which its columns tell of."""
    made = [_attempt(each, sees=sees) for each in row.attempts]
    # A job that was cancelled while it waited has no worker: its last attempt is in the list already.
    if row.done and row.worker is not None:
        error = None if row.error is None else _error(row, row.error, sees=sees)
        made.append(
            Attempt(
                attempt=row.attempt,
                worker=row.worker,
                start_time=timestamp(row.started_at),
                end_time=timestamp(row.finished_at),
                outcome=_ended_as(_ENDED_AS[JobState.ValueType(row.state)], error),
                error=error,
                span_id=row.span_id or "",
                location=row.location or "",
                lease=row.lease,
                worker_version=row.worker_version or "",
            )
        )
    if not located:
        for attempt in made:
            attempt.ClearField("location")
    return made


def _ended_as(outcome: AttemptOutcome.ValueType, error: Status | None) -> AttemptOutcome.ValueType:
    """How an attempt ended: one whose loss was the job's failure was lost all the same."""
    info = None if error is None else read_envelope(error)
    return AttemptOutcome.ATTEMPT_OUTCOME_LOST if info is not None and our_reason(info) == _WORKER_LOST else outcome


def _attempt(row: AttemptRow, *, sees: bool) -> Attempt:
    error = None if row.error is None else Status.FromString(row.error)
    if error is not None and not sees:
        error = _outlined(error)
    return Attempt(
        attempt=row.attempt,
        worker=row.worker or "",
        start_time=timestamp(row.started_at),
        end_time=timestamp(row.ended_at),
        outcome=_ended_as(AttemptOutcome.ValueType(row.outcome), error),
        error=error,
        span_id=row.span_id or "",
        location=row.location or "",
        lease=row.lease or 0,
        worker_version=row.worker_version or "",
    )
