"""How waiting calls learn of results: hints when there are any, asking always."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from datetime import timedelta
from uuid import UUID

import psycopg
import pytest

from rowcall.probe.v1 import probe_pb2_grpc
from rowcall.probe.v1.probe_pb2 import EchoRequest, EchoResponse, RunRequest, RunResponse
from rowcall.queue.hints import Hint
from rowcall.queue.model import Outcome, Submission, Submitted
from rowcall.queue.postgres.store import PostgresJobStore
from rowcall.sharding import GATEWAY_WORKLOADS, Router, Workload
from rowcall_gateway.shards import links
from rowcall_gateway.shards.waiters import UNHINTED, Pace, Waiters
from tests.fix_cluster import Cluster
from tests.fix_gateway import Bench, Gateways, Metadata, jobs, keyed, listening, tenant
from tests.fix_worker import Workers
from tests.support.waiting import until

NEVER = Pace(first=timedelta(hours=1), most=timedelta(hours=1))
"""Asking comes too late for any test: what is answered was hinted at."""

LISTENING = (
    "select count(*) from pg_stat_activity where application_name = 'rowcall-gateway listener' and state = 'idle'"
)


async def echo(stub: probe_pb2_grpc.ProbeServiceAsyncStub, metadata: Metadata = ()) -> EchoResponse:
    return await stub.Echo(EchoRequest(payload=b"x"), timeout=20, metadata=metadata)


@pytest.mark.hinted("only a hint could wake the call here")
async def test_a_hint_wakes_the_call_that_waits(
    gateways: Gateways, bench: Bench, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links, "HINTED", NEVER)
    probe = await gateways.probe(await gateways.start())
    bench.notify()
    await until(lambda: listening(cluster) == len(cluster.shards))

    calls = [asyncio.ensure_future(echo(probe, tenant(f"t{number}"))) for number in range(8)]
    for held in await bench.claim(8):
        await bench.answer(held, EchoResponse(payload=b"x"))

    assert [answer.payload for answer in await asyncio.gather(*calls)] == [b"x"] * 8


@pytest.mark.hinted("only a hint could wake the call here")
async def test_a_hint_that_comes_before_its_call_waits_is_kept(
    gateways: Gateways, cluster: Cluster, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker may be done before the gateway has read what became of its own commit."""
    monkeypatch.setattr(links, "HINTED", NEVER)
    submit, tell = PostgresJobStore.submit, Waiters.hint
    heard: set[UUID] = set()

    def hear(self: Waiters, ids: Iterable[UUID]) -> None:
        found = list(ids)
        tell(self, found)
        heard.update(found)

    async def slowly(
        self: PostgresJobStore, submissions: Sequence[Submission], hint: Hint | None = None
    ) -> list[Submitted | Exception]:
        answers = await submit(self, submissions, hint)
        await until(lambda: {each.job_id for each in submissions} <= heard)
        return answers

    monkeypatch.setattr(Waiters, "hint", hear)
    probe = await gateways.probe(await gateways.start())
    await workers.start()
    await until(lambda: listening(cluster) == len(cluster.shards))
    monkeypatch.setattr(PostgresJobStore, "submit", slowly)

    assert (await echo(probe)).payload == b"x"


@pytest.mark.parametrize("hints", [False, True])
async def test_calls_are_answered_without_any_hint(gateways: Gateways, bench: Bench, hints: bool) -> None:
    """Switched off, or on and never sent: the bench does not notify."""
    probe = await gateways.probe(await gateways.start(hints=hints))

    calls = [asyncio.ensure_future(echo(probe, tenant(f"t{number}"))) for number in range(8)]
    held = await bench.claim(8)
    started = time.monotonic()
    for each in held:
        await bench.answer(each, EchoResponse(payload=b"x"))

    assert [answer.payload for answer in await asyncio.gather(*calls)] == [b"x"] * 8
    assert time.monotonic() - started < 10


async def test_without_hints_nobody_listens_and_rows_name_no_waiter(
    gateways: Gateways, cluster: Cluster, bench: Bench
) -> None:
    probe = await gateways.probe(await gateways.start(hints=False))

    call = asyncio.ensure_future(echo(probe))
    (held,) = await bench.claim()

    assert listening(cluster) == 0
    with psycopg.connect(cluster.shards[held.shard]) as connection:
        assert connection.execute("select waiter_id from rowcall.job").fetchall() == [(None,)]
    await bench.answer(held, EchoResponse(payload=b"x"))
    await call


async def test_a_joined_call_is_answered_though_the_hint_goes_to_another_gateway(
    gateways: Gateways, bench: Bench, cluster: Cluster
) -> None:
    first = await gateways.probe(await gateways.start())
    second = await gateways.probe(await gateways.start())
    bench.notify()
    calls = [asyncio.ensure_future(echo(first, keyed("k")))]
    await until(lambda: len(jobs(cluster, "name")) == 1)
    calls.append(asyncio.ensure_future(echo(second, keyed("k"))))

    (held,) = await bench.claim()
    await bench.answer(held, EchoResponse(payload=b"x"))

    assert [answer.payload for answer in await asyncio.gather(*calls)] == [b"x", b"x"]


@pytest.mark.hinted("nobody listens")
async def test_a_broken_listener_costs_no_answer(gateways: Gateways, bench: Bench, cluster: Cluster) -> None:
    probe = await gateways.probe(await gateways.start())
    bench.notify()
    await until(lambda: listening(cluster) == len(cluster.shards))
    call = asyncio.ensure_future(echo(probe))
    (held,) = await bench.claim()
    for dsn in cluster.shards.values():
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity "
                "where datname = current_database() and query like 'listen %'"
            )

    await bench.answer(held, EchoResponse(payload=b"x"))

    assert (await call).payload == b"x"
    await until(lambda: listening(cluster) == len(cluster.shards))


async def test_many_waiting_calls_are_asked_for_together(
    gateways: Gateways, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    outcomes = PostgresJobStore.outcomes

    async def counted(self: PostgresJobStore, keys: Sequence[tuple[str, UUID]]) -> list[Outcome]:
        asked.append(len(keys))
        return await outcomes(self, keys)

    monkeypatch.setattr(PostgresJobStore, "outcomes", counted)
    probe = await gateways.probe(await gateways.start(placement={"b": 0}))

    calls = [probe.Echo(EchoRequest(), timeout=60) for _ in range(200)]

    # Each call asks several times, and not alone.
    await until(lambda: sum(asked) > 3 * len(calls))
    assert len(asked) < sum(asked) / 3
    assert not any(call.done() for call in calls)
    for call in calls:
        call.cancel()


async def test_an_outcome_is_only_its_own_tenants(gateways: Gateways, bench: Bench, cluster: Cluster) -> None:
    """Ids are made up by gateways; whoever waits for one is told nothing of another tenant's job that has it."""
    probe = await gateways.probe(await gateways.start(placement={"b": 0}))
    await probe.Run(RunRequest(), timeout=20, metadata=tenant("acme", ("prefer", "wait=0")))
    (held,) = await bench.claim()
    settings = gateways.settings()
    async with await Router.open(settings, service="test", workloads=GATEWAY_WORKLOADS) as router:
        shard = router.shard("a")
        store = PostgresJobStore(shard.pool(Workload.SUBMIT), shard.pool(Workload.READ), shard="a")
        waiters = Waiters(store, shard="a")
        waiters.start()
        mine, theirs = ("acme", held.job.job_id), ("rival", held.job.job_id)
        with waiters.wait(mine, pace=UNHINTED) as right, waiters.wait(theirs, pace=UNHINTED) as wrong:
            await bench.answer(held, RunResponse())
            now = asyncio.get_running_loop().time()
            await right.until(now + 20)
            found = right.answer()
            assert found is not None
            assert found.tenant == "acme"
            await wrong.until(now + 0.1)
            assert wrong.answer() is None
        await waiters.close()
        await store.close()
