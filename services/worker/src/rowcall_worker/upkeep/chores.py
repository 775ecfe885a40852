"""Work that comes round again and again beside the jobs: each chore in a task of its own, spread, failures said once.

Used by `rowcall_worker.upkeep.maintenance` and `rowcall_worker.upkeep.maintainer`.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar

import structlog

from rowcall.errors import RowcallError
from rowcall.queue.sweeps import Pace, Sweep

_log = structlog.get_logger(__name__)

_Found = TypeVar("_Found")


@dataclass(frozen=True, slots=True)
class Chore:
    """One of them."""

    name: str
    """What it does, for the log."""
    work: Callable[[], Awaitable[None]]
    """Does it once; whatever it raises is logged, and it is tried again."""
    every: float
    """Seconds between rounds, spread by a fifth: workers that were started together do not come together."""
    share: float = 1.0
    """Of the time, at most, that it may take: after a long round it comes less often."""
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    """Set to have the next round at once."""


class Chores:
    """Runs chores until it is stopped."""

    def __init__(self, chores: Sequence[Chore], *, shard: str) -> None:
        """Args:
        chores: What is to be done.
        shard: The shard's name, for the log.
        """
        self._chores = chores
        self._shard = shard
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Starts; the first round of each is at once."""
        self._tasks = [
            asyncio.create_task(self._repeat(chore), name=f"{chore.name} {self._shard}") for chore in self._chores
        ]

    async def stop(self) -> None:
        """Stops; statements in flight run to their end in the queue."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _repeat(self, chore: Chore) -> None:
        failing = False
        while True:
            chore.wake.clear()
            began = time.monotonic()
            try:
                await chore.work()
                failing = False
            except Exception as error:  # noqa: BLE001  housekeeping goes on: the next round may do better
                if not failing:
                    _log.warning(
                        "housekeeping failed, trying again",
                        shard=self._shard,
                        task=chore.name,
                        error=str(error) if isinstance(error, RowcallError) else type(error).__name__,
                        exc_info=None if isinstance(error, RowcallError) else error,
                    )
                failing = True
            least = max(chore.every, (time.monotonic() - began) / chore.share)
            pause = least * random.uniform(0.8, 1.2)  # noqa: S311  spreads, guards nothing
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await chore.wake.wait()


async def sweep_through(
    sweep: Sweep,
    batch: int,
    work: Callable[[datetime | None], Awaitable[int]],
    *,
    goes_on: Callable[[], bool] = lambda: True,
) -> None:
    """Looks until a look has found all there was.

    Args:
        sweep: Says from when on to look, and is told what each look was.
        batch: As many as a look finds at most.
        work: Does what is to be done since then, None from the front; how many it found.
        goes_on: Whether another look may be made.
    """
    while goes_on():
        began = time.monotonic()
        look = sweep.look(began)
        whole = False
        try:
            whole = await work(look.since) < batch
        finally:
            sweep.looked(look, whole=whole, began=began, ended=time.monotonic())
        if whole:
            return


async def paced(pace: Pace, work: Callable[[bool], Awaitable[_Found]]) -> _Found:
    """Looks once: at everything where that is due.

    Args:
        pace: Of the looks at everything.
        work: Looks, at everything (true) or not; what it found.
    """
    began = time.monotonic()
    front = pace.due(began)
    try:
        return await work(front)
    finally:
        if front:
            pace.made(began, time.monotonic())
