"""A store with ten million finished rows, ten million keys and a million scheduled jobs, and how fast one is.

Used by the proof of the dropped day, and by the benchmark `history`. ROWCALL_PROOF_ROWS sets another number than ten
million (the scheduled are a tenth).
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg

from tests.proofs.engine import Engine, engine
from tests.proofs.figures import say

ROWS = int(os.environ.get("ROWCALL_PROOF_ROWS", "10000000"))
CHUNK = 500_000
JOBS = 40_000

FINISHED = """
insert into rowcall.job_history (
  tenant, job_id, state, lane, priority, queue_id, order_key, method_id, policy_id, lease, attempt, lost, lost_alone,
  replays, retention, finished_on, finished_at, run_at, created_at, request, request_id, response
)
select
  'tenant-' || n %% 100, rowcall.uuid_v7(), 11, 3, 3, 1, n, 1, 1, 1, 1, 0, 0,
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


def fill(dsn: str, rows: int = ROWS) -> None:
    """Makes so many finished rows and keys and a tenth of scheduled jobs, and has Postgres settle down: vacuumed, analysed,
    checkpointed."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("set synchronous_commit = off")
        for name, query, count in (
            ("finished rows", FINISHED, rows),
            ("keys", KEYS, rows),
            ("scheduled jobs", SCHEDULED, rows // 10),
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


@asynccontextmanager
async def prepared(dsn: str) -> AsyncIterator[Engine]:
    """The engine on a shard, its plans made and its pages known."""
    async with engine(dsn) as load:
        await load.submit(2_000)
        await load.drain()
        yield load
