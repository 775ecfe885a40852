"""Each statement touches the rows it is about, however many there are and whenever its plan was made.

Counted by Postgres itself, for the worst moment to make a plan: the session's first calls come while the table has just
been vacuumed empty, and then the backlog is there.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import date, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg_pool import AsyncConnectionPool
from uuid_utils.compat import uuid7

from rowcall.bounds import Budget, BudgetPeriod
from rowcall.queue.actions import ActionJobs, ActionNode
from rowcall.queue.model import DONE, LIVE, ORDER_STRIDE, ClaimedJob, Depths, JobFilter, QueueStats, Settlement
from rowcall.queue.postgres.admin import PostgresQueueAdmin
from rowcall.queue.postgres.admission import PostgresAdmissionStore
from rowcall.queue.postgres.store import PostgresJobStore
from rowcall.queue.postgres.tenants import PostgresTenantAdmin
from rowcall.queue.postgres.work import PostgresWorkQueue
from rowcall.queue.spend import SpendBy, SpendFilter
from tests.fix_queue import PostgresQueue
from tests.support.queues import FROM_THE_FRONT, SCHEDULED, SUCCEEDED

BACKLOG = 20_000

_FILL = """
select count(*)
from rowcall.submit_jobs(
  array(
    select row(
      'acme',
      (lpad(to_hex((extract(epoch from clock_timestamp()) * 1000)::bigint), 12, '0') || substr(md5(g::text), 1, 20))::uuid,
      %(method_id)s, %(policy_id)s, %(queue_id)s, 3, 0, g * %(stride)s::bigint, null, 'x', null,
      null, null, null, null, null, null, null, null, null, null, null, null, null
    )::rowcall.submission
    from generate_series(1, %(n)s) g
  ),
  '7 days'
)
"""

_TOUCHED = """
select relname, seq_tup_read + coalesce(idx_tup_fetch, 0)
from pg_stat_all_tables
where schemaname = 'rowcall' and (relname = 'job' or relname like 'job\\_%' or relname in ('spend', 'spend_entry', 'audit'))
"""

_SPENT = """
with entries as (
  insert into rowcall.spend_entry (
    tenant, job_id, lease, call, method_id, kind, trace_id, cost, currency, provider, model, spent_at
  )
  select
    'tenant-' || g % 100, gen_random_uuid(), 1, 1, 1, 1, gen_random_uuid(), 1, 'EUR', 'oracle', 'm',
    now() - interval '1 day' * (g / 100)
  from generate_series(1, 20000) g
  returning *
)
insert into rowcall.spend (
  tenant, day, method_id, kind, provider, model, currency, slot, number, calls, input_tokens, output_tokens, cost
)
select tenant, (spent_at at time zone 'UTC')::date, 1, 1, provider, model, currency, 0, -1, count(*), 0, 0, sum(cost)
from entries
group by 1, 2, 5, 6, 7
"""

_PAGES = "select idx_blks_read + idx_blks_hit from pg_statio_all_indexes where indexrelname = 'job_ready'"


class Counted:
    """The queue over one session, whose work Postgres counts."""

    def __init__(self, pool: AsyncConnectionPool[Any], queue: PostgresQueue) -> None:
        self.store = PostgresJobStore(pool, pool)
        self.work = PostgresWorkQueue(pool, pool, pool)
        self.admin = PostgresQueueAdmin(pool, pool, shard="a")
        self.pool = pool
        self._queue = queue

    async def touched(self, call: Callable[[], Awaitable[object]]) -> dict[str, int]:
        """How many rows of each table of jobs a call looks at."""
        before = await self._counts()
        await call()
        after = await self._counts()
        return {name: count - before.get(name, 0) for name, count in after.items() if count > before.get(name, 0)}

    async def pages(self, call: Callable[[], Awaitable[object]]) -> int:
        """How many pages of the index of ready jobs a call reads."""
        await self.flush()
        before = await self._queue.value(_PAGES)
        await call()
        await self.flush()
        return int(await self._queue.value(_PAGES)) - int(before)

    async def _counts(self) -> dict[str, int]:
        await self.flush()
        return dict(await (await self._queue.admin.execute(_TOUCHED)).fetchall())

    async def flush(self) -> None:
        """Has the sessions report what they did: the counted one, and the test's own, whose report must not come later."""
        async with self.pool.connection() as connection:
            await connection.execute("select pg_stat_force_next_flush()")
        await self._queue.admin.execute("select pg_stat_force_next_flush()")

    async def claim(self, worker: UUID, limit: int, start: Sequence[int] = FROM_THE_FRONT) -> list[ClaimedJob]:
        ids = self._queue.ids
        return await self.work.claim(worker, ids.queue_id, [ids.method_id], limit, start=start)


def settlements(jobs: list[ClaimedJob], state: int) -> list[Settlement]:
    return [
        Settlement(job.tenant, job.job_id, job.lease, state, response=b"r", error=b"e", delay=timedelta(0))
        for job in jobs
    ]


@pytest.fixture
async def counted(queue: PostgresQueue) -> AsyncIterator[Counted]:
    """A backlog, and a session whose plans were made before it was there."""
    await queue.admin.execute("alter table rowcall.job set (autovacuum_enabled = off)")
    worker = await queue.worker()
    await queue.submit(queue.call())
    [job] = await queue.claim(worker)
    await queue.settle(job)
    await queue.admin.execute("vacuum analyze rowcall.job")
    await queue.admin.execute("vacuum analyze rowcall.job_history")
    assert await queue.value("select relpages + reltuples from pg_class where oid = 'rowcall.job'::regclass") == 0
    async with AsyncConnectionPool(
        queue.logins.admin, min_size=1, max_size=1, open=False, name="a", kwargs={"autocommit": True}
    ) as pool:
        counted = Counted(pool, queue)
        for _ in range(7):  # from the sixth on, Postgres may keep a plan for good
            await counted.store.submit([queue.call(request_id="k")])
            jobs = await counted.claim(worker, 1)
            await counted.work.release(jobs)
            jobs = await counted.claim(worker, 1)
            await counted.work.settle(settlements(jobs, SCHEDULED))
            await counted.work.promote(1)
            jobs = await counted.claim(worker, 1)
            await counted.work.settle(settlements(jobs, SUCCEEDED))
            names = [(each.tenant, each.job_id) for each in jobs]
            await counted.store.read(names)
            await counted.store.outcomes(names)
            await counted.store.list("acme", limit=1)
            await counted.work.rescue(1)
            await counted.admin.stats(1)
            await counted.admin.serving(1)
            await counted.store.waits(names, ahead=1)
            await queue.admin.execute("delete from rowcall.job_key")
        parameters = {
            "n": BACKLOG,
            "stride": ORDER_STRIDE,
            "method_id": queue.ids.method_id,
            "policy_id": queue.ids.policy_id,
            "queue_id": queue.ids.queue_id,
        }
        await queue.admin.execute(_FILL, parameters)
        yield counted


async def test_statements_touch_the_rows_they_are_about(queue: PostgresQueue, counted: Counted) -> None:
    """A row is looked at once to be found and once more to be changed. The slack is for what earlier calls left dead."""
    worker = await queue.worker()
    slack = 30
    assert (await counted.touched(lambda: counted.claim(worker, 100)))["job"] <= 100 + slack

    jobs = await counted.claim(worker, 300)
    released, retried, succeeded = jobs[:100], settlements(jobs[100:200], SCHEDULED), settlements(jobs[200:], SUCCEEDED)
    assert (await counted.touched(lambda: counted.work.release(released)))["job"] <= 200 + slack
    assert (await counted.touched(lambda: counted.work.settle(retried)))["job"] <= 200 + slack
    assert await counted.touched(lambda: counted.work.settle(succeeded)) == {"job": 100}, "history is not read"
    assert (await counted.touched(lambda: counted.work.promote(50)))["job"] <= 100 + slack

    await counted.work.retire_worker(worker)
    assert (await counted.touched(lambda: counted.work.rescue(50)))["job"] <= 100 + slack

    calls = [queue.call(request_id=f"new {number}") for number in range(100)]
    assert await counted.touched(lambda: counted.store.submit(calls)) == {}


async def test_reads_look_up_what_they_are_asked_for(queue: PostgresQueue, counted: Counted) -> None:
    worker = await queue.worker()
    jobs = await counted.claim(worker, 300)
    await counted.work.settle(settlements(jobs, SUCCEEDED))
    names = [(job.tenant, job.job_id) for job in jobs]
    day = await queue.value("select 'job_history_standard_' || to_char(now() at time zone 'UTC', 'YYYYMMDD')")
    assert await counted.touched(lambda: counted.store.outcomes(names[:100])) == {day: 100}
    assert await counted.touched(lambda: counted.store.read(names[:100])) == {day: 100}


async def test_reads_leave_out_the_days_that_cannot_have_the_job(queue: PostgresQueue, counted: Counted) -> None:
    """Days before the job was made, and the days that were made ahead: only three days' indexes are opened."""
    [job] = await counted.claim(await queue.worker(), 1)
    await counted.work.settle(settlements([job], SUCCEEDED))
    await counted.flush()
    opened = """
        select array_agg(right(relname, 8)::date - (now() at time zone 'UTC')::date)
        from pg_stat_all_indexes
        where starts_with(relname, 'job_history_') and idx_scan > 0
    """
    await queue.admin.execute("select pg_stat_reset()")
    await counted.store.outcomes([("acme", job.job_id)])
    await counted.store.read([("acme", uuid7())])
    await counted.flush()
    assert set(await queue.value(opened)) == {-1, 0, 1}


async def test_a_page_of_a_list_is_read_from_where_it_begins(queue: PostgresQueue, counted: Counted) -> None:
    worker = await queue.worker()
    await counted.work.settle(settlements(await counted.claim(worker, 300), SUCCEEDED))
    middle = await queue.value("select job_id from rowcall.job order by job_id offset 10000 limit 1")
    # Twenty of each kind to choose from, and the twenty that were chosen; a merge looks one row ahead.
    for before, done, limit in ((None, None, 60), (middle, None, 60), (None, False, 40), (None, True, 40)):

        async def page(before: UUID | None = before, done: bool | None = done) -> None:
            wanted = JobFilter(states=None if done is None else DONE if done else LIVE)
            assert len(await counted.store.list("acme", wanted, limit=20, before=before)) == 20

        counts = await counted.touched(page)
        assert sum(counts.values()) <= limit + 10
        assert done is not True or "job" not in counts
        assert done is not False or set(counts) == {"job"}


async def test_what_a_job_submitted_is_looked_up_by_its_parent(queue: PostgresQueue, counted: Counted) -> None:
    """Live ones and finished ones, among many that have another parent or none."""
    await queue.admin.execute("update rowcall.job set parent_job_id = gen_random_uuid() where order_key % 3 = 0")
    worker = await queue.worker()
    parent = uuid7()
    children = [queue.call(parent_job_id=parent) for _ in range(10)]
    await queue.submit(*children)
    await queue.probe.change([each.job_id for each in children[:5]], order_key=0)
    ended = await counted.claim(worker, 5)
    await counted.work.settle(settlements(ended, SUCCEEDED))
    await queue.admin.execute("analyze rowcall.job")
    found: list[UUID] = []

    async def page() -> None:
        found[:] = await counted.store.find("acme", JobFilter(parent_job_id=parent), limit=20)

    assert sum((await counted.touched(page)).values()) <= 10 + 10
    assert found == sorted((each.job_id for each in children), reverse=True)


async def test_what_belongs_to_a_trace_is_looked_up_by_its_id(queue: PostgresQueue, counted: Counted) -> None:
    """In each day's own index."""
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    await queue.admin.execute("update rowcall.job set trace_id = gen_random_uuid()")
    await queue.submit(*(queue.call(traceparent=trace) for _ in range(3)))
    await queue.admin.execute("update rowcall.job set order_key = 0 where trace_id = %s", [trace[3:35]])
    worker = await queue.worker()
    for _ in range(3):
        await counted.work.settle(settlements(await counted.claim(worker, 1000), SUCCEEDED))
    await queue.admin.execute("analyze rowcall.job_history")
    found: list[int] = []

    async def by_trace() -> None:
        query = "select count(*) from rowcall.job_history where tenant = 'acme' and trace_id = %s"
        async with counted.pool.connection() as connection:
            cursor = await connection.execute(query, [trace[3:35]])
            found[:] = [row[0] for row in await cursor.fetchall()]

    assert sum((await counted.touched(by_trace)).values()) <= 3 + 10
    assert found == [3]


async def test_an_action_is_looked_up_by_its_trace_and_its_jobs_by_their_keys(
    queue: PostgresQueue, counted: Counted
) -> None:
    """Among 3,000 that ended, on whichever day, and 17,000 that wait. Of those that wait as many are looked through as time allows."""
    trace = UUID("0af7651916cd43dd8448eb211c80319c")
    await queue.admin.execute("update rowcall.job set trace_id = gen_random_uuid()")
    await queue.submit(*(queue.call(traceparent=f"00-{trace.hex}-b7ad6b7169203331-01") for _ in range(3)))
    await queue.admin.execute("update rowcall.job set order_key = 0 where trace_id = %s", [trace])
    worker = await queue.worker()
    for _ in range(3):
        await counted.work.settle(settlements(await counted.claim(worker, 1000), SUCCEEDED))
    await queue.admin.execute(
        "insert into rowcall.audit (tenant, action, target, trace_id) select 'acme', 'job.retry', md5(g::text), md5(g::text) "
        "from generate_series(1, 3000) g"
    )
    await queue.admin.execute("analyze rowcall.job_history, rowcall.audit")
    found: list[ActionJobs] = []
    nodes: list[ActionNode] = []

    async def jobs() -> None:
        found[:] = [await counted.admin.action_jobs("acme", trace_id=trace, limit=100, patience=timedelta(0))]

    async def tree() -> None:
        nodes[:] = await counted.admin.action_nodes(
            "acme", [job.job_id for job in found[0].jobs], hidden=(), trace_id=trace, audit=True, system=True, limit=100
        )

    async def page() -> None:
        await counted.admin.actions("acme", limit=10, look=1000)

    for look in (jobs, tree, page):
        await look()
    assert (len(found[0].jobs), found[0].whole) == (3, False)
    assert {each.kind for each in nodes} == {"JOB", "WAIT", "ATTEMPT"}
    touched = await counted.touched(jobs)
    live = 500
    assert touched.pop("job") <= live + 3
    assert sum(touched.values()) <= 3
    touched = await counted.touched(tree)
    assert sum(touched.values()) <= 3
    # So many of each table at a time, and those once more that are kept.
    assert sum((await counted.touched(page)).values()) <= 2 * 500 + 10


async def test_what_was_spent_is_looked_up_by_what_it_is_of(queue: PostgresQueue, counted: Counted) -> None:
    """A job's and a trace's calls among 20,000, a tenant's days among those of a hundred; a budget's likewise."""
    await queue.admin.execute(_SPENT.encode())
    await queue.admin.execute("analyze rowcall.spend, rowcall.spend_entry")
    row = await queue.admin.execute("select tenant, job_id, trace_id from rowcall.spend_entry limit 1")
    found = await row.fetchone()
    assert found is not None
    tenant, job_id, trace_id = found
    admission = PostgresAdmissionStore(counted.pool, counted.pool, shard="a")
    asked = (
        (SpendFilter(tenant, job_id=job_id), 1 + 1),
        (SpendFilter(tenant, trace_id=trace_id), 1 + 1),
        (SpendFilter(None, trace_id=trace_id), 1 + 1),
        (SpendFilter(tenant), 30 + 2),
        (SpendFilter(tenant, last=date(2020, 1, 1)), 2),
    )
    for wanted, most in asked:

        async def summed(wanted: SpendFilter = wanted) -> None:
            await counted.admin.spend(wanted, [SpendBy.MODEL], limit=10)

        await summed()
        assert sum((await counted.touched(summed)).values()) <= most, wanted

    async def spent() -> None:
        await admission.spent([(tenant, Budget(Decimal(1), "EUR", BudgetPeriod.MONTH))])

    await spent()
    assert sum((await counted.touched(spent)).values()) <= 31 + 1


async def test_the_queues_are_counted_no_further_than_the_cap(queue: PostgresQueue, counted: Counted) -> None:
    """Of the ready jobs of each lane, and of all that are scheduled or held; the jobs that run are counted all."""
    await counted.claim(await queue.worker(), 50)
    of_half = "update rowcall.job set {} where state = 2 and held = 0 and order_key > %s::bigint * %s"
    await queue.admin.execute(of_half.format("state = 1").encode(), [ORDER_STRIDE, BACKLOG * 3 // 4])
    await queue.admin.execute(of_half.format("held = 1").encode(), [ORDER_STRIDE, BACKLOG // 2])
    found: list[QueueStats] = []

    async def stats() -> None:
        found[:] = await counted.admin.stats(100)

    assert (await counted.touched(stats))["job"] <= 3 * 100 + 50 + 10
    [row] = found
    assert (row.ready, row.scheduled, row.held, row.running, row.capped) == (100, 100, 100, 50, True)
    [whole] = await counted.admin.stats(BACKLOG)
    assert (whole.ready + whole.scheduled + whole.held, whole.capped) == (BACKLOG - 50, False)


async def test_a_look_at_what_waits_reads_the_next_jobs_only(queue: PostgresQueue, counted: Counted) -> None:
    """A hundred of each lane, for their age; nothing of history, and none of those that run."""
    await counted.work.settle(settlements(await counted.claim(await queue.worker(), 300), SUCCEEDED))
    await counted.claim(await queue.worker(), 300)
    found: list[Depths | None] = []

    async def look() -> None:
        found[:] = [await counted.admin.depths(timedelta(0))]

    touched = await counted.touched(look)
    assert 100 <= touched.pop("job") <= 100 + 10
    assert touched == {}
    assert found[0] is not None
    assert len(found[0].lanes) == 4


async def test_what_a_job_waits_for_is_looked_up_and_those_before_it_are_counted_to_the_bound(
    queue: PostgresQueue, counted: Counted
) -> None:
    await counted.work.serve(await queue.worker(), [queue.ids.method_id], None)
    middle = "select job_id from rowcall.job where state = 2 order by order_key offset %s limit 1"
    names = [("acme", await queue.value(middle, place)) for place in range(10_000, 10_100)]
    assert await counted.touched(lambda: counted.store.waits(names)) == {"job": 100}
    found: list[int | None] = []

    async def ahead() -> None:
        found[:] = [(await counted.store.waits(names[:1], ahead=50))[names[0]][0].ahead]

    assert (await counted.touched(ahead))["job"] <= 51 + 10
    assert found == [50]


async def test_jobs_are_looked_at_for_what_nobody_serves_only_where_there_is_such_a_method(
    queue: PostgresQueue, counted: Counted
) -> None:
    worker = await queue.worker()
    await counted.work.serve(worker, [], None)
    assert 100 <= (await counted.touched(lambda: counted.admin.serving(100)))["job"] <= 100 + 10
    await counted.work.serve(worker, [queue.ids.method_id], None)
    assert await counted.touched(lambda: counted.admin.serving(100)) == {}


async def test_what_is_done_to_all_of_a_tenant_touches_a_part_at_a_time(queue: PostgresQueue, counted: Counted) -> None:
    none = timedelta(0)
    tenants = PostgresTenantAdmin(counted.pool, counted.pool, shard="a", linger=none, grace=none, settle=none)
    worker = await queue.worker()
    await counted.claim(worker, 50)

    async def export(after: UUID | None = None) -> UUID:
        page = await tenants.export_jobs("acme", after=after, limit=100, limit_bytes=10**6, payloads=True)
        assert len(page) == 100
        return page[-1].job_id

    async def erase() -> None:
        assert await tenants.erase("acme", limit=100, by=None, note=None) is not None

    assert sum((await counted.touched(export)).values()) <= 400
    assert sum((await counted.touched(lambda: tenants.live_jobs("acme", 100))).values()) <= 200
    await erase()
    for _ in range(3):
        assert sum((await counted.touched(erase)).values()) <= 1000


async def test_a_claim_from_the_mark_does_not_walk_over_dead_entries(queue: PostgresQueue, counted: Counted) -> None:
    """A held snapshot keeps the entries of claimed jobs in the index, whatever vacuum does."""
    worker = await queue.worker()
    async with await psycopg.AsyncConnection.connect(queue.logins.admin) as holder:
        await holder.execute("set transaction isolation level repeatable read")
        await holder.execute("select count(*) from rowcall.job")
        mark = 0
        for _ in range(10):
            jobs = await counted.claim(worker, 1000)
            mark = jobs[-1].order_key
            await counted.work.settle(settlements(jobs, SUCCEEDED))
        await queue.admin.execute("vacuum rowcall.job")
        from_the_mark = await counted.pages(lambda: counted.claim(worker, 1, (0, 0, mark, 0)))
        from_the_front = await counted.pages(lambda: counted.claim(worker, 1))
    # Three empty lanes are looked at as well.
    assert from_the_mark < 20 < from_the_front
