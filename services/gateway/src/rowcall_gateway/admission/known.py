"""The bounds, as this gateway knows them: read from the catalogue once a second, kept while that is away, and left on the shards.

A gateway that starts without a catalogue goes by what another one has left there. Made by `admission`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

import structlog

from rowcall.bounds import EACH_TENANT, Bound, Target
from rowcall.errors import RowcallError
from rowcall.queue.protocol import AdmissionStore
from rowcall.rounds import come_round

LOOK_EVERY: Final = 1.0
"""Seconds between two looks: every gateway goes by what was set within two."""

_log = structlog.get_logger(__name__)

Reading = Callable[[int], Awaitable[Sequence[Bound]]]
"""Reads the bounds after a number, the earliest first."""


class KnownBounds:
    """All that are known."""

    def __init__(self, read: Reading, stores: Mapping[str, AdmissionStore], changed: Callable[[], None]) -> None:
        """
        Args:
            read: Asks the catalogue.
            stores: The shards', by name.
            changed: Is told when a bound is another than before.
        """
        self._read = read
        self._stores = stores
        self._changed = changed
        self._bounds: dict[Target, Bound] = {}
        self._last = 0
        # How far each shard's copy is.
        self._left = dict.fromkeys(stores, 0)
        self.away = False
        self._looking = asyncio.Lock()
        self.any = False
        self.looked: Sequence[str] = ()

    away: bool
    """Whether the catalogue did not answer when it was asked last."""
    any: bool
    """Whether there is any bound: where there is none, nothing is asked at a call."""
    looked: Sequence[str]
    """The queues whose backlog or age is bounded as a whole: somebody must look at them, also where no call of theirs comes here."""

    def of(self, tenant: str, queue: str, method: str) -> list[Bound]:
        """The bounds that a call must be let in by."""
        found: list[Bound] = []
        for on in (("", ""), (queue, ""), ("", method)):
            own = self._get(Target(tenant, *on)) or self._get(Target(EACH_TENANT, *on))
            if own is not None:
                found.append(own)
        found += filter(
            None, map(self._get, (Target("", queue, ""), Target("", "", method), Target("", queue, method)))
        )
        return found

    async def run(self, every: float = LOOK_EVERY) -> None:
        """Reads what is new, until it is cancelled."""
        await come_round("reading bounds", self.look, every)

    async def look(self) -> None:
        """Reads what is new now, and leaves it on the shards. Where the catalogue is away, what is known stays."""
        async with self._looking:
            try:
                found = await self._read(self._last)
            except RowcallError as error:
                if not self.away:
                    self.away = True
                    _log.warning(
                        "bounds are not read, going by what is known", error=error.message, known=len(self._bounds)
                    )
                if self._last == 0:
                    self._learn(await self._kept())
                return
            if self.away:
                self.away = False
                _log.info("bounds are read again")
            self._learn(found)
            await asyncio.gather(*(self._leave(shard) for shard, left in self._left.items() if left < self._last))

    def _get(self, target: Target) -> Bound | None:
        found = self._bounds.get(target)
        return found if found is not None and found.bounds else None

    def _learn(self, found: Sequence[Bound]) -> None:
        new = False
        for bound in found:
            known = self._bounds.get(bound.target)
            if known is None or known.number < bound.number:
                self._bounds[bound.target] = bound
                new = True
            self._last = max(self._last, bound.number)
        if new:
            self.any = any(bound.bounds for bound in self._bounds.values())
            self.looked = sorted(
                target.queue
                for target, bound in self._bounds.items()
                if not target.tenant
                and not target.method
                and (bound.backlog is not None or bound.oldest_age is not None)
            )
            self._changed()

    async def _kept(self) -> Sequence[Bound]:
        """What other gateways have left on the shards that answer."""

        async def ask(store: AdmissionStore) -> Sequence[Bound]:
            try:
                return await store.kept()
            except RowcallError:
                return ()

        return [bound for found in await asyncio.gather(*map(ask, self._stores.values())) for bound in found]

    async def _leave(self, shard: str) -> None:
        """Leaves on a shard what it has not got; a shard that is away gets it later."""
        last = self._last
        lacking = [bound for bound in self._bounds.values() if bound.number > self._left[shard]]
        try:
            await self._stores[shard].keep(sorted(lacking, key=lambda bound: bound.number))
        except RowcallError as error:
            _log.warning("bounds are not left on a shard, which gets them later", shard=shard, error=error.message)
            return
        self._left[shard] = last
