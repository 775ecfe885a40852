"""What every implementation of the queue keeps to: it says what a job waits for, and who serves a queue.

Each test of a guard fails when the guard is taken out.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from rowcall.catalogue.model import JobMethod, Policy
from rowcall.probe.v1.probe_pb2 import EchoRequest, EchoResponse
from rowcall.queue.model import MethodIds, QueueServing, Submission, Wait
from rowcall.v1.job_pb2 import WaitReason
from tests.support.queues import LEASE, METHOD, NO_GRACE, Queue

TIME = WaitReason.WAIT_REASON_TIME
QUEUE_PAUSED = WaitReason.WAIT_REASON_QUEUE_PAUSED
METHOD_NOT_SERVED = WaitReason.WAIT_REASON_METHOD_NOT_SERVED
QUEUE_NOT_SERVED = WaitReason.WAIT_REASON_QUEUE_NOT_SERVED
SUSPECT = WaitReason.WAIT_REASON_SUSPECT
TURN = WaitReason.WAIT_REASON_TURN

OTHER = "acme.v1.PrintService/Other"
NEXT = Wait(TURN, None, None, None, 0)


async def serve(
    queue: Queue, name: str = "press", *, ids: Sequence[MethodIds] | None = None, queues: Sequence[str] | None = None
) -> UUID:
    """A worker that serves methods, of METHOD where none is given, in some queues or all."""
    worker = await queue.worker(name)
    await queue.work.serve(
        worker,
        [each.method_id for each in (queue.ids,) if ids is None] + [each.method_id for each in ids or ()],
        queues,
    )
    return worker


def method(name: str, policy: Policy) -> JobMethod:
    return JobMethod(name, EchoRequest, EchoResponse, returns_operation=False, has_request_id=False, policy=policy)


async def waits(queue: Queue, job: Submission, ahead: int | None = 10) -> Sequence[Wait]:
    """What a job waits for."""
    return (await queue.store.waits([(job.tenant, job.job_id)], ahead=ahead)).get((job.tenant, job.job_id), ())


async def served(queue: Queue, name: str = "default") -> QueueServing:
    [found] = [each for each in await queue.operators.serving(100) if each.name == name]
    return found


async def reasons(queue: Queue, job: Submission) -> list[int]:
    return [wait.reason for wait in await waits(queue, job)]


async def test_a_method_that_nobody_ever_served_is_told(queue: Queue) -> None:
    call = queue.call()
    await queue.submit(call)
    assert await waits(queue, call) == [Wait(METHOD_NOT_SERVED, None, None, None, None)]

    await serve(queue)
    assert await waits(queue, call) == [NEXT]


async def test_who_served_it_last_and_until_when_outlives_the_worker(queue: Queue) -> None:
    call = queue.call()
    await queue.submit(call)
    first, last = await serve(queue, "first"), await serve(queue, "last")
    began = datetime.now(UTC)
    await queue.work.retire_worker(first)
    assert await waits(queue, call) == [NEXT], "one still serves it"
    await queue.work.retire_worker(last)

    [wait] = await waits(queue, call)
    assert (wait.reason, wait.who) == (METHOD_NOT_SERVED, "last")
    assert wait.started_at is not None
    assert began - timedelta(seconds=5) < wait.started_at < datetime.now(UTC) + timedelta(seconds=5)

    # A day later the worker is forgotten, what it served last is not.
    await queue.probe.pass_time(timedelta(days=1, minutes=1))
    await queue.work.bury_workers(NO_GRACE)
    assert await queue.probe.workers() == []
    [wait] = await waits(queue, call)
    assert wait.who == "last"


async def test_an_earlier_death_does_not_hide_a_later_one(queue: Queue) -> None:
    """The one that died later may be found dead first."""
    call = queue.call()
    await queue.submit(call)
    crashed = await serve(queue, "crashed")
    await queue.work.retire_worker(await serve(queue, "left"))
    await queue.die(crashed)
    assert [wait.who for wait in await waits(queue, call)] == ["left"], (
        "the lease of the crashed one is over for a minute"
    )


async def test_where_all_have_died_there_is_nobody_to_bury_them_and_it_is_told_all_the_same(queue: Queue) -> None:
    call = queue.call()
    await queue.submit(call)
    worker = await serve(queue, "press")
    assert await waits(queue, call) == [NEXT]
    await queue.die(worker)
    assert [(wait.reason, wait.who) for wait in await waits(queue, call)] == [(METHOD_NOT_SERVED, "press")]
    assert (await served(queue)).workers == []
    assert (await served(queue)).last_worker == "press"
    # It was only cut off, and is back.
    assert (await queue.renew(worker)).alive
    assert await waits(queue, call) == [NEXT]


async def test_a_buried_worker_does_not_count_though_its_lease_lasts(queue: Queue) -> None:
    call = queue.call()
    await queue.submit(call)
    worker = await serve(queue)
    await queue.work.retire_worker(worker)
    await queue.work.serve(worker, [queue.ids.method_id], None)
    assert await reasons(queue, call) == [METHOD_NOT_SERVED], "the dead say nothing any more"


async def test_a_method_is_served_in_a_queue_only_if_one_worker_serves_both(queue: Queue) -> None:
    other = await queue.store.method_ids(OTHER, Policy(queue="other"))
    call = queue.call()
    await queue.submit(call)
    await serve(queue, "elsewhere", queues=["other"])
    await serve(queue, "nothing of it", ids=[other], queues=["default"])
    assert await reasons(queue, call) == [QUEUE_NOT_SERVED]
    last = await serve(queue, "both", queues=["default", "other"])
    assert await waits(queue, call) == [NEXT]
    await queue.work.retire_worker(last)
    assert [(wait.reason, wait.who) for wait in await waits(queue, call)] == [(QUEUE_NOT_SERVED, "both")]


async def test_a_worker_that_says_anew_what_it_serves_is_believed(queue: Queue) -> None:
    call = queue.call()
    await queue.submit(call)
    worker = await serve(queue, queues=["other"])
    assert await reasons(queue, call) == [QUEUE_NOT_SERVED]
    await queue.work.serve(worker, [queue.ids.method_id], None)
    assert await waits(queue, call) == [NEXT]


@pytest.mark.parametrize(
    ("kind", "name", "reason"),
    [
        ("queue", "default", QUEUE_PAUSED),
        ("method", METHOD, WaitReason.WAIT_REASON_METHOD_PAUSED),
        ("tenant", "acme", WaitReason.WAIT_REASON_TENANT_PAUSED),
    ],
)
async def test_a_pause_is_told_with_who_and_why_before_what_else_keeps_it(
    queue: Queue, kind: str, name: str, reason: int
) -> None:
    call, free = queue.call(), queue.call("bolt")
    await queue.submit(call, free)
    assert await queue.operators.pause(kind, name, by="ann", note="rebuild")
    await queue.work.hold_paused(10)
    first, second = await waits(queue, call)
    assert (first.reason, first.who, first.note) == (reason, "ann", "rebuild")
    assert first.started_at is not None
    assert second.reason == METHOD_NOT_SERVED
    await serve(queue)
    assert await reasons(queue, call) == [reason]
    assert await reasons(queue, free) == ([TURN] if kind == "tenant" else [reason]), (
        "only its own tenant's pause counts"
    )


async def test_a_job_that_is_not_due_says_so_and_what_would_keep_it(queue: Queue) -> None:
    call = queue.call(run_at=await queue.probe.now() + timedelta(hours=1))
    await queue.submit(call)
    assert await reasons(queue, call) == [TIME, METHOD_NOT_SERVED]
    await serve(queue)
    assert await waits(queue, call) == [Wait(TIME, None, None, None, None)]
    await queue.ready_now()
    assert await waits(queue, call) == [NEXT]


async def test_those_before_it_are_counted_in_its_queue_and_its_lanes_and_not_beyond(queue: Queue) -> None:
    other = await queue.store.method_ids(OTHER, Policy(queue="other"))
    calls = [queue.call() for _ in range(6)]
    await queue.submit(*calls)
    await queue.submit(queue.call(ids=other), queue.call(lane=4), queue.call(lane=2), queue.call(lane=1))
    await serve(queue)
    ahead = [(await waits(queue, call, 100))[0].ahead or 0 for call in calls]
    assert sorted(ahead) == [2, 3, 4, 5, 6, 7]
    assert [(await waits(queue, calls[-1], 3))[0].ahead, (await waits(queue, calls[-1], None))[0].ahead] == [3, None]


async def test_only_jobs_that_wait_are_told_of(queue: Queue) -> None:
    calls = [queue.call(), queue.call(), queue.call("bolt")]
    await queue.submit(*calls)
    worker = await serve(queue)
    done, runs = await queue.claim(worker, 2)
    await queue.settle(done)
    asked = [(call.tenant, call.job_id) for call in calls]
    assert list(await queue.store.waits(asked)) == [key for key in asked if key[1] not in (done.job_id, runs.job_id)]
    waiting = next(call for call in calls if call.job_id not in (done.job_id, runs.job_id))
    assert await queue.store.waits([("nobody", waiting.job_id)]) == {}, "nor those of another tenant"


async def test_a_queue_names_the_living_that_serve_a_method_of_it(queue: Queue) -> None:
    await queue.store.publish(method(METHOD, Policy()))
    other = await queue.store.publish(method(OTHER, Policy(queue="other")))
    assert await served(queue) == QueueServing("default", [], None, None, [])
    await serve(queue, "b")
    await serve(queue, "a", queues=["default"])
    await serve(queue, "not of its methods", ids=[other])
    await serve(queue, "not its queue", queues=["other"])
    gone = await serve(queue, "gone")
    await queue.work.retire_worker(gone)
    assert await served(queue) == QueueServing("default", ["a", "b"], None, None, [])
    assert (await served(queue, "other")).workers == ["not of its methods"]


async def test_a_queue_names_who_served_it_last_and_not_who_served_its_methods_elsewhere(queue: Queue) -> None:
    await queue.store.publish(method(METHOD, Policy()))
    await queue.work.retire_worker(await serve(queue, "last", queues=["default"]))
    await queue.work.retire_worker(await serve(queue, "elsewhere", queues=["other"]))
    found = await served(queue)
    assert (found.workers, found.last_worker) == ([], "last")
    assert found.last_until is not None


async def test_a_queue_names_what_waits_in_it_that_nobody_serves(queue: Queue) -> None:
    await queue.store.publish(method(METHOD, Policy()))
    other = await queue.store.publish(method(OTHER, Policy()))
    await serve(queue)
    assert (await served(queue)).unserved_methods == [], "nothing of it waits"
    await queue.submit(queue.call(), queue.call(ids=other))
    found = await served(queue)
    assert (found.workers, found.unserved_methods) == (["press"], [OTHER])


async def test_what_gateways_have_published_is_told_with_its_queue(queue: Queue) -> None:
    assert await queue.work.published() == {}, "that its id was asked for publishes no method"
    await queue.store.publish(method(METHOD, Policy(queue="prints")))
    assert await queue.work.published() == {METHOD: "prints"}


async def test_a_suspect_is_told_as_one(queue: Queue) -> None:
    call = queue.call()
    await queue.submit(call)
    keeper = await serve(queue)
    for _ in range(3):
        worker = await queue.worker()
        if await queue.claim(worker) == []:
            break
        await queue.die(worker)
        await queue.work.bury_workers(NO_GRACE)
        await queue.work.rescue(10)
    assert (await queue.facts(call.job_id)).held > 1
    assert await waits(queue, call) == [Wait(SUSPECT, None, None, None, None)]
    assert (await queue.renew(keeper, LEASE)).alive
