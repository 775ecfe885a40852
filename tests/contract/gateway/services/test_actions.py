"""JobService: failed jobs replayed and resolved, one or many; many cancelled; and refusals that say what to do."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from typing import Any

import grpc
import psycopg
import pytest
from google.longrunning.operations_pb2 import DeleteOperationRequest, GetOperationRequest
from google.longrunning.operations_pb2_grpc import OperationsStub
from google.rpc.code_pb2 import Code
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from rowcall.errors import handler_status, read_envelope
from rowcall.probe.v1.probe_pb2 import EchoRequest, RunRequest, RunResponse
from rowcall.probe.v1.probe_pb2_grpc import ProbeServiceStub
from rowcall.queue.postgres.hints import CANCEL_CHANNEL, READY_CHANNEL, PostgresListener
from rowcall.v1.job_pb2 import AttemptOutcome, Job, JobState
from rowcall.v1.job_service_pb2 import (
    BatchCancelJobsRequest,
    BatchResolveJobsRequest,
    BatchRetryJobsRequest,
    BatchSubmitRequest,
    CancelJobRequest,
    GetJobRequest,
    JobFilter,
    JobSelection,
    JobSelectionResult,
    JobSpec,
    ResolveJobRequest,
    RetryJobRequest,
)
from rowcall.v1.job_service_pb2_grpc import JobServiceStub
from tests.fix_cluster import Cluster
from tests.fix_gateway import Bench, Gateways, Metadata, info_of, jobs, refused, tenant, violations_of
from tests.fix_worker import Workers
from tests.support.waiting import until

ECHO = "rowcall.probe.v1.ProbeService/Echo"
RUN = "rowcall.probe.v1.ProbeService/Run"
NOBODYS = "tenants/default/operations/01890000-0000-7000-8000-000000000000"
NO = Status(code=Code.ABORTED, message="No.")
Batch = Callable[..., Awaitable[JobSelectionResult]]


class Client:
    """A gateway's JobService."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.jobs = JobServiceStub(channel)
        self.operations = OperationsStub(channel)
        self.probe = ProbeServiceStub(channel)

    async def submit(self, *specs: JobSpec, metadata: Metadata = ()) -> list[str]:
        """Names of jobs, oldest first."""
        answer = await self.jobs.BatchSubmit(BatchSubmitRequest(jobs=specs), timeout=20, metadata=metadata)
        return [each.operation.name for each in answer.results]

    async def get(self, name: str) -> Job:
        return (await self.jobs.GetJob(GetJobRequest(name=name), timeout=20)).job

    async def retry(self, name: str, metadata: Metadata = ()) -> Job:
        return (await self.jobs.RetryJob(RetryJobRequest(name=name), timeout=20, metadata=metadata)).job

    async def resolve(self, name: str, note: str = "", metadata: Metadata = ()) -> Job:
        request = ResolveJobRequest(name=name, note=note)
        return (await self.jobs.ResolveJob(request, timeout=20, metadata=metadata)).job

    async def cancel_all(self, *, metadata: Metadata = (), seconds: float = 60, **selection: Any) -> JobSelectionResult:
        request = BatchCancelJobsRequest(selection=JobSelection(**selection))
        return (await self.jobs.BatchCancelJobs(request, timeout=seconds, metadata=metadata)).result

    async def retry_all(self, *, metadata: Metadata = (), **selection: Any) -> JobSelectionResult:
        request = BatchRetryJobsRequest(selection=JobSelection(**selection))
        return (await self.jobs.BatchRetryJobs(request, timeout=60, metadata=metadata)).result

    async def resolve_all(self, *, note: str = "", metadata: Metadata = (), **selection: Any) -> JobSelectionResult:
        request = BatchResolveJobsRequest(selection=JobSelection(**selection), note=note)
        return (await self.jobs.BatchResolveJobs(request, timeout=60, metadata=metadata)).result

    @property
    def batches(self) -> tuple[Batch, ...]:
        return (self.cancel_all, self.retry_all, self.resolve_all)


@pytest.fixture
async def client(gateways: Gateways) -> Client:
    return Client(await gateways.channel(await gateways.start()))


def spec(method: str = RUN, **fields: Any) -> JobSpec:
    made = JobSpec(method=method, **fields)
    made.request.Pack(RunRequest() if method == RUN else EchoRequest())
    return made


def counts(result: JobSelectionResult) -> tuple[int, int, bool]:
    return result.matched, result.done, result.more


def reasons(result: JobSelectionResult) -> dict[str, str]:
    """Why which names were refused."""
    found = {}
    for each in result.refused:
        info = read_envelope(each.error)
        assert info is not None
        assert info.metadata["origin"] == "GATEWAY"
        assert info.metadata["trace_id"]
        found[each.name] = info.reason
    return found


def states(cluster: Cluster) -> Counter[str]:
    return Counter(state for (state,) in jobs(cluster, "state"))


async def one_in_each_state(client: Client, bench: Bench) -> dict[str, str]:
    """Names of jobs by the state they are in."""
    await client.submit(*[spec() for _ in range(5)])
    held = await bench.claim(5)
    running, succeeded, failed, resolved, retired = held
    await bench.answer(succeeded, RunResponse())
    for each in (failed, resolved, retired):
        await bench.fail(each, NO)
    await client.resolve(resolved.name)
    ready, cancelled = await client.submit(spec(), spec())
    await client.jobs.CancelJob(CancelJobRequest(name=cancelled), timeout=20)
    [scheduled] = await client.submit(spec(run_time={"seconds": 4_000_000_000}))
    await client.operations.DeleteOperation(DeleteOperationRequest(name=retired.name), timeout=20)
    return {
        "RUNNING": running.name,
        "SUCCEEDED": succeeded.name,
        "FAILED": failed.name,
        "RESOLVED": resolved.name,
        "READY": ready,
        "CANCELLED": cancelled,
        "SCHEDULED": scheduled,
        "erased": retired.name,
    }


async def test_a_failed_job_runs_again_under_its_name_with_its_history(client: Client, bench: Bench) -> None:
    [name] = await client.submit(spec(request_id="k", labels={"a": "1"}))
    [held] = await bench.claim()
    await bench.fail(held, NO)
    before = await client.get(name)

    again = await client.retry(name)

    assert (again.name, again.state, again.replays) == (name, JobState.JOB_STATE_READY, 1)
    assert (again.request_id, dict(again.labels), again.create_time) == ("k", {"a": "1"}, before.create_time)
    assert [(each.outcome, each.error.message) for each in again.attempts] == [
        (AttemptOutcome.ATTEMPT_OUTCOME_FAILED, "No.")
    ]
    # The key still names it: the same call joins the job that runs again.
    joined = await client.probe.Run(RunRequest(), timeout=20, metadata=(("idempotency-key", "k"), ("prefer", "wait=0")))
    assert (joined.name, joined.done) == (name, False)
    [held] = await bench.claim()
    assert held.name == name
    await bench.answer(held, RunResponse())
    ended = await client.get(name)
    assert ended.state == JobState.JOB_STATE_SUCCEEDED
    assert [each.outcome for each in ended.attempts] == [
        AttemptOutcome.ATTEMPT_OUTCOME_FAILED,
        AttemptOutcome.ATTEMPT_OUTCOME_SUCCEEDED,
    ]


@pytest.mark.hinted("what is hinted is tested")
async def test_workers_are_told_of_what_is_replayed_and_of_what_to_cancel(
    client: Client, bench: Bench, cluster: Cluster
) -> None:
    failed, running, many = await client.submit(spec(), spec(), spec())
    held = {each.name: each for each in await bench.claim(3)}
    await bench.fail(held[failed], NO)
    heard: list[tuple[str, str]] = []
    connected: list[None] = []
    async with AsyncExitStack() as stack:
        for dsn in cluster.shards.values():
            listener = PostgresListener(
                dsn,
                [READY_CHANNEL, CANCEL_CHANNEL],
                lambda channel, payload: heard.append((channel, payload)),
                connected=lambda: connected.append(None),
            )
            listener.start()
            stack.push_async_callback(listener.close)
        await until(lambda: len(connected) == len(cluster.shards))

        await client.retry(failed)
        await until(lambda: [channel for channel, _ in heard] == [READY_CHANNEL])
        await client.jobs.CancelJob(CancelJobRequest(name=running), timeout=20)
        await until(lambda: heard[1:] == [(CANCEL_CHANNEL, bench.worker_id.hex)])
        await client.cancel_all(names=[many])
        await until(lambda: heard[2:] == [(CANCEL_CHANNEL, bench.worker_id.hex)])
        [held[failed]] = await bench.claim()
        await bench.fail(held[failed], NO)
        await client.retry_all(filter=JobFilter())
        await until(lambda: heard[3:] == heard[:1])


async def test_a_replayed_job_is_worked(client: Client, workers: Workers) -> None:
    await workers.start()
    failing = JobSpec(method=RUN)
    failing.request.Pack(RunRequest(fail_code=Code.NOT_FOUND))
    [name] = await client.submit(failing)

    async def failed(replays: int) -> bool:
        job = await client.get(name)
        return (job.state, job.replays) == (JobState.JOB_STATE_FAILED, replays)

    await until(lambda: failed(0))
    await client.retry(name)
    await until(lambda: failed(1))
    assert [each.outcome for each in (await client.get(name)).attempts] == [
        AttemptOutcome.ATTEMPT_OUTCOME_FAILED,
        AttemptOutcome.ATTEMPT_OUTCOME_FAILED,
    ]


async def test_a_job_that_lost_its_workers_runs_again_and_tells_of_them(
    client: Client, bench: Bench, cluster: Cluster
) -> None:
    [name] = await client.submit(spec())
    await bench.claim()
    for dsn in cluster.shards.values():  # as if it had been lost twice while it ran alone
        with psycopg.connect(dsn) as connection:
            connection.execute("update rowcall.job set held = 6, lost_alone = 2")
    await bench.die()
    lost = await client.get(name)
    assert lost.state == JobState.JOB_STATE_FAILED
    assert lost.attempts[-1].outcome == AttemptOutcome.ATTEMPT_OUTCOME_LOST

    again = await client.retry(name)

    assert (again.state, again.lost_attempts) == (JobState.JOB_STATE_READY, 0)
    assert [each.outcome for each in again.attempts] == [each.outcome for each in lost.attempts]
    assert again.attempts[-1].error.code == Code.ABORTED


async def test_a_failure_is_marked_as_handled(client: Client, bench: Bench) -> None:
    [name] = await client.submit(spec())
    [held] = await bench.claim()
    await bench.fail(held, NO)

    job = await client.resolve(name, "The disk was changed.", (("rowcall-actor", "ada"),))

    assert job.state == JobState.JOB_STATE_RESOLVED
    assert (job.resolution.actor, job.resolution.note) == ("ada", "The disk was changed.")
    assert job.error.message == "No."
    # Its callers' answer stays what it was.
    operation = await client.operations.GetOperation(GetOperationRequest(name=name), timeout=20)
    assert (operation.done, operation.error.message) == (True, "No.")
    assert [each.outcome for each in job.attempts] == [AttemptOutcome.ATTEMPT_OUTCOME_FAILED]


async def test_only_failed_jobs_are_replayed_or_resolved(client: Client, bench: Bench) -> None:
    names = await one_in_each_state(client, bench)
    for call in (client.retry, client.resolve):
        for state in ("RUNNING", "SUCCEEDED", "RESOLVED", "READY", "CANCELLED", "SCHEDULED"):
            error = await refused(call(names[state]))
            info = info_of(error)
            assert (error.code(), info.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "JOB_NOT_FAILED")
            assert (info.metadata["state"], info.metadata["operation"]) == (state, names[state])
            advice = "submit it as a new call" if state in {"SUCCEEDED", "RESOLVED", "CANCELLED"} else "cancel it"
            assert advice in (error.details() or "")
        for gone in (names["erased"], NOBODYS):
            error = await refused(call(gone))
            assert (error.code(), info_of(error).reason) == (grpc.StatusCode.NOT_FOUND, "JOB_NOT_FOUND")
        assert info_of(await refused(call("operations/1"))).reason == "INVALID_NAME"
    note = await refused(client.resolve(names["FAILED"], "\0"))
    assert (info_of(note).reason, list(violations_of(note))) == ("INVALID_REQUEST", ["note"])
    long = await refused(client.resolve(names["FAILED"], "x" * 1001))
    assert list(violations_of(long)) == ["note"]
    assert (await client.retry(names["FAILED"])).state == JobState.JOB_STATE_READY


async def test_names_that_cannot_be_are_refused_each_with_its_reason(client: Client, bench: Bench) -> None:
    names = await one_in_each_state(client, bench)
    [foreign] = await client.submit(spec(), metadata=tenant("bolt"))
    wanted = [*names.values(), foreign, "operations/1", NOBODYS]
    unknown = {names["erased"]: "JOB_NOT_FOUND", foreign: "JOB_NOT_FOUND", NOBODYS: "JOB_NOT_FOUND"}
    live, ended = ("RUNNING", "READY", "SCHEDULED"), ("SUCCEEDED", "RESOLVED", "CANCELLED")

    for dry_run in (True, False):
        # Twice the same name is one job.
        retried = await client.retry_all(names=[*wanted, *wanted], dry_run=dry_run)
        assert counts(retried) == (1, 0 if dry_run else 1, False)
        assert list(retried.sample) == [names["FAILED"]]
        assert reasons(retried) == {
            **{names[state]: "JOB_NOT_FAILED" for state in (*live, *ended)},
            **unknown,
            "operations/1": "INVALID_NAME",
        }
        assert [each.name for each in retried.refused] == [name for name in wanted if name != names["FAILED"]]

    for dry_run in (True, False):
        cancelled = await client.cancel_all(names=wanted, dry_run=dry_run)
        # The failed one is READY by now.
        assert counts(cancelled) == (4, 0 if dry_run else 4, False)
        assert sorted(cancelled.sample) == sorted(names[state] for state in (*live, "FAILED"))
        assert reasons(cancelled) == {
            **{names[state]: "JOB_FINISHED" for state in ended},
            **unknown,
            "operations/1": "INVALID_NAME",
        }
    assert (await client.get(names["RUNNING"])).cancel_requested
    assert (await client.get(names["SCHEDULED"])).state == JobState.JOB_STATE_CANCELLED
    assert (await client.jobs.GetJob(GetJobRequest(name=foreign), metadata=tenant("bolt"))).job.state == 2


async def test_a_selection_says_which_jobs_in_one_way(client: Client, bench: Bench) -> None:
    [name] = await client.submit(spec())
    for call in client.batches:
        for selection in ({}, {"limit": 5}, {"names": [name], "filter": JobFilter()}):
            error = await refused(call(**selection))
            assert (error.code(), info_of(error).reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FILTER")
            assert "say one of them" in (error.details() or "") or "name them" in (error.details() or "")
        assert info_of(await refused(call(filter=JobFilter(), limit=100_001))).reason == "INVALID_REQUEST"
        assert info_of(await refused(call(names=[name] * 1001))).reason == "INVALID_REQUEST"
        assert info_of(await refused(call(filter=JobFilter(method="Echo")))).reason == "INVALID_FILTER"
        foreign = JobFilter(parent="tenants/bolt/operations/01890000-0000-7000-8000-000000000000")
        assert info_of(await refused(call(filter=foreign))).reason == "JOB_NOT_FOUND"
    succeeded = JobFilter(states=[JobState.JOB_STATE_SUCCEEDED])
    for call in client.batches:
        error = await refused(call(filter=succeeded))
        assert (info_of(error).reason, list(violations_of(error))) == ("INVALID_FILTER", ["selection.filter.states"])
    assert list(violations_of(await refused(client.resolve_all(names=[name], note="\0")))) == ["note"]


async def test_many_waiting_jobs_are_cancelled(client: Client, bench: Bench, cluster: Cluster) -> None:
    for start in (0, 1):
        await client.submit(*[spec(labels={"half": str(start)}) for _ in range(750)])
    other = await client.submit(spec(ECHO), metadata=tenant("bolt"))

    dry = await client.cancel_all(filter=JobFilter(), limit=1400, dry_run=True)
    assert counts(dry) == (1400, 0, True)
    assert len(dry.sample) == 100
    assert states(cluster) == {"READY": 1501}
    assert counts(await client.cancel_all(filter=JobFilter(), limit=1500, dry_run=True)) == (1500, 0, False)
    assert counts(await client.cancel_all(filter=JobFilter(), dry_run=True)) == (1000, 0, True)

    half = await client.cancel_all(filter=JobFilter(labels={"half": "0"}), limit=600)
    assert counts(half) == (600, 600, True)
    assert states(cluster) == {"READY": 901, "CANCELLED": 600}
    assert (await client.get(half.sample[0])).labels["half"] == "0"
    rest = await client.cancel_all(filter=JobFilter(), limit=100_000)
    assert counts(rest) == (900, 900, False)
    assert states(cluster) == {"READY": 1, "CANCELLED": 1500}
    assert counts(await client.cancel_all(filter=JobFilter())) == (0, 0, False)
    assert jobs(cluster, "name, state")[-1] == (other[0], "READY") or (other[0], "READY") in jobs(
        cluster, "name, state"
    )


async def test_many_failed_jobs_are_replayed_and_resolved(client: Client, bench: Bench, cluster: Cluster) -> None:
    for _ in range(2):
        await client.submit(*[spec() for _ in range(750)])
    held = await bench.claim(1500)
    await bench.fail_all(held[:1200], NO)
    await bench.fail_all(held[1200:], Status(code=Code.NOT_FOUND, message="No such disk."))
    print_of_no = (await client.get(held[0].name)).error_fingerprint

    assert counts(await client.retry_all(filter=JobFilter(), dry_run=True)) == (1000, 0, True)
    assert states(cluster) == {"FAILED": 1500}
    alike = JobFilter(error_fingerprint=print_of_no)
    assert counts(await client.retry_all(filter=alike)) == (1000, 1000, True)
    assert counts(await client.retry_all(filter=alike)) == (200, 200, False)
    assert states(cluster) == {"FAILED": 300, "READY": 1200}
    assert len(await bench.claim(1200)) == 1200

    dry = await client.resolve_all(filter=JobFilter(), limit=299, dry_run=True, note="seen")
    assert counts(dry) == (299, 0, True)
    done = await client.resolve_all(filter=JobFilter(), note="seen", metadata=(("rowcall-actor", "ada"),))
    assert counts(done) == (300, 300, False)
    assert set(jobs(cluster, "state, resolved_by, resolve_note")) == {
        ("RUNNING", None, None),
        ("RESOLVED", "ada", "seen"),
    }


async def test_as_many_names_as_the_limit_allows_are_done(client: Client, cluster: Cluster) -> None:
    names = await client.submit(*[spec() for _ in range(600)])

    part = await client.cancel_all(names=names, limit=299)

    assert counts(part) == (299, 299, True)
    assert list(part.sample) == names[:100]
    assert list(part.refused) == []
    assert states(cluster) == {"READY": 301, "CANCELLED": 299}
    rest = await client.cancel_all(names=names)
    assert counts(rest) == (301, 301, False)
    assert len(rest.refused) == 100


async def test_what_is_not_done_in_time_is_left_and_said(
    client: Client, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "rowcall_gateway.services.selections.BATCH", 1
    )  # 2,000 statements: more than half a second's work
    for _ in range(2):
        await client.submit(*[spec() for _ in range(1000)])
    results: list[JobSelectionResult] = []

    async def all_done() -> bool:
        # A machine may be too busy to answer within the margin; what is done is done.
        with suppress(grpc.aio.AioRpcError):
            results.append(await client.cancel_all(filter=JobFilter(), limit=100_000, seconds=0.5))
        return bool(results) and not results[-1].more

    await until(all_done, seconds=60)
    assert states(cluster) == {"CANCELLED": 2000}
    assert any(result.more and result.done for result in results)
    assert sum(result.done for result in results) <= 2000


async def test_waiting_calls_hear_of_a_bulk_cancel(client: Client, gateways: Gateways) -> None:
    other = Client(await gateways.channel(await gateways.start()))
    waiting = [asyncio.ensure_future(refused(each.probe.Echo(EchoRequest(), timeout=30))) for each in (client, other)]

    async def both() -> bool:
        return (await client.cancel_all(filter=JobFilter(method=ECHO), dry_run=True)).matched == 2

    await until(both)
    assert counts(await client.cancel_all(filter=JobFilter(method=ECHO))) == (2, 2, False)
    for error in await asyncio.gather(*waiting):
        assert (error.code(), info_of(error).reason) == (grpc.StatusCode.CANCELLED, "JOB_CANCELLED")


async def test_no_tenant_touches_anothers_jobs(gateways: Gateways, bench: Bench, cluster: Cluster) -> None:
    # All of them on one shard: nothing but the tenant's name is between them.
    shards = {"a": cluster.gateway.shards["a"]}
    client = Client(await gateways.channel(await gateways.start(shards=shards)))
    bolt = tenant("bolt")
    failed, waiting = await client.submit(spec(), spec())
    [own] = await client.submit(spec(), metadata=bolt)  # bolt is on a shard too
    held = {each.name: each for each in await bench.claim(3)}
    await bench.fail(held[failed], NO)
    before = sorted(jobs(cluster, "name, state, replays, resolved_at, cancel_requested_at"))

    for call in (client.retry(failed, bolt), client.resolve(failed, "", bolt)):
        error = await refused(call)
        assert (error.code(), info_of(error).reason) == (grpc.StatusCode.NOT_FOUND, "JOB_NOT_FOUND")
    cancel = client.jobs.CancelJob(CancelJobRequest(name=waiting), timeout=20, metadata=bolt)
    assert info_of(await refused(cancel)).reason == "JOB_NOT_FOUND"
    for batch in client.batches:
        for dry_run in (True, False):
            named = await batch(names=[failed, waiting], metadata=bolt, dry_run=dry_run)
            assert counts(named) == (0, 0, False)
            assert reasons(named) == {failed: "JOB_NOT_FOUND", waiting: "JOB_NOT_FOUND"}
            # For a tenant that is on no shard yet, too.
            named = await batch(names=[failed], metadata=tenant("nobody"), dry_run=dry_run)
            assert reasons(named) == {failed: "JOB_NOT_FOUND"}
            assert counts(await batch(filter=JobFilter(), metadata=tenant("nobody"), dry_run=dry_run)) == (0, 0, False)
    assert counts(await client.retry_all(filter=JobFilter(), metadata=bolt)) == (0, 0, False)
    assert sorted(jobs(cluster, "name, state, replays, resolved_at, cancel_requested_at")) == before
    only = await client.cancel_all(filter=JobFilter(), metadata=bolt)
    assert (only.matched, list(only.sample)) == (1, [own])


async def test_a_handlers_own_reason_is_not_taken_for_a_loss(client: Client, bench: Bench) -> None:
    [name] = await client.submit(spec())
    [held] = await bench.claim()
    own = Status(code=Code.ABORTED, message="The harvest failed.")
    own.details.add().Pack(ErrorInfo(reason="WORKER_LOST", domain="farm.example"))
    await bench.fail(held, handler_status(own, operation=name, attempt=1, trace_id=""))
    assert [each.outcome for each in (await client.get(name)).attempts] == [AttemptOutcome.ATTEMPT_OUTCOME_FAILED]
