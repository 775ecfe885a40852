"""Who this worker is on a shard: an identity new at each registration, with one lease for all jobs claimed under it.

A `Registrar` keeps its shard's worker registered. It takes a new identity when the old one's lease is over (what runs
under it is stopped, its results are dropped), and when a claim's connection was lost before the shard answered: the
rows may have been claimed without anybody knowing which. The old identity is then kept until what it runs has
ended, and retired, whereupon the unknown rows are rescued like those of a dead worker, but are no suspects.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import timedelta
from typing import Final, TypeVar
from uuid import UUID, uuid4

import structlog

from rowcall.errors import RowcallError
from rowcall.queue.model import (
    ATTEMPT_GRACE,
    BUSY_JOBS,
    Busy,
    ClaimedJob,
    Program,
    Renewed,
    Rescued,
    Running,
    Settlement,
)
from rowcall.queue.protocol import LeaseRenewal, WorkQueue
from rowcall.queue.sweeps import Horizon
from rowcall_worker.membership.lease import Lease
from rowcall_worker.membership.looplag import LoopLag
from rowcall_worker.running.attempt import Attempt
from rowcall_worker.running.executor import Executor, allowed_time
from rowcall_worker.serving.abilities import Abilities
from rowcall_worker.settling.settler import Outcome, Settler

_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 2.0
"""Seconds between tries to register."""
_WATCH: Final = 0.25
"""Seconds between looks at whether a lease still holds, in case its own thread is stuck."""

_LONG: Final = 1.0
"""Seconds from which on a job that runs is told of: shorter ones are over before anybody reads it."""

_News = TypeVar("_News")

_log = structlog.get_logger(__name__)


class Registration:
    """One identity: the sink of the attempts claimed under it and the holder of their outcomes."""

    def __init__(
        self,
        worker_id: UUID,
        settler: Settler,
        ended: asyncio.Event,
        abilities: Abilities,
        release: Callable[[Registration, Sequence[ClaimedJob]], None],
    ) -> None:
        """Args:
        worker_id: As registered.
        settler: Takes the outcomes.
        abilities: The shard's.
        ended: Set whenever an attempt has its outcome or has ended.
        release: Hands jobs back that were claimed under an identity and never began.
        """
        self.worker_id = worker_id
        self.abilities = abilities
        """What the shard gives to the handlers."""
        self.lost = False
        """Whether its lease is over: nothing that was claimed under it counts any more."""
        self.leaving = False
        """Whether nothing more is to be claimed under it."""
        self.attempts: set[Attempt] = set()
        """Whose handlers are running."""
        self.vacant = asyncio.Event()
        """Set when it is leaving and holds nothing any more."""
        self._settler = settler
        self._ended = ended
        self._release = release
        self._held = 0

    @property
    def usable(self) -> bool:
        """Whether jobs may be claimed under it."""
        return not (self.lost or self.leaving)

    @property
    def held(self) -> int:
        """How many jobs, and claims under way, it holds."""
        return self._held

    def hold(self, count: int) -> None:
        """Holds so many more."""
        self._held += count

    def let_go(self, count: int) -> None:
        """Holds so many fewer: their outcomes are written, or they were handed back."""
        self._held -= count
        self._look()

    def leave(self) -> None:
        """No more claims; vacant as soon as nothing is held."""
        self.leaving = True
        self._look()

    def settle(self, attempt: Attempt, settlement: Settlement) -> None:
        """Takes an attempt's outcome."""
        self._settler.put(Outcome(self, attempt, settlement))
        self._ended.set()

    def ended(self, attempt: Attempt) -> None:
        """Is told that an attempt's handler is no longer running."""
        self.attempts.discard(attempt)
        self._ended.set()

    def give_back(self, attempts: Sequence[Attempt]) -> None:
        """Takes attempts that never began, and are over, to hand their jobs back."""
        if not self.lost:
            self._release(self, [attempt.job for attempt in attempts])

    def running(self, wanted: Sequence[Running]) -> list[Attempt]:
        """Those of its attempts that run these jobs under these very lease numbers."""
        keys = {(each.tenant, each.job_id, each.lease) for each in wanted}
        return [
            attempt for attempt in self.attempts if (attempt.job.tenant, attempt.job.job_id, attempt.job.lease) in keys
        ]

    def overdue(self, now: float) -> list[Running]:
        """Those of its attempts that are past their time at this moment (monotonic), by the grace, and without an outcome.

        May be called from any thread: what hangs is perhaps the event loop.
        """
        latest = now - ATTEMPT_GRACE.total_seconds()
        return [
            Running(attempt.job.tenant, attempt.job.job_id, attempt.job.lease)
            for attempt in self.attempts.copy()
            if not attempt.settled
            and attempt.made_at <= latest - allowed_time(attempt.job, attempt.policy).total_seconds()
        ]

    def busy(self, now: float, room: Mapping[int, int]) -> Busy:
        """What runs under it at this moment (monotonic). May be called from any thread.

        Args:
            now: The moment.
            room: How many jobs of each queue the worker could run, by the shard's ids: under the identity that it claims under.
        """
        begun = [attempt for attempt in self.attempts.copy() if attempt.begun]
        in_threads = sum(not attempt.method.is_async for attempt in begun)
        long = sorted(
            (attempt for attempt in begun if attempt.made_at <= now - _LONG), key=lambda attempt: attempt.made_at
        )
        jobs = [(attempt.job.tenant, attempt.job.job_id) for attempt in long[:BUSY_JOBS]]
        queues = Counter(attempt.job.queue_id for attempt in begun)
        return Busy(len(begun) - in_threads, in_threads, jobs, queues, room if self.usable else {})

    def _look(self) -> None:
        if self.leaving and self._held <= 0:
            self.vacant.set()


class Registrar:
    """Keeps this worker registered on one shard."""

    def __init__(
        self,
        queue: WorkQueue,
        executor: Executor,
        settler: Settler,
        renewal: Callable[[UUID], LeaseRenewal],
        abilities: Abilities,
        *,
        name: str,
        program: Callable[[], Program],
        room: Callable[[], Mapping[int, int]],
        shard: str,
        length: timedelta,
        release: Callable[[Registration, Sequence[ClaimedJob]], None],
        parted: Callable[[], None],
        paused: Callable[[Collection[int]], None],
        expired: Callable[[Sequence[Rescued]], None],
        horizon: Horizon,
        loop_lag: LoopLag,
    ) -> None:
        """Args:
        queue: Where to register.
        executor: Runs the attempts that a lost lease ends.
        settler: Takes the outcomes.
        renewal: Makes what renews the lease of an identity.
        abilities: What the shard gives to its handlers.
        name: The worker process's name.
        program: What the process is, for people.
        room: How many jobs of each queue the process could run, by the shard's ids; called in threads.
        shard: The shard's, for the log.
        length: How long a lease holds without being renewed.
        release: Hands jobs back that were claimed under an identity and never began.
        parted: Called when an identity was retired, for what it still held is to be rescued.
        paused: Called at each renewal with the queues that are paused.
        expired: Called with attempts of this worker's that the shard ended, because nobody here did in time.
        horizon: Is told of the shard's moments.
        loop_lag: The process's; told with each renewal.
        """
        self._queue = queue
        self._executor = executor
        self._settler = settler
        self._renewal = renewal
        self._abilities = abilities
        self._release = release
        self._name = name
        self._program = program
        self._room = room
        self._shard = shard
        self._length = length
        self._parted = parted
        self._paused = paused
        self._expired = expired
        self._horizon = horizon
        self._loop_lag = loop_lag
        self._some_ended = asyncio.Event()
        self._current: Registration | None = None
        self._leases: dict[Registration, Lease] = {}
        self._wanted = asyncio.Event()
        self._usable = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._keeper: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()

    @property
    def registrations(self) -> list[Registration]:
        """Those whose lease is being renewed."""
        return list(self._leases)

    @property
    def worker_id(self) -> UUID | None:
        """The present identity; None while there is none."""
        current = self._current
        return current.worker_id if current is not None and current.usable else None

    async def register(self) -> None:
        """Registers under a new identity. Raises RowcallError."""
        worker_id = uuid4()
        asked_at = time.monotonic()
        await self._queue.register_worker(worker_id, self._name, self._length, self._program())
        registration = Registration(worker_id, self._settler, self._some_ended, self._abilities, self._release)
        reading = self._loop_lag.reading()
        lease = Lease(
            worker_id,
            self._length,
            self._renewal(worker_id),
            lambda why: self._from_thread(self._over, registration, why),
            lambda renewed, sent_at: self._from_thread(self._renewed, registration, (renewed, sent_at)),
            overdue=registration.overdue,
            expired=lambda ended: self._from_thread(self._ended_by_shard, registration, ended),
            loop_lag=reading.take,
            busy=lambda now: registration.busy(now, self._room()),
            asked_at=asked_at,
            shard=self._shard,
        )
        lease.start()
        self._leases[registration] = lease
        self._current = registration
        self._usable.set()
        _log.info("registered", shard=self._shard, worker=self._name, worker_id=str(worker_id))

    def start(self) -> None:
        """Keeps the worker registered from now on."""
        self._keeper = asyncio.create_task(self._keep(), name=f"register {self._shard}")

    async def usable(self) -> Registration:
        """The present identity; waits until there is one."""
        while self._current is None or not self._current.usable:
            self._usable.clear()
            await self._usable.wait()
        return self._current

    def doubt(self, registration: Registration) -> None:
        """A claim under this identity may have taken rows that nobody knows of: another identity is taken."""
        if registration.usable:
            _log.warning(
                "a claim was lost on its way back; taking a new identity",
                shard=self._shard,
                worker_id=str(registration.worker_id),
            )
            self._part(registration)

    def renew_now(self, worker_ids: Collection[UUID]) -> None:
        """Renews the leases of those of these identities that are this worker's: there is news for them."""
        for registration, lease in self._leases.items():
            if registration.worker_id in worker_ids:
                lease.renew_now()

    async def ended(self) -> None:
        """Waits until an attempt under any identity has its outcome or has ended."""
        self._some_ended.clear()
        await self._some_ended.wait()

    async def leave(self) -> None:
        """Gives every identity up, for good: the shard rescues at once what they still hold."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for registration in self.registrations:
            registration.leave()
            await self._retire(registration)

    async def _keep(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_WATCH):
                    await self._wanted.wait()
            for registration, lease in list(self._leases.items()):
                if not lease.held:
                    self._over(registration, "could not be renewed in time")
            if self._wanted.is_set():
                await self._register_again()
                self._wanted.clear()

    async def _register_again(self) -> None:
        pause = _FIRST_PAUSE
        while True:
            try:
                await self.register()
            except RowcallError as error:
                _log.warning("not registered, trying again", shard=self._shard, error=str(error))
                await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311  spreads, guards nothing
                pause = min(2 * pause, _LONGEST_PAUSE)
            else:
                return

    def _from_thread(
        self, call: Callable[[Registration, _News], None], registration: Registration, news: _News
    ) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the process ends
            self._loop.call_soon_threadsafe(call, registration, news)

    def _renewed(self, registration: Registration, news: tuple[Renewed, float]) -> None:
        """What the shard said with a renewal. What came too late finds nothing: lease numbers are compared."""
        renewed, sent_at = news
        if renewed.moment is not None:
            self._horizon.heard(renewed.moment, sent_at)
        for attempt in registration.running(renewed.cancelled) if renewed.cancelled else ():
            self._executor.cancel(attempt)
        if registration is self._current:
            self._paused(renewed.paused_queues)

    def _ended_by_shard(self, _: Registration, ended: Sequence[Rescued]) -> None:
        self._expired(ended)

    def _over(self, registration: Registration, why: str) -> None:
        """The lease is over: others may run its jobs by now."""
        if registration.lost or registration not in self._leases:
            return
        registration.lost = True
        _log.error(
            "lease lost, dropping what runs under it",
            shard=self._shard,
            worker_id=str(registration.worker_id),
            reason=why,
            jobs=len(registration.attempts),
        )
        for attempt in list(registration.attempts):
            self._executor.drop(attempt)
        registration.vacant.set()
        self._part(registration)

    def _part(self, registration: Registration) -> None:
        """Takes another identity, and retires this one as soon as it holds nothing."""
        registration.leave()
        if self._current is registration:
            self._current = None
            self._wanted.set()
        task = asyncio.create_task(self._retire_when_vacant(registration), name=f"retire {self._shard}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _retire_when_vacant(self, registration: Registration) -> None:
        await registration.vacant.wait()
        await self._retire(registration)

    async def _retire(self, registration: Registration) -> None:
        lease = self._leases.pop(registration, None)
        if lease is None:
            return
        lease.stop()
        try:
            # Unless its lease was lost, this worker is well: what is left under it never began, or was to be handed back.
            await self._queue.retire_worker(registration.worker_id, unharmed=not registration.lost)
        except RowcallError as error:
            # Its lease ends by itself, and its jobs are rescued then.
            _log.warning(
                "identity not retired",
                shard=self._shard,
                worker_id=str(registration.worker_id),
                error=str(error),
            )
        else:
            self._parted()
