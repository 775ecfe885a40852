"""What an attempt came to: result, retry, cancel or fail, as the settlement to be written.

Called by `rowcall_worker.running.executor` when a handler has returned or raised. Which errors are tried again:

- the statuses of a handler's own that its method's policy names, by default gRPC's transient codes: UNAVAILABLE,
  RESOURCE_EXHAUSTED, ABORTED, DEADLINE_EXCEEDED; and errors of the worker's own with one of these;
- an exception that the handler did not turn into a status, and an attempt that ran out of time;
- each up to the policy's max_attempts, after a random part of an exponentially growing wait (full jitter: Brooker,
  "Exponential Backoff And Jitter", AWS Architecture Blog, 2015). A RetryInfo of the handler's is the least wait.

Every other status is the handler's considered answer: the job fails at once.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final, NamedTuple

import grpc
from google.longrunning.operations_pb2 import Operation
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError, EncodeError, Message
from google.rpc.code_pb2 import Code
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status

from rowcall.errors import (
    DETAILS_KEY,
    MAX_KEPT_BYTES,
    Origin,
    RowcallError,
    envelope,
    fitted,
    handler_status,
    readable,
    unpacked,
)
from rowcall.queue.model import PolicyRow, Settlement
from rowcall.v1.error_reason_pb2 import ErrorReason
from rowcall.v1.job_pb2 import JobState
from rowcall_worker.serving.attempt import AttemptState
from rowcall_worker.serving.handlers import ServedMethod
from rowcall_worker.serving.operations import packed_type
from rowcall_worker.serving.outcome_values import Fail, OutcomeValue, Retry, Snooze

TRANSIENT: Final = frozenset({Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED, Code.ABORTED, Code.DEADLINE_EXCEEDED})
"""The codes of google.rpc that say: the same again may well succeed."""

_MAX_DELAY: Final = timedelta(days=1)
"""The longest wait that a handler's RetryInfo may ask for."""

_SHOWN: Final = 40
"""Characters of what was given for a code that are told: a name fits, a message need not."""


@dataclass(frozen=True, slots=True)
class Failure:
    """An attempt that did not succeed."""

    status: Status
    """The envelope, for row and caller."""
    retry: bool | None
    """Whether it may be tried again; None: the method's policy says so by the status's code."""
    at_least: timedelta = timedelta(0)
    """How long to wait at least."""
    delay: timedelta | None = None
    """How long to wait, where the handler said so."""


def encode_result(method: ServedMethod, result: object, *, max_bytes: int) -> bytes | Status:
    """The bytes of what a handler returned; or the Status of a finished operation that holds an error.

    Raises:
        RowcallError: RESPONSE_TYPE_MISMATCH or RESPONSE_TOO_LARGE.
    """
    if method.returns_operation:
        if not isinstance(result, Operation):
            raise _mismatch(method, "google.longrunning.Operation", _type_name(result))
        if not result.done:
            raise _mismatch(method, "a finished google.longrunning.Operation", "an unfinished one")
        if result.HasField("error"):
            return result.error
        actual = packed_type(result)
        if actual != method.response_type:
            raise _mismatch(method, method.response_type, actual or "no response")
        encoded = result.response.value
    else:
        # Protobuf would serialise a message of another type without a word.
        if not isinstance(result, Message) or result.DESCRIPTOR.full_name != method.response_type:
            raise _mismatch(method, method.response_type, _type_name(result))
        encoded = method.encode(result)
    if len(encoded) > max_bytes:
        raise RowcallError(
            ErrorReason.ERROR_REASON_RESPONSE_TOO_LARGE,
            f"The response of {method.name} has {len(encoded)} bytes and may have {max_bytes}. Return a reference to "
            "what is large, or raise the worker's limit.",
            metadata={"limit_bytes": str(max_bytes), "size_bytes": str(len(encoded))},
        )
    return encoded


class Said(NamedTuple):
    """A status that the handler gave by abort or set_code."""

    status: Status
    """With the details of the trailing metadata."""
    wrong: str
    """What in it makes no sense; empty if all does."""


def said_status(state: AttemptState) -> Said | None:
    """The status that the handler gave by abort or set_code; None if it gave none."""
    code: object = state.code
    if code is None:
        return None
    wrong = [state.wrong] if state.wrong else []
    number = _number(code)
    if number == Code.OK:
        return None
    if number is None:
        wrong.append(f"the code {_shown(code)} is no grpc.StatusCode")
        number = int(Code.UNKNOWN)
    status = Status(code=number, message=_text(state.details))
    for key, value in state.trailing_metadata:
        if key == DETAILS_KEY and isinstance(value, bytes):
            try:
                status.details.extend(Status.FromString(value).details)
            except DecodeError:
                wrong.append(f"the trailer {DETAILS_KEY} is no google.rpc.Status")
                continue
            break
    return Said(status, "; ".join(wrong))


def failure(state: AttemptState, error: BaseException | Status, *, wrong: str = "") -> Failure:
    """The failure that an exception, or a status the handler gave, comes to.

    Args:
        state: The attempt.
        error: What the handler raised or gave.
        wrong: What in the status makes no sense, beyond what can be seen of it.
    """
    if isinstance(error, Status):
        status = handler_status(
            error,
            operation=state.call.operation or "",
            attempt=state.job.attempt,
            trace_id=state.call.trace.trace_id,
            request_id=state.job.request_id,
            wrong=wrong,
        )
        return Failure(status, None, _asked_delay(error.details))
    if isinstance(error, RowcallError):
        status = _envelope(state, error)
        return Failure(status, status.code in TRANSIENT, error.retry_after or timedelta(0))
    # Its text may hold what no error may: payloads, SQL, credentials.
    kind = type(error).__name__
    return Failure(
        _envelope(
            state,
            RowcallError(
                ErrorReason.ERROR_REASON_HANDLER_EXCEPTION,
                f"The handler raised {kind}. The worker's log has where, under the trace id.",
                metadata={"exception": kind},
            ),
        ),
        retry=True,
    )


def said_value(state: AttemptState, value: OutcomeValue) -> Failure | timedelta:
    """What the handler's outcome value comes to; for a Snooze, how long."""
    if isinstance(value, Snooze):
        return value.delay
    if isinstance(value, Retry):
        status = Status(code=Code.UNAVAILABLE, message=_text(str(value)))
        return replace(failure(state, status), retry=True, delay=value.delay)
    if isinstance(value, Fail):
        status, wrong = Status(code=value.code.value[0], message=_text(value.message)), ""
        for detail in value.details:
            packed = AnyMessage()
            try:
                packed.Pack(detail)
            except EncodeError:
                wrong = f"a detail of Fail, a {detail.DESCRIPTOR.full_name}, lacks fields that it requires"
            else:
                status.details.append(packed)
        return replace(failure(state, status, wrong=wrong), retry=False)
    status = Status(code=Code.CANCELLED, message=_text(str(value)))
    return replace(failure(state, status), retry=False)


def snoozed(state: AttemptState, delay: timedelta) -> Settlement:
    """The settlement of an attempt that is given back, for the job to run again after a while."""
    return Settlement(
        state.job.tenant,
        state.job.job_id,
        state.job.lease,
        JobState.JOB_STATE_SCHEDULED,
        delay=delay,
        snoozed=True,
        span_id=state.span_id,
    )


def timed_out(state: AttemptState, timeout: timedelta) -> Failure:
    """The failure of an attempt that ran longer than its method's timeout."""
    return Failure(
        _envelope(
            state,
            RowcallError(
                ErrorReason.ERROR_REASON_ATTEMPT_TIMEOUT,
                f"Attempt {state.job.attempt} ran longer than the method's timeout of {timeout.total_seconds():g} s.",
            ),
        ),
        retry=True,
    )


def cancelled(state: AttemptState) -> Failure:
    """The failure of an attempt that was ended because somebody cancelled its job."""
    error = RowcallError(ErrorReason.ERROR_REASON_JOB_CANCELLED, "The job was cancelled.")
    return Failure(_envelope(state, error), retry=False)


def deadline_over(state: AttemptState) -> Failure:
    """The failure of an attempt during which the whole job's deadline ended."""
    error = RowcallError(
        ErrorReason.ERROR_REASON_JOB_DEADLINE_EXCEEDED,
        f"The job's deadline ended while attempt {state.job.attempt} was running.",
    )
    return Failure(_envelope(state, error), retry=False)


def undecodable(method: ServedMethod) -> RowcallError:
    """The error of a job whose request is no message of its method's type."""
    return RowcallError(
        ErrorReason.ERROR_REASON_UNDECODABLE_REQUEST,
        f"The row's request cannot be read as a request of {method.name}.",
        metadata={"type": method.request_type},
    )


def unwritable(state: AttemptState) -> Settlement:
    """The settlement of an attempt whose own outcome the shard refused to keep."""
    failed = Failure(
        _envelope(
            state,
            RowcallError(
                ErrorReason.ERROR_REASON_INTERNAL,
                "The outcome of the job could not be written. The worker's log has why, under the trace id.",
            ),
            Origin.WORKER,
        ),
        retry=False,
    )
    return _settlement(state, failed, JobState.JOB_STATE_FAILED)


def is_retried(policy: PolicyRow, failed: Failure) -> bool:
    """Whether a failure is one that is tried again, while attempts are left."""
    return failed.status.code in policy.retry_codes if failed.retry is None else failed.retry


def settlement(state: AttemptState, policy: PolicyRow, failed: Failure) -> Settlement:
    """The settlement of a failure: again after a wait while attempts are left, else the job's end."""
    if is_retried(policy, failed) and state.job.attempt < policy.max_attempts:
        delay = failed.delay
        if delay is None:
            delay = max(backoff(policy, state.job.attempt), min(failed.at_least, _MAX_DELAY))
        return _settlement(state, failed, JobState.JOB_STATE_SCHEDULED, delay)
    if failed.status.code == Code.CANCELLED:
        return _settlement(state, failed, JobState.JOB_STATE_CANCELLED)
    return _settlement(state, failed, JobState.JOB_STATE_FAILED)


def backoff(policy: PolicyRow, attempt: int) -> timedelta:
    """How long to wait after this attempt: a random part of min(maximum, initial * multiplier^(attempt - 1))."""
    try:
        bound = policy.backoff_initial * policy.backoff_multiplier ** (attempt - 1)
    except OverflowError:
        bound = policy.backoff_maximum
    return min(bound, policy.backoff_maximum) * random.random()  # noqa: S311  spreads retries, guards nothing


def _settlement(
    state: AttemptState, failed: Failure, final: JobState.ValueType, delay: timedelta | None = None
) -> Settlement:
    status = fitted(failed.status, MAX_KEPT_BYTES)
    return Settlement(
        tenant=state.job.tenant,
        job_id=state.job.job_id,
        lease=state.job.lease,
        state=final,
        error=status.SerializeToString(),
        error_code=status.code,
        error_message=status.message,
        delay=delay,
        span_id=state.span_id,
    )


def _envelope(state: AttemptState, error: RowcallError, origin: Origin = Origin.JOB) -> Status:
    return envelope(
        error,
        origin=origin,
        trace_id=state.call.trace.trace_id,
        request_id=state.job.request_id,
        operation=state.call.operation,
        attempt=state.job.attempt,
    )


def _mismatch(method: ServedMethod, expected: str, actual: str) -> RowcallError:
    return RowcallError(
        ErrorReason.ERROR_REASON_RESPONSE_TYPE_MISMATCH,
        f"The handler of {method.name} must answer with {expected} and answered with {actual}.",
        metadata={"expected": expected, "actual": actual},
    )


def _type_name(value: object) -> str:
    return value.DESCRIPTOR.full_name if isinstance(value, Message) else type(value).__name__


def _asked_delay(details: Iterable[AnyMessage]) -> timedelta:
    info = RetryInfo()
    for detail in details:
        if unpacked(detail, info):
            # By hand: a Duration may say more than a timedelta can.
            return timedelta(seconds=max(0, min(info.retry_delay.seconds, _MAX_DELAY.total_seconds()))) + timedelta(
                microseconds=info.retry_delay.nanos // 1000
            )
    return timedelta(0)


def _number(code: object) -> int | None:
    """A code's number (gRPC takes plain ones too); None for what is no code."""
    number = code.value[0] if isinstance(code, grpc.StatusCode) else code
    return number if isinstance(number, int) and 0 <= number <= Code.UNAUTHENTICATED else None


def _shown(code: object) -> str:
    """What was given as a code, for its author: as it was written where that is short, else its type."""
    return repr(code) if isinstance(code, (str, int)) and len(str(code)) <= _SHOWN else f"of type {type(code).__name__}"


def _text(details: object) -> str:
    """A message as a row can keep it, whatever the handler gave."""
    try:
        return "" if details is None else readable(details)
    except Exception:  # noqa: BLE001  what is no text may raise anything when it is made one
        return f"<{type(details).__name__}>"
