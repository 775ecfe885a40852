"""Tables grow under statements that have begun: what waits while a column is added goes on with the text that it began with.

A function that is entered before the file commits, and comes to its statement when it has, has the old text and the new
table. Nobody may notice. So texts name the columns that they write, and no text builds a table's row of a list.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest

from rowcall.migrations import HISTORY_DAYS, discover
from rowcall.queue.model import EVERY_JOB, ClaimedJob, Progress, Running
from rowcall.queue.postgres.statements import statement
from tests.fix_queue import PostgresQueue
from tests.support.next_release import PACKAGE, schema_of
from tests.support.queues import CANCELLED, FAILED, READY, SCHEDULED

Action = Callable[[], Awaitable[object]]
"""Does something once; true if it was done."""


async def running(queue: PostgresQueue) -> ClaimedJob:
    """A job that runs."""
    await queue.submit(queue.call())
    [job] = await queue.claim(await queue.worker(), 1)
    return job


async def submit(queue: PostgresQueue) -> Action:
    call = queue.call(request_id=str(uuid4()))
    return lambda: queue.submit(call)


async def submit_in_sql(queue: PostgresQueue) -> Action:
    # As if a gateway had published it.
    await queue.admin.execute(
        "update rowcall.method set policy_id = %s, queue_id = %s, lane = 3, request_type = 'a.A', response_type = 'a.B'",
        [queue.ids.policy_id, queue.ids.queue_id],
    )
    connection = await psycopg.AsyncConnection.connect(queue.logins.submitter, autocommit=True)
    submit_once = "select rowcall.submit_v1('acme', 'acme.v1.PrintService/Print', 'x', %s)"
    await connection.execute(submit_once, [str(uuid4())])

    async def act() -> bool:
        async with connection:
            return bool(await (await connection.execute(submit_once, [str(uuid4())])).fetchone())

    return act


async def claim(queue: PostgresQueue) -> Action:
    worker = await queue.worker()
    await queue.submit(queue.call())
    return lambda: queue.claim(worker)


async def settle(queue: PostgresQueue) -> Action:
    job = await running(queue)

    async def act() -> bool:
        done = await queue.settle(job, response=b"r")
        return done.settled and (await queue.row(job)).response is None

    return act


async def try_again(queue: PostgresQueue) -> Action:
    job = await running(queue)

    async def act() -> bool:
        return (await queue.settle(job, SCHEDULED, error=b"e", delay=timedelta(0))).settled

    return act


async def release(queue: PostgresQueue) -> Action:
    job = await running(queue)
    return lambda: queue.work.release([job])


async def release_cancelled(queue: PostgresQueue) -> Action:
    job = await running(queue)
    await queue.store.cancel(job.tenant, job.job_id)

    async def act() -> bool:
        await queue.work.release([job])
        return await queue.state(job.tenant, job.job_id) == CANCELLED

    return act


async def report(queue: PostgresQueue) -> Action:
    job = await running(queue)
    return lambda: queue.work.report_progress([Progress(Running(job.tenant, job.job_id, job.lease), 0.5, None)])


async def cancel(queue: PostgresQueue) -> Action:
    call = queue.call()
    await queue.submit(call)
    return lambda: queue.store.cancel(call.tenant, call.job_id)


async def rescue(queue: PostgresQueue) -> Action:
    job = await running(queue)
    [row] = await queue.probe.jobs([job.job_id])
    assert row.worker_id is not None
    await queue.work.retire_worker(row.worker_id)
    return lambda: queue.work.rescue(10)


async def rescue_cancelled(queue: PostgresQueue) -> Action:
    job = await running(queue)
    await queue.store.cancel(job.tenant, job.job_id)
    [row] = await queue.probe.jobs([job.job_id])
    assert row.worker_id is not None
    await queue.work.retire_worker(row.worker_id)

    async def act() -> bool:
        return [each.state for each in await queue.work.rescue(10)] == [CANCELLED]

    return act


async def expire(queue: PostgresQueue) -> Action:
    await queue.submit(queue.call(deadline=timedelta(0)))
    return lambda: queue.work.expire_jobs(10)


async def promote(queue: PostgresQueue) -> Action:
    job = await running(queue)
    await queue.settle(job, SCHEDULED, error=b"e", delay=timedelta(0))
    return lambda: queue.work.promote(10)


async def replay(queue: PostgresQueue) -> Action:
    job = await running(queue)
    await queue.settle(job, FAILED, error=b"e", error_code=3, error_message="No.")

    async def act() -> bool:
        await queue.store.replay(job.tenant, [job.job_id])
        return await queue.state(job.tenant, job.job_id) == READY

    return act


async def resolve(queue: PostgresQueue) -> Action:
    job = await running(queue)
    await queue.settle(job, FAILED, error=b"e", error_code=3, error_message="No.")
    return lambda: queue.store.resolve(job.tenant, [job.job_id], by="me", note="seen")


async def delete(queue: PostgresQueue) -> Action:
    job = await running(queue)
    await queue.settle(job)
    return lambda: queue.store.delete(job.tenant, job.job_id)


async def look(queue: PostgresQueue) -> Action:
    job = await running(queue)
    await queue.settle(job, response=b"r")

    async def act() -> bool:
        found = await queue.store.read([(job.tenant, job.job_id)], request=True, response=True)
        listed = await queue.store.list("acme", EVERY_JOB, limit=1)
        return found[job.tenant, job.job_id].response == b"r" and len(listed) == 1

    return act


async def take_outcome(queue: PostgresQueue) -> Action:
    job = await running(queue)
    await queue.settle(job, response=b"r")
    return lambda: queue.store.outcomes([(job.tenant, job.job_id)])


ACTIONS = (
    submit, submit_in_sql, claim, settle, try_again, release, release_cancelled, report, cancel, rescue, rescue_cancelled,
    expire, promote, replay, resolve, delete, look, take_outcome,
)  # fmt: skip


@asynccontextmanager
async def growing(queue: PostgresQueue, text: str) -> AsyncIterator[None]:
    """Applies a file on entry, as the runner does, and commits it on exit."""
    async with await psycopg.AsyncConnection.connect(queue.logins.admin) as connection:
        await connection.execute(text.encode())
        yield
        await connection.commit()


@pytest.mark.parametrize("action", ACTIONS, ids=lambda each: each.__name__)
async def test_what_waits_while_a_column_is_added_to_the_job_goes_on(
    queue: PostgresQueue, tmp_path: Path, action: Callable[[PostgresQueue], Awaitable[Action]]
) -> None:
    [file] = [each for each in schema_of(tmp_path) if each.number == 9001]
    # Once before, so that the session has its plans.
    assert await (await action(queue))()
    act = await action(queue)
    async with growing(queue, file.text):
        under_way = asyncio.ensure_future(act())
        await queue.somebody_waits()
    async with asyncio.timeout(20):
        assert await under_way
        assert await (await action(queue))(), "and so does what begins afterwards"


GROWING = (
    "tenant_route", "queue", "queue_lane", "method", "policy", "turn", "worker", "worker_beat", "job_key", "serving",
)  # fmt: skip


@pytest.mark.parametrize("table", GROWING)
async def test_what_waits_while_a_column_is_added_beside_the_job_goes_on(queue: PostgresQueue, table: str) -> None:
    worker = await queue.worker()

    async def everything() -> None:
        call = queue.call(request_id=str(uuid4()))
        await queue.submit(call)
        [job] = await queue.claim(worker, 1)
        await queue.renew(worker)
        await queue.work.serve(worker, [queue.ids.method_id], None)
        await queue.work.policies()
        await queue.work.bury_workers(timedelta(0))
        await queue.store.exchange_turns()
        assert (await queue.settle(job)).settled

    await everything()
    async with growing(queue, f"alter table rowcall.{table} add column note text"):
        under_way = asyncio.ensure_future(everything())
        await queue.somebody_waits()
    async with asyncio.timeout(20):
        await under_way
        await everything()


async def test_days_of_history_that_are_made_while_a_column_is_added_have_it(
    queue: PostgresQueue, tmp_path: Path
) -> None:
    [file] = [each for each in schema_of(tmp_path) if each.number == 9001]
    # The copied template may be of before midnight.
    await queue.work.make_history_days(HISTORY_DAYS)
    async with growing(queue, file.text):
        making = asyncio.ensure_future(queue.work.make_history_days(20))
        await queue.somebody_waits()
    assert await making == 24, "six days more of three retentions, and of activity"
    assert await queue.work.make_history_days(21) == 4
    lacking = """
    select count(*)
    from pg_partition_tree('rowcall.job_history') p
    where not exists (select from pg_attribute a where a.attrelid = p.relid and a.attname = 'note')
    """
    assert await queue.value(lacking) == 0


async def test_a_day_that_is_made_while_its_table_is_about_to_grow_is_not_lost(queue: PostgresQueue) -> None:
    """The one that makes days has begun when the file comes: one waits for the other, or gives way and comes again."""
    await queue.work.make_history_days(HISTORY_DAYS)
    async with await psycopg.AsyncConnection.connect(queue.logins.admin) as maker:
        assert await (await maker.execute("select rowcall.make_history_days(20)")).fetchone() == (24,)
        async with await psycopg.AsyncConnection.connect(queue.logins.admin, autocommit=True) as other:
            adding = asyncio.ensure_future(other.execute("alter table rowcall.job_history add column note text"))
            await queue.somebody_waits()
            await maker.commit()
            await adding
    lacking = """
    select count(*)
    from pg_partition_tree('rowcall.job_history') p
    where not exists (select from pg_attribute a where a.attrelid = p.relid and a.attname = 'note')
    """
    assert await queue.value(lacking) == 0


async def test_an_index_of_history_comes_with_the_days(queue: PostgresQueue, tmp_path: Path) -> None:
    files = {each.number: each.text for each in schema_of(tmp_path)}
    for number in (9001, 9009):
        async with growing(queue, files[number]):
            pass
    await queue.work.make_history_days(HISTORY_DAYS)
    # Six more, of three classes of history and of spans.
    assert await queue.work.make_history_days(20) == 24
    made = """
    select count(*), bool_and(i.indisvalid)
    from pg_partition_tree('rowcall.job_history_note') t
    join pg_index i on i.indexrelid = t.relid
    where t.isleaf
    """
    assert await (await queue.admin.execute(made)).fetchone() == (18, True)


_TABLES = re.compile(r"create table rowcall\.(\w+) \(")


def test_no_function_builds_a_tables_row_of_a_list() -> None:
    """It would have too few columns as soon as one is added, for those who wait for that."""
    texts = {each.name: re.sub("--.*", "", each.text) for each in discover("shard")}
    tables = {name for text in texts.values() for name in _TABLES.findall(text)}
    assert {"job", "job_history", "worker_beat"} <= tables
    built = [
        (name, match[0])
        for name, text in texts.items()
        for match in re.finditer(r"\)\s*::\s*rowcall\.(\w+)(?!\w*\[)", text)
        if match[1] in tables
    ]
    assert built == []


def test_every_insert_names_its_columns() -> None:
    """But for those that move a whole row to history, as ended() makes it: that is replaced with the table."""
    texts = {each.name: each.text for each in discover("shard")}
    unnamed = [
        (name, match[1])
        for name, text in texts.items()
        for match in re.finditer(r"insert into (rowcall\.\w+(?: as \w+)?)\s+(?!as\b)(?!\()[^\n]*", text)
        if not re.match(r"insert into rowcall\.job_history\s+select h\.\*", text[match.start() :])
    ]
    assert unnamed == []


def test_every_statement_of_a_service_names_what_it_reads() -> None:
    """A column more would be a result of another type, which a prepared statement may not have."""
    names = [path.stem for path in (PACKAGE / "queue/postgres/sql").glob("*.sql")]
    assert len(names) > 40
    starred = [name for name in names if re.search(rb"select\s+(\w+\.)?\*", statement(name))]
    assert starred == []
