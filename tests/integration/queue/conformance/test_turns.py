"""What every implementation of the queue keeps to: whose turn it is, also between gateways and for what comes back.

Each test of a guard fails when the guard is taken out.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from rowcall.errors import RowcallError
from rowcall.queue.model import ORDER_STRIDE
from tests.support.queues import Queue


async def test_a_backlog_that_is_due_at_once_does_not_come_before_everybody(queue: Queue) -> None:
    """In as many batches as it takes: each goes on where the one before ended, the longest due first."""
    due = [queue.call(run_at=datetime.now(UTC) + timedelta(hours=1, seconds=number)) for number in range(1000)]
    await queue.submit(*due)
    await queue.probe.pass_time(timedelta(days=1))
    while await queue.work.promote(300):
        pass
    one = queue.call("bolt")
    await queue.submit(one)
    jobs = await queue.claim(await queue.worker(), 1001)
    assert one.job_id in [job.job_id for job in jobs[:3]]
    assert [job.job_id for job in jobs if job.tenant == "acme"] == [call.job_id for call in due]


async def test_jobs_of_many_tenants_that_are_due_at_once_come_in_turns(queue: Queue) -> None:
    tenants = [f"t{number}" for number in range(20)]
    await queue.probe.adopt(*tenants)
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


async def test_weights_are_shares(queue: Queue) -> None:
    assert await queue.operators.weigh("acme", 3)
    assert not await queue.operators.weigh("unknown", 3)
    await queue.submit(*(queue.call("acme") for _ in range(200)))
    await queue.submit(*(queue.call("bolt") for _ in range(200)))
    tenants = [job.tenant for job in await queue.claim(await queue.worker(), 80)]
    assert 58 <= tenants.count("acme") <= 62


async def test_weights_are_shares_of_what_comes_back_too(queue: Queue) -> None:
    await queue.operators.weigh("acme", 3)
    later = datetime.now(UTC) + timedelta(hours=1)
    await queue.submit(*(queue.call(tenant, run_at=later) for tenant in ("acme", "bolt") for _ in range(200)))
    await queue.ready_now()
    tenants = [job.tenant for job in await queue.claim(await queue.worker(), 80)]
    assert 58 <= tenants.count("acme") <= 62


async def test_a_weight_is_bounded(queue: Queue) -> None:
    for weight in (0, 0.001, 101, -1):
        with pytest.raises(RowcallError):
            await queue.operators.weigh("acme", weight)
    await queue.submit(queue.call(), queue.call())
    assert [job.order_key for job in await queue.probe.jobs()] == [ORDER_STRIDE, 2 * ORDER_STRIDE], "it is still 1"


async def test_gateways_tell_each_other_how_far_a_tenant_has_moved(queue: Queue) -> None:
    async with queue.another() as other:
        await queue.submit(*(queue.call() for _ in range(100)))
        assert await queue.store.exchange_turns() == 1
        assert await queue.store.exchange_turns() == 0, "nothing moved since"
        late = queue.call()
        await queue.submit(late, store=other.store)
        assert (await queue.facts(late.job_id)).order_key == 101 * ORDER_STRIDE

        # Both know the flow by now; only the exchange can tell the one of the other's.
        await queue.submit(*(queue.call() for _ in range(100)))
        await queue.store.exchange_turns()
        await other.store.exchange_turns()
        later = queue.call()
        await queue.submit(later, store=other.store)
        assert (await queue.facts(later.job_id)).order_key == 201 * ORDER_STRIDE


async def test_turns_that_the_frontier_has_passed_are_forgotten(queue: Queue) -> None:
    await queue.submit(*(queue.call() for _ in range(3)))
    await queue.submit(*(queue.call("bolt") for _ in range(5)))
    await queue.store.exchange_turns()
    assert await queue.work.forget_turns(10) == 0
    jobs = await queue.claim(await queue.worker(), 7)
    assert jobs[-1].tenant == "bolt"
    assert await queue.work.forget_turns(10) == 1
    assert [turn.tenant for turn in await queue.probe.turns()] == ["bolt"], "it is ahead of the frontier"


async def test_turns_are_forgotten_in_batches(queue: Queue) -> None:
    await queue.submit(queue.call("acme"))
    await queue.submit(queue.call("bolt"))
    await queue.store.exchange_turns()
    await queue.claim(await queue.worker())
    assert [await queue.work.forget_turns(1) for _ in range(3)] == [1, 1, 0]
