"""The settlement of an attempt that did not simply succeed, with its log line.

Called by `rowcall_worker.running.executor` when a handler has raised or was ended, and by `rowcall_worker.settling` when what it
wanted could not be written. What is written of a failure is `outcomes`', what the log says is `reports`'.
"""

from __future__ import annotations

import psycopg

from rowcall.queue.faults import ChildRefusedError, TransactionFault, too_long
from rowcall.queue.model import Settlement
from rowcall_worker.running import outcomes, reports
from rowcall_worker.running.attempt import Attempt, Stop
from rowcall_worker.running.locations import raised_at
from rowcall_worker.serving.children import refusal
from rowcall_worker.serving.outcome_values import OutcomeValue


def raised(attempt: Attempt, error: BaseException) -> Settlement:
    """The settlement of an attempt whose handler raised: something unexpected, or what it wants to come of its job."""
    location = raised_at(attempt.method.behaviour, error)
    if not isinstance(error, OutcomeValue):
        return failed(attempt, outcomes.failure(attempt, error), error, location=location)
    try:
        came_to = outcomes.said_value(attempt, error)
    except Exception as fault:  # noqa: BLE001  a class of the handler's own need not hold what ours do
        return failed(attempt, outcomes.failure(attempt, fault), fault, location=location)
    if isinstance(came_to, outcomes.Failure):
        return failed(attempt, came_to, location=location)
    if attempt.stop is Stop.CANCELLED:
        return stopped(attempt)
    reports.snoozed(attempt, came_to)
    return outcomes.snoozed(attempt, came_to)


def refused(attempt: Attempt, error: Exception) -> Settlement:
    """The settlement of an attempt whose handler succeeded, but not its job's transaction or children."""
    if isinstance(error, ChildRefusedError):
        error = refusal(error, attempt.children)
    return failed(attempt, outcomes.failure(attempt, error), error)


def with_transaction(error: BaseException | None, fault: TransactionFault | None) -> BaseException | None:
    """What an attempt failed of: its handler's error, unless that comes of the transaction's, or makes no difference."""
    if fault is None or not (error is None or isinstance(error, psycopg.Error) or fault.stands):
        return error
    return fault


def stopped(attempt: Attempt) -> Settlement:
    """The settlement of an attempt that was ended from outside, whatever its handler makes of that."""
    if attempt.stop is Stop.TRANSACTION:
        limit = attempt.sink.abilities.transactions.limits.length
        return failed(attempt, outcomes.failure(attempt, too_long(limit)))
    if attempt.stop is Stop.CANCELLED:
        return failed(attempt, outcomes.cancelled(attempt))
    if attempt.stop is Stop.DEADLINE:
        return failed(attempt, outcomes.deadline_over(attempt))
    return failed(attempt, outcomes.timed_out(attempt, attempt.policy.timeout))


def failed(
    attempt: Attempt, failure: outcomes.Failure, error: BaseException | None = None, *, location: str | None = None
) -> Settlement:
    """The settlement of an attempt that failed: its job is tried again, or over.

    Args:
        attempt: Which one.
        failure: What the caller is told.
        error: The exception, where one was not expected; for the log.
        location: Where the handler raised, for operators.
    """
    if attempt.stop is Stop.CANCELLED and outcomes.is_retried(attempt.policy, failure):
        # It will not be tried again. An error that would have ended the job anyway stands.
        failure, error, location = outcomes.cancelled(attempt), None, None
    settlement = outcomes.settlement(attempt, attempt.policy, failure)._replace(location=location)
    reports.failed(attempt, settlement, failure, error)
    return settlement
