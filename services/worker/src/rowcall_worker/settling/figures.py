"""What is counted of outcomes, a batch at a time: a job at full speed has 30 to 40 µs in all. Called by `settler`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final, Protocol

from google.rpc.code_pb2 import Code

from rowcall.queue.model import Settled, Settlement
from rowcall.telemetry import metrics
from rowcall.v1.job_pb2 import JobState
from rowcall_worker.running.attempt import Attempt

_NAMES: Final = {
    JobState.JOB_STATE_SUCCEEDED: "succeeded",
    JobState.JOB_STATE_FAILED: "failed",
    JobState.JOB_STATE_CANCELLED: "cancelled",
    JobState.JOB_STATE_SCHEDULED: "retried",
}
_FENCED: Final = "fenced"


class Ended(Protocol):
    """An outcome; see `settler`."""

    @property
    def attempt(self) -> Attempt:
        """Whose."""

    @property
    def settlement(self) -> Settlement:
        """What was to be written."""

    @property
    def tried(self) -> bool:
        """Whether it was sent before, perhaps with success."""

    @property
    def took(self) -> float:
        """Seconds from the attempt's beginning to its outcome."""


def count_outcomes(shard: str, batch: Sequence[Ended], answers: Sequence[Settled | Exception]) -> None:
    """Counts what became of outcomes. Those that the shard did not take are counted when it does."""
    attempts: Counter[tuple[str, str]] = Counter()
    for outcome, answer in zip(batch, answers, strict=True):
        if isinstance(answer, Exception):
            continue
        method, settlement = outcome.attempt.method.name, outcome.settlement
        if not answer.settled:
            # One that was sent before may have counted then, and nobody knows.
            if not outcome.tried:
                attempts[method, _FENCED] += 1
            continue
        snoozed = settlement.snoozed
        attempts[method, "snoozed" if snoozed else _NAMES.get(JobState.ValueType(answer.state or 0), "")] += 1
        metrics.PROCESS_DURATION.record(outcome.took, metrics.ROWCALL, metrics.PROCESS, method)
        if settlement.error_code and not snoozed:
            metrics.ATTEMPT_ERRORS.add(1, method, Code.Name(Code.ValueType(settlement.error_code)))
    for (method, name), count in attempts.items():
        metrics.ATTEMPTS.add(count, method, name)
        if name == "failed":
            metrics.DEAD_LETTERS.add(count, shard, name)
        elif name == _FENCED:
            metrics.FENCE_REJECTED.add(count, method)
