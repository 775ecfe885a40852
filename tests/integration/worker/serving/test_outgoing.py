"""Whom a handler calls goes on in the handler's trace: what another server is sent, and what an exporter receives of the call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import grpc
import grpc.aio
import pytest
from google.longrunning.operations_pb2 import Operation
from opentelemetry.trace import SpanKind, StatusCode

from rowcall import context as call_context
from rowcall.probe.v1.probe_pb2 import AwaitRequest, AwaitResponse, EchoRequest, EchoResponse, RunRequest
from rowcall.probe.v1.probe_pb2_grpc import ProbeServiceServicer, ProbeServiceStub, add_ProbeServiceServicer_to_server
from rowcall.tracing import TraceContext
from rowcall_worker import telemetry
from rowcall_worker.serving.context import AsyncJobContext
from tests.fix_spans import Told, attributes, id_of, parent_of, trace_of
from tests.fix_worker import Call, Calls, Workers, serve

TRACE = "0af7651916cd43dd8448eb211c80319c"
ASKED = Call(traceparent=f"00-{TRACE}-b7ad6b7169203331-01")
ECHO = "/rowcall.probe.v1.ProbeService/Echo"


class Other(ProbeServiceServicer):
    """Another service, on a port of its own: does as a payload says, and keeps where it was told to be."""

    def __init__(self) -> None:
        self.address = ""
        self.told: list[dict[str, Any]] = []
        self.come: asyncio.Queue[bytes] = asyncio.Queue()

    async def Await(self, request: AwaitRequest, context: Any) -> AwaitResponse:  # noqa: N802  the proto names it
        raise NotImplementedError

    async def Run(self, request: RunRequest, context: Any) -> Operation:  # noqa: N802  the proto names it
        raise NotImplementedError

    async def Echo(self, request: EchoRequest, context: Any) -> EchoResponse:  # noqa: N802  the proto names it
        self.come.put_nowait(request.payload)
        self.told.append(dict(context.invocation_metadata()))
        if request.payload == b"fail":
            await context.abort(grpc.StatusCode.NOT_FOUND, "there is none")
        if request.payload == b"hang":
            await asyncio.sleep(60)
        return EchoResponse()


@pytest.fixture
async def other() -> AsyncIterator[Other]:
    server, made = grpc.aio.server(), Other()
    add_ProbeServiceServicer_to_server(made, server)
    made.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    yield made
    await server.stop(None)


async def test_headers_name_the_attempt_and_the_vendors_part(calls: Calls, workers: Workers, other: Other) -> None:
    async def handle(request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
        async with grpc.aio.insecure_channel(other.address) as channel:
            metadata = tuple((await asyncio.to_thread(telemetry.trace_headers)).items())
            await ProbeServiceStub(channel).Echo(EchoRequest(), metadata=metadata)
        return EchoResponse()

    await workers.start(serve(echo=handle))
    row = await calls.done(await calls.submit("Echo", EchoRequest(), call=ASKED))

    [told] = other.told
    assert told["traceparent"] == f"00-{TRACE}-{row.span_id}-01"
    assert telemetry.trace_headers() == {}
    trace = TraceContext(f"00-{TRACE}-b7ad6b7169203331-00", "a=1")
    with call_context.bind(call_context.CallContext("acme", None, None, trace)):
        assert telemetry.trace_headers() == {"traceparent": trace.traceparent, "tracestate": "a=1"}


async def test_a_channels_calls_are_told_below_the_attempt_however_they_end(
    calls: Calls, workers: Workers, told: Told, other: Other
) -> None:
    async def handle(request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
        interceptors = telemetry.client_interceptors()
        async with grpc.aio.insecure_channel(other.address, interceptors=interceptors) as channel:
            probe = ProbeServiceStub(channel)
            await probe.Echo(EchoRequest(payload=b"fine"))
            with pytest.raises(grpc.aio.AioRpcError):
                await probe.Echo(EchoRequest(payload=b"fail"))
            hangs = asyncio.ensure_future(_called(probe, b"hang"))
            while await other.come.get() != b"hang":
                pass
            hangs.cancel()
            await asyncio.wait([hangs])
        return EchoResponse()

    await workers.start(serve(echo=handle), spans=told.spans, sampling=told.sampling)
    await calls.done(await calls.submit("Echo", EchoRequest(), call=ASKED))

    attempt = await told.one("process probe")
    fine, failed, cancelled = await told.some(3, ECHO)
    for span, sent in zip((fine, failed, cancelled), other.told, strict=True):
        assert (trace_of(span), parent_of(span), span.kind) == (TRACE, id_of(attempt), SpanKind.CLIENT)
        assert sent["traceparent"] == f"00-{TRACE}-{id_of(span)}-01"
        assert len(span.events) <= 1
    codes = [attributes(span)["rpc.grpc.status_code"] for span in (fine, failed, cancelled)]
    assert codes == [
        code.value[0] for code in (grpc.StatusCode.OK, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.CANCELLED)
    ]
    statuses = [span.status.status_code for span in (failed, cancelled)]
    assert statuses == [StatusCode.ERROR, StatusCode.ERROR]


async def test_where_nobody_wants_spans_they_send_the_trace_along_all_the_same(
    calls: Calls, workers: Workers, other: Other
) -> None:
    async def handle(request: EchoRequest, context: AsyncJobContext) -> EchoResponse:
        interceptors = telemetry.client_interceptors()
        async with grpc.aio.insecure_channel(other.address, interceptors=interceptors) as channel:
            await ProbeServiceStub(channel).Echo(EchoRequest())
        return EchoResponse()

    await workers.start(serve(echo=handle))
    row = await calls.done(await calls.submit("Echo", EchoRequest(), call=ASKED))

    [sent] = other.told
    assert sent["traceparent"] == f"00-{TRACE}-{row.span_id}-01"


async def _called(probe: ProbeServiceStub, payload: bytes) -> EchoResponse:
    return cast("EchoResponse", await cast("Any", probe).Echo(EchoRequest(payload=payload)))
