"""What is kept of workers, and for how long."""

from __future__ import annotations

import pytest

from rowcall.queue.model import Busy
from tests.fix_queue import PostgresQueue

NAMED = "select count(*) from rowcall.worker_beat where 'acme' = any (busy_tenant)"


@pytest.mark.parametrize("leaves", [True, False])
async def test_whose_jobs_a_worker_ran_is_not_kept_when_it_has_ended(queue: PostgresQueue, leaves: bool) -> None:
    """Its row stays for a day, and the tenant may be erased meanwhile."""
    await queue.submit(queue.call())
    worker = await queue.worker()
    [job] = await queue.claim(worker)
    await queue.renew(worker, busy=Busy(1, 0, [(job.tenant, job.job_id)], {}, {}))
    assert await queue.value(NAMED) == 1
    if leaves:
        await queue.work.retire_worker(worker)
    else:
        await queue.kill(worker)
    assert await queue.value(NAMED) == 0
    assert await queue.value("select count(*) from rowcall.worker_beat") == 1
