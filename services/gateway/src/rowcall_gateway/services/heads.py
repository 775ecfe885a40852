"""The head of the catalogue's chain, told to the log when it has grown, each minute at most: a copy of the log is what it is held against
later. Those of shards are told by workers, which seal them; this one is sealed as it is written. Made and started by the server.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

import structlog

from rowcall.errors import RowcallError
from rowcall.sharding.audit import CatalogueAudit

LOOK_EVERY: Final = 60.0
"""Seconds between two looks."""

_log = structlog.get_logger(__name__)


class CatalogueHead:
    """Of one gateway; each tells it. Every method is called in its event loop."""

    def __init__(self, audit: CatalogueAudit, *, look_every: float = LOOK_EVERY) -> None:
        """
        Args:
            audit: The catalogue's chain.
            look_every: Seconds.
        """
        self._audit = audit
        self._look_every = look_every
        self._place = 0
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to look, at once."""
        self._task = asyncio.create_task(self._run(), name="head of the catalogue's audit")

    async def close(self) -> None:
        """Stops."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def look(self) -> None:
        """Tells the head, if there is another one. Where the catalogue is away it is told later."""
        try:
            head = await self._audit.head()
        except RowcallError:
            # Whoever needs it says so.
            return
        if head.place > self._place:
            self._place = head.place
            _log.info("audit head", database="catalogue", chain="system", place=head.place, hash=head.hash.hex())

    async def _run(self) -> None:
        while True:
            await self.look()
            await asyncio.sleep(self._look_every)
