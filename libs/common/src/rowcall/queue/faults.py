"""What the queue refuses a settlement for, as services tell it from everything else."""

from __future__ import annotations

from datetime import timedelta

from rowcall.errors import RowcallError
from rowcall.queue.model import Submission
from rowcall.v1.error_reason_pb2 import ErrorReason


class ChildRefusedError(RowcallError):
    """A job that a handler submitted cannot be: only the settlement that it came with is at fault."""

    submission: Submission | None = None
    """Which one it was."""


class TransactionFault(RowcallError):
    """A transaction cannot be committed: TRANSACTION_LOST, worth another attempt, or TRANSACTION_MISUSED."""

    @property
    def stands(self) -> bool:
        """Whether the attempt failed of it, whatever else its handler has to say."""
        return self.reason == ErrorReason.ERROR_REASON_TRANSACTION_MISUSED


def too_long(limit: timedelta) -> TransactionFault:
    """The fault of a transaction that has reached its limit."""
    return TransactionFault(
        ErrorReason.ERROR_REASON_TRANSACTION_LOST,
        f"The job's transaction took longer than {limit.total_seconds():g} s. Nothing of it was kept.",
    )
