"""What every implementation of the queue keeps to: jobs that wait too long move up.

Each test of a guard fails when the guard is taken out of the SQL.
"""

from __future__ import annotations

from rowcall.queue.postgres.admin import PostgresQueueAdmin
from tests.fix_queue import Queue


async def lanes(queue: Queue) -> list[tuple[int, int]]:
    """Priority and lane of every job, in the order of their ids."""
    rows = await queue.admin.execute("select priority, lane from rowcall.job order by job_id")
    return [(row[0], row[1]) for row in await rows.fetchall()]


async def waited(queue: Queue, minutes: float) -> None:
    """Lets all ready jobs have waited for so long."""
    await queue.admin.execute(
        "update rowcall.job set ready_at = clock_timestamp() - make_interval(secs => %s) where state = 2",
        [minutes * 60],
    )


async def test_a_job_moves_up_a_lane_for_each_time_it_has_waited(queue: Queue) -> None:
    await queue.submit(queue.call(lane=4))
    await queue.submit(queue.call(lane=1))
    assert await queue.work.age(10) == {}
    await waited(queue, 0.9)
    assert await queue.work.age(10) == {}, "a minute for each lane"
    await waited(queue, 1.1)
    assert await queue.work.age(10) == {queue.ids.queue_id: 1}
    assert await queue.work.age(10) == {}, "not two lanes in one time"
    assert await lanes(queue) == [(4, 3), (1, 1)]
    await waited(queue, 3.1)
    assert await queue.work.age(10) == {queue.ids.queue_id: 1}
    assert await queue.work.age(10) == {queue.ids.queue_id: 1}
    assert await queue.work.age(10) == {}, "above the first lane there is none"
    assert await lanes(queue) == [(4, 1), (1, 1)]
    assert {row.lane for row in await queue.store.list("acme", limit=10)} == {4, 1}, "its priority stays what it was"


async def test_an_aged_job_is_claimed_with_its_new_lane_and_next(queue: Queue) -> None:
    old = queue.call(lane=3)
    await queue.submit(old)
    await waited(queue, 2)
    await queue.submit(*(queue.call(lane=2) for _ in range(5)))
    await queue.work.age(10)
    [job] = await queue.claim(await queue.worker(), 1)
    assert (job.job_id, job.lane) == (old.job_id, 2)


async def test_only_what_waits_to_be_claimed_ages(queue: Queue, operators: PostgresQueueAdmin) -> None:
    await queue.submit(queue.call(lane=2), queue.call("bolt"))
    worker = await queue.worker()
    assert len(await queue.claim(worker, 1)) == 1
    await operators.pause("tenant", "bolt", by=None, note=None)
    await queue.work.hold_paused(10)
    await queue.admin.execute("update rowcall.job set ready_at = clock_timestamp() - interval '1 hour'")
    assert await queue.work.age(10) == {}
    assert await lanes(queue) == [(2, 2), (3, 3)]


async def test_a_large_backlog_does_not_flood_the_next_lane(queue: Queue) -> None:
    await queue.submit(*(queue.call(lane=3) for _ in range(50)))
    await waited(queue, 100)
    assert await queue.work.age(4) == {queue.ids.queue_id: 4}
    assert await queue.value("select count(*) from rowcall.job where lane = 2") == 4
    assert await queue.work.age(4) == {queue.ids.queue_id: 8}, "four of each lane"


async def test_how_long_is_the_queues_own(queue: Queue) -> None:
    await queue.submit(queue.call(lane=4))
    await queue.admin.execute("update rowcall.queue set age_after = '1 hour'")
    await waited(queue, 30)
    assert await queue.work.age(10) == {}
    await waited(queue, 61)
    assert await queue.work.age(10) == {queue.ids.queue_id: 1}
