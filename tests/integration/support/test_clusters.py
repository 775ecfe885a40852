"""The promise that the other tests rely on: a migrated catalogue and two shards, fresh for each test."""

from __future__ import annotations

from collections.abc import Mapping

import psycopg
import pytest

from rowcall.migrations import status
from tests.fix_cluster import Cluster, RestartableCluster


async def applied(cluster: Cluster) -> bool:
    states = [each.state for each in await status(cluster.catalogue_dsn, "catalogue")]
    for dsn in cluster.shards.values():
        states += [each.state for each in await status(dsn, "shard")]
    return len(states) > 0 and set(states) == {"applied"}


def shard_names(shards: Mapping[str, str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, dsn in shards.items():
        with psycopg.connect(dsn) as connection:
            row = connection.execute("select shard from rowcall.shard_info").fetchone()
            assert row is not None
            found[name] = row[0]
    return found


async def test_a_cluster_is_migrated_and_its_shards_know_their_names(cluster: Cluster) -> None:
    assert await applied(cluster)
    assert shard_names(cluster.shards) == {"a": "a", "b": "b"}


@pytest.mark.parametrize("time", ["first", "second"])
def test_each_test_has_a_cluster_of_its_own(cluster: Cluster, time: str) -> None:
    for dsn in (cluster.catalogue_dsn, *cluster.shards.values()):
        with psycopg.connect(dsn) as connection:
            connection.execute("create table left_by_a_test ()")


async def test_a_restartable_cluster_keeps_its_data_and_addresses(restartable_cluster: RestartableCluster) -> None:
    with psycopg.connect(restartable_cluster.shards["b"]) as connection:
        connection.execute("create table kept ()")

    restartable_cluster.postgres.kill()
    restartable_cluster.postgres.start()

    assert await applied(restartable_cluster)
    assert shard_names(restartable_cluster.shards) == {"a": "a", "b": "b"}
    with psycopg.connect(restartable_cluster.shards["b"]) as connection:
        connection.execute("select from kept")
