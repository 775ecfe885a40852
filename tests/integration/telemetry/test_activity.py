"""Spans as rows of the shards: what is there of them, and that whatever becomes of them touches no job."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from psycopg.rows import dict_row

from rowcall.probe.v1.probe_pb2 import EchoRequest, EchoResponse
from rowcall.queue.choice import exporters_of
from rowcall.settings import ClusterSettings
from rowcall.telemetry import conventions, metrics, spans, tallies
from rowcall.telemetry.activity import ACTIVITY
from rowcall.telemetry.sampling import Sampling
from rowcall.telemetry.spans import Limits, Spans
from rowcall.v1.job_pb2 import JobState
from rowcall_worker import Worker, telemetry
from rowcall_worker.serving.context import AsyncJobContext
from tests.fix_cluster import Cluster
from tests.fix_worker import Call, Calls, Job, Workers, serve
from tests.support.proxy import Proxy, address_of
from tests.support.waiting import until

TRACE = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{TRACE}-b7ad6b7169203331-01"
MANY = 300


@pytest.fixture(autouse=True)
def kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is dropped is counted."""
    monkeypatch.setattr(tallies, "_kept", True)


def dropped() -> float:
    """How many spans were dropped that the shards were to keep."""
    return metrics.TELEMETRY_DROPPED.value(ACTIVITY)


def told_to(cluster: Cluster, limits: Limits, **changes: Any) -> Spans:
    """What a worker tells its spans to."""
    settings = ClusterSettings(**{**cluster.worker.settings, "activity": True, **changes})
    return Spans(exporters_of(settings, service="test"), resource=Resource({"service.name": "test"}), limits=limits)


async def start(workers: Workers, to: Spans) -> None:
    """A worker that tells spans of all that it does, and whose handlers make some themselves."""
    worker = Worker(workers.settings(), spans=to, sampling=Sampling(1.0))
    workers.keep(worker)
    serve(echo=echo)(worker)
    await worker.start()


async def echo(request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
    with trace.get_tracer("acme").start_as_current_span("look it up", attributes={"rows": 7}):
        await asyncio.sleep(0)
    with telemetry.model_call("oracle", "gpt-7") as call:
        call.tokens(input=100, output=7)
    return EchoResponse(payload=request.payload)


async def rows(cluster: Cluster, shard: str, query: str) -> list[dict[str, Any]]:
    async with await psycopg.AsyncConnection.connect(cluster.shards[shard], row_factory=dict_row) as connection:
        return await (await connection.execute(query.encode())).fetchall()


async def stored(cluster: Cluster) -> int:
    """How many spans the shards have."""
    return sum(
        [(await rows(cluster, shard, "select count(*) from rowcall.activity"))[0]["count"] for shard in cluster.shards]
    )


async def test_an_action_has_its_spans_where_they_belong(cluster: Cluster, calls: Calls, workers: Workers) -> None:
    before = dropped()
    to = told_to(cluster, Limits(delay=0.05))
    await start(workers, to)
    jobs = [
        await calls.submit("Echo", EchoRequest(), call=Call(tenant, traceparent=TRACEPARENT))
        for tenant in ("acme", "bolt")
    ]
    await calls.all_done(jobs)
    # A call at the edge, which does not know where its row is; and one of nobody's.
    for tenant, name in (("acme", "send probe"), ("nobody", "lost")):
        to.tell(
            "test", name, "producer", trace_id=TRACE, span_id="b7ad6b7169203331", parent_id=None, started=1, ended=5,
            attributes={conventions.TENANT: tenant, "odd": "a\0\ud800"}, error="OVER",
        )  # fmt: skip
    await until(lambda: _settled(cluster, 2 * 3 + 1))
    await asyncio.to_thread(to.shutdown)
    assert dropped() == before
    for job in jobs:
        query = f"select * from rowcall.action('{TRACE}') where tenant = '{job.tenant}'"
        found = {row["node"]: row for row in await rows(cluster, job.shard, query)}
        by_kind: dict[str, list[dict[str, Any]]] = {}
        for row in found.values():
            by_kind.setdefault(row["kind"], []).append(row)
        [node], [attempt], [called] = by_kind["JOB"], by_kind["ATTEMPT"], by_kind["MODEL_CALL"]
        own = next(row for row in by_kind["SPAN"] if row["name"] == "look it up")
        assert attempt["parent"] == job.name
        assert attempt["attributes"][conventions.OUTCOME] == "succeeded", "what its span says is the attempt's"
        assert (own["parent"], own["attributes"]["rows"]) == (attempt["node"], 7)
        assert (called["parent"], len(called["node"])) == (attempt["node"], 16), "booked and recorded, it is one"
        assert attempt["started_at"] <= called["started_at"]
        if job.tenant == "acme":
            sent = next(row for row in by_kind["SPAN"] if row["name"] == "send probe")
            assert node["parent"] == sent["node"]
            assert (sent["status"], sent["message"], sent["attributes"]["odd"]) == ("ERROR", "OVER", "a?")
        else:
            assert node["parent"] is None, "another tenant's span is not its"


def _settled(cluster: Cluster, many: int) -> Any:
    async def look() -> bool:
        return await stored(cluster) >= many

    return look()


@asynccontextmanager
async def locked(cluster: Cluster, proxies: dict[str, Proxy]) -> AsyncIterator[None]:
    async with AsyncExitStack() as stack:
        for dsn in cluster.shards.values():
            connection = await stack.enter_async_context(await psycopg.AsyncConnection.connect(dsn))
            await connection.execute("lock table rowcall.activity")
        yield


@asynccontextmanager
async def silent(cluster: Cluster, proxies: dict[str, Proxy]) -> AsyncIterator[None]:
    for proxy in proxies.values():
        proxy.hold()
    yield
    for proxy in proxies.values():
        proxy.release()


@asynccontextmanager
async def cut(cluster: Cluster, proxies: dict[str, Proxy]) -> AsyncIterator[None]:
    for proxy in proxies.values():
        proxy.stop()
    yield
    proxies.clear()


@pytest.fixture
def proxies(cluster: Cluster) -> Iterator[dict[str, Proxy]]:
    """Before each shard, for what keeps spans alone."""
    made = {shard: Proxy(*address_of(dsn)) for shard, dsn in cluster.shards.items()}
    for proxy in made.values():
        proxy.start()
    yield made
    for proxy in made.values():
        proxy.stop()


@pytest.mark.straight("the proxy is before the server itself")
@pytest.mark.parametrize("trouble", [locked, silent, cut])
async def test_jobs_are_done_whatever_becomes_of_their_spans(
    cluster: Cluster,
    calls: Calls,
    workers: Workers,
    proxies: dict[str, Proxy],
    *,
    monkeypatch: pytest.MonkeyPatch,
    trouble: Any,
) -> None:
    """Its table locked, its connections silent, its connections cut: each job is answered, what is told is kept or counted, and no more of
    it waits than there is room for."""
    monkeypatch.setattr(spans, "LAST_SECONDS", 1.0)
    through = {shard: proxies[shard].through(dsn) for shard, dsn in cluster.worker.settings["shards"].items()}
    limits = Limits(waiting=50, batch=20, delay=0.02)
    to = told_to(cluster, limits, shards=through)
    told = _counting(to)
    await start(workers, to)
    before = dropped()
    first = await calls.submit("Echo", EchoRequest())
    await calls.done(first)
    await until(lambda: _settled(cluster, 3))
    broken: AbstractAsyncContextManager[None] = trouble(cluster, proxies)
    async with broken:
        jobs: list[Job] = await calls.submit_many("Echo", [EchoRequest(payload=b"%d" % n) for n in range(MANY)])
        done = await calls.all_done(jobs, seconds=60)
        for number, row in enumerate(done):
            assert row.state == JobState.JOB_STATE_SUCCEEDED
            assert row.response == EchoResponse(payload=b"%d" % number).SerializeToString()
        # Three of each are told a moment after they were settled.
        await until(lambda: told[0] >= 3 * (MANY + 1))
        lost = dropped() - before
        assert lost >= told[0] - (limits.waiting + limits.batch) - 3, "no more waits than there is room for"
        await asyncio.wait_for(asyncio.to_thread(to.shutdown), 30)
    assert dropped() - before + await stored(cluster) >= told[0], "what is not kept is counted"


def _counting(to: Spans) -> list[int]:
    """How many spans are told."""
    told, put = [0], to.put

    def counting(span: Any, below: Collection[str] | None = None) -> Collection[str]:
        told[0] += 1
        return put(span, below)

    to.put = counting  # type: ignore[method-assign]
    return told


def tell(to: Spans) -> None:
    """Tells of a call of the tenant acme."""
    to.tell(
        "test", "GetJob", "server", trace_id=TRACE, span_id=uuid4().hex[:16], parent_id=None, started=1, ended=5,
        attributes={conventions.TENANT: "acme"},
    )  # fmt: skip


@pytest.mark.straight("the proxy is before the server itself")
async def test_a_shard_that_falls_silent_is_given_up_and_found_again(
    cluster: Cluster, calls: Calls, proxies: dict[str, Proxy]
) -> None:
    await calls.submit("Echo", EchoRequest())
    through = {shard: proxies[shard].through(dsn) for shard, dsn in cluster.worker.settings["shards"].items()}
    to = told_to(cluster, Limits(delay=0.02), shards=through)

    tell(to)
    await until(lambda: _settled(cluster, 1))
    for proxy in proxies.values():
        proxy.hold()
    before = dropped()
    tell(to)

    async def given_up() -> bool:
        return dropped() > before

    await until(given_up)
    for proxy in proxies.values():
        proxy.release()
    tell(to)
    await until(lambda: _settled(cluster, 2))
    await asyncio.to_thread(to.shutdown)


@pytest.mark.parametrize("started", [2**80, float("nan"), -1])
async def test_a_span_that_no_row_can_have_takes_no_other_along(cluster: Cluster, calls: Calls, started: int) -> None:
    """What handlers say of their own spans is theirs: any time, and numbers of any size."""
    before = dropped()
    job = await calls.submit("Echo", EchoRequest())
    to = told_to(cluster, Limits(delay=60))
    long = {f"text{place}": "x" * 1000 for place in range(20)}
    for name, at, number in (("good", 1, 7), ("large", 1, 10**5000), ("never", started, 7)):
        to.tell(
            "test", name, "client", trace_id=TRACE, span_id=f"{hash(name) & (2**63 - 1):016x}", parent_id=None, started=at,
            ended=at, attributes={conventions.TENANT: job.tenant, "number": number, **long},
        )  # fmt: skip
    await asyncio.to_thread(to.shutdown)
    found = await rows(cluster, job.shard, "select name, attributes from rowcall.activity order by name")
    assert [row["name"] for row in found] == ["good", "large"]
    assert found[0]["attributes"] == {"number": 7, **dict(list(long.items())[:15])}, "what fits into what is kept"
    assert found[1]["attributes"]["number"].startswith(hex(10**5000)[:100])
    assert dropped() == before + 1


async def test_spans_of_a_tenant_are_kept_where_it_lives_and_nowhere_once_it_is_erased(
    cluster: Cluster, calls: Calls
) -> None:
    job = await calls.submit("Echo", EchoRequest())
    before = dropped()
    to = told_to(cluster, Limits(delay=0.02))

    tell(to)
    await until(lambda: _settled(cluster, 1))
    found = await rows(cluster, job.shard, "select tenant, kind, duration from rowcall.activity")
    assert [(row["tenant"], row["kind"]) for row in found] == [("acme", 1)]
    async with await psycopg.AsyncConnection.connect(cluster.shards[job.shard], autocommit=True) as connection:
        await connection.execute("update rowcall.tenant_route set state = 4")
    tell(to)
    await asyncio.to_thread(to.shutdown)
    assert await stored(cluster) == 1
    assert dropped() == before
