"""What cancels in a shard goes by the tenant, whoever calls it."""

from __future__ import annotations

from tests.fix_queue import PostgresQueue
from tests.support.queues import READY


async def test_a_job_of_another_tenant_is_not_there(queue: PostgresQueue) -> None:
    """`cancel_recorded` has looked for it by its tenant already; nobody else need have."""
    call = queue.call("acme")
    await queue.submit(call)
    await queue.admin.execute("select rowcall.cancel_job('bolt', %s, '', false)", [call.job_id])
    assert await queue.state("acme", call.job_id) == READY
