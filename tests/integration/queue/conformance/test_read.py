"""What every implementation of the queue keeps to: reading, listing and deleting.

Each test of a guard fails when the guard is taken out.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta

from rowcall.catalogue.model import Policy
from rowcall.queue.model import DONE, EVERY_JOB, LIVE, JobFilter, SubmitOutcome, Submitted
from tests.support.queues import FAILED, METHOD, READY, SUCCEEDED, Queue


async def test_a_list_has_live_and_finished_jobs_newest_first_in_pages(queue: Queue) -> None:
    calls = [queue.call() for _ in range(10)]
    for call in calls:
        await queue.submit(call)
    await queue.submit(queue.call("bolt"))
    worker = await queue.worker()
    finished = await queue.claim(worker, 4)
    for job in finished:
        await queue.settle(job)
    newest_first = [call.job_id for call in reversed(calls)]

    pages, before = [], None
    while page := await queue.store.list("acme", EVERY_JOB, before=before, limit=4):
        assert len(page) <= 4
        pages += [row.job_id for row in page]
        before = page[-1].job_id
    assert pages == newest_first

    done = {job.job_id for job in finished if job.tenant == "acme"}
    assert {row.job_id for row in await queue.store.list("acme", JobFilter(states=DONE), limit=100)} == done
    live = await queue.store.list("acme", JobFilter(states=LIVE), limit=100)
    assert [row.job_id for row in live] == [job_id for job_id in newest_first if job_id not in done]
    assert await queue.store.list("acme", JobFilter(method="acme.v1.PrintService/Unknown"), limit=10) == []
    assert len(await queue.store.list("acme", JobFilter(method=METHOD), limit=100)) == 10


async def test_payloads_are_read_only_where_they_are_asked_for(queue: Queue) -> None:
    call = queue.call()
    await queue.submit(call)
    [job] = await queue.claim(await queue.worker())
    await queue.settle(job, response=b"answer")
    [bare] = await queue.store.list("acme", EVERY_JOB, limit=1)
    [full] = await queue.store.list("acme", EVERY_JOB, limit=1, request=True, response=True)
    assert (bare.request, bare.response) == (None, None)
    assert (full.request, full.response) == (call.request, b"answer")


async def test_only_a_finished_job_can_be_deleted(queue: Queue) -> None:
    call = queue.call(request_id="k")
    await queue.submit(call)
    assert not await queue.store.delete("acme", call.job_id)
    [job] = await queue.claim(await queue.worker())
    assert not await queue.store.delete("acme", call.job_id)
    await queue.settle(job)
    assert await queue.store.delete("acme", call.job_id)
    assert not await queue.store.delete("acme", call.job_id)
    assert await queue.state("acme", call.job_id) is None
    # Its key stays: a late repeat must not run again.
    assert await queue.submit(queue.call(request_id="k")) == [Submitted(SubmitOutcome.JOINED, call.job_id)]


async def test_expired_keys_are_taken_away_in_small_batches(queue: Queue) -> None:
    """After seven days."""
    await queue.submit(*(queue.call(request_id=f"k{number}") for number in range(4)))
    assert await queue.work.expire_keys(10) == 0
    await queue.probe.pass_time(timedelta(days=6))
    await queue.submit(queue.call(request_id="k4"))
    assert await queue.work.expire_keys(10) == 0
    await queue.probe.pass_time(timedelta(days=1))
    assert await queue.work.expire_keys(3) == 3
    assert await queue.work.expire_keys(3) == 1
    assert [key.request_id for key in await queue.probe.keys()] == ["k4"]


async def test_tenants_cannot_see_or_touch_each_other(queue: Queue) -> None:
    live, finished = queue.call("acme", request_id="k"), queue.call("acme")
    await queue.submit(finished)
    [job] = await queue.claim(await queue.worker())
    await queue.settle(job)
    await queue.submit(live)
    for job_id in (live.job_id, finished.job_id):
        assert await queue.store.read([("bolt", job_id)], request=True, response=True) == {}
        assert await queue.store.outcomes([("bolt", job_id)]) == []
        assert await queue.store.cancel("bolt", job_id) is None
        assert await queue.store.cancel_many("bolt", [job_id]) == {}
        assert await queue.store.leave("bolt", job_id, cancel=True) is None
        assert not await queue.store.delete("bolt", job_id)
    assert await queue.store.list("bolt", EVERY_JOB, limit=10) == []
    for states in (None, LIVE, DONE):
        assert await queue.store.find("bolt", JobFilter(states=states), limit=10) == []
    assert await queue.state("acme", live.job_id) == READY
    assert await queue.state("acme", finished.job_id) == SUCCEEDED


async def test_tenants_cannot_see_or_touch_each_others_failures(queue: Queue) -> None:
    call = queue.call("acme")
    await queue.submit(call)
    [job] = await queue.claim(await queue.worker())
    await queue.settle(job, FAILED, error=b"", error_code=10, error_message="")
    assert await queue.store.find("bolt", JobFilter(states=[FAILED]), limit=10) == []
    assert await queue.store.failure_groups("bolt", limit=10) == []
    assert await queue.store.replay("bolt", [call.job_id]) == {}
    assert await queue.store.resolve("bolt", [call.job_id], by=None, note=None) == []
    assert await queue.state("acme", call.job_id) == FAILED
    [group] = await queue.store.failure_groups("acme", limit=10)
    assert (group.jobs, group.last_job_id) == (1, call.job_id)
    assert await queue.store.resolve("acme", [call.job_id], by=None, note=None) == [call.job_id]


async def test_ids_of_names_are_the_same_for_everybody(queue: Queue) -> None:
    async with queue.another() as other:
        made = await asyncio.gather(
            *(store.method_ids("a.B/C", Policy(queue="new")) for store in (queue.store, other.store) for _ in range(4)),
        )
        assert len(set(made)) == 1
        assert await other.work.method_id("a.B/C") == made[0].method_id
        assert await other.store.fingerprint_key() == await queue.store.fingerprint_key()
    assert len(await queue.store.fingerprint_key()) == 32
    changed = await queue.store.method_ids("a.B/C", Policy(queue="new", max_attempts=9))
    assert changed.policy_id != made[0].policy_id
    policies = await queue.work.policies()
    assert (policies[changed.policy_id].max_attempts, policies[made[0].policy_id].max_attempts) == (9, 5)
    assert policies[changed.policy_id].backoff_maximum == Policy().backoff_maximum
