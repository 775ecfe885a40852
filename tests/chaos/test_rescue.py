"""Whose jobs are taken back, when, and whose are not: dead processes, vanished hosts, and the living that look dead.

Times are the databases'. The quick form asserts their order alone; the long one prints and judges the figures.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from rowcall.queue.postgres.work import START_GRACE
from tests.chaos import effects
from tests.chaos.calls import Caller, caller
from tests.chaos.receipts import Receipt
from tests.chaos.stage import LOGINS, Seat, Stage, staged
from tests.fix_cluster import Cluster, RestartableCluster
from tests.support.scale import LONG, scaled, tell
from tests.support.waiting import until

JOBS = 20
ROUNDS = scaled(1, 20)
WITHIN = timedelta(seconds=3)
"""How soon the jobs of a dead process are to be ready."""
SWEEP = timedelta(seconds=1.2)
"""The longest pause between two sweeps, which are spread by a fifth around a second."""
SLACK = timedelta(seconds=0.5)
"""What a sweep itself may take on a busy machine."""
BOUND = 60.0

_LEASES = "select b.lease_until from rowcall.worker w join rowcall.worker_beat b using (worker_id) where w.name like %s"
_READY = """
select j.ready_at from rowcall.job j
where exists (select from jsonb_array_elements(j.attempts) a where a ->> 'worker' like %s)
"""
_RENEWED = """
select min(b.renewed_at) from rowcall.worker w join rowcall.worker_beat b using (worker_id) where w.dead_at is null
"""
_STEADY = """
select bool_and(b.steady_since <= clock_timestamp() - %s)
from rowcall.worker w join rowcall.worker_beat b using (worker_id)
where w.dead_at is null
"""
_TERMINATE = "select count(pg_terminate_backend(pid)) from pg_stat_activity where usename = %s"
_LOST = """
select sum(lost) from (select lost from rowcall.job union all select lost from rowcall.job_history) j
"""


@dataclass(frozen=True, slots=True)
class Held:
    """Jobs whose handlers are running, and end when the gate is opened."""

    stage: Stage
    """Where they run: a gateway, and two workers of which only the first was started."""
    caller: Caller
    """To call more."""
    answers: Sequence[asyncio.Task[Receipt]]
    """The calls that wait for them."""
    gate: Path
    """The file that opens the gate."""

    def starts(self) -> list[Receipt]:
        """Every start of a handler so far."""
        return effects.starts(self.stage.folder / "starts")

    async def started(self, times: int) -> None:
        """Waits until so many handlers were started."""
        await until(lambda: len(self.starts()) >= times, seconds=BOUND, every=0.05)

    async def finish(self) -> list[Receipt]:
        """Opens the gate; the runs that counted."""
        self.gate.touch()
        async with asyncio.timeout(BOUND):
            return await asyncio.gather(*self.answers)


@asynccontextmanager
async def held_jobs(cluster: Cluster, folder: Path, *, lease: str) -> AsyncIterator[Held]:
    """Jobs that run on the first of two workers until they are let go."""
    gate = folder / "gate"
    with staged(cluster, folder, workers=2, arguments=("--lease", lease), gate=gate) as stage:
        gateway, worker = stage.gateways[0], stage.workers[0]
        gateway.start()
        worker.start()
        await asyncio.to_thread(gateway.process.ready)
        await asyncio.to_thread(worker.process.ready)
        async with caller(gateway.address) as calls:
            answers = [asyncio.create_task(calls.call(number)) for number in range(JOBS)]
            held = Held(stage, calls, answers, gate)
            await held.started(JOBS)
            yield held


def identities(stage: Stage, seat: Seat) -> str:
    """The pattern of the names that a seat's process has in rows."""
    return f"%-{seat.process.process.pid}-%"


def times(stage: Stage, statement: str, seat: Seat) -> list[datetime]:
    """The times that a statement finds of a seat's worker, on all shards."""
    found: list[datetime] = []
    for dsn in stage.cluster.shards.values():
        with psycopg.connect(dsn) as connection:
            found += [row[0] for row in connection.execute(statement, [identities(stage, seat)])]
    return found


async def rescued(stage: Stage, seat: Seat) -> list[datetime]:
    """Waits until every job was taken back from a seat's worker; since when they are ready."""
    await until(lambda: asyncio.to_thread(lambda: len(times(stage, _READY, seat)) == JOBS), seconds=BOUND, every=0.1)
    return times(stage, _READY, seat)


def lost(stage: Stage) -> int:
    """How many runs were lost with their worker."""
    found = 0
    for dsn in stage.cluster.shards.values():
        with psycopg.connect(dsn) as connection:
            row = connection.execute(_LOST).fetchone()
            assert row is not None
            found += row[0] or 0
    return found


async def beat(stage: Stage, after: datetime) -> None:
    """Waits until every living worker has renewed its lease after a time."""

    def renewed() -> bool:
        for dsn in stage.cluster.shards.values():
            with psycopg.connect(dsn) as connection:
                row = connection.execute(_RENEWED).fetchone()
                assert row is not None
                if row[0] is None or row[0] <= after:
                    return False
        return True

    await until(lambda: asyncio.to_thread(renewed), seconds=BOUND, every=0.1)


async def steady(stage: Stage) -> None:
    """Waits until every living worker has been renewing for so long that it may declare others dead."""

    def all_steady() -> bool:
        for dsn in stage.cluster.shards.values():
            with psycopg.connect(dsn) as connection:
                row = connection.execute(_STEADY, [START_GRACE]).fetchone()
                assert row is not None
                if not row[0]:
                    return False
        return True

    await until(lambda: asyncio.to_thread(all_steady), seconds=BOUND, every=0.1)


@pytest.mark.straight("through a pooler the end of a session says nothing of its worker: the lease alone counts")
@pytest.mark.timeout(120)
@pytest.mark.parametrize("_round", range(ROUNDS))
async def test_a_killed_workers_jobs_are_ready_long_before_its_lease_is_over(
    cluster: Cluster, tmp_path: Path, _round: int
) -> None:
    async with held_jobs(cluster, tmp_path, lease="60s") as held:
        first, second = held.stage.workers
        second.start()
        await asyncio.to_thread(second.process.ready)
        await steady(held.stage)
        killed_at = held.stage.now()
        await asyncio.to_thread(first.process.kill)
        ready = await rescued(held.stage, first)
        assert max(ready) < min(times(held.stage, _LEASES, first))
        receipts = await held.finish()
        assert {receipt.call for receipt in receipts} == set(range(JOBS))
        assert len(held.starts()) == 2 * JOBS
    took = [(at - killed_at).total_seconds() for at in ready]
    tell(f"killed worker: ready after {statistics.median(took):.2f} s (median), {max(took):.2f} s (last)")
    if LONG:
        assert timedelta(seconds=max(took)) <= WITHIN


@pytest.mark.timeout(scaled(120, 300))
async def test_a_vanished_hosts_jobs_are_ready_when_its_lease_is_over_and_no_sooner(
    cluster: Cluster, tmp_path: Path
) -> None:
    async with held_jobs(cluster, tmp_path, lease="3s") as held:
        first, second = held.stage.workers
        second.start()
        await asyncio.to_thread(second.process.ready)
        await steady(held.stage)
        first.proxy.hold()
        ready = await rescued(held.stage, first)
        over = times(held.stage, _LEASES, first)
        # It may be alive and at work behind the cut: nobody takes its jobs while its lease holds.
        assert min(ready) > min(over)
        late = max(ready) - max(over)
        first.proxy.release()
        receipts = await held.finish()
        # What the vanished one did, or does on its return, counts for nothing.
        assert {receipt.call for receipt in receipts} == set(range(JOBS))
        assert min(receipt.lease for receipt in receipts) > 1
        assert len(held.starts()) == 2 * JOBS
        # It serves again, under another identity.
        await until(lambda: asyncio.to_thread(lambda: held.stage.alive(first) > 0), seconds=BOUND, every=0.1)
    tell(f"vanished host: ready {late.total_seconds():.2f} s after the end of its lease")
    if LONG:
        assert late <= SWEEP + SLACK


@pytest.mark.timeout(120)
async def test_a_handler_that_runs_for_ten_leases_and_blocks_its_loop_for_one_runs_once(
    cluster: Cluster, tmp_path: Path
) -> None:
    with staged(cluster, tmp_path, workers=2, arguments=("--lease", "1s")) as stage:
        for seat in (*stage.gateways, *stage.workers):
            seat.start()
        for seat in (*stage.gateways, *stage.workers):
            await asyncio.to_thread(seat.process.ready)
        async with caller(stage.gateways[0].address) as calls:
            receipt = await calls.call(1, busy=1.2, work=8.8)
        assert effects.starts(stage.folder / "starts") == [receipt]
        assert lost(stage) == 0


@pytest.mark.timeout(240)
async def test_terminated_backends_and_a_restart_of_postgres_run_nothing_again_that_is_alive(
    restartable_cluster: RestartableCluster, tmp_path: Path
) -> None:
    postgres = restartable_cluster.postgres
    async with held_jobs(restartable_cluster, tmp_path, lease="30s") as held:
        second = held.stage.workers[1]
        second.start()
        await asyncio.to_thread(second.process.ready)
        terminated = 0
        for _ in range(scaled(3, 20)):
            with psycopg.connect(postgres.dsn("postgres"), autocommit=True) as connection:
                row = connection.execute(_TERMINATE, [LOGINS["rowcall-worker"]]).fetchone()
            assert row is not None
            terminated += row[0]
            await beat(held.stage, held.stage.now())
        for _ in range(scaled(1, 5)):
            await asyncio.to_thread(postgres.server.stop, "immediate")
            await asyncio.to_thread(postgres.start)
            # Past the grace after a start, as long as suspicion needs to grow and a sweep to come.
            await beat(held.stage, held.stage.now() + timedelta(seconds=9))
        receipts = await held.finish()
        assert {receipt.call for receipt in receipts} == set(range(JOBS))
        assert sorted(receipt.call for receipt in held.starts()) == list(range(JOBS))
        assert lost(held.stage) == 0
    tell(f"{terminated} sessions of workers terminated, {scaled(1, 5)} restarts: {JOBS} jobs ran once")
    assert terminated >= scaled(10, 100)
