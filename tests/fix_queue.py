"""Fixtures: the queue of one shard on Postgres, with logins that have a gateway's and a worker's rights and no others.

What a second implementation of the queue has to bring along is in `tests.support.probe`; which one the conformance suite
runs against is said in its conftest.py.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from psycopg_pool import AsyncConnectionPool

from rowcall.queue.postgres.admin import PostgresQueueAdmin
from rowcall.queue.postgres.admission import PostgresAdmissionStore
from rowcall.queue.postgres.renewal import PostgresLeaseRenewal
from rowcall.queue.postgres.store import PostgresJobStore
from rowcall.queue.postgres.tenants import PostgresTenantAdmin
from rowcall.queue.postgres.work import PostgresWorkQueue
from tests.fix_pooler import PASSWORD, Access, make_logins
from tests.fix_postgres import Databases
from tests.support.postgres_probe import PostgresProbe
from tests.support.probe import ErasureTimes, Process
from tests.support.queues import Queue, opened


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

    def straight(self, user: str) -> str:
        """Of another one of `LOGINS`, past a pooler: people and services that are none of ours."""
        return make_conninfo(self.admin, user=user, password=PASSWORD)


@dataclass(frozen=True, slots=True)
class PostgresImplementation:
    """The queue on one shard's Postgres: a `tests.support.probe.Implementation`."""

    logins: Logins

    @asynccontextmanager
    async def process(self) -> AsyncIterator[Process]:
        """See Implementation.process."""
        async with self._pool(self.logins.gateway) as gateway, self._pool(self.logins.worker) as worker:
            store = PostgresJobStore(gateway, gateway)
            work = PostgresWorkQueue(worker, worker, worker)
            operators = PostgresQueueAdmin(gateway, gateway, shard="a")
            admission = PostgresAdmissionStore(gateway, gateway, shard="a")

            def tenants(times: ErasureTimes) -> PostgresTenantAdmin:
                return PostgresTenantAdmin(gateway, gateway, shard="a", **times._asdict())

            yield Process(store, work, operators, admission, tenants, self._renewal)
            await store.close()
            await work.close()
            await operators.close()
            await admission.close()

    @asynccontextmanager
    async def probe(self) -> AsyncIterator[PostgresProbe]:
        """See Implementation.probe."""
        async with await psycopg.AsyncConnection.connect(self.logins.admin, autocommit=True) as admin:
            yield PostgresProbe(admin, self.logins.admin, self.logins.worker)

    def _pool(self, dsn: str) -> AsyncConnectionPool:
        return AsyncConnectionPool(
            dsn,
            kwargs={"prepare_threshold": self.logins.access.prepare_threshold},
            min_size=1,
            max_size=4,
            open=False,
            name="a",
            timeout=10,
        )

    def _renewal(self, worker_id: UUID, lease: timedelta) -> PostgresLeaseRenewal:
        prepare = self.logins.access.prepares
        return PostgresLeaseRenewal(self.logins.worker, worker_id, lease, shard="a", prepare=prepare, guard=False)


_MISCOUNTED = """
select coalesce(c.tenant, j.tenant), c.scheduled, c.held, j.scheduled, j.held
from (
  select tenant, queue_id, lane, sum(scheduled) as scheduled, sum(held) as held
  from rowcall.set_aside
  group by tenant, queue_id, lane
) c
full join (
  select
    tenant, queue_id, lane, count(*) filter (where state = 1) as scheduled,
    count(*) filter (where state = 2 and held <> 0) as held
  from rowcall.job
  group by tenant, queue_id, lane
) j using (tenant, queue_id, lane)
where (coalesce(c.scheduled, 0), coalesce(c.held, 0)) <> (coalesce(j.scheduled, 0), coalesce(j.held, 0))
"""


@dataclass(slots=True)
class PostgresQueue(Queue):
    """One shard's queue, for tests that are Postgres's own."""

    implementation: PostgresImplementation
    probe: PostgresProbe

    @property
    def logins(self) -> Logins:
        """Its connection strings."""
        return self.implementation.logins

    @property
    def admin(self) -> psycopg.AsyncConnection[Any]:
        """As superuser, in autocommit mode: to look behind the functions."""
        return self.probe.admin

    async def value(self, query: str, *parameters: object) -> Any:
        """The first column of the first row of a query, as superuser."""
        return await self.probe.value(query, *parameters)


@pytest.fixture(scope="session")
def queue_roles(databases: Databases, templates: object) -> None:
    """Login roles of the run's server: one for each service, and one without rights."""
    make_logins(databases.dsn("postgres"))


@pytest.fixture
def logins(first_shard: str, access: Access, queue_roles: None) -> Logins:
    """The connection strings of the shard "a"."""

    def of(user: str) -> str:
        return make_conninfo(access.dsn(first_shard), user=user, password=PASSWORD)

    return Logins(first_shard, of("test_gateway"), of("test_worker"), of("test_submitter"), of("test_nobody"), access)


@pytest.fixture
def postgres_implementation(logins: Logins) -> PostgresImplementation:
    """The queue of the shard "a", nobody on it yet."""
    return PostgresImplementation(logins)


@pytest.fixture
async def queue(postgres_implementation: PostgresImplementation) -> AsyncIterator[PostgresQueue]:
    """The queue of the shard "a", with the tenants acme and bolt."""
    async with opened(postgres_implementation) as made:
        assert isinstance(made.probe, PostgresProbe)
        yield PostgresQueue(postgres_implementation, made.process, made.probe, made.ids)
    async with await psycopg.AsyncConnection.connect(postgres_implementation.logins.admin, autocommit=True) as looking:
        rows = await looking.execute(_MISCOUNTED)
        assert await rows.fetchall() == [], "what is set aside is not as many as are counted, whatever a test did"
