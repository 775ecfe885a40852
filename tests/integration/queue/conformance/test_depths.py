"""What every implementation of the queue keeps to: what waits and what runs, as gauges tell it, without its being counted.

Each test of a guard fails when the guard is taken out.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

from rowcall.catalogue.model import Policy
from rowcall.queue.model import Busy, Depths, Held, LaneDepth, WorkerLoad
from rowcall.queue.protocol import QueueAdmin, WorkQueue
from tests.support.queues import Queue
from tests.support.waiting import until

NOW, EVER = timedelta(0), timedelta(hours=1)
QUEUE = "default"


async def look(half: WorkQueue | QueueAdmin, fresh: timedelta = NOW) -> Depths:
    """What there is to see now, once somebody may look again: all looks together take a part of the time."""
    began = time.monotonic()
    found: list[Depths] = []

    async def looked() -> bool:
        # Not when it is answered: on a busy machine that is later by more than the last look may be older than this one.
        asked = time.monotonic()
        seen = await half.depths(fresh)
        found[:] = [] if seen is None else [seen]
        return seen is not None and (fresh > NOW or seen.age.total_seconds() < asked - began)

    await until(looked, every=0.02)
    return found[0]


def lanes(depths: Depths) -> dict[int, LaneDepth]:
    return {each.lane: each for each in depths.lanes if each.queue == QUEUE}


async def test_what_waits_is_told_by_lane_and_for_what(queue: Queue) -> None:
    """Both halves see it, as soon as gateways have told of it."""
    await queue.submit(*(queue.call() for _ in range(7)), *(queue.call("bolt", lane=1) for _ in range(3)))
    await queue.submit(queue.call(run_at=datetime.now(UTC) + timedelta(hours=1)))
    held = queue.call()
    await queue.submit(held)
    await queue.probe.change([held.job_id], held=Held.LIMITED)
    await queue.store.exchange_turns()
    for half in (queue.work, queue.operators):
        found = lanes(await look(half))
        assert {lane: each.ready for lane, each in found.items() if each.ready} == {1: 3, 3: 8}
        assert (found[3].held, found[3].scheduled, found[1].held, found[1].scheduled) == (1, 1, 0, 0)
        assert found[3].oldest is not None
        assert NOW < found[3].oldest < timedelta(minutes=1)
        assert found[2].oldest is None


async def test_what_was_claimed_does_not_wait(queue: Queue) -> None:
    await queue.submit(*(queue.call() for _ in range(5)))
    await queue.store.exchange_turns()
    await queue.claim(await queue.worker(), 5)
    assert lanes(await look(queue.work))[3].ready == 0


async def test_what_living_workers_run_and_could_run_is_added_up(queue: Queue) -> None:
    one, other = await queue.worker(), await queue.worker()
    asking = await queue.store.method_ids("acme.v1.PrintService/Ask", Policy(queue="ask"))
    default, ask = queue.ids.queue_id, asking.queue_id
    await queue.renew(one, busy=Busy(7, 0, (), {default: 3, ask: 4}, {default: 10, ask: 4}))
    await queue.renew(other, busy=Busy(1, 0, (), {default: 1}, {default: 200}))
    assert sorted((await look(queue.work)).workers, key=lambda each: each.queue) == [
        WorkerLoad("ask", 4, 4),
        WorkerLoad(QUEUE, 210, 4),
    ]
    await queue.renew(one, busy=Busy(0, 0, (), {}, {default: 10}))
    assert (await look(queue.work)).workers == [WorkerLoad(QUEUE, 210, 1)], "what it told last"
    await queue.renew(one, busy=Busy(1, 0, (), {default: 1}, {}))
    assert (await look(queue.work)).workers == [WorkerLoad(QUEUE, 200, 2)], "it runs what it could not begin"
    await queue.work.retire_worker(other)
    assert (await look(queue.work)).workers == [WorkerLoad(QUEUE, 0, 1)], "the dead run nothing"
    await queue.renew(other, busy=Busy(1, 0, (), {default: 1}, {default: 200}))
    assert (await look(queue.work)).workers == [WorkerLoad(QUEUE, 0, 1)], "and tell nothing"


async def test_a_worker_whose_lease_is_over_counts_no_more(queue: Queue) -> None:
    worker = await queue.worker()
    await queue.renew(worker, busy=Busy(3, 0, (), {queue.ids.queue_id: 3}, {queue.ids.queue_id: 10}))
    await queue.die(worker)
    assert (await look(queue.work)).workers == []
    assert [(each.name, each.running) for each in await queue.operators.activity()] == [(QUEUE, 0)]


async def test_what_another_one_has_just_seen_is_as_good(queue: Queue) -> None:
    first = await look(queue.work)
    await queue.submit(*(queue.call() for _ in range(5)))
    await queue.store.exchange_turns()
    async with queue.another() as other:
        again = await look(other.operators, EVER)
        assert again.lanes == first.lanes
        assert again.age > first.age
        assert lanes(await look(other.operators))[3].ready == 5


async def test_a_queue_is_told_of_before_anything_waits_in_it(queue: Queue) -> None:
    assert [(each.lane, each.ready) for each in (await look(queue.work)).lanes if each.queue == QUEUE] == [
        (lane, 0) for lane in (1, 2, 3, 4)
    ]
