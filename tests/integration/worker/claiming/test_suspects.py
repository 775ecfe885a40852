"""Suspects where no other process can run them: alone, in idle workers and in busy ones, and neither they nor the others are starved."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID, uuid4

import psycopg
import pytest

from rowcall.probe.v1.probe_pb2 import EchoRequest, EchoResponse
from rowcall.queue.hints import Hint
from rowcall.queue.model import Held, Settled, Settlement
from rowcall.queue.postgres.work import PostgresWorkQueue
from rowcall.v1.job_pb2 import JobState
from rowcall_worker.claiming import suspects
from rowcall_worker.serving.context import AsyncJobContext, SyncJobContext
from tests.fix_cluster import Cluster
from tests.fix_worker import Call, Calls, Workers, serve
from tests.support.suspects import ELSEWHERE, Handler, held, make_suspects, requests
from tests.support.waiting import until


class Looks:
    """How often workers looked for suspects, and asked for a role and did not get it."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.looks = 0
        self.refusals = 0
        look, elect = PostgresWorkQueue.suspect_waits, PostgresWorkQueue.elect

        async def suspect_waits(
            queue: PostgresWorkQueue, queue_ids: Sequence[int], method_ids: Sequence[int]
        ) -> timedelta | None:
            self.looks += 1
            return await look(queue, queue_ids, method_ids)

        async def elected(queue: PostgresWorkQueue, role: str, worker_id: UUID, term: timedelta) -> bool:
            got = await elect(queue, role, worker_id, term)
            self.refusals += role.startswith("alone:") and not got
            return got

        patch.setattr(PostgresWorkQueue, "suspect_waits", suspect_waits)
        patch.setattr(PostgresWorkQueue, "elect", elected)

    async def more(self, count: int) -> None:
        """Waits for so many more looks."""
        wanted = self.looks + count
        await until(lambda: self.looks >= wanted)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Looks:
    """Counts the looks for suspects."""
    return Looks(monkeypatch)


async def test_an_idle_worker_runs_suspects_one_by_one_on_all_its_shards(
    cluster: Cluster, calls: Calls, workers: Workers
) -> None:
    handler = Handler()
    jobs = [
        *await make_suspects(cluster, calls, requests("here", 5)),
        *await make_suspects(cluster, calls, requests("there", 5), tenant=ELSEWHERE),
    ]
    assert {job.shard for job in jobs} == {"a", "b"}
    await workers.start(serve(echo=handler.echo))
    rows = await calls.all_done(jobs)
    assert {(row.state, row.attempt) for row in rows} == {(JobState.JOB_STATE_SUCCEEDED, 1)}
    assert all(handler.alone(name) for name in handler.order)


@pytest.mark.hinted("without hints suspects are noticed a second later, when the ordinary work of this test is over")
async def test_a_busy_worker_goes_quiet_for_a_suspect_and_works_on(
    cluster: Cluster, calls: Calls, workers: Workers
) -> None:
    handler = Handler()
    await workers.start(serve(echo=handler.echo), slots=4)
    ordinary = await calls.submit_many("Echo", requests("held", 4))
    await until(lambda: len(handler.running) == 4)
    ordinary += await calls.submit_many("Echo", requests("ordinary", 200))
    jobs = await make_suspects(cluster, calls, requests("suspect", 3))
    handler.let_go.set()
    await calls.all_done([*jobs, *ordinary])
    names = [f"suspect {number}" for number in range(3)]
    assert all(handler.alone(name) for name in names)
    # In the middle of the others, which run together.
    last = max(handler.order.index(name) for name in names)
    assert 4 < last < len(handler.order) - 20
    assert not all(handler.alone(f"ordinary {number}") for number in range(200))


async def test_suspects_and_ordinary_work_take_turns(
    cluster: Cluster, calls: Calls, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suspects, "PERIOD", 0.1)
    handler = Handler()
    await workers.start(serve(echo=handler.echo), slots=2)
    ordinary = await calls.submit_many("Echo", requests("held", 2))
    await until(lambda: len(handler.running) == 2)
    ordinary += await calls.submit_many("Echo", requests("ordinary", 300))
    jobs = await make_suspects(cluster, calls, requests("suspect", 12))
    handler.let_go.set()
    await calls.all_done([*jobs, *ordinary])
    kinds = [name.split()[0] for name in handler.order if not name.startswith("held")]
    changes = [kind for kind, before in zip(kinds, [None, *kinds], strict=False) if kind != before]
    assert changes.count("suspect") >= 2, changes
    assert changes[:1] + changes[-1:] == ["ordinary", "ordinary"]
    assert all(handler.alone(name) for name in handler.order if name.startswith("suspect"))


async def test_a_long_attempt_does_not_idle_the_worker_for_a_suspect(
    cluster: Cluster, calls: Calls, workers: Workers, monkeypatch: pytest.MonkeyPatch, looks: Looks
) -> None:
    monkeypatch.setattr(suspects, "_LEAST_PATIENCE", 0.3)
    monkeypatch.setattr(suspects, "_PATIENCE", 0.0)
    handler = Handler()
    await workers.start(serve(echo=handler.echo), slots=4)
    (long,) = await calls.submit_many("Echo", requests("held", 1))
    await until(lambda: len(handler.running) == 1)
    (job,) = await make_suspects(cluster, calls, requests("suspect", 1))
    await looks.more(3)
    # It could not become quiet in time: it works on, and the role is another's to have.
    await calls.all_done(await calls.submit_many("Echo", requests("ordinary", 20)))
    assert await held(cluster, job) == (JobState.JOB_STATE_READY, 2)
    handler.let_go.set()
    await calls.all_done([job, long])
    assert handler.alone("suspect 0")


async def test_one_worker_at_a_time_goes_quiet(
    cluster: Cluster, calls: Calls, workers: Workers, monkeypatch: pytest.MonkeyPatch, looks: Looks
) -> None:
    monkeypatch.setattr(suspects, "role_of", lambda _names, _methods: "alone:of the test")
    handler = Handler()
    worker = await workers.start(serve(echo=handler.echo), slots=4)
    (long,) = await calls.submit_many("Echo", requests("held", 1))
    await until(lambda: len(handler.running) == 1)
    (job,) = await make_suspects(cluster, calls, requests("suspect", 1))
    other = uuid4()
    async with await psycopg.AsyncConnection.connect(cluster.shards[job.shard], autocommit=True) as connection:
        await connection.execute(
            "select rowcall.register_worker(%s, 'other', '1 minute', null, null, null, null, null, null, null)", [other]
        )
        elect = "select rowcall.elect('alone:of the test', %s, %s)"
        await until_elected(connection, elect, other)
        before = looks.refusals
        await until(lambda: looks.refusals >= before + 2)
        # While another has the role, this one takes ordinary work, though it may not be quiet for the suspect.
        await calls.all_done(await calls.submit_many("Echo", requests("ordinary", 20)))
        handler.let_go.set()
        await calls.done(long)
        await calls.done(job)
    assert handler.alone("suspect 0")
    await worker.drain()


async def until_elected(connection: psycopg.AsyncConnection[tuple[object, ...]], elect: str, worker_id: UUID) -> None:
    """Has the role, as soon as it is free."""

    async def elected() -> bool:
        cursor = await connection.execute(elect, [worker_id, timedelta(minutes=1)])
        row = await cursor.fetchone()
        return row is not None and bool(row[0])

    await until(elected)


async def test_a_suspect_that_runs_alone_is_handed_back_as_one_by_a_drain(
    cluster: Cluster, calls: Calls, workers: Workers
) -> None:
    handler, heir = Handler(), Handler()
    (job,) = await make_suspects(cluster, calls, requests("held", 1))
    worker = await workers.start(serve(echo=handler.echo))
    await until(lambda: len(handler.running) == 1)
    await worker.drain(timedelta(0))
    assert await held(cluster, job) == (JobState.JOB_STATE_READY, Held.SUSPECT | Held.ALONE)
    heir.let_go.set()
    second = await workers.start(serve(echo=heir.echo))
    row = await calls.done(job)
    assert (row.worker, row.attempt) == (second.name, 1)


async def test_nothing_is_claimed_on_any_shard_while_a_suspect_runs(
    cluster: Cluster, calls: Calls, workers: Workers, looks: Looks
) -> None:
    handler = Handler()
    (alone,) = await make_suspects(cluster, calls, requests("held", 1))
    await workers.start(serve(echo=handler.echo))
    await until(lambda: len(handler.running) == 1)
    here = await calls.submit("Echo", EchoRequest(payload=b"ordinary"))
    there = await calls.submit("Echo", EchoRequest(payload=b"ordinary"), call=Call(ELSEWHERE))
    assert {here.shard, there.shard} == {"a", "b"}
    await looks.more(3)
    for job in (here, there):
        assert (await calls.row(job)).state == JobState.JOB_STATE_READY
    handler.let_go.set()
    await calls.all_done([alone, here, there])
    assert handler.alone("held 0")


async def test_a_suspect_runs_only_when_the_outcome_of_the_one_before_is_written(
    cluster: Cluster, calls: Calls, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle, writable, asked = PostgresWorkQueue.settle, asyncio.Event(), asyncio.Event()

    async def settle_when_writable(
        self: PostgresWorkQueue, settlements: Sequence[Settlement], hint: Hint | None = None
    ) -> list[Settled | Exception]:
        asked.set()
        await writable.wait()
        return await settle(self, settlements, hint)

    monkeypatch.setattr(PostgresWorkQueue, "settle", settle_when_writable)
    monkeypatch.setattr(suspects, "_WRITTEN", 0.1)
    looks = Looks(monkeypatch)
    handler = Handler()
    jobs = await make_suspects(cluster, calls, requests("suspect", 2))
    await workers.start(serve(echo=handler.echo))
    await asked.wait()
    # Its death now would be laid on a job that has done its work.
    await looks.more(4)
    assert len(handler.order) == 1
    writable.set()
    await calls.all_done(jobs)


async def test_a_handler_that_was_given_up_keeps_suspects_from_running_only_for_a_while(
    cluster: Cluster, calls: Calls, workers: Workers, monkeypatch: pytest.MonkeyPatch, looks: Looks
) -> None:
    monkeypatch.setattr("rowcall_worker.running.executor.CANCEL_GRACE", timedelta(milliseconds=50))
    let_go = asyncio.Event()
    started: list[bytes] = []

    async def echo(request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
        started.append(request.payload)
        while request.payload == b"hangs" and not let_go.is_set():
            try:
                await let_go.wait()
            except asyncio.CancelledError:
                continue
        return EchoResponse()

    await workers.start(serve(echo=echo))
    try:
        hung = await calls.submit(
            "Echo", EchoRequest(payload=b"hangs"), policy={"timeout": timedelta(milliseconds=100), "max_attempts": 1}
        )
        await calls.done(hung)
        monkeypatch.setattr(suspects, "_BESIDE_STUCK", timedelta(hours=1))
        (job,) = await make_suspects(cluster, calls, requests("suspect", 1))
        await looks.more(4)
        assert started == [b"hangs"]
        monkeypatch.setattr(suspects, "_BESIDE_STUCK", timedelta(seconds=1))
        await calls.done(job)
    finally:
        let_go.set()


async def test_a_suspect_is_left_to_others_while_handlers_that_were_given_up_have_every_slot(
    cluster: Cluster, calls: Calls, workers: Workers, monkeypatch: pytest.MonkeyPatch, looks: Looks
) -> None:
    """In threads, whose handlers nobody can stop: behind them its time would run out before it began."""
    monkeypatch.setattr("rowcall_worker.running.executor.CANCEL_GRACE", timedelta(milliseconds=50))
    monkeypatch.setattr(suspects, "_BESIDE_STUCK", timedelta(seconds=1))
    let_go = threading.Event()
    started: list[bytes] = []

    def echo(request: EchoRequest, context: SyncJobContext) -> EchoResponse:
        started.append(request.payload)
        if request.payload == b"hangs":
            let_go.wait()
        return EchoResponse()

    await workers.start(serve(echo=echo), threads=1)
    try:
        hung = await calls.submit(
            "Echo", EchoRequest(payload=b"hangs"), policy={"timeout": timedelta(milliseconds=100), "max_attempts": 1}
        )
        await calls.done(hung)
        (job,) = await make_suspects(cluster, calls, requests("suspect", 1))
        await looks.more(4)
        assert await held(cluster, job) == (JobState.JOB_STATE_READY, 2)
    finally:
        let_go.set()
    row = await calls.done(job)
    assert (row.state, row.attempt) == (JobState.JOB_STATE_SUCCEEDED, 1)
    assert started == [b"hangs", b"suspect 0"]


def test_a_worker_waits_for_quiet_a_part_of_the_suspects_own_wait() -> None:
    assert suspects.patience(timedelta(seconds=2)) == 5
    assert suspects.patience(timedelta(minutes=10)) == 60
    assert suspects.patience(timedelta(days=1)) == 600


def test_workers_that_serve_the_same_share_a_role() -> None:
    role = suspects.role_of(["b", "a"], [2, 1])
    assert role == suspects.role_of(["a", "b"], [1, 2])
    assert len({role, suspects.role_of([], [1, 2]), suspects.role_of(["a", "b"], [1]), suspects.role_of([], [])}) == 4
