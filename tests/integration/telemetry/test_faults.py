"""Services whose spans nobody takes any more: calls and jobs come to what they come to otherwise, what is dropped is counted, and they end in
time. Four faults, each in the middle: the connections of what the shards keep are cut, its table is locked, the collector is gone, or silent."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

import grpc
import psycopg
import pytest
from opentelemetry.trace import SpanKind

from rowcall.probe.v1.probe_pb2 import EchoRequest
from rowcall.probe.v1.probe_pb2_grpc import ProbeServiceStub
from rowcall.telemetry.activity import ACTIVITY
from rowcall.telemetry.environment import OTLP
from tests.fix_cluster import Cluster, Reached
from tests.fix_gateway import jobs, tenant
from tests.fix_services import ServiceProcess, Services
from tests.support.collector import Collector
from tests.support.ops import Ops, value
from tests.support.proxy import Proxy
from tests.support.purpose_proxy import PurposeProxy
from tests.support.waiting import until

TENANTS = ("acme", "bolt")
MANY = 60
IN_FLIGHT = 12
ROOM = 8
"""Spans that wait: with those that are being sent a fraction of what is told."""


class Ways:
    """Where services of a cluster send their spans, and how it is broken."""

    def __init__(self, cluster: Cluster, collector: Collector, stack: ExitStack) -> None:
        self.cluster = cluster
        self.collector = collector
        self.stores = {shard: stack.enter_context(PurposeProxy(dsn, ACTIVITY)) for shard, dsn in cluster.shards.items()}
        """Before the shards, for all connections."""
        host, _, port = collector.address.removeprefix("http://").rpartition(":")
        self.to_collector = Proxy(host, int(port))
        self.leave_collector = stack.enter_context(ExitStack())
        self.leave_collector.enter_context(self.to_collector)

    def variables(self, reached: Reached) -> dict[str, str]:
        """The environment of a service."""
        shards = {shard: self.stores[shard].through(dsn) for shard, dsn in reached.shards.items()}
        return {
            **self.collector.variables,
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://{}:{}".format(*self.to_collector.address),
            "OTEL_TRACES_SAMPLER": "always_on",
            "OTEL_BSP_MAX_QUEUE_SIZE": str(ROOM),
            "OTEL_BSP_SCHEDULE_DELAY": "20",
            "ROWCALL_ACTIVITY": "true",
            "ROWCALL_OPS_LISTEN": "127.0.0.1:0",
            "ROWCALL_SHARDS": json.dumps(shards),
        }


@pytest.fixture
def ways(cluster: Cluster, collector: Collector) -> Iterator[Ways]:
    """As they are while all is well."""
    with ExitStack() as stack:
        yield Ways(cluster, collector, stack)


@contextmanager
def cut(ways: Ways) -> Iterator[str]:
    for proxy in ways.stores.values():
        proxy.away = True
    yield ACTIVITY


@contextmanager
def locked(ways: Ways) -> Iterator[str]:
    with ExitStack() as stack:
        for dsn in ways.cluster.shards.values():
            connection = stack.enter_context(psycopg.connect(dsn))
            connection.execute("lock table rowcall.activity")
        yield ACTIVITY


@contextmanager
def gone(ways: Ways) -> Iterator[str]:
    ways.leave_collector.close()
    yield OTLP


@contextmanager
def silent(ways: Ways) -> Iterator[str]:
    ways.to_collector.hold()
    yield OTLP


@pytest.mark.straight("the proxy is before the server itself")
@pytest.mark.parametrize("fault", [cut, locked, gone, silent])
async def test_calls_and_jobs_come_to_what_they_come_to_and_services_end(
    cluster: Cluster, services: Services, ways: Ways, fault: Callable[[Ways], AbstractContextManager[str]]
) -> None:
    gateway = services.gateway(**ways.variables(cluster.gateway))
    worker = services.worker(**ways.variables(cluster.worker))
    await asyncio.to_thread(worker.ready)
    async with grpc.aio.insecure_channel(await asyncio.to_thread(gateway.address)) as channel:
        assert await echoes(channel, len(TENANTS)) == payloads(len(TENANTS))
        # All is well: both have spans of both services.
        await until(lambda: {each.service for each in ways.collector.spans} == {"rowcall-gateway", "rowcall-worker"})
        await until(
            lambda: all({SpanKind.SERVER.value, SpanKind.CONSUMER.value} <= kept(dsn) for dsn in stores_in_use(cluster))
        )
        with fault(ways) as what:
            assert await echoes(channel, MANY) == payloads(MANY)
            for service in (gateway, worker):
                await until_dropped(service, what)
            ended = await asyncio.gather(*(asyncio.to_thread(service.end) for service in (gateway, worker)))
    assert ended == [0, 0], "".join((*gateway.log, *worker.log))
    assert jobs(cluster, "state, attempt") == [("SUCCEEDED", 1)] * (len(TENANTS) + MANY), "each was done, and once"


def payloads(count: int) -> list[bytes]:
    return [b"%d" % number for number in range(count)]


async def echoes(channel: grpc.aio.Channel, count: int) -> list[bytes]:
    """What so many calls are answered, some at a time."""
    free = asyncio.Semaphore(IN_FLIGHT)

    async def call(number: int) -> bytes:
        async with free:
            answer = await ProbeServiceStub(channel).Echo(
                EchoRequest(payload=b"%d" % number), timeout=30, metadata=tenant(TENANTS[number % len(TENANTS)])
            )
            return answer.payload

    return await asyncio.gather(*map(call, range(count)))


def stores_in_use(cluster: Cluster) -> list[str]:
    """The shards that tenants live on."""
    found = []
    for dsn in cluster.shards.values():
        with psycopg.connect(dsn) as connection:
            if connection.execute("select from rowcall.tenant_route limit 1").fetchone() is not None:
                found.append(dsn)
    return found


def kept(dsn: str) -> set[int]:
    """The kinds of spans that a shard has."""
    with psycopg.connect(dsn) as connection:
        return {kind for (kind,) in connection.execute("select distinct kind from rowcall.activity")}


async def until_dropped(service: ServiceProcess, what: str) -> None:
    """Waits until a service has counted spans that it has dropped."""

    async def has() -> bool:
        return value(await Ops(service).samples(), "rowcall_telemetry_dropped_total", what=what) > 0

    await until(has, every=0.1)
