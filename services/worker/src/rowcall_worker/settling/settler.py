"""Writes outcomes to one shard, many to a commit, and then tells the gateways that wait.

Outcomes come from `rowcall_worker.membership.registration`. While one batch is being written the next one gathers, so that a lone
result leaves at once and a flood shares commits. A result counts only if its lease number still does: the shard's
answer says so. What the shard could not take is tried again while the lease holds.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol
from uuid import UUID

import structlog

from rowcall.context import bind
from rowcall.errors import RowcallError
from rowcall.queue.faults import ChildRefusedError
from rowcall.queue.hints import Hint
from rowcall.queue.model import Running, Settled, Settlement, Spent
from rowcall.queue.protocol import WorkQueue
from rowcall.queue.tally import Tally
from rowcall.telemetry import metrics
from rowcall.v1.error_reason_pb2 import ErrorReason
from rowcall.v1.job_pb2 import JobState
from rowcall_worker.running import outcomes, settlements
from rowcall_worker.running.attempt import Attempt
from rowcall_worker.serving.transaction import AttemptTransaction
from rowcall_worker.settling.figures import count_outcomes
from rowcall_worker.settling.traces import AttemptTraces

BATCH: Final = 1000
"""The most outcomes in one commit."""
WRITERS: Final = 2
"""How many batches may be under way at once."""
BACKLOG: Final = 2 * BATCH
"""As many outcomes may wait to be written before no more jobs are claimed."""

_FEW: Final = 10
"""With so many children an outcome shares a commit; one with more has its own."""

_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 1.0
"""Seconds between tries while the shard cannot be reached."""

_PASSING: Final = frozenset(
    {
        ErrorReason.ERROR_REASON_SHARD_UNAVAILABLE,
        ErrorReason.ERROR_REASON_COMMIT_UNKNOWN,
        ErrorReason.ERROR_REASON_CONFLICT,
        ErrorReason.ERROR_REASON_SCHEMA_MISMATCH,
    }
)

# Looked up once: it is compared for every job.
_SCHEDULED: Final = JobState.JOB_STATE_SCHEDULED
_SUCCEEDED: Final = JobState.JOB_STATE_SUCCEEDED

_log = structlog.get_logger(__name__)


class Holder(Protocol):
    """The identity that jobs were claimed under."""

    @property
    def lost(self) -> bool:
        """Whether its lease is over, so that its results no longer count."""

    def let_go(self, count: int) -> None:
        """Is told that so many of its jobs are no longer its."""


class Outcome:
    """An outcome on its way into the row."""

    __slots__ = ("attempt", "holder", "replaced", "settlement", "took", "tried")

    def __init__(self, holder: Holder, attempt: Attempt, settlement: Settlement) -> None:
        self.holder = holder
        self.attempt = attempt
        self.settlement = settlement
        self.took = time.monotonic() - attempt.began_at
        """Seconds from the attempt's beginning, if it had one, to its outcome."""
        self.tried = False
        """Whether it was sent before, perhaps with success."""
        self.replaced = False
        """Whether the shard refused the handler's own outcome."""


class Settler:
    """The outcomes of one shard's jobs."""

    def __init__(
        self,
        queue: WorkQueue,
        *,
        shard: str,
        done: Callable[[UUID, Sequence[UUID]], None],
        again: Callable[[float], None],
        ready: Callable[[Iterable[int]], None],
        tally: Tally,
        hints: bool,
        traces: AttemptTraces,
    ) -> None:
        """Args:
        queue: Where they are written.
        shard: The shard's name, for the log.
        done: Called after a commit, for each gateway with the jobs it may be waiting for.
        again: Called with the seconds after which a retried job is due.
        ready: Called after a commit with the queues that handlers submitted jobs to.
        tally: Counts what became of attempts and jobs, and what handlers submitted.
        hints: Whether gateways may be told on the way, behind a commit.
        traces: Tells of attempts, as spans and in the log.
        """
        self._queue = queue
        self._shard = shard
        self._done = done
        self._tell_ready = ready
        self._tally = tally
        self._hints = hints
        self._traces = traces
        self._again = again
        self._waiting: deque[Outcome] = deque()
        self._under_way = 0
        self._ready = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._room = asyncio.Event()
        self._room.set()
        self._writers: list[asyncio.Task[None]] = []
        self._ending: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Starts the writers."""
        self._writers = [asyncio.create_task(self._write(), name=f"settle {self._shard}") for _ in range(WRITERS)]

    def put(self, outcome: Outcome) -> None:
        """Takes an outcome to be written: inside its job's own transaction, where its handler had one."""
        self._idle.clear()
        attempt = outcome.attempt
        transaction = attempt.transaction if attempt.ended else None
        children = outcome.settlement.state == _SUCCEEDED and bool(attempt.children)
        if transaction is not None or children:
            self._under_way += 1
            task = asyncio.create_task(self._end(outcome, transaction), name=f"end attempt {self._shard}")
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)
            return
        self._waiting.append(outcome)
        self._ready.set()
        if len(self._waiting) >= BACKLOG:
            self._room.clear()

    async def room(self) -> None:
        """Waits while too many outcomes wait to be written."""
        await self._room.wait()

    async def flushed(self) -> None:
        """Waits until everything that was put is written or dropped."""
        await self._idle.wait()

    async def stop(self) -> None:
        """Stops the writers; what is not yet written is not."""
        tasks = [*self._writers, *self._ending]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _write(self) -> None:
        while True:
            await self._ready.wait()
            batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), BATCH))]
            if not self._waiting:
                self._ready.clear()
            if len(self._waiting) < BACKLOG:
                self._room.set()
            self._under_way += 1
            try:
                await self._write_batch(batch)
            except Exception as error:  # noqa: BLE001  a writer that ended would end the worker's results
                _log.error(
                    "outcomes lost; their jobs run again when this worker ends", shard=self._shard, exc_info=error
                )
            finally:
                self._ended_one()

    def _ended_one(self) -> None:
        self._under_way -= 1
        if not self._waiting and not self._under_way:
            self._idle.set()

    async def _end(self, outcome: Outcome, transaction: AttemptTransaction | None) -> None:
        """Writes an outcome that does not come alone: with children; in its job's own transaction, or behind its end."""
        try:
            settled: Settled | None = None
            try:
                if outcome.settlement.state == _SUCCEEDED:
                    await self._add_children(outcome)
                if transaction is None:
                    pass
                elif outcome.settlement.state == _SUCCEEDED and not outcome.holder.lost:
                    _add_spend(outcome)
                    settled = await transaction.settle(outcome.settlement)
                else:
                    await transaction.roll_back()
            except Exception as error:  # noqa: BLE001  whatever it was, nothing of the transaction was kept
                # Or nobody knows. Then this settlement waits for the row until it is known, and finds it gone or unchanged.
                outcome.settlement = settlements.refused(outcome.attempt, error)
                outcome.tried = True
            finally:
                if transaction is not None:
                    await transaction.close()
            if settled is not None:
                self._written([outcome], [settled])
            elif transaction is None and 0 < len(outcome.settlement.children) <= _FEW:
                self._waiting.append(outcome)
                self._ready.set()
            else:
                # Alone: it may have to wait for a row, and others need not wait with it.
                await self._write_batch([outcome])
        except Exception as error:  # noqa: BLE001  as above
            _log.error("outcome lost; its job runs again when this worker ends", shard=self._shard, exc_info=error)
        finally:
            self._ended_one()

    async def _add_children(self, outcome: Outcome) -> None:
        """Gives a settlement its children's rows, as soon as the shard says what their methods' ids are."""
        attempt, pause = outcome.attempt, _FIRST_PAUSE
        while attempt.children and not outcome.holder.lost:
            try:
                children = await attempt.sink.abilities.children.submissions(
                    attempt.job, attempt.call.trace, attempt.children
                )
            except RowcallError as error:
                if error.reason not in _PASSING:
                    raise
            else:
                outcome.settlement = outcome.settlement._replace(children=children)
                return
            await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311  spreads, guards nothing
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _write_batch(self, batch: Sequence[Outcome]) -> None:
        pause = _FIRST_PAUSE
        while batch := [outcome for outcome in batch if not outcome.holder.lost]:
            answers: Sequence[Settled | Exception]
            for outcome in batch:
                if outcome.attempt.calls:
                    _add_spend(outcome)
            hint = self._hint(batch)
            began = time.monotonic()
            try:
                answers = await self._queue.settle([outcome.settlement for outcome in batch], hint)
            except Exception as error:  # noqa: BLE001  a queue that raises has refused them all
                answers = [error] * len(batch)
            metrics.WRITE_DURATION.record(time.monotonic() - began, self._shard, "settle")
            if all(isinstance(answer, Exception) for answer in answers):
                metrics.WRITE_ERRORS.add(1, self._shard, "settle")
            batch = self._written(batch, answers, told=hint is not None and hint.sent)
            if batch:
                await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311  spreads, guards nothing
                pause = min(2 * pause, _LONGEST_PAUSE)

    def _hint(self, batch: Sequence[Outcome]) -> Hint | None:
        """What tells the gateways that wait for these jobs, as far as the claims knew them."""
        if not self._hints:
            return None
        done: dict[UUID, list[UUID]] = {}
        for outcome in batch:
            waiter_id = _known_waiter(outcome)
            if waiter_id is not None:
                done.setdefault(waiter_id, []).append(outcome.settlement.job_id)
        return Hint.done(done) if done else None

    def _written(
        self, batch: Sequence[Outcome], answers: Sequence[Settled | Exception], *, told: bool = False
    ) -> list[Outcome]:
        """Acts on the answers; those outcomes that are to be written again.

        Args:
            batch: The outcomes.
            answers: What became of each.
            told: Whether the gateways that the claims knew of were told.
        """
        # Before what is told below makes of an outcome another one.
        count_outcomes(self._shard, batch, answers, self._tally)
        self._traces.tell(batch, answers)
        again: list[Outcome] = []
        done: dict[UUID, list[UUID]] = {}
        let_go: Counter[Holder] = Counter()
        ready: set[int] = set()
        soonest: float | None = None
        for outcome, answer in zip(batch, answers, strict=True):
            if isinstance(answer, Exception):
                if self._refused(outcome, answer):
                    again.append(outcome)
                    continue
            elif not answer.settled:
                self._stale(outcome)
            elif answer.state == _SCHEDULED:
                delay = outcome.settlement.delay
                seconds = 0.0 if delay is None else delay.total_seconds()
                soonest = seconds if soonest is None else min(seconds, soonest)
            else:
                if answer.waiter_id is not None and not (told and answer.waiter_id == _known_waiter(outcome)):
                    done.setdefault(answer.waiter_id, []).append(outcome.settlement.job_id)
                ready.update(child.ids.queue_id for child in outcome.settlement.children if child.run_at is None)
            if outcome.settlement.spend:
                _spend_written(outcome)
            let_go[outcome.holder] += 1
        for waiter, jobs in done.items():
            self._done(waiter, jobs)
        if ready:
            self._tell_ready(ready)
        if soonest is not None:
            self._again(soonest)
        for holder, count in let_go.items():
            holder.let_go(count)
        return again

    def _refused(self, outcome: Outcome, error: Exception) -> bool:
        """Whether an outcome that the shard did not take is to be written again."""
        if isinstance(error, RowcallError) and error.reason in _PASSING:
            if not outcome.tried:
                outcome.tried = True
                with bind(outcome.attempt.call):
                    _log.warning("outcome not written, trying again", shard=self._shard, error=str(error))
            return True
        refused = error if isinstance(error, ChildRefusedError) else error.__cause__
        if isinstance(refused, ChildRefusedError):
            outcome.settlement = settlements.refused(outcome.attempt, refused)
            return True
        with bind(outcome.attempt.call):
            _log.error("outcome cannot be written", shard=self._shard, exc_info=error)
        if outcome.replaced:
            return False
        # Its row would otherwise stay RUNNING under a lease that holds: its caller is told instead.
        outcome.replaced = True
        outcome.settlement = outcomes.unwritable(outcome.attempt)
        return True

    def _stale(self, outcome: Outcome) -> None:
        """The job was taken from this worker, or this very outcome was written by a commit whose end was unknown."""
        if not outcome.tried:
            with bind(outcome.attempt.call):
                _log.warning(
                    "late result dropped: the job is no longer this worker's",
                    shard=self._shard,
                    method=outcome.attempt.method.name,
                    lease=outcome.settlement.lease,
                )


def _add_spend(outcome: Outcome) -> None:
    """Has an outcome tell what its attempt has spent and is not written yet."""
    attempt = outcome.attempt
    if attempt.calls:
        spend = attempt.sink.abilities.progress.spending.of(attempt.job)
        outcome.settlement = outcome.settlement._replace(spend=spend)


def _spend_written(outcome: Outcome) -> None:
    attempt = outcome.attempt
    job = Running(attempt.job.tenant, attempt.job.job_id, attempt.job.lease)
    attempt.sink.abilities.progress.spending.written(Spent(job, spend) for spend in outcome.settlement.spend)


def _known_waiter(outcome: Outcome) -> UUID | None:
    """The gateway that is told of an outcome on its way, before it is known what becomes of it."""
    return None if outcome.settlement.state == _SCHEDULED else outcome.attempt.job.waiter_id
