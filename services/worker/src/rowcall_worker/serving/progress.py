"""How far running jobs are, as their handlers say: the last word of each, written for all jobs of a shard at once.

Handlers call `report` through `context.progress`, from any thread; it never waits. The first word is written within
some milliseconds, later ones at most once a second. A word that comes too late finds another lease number, and nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
from typing import Final
from uuid import UUID

import structlog

from rowcall.errors import RowcallError
from rowcall.queue.model import ClaimedJob, Progress, Running
from rowcall.queue.protocol import WorkQueue

MAX_MESSAGE_CHARS: Final = 1000
"""The length of a progress message."""

_EVERY: Final = 1.0
"""Seconds between two writes."""
_GATHER: Final = 0.02
"""Seconds that the first word waits for others to be written with."""

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

    def __init__(self, queue: WorkQueue, *, shard: str) -> None:
        """Args:
        queue: Where they are written.
        shard: Its name, for the log.
        """
        self._queue = queue
        self._shard = shard
        self._loop = asyncio.get_running_loop()
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
            wake, self._waking = not self._waking, True
        if wake:
            # The loop is closed when the process ends: nobody is left to be told.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._wake)

    def forget(self, job: ClaimedJob) -> None:
        """The attempt is over: what is not written yet need not be."""
        if self._words:
            with self._lock:
                self._words.pop((job.tenant, job.job_id, job.lease), None)

    async def stop(self) -> None:
        """Writes no more."""
        if self._writer is not None:
            self._writer.cancel()
            await asyncio.gather(self._writer, return_exceptions=True)

    def _wake(self) -> None:
        self._writer = self._loop.create_task(self._write(), name=f"progress {self._shard}")

    async def _write(self) -> None:
        """Writes what there is, and again what comes meanwhile; ends when there is nothing."""
        while True:
            await asyncio.sleep(max(self._written_at + _EVERY - time.monotonic(), _GATHER))
            with self._lock:
                if not self._words:
                    self._waking = False
                    return
                words, self._words = self._words, {}
            self._written_at = time.monotonic()
            try:
                await self._queue.report_progress(list(words.values()))
            except RowcallError as error:
                # Progress is worth no more than the next word; that one is tried again in a second.
                _log.warning("progress not written", shard=self._shard, jobs=len(words), error=str(error))
            except Exception as error:  # noqa: BLE001  a writer that ended would leave every later word unwritten
                _log.error("progress cannot be written", shard=self._shard, jobs=len(words), exc_info=error)
