"""What every implementation of the queue keeps to: jobs that wait too long move up.

Each test of a guard fails when the guard is taken out.
"""

from __future__ import annotations

from datetime import timedelta

from rowcall.catalogue.model import Policy
from rowcall.queue.model import EVERY_JOB
from tests.support.queues import Queue


async def lanes(queue: Queue) -> list[tuple[int, int]]:
    """Priority and lane of every job, in the order of their ids."""
    return [(job.priority, job.lane) for job in await queue.probe.jobs()]


async def pass_minutes(queue: Queue, minutes: float) -> None:
    """Lets all jobs have waited for so much longer."""
    await queue.probe.pass_time(timedelta(minutes=minutes))


async def test_a_job_moves_up_a_lane_for_each_time_it_has_waited(queue: Queue) -> None:
    await queue.submit(queue.call(lane=4))
    await queue.submit(queue.call(lane=1))
    assert await queue.work.age(10) == {}
    await pass_minutes(queue, 0.9)
    assert await queue.work.age(10) == {}, "a minute for each lane"
    await pass_minutes(queue, 0.2)
    assert await queue.work.age(10) == {queue.ids.queue_id: 1}
    assert await queue.work.age(10) == {}, "not two lanes in one time"
    assert await lanes(queue) == [(4, 3), (1, 1)]
    await pass_minutes(queue, 2)
    assert await queue.work.age(10) == {queue.ids.queue_id: 1}
    assert await queue.work.age(10) == {queue.ids.queue_id: 1}
    assert await queue.work.age(10) == {}, "above the first lane there is none"
    assert await lanes(queue) == [(4, 1), (1, 1)]
    assert {row.lane for row in await queue.store.list("acme", EVERY_JOB, limit=10)} == {4, 1}, (
        "its priority stays what it was"
    )


async def test_an_aged_job_is_claimed_with_its_new_lane_and_next(queue: Queue) -> None:
    old = queue.call(lane=3)
    await queue.submit(old)
    await pass_minutes(queue, 2)
    await queue.submit(*(queue.call(lane=2) for _ in range(5)))
    await queue.work.age(10)
    [job] = await queue.claim(await queue.worker(), 1)
    assert (job.job_id, job.lane) == (old.job_id, 2)


async def test_only_what_waits_to_be_claimed_ages(queue: Queue) -> None:
    await queue.submit(queue.call(lane=2), queue.call("bolt"))
    worker = await queue.worker()
    assert len(await queue.claim(worker, 1)) == 1
    await queue.operators.pause("tenant", "bolt", by=None, note=None)
    await queue.work.hold_paused(10)
    await pass_minutes(queue, 60)
    assert await queue.work.age(10) == {}
    assert await lanes(queue) == [(2, 2), (3, 3)]


async def test_a_large_backlog_does_not_flood_the_next_lane(queue: Queue) -> None:
    await queue.submit(*(queue.call(lane=3) for _ in range(50)))
    await pass_minutes(queue, 100)
    assert await queue.work.age(4) == {queue.ids.queue_id: 4}
    assert [lane for _, lane in await lanes(queue)].count(2) == 4
    assert await queue.work.age(4) == {queue.ids.queue_id: 8}, "four of each lane"


async def test_how_long_is_the_queues_own(queue: Queue) -> None:
    await queue.submit(queue.call(lane=4))
    await queue.probe.age_after(queue.ids.queue_id, timedelta(hours=1))
    await pass_minutes(queue, 30)
    assert await queue.work.age(10) == {}
    await pass_minutes(queue, 31)
    assert await queue.work.age(10) == {queue.ids.queue_id: 1}


async def test_what_no_claim_has_come_to_ages_without_a_look_from_the_front(queue: Queue) -> None:
    """What claims have passed by, for nobody serves it, takes one."""
    other = await queue.store.method_ids("acme.v1.PrintService/Other", Policy())
    first, passed, last = queue.call(), queue.call(ids=other), queue.call()
    for call in (passed, first):
        await queue.submit(call)
    assert len(await queue.claim(await queue.worker())) == 1
    await queue.submit(last)
    await pass_minutes(queue, 1.5)
    assert await queue.work.age(10, front=False) == {queue.ids.queue_id: 1}
    assert (await queue.facts(last.job_id)).lane == 2
    assert (await queue.facts(passed.job_id)).lane == 3
    assert await queue.work.age(10) == {queue.ids.queue_id: 1}
    assert (await queue.facts(passed.job_id)).lane == 2
