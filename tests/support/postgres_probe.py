"""The probe into a shard on Postgres: `tests.support.probe.Probe` in SQL, as superuser."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from datetime import date, datetime, timedelta
from typing import Any, Final, Unpack
from uuid import UUID

import psycopg
from psycopg.rows import class_row, tuple_row

from tests.support.probe import Changes, JobFacts, KeyFacts, TurnFacts
from tests.support.waiting import until

RETENTIONS: Final = ("short", "standard", "long")
"""What history's tables are called by, in the order of rowcall.options.v1.Retention."""

# Where a finished job is kept is told by the table that it is in, not by its own columns.
_JOBS = """
select
  tenant, job_id, state, held, priority, lane, order_key, lease, attempt, lost, lost_alone, replays,
  coalesce(jsonb_array_length(attempts), 0) as attempts, cancel_requested_at is not null as cancel, worker_id,
  attempt_deadline, fairness_key, null::integer as retention, null::date as day
from rowcall.job
where job_id = any (%(jobs)s) or %(jobs)s::uuid[] is null
union all
select
  tenant, job_id, state, 0, priority, lane, order_key, lease, attempt, lost, lost_alone, replays,
  coalesce(jsonb_array_length(attempts), 0), cancel_requested_at is not null, worker_id,
  null, fairness_key, array_position(array['short', 'standard', 'long'], split_part(tableoid::regclass::text, '_', 3)),
  split_part(tableoid::regclass::text, '_', 4)::date
from rowcall.job_history
where job_id = any (%(jobs)s) or %(jobs)s::uuid[] is null
order by job_id
"""

_PASS_JOBS = """
update rowcall.job
set
  run_at = run_at - %(time)s, deadline = deadline - %(time)s, attempt_deadline = attempt_deadline - %(time)s,
  created_at = created_at - %(time)s, ready_at = ready_at - %(time)s, started_at = started_at - %(time)s,
  cancel_requested_at = cancel_requested_at - %(time)s, progress_at = progress_at - %(time)s
where job_id = any (%(jobs)s) or %(jobs)s::uuid[] is null
"""
_DAYS = """
select distinct retention, ((finished_at - %(time)s) at time zone 'UTC')::date
from rowcall.job_history
where job_id = any (%(jobs)s)
"""
_PASS_HISTORY = """
update rowcall.job_history
set
  finished_at = finished_at - %(time)s, finished_on = ((finished_at - %(time)s) at time zone 'UTC')::date,
  run_at = run_at - %(time)s, deadline = deadline - %(time)s, created_at = created_at - %(time)s,
  ready_at = ready_at - %(time)s, started_at = started_at - %(time)s, progress_at = progress_at - %(time)s,
  cancel_requested_at = cancel_requested_at - %(time)s, resolved_at = resolved_at - %(time)s
where job_id = any (%(jobs)s)
"""
_PASS_WORKERS = (
    """
    update rowcall.worker
    set
      started_at = started_at - %(time)s, dead_at = dead_at - %(time)s, cleared_at = cleared_at - %(time)s,
      look_again_at = look_again_at - %(time)s
    where worker_id = any (%(workers)s) or %(workers)s::uuid[] is null
    """,
    """
    update rowcall.worker_beat
    set
      renewed_at = renewed_at - %(time)s, lease_until = lease_until - %(time)s, steady_since = steady_since - %(time)s
    where worker_id = any (%(workers)s) or %(workers)s::uuid[] is null
    """,
)
_PASS_REST = (
    "update rowcall.elected set until = until - %(time)s",
    "update rowcall.served set until = until - %(time)s",
    "update rowcall.job_key set expires_at = expires_at - %(time)s, repeated_at = repeated_at - %(time)s",
    "update rowcall.queue set paused_at = paused_at - %(time)s where paused_at is not null",
    "update rowcall.method set paused_at = paused_at - %(time)s where paused_at is not null",
    "update rowcall.tenant_route set paused_at = paused_at - %(time)s where paused_at is not null",
)

_CLEAR = """
delete from rowcall.job; delete from rowcall.job_history; delete from rowcall.job_key; delete from rowcall.worker;
delete from rowcall.worker_beat; delete from rowcall.serving; delete from rowcall.served; delete from rowcall.turn;
delete from rowcall.elected;
update rowcall.queue set paused_at = null; update rowcall.method set paused_at = null, holding = false;
update rowcall.tenant_route set paused_at = null, holding = false
"""

_CHANGES = {
    "order_key": "order_key = %(order_key)s",
    "attempt": "attempt = %(attempt)s",
    "run_in": "run_at = clock_timestamp() + %(run_in)s",
    "progress": "progress = %(progress)s",
    "held": "held = %(held)s",
    "state": "state = %(state)s",
    "cancel": "cancel_requested_at = case when %(cancel)s then clock_timestamp() end",
}

_LOCKS = "select count(*) from pg_locks where locktype = 'advisory' and objsubid = 1 and granted and pid = %s"


class PostgresProbe:
    """A probe into one shard's database."""

    def __init__(self, admin: psycopg.AsyncConnection[Any], direct: str, worker: str) -> None:
        """
        Args:
            admin: As superuser, in autocommit mode.
            direct: A superuser's connection string, for sessions that hold something.
            worker: A worker's connection string, for the session that stands for it.
        """
        self.admin = admin
        self._direct = direct
        self._worker = worker

    async def value(self, query: str, *parameters: object) -> Any:
        """The first column of the first row of a query."""
        row = await (await self.admin.execute(query.encode(), parameters)).fetchone()
        assert row is not None
        return row[0]

    async def now(self) -> datetime:
        """See Probe.now."""
        now: datetime = await self.value("select clock_timestamp()")
        return now

    async def up_for(self) -> timedelta:
        """See Probe.up_for."""
        time: timedelta = await self.value("select clock_timestamp() - pg_postmaster_start_time()")
        return time

    async def jobs(self, job_ids: Collection[UUID] | None = None) -> list[JobFacts]:
        """See Probe.jobs."""
        async with self.admin.cursor(row_factory=class_row(JobFacts)) as cursor:
            await cursor.execute(_JOBS, {"jobs": None if job_ids is None else list(job_ids)})
            return await cursor.fetchall()

    async def keys(self) -> list[KeyFacts]:
        """See Probe.keys."""
        async with self.admin.cursor(row_factory=class_row(KeyFacts)) as cursor:
            await cursor.execute("select tenant, request_id, job_id from rowcall.job_key order by tenant, request_id")
            return await cursor.fetchall()

    async def turns(self) -> list[TurnFacts]:
        """See Probe.turns."""
        async with self.admin.cursor(row_factory=class_row(TurnFacts)) as cursor:
            await cursor.execute("select tenant, last_key from rowcall.turn order by tenant")
            return await cursor.fetchall()

    async def workers(self) -> list[str]:
        """See Probe.workers."""
        rows = await (await self.admin.execute("select name from rowcall.worker order by name")).fetchall()
        return [row[0] for row in rows]

    async def waiting(self) -> int:
        """See Probe.waiting."""
        sessions: int = await self.value("select count(distinct pid) from pg_locks where not granted")
        return sessions

    async def pass_time(
        self, time: timedelta, *, jobs: Collection[UUID] | None = None, workers: Collection[UUID] | None = None
    ) -> None:
        """See Probe.pass_time."""
        everything = jobs is None and workers is None
        given = {
            "time": time,
            "jobs": None if jobs is None else list(jobs),
            "workers": None if workers is None else list(workers),
        }
        async with self.admin.transaction():
            if everything or jobs is not None:
                await self.admin.execute(_PASS_JOBS, given)
            if jobs is not None:
                await self._pass_history(given)
            if everything or workers is not None:
                for statement in _PASS_WORKERS:
                    await self.admin.execute(statement, given)
            if everything:
                for statement in _PASS_REST:
                    await self.admin.execute(statement, given)

    async def _pass_history(self, given: dict[str, Any]) -> None:
        days = await (await self.admin.execute(_DAYS, given)).fetchall()
        if not days:
            return
        for retention, day in days:
            await self.make_day(RETENTIONS[retention - 1], day)
        # A row that moves to another day is inserted there; what follows a job's end must not follow it once more.
        await self.admin.execute("set local session_replication_role = replica")
        await self.admin.execute(_PASS_HISTORY, given)

    async def make_day(self, kind: str, day: date) -> str:
        """Makes a day of history, if it is not there, as it is when it was made long ago; its table's name."""
        name = f"job_history_{kind}_{day:%Y%m%d}"
        async with self.admin.transaction():
            await self.admin.execute("set local role rowcall_owner")
            await self.admin.execute(
                f"create table if not exists rowcall.{name} partition of rowcall.job_history_{kind}"
                f" for values from ('{day}') to ('{day + timedelta(days=1)}')".encode()
            )
            await self.admin.execute("reset role")
        return name

    async def adopt(self, *tenants: str) -> None:
        """See Probe.adopt."""
        for tenant in tenants:
            await self.admin.execute("select rowcall.adopt_tenant(%s, 1)", [tenant])

    async def fence(self, tenant: str) -> None:
        """See Probe.fence."""
        await self.admin.execute("update rowcall.tenant_route set state = 2 where tenant = %s", [tenant])

    async def age_after(self, queue_id: int, time: timedelta) -> None:
        """See Probe.age_after."""
        await self.admin.execute("update rowcall.queue set age_after = %s where queue_id = %s", [time, queue_id])

    async def change(self, job_ids: Collection[UUID], **changes: Unpack[Changes]) -> None:
        """See Probe.change."""
        await _write(self.admin, job_ids, changes)

    async def clear(self) -> None:
        """See Probe.clear."""
        await self.admin.execute(_CLEAR)

    @asynccontextmanager
    async def holding(self, *job_ids: UUID, **changes: Unpack[Changes]) -> AsyncIterator[None]:
        """See Probe.holding."""
        async with await psycopg.AsyncConnection.connect(self._direct) as session:
            await _write(session, job_ids, changes)
            yield

    @asynccontextmanager
    async def renewing(self, worker_id: UUID, lease: timedelta) -> AsyncIterator[None]:
        """See Probe.renewing."""
        async with await psycopg.AsyncConnection.connect(self._direct) as session:
            await session.execute(
                "select rowcall.renew_worker(%s, %s, null, null, null, null, null, null, null, null, null)",
                [worker_id, lease],
            )
            yield

    @asynccontextmanager
    async def standing(self, worker_id: UUID) -> AsyncIterator[bool]:
        """See Probe.standing."""
        session = await psycopg.AsyncConnection.connect(self._worker, autocommit=True, row_factory=tuple_row)
        pid = session.info.backend_pid
        try:
            answer = await (await session.execute("select rowcall.guard_worker(%s)", [worker_id])).fetchone()
            assert answer is not None
            assert await self.value(_LOCKS, pid) == answer[0], (
                "it stands for the worker by one lock, and by nothing else"
            )
            yield answer[0]
        finally:
            await session.close()
            await until(lambda: self.value("select not exists (select from pg_stat_activity where pid = %s)", pid))


async def _write(session: psycopg.AsyncConnection[Any], job_ids: Collection[UUID], changes: Changes) -> None:
    """Writes live jobs, or only locks them where there is nothing to change."""
    sets = ", ".join(_CHANGES[name] for name in changes)
    statement = f"update rowcall.job set {sets}" if sets else "select from rowcall.job"
    found = await session.execute(
        f"{statement} where job_id = any (%(jobs)s){'' if sets else ' for update'}".encode(),
        {**changes, "jobs": list(job_ids)},
    )
    assert found.rowcount == len(job_ids), "all of them are live"
