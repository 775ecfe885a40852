"""What is told of attempts besides figures, a batch at a time, once it is known what became of them: their spans, those of the calls of models
and providers that they made, and the log lines of those that went well. Called by `settler`.

Told of are attempts whose trace is recorded, that failed, or that were not the first of their job. A span is made afterwards, of what
the attempt has kept anyway (docs/adr/0042). What failed has a line of `running.reports` already.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from google.rpc.code_pb2 import Code
from google.rpc.status_pb2 import Status

from rowcall.errors import our_reason, read_envelope
from rowcall.names import operation_name
from rowcall.queue.model import Settled, Settlement
from rowcall.telemetry import conventions, metrics
from rowcall.tracing import new_span_id
from rowcall.v1.job_pb2 import JobState
from rowcall_worker.running.attempt import Attempt
from rowcall_worker.settling.attempt_line import write_attempt_line
from rowcall_worker.settling.figures import FENCED, Ended, came_to

if TYPE_CHECKING:
    from rowcall.telemetry.spans import Spans

SCOPE: Final = "rowcall.worker"
MODEL_CALL: Final = "model_call"
PROVIDER_CALL: Final = "provider_call"
"""What calls of models and providers are called, as in `rowcall_worker.telemetry`."""

_FAILED: Final = frozenset({"failed", "retried", FENCED})
_SUCCEEDED: Final = JobState.JOB_STATE_SUCCEEDED
_CANCELLED: Final = JobState.JOB_STATE_CANCELLED


class AttemptTraces:
    """Tells of one shard's attempts."""

    def __init__(
        self,
        spans: Spans | None,
        *,
        shard: str,
        queue_name: Callable[[int], str | None],
        linked: bool = False,
        every_line: bool = False,
    ) -> None:
        """Args:
        spans: Where spans are told; None: nobody wants any, and none is made.
        shard: The shard's name.
        queue_name: What a queue is called that has this id on the shard; None: it is not known.
        linked: Whether a span of an attempt is linked to its row's, and has no parent.
        every_line: Whether each attempt that went well has a line.
        """
        self._spans = spans
        self._shard = shard
        self._queue_name = queue_name
        self._linked = linked
        self._every_line = every_line

    def tell(self, batch: Sequence[Ended], answers: Sequence[Settled | Exception]) -> None:
        """Tells of outcomes that the shard has taken, or has refused for good: those of jobs that are no longer the worker's.

        One that was sent before may have counted then, and nobody knows: nothing is told of it.
        """
        offset: float | None = None
        for outcome, answer in zip(batch, answers, strict=True):
            if isinstance(answer, Exception) or (not answer.settled and outcome.tried):
                continue
            attempt = outcome.attempt
            name = came_to(outcome.settlement, answer)[0] if answer.settled else FENCED
            wanted = attempt.sampled or name in _FAILED or attempt.job.attempt > 1 or bool(attempt.job.lost)
            if answer.state == _SUCCEEDED and (wanted or self._every_line):
                write_attempt_line(attempt, shard=self._shard, seconds=outcome.took, state="SUCCEEDED")
            if wanted and self._spans is not None:
                if offset is None:
                    # One for all: they are told in the order in which they were.
                    offset = _unix_offset()
                self._tell(self._spans, outcome, answer, name, offset)

    def _tell(self, spans: Spans, outcome: Ended, answer: Settled, name: str, offset: float) -> None:
        attempt, job = outcome.attempt, outcome.attempt.job
        above = attempt.above
        queue = self._queue_name(job.queue_id) or ""
        code, reason = _error(outcome.settlement, answer)
        if name == FENCED:
            error: str | None = "FENCED"
        else:
            error = None if code is None or name == "cancelled" else reason or code
        whose = _whose(attempt)
        known: dict[str, str | int] = {
            conventions.MESSAGING_SYSTEM: metrics.ROWCALL,
            conventions.MESSAGING_OPERATION: metrics.PROCESS,
            conventions.MESSAGING_OPERATION_TYPE: metrics.PROCESS,
            conventions.MESSAGING_MESSAGE: str(job.job_id),
            conventions.MESSAGING_DESTINATION: queue,
            conventions.RPC_STATUS_CODE: code or ("OK" if answer.state == _SUCCEEDED else ""),
            conventions.ERROR_TYPE: "" if error is None else code or error,
            conventions.REASON: reason,
            conventions.ACTOR: job.actor or "",
            conventions.REQUEST_ID: job.request_id or "",
            conventions.STATE: "" if answer.state is None else _state(answer.state),
            conventions.OUTCOME: name,
            conventions.SHARD: self._shard,
            conventions.WORKER: attempt.worker,
        }
        started = _nanoseconds(attempt.began_at, offset=offset)
        ended = _nanoseconds(attempt.began_at + outcome.took, offset=offset)
        taken = spans.tell(
            SCOPE,
            f"{metrics.PROCESS} {queue}" if queue else metrics.PROCESS,
            "consumer",
            trace_id=above.trace_id,
            span_id=attempt.span_id,
            parent_id=None if job.traceparent is None else above.span_id,
            started=started,
            ended=ended,
            attributes={name: value for name, value in known.items() if value} | whose,
            error=error,
            tracestate=above.tracestate,
            linked=self._linked,
        )
        for call in attempt.recorded or ():
            model = call.attributes.get(conventions.GEN_AI_MODEL)
            called = PROVIDER_CALL if model is None else MODEL_CALL
            failed = call.attributes.get(conventions.ERROR_TYPE)
            spans.tell(
                SCOPE,
                f"{called} {model or call.attributes.get(conventions.GEN_AI_PROVIDER, '')}".rstrip(),
                "client",
                trace_id=above.trace_id,
                span_id=new_span_id(),
                parent_id=attempt.span_id,
                started=_nanoseconds(call.started, offset=offset),
                ended=_nanoseconds(call.ended, offset=offset),
                attributes={
                    **call.attributes,
                    **({} if model is None else {conventions.GEN_AI_OPERATION: MODEL_CALL}),
                    conventions.CALL: call.number,
                    **whose,
                },
                error=None if failed is None else str(failed),
                tracestate=above.tracestate,
                below=taken,
            )


def _whose(attempt: Attempt) -> dict[str, str | int]:
    job = attempt.job
    return {
        conventions.TENANT: job.tenant,
        conventions.OPERATION: operation_name(job.tenant, job.job_id),
        conventions.METHOD: attempt.method.name,
        conventions.ATTEMPT: job.attempt,
        conventions.LEASE: job.lease,
    }


def _error(settlement: Settlement, answer: Settled) -> tuple[str | None, str]:
    """The code and the reason of the error that the row has of an attempt; None: it has none."""
    if answer.state == _CANCELLED and settlement.state != _CANCELLED:
        # It was to be tried again, and the job was cancelled meanwhile: the row has that.
        return Code.Name(Code.CANCELLED), ""
    if not settlement.error_code:
        return None, ""
    info = None if settlement.error is None else read_envelope(Status.FromString(settlement.error))
    return Code.Name(Code.ValueType(settlement.error_code)), "" if info is None else our_reason(info)


def _state(state: int) -> str:
    return JobState.Name(JobState.ValueType(state)).removeprefix("JOB_STATE_")


def _unix_offset() -> float:
    """What Unix time is ahead of monotonic time now, in seconds."""
    return time.time() - time.monotonic()


def _nanoseconds(monotonic: float, *, offset: float) -> int:
    """A moment of time.monotonic() in nanoseconds of Unix time, by what that is ahead of it."""
    return int((monotonic + offset) * 1e9)
