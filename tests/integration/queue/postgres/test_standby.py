"""A synchronous standby that dies: nothing is acknowledged that it does not have, and a repeat finds out what became of it.

With the standby away a commit is done on the primary and waits; Postgres ends that wait for nothing but a cancel or the
end of the session, and then says that all is well, or lets others see what no standby has.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from uuid import uuid4

import pytest
from psycopg_pool import AsyncConnectionPool
from uuid_utils.compat import uuid7

from rowcall.catalogue.model import Policy
from rowcall.errors import RowcallError, reason_name
from rowcall.queue.model import MethodIds, Submission, SubmitOutcome, Submitted
from rowcall.queue.postgres.renewal import PostgresLeaseRenewal
from rowcall.queue.postgres.store import PostgresJobStore
from tests.fix_standby import ReplicatedCluster
from tests.support.postgres_proxy import PostgresProxy
from tests.support.waiting import until

PATIENCE = 1.0
"""Seconds: the watchdog's bound in these tests."""
BOUND = 30.0
"""Seconds within which an answer must be there, whatever the machine is busy with."""


class Shard:
    """The shard "a" of a replicated cluster, as two gateways use it, through a proxy that counts cancel requests."""

    def __init__(self, cluster: ReplicatedCluster, proxy: PostgresProxy) -> None:
        self.cluster = cluster
        self.proxy = proxy
        self.ids: MethodIds

    @asynccontextmanager
    async def store(self, *, patience: float = PATIENCE) -> AsyncIterator[PostgresJobStore]:
        """A gateway's store, with a watchdog."""
        dsn = self.proxy.through(self.cluster.shards["a"])
        async with AsyncConnectionPool(dsn, min_size=1, max_size=4, open=False, name="a", timeout=10) as pool:
            store = PostgresJobStore(pool, pool, give_up_after=timedelta(seconds=patience))
            self.ids = await store.method_ids("acme.v1.PrintService/Print", Policy())
            yield store
            await store.close()

    def call(self, key: str | None = None) -> Submission:
        """A new call."""
        fingerprint = None if key is None else b"fingerprint of 1"
        return Submission("acme", uuid7(), self.ids, 3, b"request", request_id=key, fingerprint=fingerprint)

    async def rows(self) -> int:
        """How many jobs the primary shows."""
        count: int = await self.cluster.on_primary("select count(*) from rowcall.job")
        return count


@pytest.fixture
async def shard(replicated_cluster: ReplicatedCluster) -> AsyncIterator[Shard]:
    async with AsyncExitStack() as stack:
        proxy = stack.enter_context(PostgresProxy(replicated_cluster.shards["a"]))
        await replicated_cluster.followed()
        await replicated_cluster.on_primary("select rowcall.adopt_tenant('acme', 1) is null")
        yield Shard(replicated_cluster, proxy)


async def answer_of(answers: Awaitable[list[Submitted | Exception]]) -> str:
    """The outcome or reason of the one answer to a submit, which must come in time."""
    async with asyncio.timeout(BOUND):
        [answer] = await answers
    if isinstance(answer, Submitted):
        return answer.outcome.name
    assert isinstance(answer, RowcallError), answer
    return reason_name(answer.reason)


async def test_what_is_acknowledged_is_on_the_standby(shard: Shard) -> None:
    async with shard.store() as store:
        calls = [shard.call(f"k{number}") for number in range(20)]
        for call in calls:
            assert await answer_of(store.submit([call])) == "CREATED"
        await asyncio.to_thread(shard.cluster.primary.kill)
        # Nothing more can come: what it has not shown yet, it has received.
        await until(lambda: shard.cluster.on_standby("select count(*) = 20 from rowcall.job"))
        assert await shard.cluster.on_standby("select count(*) = 20 from rowcall.job_key")


async def test_without_its_standby_a_shard_acknowledges_neither_a_call_nor_its_repeat(shard: Shard) -> None:
    async with shard.store() as first, shard.store() as other:
        call = shard.call("k")
        await asyncio.to_thread(shard.cluster.standby.kill)
        assert await answer_of(first.submit([call])) == "COMMIT_UNKNOWN"
        # The server was not told to stop: the commit of the connection that was given up still waits.
        await shard.cluster.commits_waiting(1)
        assert await shard.rows() == 0, "nobody sees it before it is replicated"
        assert await answer_of(other.submit([shard.call("k")])) == "COMMIT_UNKNOWN"

        # After a restart everybody sees what was committed here, and no standby has it.
        await asyncio.to_thread(shard.cluster.primary.kill)
        await asyncio.to_thread(shard.cluster.primary.start)
        assert await shard.rows() == 1
        for store in (first, other):
            assert await answer_of(store.submit([shard.call("k")])) == "COMMIT_UNKNOWN", (
                "a repeat writes, so it waits too"
            )

        await asyncio.to_thread(shard.cluster.standby.start)
        await shard.cluster.followed()
        await shard.cluster.commits_waiting(0)
        for store in (first, other):
            assert await store.submit([shard.call("k")]) == [Submitted(SubmitOutcome.JOINED, call.job_id)]
        assert await shard.rows() == 1
        await until(lambda: shard.cluster.on_standby("select count(*) = 1 from rowcall.job"))
    assert shard.proxy.commits.cancels == 0


async def test_a_repeat_after_the_standby_is_back_has_one_name_and_one_row(shard: Shard) -> None:
    async with shard.store() as store:
        call, atomic = shard.call("k"), shard.call("l")
        await asyncio.to_thread(shard.cluster.standby.kill)
        assert await answer_of(store.submit([call])) == "COMMIT_UNKNOWN"
        with pytest.raises(RowcallError, match="COMMIT_UNKNOWN"):
            async with asyncio.timeout(BOUND):
                await store.submit_atomic([atomic])
        await asyncio.to_thread(shard.cluster.standby.start)
        async with asyncio.timeout(BOUND):
            for first in (call, atomic):
                repeats = [store.submit([shard.call(first.request_id)]) for _ in range(8)]
                assert await asyncio.gather(*repeats) == [[Submitted(SubmitOutcome.JOINED, first.job_id)]] * 8
    assert await shard.rows() == 2


async def test_a_caller_that_goes_away_cancels_no_commit(shard: Shard) -> None:
    """A cancel request would end the wait for the standby, and the server would say that all is well."""
    async with shard.store(patience=BOUND) as store:
        call, atomic = shard.call("k"), shard.call("l")
        await asyncio.to_thread(shard.cluster.standby.kill)
        for number, submit in enumerate((store.submit([call]), store.submit_atomic([atomic])), start=1):
            waiting = asyncio.ensure_future(submit)
            await shard.cluster.commits_waiting(number)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        await shard.cluster.commits_waiting(2)
        assert await shard.rows() == 0
        await asyncio.to_thread(shard.cluster.standby.start)
        await shard.cluster.commits_waiting(0)
        assert await shard.rows() == 2
        assert await store.submit([shard.call("k")]) == [Submitted(SubmitOutcome.JOINED, call.job_id)]
    assert shard.proxy.commits.cancels == 0
    assert "canceling wait" not in shard.cluster.primary.server.log.read_text()


CANCEL = "select pg_cancel_backend(pid) from pg_stat_activity where wait_event = 'SyncRep'"


@pytest.mark.parametrize("kind", ["submit", "repeat", "atomic", "cancel"])
async def test_a_commit_whose_wait_somebody_else_ended_is_not_acknowledged(shard: Shard, kind: str) -> None:
    """An operator's pg_cancel_backend: the server reports success, and warns that the standby may not have it."""
    async with shard.store(patience=BOUND) as store:
        there, call = shard.call("there"), shard.call("k")
        await store.submit([there])
        await asyncio.to_thread(shard.cluster.standby.kill)

        async def write() -> object:
            if kind == "submit":
                return (await store.submit([call]))[0]
            if kind == "repeat":
                return (await store.submit([shard.call("there")]))[0]
            if kind == "atomic":
                return await store.submit_atomic([call])
            return await store.cancel(there.tenant, there.job_id)

        writing = asyncio.ensure_future(write())
        await shard.cluster.commits_waiting(1)
        await shard.cluster.on_primary(CANCEL)
        async with asyncio.timeout(BOUND):
            (answer,) = await asyncio.gather(writing, return_exceptions=True)
        assert isinstance(answer, RowcallError), "the server said that all is well"
        assert reason_name(answer.reason) == "COMMIT_UNKNOWN"
        assert shard.proxy.commits.cancels == 0

        await asyncio.to_thread(shard.cluster.standby.start)
        # The connection serves on, and the next commit is an ordinary one.
        assert await answer_of(store.submit([shard.call("next")])) == "CREATED"


async def test_leases_are_renewed_while_the_standby_is_away(shard: Shard) -> None:
    """A renewal that only the primary has loses nothing; one that waited would let every lease run out."""
    worker_id = uuid4()
    lease = timedelta(minutes=1)
    await shard.cluster.on_primary(
        "select rowcall.register_worker(%s, 'worker', %s, null, null, null, null, null, null, null)::text",
        worker_id,
        lease,
    )
    await asyncio.to_thread(shard.cluster.standby.kill)
    renewal = PostgresLeaseRenewal(shard.cluster.shards["a"], worker_id, lease, shard="a")
    async with asyncio.timeout(BOUND):
        assert (await asyncio.to_thread(renewal.renew)).alive
    await asyncio.to_thread(renewal.close)


async def test_nobody_is_buried_within_the_grace_after_a_promotion(shard: Shard) -> None:
    """The standby's server has run for long, but none of the living has a session there yet."""
    cluster = shard.cluster
    bury = "select string_agg(name, ',') from rowcall.bury_workers(%s, null)"
    now = timedelta(0)
    # Workers look every half second; what they saw last, the standby has.
    assert await cluster.on_primary(bury, now) is None
    await cluster.on_primary(
        "select rowcall.register_worker(%s, 'worker', %s, null, null, null, null, null, null, null)::text", uuid4(), now
    )
    await until(lambda: cluster.on_standby("select count(*) = 1 from rowcall.worker"))
    await asyncio.to_thread(cluster.primary.kill)
    assert await cluster.on_standby("select pg_promote()")
    age: timedelta = await cluster.on_standby("select clock_timestamp() - pg_postmaster_start_time()")
    assert await cluster.on_standby(bury, age) is None
    await cluster.on_standby("update rowcall.shard_info set timeline_since = timeline_since - %s returning 1", 2 * age)
    assert await cluster.on_standby(bury, age) == "worker"
