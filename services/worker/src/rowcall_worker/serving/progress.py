"""How far running jobs are and what their calls cost, as their handlers say: written for all jobs of a shard at once.

Handlers call `report` through `context.progress` and `spent` through `rowcall_worker.telemetry`, from any thread; neither waits. The
first word is written within some milliseconds, later ones at most once a second; of how far a job is, the last one. A word that comes
too late finds another lease number, and nothing. What was spent is kept until it is written, whatever became of the attempt.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
from collections.abc import Callable
from typing import Final
from uuid import UUID

import structlog

from rowcall.errors import RowcallError
from rowcall.queue.model import ClaimedJob, Progress, Running
from rowcall.queue.protocol import WorkQueue
from rowcall.queue.spend import Spend
from rowcall_worker.serving.prices import Prices
from rowcall_worker.serving.spending import Spending

MAX_MESSAGE_CHARS: Final = 1000
"""The length of a progress message."""

_EVERY: Final = 1.0
"""Seconds between two writes."""
_GATHER: Final = 0.02
"""Seconds that the first word waits for others to be written with."""
_LAST_WRITES: Final = 3.0
"""Seconds that a drain waits for what was spent to be written."""

BATCH: Final = 2000
"""The most calls that are booked by one statement."""

_log = structlog.get_logger(__name__)


def checked(fraction: float | None, message: str) -> tuple[float | None, str | None]:
    """What a handler said, as the row keeps it. Raises ValueError or TypeError."""
    if fraction is not None:
        if isinstance(fraction, bool) or not isinstance(fraction, (int, float)):
            raise TypeError(f"progress is a number from 0 to 1, or None where it is not known; not {fraction!r}")
        if not (math.isfinite(fraction) and 0 <= fraction <= 1):
            raise ValueError(f"progress is a number from 0 to 1, not {fraction}")
    if not isinstance(message, str):
        raise TypeError(f"a progress message is a str, not a {type(message).__name__}")
    if len(message) > MAX_MESSAGE_CHARS:
        raise ValueError(f"a progress message has {MAX_MESSAGE_CHARS} characters at most, not {len(message)}")
    # Postgres's text has no NUL, UTF-8 no lone surrogates.
    text = message.replace("\x00", "").encode(errors="replace").decode()
    return fraction, text or None


class ProgressBoard:
    """The last words of one shard's running jobs."""

    def __init__(self, queue: WorkQueue, prices: Prices, *, shard: str) -> None:
        """Args:
        queue: Where they are written.
        prices: What a call costs that does not say it itself.
        shard: Its name, for the log.
        """
        self._queue = queue
        self._shard = shard
        self.loop = asyncio.get_running_loop()
        """The worker's."""
        self.prices = prices
        self.spending = Spending(shard=shard)
        """What is not written yet of what was spent."""
        self._hurry = asyncio.Event()
        self._wrote = asyncio.Event()
        self._stopped = False
        self._lock = threading.Lock()
        self._words: dict[tuple[str, UUID, int], Progress] = {}
        self._writer: asyncio.Task[None] | None = None
        self._waking = False
        self._written_at = -math.inf

    def report(self, job: ClaimedJob, fraction: float | None, message: str = "") -> None:
        """Takes a handler's word, in place of its last one. Raises ValueError or TypeError."""
        kept = checked(fraction, message)
        running = Running(job.tenant, job.job_id, job.lease)
        with self._lock:
            self._words[job.tenant, job.job_id, job.lease] = Progress(running, *kept)
        self._told()

    def spent(self, job: ClaimedJob, spend: Spend) -> None:
        """Takes what a call of an attempt has cost. It goes with the attempt's settlement, where that comes before a second is over."""
        self.spending.add(job, spend)
        self._told()

    def in_loop(self) -> bool:
        """Whether the caller runs in the worker's event loop."""
        try:
            return asyncio.get_running_loop() is self.loop
        except RuntimeError:
            return False

    async def flush(self, job: ClaimedJob, seconds: float) -> bool:
        """Has what an attempt has spent so far written now; whether it is, when the seconds are over at the latest."""
        calls = {each.call for each in self.spending.of(job)}

        def written() -> bool:
            return calls.isdisjoint(each.call for each in self.spending.of(job))

        return await self._hurried(written, seconds)

    def forget(self, job: ClaimedJob) -> None:
        """The attempt is over: what is not written yet need not be."""
        if self._words:
            with self._lock:
                self._words.pop((job.tenant, job.job_id, job.lease), None)

    async def stop(self) -> None:
        """Writes what was spent and is not written yet, if that can be done in time, and then no more."""
        if not await self._hurried(lambda: not self.spending, _LAST_WRITES):
            _log.error(
                "what calls cost is not kept: the shard did not take it", shard=self._shard, count=len(self.spending)
            )
        self._stopped = True
        if self._writer is not None:
            self._writer.cancel()
            await asyncio.gather(self._writer, return_exceptions=True)

    async def _hurried(self, written: Callable[[], bool], seconds: float) -> bool:
        """Has the writer write without waiting for its second, until something is written; whether it is, in time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not written():
                    self._hurry.set()
                    self._wrote.clear()
                    await self._wrote.wait()
        return written()

    def _told(self) -> None:
        """Has a writer, as soon as there is something to write."""
        with self._lock:
            wake, self._waking = not self._waking, True
        if wake:
            # The loop is closed when the process ends: nobody is left to be told.
            with contextlib.suppress(RuntimeError):
                self.loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        if not self._stopped:
            self._writer = self.loop.create_task(self._write(), name=f"progress {self._shard}")

    async def _write(self) -> None:
        """Writes what there is, and again what comes meanwhile; ends when there is nothing."""
        more = False
        while True:
            if not more:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(max(self._written_at + _EVERY - time.monotonic(), _GATHER)):
                        await self._hurry.wait()
                self._hurry.clear()
            with self._lock:
                words, self._words = self._words, {}
                spent = self.spending.first(BATCH)
                if not words and not spent:
                    self._waking = False
                    return
            self._written_at = time.monotonic()
            more = len(spent) == BATCH
            kept = False
            try:
                await self._queue.report_progress(list(words.values()), spent)
            except RowcallError as error:
                # Progress is worth no more than the next word; what was spent is told again in a second.
                _log.warning(
                    "progress not written", shard=self._shard, jobs=len(words), count=len(spent), error=str(error)
                )
            except Exception as error:  # noqa: BLE001  a writer that ended would leave every later word unwritten
                _log.error(
                    "progress cannot be written", shard=self._shard, jobs=len(words), count=len(spent), exc_info=error
                )
            else:
                kept = True
                self.spending.written(spent)
            self._wrote.set()
            if not kept:
                # Whoever is in a hurry would have it asked without end.
                more = False
                await asyncio.sleep(_EVERY)
