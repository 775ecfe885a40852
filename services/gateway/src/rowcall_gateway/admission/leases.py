"""Tells a shard once a second what this gateway needs of its bounds, and hears what the others do. One a shard, made by `admission`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Final
from uuid import UUID

import structlog

from rowcall.errors import RowcallError
from rowcall.queue.model import Need, Spending
from rowcall.queue.protocol import AdmissionStore
from rowcall.queue.sweeps import Pace
from rowcall.rounds import come_round
from rowcall_gateway.admission.meters import Meter

EVERY: Final = 1.0
"""Seconds between two times."""

LOAD_SHARE: Final = 0.02
"""Of the time, at most, goes into looking at queues: while somebody holds a snapshot, each look is longer."""
_LONGEST_PAUSE: Final = 30.0
"""Seconds between two such looks that is at most."""

MOST: Final = 5_000
"""Meters that one shard is told of, those that were asked most: of the others each gateway goes by its part of the bound."""

PRESENT: Final = Need("", 0.0, 0, 0, 0, 0)
"""What every gateway needs while there are bounds: it is known so how many there are, of a bound too that none was asked for yet."""

_FIRST_SIGHT: Final = 1.0
"""Seconds that a call waits for what its tenant has spent, where nobody has told yet."""
_NOTHING: Final = Spending(Decimal(0), timedelta(0))
"""What is taken for spent where it cannot be had."""

_LAST_WORD: Final = 1.0
"""Seconds for telling that it ends."""


class Leases:
    """The leases of one shard."""

    def __init__(
        self,
        shard: str,
        store: AdmissionStore,
        gateway_id: UUID,
        *,
        meters: Callable[[], Sequence[Meter]],
        queues: Callable[[], Sequence[str]],
        present: Callable[[], bool],
    ) -> None:
        """
        Args:
            shard: Its name.
            store: It.
            gateway_id: What this gateway is called there.
            meters: Those of the shard that are asked.
            queues: Those that are bounded as a whole. They are looked at whether or not a meter is asked: the shard goes by it for what
                is submitted there by handlers and in SQL.
            present: Whether there are bounds at all: then the others are to know of this gateway before it is asked for any.
        """
        self._store = store
        self._gateway_id = gateway_id
        self._meters = meters
        self._queues = queues
        self._present = present
        self._log = structlog.get_logger(__name__).bind(shard=shard)
        self._pace = Pace(LOAD_SHARE, _LONGEST_PAUSE)
        self._budget_pace = Pace(LOAD_SHARE, _LONGEST_PAUSE)
        self._seeing = asyncio.Lock()
        self._away = False
        self._told = False
        self.other_gateways = 0

    other_gateways: int
    """How many others were heard of last."""

    async def run(self, every: float = EVERY) -> None:
        """Goes on until it is cancelled."""
        await come_round("leasing", self.renew, every, after=every)

    async def renew(self) -> None:
        """Renews all shares now. Where the shard does not answer, they lapse by themselves."""
        meters = self._meters()
        try:
            await self._lease([meter for meter in meters if meter.leased])
            await self._look([meter for meter in meters if meter.looks and not meter.budgeted])
            await self._look_at_budgets([meter for meter in meters if meter.budgeted])
        except RowcallError as error:
            if not self._away:
                self._away = True
                self._log.warning("shares of bounds are not renewed, keeping half of each", error=error.message)
            return
        if self._away:
            self._away = False
            self._log.info("shares of bounds are renewed again")

    async def see(self, meters: Iterable[Meter]) -> None:
        """Has it looked at what tenants have spent of budgets of which nobody has told yet; what cannot be had in time keeps nobody out."""
        async with self._seeing:
            unseen = [meter for meter in meters if meter.unseen]
            if not unseen:
                return
            try:
                async with asyncio.timeout(_FIRST_SIGHT):
                    await self._tell_spending(unseen)
            except (RowcallError, TimeoutError):
                for meter in unseen:
                    meter.told(_NOTHING, time.monotonic())

    async def close(self) -> None:
        """Tells the shard that this gateway needs nothing any more."""
        if self._told:
            try:
                async with asyncio.timeout(_LAST_WORD):
                    await self._store.leave(self._gateway_id)
            except (RowcallError, TimeoutError):
                # It counts no more in three seconds.
                return

    async def _lease(self, meters: Sequence[Meter]) -> None:
        if not meters and not self._told and not self._present():
            return
        if len(meters) > MOST:
            busiest = sorted(meters, key=lambda meter: meter.busy, reverse=True)
            meters, now = busiest[:MOST], time.monotonic()
            for meter in busiest[MOST:]:
                meter.set(meter.bound, now, self.other_gateways)
        # Before the question: what is let in meanwhile belongs to the next second.
        needs = [meter.need(time.monotonic()) for meter in meters]
        present, *others = await self._store.lease(self._gateway_id, [PRESENT, *needs])
        self._told = bool(meters) or self._present()
        self.other_gateways = present.gateways
        now = time.monotonic()
        for meter, need, each in zip(meters, needs, others, strict=True):
            meter.lease(need, each, now, self.other_gateways)
            if meter.line is not None:
                meter.line.serve(now)

    async def _look(self, meters: Sequence[Meter]) -> None:
        began = time.monotonic()
        queues = {meter.target.queue for meter in meters}.union(self._queues())
        if not queues or not self._pace.due(began):
            return
        loads = await self._store.loads(sorted(queues))
        for meter in meters:
            meter.loaded(loads.get(meter.target.queue))
            if meter.line is not None:
                meter.line.serve(time.monotonic())
        self._pace.made(began, time.monotonic())

    async def _look_at_budgets(self, meters: Sequence[Meter]) -> None:
        began = time.monotonic()
        if meters and self._budget_pace.due(began):
            await self._tell_spending(meters)
            self._budget_pace.made(began, time.monotonic())

    async def _tell_spending(self, meters: Sequence[Meter]) -> None:
        budgets = [(meter.target.tenant, budget) for meter in meters if (budget := meter.bound.budget) is not None]
        for meter, spending in zip(meters, await self._store.spent(budgets), strict=True):
            meter.told(spending, time.monotonic())
