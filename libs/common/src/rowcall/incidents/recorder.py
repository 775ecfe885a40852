"""Gathers a process's incidents and writes them, together, when it can. One a process: the gateway's, the worker's.

Noting is a look into a dictionary: it waits for nothing, raises nothing, and keeps a bounded number of kinds. What cannot be written is
tried again with what has come to it; kinds beyond the bound are dropped and counted, and the count is told.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import structlog
from google.rpc.code_pb2 import Code

from rowcall.incidents.fingerprints import fingerprint, shape
from rowcall.incidents.model import FAULTS, Noted
from rowcall.telemetry import metrics

KINDS: Final = 200
"""Kinds of failures that are kept until they are written."""

WRITE_EVERY: Final = 1.0
WRITE_SHARE: Final = 0.05
"""Of the time, at most, goes into writing: while somebody holds a snapshot, each kind is found behind all that was there of it before."""
WRITE_SECONDS: Final = 10.0
"""That one write may take."""

LAST_SECONDS: Final = 1.0
"""That the last one may, as the process ends."""

_LONGEST_PAUSE: Final = 30.0

_log = structlog.get_logger(__name__)

Write = Callable[[Sequence[Noted]], Awaitable[Sequence[str]]]
"""Writes them; the fingerprints of those that were resolved, and are back. Raises anything."""


class Incidents:
    """A process's. Every method is called in its event loop."""

    def __init__(self, service: str, write: Write, *, version: str) -> None:
        """
        Args:
            service: Which one it is: "gateway", "worker".
            write: Writes them.
            version: Of the program.
        """
        self._service = service
        self._write = write
        self._version = version
        self._noted: dict[str, Noted] = {}
        self._dropped = 0
        self._come = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def dropped(self) -> int:
        """How many were dropped since that was last told."""
        return self._dropped

    def start(self) -> None:
        """Begins to write."""
        self._task = asyncio.create_task(self._run(), name="incidents")

    async def close(self) -> None:
        """Writes what is left, if that is quick, and stops."""
        if self._task is None:
            return
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        self._task = None
        if self._noted:
            await self._flush(LAST_SECONDS)

    def note(self, error: BaseException, *, method: str, code: int, trace_id: str) -> None:
        """Notes a failure, if its code is one of FAULTS.

        Args:
            error: What happened.
            method: Of the call or job: "package.Service/Method".
            code: Of google.rpc, that it ends with.
            trace_id: Of the call; empty if it has none.
        """
        if code not in FAULTS:
            return
        try:
            of = shape(error)
            self._add(
                Noted(
                    fingerprint=fingerprint(self._service, method, code, of),
                    service=self._service,
                    method=method,
                    code=code,
                    kind=of.kind,
                    location=of.location,
                    count=1,
                    first=time.monotonic(),
                    last=time.monotonic(),
                    trace_id=trace_id,
                    version=self._version,
                )
            )
        except Exception as fault:  # noqa: BLE001 - whoever is about to answer must be able to
            self._drop(1)
            _log.warning("an incident could not be noted", exc_info=fault)

    def _add(self, noted: Noted) -> None:
        known = self._noted.get(noted.fingerprint)
        if known is not None:
            known.count += noted.count
            known.first = min(known.first, noted.first)
            if noted.last >= known.last:
                known.last, known.trace_id = noted.last, noted.trace_id
        elif len(self._noted) < KINDS:
            self._noted[noted.fingerprint] = noted
        else:
            self._drop(noted.count)
        self._come.set()

    def _drop(self, count: int) -> None:
        self._dropped += count
        metrics.TELEMETRY_DROPPED.add(count, "incidents")

    async def _run(self) -> None:
        pause = WRITE_EVERY
        while True:
            await self._come.wait()
            await asyncio.sleep(pause)
            self._come.clear()
            began = time.monotonic()
            written = await self._flush(WRITE_SECONDS)
            least = max(WRITE_EVERY, (time.monotonic() - began) / WRITE_SHARE)
            pause = min(least if written else pause * 2, _LONGEST_PAUSE)

    async def _flush(self, seconds: float) -> bool:
        """Writes what there is; whether that was possible."""
        batch, self._noted = self._noted, {}
        try:
            async with asyncio.timeout(seconds):
                regressed = await self._write(list(batch.values()))
        except BaseException as error:
            for noted in batch.values():
                self._add(noted)
            if not isinstance(error, Exception):
                raise
            _log.warning("incidents cannot be written, trying again", kinds=len(batch), error=type(error).__name__)
            return False
        for each in regressed:
            noted = batch[each]
            _log.error(
                "incident regressed: it was resolved, and is back",
                fingerprint=each,
                method=noted.method,
                code=Code.Name(Code.ValueType(noted.code)),
                exception=noted.kind,
            )
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            _log.warning("incidents dropped: there were more kinds at once than are kept", count=dropped)
        return True
