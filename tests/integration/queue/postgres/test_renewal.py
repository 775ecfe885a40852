"""A worker's lease, renewed from a thread of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from datetime import timedelta
from uuid import UUID, uuid4

import psycopg
import pytest

from rowcall.errors import RowcallError
from rowcall.queue.postgres.renewal import PostgresLeaseRenewal
from tests.fix_queue import PostgresQueue
from tests.support.gate import Gate
from tests.support.waiting import until

LEASE = timedelta(minutes=2)


async def test_a_renewal_puts_the_end_of_the_lease_off(queue: PostgresQueue) -> None:
    worker = await queue.worker(lease=timedelta(seconds=5))
    renewal = PostgresLeaseRenewal(queue.logins.worker, worker, LEASE, shard="a", prepare=queue.logins.access.prepares)
    assert (await asyncio.to_thread(renewal.renew)).alive
    left = await queue.value(
        "select lease_until - clock_timestamp() from rowcall.worker_beat where worker_id = %s", worker
    )
    assert timedelta(minutes=1) < left <= LEASE
    await asyncio.to_thread(renewal.close)


async def test_it_is_read_whatever_the_environment_says(queue: PostgresQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    """libpq sends these behind the connection string's options."""
    monkeypatch.setenv("PGDATESTYLE", "German")
    monkeypatch.setenv("PGTZ", "Asia/Kathmandu")
    worker = await queue.worker()
    renewal = PostgresLeaseRenewal(queue.logins.worker, worker, LEASE, shard="a", prepare=queue.logins.access.prepares)
    moments = [(await asyncio.to_thread(renewal.renew)).moment for _ in range(3)]
    await asyncio.to_thread(renewal.close)
    now = await queue.value("select clock_timestamp()")
    assert all(moment is not None and abs(now - moment.at) < timedelta(minutes=1) for moment in moments)


async def test_the_dead_and_the_unknown_cannot_renew(queue: PostgresQueue) -> None:
    worker = await queue.worker()
    await queue.work.retire_worker(worker)
    for each in (worker, uuid4()):
        renewal = PostgresLeaseRenewal(
            queue.logins.worker, each, LEASE, shard="a", prepare=queue.logins.access.prepares
        )
        assert not (await asyncio.to_thread(renewal.renew)).alive
        await asyncio.to_thread(renewal.close)


async def test_a_database_that_is_away_is_an_error_and_connected_to_again(queue: PostgresQueue) -> None:
    worker = await queue.worker()
    async with Gate(queue.logins.worker) as gate:
        renewal = PostgresLeaseRenewal(gate.dsn, worker, LEASE, shard="a", prepare=queue.logins.access.prepares)
        assert (await asyncio.to_thread(renewal.renew)).alive
        await gate.shut()
        for _ in range(2):
            with pytest.raises(RowcallError, match="SHARD_UNAVAILABLE"):
                await asyncio.to_thread(renewal.renew)
        await gate.open()
        assert (await asyncio.to_thread(renewal.renew)).alive
        await asyncio.to_thread(renewal.close)


async def guarded(queue: PostgresQueue, worker: UUID) -> bool:
    """Whether a session stands for the worker: its row says so, and its lock is held."""
    held: bool = await queue.value(
        "select w.guarded and exists (select from pg_locks l where l.locktype = 'advisory' and l.objsubid = 1 and l.granted"
        " and (l.classid::bigint << 32 | l.objid::bigint) = rowcall.worker_lock(w.worker_id))"
        " from rowcall.worker w where w.worker_id = %s",
        worker,
    )
    return held


@pytest.mark.straight("a session of a pooler's stands for nobody")
async def test_the_first_renewal_has_its_session_stand_for_the_worker(queue: PostgresQueue) -> None:
    worker = await queue.worker()
    renewal = PostgresLeaseRenewal(queue.logins.worker, worker, LEASE, shard="a")
    await asyncio.to_thread(renewal.renew)
    assert await guarded(queue, worker)
    await asyncio.to_thread(renewal.close)
    await until(lambda: _not(guarded(queue, worker)))


@pytest.mark.straight("a session of a pooler's stands for nobody")
async def test_a_new_connection_stands_for_the_worker_as_soon_as_the_old_one_is_gone(queue: PostgresQueue) -> None:
    worker = await queue.worker()
    async with await psycopg.AsyncConnection.connect(queue.logins.worker, autocommit=True) as old:
        await old.execute("select rowcall.guard_worker(%s)", [worker])
        renewal = PostgresLeaseRenewal(queue.logins.worker, worker, LEASE, shard="a")
        # Another session holds the lock yet: the lease is renewed all the same.
        assert (await asyncio.to_thread(renewal.renew)).alive
    await until(lambda: _not(guarded(queue, worker)))
    await asyncio.to_thread(renewal.renew)
    assert await guarded(queue, worker)
    await queue.value(
        "select count(pg_terminate_backend(pid)) from pg_stat_activity where application_name = %s", "rowcall lease"
    )
    with pytest.raises(RowcallError):
        await asyncio.to_thread(renewal.renew)
    await asyncio.to_thread(renewal.renew)
    assert await guarded(queue, worker)
    await asyncio.to_thread(renewal.close)


async def test_no_session_stands_for_a_worker_where_none_should(queue: PostgresQueue) -> None:
    worker = await queue.worker()
    renewal = PostgresLeaseRenewal(
        queue.logins.worker, worker, LEASE, shard="a", prepare=queue.logins.access.prepares, guard=False
    )
    for _ in range(2):
        await asyncio.to_thread(renewal.renew)
    assert not await queue.value("select guarded from rowcall.worker where worker_id = %s", worker)
    await asyncio.to_thread(renewal.close)


async def test_a_renewal_tells_how_late_the_loop_was(queue: PostgresQueue) -> None:
    worker = await queue.worker()
    renewal = PostgresLeaseRenewal(
        queue.logins.worker, worker, LEASE, shard="a", prepare=queue.logins.access.prepares, guard=False
    )
    await asyncio.to_thread(renewal.renew, timedelta(milliseconds=250))
    assert await queue.value("select loop_lag from rowcall.worker_beat where worker_id = %s", worker) == timedelta(
        milliseconds=250
    )
    await asyncio.to_thread(renewal.close)


async def _not(answer: Awaitable[bool]) -> bool:
    return not await answer
