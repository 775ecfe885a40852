"""Calls per second beside a bare grpc.aio echo in the same run: `make bench`. Prints figures; judges nothing.

Everything of ours is on: validation, capability functions, keys, leases, request log, durable commits on disk. Gateway and
worker are processes of their own, the echo server too; the load is this process. Each is measured in turn, three times.
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TypeAlias

import grpc
import pytest

from rowcall.probe.v1 import probe_pb2, probe_pb2_grpc
from tests.fix_cluster import durable_cluster
from tests.fix_services import Services

ROUNDS = 3
SECONDS = 4.0
PAYLOAD = bytes(200)

ECHO_SERVER = """
import asyncio

import grpc
import uvloop

from rowcall.probe.v1 import probe_pb2, probe_pb2_grpc

class Echo(probe_pb2_grpc.ProbeServiceServicer):
    async def Echo(self, request, context):
        return probe_pb2.EchoResponse(payload=request.payload, worker="bare", attempt=1)

async def main():
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    probe_pb2_grpc.add_ProbeServiceServicer_to_server(Echo(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()

uvloop.run(main())
"""

Call: TypeAlias = "Callable[[probe_pb2_grpc.ProbeServiceAsyncStub], Awaitable[object]]"


async def echo(stub: probe_pb2_grpc.ProbeServiceAsyncStub) -> object:
    """A typed call, answered with the response."""
    return await stub.Echo(probe_pb2.EchoRequest(payload=PAYLOAD), metadata=[("rowcall-tenant", "bench")], timeout=30)


async def submit(stub: probe_pb2_grpc.ProbeServiceAsyncStub) -> object:
    """A call that is acknowledged with its operation when the row is durable."""
    return await stub.Run(
        probe_pb2.RunRequest(payload=PAYLOAD),
        metadata=[("rowcall-tenant", "bench"), ("prefer", "wait=0")],
        timeout=30,
    )


async def rate(address: str, call: Call, in_flight: int) -> tuple[float, float]:
    """Calls per second over some seconds, and the median time of a call in milliseconds."""
    times: list[float] = []
    async with grpc.aio.insecure_channel(address) as channel:
        stub = probe_pb2_grpc.ProbeServiceStub(channel)
        await asyncio.gather(*(call(stub) for _ in range(in_flight)))
        started = time.perf_counter()
        end = started + SECONDS

        async def caller() -> None:
            while (before := time.perf_counter()) < end:
                await call(stub)
                times.append(time.perf_counter() - before)

        await asyncio.gather(*(caller() for _ in range(in_flight)))
        elapsed = time.perf_counter() - started
    return len(times) / elapsed, statistics.median(times) * 1000


@contextmanager
def system() -> Iterator[tuple[str, str]]:
    """Gateway and worker on a durable Postgres on disk, a bare echo server beside them; their addresses."""
    with ExitStack() as stack:
        cluster = stack.enter_context(durable_cluster())
        services = Services(cluster, stack)
        gateway = services.gateway()
        worker = services.worker()
        bare = stack.enter_context(
            subprocess.Popen([sys.executable, "-c", ECHO_SERVER], stdout=subprocess.PIPE, text=True)
        )
        stack.callback(bare.kill)
        assert bare.stdout is not None
        worker.ready()
        yield gateway.address(), bare.stdout.readline().strip()


@pytest.mark.timeout(600)
async def test_calls_beside_a_bare_echo() -> None:
    rows: list[tuple[str, int, float, float, float, float]] = []
    with system() as (ours, bare):
        for name, call, in_flight in (("call", echo, 1), ("call", echo, 64), ("submit", submit, 64)):
            pairs = []
            for number in range(ROUNDS):
                print(f"  {name}, {in_flight} in flight: round {number + 1} of {ROUNDS}", flush=True)
                pairs.append((await rate(ours, call, in_flight), await rate(bare, echo, in_flight)))
            ratio = statistics.median(our_rate / bare_rate for (our_rate, _), (bare_rate, _) in pairs)
            our_rate, our_time = (statistics.median(ours_[i] for ours_, _ in pairs) for i in (0, 1))
            bare_rate, bare_time = (statistics.median(bare_[i] for _, bare_ in pairs) for i in (0, 1))
            rows.append((name, in_flight, our_rate, bare_rate, ratio, our_time / bare_time))
            print(
                f"{name:8}{in_flight:4} in flight: {our_rate:7.0f}/s (p50 {our_time:6.2f} ms)   "
                f"bare echo {bare_rate:7.0f}/s (p50 {bare_time:6.2f} ms)   ratio {ratio:.2f}",
                flush=True,
            )
    assert all(row[2] > 0 for row in rows)
