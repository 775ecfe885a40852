"""What every implementation of the queue keeps to: a finished job as the one that follows it is told of it.

An operation that protobuf reads, once an end.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from google.longrunning.operations_pb2 import Operation
from google.rpc.code_pb2 import Code
from google.rpc.status_pb2 import Status

from rowcall.catalogue.model import JobMethod, Policy
from rowcall.errors import read_envelope
from rowcall.names import operation_name
from rowcall.probe.v1.probe_pb2 import EchoRequest, EchoResponse
from rowcall.queue.model import ClaimedJob, FollowUp, JobFilter, MethodIds, Submission
from rowcall.v1.job_pb2 import JobMetadata, JobState
from tests.support.queues import CANCELLED, FAILED, NOT_OURS, SCHEDULED, SUCCEEDED, Queue

ECHO = JobMethod(
    "rowcall.probe.v1.ProbeService/Echo", EchoRequest, EchoResponse,
    returns_operation=False, has_request_id=False, policy=Policy(),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Followed:
    """A queue, a method whose jobs are followed, and the one that follows."""

    queue: Queue
    ids: MethodIds
    follower: MethodIds

    def call(self, **changes: Any) -> Submission:
        return self.queue.call(ids=self.ids, on_done=FollowUp(self.follower, 2), **changes)

    async def claimed(self, attempt: int | None = None) -> ClaimedJob:
        """A followed job that runs, and how often it says it has."""
        await self.queue.submit(self.call())
        [job] = await self.queue.claim(await self.queue.worker(), ids=self.ids)
        if attempt is not None:
            await self.queue.probe.change([job.job_id], attempt=attempt)
        return job

    async def told(self, job_id: UUID) -> Operation:
        """The operation of the one follow-up job there is, in the way that it would be claimed."""
        worker = await self.queue.worker()
        [job] = await self.queue.claim(worker, ids=self.follower)
        assert (job.tenant, job.lane, job.attempt) == ("acme", 2, 1)
        operation = Operation.FromString(job.request)
        assert operation.name == operation_name("acme", job_id)
        assert operation.done
        # Nothing in it that the type does not know, and nothing that protobuf would write otherwise.
        assert operation.SerializeToString(deterministic=True) == job.request
        [row] = (await self.queue.store.read([("acme", job.job_id)])).values()
        assert row.parent_job_id == job_id
        await self.queue.settle(job)
        return operation


@pytest.fixture
async def followed(queue: Queue) -> Followed:
    return Followed(
        queue,
        await queue.store.publish(ECHO),
        await queue.store.method_ids("acme.v1.NoticeService/Note", Policy(queue="notices")),
    )


def metadata_of(operation: Operation) -> JobMetadata:
    metadata = JobMetadata()
    assert operation.metadata.Unpack(metadata)
    return metadata


@pytest.mark.parametrize("size", [0, 1, 100, 127, 128, 200, 16_300, 16_384, 70_000, 2_200_000])
async def test_a_response_of_any_size_is_read_back(followed: Followed, size: int) -> None:
    job = await followed.claimed()
    answer = EchoResponse(payload=b"x" * size)
    await followed.queue.settle(job, response=answer.SerializeToString())

    operation = await followed.told(job.job_id)

    response = EchoResponse()
    assert operation.response.Unpack(response)
    assert response == answer
    assert operation.response.type_url == "type.googleapis.com/rowcall.probe.v1.EchoResponse"
    metadata = metadata_of(operation)
    assert metadata == JobMetadata(method=ECHO.name, state=JobState.JOB_STATE_SUCCEEDED, attempt=1)


@pytest.mark.parametrize("attempt", [127, 128, 255, 300, 16_384, 2_000_000_000])
async def test_many_attempts_are_read_back(followed: Followed, attempt: int) -> None:
    job = await followed.claimed(attempt)
    await followed.queue.settle(job, response=b"")

    operation = await followed.told(job.job_id)

    assert metadata_of(operation).attempt == attempt
    assert operation.HasField("response")


async def test_a_failure_is_read_back_with_its_details(followed: Followed) -> None:
    status = Status(code=Code.ABORTED, message="Ünmöglich. " * 100)
    status.details.add().Pack(EchoResponse(payload=bytes(5000)))
    job = await followed.claimed()
    await followed.queue.settle(
        job, FAILED, error=status.SerializeToString(), error_code=status.code, error_message=status.message
    )

    operation = await followed.told(job.job_id)

    assert operation.error == status
    assert metadata_of(operation).state == JobState.JOB_STATE_FAILED


async def test_it_is_told_once_and_only_of_ends(followed: Followed) -> None:
    queue = followed.queue
    job = await followed.claimed()
    await queue.settle(job, SCHEDULED, error=b"", error_code=14, error_message="", delay=timedelta(0))
    assert await queue.claim(await queue.worker(), ids=followed.follower) == []
    await queue.work.promote(10)
    [again] = await queue.claim(await queue.worker(), ids=followed.ids)
    await queue.settle(again, response=b"")
    # A settlement under the lease that it lost does not count a second time.
    assert await queue.settle(job, response=b"") == NOT_OURS
    assert (await followed.told(job.job_id)).HasField("response")
    assert len(await queue.store.find("acme", JobFilter(parent_job_id=job.job_id), limit=10)) == 1


async def test_a_cancelled_job_is_told_whether_it_waited_or_ran(followed: Followed) -> None:
    queue = followed.queue
    waiting = followed.call()
    await queue.submit(waiting)
    await queue.store.cancel_many("acme", [waiting.job_id])
    job = await followed.claimed()
    reasons = []
    for job_id in (waiting.job_id, job.job_id):
        if job_id == job.job_id:
            await queue.store.cancel("acme", job_id)
            assert await queue.claim(await queue.worker(), ids=followed.follower) == []
            [released] = await queue.work.release([job])
            assert released.state == CANCELLED
        operation = await followed.told(job_id)
        info = read_envelope(operation.error)
        assert info is not None
        reasons.append((operation.error.code, info.reason, metadata_of(operation).state))
    assert reasons == [(Code.CANCELLED, "JOB_CANCELLED", JobState.JOB_STATE_CANCELLED)] * 2


async def test_a_job_whose_workers_die_is_told_when_it_is_given_up(followed: Followed) -> None:
    queue = followed.queue
    call = followed.call()
    await queue.submit(call)
    [job] = await queue.claim(await queue.worker(), ids=followed.ids)
    for _ in range(10):
        holder = (await queue.facts(call.job_id)).worker_id
        assert holder is not None
        await queue.die(holder)
        await queue.work.bury_workers(timedelta(0))
        await queue.work.rescue(10)
        if await queue.state("acme", call.job_id) == FAILED:
            break
        worker = await queue.worker()
        again = await queue.claim(worker, ids=followed.ids) or await queue.claim_suspects(worker, ids=followed.ids)
        assert [each.job_id for each in again] == [job.job_id]

    operation = await followed.told(call.job_id)

    info = read_envelope(operation.error)
    assert info is not None
    assert (operation.error.code, info.reason) == (Code.ABORTED, "WORKER_LOST")


async def test_a_job_whose_deadline_is_over_is_told(followed: Followed) -> None:
    queue = followed.queue
    call = followed.call(deadline=timedelta(hours=1))
    await queue.submit(call)
    await queue.probe.pass_time(timedelta(hours=1))
    await queue.work.expire_jobs(10)

    operation = await followed.told(call.job_id)

    info = read_envelope(operation.error)
    assert info is not None
    assert info.reason == "JOB_DEADLINE_EXCEEDED"


async def test_a_replayed_job_is_told_again_when_it_ends_again(followed: Followed) -> None:
    queue = followed.queue
    job = await followed.claimed()
    await queue.settle(job, FAILED, error=b"", error_code=10, error_message="")
    assert (await followed.told(job.job_id)).HasField("error")
    # Marking it as handled is no end.
    assert await queue.store.replay("acme", [job.job_id]) == {job.job_id: followed.ids.queue_id}
    [again] = await queue.claim(await queue.worker(), ids=followed.ids)
    await queue.settle(again, FAILED, error=b"", error_code=10, error_message="")
    assert (await followed.told(job.job_id)).HasField("error")
    assert await queue.store.resolve("acme", [job.job_id], by=None, note=None) == [job.job_id]
    assert await queue.claim(await queue.worker(), ids=followed.follower) == []


async def test_a_job_that_nothing_follows_is_followed_by_nothing(followed: Followed) -> None:
    queue = followed.queue
    await queue.submit(queue.call(ids=followed.ids))
    [job] = await queue.claim(await queue.worker(), ids=followed.ids)
    assert (await queue.settle(job, SUCCEEDED, response=b"")).settled
    assert await queue.claim(await queue.worker(), ids=followed.follower) == []
