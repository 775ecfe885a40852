"""Fixtures: the queue of one shard, as a gateway and a worker use it, with logins that have their rights and no others."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from psycopg_pool import AsyncConnectionPool
from uuid_utils.compat import uuid7

from rowcall.catalogue.model import Policy
from rowcall.queue.model import ClaimedJob, JobRow, MethodIds, Rescued, Settled, Settlement, Submission, Submitted
from rowcall.queue.postgres.admin import PostgresQueueAdmin
from rowcall.queue.postgres.store import PostgresJobStore
from rowcall.queue.postgres.work import PostgresWorkQueue
from rowcall.v1.job_pb2 import JobState
from tests.fix_cluster import Cluster
from tests.fix_pooler import PASSWORD, Access, make_logins
from tests.fix_postgres import Databases
from tests.support.waiting import until

SUCCEEDED = JobState.JOB_STATE_SUCCEEDED
FAILED = JobState.JOB_STATE_FAILED
CANCELLED = JobState.JOB_STATE_CANCELLED
SCHEDULED = JobState.JOB_STATE_SCHEDULED
READY = JobState.JOB_STATE_READY
RUNNING = JobState.JOB_STATE_RUNNING

NOT_OURS = Settled(settled=False, state=None, waiter_id=None)
"""The answer to a settlement of a job whose lease is another's."""

METHOD = "acme.v1.PrintService/Print"
FROM_THE_FRONT = (0, 0, 0, 0)
NO_GRACE = timedelta(0)
"""For burials and expiries in tests: their server has just started, and nobody is to be waited for."""


@dataclass(frozen=True, slots=True)
class Logins:
    """Connection strings of one shard: each role's login, and the superuser."""

    admin: str = field(repr=False)
    gateway: str = field(repr=False)
    worker: str = field(repr=False)
    submitter: str = field(repr=False)
    """Of a service that shares the shard and submits in its own transactions."""
    nobody: str = field(repr=False)
    """A login that was granted nothing."""
    access: Access
    """How all but the superuser get there."""


@dataclass(slots=True)
class Queue:
    """One shard's queue."""

    logins: Logins
    store: PostgresJobStore
    work: PostgresWorkQueue
    admin: psycopg.AsyncConnection[Any]
    """As superuser, in autocommit mode: to look behind the functions, and to let time pass."""
    ids: MethodIds
    """Of METHOD with the default policy, in the queue "default"."""
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def call(self, tenant: str = "acme", **changes: Any) -> Submission:
        """A new call; without changes, of METHOD, at once, in the lane NORMAL, without a key."""
        number = next(self._numbers)
        call = Submission(tenant, uuid7(), self.ids, lane=3, request=f"request {number}".encode())
        if "request_id" in changes and "fingerprint" not in changes:
            changes["fingerprint"] = b"fingerprint of 1"
        return replace(call, **changes)

    async def submit(self, *calls: Submission) -> list[Submitted]:
        """Submits calls, all of which the database must take."""
        return [taken(answer) for answer in await self.store.submit(calls)]

    async def worker(self, name: str = "worker", lease: timedelta = timedelta(minutes=1)) -> UUID:
        """Registers a worker."""
        worker_id = uuid4()
        await self.work.register_worker(worker_id, name, lease)
        return worker_id

    async def claim(
        self, worker_id: UUID, limit: int = 100, *, ids: MethodIds | None = None, start: Sequence[int] = FROM_THE_FRONT
    ) -> list[ClaimedJob]:
        """Claims jobs of a method, of METHOD where none is given."""
        of = self.ids if ids is None else ids
        return await self.work.claim(worker_id, of.queue_id, [of.method_id], limit, start=start)

    async def claim_alone(self, worker_id: UUID, *, ids: MethodIds | None = None) -> ClaimedJob | None:
        """Claims a suspect of a method, of METHOD where none is given."""
        of = self.ids if ids is None else ids
        return await self.work.claim_alone(worker_id, [of.queue_id], [of.method_id])

    async def settle(self, job: ClaimedJob, state: int = SUCCEEDED, **changes: Any) -> Settled:
        """Settles one job, which the database must take."""
        settlement = Settlement(job.tenant, job.job_id, job.lease, state, **changes)
        [answer] = await self.work.settle([settlement])
        assert isinstance(answer, Settled), answer
        return answer

    async def state(self, tenant: str, job_id: UUID) -> int | None:
        """A job's state as it is read; None if it is not there."""
        found = await self.store.read([(tenant, job_id)])
        return found[tenant, job_id].state if found else None

    async def row(self, job: ClaimedJob | Submission) -> JobRow:
        """A job as it is read; it must be there."""
        return (await self.store.read([(job.tenant, job.job_id)]))[job.tenant, job.job_id]

    async def value(self, query: str, *parameters: object) -> Any:
        """The first column of the first row of a query, as superuser."""
        row = await (await self.admin.execute(query, parameters)).fetchone()
        assert row is not None
        return row[0]

    async def die(self, worker_id: UUID) -> None:
        """Lets a worker's lease run out."""
        await self.admin.execute(
            "update rowcall.worker set lease_until = clock_timestamp() - interval '1 second' where worker_id = %s",
            [worker_id],
        )

    async def renew(self, worker_id: UUID) -> bool:
        """Renews a worker's lease; False: it is dead."""
        return bool(await self.value("select alive from rowcall.renew_worker(%s, '1 minute', null)", worker_id))

    async def kill(self, worker_id: UUID) -> list[Rescued]:
        """Ends a worker and takes what it held back."""
        await self.work.retire_worker(worker_id)
        return await self.work.rescue(1000)

    async def ready_now(self) -> int:
        """Lets the time of every scheduled job come, and makes them ready; how many there were."""
        await self.admin.execute("update rowcall.job set run_at = clock_timestamp() where state = 1")
        return sum((await self.work.promote(1_000_000)).values())

    async def somebody_waits(self, sessions: int = 1) -> None:
        """Returns when so many sessions wait for other ones' locks."""
        waiting = "select count(distinct pid) >= %s from pg_locks where not granted"
        await until(lambda: self.value(waiting, sessions))

    async def adopt(self, *tenants: str) -> None:
        """Places tenants on the shard."""
        for tenant in tenants:
            await self.admin.execute("select rowcall.adopt_tenant(%s, 1)", [tenant])


def taken(answer: Submitted | Exception) -> Submitted:
    """An answer that is no error."""
    if isinstance(answer, Exception):
        raise answer
    return answer


@pytest.fixture(scope="session")
def queue_roles(databases: Databases, templates: object) -> None:
    """Login roles of the run's server: one for each service, and one without rights."""
    make_logins(databases.dsn("postgres"))


@pytest.fixture
def logins(cluster: Cluster, queue_roles: None) -> Logins:
    """The connection strings of the shard "a"."""
    admin = cluster.shards["a"]

    def of(user: str) -> str:
        return make_conninfo(cluster.access.dsn(admin), user=user, password=PASSWORD)

    return Logins(admin, of("test_gateway"), of("test_worker"), of("test_submitter"), of("test_nobody"), cluster.access)


@asynccontextmanager
async def opened(logins: Logins) -> AsyncIterator[tuple[PostgresJobStore, PostgresWorkQueue]]:
    """A store and a work queue with pools of their own: another process's, as far as the shard can tell."""
    async with AsyncExitStack() as stack:
        gateway, worker = [
            await stack.enter_async_context(
                AsyncConnectionPool(
                    dsn,
                    kwargs={"prepare_threshold": logins.access.prepare_threshold},
                    min_size=1,
                    max_size=4,
                    open=False,
                    name="a",
                    timeout=10,
                )
            )
            for dsn in (logins.gateway, logins.worker)
        ]
        store = PostgresJobStore(gateway, gateway)
        work = PostgresWorkQueue(worker, worker, worker)
        yield store, work
        await store.close()
        await work.close()


@pytest.fixture
async def queue(logins: Logins) -> AsyncIterator[Queue]:
    """The queue of the shard "a", with the tenants acme and bolt."""
    async with opened(logins) as (store, work), await psycopg.AsyncConnection.connect(logins.admin) as admin:
        await admin.set_autocommit(True)
        made = Queue(logins, store, work, admin, await store.method_ids(METHOD, Policy()))
        await made.adopt("acme", "bolt")
        yield made


@pytest.fixture
async def operators(queue: Queue) -> AsyncIterator[PostgresQueueAdmin]:
    """What operators do to the queue, over a gateway's login."""
    access = queue.logins.access
    async with AsyncConnectionPool(
        queue.logins.gateway,
        kwargs={"prepare_threshold": access.prepare_threshold},
        min_size=1,
        max_size=2,
        open=False,
        name="a",
        timeout=10,
    ) as pool:
        admin = PostgresQueueAdmin(pool, pool, shard="a")
        yield admin
        await admin.close()
