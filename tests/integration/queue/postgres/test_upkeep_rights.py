"""Upkeep on a server that does not give what only sharpens it: everything is done, later perhaps."""

from __future__ import annotations

import pytest

from tests.fix_queue import PostgresQueue
from tests.support.queues import NO_GRACE, READY


@pytest.mark.parametrize(
    "revoked",
    [
        "execute on function pg_current_wal_lsn()",
        "execute on function pg_walfile_name(pg_lsn)",
        "execute on function pg_postmaster_start_time()",
        "select on pg_locks",
    ],
)
async def test_jobs_of_a_dead_worker_are_taken_back_without_it(queue: PostgresQueue, revoked: str) -> None:
    await queue.admin.execute(f"revoke {revoked} from public".encode())
    await queue.submit(queue.call())
    dead, alive = await queue.worker("dead"), await queue.worker("alive")
    [job] = await queue.claim(dead)
    assert await queue.work.bury_workers(NO_GRACE) == [], "both live"
    await queue.die(dead)
    assert await queue.work.bury_workers(NO_GRACE) == [(dead, "dead")]
    assert [(each.job_id, each.state) for each in await queue.work.rescue(10)] == [(job.job_id, READY)]
    assert (await queue.renew(alive)).alive
