"""Who takes what gateways and workers export: Jaeger, whose query API returns each trace whole, and the OpenTelemetry collector, which passes it on
unchanged, and metrics with it. Both get what exporters send by a receiver that keeps it, so that one can be held against the other.

In the long form only (`make chaos`): where nothing of them is cached, building them takes minutes of processor time.
"""

from __future__ import annotations

import asyncio
import base64
import json
import urllib.request
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final
from urllib.error import HTTPError

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import ParseDict
from google.rpc.code_pb2 import Code
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from rowcall.probe.v1.probe_pb2 import EchoRequest, RunRequest
from rowcall.probe.v1.probe_pb2_grpc import ProbeServiceStub
from rowcall.queue.model import JobRow
from rowcall.tracing import TraceContext
from tests.chaos import family
from tests.chaos.actions import all_rows, ask
from tests.fix_cluster import Cluster
from tests.fix_otelcol import RunOtelcol, collecting
from tests.fix_services import Services
from tests.fix_worker import Calls
from tests.support.collector import Collector, Received, received
from tests.support.golang import BUILD_SECONDS, NoGo, build
from tests.support.ports import free_port
from tests.support.scale import LONG
from tests.support.traces import faults
from tests.support.waiting import until

HERE: Final = Path(__file__).parent
ACTIONS: Final = 60
REQUESTS: Final = [
    EchoRequest(payload=b"x"),
    EchoRequest(payload=family.PARENT),
    RunRequest(fail_code=Code.UNAVAILABLE, fail_attempts=1),
    RunRequest(fail_code=Code.INVALID_ARGUMENT, work=Duration(nanos=1_000_000)),
]
SPANS: Final = 3
"""Of an action at the least: the call, its submission, the attempt."""
MEASURED: Final = {
    "rowcall-gateway": ("rpc.server.call.duration", ACTIONS),
    "rowcall-worker": ("messaging.process.duration", ACTIONS),
}
"""By service: a histogram of its metrics, and how many values it has at the least."""
_IDS: Final = frozenset({"traceId", "spanId", "parentSpanId"})

pytestmark = [
    pytest.mark.timeout(2 * BUILD_SECONDS),
    pytest.mark.skipif(
        not LONG,
        reason="NOT TRIED WITH JAEGER AND THE OPENTELEMETRY COLLECTOR: building them takes minutes; make chaos does",
    ),
]


@pytest.fixture(scope="session")
def jaeger(run_directory: Path) -> Path:
    """The program."""
    program = run_directory / "jaeger"
    try:
        build(HERE / "jaeger", program, "github.com/jaegertracing/jaeger/cmd/jaeger")
    except NoGo as error:
        pytest.skip(f"NOT TRIED WITH JAEGER: {error}")
    return program


@contextmanager
def receiving(onward: str | None = None) -> Iterator[Collector]:
    """Receives what is exported."""
    collector = Collector(onward)
    try:
        yield collector
    finally:
        collector.stop()


async def act(
    cluster: Cluster, services: Services, calls: Calls, to: Collector, **more: str
) -> tuple[list[TraceContext], list[JobRow]]:
    """What callers have sent along whose calls were served by a gateway and a worker that export, and the jobs that they know of; `more`: of
    their environment."""
    variables = {"ROWCALL_TRACES_ASKED": "10000", **to.variables, **more}
    gateway = services.gateway(**variables)
    worker = services.worker(*family.ARGUMENTS, **family.VARIABLES, **variables)
    address = await asyncio.to_thread(gateway.address)
    await asyncio.to_thread(worker.ready)
    callers: list[TraceContext] = []
    async with grpc.aio.insecure_channel(address) as channel:
        probe: Any = ProbeServiceStub(channel)
        for number in range(ACTIONS):
            request = REQUESTS[number % len(REQUESTS)]
            callers.append(TraceContext.mint(sampled=True))
            metadata = (("rowcall-tenant", f"tenant-{number % 5}"), ("traceparent", callers[-1].traceparent))
            method = probe.Run if isinstance(request, RunRequest) else probe.Echo
            await method(request, timeout=20, metadata=metadata)

    async def all_done() -> bool:
        return not await asyncio.to_thread(ask, cluster, "select 1 from rowcall.job limit 1")

    await until(all_done, seconds=60, every=0.2)
    # What is still in their buffers is sent when they end.
    for service in (worker, gateway):
        assert await asyncio.to_thread(service.end) == 0
    assert to.refused == 0
    return callers, await all_rows(cluster, calls)


def in_json(found: Any) -> Any:
    """What is in OTLP's JSON, where ids are hex digits, as protobuf's own has it, where they are base64."""
    if isinstance(found, list):
        return [in_json(each) for each in found]
    if not isinstance(found, dict):
        return found
    return {
        name: base64.b64encode(bytes.fromhex(value)).decode() if name in _IDS else in_json(value)
        for name, value in found.items()
    }


def told_by_jaeger(query: str, trace_id: str) -> list[Received]:
    """The spans of a trace, as Jaeger's query API returns them."""
    try:
        with urllib.request.urlopen(f"http://{query}/api/v3/traces/{trace_id}?raw_traces=true", timeout=10) as answer:
            [found] = [json.loads(line)["result"] for line in answer.read().splitlines() if line]
    except HTTPError as error:
        if error.code != HTTPStatus.NOT_FOUND:
            raise
        return []  # it has none of it yet
    return received(ParseDict(in_json(found), ExportTraceServiceRequest()).SerializeToString())


def as_sent(spans: Collection[Received]) -> list[Received]:
    """Spans in an order of their own."""
    return sorted(spans, key=lambda each: each.span_id)


def check(sent: Collection[Received], callers: Sequence[TraceContext], rows: Sequence[JobRow]) -> None:
    """That it is worth the comparison: each action is there, more than an attempt of it, and nothing is wrong with any span."""
    assert faults(list(sent), rows, callers=callers) == []
    of = Counter(each.trace_id for each in sent)
    assert set(of) == {each.trace_id for each in callers}
    assert min(of.values()) >= SPANS
    assert {each.span.status.code for each in sent} == {Status.STATUS_CODE_UNSET, Status.STATUS_CODE_ERROR}


async def test_jaeger_takes_what_is_exported_and_returns_each_trace_whole(
    jaeger: Path, cluster: Cluster, services: Services, calls: Calls, tmp_path: Path
) -> None:
    otlp, query = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    log = tmp_path / "jaeger.log"
    with collecting(jaeger, HERE / "jaeger" / "jaeger.yaml", log, JAEGER_OTLP=otlp, JAEGER_QUERY=query):
        with receiving(onward=otlp) as collector:
            callers, rows = await act(cluster, services, calls, collector)
        sent = collector.spans
        check(sent, callers, rows)
        for caller in callers:
            its = [each for each in sent if each.trace_id == caller.trace_id]
            told: list[Received] = []

            async def whole(trace_id: str = caller.trace_id, many: int = len(its), told: list[Received] = told) -> bool:
                told[:] = await asyncio.to_thread(told_by_jaeger, query, trace_id)
                return len(told) >= many

            await until(whole, seconds=30, every=0.1)
            assert as_sent(told) == as_sent(its)


async def test_the_opentelemetry_collector_passes_on_what_is_exported_as_it_is(
    run_otelcol: RunOtelcol, cluster: Cluster, services: Services, calls: Calls
) -> None:
    otlp = f"127.0.0.1:{free_port()}"
    with (
        receiving() as behind,
        run_otelcol(HERE / "otelcol" / "traces.yaml", TRACES=otlp, TRACES_TO=behind.address.removeprefix("http://")),
    ):
        with receiving(onward=otlp) as collector:
            # Metrics go to it at once: what they are of is known.
            its = {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": f"http://{otlp}"}
            callers, rows = await act(cluster, services, calls, collector, **its)
        sent = collector.spans
        check(sent, callers, rows)
        await until(lambda: len(behind.spans) >= len(sent), seconds=30)
        assert as_sent(behind.spans) == as_sent(sent)
        await until(lambda: len({each.whose["service.name"] for each in behind.metrics}) == len(MEASURED), seconds=30)
    for service, (name, least) in MEASURED.items():
        last = [each for each in behind.metrics if each.whose["service.name"] == service][-1]
        metric = last.metrics[name]
        assert metric.unit == "s"
        assert sum(point.count for point in metric.histogram.data_points) >= least
