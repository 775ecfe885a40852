"""What every implementation of the queue keeps to: what happened to jobs today, of tenants and of queues, and what waits and runs.

Each test of a guard fails when the guard is taken out.
"""

from __future__ import annotations

import asyncio

from rowcall.catalogue.model import Policy
from rowcall.queue.model import Busy, Counts, QueueActivity, ShardToday
from rowcall.queue.tally import Told, What
from rowcall.queue.tenants import TenantAdmin
from tests.support.probe import ErasureTimes
from tests.support.queues import Queue

NOTHING = Counts(0, 0, 0, 0, 0, 0)


def counts(**of: int) -> list[int]:
    return [of.get(what.name.lower(), 0) for what in What]


def tenants(queue: Queue) -> TenantAdmin:
    return queue.process.tenants(ErasureTimes())


async def activity(queue: Queue, name: str = "default") -> QueueActivity:
    [found] = [each for each in await queue.operators.activity() if each.name == name]
    return found


async def test_counts_add_up_whoever_tells_of_them(queue: Queue) -> None:
    await queue.submit(queue.call(), queue.call("bolt"))
    queue_id = queue.ids.queue_id
    told: Told = {
        ("acme", queue_id): counts(
            accepted=5,
            started=4,
            succeeded=2,
            failed=2,
            dead=1,
            cancelled=1,
            answered_in_time=6,
            answered_joined=7,
            answered_operation=8,
            answered_still_running=9,
            answered_failed=10,
        ),
        ("bolt", queue_id): counts(accepted=1, started=1, answered_failed=1),
    }
    # Sixteen at once, over four slots, from both kinds of services.
    await asyncio.gather(*(tell(told) for tell in (queue.store.tell, queue.work.tell) * 8))
    assert await tenants(queue).counts(["acme", "bolt", "nobody"]) == {
        "acme": Counts(80, 64, 32, 32, 16, 16, 96, 112, 128, 144, 160),
        "bolt": Counts(16, 16, 0, 0, 0, 0, answered_failed=16),
    }
    assert (await activity(queue)).counts == Counts(96, 80, 32, 32, 16, 16, 96, 112, 128, 144, 176)
    assert await tenants(queue).today() == ShardToday(started=80, weight=2.0)
    await queue.operators.weigh("bolt", 3)
    assert (await tenants(queue).today()).weight == 4.0


async def test_nothing_is_kept_of_a_tenant_that_does_not_live_here(queue: Queue) -> None:
    await queue.submit(queue.call())
    await queue.store.tell({("nobody", queue.ids.queue_id): counts(accepted=1)})
    assert await tenants(queue).counts(["nobody"]) == {}
    assert (await activity(queue)).counts == Counts(1, 0, 0, 0, 0, 0)


async def test_what_waits_and_runs_is_told_without_being_counted(queue: Queue) -> None:
    other = await queue.store.method_ids("acme.v1.PrintService/Other", Policy(queue="other"))
    await queue.submit(*(queue.call() for _ in range(5)), queue.call("bolt"), queue.call(ids=other))
    await queue.store.exchange_turns()
    found = await activity(queue)
    assert (found.waiting, found.running, found.counts, found.paused) == (6, 0, NOTHING, False)
    assert found.oldest is not None
    assert await tenants(queue).waiting(["acme", "bolt", "nobody"]) == {"acme": 6, "bolt": 1}

    worker = await queue.worker()
    jobs = await queue.claim(worker)
    assert {job.queue_id for job in jobs} == {queue.ids.queue_id}
    await queue.renew(worker, busy=Busy(6, 0, (), {queue.ids.queue_id: 6}, {}))
    found = await activity(queue)
    assert (found.waiting, found.oldest, found.running) == (0, None, 6)
    assert (await activity(queue, "other")).running == 0
    assert await tenants(queue).waiting(["acme", "bolt"]) == {"acme": 1}
    await queue.operators.pause("queue", "default", by=None, note=None)
    assert (await activity(queue)).paused
    await queue.kill(worker)
    assert (await activity(queue)).running == 0, "what it said counts while it lives"
