"""Nobody is starved: `make proofs ONLY=fairness`, about eight minutes.

A gateway and one worker with 16 slots as processes, jobs of 100 ms, enqueued tenant after tenant. Waits are taken from the
rows: from ready to started, both by the database's clock.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import grpc
import psycopg
import pytest
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration

from rowcall.probe.v1.probe_pb2 import RunRequest
from rowcall.v1.job_service_pb2 import BatchSubmitRequest, JobSpec
from rowcall.v1.job_service_pb2_grpc import JobServiceStub
from rowcall.v1.tenant_service_pb2 import SetTenantWeightRequest
from rowcall.v1.tenant_service_pb2_grpc import TenantServiceStub
from tests.fix_cluster import durable_cluster
from tests.fix_services import Services
from tests.proofs.figures import keep, percentile, say

SLOTS = 16
WORK_MS = 100
METHOD = "rowcall.probe.v1.ProbeService/Run"
WINDOW_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class System:
    """Gateway, shard and a worker that is started when there is something to do."""

    address: str
    dsn: str
    services: Services

    def work(self) -> None:
        """Starts the one worker."""
        self.services.worker(ROWCALL_SLOTS=str(SLOTS), ROWCALL_QUEUES="probe").ready()


@contextmanager
def system() -> Iterator[System]:
    """A gateway on a durable Postgres with one shard."""
    with ExitStack() as stack:
        cluster = stack.enter_context(durable_cluster())
        services = Services(cluster, stack)
        gateway = services.gateway()
        yield System(gateway.address(), cluster.shards["a"], services)


def job() -> JobSpec:
    """A job of 100 ms."""
    request = Any()
    request.Pack(RunRequest(work=Duration(nanos=WORK_MS * 1_000_000)))
    return JobSpec(method=METHOD, request=request)


async def enqueue(address: str, tenant: str, count: int) -> None:
    """Submits so many jobs of a tenant, a thousand at a time."""
    async with grpc.aio.insecure_channel(address) as channel:
        jobs = JobServiceStub(channel)
        for begin in range(0, count, 1000):
            batch = BatchSubmitRequest(jobs=[job()] * min(1000, count - begin))
            await jobs.BatchSubmit(batch, metadata=[("rowcall-tenant", tenant)], timeout=60)
            if begin % 10_000 == 0:
                say(f"{tenant}: {begin + len(batch.jobs):,} of {count:,} enqueued")


def rows(dsn: str, query: str) -> list[tuple[object, ...]]:
    """Rows of a query."""
    with psycopg.connect(dsn) as connection:
        return connection.execute(query.encode()).fetchall()


async def enqueue_in_sql(dsn: str, tenant: str, count: int) -> None:
    """Submits so many jobs of a tenant in one transaction, and wakes workers behind it."""
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        await connection.execute(
            "select count(rowcall.submit_v1(%s, %s, %s)) from generate_series(1, %s)",
            [tenant, METHOD, job().request.value, count],
        )
        await connection.execute("select rowcall.wake_v1()")


@pytest.mark.timeout(900)
@pytest.mark.parametrize("way", ["", " in SQL"], ids=["by gateway", "in SQL"])
async def test_a_flood_does_not_delay_the_neighbour(way: str) -> None:
    """In SQL, of 16 sessions at once; the neighbour comes by both ways in turn then."""
    with system() as found:
        if way:
            await asyncio.gather(*(enqueue(found.address, tenant, 1) for tenant in ("a", "b")))
            await asyncio.gather(*(enqueue_in_sql(found.dsn, "a", 6250) for _ in range(16)))
        else:
            await enqueue(found.address, "a", 100_000)
        await asyncio.to_thread(found.work)
        say("b sends one a second, for a minute")
        for number in range(60):
            if way and number % 2:
                await enqueue_in_sql(found.dsn, "b", 1)
            else:
                await enqueue(found.address, "b", 1)
            await asyncio.sleep(1)
        waits = [
            float(str(row[0])) * 1000
            for row in rows(
                found.dsn,
                "select extract(epoch from started_at - ready_at) from rowcall.jobs"
                " where tenant = 'b' and started_at is not null order by created_at desc limit 60",
            )
        ]
        assert len(waits) >= 59
        keep(f"a flood of 100,000{way}", "b's wait p50", percentile(waits, 0.5), unit="ms", goal="-")
        keep(
            f"a flood of 100,000{way}",
            "b's wait p95",
            percentile(waits, 0.95),
            unit="ms",
            goal=f"<= {2 * WORK_MS} + one poll (1000)",
        )
        keep(f"a flood of 100,000{way}", "b's wait, longest", max(waits), unit="ms", goal="-")


@pytest.mark.timeout(900)
async def test_ten_equal_tenants_have_equal_shares() -> None:
    each = 1000
    with system() as found:
        for number in range(10):
            await enqueue(found.address, f"tenant-{number}", each)
        began = time.monotonic()
        await asyncio.to_thread(found.work)
        say("ten tenants, enqueued one after the other")
        await asyncio.sleep(45)
        say(f"{time.monotonic() - began:.0f} s worked")
        finished = rows(
            found.dsn,
            "select tenant, extract(epoch from finished_at - min(finished_at) over ()) from rowcall.jobs where state = 'SUCCEEDED'",
        )
    last = max(float(str(at)) for _, at in finished)
    jains = []
    for window in range(int(last // WINDOW_SECONDS)):
        shares = [0] * 10
        for tenant, at in finished:
            if window * WINDOW_SECONDS <= float(str(at)) < (window + 1) * WINDOW_SECONDS:
                shares[int(str(tenant).removeprefix("tenant-"))] += 1
        jains.append(sum(shares) ** 2 / (10 * sum(share * share for share in shares)))
    assert len(jains) >= 7
    keep(
        "ten equal tenants", f"Jain's index, least of {len(jains)} windows of 5 s", min(jains), unit="", goal=">= 0.95"
    )


@pytest.mark.timeout(900)
async def test_weights_hold() -> None:
    with system() as found:
        async with grpc.aio.insecure_channel(found.address) as channel:
            await enqueue(found.address, "one", 1)
            await enqueue(found.address, "three", 1)
            await TenantServiceStub(channel).SetTenantWeight(
                SetTenantWeightRequest(name="tenants/three", weight=3),
                metadata=[("rowcall-tenant", "three")],
                timeout=10,
            )
        await enqueue(found.address, "one", 6000)
        await enqueue(found.address, "three", 6000)
        await asyncio.to_thread(found.work)
        say("two tenants of weights 1 and 3")
        await asyncio.sleep(40)
        finished = rows(
            found.dsn, "select tenant, count(*) from rowcall.jobs where state = 'SUCCEEDED' group by tenant"
        )
    shares = {str(tenant): float(str(count)) for tenant, count in finished}
    ratio = shares["three"] / shares["one"]
    keep("weights 1 and 3", "shares", ratio, unit="x", goal="2.7 to 3.3")
