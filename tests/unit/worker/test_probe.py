"""The probe does as it is told, behind a plain server too."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc.code_pb2 import Code

from rowcall.probe.v1 import probe_pb2_grpc
from rowcall.probe.v1.probe_pb2 import AwaitRequest, EchoRequest, RunRequest, RunResponse
from rowcall_worker import response
from rowcall_worker.probe import ProbeServicer, hold_interpreter_lock


@pytest.fixture
async def probe() -> AsyncIterator[probe_pb2_grpc.ProbeServiceAsyncStub]:
    """The probe, served directly."""
    server = grpc.aio.server()
    probe_pb2_grpc.add_ProbeServiceServicer_to_server(ProbeServicer("direct"), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield probe_pb2_grpc.ProbeServiceStub(channel)
    await server.stop(None)


async def test_it_answers_directly(probe: probe_pb2_grpc.ProbeServiceAsyncStub) -> None:
    echoed = await probe.Echo(EchoRequest(payload=b"p"))
    assert (echoed.payload, echoed.worker, echoed.attempt) == (b"p", "direct", 1)
    ran = response(await probe.Run(RunRequest(payload=b"p", response_bytes=10)), RunResponse)
    assert (ran.payload, ran.attempt) == (bytes(10), 1)


async def test_it_sleeps_as_long_as_it_is_told(probe: probe_pb2_grpc.ProbeServiceAsyncStub) -> None:
    started = time.monotonic()
    await probe.Await(AwaitRequest(work=Duration(nanos=200_000_000)))
    assert time.monotonic() - started >= 0.2


async def test_it_fails_as_it_is_told(probe: probe_pb2_grpc.ProbeServiceAsyncStub) -> None:
    for attempts in (0, 1, 2):
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await probe.Await(AwaitRequest(fail_code=Code.DATA_LOSS, fail_attempts=attempts))
        assert failed.value.code() is grpc.StatusCode.DATA_LOSS


@pytest.mark.parametrize("seconds", [0.05, 0.5])
def test_being_busy_holds_the_interpreter_lock(seconds: float) -> None:
    beats: list[float] = []
    ended = threading.Event()

    def beat() -> None:
        while not ended.is_set():
            beats.append(time.perf_counter())
            ended.wait(0.001)

    other = threading.Thread(target=beat)
    other.start()
    while not beats:
        ended.wait(0.001)
    started = time.perf_counter()
    hold_interpreter_lock(seconds)
    took = time.perf_counter() - started
    ended.set()
    other.join()
    # On a busy machine somebody else may have the processor for a while.
    assert 0.9 * seconds < took < seconds + 2
    longest = max((later - earlier for earlier, later in itertools.pairwise(beats)), default=0.0)
    # No other thread ran meanwhile, but for one that was waiting when it began.
    assert max(longest, started + took - beats[-1]) > 0.8 * seconds
