"""What every implementation of the queue keeps to: how far running jobs are.

Each test of a guard fails when the guard is taken out.
"""

from __future__ import annotations

import asyncio

from rowcall.queue.model import ClaimedJob, Progress, Running
from tests.support.queues import READY, SCHEDULED, Queue


def at(job: ClaimedJob, fraction: float | None, message: str | None = None) -> Progress:
    return Progress(Running(job.tenant, job.job_id, job.lease), fraction, message)


async def test_progress_is_seen_while_a_job_runs_and_afterwards(queue: Queue) -> None:
    await queue.submit(queue.call("bolt"), queue.call("acme"), queue.call("acme"))
    jobs = await queue.claim(await queue.worker())
    said = [at(job, 0.25 * number, f"page {number}") for number, job in enumerate(jobs)]
    assert {each.job for each in await queue.work.report_progress(said)} == {each.job for each in said}
    for each, job in zip(said, jobs, strict=True):
        row = await queue.row(job)
        assert (row.progress, row.progress_message) == (each.fraction, each.message)
        assert row.progress_at is not None
    await queue.work.report_progress([at(jobs[1], None, "nearly")])
    await queue.settle(jobs[1])
    row = await queue.row(jobs[1])
    assert (row.progress, row.progress_message) == (None, "nearly")
    assert await queue.work.report_progress([]) == []


async def test_a_zombie_cannot_report(queue: Queue) -> None:
    await queue.submit(queue.call(), queue.call(), queue.call())
    released, again, done = await queue.claim(await queue.worker())
    await queue.work.release([released])
    await queue.settle(again, SCHEDULED, error=b"e")
    await queue.settle(done)
    assert await queue.work.report_progress([at(job, 0.5) for job in (released, again, done)]) == []
    assert await queue.state(released.tenant, released.job_id) == READY
    [theirs] = await queue.claim(await queue.worker())
    assert await queue.work.report_progress([at(released, 0.9), at(theirs, 0.1)]) == [at(theirs, 0.1)]
    assert (await queue.row(theirs)).progress == 0.10000000149011612


async def test_what_is_said_of_a_job_that_is_being_ended_waits_for_nobody(queue: Queue) -> None:
    """A batch that is settled locks its jobs in another order: each would wait for the other."""
    await queue.submit(queue.call(), queue.call(), queue.call())
    first, ending, last = await queue.claim(await queue.worker())
    async with queue.probe.holding(ending.job_id), asyncio.timeout(20):
        kept = await queue.work.report_progress([at(job, 0.5) for job in (first, ending, last)])
    assert kept == [at(first, 0.5), at(last, 0.5)]
    assert [(await queue.row(job)).progress for job in (first, ending, last)] == [0.5, None, 0.5]


async def test_a_lease_number_alone_is_no_lease(queue: Queue) -> None:
    """Of a job that nobody runs, the number may be known."""
    call = queue.call()
    await queue.submit(call)
    assert await queue.work.report_progress([Progress(Running("acme", call.job_id, 0), 0.5, None)]) == []
    assert (await queue.row(call)).progress is None
