"""How many jobs of each queue this worker could run at once, told to the shard with each renewal of the lease, so that whoever asks how
many workers there should be is told of all of them (`rowcall.queue.depths`). Made by `rowcall_worker.shard`. Claims go by nothing of it.

A queue has those slots here that jobs of its methods take: of the methods that gateways submit to it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final, Protocol

from rowcall.queue.protocol import WorkQueue
from rowcall_worker.upkeep.chores import Chore, Chores

LOOK_EVERY: Final = 1.0
"""Seconds between looks which method is submitted to which queue, until all are known."""
AGAIN_EVERY: Final = 30.0
"""Seconds between looks from then on."""


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


class Room:
    """What one worker could run of one shard."""

    def __init__(
        self,
        queue: WorkQueue,
        *,
        shard: str,
        queues: Callable[[], Mapping[int, str]],
        share_of: Callable[[str], QueueShare | None],
    ) -> None:
        """Args:
        queue: The shard's.
        shard: Its name, for the log.
        queues: The shard's queues, names by its ids.
        share_of: What a queue may have of the process; None: it is not claimed from.
        """
        self._queue = queue
        self._queues = queues
        self._share_of = share_of
        self._places: Mapping[str, Places] = {}
        self._submitted_to: Mapping[str, str] = {}
        self._look_at = 0.0
        self._chores = Chores(
            (Chore("learn which queues methods are submitted to", self._look, LOOK_EVERY),), shard=shard
        )

    def start(self, places: Mapping[str, Places]) -> None:
        """Starts looking.

        Args:
            places: What is served, "package.Service/Method", with the places that each method's jobs take.
        """
        self._places = places
        self._chores.start()

    async def stop(self) -> None:
        """Stops; statements in flight run to their end in the queue."""
        await self._chores.stop()

    def slots(self) -> dict[int, int]:
        """How many of each queue that is served could run, by the shard's ids of them. May be called from any thread."""
        kinds: dict[str, set[Places]] = {}
        for method, places in self._places.items():
            queue = self._submitted_to.get(method)
            if queue is not None:
                kinds.setdefault(queue, set()).add(places)
        return {
            queue_id: self._most(share, kinds[queue])
            for queue_id, queue in self._queues().items()
            if queue in kinds and (share := self._share_of(queue)) is not None
        }

    def _most(self, share: QueueShare, kinds: Iterable[Places]) -> int:
        usable = sum(each.capacity - each.stuck for each in kinds)
        return usable if share.most is None else min(share.most, usable)

    async def _look(self) -> None:
        if time.monotonic() < self._look_at:
            return
        self._submitted_to = await self._queue.published()
        if self._submitted_to.keys() >= self._places.keys():
            self._look_at = time.monotonic() + AGAIN_EVERY
