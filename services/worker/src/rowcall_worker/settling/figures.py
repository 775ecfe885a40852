"""What is counted of outcomes, for the process's figures and for the shard's, a batch at a time: a job at full speed has 30 to 40 µs in
all. Called by `settler`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Protocol

from google.rpc.code_pb2 import Code

from rowcall.queue.model import Settled, Settlement
from rowcall.queue.tally import Tally, What
from rowcall.telemetry import metrics
from rowcall.v1.job_pb2 import JobState
from rowcall_worker.running.attempt import Attempt

_SUCCEEDED: Final = JobState.JOB_STATE_SUCCEEDED
_SCHEDULED: Final = JobState.JOB_STATE_SCHEDULED

_ENDS: Final[Mapping[int | None, tuple[str, Sequence[What]]]] = {
    _SUCCEEDED: ("succeeded", (What.SUCCEEDED,)),
    JobState.JOB_STATE_FAILED: ("failed", (What.FAILED, What.DEAD)),
    JobState.JOB_STATE_CANCELLED: ("cancelled", (What.CANCELLED,)),
    _SCHEDULED: ("retried", (What.FAILED,)),
}
"""By the state that a job has then: as metrics.ATTEMPTS has the outcome, and as the tally has it."""
SNOOZED: Final = "snoozed"
_UNKNOWN: Final[tuple[str, Sequence[What]]] = ("", ())
FENCED: Final = "fenced"
"""What attempts come to beside these, as metrics.ATTEMPTS has it."""


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


def begin_at_zero(shards: Iterable[str], methods: Iterable[str]) -> None:
    """Tells of what is rare before there is any: Prometheus sees no increase in what begins at 1, and the first is what matters."""
    for shard in shards:
        for cause in metrics.DEATHS:
            metrics.DEAD_LETTERS.add(0, shard, cause)
        for kind in metrics.RESCUED_FROM:
            metrics.RESCUES.add(0, shard, kind)
    for method in methods:
        metrics.FENCE_REJECTED.add(0, method)


def came_to(settlement: Settlement, answer: Settled) -> tuple[str, Sequence[What]]:
    """What a settled attempt came to: as metrics.ATTEMPTS has it, and as the tally has it."""
    if settlement.snoozed and answer.state == _SCHEDULED:
        return SNOOZED, ()
    return _ENDS.get(answer.state, _UNKNOWN)


def count_outcomes(shard: str, batch: Sequence[Ended], answers: Sequence[Settled | Exception], tally: Tally) -> None:
    """Counts what became of outcomes, and what handlers submitted. Those that the shard did not take are counted when it does."""
    attempts: Counter[tuple[str, str]] = Counter()
    for outcome, answer in zip(batch, answers, strict=True):
        if isinstance(answer, Exception):
            continue
        job, method, settlement = outcome.attempt.job, outcome.attempt.method.name, outcome.settlement
        if not answer.settled:
            # One that was sent before may have counted then, and nobody knows.
            if not outcome.tried:
                attempts[method, FENCED] += 1
            continue
        name, happened = came_to(settlement, answer)
        attempts[method, name] += 1
        for what in happened:
            tally.count(job.tenant, job.queue_id, what)
        if answer.state == _SUCCEEDED:
            for child in settlement.children:
                tally.count(child.tenant, child.ids.queue_id, What.ACCEPTED)
        metrics.PROCESS_DURATION.record(outcome.took, metrics.ROWCALL, metrics.PROCESS, method)
        if settlement.error_code and name != SNOOZED:
            metrics.ATTEMPT_ERRORS.add(1, method, Code.Name(Code.ValueType(settlement.error_code)))
    for (method, name), count in attempts.items():
        metrics.ATTEMPTS.add(count, method, name)
        if name == "failed":
            metrics.DEAD_LETTERS.add(count, shard, name)
        elif name == FENCED:
            metrics.FENCE_REJECTED.add(count, method)
