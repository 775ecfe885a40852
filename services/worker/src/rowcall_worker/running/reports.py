"""The log lines of attempts: failed, retried, hung. Called by `executor` and `settlements`.

A line carries trace, request id, tenant, job and attempt: `rowcall.logs` takes them from the call that is bound here.
"""

from __future__ import annotations

from datetime import timedelta

import structlog
from google.rpc.code_pb2 import Code

from rowcall.context import bind
from rowcall.errors import our_reason, read_envelope
from rowcall.queue.model import Settlement
from rowcall.v1.job_pb2 import JobState
from rowcall_worker.running.attempt import Attempt
from rowcall_worker.running.outcomes import Failure

_log = structlog.get_logger(__name__)


def failed(attempt: Attempt, settlement: Settlement, failure: Failure, error: BaseException | None) -> None:
    """Logs an attempt that did not succeed: as retried, cancelled or failed.

    Args:
        attempt: Which one.
        settlement: What becomes of its job.
        failure: What the caller is told.
        error: The exception, where one was not expected.
    """
    info = read_envelope(failure.status)
    fields: dict[str, object] = {
        "method": attempt.method.name,
        "limit": attempt.max_attempts,
        "code": Code.Name(Code.ValueType(failure.status.code)),
        "reason": our_reason(info) if info is not None else "",
    }
    if info is not None and "wrong" in info.metadata:
        fields["wrong"] = info.metadata["wrong"]
    if error is not None:
        fields["exc_info"] = error
    with bind(attempt.call):
        if settlement.state == JobState.JOB_STATE_SCHEDULED:
            delay = settlement.delay.total_seconds() if settlement.delay is not None else 0.0
            _log.warning("attempt failed, the job is tried again", **fields, delay_ms=round(delay * 1000))
        elif settlement.state == JobState.JOB_STATE_CANCELLED:
            _log.warning("job cancelled", **fields)
        else:
            _log.error("job failed", **fields)


def snoozed(attempt: Attempt, delay: timedelta) -> None:
    """Logs an attempt whose handler wants its job to run again later."""
    with bind(attempt.call):
        _log.info("job snoozed", method=attempt.method.name, delay_ms=delay // timedelta(milliseconds=1))


def hung(attempt: Attempt) -> None:
    """Logs a handler that goes on although its end was asked for."""
    with bind(attempt.call):
        _log.error(
            "handler goes on although it was told to end; its slot stays taken",
            method=attempt.method.name,
            cause="" if attempt.stop is None else attempt.stop.name,
        )


def callback_failed(attempt: Attempt, error: BaseException) -> None:
    """Logs a done callback that raised."""
    with bind(attempt.call):
        _log.error("a callback of the handler's raised", method=attempt.method.name, exc_info=error)


def outcome_failed(attempt: Attempt, error: BaseException) -> None:
    """Logs an outcome that could not be made: a fault of the worker's."""
    with bind(attempt.call):
        _log.error("the outcome of an attempt cannot be told", method=attempt.method.name, exc_info=error)
