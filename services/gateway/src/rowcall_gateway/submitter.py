"""Writes calls as rows, many in one commit: one flusher for each shard.

A call that comes alone is written at once. While many calls are in flight the flusher gathers for some milliseconds,
because their neighbours are then on their way: fewer, larger commits carry several times as many calls.
Called by `submissions`.
"""

from __future__ import annotations

import asyncio
import enum
from collections import deque
from collections.abc import Callable, Sequence
from datetime import timedelta

from rowcall.errors import RowcallError
from rowcall.queue.model import Submission, SubmitOutcome, Submitted
from rowcall.queue.protocol import JobStore
from rowcall_gateway.failures import draining, internal, rebuilt


class _Stage(enum.Enum):
    WAITING = enum.auto()
    FLYING = enum.auto()
    WITHDRAWN = enum.auto()


class Ticket:
    """One submission on its way. Await `answer`, shielded: the flusher sets it whatever becomes of the caller."""

    __slots__ = ("_stage", "answer", "submission")

    answer: asyncio.Future[Submitted]
    """What became of it; raises RowcallError."""
    submission: Submission
    """What is to be written."""

    def __init__(self, submission: Submission) -> None:
        self.submission = submission
        self.answer = asyncio.get_running_loop().create_future()
        # Its caller may be gone by then.
        self.answer.add_done_callback(lambda answer: answer.cancelled() or answer.exception())
        self._stage = _Stage.WAITING

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
        gather: timedelta,
        gather_above: int,
        batch: int,
        in_flight: Callable[[], int],
        written: Callable[[Sequence[Submission]], None],
    ) -> None:
        """
        Args:
            store: The shard.
            gather: How long to wait for neighbours while many calls are in flight.
            gather_above: How many calls in flight are many.
            batch: How many calls are written at a time, at most.
            in_flight: How many calls this gateway serves now.
            written: Told of each batch's submissions that are new rows now. Must neither wait nor raise.
        """
        self._store = store
        self._gather = gather.total_seconds()
        self._gather_above = gather_above
        self._batch = batch
        self._in_flight = in_flight
        self._written = written
        self._queue: deque[Ticket] = deque()
        self._arrived = asyncio.Event()
        self._closing = False
        self._flusher: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Starts the flusher."""
        self._flusher = asyncio.get_running_loop().create_task(self._flush_for_ever(), name="submitter")

    async def close(self) -> None:
        """Writes what waits and stops. Whoever comes later is refused."""
        self._closing = True
        self._arrived.set()
        if self._flusher is not None:
            await self._flusher

    def enqueue(self, submission: Submission) -> Ticket:
        """Puts a submission in line.

        Raises:
            RowcallError: GATEWAY_DRAINING, after `close`.
        """
        if self._closing:
            raise draining()
        ticket = Ticket(submission)
        self._queue.append(ticket)
        self._arrived.set()
        return ticket

    async def _flush_for_ever(self) -> None:
        while True:
            await self._arrived.wait()
            if self._gather and self._in_flight() > self._gather_above and len(self._queue) < self._batch:
                await asyncio.sleep(self._gather)
            batch = self._next_batch()
            if batch:
                await self._flush(batch)
            elif self._closing:
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
        try:
            answers = await self._store.submit([ticket.submission for ticket in batch])
        except Exception as error:  # noqa: BLE001 - every call of the batch is answered, and the flusher lives on
            answers = [error] * len(batch)
        created: list[Submission] = []
        for ticket, answer in zip(batch, answers, strict=True):
            if isinstance(answer, RowcallError):
                # An error of its own for each call: tracebacks would pile up on a shared one.
                own = rebuilt(answer)
                own.__cause__ = answer
                ticket.answer.set_exception(own)
            elif isinstance(answer, Exception):
                own = internal()
                own.__cause__ = answer
                ticket.answer.set_exception(own)
            else:
                ticket.answer.set_result(answer)
                if answer.outcome is SubmitOutcome.CREATED:
                    created.append(ticket.submission)
        if created:
            self._written(created)
