"""Bounds over four gateways, one of which is killed, while nobody hears of the catalogue: as many come in as may, and no more.

The stated error is one second's share of each gateway that comes or goes, beside the second's worth that may come at once (docs/admission.md).
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest

from rowcall.probe.v1 import probe_pb2_grpc
from rowcall.probe.v1.probe_pb2 import EchoRequest, RunRequest
from rowcall.v1.admission_service_pb2 import Bound, BoundTarget, SetBoundRequest
from rowcall.v1.admission_service_pb2_grpc import AdmissionServiceStub
from tests.fix_cluster import Cluster
from tests.fix_gateway import info_of, jobs, tenant
from tests.fix_services import Services
from tests.support.proxy import Proxy, address_of
from tests.support.scale import scaled, tell
from tests.support.waiting import until

GATEWAYS = 4
RATE = 40
"""Jobs a second that are let in of acme, by all gateways together."""
ASKED = 25
"""Calls a second that come to each."""
PLACES = 20
"""Calls in flight of bolt, likewise."""
SETTLED = 5.0
"""Seconds in which every gateway has heard of the others, or that one is gone (three), and has told of what it is asked (one)."""
WINDOW = scaled(4.0, 20.0)
AWAY = scaled(8.0, 60.0)
"""Seconds for which the catalogue is away."""
SECONDS = 1.0
"""For which more may come at once than is let in in that time: a second's worth that has gathered."""


class Load:
    """Calls at a steady rate through some gateways, whatever becomes of them."""

    def __init__(self) -> None:
        self.came: list[float] = []
        """When calls were let in."""
        self.refused: list[float] = []
        """When calls were not."""
        self.refused_since = 0
        """How many were refused since one was let in."""
        self.other: Counter[str] = Counter()

    async def at(self, stub: probe_pb2_grpc.ProbeServiceAsyncStub) -> None:
        """Calls one gateway until it is cancelled."""
        async with asyncio.TaskGroup() as calls:
            while True:
                calls.create_task(self._call(stub))
                await asyncio.sleep(1 / ASKED)

    def between(self, begin: float, end: float) -> int:
        """How many were let in then."""
        return sum(begin <= at < end for at in self.came)

    def answered(self, begin: float, end: float) -> int:
        """How many were let in or refused then."""
        return self.between(begin, end) + sum(begin <= at < end for at in self.refused)

    async def _call(self, stub: probe_pb2_grpc.ProbeServiceAsyncStub) -> None:
        try:
            await stub.Run(RunRequest(payload=b"p"), timeout=10, metadata=tenant("acme", ("prefer", "wait=0")))
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED and info_of(error).reason == "NOT_ADMITTED":
                self.refused.append(time.monotonic())
                self.refused_since += 1
            else:
                self.other[error.code().name] += 1
        else:
            self.came.append(time.monotonic())
            self.refused_since = 0


class Waiting:
    """Calls of bolt that wait for jobs that nobody runs: those that are not refused are in flight."""

    def __init__(self) -> None:
        self.calls: list[asyncio.Task[object]] = []

    def call(self, stub: probe_pb2_grpc.ProbeServiceAsyncStub, count: int) -> None:
        async def one() -> object:
            return await stub.Echo(EchoRequest(payload=b"p"), timeout=600, metadata=tenant("bolt"))

        self.calls += [asyncio.get_running_loop().create_task(one()) for _ in range(count)]

    def in_flight(self) -> int:
        return sum(not call.done() for call in self.calls)

    def answered(self, cluster: Cluster) -> bool:
        """Whether each has been refused, those in line too, or is a job; the killed gateway's are jobs."""
        mine = [who for (who,) in jobs(cluster, "tenant") if who == "bolt"]
        return len(mine) == self.in_flight() + self.reasons()["UNAVAILABLE"]

    def reasons(self) -> Counter[str]:
        """Why those ended that did."""
        found: Counter[str] = Counter()
        for call in self.calls:
            error = call.exception() if call.done() and not call.cancelled() else None
            if isinstance(error, grpc.aio.AioRpcError):
                info = info_of(error) if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED else None
                found[error.code().name if info is None else info.reason] += 1
        return found

    async def end(self) -> None:
        for call in self.calls:
            call.cancel()
        await asyncio.gather(*self.calls, return_exceptions=True)


@asynccontextmanager
async def channels(addresses: Sequence[str]) -> AsyncIterator[list[grpc.aio.Channel]]:
    made = [grpc.aio.insecure_channel(each, options=(("grpc.use_local_subchannel_pool", 1),)) for each in addresses]
    try:
        yield made
    finally:
        await asyncio.gather(*(each.close() for each in made))


@asynccontextmanager
async def running(work: Coroutine[Any, Any, None]) -> AsyncIterator[asyncio.Task[None]]:
    """Work that is ended with the block."""
    task = asyncio.get_running_loop().create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait({task})


@pytest.mark.timeout(scaled(180, 400))
async def test_a_bound_holds_over_four_gateways_with_one_killed_and_the_catalogue_away(
    cluster: Cluster, services: Services
) -> None:
    catalogue = cluster.gateway.variables["ROWCALL_CATALOGUE"]
    with Proxy(*address_of(catalogue)) as proxy:
        variables = {
            "ROWCALL_CATALOGUE": proxy.through(catalogue),
            "ROWCALL_LOG_LEVEL": "warning",
            "ROWCALL_MAX_CALL_WAIT": "30m",
        }
        gateways = [services.start("rowcall-gateway", "--listen", "127.0.0.1:0", **variables) for _ in range(GATEWAYS)]
        addresses = await asyncio.gather(*(asyncio.to_thread(gateway.address) for gateway in gateways))
        async with channels(addresses) as opened, AsyncExitStack() as calling:
            stubs: list[probe_pb2_grpc.ProbeServiceAsyncStub] = [
                probe_pb2_grpc.ProbeServiceStub(each) for each in opened
            ]
            admission = AdmissionServiceStub(opened[0])
            for name, bound in (("acme", Bound(rate=RATE)), ("bolt", Bound(in_flight=PLACES))):
                bound.target.CopyFrom(BoundTarget(tenant=f"tenants/{name}"))
                await admission.SetBound(SetBoundRequest(bound=bound), timeout=30)
            load, waiting = Load(), Waiting()
            calling.push_async_callback(waiting.end)
            tasks = [await calling.enter_async_context(running(load.at(stub))) for stub in stubs]
            await asyncio.sleep(SETTLED)

            begun = time.monotonic()
            await asyncio.sleep(WINDOW)
            _judge(load, begun, "four gateways")

            for stub in stubs:
                waiting.call(stub, PLACES)
            await until(lambda: waiting.answered(cluster), every=0.1)
            assert PLACES / 2 <= waiting.in_flight() <= PLACES, (waiting.in_flight(), waiting.reasons())

            proxy.hold()
            away = time.monotonic()
            gateways[-1].kill()
            tasks.pop().cancel()
            await asyncio.sleep(SETTLED)
            begun = time.monotonic()
            await asyncio.sleep(max(AWAY - SETTLED, WINDOW))
            _judge(load, begun, "three gateways, without the catalogue")
            # All of it, with the time in which one was gone and nobody knew.
            came, seconds = load.between(away, time.monotonic()), time.monotonic() - away
            assert came <= RATE * (seconds + 2 * SECONDS), (came, seconds)

            for stub in stubs[:-1]:
                waiting.call(stub, PLACES)
            await until(lambda: waiting.answered(cluster), every=0.1)
            # What was the fourth's is the others'. All three are asked for more at one moment: each may take what it hears is free.
            tell(f"three gateways: {waiting.in_flight()} calls in flight, of a bound of {PLACES}")
            assert PLACES / 2 <= waiting.in_flight() <= PLACES * 3 / 2, (waiting.in_flight(), waiting.reasons())

            proxy.release()
            again = Bound(target=BoundTarget(tenant="tenants/acme"), rate=0)

            async def is_set() -> bool:
                try:
                    await admission.SetBound(SetBoundRequest(bound=again), timeout=60)
                except grpc.aio.AioRpcError as error:
                    # A try that has hung since it was away may end just now.
                    if info_of(error).reason != "CATALOGUE_UNAVAILABLE":
                        raise
                    return False
                return True

            await until(is_set, every=0.3)
            # What is set when it is back holds at once: for all that comes in a second.
            await until(lambda: load.refused_since >= ASKED * len(tasks))
            reasons = waiting.reasons()
    assert not load.other.keys() - {"UNAVAILABLE", "CANCELLED"}, load.other
    assert load.refused
    # Those of the one that was killed hear of that.
    assert reasons.keys() <= {"NOT_ADMITTED", "UNAVAILABLE"}, reasons


def _judge(load: Load, begun: float, what: str) -> None:
    seconds = time.monotonic() - begun
    came = load.between(begun, begun + seconds)
    tell(f"{what}: {came / seconds:.1f} jobs a second let in for {seconds:.0f} s, of a bound of {RATE}")
    assert came <= RATE * (seconds + SECONDS), (what, came, seconds)
    # A machine may be too busy for as many calls as may come in.
    asked = load.answered(begun, begun + seconds)
    assert came >= min(RATE * seconds, asked) / 2, (what, came, asked, seconds)
