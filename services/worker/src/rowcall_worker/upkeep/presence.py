"""What this worker serves, told to the shard, so that everybody can be told what a job waits for; and whether anybody submits
to it, told to whoever reads the log: a misspelt queue is a worker that waits for ever.

Made by `rowcall_worker.shard`. Claims go by nothing of it.
"""

from __future__ import annotations

import difflib
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Final
from uuid import UUID

import structlog

from rowcall.queue.protocol import WorkQueue
from rowcall_worker.upkeep.chores import Chore, Chores

TELL_EVERY: Final = 1.0
"""Seconds between looks whether the worker has another identity than the one that the shard was told of."""
LOOK_EVERY: Final = 1.0
PATIENCE: Final = 5.0
"""Seconds for the gateways of a system that is started all at once to publish their methods."""
AGAIN_EVERY: Final = 600.0
"""Seconds between looks from then on."""
TOLD_AT_MOST: Final = 2
"""How often it is said that nobody submits to something: when the worker has joined, and once more."""

_ALIKE: Final = 0.6
"""How much alike two names are, of 1, that one may be meant by the other."""

_log = structlog.get_logger(__name__)


class Presence:
    """What one worker serves on one shard."""

    def __init__(
        self,
        queue: WorkQueue,
        *,
        shard: str,
        worker_id: Callable[[], UUID | None],
        methods: Mapping[int, str],
        queues: Sequence[str],
    ) -> None:
        """Args:
        queue: The shard's.
        shard: Its name, for the log.
        worker_id: The worker's present identity; None while it has none.
        methods: What is served, "package.Service/Method" by the shard's id.
        queues: The queues that it was told of; none: every one.
        """
        self._queue = queue
        self._shard = shard
        self._worker_id = worker_id
        self._methods = methods
        self._queues = queues
        self._told_of: UUID | None = None
        self._looks = 0
        self._told = 0
        self._look_at = 0.0
        self._chores = Chores(
            (
                Chore("tell what is served", self._tell, TELL_EVERY),
                Chore("look who submits to it", self._look, LOOK_EVERY),
            ),
            shard=shard,
        )

    def start(self) -> None:
        """Starts; the shard is told at once."""
        self._chores.start()

    async def stop(self) -> None:
        """Stops; statements in flight run to their end in the queue."""
        await self._chores.stop()

    async def _tell(self) -> None:
        worker_id = self._worker_id()
        if worker_id is not None and worker_id != self._told_of:
            await self._queue.serve(worker_id, list(self._methods), list(self._queues) or None)
            self._told_of = worker_id

    async def _look(self) -> None:
        if time.monotonic() < self._look_at:
            return
        published = await self._queue.published()
        missing = Missing(self._methods.values(), self._queues, published)
        self._looks += 1
        self._look_at = time.monotonic() + (PATIENCE if self._looks == 1 else AGAIN_EVERY)
        if not missing:
            self._look_at = float("inf")
            if self._told:
                _log.info("everything that is served is submitted to now", shard=self._shard)
        elif self._looks > 1 and self._told < TOLD_AT_MOST:
            self._told += 1
            # Of a system in which no gateway has been yet that is no mistake.
            tell = _log.warning if published or self._told > 1 else _log.info
            tell(
                "served, but nobody submits to it",
                shard=self._shard,
                methods=missing.methods,
                queues=missing.queues,
                cause="; ".join(missing.causes),
            )


class Missing:
    """What of it nobody submits to. False: there is nothing of the kind."""

    def __init__(self, methods: Iterable[str], queues: Collection[str], published: Mapping[str, str]) -> None:
        """Args:
        methods: That a worker serves.
        queues: That it was told of; none: every one.
        published: By gateways: methods, each with its queue.
        """
        served = list(methods)
        self.methods = sorted(method for method in served if method not in published)
        """Those that no gateway has published."""
        used = {published[method] for method in served if method in published}
        self.queues = sorted(queue for queue in queues if queue not in used)
        """Those that none of the methods is submitted to."""
        self.causes = _causes(self.methods, self.queues, published)
        """What is known of each of them."""

    def __bool__(self) -> bool:
        return bool(self.methods or self.queues)


def _causes(methods: Iterable[str], queues: Iterable[str], published: Mapping[str, str]) -> list[str]:
    if not published:
        return ["no gateway has published a method on this shard yet"]
    known = set(published.values())
    causes = [f"method {name}: no gateway has published it here{_meant(name, published)}" for name in methods]
    causes += [
        f"queue {name}: the methods that are submitted to it are not served here"
        if name in known
        else f"queue {name}: no method is submitted to it{_meant(name, known)}"
        for name in queues
    ]
    return causes


def _meant(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, sorted(known), n=1, cutoff=_ALIKE)
    return f"; did you mean {close[0]}?" if close else ""
