"""What a call ends with when it has no answer: the job's own status, and the refusals that several modules share."""

from __future__ import annotations

import secrets
from datetime import timedelta
from typing import Final

from google.rpc.status_pb2 import Status

from rowcall.errors import RowcallError
from rowcall.sharding.faults import shard_unavailable
from rowcall.v1.error_reason_pb2 import ErrorReason
from rowcall.v1.job_pb2 import JobState

_LIVE: Final = "Wait until it has ended, or cancel it."
_INSTEAD: Final = {
    JobState.JOB_STATE_SCHEDULED: _LIVE,
    JobState.JOB_STATE_READY: _LIVE,
    JobState.JOB_STATE_RUNNING: _LIVE,
    JobState.JOB_STATE_WAITING: _LIVE,
    JobState.JOB_STATE_SUCCEEDED: "To run it again, submit it as a new call.",
    JobState.JOB_STATE_CANCELLED: "To run it after all, submit it as a new call.",
    JobState.JOB_STATE_RESOLVED: "It was marked as handled before; to run it again, submit it as a new call.",
}
"""What can be done about a job that has not failed."""


class JobFailure(Exception):
    """The job of a call failed or was cancelled; its status is the call's, code, message and details as stored."""

    status: Status
    """As it stands in the row."""

    def __init__(self, status: Status) -> None:
        super().__init__(status.message)
        self.status = status


def not_found(name: str) -> RowcallError:
    """No such operation in the caller's tenant: said of unknown names and of other tenants' alike."""
    return RowcallError(
        ErrorReason.ERROR_REASON_JOB_NOT_FOUND,
        "There is no such operation in this tenant, or its retention is over.",
        metadata={"operation": name},
    )


def not_known(kind: str, name: str) -> RowcallError:
    """No such queue, method, worker or incident on any shard, or no such tenant, chain or action on the caller's: said of other tenants too.

    Args:
        kind: "queue", "method", "worker", "tenant", "incident", "database", "chain" or "action".
        name: Its name, as the caller wrote it.
    """
    message = {
        "queue": "No shard knows this queue. Queues are known as soon as a gateway that serves a method of theirs has started.",
        "method": "No shard knows this method. It is written package.Service/Method, and known as soon as a gateway that "
        "serves it has started.",
        "worker": "No worker of this name lives: a process has a new one at each start. rowcall workers list shows those that there are.",
        "tenant": "This is not the caller's tenant, or it has not submitted anything yet.",
        "incident": "No shard has met this incident, or it was not met for 90 days. rowcall errors list shows those that there are.",
        "database": "The chain has no part in a database of this name: it is a shard's, or catalogue.",
        "chain": "There is no such chain yet: its tenant has not submitted anything.",
        "action": "Nothing of this tenant's belongs to this trace, or the retention of all of it is over.",
    }[kind]
    return RowcallError(ErrorReason.ERROR_REASON_NOT_KNOWN, message, metadata={"name": name})


def job_not_failed(name: str, state: JobState.ValueType) -> RowcallError:
    """Only a failed job can be replayed or resolved."""
    word = JobState.Name(state).removeprefix("JOB_STATE_")
    return RowcallError(
        ErrorReason.ERROR_REASON_JOB_NOT_FAILED,
        f"The job is {word}; only a FAILED one can be replayed or resolved. {_INSTEAD[state]}",
        metadata={"operation": name, "state": word},
    )


def job_finished(name: str, state: JobState.ValueType) -> RowcallError:
    """Nothing is left to cancel."""
    word = JobState.Name(state).removeprefix("JOB_STATE_")
    return RowcallError(
        ErrorReason.ERROR_REASON_JOB_FINISHED,
        f"The job is {word}: it is finished, and nothing is left to cancel.",
        metadata={"operation": name, "state": word},
    )


def job_changed(name: str) -> RowcallError:
    """The job became what it had to be only after it was asked for."""
    return RowcallError(
        ErrorReason.ERROR_REASON_CONFLICT,
        "The job changed its state just then; nothing was done to it. Call again.",
        metadata={"operation": name},
    )


def operation_deleted(name: str) -> RowcallError:
    """The key still stands, but its job is gone."""
    return RowcallError(
        ErrorReason.ERROR_REASON_OPERATION_DELETED,
        "The idempotency-key names a job whose operation was deleted or is past its retention; "
        "use a new key for a new call.",
        metadata={"operation": name},
    )


def key_reused(name: str) -> RowcallError:
    """The key names a job with another request."""
    return RowcallError(
        ErrorReason.ERROR_REASON_IDEMPOTENCY_KEY_REUSED,
        "The idempotency-key names a job with another request; use a new key for a new call.",
        metadata={"operation": name},
    )


def still_running(*, keyed: bool) -> RowcallError:
    """The call's time is up, the job goes on.

    Args:
        keyed: Whether the call has an idempotency-key, so that calling again joins the job.
    """
    if keyed:
        advice = "call again with the same idempotency-key, or await the operation."
    else:
        advice = "await the operation. Calling again would submit another job; with an idempotency-key it would join this one."
    return RowcallError(ErrorReason.ERROR_REASON_STILL_RUNNING, f"The call's time is up and the job goes on: {advice}")


def draining(leaving_in: float = 0.0) -> RowcallError:
    """The gateway is being stopped.

    Args:
        leaving_in: Seconds until the gateway lets go of its clients' connections: a repetition before then would come
            back to it.
    """
    # Away from each other: all of a gateway's callers are told within one grace. And not just then, when it lets go: what comes
    # before its clients have heard of that, gRPC's core ends as CANCELLED, without a word, and no client repeats it.
    spread = timedelta(milliseconds=100 + secrets.randbelow(200))
    return RowcallError(
        ErrorReason.ERROR_REASON_GATEWAY_DRAINING,
        "This gateway is being stopped; call again, it will be answered by another. A job that was written goes on.",
        retry_after=timedelta(seconds=max(leaving_in, 0)) + spread,
    )


def too_late(seconds: float, *, repeatable: bool) -> RowcallError:
    """The gateway has more calls than it can answer in time; nothing was submitted.

    Args:
        seconds: When it is worth calling again.
        repeatable: Whether gRPC's own retries may repeat the call.
    """
    return RowcallError(
        ErrorReason.ERROR_REASON_NOT_ADMITTED,
        "Not let in: the gateway has more calls than it can answer in time, and this one would have been answered too late. Nothing was "
        "submitted; call again after RetryInfo's delay.",
        metadata={"bound": "gateway", "measure": "time"},
        retry_after=timedelta(seconds=seconds),
        no_retry=not repeatable,
    )


def too_many_waiters(limit: int) -> RowcallError:
    """As many calls wait as may."""
    return RowcallError(
        ErrorReason.ERROR_REASON_TOO_MANY_WAITERS,
        f"{limit} calls wait at this gateway, as many as it takes. Nothing was submitted; call again later.",
        metadata={"limit": str(limit)},
        retry_after=timedelta(milliseconds=1000 + secrets.randbelow(1000)),
    )


def too_large(size: int, limit: int, what: str = "The request") -> RowcallError:
    """A request above the bound."""
    return RowcallError(
        ErrorReason.ERROR_REASON_REQUEST_TOO_LARGE,
        f"{what} has {size} bytes; the gateway takes {limit}. Pass large data by reference.",
        metadata={"limit_bytes": str(limit), "size_bytes": str(size)},
        # It has the code of what may be repeated, and would be as large again.
        no_retry=True,
    )


def deadline_too_short() -> RowcallError:
    """The deadline was over first."""
    return RowcallError(
        ErrorReason.ERROR_REASON_DEADLINE_TOO_SHORT,
        "The call's deadline was over before its row could be written; nothing was submitted. Give it more time.",
    )


def shard_silent(shard: str, waited: float) -> RowcallError:
    """The deadline was over first, and long enough for a shard that answers.

    Args:
        shard: Its name.
        waited: Seconds that the call gave it.
    """
    return shard_unavailable(shard, f"did not answer in time ({waited:.1f} s); nothing was submitted")


def commit_unknown(name: str | None) -> RowcallError:
    """The deadline was over while the row was being committed.

    Args:
        name: The operation to ask for; None where an idempotency-key is the way to ask.
    """
    return RowcallError(
        ErrorReason.ERROR_REASON_COMMIT_UNKNOWN,
        "The call's time was up while its row was being committed. With an idempotency-key call again with it; "
        "without one ask for the operation, and call again only if it is not found.",
        metadata={} if name is None else {"operation": name},
    )


def key_required() -> RowcallError:
    """GRPC repeats a call that it cannot repeat safely."""
    return RowcallError(
        ErrorReason.ERROR_REASON_IDEMPOTENCY_KEY_REQUIRED,
        "gRPC repeated this call, which has no idempotency-key: doing it might do it twice, so this attempt did nothing; "
        "give calls that are retried a key.",
    )


def internal() -> RowcallError:
    """A fault of ours, of which the caller is told no more than where to look."""
    return RowcallError(
        ErrorReason.ERROR_REASON_INTERNAL,
        "The gateway failed at this call; its log has the cause under the trace id.",
    )


def rebuilt(error: RowcallError, *, no_retry: bool | None = None, unnamed: bool = False) -> RowcallError:
    """The same error for one call of several that share it, or with what only the call knows.

    Args:
        error: Stays as it is; it becomes the new one's cause where that is raised from it.
        no_retry: Whether gRPC's own retries must not repeat the call; None: as it was.
        unnamed: Leaves the operation out, where it is not known to be the call's.
    """
    metadata = dict(error.metadata)
    if unnamed:
        metadata.pop("operation", None)
    return RowcallError(
        error.reason,
        error.message,
        metadata=metadata,
        details=error.details,
        retry_after=error.retry_after,
        code=error.code,
        no_retry=error.no_retry if no_retry is None else no_retry,
    )
