"""What every implementation of the queue keeps to: suspicion, and jobs that kill their workers.

Each test of a guard fails when the guard is taken out.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from rowcall.catalogue.model import Policy
from rowcall.errors import read_envelope
from rowcall.queue.model import ClaimedJob, Held, MethodIds
from rowcall.queue.statuses import addressed
from rowcall.v1.job_pb2 import AttemptOutcome
from tests.support.queues import FAILED, LEASE, METHOD, NO_GRACE, NOT_OURS, READY, RUNNING, SCHEDULED, Queue
from tests.support.waiting import until

SUSPECT, ALONE = Held.SUSPECT, Held.SUSPECT | Held.ALONE
"""What a job is held as: to run beside suspects only, or alone."""


async def lose(queue: Queue, *job_ids: UUID, ids: MethodIds | None = None) -> None:
    """A worker claims these jobs, which are all that there are to be claimed, and dies."""
    dead = await queue.worker("dead")
    claimed = await queue.claim(dead, ids=ids)
    assert {job.job_id for job in claimed} == set(job_ids)
    assert {each.job_id for each in await queue.kill(dead)} == set(job_ids)


async def suspects(queue: Queue, count: int, **changes: Any) -> list[UUID]:
    """Jobs whose workers have died twice in a row, in the order in which they were submitted."""
    calls = [queue.call(**changes) for _ in range(count)]
    await queue.submit(*calls)
    job_ids = [call.job_id for call in calls]
    for _ in range(2):
        await lose(queue, *job_ids, ids=calls[0].ids)
    return job_ids


async def suspect(queue: Queue, **changes: Any) -> UUID:
    """A job whose workers have died twice in a row."""
    [job_id] = await suspects(queue, 1, **changes)
    return job_id


async def alone(queue: Queue, worker: UUID) -> ClaimedJob:
    job = await queue.claim_alone(worker)
    assert job is not None
    return job


async def held(queue: Queue, job_ids: Iterable[UUID]) -> list[int]:
    """What each of these jobs is held as."""
    return [(await queue.facts(job_id)).held for job_id in job_ids]


async def test_a_first_loss_is_no_evidence(queue: Queue) -> None:
    first, second = queue.call(), queue.call()
    await queue.submit(first, second)
    await lose(queue, first.job_id, second.job_id)
    waiting = queue.call()
    await queue.submit(waiting)
    worker = await queue.worker()
    assert await queue.work.suspect_waits([queue.ids.queue_id], [queue.ids.method_id]) is None
    assert await queue.claim_alone(worker) is None
    claimed = await queue.claim(worker)
    assert {job.job_id for job in claimed[:2]} == {first.job_id, second.job_id}, "next, not behind the backlog"
    assert [(job.attempt, job.lost) for job in claimed] == [(1, 1), (1, 1), (1, 0)]


async def test_what_was_lost_twice_in_a_row_is_given_out_as_a_suspect_only(queue: Queue) -> None:
    job_id = await suspect(queue)
    before, other = queue.call(), queue.call()
    await queue.submit(before, other)
    # One in front of it and one behind: a claim begins at the first that it may take.
    await queue.probe.change([before.job_id], order_key=(await queue.facts(job_id)).order_key - 1)
    worker = await queue.worker()
    assert [job.job_id for job in await queue.claim(worker)] == [before.job_id, other.job_id]
    job = await alone(queue, worker)
    assert (job.job_id, job.attempt, job.lost) == (job_id, 1, 2)
    row = await queue.row(job)
    assert (row.state, row.lost) == (RUNNING, 2)
    assert await queue.claim_alone(worker) is None
    assert (await queue.settle(job)).settled


@pytest.mark.parametrize("ended", ["retried", "snoozed", "over its time"])
async def test_two_losses_with_an_attempt_between_that_ended_make_no_suspect(queue: Queue, ended: str) -> None:
    call = queue.call()
    await queue.submit(call)
    await lose(queue, call.job_id)
    [job] = await queue.claim(await queue.worker())
    if ended == "over its time":
        await queue.probe.pass_time(timedelta(days=1), jobs=[job.job_id])
        assert len(await queue.work.expire_attempts(10, NO_GRACE)) == 1
    else:
        await queue.settle(job, SCHEDULED, error=b"e", delay=timedelta(0), snoozed=ended == "snoozed")
    await queue.ready_now()
    await lose(queue, call.job_id)
    assert await held(queue, [call.job_id]) == [0]
    await lose(queue, call.job_id)
    assert await held(queue, [call.job_id]) == [SUSPECT]


async def test_handing_back_between_two_losses_says_nothing_for_a_job(queue: Queue) -> None:
    call = queue.call()
    await queue.submit(call)
    await lose(queue, call.job_id)
    await queue.work.release(await queue.claim(await queue.worker()))
    await lose(queue, call.job_id)
    assert await held(queue, [call.job_id]) == [SUSPECT]


async def test_suspects_are_given_out_as_a_group(queue: Queue) -> None:
    job_ids = await suspects(queue, 5)
    assert await queue.work.count_suspects([queue.ids.queue_id], [queue.ids.method_id], 100) == 5
    assert await queue.work.count_suspects([queue.ids.queue_id], [queue.ids.method_id], 3) == 3
    worker = await queue.worker()
    group = await queue.claim_suspects(worker, 3)
    assert len(group) == 3
    assert await queue.work.count_suspects([queue.ids.queue_id], [queue.ids.method_id], 100) == 2
    # One ends well, one is handed back, one is tried again; and nothing of that speaks against them.
    await queue.settle(group[0])
    await queue.work.release([group[1]])
    await queue.settle(group[2], SCHEDULED, error=b"e", delay=timedelta(0))
    await queue.ready_now()
    assert await held(queue, [group[1].job_id, group[2].job_id]) == [SUSPECT, 0]
    left = {*job_ids} - {group[0].job_id, group[2].job_id}
    assert {job.job_id for job in await queue.claim_suspects(worker, 10)} == left
    assert [job.job_id for job in await queue.claim(worker)] == [group[2].job_id]


async def test_what_a_group_lost_is_given_out_one_by_one(queue: Queue) -> None:
    job_ids = await suspects(queue, 3)
    worker = await queue.worker()
    assert len(await queue.claim_suspects(worker, 10)) == 3
    assert {each.state for each in await queue.kill(worker)} == {READY}
    assert await held(queue, job_ids) == [ALONE] * 3
    assert {(await queue.facts(job_id)).lost_alone for job_id in job_ids} == {0}, "it was in company"
    assert await queue.work.count_suspects([queue.ids.queue_id], [queue.ids.method_id], 100) == 0
    worker = await queue.worker()
    given = [[job.job_id for job in await queue.claim_suspects(worker, 10)] for _ in range(4)]
    assert [len(each) for each in given] == [1, 1, 1, 0]
    assert {each[0] for each in given if each} == set(job_ids)


async def test_a_group_of_one_runs_alone(queue: Queue) -> None:
    job_id = await suspect(queue)
    worker = await queue.worker()
    assert len(await queue.claim_suspects(worker, 10)) == 1
    await queue.kill(worker)
    facts = await queue.facts(job_id)
    assert (facts.held, facts.lost_alone) == (ALONE, 1)


async def test_what_has_waited_longest_says_whether_a_group_is_next_or_one_that_runs_alone(queue: Queue) -> None:
    job_ids = await suspects(queue, 2)
    worker = await queue.worker()
    await queue.claim_suspects(worker, 10)
    await queue.kill(worker)
    await queue.probe.pass_time(timedelta(hours=1))
    later = await suspects(queue, 2)
    worker = await queue.worker()
    order = [{job.job_id for job in await queue.claim_suspects(worker, 10)} for _ in range(3)]
    assert order[2] == set(later)
    assert order[0] | order[1] == set(job_ids)


async def test_a_group_has_none_that_is_to_run_alone(queue: Queue) -> None:
    job_ids = await suspects(queue, 2)
    worker = await queue.worker()
    await queue.claim_suspects(worker, 10)
    await queue.kill(worker)
    later = await suspects(queue, 2)
    await queue.probe.pass_time(timedelta(hours=1), jobs=later)
    worker = await queue.worker()
    order = [{job.job_id for job in await queue.claim_suspects(worker, 10)} for _ in range(3)]
    assert order[0] == set(later)
    assert order[1] | order[2] == set(job_ids)


async def test_suspects_are_given_out_lanes_first_then_the_longest_waiting(queue: Queue) -> None:
    calls = [queue.call(lane=lane) for lane in (3, 3, 1)]
    await queue.submit(*calls)
    for _ in range(2):
        await lose(queue, *(call.job_id for call in calls))
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
        assert await queue.work.claim_suspects(who, queues, methods, 10) == []
    assert await queue.work.count_suspects([other.queue_id], [ids.method_id], 10) == 0
    assert await queue.work.count_suspects([ids.queue_id], [other.method_id], 10) == 0
    assert await queue.work.suspect_waits([other.queue_id], [ids.method_id]) is None
    assert await queue.work.suspect_waits([ids.queue_id], [other.method_id]) is None
    both = [other.queue_id, ids.queue_id], [other.method_id, ids.method_id]
    assert await queue.work.suspect_waits(*both) is not None
    assert await queue.work.count_suspects(*both, 10) == 1
    assert len(await queue.work.claim_suspects(worker, *both, 10)) == 1


async def test_deaths_in_company_condemn_nobody(queue: Queue) -> None:
    """However often: only losses of a job that ran alone speak against it."""
    call = queue.call()
    await queue.submit(call)
    losses = 0
    for _ in range(4):
        for held_as in (0, SUSPECT):
            await lose(queue, call.job_id)
            losses += 1
            facts = await queue.facts(call.job_id)
            assert (facts.state, facts.held, facts.lost, facts.lost_alone) == (READY, held_as, losses, 0)
        job = await alone(queue, await queue.worker())
        await queue.settle(job, SCHEDULED, error=b"e", delay=timedelta(0))
        await queue.ready_now()


async def test_what_a_worker_leaves_behind_unharmed_is_as_suspect_as_before(queue: Queue) -> None:
    """Its claim was lost on the way back: nobody ever began these jobs."""
    suspected = await suspect(queue)
    for _ in range(4):
        worker = await queue.worker()
        await alone(queue, worker)
        await queue.work.retire_worker(worker, unharmed=True)
        assert [each.state for each in await queue.work.rescue(10)] == [READY]
        facts = await queue.facts(suspected)
        assert (facts.held, facts.lost, facts.lost_alone) == (ALONE, 2, 0)
    ordinary = queue.call()
    await queue.submit(ordinary)
    for _ in range(3):
        worker = await queue.worker()
        [job] = await queue.claim(worker)
        assert (job.job_id, job.attempt, job.lost) == (ordinary.job_id, 1, 0)
        await queue.work.retire_worker(worker, unharmed=True)
        await queue.work.rescue(10)
    attempts = (await queue.row(ordinary)).attempts
    assert {each.outcome for each in attempts} == {AttemptOutcome.ATTEMPT_OUTCOME_RELEASED}
    await lose(queue, ordinary.job_id)
    assert await held(queue, [ordinary.job_id]) == [0], "the first time that it was lost"


async def test_a_group_that_a_worker_leaves_behind_unharmed_is_a_group_again(queue: Queue) -> None:
    job_ids = await suspects(queue, 3)
    worker = await queue.worker()
    assert len(await queue.claim_suspects(worker, 10)) == 3
    await queue.work.retire_worker(worker, unharmed=True)
    await queue.work.rescue(10)
    assert await held(queue, job_ids) == [SUSPECT] * 3
    assert len(await queue.claim_suspects(await queue.worker(), 10)) == 3


async def test_a_job_that_is_lost_three_times_alone_fails(queue: Queue) -> None:
    gateway = uuid4()
    job_id = await suspect(queue, waiter_id=gateway)
    for times in (1, 2):
        worker = await queue.worker()
        await alone(queue, worker)
        assert [each.state for each in await queue.kill(worker)] == [READY]
        facts = await queue.facts(job_id)
        assert (facts.lost, facts.lost_alone) == (times + 2, times)
    last = await queue.worker("last")
    job = await alone(queue, last)
    assert (job.attempt, job.lost) == (1, 4)
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
    assert (await queue.row(job)).lost == 2


async def test_a_suspect_of_a_paused_queue_method_or_tenant_waits(queue: Queue) -> None:
    await suspect(queue)
    worker = await queue.worker()
    for kind, name in (("queue", "default"), ("method", METHOD), ("tenant", "acme")):
        assert await queue.operators.pause(kind, name, by=None, note=None)
        assert await queue.claim_alone(worker) is None
        assert await queue.work.suspect_waits([queue.ids.queue_id], [queue.ids.method_id]) is None
        assert await queue.work.count_suspects([queue.ids.queue_id], [queue.ids.method_id], 10) == 0
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
    assert await queue.work.bury_workers(grace, by=first) == [], "it has not even renewed its own"
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
