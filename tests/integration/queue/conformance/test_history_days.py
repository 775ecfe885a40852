"""What every implementation of the queue keeps to: history's days are made ahead and dropped when they are due.

Each test of a guard fails when the guard is taken out of the SQL.
"""

from __future__ import annotations

import asyncio
from datetime import date, timedelta

import psycopg
import pytest

from rowcall.catalogue.model import Policy
from rowcall.migrations import HISTORY_DAYS
from tests.fix_queue import METHOD, SUCCEEDED, Queue

KEPT = {"short": 1, "standard": 7, "long": 90}
"""Days that each class is kept after the day it is of."""


async def kept_to(queue: Queue) -> date:
    """Today, once the days are as its maintainer leaves them: the copied template may be of before midnight."""
    while await queue.work.drop_history_day() is not None:
        pass
    await queue.work.make_history_days(HISTORY_DAYS)
    return await today(queue)


async def today(queue: Queue) -> date:
    day: date = await queue.value("select (clock_timestamp() at time zone 'UTC')::date")
    return day


async def make_day(queue: Queue, kind: str, day: date) -> str:
    """A day of history as it is when it was made long ago; its table's name."""
    name = f"job_history_{kind}_{day:%Y%m%d}"
    await queue.admin.execute("set role rowcall_owner")
    await queue.admin.execute(
        f"create table if not exists rowcall.{name} partition of rowcall.job_history_{kind}"
        f" for values from ('{day}') to ('{day + timedelta(days=1)}')"
    )
    await queue.admin.execute("reset role")
    return name


async def days(queue: Queue) -> set[str]:
    rows = await queue.admin.execute(
        "select relname from pg_class where relnamespace = 'rowcall'::regnamespace and relkind = 'r'"
        " and relname ~ '^job_history_'"
    )
    return {row[0] for row in await rows.fetchall()}


async def test_only_days_past_their_classs_retention_are_dropped_oldest_first(queue: Queue) -> None:
    now = await kept_to(queue)
    due = [
        await make_day(queue, "long", now - timedelta(days=KEPT["long"] + 3)),
        await make_day(queue, "long", now - timedelta(days=KEPT["long"] + 1)),
        await make_day(queue, "standard", now - timedelta(days=KEPT["standard"] + 1)),
        await make_day(queue, "short", now - timedelta(days=KEPT["short"] + 1)),
    ]
    kept = {await make_day(queue, kind, now - timedelta(days=age)) for kind, age in KEPT.items()}
    before = await days(queue)
    assert kept <= before
    dropped = []
    while (name := await queue.work.drop_history_day()) is not None:
        dropped.append(name)
    assert dropped == due
    assert await days(queue) == before - set(due)
    assert await queue.work.make_history_days(HISTORY_DAYS + 2) == 6, "two more days of three retentions"


async def test_a_finished_job_lives_as_long_as_its_class(queue: Queue) -> None:
    for retention, kind in enumerate(KEPT, 1):
        ids = await queue.store.method_ids(METHOD, Policy(retention=retention))
        call = queue.call(ids=ids)
        await queue.submit(call)
        [job] = await queue.claim(await queue.worker(), ids=ids)
        await queue.settle(job)
        table = await queue.value(
            "select tableoid::regclass::text from rowcall.job_history where job_id = %s", job.job_id
        )
        assert table == f"rowcall.job_history_{kind}_{await today(queue):%Y%m%d}"
        assert await queue.state("acme", call.job_id) == SUCCEEDED


async def test_a_day_is_not_dropped_beside_a_reader_and_no_settle_waits(queue: Queue) -> None:
    """The lock that it needs is asked for and refused; nobody ever waits behind the asking."""
    due = await make_day(queue, "short", await kept_to(queue) - timedelta(days=9))
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
        assert due in await days(queue)
        await reader.rollback()
    assert await queue.work.drop_history_day() == due
    assert await queue.work.drop_history_day() is None


async def test_days_are_made_ahead_once(queue: Queue) -> None:
    assert await queue.work.make_history_days(1) == 0, "the migration made them"
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        await queue.admin.execute("select rowcall.make_history_days(0)")
