"""A shard that takes no writes for a while: whoever submits and whoever works is back soon after it takes them again."""

from __future__ import annotations

from time import monotonic

import psycopg
import pytest
from psycopg import sql

from rowcall.errors import RowcallError
from rowcall.probe.v1.probe_pb2 import EchoRequest
from tests.fix_cluster import Cluster
from tests.fix_worker import Calls, Workers
from tests.support.waiting import until

SECONDS = 10.0
"""Within which all is as before."""


@pytest.mark.straight("a pooler keeps its sessions")
async def test_work_goes_on_soon_after_a_shard_was_read_only(calls: Calls, workers: Workers, cluster: Cluster) -> None:
    """Its sessions were ended and begun again meanwhile, by each of the gateway's pools and the worker's."""
    await workers.start()
    first = await calls.submit("Echo", EchoRequest(payload=b"1"))
    await calls.done(first)
    with psycopg.connect(cluster.shards[first.shard], autocommit=True) as admin:
        database = sql.Identifier(admin.info.dbname)
        admin.execute(sql.SQL("alter database {} set default_transaction_read_only = on").format(database))
        admin.execute(
            "select pg_terminate_backend(pid, 5000) from pg_stat_activity"
            " where datname = current_database() and pid <> pg_backend_pid() and backend_type = 'client backend'"
        )

        async def refused() -> bool:
            try:
                await calls.submit("Echo", EchoRequest(payload=b"2"))
            except (RowcallError, AssertionError) as error:
                return "writes" in str(error)
            return False

        await until(refused)
        # Both have had the time to fill their pools with sessions that cannot write.
        gave_up = monotonic() + 2
        await until(lambda: monotonic() > gave_up)
        admin.execute("set default_transaction_read_only = off")
        admin.execute(sql.SQL("alter database {} reset all").format(database))

    async def works() -> bool:
        try:
            job = await calls.submit("Echo", EchoRequest(payload=b"3"))
        except (RowcallError, AssertionError):
            return False
        await calls.done(job, seconds=SECONDS)
        return True

    await until(works, seconds=SECONDS)
