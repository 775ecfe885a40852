"""History as Postgres keeps it: days are partitions, and a settled row moves from one table to another.

Each test of a guard fails when the guard is taken out of the SQL.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, timedelta

import psycopg
import pytest

from rowcall.catalogue.model import Policy
from rowcall.migrations import HISTORY_DAYS
from tests.fix_queue import PostgresQueue
from tests.support.queues import METHOD


async def test_a_day_is_not_dropped_beside_a_reader_and_no_settle_waits(queue: PostgresQueue) -> None:
    """The lock that it needs is asked for and refused; nobody ever waits behind the asking."""
    # The copied template may be of before midnight.
    while await queue.work.drop_history_day() is not None:
        pass
    await queue.work.make_history_days(HISTORY_DAYS)
    today = (await queue.probe.now()).astimezone(UTC).date()
    due = await queue.probe.make_day("short", today - timedelta(days=9))
    ids = await queue.store.method_ids(METHOD, Policy(retention=1))
    await queue.submit(*(queue.call(ids=ids) for _ in range(30)))
    jobs = await queue.claim(await queue.worker(), ids=ids)
    async with await psycopg.AsyncConnection.connect(queue.logins.admin) as reader:
        await reader.execute("select count(*) from rowcall.job_history")
        async with asyncio.timeout(60):
            dropping = asyncio.create_task(queue.work.drop_history_day(50))
            for job in jobs:
                assert (await queue.settle(job)).settled
                assert await queue.value("select count(*) from pg_locks where not granted") == 0
            assert await dropping == "", "due, but in use"
        assert await queue.value("select to_regclass(%s) is not null", f"rowcall.{due}")
        await reader.rollback()
    assert await queue.work.drop_history_day() == due
    assert await queue.work.drop_history_day() is None


async def test_days_are_made_ahead_once(queue: PostgresQueue) -> None:
    assert await queue.work.make_history_days(1) == 0, "the migration made them"
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        await queue.admin.execute("select rowcall.make_history_days(0)")


async def test_a_finished_job_keeps_everything_that_was_known_of_it(queue: PostgresQueue) -> None:
    """Every column that both tables have, each with a value of its own."""
    await queue.submit(queue.call())
    [job] = await queue.claim(await queue.worker())
    await queue.admin.execute(
        """
        update rowcall.job
        set
          lane = 2, priority = 4, order_key = 77, attempt = 3, lost = 5, lost_alone = 1, replays = 6, payload_key_id = 8,
          deadline = now() + interval '1 hour', run_at = now() - interval '2 hours', created_at = now() - interval '3 hours',
          ready_at = now() - interval '4 hours', started_at = now() - interval '5 hours',
          cancel_requested_at = now() - interval '6 hours', request_id = 'k', actor = 'ann', fairness_key = 'f',
          trace_id = gen_random_uuid(), parent_span_id = -9, trace_flags = 255, tracestate = 'ts', limit_id = 10,
          limit_key = 'l', parent_job_id = gen_random_uuid(), group_id = gen_random_uuid(), on_done = null,
          labels = '{"a": "b"}',
          progress = 0.5, progress_message = 'half', progress_at = now() - interval '7 hours', attempts = '[]'
        """
    )
    known = await queue.value("select to_jsonb(j) from rowcall.job j")
    await queue.settle(job)
    kept = await queue.value("select to_jsonb(h) from rowcall.job_history h")
    assert set(known) - set(kept) == {"held", "attempt_deadline", "waiter_id", "by_sql"}
    assert {name: kept[name] for name in known if name in kept} == {
        **{n: known[n] for n in known if n in kept},
        "state": 11,
    }
