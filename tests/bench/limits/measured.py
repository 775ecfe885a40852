"""The measuring itself: plain psycopg, prepared statements, binary parameters, autocommit, on reference.sql."""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final, TypeAlias

import psycopg

from rowcall.queue.postgres.wire.arrays import BigintArray, ByteaArray

Connection: TypeAlias = psycopg.AsyncConnection[Any]

REQUEST: Final = bytes(200)
RESPONSE: Final = bytes(100)
CLAIM: Final = 300
"""Rows in a claim, and in the settle that follows it: as many as a worker claims at a time. (With 2,000 it is a third faster.)"""
LONE: Final = 300
"""How often something is done alone."""

SCHEMA: Final = Path(__file__).with_name("reference.sql")
INSERT: Final = b"insert into reference.job (request) select r from unnest(%s) r"
CLAIM_ROWS: Final = b"""
update reference.job
set state = 3, lease = lease + 1, started_at = clock_timestamp()
where id = any (array(
  select id from reference.job where state = 2 and id > %s order by id limit %s for update skip locked
))
returning id, lease, request
"""
SETTLE_ROWS: Final = b"""
with gone as (
  delete from reference.job j
  using unnest(%s, %s, %s) as s (id, lease, response)
  where j.id = s.id and j.lease = s.lease and j.state = 3
  returning j.id, j.created_at, j.started_at, j.request, s.response
)
insert into reference.history (id, created_at, started_at, request, response) select * from gone
"""


@asynccontextmanager
async def _connections(dsn: str, many: int) -> AsyncIterator[list[Connection]]:
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(
                await psycopg.AsyncConnection.connect(dsn, autocommit=True, prepare_threshold=0)
            )
            for _ in range(many)
        ]


async def _same_plan(connections: Iterable[Connection]) -> None:
    """Has each statement planned once and for all, as a prepared statement is: a plan for one batch's ids walks the table."""
    for each in connections:
        await each.execute(b"set plan_cache_mode = force_generic_plan")
        await each.execute(b"set enable_seqscan = off")


async def _make_schema(connection: Connection) -> None:
    await connection.execute(SCHEMA.read_bytes(), prepare=False)


async def _value(connection: Connection, query: bytes) -> int:
    row = await (await connection.execute(query)).fetchone()
    assert row is not None
    return int(row[0])


async def insert(dsn: str, *, connections: int, batch: int, seconds: float) -> float:
    """Rows a second."""
    async with _connections(dsn, connections) as found:
        await _make_schema(found[0])
        values = ByteaArray([REQUEST] * batch)
        for each in found:
            await each.execute(INSERT, [values])
        before = await _value(found[0], b"select count(*) from reference.job")
        began = time.perf_counter()

        async def some(connection: Connection) -> None:
            while time.perf_counter() < began + seconds:
                await connection.execute(INSERT, [values])

        await asyncio.gather(*(some(each) for each in found))
        elapsed = time.perf_counter() - began
        return (await _value(found[0], b"select count(*) from reference.job") - before) / elapsed


async def drain(dsn: str, *, count: int, connections: int) -> float:
    """Rows a second, claimed and settled, by workers that each do one after the other."""
    async with _connections(dsn, connections) as found:
        await _make_schema(found[0])
        for begin in range(0, count, 1000):
            await found[0].execute(INSERT, [ByteaArray([REQUEST] * min(1000, count - begin))])
        await found[0].execute(b"vacuum analyze reference.job")
        await found[0].execute(b"checkpoint")
        await _same_plan(found)
        began = time.perf_counter()

        async def work(connection: Connection) -> None:
            mark = 0
            while True:
                async with connection.cursor(binary=True) as cursor:
                    await cursor.execute(CLAIM_ROWS, [mark, CLAIM])
                    rows = await cursor.fetchall()
                if not rows and mark == 0:
                    return
                # Dead entries behind the mark are not walked over again; the last look is from the front.
                mark = max((row[0] for row in rows), default=0)
                if rows:
                    ids, leases = BigintArray([row[0] for row in rows]), BigintArray([row[1] for row in rows])
                    await connection.execute(SETTLE_ROWS, [ids, leases, ByteaArray([RESPONSE] * len(rows))])

        await asyncio.gather(*(work(each) for each in found))
        elapsed = time.perf_counter() - began
        done = await _value(found[0], b"select count(*) from reference.history")
        if done != count:
            raise RuntimeError(f"{done} of {count} rows are in the history")
        return count / elapsed


async def commit(dsn: str) -> float:
    """Milliseconds, the median."""
    async with _connections(dsn, 1) as [connection]:
        await _make_schema(connection)
        took = []
        for _ in range(LONE):
            before = time.perf_counter()
            await connection.execute(INSERT, [ByteaArray([REQUEST])])
            took.append(time.perf_counter() - before)
            await asyncio.sleep(0.002)
        return statistics.median(took) * 1000


async def wakeup(dsn: str) -> float:
    """Milliseconds from the return of a NOTIFY until another process has it, the median; at least 0.

    Time is CLOCK_MONOTONIC, which the processes of one machine share.
    """
    listener = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.bench.limits",
        "listen",
        f"--dsn={dsn}",
        f"--count={LONE}",
        stdout=asyncio.subprocess.PIPE,
    )
    assert listener.stdout is not None
    await listener.stdout.readline()
    sent = []
    async with _connections(dsn, 1) as [connection]:
        await connection.execute(b"set synchronous_commit = off")
        for number in range(LONE):
            await connection.execute(b"select pg_notify('reference', %s)", [str(number)])
            sent.append(time.monotonic())
            await asyncio.sleep(0.004)
    heard = json.loads(await listener.stdout.readline())
    await listener.wait()
    times: list[float] = [got - was for was, got in zip(sent, heard, strict=True)]
    return max(statistics.median(times) * 1000, 0.0)


async def listen(dsn: str, count: int) -> float:
    """The other side of `wakeup`: prints a line when it listens, and then when each was heard."""
    heard: list[float] = []
    async with _connections(dsn, 1) as [connection]:
        await connection.execute(b"listen reference")
        print("listening", flush=True)
        async for _ in connection.notifies(stop_after=count):
            heard.append(time.monotonic())
            if len(heard) == count:
                break
    print(json.dumps(heard), flush=True)
    return 0.0
