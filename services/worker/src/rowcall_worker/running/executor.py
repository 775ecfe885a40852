"""Runs claimed jobs: rehydrates who called, decodes, calls the handler, bounds its time, hands the outcome on.

An `Executor` serves the whole process; the claimers of its shards start attempts on it, each with the sink that its
outcome goes to. A handler written as `async def` runs as a task of its own, another one in a bounded pool of threads;
both in a fresh copy of the context, so that the call (`rowcall.context.current`) follows into child tasks and threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import time
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from typing import Final, ParamSpec, Protocol, TypeVar, cast

from google.protobuf.message import Message
from google.rpc.status_pb2 import Status

from rowcall import forks
from rowcall.context import enter
from rowcall.queue.faults import TransactionFault
from rowcall.queue.model import ClaimedJob, PolicyRow, Settlement
from rowcall.telemetry.sampling import Sampling
from rowcall.v1.job_pb2 import JobState
from rowcall_worker.running import outcomes, reports, settlements
from rowcall_worker.running.attempt import Attempt, Sink, Stop
from rowcall_worker.running.locations import raised_at
from rowcall_worker.running.slots import Cap, Slots
from rowcall_worker.running.timers import Timers
from rowcall_worker.serving.attempt import AttemptState
from rowcall_worker.serving.context import AsyncJobContext, SyncJobContext
from rowcall_worker.serving.handlers import ServedMethod
from rowcall_worker.serving.outcome_values import OutcomeValue
from rowcall_worker.serving.transaction import AttemptTransaction

CANCEL_GRACE: Final = timedelta(seconds=1)
"""How long a handler may clean up after its end was asked for before the attempt is settled without it."""
LATE: Final = 0.1
"""Seconds that a job which was claimed ahead stands in line for a slot before it is handed back: others may be free."""


# Looked up once: for every job, the enum's attribute would cost more than decoding a small request.
_SUCCEEDED: Final = JobState.JOB_STATE_SUCCEEDED


_P = ParamSpec("_P")
_T = TypeVar("_T")


class Note(Protocol):
    """Notes a failure; see rowcall.incidents.recorder."""

    def __call__(self, error: BaseException, *, method: str, code: int, trace_id: str) -> None:
        """See Incidents.note."""


class ContextThreads(ThreadPoolExecutor):
    """Threads that run what they are given in a copy of the context of whoever gives it, as `asyncio.to_thread` does."""

    def __init__(self) -> None:
        super().__init__(thread_name_prefix="rowcall-default")

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """See concurrent.futures.Executor."""
        return super().submit(partial(contextvars.copy_context().run, fn, *args, **kwargs))


class HandlerSpans(Protocol):
    """See rowcall_worker.running.handler_spans."""

    def enter(self, attempt: AttemptState) -> None:
        """Makes the attempt the parent of spans that are begun in the running context, which must be nobody else's."""


class Executor:
    """Runs attempts, at most as many as there are slots."""

    def __init__(
        self,
        *,
        worker: str,
        slots: int,
        threads: int,
        max_response_bytes: int,
        note: Note | None = None,
        sampling: Sampling | None = None,
        handler_spans: HandlerSpans | None = None,
    ) -> None:
        """Args:
        worker: The worker process's name.
        slots: How many async handlers run at once.
        threads: How many sync handlers run at once.
        max_response_bytes: A larger response fails its job.
        note: Is told of each failure that nobody meant; waits for nothing and raises nothing. None: nobody is.
        sampling: Says which traces are recorded; None: who asks for it.
        handler_spans: Has spans of handlers' own lie under their attempts, where somebody wants spans.
        """
        self.async_slots = Slots(slots)
        self.sync_slots = Slots(threads)
        self._worker = worker
        self._max_response_bytes = max_response_bytes
        self._note = note
        self._sampling = sampling
        self._handler_spans = handler_spans
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="rowcall-handler")
        self._loop = asyncio.get_running_loop()
        # What handlers give to `loop.run_in_executor(None, …)` goes on in their context.
        self._loop.set_default_executor(ContextThreads())
        forks.watch(self._loop)
        self._closing: set[asyncio.Task[None]] = set()
        self._in_line: deque[tuple[float, Attempt]] = deque()
        """What was claimed ahead, and when; those that have begun since are left out when it is their turn."""
        self._looking = False
        self._timers: Timers[Attempt] = Timers(self._time_over)
        # Bound once, not for every attempt.
        self._make_transaction = self._transaction
        # What the process had set up when it started, for every attempt afresh; never another attempt's.
        self._context = contextvars.copy_context()

    def slots_of(self, method: ServedMethod) -> Slots:
        """The slots that a method's attempts take."""
        return self.async_slots if method.is_async else self.sync_slots

    def start(
        self, job: ClaimedJob, method: ServedMethod, policy: PolicyRow, sink: Sink, *, cap: Cap | None = None
    ) -> Attempt:
        """Starts an attempt at a claimed job, as soon as a slot is not in use.

        Its place was taken, and its place under its queue's cap; both are given back when the handler has returned.
        """
        attempt = Attempt(
            job,
            method,
            policy,
            sink=sink,
            slots=self.async_slots if method.is_async else self.sync_slots,
            cap=cap,
            worker=self._worker,
        )
        attempt.abilities = sink.abilities
        attempt.make_transaction = self._make_transaction
        attempt.sampling = self._sampling
        if self._handler_spans is not None:
            attempt.recorded = []
        attempt.slots.run(partial(self._begin, attempt))
        if not attempt.begun:
            self._in_line.append((time.monotonic(), attempt))
            if not self._looking:
                self._looking = True
                self._loop.call_later(LATE, self._look_for_late)
        return attempt

    def cancel(self, attempt: Attempt) -> None:
        """Ends an attempt whose job somebody cancelled; one that is being ended already is left to that."""
        if attempt.stop is None and not attempt.ended:
            self._end(attempt, Stop.CANCELLED)

    def drop(self, attempt: Attempt) -> None:
        """Ends an attempt whose result no longer counts. Its handler is cancelled, or told so if it is in a thread."""
        attempt.settled = True
        attempt.give_up()
        if attempt.transaction is not None:
            attempt.transaction.cut()
        self._stop(attempt, Stop.DROPPED)
        _mark_stuck(attempt)

    def close(self) -> None:
        """Lets the threads go; those that still run a handler are not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _begin(self, attempt: Attempt) -> bool:
        if attempt.ended:
            return False
        attempt.begun = True
        seconds = allowed_time(attempt.job, attempt.policy).total_seconds()
        attempt.began_at = time.monotonic()
        attempt.deadline = attempt.began_at + seconds
        attempt.timer = self._timers.start(attempt, seconds)
        context = self._context.copy()
        if attempt.method.is_async:
            attempt.task = self._loop.create_task(self._run(attempt), context=context)
        else:
            self._threads.submit(context.run, self._run_in_thread, attempt)
        return True

    def _look_for_late(self) -> None:
        """Hands back what was claimed ahead and stands in line for too long: the jobs before it are slower than of late."""
        self._looking = False
        now = time.monotonic()
        late: dict[Sink, list[Attempt]] = {}
        while self._in_line:
            since, attempt = self._in_line[0]
            if not (attempt.begun or attempt.ended):
                if now < since + LATE:
                    self._looking = True
                    self._loop.call_later(since + LATE - now, self._look_for_late)
                    break
                self.drop(attempt)
                late.setdefault(attempt.sink, []).append(attempt)
            self._in_line.popleft()
        for sink, attempts in late.items():
            sink.give_back(attempts)

    async def _run(self, attempt: Attempt) -> None:
        # For good: its context is its own, and ends with it.
        enter(attempt)
        if self._handler_spans is not None:
            self._handler_spans.enter(attempt)
        try:
            request = _decode(attempt)
            result = await cast("Awaitable[Message]", attempt.method.behaviour(request, AsyncJobContext(attempt)))
        except BaseException as error:  # whatever a handler raises is its attempt's outcome
            if isinstance(error, GeneratorExit) and asyncio.current_task(self._loop) is not attempt.task:
                # Not the handler's own: the coroutine is being closed, with a loop that is no more.
                raise
            self._finish(attempt, None, error)
        else:
            self._finish(attempt, result, None)

    def _run_in_thread(self, attempt: Attempt) -> None:
        result: object = None
        raised: BaseException | None = None
        enter(attempt)
        if self._handler_spans is not None:
            self._handler_spans.enter(attempt)
        try:
            request = _decode(attempt)
            result = attempt.method.behaviour(request, SyncJobContext(attempt))
        except BaseException as error:  # noqa: BLE001  as above
            raised = error
        if forks.in_child():
            forks.leave(raised)
        # The loop may have been closed without waiting for this handler; its job was handed back then.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._finish, attempt, result, raised)

    def _finish(self, attempt: Attempt, result: object, error: BaseException | None) -> None:
        """The handler has returned or raised, or was never begun."""
        if forks.in_child():
            forks.leave(error)
        if attempt.ended:
            return
        attempt.ended = True
        # Its task's context has the attempt in it: together they would be left to the garbage collector.
        attempt.task = None
        self._stop_timer(attempt)
        if attempt.stuck:
            attempt.slots.unstick()
        if attempt.begun:
            attempt.slots.done()
        attempt.slots.give(1)
        if attempt.cap is not None:
            attempt.cap.give(1)
        attempt.give_up()
        lost = attempt.transaction.seal() if attempt.transaction is not None else None
        if not attempt.settled:
            attempt.settled = True
            try:
                settlement = self._outcome(attempt, result, settlements.with_transaction(error, lost))
            except BaseException as fault:  # noqa: BLE001  a fault of ours must not leave the job without an outcome
                reports.outcome_failed(attempt, fault)
                settlement = outcomes.unwritable(attempt)
                self._incident(attempt, fault, settlement)
            else:
                # What the handler said itself, by abort, by a code or by an outcome, is its answer and no fault.
                if error is not None and attempt.stop is None and attempt.code is None:
                    self._incident(attempt, error, settlement)
            attempt.sink.settle(attempt, settlement)
        elif attempt.transaction is not None:
            self._close(attempt.transaction)
        attempt.sink.abilities.progress.forget(attempt.job)
        for callback in attempt.finish():
            self._call_back(attempt, callback)
        attempt.sink.ended(attempt)

    def _incident(self, attempt: Attempt, error: BaseException, settlement: Settlement) -> None:
        if self._note is not None and settlement.error_code is not None and not isinstance(error, OutcomeValue):
            self._note(
                error,
                method=attempt.method.name,
                code=settlement.error_code,
                trace_id=attempt.call.trace.trace_id,
            )

    def _outcome(self, attempt: Attempt, result: object, error: BaseException | None) -> Settlement:
        if attempt.stop in (Stop.TIMEOUT, Stop.DEADLINE, Stop.TRANSACTION):
            return settlements.stopped(attempt)
        valued = isinstance(error, OutcomeValue) and attempt.abort is None
        said = None if valued else outcomes.said_status(attempt)
        if said is not None and not (isinstance(error, TransactionFault) and error.stands):
            # It stands whatever became of the exception, and the response is discarded: as in gRPC.
            return settlements.failed(
                attempt,
                outcomes.failure(attempt, said.status, wrong=said.wrong),
                error if attempt.abort is None else None,
                location=raised_at(attempt.method.behaviour, error),
            )
        if error is not None:
            return settlements.raised(attempt, error)
        try:
            encoded = outcomes.encode_result(attempt.method, result, max_bytes=self._max_response_bytes)
        except BaseException as refused:  # noqa: BLE001  ours say what is wrong; a serializer may raise anything
            settlement = settlements.failed(attempt, outcomes.failure(attempt, refused), refused)
            self._incident(attempt, refused, settlement)
            return settlement
        if isinstance(encoded, Status):
            return settlements.failed(attempt, outcomes.failure(attempt, encoded))
        job = attempt.job
        return Settlement(
            job.tenant,
            job.job_id,
            job.lease,
            _SUCCEEDED,
            encoded,
            span_id=attempt.span_id,
        )

    def _time_over(self, attempt: Attempt) -> None:
        # The whole job's deadline, where it comes before the end of the attempt's own time.
        by_deadline = allowed_time(attempt.job, attempt.policy) < attempt.policy.timeout
        self._end(attempt, Stop.DEADLINE if by_deadline else Stop.TIMEOUT)

    def _stop_timer(self, attempt: Attempt) -> None:
        if attempt.timer is not None:
            self._timers.stop(attempt, attempt.timer)
            attempt.timer = None

    def _end(self, attempt: Attempt, why: Stop) -> None:
        """Ends an attempt that is to be settled accordingly, with or without its handler."""
        self._stop_timer(attempt)
        self._stop(attempt, why)
        if not attempt.ended:
            attempt.timer = self._loop.call_later(CANCEL_GRACE.total_seconds(), self._give_up, attempt)

    def _give_up(self, attempt: Attempt) -> None:
        """The handler goes on although its end was asked for: its attempt is settled, its slot stays taken."""
        if not attempt.settled:
            attempt.settled = True
            reports.hung(attempt)
            attempt.give_up()
            if attempt.transaction is not None:
                attempt.transaction.cut()
            attempt.sink.settle(attempt, settlements.stopped(attempt))
            _mark_stuck(attempt)

    def _stop(self, attempt: Attempt, why: Stop) -> None:
        attempt.stop = why
        attempt.cancelled = True
        if not attempt.begun:
            self._finish(attempt, None, asyncio.CancelledError())
        elif attempt.task is not None and not attempt.ended:
            # A task that is cancelled before its first step never enters its coroutine.
            attempt.task.add_done_callback(lambda _: self._finish(attempt, None, asyncio.CancelledError()))
            attempt.task.cancel()

    def _transaction(self, state: AttemptState) -> AttemptTransaction:
        # Every state that was given this function is one of ours.
        attempt = cast("Attempt", state)

        def expired() -> None:
            if attempt.stop is None and not attempt.ended:
                self._end(attempt, Stop.TRANSACTION)

        return AttemptTransaction(
            attempt.sink.abilities.transactions, self._loop, threaded=not attempt.method.is_async, expired=expired
        )

    def _close(self, transaction: AttemptTransaction) -> None:
        """Gives back the connection of an attempt whose outcome is not wanted, or was settled without its handler."""
        task = self._loop.create_task(transaction.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def _call_back(self, attempt: Attempt, callback: Callable[[], object]) -> None:
        try:
            callback()
        except BaseException as error:  # noqa: BLE001  the attempt has its outcome; a callback cannot change it
            if forks.in_child():
                forks.leave(error)
            reports.callback_failed(attempt, error)
        if forks.in_child():
            forks.leave(None)


def _decode(attempt: Attempt) -> Message:
    try:
        return attempt.method.decode(attempt.job.request)
    except BaseException:  # noqa: BLE001  a deserializer may raise anything, with parts of the request in it
        raise outcomes.undecodable(attempt.method) from None


def allowed_time(job: ClaimedJob, policy: PolicyRow) -> timedelta:
    """How long an attempt may take: its method's timeout, and what is left of the job's own deadline."""
    if job.time_left is None:
        return policy.timeout
    return max(min(policy.timeout, job.time_left), timedelta(0))


def _mark_stuck(attempt: Attempt) -> None:
    if not (attempt.ended or attempt.stuck):
        attempt.stuck = True
        attempt.slots.stick()
