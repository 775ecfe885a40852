"""What comes round costs the same however many dead entries a held snapshot keeps in the indexes.

Counted by Postgres itself: the entries of indexes, and the pages of tables and indexes, that one call reads. The dead ones
are of rows that were there after the snapshot was taken, and are gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from psycopg_pool import AsyncConnectionPool

from rowcall.queue.marks import FRONTIER
from rowcall.queue.model import ATTEMPT_GRACE, LANES, ClaimedJob, Rescued, Running
from rowcall.queue.postgres.renewal import PostgresLeaseRenewal
from rowcall.queue.postgres.work import PostgresWorkQueue
from tests.fix_queue import PostgresQueue
from tests.support.queues import LEASE, NO_GRACE, READY
from tests.support.waiting import until

DEAD = 20_000
COUNTED = "counted"
FEW = 150
"""Entries, or pages, that no statement reads more of than it would without the dead ones."""

_DEAD = """
with made as (
  insert into rowcall.job (
    tenant, job_id, state, lane, priority, held, queue_id, order_key, method_id, policy_id, run_at, deadline,
    attempt_deadline, cancel_requested_at, worker_id, request
  )
  select
    'acme', gen_random_uuid(), %(state)s, 3, 3, %(held)s, %(queue_id)s, g, %(method_id)s, %(policy_id)s,
    clock_timestamp() - interval '1 hour', %(deadline)s, clock_timestamp() + %(attempt_ends)s,
    case when %(cancelled)s then clock_timestamp() - interval '1 hour' end, %(worker)s, ''
  from generate_series(1, %(count)s) g
  returning 1
)
select count(*) from made
"""
_READ = """
select
  (select sum(idx_tup_read) from pg_stat_all_indexes where schemaname = 'rowcall'),
  (
    select sum(heap_blks_read + heap_blks_hit + coalesce(idx_blks_read + idx_blks_hit, 0))
    from pg_statio_all_tables
    where schemaname = 'rowcall'
  )
"""
_LATELY = "select clock_timestamp() - interval '3 seconds'"


class Read(NamedTuple):
    """What was read."""

    entries: int
    pages: int


@dataclass
class Held:
    """A queue beside a snapshot that is held."""

    queue: PostgresQueue

    async def die(
        self,
        state: int,
        *,
        count: int = DEAD,
        held: int = 0,
        worker: UUID | None = None,
        cancelled: bool = False,
        deadline: bool = False,
        attempt_ends: timedelta = timedelta(hours=-1),
    ) -> None:
        """Has so many rows been there, their attempts to end so far from now."""
        ids = self.queue.ids
        given = {
            "state": state, "held": held, "worker": worker, "cancelled": cancelled, "count": count,
            "deadline": None, "attempt_ends": attempt_ends, "queue_id": ids.queue_id, "method_id": ids.method_id, "policy_id": ids.policy_id,
        }  # fmt: skip
        if deadline:
            given["deadline"] = await self.queue.value("select clock_timestamp() - interval '1 hour'")
        cursor = await self.queue.admin.execute(_DEAD, given)
        assert await cursor.fetchone() == (count,)
        await self.queue.admin.execute("delete from rowcall.job where order_key <= %s and tenant = 'acme'", [count])

    async def read(self, call: Callable[[PostgresWorkQueue], Awaitable[object]]) -> Read:
        """What a call reads, in a session of its own, whose end tells Postgres."""
        before = await self._counts()
        async with AsyncConnectionPool(
            _counted(self.queue), min_size=1, max_size=1, open=False, name="a", kwargs={"autocommit": True}
        ) as pool:
            await call(PostgresWorkQueue(pool, pool, pool))
        after = await self._counts()
        return Read(after.entries - before.entries, after.pages - before.pages)

    async def told(self, query: str, *parameters: object) -> Read:
        """What a statement reads."""
        before = await self._counts()
        async with await psycopg.AsyncConnection.connect(_counted(self.queue), autocommit=True) as connection:
            await (await connection.execute(query.encode(), parameters)).fetchall()
        after = await self._counts()
        return Read(after.entries - before.entries, after.pages - before.pages)

    async def _counts(self) -> Read:
        """When the counted session has ended: it reports before it is gone."""
        gone = "select not exists (select from pg_stat_activity where application_name = %s)"
        await until(lambda: self.queue.value(gone, COUNTED))
        await self.queue.admin.execute("select pg_stat_force_next_flush()")
        await self.queue.admin.execute("select pg_stat_clear_snapshot()")
        row = await (await self.queue.admin.execute(_READ)).fetchone()
        assert row is not None
        return Read(int(row[0]), int(row[1]))


@pytest.fixture
async def held(queue: PostgresQueue) -> AsyncIterator[Held]:
    """The snapshot is that of another transaction, which has written nothing."""
    await queue.admin.execute("alter table rowcall.job set (autovacuum_enabled = off)")
    async with _snapshot(queue):
        yield Held(queue)


@asynccontextmanager
async def _snapshot(queue: PostgresQueue) -> AsyncIterator[None]:
    async with await psycopg.AsyncConnection.connect(queue.logins.admin) as holder:
        await holder.execute("set transaction isolation level repeatable read")
        await holder.execute("select count(*) from rowcall.job")
        yield


def _counted(queue: PostgresQueue) -> str:
    return make_conninfo(queue.logins.admin, application_name=COUNTED)


def few(read: Read) -> bool:
    """Whether it is about what it would be without dead entries."""
    return max(read) <= FEW


RENEW = "select * from rowcall.renew_worker(%s, '1 minute', null, %s, 1, 0, '{acme}', array[gen_random_uuid()], '{1}', '{1}', '{4}')"


async def test_the_dead_entries_are_there(held: Held) -> None:
    """What the other tests rest on: who looks from the front walks over all of them."""
    worker = await held.queue.worker()
    await held.die(3, worker=worker)
    assert (await held.read(lambda work: work.expire_attempts(10))).entries >= DEAD
    assert (await held.told("select count(*) from rowcall.job where worker_id = %s and state = 3", worker)).pages > FEW


async def test_a_claimer_without_a_mark_may_begin_at_the_frontier(held: Held) -> None:
    worker = await held.queue.worker()
    await held.die(2)
    ids = held.queue.ids
    await held.queue.value(
        "select setval(frontier, %s) from rowcall.queue_lane where queue_id = %s and lane = 3", DEAD, ids.queue_id
    )
    call = held.queue.call()
    await held.queue.submit(call)
    got: list[ClaimedJob] = []

    async def claim(work: PostgresWorkQueue) -> None:
        got.extend(await work.claim(worker, ids.queue_id, [ids.method_id], 1, start=(FRONTIER,) * len(LANES)))

    assert few(await held.read(claim))
    assert [each.job_id for each in got] == [call.job_id]


async def test_a_renewal_reads_nothing_of_what_the_worker_claimed(held: Held) -> None:
    worker = await held.queue.worker()
    await held.die(3, worker=worker)
    assert few(await held.told(RENEW, worker, None))


async def test_who_looks_at_workers_reads_nothing_of_what_they_claimed_or_renewed(held: Held) -> None:
    worker = await held.queue.worker()
    await held.die(3, worker=worker, attempt_ends=timedelta(hours=1))
    await held.queue.admin.execute(
        "do $$ begin for n in 1..600 loop"
        f" perform rowcall.renew_worker('{worker}', '1 minute', null, null, 1, 0, '{{acme}}', array[gen_random_uuid()], '{{1}}', '{{1}}', '{{4}}');"
        " commit; end loop; end $$"
    )
    assert few(await held.told("select * from rowcall.list_workers(null)"))
    assert few(await held.told("select * from rowcall.worker_jobs('worker', null)"))


async def test_a_renewal_reads_nothing_of_what_was_cancelled_before(held: Held) -> None:
    worker = await held.queue.worker()
    await held.die(3, worker=worker, cancelled=True)
    lately = await held.queue.value(_LATELY)
    assert few(await held.told(RENEW, worker, lately))


async def test_what_renewals_leave_behind_is_in_nobodys_way(held: Held) -> None:
    """Ten minutes of beats: neither the next one, nor a claim, nor a settle, nor a burial walks over them."""
    worker = await held.queue.worker()
    await held.queue.submit(*(held.queue.call() for _ in range(40)))
    jobs = await held.queue.claim(worker, 20)
    before = [await held.told(RENEW, worker, None), await held.told("select * from rowcall.bury_workers('0', null)")]
    await held.queue.admin.execute(
        "do $$ begin for n in 1..600 loop"
        f" perform rowcall.renew_worker('{worker}', '1 minute', null, null, 1, 0, null, null, null, null, null); commit; end loop; end $$"
    )
    after = [await held.told(RENEW, worker, None), await held.told("select * from rowcall.bury_workers('0', null)")]
    for one, other in zip(before, after, strict=True):
        assert other.entries <= one.entries + 10
        assert other.pages <= one.pages + 20
    ids = held.queue.ids
    claims = await held.read(
        lambda work: work.claim(worker, ids.queue_id, [ids.method_id], 1, start=(0, 0, jobs[-1].order_key, 0))
    )
    assert few(claims)
    names = await held.told(
        "select j.n, w.name from generate_series(1, 10) j (n) join rowcall.worker w on w.worker_id = %s", worker
    )
    assert names.pages <= 40, "a settle looks at its worker for every job"


async def test_a_worker_names_what_is_overdue(held: Held) -> None:
    worker = await held.queue.worker()
    # Before it in the index of what runs: whoever looked there would walk over them.
    await held.die(3, worker=worker, attempt_ends=timedelta(days=-2))
    await held.queue.submit(held.queue.call())
    [job] = await held.queue.claim(worker)
    await held.queue.probe.pass_time(timedelta(days=1), jobs=[job.job_id])
    renewal = PostgresLeaseRenewal(_counted(held.queue), worker, LEASE, shard="a")
    ended: list[Any] = []

    async def expire(_: PostgresWorkQueue) -> None:
        ended.extend(await asyncio.to_thread(renewal.expire, [Running(job.tenant, job.job_id, job.lease)], NO_GRACE))

    assert few(await held.read(expire))
    assert [each.job_id for each in ended] == [job.job_id]


async def test_attempts_past_their_deadline_are_looked_for_from_the_mark_on(held: Held) -> None:
    worker = await held.queue.worker()
    await held.die(3, worker=worker)
    lately = await held.queue.value(_LATELY)
    assert few(await held.read(lambda work: work.expire_attempts(10, since=lately)))
    await held.queue.submit(held.queue.call())
    [job] = await held.queue.claim(worker)
    # Overdue since a second ago: not past the grace yet when the mark was there.
    await held.queue.admin.execute(
        "update rowcall.job set attempt_deadline = clock_timestamp() - %s - interval '1 second' where job_id = %s",
        [ATTEMPT_GRACE, job.job_id],
    )
    assert [each.job_id for each in await held.queue.work.expire_attempts(10, since=lately)] == [job.job_id]


async def test_of_a_dead_worker_only_that_is_read_that_it_may_still_have_held(held: Held) -> None:
    worker = await held.queue.worker()
    await held.die(3, worker=worker)
    await held.queue.submit(held.queue.call())
    [job] = await held.queue.claim(worker)
    await held.queue.work.retire_worker(worker)
    rescued: list[Rescued] = []

    async def rescue(work: PostgresWorkQueue) -> None:
        rescued.extend(await work.rescue(10, front=False))

    assert few(await held.read(rescue))
    assert [each.job_id for each in rescued] == [job.job_id]


async def test_a_dead_worker_is_looked_at_until_it_holds_nothing(held: Held) -> None:
    worker = await held.queue.worker()
    await held.die(3, worker=worker, attempt_ends=timedelta(minutes=1))
    await held.queue.work.retire_worker(worker)
    assert (await held.read(lambda work: work.rescue(10, front=False))).entries >= DEAD, "it may hold something"
    await held.queue.probe.pass_time(timedelta(minutes=2), workers=[worker])
    assert (await held.read(lambda work: work.rescue(10, front=False))).entries >= DEAD
    # Nor is it the pause behind that look.
    await held.queue.admin.execute("update rowcall.worker set look_again_at = null")
    assert few(await held.read(lambda work: work.rescue(10, front=False)))
    assert few(await held.read(lambda work: work.bury_workers(NO_GRACE)))


async def test_due_jobs_are_looked_for_from_the_mark_on(held: Held) -> None:
    await held.die(1)
    lately = await held.queue.value(_LATELY)
    assert few(await held.read(lambda work: work.promote(10, lately)))


async def test_jobs_past_their_deadline_are_looked_for_from_the_mark_on(held: Held) -> None:
    await held.die(2, deadline=True)
    lately = await held.queue.value(_LATELY)
    assert few(await held.read(lambda work: work.expire_jobs(10, lately)))


async def test_expired_keys_are_looked_for_from_the_mark_on(held: Held) -> None:
    await held.queue.admin.execute(
        "insert into rowcall.job_key (tenant, method_id, request_id, job_id, fingerprint, expires_at)"
        " select 'acme', 1, g::text, gen_random_uuid(), '', clock_timestamp() - interval '1 hour'"
        " from generate_series(1, %s) g",
        [DEAD],
    )
    await held.queue.admin.execute("delete from rowcall.job_key")
    lately = await held.queue.value(_LATELY)
    assert few(await held.read(lambda work: work.expire_keys(10, lately)))


async def test_jobs_are_aged_from_the_frontier_on(held: Held) -> None:
    await held.die(2)
    await held.queue.value(
        "select setval(frontier, %s) from rowcall.queue_lane where queue_id = %s and lane = 3",
        DEAD,
        held.queue.ids.queue_id,
    )
    assert few(await held.read(lambda work: work.age(16, front=False)))


async def test_what_ageing_took_is_not_walked_over_again(held: Held) -> None:
    """It moves the frontier, as a claim does."""
    await held.queue.submit(*(held.queue.call() for _ in range(50)))
    await held.queue.probe.pass_time(timedelta(minutes=2))
    assert sum((await held.queue.work.age(40, front=False)).values()) == 40
    assert (await held.read(lambda work: work.age(1, front=False))).entries <= 40


async def test_nobody_looks_for_what_is_held_unless_something_was_resumed(held: Held) -> None:
    await held.die(2, held=1)
    assert few(await held.read(lambda work: work.free_resumed(10, front=False)))


async def test_what_is_set_aside_is_counted_at_the_first_entry(held: Held) -> None:
    """By what counts it, and by what asks how much it is: neither walks over what was counted before."""
    await held.die(1)
    await held.die(2, held=1)
    call = held.queue.call()
    await held.queue.submit(call)
    hold = "update rowcall.job set held = 1 where tenant = 'acme' and job_id = %s returning held"
    assert few(await held.told(hold, call.job_id))
    aside = "select * from rowcall.aside('acme', %s, 3::smallint)"
    assert few(await held.told(aside, held.queue.ids.queue_id))
    assert await held.queue.value(aside.replace("*", "held"), held.queue.ids.queue_id) == 1
    assert few(await held.told("select rowcall.scheduled('acme', %s)", held.queue.ids.queue_id))


async def test_what_was_spent_is_summed_at_the_first_entry(held: Held) -> None:
    """As many times a sum was added to: the next booking walks over none of it."""
    book = (
        "rowcall.book_spend(array[row('acme', gen_random_uuid(), 1, 1, %s, 1, null, 5, 5, 0.1, null, 'openai', 'gpt-7', 'USD', null)"
        "::rowcall.spent])"
    )
    book %= held.queue.ids.method_id
    async with await psycopg.AsyncConnection.connect(held.queue.logins.admin, autocommit=True) as others:
        # So that all of it is in one slot, whoever books.
        await others.execute("select pg_advisory_lock(hashtext('rowcall.spend'), s) from generate_series(1, 15) s")
        # In a session that began when there was none: what is planned then stays.
        assert (await held.told(f"select {book} from generate_series(1, 2000)")).entries < 2000 * FEW
        assert few(await held.told(f"select {book}"))
    found = await held.queue.admin.execute("select count(*), sum(calls), sum(cost) from rowcall.spend")
    assert await found.fetchone() == (1, 2001, Decimal("200.1"))


async def _running(queue: PostgresQueue, worker: UUID) -> UUID:
    """A job that runs under a worker without anybody's having claimed it: what a claim that comes late leaves."""
    call = queue.call()
    await queue.submit(call)
    await queue.admin.execute(
        "update rowcall.job set state = 3, worker_id = %s, attempt_deadline = clock_timestamp() where job_id = %s",
        [worker, call.job_id],
    )
    return call.job_id


async def _cleared(queue: PostgresQueue, worker: UUID) -> bool:
    return bool(await queue.value("select cleared_at is not null from rowcall.worker where worker_id = %s", worker))


async def test_a_claim_that_commits_long_behind_its_workers_death_is_taken_back(queue: PostgresQueue) -> None:
    await queue.submit(queue.call())
    worker = await queue.worker()
    ids = queue.ids
    async with await psycopg.AsyncConnection.connect(queue.logins.admin) as claiming:
        claim = "select count(*) from rowcall.claim_jobs(%s, %s, %s, '{0,0,0,0}', 1)"
        row = await (await claiming.execute(claim, [worker, ids.queue_id, [ids.method_id]])).fetchone()
        assert row == (1,)
        await queue.work.retire_worker(worker)
        await queue.probe.pass_time(timedelta(minutes=2), workers=[worker])
        assert await queue.work.rescue(10, front=False) == []
        assert not await _cleared(queue, worker), "a transaction of before its death is open"
        await claiming.commit()
    await until(lambda: _rescued(queue))
    await until(lambda: _cleared_by_rescue(queue, worker))


async def _rescued(queue: PostgresQueue) -> bool:
    """Behind a look in vain that took long, on a busy machine, is a pause."""
    return bool(await queue.work.rescue(10, front=False))


async def _cleared_by_rescue(queue: PostgresQueue, worker: UUID) -> bool:
    """A transaction of another test's may be open for a moment."""
    assert await queue.work.rescue(10, front=False) == []
    return await _cleared(queue, worker)


async def test_a_worker_is_not_cleared_within_a_minute_of_its_death(queue: PostgresQueue) -> None:
    """A claim that is slow to begin has seen it alive, and is no writer yet."""
    worker = await queue.worker()
    await queue.work.retire_worker(worker)
    assert await queue.work.rescue(10, front=False) == []
    await _running(queue, worker)
    await until(lambda: _rescued(queue))


async def test_what_turns_up_under_a_cleared_worker_is_found_by_who_looks_at_all(queue: PostgresQueue) -> None:
    worker = await queue.worker()
    await queue.work.retire_worker(worker)
    await queue.probe.pass_time(timedelta(minutes=2), workers=[worker])
    await until(lambda: _cleared_by_rescue(queue, worker))
    job_id = await _running(queue, worker)
    assert await queue.work.rescue(10, front=False) == []
    assert [each.job_id for each in await queue.work.rescue(10)] == [job_id]
    assert (await queue.facts(job_id)).state == READY


async def test_what_a_dead_worker_cannot_have_held_is_found_by_who_looks_at_all(queue: PostgresQueue) -> None:
    worker = await queue.worker()
    job_id = await _running(queue, worker)
    await queue.admin.execute(
        "update rowcall.job set attempt_deadline = clock_timestamp() - interval '1 hour' where job_id = %s", [job_id]
    )
    await queue.work.retire_worker(worker)
    assert await queue.work.rescue(10, front=False) == []
    assert [each.job_id for each in await queue.work.rescue(10)] == [job_id]


async def test_a_cleared_worker_holds_nothing_that_a_zombie_has_locked(queue: PostgresQueue) -> None:
    await queue.submit(queue.call())
    worker = await queue.worker()
    [job] = await queue.claim(worker)
    await queue.work.retire_worker(worker)
    await queue.probe.pass_time(timedelta(minutes=2), workers=[worker])
    async with await psycopg.AsyncConnection.connect(queue.logins.admin) as zombie:
        # Begun behind the death, by a session that does not know of it.
        await zombie.execute("select from rowcall.job where job_id = %s for update", [job.job_id])
        assert await queue.work.rescue(10, front=False) == []
        await zombie.rollback()
    await until(lambda: _rescued(queue))


async def test_after_a_long_look_in_vain_there_is_a_pause(queue: PostgresQueue) -> None:
    worker = await queue.worker()
    await queue.work.retire_worker(worker)
    job_id = await _running(queue, worker)
    again = "update rowcall.worker set look_again_at = clock_timestamp() + %s::interval"
    await queue.admin.execute(again, ["1 minute"])
    assert await queue.work.rescue(10, front=False) == []
    await queue.admin.execute(again, ["-1 minute"])
    assert [each.job_id for each in await queue.work.rescue(10, front=False)] == [job_id]


async def test_who_resumes_waits_for_what_is_being_set_aside(queue: PostgresQueue) -> None:
    """Else it would be set aside when nobody looks for it any more."""
    await queue.submit(queue.call())
    await queue.operators.pause("tenant", "acme", by=None, note=None)
    async with await psycopg.AsyncConnection.connect(queue.logins.admin) as holding:
        assert await (await holding.execute("select rowcall.hold_paused(10)")).fetchone() == (1,)
        resuming = asyncio.create_task(queue.operators.resume("tenant", "acme"))
        await until(lambda: _waits(queue, resuming))
        assert await queue.work.free_resumed(10, front=False) == {}
        await holding.commit()
    assert await resuming
    assert await queue.work.free_resumed(10, front=False) == {queue.ids.queue_id: 1}


async def test_who_is_resumed_while_it_is_looked_who_is_paused_is_not_forgotten(queue: PostgresQueue) -> None:
    """The look has seen either that it is paused, or that it was resumed; and is made again where it did not find its jobs."""
    await queue.submit(queue.call())
    await queue.operators.pause("tenant", "acme", by=None, note=None)
    assert await queue.work.hold_paused(10) == 1
    async with await psycopg.AsyncConnection.connect(queue.logins.admin) as holding:
        await holding.execute("lock table rowcall.method in access exclusive mode")
        looking = asyncio.create_task(queue.work.free_resumed(10, front=True))
        await until(lambda: _waits(queue, looking))
        resumed = "update rowcall.tenant_route set paused_at = null, paused_by = null, pause_note = null where tenant = 'acme'"
        await queue.admin.execute(resumed)
        await holding.commit()
    found = [await looking, await queue.work.free_resumed(10, front=False)]
    assert sum(sum(each.values()) for each in found) == 1


async def _waits(queue: PostgresQueue, task: asyncio.Task[Any]) -> bool:
    """Until it waits, or has not."""
    return task.done() or await queue.probe.waiting() > 0
