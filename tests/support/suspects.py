"""Jobs whose workers died, as a rescue leaves them, and a handler that knows who ran beside whom."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import psycopg

from rowcall.probe.v1.probe_pb2 import AwaitRequest, EchoRequest, EchoResponse
from rowcall.queue.model import Held
from rowcall.sharding.placement import place
from rowcall_worker.serving.context import AsyncJobContext
from tests.fix_cluster import Cluster
from tests.fix_worker import PROBE, Call, Calls, Job

QUEUE = "suspects"
WEIGHTS = {"a": 1, "b": 1}
ELSEWHERE = next(name for name in map("tenant-{}".format, range(100)) if place(name, WEIGHTS) != place("acme", WEIGHTS))
"""A tenant of the other shard than acme's."""


class Handler:
    """Runs for as long as a request says in milliseconds, or until it is let go, and knows who ran beside whom."""

    def __init__(self) -> None:
        self.let_go = asyncio.Event()
        self.order: list[str] = []
        """The payloads, as they were started."""
        self.running: list[str] = []
        self.company: dict[str, set[str]] = {}
        """Who ran beside a payload at some time."""

    async def echo(self, request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
        name = request.payload.decode()
        self.order.append(name)
        self.running.append(name)
        for each in self.running:
            self.company.setdefault(each, set()).update(self.running)
            self.company[each].discard(each)
        try:
            if name.startswith("held"):
                await self.let_go.wait()
            else:
                await asyncio.sleep(0.02)
        finally:
            self.running.remove(name)
        return EchoResponse(payload=request.payload)

    def alone(self, name: str) -> bool:
        """Whether nothing ran beside it."""
        return not self.company[name]


def requests(name: str, count: int) -> list[EchoRequest]:
    return [EchoRequest(payload=f"{name} {number}".encode()) for number in range(count)]


async def make_suspects(
    cluster: Cluster,
    calls: Calls,
    wanted: Sequence[EchoRequest] | Sequence[AwaitRequest],
    *,
    tenant: str = "acme",
    queue: str = QUEUE,
    alone: bool = False,
) -> list[Job]:
    """Jobs as a rescue leaves them that were lost twice, two seconds ago; workers that run see them as such all at once.

    Args:
        cluster: Where.
        calls: Submits them.
        wanted: Their requests, of one method.
        tenant: Whose they are.
        queue: Which one they are in; paused meanwhile.
        alone: A group that they were in was lost too.
    """
    name = type(wanted[0]).__name__.removesuffix("Request")
    method = PROBE[f"rowcall.probe.v1.ProbeService/{name}"]
    shard = place(tenant, WEIGHTS) or ""
    await calls.store(shard).method_ids(method.name, replace(method.policy, queue=queue))
    async with await psycopg.AsyncConnection.connect(cluster.shards[shard], autocommit=True) as connection:
        await connection.execute("update rowcall.queue set paused_at = clock_timestamp() where name = %s", [queue])
        jobs = await calls.submit_many(name, wanted, call=Call(tenant), policy={"queue": queue})
        async with connection.transaction():
            await connection.execute(
                "update rowcall.job set held = %s, ready_at = clock_timestamp() - interval '2 seconds' "
                "where job_id = any(%s)",
                [Held.SUSPECT | Held.ALONE if alone else Held.SUSPECT, [job.job_id for job in jobs]],
            )
            await connection.execute("update rowcall.queue set paused_at = null where name = %s", [queue])
    return jobs


async def held(cluster: Cluster, job: Job) -> tuple[int, int]:
    """The job's state and what it is held as."""
    async with await psycopg.AsyncConnection.connect(cluster.shards[job.shard]) as connection:
        cursor = await connection.execute("select state, held from rowcall.job where job_id = %s", [job.job_id])
        row = await cursor.fetchone()
    assert row is not None
    return row[0], row[1]
