"""Ten million finished rows, ten million keys and a million scheduled jobs do not slow the queue: `make proofs ONLY=size`.

About 25 minutes, 12 GB of disk. ROWCALL_PROOF_ROWS sets another number than ten million (the scheduled are a tenth).
"""

from __future__ import annotations

import asyncio
import os
import time

import psycopg
import pytest

from tests.proofs.engine import Engine, Seen, engine, held_snapshot, shard
from tests.proofs.figures import keep, percentile, say

ROWS = int(os.environ.get("ROWCALL_PROOF_ROWS", "10000000"))
CHUNK = 500_000
JOBS = 40_000
ROUNDS = 3
READER_SECONDS = 120.0

FINISHED = """
insert into rowcall.job_history (
  tenant, job_id, state, lane, priority, queue_id, order_key, method_id, policy_id, lease, attempt, lost, lost_alone,
  replays, retention, finished_on, finished_at, run_at, created_at, request, request_id, response
)
select
  'tenant-' || n %% 100, rowcall.uuid_v7(), 4, 3, 3, 1, n, 1, 1, 1, 1, 0, 0,
  0, 2, (clock_timestamp() at time zone 'UTC')::date + (n %% 7)::integer, clock_timestamp(), clock_timestamp(), clock_timestamp(), '\\x00112233',
  gen_random_uuid()::text, '\\x00112233'
from generate_series(%(from)s::bigint, %(to)s::bigint) as n
"""
KEYS = """
insert into rowcall.job_key (tenant, method_id, request_id, job_id, fingerprint, expires_at)
select
  'tenant-' || n %% 100, 1, gen_random_uuid()::text, gen_random_uuid(), '\\x00112233445566778899aabbccddeeff',
  clock_timestamp() + interval '7 days'
from generate_series(%(from)s::bigint, %(to)s::bigint) as n
"""
SCHEDULED = """
insert into rowcall.job (
  tenant, job_id, state, lane, priority, queue_id, order_key, method_id, policy_id, run_at, request
)
select
  'tenant-' || n %% 100, rowcall.uuid_v7(), 1, 3, 3, 1, 0, 1, 1, clock_timestamp() + interval '1 day', '\\x00112233'
from generate_series(%(from)s::bigint, %(to)s::bigint) as n
"""


def fill(dsn: str) -> None:
    """Makes the rows, and has Postgres settle down: vacuumed, analysed, checkpointed."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("set synchronous_commit = off")
        for name, query, count in (
            ("finished rows", FINISHED, ROWS),
            ("keys", KEYS, ROWS),
            ("scheduled jobs", SCHEDULED, ROWS // 10),
        ):
            for begin in range(0, count, CHUNK):
                connection.execute(query.encode(), {"from": begin, "to": min(begin + CHUNK, count) - 1})
                say(f"{min(begin + CHUNK, count):,} of {count:,} {name}")
        say("vacuum and checkpoint")
        connection.execute("vacuum analyze")
        connection.execute("checkpoint")


async def rates(load: Engine) -> tuple[float, float]:
    """Jobs submitted a second, and drained a second."""
    began = time.monotonic()
    await load.submit(JOBS)
    submitted = JOBS / (time.monotonic() - began)
    return submitted, await load.drain()


async def measured(dsn: str) -> tuple[float, float]:
    """The best of some rounds: what disturbs a round is not the queue's."""
    async with engine(dsn) as load:
        await load.submit(2_000)
        await load.drain()
        found = []
        for number in range(ROUNDS):
            say(f"submit and drain {JOBS}: round {number + 1} of {ROUNDS}")
            found.append(await rates(load))
    return max(each[0] for each in found), max(each[1] for each in found)


@pytest.mark.timeout(5400)
async def test_a_full_store_beside_an_empty_one_and_a_day_dropped_beside_a_reader() -> None:
    with shard(max_wal_size="8GB") as dsn:
        async with engine(dsn) as load:
            await load.submit(100)
            await load.drain()
        await asyncio.to_thread(fill, dsn)
        full = await measured(dsn)
        with shard() as other:
            empty = await measured(other)
        for index, name in enumerate(("submit", "drain")):
            keep("size", f"{name}, empty store", empty[index], unit="jobs/s", goal="-")
            keep("size", f"{name}, full store", full[index], unit="jobs/s", goal="-")
            keep("size", f"{name}, ratio", full[index] / empty[index], unit="x", goal=">= 0.9")
        await drop_a_day(dsn)


async def drop_a_day(dsn: str) -> None:
    """A day's partition goes while history is read for two minutes and the queue works."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        # A day of long ago, with a million rows of the others'; the owner's, as every day is.
        connection.execute("set role rowcall_owner")
        connection.execute(
            "create table rowcall.job_history_standard_20200101 (like rowcall.job_history_standard including all)"
        )
        connection.execute(
            "alter table rowcall.job_history_standard attach partition rowcall.job_history_standard_20200101 "
            "for values from ('2020-01-01') to ('2020-01-02')"
        )
        connection.execute(
            FINISHED.replace(
                "(clock_timestamp() at time zone 'UTC')::date + (n %% 7)::integer", "date '2020-01-01'"
            ).encode(),
            {"from": 0, "to": min(ROWS // 10, 1_000_000)},
        )
    async with engine(dsn) as load:
        say("settles without a reader, for 30 s")
        async with load.claiming():
            await load.produce(30.0)
        alone, load.seen = load.seen, Seen()
        say(f"a reader of history for {READER_SECONDS:.0f} s, while a day is to be dropped")
        tries = 0
        async with load.claiming():
            producing = asyncio.create_task(load.produce(READER_SECONDS + 30))
            with held_snapshot(dsn, "select count(*) from rowcall.job_history where finished_on = '2020-01-01'"):
                until = time.monotonic() + READER_SECONDS
                while time.monotonic() < until:
                    assert await load.work.drop_history_day() == "", "the day was dropped while it was read"
                    tries += 1
                    await asyncio.sleep(1.0)
            dropped_after = time.monotonic()
            while await load.work.drop_history_day() == "":  # noqa: ASYNC110  a maintainer tries again too
                await asyncio.sleep(0.1)
            dropped_after = time.monotonic() - dropped_after
            await producing
        keep("a day dropped", "settle p99.9 alone", percentile(alone.settle_times, 0.999) * 1000, unit="ms", goal="-")
        keep("a day dropped", "settle longest alone", max(alone.settle_times) * 1000, unit="ms", goal="-")
        keep(
            "a day dropped",
            "settle p99.9 beside reader and drop",
            percentile(load.seen.settle_times, 0.999) * 1000,
            unit="ms",
            goal="no stall",
        )
        keep(
            "a day dropped",
            "settle longest beside reader and drop",
            max(load.seen.settle_times) * 1000,
            unit="ms",
            goal="no stall",
        )
        keep("a day dropped", "tries beside the reader", tries, unit="", goal="-")
        keep("a day dropped", "dropped after the reader's end", dropped_after, unit="s", goal="-")
