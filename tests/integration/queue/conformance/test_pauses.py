"""What every implementation of the queue keeps to: pausing and resuming queues, methods and tenants.

Each test of a guard fails when the guard is taken out.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from rowcall.catalogue.model import Policy
from rowcall.queue.model import EVERY_JOB, Pause
from tests.support.queues import METHOD, SUCCEEDED, Queue

OTHER = "acme.v1.PrintService/Other"
KINDS = [("queue", "default"), ("method", METHOD), ("tenant", "acme")]


async def pause(queue: Queue, kind: str, name: str) -> None:
    assert await queue.operators.pause(kind, name, by="ann", note="maintenance")


async def known(queue: Queue, kind: str) -> list[Pause]:
    """What is paused of a kind, as acme is told."""
    return [each for each in await queue.operators.pauses("acme") if each.kind == kind]


@pytest.mark.parametrize(("kind", "name"), KINDS)
async def test_claims_keep_to_a_pause_at_once_and_what_runs_goes_on(queue: Queue, kind: str, name: str) -> None:
    other = await queue.store.method_ids(OTHER, Policy(queue="other"))
    held = [queue.call(), queue.call()]
    free = queue.call("bolt", ids=other)
    await queue.submit(*held, free)
    worker = await queue.worker()
    [runs] = await queue.claim(worker, 1)
    await pause(queue, kind, name)
    assert await queue.claim(worker) == []
    assert [job.job_id for job in await queue.claim(worker, ids=other)] == [free.job_id]
    assert (await queue.settle(runs)).state == SUCCEEDED
    await queue.submit(queue.call())
    assert await queue.claim(worker) == [], "nor is what comes meanwhile"
    assert await queue.operators.resume(kind, name)
    assert len(await queue.claim(worker)) == 2


@pytest.mark.parametrize(("kind", "name"), KINDS[1:])
async def test_what_is_set_aside_comes_back_whole_and_in_its_order(queue: Queue, kind: str, name: str) -> None:
    """In batches that are smaller than what there is, and beside jobs that are not paused."""
    other = await queue.store.method_ids(OTHER, Policy())
    calls = [queue.call() for _ in range(30)]
    await queue.submit(*calls)
    free = queue.call("bolt", ids=other)
    await queue.submit(free)
    assert await queue.work.hold_paused(100) == 0
    await pause(queue, kind, name)
    assert [await queue.work.hold_paused(7) for _ in range(6)] == [7, 7, 7, 7, 2, 0]
    worker = await queue.worker()
    assert [job.job_id for job in await queue.claim(worker, ids=other)] == [free.job_id]
    assert await queue.work.free_resumed(100) == {}, "the pause lasts"
    assert {row.held for row in await queue.store.list("acme", EVERY_JOB, limit=100)} == {1}

    assert await queue.operators.resume(kind, name)
    assert await queue.claim(worker) == [], "not before they are set free"
    freed = []
    while batch := await queue.work.free_resumed(7):
        freed.append(batch)
    assert freed == [{queue.ids.queue_id: 7}] * 4 + [{queue.ids.queue_id: 2}]
    assert [job.job_id for job in await queue.claim(worker)] == [call.job_id for call in calls]


async def test_what_is_paused_twice_waits_for_both_ends(queue: Queue) -> None:
    await queue.submit(queue.call())
    for kind, name in KINDS:
        await pause(queue, kind, name)
    assert await queue.work.hold_paused(10) == 1
    worker = await queue.worker()
    for kind, name in reversed(KINDS):
        assert await queue.work.free_resumed(10) == ({queue.ids.queue_id: 1} if kind == "queue" else {})
        assert await queue.claim(worker) == []
        assert await queue.operators.resume(kind, name)
    assert len(await queue.claim(worker)) == 1


async def test_one_job_comes_before_a_backlog_that_was_set_free(queue: Queue) -> None:
    await queue.submit(*(queue.call() for _ in range(100)))
    await pause(queue, "tenant", "acme")
    await queue.work.hold_paused(1000)
    await queue.operators.resume("tenant", "acme")
    await queue.work.free_resumed(1000)
    one = queue.call("bolt")
    await queue.submit(one)
    assert one.job_id in [job.job_id for job in await queue.claim(await queue.worker(), 3)]


async def test_a_pause_is_known_by_who_made_it_and_why(queue: Queue) -> None:
    for kind, name in KINDS:
        await pause(queue, kind, name)
        [first] = await known(queue, kind)
        assert (first.name, first.paused_by, first.note) == (name, "ann", "maintenance")
        assert await queue.operators.pause(kind, name, by="bob", note="again")
        assert await known(queue, kind) == [first], "it stays as it is"
    assert {(row.name, row.paused) for row in await queue.work.queues()} == {("default", True)}
    for kind, name in KINDS:
        assert await queue.operators.resume(kind, name)
        assert await queue.operators.resume(kind, name), "once more is no error"
        assert not await queue.operators.pause(kind, "unknown", by=None, note=None)
        assert not await queue.operators.resume(kind, "unknown")
        assert await known(queue, kind) == []


async def test_what_was_resumed_is_looked_for_until_all_of_it_is_free(queue: Queue) -> None:
    """Without looking through all that is held: batch by batch, and once more when another pause has ended."""
    await queue.submit(*(queue.call() for _ in range(5)))
    assert await queue.work.free_resumed(10, front=False) == {}
    await pause(queue, "tenant", "acme")
    assert await queue.work.hold_paused(10) == 5
    assert await queue.work.free_resumed(10, front=False) == {}, "the pause lasts"
    await pause(queue, "method", METHOD)
    await queue.operators.resume("tenant", "acme")
    for _ in range(2):
        assert await queue.work.free_resumed(10, front=False) == {}, "the method's lasts"
    await queue.operators.resume("method", METHOD)
    freed = [sum((await queue.work.free_resumed(2, front=False)).values()) for _ in range(4)]
    assert freed == [2, 2, 1, 0]
    assert len(await queue.claim(await queue.worker())) == 5


async def test_stats_count_what_is_there(queue: Queue) -> None:
    slow = await queue.store.method_ids(OTHER, Policy(queue="slow"))
    calls = [*(queue.call() for _ in range(4)), queue.call(run_at=datetime.now(UTC) + timedelta(hours=1))]
    await queue.submit(*calls, queue.call(ids=slow), queue.call("bolt"))
    [runs] = await queue.claim(await queue.worker(), 1)
    await pause(queue, "tenant", "bolt")
    await queue.work.hold_paused(10)
    default, other = await queue.operators.stats(100)
    ready = 5 - len({runs.job_id} & {call.job_id for call in calls}) - 1
    assert (default.name, default.ready, default.held, default.running, default.scheduled) == (
        "default",
        ready,
        1,
        1,
        1,
    )
    assert (other.name, other.ready, other.held, other.running, other.scheduled) == ("slow", 1, 0, 0, 0)
    assert default.oldest_ready_at is not None
    assert (await queue.operators.stats(2))[0].ready == 2, "counts stop at the cap"
