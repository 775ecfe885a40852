"""Jobs that handlers submit: there exactly when their parent's success is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from uuid import UUID

import grpc
import psycopg
import pytest
from google.rpc.error_details_pb2 import BadRequest
from google.rpc.status_pb2 import Status

from rowcall.errors import RowcallError, read_envelope
from rowcall.probe.v1.probe_pb2 import AwaitRequest, EchoRequest, EchoResponse
from rowcall.queue.model import JobRow
from rowcall.v1.job_pb2 import JobState
from rowcall_worker import Fail
from rowcall_worker.serving.children import MAX_CHILDREN
from rowcall_worker.serving.context import AsyncJobContext, SyncJobContext
from rowcall_worker.shard import ShardWorker
from tests.fix_cluster import Cluster
from tests.fix_worker import Call, Calls, Job, Workers, error_of, serve
from tests.support.waiting import until

ECHO = "rowcall.probe.v1.ProbeService/Echo"
AWAIT = "rowcall.probe.v1.ProbeService/Await"
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
CALL = Call("acme", None, "ann", f"00-{TRACE_ID}-b7ad6b7169203331-01", {"customer": "c-7"})
PARENT, CHILD = b"parent", b"child"


def named(name: str, like: Job) -> Job:
    """The job of an operation's name, on the shard of another of its tenant."""
    return Job(like.tenant, UUID(name.rpartition("/")[2]), like.shard)


async def rows_of(cluster: Cluster, shard: str) -> int:
    """How many jobs a shard has, live or finished."""
    async with await psycopg.AsyncConnection.connect(cluster.shards[shard]) as connection:
        row = await (await connection.execute("select count(*) from rowcall.jobs")).fetchone()
        assert row is not None
        return int(row[0])


def info_of(row: JobRow) -> tuple[str, str]:
    """Reason and message of a failed job."""
    status = error_of(row)
    info = read_envelope(status)
    assert info is not None
    return info.reason, status.message


@pytest.mark.parametrize("sync", [False, True])
@pytest.mark.parametrize("transaction", [False, True])
async def test_a_child_is_submitted_with_its_parents_success(
    calls: Calls, workers: Workers, *, sync: bool, transaction: bool
) -> None:
    names: list[str] = []

    def submit(context: AsyncJobContext | SyncJobContext) -> EchoResponse:
        names.append(context.submit(ECHO, EchoRequest(payload=CHILD), labels={"page": "1"}, priority=1))
        return EchoResponse(payload=PARENT)

    def echo_in_thread(request: EchoRequest, context: SyncJobContext) -> EchoResponse:
        if request.payload == CHILD:
            return EchoResponse(payload=CHILD)
        if transaction:
            with context.transaction() as connection:
                connection.execute("select 1")
        return submit(context)

    async def echo(request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
        if request.payload == CHILD:
            return EchoResponse(payload=CHILD)
        if transaction:
            async with context.transaction() as connection:
                await connection.execute("select 1")
        return submit(context)

    await workers.start(serve(echo=echo_in_thread if sync else echo))
    job = await calls.submit("Echo", EchoRequest(payload=PARENT), call=CALL)
    parent = await calls.done(job)
    assert parent.state == JobState.JOB_STATE_SUCCEEDED
    child = await calls.done(named(names[0], job))
    assert child.response == EchoResponse(payload=CHILD).SerializeToString()
    assert (child.parent_job_id, child.actor, child.labels, child.lane) == (job.job_id, "ann", {"page": "1"}, 1)
    # The same trace, below the parent's attempt.
    assert child.traceparent == f"00-{TRACE_ID}-{parent.span_id}-01"
    assert len(names) == 1


@pytest.mark.parametrize("how", ["raises", "snoozes", "fails", "answers with another type"])
async def test_no_child_is_submitted_without_its_parents_success(
    cluster: Cluster, calls: Calls, workers: Workers, how: str
) -> None:
    async def echo(request: EchoRequest, context: AsyncJobContext) -> object:
        context.submit(ECHO, EchoRequest(payload=CHILD))
        match how:
            case "raises":
                raise ValueError("a fault")
            case "snoozes":
                context.snooze(timedelta(hours=1))
            case "fails":
                raise Fail(grpc.StatusCode.NOT_FOUND, "No such thing.")
        return AwaitRequest()

    await workers.start(serve(echo=echo))
    job = await calls.submit("Echo", EchoRequest(), policy={"max_attempts": 1})
    await calls.until(job, lambda row: row.done or row.state == JobState.JOB_STATE_SCHEDULED)
    assert await rows_of(cluster, job.shard) == 1


@pytest.mark.parametrize("transaction", [False, True])
async def test_a_zombies_children_are_not_submitted(
    cluster: Cluster, calls: Calls, workers: Workers, *, transaction: bool
) -> None:
    submitted, let_go = asyncio.Event(), asyncio.Event()

    async def echo(request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
        if transaction:
            async with context.transaction() as connection:
                await connection.execute("select 1")
        context.submit(ECHO, EchoRequest(payload=CHILD))
        submitted.set()
        await let_go.wait()
        return EchoResponse()

    worker = await workers.start(serve(echo=echo))
    job = await calls.submit("Echo", EchoRequest())
    await asyncio.wait_for(submitted.wait(), 20)
    async with await psycopg.AsyncConnection.connect(cluster.shards[job.shard]) as connection:
        await connection.execute("update rowcall.job set lease = lease + 1")
    let_go.set()
    await worker.drain()
    assert await rows_of(cluster, job.shard) == 1
    assert not (await calls.row(job)).done


async def test_a_child_that_is_there_already_is_joined(cluster: Cluster, calls: Calls, workers: Workers) -> None:
    """So a step that runs a second time adds nothing."""

    async def echo(request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
        if request.payload != CHILD:
            context.submit(ECHO, EchoRequest(payload=CHILD), request_id="page-1")
        return EchoResponse()

    await workers.start(serve(echo=echo))
    jobs = await calls.submit_many("Echo", [EchoRequest(payload=PARENT)] * 3)
    rows = await calls.all_done(jobs)
    assert {row.state for row in rows} == {JobState.JOB_STATE_SUCCEEDED}
    await until(lambda: counted(cluster, jobs[0].shard, 4))


async def counted(cluster: Cluster, shard: str, count: int) -> bool:
    return await rows_of(cluster, shard) == count


@pytest.mark.parametrize("transaction", [False, True])
async def test_a_refused_child_fails_its_parent_and_says_so(
    cluster: Cluster, calls: Calls, workers: Workers, *, transaction: bool
) -> None:
    async def echo(request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
        if request.payload not in (CHILD, b"another"):
            if transaction:
                async with context.transaction() as connection:
                    await connection.execute("select 1")
            context.submit(ECHO, EchoRequest(payload=CHILD), request_id="first")
            context.submit(
                ECHO, EchoRequest(payload=CHILD if request.payload == PARENT else b"another"), request_id="k"
            )
        return EchoResponse()

    await workers.start(serve(echo=echo))
    first = await calls.submit("Echo", EchoRequest(payload=PARENT))
    assert (await calls.done(first)).state == JobState.JOB_STATE_SUCCEEDED
    neighbour = await calls.submit("Echo", EchoRequest(payload=CHILD))
    second = await calls.submit("Echo", EchoRequest(payload=b"other parent"))
    row = await calls.done(second)
    reason, message = info_of(row)
    assert (row.state, reason, error_of(row).code) == (JobState.JOB_STATE_FAILED, "CHILD_REFUSED", 9)
    assert f"submitted a job of {ECHO} with the request id 'k', which names tenants/acme/operations/" in message
    assert (await calls.done(neighbour)).state == JobState.JOB_STATE_SUCCEEDED
    # Two parents, two children of the first, and the neighbour.
    assert await rows_of(cluster, second.shard) == 5


async def test_workers_are_told_of_a_child(calls: Calls, workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    """This one and, by a hint, the others: a poll would find it later."""
    told: list[list[int]] = []
    ready = ShardWorker._ready

    def noted(worker: ShardWorker, queue_ids: Iterable[int]) -> None:
        told.append(list(queue_ids))
        ready(worker, told[-1])

    monkeypatch.setattr(ShardWorker, "_ready", noted)
    names: list[str] = []

    async def echo(request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
        if request.payload != CHILD:
            names.append(context.submit(ECHO, EchoRequest(payload=CHILD)))
        return EchoResponse()

    await workers.start(serve(echo=echo))
    job = await calls.submit("Echo", EchoRequest(payload=PARENT))
    await calls.done(job)
    assert (await calls.done(named(names[0], job))).state == JobState.JOB_STATE_SUCCEEDED
    await until(lambda: len(told) == 1)
    assert len(told[0]) == 1


async def test_a_child_can_be_scheduled(calls: Calls, workers: Workers) -> None:
    names: list[str] = []
    at = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)

    async def echo(request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
        names.append(context.submit(ECHO, EchoRequest(), run_at=at))
        return EchoResponse()

    await workers.start(serve(echo=echo))
    job = await calls.submit("Echo", EchoRequest())
    await calls.done(job)
    row = await calls.row(named(names[0], job))
    assert (row.state, row.run_at) == (JobState.JOB_STATE_SCHEDULED, at)


BAD: dict[str, tuple[Callable[[AsyncJobContext], object], str]] = {
    "method": (lambda c: c.submit("acme.v1.No/Such", EchoRequest()), "this worker knows no job type of that name"),
    "type": (lambda c: c.submit(ECHO, AwaitRequest()), "its request is a rowcall.probe.v1.EchoRequest, not a rowcall"),
    "no message": (lambda c: c.submit(ECHO, b"bytes"), "not a bytes"),  # type: ignore[arg-type]
    "rules": (lambda c: c.submit(AWAIT, AwaitRequest(fail_code=99)), "rowcall.probe.v1.AwaitRequest"),  # type: ignore[arg-type]
    "size": (lambda c: c.submit(ECHO, EchoRequest(payload=bytes(2001))), "and may have 2000 (--max-request-bytes)"),
    "key": (lambda c: c.submit(ECHO, EchoRequest(), request_id=""), "a request id is a text of 1 to 255 characters"),
    "surrogate": (lambda c: c.submit(ECHO, EchoRequest(), request_id="\ud800"), "a request id is a text of"),
    "time": (lambda c: c.submit(ECHO, EchoRequest(), run_at=datetime(2030, 1, 1)), "with a time zone"),  # noqa: DTZ001
    "far": (lambda c: c.submit(ECHO, EchoRequest(), run_at=datetime.max.replace(tzinfo=UTC)), "between 1970 and 9998"),
    "lane": (lambda c: c.submit(ECHO, EchoRequest(), priority=5), "1 to 4, not 5"),
    "label": (lambda c: c.submit(ECHO, EchoRequest(), labels={"A": "x"}), "'A' is no label"),
    "value": (lambda c: c.submit(ECHO, EchoRequest(), labels={"a": "\0"}), "a value that is no text"),
    "labels": (lambda c: c.submit(ECHO, EchoRequest(), labels={f"l{i}": "" for i in range(17)}), "and may have 16"),
}


async def test_what_cannot_be_submitted_is_refused_at_the_call(calls: Calls, workers: Workers) -> None:
    found: dict[str, str] = {}

    async def echo(request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
        for name, (submit, _) in BAD.items():
            with pytest.raises(RowcallError) as caught:
                submit(context)
            found[name] = caught.value.message
        return EchoResponse()

    await workers.start(serve(echo=echo), max_request_bytes=2000)
    row = await calls.done(await calls.submit("Echo", EchoRequest(), policy={"max_attempts": 1}))
    assert row.state == JobState.JOB_STATE_SUCCEEDED, info_of(row)
    for name, (_, text) in BAD.items():
        assert text in found[name], name


async def test_an_uncaught_refusal_fails_the_job_with_its_violations(calls: Calls, workers: Workers) -> None:
    async def echo(request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
        request_of_child = AwaitRequest()
        request_of_child.work.FromSeconds(-1)
        context.submit(AWAIT, request_of_child)
        return EchoResponse()

    await workers.start(serve(echo=echo))
    row = await calls.done(await calls.submit("Echo", EchoRequest()))
    assert (row.attempt, info_of(row)[0]) == (1, "CHILD_REFUSED")
    found = BadRequest()
    assert any(detail.Unpack(found) for detail in error_of(row).details if detail.Is(BadRequest.DESCRIPTOR))
    assert found.field_violations[0].field == "work"


async def test_an_attempt_submits_a_thousand_jobs_and_no_more(cluster: Cluster, calls: Calls, workers: Workers) -> None:
    async def echo(request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
        if request.payload != CHILD:
            later = datetime.now(UTC) + timedelta(hours=1)
            for _ in range(MAX_CHILDREN):
                context.submit(ECHO, EchoRequest(payload=CHILD), run_at=later)
            with pytest.raises(RowcallError, match="A handler may submit 1000 jobs"):
                context.submit(ECHO, EchoRequest(payload=CHILD))
        return EchoResponse()

    await workers.start(serve(echo=echo))
    job = await calls.submit("Echo", EchoRequest(), policy={"max_attempts": 1})
    assert (await calls.done(job)).state == JobState.JOB_STATE_SUCCEEDED
    assert await rows_of(cluster, job.shard) == 1 + MAX_CHILDREN


async def test_nothing_can_be_done_for_a_job_whose_attempt_is_over(calls: Calls, workers: Workers) -> None:
    contexts: list[AsyncJobContext] = []

    async def echo(request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
        contexts.append(context)
        return EchoResponse()

    await workers.start(serve(echo=echo))
    await calls.done(await calls.submit("Echo", EchoRequest()))
    [context] = contexts
    with pytest.raises(RuntimeError, match="the attempt is over"):
        context.submit(ECHO, EchoRequest())
    with pytest.raises(RuntimeError, match="the attempt is over"):
        context.progress(0.5)
    with pytest.raises(RuntimeError, match="the attempt is over"):
        async with context.transaction():
            pass


async def test_a_child_that_a_bound_does_not_let_in_has_its_parent_tried_again(
    cluster: Cluster, calls: Calls, workers: Workers
) -> None:
    """Later there is room: nothing of the attempts before is kept."""
    attempts: list[str] = []

    async def echo(request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
        if request.payload == PARENT:
            attempts.append(context.submit(ECHO, EchoRequest(payload=CHILD)))
        return EchoResponse(payload=request.payload)

    soon = timedelta(milliseconds=100)
    job = await calls.submit(
        "Echo",
        EchoRequest(payload=PARENT),
        call=CALL,
        policy={"max_attempts": 100, "backoff_initial": soon, "backoff_maximum": soon},
    )
    async with await psycopg.AsyncConnection.connect(cluster.shards[job.shard], autocommit=True) as shard:
        await shard.execute(
            "insert into rowcall.bound (tenant, queue, method, backlog, number, updated_at) values ('acme', '', '', 0, 1, now())"
        )
        await workers.start(serve(echo=echo))
        await until(lambda: len(attempts) > 2)
        assert not (await calls.row(job)).done
        await shard.execute("delete from rowcall.bound")
    row = await calls.done(job)
    assert row.state == JobState.JOB_STATE_SUCCEEDED
    assert row.attempts[0].error is not None
    info = read_envelope(Status.FromString(row.attempts[0].error))
    assert info is not None
    assert info.reason == "NOT_ADMITTED"
    assert await rows_of(cluster, job.shard) == 2, "one child, of the attempt that counts"
