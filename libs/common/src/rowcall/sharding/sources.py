"""Who knows where a tenant lives: the catalogue, and the shards themselves. Asked by the directory.

The catalogue places new tenants; a shard is the authority on whether it takes a tenant's writes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import psycopg
from psycopg.rows import TupleRow

from rowcall.errors import RowcallError
from rowcall.sharding.bounded import bounded
from rowcall.sharding.faults import catalogue_unavailable, failure, shard_unavailable
from rowcall.sharding.model import Route, RouteState, ShardAnswer, Workload
from rowcall.sharding.pools import Pool
from rowcall.sharding.shard import Shard
from rowcall.sharding.statements import statement


class TenantCatalogue:
    """The database that says which tenant lives on which shard."""

    def __init__(self, pool: Pool, *, patience: float) -> None:
        """`patience`: seconds to wait for an answer."""
        self._pool = pool
        self._patience = patience

    async def find(self, tenants: Sequence[str]) -> dict[str, Route]:
        """The routes of those tenants that it knows.

        Raises:
            RowcallError: CATALOGUE_UNAVAILABLE, SCHEMA_MISMATCH or INTERNAL.
        """
        rows = await self.fetch("find_tenants", {"tenants": list(tenants)})
        return {tenant: Route(tenant, shard, epoch) for tenant, shard, epoch in rows}

    async def place(self, route: Route) -> Route:
        """Records a tenant's first route, and answers with what is recorded: somebody else's, if that was first.

        Raises:
            RowcallError: As `find`.
        """
        await self.fetch("place_tenant", {"tenant": route.tenant, "shard": route.shard, "epoch": route.epoch})
        # A statement of its own: the row of a concurrent insert is not in the snapshot of the one that met it.
        return (await self.find([route.tenant]))[route.tenant]

    async def fetch(self, name: str, parameters: Mapping[str, object]) -> list[TupleRow]:
        """The rows of a statement of `sql/`.

        Raises:
            RowcallError: As `find`.
        """
        try:
            return await bounded(_fetch(self._pool, name, parameters), self._patience)
        except RowcallError:
            raise
        except (psycopg.Error, TimeoutError, OSError) as error:
            raise failure("the catalogue", error, catalogue_unavailable("")) from error


@dataclass(frozen=True, slots=True)
class Answers:
    """What all shards say of a tenant."""

    known: Mapping[str, ShardAnswer]
    """By shard: those that have a route of the tenant."""
    missing: Mapping[str, RowcallError]
    """By shard: those that did not answer, and why."""

    def active(self, tenant: str) -> Route | None:
        """The shard that takes the tenant's writes; of several the one with the highest epoch."""
        return self._latest(tenant, RouteState.ACTIVE)

    def erased(self, tenant: str) -> Route | None:
        """The shard that the tenant was erased on, or is being."""
        return self._latest(tenant, RouteState.ERASED)

    def _latest(self, tenant: str, state: RouteState) -> Route | None:
        routes = [Route(tenant, shard, answer.epoch) for shard, answer in self.known.items() if answer.state is state]
        return max(routes, key=lambda route: (route.epoch, route.shard), default=None)


class ShardRoutes:
    """The shards' own tables of who lives there."""

    def __init__(self, shards: Mapping[str, Shard], *, patience: float) -> None:
        """`patience`: seconds to wait for an answer."""
        self._shards = shards
        self._patience = patience

    async def ask(self, tenant: str) -> Answers:
        """Asks every shard at once."""
        names = list(self._shards)
        answers = await asyncio.gather(*(self._ask_one(name, tenant) for name in names))
        known = {name: answer for name, answer in zip(names, answers, strict=True) if isinstance(answer, ShardAnswer)}
        missing = {
            name: answer for name, answer in zip(names, answers, strict=True) if isinstance(answer, RowcallError)
        }
        return Answers(known, missing)

    async def adopt(self, route: Route) -> ShardAnswer:
        """Has a shard take in a tenant that the catalogue placed there.

        Raises:
            RowcallError: SHARD_UNAVAILABLE, SCHEMA_MISMATCH or INTERNAL.
        """
        rows = await self._fetch(route.shard, "adopt_tenant", {"tenant": route.tenant, "epoch": route.epoch})
        return ShardAnswer(rows[0][0], RouteState(rows[0][1]))

    async def _ask_one(self, name: str, tenant: str) -> ShardAnswer | RowcallError | None:
        try:
            rows = await self._fetch(name, "tenant_route", {"tenant": tenant})
        except RowcallError as error:
            return error
        return ShardAnswer(rows[0][0], RouteState(rows[0][1])) if rows else None

    async def _fetch(self, name: str, query: str, parameters: Mapping[str, object]) -> list[TupleRow]:
        pool = self._shards[name].pool(Workload.READ)
        try:
            return await bounded(_fetch(pool, query, parameters), self._patience)
        except RowcallError:
            raise
        except (psycopg.Error, TimeoutError, OSError) as error:
            raise failure(f"shard {name!r}", error, shard_unavailable(name, "cannot be reached")) from error


async def _fetch(pool: Pool, name: str, parameters: Mapping[str, object]) -> list[TupleRow]:
    async with pool.connection() as connection:
        cursor = await connection.execute(statement(name), parameters)
        return await cursor.fetchall() if cursor.description is not None else []
