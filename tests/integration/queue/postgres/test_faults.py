"""What callers of the queue are told when the database fails them, and that nothing acknowledged is lost by it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from uuid import uuid4

import psycopg
import pytest
from psycopg_pool import AsyncConnectionPool
from uuid_utils.compat import uuid7

from rowcall.catalogue.model import Policy
from rowcall.errors import RowcallError, reason_name
from rowcall.names import operation_name
from rowcall.queue.model import Submission, SubmitOutcome, Submitted
from rowcall.queue.postgres.store import PostgresJobStore
from rowcall.queue.postgres.work import PostgresWorkQueue
from tests.fix_cluster import RestartableCluster
from tests.fix_pooler import Access
from tests.fix_queue import PostgresQueue
from tests.support.gate import Gate
from tests.support.queues import READY
from tests.support.waiting import until


def reason(answer: object) -> str:
    """The reason of an error, the outcome of anything else."""
    if isinstance(answer, RowcallError):
        return reason_name(answer.reason)
    return answer.outcome.name if isinstance(answer, Submitted) else repr(answer)


@asynccontextmanager
async def store_of(
    dsn: str, access: Access, *, give_up_after: float = 30, size: int = 2
) -> AsyncIterator[PostgresJobStore]:
    """A store over a pool of its own."""
    kwargs = {"prepare_threshold": access.prepare_threshold}
    async with AsyncConnectionPool(
        dsn, kwargs=kwargs, min_size=1, max_size=size, open=False, name="a", timeout=1
    ) as pool:
        store = PostgresJobStore(pool, pool, give_up_after=timedelta(seconds=give_up_after))
        yield store
        await store.close()


@asynccontextmanager
async def holding(queue: PostgresQueue, statement: str) -> AsyncIterator[psycopg.AsyncConnection[tuple[object, ...]]]:
    """A session that holds the locks of a statement until it commits."""
    async with await psycopg.AsyncConnection.connect(queue.logins.admin) as connection:
        await connection.execute(statement.encode())
        yield connection


async def is_there(queue: PostgresQueue, call: Submission) -> bool:
    """Whether a call's row is committed."""
    return await queue.state(call.tenant, call.job_id) is not None


async def is_created(store: PostgresJobStore, call: Submission) -> bool:
    """Whether a call can be submitted."""
    return reason((await store.submit([call]))[0]) == "CREATED"


LOCK_KEY = "select from rowcall.job_key where request_id = 'k' for update"


async def test_a_connection_lost_under_a_submit_leaves_it_unknown_and_a_repeat_joins(queue: PostgresQueue) -> None:
    """The statement waits in the server when the network breaks; the server goes on and commits."""
    first = queue.call(request_id="k")
    await queue.submit(first)
    gate = Gate(queue.logins.gateway)
    await gate.open()
    keyed, unkeyed = queue.call(request_id="k"), queue.call()
    async with store_of(gate.dsn, queue.logins.access) as store, holding(queue, LOCK_KEY) as lock:
        submit = asyncio.create_task(store.submit([keyed, unkeyed]))
        await queue.somebody_waits()
        await gate.shut()
        answers = await submit
        await lock.commit()
    assert [reason(answer) for answer in answers] == ["COMMIT_UNKNOWN", "COMMIT_UNKNOWN"]
    for answer, call in zip(answers, (keyed, unkeyed), strict=True):
        assert isinstance(answer, RowcallError)
        assert answer.metadata["operation"] == operation_name("acme", call.job_id)
        assert answer.no_retry is (call.request_id is None), "a stock retry of a call without a key would do it twice"
    await until(lambda: is_there(queue, unkeyed))
    assert await queue.submit(keyed) == [Submitted(SubmitOutcome.JOINED, first.job_id)]
    await gate.shut()


async def test_a_submit_that_takes_too_long_is_given_up_not_cancelled(queue: PostgresQueue) -> None:
    """As when a synchronous standby is gone: the commit may come later, so the server is not told to stop."""
    await queue.submit(queue.call(request_id="k"))
    call = queue.call()
    async with store_of(queue.logins.gateway, queue.logins.access, give_up_after=0.2) as store:
        async with holding(queue, LOCK_KEY) as lock:
            async with asyncio.timeout(20):
                answers = await store.submit([queue.call(request_id="k"), call])
            assert [reason(answer) for answer in answers] == ["COMMIT_UNKNOWN", "COMMIT_UNKNOWN"]
            await lock.commit()
        await until(lambda: is_there(queue, call))
        assert [reason(answer) for answer in await store.submit([queue.call()])] == ["CREATED"], "the pool goes on"


async def test_a_caller_that_is_cancelled_leaves_its_statement_running(queue: PostgresQueue) -> None:
    await queue.submit(queue.call(request_id="k"))
    call = queue.call()
    async with store_of(queue.logins.gateway, queue.logins.access) as store, holding(queue, LOCK_KEY) as lock:
        submit = asyncio.create_task(store.submit([queue.call(request_id="k"), call]))
        await queue.somebody_waits()
        submit.cancel()
        with pytest.raises(asyncio.CancelledError):
            await submit
        closing = asyncio.create_task(store.close())
        await asyncio.sleep(0)
        assert not closing.done(), "it waits for what is in flight"
        await lock.commit()
        await closing
        assert await queue.state("acme", call.job_id) == READY


async def test_a_shard_that_cannot_be_reached_is_unavailable(queue: PostgresQueue) -> None:
    gate = Gate(queue.logins.gateway)
    await gate.open()
    async with store_of(gate.dsn, queue.logins.access) as store:
        assert [reason(answer) for answer in await store.submit([queue.call()])] == ["CREATED"]
        await gate.shut()
        answers = await store.submit([queue.call(request_id="k"), queue.call(request_id="k"), queue.call()])
        assert [reason(answer) for answer in answers] == ["SHARD_UNAVAILABLE"] * 3
        assert len({id(answer) for answer in answers}) == 3
        error = answers[0]
        assert isinstance(error, RowcallError)
        assert (error.metadata, error.no_retry) == ({"shard": "a"}, False)
        for attempt in (store.read([("acme", uuid4())]), store.submit_atomic([queue.call()])):
            with pytest.raises(RowcallError, match="SHARD_UNAVAILABLE"):
                await attempt
        await gate.open()
        await until(lambda: is_created(store, queue.call()), seconds=20)
    await gate.shut()


async def test_connections_that_died_while_idle_cost_no_call(restartable_cluster: RestartableCluster) -> None:
    """After a restart of Postgres every pooled connection is dead: none of them may leave a call's outcome unknown."""
    dsn = restartable_cluster.shards["a"]
    async with store_of(dsn, restartable_cluster.access, size=4) as store:
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as admin:
            await admin.execute("select rowcall.adopt_tenant('acme', 1)")
        ids = await store.method_ids("a.B/C", Policy())
        call = Submission("acme", uuid7(), ids, 3, b"")
        await asyncio.gather(*(store.submit([replace(call, job_id=uuid7())]) for _ in range(20)))
        restartable_cluster.postgres.stop()
        restartable_cluster.postgres.start()
        answers = [(await store.submit([replace(call, job_id=uuid7())]))[0] for _ in range(8)]
        assert [reason(answer) for answer in answers] == ["CREATED"] * 8
        assert len(await store.list("acme", limit=100)) == 28


async def test_a_lost_atomic_batch_is_unknown_only_once_its_commit_was_sent(queue: PostgresQueue) -> None:
    await queue.submit(queue.call(request_id="k"))
    await queue.admin.execute(
        """
        create function public.wait_at_commit() returns trigger language plpgsql security definer as $$
        begin
          perform pg_advisory_xact_lock(42);
          return null;
        end
        $$;
        create constraint trigger wait_at_commit after insert on rowcall.job deferrable initially deferred
        for each row execute function public.wait_at_commit()
        """
    )
    gate = Gate(queue.logins.gateway)
    for lock, expected in ((LOCK_KEY, "SHARD_UNAVAILABLE"), ("select pg_advisory_lock(42)", "COMMIT_UNKNOWN")):
        await gate.open()
        async with store_of(gate.dsn, queue.logins.access) as store, holding(queue, lock):
            batch = [queue.call(request_id="k"), queue.call()]
            submit = asyncio.create_task(store.submit_atomic(batch))
            await queue.somebody_waits()
            await gate.shut()
            with pytest.raises(RowcallError, match=expected):
                await submit
    await gate.shut()


async def test_collisions_without_end_are_a_conflict(queue: PostgresQueue) -> None:
    await queue.admin.execute(
        """
        create function public.collide() returns trigger language plpgsql as $$
        begin
          raise exception 'collided' using errcode = 'serialization_failure';
        end
        $$;
        create trigger collide before insert on rowcall.job for each row execute function public.collide()
        """
    )
    answers = await queue.store.submit([queue.call(), queue.call()])
    assert [reason(answer) for answer in answers] == ["CONFLICT", "CONFLICT"]
    with pytest.raises(RowcallError, match="CONFLICT"):
        await queue.store.submit_atomic([queue.call()])


async def test_a_database_without_our_functions_is_a_schema_mismatch(queue: PostgresQueue) -> None:
    await queue.admin.execute("drop function rowcall.read_outcomes; drop function rowcall.claim_jobs")
    with pytest.raises(RowcallError, match=r"SCHEMA_MISMATCH: .*rowcall migrate"):
        await queue.store.outcomes([("acme", uuid4())])
    with pytest.raises(RowcallError, match="SCHEMA_MISMATCH"):
        await queue.claim(await queue.worker())


async def test_a_login_without_its_role_is_told_to_the_operator(queue: PostgresQueue) -> None:
    async with store_of(queue.logins.nobody, queue.logins.access) as store:
        with pytest.raises(RowcallError, match="rowcall_gateway"):
            await store.method_ids("a.B/C", Policy())


async def test_a_shard_without_a_name_is_a_schema_mismatch(queue: PostgresQueue) -> None:
    await queue.admin.execute("delete from rowcall.shard_info")
    async with store_of(queue.logins.gateway, queue.logins.access) as store:
        with pytest.raises(RowcallError, match="SCHEMA_MISMATCH"):
            await store.fingerprint_key()


async def test_nothing_is_submitted_under_another_shards_name(queue: PostgresQueue) -> None:
    async with AsyncConnectionPool(
        queue.logins.gateway,
        kwargs={"prepare_threshold": queue.logins.access.prepare_threshold},
        min_size=1,
        max_size=2,
        open=False,
    ) as pool:
        other = PostgresJobStore(pool, pool, shard="other")
        with pytest.raises(RowcallError, match="configured as shard 'other' is the shard") as error:
            await other.method_ids("a.B/Unwritten", Policy())
        with pytest.raises(RowcallError, match="SCHEMA_MISMATCH"):
            await other.fingerprint_key()
        await other.close()
    assert error.value.metadata["shard"] == "other"
    found = await queue.admin.execute("select from rowcall.method where name = 'a.B/Unwritten'")
    assert await found.fetchall() == []


async def test_a_read_that_loses_its_connection_is_only_unavailable(queue: PostgresQueue) -> None:
    gate = Gate(queue.logins.gateway)
    await gate.open()
    async with (
        store_of(gate.dsn, queue.logins.access) as store,
        holding(queue, "lock table rowcall.job in access exclusive mode"),
    ):
        read = asyncio.create_task(store.read([("acme", uuid4())]))
        await queue.somebody_waits()
        await gate.shut()
        with pytest.raises(RowcallError, match="SHARD_UNAVAILABLE"):
            await read
    await gate.shut()


async def test_a_claim_whose_caller_is_cancelled_runs_to_its_end(queue: PostgresQueue) -> None:
    """What it claimed is then the worker's, and comes back with the worker's lease, never half."""
    await queue.submit(queue.call())
    worker = await queue.worker()
    async with AsyncConnectionPool(
        queue.logins.worker,
        kwargs={"prepare_threshold": queue.logins.access.prepare_threshold},
        min_size=1,
        max_size=1,
        open=False,
        name="a",
    ) as pool:
        work = PostgresWorkQueue(pool, pool, pool)
        async with holding(queue, "lock table rowcall.queue_lane in access exclusive mode") as lock:
            claim = asyncio.create_task(
                work.claim(worker, queue.ids.queue_id, [queue.ids.method_id], 1, start=(0, 0, 0, 0))
            )
            await queue.somebody_waits()
            claim.cancel()
            with pytest.raises(asyncio.CancelledError):
                await claim
            await lock.commit()
        await work.close()
    assert await queue.value("select state from rowcall.job") == 3
