"""The queue of one shard under load, without gateway and worker: what a figure tells is the store's alone.

A producer submits batches of 100 with 200-byte requests, two claimers claim and settle, all in this process, over the
product's own store, work queue and low-water mark, with durable commits on disk.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from uuid import UUID, uuid4

import psycopg
from psycopg_pool import AsyncConnectionPool
from uuid_utils.compat import uuid7

from rowcall.catalogue.model import Policy
from rowcall.queue.marks import LowWaterMark
from rowcall.queue.model import MethodIds, Settled, Settlement, Submission
from rowcall.queue.postgres.renewal import PostgresLeaseRenewal
from rowcall.queue.postgres.store import PostgresJobStore
from rowcall.queue.postgres.work import PostgresWorkQueue
from rowcall.queue.sweeps import Horizon, Sweep
from rowcall.v1.job_pb2 import JobState
from tests.fix_cluster import durable_cluster

BATCH = 100
REQUEST = bytes(200)
RESPONSE = bytes(100)
CLAIMERS = 2


@contextmanager
def shard(**postgres: str) -> Iterator[str]:
    """A migrated shard on a durable Postgres of its own; its connection string as superuser."""
    with durable_cluster(postgres or None) as cluster:
        dsn = cluster.shards["a"]
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("select rowcall.adopt_tenant('acme', 1)")
        yield dsn


@dataclass(slots=True)
class Seen:
    """What a run saw."""

    submitted: int = 0
    settled: int = 0
    claim_times: list[float] = field(default_factory=list)
    """Seconds, of each claim that got something."""
    settle_times: list[float] = field(default_factory=list)
    """Seconds, of each settle."""
    renewal_times: list[float] = field(default_factory=list)
    """Seconds, of each renewal of the lease, one a second."""


class Engine:
    """Store and work queue over pools of their own."""

    def __init__(
        self,
        store: PostgresJobStore,
        work: PostgresWorkQueue,
        ids: MethodIds,
        worker_id: UUID,
        renewal: PostgresLeaseRenewal,
    ) -> None:
        self.store = store
        self.work = work
        self.ids = ids
        self.worker_id = worker_id
        self.horizon = Horizon()
        self._renewal = renewal
        self.seen = Seen()
        self.producing = True
        """Whether the claimers are to wait for more when they find nothing."""

    async def submit(self, count: int, tenant: str = "acme") -> None:
        """Submits so many jobs, in batches, two at a time."""

        async def some(share: int) -> None:
            for begin in range(0, share, BATCH):
                calls = [
                    Submission(tenant, uuid7(), self.ids, lane=3, request=REQUEST)
                    for _ in range(min(BATCH, share - begin))
                ]
                for answer in await self.store.submit(calls):
                    if isinstance(answer, Exception):
                        raise answer
                self.seen.submitted += len(calls)

        await asyncio.gather(some(count // 2), some(count - count // 2))

    async def produce(self, seconds: float, *, rate: float | None = None) -> None:
        """Submits for so long, as fast as it goes or at so many jobs a second."""
        began = time.monotonic()
        sent = 0
        while (now := time.monotonic()) < began + seconds:
            if rate is not None and sent > (now - began) * rate:
                await asyncio.sleep(0.005)
                continue
            await self.submit(2 * BATCH)
            sent += 2 * BATCH

    @asynccontextmanager
    async def claiming(self) -> AsyncIterator[None]:
        """Claims and settles while the block runs, and until nothing is left."""
        self.producing = True
        tasks = [asyncio.create_task(self._claim()) for _ in range(CLAIMERS)]
        upkeep = [asyncio.create_task(self._promote()), asyncio.create_task(self._renew())]
        try:
            yield
        finally:
            self.producing = False
            await asyncio.gather(*tasks)
            for each in upkeep:
                each.cancel()
            await asyncio.gather(*upkeep, return_exceptions=True)

    async def drain(self) -> float:
        """Claims and settles all there is; jobs a second."""
        before, began = self.seen.settled, time.monotonic()
        async with self.claiming():
            pass
        return (self.seen.settled - before) / (time.monotonic() - began)

    async def _promote(self) -> None:
        sweep = Sweep(self.horizon)
        while True:
            began = time.monotonic()
            look = sweep.look(began)
            await self.work.promote(1000, look.since)
            sweep.looked(look, whole=True, began=began, ended=time.monotonic())
            await asyncio.sleep(0.5)

    async def _renew(self) -> None:
        while True:
            began = time.monotonic()
            renewed = await asyncio.to_thread(self._renewal.renew)
            self.seen.renewal_times.append(time.monotonic() - began)
            assert renewed.moment is not None
            self.horizon.heard(renewed.moment, began)
            await asyncio.sleep(1)

    async def _claim(self) -> None:
        mark = LowWaterMark(self.horizon)
        empty = 0
        while self.producing or empty < 3:
            began = time.monotonic()
            scan = mark.scan(began)
            jobs = await self.work.claim(
                self.worker_id, self.ids.queue_id, [self.ids.method_id], BATCH, start=scan.start
            )
            ended = time.monotonic()
            mark.claimed(scan, ((job.lane, job.order_key) for job in jobs), limit=BATCH, began=began, ended=ended)
            if not jobs:
                # The last ones may be behind the mark: the ends of a run look from the front.
                mark.hinted()
                empty += 1
                await asyncio.sleep(0.05)
                continue
            empty = 0
            self.seen.claim_times.append(ended - began)
            answers = await self.work.settle(
                [Settlement(job.tenant, job.job_id, job.lease, JobState.JOB_STATE_SUCCEEDED, RESPONSE) for job in jobs]
            )
            self.seen.settle_times.append(time.monotonic() - ended)
            self.seen.settled += sum(isinstance(answer, Settled) and answer.settled for answer in answers)


@asynccontextmanager
async def engine(dsn: str) -> AsyncIterator[Engine]:
    """The engine on a shard; checks at the end that as many were settled as were submitted since."""
    async with AsyncExitStack() as stack:
        pools = [
            await stack.enter_async_context(AsyncConnectionPool(dsn, min_size=1, max_size=3, open=False, name="a"))
            for _ in range(4)
        ]
        store = PostgresJobStore(pools[0], pools[3])
        work = PostgresWorkQueue(pools[1], pools[2], pools[3])
        worker_id = uuid4()
        lease = timedelta(hours=3)
        await work.register_worker(worker_id, "proof", lease)
        renewal = PostgresLeaseRenewal(dsn, worker_id, lease, shard="a")
        yield Engine(store, work, await store.method_ids("acme.v1.PrintService/Print", Policy()), worker_id, renewal)
        await asyncio.to_thread(renewal.close)
        await store.close()
        await work.close()


@contextmanager
def held_snapshot(dsn: str, query: str = "select count(*) from rowcall.job") -> Iterator[None]:
    """A REPEATABLE READ transaction that stays open while the block runs."""
    with psycopg.connect(dsn) as connection:
        connection.execute("begin isolation level repeatable read")
        connection.execute(query.encode())
        yield
