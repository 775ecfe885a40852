"""JobService: jobs submitted generically, one or many, looked at and cancelled; what the metadata leaves in the row."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from google.rpc.code_pb2 import Code
from google.rpc.status_pb2 import Status

from rowcall.options.v1.job_pb2 import Priority
from rowcall.probe.v1.probe_pb2 import EchoRequest, EchoResponse, RunRequest, RunResponse
from rowcall.probe.v1.probe_pb2_grpc import ProbeServiceStub
from rowcall.v1.job_pb2 import AttemptOutcome, Job, JobState
from rowcall.v1.job_service_pb2 import (
    BatchSubmitRequest,
    BatchSubmitResponse,
    CancelJobRequest,
    GetJobRequest,
    JobSpec,
    JobView,
    SubmitRequest,
    SubmitResponse,
)
from rowcall.v1.job_service_pb2_grpc import JobServiceStub
from tests.fix_cluster import Cluster
from tests.fix_gateway import Bench, Gateways, Metadata, info_of, jobs, keyed, refused, tenant, violations_of
from tests.fix_worker import Workers

ECHO = "rowcall.probe.v1.ProbeService/Echo"
RUN = "rowcall.probe.v1.ProbeService/Run"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


class Client:
    """A gateway's JobService."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.jobs = JobServiceStub(channel)
        self.probe = ProbeServiceStub(channel)

    async def submit(self, spec: JobSpec, metadata: Metadata = ()) -> SubmitResponse:
        return await self.jobs.Submit(SubmitRequest(job=spec), timeout=20, metadata=metadata)

    async def batch(self, *specs: JobSpec, metadata: Metadata = ()) -> BatchSubmitResponse:
        return await self.jobs.BatchSubmit(BatchSubmitRequest(jobs=specs), timeout=20, metadata=metadata)

    async def get(self, name: str, *, full: bool = False, metadata: Metadata = ()) -> Job:
        view = JobView.JOB_VIEW_FULL if full else JobView.JOB_VIEW_BASIC
        response = await self.jobs.GetJob(GetJobRequest(name=name, view=view), timeout=20, metadata=metadata)
        return response.job

    async def cancel(self, name: str) -> Job:
        return (await self.jobs.CancelJob(CancelJobRequest(name=name), timeout=20)).job


@pytest.fixture
async def client(gateways: Gateways) -> Client:
    return Client(await gateways.channel(await gateways.start()))


def spec(method: str = RUN, request: Message | None = None, **fields: Any) -> JobSpec:
    made = JobSpec(method=method, **fields)
    made.request.Pack((RunRequest() if method == RUN else EchoRequest()) if request is None else request)
    return made


async def test_a_job_of_any_method_is_submitted_and_not_waited_for(client: Client, cluster: Cluster) -> None:
    submitted = await client.submit(spec(ECHO, EchoRequest(payload=b"x")))

    assert not submitted.joined
    assert not submitted.operation.done
    assert jobs(cluster, "name, method, state") == [(submitted.operation.name, ECHO, "READY")]


async def test_submitting_waits_when_the_caller_prefers_to(client: Client, workers: Workers) -> None:
    await workers.start()

    submitted = await client.submit(spec(ECHO, EchoRequest(payload=b"x")), (("prefer", "wait=10"),))

    response = EchoResponse()
    assert submitted.operation.done
    assert submitted.operation.response.Unpack(response)
    assert response.payload == b"x"


async def test_a_generic_and_a_typed_call_with_one_key_are_one_job(client: Client, cluster: Cluster) -> None:
    first = await client.submit(spec(RUN, RunRequest(payload=b"x"), request_id="k"))
    second = await client.submit(spec(RUN, RunRequest(payload=b"x")), keyed("k"))
    typed = await client.probe.Run(RunRequest(payload=b"x"), timeout=20, metadata=keyed("k", ("prefer", "wait=0")))

    assert (first.joined, second.joined) == (False, True)
    assert {first.operation.name, second.operation.name, typed.name} == {first.operation.name}
    other = await refused(client.submit(spec(RUN, RunRequest(payload=b"y"), request_id="k")))
    assert info_of(other).reason == "IDEMPOTENCY_KEY_REUSED"
    differ = await refused(client.submit(spec(RUN, request_id="k"), keyed("l")))
    assert info_of(differ).reason == "REQUEST_ID_MISMATCH"
    assert len(jobs(cluster, "name")) == 1


async def test_what_spec_and_metadata_say_is_in_the_row(client: Client, cluster: Cluster) -> None:
    time = datetime(2041, 5, 4, 13, 30, tzinfo=UTC)
    made = spec(request_id="k", priority=Priority.PRIORITY_LOW, fairness_key="f", labels={"a": "1", "b": "2"})
    made.run_time.FromDatetime(time)

    name = (
        await client.submit(
            made,
            tenant(
                "acme",
                ("rowcall-actor", "ada"),
                ("traceparent", f"00-{TRACE}-00f067aa0ba902b7-01"),
                ("rowcall-priority", "urgent"),
                ("rowcall-label-b", "the spec's counts"),
                ("rowcall-label-c", "3"),
            ),
        )
    ).operation.name
    job = await client.get(name, metadata=tenant("acme"))

    assert job.state == JobState.JOB_STATE_SCHEDULED
    assert job.run_time.ToDatetime(tzinfo=UTC) == time
    assert (job.priority, job.request_id, job.actor, job.trace_id) == (Priority.PRIORITY_LOW, "k", "ada", TRACE)
    assert dict(job.labels) == {"a": "1", "b": "2", "c": "3"}
    assert (job.name, job.method, job.queue) == (name, RUN, "probe")
    assert (job.attempt, job.max_attempts) == (0, 5)
    assert not job.HasField("request")


async def test_a_typed_calls_metadata_is_in_the_row(client: Client, cluster: Cluster) -> None:
    time = datetime.now(UTC) + timedelta(days=1)
    operation = await client.probe.Run(
        RunRequest(),
        timeout=20,
        metadata=(
            ("prefer", "wait=0"),
            ("rowcall-run-at", time.isoformat()),
            ("rowcall-priority", "high"),
            ("rowcall-fairness-key", "project-9"),
            ("rowcall-label-colour", "blue"),
            ("rowcall-actor", "ada"),
            ("traceparent", f"00-{TRACE}-00f067aa0ba902b7-00"),
            ("tracestate", "vendor=x"),
        ),
    )

    assert jobs(cluster, "name, state, priority, run_at, labels, actor, trace_id") == [
        (operation.name, "SCHEDULED", "HIGH", time, {"colour": "blue"}, "ada", TRACE)
    ]


async def test_a_row_without_a_trace_of_its_callers_has_one_of_ours(client: Client) -> None:
    names = [(await client.submit(spec())).operation.name for _ in range(2)]
    traces = {(await client.get(name)).trace_id for name in names}

    assert len(traces) == 2
    assert all(len(trace) == 32 and set(trace) != {"0"} for trace in traces)


async def test_a_batch_is_written_whole(client: Client, cluster: Cluster, workers: Workers) -> None:
    response = await client.batch(
        spec(ECHO, EchoRequest(payload=b"1"), request_id="a"),
        spec(RUN, RunRequest(payload=b"2")),
        spec(ECHO, EchoRequest(payload=b"1"), request_id="a"),
        metadata=tenant("acme", ("rowcall-label-batch", "7")),
    )

    first, second, third = response.results
    assert [each.joined for each in response.results] == [False, False, True]
    assert third.operation.name == first.operation.name != second.operation.name
    assert sorted(jobs(cluster, "method, request_id, labels")) == [
        (ECHO, "a", {"batch": "7"}),
        (RUN, None, {"batch": "7"}),
    ]
    # Into one transaction, hence onto one shard.
    assert {each.operation.name.split("/")[1] for each in response.results} == {"acme"}


async def test_a_batch_with_a_reused_key_is_not_written_at_all(client: Client, cluster: Cluster) -> None:
    await client.submit(spec(RUN, RunRequest(payload=b"old"), request_id="used"))

    error = await refused(
        client.batch(spec(request_id="new"), spec(RUN, RunRequest(payload=b"other"), request_id="used"), spec())
    )

    assert error.code() is grpc.StatusCode.ALREADY_EXISTS
    assert info_of(error).reason == "IDEMPOTENCY_KEY_REUSED"
    assert list(violations_of(error)) == ["jobs[1].request_id"]
    assert [key for (key,) in jobs(cluster, "request_id")] == ["used"]
    # Not even the keys: the same batch without the culprit is new.
    assert not (await client.batch(spec(request_id="new"))).results[0].joined


async def test_two_requests_under_one_key_in_one_batch_are_refused(client: Client, cluster: Cluster) -> None:
    error = await refused(
        client.batch(
            spec(RUN, RunRequest(payload=b"1"), request_id="k"), spec(RUN, RunRequest(payload=b"2"), request_id="k")
        )
    )

    assert info_of(error).reason == "IDEMPOTENCY_KEY_REUSED"
    assert jobs(cluster, "name") == []


async def test_a_batchs_violations_are_told_together(client: Client, cluster: Cluster) -> None:
    bad = RunRequest(fail_attempts=-1)
    bad.work.FromSeconds(-1)

    error = await refused(client.batch(spec(), spec(RUN, bad), spec(RUN, RunRequest(response_bytes=-1))))

    assert info_of(error).reason == "INVALID_REQUEST"
    assert set(violations_of(error)) == {
        "jobs[1].request.work",
        "jobs[1].request.fail_attempts",
        "jobs[2].request.response_bytes",
    }
    assert jobs(cluster, "name") == []


@pytest.mark.parametrize(
    ("made", "reason", "field"),
    [
        (JobSpec(method="no.Such/Method", request=AnyMessage()), "UNKNOWN_METHOD", None),
        (JobSpec(method="not a method", request=AnyMessage()), "INVALID_REQUEST", "{}.method"),
        (JobSpec(method=RUN), "INVALID_REQUEST", "{}.request"),
        (spec(RUN, EchoRequest()), "REQUEST_TYPE_MISMATCH", None),
        (spec(request_id="x" * 256), "INVALID_REQUEST", "{}.request_id"),
        (spec(request_id="\0"), "INVALID_REQUEST", "{}.request_id"),
        (spec(fairness_key="\0"), "INVALID_REQUEST", "{}.fairness_key"),
        (spec(labels={"a": "\0"}), "INVALID_REQUEST", "{}.labels['a']"),
        (spec(labels={"A": "1"}), "INVALID_REQUEST", '{}.labels["A"]'),
        (spec(run_time={"seconds": 10**13}), "INVALID_REQUEST", "{}.run_time"),
        (spec(run_time={"seconds": -1}), "INVALID_REQUEST", "{}.run_time"),
        (spec(RUN, RunRequest(payload=b"x" * 1024 * 1024)), "REQUEST_TOO_LARGE", None),
    ],
)
async def test_a_spec_that_cannot_be_is_refused(
    client: Client, cluster: Cluster, made: JobSpec, reason: str, field: str | None
) -> None:
    for path, call in (("job", client.submit(made)), ("jobs[1]", client.batch(spec(), made))):
        error = await refused(call)
        assert info_of(error).reason == reason
        if field is not None:
            assert list(violations_of(error)) == [field.format(path)]
    assert jobs(cluster, "name") == []


async def test_a_batch_has_a_size_and_keys_of_its_own(client: Client, cluster: Cluster) -> None:
    empty = await refused(client.batch())
    assert list(violations_of(empty)) == ["jobs"]
    one_key = await refused(client.batch(spec(), metadata=keyed("k")))
    assert info_of(one_key).reason == "INVALID_METADATA"
    too_many = await refused(client.batch(*[spec()] * 1001))
    assert list(violations_of(too_many)) == ["jobs"]
    assert jobs(cluster, "name") == []

    whole = await client.batch(*[spec(request_id=str(number)) for number in range(1000)])
    assert len({each.operation.name for each in whole.results}) == 1000


async def test_the_basic_view_tells_no_payload_and_the_full_one_does(client: Client, bench: Bench) -> None:
    name = (await client.submit(spec(RUN, RunRequest(payload=b"question")))).operation.name
    (held,) = await bench.claim()
    await bench.answer(held, RunResponse(payload=b"answer"))

    basic, full = await client.get(name), await client.get(name, full=True)

    assert not basic.HasField("request")
    assert not basic.HasField("response")
    request, response = RunRequest(), RunResponse()
    assert full.request.Unpack(request)
    assert full.response.Unpack(response)
    assert (request.payload, response.payload) == (b"question", b"answer")
    assert full.state == JobState.JOB_STATE_SUCCEEDED
    (attempt,) = full.attempts
    assert (attempt.attempt, attempt.worker, attempt.outcome) == (1, "bench", AttemptOutcome.ATTEMPT_OUTCOME_SUCCEEDED)
    assert full.finish_time.ToDatetime() >= full.start_time.ToDatetime() >= full.create_time.ToDatetime()


async def test_every_attempt_is_told_once(client: Client, workers: Workers) -> None:
    worker = await workers.start()
    request = RunRequest(fail_code=Code.UNAVAILABLE, fail_attempts=2, payload=b"x")

    name = (await client.submit(spec(RUN, request), (("prefer", "wait=20"),))).operation.name
    job = await client.get(name)

    assert job.state == JobState.JOB_STATE_SUCCEEDED
    assert [(each.attempt, each.worker, each.outcome, each.error.code) for each in job.attempts] == [
        (1, worker.name, AttemptOutcome.ATTEMPT_OUTCOME_RETRIED, Code.UNAVAILABLE),
        (2, worker.name, AttemptOutcome.ATTEMPT_OUTCOME_RETRIED, Code.UNAVAILABLE),
        (3, worker.name, AttemptOutcome.ATTEMPT_OUTCOME_SUCCEEDED, Code.OK),
    ]


async def test_a_failed_job_has_its_error_and_its_attempt(client: Client, bench: Bench) -> None:
    name = (await client.submit(spec())).operation.name
    (held,) = await bench.claim()
    await bench.fail(held, Status(code=Code.ABORTED, message="No."))

    job = await client.get(name)

    assert job.state == JobState.JOB_STATE_FAILED
    assert (job.error.code, job.error.message) == (Code.ABORTED, "No.")
    (attempt,) = job.attempts
    assert (attempt.outcome, attempt.error.code) == (AttemptOutcome.ATTEMPT_OUTCOME_FAILED, Code.ABORTED)


async def test_a_job_is_cancelled(client: Client, bench: Bench) -> None:
    waiting, running, finished = [(await client.submit(spec())).operation.name for _ in range(3)]
    held = {each.name: each for each in await bench.claim(3)}
    # Only one of them is still to be claimed: the other two are given back or finished.
    await bench.answer(held[finished], RunResponse())
    fresh = (await client.submit(spec())).operation.name

    cancelled = await client.cancel(fresh)
    assert cancelled.state == JobState.JOB_STATE_CANCELLED
    assert cancelled.error.code == Code.CANCELLED
    assert list(cancelled.attempts) == []
    for name in (waiting, running):
        marked = await client.cancel(name)
        assert (marked.state, marked.cancel_requested) == (JobState.JOB_STATE_RUNNING, True)
    assert (await client.cancel(finished)).state == JobState.JOB_STATE_SUCCEEDED
    unknown = await refused(client.cancel("tenants/default/operations/01890000-0000-7000-8000-000000000000"))
    assert info_of(unknown).reason == "JOB_NOT_FOUND"
