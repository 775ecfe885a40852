"""Workers that die, freeze, are cut off or declared dead: nothing is lost, and one result counts."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from datetime import timedelta
from functools import partial
from uuid import UUID

import psycopg
import pytest

from rowcall.errors import RowcallError, read_envelope
from rowcall.probe.v1.probe_pb2 import EchoRequest, EchoResponse
from rowcall.queue.hints import Hint
from rowcall.queue.model import IDLE, Busy, ClaimedJob, Renewed, Settled, Settlement
from rowcall.queue.postgres.renewal import PostgresLeaseRenewal
from rowcall.queue.postgres.work import PostgresWorkQueue
from rowcall.settings import ClusterSettings
from rowcall.sharding import GATEWAY_WORKLOADS, Router
from rowcall.sharding.placement import place
from rowcall.v1.error_reason_pb2 import ErrorReason
from rowcall.v1.job_pb2 import AttemptOutcome, JobState
from rowcall_worker.serving.context import AsyncJobContext, SyncJobContext
from tests.fix_cluster import Cluster, RestartableCluster
from tests.fix_worker import Calls, Workers, error_of, serve
from tests.support.gate import Gate
from tests.support.waiting import until


class Blocking:
    """A handler that runs until it is let go; it knows how often it was called and cancelled."""

    def __init__(self, name: str) -> None:
        self.name = name.encode()
        self.let_go = asyncio.Event()
        self.started = 0
        self.cancelled = 0

    def has_started(self, times: int) -> bool:
        """Whether it was called so often."""
        return self.started == times

    async def echo(self, request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
        self.started += 1
        try:
            await self.let_go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return EchoResponse(payload=self.name, attempt=context.attempt)


def answer(response: bytes | None) -> EchoResponse:
    assert response is not None
    return EchoResponse.FromString(response)


async def identities(cluster: Cluster, shard: str) -> list[tuple[UUID, bool]]:
    """The identities that workers have taken on a shard, oldest first, and whether each is alive."""
    async with await psycopg.AsyncConnection.connect(cluster.shards[shard]) as connection:
        cursor = await connection.execute(
            "select worker_id, w.dead_at is null and b.lease_until > clock_timestamp()"
            " from rowcall.worker w join rowcall.worker_beat b using (worker_id) order by w.started_at"
        )
        return [(row[0], row[1]) for row in await cursor.fetchall()]


async def declare_dead(cluster: Cluster, shard: str) -> None:
    """Declares every worker of a shard dead."""
    async with await psycopg.AsyncConnection.connect(cluster.shards[shard], autocommit=True) as connection:
        await connection.execute("update rowcall.worker set dead_at = clock_timestamp() where dead_at is null")


class PausedRenewal(PostgresLeaseRenewal):
    """Says that the lease is renewed without renewing it: what a zombie believes."""

    def renew(self, loop_lag: timedelta | None = None, busy: Busy = IDLE) -> Renewed:
        return Renewed(alive=True, cancelled=(), paused_queues=())


async def test_a_zombies_result_does_not_count(calls: Calls, workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    zombie, heir = Blocking("zombie"), Blocking("heir")
    with monkeypatch.context() as patch:
        patch.setattr("rowcall.queue.postgres.provider.PostgresLeaseRenewal", PausedRenewal)
        first = await workers.start(serve(echo=zombie.echo), lease=timedelta(seconds=1))
    job = await calls.submit("Echo", EchoRequest())
    await until(lambda: zombie.started == 1)
    second = await workers.start(serve(echo=heir.echo))
    await until(lambda: heir.started == 1)
    # The zombie finishes while the heir is at work, and does not notice that it was declared dead.
    zombie.let_go.set()
    await first.drain()
    row = await calls.row(job)
    assert row.state == JobState.JOB_STATE_RUNNING
    assert row.worker == second.name
    heir.let_go.set()
    row = await calls.done(job)
    assert answer(row.response).payload == b"heir"
    assert zombie.cancelled == 0
    assert [(each.attempt, each.outcome, each.worker) for each in row.attempts] == [
        (1, AttemptOutcome.ATTEMPT_OUTCOME_LOST, first.name)
    ]
    assert row.attempt == 1


async def test_a_worker_that_is_declared_dead_drops_its_work_and_starts_anew(
    cluster: Cluster, calls: Calls, workers: Workers
) -> None:
    handler = Blocking("worker")
    await workers.start(serve(echo=handler.echo))
    job = await calls.submit("Echo", EchoRequest())
    await until(lambda: handler.started == 1)
    before = await identities(cluster, job.shard)
    await declare_dead(cluster, job.shard)
    await until(lambda: handler.started == 2)
    assert handler.cancelled == 1
    after = await identities(cluster, job.shard)
    assert len(after) == len(before) + 1
    assert [alive for _, alive in after] == [False, True]
    handler.let_go.set()
    row = await calls.done(job)
    assert answer(row.response).payload == b"worker"
    assert [each.outcome for each in row.attempts] == [AttemptOutcome.ATTEMPT_OUTCOME_LOST]


async def test_a_thread_that_outlives_its_lease_is_told_and_its_result_dropped(
    cluster: Cluster, calls: Calls, workers: Workers
) -> None:
    let_go = threading.Event()
    inactive = threading.Event()
    started: list[int] = []

    def echo(request: EchoRequest, context: SyncJobContext) -> EchoResponse:
        number = len(started)
        started.append(number)
        if number == 0:
            while not let_go.wait(0.01):
                if not context.is_active():
                    inactive.set()
        return EchoResponse(attempt=number)

    await workers.start(serve(echo=echo))
    try:
        job = await calls.submit("Echo", EchoRequest())
        await until(lambda: len(started) == 1)
        await declare_dead(cluster, job.shard)
        row = await calls.done(job)
        assert answer(row.response).attempt == 1
        assert inactive.is_set()
    finally:
        let_go.set()
    assert (await calls.row(job)).response == row.response


HOME = place("acme", {"a": 1, "b": 1}) or ""
"""The shard of the tenant that these tests call as."""


@pytest.fixture
async def gate(cluster: Cluster) -> AsyncIterator[Gate]:
    """A gate before the shard, to be put into a worker's settings; calls go another way."""
    async with Gate(cluster.worker.shards[HOME]) as gate:
        yield gate


def through(gate: Gate, cluster: Cluster) -> dict[str, str]:
    """The shards, one of them by way of the gate."""
    return {**cluster.worker.shards, HOME: gate.dsn}


async def test_a_worker_that_is_cut_off_stops_before_its_lease_is_over(
    cluster: Cluster, calls: Calls, workers: Workers, gate: Gate
) -> None:
    handler, heir = Blocking("cut off"), Blocking("heir")
    first = await workers.start(serve(echo=handler.echo), shards=through(gate, cluster), lease=timedelta(seconds=2))
    job = await calls.submit("Echo", EchoRequest())
    await until(lambda: handler.started == 1)
    second = await workers.start(serve(echo=heir.echo))
    gate.freeze()
    await until(lambda: heir.started == 1)
    # By the time another one has the job, the one that was cut off has ended its own run of it.
    assert handler.cancelled == 1
    heir.let_go.set()
    row = await calls.done(job)
    assert (answer(row.response).payload, row.worker) == (b"heir", second.name)
    # Back again, it takes part under another identity.
    await gate.open()
    await second.drain()
    handler.let_go.set()
    again = await calls.done(await calls.submit("Echo", EchoRequest()))
    assert (answer(again.response).payload, again.worker) == (b"cut off", first.name)


async def test_a_short_outage_costs_no_attempt(cluster: Cluster, calls: Calls, workers: Workers, gate: Gate) -> None:
    handler = Blocking("patient")
    await workers.start(
        serve(echo=handler.echo),
        shards=through(gate, cluster),
        lease=timedelta(seconds=15),
        pool_timeout=timedelta(milliseconds=200),
    )
    job = await calls.submit("Echo", EchoRequest())
    await until(lambda: handler.started == 1)
    await gate.shut()
    handler.let_go.set()
    with pytest.raises(TimeoutError):
        await calls.done(job, seconds=1)
    await gate.open()
    row = await calls.done(job)
    assert answer(row.response).payload == b"patient"
    assert (handler.started, handler.cancelled, row.attempts) == (1, 0, [])
    assert (await calls.done(await calls.submit("Echo", EchoRequest()))).state == JobState.JOB_STATE_SUCCEEDED


async def test_a_killed_postgres_costs_no_attempt(restartable_cluster: RestartableCluster) -> None:
    handler = Blocking("patient")
    cluster = restartable_cluster
    settings = ClusterSettings(**cluster.gateway.settings)
    async with (
        AsyncExitStack() as stack,
        await Router.open(settings, service="test", workloads=GATEWAY_WORKLOADS) as router,
    ):
        calls = Calls(router)
        await Workers(cluster, stack).start(serve(echo=handler.echo), lease=timedelta(seconds=30))
        jobs = await calls.submit_many("Echo", [EchoRequest()] * 20)
        await until(lambda: handler.started == 20)
        cluster.postgres.kill()
        handler.let_go.set()
        cluster.postgres.start()

        async def readable() -> bool:
            # A pooler notices what it has lost when it is used.
            with contextlib.suppress(RowcallError):
                return bool(await calls.rows(jobs))
            return False

        await until(readable)
        for row in await calls.all_done(jobs):
            assert answer(row.response).payload == b"patient"
            assert row.attempts == []
        assert (handler.started, handler.cancelled) == (20, 0)
        await calls.close()


async def test_a_handler_that_blocks_the_loop_does_not_cost_the_lease(
    cluster: Cluster, calls: Calls, workers: Workers
) -> None:
    async def echo(request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
        time.sleep(2.5)  # noqa: ASYNC251  the fault under test
        return EchoResponse(payload=b"done")

    await workers.start(serve(echo=echo), lease=timedelta(seconds=1))
    job = await calls.submit("Echo", EchoRequest())
    row = await calls.done(job)
    assert answer(row.response).payload == b"done"
    assert row.attempts == []
    assert [alive for _, alive in await identities(cluster, job.shard)] == [True]


async def test_jobs_of_a_claim_that_was_lost_on_its_way_back_are_found_again(
    cluster: Cluster, calls: Calls, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = Blocking("worker")
    lost: list[ClaimedJob] = []
    claim = PostgresWorkQueue.claim

    async def claim_and_lose(
        self: PostgresWorkQueue,
        worker_id: UUID,
        queue_id: int,
        method_ids: Sequence[int],
        limit: int,
        *,
        start: Sequence[int],
    ) -> list[ClaimedJob]:
        jobs = await claim(self, worker_id, queue_id, method_ids, limit, start=start)
        if handler.started and jobs and not lost:
            lost.extend(jobs)
            raise RowcallError(ErrorReason.ERROR_REASON_COMMIT_UNKNOWN, "the connection is gone")
        return jobs

    monkeypatch.setattr(PostgresWorkQueue, "claim", claim_and_lose)
    # Found when the first identity is retired, not by chance of the next round.
    monkeypatch.setattr("rowcall_worker.upkeep.maintenance.BURY_EVERY", 60.0)
    worker = await workers.start(serve(echo=handler.echo))
    running = await calls.submit("Echo", EchoRequest())
    await until(lambda: handler.started == 1)
    vanished = await calls.submit("Echo", EchoRequest())
    await until(lambda: len(lost) == 1)
    assert lost[0].job_id == vanished.job_id
    # The worker goes on under another identity; what it ran under the first one is not disturbed.
    after = await calls.submit("Echo", EchoRequest())
    await until(lambda: handler.started == 2)
    assert [alive for _, alive in await identities(cluster, running.shard)] == [True, True]
    handler.let_go.set()
    for job in (running, after, vanished):
        row = await calls.done(job)
        assert (answer(row.response).payload, row.worker) == (b"worker", worker.name)
    assert (await calls.row(running)).attempts == []
    assert handler.cancelled == 0
    row = await calls.row(vanished)
    assert row.lost == 0, "what nobody began was not lost"
    assert [each.outcome for each in row.attempts] == [AttemptOutcome.ATTEMPT_OUTCOME_RELEASED]
    assert [alive for _, alive in await identities(cluster, running.shard)] == [False, True]


async def test_a_result_under_a_lost_lease_is_not_written_any_more(
    cluster: Cluster, calls: Calls, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle = PostgresWorkQueue.settle
    reachable = asyncio.Event()
    written: list[int] = []

    async def settle_when_reachable(
        self: PostgresWorkQueue, settlements: Sequence[Settlement], hint: Hint | None = None
    ) -> list[Settled | Exception]:
        if not reachable.is_set():
            away = RowcallError(ErrorReason.ERROR_REASON_SHARD_UNAVAILABLE, "the shard is away")
            return [away for _ in settlements]
        written.extend(settlement.lease for settlement in settlements)
        return await settle(self, settlements, hint)

    monkeypatch.setattr(PostgresWorkQueue, "settle", settle_when_reachable)
    handler = Blocking("worker")
    worker = await workers.start(serve(echo=handler.echo))
    job = await calls.submit("Echo", EchoRequest())
    await until(partial(handler.has_started, 1))
    handler.let_go.set()
    await declare_dead(cluster, job.shard)
    await until(partial(handler.has_started, 2))
    reachable.set()
    await calls.done(job)
    await worker.drain()
    # Claimed, rescued, claimed: the first claim's number is 1, the second's is 3.
    assert written == [3]


async def test_a_worker_that_always_dies_is_not_tried_for_ever(
    cluster: Cluster, calls: Calls, workers: Workers
) -> None:
    handler = Blocking("doomed")
    await workers.start(serve(echo=handler.echo))
    job = await calls.submit("Echo", EchoRequest())
    # Twice in company that might have been to blame, and three times alone.
    for times in (1, 2, 3, 4, 5):
        await until(partial(handler.has_started, times))
        await declare_dead(cluster, job.shard)
    row = await calls.done(job)
    assert row.state == JobState.JOB_STATE_FAILED
    info = read_envelope(error_of(row))
    assert info is not None
    assert info.reason == "WORKER_LOST"


async def test_a_worker_is_guarded_by_its_session_but_not_through_a_transaction_pooler(
    cluster: Cluster, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    # From its start on, not from the first beat.
    monkeypatch.setattr("rowcall_worker.membership.lease._MAX_INTERVAL", timedelta(minutes=10))
    long = timedelta(minutes=30)

    async def guarded() -> list[bool]:
        found: list[bool] = []
        for dsn in cluster.shards.values():
            async with await psycopg.AsyncConnection.connect(dsn) as connection:
                rows = await connection.execute(
                    "select w.guarded from rowcall.worker w join rowcall.worker_beat b using (worker_id)"
                    " where w.dead_at is null and b.number > 1"
                )
                found += [row[0] for row in await rows.fetchall()]
        return found

    async def each_renewed() -> bool:
        return len(await guarded()) == len(cluster.shards)

    straight = "transaction_pooler" not in cluster.access.settings
    worker = await workers.start(lease=long)
    await until(each_renewed)
    if straight:

        async def each_guarded() -> bool:
            return await guarded() == [True, True]

        await until(each_guarded)
    await worker.drain()
    await workers.start(transaction_pooler=True, lease=long)
    await until(each_renewed)
    assert await guarded() == [False, False]


async def test_the_shard_hears_how_late_the_loop_was(cluster: Cluster, calls: Calls, workers: Workers) -> None:
    async def echo(request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
        time.sleep(1)  # noqa: ASYNC251  the fault under test
        return EchoResponse()

    worst = timedelta(0)

    async def told() -> bool:
        nonlocal worst
        async with await psycopg.AsyncConnection.connect(cluster.shards[job.shard]) as connection:
            row = await (await connection.execute("select max(loop_lag) from rowcall.worker_beat")).fetchone()
        worst = max(worst, row[0] if row is not None and row[0] is not None else worst)
        return worst > timedelta(milliseconds=500)

    await workers.start(serve(echo=echo))
    job = await calls.submit("Echo", EchoRequest())
    await until(told)


async def test_what_hangs_the_loop_is_ended_from_beside_it(
    cluster: Cluster, calls: Calls, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The only worker's loop hangs, and with it all that comes round: its attempt is named by the thread that renews."""
    monkeypatch.setattr("rowcall_worker.membership.registration.ATTEMPT_GRACE", timedelta(0))
    monkeypatch.setattr("rowcall_worker.membership.registration.allowed_time", lambda *_: timedelta(0))
    ended_meanwhile: list[bool] = []
    submitted = asyncio.Event()

    async def echo(request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
        await submitted.wait()
        if not ended_meanwhile:
            with psycopg.connect(cluster.shards[job.shard], autocommit=True) as connection:
                connection.execute("update rowcall.job set attempt_deadline = attempt_deadline - interval '1 day'")
                until_when = time.monotonic() + 20
                running = True
                while running and time.monotonic() < until_when:
                    time.sleep(0.05)  # noqa: ASYNC251  the fault under test
                    running = connection.execute("select from rowcall.job where state = 3").fetchone() is not None
            ended_meanwhile.append(not running)
        return EchoResponse()

    await workers.start(serve(echo=echo), lease=timedelta(seconds=30))
    job = await calls.submit("Echo", EchoRequest())
    submitted.set()
    row = await calls.done(job)
    assert ended_meanwhile == [True]
    assert [each.outcome for each in row.attempts][:1] == [AttemptOutcome.ATTEMPT_OUTCOME_RETRIED]
