"""What every implementation of the queue keeps to: whose turn it is, also between gateways and for what comes back.

Each test of a guard fails when the guard is taken out of the SQL.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from rowcall.errors import RowcallError
from rowcall.queue.model import ORDER_STRIDE, Submission
from rowcall.queue.postgres.admin import PostgresQueueAdmin
from rowcall.queue.postgres.store import PostgresJobStore
from tests.fix_queue import Queue, opened, taken


async def send(store: PostgresJobStore, *calls: Submission) -> None:
    for answer in await store.submit(calls):
        taken(answer)


async def test_a_backlog_that_is_due_at_once_does_not_come_before_everybody(queue: Queue) -> None:
    """In as many batches as it takes: each goes on where the one before ended, the longest due first."""
    due = [queue.call(run_at=datetime.now(UTC) + timedelta(hours=1, seconds=number)) for number in range(1000)]
    await queue.submit(*due)
    await queue.admin.execute("update rowcall.job set run_at = run_at - interval '1 day'")
    while await queue.work.promote(300):
        pass
    one = queue.call("bolt")
    await queue.submit(one)
    jobs = await queue.claim(await queue.worker(), 1001)
    assert one.job_id in [job.job_id for job in jobs[:3]]
    assert [job.job_id for job in jobs if job.tenant == "acme"] == [call.job_id for call in due]


async def test_jobs_of_many_tenants_that_are_due_at_once_come_in_turns(queue: Queue) -> None:
    tenants = [f"t{number}" for number in range(20)]
    await queue.adopt(*tenants)
    later = datetime.now(UTC) + timedelta(hours=1)
    await queue.submit(*(queue.call(tenant, run_at=later) for tenant in tenants for _ in range(5)))
    await queue.ready_now()
    jobs = await queue.claim(await queue.worker(), 100)
    for first in range(0, 100, 20):
        assert {job.tenant for job in jobs[first : first + 20]} == set(tenants)


async def test_what_is_due_does_not_wait_behind_its_tenants_backlog(queue: Queue) -> None:
    later = queue.call(run_at=datetime.now(UTC) + timedelta(hours=1))
    await queue.submit(later, *(queue.call() for _ in range(50)))
    await queue.ready_now()
    assert later.job_id in [job.job_id for job in await queue.claim(await queue.worker(), 2)]


async def test_weights_are_shares(queue: Queue, operators: PostgresQueueAdmin) -> None:
    assert await operators.weigh("acme", 3)
    assert not await operators.weigh("unknown", 3)
    await queue.submit(*(queue.call("acme") for _ in range(200)))
    await queue.submit(*(queue.call("bolt") for _ in range(200)))
    tenants = [job.tenant for job in await queue.claim(await queue.worker(), 80)]
    assert 58 <= tenants.count("acme") <= 62


async def test_weights_are_shares_of_what_comes_back_too(queue: Queue, operators: PostgresQueueAdmin) -> None:
    await operators.weigh("acme", 3)
    later = datetime.now(UTC) + timedelta(hours=1)
    await queue.submit(*(queue.call(tenant, run_at=later) for tenant in ("acme", "bolt") for _ in range(200)))
    await queue.ready_now()
    tenants = [job.tenant for job in await queue.claim(await queue.worker(), 80)]
    assert 58 <= tenants.count("acme") <= 62


async def test_a_weight_is_bounded(queue: Queue, operators: PostgresQueueAdmin) -> None:
    for weight in (0, 0.001, 101, -1):
        with pytest.raises(RowcallError):
            await operators.weigh("acme", weight)
    assert await queue.value("select weight from rowcall.tenant_route where tenant = 'acme'") == 1


async def test_gateways_tell_each_other_how_far_a_tenant_has_moved(queue: Queue) -> None:
    async with opened(queue.logins) as (other, _):
        await queue.submit(*(queue.call() for _ in range(100)))
        assert await queue.store.exchange_turns() == 1
        assert await queue.store.exchange_turns() == 0, "nothing moved since"
        late = queue.call()
        await send(other, late)
        assert (
            await queue.value("select order_key from rowcall.job where job_id = %s", late.job_id) == 101 * ORDER_STRIDE
        )

        # Both know the flow by now; only the exchange can tell the one of the other's.
        await queue.submit(*(queue.call() for _ in range(100)))
        await queue.store.exchange_turns()
        await other.exchange_turns()
        later = queue.call()
        await send(other, later)
        key = await queue.value("select order_key from rowcall.job where job_id = %s", later.job_id)
        assert key == 201 * ORDER_STRIDE


async def test_turns_that_the_frontier_has_passed_are_forgotten(queue: Queue) -> None:
    await queue.submit(*(queue.call() for _ in range(3)))
    await queue.submit(*(queue.call("bolt") for _ in range(5)))
    await queue.store.exchange_turns()
    assert await queue.work.forget_turns(10) == 0
    jobs = await queue.claim(await queue.worker(), 7)
    assert jobs[-1].tenant == "bolt"
    assert await queue.work.forget_turns(10) == 1
    assert await queue.value("select tenant from rowcall.turn") == "bolt", "it is ahead of the frontier"


async def test_turns_are_forgotten_in_batches(queue: Queue) -> None:
    await queue.submit(queue.call("acme"))
    await queue.submit(queue.call("bolt"))
    await queue.store.exchange_turns()
    await queue.claim(await queue.worker())
    assert [await queue.work.forget_turns(1) for _ in range(3)] == [1, 1, 0]
