"""One shard as this worker drains it: identity, claimers, settler, housekeeping and hints, put together.

`rowcall_worker.worker` makes one for each shard. A shard that cannot be reached at the start, or later, costs the others
nothing; it is joined when it answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Final
from uuid import UUID

import structlog

from rowcall.audit.signing import read_key
from rowcall.catalogue.images import Catalogue
from rowcall.errors import RowcallError
from rowcall.incidents.model import Noted
from rowcall.queue.depths import KnownDepths
from rowcall.queue.model import ClaimedJob, Program, QueueRow
from rowcall.queue.protocol import LeaseRenewal, QueueProvider
from rowcall.queue.sweeps import Horizon
from rowcall.queue.tally import TELL_EVERY, Tally
from rowcall.settings import SettingsError
from rowcall.sharding.bounded import bounded
from rowcall.telemetry import tallies
from rowcall_worker.claiming.claimer import Claimer
from rowcall_worker.claiming.groups import Groups
from rowcall_worker.claiming.intake import Intake
from rowcall_worker.claiming.quarantine import Apart, Command, Quarantine
from rowcall_worker.claiming.shares import Share, Shares
from rowcall_worker.claiming.solitude import Solitude
from rowcall_worker.claiming.suspects import Suspects
from rowcall_worker.claiming.wakes import Wakes
from rowcall_worker.membership.looplag import LoopLag
from rowcall_worker.membership.registration import Registrar, Registration
from rowcall_worker.running.attempt import Attempt
from rowcall_worker.running.executor import Executor
from rowcall_worker.serving.abilities import Abilities
from rowcall_worker.serving.children import Children
from rowcall_worker.serving.handlers import ServedMethod
from rowcall_worker.serving.prices import Prices
from rowcall_worker.serving.progress import ProgressBoard
from rowcall_worker.settings import WorkerSettings
from rowcall_worker.settling.settler import Settler
from rowcall_worker.settling.traces import AttemptTraces
from rowcall_worker.upkeep.chores import Chore, Chores
from rowcall_worker.upkeep.maintainer import Maintainer
from rowcall_worker.upkeep.maintenance import Maintenance, Telling
from rowcall_worker.upkeep.presence import Presence
from rowcall_worker.upkeep.room import Room
from rowcall_worker.upkeep.sealing import Sealing

if TYPE_CHECKING:
    from rowcall.telemetry.spans import Spans

DEDICATED_CONNECTIONS: Final = 3
"""A shard's connections beside the pools: lease, listening, hints. A change of identity briefly makes it four."""

_QUEUES_EVERY: Final = 1.0
"""Seconds between looks for new, paused and resumed queues."""
_FIRST_PAUSE: Final = 0.2
_LONGEST_PAUSE: Final = 5.0
"""Seconds between tries to join a shard, doubling."""
_LAST_WRITES: Final = timedelta(seconds=5)
"""How long a drain waits for outcomes to be written after the last handler has ended."""
_CLEAN_UP: Final = 1.0
"""Seconds that handlers get to end when a drain has cancelled them."""
_LAST_COUNTS: Final = 1.0
"""Seconds for the counts that were not told yet."""
_APART: Final = 2.0
"""Seconds beyond the grace in which the process for suspects, which drains meanwhile, must have ended."""

_log = structlog.get_logger(__name__)


class ShardWorker:
    """Drains one shard."""

    def __init__(
        self,
        queue: QueueProvider,
        executor: Executor,
        methods: Sequence[ServedMethod],
        settings: WorkerSettings,
        catalogue: Catalogue,
        *,
        name: str,
        program: Callable[[], Program],
        shares: Shares,
        solitude: Solitude,
        prices: Prices,
        loop_lag: LoopLag,
        spans: Spans | None = None,
        command: Command | None = None,
        apart: Apart | None = None,
    ) -> None:
        """Args:
        queue: The shard's.
        executor: The process's.
        methods: What is served.
        settings: The process's.
        catalogue: The methods that handlers may submit jobs of.
        name: The worker process's name.
        program: What the process is, for people.
        shares: What each queue may have of the process.
        solitude: The process's.
        prices: The process's.
        loop_lag: The process's.
        spans: Where attempts are told of; None: nobody wants spans.
        command: What executes this program anew; None: suspects run in this process.
        apart: This is the process that runs suspects and nothing else; None: it is not.
        """
        self.name = queue.shard
        self._provider = queue
        self._executor = executor
        self._methods = methods
        self._settings = settings
        self._queue = queue.work()
        self._notifier = queue.notifier("hints")
        self._listener = queue.work_listener(
            "listen",
            ready=self._have_work,
            cancel=self._cancelled,
            wake=self._woken,
            connected=self._listening,
        )
        self._shares = shares
        self._solitude = solitude
        self._tally = Tally(self._queue_name)
        self._telling = telling = Telling(self._ready, self._done, self._tally)
        self._counting = Chores((Chore("tell what happened to jobs", self._tell, TELL_EVERY),), shard=self.name)

        def worker_id() -> UUID | None:
            return self._registrar.worker_id

        self._horizon = Horizon()
        self._maintenance = Maintenance(
            self._queue, shard=self.name, worker_id=worker_id, horizon=self._horizon, telling=telling
        )
        self._maintainer = Maintainer(
            self._queue,
            shard=self.name,
            worker_id=worker_id,
            horizon=self._horizon,
            telling=telling,
            sealing=Sealing(
                self._queue,
                shard=self.name,
                retention=settings.audit_retention,
                key=None if settings.audit_key_file is None else read_key(settings.audit_key_file),
            ),
        )
        self._wakes = Wakes(self._look, self._maintenance.promote_now, queues=lambda: self._looked_at)
        self._settler = Settler(
            self._queue,
            shard=self.name,
            done=self._done,
            again=self._maintenance.due_in,
            ready=self._ready,
            tally=self._tally,
            hints=settings.uses_hints,
            traces=AttemptTraces(
                spans,
                shard=self.name,
                queue_name=self._queue_name,
                linked=settings.trace_relation == "link",
                every_line=settings.attempt_lines == "all",
            ),
        )
        self._abilities = Abilities(
            transactions=self._queue.transactions(settings.transaction_limits),
            children=Children(catalogue, self._queue, max_request_bytes=settings.max_request_bytes),
            progress=ProgressBoard(self._queue, prices, shard=self.name),
        )
        self._room = Room(self._queue, shard=self.name, queues=lambda: self._queue_names, share_of=shares.of)
        self._registrar = Registrar(
            self._queue,
            executor,
            self._settler,
            self._renewal,
            self._abilities,
            name=name,
            program=program,
            room=self._room.slots,
            shard=self.name,
            length=settings.lease,
            release=self._return_late,
            parted=self._maintenance.rescue_soon,
            paused=self._paused,
            expired=lambda ended: telling.overdue(ended, self.name),
            horizon=self._horizon,
            loop_lag=loop_lag,
        )
        self._intake: Intake | None = None
        self._claimers: list[Claimer] = []
        self._command = command
        self._apart = apart
        self._suspects: Suspects | None = None
        self._presence: Presence | None = None
        self.depths = KnownDepths(self.name, self._queue.depths)
        """What the shard stands at, where somebody asks this process."""
        self._quarantine: Quarantine | None = None
        self._groups: Groups | None = None
        self._queue_names: Mapping[int, str] = {}
        """Of all queues that are known."""
        self._looked_at = 0
        self._look_for_queues = asyncio.Event()
        self._watcher: asyncio.Task[None] | None = None

    @property
    def trouble(self) -> str:
        """Why nothing is claimed here now; empty: it is."""
        if self._intake is None:
            return "was not joined yet"
        return "" if self._registrar.worker_id is not None else "has no lease here, and is registering again"

    async def record_incidents(self, noted: Sequence[Noted]) -> Sequence[str]:
        """See WorkQueue.record_incidents."""
        return await self._queue.record_incidents(noted)

    async def join(self) -> None:
        """Checks the shard, registers, and starts draining it.

        Raises:
            RowcallError: SCHEMA_MISMATCH if this release cannot work with it; otherwise it cannot be reached now.
        """
        await self._provider.check()
        by_id = {await self._queue.method_id(method.name): method for method in self._methods}
        queues = await self._queue.queues()
        await self._registrar.register()
        self._settler.start()
        self._registrar.start()
        self._counting.start()
        if self._apart is None:
            # What comes round is for those to do that are there for long; and who has suspects only serves no queue.
            self._maintenance.start()
            self._maintainer.start()
            self._presence = Presence(
                self._queue,
                shard=self.name,
                worker_id=lambda: self._registrar.worker_id,
                methods={method_id: method.name for method_id, method in by_id.items()},
                queues=self._shares.names,
            )
            self._presence.start()
            self._room.start({method.name: self._executor.slots_of(method) for method in self._methods})
        if tallies.are_kept():
            self.depths.start()
        self._intake = Intake(self._queue, self._registrar, self._executor, self._telling, self._tally, methods=by_id)
        if self._apart is None:
            self._claim_for(self._intake, by_id)
        else:
            self._groups = Groups(
                self._queue,
                self._registrar,
                self._executor,
                self._settler,
                self._intake,
                solitude=self._solitude,
                shard=self.name,
                methods=by_id,
                apart=self._apart,
            )
        self._look_at(queues)
        for each in (self._groups, self._quarantine, self._suspects, *self._claimers):
            if each is not None:
                each.start()
        self._watcher = asyncio.create_task(self._watch_queues(), name=f"watch queues {self.name}")
        if self._notifier is not None and self._listener is not None:
            self._notifier.start()
            self._listener.start()

    def _claim_for(self, intake: Intake, by_id: Mapping[int, ServedMethod]) -> None:
        """Makes what claims ordinary jobs, and what becomes of suspects."""
        if self._command is not None:
            self._quarantine = Quarantine(
                self._queue,
                self._registrar,
                command=self._command,
                shard=self.name,
                method_ids=by_id,
                queue_names=self._shares.names,
            )
        self._suspects = Suspects(
            self._queue,
            self._registrar,
            self._executor,
            self._settler,
            intake,
            solitude=self._solitude,
            shard=self.name,
            methods=by_id,
            queue_names=self._shares.names,
            left=None if self._quarantine is None else self._quarantine.is_usable,
        )
        for is_async, slots in ((True, self._executor.async_slots), (False, self._executor.sync_slots)):
            method_ids = [method_id for method_id, method in by_id.items() if method.is_async is is_async]
            if method_ids:
                self._claimers.append(
                    Claimer(
                        self._queue,
                        self._registrar,
                        self._settler,
                        intake,
                        self._solitude,
                        shard=self.name,
                        method_ids=method_ids,
                        slots=slots,
                        horizon=self._horizon,
                        longest_pause=self._settings.poll.total_seconds() / (1 if self._settings.uses_hints else 4),
                    )
                )

    async def join_when_reachable(self) -> None:
        """Joins as soon as the shard lets it, however long that takes."""
        pause = _FIRST_PAUSE
        while True:
            await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311  spreads, guards nothing
            pause = min(2 * pause, _LONGEST_PAUSE)
            try:
                await self.join()
            except (RowcallError, SettingsError) as error:
                _log.warning("shard not joined, trying again", shard=self.name, error=str(error))
            else:
                _log.info("shard joined", shard=self.name)
                return

    async def stop_claiming(self) -> None:
        """The first step of a drain."""
        if self._intake is not None:
            self._intake.close()
            parts = (self._groups, self._quarantine, self._suspects, *self._claimers)
            await asyncio.gather(*(each.stop() for each in parts if each is not None))

    async def finish(self, grace: float) -> int:
        """Waits for what runs; hands back what has not ended when the grace (seconds) is over. How many that were."""
        if self._quarantine is None:
            return await self._finish(grace)
        handed_back, _ = await asyncio.gather(self._finish(grace), self._quarantine.gone(grace + _APART))
        return handed_back

    async def _finish(self, grace: float) -> int:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace):
                while self._unfinished():
                    await self._registrar.ended()
        handed_back = await self._hand_back()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_WRITES.total_seconds()):
                await self._settler.flushed()
        return handed_back

    async def leave(self) -> None:
        """Ends everything on this shard; what it still holds is rescued by others at once."""
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)
        if self._listener is not None:
            await self._listener.close()
        self._wakes.close()
        await self._maintenance.stop()
        await self._maintainer.stop()
        if self._presence is not None:
            await self._presence.stop()
        await self._room.stop()
        await self.depths.stop()
        await self._abilities.progress.stop()
        await self._settler.stop()
        await self._registrar.leave()
        await self._counting.stop()
        with contextlib.suppress(RowcallError, TimeoutError):
            await bounded(self._tell(), _LAST_COUNTS)
        if self._notifier is not None:
            await self._notifier.close()
        await self._queue.close()

    async def _tell(self) -> None:
        await self._tally.tell(self._queue.tell)

    async def _hand_back(self) -> int:
        unfinished = self._unfinished()
        if not unfinished or self._intake is None:
            return 0
        for attempt in unfinished:
            self._executor.drop(attempt)
        tasks = [attempt.task for attempt in unfinished if attempt.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=_CLEAN_UP)
        try:
            await self._intake.release([attempt.job for attempt in unfinished])
        except RowcallError as error:
            # They are rescued when the identity is retired; that counts as lost with their worker.
            _log.warning("jobs not handed back", shard=self.name, jobs=len(unfinished), error=str(error))
        else:
            _log.info("jobs handed back", shard=self.name, jobs=len(unfinished))
        return len(unfinished)

    def _unfinished(self) -> list[Attempt]:
        return [
            attempt
            for registration in self._registrar.registrations
            for attempt in registration.attempts
            if not attempt.settled
        ]

    def _return_late(self, registration: Registration, jobs: Sequence[ClaimedJob]) -> None:
        if self._intake is not None:
            self._intake.return_late(registration, jobs)

    def _renewal(self, worker_id: UUID) -> LeaseRenewal:
        return self._provider.renewal(worker_id, self._settings.lease)

    async def _watch_queues(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_QUEUES_EVERY):
                    await self._look_for_queues.wait()
            self._look_for_queues.clear()
            # When the shard does not answer, the claims say so.
            with contextlib.suppress(RowcallError):
                self._look_at(await self._queue.queues())

    def _look_at(self, queues: Sequence[QueueRow]) -> None:
        self._queue_names = {queue.queue_id: queue.name for queue in queues}
        found = {queue.queue_id: self._shares.of(queue.name) for queue in queues}
        wanted: dict[int, Share] = {queue_id: share for queue_id, share in found.items() if share is not None}
        self._looked_at = len(wanted)
        paused = {queue.queue_id for queue in queues if queue.paused}
        for claimer in self._claimers:
            claimer.look_at(wanted, paused)
        for each in (self._quarantine, self._suspects):
            if each is not None:
                each.look_at(wanted)
        if self._groups is not None:
            self._groups.look_at(wanted)

    def _queue_name(self, queue_id: int) -> str | None:
        return self._queue_names.get(queue_id)

    def _cancelled(self, worker_ids: Sequence[UUID]) -> None:
        self._registrar.renew_now(worker_ids)

    def _paused(self, queue_ids: Collection[int]) -> None:
        for claimer in self._claimers:
            claimer.pause(queue_ids)

    def _listening(self) -> None:
        self._look_for_queues.set()
        for claimer in self._claimers:
            claimer.hinted_all()
        self._maintenance.promote_now()

    def _woken(self) -> None:
        self._wakes.heard()

    def _look(self) -> None:
        for claimer in self._claimers:
            claimer.woken()

    def _have_work(self, queue_ids: Sequence[int]) -> None:
        for claimer in self._claimers:
            claimer.hinted(queue_ids)
        if not self._queue_names.keys() >= set(queue_ids):
            self._look_for_queues.set()

    def _ready(self, queue_ids: Iterable[int]) -> None:
        """This worker's own housekeeping made jobs ready: it looks itself, and tells the others."""
        found = list(queue_ids)
        self._have_work(found)
        if self._notifier is not None:
            self._notifier.ready(found)

    def _done(self, waiter_id: UUID, job_ids: Sequence[UUID]) -> None:
        if self._notifier is not None:
            self._notifier.done(waiter_id, job_ids)
