"""JobService.ListJobs and ListFailureGroups: what operators look at, page by page, and nobody else's."""

from __future__ import annotations

from collections.abc import Awaitable
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import psycopg
import pytest
from google.longrunning.operations_pb2 import GetOperationRequest
from google.longrunning.operations_pb2_grpc import OperationsStub
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc.code_pb2 import Code
from google.rpc.status_pb2 import Status

from rowcall.probe.v1.probe_pb2 import EchoRequest, EchoResponse, RunRequest, RunResponse
from rowcall.queue.model import Progress, Running
from rowcall.v1.job_pb2 import Hold, Job, JobMetadata, JobState, WaitReason
from rowcall.v1.job_service_pb2 import (
    BatchSubmitRequest,
    GetJobRequest,
    JobFilter,
    JobSpec,
    JobView,
    ListFailureGroupsRequest,
    ListFailureGroupsResponse,
    ListJobsRequest,
    ListJobsResponse,
    ResolveJobRequest,
    RetryJobRequest,
)
from rowcall.v1.job_service_pb2_grpc import JobServiceStub
from tests.fix_cluster import Cluster
from tests.fix_gateway import Bench, Gateways, Metadata, info_of, refused, tenant

ECHO = "rowcall.probe.v1.ProbeService/Echo"
RUN = "rowcall.probe.v1.ProbeService/Run"
UNKNOWN = "tenants/{}/operations/01890000-0000-7000-8000-000000000000"


class Client:
    """A gateway's JobService, for one tenant at a time."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.jobs = JobServiceStub(channel)
        self.operations = OperationsStub(channel)

    async def submit(self, *specs: JobSpec, metadata: Metadata = ()) -> list[str]:
        """Names of jobs, oldest first."""
        answer = await self.jobs.BatchSubmit(BatchSubmitRequest(jobs=specs), timeout=20, metadata=metadata)
        return [each.operation.name for each in answer.results]

    async def page(self, *, metadata: Metadata = (), **request: Any) -> ListJobsResponse:
        return await self.jobs.ListJobs(ListJobsRequest(**request), timeout=20, metadata=metadata)

    async def names(self, *, metadata: Metadata = (), **wanted: Any) -> list[str]:
        """Names of the jobs that match, newest first."""
        answer = await self.page(filter=JobFilter(**wanted), metadata=metadata)
        return [each.name for each in answer.jobs]

    async def groups(self, *, metadata: Metadata = (), **request: Any) -> ListFailureGroupsResponse:
        return await self.jobs.ListFailureGroups(ListFailureGroupsRequest(**request), timeout=20, metadata=metadata)

    async def get(self, name: str) -> Job:
        return (await self.jobs.GetJob(GetJobRequest(name=name), timeout=20)).job


@pytest.fixture
async def client(gateways: Gateways) -> Client:
    return Client(await gateways.channel(await gateways.start()))


def spec(method: str = RUN, payload: bytes = b"", **fields: Any) -> JobSpec:
    made = JobSpec(method=method, **fields)
    made.request.Pack(RunRequest(payload=payload) if method == RUN else EchoRequest(payload=payload))
    return made


def at(time: datetime) -> Timestamp:
    made = Timestamp()
    made.FromDatetime(time)
    return made


async def all_pages(client: Client, **request: Any) -> list[ListJobsResponse]:
    """Every page of a list."""
    pages = [await client.page(**request)]
    while pages[-1].next_page_token:
        pages.append(await client.page(**request, page_token=pages[-1].next_page_token))
    return pages


async def test_a_list_is_paged_newest_first(client: Client, bench: Bench) -> None:
    names = await client.submit(*[spec(payload=bytes([number])) for number in range(7)])
    held = {each.name: each for each in await bench.claim(7)}
    await bench.answer(held[names[2]], RunResponse())
    await bench.fail(held[names[4]], Status(code=Code.ABORTED, message="No."))

    pages = await all_pages(client, page_size=3)

    assert [len(page.jobs) for page in pages] == [3, 3, 1]
    assert [job.name for page in pages for job in page.jobs] == names[::-1]
    states = {job.name: job.state for page in pages for job in page.jobs}
    assert states[names[2]] == JobState.JOB_STATE_SUCCEEDED
    assert states[names[4]] == JobState.JOB_STATE_FAILED
    assert states[names[0]] == JobState.JOB_STATE_RUNNING
    assert not any(job.HasField("request") or job.HasField("response") for page in pages for job in page.jobs)
    # A page that is just full is the last one.
    assert (await client.page(page_size=7)).next_page_token == ""


async def test_the_full_view_has_the_payloads(client: Client, bench: Bench) -> None:
    [name] = await client.submit(spec(ECHO, b"question"))
    [held] = await bench.claim()
    await bench.answer(held, EchoResponse(payload=b"answer"))

    [job] = (await client.page(view=JobView.JOB_VIEW_FULL)).jobs

    request, response = EchoRequest(), EchoResponse()
    assert job.name == name
    assert job.request.Unpack(request)
    assert job.response.Unpack(response)
    assert (request.payload, response.payload) == (b"question", b"answer")


async def test_full_pages_fit_a_clients_default_limit(client: Client, bench: Bench) -> None:
    size = 700_000
    for _ in range(9):  # 9 * 1.4 MB with their answers
        await client.submit(spec(ECHO, bytes(size)))
    for held in await bench.claim(9):
        await bench.answer(held, EchoResponse(payload=bytes(size)))
    await client.submit(*[spec(ECHO, b"small") for _ in range(30)])

    # The channel has gRPC's own limit of 4 MiB: a larger page would not arrive.
    pages = await all_pages(client, view=JobView.JOB_VIEW_FULL, page_size=1000)

    assert len([job for page in pages for job in page.jobs]) == 39
    assert len({job.name for page in pages for job in page.jobs}) == 39
    # 30 small ones and two large ones, then two by two.
    assert [len(page.jobs) for page in pages] == [32, 2, 2, 2, 1]
    assert all(page.ByteSize() < 4 * 1024 * 1024 for page in pages)
    assert [len(page.jobs) for page in await all_pages(client, page_size=1000)] == [39]


async def test_every_part_of_the_filter_narrows(client: Client, bench: Bench) -> None:
    ada = (("rowcall-actor", "ada"),)
    [red, blue] = await client.submit(
        spec(labels={"colour": "red", "size": "1"}, request_id="k"), spec(labels={"colour": "blue"}), metadata=ada
    )
    [echo] = await client.submit(spec(ECHO))
    held = {each.name: each for each in await bench.claim(3)}
    await bench.fail(held[red], Status(code=Code.ABORTED, message="Disk 7 is full."))
    await bench.answer(held[echo], EchoResponse())
    [failed] = (await client.page(filter=JobFilter(states=[JobState.JOB_STATE_FAILED]))).jobs
    finished_at = failed.finish_time.ToDatetime(tzinfo=UTC)
    hour = timedelta(hours=1)

    assert await client.names() == [echo, blue, red]
    assert await client.names(states=[JobState.JOB_STATE_RUNNING]) == [blue]
    assert await client.names(states=[JobState.JOB_STATE_SUCCEEDED, JobState.JOB_STATE_FAILED]) == [echo, red]
    assert await client.names(method=ECHO) == await client.names(method="/" + ECHO) == [echo]
    assert await client.names(method="acme.v1.Nobody/Knows") == []
    assert await client.names(queue="probe") == [echo, blue, red]
    assert await client.names(queue="other") == []
    assert await client.names(labels={"colour": "red"}) == [red]
    assert await client.names(labels={"colour": "red", "size": "2"}) == []
    assert await client.names(actor="ada") == [blue, red]
    assert await client.names(request_id="k") == [red]
    assert failed.error_fingerprint
    assert await client.names(error_fingerprint=failed.error_fingerprint) == [red]
    assert await client.names(error_fingerprint="0") == []
    assert await client.names(created_from=at(finished_at - hour), created_to=at(finished_at + hour)) == [
        echo,
        blue,
        red,
    ]
    assert await client.names(created_to=at(finished_at - hour)) == []
    assert await client.names(created_from=at(finished_at + hour)) == []
    assert await client.names(finished_from=at(finished_at - hour), finished_to=at(finished_at + hour)) == [echo, red]
    assert await client.names(finished_from=at(finished_at), finished_to=at(finished_at + hour)) == [echo, red]
    assert await client.names(finished_to=at(finished_at)) == []
    assert await client.names(parent=red) == []
    assert await client.names(method=RUN, actor="ada", labels={"colour": "blue"}) == [blue]


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        ({"method": "Echo"}, "INVALID_FILTER"),
        ({"method": "a.B/C\0"}, "INVALID_FILTER"),
        ({"queue": "\0"}, "INVALID_FILTER"),
        ({"actor": "\0"}, "INVALID_FILTER"),
        ({"request_id": "\0"}, "INVALID_FILTER"),
        ({"error_fingerprint": "\0"}, "INVALID_FILTER"),
        ({"labels": {"\0": ""}}, "INVALID_FILTER"),
        ({"labels": {"a": "\0"}}, "INVALID_FILTER"),
        ({"created_from": Timestamp(seconds=10**13)}, "INVALID_FILTER"),
        ({"finished_to": Timestamp(seconds=-1)}, "INVALID_FILTER"),
        ({"created_from": Timestamp(seconds=9), "created_to": Timestamp(seconds=9)}, "INVALID_FILTER"),
        ({"finished_from": Timestamp(seconds=9), "finished_to": Timestamp(seconds=8)}, "INVALID_FILTER"),
        ({"parent": "operations/1"}, "INVALID_NAME"),
        ({"parent": UNKNOWN.format("bolt")}, "JOB_NOT_FOUND"),
        ({"states": [0]}, "INVALID_REQUEST"),
        ({"states": [8]}, "INVALID_REQUEST"),
    ],
)
async def test_a_filter_that_cannot_be_meant_is_refused(client: Client, wanted: dict[str, Any], reason: str) -> None:
    await client.submit(spec())
    assert info_of(await refused(client.names(**wanted))).reason == reason


async def test_a_token_is_good_for_its_own_list_only(gateways: Gateways, cluster: Cluster) -> None:
    # Each shard has a key of its own for tokens: here both tenants are on one.
    shards = {"a": cluster.gateway.shards["a"]}
    client = Client(await gateways.channel(await gateways.start(shards=shards)))
    for name in ("default", "bolt"):
        await client.submit(*[spec() for _ in range(3)], metadata=tenant(name))
    token = (await client.page(page_size=1)).next_page_token

    async def reason(call: Awaitable[object]) -> str:
        return info_of(await refused(call)).reason

    assert len((await client.page(page_token=token, page_size=5)).jobs) == 2  # its size may change
    assert await reason(client.page(page_token=token, filter=JobFilter(queue="probe"))) == "INVALID_PAGE_TOKEN"
    assert await reason(client.page(page_token=token, view=JobView.JOB_VIEW_FULL)) == "INVALID_PAGE_TOKEN"
    assert await reason(client.page(page_token=token, metadata=tenant("bolt"))) == "INVALID_PAGE_TOKEN"
    for bad in ("x", token[:-1], token + "A", "AAAA" + token[4:]):
        assert await reason(client.page(page_token=bad)) == "INVALID_PAGE_TOKEN"
    assert await reason(client.page(page_size=-1)) == "INVALID_REQUEST"


async def test_dead_letters_are_grouped_by_what_they_died_of(client: Client, bench: Bench) -> None:
    names = await client.submit(*[spec() for _ in range(4)], spec(ECHO))
    held = {each.name: each for each in await bench.claim(5)}
    for number, name in enumerate(names[:3]):
        await bench.fail(held[name], Status(code=Code.ABORTED, message=f"Disk {number} is full."))
    await bench.fail(held[names[3]], Status(code=Code.NOT_FOUND, message="No such disk."))
    await bench.fail(held[names[4]], Status(code=Code.ABORTED, message="Disk 9 is full."))
    last = await client.get(names[2])

    groups = (await client.groups()).groups

    assert (groups[0].method, groups[0].job_count) == (RUN, 3)
    assert sorted((group.method, group.job_count) for group in groups) == [(ECHO, 1), (RUN, 1), (RUN, 3)]
    assert groups[0].error_fingerprint == last.error_fingerprint
    assert groups[0].error == Status(code=Code.ABORTED, message="Disk 2 is full.")
    assert groups[0].sample == names[2]
    assert groups[0].last_fail_time == last.finish_time
    assert groups[0].first_fail_time.ToDatetime() < groups[0].last_fail_time.ToDatetime()
    assert sorted(await client.names(error_fingerprint=last.error_fingerprint, method=RUN)) == sorted(names[:3])
    assert [group.job_count for group in (await client.groups(page_size=1)).groups] == [3]
    assert [group.method for group in (await client.groups(method="/" + ECHO)).groups] == [ECHO]
    assert list((await client.groups(method="acme.v1.Nobody/Knows")).groups) == []
    soon = at(datetime.now(UTC) + timedelta(hours=1))
    assert list((await client.groups(finished_from=soon)).groups) == []
    assert info_of(await refused(client.groups(method="Echo"))).reason == "INVALID_FILTER"
    assert info_of(await refused(client.groups(finished_from=Timestamp(seconds=-1)))).reason == "INVALID_FILTER"
    assert info_of(await refused(client.groups(page_size=1001))).reason == "INVALID_REQUEST"


async def test_no_tenant_sees_anothers_lists(gateways: Gateways, bench: Bench, cluster: Cluster) -> None:
    # All of them on one shard: nothing but the tenant's name is between them.
    shards = {"a": cluster.gateway.shards["a"]}
    client = Client(await gateways.channel(await gateways.start(shards=shards)))
    [name] = await client.submit(spec(), metadata=tenant("acme"))
    [other] = await client.submit(spec(), metadata=tenant("bolt"))
    for held in await bench.claim(2):
        await bench.fail(held, Status(code=Code.ABORTED, message="No."))

    assert await client.names(metadata=tenant("acme")) == [name]
    assert await client.names(metadata=tenant("bolt")) == [other]
    assert await client.names(metadata=tenant("nobody")) == []
    [group] = (await client.groups(metadata=tenant("acme"))).groups
    assert (group.sample, group.job_count) == (name, 1)
    assert list((await client.groups(metadata=tenant("nobody"))).groups) == []
    own = await client.page(parent="tenants/bolt", metadata=tenant("bolt"))
    assert [job.name for job in own.jobs] == [other]
    for foreign in ("tenants/acme", "tenants/nobody"):
        for call in (client.page, client.groups):
            error = await refused(call(parent=foreign, metadata=tenant("bolt")))
            assert error.code() is grpc.StatusCode.NOT_FOUND
            assert info_of(error).reason == "NOT_KNOWN"
    for wrong in ("acme", "tenants/", "tenants/acme/operations", "tenants/A_B"):
        assert info_of(await refused(client.page(parent=wrong))).reason == "INVALID_NAME"


async def test_a_job_tells_all_that_is_known_of_it(client: Client, bench: Bench, cluster: Cluster) -> None:
    [name] = await client.submit(spec())
    [held] = await bench.claim()

    async def metadata() -> JobMetadata:
        operation = await client.operations.GetOperation(GetOperationRequest(name=name), timeout=20)
        found = JobMetadata()
        assert operation.metadata.Unpack(found)
        return found

    assert not (await metadata()).HasField("progress")
    running = Running(held.job.tenant, held.job.job_id, held.job.lease)
    await bench.report(held.shard, Progress(running, 0.25, "page 1 of 4"))
    for told in ((await client.get(name)).progress, (await metadata()).progress):
        assert (told.fraction, told.message) == (0.25, "page 1 of 4")
        assert told.HasField("update_time")
    await bench.report(held.shard, Progress(running, None, "thinking"))
    told = (await client.get(name)).progress
    assert (told.HasField("fraction"), told.message) == (False, "thinking")

    await bench.fail(held, Status(code=Code.ABORTED, message="No."))
    assert not (await metadata()).HasField("progress")
    assert len((await client.get(name)).error_fingerprint) == 16
    await client.jobs.RetryJob(RetryJobRequest(name=name), timeout=20)
    replayed = await client.get(name)
    assert (replayed.replays, replayed.state, list(replayed.holds)) == (
        1,
        JobState.JOB_STATE_READY,
        [],
    )
    assert replayed.error_fingerprint == ""
    [held] = await bench.claim()
    await bench.fail(held, Status(code=Code.ABORTED, message="Again."))
    await client.jobs.ResolveJob(
        ResolveJobRequest(name=name, note="by hand"), timeout=20, metadata=(("rowcall-actor", "ada"),)
    )
    resolved = await client.get(name)
    assert resolved.state == JobState.JOB_STATE_RESOLVED
    assert (resolved.resolution.actor, resolved.resolution.note) == ("ada", "by hand")
    assert resolved.resolution.HasField("resolve_time")


async def test_where_a_handler_raised_is_told_of_the_job_and_of_nothing_that_callers_get(
    client: Client, bench: Bench
) -> None:
    location = "acme.printing.servicer:Printer.print:42"
    [name] = await client.submit(spec())
    [held] = await bench.claim()
    await bench.fail(held, Status(code=Code.ABORTED, message="No."), location=location)
    job = await client.get(name)
    [attempt] = job.attempts
    assert (attempt.location, attempt.lease) == (location, held.job.lease)
    assert location not in str(job.error)
    assert location not in str(attempt.error)
    operation = await client.operations.GetOperation(GetOperationRequest(name=name), timeout=20)
    assert operation.error.message == "No."
    assert location.encode() not in operation.SerializeToString()
    # What it was replayed from is an attempt among others.
    await client.jobs.RetryJob(RetryJobRequest(name=name), timeout=20)
    [before] = (await client.get(name)).attempts
    assert (before.location, before.lease) == (location, held.job.lease)


async def test_a_suspect_is_told_as_held(client: Client, bench: Bench, cluster: Cluster) -> None:
    [name] = await client.submit(spec())
    told = []
    for _ in range(2):
        await bench.claim()
        await bench.die()
        job = await client.get(name)
        told.append((job.state, list(job.holds), job.lost_attempts))
    assert told == [
        (JobState.JOB_STATE_READY, [], 1),
        (JobState.JOB_STATE_READY, [Hold.HOLD_SUSPECT], 2),
    ]
    # Whether it is to run in a group or alone is between workers.
    for dsn in cluster.shards.values():
        with psycopg.connect(dsn) as connection:
            connection.execute("update rowcall.job set held = 6")
    assert (await client.get(name)).holds == [Hold.HOLD_SUSPECT]
    # All reasons are told, whatever else there are.
    for dsn in cluster.shards.values():
        with psycopg.connect(dsn) as connection:
            connection.execute("update rowcall.job set held = 15")
    held = await client.get(name)
    assert held.holds == [Hold.HOLD_PAUSED, Hold.HOLD_SUSPECT, Hold.HOLD_LIMITED]
    assert [wait.reason for wait in held.waits if wait.reason > WaitReason.WAIT_REASON_QUEUE_NOT_SERVED] == [
        WaitReason.WAIT_REASON_SUSPECT,
        WaitReason.WAIT_REASON_LIMIT,
    ]
