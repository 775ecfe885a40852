"""What is told of a call besides its answer: its spans, as an exporter receives them, the request line, the position in the trace."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import grpc
import psycopg
import pytest
import structlog
from google.longrunning import operations_pb2_grpc
from google.longrunning.operations_pb2 import GetOperationRequest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from opentelemetry.trace import SpanKind, StatusCode

from rowcall.probe.v1.probe_pb2 import EchoRequest, RunRequest
from rowcall.telemetry.sampling import Sampling
from rowcall.v1 import job_service_pb2_grpc
from rowcall.v1.job_service_pb2 import BatchSubmitRequest, JobSpec
from rowcall_gateway.calls.job_calls import JobCalls
from rowcall_gateway.edge.telemetry import Traces
from tests.fix_cluster import Cluster
from tests.fix_gateway import Gateways, info_of, jobs, keyed, refused, tenant
from tests.fix_spans import Told, attributes, id_of, parent_of, trace_of
from tests.support.waiting import until

ECHO = "rowcall.probe.v1.ProbeService/Echo"
RUN = "rowcall.probe.v1.ProbeService/Run"
NOW = ("prefer", "wait=0")
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER = "00f067aa0ba902b7"
PARENT = ("traceparent", f"00-{TRACE}-{CALLER}-01")
"""Of a caller that records its trace."""
QUIET = ("traceparent", f"00-{TRACE}-{CALLER}-00")
"""Of one that does not."""


def traceparents(cluster: Cluster) -> list[str]:
    found: list[str] = []
    for dsn in cluster.shards.values():
        with psycopg.connect(dsn) as connection:
            rows = connection.execute(
                "select rowcall.traceparent(trace_id, parent_span_id, trace_flags) from rowcall.job"
            ).fetchall()
            found += [row[0] for row in rows]
    return found


async def test_a_calls_span_has_one_of_its_submission_below_it_which_is_the_rows_parent(
    gateways: Gateways, told: Told, cluster: Cluster
) -> None:
    probe = await gateways.probe(await gateways.start(traces=told.traces))

    operation = await probe.Run(RunRequest(), timeout=20, metadata=tenant("acme", *keyed("k", NOW), PARENT))

    spans = await told.some(2)
    call, send = sorted(spans, key=lambda span: span.kind is SpanKind.PRODUCER)
    assert (call.name, call.kind, parent_of(call)) == (RUN, SpanKind.SERVER, CALLER)
    assert attributes(call) == {
        "rpc.system.name": "grpc",
        "rpc.method": RUN,
        "rpc.response.status_code": "OK",
        "rowcall.tenant": "acme",
        "rowcall.request_id": "k",
        "rowcall.operation": operation.name,
    }
    assert (send.name, send.kind, parent_of(send)) == ("send probe", SpanKind.PRODUCER, id_of(call))
    assert attributes(send) == {
        "messaging.system": "rowcall",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.destination.name": "probe",
        "messaging.message.id": operation.name.rpartition("/")[2],
        "rowcall.tenant": "acme",
        "rowcall.operation": operation.name,
        "rowcall.method": RUN,
        "rowcall.shard": attributes(send)["rowcall.shard"],
        "rowcall.outcome": "created",
    }
    assert {trace_of(span) for span in spans} == {TRACE}
    assert {span.status.status_code for span in spans} == {StatusCode.UNSET}
    assert call.start_time is not None
    assert send.start_time is not None
    assert send.end_time is not None
    assert call.end_time is not None
    assert call.start_time <= send.start_time <= send.end_time <= call.end_time
    assert traceparents(cluster) == [f"00-{TRACE}-{id_of(send)}-01"]


async def test_a_call_that_joins_a_job_says_so(gateways: Gateways, told: Told) -> None:
    probe = await gateways.probe(await gateways.start(traces=told.traces))
    metadata = tenant("acme", *keyed("k", NOW), PARENT)
    await probe.Run(RunRequest(), timeout=20, metadata=metadata)

    await probe.Run(RunRequest(), timeout=20, metadata=metadata)

    sends = await told.some(2, "send probe")
    assert [attributes(send)["rowcall.outcome"] for send in sends] == ["created", "joined"]


async def test_the_jobs_of_a_batch_are_one_spans(gateways: Gateways, told: Told, cluster: Cluster) -> None:
    gateway = await gateways.start(traces=told.traces)
    service = job_service_pb2_grpc.JobServiceStub(await gateways.channel(gateway))
    specs = [JobSpec(method=RUN) for _ in range(2)]
    for spec in specs:
        spec.request.Pack(RunRequest())

    await service.BatchSubmit(BatchSubmitRequest(jobs=specs), timeout=20, metadata=tenant("acme", PARENT))

    send = await told.one("send probe")
    assert attributes(send)["messaging.batch.message_count"] == 2
    assert traceparents(cluster) == [f"00-{TRACE}-{id_of(send)}-01"] * 2


async def test_a_call_whose_trace_is_not_recorded_is_not_told_and_its_row_says_so(
    gateways: Gateways, told: Told, cluster: Cluster
) -> None:
    probe = await gateways.probe(await gateways.start(traces=told.traces))

    await probe.Run(RunRequest(), timeout=20, metadata=(NOW, QUIET))
    await probe.Run(RunRequest(), timeout=20, metadata=(NOW, PARENT))

    await told.some(2)
    assert sorted(parent[-2:] for parent in traceparents(cluster)) == ["00", "01"]


async def test_callers_that_always_ask_are_recorded_so_often_and_no_more(
    gateways: Gateways, told: Told, cluster: Cluster
) -> None:
    told.traces = Traces(told.spans, Sampling(0, asked=1, now=lambda: 0.0))
    probe = await gateways.probe(await gateways.start(traces=told.traces))

    for number in range(5):
        asked = ("traceparent", f"00-{number + 1:032x}-{CALLER}-01")
        await probe.Run(RunRequest(), timeout=20, metadata=(NOW, asked))

    assert trace_of((await told.some(2))[0]) == f"{1:032x}"
    assert sorted(parent[-2:] for parent in traceparents(cluster)) == ["00"] * 4 + ["01"]


async def test_without_a_parent_the_spans_trace_is_the_calls(gateways: Gateways, told: Told) -> None:
    told.traces = Traces(told.spans, Sampling(1))
    probe = await gateways.probe(await gateways.start(traces=told.traces))

    error = await refused(probe.Echo(EchoRequest(), timeout=20, metadata=(NOW,)))

    call = await told.one(ECHO)
    assert parent_of(call) is None
    assert info_of(error).metadata["trace_id"] == trace_of(call)


async def test_a_refused_calls_span_has_its_code_and_its_reason_once(gateways: Gateways, told: Told) -> None:
    probe = await gateways.probe(await gateways.start(traces=told.traces))

    await refused(probe.Echo(EchoRequest(), timeout=20, metadata=(PARENT, ("rowcall-x", "y"))))

    span = await told.one()
    assert attributes(span)["rpc.response.status_code"] == "INVALID_ARGUMENT"
    assert attributes(span)["rowcall.reason"] == "UNKNOWN_METADATA"
    # The caller's fault is not the server's error.
    assert span.status.status_code is StatusCode.UNSET
    assert "error.type" not in attributes(span)
    assert span.events == ()


async def test_a_method_that_there_is_not_is_told_without_its_name(gateways: Gateways, told: Told) -> None:
    channel = await gateways.channel(await gateways.start(traces=told.traces))

    do: Callable[..., Awaitable[bytes]] = channel.unary_unary("/secret.v1.Thing/Do")

    await refused(do(b"", timeout=20, metadata=(PARENT,)))

    span = await told.one()
    assert (span.name, attributes(span)["rpc.method"]) == ("grpc", "_OTHER")
    assert (attributes(span)["rpc.response.status_code"], attributes(span)["error.type"]) == ("UNIMPLEMENTED",) * 2
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "UNKNOWN_METHOD")


async def test_a_call_whose_job_goes_on_is_no_error(gateways: Gateways, told: Told) -> None:
    probe = await gateways.probe(await gateways.start(traces=told.traces))

    await refused(probe.Echo(EchoRequest(), timeout=20, metadata=(NOW, PARENT)))

    call, _ = sorted(await told.some(2), key=lambda span: span.kind is SpanKind.PRODUCER)
    assert attributes(call)["rpc.response.status_code"] == "DEADLINE_EXCEEDED"
    assert attributes(call)["rowcall.reason"] == "STILL_RUNNING"
    assert call.status.status_code is StatusCode.UNSET


async def test_a_fault_of_ours_is_told_whatever_is_sampled_once_and_without_its_message(
    gateways: Gateways, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> bytes:
        raise LookupError("secret 4111-1111")

    monkeypatch.setattr(JobCalls, "typed", broken)
    probe = await gateways.probe(await gateways.start(traces=told.traces))

    await refused(probe.Echo(EchoRequest(), timeout=20, metadata=(QUIET,)))

    span = await told.one()
    assert attributes(span)["rpc.response.status_code"] == "INTERNAL"
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "INTERNAL")
    assert span.events == ()
    assert "4111" not in span.to_json()


async def test_a_submission_that_failed_is_told_as_such(gateways: Gateways, told: Told, cluster: Cluster) -> None:
    gateway = await gateways.start(traces=told.traces, images=[])
    probe = await gateways.probe(gateway)
    for dsn in cluster.shards.values():
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("alter table rowcall.job rename to job_away")

    error = await refused(probe.Run(RunRequest(), timeout=20, metadata=(NOW, QUIET)))

    call, send = sorted(await told.some(2), key=lambda span: span.kind is SpanKind.PRODUCER)
    assert attributes(call)["rpc.response.status_code"] == error.code().name
    assert send.status.status_code is StatusCode.ERROR
    assert attributes(send)["error.type"] == send.status.description == info_of(error).reason


async def test_a_cancelled_calls_span_ends(gateways: Gateways, told: Told, cluster: Cluster) -> None:
    probe = await gateways.probe(await gateways.start(traces=told.traces))

    call = probe.Echo(EchoRequest(), timeout=20, metadata=(PARENT,))
    await until(lambda: len(jobs(cluster, "name")) == 1)
    call.cancel()

    span = await told.one(ECHO)
    assert attributes(span)["rpc.response.status_code"] == "CANCELLED"
    assert span.status.status_code is StatusCode.UNSET


async def test_health_checks_have_neither_span_nor_line(gateways: Gateways, told: Told) -> None:
    gateway = await gateways.start(traces=told.traces)
    health: Any = health_pb2_grpc.HealthStub(await gateways.channel(gateway))
    probe = await gateways.probe(gateway)

    with structlog.testing.capture_logs() as lines:
        await health.Check(health_pb2.HealthCheckRequest(), timeout=20, metadata=(PARENT,))
        await probe.Run(RunRequest(), timeout=20, metadata=(NOW, PARENT))

    assert {span.name for span in await told.some(2)} == {RUN, "send probe"}
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
