"""The Statuses of jobs that the queue itself ends: cancelled, or lost with their workers.

The queue's statements write them into rows. They are the same for every job, because one statement ends many; what is
the job's own (operation, attempt, trace id) is filled in by `addressed` when the error is delivered.
"""

from __future__ import annotations

from functools import cache
from uuid import UUID

from google.rpc.status_pb2 import Status

from rowcall.errors import Origin, RowcallError, completed, envelope
from rowcall.names import operation_name
from rowcall.v1.error_reason_pb2 import ErrorReason

_UNSET = ""


@cache
def cancelled() -> bytes:
    """The Status of a job that somebody cancelled, serialised. Its message and code are in the SQL too, for people."""
    return _of(ErrorReason.ERROR_REASON_JOB_CANCELLED, "The job was cancelled.")


@cache
def worker_lost() -> bytes:
    """The Status of a job whose workers died each time, serialised."""
    return _of(ErrorReason.ERROR_REASON_WORKER_LOST, "Workers died each time they ran the job.")


@cache
def timed_out() -> bytes:
    """The Status of an attempt that its worker did not end in time, serialised."""
    return _of(ErrorReason.ERROR_REASON_ATTEMPT_TIMEOUT, "The attempt ran longer than the method's timeout.")


@cache
def deadline_over() -> bytes:
    """The Status of a job whose own deadline is over, serialised."""
    return _of(ErrorReason.ERROR_REASON_JOB_DEADLINE_EXCEEDED, "The job's deadline is over.")


def addressed(error: bytes, *, tenant: str, job_id: UUID, attempt: int, trace_id: str) -> Status:
    """A finished job's error as its caller gets it: with the operation's name, the attempt and the trace id.

    What the row's error says itself stays as it is.

    Raises google.protobuf.message.DecodeError if it is no Status.
    """
    status = Status.FromString(error)
    completed(status, operation=operation_name(tenant, job_id), attempt=attempt, trace_id=trace_id)
    return status


def _of(reason: ErrorReason.ValueType, message: str) -> bytes:
    return envelope(RowcallError(reason, message), origin=Origin.JOB, trace_id=_UNSET).SerializeToString(
        deterministic=True
    )
