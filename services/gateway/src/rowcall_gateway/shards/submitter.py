"""Writes calls as rows, many in one commit: one flusher for each shard.

A call that comes alone is written at once. While many calls are in flight the flusher gathers, because their
neighbours are on their way: until none has come for a moment (then the gateway has nothing better to do), or for as long
as it may. Fewer, larger commits carry several times as many calls. Called by `submissions`.
"""

from __future__ import annotations

import asyncio
import enum
import math
from collections import deque
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Final

from rowcall.errors import RowcallError
from rowcall.queue.hints import Hint
from rowcall.queue.model import Submission, SubmitOutcome, Submitted
from rowcall.queue.protocol import JobStore
from rowcall.queue.tally import Tally, What
from rowcall.telemetry import metrics
from rowcall_gateway.edge.failures import draining, internal, rebuilt
from rowcall_gateway.shards.time_limits import TimeIsUp, TimeLimits, Wake

PAUSE: Final = 0.003
"""Seconds without a call after which the flusher no longer waits for neighbours: a few calls' time at full speed."""


class _Stage(enum.Enum):
    WAITING = enum.auto()
    FLYING = enum.auto()
    WITHDRAWN = enum.auto()


# Looked up once: a member of an enumeration is found by a descriptor.
_WAITING: Final = _Stage.WAITING


class Ticket:
    """One submission on its way. The flusher answers it whatever becomes of its caller."""

    __slots__ = ("_answer", "_limits", "_loop", "_stage", "_wake", "submission")

    submission: Submission
    """What is to be written."""

    def __init__(self, submission: Submission, limits: TimeLimits, loop: asyncio.AbstractEventLoop) -> None:
        self.submission = submission
        self._limits = limits
        self._loop = loop
        self._stage = _WAITING
        self._answer: Submitted | RowcallError | None = None
        self._wake: Wake | None = None

    @property
    def answered(self) -> bool:
        """Whether it is known what became of it."""
        return self._answer is not None

    async def written(self, until: float | None = None) -> Submitted:
        """What became of it, once that is known. One at a time may ask; to be cancelled costs the submission nothing.

        Args:
            until: The loop's time to wait until; None: as long as it takes.

        Raises:
            RowcallError: Why it was not written, or that nobody knows.
            TimeIsUp: It is not known in time.
        """
        if self._answer is None:
            wake = self._wake = self._loop.create_future()
            if until is not None:
                self._limits.end(wake, until)
            await wake
        answer = self._answer
        if answer is None:
            raise TimeIsUp
        if isinstance(answer, RowcallError):
            raise answer
        return answer

    def answer(self, answer: Submitted | RowcallError) -> None:
        """Tells whoever waits, now or later."""
        self._answer = answer
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def withdraw(self) -> bool:
        """Takes the submission back. False: it is in flight or written, and cannot be taken back any more."""
        if self._stage is _Stage.WAITING:
            self._stage = _Stage.WITHDRAWN
        return self._stage is _Stage.WITHDRAWN

    def take(self) -> bool:
        """Puts it into a batch; False if it was withdrawn."""
        if self._stage is _Stage.WAITING:
            self._stage = _Stage.FLYING
            return True
        return False


class Submitter:
    """Submits to one shard."""

    def __init__(
        self,
        store: JobStore,
        *,
        shard: str,
        gather: timedelta,
        gather_above: int,
        batch: int,
        in_flight: Callable[[], int],
        hint: Callable[[Sequence[Submission]], Hint | None],
        written: Callable[[Sequence[Submission]], None],
        tally: Tally,
    ) -> None:
        """
        Args:
            store: The shard.
            shard: Its name, for figures.
            gather: How long to wait for neighbours at most while many calls are in flight.
            gather_above: How many calls in flight are many.
            batch: How many calls are written at a time, at most.
            in_flight: How many calls this gateway serves now.
            hint: What is to be told as soon as a batch's rows are written. Must neither wait nor raise.
            written: Told of each batch's submissions that are new rows now, unless that was told. Neither, likewise.
            tally: Counts what was written.
        """
        self._store = store
        self._shard = shard
        self._gather = gather.total_seconds()
        self._gather_above = gather_above
        self._batch = batch
        self._in_flight = in_flight
        self._hint = hint
        self._written = written
        self._tally = tally
        self._queue: deque[Ticket] = deque()
        self._limits = TimeLimits()
        self._loop = asyncio.get_running_loop()
        self._company = 0
        self._company_until = -math.inf
        self._arrived = asyncio.Event()
        self._closing = False
        self._flusher: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Starts the flusher."""
        self._flusher = self._loop.create_task(self._flush_for_ever(), name="submitter")

    async def close(self) -> None:
        """Writes what waits and stops. Whoever comes later is refused."""
        self._closing = True
        self._arrived.set()
        if self._flusher is not None:
            await self._flusher
        self._limits.close()

    def enqueue(self, submission: Submission) -> Ticket:
        """Puts a submission in line.

        Raises:
            RowcallError: GATEWAY_DRAINING, after `close`.
        """
        if self._closing:
            raise draining()
        ticket = Ticket(submission, self._limits, self._loop)
        self._queue.append(ticket)
        if len(self._queue) == 1:
            self._arrived.set()
        return ticket

    async def _flush_for_ever(self) -> None:
        while True:
            await self._arrived.wait()
            if self._gather:
                await self._gather_neighbours()
            batch = self._next_batch()
            if batch:
                await self._flush(batch)
            elif self._closing:
                return

    async def _gather_neighbours(self) -> None:
        """Waits for those who are on their way, as long as it is likely that there are some.

        For half of them: what the others want is worked on while these are written. (64 callers that call again at once
        get 6,000 answers a second so, and 5,000 when all are waited for.)
        """
        now = self._loop.time()
        end = now + self._gather
        # Who was answered together calls again together: the first of them is not alone, though nobody else is here yet.
        company = self._company if now < self._company_until else 0
        while True:
            come = len(self._queue)
            expected = max(self._in_flight(), company)
            if expected <= self._gather_above or 2 * come >= min(expected, self._batch) or self._closing:
                return
            left = end - self._loop.time()
            if left <= 0:
                return
            await asyncio.sleep(min(PAUSE, left))
            if len(self._queue) == come:
                return

    def _next_batch(self) -> list[Ticket]:
        batch: list[Ticket] = []
        while self._queue and len(batch) < self._batch:
            ticket = self._queue.popleft()
            if ticket.take():
                batch.append(ticket)
        if not self._queue and not self._closing:
            self._arrived.clear()
        return batch

    async def _flush(self, batch: Sequence[Ticket]) -> None:
        answers: Sequence[Submitted | Exception]
        submissions = [ticket.submission for ticket in batch]
        hint = self._hint(submissions)
        began = self._loop.time()
        try:
            answers = await self._store.submit(submissions, hint)
        except Exception as error:  # noqa: BLE001 - every call of the batch is answered, and the flusher lives on
            answers = [error] * len(batch)
        metrics.WRITE_DURATION.record(self._loop.time() - began, self._shard, "submit")
        if all(isinstance(answer, Exception) for answer in answers):
            metrics.WRITE_ERRORS.add(1, self._shard, "submit")
        self._company = self._in_flight()
        self._company_until = self._loop.time() + self._gather
        if hint is None or not hint.sent:
            # First: workers can be on their way while callers are answered.
            self._written(
                [
                    submission
                    for submission, answer in zip(submissions, answers, strict=True)
                    if isinstance(answer, Submitted) and answer.outcome is SubmitOutcome.CREATED
                ]
            )
        for ticket, answer in zip(batch, answers, strict=True):
            if isinstance(answer, Submitted):
                if answer.outcome is SubmitOutcome.CREATED:
                    self._tally.count(ticket.submission.tenant, ticket.submission.ids.queue_id, What.ACCEPTED)
                ticket.answer(answer)
            else:
                # An error of its own for each call: tracebacks would pile up on a shared one.
                own = rebuilt(answer) if isinstance(answer, RowcallError) else internal()
                own.__cause__ = answer
                ticket.answer(own)
