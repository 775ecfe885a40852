"""What is told of a call besides its answer: the span, the request line, the position in the trace."""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
from typing import Any

import grpc
import psycopg
import pytest
import structlog
from google.longrunning import operations_pb2_grpc
from google.longrunning.operations_pb2 import GetOperationRequest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from rowcall.probe.v1.probe_pb2 import EchoRequest, RunRequest
from rowcall_gateway.calls.job_calls import JobCalls
from rowcall_gateway.edge.telemetry import provider_from_environment
from tests.fix_cluster import Cluster
from tests.fix_gateway import Gateways, info_of, jobs, keyed, refused, tenant
from tests.support.waiting import until

ECHO = "rowcall.probe.v1.ProbeService/Echo"
RUN = "rowcall.probe.v1.ProbeService/Run"
NOW = ("prefer", "wait=0")
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = ("traceparent", f"00-{TRACE}-00f067aa0ba902b7-01")


class Spans:
    """What the exporter was given."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    def all(self) -> list[ReadableSpan]:
        return list(self._exporter.get_finished_spans())

    async def one(self) -> ReadableSpan:
        """The only one, once it is there: a span ends a moment after its call."""
        await until(lambda: len(self.all()) == 1)
        return self.all()[0]


@pytest.fixture
def spans() -> Iterator[Spans]:
    made = Spans()
    yield made
    made.provider.shutdown()


def attributes(span: ReadableSpan) -> dict[str, object]:
    return dict(span.attributes or {})


async def test_an_answered_calls_span_is_the_rows_parent(gateways: Gateways, spans: Spans, cluster: Cluster) -> None:
    probe = await gateways.probe(await gateways.start(tracer_provider=spans.provider))

    await probe.Run(RunRequest(), timeout=20, metadata=(NOW, PARENT))

    span = await spans.one()
    assert (span.name, span.kind) == (f"/{RUN}", SpanKind.SERVER)
    assert span.context is not None
    assert span.parent is not None
    assert f"{span.context.trace_id:032x}" == TRACE
    assert f"{span.parent.span_id:016x}" == "00f067aa0ba902b7"
    assert attributes(span)["rpc.grpc.status_code"] == 0
    assert span.status.status_code is StatusCode.UNSET
    assert jobs(cluster, "trace_id") == [(TRACE,)]
    parents = []
    for dsn in cluster.shards.values():
        with psycopg.connect(dsn) as connection:
            parents += connection.execute(
                "select rowcall.traceparent(trace_id, parent_span_id, trace_flags) from rowcall.job"
            ).fetchall()
    assert parents == [(f"00-{TRACE}-{span.context.span_id:016x}-01",)]


async def test_without_a_parent_the_spans_trace_is_the_calls(gateways: Gateways, spans: Spans) -> None:
    probe = await gateways.probe(await gateways.start(tracer_provider=spans.provider))

    error = await refused(probe.Echo(EchoRequest(), timeout=20, metadata=(NOW,)))

    span = await spans.one()
    assert span.context is not None
    assert info_of(error).metadata["trace_id"] == f"{span.context.trace_id:032x}"


async def test_a_refused_calls_span_has_its_code_and_its_reason_once(gateways: Gateways, spans: Spans) -> None:
    probe = await gateways.probe(await gateways.start(tracer_provider=spans.provider))

    await refused(probe.Echo(EchoRequest(), timeout=20, metadata=(("rowcall-x", "y"),)))

    span = await spans.one()
    assert attributes(span)["rpc.grpc.status_code"] == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert attributes(span)["rowcall.reason"] == "UNKNOWN_METADATA"
    # The caller's fault is not the server's error.
    assert span.status.status_code is StatusCode.UNSET
    assert span.events == ()


async def test_a_call_whose_job_goes_on_is_no_error(gateways: Gateways, spans: Spans) -> None:
    probe = await gateways.probe(await gateways.start(tracer_provider=spans.provider))

    await refused(probe.Echo(EchoRequest(), timeout=20, metadata=(NOW,)))

    span = await spans.one()
    assert attributes(span)["rpc.grpc.status_code"] == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
    assert attributes(span)["rowcall.reason"] == "STILL_RUNNING"
    assert span.status.status_code is StatusCode.UNSET


async def test_a_fault_of_ours_is_an_error_without_its_message(
    gateways: Gateways, spans: Spans, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> bytes:
        raise LookupError("secret 4111-1111")

    monkeypatch.setattr(JobCalls, "typed", broken)
    probe = await gateways.probe(await gateways.start(tracer_provider=spans.provider))

    await refused(probe.Echo(EchoRequest(), timeout=20))

    span = await spans.one()
    assert attributes(span)["rpc.grpc.status_code"] == grpc.StatusCode.INTERNAL.value[0]
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "INTERNAL")
    assert "4111" not in span.to_json()


async def test_a_cancelled_calls_span_ends(gateways: Gateways, spans: Spans, cluster: Cluster) -> None:
    probe = await gateways.probe(await gateways.start(tracer_provider=spans.provider))

    call = probe.Echo(EchoRequest(), timeout=20)
    await until(lambda: len(jobs(cluster, "name")) == 1)
    call.cancel()

    span = await spans.one()
    assert attributes(span)["rpc.grpc.status_code"] == grpc.StatusCode.CANCELLED.value[0]
    assert "4111" not in span.to_json()


async def test_health_checks_have_neither_span_nor_line(gateways: Gateways, spans: Spans) -> None:
    gateway = await gateways.start(tracer_provider=spans.provider)
    health: Any = health_pb2_grpc.HealthStub(await gateways.channel(gateway))
    probe = await gateways.probe(gateway)

    with structlog.testing.capture_logs() as lines:
        await health.Check(health_pb2.HealthCheckRequest(), timeout=20)
        await probe.Run(RunRequest(), timeout=20, metadata=(NOW,))

    assert (await spans.one()).name == f"/{RUN}"
    assert [line["method"] for line in lines if line["event"] == "call"] == [RUN]


def request_lines(lines: list[MutableMapping[str, Any]]) -> list[MutableMapping[str, Any]]:
    return [line for line in lines if line["event"] == "call"]


async def test_every_call_has_one_line(gateways: Gateways) -> None:
    gateway = await gateways.start()
    probe = await gateways.probe(gateway)
    operations = operations_pb2_grpc.OperationsStub(await gateways.channel(gateway))

    with structlog.testing.capture_logs() as captured:
        operation = await probe.Run(
            RunRequest(payload=b"4111-1111"), timeout=20, metadata=tenant("acme", PARENT, *keyed("k", NOW))
        )
        await operations.GetOperation(GetOperationRequest(name=operation.name), timeout=20, metadata=tenant("acme"))
        await refused(probe.Echo(EchoRequest(), timeout=20, metadata=(NOW,)))
        await refused(probe.Echo(EchoRequest(), timeout=20, metadata=(("rowcall-x", "y"),)))

    run, get, echo, bad = request_lines(captured)
    assert 0 < run.pop("duration_ms") < 20_000
    assert run == {
        "event": "call",
        "log_level": "info",
        "method": RUN,
        "code": "OK",
        "reason": None,
        "exception": None,
        "tenant": "acme",
        "actor": None,
        "credential": None,
        "request_id": "k",
        "trace_id": TRACE,
        "job": operation.name,
    }
    assert (get["method"], get["job"]) == ("google.longrunning.Operations/GetOperation", operation.name)
    assert (echo["code"], echo["reason"], echo["tenant"]) == ("DEADLINE_EXCEEDED", "STILL_RUNNING", "default")
    assert echo["job"].startswith("tenants/default/operations/")
    assert (bad["code"], bad["reason"], bad["tenant"]) == ("INVALID_ARGUMENT", "UNKNOWN_METADATA", None)
    assert "4111" not in repr(captured)


async def test_a_cancelled_call_has_a_line(gateways: Gateways, cluster: Cluster) -> None:
    channel = await gateways.channel(await gateways.start())
    # Called in the one way in which Python's client tells of headers before the answer.
    echo: Callable[..., grpc.aio.UnaryStreamCall[bytes, bytes]] = channel.unary_stream(f"/{ECHO}")

    with structlog.testing.capture_logs() as captured:
        call = echo(b"", timeout=20)
        name = dict(await call.initial_metadata())["rowcall-operation"]
        call.cancel()
        await until(lambda: len(request_lines(captured)) == 1)

    (line,) = request_lines(captured)
    assert (line["code"], line["job"]) == ("CANCELLED", name)


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"OTEL_SERVICE_NAME": "x"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x:4317", "OTEL_SDK_DISABLED": "true"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x:4317", "OTEL_TRACES_EXPORTER": "none"},
    ],
)
def test_there_are_no_spans_unless_they_are_asked_for(environment: dict[str, str]) -> None:
    assert provider_from_environment(environment) is None


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER"),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, "OTEL_EXPORTER_OTLP_PROTOCOL"),
        ({"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/json"}, "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"),
    ],
)
def test_what_this_process_cannot_export_is_refused(environment: dict[str, str], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        provider_from_environment({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x:4317", **environment})
