"""Jobs that handlers submit: there exactly when their parent's success is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID

import grpc
import psycopg
import pytest
from google.rpc.error_details_pb2 import BadRequest

from documents.v1.documents_pb2 import AskDocumentsRequest
from rowcall.errors import RowcallError, read_envelope
from rowcall.probe.v1.probe_pb2 import AwaitRequest, EchoRequest, EchoResponse
from rowcall.queue.model import JobRow
from rowcall.v1.job_pb2 import JobState
from rowcall_worker import Fail
from rowcall_worker.children import MAX_CHILDREN
from rowcall_worker.context import AsyncJobContext, SyncJobContext
from tests.fix_cluster import Cluster
from tests.fix_worker import Call, Calls, Job, PolicyChanges, Workers, error_of, serve
from tests.waiting import until

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
