"""Whether a call is let in, by the bounds that operators set. Made by the server; asked by `calls` and `services.jobs`.

At a call it is a look into a dict for what bounds tenant and method, and a few comparisons for each bound: nothing is asked of any
database. Where no bound is set, it is one look at a flag.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Final
from uuid import UUID

import structlog

from rowcall.bounds import Target
from rowcall.catalogue.model import JobMethod
from rowcall.errors import RowcallError
from rowcall.queue.protocol import AdmissionStore
from rowcall_gateway.admission.known import KnownBounds, Reading
from rowcall_gateway.admission.leases import Leases
from rowcall_gateway.admission.meters import Measure, Meter
from rowcall_gateway.admission.refusals import count, described, not_admitted

FIRST_LOOK: Final = 1.0
"""Seconds that a gateway's start waits for the bounds."""

TELL_EVERY: Final = 10.0
"""Seconds between two lines of the log on what was refused."""

_log = structlog.get_logger(__name__)


class Pass:
    """A call that was let in, for the length of a `with` block."""

    __slots__ = ("_meters", "_waits")

    def __init__(self, meters: Sequence[Meter], *, waits: bool) -> None:
        self._meters = meters
        self._waits = waits

    def __enter__(self) -> None:
        """It is counted already."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for meter in self._meters:
            meter.give(waits=self._waits)


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
            shard: Leases(shard, store, gateway_id, lambda shard=shard: self._of_shard(shard))  # type: ignore[misc]
            for shard, store in stores.items()
        }
        self._only_shard = next(iter(stores)) if len(stores) == 1 else None
        # By shard, which is empty where a tenant is named: it lives on one, and is counted before it is known on which.
        self._meters: dict[tuple[str, Target], Meter] = {}
        self._by_call: dict[tuple[str, str], Sequence[Meter]] = {}
        self._tasks: list[asyncio.Task[None]] = []

    known: KnownBounds
    """The bounds."""

    async def start(self) -> None:
        """Reads the bounds, from the catalogue or from the shards, for a second at the most; and starts what comes round."""
        loop = asyncio.get_running_loop()
        first = loop.create_task(self.known.look(), name="reading bounds")
        await asyncio.wait({first}, timeout=FIRST_LOOK)
        self._tasks = [
            loop.create_task(self.known.run(), name="reading bounds"),
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

    def enter(self, tenant: str, method: JobMethod, *, waits: bool) -> Pass:
        """For a `with` block: lets a call of a method in, with one job.

        Args:
            tenant: Who calls.
            method: What is called.
            waits: Whether it waits for the job.

        Raises:
            RowcallError: NOT_ADMITTED.
        """
        if not self.known.any:
            return _FREE
        meters = self._by_call.get((tenant, method.name))
        if meters is None:
            meters = self._resolve(tenant, method)
        if not meters:
            return _FREE
        now = time.monotonic()
        for meter in meters:
            measure = meter.refuses(now, 1, waits=waits)
            if measure is not None:
                raise _refusal(meter, measure, 1, method)
        for meter in meters:
            meter.take(1, waits=waits)
        return Pass(meters, waits=waits)

    def enter_batch(self, tenant: str, methods: Iterable[JobMethod]) -> Pass:
        """For a `with` block: lets a call in with a job of each of these methods, all or none. It waits for none of them.

        Raises:
            RowcallError: NOT_ADMITTED.
        """
        if not self.known.any:
            return _FREE
        jobs: Counter[Meter] = Counter()
        last: JobMethod | None = None
        for method in methods:
            last = method
            jobs.update(self._resolve(tenant, method))
        if last is None or not jobs:
            return _FREE
        now = time.monotonic()
        for meter, wanted in jobs.items():
            measure = meter.refuses(now, wanted, waits=False)
            if measure is not None:
                raise _refusal(meter, measure, wanted, last)
        for meter, wanted in jobs.items():
            meter.take(wanted, waits=False)
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

    def _resolve(self, tenant: str, method: JobMethod) -> Sequence[Meter]:
        """The meters of a call; remembered where it is known which shard the tenant is on."""
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
                others = 0 if shard not in self._leases else self._leases[shard].other_gateways
                meter = self._meters[key] = Meter(bound, target, now, others)
            elif meter.bound is not bound:
                meter.set(bound, now)
            if meter.leased or meter.looks:
                found.append(meter)
        if shard is not None:
            self._by_call[tenant, method.name] = found
        return found

    def _of_shard(self, shard: str) -> Sequence[Meter]:
        """The meters of a shard, but for those that nobody asks any more."""
        # Tenants move, and meters go: whatever a call goes by is looked up anew once a second.
        self._forget()
        now = time.monotonic()
        for key, meter in list(self._meters.items()):
            if meter.idle(now) and not meter.refused:
                del self._meters[key]
        return [
            meter
            for (of_shard, target), meter in self._meters.items()
            if (of_shard or self._shard_of(target.tenant) or self._only_shard) == shard
        ]

    def _forget(self) -> None:
        self._by_call.clear()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(TELL_EVERY)
            self.tell()


def _refusal(meter: Meter, measure: Measure, jobs: int, method: JobMethod) -> RowcallError:
    meter.refused[measure] += 1
    count(measure, method.policy.queue, method.name)
    return not_admitted(meter.target, measure, meter.limit(measure), meter.wait(measure, jobs))
