"""Running jobs that somebody cancels, in another process: their handlers are told, and what they make of it counts."""

from __future__ import annotations

import asyncio
import threading
import time
from datetime import timedelta
from uuid import UUID, uuid4

import grpc
import psycopg
import pytest
from google.rpc.status_pb2 import Status

from rowcall.errors import read_envelope
from rowcall.probe.v1.probe_pb2 import EchoRequest, EchoResponse
from rowcall.queue.postgres.hints import PostgresListener, done_channel, parse_done
from rowcall.v1.job_pb2 import AttemptOutcome, JobState
from rowcall_worker.serving.context import AsyncJobContext, SyncJobContext
from tests.fix_cluster import Cluster
from tests.fix_worker import Call, Calls, Job, Workers, error_of, serve
from tests.support.waiting import until

NEVER = timedelta(minutes=10)


class Handler:
    """Runs until it is let go or cancelled, and then does what it was made for."""

    def __init__(self, then: str = "raise") -> None:
        self.then = then
        self.let_go = asyncio.Event()
        self.started = 0
        self.cancelled = 0

    async def echo(self, request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
        self.started += 1
        try:
            await self.let_go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            assert context.cancelled()
            if self.then == "ignore":
                await self.let_go.wait()
            elif self.then == "break":
                raise ValueError("in the midst of cleaning up") from None
            elif self.then == "fail":
                await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "half done")
            elif self.then != "succeed":
                raise
        return EchoResponse(payload=request.payload)


def reason(error: Status) -> str:
    """The reason in a job's error."""
    info = read_envelope(error)
    assert info is not None
    return info.reason


async def running(
    calls: Calls, workers: Workers, handler: Handler, *, call: Call | None = None, **changes: object
) -> Job:
    """A job that runs in a worker with these settings."""
    await workers.start(serve(echo=handler.echo), **changes)
    # The only attempt there is: without the cancellation its error would end the job as FAILED.
    job = await calls.submit("Echo", EchoRequest(payload=b"done"), call=call, policy={"max_attempts": 1})
    await until(lambda: handler.started == 1)
    return job


@pytest.mark.parametrize("then", ["raise", "break"])
async def test_a_handler_that_ends_because_of_it_is_cancelled(calls: Calls, workers: Workers, then: str) -> None:
    handler = Handler(then)
    job = await running(calls, workers, handler)
    await calls.cancel(job, hinted=False)
    row = await calls.done(job)
    assert row.state == JobState.JOB_STATE_CANCELLED
    assert reason(error_of(row)) == "JOB_CANCELLED"
    assert (handler.started, handler.cancelled) == (1, 1)


@pytest.mark.parametrize(
    ("then", "state"), [("succeed", JobState.JOB_STATE_SUCCEEDED), ("fail", JobState.JOB_STATE_FAILED)]
)
async def test_what_a_handler_makes_of_it_all_the_same_counts(
    calls: Calls, workers: Workers, then: str, state: JobState.ValueType
) -> None:
    handler = Handler(then)
    job = await running(calls, workers, handler)
    await calls.cancel(job)
    row = await calls.done(job)
    assert row.state == state
    assert handler.cancelled == 1


async def test_a_handler_that_ignores_it_keeps_its_slot_but_not_its_job(calls: Calls, workers: Workers) -> None:
    handler = Handler("ignore")
    job = await running(calls, workers, handler, slots=1)
    try:
        waits = await calls.submit("Echo", EchoRequest())
        await calls.cancel(job)
        assert (await calls.done(job)).state == JobState.JOB_STATE_CANCELLED
        assert (await calls.row(waits)).state == JobState.JOB_STATE_READY
    finally:
        handler.let_go.set()
    await calls.done(waits)


async def test_a_sync_handler_is_told(calls: Calls, workers: Workers) -> None:
    started, gone_on = threading.Event(), threading.Event()

    def echo(request: EchoRequest, context: SyncJobContext) -> EchoResponse:
        started.set()
        while context.is_active():
            time.sleep(0.01)
        gone_on.set()
        raise RuntimeError("told to stop")

    await workers.start(serve(echo=echo))
    job = await calls.submit("Echo", EchoRequest())
    await until(started.is_set)
    await calls.cancel(job)
    row = await calls.done(job)
    assert (row.state, reason(error_of(row))) == (JobState.JOB_STATE_CANCELLED, "JOB_CANCELLED")
    assert gone_on.is_set()
    assert row.attempts == [] or row.attempts[-1].outcome == AttemptOutcome.ATTEMPT_OUTCOME_CANCELLED


@pytest.mark.hinted("only a hint could tell in time")
async def test_a_hint_tells_the_worker_at_once(calls: Calls, workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rowcall_worker.membership.lease._MAX_INTERVAL", NEVER)
    handler = Handler()
    job = await running(calls, workers, handler, lease=3 * NEVER)
    await calls.cancel(job)
    assert (await calls.done(job)).state == JobState.JOB_STATE_CANCELLED


async def test_only_the_attempt_that_is_meant_is_ended(cluster: Cluster, calls: Calls, workers: Workers) -> None:
    handler = Handler()
    first = await running(calls, workers, handler)
    second = await calls.submit("Echo", EchoRequest(payload=b"done"))
    await until(lambda: handler.started == 2)
    await calls.cancel(first)
    assert (await calls.done(first)).state == JobState.JOB_STATE_CANCELLED
    assert handler.cancelled == 1
    # A mark under another lease number is not this attempt's: its row was taken away and given out anew.
    async with await psycopg.AsyncConnection.connect(cluster.shards[second.shard], autocommit=True) as connection:
        await connection.execute(
            "update rowcall.job set lease = lease + 1, cancel_requested_at = clock_timestamp() where job_id = %s",
            [second.job_id],
        )
        renewed = """
            select b.renewed_at from rowcall.worker w join rowcall.worker_beat b using (worker_id) where w.dead_at is null
        """
        before = await (await connection.execute(renewed)).fetchone()

        async def later() -> bool:
            after = await (await connection.execute(renewed)).fetchone()
            return before is not None and after is not None and after[0] > before[0] + timedelta(seconds=1)

        await until(later)
    assert handler.cancelled == 1
    handler.let_go.set()


async def test_a_cancelled_job_that_is_handed_back_is_told_to_who_waits(
    cluster: Cluster, calls: Calls, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not cluster.access.hints:
        pytest.skip("nobody can be told without hints")
    # The worker does not hear of it while it runs.
    monkeypatch.setattr("rowcall_worker.membership.lease._MAX_INTERVAL", NEVER)
    handler, waiter = Handler(), uuid4()
    worker_settings = {"lease": 3 * NEVER}
    worker = await workers.start(serve(echo=handler.echo), **worker_settings)
    job = await calls.submit("Echo", EchoRequest(), call=Call(waiter_id=waiter))
    await until(lambda: handler.started == 1)
    heard: list[str] = []
    listening = asyncio.Event()
    listener = PostgresListener(
        cluster.shards[job.shard],
        [done_channel(waiter)],
        lambda _channel, payload: heard.append(payload),
        connected=listening.set,
    )
    listener.start()
    await listening.wait()
    await calls.cancel(job, hinted=False)
    await worker.drain(timedelta(0))
    assert (await calls.row(job)).state == JobState.JOB_STATE_CANCELLED
    await until(lambda: any(job.job_id in parse_done(payload) for payload in heard))
    await listener.close()


@pytest.mark.hinted("it hears hints")
async def test_a_job_that_is_cancelled_instead_of_tried_again_is_told_of_beside_others(
    cluster: Cluster, calls: Calls, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its worker cannot know before it is settled that this is its end."""
    monkeypatch.setattr("rowcall_worker.membership.lease._MAX_INTERVAL", NEVER)
    let_go, waiter = asyncio.Event(), uuid4()
    started = 0

    async def handle(request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
        nonlocal started
        started += 1
        await let_go.wait()
        if request.payload == b"fail":
            await context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
        return EchoResponse()

    await workers.start(serve(echo=handle), lease=3 * NEVER)
    call = Call(waiter_id=waiter)
    jobs = await calls.submit_many("Echo", [EchoRequest(payload=each) for each in (b"fail", b"")], call=call)
    await until(lambda: started == len(jobs))
    told: list[UUID] = []
    listening = asyncio.Event()
    listener = PostgresListener(
        cluster.shards[jobs[0].shard],
        [done_channel(waiter)],
        lambda _channel, payload: told.extend(parse_done(payload)),
        connected=listening.set,
    )
    listener.start()
    await listening.wait()
    await calls.cancel(jobs[0], hinted=False)
    let_go.set()
    await until(lambda: len(told) == len(jobs))
    assert set(told) == {job.job_id for job in jobs}
    assert (await calls.row(jobs[0])).state == JobState.JOB_STATE_CANCELLED
    await listener.close()
