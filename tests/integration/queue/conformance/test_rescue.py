"""What every implementation of the queue keeps to: workers that die.

Each test of a guard fails when the guard is taken out.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta

from rowcall.v1.job_pb2 import AttemptOutcome
from tests.support.queues import CANCELLED, LEASE, NO_GRACE, NOT_OURS, READY, RUNNING, Queue


async def test_a_dead_worker_can_neither_renew_nor_claim(queue: Queue) -> None:
    await queue.submit(queue.call())
    worker, retired = await queue.worker("dead"), await queue.worker("retired")
    await queue.die(worker)
    assert await queue.work.bury_workers(NO_GRACE) == [(worker, "dead")]
    assert await queue.work.bury_workers(NO_GRACE) == [], "once"
    await queue.work.retire_worker(retired)
    for gone in (worker, retired):
        assert await queue.claim(gone) == []
        assert not (await queue.renew(gone)).alive


async def test_a_worker_that_renews_is_not_buried(queue: Queue) -> None:
    worker = await queue.worker()
    await queue.die(worker)
    assert (await queue.renew(worker)).alive
    assert await queue.work.bury_workers(NO_GRACE) == []


async def test_a_renewal_that_comes_first_saves_the_worker(queue: Queue) -> None:
    """The burial sees that the lease has run out, and that somebody is about to renew it."""
    worker = await queue.worker()
    await queue.die(worker)
    async with queue.probe.renewing(worker, LEASE), asyncio.timeout(20):
        assert await queue.work.bury_workers(NO_GRACE) == []
    assert await queue.work.bury_workers(NO_GRACE) == []


async def test_a_dead_workers_jobs_are_run_again(queue: Queue) -> None:
    await queue.submit(*(queue.call() for _ in range(20)))
    dead, heir = await queue.worker("dead"), await queue.worker("heir")
    lost = await queue.claim(dead, 3)
    kept = await queue.claim(heir, 3)
    assert await queue.work.rescue(10) == [], "it lives"
    await queue.die(dead)
    assert await queue.work.rescue(10) == [], "it is not declared dead yet"
    await queue.work.bury_workers(NO_GRACE)

    rescued = await queue.work.rescue(2) + await queue.work.rescue(10)
    assert {each.job_id for each in rescued} == {job.job_id for job in lost}
    assert {(each.state, each.queue_id, each.worker) for each in rescued} == {(READY, queue.ids.queue_id, "dead")}

    again = await queue.claim(heir, len(lost))
    assert {job.job_id for job in again} == {job.job_id for job in lost}, "before those that wait already"
    assert {(job.attempt, job.lost) for job in again} == {(1, 1)}, "it used no attempt up"
    assert {job.lease for job in again} == {lost[0].lease + 2}, "one more by the rescue, one by the claim"
    assert await queue.settle(lost[0], response=b"late") == NOT_OURS
    assert await queue.state(lost[0].tenant, lost[0].job_id) == RUNNING
    assert (await queue.settle(kept[0])).settled
    [lost_attempt] = (await queue.store.read([("acme", lost[0].job_id)]))["acme", lost[0].job_id].attempts
    assert (lost_attempt.outcome, lost_attempt.worker) == (AttemptOutcome.ATTEMPT_OUTCOME_LOST, "dead")


async def test_a_zombies_settle_after_the_rescue_is_refused(queue: Queue) -> None:
    await queue.submit(queue.call())
    dead = await queue.worker("dead")
    [job] = await queue.claim(dead)
    await queue.work.retire_worker(dead)
    await queue.work.rescue(10)
    assert await queue.settle(job, response=b"late") == NOT_OURS
    assert await queue.state(job.tenant, job.job_id) == READY


async def test_a_zombies_open_transaction_does_not_hold_up_its_neighbours(queue: Queue) -> None:
    await queue.submit(*(queue.call() for _ in range(3)))
    dead = await queue.worker("dead")
    frozen, *others = await queue.claim(dead)
    await queue.work.retire_worker(dead)
    async with queue.probe.holding(frozen.job_id):
        async with asyncio.timeout(5):
            rescued = await queue.work.rescue(10)
        assert {each.job_id for each in rescued} == {job.job_id for job in others}
    assert [each.job_id for each in await queue.work.rescue(10)] == [frozen.job_id]


async def test_a_lost_job_that_was_to_be_cancelled_is_cancelled(queue: Queue) -> None:
    await queue.submit(queue.call())
    dead = await queue.worker("dead")
    [job] = await queue.claim(dead)
    await queue.store.cancel(job.tenant, job.job_id)
    await queue.work.retire_worker(dead)
    assert [each.state for each in await queue.work.rescue(10)] == [CANCELLED]
    assert await queue.state(job.tenant, job.job_id) == CANCELLED


async def test_dead_workers_are_forgotten_when_they_hold_nothing(queue: Queue) -> None:
    await queue.submit(queue.call())
    holding, empty = await queue.worker("holding"), await queue.worker("empty")
    await queue.claim(holding)
    for worker in (holding, empty):
        await queue.work.retire_worker(worker)
    await queue.work.bury_workers(NO_GRACE)
    assert len(await queue.probe.workers()) == 2, "not within a day"
    await queue.probe.pass_time(timedelta(hours=25))
    await queue.work.bury_workers(NO_GRACE)
    assert await queue.probe.workers() == ["holding"]
    assert len(await queue.work.rescue(10)) == 1
