"""rowcall-on-done: a follow-up job gets the finished operation, however the job ended, once for each end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.longrunning.operations_pb2 import Operation
from google.protobuf.message import Message
from google.rpc.code_pb2 import Code
from google.rpc.status_pb2 import Status

from rowcall.catalogue.images import Catalogue, load_catalogue
from rowcall.errors import read_envelope
from rowcall.probe.v1 import probe_pb2_grpc
from rowcall.probe.v1.probe_pb2 import EchoRequest, EchoResponse, RunRequest, RunResponse
from rowcall.v1 import job_service_pb2_grpc
from rowcall.v1.job_pb2 import Job, JobMetadata, JobState
from rowcall.v1.job_service_pb2 import (
    BatchSubmitRequest,
    CancelJobRequest,
    GetJobRequest,
    JobFilter,
    JobSpec,
    ListJobsRequest,
    RetryJobRequest,
    SubmitRequest,
)
from rowcall_gateway.shards.upkeep import Upkeep
from rowcall_worker import Worker
from tests.fix_cluster import Cluster
from tests.fix_gateway import Bench, Gateways, HeldJob, info_of, jobs, keyed, refused, violations_of
from tests.fix_images import ImageBuilder
from tests.fix_worker import Workers
from tests.support.waiting import until

RUN = "rowcall.probe.v1.ProbeService/Run"
ECHO = "rowcall.probe.v1.ProbeService/Echo"
NOTE = "acme.v1.NoticeService/Note"
NO = Status(code=Code.ABORTED, message="No.")
PROTO = """
syntax = "proto3";
package acme.v1;
import "google/longrunning/operations.proto";
import "rowcall/options/v1/job.proto";

service NoticeService {
  rpc Note(google.longrunning.Operation) returns (NoteResponse) {
    option (rowcall.options.v1.job) = { queue: "notices" priority: PRIORITY_HIGH deadline: {seconds: 3600} };
  }
}
message NoteResponse {}
"""


@dataclass(frozen=True, slots=True)
class Client:
    """A gateway that serves the notices too."""

    jobs: job_service_pb2_grpc.JobServiceAsyncStub
    probe: probe_pb2_grpc.ProbeServiceAsyncStub
    image: Path
    catalogue: Catalogue
    bench: Bench

    async def submit(self, request: Message | None = None, on_done: str = NOTE, **fields: Any) -> str:
        """A job of Run that is followed."""
        spec = JobSpec(method=RUN, on_done=on_done, **fields)
        spec.request.Pack(RunRequest() if request is None else request)
        return (await self.jobs.Submit(SubmitRequest(job=spec), timeout=20)).operation.name

    async def get(self, name: str) -> Job:
        return (await self.jobs.GetJob(GetJobRequest(name=name), timeout=20)).job

    async def followers(self, name: str) -> Sequence[Job]:
        """The jobs that follow this one, oldest first."""
        request = ListJobsRequest(filter=JobFilter(parent=name))
        return (await self.jobs.ListJobs(request, timeout=20)).jobs[::-1]

    async def noted(self) -> tuple[HeldJob, Operation, JobMetadata]:
        """The follow-up job that is ready, and the operation that it got."""
        [held] = await self.bench.claim()
        operation, metadata = Operation.FromString(held.job.request), JobMetadata()
        assert operation.done
        assert operation.metadata.Unpack(metadata)
        return held, operation, metadata


@pytest.fixture
def unpublished(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gateways do not tell their shards of their methods before they are called."""
    monkeypatch.setattr(Upkeep, "start", lambda _: None)


@pytest.fixture
async def client(build_image: ImageBuilder, gateways: Gateways, bench: Bench) -> Client:
    image = build_image({"acme/v1/notice.proto": PROTO})
    catalogue = load_catalogue([image])
    bench.serve(catalogue)
    channel = await gateways.channel(await gateways.start(images=(image,)))
    return Client(
        job_service_pb2_grpc.JobServiceStub(channel), probe_pb2_grpc.ProbeServiceStub(channel), image, catalogue, bench
    )


async def test_a_success_is_told_with_its_response(client: Client, bench: Bench) -> None:
    name = await client.submit(labels={"order": "7"})
    [held] = await bench.claim()
    assert await client.followers(name) == []
    await bench.answer(held, RunResponse(payload=b"x" * 100_000, worker="w"))

    follower, operation, metadata = await client.noted()

    response = RunResponse()
    assert operation.name == name
    assert operation.response.Unpack(response)
    assert response == RunResponse(payload=b"x" * 100_000, worker="w")
    assert (metadata.method, metadata.state, metadata.attempt) == (RUN, JobState.JOB_STATE_SUCCEEDED, 1)
    [job] = await client.followers(name)
    assert (job.name, job.method, job.queue, job.parent) == (follower.name, NOTE, "notices", name)
    assert job.priority == 2
    assert dict(job.labels) == {"order": "7"}
    assert job.trace_id == (await client.get(name)).trace_id
    assert job.HasField("deadline")
    # It is followed by nothing itself.
    await bench.answer(follower, client.catalogue.methods[NOTE].response_class())
    assert await client.followers(follower.name) == []
    assert len(await client.followers(name)) == 1


async def test_the_shard_knows_the_answers_type_however_early_the_call_comes(
    unpublished: None, client: Client, bench: Bench
) -> None:
    await client.submit()
    [held] = await bench.claim()
    await bench.answer(held, RunResponse(payload=b"x"))

    _, operation, _ = await client.noted()

    assert operation.response.Unpack(RunResponse())


async def test_a_typed_calls_metadata_asks_for_it_too(client: Client, bench: Bench) -> None:
    error = await refused(
        client.probe.Echo(
            EchoRequest(payload=b"x"), timeout=20, metadata=(("prefer", "wait=0"), ("rowcall-on-done", "/" + NOTE))
        )
    )
    name = info_of(error).metadata["operation"]
    [held] = await bench.claim()
    await bench.answer(held, EchoResponse())

    _, operation, _ = await client.noted()

    response = EchoResponse(payload=b"not yet")
    assert operation.name == name
    # An empty answer is an answer.
    assert operation.response.Unpack(response)
    assert response == EchoResponse()


async def test_a_failure_is_told_once_for_each_time_it_fails(client: Client, bench: Bench) -> None:
    name = await client.submit()
    for number in (1, 2):
        [held] = await bench.claim()
        assert held.name == name
        await bench.fail(held, NO)
        _, operation, metadata = await client.noted()
        assert (operation.name, operation.error) == (name, NO)
        assert metadata.state == JobState.JOB_STATE_FAILED
        assert len(await client.followers(name)) == number
        if number == 1:
            await client.jobs.RetryJob(RetryJobRequest(name=name), timeout=20)


async def test_a_cancel_is_told(client: Client) -> None:
    name = await client.submit()
    await client.jobs.CancelJob(CancelJobRequest(name=name), timeout=20)

    _, operation, metadata = await client.noted()

    assert operation.error.code == Code.CANCELLED
    info = read_envelope(operation.error)
    assert info is not None
    assert info.reason == "JOB_CANCELLED"
    assert metadata.state == JobState.JOB_STATE_CANCELLED
    # Cancelling it again ends nothing again.
    await client.jobs.CancelJob(CancelJobRequest(name=name), timeout=20)
    assert len(await client.followers(name)) == 1


async def test_a_worker_runs_the_follow_up(client: Client, workers: Workers) -> None:
    seen: list[Operation] = []

    async def note(operation: Operation, _context: object) -> Message:
        seen.append(operation)
        return client.catalogue.methods[NOTE].response_class()

    def register(worker: Worker) -> None:
        handler: Any = grpc.unary_unary_rpc_method_handler(
            note,
            Operation.FromString,
            lambda message: message.SerializeToString(),
        )
        worker.add_registered_method_handlers("acme.v1.NoticeService", {"Note": handler})

    await workers.start(register, images=(client.image,))
    succeeding = await client.submit(RunRequest(payload=b"x"))
    failing = await client.submit(RunRequest(fail_code=Code.NOT_FOUND))

    await until(lambda: len(seen) == 2)

    by_name = {each.name: each for each in seen}
    response = RunResponse()
    assert by_name[succeeding].response.Unpack(response)
    assert response.payload == b"x"
    assert by_name[failing].error.code == Code.NOT_FOUND

    async def settled() -> bool:
        jobs = [job for name in by_name for job in await client.followers(name)]
        return [job.state for job in jobs] == [JobState.JOB_STATE_SUCCEEDED] * 2

    await until(settled)


async def test_the_specs_follow_up_counts_before_the_metadatas(client: Client, cluster: Cluster) -> None:
    spec = JobSpec(method=RUN)
    spec.request.Pack(RunRequest())
    answer = await client.jobs.BatchSubmit(
        BatchSubmitRequest(jobs=[spec, spec]), timeout=20, metadata=(("rowcall-on-done", NOTE),)
    )
    for each in answer.results:
        await client.jobs.CancelJob(CancelJobRequest(name=each.operation.name), timeout=20)
        assert len(await client.followers(each.operation.name)) == 1
    wrong = JobSpec(method=RUN, on_done=ECHO)
    wrong.request.Pack(RunRequest())
    error = await refused(
        client.jobs.Submit(SubmitRequest(job=wrong), timeout=20, metadata=(("rowcall-on-done", NOTE),))
    )
    assert list(violations_of(error)) == ["job.on_done"]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("no.Such/Method", "no job type that this gateway serves"),
        ("google.longrunning.Operations/GetOperation", "no job type that this gateway serves"),
        ("nonsense", "no job type that this gateway serves"),
        (ECHO, "takes a rowcall.probe.v1.EchoRequest"),
    ],
)
async def test_what_cannot_follow_is_refused(client: Client, cluster: Cluster, name: str, told: str) -> None:
    typed = await refused(client.probe.Echo(EchoRequest(), timeout=20, metadata=keyed("k", ("rowcall-on-done", name))))
    assert (typed.code(), info_of(typed).reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_METADATA")
    assert info_of(typed).metadata["key"] == "rowcall-on-done"
    assert told in (typed.details() or "")

    one = await refused(client.submit(on_done=name))
    assert (info_of(one).reason, list(violations_of(one))) == ("INVALID_REQUEST", ["job.on_done"])
    assert told in (one.details() or "")
    spec = JobSpec(method=RUN)
    spec.request.Pack(RunRequest())
    other = JobSpec(method=RUN, request=spec.request, on_done=name)
    many = await refused(client.jobs.BatchSubmit(BatchSubmitRequest(jobs=[spec, other]), timeout=20))
    assert list(violations_of(many)) == ["jobs[1].on_done"]
    assert jobs(cluster, "name") == []
