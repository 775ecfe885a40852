"""The job's own transaction as the queue has it: what ends it, and what cannot."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from psycopg_pool import AsyncConnectionPool

from rowcall.queue.faults import TransactionFault
from rowcall.queue.model import ClaimedJob, Settled, Settlement
from rowcall.queue.postgres.transaction import PostgresJobTransaction
from rowcall.queue.postgres.wire.lent import LentAsyncConnection
from rowcall.queue.postgres.work import PostgresWorkQueue
from rowcall.queue.transactions import TransactionLimits
from rowcall.v1.error_reason_pb2 import ErrorReason
from tests.fix_queue import Logins, PostgresQueue
from tests.support.queues import NOT_OURS, RUNNING, SCHEDULED, SUCCEEDED
from tests.support.waiting import until

LIMITS = TransactionLimits(timedelta(minutes=1), timedelta(minutes=1), timedelta(seconds=10))
INSERT = "insert into public.effect (note) values ('kept')"
HOLD = 7
"""The advisory lock that a commit waits for."""
WAIT_AT_COMMIT = f"""
create function public.at_commit() returns trigger language plpgsql as $$
begin
  perform pg_advisory_xact_lock({HOLD});
  return null;
end
$$;
create constraint trigger at_commit after insert on public.effect deferrable initially deferred
  for each row execute function public.at_commit();
"""


class Opened:
    """A claimed job of the shard "a", with a transaction that a handler has written in."""

    def __init__(
        self, queue: PostgresQueue, work: PostgresWorkQueue, transaction: PostgresJobTransaction, job: ClaimedJob
    ) -> None:
        self.queue = queue
        self.work = work
        """Which the transaction is of."""
        self.transaction = transaction
        self.job = job
        self.closed = False
        """Whether a test has closed the transaction itself."""

    @property
    def success(self) -> Settlement:
        """The settlement of the handler's success."""
        return Settlement(self.job.tenant, self.job.job_id, self.job.lease, SUCCEEDED, response=b"response")

    @property
    def again(self) -> Settlement:
        """The settlement of an attempt that is to be tried again."""
        return Settlement(self.job.tenant, self.job.job_id, self.job.lease, SCHEDULED, error=b"", delay=timedelta(0))

    async def settling(self) -> asyncio.Task[Settled]:
        """The settlement of the handler's success, under way: its commit waits for HOLD, which is the test's to let go of."""
        await self.queue.admin.execute("select pg_advisory_lock(%s)", [HOLD])
        assert self.transaction.seal() is None
        settling = asyncio.create_task(self.transaction.settle(self.success))
        await self.queue.somebody_waits()
        return settling

    async def effects(self) -> int:
        """How many effects were kept."""
        count: int = await self.queue.value("select count(*) from public.effect")
        return count

    async def state(self) -> int | None:
        """The job's."""
        return await self.queue.state(self.job.tenant, self.job.job_id)


@asynccontextmanager
async def lending(logins: Logins, size: int = 1) -> AsyncIterator[AsyncConnectionPool[Any]]:
    """A pool as workers have it for transactions."""
    kwargs = {"prepare_threshold": None, "autocommit": True}
    async with AsyncConnectionPool(
        logins.worker, kwargs=kwargs, min_size=0, max_size=size, open=False, name="a", timeout=10
    ) as pool:
        yield pool


def work_on(pool: AsyncConnectionPool[Any]) -> PostgresWorkQueue:
    """The work queue of a worker that has this pool for transactions."""
    return PostgresWorkQueue(pool, pool, pool, transaction_pool=pool)


@pytest.fixture
async def opened(queue: PostgresQueue, logins: Logins) -> AsyncIterator[Opened]:
    await queue.admin.execute("create table public.effect (note text)")
    await queue.admin.execute("grant insert on public.effect to rowcall_worker")
    await queue.admin.execute(WAIT_AT_COMMIT)
    await queue.submit(queue.call())
    [job] = await queue.claim(await queue.worker())
    async with lending(logins) as pool:
        work = work_on(pool)
        transaction = await work.transactions(LIMITS).begin(threaded=False, expired=lambda: None)
        assert isinstance(transaction.connection, LentAsyncConnection)
        await transaction.connection.execute(INSERT)
        opened = Opened(queue, work, transaction, job)
        yield opened
        if not opened.closed:
            await transaction.close()


async def test_a_transaction_settles_inside_itself(opened: Opened) -> None:
    assert opened.transaction.seal() is None
    assert await opened.transaction.settle(opened.success) == Settled(settled=True, state=SUCCEEDED, waiter_id=None)
    assert (await opened.state(), await opened.effects()) == (SUCCEEDED, 1)


async def test_a_stale_settlement_keeps_nothing(opened: Opened) -> None:
    await opened.queue.admin.execute("update rowcall.job set lease = lease + 1")
    assert opened.transaction.seal() is None
    assert await opened.transaction.settle(opened.success) == NOT_OURS
    assert (await opened.state(), await opened.effects()) == (RUNNING, 0)


async def test_a_commit_is_not_cancelled(opened: Opened) -> None:
    """Whoever waits for it may go: it runs to its end, and counts."""
    queue = opened.queue
    settling = await opened.settling()
    settling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await settling
    # The worker's end waits for it.
    closing = asyncio.create_task(opened.work.close())
    await queue.somebody_waits()
    assert not closing.done()
    await queue.admin.execute("select pg_advisory_unlock(%s)", [HOLD])
    await closing
    assert (await opened.state(), await opened.effects()) == (SUCCEEDED, 1)


async def test_the_connection_is_given_back_behind_a_commit_that_is_under_way(opened: Opened) -> None:
    """As at a worker's end: whoever waits for the commit is cancelled, and closes the transaction."""
    queue = opened.queue
    settling = await opened.settling()
    settling.cancel()
    closing = asyncio.create_task(opened.transaction.close())
    opened.closed = True
    await asyncio.wait({closing}, timeout=0.2)
    assert not closing.done()
    await queue.admin.execute("select pg_advisory_unlock(%s)", [HOLD])
    await closing
    assert (await opened.state(), await opened.effects()) == (SUCCEEDED, 1)


async def test_a_commit_is_not_cut_off_with_the_attempt(opened: Opened) -> None:
    """A lease that is lost while it is under way ends handlers, not commits."""
    queue = opened.queue
    settling = await opened.settling()
    opened.transaction.cut()
    await queue.admin.execute("select pg_advisory_unlock(%s)", [HOLD])
    assert await settling == Settled(settled=True, state=SUCCEEDED, waiter_id=None)
    assert await opened.effects() == 1


async def test_a_settle_behind_a_commit_in_doubt_waits_until_it_is_known(opened: Opened) -> None:
    """A commit whose connection is gone may still be carried out: the row's lock says whether."""
    queue = opened.queue
    settling = await opened.settling()
    opened.transaction._shut()
    with pytest.raises(TransactionFault) as caught:
        await settling
    assert caught.value.reason == ErrorReason.ERROR_REASON_TRANSACTION_LOST
    again = asyncio.create_task(queue.work.settle([opened.again]))
    # The commit for the lock, the settle for the row.
    await queue.somebody_waits(2)
    assert not again.done()
    await queue.admin.execute("select pg_advisory_unlock(%s)", [HOLD])
    assert await again == [NOT_OURS]
    assert (await opened.state(), await opened.effects()) == (SUCCEEDED, 1)


async def test_a_cut_transaction_keeps_nothing(opened: Opened) -> None:
    opened.transaction.cut()
    with pytest.raises(psycopg.OperationalError, match="the job's transaction is over"):
        await opened.transaction.connection.execute(INSERT)  # type: ignore[misc]
    await opened.transaction.close()
    assert await opened.effects() == 0
    # Its place in the pool is another's.
    other = await opened.work.transactions(LIMITS).begin(threaded=False, expired=lambda: None)
    await other.close()


async def test_a_row_that_the_shard_refuses_is_the_workers_fault(opened: Opened) -> None:
    assert opened.transaction.seal() is None
    broken = Settlement(opened.job.tenant, opened.job.job_id, opened.job.lease, SUCCEEDED, b"", span_id="\0")
    with pytest.raises(Exception, match="refused the row") as caught:
        await opened.transaction.settle(broken)
    assert getattr(caught.value, "reason", None) == ErrorReason.ERROR_REASON_INTERNAL
    assert (await opened.state(), await opened.effects()) == (RUNNING, 0)


@pytest.mark.parametrize("threaded", [False, True])
async def test_notices_are_the_pools_again_when_the_connection_is(
    queue: PostgresQueue, logins: Logins, *, threaded: bool
) -> None:
    """The worker hears of a commit that no standby has by a notice."""
    async with lending(logins) as pool:
        transactions = work_on(pool).transactions(LIMITS)
        transaction = await transactions.begin(threaded=threaded, expired=lambda: None)
        heard: list[str] = []
        transaction.connection.add_notice_handler(lambda notice: heard.append(notice.message_primary or ""))
        transaction.seal()
        await transaction.roll_back()
        await transaction.close()
        noticed: list[str] = []
        async with pool.connection() as connection:
            connection.add_notice_handler(lambda notice: noticed.append(notice.message_primary or ""))
            await connection.execute("do $$ begin raise warning 'listen'; end $$")
        assert (heard, noticed) == ([], ["listen"])
        del connection


async def test_a_begin_that_nobody_waits_for_any_more_is_given_back(queue: PostgresQueue, logins: Logins) -> None:
    async with lending(logins) as pool:
        transactions = work_on(pool).transactions(LIMITS)
        first = await transactions.begin(threaded=False, expired=lambda: None)
        begin = asyncio.create_task(transactions.begin(threaded=False, expired=lambda: None))
        await until(lambda: pool.get_stats().get("requests_waiting") == 1)
        begin.cancel()
        with pytest.raises(asyncio.CancelledError):
            await begin
        await first.close()
        again = await transactions.begin(threaded=False, expired=lambda: None)
        await again.close()


async def next_session(opened: Opened) -> int:
    """The session of the next transaction of the same pool, of one connection; the first transaction is closed."""
    await opened.transaction.roll_back()
    await opened.transaction.close()
    following = await opened.work.transactions(LIMITS).begin(threaded=False, expired=lambda: None)
    try:
        return following.connection.info.backend_pid
    finally:
        await following.close()


@pytest.mark.straight("the process id that a pooler gives is none of the server's")
async def test_a_session_is_not_given_back_in_which_the_handler_ended_the_transaction_itself(opened: Opened) -> None:
    """Whatever it has set since, no rollback takes away."""
    connection = opened.transaction.connection
    assert isinstance(connection, LentAsyncConnection)
    pid = connection.info.backend_pid
    await connection.execute("commit")
    await connection.execute("set search_path = nowhere")
    await connection.execute("commit")
    assert opened.transaction.seal() is not None
    assert await next_session(opened) != pid


async def test_what_a_handler_has_set_behind_its_own_commit_is_gone_with_the_attempt(opened: Opened) -> None:
    connection = opened.transaction.connection
    assert isinstance(connection, LentAsyncConnection)
    await connection.execute("commit")
    await connection.execute("set datestyle = 'German'; set role rowcall_worker; create temporary table left_behind ()")
    await connection.execute("commit")
    await connection.execute("select 1")
    assert opened.transaction.seal() is None, "it cannot be seen yet"
    await opened.transaction.roll_back()
    await opened.transaction.close()
    following = await opened.work.transactions(LIMITS).begin(threaded=False, expired=lambda: None)
    assert isinstance(following.connection, LentAsyncConnection)
    cursor = await following.connection.execute(
        "select current_setting('datestyle'), current_user::text, to_regclass('left_behind') is null"
    )
    assert await cursor.fetchone() == ("ISO, MDY", "test_worker", True)
    await following.close()


@pytest.mark.straight("the process id that a pooler gives is none of the server's")
@pytest.mark.parametrize(
    ("statement", "stays"), [("select pg_read_file('x')", False), ("select 1 / 0", True)], ids=["state", "content"]
)
async def test_a_session_is_not_given_back_that_refused_a_handler_for_its_state(
    opened: Opened, statement: str, stays: bool
) -> None:
    connection = opened.transaction.connection
    assert isinstance(connection, LentAsyncConnection)
    pid = connection.info.backend_pid
    with pytest.raises(psycopg.Error):
        await connection.execute(statement.encode())
    assert opened.transaction.seal() is None
    assert (await next_session(opened) == pid) is stays
