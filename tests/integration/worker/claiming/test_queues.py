"""Which jobs a worker takes: of methods it serves, from queues it was told, as many as it has room for, hint or no hint."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import timedelta
from uuid import UUID, uuid4

import psycopg
import pytest
from google.rpc.code_pb2 import Code

from rowcall.catalogue.model import Policy
from rowcall.probe.v1.probe_pb2 import AwaitRequest, EchoRequest, EchoResponse
from rowcall.queue.model import ClaimedJob
from rowcall.queue.postgres.hints import PostgresListener, done_channel, parse_done
from rowcall.queue.postgres.work import PostgresWorkQueue
from rowcall.v1.job_pb2 import JobState
from rowcall_worker.serving.context import AsyncJobContext, SyncJobContext
from tests.fix_cluster import Cluster
from tests.fix_worker import PROBE, Call, Calls, Workers, serve
from tests.support.waiting import until


async def test_methods_that_are_not_served_are_left_alone(calls: Calls, workers: Workers) -> None:
    async def echo(request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
        return EchoResponse()

    await workers.start(serve(echo=echo))
    policy = PROBE["rowcall.probe.v1.ProbeService/Echo"].policy
    (foreign,) = await calls.submit_as("acme.v1.Later/Method", policy, [b""])
    await calls.all_done(await calls.submit_many("Echo", [EchoRequest()] * 10))
    row = await calls.row(foreign)
    assert (row.state, row.attempt) == (JobState.JOB_STATE_READY, 0)


async def test_only_the_queues_that_were_named_are_drained(calls: Calls, workers: Workers) -> None:
    await workers.start(queues=["one", "two"])
    other = await calls.submit("Echo", EchoRequest(), policy={"queue": "three"})
    for queue in ("one", "two"):
        await calls.done(await calls.submit("Echo", EchoRequest(), policy={"queue": queue}))
    assert (await calls.row(other)).state == JobState.JOB_STATE_READY


@pytest.mark.hinted("only a hint could tell of the queue in time")
async def test_a_new_queue_is_found_by_its_hint(
    calls: Calls, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rowcall_worker.shard._QUEUES_EVERY", 60.0)
    await workers.start(poll=timedelta(seconds=60))
    for queue in ("first", "second"):
        await calls.done(await calls.submit("Echo", EchoRequest(), policy={"queue": queue}))


async def test_everything_works_without_hints(calls: Calls, workers: Workers) -> None:
    calls.hints = False
    await workers.start(hints=False)
    for queue in ("first", "second"):
        jobs = await calls.submit_many("Echo", [EchoRequest()] * 20, policy={"queue": queue})
        await calls.all_done(jobs, seconds=5)
    retried = await calls.submit("Await", AwaitRequest(fail_code=Code.UNAVAILABLE, fail_attempts=1))
    await calls.done(retried, seconds=5)


async def test_a_paused_queue_is_left_alone_until_it_is_resumed(
    cluster: Cluster, calls: Calls, workers: Workers
) -> None:
    await workers.start()
    before = await calls.submit("Echo", EchoRequest())
    await calls.done(before)
    async with await psycopg.AsyncConnection.connect(cluster.shards[before.shard], autocommit=True) as connection:
        await connection.execute("update rowcall.queue set paused_at = clock_timestamp() where name = 'probe'")
        paused = await calls.submit("Echo", EchoRequest())
        elsewhere = await calls.submit("Echo", EchoRequest(), policy={"queue": "other"})
        await calls.done(elsewhere)
        assert (await calls.row(paused)).state == JobState.JOB_STATE_READY
        await connection.execute("update rowcall.queue set paused_at = null where name = 'probe'")
    await calls.done(paused)


async def test_a_renewal_tells_of_paused_queues(
    cluster: Cluster, calls: Calls, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rowcall_worker.shard._QUEUES_EVERY", 60.0)
    claim = PostgresWorkQueue.claim
    asked: list[int] = []

    async def asking(
        self: PostgresWorkQueue,
        worker_id: UUID,
        queue_id: int,
        method_ids: Sequence[int],
        limit: int,
        *,
        start: Sequence[int],
    ) -> list[ClaimedJob]:
        asked.append(queue_id)
        return await claim(self, worker_id, queue_id, method_ids, limit, start=start)

    monkeypatch.setattr(PostgresWorkQueue, "claim", asking)
    first = [await calls.submit("Echo", EchoRequest(), policy={"queue": queue}) for queue in ("probe", "other")]
    await workers.start(poll=timedelta(milliseconds=50))
    await calls.all_done(first)
    async with await psycopg.AsyncConnection.connect(cluster.shards[first[0].shard], autocommit=True) as connection:
        row = await (await connection.execute("select queue_id from rowcall.queue where name = 'probe'")).fetchone()
        assert row is not None
        await connection.execute("update rowcall.queue set paused_at = clock_timestamp() where name = 'probe'")

        async def left_alone() -> bool:
            asked.clear()
            await until(lambda: asked.count(row[0]) > 0 or len(asked) > 20)
            return row[0] not in asked

        await until(left_alone)
        await connection.execute("update rowcall.queue set paused_at = null where name = 'probe'")
    await until(lambda: row[0] in asked)


async def test_free_slots_are_shared_by_weight(calls: Calls, workers: Workers) -> None:
    let_go = asyncio.Event()
    order: list[bytes] = []

    async def echo(request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
        order.append(request.payload)
        await let_go.wait()
        # So long that a claim which a busy machine delays is a small part of it: free slots go to whoever has jobs.
        await asyncio.sleep(0.02)
        return EchoResponse()

    jobs = []
    for queue in ("light", "heavy"):
        jobs += await calls.submit_many("Echo", [EchoRequest(payload=queue.encode())] * 200, policy={"queue": queue})
    await workers.start(serve(echo=echo), slots=4, queues=["light=1", "heavy=3"])
    await until(lambda: len(order) == 4)
    assert sorted(order) == [b"heavy"] * 3 + [b"light"]
    let_go.set()
    await calls.all_done(jobs)
    # While both have work; the heavy one is through first.
    both = order[: len(order) - order[::-1].index(b"heavy")]
    assert 0.22 <= both.count(b"light") / len(both) <= 0.28


async def test_a_queue_has_no_more_slots_than_it_was_given_on_all_shards(calls: Calls, workers: Workers) -> None:
    let_go = asyncio.Event()
    running: list[bytes] = []
    most = 0

    async def echo(request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
        nonlocal most
        running.append(request.payload)
        most = max(most, running.count(b"few"))
        await let_go.wait()
        running.remove(request.payload)
        return EchoResponse()

    jobs = []
    for tenant in range(4):
        for queue in ("few", "many"):
            jobs += await calls.submit_many(
                "Echo",
                [EchoRequest(payload=queue.encode())] * 5,
                call=Call(f"tenant-{tenant}"),
                policy={"queue": queue},
            )
    assert {job.shard for job in jobs} == {"a", "b"}
    await workers.start(serve(echo=echo), slots=50, queues=["few=1:3", "many"])
    await until(lambda: len(running) == 3 + 20)
    assert most == 3
    let_go.set()
    await calls.all_done(jobs)
    assert most == 3


async def test_no_more_jobs_are_held_than_there_are_slots(cluster: Cluster, calls: Calls, workers: Workers) -> None:
    let_go = asyncio.Event()
    running = 0

    async def echo(request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
        nonlocal running
        running += 1
        await let_go.wait()
        return EchoResponse()

    await workers.start(serve(echo=echo), slots=4)
    jobs = [
        job
        for tenant in range(4)
        for job in await calls.submit_many("Echo", [EchoRequest()] * 5, call=Call(f"tenant-{tenant}"))
    ]
    assert {job.shard for job in jobs} == {"a", "b"}
    await until(lambda: running == 4)
    states = [(await calls.row(job)).state for job in jobs]
    assert states.count(JobState.JOB_STATE_RUNNING) == 4
    assert states.count(JobState.JOB_STATE_READY) == 16
    let_go.set()
    await calls.all_done(jobs)


async def test_threads_and_tasks_have_slots_of_their_own(calls: Calls, workers: Workers) -> None:
    let_go = threading.Event()
    lock = threading.Lock()
    running = 0
    most = 0

    def run(request: object, context: SyncJobContext) -> object:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        let_go.wait(30)
        with lock:
            running -= 1
        context.abort_with_status  # noqa: B018  the sync context has it
        return None

    async def echo(request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
        return EchoResponse()

    await workers.start(serve(run=run, echo=echo), threads=2, slots=1)
    try:
        blocked = await calls.submit_many("Run", [EchoRequest()] * 5, policy={"max_attempts": 1})
        await until(lambda: running == 2)
        # The threads are all taken and the queue's next jobs are theirs; the loop's jobs behind them are still found.
        await calls.all_done(await calls.submit_many("Echo", [EchoRequest()] * 10))
        assert most == 2
    finally:
        let_go.set()
    await calls.all_done(blocked)
    assert most == 2


async def test_lanes_go_first_to_last(calls: Calls, workers: Workers) -> None:
    order: list[bytes] = []

    async def echo(request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
        order.append(request.payload)
        return EchoResponse()

    jobs = [
        job
        for lane in (4, 3, 2, 1)
        for job in await calls.submit_many("Echo", [EchoRequest(payload=b"%d" % lane)] * 3, policy={"priority": lane})
    ]
    await workers.start(serve(echo=echo), slots=2)
    await calls.all_done(jobs)
    assert order == sorted(order)


@pytest.fixture
async def heard(cluster: Cluster) -> AsyncIterator[tuple[UUID, list[UUID]]]:
    """A gateway that waits: its id, and the jobs that it hears of."""
    waiter = uuid4()
    jobs: list[UUID] = []
    listening = asyncio.Semaphore(0)
    listeners = [
        PostgresListener(
            dsn,
            [done_channel(waiter)],
            lambda _, payload: jobs.extend(parse_done(payload)),
            connected=listening.release,
        )
        for dsn in cluster.shards.values()
    ]
    for listener in listeners:
        listener.start()
    for _ in listeners:
        await listening.acquire()
    yield waiter, jobs
    for listener in listeners:
        await listener.close()


@pytest.mark.hinted("it hears hints")
async def test_a_gateway_that_waits_hears_of_every_end(
    calls: Calls, workers: Workers, heard: tuple[UUID, list[UUID]]
) -> None:
    waiter, told = heard
    await workers.start()
    call = Call(waiter_id=waiter)
    jobs = await calls.submit_many("Echo", [EchoRequest()] * 300, call=call)
    jobs.append(await calls.submit("Await", AwaitRequest(fail_code=Code.NOT_FOUND), call=call))
    await until(lambda: len(told) >= len(jobs))
    assert sorted(told) == sorted(job.job_id for job in jobs)
    # Not of a retry, which is no end.
    await calls.done(await calls.submit("Await", AwaitRequest(fail_code=Code.UNAVAILABLE, fail_attempts=1), call=call))
    await until(lambda: len(told) > len(jobs))
    assert len(told) == len(jobs) + 1


async def test_a_policy_that_is_new_to_a_running_worker_is_fetched(calls: Calls, workers: Workers) -> None:
    await workers.start()
    policy: Policy = PROBE["rowcall.probe.v1.ProbeService/Await"].policy
    for attempts in (1, 2, 3):
        changed = replace(policy, max_attempts=attempts, backoff_initial=timedelta(milliseconds=attempts))
        (job,) = await calls.submit_as(
            "rowcall.probe.v1.ProbeService/Await", changed, [AwaitRequest(fail_code=Code.UNAVAILABLE)]
        )
        assert (await calls.done(job)).attempt == attempts
