"""Outcome values in a servicer that is served directly, with the interceptors for it: the status that each means."""

from __future__ import annotations

from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from datetime import timedelta

import grpc
import grpc.aio
import pytest
from google.rpc.error_details_pb2 import ResourceInfo, RetryInfo

from rowcall.errors import status_of
from rowcall.probe.v1 import probe_pb2_grpc
from rowcall.probe.v1.probe_pb2 import EchoRequest, EchoResponse
from rowcall_worker import AsyncOutcomeInterceptor, Cancel, Fail, OutcomeInterceptor, Retry, Snooze
from rowcall_worker.probe import ProbeServicer
from rowcall_worker.serving.outcome_values import OutcomeValue

GONE = ResourceInfo(resource_name="page 7")


def say(request: EchoRequest) -> EchoResponse:
    """What the request asks to be raised, or its payload."""
    values: dict[bytes, OutcomeValue] = {
        b"snooze": Snooze(timedelta(minutes=5)),
        b"retry": Retry(message="Warming up."),
        b"cancel": Cancel("Nobody wants it."),
        b"fail": Fail(grpc.StatusCode.NOT_FOUND, "Gone.", [GONE]),
    }
    if request.payload in values:
        raise values[request.payload]
    return EchoResponse(payload=request.payload)


class InLoop(ProbeServicer):
    async def Echo(self, request: EchoRequest, context: object) -> EchoResponse:  # noqa: N802  the proto names it
        return say(request)


class InThread(ProbeServicer):
    def Echo(self, request: EchoRequest, context: object) -> EchoResponse:  # type: ignore[override]  # noqa: N802
        return say(request)


@pytest.fixture(params=["grpc.aio", "grpc.aio, def", "grpc"])
async def stub(request: pytest.FixtureRequest) -> AsyncIterator[probe_pb2_grpc.ProbeServiceAsyncStub]:
    async with AsyncExitStack() as stack:
        threads = stack.enter_context(ThreadPoolExecutor(2))
        if request.param == "grpc":
            plain = grpc.server(threads, interceptors=[OutcomeInterceptor()])
            probe_pb2_grpc.add_ProbeServiceServicer_to_server(InThread("w", allow_faults=False), plain)
            port = plain.add_insecure_port("127.0.0.1:0")
            plain.start()
            stack.callback(lambda: plain.stop(None).wait())
        else:
            server = grpc.aio.server(migration_thread_pool=threads, interceptors=[AsyncOutcomeInterceptor()])
            probe_pb2_grpc.add_ProbeServiceServicer_to_server(
                InLoop("w", allow_faults=False) if request.param == "grpc.aio" else InThread("w", allow_faults=False),
                server,
            )
            port = server.add_insecure_port("127.0.0.1:0")
            await server.start()
            stack.push_async_callback(server.stop, None)
        yield probe_pb2_grpc.ProbeServiceStub(
            await stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{port}"))
        )


@pytest.mark.parametrize(
    ("payload", "code", "message"),
    [
        (b"snooze", grpc.StatusCode.UNAVAILABLE, "the job asks to run again in 0:05:00"),
        (b"retry", grpc.StatusCode.UNAVAILABLE, "Warming up."),
        (b"cancel", grpc.StatusCode.CANCELLED, "Nobody wants it."),
        (b"fail", grpc.StatusCode.NOT_FOUND, "Gone."),
    ],
)
async def test_a_value_is_the_status_that_it_means(
    stub: probe_pb2_grpc.ProbeServiceAsyncStub, payload: bytes, code: grpc.StatusCode, message: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Echo(EchoRequest(payload=payload))
    assert (caught.value.code(), caught.value.details()) == (code, message)
    details = status_of(caught.value).details
    if payload == b"snooze":
        retry = RetryInfo()
        assert details[0].Unpack(retry)
        assert retry.retry_delay.ToTimedelta() == timedelta(minutes=5)
    if payload == b"fail":
        gone = ResourceInfo()
        assert details[0].Unpack(gone)
        assert gone == GONE


async def test_an_answer_passes(stub: probe_pb2_grpc.ProbeServiceAsyncStub) -> None:
    assert (await stub.Echo(EchoRequest(payload=b"fine"))).payload == b"fine"
