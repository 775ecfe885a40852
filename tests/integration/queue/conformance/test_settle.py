"""What every implementation of the queue keeps to: the end of an attempt.

Each test of a guard fails when the guard is taken out.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, timedelta
from uuid import uuid4

import pytest

from rowcall.catalogue.model import Policy
from rowcall.queue.model import Settled, Settlement
from rowcall.v1.job_pb2 import AttemptOutcome
from tests.support.queues import CANCELLED, FAILED, METHOD, NOT_OURS, READY, RUNNING, SCHEDULED, SUCCEEDED, Queue


async def test_a_settled_job_is_history_with_its_answer(queue: Queue) -> None:
    gateway = uuid4()
    call = queue.call(waiter_id=gateway, traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    await queue.submit(call)
    [job] = await queue.claim(await queue.worker("printer-1"))
    assert await queue.store.outcomes([("acme", call.job_id)]) == []

    settled = await queue.settle(job, response=b"\x00answer", span_id="00f067aa0ba902b7")
    assert settled == Settled(settled=True, state=SUCCEEDED, waiter_id=gateway)
    [outcome] = await queue.store.outcomes([("acme", call.job_id), ("acme", uuid4())])
    assert (outcome.state, outcome.attempt, outcome.response, outcome.error) == (SUCCEEDED, 1, b"\x00answer", None)
    assert outcome.traceparent == call.traceparent

    row = (await queue.store.read([("acme", call.job_id)], response=True))["acme", call.job_id]
    assert (row.state, row.done, row.worker, row.span_id) == (SUCCEEDED, True, "printer-1", "00f067aa0ba902b7")
    assert row.response == b"\x00answer"
    assert row.request is None
    assert row.finished_at is not None
    assert await queue.live() == []
    [kept] = await queue.probe.jobs()
    assert kept.day == row.finished_at.astimezone(UTC).date(), "history is kept by the day of finishing, in UTC"


async def test_a_failed_job_keeps_its_error(queue: Queue) -> None:
    await queue.submit(queue.call())
    [job] = await queue.claim(await queue.worker())
    await queue.settle(job, FAILED, error=b"status", error_code=9, error_message="no paper")
    [outcome] = await queue.store.outcomes([(job.tenant, job.job_id)])
    assert (outcome.state, outcome.error, outcome.response) == (FAILED, b"status", None)
    [group] = await queue.store.failure_groups(job.tenant, limit=10)
    assert group.error_message == "no paper"


async def test_retention_decides_which_history(queue: Queue) -> None:
    for retention in (1, 2, 3):
        ids = await queue.store.method_ids(METHOD, Policy(retention=retention))
        await queue.submit(queue.call(ids=ids))
    for job in await queue.claim(await queue.worker()):
        await queue.settle(job)
    assert [job.retention for job in await queue.probe.jobs()] == [1, 2, 3]


async def test_a_retry_waits_and_keeps_what_happened(queue: Queue) -> None:
    await queue.submit(queue.call())
    worker = await queue.worker("printer-1")
    [job] = await queue.claim(worker)
    again = await queue.settle(
        job,
        SCHEDULED,
        delay=timedelta(hours=1),
        error=b"\x0e status",
        error_code=14,
        error_message="jam",
        span_id="00f067aa0ba902b7",
    )
    assert (again.settled, again.state) == (True, SCHEDULED)
    assert await queue.work.promote(10) == {}
    wait = (await queue.row(job)).run_at - await queue.probe.now()
    assert timedelta(minutes=59) < wait <= timedelta(hours=1)

    await queue.ready_now()
    [second] = await queue.claim(worker)
    assert (second.attempt, second.lease, second.lost) == (2, 2, 0)
    row = (await queue.store.read([(job.tenant, job.job_id)]))[job.tenant, job.job_id]
    [attempt] = row.attempts
    assert (attempt.attempt, attempt.outcome) == (1, AttemptOutcome.ATTEMPT_OUTCOME_RETRIED)
    assert (attempt.worker, attempt.error, attempt.span_id) == ("printer-1", b"\x0e status", "00f067aa0ba902b7")
    assert attempt.started_at is not None
    assert attempt.ended_at is not None
    assert attempt.started_at <= attempt.ended_at


async def test_a_snooze_gives_the_attempt_back(queue: Queue) -> None:
    ids = await queue.store.method_ids(METHOD, Policy(max_attempts=1))
    call = queue.call(ids=ids)
    await queue.submit(call)
    worker = await queue.worker()
    for _ in range(3):
        [job] = await queue.claim(worker, ids=ids)
        assert (job.attempt, job.lost) == (1, 0)
        settled = await queue.settle(job, SCHEDULED, delay=timedelta(hours=1), snoozed=True)
        assert settled.state == SCHEDULED
        assert await queue.claim(worker, ids=ids) == []
        await queue.ready_now()
    row = await queue.row(call)
    outcomes = [(each.attempt, each.outcome, each.error) for each in row.attempts]
    assert outcomes == [(1, AttemptOutcome.ATTEMPT_OUTCOME_SNOOZED, None)] * 3


async def test_a_job_remembers_its_last_hundred_attempts(queue: Queue) -> None:
    call = queue.call()
    await queue.submit(call)
    worker = await queue.worker()
    for number in range(103):
        [job] = await queue.claim(worker)
        # It gives the attempt back, so the time tells them apart.
        await queue.settle(job, SCHEDULED, delay=timedelta(0), snoozed=True, span_id=f"{number:016x}")
        await queue.ready_now()
    row = await queue.row(call)
    assert [each.span_id for each in row.attempts] == [f"{number:016x}" for number in range(3, 103)]


@pytest.mark.parametrize("state", [SUCCEEDED, FAILED, SCHEDULED])
async def test_a_zombie_cannot_settle(queue: Queue, state: int) -> None:
    await queue.submit(queue.call())
    [mine] = await queue.claim(await queue.worker("zombie"))
    await queue.work.release([mine])
    [theirs] = await queue.claim(await queue.worker("heir"))
    assert await queue.settle(mine, state, response=b"late", error=b"late") == NOT_OURS
    assert await queue.state(mine.tenant, mine.job_id) == RUNNING
    assert (await queue.settle(theirs, response=b"right")).settled
    [outcome] = await queue.store.outcomes([(mine.tenant, mine.job_id)])
    assert outcome.response == b"right"


async def test_a_lease_number_alone_is_no_lease(queue: Queue) -> None:
    """Released and not claimed again, the job has the number that the next claim would not give."""
    await queue.submit(queue.call())
    [job] = await queue.claim(await queue.worker())
    await queue.work.release([job])
    number = (await queue.facts(job.job_id)).lease
    assert number == job.lease + 1, "handing back ends the lease, whoever comes next"
    [answer] = await queue.work.settle([Settlement(job.tenant, job.job_id, number, SUCCEEDED, response=b"")])
    assert answer == NOT_OURS
    assert await queue.state(job.tenant, job.job_id) == READY


async def test_settling_twice_counts_once(queue: Queue) -> None:
    await queue.submit(queue.call())
    [job] = await queue.claim(await queue.worker())
    assert (await queue.settle(job, response=b"first")).settled
    assert await queue.settle(job, response=b"second") == NOT_OURS
    [outcome] = await queue.store.outcomes([(job.tenant, job.job_id)])
    assert outcome.response == b"first"


async def test_the_answers_of_a_batch_are_in_its_order(queue: Queue) -> None:
    await queue.submit(*(queue.call(tenant) for tenant in ("bolt", "acme", "bolt", "acme", "acme")))
    jobs = await queue.claim(await queue.worker())
    await queue.work.release(jobs[3:4])
    batch = [
        Settlement(job.tenant, job.job_id, job.lease, state, response=b"r", error=b"e")
        for job, state in zip(jobs, (SUCCEEDED, SCHEDULED, FAILED, SUCCEEDED, SUCCEEDED), strict=True)
    ]
    answers = await queue.work.settle(batch)
    states = [answer.state if isinstance(answer, Settled) else answer for answer in answers]
    assert states == [SUCCEEDED, SCHEDULED, FAILED, None, SUCCEEDED]


@pytest.mark.parametrize("states", [(SUCCEEDED,) * 3, (SCHEDULED,) * 3, (SUCCEEDED, SCHEDULED, SUCCEEDED)])
async def test_an_outcome_counts_though_its_job_was_changed_meanwhile(queue: Queue, states: tuple[int, ...]) -> None:
    """Its handler said how far it is, or somebody asked for it to be cancelled: of any of a batch, not only the first."""
    await queue.submit(*(queue.call() for _ in states))
    jobs = await queue.claim(await queue.worker())
    settlements = [
        Settlement(job.tenant, job.job_id, job.lease, state, delay=timedelta(0), error=b"e")
        for job, state in zip(jobs, states, strict=True)
    ]
    # Who changes them has them; the settle was begun before that counts, and waits.
    async with queue.probe.holding(*(job.job_id for job in jobs), progress=0.5, cancel=True):
        settling = asyncio.create_task(queue.work.settle(settlements))
        await queue.somebody_waits()
    expected = [CANCELLED if state == SCHEDULED else state for state in states]
    assert [answer.state for answer in await settling if isinstance(answer, Settled)] == expected
    assert await queue.live() == []


async def test_a_release_uses_no_attempt_up(queue: Queue) -> None:
    await queue.submit(*(queue.call() for _ in range(20)))
    worker = await queue.worker("drained")
    [job, *_, last] = await queue.claim(worker, 5)
    assert [answer.state for answer in await queue.work.release([job])] == [READY]
    [again] = await queue.claim(worker, 1, start=(0, 0, last.order_key, 0))
    assert again.job_id == job.job_id, "it is next: before the backlog, and not behind anybody's mark"
    assert (again.attempt, again.lost) == (1, 0)
    assert again.lease > job.lease
    assert await queue.work.release([job]) == [NOT_OURS], "it is the other claim's by now"
    row = (await queue.store.read([(job.tenant, job.job_id)]))[job.tenant, job.job_id]
    assert [(each.attempt, each.outcome, each.worker) for each in row.attempts] == [
        (1, AttemptOutcome.ATTEMPT_OUTCOME_RELEASED, "drained")
    ]


async def test_a_release_of_a_lease_that_was_lost_is_refused(queue: Queue) -> None:
    """While another one runs the job."""
    await queue.submit(queue.call())
    [mine] = await queue.claim(await queue.worker("zombie"))
    await queue.work.release([mine])
    [theirs] = await queue.claim(await queue.worker("heir"))
    assert await queue.work.release([mine]) == [NOT_OURS]
    assert await queue.state(mine.tenant, mine.job_id) == RUNNING
    assert (await queue.settle(theirs, response=b"right")).settled
