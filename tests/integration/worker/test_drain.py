"""A drain finishes what it can within its grace, hands the rest back unharmed, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from uuid import UUID, uuid4

import psycopg
import pytest

from rowcall.probe.v1.probe_pb2 import EchoRequest, EchoResponse
from rowcall.queue.hints import Hint
from rowcall.queue.model import ClaimedJob, Settled, Settlement
from rowcall.queue.postgres.work import PostgresWorkQueue
from rowcall.v1.job_pb2 import AttemptOutcome, JobState
from rowcall_worker.serving.context import AsyncJobContext, SyncJobContext
from rowcall_worker.settling.settler import WRITERS
from tests.fix_cluster import Cluster
from tests.fix_worker import Calls, Job, Workers, serve
from tests.support.waiting import until


async def test_a_drain_in_the_middle_burns_no_attempt(cluster: Cluster, calls: Calls, workers: Workers) -> None:
    let_go = asyncio.Event()
    started: list[bytes] = []
    cancelled: list[bytes] = []

    async def echo(request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
        started.append(request.payload)
        try:
            if request.payload.startswith(b"long"):
                await let_go.wait()
            elif request.payload.startswith(b"short"):
                await asyncio.sleep(0.3)
        except asyncio.CancelledError:
            cancelled.append(request.payload)
            raise
        return EchoResponse(payload=request.payload, attempt=context.attempt)

    first = await workers.start(serve(echo=echo), slots=6)
    short = await calls.submit_many("Echo", [EchoRequest(payload=b"short")] * 3)
    long = await calls.submit_many("Echo", [EchoRequest(payload=b"long")] * 3)
    waiting = await calls.submit_many("Echo", [EchoRequest(payload=b"waiting")] * 5)
    await until(lambda: len(started) == 6)
    await first.drain(timedelta(seconds=1))

    assert started.count(b"waiting") == 0
    assert cancelled == [b"long"] * 3
    for job in short:
        row = await calls.row(job)
        assert row.state == JobState.JOB_STATE_SUCCEEDED
    for job in long:
        row = await calls.row(job)
        assert (row.state, row.attempt) == (JobState.JOB_STATE_READY, 0)
        assert [each.outcome for each in row.attempts] == [AttemptOutcome.ATTEMPT_OUTCOME_RELEASED]
    for job in waiting:
        assert (await calls.row(job)).state == JobState.JOB_STATE_READY
    async with await psycopg.AsyncConnection.connect(cluster.shards[long[0].shard]) as connection:
        cursor = await connection.execute("select count(*) from rowcall.worker where dead_at is null")
        assert await cursor.fetchone() == (0,)

    let_go.set()
    second = await workers.start(serve(echo=echo))
    for row in await calls.all_done(long + waiting):
        assert row.worker == second.name
        assert row.attempt == 1
        assert EchoResponse.FromString(row.response or b"").attempt == 1


async def test_a_drain_ends_as_soon_as_everything_has(calls: Calls, workers: Workers) -> None:
    let_go = asyncio.Event()
    started = asyncio.Event()

    async def echo(request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
        started.set()
        await let_go.wait()
        return EchoResponse()

    worker = await workers.start(serve(echo=echo))
    job = await calls.submit("Echo", EchoRequest())
    await started.wait()
    drain = asyncio.create_task(worker.drain(timedelta(seconds=60)))
    assert not await worker.wait_for_termination(timeout=0.2)
    let_go.set()
    async with asyncio.timeout(10):
        await drain
    assert await worker.wait_for_termination()
    assert (await calls.row(job)).state == JobState.JOB_STATE_SUCCEEDED


async def test_a_thread_does_not_hold_a_drain_up_for_ever(calls: Calls, workers: Workers) -> None:
    let_go = threading.Event()
    started = threading.Event()
    active: list[bool] = []

    def echo(request: EchoRequest, context: SyncJobContext) -> EchoResponse:
        started.set()
        let_go.wait(60)
        active.append(context.is_active())
        return EchoResponse()

    worker = await workers.start(serve(echo=echo))
    try:
        job = await calls.submit("Echo", EchoRequest())
        await until(started.is_set)
        async with asyncio.timeout(10):
            await worker.drain(timedelta(seconds=0.2))
        row = await calls.row(job)
        assert (row.state, row.attempt) == (JobState.JOB_STATE_READY, 0)
    finally:
        let_go.set()
    await until(lambda: active == [False])
    assert (await calls.row(job)).state == JobState.JOB_STATE_READY


async def test_a_drain_under_load_loses_nothing(calls: Calls, workers: Workers) -> None:
    worker = await workers.start()
    jobs = await calls.submit_many("Echo", [EchoRequest(payload=uuid4().bytes) for _ in range(2000)])
    await calls.done(jobs[0])
    await worker.drain()
    rows = await calls.rows(jobs)
    # Nothing is left behind for the rescue: what was claimed is written or was handed back.
    assert {row.state for row in rows} <= {JobState.JOB_STATE_SUCCEEDED, JobState.JOB_STATE_READY}
    assert {each.outcome for row in rows for each in row.attempts} <= {AttemptOutcome.ATTEMPT_OUTCOME_RELEASED}


async def test_a_claim_under_way_is_handed_back_before_the_drain_ends(
    calls: Calls, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = PostgresWorkQueue.claim
    claimed = asyncio.Event()
    answer = asyncio.Event()

    async def claim_slowly(
        self: PostgresWorkQueue,
        worker_id: UUID,
        queue_id: int,
        method_ids: Sequence[int],
        limit: int,
        *,
        start: Sequence[int],
    ) -> list[ClaimedJob]:
        jobs = await claim(self, worker_id, queue_id, method_ids, limit, start=start)
        if jobs:
            claimed.set()
            await answer.wait()
        return jobs

    monkeypatch.setattr(PostgresWorkQueue, "claim", claim_slowly)
    worker = await workers.start()
    job = await calls.submit("Echo", EchoRequest())
    await claimed.wait()
    assert (await calls.row(job)).state == JobState.JOB_STATE_RUNNING
    drain = asyncio.create_task(worker.drain())
    assert not await worker.wait_for_termination(timeout=0.3)
    answer.set()
    await drain
    row = await calls.row(job)
    assert (row.state, row.attempt) == (JobState.JOB_STATE_READY, 0)
    assert [each.outcome for each in row.attempts] == [AttemptOutcome.ATTEMPT_OUTCOME_RELEASED]


async def test_a_drain_waits_until_every_outcome_is_written(
    calls: Calls, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle = PostgresWorkQueue.settle
    asked = 0
    answer = asyncio.Event()

    async def settle_slowly(
        self: PostgresWorkQueue, settlements: Sequence[Settlement], hint: Hint | None = None
    ) -> list[Settled | Exception]:
        nonlocal asked
        asked += 1
        await answer.wait()
        return await settle(self, settlements, hint)

    monkeypatch.setattr(PostgresWorkQueue, "settle", settle_slowly)
    worker = await workers.start()
    # The writers are kept busy by the first ones, so that the last outcomes wait for them.
    jobs: list[Job] = []
    while asked < WRITERS:
        before = asked
        jobs.append(await calls.submit("Echo", EchoRequest()))
        await until(partial(lambda before: asked > before, before))
    jobs += await calls.submit_many("Echo", [EchoRequest()] * 5)
    drain = asyncio.create_task(worker.drain())
    assert not await worker.wait_for_termination(timeout=0.3)
    answer.set()
    await drain
    states = {row.state for row in await calls.rows(jobs)}
    assert states <= {JobState.JOB_STATE_SUCCEEDED, JobState.JOB_STATE_READY}


@pytest.mark.hinted("what is heard is a hint")
@pytest.mark.parametrize("steps", range(5))
async def test_what_is_heard_while_a_drain_ends_the_listening_does_not_hold_it_up(workers: Workers, steps: int) -> None:
    # asyncio.wait_for of Python 3.11 loses a cancellation that comes as what it waits for is there.
    worker = await workers.start()
    [shard, *_] = worker._shards
    assert shard._watcher is not None
    assert shard._listener is not None
    # Nothing else is heard, and the watcher waits.
    await shard._listener.close()
    await until(lambda: bool(shard._look_for_queues._waiters))
    shard._look_for_queues.set()
    for _ in range(steps):
        await asyncio.sleep(0)
    shard._watcher.cancel()
    ended, _ = await asyncio.wait({shard._watcher}, timeout=20)
    assert ended
