"""Calls that wait for jobs: asked for in batches, woken early by hints. One `Waiters` for each shard.

What the table of finished jobs says is the truth; a hint (NOTIFY) only says that it is time to look. Without hints, or
when they get lost, a call is answered a little later. Used by the calls that wait; `links` feeds the hints in.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
import random
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from types import TracebackType
from typing import Final, NamedTuple, Self, TypeAlias
from uuid import UUID

import structlog

from rowcall.queue.model import Outcome
from rowcall.queue.protocol import JobStore
from rowcall_gateway.edge.failures import draining, too_many_waiters
from rowcall_gateway.shards.time_limits import TimeLimits, Wake

JobKey: TypeAlias = tuple[str, UUID]
"""Tenant and job."""

BATCH: Final = 500
"""How many jobs are asked for at a time."""

RECENT_HINTS: Final = 4096
"""How many hints are remembered for calls that do not wait yet: a job may be done before its submit is answered."""

TOGETHER: Final = 0.002
"""Seconds: who is due within them comes along, one question for many calls."""

_UNHEARD: Final = object()

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Pace:
    """How often a job is asked for."""

    first: timedelta
    """Until the first time."""
    most: timedelta
    """Between two times, at most."""
    growth: float = 1.6
    """Each time later than the last, by this factor."""


HINTED: Final = Pace(first=timedelta(milliseconds=50), most=timedelta(seconds=1))
"""Where a hint is expected; asking is the net below it."""

UNHINTED: Final = Pace(first=timedelta(milliseconds=8), most=timedelta(milliseconds=250), growth=1.4)
"""Where none is: hints are off, or go to the gateway that waited first."""


class Slots:
    """How many calls may wait at this gateway: a bound of its own, checked before anything is submitted."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._taken = 0

    @property
    def taken(self) -> int:
        """How many calls wait or are about to."""
        return self._taken

    def take(self) -> Self:
        """For a `with` block: holds a place for its length.

        Raises:
            RowcallError: TOO_MANY_WAITERS.
        """
        if self._taken >= self._limit:
            raise too_many_waiters(self._limit)
        return self

    def __enter__(self) -> None:
        self._taken += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._taken -= 1


class Waiting:
    """One call that waits for one job, for the length of a `with` block."""

    __slots__ = ("_waiters", "_wake", "due", "ended", "interval", "key", "leaving_at", "next", "outcome", "pace")

    key: JobKey
    """The job."""
    pace: Pace
    """How often it is asked for."""
    interval: float
    """Seconds until it is asked for again."""
    due: float
    """The loop's time when it is asked for next; infinite while it is."""
    ended: bool
    """Whether nothing more is waited for: the outcome is here, the gateway drains, or the block is over."""
    outcome: Outcome | None
    """None until it is here, and for good when the gateway drains first."""
    leaving_at: float
    """The loop's time when a draining gateway lets go of its clients' connections."""
    next: Waiting | None
    """The next call that waits for a job of this id."""

    def __init__(self, waiters: Waiters, key: JobKey, pace: Pace, due: float) -> None:
        self.key = key
        self.pace = pace
        self.interval = pace.first.total_seconds() * pace.growth
        self.due = due
        self.ended = False
        self.outcome = None
        self.leaving_at = 0.0
        self.next = None
        self._waiters = waiters
        self._wake: Wake | None = None

    def until(self, end: float) -> Wake:
        """What is to be awaited: it is done when there is an answer, or at the given time of the loop.

        No coroutine of its own: ten thousand of them are three megabytes.
        """
        wake: Wake = self._waiters.loop.create_future()
        if self.ended:
            wake.set_result(None)
        else:
            # Whoever has no time to wait still lets the others come first.
            self._wake = wake
            self._waiters.limits.end(wake, end)
        return wake

    def answer(self) -> Outcome | None:
        """The job's outcome; None if it is not there yet.

        Raises:
            RowcallError: GATEWAY_DRAINING.
        """
        if self.ended and self.outcome is None:
            raise draining(self.leaving_at - self._waiters.loop.time())
        return self.outcome

    def end(self, outcome: Outcome | None) -> None:
        """Ends the wait, with an outcome or, draining, without."""
        if not self.ended:
            self.ended = True
            self.outcome = outcome
            if self._wake is not None and not self._wake.done():
                self._wake.set_result(None)

    def __enter__(self) -> Self:
        self._waiters.enter(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.ended = True
        self._waiters.leave(self)


class _Drain(NamedTuple):
    """How the waits end when the gateway stops."""

    end: float
    """The loop's time by which nobody waits any more."""
    leaving_at: float
    """See `Waiting.leaving_at`."""


@dataclass(slots=True)
class _Schedule:
    """Who is to be asked for when, soonest first. Entries whose time was changed are left behind and skipped."""

    heap: list[tuple[float, int, Waiting]] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def put(self, waiting: Waiting) -> None:
        heapq.heappush(self.heap, (waiting.due, next(self.numbers), waiting))

    def next_due(self) -> float | None:
        while self.heap:
            due, _, waiting = self.heap[0]
            if due == waiting.due and not waiting.ended:
                return due
            heapq.heappop(self.heap)
        return None

    def take(self, until: float, limit: int) -> list[Waiting]:
        taken: list[Waiting] = []
        while len(taken) < limit:
            due = self.next_due()
            if due is None or due > until:
                break
            waiting = heapq.heappop(self.heap)[2]
            waiting.due = math.inf
            taken.append(waiting)
        return taken


class Waiters:
    """The calls that wait for jobs of one shard."""

    limits: TimeLimits
    """When they stop waiting."""
    loop: asyncio.AbstractEventLoop
    """Where they wait."""

    def __init__(self, store: JobStore, *, shard: str) -> None:
        self._store = store
        self._shard = shard
        # The call that waits for a job, nearly always the only one, or the first of them: a list for each would be a
        # tenth of a kilobyte.
        self._waiting: dict[UUID, Waiting] = {}
        self._schedule = _Schedule()
        self._recent: OrderedDict[UUID, object] = OrderedDict()
        self._wake = asyncio.Event()
        self._drain: _Drain | None = None
        self._poller: asyncio.Task[None] | None = None
        self._failing = False
        self.limits = TimeLimits()
        self.loop = asyncio.get_running_loop()

    def start(self) -> None:
        """Starts asking."""
        self._poller = self.loop.create_task(self._poll_for_ever(), name=f"waiters {self._shard}")

    async def close(self) -> None:
        """Stops asking. Whoever still waits is answered that the gateway is draining."""
        if self._poller is not None:
            self._poller.cancel()
            await asyncio.wait({self._poller})
        for waiting in self._everybody():
            waiting.end(None)
        self.limits.close()

    def wait(self, key: JobKey, *, pace: Pace) -> Waiting:
        """For a `with` block: waits for a job for its length."""
        now = self.loop.time()
        if self._recent.pop(key[1], _UNHEARD) is _UNHEARD:
            now += _spread(pace.first.total_seconds())
        return Waiting(self, key, pace, now)

    def enter(self, waiting: Waiting) -> None:
        """Called by `Waiting`."""
        job_id = waiting.key[1]
        waiting.next = self._waiting.get(job_id)
        self._waiting[job_id] = waiting
        self._put(waiting)
        if self._drain is not None:
            self._end_later(waiting, self._drain)

    def leave(self, waiting: Waiting) -> None:
        """Called by `Waiting`."""
        job_id = waiting.key[1]
        first = self._waiting[job_id]
        if first is not waiting:
            before = next(each for each in _chain(first) if each.next is waiting)
            before.next = waiting.next
        elif waiting.next is not None:
            self._waiting[job_id] = waiting.next
        else:
            del self._waiting[job_id]

    def hint(self, jobs: Iterable[UUID]) -> None:
        """It may be time to look at these jobs."""
        now = self.loop.time()
        for job_id in jobs:
            first = self._waiting.get(job_id)
            if first is None:
                self._recent[job_id] = None
                if len(self._recent) > RECENT_HINTS:
                    self._recent.popitem(last=False)
                continue
            for waiting in _chain(first):
                waiting.due = now
                self._put(waiting)

    def look(self) -> None:
        """It may be time to look at every job: hints may have been lost."""
        self.hint(list(self._waiting))

    def drain(self, over: timedelta, leaving_at: float) -> None:
        """Ends every wait, and those that begin from now on, spread evenly over a time.

        Args:
            over: The time.
            leaving_at: The loop's time when clients are sent away from their connections.
        """
        self._drain = _Drain(self.loop.time() + over.total_seconds(), leaving_at)
        for waiting in self._everybody():
            self._end_later(waiting, self._drain)

    def _everybody(self) -> list[Waiting]:
        return [waiting for first in self._waiting.values() for waiting in _chain(first)]

    def _end_later(self, waiting: Waiting, drain: _Drain) -> None:
        waiting.leaving_at = drain.leaving_at
        self.loop.call_later(random.uniform(0, max(drain.end - self.loop.time(), 0)), waiting.end, None)  # noqa: S311  spread

    def _put(self, waiting: Waiting) -> None:
        next_due = self._schedule.next_due()
        self._schedule.put(waiting)
        if next_due is None or waiting.due < next_due:
            self._wake.set()

    async def _poll_for_ever(self) -> None:
        loop = self.loop
        while True:
            due = self._schedule.next_due()
            self._wake.clear()
            if due is None:
                await self._wake.wait()
            elif due > loop.time():
                timer = loop.call_at(due, self._wake.set)
                try:
                    await self._wake.wait()
                finally:
                    timer.cancel()
            else:
                await self._ask(self._schedule.take(loop.time() + TOGETHER, BATCH))

    async def _ask(self, batch: Sequence[Waiting]) -> None:
        try:
            outcomes = await self._store.outcomes(list(dict.fromkeys(waiting.key for waiting in batch)))
        except Exception as error:  # noqa: BLE001 - the calls wait on, until their own time is up
            outcomes = []
            for waiting in batch:
                waiting.interval = waiting.pace.most.total_seconds()
            if not self._failing:
                _log.warning("waiting calls cannot ask for their results", shard=self._shard, exc_info=error)
            self._failing = True
        else:
            self._failing = False
        for outcome in outcomes:
            for waiting in _chain(self._waiting.get(outcome.job_id)):
                if waiting.key == (outcome.tenant, outcome.job_id):
                    waiting.end(outcome)
        for waiting in batch:
            # A hint that came meanwhile has put it in line again already.
            if not waiting.ended and waiting.due == math.inf:
                waiting.due = self.loop.time() + _spread(waiting.interval)
                waiting.interval = min(waiting.interval * waiting.pace.growth, waiting.pace.most.total_seconds())
                self._put(waiting)


def _chain(first: Waiting | None) -> Iterator[Waiting]:
    """A call that waits for a job and those behind it."""
    while first is not None:
        yield first
        first = first.next


def _spread(seconds: float) -> float:
    return seconds * random.uniform(0.8, 1.2)  # noqa: S311  spread, not secrecy
