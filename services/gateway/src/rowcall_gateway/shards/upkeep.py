"""What a gateway does for each shard beside its calls: publishes its methods and types there, looks at it if it was away at the
start, and exchanges tenants' turns.

Made by the shard's link. Nothing of it is in a call's way or delays the start: a shard that is away gets it when it is
back, and hears nothing of a failure but one line in the log.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Final

import structlog

from rowcall.catalogue.model import JobMethod
from rowcall.catalogue.shapes import Shape
from rowcall.errors import RowcallError, reason_name
from rowcall.queue.protocol import JobStore, QueueProvider
from rowcall.queue.sweeps import Pace
from rowcall.queue.tally import TELL_EVERY, Tally
from rowcall.settings import SettingsError
from rowcall.v1.error_reason_pb2 import ErrorReason

EXCHANGE_EVERY: Final = 1.0
"""Seconds between two exchanges of turns: for so long two gateways may each favour a tenant that floods both."""
EXCHANGE_SHARE: Final = 0.03
"""Of the time, at most, goes into them: while somebody holds a snapshot, each finds its row behind all that was there before."""
_LONGEST_PAUSE: Final = 60.0
"""Seconds between two of them that is at most: one may also have been long because the shard was away."""

_FIRST_WAIT: Final = 0.5
_LONGEST_WAIT: Final = 10.0
"""Seconds before what could not be published is tried again: doubling from the first to the longest, with jitter."""

_LAST_EXCHANGE: Final = 1.0
"""Seconds for the exchange that ends it."""

_log = structlog.get_logger(__name__)


class Upkeep:
    """The background work of one shard."""

    def __init__(
        self,
        queue: QueueProvider,
        store: JobStore,
        methods: Sequence[JobMethod],
        shapes: Sequence[Mapping[str, Shape]],
        tally: Tally,
    ) -> None:
        """
        Args:
            queue: The shard's.
            store: Of it.
            methods: What the gateway serves.
            shapes: What of its images' types the shard must know, one after another.
            tally: What this gateway counts of the shard's jobs.
        """
        self._queue = queue
        self._store = store
        self._methods = methods
        self._shapes = shapes
        self._tally = tally
        self._log = _log.bind(shard=queue.shard)
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Starts, in the running event loop."""
        loop = asyncio.get_running_loop()
        self._tasks = [
            loop.create_task(self._publish(), name="publishing methods"),
            loop.create_task(self._exchange(), name="exchanging turns"),
            loop.create_task(self._tell(), name="telling counts"),
        ]

    def offer(self, methods: Sequence[JobMethod], shapes: Sequence[Mapping[str, Shape]]) -> None:
        """From now on publishes these."""
        self._methods, self._shapes = methods, shapes
        if self._tasks:
            self._tasks[0].cancel()
            self._tasks[0] = asyncio.get_running_loop().create_task(self._publish(), name="publishing methods")

    async def close(self) -> None:
        """Stops, and tells once more what it counted and how far tenants have moved: whoever starts next goes on from there."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if tasks:
            with contextlib.suppress(RowcallError, TimeoutError):
                async with asyncio.timeout(_LAST_EXCHANGE):
                    await self._store.exchange_turns()
                    await self._tally.tell(self._store.tell)

    async def _publish(self) -> None:
        """Publishes every method, those that could not be again and again, and then the types."""
        outage = _Outage(self._log, "methods cannot be published", "methods are published again")
        left = self._methods
        wait = _FIRST_WAIT
        while (left := await self._publish_some(left, outage)) or await outage.mind(self._publish_types):
            await asyncio.sleep(wait * random.uniform(0.5, 1))  # noqa: S311 - spreads, hides nothing
            wait = min(wait * 2, _LONGEST_WAIT)
        self._log.debug("methods published", methods=len(self._methods))
        while not self._queue.checked:
            # It was away at the start, and passed over.
            try:
                await self._queue.check()
            except (RowcallError, SettingsError) as error:
                if isinstance(error, SettingsError) or error.reason != ErrorReason.ERROR_REASON_SHARD_UNAVAILABLE:
                    self._log.error("the shard would have been refused at the start", error=str(error))
                    return
                await asyncio.sleep(_LONGEST_WAIT)

    async def _publish_types(self) -> None:
        for shapes in self._shapes:
            await self._store.publish_types(shapes)

    async def _publish_some(self, methods: Sequence[JobMethod], outage: _Outage) -> Sequence[JobMethod]:
        """Publishes what can be; what is left."""
        left: list[JobMethod] = []
        for place, method in enumerate(methods):
            error = await outage.mind(partial(self._store.publish, method))
            if error is None:
                continue
            left.append(method)
            if error.reason == ErrorReason.ERROR_REASON_SHARD_UNAVAILABLE:
                # The others would only wait as long each.
                return [*left, *methods[place + 1 :]]
        return left

    async def _exchange(self) -> None:
        outage = _Outage(self._log, "turns are not exchanged with other gateways", "turns are exchanged again")
        pace = Pace(EXCHANGE_SHARE, _LONGEST_PAUSE)
        while True:
            await asyncio.sleep(EXCHANGE_EVERY)
            began = time.monotonic()
            if pace.due(began):
                await outage.mind(self._store.exchange_turns)
                pace.made(began, time.monotonic())

    async def _tell(self) -> None:
        outage = _Outage(
            self._log, "what happened to jobs is not told to the shard", "what happened to jobs is told again"
        )
        while True:
            await asyncio.sleep(TELL_EVERY)
            await outage.mind(partial(self._tally.tell, self._store.tell))


class _Outage:
    """Says once that something does not work, and once that it does again."""

    def __init__(self, log: structlog.typing.FilteringBoundLogger, gone: str, back: str) -> None:
        self._log = log
        self._gone = gone
        self._back = back
        self._is_gone = False

    async def mind(self, work: Callable[[], Awaitable[object]]) -> RowcallError | None:
        """Does the work; what it failed with."""
        try:
            await work()
        except RowcallError as error:
            if not self._is_gone:
                self._log.warning(self._gone, reason=reason_name(error.reason), cause=error.message)
            self._is_gone = True
            return error
        if self._is_gone:
            self._log.info(self._back)
        self._is_gone = False
        return None
