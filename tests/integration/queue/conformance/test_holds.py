"""What every implementation of the queue keeps to: a job may be held for several reasons, and each ends by itself.

Each test of a guard fails when the guard is taken out. Nothing sets LIMITED yet: the probe does.
"""

from __future__ import annotations

from uuid import UUID

from rowcall.queue.model import Held, Submission, Wait
from rowcall.v1.job_pb2 import WaitReason
from tests.support.queues import FROM_THE_FRONT, METHOD, Queue

PAUSED, SUSPECT, LIMITED = Held.PAUSED, Held.SUSPECT, Held.LIMITED
ALONE = SUSPECT | Held.ALONE


async def submitted(queue: Queue, count: int, held: int = 0) -> list[UUID]:
    """Ready jobs, in the order in which they were submitted."""
    calls = [queue.call() for _ in range(count)]
    await queue.submit(*calls)
    job_ids = [call.job_id for call in calls]
    if held:
        await queue.probe.change(job_ids, held=held)
    return job_ids


async def held(queue: Queue, job_id: UUID) -> int:
    return (await queue.facts(job_id)).held


async def reasons(queue: Queue, job_id: UUID) -> list[int]:
    waits: dict[tuple[str, UUID], list[Wait]] = await queue.store.waits([("acme", job_id)])  # type: ignore[assignment]
    return [wait.reason for wait in waits["acme", job_id]]


async def pause(queue: Queue) -> None:
    assert await queue.operators.pause("tenant", "acme", by=None, note=None)


async def resume(queue: Queue) -> None:
    assert await queue.operators.resume("tenant", "acme")


async def test_a_suspect_whose_tenant_was_paused_is_a_suspect_afterwards(queue: Queue) -> None:
    queues, methods = [queue.ids.queue_id], [queue.ids.method_id]
    [group] = await submitted(queue, 1, SUSPECT)
    [alone] = await submitted(queue, 1, ALONE)
    await pause(queue)
    assert await queue.work.hold_paused(10) == 2
    assert await queue.work.hold_paused(10) == 0
    assert [await held(queue, each) for each in (group, alone)] == [PAUSED | SUSPECT, PAUSED | ALONE]
    worker = await queue.worker()
    assert await queue.work.free_resumed(10) == {}, "the pause lasts"
    await resume(queue)
    assert await queue.claim_suspects(worker) == [], "not before they are set free"
    assert await queue.work.count_suspects(queues, methods, 10) == 0
    assert await queue.work.suspect_waits(queues, methods) is None

    assert await queue.work.free_resumed(10, front=False) == {queue.ids.queue_id: 2}
    assert [await held(queue, each) for each in (group, alone)] == [SUSPECT, ALONE]
    assert await queue.work.free_resumed(10, front=False) == {}
    assert await queue.claim(worker) == [], "they run apart from others"
    assert await queue.work.count_suspects(queues, methods, 10) == 1
    assert await queue.work.suspect_waits(queues, methods) is not None
    claimed = [[job.job_id for job in await queue.claim_suspects(worker)] for _ in range(3)]
    assert claimed == [[group], [alone], []]


async def test_what_is_limited_and_paused_stays_limited(queue: Queue) -> None:
    [job_id] = await submitted(queue, 1, LIMITED)
    key = (await queue.facts(job_id)).order_key
    worker = await queue.worker()
    assert await queue.claim(worker) == []
    await pause(queue)
    assert await queue.work.hold_paused(10) == 1
    assert await held(queue, job_id) == PAUSED | LIMITED
    await resume(queue)
    assert await queue.work.free_resumed(10) == {queue.ids.queue_id: 1}
    facts = await queue.facts(job_id)
    assert (facts.held, facts.order_key) == (LIMITED, key), "whoever wakes it gives it its turn"
    assert await queue.claim(worker) == await queue.claim_suspects(worker) == []


async def test_a_pause_sets_aside_no_more_than_it_is_told_to(queue: Queue) -> None:
    jobs = [each for kind in (0, SUSPECT, LIMITED) for each in await submitted(queue, 2, kind)]
    await pause(queue)
    assert [await queue.work.hold_paused(3) for _ in range(3)] == [3, 3, 0]
    assert [await held(queue, each) for each in jobs] == [
        each | PAUSED for kind in (0, SUSPECT, LIMITED) for each in (kind, kind)
    ]


async def test_what_is_freed_is_not_behind_what_was_claimed(queue: Queue) -> None:
    """A claimer that goes on from its mark finds it."""
    first, second = await submitted(queue, 2)
    await pause(queue)
    assert await queue.work.hold_paused(10) == 2
    other = [queue.call("bolt") for _ in range(5)]
    await queue.submit(*other)
    worker = await queue.worker()
    claimed = await queue.claim(worker)
    assert len(claimed) == 5
    await resume(queue)
    await queue.work.free_resumed(10)
    mark = list(FROM_THE_FRONT)
    mark[2] = max(job.order_key for job in claimed)
    assert [job.job_id for job in await queue.claim(worker, start=mark)] == [first, second]


async def test_what_is_held_is_counted_by_its_reasons(queue: Queue) -> None:
    for kind, count in ((PAUSED, 1), (SUSPECT, 1), (PAUSED | ALONE, 2), (LIMITED, 3), (PAUSED | SUSPECT | LIMITED, 1)):
        await submitted(queue, count, kind)
    await submitted(queue, 1)
    [stats] = await queue.operators.stats(100)
    assert (stats.ready, stats.held, stats.capped) == (1, 8, False)
    assert (stats.held_paused, stats.held_suspect, stats.held_limited) == (4, 4, 4)
    [stats] = await queue.operators.stats(3)
    assert stats.capped
    assert (stats.held_paused, stats.held_suspect, stats.held_limited) == (3, 3, 3)


async def test_all_reasons_are_told(queue: Queue) -> None:
    await queue.work.serve(await queue.worker(), [queue.ids.method_id], None)
    call: Submission = queue.call()
    await queue.submit(call)
    assert (await queue.row(call)).held == 0
    await queue.probe.change([call.job_id], held=PAUSED | ALONE | LIMITED)
    assert (await queue.row(call)).held == PAUSED | SUSPECT | LIMITED, "whether it runs alone is between workers"
    assert await reasons(queue, call.job_id) == [WaitReason.WAIT_REASON_SUSPECT, WaitReason.WAIT_REASON_LIMIT]
    assert await queue.operators.pause("method", METHOD, by=None, note=None)
    assert await reasons(queue, call.job_id) == [
        WaitReason.WAIT_REASON_METHOD_PAUSED,
        WaitReason.WAIT_REASON_SUSPECT,
        WaitReason.WAIT_REASON_LIMIT,
    ]


async def test_a_suspect_that_is_lost_is_held_for_that_alone(queue: Queue) -> None:
    """What a worker had claimed was held for nothing else."""
    job_ids = await submitted(queue, 2, SUSPECT)
    worker = await queue.worker()
    assert len(await queue.claim_suspects(worker)) == 2
    await pause(queue)
    await queue.kill(worker)
    assert [await held(queue, each) for each in job_ids] == [ALONE, ALONE]
    assert await queue.work.hold_paused(10) == 2
    assert [await held(queue, each) for each in job_ids] == [PAUSED | ALONE] * 2
