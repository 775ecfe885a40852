"""What this worker runs and could run, by queue, told to the shard, so that whoever asks how many workers there should be is told of
all of them (`rowcall.queue.depths`). Made by `rowcall_worker.shard`. Claims go by nothing of it.

A job's queue is here the one that gateways submit its method to.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Final, Protocol
from uuid import UUID

from rowcall.queue.depths import LOOK_EVERY
from rowcall.queue.model import WorkerLoad
from rowcall.queue.protocol import WorkQueue
from rowcall.telemetry.tallies import OTHER
from rowcall_worker.upkeep.chores import Chore, Chores

LEARN_EVERY: Final = 30.0
"""Seconds between looks which method is submitted to which queue, where all are known."""


class Places(Protocol):
    """Places for jobs of one kind; see `rowcall_worker.running.slots`."""

    @property
    def capacity(self) -> int:
        """How many there are."""

    @property
    def stuck(self) -> int:
        """How many are of no use any more."""


class QueueShare(Protocol):
    """What a queue may have of this process; see `rowcall_worker.claiming.shares`."""

    @property
    def most(self) -> int | None:
        """How many of its jobs may run at once; None: as many as there are slots."""


class Load:
    """What one worker runs of one shard."""

    def __init__(
        self,
        queue: WorkQueue,
        *,
        shard: str,
        worker_id: Callable[[], UUID | None],
        methods: Mapping[int, str],
        slots: Mapping[int, Places],
        share_of: Callable[[str], QueueShare | None],
        running: Callable[[], Iterable[int]],
    ) -> None:
        """Args:
        queue: The shard's.
        shard: Its name, for the log.
        worker_id: The worker's present identity; None while it has none.
        methods: What is served, "package.Service/Method" by the shard's id.
        slots: Those that each method's jobs take, likewise.
        share_of: What a queue may have of the process; None: it is not claimed from.
        running: The methods of the jobs that run, by the shard's ids, one for each job.
        """
        self._queue = queue
        self._worker_id = worker_id
        self._methods = methods
        self._slots = slots
        self._share_of = share_of
        self._running = running
        self._queues: Mapping[str, str] = {}
        self._chores = Chores(
            (
                Chore("learn which queues methods are submitted to", self._learn, LEARN_EVERY),
                Chore("tell what runs", self.tell, LOOK_EVERY),
            ),
            shard=shard,
        )

    def start(self) -> None:
        """Starts; the shard is told at once."""
        self._chores.start()

    async def stop(self) -> None:
        """Stops; statements in flight run to their end in the queue."""
        await self._chores.stop()

    def queue_of(self, method_id: int) -> str:
        """The queue that a method is submitted to, as far as is known."""
        return self._queues.get(self._methods[method_id], OTHER)

    async def tell(self) -> None:
        """Tells the shard, now."""
        worker_id = self._worker_id()
        if worker_id is None:
            return
        if not self._queues.keys() >= set(self._methods.values()):
            await self._learn()
        await self._queue.tell_load(worker_id, self.loads())

    def loads(self) -> list[WorkerLoad]:
        """What runs and could, of each queue that is served."""
        running = Counter(map(self.queue_of, self._running()))
        slots: dict[str, set[Places]] = {}
        for method_id, method in self._methods.items():
            queue = self._queues.get(method)
            if queue is not None and self._share_of(queue) is not None:
                slots.setdefault(queue, set()).add(self._slots[method_id])
        return [WorkerLoad(queue, self._most(queue, kinds), running[queue]) for queue, kinds in slots.items()]

    def _most(self, queue: str, kinds: Iterable[Places]) -> int:
        share = self._share_of(queue)
        most = None if share is None else share.most
        usable = sum(each.capacity - each.stuck for each in kinds)
        return usable if most is None else min(most, usable)

    async def _learn(self) -> None:
        self._queues = await self._queue.published()
