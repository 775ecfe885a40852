"""Where each tenant lives: remembered, looked up in the catalogue, and, in its absence, asked of the shards.

Called by the router. A tenant that is known is served whatever becomes of the catalogue; a shard's refusal
(WRONG_SHARD), not time, is what makes a remembered route wrong. Nothing is guessed: as long as a database that might
know better does not answer, a lookup without the catalogue fails.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from time import monotonic
from typing import Final

import structlog

from rowcall.errors import RowcallError
from rowcall.sharding.faults import catalogue_unavailable, is_catalogue_away, tenant_erased, wrong_shard
from rowcall.sharding.flights import Flights
from rowcall.sharding.model import Route, RouteState
from rowcall.sharding.placement import place
from rowcall.sharding.routes import RouteCache
from rowcall.sharding.sources import Answers, ShardRoutes, TenantCatalogue
from rowcall.v1.error_reason_pb2 import ErrorReason

_log = structlog.get_logger(__name__)

_REFRESH_BATCH: Final = 500
"""How many routes are looked up again by one statement."""

_REFRESH_PAUSE: Final = 2.0
"""Seconds without refreshing after it failed: the catalogue is away, and nobody waits for it."""

_FIRST_EPOCH: Final = 1


class Directory:
    """Routes of tenants. One per process and event loop."""

    def __init__(
        self, catalogue: TenantCatalogue, shards: ShardRoutes, *, weights: Mapping[str, float], cache: RouteCache
    ) -> None:
        """`weights`: of every configured shard, for new tenants."""
        self._catalogue = catalogue
        self._shards = shards
        self._weights = dict(weights)
        self._cache = cache
        self._routing: Flights[Route] = Flights("route")
        self._finding: Flights[Route | None] = Flights("find")
        self._moving: Flights[Route] = Flights("follow")
        self._stale: set[str] = set()
        self._refresher: asyncio.Task[None] | None = None
        self._refresh_from = monotonic()

    def cached(self, tenant: str) -> Route | None:
        """The route that is remembered, without waiting; None: ask `route`. An old one is refreshed behind it."""
        route = self._cache.get(tenant)
        if route is not None and not self._cache.is_fresh(tenant):
            self._refresh_soon(tenant)
        return route

    async def route(self, tenant: str) -> Route:
        """Where a tenant lives; a new one is placed.

        Raises:
            RowcallError: CATALOGUE_UNAVAILABLE if it cannot be told, SHARD_UNAVAILABLE if a new tenant's shard cannot
                take it in, WRONG_SHARD while it is between shards.
        """
        return self.cached(tenant) or await self._routing.join(tenant, lambda: self._look_up_or_place(tenant))

    async def find(self, tenant: str) -> Route | None:
        """Where a tenant lives; None if it is not known anywhere, and then nothing is made of it.

        Raises:
            RowcallError: As `route`.
        """
        return self.cached(tenant) or await self._finding.join(tenant, lambda: self._look_up(tenant))

    def invalidate(self, tenant: str, epoch: int) -> None:
        """Forgets a route of this epoch or an earlier one."""
        self._cache.forget(tenant, epoch)

    async def refused(self, route: Route) -> Route:
        """The route to try next, after its shard refused the tenant.

        Raises:
            RowcallError: WRONG_SHARD if there is none (yet), otherwise as `route`.
        """
        self.invalidate(route.tenant, route.epoch)
        return self.cached(route.tenant) or await self._moving.join(route.tenant, lambda: self._look_beyond(route))

    async def close(self) -> None:
        """Ends lookups that are under way."""
        for flights in (self._routing, self._finding, self._moving):
            await flights.close()
        if self._refresher is not None:
            self._refresher.cancel()
            await asyncio.gather(self._refresher, return_exceptions=True)

    async def _look_up(self, tenant: str) -> Route | None:
        try:
            route = (await self._catalogue.find([tenant])).get(tenant)
        except RowcallError as error:
            if not is_catalogue_away(error):
                raise
            route = await self._ask_shards(tenant, error)
        return None if route is None else self._cache.learn(route)

    async def _look_up_or_place(self, tenant: str) -> Route:
        return await self._look_up(tenant) or self._cache.learn(await self._place(tenant))

    async def _ask_shards(self, tenant: str, cause: RowcallError) -> Route:
        """The route without the catalogue: only if every shard answers, and one of them has the tenant. One that was erased is
        still where it was, for operators; its shard says so to everybody else."""
        answers = await self._shards.ask(tenant)
        if answers.missing:
            shards = ", ".join(map(repr, sorted(answers.missing)))
            raise catalogue_unavailable(
                f", and neither can shard {shards}, so that it cannot be told where tenant {tenant!r} lives"
            ) from cause
        route = answers.active(tenant) or answers.erased(tenant)
        if route is None:
            raise catalogue_unavailable(
                f", and no shard has tenant {tenant!r}; it alone can place a new one"
            ) from cause
        return route

    async def _place(self, tenant: str) -> Route:
        """Places a tenant that the catalogue does not know: where it lives already, else by the rule.

        A shard that does not answer does not stop it: new tenants would have to wait for each shard of all.
        """
        answers = await self._shards.ask(tenant)
        if answers.known:
            # A catalogue that was restored from an older backup.
            first = self._home_of(tenant, answers)
        else:
            shard = place(tenant, self._weights)
            if shard is None:
                raise RowcallError(ErrorReason.ERROR_REASON_SHARD_UNAVAILABLE, "Every shard is closed for new tenants.")
            first = Route(tenant, shard, _FIRST_EPOCH)
        route = await self._catalogue.place(first)
        if route.epoch == _FIRST_EPOCH:
            # Whoever was first may have died since, so everybody who meets the new tenant here does this.
            await self._adopt(route)
        _log.info("tenant placed", tenant=tenant, shard=route.shard, epoch=route.epoch)
        return route

    def _home_of(self, tenant: str, answers: Answers) -> Route:
        home = answers.active(tenant)
        if home is None and answers.erased(tenant) is not None:
            raise tenant_erased(tenant)
        if home is None:
            raise wrong_shard(tenant, "lived on a shard that does not take it any more, and none has taken it over")
        _log.warning("tenant found on a shard but not in the catalogue", tenant=tenant, shard=home.shard)
        return home

    async def _adopt(self, route: Route) -> None:
        if route.shard not in self._weights:
            return  # not configured here, as whoever asks the router for it is told
        answer = await self._shards.adopt(route)
        if answer.state is RouteState.ERASED:
            raise tenant_erased(route.tenant)
        if answer.state is not RouteState.ACTIVE:
            raise wrong_shard(route.tenant, f"does not live on shard {route.shard!r} any more")

    async def _look_beyond(self, refused: Route) -> Route:
        """What to try after a refusal: a later route of the catalogue; else the shard that takes the tenant; else, for
        a tenant that was placed and never taken in, the same shard once it has done that."""
        tenant = refused.tenant
        try:
            told = (await self._catalogue.find([tenant])).get(tenant)
        except RowcallError as error:
            if not is_catalogue_away(error):
                raise
            route = self._cache.learn(await self._ask_shards(tenant, error))
            if (await self._shards.ask(tenant)).active(tenant) is None:
                raise tenant_erased(tenant) from error
            return route
        if told is not None and told.epoch > refused.epoch:
            return self._cache.learn(told)
        if told is None:
            return self._cache.learn(await self._place(tenant))
        answers = await self._shards.ask(tenant)
        if answers.active(tenant) is None and answers.erased(tenant) is not None:
            self._cache.learn(told)  # it is where it was, for operators
            raise tenant_erased(tenant)
        taker = answers.active(tenant)
        if taker is not None and not answers.missing:
            return self._cache.learn(taker)
        if told.epoch == _FIRST_EPOCH and not answers.known and told.shard not in answers.missing:
            # Only at the first epoch: after a move the mover gives the new shard its route, once the jobs are there.
            await self._adopt(told)
            return self._cache.learn(told)
        raise wrong_shard(tenant, "is being moved, or its shard has not taken it in yet")

    def _refresh_soon(self, tenant: str) -> None:
        if monotonic() < self._refresh_from:
            return
        self._stale.add(tenant)
        if self._refresher is None or self._refresher.done():
            self._refresher = asyncio.create_task(self._refresh(), name="refresh routes")

    async def _refresh(self) -> None:
        """Looks old routes up again, in batches: however many tenants there are, one statement is under way."""
        while self._stale:
            batch = [self._stale.pop() for _ in range(min(len(self._stale), _REFRESH_BATCH))]
            try:
                found = await self._catalogue.find(batch)
            except RowcallError as error:
                _log.warning("routes not refreshed, serving those that are known", reason=str(error))
                self._refresh_from = monotonic() + _REFRESH_PAUSE
                self._stale.clear()
                return
            for tenant in batch:
                if tenant in found:
                    self._cache.learn(found[tenant])
                else:
                    self._cache.renew(tenant)
