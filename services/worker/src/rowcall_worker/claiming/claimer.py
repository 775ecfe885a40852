"""Takes jobs of one shard, of served methods only, for free slots and for those that are about to be, and starts them.

There is one claimer for async handlers and one for sync ones, for their slots are counted apart. It goes round the
queues whose time has come: at once where the last claim was full or a hint said that there is work, later and later
where there was none. Hints only bring a look forward; the looks find everything.

Where several queues have work, each gets its share of the free slots: a queue that got a job has its next turn the later
the smaller its weight is (start-time fair queueing, as between tenants), and one that had no work saves nothing up.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import random
import time
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

import structlog

from rowcall.queue.marks import LowWaterMark, Scan
from rowcall.queue.model import ClaimedJob
from rowcall.queue.protocol import WorkQueue
from rowcall.queue.sweeps import Horizon
from rowcall.telemetry import metrics
from rowcall_worker.claiming.intake import Intake
from rowcall_worker.claiming.shares import Share
from rowcall_worker.claiming.solitude import Solitude
from rowcall_worker.membership.registration import Registrar, Registration
from rowcall_worker.running.slots import Slots
from rowcall_worker.settling.settler import Settler

BATCH: Final = 300
"""The most jobs in one claim."""
CLAIMS: Final = 2
"""How many claims may be under way at once, where there is a backlog: the next one while the last one's jobs begin."""
FEW: Final = 10
"""The most jobs in a claim that takes long: their slots are kept for it all the while."""

_FIRST_PAUSE: Final = 0.01
"""Seconds until the next look at a queue that had less than was asked for; doubles to the settings' `poll`."""
_GATHER: Final = 0.001
"""Seconds to let slots come free while a queue has more jobs than there are slots: fewer, larger claims."""
_FAILED_PAUSE: Final = 0.1
_LONGEST_FAILED_PAUSE: Final = 2.0
"""Seconds between tries while the shard does not answer; doubling."""

_log = structlog.get_logger(__name__)


class Source:
    """A queue as one claimer looks at it."""

    def __init__(self, queue_id: int, share: Share, horizon: Horizon, longest_pause: float) -> None:
        self.queue_id = queue_id
        self.share = share
        self.turn = 0.0
        """When it has its next turn, in the claimer's virtual time: jobs by weight."""
        self.mark = LowWaterMark(horizon)
        self.full = False
        """Whether the last claim got all that it asked for."""
        self._longest_pause = longest_pause
        self._pause = _FIRST_PAUSE
        self._due_at = 0.0
        self._asked = False
        """Whether a look was asked for since the last one began."""

    @property
    def due_at(self) -> float:
        """When to look at it again, in monotonic seconds."""
        return min(self._due_at, self.mark.next_sweep())

    def hinted(self) -> None:
        """There is said to be work."""
        self.mark.hinted()
        self._look_soon()

    def woken(self) -> None:
        """Somebody asked for a look; there may be work, also behind the mark."""
        self.mark.woken()
        self._look_soon()

    def _look_soon(self) -> None:
        self._asked = True
        self._pause = _FIRST_PAUSE
        self._due_at = 0.0

    def looking(self) -> None:
        """A claim is made now: it sees what those that asked for a look have written."""
        self._asked = False

    def found(self, count: int, limit: int, now: float) -> None:
        """A claim got so many of as many as it asked for."""
        self.full = count >= limit
        if count:
            self._pause = _FIRST_PAUSE
        # Who asked while the claim was under way may have written too late for it.
        again = self.full or self._asked
        self._due_at = now if again else now + self._pause * random.uniform(0.8, 1.2)  # noqa: S311  spreads
        if not count and not self._asked:
            self._pause = min(2 * self._pause, self._longest_pause)


class _Order(NamedTuple):
    """A claim that is to be made."""

    source: Source
    limit: int
    """For so many jobs; their slots are taken."""


def share_out(free: int, due: Sequence[Source], now: float) -> list[tuple[Source, int]]:
    """Shares free slots out among queues, one after the other to the one whose turn it is.

    Args:
        free: How many there are.
        due: The queues; of those whose turns are equal, the first comes first.
        now: The virtual time: no turn lies further back.

    Returns:
        Those that get some, in the order of their turns, each with how many.
    """
    turns = [(max(source.turn, now), place) for place, source in enumerate(due)]
    parts: dict[int, int] = {}
    heapq.heapify(turns)
    while free > 0 and turns:
        turn, place = turns[0]
        share = due[place].share
        parts[place] = parts.get(place, 0) + 1
        free -= 1
        if len(turns) == 1:
            parts[place] += int(min(free, share.room - parts[place]))
            break
        if parts[place] < min(share.room, BATCH):
            heapq.heapreplace(turns, (turn + 1 / share.weight, place))
        else:
            heapq.heappop(turns)
    return [(due[place], part) for place, part in parts.items()]


class Claimer:
    """Claims for one kind of handlers on one shard."""

    def __init__(
        self,
        queue: WorkQueue,
        registrar: Registrar,
        settler: Settler,
        intake: Intake,
        solitude: Solitude,
        *,
        shard: str,
        method_ids: Iterable[int],
        slots: Slots,
        horizon: Horizon,
        longest_pause: float,
    ) -> None:
        """Args:
        queue: The shard's.
        registrar: Knows under which identity to claim.
        settler: Claims wait while it has too much to write.
        intake: Starts what was claimed.
        solitude: Claims wait while something runs alone.
        shard: The shard's name, for the log.
        method_ids: What to claim, as the shard numbers it; all of one kind.
        slots: The kind's.
        horizon: The shard's.
        longest_pause: Seconds an idle queue is left alone at most.
        """
        self._queue = queue
        self._registrar = registrar
        self._settler = settler
        self._intake = intake
        self._solitude = solitude
        self._shard = shard
        self._method_ids = sorted(method_ids)
        self._slots = slots
        self._horizon = horizon
        self._longest_pause = longest_pause
        self._sources: dict[int, Source] = {}
        self._order: list[Source] = []
        self._paused: frozenset[int] = frozenset()
        self._now = 0.0
        """The virtual time: the turn that was had last."""
        self._wake = asyncio.Event()
        self._stopping = False
        self._failed_pause = 0.0
        self._backlog = asyncio.Event()
        """Set while claims get all that they ask for, or one is under way that takes long."""
        self._long = 0
        """How many claims are under way that take long: what comes meanwhile is not to wait for them."""
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Starts claiming."""
        self._tasks = [
            asyncio.create_task(self._run(further=number > 0), name=f"claim {self._shard}") for number in range(CLAIMS)
        ]

    async def stop(self) -> None:
        """Claims no more; waits for claims under way, whose jobs are handed back."""
        self._stopping = True
        self._wake.set()
        for task in self._tasks:
            # Waiting for a slot or an identity ends at once; a claim under way is shielded.
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def look_at(self, queues: Mapping[int, Share], paused: Collection[int]) -> None:
        """These are the queues to claim from, with their shares, and those of them that are paused."""
        for queue_id in queues.keys() - self._sources.keys():
            share = queues[queue_id]
            self._sources[queue_id] = Source(queue_id, share, self._horizon, self._longest_pause)
            if share.cap is not None:
                share.cap.when_freed(self._wake.set)
            self._wake.set()
        for queue_id in self._sources.keys() - queues.keys():
            del self._sources[queue_id]
        self._order = list(self._sources.values())
        self.pause(paused)

    def pause(self, queue_ids: Collection[int]) -> None:
        """These queues are paused now, and no others: those are not asked until they are resumed."""
        resumed = self._paused.difference(queue_ids)
        self._paused = frozenset(queue_ids)
        self.hinted(resumed)

    def hinted(self, queue_ids: Collection[int]) -> None:
        """These queues are said to have work."""
        for queue_id in queue_ids:
            source = self._sources.get(queue_id)
            if source is not None:
                source.hinted()
                self._wake.set()

    def hinted_all(self) -> None:
        """Any queue may have work: the database was away, and hints may have been missed."""
        for source in self._sources.values():
            source.mark.reconnected()
        self.hinted(list(self._sources))

    def woken(self) -> None:
        """Somebody asked for a look at every queue."""
        for source in self._sources.values():
            source.woken()
        self._wake.set()

    async def _run(self, *, further: bool) -> None:
        """Goes round the queues, for ever; the further ones only while there is a backlog."""
        while not self._stopping:
            if further:
                await self._backlog.wait()
            registration = await self._registrar.usable()
            await self._settler.room()
            await self._solitude.opened()
            await self._slots.wait()
            if self._backlog.is_set() and self._slots.room < min(BATCH, self._slots.capacity) // 2:
                await asyncio.sleep(_GATHER)
            self._wake.clear()
            again = await self._round(registration)
            if again:
                self._backlog.set()
                continue
            if not self._long:
                self._backlog.clear()
                if further:
                    continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._idle_time()):
                    await self._wake.wait()

    def _idle_time(self) -> float:
        due_at = min((source.due_at for source in self._open()), default=float("inf"))
        until_due = min(due_at - time.monotonic(), self._longest_pause)
        return max(until_due, self._failed_pause, 0.0)

    def _open(self) -> list[Source]:
        """The queues that may be asked."""
        return [source for source in self._order if source.queue_id not in self._paused and source.share.room > 0]

    def _due(self) -> list[Source]:
        """The queues whose time has come."""
        # Among equals each round begins one queue further on, so that with few slots all of them have their turn.
        self._order = self._order[1:] + self._order[:1]
        now = time.monotonic()
        return [source for source in self._open() if source.due_at <= now]

    def _orders(self, due: Sequence[Source]) -> deque[_Order]:
        """The claims to be made now, one a queue. They are paid for: several rounds may be under way at once."""
        orders: deque[_Order] = deque()
        for source, part in share_out(self._slots.room, due, self._now):
            limit = self._slots.take(int(min(part, source.share.room, BATCH)))
            if limit == 0:
                break
            source.share.take(limit)
            # What had no work meanwhile has its turn from now on, and nothing saved up.
            self._now = max(source.turn, self._now)
            source.turn = self._now + limit / source.share.weight
            orders.append(_Order(source, limit))
        if not orders:
            self._slots.pass_on()
        return orders

    def _refund(self, source: Source, count: int) -> None:
        """So many jobs of an order were not to be had."""
        self._slots.give(count)
        source.share.give(count)
        source.turn -= count / source.share.weight

    async def _round(self, registration: Registration) -> bool:
        """Claims once from each queue whose time has come; whether another round may be of use at once."""
        due = self._due()
        orders = self._orders(due)
        again = bool(due) and not orders
        try:
            while orders and not self._solitude.wanted and registration.usable:
                source, limit = orders.popleft()
                # Shielded from `stop`: what a claim took must be started or handed back.
                claim = asyncio.ensure_future(self._claim(registration, source, limit))
                try:
                    again = await asyncio.shield(claim) or again
                except asyncio.CancelledError:
                    await claim
                    raise
        finally:
            for source, limit in orders:
                self._refund(source, limit)
        return again or bool(orders)

    async def _claim(self, registration: Registration, source: Source, limit: int) -> bool:
        """Claims from one queue; whether there is probably more."""
        began = time.monotonic()
        scan = source.mark.scan(began)
        if scan.dear:
            spared = limit - min(limit, FEW, max(self._slots.capacity // 2, 1))
            self._refund(source, spared)
            limit -= spared
        registration.hold(limit)
        started = 0
        try:
            jobs = await self._fetch(registration, source, limit, scan, began)
            started = len(await self._intake.start(registration, jobs, source.share.cap))
        except Exception as error:  # noqa: BLE001  a claimer that ended would end the worker's work
            self._failed(registration, error)
            return False
        finally:
            self._refund(source, limit - started)
            registration.let_go(limit - started)
        self._failed_pause = 0.0
        return source.full

    async def _fetch(
        self, registration: Registration, source: Source, limit: int, scan: Scan, began: float
    ) -> Sequence[ClaimedJob]:
        source.looking()
        if scan.dear:
            self._long += 1
            self._backlog.set()
        try:
            jobs = await self._queue.claim(
                registration.worker_id, source.queue_id, self._method_ids, limit, start=scan.start
            )
        except Exception:
            source.mark.failed(scan, began=began, ended=time.monotonic())
            metrics.WRITE_ERRORS.add(1, self._shard, "claim")
            raise
        finally:
            self._long -= scan.dear
        ended = time.monotonic()
        metrics.WRITE_DURATION.record(ended - began, self._shard, "claim")
        source.mark.claimed(scan, ((job.lane, job.order_key) for job in jobs), limit=limit, began=began, ended=ended)
        source.found(len(jobs), limit, ended)
        return jobs

    def _failed(self, registration: Registration, error: Exception) -> None:
        self._intake.failed(registration, error)
        if not self._failed_pause:
            _log.warning("claims fail, trying again", shard=self._shard, exc_info=error)
        self._failed_pause = min(max(2 * self._failed_pause, _FAILED_PAUSE), _LONGEST_FAILED_PAUSE)
