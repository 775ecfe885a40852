"""What every implementation of the queue keeps to: cancelling.

Each test of a guard fails when the guard is taken out.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from rowcall.errors import read_envelope
from rowcall.queue.model import EVERY_JOB, Cancelled
from rowcall.queue.statuses import addressed
from tests.support.queues import CANCELLED, RUNNING, SCHEDULED, SUCCEEDED, Queue


async def test_a_waiting_job_is_cancelled_at_once(queue: Queue) -> None:
    gateway = uuid4()
    ready = queue.call(waiter_id=gateway)
    scheduled = queue.call(run_at=datetime.now(UTC) + timedelta(hours=1))
    await queue.submit(ready, scheduled)
    assert await queue.store.cancel("acme", ready.job_id) == Cancelled(CANCELLED, gateway, None)
    assert await queue.store.cancel("acme", scheduled.job_id) == Cancelled(CANCELLED, None, None)
    assert await queue.store.cancel("acme", ready.job_id) is None, "there is no live job any more"
    assert await queue.claim(await queue.worker()) == []
    [outcome] = await queue.store.outcomes([("acme", ready.job_id)])
    assert outcome.state == CANCELLED
    assert outcome.error is not None
    status = addressed(outcome.error, tenant="acme", job_id=ready.job_id, attempt=0, trace_id="0" * 32)
    info = read_envelope(status)
    assert info is not None
    assert (info.reason, status.code) == ("JOB_CANCELLED", 1)


async def test_a_running_job_is_marked_and_its_result_counts(queue: Queue) -> None:
    await queue.submit(queue.call())
    worker = await queue.worker()
    [job] = await queue.claim(worker)
    assert await queue.store.cancel(job.tenant, job.job_id) == Cancelled(RUNNING, None, worker)
    row = (await queue.store.read([(job.tenant, job.job_id)]))[job.tenant, job.job_id]
    assert row.cancel_requested_at is not None
    assert (await queue.settle(job, response=b"done")).state == SUCCEEDED


async def test_a_job_that_was_to_be_cancelled_is_not_tried_again(queue: Queue) -> None:
    await queue.submit(*(queue.call() for _ in range(2)))
    retried, released = await queue.claim(await queue.worker())
    for job in (retried, released):
        await queue.store.cancel(job.tenant, job.job_id)
    assert (await queue.settle(retried, SCHEDULED, delay=timedelta(0), error=b"e")).state == CANCELLED
    assert [answer.state for answer in await queue.work.release([released])] == [CANCELLED]
    outcomes = await queue.store.outcomes([(job.tenant, job.job_id) for job in (retried, released)])
    assert [outcome.state for outcome in outcomes] == [CANCELLED] * 2
    assert all(outcome.error for outcome in outcomes)
    assert await queue.live() == []


async def test_a_cancellation_that_comes_while_a_retry_is_written_is_not_lost(queue: Queue) -> None:
    await queue.submit(queue.call())
    [job] = await queue.claim(await queue.worker())
    # Who cancels it has it; the retry was begun before that counts, and waits.
    async with queue.probe.holding(job.job_id, cancel=True):
        retry = asyncio.create_task(queue.settle(job, SCHEDULED, delay=timedelta(0), error=b"e"))
        await queue.somebody_waits()
    assert (await retry).state == CANCELLED


async def test_what_was_started_is_not_cancelled_where_only_unstarted_jobs_are(queue: Queue) -> None:
    await queue.submit(*(queue.call() for _ in range(3)))
    worker = await queue.worker()
    unstarted = (await queue.store.list("acme", EVERY_JOB, limit=1))[0]
    retried, released = await queue.claim(worker, 2)
    assert await queue.store.leave("acme", retried.job_id, cancel=True) is None
    await queue.settle(retried, SCHEDULED, delay=timedelta(0), error=b"e")
    await queue.work.release([released])
    for job in (retried, released):
        assert await queue.store.leave("acme", job.job_id, cancel=True) is None
    assert await queue.store.leave("acme", unstarted.job_id, cancel=True) == Cancelled(CANCELLED, None, None)
    assert await queue.store.leave("acme", unstarted.job_id, cancel=True) is None, "it is gone"


@pytest.mark.parametrize("together", [False, True])
async def test_the_last_of_a_jobs_callers_to_leave_takes_it_along(queue: Queue, *, together: bool) -> None:
    """Whichever gateways they called, and whether they came in one batch."""
    calls = [queue.call(request_id="k", counted=True) for _ in range(3)]
    for batch in [calls] if together else [[each] for each in calls]:
        await queue.submit(*batch)
    (job,) = await queue.store.list("acme", EVERY_JOB, limit=2)
    assert await queue.store.leave("acme", job.job_id, cancel=True) is None
    assert await queue.store.leave("acme", job.job_id, cancel=False) is None
    assert await queue.store.leave("acme", job.job_id, cancel=True) == Cancelled(CANCELLED, None, None)


async def test_a_call_with_another_request_under_the_key_does_not_keep_a_job(queue: Queue) -> None:
    await queue.submit(queue.call(request_id="k", counted=True))
    await queue.submit(queue.call(request_id="k", counted=True, fingerprint=b"another request!"))
    (job,) = await queue.store.list("acme", EVERY_JOB, limit=2)
    assert await queue.store.leave("acme", job.job_id, cancel=True) == Cancelled(CANCELLED, None, None)


async def test_a_job_that_its_last_caller_left_without_giving_up_stays(queue: Queue) -> None:
    await queue.submit(queue.call(request_id="k", counted=True))
    (job,) = await queue.store.list("acme", EVERY_JOB, limit=2)
    assert await queue.store.leave("acme", job.job_id, cancel=False) is None
    await queue.submit(queue.call(request_id="k", counted=True))
    assert await queue.store.leave("acme", job.job_id, cancel=True) == Cancelled(CANCELLED, None, None)
