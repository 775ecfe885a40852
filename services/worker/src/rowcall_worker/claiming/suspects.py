"""Runs one shard's suspects alone in this process: jobs that were lost with their worker twice in a row. What kills its worker
alone is known.

That is the way of a worker that is a part of somebody's program. One that is a command has another process run them
(`rowcall_worker.claiming.quarantine`), and does so itself only while that cannot be started.

A process that runs nothing takes suspects at once. A busy one goes quiet for them when one has waited too long: it
claims no more, lets what runs end, and runs them one by one. Only one worker of a shard does that at a time (by an
election), for a while at most, and ordinary work has as long before the next time (`rowcall_worker.claiming.solitude`). How
long it waits for quiet depends on how long the suspect has waited: attempts that take minutes do not idle a whole
worker for a suspect of a second ago, and another may have the role after it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from typing import Final

import structlog

from rowcall.errors import RowcallError
from rowcall.queue.protocol import WorkQueue
from rowcall_worker.claiming.intake import Intake
from rowcall_worker.claiming.solitude import Solitude
from rowcall_worker.membership.registration import Registrar, Registration
from rowcall_worker.running.attempt import Attempt
from rowcall_worker.running.executor import Executor
from rowcall_worker.serving.handlers import ServedMethod
from rowcall_worker.settling.settler import Settler
from rowcall_worker.upkeep.chores import Chore, Chores

EVERY: Final = 0.5
"""Seconds between looks for suspects."""
TOO_LONG: Final = timedelta(seconds=1)
"""A suspect that has waited so long is worth a busy worker's going quiet."""
PERIOD: Final = 5.0
"""Seconds after which no further suspect is begun before ordinary work has had its time."""
TERM: Final = timedelta(seconds=10)
"""How long an election holds; it is renewed while the worker waits or a suspect runs."""

_BESIDE_STUCK: Final = timedelta(seconds=5)
"""A suspect that has waited so long runs beside handlers that were given up and go on, perhaps for ever."""
_LOOK: Final = 1.0
"""Seconds between looks at whether it is still worth waiting, and whether a suspect has ended."""
_LEAST_PATIENCE: Final = 5.0
_MOST_PATIENCE: Final = 600.0
_PATIENCE: Final = 0.1
"""Seconds to wait for quiet: this part of the suspect's own wait, within the two."""
_FIRST_REFUSAL: Final = 5.0
_LONGEST_REFUSAL: Final = 60.0
"""Seconds for which the role is left to others when quiet did not come, doubling."""
_WRITTEN: Final = 5.0
"""Seconds that the outcome of what ran before may take to be written: a death must not be laid on it."""
_STARVING: Final = timedelta(minutes=1)
"""A suspect that has waited so long is worth a line in the log."""
_STARVING_EVERY: Final = 600.0
"""Seconds between such lines; and between those that say that suspects run here."""

_log = structlog.get_logger(__name__)


class Suspects:
    """Looks for the suspects of one shard and runs them."""

    def __init__(
        self,
        queue: WorkQueue,
        registrar: Registrar,
        executor: Executor,
        settler: Settler,
        intake: Intake,
        *,
        solitude: Solitude,
        shard: str,
        methods: Mapping[int, ServedMethod],
        queue_names: Iterable[str],
        left: Callable[[], bool] | None = None,
    ) -> None:
        """Args:
        queue: The shard's.
        registrar: Knows under which identity to claim.
        executor: Runs what was claimed.
        settler: Has the outcomes that must be written before the next suspect runs.
        intake: Starts what was claimed.
        solitude: The process's gate.
        shard: The shard's name, for the log.
        methods: What is served, by the shard's method ids.
        queue_names: The queues that were chosen; none: all. Workers that serve the same share one role.
        left: Says whether suspects are left to another process; None: there is none.
        """
        self._queue = queue
        self._registrar = registrar
        self._executor = executor
        self._settler = settler
        self._intake = intake
        self._solitude = solitude
        self._shard = shard
        self._methods = methods
        self._method_ids = sorted(methods)
        self._queue_ids: list[int] = []
        self._role = role_of(queue_names, self._method_ids)
        self._holds_role = False
        self._not_before = 0.0
        self._refusal = _FIRST_REFUSAL
        self._told_at = float("-inf")
        self._left = left
        self._said_at = float("-inf")
        self._claiming: asyncio.Future[Attempt | None] | None = None
        self._chores = Chores([Chore("run suspects alone", self._look, EVERY)], shard=shard)

    def look_at(self, queue_ids: Iterable[int]) -> None:
        """These are the queues to claim from."""
        self._queue_ids = sorted(queue_ids)

    def start(self) -> None:
        """Starts looking."""
        self._chores.start()

    async def stop(self) -> None:
        """Claims no more; what a claim under way brings is handed back. What runs alone goes on."""
        await self._chores.stop()
        if self._claiming is not None:
            await asyncio.gather(self._claiming, return_exceptions=True)

    async def _look(self) -> None:
        if self._left is not None and self._left():
            return
        waits = await self._waits()
        if waits is None:
            self._refusal = _FIRST_REFUSAL
            return
        self._tell(waits)
        if self._solitude.stuck and waits < _BESIDE_STUCK:
            return
        if self._solitude.idle:
            async with self._solitude.shut(busy=False) as shut:
                if shut:
                    await self._run_all()
        elif waits > TOO_LONG and self._may_go_quiet() and await self._elected():
            try:
                await self._go_quiet(waits)
            finally:
                await self._give_role_up()

    def _may_go_quiet(self) -> bool:
        return self._solitude.rested and time.monotonic() >= self._not_before

    async def _go_quiet(self, waits: timedelta) -> None:
        async with self._solitude.shut(busy=True) as shut:
            if not shut:
                return
            if await self._quiet(patience(waits)):
                self._refusal = _FIRST_REFUSAL
                await self._run_all()
                return
        # Another worker may find quiet sooner; the next one that asks gets the role.
        self._not_before = time.monotonic() + self._refusal * random.uniform(0.8, 1.2)  # noqa: S311  spreads
        self._refusal = min(2 * self._refusal, _LONGEST_REFUSAL)

    async def _quiet(self, seconds: float) -> bool:
        """Waits until nothing runs, for as long as there is a suspect."""
        until = time.monotonic() + seconds
        while not await self._solitude.quiet(min(_LOOK, max(until - time.monotonic(), 0.0))):
            if time.monotonic() >= until:
                return False
            await self._keep_role()
            if await self._waits() is None:
                return False
        return True

    async def _run_all(self) -> None:
        """Runs suspects one by one, until there is none or ordinary work has waited long enough."""
        self._say()
        until = time.monotonic() + PERIOD
        while time.monotonic() < until and await self._run_one():
            pass

    async def _run_one(self) -> bool:
        """Runs a suspect; whether another one may be run after it."""
        try:
            async with asyncio.timeout(_WRITTEN):
                await self._settler.flushed()
                registration = await self._registrar.usable()
        except TimeoutError:
            return False
        # Shielded from `stop`: what a claim took must be started or handed back.
        self._claiming = asyncio.ensure_future(self._claim(registration))
        attempt = await asyncio.shield(self._claiming)
        if attempt is None:
            return False
        while not (attempt.settled or attempt.ended):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK):
                    await self._registrar.ended()
            await self._keep_role()
        # A handler that goes on although its attempt is over is no company for another suspect.
        return not self._solitude.stuck and await self._solitude.quiet(_LOOK)

    async def _claim(self, registration: Registration) -> Attempt | None:
        # Handlers that were given up and go on may have every slot of their kind. Nobody takes one meanwhile.
        method_ids = [each for each in self._method_ids if self._executor.slots_of(self._methods[each]).free]
        if not method_ids:
            return None
        registration.hold(1)
        started = False
        try:
            jobs = await self._queue.claim_suspects(registration.worker_id, self._queue_ids, method_ids, 1)
            if not jobs:
                return None
            (job,) = jobs
            slots = self._executor.slots_of(self._methods[job.method_id])
            slots.take(1)
            try:
                attempts = await self._intake.start(registration, [job])
                started = bool(attempts)
            finally:
                if not started:
                    slots.give(1)
        except Exception as error:
            self._intake.failed(registration, error)
            raise
        finally:
            if not started:
                registration.let_go(1)
        return attempts[0] if attempts else None

    async def _waits(self) -> timedelta | None:
        """For how long the oldest suspect that this worker could run has waited; None: there is none."""
        return await self._queue.suspect_waits(self._queue_ids, self._method_ids) if self._queue_ids else None

    async def _elected(self) -> bool:
        worker_id = self._registrar.worker_id
        self._holds_role = worker_id is not None and await self._queue.elect(self._role, worker_id, TERM)
        return self._holds_role

    async def _keep_role(self) -> None:
        """Renews the role, where it is held. That somebody else has it by now harms nothing."""
        if self._holds_role:
            with contextlib.suppress(RowcallError):
                await self._elected()

    async def _give_role_up(self) -> None:
        worker_id = self._registrar.worker_id
        if self._holds_role and worker_id is not None:
            self._holds_role = False
            with contextlib.suppress(RowcallError):
                await self._queue.elect(self._role, worker_id, timedelta(0))

    def _say(self) -> None:
        now = time.monotonic()
        if self._left is None and now - self._said_at > _STARVING_EVERY:
            self._said_at = now
            _log.warning(
                "suspects run alone in this process, one by one, and it runs nothing else meanwhile: it is no command of "
                "its own, which another process could be started from",
                shard=self._shard,
            )

    def _tell(self, waits: timedelta) -> None:
        now = time.monotonic()
        if waits > _STARVING and now - self._told_at > _STARVING_EVERY:
            self._told_at = now
            _log.warning(
                "jobs whose worker died wait for a worker that runs nothing else; another worker would have them run",
                shard=self._shard,
                seconds=round(waits.total_seconds()),
            )


def patience(waits: timedelta) -> float:
    """How long a busy worker waits for quiet, in seconds, for a suspect that has waited so long."""
    return min(max(waits.total_seconds() * _PATIENCE, _LEAST_PATIENCE), _MOST_PATIENCE)


def role_of(queue_names: Iterable[str], method_ids: Iterable[int], kind: str = "alone") -> str:
    """The role of a kind that workers share which claim from the same queues and serve the same methods of a shard."""
    said = f"{','.join(sorted(queue_names))};{','.join(map(str, sorted(method_ids)))}"
    return f"{kind}:{hashlib.sha256(said.encode()).hexdigest()[:16]}"
