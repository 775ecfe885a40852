"""What every implementation of the queue keeps to: attempts and jobs whose time is over.

Each test of a guard fails when the guard is taken out.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from rowcall.catalogue.model import Policy
from rowcall.errors import read_envelope
from rowcall.queue.model import ClaimedJob, Ended
from rowcall.queue.statuses import addressed
from rowcall.v1.job_pb2 import AttemptOutcome
from tests.support.queues import CANCELLED, FAILED, METHOD, NO_GRACE, NOT_OURS, READY, SCHEDULED, SUCCEEDED, Queue

HOUR = timedelta(hours=1)


async def reason(queue: Queue, tenant: str, job_id: UUID) -> str:
    """What a job failed of."""
    [outcome] = await queue.store.outcomes([(tenant, job_id)])
    assert outcome.error is not None
    info = read_envelope(addressed(outcome.error, tenant=tenant, job_id=job_id, attempt=1, trace_id="0" * 32))
    assert info is not None
    return info.reason


async def overdue(queue: Queue) -> None:
    """Lets the deadline of every attempt, as policies have it by default, have been over for a second."""
    await queue.probe.pass_time(Policy().timeout + timedelta(seconds=1))


async def running(queue: Queue, policy: Policy, **changes: Any) -> ClaimedJob:
    """A job of a policy, with a worker that lives."""
    ids = await queue.store.method_ids(METHOD, policy)
    await queue.submit(queue.call(ids=ids, **changes))
    [job] = await queue.claim(await queue.worker("stuck"), ids=ids)
    return job


async def test_an_attempt_past_its_time_is_tried_again_though_its_worker_lives(queue: Queue) -> None:
    job = await running(queue, Policy(backoff_initial=HOUR, backoff_maximum=HOUR))
    assert await queue.work.expire_attempts(10, NO_GRACE) == []
    await overdue(queue)
    assert await queue.work.expire_attempts(10, timedelta(seconds=30)) == [], "its worker may still end it"
    [expired] = await queue.work.expire_attempts(10, NO_GRACE)
    assert (expired.job_id, expired.state, expired.worker) == (job.job_id, SCHEDULED, "stuck")
    assert await queue.settle(job, response=b"late") == NOT_OURS
    row = await queue.row(job)
    [attempt] = row.attempts
    assert (attempt.attempt, attempt.outcome, attempt.worker) == (1, AttemptOutcome.ATTEMPT_OUTCOME_RETRIED, "stuck")
    assert row.run_at - await queue.probe.now() <= HOUR
    await queue.ready_now()
    [again] = await queue.claim(await queue.worker(), ids=queue.ids)
    assert (again.attempt, again.lost) == (2, 0), "it used an attempt up, and is no suspect"


async def test_backoff_of_an_attempt_that_hung_is_random_and_grows(queue: Queue) -> None:
    policy = Policy(max_attempts=9, backoff_initial=HOUR, backoff_maximum=4 * HOUR, backoff_multiplier=2.0)
    ids = await queue.store.method_ids(METHOD, policy)
    calls = [queue.call(ids=ids) for _ in range(200)]
    await queue.submit(*calls)
    worker = await queue.worker()
    most_of = {1: HOUR, 2: 2 * HOUR, 3: 4 * HOUR, 8: 4 * HOUR}
    for attempt in range(1, 9):
        assert {job.attempt for job in await queue.claim(worker, 1000, ids=ids)} == {attempt}
        await overdue(queue)
        before = await queue.probe.now()
        assert len(await queue.work.expire_attempts(1000, NO_GRACE)) == len(calls)
        took = await queue.probe.now() - before
        if most := most_of.get(attempt):
            rows = (await queue.store.read([(call.tenant, call.job_id) for call in calls])).values()
            waits = [row.run_at - before for row in rows]
            assert timedelta(0) <= min(waits) < most * 0.2
            assert most * 0.8 < max(waits) <= most + took
        assert await queue.ready_now() == len(calls)


async def test_the_last_attempt_that_hangs_fails_the_job(queue: Queue) -> None:
    gateway = uuid4()
    job = await running(queue, Policy(max_attempts=1), waiter_id=gateway)
    await overdue(queue)
    [expired] = await queue.work.expire_attempts(10, NO_GRACE)
    assert (expired.state, expired.waiter_id) == (FAILED, gateway)
    assert await reason(queue, job.tenant, job.job_id) == "ATTEMPT_TIMEOUT"
    assert await queue.settle(job, response=b"late") == NOT_OURS


async def test_an_attempt_that_hangs_past_the_jobs_deadline_fails_it(queue: Queue) -> None:
    job = await running(queue, Policy(), deadline=HOUR)
    await queue.probe.pass_time(HOUR)
    assert [each.state for each in await queue.work.expire_attempts(10, NO_GRACE)] == [FAILED]
    assert await reason(queue, job.tenant, job.job_id) == "JOB_DEADLINE_EXCEEDED"


async def test_an_attempt_that_hangs_and_was_to_be_cancelled_is(queue: Queue) -> None:
    job = await running(queue, Policy())
    await queue.store.cancel(job.tenant, job.job_id)
    await overdue(queue)
    assert [each.state for each in await queue.work.expire_attempts(10, NO_GRACE)] == [CANCELLED]
    assert await reason(queue, job.tenant, job.job_id) == "JOB_CANCELLED"


async def test_an_attempt_ends_at_its_timeout_or_the_jobs_deadline(queue: Queue) -> None:
    ids = await queue.store.method_ids(METHOD, Policy(timeout=HOUR))
    calls = [queue.call(ids=ids), queue.call(ids=ids, deadline=HOUR / 2), queue.call(ids=ids, deadline=2 * HOUR)]
    await queue.submit(*calls)
    jobs = {job.job_id: job for job in await queue.claim(await queue.worker(), ids=ids)}
    almost = timedelta(minutes=1)
    for call, expected in zip(calls, (HOUR, HOUR / 2, HOUR), strict=True):
        ends, begun = (await queue.facts(call.job_id)).attempt_deadline, (await queue.row(call)).started_at
        assert ends is not None
        assert begun is not None
        assert expected - almost < ends - begun <= expected + almost
    assert jobs[calls[0].job_id].time_left is None
    for call, most in ((calls[1], HOUR / 2), (calls[2], 2 * HOUR)):
        left = jobs[call.job_id].time_left
        assert left is not None
        assert most - almost < left <= most


async def test_a_deadline_counts_from_the_time_a_job_is_to_start(queue: Queue) -> None:
    run_at = datetime.now(UTC) + 5 * HOUR
    call = queue.call(run_at=run_at, deadline=HOUR)
    await queue.submit(call)
    assert (await queue.row(call)).deadline == run_at + HOUR


async def test_waiting_jobs_past_their_deadline_fail(queue: Queue) -> None:
    gateway = uuid4()
    ready, scheduled, runs, open_end = (
        queue.call(deadline=HOUR, waiter_id=gateway),
        queue.call(deadline=HOUR, run_at=datetime.now(UTC) + HOUR),
        queue.call(deadline=HOUR, lane=1),
        queue.call(),
    )
    await queue.submit(ready, scheduled, runs, open_end)
    [job] = await queue.claim(await queue.worker(), 1)
    assert job.job_id == runs.job_id
    assert await queue.work.expire_jobs(10) == []
    await queue.probe.pass_time(2 * HOUR)
    ended = await queue.work.expire_jobs(1) + await queue.work.expire_jobs(10)
    assert sorted(ended, key=lambda each: each.job_id) == sorted(
        [Ended("acme", ready.job_id, gateway), Ended("acme", scheduled.job_id, None)], key=lambda each: each.job_id
    )
    assert {await reason(queue, "acme", call.job_id) for call in (ready, scheduled)} == {"JOB_DEADLINE_EXCEEDED"}
    assert (await queue.settle(job)).state == SUCCEEDED, "what runs is its worker's to end"
    assert await queue.state("acme", open_end.job_id) == READY


async def test_an_attempt_that_could_only_start_after_the_deadline_is_none(queue: Queue) -> None:
    late, in_time, cancelled, snoozed = (queue.call(deadline=HOUR) for _ in range(4))
    await queue.submit(late, in_time, cancelled, snoozed)
    jobs = {job.job_id: job for job in await queue.claim(await queue.worker())}
    await queue.store.cancel("acme", cancelled.job_id)
    error = {"error": b"jam", "error_code": 14, "error_message": "jam"}
    settled = await queue.settle(jobs[late.job_id], SCHEDULED, delay=2 * HOUR, **error)
    assert settled.state == FAILED
    [outcome] = await queue.store.outcomes([("acme", late.job_id)])
    assert outcome.error == b"jam", "it fails of what it would have been tried again for"
    assert (await queue.settle(jobs[in_time.job_id], SCHEDULED, delay=HOUR / 2, **error)).state == SCHEDULED
    assert (await queue.settle(jobs[cancelled.job_id], SCHEDULED, delay=2 * HOUR, **error)).state == CANCELLED
    assert (await queue.settle(jobs[snoozed.job_id], SCHEDULED, delay=2 * HOUR, snoozed=True)).state == SCHEDULED
    await queue.probe.pass_time(HOUR, jobs=[snoozed.job_id])
    assert [each.job_id for each in await queue.work.expire_jobs(10)] == [snoozed.job_id]
