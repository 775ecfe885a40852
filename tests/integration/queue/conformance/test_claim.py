"""What every implementation of the queue keeps to: claiming.

Each test of a guard fails when the guard is taken out.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

from rowcall.catalogue.model import Policy
from rowcall.queue.model import ORDER_STRIDE
from tests.support.queues import METHOD, READY, SCHEDULED, Queue


async def test_lanes_first_then_in_order(queue: Queue) -> None:
    calls = [queue.call(lane=lane) for lane in (4, 3, 2, 1, 3, 1)]
    for call in calls:
        await queue.submit(call)
    jobs = await queue.claim(await queue.worker())
    assert [job.job_id for job in jobs] == [calls[place].job_id for place in (3, 5, 2, 1, 4, 0)]


async def test_one_call_of_another_tenant_comes_before_a_backlog(queue: Queue) -> None:
    await queue.submit(*(queue.call("acme") for _ in range(1000)))
    worker = await queue.worker()
    await queue.claim(worker, 10)
    one = queue.call("bolt")
    await queue.submit(one)
    jobs = await queue.claim(worker, 3)
    assert one.job_id in [job.job_id for job in jobs]


async def test_a_backlog_that_comes_in_many_batches_is_one_backlog(queue: Queue) -> None:
    for _ in range(10):
        await queue.submit(*(queue.call("acme") for _ in range(10)))
    await queue.submit(*(queue.call("bolt") for _ in range(2)))
    jobs = await queue.claim(await queue.worker(), 6)
    assert [job.tenant for job in jobs].count("bolt") == 2


async def test_a_tenant_that_comes_later_shares_from_then_on(queue: Queue) -> None:
    """It neither waits for the others' backlog nor is owed what they had before it came."""
    await queue.submit(*(queue.call("acme") for _ in range(100)))
    worker = await queue.worker()
    await queue.claim(worker, 50)
    await queue.submit(*(queue.call("bolt") for _ in range(100)))
    tenants = [job.tenant for job in await queue.claim(worker, 20)]
    assert 9 <= tenants.count("bolt") <= 11


async def test_a_claim_passes_by_what_others_hold(queue: Queue) -> None:
    calls = [queue.call() for _ in range(3)]
    await queue.submit(*calls)
    worker = await queue.worker()
    async with queue.probe.holding(calls[0].job_id):
        async with asyncio.timeout(5):
            jobs = await queue.claim(worker, 2)
        assert [job.job_id for job in jobs] == [calls[1].job_id, calls[2].job_id]


async def test_a_claim_begins_where_it_is_told_to(queue: Queue) -> None:
    await queue.submit(*(queue.call() for _ in range(4)))
    worker = await queue.worker()
    jobs = await queue.claim(worker, start=(0, 0, 3 * ORDER_STRIDE, 0))
    assert [job.order_key for job in jobs] == [3 * ORDER_STRIDE, 4 * ORDER_STRIDE]
    assert len(await queue.claim(worker)) == 2


async def test_only_methods_that_are_served_are_claimed(queue: Queue) -> None:
    unknown = await queue.store.method_ids("acme.v1.PrintService/Unknown", Policy())
    await queue.submit(queue.call(ids=unknown), queue.call(), queue.call(ids=unknown))
    jobs = await queue.claim(await queue.worker())
    assert [job.method_id for job in jobs] == [queue.ids.method_id]


async def test_queues_are_apart_and_can_be_paused(queue: Queue) -> None:
    slow = await queue.store.method_ids(METHOD, Policy(queue="slow"))
    await queue.submit(queue.call(ids=slow))
    worker = await queue.worker()
    assert await queue.claim(worker) == []
    assert await queue.operators.pause("queue", "slow", by=None, note=None)
    assert {row.name: row.paused for row in await queue.work.queues()} == {"default": False, "slow": True}
    assert await queue.claim(worker, ids=slow) == []
    assert await queue.operators.resume("queue", "slow")
    assert len(await queue.claim(worker, ids=slow)) == 1


async def test_two_workers_never_get_the_same_job(queue: Queue) -> None:
    await queue.submit(*(queue.call() for _ in range(400)))
    async with queue.another() as other:
        workers = [await queue.worker(f"w{number}") for number in range(8)]
        claims = await asyncio.gather(
            *(
                (queue.work if number % 2 else other.work).claim(
                    worker, queue.ids.queue_id, [queue.ids.method_id], 100, start=(0, 0, 0, 0)
                )
                for number, worker in enumerate(workers)
            )
        )
    jobs = [job.job_id for claim in claims for job in claim]
    assert len(jobs) == len(set(jobs))
    assert [job.state for job in await queue.probe.jobs()].count(READY) == 400 - len(jobs)


async def test_a_scheduled_job_waits_for_its_time(queue: Queue) -> None:
    later = queue.call(run_at=datetime.now(UTC) + timedelta(hours=1))
    past = queue.call(run_at=datetime.now(UTC) - timedelta(hours=1))
    await queue.submit(later, past)
    worker = await queue.worker()
    assert await queue.state("acme", later.job_id) == SCHEDULED
    [claimed] = await queue.claim(worker)
    assert claimed.job_id == past.job_id
    assert await queue.work.promote(10) == {}

    await queue.submit(*(queue.call() for _ in range(50)))
    await queue.probe.pass_time(timedelta(hours=2))
    assert await queue.work.promote(10) == {queue.ids.queue_id: 1}
    jobs = await queue.claim(worker, 1, start=(0, 0, claimed.order_key, 0))
    assert [job.job_id for job in jobs] == [later.job_id], "it is next: before the backlog, and behind nobody's mark"


async def test_promoting_takes_no_more_than_it_is_told_to_and_the_longest_due_first(queue: Queue) -> None:
    now = datetime.now(UTC)
    calls = [queue.call(run_at=now + timedelta(hours=hour)) for hour in (3, 1, 2)]
    await queue.submit(*calls)
    await queue.probe.pass_time(timedelta(days=1))
    assert await queue.work.promote(2) == {queue.ids.queue_id: 2}
    assert [await queue.state("acme", call.job_id) for call in calls] == [SCHEDULED, READY, READY]
