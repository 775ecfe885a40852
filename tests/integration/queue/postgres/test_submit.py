"""How calls are written: what a repeat leaves in the log, what becomes of deadlocks, how batches are sent.

Each test of a guard fails when the guard is taken out of the SQL.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from uuid import UUID

import psycopg
import pytest
from psycopg_pool import AsyncConnectionPool

from rowcall.queue.model import SubmitOutcome
from rowcall.queue.postgres.store import PostgresJobStore
from tests.fix_queue import PostgresQueue
from tests.support.queues import outcomes, taken
from tests.support.waiting import until


async def test_a_repeat_writes(queue: PostgresQueue) -> None:
    """Its answer is then as durable as the first one's, on a standby too."""
    await queue.submit(queue.call(request_id="k"))
    before = await queue.value("select pg_current_wal_insert_lsn()")
    await queue.submit(queue.call(request_id="k"))
    assert await queue.value("select repeated_at is not null from rowcall.job_key")
    assert await queue.value("select pg_current_wal_insert_lsn() > %s", before)


async def test_two_gateways_with_the_same_keys_do_not_deadlock(queue: PostgresQueue) -> None:
    """Both come to the key in the middle from different ends, and meet there. Nobody would resolve a deadlock."""
    keys = [f"{key:02}" for key in range(64)]
    await queue.submit(*(queue.call(request_id=key) for key in keys))
    await queue.admin.execute("alter role test_gateway set deadlock_timeout = '1h'")
    try:
        async with queue.another() as one, queue.another() as other:
            async with await psycopg.AsyncConnection.connect(queue.logins.admin) as middle:
                await middle.execute("select from rowcall.job_key where request_id = '32' for update")
                forwards = asyncio.create_task(one.store.submit([queue.call(request_id=key) for key in keys]))
                await queue.somebody_waits()
                backwards = asyncio.create_task(
                    other.store.submit([queue.call(request_id=key) for key in reversed(keys)])
                )
                await queue.somebody_waits(sessions=2)
                await middle.commit()
            async with asyncio.timeout(5):
                answers = [taken(answer) for answer in (*await forwards, *await backwards)]
        assert {answer.outcome for answer in answers} == {SubmitOutcome.JOINED}
    finally:
        await queue.admin.execute("alter role test_gateway reset deadlock_timeout")


async def test_collisions_are_tried_again(queue: PostgresQueue) -> None:
    """Two sessions lock two keys in opposite orders; the deadlock is resolved without the caller knowing."""
    await queue.submit(queue.call(request_id="a"), queue.call(request_id="b"))
    async with await psycopg.AsyncConnection.connect(queue.logins.admin) as other:
        await other.execute("set deadlock_timeout = '1h'")  # so that it is the store's session that is given up
        await other.execute("select from rowcall.job_key where request_id = 'b' for update")
        submit = asyncio.create_task(queue.store.submit([queue.call(request_id="a"), queue.call(request_id="b")]))
        await queue.somebody_waits()
        await other.execute("select from rowcall.job_key where request_id = 'a' for update")
        await other.commit()
        assert outcomes(await submit) == ["JOINED", "JOINED"]
    deadlocks = "select deadlocks > 0 from pg_stat_database where datname = current_database()"
    await until(lambda: queue.value(deadlocks))


@pytest.mark.straight("it counts the statements that its own session prepared")
async def test_batches_of_every_size_and_content_are_sent_the_same_way(queue: PostgresQueue) -> None:
    """One prepared statement for all of them: the types of the columns do not change with what is in them."""
    async with AsyncConnectionPool(queue.logins.gateway, min_size=1, max_size=1, open=False) as pool:
        store = PostgresJobStore(pool, pool)
        await store.submit([queue.call()])
        await store.submit([queue.call(request_id=f"k{n}", labels={"a": "b"}) for n in range(300)])
        await store.submit([queue.call(actor="ann", run_at=datetime.now(UTC), waiter_id=UUID(int=1), lane=1)])
        async with pool.connection() as connection:
            rows = await (await connection.execute("select statement from pg_prepared_statements")).fetchall()
    assert len(rows) == 1
