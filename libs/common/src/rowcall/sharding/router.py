"""The way from a tenant to its shard: one `Router` a process, opened by the service at its start.

The gateway routes calls with it (`route_cached`, `route`, `refused`, `call_on_shard`), the worker takes its shards from
it (`shards`). There is no LISTEN on the catalogue: a shard refuses whom it does not have, which corrects a stale route
at its first use, and the time to live corrects the rest.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections.abc import Awaitable, Callable, Collection, Mapping
from types import MappingProxyType
from typing import Final, Self, TypeVar

import structlog

from rowcall.errors import RowcallError
from rowcall.settings import ClusterSettings, Dsn, unverified_hosts
from rowcall.sharding.audit import CatalogueAudit
from rowcall.sharding.bounds import Bounds
from rowcall.sharding.capacity import Demand, check_capacity
from rowcall.sharding.directory import Directory
from rowcall.sharding.faults import catalogue_unavailable, is_wrong_shard, wrong_shard
from rowcall.sharding.model import Route, Workload
from rowcall.sharding.pools import STATEMENT_TIMEOUTS, Pool, connection_string
from rowcall.sharding.published import PublishedImages
from rowcall.sharding.revocations import Revocations
from rowcall.sharding.routes import RouteCache
from rowcall.sharding.shard import Shard, pool_sizes
from rowcall.sharding.sources import ShardRoutes, TenantCatalogue
from rowcall.sharding.tenants import PlacedTenants
from rowcall.v1.error_reason_pb2 import ErrorReason

T = TypeVar("T")

_log = structlog.get_logger(__name__)

_RETRY_DELAYS: Final = (0.0, 0.05, 0.1, 0.2, 0.4)
"""Seconds before each further try of a call that its shard refused; with jitter. Together well below a second: a
tenant's move fences it for about that long."""


class Router:
    """Tenants, shards and the connections to them. Made by `open`."""

    def __init__(self, settings: ClusterSettings, *, service: str, workloads: Collection[Workload]) -> None:
        self._shards = {
            name: Shard(name, settings, service=service, workloads=workloads) for name in sorted(settings.shards)
        }
        self._catalogue: Pool | None = None
        self._directory: Directory | None = None
        self._revocations: Revocations | None = None
        self._bounds: Bounds | None = None
        self._placed: PlacedTenants | None = None
        self._audit: CatalogueAudit | None = None
        self._images: PublishedImages | None = None
        if Workload.READ in workloads:
            self._catalogue = Pool(
                connection_string(
                    settings.catalogue,
                    settings,
                    application=f"{service} catalogue",
                    statement_timeout=STATEMENT_TIMEOUTS[Workload.READ],
                ),
                settings,
                name="catalogue",
                size=settings.pool_catalogue,
                unavailable=_catalogue_unavailable,
                ride_out=0,  # the shards are asked instead
            )
            patience = settings.pool_timeout.total_seconds()
            catalogue = TenantCatalogue(self._catalogue, patience=patience)
            self._revocations = Revocations(catalogue.fetch)
            self._bounds = Bounds(catalogue.fetch)
            self._placed = PlacedTenants(catalogue.fetch)
            self._audit = CatalogueAudit(catalogue.fetch)
            self._images = PublishedImages(catalogue.fetch)
            self._directory = Directory(
                catalogue,
                ShardRoutes(self._shards, patience=patience),
                weights={name: settings.placement.get(name, 1.0) for name in self._shards},
                cache=RouteCache(ttl=settings.route_ttl.total_seconds(), size=settings.route_cache),
            )

    @classmethod
    async def open(
        cls,
        settings: ClusterSettings,
        *,
        service: str = "rowcall",
        workloads: Collection[Workload] = frozenset(Workload),
        dedicated: int = 0,
        processes: int = 1,
        beside: int = 0,
    ) -> Self:
        """Checks the sizes of the pools against the servers and begins to connect, without waiting for it.

        Args:
            settings: Where catalogue and shards are.
            service: Names the process's connections in pg_stat_activity.
            workloads: Which pools to open: GATEWAY_WORKLOADS or WORKER_WORKLOADS. READ brings the directory.
            dedicated: How many connections a shard the service opens beside the pools (listening, renewal).
            processes: How many processes like this one there are: the servers must have room for all.
            beside: How many connections a shard a further process may open that one of them starts at times.

        Raises:
            SettingsError: The pools of these processes alone are more than a server allows, or it does not know login or database.
        """
        if not settings.transaction_pooler:
            await check_capacity(
                service,
                _demands(settings, service, workloads, dedicated, beside),
                patience=settings.connect_timeout.total_seconds() + 1,
                processes=processes,
            )
        _tell_unverified(settings)
        # A pool says once by itself that its database is away; psycopg_pool would at each attempt.
        logging.getLogger("psycopg.pool").setLevel(logging.ERROR)
        router = cls(settings, service=service, workloads=workloads)
        if router._catalogue is not None:
            await router._catalogue.open()
        for shard in router._shards.values():
            await shard.open()
        return router

    async def close(self) -> None:
        """Closes every connection; those in use when they are given back."""
        if self._directory is not None:
            await self._directory.close()
        pools = [shard.close() for shard in self._shards.values()]
        if self._catalogue is not None:
            pools.append(self._catalogue.close())
        await asyncio.gather(*pools)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def shards(self) -> Mapping[str, Shard]:
        """Every configured shard by its name."""
        return MappingProxyType(self._shards)

    @property
    def revocations(self) -> Revocations:
        """Which tokens are refused, as the catalogue has it.

        Raises:
            LookupError: The router has no catalogue.
        """
        if self._revocations is None:
            raise LookupError("this router was opened without the workload 'read', so it has no catalogue")
        return self._revocations

    @property
    def images(self) -> PublishedImages:
        """The images that were published, as the catalogue has them.

        Raises:
            LookupError: The router has no catalogue.
        """
        if self._images is None:
            raise LookupError("this router was opened without the workload 'read', so it has no catalogue")
        return self._images

    @property
    def tenants(self) -> PlacedTenants:
        """Which tenants there are, as the catalogue has them.

        Raises:
            LookupError: The router has no catalogue.
        """
        if self._placed is None:
            raise LookupError("this router was opened without the workload 'read', so it has no catalogue")
        return self._placed

    @property
    def bounds(self) -> Bounds:
        """How much is let in, as the catalogue has it.

        Raises:
            LookupError: The router has no catalogue.
        """
        if self._bounds is None:
            raise LookupError("this router was opened without the workload 'read', so it has no catalogue")
        return self._bounds

    @property
    def audit(self) -> CatalogueAudit:
        """What was done to the catalogue, and by whom.

        Raises:
            LookupError: The router has no catalogue.
        """
        if self._audit is None:
            raise LookupError("this router was opened without the workload 'read', so it has no catalogue")
        return self._audit

    def shard(self, name: str) -> Shard:
        """A shard by the name that a route gives.

        Raises:
            RowcallError: SHARD_UNAVAILABLE if it is not configured here.
        """
        shard = self._shards.get(name)
        if shard is None:
            raise RowcallError(
                ErrorReason.ERROR_REASON_SHARD_UNAVAILABLE,
                f"The tenant lives on shard {name!r}, which this process is not configured for. The operator must add "
                f"it to ROWCALL_SHARDS (--shard {name}=<connection string>).",
                metadata={"shard": name},
            )
        return shard

    def route_cached(self, tenant: str) -> Route | None:
        """A tenant's route if it is remembered: a look into a dict, for the hot path. None: await `route`."""
        return self._routes.cached(tenant)

    async def route(self, tenant: str) -> Route:
        """Where a tenant lives; a new one is placed and recorded.

        Raises:
            RowcallError: CATALOGUE_UNAVAILABLE, SHARD_UNAVAILABLE, WRONG_SHARD or SCHEMA_MISMATCH.
        """
        return await self._routes.route(tenant)

    async def find(self, tenant: str) -> Route | None:
        """Where a tenant lives; None if nobody knows it. For reads: asking must not place anybody.

        Raises:
            RowcallError: As `route`.
        """
        return await self._routes.find(tenant)

    def invalidate(self, tenant: str, epoch: int) -> None:
        """Forgets a tenant's route if it is of this epoch or an earlier one."""
        self._routes.invalidate(tenant, epoch)

    async def refused(self, route: Route) -> Route:
        """The route to try next after the shard of this one answered WRONG_SHARD. For batches of many tenants, which
        cannot use `call_on_shard`; the caller bounds its tries.

        Raises:
            RowcallError: WRONG_SHARD if no shard takes the tenant now, otherwise as `route`.
        """
        return await self._routes.refused(route)

    async def call_on_shard(self, tenant: str, fn: Callable[[Shard], Awaitable[T]]) -> T:
        """Runs `fn` on the tenant's shard; when it raises WRONG_SHARD, again where the tenant lives by now.

        Raises:
            RowcallError: WRONG_SHARD with a time to call again if that did not help soon; what `route` raises; what
                `fn` raises.
        """
        route = await self.route(tenant)
        for delay in _RETRY_DELAYS:
            try:
                return await fn(self.shard(route.shard))
            except RowcallError as error:
                if not is_wrong_shard(error):
                    raise
            await asyncio.sleep(delay * random.uniform(0.5, 1.5))  # noqa: S311 - no secret
            route = await self._better(route)
        try:
            return await fn(self.shard(route.shard))
        except RowcallError as error:
            if not is_wrong_shard(error):
                raise
            raise wrong_shard(tenant, f"is refused by shard {route.shard!r}, and no other takes it") from error

    async def _better(self, route: Route) -> Route:
        """The next route to try; the same one while there is none: its shard may take the tenant back."""
        try:
            return await self.refused(route)
        except RowcallError as error:
            if not is_wrong_shard(error):
                raise
            return route

    @property
    def _routes(self) -> Directory:
        if self._directory is None:
            raise LookupError("this router was opened without the workload 'read', so it has no directory")
        return self._directory


def _tell_unverified(settings: ClusterSettings) -> None:
    """Says which connections whoever is on the way can read and change: libpq's default asks nobody who they are."""
    strings = {"the catalogue": settings.catalogue, **{f"shard {name!r}": dsn for name, dsn in settings.shards.items()}}
    open_ones = [name for name, dsn in strings.items() if unverified_hosts(dsn, os.environ)]
    if open_ones:
        _log.warning(
            "connections to databases go over a network and verify no server: say sslmode=verify-full and sslrootcert=FILE",
            databases=open_ones,
            setting="ROWCALL_REQUIRE_DATABASE_TLS",
        )


def _catalogue_unavailable(why: str) -> RowcallError:
    return catalogue_unavailable(f": it {why}")


def _demands(
    settings: ClusterSettings, service: str, workloads: Collection[Workload], dedicated: int, beside: int
) -> list[Demand]:
    def dsn(given: str) -> Dsn:
        return connection_string(given, settings, application=f"{service} start")

    sizes = {workload: size for workload, size in pool_sizes(settings).items() if workload in workloads}
    parts = [f"ROWCALL_POOL_{workload.name} {size}" for workload, size in sizes.items()]
    if dedicated:
        parts.append(f"{dedicated} dedicated")
    # What keeps spans has a connection of its own, in each process.
    kept = int(settings.activity)
    if kept:
        parts.append(f"{kept} for spans (ROWCALL_ACTIVITY)")
    demands = [
        Demand(
            f"shard {name!r}",
            f"ROWCALL_SHARDS (--shard {name}=…)",
            dsn(given),
            sum(sizes.values()) + dedicated + kept,
            " + ".join(parts),
            beside + kept if beside else 0,
        )
        for name, given in settings.shards.items()
    ]
    if Workload.READ in workloads:
        size = settings.pool_catalogue
        demands.append(
            Demand(
                "the catalogue",
                "ROWCALL_CATALOGUE (--catalogue)",
                dsn(settings.catalogue),
                size,
                f"ROWCALL_POOL_CATALOGUE {size}",
            )
        )
    return demands
