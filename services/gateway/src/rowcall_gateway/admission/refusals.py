"""What a caller is told that is not let in, and what is counted of it. Called by `admission`.

Counted by measure, queue and method, never by tenant, of which there may be any number, as is what waited in line
(`rowcall.telemetry.metrics`); and told in the log, by bound, each ten seconds at most.
"""

from __future__ import annotations

import random
from datetime import timedelta
from decimal import Decimal
from typing import Final

from google.rpc.error_details_pb2 import QuotaFailure

from rowcall.bounds import EACH_TENANT, Budget, Target
from rowcall.errors import RowcallError
from rowcall.names import tenant_name
from rowcall.queue.spend import plain
from rowcall.telemetry import metrics
from rowcall.v1.error_reason_pb2 import ErrorReason
from rowcall_gateway.admission.meters import Measure

_SPREAD: Final = 0.25
"""By how much each caller's time to call again is sooner or later: those who were refused together must not come together."""

_SAID: Final = {
    Measure.RATE: "is asked for more than {limit:g} jobs a second",
    Measure.IN_FLIGHT: "has {limit} calls in flight, as many as it may",
    Measure.WAITERS: "has {limit} calls that wait for their jobs, as many as it may",
    Measure.BACKLOG: "has {limit} jobs that wait for a worker, as many as it may",
    Measure.BUDGET: "has spent {limit}",
    Measure.OLDEST_AGE: "has had a job waiting for longer than {limit}",
}


def not_admitted(target: Target, measure: Measure, limit: float | timedelta | None, seconds: float) -> RowcallError:
    """A bound lets no more in; nothing was submitted.

    Args:
        target: What the bound is of.
        measure: What of it.
        limit: What was set.
        seconds: When it is worth calling again.
    """
    name = described(target)
    said = f"{name} {_SAID[measure].format(limit=limit)}" if limit is not None else f"{name} has as much as it may"
    delay = seconds * random.uniform(1 - _SPREAD, 1 + _SPREAD)  # noqa: S311  spread, not secrecy
    value = f"{limit.total_seconds():g}s" if isinstance(limit, timedelta) else f"{limit or 0:g}"
    return RowcallError(
        ErrorReason.ERROR_REASON_NOT_ADMITTED,
        f"Not let in: {said}. Nothing was submitted; call again after RetryInfo's delay.",
        metadata={"bound": name, "measure": measure.value, "limit": value},
        details=[QuotaFailure(violations=[QuotaFailure.Violation(subject=name, description=said)])],
        retry_after=timedelta(seconds=delay),
    )


def budget_spent(target: Target, budget: Budget, spent: Decimal, seconds: float) -> RowcallError:
    """A tenant has spent what it may; nothing was submitted.

    Args:
        target: What the budget is of.
        budget: What was set.
        spent: What was booked in this period.
        seconds: Until the next one begins.
    """
    name = described(target)
    period = budget.period.name.lower()
    said = f"{name} has spent {plain(spent)} of {plain(budget.amount)} {budget.currency} that it may in a {period}"
    return RowcallError(
        ErrorReason.ERROR_REASON_BUDGET_SPENT,
        f"Not let in: {said}. Nothing was submitted; call again when the next {period} of UTC begins, or have an admin set another budget.",
        metadata={
            "bound": name,
            "limit": plain(budget.amount),
            "currency": budget.currency,
            "period": period,
            "spent": plain(spent),
        },
        details=[QuotaFailure(violations=[QuotaFailure.Violation(subject=name, description=said)])],
        # Never before it begins: those who are refused together would be refused again.
        retry_after=timedelta(seconds=seconds + random.uniform(0, 2)),  # noqa: S311  spread, not secrecy
        # gRPC's own retries would hold the call until its deadline.
        no_retry=True,
    )


def count(measure: Measure, queue: str, method: str) -> None:
    """Counts a call that was refused."""
    metrics.ADMISSION_REFUSED.add(1, measure.value, queue, method)


def waited(seconds: float, queue: str, method: str) -> None:
    """Counts a call that came after a while in line."""
    metrics.ADMISSION_WAITED.record(seconds, queue, method)


def described(target: Target) -> str:
    """What a bound is of, for people: "tenants/acme, queue documents"."""
    parts = []
    if target.tenant:
        parts.append("each tenant" if target.tenant == EACH_TENANT else tenant_name(target.tenant))
    if target.queue:
        parts.append(f"queue {target.queue}")
    if target.method:
        parts.append(f"method {target.method}")
    return ", ".join(parts)
