"""The worker: claims queue rows, runs ordinary generated servicers, settles the rows.

What a job package needs: `finished` and `response` for Operation-returning methods, `JobContext` for what is known of
the job and can be done for it, `Snooze`, `Retry`, `Cancel` and `Fail` to say what becomes of it; and `rowcall_worker.telemetry`, to record
what calls of models and providers cost. What starts a worker needs: `Worker` and `WorkerSettings`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
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

_MODULES: Final = {
    "serving.context": ("AsyncJobContext", "JobContext", "SyncJobContext"),
    "serving.handlers": ("RegistrationError",),
    "serving.operations": ("OperationFailed", "finished", "response"),
    "serving.outcome_values": ("Cancel", "Fail", "Retry", "Snooze"),
    "serving.served": ("AsyncOutcomeInterceptor", "OutcomeInterceptor"),
    "settings": ("WorkerSettings",),
    "worker": ("Worker",),
}
_HOME: Final = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> object:
    """Imported when asked for: the command must hear signals before all of it is there, and a health check needs none of it."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
