"""The rows that the long proofs and benchmarks write themselves are such as the schema takes, and mean what they are to mean."""

from __future__ import annotations

import asyncio

import psycopg

from tests.fix_cluster import Cluster
from tests.proofs.engine import engine
from tests.proofs.size import fill


async def test_a_filled_store_has_finished_and_scheduled_jobs(cluster: Cluster) -> None:
    dsn = cluster.shards["a"]
    async with engine(dsn):
        pass
    await asyncio.to_thread(fill, dsn, 700)
    with psycopg.connect(dsn) as connection:
        found = connection.execute("select state, count(*) from rowcall.jobs group by state order by state").fetchall()
        (keys,) = connection.execute("select count(*) from rowcall.job_key").fetchall()
    assert found == [("SCHEDULED", 70), ("SUCCEEDED", 700)]
    assert keys == (700,)
