"""What every implementation of the queue keeps to: suspicion, and jobs that kill their workers.

Each test of a guard fails when the guard is taken out.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from rowcall.catalogue.model import Policy
from rowcall.errors import read_envelope
from rowcall.queue.model import ClaimedJob
from rowcall.queue.statuses import addressed
from tests.support.queues import FAILED, LEASE, METHOD, NO_GRACE, NOT_OURS, READY, RUNNING, SCHEDULED, Queue
from tests.support.waiting import until

SUSPECT = 2


async def suspect(queue: Queue, **changes: Any) -> UUID:
    """A job whose worker has died."""
    call = queue.call(**changes)
    await queue.submit(call)
    dead = await queue.worker("dead")
    assert [job.job_id for job in await queue.claim(dead, ids=call.ids)] == [call.job_id]
    assert [each.job_id for each in await queue.kill(dead)] == [call.job_id]
    return call.job_id


async def alone(queue: Queue, worker: UUID) -> ClaimedJob:
    job = await queue.claim_alone(worker)
    assert job is not None
    return job


async def test_what_a_dead_worker_ran_is_only_given_out_to_run_alone(queue: Queue) -> None:
    job_id = await suspect(queue)
    before, other = queue.call(), queue.call()
    await queue.submit(before, other)
    # One in front of it and one behind: a claim begins at the first that it may take.
    await queue.probe.change([before.job_id], order_key=(await queue.facts(job_id)).order_key - 1)
    worker = await queue.worker()
    assert [job.job_id for job in await queue.claim(worker)] == [before.job_id, other.job_id]
    job = await alone(queue, worker)
    assert (job.job_id, job.attempt, job.lost) == (job_id, 1, 1)
    row = await queue.row(job)
    assert (row.state, row.lost) == (RUNNING, 1)
    assert await queue.claim_alone(worker) is None
    assert (await queue.settle(job)).settled


async def test_suspects_are_given_out_one_by_one_lanes_first_then_the_longest_waiting(queue: Queue) -> None:
    calls = [queue.call(lane=lane) for lane in (3, 3, 1)]
    await queue.submit(*calls)
    dead = await queue.worker()
    await queue.claim(dead)
    await queue.kill(dead)
    await queue.probe.pass_time(timedelta(hours=1))
    await queue.probe.pass_time(timedelta(hours=1), jobs=[calls[1].job_id])
    worker = await queue.worker()
    waits = await queue.work.suspect_waits([queue.ids.queue_id], [queue.ids.method_id])
    assert waits is not None
    assert timedelta(hours=2) <= waits < timedelta(hours=3)
    order = [(await alone(queue, worker)).job_id for _ in calls]
    assert order == [calls[place].job_id for place in (2, 1, 0)]
    assert await queue.work.suspect_waits([queue.ids.queue_id], [queue.ids.method_id]) is None


async def test_a_suspect_is_given_to_who_lives_and_serves_its_queue_and_method(queue: Queue) -> None:
    await suspect(queue)
    worker, dead = await queue.worker(), await queue.worker()
    await queue.work.retire_worker(dead)
    other = await queue.store.method_ids("acme.v1.PrintService/Other", Policy(queue="other"))
    ids = queue.ids
    for who, queues, methods in (
        (dead, [ids.queue_id], [ids.method_id]),
        (uuid4(), [ids.queue_id], [ids.method_id]),
        (worker, [other.queue_id], [ids.method_id]),
        (worker, [ids.queue_id], [other.method_id]),
    ):
        assert await queue.work.claim_alone(who, queues, methods) is None
    assert await queue.work.suspect_waits([other.queue_id], [ids.method_id]) is None
    assert await queue.work.suspect_waits([ids.queue_id], [other.method_id]) is None
    both = [other.queue_id, ids.queue_id], [other.method_id, ids.method_id]
    assert await queue.work.suspect_waits(*both) is not None
    assert await queue.work.claim_alone(worker, *both) is not None


async def test_deaths_in_company_condemn_nobody(queue: Queue) -> None:
    """However often: only losses of a job that ran alone speak against it."""
    job_id = await suspect(queue)
    for times in range(2, 6):
        worker = await queue.worker()
        job = await alone(queue, worker)
        await queue.settle(job, SCHEDULED, error=b"e", delay=timedelta(0))
        await queue.ready_now()
        assert [each.job_id for each in await queue.claim(worker)] == [job_id], "it may run beside others again"
        assert [each.state for each in await queue.kill(worker)] == [READY]
        facts = await queue.facts(job_id)
        assert (facts.lost, facts.lost_alone) == (times, 0)


async def test_what_a_worker_leaves_behind_unharmed_is_as_suspect_as_before(queue: Queue) -> None:
    """Its claim was lost on the way back: nobody ever began these jobs."""
    suspected = await suspect(queue)
    for times in range(1, 5):
        worker = await queue.worker()
        await alone(queue, worker)
        await queue.work.retire_worker(worker, unharmed=True)
        assert [each.state for each in await queue.work.rescue(10)] == [READY]
        facts = await queue.facts(suspected)
        assert (facts.held, facts.lost, facts.lost_alone) == (SUSPECT, times + 1, 0)
    ordinary = queue.call()
    await queue.submit(ordinary)
    worker, heir = await queue.worker(), await queue.worker()
    assert [job.job_id for job in await queue.claim(worker)] == [ordinary.job_id]
    await queue.work.retire_worker(worker, unharmed=True)
    await queue.work.rescue(10)
    [again] = await queue.claim(heir)
    assert (again.job_id, again.attempt, again.lost) == (ordinary.job_id, 1, 1)
    assert [job.job_id for job in await queue.probe.jobs() if job.held == SUSPECT] == [suspected]


async def test_a_job_that_is_lost_three_times_alone_fails(queue: Queue) -> None:
    gateway = uuid4()
    job_id = await suspect(queue, waiter_id=gateway)
    for times in (1, 2):
        worker = await queue.worker()
        await alone(queue, worker)
        assert [each.state for each in await queue.kill(worker)] == [READY]
        facts = await queue.facts(job_id)
        assert (facts.lost, facts.lost_alone) == (times + 1, times)
    last = await queue.worker("last")
    job = await alone(queue, last)
    assert (job.attempt, job.lost) == (1, 3)
    [rescued] = await queue.kill(last)
    assert (rescued.state, rescued.waiter_id, rescued.worker) == (FAILED, gateway, "last")
    [outcome] = await queue.store.outcomes([(job.tenant, job.job_id)])
    assert outcome.error is not None
    info = read_envelope(addressed(outcome.error, tenant="acme", job_id=job.job_id, attempt=1, trace_id="0" * 32))
    assert info is not None
    assert info.reason == "WORKER_LOST"
    assert await queue.settle(job, response=b"late") == NOT_OURS


@pytest.mark.parametrize("snoozed", [True, False])
async def test_an_attempt_that_ended_clears_the_suspicion(queue: Queue, *, snoozed: bool) -> None:
    job_id = await suspect(queue)
    worker = await queue.worker()
    job = await alone(queue, worker)
    await queue.settle(job, SCHEDULED, error=b"e", delay=timedelta(0), snoozed=snoozed)
    await queue.ready_now()
    assert [each.job_id for each in await queue.claim(worker)] == [job_id]


async def test_handing_back_does_not_clear_the_suspicion(queue: Queue) -> None:
    await suspect(queue)
    worker = await queue.worker()
    [released] = await queue.work.release([await alone(queue, worker)])
    assert released.state == READY
    assert await queue.claim(worker) == []
    job = await alone(queue, worker)
    assert (await queue.row(job)).lost == 1


async def test_a_suspect_of_a_paused_queue_method_or_tenant_waits(queue: Queue) -> None:
    await suspect(queue)
    worker = await queue.worker()
    for kind, name in (("queue", "default"), ("method", METHOD), ("tenant", "acme")):
        assert await queue.operators.pause(kind, name, by=None, note=None)
        assert await queue.claim_alone(worker) is None
        assert await queue.work.suspect_waits([queue.ids.queue_id], [queue.ids.method_id]) is None
        assert await queue.operators.resume(kind, name)
    assert await queue.claim_alone(worker) is not None


@pytest.mark.straight("a session stands for the worker")
async def test_a_worker_whose_session_is_gone_and_who_missed_two_beats_is_buried(queue: Queue) -> None:
    guarded, unguarded = await queue.worker("guarded"), await queue.worker("unguarded")

    async def beat(seconds: float) -> None:
        """Everybody renews, and then so much time passes."""
        for worker in (guarded, unguarded):
            assert (await queue.renew(worker)).alive
        await queue.probe.pass_time(timedelta(seconds=seconds))

    async with queue.probe.standing(guarded) as stands:
        assert stands
        await beat(10)
        assert await queue.work.bury_workers(NO_GRACE) == [], "its session stands for it"
    await beat(1)
    assert await queue.work.bury_workers(NO_GRACE) == [], "it has two beats to come back"
    await beat(10)
    assert await queue.work.bury_workers(timedelta(days=1)) == [], "the server has just started"
    assert await queue.work.bury_workers(NO_GRACE) == [(guarded, "guarded")]
    assert (await queue.renew(unguarded)).alive
    assert not (await queue.renew(guarded)).alive


async def test_nobody_is_buried_within_the_grace_after_the_servers_start(queue: Queue) -> None:
    worker = await queue.worker("late")
    await queue.die(worker)
    assert await queue.work.bury_workers(timedelta(days=1)) == []
    assert await queue.work.bury_workers(NO_GRACE) == [(worker, "late")]


@pytest.mark.straight("a session stands for the worker")
async def test_one_session_at_a_time_stands_for_a_worker(queue: Queue) -> None:
    worker = await queue.worker()
    async with queue.probe.standing(worker) as first, queue.probe.standing(worker) as second:
        assert (first, second) == (True, False)


async def up_for(queue: Queue, time: timedelta) -> None:
    """Returns when the queue's server has run for so long."""

    async def is_up() -> bool:
        return await queue.probe.up_for() > time

    await until(is_up)


async def test_who_was_cut_off_itself_buries_nobody_before_the_others_could_come_back(queue: Queue) -> None:
    """A network that is away for all makes everybody look dead to the first who is back."""
    grace = timedelta(seconds=1)
    await up_for(queue, grace)
    first, other = await queue.worker("first"), await queue.worker("other")
    # Both have long renewed every second or two.
    for _ in range(5):
        await queue.probe.pass_time(timedelta(seconds=2))
        for worker in (first, other):
            assert (await queue.renew(worker, timedelta(seconds=10))).alive
    await queue.probe.pass_time(timedelta(seconds=11))
    assert (await queue.renew(first)).alive
    assert await queue.work.bury_workers(grace, by=first) == [], "it is back for an instant only"
    await queue.probe.pass_time(timedelta(seconds=2))
    assert await queue.work.bury_workers(grace, by=first) == [(other, "other")]


async def test_renewals_that_come_in_time_are_steady_and_the_long_dead_need_nobody_steady(queue: Queue) -> None:
    grace = timedelta(seconds=1)
    await up_for(queue, grace)
    leases = {"first": LEASE, "second": timedelta(seconds=1), "third": LEASE}
    first, second, third = [await queue.worker(name, lease) for name, lease in leases.items()]
    await queue.probe.pass_time(timedelta(seconds=1, milliseconds=500))
    assert (await queue.renew(first)).alive
    assert await queue.work.bury_workers(grace, by=first) == [(second, "second")]
    await queue.probe.pass_time(LEASE + timedelta(minutes=2), workers=[third])
    assert await queue.work.bury_workers(grace, by=await queue.worker("new")) == [(third, "third")]
    assert not (await queue.renew(third)).alive
