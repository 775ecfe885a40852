"""Whether a call is let in, by the bounds that operators set. Made by the server; asked by `calls` and `services.jobs`.

At a call it is a look into a dict for what bounds tenant and method, and a few comparisons for each bound: nothing is asked of any
database. Where no bound is set, it is one look at a flag. What cannot come at once waits in line for a moment, where its turn is near.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final
from uuid import UUID

import structlog

from rowcall.bounds import Target
from rowcall.catalogue.model import JobMethod
from rowcall.errors import RowcallError
from rowcall.queue.protocol import AdmissionStore
from rowcall_gateway.admission.known import KnownBounds, Reading
from rowcall_gateway.admission.leases import Leases
from rowcall_gateway.admission.lines import LONGEST_LINE, SHARE, Hall, Line
from rowcall_gateway.admission.meters import Measure, Meter
from rowcall_gateway.admission.passes import Pass
from rowcall_gateway.admission.refusals import budget_spent, count, described, not_admitted, waited

FIRST_LOOK: Final = 1.0
"""Seconds that a gateway's start waits for the bounds, and for what the shards know of other gateways."""

LAPSE_EVERY: Final = 0.25
"""Seconds between two looks at which shares were not renewed."""

TELL_EVERY: Final = 10.0
"""Seconds between two lines of the log on what was refused."""

_log = structlog.get_logger(__name__)


_FREE: Final = Pass((), waits=False)
"""Of every call that nothing bounds."""


class Admission:
    """What a gateway lets in."""

    def __init__(
        self,
        read: Reading,
        stores: Mapping[str, AdmissionStore],
        shard_of: Callable[[str], str | None],
        gateway_id: UUID,
    ) -> None:
        """
        Args:
            read: Asks the catalogue for bounds.
            stores: The shards', by name.
            shard_of: Where a tenant lives, as far as is remembered.
            gateway_id: What this gateway is called on the shards.
        """
        self.known = KnownBounds(read, stores, self._forget)
        self._shard_of = shard_of
        self._stores = stores
        self._leases = {
            shard: Leases(
                shard,
                store,
                gateway_id,
                meters=lambda shard=shard: self._of_shard(shard),  # type: ignore[misc]
                queues=lambda: self.known.looked,
                present=lambda: self.known.any,
            )
            for shard, store in stores.items()
        }
        self._only_shard = next(iter(stores)) if len(stores) == 1 else None
        # By shard, which is empty where a tenant is named: it lives on one, and is counted before it is known on which.
        self._meters: dict[tuple[str, Target], Meter] = {}
        self._hall = Hall()
        self._lines: dict[Meter, Line] = {}
        # What calls go by that wait for their jobs, and those that do not.
        self._waiting: dict[tuple[str, str], Pass] = {}
        self._passing: dict[tuple[str, str], Pass] = {}
        self._tasks: list[asyncio.Task[None]] = []

    known: KnownBounds
    """The bounds."""

    async def start(self) -> None:
        """Reads the bounds, from the catalogue or from the shards, for a second at the most; and starts what comes round."""
        loop = asyncio.get_running_loop()
        first = loop.create_task(self.known.look(), name="reading bounds")
        await asyncio.wait({first}, timeout=FIRST_LOOK)
        # Before any call comes: how many others there are, of whose bounds it has its part.
        heard = [loop.create_task(each.renew(), name="leasing") for each in self._leases.values()]
        if heard:
            await asyncio.wait(heard, timeout=FIRST_LOOK)
        self._tasks = [
            first,
            *heard,
            loop.create_task(self.known.run(), name="reading bounds"),
            loop.create_task(self._lapse(), name="halving shares"),
            loop.create_task(self._sweep(), name="telling of refusals"),
            *(loop.create_task(each.run(), name=f"leasing {shard}") for shard, each in self._leases.items()),
        ]

    async def close(self) -> None:
        """Stops, and gives its shares to the others."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(each.close() for each in self._leases.values()))
        self.tell()

    def enter(self, tenant: str, method: JobMethod, *, waits: bool) -> Pass | None:
        """Lets a call of a method in, with one job; for a `with` block.

        Args:
            tenant: Who calls.
            method: What is called.
            waits: Whether it waits for the job.

        Returns:
            None: it may not come at once, and `turn` is to be asked.
        """
        if not self.known.any:
            return _FREE
        passes = self._waiting if waits else self._passing
        found = passes.get((tenant, method.name))
        if found is None:
            found = self._resolve(tenant, method, waits=waits)
        return found if found.enter(time.monotonic()) else None

    async def turn(self, tenant: str, method: JobMethod, *, waits: bool, size: int, remaining: float | None) -> Pass:
        """Lets a call in that `enter` did not, after its turn has come; for a `with` block.

        Args:
            tenant: Who calls.
            method: What is called.
            waits: Whether it waits for the job.
            size: The bytes of its request.
            remaining: Seconds until the call's deadline; None: it has none.

        Raises:
            RowcallError: NOT_ADMITTED, BUDGET_SPENT.
        """
        found = self._resolve(tenant, method, waits=waits)
        await self._see(tenant, found.meters)
        await self._turn(dict.fromkeys(found.meters, 1), method, waits=waits, size=size, seconds=_seconds(remaining))
        return found

    async def turn_of_batch(
        self, tenant: str, methods: Iterable[JobMethod], *, size: int, remaining: float | None
    ) -> Pass:
        """Lets a call in with a job of each of these methods, all or none, as `turn` does. It waits for none of them.

        Raises:
            RowcallError: NOT_ADMITTED, BUDGET_SPENT.
        """
        if not self.known.any:
            return _FREE
        jobs: Counter[Meter] = Counter()
        last: JobMethod | None = None
        for method in methods:
            last = method
            jobs.update(self._resolve(tenant, method, waits=False).meters)
        if last is None or not jobs:
            return _FREE
        await self._see(tenant, jobs)
        await self._turn(jobs, last, waits=False, size=size, seconds=_seconds(remaining))
        return Pass(list(jobs), waits=False)

    def over_backlog(self, tenant: str, method: JobMethod) -> RowcallError:
        """What a call is told that the shard refused for its tenant's backlog."""
        queue = method.policy.queue
        bounded = [
            bound
            for bound in self.known.of(tenant, queue, method.name)
            if bound.backlog is not None and bound.target.tenant
        ]
        tightest = min(bounded, key=lambda bound: bound.backlog or 0, default=None)
        count(Measure.BACKLOG, queue, method.name)
        target = Target(tenant, queue) if tightest is None else tightest.target._replace(tenant=tenant)
        # A gateway that does not know the bound yet will within a second.
        return not_admitted(target, Measure.BACKLOG, None if tightest is None else tightest.backlog, 1.5)

    def tell(self) -> None:
        """Writes in the log what was refused since it did so last."""
        for meter in list(self._meters.values()):
            if meter.refused:
                refused, meter.refused = meter.refused, Counter()
                _log.warning(
                    "calls were not let in",
                    bound=described(meter.target),
                    refused={measure.value: calls for measure, calls in refused.items()},
                )

    async def _see(self, tenant: str, meters: Iterable[Meter]) -> None:
        """Has it looked at what the tenant has spent, where it has a budget and nobody has told yet."""
        unseen = [meter for meter in meters if meter.unseen]
        leases = self._leases.get(self._shard_of(tenant) or self._only_shard or "") if unseen else None
        if leases is not None:
            await leases.see(unseen)

    async def _turn(
        self, jobs: Mapping[Meter, int], method: JobMethod, *, waits: bool, size: int, seconds: float
    ) -> None:
        """Has every meter take a call with so many jobs, in line at one after another if need be."""
        began = now = time.monotonic()
        turn: Meter | None = None
        while True:
            for meter, wanted in jobs.items():
                if meter is turn:
                    continue
                measure = meter.refuses(now, wanted, waits=waits)
                if measure is not None or meter.lined:
                    break
            else:
                break
            if turn is not None:
                self._lines[turn].put_back(jobs[turn], waits=waits)
            line = self._lines.get(meter)
            if line is None:
                line = self._lines[meter] = Line(meter, self._hall)
            left = began + seconds - now
            if not await line.turn(measure, wanted, size, left, waits=waits):
                raise _refusal(meter, measure or line.measure, wanted, method)
            turn = meter
            now = time.monotonic()
        for meter, wanted in jobs.items():
            if meter is not turn:
                meter.take(now, wanted, waits=waits)
        if turn is not None:
            waited(now - began, method.policy.queue, method.name)

    def _resolve(self, tenant: str, method: JobMethod, *, waits: bool) -> Pass:
        """What a call goes by; remembered where it is known which shard the tenant is on."""
        shard = self._shard_of(tenant) or self._only_shard
        now = time.monotonic()
        found: list[Meter] = []
        for bound in self.known.of(tenant, method.policy.queue, method.name):
            target = bound.target if not bound.target.tenant else bound.target._replace(tenant=tenant)
            if shard is None and not target.tenant:
                # Of each shard by itself, and it is the tenant's first call here.
                continue
            key = ("" if target.tenant or shard is None else shard, target)
            meter = self._meters.get(key)
            if meter is None:
                others = self._others(shard)
                meter = self._meters[key] = Meter(bound, target, now, others)
            elif meter.bound is not bound:
                meter.set(bound, now)
            if meter.leased or meter.looks:
                found.append(meter)
        made = Pass(found, waits=waits) if found else _FREE
        if shard is not None:
            (self._waiting if waits else self._passing)[tenant, method.name] = made
        return made

    def _others(self, shard: str | None) -> int:
        """How many other gateways there are of a shard; of any, where it is a tenant's first call here."""
        told = self._leases.values() if shard is None else filter(None, [self._leases.get(shard)])
        return max((each.other_gateways for each in told), default=0)

    def _of_shard(self, shard: str) -> Sequence[Meter]:
        """The meters of a shard, but for those that nobody asks any more."""
        # Tenants move, and meters go: whatever a call goes by is looked up anew once a second.
        self._forget()
        now = time.monotonic()
        for key, meter in list(self._meters.items()):
            if meter.idle(now) and not meter.refused:
                del self._meters[key]
                self._lines.pop(meter, None)
        return [
            meter
            for (of_shard, target), meter in self._meters.items()
            if (of_shard or self._shard_of(target.tenant) or self._only_shard) == shard
        ]

    def _forget(self) -> None:
        self._waiting.clear()
        self._passing.clear()

    async def _lapse(self) -> None:
        """Halves the shares that were not renewed, whether or not anybody asks."""
        while True:
            await asyncio.sleep(LAPSE_EVERY)
            now = time.monotonic()
            for meter in list(self._meters.values()):
                meter.lapse(now)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(TELL_EVERY)
            self.tell()


def _seconds(remaining: float | None) -> float:
    """For how long a call may wait for its turn."""
    return LONGEST_LINE if remaining is None else max(min(LONGEST_LINE, remaining * SHARE), 0.0)


def _refusal(meter: Meter, measure: Measure, jobs: int, method: JobMethod) -> RowcallError:
    meter.turned_away(measure, jobs)
    count(measure, method.policy.queue, method.name)
    budget, spending = meter.bound.budget, meter.spending
    if measure is Measure.BUDGET and budget is not None and spending is not None:
        return budget_spent(meter.target, budget, spending.spent, meter.period_left(time.monotonic()))
    return not_admitted(meter.target, measure, meter.limit(measure), meter.wait(measure, jobs))
