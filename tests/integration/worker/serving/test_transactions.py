"""The job's own transaction: what a handler writes through it is kept with the job's success, and never without."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import grpc
import psycopg
import pytest
from google.longrunning.operations_pb2 import Operation
from google.rpc.code_pb2 import Code
from google.rpc.status_pb2 import Status
from psycopg.rows import dict_row, tuple_row

from rowcall.errors import read_envelope
from rowcall.probe.v1.probe_pb2 import EchoRequest, EchoResponse, RunRequest, RunResponse
from rowcall.queue.model import AttemptRow, JobRow
from rowcall.sharding.placement import place
from rowcall.v1.job_pb2 import JobState
from rowcall_worker import Cancel, Fail, Retry, finished
from rowcall_worker.serving.context import AsyncJobContext, SyncJobContext
from tests.fix_cluster import Cluster
from tests.fix_worker import Calls, Job, PolicyChanges, Workers, error_of, serve
from tests.support.postgres_proxy import PostgresProxy
from tests.support.waiting import until

HOME = place("acme", {"a": 1, "b": 1}) or ""
"""The shard of the tenant that these tests call as."""
INSERT = "insert into public.effect (note) values (%s)"
ONCE: PolicyChanges = {"max_attempts": 1}
QUICK: PolicyChanges = {"backoff_initial": timedelta(milliseconds=1), "backoff_maximum": timedelta(milliseconds=2)}


@dataclass(slots=True)
class Effects:
    """The table that handlers write."""

    shards: dict[str, psycopg.AsyncConnection[Any]] = field(default_factory=dict)

    async def notes(self) -> list[str]:
        """What was kept, on any shard."""
        found: list[str] = []
        for admin in self.shards.values():
            found += [row[0] for row in await (await admin.execute("select note from public.effect")).fetchall()]
        return sorted(found)

    async def of(self, job: Job, query: str, *parameters: object) -> Any:
        """The first column of the first row of a query on a job's shard; None where there is no row."""
        row = await (await self.shards[job.shard].execute(query, parameters)).fetchone()
        return None if row is None else row[0]

    async def are_open(self, count: int) -> bool:
        """Whether so many sessions of handlers are inside a transaction."""
        return await self.transactions() == count

    async def nobody(self) -> bool:
        """Whether no session of a handler is inside a transaction."""
        return await self.are_open(0)

    async def transactions(self) -> int:
        """How many sessions of handlers are inside a transaction."""
        query = (
            "select count(*) from pg_stat_activity where datname = current_database() "
            "and application_name like '% transaction' and xact_start is not null"
        )
        return sum([(await (await admin.execute(query)).fetchone() or (0,))[0] for admin in self.shards.values()])


@pytest.fixture
async def effects(cluster: Cluster) -> AsyncIterator[Effects]:
    """A table without a key on every shard: an effect that were kept twice would be there twice."""
    async with AsyncExitStack() as stack:
        made = Effects()
        for name, dsn in cluster.shards.items():
            admin = await stack.enter_async_context(await psycopg.AsyncConnection.connect(dsn, autocommit=True))
            await admin.execute("create table public.effect (note text not null)")
            await admin.execute("grant select, insert on public.effect to rowcall_worker")
            made.shards[name] = admin
        yield made


def reason_of(row: JobRow) -> str:
    info = read_envelope(error_of(row))
    assert info is not None
    return info.reason


async def test_what_an_async_handler_writes_commits_with_its_success(
    calls: Calls, workers: Workers, effects: Effects
) -> None:
    before: list[list[str]] = []

    async def echo(request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
        async with context.transaction() as connection:
            await connection.execute(INSERT, ["first"])
        async with context.transaction() as again:
            assert again is connection
            await again.execute(INSERT, ["second"])
        before.append(await effects.notes())
        return EchoResponse(payload=b"done")

    await workers.start(serve(echo=echo))
    row = await calls.done(await calls.submit("Echo", EchoRequest()))
    assert row.state == JobState.JOB_STATE_SUCCEEDED
    assert row.response == EchoResponse(payload=b"done").SerializeToString()
    assert before == [[]]
    assert await effects.notes() == ["first", "second"]


async def test_what_a_sync_handler_writes_commits_with_its_success(
    calls: Calls, workers: Workers, effects: Effects
) -> None:
    def echo(request: EchoRequest, context: SyncJobContext) -> EchoResponse:
        assert threading.current_thread() is not threading.main_thread()
        with context.transaction() as connection:
            connection.execute(INSERT, ["first"])
        with context.transaction() as again:
            assert again is connection
            assert again.execute("select note from public.effect").fetchall() == [("first",)]
        return EchoResponse()

    await workers.start(serve(echo=echo))
    row = await calls.done(await calls.submit("Echo", EchoRequest()))
    assert row.state == JobState.JOB_STATE_SUCCEEDED
    assert await effects.notes() == ["first"]


def fails(how: str) -> Callable[[AsyncJobContext], Awaitable[EchoResponse | Operation]]:
    """The end of a handler that does not succeed."""

    async def end(context: AsyncJobContext) -> EchoResponse | Operation:
        match how:
            case "raises":
                raise ValueError("a fault")
            case "aborts":
                await context.abort(grpc.StatusCode.NOT_FOUND, "No such thing.")
            case "sets a code":
                context.set_code(grpc.StatusCode.NOT_FOUND)
            case "snoozes":
                context.snooze(timedelta(hours=1))
            case "retries":
                raise Retry(timedelta(hours=1))
            case "cancels":
                raise Cancel
            case "fails":
                raise Fail(grpc.StatusCode.NOT_FOUND, "No such thing.")
            case "answers with another type":
                return Operation()
            case "takes too long":
                await asyncio.Event().wait()
        return EchoResponse()

    return end


@pytest.mark.parametrize(
    "how",
    [
        *("raises", "aborts", "sets a code", "snoozes", "retries", "cancels", "fails", "answers with another type"),
        "takes too long",
    ],
)
async def test_nothing_is_kept_of_an_attempt_that_does_not_succeed(
    calls: Calls, workers: Workers, effects: Effects, how: str
) -> None:
    async def echo(request: EchoRequest, context: AsyncJobContext) -> EchoResponse | Operation:
        async with context.transaction() as connection:
            await connection.execute(INSERT, ["lost"])
        return await fails(how)(context)

    await workers.start(serve(echo=echo))
    policy: PolicyChanges = {"max_attempts": 1, "timeout": timedelta(seconds=1 if how == "takes too long" else 60)}
    if how == "retries":
        policy["max_attempts"] = 2
    job = await calls.submit("Echo", EchoRequest(), policy=policy)
    row = await calls.until(job, lambda row: row.done or row.state == JobState.JOB_STATE_SCHEDULED)
    assert row.state == {
        "snoozes": JobState.JOB_STATE_SCHEDULED,
        "retries": JobState.JOB_STATE_SCHEDULED,
        "cancels": JobState.JOB_STATE_CANCELLED,
    }.get(how, JobState.JOB_STATE_FAILED)
    await until(effects.nobody)
    assert await effects.notes() == []


@pytest.mark.parametrize("sync", [False, True])
async def test_a_part_that_raises_is_undone_and_the_rest_is_kept(
    calls: Calls, workers: Workers, effects: Effects, *, sync: bool
) -> None:
    def echo_in_thread(request: EchoRequest, context: SyncJobContext) -> EchoResponse:
        with context.transaction() as connection:
            connection.execute(INSERT, ["kept"])
        with suppress(psycopg.errors.NotNullViolation), context.transaction() as connection:
            connection.execute(INSERT, ["undone"])
            connection.execute(INSERT, [None])
        with context.transaction() as connection:
            connection.execute(INSERT, ["kept too"])
        return EchoResponse()

    async def echo(request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
        async with context.transaction() as connection:
            await connection.execute(INSERT, ["kept"])
        with suppress(psycopg.errors.NotNullViolation):
            async with context.transaction() as connection:
                await connection.execute(INSERT, ["undone"])
                await connection.execute(INSERT, [None])
        async with context.transaction() as connection:
            await connection.execute(INSERT, ["kept too"])
        return EchoResponse()

    await workers.start(serve(echo=echo_in_thread if sync else echo))
    row = await calls.done(await calls.submit("Echo", EchoRequest(), policy=ONCE))
    assert row.state == JobState.JOB_STATE_SUCCEEDED
    assert await effects.notes() == ["kept", "kept too"]


@pytest.mark.parametrize("sync", [False, True])
async def test_a_zombies_transaction_is_rolled_back(
    calls: Calls, workers: Workers, effects: Effects, *, sync: bool
) -> None:
    """Its lease is another's by the time it has finished, and it does not know."""
    written, let_go = threading.Event(), threading.Event()

    def echo_in_thread(request: EchoRequest, context: SyncJobContext) -> EchoResponse:
        with context.transaction() as connection:
            connection.execute(INSERT, ["zombie"])
        written.set()
        let_go.wait(60)
        return EchoResponse(payload=b"zombie")

    async def echo(request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
        async with context.transaction() as connection:
            await connection.execute(INSERT, ["zombie"])
        written.set()
        await asyncio.to_thread(let_go.wait, 60)
        return EchoResponse(payload=b"zombie")

    await workers.start(serve(echo=echo_in_thread if sync else echo))
    job = await calls.submit("Echo", EchoRequest())
    try:
        await until(written.is_set)
        await effects.of(job, "update rowcall.job set lease = lease + 1 where job_id = %s returning 1", job.job_id)
    finally:
        let_go.set()
    await until(effects.nobody)
    assert await effects.notes() == []
    row = await calls.row(job)
    assert (row.state, row.response) == (JobState.JOB_STATE_RUNNING, None)


@pytest.mark.parametrize("sync", [False, True])
async def test_a_lost_lease_ends_the_transaction_at_once(
    calls: Calls, workers: Workers, effects: Effects, *, sync: bool
) -> None:
    runs: list[int] = []
    refused: list[str] = []
    let_go = threading.Event()

    def echo_in_thread(request: EchoRequest, context: SyncJobContext) -> EchoResponse:
        runs.append(context._state.job.lease)
        if len(runs) == 1:
            with context.transaction() as connection:
                connection.execute(INSERT, ["lost"])
                let_go.wait(60)
                try:
                    connection.execute(INSERT, ["lost too"])
                except psycopg.OperationalError as error:
                    refused.append(str(error))
        else:
            with context.transaction() as connection:
                connection.execute(INSERT, ["kept"])
        return EchoResponse()

    async def echo(request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
        runs.append(context._state.job.lease)
        if len(runs) == 1:
            async with context.transaction() as connection:
                await connection.execute(INSERT, ["lost"])
                await asyncio.Event().wait()
        async with context.transaction() as connection:
            await connection.execute(INSERT, ["kept"])
        return EchoResponse()

    # A thread keeps its connection as it keeps its slot; a task that was cancelled gives it back.
    await workers.start(serve(echo=echo_in_thread if sync else echo), pool_transaction=2 if sync else 1)
    try:
        job = await calls.submit("Echo", EchoRequest(), policy=QUICK)
        await until(lambda: effects.are_open(1))
        await effects.of(job, "update rowcall.worker set dead_at = clock_timestamp() where dead_at is null returning 1")
        # Although the thread goes on.
        await until(effects.nobody)
        row = await calls.done(job)
    finally:
        let_go.set()
    assert row.state == JobState.JOB_STATE_SUCCEEDED
    if sync:
        await until(lambda: bool(refused))
        assert "the job's transaction is over" in refused[0]
    assert await effects.notes() == ["kept"]


async def test_a_drain_rolls_back_what_it_hands_back(calls: Calls, workers: Workers, effects: Effects) -> None:
    async def echo(request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
        async with context.transaction() as connection:
            await connection.execute(INSERT, ["lost"])
            await asyncio.Event().wait()
        return EchoResponse()

    worker = await workers.start(serve(echo=echo))
    job = await calls.submit("Echo", EchoRequest())
    await until(lambda: effects.are_open(1))
    await worker.drain(timedelta(0))
    assert (await calls.row(job)).state == JobState.JOB_STATE_READY
    assert await effects.nobody()
    assert await effects.notes() == []


STATE = """
select current_user = session_user, current_setting('search_path'), current_setting('statement_timeout'),
  nullif(current_setting('acme.tenant', true), ''), (select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()),
  (select count(*) from pg_listening_channels()), to_regclass('pg_temp.mine') is null
"""


@pytest.mark.parametrize("succeeds", [False, True])
async def test_nothing_of_a_session_is_left_for_the_next_one(
    calls: Calls, workers: Workers, effects: Effects, *, succeeds: bool
) -> None:
    found: list[object] = []
    pids: set[int] = set()

    async def echo(request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
        async with context.transaction() as connection:
            found.append(await (await connection.execute(STATE)).fetchone())
            pids.add(connection.info.backend_pid)
            assert connection.row_factory is tuple_row
            if request.payload:
                return EchoResponse()
            await connection.execute("set search_path = nowhere")
            await connection.execute("set statement_timeout = '5min'")
            await connection.execute("set acme.tenant = 'acme'")
            await connection.execute("select pg_advisory_lock(7)")
            await connection.execute("listen anything")
            await connection.execute("create temporary table mine ()")
            await connection.execute("declare held cursor with hold for select 1")
            connection.row_factory = dict_row  # type: ignore[assignment]
            # A login may become any role that it was granted, the worker's own among them.
            await connection.execute("set role rowcall_worker")
            if not succeeds:
                await context.abort(grpc.StatusCode.NOT_FOUND, "")
        return EchoResponse()

    await workers.start(serve(echo=echo), pool_transaction=1)
    first = await calls.done(await calls.submit("Echo", EchoRequest(), policy=ONCE))
    assert first.state == (JobState.JOB_STATE_SUCCEEDED if succeeds else JobState.JOB_STATE_FAILED)
    second = await calls.done(await calls.submit("Echo", EchoRequest(payload=b"look"), policy=ONCE))
    assert second.state == JobState.JOB_STATE_SUCCEEDED
    assert len(pids) == 1
    assert found[0] == found[1]


@pytest.mark.parametrize("statement", ["commit", "rollback"])
@pytest.mark.parametrize("raises", [False, True])
async def test_a_handler_that_ends_its_transaction_itself_fails_for_good(
    calls: Calls, workers: Workers, effects: Effects, statement: str, *, raises: bool
) -> None:
    runs: list[int] = []

    async def echo(request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
        runs.append(context.attempt)
        connection = await context._state.own_transaction().connection()
        await connection.execute(INSERT, ["once"])
        await connection.execute(statement)
        if raises:
            raise ValueError("a fault, after which the job would be tried again")
        return EchoResponse()

    await workers.start(serve(echo=echo))
    row = await calls.done(await calls.submit("Echo", EchoRequest(), policy=QUICK))
    assert (row.state, reason_of(row)) == (JobState.JOB_STATE_FAILED, "TRANSACTION_MISUSED")
    assert error_of(row).code == Code.FAILED_PRECONDITION
    assert runs == [1]


async def test_a_transaction_begun_behind_a_commit_is_not_the_jobs(
    calls: Calls, workers: Workers, effects: Effects
) -> None:
    async def echo(request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
        connection = await context._state.own_transaction().connection()
        await connection.execute("commit")
        await connection.execute(INSERT, ["in another transaction"])
        return EchoResponse()

    await workers.start(serve(echo=echo))
    row = await calls.done(await calls.submit("Echo", EchoRequest(), policy=ONCE))
    assert (row.state, reason_of(row)) == (JobState.JOB_STATE_FAILED, "TRANSACTION_MISUSED")
    assert await effects.notes() == []


async def test_a_handler_can_neither_end_nor_keep_the_connection(
    calls: Calls, workers: Workers, effects: Effects
) -> None:
    kept: list[psycopg.AsyncConnection[Any] | psycopg.Connection[Any]] = []

    async def echo(request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
        async with context.transaction() as connection:
            await connection.execute(INSERT, ["kept"])
        for end in (connection.commit, connection.rollback, connection.close):
            with pytest.raises(psycopg.ProgrammingError, match="committed with the job's outcome, or not at all"):
                await end()
        kept.append(connection)
        return EchoResponse()

    def run(request: object, context: SyncJobContext) -> Operation:
        with context.transaction() as connection:
            connection.execute(INSERT, ["kept"])
        for end in (connection.commit, connection.rollback, connection.close):
            with pytest.raises(psycopg.ProgrammingError, match="committed with the job's outcome, or not at all"):
                end()
        kept.append(connection)
        return finished(RunResponse())

    await workers.start(serve(echo=echo, run=run))
    jobs = [
        await calls.submit("Echo", EchoRequest(), policy=ONCE),
        await calls.submit("Run", RunRequest(), policy=ONCE),
    ]
    assert {row.state for row in await calls.all_done(jobs)} == {JobState.JOB_STATE_SUCCEEDED}
    assert await effects.notes() == ["kept", "kept"]
    for connection in kept:
        if isinstance(connection, psycopg.AsyncConnection):
            with pytest.raises(psycopg.OperationalError, match="the job's transaction is over"):
                await connection.execute(INSERT, ["late"])
        else:
            with pytest.raises(psycopg.OperationalError, match="the job's transaction is over"):
                connection.execute(INSERT, ["late"])


async def test_a_statement_that_its_handler_does_not_wait_for_is_an_error(
    calls: Calls, workers: Workers, effects: Effects
) -> None:
    tasks: list[asyncio.Task[object]] = []

    async def echo(request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
        async with context.transaction() as connection:
            await connection.execute(INSERT, ["lost"])
        tasks.append(asyncio.create_task(connection.execute("select pg_sleep(60)")))
        await until(lambda: connection.info.transaction_status.name == "ACTIVE")
        return EchoResponse()

    await workers.start(serve(echo=echo), pool_transaction=1)
    row = await calls.done(await calls.submit("Echo", EchoRequest(), policy=ONCE))
    assert (row.state, reason_of(row)) == (JobState.JOB_STATE_FAILED, "TRANSACTION_MISUSED")
    [error] = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(error, psycopg.OperationalError)
    assert await effects.notes() == []


@pytest.mark.parametrize("sync", [False, True])
async def test_a_transaction_that_takes_too_long_is_ended_and_the_job_tried_again(
    calls: Calls, workers: Workers, effects: Effects, *, sync: bool
) -> None:
    told = threading.Event()

    def echo_in_thread(request: EchoRequest, context: SyncJobContext) -> EchoResponse:
        with context.transaction() as connection:
            connection.execute(INSERT, [f"attempt {context.attempt}"])
            if context.attempt == 1:
                while context.is_active():
                    told.wait(0.01)
                told.set()
        return EchoResponse()

    async def echo(request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
        async with context.transaction() as connection:
            await connection.execute(INSERT, [f"attempt {context.attempt}"])
            if context.attempt == 1:
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    told.set()
                    raise
        return EchoResponse()

    await workers.start(serve(echo=echo_in_thread if sync else echo), transaction_limit=timedelta(milliseconds=500))
    row = await calls.done(await calls.submit("Echo", EchoRequest(), policy=QUICK))
    assert row.state == JobState.JOB_STATE_SUCCEEDED
    assert told.is_set()
    [first] = row.attempts
    assert first.error is not None
    status = Status.FromString(first.error)
    assert status.message == "The job's transaction took longer than 0.5 s. Nothing of it was kept."
    assert status.code == Code.ABORTED
    assert await effects.notes() == ["attempt 2"]


async def test_a_statement_cannot_take_longer_than_its_transaction_may(
    calls: Calls, workers: Workers, effects: Effects
) -> None:
    """The server ends it: a connection that is merely cut leaves it running."""
    timeouts: list[object] = []

    async def echo(request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
        async with context.transaction() as connection:
            timeouts.append(await (await connection.execute("show statement_timeout")).fetchone())
            timeouts.append(await (await connection.execute("show idle_in_transaction_session_timeout")).fetchone())
        return EchoResponse()

    await workers.start(serve(echo=echo), transaction_limit=timedelta(seconds=7), lease=timedelta(seconds=3))
    await calls.done(await calls.submit("Echo", EchoRequest()))
    assert timeouts == [("7s",), ("2s",)]


async def test_a_transaction_that_stands_still_is_ended_before_the_lease_is_over(
    calls: Calls, workers: Workers, effects: Effects
) -> None:
    async def echo(request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
        async with context.transaction() as connection:
            await connection.execute(INSERT, [f"attempt {context.attempt}"])
        if context.attempt == 1:
            await until(effects.nobody)
        return EchoResponse()

    await workers.start(serve(echo=echo), lease=timedelta(seconds=1.5))
    row = await calls.done(await calls.submit("Echo", EchoRequest(), policy=QUICK))
    assert row.state == JobState.JOB_STATE_SUCCEEDED
    assert [read_reason(each) for each in row.attempts] == ["TRANSACTION_LOST"]
    assert await effects.notes() == ["attempt 2"]


async def test_transactions_are_bounded_and_who_gets_none_in_time_is_told(
    calls: Calls, workers: Workers, effects: Effects
) -> None:
    let_go = asyncio.Event()

    async def echo(request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
        async with context.transaction() as connection:
            await connection.execute(INSERT, [request.payload.decode()])
            await let_go.wait()
        return EchoResponse()

    await workers.start(
        serve(echo=echo), pool_transaction=1, transaction_wait=timedelta(seconds=1), lease=timedelta(seconds=20)
    )
    first = await calls.submit("Echo", EchoRequest(payload=b"first"), policy=ONCE)
    await until(lambda: effects.are_open(1))
    second = await calls.done(await calls.submit("Echo", EchoRequest(payload=b"second"), policy=ONCE))
    assert (second.state, reason_of(second)) == (JobState.JOB_STATE_FAILED, "SHARD_UNAVAILABLE")
    message = error_of(second).message
    assert "gave no free connection within 1 s" in message
    assert "raise ROWCALL_POOL_TRANSACTION" in message
    let_go.set()
    assert (await calls.done(first)).state == JobState.JOB_STATE_SUCCEEDED
    assert await effects.notes() == ["first"]


TRIGGER = """
create sequence public.commits;
create function public.at_commit() returns trigger language plpgsql security definer as $$
begin
  if nextval('public.commits') = 1 then
    {}
  end if;
  return null;
end
$$;
create constraint trigger at_commit after insert on public.effect deferrable initially deferred
  for each row execute function public.at_commit();
"""


@pytest.mark.parametrize("sync", [False, True])
@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("perform pg_terminate_backend(pg_backend_pid()); perform pg_sleep(60);", "TRANSACTION_LOST"),
        ("raise exception 'deferred' using errcode = '23514';", "HANDLER_EXCEPTION"),
        ("raise exception 'collision' using errcode = '40001';", "TRANSACTION_LOST"),
    ],
)
async def test_a_commit_that_fails_keeps_nothing_and_the_job_runs_again(
    calls: Calls, workers: Workers, effects: Effects, fault: str, reason: str, *, sync: bool
) -> None:
    """Found out when the handler has succeeded already, within the COMMIT."""

    def echo_in_thread(request: EchoRequest, context: SyncJobContext) -> EchoResponse:
        with context.transaction() as connection:
            connection.execute(INSERT, [f"attempt {context.attempt}"])
        return EchoResponse()

    async def echo(request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
        async with context.transaction() as connection:
            await connection.execute(INSERT, [f"attempt {context.attempt}"])
        return EchoResponse()

    for admin in effects.shards.values():
        await admin.execute(TRIGGER.format(fault))
    await workers.start(serve(echo=echo_in_thread if sync else echo))
    row = await calls.done(await calls.submit("Echo", EchoRequest(), policy=QUICK))
    assert row.state == JobState.JOB_STATE_SUCCEEDED
    assert [read_reason(each) for each in row.attempts] == [reason]
    assert await effects.notes() == ["attempt 2"]


async def test_a_commit_whose_answer_is_lost_counts_once(
    cluster: Cluster, calls: Calls, workers: Workers, effects: Effects
) -> None:
    runs: list[int] = []

    async def echo(request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
        runs.append(context.attempt)
        async with context.transaction() as connection:
            await connection.execute(INSERT, ["once"])
        return EchoResponse()

    with PostgresProxy(cluster.worker.shards[HOME], statements=r"public\.effect", drop=1) as proxy:
        shards = {**cluster.worker.shards, HOME: proxy.through(cluster.worker.shards[HOME])}
        worker = await workers.start(serve(echo=echo), shards=shards)
        row = await calls.done(await calls.submit("Echo", EchoRequest(), policy=QUICK))
        await worker.drain()
        assert proxy.commits.dropped == 1
        assert proxy.commits.cancels == 0
    assert row.state == JobState.JOB_STATE_SUCCEEDED
    assert (runs, row.attempts, await effects.notes()) == ([1], [], ["once"])


def read_reason(attempt: AttemptRow) -> str:
    """What an attempt failed of."""
    assert attempt.error is not None
    info = read_envelope(Status.FromString(attempt.error))
    assert info is not None
    return info.reason
