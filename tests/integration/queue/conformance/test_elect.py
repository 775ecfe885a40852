"""What every implementation of the queue keeps to: what one worker does at a time.

Each test of a guard fails when the guard is taken out.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from uuid import uuid4

from tests.support.queues import Queue

TERM = timedelta(minutes=1)


async def test_one_worker_at_a_time_has_a_role(queue: Queue) -> None:
    workers = [await queue.worker(f"w{number}") for number in range(8)]
    elected = await asyncio.gather(*(queue.work.elect("maintainer", worker, TERM) for worker in workers))
    assert elected.count(True) == 1
    holder = workers[elected.index(True)]
    assert [await queue.work.elect("maintainer", worker, TERM) for worker in workers] == elected
    assert await queue.work.elect("other", workers[0], TERM), "roles are apart"
    assert await queue.work.elect("other", holder, TERM) is (holder == workers[0])


async def test_a_role_whose_term_is_over_is_anybodys(queue: Queue) -> None:
    first, second = await queue.worker(), await queue.worker()
    assert await queue.work.elect("maintainer", first, TERM)
    assert not await queue.work.elect("maintainer", second, TERM)
    await queue.probe.pass_time(TERM)
    assert await queue.work.elect("maintainer", second, TERM)
    assert not await queue.work.elect("maintainer", first, TERM)
    await queue.probe.pass_time(timedelta(seconds=50))
    assert not await queue.work.elect("maintainer", first, TERM), "its term is as long as it asked for"
    await queue.probe.pass_time(timedelta(seconds=10))
    assert await queue.work.elect("maintainer", first, TERM)


async def test_a_dead_holder_is_replaced_at_once_and_the_dead_are_not_elected(queue: Queue) -> None:
    first, second = await queue.worker(), await queue.worker()
    assert await queue.work.elect("maintainer", first, TERM)
    await queue.work.retire_worker(first)
    assert not await queue.work.elect("maintainer", first, TERM)
    assert await queue.work.elect("maintainer", second, TERM)
    assert not await queue.work.elect("other", first, TERM)
    assert not await queue.work.elect("other", uuid4(), TERM), "who never registered"
