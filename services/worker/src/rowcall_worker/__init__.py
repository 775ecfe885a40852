"""The worker: claims queue rows, runs ordinary generated servicers, settles the rows.

What a job package needs: `finished` and `response` for Operation-returning methods, `JobContext` for what is known of
the job and can be done for it, `Snooze`, `Retry`, `Cancel` and `Fail` to say what becomes of it. What starts a worker
needs: `Worker` and `WorkerSettings`.
"""

from rowcall_worker.serving.context import AsyncJobContext, JobContext, SyncJobContext
from rowcall_worker.serving.handlers import RegistrationError
from rowcall_worker.serving.operations import OperationFailed, finished, response
from rowcall_worker.serving.outcome_values import Cancel, Fail, Retry, Snooze
from rowcall_worker.serving.served import AsyncOutcomeInterceptor, OutcomeInterceptor
from rowcall_worker.settings import WorkerSettings
from rowcall_worker.worker import Worker

__all__ = [
    "AsyncJobContext",
    "AsyncOutcomeInterceptor",
    "Cancel",
    "Fail",
    "JobContext",
    "OperationFailed",
    "OutcomeInterceptor",
    "RegistrationError",
    "Retry",
    "Snooze",
    "SyncJobContext",
    "Worker",
    "WorkerSettings",
    "finished",
    "response",
]
