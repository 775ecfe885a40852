"""The job's own transaction: what a handler writes through it is kept with the job's success, and never without."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import grpc
import psycopg
import pytest
from google.longrunning.operations_pb2 import Operation

from rowcall.errors import read_envelope
from rowcall.probe.v1.probe_pb2 import EchoRequest, EchoResponse
from rowcall.queue.model import JobRow
from rowcall.v1.job_pb2 import JobState
from rowcall_worker.context import AsyncJobContext, SyncJobContext
from tests.fix_cluster import Cluster
from tests.fix_worker import Calls, Job, PolicyChanges, Workers, error_of, serve
from tests.waiting import until

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

    async def transactions(self) -> int:
        """How many sessions of handlers are inside a transaction."""
        query = (
            "select count(*) from pg_stat_activity where datname = current_database() "
            "and application_name like '% transaction' and state like 'idle in transaction%'"
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
