"""What every implementation of the queue keeps to: which workers live, what they are, and what they run.

Each test of a guard fails when the guard is taken out.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from rowcall.queue.model import Busy, Program
from tests.support.queues import LEASE, METHOD, Queue

PROGRAM = Program(host="box", release="0.1.0", version="7", slots=9, threads=2, apart=False, up=timedelta(minutes=5))


async def test_a_worker_is_known_by_what_it_said_of_itself(queue: Queue) -> None:
    worker = await queue.worker("one", program=PROGRAM)
    await queue.worker("other")
    await queue.work.serve(worker, [queue.ids.method_id], ["default", "late"])
    one, other = await queue.operators.workers()
    assert (one.worker_id, one.name, one.host, one.release, one.version) == (worker, "one", "box", "0.1.0", "7")
    assert (one.slots, one.threads, one.slots_taken, one.threads_taken) == (9, 2, None, None)
    assert (list(one.methods), list(one.queues or ()), one.every_queue) == ([METHOD], ["default", "late"], False)
    assert abs(one.registered_at - one.up_since - timedelta(minutes=5)) < timedelta(seconds=1)
    assert one.steady
    assert abs(one.lease_until - one.renewed_at - LEASE) < timedelta(seconds=1)
    assert (other.host, other.release, other.version, other.slots, other.apart) == (None, None, None, None, False)
    assert other.up_since == other.registered_at
    assert (list(other.methods), other.queues, other.every_queue) == ([], None, False)
    assert [each.name for each in await queue.operators.workers("other")] == ["other"]
    assert await queue.operators.workers("nobody") == []
    await queue.work.serve(worker, [queue.ids.method_id], None)
    [one] = await queue.operators.workers("one")
    assert (one.queues, one.every_queue) == (None, True)


async def test_who_has_died_or_left_is_not_among_those_that_live(queue: Queue) -> None:
    gone, dead, alive = [await queue.worker(name) for name in ("gone", "dead", "alive")]
    await queue.work.retire_worker(gone)
    await queue.die(dead)
    assert [each.name for each in await queue.operators.workers()] == ["alive", "dead"], "nobody has found out yet"
    await queue.kill(dead)
    assert [each.worker_id for each in await queue.operators.workers()] == [alive]


async def test_a_worker_that_misses_its_beats_is_not_steady(queue: Queue) -> None:
    worker = await queue.worker()
    await queue.renew(worker)
    await queue.probe.pass_time(timedelta(seconds=4), workers=[worker])
    [found] = await queue.operators.workers()
    assert not found.steady
    await queue.renew(worker)
    [found] = await queue.operators.workers()
    assert found.steady
    assert datetime.now(UTC) - found.steady_since < timedelta(seconds=4)


async def test_what_it_runs_is_what_it_said_and_still_holds(queue: Queue) -> None:
    worker, other = await queue.worker("one"), await queue.worker("other")
    await queue.submit(queue.call(), queue.call(), queue.call("bolt"))
    jobs = await queue.claim(worker)
    said = [(job.tenant, job.job_id) for job in jobs]
    await queue.renew(worker, busy=Busy(2, 1, said, {queue.ids.queue_id: 3}, {}))
    [one] = await queue.operators.workers("one")
    assert (one.slots_taken, one.threads_taken) == (2, 1)
    found = await queue.operators.worker_jobs("one")
    assert {(job.tenant, job.job_id) for job in found} == set(said)
    assert {(job.method, job.queue, job.attempt) for job in found} == {(METHOD, "default", 1)}
    mine = {job.job_id for job in jobs if job.tenant == "acme"}
    assert {job.job_id for job in await queue.operators.worker_jobs("one", "acme")} == mine
    assert await queue.operators.worker_jobs("one", "nobody") == []
    assert await queue.operators.worker_jobs("other") == []

    # One is over, one is another worker's by now: what was said of them is no longer so.
    over, lost, _ = jobs
    await queue.settle(over)
    await queue.work.release([lost])
    [again] = await queue.claim(other)
    assert again.job_id == lost.job_id
    assert {job.job_id for job in await queue.operators.worker_jobs("one")} == {jobs[2].job_id}
