"""Where chains of the audit end, told each minute: a copy kept elsewhere is what they are held against later.

To the log goes the catalogue's, which is sealed as it is written; those of shards are told to theirs by the workers that seal them. Over OTLP, where
that is wanted, go those of all databases. Each gateway tells them: twice is no harm. Made and started by the server.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from datetime import timedelta
from typing import Final

import structlog

from rowcall.audit.model import SYSTEM
from rowcall.errors import RowcallError
from rowcall.names import tenant_name
from rowcall.queue.protocol import QueueAdmin
from rowcall.rounds import come_round
from rowcall.sharding.audit import CatalogueAudit
from rowcall_gateway.edge.head_export import HeadExport

LOOK_EVERY: Final = 60.0
"""Seconds between two looks."""

_SYSTEM: Final = "system"
_CATALOGUE: Final = "catalogue"

_log = structlog.get_logger(__name__)


class Heads:
    """Of one gateway. Every method is called in its event loop."""

    def __init__(
        self,
        catalogue: CatalogueAudit,
        shards: Mapping[str, QueueAdmin],
        export: HeadExport | None,
        *,
        look_every: float = LOOK_EVERY,
    ) -> None:
        """
        Args:
            catalogue: The catalogue's chain.
            shards: Those of shards, by name.
            export: Sends heads over OTLP; None: nobody wants them.
            look_every: Seconds.
        """
        self._catalogue = catalogue
        self._shards = shards
        self._export = export
        self._look_every = look_every
        self._place = 0
        # A look late is made up for.
        self._within = timedelta(seconds=2 * look_every)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to look, at once."""
        self._task = asyncio.create_task(self._run(), name="heads of the audit")

    async def close(self) -> None:
        """Stops."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def look(self) -> None:
        """Tells the heads of what has grown. Of a database that is away they are told later: whoever needs it says that it is."""
        with contextlib.suppress(RowcallError):
            await self._look_at_catalogue()
        if self._export is not None:
            for name, admin in self._shards.items():
                with contextlib.suppress(RowcallError):
                    for tenant, place, hash_ in await admin.audit_grown(self._within):
                        self._export.tell(name, _SYSTEM if tenant == SYSTEM else tenant_name(tenant), place, hash_)

    async def _look_at_catalogue(self) -> None:
        head = await self._catalogue.head()
        if head.place <= self._place:
            return
        self._place = head.place
        _log.info("audit head", database=_CATALOGUE, chain=_SYSTEM, place=head.place, hash=head.hash.hex())
        if self._export is not None:
            self._export.tell(_CATALOGUE, _SYSTEM, head.place, head.hash)

    async def _run(self) -> None:
        await come_round("telling heads of the audit", self.look, self._look_every)
