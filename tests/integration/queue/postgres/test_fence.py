"""fence_v1: a servicer's own transaction on the shard commits while its attempt has the lease, and else does not.

The servicer is a login of its own with a table of its own, which has only rowcall_servicer of us.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from uuid import uuid4

import psycopg
import pytest
from psycopg.types.json import Jsonb

from rowcall.queue.model import ClaimedJob, Progress, Running
from tests.fix_queue import PostgresQueue
from tests.support.queues import NOT_OURS, READY, SCHEDULED

FENCE = "select rowcall.fence_v1(%s, %s, %s)"
SERVICER = psycopg.AsyncConnection[tuple[object, ...]]


@pytest.fixture(autouse=True)
async def ledger(queue: PostgresQueue) -> None:
    """The servicer's table."""
    await queue.admin.execute("create table ledger (entry text)")
    await queue.admin.execute("grant select, insert on ledger to test_servicer")


@pytest.fixture
async def servicer(queue: PostgresQueue) -> AsyncIterator[SERVICER]:
    """The servicer's connection, in a transaction from its first statement on."""
    async with await psycopg.AsyncConnection.connect(queue.logins.straight("test_servicer")) as connection:
        yield connection
        await connection.rollback()


def another(queue: PostgresQueue) -> AbstractAsyncContextManager[SERVICER]:
    return _Opened(queue.logins.straight("test_servicer"))


class _Opened:
    """A connection that is closed at the end of the block, whatever its transaction has come to."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn

    async def __aenter__(self) -> SERVICER:
        self._connection = await psycopg.AsyncConnection.connect(self._dsn)
        return self._connection

    async def __aexit__(self, *_: object) -> None:
        await self._connection.close()


async def running(queue: PostgresQueue) -> ClaimedJob:
    await queue.submit(queue.call())
    [job] = await queue.claim(await queue.worker(), 1)
    return job


async def fence(connection: SERVICER, job: ClaimedJob) -> None:
    await connection.execute(FENCE, [job.tenant, job.job_id, job.lease])


async def entries(queue: PostgresQueue) -> list[object]:
    return [row[0] for row in await (await queue.admin.execute("select entry from ledger order by entry")).fetchall()]


async def kill(queue: PostgresQueue, job: ClaimedJob) -> int:
    """Ends the worker that runs a job and takes it back; how many were."""
    [row] = await queue.probe.jobs([job.job_id])
    assert row.worker_id is not None
    return len(await queue.kill(row.worker_id))


async def test_what_is_written_in_time_is_kept(queue: PostgresQueue, servicer: SERVICER) -> None:
    job = await running(queue)
    await fence(servicer, job)
    await servicer.execute("insert into ledger values ('in time')")
    await servicer.commit()
    assert await entries(queue) == ["in time"]
    assert (await queue.settle(job)).settled
    assert await queue.value("select count(*) from rowcall.fence") == 0


async def test_who_is_late_already_is_told_at_once_and_what_to_do(queue: PostgresQueue, servicer: SERVICER) -> None:
    job = await running(queue)
    assert await kill(queue, job) == 1
    await servicer.execute("insert into ledger values ('late')")
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState) as refused:
        await fence(servicer, job)
    assert refused.value.diag.message_primary == f"fence_v1: the lease {job.lease} of job {job.job_id} is over"
    assert "Roll back" in (refused.value.diag.message_hint or "")
    await servicer.commit()
    assert await entries(queue) == [], "Postgres rolls back what failed"
    [again] = await queue.claim(await queue.worker())
    await fence(servicer, again)
    await servicer.execute("insert into ledger values ('the next attempt')")
    await servicer.commit()
    assert await entries(queue) == ["the next attempt"]


async def test_who_loses_the_lease_meanwhile_does_not_commit_and_holds_nobody_up(
    queue: PostgresQueue, servicer: SERVICER
) -> None:
    """The zombie's transaction is open, and its job is taken back, run again and done all the same."""
    job = await running(queue)
    await fence(servicer, job)
    await servicer.execute("insert into ledger values ('a zombie')")
    async with asyncio.timeout(20):
        assert await kill(queue, job) == 1
        [again] = await queue.claim(await queue.worker())
        async with another(queue) as second:
            await fence(second, again)
            await second.execute("insert into ledger values ('the one that counts')")
            await second.commit()
        assert (await queue.settle(again)).settled
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
        await servicer.commit()
    assert await entries(queue) == ["the one that counts"]


async def test_an_open_transaction_keeps_nothing_waiting(queue: PostgresQueue, servicer: SERVICER) -> None:
    job, neighbour = await running(queue), await running(queue)
    await fence(servicer, job)
    async with asyncio.timeout(20):
        reported = await queue.work.report_progress([Progress(Running(job.tenant, job.job_id, job.lease), 0.5, None)])
        assert len(reported) == 1
        [row] = await queue.probe.jobs([job.job_id])
        assert row.worker_id is not None
        assert (await queue.renew(row.worker_id)).alive
        assert (await queue.settle(neighbour)).settled
        assert await queue.store.cancel(job.tenant, job.job_id) is not None
        assert (await queue.row(job)).cancel_requested_at is not None
    await servicer.commit()
    assert (await queue.settle(job)).settled, "what was asked to be cancelled has its lease still"


async def test_a_commit_that_meets_the_settle_waits_for_it_and_fails(queue: PostgresQueue, servicer: SERVICER) -> None:
    """Its own worker has ended the attempt meanwhile: it took too long."""
    job = await running(queue)
    await fence(servicer, job)
    await servicer.execute("insert into ledger values ('too long')")
    async with await psycopg.AsyncConnection.connect(queue.logins.admin) as settling:
        await settling.execute(
            "select * from rowcall.settle_jobs(array[jsonb_populate_record(null::rowcall.settlement, %s)], 'c')",
            [Jsonb({"tenant": job.tenant, "job_id": str(job.job_id), "lease": job.lease, "state": 1, "error": "e"})],
        )
        committing = asyncio.ensure_future(servicer.commit())
        await queue.somebody_waits()
        await settling.commit()
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
        await committing
    assert await entries(queue) == []
    assert await queue.state(job.tenant, job.job_id) == SCHEDULED


async def test_a_commit_that_came_first_is_waited_for(queue: PostgresQueue, servicer: SERVICER) -> None:
    """From the look at its commit on the lease cannot be ended: rescue passes it by until it is through."""
    job = await running(queue)
    await fence(servicer, job)
    await servicer.execute("insert into ledger values ('committing')")
    await servicer.execute("set constraints all immediate")
    async with asyncio.timeout(20):
        assert await kill(queue, job) == 0
        assert await queue.work.report_progress([Progress(Running(job.tenant, job.job_id, job.lease), 0.5, None)]) == []
    await servicer.commit()
    assert await entries(queue) == ["committing"]
    assert [each.job_id for each in await queue.work.rescue(10)] == [job.job_id]
    assert await queue.settle(job) == NOT_OURS


async def test_transactions_of_one_attempt_do_not_wait_for_each_other(queue: PostgresQueue, servicer: SERVICER) -> None:
    job = await running(queue)
    async with another(queue) as second, asyncio.timeout(20):
        for connection, entry in ((servicer, "one"), (second, "two")):
            await fence(connection, job)
            await connection.execute("insert into ledger values (%s)", [entry])
            await connection.execute("set constraints all immediate")
        await servicer.commit()
        await second.commit()
    assert await entries(queue) == ["one", "two"]


async def test_only_a_running_job_has_a_lease(queue: PostgresQueue, servicer: SERVICER) -> None:
    """Of one that nobody runs the number may be known."""
    waiting, tried, done = await running(queue), await running(queue), await running(queue)
    await queue.work.release([waiting])
    await queue.settle(tried, SCHEDULED, error=b"e", delay=timedelta(hours=1))
    await queue.settle(done)
    for job, state in ((waiting, READY), (tried, SCHEDULED)):
        facts = await queue.facts(job.job_id)
        assert facts.state == state
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
            await servicer.execute(FENCE, [job.tenant, job.job_id, facts.lease])
        await servicer.rollback()
    for tenant, job_id, lease in (
        (done.tenant, done.job_id, done.lease),
        ("bolt", (still := await running(queue)).job_id, still.lease),
        (still.tenant, still.job_id, still.lease + 1),
        (still.tenant, uuid4(), 1),
    ):
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="is over"):
            await servicer.execute(FENCE, [tenant, job_id, lease])
        await servicer.rollback()


@pytest.mark.parametrize("missing", [0, 1, 2])
async def test_what_is_missing_is_told(queue: PostgresQueue, servicer: SERVICER, missing: int) -> None:
    job = await running(queue)
    given = [job.tenant, job.job_id, job.lease]
    given[missing] = None
    with pytest.raises(psycopg.errors.NullValueNotAllowed, match="tenant, job and lease must be given"):
        await servicer.execute(FENCE, given)


async def test_names_in_a_session_do_not_reach_into_it(queue: PostgresQueue, servicer: SERVICER) -> None:
    job = await running(queue)
    await servicer.execute("create temp table job (tenant text, job_id uuid, lease bigint, state smallint)")
    await servicer.execute("create temp table fence (tenant text, job_id uuid, lease bigint)")
    await servicer.execute("set search_path = pg_temp, pg_catalog")
    await fence(servicer, job)
    await servicer.execute("insert into public.ledger values ('late')")
    assert await kill(queue, job) == 1
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
        await servicer.commit()
