"""What every implementation of the queue keeps to: jobs that follow another's end, and jobs that handlers submit.

Each test of a guard fails when the guard is taken out.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

from google.longrunning.operations_pb2 import Operation
from google.protobuf.wrappers_pb2 import StringValue
from google.rpc.status_pb2 import Status

from rowcall.catalogue.model import JobMethod, Policy
from rowcall.errors import RowcallError
from rowcall.queue.model import ClaimedJob, FollowUp, Settled, Settlement, SubmitOutcome
from rowcall.v1.error_reason_pb2 import ErrorReason
from rowcall.v1.job_pb2 import JobMetadata
from tests.support.queues import CANCELLED, FAILED, METHOD, NOT_OURS, READY, RUNNING, SCHEDULED, SUCCEEDED, Queue

AFTER = "acme.v1.PrintService/After"


async def following(queue: Queue) -> FollowUp:
    """A follow-up job, in a queue and lane of its own."""
    return FollowUp(await queue.store.method_ids(AFTER, Policy(queue="after", deadline=timedelta(hours=1))), 2)


async def follower(queue: Queue, on_done: FollowUp) -> tuple[ClaimedJob, Operation]:
    """The one job that followed, and its request."""
    [job] = await queue.claim(await queue.worker(), ids=on_done.ids)
    return job, Operation.FromString(job.request)


def metadata(operation: Operation) -> JobMetadata:
    found = JobMetadata()
    assert operation.metadata.Unpack(found)
    return found


async def test_a_jobs_success_is_followed_by_its_answer(queue: Queue) -> None:
    await queue.store.publish(
        JobMethod(METHOD, StringValue, StringValue, returns_operation=True, has_request_id=False, policy=Policy())
    )
    on_done = await following(queue)
    # Longer than one and two bytes of a length can say.
    for size in (0, 5, 127, 128, 200, 16_384):
        call = queue.call(
            on_done=on_done, actor="ann", labels={"a": "b"}, waiter_id=UUID(int=1), request_id=f"k{size}",
            traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", tracestate="x=y",
        )  # fmt: skip
        await queue.submit(call)
        [job] = await queue.claim(await queue.worker())
        answer = StringValue(value="x" * size)
        await queue.settle(job, response=answer.SerializeToString())
        follow, operation = await follower(queue, on_done)
        assert (operation.name, operation.done) == (f"tenants/acme/operations/{call.job_id}", True)
        unpacked = StringValue()
        assert operation.response.Unpack(unpacked)
        assert unpacked == answer
        known = metadata(operation)
        assert (known.method, known.state, known.attempt) == (METHOD, SUCCEEDED, 1)
        assert (follow.tenant, follow.lane, follow.actor, follow.labels) == ("acme", 2, "ann", {"a": "b"})
        assert (follow.traceparent, follow.tracestate) == (call.traceparent, "x=y")
        assert follow.time_left is not None
        row = await queue.row(follow)
        assert (row.parent_job_id, row.request_id) == (call.job_id, None)
        await queue.settle(follow, response=b"")
        assert await queue.live() == [], "nothing follows what follows"


async def test_whichever_way_a_job_ends_it_is_followed(queue: Queue) -> None:
    on_done = await following(queue)
    ends = [FAILED, CANCELLED, FAILED, FAILED]
    calls = [queue.call(on_done=on_done, deadline=timedelta(hours=1)) for _ in ends]
    fails, cancelled, lost, late = calls
    await queue.submit(fails)
    [job] = await queue.claim(await queue.worker())
    error = Status(code=9, message="no paper").SerializeToString()
    await queue.settle(job, FAILED, error=error, error_code=9, error_message="no paper")
    _, operation = await follower(queue, on_done)
    assert (operation.error.code, operation.error.message) == (9, "no paper")

    await queue.submit(cancelled)
    await queue.store.cancel("acme", cancelled.job_id)
    _, operation = await follower(queue, on_done)
    assert (operation.error.code, metadata(operation).state) == (1, CANCELLED)

    await queue.submit(lost)
    worker = await queue.worker()
    await queue.claim(worker)
    await queue.kill(worker)
    worker = await queue.worker()
    await queue.claim(worker)
    for _ in range(3):
        await queue.kill(worker)
        worker = await queue.worker()
        assert await queue.claim_alone(worker) is not None
    await queue.kill(worker)
    _, operation = await follower(queue, on_done)
    assert operation.name.endswith(str(lost.job_id))
    assert operation.error.code == 10

    await queue.submit(late)
    await queue.probe.pass_time(timedelta(hours=1))
    assert len(await queue.work.expire_jobs(10)) == 1
    _, operation = await follower(queue, on_done)
    assert (operation.error.code, metadata(operation).attempt) == (4, 0)
    assert [await queue.state("acme", call.job_id) for call in calls] == ends


async def test_what_is_tried_again_is_not_followed_yet(queue: Queue) -> None:
    on_done = await following(queue)
    await queue.submit(queue.call(on_done=on_done))
    worker = await queue.worker()
    [job] = await queue.claim(worker)
    await queue.settle(job, SCHEDULED, error=b"e", delay=timedelta(0))
    await queue.ready_now()
    await queue.work.release(await queue.claim(worker))
    assert await queue.claim(worker, ids=on_done.ids) == []


async def test_children_are_submitted_if_and_only_if_the_settlement_counts(queue: Queue) -> None:
    await queue.submit(queue.call(), queue.call())
    zombie = await queue.worker()
    mine, other = await queue.claim(zombie)
    await queue.work.release([mine])
    [theirs] = await queue.claim(await queue.worker())

    def child(job: ClaimedJob, **changes: Any) -> Settlement:
        submission = queue.call(parent_job_id=job.job_id, lane=4, **changes)
        return Settlement(job.tenant, job.job_id, job.lease, SUCCEEDED, response=b"", children=[submission])

    late, counts, also = child(mine), child(theirs), child(other, request_id="k")
    answers = await queue.work.settle([late, counts, also])
    assert [answer == NOT_OURS for answer in answers] == [True, False, False]
    assert await queue.state("acme", late.children[0].job_id) is None
    for settlement in (counts, also):
        row = await queue.row(settlement.children[0])
        assert (row.state, row.parent_job_id) == (READY, settlement.job_id)


async def test_a_child_that_is_refused_fails_its_own_settlement_alone(queue: Queue) -> None:
    taken_key = queue.call(request_id="k", fingerprint=b"another request")
    await queue.submit(taken_key, *(queue.call(lane=1) for _ in range(4)))
    jobs = await queue.claim(await queue.worker(), 4)
    children = [
        [queue.call()],
        [queue.call(), queue.call(request_id="k")],
        [queue.call("nobody-here")],
        [queue.call(request_id="k", fingerprint=b"another request")],
    ]
    batch = [
        Settlement(job.tenant, job.job_id, job.lease, SUCCEEDED, response=b"", children=each)
        for job, each in zip(jobs, children, strict=True)
    ]
    good, reused, wrong_shard, joins = await queue.work.settle(batch)
    assert isinstance(good, Settled)
    assert isinstance(joins, Settled)
    assert good.settled
    assert joins.settled
    assert isinstance(reused, RowcallError)
    assert reused.reason == ErrorReason.ERROR_REASON_IDEMPOTENCY_KEY_REUSED
    assert isinstance(wrong_shard, RowcallError)
    assert wrong_shard.reason == ErrorReason.ERROR_REASON_WRONG_SHARD
    states = [await queue.state(job.tenant, job.job_id) for job in jobs]
    assert states == [SUCCEEDED, RUNNING, RUNNING, SUCCEEDED]
    assert await queue.state("acme", children[1][0].job_id) is None, "all of an attempt's children, or none"
    assert (await queue.submit(queue.call(request_id="k")))[0].outcome is SubmitOutcome.KEY_REUSED


async def test_a_child_joins_the_job_of_its_key_if_its_request_is_the_same(queue: Queue) -> None:
    there = queue.call(request_id="k", fingerprint=b"fingerprint of an older format")
    await queue.submit(there, queue.call(lane=1))
    [job] = await queue.claim(await queue.worker(), 1)
    new = queue.call(request_id="new")
    children = [
        queue.call(request_id="k", request=there.request),
        new,
        queue.call(request_id="new", request=new.request, fingerprint=b"of another serialisation"),
    ]
    await queue.settle(job, response=b"", children=children)
    keys = {key.request_id: key.job_id for key in await queue.probe.keys()}
    assert keys == {"k": there.job_id, "new": new.job_id}
    assert {live.job_id for live in await queue.live()} == {there.job_id, new.job_id}
