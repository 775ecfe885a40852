"""What services submit in their own transactions is started: by a wake at once, by polling without one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from rowcall.catalogue.images import load_catalogue
from rowcall.probe.v1.probe_pb2 import EchoRequest
from rowcall.queue.postgres.work import PostgresWorkQueue
from tests.fix_cluster import Cluster
from tests.fix_queue import Logins
from tests.fix_worker import Calls, Workers
from tests.support.waiting import until

ECHO = "rowcall.probe.v1.ProbeService/Echo"


class Service:
    """One that shares the shard."""

    def __init__(self, connection: psycopg.AsyncConnection[Any], admin: psycopg.AsyncConnection[Any]) -> None:
        self.connection = connection
        self._admin = admin

    async def submit(self, jobs: int = 1, tenant: str = "acme") -> None:
        await self.connection.execute(
            "select count(rowcall.submit_v1(%s, %s, %s)) from generate_series(1, %s)",
            [tenant, ECHO, EchoRequest().SerializeToString(), jobs],
        )

    async def wake(self) -> None:
        await self.connection.execute("select rowcall.wake_v1()")

    async def cut_listeners(self) -> None:
        await self._admin.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = current_database() and application_name like '% listen'"
        )

    async def done(self, jobs: int, *, seconds: float = 20) -> None:
        """Returns when so many jobs have been done in all."""

        async def look() -> bool:
            cursor = await self._admin.execute("select count(*) from rowcall.job_history where state = 11")
            return await cursor.fetchone() == (jobs,)

        await until(look, seconds=seconds)


@pytest.fixture
async def service(cluster: Cluster, calls: Calls, logins: Logins) -> AsyncIterator[Service]:
    """A service; the shard knows the probe's methods, and acme lives there."""
    async with (
        await psycopg.AsyncConnection.connect(logins.submitter, autocommit=True, prepare_threshold=None) as connection,
        await psycopg.AsyncConnection.connect(logins.admin, autocommit=True) as admin,
    ):
        for method in load_catalogue().methods.values():
            await calls.store("a").publish(method)
        for tenant in ("acme", "bolt"):
            await admin.execute("select rowcall.adopt_tenant(%s, 1)", [tenant])
        yield Service(connection, admin)


@pytest.fixture
def drowsy(monkeypatch: pytest.MonkeyPatch) -> timedelta:
    """Has workers look by themselves only as they start, and then not for a minute."""
    monkeypatch.setattr("rowcall_worker.claiming.claimer._FIRST_PAUSE", 60.0)
    monkeypatch.setattr("rowcall.queue.marks.FRONT_EVERY", 60.0)
    return timedelta(seconds=60)


@pytest.mark.hinted("only a wake could tell of the jobs in time")
async def test_a_wake_behind_each_commit_starts_each_job(service: Service, workers: Workers, drowsy: timedelta) -> None:
    await workers.start(poll=drowsy)
    for number in range(1, 6):
        async with service.connection.transaction():
            await service.submit()
        await service.wake()
        await service.done(number)


@pytest.mark.hinted("only a wake could tell of the jobs in time")
async def test_a_wake_inside_the_transaction_goes_out_with_it(
    service: Service, workers: Workers, drowsy: timedelta
) -> None:
    await workers.start(poll=drowsy)
    async with service.connection.transaction():
        await service.submit()
        await service.wake()
    await service.done(1)


@pytest.mark.hinted("only a wake could tell of the jobs in time")
async def test_a_wake_starts_a_whole_burst(
    service: Service, workers: Workers, drowsy: timedelta, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also what has to be given its turn first, which would be some time later."""
    monkeypatch.setattr("rowcall_worker.upkeep.maintenance.PROMOTE_EVERY", 60.0)
    await workers.start(poll=drowsy)
    await service.submit(100)
    await service.wake()
    await service.done(100)


@pytest.mark.hinted("only a listener that comes back could tell of the jobs in time")
async def test_a_listener_that_comes_back_looks_for_what_it_may_have_missed(
    service: Service, workers: Workers, drowsy: timedelta, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rowcall_worker.upkeep.maintenance.PROMOTE_EVERY", 60.0)
    await workers.start(poll=drowsy)
    await service.submit(1)
    await service.wake()
    await service.done(1)
    await service.submit(100)
    await service.cut_listeners()
    await service.done(101)


async def test_without_a_wake_workers_find_the_jobs_by_themselves(service: Service, workers: Workers) -> None:
    await workers.start()
    await service.submit(100)
    await service.done(100)


async def test_without_hints_a_wake_does_nothing_and_jobs_are_found(service: Service, workers: Workers) -> None:
    await workers.start(hints=False)
    await service.submit(100)
    await service.wake()
    await service.done(100)


@pytest.mark.hinted("only wakes make workers look")
async def test_a_flood_of_wakes_is_a_few_looks(
    service: Service, workers: Workers, drowsy: timedelta, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For no reason at all, and a job that comes meanwhile is started as any."""
    looks = 0
    claim = PostgresWorkQueue.claim

    async def counted(self: PostgresWorkQueue, *arguments: Any, **named: Any) -> Any:
        nonlocal looks
        looks += 1
        return await claim(self, *arguments, **named)

    monkeypatch.setattr(PostgresWorkQueue, "claim", counted)
    monkeypatch.setattr("rowcall_worker.claiming.wakes.LOOK_EVERY", 0.5)
    await workers.start(poll=drowsy)
    await service.submit()
    await service.wake()
    await service.done(1)
    loop = asyncio.get_running_loop()
    began, looks = loop.time(), 0
    for _ in range(500):
        await service.wake()
    await service.submit()
    await service.done(2)

    # Each look that was asked for is one from the mark and, as it may have to, one from the front; two claimers look.
    assert looks <= 2 * 2 * ((loop.time() - began) / 0.5 + 2)
