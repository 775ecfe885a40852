"""What every implementation of the queue keeps to: a job that is WAITING, for the others of its group.

Nothing makes such a job yet, so the probe does. All that keeps jobs moving passes it by; whoever reads or cancels it finds it.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from rowcall.queue.model import DONE, LIVE, PENDING, Held, JobFilter, Progress, Running, Submission, Wait
from rowcall.v1.job_pb2 import JobState, WaitReason
from tests.support.queues import CANCELLED, NO_GRACE, NOT_OURS, Queue

WAITING = JobState.JOB_STATE_WAITING


async def waiting(queue: Queue, **changes: Any) -> Submission:
    """A job that waits for its group."""
    call = queue.call(**changes)
    await queue.submit(call)
    await queue.probe.change([call.job_id], state=WAITING)
    return call


def test_every_state_is_live_or_done() -> None:
    assert {*LIVE, *DONE} == {state for state in JobState.values() if state != JobState.JOB_STATE_UNSPECIFIED}
    assert {*PENDING} == {*LIVE} - {JobState.JOB_STATE_RUNNING}
    assert max(LIVE) < min(DONE)


async def test_a_job_that_waits_for_its_group_is_passed_by(queue: Queue) -> None:
    call = await waiting(queue, deadline=timedelta(hours=1))
    await queue.probe.change([call.job_id], held=Held.SUSPECT)
    worker = await queue.worker()
    await queue.probe.pass_time(timedelta(hours=2), jobs=[call.job_id])
    before = await queue.facts(call.job_id)
    assert await queue.claim(worker) == await queue.claim_suspects(worker) == []
    assert await queue.work.promote(10) == {}
    assert await queue.work.age(10) == {}
    assert await queue.work.expire_jobs(10) == []
    assert await queue.work.expire_attempts(10, NO_GRACE) == []
    assert await queue.operators.pause("tenant", "acme", by=None, note=None)
    assert await queue.work.hold_paused(10) == 0
    assert await queue.operators.resume("tenant", "acme")
    assert await queue.work.free_resumed(10) == {}
    assert await queue.kill(worker) == []
    [stats] = await queue.operators.stats(10)
    assert (stats.ready, stats.held, stats.running, stats.scheduled) == (0, 0, 0, 0)
    assert await queue.facts(call.job_id) == before


async def test_a_job_that_waits_for_its_group_is_read_and_listed(queue: Queue) -> None:
    call = await waiting(queue)
    await queue.work.serve(await queue.worker(), [queue.ids.method_id], None)
    row = await queue.row(call)
    assert (row.state, row.done) == (WAITING, False)
    for states, found in (
        (None, 1),
        ([WAITING], 1),
        (LIVE, 1),
        (PENDING, 1),
        (DONE, 0),
        ([JobState.JOB_STATE_READY], 0),
    ):
        assert len(await queue.store.list("acme", JobFilter(states=states), limit=10)) == found
    waits = await queue.store.waits([("acme", call.job_id)], ahead=10)
    assert waits["acme", call.job_id] == [Wait(WaitReason.WAIT_REASON_GROUP, None, None, None, None)]


async def test_a_job_that_waits_for_its_group_can_be_cancelled(queue: Queue) -> None:
    call = await waiting(queue)
    assert not await queue.store.delete("acme", call.job_id), "it is not finished"
    cancelled = await queue.store.cancel("acme", call.job_id)
    assert cancelled is not None
    assert (cancelled.state, cancelled.worker_id) == (CANCELLED, None)
    assert (await queue.row(call)).done
    assert await queue.store.delete("acme", call.job_id)
    left = await waiting(queue)
    assert (await queue.store.leave("acme", left.job_id, cancel=True)) is not None
    assert (await queue.row(left)).state == CANCELLED


async def test_a_lease_of_what_does_not_run_is_none(queue: Queue) -> None:
    """Though the number is right."""
    await queue.submit(queue.call())
    [job] = await queue.claim(await queue.worker())
    await queue.probe.change([job.job_id], state=WAITING)
    assert not (await queue.settle(job)).settled
    [released] = await queue.work.release([job])
    assert released == NOT_OURS
    said = Progress(Running(job.tenant, job.job_id, job.lease), 0.5, "half")
    assert await queue.work.report_progress([said]) == []
    assert (await queue.row(job)).state == WAITING
