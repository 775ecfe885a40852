"""Moves a tenant between shards by hand, without its jobs: what a mover does to the routes, step by step."""

from __future__ import annotations

import psycopg

from rowcall.sharding import Route
from rowcall.sharding.model import RouteState
from tests.fix_cluster import Cluster

_SET_ROUTE = """
    insert into rowcall.tenant_route (tenant, epoch, state) values (%(tenant)s, %(epoch)s, %(state)s)
    on conflict (tenant) do update set epoch = excluded.epoch, state = excluded.state, changed_at = clock_timestamp()
"""


def set_route(cluster: Cluster, shard: str, tenant: str, epoch: int, state: RouteState) -> None:
    """Writes a shard's own route of a tenant."""
    with psycopg.connect(cluster.shards[shard]) as connection:
        connection.execute(_SET_ROUTE, {"tenant": tenant, "epoch": epoch, "state": state})


def set_catalogue(cluster: Cluster, route: Route) -> None:
    """Writes the catalogue's route of a tenant."""
    with psycopg.connect(cluster.catalogue_dsn) as connection:
        connection.execute(
            "insert into rowcall_catalogue.tenant (tenant, shard, epoch) values (%s, %s, %s) "
            "on conflict (tenant) do update set shard = excluded.shard, epoch = excluded.epoch",
            [route.tenant, route.shard, route.epoch],
        )


def move(cluster: Cluster, route: Route, to: str) -> Route:
    """Moves a tenant from where its route says to another shard: fenced there, active here, recorded, released."""
    moved = Route(route.tenant, to, route.epoch + 1)
    set_route(cluster, route.shard, route.tenant, route.epoch, RouteState.FENCED)
    set_route(cluster, to, moved.tenant, moved.epoch, RouteState.ACTIVE)
    set_catalogue(cluster, moved)
    set_route(cluster, route.shard, route.tenant, moved.epoch, RouteState.MOVED)
    return moved


def catalogue_routes(cluster: Cluster) -> dict[str, Route]:
    """Everything that the catalogue has recorded."""
    with psycopg.connect(cluster.catalogue_dsn) as connection:
        rows = connection.execute("select tenant, shard, epoch from rowcall_catalogue.tenant").fetchall()
    return {tenant: Route(tenant, shard, epoch) for tenant, shard, epoch in rows}


def shard_routes(cluster: Cluster, shard: str) -> dict[str, tuple[int, RouteState]]:
    """Every tenant that a shard knows, with epoch and state."""
    with psycopg.connect(cluster.shards[shard]) as connection:
        rows = connection.execute("select tenant, epoch, state from rowcall.tenant_route").fetchall()
    return {tenant: (epoch, RouteState(state)) for tenant, epoch, state in rows}
