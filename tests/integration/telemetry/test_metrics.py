"""What services count, sent over OTLP: as a collector receives it, without an operations port."""

from __future__ import annotations

import asyncio
import signal

import grpc
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric

from rowcall.probe.v1.probe_pb2 import EchoRequest, RunRequest
from rowcall.probe.v1.probe_pb2_grpc import ProbeServiceStub
from tests.fix_gateway import tenant
from tests.fix_services import Services
from tests.support.collector import Collector
from tests.support.waiting import until

ECHO, RUN = "rowcall.probe.v1.ProbeService/Echo", "rowcall.probe.v1.ProbeService/Run"
OTLP = "OTEL_EXPORTER_OTLP"
CALLS = 5


def found(collector: Collector, service: str, name: str) -> Metric | None:
    """What a service has sent last of a metric."""
    batches = [each for each in collector.metrics if each.whose["service.name"] == service and name in each.metrics]
    return batches[-1].metrics[name] if batches else None


def count(metric: Metric | None, label: str, value: str) -> int:
    """How many values a histogram has under a label."""
    points = () if metric is None else metric.histogram.data_points
    return sum(
        point.count
        for point in points
        if any((a.key, a.value.string_value) == (label, value) for a in point.attributes)
    )


async def test_a_gateway_and_a_worker_send_what_they_count(services: Services, collector: Collector) -> None:
    often = {"OTEL_METRIC_EXPORT_INTERVAL": "100", **collector.variables}
    gateway = services.gateway(**often)
    address = await asyncio.to_thread(gateway.address)
    worker = services.worker(**often)
    await asyncio.to_thread(worker.ready)

    async with grpc.aio.insecure_channel(address) as channel:
        probe = ProbeServiceStub(channel)
        for _ in range(CALLS):
            await probe.Echo(EchoRequest(payload=b"x"), timeout=20, metadata=tenant("acme"))

    def told() -> bool:
        calls = found(collector, "rowcall-gateway", "rpc.server.call.duration")
        attempts = found(collector, "rowcall-worker", "messaging.process.duration")
        # What shards stand at is looked at, although nobody can ask for a page.
        depths = [found(collector, each, "rowcall.queue.depth") for each in ("rowcall-gateway", "rowcall-worker")]
        return (count(calls, "rpc.method", ECHO), count(attempts, "method", ECHO)) == (CALLS, CALLS) and all(depths)

    await until(told, every=0.1)
    whose = {each.whose["service.name"]: each.whose["service.instance.id"] for each in collector.metrics}
    assert len(set(whose.values())) == len(whose) == 2
    for process in (worker, gateway):
        assert await asyncio.to_thread(process.end, signal.SIGTERM) == 0


async def test_the_last_of_them_are_sent_at_the_end(services: Services, collector: Collector) -> None:
    # Compose makes such values of what is not set.
    empty = dict.fromkeys(
        ("OTEL_METRICS_EXPORTER", f"{OTLP}_TIMEOUT", f"{OTLP}_METRICS_TIMEOUT", f"{OTLP}_COMPRESSION"), ""
    )
    gateway = services.gateway(**collector.variables, **empty)
    address = await asyncio.to_thread(gateway.address)
    async with grpc.aio.insecure_channel(address) as channel:
        now = (*tenant("acme"), ("prefer", "wait=0"))
        await ProbeServiceStub(channel).Run(RunRequest(), timeout=20, metadata=now)
    assert collector.metrics == []
    assert await asyncio.to_thread(gateway.end, signal.SIGTERM) == 0
    assert count(found(collector, "rowcall-gateway", "rpc.server.call.duration"), "rpc.method", RUN) == 1
